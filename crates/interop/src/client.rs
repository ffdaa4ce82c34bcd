//! BitTorrent clients: ours, and those that the field uses.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
};

use crate::{PYTHON, Place, Process, free_port, longshore, require, require_python};

/// A client that can seed a torrent and fetch one. Each call starts a process with a folder of its own for settings.
pub trait Client {
    /// What it is called.
    fn name(&self) -> &'static str;
    /// Whether it is installed; says so if not.
    fn is_here(&self) -> bool;
    /// Seeds what lies in `folder`.
    fn seed_at(&self, at: &Place, torrent: &Path, folder: &Path) -> Running;
    /// Fetches into `folder`, and seeds if it does not end when it is done.
    fn get_at(&self, at: &Place, torrent: &Path, folder: &Path) -> Running;

    /// Seeds on this machine.
    fn seed(&self, torrent: &Path, folder: &Path) -> Running {
        self.seed_at(&SEEDER, torrent, folder)
    }

    /// Fetches on this machine.
    fn get(&self, torrent: &Path, folder: &Path) -> Running {
        self.get_at(&LEECHER, torrent, folder)
    }
}

/// Where seeders are, and from where they announce. Addresses of their own, since on one address clients take each
/// other for themselves: opentracker tells a client of itself, and libtorrent then bans the address.
static SEEDER: Place = Place::here(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)));
/// Where leechers are.
static LEECHER: Place = Place::here(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3)));

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

    fn seed_at(&self, at: &Place, torrent: &Path, folder: &Path) -> Running {
        let mut command = at.command(longshore());
        command.arg("seed").arg(torrent).arg(folder).args(["--json", "--listen"]);
        command.arg(SocketAddr::new(at.ip, 0).to_string());
        let mut running = Running::start(&mut command, home());
        running.process.event("seeding");
        running
    }

    fn get_at(&self, at: &Place, torrent: &Path, folder: &Path) -> Running {
        let mut command = at.command(longshore());
        command.arg("get").arg(torrent).arg(folder).args(["--json", "--listen"]);
        command.arg(SocketAddr::new(at.ip, 0).to_string());
        command.args(["--deadline", "80"]);
        Running::start(&mut command, home())
    }
}

/// libtorrent by Arvid Norberg, through its Python module.
#[derive(Clone, Copy, Debug)]
pub struct Libtorrent;

