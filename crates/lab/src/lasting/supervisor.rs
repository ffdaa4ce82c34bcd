//! A lasting lab from its first directory to its last.

use std::{
    fs::{self, File, OpenOptions},
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener as StdListener},
    path::{Path, PathBuf},
    process::id as own_pid,
    sync::{Arc, PoisonError},
    time::Duration,
};

use api::lab::{HostKind, HostState};
use rustix::process::geteuid;
use tokio::{
    net::{TcpListener, UnixListener},
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use crate::{
    LabError,
    claim::{self, Claim, file},
    lasting::{
        act, contents, dns, foreign,
        host::{self, Program, Ready, What, Work},
        options::{News, UpConfig, relayed},
        recording, remains, server,
        state::Lab,
        topology::Seat,
        traffic, web,
    },
    links::{self, Link},
    plan::Network,
    process,
};

/// Where the page is, unless something else is there.
const PAGE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7070);
/// How long all hosts may take to run.
const READY: Duration = Duration::from_secs(60);
/// How often, and how long apart, its directory is removed until it is gone.
const TRIES: u32 = 20;
const AGAIN: Duration = Duration::from_millis(100);
/// How long everything may take to end.
const GRACE: Duration = Duration::from_secs(15);

/// Raises a lab, and keeps it until `stop` is done or its API is told to end it; then takes everything away.
///
/// With `own_log` its own messages go to a file in its directory from the moment on that it has one.
///
/// # Errors
/// Why it could not be raised; everything is taken away again then.
pub async fn supervise(
    config: UpConfig,
    own_log: bool,
    tell: impl Fn(News) + Send + Sync,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), LabError> {
    let mut stop = std::pin::pin!(stop);
    let start = Instant::now();
    config.check()?;
    let claim = {
        let (base, name) = (claim::base(), config.name.clone());
        let claimed = tokio::task::spawn_blocking(move || claim::claim(&base, Some(&name)));
        claimed.await.map_err(|_| LabError::Thread)??
    };
    let own = claim.own.clone();
    let mut slot = None;
    let raised = tokio::select! {
        raised = Box::pin(raise(config, claim, own_log, &tell, &mut slot)) => raised,
        () = &mut stop => Err(LabError::Stopped),
    };
    let lab = match (raised, slot) {
        (Ok(()), Some(lab)) => lab,
        (raised, lab) => {
            match lab {
                Some(lab) => strike(lab).await?,
                // Nothing is there but a directory that nobody holds any more.
                None => remains::clear(&own).await.map(drop)?,
            }
            return raised;
        }
    };
    contents::begin(&lab);
    let loaded = tokio::select! {
        loaded = load(&lab, &tell) => loaded,
        () = lab.stop.cancelled() => Err(LabError::Stopped),
        () = &mut stop => Err(LabError::Stopped),
    };
    if loaded.is_err() {
        strike(lab).await?;
        return loaded;
    }
    let status = lab.status().borrow().as_ref().clone();
    tell(News::Ready { status: Box::new(status), seconds: start.elapsed().as_secs_f64() });
    lab.tasks.spawn(traffic::make(lab.clone()));
    lab.tasks.spawn(lab.stop.clone().run_until_cancelled_owned(lab.clone().count()));
    tokio::select! {
        () = lab.stop.cancelled() => {}
        () = &mut stop => {}
    }
    strike(lab).await
}

