//! `longshore config`: prints the node's configuration with every default.

use crate::screen;

#[derive(clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_: &Args) {
    screen::say(node::EXAMPLE.trim_end());
}
