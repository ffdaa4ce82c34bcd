//! Who may fetch a blob from its origin, and who waits for it, where one tracker alone gives leases. No clock: time
//! is an argument.
//!
//! A lease lives in memory: after a restart the holders' renewals bring it back. Those who wait sleep until
//! the lease is ended or would run out, and then claim again; whoever comes first has it.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::Duration,
};

use hash::Digest;
use tokio_util::sync::CancellationToken;

#[derive(Debug)]
pub(crate) struct Leases {
    held: Mutex<HashMap<Digest, Lease>>,
    ttl: Duration,
    most: usize,
}

#[derive(Debug)]
struct Lease {
    id: String,
    node: String,
    until: Duration,
    end: Arc<End>,
}

/// How those who wait learn that a lease ended before it ran out. Sticky: it cannot be missed.
#[derive(Debug, Default)]
pub(crate) struct End {
    /// Given back, or published.
    pub(crate) over: CancellationToken,
    /// Published.
    pub(crate) published: CancellationToken,
    /// How often the tag was set whose turn this is.
    tags: AtomicI64,
}

impl End {
    /// How often the tag was set whose turn this is.
    pub(crate) fn tags(&self) -> i64 {
        self.tags.load(Relaxed)
    }

    pub(crate) fn tell(&self, published: bool) {
        if published {
            self.published.cancel();
        }
        self.over.cancel();
    }
}

/// What a claim comes to.
#[derive(Debug)]
pub(crate) enum Claimed {
    /// The claimant holds the lease, under this id.
    Leased(String),
    /// Another does.
    Held {
        by: String,
        /// When it runs out, if it is not renewed.
        until: Duration,
        end: Arc<End>,
    },
    /// There are too many leases.
    Full,
}

/// What a renewal comes to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Renewed {
    Leased(String),
    Lost { by: String },
    Full,
}

impl Leases {
    pub(crate) fn new(ttl: Duration, most: usize) -> Self {
        Self { held: Mutex::default(), ttl, most }
    }

    pub(crate) const fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Gives `node` the lease if nobody holds it, or if it holds it itself; `id` is for a new one.
    pub(crate) fn claim(&self, now: Duration, digest: &Digest, node: &str, id: String) -> Claimed {
        let mut held = self.lock();
        let full = held.len() >= self.most;
        match held.get_mut(digest) {
            Some(lease) if lease.until > now && lease.node != node => {
                Claimed::Held { by: lease.node.clone(), until: lease.until, end: lease.end.clone() }
            }
            Some(lease) if lease.until > now => {
                lease.until = now + self.ttl;
                Claimed::Leased(lease.id.clone())
            }
            None if full => Claimed::Full,
            _ => {
                self.enter(&mut held, now, digest, node, id.clone());
                Claimed::Leased(id)
            }
        }
    }

    /// Prolongs a lease that is there; `false` where it is not, or is another's.
    pub(crate) fn extend(&self, now: Duration, digest: &Digest, node: &str, id: &str) -> bool {
        let mut held = self.lock();
        let ours = held.get_mut(digest).filter(|lease| lease.node == node && lease.id == id);
        ours.map(|lease| lease.until = now + self.ttl).is_some()
    }

    /// Prolongs a lease. One that is not known, or has run out, is entered again if nobody holds another.
    pub(crate) fn renew(&self, now: Duration, digest: &Digest, node: &str, id: String) -> Renewed {
        let mut held = self.lock();
        let full = held.len() >= self.most;
        match held.get_mut(digest) {
            Some(lease) if lease.node == node && lease.id == id => {
                lease.until = now + self.ttl;
                Renewed::Leased(id)
            }
            Some(lease) if lease.until > now => Renewed::Lost { by: lease.node.clone() },
            None if full => Renewed::Full,
            _ => {
                self.enter(&mut held, now, digest, node, id.clone());
                Renewed::Leased(id)
            }
        }
    }

    /// Ends a lease if it is the one named, and wakes who waits.
    pub(crate) fn release(&self, digest: &Digest, node: &str, id: &str) {
        let mut held = self.lock();
        if held.get(digest).is_some_and(|lease| lease.node == node && lease.id == id) {
            end(&mut held, digest, false);
        }
    }

    /// Notes that the tag is set whose turn it is; that is over when it is given back.
    pub(crate) fn tag_is_set(&self, turn: &Digest) {
        if let Some(lease) = self.lock().get(turn) {
            lease.end.tags.fetch_add(1, Relaxed);
        }
    }

    /// Ends whatever lease there is, since the blob is published, and wakes who waits.
    pub(crate) fn settle(&self, digest: &Digest) {
        end(&mut self.lock(), digest, true);
    }

