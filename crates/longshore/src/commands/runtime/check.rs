//! `longshore runtime check`: whether a runtime pulls through the node, and if not, where it fails.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use runtime::{Keeper, Part, Root, Runtime};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::Command,
};

use super::{
    ostree,
    place::{self, Mirror, System},
    program::run as ask,
    pull::Puller,
};
use crate::{failure::Failure, quantity, screen};

/// How long the mirror or a program may take to answer.
const ANSWER: Duration = Duration::from_secs(30);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// docker, containerd, podman, ostree [default: those that are installed, but not ostree]
    #[arg(value_name = "RUNTIME", value_parser = super::parse)]
    runtimes: Vec<Runtime>,
    #[command(flatten)]
    mirror: Mirror,
    /// The image to pull; it is removed again [default: hello-world or busybox of Docker Hub]. For ostree a branch
    /// [default: the first of the remote's summary]
    #[arg(long, value_name = "REF")]
    image: Option<String>,
    /// How long the pull may take
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
    #[command(flatten)]
    system: System,
    /// Print JSON, a line for each runtime
    #[arg(long)]
    json: bool,
}

/// What was looked at, and how it is.
pub(super) struct Finding {
    step: &'static str,
    ok: bool,
    words: String,
}

pub(super) fn good(step: &'static str, words: impl Into<String>) -> Finding {
    Finding { step, ok: true, words: words.into() }
}

pub(super) fn bad(step: &'static str, words: impl Into<String>) -> Finding {
    Finding { step, ok: false, words: words.into() }
}

pub(super) async fn run(mut args: Args) -> anyhow::Result<()> {
    let root = args.system.root()?;
    let runtimes = args.system.runtimes(&args.runtimes, &root)?;
    let config = args.mirror.config(&root)?;
    if let Some(config) = &config {
        args.mirror.connection.fall_back(&config.api.socket);
    }
    let known = args.mirror.address(&root, config.as_ref()).await?;
    let mut wrong = Vec::new();
    for runtime in runtimes {
        let recorded = recorded(runtime, &root, &args.system);
        let mirror = known.or(recorded).unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 5555)));
        let findings = look(runtime, mirror, &root, &args).await?;
        let ok = findings.iter().all(|finding| finding.ok);
        if args.json {
            let list: Vec<_> =
                findings.iter().map(|f| json!({"step": f.step, "ok": f.ok, "words": f.words})).collect();
            screen::say_json(&json!({
                "runtime": runtime.name(), "mirror": mirror.to_string(), "ok": ok, "findings": list,
            }));
        } else {
            screen::say(&format!("{runtime}, with the mirror on {mirror}"));
            for finding in &findings {
                let mark = if finding.ok { "ok   " } else { "WRONG" };
                screen::say(&format!("  {mark}  {:13}  {}", finding.step, finding.words));
            }
        }
        if !ok {
            wrong.push(runtime.name());
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!("something is wrong with {}", wrong.join(", "))).into())
}

/// The mirror's address as it was last installed.
fn recorded(runtime: Runtime, root: &Root, system: &System) -> Option<SocketAddr> {
    let parts = Keeper::new(root.clone(), system.state()).parts(runtime).unwrap_or_default();
    parts.into_iter().find_map(|part| match part {
        Part::DockerMirror { url } | Part::ContainerdHost { url } => {
            url.strip_prefix("http://")?.parse().ok()
        }
        Part::RegistryMirrors { mirror, .. } => mirror.parse().ok(),
        Part::OstreeContent { urls } => {
            urls.values().next()?.strip_prefix("http://")?.split('/').next()?.parse().ok()
        }
        _ => None,
    })
}

async fn look(
    runtime: Runtime,
    mirror: SocketAddr,
    root: &Root,
    args: &Args,
) -> anyhow::Result<Vec<Finding>> {
    let mut findings = node(args).await?;
    findings.push(answers(mirror).await);
    if runtime == Runtime::Ostree {
        let (finding, remote) = ostree::configured(mirror, root);
        findings.push(finding);
        let ready = findings.iter().all(|finding| finding.ok);
        let pulled = match remote.filter(|_| ready) {
            Some(remote) => pull_commit(&remote, args).await?,
            None => not_tried(),
        };
        findings.push(pulled);
        return Ok(findings);
    }
    let (finding, puller) = match runtime {
        Runtime::Docker => docker(mirror, root).await,
        Runtime::Containerd => containerd(mirror, root).await,
        Runtime::Podman => podman(mirror, root, args.image.as_deref()).await,
        Runtime::Ostree => return Ok(findings),
    };
    findings.push(finding);
    let pulled = match puller {
        Some(puller) if findings.iter().all(|finding| finding.ok) => pull(&puller, args).await?,
        _ => not_tried(),
    };
    findings.push(pulled);
    Ok(findings)
}

