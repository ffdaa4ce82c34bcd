//! Sockets to listen on: for each address one for TCP and as many for UDP as there are workers.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    time::Duration,
};

use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use crate::udp::worker::WAIT;

/// How many connections wait to be taken.
const BACKLOG: i32 = 4096;

/// How long what was sent may stay unacknowledged before the connection is given up.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// How often a free port is looked for that both protocols can have.
const TRIES: usize = 20;

/// An address that is listened on.
pub(crate) struct Bound {
    pub(crate) address: SocketAddr,
    pub(crate) tcp: TcpListener,
    pub(crate) udp: Vec<UdpSocket>,
}

/// Binds an address for TCP, and `udp` sockets on the same port for UDP.
///
/// Where port 0 is asked for, the system chooses one; where the address is `[::]` and there is no IPv6, it is
/// `0.0.0.0`.
pub(crate) fn bind(address: SocketAddr, udp: usize, receive_buffer: usize) -> io::Result<Bound> {
    match bind_here(address, udp, receive_buffer) {
        Err(error)
            if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
                && matches!(Errno::from_io_error(&error), Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL)) =>
        {
            let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
            tracing::warn!(%address, %error, "no IPv6 here: listening on {v4}");
            bind_here(v4, udp, receive_buffer)
        }
        outcome => outcome,
    }
}

fn bind_here(address: SocketAddr, udp: usize, receive_buffer: usize) -> io::Result<Bound> {
    for _ in 1..TRIES {
        match bind_once(address, udp, receive_buffer) {
            // Another has that port for UDP.
            Err(error) if address.port() == 0 && error.kind() == io::ErrorKind::AddrInUse => {}
            outcome => return outcome,
        }
    }
    bind_once(address, udp, receive_buffer)
}

fn bind_once(address: SocketAddr, udp: usize, receive_buffer: usize) -> io::Result<Bound> {
    let tcp = tcp(address)?;
    let address = tcp.local_addr()?;
    let udp = match udp {
        0 => Vec::new(),
        1 => vec![udp_socket(address, false, receive_buffer)?],
        _ => {
            // With a shared address a second tracker would get a share of our packets instead of an error.
            drop(udp_socket(address, false, receive_buffer)?);
            (0..udp).map(|_| udp_socket(address, true, receive_buffer)).collect::<io::Result<_>>()?
        }
    };
    Ok(Bound { address, tcp, udp })
}

fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    both_families(&socket, address)?;
    // Connections of a tracker that has just ended do not keep the next one from its port.
    socket.set_reuse_address(true)?;
    // These two go over to every connection that is taken.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(SEND_TIMEOUT))?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn udp_socket(address: SocketAddr, shared: bool, receive_buffer: usize) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    both_families(&socket, address)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    // As much as the system grants (net.core.rmem_max); more only to who may override that.
    let forced =
        nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBufForce, &receive_buffer);
    if forced.is_err() {
        let _ = socket.set_recv_buffer_size(receive_buffer);
    }
    socket.set_read_timeout(Some(WAIT))?;
    socket.set_write_timeout(Some(WAIT))?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn both_families(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) { socket.set_only_v6(false) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_protocols_have_the_same_port_and_keep_others_off() {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        for workers in [1, 3] {
            let bound = bind(any, workers, 1 << 16).expect("bound");
            assert_ne!(bound.address.port(), 0);
            for socket in &bound.udp {
                assert_eq!(socket.local_addr().expect("bound"), bound.address);
            }
            assert_eq!(bound.udp.len(), workers);
            let again = bind(bound.address, workers, 1 << 16).err().map(|error| error.kind());
            assert_eq!(again, Some(io::ErrorKind::AddrInUse));
            drop(bound.tcp);
            let again = bind(bound.address, workers, 1 << 16).err().map(|error| error.kind());
            assert_eq!(again, Some(io::ErrorKind::AddrInUse));
        }
    }
}
