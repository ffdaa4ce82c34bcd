//! SIGHUP under load: while lists, keys, intervals and forwarders change, every announce is answered, and no peer is
//! lost.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests, outside the functions that clippy knows for tests"
)]

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
};

use announce::{
    AnnounceRequest, AnnounceResponse, Event, Key, Reply, ScrapeResponse, ScrapeStats, append_to_url,
    udp::UdpAnnounce,
};
use longshore_interop::{Answer, Http, Place, Tracker, Udp, get, wait_until};
use metainfo::InfoHash;
use wire::PeerId;

/// How often the configuration changes.
const RELOADS: usize = 60;
/// How many peers each client speaks for, in turn.
const PEERS: u16 = 200;
/// This torrent is served whatever the configuration; the other comes and goes.
const SERVED: [u8; 20] = [0xaa; 20];
const DENIED: [u8; 20] = [0xdd; 20];

/// What the clients have seen.
#[derive(Default)]
struct Seen {
    answered: AtomicU64,
    refused: AtomicU64,
    enough: AtomicBool,
}

impl Seen {
    /// An answer, or a refusal, which is an answer too where the torrent or the key may be unwanted.
    fn take(&self, reply: Result<(), String>, may_be_refused: bool) {
        match reply {
            Ok(()) => self.answered.fetch_add(1, Relaxed),
            Err(reason) => {
                assert!(may_be_refused, "refused though it is always welcome: {reason}");
                assert!(reason.contains("not served") || reason.contains("wants a key"), "{reason}");
                self.refused.fetch_add(1, Relaxed)
            }
        };
    }

    /// For each peer of a client in turn, until it is enough, and then once more.
    fn rounds(&self, first_port: u16, mut announce: impl FnMut(u16, bool)) {
        let mut last = false;
        while !last {
            last = self.enough.load(Relaxed);
            for port in first_port..first_port + PEERS {
                announce(port, false);
                if port % 4 == 0 {
                    announce(port, true);
                }
            }
        }
    }
}

fn torrent(denied: bool) -> InfoHash {
    InfoHash::from_bytes(if denied { DENIED } else { SERVED })
}

fn over_udp(to: SocketAddr, seen: &Seen, first_port: u16) {
    let udp = Udp::connect(to);
    seen.rounds(first_port, |port, denied| {
        // Over UDP there is no key without an option, so that one may be missed here.
        let announce = UdpAnnounce {
            info_hash: torrent(denied),
            peer_id: PeerId::ours([port.to_be_bytes(); 6].concat().try_into().expect("12")),
            downloaded: 0,
            left: 5,
            uploaded: 0,
            event: Event::None,
            ip: None,
            key: port.into(),
            numwant: None,
            port,
        };
        seen.take(udp.announce(&announce).map(|_| ()), true);
    });
}

fn target(port: u16, denied: bool) -> String {
    let id = PeerId::ours([port.to_be_bytes(); 6].concat().try_into().expect("12"));
    let key = Key::new(format!("{port:08x}").as_bytes());
    let request = AnnounceRequest { left: 5, key, ..AnnounceRequest::new(torrent(denied), id, port) };
    append_to_url("/fleet/announce", &request.to_query())
}

fn reply(answer: &Answer) -> Result<(), String> {
    assert_eq!(answer.status, 200, "{}", answer.head);
    match AnnounceResponse::parse(&answer.body).expect("bencode") {
        Reply::Ok(_) => Ok(()),
        Reply::Failure { reason, .. } => Err(reason),
    }
}

fn over_http_kept(to: SocketAddr, seen: &Seen, first_port: u16) {
    let mut http = Http::connect(to);
    seen.rounds(first_port, |port, denied| {
        seen.take(reply(&http.ask("GET", &target(port, denied), &[])), denied);
    });
}

fn over_http_closed(to: SocketAddr, seen: &Seen, first_port: u16) {
    seen.rounds(first_port, |port, denied| {
        seen.take(reply(&get(to, &target(port, denied), &[])), denied);
    });
}

/// The `n`th configuration: each setting has its own rhythm.
fn configuration(folder: &Path, n: usize) -> String {
    let path = |name: &str| folder.join(name).display().to_string();
    let mut lines = vec![
        "listen = [\"127.0.0.1:0\"]".to_owned(),
        format!("interval = {}", [600, 300][n % 2]),
        format!("min_interval = {}", [30, 5, 0][n % 3]),
        "peer_age = 1500".to_owned(),
    ];
    if n % 2 == 1 {
        lines.push(format!("deny = {:?}", path("deny")));
    }
    if n % 3 == 1 {
        lines.push(format!("allow = {:?}", path("allow")));
    }
    if n % 4 > 1 {
        lines.push(format!("keys = {:?}", path("keys")));
    }
    if !n.is_multiple_of(5) {
        lines.push(format!("forwarders = {:?}", path(["a.yml", "b.yml"][n % 2])));
    }
    if n % 7 == 6 {
        // Of no use: all stays as it is.
        lines.push("deny = \"/nonexistent\"\nallow = 3".to_owned());
    }
    lines.join("\n") + "\n"
}

