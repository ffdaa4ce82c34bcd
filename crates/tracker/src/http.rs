//! Announces and scrapes over HTTP, on threads of their own: a request is read in place ([`announce::http::head`]) and
//! answered by [`exchange`], both without I/O; [`worker`] has the sockets, [`secure`] those of HTTPS, on tasks. Requests
//! for anything else go to the API with their connection.

pub(crate) mod connection;
pub(crate) mod exchange;
mod frame;
pub(crate) mod idle;
pub(crate) mod line;
pub(crate) mod responder;
pub(crate) mod secure;
mod table;
pub(crate) mod wanted;
pub(crate) mod worker;
