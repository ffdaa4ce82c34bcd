//! Announces and scrapes over HTTP, on threads of their own: [`head`] reads a request in place, [`exchange`] answers
//! it, both without I/O; [`worker`] has the sockets. Requests for anything else go to the API with their connection.

pub(crate) mod connection;
pub(crate) mod exchange;
pub mod head;
pub(crate) mod worker;