#[test]
fn loses_no_announce_and_no_peer() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("written");
    let hex = |hash: [u8; 20]| InfoHash::from_bytes(hash).to_string();
    write("deny", &format!("{}\n", hex(DENIED)));
    write("allow", &format!("{}\n", hex(SERVED)));
    write("keys", "fleet\n");
    let far = Tracker::ours();
    write(
        "a.yml",
        &format!("- {{name: a, uri: 'http://{}/announce'}}\n- uri: http://127.0.0.1:1/\n", far.address),
    );
    write("b.yml", &format!("- {{name: b, uri: 'udp://{}'}}\n", far.address));
    write("tracker.toml", &configuration(folder.path(), 0));
    let path = folder.path().join("tracker.toml");
    let mut tracker = Tracker::ours_at(
        &Place::here(Ipv4Addr::LOCALHOST.into()),
        &["--log", "info", "--config", path.to_str().expect("text")],
    );

    let (seen, to) = (Seen::default(), tracker.address);
    let clients: [fn(SocketAddr, &Seen, u16); 6] =
        [over_udp, over_http_kept, over_http_closed, over_udp, over_http_kept, over_http_closed];
    let mut times_read = 0;
    thread::scope(|scope| {
        for (number, client) in (0..).zip(clients) {
            let seen = &seen;
            scope.spawn(move || client(to, seen, 1000 + number * PEERS));
        }
        for n in 1..=RELOADS {
            write("tracker.toml", &configuration(folder.path(), n));
            tracker.process.hang_up();
            times_read = n;
            wait_until("the configuration to be read", || {
                let log = tracker.process.stderr();
                log.matches("read anew").count() + log.matches("nothing is changed").count() >= times_read
            });
        }
        // In the end all are welcome, and come once more.
        write("tracker.toml", &configuration(folder.path(), 0));
        tracker.process.hang_up();
        times_read += 1;
        wait_until("the last configuration to be read", || {
            let log = tracker.process.stderr();
            log.matches("read anew").count() + log.matches("nothing is changed").count() >= times_read
        });
        seen.enough.store(true, Relaxed);
    });
    assert!(tracker.process.is_running());
    let log = tracker.process.stderr();
    assert_eq!(log.matches("nothing is changed").count(), RELOADS / 7 + usize::from(RELOADS % 7 == 6));

    // Each HTTP client's peers were welcome all the time, and a UDP client's since the last change at the latest.
    let (answered, refused) = (seen.answered.load(Relaxed), seen.refused.load(Relaxed));
    assert!(refused > 0, "the lists and keys did take hold");
    println!("{answered} announces answered, {refused} refused, {} reloads", RELOADS + 1);
    let scrape =
        get(to, "/scrape?info_hash=%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA", &[]);
    let Ok(Reply::Ok(scraped)) = ScrapeResponse::parse(&scrape.body) else { panic!("{}", scrape.text()) };
    let all = u32::from(PEERS) * 6;
    let expected = ScrapeStats { incomplete: all, downloaders: Some(all), ..ScrapeStats::default() };
    assert_eq!(scraped.files, [(InfoHash::from_bytes(SERVED), expected)], "every peer is there, once");
    // What the tracker counted is what was asked of it: nothing was lost on either side.
    let stats: serde_json::Value = serde_json::from_slice(&get(to, "/stats.json", &[]).body).expect("JSON");
    let requests = stats["requests"].as_array().expect("a list");
    let sum = |name: &str| requests.iter().map(|one| one[name].as_u64().unwrap_or(0)).sum::<u64>();
    assert_eq!(sum("announces"), answered);
    let faults = requests.iter().flat_map(|one| one["faults"].as_array().expect("a list").iter());
    let faults: Vec<(&str, u64)> = faults
        .map(|fault| (fault[0].as_str().expect("a name"), fault[1].as_u64().expect("a number")))
        .filter(|(_, count)| *count > 0)
        .collect();
    let sum_of =
        |wanted: &str| faults.iter().filter(|(name, _)| *name == wanted).map(|(_, n)| n).sum::<u64>();
    assert_eq!(
        (sum_of("refused"), faults.iter().all(|(name, _)| *name == "refused")),
        (refused, true),
        "{faults:?}"
    );
}
