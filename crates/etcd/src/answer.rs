//! What etcd answers, read from its JSON. Fields that are not known are passed over: newer members have more.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Deserializer, de::Error as _};

use crate::{
    error::{Error, refusal},
    watch::Event,
};

/// A key and its value.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct KeyValue {
    /// The key.
    #[serde(deserialize_with = "bytes")]
    pub key: Bytes,
    /// The value; of a key that was removed, none.
    #[serde(default, deserialize_with = "bytes")]
    pub value: Bytes,
    /// The revision of the store at which it was changed last.
    #[serde(default, deserialize_with = "number")]
    pub mod_revision: i64,
    /// The lease with which it ends; 0 for none.
    #[serde(default, deserialize_with = "number")]
    pub lease: i64,
}

/// What one read of a transaction found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Found {
    /// The keys, in order.
    #[serde(default, rename = "kvs")]
    pub keys: Vec<KeyValue>,
    /// How many there are, whatever was asked for.
    #[serde(default, deserialize_with = "number")]
    pub count: i64,
}

/// A transaction's outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The revision of the store, after it.
    pub revision: i64,
    /// Whether the comparisons held.
    pub succeeded: bool,
    /// What its reads and counts found, in their order.
    pub found: Vec<Found>,
}

#[derive(Deserialize)]
pub(crate) struct Header {
    #[serde(default, deserialize_with = "number")]
    pub(crate) revision: i64,
}

#[derive(Deserialize)]
pub(crate) struct TxnAnswer {
    header: Header,
    #[serde(default)]
    succeeded: bool,
    #[serde(default)]
    responses: Vec<OperationAnswer>,
}

#[derive(Deserialize)]
struct OperationAnswer {
    response_range: Option<Found>,
}

impl From<TxnAnswer> for Reply {
    fn from(answer: TxnAnswer) -> Self {
        let found = answer.responses.into_iter().filter_map(|operation| operation.response_range).collect();
        Self { revision: answer.header.revision, succeeded: answer.succeeded, found }
    }
}

/// Of a grant; and, in a stream's frame, of a renewal. Seconds, and none when the lease is not there.
#[derive(Deserialize)]
pub(crate) struct LeaseAnswer {
    #[serde(default, rename = "TTL", deserialize_with = "number")]
    pub(crate) ttl: i64,
}

/// A message of a stream: something, or what went wrong.
#[derive(Deserialize)]
pub(crate) struct Framed<T> {
    result: Option<T>,
    error: Option<StreamError>,
}

#[derive(Deserialize)]
struct StreamError {
    #[serde(default, alias = "code")]
    grpc_code: i64,
    #[serde(default)]
    message: String,
}

impl<T> Framed<T> {
    pub(crate) fn open(self, member: &str) -> Result<T, Error> {
        match self {
            Self { result: Some(result), error: None } => Ok(result),
            Self { error: Some(error), .. } => Err(refusal(member, error.grpc_code, &error.message)),
            Self { .. } => Err(Error::BadAnswer {
                member: member.to_owned(),
                reason: "neither a result nor an error".to_owned(),
            }),
        }
    }
}

/// A message of a watch.
#[derive(Deserialize)]
pub(crate) struct WatchAnswer {
    pub(crate) header: Header,
    #[serde(default)]
    pub(crate) created: bool,
    #[serde(default)]
    pub(crate) canceled: bool,
    #[serde(default)]
    pub(crate) cancel_reason: String,
    /// Above 0 where what was asked for is forgotten.
    #[serde(default, deserialize_with = "number")]
    pub(crate) compact_revision: i64,
    #[serde(default)]
    pub(crate) events: Vec<EventAnswer>,
}

#[derive(Deserialize)]
pub(crate) struct EventAnswer {
    #[serde(default, rename = "type")]
    kind: EventKind,
    kv: KeyValue,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum EventKind {
    #[default]
    Put,
    Delete,
}

impl From<EventAnswer> for Event {
    fn from(EventAnswer { kind, kv }: EventAnswer) -> Self {
        match kind {
            EventKind::Put => Self::Put(kv),
            EventKind::Delete => Self::Delete { key: kv.key, revision: kv.mod_revision },
        }
    }
}

/// The gateway's answer where a call failed: `message`, and in older ones `error` as well.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Refusal {
    pub(crate) code: Option<i64>,
    pub(crate) message: String,
}

/// 64 bits do not fit into a number of JSON: they come as text. Small ones of other writers may come as they are.
fn number<'de, D: Deserializer<'de>>(from: D) -> Result<i64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Number(i64),
        Text(String),
    }
    match Written::deserialize(from)? {
        Written::Number(number) => Ok(number),
        Written::Text(text) => text.parse().map_err(D::Error::custom),
    }
}

fn bytes<'de, D: Deserializer<'de>>(from: D) -> Result<Bytes, D::Error> {
    let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
    STANDARD.decode(text.as_bytes()).map(Bytes::from).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_member_answers_is_read() {
        let text = r#"{"header":{"cluster_id":"1","revision":"3","raft_term":"2"},"succeeded":true,"responses":[
            {"response_put":{"header":{"revision":"3"}}},
            {"response_range":{"header":{"revision":"3"},"kvs":[{"key":"bA==","create_revision":"3",
                "mod_revision":"3","version":"1","value":"eA==","lease":"1234567890123456789"}],"count":"1"}},
            {"response_range":{"header":{"revision":"3"}}}]}"#;
        let reply = Reply::from(serde_json::from_str::<TxnAnswer>(text).expect("read"));
        assert_eq!((reply.revision, reply.succeeded, reply.found.len()), (3, true, 2));
        let found = &reply.found[0];
        assert_eq!(
            (found.count, &found.keys[0].key[..], &found.keys[0].value[..]),
            (1, &b"l"[..], &b"x"[..])
        );
        assert_eq!((found.keys[0].mod_revision, found.keys[0].lease), (3, 1_234_567_890_123_456_789));
        assert_eq!(reply.found[1], Found::default());
        let failed = serde_json::from_str::<TxnAnswer>(r#"{"header":{"revision":"9"}}"#).expect("read");
        assert_eq!(Reply::from(failed), Reply { revision: 9, succeeded: false, found: vec![] });
    }

    #[test]
    fn what_is_no_base64_and_no_number_is_refused() {
        for bad in [r#"{"key":"%"}"#, r#"{"key":"YQ==","mod_revision":"x"}"#, r#"{"value":"YQ=="}"#] {
            assert!(serde_json::from_str::<KeyValue>(bad).is_err(), "{bad}");
        }
    }
}
