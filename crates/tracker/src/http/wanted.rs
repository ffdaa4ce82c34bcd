//! How many newcomers wait for a place that others may give up: those who have connections are woken to look.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::event::{EventfdFlags, eventfd};

/// Shared by all who take connections.
#[derive(Debug, Clone)]
pub(crate) struct Wanted(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// How many asked in a second, and in which.
    asked: Mutex<(usize, u64)>,
    bell: OwnedFd,
}

impl Wanted {
    pub(crate) fn new() -> io::Result<Self> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self(Arc::new(Shared { asked: Mutex::default(), bell })))
    }

    /// What each request changes. Nobody reads it, and so it is to be waited for by its edges.
    pub(crate) fn bell(&self) -> &OwnedFd {
        &self.0.bell
    }

    /// Asks for places, for this second and the next.
    pub(crate) fn ask(&self, now: Duration, places: usize) {
        let mut asked = self.asked();
        let (before, at) = *asked;
        *asked = if at == now.as_secs() { (before + places, at) } else { (places, now.as_secs()) };
        drop(asked);
        let _ = rustix::io::write(self.bell(), &1u64.to_ne_bytes());
    }

    /// Whether a place was asked for that nobody has given up.
    pub(crate) fn is_asked(&self, now: Duration) -> bool {
        let (count, at) = *self.asked();
        count > 0 && now.as_secs() <= at + 1
    }

    /// Notes that somebody has.
    pub(crate) fn given(&self) {
        let mut asked = self.asked();
        asked.0 = asked.0.saturating_sub(1);
    }

    fn asked(&self) -> MutexGuard<'_, (usize, u64)> {
        self.0.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_made_for_those_who_came_lately_and_once_for_each() {
        let (wanted, at) = (Wanted::new().expect("made"), Duration::from_secs);
        assert!(!wanted.is_asked(at(0)));
        wanted.ask(at(5), 1);
        wanted.ask(at(5), 1);
        assert!(wanted.is_asked(at(6)));
        wanted.given();
        assert!(wanted.is_asked(at(6)));
        wanted.given();
        assert!(!wanted.is_asked(at(6)));
        wanted.ask(at(7), 1);
        assert!(!wanted.is_asked(at(9)), "who came then has gone");
    }
}
