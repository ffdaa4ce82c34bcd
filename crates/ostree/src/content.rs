//! A content object as an `archive` repository has it, `.filez`: the length of its header (four bytes, big-endian), four
//! bytes of padding, the header, and for a regular file its content by deflate.
//!
//! The header is a GVariant `(tuuuusa(ayay))`: size, uid, gid, mode, rdev, symbolic link's target, extended attributes,
//! numbers big-endian. The object's checksum is over the same without the size, `(uuuusa(ayay))`, its own length and
//! padding before it, and the content unpacked.

use flate2::{Decompress, FlushDecompress, Status};
use hash::{Digest, Sha256};

use crate::variant::{Ends, Misshapen, width_behind};

/// The longest header that is read, in bytes: extended attributes make it long.
const HEADER_LIMIT: usize = 1024 * 1024;
/// The header's length and the padding.
const PREFIX: usize = 8;
/// Of the header's first member, which the checksum is not over.
const SIZE: usize = 8;
/// Of all its members of a fixed size.
const FIXED: usize = 24;
/// How much is unpacked at a time.
const BUFFER: usize = 64 * 1024;

/// Why bytes are no content object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ContentError {
    /// No header, or one written in another way than OSTree does.
    #[error("its header cannot be read")]
    Header,
    /// A header that no file has.
    #[error("its header has {0} bytes, more than {HEADER_LIMIT}")]
    Long(usize),
    /// Something else than a regular file or a symbolic link.
    #[error("it is neither a file nor a symbolic link")]
    Kind,
    /// No deflate stream.
    #[error("its content cannot be unpacked")]
    Packed,
    /// The content has another length than the header says.
    #[error("its content is not as long as its header says")]
    Length,
    /// More bytes than the object has.
    #[error("bytes stand behind its end")]
    Behind,
    /// Fewer bytes than the object has.
    #[error("it ends early")]
    Early,
}

impl From<Misshapen> for ContentError {
    fn from(Misshapen: Misshapen) -> Self {
        Self::Header
    }
}

/// A content object that is read as it comes. It takes up to 1 MiB for a header that is as long, and else no more for a
/// larger one.
#[derive(Debug)]
pub struct ContentObject {
    hasher: Sha256,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// What is here of the prefix and the header.
    Header(Vec<u8>),
    /// A regular file's content.
    Content(Box<Content>),
    /// A symbolic link, of which nothing is missing.
    Link,
}

#[derive(Debug)]
struct Content {
    inflater: Decompress,
    buffer: Box<[u8]>,
    /// How many bytes are to come, by the header.
    left: u64,
    ended: bool,
}

impl Default for ContentObject {
    fn default() -> Self {
        Self { hasher: Sha256::new(), stage: Stage::Header(Vec::new()) }
    }
}

impl ContentObject {
    /// Takes the next bytes. The time goes by what they unpack to, which ends where the header says.
    ///
    /// # Errors
    /// As soon as it can be no content object. It takes no more then.
    pub fn update(&mut self, mut bytes: &[u8]) -> Result<(), ContentError> {
        while let Stage::Header(header) = &mut self.stage {
            let wanted = wanted(header)?;
            let (more, rest) = bytes.split_at(bytes.len().min(wanted - header.len()));
            header.extend_from_slice(more);
            bytes = rest;
            if header.len() < wanted {
                return Ok(());
            }
            if wanted > PREFIX {
                let Header { checked, regular } = Header::read(header.get(PREFIX..).unwrap_or_default())?;
                self.hasher.update(&checked);
                self.stage = regular.map_or(Stage::Link, |size| Stage::Content(Box::new(Content::new(size))));
            }
        }
        match &mut self.stage {
            _ if bytes.is_empty() => Ok(()),
            Stage::Content(content) => content.update(bytes, &mut self.hasher),
            Stage::Header(_) | Stage::Link => Err(ContentError::Behind),
        }
    }

