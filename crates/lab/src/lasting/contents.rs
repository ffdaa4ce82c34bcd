//! What a lab is about: torrents and images, made of its sources, held by its seeders, and got by the others.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use api::{
    lab::{HostKind, LabContent},
    node::{PullEvent, PullRequest},
};
use hash::Digest;
use metainfo::create::{self, Options, Symlinks};
use reqwest::Method;
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep},
};

use crate::{
    IMAGE, LabError, REGISTRY_NAME,
    claim::file,
    image,
    lasting::{
        foreign,
        host::{Program, Ready, Work},
        source::{self, Found, Kind},
        state::{Entry, Lab},
        topology::{Seat, Seed},
    },
    plan,
};

/// How often the sources are looked at, and how long they must have been at rest.
const LOOK: Duration = Duration::from_secs(2);
/// How long a pull may take.
const PATIENCE: Duration = Duration::from_secs(1800);
/// How long a node may take to say something of a pull.
const AGAIN: Duration = Duration::from_secs(1);
/// How long a node may take to say how far its torrents are, and how often it is asked.
const ANSWER: Duration = Duration::from_secs(10);
const SOON: Duration = Duration::from_millis(100);
/// How long those who are to hold the contents may take, with what their bytes take besides, so many a second.
const SETTLE: Duration = Duration::from_secs(60);
const SLOW: u64 = 10 << 20;
/// How often it is said how far they are.
const SAY: Duration = Duration::from_secs(3);
/// How often a seeder tries to get what it is to hold.
const TRIES: u32 = 5;
/// Manifests of an image in one another.
const DEPTH: usize = 3;

/// A torrent or an image of the lab.
#[derive(Debug, Clone)]
pub(crate) struct Thing {
    /// Its seeders are those that hold all of it by now.
    pub(crate) content: LabContent,
    pub(crate) what: What,
    /// The nodes that are to hold it from the start.
    pub(crate) chosen: Vec<String>,
}

impl Thing {
    fn new(content: LabContent, what: What) -> Self {
        Self { content, what, chosen: Vec::new() }
    }

    /// Whether it is that content, and not what came in its place.
    pub(crate) fn is(&self, content: &LabContent) -> bool {
        let own = &self.content;
        let same = content.id.is_empty() || own.id == content.id;
        own.kind == content.kind && own.name == content.name && same
    }

    /// How many of those who are to hold it do.
    fn held(&self) -> usize {
        self.chosen.iter().filter(|name| self.content.seeders.contains(name)).count()
    }

    /// Whether a node would take it from the lab by forgetting it: torrents come from nowhere else.
    pub(crate) fn has_only(&self, node: &str) -> bool {
        self.content.kind == "torrent" && matches!(self.chosen.as_slice(), [only] if only == node)
    }
}

#[derive(Debug, Clone)]
pub(crate) enum What {
    /// A torrent: its file, and what it is made of.
    Torrent { file: PathBuf, data: PathBuf },
    /// An image: its blobs, manifests among them, as far as known.
    Image { blobs: Vec<Digest> },
}

/// Where the images lie that the lab's registry serves.
pub(crate) fn layout(lab: &Lab) -> PathBuf {
    lab.work.join("image")
}

/// What the web server serves.
pub(crate) fn web_root(lab: &Lab) -> PathBuf {
    let sources = lab.topology().sources.clone().or_else(|| lab.config.own.directory.clone());
    sources.unwrap_or_else(|| shelf(lab))
}

/// Where what is shared lies as it was when it was shared.
fn shelf(lab: &Lab) -> PathBuf {
    lab.work.join("contents")
}

/// Where a node has the files of its torrents.
fn files(lab: &Lab, node: &str) -> PathBuf {
    lab.work.join("files").join(node)
}

/// Where a node finds torrents that people put there.
fn watched(lab: &Lab, node: &str) -> PathBuf {
    lab.work.join("watch").join(node)
}

/// A node, with its configuration file.
pub(crate) fn node(lab: &Lab, seat: &Seat) -> Result<Work, LabError> {
    let name = &seat.name;
    let config = node_config(lab, seat);
    let text = toml::to_string(&config)
        .map_err(|error| LabError::Client(format!("the configuration of {name}: {error}")))?;
    let path = lab.work.join(format!("{name}.toml"));
    fs::write(&path, text).map_err(file(&path))?;
    let watched = watched(lab, name);
    for folder in [files(lab, name), watched.join("load"), watched.join("start")] {
        fs::create_dir_all(&folder).map_err(file(&folder))?;
    }
    let words = ["--log", &lab.config.log, "node", "--config", &path.to_string_lossy()].map(str::to_owned);
    Ok(Work::Program(Program {
        program: lab.config.program.clone(),
        arguments: words.to_vec(),
        environment: Vec::new(),
        ready: Ready::Node(lab.client(name)?),
    }))
}

