//! `longshore runtime` with real runtimes, on the very files where they look for them.

use super::*;

/// An `/etc` over this machine's, which processes started here see in its place. It goes with its handle.
pub(super) struct Etc {
    holder: Process,
    place: TempDir,
}

impl Etc {
    pub(super) fn new() -> Option<Self> {
        if !root() || !require("unshare", "util-linux") || !require("nsenter", "util-linux") {
            return None;
        }
        let place = tempfile::tempdir().expect("a folder");
        for folder in ["upper", "work"] {
            fs::create_dir(place.path().join(folder)).expect("made");
        }
        let script = format!(
            "mount -t overlay -o lowerdir=/etc,upperdir={0}/upper,workdir={0}/work overlay /etc && echo ready && \
             exec sleep 3600",
            place.path().display()
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", &script]);
        let holder = Process::start(&mut command);
        wait_until("an /etc of our own", || holder.stdout().iter().any(|line| line == "ready"));
        Some(Self { holder, place })
    }

    pub(super) fn at(&self, name: &str) -> String {
        self.place.path().join(name).display().to_string()
    }

    /// A command in it.
    pub(super) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.holder.id().to_string(), "--mount", "--wd=/"]).arg(program);
        command.env("DOCKER_HOST", format!("unix://{}", self.at("docker.sock")));
        command.env("CONTAINERD_ADDRESS", self.at("containerd.sock"));
        command
    }

    pub(super) fn write(&self, path: &str, text: &str) {
        let script = "mkdir -p \"$(dirname \"$1\")\" && printf %s \"$2\" > \"$1\"";
        done(self.command("sh").args(["-c", script, "sh", path, text]));
    }

    /// What is below some folders: names, modes, contents.
    fn tree(&self, folders: &[&str]) -> String {
        let script =
            "find \"$@\" -printf '%p %m %U %l\\n' | sort; find \"$@\" -type f -exec sha256sum {} + | sort";
        let output = self.command("sh").args(["-c", script, "sh"]).args(folders).output().expect("starts");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn longshore(&self, fleet: &Fleet, arguments: &[&str]) -> Output {
        let mut command = self.command(longshore());
        command.arg("runtime").args(arguments).args(["--state", &self.at("state")]);
        if arguments.first() != Some(&"uninstall") {
            command.arg("--socket").arg(fleet.folder.path().join("0.sock"));
        }
        command.output().expect("starts")
    }

    pub(super) fn changes(&self, fleet: &Fleet, arguments: &[&str]) -> String {
        let output = self.longshore(fleet, arguments);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{arguments:?}: {out}{err}");
        format!("{out}{err}")
    }

    /// The findings of a check, each as step and words, and whether all is well.
    fn check(&self, fleet: &Fleet, runtime: &str, image: &str) -> (bool, Vec<(String, bool, String)>) {
        let output = self.longshore(fleet, &["check", runtime, "--image", image, "--json"]);
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON, or it says why not");
        let ok = report["ok"].as_bool().expect("a verdict");
        assert_eq!(output.status.code(), Some(i32::from(!ok)));
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let findings = report["findings"].as_array().expect("findings").iter();
        let findings = findings.map(|f| (text(&f["step"]), f["ok"] == true, text(&f["words"])));
        (ok, findings.collect())
    }

    fn is_well(&self, fleet: &Fleet, runtime: &str, image: &str) {
        let (ok, findings) = self.check(fleet, runtime, image);
        assert!(ok, "{findings:?}");
        assert!(findings.iter().any(|(step, _, words)| step == "pull" && words.contains("through the node")));
    }

    /// A check that fails first at `step`, with these words.
    fn is_wrong(&self, fleet: &Fleet, (runtime, image): (&str, &str), step: &str, words: &str) {
        let (ok, findings) = self.check(fleet, runtime, image);
        let wrong = findings.iter().find(|(_, ok, _)| !ok).expect("something wrong");
        assert!(!ok && wrong.0 == step && wrong.2.contains(words), "{findings:?}");
    }
}

