//! How often a source may ask: a bucket for each network, filled at a steady rate, in a table of fixed size.
//!
//! A bucket is one number, the time at which it will be full again (GCRA, the leaky bucket of ITU-T I.371), with some
//! bits of the network's hash beside it: it is looked at and changed without a lock. The hash is keyed, so that nobody
//! can choose whose bucket he shares. Of four places a network takes one that is its own, or else the fullest bucket,
//! whose owner loses least by it.

use std::{
    hash::Hasher as _,
    net::{IpAddr, Ipv6Addr},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use siphasher::sip::SipHasher13;

use crate::{Config, Network};

/// How many networks are told apart; half a megabyte.
const SETS: usize = 16 * 1024;
const PLACES: usize = 4;

/// The lower bits of a place are a time in microseconds since the tracker's start, for nine years; the upper are the
/// network's mark.
const TIME_BITS: u32 = 48;
const TIME: u64 = (1 << TIME_BITS) - 1;

/// How often another worker may come first before a request is let through.
const TRIES: usize = 8;

#[derive(Debug)]
pub(crate) struct Limiter {
    sets: Box<[Set]>,
    key: [u64; 2],
    /// Microseconds in which a request's worth flows in.
    each: u64,
    /// Microseconds that an empty bucket takes to be full, but for one request.
    depth: u64,
    v4_bits: u8,
    v6_bits: u8,
    exempt: Vec<Network>,
}

/// What is counted, each in a bucket of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Request,
    Connection,
}

#[derive(Debug, Default)]
#[repr(align(32))]
struct Set([AtomicU64; PLACES]);

impl Limiter {
    /// What the configuration asks for; `None` where that is no limit.
    pub(crate) fn of(config: &Config) -> Option<Self> {
        let rate = config.rate_limit;
        let each = 1_000_000u64.checked_div(rate)?.max(1);
        Some(Self {
            sets: (0..SETS).map(|_| Set::default()).collect(),
            key: rand::random(),
            each,
            depth: each * config.rate_burst.saturating_sub(1),
            v4_bits: config.rate_prefix_v4,
            v6_bits: config.rate_prefix_v6,
            // Who asks by a proxy that does not say for whom is nobody in particular; but not where everybody may be one.
            exempt: config
                .rate_exempt
                .iter()
                .chain(config.trusted_proxies.iter().filter(|network| !network.is_everywhere()))
                .copied()
                .collect(),
        })
    }

    /// Whether a request from `ip` is within the limit; if so it counts.
    pub(crate) fn allows(&self, now: Duration, ip: IpAddr) -> bool {
        self.takes(now, ip, What::Request)
    }

    /// Whether a new connection from `ip` is: there may be twice as many as requests, so that only who asks far too
    /// often is not even told so.
    pub(crate) fn allows_connection(&self, now: Duration, ip: IpAddr) -> bool {
        self.takes(now, ip, What::Connection)
    }

    fn takes(&self, now: Duration, ip: IpAddr, what: What) -> bool {
        let ip = ip.to_canonical();
        if self.exempt.iter().any(|network| network.contains(ip)) {
            return true;
        }
        let hash = self.hash(ip, what);
        // Of connections half a request's worth each, from as deep a bucket.
        let each = if what == What::Request { self.each } else { self.each.div_ceil(2) };
        let Some(Set(places)) = self.sets.get(hash as usize % SETS) else { return true };
        // Never 0, which is the mark of nobody.
        let mark = (hash >> TIME_BITS | 1) << TIME_BITS;
        let now = now.as_micros() as u64 & TIME;
        for _ in 0..TRIES {
            let words = std::array::from_fn::<u64, PLACES, _>(|at| {
                places.get(at).map_or(0, |place| place.load(Relaxed))
            });
            let own = words.iter().position(|word| word & !TIME == mark);
            let fullest = || (0..PLACES).min_by_key(|&at| words.get(at).map_or(0, |word| word & TIME));
            let Some(at) = own.or_else(fullest) else { return true };
            let (Some(place), Some(&word)) = (places.get(at), words.get(at)) else { return true };
            let full = if own.is_some() { (word & TIME).max(now) } else { now };
            if full - now > self.depth {
                return false;
            }
            let next = mark | (full + each) & TIME;
            if place.compare_exchange_weak(word, next, Relaxed, Relaxed).is_ok() {
                return true;
            }
        }
        true
    }