fn node_config(lab: &Lab, seat: &Seat) -> node::Config {
    let name = &seat.name;
    let mut config = node::Config {
        trackers: vec![lab.announce()],
        data: lab.work.join(name),
        name: name.clone(),
        ..node::Config::default()
    };
    config.peer.listen = lab.at(seat, plan::PEER_PORT);
    config.mirror.listen = vec![lab.at(seat, plan::MIRROR_PORT)];
    config.api.socket = lab.socket(name);
    config.origin.upstreams = vec![origin::Upstream {
        registry: REGISTRY_NAME.to_owned(),
        endpoint: Some(format!("http://{}", lab.registry())),
        ..origin::Upstream::default()
    }];
    if let Some(url) = &lab.topology().registry {
        let endpoint = if lab.has_namespaces() { format!("http://{}", lab.relay()) } else { url.clone() };
        for image in &lab.topology().images {
            if let Ok(reference) = image.parse::<origin::Reference>() {
                config.set_upstream(reference.repository.registry(), &endpoint);
            }
        }
    }
    config.torrents.folder = files(lab, name);
    config.torrents.watch = vec![watched(lab, name)];
    // Files of the lab's web server may come by the mirror as a proxy, and are shared.
    let web = lab.web();
    let hosts = [web.to_string(), format!("web.lab:{}", web.port())];
    config.proxy.enabled = true;
    config.proxy.rules = hosts
        .iter()
        .map(|host| {
            let host = host.trim_end_matches(":80");
            node::RuleConfig { url: format!("http://{host}/**"), digest_header: None, stale: true }
        })
        .collect();
    config.proxy.private_hosts = hosts.to_vec();
    config
}

/// Makes the contents, and makes them anew when their sources change, until the lab ends.
pub(crate) fn begin(lab: &Arc<Lab>) {
    let working = lab.clone();
    lab.tasks.spawn(lab.stop.clone().run_until_cancelled_owned(async move {
        let lab = working;
        let topology = lab.topology();
        for reference in &topology.images {
            publish(&lab, outside(reference));
        }
        match &topology.sources {
            Some(folder) => watch(&lab, folder).await,
            None if topology.images.is_empty() => own(&lab).await,
            None => {}
        }
        lab.made.cancel();
    }));
}

/// An image of a registry outside, of which nothing is known yet.
fn outside(reference: &str) -> Thing {
    let content = LabContent {
        kind: "image".into(),
        name: reference.to_owned(),
        id: String::new(),
        size: 0,
        torrents: Vec::new(),
        seeders: Vec::new(),
    };
    Thing::new(content, What::Image { blobs: Vec::new() })
}

/// What a lab is about that is told nothing: an image, and a torrent.
async fn own(lab: &Arc<Lab>) {
    let sources = lab.config.own.clone();
    let shared = sources.directory.clone().or_else(|| sources.extra.first().cloned());
    let name = shared.as_ref().and_then(|path| path.file_name()).and_then(|name| name.to_str());
    if let Some((path, name)) = shared.as_ref().zip(name) {
        let (name, path) = (name.to_owned(), path.clone());
        let found = spawn_blocking(move || source::look(name, path)).await;
        if let Ok(Ok(Some(found))) = found {
            share(lab, &found, 0).await;
        }
    }
    let (layout, empty) = (layout(lab), lab.work.join("empty"));
    let made = spawn_blocking(move || {
        fs::create_dir_all(&empty).map_err(file(&empty))?;
        let (_, tag) = IMAGE.split_once('/').unwrap_or_default();
        let summary =
            image::build(sources.directory.as_ref().unwrap_or(&empty), &sources.extra, &layout, tag)?;
        image_of(&layout, IMAGE, summary.manifest_digest)
    });
    match made.await {
        Ok(Ok(thing)) => publish(lab, thing),
        Ok(Err(error)) => lab.problem(format!("the lab's image could not be made: {error}")),
        Err(_) => {}
    }
}

