//! Magnet links: a torrent's info-hash and where to ask for the rest (BEP 9, 53).

use std::{fmt, str::FromStr};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::InfoHash;

/// The longest link that is read, in bytes.
const MAX_LENGTH: usize = 64 * 1024;
/// The most trackers, the most web seeds and the most peers that are read; more are ignored.
const MAX_ENTRIES: usize = 100;

/// A magnet link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Magnet {
    /// `xt=urn:btih:`
    pub info_hash: InfoHash,
    /// `dn`: a name to show until the torrent is there. Not safe as a path.
    pub name: Option<String>,
    /// `xl`: the content's length in bytes.
    pub length: Option<u64>,
    /// `tr`: tracker URLs.
    pub trackers: Vec<String>,
    /// `ws`: web seeds (BEP 19).
    pub web_seeds: Vec<String>,
    /// `x.pe`: peers, each as `host:port`, where the host may be a name, an IPv4 address or `[IPv6 address]`.
    pub peers: Vec<String>,
}

impl Magnet {
    /// A link that holds the info-hash alone.
    pub const fn new(info_hash: InfoHash) -> Self {
        Self {
            info_hash,
            name: None,
            length: None,
            trackers: Vec::new(),
            web_seeds: Vec::new(),
            peers: Vec::new(),
        }
    }
}

/// Why a text is no magnet link that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MagnetError {
    /// Some other text.
    #[error("not a magnet link: it must begin with `magnet:?`")]
    NotAMagnet,
    /// Longer than any sensible link.
    #[error("the magnet link is longer than {MAX_LENGTH} bytes")]
    TooLong,
    /// No `xt=urn:btih:`.
    #[error("the magnet link has no info-hash (`xt=urn:btih:` and 40 hex or 32 base32 digits)")]
    MissingInfoHash,
    /// `xt=urn:btih:` with something else behind it.
    #[error("the magnet link's info-hash is neither 40 hex nor 32 base32 digits")]
    BadInfoHash,
    /// Two info-hashes that differ.
    #[error("the magnet link names two different torrents")]
    TwoInfoHashes,
    /// Only `xt=urn:btmh:` (BEP 52).
    #[error("the magnet link is for a v2 torrent: Longshore reads v1 torrents and hybrids")]
    V2Only,
}

impl FromStr for Magnet {
    type Err = MagnetError;

    fn from_str(text: &str) -> Result<Self, MagnetError> {
        if text.len() > MAX_LENGTH {
            return Err(MagnetError::TooLong);
        }
        let query =
            text.trim().split_at_checked(8).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("magnet:?"));
        let (_, query) = query.ok_or(MagnetError::NotAMagnet)?;

        let mut info_hash = None;
        let mut v2 = false;
        let mut magnet = Self::new(InfoHash::from_bytes([0; 20]));
        for (key, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            // Several of a kind may be numbered: `tr.1`, `tr.2`.
            let kind = key.split_once('.').filter(|(_, n)| n.bytes().all(|b| b.is_ascii_digit()));
            match kind.map_or(key, |(kind, _)| kind) {
                "xt" => {
                    let topic = decoded(value).unwrap_or_default();
                    if let Some(digits) = strip_prefix_ignoring_case(&topic, "urn:btih:") {
                        let found = parse_info_hash(digits).ok_or(MagnetError::BadInfoHash)?;
                        if info_hash.replace(found).is_some_and(|before| before != found) {
                            return Err(MagnetError::TwoInfoHashes);
                        }
                    }
                    v2 |= strip_prefix_ignoring_case(&topic, "urn:btmh:").is_some();
                }
                "dn" => magnet.name = decoded(&value.replace('+', " ")).filter(|name| !name.is_empty()),
                "xl" => magnet.length = value.parse().ok(),
                "tr" => push(&mut magnet.trackers, decoded(value)),
                "ws" => push(&mut magnet.web_seeds, decoded(value)),
                "x.pe" => push(&mut magnet.peers, decoded(value).filter(|peer| is_peer(peer))),
                _ => {}
            }
        }
        magnet.info_hash =
            info_hash.ok_or(if v2 { MagnetError::V2Only } else { MagnetError::MissingInfoHash })?;
        Ok(magnet)
    }
}

impl fmt::Display for Magnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
        write!(f, "magnet:?xt=urn:btih:{}", self.info_hash)?;
        let list = |f: &mut fmt::Formatter<'_>, key: &str, values: &[String]| {
            values.iter().try_for_each(|value| write!(f, "&{key}={}", utf8_percent_encode(value, KEPT)))
        };
        list(f, "dn", self.name.as_slice())?;
        if let Some(length) = self.length {
            write!(f, "&xl={length}")?;
        }
        list(f, "tr", &self.trackers)?;
        list(f, "ws", &self.web_seeds)?;
        list(f, "x.pe", &self.peers)
    }
}

fn decoded(value: &str) -> Option<String> {
    percent_decode_str(value).decode_utf8().ok().map(|text| text.trim().to_owned())
}