    /// Forgets leases that ran out.
    pub(crate) fn sweep(&self, now: Duration) {
        // Those who wait for them sleep no longer than until now.
        self.lock().retain(|_, lease| lease.until > now);
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    fn enter(
        &self,
        held: &mut HashMap<Digest, Lease>,
        now: Duration,
        digest: &Digest,
        node: &str,
        id: String,
    ) {
        let lease = Lease { id, node: node.to_owned(), until: now + self.ttl, end: Arc::default() };
        held.insert(*digest, lease);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Lease>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn end(held: &mut HashMap<Digest, Lease>, digest: &Digest, published: bool) {
    if let Some(Lease { end, .. }) = held.remove(digest) {
        end.tell(published);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leases() -> (Leases, Digest) {
        (Leases::new(Duration::from_secs(10), 2), Digest::of(b"x"))
    }

    fn at(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn claim(leases: &Leases, now: u64, digest: &Digest, node: &str) -> Result<String, String> {
        match leases.claim(at(now), digest, node, format!("{node}@{now}")) {
            Claimed::Leased(id) => Ok(id),
            Claimed::Held { by, .. } => Err(by),
            Claimed::Full => Err("full".to_owned()),
        }
    }

    #[test]
    fn one_node_holds_it_until_it_runs_out() {
        let (leases, x) = leases();
        assert_eq!(claim(&leases, 0, &x, "a"), Ok("a@0".to_owned()));
        assert_eq!(claim(&leases, 1, &x, "b"), Err("a".to_owned()));
        assert_eq!(claim(&leases, 2, &x, "a"), Ok("a@0".to_owned()));
        assert_eq!(claim(&leases, 11, &x, "b"), Err("a".to_owned()));
        assert_eq!(claim(&leases, 12, &x, "b"), Ok("b@12".to_owned()));
        assert_eq!(leases.renew(at(13), &x, "a", "a@0".to_owned()), Renewed::Lost { by: "b".to_owned() });
    }

    #[test]
    fn a_renewal_prolongs_and_brings_back() {
        let (leases, x) = leases();
        assert_eq!(leases.renew(at(0), &x, "a", "old".to_owned()), Renewed::Leased("old".to_owned()));
        assert_eq!(leases.renew(at(9), &x, "a", "old".to_owned()), Renewed::Leased("old".to_owned()));
        assert_eq!(claim(&leases, 18, &x, "b"), Err("a".to_owned()));
        assert_eq!(leases.renew(at(30), &x, "a", "old".to_owned()), Renewed::Leased("old".to_owned()));
        assert_eq!(leases.renew(at(31), &x, "b", "old".to_owned()), Renewed::Lost { by: "a".to_owned() });
    }

    #[test]
    fn only_the_holder_releases() {
        let (leases, x) = leases();
        let id = claim(&leases, 0, &x, "a").expect("free");
        leases.release(&x, "b", &id);
        leases.release(&x, "a", "other");
        assert_eq!(leases.len(), 1);
        leases.release(&x, "a", &id);
        assert_eq!(claim(&leases, 0, &x, "b"), Ok("b@0".to_owned()));
        leases.settle(&x);
        assert_eq!(leases.len(), 0);
    }

    #[test]
    fn those_who_wait_learn_how_a_lease_ended() {
        let (leases, x) = leases();
        let wait = |now| match leases.claim(at(now), &x, "b", String::new()) {
            Claimed::Held { end, .. } => end,
            other => panic!("{other:?}"),
        };
        let id = claim(&leases, 0, &x, "a").expect("free");
        let end = wait(0);
        assert!(leases.extend(at(1), &x, "a", &id) && !leases.extend(at(1), &x, "b", &id));
        assert!(!end.over.is_cancelled());
        leases.release(&x, "a", &id);
        assert!(end.over.is_cancelled() && !end.published.is_cancelled());
        assert!(!leases.extend(at(1), &x, "a", &id));
        claim(&leases, 2, &x, "a").expect("free");
        let end = wait(2);
        leases.settle(&x);
        assert!(end.over.is_cancelled() && end.published.is_cancelled());
    }

    #[test]
    fn leases_are_bounded_and_swept() {
        let (leases, x) = leases();
        let (y, z) = (Digest::of(b"y"), Digest::of(b"z"));
        assert!(claim(&leases, 0, &x, "a").is_ok() && claim(&leases, 5, &y, "a").is_ok());
        assert_eq!(claim(&leases, 6, &z, "a"), Err("full".to_owned()));
        assert_eq!(leases.renew(at(6), &z, "a", "i".to_owned()), Renewed::Full);
        leases.sweep(at(10));
        assert!(claim(&leases, 10, &z, "a").is_ok());
        assert_eq!(leases.len(), 2);
    }
}
