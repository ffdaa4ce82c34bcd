//! What Longshore's two HTTP APIs say, as types, and a client for each.
//!
//! [`directory`] is the content directory inside the tracker: which torrent carries a blob, and who
//! may fetch a blob from its origin. [`node`] is the API of the daemon on every host, with what it tells
//! as it happens ([`live`]), why a blob came as it did ([`trace`]) and ordinary [`torrents`]; [`lab`] is that of a
//! demonstration fleet. The servers (crates `tracker`, `node` and `lab`) and all callers share these types, so that
//! neither can drift.
//!
//! Never here: routing, storage, retries. A call is one request with a deadline, and its outcome is
//! an answer or a [`CallError`] that says which of the few things went wrong that a caller treats
//! differently.
//!
//! Invariant: no call outlives its deadline, and no answer is read past [`MAX_ANSWER`] bytes.
//!
//! Threads: the clients are cheap to clone and may be used from any tokio task.

pub mod directory;
mod directory_client;
mod error;
pub mod lab;
mod lab_client;
pub mod live;
pub mod node;
mod node_client;
mod outage;
mod platform;
mod ready;
mod text;
pub mod torrents;
pub mod trace;
mod transport;

pub use directory_client::DirectoryClient;
pub use error::{CallError, ClientError, ErrorBody};
pub use lab_client::LabClient;
pub use node_client::{Endpoint, NodeClient, PullStream, RecordStream};
pub use platform::{Platform, PlatformError, Platforms};
pub use ready::ready;
pub use transport::MAX_ANSWER;