fn push(list: &mut Vec<String>, value: Option<String>) {
    if let Some(value) = value
        && !value.is_empty()
        && list.len() < MAX_ENTRIES
        && !list.contains(&value)
    {
        list.push(value);
    }
}

fn is_peer(peer: &str) -> bool {
    let port = peer.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    port.and_then(|(_, port)| port.parse::<u16>().ok()).is_some_and(|port| port != 0)
}

fn strip_prefix_ignoring_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (head, tail) = text.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(tail)
}

fn parse_info_hash(digits: &str) -> Option<InfoHash> {
    match digits.len() {
        40 => digits.parse().ok(),
        32 => from_base32(digits).map(InfoHash::from_bytes),
        _ => None,
    }
}

/// RFC 4648, section 6, either case, no padding: 32 digits of 5 bits.
fn from_base32(digits: &str) -> Option<[u8; 20]> {
    let mut bytes = [0; 20];
    for (out, digits) in bytes.chunks_exact_mut(5).zip(digits.as_bytes().chunks_exact(8)) {
        let mut bits = 0u64;
        for digit in digits {
            let value = match digit.to_ascii_uppercase() {
                letter @ b'A'..=b'Z' => letter - b'A',
                number @ b'2'..=b'7' => number - b'2' + 26,
                _ => return None,
            };
            bits = bits << 5 | u64::from(value);
        }
        let [_, _, _, tail @ ..] = bits.to_be_bytes();
        out.copy_from_slice(&tail);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEX: &str = "c0fda1edafdbdbb96443424e0b3899af7159d10e";

    #[test]
    fn reads_what_clients_write() {
        let link = format!(
            "magnet:?xt=urn:btih:{HEX}&dn=Some+name%21&xl=425&tr=udp%3A%2F%2Ft.example%3A80&tr.1=http://u.example/a?k=v\
             &x.pe=10.0.0.1:6881&x.pe=[::1]:6881&x.pe=nonsense&as=ignored&tr=udp%3A%2F%2Ft.example%3A80"
        );
        let magnet: Magnet = link.parse().expect("valid");
        assert_eq!(magnet.info_hash.to_string(), HEX);
        assert_eq!(magnet.name.as_deref(), Some("Some name!"));
        assert_eq!(magnet.length, Some(425));
        assert_eq!(magnet.trackers, ["udp://t.example:80", "http://u.example/a?k=v"]);
        assert_eq!(magnet.peers, ["10.0.0.1:6881", "[::1]:6881"]);
        assert_eq!(magnet.to_string().parse(), Ok(magnet));
    }

    #[test]
    fn base32_is_hex_in_other_digits() {
        let magnet = |digits: &str| format!("MAGNET:?xt=urn:btih:{digits}").parse::<Magnet>();
        let zeros = magnet(&"A".repeat(32)).expect("valid");
        assert_eq!(zeros.info_hash.as_bytes(), &[0; 20]);
        let ones = magnet(&"7".repeat(32)).expect("valid");
        assert_eq!(ones.info_hash.as_bytes(), &[255; 20]);
        assert_eq!(magnet("aebagbafaydqqcikbmga2dqpcaireeyu").expect("valid").info_hash.as_bytes(), &{
            let mut counting = [0; 20];
            (1u8..).zip(&mut counting).for_each(|(n, byte)| *byte = n);
            counting
        });
        assert_eq!(magnet(&"1".repeat(32)), Err(MagnetError::BadInfoHash));
    }

    #[test]
    fn says_what_is_wrong() {
        let parse = |text: &str| text.parse::<Magnet>();
        assert_eq!(parse("http://example"), Err(MagnetError::NotAMagnet));
        assert_eq!(parse("mägnet:?xt"), Err(MagnetError::NotAMagnet));
        assert_eq!(parse("magnet:?dn=x"), Err(MagnetError::MissingInfoHash));
        assert_eq!(parse("magnet:?xt=urn:btih:12"), Err(MagnetError::BadInfoHash));
        assert_eq!(parse("magnet:?xt=urn:btmh:1220ab"), Err(MagnetError::V2Only));
        assert_eq!(
            parse(&format!("magnet:?xt=urn:btih:{HEX}&xt=urn:btih:{}", "0".repeat(40))),
            Err(MagnetError::TwoInfoHashes)
        );
        assert_eq!(parse(&"m".repeat(MAX_LENGTH + 1)), Err(MagnetError::TooLong));
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_the_same(text in "(magnet:\\?xt=urn:btih:[0-9a-f]{40}(&(dn|tr|ws|x\\.pe|xl|xt)=[^&]{0,12}){0,6})") {
            if let Ok(magnet) = text.parse::<Magnet>() {
                prop_assert_eq!(magnet.to_string().parse::<Magnet>(), Ok(magnet));
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC*") {
            let _ = text.parse::<Magnet>();
            let _ = format!("magnet:?{text}").parse::<Magnet>();
        }
    }
}
