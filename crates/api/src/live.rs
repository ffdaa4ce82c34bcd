//! What a node tells as it happens: the same records live, in a recording, and to the page.
//!
//! `GET /v1/events?topics={list}` answers server-sent events without end; the data of each is one [`Record`] as JSON,
//! and a comment comes every ten seconds where nothing else does. Topics are `status`, `torrents`, `links`, `blocks`,
//! `traces`, separated by commas; all of them where none is named.
//!
//! A reader that is slow gets fewer and larger records, and never a gap: each record is the difference between what is
//! and what this reader was told last. The first of each kind on a connection has `all` set and says everything;
//! of blocks and traces, what the node still knows comes first.
//!
//! A recording is a file of records, one JSON object a line. Its first record is a [`News::Hello`].

use metainfo::InfoHash;
use serde::{Deserialize, Serialize};

use crate::{
    lab::LabStatus,
    node::{Run, Source, Status, TorrentStatus},
    text,
    trace::Trace,
};

/// The version of the records' shape. A reader that does not know it says so and stops.
pub const FORMAT: u32 = 1;

/// A piece of news of one node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The node that it is about; `lab` for the lab itself.
    pub node: String,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// What.
    #[serde(flatten)]
    pub news: News,
}

/// What is new.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum News {
    /// First of all: what speaks here.
    Hello {
        /// The version of the records' shape: [`FORMAT`].
        format: u32,
        /// The program's version.
        version: String,
    },
    /// The node in short, when it has changed, once a second at most.
    Status {
        /// It.
        status: Status,
    },
    /// Torrents that are new or have changed, and those that are gone.
    Torrents {
        /// Nothing else is there.
        #[serde(default, skip_serializing_if = "is_false")]
        all: bool,
        /// New or changed.
        changed: Vec<TorrentStatus>,
        /// No longer there.
        #[serde(default, skip_serializing_if = "Vec::is_empty", with = "texts")]
        gone: Vec<InfoHash>,
    },
    /// Connections to peers that are new or have changed, and those that are gone.
    Links {
        /// Nothing else is there.
        #[serde(default, skip_serializing_if = "is_false")]
        all: bool,
        /// New or changed.
        changed: Vec<Link>,
        /// No longer there: their `peer_id`s.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        gone: Vec<String>,
    },
    /// Where blocks of a torrent have come from.
    Blocks(Blocks),
    /// A blob's coming has gone on, or has ended.
    Trace(Trace),
    /// The node cannot be reached. Only those tell it who tell of several nodes; of `lab` it means that this stream ends,
    /// since nothing was read of it for minutes.
    Lost {
        /// Why.
        error: String,
    },
    /// The lab, when something in it has changed.
    Lab(LabStatus),
}

/// A peer that the node is connected to, for all torrents together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Its id, 40 hex digits.
    pub peer_id: String,
    /// Its address, `host:port`.
    pub address: String,
    /// What program it says it is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub client: String,
    /// How many torrents it shares with us now.
    pub torrents: u32,
    /// Content bytes received from it over these connections.
    pub down_bytes: u64,
    /// Content bytes sent to it over these connections.
    pub up_bytes: u64,
    /// Received per second, now.
    pub down_rate: u64,
    /// Sent per second, now.
    pub up_rate: u64,
}

/// A stretch of a torrent's provenance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocks {
    /// The torrent.
    #[serde(with = "text")]
    pub info_hash: InfoHash,
    /// Its name: for a blob, the digest's hex digits.
    #[serde(default)]
    pub name: String,
    /// Its length.
    pub size: u64,
    /// Bytes per block, but for the last of a piece.
    pub block_length: u32,
    /// Bytes per piece, but for the last.
    pub piece_length: u32,
    /// The place of `sources[0]` in the list of all sources.
    pub first_source: u32,
    /// Sources from that place on, in place of those known before.
    pub sources: Vec<Source>,
    /// The place of `runs[0]` in the list of all runs.
    pub first_run: u32,
    /// Runs from that place on, in place of those known before. Where `first_run` is 0 the list begins anew.
    pub runs: Vec<Run>,
    /// The torrent is whole, and nothing comes after this.
    #[serde(default, skip_serializing_if = "is_false")]
    pub complete: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

/// Info-hashes as a list of texts.
mod texts {
    use metainfo::InfoHash;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(hashes: &[InfoHash], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(hashes.iter().map(ToString::to_string))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<InfoHash>, D::Error> {
        let texts = Vec::<String>::deserialize(from)?;
        texts.iter().map(|text| text.parse().map_err(serde::de::Error::custom)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_flat_and_comes_back_as_it_was() {
        let record = Record {
            node: "n1".into(),
            at_ms: 7,
            news: News::Hello { format: FORMAT, version: "0.1.0".into() },
        };
        let json = serde_json::to_value(&record).expect("serialises");
        let want =
            serde_json::json!({"node": "n1", "at_ms": 7, "kind": "hello", "format": 1, "version": "0.1.0"});
        assert_eq!(json, want);
        assert_eq!(serde_json::from_value::<Record>(json).expect("parses"), record);
        let gone = Record {
            node: "n1".into(),
            at_ms: 8,
            news: News::Torrents {
                all: false,
                changed: Vec::new(),
                gone: vec![InfoHash::from_bytes([7; 20])],
            },
        };
        let text = serde_json::to_string(&gone).expect("serialises");
        assert!(text.contains(&"07".repeat(20)) && !text.contains("all"), "{text}");
        assert_eq!(serde_json::from_str::<Record>(&text).expect("parses"), gone);
    }
}
