//! The one binary: parses arguments, calls one role, and shows what it does.
//!
//! Each command is a file under `commands`; what several of them share stands beside them: [`host`] starts an
//! engine, [`torrent_file`] reads what a user names, [`screen`] draws and prints,
//! [`failure`] says what went wrong and with which exit code, [`given`] by what a value was given, [`service`] tells systemd how it goes.
//!
//! It holds no logic but presentation. Results go to standard output, everything else to standard error. Exit codes:
//! 0 done, 1 it could not be done, 2 what was given cannot be used.
//!
//! Who runs where: a command runs on the main thread within a runtime of its own; hashing runs on blocking threads.

mod commands;
mod failure;
mod given;
mod host;
mod log;
mod quantity;
mod screen;
mod service;
mod torrent_file;
mod traffic;

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

/// Container images, OS updates and files, moved through a fleet by BitTorrent.
#[derive(Parser)]
#[command(name = "longshore", version, arg_required_else_help = true, max_term_width = 110)]
struct Cli {
    #[command(flatten)]
    log: log::LogArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print the configuration file of the node, or of the tracker, with every default
    Config(commands::config::Args),
    /// Make a torrent from a file or folder
    Create(commands::create::Args),
    /// Tell how an image came to this host, and what took the time
    Explain(commands::explain::Args),
    /// Fetch a torrent's content, resuming from what is on disk
    Get(commands::get::Args),
    /// Ask a node or a tracker whether it does its work: for probes that run a command
    Health(commands::health::Args),
    /// Run a demonstration swarm on this machine: tracker, registry, nodes
    Lab(commands::lab::Args),
    /// Run the daemon of this host: registry mirror, store, peers
    Node(commands::node::Args),
    /// Run a node as torrent-cache's client was run: its environment, without a configuration file
    Proxy(Box<commands::proxy::Args>),
    /// Have the node fetch an image
    Pull(commands::pull::Args),
    /// Have container runtimes pull through the node, check that they do, or undo it
    Runtime(commands::runtime::Args),
    /// Serve a torrent's content until stopped
    Seed(commands::seed::Args),
    /// Show what the node holds and does
    Status(commands::status::Args),
    /// Watch a node, or a lab, in the terminal
    Top(commands::top::Args),
    /// Add, start, stop, limit and remove ordinary torrents on the node
    Torrent(commands::torrent::Args),
    /// Run a tracker with the content directory
    Tracker(Box<commands::tracker::Args>),
}

fn main() -> ExitCode {
    let command = Cli::command().mut_subcommand("tracker", commands::tracker::with_defaults);
    let matches = command.clone().try_get_matches();
    let matches = matches.unwrap_or_else(|error| given::explain(error, &command).exit());
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let debug = matches!(&cli.command, Command::Tracker(args) if args.retracker.debug());
    let outcome = log::start(&cli.log, debug).and_then(|()| match cli.command {
        Command::Config(args) => {
            commands::config::run(&args);
            Ok(())
        }
        Command::Create(args) => commands::create::run(&args),
        Command::Get(args) => host::block_on(commands::get::run(args)),
        Command::Health(args) => host::block_on(async move { commands::health::run(&args).await }),
        Command::Lab(args) => host::block_on(commands::lab::run(args)),
        Command::Node(args) => host::block_on(commands::node::run(args)),
        Command::Proxy(args) => host::block_on(commands::proxy::run(*args)),
        Command::Pull(args) => host::block_on(commands::pull::run(args)),
        Command::Explain(args) => host::block_on(commands::explain::run(args)),
        Command::Top(args) => host::block_on(commands::top::run(args)),
        Command::Torrent(args) => host::block_on(commands::torrent::run(args)),
        Command::Runtime(args) => host::block_on(commands::runtime::run(args)),
        Command::Seed(args) => host::block_on(commands::seed::run(args)),
        Command::Status(args) => host::block_on(commands::status::run(args)),
        Command::Tracker(args) => commands::tracker::run(*args),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