/// Shares what is in a folder, and again what has changed.
async fn watch(lab: &Arc<Lab>, folder: &Path) {
    let mut shared: BTreeMap<(String, Kind), u64> = BTreeMap::new();
    let mut seen: HashMap<String, u64> = HashMap::new();
    let mut made = 0;
    loop {
        let scanned = {
            let folder = folder.to_owned();
            spawn_blocking(move || source::scan(&folder)).await
        };
        match scanned {
            Err(_) => return,
            Ok(Err(error)) => lab.problem(format!("{} cannot be read: {error}", folder.display())),
            Ok(Ok(found)) => {
                let gone = |key: &(String, Kind)| !found.iter().any(|f| f.name == key.0 && f.kind == key.1);
                for key in shared.keys().filter(|key| gone(key)).cloned().collect::<Vec<_>>() {
                    shared.remove(&key);
                    withdraw(lab, &key.0, key.1).await;
                }
                let mut whole = true;
                for entry in &found {
                    let key = (entry.name.clone(), entry.kind);
                    let rests = seen.insert(entry.name.clone(), entry.mark) == Some(entry.mark)
                        || age(entry.newest) > LOOK;
                    if shared.get(&key) == Some(&entry.mark) {
                        continue;
                    }
                    if !rests {
                        whole = false;
                        continue;
                    }
                    if shared.insert(key, entry.mark).is_some() {
                        withdraw(lab, &entry.name, entry.kind).await;
                    }
                    made += 1;
                    share(lab, entry, made).await;
                }
                seen.retain(|name, _| found.iter().any(|entry| entry.name == *name));
                if whole {
                    lab.made.cancel();
                }
            }
        }
        sleep(LOOK).await;
    }
}

#[allow(clippy::disallowed_methods, reason = "files say by the clock when they were written")]
fn age(of: SystemTime) -> Duration {
    SystemTime::now().duration_since(of).unwrap_or_default()
}

/// Makes a torrent, or images, of an entry as it is now.
async fn share(lab: &Arc<Lab>, found: &Found, number: u64) {
    let name = found.name.clone();
    let made = {
        let (found, lab) = (found.clone(), lab.clone());
        spawn_blocking(move || match found.kind {
            Kind::Torrent => torrent_of(&lab, &found, number).map(|thing| vec![thing]),
            Kind::Layout => images_of(&lab, &found),
        })
    };
    match made.await {
        Ok(Ok(things)) => things.into_iter().for_each(|thing| publish(lab, thing)),
        Ok(Err(error)) => lab.problem(format!("{name} could not be shared: {error}")),
        Err(_) => {}
    }
}

fn torrent_of(lab: &Lab, found: &Found, number: u64) -> Result<Thing, LabError> {
    let place = shelf(lab).join(number.to_string());
    let data = place.join(&found.name);
    source::copy(&found.path, &data).map_err(file(&found.path))?;
    let options = Options {
        trackers: vec![vec![lab.announce()]],
        created_by: Some(concat!("Longshore ", env!("CARGO_PKG_VERSION")).to_owned()),
        symlinks: Symlinks::Skip,
        ..Options::default()
    };
    let torrent =
        create::create(&data, &options, &|_, _| ()).map_err(|e| LabError::Content(e.to_string()))?;
    let path = place.join(format!("{}.torrent", torrent.info_hash));
    fs::write(&path, torrent.encode()).map_err(file(&path))?;
    let hash = torrent.info_hash.to_string();
    let content = LabContent {
        kind: "torrent".into(),
        name: found.name.clone(),
        id: hash.clone(),
        size: torrent.info.geometry.total(),
        torrents: vec![hash],
        seeders: Vec::new(),
    };
    Ok(Thing::new(content, What::Torrent { file: path, data }))
}

/// Puts the images of a layout into the lab's own.
fn images_of(lab: &Lab, found: &Found) -> Result<Vec<Thing>, LabError> {
    let layout = layout(lab);
    let name = repository(&found.name);
    let tags = image::adopt(&found.path, &layout, &name)?;
    let image =
        |(tag, digest): (String, Digest)| image_of(&layout, &format!("{REGISTRY_NAME}/{name}:{tag}"), digest);
    tags.into_iter().map(image).collect()
}

/// A folder's name as a repository can be called.
fn repository(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let name: String = name.chars().map(plain).collect();
    let parts: Vec<&str> = name.split('-').filter(|part| !part.is_empty()).collect();
    if parts.is_empty() { "image".to_owned() } else { parts.join("-") }
}

