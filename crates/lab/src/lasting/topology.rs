//! Who is in a lab, how far apart, and what for: as a file, or as one of two that are made from a few numbers.

use std::{collections::HashSet, path::PathBuf};

use api::lab::{HostKind, Traffic};
use serde::{Deserialize, Serialize};

use crate::{
    LabError, MAX_NODES,
    links::{Between, Link},
    plan::Network,
};

/// The delay between zones that are only numbered.
const FAR: &str = "20ms";
/// The most of anything per minute that traffic makes.
const BUSY: f64 = 600.0;

/// A topology, as its file says it. Example: [`Topology::EXAMPLE`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Topology {
    /// Who has what from the start.
    pub seed: Seed,
    /// Each file and each directory in it becomes a torrent, each OCI layout images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sources: Option<PathBuf>,
    /// References of images of a registry outside.
    pub images: Vec<String>,
    /// Where that registry answers, if not where its name says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registry: Option<String>,
    /// Other clients.
    pub foreign: Vec<Foreign>,
    /// The links of the lab's registry and web server.
    pub origin: Link,
    /// Zones: hosts that are near one another.
    pub zones: Vec<Zone>,
    /// Links between them.
    pub between: Vec<Far>,
    /// Hosts whose links are not as their zone's.
    pub hosts: Vec<Special>,
    /// What the lab does by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traffic: Option<Traffic>,
}

/// Who has what from the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Seed {
    /// Each seeder everything.
    #[default]
    All,
    /// Each thing one seeder, by turns.
    Each,
    /// No seeder: images come from the registry alone. A torrent has no origin: one node holds it, by turns.
    Origin,
}

/// Another BitTorrent client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Foreign {
    /// `transmission-daemon`.
    Transmission,
    /// `rtorrent`.
    Rtorrent,
}

/// Hosts that are near one another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Zone {
    /// Its name; empty where there is only one. The servers are in the first.
    pub name: String,
    /// Nodes that have the content first.
    pub seeders: usize,
    /// Nodes that get it.
    pub leechers: usize,
    /// Each host's link.
    #[serde(flatten)]
    pub link: Link,
}

/// How two zones are joined.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Far {
    /// The two; where none is named, all that no other entry names.
    pub zones: Vec<String>,
    /// Their link.
    #[serde(flatten)]
    pub link: Link,
}

/// A host whose link is not as its zone's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Special {
    /// Its name: `s1` is the first seeder, `n1` the first leecher, counted through all zones.
    pub name: String,
    /// Its link, as far as that is another.
    #[serde(flatten)]
    pub link: Link,
}

impl Foreign {
    /// The program, which is the host's name too.
    pub const fn program(self) -> &'static str {
        match self {
            Self::Transmission => "transmission-daemon",
            Self::Rtorrent => "rtorrent",
        }
    }

    /// The host's name.
    pub const fn host(self) -> &'static str {
        match self {
            Self::Transmission => "transmission",
            Self::Rtorrent => "rtorrent",
        }
    }
}

impl std::str::FromStr for Foreign {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Transmission, Self::Rtorrent];
        all.into_iter().find(|client| client.host() == text).ok_or_else(|| {
            format!("`{text}` is no client that a lab can mix in: there are transmission and rtorrent")
        })
    }
}

impl Default for Topology {
    fn default() -> Self {
        Self {
            seed: Seed::All,
            sources: None,
            images: Vec::new(),
            registry: None,
            foreign: Vec::new(),
            origin: Link::default(),
            zones: vec![Zone { seeders: 2, leechers: 10, ..Zone::default() }],
            between: Vec::new(),
            hosts: Vec::new(),
            traffic: None,
        }
    }
}

impl Topology {
    /// A file with everything that there is, commented.
    pub const EXAMPLE: &str = include_str!("topology.toml");

    /// All on one switch.
    pub fn star(seeders: usize, leechers: usize) -> Self {
        Self { zones: vec![Zone { seeders, leechers, ..Zone::default() }], ..Self::default() }
    }

