//! Lists, proxies, networks, and changing them while the tracker runs.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

extern crate longshore_tracker as tracker;

mod support;

use std::{fs, path::PathBuf};

use metainfo::InfoHash;
use support::{addresses, ask, config, peer, reply, target};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tracker::{Config, Network, Tracker};

/// The addresses that an announce is answered, or why it is refused.
async fn announce(tracker: &Tracker, torrent: u8, port: u16, fields: &str) -> Result<Vec<String>, String> {
    let (_, body) = ask(tracker, &target(&peer(torrent, port, 5)), fields).await;
    Ok(addresses(&reply(&body)?))
}

/// A file of info-hashes.
fn list(folder: &TempDir, name: &str, torrents: &[u8]) -> Option<PathBuf> {
    let lines = torrents.iter().map(|torrent| format!("{} x\n", InfoHash::from_bytes([*torrent; 20])));
    let path = folder.path().join(name);
    fs::write(&path, lines.collect::<String>()).expect("written");
    Some(path)
}

#[tokio::test]
async fn lists_say_what_is_served_and_a_reload_changes_them_without_losing_a_peer() {
    let folder = tempfile::tempdir().expect("a folder");
    let (allow, deny) = (list(&folder, "allow", &[1, 2]), list(&folder, "deny", &[2]));
    let mut config = Config { allow, deny, ..config() };
    let mut tracker = Tracker::start(config.clone()).await.expect("starts");
    assert_eq!(announce(&tracker, 1, 1001, "").await, Ok(vec![]));
    for torrent in [2, 3] {
        let refused = announce(&tracker, torrent, 1001, "").await;
        assert!(refused.as_ref().is_err_and(|reason| reason.contains("not served")), "{refused:?}");
    }
    list(&folder, "allow", &[1, 3]);
    config.interval = 700;
    assert_eq!(tracker.reload(&config).expect("good"), Vec::<&str>::new());
    assert_eq!(announce(&tracker, 3, 1002, "").await, Ok(vec![]));
    assert_eq!(announce(&tracker, 1, 1002, "").await, Ok(vec!["127.0.0.1:1001".to_owned()]), "still there");
    // What cannot be used changes nothing.
    fs::write(folder.path().join("allow"), "nonsense\n").expect("written");
    let error = tracker.reload(&config).expect_err("a broken list").to_string();
    assert!(error.contains("line 1"), "{error}");
    assert_eq!(announce(&tracker, 3, 1003, "").await, Ok(vec!["127.0.0.1:1002".to_owned()]));
    let restart = Config { allow: None, max_peers: 7, workers: 3, ..config };
    assert_eq!(tracker.reload(&restart).expect("good"), ["workers", "max_peers"]);
    assert!(announce(&tracker, 9, 1001, "").await.is_ok());
    tracker.shutdown().await;
}

#[tokio::test]
async fn a_proxy_is_believed_only_where_it_is_trusted() {
    let open = Tracker::start(config()).await.expect("starts");
    let spoof = "X-Real-IP: 203.0.113.9\r\n";
    announce(&open, 1, 1001, spoof).await.expect("taken");
    assert_eq!(announce(&open, 1, 1002, "").await, Ok(vec!["127.0.0.1:1001".to_owned()]));
    let trusted_proxies = vec!["127.0.0.0/8".parse::<Network>().expect("a network")];
    let behind = Tracker::start(Config { trusted_proxies, ..config() }).await.expect("starts");
    announce(&behind, 1, 1001, spoof).await.expect("taken");
    for unsaid in ["", "X-Real-IP:\r\n", "X-Real-IP: unknown\r\n"] {
        let refused = announce(&behind, 1, 1002, unsaid).await.expect_err("nobody's");
        assert!(refused.contains("real_ip_header"), "{refused}");
    }
    let itself = "X-Real-IP: \"127.0.0.1:4711\"\r\n";
    assert_eq!(announce(&behind, 1, 1003, itself).await, Ok(vec!["203.0.113.9:1001".to_owned()]));
    let (_, metrics) = ask(&behind, "/metrics", "").await;
    let metrics = String::from_utf8_lossy(&metrics).into_owned();
    assert!(
        metrics.lines().any(|line| line.contains("fault=\"proxy\"") && line.ends_with("} 3")),
        "{metrics}"
    );
}

