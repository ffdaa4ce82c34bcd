//! BitTorrent clients: ours, and those that the field uses.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{PYTHON, Process, free_port, longshore, require, require_python};

/// A client that can seed a torrent and fetch one. Each call starts a process with a folder of its own for settings.
pub trait Client {
    /// What it is called.
    fn name(&self) -> &'static str;
    /// Whether it is installed; says so if not.
    fn is_here(&self) -> bool;
    /// Seeds what lies in `folder`.
    fn seed(&self, torrent: &Path, folder: &Path) -> Running;
    /// Fetches into `folder`. It may or may not end when it is done.
    fn get(&self, torrent: &Path, folder: &Path) -> Running;
}

/// Where seeders are, and from where they announce. Addresses of their own, since on one address clients take each
/// other for themselves: opentracker tells a client of itself, and libtorrent then bans the address.
const SEEDER: &str = "127.0.0.2";
/// Where leechers are.
const LEECHER: &str = "127.0.0.3";

/// A client's process, and what it keeps for itself.
#[derive(Debug)]
pub struct Running {
    /// The process.
    pub process: Process,
    _home: tempfile::TempDir,
}

impl Running {
    fn start(command: &mut Command, home: tempfile::TempDir) -> Self {
        Self { process: Process::start(command.current_dir(home.path())), _home: home }
    }
}

fn home() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

/// Ours.
#[derive(Clone, Copy, Debug)]
pub struct Longshore;

impl Client for Longshore {
    fn name(&self) -> &'static str {
        "longshore"
    }

    fn is_here(&self) -> bool {
        true
    }

    fn seed(&self, torrent: &Path, folder: &Path) -> Running {
        let mut command = Command::new(longshore());
        command.arg("seed").arg(torrent).arg(folder).args(["--json", "--listen"]).arg(format!("{SEEDER}:0"));
        let mut running = Running::start(&mut command, home());
        running.process.event("seeding");
        running
    }

    fn get(&self, torrent: &Path, folder: &Path) -> Running {
        let mut command = Command::new(longshore());
        command.arg("get").arg(torrent).arg(folder).args(["--json", "--listen"]).arg(format!("{LEECHER}:0"));
        command.args(["--deadline", "80"]);
        Running::start(&mut command, home())
    }
}

/// libtorrent by Arvid Norberg, through its Python module.
#[derive(Clone, Copy, Debug)]
pub struct Libtorrent;

impl Libtorrent {
    fn run(role: &str, torrent: &Path, folder: &Path, at: &str) -> Running {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/libtorrent_peer.py");
        let mut command = Command::new(PYTHON);
        command.arg(script).arg(role).arg(torrent).arg(folder).arg(format!("{at}:{}", free_port()));
        Running::start(&mut command, home())
    }
}

impl Client for Libtorrent {
    fn name(&self) -> &'static str {
        "libtorrent"
    }

    fn is_here(&self) -> bool {
        require_python("libtorrent", "python3-libtorrent")
    }

    fn seed(&self, torrent: &Path, folder: &Path) -> Running {
        Self::run("seed", torrent, folder, SEEDER)
    }

    fn get(&self, torrent: &Path, folder: &Path) -> Running {
        Self::run("get", torrent, folder, LEECHER)
    }
}

/// aria2.
#[derive(Clone, Copy, Debug)]
pub struct Aria2;

impl Aria2 {
    fn run(torrent: &Path, folder: &Path, at: &str, more: &[&str]) -> Running {
        let home = home();
        let mut command = Command::new("aria2c");
        command.args(["--no-conf", "--enable-dht=false", "--enable-dht6=false", "--bt-enable-lpd=false"]);
        command.args(["--file-allocation=none", "--bt-tracker-interval=1"]);
        command.arg(format!("--interface={at}"));
        command.arg(format!("--listen-port={}", free_port())).arg("--dir").arg(folder);
        command.args(more).arg(torrent).env("HOME", home.path());
        Running::start(&mut command, home)
    }
}

