//! Answerers that keep nothing, as plain as they can be: what the kernel's part of an announce costs.

use std::{
    io::{IoSlice, IoSliceMut, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd as _, AsRawFd as _},
};

use nix::sys::socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg};
use rustix::{
    buffer::spare_capacity,
    event::epoll::{self, CreateFlags, Event, EventData, EventFlags},
    net::SocketFlags,
};

const BATCH: usize = 64;
const PACKET: usize = 1500;
/// 50 peers.
const ANSWER: usize = 320;

/// IPv4 only.
pub(crate) fn udp(address: SocketAddr) -> ! {
    let socket = UdpSocket::bind(address).unwrap();
    let fd = socket.as_raw_fd();
    nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBuf, &(8 << 20)).unwrap();
    let mut incoming = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let mut outgoing = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let mut packets = vec![0; BATCH * PACKET];
    let mut answers = vec![[0u8; ANSWER]; BATCH];
    let mut senders: Vec<Option<SockaddrIn>> = Vec::with_capacity(BATCH);
    loop {
        senders.clear();
        {
            let mut chunks = packets.chunks_exact_mut(PACKET);
            let mut slices: [_; BATCH] = std::array::from_fn(|_| [IoSliceMut::new(chunks.next().unwrap())]);
            let messages = recvmmsg(fd, &mut incoming, &mut slices, MsgFlags::MSG_WAITFORONE, None).unwrap();
            senders.extend(messages.map(|message| message.address));
        }
        let mut slices = [[IoSlice::new(&[])]; BATCH];
        for ((packet, answer), slice) in packets.chunks_exact(PACKET).zip(&mut answers).zip(&mut slices) {
            answer[..8].copy_from_slice(&packet[8..16]);
            *slice = [IoSlice::new(if packet[11] == 0 { &answer[..16] } else { answer })];
        }
        let mut done = 0;
        while done < senders.len() {
            let none: &[ControlMessage<'_>] = &[];
            let slices = &slices[done..senders.len()];
            done += sendmmsg(fd, &mut outgoing, slices, &senders[done..], none, MsgFlags::empty())
                .unwrap()
                .count();
        }
    }
}

pub(crate) fn http(address: SocketAddr, bytes: usize) -> ! {
    let listener = TcpListener::bind(address).unwrap();
    listener.set_nonblocking(true).unwrap();
    let epoll = epoll::create(CreateFlags::CLOEXEC).unwrap();
    epoll::add(&epoll, &listener, EventData::new_u64(u64::MAX), EventFlags::IN).unwrap();
    let head =
        format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n", bytes - 66);
    let mut answer = head.into_bytes();
    answer.resize(bytes, b'x');
    let mut connections: Vec<Option<TcpStream>> = Vec::new();
    let mut free = Vec::new();
    let mut events: Vec<Event> = Vec::with_capacity(256);
    let mut buffer = [0; 16 * 1024];
    loop {
        events.clear();
        let _ = epoll::wait(&epoll, spare_capacity(&mut events), None);
        for event in &events {
            if event.data.u64() == u64::MAX {
                let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
                while let Ok(stream) = rustix::net::accept_with(&listener, flags) {
                    let at = free.pop().unwrap_or_else(|| {
                        connections.push(None);
                        connections.len() - 1
                    });
                    let data = EventData::new_u64(at as u64);
                    epoll::add(&epoll, stream.as_fd(), data, EventFlags::IN).unwrap();
                    connections[at] = Some(TcpStream::from(stream));
                }
                continue;
            }
            let at = event.data.u64() as usize;
            let Some(stream) = &mut connections[at] else { continue };
            let length = stream.read(&mut buffer).unwrap_or(0);
            let ends = memchr::memmem::find(&buffer[..length], b"Connection: close").is_some();
            if length > 0 {
                let _ = stream.write(&answer);
            }
            if length == 0 || ends {
                connections[at] = None;
                free.push(at);
            }
        }
    }
}
