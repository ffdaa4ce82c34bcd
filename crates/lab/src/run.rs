//! The lab from its start to its report.

use std::{
    net::TcpListener as StdListener,
    path::{Path, PathBuf},
    time::Duration,
};

use api::{
    CallError, NodeClient,
    node::{BlobState, SourceKind},
    torrents::Limits,
};
use futures_util::{StreamExt as _, future::join_all, stream};
use hash::Digest;
use serde::Deserialize;
use tokio::{
    net::TcpListener,
    task::spawn_blocking,
    time::{Instant, sleep},
};

use crate::{
    LabConfig, LabError, NodeReport, Rate, Report,
    claim::file,
    image::{self, ImageSummary},
    links::{self, Link},
    netns,
    plan::{NodePlan, Plan},
    pull,
    registry::{Counters, Registry, RegistryConfig},
    report::{BlobKind, BlobReport},
    stage::Stage,
    verify,
};

/// The lab's registry in references.
pub const REGISTRY_NAME: &str = "lab.test";
/// The image's repository there.
pub(crate) const REPOSITORY: &str = "demo";
/// What the nodes pull.
pub const IMAGE: &str = "lab.test/demo:latest";

/// How long a node may take from its start until it is healthy.
const READY: Duration = Duration::from_secs(30);
/// How often a node is asked meanwhile.
const ASK: Duration = Duration::from_millis(100);
/// How many nodes are verified at once.
const VERIFY_AT_ONCE: usize = 4;

