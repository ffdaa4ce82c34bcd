//! The threads that answer HTTP: each waits for all its connections at once (epoll), reads what has come, answers the
//! whole requests in it, and sends all answers by one call. Whoever asks for anything else than an announce or a
//! scrape goes to the API, with his connection.

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, Shutdown, SocketAddr},
    os::fd::{AsFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use announce::http::preface::Preface;
use rustix::{
    buffer::spare_capacity,
    event::{
        Timespec,
        epoll::{self, CreateFlags, Event, EventData, EventFlags},
    },
    net::SocketFlags,
};
use socket2::Socket;
use tokio::sync::mpsc;

use super::{
    connection::{Connection, HandedOver, Stage},
    idle::{Idle, SHORTEST},
    responder::{Part, Responder},
    table::Table,
    wanted::Wanted,
};
use crate::{
    places::{NoPlace, Place, Places},
    policy::is_credible,
    serve::LINGER,
    server::Clock,
    tally::Fault,
};

/// How many bytes are read by one call.
const READ: usize = 16 * 1024;

/// How many connections are taken in one go at most.
const ACCEPTS: usize = 64;

/// How many events one call tells at most.
const EVENTS: usize = 256;

/// How many requests in a row that came after their connections were taken say that the next will too, and how often
/// that is tried again nevertheless.
const LATE: u32 = 4;
const TRY_AGAIN: u32 = 32;

/// What wakes a worker besides its connections.
const LISTENER: u64 = u64::MAX;
const STOP: u64 = u64::MAX - 1;
const ROOM: u64 = u64::MAX - 2;

/// How many newcomers for whom there is no place wait at a worker for one, and how long: until other workers have
/// looked whether one of theirs has stood idle for a second.
pub(crate) const WAITING: usize = 256;
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);
/// How often they look.
pub(crate) const MOMENT: Duration = Duration::from_millis(10);

/// How long clients may take, in seconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// From the first byte of a request's head to its last, and to take an answer.
    pub(crate) slow: u64,
    /// Between requests.
    pub(crate) idle: u64,
}

pub(crate) struct Worker {
    /// Of TCP or unix connections.
    pub(crate) listener: Arc<Socket>,
    /// Whether they are unix connections, which come from nowhere.
    pub(crate) unix: bool,
    pub(crate) responder: Responder,
    pub(crate) connections: Places,
    /// By what others ask for places.
    pub(crate) wanted: Wanted,
    /// Those of tasks that ask nothing.
    pub(crate) idle: Idle,
    /// Where other requests go.
    pub(crate) api: mpsc::Sender<HandedOver>,
    pub(crate) patience: Patience,
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
    /// How many connections in a row were taken before their requests had come.
    late: u32,
    /// Those who came when there was no place.
    waiting: VecDeque<Newcomer>,
}

/// Somebody for whom there is no place yet.
struct Newcomer {
    socket: Socket,
    from: Option<IpAddr>,
    /// When it is sent away.
    until: Duration,
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
    fn new(mut worker: Worker) -> io::Result<Self> {
        // The first second's answers are dated too.
        worker.responder.date.set(worker.clock.unix());
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        worker.listener.set_nonblocking(true)?;
        // One of the workers is enough for a new connection.
        let flags = EventFlags::IN | EventFlags::EXCLUSIVE;
        epoll::add(&epoll, &worker.listener, EventData::new_u64(LISTENER), flags)?;
        epoll::add(&epoll, &worker.stop, EventData::new_u64(STOP), EventFlags::IN)?;
        let edges = EventFlags::IN | EventFlags::ET;
        epoll::add(&epoll, worker.wanted.bell(), EventData::new_u64(ROOM), edges)?;
        Ok(Self {
            epoll,
            table: Table::default(),
            now: Duration::ZERO,
            scratch: vec![0; READ].into(),
            answers: Vec::with_capacity(READ),
            late: 0,
            waiting: VecDeque::new(),
            worker,
        })
    }

    fn run(mut self) -> io::Result<()> {
        let mut events: Vec<Event> = Vec::with_capacity(EVENTS);
        let second = Timespec { tv_sec: 1, tv_nsec: 0 };
        let moment = Timespec { tv_sec: 0, tv_nsec: MOMENT.subsec_nanos().into() };
        let mut swept = 0;
        while !self.worker.closing.load(Relaxed) {
            events.clear();
            let pause = if self.waiting.is_empty() { &second } else { &moment };
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(pause)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            self.now = self.worker.clock.elapsed();
            for event in &events {
                match event.data.u64() {
                    // As many as there is else to do: where little goes on, one call is enough to take the one.
                    LISTENER => self.accept(events.len().min(ACCEPTS)),
                    STOP => {}
                    ROOM => self.make_room_for_others(),
                    token => self.wake(token),
                }
            }
            self.admit_waiting();
            if self.now.as_secs() != swept {
                swept = self.now.as_secs();
                self.worker.responder.date.set(self.worker.clock.unix());
                self.give_up();
            }
        }
        Ok(())
    }

