//! Dependencies between our crates point down the map, and some crates keep away from some things altogether.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// The map, from the top. A crate may depend on those below it.
const MAP: [&str; 22] = [
    "longshore",
    "longshore-lab",
    "longshore-node",
    "longshore-mirror",
    "longshore-origin",
    "longshore-engine",
    "longshore-store",
    "longshore-tracker",
    "longshore-tracker-client",
    "longshore-etcd",
    "longshore-tls",
    "longshore-runtime",
    "longshore-sim",
    "longshore-swarm",
    "longshore-page",
    "longshore-api",
    "longshore-announce",
    "longshore-wire",
    "longshore-metainfo",
    "longshore-ostree",
    "longshore-bencode",
    "longshore-hash",
];

/// Tools beside the map: they may use anything, and nothing may use them.
const BESIDE: [&str; 2] = ["longshore-interop", "longshore-xtask"];

/// What a crate must not reach, by however many steps, and why.
const KEEPS_OFF: [Rule; 9] = [
    Rule {
        crates: &["longshore-page"],
        from: &["longshore-api", "longshore-metainfo", "longshore-hash", "reqwest", "redb"],
        why: "it serves files, and knows nothing of what they show",
    },
    Rule {
        crates: &[
            "longshore-sim",
            "longshore-swarm",
            "longshore-announce",
            "longshore-wire",
            "longshore-metainfo",
            "longshore-ostree",
            "longshore-bencode",
            "longshore-hash",
        ],
        from: &["tokio", "mio", "socket2", "hyper", "axum", "reqwest", "redb"],
        why: "the brain and the formats do no I/O",
    },
    Rule {
        crates: &["longshore-store"],
        from: &["tokio", "hyper", "axum", "reqwest", "longshore-swarm", "longshore-tracker"],
        why: "the store blocks, and knows neither network nor peers",
    },
    Rule {
        crates: &["longshore-mirror", "longshore-origin"],
        from: &[
            "longshore-engine",
            "longshore-store",
            "longshore-tracker",
            "longshore-swarm",
            "longshore-announce",
            "longshore-wire",
        ],
        why: "they know HTTP, never peers",
    },
    Rule {
        crates: &["longshore-engine"],
        from: &["longshore-tracker", "longshore-api", "axum"],
        why: "any tracker will do, and the engine has no API",
    },
    Rule {
        crates: &["longshore-etcd"],
        from: &["longshore-api", "longshore-metainfo", "longshore-hash", "axum", "redb"],
        why: "it knows etcd, not what is kept there",
    },
    Rule {
        crates: &["longshore-runtime"],
        from: &["tokio", "hyper", "axum", "reqwest", "longshore-api"],
        why: "it edits files, and asks nobody",
    },
    Rule {
        crates: &["longshore-tracker"],
        from: &["longshore-swarm"],
        why: "a tracker knows addresses, not what is exchanged",
    },
    Rule {
        crates: &["longshore", "longshore-lab", "longshore-node", "longshore-engine"],
        from: &["longshore-sim"],
        why: "the simulator is for tests and studies",
    },
];

struct Rule {
    crates: &'static [&'static str],
    from: &'static [&'static str],
    why: &'static str,
}

/// What is wrong in the answer of `cargo metadata`. Development dependencies are free.
pub(crate) fn check(metadata: &Value) -> Result<Vec<String>, String> {
    let graph = Graph::read(metadata).ok_or("the answer of cargo metadata is not of the known form")?;
    let mut findings = Vec::new();
    for name in &graph.ours {
        let place = place(name);
        if place.is_none() && !BESIDE.contains(&name.as_str()) {
            findings
                .push(format!("{name} is not on the map: give it a place in crates/xtask/src/imports.rs"));
        }
        for dependency in graph.dependencies(name).filter(|d| graph.ours.contains(*d)) {
            if BESIDE.contains(&dependency.as_str()) {
                findings.push(format!("{name} depends on {dependency}, which is a tool"));
            } else if place.zip(self::place(dependency)).is_some_and(|(above, below)| above >= below) {
                findings.push(format!("{name} depends on {dependency}, which is above it on the map"));
            }
        }
    }
    for rule in &KEEPS_OFF {
        for name in rule.crates.iter().filter(|name| graph.ours.contains(**name)) {
            let reached = graph.reached(name);
            for bad in rule.from.iter().filter(|bad| reached.contains_key(**bad)) {
                let way = graph.way(&reached, bad).join(" > ");
                findings.push(format!("{name} reaches {bad} ({way}), but {}", rule.why));
            }
        }
    }
    Ok(findings)
}

fn place(name: &str) -> Option<usize> {
    MAP.iter().position(|known| *known == name)
}

/// Who depends on whom, by package name.
struct Graph {
    ours: BTreeSet<String>,
    edges: BTreeMap<String, BTreeSet<String>>,
}

