//! What a lab is told at its start.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{LabError, image::ImageError, links};

/// The most nodes of one lab.
pub const MAX_NODES: usize = 200;

/// A lab's configuration.
#[derive(Debug, Clone)]
pub struct LabConfig {
    /// The program that has the roles `tracker` and `node`.
    pub program: PathBuf,
    /// Where everything lies; it must be empty, and stays. Without it, a temporary directory.
    pub directory: Option<PathBuf>,
    /// What goes into the image.
    pub sources: Sources,
    /// Nodes that hold the image before the others ask for it.
    pub seeders: usize,
    /// Nodes that pull it at once.
    pub leechers: usize,
    /// A network namespace for each node, the tracker and the registry. For root only.
    pub namespaces: bool,
    /// The speed of each node's link, both ways. Without namespaces nodes limit themselves, towards peers alone.
    pub rate: Option<Rate>,
    /// The speed of the registry's link, both ways. With namespaces only.
    pub origin_rate: Option<Rate>,
    /// Leave it running after the report, until told to stop.
    pub keep: bool,
    /// How long one round of pulls may take.
    pub deadline: Duration,
    /// The log filter of tracker and nodes.
    pub log: String,
}

/// What goes into the image.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Sources {
    /// Its files.
    pub directory: Option<PathBuf>,
    /// Files that are a layer each.
    pub extra: Vec<PathBuf>,
}

impl Sources {
    /// A directory that was asked for.
    pub fn directory(directory: PathBuf) -> Self {
        Self { directory: Some(directory), extra: Vec::new() }
    }

    /// This repository's own sources, where `here` is a checkout of it, and the program.
    pub fn own(here: &Path, program: &Path) -> Self {
        let is_checkout = here.join("Cargo.toml").is_file() && here.join("crates/longshore").is_dir();
        Self { directory: is_checkout.then(|| here.to_owned()), extra: vec![program.to_owned()] }
    }
}

impl LabConfig {
    pub(crate) fn nodes(&self) -> usize {
        self.seeders.saturating_add(self.leechers)
    }

    /// Whether it makes sense.
    pub(crate) fn check(&self) -> Result<(), LabError> {
        let shaped = self.rate.or(self.origin_rate).is_some();
        if self.origin_rate.is_some() && !self.namespaces {
            return Err(LabError::OriginRateWithoutNamespaces);
        }
        if self.nodes() > MAX_NODES {
            return Err(LabError::TooManyNodes { asked: self.nodes() });
        }
        if self.leechers == 0 {
            return Err(LabError::NoLeecher);
        }
        if self.namespaces {
            if !rustix::process::geteuid().is_root() {
                return Err(LabError::NotRoot);
            }
            let programs = ["ip", "tc"].into_iter().take(if shaped { 2 } else { 1 });
            links::expect_programs(programs, links::PATH)?;
        }
        if let Some(directory) = &self.sources.directory {
            let readable = std::fs::read_dir(directory).map(drop);
            readable.map_err(|error| ImageError::Io { path: directory.clone(), error })?;
        }
        Ok(())
    }
}

/// A link's speed in bits per second, written as `tc` does: `100mbit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate(u64);

/// Not a rate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no link speed: write it as 100mbit, 800kbit or 1gbit (at least 64kbit, at most 100gbit)")]
pub struct RateError(String);

impl Rate {
    /// Bits per second.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Of so many bits per second; none outside of what can be.
    pub fn of_bits(bits: u64) -> Option<Self> {
        (64_000..=100_000_000_000).contains(&bits).then_some(Self(bits))
    }

    /// What may pass at once: four milliseconds' worth (a kernel that ticks 250 times a second refills no sooner),
    /// and never less than the largest packet that the kernel hands down in one piece.
    pub(crate) const fn burst(self) -> u64 {
        let bytes = self.0 / 8 / 250;
        if bytes > 128 << 10 { bytes } else { 128 << 10 }
    }

