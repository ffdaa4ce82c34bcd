//! A tracker: ours, or Debian's opentracker.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    process::Command,
};

use announce::{Reply, ScrapeResponse, ScrapeStats};

use crate::{Place, Process, free_port, get, longshore, require, wait_until};

static HERE: Place = Place::here(IpAddr::V4(Ipv4Addr::LOCALHOST));

/// A tracker that runs.
#[derive(Debug)]
pub struct Tracker {
    /// Its announce URL.
    pub url: String,
    /// Where it answers.
    pub address: SocketAddr,
    /// Its process.
    pub process: Process,
    place: Place,
    _folder: tempfile::TempDir,
}

impl Tracker {
    /// `longshore tracker`.
    ///
    /// # Panics
    /// When it does not start.
    pub fn ours() -> Self {
        Self::ours_at(&HERE, &["--min-interval", "1"])
    }

    /// The same elsewhere, with further arguments.
    ///
    /// # Panics
    /// When it does not start.
    pub fn ours_at(place: &Place, arguments: &[&str]) -> Self {
        let mut command = place.command(longshore());
        command.args(["tracker", "--json", "--listen"]).arg(SocketAddr::new(place.ip, 0).to_string());
        let mut process = Process::start(command.args(arguments));
        let listening = process.event("listening");
        let address = listening["addresses"][0].as_str().expect("an address");
        let address = address.parse().expect("an address");
        let url = format!("http://{address}/announce");
        let folder = tempfile::tempdir().expect("a folder");
        Self { url, address, process, place: place.clone(), _folder: folder }
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
        let number = port.to_string();
        command.args(["-i", "127.0.0.1", "-p", &number, "-P", &number, "-d"]).arg(folder.path());
        // Started by root it goes into its folder as into a jail, and reads the list from there.
        command.arg("-w").arg(if rustix::process::geteuid().is_root() {
            "/whitelist".as_ref()
        } else {
            list.as_path()
        });
        let mut process = Process::start(&mut command);
        let address = SocketAddr::new(HERE.ip, port);
        wait_until("opentracker to listen", || {
            assert!(process.is_running(), "opentracker ended: {}", process.stderr());
            TcpStream::connect(address).is_ok()
        });
        let url = format!("http://{address}/announce");
        Some(Self { url, address, process, place: HERE.clone(), _folder: folder })
    }

    /// Waits until somebody has announced the whole torrent: a client that asks before that may not ask again for
    /// half an hour.
    ///
    /// # Panics
    /// At the deadline.
    pub fn wait_for_seed(&mut self, info_hash: &str) {
        wait_until("the seeder to announce itself", || {
            assert!(self.process.is_running(), "the tracker ended: {}", self.process.stderr());
            self.scrape(info_hash).is_some_and(|stats| stats.complete > 0)
        });
    }

    /// A torrent's numbers, asked from where the tracker is.
    ///
    /// # Panics
    /// When the tracker does not answer.
    pub fn scrape(&self, info_hash: &str) -> Option<ScrapeStats> {
        let hex = info_hash.as_bytes().chunks(2);
        let escaped: String = hex.map(|hex| format!("%{}", hex.escape_ascii())).collect();
        let target = format!("/scrape?info_hash={escaped}");
        let answer = self.place.inside(|| get(self.address, &target, &[]));
        match ScrapeResponse::parse(&answer.body) {
            Ok(Reply::Ok(scraped)) => scraped.files.first().map(|(_, stats)| *stats),
            _ => None,
        }
    }
}

/// opentracker started by root becomes `nobody`.
fn open_to_all(folder: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("its own folder");
}
