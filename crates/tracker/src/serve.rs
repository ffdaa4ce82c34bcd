//! The API's connections, which come from the HTTP workers and HTTPS with what these have read already.

use std::{
    io,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use ::http::{Request, Response, StatusCode};
use axum::{Router, body::Body, extract::ConnectInfo};
use bytes::{Buf as _, Bytes};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Socket};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::{TcpStream, UnixStream},
    time::timeout,
};
use tokio_util::{either::Either, sync::CancellationToken};
use tower::ServiceExt as _;

use crate::{
    http::{connection::HandedOver, responder::MAX_HEAD},
    server::GRACE,
    tally::Tally,
};

/// How long the head of a request may take, and how long a connection may stand idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a request may take from its head to the answer's: the longest wait of a claim, and a slow body.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// How long is listened to a client that was told that this was the last answer. A connection that is closed before
/// all was read is reset, and the answer lost to a client that still sends.
pub(crate) const LINGER: Duration = Duration::from_secs(2);

/// What a TCP or a unix connection is to tokio.
type Plain = Either<TcpStream, UnixStream>;

/// Serves a connection until it ends.
pub(crate) async fn connection(handed: HandedOver, router: Router, closing: CancellationToken) {
    let HandedOver { socket, from, output, input, place, tally } = handed;
    // Counted as long as it is open.
    let _place = place;
    let Ok(mut stream) = plain(socket) else { return };
    if !matches!(timeout(HEAD_TIMEOUT, stream.write_all(&output)).await, Ok(Ok(()))) {
        return;
    }
    let client = Client { from, tally };
    stream_of_requests(Rewound { first: input.into(), stream }, client, router, &closing).await;
}

fn plain(socket: Socket) -> io::Result<Plain> {
    if socket.domain()? == Domain::UNIX {
        UnixStream::from_std(socket.into()).map(Either::Right)
    } else {
        TcpStream::from_std(socket.into()).map(Either::Left)
    }
}

/// Whose connection it is.
#[derive(Clone)]
pub(crate) struct Client {
    /// From where it comes; `None` where that is a unix socket's other end.
    pub(crate) from: Option<IpAddr>,
    /// Where the listener counts that it came to.
    pub(crate) tally: Arc<Tally>,
}

/// Serves the API on a stream until either side has enough.
pub(crate) async fn stream_of_requests<S: Stream>(
    mut stream: Rewound<S>,
    client: Client,
    router: Router,
    closing: &CancellationToken,
) {
    let from = client.from;
    if let Err(error) = serve(&mut stream, client, router, closing).await {
        tracing::debug!(?from, %error, "connection ends");
    }
    linger(&mut stream, closing).await;
}

/// Says that nothing more comes, and listens for a while until the client says so too.
pub(crate) async fn linger<S: Stream>(stream: &mut S, closing: &CancellationToken) {
    tokio::select! {
        _ = timeout(LINGER, drain(stream)) => {}
        () = closing.cancelled() => {}
    }
}

/// A connection, of whatever kind.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

async fn serve<S: Stream>(
    stream: &mut Rewound<S>,
    client: Client,
    router: Router,
    closing: &CancellationToken,
) -> hyper::Result<()> {
    let service = service_fn(move |request| answer(router.clone(), client.clone(), request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            timeout(GRACE, connection).await.unwrap_or(Ok(()))
        }
    }
}

async fn drain<S: Stream>(stream: &mut S) -> io::Result<()> {
    stream.shutdown().await?;
    let mut ignored = [0; 4096];
    while stream.read(&mut ignored).await? > 0 {}
    Ok(())
}

async fn answer(
    router: Router,
    client: Client,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, std::convert::Infallible> {
    request.extensions_mut().insert(ConnectInfo(client));
    match timeout(REQUEST_TIMEOUT, router.oneshot(request.map(Body::new))).await {
        Ok(outcome) => outcome,
        Err(_) => {
            let mut late = Response::new(Body::from("the request took too long\n"));
            *late.status_mut() = StatusCode::REQUEST_TIMEOUT;
            Ok(late)
        }
    }
}

/// A stream of which the first bytes were read already.
pub(crate) struct Rewound<S> {
    pub(crate) first: Bytes,
    pub(crate) stream: S,
}

impl<S: Stream> AsyncRead for Rewound<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, to);
        }
        let length = self.first.len().min(to.remaining());
        to.put_slice(self.first.get(..length).unwrap_or_default());
        self.first.advance(length);
        if self.first.is_empty() {
            self.first = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: Stream> AsyncWrite for Rewound<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
