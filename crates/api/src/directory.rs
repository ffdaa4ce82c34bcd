//! The content directory: digest → torrent, tag → digest, and the lease to fetch from the origin.
//!
//! All under the tracker's address, JSON both ways, with `Authorization: Bearer …` where a token is set.
//!
//! | call | body | answer |
//! |---|---|---|
//! | `POST /directory/v1/blobs/{digest}/claim` | [`ClaimRequest`] | [`Claim`] |
//! | `GET /directory/v1/blobs/{digest}` | | [`Entry`], or 404 |
//! | `PUT /directory/v1/blobs/{digest}` | [`PublishRequest`] | [`Entry`] |
//! | `POST /directory/v1/blobs/{digest}/renew` | [`LeaseRequest`] | [`Renewal`] |
//! | `POST /directory/v1/blobs/{digest}/release` | [`LeaseRequest`] | 204, whether or not it was held |
//! | `POST /directory/v1/tags/claim` | [`TagClaimRequest`] | [`TagClaim`] |
//! | `PUT /directory/v1/tags` | [`TagRequest`] | [`Tag`] |
//! | `GET /directory/v1/tags?name=…` | | [`Tag`], or 404 |
//! | `GET /directory/v1/run` | | [`Run`] |
//!
//! A failure has a body of [`ErrorBody`](crate::ErrorBody).

use bytes::Bytes;
use hash::Digest;
use metainfo::InfoHash;
use serde::{Deserialize, Serialize};

use crate::text;

/// The largest info dictionary that may be published, in bytes: 8 MiB, enough for 160,000 pieces.
pub const MAX_INFO: usize = 8 * 1024 * 1024;

/// The largest body of a publication, in bytes: [`MAX_INFO`] and [`MAX_CONTENT`] as base64, and the rest.
pub const MAX_PUBLISH_BODY: usize = (MAX_INFO + MAX_CONTENT) / 3 * 4 + 16 * 1024;

/// The largest blob that is given along with its torrent, in bytes: manifests and configurations, mostly.
pub const MAX_CONTENT: usize = 16 * 1024;

/// The longest that a claim may wait, in milliseconds; more is taken as this.
pub const MAX_WAIT_MS: u64 = 30_000;

/// The longest node name, tag name, media type or lease id, in bytes.
pub const MAX_TEXT: usize = 512;

/// What tells a run of the tracker from the next: one that was started anew has lost its peers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Opaque, drawn at its start.
    pub run: String,
}

/// Asks for a blob's torrent or, where there is none, for the right to fetch the blob from its origin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimRequest {
    /// Who asks: the node's id. Whoever holds the lease and claims again is told the same lease.
    pub node: String,
    /// How long to wait for the torrent or the lease when another holds it, in milliseconds;
    /// at most [`MAX_WAIT_MS`].
    #[serde(default)]
    pub wait_ms: u64,
    /// The torrent is known and of no use: its swarm is dead. Asks for the lease all the same. Only what
    /// another publishes during the wait is answered with [`Claim::Known`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stale: bool,
}

/// The answer to a claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Claim {
    /// The torrent is there: join its swarm.
    Known(Entry),
    /// Nobody has it and the claimant now holds the lease: fetch, publish, and renew meanwhile.
    Leased(Lease),
    /// Another holds the lease, and still did at the end of the wait.
    Held {
        /// The holder's node id.
        by: String,
        /// What is left of the lease, in milliseconds, if it is not renewed.
        remaining_ms: u64,
    },
}

/// The right to fetch a blob from its origin, for a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Opaque; goes with renewals, the release and the publication.
    pub lease: String,
    /// How long it lasts from the answer, in milliseconds. Renew at a third of it.
    pub ttl_ms: u64,
}

/// A published blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The blob.
    #[serde(with = "text")]
    pub digest: Digest,
    /// The blob's length in bytes.
    pub size: u64,
    /// What the origin called it, when known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The info-hash of the blob's canonical torrent.
    #[serde(with = "text")]
    pub info_hash: InfoHash,
    /// The info dictionary, bencoded; base64 in JSON.
    #[serde(with = "text::base64")]
    pub info: Bytes,
    /// Whether anybody may have the blob: its registry gave it without asking who wants it. What is not public is
    /// given only to those to whom its registry would give it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub public: bool,
    /// All of the blob, where it has at most [`MAX_CONTENT`] bytes and its publisher gave it along; else empty.
    #[serde(default, skip_serializing_if = "Bytes::is_empty", with = "text::base64")]
    pub content: Bytes,
    /// Peers of the swarm that have everything, as this tracker sees it now; after a restart it has to
    /// learn it anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub complete: Option<u32>,
    /// All other peers of the swarm, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incomplete: Option<u32>,
}

