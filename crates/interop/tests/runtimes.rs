//! Container runtimes pull a real image through nodes, from Debian's docker-registry.
#![allow(clippy::expect_used, reason = "tests fail by panicking, their helpers too")]

#[path = "runtimes/command.rs"]
mod command;
#[path = "runtimes/token.rs"]
mod token;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use longshore_interop::{
    Containerd, PYTHON, Process, free_port, longshore, noise, require, require_python, skip, wait_until,
};
use serde_json::Value;
use tempfile::TempDir;

/// A user of a closed registry, with the password.
const ALICE: &str = "alice:hunter2";
/// The password's bcrypt.
const HASH: &str = "$2b$04$6ZZ6QqgI2SuRwZoqYHsL7u9oSw1fA2Mj/zcePVsxgck4OV83VJaaC";

/// A registry, mostly with one image, under `team/app:1` and `library/app:1`.
struct Registry {
    process: Process,
    port: u16,
    folder: TempDir,
}

impl Registry {
    /// With nothing in it, and for everybody.
    fn empty() -> Option<Self> {
        Self::started("")
    }

    /// With nothing in it, and for [`ALICE`] only.
    fn closed() -> Option<Self> {
        Self::started("auth: {htpasswd: {realm: test, path: HERE/users}}\n")
    }

    fn started(auth: &str) -> Option<Self> {
        let there = require("docker-registry", "docker-registry") && require("skopeo", "skopeo");
        if !there {
            return None;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let (place, port) = (folder.path(), free_port());
        let config = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: HERE/storage}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n{auth}"
        );
        let config = config.replace("HERE", &place.display().to_string());
        fs::write(place.join("users"), format!("alice:{HASH}\n")).expect("written");
        fs::write(place.join("registry.yml"), config).expect("written");
        let process =
            Process::start(Command::new("docker-registry").arg("serve").arg(place.join("registry.yml")));
        wait_until("docker-registry answers", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        Some(Self { process, port, folder })
    }

    fn start() -> Option<Self> {
        let registry = Self::empty()?;
        let (place, port) = (registry.folder.path(), registry.port);
        let sources = place.join("sources");
        fs::create_dir(&sources).expect("made");
        for number in 0..4 {
            fs::write(sources.join(format!("file{number}")), noise(27_000_000, number)).expect("written");
        }
        let image = lab::image::build(&sources, &[], &place.join("oci"), "app:1").expect("built");
        assert!(image.total > 100_000_000 && image.layers.len() >= 3, "{image:?}");
        for name in ["team/app:1", "library/app:1"] {
            let from = format!("oci:{}:app:1", place.join("oci").display());
            let to = format!("docker://127.0.0.1:{port}/{name}");
            done(Command::new("skopeo").args(["copy", "--dest-tls-verify=false", &from, &to]));
        }
        Some(registry)
    }

    /// Puts in a small image, with a user's rights.
    fn take_image(&self, user: &str, name: &str) {
        let place = self.folder.path();
        let sources = place.join("sources");
        fs::create_dir(&sources).expect("made");
        fs::write(sources.join("file"), noise(3_000_000, 5)).expect("written");
        lab::image::build(&sources, &[], &place.join("oci"), "app:1").expect("built");
        let from = format!("oci:{}:app:1", place.join("oci").display());
        let to = format!("docker://127.0.0.1:{}/{name}", self.port);
        done(Command::new("skopeo").args([
            "copy",
            "--dest-tls-verify=false",
            "--dest-creds",
            user,
            &from,
            &to,
        ]));
    }
}

/// A tracker, and nodes that know the registry as `reg.test` and as Docker Hub.
struct Fleet {
    folder: TempDir,
    /// Each with its mirror's address.
    nodes: Vec<(Process, String)>,
    _tracker: Process,
}

impl Fleet {
    fn start(registry: &Registry, count: usize) -> Self {
        Self::telling(registry, count, "info")
    }

    /// With as much in the nodes' logs as `log` says.
    fn telling(registry: &Registry, count: usize, log: &str) -> Self {
        Self::with(registry, count, &[], log)
    }

