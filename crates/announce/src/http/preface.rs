//! What a proxy says first on a connection: for whom it is (the PROXY protocol, versions 1 and 2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The longest preface that is taken, in bytes: the addresses, and what some proxies tell beside them.
pub const MAX_PREFACE: usize = 4096;

/// The longest of version 1, with its line's end.
const MAX_LINE: usize = 107;

/// How version 1 begins, and version 2.
const TEXT: &[u8] = b"PROXY ";
const BINARY: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// What stands at the beginning of a proxy's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preface {
    /// The beginning of a preface.
    Partial,
    /// A preface: the client's address, and how many bytes it has. Without an address the connection is the proxy's own
    /// (`UNKNOWN`, `LOCAL`), or the client's has none.
    Whole(Option<IpAddr>, usize),
    /// No preface.
    Broken,
}

impl Preface {
    /// Reads as much as there is. What is longer than [`MAX_PREFACE`] is [`Preface::Broken`].
    pub fn read(bytes: &[u8]) -> Self {
        if bytes.starts_with(BINARY) {
            return binary(bytes).unwrap_or(Self::Partial);
        }
        if bytes.starts_with(TEXT) {
            return text(bytes);
        }
        if TEXT.starts_with(bytes) || BINARY.starts_with(bytes) { Self::Partial } else { Self::Broken }
    }
}

/// Whether it begins as a preface does.
pub fn is_begun(bytes: &[u8]) -> bool {
    bytes.starts_with(TEXT) || bytes.starts_with(BINARY)
}

fn text(bytes: &[u8]) -> Preface {
    let line = bytes.get(..MAX_LINE).unwrap_or(bytes);
    let Some(end) = memchr::memchr(b'\n', line) else {
        return if bytes.len() < MAX_LINE { Preface::Partial } else { Preface::Broken };
    };
    let line = line.get(TEXT.len()..end).and_then(|line| line.strip_suffix(b"\r"));
    match line.and_then(source) {
        Some(source) => Preface::Whole(source, end + 1),
        None => Preface::Broken,
    }
}

/// The client's address in a line, behind its first word.
fn source(line: &[u8]) -> Option<Option<IpAddr>> {
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split(' ');
    let family = words.next()?;
    if family == "UNKNOWN" {
        // Whatever follows says nothing.
        return Some(None);
    }
    let mut ip = || -> Option<IpAddr> {
        let word = words.next()?;
        match family {
            "TCP4" => word.parse::<Ipv4Addr>().ok().map(IpAddr::from),
            "TCP6" => word.parse::<Ipv6Addr>().ok().map(IpAddr::from),
            _ => None,
        }
    };
    let (source, _destination) = (ip()?, ip()?);
    let is_port = |word: &str| {
        let digits = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
        digits && (word == "0" || !word.starts_with('0')) && word.parse::<u16>().is_ok()
    };
    let ports = is_port(words.next()?) && is_port(words.next()?) && words.next().is_none();
    ports.then_some(Some(source))
}

