//! Where the tracker listens, and what for.

use std::{
    fmt,
    net::{Ipv6Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Where to listen: `192.0.2.1:6969`, `[::]:6969`, `:6969` for everywhere, or `unix:/path`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Listen {
    /// An address and a port.
    Address(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

/// Not a place to listen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no address to listen on: write an IP address and a port, such as 0.0.0.0:6969, or unix: and the path of \
     a socket, such as unix:/run/longshore-tracker/http.sock"
)]
pub struct ListenError(String);

impl FromStr for Listen {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        let text = text.trim();
        let refuse = || ListenError(text.chars().take(200).collect());
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err(refuse()) } else { Ok(Self::Unix(path.into())) };
        }
        // As in many programs, a port alone is that port everywhere.
        if let Some(port) = text.strip_prefix(':').and_then(|port| port.parse().ok()) {
            return Ok(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into());
        }
        text.parse().map(Self::Address).map_err(|_| refuse())
    }
}

impl Listen {
    /// The address, if it is one.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Address(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }
}

impl From<SocketAddr> for Listen {
    fn from(address: SocketAddr) -> Self {
        Self::Address(address)
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Serialize for Listen {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// Something that listens, as the URL by which it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Endpoint {
    /// HTTP.
    Http(Listen),
    /// HTTP within TLS.
    Https(SocketAddr),
    /// BEP 15.
    Udp(SocketAddr),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(Listen::Address(address)) => write!(f, "http://{address}/announce"),
            Self::Http(unix @ Listen::Unix(_)) => unix.fmt(f),
            Self::Https(address) => write!(f, "https://{address}/announce"),
            Self::Udp(address) => write!(f, "udp://{address}"),
        }
    }
}

/// Who may connect to a unix socket, as the mode of its file in octal: `660`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketMode(u32);

/// Not a mode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no mode of a socket to which anybody could connect: write three octal digits, such as 660, with the right \
     to write (2) for the owner, the group or others"
)]
pub struct SocketModeError(String);

impl SocketMode {
    /// The owner and the group: a proxy is put into the group.
    pub const GROUP: Self = Self(0o660);

    pub(crate) const fn bits(self) -> u32 {
        self.0
    }
}

impl FromStr for SocketMode {
    type Err = SocketModeError;

    fn from_str(text: &str) -> Result<Self, SocketModeError> {
        let bits = if text.starts_with('+') { None } else { u32::from_str_radix(text, 8).ok() };
        // To connect is to write.
        let bits = bits.filter(|bits| *bits <= 0o777 && bits & 0o222 != 0);
        bits.map(Self).ok_or_else(|| SocketModeError(text.chars().take(20).collect()))
    }
}

impl fmt::Display for SocketMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:03o}", self.0)
    }
}

impl Serialize for SocketMode {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SocketMode {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_to_listen_is_an_address_a_port_or_a_path() {
        for text in ["127.0.0.1:6969", "[::1]:0", "unix:/run/t.sock", "unix:t.sock"] {
            assert_eq!(text.parse::<Listen>().expect("good").to_string(), text);
        }
        assert_eq!(":80".parse::<Listen>().expect("good").to_string(), "[::]:80");
        for wrong in ["", "6969", "localhost:6969", "unix:", "/run/t.sock", "127.0.0.1"] {
            let error = wrong.parse::<Listen>().expect_err(wrong).to_string();
            assert!(error.contains("unix:/run/"), "{error}");
        }
    }

    #[test]
    fn a_mode_is_octal() {
        assert_eq!("660".parse(), Ok(SocketMode::GROUP));
        assert_eq!("0660".parse::<SocketMode>().expect("good").to_string(), "660");
        assert_eq!("2".parse::<SocketMode>().expect("good").to_string(), "002");
        for wrong in ["", "0", "000", "555", "9", "0o660", "1777", "+66", "-1", "rw"] {
            assert!(wrong.parse::<SocketMode>().is_err(), "{wrong}");
        }
    }
}
