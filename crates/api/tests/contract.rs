//! What the page is tested against: a sample of everything that nodes and labs say, in `web/fixtures/contract.json`.
//! The page's tests read that file with the checks that it uses in earnest, and refuse a field that they do not know.

#![allow(clippy::expect_used, reason = "a test")]

use std::path::Path;

use hash::Digest;
use longshore_api::{
    lab::{HostKind, HostState, LabAction, LabContent, LabHost, LabStatus, Traffic},
    live::{Blocks, FORMAT, Link, News, Record},
    node::{
        Address, BlobPage, BlobState, BlobStatus, Health, PeerFlags, PeerStatus, Provenance, PullEvent,
        PullRequest, Run, Source, SourceBytes, SourceKind, Status, TorrentPhase, TorrentStatus, Totals,
        TrackerStatus,
    },
    torrents::{AddRequest, Added, FileStatus, Limits},
    trace::{Explanation, Part, Span, SpanKind, Trace},
};
use metainfo::InfoHash;
use serde_json::{Value, json};

/// Set to have the file written anew.
const REWRITE: &str = "LONGSHORE_REWRITE_FIXTURES";

#[test]
fn the_page_is_tested_against_what_these_types_say_today() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../web/fixtures/contract.json");
    let want = sample();
    if rewrite() {
        let text = serde_json::to_string_pretty(&want).expect("serialises") + "\n";
        std::fs::write(&path, text).expect("is written");
        return;
    }
    let text = std::fs::read_to_string(&path).expect("web/fixtures/contract.json is checked in");
    let have: Value = serde_json::from_str(&text).expect("is JSON");
    assert!(have == want, "{} is not what the types say: run this test with {REWRITE}=1", path.display());
}

#[test]
fn every_record_comes_back_as_it_was() {
    for record in records() {
        let text = serde_json::to_string(&record).expect("serialises");
        assert_eq!(serde_json::from_str::<Record>(&text).expect("parses"), record, "{text}");
    }
}

#[allow(clippy::disallowed_methods, reason = "a switch of this test alone")]
fn rewrite() -> bool {
    std::env::var_os(REWRITE).is_some()
}

fn sample() -> Value {
    json!({
        "records": records(),
        "health": Health { healthy: false, problems: vec!["the disk is full".into()] },
        "status": status(),
        "blob_page": BlobPage { blobs: vec![blob()], next: Some(digest()) },
        "torrents": [torrent(TorrentPhase::Metadata), torrent(TorrentPhase::Checking), torrent(TorrentPhase::Stopped)],
        "peers": [peer()],
        "provenance": Provenance {
            info_hash: info_hash(),
            size: 300_000,
            block_length: 16_384,
            piece_length: 262_144,
            sources: sources(),
            runs: vec![run()],
        },
        "pull_request": PullRequest { reference: "r.example/app:1".into(), platform: None },
        "pull_events": pull_events(),
        "traces": [trace()],
        "explanation": Explanation {
            reference: "r.example/app:1".into(),
            digest: digest(),
            parts: vec![Part { what: "layer".into(), blob: blob(), trace: Some(trace()) }],
        },
        "added": Added { info_hash: info_hash(), name: "disk.img".into() },
        "add_requests": [AddRequest::Magnet("magnet:?xt=urn:btih:00".into()), AddRequest::Url("http://h.example/t".into())],
        "limits": Limits { down: Some(1), up: Some(0) },
        "files": [FileStatus { path: "a/b.txt".into(), size: 7, bytes_done: 3 }],
        "lab": lab(),
        "actions": actions(),
    })
}

fn digest() -> Digest {
    format!("sha256:{}", "ab".repeat(32)).parse().expect("a digest")
}

fn info_hash() -> InfoHash {
    InfoHash::from_bytes([0x5a; 20])
}

fn peer_id() -> String {
    "2d".repeat(20)
}

