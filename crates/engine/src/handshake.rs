//! The first 68 bytes, both ways.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use metainfo::InfoHash;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use wire::{HANDSHAKE_LENGTH, Handshake, PeerId};

use crate::{engine::Shared, torrent::Torrent};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a handshake may take.
const SHAKE: Duration = Duration::from_secs(10);

/// Why no connection came of an attempt.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("took too long")]
    TooSlow,
    #[error("it does not speak BitTorrent")]
    Protocol,
    #[error("it asked for torrent {0}, which is not here")]
    Unknown(InfoHash),
    #[error("it answered for another torrent")]
    OtherTorrent,
    #[error("it is ourselves")]
    Ourselves,
}

/// Connects to a peer and shakes hands for `info_hash`.
pub(crate) async fn outgoing(
    shared: &Shared,
    address: SocketAddr,
    info_hash: InfoHash,
) -> Result<(TcpStream, Handshake), HandshakeError> {
    let mut stream =
        timeout(CONNECT, connect(shared, address)).await.map_err(|_| HandshakeError::TooSlow)??;
    let shake = async {
        stream.write_all(&Handshake::ours(info_hash, shared.peer_id).encode()).await?;
        let theirs = read(&mut stream).await?;
        if theirs.info_hash != info_hash {
            return Err(HandshakeError::OtherTorrent);
        }
        not_us(&theirs, shared.peer_id)
    };
    let theirs = timeout(SHAKE, shake).await.map_err(|_| HandshakeError::TooSlow)??;
    Ok((stream, theirs))
}

/// Answers a peer that has connected, if the torrent it wants is here.
pub(crate) async fn incoming(
    shared: &Arc<Shared>,
    stream: &mut TcpStream,
) -> Result<(Arc<Torrent>, Handshake), HandshakeError> {
    stream.set_nodelay(true)?;
    let shake = async {
        let theirs = not_us(&read(stream).await?, shared.peer_id)?;
        let torrent = shared.find(theirs.info_hash).await.ok_or(HandshakeError::Unknown(theirs.info_hash))?;
        stream.write_all(&Handshake::ours(theirs.info_hash, shared.peer_id).encode()).await?;
        Ok((torrent, theirs))
    };
    timeout(SHAKE, shake).await.map_err(|_| HandshakeError::TooSlow)?
}

async fn connect(shared: &Shared, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    let from = shared.listen.ip();
    if !from.is_unspecified() && from.is_ipv4() == address.is_ipv4() {
        socket.bind(SocketAddr::new(from, 0))?;
    }
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn read(stream: &mut TcpStream) -> Result<Handshake, HandshakeError> {
    let mut bytes = [0; HANDSHAKE_LENGTH];
    stream.read_exact(&mut bytes).await?;
    Handshake::decode(&bytes).map_err(|_| HandshakeError::Protocol)
}

fn not_us(theirs: &Handshake, ours: PeerId) -> Result<Handshake, HandshakeError> {
    if theirs.peer_id == ours { Err(HandshakeError::Ourselves) } else { Ok(*theirs) }
}
