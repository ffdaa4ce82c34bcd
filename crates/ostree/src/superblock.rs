//! The superblock of a static delta: a GVariant of type
//! `(a{sv}tayay(a{sv}aya(say)sstayay)aya(uayttay)a(yaytt))`, alone or inside a signed one, `(taya{sv})`.

use hash::Digest;

use crate::variant::{Ends, Misshapen, aligned, number_at};

/// The first eight bytes of a signed superblock.
const SIGNED: &[u8] = b"OSTSGNDT";
/// More parts than any delta has.
const MOST_PARTS: usize = 10_000;

/// Why a superblock cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SuperblockError {
    /// An end that lies before its beginning or outside.
    #[error("it is no superblock: the ends of its members do not fit")]
    Shape,
    /// A part whose checksum is not of 32 bytes.
    #[error("it is no superblock: a part has no SHA-256")]
    Checksum,
    /// More parts than any delta has.
    #[error("it has more than {MOST_PARTS} parts")]
    TooMany,
}

impl From<Misshapen> for SuperblockError {
    fn from(Misshapen: Misshapen) -> Self {
        Self::Shape
    }
}

/// The SHA-256 of each part's file, in the parts' order.
///
/// # Errors
/// Bytes that are no superblock.
pub fn parse_superblock(bytes: &[u8]) -> Result<Vec<Digest>, SuperblockError> {
    let inside = if bytes.starts_with(SIGNED) {
        let end = Ends::of(bytes)?.end_of(0)?;
        bytes.get(SIGNED.len()..end).ok_or(SuperblockError::Shape)?
    } else {
        bytes
    };
    parts(inside)
}

fn parts(superblock: &[u8]) -> Result<Vec<Digest>, SuperblockError> {
    let ends = Ends::of(superblock)?;
    // Ends of: metadata, from, to, the commit, the deltas needed before, the parts.
    let (before, end) = (ends.end_of(4)?, ends.end_of(5)?);
    let array = superblock.get(aligned(before)..end).ok_or(SuperblockError::Shape)?;
    if array.is_empty() {
        return Ok(Vec::new());
    }
    let ends = Ends::of(array)?;
    let (table, width) = (ends.last()?, ends.width());
    let length = array.len().checked_sub(table).filter(|length| length % width == 0);
    let count = length.ok_or(SuperblockError::Shape)? / width;
    if count > MOST_PARTS {
        return Err(SuperblockError::TooMany);
    }
    let mut from = 0;
    (0..count)
        .map(|number| {
            let end = number_at(array, table + number * width, width)?;
            if end > table {
                return Err(SuperblockError::Shape);
            }
            let part = array.get(aligned(from)..end).ok_or(SuperblockError::Shape)?;
            from = end;
            checksum(part)
        })
        .collect()
}

/// Of a part, `(uayttay)`: behind its version stands the checksum.
fn checksum(part: &[u8]) -> Result<Digest, SuperblockError> {
    let end = Ends::of(part)?.end_of(0)?;
    let bytes = part.get(4..end).ok_or(SuperblockError::Shape)?;
    let bytes: [u8; 32] = bytes.try_into().map_err(|_| SuperblockError::Checksum)?;
    Ok(Digest::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::variant::width_behind;

    /// Puts ends behind the members of a container.
    fn container(mut body: Vec<u8>, ends: &[usize], backwards: bool) -> Vec<u8> {
        let width = width_behind(body.len(), ends.len());
        let mut ends = ends.to_vec();
        if backwards {
            ends.reverse();
        }
        for end in ends {
            body.extend(&end.to_le_bytes()[..width]);
        }
        body
    }

    fn pad(body: &mut Vec<u8>) {
        body.resize(aligned(body.len()), 0);
    }

    fn part(checksum: &[u8], objects: usize) -> Vec<u8> {
        let mut body = vec![0, 0, 0, 0];
        body.extend(checksum);
        let end = body.len();
        pad(&mut body);
        body.extend([7; 16]);
        body.extend(vec![9; objects]);
        container(body, &[end], true)
    }

    fn superblock(parts: &[Vec<u8>]) -> Vec<u8> {
        let (mut array, mut ends) = (Vec::new(), Vec::new());
        for part in parts {
            pad(&mut array);
            array.extend(part);
            ends.push(array.len());
        }
        let array = container(array, &ends, false);
        let (mut body, mut ends) = (vec![1; 13], vec![13]);
        pad(&mut body);
        body.extend([2; 8]);
        for length in [32, 32, 101, 0] {
            if length == 101 {
                pad(&mut body);
            }
            body.extend(vec![3; length]);
            ends.push(body.len());
        }
        pad(&mut body);
        body.extend(array);
        ends.push(body.len());
        pad(&mut body);
        body.extend([4; 24]);
        container(body, &ends, true)
    }

    fn signed(superblock: &[u8]) -> Vec<u8> {
        let mut body = SIGNED.to_vec();
        body.extend(superblock);
        let end = body.len();
        pad(&mut body);
        body.extend([5; 40]);
        container(body, &[end], true)
    }

    #[test]
    fn parts_are_read_whatever_the_width_of_the_ends() {
        for (count, objects) in [(1, 3), (2, 200), (3, 70_000)] {
            let digests: Vec<Digest> = (0..count).map(|n| Digest::of(&[n])).collect();
            let parts: Vec<_> = digests.iter().map(|digest| part(digest.as_bytes(), objects)).collect();
            assert_eq!(parse_superblock(&superblock(&parts)), Ok(digests.clone()));
            assert_eq!(parse_superblock(&signed(&superblock(&parts))), Ok(digests));
        }
        assert_eq!(parse_superblock(&superblock(&[])), Ok(Vec::new()));
    }

    #[test]
    fn a_part_without_a_whole_checksum_is_refused() {
        for length in [0, 31, 33] {
            let bytes = superblock(&[part(&vec![6; length], 5)]);
            assert_eq!(parse_superblock(&bytes), Err(SuperblockError::Checksum), "{length}");
        }
        assert_eq!(parse_superblock(b""), Err(SuperblockError::Shape));
        assert_eq!(parse_superblock(SIGNED), Err(SuperblockError::Shape));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_read(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = parse_superblock(&bytes);
        }

        #[test]
        fn a_superblock_with_a_wrong_byte_or_cut_short_does_no_harm(
            at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = superblock(&[part(&[1; 32], 4), part(&[2; 32], 90)]);
            let cut = cut.index(bytes.len());
            let _ = parse_superblock(&bytes[..cut]);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(parts) = parse_superblock(&bytes) {
                prop_assert!(parts.len() <= bytes.len());
            }
        }
    }
}
