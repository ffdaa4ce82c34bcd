//! Nodes, a tracker and a registry in one process: the main job, and what may go wrong with it.
#![allow(clippy::expect_used, reason = "tests fail by panicking, their helpers too")]

mod support;

use std::{path::Path, sync::atomic::Ordering, time::Duration};

use api::{
    directory::TagClaim,
    node::{BlobState, BlobStatus, SourceKind},
};
use futures_util::future::{join, join_all};
use hash::Digest;
use longshore_node::Config;
use support::{Registry, api, fetch, impatient, lender, node, node_with, noise, tracker};
use tempfile::tempdir;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// A client may have the last byte a moment before the blob is committed.
async fn complete(node: &Path, digest: &Digest) -> BlobStatus {
    let looking = async {
        loop {
            match api(node).blob(digest).await.expect("answers") {
                Some(blob) if blob.state == BlobState::Complete => return blob,
                _ => sleep(Duration::from_millis(10)).await,
            }
        }
    };
    timeout(Duration::from_secs(20), looking).await.expect("committed in time")
}

#[tokio::test(flavor = "multi_thread")]
async fn six_cold_nodes_cost_the_registry_one_copy() {
    let registry = Registry::start().await;
    let layers = [noise(9_000_000, 1), noise(3_000_001, 2)];
    let (_, digests) = registry.add_image(&layers);
    let (_tracker, url) = tracker().await;
    let dirs: Vec<_> = (0..6).map(|_| tempdir().expect("temp")).collect();
    let nodes = join_all(dirs.iter().map(|dir| node(dir.path(), &url, &registry))).await;
    let (registry, nodes) = (&registry, &nodes);
    join_all(nodes.iter().map(async |node| {
        let manifest = fetch(node, "manifests/1").await;
        assert_eq!(manifest.status, 200);
        for (digest, layer) in digests.iter().zip(&layers) {
            let answer = fetch(node, &format!("blobs/{digest}")).await;
            assert!(answer.whole && answer.body == *layer);
        }
    }))
    .await;
    for (digest, layer) in digests.iter().zip(&layers) {
        assert_eq!(registry.sent(digest), layer.len() as u64, "{digest}");
    }
    let mut from_peers = 0;
    for dir in &dirs {
        from_peers += api(dir.path()).status().await.expect("answers").totals.from_peers;
    }
    let expected: usize = layers.iter().map(Vec::len).sum();
    assert!(from_peers >= 5 * expected as u64, "{from_peers}");
}