    fn with(registry: &Registry, count: usize, arguments: &[&str], log: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut tracker =
            Process::start(Command::new(longshore()).args(["tracker", "--listen", "127.0.0.1:0", "--json"]));
        let address = tracker.event("listening")["addresses"][0].as_str().expect("an address").to_owned();
        let nodes = (0..count).map(|number| {
            let mut command = Command::new(longshore());
            command.args([
                "node",
                "--json",
                "--peer-listen",
                "127.0.0.1:0",
                "--mirror-listen",
                "127.0.0.1:0",
            ]);
            command.args(["--tracker", &format!("http://{address}/announce")]);
            command.env("LONGSHORE_LOG", log).args(arguments);
            command.arg("--data").arg(folder.path().join(format!("data{number}")));
            command.arg("--socket").arg(folder.path().join(format!("{number}.sock")));
            for name in ["reg.test", "docker.io"] {
                command.args(["--upstream", &format!("{name}=http://127.0.0.1:{}", registry.port)]);
            }
            let mut node = Process::start(&mut command);
            let mirror = node.event("listening")["mirrors"][0].as_str().expect("an address").to_owned();
            (node, mirror)
        });
        Self { nodes: nodes.collect(), folder, _tracker: tracker }
    }

    fn status(&self, number: usize) -> Value {
        let socket = self.folder.path().join(format!("{number}.sock"));
        let output = done(Command::new(longshore()).args(["status", "--json", "--socket"]).arg(socket));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }
}

fn done(command: &mut Command) -> Output {
    let output = command.output().expect("starts");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn copy(mirror: &str, name: &str, to: &Path) {
    let from = format!("docker://{mirror}/{name}");
    done(
        Command::new("skopeo")
            .args(["copy", "--src-tls-verify=false", &from])
            .arg(format!("dir:{}", to.display())),
    );
}

/// Names and contents of a folder's files.
fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(folder).expect("readable").map(|entry| entry.expect("readable").path());
    let mut files: Vec<_> = entries
        .map(|path| (path.file_name().expect("a name").into(), fs::read(&path).expect("readable")))
        .collect();
    files.sort();
    files
}

#[test]
fn what_is_pushed_through_one_node_is_pulled_through_another_with_the_registry_stopped() {
    let Some(mut registry) = Registry::empty() else { return };
    let fleet = Fleet::start(&registry, 2);
    let to = |name: &str| fleet.folder.path().join(name);
    let [(_, a), (_, b)] = fleet.nodes.as_slice() else { unreachable!() };
    let sources = to("sources");
    fs::create_dir(&sources).expect("made");
    fs::write(sources.join("file"), noise(9_000_000, 77)).expect("written");
    lab::image::build(&sources, &[], &to("oci"), "app:1").expect("built");
    let from = format!("oci:{}:app:1", to("oci").display());
    let mirror = format!("docker://{a}/reg.test/team/pushed:1");
    done(Command::new("skopeo").args(["copy", "--dest-tls-verify=false", &from, &mirror]));
    copy(&format!("127.0.0.1:{}", registry.port), "team/pushed:1", &to("registry"));
    let kept = || {
        let status = fleet.status(0);
        status["blobs"]
            .as_array()
            .is_some_and(|blobs| blobs.len() >= 3 && blobs.iter().all(|blob| blob["state"] == "complete"))
    };
    wait_until("the first node holds what was pushed", kept);
    // To another repository: skopeo is told that the layers are there already, and sends the manifest alone.
    let other = format!("docker://{b}/reg.test/team/other:1");
    done(Command::new("skopeo").args(["copy", "--dest-tls-verify=false", &from, &other]));
    copy(&format!("127.0.0.1:{}", registry.port), "team/other:1", &to("other"));
    assert!(contents(&to("registry")) == contents(&to("other")));
    // Words about what it lacked.
    let words = fleet.status(1)["status"]["totals"]["from_origins"].clone();
    registry.process.kill();
    let pull = || {
        let mut command = Command::new("skopeo");
        command.args(["copy", "--src-tls-verify=false", &format!("docker://{b}/reg.test/team/pushed:1")]);
        command.arg(format!("dir:{}", to("second").display()));
        command.output().expect("starts").status.success()
    };
    // It may take a moment until the fleet is told of all of it.
    wait_until("the second node gives it", pull);
    assert!(contents(&to("registry")) == contents(&to("second")));
    assert_eq!(fleet.status(0)["status"]["totals"]["from_origins"], 0, "nothing came back from the registry");
    assert_eq!(fleet.status(1)["status"]["totals"]["from_origins"], words);
}

