//! A connection between members: the handshake, and sealed messages with their lengths before them.
//!
//! Both sides say [`MAGIC`] and a nonce, first the one who connects. Then everything is sealed, and each says its
//! name: when the other's opens, it has the key. Every read and write has a deadline.

use std::{io, time::Duration};

use announce::cluster::{Instance, MAX_MESSAGE, Message, encode_hello};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};

use super::key::{ClusterKey, Salting, Seal, TAG};

/// What a connection begins with; the last byte is the version.
const MAGIC: [u8; 8] = *b"LSHCLUS\x01";

/// How long a handshake may take, and each message to be written.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// How long the other side may be silent.
pub(super) const SILENCE: Duration = Duration::from_secs(10);

/// Why a connection between members ends.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it is silent")]
    Silent,
    #[error("it takes nothing")]
    Stuck,
    #[error("something else answers there")]
    Stranger,
    #[error("it does not have this cluster's key")]
    Key,
    #[error("it does not speak as a member does")]
    Nonsense,
}

impl Broken {
    /// Whether it will be so the next time too: somebody has to mend it.
    pub(super) const fn lasts(&self) -> bool {
        matches!(self, Self::Stranger | Self::Key | Self::Nonsense)
    }
}

/// Reads messages.
pub(super) struct Incoming {
    stream: OwnedReadHalf,
    seal: Seal,
    buffer: Vec<u8>,
}

/// Writes messages.
pub(super) struct Outgoing {
    stream: OwnedWriteHalf,
    seal: Seal,
    buffer: Vec<u8>,
}

/// Which side of the connection is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Dialer,
    Acceptor,
}

/// Proves to one another that both have the key, and says who the other is.
pub(super) async fn shake_hands(
    stream: TcpStream,
    side: Side,
    key: &ClusterKey,
    own: &Instance,
) -> Result<(Incoming, Outgoing, Instance), Broken> {
    timeout(PATIENCE, handshake(stream, side, key, own)).await.unwrap_or(Err(Broken::Silent))
}