/// `None` where there is not all of it.
fn binary(bytes: &[u8]) -> Option<Preface> {
    let rest = bytes.get(BINARY.len()..)?;
    let &[command, ref rest @ ..] = rest else { return None };
    if !matches!(command, 0x20 | 0x21) {
        return Some(Preface::Broken);
    }
    let &[family, ref rest @ ..] = rest else { return None };
    let &[high, low, ref rest @ ..] = rest else { return None };
    let length = usize::from(u16::from_be_bytes([high, low]));
    let whole = BINARY.len() + 4 + length;
    // Of each: address and port twice, or two paths.
    let least = match family {
        _ if command == 0x20 => 0,
        0x00 => 0,
        0x11 => 12,
        0x21 => 36,
        0x31 => 216,
        // Datagrams, and what there is not.
        _ => return Some(Preface::Broken),
    };
    if whole > MAX_PREFACE || length < least {
        return Some(Preface::Broken);
    }
    let rest = rest.get(..length)?;
    let source = match (command, family) {
        (0x21, 0x11) => rest.first_chunk::<4>().map(|ip| IpAddr::from(*ip)),
        (0x21, 0x21) => rest.first_chunk::<16>().map(|ip| IpAddr::from(*ip)),
        _ => None,
    };
    Some(Preface::Whole(source, whole))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).expect("fits").to_be_bytes();
        [BINARY, &[command, family], &length, body].concat()
    }

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().expect("an address"))
    }

    #[test]
    fn both_versions_name_the_client() {
        let mut tcp6 = [0; 36];
        tcp6[15] = 1;
        let with_more = [&[192, 0, 2, 1, 10, 0, 0, 1, 0, 80, 0, 81][..], b"\x04\x00\x01x"].concat();
        for (preface, source) in [
            (b"PROXY TCP4 192.0.2.1 10.0.0.1 56324 443\r\n".to_vec(), ip("192.0.2.1")),
            (b"PROXY TCP6 2001:db8::1 ::1 0 65535\r\n".to_vec(), ip("2001:db8::1")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff::1 whatever 1 2\r\n".to_vec(), None),
            (v2(0x21, 0x11, &with_more[..12]), ip("192.0.2.1")),
            (v2(0x21, 0x11, &with_more), ip("192.0.2.1")),
            (v2(0x21, 0x21, &tcp6), ip("::1")),
            (v2(0x21, 0x31, &[0; 216]), None),
            (v2(0x21, 0x00, b""), None),
            (v2(0x20, 0x00, b""), None),
            (v2(0x20, 0x11, &with_more), None),
        ] {
            let all = [&preface[..], b"GET / HTTP/1.1\r\n"].concat();
            assert_eq!(Preface::read(&all), Preface::Whole(source, preface.len()), "{}", all.escape_ascii());
            for length in 0..preface.len() {
                assert_eq!(Preface::read(&preface[..length]), Preface::Partial, "{length}");
            }
        }
    }

    #[test]
    fn what_is_not_exactly_a_preface_is_refused() {
        let long_line = [b"PROXY UNKNOWN ", &[b'x'; 93][..]].concat();
        assert_eq!(Preface::read(&long_line[..106]), Preface::Partial);
        for broken in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"\x16\x03\x01",
            b"proxy TCP4 1.1.1.1 2.2.2.2 1 2\r\n",
            b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\n",
            b"PROXY TCP4  1.1.1.1 2.2.2.2 1 2\r\n",
            b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2 \r\n",
            b"PROXY TCP4 1.1.1.1 2.2.2.2 1\r\n",
            b"PROXY TCP4 1.1.1.1 2.2.2.2 1 65536\r\n",
            b"PROXY TCP4 1.1.1.1 2.2.2.2 01 2\r\n",
            b"PROXY TCP4 1.1.1.1 2.2.2.2 +1 2\r\n",
            b"PROXY TCP4 1.1.1.01 2.2.2.2 1 2\r\n",
            b"PROXY TCP4 ::1 ::1 1 2\r\n",
            b"PROXY TCP6 1.1.1.1 2.2.2.2 1 2\r\n",
            b"PROXY UDP4 1.1.1.1 2.2.2.2 1 2\r\n",
            b"PROXY \r\n",
            &long_line,
            &v2(0x11, 0x11, &[0; 12]),
            &v2(0x22, 0x11, &[0; 12]),
            &v2(0x21, 0x12, &[0; 12]),
            &v2(0x21, 0x13, &[0; 12]),
            &v2(0x21, 0x11, &[0; 11]),
            &v2(0x21, 0x21, &[0; 35]),
            &v2(0x21, 0x31, &[0; 215]),
            &v2(0x20, 0x00, &[0; MAX_PREFACE]),
        ] {
            assert_eq!(Preface::read(broken), Preface::Broken, "{}", broken.escape_ascii());
        }
        // Known before the rest has come, which may never.
        assert_eq!(Preface::read(&v2(0x20, 0x00, &[0; 60_000])[..16]), Preface::Broken);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic_and_never_beyond_their_end(
            bytes: Vec<u8>,
            head in proptest::sample::select(vec![&b""[..], TEXT, BINARY, b"PROXY TCP4 1.1.1.1 "]),
        ) {
            let bytes = [head, &bytes].concat();
            if let Preface::Whole(_, length) = Preface::read(&bytes) {
                prop_assert!(length <= bytes.len() && length <= MAX_PREFACE);
                prop_assert_eq!(Preface::read(&bytes[..length - 1]), Preface::Partial);
            }
        }

        #[test]
        fn any_client_is_named_by_both_versions(a: [u8; 4], b: [u8; 16], port: u16, to: u16, more: Vec<u8>) {
            let (a4, b6) = (Ipv4Addr::from(a), Ipv6Addr::from(b));
            let line4 = format!("PROXY TCP4 {a4} 127.0.0.1 {port} {to}\r\n").into_bytes();
            let line6 = format!("PROXY TCP6 {b6} ::1 {port} {to}\r\n").into_bytes();
            let two4 = v2(0x21, 0x11, &[&a[..], &[0; 8], &more].concat());
            let two6 = v2(0x21, 0x21, &[&b[..], &[0; 20], &more].concat());
            for (preface, ip) in [(&line4, a4.into()), (&two4, a4.into()), (&line6, IpAddr::from(b6)), (&two6, b6.into())] {
                prop_assert_eq!(Preface::read(preface), Preface::Whole(Some(ip), preface.len()));
                let with_rest = [&preface[..], &more].concat();
                prop_assert_eq!(Preface::read(&with_rest), Preface::Whole(Some(ip), preface.len()));
            }
        }
    }
}
