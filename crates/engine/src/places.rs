//! Places for connections: how many there may be at once.
//!
//! Those that others make to us and those that we make have places of their own, so that whoever fills the first
//! does not keep us from connecting to anybody. One host may take only some of the first; on loopback, where one
//! address is many peers, all.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// All places.
pub(crate) struct Places {
    incoming: Arc<Semaphore>,
    outgoing: Arc<Semaphore>,
    most_per_host: usize,
    /// How many incoming connections each host has; one that has none is not listed.
    hosts: Mutex<HashMap<IpAddr, usize>>,
}

impl Places {
    /// Half of `most` for each direction, at least one.
    pub(crate) fn new(most: usize, most_per_host: usize) -> Arc<Self> {
        let half = || Arc::new(Semaphore::new((most / 2).clamp(1, Semaphore::MAX_PERMITS)));
        Arc::new(Self { incoming: half(), outgoing: half(), most_per_host, hosts: Mutex::default() })
    }

    /// Waits for a place for an incoming connection.
    pub(crate) async fn incoming(&self) -> Option<OwnedSemaphorePermit> {
        self.incoming.clone().acquire_owned().await.ok()
    }

    /// A place for a connection that we make, if there is one.
    pub(crate) fn outgoing(&self) -> Option<OwnedSemaphorePermit> {
        self.outgoing.clone().try_acquire_owned().ok()
    }

    /// A place for an incoming connection from this host, unless it has as many as one host may have.
    pub(crate) fn of_host(self: &Arc<Self>, host: IpAddr) -> Option<HostPlace> {
        let host = host.to_canonical();
        let mut hosts = self.hosts();
        let taken = hosts.entry(host).or_insert(0);
        if *taken >= self.most_per_host && !host.is_loopback() {
            return None;
        }
        *taken += 1;
        Some(HostPlace { places: self.clone(), host })
    }

    fn hosts(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A host's place, free again when dropped.
pub(crate) struct HostPlace {
    places: Arc<Places>,
    host: IpAddr,
}

impl Drop for HostPlace {
    fn drop(&mut self) {
        let mut hosts = self.places.hosts();
        if let Some(taken) = hosts.get_mut(&self.host) {
            *taken -= 1;
            if *taken == 0 {
                hosts.remove(&self.host);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_takes_all_incoming_places_leaves_the_outgoing_ones() {
        let places = Places::new(2, 10);
        let _taken = places.incoming().await.expect("free");
        assert_eq!(places.incoming.available_permits(), 0);
        let dialled = places.outgoing().expect("free all the same");
        assert!(places.outgoing().is_none());
        drop(dialled);
        assert!(places.outgoing().is_some());
    }

    #[test]
    fn one_host_takes_only_its_share_and_leaves_nothing_behind() {
        let places = Places::new(100, 2);
        let (host, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let mapped = IpAddr::from([0, 0, 0, 0, 0, 0xffff, 0x0a00, 1]);
        let first = places.of_host(host);
        let second = places.of_host(mapped);
        assert!(first.is_some() && second.is_some());
        assert!(places.of_host(host).is_none() && places.of_host(mapped).is_none());
        assert!(places.of_host(other).is_some());
        drop(first);
        assert!(places.of_host(host).is_some());
        drop(second);
        assert!(places.hosts().is_empty());
    }

    #[test]
    fn on_loopback_one_address_is_many_peers() {
        let places = Places::new(100, 2);
        let all: Vec<_> = (0..9).map_while(|_| places.of_host([127, 0, 0, 1].into())).collect();
        assert_eq!(all.len(), 9);
    }
}
