//! Places of which there are so many, and so many for each host: connections, claims that wait, bytes that are kept.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::seldom::Seldom;

/// How many places there may be, and are.
#[derive(Debug, Clone)]
pub(crate) struct Places(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    most: usize,
    most_of_host: usize,
    taken: Mutex<Taken>,
    told: Seldom,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    /// By host; one that has none is not listed.
    hosts: HashMap<IpAddr, usize>,
}

/// A place or several among them; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Shared>,
    /// Whom it counts for, where that is bounded.
    host: Option<IpAddr>,
    size: usize,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoPlace {
    /// All are taken.
    Full,
    /// The host has as many as one may have.
    Crowd,
}

impl Places {
    pub(crate) fn new(most: usize, most_of_host: usize) -> Self {
        Self(Arc::new(Shared { most, most_of_host, taken: Mutex::default(), told: Seldom::default() }))
    }

    /// Tells people that the system gives no connection, out of descriptors mostly: for all listeners together, and
    /// once a minute while it lasts.
    pub(crate) fn cannot_accept(&self, now: Duration, error: &io::Error) {
        if self.0.told.may(now) {
            tracing::warn!(%error, "cannot accept connections");
        }
    }

    /// How many are taken.
    pub(crate) fn taken(&self) -> usize {
        self.0.taken().all
    }

    /// A place for `ip`. Hosts that are `free`, as proxies are, and this one may have any number.
    pub(crate) fn enter(&self, ip: Option<IpAddr>, free: bool) -> Result<Place, NoPlace> {
        let mut place = self.begin(ip, free);
        place.grow(1).map(|()| place)
    }

    /// The same, of no size yet.
    pub(crate) fn begin(&self, ip: Option<IpAddr>, free: bool) -> Place {
        Place { places: Arc::clone(&self.0), host: ip.and_then(host_of).filter(|_| !free), size: 0 }
    }
}

impl Place {
    /// Makes it larger, if there is room.
    pub(crate) fn grow(&mut self, by: usize) -> Result<(), NoPlace> {
        let Shared { most, most_of_host, .. } = *self.places;
        let mut taken = self.places.taken();
        let has = self.host.and_then(|host| taken.hosts.get(&host)).copied().unwrap_or_default();
        if self.host.is_some() && has.saturating_add(by) > most_of_host {
            return Err(NoPlace::Crowd);
        }
        let all = taken.all.saturating_add(by);
        if all > most {
            return Err(NoPlace::Full);
        }
        taken.all = all;
        if let Some(host) = self.host {
            taken.hosts.insert(host, has + by);
        }
        self.size += by;
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        taken.all = taken.all.saturating_sub(self.size);
        let Some(host) = self.host else { return };
        let left = taken.hosts.get(&host).map_or(0, |has| has.saturating_sub(self.size));
        if left == 0 {
            taken.hosts.remove(&host);
        } else {
            taken.hosts.insert(host, left);
        }
    }
}

impl Shared {
    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// By what a host is known: its IPv4 address, or the network of 64 bits in which it may give itself any IPv6 address.
/// `None` for this one.
fn host_of(ip: IpAddr) -> Option<IpAddr> {
    match ip.to_canonical() {
        ip if ip.is_loopback() => None,
        IpAddr::V6(ip) => Some(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into()),
        ip => Some(ip),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_host_cannot_take_all_places() {
        let places = Places::new(6, 2);
        let enter = |ip: &str| places.enter(ip.parse().ok(), false);
        let first = enter("192.0.2.1").expect("a place");
        let _second = enter("::ffff:192.0.2.1").expect("a place");
        assert_eq!(enter("192.0.2.1").err(), Some(NoPlace::Crowd));
        drop(first);
        let _again = enter("192.0.2.1").expect("its place is free");
        let _network = [enter("2001:db8::1").expect("a place"), enter("2001:db8::ffff:2").expect("a place")];
        assert_eq!(enter("2001:db8::3").err(), Some(NoPlace::Crowd), "one network of 64 bits");
        let _other = enter("2001:db8:0:1::1").expect("a place");
        let proxy = places.enter(Some([192, 0, 2, 1].into()), true).expect("bounded by the whole only");
        assert_eq!((places.taken(), enter("127.0.0.1").err()), (6, Some(NoPlace::Full)));
        drop(proxy);
        let here = enter("::1").expect("a place");
        assert_eq!(places.0.taken().hosts.len(), 3, "this host is not counted");
        drop((_second, _again, _network, _other, here));
        assert_eq!(places.taken(), 0);
        assert!(places.0.taken().hosts.is_empty());
    }

    #[test]
    fn a_place_grows_as_far_as_its_host_and_all_may_have() {
        let places = Places::new(100, 60);
        let mut one = places.begin(Some([192, 0, 2, 1].into()), false);
        let mut same = places.begin(Some([192, 0, 2, 1].into()), false);
        let mut other = places.begin(Some([192, 0, 2, 2].into()), false);
        assert_eq!((one.grow(50), same.grow(20)), (Ok(()), Err(NoPlace::Crowd)));
        assert_eq!((same.grow(10), other.grow(50)), (Ok(()), Err(NoPlace::Full)));
        assert_eq!((other.grow(40), places.taken()), (Ok(()), 100));
        drop(one);
        assert_eq!((same.grow(50), places.taken()), (Ok(()), 100));
        drop((same, other));
        assert_eq!(places.taken(), 0);
        assert!(places.0.taken().hosts.is_empty());
    }
}
