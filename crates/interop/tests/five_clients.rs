//! Five clients that the field uses, and our own, between hosts of a network, through our tracker, over each protocol
//! and family. There is one seed, which is killed when the first has everything; the others must find that one.

#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "helpers of tests; they say who is left out, and why"
)]

use longshore_interop::{
    Aria2, Client, Content, Libtorrent, Longshore, Network, Qbittorrent, Rtorrent, Tracker, Transmission,
    info_hash, make_torrent, wait_until,
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Http,
    Udp,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

/// What a client cannot do, and how that is known.
const EXCEPTIONS: [(&str, Protocol, Family, &str); 2] = [
    (
        "aria2",
        Protocol::Udp,
        Family::V6,
        "1.36 sends to UDP trackers from the IPv4 socket of its DHT alone; its log: `Exception thrown while sending \
         UDP tracker request`, `UDPT fail CONNECT to fd00::1`",
    ),
    (
        "transmission",
        Protocol::Udp,
        Family::V6,
        "3.00 asks DNS for an address in brackets (`Nameserver … has failed`, `Could not connect to tracker`), and \
         reads the peers of every UDP answer as IPv4's (announcer-udp.c)",
    ),
];

/// This one never says `completed`: from one announce to the next it just lacks nothing any more (seen of 0.9.8 with
/// an announce every three seconds). So it counts as a seed, and not as a download.
const SAYS_NOT_THAT_IT_IS_DONE: &str = "rtorrent";
/// This one ends when it is done, and takes its leave of the tracker.
const LEAVES: &str = "longshore";

/// Through one tracker; `first` gets it all from the seed, and gives it to the others.
fn swarm(protocol: Protocol, family: Family, first: &dyn Client) {
    let all: [&dyn Client; 6] = [&Aria2, &Libtorrent, &Longshore, &Qbittorrent, &Rtorrent, &Transmission];
    let able = |client: &&dyn Client| {
        let exception = EXCEPTIONS
            .iter()
            .find(|(name, over, by, _)| (*name, *over, *by) == (client.name(), protocol, family));
        if let Some((name, _, _, why)) = exception {
            println!("without {name}: {why}");
        }
        exception.is_none()
    };
    let clients: Vec<&dyn Client> = all.into_iter().filter(able).collect();
    if !clients.iter().all(|client| client.is_here()) {
        return;
    }
    let others: Vec<_> = clients.into_iter().filter(|client| client.name() != first.name()).collect();
    let hosts = u8::try_from(others.len()).expect("few") + 3;
    let Some(network) = Network::new(hosts, family == Family::V6) else { return };

    // The first seed is counted to the end, however long that takes.
    let options = ["--interval", "5", "--min-interval", "1", "--peer-age", "1500", "-d"];
    let mut tracker = Tracker::ours_at(&network.host(0), &options);
    if protocol == Protocol::Udp {
        tracker = tracker.by_udp();
    }
    let content = Content::new();
    let torrent = content.place().join("things.torrent");
    let made = make_torrent(
        &content.root(),
        &torrent,
        &["--piece-length", "64KiB", "--no-date", "--tracker", &tracker.url],
    );
    let name = info_hash(&made);
    let folders: Vec<_> = (0..=others.len()).map(|_| tempfile::tempdir().expect("a folder")).collect();
    let has_all = |of: usize| folders.get(of).is_some_and(|folder| content.is_in(folder.path()));
    let folder = |of: usize| folders.get(of).expect("so many").path();

    let mut seed = Libtorrent.seed_at(&network.host(1), &torrent, content.place());
    tracker.wait_for_seed(&name);
    let one = first.get_at(&network.host(2), &torrent, folder(0));
    wait_until(&format!("{} to have it all from the seed", first.name()), || has_all(0));
    let numbers = |tracker: &Tracker| tracker.scrape(&name).unwrap_or_default();
    wait_until(&format!("{} to say so", first.name()), || numbers(&tracker).complete == 2);
    seed.process.kill();

    let running: Vec<_> = (1..)
        .zip(&others)
        .map(|(n, client)| client.get_at(&network.host(n + 2), &torrent, folder(n)))
        .collect();
    for (n, client) in (1..).zip(&others) {
        wait_until(&format!("{} to have it all from {}", client.name(), first.name()), || has_all(n));
    }
    // All of them are seeds now, with the first seed, which took no leave.
    let all: Vec<_> = others.iter().map(|client| client.name()).chain([first.name()]).collect();
    let without = |whom| u32::try_from(all.iter().filter(|name| **name != whom).count()).expect("few");
    let (seeds, downloads) = (1 + without(LEAVES), without(SAYS_NOT_THAT_IT_IS_DONE));
    wait_until("everybody to say so", || {
        assert!(tracker.process.is_running(), "the tracker ended");
        let numbers = numbers(&tracker);
        (numbers.complete, numbers.incomplete, numbers.downloaded) == (seeds, 0, downloads)
    });
    drop((one, running));
}

#[test]
fn over_http_and_ipv4() {
    swarm(Protocol::Http, Family::V4, &Transmission);
}

#[test]
fn over_udp_and_ipv4() {
    swarm(Protocol::Udp, Family::V4, &Aria2);
}

#[test]
fn over_http_and_ipv6() {
    swarm(Protocol::Http, Family::V6, &Rtorrent);
}

#[test]
fn over_udp_and_ipv6() {
    swarm(Protocol::Udp, Family::V6, &Qbittorrent);
}
