//! The registry mirror: the OCI distribution API over HTTP/1.1, for every runtime that can be pointed at a mirror.
//!
//! [`Mirror`] listens, finds out which registry and repository a request means, asks its [`Content`], and answers
//! in the way that makes each client do the best thing next: take the bytes, resume, or go to the upstream at once.
//! What the answers are and why is written at [`ContentError`].
//!
//! On the same port it answers below `/ostree/`, and clients that take it for their HTTP proxy.
//!
//! It knows HTTP, never peers, never disks; it decides nothing about which registries may be asked or by whom: that
//! is the content's affair.
//!
//! Invariant: a body is either whole, or visibly short. What a client takes for a whole answer has exactly the length
//! that was announced; when the rest cannot be had, the connection ends before that length, with FIN and not RST,
//! so that clients come back with a range.
//!
//! One task accepts, one task runs each connection; all on the caller's runtime. Every wait has a deadline, see
//! [`Limits`].

mod activity;
mod answer;
mod body;
mod connection;
mod content;
mod parts;
mod push;
mod range;
mod route;
mod server;
mod tunnel;
mod web;

pub use content::{
    Asker, BlobAnswer, BlobHead, BlobStream, Content, ContentError, Health, Located, ManifestAnswer,
    ManifestHeadAnswer, Passed, Push, PushBody, PushTarget, Pushed, PushedAt, WebRequest, WebTarget,
};
pub use origin::{Home, Listing, ListingAnswer, Repository, Secret, Target};
pub use range::{ByteRange, Span, parse_ranges};
pub use route::{Route, RouteError, Routed, parse_route};
pub use server::{Limits, Mirror, MirrorConfig, Tls};
