//! The API's connections, which come from the HTTP workers and HTTPS with what these have read already.

use std::{
    io,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use ::http::{HeaderValue, Method, Request, Response, StatusCode, header};
use axum::{
    Router,
    body::{Body, to_bytes},
    extract::ConnectInfo,
};
use bytes::{Buf as _, Bytes};
use hyper::{
    body::{Body as _, Frame, Incoming, SizeHint},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::{
    api::MAX_BODY,
    http::{
        connection::HandedOver,
        idle::{Idle, Seat},
        line::Line,
        responder::MAX_HEAD,
    },
    server::{Clock, GRACE},
    tally::Tally,
};

/// How long the head of a request may take, and how long a connection may stand idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a request may take from its head to the answer's: the longest wait of a claim, and a slow body.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the body of a request may take to come, where it is not a publication's.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long is listened to a client that was told that this was the last answer. A connection that is closed before
/// all was read is reset, and the answer lost to a client that still sends.
pub(crate) const LINGER: Duration = Duration::from_secs(2);

/// What answers requests that are no announces.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) router: Router,
    /// Where connections are that ask nothing.
    pub(crate) idle: Idle,
    pub(crate) clock: Clock,
    pub(crate) closing: CancellationToken,
}

/// Serves a connection until it ends.
pub(crate) async fn connection(handed: HandedOver, api: Api) {
    let HandedOver { socket, from, output, input, place, tally } = handed;
    // Counted as long as it is open.
    let seat = api.idle.seat(place);
    let Ok(mut line) = Line::of(socket) else { return };
    if !matches!(timeout(HEAD_TIMEOUT, line.write_all(&output)).await, Ok(Ok(()))) {
        return;
    }
    let client = Client { from, tally, line: line.clone() };
    stream_of_requests(Rewound { first: input.into(), stream: line }, client, seat, &api).await;
}

/// Whose connection it is.
#[derive(Clone)]
pub(crate) struct Client {
    /// From where it comes; `None` where that is a unix socket's other end.
    pub(crate) from: Option<IpAddr>,
    /// Where the listener counts that it came to.
    pub(crate) tally: Arc<Tally>,
    /// By what it is seen whether the client is still there.
    pub(crate) line: Line,
}

/// Serves the API on a stream until either side has enough.
pub(crate) async fn stream_of_requests<S: Stream>(
    mut stream: Rewound<S>,
    client: Client,
    seat: Seat,
    api: &Api,
) {
    let from = client.from;
    let seat = Arc::new(seat);
    tokio::select! {
        served = serve(&mut stream, client, &seat, api) => if let Err(error) = served {
            tracing::debug!(?from, %error, "connection ends");
        },
        // Another has its place, and so it does not linger.
        () = seat.gone.cancelled() => {
            let _ = timeout(LINGER, stream.shutdown()).await;
            return;
        }
    }
    linger(&mut stream, &api.closing).await;
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
    seat: &Arc<Seat>,
    api: &Api,
) -> hyper::Result<()> {
    let service = service_fn(move |request| answer(api.clone(), client.clone(), Arc::clone(seat), request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = api.closing.cancelled() => {
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
    api: Api,
    client: Client,
    seat: Arc<Seat>,
    request: Request<Incoming>,
) -> Result<Response<Body>, std::convert::Infallible> {
    if !seat.rise() {
        return Ok(last(failed(StatusCode::SERVICE_UNAVAILABLE, "the tracker has no room")));
    }
    let read = Arc::new(AtomicBool::new(request.body().is_end_stream()));
    let has_time = is_publication(&request);
    let awaited = |body| Awaited { body, read: Arc::clone(&read), seat: Arc::clone(&seat), clock: api.clock };
    let answering = answer_all(api.router, client, request.map(awaited));
    let response = tokio::select! {
        response = timeout(REQUEST_TIMEOUT, answering) => match response {
            Ok(response) => response,
            Err(_) => failed(StatusCode::REQUEST_TIMEOUT, "the request took too long"),
        },
        () = body_is_late(&read), if !has_time => {
            failed(StatusCode::REQUEST_TIMEOUT, "the request's body took too long to come")
        }
    };
    if response.body().size_hint().exact().is_some() {
        seat.rest(api.clock.elapsed());
    }
    // What follows a body that was not read cannot be told from it, and who waited too long is not there.
    let ends = !read.load(Relaxed) || response.status() == StatusCode::REQUEST_TIMEOUT;
    Ok(if ends { last(response) } else { response })
}

/// A publication's body is waited for by whoever takes it.
fn is_publication<B>(request: &Request<B>) -> bool {
    request.method() == Method::PUT && request.uri().path().starts_with("/directory/v1/blobs/")
}

/// Ends when a body has had its time and was not read to its end by then.
async fn body_is_late(read: &AtomicBool) {
    tokio::time::sleep(BODY_TIMEOUT).await;
    if read.load(Relaxed) {
        std::future::pending::<()>().await;
    }
}

async fn answer_all(router: Router, client: Client, request: Request<Awaited>) -> Response<Body> {
    let (mut parts, body) = request.into_parts();
    parts.extensions.insert(ConnectInfo(client));
    let takes_body = matches!(parts.method, Method::POST | Method::PUT);
    let body = if body.is_end_stream() {
        Body::empty()
    } else if takes_body {
        Body::new(body)
    } else {
        // Nobody asks for it, and yet it has to be out of the way of the next request.
        let Ok(_) = to_bytes(Body::new(body), MAX_BODY).await else {
            return failed(StatusCode::PAYLOAD_TOO_LARGE, "the body is too long, or broken");
        };
        Body::empty()
    };
    let Ok(response) = router.oneshot(Request::from_parts(parts, body)).await;
    response
}

fn failed(status: StatusCode, why: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(format!("{why}\n")));
    *response.status_mut() = status;
    response
}

/// With word that no request after it is answered.
fn last(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// A body of which it is noted that it was read to its end. While nothing of it comes, its connection counts as idle:
/// whoever sends a head and no body keeps no newcomer out.
struct Awaited {
    body: Incoming,
    read: Arc<AtomicBool>,
    seat: Arc<Seat>,
    clock: Clock,
}

impl hyper::body::Body for Awaited {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
            self.seat.rest(self.clock.elapsed());
            return Poll::Pending;
        };
        // Where another has the place, the connection ends all the same.
        self.seat.rise();
        if frame.is_none() || self.body.is_end_stream() {
            self.read.store(true, Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
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
