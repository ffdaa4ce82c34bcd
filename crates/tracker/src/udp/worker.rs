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

/// How long it pauses when the system cannot give it packets, and how often it says so.
const PAUSE: Duration = Duration::from_millis(10);
const TELL_EVERY: Duration = Duration::from_secs(60);

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
    let mut taken: Vec<(usize, Option<S>)> = Vec::with_capacity(BATCH);
    let mut answers = Answers::new();
    // When a failure was last told.
    let mut told: Option<Duration> = None;
    while !closing.load(Relaxed) {
        taken.clear();
        {
            let mut rest = packets.chunks_exact_mut(MAX_REQUEST);
            let mut slices: [_; BATCH] =
                std::array::from_fn(|_| [IoSliceMut::new(rest.next().unwrap_or_default())]);
            match recvmmsg(fd, &mut incoming, &mut slices, MsgFlags::MSG_WAITFORONE, None) {
                Ok(messages) => {
                    taken.extend(messages.map(|message| (message.bytes, message.address)));
                }
                Err(Errno::EAGAIN | Errno::EINTR) => continue,
                // An earlier answer found nobody there.
                Err(Errno::ECONNREFUSED | Errno::EHOSTUNREACH | Errno::ENETUNREACH) => continue,
                Err(error) if is_fatal(error) => return Err(error.into()),
                Err(error) => {
                    // Out of memory, mostly: that passes, and until then this must not spin.
                    let now = clock.elapsed();
                    if told.is_none_or(|told| now >= told + TELL_EVERY) {
                        tracing::warn!(%error, "cannot receive UDP packets: trying again");
                        told = Some(now);
                    }
                    std::thread::sleep(PAUSE);
                    continue;
                }
            }
        }
        answer(exchange, clock.elapsed(), &packets, &taken, &mut answers);
        send(fd, &mut outgoing, &answers);
    }
    Ok(())
}

/// Whether a socket that fails so will never work again.
fn is_fatal(error: Errno) -> bool {
    matches!(error, Errno::EBADF | Errno::ENOTSOCK | Errno::EINVAL | Errno::EFAULT | Errno::EOPNOTSUPP)
}

/// Answers to a batch of packets, one behind another.
struct Answers<S> {
    bytes: Vec<u8>,
    /// Where each ends, and whose it is.
    ends: Vec<usize>,
    to: Vec<Option<S>>,
}

impl<S> Answers<S> {
    fn new() -> Self {
        let bytes = Vec::with_capacity(BATCH * MAX_ANSWER);
        Self { bytes, ends: Vec::with_capacity(BATCH), to: Vec::with_capacity(BATCH) }
    }
}

/// Answers a batch: `taken` are the packets' lengths and senders, each packet at its place in `packets`. Who did not
/// say who he is gets no answer.
fn answer<S: Sender>(
    exchange: &mut Exchange,
    now: Duration,
    packets: &[u8],
    taken: &[(usize, Option<S>)],
    answers: &mut Answers<S>,
) {
    answers.bytes.clear();
    answers.ends.clear();
    answers.to.clear();
    let whole = |n: usize| {
        let (packet, length) = (packets.get(n * MAX_REQUEST..)?, taken.get(n)?.0);
        packet.get(..length.min(MAX_REQUEST))
    };
    for (n, (_, sender)) in taken.iter().enumerate() {
        if n % WARMED == 0 && taken.len() > 2 {
            exchange.expect((n..n + WARMED).filter_map(whole));
        }
        let Some(sender) = sender else { continue };
        let start = answers.bytes.len();
        exchange.answer(now, whole(n).unwrap_or_default(), sender.address(), &mut answers.bytes);
        if answers.bytes.len() > start {
            answers.ends.push(answers.bytes.len());
            answers.to.push(Some(*sender));
        }
    }
}

/// Sends all answers; what the kernel refuses is left out.
fn send<S: Sender>(fd: std::os::fd::RawFd, headers: &mut MultiHeaders<S>, answers: &Answers<S>) {
    let Answers { bytes, ends, to: senders } = answers;
    let mut slices = [[IoSlice::new(&[])]; BATCH];
    let mut start = 0;
    for (slice, &end) in slices.iter_mut().zip(ends) {
        *slice = [IoSlice::new(bytes.get(start..end).unwrap_or_default())];
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use announce::udp::{PROTOCOL_ID, UdpAnswer};

    use super::*;
    use crate::desk::tests::desk;

    #[test]
    fn a_message_without_a_sender_moves_nobody_elses_answer() {
        let mut exchange = Exchange::new(Arc::new(desk()), [1, 2], Duration::from_secs(7200), Arc::default());
        let mut packets = vec![0; 3 * MAX_REQUEST];
        for (n, packet) in (0u32..).zip(packets.chunks_exact_mut(MAX_REQUEST)) {
            packet[..8].copy_from_slice(&PROTOCOL_ID.to_be_bytes());
            packet[12..16].copy_from_slice(&n.to_be_bytes());
        }
        let sender = |last| Some(SockaddrIn::from(std::net::SocketAddrV4::new([192, 0, 2, last].into(), 1)));
        let taken = [(16, sender(1)), (16, None), (16, sender(3))];
        let mut answers = Answers::new();
        answer(&mut exchange, Duration::from_secs(9), &packets, &taken, &mut answers);
        assert_eq!(answers.to, [sender(1), sender(3)]);
        let transactions: Vec<_> =
            answers.bytes.chunks(16).map(|one| UdpAnswer::parse(one).map(|a| a.0)).collect();
        assert_eq!((transactions, &answers.ends[..]), (vec![Some(0), Some(2)], &[16, 32][..]));
    }

    #[test]
    fn a_system_out_of_memory_ends_no_worker() {
        for passing in [Errno::ENOMEM, Errno::ENOBUFS, Errno::EPERM, Errno::EIO, Errno::ENETDOWN] {
            assert!(!is_fatal(passing), "{passing}");
        }
        assert!(is_fatal(Errno::EBADF) && is_fatal(Errno::ENOTSOCK));
    }
}
