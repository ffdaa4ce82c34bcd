//! The threads that answer UDP: each has a socket of its own on the listener's address, among which the kernel shares
//! the packets out, and takes and sends many packets by one call.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::{IpAddr, UdpSocket},
    os::fd::AsRawFd as _,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use announce::udp::MAX_REQUEST;
use nix::{
    errno::Errno,
    sys::socket::{
        ControlMessage, MsgFlags, MultiHeaders, SockaddrIn, SockaddrIn6, SockaddrLike, recvmmsg, sendmmsg,
    },
};

use super::{Exchange, MAX_ANSWER};
use crate::{server::Clock, store::WARMED};

/// How many packets one call takes at most.
const BATCH: usize = 64;

/// How long a worker waits for packets before it looks whether it should end.
pub(crate) const WAIT: Duration = Duration::from_millis(250);

/// Answers until `closing`. The socket must block, with [`WAIT`] as its time limit.
pub(crate) fn run(socket: &UdpSocket, mut exchange: Exchange, clock: Clock, closing: &AtomicBool) {
    let outcome = match socket.local_addr().map(|address| address.is_ipv4()) {
        Ok(true) => work::<SockaddrIn>(socket, &mut exchange, clock, closing),
        Ok(false) => work::<SockaddrIn6>(socket, &mut exchange, clock, closing),
        Err(error) => Err(error),
    };
    if let Err(error) = outcome {
        tracing::error!(%error, "a UDP worker ends");
    }
}

/// A sender's address as the kernel writes it. A socket has senders of one kind only.
trait Sender: SockaddrLike + Copy {
    fn address(&self) -> IpAddr;
}

impl Sender for SockaddrIn {
    fn address(&self) -> IpAddr {
        self.ip().into()
    }
}

impl Sender for SockaddrIn6 {
    fn address(&self) -> IpAddr {
        self.ip().into()
    }
}

fn work<S: Sender>(
    socket: &UdpSocket,
    exchange: &mut Exchange,
    clock: Clock,
    closing: &AtomicBool,
) -> io::Result<()> {
    let fd = socket.as_raw_fd();
    let mut incoming = MultiHeaders::<S>::preallocate(BATCH, None);
    let mut outgoing = MultiHeaders::<S>::preallocate(BATCH, None);
    let mut packets = vec![0; BATCH * MAX_REQUEST];
    let mut taken: Vec<(usize, S)> = Vec::with_capacity(BATCH);
    let mut answers = Vec::with_capacity(BATCH * MAX_ANSWER);
    let mut ends: Vec<usize> = Vec::with_capacity(BATCH);
    let mut senders: Vec<Option<S>> = Vec::with_capacity(BATCH);
    while !closing.load(Relaxed) {
        taken.clear();
        {
            let mut rest = packets.chunks_exact_mut(MAX_REQUEST);
            let mut slices: [_; BATCH] =
                std::array::from_fn(|_| [IoSliceMut::new(rest.next().unwrap_or_default())]);
            match recvmmsg(fd, &mut incoming, &mut slices, MsgFlags::MSG_WAITFORONE, None) {
                Ok(messages) => {
                    taken.extend(messages.filter_map(|message| Some((message.bytes, message.address?))));
                }
                Err(Errno::EAGAIN | Errno::EINTR) => continue,
                // An earlier answer found nobody there.
                Err(Errno::ECONNREFUSED | Errno::EHOSTUNREACH | Errno::ENETUNREACH) => continue,
                Err(error) => return Err(error.into()),
            }
        }
        let now = clock.elapsed();
        answers.clear();
        ends.clear();
        senders.clear();
        let whole = |n: usize| {
            let (packet, length) = (packets.get(n * MAX_REQUEST..)?, taken.get(n)?.0);
            packet.get(..length.min(MAX_REQUEST))
        };
        for (n, (_, sender)) in taken.iter().enumerate() {
            if n % WARMED == 0 && taken.len() > 2 {
                exchange.expect((n..n + WARMED).filter_map(whole));
            }
            let start = answers.len();
            exchange.answer(now, whole(n).unwrap_or_default(), sender.address(), &mut answers);
            if answers.len() > start {
                ends.push(answers.len());
                senders.push(Some(*sender));
            }
        }
        send(fd, &mut outgoing, &answers, &ends, &senders);
    }
    Ok(())
}

/// Sends all answers; what the kernel refuses is left out.
fn send<S: Sender>(
    fd: std::os::fd::RawFd,
    headers: &mut MultiHeaders<S>,
    answers: &[u8],
    ends: &[usize],
    senders: &[Option<S>],
) {
    let mut slices = [[IoSlice::new(&[])]; BATCH];
    let mut start = 0;
    for (slice, &end) in slices.iter_mut().zip(ends) {
        *slice = [IoSlice::new(answers.get(start..end).unwrap_or_default())];
        start = end;
    }
    let mut done = 0;
    while done < senders.len() {
        let (Some(slices), Some(to)) = (slices.get(done..senders.len()), senders.get(done..)) else { return };
        let none: &[ControlMessage<'_>] = &[];
        match sendmmsg(fd, headers, slices, to, none, MsgFlags::empty()) {
            Ok(sent) => done += sent.count().max(1),
            Err(Errno::EINTR) => {}
            // The first that is left cannot be sent.
            Err(_) => done += 1,
        }
    }
}