#[test]
fn docker_is_set_up_checked_and_brought_back() {
    if !root() || !require("dockerd", "docker.io") || !require("docker", "docker.io") {
        return;
    }
    let (Some(registry), Some(etc)) = (Registry::start(), Etc::new()) else { return };
    let mut fleet = Fleet::start(&registry, 1);
    etc.write("/etc/docker/daemon.json", "{\n    \"debug\": false\n}");
    let before = etc.tree(&["/etc/docker"]);
    let mut command = etc.command("dockerd");
    command.args(["--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver=vfs"]);
    command.args(["-H", &format!("unix://{}", etc.at("docker.sock")), "-p", &etc.at("pid")]);
    command.args(["--data-root", &etc.at("data"), "--exec-root", &etc.at("exec")]);
    let docker = Process::start(&mut command);
    wait_until("dockerd answers", || {
        etc.command("docker").arg("version").output().expect("starts").status.success()
    });
    let what = ("docker", "docker.io/library/app:1");
    // The daemon makes a key when it first starts.
    let with_key = etc.tree(&["/etc/docker"]);
    etc.is_wrong(&fleet, what, "configuration", "longshore runtime install docker");
    let preview = etc.changes(&fleet, &["install", "docker", "--dry-run"]);
    assert!(preview.contains("+    \"registry-mirrors\""), "{preview}");
    assert_eq!(etc.tree(&["/etc/docker"]), with_key, "a preview changes nothing");
    let said = etc.changes(&fleet, &["install", "docker"]);
    assert!(
        said.contains("wrote /etc/docker/daemon.json") && said.contains("systemctl restart docker"),
        "{said}"
    );
    etc.is_wrong(&fleet, what, "configuration", "has not taken up its daemon.json");
    docker.hang_up();
    let info = || done(etc.command("docker").args(["info", "--format", "{{json .RegistryConfig.Mirrors}}"]));
    let mirror = fleet.nodes[0].1.clone();
    wait_until("Docker takes it up", || String::from_utf8_lossy(&info().stdout).contains(&mirror));
    etc.is_well(&fleet, what.0, what.1);
    went_through(&fleet);
    let images = done(etc.command("docker").args(["image", "ls", "--quiet"]));
    assert!(images.stdout.is_empty(), "the image is gone again");
    // One that is here stays here, and proves nothing.
    done(etc.command("docker").args(["pull", "--quiet", "app:1"]));
    etc.is_wrong(&fleet, what, "pull", "is here already");
    let images = done(etc.command("docker").args(["image", "ls", "--quiet"]));
    assert!(!images.stdout.is_empty());
    fleet.nodes[0].0.kill();
    etc.is_wrong(&fleet, what, "node", "no node answers");
    etc.changes(&fleet, &["uninstall", "docker"]);
    assert_eq!(etc.tree(&["/etc/docker"]), with_key);
    assert!(before.lines().all(|line| with_key.contains(line)));
    assert!(etc.changes(&fleet, &["uninstall"]).contains("nothing"));
}

#[test]
fn containerd_is_set_up_checked_and_brought_back() {
    if !root() || !require("containerd", "containerd") || !require("ctr", "containerd") {
        return;
    }
    if !require_python("grpc", "python3-grpcio") {
        return;
    }
    let (Some(registry), Some(etc)) = (Registry::start(), Etc::new()) else { return };
    let mut fleet = Fleet::start(&registry, 1);
    let config = format!(
        "version = 2\nroot = \"{}\" # ours\nstate = \"{}\"\n[grpc]\n  address = \"{}\"\n[plugins]\n  \
         [plugins.\"io.containerd.grpc.v1.cri\".containerd]\n    snapshotter = \"native\"\n",
        etc.at("root"),
        etc.at("run"),
        etc.at("containerd.sock"),
    );
    etc.write("/etc/containerd/config.toml", &config);
    let what = ("containerd", "reg.test/team/app:1");
    let before = etc.tree(&["/etc/containerd"]);
    etc.is_wrong(&fleet, what, "configuration", "no config_path");
    let said = etc.changes(&fleet, &["install", "containerd"]);
    assert!(said.contains("systemctl restart containerd"), "{said}");
    etc.is_wrong(&fleet, what, "pull", "ctr");
    let _containerd = Process::start(&mut etc.command("containerd"));
    wait_until("containerd answers", || {
        etc.command("ctr").arg("version").output().expect("starts").status.success()
    });
    etc.is_well(&fleet, what.0, what.1);
    went_through(&fleet);
    let left = done(etc.command("ctr").args(["--namespace", "longshore-check", "images", "list", "--quiet"]));
    assert!(left.stdout.is_empty(), "the image is gone again");
    // Kubernetes' own way, which needs config_path.
    let moved = || fleet.status(0)["status"]["totals"]["to_clients"].as_u64().expect("a number");
    let already = moved();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cri_pull.py");
    done(Command::new(PYTHON).arg(script).args([&etc.at("containerd.sock"), what.1]));
    assert!(moved() > already);
    fleet.nodes[0].0.kill();
    etc.is_wrong(&fleet, what, "node", "no node answers");
    etc.changes(&fleet, &["uninstall"]);
    assert_eq!(etc.tree(&["/etc/containerd"]), before);
}

#[test]
fn podman_is_set_up_checked_and_brought_back() {
    if !root() || !require("podman", "podman") {
        return;
    }
    let (Some(registry), Some(etc)) = (Registry::start(), Etc::new()) else { return };
    let mut fleet = Fleet::start(&registry, 1);
    let storage = format!(
        "[storage]\ndriver = \"vfs\"\ngraphroot = \"{}\"\nrunroot = \"{}\"\n",
        etc.at("graph"),
        etc.at("run")
    );
    etc.write("/etc/containers/storage.conf", &storage);
    let what = ("podman", "reg.test/team/app:1");
    let before = etc.tree(&["/etc/containers"]);
    etc.is_wrong(&fleet, what, "configuration", "longshore runtime install podman --registry reg.test");
    etc.changes(&fleet, &["install", "skopeo", "--registry", "docker.io", "--registry", "reg.test"]);
    let once = etc.tree(&["/etc/containers"]);
    let again =
        etc.changes(&fleet, &["install", "podman", "--registry", "docker.io", "--registry", "reg.test"]);
    assert!(again.contains("as it was written before"), "{again}");
    assert_eq!(etc.tree(&["/etc/containers"]), once);
    etc.is_well(&fleet, what.0, what.1);
    went_through(&fleet);
    // skopeo reads the same file.
    let to = format!("dir:{}", etc.at("copy"));
    done(etc.command("skopeo").args(["copy", "docker://docker.io/library/app:1", &to]));
    fleet.nodes[0].0.kill();
    etc.is_wrong(&fleet, what, "node", "no node answers");
    etc.changes(&fleet, &["uninstall"]);
    assert_eq!(etc.tree(&["/etc/containers"]), before);
}
