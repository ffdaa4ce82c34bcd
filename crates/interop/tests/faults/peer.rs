//! Peers that say they have everything, and then give nothing that is of use.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use bytes::BytesMut;
use longshore_interop::get;
use metainfo::InfoHash;
use wire::{Decoder, Frame, Handshake, Message, PeerId};

/// What a peer does where a piece is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Habit {
    /// Gives other bytes.
    Lies,
    /// Says nothing.
    Hangs,
    /// Closes the connection.
    Closes,
}

/// A peer of one torrent. Its threads end with the connections that are made to it.
pub(crate) struct Peer {
    asked: Arc<AtomicU64>,
}

impl Peer {
    /// A seed of `pieces` pieces, of which the tracker knows.
    pub(crate) fn start(tracker: SocketAddr, info_hash: &str, pieces: u32, habit: Habit) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let info_hash: InfoHash = info_hash.parse().expect("an info-hash");
        let escaped: String = info_hash.as_bytes().iter().map(|byte| format!("%{byte:02x}")).collect();
        let target = format!(
            "/announce?info_hash={escaped}&peer_id=-XX0001-{port:012}&port={port}&left=0&event=started"
        );
        assert_eq!(get(tracker, &target, &[]).status, 200, "the tracker takes it");
        let asked = Arc::new(AtomicU64::new(0));
        let counting = asked.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let asked = counting.clone();
                // However it ends, it was a bad peer.
                thread::spawn(move || serve(stream, info_hash, pieces, habit, &asked));
            }
        });
        Self { asked }
    }

    /// How many blocks it was asked for.
    pub(crate) fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }
}

fn serve(
    mut stream: TcpStream,
    info_hash: InfoHash,
    pieces: u32,
    habit: Habit,
    asked: &AtomicU64,
) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut hello = [0; 68];
    stream.read_exact(&mut hello)?;
    let mut name = [b'x'; 20];
    name[..8].copy_from_slice(b"-XX0001-");
    let mut ours = Handshake::ours(info_hash, PeerId::from_bytes(name));
    // A plain client, without extensions.
    ours.reserved.0 = [0; 8];
    stream.write_all(&ours.encode())?;
    let mut field = vec![0; pieces.div_ceil(8) as usize];
    for piece in 0..pieces as usize {
        field[piece / 8] |= 0x80 >> (piece % 8);
    }
    let mut out = BytesMut::new();
    Message::Bitfield(field.into()).encode(&mut out);
    Message::Unchoke.encode(&mut out);
    stream.write_all(&out)?;
    let (decoder, mut buffer) = (Decoder::new(pieces, 1 << 20), BytesMut::new());
    loop {
        while let Ok(Some(frame)) = decoder.next(&mut buffer) {
            let Frame::Message(Message::Request(range)) = frame else { continue };
            asked.fetch_add(1, Ordering::Relaxed);
            match habit {
                Habit::Lies => {
                    stream.write_all(&range.piece_header())?;
                    stream.write_all(&vec![0x55; range.length as usize])?;
                }
                Habit::Hangs => {}
                Habit::Closes => return Ok(()),
            }
        }
        let mut more = [0; 4096];
        match stream.read(&mut more)? {
            0 => return Ok(()),
            n => buffer.extend_from_slice(&more[..n]),
        }
    }
}
