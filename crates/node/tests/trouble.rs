//! What a node does with what it should not be given, and with what around it does not work.
#![allow(clippy::expect_used, reason = "tests fail by panicking, their helpers too")]

mod support;

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use api::node::{PullEvent, PullRequest};
use bytes::Bytes;
use hash::Digest;
use longshore_node::Node;
use support::{Registry, api, fetch, node, node_with, noise, tracker};
use tempfile::tempdir;
use tokio::{net::TcpListener, time::timeout};

/// A manifest that is a number of bytes long, under a tag.
fn put_manifest(registry: &Registry, tag: &str, media_type: &str, length: usize) -> Bytes {
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": media_type, "layers": [], "annotations": {"filling": "x".repeat(length)},
    });
    let bytes = Bytes::from(manifest.to_string());
    let mut manifests = registry.shop.manifests.lock().expect("unpoisoned");
    manifests.insert(tag.to_owned(), bytes.clone());
    manifests.insert(Digest::of(&bytes).to_string(), bytes.clone());
    bytes
}

/// Status and text of a probe.
async fn probe(node: &Node, path: &str) -> (u16, String) {
    let client = reqwest::Client::builder().no_proxy().build().expect("client");
    let answer = client.get(format!("http://{}{path}", node.mirrors()[0])).send().await.expect("answers");
    (answer.status().as_u16(), answer.text().await.expect("text"))
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_of_any_type_and_of_more_than_4_mib_pass_to_the_byte_and_larger_ones_go_elsewhere() {
    let registry = Registry::start().await;
    let (dir, (_tracker, url)) = (tempdir().expect("temp"), tracker().await);
    let node = node(dir.path(), &url, &registry).await;
    let kind = "application/vnd.example.thing.v9+json";
    for (tag, length) in [("small", 10), ("large", 5 << 20)] {
        let bytes = put_manifest(&registry, tag, kind, length);
        for reference in [tag.to_owned(), Digest::of(&bytes).to_string()] {
            let answer = fetch(&node, &format!("manifests/{reference}")).await;
            assert_eq!((answer.status, answer.whole), (200, true));
            assert!(answer.body == bytes);
            assert_eq!(answer.headers["content-type"], kind);
        }
    }
    put_manifest(&registry, "huge", kind, 9 << 20);
    let answer = fetch(&node, "manifests/huge").await;
    let error: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
    assert_eq!((answer.status, &error["errors"][0]["code"]), (503, &"UNAVAILABLE".into()));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_layer_is_not_asked_of_the_registry_and_the_rest_of_the_image_comes() {
    let registry = Registry::start().await;
    let (dir, (_tracker, url)) = (tempdir().expect("temp"), tracker().await);
    let node = node(dir.path(), &url, &registry).await;
    let layer = noise(100_000, 1);
    let (digest, layers) = registry.add_image(&[layer]);
    let foreign = Digest::of(b"elsewhere");
    let tagged = {
        let mut manifests = registry.shop.manifests.lock().expect("unpoisoned");
        let mut manifest: serde_json::Value =
            serde_json::from_slice(&manifests[&digest.to_string()]).expect("JSON");
        manifest["layers"].as_array_mut().expect("layers").push(serde_json::json!({
            "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "size": 9,
            "digest": foreign.to_string(), "urls": ["http://127.0.0.1:9/layer"],
        }));
        let bytes = Bytes::from(manifest.to_string());
        let digest = Digest::of(&bytes);
        manifests.insert("1".to_owned(), bytes.clone());
        manifests.insert(digest.to_string(), bytes);
        digest
    };
    let request = PullRequest { reference: "reg.test/team/app:1".to_owned(), platform: None };
    let mut pull = api(dir.path()).pull(&request).await.expect("begins");
    let last = loop {
        match pull.next().await.expect("an event") {
            Some(PullEvent::Failed { error }) => panic!("{error}"),
            Some(PullEvent::Done { digest, .. }) => break digest,
            Some(_) => {}
            None => panic!("no end"),
        }
    };
    assert_eq!(last, tagged);
    assert!(registry.sent(&layers[0]) > 0);
    let asked = registry.shop.asked.lock().expect("unpoisoned").clone();
    assert!(!asked.iter().any(|(_, path, _)| path.contains(&foreign.to_string())));
    // A client that asks for it is told that it is not here, as the registry would tell it.
    assert_eq!(fetch(&node, &format!("blobs/{foreign}")).await.status, 404);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rest_of_what_was_cut_for_its_wrong_bytes_is_not_here_and_a_new_attempt_is_made() {
    let registry = Registry::start().await;
    let (dir, (_tracker, url)) = (tempdir().expect("temp"), tracker().await);
    let node = node(dir.path(), &url, &registry).await;
    let layer = noise(2_000_000, 2);
    let (_, layers) = registry.add_image(std::slice::from_ref(&layer));
    let path = format!("blobs/{}", layers[0]);
    registry.shop.lies.store(true, Ordering::Relaxed);
    let answer = fetch(&node, &path).await;
    assert_eq!((answer.status, answer.whole), (200, false));
    assert!(answer.body.len() < layer.len());
    let client = reqwest::Client::builder().no_proxy().build().expect("client");
    let resumed = client
        .get(format!("http://{}/v2/team/app/{path}?ns=reg.test", node.mirrors()[0]))
        .header("range", format!("bytes={}-", answer.body.len()));
    assert_eq!(resumed.send().await.expect("answers").status().as_u16(), 404);
    let answer = fetch(&node, &path).await;
    assert_eq!(answer.status, 404, "it is wrong again");
    registry.shop.lies.store(false, Ordering::Relaxed);
    let answer = fetch(&node, &path).await;
    assert!(answer.whole && answer.body == layer);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_takes_calls_and_answers_none_is_left_alone_after_the_first() {
    let registry = Registry::start().await;
    let dir = tempdir().expect("temp");
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", silent.local_addr().expect("bound"));
    let calls = Arc::new(AtomicUsize::new(0));
    let counting = calls.clone();
    let _held = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = silent.accept().await {
            counting.fetch_add(1, Ordering::Relaxed);
            held.push(stream);
        }
    });
    let node = node_with(dir.path(), "http://127.0.0.1:9/announce", &registry, |config| {
        config.directory = vec![url];
    })
    .await;
    let layers: Vec<_> = (0..5).map(|seed| noise(50_000, seed)).collect();
    let (_, digests) = registry.add_image(&layers);
    let all = async {
        for (digest, layer) in digests.iter().zip(&layers) {
            let answer = fetch(&node, &format!("blobs/{digest}")).await;
            assert!(answer.whole && answer.body == *layer);
        }
    };
    // Each of them would wait for 8 s, or 28.
    timeout(Duration::from_secs(60), all).await.expect("in time");
    let made = calls.load(Ordering::Relaxed);
    assert!((1..=4).contains(&made), "{made} calls for five blobs");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_can_keep_nothing_lives_and_is_not_ready_and_still_serves() {
    let registry = Registry::start().await;
    let dir = tempdir().expect("temp");
    let node = node_with(dir.path(), "http://127.0.0.1:9/announce", &registry, |config| {
        config.directory = vec!["none".to_owned()];
    })
    .await;
    assert_eq!(probe(&node, "/readyz").await, (200, "ok\n".to_owned()));
    assert_eq!(probe(&node, "/healthz").await, (200, "ok\n".to_owned()));
    // Something else is where it would write.
    fs::create_dir(dir.path().join("data/probe")).expect("made");
    let (status, words) = probe(&node, "/readyz").await;
    assert_eq!(status, 503);
    assert!(words.contains("nothing can be kept in the store"), "{words}");
    assert_eq!(probe(&node, "/healthz").await.0, 200, "a restart would not help");
    let (_, layers) = registry.add_image(&[noise(10_000, 3)]);
    assert_eq!(fetch(&node, &format!("blobs/{}", layers[0])).await.status, 200);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_host_cannot_give_is_still_asked_of_another() {
    let registry = Registry::start().await;
    let (dir, (_tracker, url)) = (tempdir().expect("temp"), tracker().await);
    let change = |config: &mut longshore_node::Config| config.set_upstream("dead.test", "http://127.0.0.1:9");
    let node = node_with(dir.path(), &url, &registry, change).await;
    let layer = noise(200_000, 3);
    let (_, layers) = registry.add_image(std::slice::from_ref(&layer));
    let client = reqwest::Client::builder().no_proxy().build().expect("client");
    let at = |host: &str| format!("http://{}/v2/team/app/blobs/{}?ns={host}", node.mirrors()[0], layers[0]);
    let status =
        async |request: reqwest::RequestBuilder| request.send().await.expect("answers").status().as_u16();
    assert_ne!(status(client.get(at("dead.test"))).await, 200);
    assert_eq!(status(client.head(at("reg.test"))).await, 200, "it is not said that it is not there");
    let answer = fetch(&node, &format!("blobs/{}", layers[0])).await;
    assert!(answer.whole && answer.body == layer);
    node.stop().await;
}
