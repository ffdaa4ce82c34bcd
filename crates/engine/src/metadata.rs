//! From a magnet link to a torrent: the info dictionary, asked of peers piece by piece (BEP 9).

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use announce::{AnnounceRequest, Event};
use bytes::{BufMut, Bytes, BytesMut};
use metainfo::{InfoHash, Magnet, Torrent};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, lookup_host},
    task::JoinSet,
    time::{sleep, timeout},
};
use tracker_client::TrackerClient;
use wire::{
    Decoder, EXTENDED_HANDSHAKE_ID, ExtendedHandshake, Frame, METADATA_PIECE_LENGTH, Message,
    MetadataMessage, metadata_piece_count,
};

use crate::{announcer, engine::Shared, handshake};

/// The largest info dictionary that is taken from peers, in bytes.
const LARGEST: u32 = 16 * 1024 * 1024;
/// One peer may take this long.
const PATIENCE: Duration = Duration::from_secs(30);
/// Peers asked at once.
const AT_ONCE: usize = 8;
/// Pause before the trackers are asked for more peers.
const AGAIN: Duration = Duration::from_secs(3);
/// Our number for metadata messages.
const METADATA_ID: u8 = 1;

/// Why a magnet link led nowhere.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MetadataError {
    /// The link names neither a tracker nor a peer.
    #[error("the magnet link names no tracker that can be asked and no peer, so there is nobody to ask")]
    NobodyToAsk,
    /// Nobody gave it.
    #[error("no peer gave the torrent's metadata within {} s (last: {last})", after.as_secs())]
    TimedOut {
        /// How long it was tried.
        after: Duration,
        /// The last thing that went wrong.
        last: String,
    },
    /// It was given and is no torrent we can use.
    #[error("the torrent cannot be used: {0}")]
    Torrent(#[from] metainfo::TorrentError),
}

/// Asks the link's peers, and those its trackers name, until one gives the dictionary.
pub(crate) async fn fetch(
    shared: &Arc<Shared>,
    magnet: &Magnet,
    deadline: Duration,
) -> Result<Torrent, MetadataError> {
    let usable = |url: &&String| TrackerClient::can_ask(url);
    let trackers: Vec<String> = magnet.trackers.iter().filter(usable).cloned().collect();
    if trackers.is_empty() && magnet.peers.is_empty() {
        return Err(MetadataError::NobodyToAsk);
    }
    let mut last = "no peer found".to_owned();
    let search = search(shared, magnet, &trackers, &mut last);
    let Ok(info) = timeout(deadline, search).await else {
        return Err(MetadataError::TimedOut { after: deadline, last });
    };
    let mut torrent = Torrent::from_info(info)?;
    torrent.trackers = magnet.trackers.iter().map(|url| vec![url.clone()]).collect();
    Ok(torrent)
}

async fn search(shared: &Arc<Shared>, magnet: &Magnet, trackers: &[String], last: &mut String) -> Bytes {
    let mut tried = BTreeSet::new();
    let mut asking = JoinSet::new();
    loop {
        for address in addresses(shared, magnet, trackers, last).await {
            if address != shared.listen && tried.insert(address) {
                let (shared, info_hash) = (shared.clone(), magnet.info_hash);
                asking.spawn(async move { timeout(PATIENCE, ask(&shared, address, info_hash)).await });
            }
            while asking.len() >= AT_ONCE {
                if let Some(info) = joined(asking.join_next().await, last) {
                    return info;
                }
            }
        }
        let pause = sleep(AGAIN);
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => break,
                Some(done) = asking.join_next() => {
                    if let Some(info) = joined(Some(done), last) {
                        return info;
                    }
                }
            }
        }
        // Whoever failed may be back by then.
        tried.clear();
    }
}

type Asked = Result<Result<Result<Bytes, String>, tokio::time::error::Elapsed>, tokio::task::JoinError>;

fn joined(done: Option<Asked>, last: &mut String) -> Option<Bytes> {
    match done?.ok()? {
        Ok(Ok(info)) => Some(info),
        Ok(Err(why)) => {
            *last = why;
            None
        }
        Err(_) => {
            "a peer took too long".clone_into(last);
            None
        }
    }
}

