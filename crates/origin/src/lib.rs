//! Reads content where it lives: OCI registries over HTTP(S), with tokens, ranges and retries.
//!
//! [`Origin`] asks registries for manifests, blobs and listings as the OCI distribution spec says. It gets tokens,
//! follows redirects, tries again where that helps, and takes up a broken blob at the byte it had reached.
//!
//! [`Origin::change`] passes a client's uploads and deletions through.
//!
//! [`Web`] reads files from listed web servers, passes requests on to them, and connects tunnels.
//!
//! It never pushes of its own accord, never stores, never hashes a blob (whoever takes the bytes does, once), and never
//! says a secret: secrets are [`Secret`]s, which neither `Debug` nor the logs show.
//!
//! Invariant: an `Authorization` header goes to the endpoint it was made for (scheme, host and port) and nowhere else;
//! a redirect never carries one to another place, and never leads from https to http. A registry that is not listed in
//! the configuration is asked at addresses of the public internet only, its redirects and token service included; a web
//! server that is not listed is not asked at all, and a redirect leads from a listed one into the public internet only.
//!
//! There are no threads or tasks of its own: all work happens in the caller's task, inside the future it polls, and
//! ends when that future is dropped. Every wait has a deadline, see [`Patience`]; a registry or web server that does not
//! answer at all is left alone for a while.

mod address;
mod blob;
mod breaker;
mod cache;
mod challenge;
mod change;
mod client;
mod config;
mod error;
mod home;
mod hosts;
mod listing;
mod login;
mod manifest;
mod reference;
mod rights;
mod secret;
mod tls;
mod web;

pub use blob::BlobBody;
pub use challenge::{Challenge, parse_challenges};
pub use change::{Change, ChangeAnswer, ChangeTarget};
pub use client::{Origin, reason};
pub use config::{
    Credentials, Endpoint, Freshness, OriginConfig, Patience, Upstream, UpstreamError, Upstreams, WhenDown,
};
pub use error::{OriginError, Place};
pub use home::Home;
pub use hosts::HostError;
pub use listing::{Listing, ListingAnswer};
pub use login::Login;
pub use manifest::{MANIFEST_LIMIT, Manifest, ManifestHead};
pub use reference::{DEFAULT_REGISTRY, Reference, ReferenceError, Repository, Target, is_registry};
pub use rights::Rights;
pub use secret::Secret;
pub use web::{
    Document, FileHead, PassedBody, PassedOn, Version, Web, WebConfig, WebConfigError, below,
    strip_connection,
};
