//! Why a blob came as fast, or as slowly, as it did.
//!
//! | call | answer |
//! |---|---|
//! | `GET /v1/traces?limit={n}` | list of [`Trace`], the latest first |
//! | `GET /v1/explain?reference={ref}` | [`Explanation`], or 404 where the node knows nothing of it |

use hash::Digest;
use serde::{Deserialize, Serialize};

use crate::{node::BlobStatus, text};

/// How one blob or manifest came to this node, and went to its clients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// The blob.
    #[serde(with = "text")]
    pub digest: Digest,
    /// Where it lives: a repository, or a URL without what it may carry of secrets.
    pub home: String,
    /// `blob`, `manifest`, `push` or `file`.
    pub what: String,
    /// Its length, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// When it was first asked for, in milliseconds since 1970.
    pub began_ms: u64,
    /// When it was whole, or had failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_ms: Option<u64>,
    /// Why it has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What was done, in the order of beginning. Spans may overlap.
    pub spans: Vec<Span>,
}

/// One thing that was done, or waited for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// What.
    pub kind: SpanKind,
    /// From when, in milliseconds since 1970.
    pub from_ms: u64,
    /// Until when; absent while it lasts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_ms: Option<u64>,
    /// Content bytes that it moved.
    #[serde(default)]
    pub bytes: u64,
    /// Whom it was about, or how it ended, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// The things that take time in the coming of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SpanKind {
    /// The registry, or the fleet, was asked what a tag points at.
    Tag,
    /// The directory was asked who has it.
    Directory,
    /// Another node held the lease.
    Lease,
    /// It came from peers.
    Swarm,
    /// It came from its origin.
    Origin,
    /// What had come was checked, and made durable.
    Verify,
    /// It was announced, and entered into the directory.
    Publish,
    /// It was sent to a client.
    Client,
}

/// How an image came here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// What was asked about.
    pub reference: String,
    /// Its manifest or index.
    #[serde(with = "text")]
    pub digest: Digest,
    /// Its parts that this node knows of, manifests first.
    pub parts: Vec<Part>,
}

/// A part of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// `index`, `manifest`, `config` or `layer`.
    pub what: String,
    /// The blob; with `state` partial and no bytes where nothing of it is here.
    pub blob: BlobStatus,
    /// How it came, where that is still known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<Trace>,
}