    fn accept(&mut self, most: usize) {
        for _ in 0..most {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let (socket, from) = match rustix::net::acceptfrom_with(&self.worker.listener, flags) {
                Ok((socket, from)) => (Socket::from(socket), from.and_then(|from| from.try_into().ok())),
                Err(rustix::io::Errno::AGAIN) => return,
                Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => continue,
                Err(error) => {
                    // Out of descriptors, mostly: some are given back soon, and until then this must not spin.
                    self.worker.connections.cannot_accept(self.now, &error.into());
                    std::thread::sleep(Duration::from_millis(10));
                    return;
                }
            };
            let from = from.map(|from: SocketAddr| from.ip());
            if from.is_none() != self.worker.unix {
                continue;
            }
            let Responder { exchange, .. } = &self.worker.responder;
            exchange.tally.of(from).connects.bump();
            if !exchange.may_connect(self.now, from) {
                // Closed again: what it costs to read and refuse is what a flood lives on.
                self.worker.responder.fault(from, Fault::Limited);
                continue;
            }
            match self.enter(from, Self::make_room) {
                Ok(place) => self.admit(socket, from, place),
                Err(NoPlace::Full) if self.waiting.len() < WAITING => {
                    // Another worker may have one that it can do without.
                    self.worker.wanted.ask(self.now, 1);
                    self.waiting.push_back(Newcomer { socket, from, until: self.now + PATIENCE });
                }
                Err(why) => self.worker.responder.fault(from, why.into()),
            }
        }
    }

    /// A place, if need be that of another connection.
    fn enter(
        &mut self,
        from: Option<IpAddr>,
        make_room: impl FnOnce(&mut Self) -> bool,
    ) -> Result<Place, NoPlace> {
        let free = self.worker.responder.exchange.is_free(from);
        let place = self.worker.connections.enter(from, free);
        if place.as_ref().err() != Some(&NoPlace::Full) || !make_room(self) {
            return place;
        }
        self.worker.connections.enter(from, free)
    }

    /// Lets those in for whom there is a place by now, in the order in which they came. The others are kept out when
    /// they have waited for long enough.
    fn admit_waiting(&mut self) {
        while let Some(&Newcomer { from, until, .. }) = self.waiting.front() {
            // Those without a request are newcomers too.
            let place = self.enter(from, Self::end_longest_idle);
            if place.as_ref().err() == Some(&NoPlace::Full) && self.now < until {
                return;
            }
            let Some(Newcomer { socket, .. }) = self.waiting.pop_front() else { return };
            match place {
                Ok(place) => self.admit(socket, from, place),
                Err(why) => self.worker.responder.fault(from, why.into()),
            }
        }
    }

    /// Ends the connection that has been open for longest without a request, or else one that stands idle.
    fn make_room(&mut self) -> bool {
        if let Some(oldest) = self.table.take_oldest_unserved() {
            self.worker.responder.fault(oldest.from, Fault::Busy);
            return true;
        }
        self.end_longest_idle()
    }

    /// Makes room for newcomers who came to other workers, which had none to give up.
    fn make_room_for_others(&mut self) {
        while self.worker.wanted.is_asked(self.now) && self.make_room() {
            self.worker.wanted.given();
        }
    }

    /// Ends the connection that stands idle for longest, of ours and those of tasks.
    fn end_longest_idle(&mut self) -> bool {
        let ours = self.longest_idle();
        match (ours, self.worker.idle.longest()) {
            (Some(ours), theirs) if theirs.is_none_or(|theirs| ours <= theirs) => {
                self.table.end_longest_idle()
            }
            _ => self.worker.idle.end_longest(self.now),
        }
    }

    /// Since when the one of ours stands idle that does so for longest.
    fn longest_idle(&mut self) -> Option<Duration> {
        let until = self.now.checked_sub(SHORTEST)?.as_secs();
        self.table.longest_idle(until).map(Duration::from_secs)
    }

