//! An announce over UDP (BEP 15): connect, then announce, from a socket of its own.
//!
//! A connection id is good for the address that asked for it, so a socket that is not shared needs no table of ids,
//! and the system tells it alone that nobody listens. The two round trips are what HTTP takes as well.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use announce::{
    AnnounceRequest, AnnounceResponse, Key, MAX_PEERS, Peer,
    udp::{PROTOCOL_ID, UdpAction, UdpAnnounce, UdpAnswer, UdpHead, encode_url_data},
};
use tokio::{
    net::{UdpSocket, lookup_host},
    time::timeout,
};

use crate::{Location, client::Question, error::TrackerError};

/// A lost packet is sent again after this, then after twice this, and so on. The BEP's quarter of a minute is for
/// trackers that were asked by too many; a deadline comes first here.
const AGAIN: Duration = Duration::from_secs(1);
/// The longest answer that is read, in bytes; over IPv4 that is more than a thousand peers.
const LONGEST_ANSWER: usize = 8 * 1024;
/// How many addresses of a name are tried.
const ADDRESSES: usize = 4;

/// Announces to the tracker at a `udp://` URL.
pub(crate) async fn announce(
    from: Option<IpAddr>,
    tracker: Location<'_>,
    question: &Question<'_>,
) -> Result<AnnounceResponse, TrackerError> {
    let Location { authority, rest, .. } = tracker;
    if authority.rsplit_once(':').is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().is_err()) {
        return Err(TrackerError::Url("a UDP tracker has a port, as in udp://tracker.example:6969"));
    }
    let path = rest.split('#').next().unwrap_or_default();
    let found = lookup_host(authority).await?;
    let usable = |address: &SocketAddr| from.is_none_or(|from| from.is_ipv4() == address.is_ipv4());
    let addresses: Vec<SocketAddr> = found.filter(usable).take(ADDRESSES).collect();
    let share = question.deadline / u32::try_from(addresses.len().max(1)).unwrap_or(1);
    let mut outcome = Err(TrackerError::Unreachable("its name has no address that can be used here".into()));
    for address in addresses {
        let one = exchange(from, address, path, question.request);
        outcome = timeout(share, one).await.unwrap_or(Err(TrackerError::TimedOut));
        // A refusal is an answer.
        if matches!(outcome, Ok(_) | Err(TrackerError::Refused { .. })) {
            break;
        }
    }
    outcome
}

