//! Trackers that share peers: ours with opentracker and back, and ours among themselves in a ring, over HTTP and UDP,
//! with forwarders in between that are dead in one way or another.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests, outside the functions that clippy knows for tests"
)]

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
};

use announce::{AnnounceRequest, AnnounceResponse, Event, Reply, append_to_url};
use longshore_interop::{Place, Tracker, get, skip, wait_until};
use metainfo::InfoHash;
use tempfile::TempPath;
use wire::PeerId;

const TORRENT: [u8; 20] = [0xf7; 20];

/// Says at this tracker that a peer is at this port, and gives what it answers.
fn say(tracker: SocketAddr, port: u16, event: Event) -> AnnounceResponse {
    let id = PeerId::ours([port.to_be_bytes(); 6].concat().try_into().expect("12"));
    let request = AnnounceRequest {
        left: 5,
        event,
        compact: Some(true),
        ..AnnounceRequest::new(InfoHash::from_bytes(TORRENT), id, port)
    };
    let answer = get(tracker, &append_to_url("/announce", &request.to_query()), &[]);
    match AnnounceResponse::parse(&answer.body) {
        Ok(Reply::Ok(response)) => response,
        other => panic!("{other:?}"),
    }
}

fn addresses(response: &AnnounceResponse) -> Vec<SocketAddr> {
    let mut addresses: Vec<_> = response.peers.iter().map(|peer| peer.addr).collect();
    addresses.sort_unstable();
    addresses
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Has the peer come again until it is told of these others.
fn until_told(tracker: SocketAddr, port: u16, others: &[SocketAddr]) {
    let mut told = Vec::new();
    wait_until(&format!("{port} to be told of {others:?}"), || {
        told = addresses(&say(tracker, port, Event::None));
        others.iter().all(|other| told.contains(other))
    });
}

fn list(forwarders: &[(&str, String)]) -> TempPath {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let lines: String =
        forwarders.iter().map(|(name, uri)| format!("- {{name: {name}, uri: '{uri}'}}\n")).collect();
    fs::write(file.path(), lines).expect("written");
    file.into_temp_path()
}

/// A tracker of ours with these forwarders, everywhere.
fn ours(forwarders: &[(&str, String)]) -> (Tracker, TempPath) {
    let list = list(forwarders);
    let path = list.to_str().expect("text");
    let here = Place::here(Ipv4Addr::LOCALHOST.into());
    (Tracker::ours_at(&here, &["--forwarders", path, "--forward-timeout", "2"]), list)
}

fn metrics(tracker: &Tracker) -> String {
    get(tracker.address, "/metrics", &[]).text()
}

fn counted(tracker: &Tracker, name: &str, status: &str) -> bool {
    metrics(tracker).contains(&format!("forwarder_status{{name=\"{name}\",status=\"{status}\"}} "))
}

/// Forwarders that are dead, each in its own way.
struct Dead {
    /// Takes connections into its queue, and nothing from there.
    _silent: TcpListener,
    /// The same of packets.
    _deaf: UdpSocket,
    list: Vec<(&'static str, String)>,
}

fn dead() -> Dead {
    let silent = TcpListener::bind("127.0.0.1:0").expect("bound");
    let deaf = UdpSocket::bind("127.0.0.1:0").expect("bound");
    let closed = TcpListener::bind("127.0.0.1:0").and_then(|one| one.local_addr()).expect("bound");
    let address = |of: std::io::Result<SocketAddr>| of.expect("bound").to_string();
    let list = vec![
        ("silent", format!("http://{}/announce", address(silent.local_addr()))),
        ("deaf", format!("udp://{}", address(deaf.local_addr()))),
        ("closed", format!("http://{closed}/announce")),
        ("closed-udp", format!("udp://{closed}")),
    ];
    Dead { _silent: silent, _deaf: deaf, list }
}

#[test]
fn to_opentracker_and_back_beside_dead_ones() {
    let hex = "f7".repeat(20);
    let Some(far) = Tracker::opentracker(&hex) else { return };
    for (scheme, at_far, at_near) in [("http", 1001, 1002), ("udp", 1003, 1004)] {
        let dead = dead();
        let alive = ("far", format!("{scheme}://{}/announce", far.address));
        let (near, _list) = ours(&[&dead.list[..], &[alive]].concat());
        say(far.address, at_far, Event::Started);
        // Answered with what is known, which is nothing, and told to come back soon for what is asked meanwhile.
        let first = say(near.address, at_near, Event::Started);
        assert!(addresses(&first).is_empty() && first.interval.as_secs() <= 10, "{first:?}");
        until_told(near.address, at_near, &[local(at_far)]);
        until_told(far.address, at_far, &[local(at_near)]);
        // The dead are found to be so, and nobody waits for it.
        for name in ["silent", "deaf", "closed", "closed-udp"] {
            wait_until(&format!("{name} to be counted"), || counted(&near, name, "error"));
        }
        // Last words arrive.
        say(near.address, at_near, Event::Stopped);
        wait_until("the last words to arrive", || {
            !addresses(&say(far.address, at_far, Event::None)).contains(&local(at_near))
        });
        say(far.address, at_far, Event::Stopped);
    }
}

#[test]
fn a_ring_of_three_passes_peers_on_and_does_not_go_round() {
    // Each needs the next one's port before that one is there: the third takes its list when it is told to look again.
    let late = list(&[]);
    let here = Place::here(Ipv4Addr::LOCALHOST.into());
    let third = Tracker::ours_at(&here, &["--log", "info", "--forwarders", late.to_str().expect("text")]);
    let (second, _second_list) = ours(&[("third", format!("http://{}/announce", third.address))]);
    let (first, _first_list) = ours(&[("second", format!("udp://{}", second.address))]);
    fs::write(&late, format!("- {{name: first, uri: 'http://{}/announce'}}\n", first.address))
        .expect("written");
    third.process.hang_up();
    wait_until("the third to have read its list", || third.process.stderr().contains("read anew"));

    say(first.address, 1001, Event::Started);
    // It goes to the second and on to the third, and from there back to the first, each with its own tale.
    for tracker in [&second, &third] {
        wait_until("the announce to arrive", || {
            tracker.scrape(&"f7".repeat(20)).is_some_and(|numbers| numbers.incomplete == 1)
        });
    }
    for (tracker, port) in [(&second, 1002), (&third, 1003)] {
        say(tracker.address, port, Event::Started);
    }
    until_told(first.address, 1001, &[local(1002)]);
    until_told(second.address, 1002, &[local(1001), local(1003)]);
    until_told(third.address, 1003, &[local(1001)]);
    // Whatever came round is known by its peer: nobody is there twice, and nobody is told of himself.
    for tracker in [&first, &second, &third] {
        let numbers = tracker.scrape(&"f7".repeat(20)).expect("known");
        assert!((1..=3).contains(&numbers.incomplete), "{numbers:?}");
    }
    assert!(!addresses(&say(first.address, 1001, Event::None)).contains(&local(1001)));
}

#[test]
fn a_tracker_that_is_its_own_forwarder_is_found_out_by_either_protocol() {
    for scheme in ["http", "udp"] {
        let late = list(&[]);
        let here = Place::here(Ipv4Addr::LOCALHOST.into());
        let tracker =
            Tracker::ours_at(&here, &["--log", "info", "--forwarders", late.to_str().expect("text")]);
        fs::write(&late, format!("- {{name: self, uri: '{scheme}://{}/announce'}}\n", tracker.address))
            .expect("written");
        tracker.process.hang_up();
        wait_until("the list to be read", || tracker.process.stderr().contains("read anew"));
        say(tracker.address, 1001, Event::Started);
        wait_until("it to be found out", || counted(&tracker, "self", "refused"));
        assert!(tracker.process.stderr().contains("leads back to this tracker"));
        let other = say(tracker.address, 1002, Event::Started);
        assert_eq!((addresses(&other), other.incomplete), (vec![local(1001)], Some(2)));
        assert!(metrics(&tracker).contains("status=\"refused\"} 1\n"), "it is asked no more");
    }
}

#[test]
fn ipv6_peers_of_forwarders_are_passed_on() {
    if UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        return skip("there is no IPv6 here");
    }
    for scheme in ["http", "udp"] {
        let far = Tracker::ours_at(&Place::here(Ipv6Addr::LOCALHOST.into()), &[]);
        let peer = SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 1001);
        say(far.address, 1001, Event::Started);
        let (near, _list) = ours(&[("far", format!("{scheme}://{}/announce", far.address))]);
        until_told(near.address, 1002, &[peer]);
    }
}
