//! `longshore health`: whether a node or tracker does its work, for probes that run a command.

use std::time::Duration;

use anyhow::Context as _;

use crate::{failure::Failure, screen};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The address of a node's mirror, or of a tracker, such as http://127.0.0.1:6969
    #[arg(value_name = "URL", default_value = "http://127.0.0.1:5555")]
    server: String,
    /// How long it may take to answer
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    deadline: u64,
}

pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    let asked = api::ready(&args.server, Duration::from_secs(args.deadline)).await;
    let answer = asked.with_context(|| Failure::bad_input("cannot ask"))?;
    answer.with_context(|| Failure::new("not ready"))?;
    screen::say("ready");
    Ok(())
}
