//! A host's program: started, asked whether it is ready, ended, and watched for ending by itself.

use std::{
    ffi::OsString,
    future::pending,
    net::{SocketAddr, TcpListener as StdListener, TcpStream},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use api::{NodeClient, lab::HostState};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use crate::{
    LabError,
    lasting::{act, state::Lab, web::WebServer},
    netns,
    process::{Launch, Process},
    registry::{Registry, RegistryConfig},
};

/// How many orders may wait.
pub(crate) const ORDERS: usize = 8;
/// How often a starting program is asked whether it is ready, and how long it may take to answer.
const ASK: Duration = Duration::from_millis(100);
const ANSWER: Duration = Duration::from_secs(2);
/// How long a node may answer that something is wrong until it counts as running all the same.
const PATIENCE: Duration = Duration::from_secs(20);

/// Something to do with a host's program.
pub(crate) struct Order {
    pub(crate) what: What,
    pub(crate) done: oneshot::Sender<Result<(), String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    Start,
    Stop,
    Kill,
}

/// What a host does.
pub(crate) enum Work {
    /// A process.
    Program(Program),
    /// The lab's registry, in this process.
    Registry { address: SocketAddr, layout: PathBuf },
    /// The lab's web server, in this process.
    Web { address: SocketAddr, root: PathBuf },
}

pub(crate) struct Program {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<(&'static str, OsString)>,
    pub(crate) ready: Ready,
}

/// How a program shows that it is ready.
pub(crate) enum Ready {
    /// A node, by its health.
    Node(NodeClient),
    /// It takes connections.
    Listens(SocketAddr),
}

enum Running {
    Process(Process),
    Registry(Registry),
    Web(WebServer),
}

/// Keeps a host until the lab ends, and ends its program then.
pub(crate) async fn keep(lab: Arc<Lab>, name: String, work: Work, mut orders: mpsc::Receiver<Order>) {
    let mut running = None;
    let mut since = Instant::now();
    let mut tick = interval(ASK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut starting = false;
    loop {
        tokio::select! {
            () = lab.stop.cancelled() => break,
            order = orders.recv() => {
                let Some(Order { what, done }) = order else { break };
                let outcome = match what {
                    What::Start if running.is_some() => Err(format!("{name} runs already")),
                    What::Start => {
                        lab.set_state(&name, HostState::Starting, None);
                        match start(&lab, &name, &work).await {
                            Ok(started) => {
                                running = Some(started);
                                (starting, since) = (true, Instant::now());
                                tick.reset_immediately();
                                Ok(())
                            }
                            Err(error) => {
                                lab.set_state(&name, HostState::Failed, Some(error.to_string()));
                                Err(error.to_string())
                            }
                        }
                    }
                    What::Stop | What::Kill => match running.take() {
                        None => Err(format!("{name} does not run")),
                        Some(running) => {
                            starting = false;
                            lab.set_ending(&name);
                            end(running, what).await;
                            let state =
                                if what == What::Kill { HostState::Killed } else { HostState::Stopped };
                            lab.set_state(&name, state, None);
                            Ok(())
                        }
                    },
                };
                // Whoever asked may have gone.
                let _ = done.send(outcome);
            }
            error = ended(&mut running) => {
                (running, starting) = (None, false);
                lab.set_state(&name, HostState::Failed, Some(error.to_string()));
            }
            _ = tick.tick(), if starting => {
                let late = since.elapsed() > PATIENCE;
                match is_ready(&lab, &name, &work).await {
                    Ok(()) => starting = false,
                    Err(_) if !late => continue,
                    Err(reason) => {
                        starting = false;
                        lab.set_state(&name, HostState::Running, Some(reason));
                        continue;
                    }
                }
                lab.set_state(&name, HostState::Running, None);
                act::limit_by_itself(&lab, &name);
            }
        }
    }
    // All that it has goes with the lab: nothing is lost by a quick end.
    if let Some(running) = running {
        end(running, What::Kill).await;
    }
}

async fn start(lab: &Lab, name: &str, work: &Work) -> Result<Running, LabError> {
    match work {
        Work::Program(program) => {
            let arguments: Vec<&str> = program.arguments.iter().map(String::as_str).collect();
            let environment: Vec<_> =
                program.environment.iter().map(|(name, value)| (*name, value.as_os_str())).collect();
            let process = Process::start(&Launch {
                name,
                program: &program.program,
                arguments: &arguments,
                environment: &environment,
                namespace: lab.namespace(name).as_deref(),
                log: &lab.log(name),
                mark: &lab.own,
            })?;
            if let Some(pid) = process.pid() {
                lab.note(pid)?;
            }
            Ok(Running::Process(process))
        }
        Work::Registry { address, layout } => {
            let listener = listen(lab, name, *address).await?;
            let config = RegistryConfig { layout: layout.clone(), bytes_per_second: None };
            let registry = Registry::start_counting(listener, config, lab.counters.clone());
            let failed = |source| LabError::Listen { what: name.to_owned(), address: *address, source };
            Ok(Running::Registry(registry.map_err(failed)?))
        }
        Work::Web { address, root } => {
            let listener = listen(lab, name, *address).await?;
            Ok(Running::Web(WebServer::start(listener, root.clone(), lab.web_counters.clone())))
        }
    }
}

/// Listens in a host's namespace, where hosts have one.
pub(crate) async fn listen(lab: &Lab, host: &str, address: SocketAddr) -> Result<TcpListener, LabError> {
    let bind = move || {
        let listener = StdListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    let failed = |source| LabError::Listen { what: host.to_owned(), address, source };
    let listener = netns::inside(lab.namespace(host), bind).await?.map_err(failed)?;
    TcpListener::from_std(listener).map_err(failed)
}

async fn end(running: Running, what: What) {
    match running {
        Running::Process(process) if what == What::Kill => process.kill().await,
        Running::Process(process) => process.stop().await,
        Running::Registry(registry) if what == What::Kill => drop(registry),
        Running::Registry(registry) => registry.stop().await,
        Running::Web(server) => drop(server),
    }
}

/// Waits until a process ends by itself.
async fn ended(running: &mut Option<Running>) -> LabError {
    match running {
        Some(Running::Process(process)) => process.ended_by_itself().await,
        _ => pending().await,
    }
}

async fn is_ready(lab: &Lab, name: &str, work: &Work) -> Result<(), String> {
    let Work::Program(program) = work else { return Ok(()) };
    match &program.ready {
        Ready::Node(client) => match timeout(ANSWER, client.health()).await {
            Ok(Ok(health)) if health.healthy => Ok(()),
            Ok(Ok(health)) => Err(health.problems.join("; ")),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("it does not answer for {ANSWER:?}")),
        },
        Ready::Listens(address) => {
            let address = *address;
            let connect = move || TcpStream::connect_timeout(&address, ANSWER).map(drop);
            let outcome = netns::inside(lab.namespace(name), connect).await;
            outcome.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
        }
    }
}