/// Publishes a blob's torrent. Idempotent: the same torrent again is a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishRequest {
    /// The info dictionary of the blob's canonical torrent, bencoded; at most [`MAX_INFO`] bytes.
    #[serde(with = "text::base64")]
    pub info: Bytes,
    /// What the origin called the blob, when known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// Whether anybody may have the blob. Once said by one, it stays so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub public: bool,
    /// All of a small blob, at most [`MAX_CONTENT`] bytes; else empty.
    #[serde(default, skip_serializing_if = "Bytes::is_empty", with = "text::base64")]
    pub content: Bytes,
    /// The lease under which the blob was fetched, if there was one. A publication needs none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<String>,
}

/// Renews or releases a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRequest {
    /// The id given with the claim.
    pub lease: String,
    /// Who holds it.
    pub node: String,
}

/// The answer to a renewal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Renewal {
    /// The lease goes on. After a restart of the tracker it may be under another id than before.
    Leased(Lease),
    /// The torrent is published by now: the lease is over, and not needed.
    Known,
    /// Another holds it, since this one ran out. Fetching may go on: publishing needs no lease.
    Lost {
        /// The new holder's node id.
        by: String,
    },
}

/// Asks for the turn to resolve a tag at its origin, or for what another resolves meanwhile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagClaimRequest {
    /// `registry/repository:tag`.
    pub name: String,
    /// Who asks: the node's id.
    pub node: String,
    /// How long to wait for one that has the turn, in milliseconds; at most [`MAX_WAIT_MS`].
    #[serde(default)]
    pub wait_ms: u64,
}

/// The answer to a claim of a tag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum TagClaim {
    /// Another has resolved it since this call came.
    Known(Tag),
    /// The claimant has the turn: ask the origin, set the tag, and release the lease, which is one like a blob's, of
    /// [`turn_of`] the tag.
    Leased(Lease),
    /// Another had the turn, and has set nothing: ask the origin without one.
    Held,
}

/// Under which digest the turn to resolve `registry/repository:tag` is leased.
#[must_use]
pub fn turn_of(tag: &str) -> Digest {
    Digest::of(&[b"the turn to resolve ", tag.as_bytes()].concat())
}

/// What a tag pointed at when some node last resolved it at the origin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagRequest {
    /// `registry/repository:tag`.
    pub name: String,
    /// The manifest or index.
    #[serde(with = "text")]
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// Its length in bytes.
    pub size: u64,
}

/// A known tag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tag {
    /// What it points at.
    #[serde(flatten)]
    pub target: TagRequest,
    /// When it was last set, in seconds since 1970 by the tracker's clock.
    pub updated: u64,
    /// How long ago that is, in seconds by the tracker's clock: free of clock differences.
    #[serde(default)]
    pub age: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_says_its_state_in_one_flat_object() {
        let leased = Claim::Leased(Lease { lease: "x".into(), ttl_ms: 10_000 });
        let json = serde_json::to_value(&leased).expect("serialises");
        assert_eq!(json, serde_json::json!({"state": "leased", "lease": "x", "ttl_ms": 10_000}));
        let held: Claim =
            serde_json::from_str(r#"{"state":"held","by":"n","remaining_ms":5}"#).expect("parses");
        assert_eq!(held, Claim::Held { by: "n".into(), remaining_ms: 5 });
        let known = Claim::Known(Entry {
            digest: Digest::of(b"abc"),
            size: 3,
            media_type: None,
            info_hash: InfoHash::from_bytes([7; 20]),
            info: Bytes::from_static(b"de"),
            public: true,
            content: Bytes::from_static(b"abc"),
            complete: None,
            incomplete: Some(2),
        });
        let json = serde_json::to_string(&known).expect("serialises");
        assert!(json.contains(r#""info":"ZGU=""#) && json.contains(r#""content":"YWJj""#));
        assert!(json.contains(r#""digest":"sha256:ba78"#), "{json}");
        assert_eq!(serde_json::from_str::<Claim>(&json).expect("parses"), known);
    }

    #[test]
    fn a_digest_that_is_none_is_an_error_and_not_a_panic() {
        let body = r#"{"name":"r/x:1","digest":"sha256:zz","media_type":"m","size":1}"#;
        let error = serde_json::from_str::<TagRequest>(body).expect_err("malformed");
        assert!(error.to_string().contains("is not a digest"), "{error}");
        assert!(serde_json::from_str::<PublishRequest>(r#"{"info":"%%%"}"#).is_err());
    }
}
