//! What happens around a node while the registry is well.

use std::{fmt, fs, path::Path, process::Command, thread, time::Duration};

use longshore_interop::{Fault, Faulty, Part, Process, Trouble, longshore, wait_until};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::Value;

use super::{
    cell::{ALLOWANCE, Bench, Node, PATIENCE, Verdict, compare},
    client::{Client, End, REGISTRY, Way},
    peer::{Habit, Peer},
};

/// Something that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Tracker and directory do not answer their port.
    TrackerGone,
    /// Tracker and directory take connections and answer nothing.
    TrackerHangs,
    /// The directory knows the image, and what its swarms have is of no use.
    Peers(Habit),
    /// The store is full in the middle of the image.
    DiskFull,
    /// Reading the store takes for ever.
    DiskHangs,
    /// The node is stopped by SIGSTOP.
    Stopped,
    /// The node is killed in the middle of a layer.
    Killed,
    /// The node is told to end in the middle of a layer.
    Terminated,
}

impl Event {
    pub(crate) const ALL: [Self; 10] = [
        Self::TrackerGone,
        Self::TrackerHangs,
        Self::Peers(Habit::Lies),
        Self::Peers(Habit::Hangs),
        Self::Peers(Habit::Closes),
        Self::DiskFull,
        Self::DiskHangs,
        Self::Stopped,
        Self::Killed,
        Self::Terminated,
    ];
}

/// How long a pull is watched through a node that does nothing: what follows is the client's own affair.
fn stopped() -> Duration {
    Duration::from_secs(if std::env::var_os("LONGSHORE_CLIENTS").is_some() { 45 } else { 5 })
}

/// After how long without a byte from peers a node asks the registry; of two blobs, before it asks there first.
const STALL: Duration = Duration::from_secs(2 * 10);

impl Bench {
    /// A pull without a mirror, one while it happens, and one when it is over.
    pub(crate) fn around(&self, client: Client, event: Event) -> Verdict {
        let front = Faulty::start(self.registry, &self.image.layer, None);
        let _tls = (client == Client::Docker).then(|| self.authority.before(&front));
        let authority = self.authority.path();
        let direct = Way { front: &front, mirror: None, authority: &authority };
        let mut without = client.pull(direct, &self.image, PATIENCE);
        let mut worse = Vec::new();
        let (with, next, sound) = match event {
            Event::TrackerGone | Event::TrackerHangs => {
                let mut tracker = Tracker::start();
                match event {
                    Event::TrackerGone => tracker.process.kill(),
                    _ => tracker.process.freeze(),
                }
                let node = Node::start(&front, &["--tracker", &tracker.announce()]);
                let way = Way { mirror: Some(&node.mirror), ..direct };
                let with = client.pull(way, &self.image, PATIENCE);
                (with, client.pull(way, &self.image, PATIENCE), node.end())
            }
            Event::Peers(habit) => {
                let tracker = Tracker::start();
                let mut first = Node::start(&front, &["--tracker", &tracker.announce()]);
                let blobs = first.publish();
                first.process.kill();
                let peers: Vec<Peer> = blobs
                    .iter()
                    .map(|blob| {
                        let pieces = blob["pieces"].as_u64().and_then(|n| u32::try_from(n).ok());
                        let hash = blob["info_hash"].as_str().expect("an info-hash");
                        Peer::start(tracker.address(), hash, pieces.expect("a number"), habit)
                    })
                    .collect();
                let node = Node::start(&front, &["--tracker", &tracker.announce()]);
                let way = Way { mirror: Some(&node.mirror), ..direct };
                let with = client.pull(way, &self.image, PATIENCE);
                let asked: u64 = peers.iter().map(Peer::asked).sum();
                assert!(asked > 0, "the peers were tried");
                without.took += STALL;
                (with, client.pull(way, &self.image, PATIENCE), node.end())
            }
            Event::DiskFull => {
                let small = Small::new();
                let node = Node::at(&front, small.folder.path(), "127.0.0.1:0", &["--directory", "none"]);
                let way = Way { mirror: Some(&node.mirror), ..direct };
                let with = client.pull(way, &self.image, PATIENCE);
                (with, client.pull(way, &self.image, PATIENCE), node.end())
            }
            Event::DiskHangs => {
                let node = Node::start(&front, &["--directory", "none"]);
                let way = Way { mirror: Some(&node.mirror), ..direct };
                client.pull(way, &self.image, PATIENCE);
                let hex = self.image.layer.trim_start_matches("sha256:");
                let (folder, _) = hex.split_at(2);
                let path = node.data().join("blobs/sha256").join(folder).join(hex);
                fs::remove_file(&path).expect("it was kept");
                // Whoever opens it waits until somebody writes.
                let fifo = Command::new("mkfifo").arg(&path).status().expect("starts");
                assert!(fifo.success());
                let with = client.pull(way, &self.image, PATIENCE);
                let next = client.pull(way, &self.image, PATIENCE);
                fs::remove_file(&path).expect("it is there");
                (with, next, node.end())
            }
            Event::Stopped => {
                let node = Node::start(&front, &["--directory", "none"]);
                let way = Way { mirror: Some(&node.mirror), ..direct };
                node.process.freeze();
                let with = client.pull(way, &self.image, stopped());
                node.process.thaw();
                // What the client's author chose is what it takes, whatever it asks.
                without.end = End::Waiting;
                (with, client.pull(way, &self.image, PATIENCE), node.end())
            }
            Event::Killed | Event::Terminated => {
                let mut node = Node::start(&front, &["--directory", "none"]);
                let mirror = node.mirror.clone();
                let way = Way { mirror: Some(&mirror), ..direct };
                let stall = Fault { part: Part::Blob, trouble: Trouble::Stall, once: true };
                front.set(Some(stall));
                let with = thread::scope(|scope| {
                    let pull = scope.spawn(|| client.pull(way, &self.image, PATIENCE));
                    wait_until("the layer is on its way", || front.met() > 0);
                    // The client has some of it by then.
                    thread::sleep(Duration::from_millis(300));
                    if event == Event::Killed {
                        node.process.kill();
                        front.set(None);
                    } else {
                        node.process.terminate();
                        thread::sleep(Duration::from_millis(300));
                        front.set(None);
                        node.process.wait();
                    }
                    pull.join().expect("no panic")
                });
                if event == Event::Killed {
                    // As a connection to the registry would have done.
                    without.end = End::Failed;
                }
                let alone = client.pull(way, &self.image, PATIENCE);
                if alone.end != End::Done {
                    worse.push(format!("with the node gone {alone}: {}", alone.said));
                }
                let node = Node::at(&front, node.folder.path(), &mirror, &["--directory", "none"]);
                (with, client.pull(way, &self.image, PATIENCE), node.end())
            }
        };
        compare(&without, &with, ALLOWANCE, &mut worse);
        if next.end != End::Done {
            worse.push(format!("the next pull {next}: {}", next.said));
        }
        worse.extend(sound.err());
        Verdict { cell: with.to_string(), worse }
    }
}

