//! A registry with a token service, public and private images, and what each client gets of it through a node, with the
//! settings of `longshore runtime install`.

use longshore_interop::Tokens;

use super::{command::Etc, *};

/// `alice:hunter2` in base64.
const ALICE_ENCODED: &str = "YWxpY2U6aHVudGVyMg==";
/// How every token of the service begins: the base64 of `{"alg":"RS256"`, or of `{"typ":"JWT"`.
const TOKENS: [&str; 2] = ["eyJhbGciOi", "eyJ0eXAiOi"];

struct Scene {
    registry: Registry,
    fleet: Fleet,
    etc: Etc,
    private_digest: String,
    public_digest: String,
    _tokens: Tokens,
}

impl Scene {
    fn new() -> Option<Self> {
        let tokens = Tokens::start()?;
        let registry = Registry::started(&tokens.believed(tokens.address()))?;
        let etc = Etc::new()?;
        registry.take_image(ALICE, "team/private:1");
        // Other content than what is public: whatever anybody may have in one place is for everybody.
        let place = registry.folder.path();
        let (sources, public) = (place.join("public-sources"), place.join("public"));
        fs::create_dir(&sources).expect("made");
        fs::write(sources.join("file"), noise(2_000_000, 6)).expect("written");
        lab::image::build(&sources, &[], &public, "app:1").expect("built");
        let digest_of = |layout: &Path| {
            let layout = format!("oci:{}:app:1", layout.display());
            let inspect = done(Command::new("skopeo").args(["inspect", "--format", "{{.Digest}}", &layout]));
            String::from_utf8(inspect.stdout).expect("text").trim().to_owned()
        };
        let (private_digest, public_digest) = (digest_of(&place.join("oci")), digest_of(&public));
        for (layout, name) in [
            (&place.join("oci"), "library/private:1"),
            (&public, "library/public:1"),
            (&public, "team/public:1"),
        ] {
            let to = format!("docker://127.0.0.1:{}/{name}", registry.port);
            let mut copy = Command::new("skopeo");
            copy.args(["copy", "--dest-tls-verify=false", "--dest-creds", ALICE]);
            done(copy.args([&format!("oci:{}:app:1", layout.display()), &to]));
        }
        // Clients of Docker's and of containers/image show what they have only where they are asked at once.
        let config = registry.folder.path().join("node.toml");
        fs::write(&config, "[mirror]\nchallenge = true\n").expect("written");
        let fleet = Fleet::with(&registry, 1, &["--config", &config.display().to_string()], "trace");
        wait_until("the node knows what the registry asks", || {
            let ping =
                Command::new("curl").args(["-si", &format!("http://{}/v2/", fleet.nodes[0].1)]).output();
            String::from_utf8_lossy(&ping.expect("starts").stdout).contains("Bearer realm=")
        });
        Some(Self { registry, fleet, etc, private_digest, public_digest, _tokens: tokens })
    }

    fn moved(&self) -> u64 {
        self.fleet.status(0)["status"]["totals"]["to_clients"].as_u64().expect("a number")
    }

