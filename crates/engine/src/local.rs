//! Local discovery (BEP 14): finds peers in this network by multicast, without a tracker.
//!
//! A torrent that is fetched is announced; who has all of it answers by an announce of its own, and who fetches it
//! connects. Torrents that are private, or not for everybody, are neither announced nor answered for. The sockets that
//! hear are bound to the groups, so that nothing comes in but what was sent to these.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use announce::{
    LocalAnnounce,
    local::{GROUP_V4, GROUP_V6, LONGEST},
};
use metainfo::InfoHash;
use nix::{ifaddrs::getifaddrs, net::if_::InterfaceFlags};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use swarm::Time;
use tokio::{
    net::UdpSocket,
    task::spawn_blocking,
    time::{sleep, sleep_until},
};

use crate::{
    engine::Shared,
    local_plan::{Packet, Plan},
};

/// How often it is looked for networks that have come.
const LOOK: Duration = Duration::from_secs(60);
/// After a socket's failure.
const PAUSE: Duration = Duration::from_secs(1);
/// Most networks of a host that are announced to.
const NETWORKS: usize = 16;

/// Finds peers until the engine stops.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut sides: Vec<Side> = Vec::new();
    for family in Family::of(shared.listen.ip()) {
        match Side::open(family) {
            Ok(side) => sides.push(side),
            Err(error) => tracing::warn!(%error, ?family, "no local discovery"),
        }
    }
    let mut discovery = Discovery {
        plan: Plan::new(shared.clock.now()),
        cookie: format!("longshore-{:016x}", rand::random::<u64>()),
        shared,
    };
    let (stop, mut look, mut begun) = (discovery.shared.stop.clone(), Time(0), true);
    let mut packet = [0; LONGEST + 1];
    loop {
        let now = discovery.shared.clock.now();
        if look <= now {
            look = now + LOOK;
            sides.iter_mut().for_each(|side| side.join(discovery.shared.listen.ip()));
        }
        if std::mem::take(&mut begun) || discovery.plan.next().is_some_and(|at| at <= now) {
            let downloads = discovery.downloads();
            discovery.plan.set_downloads(now, downloads);
        }
        while let Some(packet) = discovery.plan.packet(now) {
            discovery.send(&sides, packet).await;
        }
        let next = discovery.plan.next().unwrap_or(look).min(look).max(now + Duration::from_millis(1));
        let heard = tokio::select! {
            () = stop.cancelled() => return,
            () = discovery.shared.local.notified() => {
                begun = true;
                continue;
            }
            () = sleep_until(discovery.shared.clock.instant(next)) => continue,
            heard = hear(&sides, &mut packet) => heard,
        };
        match heard {
            Ok((length, from)) => discovery.heard(packet.get(..length).unwrap_or_default(), from).await,
            Err(error) => {
                tracing::debug!(%error, "nothing heard of the local network");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn ready(side: Option<&Side>) -> io::Result<&Side> {
    match side {
        Some(side) => side.ears.readable().await.map(|()| side),
        None => std::future::pending().await,
    }
}

/// The next packet, of either family.
async fn hear(sides: &[Side], packet: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
    loop {
        let side = tokio::select! {
            side = ready(sides.first()) => side?,
            side = ready(sides.get(1)) => side?,
        };
        match side.ears.try_recv_from(packet) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            received => return received,
        }
    }
}

struct Discovery {
    shared: Arc<Shared>,
    plan: Plan,
    /// What our own packets are known by.
    cookie: String,
}

impl Discovery {
    fn downloads(&self) -> Vec<InfoHash> {
        let torrents = self.shared.torrents();
        let open = torrents.values().filter(|torrent| torrent.is_open());
        open.filter(|torrent| !torrent.lock().swarm.is_complete())
            .map(|torrent| torrent.info_hash())
            .collect()
    }

    async fn send(&self, sides: &[Side], packet: Packet) {
        let Packet { complete, info_hashes } = packet;
        let (port, cookie) = (self.shared.listen.port(), Some(self.cookie.clone()));
        let announce = LocalAnnounce { port, cookie, complete, info_hashes };
        for side in sides {
            side.send(&announce.encode(side.family.group())).await;
        }
    }

    async fn heard(&mut self, packet: &[u8], from: SocketAddr) {
        if !self.plan.may_read(self.shared.clock.now()) {
            return;
        }
        let announce = match LocalAnnounce::parse(packet) {
            Ok(announce) => announce,
            Err(error) => {
                tracing::debug!(%from, %error, "a packet of the local network is passed over");
                return;
            }
        };
        if announce.cookie.as_ref() == Some(&self.cookie) {
            return;
        }
        let mut peer = from;
        peer.set_port(announce.port);
        for info_hash in announce.info_hashes {
            let moving = self.shared.torrents().get(&info_hash).cloned();
            if let Some(torrent) = &moving
                && torrent.is_open()
                && !torrent.lock().swarm.is_complete()
            {
                torrent.add_peers([peer]);
                continue;
            }
            if announce.complete {
                self.plan.answered_by_another(info_hash);
                continue;
            }
            let here = match moving {
                Some(torrent) => torrent.is_open(),
                None => self.lies_here(info_hash).await,
            };
            if here {
                let now = self.shared.clock.now();
                self.plan.wanted(now, info_hash, rand::random());
            }
        }
    }

    /// Whether the shelf has a torrent that may be told of.
    async fn lies_here(&mut self, info_hash: InfoHash) -> bool {
        let Some(shelf) = self.shared.shelf.clone() else { return false };
        if !self.plan.may_look(self.shared.clock.now()) {
            return false;
        }
        let found = spawn_blocking(move || shelf.find(&info_hash)).await;
        found.ok().flatten().is_some_and(|item| item.open && !item.torrent.info.private)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    /// Those in which a peer reaches us.
    fn of(listen: IpAddr) -> impl Iterator<Item = Self> {
        let v6 = listen.is_ipv6().then_some(Self::V6);
        // What listens everywhere in IPv6 is reached over IPv4 too.
        let v4 = (listen.is_ipv4() || listen.is_unspecified()).then_some(Self::V4);
        [v4, v6].into_iter().flatten()
    }

    fn group(self) -> SocketAddr {
        match self {
            Self::V4 => GROUP_V4.into(),
            Self::V6 => GROUP_V6.into(),
        }
    }
}

/// The sockets of one family.
struct Side {
    family: Family,
    ears: UdpSocket,
    mouth: UdpSocket,
    /// Networks in which we listen and speak.
    networks: BTreeSet<Network>,
}

/// A network that we are in: by our address, or for IPv6 by the interface's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Network {
    V4(Ipv4Addr),
    V6(u32),
}

impl Side {
    fn open(family: Family) -> io::Result<Self> {
        let (domain, anywhere): (_, IpAddr) = match family {
            Family::V4 => (Domain::IPV4, Ipv4Addr::UNSPECIFIED.into()),
            Family::V6 => (Domain::IPV6, Ipv6Addr::UNSPECIFIED.into()),
        };
        let socket = |address: SocketAddr, shared: bool| {
            let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
            if family == Family::V6 {
                socket.set_only_v6(true)?;
            }
            // Other clients of this host hear too.
            socket.set_reuse_address(shared)?;
            socket.set_nonblocking(true)?;
            socket.bind(&address.into())?;
            UdpSocket::from_std(socket.into())
        };
        let (ears, mouth) = (socket(family.group(), true)?, socket(SocketAddr::new(anywhere, 0), false)?);
        Ok(Self { family, ears, mouth, networks: BTreeSet::new() })
    }

    /// Takes part in the networks that the host is in now.
    fn join(&mut self, listen: IpAddr) {
        let networks = networks(self.family, listen);
        for network in networks.difference(&self.networks) {
            let joined = match network {
                Network::V4(address) => self.ears.join_multicast_v4(*GROUP_V4.ip(), *address),
                Network::V6(index) => self.ears.join_multicast_v6(GROUP_V6.ip(), *index),
            };
            if let Err(error) = joined {
                // Mostly: the interface has another address, with which it takes part already.
                tracing::debug!(?network, %error, "not joined");
            }
        }
        self.networks = networks;
    }

    async fn send(&self, packet: &[u8]) {
        for network in &self.networks {
            let mouth = SockRef::from(&self.mouth);
            let chosen = match network {
                Network::V4(address) => mouth.set_multicast_if_v4(address),
                Network::V6(index) => mouth.set_multicast_if_v6(*index),
            };
            let sent = match chosen {
                Ok(()) => self.mouth.send_to(packet, self.family.group()).await.map(drop),
                Err(error) => Err(error),
            };
            if let Err(error) = sent {
                tracing::debug!(?network, %error, "the local network is not told");
            }
        }
    }
}

/// The networks in which a peer reaches `listen`.
fn networks(family: Family, listen: IpAddr) -> BTreeSet<Network> {
    let interfaces = match getifaddrs() {
        Ok(interfaces) => interfaces,
        Err(error) => {
            tracing::debug!(%error, "this host's networks are not known");
            return BTreeSet::new();
        }
    };
    let speaks = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_MULTICAST;
    let usable = interfaces
        .filter(|i| i.flags.contains(speaks) && !i.flags.contains(InterfaceFlags::IFF_LOOPBACK))
        .filter_map(|interface| {
            let address = interface.address?;
            let ip = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
                (Some(v4), _) => IpAddr::V4(v4.ip()),
                (_, Some(v6)) => IpAddr::V6(v6.ip()),
                _ => return None,
            };
            (listen.is_unspecified() || ip == listen).then_some((interface.interface_name, ip))
        });
    let networks = usable.filter_map(|(name, ip)| match (family, ip) {
        (Family::V4, IpAddr::V4(ip)) => Some(Network::V4(ip)),
        (Family::V6, IpAddr::V6(_)) => Some(Network::V6(nix::net::if_::if_nametoindex(name.as_str()).ok()?)),
        _ => None,
    });
    networks.take(NETWORKS).collect()
}