/// An image of the lab's own layout. Of each of its blobs it is known which torrent carries it: that follows from it.
fn image_of(layout: &Path, reference: &str, digest: Digest) -> Result<Thing, LabError> {
    let mut blobs = Vec::new();
    image::blobs(layout, digest, DEPTH, &mut blobs)?;
    let mut torrents = Vec::new();
    for (digest, _) in &blobs {
        let options = Options { blob: true, ..Options::default() };
        let path = layout.join("blobs/sha256").join(digest.hex());
        // A blob without bytes has none.
        if let Ok(torrent) = create::create(&path, &options, &|_, _| ()) {
            torrents.push(torrent.info_hash.to_string());
        }
    }
    let content = LabContent {
        kind: "image".into(),
        name: reference.to_owned(),
        id: digest.to_string(),
        size: blobs.iter().map(|(_, size)| size).sum(),
        torrents,
        seeders: Vec::new(),
    };
    let blobs = blobs.into_iter().map(|(digest, _)| digest).collect();
    Ok(Thing::new(content, What::Image { blobs }))
}

/// Shows a thing, and has its seeders hold it.
fn publish(lab: &Arc<Lab>, mut thing: Thing) {
    let nodes = || lab.hosts().into_iter().filter(Entry::is_node);
    let seeders: Vec<Entry> = nodes().filter(|entry| entry.seat.kind == HostKind::Seeder).collect();
    let place = lab.things(None).map_or(0, |things| things.len());
    let by_turns = |from: &[Entry]| from.get(place % from.len().max(1)).cloned().into_iter().collect();
    let chosen: Vec<Entry> = match (lab.topology().seed, &thing.what) {
        // It has no origin: where no seeder is to hold it, one node does.
        (Seed::All | Seed::Each, What::Torrent { .. }) if seeders.is_empty() => {
            by_turns(&nodes().collect::<Vec<_>>())
        }
        (Seed::Origin, What::Torrent { .. }) => by_turns(&nodes().collect::<Vec<_>>()),
        (Seed::All, _) => seeders,
        (Seed::Each, _) => by_turns(&seeders),
        (Seed::Origin, What::Image { .. }) => Vec::new(),
    };
    thing.chosen = chosen.iter().map(|entry| entry.info.name.clone()).collect();
    lab.publish(thing.clone());
    for entry in chosen {
        hold(lab, entry, thing.clone());
    }
}

/// Has a seeder that came later hold what all hold.
pub(crate) fn seed_late(lab: &Arc<Lab>, name: &str) {
    let Ok(entry) = lab.host(name) else { return };
    if lab.topology().seed != Seed::All {
        return;
    }
    for mut thing in lab.things(None).unwrap_or_default() {
        thing.chosen.push(name.to_owned());
        lab.publish(thing.clone());
        hold(lab, entry.clone(), thing);
    }
}

/// Has a seeder get a thing, once it runs.
fn hold(lab: &Arc<Lab>, entry: Entry, thing: Thing) {
    let holding = lab.clone();
    lab.tasks.spawn(lab.stop.clone().run_until_cancelled_owned(async move {
        let (lab, name) = (holding, entry.info.name.clone());
        let mut last = String::new();
        for _ in 0..TRIES {
            let mut status = lab.status();
            let runs = status.wait_for(|status| {
                status.hosts.iter().any(|h| h.name == name && h.state == api::lab::HostState::Running)
            });
            if runs.await.is_err() {
                return;
            }
            let got = match &thing.what {
                What::Torrent { file, data } => match give(&lab, &entry, file, Some(data)).await {
                    Ok(()) => whole(&lab, &entry, &thing).await,
                    refused => refused,
                },
                What::Image { .. } => pull(&lab, &entry, &thing).await,
            };
            match got {
                Ok(()) => return lab.set_held(&thing.content, &name, true),
                // Something else has come in its place.
                Err(_) if !is_current(&lab, &thing) => return,
                Err(words) => last = words,
            }
            sleep(AGAIN).await;
        }
        lab.problem(format!("{name} does not hold {}: {last}", thing.content.name));
        lab.give_up(&thing.content, &name);
    }));
}

fn is_current(lab: &Lab, thing: &Thing) -> bool {
    lab.things(None).is_ok_and(|things| things.iter().any(|known| known.is(&thing.content)))
}

