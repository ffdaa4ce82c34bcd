//! What is done to a lab that runs.

use api::{
    CallError,
    lab::{HostKind, LabAction, Traffic},
};
use lab::{Rate, lasting};

use super::{Which, explain};
use crate::{failure::Failure, screen};

/// Which lab is meant, and how to say what was done.
#[derive(clap::Args)]
struct Target {
    #[command(flatten)]
    which: Which,
    /// Print what was done as JSON, a line for each
    #[arg(long)]
    json: bool,
}

impl Target {
    /// Has the lab do these, one after the other, and says what each has done.
    async fn act(&self, actions: impl IntoIterator<Item = LabAction>) -> anyhow::Result<()> {
        let client = self.which.client()?;
        for action in actions {
            match client.act(&action).await {
                Ok(done) if self.json => screen::say_json(&serde_json::to_value(&done)?),
                Ok(done) => screen::note(&done.done),
                // What is asked does not fit this lab.
                Err(CallError::Rejected { reason, .. }) => return Err(Failure::bad_input(reason).into()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

#[derive(clap::Args)]
pub(super) struct Hosts {
    #[command(flatten)]
    target: Target,
    /// Hosts, as `longshore lab status` names them
    #[arg(required = true, value_name = "HOST")]
    hosts: Vec<String>,
}

#[derive(clap::Args)]
pub(super) struct Add {
    #[command(flatten)]
    target: Target,
    /// How many
    #[arg(value_name = "N", default_value_t = 1)]
    count: usize,
    /// Seeders, not leechers
    #[arg(long)]
    seeder: bool,
    /// In which zone [default: the first]
    #[arg(long, value_name = "ZONE", default_value = "", hide_default_value = true)]
    zone: String,
}

#[derive(clap::Args)]
pub(super) struct Cut {
    #[command(flatten)]
    target: Target,
    /// A host, or a zone
    #[arg(value_name = "HOST|ZONE")]
    from: String,
    /// The zone at the other end
    #[arg(value_name = "ZONE")]
    to: Option<String>,
}

#[derive(clap::Args)]
pub(super) struct Heal {
    #[command(flatten)]
    target: Target,
    /// A host, or a zone [default: everything that is cut]
    #[arg(value_name = "HOST|ZONE")]
    from: Option<String>,
    /// The zone at the other end
    #[arg(value_name = "ZONE")]
    to: Option<String>,
}

#[derive(clap::Args)]
pub(super) struct Limit {
    #[command(flatten)]
    target: Target,
    /// The host
    host: String,
    /// Its link's speed, both ways, such as 20mbit, or `none`; without --netns a node limits itself, towards peers
    #[arg(value_name = "RATE", value_parser = parse_rate)]
    rate: Limited,
}

#[derive(Debug, Clone, Copy)]
struct Limited(Option<Rate>);

#[derive(clap::Args)]
pub(super) struct Churn {
    #[command(flatten)]
    target: Target,
    /// Pulls begun per minute, by leechers by turns
    #[arg(long, value_name = "PER-MINUTE", default_value_t = 0.0)]
    pulls: f64,
    /// Nodes killed per minute, by lot, and started again after ten seconds
    #[arg(long, value_name = "PER-MINUTE", default_value_t = 0.0)]
    kills: f64,
    /// Make no more traffic
    #[arg(long, conflicts_with_all = ["pulls", "kills"])]
    off: bool,
}

#[derive(clap::Args)]
pub(super) struct Pull {
    #[command(flatten)]
    target: Target,
    /// The node [default: all leechers]
    host: Option<String>,
    /// A torrent's or an image's name [default: everything]
    #[arg(long, value_name = "NAME")]
    content: Option<String>,
}

#[derive(clap::Args)]
pub(super) struct Down {
    #[command(flatten)]
    which: Which,
    /// All labs of this user
    #[arg(long, conflicts_with = "name")]
    all: bool,
}

pub(super) async fn stop(args: Hosts) -> anyhow::Result<()> {
    each(args, |host| LabAction::Stop { host }).await
}

pub(super) async fn start(args: Hosts) -> anyhow::Result<()> {
    each(args, |host| LabAction::Start { host }).await
}

pub(super) async fn kill(args: Hosts) -> anyhow::Result<()> {
    each(args, |host| LabAction::Kill { host }).await
}

async fn each(args: Hosts, action: impl Fn(String) -> LabAction) -> anyhow::Result<()> {
    args.target.act(args.hosts.into_iter().map(action)).await
}

pub(super) async fn add(args: Add) -> anyhow::Result<()> {
    let kind = if args.seeder { HostKind::Seeder } else { HostKind::Leecher };
    args.target.act([LabAction::Add { kind, count: args.count, zone: args.zone }]).await
}

pub(super) async fn cut(args: Cut) -> anyhow::Result<()> {
    args.target.act([LabAction::Cut { from: args.from, to: args.to }]).await
}

pub(super) async fn heal(args: Heal) -> anyhow::Result<()> {
    args.target.act([LabAction::Heal { from: args.from, to: args.to }]).await
}

pub(super) async fn limit(args: Limit) -> anyhow::Result<()> {
    let rate = args.rate.0.map(Rate::bits);
    args.target.act([LabAction::Limit { host: args.host, rate }]).await
}

pub(super) async fn churn(args: Churn) -> anyhow::Result<()> {
    if !args.off && args.pulls == 0.0 && args.kills == 0.0 {
        return Err(Failure::bad_input("say how much: --pulls, --kills, or --off").into());
    }
    let traffic = Traffic { pulls_per_minute: args.pulls, churn_per_minute: args.kills };
    args.target.act([LabAction::Churn(traffic)]).await
}

pub(super) async fn pull(args: Pull) -> anyhow::Result<()> {
    args.target.act([LabAction::Pull { host: args.host, content: args.content }]).await
}

pub(super) async fn down(args: Down) -> anyhow::Result<()> {
    let labs = match args.all {
        true => lasting::running().map_err(|error| explain(&error))?,
        false => vec![args.which.find()?],
    };
    for lab in labs {
        let how = lasting::down(&lab).await.map_err(|error| explain(&error))?;
        screen::note(&match how {
            lasting::Down::Cleared => {
                format!("the lab {} had died; what was left of it is removed", lab.name)
            }
            _ => format!("the lab {} is ended, and all of it removed", lab.name),
        });
    }
    Ok(())
}

fn parse_rate(text: &str) -> Result<Limited, String> {
    if text == "none" {
        return Ok(Limited(None));
    }
    text.parse().map(|rate| Limited(Some(rate))).map_err(|error: lab::RateError| error.to_string())
}
