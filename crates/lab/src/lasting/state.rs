//! What a lasting lab is at the moment, for all who work in it.

use std::{
    collections::{BTreeSet, VecDeque},
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use api::{
    NodeClient,
    lab::{HostKind, HostState, LabContent, LabHost, LabStatus, Traffic},
};
use reqwest::Method;
use tokio::{
    sync::{Semaphore, mpsc, oneshot, watch},
    time::{Instant, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    LabError, Rate,
    claim::Claim,
    config::Delay,
    lasting::{
        contents::Thing,
        host::{Order, What},
        options::UpConfig,
        remains,
        topology::{Seat, Topology},
    },
    links::{self, Host},
    lock::Lock,
    plan::{self, Network},
    registry::Counters,
};

/// How many problems are remembered.
const PROBLEMS: usize = 16;
/// How often the counters of the servers are looked at.
const COUNT: Duration = Duration::from_secs(1);
/// How long a call to a node may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The usual ports of what only lasting labs have.
const WEB_PORT: u16 = 80;
const WEB_PORT_OF_LOOPBACK: u16 = 8080;
const DNS_PORT: u16 = 53;
const DNS_PORT_OF_LOOPBACK: u16 = 5300;

/// A lab that stands, or is being raised.
pub(crate) struct Lab {
    pub(crate) id: String,
    /// Its directory: record and sockets.
    pub(crate) own: PathBuf,
    /// Contents, configurations, logs, data.
    pub(crate) work: PathBuf,
    pub(crate) network: Network,
    pub(crate) config: UpConfig,
    pub(crate) page: SocketAddr,
    /// What left the registry.
    pub(crate) counters: Counters,
    /// What left the web server.
    pub(crate) web_counters: Arc<crate::lasting::web::Count>,
    /// Told when it is to end.
    pub(crate) stop: CancellationToken,
    /// Told when all contents have been made that there were at the start.
    pub(crate) made: CancellationToken,
    /// Whose turn it is to add nodes.
    pub(crate) adding: Semaphore,
    /// All that works in it.
    pub(crate) tasks: TaskTracker,
    /// Told when links have their speed: seeders get what they are to hold before.
    pub(crate) shaped: CancellationToken,
    /// When it began.
    pub(crate) began: Instant,
    began_ms: u64,
    claim: Mutex<Claim>,
    state: Mutex<State>,
    status: watch::Sender<Arc<LabStatus>>,
    traffic: watch::Sender<Option<Traffic>>,
    /// Its addresses of loopback, until it ends.
    pub(crate) network_lock: Mutex<Option<Lock>>,
}

#[derive(Default)]
struct State {
    /// What it does without.
    notes: Vec<String>,
    hosts: Vec<Entry>,
    things: Vec<Thing>,
    /// Zones whose link is cut.
    cuts: BTreeSet<(usize, usize)>,
    problems: VecDeque<String>,
    seeders: usize,
    leechers: usize,
}

/// A host.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) seat: Seat,
    pub(crate) info: LabHost,
    pub(crate) orders: mpsc::Sender<Order>,
    pub(crate) http: reqwest::Client,
    /// Its program is being ended because somebody said so.
    pub(crate) ending: bool,
}

impl Entry {
    pub(crate) fn is_node(&self) -> bool {
        matches!(self.seat.kind, HostKind::Seeder | HostKind::Leecher)
    }

    pub(crate) fn runs(&self) -> bool {
        self.info.state == HostState::Running && !self.ending
    }
}

impl Lab {
    pub(crate) fn new(
        config: UpConfig,
        claim: Claim,
        network: Network,
        network_lock: Option<Lock>,
        page: SocketAddr,
    ) -> Self {
        // reqwest takes the process's TLS provider; whoever installed one first wins, and any does.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (id, own) = (claim.id.clone(), claim.own.clone());
        let traffic = config.topology.traffic;
        let lab = Self {
            work: own.join("work"),
            id,
            own,
            network,
            page,
            counters: Counters::default(),
            web_counters: Arc::default(),
            stop: CancellationToken::new(),
            made: CancellationToken::new(),
            adding: Semaphore::new(1),
            tasks: TaskTracker::new(),
            shaped: CancellationToken::new(),
            began: Instant::now(),
            began_ms: now_ms(),
            claim: Mutex::new(claim),
            state: Mutex::default(),
            status: watch::Sender::new(Arc::default()),
            traffic: watch::Sender::new(traffic),
            network_lock: Mutex::new(network_lock),
            config,
        };
        lab.change(|_| ());
        lab
    }

    /// How it is; the latest word, and a sign when there is a later one.
    pub(crate) fn status(&self) -> watch::Receiver<Arc<LabStatus>> {
        self.status.subscribe()
    }

    pub(crate) fn traffic(&self) -> watch::Receiver<Option<Traffic>> {
        self.traffic.subscribe()
    }

    pub(crate) fn set_traffic(&self, traffic: Option<Traffic>) {
        self.traffic.send_replace(traffic);
        self.change(|_| ());
    }

    /// Remembers what it does without here, and why.
    pub(crate) fn do_without(&self, words: &str) {
        tracing::info!("{words}");
        self.change(|state| state.notes.push(words.to_owned()));
    }

    /// Remembers something that went wrong.
    pub(crate) fn problem(&self, words: impl Into<String>) {
        let words = words.into();
        tracing::warn!("{words}");
        self.change(|state| {
            state.problems.retain(|known| *known != words);
            if state.problems.len() == PROBLEMS {
                state.problems.pop_front();
            }
            state.problems.push_back(words);
        });
    }

    /// All hosts.
    pub(crate) fn hosts(&self) -> Vec<Entry> {
        self.lock().hosts.clone()
    }

    /// The nodes that run, or those of one kind.
    pub(crate) fn nodes(&self, kind: Option<HostKind>) -> Vec<Entry> {
        let of_kind = |entry: &&Entry| kind.is_none_or(|kind| entry.seat.kind == kind);
        self.lock().hosts.iter().filter(|e| e.is_node() && e.runs()).filter(of_kind).cloned().collect()
    }

    /// The host of that name; where there is none, which there are.
    pub(crate) fn host(&self, name: &str) -> Result<Entry, String> {
        let state = self.lock();
        let found = state.hosts.iter().find(|entry| entry.info.name == name).cloned();
        found.ok_or_else(|| {
            let names: Vec<&str> = state.hosts.iter().map(|entry| entry.info.name.as_str()).collect();
            format!("there is no host `{name}`: there are {}", names.join(", "))
        })
    }

    /// Adds a host, not started yet.
    pub(crate) fn seat(
        &self,
        seat: Seat,
        program: &str,
        orders: mpsc::Sender<Order>,
    ) -> Result<(), LabError> {
        let zones = &self.config.topology.zones;
        // Without links of their own only nodes can be limited, by themselves.
        let is_node = matches!(seat.kind, HostKind::Seeder | HostKind::Leecher);
        let rate = seat.shape.rate.filter(|_| is_node || self.has_namespaces());
        let info = LabHost {
            name: seat.name.clone(),
            kind: seat.kind,
            program: program.to_owned(),
            address: self.ip(&seat).to_string(),
            zone: zones.get(seat.zone).map(|zone| zone.name.clone()).unwrap_or_default(),
            state: HostState::Stopped,
            cut: false,
            rate: rate.map(Rate::bits),
            delay_ms: seat.shape.delay.map(Delay::millis),
            sent_bytes: None,
            error: None,
        };
        let http = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([])
            .connect_timeout(PATIENCE)
            .unix_socket(self.socket(&seat.name))
            .build()
            .map_err(|error| LabError::Client(error.to_string()))?;
        self.change(|state| {
            match seat.kind {
                HostKind::Seeder => state.seeders += 1,
                HostKind::Leecher => state.leechers += 1,
                _ => {}
            }
            state.hosts.push(Entry { seat, info, orders, http, ending: false });
        });
        Ok(())
    }

    /// Seats for further nodes.
    pub(crate) fn further(&self, kind: HostKind, count: usize, zone: usize) -> Vec<Seat> {
        let shape = self.config.topology.zone_shape(zone);
        let state = self.lock();
        let (of_kind, all) = match kind {
            HostKind::Seeder => (state.seeders, state.seeders + state.leechers),
            _ => (state.leechers, state.seeders + state.leechers),
        };
        (1..=count).map(|n| Seat::node(kind, of_kind + n, zone, all + n, shape)).collect()
    }

    /// Notes how a host is now.
    pub(crate) fn set_state(&self, name: &str, to: HostState, error: Option<String>) {
        self.change_host(name, |entry| {
            entry.info.state = to;
            entry.info.error = error;
            entry.ending = false;
        });
    }

    /// Notes that a host's program is about to be ended: what breaks off with it is no problem.
    pub(crate) fn set_ending(&self, name: &str) {
        self.change_host(name, |entry| entry.ending = true);
    }

    pub(crate) fn change_host(&self, name: &str, change: impl FnOnce(&mut Entry)) {
        self.change(|state| {
            if let Some(entry) = state.hosts.iter_mut().find(|entry| entry.info.name == name) {
                change(entry);
            }
        });
    }

    /// What the lab is about, or that of one name; where there is none, what there is.
    pub(crate) fn things(&self, name: Option<&str>) -> Result<Vec<Thing>, String> {
        let state = self.lock();
        let things: Vec<Thing> = state
            .things
            .iter()
            .filter(|thing| name.is_none_or(|name| thing.content.name == name))
            .cloned()
            .collect();
        if let (Some(name), true) = (name, things.is_empty()) {
            let names: Vec<&str> = state.things.iter().map(|thing| thing.content.name.as_str()).collect();
            return Err(format!("there is no `{name}` in this lab: there are {}", names.join(", ")));
        }
        Ok(things)
    }

    /// Puts a thing in the place of the one of its kind and name, or beside the others.
    pub(crate) fn publish(&self, thing: Thing) {
        self.change(|state| {
            let (kind, name) = (&thing.content.kind, &thing.content.name);
            let same = |known: &&mut Thing| known.content.kind == *kind && known.content.name == *name;
            match state.things.iter_mut().find(same) {
                Some(known) => {
                    // One of which nothing was known before is still the same.
                    let holders = std::mem::take(&mut known.content.seeders);
                    let same = known.content.id.is_empty() || known.content.id == thing.content.id;
                    *known = thing;
                    if same {
                        known.content.seeders = holders;
                    }
                }
                None => state.things.push(thing),
            }
        });
    }

    /// Notes whether a host has all of a content, if that is still as it was.
    pub(crate) fn set_held(&self, content: &LabContent, host: &str, held: bool) {
        self.change_content(content, |thing| {
            let holders = &mut thing.content.seeders;
            holders.retain(|name| name != host);
            if held {
                holders.push(host.to_owned());
                holders.sort_by_key(|name| (name.len(), name.clone()));
            }
        });
    }

    /// Notes that a host will not hold a content.
    pub(crate) fn give_up(&self, content: &LabContent, host: &str) {
        self.change_content(content, |thing| thing.chosen.retain(|name| name != host));
    }

    fn change_content(&self, content: &LabContent, change: impl FnOnce(&mut Thing)) {
        self.change(|state| {
            if let Some(thing) = state.things.iter_mut().find(|known| known.is(content)) {
                change(thing);
            }
        });
    }

    pub(crate) fn withdraw(&self, kind: &str, name: &str) {
        self.change(|state| {
            state.things.retain(|known| known.content.kind != kind || known.content.name != name);
        });
    }

    /// The zones, two by two, whose link is cut.
    pub(crate) fn cuts(&self) -> Vec<(usize, usize)> {
        self.lock().cuts.iter().copied().collect()
    }

    pub(crate) fn set_cut(&self, zones: (usize, usize), cut: bool) {
        self.change(|state| {
            if cut {
                state.cuts.insert(zones);
            } else {
                state.cuts.remove(&zones);
            }
        });
    }

    /// Has a host's program do something, and waits until it is done.
    pub(crate) async fn order(&self, host: &str, what: What) -> Result<(), String> {
        let orders = self.host(host)?.orders;
        let (done, answer) = oneshot::channel();
        let gone = || format!("{host} is being taken away");
        orders.send(Order { what, done }).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// A client of a node.
    pub(crate) fn client(&self, node: &str) -> Result<NodeClient, LabError> {
        NodeClient::new(&api::Endpoint::Unix(self.socket(node)), None)
            .map_err(|error| LabError::Client(error.to_string()))
    }

    /// A call to a node for which that client has no words. False where the node has no such call, or no such thing.
    pub(crate) async fn call(
        &self,
        node: &Entry,
        method: Method,
        path: &str,
        body: Option<serde_json::Value>,
    ) -> Result<bool, String> {
        let (name, deletes) = (&node.info.name, method == Method::DELETE);
        let mut request = node.http.request(method, format!("http://localhost{path}")).timeout(PATIENCE);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.map_err(|_| format!("{name} does not answer"))?;
        match answer.status() {
            status if status.is_success() => Ok(true),
            status if matches!(status.as_u16(), 404 | 405) => Ok(false),
            // It is on its way, and so is got anew as it is.
            status if deletes && status.as_u16() == 409 => Ok(false),
            status => {
                let words = answer.json::<api::ErrorBody>().await.map(|body| body.error);
                Err(format!("{name} refuses: {}", words.unwrap_or_else(|_| status.to_string())))
            }
        }
    }

    /// Writes down that a process is ours.
    pub(crate) fn note(&self, pid: u32) -> Result<(), LabError> {
        self.claim.lock().unwrap_or_else(PoisonError::into_inner).note(pid)
    }

    pub(crate) fn socket(&self, node: &str) -> PathBuf {
        remains::node_socket(&self.own, node)
    }

    /// Where the output of a host's program goes.
    pub(crate) fn log(&self, host: &str) -> PathBuf {
        self.work.join(format!("{host}.log"))
    }

    pub(crate) fn has_namespaces(&self) -> bool {
        self.network == Network::Namespaces
    }

    pub(crate) fn namespace(&self, host: &str) -> Option<String> {
        self.has_namespaces().then(|| links::namespace(&self.id, host))
    }

    /// A host's address.
    pub(crate) fn ip(&self, seat: &Seat) -> Ipv4Addr {
        let number = u8::try_from(seat.number).unwrap_or(u8::MAX);
        match seat.kind {
            HostKind::Seeder | HostKind::Leecher => self.network.ip(seat.zone, 1, number),
            HostKind::Registry => self.network.ip(seat.zone, 2, 1),
            HostKind::Web => self.network.ip(seat.zone, 2, 2),
            HostKind::Tracker => self.network.ip(seat.zone, 3, 1),
            HostKind::Foreign => self.network.ip(seat.zone, 4, number),
        }
    }

    /// What `links` makes of it.
    pub(crate) fn on_link(&self, seat: &Seat) -> Host {
        Host { name: seat.name.clone(), ip: self.ip(seat), zone: seat.zone, shape: seat.shape }
    }

    pub(crate) fn at(&self, seat: &Seat, usual: u16) -> SocketAddr {
        SocketAddr::from((self.ip(seat), self.network.port(usual)))
    }

    pub(crate) fn tracker(&self) -> SocketAddr {
        SocketAddr::from((self.network.ip(0, 3, 1), self.network.port(plan::TRACKER_PORT)))
    }

    pub(crate) fn registry(&self) -> SocketAddr {
        SocketAddr::from((self.network.ip(0, 2, 1), self.network.port(plan::REGISTRY_PORT)))
    }

    /// Where a registry outside is reached in the lab's network.
    pub(crate) fn relay(&self) -> SocketAddr {
        SocketAddr::from((self.network.ip(0, 2, 1), self.network.port(plan::REGISTRY_PORT + 1)))
    }

    pub(crate) fn web(&self) -> SocketAddr {
        let port = if self.has_namespaces() { WEB_PORT } else { WEB_PORT_OF_LOOPBACK };
        SocketAddr::from((self.network.ip(0, 2, 2), self.network.port(port)))
    }

    pub(crate) fn resolver(&self) -> SocketAddr {
        let port = if self.has_namespaces() { DNS_PORT } else { DNS_PORT_OF_LOOPBACK };
        SocketAddr::from((self.network.ip(0, 3, 1), self.network.port(port)))
    }

    pub(crate) fn announce(&self) -> String {
        format!("http://{}/announce", self.tracker())
    }

    pub(crate) fn topology(&self) -> &Topology {
        &self.config.topology
    }

    /// Looks at the counters, until the lab ends.
    pub(crate) async fn count(self: Arc<Self>) {
        loop {
            sleep(COUNT).await;
            self.change(|_| ());
        }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        let status = self.describe(&state);
        // Under the lock, so that the last word is the latest.
        self.status.send_if_modified(|known| {
            let differs = **known != status;
            if differs {
                *known = Arc::new(status);
            }
            differs
        });
    }

    fn describe(&self, state: &State) -> LabStatus {
        let zones = &self.config.topology.zones;
        let name = |place: usize| zones.get(place).map(|zone| zone.name.clone()).unwrap_or_default();
        LabStatus {
            id: self.id.clone(),
            directory: self.own.display().to_string(),
            page: format!("http://{}/", self.page),
            began_ms: self.began_ms,
            namespaces: self.has_namespaces(),
            zones: zones.iter().map(|zone| zone.name.clone()).collect(),
            cuts: state.cuts.iter().map(|(a, b)| [name(*a), name(*b)]).collect(),
            hosts: state.hosts.iter().map(|entry| self.counted(entry)).collect(),
            contents: state.things.iter().map(|thing| thing.content.clone()).collect(),
            traffic: *self.traffic.borrow(),
            notes: state.notes.clone(),
            problems: state.problems.iter().cloned().collect(),
        }
    }

    fn counted(&self, entry: &Entry) -> LabHost {
        let sent_bytes = match entry.seat.kind {
            HostKind::Registry => Some(self.counters.total_bytes()),
            HostKind::Web => Some(self.web_counters.bytes.load(Ordering::Relaxed)),
            _ => None,
        };
        LabHost { sent_bytes, ..entry.info.clone() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Milliseconds since 1970.
#[allow(clippy::disallowed_methods, reason = "records say when something was")]
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
