//! Announces to the local network (BEP 14): which torrents a host takes part in, as a multicast packet in the form of
//! an HTTP request.
//!
//! Ours say one thing more, in a header that others pass over: `Left: 0`, from a host that has all of these torrents.

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
};

use metainfo::InfoHash;

/// Where announces go over IPv4.
pub const GROUP_V4: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(239, 192, 152, 143), 6771);
/// Where they go over IPv6.
pub const GROUP_V6: SocketAddrV6 =
    SocketAddrV6::new(Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 0xefc0, 0x988f), 6771, 0, 0);
/// The longest packet that is read, in bytes. The standard asks for 1400 at most.
pub const LONGEST: usize = 1500;
/// How many torrents are announced at once: so many fit into 1400 bytes.
pub const MOST: usize = 24;
/// The longest cookie.
const COOKIE: usize = 64;

/// An announce.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalAnnounce {
    /// Where the host listens for peers, at the address that the packet comes from. Not 0.
    pub port: u16,
    /// What the host puts into all its announces, by which it knows its own again. Letters, digits and `-`, at most 64.
    pub cookie: Option<String>,
    /// Whether the host has all of these torrents. Of others than Longshore that is not known.
    pub complete: bool,
    /// The torrents, at least one.
    pub info_hashes: Vec<InfoHash>,
}

/// Why a packet is no announce.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LocalError {
    /// It is too long.
    #[error("a local announce has at most {LONGEST} bytes")]
    Long,
    /// Not such a request.
    #[error("it is no local announce: it does not begin with `BT-SEARCH * HTTP/1.1`, or is no text")]
    Form,
    /// No port, or none that anybody can listen on.
    #[error("a local announce without a port")]
    Port,
    /// No torrent, or one whose name is none.
    #[error("a local announce without an info-hash, or with one that is not 40 hexadecimal digits")]
    InfoHash,
}

impl LocalAnnounce {
    /// As it is sent to `group`, with the first [`MOST`] torrents.
    pub fn encode(&self, group: SocketAddr) -> Vec<u8> {
        let mut text = format!("BT-SEARCH * HTTP/1.1\r\nHost: {group}\r\nPort: {}\r\n", self.port);
        for info_hash in self.info_hashes.iter().take(MOST) {
            let _ = write!(text, "Infohash: {info_hash}\r\n");
        }
        if self.complete {
            text.push_str("Left: 0\r\n");
        }
        if let Some(cookie) = self.cookie.as_deref().filter(|cookie| is_cookie(cookie)) {
            let _ = write!(text, "cookie: {cookie}\r\n");
        }
        text.push_str("\r\n\r\n");
        text.into_bytes()
    }

    /// Reads a packet. Headers that are not known are passed over, as is a cookie that could not be ours.
    ///
    /// # Errors
    /// What is no announce.
    pub fn parse(packet: &[u8]) -> Result<Self, LocalError> {
        if packet.len() > LONGEST {
            return Err(LocalError::Long);
        }
        let text = std::str::from_utf8(packet).map_err(|_| LocalError::Form)?;
        let mut lines = text.lines();
        let mut first = lines.next().unwrap_or_default().split(' ');
        let form = [first.next(), first.next(), first.next().and_then(|version| version.split('.').next())];
        if form != [Some("BT-SEARCH"), Some("*"), Some("HTTP/1")] || first.next().is_some() {
            return Err(LocalError::Form);
        }
        let (mut port, mut cookie, mut complete, mut info_hashes) = (None, None, false, Vec::new());
        for line in lines.take_while(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':').ok_or(LocalError::Form)?;
            let value = value.trim();
            match name.trim().to_ascii_lowercase().as_str() {
                "port" => port = Some(number(value).ok_or(LocalError::Port)?),
                // So many lines as the packet has; each is longer than what is kept of it.
                "infohash" => info_hashes.push(value.parse().map_err(|_| LocalError::InfoHash)?),
                "cookie" if is_cookie(value) => cookie = Some(value.to_owned()),
                "left" => complete = value == "0",
                _ => {}
            }
        }
        if info_hashes.is_empty() {
            return Err(LocalError::InfoHash);
        }
        Ok(Self { port: port.ok_or(LocalError::Port)?, cookie, complete, info_hashes })
    }
}

fn number(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port != 0)
}