async fn addresses(
    shared: &Arc<Shared>,
    magnet: &Magnet,
    trackers: &[String],
    last: &mut String,
) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    for peer in &magnet.peers {
        match timeout(Duration::from_secs(5), lookup_host(peer)).await {
            Ok(Ok(addresses)) => found.extend(addresses),
            Ok(Err(error)) => *last = format!("{peer}: {error}"),
            Err(_) => *last = format!("{peer}: its name was not found in time"),
        }
    }
    let request = AnnounceRequest {
        event: Event::Started,
        compact: Some(true),
        ..AnnounceRequest::new(magnet.info_hash, shared.peer_id, shared.listen.port())
    };
    // All at once, so that a dead one costs no more than its own time.
    let mut asked = JoinSet::new();
    for tracker in trackers.iter().cloned() {
        let (shared, request) = (shared.clone(), request.clone());
        asked.spawn(async move { (announcer::announce_to(&shared, &tracker, &request).await, tracker) });
    }
    while let Some(answer) = asked.join_next().await {
        match answer {
            Ok((Ok(response), _)) => found.extend(response.peers.iter().map(|peer| peer.addr)),
            Ok((Err(error), tracker)) => *last = format!("{tracker}: {error}"),
            Err(lost) => *last = lost.to_string(),
        }
    }
    found
}

/// Fetches the whole dictionary from one peer.
async fn ask(shared: &Shared, address: SocketAddr, info_hash: InfoHash) -> Result<Bytes, String> {
    let failed = |error: &dyn std::fmt::Display| format!("{address}: {error}");
    let (mut stream, theirs) =
        handshake::outgoing(shared, address, info_hash).await.map_err(|e| failed(&e))?;
    if !theirs.reserved.extended() {
        return Err(failed(&"it does not give metadata"));
    }
    let ours = ExtendedHandshake { metadata_id: Some(METADATA_ID), ..ExtendedHandshake::default() };
    let mut out = BytesMut::new();
    Message::Extended { id: EXTENDED_HANDSHAKE_ID, payload: ours.encode().into() }.encode(&mut out);
    stream.write_all(&out).await.map_err(|e| failed(&e))?;
    let mut peer =
        Conversation { stream, decoder: Decoder::new(metainfo_bits(), 0), buffer: BytesMut::new() };
    let (their_id, size) = loop {
        if let (EXTENDED_HANDSHAKE_ID, payload) = peer.extended().await.map_err(|e| failed(&e))? {
            let theirs = ExtendedHandshake::decode(&payload).map_err(|e| failed(&e))?;
            match (theirs.metadata_id, theirs.metadata_size) {
                (Some(id), Some(size)) if (1..=LARGEST).contains(&size) => break (id, size),
                _ => return Err(failed(&"it has no metadata to give")),
            }
        }
    };
    let mut info = BytesMut::new();
    for piece in 0..metadata_piece_count(size) {
        let mut out = BytesMut::new();
        let request = MetadataMessage::Request(piece).encode().into();
        Message::Extended { id: their_id, payload: request }.encode(&mut out);
        peer.stream.write_all(&out).await.map_err(|e| failed(&e))?;
        let length = (size - piece * METADATA_PIECE_LENGTH).min(METADATA_PIECE_LENGTH) as usize;
        loop {
            let (METADATA_ID, payload) = peer.extended().await.map_err(|e| failed(&e))? else { continue };
            match MetadataMessage::decode(&payload).map_err(|e| failed(&e))? {
                Some(MetadataMessage::Data { piece: got, data, .. })
                    if got == piece && data.len() == length =>
                {
                    info.put(data);
                    break;
                }
                Some(MetadataMessage::Reject(_)) => return Err(failed(&"it refuses to give metadata")),
                _ => {}
            }
        }
    }
    if hash::sha1(&info) == *info_hash.as_bytes() {
        Ok(info.freeze())
    } else {
        Err(failed(&"it gave metadata of another torrent"))
    }
}

/// Room for the bitfield of the largest torrent, of which we do not know the size yet.
const fn metainfo_bits() -> u32 {
    8 * 1024 * 1024
}

struct Conversation {
    stream: TcpStream,
    decoder: Decoder,
    buffer: BytesMut,
}

impl Conversation {
    /// The next message of an extension; all others are passed over.
    async fn extended(&mut self) -> Result<(u8, Bytes), String> {
        loop {
            match self.decoder.next(&mut self.buffer).map_err(|e| e.to_string())? {
                Some(Frame::Message(Message::Extended { id, payload })) => return Ok((id, payload)),
                Some(Frame::Message(_)) => continue,
                Some(Frame::Piece(_)) => return Err("it sent a block that nobody asked for".into()),
                None => {}
            }
            self.buffer.reserve(METADATA_PIECE_LENGTH as usize);
            if self.stream.read_buf(&mut self.buffer).await.map_err(|e| e.to_string())? == 0 {
                return Err("it closed the connection".into());
            }
        }
    }
}