fn records() -> Vec<Record> {
    let blocks = Blocks {
        info_hash: info_hash(),
        name: "set".into(),
        size: 300_000,
        block_length: 16_384,
        piece_length: 262_144,
        first_source: 0,
        sources: sources(),
        first_run: 0,
        runs: vec![run()],
        complete: true,
    };
    let news = [
        News::Hello { format: FORMAT, version: "0.1.0".into() },
        News::Status { status: status() },
        News::Torrents { all: true, changed: vec![torrent(TorrentPhase::Seeding)], gone: vec![info_hash()] },
        News::Links { all: true, changed: vec![link()], gone: vec![peer_id()] },
        News::Blocks(blocks),
        News::Trace(trace()),
        News::Lost { error: "connection refused".into() },
        News::Lab(lab()),
    ];
    news.map(|news| Record { node: "n1".into(), at_ms: 1_790_000_000_000, news }).into()
}

fn status() -> Status {
    Status {
        node: "host-1".into(),
        peer_id: peer_id(),
        version: "0.1.0".into(),
        addresses: vec![Address { purpose: "peer".into(), address: "10.0.0.1:6881".into() }],
        trackers: vec![tracker()],
        local_discovery: true,
        borrow: Vec::new(),
        uptime: 60,
        totals: Totals {
            blobs: 1,
            blob_bytes: 2,
            borrowed_bytes: 0,
            active_torrents: 3,
            peers: 4,
            from_peers: 5,
            from_origins: 6,
            to_peers: 7,
            to_clients: 8,
            wasted: 9,
            evicted: 10,
        },
    }
}

fn tracker() -> TrackerStatus {
    TrackerStatus {
        url: "http://tracker:6969/announce".into(),
        last_answer: Some(1_790_000_000),
        error: Some("timed out".into()),
        failing_since: Some(1_790_000_001),
    }
}

fn torrent(state: TorrentPhase) -> TorrentStatus {
    TorrentStatus {
        info_hash: info_hash(),
        name: "disk.img".into(),
        digest: Some(digest()),
        size: 300_000,
        bytes_done: 262_144,
        pieces: 2,
        pieces_done: 1,
        peers: 3,
        down_bytes: 4,
        up_bytes: 5,
        down_rate: 6,
        up_rate: 7,
        state,
        folder: Some("/srv/data".into()),
        limits: Limits { down: Some(8), up: Some(9) },
        error: Some("no room".into()),
    }
}

fn link() -> Link {
    Link {
        peer_id: peer_id(),
        address: "10.0.0.2:6881".into(),
        client: "Longshore 0.1.0".into(),
        torrents: 1,
        down_bytes: 2,
        up_bytes: 3,
        down_rate: 4,
        up_rate: 5,
    }
}

fn peer() -> PeerStatus {
    PeerStatus {
        address: "10.0.0.2:6881".into(),
        peer_id: peer_id(),
        client: "Longshore 0.1.0".into(),
        incoming: true,
        down_bytes: 1,
        up_bytes: 2,
        down_rate: 3,
        up_rate: 4,
        flags: PeerFlags { choking: true, interested: false, choked: true, wanted: false },
        progress: 0.5,
        requests: 6,
    }
}

fn sources() -> Vec<Source> {
    let peer = Some("10.0.0.2:6881".to_owned());
    vec![
        Source { kind: SourceKind::Peer, peer, peer_id: Some(peer_id()) },
        Source { kind: SourceKind::Origin, peer: Some("r.example:443".into()), peer_id: None },
        Source { kind: SourceKind::Store, peer: None, peer_id: None },
        Source { kind: SourceKind::Directory, peer: None, peer_id: None },
    ]
}

fn run() -> Run {
    Run { piece: 1, block: 0, count: 2, source: 1, first_ms: 1_790_000_000_000, last_ms: 1_790_000_000_100 }
}

fn blob() -> BlobStatus {
    let source = Source { kind: SourceKind::Origin, peer: Some("r.example:443".into()), peer_id: None };
    BlobStatus {
        digest: digest(),
        size: 300_000,
        media_type: Some("application/vnd.oci.image.layer.v1.tar+gzip".into()),
        state: BlobState::Fetching,
        bytes_done: 262_144,
        pieces: 2,
        info_hash: Some(info_hash()),
        sources: vec![SourceBytes { source, bytes: 262_144 }],
        started: Some(1_790_000_000),
        finished: Some(1_790_000_009),
    }
}

