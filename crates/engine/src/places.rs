//! Places for connections: how many there may be at once.
//!
//! Those that others make to us and those that we make have places of their own, so that whoever fills the first
//! does not keep us from connecting to anybody. One host may take only some of the first; on loopback, where one
//! address is many peers, all. An IPv6 host can use any address of its network (/64), and the other hosts of a rack
//! are often in the same: such a network may take half of the places, or as many as one host if that is more.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The address as such, where it came as an IPv4 address in IPv6 clothes (from a socket that takes both).
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, address.port()),
        // As it was, with its scope.
        IpAddr::V6(_) => address,
    }
}

/// All places.
pub(crate) struct Places {
    incoming: Arc<Semaphore>,
    outgoing: Arc<Semaphore>,
    most_per_host: usize,
    most_per_network: usize,
    /// How many incoming connections each host and each IPv6 network has; one that has none is not listed.
    taken: Mutex<HashMap<Owner, usize>>,
}

/// Whose connections are counted together.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Owner {
    Host(IpAddr),
    /// The first 64 bits of an IPv6 address.
    Network(u64),
}

impl Owner {
    fn network(host: IpAddr) -> Option<Self> {
        let IpAddr::V6(host) = host else { return None };
        Some(Self::Network((Ipv6Addr::to_bits(host) >> 64) as u64))
    }
}

impl Places {
    /// Half of `most` for each direction, at least one.
    pub(crate) fn new(most: usize, most_per_host: usize) -> Arc<Self> {
        let half = (most / 2).clamp(1, Semaphore::MAX_PERMITS);
        Arc::new(Self {
            incoming: Arc::new(Semaphore::new(half)),
            outgoing: Arc::new(Semaphore::new(half)),
            most_per_host,
            most_per_network: most_per_host.max(half / 2),
            taken: Mutex::default(),
        })
    }

    /// Waits for a place for an incoming connection.
    pub(crate) async fn incoming(&self) -> Option<OwnedSemaphorePermit> {
        self.incoming.clone().acquire_owned().await.ok()
    }

    /// A place for a connection that we make, if there is one.
    pub(crate) fn outgoing(&self) -> Option<OwnedSemaphorePermit> {
        self.outgoing.clone().try_acquire_owned().ok()
    }

    /// A place for an incoming connection from this host, unless it or its network has as many as it may have.
    pub(crate) fn of_host(self: &Arc<Self>, host: IpAddr) -> Option<HostPlace> {
        let host = host.to_canonical();
        let owners = [Some(Owner::Host(host)), Owner::network(host)];
        let mut taken = self.taken();
        let is_full = |owner: Owner| {
            let most = if let Owner::Host(_) = owner { self.most_per_host } else { self.most_per_network };
            taken.get(&owner).is_some_and(|taken| *taken >= most) || most == 0
        };
        if !host.is_loopback() && owners.into_iter().flatten().any(is_full) {
            return None;
        }
        for owner in owners.into_iter().flatten() {
            *taken.entry(owner).or_insert(0) += 1;
        }
        Some(HostPlace { places: self.clone(), owners })
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<Owner, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A host's place, free again when dropped.
pub(crate) struct HostPlace {
    places: Arc<Places>,
    owners: [Option<Owner>; 2],
}

impl Drop for HostPlace {
    fn drop(&mut self) {
        let mut all = self.places.taken();
        for owner in self.owners.into_iter().flatten() {
            if let Some(taken) = all.get_mut(&owner) {
                *taken -= 1;
                if *taken == 0 {
                    all.remove(&owner);
                }
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
        assert!(places.taken().is_empty());
    }

    #[test]
    fn no_places_for_hosts_leave_no_entries_behind() {
        let places = Places::new(100, 0);
        assert!(places.of_host([10, 0, 0, 1].into()).is_none());
        assert!(places.of_host(IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1])).is_none());
        assert!(places.taken().is_empty());
    }

    #[test]
    fn one_host_with_many_addresses_leaves_half_of_the_places_to_others() {
        let places = Places::new(40, 2);
        let address = |network: u16, host: u16| IpAddr::from([0x2001, 0xdb8, 0, network, 0, 0, 0, host]);
        let all: Vec<_> = (0..40).map_while(|host| places.of_host(address(1, host))).collect();
        assert_eq!(all.len(), 10);
        assert!(places.of_host(address(2, 1)).is_some(), "another network");
        drop(all);
        assert!(places.taken().is_empty());
    }

    #[test]
    fn an_ipv4_address_in_ipv6_clothes_is_taken_as_what_it_is() {
        let of = |text: &str| canonical(text.parse().expect("valid")).to_string();
        assert_eq!(of("[::ffff:10.0.0.1]:6881"), "10.0.0.1:6881");
        assert_eq!(of("[fe80::1%3]:6881"), "[fe80::1%3]:6881");
    }

    #[test]
    fn on_loopback_one_address_is_many_peers() {
        let places = Places::new(100, 2);
        let all: Vec<_> = (0..9).map_while(|_| places.of_host([127, 0, 0, 1].into())).collect();
        assert_eq!(all.len(), 9);
    }
}
