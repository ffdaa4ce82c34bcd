//! Whether there is a server at all where a registry should be.

use std::{io, net::SocketAddr, time::Duration};

use futures_util::{StreamExt, stream};
use tokio::{
    net::{TcpSocket, TcpStream, lookup_host},
    time::timeout,
};
use url::Url;

/// How many addresses are tried at once.
const ADDRESSES: usize = 8;

/// Whether the name of a base's host leads nowhere, or not one of its addresses takes a TCP connection within `connect`.
/// Nothing counts that this host itself lacks. Somebody who fills all of a server's places with connections can bring it
/// about, who only asks it for much cannot.
pub(crate) async fn is_gone(base: &Url, connect: Duration) -> bool {
    let (Some(host), Some(port)) = (base.host_str(), base.port_or_known_default()) else { return false };
    let name = host.trim_start_matches('[').trim_end_matches(']');
    let addresses: Vec<SocketAddr> = match timeout(connect, lookup_host((name, port))).await {
        Ok(Ok(addresses)) => addresses.collect(),
        // A resolver needs sockets too.
        Ok(Err(_)) => return TcpSocket::new_v4().is_ok(),
        // Perhaps it was not even begun.
        Err(_) => return false,
    };
    let tried = stream::iter(addresses).map(|address| refuses(address, connect));
    tried.buffer_unordered(ADDRESSES).all(async |refused| refused).await
}

async fn refuses(address: SocketAddr, connect: Duration) -> bool {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable, TimedOut};
    match timeout(connect, TcpStream::connect(address)).await {
        Ok(Ok(_)) => false,
        Ok(Err(error)) => matches!(
            error.kind(),
            ConnectionRefused | ConnectionReset | HostUnreachable | NetworkUnreachable | TimedOut
        ),
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn gone(base: &str) -> bool {
        is_gone(&Url::parse(base).expect("a URL"), Duration::from_secs(30)).await
    }

    #[tokio::test]
    async fn what_takes_a_connection_is_there_whatever_it_says_then() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        assert!(!gone(&format!("https://127.0.0.1:{port}")).await);
        assert!(!gone(&format!("http://localhost:{port}")).await, "one of its addresses will do");
        drop(listener);
        assert!(gone(&format!("https://127.0.0.1:{port}")).await);
        assert!(gone(&format!("http://[::1]:{port}")).await);
        // No name server is needed to know that.
        assert!(gone(&format!("https://{}.invalid", "a".repeat(64))).await);
    }
}
