//! `longshore config`: prints the configuration of the node, or of the tracker, with every default.

use clap::ValueEnum;

use crate::screen;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Whose configuration
    #[arg(value_enum, default_value_t = Role::Node)]
    role: Role,
}

#[derive(Clone, Copy, ValueEnum)]
enum Role {
    Node,
    Tracker,
}

pub(crate) fn run(args: &Args) {
    let example = match args.role {
        Role::Node => node::EXAMPLE,
        Role::Tracker => tracker::EXAMPLE,
    };
    screen::say(example.trim_end());
}
