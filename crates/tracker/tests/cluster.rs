//! Trackers that tell one another of their peers, in one process and over loopback.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

extern crate longshore_tracker as tracker;

mod support;

use std::{net::SocketAddr, time::Duration};

use announce::{AnnounceRequest, AnnounceResponse, Event, Key};
use support::{ask, peer, ports, reply, target};
use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::sleep};
use tracker::{ClusterKey, Config, StartError, Tracker};

/// Addresses that nobody has at the moment.
fn addresses<const N: usize>() -> [SocketAddr; N] {
    let probes = [(); N].map(|()| std::net::TcpListener::bind("127.0.0.1:0").expect("a port"));
    probes.map(|probe| probe.local_addr().expect("bound"))
}

fn config(cluster: &[SocketAddr], number: usize) -> Config {
    Config {
        listen: vec![SocketAddr::from(([127, 0, 0, 1], 0)).into()],
        // Each finds itself among them.
        cluster: cluster.iter().map(ToString::to_string).collect(),
        cluster_listen: Some(cluster[number]),
        cluster_key: ClusterKey::new(&[b'k'; 40]).ok(),
        ..Config::default()
    }
}

async fn start(cluster: &[SocketAddr], number: usize) -> Tracker {
    Tracker::start(config(cluster, number)).await.expect("starts")
}

async fn get(tracker: &Tracker, target: &str) -> Vec<u8> {
    ask(tracker, target, "").await.1
}

async fn announce(tracker: &Tracker, torrent: u8, port: u16, left: u64, event: Event) -> AnnounceResponse {
    let key = Key::new(format!("{port:08x}").as_bytes());
    let request = AnnounceRequest { event, key, ..peer(torrent, port, left) };
    reply(&get(tracker, &target(&request)).await).expect("taken")
}

async fn stats(tracker: &Tracker) -> serde_json::Value {
    serde_json::from_slice(&get(tracker, "/stats.json").await).expect("JSON")
}

