//! What systemd gives to a service, and is told by it: sockets (`LISTEN_FDS`), readiness, a status, signs of life
//! (`sd_notify(3)`). Without systemd none of that is there, and nothing happens.

use std::{future::pending, time::Duration};

use listenfd::ListenFd;
use sd_notify::NotifyState;
use tokio::time::{Interval, MissedTickBehavior};
use tracker::{Inherited, InheritedSocket};

use crate::failure::Failure;

/// Takes the sockets that were handed over to this process. To be called once, and before there are threads: it takes
/// their number out of the environment, so that no child believes that they are its own.
pub(crate) fn sockets() -> anyhow::Result<Vec<Inherited>> {
    let refuse =
        |error| anyhow::Error::new(error).context(Failure::bad_input("cannot use the inherited sockets"));
    let names: Vec<String> =
        sd_notify::listen_fds_with_names().map_err(refuse)?.map(|(_, name)| name).collect();
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let mut sockets = ListenFd::from_env();
    let mut take = |at, name: &String| {
        let socket = if let Ok(Some(tcp)) = sockets.take_tcp_listener(at) {
            InheritedSocket::Tcp(tcp)
        } else if let Ok(Some(udp)) = sockets.take_udp_socket(at) {
            InheritedSocket::Udp(udp)
        } else if let Ok(Some(unix)) = sockets.take_unix_listener(at) {
            InheritedSocket::Unix(unix)
        } else {
            let what =
                format!("the inherited descriptor `{name}` is no socket of TCP, UDP, or of unix streams");
            return Err(
                Failure::bad_input(what).hint("in its .socket unit: ListenStream= and ListenDatagram=")
            );
        };
        Ok(Inherited { name: name.clone(), socket })
    };
    Ok(names.iter().enumerate().map(|(at, name)| take(at, name)).collect::<Result<_, _>>()?)
}

/// It serves.
pub(crate) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(&in_one_line(status))]);
}

/// It reads its configuration anew; [`ready`] says when it has.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!(%error, "no clock for the service manager"),
    }
}

/// It ends.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("stops")]);
}

/// It is alive.
pub(crate) fn alive() {
    tell(&[NotifyState::Watchdog]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager cannot be told");
    }
}

/// A line's end would be the beginning of something else.
fn in_one_line(status: &str) -> String {
    status.chars().map(|c| if c.is_control() { ' ' } else { c }).take(1000).collect()
}

/// When signs of life are due: twice in the time after which the service is taken for dead (`WatchdogSec`).
pub(crate) struct Watchdog(Option<Interval>);

impl Watchdog {
    pub(crate) fn new() -> Self {
        let most = sd_notify::watchdog_enabled().filter(|most| *most >= Duration::from_millis(2));
        Self(most.map(|most| {
            let mut interval = tokio::time::interval(most / 2);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        }))
    }

    /// Waits for the next; for ever where nobody asks for them.
    pub(crate) async fn due(&mut self) {
        match &mut self.0 {
            Some(interval) => drop(interval.tick().await),
            None => pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_cannot_say_anything_but_a_status() {
        assert_eq!(in_one_line("bad file\nREADY=1\tx"), "bad file READY=1 x");
    }
}
