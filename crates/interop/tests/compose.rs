//! `deploy/compose.yaml` as it is, with docker-compose and with podman-compose: everybody gets everything, by little more
//! than the seeders sending it once, and nothing leads out of the network.
//!
//! No registry is asked: the images that deploy/Dockerfile begins with are stand-ins, of this machine's libraries, with a
//! `cargo` and an `npm` that put the binary under test in place. With docker-compose there are the ten leechers of the
//! file, with podman-compose three.
#![allow(clippy::expect_used, reason = "tests fail by panicking, their helpers too")]

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use longshore_interop::{Network, Place, Process, longshore, noise, require, wait_until};
use serde_json::Value;
use tempfile::TempDir;

/// Programs that the image's build, its health checks and this test run in it.
const PROGRAMS: [&str; 4] = ["/bin/sh", "/usr/bin/install", "/usr/bin/sha256sum", "/usr/bin/cat"];
/// What deploy/Dockerfile begins with.
const STAND_INS: [&str; 3] = ["node:22-bookworm-slim", "rust:1-bookworm", "debian:bookworm-slim"];
/// The files that are shared, and how long they are.
const FILES: [(&str, usize); 3] = [("disk.img", 12_000_000), ("album/one", 900_000), ("album/two", 70_000)];

/// A container engine on a host of its own, beside which another host listens that no container is to reach.
struct Stage {
    engine: Engine,
    place: Place,
    folder: TempDir,
    /// The address of the other host.
    outside: String,
    _outside: Process,
    _daemon: Option<Process>,
    _network: Network,
}

#[derive(Clone, Copy, PartialEq)]
enum Engine {
    Docker,
    Podman,
}

