//! HTTPS: a task for each connection, which reads what is in it and has it answered as the workers do.

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use announce::http::preface::Preface;
use arc_swap::ArcSwap;
use bytes::Bytes;
use rustls::ServerConfig;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::task::TaskTracker;

use super::{
    exchange::Exchange,
    idle::Seat,
    line::Line,
    responder::{Part, Responder},
    wanted::Wanted,
    worker::{MOMENT, PATIENCE},
};
use crate::{
    api::Shared,
    places::{NoPlace, Place, Places},
    policy::is_credible,
    serve::{Api, Client, Rewound, linger, stream_of_requests},
    tally::{Fault, Tally},
};

/// How long a client may take from its connection to the end of the handshake, its proxy's preface included.
const HANDSHAKE: Duration = Duration::from_secs(15);

/// Room for the head of a request.
const ROOM: usize = 2048;

/// An address that takes HTTPS.
pub(crate) struct Secure {
    /// By what new connections are proven; changed by a reload.
    pub(crate) tls: Arc<ArcSwap<ServerConfig>>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) tally: Arc<Tally>,
    pub(crate) api: Api,
    /// By what places are asked for that others may give up.
    pub(crate) wanted: Wanted,
    /// Places for connections that have not been answered anything yet.
    pub(crate) unserved: Places,
    /// How long a request may take to be read, or an answer to be taken.
    pub(crate) slow: Duration,
    /// How long a connection may stand idle.
    pub(crate) idle: Duration,
    pub(crate) tasks: TaskTracker,
}

type Stream = TlsStream<Rewound<Line>>;