async fn raise(
    mut config: UpConfig,
    claim: Claim,
    own_log: bool,
    tell: &(dyn Fn(News) + Send + Sync),
    slot: &mut Option<Arc<Lab>>,
) -> Result<(), LabError> {
    let base = claim::base();
    remains::sign(&claim.own, own_pid())?;
    if own_log {
        write_log_to(&claim.own.join("supervisor.log"))?;
    }
    if geteuid().is_root() {
        let swept = claim::sweep_namespaces(&base, &claim.id).await;
        if config.namespaces {
            swept?;
        }
    }
    let (network, lock) = if config.namespaces {
        (Network::Namespaces, None)
    } else {
        let (block, lock) = claim::claim_block(&base)?;
        (Network::Loopback(block), Some(lock))
    };
    let mut notes = Vec::new();
    if !config.namespaces && config.topology.zones.len() > 1 {
        notes.push("zones are names only, and nothing can be cut: that needs --netns");
    }
    if !config.namespaces && config.topology.limits_more_than_nodes() {
        notes.push("only nodes are limited: the speeds of servers and of links between zones need --netns");
    }
    if !config.namespaces && config.topology.delays() {
        config.topology.forget_delays();
        notes.push("nothing is delayed: delays need --netns");
    }
    if config.topology.delays() && !links::can_delay(&claim.id).await? {
        if config.must_delay {
            return Err(LabError::NoDelay);
        }
        config.topology.forget_delays();
        notes.push("nothing is delayed: this kernel cannot delay packets (it has no sch_netem)");
    }
    let (page, page_listener) = bind_page(config.page)?;
    let lab = Arc::new(Lab::new(config, claim, network, lock, page));
    *slot = Some(lab.clone());
    fs::create_dir(&lab.work).map_err(file(&lab.work))?;
    notes.into_iter().for_each(|words| lab.do_without(words));
    let socket = remains::socket(&lab.own);
    let listener = UnixListener::bind(&socket).map_err(file(&socket))?;
    server::serve(&lab, listener, page_listener);
    recording::begin(&lab);

    let seats = lab.topology().seats();
    if lab.has_namespaces() {
        step(tell, "making network namespaces");
        // What seeders are to hold does not come slowly: `load` gives the links their speed.
        let fast = |seat: &Seat| {
            let host = lab.on_link(seat);
            let shape = Link { rate: host.shape.rate.filter(|_| !loads(seat)), ..host.shape };
            links::Host { shape, ..host }
        };
        let hosts: Vec<links::Host> = seats.iter().map(fast).collect();
        for seat in &seats {
            links::set_resolver(&lab.id, &seat.name, lab.network.ip(0, 3, 1))?;
        }
        let between = lab
            .topology()
            .links()
            .into_iter()
            .map(|link| links::Between { shape: Link { rate: None, ..link.shape }, ..link });
        links::make(&lab.id, lab.topology().zones.len(), &between.collect::<Vec<_>>(), &hosts).await?;
    }
    dns::begin(&lab).await?;
    if let Some(url) = lab.topology().registry.as_deref().filter(|_| lab.has_namespaces()) {
        relay(&lab, url).await?;
    }
    step(tell, &format!("starting {} hosts", seats.len()));
    let names: Vec<String> = seats.iter().map(|seat| seat.name.clone()).collect();
    for seat in seats {
        enter(&lab, seat)?;
    }
    for name in &names {
        lab.order(name, What::Start).await.map_err(|reason| not_started(&lab, name, reason))?;
    }
    await_all(&lab).await
}

/// Waits until the contents are held, and gives links their speed then.
async fn load(lab: &Arc<Lab>, tell: &(dyn Fn(News) + Send + Sync)) -> Result<(), LabError> {
    contents::settle(lab, |words| step(tell, words)).await;
    lab.shaped.cancel();
    if !lab.has_namespaces() {
        lab.hosts().iter().for_each(|entry| act::limit_by_itself(lab, &entry.info.name));
        return Ok(());
    }
    let limited = |seat: &Seat| loads(seat) && seat.shape.rate.is_some();
    for entry in lab.hosts().iter().filter(|entry| limited(&entry.seat)) {
        links::reshape(&lab.id, &lab.on_link(&entry.seat)).await?;
    }
    for link in lab.topology().links().iter().filter(|link| link.shape.rate.is_some()) {
        links::reshape_between(&lab.id, *link).await?;
    }
    Ok(())
}

/// Whether a host's link carries what seeders are to hold.
fn loads(seat: &Seat) -> bool {
    matches!(seat.kind, HostKind::Seeder | HostKind::Registry)
}

/// Gives a host its place, and a task that keeps it.
pub(crate) fn enter(lab: &Arc<Lab>, seat: Seat) -> Result<(), LabError> {
    let name = seat.name.clone();
    let (work, program) = match seat.kind {
        HostKind::Seeder | HostKind::Leecher => (contents::node(lab, &seat)?, "longshore"),
        HostKind::Tracker => (Work::Program(tracker(lab)), "longshore"),
        HostKind::Registry => {
            (Work::Registry { address: lab.registry(), layout: contents::layout(lab) }, "registry")
        }
        HostKind::Web => (Work::Web { address: lab.web(), root: contents::web_root(lab) }, "web server"),
        HostKind::Foreign => foreign::work(lab, &seat)?,
    };
    let (orders, waiting) = mpsc::channel(host::ORDERS);
    lab.seat(seat, program, orders)?;
    lab.tasks.spawn(host::keep(lab.clone(), name, work, waiting));
    Ok(())
}

fn tracker(lab: &Lab) -> Program {
    let listen = lab.tracker();
    // Leechers come and go in seconds.
    let words = ["--log", &lab.config.log, "tracker", "--listen", &listen.to_string()];
    Program {
        program: lab.config.program.clone(),
        arguments: words.iter().map(|&word| word.to_owned()).collect(),
        environment: Vec::new(),
        ready: Ready::Listens(listen),
    }
}

