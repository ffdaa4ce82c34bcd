//! A client's connection: what has come and is not yet a whole request, and what has not gone yet.

use std::{
    collections::HashMap,
    io::{self, Read as _},
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::net::SendFlags;
use socket2::Socket;

use crate::{seldom::Seldom, tally::Tally};

/// How many connections there may be, and are.
#[derive(Debug, Clone)]
pub(crate) struct Connections {
    taken: Arc<Mutex<Taken>>,
    most: usize,
    most_per_host: usize,
    refused: Arc<Seldom>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    /// By host; one that has none is not listed.
    hosts: HashMap<IpAddr, usize>,
}

/// A connection's place among them; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    taken: Arc<Mutex<Taken>>,
    /// Whom it counts for, where that is bounded.
    host: Option<IpAddr>,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoPlace {
    /// All are taken.
    Full,
    /// The host has as many as one may have.
    Crowd,
}

impl Connections {
    pub(crate) fn new(most: usize, most_per_host: usize) -> Self {
        Self { taken: Arc::default(), most, most_per_host, refused: Arc::default() }
    }

    /// Tells people that the system gives no connection, out of descriptors mostly: for all listeners together, and
    /// once a minute while it lasts.
    pub(crate) fn cannot_accept(&self, now: Duration, error: &io::Error) {
        if self.refused.may(now) {
            tracing::warn!(%error, "cannot accept connections");
        }
    }

    pub(crate) fn open(&self) -> usize {
        locked(&self.taken).all
    }

    /// A place for a connection from `ip`. Hosts that are `free`, as proxies are, and this one may have any number.
    pub(crate) fn enter(&self, ip: Option<IpAddr>, free: bool) -> Result<Place, NoPlace> {
        let host = ip.and_then(host_of).filter(|_| !free);
        let mut taken = locked(&self.taken);
        if host.is_some_and(|host| taken.hosts.get(&host).is_some_and(|&has| has >= self.most_per_host)) {
            return Err(NoPlace::Crowd);
        }
        if taken.all >= self.most {
            return Err(NoPlace::Full);
        }
        taken.all += 1;
        if let Some(host) = host {
            *taken.hosts.entry(host).or_default() += 1;
        }
        Ok(Place { taken: Arc::clone(&self.taken), host })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = locked(&self.taken);
        taken.all = taken.all.saturating_sub(1);
        let Some(host) = self.host else { return };
        let left = taken.hosts.get(&host).map_or(0, |has| has.saturating_sub(1));
        if left == 0 {
            taken.hosts.remove(&host);
        } else {
            taken.hosts.insert(host, left);
        }
    }
}

fn locked(taken: &Mutex<Taken>) -> MutexGuard<'_, Taken> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
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

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) socket: Socket,
    /// From where it comes; `None` for a unix socket's other end, which is a proxy.
    pub(crate) from: Option<IpAddr>,
    /// The beginning of a request whose rest has not come, or requests that wait until answers have gone.
    pub(crate) input: Vec<u8>,
    /// Answers that the client has not taken yet.
    pub(crate) output: Vec<u8>,
    /// When it is given up, in seconds of the tracker's clock.
    pub(crate) deadline: u64,
    pub(crate) stage: Stage,
    /// Whether a request was answered: it is no longer one that anybody can open and leave.
    pub(crate) served: bool,
    pub(crate) place: Place,
}

/// How far a connection is from its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// First its proxy says for whom it is.
    Preface,
    /// More requests may come.
    Open,
    /// It ends when all answers have gone.
    Last,
    /// The same, and the last answer says what is wrong: the client may still be sending.
    Refused,
    /// That answer has gone, and what still comes is thrown away.
    Drained,
}

/// A connection that asks for something else, for the API to serve.
#[derive(Debug)]
pub(crate) struct HandedOver {
    /// Of a TCP or a unix connection.
    pub(crate) socket: Socket,
    pub(crate) from: Option<IpAddr>,
    /// Answers to earlier requests, to be sent first.
    pub(crate) output: Vec<u8>,
    /// What was read already.
    pub(crate) input: Vec<u8>,
    pub(crate) place: Place,
    /// Where its listener counts.
    pub(crate) tally: Arc<Tally>,
}

impl Connection {
    /// Reads once. `Ok(None)` where nothing has come; 0 where nothing will.
    pub(crate) fn read(&self, to: &mut [u8]) -> io::Result<Option<usize>> {
        again(|| (&self.socket).read(to))
    }

    /// Sends what waited, and then `more`; what is not taken waits. Says whether all has gone. What is `last` may go
    /// with the end of the connection, in one packet.
    pub(crate) fn send(&mut self, more: &[u8], last: bool) -> io::Result<bool> {
        if !self.output.is_empty() {
            let sent = self.push(&self.output, SendFlags::empty())?;
            self.output.drain(..sent);
            if !self.output.is_empty() {
                self.output.extend_from_slice(more);
                return Ok(false);
            }
            self.output = Vec::new();
        }
        if more.is_empty() {
            return Ok(true);
        }
        let sent = self.push(more, if last { SendFlags::MORE } else { SendFlags::empty() })?;
        let rest = more.get(sent..).unwrap_or_default();
        self.output.extend_from_slice(rest);
        Ok(rest.is_empty())
    }

    fn push(&self, bytes: &[u8], flags: SendFlags) -> io::Result<usize> {
        let call = || Ok(rustix::net::send(&self.socket, bytes, flags | SendFlags::NOSIGNAL)?);
        Ok(again(call)?.unwrap_or(0))
    }
}

fn again(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<Option<usize>> {
    loop {
        match call() {
            Ok(length) => return Ok(Some(length)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_host_cannot_take_all_places() {
        let connections = Connections::new(6, 2);
        let enter = |ip: &str| connections.enter(ip.parse().ok(), false);
        let first = enter("192.0.2.1").expect("a place");
        let _second = enter("::ffff:192.0.2.1").expect("a place");
        assert_eq!(enter("192.0.2.1").err(), Some(NoPlace::Crowd));
        drop(first);
        let _again = enter("192.0.2.1").expect("its place is free");
        let _network = [enter("2001:db8::1").expect("a place"), enter("2001:db8::ffff:2").expect("a place")];
        assert_eq!(enter("2001:db8::3").err(), Some(NoPlace::Crowd), "one network of 64 bits");
        let _other = enter("2001:db8:0:1::1").expect("a place");
        let proxy = connections.enter(Some([192, 0, 2, 1].into()), true).expect("bounded by the whole only");
        assert_eq!((connections.open(), enter("127.0.0.1").err()), (6, Some(NoPlace::Full)));
        drop(proxy);
        let here = enter("::1").expect("a place");
        assert_eq!(locked(&connections.taken).hosts.len(), 3, "this host is not counted");
        drop((_second, _again, _network, _other, here));
        assert_eq!(connections.open(), 0);
        assert!(locked(&connections.taken).hosts.is_empty());
    }
}