impl Graph {
    fn read(metadata: &Value) -> Option<Self> {
        let mut names = BTreeMap::new();
        for package in metadata["packages"].as_array()? {
            names.insert(package["id"].as_str()?, package["name"].as_str()?.to_owned());
        }
        let name_of = |id: &Value| names.get(id.as_str()?).cloned();
        let members = metadata["workspace_members"].as_array()?;
        let ours: BTreeSet<String> = members.iter().map(name_of).collect::<Option<_>>()?;
        let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for node in metadata["resolve"]["nodes"].as_array()? {
            let to = edges.entry(name_of(&node["id"])?).or_default();
            for dependency in node["deps"].as_array()? {
                let mut kinds = dependency["dep_kinds"].as_array()?.iter();
                if kinds.any(|kind| kind["kind"].is_null()) {
                    to.insert(name_of(&dependency["pkg"])?);
                }
            }
        }
        Some(Self { ours, edges })
    }

    fn dependencies(&self, name: &str) -> impl Iterator<Item = &String> {
        self.edges.get(name).into_iter().flatten()
    }

    /// Everything below a crate, each with the one through which it was reached.
    fn reached(&self, name: &str) -> BTreeMap<String, String> {
        let mut reached = BTreeMap::new();
        let mut open = vec![name.to_owned()];
        while let Some(from) = open.pop() {
            for to in self.dependencies(&from) {
                if !reached.contains_key(to) {
                    reached.insert(to.clone(), from.clone());
                    open.push(to.clone());
                }
            }
        }
        reached
    }

    fn way(&self, reached: &BTreeMap<String, String>, to: &str) -> Vec<String> {
        let mut way = vec![to.to_owned()];
        // The ways cannot be longer than there are crates, whatever `reached` says.
        for _ in 0..self.edges.len() {
            let Some(from) = way.last().and_then(|last| reached.get(last)) else { break };
            way.push(from.clone());
        }
        way.reverse();
        way
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The answer of cargo for crates that depend on one another so: (from, to, kind).
    fn metadata(ours: &[&str], edges: &[(&str, &str, Option<&str>)]) -> Value {
        let mut names: BTreeSet<&str> = ours.iter().copied().collect();
        names.extend(edges.iter().flat_map(|(from, to, _)| [*from, *to]));
        let node = |name: &str| {
            let to = edges.iter().filter(|(from, _, _)| *from == name);
            let deps: Vec<Value> =
                to.map(|(_, to, kind)| json!({"pkg": to, "dep_kinds": [{"kind": kind}]})).collect();
            json!({"id": name, "deps": deps})
        };
        json!({
            "packages": names.iter().map(|name| json!({"id": name, "name": name})).collect::<Vec<_>>(),
            "workspace_members": ours,
            "resolve": {"nodes": names.iter().map(|name| node(name)).collect::<Vec<_>>()},
        })
    }

    fn findings(ours: &[&str], edges: &[(&str, &str, Option<&str>)]) -> Vec<String> {
        check(&metadata(ours, edges)).expect("well formed")
    }

    #[test]
    fn downwards_is_fine_and_tests_are_free() {
        let ours = ["longshore-engine", "longshore-swarm", "longshore-sim"];
        let edges = [
            ("longshore-engine", "longshore-swarm", None),
            ("longshore-engine", "tokio", None),
            ("longshore-swarm", "longshore-sim", Some("dev")),
            ("longshore-swarm", "tokio", Some("dev")),
        ];
        assert_eq!(findings(&ours, &edges), Vec::<String>::new());
    }

    #[test]
    fn upwards_is_found() {
        let ours = ["longshore-api", "longshore-engine"];
        let found = findings(&ours, &[("longshore-api", "longshore-engine", None)]);
        assert_eq!(found, ["longshore-api depends on longshore-engine, which is above it on the map"]);
    }

    #[test]
    fn a_forbidden_crate_is_found_through_others() {
        let ours = ["longshore-swarm", "longshore-wire"];
        let edges = [
            ("longshore-swarm", "longshore-wire", None),
            ("longshore-wire", "helpful", None),
            ("helpful", "tokio", None),
        ];
        let found = findings(&ours, &edges);
        assert_eq!(found.len(), 2, "both reach it: {found:?}");
        assert!(
            found.iter().any(|f| f.contains("(longshore-swarm > longshore-wire > helpful > tokio)")),
            "{found:?}"
        );
    }

    #[test]
    fn a_crate_without_a_place_and_a_tool_in_use_are_found() {
        let ours = ["longshore-new", "longshore-node", "longshore-xtask"];
        let found = findings(&ours, &[("longshore-node", "longshore-xtask", None)]);
        assert!(found.iter().any(|f| f.contains("longshore-new is not on the map")), "{found:?}");
        assert!(found.iter().any(|f| f.contains("which is a tool")), "{found:?}");
    }

    #[test]
    fn every_rule_names_crates_that_exist() {
        let known = |name: &str| !name.starts_with("longshore") || place(name).is_some();
        assert!(KEEPS_OFF.iter().all(|rule| rule.crates.iter().all(|name| place(name).is_some())));
        assert!(KEEPS_OFF.iter().all(|rule| rule.from.iter().copied().all(known)));
    }

    #[test]
    fn an_answer_of_another_form_is_no_clean_bill() {
        assert!(check(&json!({"packages": []})).is_err());
    }
}