impl Secure {
    /// Takes connections until it is told to stop.
    pub(crate) async fn run(self: Arc<Self>, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.api.closing.cancelled() => return,
            };
            match accepted {
                Ok((stream, from)) => self.enter(stream, from.ip()),
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    // Out of descriptors, mostly: some are given back soon, and until then this must not spin.
                    self.shared.connections.cannot_accept(self.shared.clock.elapsed(), &error);
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        }
    }

    fn enter(self: &Arc<Self>, stream: TcpStream, from: IpAddr) {
        self.tally.of(from).connects.bump();
        let policy = self.shared.desk.policy.load();
        if !policy.may_connect(self.shared.clock.elapsed(), Some(from)) {
            return self.tally.of(from).fault(Fault::Limited);
        }
        let free = policy.is_free(Some(from));
        match self.unserved.enter(Some(from), free) {
            Ok(unserved) => {
                self.tasks.spawn(Arc::clone(self).serve(stream, from, free, unserved));
            }
            Err(why) => self.tally.of(from).fault(why.into()),
        }
    }

    /// A place, if need be that of a connection that stands idle; where there is none, others may have one soon.
    async fn place(&self, from: IpAddr, free: bool) -> Result<Place, NoPlace> {
        let Shared { connections, clock, .. } = &*self.shared;
        let until = clock.elapsed() + PATIENCE;
        let mut has_asked = false;
        loop {
            let mut place = connections.enter(Some(from), free);
            let now = clock.elapsed();
            if place.as_ref().err() == Some(&NoPlace::Full) && self.api.idle.end_longest(now) {
                place = connections.enter(Some(from), free);
            }
            if place.as_ref().err() != Some(&NoPlace::Full) || now >= until {
                return place;
            }
            if !std::mem::replace(&mut has_asked, true) {
                self.wanted.ask(now, 1);
            }
            tokio::time::sleep(MOMENT).await;
        }
    }

    /// Serves a connection until it ends, and counts it as long.
    async fn serve(self: Arc<Self>, stream: TcpStream, from: IpAddr, free: bool, unserved: Place) {
        let place = tokio::select! {
            place = self.place(from, free) => place,
            () = self.api.closing.cancelled() => return,
        };
        let place = match place {
            Ok(place) => place,
            Err(why) => return self.tally.of(from).fault(why.into()),
        };
        let line = Line::from(stream);
        let greeted = tokio::select! {
            greeted = timeout(HANDSHAKE, self.greet(line.clone(), from)) => greeted,
            () = self.api.closing.cancelled() => return,
        };
        match greeted {
            Ok(Ok((stream, from))) => {
                let client = Client { from: Some(from), tally: Arc::clone(&self.tally), line };
                self.converse(stream, from, client, self.api.idle.seat(place), unserved).await;
            }
            Ok(Err(Some(fault))) => self.tally.of(from).fault(fault),
            // Who goes away before the first request is not counted: proxies look so whether we live.
            Ok(Err(None)) => {}
            Err(_) => self.tally.of(from).fault(Fault::Slow),
        }
    }

    /// What comes before the first request: the preface of a trusted proxy, and the handshake.
    async fn greet(&self, mut stream: Line, from: IpAddr) -> Result<(Stream, IpAddr), Option<Fault>> {
        let (mut client, mut first) = (from, Bytes::new());
        if self.shared.desk.policy.load().has_preface(Some(from)) {
            let (named, rest) = preface(&mut stream).await?;
            if named.is_some_and(|named| !is_credible(named, Some(from))) {
                return Err(Some(Fault::Proxy));
            }
            (client, first) = (named.unwrap_or(from), rest);
        }
        let accepting = TlsAcceptor::from(self.tls.load_full()).accept(Rewound { first, stream });
        match accepting.await {
            Ok(stream) => Ok((stream, client)),
            Err(error) => {
                tracing::debug!(%client, %error, "no TLS");
                Err((error.kind() != io::ErrorKind::UnexpectedEof).then_some(Fault::Handshake))
            }
        }
    }

    /// Answers announces and scrapes, until the client has enough or asks for something else: that is the API's, and
    /// all that follows.
    async fn converse(&self, mut stream: Stream, from: IpAddr, client: Client, seat: Seat, unserved: Place) {
        let Shared { desk, tracker_id, config, clock, .. } = &*self.shared;
        let exchange = Exchange::new(Arc::clone(desk), Arc::clone(tracker_id), Arc::clone(&self.tally));
        let mut responder = Responder::new(exchange, config.full_scrape);
        let (mut input, mut answers) = (Vec::new(), Vec::new());
        let mut unserved = Some(unserved);
        let (mut deadline, mut since) = (deadline_in(self.slow), clock.elapsed());
        loop {
            let begins = input.is_empty();
            input.reserve(ROOM);
            // Who has not finished asking is as good as idle.
            if unserved.is_none() {
                seat.rest(since);
            }
            let read = tokio::select! {
                read = timeout_at(deadline, stream.read_buf(&mut input)) => read,
                () = seat.gone.cancelled() => break,
                () = self.api.closing.cancelled() => break,
            };
            if !seat.rise() {
                break;
            }
            match read {
                Ok(Ok(0) | Err(_)) => return,
                Ok(Ok(_)) => {}
                Err(_) => {
                    if !input.is_empty() {
                        self.tally.of(from).fault(Fault::Slow);
                    }
                    break;
                }
            }
            responder.date.set(clock.unix());
            let mut rest = &input[..];
            let part = loop {
                answers.clear();
                let part = responder.answer(clock.elapsed(), Some(from), &mut rest, &mut answers);
                if !answers.is_empty() || part == Part::Foreign {
                    drop(unserved.take());
                    match timeout(self.slow, send(&mut stream, &answers)).await {
                        Ok(Ok(())) => {}
                        Ok(Err(_)) => return,
                        Err(_) => return self.tally.of(from).fault(Fault::Slow),
                    }
                }
                if part != Part::Full {
                    break part;
                }
            };
            let left = rest.len();
            if left < input.len() {
                since = clock.elapsed();
            }
            match part {
                Part::Waits | Part::Full => {}
                Part::Last => break,
                Part::Broken => return linger(&mut stream, &self.api.closing).await,
                Part::Foreign => {
                    let stream = Rewound { first: Bytes::copy_from_slice(rest), stream };
                    return Box::pin(stream_of_requests(stream, client, seat, &self.api)).await;
                }
            }
            deadline = match left {
                0 => deadline_in(self.idle),
                left if begins || left < input.len() => deadline_in(self.slow),
                // The same head.
                _ => deadline,
            };
            input.drain(..input.len() - left);
        }
        let _ = timeout(self.slow, stream.shutdown()).await;
    }
}

#[allow(clippy::disallowed_methods, reason = "the server is a driver")]
fn deadline_in(time: Duration) -> Instant {
    Instant::now() + time
}

async fn send(stream: &mut Stream, answers: &[u8]) -> io::Result<()> {
    stream.write_all(answers).await?;
    stream.flush().await
}

/// Whom a proxy names, and what it had sent behind that.
async fn preface(stream: &mut Line) -> Result<(Option<IpAddr>, Bytes), Option<Fault>> {
    let mut input = Vec::with_capacity(ROOM);
    loop {
        match Preface::read(&input) {
            Preface::Whole(client, length) => {
                let mut input = Bytes::from(input);
                let rest = input.split_off(length);
                return Ok((client, rest));
            }
            // What is partial is shorter than a preface may be.
            Preface::Partial => input.reserve(ROOM),
            Preface::Broken => return Err(Some(Fault::Proxy)),
        }
        if stream.read_buf(&mut input).await.map_err(|_| None)? == 0 {
            return Err(None);
        }
    }
}
