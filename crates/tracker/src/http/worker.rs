//! The threads that answer HTTP: each waits for all its connections at once (epoll), reads what has come, answers the
//! whole requests in it, and sends all answers by one call. Whoever asks for anything else than an announce or a
//! scrape goes to the API, with his connection.

use std::{
    io,
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use announce::http::head::Parsed;
use rustix::{
    buffer::spare_capacity,
    event::{
        Timespec,
        epoll::{self, CreateFlags, Event, EventData, EventFlags},
    },
    net::SocketFlags,
};
use tokio::sync::mpsc;

use super::{
    connection::{Connection, Connections, HandedOver, NoPlace, Place, Stage},
    exchange::{Action, Exchange},
    frame::{Date, Frame},
    table::Table,
};
use crate::{serve::LINGER, server::Clock, tally::Fault};

/// The longest head of a request, in bytes. A scrape of [`announce::MAX_SCRAPE`] torrents must fit.
pub(crate) const MAX_HEAD: usize = 32 * 1024;

/// How many bytes are read by one call.
const READ: usize = 16 * 1024;

/// When answers of this many bytes wait for a client, it has no more of its requests answered before they have gone.
const MAX_OUTPUT: usize = 128 * 1024;

/// How many connections are taken in one go.
const ACCEPTS: usize = 64;

/// How many events one call tells at most.
const EVENTS: usize = 256;

/// What wakes a worker besides its connections.
const LISTENER: u64 = u64::MAX;
const STOP: u64 = u64::MAX - 1;

/// How long clients may take, in seconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// From the first byte of a request's head to its last, and to take an answer.
    pub(crate) slow: u64,
    /// Between requests.
    pub(crate) idle: u64,
}

pub(crate) struct Worker {
    pub(crate) listener: Arc<TcpListener>,
    pub(crate) exchange: Exchange,
    pub(crate) connections: Connections,
    /// Where other requests go.
    pub(crate) api: mpsc::Sender<HandedOver>,
    pub(crate) patience: Patience,
    /// Whether a scrape that names no torrent is the API's.
    pub(crate) full_scrape: bool,
    pub(crate) clock: Clock,
    pub(crate) closing: Arc<AtomicBool>,
    /// Can be read from when the worker should end.
    pub(crate) stop: Arc<OwnedFd>,
}

impl Worker {
    /// Serves until it is told to stop.
    pub(crate) fn run(self) {
        let outcome = Loop::new(self).and_then(Loop::run);
        if let Err(error) = outcome {
            tracing::error!(%error, "an HTTP worker ends");
        }
    }
}

struct Loop {
    worker: Worker,
    epoll: OwnedFd,
    table: Table,
    now: Duration,
    /// What one read brings.
    scratch: Box<[u8]>,
    /// The answers to it.
    answers: Vec<u8>,
    date: Date,
}

/// What became of a connection.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// It waits for the client.
    Stays,
    /// It is over.
    Ends,
    /// It goes to the API, with the input from this place on.
    Leaves,
}