    /// A pull that goes through the node, or fails.
    fn pulls(&self, what: &str, command: &mut Command, works: bool) {
        let before = self.moved();
        let output = command.output().expect("starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.success(), works, "{what}: {said}");
        assert!(!works || self.moved() > before, "{what}: it went past the node");
    }

    /// What no log may hold, and what the node may not give without rights although it has it.
    fn is_tight(&self) {
        let mirror = &self.fleet.nodes[0].1;
        let folder = self.registry.folder.path().join("oci/blobs");
        let manifest = fs::read(folder.join(self.private_digest.replace(':', "/"))).expect("readable");
        let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
        let layer = manifest["layers"][0]["digest"].as_str().expect("a digest").to_owned();
        let here = done(
            Command::new(longshore())
                .args(["status", "--json", "--socket"])
                .arg(self.fleet.folder.path().join("0.sock")),
        );
        assert!(String::from_utf8_lossy(&here.stdout).contains(&layer), "the node has it");
        for path in
            [format!("blobs/{layer}"), format!("manifests/{}", self.private_digest), "manifests/1".to_owned()]
        {
            let url = format!("http://{mirror}/v2/reg.test/team/private/{path}");
            let asked =
                done(Command::new("curl").args(["-s", "-o", "/dev/null", "-w", "%{http_code}", &url]));
            assert_eq!(String::from_utf8_lossy(&asked.stdout), "401", "{path}");
        }
        let log = self.fleet.nodes[0].0.stderr();
        assert!(log.contains("TRACE"), "the log is as long as it can be");
        for secret in ["hunter2", ALICE_ENCODED.trim_end_matches('=')].into_iter().chain(TOKENS) {
            assert!(!log.contains(secret), "{secret} is in the log");
        }
    }
}

#[test]
fn with_a_token_service_clients_of_containers_image_get_what_their_users_may_have() {
    let Some(scene) = Scene::new() else { return };
    let Scene { fleet, etc, private_digest, public_digest, .. } = &scene;
    etc.changes(fleet, &["install", "podman", "--registry", "docker.io", "--registry", "reg.test"]);
    let storage = format!(
        "[storage]\ndriver = \"vfs\"\ngraphroot = \"{}\"\nrunroot = \"{}\"\n",
        etc.at("graph"),
        etc.at("run")
    );
    etc.write("/etc/containers/storage.conf", &storage);
    // As `podman login 127.0.0.1:5555` leaves it.
    let auth = format!(r#"{{"auths": {{"{}": {{"auth": "{ALICE_ENCODED}"}}}}}}"#, fleet.nodes[0].1);
    for (file, text) in [("alice.json", auth.as_str()), ("nobody.json", "{}")] {
        fs::write(etc.at(file), text).expect("written");
    }
    let mut copies = 0;
    for program in ["skopeo", "podman", "buildah"] {
        if !require(program, program) {
            continue;
        }
        for (user, image, works) in [
            ("nobody", "team/public:1".to_owned(), true),
            ("nobody", format!("team/public@{public_digest}"), true),
            ("nobody", "team/private:1".to_owned(), false),
            ("nobody", format!("team/private@{private_digest}"), false),
            ("alice", "team/private:1".to_owned(), true),
            ("alice", format!("team/private@{private_digest}"), true),
        ] {
            let mut command = etc.command(program);
            command.env("REGISTRY_AUTH_FILE", etc.at(&format!("{user}.json")));
            copies += 1;
            if program == "skopeo" {
                command.args(["copy", &format!("docker://reg.test/{image}")]);
                command.arg(format!("dir:{}", etc.at(&format!("copy{copies}"))));
            } else {
                // Nothing of the pulls before is there.
                done(etc.command(program).args(["rmi", "--all", "--force"]));
                command.args(["pull", "--quiet", &format!("reg.test/{image}")]);
            }
            scene.pulls(&format!("{program} for {user}: {image}"), &mut command, works);
        }
    }
    scene.is_tight();
}

#[test]
fn with_a_token_service_docker_gets_what_its_user_may_have() {
    if !root() || !require("dockerd", "docker.io") || !require("docker", "docker.io") {
        return;
    }
    let Some(scene) = Scene::new() else { return };
    let Scene { fleet, etc, private_digest, public_digest, .. } = &scene;
    etc.changes(fleet, &["install", "docker"]);
    let mut command = etc.command("dockerd");
    // The registry itself cannot be had: what comes has come through the node.
    command.env("HTTPS_PROXY", "http://127.0.0.1:9");
    command.args(["--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver=vfs"]);
    command.args(["-H", &format!("unix://{}", etc.at("docker.sock")), "-p", &etc.at("pid")]);
    command.args(["--data-root", &etc.at("data"), "--exec-root", &etc.at("exec")]);
    let _docker = Process::start(&mut command);
    let docker = |user: &str, arguments: &[&str]| {
        let mut command = etc.command("docker");
        command.env("DOCKER_CONFIG", etc.at(user)).args(arguments);
        command
    };
    wait_until("dockerd answers", || {
        docker("nobody", &["version"]).output().expect("starts").status.success()
    });
    // As `docker login` leaves it.
    let auth = format!(r#"{{"auths": {{"https://index.docker.io/v1/": {{"auth": "{ALICE_ENCODED}"}}}}}}"#);
    fs::create_dir(etc.at("alice")).expect("made");
    fs::write(Path::new(&etc.at("alice")).join("config.json"), auth).expect("written");
    for (user, image, works) in [
        ("nobody", "public:1".to_owned(), true),
        ("nobody", format!("public@{public_digest}"), true),
        ("nobody", "private:1".to_owned(), false),
        ("alice", "private:1".to_owned(), true),
        ("alice", format!("private@{private_digest}"), true),
    ] {
        done(docker("nobody", &["image", "prune", "--all", "--force"]).args(["--filter", "until=0s"]));
        scene.pulls(
            &format!("docker for {user}: {image}"),
            &mut docker(user, &["pull", "--quiet", &image]),
            works,
        );
        docker("nobody", &["rmi", "--force", &image]).output().expect("starts");
    }
    scene.is_tight();
}

#[test]
fn with_a_token_service_containerd_gets_what_its_user_may_have() {
    if !root() || !require("containerd", "containerd") || !require("ctr", "containerd") {
        return;
    }
    if !require_python("grpc", "python3-grpcio") {
        return;
    }
    let Some(scene) = Scene::new() else { return };
    let Scene { fleet, etc, private_digest, public_digest, .. } = &scene;
    let cri = [PYTHON.to_owned(), format!("{}/tests/cri_pull.py", env!("CARGO_MANIFEST_DIR"))];
    for (user, image, works) in [
        (None, "team/public:1".to_owned(), true),
        (None, format!("team/public@{public_digest}"), true),
        (None, "team/private:1".to_owned(), false),
        (Some("mallory:letmein"), "team/private:1".to_owned(), false),
        (Some(ALICE), "team/private:1".to_owned(), true),
        (Some(ALICE), format!("team/private@{private_digest}"), true),
    ] {
        // Each with a daemon that has nothing: what containerd has it does not ask for.
        for by in ["ctr", "cri"] {
            let place = tempfile::tempdir().expect("a folder");
            let at = |name: &str| place.path().join(name).display().to_string();
            etc.write("/etc/containerd/config.toml", &Containerd::config(place.path()));
            etc.changes(fleet, &["install", "containerd"]);
            let _containerd = Process::start(&mut etc.command("containerd"));
            let ctr = |arguments: &[&str]| {
                let mut command = etc.command("ctr");
                command.env("CONTAINERD_ADDRESS", at("sock")).args(arguments);
                command
            };
            wait_until("containerd answers", || ctr(&["version"]).output().expect("starts").status.success());
            let reference = format!("reg.test/{image}");
            let mut pull = if by == "ctr" {
                let hosts = "/etc/containerd/certs.d";
                let mut pull = ctr(&["images", "pull", "--snapshotter", "native", "--hosts-dir", hosts]);
                if let Some(user) = user {
                    pull.args(["--user", user]);
                }
                pull.arg(&reference);
                pull
            } else {
                let mut pull = etc.command(&cri[0]);
                pull.arg(&cri[1]).args([&at("sock"), &reference]).args(user);
                pull
            };
            scene.pulls(&format!("{by} for {user:?}: {image}"), &mut pull, works);
            etc.changes(fleet, &["uninstall"]);
        }
    }
    scene.is_tight();
}
