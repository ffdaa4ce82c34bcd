//! Trackers that tell one another of their peers: what a swarm does when one of them, or etcd's leader, is killed; and
//! trackers that take registered torrents only.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

mod fleet;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use fleet::{Node, Origin, Tracker, done};
use longshore_interop::{Client as _, Content, Etcd, Longshore, free_port, make_torrent};
use tempfile::TempDir;
use tokio::time::sleep;

/// What the trackers of one cluster are started with.
struct Cluster {
    key: PathBuf,
    addresses: Vec<String>,
    _folder: TempDir,
}

impl Cluster {
    fn of(members: usize) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let key = folder.path().join("key");
        std::fs::write(&key, "0123456789abcdef0123456789abcdef\n").expect("written");
        let addresses = (0..members).map(|_| format!("127.0.0.1:{}", free_port())).collect();
        Self { key, addresses, _folder: folder }
    }

    fn start(&self, member: usize, more: &[(&str, &Path)]) -> Tracker {
        let all = self.addresses.join(",");
        let own = [
            ("--cluster", Path::new(&all)),
            ("--cluster-listen", Path::new(&self.addresses[member])),
            ("--cluster-key-file", &self.key),
        ];
        Tracker::plain(&[&own[..], more].concat())
    }
}

/// Waits until each tells all others.
async fn meshed(trackers: &[&Tracker]) {
    for tracker in trackers {
        until("all members to be connected", async || {
            let stats = tracker.stats().await;
            let members = stats["members"].as_array().expect("members").clone();
            members.iter().all(|member| member["itself"] == true || member["connected"] == true)
        })
        .await;
    }
}

async fn until(what: &str, done: impl AsyncFn() -> bool) {
    for _ in 0..1200 {
        if done().await {
            return;
        }
        sleep(Duration::from_millis(50)).await;
    }
    panic!("waited in vain for {what}");
}