async fn handshake(
    mut stream: TcpStream,
    side: Side,
    key: &ClusterKey,
    own: &Instance,
) -> Result<(Incoming, Outgoing, Instance), Broken> {
    stream.set_nodelay(true)?;
    let ours: Salting = rand::random();
    if side == Side::Dialer {
        stream.write_all(&[&MAGIC[..], &ours].concat()).await?;
    }
    let (mut magic, mut theirs) = ([0; MAGIC.len()], Salting::default());
    stream.read_exact(&mut magic).await?;
    if magic != MAGIC {
        return Err(Broken::Stranger);
    }
    stream.read_exact(&mut theirs).await?;
    let seals = match side {
        Side::Dialer => key.pair(&ours, &theirs),
        Side::Acceptor => {
            stream.write_all(&[&MAGIC[..], &ours].concat()).await?;
            key.pair(&theirs, &ours)
        }
    };
    let (dialers, acceptors) = seals.ok_or(Broken::Key)?;
    let (sends, receives) = match side {
        Side::Dialer => (dialers, acceptors),
        Side::Acceptor => (acceptors, dialers),
    };
    let (reader, writer) = stream.into_split();
    let mut incoming = Incoming { stream: reader, seal: receives, buffer: Vec::new() };
    let mut outgoing = Outgoing { stream: writer, seal: sends, buffer: Vec::new() };
    let mut hello = Vec::new();
    encode_hello(own, &mut hello);
    if side == Side::Dialer {
        outgoing.write(&hello).await?;
    }
    let theirs = match incoming.read().await {
        Ok(Message::Hello(theirs)) => theirs,
        Ok(_) => return Err(Broken::Nonsense),
        // Whoever cannot open our hello says nothing and leaves.
        Err(Broken::Io(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(Broken::Key),
        Err(error) => return Err(error),
    };
    if side == Side::Acceptor {
        outgoing.write(&hello).await?;
    }
    Ok((incoming, outgoing, theirs))
}

impl Incoming {
    /// The next message. Not to be dropped before it is there, but with the connection.
    pub(super) async fn read(&mut self) -> Result<Message<'_>, Broken> {
        timeout(SILENCE, self.fill()).await.unwrap_or(Err(Broken::Silent))?;
        let message = self.seal.open(&mut self.buffer).ok_or(Broken::Key)?;
        Message::parse(message).ok_or(Broken::Nonsense)
    }

    async fn fill(&mut self) -> Result<(), Broken> {
        let length = usize::from(self.stream.read_u16().await?);
        if !(TAG..=MAX_MESSAGE + TAG).contains(&length) {
            return Err(Broken::Nonsense);
        }
        self.buffer.resize(length, 0);
        self.stream.read_exact(&mut self.buffer).await?;
        Ok(())
    }
}

impl Outgoing {
    /// Writes a message, which is not longer than [`MAX_MESSAGE`].
    pub(super) async fn write(&mut self, message: &[u8]) -> Result<(), Broken> {
        self.buffer.clear();
        let length = u16::try_from(message.len() + TAG).map_err(|_| Broken::Nonsense)?;
        self.buffer.extend_from_slice(&length.to_be_bytes());
        self.seal.close(message, &mut self.buffer).ok_or(Broken::Key)?;
        timeout(PATIENCE, self.stream.write_all(&self.buffer)).await.map_err(|_| Broken::Stuck)??;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (dialed, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        (dialed.expect("connects"), accepted.expect("accepts").0)
    }

    fn key(fill: u8) -> ClusterKey {
        ClusterKey::new(&[fill; 40]).expect("long enough")
    }

    #[tokio::test]
    async fn who_has_the_key_is_known_and_who_has_another_is_not() {
        let (dialed, accepted) = pair().await;
        let (one, other) = (key(b'a'), key(b'a'));
        let (ours, theirs) = tokio::join!(
            shake_hands(dialed, Side::Dialer, &one, &[1; 16]),
            shake_hands(accepted, Side::Acceptor, &other, &[2; 16]),
        );
        let ((mut incoming, _out, name), (_in, mut outgoing, other_name)) =
            (ours.expect("shakes"), theirs.expect("shakes"));
        assert_eq!((name, other_name), ([2; 16], [1; 16]));
        let mut receipt = Vec::new();
        announce::cluster::encode_receipt(7, &mut receipt);
        outgoing.write(&receipt).await.expect("written");
        assert_eq!(incoming.read().await.expect("read"), Message::Receipt(7));
        drop(outgoing);

        let (dialed, accepted) = pair().await;
        let (one, other) = (key(b'a'), key(b'b'));
        let (ours, theirs) = tokio::join!(
            shake_hands(dialed, Side::Dialer, &one, &[1; 16]),
            shake_hands(accepted, Side::Acceptor, &other, &[2; 16]),
        );
        assert!(matches!(ours.err(), Some(Broken::Key | Broken::Io(_))));
        assert!(matches!(theirs.err(), Some(Broken::Key)));
    }

    #[tokio::test]
    async fn nonsense_is_told_apart() {
        for (sent, stranger) in [(&b"GET / HTTP/1.1\r\n\r\n"[..], true), (&MAGIC[..], false)] {
            let (mut dialed, accepted) = pair().await;
            dialed.write_all(sent).await.expect("sent");
            drop(dialed);
            let outcome = shake_hands(accepted, Side::Acceptor, &key(b'a'), &[2; 16]).await.err();
            assert_eq!(matches!(outcome, Some(Broken::Stranger)), stranger, "{outcome:?}");
        }
        // A recorded handshake, sent again: its hello was made for other nonces.
        let (mut dialed, accepted) = pair().await;
        let known = key(b'a');
        let (mut seal, _) = known.pair(&[1; 32], &[2; 32]).expect("keys");
        let mut recorded = [&MAGIC[..], &[1; 32], &33u16.to_be_bytes()].concat();
        let mut hello = Vec::new();
        encode_hello(&[1; 16], &mut hello);
        seal.close(&hello, &mut recorded).expect("sealed");
        dialed.write_all(&recorded).await.expect("sent");
        let outcome = shake_hands(accepted, Side::Acceptor, &known, &[2; 16]).await;
        assert!(matches!(outcome.err(), Some(Broken::Key)));
    }
}