/// Waits until a node has all of a torrent, as long as it answers.
async fn whole(lab: &Lab, entry: &Entry, thing: &Thing) -> Result<(), String> {
    let client = lab.client(&entry.info.name).map_err(|error| error.to_string())?.with_deadline(ANSWER);
    let waited = tokio::time::timeout(PATIENCE, async {
        loop {
            let torrents = client.torrents().await.map_err(|error| error.to_string())?;
            let own = torrents.iter().find(|torrent| torrent.info_hash.to_string() == thing.content.id);
            let own = own.ok_or_else(|| "it has forgotten it".to_owned())?;
            if own.bytes_done >= thing.content.size {
                return Ok(());
            }
            sleep(SOON).await;
        }
    });
    waited.await.map_err(|_| format!("it is not done after {PATIENCE:?}"))?
}

/// Waits until all that was there at the start is held by those who are to hold it, and says now and then how far
/// they are. What is late is among the lab's problems then, and goes on.
pub(crate) async fn settle(lab: &Lab, tell: impl Fn(&str)) {
    let mut until = Instant::now() + SETTLE;
    let mut said = Instant::now();
    loop {
        let things = lab.things(None).unwrap_or_default();
        let sum = |of: fn(&Thing) -> usize| things.iter().map(of).sum::<usize>();
        let (all, held) = (sum(|thing| thing.chosen.len()), sum(Thing::held));
        let made = lab.made.is_cancelled();
        if made && held >= all {
            return;
        }
        let bytes: u64 = things
            .iter()
            .map(|thing| thing.content.size.saturating_mul(thing.chosen.len() as u64))
            .fold(0, u64::saturating_add);
        until = until.max(lab.began + SETTLE + Duration::from_secs(bytes / SLOW));
        let words = match made {
            false => "making the contents".to_owned(),
            true => format!("the first copies of the contents: {held} of {all} are there"),
        };
        if Instant::now() > until {
            let late = things.iter().filter(|thing| thing.held() < thing.chosen.len());
            let names: Vec<&str> = late.map(|thing| thing.content.name.as_str()).collect();
            let names = if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) };
            return lab.problem(format!("the lab stands before its contents do: {words}{names}"));
        }
        if said.elapsed() > SAY {
            said = Instant::now();
            tell(&words);
        }
        sleep(SOON).await;
    }
}

/// Has a host forget things and get them anew.
pub(crate) fn get_anew(lab: &Arc<Lab>, entry: &Entry, things: Vec<Thing>) {
    for thing in things.into_iter().filter(|thing| !thing.has_only(&entry.info.name)) {
        let (getting, entry) = (lab.clone(), entry.clone());
        lab.tasks.spawn(lab.stop.clone().run_until_cancelled_owned(async move {
            let (lab, name) = (getting, &entry.info.name);
            let outcome = async {
                match &thing.what {
                    What::Torrent { file, .. } if entry.seat.kind == HostKind::Foreign => {
                        foreign::give(&lab, &entry, file).await
                    }
                    // Other clients get torrents alone.
                    What::Image { .. } if entry.seat.kind == HostKind::Foreign => Ok(()),
                    What::Torrent { file, .. } => {
                        lab.set_held(&thing.content, name, false);
                        forget(&lab, &entry, &thing).await?;
                        give(&lab, &entry, file, None).await?;
                        if thing.chosen.contains(name) { whole(&lab, &entry, &thing).await } else { Ok(()) }
                    }
                    What::Image { .. } => {
                        lab.set_held(&thing.content, name, false);
                        forget(&lab, &entry, &thing).await?;
                        pull(&lab, &entry, &thing).await
                    }
                }
            };
            let outcome = outcome.await;
            if outcome.is_ok() && thing.chosen.contains(name) {
                lab.set_held(&thing.content, name, true);
            }
            if let Err(words) = outcome {
                // Whoever was ended in the middle has not failed.
                if lab.host(name).is_ok_and(|entry| entry.runs()) {
                    lab.problem(format!("{name} does not get {}: {words}", thing.content.name));
                }
            }
        }));
    }
}