    /// The checksum of what was read, which is the object's name.
    ///
    /// # Errors
    /// Where something is missing.
    pub fn finish(self) -> Result<Digest, ContentError> {
        match self.stage {
            Stage::Header(_) => return Err(ContentError::Early),
            Stage::Content(content) if !content.ended => return Err(ContentError::Early),
            Stage::Content(content) if content.left > 0 => return Err(ContentError::Length),
            Stage::Content(_) | Stage::Link => {}
        }
        Ok(Digest::from_bytes(self.hasher.finalize()))
    }
}

/// How many bytes the prefix has, and once that is here the header with it.
fn wanted(header: &[u8]) -> Result<usize, ContentError> {
    let Some([a, b, c, d, padding @ ..]) = header.first_chunk::<PREFIX>() else { return Ok(PREFIX) };
    let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
    if *padding != [0; 4] || length <= FIXED {
        return Err(ContentError::Header);
    }
    if length > HEADER_LIMIT { Err(ContentError::Long(length)) } else { Ok(PREFIX + length) }
}

struct Header {
    /// What of it the checksum is over.
    checked: Vec<u8>,
    /// The length of a regular file's content.
    regular: Option<u64>,
}

impl Header {
    fn read(header: &[u8]) -> Result<Self, ContentError> {
        let ends = Ends::of(header)?;
        // Of the link's target, the only member that says its end.
        let end = ends.end_of(0)?;
        let behind = header.len() - ends.width();
        let (target, attributes) = (header.get(FIXED..end), header.get(end..behind));
        let (Some(target), Some(_)) = (target, attributes) else { return Err(ContentError::Header) };
        let Some((0, target)) = target.split_last() else { return Err(ContentError::Header) };
        if target.contains(&0) || std::str::from_utf8(target).is_err() {
            return Err(ContentError::Header);
        }
        let (size, rest) = header.split_first_chunk::<SIZE>().ok_or(ContentError::Header)?;
        let mode = rest.get(8..12).and_then(|mode| mode.try_into().ok()).ok_or(ContentError::Header)?;
        let regular = match u32::from_be_bytes(mode) & 0o170_000 {
            0o100_000 => Some(u64::from_be_bytes(*size)),
            0o120_000 => None,
            _ => return Err(ContentError::Kind),
        };
        let members = header.get(SIZE..behind).ok_or(ContentError::Header)?;
        let width = width_behind(members.len(), 1);
        let length = members.len() + width;
        let mut checked = Vec::with_capacity(PREFIX + length);
        checked.extend_from_slice(&u32::try_from(length).map_err(|_| ContentError::Header)?.to_be_bytes());
        checked.extend_from_slice(&[0; 4]);
        checked.extend_from_slice(members);
        checked.extend_from_slice((end - SIZE).to_le_bytes().get(..width).ok_or(ContentError::Header)?);
        Ok(Self { checked, regular })
    }
}

impl Content {
    fn new(size: u64) -> Self {
        let buffer = vec![0; BUFFER].into_boxed_slice();
        Self { inflater: Decompress::new(false), buffer, left: size, ended: false }
    }