    /// What may wait before packets are dropped: 50 milliseconds' worth, as in a fair switch.
    pub(crate) const fn queue(self) -> u64 {
        let bytes = self.0 / 8 / 20;
        self.burst() + if bytes > 256 << 10 { bytes } else { 256 << 10 }
    }
}

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        let wrong = || RateError(text.to_owned());
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = text.split_at(digits);
        let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
            "bit" => 1,
            "kbit" => 1_000,
            "mbit" => 1_000_000,
            "gbit" => 1_000_000_000,
            _ => return Err(wrong()),
        };
        let bits = number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).ok_or_else(wrong)?;
        Self::of_bits(bits).ok_or_else(wrong)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bits if bits % 1_000_000_000 == 0 => write!(f, "{}gbit", bits / 1_000_000_000),
            bits if bits % 1_000_000 == 0 => write!(f, "{}mbit", bits / 1_000_000),
            bits if bits % 1_000 == 0 => write!(f, "{}kbit", bits / 1_000),
            bits => write!(f, "{bits}bit"),
        }
    }
}

/// How long a link takes, in milliseconds, written as `5ms` or `1s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delay(u64);

/// Not a delay.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no delay of a link: write it as 5ms or 1s (at least 1ms, at most 10s)")]
pub struct DelayError(String);

impl Delay {
    /// Milliseconds.
    pub const fn millis(self) -> u64 {
        self.0
    }
}

impl FromStr for Delay {
    type Err = DelayError;

    fn from_str(text: &str) -> Result<Self, DelayError> {
        let wrong = || DelayError(text.to_owned());
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = text.split_at(digits);
        let factor: u64 = match unit.trim() {
            "ms" => 1,
            "s" => 1000,
            _ => return Err(wrong()),
        };
        let millis = number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).ok_or_else(wrong)?;
        (1..=10_000).contains(&millis).then_some(Self(millis)).ok_or_else(wrong)
    }
}

impl fmt::Display for Delay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms", self.0)
    }
}

/// As they are written, in topologies.
macro_rules! as_text {
    ($($kind:ty),*) => {$(
        impl Serialize for $kind {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $kind {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

as_text!(Rate, Delay);

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn config(seeders: usize, leechers: usize) -> LabConfig {
        LabConfig {
            program: "longshore".into(),
            directory: None,
            sources: Sources::default(),
            seeders,
            leechers,
            namespaces: false,
            rate: None,
            origin_rate: None,
            keep: false,
            deadline: Duration::from_secs(60),
            log: "info".into(),
        }
    }

    #[test]
    fn rates_are_read_and_written_as_tc_does() {
        for text in ["100mbit", "1gbit", "800kbit"] {
            assert_eq!(text.parse::<Rate>().expect("a rate").to_string(), text);
        }
        for text in ["", "100", "mbit", "100mb", "-1mbit", "1kbit", "101gbit", "99999999999999999999gbit"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
        let rate: Rate = "10gbit".parse().expect("a rate");
        assert_eq!((rate.burst(), rate.queue()), (5_000_000, 67_500_000));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert!(config(2, 10).check().is_ok());
        assert!(matches!(config(2, 0).check(), Err(LabError::NoLeecher)));
        assert!(matches!(config(1, MAX_NODES).check(), Err(LabError::TooManyNodes { .. })));
        assert!(matches!(config(usize::MAX, 1).check(), Err(LabError::TooManyNodes { .. })));
        let missing = LabConfig { sources: Sources::directory("/nonexistent".into()), ..config(1, 1) };
        assert!(matches!(missing.check(), Err(LabError::Image(ImageError::Io { .. }))));
        let limited = LabConfig { rate: "1gbit".parse().ok(), ..config(1, 1) };
        assert!(limited.check().is_ok());
        let shaped = LabConfig { origin_rate: "1gbit".parse().ok(), ..config(1, 1) };
        assert!(matches!(shaped.check(), Err(LabError::OriginRateWithoutNamespaces)));
    }

    #[test]
    fn a_checkout_is_known_by_its_crates() {
        let here = tempfile::tempdir().expect("a directory");
        assert_eq!(Sources::own(here.path(), Path::new("/bin/p")).directory, None);
        std::fs::write(here.path().join("Cargo.toml"), "").expect("written");
        std::fs::create_dir_all(here.path().join("crates/longshore")).expect("made");
        let own = Sources::own(here.path(), Path::new("/bin/p"));
        assert_eq!((own.directory.as_deref(), own.extra.len()), (Some(here.path()), 1));
    }
}
