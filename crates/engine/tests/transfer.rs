//! Engines on loopback: whole transfers, resumption, lies and full stops.
#![allow(clippy::expect_used, reason = "a test says so when it fails")]

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use longshore_engine::{
    Config, Engine, Failure, Layout, NoLog, Shelf, ShelfItem, Torrent, TorrentSpec, TorrentState, check,
};
use metainfo::create::{Options, create};
use swarm::{PieceSet, SourceKind};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    time::timeout,
};

const DEADLINE: Duration = Duration::from_secs(60);

async fn engine() -> Engine {
    let config = Config { listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), ..Config::default() };
    Engine::start(config, None).await.expect("a free port")
}

/// Bytes that no two blocks have in common.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(length).collect()
}

fn torrent_of(path: &Path, options: &Options) -> metainfo::Torrent {
    create(path, options, &|_, _| {}).expect("readable")
}

fn seed_spec(torrent: &metainfo::Torrent, folder: &Path) -> TorrentSpec {
    TorrentSpec::seed(torrent.clone(), Layout::seed(&torrent.info, folder))
}

fn leech_spec(torrent: &metainfo::Torrent, folder: &Path) -> TorrentSpec {
    let layout = Layout::download(&torrent.info, folder).expect("writable");
    let have = PieceSet::empty(torrent.info.geometry.piece_count());
    TorrentSpec { torrent: torrent.clone(), layout, have, log: Box::new(NoLog), rests: false, open: true }
}