async fn announces(tracker: &Tracker) -> u64 {
    let stats = tracker.stats().await;
    let requests = stats["requests"].as_array().expect("requests").clone();
    requests.iter().filter_map(|request| request["announces"].as_u64()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_is_found_through_any_tracker_and_goes_on_at_another_when_its_own_is_killed() {
    let cluster = Cluster::of(3);
    let often = [("--interval", "5"), ("--peer-age", "12"), ("--min-interval", "1")]
        .map(|(flag, value)| (flag, Path::new(value)));
    let [mut a, b, c] = [0, 1, 2].map(|member| cluster.start(member, &often));
    meshed(&[&a, &b, &c]).await;
    let (content, folder) = (Content::new(), tempfile::tempdir().expect("a folder"));
    let torrent = |name: &str, trackers: &str| {
        let file = folder.path().join(name);
        make_torrent(&content.root(), &file, &["--no-date", "--tracker", trackers]);
        file
    };
    let announce = |tracker: &Tracker| format!("{}/announce", tracker.base);
    // One tier: the second is asked when the first does not answer.
    let seeds = torrent("seeds", &format!("{},{}", announce(&a), announce(&b)));
    let gets = torrent("gets", &announce(&c));
    let mut seeder = Longshore.seed(&seeds, content.place());
    let fetch = async |goal: &str| {
        let goal = folder.path().join(goal);
        std::fs::create_dir(&goal).expect("made");
        let mut leecher = Longshore.get(&gets, &goal);
        assert!(leecher.process.wait().success());
        assert!(content.is_in(&goal));
    };
    fetch("first").await;
    assert_eq!(announces(&b).await, 0, "the seed is at the first tracker alone");
    a.process.kill();
    until("the seed to go on at the second tracker", async || announces(&b).await > 0).await;
    // What the dead tracker told is forgotten by now, or soon; what the second tells is not.
    for round in 0..3 {
        sleep(Duration::from_secs(4)).await;
        fetch(&format!("after {round}")).await;
    }
    assert!(seeder.process.is_running());
    let stats = c.stats().await;
    assert_eq!(stats["members"][0]["connected"], false, "{stats}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_of_different_trackers_share_one_copy_over_etcd_and_a_killed_leader() {
    let Some(mut etcd) = Etcd::start(3, None) else { return };
    let (cluster, home) = (Cluster::of(2), format!("etcd://{}", etcd.members()));
    let with = [("--directory", Path::new(&home)), ("--registered-only", Path::new("true"))];
    let (one, two) = (cluster.start(0, &with), cluster.start(1, &with));
    meshed(&[&one, &two]).await;
    let origin = Origin::start(2, 40_000_000, 8_000_000).await;
    // Each knows one tracker only: that they meet is the cluster's work.
    let (a, b, c) =
        (Node::start(&[&one], &origin), Node::start(&[&two], &origin), Node::start(&[&two], &origin));
    let first = a.pull(0);
    origin.has_sent_a_part(0).await;
    let (second, third) = (b.pull(0), c.pull(0));
    b.is_waiting_for(&origin.layer(0).0).await;
    let leader = etcd.leader().expect("one");
    etcd.kill(leader);
    let fourth = c.pull(1);
    for pull in [first, second, third, fourth] {
        done(pull).await;
    }
    done(a.pull(1)).await;
    done(b.pull(1)).await;
    origin.sent_each_once();
}

#[tokio::test(flavor = "multi_thread")]
async fn when_either_tracker_is_killed_in_the_middle_of_a_swarm_nothing_is_fetched_twice() {
    let Some(etcd) = Etcd::start(3, None) else { return };
    let home = format!("etcd://{}", etcd.members());
    for victim in [0, 1] {
        let cluster = Cluster::of(2);
        let home = format!("{home}/{victim}");
        let with = [("--directory", Path::new(&home))];
        let mut trackers = [cluster.start(0, &with), cluster.start(1, &with)];
        meshed(&[&trackers[0], &trackers[1]]).await;
        let origin = Origin::start(2, 40_000_000, 8_000_000).await;
        let [one, two] = &trackers;
        let nodes: Vec<Node> =
            [[one, two], [two, one], [one, two]].map(|trackers| Node::start(&trackers, &origin)).into();
        let first = nodes[0].pull(0);
        origin.has_sent_a_part(0).await;
        let others: Vec<_> = nodes[1..].iter().map(|node| node.pull(0)).collect();
        for node in &nodes[1..] {
            node.is_waiting_for(&origin.layer(0).0).await;
        }
        trackers[victim].process.kill();
        done(first).await;
        for pull in others {
            done(pull).await;
        }
        // The one that is left serves on.
        for node in nodes.iter().rev() {
            done(node.pull(1)).await;
        }
        origin.sent_each_once();
        // Started anew, it is told what it has missed.
        trackers[victim] = cluster.start(victim, &with);
        let known = trackers[1 - victim].stats().await["peers"].as_u64();
        assert!(known > Some(0));
        until("the tracker to know the peers again", async || {
            trackers[victim].stats().await["peers"].as_u64() >= known
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_pulls_through_a_tracker_that_takes_registered_torrents_only() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("directory.redb");
    for home in [None, Some(file.as_path())] {
        let mut with = vec![("--registered-only", Path::new("true"))];
        with.extend(home.map(|home| ("--directory", home)));
        let tracker = Tracker::plain(&with);
        let origin = Origin::start(1, 20_000_000, 8_000_000).await;
        let (a, b) = (Node::start(&[&tracker], &origin), Node::start(&[&tracker], &origin));
        let first = a.pull(0);
        origin.has_sent_a_part(0).await;
        let second = b.pull(0);
        done(first).await;
        done(second).await;
        done(Node::start(&[&tracker], &origin).pull(0)).await;
        origin.sent_each_once();
        // A torrent of anybody else's is not served.
        let (content, goal) = (Content::new(), tempfile::tempdir().expect("a folder"));
        let torrent = goal.path().join("plain.torrent");
        make_torrent(&content.root(), &torrent, &["--tracker", &format!("{}/announce", tracker.base)]);
        let mut seeder = Longshore.seed(&torrent, content.place());
        let refused = async || {
            let stats = tracker.stats().await;
            let requests = stats["requests"].as_array().expect("requests").clone();
            let faults =
                requests.iter().flat_map(|request| request["faults"].as_array().expect("faults").clone());
            faults.filter(|fault| fault[0] == "refused").filter_map(|fault| fault[1].as_u64()).sum::<u64>()
        };
        let before = refused().await;
        until("the plain torrent to be refused", async || refused().await > before).await;
        assert!(seeder.process.is_running());
    }
}