    /// So many zones, `zone1` and on, with the seeders in the first and the leechers spread evenly.
    pub fn zones(number: usize, seeders: usize, leechers: usize) -> Self {
        let zone = |place: usize| Zone {
            name: format!("zone{}", place + 1),
            seeders: if place == 0 { seeders } else { 0 },
            leechers: leechers / number.max(1) + usize::from(place < leechers % number.max(1)),
            ..Zone::default()
        };
        let link = Link { delay: FAR.parse().ok(), ..Link::default() };
        let far = Far { link, ..Far::default() };
        Self { zones: (0..number).map(zone).collect(), between: vec![far], ..Self::default() }
    }

    /// Reads a file's text.
    ///
    /// # Errors
    /// Where and what is wrong with it, in words.
    pub fn read(text: &str) -> Result<Self, String> {
        let topology: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        topology.check().map_err(|error| error.to_string())?;
        Ok(topology)
    }

    /// How many nodes there are.
    pub fn nodes(&self) -> usize {
        let of = |zone: &Zone| zone.seeders.saturating_add(zone.leechers);
        self.zones.iter().fold(0, |sum: usize, zone| sum.saturating_add(of(zone)))
    }

    /// Whether any link is to have a delay.
    pub fn delays(&self) -> bool {
        self.origin.delay.is_some()
            || self.zones.iter().any(|zone| zone.link.delay.is_some())
            || self.between.iter().any(|far| far.link.delay.is_some())
            || self.hosts.iter().any(|host| host.link.delay.is_some())
    }

    /// Whether anything but nodes is to have a speed.
    pub(crate) fn limits_more_than_nodes(&self) -> bool {
        let is_server = |special: &&Special| ["tracker", "registry", "web"].contains(&special.name.as_str());
        self.origin.rate.is_some()
            || self.between.iter().any(|far| far.link.rate.is_some())
            || self.hosts.iter().filter(is_server).any(|host| host.link.rate.is_some())
    }

    /// Takes all delays out, where the kernel has none.
    pub(crate) fn forget_delays(&mut self) {
        self.origin.delay = None;
        self.zones.iter_mut().for_each(|zone| zone.link.delay = None);
        self.between.iter_mut().for_each(|far| far.link.delay = None);
        self.hosts.iter_mut().for_each(|host| host.link.delay = None);
    }

    /// Whether it makes sense.
    pub(crate) fn check(&self) -> Result<(), LabError> {
        let wrong = |words: String| Err(LabError::Topology(words));
        if self.nodes() > MAX_NODES {
            return Err(LabError::TooManyNodes { asked: self.nodes() });
        }
        if self.nodes() == 0 {
            return wrong("there is no node in it: give seeders or leechers".into());
        }
        if self.zones.len() > Network::ZONES {
            return wrong(format!(
                "{} zones are too many: there may be {}",
                self.zones.len(),
                Network::ZONES
            ));
        }
        let hosts: HashSet<String> = self.seats().into_iter().map(|seat| seat.name).collect();
        let mut names = HashSet::new();
        for Zone { name, .. } in &self.zones {
            if !(is_name(name) || name.is_empty() && self.zones.len() == 1) {
                return wrong(format!("`{name}` cannot be a zone's name: use small letters, digits and -"));
            }
            if !names.insert(name) || hosts.contains(name) {
                return wrong(format!("the name `{name}` is used twice"));
            }
        }
        for Far { zones, .. } in &self.between {
            let known = zones.iter().all(|zone| names.contains(zone));
            let two = matches!(zones.as_slice(), [a, b] if a != b) || zones.is_empty();
            if !known || !two {
                return wrong(format!("[[between]] names {zones:?}: name two zones, or none for all others"));
            }
        }
        let mut special = HashSet::new();
        for Special { name, .. } in &self.hosts {
            if !hosts.contains(name) || !special.insert(name) {
                return wrong(format!("[[hosts]] names `{name}`, which there is not, or twice"));
            }
        }
        if self.foreign.iter().collect::<HashSet<_>>().len() < self.foreign.len() {
            return wrong("a client is named twice among `foreign`".into());
        }
        self.traffic.as_ref().map_or(Ok(()), check_traffic)
    }

