//! Files of the web: OSTree repositories, rules and the proxy, with servers that do as they are told or do not.
#![allow(clippy::expect_used, reason = "tests fail by panicking, their helpers too")]

mod proof;
mod server;
#[path = "../support/mod.rs"]
mod support;

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use base64::Engine as _;
use hash::Digest;
use longshore_node::{Config, OstreeConfig};
use server::{File, Web, filez, get, node, object, rule, through};
use support::{Registry, ask, fetch_as, noise, tracker};
use tempfile::tempdir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_leaves_its_server_once_and_the_fleet_has_it_without() {
    let web = Web::start().await;
    let dirtree = noise(300_000, 1);
    let tree = object(&Digest::of(&dirtree), "dirtree");
    let (filez, content) = filez(&noise(400_000, 2));
    web.put(&format!("/repo/{tree}"), dirtree.clone(), &[]);
    web.put(&format!("/repo/{filez}"), content.clone(), &[]);
    web.put("/repo/summary", "one", &[("etag", "\"1\"")]);
    web.put("/repo/config", "[core]", &[]);
    let (tracker, url) = tracker().await;
    let (one, two) = (tempdir().expect("temp"), tempdir().expect("temp"));
    let first = node(one.path(), &url, &web, |_| {}).await;
    let second = node(two.path(), &url, &web, |_| {}).await;
    let proxied = through(&first);
    for _ in 0..2 {
        assert_eq!(get(&first, &format!("/ostree/os/{tree}")).await.body, dirtree);
        assert_eq!(ask(proxied.get(web.url(&format!("/repo/{tree}")))).await.body, dirtree);
        assert_eq!(get(&first, &format!("/ostree/os/{filez}")).await.body, content);
        assert_eq!(ask(proxied.get(web.url(&format!("/repo/{filez}")))).await.body, content);
    }
    let summary = get(&first, "/ostree/os/summary").await;
    assert_eq!((summary.body.as_slice(), summary.headers.get("warning")), (b"one".as_slice(), None));
    get(&first, "/ostree/os/summary").await;
    assert_eq!(web.sent("/repo/summary"), 3, "the second time it had not changed");
    web.put("/repo/summary", "three", &[("etag", "\"2\"")]);
    assert_eq!(get(&first, "/ostree/os/summary").await.body, b"three", "a change is seen at once");
    get(&first, "/ostree/os/config").await;
    assert_eq!(get(&first, "/ostree/os/summary.sig").await.status, 404);
    // The fleet is told behind the answers.
    for path in ["config", "summary"] {
        while get(&second, &format!("/ostree/os/{path}")).await.status != 200 {}
    }
    web.go_down();
    assert_eq!(get(&second, &format!("/ostree/os/{tree}")).await.body, dirtree);
    assert_eq!(get(&second, &format!("/ostree/os/{filez}")).await.body, content);
    let summary = get(&second, "/ostree/os/summary").await;
    assert_eq!(summary.body, b"three");
    assert!(summary.headers["warning"].to_str().expect("text").contains("cannot be reached"));
    assert_eq!(get(&second, "/ostree/os/config").await.body, b"[core]");
    // OSTree does without these, and would not without an answer.
    for path in ["summary.sig", "refs/heads/main", "deltas/ab/c/superblock"] {
        assert_eq!(get(&second, &format!("/ostree/os/{path}")).await.status, 404, "{path}");
    }
    assert_eq!(web.sent(&format!("/repo/{tree}")), dirtree.len());
    assert_eq!(web.sent(&format!("/repo/{filez}")), content.len());
    first.stop().await;
    second.stop().await;
    tracker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_that_want_the_same_unnamed_file_at_once_make_one_copy() {
    let web = Web::start().await;
    let (filez, content) = filez(&noise(3_000_000, 3));
    web.put(&format!("/repo/{filez}"), content.clone(), &[]);
    let (tracker, url) = tracker().await;
    let (one, two) = (tempdir().expect("temp"), tempdir().expect("temp"));
    let first = node(one.path(), &url, &web, |_| {}).await;
    let second = node(two.path(), &url, &web, |_| {}).await;
    let path = format!("/ostree/os/{filez}");
    let (a, b, c) = tokio::join!(get(&first, &path), get(&second, &path), get(&first, &path));
    for answer in [a, b, c] {
        assert!(answer.whole && answer.body == content);
    }
    assert_eq!(web.sent(&format!("/repo/{filez}")), content.len());
    first.stop().await;
    second.stop().await;
    tracker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_are_cut_and_kept_nowhere_and_broken_answers_taken_up() {
    let web = Web::start().await;
    let (right, wrong) = (noise(500_000, 4), noise(500_000, 5));
    let named = object(&Digest::of(&right), "commit");
    web.put(&format!("/repo/{named}"), wrong, &[]);
    let (tracker, url) = tracker().await;
    let one = tempdir().expect("temp");
    let node = node(one.path(), &url, &web, |_| {}).await;
    let answer = get(&node, &format!("/ostree/os/{named}")).await;
    assert!(!answer.whole && answer.body.len() < right.len());
    let broken = |path: &str, bytes: &[u8], headers| {
        let file = File { bytes: bytes.to_vec().into(), breaks: 1, headers, ..File::default() };
        web.put_file(&format!("/repo/{path}"), file);
    };
    broken(&named, &right, Vec::new());
    let answer = get(&node, &format!("/ostree/os/{named}")).await;
    assert!(answer.whole && answer.body == right, "its digest holds whatever it was put together from");
    let (same, packed) = filez(&noise(500_000, 23));
    broken(&same, &packed, vec![("etag", "\"same\"".to_owned())]);
    let answer = get(&node, &format!("/ostree/os/{same}")).await;
    assert!(answer.whole && answer.body == packed);
    let (unknown, packed) = filez(&noise(500_000, 24));
    broken(&unknown, &packed, Vec::new());
    let answer = get(&node, &format!("/ostree/os/{unknown}")).await;
    assert!(!answer.whole, "nothing says that the rest is of the same file");
    assert_eq!(get(&node, &format!("/ostree/os/{unknown}")).await.body, packed, "and it was not kept");
    node.stop().await;
    tracker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_leads_inside_or_to_hosts_that_are_not_listed() {
    let (web, inside) = (Web::start().await, Web::start().await);
    inside.put("/secret", "secret", &[]);
    let digest = Digest::of(b"secret");
    let commit = object(&digest, "commit");
    let lead = |to: String| File { redirect: Some(to), ..File::default() };
    web.put_file(&format!("/repo/{commit}"), lead(inside.url("/secret")));
    web.put_file("/repo/summary", lead(inside.url("/secret")));
    web.put_file("/repo/config", lead("/repo/config".to_owned()));
    let (tracker, url) = tracker().await;
    let one = tempdir().expect("temp");
    let node = node(one.path(), &url, &web, |_| {}).await;
    for path in [commit.as_str(), "summary"] {
        assert_eq!(get(&node, &format!("/ostree/os/{path}")).await.status, 403, "{path}");
    }
    assert_eq!(get(&node, "/ostree/os/config").await.status, 503, "a redirect to itself ends");
    let proxied = through(&node);
    assert_eq!(ask(proxied.get(inside.url("/secret"))).await.status, 403);
    assert_eq!(ask(proxied.get(format!("http://{}/v2/", node.mirrors()[0]))).await.status, 403);
    assert_eq!(get(&node, "/ostree/other/config").await.status, 404);
    let direct = reqwest::Client::builder().no_proxy().build().expect("client");
    let own = format!("http://{}/ostree/os/x", node.mirrors()[0]);
    for post in [proxied.post(web.url("/repo/x")), direct.post(own)] {
        assert_eq!(ask(post.body("y")).await.status, 403, "a repository is for reading");
    }
    for path in ["..%2f..%2fsecret", "refs/%2e%2e/%2e%2e/x"] {
        assert_eq!(get(&node, &format!("/ostree/os/{path}")).await.status, 404, "{path}");
    }
    assert!(inside.folder.asked.lock().expect("unpoisoned").is_empty());
    // A redirect is passed on where the request is: the client's next question is judged anew.
    web.put_file("/elsewhere", lead(inside.url("/secret")));
    let answer = ask(proxied.get(web.url("/elsewhere"))).await;
    assert_eq!(answer.status, 302);
    assert_eq!(answer.headers["location"], inside.url("/secret").as_str());
    node.stop().await;
    tracker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_for_with_rights_is_passed_on_and_kept_nowhere() {
    let web = Web::start().await;
    let content = noise(50_000, 6);
    let commit = object(&Digest::of(&content), "commit");
    web.put(&format!("/repo/{commit}"), content.clone(), &[]);
    let (tracker, url) = tracker().await;
    let one = tempdir().expect("temp");
    let node = node(one.path(), &url, &web, |_| {}).await;
    for (name, value) in [("authorization", "Basic eA=="), ("cookie", "a=b")] {
        for _ in 0..2 {
            let path = web.url(&format!("/repo/{commit}"));
            assert_eq!(ask(through(&node).get(path).header(name, value)).await.body, content);
        }
    }
    assert_eq!(web.sent(&format!("/repo/{commit}")), 4 * content.len());
    let asked = web.folder.asked.lock().expect("unpoisoned").clone();
    assert_eq!(asked.iter().filter(|(.., shown)| shown.as_deref() == Some("Basic eA==")).count(), 2);
    node.stop().await;
    tracker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn private_content_that_lies_here_is_not_given_for_its_digest_in_a_url() {
    let (web, registry) = (Web::start().await, Registry::start().await);
    let layer = noise(200_000, 7);
    let (_, digests) = registry.add_image(std::slice::from_ref(&layer));
    registry.shop.closed.lock().expect("unpoisoned").insert("app".into(), "Basic eA==".into());
    let one = tempdir().expect("temp");
    let node = support::node_with(one.path(), "http://127.0.0.1:1/announce", &registry, |config| {
        config.trackers.clear();
        let (name, url) = ("os".to_owned(), web.url("/repo"));
        config.ostree.push(OstreeConfig { name, url, ca: None, stale: true });
    })
    .await;
    let path = format!("blobs/{}", digests[0]);
    assert_eq!(fetch_as(&node, "app", &path, Some("Basic eA==")).await.body, layer);
    let commit = object(&digests[0], "commit");
    let at = format!("/ostree/os/{commit}");
    assert_eq!(get(&node, &at).await.status, 404, "the web server has no such thing");
    // One that says it had, and has not, gives no more than its own bytes.
    web.put(&format!("/repo/{commit}"), noise(200_000, 8), &[]);
    assert_ne!(get(&node, &at).await.body, layer);
    assert_eq!(fetch_as(&node, "app", &path, None).await.status, 401, "nor is it for everybody now");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_is_not_listed_decides_for_no_client_of_another() {
    let (web, registry) = (Web::start().await, Registry::start().await);
    let layer = noise(30_000_000, 9);
    let (_, digests) = registry.add_image(std::slice::from_ref(&layer));
    let path = format!("/by-hash/{}", digests[0].hex());
    web.put_file(&path, File { bytes: vec![0; layer.len()].into(), slow: true, ..File::default() });
    let (_tracker, announce) = tracker().await;
    let (one, two) = (tempdir().expect("temp"), tempdir().expect("temp"));
    let start = |folder| support::node_with(folder, &announce, &registry, |config| by_hash(config, &web));
    let (first, second) = (start(one.path()).await, start(two.path()).await);
    let (proxy, url) = (through(&first), web.url(&path));
    let lie = tokio::spawn(async move { ask(proxy.get(url)).await });
    until(|| web.sent(&path) > 0).await;
    // Of the node that is lied to, and of one that would wait for it.
    let layer_path = format!("blobs/{}", digests[0]);
    for node in [&first, &second] {
        let answer = fetch_as(node, "app", &layer_path, None).await;
        assert!(answer.whole && answer.body == layer);
    }
    assert!(!lie.await.expect("ends").whole);
    first.stop().await;
    second.stop().await;
}

/// Files of the web are known by the digest in their URL.
fn by_hash(config: &mut Config, web: &Web) {
    config.proxy.enabled = true;
    config.proxy.private_hosts.push(web.address.to_string());
    config.proxy.rules = vec![rule(web.url("/by-hash/{sha256}"))];
}

async fn until(what: impl Fn() -> bool) {
    let seen = async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), seen).await.expect("it comes to that");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_place_that_is_not_listed_does_not_keep_a_blob_from_being_kept() {
    let (web, registry) = (Web::start().await, Registry::start().await);
    let layer = noise(3_000_000, 24);
    let (_, digests) = registry.add_image(std::slice::from_ref(&layer));
    let path = format!("/by-hash/{}", digests[0].hex());
    let gate = CancellationToken::new();
    let file = File { bytes: layer.clone().into(), halts: Some(gate.clone()), ..File::default() };
    web.put_file(&path, file);
    let ((_tracker, announce), one) = (tracker().await, tempdir().expect("temp"));
    let node = support::node_with(one.path(), &announce, &registry, |config| by_hash(config, &web)).await;
    let (proxy, url) = (through(&node), web.url(&path));
    let slow = tokio::spawn(async move { ask(proxy.get(url)).await });
    until(|| web.sent(&path) > 0).await;
    for _ in 0..2 {
        let answer = fetch_as(&node, "app", &format!("blobs/{}", digests[0]), None).await;
        assert!(answer.whole && answer.body == layer);
    }
    assert_eq!(registry.sent(&digests[0]), layer.len() as u64, "one copy, which is kept");
    // Whoever was given a part of what nothing had proven comes back for the rest.
    let part = slow.await.expect("ends");
    assert!(!part.whole && layer.starts_with(&part.body));
    let rest = through(&node).get(web.url(&path)).header("range", format!("bytes={}-", part.body.len()));
    let rest = ask(rest).await;
    assert!(rest.whole && rest.body == layer[part.body.len()..]);
    gate.cancel();
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waited_for_one_that_is_refused_is_not_given_what_another_place_says_that_it_is() {
    let (web, registry) = (Web::start().await, Registry::start().await);
    let layer = noise(3_000_000, 26);
    let (_, digests) = registry.add_image(std::slice::from_ref(&layer));
    registry.shop.closed.lock().expect("unpoisoned").insert("app".into(), "Basic eA==".into());
    let (path, blob) = (format!("/by-hash/{}", digests[0].hex()), format!("blobs/{}", digests[0]));
    let halts = CancellationToken::new();
    let lie = vec![0; layer.len()];
    web.put_file(&path, File { bytes: lie.into(), halts: Some(halts.clone()), ..File::default() });
    let ((_tracker, announce), one) = (tracker().await, tempdir().expect("temp"));
    let node = support::node_with(one.path(), &announce, &registry, |config| by_hash(config, &web)).await;
    let node = std::sync::Arc::new(node);
    let gated = |shown: Option<&'static str>| {
        let gate = CancellationToken::new();
        *registry.shop.gate.lock().expect("unpoisoned") = Some(gate.clone());
        let (node, blob) = (node.clone(), blob.clone());
        (gate, tokio::spawn(async move { fetch_as(&node, "app", &blob, shown).await }))
    };
    let (first, stranger) = gated(None);
    until(|| registry.asked().len() == 1).await;
    let (second, friend) = gated(Some("Basic eA=="));
    // By then it waits for what the other is given; where it does not yet, there is less to be seen here.
    tokio::time::sleep(Duration::from_millis(300)).await;
    first.cancel();
    until(|| registry.asked().len() > 1).await;
    let (proxy, url) = (through(&node), web.url(&path));
    let misled = tokio::spawn(async move { ask(proxy.get(url)).await });
    until(|| web.sent(&path) > 0).await;
    *registry.shop.gate.lock().expect("unpoisoned") = None;
    second.cancel();
    let answer = friend.await.expect("ends");
    assert!(answer.whole && answer.body == layer, "{} with {} bytes", answer.status, answer.body.len());
    assert_eq!(stranger.await.expect("ends").status, 401);
    halts.cancel();
    assert!(!misled.await.expect("ends").whole);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_to_be_here_for_others_while_a_server_lets_wait_is_not_given_in_its_name() {
    let (web, registry) = (Web::start().await, Registry::start().await);
    let (layer, other) = (noise(20_000_000, 25), vec![0; 20_000_000]);
    let (_, digests) = registry.add_image(std::slice::from_ref(&layer));
    registry.shop.closed.lock().expect("unpoisoned").insert("app".into(), "Basic eA==".into());
    let (folder, _) = support::lender(&layer);
    let gate = CancellationToken::new();
    let base64 = base64::engine::general_purpose::STANDARD.encode(digests[0].as_bytes());
    let headers = vec![("repr-digest", format!("sha-256=:{base64}:"))];
    let file = File { bytes: other.clone().into(), headers, waits: Some(gate.clone()), ..File::default() };
    web.put_file("/a", file);
    let (_tracker, announce) = support::tracker_with(Some("sesame".to_owned())).await;
    let one = tempdir().expect("temp");
    let node = support::node_with(one.path(), &announce, &registry, |config| {
        let file = one.path().join("token");
        std::fs::write(&file, "sesame").expect("writes");
        config.directory_token_file = Some(file);
        config.store.borrow = vec![folder.path().to_owned()];
        config.proxy.enabled = true;
        config.proxy.private_hosts.push(web.address.to_string());
        config.proxy.rules = vec![rule(web.url("/a"))];
    })
    .await;
    let (proxy, url) = (through(&node), web.url("/a"));
    let asked = tokio::spawn(async move { ask(proxy.get(url)).await });
    let base = announce.trim_end_matches("/announce").to_owned();
    let directory = api::DirectoryClient::new([base], Some("sesame")).expect("client");
    // The second time for its length, by when the client waits.
    let heads =
        || web.folder.asked.lock().expect("unpoisoned").iter().filter(|(how, ..)| how == "HEAD").count();
    let borrowed = async {
        while directory.get(&digests[0]).await.expect("answers").is_none() || heads() < 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), borrowed).await.expect("it is borrowed and offered");
    gate.cancel();
    let answer = asked.await.expect("ends");
    assert!(answer.body != layer, "the server never had it");
    assert!(other.starts_with(&answer.body), "it gave this");
    let blob = format!("blobs/{}", digests[0]);
    assert_eq!(fetch_as(&node, "app", &blob, None).await.status, 401, "nor is it for everybody now");
    let entry = directory.get(&digests[0]).await.expect("answers");
    assert_eq!(entry.map(|entry| entry.public), Some(false));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_a_rule_are_known_by_url_header_or_etag() {
    let web = Web::start().await;
    let files: Vec<Vec<u8>> = (10..14).map(|seed| noise(150_000, seed)).collect();
    let digest = |n: usize| Digest::of(&files[n]);
    let base64 = base64::engine::general_purpose::STANDARD.encode(digest(1).as_bytes());
    let paths =
        [format!("/by-hash/{}", digest(0).hex()), "/a/digest".into(), "/a/etag".into(), "/a/none".into()];
    web.put(&paths[0], files[0].clone(), &[]);
    web.put(&paths[1], files[1].clone(), &[("repr-digest", &format!("sha-256=:{base64}:"))]);
    web.put(&paths[2], files[2].clone(), &[("etag", "\"v1\""), ("content-type", "text/x-mine")]);
    web.put(&paths[3], files[3].clone(), &[("etag", "W/\"v1\"")]);
    let (tracker, url) = tracker().await;
    let (one, two) = (tempdir().expect("temp"), tempdir().expect("temp"));
    let rules = |config: &mut Config| {
        config.proxy.rules = vec![rule(web.url("/by-hash/{sha256}")), rule(web.url("/a/**"))];
    };
    let first = node(one.path(), &url, &web, rules).await;
    let second = node(two.path(), &url, &web, rules).await;
    for _ in 0..2 {
        for node in [&first, &second] {
            for (path, bytes) in paths.iter().zip(&files) {
                let answer = ask(through(node).get(web.url(path))).await;
                assert!(answer.whole && answer.body == *bytes, "{path}");
            }
        }
    }
    let sent: Vec<usize> = paths.iter().map(|path| web.sent(path) / 150_000).collect();
    assert_eq!(sent, [1, 1, 1, 4], "what cannot be told from another version is passed on");
    let part = ask(through(&first).get(web.url(&paths[2])).header("range", "bytes=100-199")).await;
    assert_eq!((part.status, part.body.as_slice()), (206, &files[2][100..200]));
    // A new version is seen.
    web.put(&paths[2], files[3].clone(), &[("etag", "\"v2\"")]);
    assert_eq!(ask(through(&first).get(web.url(&paths[2]))).await.body, files[3]);
    web.go_down();
    let old = ask(through(&second).get(web.url(&paths[1]))).await;
    assert!(old.body == files[1] && old.headers.contains_key("warning"));
    first.stop().await;
    second.stop().await;
    tracker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tunnels_lead_to_listed_hosts_and_ports_only() {
    let web = Web::start().await;
    web.put("/hello", "hello", &[]);
    let one = tempdir().expect("temp");
    let node = node(one.path(), "http://127.0.0.1:1/announce", &web, |config| config.trackers.clear()).await;
    let connect = async |to: &str| {
        let mut stream = TcpStream::connect(node.mirrors()[0]).await.expect("connects");
        // What comes behind the head belongs into the tunnel.
        let request = format!(
            "CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\nGET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut text = Vec::new();
        stream.read_to_end(&mut text).await.expect("read");
        String::from_utf8_lossy(&text).into_owned()
    };
    let text = connect(&web.address.to_string()).await;
    let (head, rest) = text.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200") && rest.ends_with("hello"), "{text}");
    for to in [node.mirrors()[0].to_string(), "127.0.0.1:22".to_owned(), "localhost:443".to_owned()] {
        assert!(connect(&to).await.starts_with("HTTP/1.1 403"), "{to}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_is_no_proxy_says_so() {
    let web = Web::start().await;
    let one = tempdir().expect("temp");
    let node = node(one.path(), "http://127.0.0.1:1/announce", &web, |config| {
        config.trackers.clear();
        config.proxy.enabled = false;
    })
    .await;
    let answer = ask(through(&node).get(web.url("/repo/config"))).await;
    assert_eq!(answer.status, 403);
    assert!(String::from_utf8_lossy(&answer.body).contains("[proxy]"));
    assert!(web.folder.asked.lock().expect("unpoisoned").is_empty());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_that_another_node_draws_for_long_leaves_its_server_about_once() {
    let web = Web::start().await;
    let (filez, content) = filez(&noise(32 << 20, 20));
    let headers = vec![("etag", "\"1\"".to_owned())];
    let file = File { bytes: content.clone().into(), headers, slow: true, ..File::default() };
    web.put_file(&format!("/repo/{filez}"), file);
    let (tracker, url) = tracker().await;
    let (one, two) = (tempdir().expect("temp"), tempdir().expect("temp"));
    let impatient = |config: &mut Config| config.content.stall_seconds = 1;
    let first = node(one.path(), &url, &web, impatient).await;
    let second = node(two.path(), &url, &web, impatient).await;
    let path = format!("/ostree/os/{filez}");
    let later = async {
        while web.sent(&format!("/repo/{filez}")) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        get(&second, &path).await
    };
    let (a, b) = tokio::join!(get(&first, &path), later);
    for answer in [a, b] {
        assert!(answer.whole && answer.body == content);
    }
    let sent = web.sent(&format!("/repo/{filez}"));
    // What a trickle costs is what the sockets' buffers hold.
    assert!(sent < content.len() + content.len() / 2, "{sent}");
    first.stop().await;
    second.stop().await;
    tracker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_there_is_no_room_for_is_passed_on_whole_and_not_kept() {
    let web = Web::start().await;
    let content = noise(3_000_000, 21);
    let put = |path: &str, unsized_: bool| {
        let headers = vec![("etag", "\"1\"".to_owned())];
        web.put_file(path, File { bytes: content.clone().into(), headers, unsized_, ..File::default() });
    };
    put("/a/said", false);
    put("/a/unsaid", true);
    let one = tempdir().expect("temp");
    let node = node(one.path(), "http://127.0.0.1:1/announce", &web, |config| {
        config.trackers.clear();
        config.proxy.rules = vec![rule(web.url("/a/**"))];
        config.proxy.spool_mib = 1;
    })
    .await;
    for _ in 0..2 {
        for path in ["/a/said", "/a/unsaid"] {
            let answer = ask(through(&node).get(web.url(path))).await;
            assert!(answer.whole && answer.body == content, "{path}");
        }
    }
    assert_eq!(web.sent("/a/said"), 2 * content.len());
    // A small one has room all the same, now that nothing is on its way.
    web.put("/a/small", vec![7; 1000], &[("etag", "\"1\"")]);
    for _ in 0..2 {
        assert_eq!(ask(through(&node).get(web.url("/a/small"))).await.body, vec![7; 1000]);
    }
    assert_eq!(web.sent("/a/small"), 1000);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_made_for_one_asker_is_passed_on_and_kept_nowhere() {
    let web = Web::start().await;
    let content = noise(50_000, 22);
    let all = [
        ("/a/private", ("cache-control", "private, max-age=60")),
        ("/a/vary", ("vary", "Accept")),
        ("/a/packed", ("content-encoding", "gzip")),
        ("/a/cookie", ("set-cookie", "a=b")),
    ];
    for (path, header) in all {
        web.put(path, content.clone(), &[("etag", "\"1\""), header]);
    }
    let secret = File { bytes: content.clone().into(), token: Some("s3cret"), ..File::default() };
    web.put_file("/a/token", secret);
    let one = tempdir().expect("temp");
    let node = node(one.path(), "http://127.0.0.1:1/announce", &web, |config| {
        config.trackers.clear();
        config.proxy.rules = vec![rule(web.url("/a/**"))];
    })
    .await;
    for _ in 0..2 {
        for (path, (name, value)) in all {
            let answer = ask(through(&node).get(web.url(path))).await;
            assert!(answer.whole && answer.body == content, "{path}");
            assert_eq!(answer.headers[name], value);
        }
        // Rights that are shown in a way of a server's own.
        let with = ask(through(&node).get(web.url("/a/token")).header("x-token", "s3cret")).await;
        assert!(with.whole && with.body == content);
        assert_eq!(ask(through(&node).get(web.url("/a/token"))).await.status, 401);
    }
    for path in all.map(|(path, _)| path).into_iter().chain(["/a/token"]) {
        assert_eq!(web.sent(path), 2 * content.len(), "{path}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_leads_inside_is_refused_whatever_it_is_called() {
    let inside = Web::start().await;
    inside.put("/secret", "secret", &[]);
    let port = inside.address.port();
    let one = tempdir().expect("temp");
    let node = node(one.path(), "http://127.0.0.1:1/announce", &inside, |config| {
        config.trackers.clear();
        config.ostree.clear();
        config.proxy.private_hosts.clear();
        config.proxy.hosts = vec!["*".into(), format!("localhost:{port}"), format!("127.0.0.1:{port}")];
        config.proxy.connect_ports = vec![443, port];
    })
    .await;
    let proxied = through(&node);
    for host in ["localhost", "127.0.0.1", "LOCALHOST", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]"] {
        let answer = ask(proxied.get(format!("http://{host}:{port}/secret"))).await;
        assert_eq!(answer.status, 403, "{host}");
        let mut stream = TcpStream::connect(node.mirrors()[0]).await.expect("connects");
        let request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut text = Vec::new();
        stream.read_to_end(&mut text).await.expect("read");
        let text = String::from_utf8_lossy(&text);
        assert!(text.starts_with("HTTP/1.1 403"), "{host}: {text}");
    }
    assert!(inside.folder.asked.lock().expect("unpoisoned").is_empty());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_goes_in_a_circle_ends() {
    let web = Web::start().await;
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let address = free.local_addr().expect("bound");
    drop(free);
    let one = tempdir().expect("temp");
    let node = node(one.path(), "http://127.0.0.1:1/announce", &web, |config| {
        config.trackers.clear();
        config.mirror.listen = vec![address];
        let (name, url) = ("circle".to_owned(), format!("http://{address}/ostree/circle"));
        config.ostree.push(OstreeConfig { name, url, ca: None, stale: false });
    })
    .await;
    let commit = object(&Digest::of(b"x"), "commit");
    for path in ["config", "what/else", commit.as_str()] {
        let answer = get(&node, &format!("/ostree/circle/{path}")).await;
        assert!(matches!(answer.status, 403 | 404), "{path}: {}", answer.status);
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_server_that_does_not_answer_is_left_alone_for_a_while() {
    let (web, dead) =
        (Web::start().await, TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port"));
    let address = dead.local_addr().expect("bound");
    let tries = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = tries.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = dead.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            drop(stream);
        }
    });
    let one = tempdir().expect("temp");
    let node = node(one.path(), "http://127.0.0.1:1/announce", &web, |config| {
        config.trackers.clear();
        let (name, url) = ("dead".to_owned(), format!("http://{address}/repo"));
        config.ostree.push(OstreeConfig { name, url, ca: None, stale: true });
    })
    .await;
    assert_eq!(get(&node, "/ostree/dead/config").await.status, 503);
    let first = tries.load(Ordering::Relaxed);
    assert!(first > 1, "it was tried more than once");
    for path in ["config", "what/else"] {
        assert_eq!(get(&node, &format!("/ostree/dead/{path}")).await.status, 503, "{path}");
    }
    // What OSTree can do without is not there, at once.
    assert_eq!(get(&node, "/ostree/dead/summary.sig").await.status, 404);
    assert_eq!(tries.load(Ordering::Relaxed), first);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn delta_indexes_and_superblocks_are_asked_for_at_each_use_and_given_while_the_server_is_down() {
    let web = Web::start().await;
    let paths = ["delta-indexes/ab/cdef.index", "deltas/ab/cdef/superblock"];
    for path in paths {
        web.put(&format!("/repo/{path}"), "one", &[("etag", "\"1\"")]);
    }
    let one = tempdir().expect("temp");
    let node = node(one.path(), "http://127.0.0.1:1/announce", &web, |config| config.trackers.clear()).await;
    for (etag, bytes) in [("\"1\"", "one"), ("\"2\"", "three")] {
        for path in paths {
            web.put(&format!("/repo/{path}"), bytes, &[("etag", etag)]);
            for _ in 0..2 {
                assert_eq!(get(&node, &format!("/ostree/os/{path}")).await.body, bytes.as_bytes());
            }
        }
    }
    assert_eq!(web.sent("/repo/delta-indexes/ab/cdef.index"), "onethree".len());
    web.go_down();
    for path in paths {
        let answer = get(&node, &format!("/ostree/os/{path}")).await;
        assert!(answer.body == b"three" && answer.headers.contains_key("warning"), "{path}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ref_that_is_not_for_everybody_is_passed_on_and_kept_nowhere() {
    let web = Web::start().await;
    let all = [("cache-control", "private"), ("set-cookie", "a=b"), ("content-encoding", "gzip")];
    for (number, (name, value)) in all.into_iter().enumerate() {
        web.put(&format!("/repo/refs/heads/{number}"), "secret", &[(name, value), ("etag", "\"1\"")]);
    }
    let one = tempdir().expect("temp");
    let node = node(one.path(), "http://127.0.0.1:1/announce", &web, |config| config.trackers.clear()).await;
    for (number, (name, value)) in all.into_iter().enumerate() {
        let answer = get(&node, &format!("/ostree/os/refs/heads/{number}")).await;
        assert_eq!(
            (answer.body.as_slice(), &answer.headers[name]),
            (&b"secret"[..], &value.parse().expect("a value"))
        );
    }
    web.go_down();
    for number in 0..all.len() {
        assert_ne!(get(&node, &format!("/ostree/os/refs/heads/{number}")).await.body, b"secret", "{number}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_ends_with_its_connection_is_kept_by_nobody() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let url = format!("http://{}/file", listener.local_addr().expect("bound"));
    let asked = Arc::new(AtomicUsize::new(0));
    let times = asked.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.is_ok_and(|got| got > 0) {}
            let body = if head.starts_with(b"GET") { "half of i" } else { "" };
            times.fetch_add(body.len().min(1), Ordering::Relaxed);
            let answer = format!("HTTP/1.1 200 OK\r\netag: \"1\"\r\nconnection: close\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).await.expect("taken");
        }
    });
    let (web, one) = (Web::start().await, tempdir().expect("temp"));
    let node = node(one.path(), "http://127.0.0.1:1/announce", &web, |config| {
        config.trackers.clear();
        config.proxy.private_hosts = vec![url.split('/').nth(2).expect("a host").to_owned()];
        config.proxy.rules = vec![rule(url.clone())];
    })
    .await;
    for round in 1..=2 {
        let before = asked.load(Ordering::Relaxed);
        assert_eq!(ask(through(&node).get(&url)).await.body, b"half of i");
        assert!(asked.load(Ordering::Relaxed) > before, "round {round} came from what was kept");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_says_its_length_once_and_no_line_of_it_is_another_header() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 4096];
            let _ = stream.read(&mut head).await;
            let answer = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\nConnection: close, X-Hop\r\n\
                X-Hop: 1\r\nKeep-Alive: 9\r\nProxy-Authenticate: Basic\r\nX-End: a\r\n\r\nhello";
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    let web = Web::start().await;
    let one = tempdir().expect("temp");
    let node = node(one.path(), "http://127.0.0.1:1/announce", &web, |config| {
        config.trackers.clear();
        config.proxy.private_hosts.push(address.to_string());
    })
    .await;
    let answer = ask(through(&node).get(format!("http://{address}/x"))).await;
    assert!(answer.whole && answer.body == b"hello");
    assert!(answer.headers.get_all("content-length").iter().count() <= 1);
    for name in ["x-hop", "keep-alive", "proxy-authenticate"] {
        assert!(!answer.headers.contains_key(name), "{name}");
    }
    assert_eq!(answer.headers["x-end"], "a");
    // The URL says the host, whatever the header says; and a body of two lengths is no request.
    let exchange = async |text: String| {
        let mut stream = TcpStream::connect(node.mirrors()[0]).await.expect("connects");
        stream.write_all(text.as_bytes()).await.expect("sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("read");
        String::from_utf8_lossy(&answer).into_owned()
    };
    web.put("/where", "here", &[]);
    let url = web.url("/where");
    let text = exchange(format!("GET {url} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")).await;
    assert!(text.starts_with("HTTP/1.1 200") && text.ends_with("here"), "{text}");
    for smuggled in
        ["Content-Length: 4\r\nContent-Length: 5", "Content-Length: 4\r\nTransfer-Encoding: chunked, x"]
    {
        let text =
            format!("POST {url} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{smuggled}\r\n\r\n0\r\n\r\n");
        assert!(exchange(text).await.starts_with("HTTP/1.1 400"), "{smuggled}");
    }
    node.stop().await;
}
