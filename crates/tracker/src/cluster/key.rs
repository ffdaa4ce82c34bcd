//! The key that the members share, and what is made of it.
//!
//! Each connection has two keys of its own, one for each direction, by HKDF-SHA-256 from the shared key and two
//! nonces, one of either side: so a message that opens proves that its sender has the key, and that it was made for
//! this connection. Messages are sealed with ChaCha20-Poly1305 and counted, so that none can be left out, moved,
//! sent twice or sent back.

use std::{fmt, io::Read as _, path::Path};

use ring::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, KeyType, Salt},
};

use crate::{StartError, open_ordinary};

/// The shortest key, in bytes: it must not be guessed, since who records a handshake can try any number of them.
const SHORTEST: usize = 32;
const LONGEST: usize = 1024;

/// How much longer a sealed message is.
pub(super) const TAG: usize = 16;

/// What one side adds to a connection's keys.
pub(super) type Salting = [u8; 32];

/// The cluster's key. It is in no output.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterKey(Vec<u8>);

/// Why a text is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// It can be guessed.
    #[error(
        "the cluster's key has {0} characters: at least {SHORTEST} are asked for; \
         `head -c 32 /dev/urandom | base64` makes a good one"
    )]
    Short(usize),
    /// It is several lines, or no text.
    #[error(
        "the cluster's key holds a line break or another control character: write it on one line, as text"
    )]
    Control,
    /// It is something else.
    #[error("the cluster's key has {0} characters: at most {LONGEST} are taken")]
    Long(usize),
}

impl ClusterKey {
    /// A key as it stands in a file: white space around it does not count.
    ///
    /// # Errors
    /// [`KeyError`]
    pub fn new(text: &[u8]) -> Result<Self, KeyError> {
        let text = text.trim_ascii();
        match text.len() {
            short if short < SHORTEST => Err(KeyError::Short(short)),
            long if long > LONGEST => Err(KeyError::Long(long)),
            _ if text.iter().any(u8::is_ascii_control) => Err(KeyError::Control),
            _ => Ok(Self(text.to_vec())),
        }
    }

    /// The key in a file.
    pub(crate) fn read(path: &Path) -> Result<Self, StartError> {
        let fail = |error| StartError::KeyFile { path: path.to_owned(), error };
        let mut text = Vec::new();
        let file = open_ordinary(path).map_err(fail)?;
        file.take(2 * LONGEST as u64).read_to_end(&mut text).map_err(fail)?;
        Ok(Self::new(&text)?)
    }

    /// The seed of the hashes by which peers are known again, which all members share.
    pub(crate) fn names(&self) -> u64 {
        struct Eight;
        impl KeyType for Eight {
            fn len(&self) -> usize {
                8
            }
        }
        let mut seed = [0; 8];
        let made = Salt::new(HKDF_SHA256, b"longshore cluster 1").extract(&self.0);
        // Eight bytes are never too many.
        let _ = made.expand(&[b"names"], Eight).and_then(|okm| okm.fill(&mut seed));
        u64::from_be_bytes(seed)
    }

    /// The keys of a connection: for what is sent by the one who connects, and for what the other sends.
    pub(super) fn pair(&self, dialer: &Salting, acceptor: &Salting) -> Option<(Seal, Seal)> {
        let salt = [&dialer[..], acceptor].concat();
        let made = Salt::new(HKDF_SHA256, &salt).extract(&self.0);
        let seal = |direction: &'static [u8]| {
            let info = [b"longshore cluster 1 ".as_slice(), direction];
            let okm = made.expand(&info, &CHACHA20_POLY1305).ok()?;
            Some(Seal { key: LessSafeKey::new(UnboundKey::from(okm)), count: 0 })
        };
        Some((seal(b"from dialer")?, seal(b"from acceptor")?))
    }
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey(…)")
    }
}

/// Seals the messages of one direction, or opens them, one after the other.
pub(super) struct Seal {
    key: LessSafeKey,
    count: u64,
}