fn not_tried() -> Finding {
    bad("pull", "was not tried, as it would prove nothing before the rest is in order")
}

/// Whether the node runs and does its work.
async fn node(args: &Args) -> anyhow::Result<Vec<Finding>> {
    let connection = &args.mirror.connection;
    let health = match connection.client()?.health().await {
        Ok(health) => health,
        Err(error) => return Ok(vec![bad("node", connection.explain(error).to_string())]),
    };
    if health.healthy {
        return Ok(vec![good("node", "runs, and is healthy")]);
    }
    Ok(health.problems.into_iter().map(|problem| bad("node", problem)).collect())
}

/// Whether a registry answers at the mirror's address.
async fn answers(mirror: SocketAddr) -> Finding {
    const STEP: &str = "mirror";
    let exchange = async {
        let mut stream = TcpStream::connect(mirror).await?;
        let request = format!("GET /v2/ HTTP/1.1\r\nHost: {mirror}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(4096).read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    match tokio::time::timeout(ANSWER, exchange).await {
        Err(_) => bad(STEP, format!("{mirror} takes connections, or swallows them, and does not answer")),
        Ok(Err(error)) => bad(STEP, format!("nothing answers on {mirror}: {error}")),
        Ok(Ok(answer)) => {
            let text = String::from_utf8_lossy(&answer);
            let line = text.lines().next().unwrap_or_default();
            match line.split(' ').nth(1) {
                Some("200" | "401") if line.starts_with("HTTP/1.") => {
                    good(STEP, format!("answers on {mirror}"))
                }
                _ => bad(STEP, format!("what answers on {mirror} is no registry: `{}`", line.trim())),
            }
        }
    }
}

pub(super) const CONFIGURATION: &str = "configuration";

/// The advice where a file does not name the mirror.
pub(super) fn install(runtime: Runtime) -> String {
    format!("set it up with `longshore runtime install {runtime}`")
}

async fn docker(mirror: SocketAddr, root: &Root) -> (Finding, Option<Puller>) {
    // Where no daemon answers, this has the better words.
    let mut version = Command::new("docker");
    version.args(["version", "--format", "{{.Server.Version}}"]);
    let mut info = Command::new("docker");
    info.args(["info", "--format", "{{json .RegistryConfig.Mirrors}}"]);
    let asked = match ask(&mut version, ANSWER).await {
        Ok(_) => ask(&mut info, ANSWER).await,
        Err(words) => Err(words),
    };
    let answer = match asked {
        Ok(answer) => answer,
        Err(words) => return (bad(CONFIGURATION, format!("Docker cannot be asked: {words}")), None),
    };
    let mirrors: Vec<String> = serde_json::from_str(answer.trim()).unwrap_or_default();
    let url = format!("http://{mirror}");
    if mirrors.iter().any(|known| known.trim_end_matches('/') == url) {
        return (good(CONFIGURATION, format!("Docker has {url} among its mirrors")), Some(Puller::Docker));
    }
    let file = root.read(Path::new("/etc/docker/daemon.json")).ok().flatten().unwrap_or_default();
    let words = if file.contains(&url) {
        "Docker has not taken up its daemon.json, which names the mirror: systemctl restart docker".to_owned()
    } else {
        format!("Docker does not have {url} among its mirrors: {}", install(Runtime::Docker))
    };
    (bad(CONFIGURATION, words), None)
}

async fn containerd(mirror: SocketAddr, root: &Root) -> (Finding, Option<Puller>) {
    let mut command = Command::new("containerd");
    if let Ok(config) = root.resolve(Path::new("/etc/containerd/config.toml"))
        && config.is_file()
    {
        command.arg("--config").arg(config);
    }
    let dump = match ask(command.args(["config", "dump"]), ANSWER).await {
        Ok(dump) => dump,
        Err(words) => {
            return (
                bad(CONFIGURATION, format!("containerd does not understand its configuration: {words}")),
                None,
            );
        }
    };
    let dump: toml::Table = dump.parse().unwrap_or_default();
    let folder =
        ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "cri"].iter().find_map(|plugin| {
            let set = dump.get("plugins")?.get(*plugin)?.get("registry")?.get("config_path")?.as_str()?;
            set.split(':').next().filter(|folder| !folder.is_empty())
        });
    // Where the plugin for Kubernetes is switched off, others are given the usual folder by hand.
    let folder = folder.or_else(|| runtime::kubernetes_is_off(&dump).then_some(runtime::CONTAINERD_FOLDER));
    let Some(folder) = folder.map(PathBuf::from) else {
        let advice = install(Runtime::Containerd);
        return (
            bad(CONFIGURATION, format!("containerd's configuration sets no config_path: {advice}")),
            None,
        );
    };
    let hosts = folder.join("_default/hosts.toml");
    let text = match root.read(&hosts) {
        Ok(text) => text.unwrap_or_default(),
        Err(error) => return (bad(CONFIGURATION, format!("cannot read {}: {error}", hosts.display())), None),
    };
    let url = format!("http://{mirror}");
    let finding = match runtime::hosts_name(&text, &url) {
        Err(error) => bad(CONFIGURATION, format!("{}: {error}", hosts.display())),
        Ok(false) => {
            let advice = install(Runtime::Containerd);
            bad(CONFIGURATION, format!("{} does not name {url}: {advice}", hosts.display()))
        }
        Ok(true) => good(CONFIGURATION, format!("{} names {url}", hosts.display())),
    };
    (finding, root.resolve(&folder).ok().map(Puller::Containerd))
}

