//! Who has which address.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::Serialize;

/// Where registry mirrors listen.
pub(crate) const MIRROR_PORT: u16 = 5555;
/// Where nodes listen for peers.
pub(crate) const PEER_PORT: u16 = 6881;
pub(crate) const REGISTRY_PORT: u16 = 5000;
pub(crate) const TRACKER_PORT: u16 = 6969;

/// What a node is in the lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Holds the image before the others ask.
    Seeder,
    /// Pulls it with all the others.
    Leecher,
}

/// Where addresses are taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Network {
    /// Nodes are 10.99.1.k, in namespaces that nobody else sees.
    Namespaces,
    /// Nodes are 127.b.1.k. Each block has ports of its own as well, so that neither another lab nor a server that
    /// listens on all addresses is in the way of all blocks.
    Loopback(u8),
}

impl Network {
    /// How many blocks of loopback addresses there are.
    pub(crate) const BLOCKS: u8 = 16;
    /// How many zones there may be.
    pub(crate) const ZONES: usize = 8;

    /// An address. On loopback all zones share theirs.
    pub(crate) fn ip(self, zone: usize, third: u8, last: u8) -> Ipv4Addr {
        match self {
            Self::Namespaces => Ipv4Addr::new(10, 99 + zone.min(Self::ZONES) as u8, third, last),
            Self::Loopback(block) => Ipv4Addr::new(127, block, third, last),
        }
    }

    /// What of ports is usual, for this network.
    pub(crate) fn port(self, usual: u16) -> u16 {
        match self {
            Self::Namespaces => usual,
            Self::Loopback(block) => usual + u16::from(block) * 100,
        }
    }
}

/// The addresses of a lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) nodes: Vec<NodePlan>,
    pub(crate) registry: SocketAddr,
    pub(crate) tracker: SocketAddr,
}

/// A node's addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodePlan {
    /// `s1` for the first seeder, `n1` for the first leecher.
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) mirror: SocketAddr,
    pub(crate) peer: SocketAddr,
}

impl Plan {
    /// For at most [`MAX_NODES`](crate::MAX_NODES) nodes.
    pub(crate) fn new(seeders: usize, leechers: usize, network: Network) -> Self {
        let at = |third, last, port| SocketAddr::from((network.ip(0, third, last), network.port(port)));
        let names = (1..=seeders).map(|n| (Role::Seeder, format!("s{n}")));
        let names = names.chain((1..=leechers).map(|n| (Role::Leecher, format!("n{n}"))));
        let nodes = names.zip(1..=254u8).map(|((role, name), last)| NodePlan {
            name,
            role,
            mirror: at(1, last, MIRROR_PORT),
            peer: at(1, last, PEER_PORT),
        });
        Self { nodes: nodes.collect(), registry: at(2, 1, REGISTRY_PORT), tracker: at(3, 1, TRACKER_PORT) }
    }

    /// The node at an address such as a peer's in a node's status, `ip:port` with any port.
    pub(crate) fn node_at(&self, address: &str) -> Option<&NodePlan> {
        let ip: IpAddr = address.parse::<SocketAddr>().ok()?.ip();
        self.nodes.iter().find(|node| node.peer.ip() == ip)
    }

    pub(crate) fn announce(&self) -> String {
        format!("http://{}/announce", self.tracker)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::MAX_NODES;

    #[test]
    fn addresses_are_all_different_and_stay_in_their_network() {
        for network in [Network::Namespaces, Network::Loopback(0), Network::Loopback(Network::BLOCKS - 1)] {
            let plan = Plan::new(2, MAX_NODES - 2, network);
            assert_eq!(plan.nodes.len(), MAX_NODES);
            let mut all = HashSet::from([plan.registry, plan.tracker]);
            for node in &plan.nodes {
                assert!(
                    all.insert(node.mirror) && all.insert(node.peer),
                    "{} has another's address",
                    node.name
                );
            }
            let on_loopback = network != Network::Namespaces;
            assert!(all.iter().all(|address| address.ip().is_loopback() == on_loopback));
        }
    }

    #[test]
    fn blocks_share_neither_address_nor_port() {
        let taken = |block| {
            let plan = Plan::new(0, 1, Network::Loopback(block));
            [plan.registry, plan.tracker, plan.nodes[0].mirror, plan.nodes[0].peer]
        };
        let ports: HashSet<u16> =
            (0..Network::BLOCKS).flat_map(taken).map(|address| address.port()).collect();
        assert_eq!(ports.len(), usize::from(Network::BLOCKS) * 4);
    }

    #[test]
    fn a_peer_is_known_by_its_ip_whatever_its_port() {
        let plan = Plan::new(1, 2, Network::Loopback(0));
        assert_eq!(plan.node_at("127.0.1.3:40000").map(|n| n.name.as_str()), Some("n2"));
        assert_eq!(plan.node_at("127.0.1.1:6881").map(|n| n.role), Some(Role::Seeder));
        assert_eq!(plan.node_at("127.0.2.1:5000"), None);
        assert_eq!(plan.node_at("nonsense"), None);
    }
}