fn pull_events() -> Vec<PullEvent> {
    let media_type = "application/vnd.oci.image.manifest.v1+json".to_owned();
    let sources = blob().sources;
    vec![
        PullEvent::Resolved { digest: digest(), media_type: media_type.clone() },
        PullEvent::Blob { digest: digest(), size: 7, media_type: Some(media_type) },
        PullEvent::Progress { digest: digest(), bytes_done: 3, from_peers: 2, from_origin: 1, peers: 4 },
        PullEvent::Complete { digest: digest(), sources },
        PullEvent::Done { digest: digest(), bytes: 7, from_peers: 6, from_origin: 1 },
        PullEvent::Failed { error: "no such image".into() },
        PullEvent::Alive,
    ]
}

fn trace() -> Trace {
    let kinds = [
        SpanKind::Tag,
        SpanKind::Directory,
        SpanKind::Lease,
        SpanKind::Swarm,
        SpanKind::Origin,
        SpanKind::Verify,
        SpanKind::Publish,
        SpanKind::Client,
    ];
    let span = |kind| Span { kind, from_ms: 1, to_ms: Some(2), bytes: 3, note: Some("n2".into()) };
    Trace {
        digest: digest(),
        home: "r.example/app".into(),
        what: "blob".into(),
        size: Some(300_000),
        began_ms: 1_790_000_000_000,
        ended_ms: Some(1_790_000_009_000),
        error: Some("cut".into()),
        spans: kinds.map(span).into(),
    }
}

fn lab() -> LabStatus {
    let kinds = [
        (HostKind::Seeder, HostState::Running),
        (HostKind::Leecher, HostState::Starting),
        (HostKind::Tracker, HostState::Stopped),
        (HostKind::Registry, HostState::Killed),
        (HostKind::Web, HostState::Failed),
        (HostKind::Foreign, HostState::Running),
    ];
    let host = |(kind, state)| LabHost {
        name: "n1".into(),
        kind,
        program: "longshore".into(),
        address: "10.0.0.1".into(),
        zone: "east".into(),
        state,
        cut: true,
        rate: Some(100_000_000),
        delay_ms: Some(5),
        sent_bytes: Some(6),
        error: Some("exit code 1".into()),
    };
    LabStatus {
        id: "lab".into(),
        directory: "/var/lib/lab".into(),
        page: "http://127.0.0.1:8080/".into(),
        began_ms: 1_790_000_000_000,
        namespaces: true,
        zones: vec!["east".into()],
        cuts: vec![["east".into(), "west".into()]],
        hosts: kinds.map(host).into(),
        contents: vec![LabContent {
            kind: "torrent".into(),
            name: "disk.img".into(),
            id: info_hash().to_string(),
            size: 300_000,
            torrents: vec![info_hash().to_string()],
            seeders: vec!["n1".into()],
        }],
        traffic: Some(Traffic { pulls_per_minute: 2.5, churn_per_minute: 1.0 }),
        notes: vec!["nothing is delayed".into()],
        problems: vec!["n2 did not start".into()],
    }
}

fn actions() -> Vec<LabAction> {
    let host = || "n1".to_owned();
    vec![
        LabAction::Add { kind: HostKind::Leecher, count: 2, zone: "east".into() },
        LabAction::Stop { host: host() },
        LabAction::Kill { host: host() },
        LabAction::Start { host: host() },
        LabAction::Cut { from: host(), to: Some("n2".into()) },
        LabAction::Heal { from: Some(host()), to: Some("n2".into()) },
        LabAction::Limit { host: host(), rate: Some(1_000_000) },
        LabAction::Pull { host: Some(host()), content: Some("disk.img".into()) },
        LabAction::Churn(Traffic { pulls_per_minute: 2.5, churn_per_minute: 0.0 }),
        LabAction::Down,
    ]
}
