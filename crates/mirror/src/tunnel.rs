//! A client's tunnel to a host: bytes both ways, which nobody here reads.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    sync::{OwnedSemaphorePermit, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// Bytes on their way in one direction.
const BUFFER: usize = 32 * 1024;

/// Where a connection finds its tunnel once the answer to `CONNECT` has gone out.
#[derive(Clone, Default)]
pub(crate) struct Slot(Arc<Mutex<Option<Tunnel>>>);

/// The other end of a tunnel.
pub(crate) struct Tunnel {
    stream: TcpStream,
    /// Counts it among all that are open.
    _permit: OwnedSemaphorePermit,
    idle: Duration,
}

impl Slot {
    pub(crate) fn put(&self, tunnel: Tunnel) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(tunnel);
    }

    pub(crate) fn take(&self) -> Option<Tunnel> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Tunnel {
    pub(crate) fn new(stream: TcpStream, permit: OwnedSemaphorePermit, idle: Duration) -> Self {
        Self { stream, _permit: permit, idle }
    }

    /// Moves bytes until both sides have ended, one fails, nothing moves for too long, or `shutdown`. `early` is what
    /// the client has sent already.
    pub(crate) async fn run(
        mut self,
        client: &mut (impl AsyncRead + AsyncWrite + Unpin),
        early: &[u8],
        shutdown: CancellationToken,
    ) {
        let (moved, mut watch) = watch::channel(());
        let (mut from_client, mut to_client) = tokio::io::split(client);
        let (mut from_host, mut to_host) = self.stream.split();
        let both = async {
            to_host.write_all(early).await?;
            tokio::try_join!(
                pump(&mut from_client, &mut to_host, &moved),
                pump(&mut from_host, &mut to_client, &moved),
            )
        };
        let idle = self.idle;
        let quiet = async { while timeout(idle, watch.changed()).await.is_ok() {} };
        tokio::select! {
            ended = both => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a tunnel ended early");
                }
            }
            () = quiet => tracing::debug!("a tunnel was idle for too long"),
            () = shutdown.cancelled() => {}
        }
    }
}

async fn pump(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    moved: &watch::Sender<()>,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = from.read(&mut buffer).await?;
        moved.send_replace(());
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
        to.write_all(bytes).await?;
        to.flush().await?;
    }
    to.shutdown().await
}