    fn update(&mut self, mut bytes: &[u8], hasher: &mut Sha256) -> Result<(), ContentError> {
        while !self.ended {
            let (taken, made) = (self.inflater.total_in(), self.inflater.total_out());
            let status = self.inflater.decompress(bytes, &mut self.buffer, FlushDecompress::None);
            let status = status.map_err(|_| ContentError::Packed)?;
            let (taken, made) = (self.inflater.total_in() - taken, self.inflater.total_out() - made);
            self.left = self.left.checked_sub(made).ok_or(ContentError::Length)?;
            hasher.update(self.buffer.get(..made as usize).unwrap_or_default());
            bytes = bytes.get(taken as usize..).unwrap_or_default();
            self.ended = status == Status::StreamEnd;
            if taken == 0 && made == 0 && !self.ended {
                break;
            }
        }
        match (bytes.is_empty(), self.ended) {
            (true, _) => Ok(()),
            (false, true) => Err(ContentError::Behind),
            // It goes on wherever there is room, which there always is.
            (false, false) => Err(ContentError::Packed),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::{Compression, write::DeflateEncoder};
    use proptest::prelude::*;

    use super::*;

    /// What Debian's ostree 2022.7 made of files and links: name, and bytes.
    const MADE: [(&str, &str); 5] = [
        // A file of two lines.
        (
            "0718024815d580a4fa9c4af16ff280240da76ad8d4464111f00e47239df05f98",
            "0000001a00000000000000000000001a0000000000000000000081a4000000000019\
             cb48cdc9c9d75128cf2fca49e1ca40e60000",
        ),
        // An empty one.
        (
            "cc700d46f407c6c5ab2d5dde474366a928b7398277e61162e7f8ec06f469f07e",
            "0000001a0000000000000000000000000000000000000000000081a40000000000190300",
        ),
        // One of a byte, with two attributes.
        (
            "a3760271b6d0f2583f6a1a9281fb9bdf42f8cbabb2bfe8c872cb6652419d20f1",
            "000000330000000000000000000000010000000000000000000081ed0000000000\
             757365722e610076616c756507757365722e62000001070d1719ab0000",
        ),
        // A link to `../where/to`.
        (
            "bc3bfd3806d9941b235dac2857eeb1832ff3d3c993def42c162f9d9151db7347",
            "0000002500000000000000000000000000000000000000000000a1ff00000000\
             2e2e2f77686572652f746f0024",
        ),
        // A link of 235 bytes: with the size its end is a number of two bytes, without it of one.
        ("1cddf3c364bdf590e401e9c1be5556dac6901d83245f3f33560b8fcf320f5d9b", ""),
    ];

    fn bytes(hex: &str) -> Vec<u8> {
        let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal");
        (0..hex.len()).step_by(2).map(digit).collect()
    }

    fn made() -> Vec<(Digest, Vec<u8>)> {
        let mut made: Vec<_> =
            MADE.map(|(name, hex)| (Digest::from_hex(name).expect("a digest"), bytes(hex))).into();
        let mut long = bytes("0000010600000000000000000000000000000000000000000000a1ff00000000");
        long.extend([b'a'; 235]);
        long.extend([0, 0x04, 0x01]);
        made[4].1 = long;
        made
    }

    fn read(packed: &[u8], step: usize) -> Result<Digest, ContentError> {
        let mut object = ContentObject::default();
        packed.chunks(step.max(1)).try_for_each(|chunk| object.update(chunk))?;
        object.finish()
    }

    fn deflate(content: &[u8]) -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(content).expect("memory");
        encoder.finish().expect("memory")
    }

    /// A regular file's object that says a length, with a target and attributes as they are given.
    fn object(size: u64, target: &[u8], attributes: &[u8], content: &[u8]) -> Vec<u8> {
        let mut header = size.to_be_bytes().to_vec();
        header.extend(bytes("0000000000000000000081a400000000"));
        header.extend(target);
        let end = header.len();
        header.extend(attributes);
        let width = width_behind(header.len(), 1);
        header.extend(&end.to_le_bytes()[..width]);
        let mut object = u32::try_from(header.len()).expect("short").to_be_bytes().to_vec();
        object.extend([0; 4]);
        object.extend(header);
        object.extend(deflate(content));
        object
    }

    #[test]
    fn what_ostree_has_packed_is_what_its_name_says_however_it_comes() {
        for (name, packed) in made() {
            for step in [1, 7, 8, 9, 34, packed.len()] {
                assert_eq!(read(&packed, step), Ok(name), "{step}");
            }
            for length in 0..packed.len() {
                assert_eq!(read(&packed[..length], 16), Err(ContentError::Early), "{length}");
            }
            let mut longer = packed.clone();
            longer.push(0);
            assert_eq!(read(&longer, longer.len()), Err(ContentError::Behind));
            assert_eq!(read(&longer, 1), Err(ContentError::Behind));
        }
    }

    #[test]
    fn a_changed_byte_of_the_header_or_another_content_is_not_the_object() {
        for (name, packed) in made() {
            let end = wanted(&packed).expect("a length");
            // The padding, and what stands behind the size, which only a file's content is held against.
            for at in (0..PREFIX).chain(PREFIX + SIZE..end) {
                let mut other = packed.clone();
                other[at] ^= 4;
                assert_ne!(read(&other, 16), Ok(name), "{at}");
            }
        }
        let (name, packed) = made()[2].clone();
        let other = [&packed[..wanted(&packed).expect("a length")], &deflate(b"y")].concat();
        assert!(read(&other, 16).is_ok_and(|other| other != name));
        let mut sized = made()[0].1.clone();
        sized[PREFIX + SIZE - 1] += 1;
        assert_eq!(read(&sized, 16), Err(ContentError::Length));
    }

    #[test]
    fn what_unpacks_to_more_than_it_says_is_not_unpacked_further() {
        let zeros = vec![0; 8 << 20];
        let packed = object(70_000, b"\0", b"", &zeros);
        assert!(packed.len() < 100_000);
        let mut object = ContentObject::default();
        assert_eq!(object.update(&packed), Err(ContentError::Length));
        let Stage::Content(content) = &object.stage else { panic!("a file") };
        assert!(content.inflater.total_out() < 70_000 + 2 * BUFFER as u64);
    }

    #[test]
    fn a_header_that_is_too_long_or_of_something_else_is_refused() {
        let mut long = vec![0; PREFIX];
        long[..4].copy_from_slice(&(HEADER_LIMIT as u32 + 1).to_be_bytes());
        assert_eq!(read(&long, 8), Err(ContentError::Long(HEADER_LIMIT + 1)));
        let right = object(3, b"\0", b"", b"abc");
        let mut device = right.clone();
        device[PREFIX + 18] = 0x61;
        assert_eq!(read(&device, 8), Err(ContentError::Kind));
        for target in [b"".as_slice(), b"a", b"a\0b\0", b"\xff\0"] {
            assert_eq!(read(&object(3, target, b"", b"abc"), 8), Err(ContentError::Header), "{target:?}");
        }
        let mut stored = right;
        stored.truncate(PREFIX + FIXED + 2);
        stored.extend(b"\xffabc");
        assert_eq!(read(&stored, 8), Err(ContentError::Packed));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_read(
            packed in proptest::collection::vec(any::<u8>(), 0..300), step in 1..300_usize,
        ) {
            let _ = read(&packed, step);
        }

        #[test]
        fn bytes_behind_any_header_are_refused_or_read(
            size in 0..40_u64, rest in proptest::collection::vec(any::<u8>(), 0..60),
        ) {
            let mut packed = object(size, b"\0", b"", b"");
            packed.truncate(PREFIX + FIXED + 2);
            packed.extend(rest);
            let _ = read(&packed, 16);
        }

        #[test]
        fn an_object_has_the_checksum_of_its_header_and_content(
            content in proptest::collection::vec(any::<u8>(), 0..3000),
            attributes in proptest::collection::vec(any::<u8>(), 0..300),
            step in 1..4000_usize, cut in any::<prop::sample::Index>(),
        ) {
            let packed = object(content.len() as u64, b"\0", &attributes, &content);
            let mut plain = bytes("0000000000000000000081a40000000000");
            plain.extend(&attributes);
            let width = width_behind(plain.len(), 1);
            plain.extend(&17_usize.to_le_bytes()[..width]);
            let mut all = (plain.len() as u32).to_be_bytes().to_vec();
            all.extend([0; 4]);
            all.extend(plain);
            all.extend(&content);
            prop_assert_eq!(read(&packed, step), Ok(Digest::of(&all)));
            let cut = cut.index(packed.len());
            prop_assert!(read(&packed[..cut], step).is_err());
        }
    }
}