#[test]
fn with_the_registry_stopped_a_second_node_gives_the_image_from_the_first() {
    let Some(mut registry) = Registry::start() else { return };
    let fleet = Fleet::start(&registry, 2);
    let to = |name: &str| fleet.folder.path().join(name);
    let [(_, a), (_, b)] = fleet.nodes.as_slice() else { unreachable!() };
    copy(a, "reg.test/team/app:1", &to("first"));
    let manifest = fs::read(to("first").join("manifest.json")).expect("readable");
    registry.process.kill();
    copy(b, "reg.test/team/app:1", &to("by-tag"));
    copy(b, &format!("reg.test/team/app@{}", hash::Digest::of(&manifest)), &to("by-digest"));
    assert!(contents(&to("first")) == contents(&to("by-tag")));
    assert!(contents(&to("first")) == contents(&to("by-digest")));
    let status = fleet.status(1);
    let totals = &status["status"]["totals"];
    assert_eq!(totals["from_origins"], 0, "{totals}");
    assert!(totals["from_peers"].as_u64() > Some(100_000_000), "{totals}");
    let a_listens = fleet.status(0)["status"]["addresses"].clone();
    for blob in status["blobs"].as_array().expect("blobs") {
        assert_eq!(blob["state"], "complete");
        for source in blob["sources"].as_array().expect("sources") {
            // Manifest and configuration are small enough for the directory.
            if source["kind"] == "directory" {
                assert!(blob["size"].as_u64() <= Some(16 * 1024), "{blob}");
                continue;
            }
            assert_eq!(source["kind"], "peer");
            let known = a_listens.as_array().expect("some").iter().any(|a| a["address"] == source["peer"]);
            assert!(known, "{source} is not node A: {a_listens}");
        }
    }
    drop(registry.folder);
}

#[test]
fn docker_pulls_through_a_node() {
    if !root() || !require("dockerd", "docker.io") || !require("docker", "docker.io") {
        return;
    }
    let Some(registry) = Registry::start() else { return };
    let fleet = Fleet::start(&registry, 1);
    let dockerd = Dockerd::start(&fleet.nodes[0].1);
    let pulled = dockerd.docker(&["pull", "app:1"]);
    assert!(pulled.status.success(), "{}", String::from_utf8_lossy(&pulled.stderr));
    went_through(&fleet);
}

#[test]
fn docker_pulls_a_private_image_with_its_users_rights() {
    if !root() || !require("dockerd", "docker.io") || !require("docker", "docker.io") {
        return;
    }
    let Some(registry) = Registry::closed() else { return };
    let config = registry.folder.path().join("node.toml");
    fs::write(&config, "[mirror]\nchallenge = true\n").expect("written");
    let fleet = Fleet::with(&registry, 1, &["--config", &config.display().to_string()], "info");
    registry.take_image(ALICE, "library/app:1");
    let dockerd = Dockerd::start(&fleet.nodes[0].1);
    wait_until("the node knows what the registry asks", || {
        let ping = Command::new("curl").args(["-si", &format!("http://{}/v2/", fleet.nodes[0].1)]).output();
        String::from_utf8_lossy(&ping.expect("starts").stdout).contains("Basic realm=\"test\"")
    });
    assert!(!dockerd.docker(&["pull", "app:1"]).status.success(), "with no rights");
    // As `docker login` leaves it.
    let auth = r#"{"auths": {"https://index.docker.io/v1/": {"auth": "YWxpY2U6aHVudGVyMg=="}}}"#;
    fs::write(dockerd.at("config.json"), auth).expect("written");
    let pulled = dockerd.docker(&["pull", "app:1"]);
    assert!(pulled.status.success(), "{}", String::from_utf8_lossy(&pulled.stderr));
    let totals = fleet.status(0)["status"]["totals"].clone();
    assert!(totals["to_clients"].as_u64() > Some(3_000_000), "{totals}");
}

