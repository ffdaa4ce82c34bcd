//! What is told to the fleet of a file is right, or does not stay.

use std::{net::Ipv4Addr, sync::Arc, sync::atomic::AtomicUsize, sync::atomic::Ordering, time::Duration};

use api::{DirectoryClient, directory::TagRequest};
use hash::Digest;
use longshore_node::{Config, Node};
use tempfile::tempdir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use crate::{
    server::{Web, content_object, filez, get, node, object, rule, through},
    support::{ask, noise, tracker},
};

fn directory(announce: &str) -> DirectoryClient {
    DirectoryClient::new([announce.trim_end_matches("/announce")], None).expect("a client")
}

/// As the directory calls a file: by its URL, and by its ETag where it has one.
fn name(key: &str) -> String {
    format!("web:{}", Digest::of(format!("file {key}").as_bytes()).hex())
}

/// Tells the fleet which bytes a file is.
async fn tell(directory: &DirectoryClient, key: &str, bytes: &[u8]) {
    let (digest, size) = (Digest::of(bytes), bytes.len() as u64);
    let tag = TagRequest { name: name(key), digest, media_type: "a/b".to_owned(), size };
    directory.set_tag(&tag).await.expect("told");
}

/// Waits until the fleet has a file as these bytes.
async fn is_told(directory: &DirectoryClient, key: &str, bytes: &[u8]) {
    let told = async {
        while directory.tag(&name(key)).await.expect("answers").map(|tag| tag.target.digest)
            != Some(Digest::of(bytes))
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), told).await.expect("it is told");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_content_object_that_is_not_what_its_name_says_is_cut_and_told_to_nobody() {
    let web = Web::start().await;
    let (path, right) = filez(&noise(200_000, 1));
    let (url, own) = (web.url(&format!("/repo/{path}")), format!("/ostree/os/{path}"));
    let (tracker, announce) = tracker().await;
    let (one, two) = (tempdir().expect("temp"), tempdir().expect("temp"));
    let first = node(one.path(), &announce, &web, |_| {}).await;
    let second = node(two.path(), &announce, &web, |_| {}).await;
    let mut longer = right.clone();
    longer.push(0);
    let wrong = [filez(&noise(200_000, 2)).1, noise(200_000, 3), longer, right[..right.len() - 1].to_vec()];
    for wrong in wrong {
        web.put(&format!("/repo/{path}"), wrong.clone(), &[("etag", "\"1\"")]);
        let answer = get(&first, &own).await;
        assert!(!answer.whole && answer.body.len() < wrong.len());
        assert_eq!(directory(&announce).tag(&name(&url)).await.expect("answers"), None);
        assert_eq!(directory(&announce).get(&Digest::of(&wrong)).await.expect("answers"), None);
    }
    web.put(&format!("/repo/{path}"), right.clone(), &[("etag", "\"1\"")]);
    let answer = get(&first, &own).await;
    assert!(answer.whole && answer.body == right);
    is_told(&directory(&announce), &url, &right).await;
    web.go_down();
    assert_eq!(get(&second, &own).await.body, right);
    first.stop().await;
    second.stop().await;
    tracker.shutdown().await;
}