    /// All hosts.
    pub(crate) fn seats(&self) -> Vec<Seat> {
        let origin = self.origin;
        let plain = self.zone_shape(0);
        let server = |kind, name: &str, shape| Seat { name: name.into(), kind, zone: 0, number: 1, shape };
        let mut seats = vec![
            server(HostKind::Tracker, "tracker", Link::default()),
            server(HostKind::Registry, "registry", origin),
            server(HostKind::Web, "web", origin),
        ];
        let (mut seeders, mut leechers) = (0, 0);
        for (place, zone) in self.zones.iter().enumerate() {
            let shape = self.zone_shape(place);
            // What is too much was refused, or will be.
            for _ in 0..zone.seeders.min(MAX_NODES) {
                seeders += 1;
                seats.push(Seat::node(HostKind::Seeder, seeders, place, seeders + leechers, shape));
            }
            for _ in 0..zone.leechers.min(MAX_NODES) {
                leechers += 1;
                seats.push(Seat::node(HostKind::Leecher, leechers, place, seeders + leechers, shape));
            }
        }
        for (number, client) in (1..).zip(&self.foreign) {
            seats.push(Seat { number, ..server(HostKind::Foreign, client.host(), plain) });
        }
        for Special { name, link: Link { rate, delay } } in &self.hosts {
            if let Some(seat) = seats.iter_mut().find(|seat| seat.name == *name) {
                seat.shape.rate = rate.or(seat.shape.rate);
                seat.shape.delay = delay.or(seat.shape.delay);
            }
        }
        seats
    }

    /// How the links of a zone's hosts are.
    pub(crate) fn zone_shape(&self, place: usize) -> Link {
        self.zones.get(place).map_or_else(Link::default, |zone| zone.link)
    }

    /// The links between zones: one for each two.
    pub(crate) fn links(&self) -> Vec<Between> {
        let mut links = Vec::new();
        for (b, second) in self.zones.iter().enumerate() {
            for (a, first) in self.zones.iter().enumerate().take(b) {
                let joins = |far: &&Far| far.zones.contains(&first.name) && far.zones.contains(&second.name);
                let far = self.between.iter().find(joins);
                let far = far.or_else(|| self.between.iter().find(|far| far.zones.is_empty()));
                links.push(Between { zones: (a, b), shape: far.map(|far| far.link).unwrap_or_default() });
            }
        }
        links
    }

    /// The place of the zone of that name.
    pub(crate) fn zone(&self, name: &str) -> Option<usize> {
        self.zones.iter().position(|zone| zone.name == name)
    }
}

/// A host's place in the lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seat {
    pub(crate) name: String,
    pub(crate) kind: HostKind,
    pub(crate) zone: usize,
    /// Among all nodes, or all foreign clients, from 1 on: the end of its address.
    pub(crate) number: usize,
    pub(crate) shape: Link,
}

impl Seat {
    /// The `count`th seeder or leecher, and the `number`th node.
    pub(crate) fn node(kind: HostKind, count: usize, zone: usize, number: usize, shape: Link) -> Self {
        let letter = if kind == HostKind::Seeder { 's' } else { 'n' };
        Self { name: format!("{letter}{count}"), kind, zone, number, shape }
    }
}

/// Whether a lab or a zone may be called so.
pub(crate) fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=16).contains(&text.len()) && text.chars().all(plain)
}

