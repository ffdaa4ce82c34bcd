//! A node that is killed in mid-download, by `kill -9`: what was proven is there at the next start and is not fetched
//! again, whether it came from the origin or from a peer.
#![allow(clippy::expect_used, clippy::panic, reason = "tests fail by panicking, their helpers too")]

use std::{
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use api::{
    Endpoint, NodeClient,
    node::{BlobState, BlobStatus, SourceKind},
};
use hash::Digest;
use lab::registry::{Registry, RegistryConfig};
use longshore_interop::{Process, longshore, noise};
use tempfile::TempDir;
use tokio::{net::TcpListener, process, time::sleep};

/// An image of one layer, in a registry.
struct Origin {
    registry: Registry,
    layer: Digest,
    size: u64,
    _folder: TempDir,
}

impl Origin {
    async fn start(length: usize, bytes_per_second: Option<u64>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (sources, layout) = (folder.path().join("sources"), folder.path().join("oci"));
        std::fs::create_dir(&sources).expect("made");
        std::fs::write(sources.join("file"), noise(length, 5)).expect("written");
        let image = lab::image::build(&sources, &[], &layout, "team/app:1").expect("built");
        let &(layer, size) = image.layers.iter().max_by_key(|(_, size)| size).expect("a layer");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let registry = Registry::start(listener, RegistryConfig { layout, bytes_per_second });
        Self { registry: registry.expect("starts"), layer, size, _folder: folder }
    }

    /// Bytes of the layer that have left.
    fn sent(&self) -> u64 {
        self.registry.counters().snapshot().get(&self.layer).map_or(0, |count| count.bytes)
    }
}

/// A node over a folder that outlives it.
struct Node {
    process: Process,
    client: NodeClient,
}

impl Node {
    fn start(folder: &Path, tracker: &str, origin: &Origin) -> Self {
        let socket = folder.join("sock");
        let mut command = Command::new(longshore());
        command.args(["node", "--json", "--peer-listen", "127.0.0.1:0", "--mirror-listen", "127.0.0.1:0"]);
        command.args(["--tracker", &format!("http://{tracker}/announce")]);
        command.args(["--upstream", &format!("reg.test=http://{}", origin.registry.addr())]);
        command.arg("--data").arg(folder.join("data")).arg("--socket").arg(&socket);
        let mut process = Process::start(&mut command);
        process.event("listening");
        Self { process, client: NodeClient::new(&Endpoint::Unix(socket), None).expect("a client") }
    }

    async fn blob(&self, digest: &Digest) -> Option<BlobStatus> {
        self.client.blob(digest).await.expect("answers")
    }

    /// Waits until a part of the blob is proven, and kills the node. Gives what was proven, or none when the whole
    /// was there first.
    async fn kill_in_mid_download(&mut self, origin: &Origin) -> Option<u64> {
        for _ in 0..20_000 {
            match self.blob(&origin.layer).await {
                Some(blob) if blob.state == BlobState::Complete => return None,
                Some(blob) if blob.bytes_done > origin.size / 8 => {
                    self.process.kill();
                    return Some(blob.bytes_done);
                }
                _ => sleep(Duration::from_millis(1)).await,
            }
        }
        panic!("nothing is ever proven");
    }
}

fn tracker() -> (Process, String) {
    let mut tracker =
        Process::start(Command::new(longshore()).args(["tracker", "--listen", "127.0.0.1:0", "--json"]));
    let address = tracker.event("listening")["addresses"][0].as_str().expect("an address").to_owned();
    (tracker, address)
}

/// Starts to pull through the node at this folder.
fn pull(folder: &Path) -> process::Child {
    let mut command = process::Command::new(longshore());
    command.args(["pull", "reg.test/team/app:1", "--json", "--socket"]).arg(folder.join("sock"));
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    command.kill_on_drop(true).spawn().expect("starts")
}

async fn done(pull: process::Child) {
    let Output { status, stderr, .. } = pull.wait_with_output().await.expect("ends");
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_killed_while_the_origin_sends_goes_on_from_what_was_proven() {
    let origin = Origin::start(48_000_000, Some(24_000_000)).await;
    let (_tracker, tracker) = tracker();
    let folder = tempfile::tempdir().expect("a folder");
    let mut first = Node::start(folder.path(), &tracker, &origin);
    let cut = pull(folder.path());
    let proven = first.kill_in_mid_download(&origin).await.expect("the origin is slow");
    assert!(!cut.wait_with_output().await.expect("ends").status.success(), "its node is gone");
    let before = origin.sent();
    assert!(before < origin.size, "{before} of {}", origin.size);

    let second = Node::start(folder.path(), &tracker, &origin);
    let kept = second.blob(&origin.layer).await.expect("kept");
    assert_eq!(kept.state, BlobState::Partial);
    assert!(kept.bytes_done >= proven, "{} of {proven}", kept.bytes_done);
    done(pull(folder.path())).await;
    let again = origin.sent() - before;
    assert!(again <= origin.size - kept.bytes_done, "{again} sent, {} were there", kept.bytes_done);
    assert_eq!(second.blob(&origin.layer).await.expect("there").state, BlobState::Complete);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_killed_while_a_peer_sends_goes_on_from_what_was_proven() {
    let origin = Origin::start(400_000_000, None).await;
    let (_tracker, tracker) = tracker();
    let (a, b) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let _a = Node::start(a.path(), &tracker, &origin);
    done(pull(a.path())).await;
    let before = origin.sent();
    // On a good day it is here within a moment; then again, with nothing of it.
    let mut proven = None;
    for _ in 0..10 {
        let mut first = Node::start(b.path(), &tracker, &origin);
        let cut = pull(b.path());
        proven = first.kill_in_mid_download(&origin).await;
        drop(cut);
        if proven.is_some() {
            break;
        }
        drop(first);
        std::fs::remove_dir_all(b.path().join("data")).expect("removed");
    }
    let proven = proven.expect("caught in mid-download in one of ten tries");

    let second = Node::start(b.path(), &tracker, &origin);
    let kept = second.blob(&origin.layer).await.expect("kept");
    assert_eq!(kept.state, BlobState::Partial);
    assert!(kept.bytes_done >= proven, "{} of {proven}", kept.bytes_done);
    done(pull(b.path())).await;
    let whole = second.blob(&origin.layer).await.expect("there");
    assert_eq!(whole.state, BlobState::Complete);
    let from_peers: u64 =
        whole.sources.iter().filter(|s| s.source.kind == SourceKind::Peer).map(|s| s.bytes).sum();
    assert_eq!(from_peers, origin.size - kept.bytes_done, "only what was missing");
    assert_eq!(origin.sent(), before, "none of it from the origin");
}