/// A dockerd of its own, with a node as its mirror.
struct Dockerd {
    place: TempDir,
    socket: String,
    _process: Process,
}

impl Dockerd {
    fn start(mirror: &str) -> Self {
        let place = tempfile::tempdir().expect("a folder");
        let at = |name: &str| place.path().join(name).display().to_string();
        let socket = format!("unix://{}", at("sock"));
        let mut command = Command::new("dockerd");
        // No bridge and no filter rules: the machine's network stays as it is.
        command.args(["--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver=vfs"]);
        command.args(["-H", &socket, "--registry-mirror", &format!("http://{mirror}")]);
        command.args(["--data-root", &at("data"), "--exec-root", &at("exec"), "-p", &at("pid")]);
        let _process = Process::start(&mut command);
        let dockerd = Self { place, socket, _process };
        wait_until("dockerd answers", || dockerd.docker(&["version"]).status.success());
        dockerd
    }

    fn at(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn docker(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("docker");
        command.env("DOCKER_CONFIG", self.place.path()).args(["-H", &self.socket]);
        command.args(arguments).output().expect("starts")
    }
}

#[test]
fn podman_pulls_through_a_node() {
    if !root() || !require("podman", "podman") {
        return;
    }
    let Some(registry) = Registry::start() else { return };
    let fleet = Fleet::start(&registry, 1);
    let place = tempfile::tempdir().expect("a folder");
    let config = format!(
        "[[registry]]\nlocation = \"reg.test\"\n[[registry.mirror]]\nlocation = \"{}/reg.test\"\ninsecure = true\n",
        fleet.nodes[0].1
    );
    fs::write(place.path().join("registries.conf"), config).expect("written");
    let mut command = Command::new("podman");
    command.env("CONTAINERS_REGISTRIES_CONF", place.path().join("registries.conf"));
    command.arg("--root").arg(place.path().join("root")).arg("--runroot").arg(place.path().join("run"));
    done(command.args(["--storage-driver=vfs", "pull", "reg.test/team/app:1"]));
    went_through(&fleet);
}

#[test]
fn containerd_pulls_through_a_node() {
    if !root() || !require("containerd", "containerd") || !require("ctr", "containerd") {
        return;
    }
    let Some(registry) = Registry::start() else { return };
    let fleet = Fleet::start(&registry, 1);
    let containerd = containerd(&fleet.nodes[0].1);
    done(containerd.pull().arg("reg.test/team/app:1"));
    went_through(&fleet);

    // What it has pulled is taken from there, and not from the registry. Its files are left alone for two seconds.
    let lender = containerd.at("root/io.containerd.content.v1.content");
    let layers = Path::new(&lender).join("blobs/sha256");
    wait_until("all of its files are older than that", || {
        let age = |path: PathBuf| fs::metadata(path).expect("there").modified().expect("known").elapsed();
        let mut files = fs::read_dir(&layers).expect("readable");
        files.all(|file| age(file.expect("readable").path()).is_ok_and(|age| age > Duration::from_secs(3)))
    });
    let borrowing = Fleet::with(&registry, 1, &["--borrow", &lender], "info");
    let got = tempfile::tempdir().expect("a folder");
    copy(&borrowing.nodes[0].1, "reg.test/team/app:1", got.path());
    went_through(&borrowing);
    let totals = borrowing.status(0)["status"]["totals"].clone();
    assert!(totals["from_origins"].as_u64() < Some(100_000), "{totals}");
    assert!(totals["blob_bytes"].as_u64() < Some(100_000), "{totals}");
}

#[test]
fn a_private_image_goes_to_whom_the_registry_would_give_it_and_no_secret_into_the_log() {
    if !require("curl", "curl") {
        return;
    }
    let Some(registry) = Registry::closed() else { return };
    let fleet = Fleet::telling(&registry, 1, "trace");
    let mirror = &fleet.nodes[0].1;
    registry.take_image(ALICE, "team/app:1");

    // The status and the body.
    let get = |path: &str, user: Option<&str>| {
        let mut command = Command::new("curl");
        command.args([
            "-sS",
            "-w",
            "%{stderr}%{http_code}",
            &format!("http://{mirror}/v2/reg.test/team/app/{path}"),
        ]);
        command.args(["-H", "Accept: application/vnd.oci.image.manifest.v1+json"]);
        if let Some(user) = user {
            command.args(["-u", user]);
        }
        let output = done(&mut command);
        (String::from_utf8(output.stderr).expect("a number"), output.stdout)
    };
    let strangers = [None, Some("mallory:letmein")];
    for user in strangers {
        assert_eq!(get("manifests/1", user).0, "401", "{user:?}");
    }
    let (status, manifest) = get("manifests/1", Some(ALICE));
    assert_eq!(status, "200");
    let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
    let layer = format!("blobs/{}", manifest["layers"][0]["digest"].as_str().expect("a digest"));
    let (status, bytes) = get(&layer, Some(ALICE));
    assert_eq!((status.as_str(), hash::Digest::of(&bytes).to_string()), ("200", layer.replace("blobs/", "")));
    // It is here now, and for her alone.
    for user in strangers {
        for path in ["manifests/1", &layer] {
            assert_eq!(get(path, user).0, "401", "{path} {user:?}");
        }
    }
    let before = fleet.status(0)["status"]["totals"]["from_origins"].clone();
    assert_eq!(get(&layer, Some(ALICE)).1, bytes);
    assert_eq!(fleet.status(0)["status"]["totals"]["from_origins"], before, "from the store");

    if root() && require("containerd", "containerd") && require("ctr", "containerd") {
        let containerd = containerd(mirror);
        let image = "reg.test/team/app:1";
        done(containerd.pull().args(["--user", ALICE, image]));
        let refused = containerd.pull().args(["--user", "mallory:letmein", image]).output().expect("starts");
        assert!(!refused.status.success());
    }
    let log = fleet.nodes[0].0.stderr();
    assert!(log.contains("TRACE"), "the log is as long as it can be");
    let encoded = ["YWxpY2U6aHVudGVyMg", "bWFsbG9yeTpsZXRtZWlu"];
    for secret in ["hunter2", "letmein"].into_iter().chain(encoded) {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}

#[test]
fn kubernetes_runtime_interface_pulls_through_a_node() {
    if !root() || !require("containerd", "containerd") || !require_python("grpc", "python3-grpcio") {
        return;
    }
    let Some(registry) = Registry::start() else { return };
    let fleet = Fleet::start(&registry, 1);
    let containerd = containerd(&fleet.nodes[0].1);
    let image = "reg.test/team/app:1";
    let pulled = done(&mut containerd.cri_pull(image));
    let reference = String::from_utf8_lossy(&pulled.stdout).into_owned();
    let listed = containerd.ctr(&["--namespace", "k8s.io", "images", "list", "--quiet"]);
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.contains(image) && listed.contains(reference.trim()), "{reference} of {listed}");
    went_through(&fleet);
}

/// A containerd with the settings of docs/operate/runtimes.md.
fn containerd(mirror: &str) -> Containerd {
    let hosts = format!("[host.\"http://{mirror}\"]\n  capabilities = [\"pull\", \"resolve\"]\n");
    Containerd::start("_default", &hosts)
}

/// The whole image passed through the first node's mirror.
fn went_through(fleet: &Fleet) {
    let totals = fleet.status(0)["status"]["totals"].clone();
    assert!(totals["to_clients"].as_u64() > Some(100_000_000), "{totals}");
}

fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skip("this container engine wants root");
    }
    root
}