/// What goes on, for a progress display.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Something begins, or is done.
    Step(&'a str),
    /// A node pulls.
    Pulling {
        /// Its name.
        node: &'a str,
        /// Proven bytes, of the image's blobs.
        done: u64,
        /// Their bytes as far as known.
        total: u64,
        /// Connected peers, of the blob that moved last.
        peers: u32,
    },
    /// A node's pull has ended.
    Pulled {
        /// Its name.
        node: &'a str,
        /// How long it took, or why it failed.
        outcome: Result<Duration, &'a str>,
    },
    /// What was found out.
    Report(&'a Report),
    /// The lab runs on, until told to stop.
    Kept(&'a Kept),
}

/// A lab that runs on: where everything is.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Kept {
    /// Image, configurations and logs.
    pub directory: PathBuf,
    /// A command that pulls through a node's mirror.
    pub pull: String,
    /// A command that shows what a node holds.
    pub status: String,
}

/// Runs a lab until its report is made, or `stop` is done. With [`LabConfig::keep`] it stays until `stop`.
///
/// When this returns, everything is taken away again. When it is dropped before, processes are killed and the rest is
/// removed by the next lab.
///
/// # Errors
/// Why there is no report. A node that fails, or a digest that is wrong, is in the report, and no error.
pub async fn run(
    config: &LabConfig,
    tell: impl Fn(Event<'_>) + Send + Sync,
    stop: impl Future<Output = ()> + Send,
) -> Result<Report, LabError> {
    config.check()?;
    let mut stop = std::pin::pin!(stop);
    let mut stage = Stage::set(config).await?;
    let outcome = tokio::select! {
        outcome = Box::pin(play(config, &mut stage, &tell)) => outcome,
        () = &mut stop => Err(LabError::Stopped),
    };
    if let (true, Ok(report)) = (config.keep, &outcome) {
        tell(Event::Report(report));
        tell(Event::Kept(&kept(config, &stage)));
        stop.await;
    }
    stage.strike().await;
    if let (false, Ok(report)) = (config.keep, &outcome) {
        tell(Event::Report(report));
    }
    outcome
}

async fn play(
    config: &LabConfig,
    stage: &mut Stage,
    tell: &(dyn Fn(Event<'_>) + Sync),
) -> Result<Report, LabError> {
    let plan = Plan::new(config.seeders, config.leechers, stage.network());
    tell(Event::Step("making the image"));
    let layout = stage.work().join("image");
    let blobs = make_image(config, stage, &layout).await?;
    if config.namespaces {
        tell(Event::Step("making network namespaces"));
        links::make(stage.id(), 1, &[], &hosts(&plan, config)).await?;
    }
    let nodes =
        if plan.nodes.len() == 1 { "one node".to_owned() } else { format!("{} nodes", plan.nodes.len()) };
    tell(Event::Step(&format!("starting a registry, a tracker and {nodes}")));
    let counters = start_registry(stage, &plan, layout).await?;
    start_tracker(config, stage, &plan).await?;
    let mut clients = Vec::new();
    for node in &plan.nodes {
        clients.push(start_node(config, stage, &plan, node).await?);
    }
    await_ready(stage, &plan, &clients).await?;
    if let Some(rate) = config.rate.filter(|_| !config.namespaces) {
        limit(&plan, &clients, rate).await?;
    }

    let all: Vec<(&NodePlan, &NodeClient)> = plan.nodes.iter().zip(&clients).collect();
    let (seeders, leechers) = all.split_at(config.seeders.min(all.len()));
    if !seeders.is_empty() {
        tell(Event::Step(&format!("{} first", pulls(seeders.len(), "seeder"))));
    }
    let mut times = pull_all(config, seeders, tell).await;
    for ((node, _), outcome) in seeders.iter().zip(&times) {
        if let Err(reason) = outcome {
            let (name, log) = (node.name.clone(), stage.tail(&node.name));
            return Err(LabError::Seeder { name, reason: reason.clone(), log });
        }
    }
    tell(Event::Step(&format!("{} at once", pulls(leechers.len(), "leecher"))));
    let start = Instant::now();
    times.extend(pull_all(config, leechers, tell).await);
    let wall = start.elapsed();

    tell(Event::Step("hashing what every node serves"));
    let mut report = Report {
        ok: false,
        reference: IMAGE.to_owned(),
        rate: config.rate.map(Rate::bits),
        wall_seconds: wall.as_secs_f64(),
        slowest: None,
        image_bytes: 0,
        origin_bytes: 0,
        origin_copies: 0.0,
        max_blob_copies: 0.0,
        seeder_copies: 0.0,
        digests_right: 0,
        digests_expected: 0,
        // Before anything is verified: a node that lacks a blob would fetch it for that.
        blobs: with_counts(blobs, &counters),
        nodes: Vec::new(),
    };
    for ((node, client), outcome) in all.iter().zip(&times) {
        report.nodes.push(ask(stage, &plan, node, client, outcome, &report.blobs).await);
    }
    prove(stage, &plan, &mut report).await?;
    report.sum_up();
    Ok(report)
}

/// Makes the image, and tells of what it consists.
async fn make_image(config: &LabConfig, stage: &Stage, layout: &Path) -> Result<Vec<BlobReport>, LabError> {
    // An image of extra files alone has an empty directory for its sources.
    let empty = stage.work().join("empty");
    let sources = match &config.sources.directory {
        Some(sources) => sources.clone(),
        None => {
            std::fs::create_dir_all(&empty).map_err(file(&empty))?;
            empty
        }
    };
    let (extra, out) = (config.sources.extra.clone(), layout.to_owned());
    let built = spawn_blocking(move || {
        let tag = format!("{REPOSITORY}:latest");
        let summary = image::build(&sources, &extra, &out, &tag)?;
        parts(&summary, &out)
    });
    built.await.map_err(|_| LabError::Thread)?
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
    size: u64,
}

fn parts(summary: &ImageSummary, layout: &Path) -> Result<Vec<BlobReport>, LabError> {
    let path = layout.join("blobs/sha256").join(summary.manifest_digest.hex());
    let bytes = std::fs::read(&path).map_err(file(&path))?;
    let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|e| file(&path)(e.into()))?;
    let config: Digest =
        manifest.config.digest.parse().map_err(|e| file(&path)(std::io::Error::other(format!("{e}"))))?;
    let mut parts = vec![
        BlobReport::new(summary.manifest_digest, BlobKind::Manifest, bytes.len() as u64),
        BlobReport::new(config, BlobKind::Config, manifest.config.size),
    ];
    for (digest, size) in &summary.layers {
        if parts.iter().all(|part| part.digest != *digest) {
            parts.push(BlobReport::new(*digest, BlobKind::Layer, *size));
        }
    }
    Ok(parts)
}

fn hosts(plan: &Plan, config: &LabConfig) -> Vec<links::Host> {
    let v4 = |address: std::net::SocketAddr| match address.ip() {
        std::net::IpAddr::V4(ip) => ip,
        // The plan has none.
        std::net::IpAddr::V6(_) => std::net::Ipv4Addr::UNSPECIFIED,
    };
    let servers = [("registry", plan.registry, config.origin_rate), ("tracker", plan.tracker, None)];
    let servers = servers.map(|(name, address, rate)| (name.to_owned(), v4(address), rate));
    let nodes = plan.nodes.iter().map(|node| (node.name.clone(), v4(node.peer), config.rate));
    let host = |(name, ip, rate)| links::Host { name, ip, zone: 0, shape: Link { rate, delay: None } };
    servers.into_iter().chain(nodes).map(host).collect()
}

async fn start_registry(stage: &mut Stage, plan: &Plan, layout: PathBuf) -> Result<Counters, LabError> {
    let address = plan.registry;
    let failed = |source| LabError::Listen { what: "the registry".into(), address, source };
    let bind = move || {
        let listener = StdListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    let listener = netns::inside(stage.namespace("registry"), bind).await?.map_err(failed)?;
    let listener = TcpListener::from_std(listener).map_err(failed)?;
    let registry = Registry::start(listener, RegistryConfig { layout, bytes_per_second: None });
    let registry = registry.map_err(failed)?;
    let counters = registry.counters().clone();
    stage.keep(registry);
    Ok(counters)
}

/// Fails early, and in clear words, where an address is taken. Whoever takes it in between is in the log.
async fn expect_free(stage: &Stage, host: &str, address: std::net::SocketAddr) -> Result<(), LabError> {
    let bound = netns::inside(stage.namespace(host), move || StdListener::bind(address)).await?;
    let failed = |source| LabError::Listen { what: host.to_owned(), address, source };
    bound.map(drop).map_err(failed)
}

async fn start_tracker(config: &LabConfig, stage: &mut Stage, plan: &Plan) -> Result<(), LabError> {
    expect_free(stage, "tracker", plan.tracker).await?;
    let listen = plan.tracker.to_string();
    stage.start("tracker", &config.program, &["--log", &config.log, "tracker", "--listen", &listen])
}

async fn start_node(
    config: &LabConfig,
    stage: &mut Stage,
    plan: &Plan,
    node: &NodePlan,
) -> Result<NodeClient, LabError> {
    expect_free(stage, &node.name, node.mirror).await?;
    expect_free(stage, &node.name, node.peer).await?;
    let socket = stage.socket(&node.name);
    let text = node_config(plan, node, stage.work(), &socket)?;
    let path = stage.work().join(format!("{}.toml", node.name));
    std::fs::write(&path, text).map_err(file(&path))?;
    let shown = path.to_string_lossy();
    stage.start(&node.name, &config.program, &["--log", &config.log, "node", "--config", &shown])?;
    client(&socket)
}

fn client(socket: &Path) -> Result<NodeClient, LabError> {
    NodeClient::new(&api::Endpoint::Unix(socket.to_owned()), None)
        .map_err(|error| LabError::Client(error.to_string()))
}

/// A node's configuration file.
fn node_config(plan: &Plan, node: &NodePlan, work: &Path, socket: &Path) -> Result<String, LabError> {
    let mut config = node::Config {
        trackers: vec![plan.announce()],
        data: work.join(&node.name),
        name: node.name.clone(),
        ..node::Config::default()
    };
    config.peer.listen = node.peer;
    config.mirror.listen = vec![node.mirror];
    config.api.socket = socket.to_owned();
    config.origin.upstreams = vec![origin::Upstream {
        registry: REGISTRY_NAME.to_owned(),
        endpoint: Some(format!("http://{}", plan.registry)),
        ..origin::Upstream::default()
    }];
    toml::to_string(&config).map_err(|error| LabError::Client(format!("a configuration: {error}")))
}

/// Waits until every node says that it is healthy, for which tracker and directory must answer.
async fn await_ready(stage: &mut Stage, plan: &Plan, clients: &[NodeClient]) -> Result<(), LabError> {
    let until = Instant::now() + READY;
    for (node, client) in plan.nodes.iter().zip(clients) {
        loop {
            let reason = match client.health().await {
                Ok(health) if health.healthy => break,
                Ok(health) => health.problems.join("; "),
                Err(error) => error.to_string(),
            };
            stage.check()?;
            if Instant::now() > until {
                let (name, log) = (node.name.clone(), stage.tail(&node.name));
                return Err(LabError::NotReady { name, after: READY, reason, log });
            }
            sleep(ASK).await;
        }
    }
    stage.check()
}

/// Has nodes limit themselves, where they have no links that would.
async fn limit(plan: &Plan, clients: &[NodeClient], rate: Rate) -> Result<(), LabError> {
    let most = Some(rate.bits() / 8);
    for (node, client) in plan.nodes.iter().zip(clients) {
        let limited = client.limit(None, &Limits { down: most, up: most }).await;
        let failed =
            |error: CallError| LabError::Limit { name: node.name.clone(), reason: error.to_string() };
        limited.map_err(failed)?;
    }
    Ok(())
}

async fn pull_all(
    config: &LabConfig,
    nodes: &[(&NodePlan, &NodeClient)],
    tell: &(dyn Fn(Event<'_>) + Sync),
) -> Vec<Result<Duration, String>> {
    let pulls =
        nodes.iter().map(|(node, client)| pull::pull(client, &node.name, IMAGE, config.deadline, tell));
    join_all(pulls).await
}

fn with_counts(mut blobs: Vec<BlobReport>, counters: &Counters) -> Vec<BlobReport> {
    for blob in &mut blobs {
        let count = counters.of(&blob.digest);
        blob.left_origin(count.gets, count.bytes);
    }
    blobs
}

/// What a node says of its pull.
async fn ask(
    stage: &Stage,
    plan: &Plan,
    node: &NodePlan,
    client: &NodeClient,
    outcome: &Result<Duration, String>,
    blobs: &[BlobReport],
) -> NodeReport {
    let mut report = NodeReport::new(&node.name, node.role, node.peer.ip().to_string());
    let heard = async {
        for blob in blobs {
            let status = client.blob(&blob.digest).await?;
            let Some(status) = status.filter(|status| status.state == BlobState::Complete) else { continue };
            for came in status.sources {
                match (came.source.kind, came.source.peer) {
                    (SourceKind::Peer, Some(address)) => {
                        let from = plan.node_at(&address).map_or(address.clone(), |from| from.name.clone());
                        report.took(&from, came.bytes);
                    }
                    (SourceKind::Origin, _) => report.from_origin += came.bytes,
                    (SourceKind::Directory, _) => report.from_directory += came.bytes,
                    _ => {}
                }
            }
        }
        let totals = client.status().await?.totals;
        (report.to_peers, report.wasted) = (totals.to_peers, totals.wasted);
        Ok::<_, api::CallError>(())
    };
    let heard = heard.await.map_err(|error| error.to_string());
    match outcome {
        Ok(time) => report.seconds = Some(time.as_secs_f64()),
        Err(reason) => {
            report.error = Some(format!("{reason}; the end of its log:\n{}", stage.tail(&node.name)));
        }
    }
    if let (Err(reason), None) = (heard, &report.error) {
        report.error = Some(format!("it does not tell where its bytes came from: {reason}"));
    }
    report
}

/// Hashes what every node serves.
async fn prove(stage: &Stage, plan: &Plan, report: &mut Report) -> Result<(), LabError> {
    let blobs = &report.blobs;
    let proofs = stream::iter(plan.nodes.iter().zip(&report.nodes))
        .map(async |(node, report)| match report.error {
            None => verify::verify(stage.namespace(&node.name), node.mirror, blobs.clone()).await,
            // It has failed, and may not even answer.
            Some(_) => Ok(verify::Found::default()),
        })
        .buffered(VERIFY_AT_ONCE)
        .collect::<Vec<_>>()
        .await;
    for (node, found) in report.nodes.iter_mut().zip(proofs) {
        let found = found?;
        (node.digests_right, node.digests_wrong) = (found.right, found.wrong);
    }
    Ok(())
}

fn kept(config: &LabConfig, stage: &Stage) -> Kept {
    let plan = Plan::new(config.seeders, config.leechers, stage.network());
    let last = plan.nodes.last();
    let (name, mirror) =
        last.map_or((String::new(), String::new()), |n| (n.name.clone(), n.mirror.to_string()));
    let inside = stage.namespace(&name).map(|namespace| format!("ip netns exec {namespace} "));
    Kept {
        directory: stage.work().to_owned(),
        pull: format!(
            "{}skopeo copy --src-tls-verify=false docker://{mirror}/{IMAGE} dir:/tmp/demo",
            inside.unwrap_or_default()
        ),
        status: format!("{} status --socket {}", config.program.display(), stage.socket(&name).display()),
    }
}

fn pulls(number: usize, noun: &str) -> String {
    if number == 1 { format!("one {noun} pulls") } else { format!("{number} {noun}s pull") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Network;

    #[test]
    fn a_node_is_configured_for_the_labs_addresses_and_nothing_else() {
        let plan = Plan::new(1, 1, Network::Loopback(0));
        let text =
            node_config(&plan, &plan.nodes[1], Path::new("/w"), Path::new("/w/n1.sock")).expect("writes");
        let config: node::Config = toml::from_str(&text).expect("reads");
        assert_eq!(config.trackers, ["http://127.0.3.1:6969/announce"]);
        assert_eq!(config.peer.listen.to_string(), "127.0.1.2:6881");
        assert_eq!(config.mirror.listen, ["127.0.1.2:5555".parse().expect("an address")]);
        assert_eq!((config.data, config.api.socket), ("/w/n1".into(), "/w/n1.sock".into()));
        let upstream = &config.origin.upstreams[0];
        assert_eq!(
            (upstream.registry.as_str(), upstream.endpoint.as_deref()),
            ("lab.test", Some("http://127.0.2.1:5000"))
        );
    }

    #[test]
    fn the_parts_of_an_image_are_those_of_its_manifest() {
        let folder = tempfile::tempdir().expect("a folder");
        let (sources, layout) = (folder.path().join("s"), folder.path().join("l"));
        std::fs::create_dir(&sources).expect("made");
        for n in 0..3 {
            std::fs::write(sources.join(format!("{n}")), vec![n; 1000]).expect("written");
        }
        let summary = image::build(&sources, &[], &layout, "demo:latest").expect("builds");
        let parts = parts(&summary, &layout).expect("reads");
        assert_eq!(parts.iter().map(|part| part.size).sum::<u64>(), summary.total);
        for part in &parts {
            let path = layout.join("blobs/sha256").join(part.digest.hex());
            assert_eq!(Digest::of(&std::fs::read(path).expect("there")), part.digest);
        }
    }

    #[tokio::test]
    async fn a_program_that_is_no_longshore_is_said_to_have_ended() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("f"), "x").expect("written");
        let mut config = crate::config::tests::config(0, 1);
        config.program = "/bin/false".into();
        let mut stage = Stage::set(&config).await.expect("set");
        stage.start("n1", &config.program, &[]).expect("starts");
        let plan = Plan::new(0, 1, Network::Loopback(0));
        let clients = [client(&stage.socket("n1")).expect("a client")];
        let outcome = await_ready(&mut stage, &plan, &clients).await;
        assert!(matches!(outcome, Err(LabError::Ended { .. })), "{outcome:?}");
        let work = stage.work().to_owned();
        stage.strike().await;
        assert!(!work.exists());
    }
}