    /// A new connection. To look at once whether its request is there already spares two calls where it is, and costs
    /// one where it is not.
    fn admit(&mut self, socket: Socket, from: Option<IpAddr>, place: Place) {
        let since = self.now.as_secs();
        let deadline = since + self.worker.patience.slow;
        let (input, output) = (Vec::new(), Vec::new());
        let introduced = self.worker.responder.exchange.has_preface(from);
        let (stage, served) = (if introduced { Stage::Preface } else { Stage::Open }, false);
        let mut connection =
            Connection { socket, from, input, output, deadline, since, stage, served, place };
        let looks = self.late < LATE || self.late.is_multiple_of(TRY_AGAIN);
        let fate = if looks { self.turn(&mut connection) } else { Fate::Stays };
        let is_late = fate == Fate::Stays && !connection.served && connection.input.is_empty();
        self.late = if is_late { self.late.wrapping_add(1) } else { 0 };
        match fate {
            Fate::Stays => {
                let flags = wanted(&connection);
                let token = self.table.next();
                if epoll::add(&self.epoll, connection.socket.as_fd(), EventData::new_u64(token), flags)
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
                if now == before || epoll::modify(&self.epoll, connection.socket.as_fd(), data, now).is_ok() {
                    self.table.put(token, connection);
                } else {
                    self.table.free(token);
                }
            }
            Fate::Ends => self.table.free(token),
            Fate::Leaves => {
                self.table.free(token);
                let _ = epoll::delete(&self.epoll, connection.socket.as_fd());
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
            match connection.send(&[], false) {
                Ok(true) if connection.stage != Stage::Open => return self.end(connection),
                Ok(true) => connection.since = self.now.as_secs(),
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

    /// The last answer goes, with the end behind it: what is held back goes no other way, since a connection that is
    /// closed before all was read is reset. A client that was refused may still send for long, and is heard out.
    fn end(&self, connection: &mut Connection) -> Fate {
        let ended = connection.socket.shutdown(Shutdown::Write);
        if ended.is_err() || connection.stage != Stage::Refused {
            return Fate::Ends;
        }
        connection.stage = Stage::Drained;
        connection.deadline = self.now.as_secs() + LINGER.as_secs();
        Fate::Stays
    }

    /// Answers the requests in `input`, and keeps what is left of it.
    fn serve(&mut self, connection: &mut Connection, input: &[u8]) -> Fate {
        let mut rest = input;
        if connection.stage == Stage::Preface {
            match Preface::read(input) {
                Preface::Whole(Some(client), _) if !is_credible(client, connection.from) => {
                    self.worker.responder.fault(connection.from, Fault::Proxy);
                    return Fate::Ends;
                }
                Preface::Whole(client, length) => {
                    connection.from = client.or(connection.from);
                    connection.stage = Stage::Open;
                    rest = input.get(length..).unwrap_or_default();
                }
                Preface::Partial => {
                    connection.input.extend_from_slice(input);
                    return Fate::Stays;
                }
                Preface::Broken => {
                    self.worker.responder.fault(connection.from, Fault::Proxy);
                    return Fate::Ends;
                }
            }
        }
        let mut answers = std::mem::take(&mut self.answers);
        let fate = loop {
            answers.clear();
            let part = self.worker.responder.answer(self.now, connection.from, &mut rest, &mut answers);
            match connection.send(&answers, matches!(part, Part::Last | Part::Broken)) {
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
                connection.since = now;
            }
            connection.input.extend_from_slice(rest);
        }
        fate
    }

    fn hand_over(&self, connection: Connection) {
        let Connection { socket, from, input, output, place, .. } = connection;
        let tally = Arc::clone(&self.worker.responder.exchange.tally);
        let handed = HandedOver { socket, from, output, input, place, tally };
        if self.worker.api.try_send(handed).is_err() {
            // Dropped, and so closed.
            self.worker.responder.fault(from, Fault::Busy);
        }
    }

    /// Closes connections whose clients took too long.
    fn give_up(&mut self) {
        let now = self.now.as_secs();
        let responder = &self.worker.responder;
        self.table.retain(|connection| {
            let late = connection.deadline < now;
            if late && !(connection.input.is_empty() && connection.output.is_empty()) {
                responder.fault(connection.from, Fault::Slow);
            }
            !late
        });
        // Some have become idle since others asked; and what was given up for ours others may have taken.
        self.make_room_for_others();
        if !self.waiting.is_empty() {
            self.worker.wanted.ask(self.now, self.waiting.len());
        }
    }
}

fn wanted(connection: &Connection) -> EventFlags {
    // A client that does not take its answers is not listened to.
    if connection.output.is_empty() { EventFlags::IN } else { EventFlags::OUT }
}
