//! A demonstration swarm from its start to a report.

use std::{
    collections::HashMap,
    env,
    io::IsTerminal as _,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use indicatif::ProgressBar;
use lab::{Event, LabConfig, LabError, Rate, Sources};

use crate::{failure::Failure, host::StopSignals, quantity, screen};

#[derive(clap::Args)]
pub(super) struct Once {
    /// Nodes that hold the image before the others pull it
    #[arg(long, value_name = "N", default_value_t = 2)]
    seeders: usize,
    /// Nodes that pull it at once
    #[arg(long, value_name = "N", default_value_t = 10)]
    leechers: usize,
    /// What goes into the image [default: this program, and its sources in a checkout of them]
    #[arg(long, value_name = "DIR")]
    sources: Option<PathBuf>,
    /// Where everything lies; an empty directory, which is kept [default: a temporary one]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// A network namespace for each node, the tracker and the registry (root only)
    #[arg(long)]
    netns: bool,
    /// The speed of each node's link, both ways, such as 100mbit; without --netns nodes limit themselves, towards peers
    #[arg(long, value_name = "RATE")]
    rate: Option<Rate>,
    /// The speed of the registry's link, both ways; needs --netns
    #[arg(long, value_name = "RATE")]
    origin_rate: Option<Rate>,
    /// Leave it running until stopped, to pull through it with other clients
    #[arg(long)]
    keep: bool,
    /// How long the pulls may take
    #[arg(long, value_name = "SECONDS", default_value_t = 1800, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    deadline: u64,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Once) -> anyhow::Result<()> {
    let mut signals = StopSignals::listen()?;
    let program = env::current_exe().context("cannot find this program's file")?;
    let here = env::current_dir().context("cannot find the current directory")?;
    let config = LabConfig {
        sources: args.sources.map_or_else(|| Sources::own(&here, &program), Sources::directory),
        program,
        directory: args.dir,
        seeders: args.seeders,
        leechers: args.leechers,
        namespaces: args.netns,
        rate: args.rate,
        origin_rate: args.origin_rate,
        keep: args.keep,
        deadline: Duration::from_secs(args.deadline),
        log: "info".to_owned(),
    };
    let display = Display::new(args.json);
    let outcome = lab::run(&config, |event| display.show(&event), signals.wait()).await;
    display.clear();
    let report = outcome.map_err(|error| explain(&error))?;
    if !report.ok {
        return Err(Failure::new("not every node got the image whole and right").into());
    }
    Ok(())
}

fn explain(error: &LabError) -> anyhow::Error {
    match error {
        LabError::Ended { .. } | LabError::NotReady { .. } => {
            Failure::new(error.to_string()).hint("--dir keeps all logs and configurations").into()
        }
        _ => super::explain(error),
    }
}

/// Bars on a terminal, lines elsewhere.
struct Display {
    json: bool,
    draws: bool,
    bars: Mutex<HashMap<String, ProgressBar>>,
}

impl Display {
    fn new(json: bool) -> Self {
        let draws = std::io::stderr().is_terminal() && !json;
        Self { json, draws, bars: Mutex::default() }
    }

    fn show(&self, event: &Event<'_>) {
        match event {
            Event::Report(report) if self.json => {
                if let Ok(json) = serde_json::to_value(report) {
                    screen::say_json(&json);
                }
            }
            Event::Report(report) => {
                self.clear();
                screen::say(&format!("\n{}", report.table(width())));
            }
            Event::Kept(kept) => {
                screen::note(&format!(
                    "\nIt runs until Ctrl-C. Everything lies in {}.\nPull through a node:  {}\nLook into a node:     {}",
                    kept.directory.display(),
                    kept.pull,
                    kept.status
                ));
            }
            _ if self.json => {}
            Event::Step(what) => {
                self.clear();
                screen::note(what);
            }
            Event::Pulling { node, done, total, peers } if self.draws => {
                self.with_bar(node, |bar| {
                    bar.set_length(*total);
                    bar.set_position(*done);
                    bar.set_message(quantity::count(*peers as usize, "peer"));
                });
            }
            Event::Pulled { node, outcome: Ok(time) } if self.draws => {
                let done = format!("{:.2} s", time.as_secs_f64());
                self.with_bar(node, |bar| {
                    bar.set_position(bar.length().unwrap_or(0));
                    bar.finish_with_message(done.clone());
                });
            }
            Event::Pulled { node, outcome: Ok(time) } => {
                screen::note(&format!("{node} has the image after {:.2} s", time.as_secs_f64()));
            }
            Event::Pulled { node, outcome: Err(reason) } => {
                self.with_bar(node, ProgressBar::abandon);
                screen::note(&format!("{node} has failed: {reason}"));
            }
            _ => {}
        }
    }

    fn with_bar(&self, node: &str, change: impl FnOnce(&ProgressBar)) {
        let mut bars = self.bars.lock().unwrap_or_else(PoisonError::into_inner);
        let bar = bars
            .entry(node.to_owned())
            .or_insert_with(|| screen::byte_bar(&format!("{node:>4}"), 0, !self.draws));
        change(bar);
    }

    /// Takes the bars away.
    fn clear(&self) {
        let mut bars = self.bars.lock().unwrap_or_else(PoisonError::into_inner);
        bars.drain().for_each(|(_, bar)| bar.finish_and_clear());
    }
}

/// The terminal's width; as wide as wanted where there is none.
fn width() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stdout());
    size.map_or(usize::MAX, |size| usize::from(size.ws_col)).max(40)
}
