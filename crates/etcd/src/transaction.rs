//! What etcd is asked: a transaction of comparisons and operations, and its form in JSON.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

/// All or nothing: where every comparison holds the first operations are done, else the second.
///
/// Without comparisons it is any number of reads or writes at one moment.
#[derive(Debug, Clone, Default)]
pub struct Transaction {
    /// All must hold.
    pub compare: Vec<Compare>,
    /// Done when they do.
    pub success: Vec<Operation>,
    /// Done when one does not.
    pub failure: Vec<Operation>,
}

/// A comparison.
#[derive(Debug, Clone)]
pub enum Compare {
    /// The key was changed last at this revision; at 0 it does not exist.
    ChangedAt(String, i64),
    /// The key has this value.
    Is(String, Vec<u8>),
}

/// An operation.
#[derive(Debug, Clone)]
pub enum Operation {
    /// Reads keys with their values.
    Get(Range),
    /// Counts keys.
    Count(Range),
    /// Writes a key.
    Put {
        /// Which.
        key: String,
        /// What.
        value: Vec<u8>,
        /// The lease with which the key ends; 0 for none.
        lease: i64,
    },
    /// Removes keys.
    Delete(Range),
}

/// One key, or all from one (inclusive) to another (exclusive), in the order of their bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    pub(crate) from: String,
    pub(crate) to: Option<String>,
    limit: usize,
}

impl Range {
    /// One key.
    pub fn key(key: impl Into<String>) -> Self {
        Self { from: key.into(), to: None, limit: 0 }
    }

    /// From one key to another.
    pub fn between(from: impl Into<String>, to: impl Into<String>) -> Self {
        Self { from: from.into(), to: Some(to.into()), limit: 0 }
    }

    /// All keys below a folder; `folder` is without the slash at its end.
    pub fn below(folder: &str) -> Self {
        // What follows the slash in the order of bytes is the 0.
        Self::between(format!("{folder}/"), format!("{folder}0"))
    }

    /// The same, of which at most so many keys are read.
    #[must_use]
    pub fn at_most(self, limit: usize) -> Self {
        Self { limit, ..self }
    }

    pub(crate) fn json(&self) -> Value {
        let mut range = json!({ "key": base64(&self.from) });
        if let Some(to) = &self.to {
            range["range_end"] = base64(to).into();
        }
        range
    }
}

impl Transaction {
    /// Any number of reads at one moment.
    pub fn read(reads: Vec<Operation>) -> Self {
        Self { success: reads, ..Self::default() }
    }

    pub(crate) fn json(&self) -> Value {
        let all = |operations: &[Operation]| operations.iter().map(Operation::json).collect::<Vec<_>>();
        json!({
            "compare": self.compare.iter().map(Compare::json).collect::<Vec<_>>(),
            "success": all(&self.success),
            "failure": all(&self.failure),
        })
    }
}

impl Compare {
    fn json(&self) -> Value {
        match self {
            Self::ChangedAt(key, revision) => json!({
                "key": base64(key),
                "target": "MOD",
                "result": "EQUAL",
                "mod_revision": revision.to_string(),
            }),
            Self::Is(key, value) => json!({
                "key": base64(key),
                "target": "VALUE",
                "result": "EQUAL",
                "value": base64(value),
            }),
        }
    }
}

impl Operation {
    fn json(&self) -> Value {
        match self {
            Self::Get(range) => {
                let mut get = range.json();
                if range.limit > 0 {
                    get["limit"] = range.limit.to_string().into();
                }
                json!({ "request_range": get })
            }
            Self::Count(range) => {
                let mut count = range.json();
                count["count_only"] = true.into();
                json!({ "request_range": count })
            }
            Self::Put { key, value, lease } => json!({
                "request_put": { "key": base64(key), "value": base64(value), "lease": lease.to_string() }
            }),
            Self::Delete(range) => json!({ "request_delete_range": range.json() }),
        }
    }
}

pub(crate) fn base64(bytes: impl AsRef<[u8]>) -> String {
    STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_in_json_has_bytes_as_base64_and_numbers_as_text() {
        let transaction = Transaction {
            compare: vec![Compare::ChangedAt("a".into(), 7)],
            success: vec![
                Operation::Put { key: "k".into(), value: vec![0xff], lease: i64::MAX },
                Operation::Delete(Range::below("p")),
            ],
            failure: vec![Operation::Get(Range::key("k").at_most(3))],
        };
        let expected = json!({
            "compare": [{"key": "YQ==", "target": "MOD", "result": "EQUAL", "mod_revision": "7"}],
            "success": [
                {"request_put": {"key": "aw==", "value": "/w==", "lease": "9223372036854775807"}},
                {"request_delete_range": {"key": "cC8=", "range_end": "cDA="}},
            ],
            "failure": [{"request_range": {"key": "aw==", "limit": "3"}}],
        });
        assert_eq!(transaction.json(), expected);
    }
}