/// Waits until every host runs.
async fn await_all(lab: &Lab) -> Result<(), LabError> {
    let mut status = lab.status();
    let outcome = timeout(READY, async {
        loop {
            let now = status.borrow_and_update().clone();
            if let Some(host) = now.hosts.iter().find(|host| host.state == HostState::Failed) {
                return Err(not_started(lab, &host.name, host.error.clone().unwrap_or_default()));
            }
            if now.hosts.iter().all(|host| host.state == HostState::Running) {
                return Ok(());
            }
            tokio::select! {
                changed = status.changed() => changed.map_err(|_| LabError::Stopped)?,
                () = lab.stop.cancelled() => return Err(LabError::Stopped),
            }
        }
    });
    match outcome.await {
        Ok(outcome) => outcome,
        Err(_) => {
            let hosts = lab.hosts();
            let late = hosts.iter().find(|host| !host.runs()).map(|host| host.info.name.clone());
            let (name, reason) = (late.unwrap_or_default(), "it is not ready".to_owned());
            let log = process::tail(&lab.log(&name));
            Err(LabError::NotReady { name, after: READY, reason, log })
        }
    }
}

fn not_started(lab: &Lab, name: &str, reason: String) -> LabError {
    LabError::Start { name: name.to_owned(), reason, log: process::tail(&lab.log(name)) }
}

fn bind_page(asked: Option<SocketAddr>) -> Result<(SocketAddr, TcpListener), LabError> {
    let page = asked.unwrap_or(PAGE);
    let failed = |source| LabError::Page { page, source };
    let listener = match StdListener::bind(page) {
        Err(_) if asked.is_none() => StdListener::bind((PAGE.ip(), 0)),
        bound => bound,
    };
    let listener = listener.map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let page = listener.local_addr().map_err(failed)?;
    Ok((page, TcpListener::from_std(listener).map_err(failed)?))
}

/// Stands in the lab's network for a registry outside, byte by byte.
async fn relay(lab: &Arc<Lab>, url: &str) -> Result<(), LabError> {
    let outside = relayed(url).ok_or_else(|| LabError::Topology(format!("`{url}` cannot be relayed")))?;
    let listener = host::listen(lab, "registry", lab.relay()).await?;
    let relayed = web::relay(listener, outside);
    lab.tasks.spawn(lab.stop.clone().run_until_cancelled_owned(relayed));
    Ok(())
}

/// From here on what this process has to say goes to a file.
fn write_log_to(path: &Path) -> Result<(), LabError> {
    let log: File = OpenOptions::new().create(true).append(true).open(path).map_err(file(path))?;
    rustix::stdio::dup2_stderr(&log).map_err(|error| file(path)(error.into()))
}

fn step(tell: &(dyn Fn(News) + Send + Sync), what: &str) {
    tell(News::Step { what: what.to_owned() });
}

/// Takes everything away.
async fn strike(lab: Arc<Lab>) -> Result<(), LabError> {
    lab.stop.cancel();
    lab.tasks.close();
    if timeout(GRACE, lab.tasks.wait()).await.is_err() {
        tracing::warn!("something in the lab does not end, and is left to end with this process");
    }
    if lab.has_namespaces() {
        links::remove(&lab.id).await?;
    }
    drop(lab.network_lock.lock().unwrap_or_else(PoisonError::into_inner).take());
    // Gone for all others at once: a disk may take long for many files. The lock in it is held until all else is gone,
    // and what is left where this process dies in the middle is the next lab's to remove.
    let gone = remains::hide(&lab.own).unwrap_or_else(|| lab.own.clone());
    remove(gone.join("work")).await?;
    remove(gone).await?;
    // What it leaves where this fails is in nobody's way.
    let _ = tokio::task::spawn_blocking(|| claim::leave(&claim::base())).await;
    Ok(())
}

/// Removes a directory, however much is in it.
async fn remove(directory: PathBuf) -> Result<(), LabError> {
    // A thread that made an image may still write; where nothing is, nothing can be written.
    for _ in 0..TRIES {
        let removed = directory.clone();
        let removed = tokio::task::spawn_blocking(move || fs::remove_dir_all(removed));
        match removed.await.map_err(|_| LabError::Thread)? {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::debug!(%error, "{} is not removed yet", directory.display());
            }
            _ => return Ok(()),
        }
        sleep(AGAIN).await;
    }
    fs::remove_dir_all(&directory).map_err(file(&directory))
}
