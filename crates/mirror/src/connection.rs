//! One connection: what comes before HTTP, and how it ends.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::{Limits, body::Cut, tunnel::Slot};

/// The first byte of a TLS handshake record (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// The answer to a TLS hello. Clients that try https first (containers/image with `insecure`, Docker and containerd
/// with a CA) take a clear HTTP answer as the sign to go on without TLS; a closed connection is an error to some.
const NOT_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n\
    Connection: close\r\nContent-Length: 50\r\n\r\nThis port speaks plain HTTP. Use http, not https.\n";

/// What is read and thrown away after our FIN, and for how long: closing a socket that holds unread bytes sends RST,
/// and the client may lose what it has not read yet.
const LINGER_BYTES: usize = 256 * 1024;
const LINGER: Duration = Duration::from_secs(2);

/// Runs HTTP, or HTTPS where there is a certificate, on a connection until it ends, `shutdown` drains it, or a deadline
/// passes.
pub(crate) async fn run<S, B>(
    mut stream: TcpStream,
    tls: Option<Arc<ServerConfig>>,
    limits: Limits,
    shutdown: CancellationToken,
    service: impl FnOnce(Cut, Slot) -> S,
) where
    S: hyper::service::Service<http::Request<hyper::body::Incoming>, Response = http::Response<B>> + Unpin,
    S::Future: Unpin,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: http_body::Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut first = [0];
    let peeked = tokio::select! {
        peeked = timeout(limits.header, stream.peek(&mut first)) => peeked,
        () = shutdown.cancelled() => return,
    };
    match (peeked, tls) {
        (Ok(Ok(1..)), Some(tls)) if first == [TLS_HANDSHAKE] => {
            match timeout(limits.header, TlsAcceptor::from(tls).accept(stream)).await {
                Ok(Ok(stream)) => converse(stream, limits, shutdown, service).await,
                Ok(Err(error)) => tracing::debug!(%error, "no TLS with a client"),
                Err(_) => tracing::debug!("a client took too long for TLS"),
            }
        }
        (Ok(Ok(1..)), None) if first == [TLS_HANDSHAKE] => {
            let _ = timeout(limits.header, stream.write_all(NOT_TLS)).await;
            close(stream).await;
        }
        (Ok(Ok(1..)), _) => converse(stream, limits, shutdown, service).await,
        // Gone, or silent: nobody waits for an answer.
        _ => {}
    }
}

async fn converse<IO, S, B>(
    stream: IO,
    limits: Limits,
    shutdown: CancellationToken,
    service: impl FnOnce(Cut, Slot) -> S,
) where
    IO: AsyncRead + AsyncWrite + Unpin,
    S: hyper::service::Service<http::Request<hyper::body::Incoming>, Response = http::Response<B>> + Unpin,
    S::Future: Unpin,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: http_body::Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (cut, slot) = (Cut::default(), Slot::default());
    let io = TokioIo::new(ClientIo::new(stream, limits.write_stall, cut.clone()));
    let mut connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header)
        .serve_connection(io, service(cut, slot.clone()));
    let mut draining = false;
    let outcome = loop {
        tokio::select! {
            outcome = poll_fn(|cx| connection.poll_without_shutdown(cx)) => break outcome,
            () = shutdown.cancelled(), if !draining => {
                draining = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
        }
    };
    if let Err(error) = &outcome {
        // Clients leave when they like: containerd cuts every parallel range it has enough of.
        tracing::debug!(%error, "a connection ended early");
    }
    let parts = connection.into_parts();
    let mut io = parts.io.into_inner();
    if let (Ok(()), Some(tunnel)) = (outcome, slot.take()) {
        tunnel.run(&mut io, &parts.read_buf, shutdown).await;
    }
    close(io.stream).await;
}

/// Ends with FIN: says that nothing more comes, and lets the client finish reading before the socket goes.
async fn close(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let linger = async {
        stream.shutdown().await?;
        let mut scrap = [0; 4096];
        let mut read = 0;
        while read < LINGER_BYTES {
            match stream.read(&mut scrap).await? {
                0 => break,
                n => read += n,
            }
        }
        io::Result::Ok(())
    };
    let _ = timeout(LINGER, linger).await;
}

/// A client's socket, with two things added: a write that makes no headway for `stall` fails, and once the answer is
/// cut and all that was buffered has gone out, the next flush fails, which ends the connection.
struct ClientIo<IO> {
    stream: IO,
    cut: Cut,
    stall: Duration,
    timer: Pin<Box<Sleep>>,
    waiting: bool,
}

impl<IO> ClientIo<IO> {
    fn new(stream: IO, stall: Duration, cut: Cut) -> Self {
        Self { stream, cut, stall, timer: Box::pin(sleep(stall)), waiting: false }
    }

    fn watch(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.waiting = false;
            return written;
        }
        if !self.waiting {
            self.waiting = true;
            let until = Instant::now() + self.stall;
            self.timer.as_mut().reset(until);
        }
        match self.timer.as_mut().poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => {
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client stopped reading")))
            }
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for ClientIo<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for ClientIo<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.watch(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.watch(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper calls this only when its own buffer is empty.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_flush(cx) {
            Poll::Ready(Ok(())) if self.cut.is_set() => {
                Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the answer was cut short")))
            }
            flushed => flushed,
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