    fn hash(&self, ip: IpAddr, what: What) -> u64 {
        let [a, b] = self.key;
        let mut hasher = SipHasher13::new_with_keys(a, b);
        hasher.write_u8(what as u8);
        match ip {
            IpAddr::V4(ip) => {
                let low = 32u32.saturating_sub(self.v4_bits.into());
                hasher.write_u32(ip.to_bits().checked_shr(low).unwrap_or(0));
            }
            IpAddr::V6(ip) => {
                let low = 128u32.saturating_sub(self.v6_bits.into());
                let network = Ipv6Addr::from_bits(ip.to_bits().checked_shr(low).unwrap_or(0));
                hasher.write(&network.octets());
            }
        }
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limiter(rate: u64, burst: u64) -> Limiter {
        let exempt = "192.0.2.0/24".parse().expect("a network");
        let config =
            Config { rate_limit: rate, rate_burst: burst, rate_exempt: vec![exempt], ..Config::default() };
        Limiter::of(&config).expect("a limit")
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    /// How many of so many requests at once are let through.
    fn passes(limiter: &Limiter, now: Duration, from: &str, requests: usize) -> usize {
        (0..requests).filter(|_| limiter.allows(now, ip(from))).count()
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let limiter = limiter(10, 5);
        let at = Duration::from_millis;
        assert_eq!(passes(&limiter, at(1000), "10.0.0.1", 100), 5);
        assert_eq!(passes(&limiter, at(1050), "10.0.0.1", 100), 0);
        assert_eq!(passes(&limiter, at(1100), "10.0.0.1", 100), 1);
        assert_eq!(passes(&limiter, at(1350), "10.0.0.1", 100), 2);
        assert_eq!(passes(&limiter, at(9000), "10.0.0.1", 100), 5, "full again, and no fuller");
        assert_eq!(passes(&limiter, at(9000), "10.0.0.2", 100), 5, "another's bucket");
        assert_eq!(passes(&limiter, at(9000), "::ffff:10.0.0.2", 100), 0, "the same address");
        assert_eq!(passes(&limiter, at(9000), "192.0.2.7", 100), 100, "exempt");
        let connections = (0..100).filter(|_| limiter.allows_connection(at(9000), ip("10.0.0.1"))).count();
        assert_eq!(connections, 9, "twice as many, and counted apart");
    }

    #[test]
    fn a_network_is_as_wide_as_is_set() {
        let mut limiter = limiter(1, 2);
        let now = Duration::from_secs(1);
        assert_eq!(passes(&limiter, now, "2001:db8::1", 2), 2);
        assert_eq!(passes(&limiter, now, "2001:db8::ffff:1", 2), 0, "one network of 64 bits");
        assert_eq!(passes(&limiter, now, "2001:db8:0:1::1", 2), 2);
        (limiter.v4_bits, limiter.v6_bits) = (24, 128);
        assert_eq!(passes(&limiter, now, "10.0.0.1", 2) + passes(&limiter, now, "10.0.0.2", 2), 2);
        assert_eq!(passes(&limiter, now, "2001:db8:1::1", 2) + passes(&limiter, now, "2001:db8:1::2", 2), 4);
    }

    #[test]
    fn who_asks_little_is_let_through_whatever_a_crowd_does() {
        let limiter = limiter(1, 10);
        for second in 0..10 {
            for host in 0..100_000u32 {
                let crowd = IpAddr::from((0x0b00_0000 | host).to_be_bytes());
                limiter.allows(Duration::from_secs(second), crowd);
            }
            assert!(limiter.allows(Duration::from_secs(second), ip("10.0.0.1")), "{second}");
        }
    }

    #[test]
    fn proxies_are_exempt_but_not_where_everybody_is_one() {
        let proxies = |trusted_proxies| {
            let config = Config { rate_limit: 1, rate_burst: 1, trusted_proxies, ..Config::default() };
            passes(&Limiter::of(&config).expect("a limit"), Duration::from_secs(1), "10.0.0.1", 9)
        };
        assert_eq!(proxies(vec!["10.0.0.0/8".parse().expect("a network")]), 9);
        assert_eq!(proxies(Network::EVERYWHERE.to_vec()), 1);
    }

    #[test]
    fn no_limit_is_none() {
        assert!(Limiter::of(&Config::default()).is_none());
    }

    proptest! {
        #[test]
        fn in_any_time_no_more_than_the_burst_and_the_rate_pass(
            gaps in proptest::collection::vec(0u64..500_000, 1..200),
            rate in 1u64..50,
            burst in 1u64..20,
        ) {
            let limiter = limiter(rate, burst);
            let (mut now, mut passed) = (1_000_000u64, 0u64);
            for gap in gaps {
                now += gap;
                passed += u64::from(limiter.allows(Duration::from_micros(now), ip("10.0.0.1")));
                // A microsecond is the least it is counted in.
                let most = burst + (now - 1_000_000) / limiter.each;
                prop_assert!((1..=most).contains(&passed), "{passed} of {most}");
            }
        }
    }
}
