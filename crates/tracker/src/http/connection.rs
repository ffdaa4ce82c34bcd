//! A client's connection: what has come and is not yet a whole request, and what has not gone yet.

use std::{
    io::{self, Read as _},
    net::IpAddr,
    sync::Arc,
};

use rustix::net::SendFlags;
use socket2::Socket;

use crate::{places::Place, tally::Tally};

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) socket: Socket,
    /// From where it comes; `None` for a unix socket's other end, which is a proxy.
    pub(crate) from: Option<IpAddr>,
    /// The beginning of a request whose rest has not come, or requests that wait until answers have gone.
    pub(crate) input: Vec<u8>,
    /// Answers that the client has not taken yet.
    pub(crate) output: Vec<u8>,
    /// When it is given up, in seconds of the tracker's clock.
    pub(crate) deadline: u64,
    /// Since when it asks for nothing, or has not finished asking.
    pub(crate) since: u64,
    pub(crate) stage: Stage,
    /// Whether a request was answered: it is no longer one that anybody can open and leave.
    pub(crate) served: bool,
    pub(crate) place: Place,
}

/// How far a connection is from its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// First its proxy says for whom it is.
    Preface,
    /// More requests may come.
    Open,
    /// It ends when all answers have gone.
    Last,
    /// The same, and the last answer says what is wrong: the client may still be sending.
    Refused,
    /// That answer has gone, and what still comes is thrown away.
    Drained,
}

/// A connection that asks for something else, for the API to serve.
#[derive(Debug)]
pub(crate) struct HandedOver {
    /// Of a TCP or a unix connection.
    pub(crate) socket: Socket,
    pub(crate) from: Option<IpAddr>,
    /// Answers to earlier requests, to be sent first.
    pub(crate) output: Vec<u8>,
    /// What was read already.
    pub(crate) input: Vec<u8>,
    pub(crate) place: Place,
    /// Where its listener counts.
    pub(crate) tally: Arc<Tally>,
}

impl Connection {
    /// Reads once. `Ok(None)` where nothing has come; 0 where nothing will.
    pub(crate) fn read(&self, to: &mut [u8]) -> io::Result<Option<usize>> {
        again(|| (&self.socket).read(to))
    }

    /// Sends what waited, and then `more`; what is not taken waits. Says whether all has gone. What is `last` may go
    /// with the end of the connection, in one packet.
    pub(crate) fn send(&mut self, more: &[u8], last: bool) -> io::Result<bool> {
        if !self.output.is_empty() {
            let sent = self.push(&self.output, SendFlags::empty())?;
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
        let sent = self.push(more, if last { SendFlags::MORE } else { SendFlags::empty() })?;
        let rest = more.get(sent..).unwrap_or_default();
        self.output.extend_from_slice(rest);
        Ok(rest.is_empty())
    }

    fn push(&self, bytes: &[u8], flags: SendFlags) -> io::Result<usize> {
        let call = || Ok(rustix::net::send(&self.socket, bytes, flags | SendFlags::NOSIGNAL)?);
        Ok(again(call)?.unwrap_or(0))
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
