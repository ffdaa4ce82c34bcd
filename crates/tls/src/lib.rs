//! TLS for our servers: a certificate and its key from files, or made here for a host of one's own.
//!
//! [`server`] reads files; [`own`] makes a certificate and the authority that clients are to trust. Whoever calls [`server`]
//! again has the files read anew.
//!
//! **Never:** a client's side (that is `origin`'s and `reqwest`'s), a socket, a word of a key in an error or a log.
//!
//! **The invariant:** what [`server`] gives is a certificate with its own key.
//!
//! **Threads:** everything runs on the caller's, and reads and writes files: it blocks.

mod files;
mod own;

pub use files::{PemError, TlsError, server};
pub use own::{Own, OwnError, own};
