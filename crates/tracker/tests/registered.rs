//! Only torrents of the content directory may be announced.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

extern crate longshore_tracker as tracker;

mod support;

use std::time::Duration;

use announce::AnnounceRequest;
use api::{DirectoryClient, directory::PublishRequest};
use metainfo::{BlobBuilder, BlobTorrent, InfoHash};
use support::{ask, peer, ports, reply, target};
use tokio::time::sleep;
use tracker::{Config, Home, Tracker};

fn config() -> Config {
    Config { registered_only: true, ..support::config() }
}

fn blob(content: &[u8]) -> BlobTorrent {
    let mut builder = BlobBuilder::new(content.len() as u64).expect("small");
    builder.update(content);
    builder.finish().expect("whole")
}

async fn publish(tracker: &Tracker, blob: &BlobTorrent) {
    let base = format!("http://{}", tracker.local_addr().expect("bound"));
    let client = DirectoryClient::new([&base], None).expect("a client");
    let (info, content) = (blob.info_bytes.clone(), bytes::Bytes::new());
    let request = PublishRequest { info, media_type: None, public: true, content, lease: None };
    client.publish(&blob.digest, &request).await.expect("publishes");
}

/// The peers that an announce is answered, or why it is refused.
async fn announce(tracker: &Tracker, info_hash: InfoHash, port: u16, left: u64) -> Result<Vec<u16>, String> {
    let request = AnnounceRequest { info_hash, ..peer(0, port, left) };
    let (_, body) = ask(tracker, &target(&request), "").await;
    Ok(ports(&reply(&body)?))
}

/// Waits until the directory has been read.
async fn ready(tracker: &Tracker) {
    for _ in 0..600 {
        let refused = announce(tracker, InfoHash::from_bytes([0; 20]), 1, 5).await;
        if refused.is_err_and(|reason| !reason.contains("not been read")) {
            return;
        }
        sleep(Duration::from_millis(20)).await;
    }
    panic!("the directory is never read");
}

#[tokio::test]
async fn who_announces_a_moment_before_publication_is_found_by_who_learns_of_it() {
    let tracker = Tracker::start(config()).await.expect("starts");
    ready(&tracker).await;
    let blob = blob(b"content");
    let refused = announce(&tracker, blob.info_hash, 1001, 0).await;
    assert!(refused.as_ref().is_err_and(|reason| reason.contains("not registered")), "{refused:?}");
    publish(&tracker, &blob).await;
    assert_eq!(announce(&tracker, blob.info_hash, 1002, 5).await, Ok(vec![1001]));
    let other = announce(&tracker, InfoHash::from_bytes([9; 20]), 1002, 5).await;
    assert!(other.is_err_and(|reason| reason.contains("not registered")));
    tracker.shutdown().await;
}

#[tokio::test]
async fn a_list_adds_to_what_is_registered_and_another_takes_away() {
    let folder = tempfile::tempdir().expect("a folder");
    let (x, y) = (blob(b"x"), blob(b"y"));
    let (listed, denied) = (folder.path().join("allow"), folder.path().join("deny"));
    let plain = InfoHash::from_bytes([5; 20]);
    std::fs::write(&listed, format!("{plain}\n")).expect("written");
    std::fs::write(&denied, format!("{}\n", y.info_hash)).expect("written");
    let config = Config { allow: Some(listed), deny: Some(denied), ..config() };
    let tracker = Tracker::start(config).await.expect("starts");
    ready(&tracker).await;
    publish(&tracker, &x).await;
    publish(&tracker, &y).await;
    assert_eq!(announce(&tracker, plain, 1001, 5).await, Ok(vec![]));
    assert_eq!(announce(&tracker, x.info_hash, 1001, 5).await, Ok(vec![]));
    let refused = announce(&tracker, y.info_hash, 1001, 5).await;
    assert!(refused.is_err_and(|reason| reason.contains("not served")));
}

#[tokio::test]
async fn what_a_file_holds_is_registered_after_a_restart_and_the_mode_changes_by_a_reload() {
    let folder = tempfile::tempdir().expect("a folder");
    let directory = Some(Home::File(folder.path().join("directory.redb")));
    let config = Config { directory, registered_only: false, ..config() };
    let known = blob(b"known");
    let mut tracker = Tracker::start(config.clone()).await.expect("starts");
    publish(&tracker, &known).await;
    let plain = InfoHash::from_bytes([5; 20]);
    assert_eq!(announce(&tracker, plain, 1001, 5).await, Ok(vec![]));
    let strict = Config { registered_only: true, ..config.clone() };
    assert_eq!(tracker.reload(&strict).expect("good"), Vec::<&str>::new());
    ready(&tracker).await;
    assert!(announce(&tracker, plain, 1001, 5).await.is_err());
    assert_eq!(announce(&tracker, known.info_hash, 1001, 5).await, Ok(vec![]));
    tracker.reload(&config).expect("good");
    assert_eq!(announce(&tracker, plain, 1002, 5).await, Ok(vec![1001]));
    tracker.shutdown().await;
    let tracker = Tracker::start(strict).await.expect("starts");
    // An announce that comes before the directory has been read is not forgotten either.
    let _ = announce(&tracker, known.info_hash, 1001, 0).await;
    ready(&tracker).await;
    assert_eq!(announce(&tracker, known.info_hash, 1002, 5).await, Ok(vec![1001]));
    tracker.shutdown().await;
}