impl Client for Aria2 {
    fn name(&self) -> &'static str {
        "aria2"
    }

    fn is_here(&self) -> bool {
        require("aria2c", "aria2")
    }

    fn seed(&self, torrent: &Path, folder: &Path) -> Running {
        // With --check-integrity alone it ends once it knows that all is there.
        Self::run(
            torrent,
            folder,
            SEEDER,
            &["--check-integrity=true", "--seed-ratio=0.0", "--bt-hash-check-seed=true"],
        )
    }

    fn get(&self, torrent: &Path, folder: &Path) -> Running {
        Self::run(torrent, folder, LEECHER, &["--seed-time=0"])
    }
}

/// rtorrent, without a terminal.
#[derive(Clone, Copy, Debug)]
pub struct Rtorrent;

impl Rtorrent {
    fn run(torrent: &Path, folder: &Path, at: &str) -> Running {
        let home = home();
        fs::create_dir(home.path().join("session")).expect("a folder");
        let lines = [
            "system.daemon.set = true".to_owned(),
            format!("directory.default.set = {}", folder.display()),
            format!("session.path.set = {}/session", home.path().display()),
            format!("network.port_range.set = {0}-{0}", free_port()),
            "network.port_random.set = no".to_owned(),
            format!("network.bind_address.set = {at}"),
            format!("network.local_address.set = {at}"),
            "dht.mode.set = disable".to_owned(),
            "protocol.pex.set = no".to_owned(),
            "trackers.use_udp.set = yes".to_owned(),
            format!("load.start = {}", torrent.display()),
        ];
        let rc = home.path().join("rc");
        fs::write(&rc, lines.join("\n") + "\n").expect("written");
        let mut command = Command::new("rtorrent");
        command.args(["-n", "-o"]).arg(format!("import={}", rc.display()));
        command.env("TERM", "dumb").env("HOME", home.path());
        Running::start(&mut command, home)
    }
}

impl Client for Rtorrent {
    fn name(&self) -> &'static str {
        "rtorrent"
    }

    fn is_here(&self) -> bool {
        require("rtorrent", "rtorrent")
    }

    fn seed(&self, torrent: &Path, folder: &Path) -> Running {
        Self::run(torrent, folder, SEEDER)
    }

    fn get(&self, torrent: &Path, folder: &Path) -> Running {
        Self::run(torrent, folder, LEECHER)
    }
}

/// qBittorrent without its window.
#[derive(Clone, Copy, Debug)]
pub struct Qbittorrent;

impl Qbittorrent {
    fn run(torrent: &Path, folder: &Path, at: &str) -> Running {
        let home = home();
        let settings: PathBuf = home.path().join("qBittorrent/config");
        fs::create_dir_all(&settings).expect("a folder");
        let port = free_port();
        let lines = [
            "[LegalNotice]".to_owned(),
            "Accepted=true".to_owned(),
            "[BitTorrent]".to_owned(),
            format!("Session\\Port={port}"),
            "Session\\Interface=lo".to_owned(),
            "Session\\InterfaceName=lo".to_owned(),
            format!("Session\\InterfaceAddress={at}"),
            "Session\\DHTEnabled=false".to_owned(),
            "Session\\LSDEnabled=false".to_owned(),
            "Session\\PeXEnabled=false".to_owned(),
            "[Network]".to_owned(),
            "PortForwardingEnabled=false".to_owned(),
        ];
        fs::write(settings.join("qBittorrent.conf"), lines.join("\n") + "\n").expect("written");
        let mut command = Command::new("qbittorrent-nox");
        command.arg(format!("--profile={}", home.path().display()));
        command.arg(format!("--webui-port={}", free_port()));
        command.arg(format!("--save-path={}", folder.display()));
        command.args(["--add-paused=false", "--skip-dialog=true"]).arg(torrent).env("HOME", home.path());
        Running::start(&mut command, home)
    }
}

impl Client for Qbittorrent {
    fn name(&self) -> &'static str {
        "qbittorrent-nox"
    }

    fn is_here(&self) -> bool {
        require("qbittorrent-nox", "qbittorrent-nox")
    }

    fn seed(&self, torrent: &Path, folder: &Path) -> Running {
        Self::run(torrent, folder, SEEDER)
    }

    fn get(&self, torrent: &Path, folder: &Path) -> Running {
        Self::run(torrent, folder, LEECHER)
    }
}