/// Two nodes with rules of which some say the digest.
async fn ruled(announce: &str, web: &Web) -> (Node, Node, [tempfile::TempDir; 2]) {
    let folders = [tempdir().expect("temp"), tempdir().expect("temp")];
    let rules = |config: &mut Config| {
        config.proxy.rules = vec![rule(web.url("/by-hash/{sha256}")), rule(web.url("/a/**"))];
    };
    let first = node(folders[0].path(), announce, web, rules).await;
    let second = node(folders[1].path(), announce, web, rules).await;
    (first, second, folders)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_the_fleet_has_wrong_is_drawn_anew_and_the_fleet_told() {
    let web = Web::start().await;
    let ((path, right), (_, wrong)) = (filez(&noise(200_000, 4)), content_object(&noise(200_000, 5)));
    web.put(&format!("/repo/{path}"), right.clone(), &[]);
    let by_hash = format!("/by-hash/{}", Digest::of(&wrong).hex());
    web.put(&by_hash, wrong.clone(), &[]);
    let (tracker, announce) = tracker().await;
    let (first, second, _folders) = ruled(&announce, &web).await;
    // The wrong bytes are in the fleet, rightly as what they are; and somebody says that the object is they.
    assert_eq!(ask(through(&first).get(web.url(&by_hash))).await.body, wrong);
    let (directory, url) = (directory(&announce), web.url(&format!("/repo/{path}")));
    tell(&directory, &url, &wrong).await;
    get(&second, &format!("/ostree/os/{path}")).await;
    is_told(&directory, &url, &right).await;
    for node in [&first, &second] {
        let answer = get(node, &format!("/ostree/os/{path}")).await;
        assert!(answer.whole && answer.body == right);
    }
    first.stop().await;
    second.stop().await;
    tracker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_word_of_the_directory_that_nobody_can_keep_gives_way_to_what_the_server_gives() {
    let web = Web::start().await;
    let (tracker, announce) = tracker().await;
    let (first, second, _folders) = ruled(&announce, &web).await;
    let directory = directory(&announce);
    let (content, lost, shorter) = (noise(150_000, 6), noise(150_000, 7), noise(149_999, 8));
    for (path, told) in [("/a/lost", lost), ("/a/shorter", shorter)] {
        web.put(path, content.clone(), &[("etag", "\"1\"")]);
        let key = format!("{} \"1\"", web.url(path));
        tell(&directory, &key, &told).await;
        let answer = ask(through(&first).get(web.url(path))).await;
        assert_eq!(answer.whole, path == "/a/shorter", "of another length it is not what was told");
        let answer = ask(through(&first).get(web.url(path))).await;
        assert!(answer.whole && answer.body == content, "{path}");
        is_told(&directory, &key, &content).await;
        let sent = web.sent(path);
        assert_eq!(ask(through(&second).get(web.url(path))).await.body, content);
        assert_eq!(web.sent(path), sent, "{path}");
    }
    first.stop().await;
    second.stop().await;
    tracker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_not_as_long_as_its_server_has_just_said_is_cut_and_kept_nowhere() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let asked = Arc::new(AtomicUsize::new(0));
    let times = asked.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.is_ok_and(|got| got > 0) {}
            let rest = if head.starts_with(b"GET") {
                times.fetch_add(1, Ordering::Relaxed);
                "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
            } else {
                "content-length: 9\r\n\r\n"
            };
            let answer = format!("HTTP/1.1 200 OK\r\netag: \"1\"\r\nconnection: close\r\n{rest}");
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    let (web, one) = (Web::start().await, tempdir().expect("temp"));
    let url = format!("http://{address}/file");
    let node = node(one.path(), "http://127.0.0.1:1/announce", &web, |config| {
        config.trackers.clear();
        config.proxy.private_hosts = vec![address.to_string()];
        config.proxy.rules = vec![rule(url.clone())];
    })
    .await;
    for round in 1..=2 {
        let answer = ask(through(&node).get(&url)).await;
        assert!(!answer.whole && answer.body.len() < 5);
        assert_eq!(asked.load(Ordering::Relaxed), round);
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_gives_to_its_asker_alone_is_offered_to_nobody_whatever_its_name_proves() {
    let web = Web::start().await;
    let (tracker, announce) = tracker().await;
    let (first, second, _folders) = ruled(&announce, &web).await;
    let directory = directory(&announce);
    for (seed, header) in [("cache-control", "private"), ("cache-control", "no-store"), ("set-cookie", "a=b")]
        .iter()
        .enumerate()
    {
        for by_hash in [true, false] {
            let content = noise(50_000, 100 + 2 * seed as u64 + u64::from(by_hash));
            let digest = Digest::of(&content);
            let path = if by_hash {
                format!("/by-hash/{}", digest.hex())
            } else {
                format!("/repo/{}", object(&digest, "commit"))
            };
            web.put(&path, content.clone(), &[*header]);
            for node in [&first, &second] {
                let answer = ask(through(node).get(web.url(&path))).await;
                assert!(answer.whole && answer.body == content, "{header:?} {path}: {}", answer.status);
            }
            assert_eq!(directory.get(&digest).await.expect("answers"), None, "{header:?} {path}");
            web.put(&path, "another", &[*header]);
            let answer = ask(through(&first).get(web.url(&path))).await;
            assert_eq!(answer.body, b"another", "{header:?} {path}: nothing was kept");
        }
    }
    first.stop().await;
    second.stop().await;
    tracker.shutdown().await;
}
