//! Demonstration swarms on one machine: a tracker, an origin registry and real nodes.
//!
//! [`run`] makes an image, serves it from a small registry in this process, starts a tracker and nodes as processes of
//! their own, has them pull the image through their API, hashes what their mirrors serve, and says in a [`Report`]
//! who took which bytes from whom. Each node has an address of its own: a loopback address, or a network namespace on
//! a switch without a way out, where links can be given a speed.
//!
//! It drives nodes as any user could, through configuration file, API and mirror, and never believes them: a digest
//! counts as right when the lab itself has hashed the bytes. It ends only processes that it started.
//!
//! Invariant: when [`run`] returns, nothing that it started or made is left but the files in a directory that the
//! caller named; what a killed run leaves is removed by the next one.
//!
//! Everything runs on the caller's tokio runtime, but for hashing, which has a thread per node: a thread is what can
//! stand in a network namespace.

mod claim;
mod config;
mod error;
pub mod image;
pub mod lasting;
mod links;
mod lock;
mod netns;
mod plan;
mod process;
mod pull;
pub mod registry;
mod report;
mod run;
mod stage;
mod table;
mod verify;

pub use config::{Delay, DelayError, LabConfig, MAX_NODES, Rate, RateError, Sources};
pub use error::LabError;
pub use plan::Role;
pub use report::{BlobReport, NodeReport, Report, Taken};
pub use run::{Event, IMAGE, Kept, REGISTRY_NAME, run};
