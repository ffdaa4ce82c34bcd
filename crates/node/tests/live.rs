//! What a node tells as it happens, and afterwards of why.
#![allow(clippy::expect_used, reason = "tests fail by panicking, their helpers too")]

mod support;

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use api::{
    Endpoint, NodeClient,
    live::{FORMAT, News, Record},
    node::{PullEvent, PullRequest, Run, Source, SourceKind},
    trace::SpanKind,
};
use futures_util::future::join_all;
use support::{Registry, api, fetch, node, node_with, noise, tracker};
use tempfile::tempdir;
use tokio::time::timeout;

/// What a reader of blocks knows of one torrent.
#[derive(Default)]
struct Known {
    sources: Vec<Source>,
    runs: Vec<Run>,
    complete: bool,
}

async fn pull(node: &std::path::Path, reference: &str) {
    let request = PullRequest { reference: reference.to_owned(), platform: None };
    let mut events = api(node).pull(&request).await.expect("begins");
    let mut last = None;
    while let Some(event) = events.next().await.expect("goes on") {
        last = Some(event);
    }
    assert!(matches!(last, Some(PullEvent::Done { .. })), "{last:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_block_is_told_once_with_its_source_and_a_pull_is_explained() {
    let registry = Registry::start().await;
    let (_, digests) = registry.add_image(&[noise(20_000_000, 1), noise(700_001, 2)]);
    let (_tracker, url) = tracker().await;
    let dirs: Vec<_> = (0..3).map(|_| tempdir().expect("temp")).collect();
    let nodes = join_all(dirs.iter().map(|dir| node(dir.path(), &url, &registry))).await;
    let reference = "reg.test/team/app:1".to_owned();
    let mut told = Vec::new();
    for dir in &dirs {
        told.push(api(dir.path()).events("blocks,traces,links,status").await.expect("told"));
    }
    let first = told[0].next().await.expect("told").expect("more");
    assert!(matches!(&first.news, News::Hello { format: FORMAT, .. }), "{first:?}");
    join_all(dirs.iter().map(|dir| pull(dir.path(), &reference))).await;
    // A client as well, for its span.
    fetch(&nodes[2], &format!("blobs/{}", digests[0])).await;

    let mut from_origin = 0;
    for (dir, mut told) in dirs.iter().zip(told) {
        let mut known = HashMap::<String, Known>::new();
        let wanted = digests.len() + 2;
        let reading = async {
            while known.values().filter(|known| known.complete).count() < wanted {
                let Record { news, .. } = told.next().await.expect("told").expect("more");
                if let News::Blocks(blocks) = news {
                    let known = known.entry(blocks.info_hash.to_string()).or_default();
                    known.sources.truncate(blocks.first_source as usize);
                    assert_eq!(known.sources.len(), blocks.first_source as usize, "no gap");
                    known.sources.extend(blocks.sources);
                    known.runs.truncate(blocks.first_run as usize);
                    assert_eq!(known.runs.len(), blocks.first_run as usize, "no gap");
                    known.runs.extend(blocks.runs);
                    known.complete |= blocks.complete;
                }
            }
        };
        timeout(Duration::from_secs(20), reading).await.expect("all is told in time");
        for digest in &digests {
            let blob = api(dir.path()).blob(digest).await.expect("answers").expect("is here");
            let known = &known[&blob.info_hash.expect("has a torrent").to_string()];
            let length = |run: &Run| {
                let piece = u64::from(metainfo::blob_piece_length(blob.size));
                let begin = u64::from(run.piece) * piece + u64::from(run.block * metainfo::BLOCK_LENGTH);
                let end = begin + u64::from(run.count * metainfo::BLOCK_LENGTH);
                end.min((u64::from(run.piece) + 1) * piece).min(blob.size) - begin
            };
            for (place, source) in known.sources.iter().enumerate() {
                let runs = known.runs.iter().filter(|run| run.source as usize == place);
                let bytes: u64 = runs.map(length).sum();
                let said = blob.sources.iter().find(|said| said.source == *source).expect("the same sources");
                assert_eq!(bytes, said.bytes, "{digest} from {source:?}");
            }
            assert_eq!(known.runs.iter().map(length).sum::<u64>(), blob.size, "{digest}");
            let origins = blob.sources.iter().filter(|s| s.source.kind == SourceKind::Origin);
            from_origin += origins.map(|s| s.bytes).sum::<u64>();
        }
    }
    assert_eq!(from_origin, 20_700_001, "one copy");

    let explained = api(dirs[2].path()).explain(&reference).await.expect("answers").expect("known");
    let parts: Vec<_> = explained.parts.iter().map(|part| part.what.as_str()).collect();
    assert_eq!(parts, ["manifest", "config", "layer", "layer"]);
    let layer = explained.parts[2].trace.as_ref().expect("traced");
    let kinds: Vec<_> = layer.spans.iter().map(|span| span.kind).collect();
    assert_eq!(kinds[0], SpanKind::Directory, "{kinds:?}");
    let brought = layer.spans.iter().filter(|s| [SpanKind::Swarm, SpanKind::Origin].contains(&s.kind));
    assert_eq!(brought.map(|span| span.bytes).sum::<u64>(), 20_000_000, "{layer:?}");
    let client = layer.spans.iter().find(|s| s.kind == SpanKind::Client).expect("a client had it");
    assert_eq!(client.bytes, 20_000_000);
    assert!(layer.ended_ms.is_some() && layer.spans.iter().all(|span| span.to_ms.is_some()), "{layer:?}");
    let unknown = api(dirs[2].path()).explain("reg.test/team/other:1").await;
    assert!(unknown.expect("answers").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tcp_the_api_asks_for_its_token_and_a_forgotten_blob_is_fetched_anew() {
    let registry = Registry::start().await;
    let (_, digests) = registry.add_image(&[noise(300_000, 1)]);
    let (_tracker, url) = tracker().await;
    let dir = tempdir().expect("temp");
    let token = dir.path().join("token");
    std::fs::write(&token, "geheim\n").expect("written");
    let node = node_with(dir.path(), &url, &registry, |config| {
        config.api.listen = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))];
        config.api.token_file = Some(token);
    })
    .await;
    let endpoint = Endpoint::Http(format!("http://{}", node.apis()[0]));
    let stranger = NodeClient::new(&endpoint, None).expect("a client");
    assert!(stranger.status().await.is_err());
    let friend = NodeClient::new(&endpoint, Some("geheim")).expect("a client");
    assert!(friend.status().await.expect("answers").addresses.iter().any(|a| a.purpose == "api"));
    pull(dir.path(), "reg.test/team/app:1").await;
    assert_eq!(friend.forget(&digests[0]).await.expect("answers"), Some(()));
    assert_eq!(friend.forget(&digests[0]).await.expect("answers"), None, "there is nothing more of it");
    assert!(friend.blob(&digests[0]).await.expect("answers").is_none());
    pull(dir.path(), "reg.test/team/app:1").await;
    assert_eq!(registry.sent(&digests[0]), 600_000, "fetched anew");
    timeout(Duration::from_secs(15), async {
        // A reader of events does not hold up the node's end.
        let _told = friend.events("").await.expect("told");
        node.stop().await;
    })
    .await
    .expect("ends in time");
}
