//! The half of a connection that sends: messages from memory, blocks straight from their file.

use std::{io, sync::Arc, time::Duration};

use bytes::BytesMut;
use rustix::{
    io::Errno,
    net::{SendFlags, send},
};
use swarm::PeerKey;
use tokio::{
    io::Interest,
    net::TcpStream,
    sync::Notify,
    time::{Instant, timeout, timeout_at},
};
use wire::{BlockRange, Message};

use crate::{link::LinkError, rate::Rates, torrent::Torrent};

/// Something is said at least this often, so that the peer knows we are there (BEP 3).
const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// A peer that takes not one byte for this long is gone.
const STALL: Duration = Duration::from_secs(60);
/// Zeros, for padding between files.
static ZEROS: [u8; 16 * 1024] = [0; 16 * 1024];

/// Sends what the brain wants sent, as fast as the peer takes it.
pub(crate) async fn run(
    rates: &Rates,
    torrent: &Arc<Torrent>,
    key: PeerKey,
    stream: &TcpStream,
    wake: &Notify,
) -> LinkError {
    match serve(rates, torrent, key, stream, wake).await {
        Ok(never) => match never {},
        Err(why) => why,
    }
}

async fn serve(
    rates: &Rates,
    torrent: &Arc<Torrent>,
    key: PeerKey,
    stream: &TcpStream,
    wake: &Notify,
) -> Result<std::convert::Infallible, LinkError> {
    let mut messages = Vec::new();
    let mut bytes = BytesMut::new();
    loop {
        let limits = [&rates.up, &torrent.rates.up];
        let mut pause = Duration::ZERO;
        let upload = torrent.act(|inner, now| {
            inner.swarm.drain_messages(key, &mut messages);
            if let Some(link) = inner.links.get_mut(&key) {
                messages.append(&mut link.extra);
            }
            pause = limits.iter().map(|limit| limit.wait(now)).max().unwrap_or_default();
            let upload = if pause.is_zero() { inner.swarm.next_upload(key, now) } else { None };
            if let Some(range) = &upload {
                limits.iter().for_each(|limit| limit.charge(u64::from(range.length), now));
            }
            upload
        });
        messages.drain(..).for_each(|message| message.encode(&mut bytes));
        match upload {
            Some(range) => {
                bytes.extend_from_slice(&range.piece_header());
                send_all(stream, &bytes, true).await?;
                bytes.clear();
                block(torrent, stream, range).await?;
                // A socket that always takes more must not keep the reading half waiting.
                tokio::task::consume_budget().await;
            }
            None if bytes.is_empty() && !pause.is_zero() => {
                // Messages need not wait with the blocks.
                let _ = timeout(pause, wake.notified()).await;
            }
            None if bytes.is_empty() => {
                if timeout(KEEP_ALIVE, wake.notified()).await.is_err() {
                    messages.push(Message::KeepAlive);
                }
            }
            None => {
                send_all(stream, &bytes, false).await?;
                bytes.clear();
            }
        }
    }
}

/// Sends a block's payload. What it had proven and cannot read is no fault of the peer's.
async fn block(torrent: &Torrent, stream: &TcpStream, range: BlockRange) -> Result<(), LinkError> {
    let info = &torrent.meta.info;
    let offset = info.geometry.piece_offset(range.piece) + u64::from(range.begin);
    let lost = |source| LinkError::Lost { piece: range.piece, source };
    for place in
        torrent.layout.places(info, offset, u64::from(range.length)).map_err(|e| unreadable(e, lost))?
    {
        let (mut at, end) = (place.offset, place.offset + place.length);
        while at < end {
            let left = (end - at) as usize;
            let sent = match &place.file {
                Some(file) => {
                    when_writable(stream, || {
                        let mut from = at;
                        let sent = rustix::fs::sendfile(stream, file, Some(&mut from), left)?;
                        // The file is shorter than the torrent says: somebody has changed it.
                        if sent == 0 { Err(ends_early()) } else { Ok(sent) }
                    })
                    .await
                    .map_err(|e| if let LinkError::Io(e) = e { unreadable(e, lost) } else { e })?
                }
                None => send_some(stream, &ZEROS[..left.min(ZEROS.len())], true).await?,
            };
            at += sent as u64;
        }
    }
    Ok(())
}

fn ends_early() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the file ends before it")
}

/// Whether an error is of the file that was to be read, not of the connection, and nothing that passes.
fn unreadable(error: io::Error, lost: impl FnOnce(io::Error) -> LinkError) -> LinkError {
    use io::ErrorKind::{IsADirectory, NotADirectory, NotFound, StaleNetworkFileHandle, UnexpectedEof};
    let of_the_file = matches!(
        error.kind(),
        NotFound | NotADirectory | IsADirectory | StaleNetworkFileHandle | UnexpectedEof
    ) || error.raw_os_error() == Some(Errno::IO.raw_os_error());
    if of_the_file { lost(error) } else { error.into() }
}

/// Sends all of `bytes`; with `more`, the kernel waits for what follows before it closes the last packet.
async fn send_all(stream: &TcpStream, mut bytes: &[u8], more: bool) -> Result<(), LinkError> {
    while !bytes.is_empty() {
        let sent = send_some(stream, bytes, more).await?;
        bytes = bytes.get(sent..).unwrap_or_default();
    }
    Ok(())
}

async fn send_some(stream: &TcpStream, bytes: &[u8], more: bool) -> Result<usize, LinkError> {
    let flags = SendFlags::NOSIGNAL | if more { SendFlags::MORE } else { SendFlags::empty() };
    when_writable(stream, || Ok(send(stream, bytes, flags)?)).await
}

/// Tries at once, and then whenever the socket takes more.
async fn when_writable(
    stream: &TcpStream,
    mut call: impl FnMut() -> io::Result<usize>,
) -> Result<usize, LinkError> {
    #[allow(clippy::disallowed_methods, reason = "a driver's deadline")]
    let deadline = Instant::now() + STALL;
    loop {
        let tried = stream.try_io(Interest::WRITABLE, || match call() {
            Err(e) if e.raw_os_error() == Some(Errno::INTR.raw_os_error()) => {
                Err(io::ErrorKind::Interrupted.into())
            }
            other => other,
        });
        match tried {
            Ok(sent) => return Ok(sent),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                timeout_at(deadline, stream.writable()).await.map_err(|_| LinkError::Stalled)??;
            }
            Err(e) => return Err(e.into()),
        }
    }
}
