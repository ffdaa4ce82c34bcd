//! A small fleet: trackers, a slow registry, and nodes.
#![allow(dead_code, reason = "not every test needs all of it")]

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use api::{DirectoryClient, Endpoint, NodeClient};
use hash::Digest;
use lab::registry::{Registry, RegistryConfig};
use longshore_interop::{Process, longshore, noise};
use tempfile::TempDir;
use tokio::{net::TcpListener, process, time::sleep};

/// A tracker.
pub(crate) struct Tracker {
    pub(crate) process: Process,
    pub(crate) base: String,
}

impl Tracker {
    /// One whose directory is in etcd.
    pub(crate) fn start(etcd: &str) -> Self {
        Self::with(etcd, &[])
    }

    pub(crate) fn with(etcd: &str, more: &[(&str, &Path)]) -> Self {
        let directory = [("--directory", Path::new(etcd))];
        Self::plain(&[&directory[..], more].concat())
    }

    pub(crate) fn plain(more: &[(&str, &Path)]) -> Self {
        let mut command = Command::new(longshore());
        command.args(["tracker", "--listen", "127.0.0.1:0", "--json", "--lease-ttl", "3"]);
        for (flag, path) in more {
            command.arg(flag).arg(path);
        }
        let mut process = Process::start(&mut command);
        let address = process.event("listening")["addresses"][0].as_str().expect("an address").to_owned();
        Self { process, base: format!("http://{address}") }
    }

    pub(crate) fn client(&self) -> DirectoryClient {
        DirectoryClient::new([&self.base], None).expect("a client")
    }

    /// The first metric whose name, labels included, begins so.
    pub(crate) async fn metric(&self, name: &str) -> Option<u64> {
        let text = self.get("/metrics").await?;
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse().ok()
    }

    pub(crate) async fn stats(&self) -> serde_json::Value {
        let text = self.get("/stats.json").await.unwrap_or_default();
        let body = text.split_once("\r\n\r\n").map_or("null", |(_, body)| body);
        serde_json::from_str(body).expect("JSON")
    }

    async fn get(&self, path: &str) -> Option<String> {
        let mut stream =
            tokio::net::TcpStream::connect(self.base.trim_start_matches("http://")).await.ok()?;
        let head = format!("GET {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n");
        tokio::io::AsyncWriteExt::write_all(&mut stream, head.as_bytes()).await.ok()?;
        let mut text = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut text).await.ok()?;
        Some(text)
    }
}

/// Images in a registry that sends slowly, so that there is a middle of a download.
pub(crate) struct Origin {
    registry: Registry,
    pub(crate) images: Vec<lab::image::ImageSummary>,
    _folder: TempDir,
}

impl Origin {
    /// Images `team/app:0` and so on, each of one layer.
    pub(crate) async fn start(count: u64, length: usize, bytes_per_second: u64) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let layout = folder.path().join("oci");
        let images = (0..count).map(|number| {
            let sources = folder.path().join(format!("sources{number}"));
            std::fs::create_dir(&sources).expect("made");
            std::fs::write(sources.join("file"), noise(length, number + 1)).expect("written");
            lab::image::build(&sources, &[], &layout, &format!("team/app:{number}")).expect("built")
        });
        let images = images.collect();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let config = RegistryConfig { layout, bytes_per_second: Some(bytes_per_second) };
        Self { registry: Registry::start(listener, config).expect("starts"), images, _folder: folder }
    }

    /// The only large layer of an image.
    pub(crate) fn layer(&self, image: usize) -> (Digest, u64) {
        *self.images[image].layers.iter().max_by_key(|(_, size)| size).expect("a layer")
    }

    pub(crate) fn sent(&self, image: usize) -> u64 {
        self.registry.counters().of(&self.layer(image).0).bytes
    }

    pub(crate) async fn has_sent_a_part(&self, image: usize) {
        for _ in 0..3000 {
            if self.sent(image) > self.layer(image).1 / 10 {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("the origin is not asked");
    }

    /// Every layer has left it once.
    pub(crate) fn sent_each_once(&self) {
        for image in 0..self.images.len() {
            assert_eq!(self.sent(image), self.layer(image).1, "image {image}");
        }
    }
}

pub(crate) struct Node {
    _process: Process,
    socket: PathBuf,
    pub(crate) client: NodeClient,
    _folder: TempDir,
}

impl Node {
    pub(crate) fn start(trackers: &[&Tracker], origin: &Origin) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("sock");
        let mut command = Command::new(longshore());
        command.args(["node", "--json", "--peer-listen", "127.0.0.1:0", "--mirror-listen", "127.0.0.1:0"]);
        for tracker in trackers {
            command.args(["--tracker", &format!("{}/announce", tracker.base)]);
        }
        command.args(["--upstream", &format!("reg.test=http://{}", origin.registry.addr())]);
        command.arg("--data").arg(folder.path().join("data")).arg("--socket").arg(&socket);
        // However busy the machine is, and full its disk.
        let config = folder.path().join("node.toml");
        std::fs::write(&config, "[content]\nstall_seconds = 60\n[store]\nfree_percent = 0\n")
            .expect("written");
        command.arg("--config").arg(config);
        let mut process = Process::start(&mut command);
        process.event("listening");
        let client = NodeClient::new(&Endpoint::Unix(socket.clone()), None).expect("a client");
        Self { _process: process, socket, client, _folder: folder }
    }

    pub(crate) fn pull(&self, image: usize) -> process::Child {
        let mut command = process::Command::new(longshore());
        command.args(["pull", &format!("reg.test/team/app:{image}"), "--json", "--socket"]).arg(&self.socket);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        command.kill_on_drop(true).spawn().expect("starts")
    }

    pub(crate) async fn is_waiting_for(&self, digest: &Digest) {
        for _ in 0..3000 {
            if self.client.blob(digest).await.expect("answers").is_some() {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("the node does not begin");
    }
}

pub(crate) async fn done(pull: process::Child) {
    let Output { status, stderr, .. } = pull.wait_with_output().await.expect("ends");
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
}
