//! Each client fetches from us and we from it, with opentracker between us and with our own tracker, over HTTP and UDP.
//!
//! Transmission is not among them: version 3.00 as Debian has it gets the peers from either tracker and connects to
//! none of them on loopback. Between hosts it does: `five_clients.rs`.

#![allow(clippy::expect_used, reason = "helpers of tests, outside the functions that clippy knows for tests")]

use longshore_interop::{
    Aria2, Client, Content, Libtorrent, Longshore, Qbittorrent, Rtorrent, Tracker, info_hash, make_torrent,
    wait_until,
};

#[derive(Clone, Copy)]
enum By {
    OpenTracker,
    OpenTrackerUdp,
    OurTracker,
    OurTrackerUdp,
}

/// A torrent goes from one client to another through a tracker, and arrives whole.
fn transfer(from: &dyn Client, to: &dyn Client, by: By) {
    if !from.is_here() || !to.is_here() {
        return;
    }
    let (content, goal) = (Content::new(), tempfile::tempdir().expect("a folder"));
    let torrent = content.place().join("things.torrent");
    let options = ["--piece-length", "64KiB", "--no-date"];
    let name = info_hash(&make_torrent(&content.root(), &torrent, &options));
    let tracker = match by {
        By::OurTracker => Some(Tracker::ours()),
        By::OurTrackerUdp => Some(Tracker::ours().by_udp()),
        By::OpenTracker => Tracker::opentracker(&name),
        By::OpenTrackerUdp => Tracker::opentracker(&name).map(Tracker::by_udp),
    };
    let Some(mut tracker) = tracker else { return };
    let with_tracker = [&options[..], &["--tracker", &tracker.url]].concat();
    assert_eq!(info_hash(&make_torrent(&content.root(), &torrent, &with_tracker)), name);

    let mut seeder = from.seed(&torrent, content.place());
    tracker.wait_for_seed(&name);
    let mut leecher = to.get(&torrent, goal.path());
    wait_until(&format!("{} to have it all from {}", to.name(), from.name()), || {
        assert!(seeder.process.is_running(), "the seeder ended");
        content.is_in(goal.path())
    });
    if to.name() == "longshore" {
        assert!(leecher.process.wait().success());
        assert_eq!(leecher.process.event("complete")["wasted"], 0);
    }
}

macro_rules! both_ways {
    ($($module:ident: $client:expr;)*) => {
        $(mod $module {
            use super::*;

            #[test]
            fn fetches_from_us_by_opentracker() {
                transfer(&Longshore, &$client, By::OpenTracker);
            }

            #[test]
            fn fetches_from_us_by_our_tracker() {
                transfer(&Longshore, &$client, By::OurTracker);
            }

            #[test]
            fn gives_to_us_by_opentracker() {
                transfer(&$client, &Longshore, By::OpenTracker);
            }

            #[test]
            fn gives_to_us_by_our_tracker() {
                transfer(&$client, &Longshore, By::OurTracker);
            }
        })*
    };
}

// aria2 announces over UDP only together with its DHT, which would look for peers on the internet: it does so in a
// network of its own, in `five_clients.rs`.
macro_rules! over_udp {
    ($($module:ident: $client:expr;)*) => {
        $(mod $module {
            use super::*;

            #[test]
            fn fetches_from_us_by_our_tracker_over_udp() {
                transfer(&Longshore, &$client, By::OurTrackerUdp);
            }

            #[test]
            fn gives_to_us_by_opentracker_over_udp() {
                transfer(&$client, &Longshore, By::OpenTrackerUdp);
            }
        })*
    };
}

both_ways! {
    aria2: Aria2;
    libtorrent: Libtorrent;
    qbittorrent: Qbittorrent;
    rtorrent: Rtorrent;
    ourselves: Longshore;
}

over_udp! {
    libtorrent_over_udp: Libtorrent;
    qbittorrent_over_udp: Qbittorrent;
    rtorrent_over_udp: Rtorrent;
    ourselves_over_udp: Longshore;
}
