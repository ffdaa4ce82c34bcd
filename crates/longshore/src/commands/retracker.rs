//! retracker's own flags and environment, with the meaning that they have there: whoever comes from it changes the
//! name of the program and nothing else.

use tracker::{Config, Network};

use crate::failure::Failure;

/// Below the tracker's own flags, above its file.
#[derive(clap::Args)]
#[command(next_help_heading = "As in retracker")]
pub(crate) struct Retracker {
    /// Where to listen; without an address, everywhere
    #[arg(short = 'l', id = "retracker_listen", value_name = "[ADDR]:PORT", env = "LISTEN_ADDR")]
    listen: Option<String>,
    /// Minutes after which a peer that does not announce is forgotten
    #[arg(short = 'a', id = "retracker_age", value_name = "MINUTES", env = "PEER_AGE")]
    age: Option<f64>,
    /// Seconds between two announces of a peer
    #[arg(short = 'i', id = "retracker_interval", value_name = "SECONDS", env = "ANNOUNCE_INTERVAL")]
    interval: Option<u64>,
    /// Log every announce
    #[arg(short = 'd', id = "retracker_debug", env = "DEBUG_MODE")]
    pub(crate) debug: bool,
    /// Believe the X-Real-IP header from anyone; better, name your proxies with --trusted-proxies
    #[arg(short = 'x', id = "retracker_real_ip", env = "X_REAL_IP")]
    real_ip: bool,
    /// A list of other trackers to share peers with (YAML: uri, name, ip, host)
    #[arg(short = 'f', id = "retracker_forwards", value_name = "FILE", env = "FORWARDS_FILE")]
    forwards: Option<String>,
    /// Seconds that another tracker may take
    #[arg(short = 't', id = "retracker_timeout", value_name = "SECONDS", env = "FORWARD_TIMEOUT")]
    timeout: Option<u64>,
    /// Nothing: /metrics is always there
    #[arg(short = 'p', id = "retracker_metrics", env = "ENABLE_PROMETHEUS")]
    _metrics: bool,
}

impl Retracker {
    /// Sets what was given.
    pub(crate) fn apply(&self, config: &mut Config) -> anyhow::Result<()> {
        if let Some(listen) = self.listen.as_deref().filter(|listen| !listen.is_empty()) {
            let refuse = |error| Failure::bad_input(format!("-l: {error}"));
            config.listen = vec![node::parse_listen(listen).map_err(refuse)?.into()];
        }
        if let Some(minutes) = self.age {
            let seconds = minutes * 60.0;
            if !(1.0..=7.0 * 86_400.0).contains(&seconds) {
                return Err(
                    Failure::bad_input(format!("-a {minutes}: give the minutes of at most a week")).into()
                );
            }
            config.peer_age = seconds as u64;
        }
        if let Some(interval) = self.interval {
            config.interval = interval;
            config.min_interval = config.min_interval.min(interval);
        }
        if self.real_ip {
            config.trusted_proxies = Network::EVERYWHERE.to_vec();
            config.real_ip_header = "X-Real-IP".to_owned();
        }
        if let Some(file) = self.forwards.as_deref().filter(|file| !file.is_empty()) {
            config.forwarders = Some(file.into());
        }
        config.forward_timeout = self.timeout.unwrap_or(config.forward_timeout);
        Ok(())
    }
}
