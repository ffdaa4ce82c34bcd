//! Announces over UDP. Packets go out many by one call and in one piece, which the kernel cuts (UDP_SEGMENT), so that
//! this costs less than the answers do.

use std::{
    io::IoSliceMut,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::socket::{
        MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, setsockopt,
        sockopt::{RcvBuf, UdpGsoSegment},
    },
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::peers::{PEERS, Peer, Walk, info_hashes};

pub(crate) const BATCH: usize = 64;
/// A pause where nothing is left to be sent.
const SHORT: Duration = Duration::from_millis(10);
/// How many packets are under way.
const WINDOW: usize = 4 * BATCH;
pub(crate) const ANNOUNCE: usize = 98;

pub(crate) struct Client {
    pub(crate) socket: UdpSocket,
    headers: MultiHeaders<SockaddrStorage>,
    buffers: Vec<u8>,
    hashes: Vec<[u8; 20]>,
    pub(crate) connection: u64,
    pub(crate) out: Vec<u8>,
    segment: usize,
}

impl Client {
    fn new(to: SocketAddr) -> Self {
        let v6 = IpAddr::from(Ipv6Addr::LOCALHOST);
        Self::at(to, if to.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { v6 })
    }

    pub(crate) fn at(to: SocketAddr, from: IpAddr) -> Self {
        let socket = UdpSocket::bind(SocketAddr::new(from, 0)).unwrap();
        socket.connect(to).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        setsockopt(&socket, RcvBuf, &(8 << 20)).unwrap();
        let mut client = Self {
            socket,
            headers: MultiHeaders::preallocate(BATCH, None),
            buffers: vec![0; BATCH * 2048],
            hashes: info_hashes(),
            connection: 0,
            out: Vec::new(),
            segment: 0,
        };
        client.connection = client.connect();
        client
    }

    fn connect(&mut self) -> u64 {
        for _ in 0..50 {
            self.out.clear();
            self.push_connect(1);
            self.send(16);
            let mut answer = [0; 16];
            if self.socket.recv(&mut answer).is_ok_and(|length| length == 16) {
                return u64::from_be_bytes(*answer.last_chunk().unwrap());
            }
        }
        panic!("no answer to connect");
    }

    pub(crate) fn push_connect(&mut self, transaction: u32) {
        self.out.extend_from_slice(&0x417_2710_1980u64.to_be_bytes());
        self.out.extend_from_slice(&[0; 4]);
        self.out.extend_from_slice(&transaction.to_be_bytes());
    }

    pub(crate) fn push_announce(&mut self, connection: u64, transaction: u32, peer: Peer) {
        let out = &mut self.out;
        out.extend_from_slice(&connection.to_be_bytes());
        out.extend_from_slice(&1u32.to_be_bytes());
        out.extend_from_slice(&transaction.to_be_bytes());
        out.extend_from_slice(&self.hashes[peer.torrent as usize]);
        out.extend_from_slice(b"-XX0001-");
        out.extend_from_slice(&[0; 10]);
        out.extend_from_slice(&peer.port.to_be_bytes());
        out.extend_from_slice(&0u64.to_be_bytes());
        out.extend_from_slice(&peer.left.to_be_bytes());
        out.extend_from_slice(&[0; 8 + 4 + 4]);
        out.extend_from_slice(&(0x1234_0000 + u32::from(peer.port)).to_be_bytes());
        out.extend_from_slice(&50u32.to_be_bytes());
        out.extend_from_slice(&peer.port.to_be_bytes());
    }

    /// Sends what is in `out`, cut into packets of `size` bytes.
    pub(crate) fn send(&mut self, size: usize) {
        if self.segment != size {
            setsockopt(&self.socket, UdpGsoSegment, &(size as i32)).unwrap();
            self.segment = size;
        }
        self.socket.send(&self.out).unwrap();
    }

    /// Waits for answers; hands each to `to`. None came in time where it says 0.
    fn receive(&mut self, mut to: impl FnMut(&[u8])) -> usize {
        let mut lengths = [0; BATCH];
        let mut count = 0;
        {
            let mut chunks = self.buffers.chunks_exact_mut(2048);
            let mut slices: [_; BATCH] = std::array::from_fn(|_| [IoSliceMut::new(chunks.next().unwrap())]);
            let fd = self.socket.as_raw_fd();
            match recvmmsg(fd, &mut self.headers, &mut slices, MsgFlags::MSG_WAITFORONE, None) {
                Ok(messages) => {
                    for message in messages {
                        lengths[count] = message.bytes;
                        count += 1;
                    }
                }
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(error) => panic!("{error}"),
            }
        }
        for (buffer, length) in self.buffers.chunks_exact(2048).zip(&lengths[..count]) {
            to(&buffer[..*length]);
        }
        count
    }
}

/// Announces every peer once, and sees that it is answered.
pub(crate) fn fill(to: SocketAddr) {
    let (mut client, mut walk, mut sent, mut lost) = (Client::new(to), Walk::new(), 0, 0);
    while sent < PEERS as usize {
        client.out.clear();
        for n in 0..BATCH {
            let peer = walk.step();
            client.push_announce(client.connection, n as u32, peer);
        }
        client.send(ANNOUNCE);
        sent += BATCH;
        let mut answered = 0;
        while answered < BATCH {
            match client.receive(|answer| assert_eq!(answer.get(..4), Some(&[0, 0, 0, 1][..]), "refused")) {
                0 => {
                    lost += BATCH - answered;
                    break;
                }
                count => answered += count,
            }
        }
    }
    println!("{{\"filled\": {sent}, \"lost\": {lost}}}");
}

/// Announces as fast as they are answered.
pub(crate) fn announces(to: SocketAddr, time: Duration, with_connects: bool) {
    let (mut client, mut walk) = (Client::new(to), Walk::new());
    let (mut under_way, mut answered, mut lost, mut peers, mut bytes) = (0usize, 0u64, 0u64, 0u64, 0u64);
    let mut ids = Vec::with_capacity(2 * WINDOW);
    let start = Instant::now();
    while start.elapsed() < time {
        while under_way + BATCH <= WINDOW {
            client.out.clear();
            if with_connects {
                (0..BATCH).for_each(|n| client.push_connect(n as u32));
                client.send(16);
            } else {
                for n in 0..BATCH {
                    let peer = walk.step();
                    client.push_announce(client.connection, n as u32, peer);
                }
                client.send(ANNOUNCE);
            }
            under_way += BATCH;
        }
        let count = client.receive(|answer| match answer {
            [0, 0, 0, 0, _, _, _, _, id @ ..] => ids.push(u64::from_be_bytes(id.try_into().unwrap())),
            [0, 0, 0, 1, ..] => {
                answered += 1;
                bytes += answer.len() as u64;
                peers += (answer.len() as u64 - 20) / if to.is_ipv4() { 6 } else { 18 };
            }
            other => panic!("{}", other.escape_ascii()),
        });
        if count == 0 {
            lost += under_way as u64;
            under_way = 0;
        }
        if !with_connects {
            under_way = under_way.saturating_sub(count);
        } else {
            // The connects among them are followed by their announces, and so are still under way.
            under_way = under_way.saturating_sub(count - ids.len().min(count));
            while !ids.is_empty() {
                client.out.clear();
                for n in 0..ids.len().min(BATCH) {
                    let (id, peer) = (ids.pop().unwrap(), walk.step());
                    client.push_announce(id, n as u32, peer);
                }
                client.send(ANNOUNCE);
            }
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let (rate, mean) = (answered as f64 / seconds, bytes as f64 / answered.max(1) as f64);
    println!(
        "{{\"announces\": {answered}, \"rate\": {rate:.0}, \"lost\": {lost}, \"bytes\": {mean:.0}, \"peers\": {:.1}}}",
        peers as f64 / answered.max(1) as f64
    );
}

/// So many announces a second, one by one, and how long their answers take.
pub(crate) fn paced(to: SocketAddr, time: Duration, rate: u64) {
    let (mut client, mut walk) = (Client::new(to), Walk::new());
    client.socket.set_nonblocking(true).unwrap();
    // At a low rate it sleeps meanwhile, so that it does not take part in a flood's struggle for the core.
    let sleeps = rate <= 5000;
    let total = (time.as_secs() * rate) as usize;
    let mut sent: Vec<Duration> = Vec::with_capacity(total);
    let mut took: Vec<u32> = Vec::with_capacity(total);
    let mut answer = [0; 2048];
    let start = Instant::now();
    let mut last = Duration::ZERO;
    while sent.len() < total || (took.len() < total && start.elapsed() - last < Duration::from_millis(300)) {
        let now = start.elapsed();
        // When it should go; that it goes later is the tracker's loss, as it would be a client's.
        let due = Duration::from_nanos(sent.len() as u64 * 1_000_000_000 / rate);
        if sent.len() < total && now >= due {
            client.out.clear();
            let peer = walk.step();
            client.push_announce(client.connection, sent.len() as u32, peer);
            client.send(0);
            sent.push(due);
            last = now;
        }
        if sleeps {
            let next = Duration::from_nanos(sent.len() as u64 * 1_000_000_000 / rate);
            let pause = if sent.len() < total { next.saturating_sub(start.elapsed()) } else { SHORT };
            let timeout = Timespec { tv_sec: 0, tv_nsec: pause.subsec_nanos().into() };
            let mut ready = [PollFd::new(&client.socket, PollFlags::IN)];
            let _ = poll(&mut ready, Some(&timeout));
        }
        while let Ok(length) = client.socket.recv(&mut answer) {
            assert!(length >= 20);
            let n = u32::from_be_bytes(answer[4..8].try_into().unwrap()) as usize;
            took.push((start.elapsed() - sent[n]).as_nanos().min(u32::MAX.into()) as u32);
        }
    }
    report(total, took);
}

/// How long answers took, in nanoseconds, of so many requests.
pub(crate) fn report(total: usize, mut took: Vec<u32>) {
    took.sort_unstable();
    let at = |part: f64| f64::from(took[((took.len().max(1) - 1) as f64 * part) as usize]) / 1000.0;
    let lost = total - took.len();
    println!("{{\"p50\": {:.1}, \"p99\": {:.1}, \"lost\": {lost}}}", at(0.5), at(0.99));
}
