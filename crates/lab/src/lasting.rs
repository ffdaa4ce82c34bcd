//! A lab that lasts: raised by one command, changed by others, and taken away by the last.
//!
//! [`supervise`] runs it, in a process of its own. It claims the directory of the lab's name, makes the network, starts
//! all hosts at once, and serves the lab's API ([`api::lab`]) on a unix socket in that directory and, with the page, on
//! a loopback address. [`find`] and [`running`] say which labs there are, and [`down`] ends one, also when its
//! supervisor was killed.

mod act;
mod contents;
mod dns;
mod events;
mod foreign;
mod host;
mod options;
mod recording;
mod remains;
mod server;
mod source;
mod state;
mod supervisor;
mod topology;
mod traffic;
mod web;

pub use crate::links::Link;
pub use options::{News, UpConfig};
pub use remains::{Down, Found, down, find, running};
pub use supervisor::supervise;
pub use topology::{Far, Foreign, Seed, Special, Topology, Zone};
