//! A connection to a peer: its place in the torrent, and the task that reads.

use std::{
    io::{self, IoSliceMut},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use metainfo::PieceIndex;
use swarm::{PeerInfo, PeerKey};
use tokio::{
    net::TcpStream,
    sync::Notify,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use wire::{
    BlockRange, DecodeError, Decoder, EXTENDED_HANDSHAKE_ID, ExtendedHandshake, Frame, Handshake,
    LONGEST_REQUEST, METADATA_PIECE_LENGTH, Message, MetadataMessage,
};

use crate::{
    buffers::Buffer,
    engine::Shared,
    torrent::{Failure, Handle, Torrent},
    writer,
};

/// A peer that says nothing at all for this long is gone; clients say something every two minutes (BEP 3).
const SILENCE: Duration = Duration::from_secs(150);
/// How much is read at once between blocks.
const READ: usize = 16 * 1024;
/// How much of what follows a block is read together with its last bytes.
const BEHIND: usize = 1024;
/// Block bytes to take that nobody asked for; more prove that the peer means to flood us. What was asked for and
/// cancelled since does not count: it may be on its way.
const UNASKED: u64 = 64 * 1024 * 1024;
/// The number under which we take metadata messages (BEP 10).
const METADATA_ID: u8 = 1;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it closed the connection")]
    Closed,
    #[error("silent for {} s", SILENCE.as_secs())]
    Silent,
    #[error("took nothing for too long")]
    Stalled,
    #[error("broke the protocol: {0}")]
    Protocol(#[from] DecodeError),
    #[error("broke the protocol: {0}")]
    Extension(#[from] wire::ExtendedError),
    #[error("sent too much that nobody asked for")]
    Flood,
    #[error("piece {piece} cannot be read: {source}")]
    Lost { piece: PieceIndex, source: io::Error },
    #[error("dropped by us")]
    Dropped,
}

/// Runs a connection to its end. False if the torrent has no place for it.
pub(crate) async fn run(
    shared: &Shared,
    torrent: &Arc<Torrent>,
    stream: TcpStream,
    address: SocketAddr,
    theirs: Handshake,
    outgoing: bool,
) -> bool {
    let Some((key, handle)) = register(shared, torrent, address, &theirs, outgoing) else { return false };
    let (wake, stop) = handle;
    let stream = Arc::new(stream);
    let mut reader = LinkReader {
        shared,
        torrent,
        key,
        stream: &stream,
        decoder: Decoder::new(torrent.meta.info.geometry.piece_count(), LONGEST_REQUEST),
        buffer: BytesMut::with_capacity(READ),
        unasked: 0,
        metadata_id: None,
    };
    let why = tokio::select! {
        why = reader.run() => why,
        why = writer::run(&shared.rates, torrent, key, &stream, &wake) => why,
        () = stop.cancelled() => LinkError::Dropped,
    };
    let flood = matches!(why, LinkError::Flood);
    if flood {
        tracing::warn!(torrent = %torrent.info_hash(), peer = %address, "peer dropped: {why}");
    } else {
        tracing::debug!(torrent = %torrent.info_hash(), peer = %address, "connection ended: {why}");
    }
    if let LinkError::Lost { piece, source } = why {
        torrent.fail(Failure::Lost { piece, why: source.to_string() });
    }
    torrent.act(|inner, now| {
        if let (Some(link), true) = (inner.links.remove(&key), flood) {
            inner.bans.add(&link);
        }
        inner.swarm.on_disconnected(key, now);
    });
    torrent.wake.notify_one();
    true
}

type Signals = (Arc<Notify>, CancellationToken);

/// Takes a place in the torrent, unless the peer has one already, is banned, or all are taken. Where two peers
/// connect to each other at once, both keep the connection that the one with the higher id made; who connects to us
/// again has lost the first connection. A name proves nothing: whoever comes with another's from another host is
/// another peer, and throws nobody out. We ourselves connect once to each name, whatever addresses it has.
fn register(
    shared: &Shared,
    torrent: &Arc<Torrent>,
    address: SocketAddr,
    theirs: &Handshake,
    outgoing: bool,
) -> Option<(PeerKey, Signals)> {
    let key = shared.next_key();
    let (wake, stop) = (Arc::new(Notify::new()), torrent.stop.child_token());
    let mut extra = Vec::new();
    if theirs.reserved.extended() {
        let handshake = ExtendedHandshake {
            metadata_id: Some(METADATA_ID),
            metadata_size: u32::try_from(torrent.meta.info_bytes.len()).ok(),
            request_queue: Some(swarm::Swarm::REQUEST_QUEUE as u32),
            port: Some(shared.listen.port()),
            client: Some(concat!("Longshore ", env!("CARGO_PKG_VERSION")).to_owned()),
            max_request: Some(LONGEST_REQUEST),
        };
        extra.push(Message::Extended { id: EXTENDED_HANDSHAKE_ID, payload: handshake.encode().into() });
    }
    let accepted = torrent.act(|inner, now| {
        let known = |link: &Handle| {
            let same_way = link.outgoing == outgoing;
            link.peer_id == theirs.peer_id && (link.address.ip() == address.ip() || (outgoing && same_way))
        };
        let double = inner.links.iter().find(|(_, link)| known(link));
        if let Some((double, same_way)) = double.map(|(key, link)| (*key, link.outgoing == outgoing)) {
            let ours_wins = shared.peer_id > theirs.peer_id;
            let keep = if same_way { outgoing } else { outgoing != ours_wins };
            if keep {
                return false;
            }
            if let Some(old) = inner.links.remove(&double) {
                old.stop.cancel();
                inner.swarm.on_disconnected(double, now);
            }
        }
        if inner.links.len() >= shared.config.max_peers || inner.bans.has(address, theirs.peer_id) {
            return false;
        }
        let handle = Handle {
            peer_id: theirs.peer_id,
            address,
            outgoing,
            wake: wake.clone(),
            stop: stop.clone(),
            extra,
            listens: outgoing.then_some(address),
            client: None,
        };
        inner.links.insert(key, handle);
        let info =
            PeerInfo { address, id: theirs.peer_id, fast: theirs.reserved.fast(), incoming: !outgoing };
        inner.swarm.on_connected(key, info, now);
        true
    });
    torrent.wake.notify_one();
    accepted.then_some((key, (wake, stop)))
}

/// The reading half.
struct LinkReader<'a> {
    shared: &'a Shared,
    torrent: &'a Arc<Torrent>,
    key: PeerKey,
    stream: &'a TcpStream,
    decoder: Decoder,
    /// Received and not yet read.
    buffer: BytesMut,
    /// Block bytes that nobody asked for.
    unasked: u64,
    /// The number under which the peer takes metadata messages.
    metadata_id: Option<u8>,
}

impl LinkReader<'_> {
    async fn run(&mut self) -> LinkError {
        loop {
            if let Err(why) = self.frames().await {
                return why;
            }
        }
    }

    /// Reads some bytes, and takes every frame they hold.
    async fn frames(&mut self) -> Result<(), LinkError> {
        loop {
            match self.decoder.next(&mut self.buffer)? {
                Some(Frame::Message(message)) => {
                    self.message(message)?;
                    // One read may hold thousands; signals and others are served between them.
                    tokio::task::consume_budget().await;
                }
                Some(Frame::Piece(range)) => self.block(range).await?,
                None => break,
            }
        }
        self.buffer.reserve(READ);
        loop {
            self.readable().await?;
            match self.stream.try_read_buf(&mut self.buffer) {
                Ok(0) => return Err(LinkError::Closed),
                Ok(_) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    fn message(&mut self, message: Message) -> Result<(), LinkError> {
        match message {
            Message::KeepAlive | Message::Unknown(_) | Message::Port(_) => {}
            Message::Extended { id, payload } => self.extended(id, &payload)?,
            message => self.torrent.act(|inner, now| inner.swarm.on_message(self.key, message, now)),
        }
        Ok(())
    }

    /// Receives a block's payload: into a buffer of its own, or past it when it is of no use.
    async fn block(&mut self, range: BlockRange) -> Result<(), LinkError> {
        if !self.torrent.lock().swarm.expects(self.key, range) {
            return self.pass_over(range).await;
        }
        self.take_turn(range.length).await;
        let mut payload = self.shared.buffers.take(range.length as usize);
        self.receive(&mut payload).await?;
        self.torrent.received(self.key, range, payload);
        Ok(())
    }

    /// Waits until the limits let a block be received. Until then it waits in the socket, and the peer with it.
    async fn take_turn(&self, length: u32) {
        let (clock, limits) = (self.shared.clock, [&self.shared.rates.down, &self.torrent.rates.down]);
        loop {
            let wait = limits.iter().map(|limit| limit.wait(clock.now())).max().unwrap_or_default();
            if wait.is_zero() {
                break;
            }
            sleep(wait).await;
        }
        limits.iter().for_each(|limit| limit.charge(u64::from(length), clock.now()));
    }

    /// Receives a block that is of no use, in small bites.
    async fn pass_over(&mut self, range: BlockRange) -> Result<(), LinkError> {
        let owed = self.torrent.lock().swarm.owed(self.key);
        self.unasked += u64::from(range.length).saturating_sub(owed);
        if self.unasked > UNASKED {
            return Err(LinkError::Flood);
        }
        let mut left = range.length as usize;
        while left > 0 {
            let mut bite = self.shared.buffers.take(left.min(READ));
            self.receive(&mut bite).await?;
            left -= bite.len();
        }
        self.torrent.act(|inner, now| inner.swarm.on_block(self.key, range, now));
        Ok(())
    }

    /// Fills `payload`, first from what was read already, then from the socket. The last read takes a little of
    /// what follows along, so that the next header needs no call of its own.
    async fn receive(&mut self, payload: &mut Buffer) -> Result<(), LinkError> {
        let early = payload.len().min(self.buffer.len());
        let (ready, mut rest) = payload.split_at_mut(early);
        self.buffer.copy_to_slice(ready);
        while !rest.is_empty() {
            let mut behind = [0; BEHIND];
            let mut slices = [IoSliceMut::new(rest), IoSliceMut::new(&mut behind)];
            match self.stream.try_read_vectored(&mut slices) {
                Ok(0) => return Err(LinkError::Closed),
                Ok(read) => {
                    let filled = read.min(rest.len());
                    rest = rest.split_at_mut(filled).1;
                    self.buffer.extend_from_slice(behind.get(..read - filled).unwrap_or_default());
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.readable().await?,
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    async fn readable(&self) -> Result<(), LinkError> {
        Ok(timeout(SILENCE, self.stream.readable()).await.map_err(|_| LinkError::Silent)??)
    }

    fn extended(&mut self, id: u8, payload: &Bytes) -> Result<(), LinkError> {
        match id {
            EXTENDED_HANDSHAKE_ID => {
                let theirs = ExtendedHandshake::decode(payload)?;
                self.metadata_id = theirs.metadata_id;
                self.torrent.act(|inner, _| {
                    inner.swarm.on_limits(self.key, theirs.max_request, theirs.request_queue);
                    if let Some(link) = inner.links.get_mut(&self.key) {
                        link.listens = theirs.port.map(|port| SocketAddr::new(link.address.ip(), port));
                        link.client = theirs.client;
                    }
                });
            }
            METADATA_ID => {
                if let (Some(MetadataMessage::Request(piece)), Some(their_id)) =
                    (MetadataMessage::decode(payload)?, self.metadata_id)
                {
                    let answer = metadata_piece(&self.torrent.meta.info_bytes, piece);
                    self.say(Message::Extended { id: their_id, payload: answer.encode().into() });
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn say(&self, message: Message) {
        /// A peer that asks for metadata faster than it takes it is not answered.
        const MOST: usize = 256;
        let mut inner = self.torrent.lock();
        if let Some(link) = inner.links.get_mut(&self.key).filter(|link| link.extra.len() < MOST) {
            link.extra.push(message);
            link.wake.notify_one();
        }
    }
}

/// A piece of the info dictionary, or the refusal of one past its end (BEP 9).
fn metadata_piece(info: &Bytes, piece: u32) -> MetadataMessage {
    let start = piece as usize * METADATA_PIECE_LENGTH as usize;
    let end = info.len().min(start.saturating_add(METADATA_PIECE_LENGTH as usize));
    match u32::try_from(info.len()) {
        Ok(total) if start < end => MetadataMessage::Data { piece, total, data: info.slice(start..end) },
        _ => MetadataMessage::Reject(piece),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use metainfo::create::{Options, create};
    use wire::PeerId;

    use super::*;
    use crate::{Config, Engine, Layout, TorrentSpec};

    #[tokio::test]
    async fn a_banned_host_is_refused_at_every_port_and_under_every_name() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("f");
        std::fs::write(&path, [1; 1000]).expect("writes");
        let meta = create(&path, &Options::default(), &|_, _| {}).expect("readable");
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let engine = Engine::start(Config { listen, ..Config::default() }, None).await.expect("starts");
        let layout = Layout::single(Arc::new(File::open(&path).expect("opens")));
        let torrent = engine.add(TorrentSpec::seed(meta, layout)).await.expect("added");
        let shared = engine.shared();
        let come = |ip: [u8; 4], port: u16, id: u8, outgoing: bool| {
            let theirs = Handshake::ours(torrent.info_hash(), PeerId::ours([id; 12]));
            register(shared, &torrent, SocketAddr::from((ip, port)), &theirs, outgoing).map(|(key, _)| key)
        };
        let liar = come([10, 0, 0, 1], 1, 1, false).expect("nothing is known of it yet");
        torrent.act(|inner, _| {
            let link = inner.links.get(&liar).expect("connected");
            inner.bans.add(link);
        });
        assert!(come([10, 0, 0, 1], 2, 2, false).is_none(), "another port and name");
        assert!(come([10, 0, 0, 1], 6881, 3, true).is_none(), "when we connect to it");
        assert!(come([10, 0, 0, 2], 1, 2, false).is_some(), "another host");
        assert!(come([10, 0, 0, 3], 6881, 4, true).is_some());
        assert!(come([10, 0, 0, 4], 6881, 4, true).is_none(), "another address of the same peer");
        engine.stop().await;
    }
}
