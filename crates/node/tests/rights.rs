//! Who is given what: public content to everybody, other content to those to whom its registry would give it.
#![allow(clippy::expect_used, reason = "tests fail by panicking, their helpers too")]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
    time::Duration,
};

use api::DirectoryClient;
use hash::Digest;
use longshore_node::Node;
use origin::{Credentials, Secret, WhenDown};
use support::{CHALLENGE, Registry, fetch, fetch_as, lender, node, node_with, noise, tracker, tracker_with};
use tempfile::{TempDir, tempdir};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

const ALICE: &str = "Basic YWxpY2U6aHVudGVyMg==";
const MALLORY: &str = "Basic bWFsbG9yeTp4";

/// A registry in which `team/app` is for Alice only, with an image of one layer.
async fn closed_registry() -> (Registry, Vec<u8>, String) {
    let registry = Registry::start().await;
    let layer = noise(700_000, 7);
    let (_, digests) = registry.add_image(std::slice::from_ref(&layer));
    registry.shop.closed.lock().expect("unpoisoned").insert("app".into(), ALICE.into());
    (registry, layer, format!("blobs/{}", digests[0]))
}

fn sent(registry: &Registry, layer: &[u8]) -> u64 {
    registry.sent(&Digest::of(layer))
}

async fn lone_node(registry: &Registry) -> (Node, TempDir) {
    let dir = tempdir().expect("temp");
    let node = node_with(dir.path(), "http://127.0.0.1:1/announce", registry, |config| {
        config.trackers.clear();
    });
    (node.await, dir)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_here_is_given_to_those_whom_the_registry_would_give_it() {
    let (registry, layer, blob) = closed_registry().await;
    let (node, _dir) = lone_node(&registry).await;
    let refused = async |path: &str, shown| {
        let answer = fetch_as(&node, "app", path, shown).await;
        assert_eq!(answer.status, 401, "{path} {shown:?}");
        assert_eq!(answer.headers["www-authenticate"], CHALLENGE);
    };
    for path in ["manifests/1", blob.as_str()] {
        refused(path, None).await;
        refused(path, Some(MALLORY)).await;
        assert_eq!(fetch_as(&node, "app", path, Some(ALICE)).await.status, 200, "{path}");
        refused(path, None).await;
        refused(path, Some(MALLORY)).await;
    }
    let again = fetch_as(&node, "app", &blob, Some(ALICE)).await;
    assert!(again.whole && again.body == layer);
    assert_eq!(sent(&registry, &layer), layer.len() as u64, "it came from the registry once");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_beginning_of_what_broke_off_is_shown_to_nobody_before_the_registry_says_that_they_may_have_it() {
    let registry = Registry::start().await;
    let layer = noise(3_000_000, 10);
    let (_, digests) = registry.add_image(std::slice::from_ref(&layer));
    registry.shop.closed.lock().expect("unpoisoned").insert("app".into(), ALICE.into());
    let blob = format!("blobs/{}", digests[0]);
    let (node, _dir) = lone_node(&registry).await;
    registry.shop.breaks_at.store(2_500_000, Ordering::Relaxed);
    assert!(!fetch_as(&node, "app", &blob, Some(ALICE)).await.whole);
    for shown in [None, Some(MALLORY)] {
        let answer = fetch_as(&node, "app", &blob, shown).await;
        assert_eq!(answer.status, 401, "{shown:?}");
        assert!(!answer.body.windows(100).any(|part| part == &layer[..100]), "{shown:?}");
    }
    registry.shop.breaks_at.store(0, Ordering::Relaxed);
    assert_eq!(fetch_as(&node, "app", &blob, Some(ALICE)).await.body, layer);
    assert!(
        sent(&registry, &layer) < 2 * layer.len() as u64 - 2_000_000,
        "what was here is not asked for again"
    );
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_right_to_another_repository_is_none_to_this_ones_content() {
    let (registry, layer, blob) = closed_registry().await;
    registry.shop.empty.lock().expect("unpoisoned").insert("other".into());
    let (node, _dir) = lone_node(&registry).await;
    assert_eq!(fetch_as(&node, "app", &blob, Some(ALICE)).await.body, layer);
    for shown in [None, Some(MALLORY), Some(ALICE)] {
        assert_eq!(fetch_as(&node, "other", &blob, shown).await.status, 404, "{shown:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_word_of_a_registry_that_is_not_listed_opens_nothing() {
    let (registry, layer, blob) = closed_registry().await;
    let (node, _dir) = lone_node(&registry).await;
    assert_eq!(fetch_as(&node, "app", &blob, Some(ALICE)).await.body, layer);
    let manifest = fetch_as(&node, "app", "manifests/1", Some(ALICE)).await;
    let manifest = format!("manifests/{}", Digest::of(&manifest.body));
    // Anybody can run one that says yes to every digest. It is not even asked.
    let client = reqwest::Client::builder().no_proxy().build().expect("client");
    for (path, status) in [(&blob, 404), (&manifest, 403)] {
        let url = format!("http://{}/v2/team/app/{path}?ns=anybody.invalid", node.mirrors()[0]);
        let answer = client.get(url).header("authorization", ALICE).send().await.expect("answers");
        assert_eq!(answer.status().as_u16(), status, "{path}");
        assert!(!answer.text().await.expect("a body").contains("schemaVersion"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_anybody_may_have_from_one_repository_is_for_everybody_from_then_on() {
    let (registry, layer, blob) = closed_registry().await;
    let (node, dir) = lone_node(&registry).await;
    assert_eq!(fetch_as(&node, "app", &blob, Some(ALICE)).await.body, layer);
    assert_eq!(fetch_as(&node, "open", &blob, None).await.body, layer);
    assert_eq!(sent(&registry, &layer), layer.len() as u64);
    // After a restart and without the registry too.
    node.stop().await;
    registry.stop();
    let node = node_with(dir.path(), "http://127.0.0.1:1/announce", &registry, |config| {
        config.trackers.clear();
    });
    assert_eq!(fetch_as(&node.await, "open", &blob, None).await.body, layer);
}

/// With what Alice may have in its store, and no memory of it that spares the registry a question.
async fn node_that_asks(
    registry: &Registry,
    when_down: WhenDown,
    layer: &[u8],
    blob: &str,
) -> (Node, TempDir) {
    let dir = tempdir().expect("temp");
    let node = node_with(dir.path(), "http://127.0.0.1:1/announce", registry, |config| {
        config.trackers.clear();
        config.content.consent_seconds = 0;
        config.origin.upstreams[0].when_down = when_down;
        config.origin.patience.attempts = 1;
        config.origin.patience.connect = Duration::from_secs(2);
        config.origin.patience.first_byte = Duration::from_secs(1);
    });
    let node = node.await;
    assert_eq!(fetch_as(&node, "app", blob, Some(ALICE)).await.body, layer);
    (node, dir)
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_registry_is_down_those_whom_it_allowed_lately_are_served_and_nobody_else() {
    for when_down in [WhenDown::Lately, WhenDown::Deny, WhenDown::All] {
        let (registry, layer, blob) = closed_registry().await;
        let (node, _dir) = node_that_asks(&registry, when_down, &layer, &blob).await;
        let (lately, all) = (when_down != WhenDown::Deny, when_down == WhenDown::All);
        let ask = async |kind: &str, wanted: [(Option<&str>, bool, u16); 3]| {
            for (shown, given, otherwise) in wanted {
                let answer = fetch_as(&node, "app", &blob, shown).await;
                let status = if given { 200 } else { otherwise };
                assert_eq!(answer.status, status, "{kind} {when_down:?} {shown:?}");
            }
        };
        // A gateway says so. To those whom the registry has never allowed that is no word of it.
        registry.shop.down.store(true, Ordering::Relaxed);
        let nobody = if all { 404 } else { 401 };
        ask("503", [(Some(ALICE), lately, 404), (Some(MALLORY), false, 404), (None, false, nobody)]).await;
        // Nothing listens there.
        registry.stop();
        ask("gone", [(Some(ALICE), lately, 404), (Some(MALLORY), all, 404), (None, all, 401)]).await;
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_makes_the_registry_slow_is_not_taken_for_one_who_may() {
    let try_it = async |when_down| {
        let (registry, layer, blob) = closed_registry().await;
        let (node, _dir) = node_that_asks(&registry, when_down, &layer, &blob).await;
        let gate = CancellationToken::new();
        let set = |gate: Option<&CancellationToken>| {
            *registry.shop.gate.lock().expect("unpoisoned") = gate.cloned();
        };
        set(Some(&gate));
        for path in ["tags/list", blob.as_str(), blob.as_str()] {
            let answer = fetch_as(&node, "app", path, Some(MALLORY)).await;
            assert_ne!(answer.status, 200, "{when_down:?} {path}");
        }
        assert_ne!(fetch_as(&node, "app", &blob, None).await.status, 200, "{when_down:?}");
        // It answers again, and is left alone still.
        set(None);
        gate.cancel();
        for shown in [Some(MALLORY), None] {
            assert_ne!(fetch_as(&node, "app", &blob, shown).await.status, 200, "{when_down:?} {shown:?}");
        }
        node.stop().await;
    };
    tokio::join!(try_it(WhenDown::Lately), try_it(WhenDown::All));
}

#[tokio::test(flavor = "multi_thread")]
async fn private_content_is_shared_only_where_the_directory_has_a_token() {
    for token in [None, Some("fleet")] {
        let (registry, layer, blob) = closed_registry().await;
        let (_tracker, url) = tracker_with(token.map(str::to_owned)).await;
        let (a_dir, b_dir) = (tempdir().expect("temp"), tempdir().expect("temp"));
        let start = async |dir: &Path| {
            let node = node_with(dir, &url, &registry, |config| {
                if let Some(token) = token {
                    let file = dir.join("token");
                    fs::write(&file, token).expect("writes");
                    config.directory_token_file = Some(file);
                }
            });
            node.await
        };
        let (a, b) = (start(a_dir.path()).await, start(b_dir.path()).await);
        assert_eq!(fetch_as(&a, "app", &blob, Some(ALICE)).await.body, layer);
        assert_eq!(fetch_as(&b, "app", &blob, None).await.status, 401, "{token:?}");
        assert_eq!(fetch_as(&b, "app", &blob, Some(ALICE)).await.body, layer);
        let copies = sent(&registry, &layer) / layer.len() as u64;
        assert_eq!(copies, if token.is_some() { 1 } else { 2 }, "{token:?}");
        let base = url.trim_end_matches("/announce").to_owned();
        let directory = DirectoryClient::new(vec![base], token).expect("client");
        let entry = directory.get(&Digest::of(&layer)).await.expect("answers");
        assert_eq!(entry.map(|entry| entry.public), token.map(|_| false));
        a.stop().await;
        b.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_credentials_of_its_own_a_node_serves_all_its_clients() {
    let (registry, layer, blob) = closed_registry().await;
    let dir = tempdir().expect("temp");
    let node = node_with(dir.path(), "http://127.0.0.1:1/announce", &registry, |config| {
        config.trackers.clear();
        let (user, password) = ("alice".to_owned(), Some(Secret::new("hunter2")));
        config.origin.upstreams[0].credentials =
            Some(Credentials { user: Some(user), password, ..Credentials::default() });
    });
    let node = node.await;
    for shown in [None, Some(MALLORY)] {
        assert_eq!(fetch_as(&node, "app", &blob, shown).await.body, layer, "{shown:?}");
    }
    let asked = registry.shop.asked.lock().expect("unpoisoned").clone();
    assert!(asked.iter().all(|(_, _, shown)| shown.as_deref() != Some(MALLORY)), "a client's stays here");
}

#[tokio::test(flavor = "multi_thread")]
async fn public_content_costs_the_registry_no_question_about_rights() {
    let registry = Registry::start().await;
    let layer = noise(500_000, 8);
    let (_, digests) = registry.add_image(std::slice::from_ref(&layer));
    let (_tracker, url) = tracker().await;
    let (a_dir, b_dir) = (tempdir().expect("temp"), tempdir().expect("temp"));
    let (a, b) = (node(a_dir.path(), &url, &registry).await, node(b_dir.path(), &url, &registry).await);
    let blob = format!("blobs/{}", digests[0]);
    assert_eq!(fetch(&a, &blob).await.body, layer);
    assert_eq!(fetch(&b, &blob).await.body, layer);
    assert_eq!(fetch_as(&b, "app", &blob, Some(MALLORY)).await.body, layer);
    let asked = registry.shop.asked.lock().expect("unpoisoned").clone();
    assert_eq!(asked.len(), 1, "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_is_not_listed_is_not_served_even_from_the_store() {
    let registry = Registry::start().await;
    let layer = noise(300_000, 9);
    let (_, digests) = registry.add_image(std::slice::from_ref(&layer));
    let dir = tempdir().expect("temp");
    let node = node_with(dir.path(), "http://127.0.0.1:1/announce", &registry, |config| {
        config.trackers.clear();
        config.origin.upstreams[0].repositories = vec!["team/app".into()];
    });
    let (node, blob) = (node.await, format!("blobs/{}", digests[0]));
    assert_eq!(fetch_as(&node, "app", &blob, None).await.body, layer);
    assert_eq!(fetch_as(&node, "open", &blob, None).await.status, 404);
    assert_eq!(fetch_as(&node, "open", "manifests/1", None).await.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_borrowed_is_for_those_with_rights_and_offered_where_the_directory_has_a_token() {
    let (registry, layer, blob) = closed_registry().await;
    let (folder, _) = lender(&layer);
    let (_tracker, url) = tracker_with(Some("sesame".to_owned())).await;
    let (a_dir, b_dir) = (tempdir().expect("temp"), tempdir().expect("temp"));
    let start = async |dir: &Path, borrow: Vec<PathBuf>| {
        let node = node_with(dir, &url, &registry, |config| {
            let file = dir.join("token");
            fs::write(&file, "sesame").expect("writes");
            config.directory_token_file = Some(file);
            config.store.borrow = borrow;
        });
        node.await
    };
    let a = start(a_dir.path(), vec![folder.path().to_owned()]).await;
    let directory =
        DirectoryClient::new([url.trim_end_matches("/announce")], Some("sesame")).expect("client");
    let offered = async {
        loop {
            match directory.get(&Digest::of(&layer)).await.expect("answers") {
                Some(entry) => return entry,
                None => sleep(Duration::from_millis(20)).await,
            }
        }
    };
    let entry = timeout(Duration::from_secs(20), offered).await.expect("before anybody asks");
    assert!(!entry.public);
    let b = start(b_dir.path(), Vec::new()).await;
    for node in [&a, &b] {
        assert_eq!(fetch_as(node, "app", &blob, None).await.status, 401);
        assert_eq!(fetch_as(node, "app", &blob, Some(MALLORY)).await.status, 401);
        assert_eq!(fetch_as(node, "app", &blob, Some(ALICE)).await.body, layer);
    }
    assert_eq!(sent(&registry, &layer), 0);
}
