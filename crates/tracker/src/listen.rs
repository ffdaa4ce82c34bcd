//! Sockets to listen on: for each address one for TCP and as many for UDP as there are workers; unix sockets; those
//! that were inherited.

mod unix;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    os::unix::net::UnixListener,
    path::Path,
    time::Duration,
};

use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

pub(crate) use self::unix::SocketFile;
use crate::{
    Config, ConfigError, StartError,
    endpoint::{Endpoint, Listen},
    udp::worker::WAIT,
    user::Account,
};

/// What an inherited socket is called that takes TLS.
const HTTPS: &str = "https";

/// How many connections wait to be taken.
const BACKLOG: i32 = 4096;

/// How long what was sent may stay unacknowledged before the connection is given up.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// How often a free port is looked for that both protocols can have.
const TRIES: usize = 20;

/// All that the tracker listens on. It is bound before anything else is done, since that may take rights that the
/// tracker then gives up.
#[derive(Debug)]
pub struct Listeners {
    pub(crate) http: Vec<Door<Socket>>,
    pub(crate) https: Vec<Door<TcpListener>>,
    /// For each a socket a worker.
    pub(crate) udp: Vec<Door<Vec<UdpSocket>>>,
    /// For the other trackers of a cluster.
    pub(crate) cluster: Option<TcpListener>,
    /// Removed at the end.
    pub(crate) files: Vec<SocketFile>,
    /// In the order of the configuration.
    pub(crate) endpoints: Vec<Endpoint>,
}

/// Something that listens, and where.
#[derive(Debug)]
pub(crate) struct Door<S> {
    pub(crate) at: Listen,
    pub(crate) socket: S,
}

/// A socket that was bound by whoever started the process (socket activation), with the name that it gave to it.
#[derive(Debug)]
pub struct Inherited {
    /// A TCP socket named `https` takes TLS. No other name means anything.
    pub name: String,
    /// The socket.
    pub socket: InheritedSocket,
}

/// What kind it is of.
#[derive(Debug)]
#[non_exhaustive]
pub enum InheritedSocket {
    /// For HTTP, or HTTPS.
    Tcp(TcpListener),
    /// For BEP 15.
    Udp(UdpSocket),
    /// For HTTP from proxies.
    Unix(UnixListener),
}

impl Listeners {
    /// Binds what the configuration lists; sockets that were inherited take the place of `listen`. Then, where `user`
    /// is set, the whole process becomes that user.
    ///
    /// # Errors
    /// When something cannot be bound, or the process cannot become that user. Nothing is bound then.
    pub fn bind(config: &Config, inherited: Vec<Inherited>) -> Result<Self, StartError> {
        config.check()?;
        let account = Account::of(config)?;
        let mut listeners = Self {
            http: Vec::new(),
            https: Vec::new(),
            udp: Vec::new(),
            cluster: None,
            files: Vec::new(),
            endpoints: Vec::new(),
        };
        if inherited.is_empty() {
            for at in &config.listen {
                let fail = |error| StartError::Listen { at: at.clone(), error };
                listeners.open(at, config, account.as_ref()).map_err(fail)?;
            }
        }
        for Inherited { name, socket } in inherited {
            let fail = |error| StartError::Inherited { name: name.clone(), error };
            listeners.inherit(&name, socket, config).map_err(fail)?;
        }
        for &address in &config.tls_listen {
            let fail = |error| StartError::Listen { at: address.into(), error };
            let socket = or_v4(address, tcp).map_err(fail)?;
            listeners.add_https(socket).map_err(fail)?;
        }
        if let Some(address) = config.cluster_listen {
            let bound = or_v4(address, tcp).and_then(|socket| socket.set_nonblocking(true).map(|()| socket));
            listeners.cluster =
                Some(bound.map_err(|error| StartError::Listen { at: address.into(), error })?);
        }
        listeners.check(config)?;
        if let Some(account) = account {
            account.assume()?;
        }
        Ok(listeners)
    }

    /// Whether what listens and what is set go together.
    fn check(&self, config: &Config) -> Result<(), ConfigError> {
        if self.endpoints.is_empty() {
            return Err(ConfigError::NoListener);
        }
        if !self.https.is_empty() && config.tls_certificate.is_none() {
            return Err(ConfigError::NoCertificate);
        }
        let has_unix = self.http.iter().any(|door| matches!(door.at, Listen::Unix(_)));
        if config.proxy_protocol && config.trusted_proxies.is_empty() && !has_unix {
            return Err(ConfigError::NoProxies);
        }
        Ok(())
    }