async fn podman(mirror: SocketAddr, root: &Root, image: Option<&str>) -> (Finding, Option<Puller>) {
    // The registry of the image that is to be pulled.
    let first = image.and_then(|image| image.split_once('/')).map(|(first, _)| first);
    let registry = first.filter(|first| first.contains(['.', ':'])).unwrap_or("docker.io");
    let location = format!("{mirror}/{registry}");
    let advice = || format!("set it up with `longshore runtime install podman --registry {registry}`");
    if !place::is_there("podman", root) {
        if !place::is_there("skopeo", root) {
            return (bad(CONFIGURATION, "neither podman nor skopeo is here to ask and to pull with"), None);
        }
        let file = root.read(Path::new("/etc/containers/registries.conf.d/longshore.conf")).ok().flatten();
        let named = file.is_some_and(|text| text.contains(&format!("\"{location}\"")));
        let finding = if named {
            good(CONFIGURATION, format!("longshore.conf names {location}"))
        } else {
            bad(
                CONFIGURATION,
                format!("registries.conf.d/longshore.conf does not name {location}: {}", advice()),
            )
        };
        return (finding, Some(Puller::Skopeo));
    }
    let info = match ask(Command::new("podman").args(["info", "--format", "json"]), ANSWER).await {
        Ok(info) => info,
        Err(words) => return (bad(CONFIGURATION, format!("podman cannot be asked: {words}")), None),
    };
    let info: Value = serde_json::from_str(&info).unwrap_or_default();
    let mirrors = info["registries"][registry]["Mirrors"].as_array();
    let named =
        mirrors.is_some_and(|mirrors| mirrors.iter().any(|mirror| mirror["Location"] == location.as_str()));
    let finding = if named {
        good(CONFIGURATION, format!("podman has {location} as a mirror of {registry}"))
    } else {
        bad(CONFIGURATION, format!("podman does not have {location} as a mirror of {registry}: {}", advice()))
    };
    (finding, Some(Puller::Podman))
}

const PULL: &str = "pull";

/// How many bytes clients were given so far.
async fn given(args: &Args) -> anyhow::Result<u64> {
    let status = args.mirror.connection.client()?.status().await;
    status.map(|status| status.totals.to_clients).map_err(|error| args.mirror.connection.explain(error))
}

/// Pulls a commit, and looks whether the node was asked for it.
async fn pull_commit(remote: &ostree::Remote, args: &Args) -> anyhow::Result<Finding> {
    let before = given(args).await?;
    let branch = match remote.pull(args.image.as_deref(), Duration::from_secs(args.timeout)).await {
        Ok(branch) => branch,
        Err(words) => return Ok(bad(PULL, format!("no commit could be pulled: {words}"))),
    };
    let bytes = given(args).await?.saturating_sub(before);
    Ok(if bytes > 0 {
        good(PULL, format!("the commit of {branch} came through the node, {}", quantity::size(bytes)))
    } else {
        bad(PULL, format!("the commit of {branch} was pulled, but not through the node"))
    })
}

/// Pulls, and looks whether the node was asked for it.
async fn pull(puller: &Puller, args: &Args) -> anyhow::Result<Finding> {
    let image = match puller.choose(args.image.as_deref()).await {
        Ok(image) => image,
        Err(words) => return Ok(bad(PULL, words)),
    };
    let before = given(args).await?;
    if let Err(words) = puller.pull(&image, Duration::from_secs(args.timeout)).await {
        return Ok(bad(PULL, format!("{image} could not be pulled: {words}")));
    }
    let bytes = given(args).await?.saturating_sub(before);
    Ok(if bytes > 0 {
        good(PULL, format!("{image} came through the node, {}", quantity::size(bytes)))
    } else {
        let why = if puller.runtime() == Runtime::Docker && !image.starts_with("docker.io/") {
            ": Docker asks mirrors for images of Docker Hub only"
        } else {
            ""
        };
        bad(PULL, format!("{image} was pulled, but not through the node{why}"))
    })
}
