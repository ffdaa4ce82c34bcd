//! A tracker: ours, or Debian's opentracker.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    process::Command,
    time::Duration,
};

use crate::{Process, free_port, longshore, require, wait_until};

/// A tracker that runs.
#[derive(Debug)]
pub struct Tracker {
    /// Its announce URL.
    pub url: String,
    /// Where it answers HTTP.
    address: String,
    process: Process,
    _folder: tempfile::TempDir,
}

impl Tracker {
    /// `longshore tracker`.
    ///
    /// # Panics
    /// When it does not start.
    pub fn ours() -> Self {
        let mut command = Command::new(longshore());
        command.args(["tracker", "--listen", "127.0.0.1:0", "--json", "--min-interval", "1"]);
        let mut process = Process::start(&mut command);
        let listening = process.event("listening");
        let address = listening["addresses"][0].as_str().expect("an address").to_owned();
        let url = format!("http://{address}/announce");
        Self { url, address, process, _folder: tempfile::tempdir().expect("a folder") }
    }

    /// The same tracker, announced to over UDP.
    #[must_use]
    pub fn by_udp(mut self) -> Self {
        self.url = format!("udp://{}/announce", self.address);
        self
    }

    /// Debian's opentracker, which knows only the torrents that it is told; `None` if it is not installed.
    ///
    /// The torrent's name is needed before the tracker's URL is, and does not depend on it.
    ///
    /// # Panics
    /// When it does not start.
    pub fn opentracker(info_hash: &str) -> Option<Self> {
        if !require("opentracker", "opentracker") {
            return None;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let list = folder.path().join("whitelist");
        fs::write(&list, format!("{info_hash}\n")).expect("written");
        open_to_all(folder.path());
        let port = free_port();
        let mut command = Command::new("opentracker");
        let port = port.to_string();
        command.args(["-i", "127.0.0.1", "-p", &port, "-P", &port, "-d"]).arg(folder.path());
        // Started by root it goes into its folder as into a jail, and reads the list from there.
        command.arg("-w").arg(if rustix::process::geteuid().is_root() {
            "/whitelist".as_ref()
        } else {
            list.as_path()
        });
        let mut process = Process::start(&mut command);
        let address = format!("127.0.0.1:{port}");
        wait_until("opentracker to listen", || {
            assert!(process.is_running(), "opentracker ended: {}", process.stderr());
            TcpStream::connect(&address).is_ok()
        });
        Some(Self { url: format!("http://{address}/announce"), address, process, _folder: folder })
    }

    /// Waits until somebody has announced the whole torrent: a client that asks before that may not ask again for
    /// half an hour.
    ///
    /// # Panics
    /// At the deadline.
    pub fn wait_for_seed(&mut self, info_hash: &str) {
        wait_until("the seeder to announce itself", || {
            assert!(self.process.is_running(), "the tracker ended: {}", self.process.stderr());
            self.scrape(info_hash).is_some_and(|answer| answer.contains("8:completei1e"))
        });
    }

    fn scrape(&self, info_hash: &str) -> Option<String> {
        let address = &self.address;
        let escaped: String =
            info_hash.as_bytes().chunks(2).map(|hex| format!("%{}", hex.escape_ascii())).collect();
        let mut stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        let host = format!("Host: {address}\r\nConnection: close");
        write!(stream, "GET /scrape?info_hash={escaped} HTTP/1.1\r\n{host}\r\n\r\n").ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        Some(String::from_utf8_lossy(&answer).into_owned())
    }
}

/// opentracker started by root becomes `nobody`.
fn open_to_all(folder: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("its own folder");
}
