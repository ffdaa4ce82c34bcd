//! What the program logs, and where: standard error, above any progress bar.

use std::io::{self, IsTerminal as _};

use anyhow::Context as _;
use clap::ArgAction;
use tracing::Metadata;
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use crate::{failure::Failure, screen};

/// How much to log.
#[derive(clap::Args)]
pub(crate) struct LogArgs {
    /// Log more; up to three times
    #[arg(short, long, global = true, action = ArgAction::Count, display_order = 900)]
    verbose: u8,
    /// Log by this filter instead, such as `warn,longshore_engine=debug`
    #[arg(long = "log", value_name = "FILTER", env = "LONGSHORE_LOG", global = true, display_order = 901)]
    filter: Option<String>,
}

/// Starts logging; `debug` is for a command that has a flag of its own for it.
pub(crate) fn start(args: &LogArgs, debug: bool) -> anyhow::Result<()> {
    let filter = match args.filter.as_deref().filter(|filter| !filter.is_empty()) {
        Some(filter) => EnvFilter::try_new(filter)
            .with_context(|| Failure::bad_input(format!("`{filter}` is no log filter")))?,
        None => EnvFilter::new(match args.verbose.max(if debug { 2 } else { 0 }) {
            // What was asked for by a signal is answered.
            0 => "warn,longshore::reload=info",
            1 => "info",
            2 => "info,longshore=debug,longshore_engine=debug,longshore_tracker=debug,longshore_store=debug",
            _ => "trace",
        }),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal() && !colours_are_unwanted())
        .with_writer(AboveBars)
        .init();
    Ok(())
}

/// The custom of no-color.org.
#[allow(clippy::disallowed_methods, reason = "the custom is about the environment")]
fn colours_are_unwanted() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// Writes whole lines to standard error while progress bars stand aside, and into the log book.
struct AboveBars;

impl<'a> MakeWriter<'a> for AboveBars {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line("info")
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Line {
        Line(meta.level().as_str())
    }
}

/// A line of a level.
struct Line(&'static str);

impl io::Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        node::log_book().note(self.0, &String::from_utf8_lossy(bytes));
        screen::bars().suspend(|| io::stderr().lock().write_all(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
