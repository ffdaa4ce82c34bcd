//! Ordinary torrents on nodes: watched folders, the API's actions, limits, restarts.
#![allow(clippy::expect_used, reason = "tests fail by panicking, their helpers too")]

mod support;

use std::{path::Path, time::Duration};

use api::{
    CallError,
    node::{TorrentPhase, TorrentStatus},
    torrents::{AddRequest, Limits, TorrentAction},
};
use metainfo::{InfoHash, Torrent, create};
use support::{Registry, api, node_with, noise, tracker};
use tempfile::tempdir;
use tokio::time::{Instant, sleep, timeout};

/// A torrent of a folder of two files, announced to `tracker`.
fn make(folder: &Path, tracker: &str, seed: u64) -> Torrent {
    let content = folder.join("set");
    std::fs::create_dir_all(content.join("deep")).expect("made");
    std::fs::write(content.join("a.bin"), noise(3_000_000, seed)).expect("written");
    std::fs::write(content.join("deep/b.bin"), noise(700_001, seed + 1)).expect("written");
    let mut torrent = create::create(&content, &create::Options::default(), &|_, _| {}).expect("made");
    torrent.trackers = vec![vec![tracker.to_owned()]];
    torrent
}

async fn wait_for(node: &Path, info_hash: InfoHash, what: impl Fn(&TorrentStatus) -> bool) -> TorrentStatus {
    let mut last = None;
    let looking = async {
        loop {
            let list = api(node).torrents().await.expect("answers");
            let found = list.into_iter().find(|torrent| torrent.info_hash == info_hash);
            if let Some(found) = found.clone().filter(&what) {
                return found;
            }
            last = found;
            sleep(Duration::from_millis(20)).await;
        }
    };
    let found = timeout(Duration::from_secs(30), looking).await;
    assert!(found.is_ok(), "it does not come to that: {last:?}");
    found.expect("looked at")
}