impl Node {
    /// Has it fetch the image; what its API says of the blobs then.
    fn publish(&self) -> Vec<Value> {
        let socket = self.folder.path().join("sock");
        let run = |arguments: &[&str]| {
            let output = Command::new(longshore()).args(arguments).arg("--socket").arg(&socket).output();
            let output = output.expect("starts");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            output.stdout
        };
        run(&["pull", &format!("{REGISTRY}/team/app:1"), "--json"]);
        let status: Value = serde_json::from_slice(&run(&["status", "--json"])).expect("JSON");
        status["blobs"].as_array().expect("blobs").clone()
    }
}

struct Tracker {
    process: Process,
    address: String,
}

impl Tracker {
    fn start() -> Self {
        let mut process =
            Process::start(Command::new(longshore()).args(["tracker", "--listen", "127.0.0.1:0", "--json"]));
        let address = process.event("listening")["addresses"][0].as_str().expect("an address").to_owned();
        Self { process, address }
    }

    fn announce(&self) -> String {
        format!("http://{}/announce", self.address)
    }

    fn address(&self) -> std::net::SocketAddr {
        self.address.parse().expect("an address")
    }
}

/// A file system that has no room for the image.
struct Small {
    folder: tempfile::TempDir,
}

impl Small {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let size = std::ffi::CString::new("size=4m").expect("no NUL");
        mount("tmpfs", folder.path(), "tmpfs", MountFlags::empty(), Some(size.as_c_str())).expect("mounted");
        Self { folder }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let path: &Path = self.folder.path();
        let _ = unmount(path, UnmountFlags::DETACH);
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TrackerGone => "tracker and directory gone",
            Self::TrackerHangs => "tracker and directory hang",
            Self::Peers(Habit::Lies) => "all peers give wrong bytes",
            Self::Peers(Habit::Hangs) => "all peers hang",
            Self::Peers(Habit::Closes) => "all peers close the connection",
            Self::DiskFull => "disk full",
            Self::DiskHangs => "disk hangs",
            Self::Stopped => "node stopped (SIGSTOP)",
            Self::Killed => "node killed in mid-layer",
            Self::Terminated => "node ended (SIGTERM) in mid-layer",
        })
    }
}