#[tokio::test]
async fn figures_are_shown_to_some_networks_only() {
    let stats_from = vec!["203.0.113.0/24".parse::<Network>().expect("a network")];
    let trusted_proxies = vec![Network::LOOPBACK_V4];
    let config = Config { stats_from, trusted_proxies, full_scrape: true, ..config() };
    let tracker = Tracker::start(config).await.expect("starts");
    for path in ["/", "/status.css", "/stats", "/stats.json", "/metrics", "/scrape"] {
        assert_eq!(ask(&tracker, path, "").await.0, 403, "{path}");
        assert_eq!(ask(&tracker, path, "X-Real-IP: 203.0.113.9\r\n").await.0, 200, "{path}");
    }
    assert_eq!(ask(&tracker, "/health", "").await.0, 200);
}

#[tokio::test]
async fn torrents_that_were_not_named_are_shown_to_this_machine_only_unless_it_is_said_to_whom() {
    let trusted_proxies = vec![Network::LOOPBACK_V4];
    let config = Config { trusted_proxies, full_scrape: true, ..config() };
    let tracker = Tracker::start(config).await.expect("starts");
    let here = "X-Real-IP: 127.0.0.1\r\n";
    announce(&tracker, 0xab, 1001, here).await.expect("taken");
    let hash = "ab".repeat(20);
    for (asker, shown) in [(here, true), ("X-Real-IP: 203.0.113.9\r\n", false), ("", false)] {
        for path in ["/", "/stats", "/stats.json"] {
            let (status, body) = ask(&tracker, path, asker).await;
            let body = String::from_utf8_lossy(&body);
            assert_eq!((status, body.contains(&hash)), (200, shown), "{path} {asker}");
        }
        assert_eq!(ask(&tracker, "/scrape", asker).await.0, if shown { 200 } else { 403 });
    }
}

#[tokio::test]
async fn all_torrents_are_shown_with_a_key_in_the_path_too_and_not_with_a_wrong_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let keys = folder.path().join("keys");
    fs::write(&keys, "good\n").expect("written");
    for keys in [None, Some(keys)] {
        let has_keys = keys.is_some();
        let tracker = Tracker::start(Config { keys, full_scrape: true, ..config() }).await.expect("starts");
        for path in ["/scrape", "/good/scrape", "/scrape/good", "/bad/scrape"] {
            let (status, body) = loop {
                let (status, body) = ask(&tracker, path, "").await;
                // One at a time, so that this may have to wait.
                if !body.windows(13).any(|part| part == b"another full ") {
                    break (status, body);
                }
            };
            let shown = body.windows(9).any(|part| part == b"d5:filesd");
            assert_eq!((status, shown), (200, !has_keys || path != "/bad/scrape"), "{path}");
        }
        tracker.shutdown().await;
    }
}

#[tokio::test]
async fn the_status_page_is_whole_and_names_what_there_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("forwarders.yml");
    fs::write(&file, "- {name: 'far <b>', uri: 'http://127.0.0.1:1/secret'}\n").expect("written");
    let tracker = Tracker::start(Config { forwarders: Some(file), ..config() }).await.expect("starts");
    announce(&tracker, 0xab, 1001, "").await.expect("taken");
    let mut stream = TcpStream::connect(tracker.local_addr().expect("bound")).await.expect("connects");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").await.expect("sends");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("reads");
    let (head, page) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.contains("content-type: text/html; charset=utf-8"), "{head}");
    assert!(head.contains("content-security-policy: default-src 'none'; style-src 'self'"), "{head}");
    let (hash, listener) = ("ab".repeat(20), tracker.local_addr().expect("bound").to_string());
    for part in [&hash, &listener, "far &lt;b&gt;", "in memory", env!("CARGO_PKG_VERSION"), "MiB"] {
        assert!(page.contains(part), "{part} in {page}");
    }
    assert!(!page.contains("secret") && !page.contains("<script"), "{page}");
    // All that it asks for is there.
    let links: Vec<&str> = page.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert!(links.contains(&"/status.css") && links.len() == 5, "{links:?}");
    for link in links {
        assert_eq!(ask(&tracker, link, "").await.0, 200, "{link}");
    }
}