    fn open(&mut self, at: &Listen, config: &Config, owner: Option<&Account>) -> io::Result<()> {
        match at {
            Listen::Address(address) => {
                let sockets = if config.udp { config.workers() } else { 0 };
                let Bound { address, tcp, udp } = bind(*address, sockets, config.receive_buffer)?;
                self.add_http(address.into(), tcp.into());
                if !udp.is_empty() {
                    self.add_udp(address, udp);
                }
            }
            Listen::Unix(path) => {
                let (socket, file) = unix::bind(path, config.socket_mode, owner)?;
                self.files.push(file);
                self.add_http(at.clone(), socket);
            }
        }
        Ok(())
    }

    fn inherit(&mut self, name: &str, socket: InheritedSocket, config: &Config) -> io::Result<()> {
        let must_listen = |socket: &Socket| match socket.is_listener() {
            Ok(false) => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is a connection, and no socket to take connections from: set Accept=no",
            )),
            outcome => outcome.map(drop),
        };
        match socket {
            InheritedSocket::Tcp(tcp) => {
                let socket = Socket::from(tcp);
                must_listen(&socket)?;
                set_for_connections(&socket)?;
                if name == HTTPS {
                    return self.add_https(socket.into());
                }
                let address = TcpListener::from(socket.try_clone()?).local_addr()?;
                self.add_http(address.into(), socket);
            }
            InheritedSocket::Unix(unix) => {
                let address = unix.local_addr()?;
                let socket = Socket::from(unix);
                must_listen(&socket)?;
                let path = address.as_pathname().map_or_else(|| name.into(), Path::to_owned);
                self.add_http(Listen::Unix(path), socket);
            }
            InheritedSocket::Udp(udp) => {
                udp.set_nonblocking(false)?;
                let socket = Socket::from(udp);
                set_for_packets(&socket, config.receive_buffer)?;
                let udp = UdpSocket::from(socket);
                let address = udp.local_addr()?;
                // It cannot be bound again as one of several: all workers take from the one.
                let mut sockets =
                    (1..config.workers()).map(|_| udp.try_clone()).collect::<io::Result<Vec<_>>>()?;
                sockets.push(udp);
                self.add_udp(address, sockets);
            }
        }
        Ok(())
    }

    fn add_http(&mut self, at: Listen, socket: Socket) {
        self.endpoints.push(Endpoint::Http(at.clone()));
        self.http.push(Door { at, socket });
    }

    fn add_https(&mut self, socket: TcpListener) -> io::Result<()> {
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        self.endpoints.push(Endpoint::Https(address));
        self.https.push(Door { at: address.into(), socket });
        Ok(())
    }

    fn add_udp(&mut self, address: SocketAddr, socket: Vec<UdpSocket>) {
        self.endpoints.push(Endpoint::Udp(address));
        self.udp.push(Door { at: address.into(), socket });
    }
}

/// An address that is bound.
struct Bound {
    address: SocketAddr,
    tcp: TcpListener,
    udp: Vec<UdpSocket>,
}

/// Binds an address for TCP, and `udp` sockets on the same port for UDP. Where port 0 is asked for, the system chooses
/// one.
fn bind(address: SocketAddr, udp: usize, receive_buffer: usize) -> io::Result<Bound> {
    or_v4(address, |address| bind_here(address, udp, receive_buffer))
}

/// Binds an address; where that is `[::]` and there is no IPv6, `0.0.0.0`.
fn or_v4<T>(address: SocketAddr, bind: impl Fn(SocketAddr) -> io::Result<T>) -> io::Result<T> {
    match bind(address) {
        Err(error)
            if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
                && matches!(Errno::from_io_error(&error), Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL)) =>
        {
            let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
            tracing::warn!(%address, %error, "no IPv6 here: listening on {v4}");
            bind(v4)
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
    set_for_connections(&socket)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// What goes over to every connection that is taken.
fn set_for_connections(socket: &Socket) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(SEND_TIMEOUT))
}

fn udp_socket(address: SocketAddr, shared: bool, receive_buffer: usize) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    both_families(&socket, address)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    set_for_packets(&socket, receive_buffer)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn set_for_packets(socket: &Socket, receive_buffer: usize) -> io::Result<()> {
    // As much as the system grants (net.core.rmem_max); more only to who may override that, as whoever handed the
    // socket over may have done.
    let forced =
        nix::sys::socket::setsockopt(socket, nix::sys::socket::sockopt::RcvBufForce, &receive_buffer);
    if forced.is_err() && socket.recv_buffer_size()? < receive_buffer {
        let _ = socket.set_recv_buffer_size(receive_buffer);
    }
    socket.set_read_timeout(Some(WAIT))?;
    socket.set_write_timeout(Some(WAIT))
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
