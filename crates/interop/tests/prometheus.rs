//! The tracker's metrics, as Prometheus itself judges and reads them.

#![allow(clippy::expect_used, reason = "helpers of tests, outside the functions that clippy knows for tests")]

use std::{
    fs,
    io::Write as _,
    net::{Ipv4Addr, SocketAddr},
    process::{Command, Stdio},
};

use longshore_interop::{Place, Process, Tracker, free_port, get, require, wait_until};
use serde_json::Value;

/// A tracker that has been asked something, with a forwarder that it has asked.
fn used() -> (Tracker, tempfile::NamedTempFile) {
    let list = tempfile::NamedTempFile::new().expect("a file");
    fs::write(list.path(), "- {name: 'a \"name\" \\ of sorts', uri: 'http://127.0.0.1:1/announce'}\n")
        .expect("written");
    let arguments = ["--forwarders", list.path().to_str().expect("text")];
    let tracker = Tracker::ours_at(&Place::here(Ipv4Addr::LOCALHOST.into()), &arguments);
    for port in 1001..1004 {
        let query = format!("info_hash=aaaaaaaaaaaaaaaaaaaa&peer_id=-XX0000-{port:012}&port={port}&left=5");
        get(tracker.address, &format!("/announce?{query}"), &[]);
    }
    get(tracker.address, "/announce?nonsense", &[]);
    wait_until("the forwarder to be counted", || {
        get(tracker.address, "/metrics", &[]).text().contains("forwarder_status{")
    });
    (tracker, list)
}

#[test]
fn promtool_finds_nothing_wrong_with_them() {
    if !require("promtool", "prometheus") {
        return;
    }
    let (tracker, _list) = used();
    let metrics = get(tracker.address, "/metrics", &[]);
    assert_eq!(metrics.field("Content-Type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("runs");
    promtool.stdin.take().expect("a pipe").write_all(&metrics.body).expect("written");
    let verdict = promtool.wait_with_output().expect("ends");
    let words = String::from_utf8_lossy(&verdict.stdout) + String::from_utf8_lossy(&verdict.stderr);
    assert!(verdict.status.success() && words.trim().is_empty(), "{words}");
}

#[test]
fn prometheus_scrapes_them() {
    if !require("prometheus", "prometheus") {
        return;
    }
    let (tracker, _list) = used();
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("prometheus.yml");
    let jobs = format!(
        "global: {{scrape_interval: 1s}}\nscrape_configs:\n\
         - {{job_name: tracker, static_configs: [{{targets: ['{}']}}]}}\n",
        tracker.address
    );
    fs::write(&config, jobs).expect("written");
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let mut command = Command::new("prometheus");
    command.arg(format!("--config.file={}", config.display()));
    command.arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()));
    command.arg(format!("--web.listen-address={at}"));
    let mut prometheus = Process::start(&mut command);
    wait_until("Prometheus to listen", || {
        assert!(prometheus.is_running(), "{}", prometheus.stderr());
        std::net::TcpStream::connect(at).is_ok()
    });
    let ask = |query: &str| -> Value {
        let answer = get(at, &format!("/api/v1/query?query={query}"), &[]);
        serde_json::from_slice(&answer.body).unwrap_or_default()
    };
    let value = |query: &str| ask(query)["data"]["result"][0]["value"][1].as_str().map(str::to_owned);
    // The first scrape comes some seconds after the start.
    wait_until("the first scrape", || value("up").as_deref() == Some("1"));
    for (query, wanted) in [
        ("requests", "3"),
        ("forwarder_status", "1"),
        ("longshore_tracker_peers", "3"),
        ("sum(longshore_tracker_announces_total)", "3"),
        ("sum(longshore_tracker_faults_total)", "1"),
    ] {
        wait_until(query, || {
            value(query).as_deref().is_some_and(|value| value == wanted || query == "forwarder_status")
        });
    }
    let labels = &ask("forwarder_status")["data"]["result"][0]["metric"];
    assert_eq!(labels["name"], "a \"name\" \\ of sorts");
    assert_eq!(labels["status"], "error");
}
