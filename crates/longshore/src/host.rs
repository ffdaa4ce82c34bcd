//! What a command that moves torrents needs: a runtime, an engine, and an ear for signals.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use engine::{Config, DEFAULT_PORT, Engine, StartError};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::Failure;

/// Runs a command on a runtime of its own.
pub(crate) fn block_on(command: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the program's threads")?;
    let outcome = runtime.block_on(command);
    // A hashing thread that is in the middle of a piece must not hold up the end.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

/// Why a torrent cannot be downloaded to a folder, and what to do.
pub(crate) fn explain_place(error: node::PlaceError) -> anyhow::Error {
    match error {
        node::PlaceError::Locked { .. } => {
            Failure::new(error.to_string()).hint("wait for it, or stop it").into()
        }
        node::PlaceError::Write { folder, source } => {
            let failure = Failure::new(format!("cannot write to {}", folder.display()));
            let hint = "choose a folder that you may write to, on a disk with room";
            anyhow::Error::new(source).context(failure.hint(hint))
        }
        error => error.into(),
    }
}

/// As many files and connections as the system lets this process have: what it starts with is meant for programs that
/// cannot count past 1024.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        // Where it cannot be raised, it stays.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
}

/// How many files this process may have open; `None` for any number.
pub(crate) fn file_limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

/// Starts an engine. Where no address is given, it listens on the usual port, or on any when that is taken.
pub(crate) async fn start_engine(listen: Option<SocketAddr>) -> anyhow::Result<Engine> {
    let usual = SocketAddr::from((Ipv4Addr::UNSPECIFIED, DEFAULT_PORT));
    let config = |listen| Config { listen, ..Config::default() };
    let started = match Engine::start(config(listen.unwrap_or(usual)), None).await {
        Err(StartError::Listen { source, .. })
            if listen.is_none() && source.kind() == io::ErrorKind::AddrInUse =>
        {
            tracing::info!("port {DEFAULT_PORT} is taken; listening on another");
            Engine::start(config(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))), None).await
        }
        started => started,
    };
    started
        .map_err(|error| Failure::new(error.to_string()).hint("choose another address with --listen").into())
}

/// SIGINT and SIGTERM, from when this is made on: from then they do not end the process.
pub(crate) struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    pub(crate) fn listen() -> anyhow::Result<Self> {
        let on = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self { interrupt: on(SignalKind::interrupt())?, terminate: on(SignalKind::terminate())? })
    }

    /// Waits for one of them.
    pub(crate) async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// SIGHUP, from when this is made on: from then it does not end the process.
pub(crate) struct Reload(Signal);

impl Reload {
    pub(crate) fn listen() -> anyhow::Result<Self> {
        Ok(Self(signal(SignalKind::hangup()).context("cannot listen for signals")?))
    }

    pub(crate) async fn wait(&mut self) {
        self.0.recv().await;
    }
}

/// Seconds since 1970.
pub(crate) fn unix_time() -> u64 {
    unix_ms() / 1000
}

/// Milliseconds since 1970.
#[allow(clippy::disallowed_methods, reason = "the command line tells people dates")]
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The time, to tell how long something took.
#[allow(clippy::disallowed_methods, reason = "the command line tells people how long things took")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Runs what blocks on a thread for that.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work).await.context("a thread ended before its time")
}