impl Libtorrent {
    fn run(role: &str, torrent: &Path, folder: &Path, at: &Place) -> Running {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/libtorrent_peer.py");
        let mut command = at.command(PYTHON);
        let listen = SocketAddr::new(at.ip, free_port()).to_string();
        command.arg(script).arg(role).arg(torrent).arg(folder).arg(listen);
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

    fn seed_at(&self, at: &Place, torrent: &Path, folder: &Path) -> Running {
        Self::run("seed", torrent, folder, at)
    }

    fn get_at(&self, at: &Place, torrent: &Path, folder: &Path) -> Running {
        Self::run("get", torrent, folder, at)
    }
}

/// aria2.
#[derive(Clone, Copy, Debug)]
pub struct Aria2;

impl Aria2 {
    fn run(torrent: &Path, folder: &Path, at: &Place, more: &[&str]) -> Running {
        let home = home();
        let mut command = at.command("aria2c");
        command.args(["--no-conf", "--bt-enable-lpd=false", "--enable-peer-exchange=false"]);
        command.args(["--file-allocation=none", "--bt-tracker-interval=1"]);
        if at.namespace.is_some() {
            // It announces over UDP from the socket of its DHT alone, which finds nobody here.
            let (table, table6) = (home.path().join("dht"), home.path().join("dht6"));
            command.arg("--enable-dht=true").arg("--dht-file-path").arg(table);
            command.arg("--dht-file-path6").arg(table6);
            command.arg(format!("--enable-dht6={}", at.ip.is_ipv6()));
            command.arg(format!("--dht-listen-port={}", free_port()));
        } else {
            command.args(["--enable-dht=false", "--enable-dht6=false"]);
            command.arg(format!("--interface={}", at.ip));
        }
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

    fn seed_at(&self, at: &Place, torrent: &Path, folder: &Path) -> Running {
        // With --check-integrity alone it ends once it knows that all is there.
        Self::run(
            torrent,
            folder,
            at,
            &["--check-integrity=true", "--seed-ratio=0.0", "--bt-hash-check-seed=true"],
        )
    }

    fn get_at(&self, at: &Place, torrent: &Path, folder: &Path) -> Running {
        // On this machine it ends when it is done, as others do.
        let seed = if at.namespace.is_some() { "--seed-ratio=0.0" } else { "--seed-time=0" };
        Self::run(torrent, folder, at, &[seed])
    }
}

/// rtorrent, without a terminal.
#[derive(Clone, Copy, Debug)]
pub struct Rtorrent;

impl Rtorrent {
    fn run(torrent: &Path, folder: &Path, at: &Place) -> Running {
        let home = home();
        fs::create_dir(home.path().join("session")).expect("a folder");
        let mut lines = vec![
            "system.daemon.set = true".to_owned(),
            format!("directory.default.set = {}", folder.display()),
            format!("session.path.set = {}/session", home.path().display()),
            format!("network.port_range.set = {0}-{0}", free_port()),
            "network.port_random.set = no".to_owned(),
            "dht.mode.set = disable".to_owned(),
            "protocol.pex.set = no".to_owned(),
            "trackers.use_udp.set = yes".to_owned(),
            // Left to itself it comes back after ten minutes, whatever the tracker says.
            "schedule2 = announce, 3, 3, \"d.multicall2=main,d.tracker_announce=\"".to_owned(),
            format!("load.start = {}", torrent.display()),
        ];
        if at.namespace.is_none() {
            // Only IPv4 addresses are taken here; without one, both families are used.
            lines.push(format!("network.bind_address.set = {}", at.ip));
            lines.push(format!("network.local_address.set = {}", at.ip));
        }
        let rc = home.path().join("rc");
        fs::write(&rc, lines.join("\n") + "\n").expect("written");
        let mut command = at.command("rtorrent");
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

    fn seed_at(&self, at: &Place, torrent: &Path, folder: &Path) -> Running {
        Self::run(torrent, folder, at)
    }

    fn get_at(&self, at: &Place, torrent: &Path, folder: &Path) -> Running {
        Self::run(torrent, folder, at)
    }
}

/// qBittorrent without its window.
#[derive(Clone, Copy, Debug)]
pub struct Qbittorrent;

impl Qbittorrent {
    fn run(torrent: &Path, folder: &Path, at: &Place) -> Running {
        let home = home();
        let settings: PathBuf = home.path().join("qBittorrent/config");
        fs::create_dir_all(&settings).expect("a folder");
        let port = free_port();
        let interface = if at.namespace.is_some() { "eth0" } else { "lo" };
        let lines = [
            "[LegalNotice]".to_owned(),
            "Accepted=true".to_owned(),
            "[BitTorrent]".to_owned(),
            format!("Session\\Port={port}"),
            format!("Session\\Interface={interface}"),
            format!("Session\\InterfaceName={interface}"),
            format!("Session\\InterfaceAddress={}", at.ip),
            "Session\\DHTEnabled=false".to_owned(),
            "Session\\LSDEnabled=false".to_owned(),
            "Session\\PeXEnabled=false".to_owned(),
            "[Network]".to_owned(),
            "PortForwardingEnabled=false".to_owned(),
        ];
        fs::write(settings.join("qBittorrent.conf"), lines.join("\n") + "\n").expect("written");
        let mut command = at.command("qbittorrent-nox");
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

    fn seed_at(&self, at: &Place, torrent: &Path, folder: &Path) -> Running {
        Self::run(torrent, folder, at)
    }

    fn get_at(&self, at: &Place, torrent: &Path, folder: &Path) -> Running {
        Self::run(torrent, folder, at)
    }
}

/// Transmission's daemon. It connects to no peer on loopback, so that it is of use in a network alone.
#[derive(Clone, Copy, Debug)]
pub struct Transmission;

impl Transmission {
    fn run(torrent: &Path, folder: &Path, at: &Place) -> Running {
        let home = home();
        let watched = home.path().join("watched");
        fs::create_dir(&watched).expect("a folder");
        fs::copy(torrent, watched.join("the.torrent")).expect("copied");
        let settings = serde_json::json!({
            "peer-port": free_port(),
            "dht-enabled": false,
            "lpd-enabled": false,
            "pex-enabled": false,
            "utp-enabled": false,
            "port-forwarding-enabled": false,
            "rpc-enabled": false,
            "download-dir": folder,
            "incomplete-dir-enabled": false,
            "watch-dir": watched,
            "watch-dir-enabled": true,
        });
        fs::write(home.path().join("settings.json"), settings.to_string()).expect("written");
        let mut command = at.command("transmission-daemon");
        command
            .args(["--foreground", "--log-debug", "--config-dir"])
            .arg(home.path())
            .env("HOME", home.path());
        Running::start(&mut command, home)
    }
}

impl Client for Transmission {
    fn name(&self) -> &'static str {
        "transmission"
    }

    fn is_here(&self) -> bool {
        require("transmission-daemon", "transmission-daemon")
    }

    fn seed_at(&self, at: &Place, torrent: &Path, folder: &Path) -> Running {
        Self::run(torrent, folder, at)
    }

    fn get_at(&self, at: &Place, torrent: &Path, folder: &Path) -> Running {
        Self::run(torrent, folder, at)
    }
}