impl Loop {
    fn new(worker: Worker) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        worker.listener.set_nonblocking(true)?;
        // One of the workers is enough for a new connection.
        let flags = EventFlags::IN | EventFlags::EXCLUSIVE;
        epoll::add(&epoll, &worker.listener, EventData::new_u64(LISTENER), flags)?;
        epoll::add(&epoll, &worker.stop, EventData::new_u64(STOP), EventFlags::IN)?;
        Ok(Self {
            epoll,
            table: Table::default(),
            now: Duration::ZERO,
            scratch: vec![0; READ].into(),
            answers: Vec::with_capacity(READ),
            date: Date::default(),
            worker,
        })
    }

    fn run(mut self) -> io::Result<()> {
        let mut events: Vec<Event> = Vec::with_capacity(EVENTS);
        let second = Timespec { tv_sec: 1, tv_nsec: 0 };
        let mut swept = 0;
        while !self.worker.closing.load(Relaxed) {
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&second)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            self.now = self.worker.clock.elapsed();
            for event in &events {
                match event.data.u64() {
                    LISTENER => self.accept(),
                    STOP => {}
                    token => self.wake(token),
                }
            }
            if self.now.as_secs() != swept {
                swept = self.now.as_secs();
                self.date.set(self.worker.clock.unix());
                self.give_up();
            }
        }
        Ok(())
    }

    fn accept(&mut self) {
        for _ in 0..ACCEPTS {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let (stream, from) = match rustix::net::acceptfrom_with(&self.worker.listener, flags) {
                Ok((stream, from)) => (TcpStream::from(stream), from.and_then(|from| from.try_into().ok())),
                Err(rustix::io::Errno::AGAIN) => return,
                Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => continue,
                Err(error) => {
                    // Out of descriptors, mostly: some are given back soon, and until then this must not spin.
                    tracing::warn!(%error, "cannot accept a connection");
                    std::thread::sleep(Duration::from_millis(10));
                    return;
                }
            };
            let Some(from): Option<SocketAddr> = from else { continue };
            self.worker.exchange.tally.of(from.ip()).connects.bump();
            if !self.worker.exchange.may_connect(self.now, from.ip()) {
                // Closed again: what it costs to read and refuse is what a flood lives on.
                self.fault(from, Fault::Limited);
                continue;
            }
            match self.enter(from.ip()) {
                Ok(place) => self.admit(stream, from, place),
                Err(NoPlace::Full) => self.fault(from, Fault::Busy),
                Err(NoPlace::Crowd) => self.fault(from, Fault::Crowd),
            }
        }
    }

    /// A place, if need be that of the connection that has been open for longest without a request.
    fn enter(&mut self, ip: IpAddr) -> Result<Place, NoPlace> {
        let free = self.worker.exchange.is_proxy(ip);
        let place = self.worker.connections.enter(ip, free);
        if place.as_ref().err() != Some(&NoPlace::Full) {
            return place;
        }
        let Some(oldest) = self.table.take_oldest_unserved() else { return place };
        self.fault(oldest.from, Fault::Busy);
        drop(oldest);
        self.worker.connections.enter(ip, free)
    }

    fn fault(&self, from: SocketAddr, fault: Fault) {
        self.worker.exchange.tally.of(from.ip()).fault(fault);
    }

    /// A new connection, whose request may be there already.
    fn admit(&mut self, stream: TcpStream, from: SocketAddr, place: Place) {
        let deadline = self.now.as_secs() + self.worker.patience.slow;
        let (input, output) = (Vec::new(), Vec::new());
        let (stage, served) = (Stage::Open, false);
        let mut connection = Connection { stream, from, input, output, deadline, stage, served, place };
        match self.turn(&mut connection) {
            Fate::Stays => {
                let flags = wanted(&connection);
                let token = self.table.next();
                if epoll::add(&self.epoll, connection.stream.as_fd(), EventData::new_u64(token), flags)
                    .is_ok()
                {
                    self.table.insert(connection);
                }
            }
            Fate::Ends => {}
            Fate::Leaves => self.hand_over(connection),
        }
    }

    /// Something happened to a connection.
    fn wake(&mut self, token: u64) {
        let Some(mut connection) = self.table.take(token) else { return };
        let before = wanted(&connection);
        match self.turn(&mut connection) {
            Fate::Stays => {
                let now = wanted(&connection);
                let data = EventData::new_u64(token);
                if now == before || epoll::modify(&self.epoll, connection.stream.as_fd(), data, now).is_ok() {
                    self.table.put(token, connection);
                } else {
                    self.table.free(token);
                }
            }
            Fate::Ends => self.table.free(token),
            Fate::Leaves => {
                self.table.free(token);
                let _ = epoll::delete(&self.epoll, connection.stream.as_fd());
                self.hand_over(connection);
            }
        }
    }

    /// Sends what waits, reads once, and answers the requests that are there.
    fn turn(&mut self, connection: &mut Connection) -> Fate {
        if connection.stage == Stage::Drained {
            return match connection.read(&mut self.scratch) {
                Ok(Some(0)) | Err(_) => Fate::Ends,
                Ok(_) => Fate::Stays,
            };
        }
        if !connection.output.is_empty() {
            match connection.send(&[]) {
                Ok(true) if connection.stage != Stage::Open => return self.end(connection),
                Ok(true) => {}
                Ok(false) => return Fate::Stays,
                Err(_) => return Fate::Ends,
            }
            // What was held back, before more is read.
            let input = std::mem::take(&mut connection.input);
            let fate = self.serve(connection, &input);
            let waits = !connection.output.is_empty() || connection.stage != Stage::Open;
            if fate != Fate::Stays || waits {
                return fate;
            }
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        let fate = match connection.read(&mut scratch) {
            Ok(None) => Fate::Stays,
            Ok(Some(0)) | Err(_) => Fate::Ends,
            Ok(Some(length)) => {
                let new = scratch.get(..length).unwrap_or_default();
                if connection.input.is_empty() {
                    connection.deadline = self.now.as_secs() + self.worker.patience.slow;
                    self.serve(connection, new)
                } else {
                    let mut input = std::mem::take(&mut connection.input);
                    input.extend_from_slice(new);
                    self.serve(connection, &input)
                }
            }
        };
        self.scratch = scratch;
        fate
    }

    /// The last answer has gone. A connection that is closed before all was read is reset, and the answer lost to a
    /// client that still sends.
    fn end(&self, connection: &mut Connection) -> Fate {
        if connection.stage != Stage::Refused || connection.stream.shutdown(Shutdown::Write).is_err() {
            return Fate::Ends;
        }
        connection.stage = Stage::Drained;
        connection.deadline = self.now.as_secs() + LINGER.as_secs();
        Fate::Stays
    }

    /// Answers the requests in `input`, and keeps what is left of it.
    fn serve(&mut self, connection: &mut Connection, input: &[u8]) -> Fate {
        let mut rest = input;
        let mut answers = std::mem::take(&mut self.answers);
        let fate = loop {
            answers.clear();
            let part = self.answer(connection, &mut rest, &mut answers);
            match connection.send(&answers) {
                Ok(_) if part == Part::Foreign => break Fate::Leaves,
                Ok(gone) => {
                    match part {
                        Part::Last => connection.stage = Stage::Last,
                        Part::Broken => connection.stage = Stage::Refused,
                        _ => connection.served |= !answers.is_empty(),
                    }
                    if gone && connection.stage != Stage::Open {
                        break self.end(connection);
                    }
                    if !gone || part != Part::Full {
                        break Fate::Stays;
                    }
                }
                Err(_) => break Fate::Ends,
            }
        };
        self.answers = answers;
        if fate != Fate::Ends && connection.stage == Stage::Open {
            let now = self.now.as_secs();
            if rest.len() < input.len() || !connection.output.is_empty() {
                let begun = !rest.is_empty() || !connection.output.is_empty();
                let Patience { slow, idle } = self.worker.patience;
                connection.deadline = now + if begun { slow } else { idle };
            }
            connection.input.extend_from_slice(rest);
        }
        fate
    }

    /// Writes answers to the whole requests at the head of `rest`, and takes these off it.
    fn answer(&mut self, connection: &Connection, rest: &mut &[u8], answers: &mut Vec<u8>) -> Part {
        let from = connection.from.ip();
        loop {
            match Parsed::read(rest) {
                Parsed::Partial if rest.len() > MAX_HEAD => {
                    self.worker.exchange.tally.of(from).fault(Fault::TooLong);
                    answers.extend_from_slice(
                        b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Length: 0\r\n\
                          Connection: close\r\n\r\n",
                    );
                    return Part::Broken;
                }
                Parsed::Partial => return Part::Waits,
                // As long as its head is not whole, it can be given up here for another's place.
                Parsed::Other if rest.len() <= MAX_HEAD && !has_whole_head(rest) => return Part::Waits,
                Parsed::Other => return Part::Foreign,
                Parsed::Broken => {
                    self.worker.exchange.tally.of(from).fault(Fault::Malformed);
                    answers.extend_from_slice(
                        b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 24\r\n\
                          Connection: close\r\n\r\nthis is no HTTP request\n",
                    );
                    return Part::Broken;
                }
                Parsed::Get(head, length) => {
                    let Some(action) = Action::of(head.path) else { return Part::Foreign };
                    if self.is_full_scrape(action, head.query) {
                        return Part::Foreign;
                    }
                    let from = self.worker.exchange.client(from, |name| head.field(name).collect());
                    let in_time = self.worker.exchange.is_within_rate(self.now, from);
                    let keep_alive = head.keep_alive && in_time;
                    let frame = Frame::begin(answers, &self.date, head.old, keep_alive);
                    if in_time {
                        self.worker.exchange.answer(self.now, action, head.path, head.query, from, answers);
                    } else {
                        self.worker.exchange.hold_off(from, answers);
                    }
                    frame.end(answers);
                    *rest = rest.get(length..).unwrap_or_default();
                    if !keep_alive {
                        return Part::Last;
                    }
                    if answers.len() >= MAX_OUTPUT {
                        return Part::Full;
                    }
                    if rest.is_empty() {
                        return Part::Waits;
                    }
                }
            }
        }
    }

    fn is_full_scrape(&self, action: Action, query: &[u8]) -> bool {
        action == Action::Scrape
            && self.worker.full_scrape
            && memchr::memmem::find(query, b"info_hash=").is_none()
    }

    fn hand_over(&self, connection: Connection) {
        let Connection { stream, from, input, output, place, .. } = connection;
        let handed = HandedOver { stream, from, output, input, place };
        if self.worker.api.try_send(handed).is_err() {
            // Dropped, and so closed.
            self.worker.exchange.tally.of(from.ip()).fault(Fault::Busy);
        }
    }

    /// Closes connections whose clients took too long.
    fn give_up(&mut self) {
        let now = self.now.as_secs();
        let tally = &self.worker.exchange.tally;
        self.table.retain(|connection| {
            let late = connection.deadline < now;
            if late && !(connection.input.is_empty() && connection.output.is_empty()) {
                tally.of(connection.from.ip()).fault(Fault::Slow);
            }
            !late
        });
    }
}

/// How far the requests that have come were answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// All of them; there may be the beginning of another.
    Waits,
    /// Up to as much as may be sent at once.
    Full,
    /// Up to the one that is not for us.
    Foreign,
    /// Up to one that was the connection's last.
    Last,
    /// Up to something that is no request.
    Broken,
}

/// Whether an empty line is there.
fn has_whole_head(bytes: &[u8]) -> bool {
    let find = |end: &[u8]| memchr::memmem::find(bytes, end).is_some();
    find(b"\n\r\n") || find(b"\n\n")
}

fn wanted(connection: &Connection) -> EventFlags {
    // A client that does not take its answers is not listened to.
    if connection.output.is_empty() { EventFlags::IN } else { EventFlags::OUT }
}