impl Seal {
    /// Appends a message, sealed, to `out`; `None` where there have been too many.
    pub(super) fn close(&mut self, message: &[u8], out: &mut Vec<u8>) -> Option<()> {
        let start = out.len();
        out.extend_from_slice(message);
        let nonce = self.nonce()?;
        let tag = self.key.seal_in_place_separate_tag(nonce, Aad::empty(), out.get_mut(start..)?).ok()?;
        out.extend_from_slice(tag.as_ref());
        Some(())
    }

    /// The message in a sealed one; `None` where it is not the next of one who has the key.
    pub(super) fn open<'a>(&mut self, sealed: &'a mut [u8]) -> Option<&'a [u8]> {
        let nonce = self.nonce()?;
        self.key.open_in_place(nonce, Aad::empty(), sealed).ok().map(|message| &*message)
    }

    fn nonce(&mut self) -> Option<Nonce> {
        let count = self.count;
        self.count = count.checked_add(1)?;
        let mut bytes = [0; NONCE_LEN];
        if let Some(end) = bytes.last_chunk_mut() {
            *end = count.to_be_bytes();
        }
        Some(Nonce::assume_unique_for_key(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(fill: u8) -> ClusterKey {
        ClusterKey::new(&[fill; 40]).expect("long enough")
    }

    fn closed(seal: &mut Seal, message: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        seal.close(message, &mut out).expect("room");
        assert_eq!(out.len(), message.len() + TAG);
        out
    }

    #[test]
    fn only_the_next_message_of_who_has_the_key_opens() {
        let (mut ours, mut theirs) = (key(b'a').pair(&[1; 32], &[2; 32]), key(b'a').pair(&[1; 32], &[2; 32]));
        let ((mut send, _), (mut receive, mut back)) =
            (ours.take().expect("keys"), theirs.take().expect("keys"));
        let mut sealed: Vec<Vec<u8>> =
            [b"one".as_slice(), b"two", b"three"].map(|m| closed(&mut send, m)).into();
        assert!(!sealed[0].windows(3).any(|part| part == b"one"));
        assert_eq!(back.open(&mut sealed[0].clone()), None, "sent back to its sender");
        assert_eq!(receive.open(&mut sealed[0].clone()), Some(&b"one"[..]));
        assert_eq!(receive.open(&mut sealed[0]), None, "again");
        assert_eq!(
            receive.open(&mut sealed[2]),
            Some(&b"three"[..]),
            "a counted failure ends the connection"
        );
        for (other, dialer, acceptor) in [(b'b', 1, 2), (b'a', 3, 2), (b'a', 1, 3), (b'a', 2, 1)] {
            let (mut seal, _) = key(other).pair(&[dialer; 32], &[acceptor; 32]).expect("keys");
            let (mut open, _) = key(b'a').pair(&[1; 32], &[2; 32]).expect("keys");
            assert_eq!(open.open(&mut closed(&mut seal, b"x")), None, "{other} {dialer} {acceptor}");
        }
        let (mut seal, _) = key(b'a').pair(&[1; 32], &[2; 32]).expect("keys");
        let (mut open, _) = key(b'a').pair(&[1; 32], &[2; 32]).expect("keys");
        let mut bent = closed(&mut seal, b"message");
        bent[3] ^= 1;
        assert_eq!(open.open(&mut bent), None);
        assert_eq!(open.open(&mut [0; 5]), None, "shorter than a seal");
    }

    #[test]
    fn a_key_is_long_and_not_shown() {
        assert_eq!(ClusterKey::new(b" secret \n"), Err(KeyError::Short(6)));
        assert_eq!(ClusterKey::new(&[b'x'; 1025]), Err(KeyError::Long(1025)));
        let lines = [&[b'a'; 40][..], b"\n", &[b'b'; 40]].concat();
        assert_eq!(ClusterKey::new(&lines), Err(KeyError::Control));
        let spaced = [&[b'a'; 40][..], b"\n"].concat();
        assert_eq!(ClusterKey::new(&spaced), Ok(key(b'a')));
        assert!(!format!("{:?}", key(b'a')).contains('a'));
        assert_eq!(key(b'a').names(), key(b'a').names());
        assert_ne!(key(b'a').names(), key(b'b').names());
    }
}