/// How many claims wait at a tracker.
async fn waiting_at(tracker: &str) -> u64 {
    let metrics = tracker.replace("/announce", "/metrics");
    let text = reqwest::get(metrics).await.expect("answers").text().await.expect("text");
    let line = text.lines().find_map(|line| line.strip_prefix("longshore_tracker_waiting_claims "));
    line.expect("is counted").parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_many_nodes_ask_for_at_one_moment_is_asked_of_the_registry_once() {
    let registry = Registry::start().await;
    let (manifest, _) = registry.add_image(&[noise(1000, 1)]);
    let (_tracker, url) = tracker().await;
    let dirs: Vec<_> = (0..6).map(|_| tempdir().expect("temp")).collect();
    let nodes = join_all(dirs.iter().map(|dir| node(dir.path(), &url, &registry))).await;
    let gate = CancellationToken::new();
    *registry.shop.gate.lock().expect("unpoisoned") = Some(gate.clone());
    let asking = join_all(nodes.iter().map(|node| fetch(node, "manifests/1")));
    let opening = async {
        while waiting_at(&url).await < 5 {
            sleep(Duration::from_millis(20)).await;
        }
        gate.cancel();
    };
    let (answers, ()) = timeout(Duration::from_secs(20), join(asking, opening)).await.expect("in time");
    for answer in &answers {
        assert_eq!((answer.status, Digest::of(&answer.body)), (200, manifest));
    }
    let asked = registry.asked();
    assert_eq!(asked, ["HEAD manifests/1".to_owned(), format!("GET manifests/{manifest}")]);

    let again = fetch(&nodes[3], "manifests/1").await;
    assert_eq!(again.status, 200);
    assert_eq!(registry.asked().len(), asked.len() + 1, "later, it is asked anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_the_registry_refuses_a_tag_do_not_wait_for_one_another_in_turn() {
    let registry = Registry::start().await;
    let (_tracker, url) = tracker().await;
    let dirs: Vec<_> = (0..4).map(|_| tempdir().expect("temp")).collect();
    let nodes = join_all(dirs.iter().map(|dir| node(dir.path(), &url, &registry))).await;
    let answers = join_all(nodes.iter().map(|node| fetch(node, "manifests/none"))).await;
    assert!(answers.iter().all(|answer| answer.status == 404));
    assert_eq!(waiting_at(&url).await, 0);
    // Whoever had the turn has given it back.
    let claimed = async {
        let directory = api::DirectoryClient::new([url.trim_end_matches("/announce")], None).expect("client");
        loop {
            let claim = directory.claim_tag("reg.test/team/app:none", "another", Duration::ZERO).await;
            if matches!(claim, Ok(TagClaim::Leased(_))) {
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(2), claimed).await.expect("before it runs out");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_registry_gone_a_second_node_serves_tag_and_digest_from_the_first() {
    let registry = Registry::start().await;
    let layer = noise(4_000_000, 3);
    let (manifest, digests) = registry.add_image(std::slice::from_ref(&layer));
    let (_tracker, url) = tracker().await;
    let (a_dir, b_dir) = (tempdir().expect("temp"), tempdir().expect("temp"));
    let (a, b) = (node(a_dir.path(), &url, &registry).await, node(b_dir.path(), &url, &registry).await);
    let first = fetch(&a, "manifests/1").await;
    assert!(first.headers.get("warning").is_none());
    assert!(fetch(&a, &format!("blobs/{}", digests[0])).await.body == layer);
    registry.stop();
    drop(registry);
    let stale = fetch(&b, "manifests/1").await;
    assert_eq!((stale.status, &stale.body), (200, &first.body));
    assert_eq!(stale.headers["content-type"], first.headers["content-type"]);
    let warning = stale.headers["warning"].to_str().expect("ascii");
    assert!(warning.contains("cannot be reached"), "{warning}");
    let by_digest = fetch(&b, &format!("manifests/{manifest}")).await;
    assert_eq!(by_digest.body, first.body);
    assert!(by_digest.headers.get("warning").is_none(), "a digest cannot be stale");
    assert!(fetch(&b, &format!("blobs/{}", digests[0])).await.body == layer);
    let status = complete(b_dir.path(), &digests[0]).await;
    let [source] = status.sources.as_slice() else { panic!("{:?}", status.sources) };
    assert_eq!((source.source.kind, source.bytes), (SourceKind::Peer, 4_000_000));
    assert_eq!(source.source.peer.as_deref(), Some(a.peers().to_string().as_str()));
    let info_hash = status.info_hash.expect("known");
    let provenance = api(b_dir.path()).provenance(&info_hash).await.expect("answers").expect("known");
    assert_eq!(provenance.runs.iter().map(|r| r.count).sum::<u32>(), 4_000_000u32.div_ceil(16384));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_lies_is_never_published_and_never_counted_complete() {
    let registry = Registry::start().await;
    let layer = noise(3_000_000, 4);
    let (_, digests) = registry.add_image(std::slice::from_ref(&layer));
    registry.shop.lies.store(true, Ordering::Relaxed);
    let (_tracker, url) = tracker().await;
    let dir = tempdir().expect("temp");
    let node = node(dir.path(), &url, &registry).await;
    let answer = fetch(&node, &format!("blobs/{}", digests[0])).await;
    assert!(!answer.whole && answer.body.len() < layer.len(), "a wrong blob is never handed over whole");
    let directory = api::DirectoryClient::new([url.trim_end_matches("/announce")], None).expect("client");
    assert_eq!(directory.get(&digests[0]).await.expect("answers"), None, "not published");
    assert_eq!(api(dir.path()).blob(&digests[0]).await.expect("answers"), None, "not kept");
    registry.shop.lies.store(false, Ordering::Relaxed);
    let answer = fetch(&node, &format!("blobs/{}", digests[0])).await;
    assert!(answer.whole && answer.body == layer, "once it tells the truth all is well");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_tracker_and_directory_the_origin_serves() {
    let registry = Registry::start().await;
    let layer = noise(2_000_000, 5);
    let (_, digests) = registry.add_image(std::slice::from_ref(&layer));
    let (tracker, url) = tracker().await;
    tracker.shutdown().await;
    let dir = tempdir().expect("temp");
    let node = node(dir.path(), &url, &registry).await;
    assert_eq!(fetch(&node, "manifests/1").await.status, 200);
    assert!(fetch(&node, &format!("blobs/{}", digests[0])).await.body == layer);
    let nothing = Digest::of(b"nothing");
    assert_eq!(fetch(&node, &format!("blobs/{nothing}")).await.status, 404);
    assert_eq!(fetch(&node, &format!("manifests/{nothing}")).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_only_holder_dies_the_origin_gives_the_rest() {
    let registry = Registry::start().await;
    let layer = noise(5_000_000, 6);
    let (_, digests) = registry.add_image(std::slice::from_ref(&layer));
    let (_tracker, url) = tracker().await;
    let (a_dir, b_dir) = (tempdir().expect("temp"), tempdir().expect("temp"));
    let a = node(a_dir.path(), &url, &registry).await;
    let manifest = fetch(&a, "manifests/1").await;
    assert!(fetch(&a, &format!("blobs/{}", digests[0])).await.body == layer);
    a.stop().await;
    let b = node_with(b_dir.path(), &url, &registry, impatient).await;
    let again = fetch(&b, "manifests/1").await;
    assert_eq!((again.status, again.body), (200, manifest.body), "manifests too");
    assert!(fetch(&b, &format!("blobs/{}", digests[0])).await.body == layer);
    let status = complete(b_dir.path(), &digests[0]).await;
    assert_eq!(status.sources.iter().map(|s| s.bytes).sum::<u64>(), 5_000_000);
    assert!(status.sources.iter().all(|s| s.source.kind == SourceKind::Origin), "{:?}", status.sources);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_reads_behind_the_origin_and_a_range_comes_from_what_is_there() {
    let registry = Registry::start().await;
    let layer = noise(6_000_000, 7);
    let (_, digests) = registry.add_image(std::slice::from_ref(&layer));
    registry.shop.rate.store(4_000_000, Ordering::Relaxed);
    let (_tracker, url) = tracker().await;
    let dir = tempdir().expect("temp");
    let node = node(dir.path(), &url, &registry).await;
    let url = format!("http://{}/v2/team/app/blobs/{}?ns=reg.test", node.mirrors()[0], digests[0]);
    let client = reqwest::Client::builder().no_proxy().build().expect("client");
    let mut early = client.get(&url).send().await.expect("answers");
    assert_eq!(early.content_length(), Some(6_000_000));
    let head = early.chunk().await.expect("bytes").expect("some");
    let blob = api(dir.path()).blob(&digests[0]).await.expect("answers").expect("known");
    assert_eq!(blob.state, BlobState::Fetching, "the head is here before the tail");
    assert!(layer.starts_with(&head));
    drop(early);
    let ranged = client.get(&url).header("range", "bytes=1000000-1999999").send().await.expect("answers");
    assert_eq!(ranged.status(), 206);
    assert_eq!(ranged.headers()["content-range"], "bytes 1000000-1999999/6000000");
    assert!(ranged.bytes().await.expect("whole") == layer[1_000_000..2_000_000]);
    assert!(client.get(&url).send().await.expect("answers").bytes().await.expect("whole") == layer);
    assert_eq!(registry.sent(&digests[0]), 6_000_000, "one copy, whoever came and went");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_half_way_goes_on_from_there() {
    let registry = Registry::start().await;
    let layer = noise(8_000_000, 8);
    let (_, digests) = registry.add_image(std::slice::from_ref(&layer));
    registry.shop.rate.store(4_000_000, Ordering::Relaxed);
    let (_tracker, url) = tracker().await;
    let dir = tempdir().expect("temp");
    let first = node(dir.path(), &url, &registry).await;
    let path = format!("blobs/{}", digests[0]);
    let half_way = async {
        while registry.sent(&digests[0]) < 4_000_000 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        _ = fetch(&first, &path) => panic!("it came whole before half of it had left"),
        () = half_way => {}
    }
    first.stop().await;
    let before = registry.sent(&digests[0]);
    assert!(before < 8_000_000, "{before}");
    let directory = api::DirectoryClient::new([url.trim_end_matches("/announce")], None).expect("client");
    let claim = directory.claim(&digests[0], "another", Duration::ZERO).await.expect("answers");
    let api::directory::Claim::Leased(lease) = claim else { panic!("given back at the end: {claim:?}") };
    directory.release(&digests[0], &lease.lease, "another").await.expect("released");
    registry.shop.rate.store(0, Ordering::Relaxed);
    let second = node(dir.path(), &url, &registry).await;
    let partial = api(dir.path()).blob(&digests[0]).await.expect("answers").expect("kept");
    assert_eq!(partial.state, BlobState::Partial);
    assert!(partial.bytes_done > 0);
    assert!(fetch(&second, &path).await.body == layer);
    let again = registry.sent(&digests[0]) - before;
    assert!(again < 8_000_000, "only what was missing, and at most a head start: {again}");
}

/// Says that a test is skipped, which in CI is a failure.
#[allow(clippy::disallowed_methods, clippy::print_stderr, reason = "a test asks whether this is CI")]
fn skip(why: &str) {
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "in CI nothing is skipped: {why}");
    eprintln!("skipped: {why}");
}

/// A file system of 8 MiB, where root may mount one.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let dir = tempdir().expect("temp");
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=8m", "longshore-test"])
            .arg(dir.path())
            .status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self(dir));
        }
        skip("a small file system cannot be mounted (root can)");
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_costs_the_copy_here_and_not_the_pull() {
    let Some(disk) = SmallDisk::mount() else { return };
    let registry = Registry::start().await;
    let layer = noise(20_000_000, 9);
    let (_, digests) = registry.add_image(std::slice::from_ref(&layer));
    let (_tracker, url) = tracker().await;
    let dir = tempdir().expect("temp");
    let data = disk.0.path().to_owned();
    let node = node_with(dir.path(), &url, &registry, |config| config.data = data).await;
    let answer = fetch(&node, &format!("blobs/{}", digests[0])).await;
    assert!(answer.whole && answer.body == layer);
    let kept = api(dir.path()).blob(&digests[0]).await.expect("answers");
    assert!(kept.is_none_or(|blob| blob.state != BlobState::Complete));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_by_reference_brings_the_whole_image_and_says_from_where() {
    let registry = Registry::start().await;
    let layers = [noise(3_000_000, 10), noise(1_000, 11)];
    let (manifest, digests) = registry.add_image(&layers);
    let (_tracker, url) = tracker().await;
    let dir = tempdir().expect("temp");
    let _node = node(dir.path(), &url, &registry).await;
    let request = api::node::PullRequest { reference: "reg.test/team/app:1".into(), platform: None };
    let mut events = api(dir.path()).pull(&request).await.expect("starts");
    let mut last = None;
    while let Some(event) = events.next().await.expect("readable") {
        last = Some(event);
    }
    let Some(api::node::PullEvent::Done { digest, from_origin, from_peers, .. }) = last else {
        panic!("{last:?}")
    };
    assert_eq!((digest, from_peers), (manifest, 0));
    assert!(from_origin >= 3_001_000, "{from_origin}");
    for digest in digests {
        let blob = api(dir.path()).blob(&digest).await.expect("answers").expect("here");
        assert_eq!(blob.state, BlobState::Complete);
    }
    let nonsense = api::node::PullRequest { reference: "No Such Thing".into(), platform: None };
    assert!(api(dir.path()).pull(&nonsense).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_one_platform_is_not_pulled_for_another() {
    let registry = Registry::start().await;
    let layer = noise(1_000_000, 14);
    let (_, digests) = registry.add_image(std::slice::from_ref(&layer));
    let (_tracker, url) = tracker().await;
    let dir = tempdir().expect("temp");
    let _node = node(dir.path(), &url, &registry).await;
    let last = async |platform: &str| {
        let platform = Some(platform.parse().expect("a platform"));
        let request = api::node::PullRequest { reference: "reg.test/team/app:1".into(), platform };
        let mut events = api(dir.path()).pull(&request).await.expect("starts");
        let mut last = None;
        while let Some(event) = events.next().await.expect("readable") {
            last = Some(event);
        }
        last.expect("an event")
    };
    let refused = last("linux/arm64").await;
    let words =
        matches!(&refused, api::node::PullEvent::Failed { error } if error.contains("only linux/amd64"));
    assert!(words, "{refused:?}");
    assert_eq!(registry.sent(&digests[0]), 0, "no layer is fetched for it");
    let done = last("linux/amd64").await;
    assert!(
        matches!(done, api::node::PullEvent::Done { from_origin, .. } if from_origin >= 1_000_000),
        "{done:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_waits_for_a_slow_first_copy_answers_its_client_all_the_same() {
    let registry = Registry::start().await;
    let layer = noise(6_000_000, 12);
    let (_, digests) = registry.add_image(std::slice::from_ref(&layer));
    // The first copy takes longer than a client is let wait for the size.
    registry.shop.rate.store(1_500_000, Ordering::Relaxed);
    let (_tracker, url) = tracker().await;
    let (a_dir, b_dir) = (tempdir().expect("temp"), tempdir().expect("temp"));
    let (a, b) = (node(a_dir.path(), &url, &registry).await, node(b_dir.path(), &url, &registry).await);
    let path = format!("blobs/{}", digests[0]);
    let (first, second) = tokio::join!(fetch(&a, &path), fetch(&b, &path));
    assert!(first.whole && first.body == layer);
    assert_eq!(second.status, 200);
    assert!(second.whole && second.body == layer);
    assert_eq!(registry.sent(&digests[0]), 6_000_000, "one copy all the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torrent_that_lies_about_the_size_costs_one_pull_and_no_more() {
    let registry = Registry::start().await;
    let layer = noise(3_145_726, 13);
    let (_, digests) = registry.add_image(std::slice::from_ref(&layer));
    let (_tracker, url) = tracker().await;
    let lie = bencode::encode_dict(|info| {
        info.unsigned(b"length", 20 * 262_144);
        info.bytes(b"name", digests[0].hex().as_bytes());
        info.unsigned(b"piece length", 262_144);
        info.bytes(b"pieces", &[0; 20 * 20]);
        info.bytes(b"sha256", digests[0].as_bytes());
        info.bytes(b"sha256 states", &[0; 19 * 32]);
    });
    let directory = api::DirectoryClient::new([url.trim_end_matches("/announce")], None).expect("client");
    let publish = api::directory::PublishRequest {
        info: lie.into(),
        media_type: None,
        public: true,
        content: bytes::Bytes::new(),
        lease: None,
    };
    directory.publish(&digests[0], &publish).await.expect("it looks like a torrent of this blob");
    let dir = tempdir().expect("temp");
    let node = node_with(dir.path(), &url, &registry, impatient).await;
    let path = format!("blobs/{}", digests[0]);
    let misled = fetch(&node, &path).await;
    assert!(!misled.whole || misled.body == layer, "nothing wrong looks whole");
    let healed = fetch(&node, &path).await;
    assert!(healed.whole && healed.body == layer);
    // The client has it a moment before the fleet is told.
    let told = async {
        while directory.get(&digests[0]).await.expect("answers").is_none_or(|entry| entry.size != 3_145_726) {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(20), told).await.expect("the truth takes the lie's place");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifests_own_media_type_goes_before_the_directorys() {
    let registry = Registry::start().await;
    let (manifest, _) = registry.add_image(&[noise(1000, 14)]);
    let (_tracker, url) = tracker().await;
    let (a_dir, b_dir) = (tempdir().expect("temp"), tempdir().expect("temp"));
    let (a, b) = (node(a_dir.path(), &url, &registry).await, node(b_dir.path(), &url, &registry).await);
    let path = format!("manifests/{manifest}");
    let truth = fetch(&a, &path).await;
    let directory = api::DirectoryClient::new([url.trim_end_matches("/announce")], None).expect("client");
    let entry = directory.get(&manifest).await.expect("answers").expect("published");
    let media_type = Some("text/html".to_owned());
    let lie = api::directory::PublishRequest {
        info: entry.info,
        media_type,
        public: true,
        content: bytes::Bytes::new(),
        lease: None,
    };
    directory.publish(&manifest, &lie).await.expect("anyone may publish");
    assert_eq!(directory.get(&manifest).await.expect("answers").expect("there").media_type, lie.media_type);
    let told = fetch(&b, &path).await;
    assert_eq!((told.status, &told.body), (200, &truth.body));
    assert_eq!(told.headers["content-type"], truth.headers["content-type"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_whose_file_was_removed_or_cut_is_fetched_anew() {
    let registry = Registry::start().await;
    let layers = [noise(300_000, 15), noise(300_000, 16)];
    let (_, digests) = registry.add_image(&layers);
    let (_tracker, url) = tracker().await;
    let dir = tempdir().expect("temp");
    let node = node_with(dir.path(), &url, &registry, impatient).await;
    for (layer, digest) in layers.iter().zip(&digests) {
        assert!(fetch(&node, &format!("blobs/{digest}")).await.body == *layer);
        complete(dir.path(), digest).await;
    }
    let file = |digest: &Digest| {
        let store = dir.path().join("data");
        let mut folders = vec![store];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("readable") {
                let path = entry.expect("readable").path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.ends_with(digest.hex()) {
                    return path;
                }
            }
        }
        panic!("{digest} lies nowhere");
    };
    std::fs::remove_file(file(&digests[0])).expect("removed");
    std::fs::File::options().write(true).open(file(&digests[1])).expect("opens").set_len(1000).expect("cut");
    for (layer, digest) in layers.iter().zip(&digests) {
        let answer = fetch(&node, &format!("blobs/{digest}")).await;
        assert!(answer.status == 200 && answer.whole && answer.body == *layer, "{}", answer.status);
        complete(dir.path(), digest).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_image_or_lies_about_its_sizes_is_not_said_to_be_here() {
    let registry = Registry::start().await;
    let layer = noise(1000, 17);
    let (_, digests) = registry.add_image(std::slice::from_ref(&layer));
    let add = |tag: &str, manifest: serde_json::Value| {
        let bytes = serde_json::to_vec(&manifest).expect("serialises");
        let digest = Digest::of(&bytes).to_string();
        let mut manifests = registry.shop.manifests.lock().expect("unpoisoned");
        manifests.insert(digest.clone(), bytes.clone().into());
        manifests.insert(tag.to_owned(), bytes.into());
        digest
    };
    add("empty", serde_json::json!({}));
    let lie = serde_json::json!({"digest": digests[0].to_string(), "size": u64::MAX});
    add("lie", serde_json::json!({"layers": [lie]}));
    let platform = serde_json::json!({"os": "linux", "architecture": "x"});
    let inner =
        add("inner", serde_json::json!({"manifests": [{"digest": digests[0].to_string(), "size": 1}]}));
    add("outer", serde_json::json!({"manifests": [{"digest": inner, "size": 1, "platform": platform}]}));
    let (_tracker, url) = tracker().await;
    let dir = tempdir().expect("temp");
    let _node = node(dir.path(), &url, &registry).await;
    for (tag, why) in [("empty", "no image"), ("lie", "the manifest says"), ("outer", "an index itself")] {
        let reference = format!("reg.test/team/app:{tag}");
        let platform = (tag == "outer").then(|| "linux/x".parse().expect("a platform"));
        let request = api::node::PullRequest { reference, platform };
        let mut events = api(dir.path()).pull(&request).await.expect("begins");
        let mut last = None;
        while let Some(event) = events.next().await.expect("whole") {
            last = Some(event);
        }
        let Some(api::node::PullEvent::Failed { error }) = last else { panic!("{tag}: {last:?}") };
        assert!(error.contains(why), "{tag}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_used_least_lately_leaves_a_store_that_is_too_large_and_comes_again() {
    let registry = Registry::start().await;
    let layers = [noise(3_000_000, 1), noise(3_000_001, 2), noise(3_000_002, 3)];
    let (_, digests) = registry.add_image(&layers);
    let (_tracker, url) = tracker().await;
    let dir = tempdir().expect("temp");
    let first = node(dir.path(), &url, &registry).await;
    for digest in [&digests[1], &digests[0], &digests[2]] {
        assert!(fetch(&first, &format!("blobs/{digest}")).await.whole);
        complete(dir.path(), digest).await;
        // Uses are told apart by the second.
        sleep(Duration::from_millis(1100)).await;
    }
    let directory = api::DirectoryClient::new([url.trim_end_matches("/announce")], None).expect("client");
    let seeds =
        async |digest: &Digest| directory.get(digest).await.expect("answers").and_then(|e| e.complete);
    assert_eq!(seeds(&digests[1]).await, Some(1));
    first.stop().await;

    let limited = |config: &mut Config| {
        (config.store.limit_mib, config.store.keep_minutes) = (6, 0);
        impatient(config);
    };
    let second = node_with(dir.path(), &url, &registry, limited).await;
    let gone = async {
        while api(dir.path()).status().await.expect("answers").totals.evicted == 0 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(20), gone).await.expect("soon");
    assert_eq!(api(dir.path()).blob(&digests[1]).await.expect("answers"), None);
    for digest in [&digests[0], &digests[2]] {
        assert_eq!(complete(dir.path(), digest).await.state, BlobState::Complete);
    }
    assert_eq!(api(dir.path()).status().await.expect("answers").totals.evicted, 3_000_001);
    let withdrawn = async {
        while seeds(&digests[1]).await != Some(0) || seeds(&digests[0]).await != Some(1) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(20), withdrawn).await.expect("soon");
    let again = fetch(&second, &format!("blobs/{}", digests[1])).await;
    assert!(again.whole && again.body == layers[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_grows_beyond_its_limit_loses_the_oldest_at_once() {
    let registry = Registry::start().await;
    let layers = [noise(700_000, 1), noise(700_001, 2), noise(700_002, 3)];
    let (_, digests) = registry.add_image(&layers);
    let dir = tempdir().expect("temp");
    let node = node_with(dir.path(), "http://127.0.0.1:1/announce", &registry, |config| {
        config.trackers.clear();
        (config.store.limit_mib, config.store.free_percent, config.store.keep_minutes) = (1, 0, 0);
    });
    let node = node.await;
    let evicted = async || api(dir.path()).status().await.expect("answers").totals.evicted;
    for (n, digest) in digests.iter().enumerate() {
        assert!(fetch(&node, &format!("blobs/{digest}")).await.whole);
        let expected: usize = layers[..n].iter().map(Vec::len).sum();
        let gone = async {
            while evicted().await < expected as u64 {
                sleep(Duration::from_millis(20)).await;
            }
        };
        // The next look by the clock is in a minute.
        timeout(Duration::from_secs(25), gone).await.expect("at once");
        complete(dir.path(), digest).await;
        // Uses are told apart by the second.
        sleep(Duration::from_millis(1100)).await;
    }
    assert_eq!(evicted().await, 1_400_001);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_on_the_host_already_is_neither_fetched_nor_copied_and_shared() {
    let registry = Registry::start().await;
    let layers = [noise(3_000_000, 1), noise(3_000_001, 2)];
    let (_, digests) = registry.add_image(&layers);
    let (_tracker, url) = tracker().await;
    let ((folder, file), (wrong, wrong_file)) = (lender(&layers[0]), lender(&layers[1]));
    std::fs::write(&wrong_file, noise(3_000_001, 3)).expect("written");
    let (a_dir, b_dir) = (tempdir().expect("temp"), tempdir().expect("temp"));
    let borrows = |config: &mut Config| {
        config.store.borrow = vec![wrong.path().to_owned(), folder.path().to_owned()];
        impatient(config);
    };
    let a = node_with(a_dir.path(), &url, &registry, borrows).await;
    let blob = format!("blobs/{}", digests[0]);
    let answer = fetch(&a, &blob).await;
    assert!(answer.whole && answer.body == layers[0]);
    let status = complete(a_dir.path(), &digests[0]).await;
    assert!(
        status.sources.iter().all(|source| source.source.kind == SourceKind::Store),
        "{:?}",
        status.sources
    );
    assert_eq!(api(a_dir.path()).status().await.expect("answers").totals.blob_bytes, 0);

    let b = node(b_dir.path(), &url, &registry).await;
    let answer = fetch(&b, &blob).await;
    assert!(answer.whole && answer.body == layers[0]);
    assert_eq!(registry.sent(&digests[0]), 0);

    let answer = fetch(&a, &format!("blobs/{}", digests[1])).await;
    assert!(answer.whole && answer.body == layers[1], "it was not what its name says");
    assert_eq!(registry.sent(&digests[1]), layers[1].len() as u64);
    complete(a_dir.path(), &digests[1]).await;

    std::fs::remove_file(file).expect("removed");
    b.stop().await;
    let answer = fetch(&a, &blob).await;
    assert!(answer.whole && answer.body == layers[0]);
    assert_eq!(registry.sent(&digests[0]), layers[0].len() as u64, "its owner has removed it");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_more_lent_is_forgotten_at_the_next_start() {
    let registry = Registry::start().await;
    let layer = noise(3_000_000, 1);
    let (_, digests) = registry.add_image(std::slice::from_ref(&layer));
    let (_tracker, url) = tracker().await;
    let (folder, file) = lender(&layer);
    let dir = tempdir().expect("temp");
    let borrows = |config: &mut Config| config.store.borrow = vec![folder.path().to_owned()];
    let blobs = async || api(dir.path()).status().await.expect("answers").totals.blobs;
    let gone = async || {
        while blobs().await > 0 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    for round in 0..2 {
        let node = node_with(dir.path(), &url, &registry, borrows).await;
        assert!(fetch(&node, &format!("blobs/{}", digests[0])).await.whole);
        assert_eq!(blobs().await, 1);
        node.stop().await;
        let node = if round == 0 {
            support::node(dir.path(), &url, &registry).await
        } else {
            std::fs::remove_file(&file).expect("removed");
            node_with(dir.path(), &url, &registry, borrows).await
        };
        timeout(Duration::from_secs(20), gone()).await.expect("soon");
        node.stop().await;
    }
    assert_eq!(registry.sent(&digests[0]), 0);
}
