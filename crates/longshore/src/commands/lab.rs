//! `longshore lab`: demonstration swarms on this machine. Alone it runs one, from its start to a report; its
//! subcommands raise one that lasts, change it, and take it away.

mod change;
mod once;
mod status;
mod up;

use std::path::PathBuf;

use lab::{LabError, lasting};

use crate::failure::Failure;

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    once: once::Once,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Raise a lab that lasts, with a page that shows it
    Up(Box<up::Args>),
    /// Show a lab: hosts, contents, problems
    Status(status::Args),
    /// End a host's program
    Stop(change::Hosts),
    /// Start it again
    Start(change::Hosts),
    /// Kill a host's program, without a chance to clean up
    Kill(change::Hosts),
    /// Add nodes
    Add(change::Add),
    /// Cut a host's link, a zone off, or the link between two zones (--netns)
    Cut(change::Cut),
    /// Heal what was cut
    Heal(change::Heal),
    /// Give a host's link another speed, or a node without a link of its own
    Limit(change::Limit),
    /// Make traffic: pulls by turns, nodes that die and come back
    Churn(change::Churn),
    /// Have leechers, or one node, forget what they have and get it anew
    Pull(change::Pull),
    /// End a lab and remove all of it, also when its supervisor was killed
    Down(change::Down),
    /// Keep a lab; what `up` runs in the background
    #[command(hide = true)]
    Supervise,
}

/// Which lab is meant.
#[derive(clap::Args)]
struct Which {
    /// The lab [default: the only one]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

impl Which {
    fn find(&self) -> anyhow::Result<lasting::Found> {
        lasting::find(self.name.as_deref()).map_err(|error| explain(&error))
    }

    /// A client of a lab that runs.
    fn client(&self) -> anyhow::Result<api::LabClient> {
        let lab = self.find()?;
        if lab.dead {
            let name = lab.name;
            return Err(Failure::new(format!("the supervisor of the lab {name} has died"))
                .hint(format!("`longshore lab down --name {name}` removes what is left of it"))
                .into());
        }
        Ok(api::LabClient::new(&api::Endpoint::Unix(lab.socket))?)
    }
}

/// A client of the lab of that name, or of the only one.
pub(crate) fn client(name: Option<&str>) -> anyhow::Result<api::LabClient> {
    Which { name: name.map(str::to_owned) }.client()
}

/// The lab of a node, named HOST or LAB/HOST, and the host.
fn place(node: &str) -> (Option<&str>, &str) {
    node.split_once('/').map_or((None, node), |(lab, host)| (Some(lab), host))
}

/// A client of the lab of a node, named HOST or LAB/HOST.
pub(crate) fn client_of(node: &str) -> anyhow::Result<api::LabClient> {
    client(place(node).0)
}

/// The unix socket of a node, named HOST or LAB/HOST.
pub(crate) fn node(name: &str) -> anyhow::Result<PathBuf> {
    let (lab, host) = place(name);
    let lab = lasting::find(lab).map_err(|error| explain(&error))?;
    lab.node(host).map_err(|error| explain(&error))
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    match args.command {
        None => once::run(args.once).await,
        Some(Command::Up(args)) => up::run(*args).await,
        Some(Command::Status(args)) => status::run(args).await,
        Some(Command::Stop(args)) => change::stop(args).await,
        Some(Command::Start(args)) => change::start(args).await,
        Some(Command::Kill(args)) => change::kill(args).await,
        Some(Command::Add(args)) => change::add(args).await,
        Some(Command::Cut(args)) => change::cut(args).await,
        Some(Command::Heal(args)) => change::heal(args).await,
        Some(Command::Limit(args)) => change::limit(args).await,
        Some(Command::Churn(args)) => change::churn(args).await,
        Some(Command::Pull(args)) => change::pull(args).await,
        Some(Command::Down(args)) => change::down(args).await,
        Some(Command::Supervise) => up::supervise().await,
    }
}

fn explain(error: &LabError) -> anyhow::Error {
    let words = error.to_string();
    if error.is_bad_input() { Failure::bad_input(words).into() } else { Failure::new(words).into() }
}