/// Waits until a tracker has so many peers, and so many seeds and downloads of torrent 1.
async fn knows(tracker: &Tracker, peers: u64, seeds: u64, downloads: u64) {
    let mut seen = serde_json::Value::Null;
    for _ in 0..600 {
        seen = stats(tracker).await;
        let top = &seen["top"][0];
        if seen["peers"] == peers
            && (peers == 0 || top["complete"] == seeds && top["downloaded"] == downloads)
        {
            return;
        }
        sleep(Duration::from_millis(50)).await;
    }
    panic!("waited in vain for {peers} peers, {seeds} seeds, {downloads} downloads: {seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_are_shared_stopped_and_counted_once_and_a_member_that_comes_late_is_told_all() {
    let cluster: [SocketAddr; 3] = addresses();
    let (one, two) = (start(&cluster, 0).await, start(&cluster, 1).await);
    announce(&one, 1, 1001, 5, Event::Started).await;
    announce(&two, 1, 1002, 5, Event::Started).await;
    knows(&one, 2, 0, 0).await;
    knows(&two, 2, 0, 0).await;
    assert_eq!(ports(&announce(&one, 1, 1001, 5, Event::None).await), [1002]);
    assert_eq!(ports(&announce(&two, 1, 1002, 5, Event::None).await), [1001]);
    announce(&one, 1, 1001, 0, Event::Completed).await;
    // Said again at the other, it is no second download anywhere.
    knows(&two, 2, 1, 1).await;
    announce(&two, 1, 1001, 0, Event::Completed).await;
    knows(&one, 2, 1, 1).await;
    let three = start(&cluster, 2).await;
    knows(&three, 2, 1, 0).await;
    assert_eq!(ports(&announce(&three, 1, 1003, 5, Event::Started).await), [1001, 1002]);
    for tracker in [&one, &two, &three] {
        knows(tracker, 3, 1, u64::from(!std::ptr::eq(tracker, &three))).await;
    }
    for port in [1001, 1002, 1003] {
        announce(&two, 1, port, 0, Event::Stopped).await;
    }
    for tracker in [&one, &two, &three] {
        knows(tracker, 0, 0, 0).await;
    }
    let mut seen = stats(&one).await;
    for _ in 0..600 {
        if seen["members"][2]["connected"] == true {
            break;
        }
        sleep(Duration::from_millis(50)).await;
        seen = stats(&one).await;
    }
    let members = seen["members"].as_array().expect("members");
    let of = |field: &str| members.iter().map(|member| member[field].clone()).collect::<Vec<_>>();
    assert_eq!(of("itself"), [true, false, false]);
    assert_eq!(of("connected"), [false, true, true]);
    assert!(members[1]["received"].as_u64() >= Some(4) && members[1]["sent"].as_u64() >= Some(2), "{seen}");
    let metrics = String::from_utf8(get(&one, "/metrics").await).expect("text");
    let up = format!("longshore_tracker_cluster_up{{member=\"{}\"}} 1", cluster[1]);
    assert!(metrics.lines().any(|line| line == up), "{metrics}");
    for tracker in [one, two, three] {
        tracker.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_was_away_is_told_anew_and_tells_its_own() {
    let cluster: [SocketAddr; 2] = addresses();
    let (one, two) = (start(&cluster, 0).await, start(&cluster, 1).await);
    announce(&one, 1, 1001, 5, Event::Started).await;
    knows(&two, 1, 0, 0).await;
    two.shutdown().await;
    announce(&one, 1, 1002, 0, Event::Started).await;
    let two = start(&cluster, 1).await;
    knows(&two, 2, 1, 0).await;
    // Its client moves to it, with its key, and is its own from then on.
    assert_eq!(ports(&announce(&two, 1, 1001, 5, Event::None).await), [1002]);
    one.shutdown().await;
    let one = start(&cluster, 0).await;
    // What announced there before is told to it by the other.
    knows(&one, 2, 1, 0).await;
    assert_eq!(ports(&announce(&one, 1, 1003, 5, Event::Started).await), [1001, 1002]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_key_nobody_is_told_anything() {
    let cluster: [SocketAddr; 2] = addresses();
    let one = start(&cluster, 0).await;
    let other = Config { cluster_key: ClusterKey::new(&[b'x'; 40]).ok(), ..config(&cluster, 1) };
    let stranger = Tracker::start(other).await.expect("starts");
    announce(&one, 1, 1001, 5, Event::Started).await;
    announce(&stranger, 1, 1002, 5, Event::Started).await;
    // Garbage ends nothing.
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 4096], b"LSHCLUS\x01"] {
        let mut stream = TcpStream::connect(cluster[0]).await.expect("connects");
        let _ = stream.write_all(garbage).await;
    }
    let third = Config { cluster_listen: Some(addresses::<1>()[0]), ..config(&cluster, 0) };
    let third = Tracker::start(third).await.expect("starts");
    // It has the key: it connects to the first, but the first does not know it.
    announce(&third, 1, 1003, 5, Event::Started).await;
    knows(&one, 2, 0, 0).await;
    assert_eq!(stats(&stranger).await["peers"], 1);
    assert_eq!(stats(&stranger).await["members"][0]["connected"], false);
    assert_eq!(stats(&one).await["members"][1]["connected"], false);
}

#[tokio::test]
async fn what_a_cluster_lacks_is_said() {
    let [address] = addresses();
    let error = async |config| match Tracker::start(config).await {
        Ok(_) => panic!("it starts"),
        Err(error) => error.to_string(),
    };
    let good = config(&[address], 0);
    let without = [
        (Config { cluster_listen: None, ..good.clone() }, "`cluster_listen` is missing"),
        (Config { cluster_key: None, ..good.clone() }, "the key is missing"),
        (Config { cluster: vec![], ..good.clone() }, "`cluster` is missing"),
        (Config { cluster: vec!["tracker.example".into()], ..good.clone() }, "host:port"),
        (Config { cluster_key_file: Some("/nowhere/key".into()), ..good.clone() }, "/nowhere/key"),
    ];
    for (config, why) in without {
        let error = error(config).await;
        assert!(error.contains(why), "{error}");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let short = folder.path().join("key");
    std::fs::write(&short, "too short\n").expect("written");
    let refused = error(Config { cluster_key_file: Some(short), ..good.clone() }).await;
    assert!(refused.contains("9 characters") && !refused.contains("too short"), "{refused}");
    let taken = std::net::TcpListener::bind(address).expect("free");
    assert!(matches!(Tracker::start(good).await, Err(StartError::Listen { .. })));
    drop(taken);
}
