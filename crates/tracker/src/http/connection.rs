//! A client's connection: what has come and is not yet a whole request, and what has not gone yet.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

/// How many connections there may be, and are.
#[derive(Debug, Clone)]
pub(crate) struct Connections {
    open: Arc<AtomicUsize>,
    most: usize,
}

/// A connection's place among them; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place(Arc<AtomicUsize>);

impl Connections {
    pub(crate) fn new(most: usize) -> Self {
        Self { open: Arc::default(), most }
    }

    pub(crate) fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// `None` where there is no room.
    pub(crate) fn enter(&self) -> Option<Place> {
        let place = Place(Arc::clone(&self.open));
        // Dropped again, and so counted back, if it was one too many.
        (self.open.fetch_add(1, Relaxed) < self.most).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    pub(crate) from: SocketAddr,
    /// The beginning of a request whose rest has not come, or requests that wait until answers have gone.
    pub(crate) input: Vec<u8>,
    /// Answers that the client has not taken yet.
    pub(crate) output: Vec<u8>,
    /// When it is given up, in seconds of the tracker's clock.
    pub(crate) deadline: u64,
    /// Whether it ends when all answers have gone.
    pub(crate) last: bool,
    pub(crate) place: Place,
}

/// A connection that asks for something else, for the API to serve.
#[derive(Debug)]
pub(crate) struct HandedOver {
    pub(crate) stream: TcpStream,
    pub(crate) from: SocketAddr,
    /// Answers to earlier requests, to be sent first.
    pub(crate) output: Vec<u8>,
    /// What was read already.
    pub(crate) input: Vec<u8>,
    pub(crate) place: Place,
}

impl Connection {
    /// Reads once. `Ok(None)` where nothing has come; 0 where nothing will.
    pub(crate) fn read(&self, to: &mut [u8]) -> io::Result<Option<usize>> {
        again(|| (&self.stream).read(to))
    }

    /// Sends what waited, and then `more`; what is not taken waits. Says whether all has gone.
    pub(crate) fn send(&mut self, more: &[u8]) -> io::Result<bool> {
        if !self.output.is_empty() {
            let sent = again(|| (&self.stream).write(&self.output))?.unwrap_or(0);
            self.output.drain(..sent);
            if !self.output.is_empty() {
                self.output.extend_from_slice(more);
                return Ok(false);
            }
            self.output = Vec::new();
        }
        if more.is_empty() {
            return Ok(true);
        }
        let sent = again(|| (&self.stream).write(more))?.unwrap_or(0);
        let rest = more.get(sent..).unwrap_or_default();
        self.output.extend_from_slice(rest);
        Ok(rest.is_empty())
    }
}

fn again(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<Option<usize>> {
    loop {
        match call() {
            Ok(length) => return Ok(Some(length)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}