fn seeds(torrent: &TorrentStatus) -> bool {
    torrent.state == TorrentPhase::Seeding && torrent.bytes_done == torrent.size
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watched_torrent_whose_content_is_there_is_seeded_and_another_node_gets_it_by_magnet_link() {
    let registry = Registry::start().await;
    let (_tracker, url) = tracker().await;
    let dirs: Vec<_> = (0..2).map(|_| tempdir().expect("temp")).collect();
    let (a, b) = (dirs[0].path(), dirs[1].path());
    let torrent = make(&a.join("content"), &url, 1);
    let info_hash = torrent.info_hash;
    let seeder = node_with(a, &url, &registry, |config| {
        config.torrents.folder = a.join("content");
        config.torrents.watch = vec![a.join("watch")];
    })
    .await;
    std::fs::write(a.join("watch/start/set.torrent"), torrent.encode()).expect("written");
    let other = make(&b.join("other"), &url, 7);
    std::fs::write(a.join("watch/load/other.torrent"), other.encode()).expect("written");
    wait_for(a, info_hash, seeds).await;
    wait_for(a, other.info_hash, |torrent| torrent.state == TorrentPhase::Stopped).await;

    let leecher = node_with(b, &url, &registry, |_| {}).await;
    let link = AddRequest::Magnet(torrent.magnet().to_string());
    let added = api(b).add(&link, true).await.expect("added");
    assert_eq!((added.info_hash, added.name.as_str()), (info_hash, "set"));
    let again = api(b).add(&link, true).await.expect_err("it is there");
    assert!(matches!(again, CallError::Rejected { status: 409, .. }), "{again:?}");
    wait_for(b, info_hash, seeds).await;
    let folder = b.join("data/torrents/content");
    let files =
        ["set/a.bin", "set/deep/b.bin"].map(|file| std::fs::read(folder.join(file)).expect("is there"));
    assert_eq!(files.map(|file| file.len()), [3_000_000, 700_001]);
    let listed = api(b).files(&info_hash).await.expect("answers").expect("known");
    let listed: Vec<_> =
        listed.iter().map(|file| (file.path.as_str(), file.size == file.bytes_done)).collect();
    assert_eq!(listed, [("a.bin", true), ("deep/b.bin", true)]);

    // After a restart it is known whole without being hashed; what was changed since is found by its time.
    leecher.stop().await;
    let leecher = node_with(b, &url, &registry, |_| {}).await;
    wait_for(b, info_hash, seeds).await;
    leecher.stop().await;
    let mut broken = std::fs::read(folder.join("set/a.bin")).expect("is there");
    broken[5] ^= 1;
    std::fs::write(folder.join("set/a.bin"), broken).expect("written");
    let leecher = node_with(b, &url, &registry, |_| {}).await;
    let healed = wait_for(b, info_hash, seeds).await;
    assert!(healed.down_bytes > 0, "the broken piece was fetched: {healed:?}");

    assert_eq!(api(b).remove(&info_hash, true).await.expect("answers"), Some(()));
    assert!(!folder.join("set").exists() && folder.exists());
    assert_eq!(api(b).remove(&info_hash, true).await.expect("answers"), None);
    for node in [seeder, leecher] {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_and_a_stopped_download_goes_on_where_it_was() {
    let registry = Registry::start().await;
    let (_tracker, url) = tracker().await;
    let dirs: Vec<_> = (0..2).map(|_| tempdir().expect("temp")).collect();
    let (a, b) = (dirs[0].path(), dirs[1].path());
    let torrent = make(&a.join("content"), &url, 3);
    let info_hash = torrent.info_hash;
    let _seeder = node_with(a, &url, &registry, |config| {
        config.torrents.folder = a.join("content");
        config.peer.up_limit = 1_000_000;
    })
    .await;
    api(a).add_torrent(torrent.encode().into(), true, "").await.expect("added");
    wait_for(a, info_hash, seeds).await;

    let _leecher = node_with(b, &url, &registry, |_| {}).await;
    let outside = api(b).add_torrent(torrent.encode().into(), true, "../x").await.expect_err("refused");
    assert!(matches!(outside, CallError::Rejected { status: 400, .. }), "{outside:?}");
    let nonsense = api(b).add_torrent("nonsense".into(), true, "").await.expect_err("refused");
    assert!(matches!(nonsense, CallError::Rejected { status: 400, .. }), "{nonsense:?}");
    #[allow(clippy::disallowed_methods, reason = "what took too little time has no limit")]
    let begun = Instant::now();
    api(b).add_torrent(torrent.encode().into(), true, "films/2026").await.expect("added");
    wait_for(b, info_hash, |torrent| torrent.bytes_done > 700_000).await;
    assert_eq!(api(b).act(&info_hash, TorrentAction::Stop).await.expect("answers"), Some(()));
    let stopped = wait_for(b, info_hash, |torrent| torrent.state == TorrentPhase::Stopped).await;
    assert!(stopped.bytes_done > 700_000 && stopped.bytes_done < 3_700_001, "{stopped:?}");
    api(b).limit(Some(&info_hash), &Limits { down: Some(1_000_000), up: None }).await.expect("limited");
    assert_eq!(api(b).act(&info_hash, TorrentAction::Start).await.expect("answers"), Some(()));
    let whole = wait_for(b, info_hash, seeds).await;
    assert!(begun.elapsed() >= Duration::from_secs(3), "3.7 MB at 1 MB/s came in {:?}", begun.elapsed());
    assert_eq!(whole.limits, Limits { down: Some(1_000_000), up: None });
    assert!(whole.down_bytes < 3_700_001, "what was here is not fetched again: {whole:?}");
    assert!(b.join("data/torrents/content/films/2026/set/deep/b.bin").exists());
    assert_eq!(api(b).act(&info_hash, TorrentAction::Verify).await.expect("answers"), Some(()));
    wait_for(b, info_hash, seeds).await;
}