async fn complete(torrent: &Arc<Torrent>) -> TorrentState {
    let mut status = torrent.status();
    let done = status.wait_for(|s| s.state != TorrentState::Downloading);
    timeout(DEADLINE, done).await.expect("in time").expect("running").state.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_goes_from_one_to_two_and_every_byte_is_accounted_for() {
    let (from, to, also) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let folder = from.path().join("things");
    fs::create_dir_all(folder.join("deep")).unwrap();
    fs::write(folder.join("a"), noise(3_000_001, 1)).unwrap();
    fs::write(folder.join("deep/b"), noise(5_123_456, 2)).unwrap();
    fs::write(folder.join("empty"), b"").unwrap();
    let torrent = torrent_of(&folder, &Options { piece_length: Some(64 * 1024), ..Options::default() });
    let (seed, one, two) = (engine().await, engine().await, engine().await);
    seed.add(seed_spec(&torrent, from.path())).await.unwrap();
    let first = one.add(leech_spec(&torrent, to.path())).await.unwrap();
    let second = two.add(leech_spec(&torrent, also.path())).await.unwrap();
    first.add_peers([seed.listen()]);
    second.add_peers([seed.listen(), one.listen()]);
    for (leech, folder) in [(&first, to.path()), (&second, also.path())] {
        assert_eq!(complete(leech).await, TorrentState::Complete);
        for name in ["things/a", "things/deep/b", "things/empty"] {
            assert!(
                fs::read(folder.join(name)).unwrap() == fs::read(from.path().join(name)).unwrap(),
                "{name}"
            );
        }
        let provenance = leech.provenance();
        let given: u64 = provenance.sources().iter().map(|s| s.bytes).sum();
        assert_eq!(given, torrent.info.geometry.total());
        let blocks: u32 = provenance.runs().iter().map(|r| r.blocks).sum();
        assert_eq!(u64::from(blocks), given.div_ceil(16384));
    }
    for engine in [seed, one, two] {
        engine.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_is_proven_by_its_chaining_states() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = from.path().join("layer");
    fs::write(&path, noise(20_000_000, 3)).unwrap();
    let torrent = torrent_of(&path, &Options { blob: true, ..Options::default() });
    assert!(torrent.info.blob.is_some());
    let (seed, leech) = (engine().await, engine().await);
    let file = Arc::new(fs::File::open(&path).unwrap());
    seed.add(TorrentSpec::seed(torrent.clone(), Layout::single(file))).await.unwrap();
    let got = leech.add(leech_spec(&torrent, to.path())).await.unwrap();
    got.add_peers([seed.listen()]);
    assert_eq!(complete(&got).await, TorrentState::Complete);
    assert!(fs::read(to.path().join(&torrent.info.name)).unwrap() == fs::read(&path).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_on_disk_is_found_and_only_the_rest_is_fetched() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let content = noise(4_000_000, 4);
    fs::write(from.path().join("f"), &content).unwrap();
    let torrent =
        torrent_of(&from.path().join("f"), &Options { piece_length: Some(65536), ..Options::default() });
    let mut partial = content.clone();
    partial[1_000_000..3_000_000].fill(0);
    fs::write(to.path().join("f"), &partial).unwrap();
    let layout = Layout::download(&torrent.info, to.path()).unwrap();
    let have = check(&torrent.info, &layout, |_| true).unwrap();
    let missing = (0..torrent.info.geometry.piece_count())
        .filter(|p| {
            partial[*p as usize * 65536..]
                .iter()
                .zip(&content[*p as usize * 65536..])
                .take(65536)
                .any(|(a, b)| a != b)
        })
        .count() as u32;
    assert_eq!(have.count(), torrent.info.geometry.piece_count() - missing);
    let (seed, leech) = (engine().await, engine().await);
    seed.add(seed_spec(&torrent, from.path())).await.unwrap();
    let spec = TorrentSpec {
        torrent: torrent.clone(),
        layout,
        have,
        log: Box::new(NoLog),
        rests: false,
        open: true,
    };
    let got = leech.add(spec).await.unwrap();
    got.add_peers([seed.listen()]);
    assert_eq!(complete(&got).await, TorrentState::Complete);
    assert!(fs::read(to.path().join("f")).unwrap() == content);
    let fetched: u64 = got.provenance().sources().iter().map(|s| s.bytes).sum();
    assert!(fetched <= u64::from(missing) * 65536, "{fetched}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_with_wrong_bytes_is_banned_and_the_download_finishes() {
    let (good, bad, to) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let content = noise(6_000_000, 5);
    fs::write(good.path().join("f"), &content).unwrap();
    let torrent =
        torrent_of(&good.path().join("f"), &Options { piece_length: Some(65536), ..Options::default() });
    let mut wrong = content.clone();
    wrong.iter_mut().step_by(50_000).for_each(|b| *b ^= 1);
    fs::write(bad.path().join("f"), &wrong).unwrap();
    let (honest, liar, leech) = (engine().await, engine().await, engine().await);
    liar.add(seed_spec(&torrent, bad.path())).await.unwrap();
    let got = leech.add(leech_spec(&torrent, to.path())).await.unwrap();
    got.add_peers([liar.listen()]);
    // The liar is found out before the honest one is even known.
    timeout(DEADLINE, async {
        while !got.provenance().sources().iter().any(|s| s.wasted > 0) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("a wrong piece is seen");
    honest.add(seed_spec(&torrent, good.path())).await.unwrap();
    got.add_peers([honest.listen()]);
    assert_eq!(complete(&got).await, TorrentState::Complete);
    assert!(fs::read(to.path().join("f")).unwrap() == content);
    let from_liar = got.provenance().sources().iter().any(|s| {
        matches!(s.kind, SourceKind::Peer { address, .. } if address == liar.listen()) && s.wasted > 0
    });
    assert!(from_liar);
    assert!(got.peers().iter().all(|(p, _)| p.info.address != liar.listen()), "it stays out");
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_comes_from_a_peer() {
    let (from, _to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(from.path().join("f"), noise(9_000_000, 6)).unwrap();
    // 550 pieces: the dictionary does not fit one metadata piece.
    let torrent =
        torrent_of(&from.path().join("f"), &Options { piece_length: Some(16384), ..Options::default() });
    let (seed, leech) = (engine().await, engine().await);
    let spec = seed_spec(&torrent, from.path());
    seed.add(spec).await.unwrap();
    let mut magnet = metainfo::Magnet::new(torrent.info_hash);
    magnet.peers.push(seed.listen().to_string());
    let got = leech.metadata(&magnet, DEADLINE).await.expect("given");
    assert_eq!(got.info_bytes, torrent.info_bytes);
    assert!(
        leech.metadata(&metainfo::Magnet::new(torrent.info_hash), DEADLINE).await.is_err(),
        "nobody to ask"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seeder_whose_file_was_cut_says_so_and_stops_offering_it() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = from.path().join("f");
    fs::write(&path, noise(2_000_000, 7)).unwrap();
    let torrent = torrent_of(&path, &Options { piece_length: Some(65536), ..Options::default() });
    let (seed, leech) = (engine().await, engine().await);
    let seeding = seed.add(seed_spec(&torrent, from.path())).await.unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_len(1000).unwrap();
    let got = leech.add(leech_spec(&torrent, to.path())).await.unwrap();
    got.add_peers([seed.listen()]);
    let mut status = seeding.status();
    let failed = status.wait_for(|s| matches!(s.state, TorrentState::Failed(Failure::Lost { .. })));
    timeout(DEADLINE, failed).await.expect("in time").expect("running");
    timeout(DEADLINE, async {
        while seed.get(&torrent.info_hash).is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("it is let go");
    assert!(matches!(seed.lost().as_slice(), [(lost, Failure::Lost { .. })] if *lost == torrent.info_hash));
}

/// One torrent, whatever became of its file.
struct OneOnTheShelf(metainfo::Torrent, std::path::PathBuf);

impl Shelf for OneOnTheShelf {
    fn find(&self, _: &metainfo::InfoHash) -> Option<ShelfItem> {
        Some(ShelfItem { torrent: self.0.clone(), file: fs::File::open(&self.1).ok()?, open: true })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_lost_is_not_fetched_from_the_shelf_again() {
    let from = tempfile::tempdir().unwrap();
    let path = from.path().join("f");
    fs::write(&path, noise(2_000_000, 8)).unwrap();
    let torrent = torrent_of(&path, &Options { piece_length: Some(65536), ..Options::default() });
    fs::File::options().write(true).open(&path).unwrap().set_len(1000).unwrap();
    let config = Config { listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), ..Config::default() };
    let shelf = Arc::new(OneOnTheShelf(torrent.clone(), path));
    let (seed, to) = (Engine::start(config, Some(shelf)).await.unwrap(), tempfile::tempdir().unwrap());
    let leech = engine().await;
    let got = leech.add(leech_spec(&torrent, to.path())).await.unwrap();
    got.add_peers([seed.listen()]);
    timeout(DEADLINE, async {
        while seed.lost().is_empty() || !seed.torrents().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("it is noticed");
    let mut again = shake(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), &seed, &torrent, [1; 12]).await;
    assert_eq!(again.read(&mut [0; 68]).await.expect("closed in order"), 0, "it does not answer for it");
    assert!(seed.torrents().is_empty());
}

/// Connects from `from` and says the handshake.
async fn shake(from: SocketAddr, to: &Engine, torrent: &metainfo::Torrent, id: [u8; 12]) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(from).expect("an address of this machine");
    let mut stream = socket.connect(to.listen()).await.expect("accepted");
    let hello = wire::Handshake::ours(torrent.info_hash, wire::PeerId::ours(id));
    stream.write_all(&hello.encode()).await.expect("taken");
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn another_host_that_claims_a_peers_name_does_not_throw_it_out() {
    let from = tempfile::tempdir().unwrap();
    let path = from.path().join("f");
    fs::write(&path, noise(200_000, 9)).unwrap();
    let torrent = torrent_of(&path, &Options::default());
    let seed = engine().await;
    let seeding = seed.add(seed_spec(&torrent, from.path())).await.unwrap();
    let peers = async |wanted: &dyn Fn(&[SocketAddr]) -> bool| {
        let connected = || seeding.peers().iter().map(|(p, _)| p.info.address).collect::<Vec<_>>();
        let waiting = async {
            while !wanted(&connected()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(DEADLINE, waiting).await.expect("in time");
    };
    let (here, there) = (SocketAddr::from(([127, 0, 0, 1], 0)), SocketAddr::from(([127, 0, 0, 2], 0)));
    for id in [[0; 12], [0xff; 12]] {
        let honest = shake(here, &seed, &torrent, id).await;
        let address = honest.local_addr().unwrap();
        peers(&|all| all.contains(&address)).await;
        let thief = shake(there, &seed, &torrent, id).await;
        let stolen = thief.local_addr().unwrap();
        peers(&|all| all.contains(&stolen)).await;
        assert!(seeding.peers().iter().any(|(p, _)| p.info.address == address), "it stays");
        // From its own host it may come back, and then the first connection is dead.
        let again = shake(here, &seed, &torrent, id).await;
        let new = again.local_addr().unwrap();
        peers(&|all| all.contains(&new) && !all.contains(&address)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_fills_the_incoming_places_does_not_stop_our_own_connections() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = from.path().join("f");
    fs::write(&path, noise(2_000_000, 10)).unwrap();
    let torrent = torrent_of(&path, &Options::default());
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let crowded = Config { listen, max_connections: 2, ..Config::default() };
    let (seed, leech) = (engine().await, Engine::start(crowded, None).await.unwrap());
    seed.add(seed_spec(&torrent, from.path())).await.unwrap();
    let got = leech.add(leech_spec(&torrent, to.path())).await.unwrap();
    // It says hello, and nothing more.
    let mut hog = shake(listen, &leech, &torrent, [7; 12]).await;
    hog.read_exact(&mut [0; 68]).await.expect("it has the place");
    got.add_peers([seed.listen()]);
    assert_eq!(complete(&got).await, TorrentState::Complete);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_floods_us_with_what_nobody_asked_for_does_not_come_back() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = from.path().join("f");
    fs::write(&path, noise(1_000_000, 11)).unwrap();
    let torrent = torrent_of(&path, &Options::default());
    let leech = engine().await;
    let got = leech.add(leech_spec(&torrent, to.path())).await.unwrap();
    let here = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let mut flood = shake(here, &leech, &torrent, [8; 12]).await;
    let range = wire::BlockRange { piece: metainfo::PieceIndex(0), begin: 0, length: 128 * 1024 };
    let mut block = range.piece_header().to_vec();
    block.resize(block.len() + range.length as usize, 0);
    // 64 MiB are borne; the connection ends within the next.
    let sent = timeout(DEADLINE, async {
        let mut sent = 0u64;
        while flood.write_all(&block).await.is_ok() {
            sent += u64::from(range.length);
        }
        sent
    });
    let sent = sent.await.expect("it is cut off");
    assert!(sent >= 64 * 1024 * 1024, "{sent}");
    assert_eq!((got.moved(), got.from_peers()), ((0, 0), 0), "no merit");
    assert_eq!(got.wasted(), 64 * 1024 * 1024);
    let mut again = shake(here, &leech, &torrent, [8; 12]).await;
    let mut said = Vec::new();
    // Closed or reset, either is the end.
    let _ = timeout(DEADLINE, again.read_to_end(&mut said)).await.expect("it is refused");
    assert!(said.len() <= 68, "a handshake at most");
}

/// A tracker that wants to be asked every quarter of an hour, names whom it is told to, and notes which events it hears.
async fn tracker(peers: Arc<Mutex<Vec<SocketAddr>>>) -> (String, Arc<Mutex<Vec<String>>>) {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let events = heard.clone();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let url = format!("http://{}/announce", listener.local_addr().expect("bound"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = vec![0; 4096];
            // One request each.
            let length = stream.read(&mut head).await.unwrap_or(0);
            let asked = String::from_utf8_lossy(&head[..length]).into_owned();
            let event = asked.split("event=").nth(1).and_then(|rest| rest.split(['&', ' ']).next());
            events.lock().expect("no panic").push(event.unwrap_or_default().to_owned());
            let list: Vec<u8> = peers.lock().expect("no panic").iter().flat_map(compact).collect();
            let before = format!("d8:intervali900e5:peers{}:", list.len());
            let body = [before.as_bytes(), &list, b"e"].concat();
            let head =
                format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
            let _ = stream.write_all(&[head.as_bytes(), &body].concat()).await;
        }
    });
    (url, heard)
}

fn compact(address: &SocketAddr) -> Vec<u8> {
    let SocketAddr::V4(address) = address else { return Vec::new() };
    [&address.ip().octets()[..], &address.port().to_be_bytes()].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swarm_in_which_pieces_are_missing_finds_the_seed_that_comes_back_long_before_the_interval_ends() {
    let (from, to, also) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(from.path().join("file"), noise(1_000_000, 1)).unwrap();
    let mut torrent = torrent_of(&from.path().join("file"), &Options::default());
    let (one, two) = (engine().await, engine().await);
    let known = Arc::new(Mutex::new(vec![two.listen()]));
    two.add(leech_spec(&torrent, also.path())).await.unwrap();
    torrent.trackers = vec![vec![tracker(known.clone()).await.0]];
    let leech = one.add(leech_spec(&torrent, to.path())).await.unwrap();
    let met = async {
        while leech.peers().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(DEADLINE, met).await.expect("they meet");
    let seed = engine().await;
    torrent.trackers.clear();
    seed.add(seed_spec(&torrent, from.path())).await.unwrap();
    known.lock().unwrap().push(seed.listen());
    assert_eq!(complete(&leech).await, TorrentState::Complete);
    for engine in [one, two, seed] {
        engine.stop().await;
    }
}

#[tokio::test]
async fn a_download_that_ends_together_with_its_engine_is_told_of_as_complete() {
    let from = tempfile::tempdir().unwrap();
    fs::write(from.path().join("file"), noise(300_000, 1)).unwrap();
    let mut torrent = torrent_of(&from.path().join("file"), &Options::default());
    let seed = engine().await;
    seed.add(seed_spec(&torrent, from.path())).await.unwrap();
    for _ in 0..10 {
        let (to, leech) = (tempfile::tempdir().unwrap(), engine().await);
        let (url, heard) = tracker(Arc::new(Mutex::new(vec![seed.listen()]))).await;
        torrent.trackers = vec![vec![url]];
        let getting = leech.add(leech_spec(&torrent, to.path())).await.unwrap();
        assert_eq!(complete(&getting).await, TorrentState::Complete);
        leech.stop().await;
        assert_eq!(*heard.lock().unwrap(), ["started", "completed", "stopped"]);
    }
    seed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_claims_all_pieces_and_gives_none_keeps_nobody_from_finding_the_seed() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(from.path().join("file"), noise(1_000_000, 12)).unwrap();
    let mut torrent = torrent_of(&from.path().join("file"), &Options::default());
    let one = engine().await;
    let known = Arc::new(Mutex::new(Vec::new()));
    torrent.trackers = vec![vec![tracker(known.clone()).await.0]];
    let leech = one.add(leech_spec(&torrent, to.path())).await.unwrap();
    let here = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let mut liar = shake(here, &one, &torrent, [9; 12]).await;
    let pieces = torrent.info.geometry.piece_count();
    let mut bits = vec![0xff_u8; pieces.div_ceil(8) as usize];
    if let Some(last) = bits.last_mut() {
        *last <<= (8 - pieces % 8) % 8;
    }
    let bitfield = [&(1 + pieces.div_ceil(8)).to_be_bytes()[..], &[5], &bits].concat();
    liar.write_all(&bitfield).await.expect("it is listened to");
    let believed = async {
        while !leech.peers().iter().any(|(peer, _)| peer.pieces == pieces) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(DEADLINE, believed).await.expect("it is believed");
    let seed = engine().await;
    torrent.trackers.clear();
    seed.add(seed_spec(&torrent, from.path())).await.unwrap();
    known.lock().unwrap().push(seed.listen());
    assert_eq!(complete(&leech).await, TorrentState::Complete);
    drop(liar);
    for engine in [one, seed] {
        engine.stop().await;
    }
}
