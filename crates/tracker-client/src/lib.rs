//! Asks trackers: one announce, to one tracker, over HTTP or UDP, and its answer.
//!
//! [`read_http_answer`] and [`read_udp_answer`] are the pure part of it. [`TrackerClient`] is what the engine announces with, and the tracker forwards with. When to ask whom again is for
//! them to decide.
//!
//! What it never does: wait longer than it was told, read an answer longer than a megabyte, send secrets of the URL
//! into an error's text.
//!
//! The invariant: an answer is taken only from the address that was asked, and for this very question. Everything
//! runs on the caller's task.

mod client;
mod error;
mod http;
mod location;
mod shown;
mod udp;

pub use client::{Question, TrackerClient};
pub use error::{SetupError, TrackerError};
pub use http::read_http_answer;
pub use location::Location;
pub use shown::shown;
pub use udp::{reach_udp, read_udp_answer};