fn is_cookie(text: &str) -> bool {
    (1..=COOKIE).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_other_clients_send_is_read() {
        let hash = "0123456789abcdef0123456789ABCDEF01234567";
        let text = format!(
            "BT-SEARCH * HTTP/1.1\r\nHost: 239.192.152.143:6771\r\nPort: 6881\r\nInfohash: {hash}\r\ncookie: a1-f\r\n\r\n\r\n"
        );
        let announce = LocalAnnounce::parse(text.as_bytes()).expect("good");
        assert_eq!(
            (announce.port, announce.cookie.as_deref(), announce.complete),
            (6881, Some("a1-f"), false)
        );
        assert_eq!(announce.info_hashes, [hash.parse().expect("hex")]);
        let other = format!(
            "BT-SEARCH * HTTP/1.0\nPORT:1\nINFOHASH: {hash}\nInfohash:{hash}\nX: y:z\ncookie: a b\n\n"
        );
        let other = LocalAnnounce::parse(other.as_bytes()).expect("good");
        assert_eq!((other.port, other.cookie, other.info_hashes.len()), (1, None, 2));
    }

    #[test]
    fn what_is_no_announce_is_refused() {
        let of = |first: &str, port: &str, hash: &str| {
            LocalAnnounce::parse(format!("{first}\r\nPort: {port}\r\nInfohash: {hash}\r\n\r\n").as_bytes())
        };
        let (first, hash) = ("BT-SEARCH * HTTP/1.1", "0123456789abcdef0123456789abcdef01234567");
        assert!(of(first, "1", hash).is_ok());
        for bad in [
            "",
            "M-SEARCH * HTTP/1.1",
            "BT-SEARCH / HTTP/1.1",
            "BT-SEARCH * HTTP/2",
            "BT-SEARCH * HTTP/1.1 x",
        ] {
            assert_eq!(of(bad, "1", hash), Err(LocalError::Form), "{bad}");
        }
        for bad in ["0", "65536", "+1", "", "x"] {
            assert_eq!(of(first, bad, hash), Err(LocalError::Port), "{bad}");
        }
        for bad in ["", "0123", &format!("{hash}0"), "0123456789abcdef0123456789abcdef0123456g"] {
            assert_eq!(of(first, "1", bad), Err(LocalError::InfoHash), "{bad}");
        }
        assert_eq!(
            LocalAnnounce::parse(b"BT-SEARCH * HTTP/1.1\r\nPort: 1\r\n\r\n"),
            Err(LocalError::InfoHash)
        );
        assert_eq!(LocalAnnounce::parse(&[b'a'; LONGEST + 1]), Err(LocalError::Long));
    }

    #[test]
    fn the_most_torrents_fit_into_a_packet() {
        let info_hashes = vec![InfoHash::from_bytes([7; 20]); MOST + 1];
        let announce =
            LocalAnnounce { port: 65535, cookie: Some("a".repeat(COOKIE)), complete: true, info_hashes };
        for group in [SocketAddr::V4(GROUP_V4), SocketAddr::V6(GROUP_V6)] {
            let packet = announce.encode(group);
            assert!(packet.len() <= 1400, "{}", packet.len());
            assert_eq!(LocalAnnounce::parse(&packet).expect("read").info_hashes.len(), MOST);
        }
    }

    proptest! {
        #[test]
        fn any_packet_is_refused_or_small(packet in "(BT-SEARCH \\* HTTP/1.1\r\n)?((Port|Infohash|cookie|Left): ?[0-9a-f]{0,40}\r\n){0,9}") {
            if let Ok(announce) = LocalAnnounce::parse(packet.as_bytes()) {
                prop_assert!(announce.port != 0 && !announce.info_hashes.is_empty());
            }
        }

        #[test]
        fn any_bytes_are_refused_or_read(packet in proptest::collection::vec(any::<u8>(), 0..1600)) {
            let _ = LocalAnnounce::parse(&packet);
        }

        #[test]
        fn what_is_written_is_read(
            port in 1u16.., cookie in proptest::option::of("[a-zA-Z0-9-]{1,64}"), complete in any::<bool>(),
            hashes in proptest::collection::vec(any::<[u8; 20]>(), 1..=MOST),
        ) {
            let info_hashes = hashes.into_iter().map(InfoHash::from_bytes).collect();
            let announce = LocalAnnounce { port, cookie, complete, info_hashes };
            prop_assert_eq!(LocalAnnounce::parse(&announce.encode(GROUP_V6.into())), Ok(announce));
        }
    }
}
