//! From the bytes of requests to the bytes of answers, without I/O: the same for every kind of connection.

use std::{net::IpAddr, time::Duration};

use announce::http::{head::Parsed, preface};

use super::{
    exchange::{Action, Exchange, names_a_torrent},
    frame::{Date, Frame},
};
use crate::tally::Fault;

/// The longest head of a request, in bytes. A scrape of [`announce::MAX_SCRAPE`] torrents must fit.
pub(crate) const MAX_HEAD: usize = 32 * 1024;

/// When answers of this many bytes wait for a client, it has no more of its requests answered before they have gone.
const MAX_OUTPUT: usize = 128 * 1024;

/// Answers announces and scrapes on connections. Each worker has one.
pub(crate) struct Responder {
    pub(crate) exchange: Exchange,
    /// Whether a scrape that names no torrent is the API's.
    full_scrape: bool,
    pub(super) date: Date,
}

/// How far the requests that have come were answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
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

impl Responder {
    pub(crate) fn new(exchange: Exchange, full_scrape: bool) -> Self {
        Self { exchange, full_scrape, date: Date::default() }
    }

    /// Counts what goes wrong with `from`.
    pub(super) fn fault(&self, from: Option<IpAddr>, fault: Fault) {
        self.exchange.tally.of(from).fault(fault);
    }

    /// Writes answers to the whole requests at the head of `rest`, which came from `from`, and takes these off it.
    pub(super) fn answer(
        &mut self,
        now: Duration,
        from: Option<IpAddr>,
        rest: &mut &[u8],
        answers: &mut Vec<u8>,
    ) -> Part {
        loop {
            match Parsed::read(rest) {
                Parsed::Partial if rest.len() > MAX_HEAD => {
                    self.fault(from, Fault::TooLong);
                    answers.extend_from_slice(
                        b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Length: 0\r\n\
                          Connection: close\r\n\r\n",
                    );
                    return Part::Broken;
                }
                Parsed::Partial => return Part::Waits,
                // What only a trusted proxy may say, and only when it is set that they do.
                Parsed::Other | Parsed::Broken if preface::is_begun(rest) => {
                    self.fault(from, Fault::Proxy);
                    return no_request(answers);
                }
                // As long as its head is not whole, it can be given up here for another's place.
                Parsed::Other if rest.len() <= MAX_HEAD && !has_whole_head(rest) => return Part::Waits,
                Parsed::Other => return Part::Foreign,
                Parsed::Broken => {
                    self.fault(from, Fault::Malformed);
                    return no_request(answers);
                }
                Parsed::Get(head, length) => {
                    let Some(action) = Action::of(head.path) else { return Part::Foreign };
                    if self.is_full_scrape(action, head.query) {
                        return Part::Foreign;
                    }
                    let asker = self.exchange.asker(from, |name| head.field(name).collect());
                    let in_time = self.exchange.is_within_rate(now, asker.ip);
                    let keep_alive = head.keep_alive && in_time;
                    let frame = Frame::begin(answers, &self.date, head.old, keep_alive);
                    if in_time {
                        self.exchange.answer(now, action, head.path, head.query, asker, answers);
                    } else {
                        self.exchange.hold_off(asker, answers);
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
        action == Action::Scrape && self.full_scrape && !names_a_torrent(query)
    }
}

fn no_request(answers: &mut Vec<u8>) -> Part {
    answers.extend_from_slice(
        b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 24\r\n\
          Connection: close\r\n\r\nthis is no HTTP request\n",
    );
    Part::Broken
}

/// Whether an empty line is there.
fn has_whole_head(bytes: &[u8]) -> bool {
    let find = |end: &[u8]| memchr::memmem::find(bytes, end).is_some();
    find(b"\n\r\n") || find(b"\n\n")
}