/// Whether a tracker's address answers BEP 15's `connect`, which costs neither side anything.
///
/// # Errors
/// That it does not within the deadline, or that the system says so before.
pub async fn reach_udp(authority: &str, deadline: Duration) -> Result<(), TrackerError> {
    let reach = async {
        let mut outcome = Err(TrackerError::TimedOut);
        let addresses: Vec<SocketAddr> = lookup_host(authority).await?.take(ADDRESSES).collect();
        let share = deadline / u32::try_from(addresses.len().max(1)).unwrap_or(1);
        for address in addresses {
            let connected = timeout(share, connect(None, address)).await;
            outcome = connected.unwrap_or(Err(TrackerError::TimedOut)).map(drop);
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    };
    timeout(deadline, reach).await.unwrap_or(Err(TrackerError::TimedOut))
}

async fn exchange(
    from: Option<IpAddr>,
    tracker: SocketAddr,
    path: &str,
    request: &AnnounceRequest,
) -> Result<AnnounceResponse, TrackerError> {
    let (socket, connection) = connect(from, tracker).await?;
    let head = UdpHead { connection, action: Some(UdpAction::Announce), transaction: rand::random() };
    let mut packet = Vec::new();
    head.encode(&mut packet);
    packet_of(request).encode(&mut packet);
    if !path.is_empty() {
        encode_url_data(path.as_bytes(), &mut packet);
    }
    ask(&socket, &packet, head.transaction, |answer| announced(&answer, tracker.is_ipv4())).await
}

/// A socket, and the connection id that its address was given.
async fn connect(from: Option<IpAddr>, tracker: SocketAddr) -> Result<(UdpSocket, u64), TrackerError> {
    let any = if tracker.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((from.unwrap_or(any), 0)).await?;
    socket.connect(tracker).await?;
    let connect =
        UdpHead { connection: PROTOCOL_ID, action: Some(UdpAction::Connect), transaction: rand::random() };
    let mut packet = Vec::new();
    connect.encode(&mut packet);
    let connection = ask(&socket, &packet, connect.transaction, |answer| match answer {
        UdpAnswer::Connected(connection) => Some(connection),
        _ => None,
    })
    .await?;
    Ok((socket, connection))
}

fn announced(answer: &UdpAnswer<'_>, v4: bool) -> Option<AnnounceResponse> {
    let UdpAnswer::Announced { interval, stats, peers } = answer else { return None };
    Some(AnnounceResponse {
        complete: Some(stats.complete),
        incomplete: Some(stats.incomplete),
        peers: read_peers(peers, v4),
        ..AnnounceResponse::new(Duration::from_secs((*interval).into()))
    })
}

/// What a UDP tracker's packet says to an announce of this transaction, that was sent over IPv4 or IPv6; `None` where
/// it is not for it.
///
/// # Errors
/// The tracker's refusal, or that it is the answer to something else.
pub fn read_udp_answer(
    packet: &[u8],
    transaction: u32,
    v4: bool,
) -> Option<Result<AnnounceResponse, TrackerError>> {
    read(packet, transaction, &|answer| announced(&answer, v4))
}

fn read<T>(
    packet: &[u8],
    transaction: u32,
    take: &impl Fn(UdpAnswer<'_>) -> Option<T>,
) -> Option<Result<T, TrackerError>> {
    // Anything else is old, or not for us.
    let (_, answer) = UdpAnswer::parse(packet).filter(|(of, _)| *of == transaction)?;
    if let UdpAnswer::Error(reason) = answer {
        let reason = String::from_utf8_lossy(reason).into_owned();
        return Some(Err(TrackerError::Refused { reason, retry_in: None }));
    }
    let wrong = || TrackerError::Malformed("it answers something else than was asked".into());
    Some(take(answer).ok_or_else(wrong))
}

fn packet_of(request: &AnnounceRequest) -> UdpAnnounce {
    let given = |ip| match ip {
        Some(IpAddr::V4(ip)) => Some(ip),
        _ => None,
    };
    UdpAnnounce {
        info_hash: request.info_hash,
        peer_id: request.peer_id,
        downloaded: request.downloaded,
        left: request.left,
        uploaded: request.uploaded,
        event: request.event,
        ip: given(request.ip).or(request.ipv4),
        key: request.key.as_ref().and_then(Key::as_number).unwrap_or(0),
        numwant: request.numwant,
        port: request.port,
    }
}

/// Sends a packet, again if need be, until its answer comes. Ends with its caller's deadline.
async fn ask<T>(
    socket: &UdpSocket,
    packet: &[u8],
    transaction: u32,
    take: impl Fn(UdpAnswer<'_>) -> Option<T>,
) -> Result<T, TrackerError> {
    let mut pause = AGAIN;
    let mut buffer = vec![0; LONGEST_ANSWER];
    loop {
        socket.send(packet).await?;
        let answer = async {
            loop {
                let length = socket.recv(&mut buffer).await?;
                let packet = buffer.get(..length).unwrap_or_default();
                if let Some(outcome) = read(packet, transaction, &take) {
                    return outcome;
                }
            }
        };
        match timeout(pause, answer).await {
            Ok(outcome) => return outcome,
            Err(_) => pause *= 2,
        }
    }
}

/// Peers of the packet's own family.
fn read_peers(compact: &[u8], v4: bool) -> Vec<Peer> {
    let peer =
        |ip: IpAddr, port: [u8; 2]| Peer { addr: SocketAddr::new(ip, u16::from_be_bytes(port)), id: None };
    let peers = if v4 {
        let (peers, _) = compact.as_chunks::<6>();
        peers
            .iter()
            .take(MAX_PEERS)
            .map(|&[a, b, c, d, p, q]| peer([a, b, c, d].into(), [p, q]))
            .collect::<Vec<_>>()
    } else {
        let (peers, _) = compact.as_chunks::<18>();
        let split = |bytes: &[u8; 18]| {
            let (ip, port) = (bytes.first_chunk::<16>()?, bytes.last_chunk::<2>()?);
            Some(peer(IpAddr::from(*ip), *port))
        };
        peers.iter().take(MAX_PEERS).filter_map(split).collect()
    };
    peers.into_iter().filter(|peer| peer.addr.port() != 0).collect()
}
