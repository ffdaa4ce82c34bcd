//! What the swarm knows of one peer.

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use metainfo::{BLOCK_LENGTH, PieceIndex};
use wire::{BlockRange, Message, PeerId};

use crate::{
    bits::PieceSet,
    provenance::SourceId,
    time::{Rate, Time},
};

/// A connection to a peer. The driver gives the numbers and never uses one twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PeerKey(pub u64);

/// What the driver knows of a peer after the handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerInfo {
    /// Its address.
    pub address: SocketAddr,
    /// Its name for itself.
    pub id: PeerId,
    /// Whether both sides speak the fast extension (BEP 6).
    pub fast: bool,
    /// Whether it connected to us.
    pub incoming: bool,
}

/// A peer's figures, for people.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct PeerStats {
    /// Address, name, abilities.
    pub info: PeerInfo,
    /// Block bytes received from it that it was asked for.
    pub downloaded: u64,
    /// Block bytes sent to it.
    pub uploaded: u64,
    /// Received from it, bytes per second.
    pub down_rate: f64,
    /// Sent to it, bytes per second.
    pub up_rate: f64,
    /// It does not serve us.
    pub choking_us: bool,
    /// We do not serve it.
    pub choked_by_us: bool,
    /// We want something it has.
    pub interesting: bool,
    /// It wants something we have.
    pub interested: bool,
    /// How many pieces it has.
    pub pieces: u32,
    /// Bytes asked of it and not yet here.
    pub outstanding: u64,
}

/// A request under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) range: BlockRange,
    /// The peer took too long and others may be asked; what still comes is welcome.
    pub(crate) released: bool,
}

/// A piece that we, as a seed, gave this peer to fetch first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Assigned {
    pub(crate) piece: PieceIndex,
    pub(crate) sent: u32,
}

#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) info: PeerInfo,
    /// Its place in the provenance, once it has given something.
    pub(crate) source: Option<SourceId>,
    pub(crate) have: PieceSet,
    /// Pieces it has that we still want.
    pub(crate) wanted: u32,
    /// Whether it has told what it has: only the first message may (BEP 3, 6).
    pub(crate) introduced: bool,

    pub(crate) they_choke: bool,
    pub(crate) we_choke: bool,
    pub(crate) they_interested: bool,
    pub(crate) we_interested: bool,

    /// Longest request it serves.
    pub(crate) max_request: u32,
    /// Most requests it queues.
    pub(crate) max_queue: usize,

    pub(crate) asked: Vec<Asked>,
    pub(crate) outstanding: u64,
    /// Bytes that it was asked for and has neither given nor refused, cancelled ones included.
    pub(crate) owes: u64,
    pub(crate) last_progress: Time,
    pub(crate) snubbed: bool,
    /// Since its last sign of life, another was given a request that it was slow to answer.
    pub(crate) lost: bool,
    pub(crate) suggested: VecDeque<PieceIndex>,
    /// It is a seed that hands out pieces.
    pub(crate) suggests: bool,
    /// Since when it has suggested nothing more and nothing is under way from it.
    pub(crate) dry_since: Option<Time>,

    pub(crate) outbox: Vec<Message>,
    /// How many of the swarm's `have`s it has been told.
    pub(crate) told: usize,
    pub(crate) dirty: bool,

    pub(crate) uploads: VecDeque<BlockRange>,
    pub(crate) assigned: Vec<Assigned>,

    pub(crate) down: Rate,
    pub(crate) up: Rate,
    pub(crate) downloaded: u64,
    pub(crate) uploaded: u64,
}

/// What an unknown peer is asked for at first.
const FIRST_TARGET: u64 = 512 * 1024;
/// The queue at a peer holds what it gives in this time.
const QUEUE_TIME: f64 = 0.5;
/// A request takes about this time at the peer's rate.
const REQUEST_TIME: f64 = 0.02;
/// The longest queue at one peer.
const MOST_QUEUED: u64 = 16 * 1024 * 1024;

impl Peer {
    pub(crate) fn new(info: PeerInfo, pieces: u32, now: Time) -> Self {
        Self {
            info,
            source: None,
            have: PieceSet::empty(pieces),
            wanted: 0,
            introduced: false,
            they_choke: true,
            we_choke: true,
            they_interested: false,
            we_interested: false,
            max_request: wire::STANDARD_REQUEST,
            max_queue: 250,
            asked: Vec::new(),
            outstanding: 0,
            owes: 0,
            last_progress: now,
            snubbed: false,
            lost: false,
            suggested: VecDeque::new(),
            suggests: false,
            dry_since: None,
            outbox: Vec::new(),
            told: 0,
            dirty: false,
            uploads: VecDeque::new(),
            assigned: Vec::new(),
            down: Rate::default(),
            up: Rate::default(),
            downloaded: 0,
            uploaded: 0,
        }
    }

    pub(crate) fn is_seed(&self) -> bool {
        self.have.is_full()
    }

    /// How many bytes to keep asked of it: half a second's worth, at least two requests.
    pub(crate) fn target(&self) -> u64 {
        let least = u64::from(self.request_length()) * 2;
        if self.snubbed {
            return u64::from(BLOCK_LENGTH);
        }
        if !self.down.is_measured() {
            return FIRST_TARGET;
        }
        ((self.down.last() * QUEUE_TIME) as u64).clamp(least, MOST_QUEUED)
    }

    /// How long a request to make of it, in bytes: a power of two of blocks, about 20 ms at its rate.
    pub(crate) fn request_length(&self) -> u32 {
        let most = (self.max_request / BLOCK_LENGTH).max(1);
        let fit = if self.down.is_measured() {
            (self.down.last() * REQUEST_TIME / f64::from(BLOCK_LENGTH)) as u32
        } else {
            4
        };
        fit.clamp(1, most).next_power_of_two().min(most) * BLOCK_LENGTH
    }

    /// When everything asked of it, and `more` bytes, should be here.
    pub(crate) fn arrival(&self, more: u64) -> Duration {
        let rate = self.down.last().max(1024.0);
        Duration::from_secs_f64(((self.outstanding + more) as f64 / rate).min(3600.0))
    }

    pub(crate) fn say(&mut self, message: Message) {
        self.outbox.push(message);
    }

    /// A request is no longer wanted: it is cancelled, or not even sent if it still waits to be.
    pub(crate) fn take_back(&mut self, range: BlockRange) {
        match self.outbox.iter().position(|message| *message == Message::Request(range)) {
            Some(at) => {
                self.outbox.remove(at);
                self.owes = self.owes.saturating_sub(u64::from(range.length));
            }
            None => self.say(Message::Cancel(range)),
        }
    }

    /// Another is asked instead. What still comes is welcome, as long as it says so when nothing will (BEP 6).
    pub(crate) fn lose(&mut self, range: BlockRange) {
        let Some(at) = self.asked.iter().position(|a| a.range == range && !a.released) else { return };
        self.outstanding -= u64::from(range.length);
        let said = !self.outbox.contains(&Message::Request(range));
        self.lost |= said;
        if said && self.info.fast {
            self.asked[at].released = true;
        } else {
            self.asked.remove(at);
        }
        self.take_back(range);
    }

    pub(crate) fn stats(&self, now: Time) -> PeerStats {
        PeerStats {
            info: self.info,
            downloaded: self.downloaded,
            uploaded: self.uploaded,
            down_rate: self.down.shown(now),
            up_rate: self.up.shown(now),
            choking_us: self.they_choke,
            choked_by_us: self.we_choke,
            interesting: self.we_interested,
            interested: self.they_interested,
            pieces: self.have.count(),
            outstanding: self.outstanding,
        }
    }
}
