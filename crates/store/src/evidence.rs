//! What was proven of a piece's bytes, in 64 bytes.

use std::fmt;

use hash::{Digest, Sha256State};

/// What was proven of a piece's bytes.
///
/// For a piece of a blob: SHA-256's chaining states before and after it. For a piece of another torrent: its
/// SHA-1, after zeros. Evidence is not a claim to be believed but a fact to be compared: a piece counts
/// for a torrent only if that torrent asks for just this.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Evidence(pub [u8; 64]);

impl Evidence {
    /// The piece's bytes lead SHA-256 from state `before` to state `after`. For a blob's last piece `after`
    /// is the state after the padding: the digest's bytes.
    pub fn sha256(before: Sha256State, after: Sha256State) -> Self {
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&before.to_bytes());
        bytes[32..].copy_from_slice(&after.to_bytes());
        Self(bytes)
    }

    /// The piece's bytes have this SHA-1.
    pub fn sha1(sum: &[u8; 20]) -> Self {
        let mut bytes = [0; 64];
        bytes[44..].copy_from_slice(sum);
        Self(bytes)
    }

    /// The states, of evidence made by [`Evidence::sha256`].
    pub fn states(&self) -> (Sha256State, Sha256State) {
        let half = |from: usize| {
            let mut bytes = [0; 32];
            bytes.copy_from_slice(&self.0[from..from + 32]);
            Sha256State::from_bytes(bytes)
        };
        (half(0), half(32))
    }
}

impl fmt::Debug for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Evidence({})", hash::to_hex(&self.0))
    }
}

/// Why pieces do not prove a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// A piece is not proven yet.
    #[error("piece {0} is not proven")]
    Missing(u32),
    /// A piece does not begin where the one before it ends.
    #[error("the evidence of piece {0} does not join that of the piece before it")]
    Broken(u32),
    /// All pieces join, and make another blob.
    #[error("the pieces make {0}")]
    OtherBlob(Digest),
}

/// Whether the pieces, in order, lead from SHA-256's initial state to `digest`.
pub(crate) fn check_chain(
    digest: &Digest,
    pieces: impl IntoIterator<Item = Option<Evidence>>,
) -> Result<(), ChainError> {
    let mut state = Sha256State::INITIAL;
    let mut any = false;
    for (index, evidence) in (0u32..).zip(pieces) {
        let (before, after) = evidence.ok_or(ChainError::Missing(index))?.states();
        if before != state {
            return Err(ChainError::Broken(index));
        }
        state = after;
        any = true;
    }
    let made = if any { Digest::from_bytes(state.to_bytes()) } else { Digest::of(b"") };
    if made == *digest { Ok(()) } else { Err(ChainError::OtherBlob(made)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(byte: u8) -> Sha256State {
        Sha256State::from_bytes([byte; 32])
    }

    #[test]
    fn only_a_whole_chain_from_the_initial_state_to_the_digest_proves() {
        let first = Evidence::sha256(Sha256State::INITIAL, state(1));
        let last = Evidence::sha256(state(1), state(2));
        let digest = Digest::from_bytes([2; 32]);
        assert_eq!(check_chain(&digest, [Some(first), Some(last)]), Ok(()));
        assert_eq!(check_chain(&digest, [Some(first), None]), Err(ChainError::Missing(1)));
        assert_eq!(check_chain(&digest, [Some(last)]), Err(ChainError::Broken(0)));
        assert_eq!(check_chain(&digest, [Some(last), Some(first)]), Err(ChainError::Broken(0)));
        assert_eq!(
            check_chain(&digest, [Some(first)]),
            Err(ChainError::OtherBlob(Digest::from_bytes([1; 32])))
        );
        let skip = Evidence::sha256(state(9), state(2));
        assert_eq!(check_chain(&digest, [Some(first), Some(skip)]), Err(ChainError::Broken(1)));
    }

    #[test]
    fn no_pieces_prove_the_empty_blob_alone() {
        assert_eq!(check_chain(&Digest::of(b""), []), Ok(()));
        assert!(check_chain(&Digest::from_bytes(Sha256State::INITIAL.to_bytes()), []).is_err());
    }

    #[test]
    fn sha1_evidence_begins_no_chain() {
        assert_eq!(
            check_chain(&Digest::from_bytes([0; 32]), [Some(Evidence::sha1(&[1; 20]))]),
            Err(ChainError::Broken(0))
        );
    }
}