/// Gives a node a torrent, and with it what it is made of where it is to seed.
async fn give(lab: &Lab, entry: &Entry, torrent: &Path, data: Option<&PathBuf>) -> Result<(), String> {
    let folder = files(lab, &entry.info.name);
    if let Some(data) = data.cloned() {
        let place = folder.join(data.file_name().unwrap_or_default());
        let placed =
            spawn_blocking(move || if place.exists() { Ok(()) } else { source::link(&data, &place) });
        placed.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    }
    let bytes = tokio::fs::read(torrent).await.map_err(|error| error.to_string())?;
    let request = entry
        .http
        .post("http://localhost/v1/torrents?start=true")
        .header("content-type", "application/x-bittorrent")
        .body(bytes);
    let answer = request.timeout(Duration::from_secs(10)).send().await;
    match answer.map_err(|_| "it does not answer".to_owned())?.status().as_u16() {
        // It has it already.
        200..=299 | 409 => Ok(()),
        404 | 405 => Err("its build takes no torrents".to_owned()),
        status => Err(format!("it refuses the torrent ({status})")),
    }
}

/// Has a node forget a thing, and all that it has of it.
async fn forget(lab: &Lab, entry: &Entry, thing: &Thing) -> Result<(), String> {
    match &thing.what {
        What::Torrent { .. } => {
            let path = format!("/v1/torrents/{}?data=true", thing.content.id);
            lab.call(entry, Method::DELETE, &path, None).await?;
        }
        What::Image { blobs } => {
            for digest in blobs {
                lab.call(entry, Method::DELETE, &format!("/v1/blobs/{digest}"), None).await?;
            }
        }
    }
    Ok(())
}

/// Has a node pull an image, and waits until it has it.
async fn pull(lab: &Lab, entry: &Entry, thing: &Thing) -> Result<(), String> {
    let client = lab.client(&entry.info.name).map_err(|error| error.to_string())?;
    let request = PullRequest { reference: thing.content.name.clone(), platform: None };
    let pulled = tokio::time::timeout(PATIENCE, async {
        let mut events = client.pull(&request).await.map_err(|error| error.to_string())?;
        let mut blobs = Vec::new();
        while let Some(event) = events.next().await.map_err(|error| error.to_string())? {
            match event {
                PullEvent::Resolved { digest, .. } | PullEvent::Blob { digest, .. } => blobs.push(digest),
                PullEvent::Done { digest, bytes, .. } => return Ok((digest, bytes, blobs)),
                PullEvent::Failed { error } => return Err(error),
                _ => {}
            }
        }
        Err("the node ended the pull without saying how it went".to_owned())
    });
    let (digest, size, mut blobs) =
        pulled.await.map_err(|_| format!("it is not done after {PATIENCE:?}"))??;
    let named = &thing.content;
    if named.id.is_empty()
        && lab.things(Some(&named.name)).is_ok_and(|t| t.iter().all(|t| t.content.id.is_empty()))
    {
        blobs.sort_unstable();
        blobs.dedup();
        let mut torrents = Vec::new();
        for digest in &blobs {
            let status = client.blob(digest).await.ok().flatten();
            torrents.extend(status.and_then(|status| status.info_hash).map(|hash| hash.to_string()));
        }
        let content = LabContent { id: digest.to_string(), size, torrents, ..named.clone() };
        lab.publish(Thing { content, what: What::Image { blobs }, chosen: thing.chosen.clone() });
    }
    Ok(())
}

/// Takes a thing away, from all who have it.
async fn withdraw(lab: &Arc<Lab>, name: &str, kind: Kind) {
    let is_it = |thing: &Thing| match kind {
        Kind::Torrent => thing.content.kind == "torrent" && thing.content.name == name,
        Kind::Layout => {
            let begin = format!("{REGISTRY_NAME}/{}:", repository(name));
            thing.content.kind == "image" && thing.content.name.starts_with(&begin)
        }
    };
    for thing in lab.things(None).unwrap_or_default().iter().filter(|thing| is_it(thing)) {
        lab.withdraw(&thing.content.kind, &thing.content.name);
        if let What::Torrent { data, .. } = &thing.what {
            for entry in lab.nodes(None) {
                // What does not run cannot forget; it finds no peer for it either.
                let _ = forget(lab, &entry, thing).await;
                let place = files(lab, &entry.info.name).join(data.file_name().unwrap_or_default());
                let _ = if place.is_dir() { fs::remove_dir_all(&place) } else { fs::remove_file(&place) };
            }
            if let Some(place) = data.parent() {
                let _ = fs::remove_dir_all(place);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_folder_has_a_name_that_a_repository_can_have() {
        for (name, want) in [("Alpine 3.20", "alpine-3-20"), ("a__b", "a-b"), ("…", "image"), ("-x-", "x")]
        {
            assert_eq!(repository(name), want);
            assert!(format!("lab.test/{want}:latest").parse::<origin::Reference>().is_ok());
        }
    }
}