impl Stage {
    fn new(engine: Engine) -> Option<Self> {
        let needed: &[_] = match engine {
            Engine::Docker => &[("dockerd", "docker.io"), ("docker-compose", "docker-compose")],
            Engine::Podman => &[("podman", "podman"), ("podman-compose", "podman-compose"), ("runc", "runc")],
        };
        if !needed.iter().all(|(program, package)| require(program, package)) {
            return None;
        }
        let network = Network::new(2, false)?;
        let (place, other) = (network.host(0), network.host(1));
        let outside = format!("{}:6969", other.ip);
        let mut tracker = other.command(longshore());
        let mut tracker = Process::start(tracker.args(["tracker", "--json", "--listen", &outside]));
        tracker.event("listening");
        let folder = tempfile::tempdir().expect("a folder");
        let mut stage = Self {
            engine,
            place,
            folder,
            outside: format!("http://{outside}"),
            _outside: tracker,
            _daemon: None,
            _network: network,
        };
        stage.set_up();
        stage.make_content();
        stage.make_stand_ins();
        Some(stage)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn set_up(&mut self) {
        let at = |name: &str| self.at(name).display().to_string();
        match self.engine {
            Engine::Docker => {
                let mut command = self.place.command("dockerd");
                command.args(["-H", &format!("unix://{}", at("sock")), "-p", &at("pid")]);
                command.args(["--data-root", &at("data"), "--exec-root", &at("exec")]);
                self._daemon = Some(Process::start(&mut command));
                wait_until("dockerd answers", || self.engine(&["version"]).status.success());
            }
            Engine::Podman => {
                // runc and these limits: what there is in a container that this runs in may be less than Podman's own.
                let storage = format!(
                    "[storage]\ndriver = \"overlay\"\ngraphroot = \"{}\"\nrunroot = \"{}\"\n",
                    at("graph"),
                    at("run")
                );
                let containers = format!(
                    "[engine]\nruntime = \"runc\"\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n\
                     tmp_dir = \"{}\"\nvolume_path = \"{}\"\n[network]\nnetwork_config_dir = \"{}\"\n\
                     [containers]\ndefault_ulimits = [\"nofile=4096:4096\", \"nproc=4096:4096\"]\n",
                    at("tmp"),
                    at("volumes"),
                    at("networks")
                );
                fs::write(self.at("storage.conf"), storage).expect("written");
                fs::write(self.at("containers.conf"), containers).expect("written");
            }
        }
    }

    /// A command on the engine's host, that uses this engine and has the settings of the compose file.
    fn command(&self, program: &str) -> Command {
        let mut command = self.place.command(program);
        command.env("DOCKER_HOST", format!("unix://{}", self.at("sock").display()));
        command.env("DOCKER_BUILDKIT", "0").env("COMPOSE_PROJECT_NAME", "swarm");
        command.env("CONTAINERS_STORAGE_CONF", self.at("storage.conf"));
        command.env("CONTAINERS_CONF", self.at("containers.conf"));
        // There need be no systemd to time health checks, and a build needs no network.
        command.env("DISABLE_HC_SYSTEMD", "true").env("BUILDAH_ISOLATION", "chroot");
        command.env("CONTENT", self.at("content")).env("SEEDER_UP", "4MiB");
        if self.engine == Engine::Podman {
            command.env("LEECHERS", "3");
        }
        command
    }

    fn engine(&self, arguments: &[&str]) -> Output {
        let program = match self.engine {
            Engine::Docker => "docker",
            Engine::Podman => "podman",
        };
        self.command(program).args(arguments).output().expect("starts")
    }

    fn done(&self, arguments: &[&str]) -> String {
        text(&self.engine(arguments), &format!("{arguments:?}"))
    }

    fn compose(&self, arguments: &[&str]) -> String {
        let program = match self.engine {
            Engine::Docker => "docker-compose",
            Engine::Podman => "podman-compose",
        };
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/compose.yaml");
        let mut command = self.command(program);
        let output = command.arg("-f").arg(file).args(arguments).output().expect("starts");
        text(&output, &format!("{program} {arguments:?}"))
    }

    fn make_content(&self) {
        fs::create_dir_all(self.at("content/album")).expect("made");
        for (number, (name, length)) in (1..).zip(FILES) {
            fs::write(self.at("content").join(name), noise(length, number)).expect("written");
        }
        // As a checkout is: readable by whoever the containers run as.
        for folder in ["content", "content/album"] {
            fs::set_permissions(self.at(folder), fs::Permissions::from_mode(0o755)).expect("set");
        }
        fs::set_permissions(self.folder.path(), fs::Permissions::from_mode(0o755)).expect("set");
    }

    fn make_stand_ins(&self) {
        let root = self.at("stand-in/root");
        let put = |from: &Path, to: &Path| {
            let to = root.join(to.strip_prefix("/").expect("absolute"));
            fs::create_dir_all(to.parent().expect("a folder")).expect("made");
            fs::copy(from, to).expect("copied");
        };
        put(longshore(), Path::new("/longshore"));
        // Each layer holds it: without what debuggers want it is a third as large. Where there is no strip, it stays.
        let _ = Command::new("strip").arg(root.join("longshore")).status();
        let certificates = Path::new("/etc/ssl/certs/ca-certificates.crt");
        put(certificates, certificates);
        let mut libraries = BTreeSet::new();
        for program in PROGRAMS.map(Path::new).into_iter().chain([longshore().as_path()]) {
            let needs = Command::new("ldd").arg(program).output().expect("starts");
            let needs = text(&needs, "ldd");
            let paths = needs.split_whitespace().filter(|word| word.starts_with('/') && !word.ends_with(':'));
            libraries.extend(paths.map(PathBuf::from));
        }
        for file in libraries.iter().map(PathBuf::as_path).chain(PROGRAMS.map(Path::new)) {
            put(file, file);
        }
        for (name, script) in [
            ("cargo", "exec install -D /longshore target/release/longshore"),
            ("npm", "exec install -d dist"),
        ] {
            let path = root.join("usr/bin").join(name);
            fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("written");
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("set");
        }
        fs::write(self.at("stand-in/Dockerfile"), "FROM scratch\nCOPY root /\n").expect("written");
        let names = STAND_INS.map(|name| format!("docker.io/library/{name}"));
        let mut build = vec!["build", "--quiet"];
        names.iter().for_each(|name| build.extend(["--tag", name]));
        let context = self.at("stand-in").display().to_string();
        build.push(&context);
        self.done(&build);
    }

    /// The containers of a service.
    fn containers(&self, service: &str) -> Vec<String> {
        let filter = format!("label=com.docker.compose.service={service}");
        let listed = self.done(&["ps", "--all", "--quiet", "--filter", &filter]);
        listed.lines().map(str::to_owned).collect()
    }

    /// The one container of a service.
    fn only(&self, service: &str) -> String {
        let mut all = self.containers(service);
        assert_eq!(all.len(), 1, "{service}: {all:?}");
        all.remove(0)
    }

    fn status(&self, container: &str) -> Value {
        let said = self.done(&["exec", container, "longshore", "status", "--json"]);
        serde_json::from_str(&said).expect("JSON")
    }

    fn has_everything(&self, container: &str) -> bool {
        let said = self.engine(&["exec", container, "longshore", "torrent", "list", "--json"]);
        let Ok(Value::Array(torrents)) = serde_json::from_slice(&said.stdout) else { return false };
        torrents.len() == 2 && torrents.iter().all(|torrent| torrent["state"] == "seeding")
    }

    /// The lines of sha256sum of what is shared.
    fn sums(&self) -> BTreeSet<String> {
        let sum = |(name, _): (&str, usize)| {
            let bytes = fs::read(self.at("content").join(name)).expect("readable");
            let digest = hash::Digest::of(&bytes).to_string();
            let digest = digest.strip_prefix("sha256:").expect("its kind").to_owned();
            format!("{digest}  /var/lib/longshore/torrents/content/{name}")
        };
        FILES.map(sum).into()
    }

    fn swarm_runs(&self, services: &[&str], leechers: usize) {
        self.compose(&[&["up", "-d"], services].concat());
        let (seeders, all) = (self.containers("seeder"), self.containers("leecher"));
        assert_eq!((seeders.len(), all.len()), (2, leechers));
        for leecher in &all {
            wait_until("a leecher has everything", || self.has_everything(leecher));
        }
        let sums = self.sums();
        for leecher in &all {
            let mut command = vec!["exec", leecher.as_str(), "sha256sum"];
            command.extend(sums.iter().filter_map(|line| line.split_whitespace().nth(1)));
            let got: BTreeSet<String> = self.done(&command).lines().map(str::to_owned).collect();
            assert_eq!(got, sums);
        }
        let sent = |seeder: &String| {
            let totals = &self.status(seeder)["status"]["totals"];
            totals["to_peers"].as_u64().expect("a number")
        };
        let (sent, content) = (seeders.iter().map(sent).sum::<u64>(), FILES.iter().map(|f| f.1 as u64).sum());
        assert!((content..content * 5 / 2).contains(&sent), "the seeders sent {sent} of {content} bytes");
        let publisher = self.only("publisher");
        assert_eq!(self.done(&["inspect", "--format", "{{.State.ExitCode}}", &publisher]).trim(), "0");
        assert_eq!(self.done(&["inspect", "--format", "{{.State.Status}}", &publisher]).trim(), "exited");
    }

    /// Nobody inside is root or writes to the image, and there is no way out.
    fn is_shut_in(&self) {
        let tracker = self.only("tracker");
        let leecher = self.containers("leecher").remove(0);
        for container in [&tracker, &leecher] {
            let status = self.done(&["exec", container, "cat", "/proc/1/status"]);
            let line = |name: &str| status.lines().find(|line| line.starts_with(name)).expect("a line");
            assert!(line("Uid:").split_whitespace().skip(1).all(|uid| uid == "10001"), "{status}");
            assert!(line("CapEff:").ends_with("0000000000000000"), "{status}");
            assert!(line("NoNewPrivs:").ends_with('1'), "{status}");
            let written = self.engine(&["exec", "--user", "0", container, "sh", "-c", "echo > /new"]);
            assert!(String::from_utf8_lossy(&written.stderr).contains("Read-only"), "{written:?}");
            // A question to the engine's name server may be lost, and is asked again after as long as a probe waits.
            let reaches_tracker = || {
                let probe = ["exec", container.as_str(), "longshore", "health", "http://tracker:6969"];
                self.engine(&probe).status.success()
            };
            wait_until("the tracker is reached by its name", reaches_tracker);
            let out = self.engine(&["exec", container, "longshore", "health", &self.outside]);
            assert_eq!(out.status.code(), Some(1), "there is a way out: {out:?}");
        }
        self.done(&["exec", &leecher, "longshore", "health"]);
        // From a network that leads somewhere the other host is to be reached.
        let image = self.done(&["inspect", "--format", "{{.Image}}", &leecher]);
        self.done(&["run", "--rm", image.trim(), "health", &self.outside]);
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let left = self.engine(&["ps", "--all", "--quiet"]);
        for container in String::from_utf8_lossy(&left.stdout).lines() {
            self.engine(&["rm", "--force", "--volumes", container]);
        }
        if self.engine == Engine::Podman {
            // Its storage is mounted in our folder.
            self.engine(&["system", "reset", "--force"]);
        }
    }
}

fn text(output: &Output, what: &str) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{what}: {out}{err}");
    out.into_owned()
}

#[test]
fn docker_compose_brings_up_a_swarm_that_shares_a_folder() {
    let Some(stage) = Stage::new(Engine::Docker) else { return };
    stage.swarm_runs(&[], 10);
    stage.is_shut_in();
    stage.compose(&["down", "--volumes"]);
    assert_eq!(stage.done(&["ps", "--all", "--quiet"]), "");
    assert_eq!(stage.done(&["volume", "ls", "--quiet"]), "");
    assert_eq!(stage.done(&["network", "ls", "--quiet", "--filter", "type=custom"]), "");
}

#[test]
fn podman_compose_brings_up_a_swarm_that_shares_a_folder() {
    let Some(stage) = Stage::new(Engine::Podman) else { return };
    // That of Debian 12 knows no profiles, so that the services are named.
    stage.swarm_runs(&["tracker", "publisher", "seeder", "leecher"], 3);
    stage.is_shut_in();
    stage.compose(&["down", "--volumes"]);
    assert_eq!(stage.done(&["ps", "--all", "--quiet"]), "");
    // Nor does it remove networks, and volumes without a name.
    let volumes = stage.done(&["volume", "ls", "--quiet"]);
    assert!(!volumes.lines().any(|name| name.starts_with("deploy")), "{volumes}");
}
