//! A lab on this machine, as its own API tells of it.
//!
//! On the lab's unix socket, and on a loopback address where its page is.
//!
//! | call | answer |
//! |---|---|
//! | `GET /lab` | [`LabStatus`]; 404 from a node, which is how the page knows what serves it |
//! | `GET /lab/events?topics={list}` | [records](crate::live::Record) of all nodes and of the lab itself, as a node's own events |
//! | `GET /lab/recording` | all records since the lab began, one a line |
//! | `POST /lab/actions` with [`LabAction`] | [`LabDone`], or an error that says why not |
//! | `… /lab/nodes/{name}/v1/…` | that call of the API of the node of that name |

use serde::{Deserialize, Serialize};

/// The lab in short.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LabStatus {
    /// Its name.
    pub id: String,
    /// Where everything lies.
    pub directory: String,
    /// The address of its page.
    pub page: String,
    /// When it began, in milliseconds since 1970.
    pub began_ms: u64,
    /// Whether each host has a network namespace, and its link a speed.
    pub namespaces: bool,
    /// Zones by name; hosts of different zones are further apart. One without a name is all there is by default.
    #[serde(default)]
    pub zones: Vec<String>,
    /// Zones, two by two, whose link is cut.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cuts: Vec<[String; 2]>,
    /// Nodes and servers.
    pub hosts: Vec<LabHost>,
    /// What the lab has published, and what its nodes are to get.
    #[serde(default)]
    pub contents: Vec<LabContent>,
    /// What it does by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<Traffic>,
    /// What it does without here, and why, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// What went wrong last, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// What a host is in the lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostKind {
    /// A node that holds the content first.
    Seeder,
    /// A node that is to get it.
    Leecher,
    /// The tracker, with the content directory.
    Tracker,
    /// The registry: where images come from.
    Registry,
    /// The web server: where files come from.
    Web,
    /// Another BitTorrent client.
    Foreign,
}

/// How a host is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostState {
    /// Being started.
    Starting,
    /// It answers.
    Running,
    /// Ended by request.
    Stopped,
    /// Killed by request, without a chance to clean up.
    Killed,
    /// Ended by itself; its log says why.
    Failed,
}

/// A host of the lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabHost {
    /// Its name, which the lab's DNS knows.
    pub name: String,
    /// What it is.
    pub kind: HostKind,
    /// What runs there: `longshore`, `transmission`, …
    pub program: String,
    /// Its address.
    pub address: String,
    /// Its zone; empty where there is only one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub zone: String,
    /// How it is.
    pub state: HostState,
    /// Its link is cut.
    pub cut: bool,
    /// The speed of its link each way, in bits per second; absent without a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u64>,
    /// The delay of its link, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    /// Content bytes that have left it; of the registry and the web server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_bytes: Option<u64>,
    /// Why it failed, or what is wrong with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A torrent or an image of the lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabContent {
    /// `torrent` or `image`.
    pub kind: String,
    /// A file's or directory's name, or an image's reference.
    pub name: String,
    /// The torrent's info-hash, or the image's digest.
    pub id: String,
    /// Its bytes.
    pub size: u64,
    /// The info-hashes of its torrents: one, or one for each blob.
    pub torrents: Vec<String>,
    /// Those of who are to hold it from the start that have all of it by now. One that does not run has it, and gives
    /// nothing.
    pub seeders: Vec<String>,
}

/// Traffic that the lab makes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Traffic {
    /// Pulls begun per minute, by leechers by turns, each of them forgetting first what it has.
    pub pulls_per_minute: f64,
    /// Nodes killed per minute by lot, and started again ten seconds later.
    pub churn_per_minute: f64,
}

/// Something to do in the lab.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "lowercase", deny_unknown_fields)]
pub enum LabAction {
    /// A further node.
    Add {
        /// Seeder or leecher.
        kind: HostKind,
        /// How many.
        #[serde(default = "one")]
        count: usize,
        /// In which zone.
        #[serde(default)]
        zone: String,
    },
    /// Ends a host's program as an administrator would.
    Stop {
        /// The host.
        host: String,
    },
    /// Kills it.
    Kill {
        /// The host.
        host: String,
    },
    /// Starts it again.
    Start {
        /// The host.
        host: String,
    },
    /// Cuts a host's link, or all links between two zones.
    Cut {
        /// A host's or a zone's name.
        from: String,
        /// The other zone.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<String>,
    },
    /// Heals what was cut; everything where nothing is named.
    Heal {
        /// A host's or a zone's name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<String>,
        /// The other zone.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<String>,
    },
    /// Gives a host's link another speed.
    Limit {
        /// The host.
        host: String,
        /// Bits per second each way; absent for no limit.
        #[serde(default)]
        rate: Option<u64>,
    },
    /// Has a node, or all leechers, forget what they have and get it anew.
    Pull {
        /// The node.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<String>,
        /// What, by name; everything where nothing is named.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        content: Option<String>,
    },
    /// Begins to make traffic, or changes it; none where both rates are 0.
    Churn(Traffic),
    /// Ends the lab.
    Down,
}

/// What an action has done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabDone {
    /// In words, one line.
    pub done: String,
    /// The hosts that it was done to, by name.
    #[serde(default)]
    pub hosts: Vec<String>,
}

const fn one() -> usize {
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_are_named_in_small_letters_and_unknown_fields_refused() {
        let cut: LabAction = serde_json::from_str(r#"{"action":"cut","from":"n1"}"#).expect("parses");
        assert_eq!(cut, LabAction::Cut { from: "n1".into(), to: None });
        let add: LabAction = serde_json::from_str(r#"{"action":"add","kind":"leecher"}"#).expect("parses");
        assert_eq!(add, LabAction::Add { kind: HostKind::Leecher, count: 1, zone: String::new() });
        assert!(serde_json::from_str::<LabAction>(r#"{"action":"cut","from":"n1","too":"n2"}"#).is_err());
    }
}
