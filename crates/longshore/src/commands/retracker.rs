//! retracker's own flags and environment, with the meaning that they have there: whoever comes from it changes the
//! name of the program and nothing else. `tests/retracker.rs` is the table of all that it does.

use std::str::FromStr;

use tracker::{Config, Network};

use crate::{failure::Failure, given};

/// Below the tracker's own flags, above its file.
#[derive(clap::Args)]
#[command(next_help_heading = "As in retracker")]
pub(crate) struct Retracker {
    /// Where to listen; without an address, everywhere
    #[arg(short = 'l', id = "retracker_listen", value_name = "[ADDR]:PORT", env = "LISTEN_ADDR")]
    listen: Option<String>,
    /// Minutes after which a peer that does not announce is forgotten
    #[arg(short = 'a', id = "retracker_age", value_name = "MINUTES", env = "PEER_AGE", value_parser = read::<f64>)]
    age: Option<Given<f64>>,
    /// Seconds between two announces of a peer
    #[arg(short = 'i', id = "retracker_interval", value_name = "SECONDS", env = "ANNOUNCE_INTERVAL", value_parser = read::<u64>)]
    interval: Option<Given<u64>>,
    /// Log every announce
    #[arg(short = 'd', id = "retracker_debug", value_name = "BOOL", env = "DEBUG_MODE", value_parser = switch,
          num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    debug: Option<bool>,
    /// Believe the X-Real-IP header from anyone; better, name your proxies with --trusted-proxies
    #[arg(short = 'x', id = "retracker_real_ip", value_name = "BOOL", env = "X_REAL_IP", value_parser = switch,
          num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    real_ip: Option<bool>,
    /// A list of other trackers to share peers with (YAML: uri, name, ip, host)
    #[arg(short = 'f', id = "retracker_forwards", value_name = "FILE", env = "FORWARDS_FILE")]
    forwards: Option<String>,
    /// Seconds that another tracker may take
    #[arg(short = 't', id = "retracker_timeout", value_name = "SECONDS", env = "FORWARD_TIMEOUT", value_parser = read::<u64>)]
    timeout: Option<Given<u64>>,
    /// Nothing: /metrics is always there
    #[arg(short = 'p', id = "retracker_metrics", value_name = "BOOL", env = "ENABLE_PROMETHEUS", value_parser = switch,
          num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    _metrics: Option<bool>,
}

impl Retracker {
    /// Whether every announce is logged.
    pub(crate) fn debug(&self) -> bool {
        self.debug.unwrap_or(false)
    }

    /// Whether the age of peers was given.
    pub(crate) fn has_age(&self) -> bool {
        Given::of(self.age).is_some()
    }

    /// Whether the interval was given.
    pub(crate) fn has_interval(&self) -> bool {
        Given::of(self.interval).is_some()
    }

    /// Where to listen, if that was given.
    pub(crate) fn listen(&self) -> Option<&str> {
        self.listen.as_deref().filter(|listen| !listen.is_empty())
    }

    /// Sets what was given.
    pub(crate) fn apply(&self, config: &mut Config) -> anyhow::Result<()> {
        if let Some(listen) = self.listen() {
            let refuse = |error| Failure::bad_input(format!("{}: {error}", name_of("-l", "LISTEN_ADDR")));
            config.listen = vec![node::parse_listen(listen).map_err(refuse)?.into()];
        }
        if let Some(minutes) = Given::of(self.age) {
            let seconds = minutes * 60.0;
            if !(2.0..=7.0 * 86_400.0).contains(&seconds) {
                let name = name_of("-a", "PEER_AGE");
                let words = format!("{name} is {minutes}: give minutes, from 0.04 to those of a week");
                return Err(Failure::bad_input(words).into());
            }
            config.peer_age = seconds as u64;
        }
        config.interval = Given::of(self.interval).unwrap_or(config.interval);
        if self.real_ip == Some(true) {
            config.trusted_proxies = Network::EVERYWHERE.to_vec();
            config.real_ip_header = "X-Real-IP".to_owned();
        }
        if let Some(file) = self.forwards.as_deref().filter(|file| !file.is_empty()) {
            config.forwarders = Some(file.into());
        }
        config.forward_timeout = Given::of(self.timeout).unwrap_or(config.forward_timeout);
        Ok(())
    }
}

/// What the user gave it by.
fn name_of(flag: &'static str, variable: &'static str) -> &'static str {
    if given::is_by_variable(&[flag.to_owned()], variable).is_some() { variable } else { flag }
}

/// A value, or the nothing that a variable holds which is there and empty, as in a `.env` file.
#[derive(Clone, Copy)]
struct Given<T>(Option<T>);

impl<T> Given<T> {
    fn of(given: Option<Self>) -> Option<T> {
        given.and_then(|Self(value)| value)
    }
}

fn read<T: FromStr>(text: &str) -> Result<Given<T>, T::Err> {
    if text.is_empty() { Ok(Given(None)) } else { text.parse().map(|value| Given(Some(value))) }
}

/// A switch as Go's flags write it: `-x`, `-x=true`, `-x=0`.
fn switch(text: &str) -> Result<bool, &'static str> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "" | "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("write true or false"),
    }
}
