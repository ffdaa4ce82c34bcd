//! Which addresses are somewhere in the internet, and not in this host or its network.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use nix::ifaddrs::getifaddrs;
use tokio::time::Instant;

/// How long the list of this host's addresses is good for.
const OWN_LIFE: Duration = Duration::from_secs(5);

type Own = Arc<[IpAddr]>;

/// What this host's addresses were, and when that was looked at.
static OWN: Mutex<Option<(Instant, Own)>> = Mutex::new(None);

/// Whether `address` is one of the public internet and not one that this host has itself. What only a router in front of
/// this host knows to be its address counts as the internet's.
pub(crate) fn is_public(address: IpAddr) -> bool {
    is_global(address) && !is_among(address, &own_addresses())
}

/// Whether `address` is one of `own`, also where an IPv4 address is wrapped into an IPv6 one.
fn is_among(address: IpAddr, own: &[IpAddr]) -> bool {
    let wrapped = match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => address.to_ipv4_mapped().or_else(|| wrapped_v4(address)),
    };
    own.contains(&address) || wrapped.is_some_and(|address| own.contains(&address.into()))
}

fn own_addresses() -> Own {
    let mut known = OWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((at, own)) = &*known
        && at.elapsed() < OWN_LIFE
    {
        return own.clone();
    }
    let own: Own = match getifaddrs() {
        Ok(interfaces) => interfaces
            .filter_map(|interface| {
                let address = interface.address?;
                let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
                v4.or_else(|| Some(IpAddr::V6(address.as_sockaddr_in6()?.ip())))
            })
            .collect(),
        Err(error) => {
            tracing::warn!("this host's own addresses are not known, and may be asked: {error}");
            known.as_ref().map(|(_, own)| own.clone()).unwrap_or_default()
        }
    };
    *known = Some((now(), own.clone()));
    own
}

#[allow(clippy::disallowed_methods, reason = "a list grows old")]
fn now() -> Instant {
    Instant::now()
}

/// Whether `address` is one of the public internet (IANA's special-purpose registries, RFC 6890), also where an IPv4
/// address is wrapped into an IPv6 one.
fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let special = match address.octets() {
        // This network; carrier-grade NAT (RFC 6598); protocol assignments; benchmarks (RFC 2544); reserved.
        [0 | 240.., ..] | [100, 64..=127, ..] | [192, 0, 0, _] | [198, 18 | 19, ..] => true,
        _ => false,
    };
    !(special
        || address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        || address.is_multicast())
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    if let Some(inner) = address.to_ipv4_mapped() {
        return is_public_v4(inner);
    }
    if let Some(inner) = wrapped_v4(address) {
        return is_public_v4(inner);
    }
    match address.segments() {
        // Teredo and other protocol assignments; documentation.
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => false,
        // All that is given out (RFC 4291).
        [0x2000..=0x3fff, ..] => true,
        _ => false,
    }
}

/// The IPv4 address that NAT64 (RFC 6052) and 6to4 (RFC 3056) lead to.
fn wrapped_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    match address.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            Some(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_hosts_own_addresses_are_known_however_they_are_written() {
        let own = own_addresses();
        assert!(is_among("127.0.0.1".parse().expect("one"), &own), "{own:?}");
        let own: Vec<IpAddr> = ["9.9.9.9", "2620:fe::fe"].map(|text| text.parse().expect(text)).to_vec();
        for text in ["9.9.9.9", "::ffff:9.9.9.9", "64:ff9b::909:909", "2002:909:909::1", "2620:fe::fe"] {
            assert!(is_among(text.parse().expect(text), &own), "{text}");
        }
        for text in ["9.9.9.10", "2620:fe::ff", "::ffff:9.9.9.10"] {
            assert!(!is_among(text.parse().expect(text), &own), "{text}");
        }
    }

    #[test]
    fn only_addresses_of_the_internet_are_public() {
        for text in [
            "1.1.1.1",
            "100.63.0.1",
            "172.32.0.1",
            "198.20.0.1",
            "2606:4700::1111",
            "2a00:1450::1",
            "64:ff9b::101:101",
            "2002:101:101::1",
            "::ffff:1.1.1.1",
        ] {
            assert!(is_global(text.parse().expect(text)), "{text}");
        }
        for text in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "192.0.0.1",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "2001:db8::1",
            "2001::1",
            "::ffff:127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::1",
            "2002:a00:1::1",
            "::127.0.0.1",
            "64:ff9b:1::1",
        ] {
            assert!(!is_global(text.parse().expect(text)), "{text}");
        }
    }
}