/// Whether traffic makes sense.
pub(crate) fn check_traffic(traffic: &Traffic) -> Result<(), LabError> {
    let good = |rate: f64| (0.0..=BUSY).contains(&rate);
    if good(traffic.pulls_per_minute) && good(traffic.churn_per_minute) {
        return Ok(());
    }
    Err(LabError::Topology(format!("rates of traffic are from 0 to {BUSY} per minute")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Delay, Rate};

    #[test]
    fn the_example_is_a_topology_and_says_all_that_there_is() {
        let topology = Topology::read(Topology::EXAMPLE).expect("reads");
        assert_eq!((topology.zones.len(), topology.nodes()), (3, 12));
        let text = toml::to_string(&topology).expect("writes");
        assert_eq!(Topology::read(&text).expect("reads"), topology);
    }

    #[test]
    fn a_star_is_one_zone_and_zones_share_the_leechers() {
        let star = Topology::star(2, 10);
        assert!(star.check().is_ok() && star.links().is_empty() && !star.delays());
        let mut zones = Topology::zones(3, 2, 10);
        assert!(zones.check().is_ok() && zones.delays() && !zones.limits_more_than_nodes());
        assert_eq!(zones.zones.iter().map(|zone| zone.leechers).collect::<Vec<_>>(), [4, 3, 3]);
        let links = zones.links();
        assert_eq!(links.iter().map(|link| link.zones).collect::<Vec<_>>(), [(0, 1), (0, 2), (1, 2)]);
        assert!(links.iter().all(|link| link.shape.delay.map(Delay::millis) == Some(20)));
        zones.between[0].link.rate = Rate::of_bits(1_000_000);
        assert!(zones.limits_more_than_nodes());
    }

    #[test]
    fn each_host_has_a_name_and_a_place_of_its_own() {
        let seats = Topology { foreign: vec![Foreign::Rtorrent], ..Topology::zones(3, 2, 10) }.seats();
        let names: HashSet<&str> = seats.iter().map(|seat| seat.name.as_str()).collect();
        assert_eq!((names.len(), seats.len()), (16, 16));
        let nodes = seats.iter().filter(|seat| matches!(seat.kind, HostKind::Seeder | HostKind::Leecher));
        assert_eq!(nodes.map(|seat| seat.number).collect::<Vec<_>>(), (1..=12).collect::<Vec<_>>());
    }

    #[test]
    fn what_makes_no_sense_is_refused_in_words() {
        let zone = |name: &str| format!("[[zones]]\nname = \"{name}\"\nleechers = 1\n");
        let wrong = [
            ("zones = []", "no node"),
            ("[[zones]]\nleechers = 201", "too many"),
            ("[[zones]]\nleechers = 1\nsalt = 2", "salt"),
            ("[[zones]]\nleechers = 1\nrate = \"fast\"", "100mbit"),
            (&(zone("a") + &zone("a")), "twice"),
            (&(zone("a") + &zone("n1")), "twice"),
            (&(zone("a") + &zone("B")), "small letters"),
            (&(zone("a") + "[[between]]\nzones = [\"a\", \"c\"]"), "name two zones"),
            (&(zone("a") + "[[hosts]]\nname = \"n2\""), "`n2`"),
            (&(zone("a") + "[traffic]\npulls_per_minute = -1\nchurn_per_minute = 0"), "per minute"),
        ];
        for (text, word) in wrong {
            let words = Topology::read(text).expect_err(text);
            assert!(words.contains(word), "{text}: {words}");
        }
    }

    #[test]
    fn a_host_and_two_zones_may_be_special() {
        let text = "[[zones]]\nname = 'a'\nleechers = 2\nrate = '1mbit'\n[[zones]]\nname = 'b'\n[[zones]]\nname = 'c'\n\
            [[between]]\nzones = ['c', 'a']\nrate = '2mbit'\n[[between]]\ndelay = '7ms'\n\
            [[hosts]]\nname = 'n2'\ndelay = '3ms'\n";
        let topology = Topology::read(text).expect("reads");
        let seats = topology.seats();
        let n2 = seats.iter().find(|seat| seat.name == "n2").expect("there");
        let words = |shape: Link| (shape.rate.map(|r| r.to_string()), shape.delay.map(Delay::millis));
        assert_eq!(words(n2.shape), (Some("1mbit".into()), Some(3)));
        let links: Vec<_> = topology.links().iter().map(|link| (link.zones, words(link.shape))).collect();
        let far = (None, Some(7));
        assert_eq!(links, [((0, 1), far.clone()), ((0, 2), (Some("2mbit".into()), None)), ((1, 2), far)]);
    }
}
