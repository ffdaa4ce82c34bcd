//! What a lab looks like, in a table.

use std::{collections::BTreeMap, time::Duration};

use api::lab::{HostKind, HostState, LabHost, LabStatus};
use futures_util::future::join_all;
use serde_json::json;

use super::Which;
use crate::{quantity, screen};

/// How long a node may take to say how far it is.
const PATIENCE: Duration = Duration::from_secs(2);
/// The most blobs of a node that are looked at.
const BLOBS: u32 = api::node::MAX_PAGE;

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    which: Which,
    /// Print it as JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let client = args.which.client()?;
    let status = client.status().await?;
    let nodes = status.hosts.iter().filter(|host| matches!(host.kind, HostKind::Seeder | HostKind::Leecher));
    let running = nodes.filter(|host| host.state == HostState::Running);
    let asked = running.map(async |host| Some((host.name.clone(), has(&client, &status, &host.name).await?)));
    let has: BTreeMap<String, u64> = join_all(asked).await.into_iter().flatten().collect();
    if args.json {
        let mut json = serde_json::to_value(&status)?;
        json["has_bytes"] = json!(has);
        screen::say_json(&json);
    } else {
        screen::say(&text(&status, &has));
    }
    Ok(())
}

/// How many bytes of the lab's contents a node has.
async fn has(client: &api::LabClient, status: &LabStatus, node: &str) -> Option<u64> {
    let node = client.node(node).with_deadline(PATIENCE);
    let is_ours = |hash: String| status.contents.iter().any(|content| content.torrents.contains(&hash));
    let blobs = node.blobs(None, BLOBS).await.ok()?.blobs;
    let blobs = blobs.iter().filter(|blob| blob.info_hash.is_some_and(|hash| is_ours(hash.to_string())));
    let torrents = node.torrents().await.ok()?;
    let torrents = torrents.iter().filter(|t| t.digest.is_none() && is_ours(t.info_hash.to_string()));
    Some(blobs.map(|blob| blob.bytes_done).sum::<u64>() + torrents.map(|t| t.bytes_done).sum::<u64>())
}

fn text(status: &LabStatus, has: &BTreeMap<String, u64>) -> String {
    let total: u64 = status.contents.iter().map(|content| content.size).sum();
    let zoned = status.zones.len() > 1;
    let mut rows = vec![
        ["host", "kind", "state", "address", if zoned { "zone" } else { "" }, "link", "has"]
            .map(str::to_owned),
    ];
    rows.extend(status.hosts.iter().map(|host| row(host, zoned, has.get(&host.name), total)));
    let mut text = columns(&rows);
    for host in status.hosts.iter().filter(|host| host.error.is_some()) {
        text += &format!("\n{}: {}\n", host.name, host.error.as_deref().unwrap_or_default());
    }
    for [a, b] in &status.cuts {
        text += &format!("\nThe link between {a} and {b} is cut.\n");
    }
    if !status.contents.is_empty() {
        let heads = ["content", "kind", "size", "held by"].map(str::to_owned);
        let lines = status.contents.iter().map(|content| {
            let holders = match (content.seeders.is_empty(), content.kind.as_str()) {
                (false, _) => {
                    content.seeders.iter().map(|name| holder(status, name)).collect::<Vec<_>>().join(", ")
                }
                (true, "image") => "the registry".into(),
                (true, _) => "nobody".into(),
            };
            [content.name.clone(), content.kind.clone(), quantity::size(content.size), holders]
        });
        text += &format!("\n{}", columns(&[heads].into_iter().chain(lines).collect::<Vec<_>>()));
    }
    if let Some(traffic) = status.traffic {
        let (pulls, kills) = (traffic.pulls_per_minute, traffic.churn_per_minute);
        text += &format!("\nTraffic: {pulls} pulls and {kills} kills per minute.\n");
    }
    text += &format!("\nPage: {}\nFiles and logs: {}", status.page, status.directory);
    for note in &status.notes {
        text += &format!("\nnote: {note}");
    }
    for problem in &status.problems {
        text += &format!("\nproblem: {problem}");
    }
    text
}

/// Who holds something, and why it gives nothing of it where it gives nothing.
fn holder(status: &LabStatus, name: &str) -> String {
    let host = status.hosts.iter().find(|host| host.name == name);
    match host {
        Some(host) if host.state != HostState::Running => format!("{name} ({})", word(&host.state)),
        Some(host) if host.cut => format!("{name} (cut off)"),
        _ => name.to_owned(),
    }
}

fn row(host: &LabHost, zoned: bool, has: Option<&u64>, total: u64) -> [String; 7] {
    let mut link = Vec::new();
    link.extend(host.rate.map(|rate| format!("{} Mbit/s", rate as f64 / 1e6)));
    link.extend(host.delay_ms.map(|delay| format!("{delay} ms")));
    link.extend(host.cut.then(|| "cut".to_owned()));
    let share = has.filter(|_| total > 0).map(|has| format!("{:.0}%", *has as f64 * 100.0 / total as f64));
    [
        host.name.clone(),
        word(&host.kind),
        word(&host.state),
        host.address.clone(),
        if zoned { host.zone.clone() } else { String::new() },
        link.join(", "),
        share.unwrap_or_default(),
    ]
}

/// A word of the API, as it is there.
fn word(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default()
}

/// Rows in columns of equal width; empty columns are left out.
fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..N).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).filter(|(_, width)| **width > 0);
        let line: Vec<String> = cells.map(|(cell, width)| format!("{cell:width$}")).collect();
        text += line.join("  ").trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_tells_what_is_cut_and_how_far_each_is() {
        let host = |name: &str, kind, cut| LabHost {
            name: name.into(),
            kind,
            program: "longshore".into(),
            address: "10.99.1.1".into(),
            zone: "town".into(),
            state: HostState::Running,
            cut,
            rate: Some(20_000_000),
            delay_ms: None,
            sent_bytes: None,
            error: None,
        };
        let content = api::lab::LabContent {
            kind: "torrent".into(),
            name: "a.iso".into(),
            id: "00".into(),
            size: 200,
            torrents: vec!["00".into()],
            seeders: ["s1", "s2", "n1"].map(str::to_owned).into(),
        };
        let status = LabStatus {
            page: "http://127.0.0.1:7070/".into(),
            hosts: vec![
                host("s1", HostKind::Seeder, false),
                host("n1", HostKind::Leecher, true),
                LabHost { state: HostState::Killed, ..host("s2", HostKind::Seeder, false) },
            ],
            contents: vec![content],
            notes: vec!["nothing is delayed".into()],
            problems: vec!["it rains".into()],
            ..LabStatus::default()
        };
        let text = text(&status, &BTreeMap::from([("s1".into(), 200), ("n1".into(), 50)]));
        assert!(text.contains("s1    seeder   running  10.99.1.1  20 Mbit/s       100%"), "{text}");
        assert!(text.contains("n1    leecher  running  10.99.1.1  20 Mbit/s, cut  25%"), "{text}");
        assert!(text.contains("a.iso    torrent  200 B  s1, s2 (killed), n1 (cut off)\n"), "{text}");
        assert!(text.contains("\nnote: nothing is delayed\n"), "{text}");
        assert!(!text.contains("town") && text.contains("problem: it rains"), "{text}");
    }
}
