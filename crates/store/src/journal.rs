//! Which pieces of a file are proven, kept so that a crash costs as little as possible.
//!
//! An append-only file of fixed records:
//!
//! ```text
//! header   "lsjournl"  version u32  key [32]  total u64  piece length u32  crc32     60 bytes
//! record   piece u32   evidence [64]                                       crc32     72 bytes
//! ```
//!
//! Numbers are little-endian; each crc covers what is before it. A record of piece `u32::MAX` is a boot
//! mark: records after it were written in the boot that its evidence names. The first record that does not
//! read ends the journal: it, and all behind it, are cut off.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufReader, Read},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use hash::Digest;
use metainfo::{Geometry, InfoHash, PieceIndex};

use crate::{disk, error::JournalError, evidence::Evidence};

/// What a journal is about. One with another spec is not continued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalSpec {
    key: [u8; 32],
    geometry: Geometry,
}

impl JournalSpec {
    /// For a blob. `None` where the length cannot be cut so (see [`Geometry::new`]).
    pub fn blob(digest: &Digest, size: u64, piece_length: u32) -> Option<Self> {
        Some(Self { key: *digest.as_bytes(), geometry: Geometry::new(size, piece_length)? })
    }

    /// For any torrent.
    pub fn torrent(info_hash: &InfoHash, geometry: Geometry) -> Self {
        let mut key = [0; 32];
        key[12..].copy_from_slice(info_hash.as_bytes());
        Self { key, geometry }
    }

    /// A blob's digest, or 12 zeros and a torrent's info-hash.
    pub const fn key(&self) -> &[u8; 32] {
        &self.key
    }

    /// How the bytes are cut.
    pub const fn geometry(&self) -> Geometry {
        self.geometry
    }
}

/// A journal open for writing.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    spec: JournalSpec,
    /// Where the next record goes. Not the file's end: a record that was cut short by a full disk is
    /// overwritten by the next one.
    end: u64,
    /// Whether records at `end` would count for this boot.
    marked: bool,
    boot: Option<[u8; 32]>,
}

/// A journal, and what it says.
#[derive(Debug)]
#[non_exhaustive]
pub struct Opened {
    /// For further records.
    pub journal: Journal,
    /// Proven in this boot, in the order of pieces: as the data was written before the record was, it is
    /// there.
    pub proven: Vec<(PieceIndex, Evidence)>,
    /// Proven in an earlier boot, in the order of pieces: the data may not have reached the disk. To be
    /// hashed again, and to be appended again if it is as the evidence says.
    pub doubtful: Vec<(PieceIndex, Evidence)>,
    /// The file is new, or was for something else: nothing in the data file counts.
    pub fresh: bool,
}

const MAGIC: &[u8; 8] = b"lsjournl";
const VERSION: u32 = 1;
const HEADER: usize = 60;
const RECORD: usize = 72;
const BOOT_MARK: u32 = u32::MAX;

impl Journal {
    /// Continues the journal at `path`, or begins one. One that does not read, or is for another torrent,
    /// size or piece length, is begun anew, and a line in the log says so.
    pub fn open(path: &Path, spec: &JournalSpec) -> Result<Opened, JournalError> {
        let boot = disk::boot_id();
        Self::open_in_boot(path, spec, boot)
    }

    fn open_in_boot(path: &Path, spec: &JournalSpec, boot: Option<[u8; 32]>) -> Result<Opened, JournalError> {
        let fail = |what| move |error| JournalError::io(what, path, error);
        let file = disk::open_or_create(path).map_err(fail("opening"))?;
        let length = file.metadata().map_err(fail("reading"))?.len();
        let mut journal = Self { path: path.to_owned(), file, spec: *spec, end: 0, marked: false, boot };
        let parsed = if length == 0 {
            None
        } else {
            let parsed = parse(BufReader::new(&journal.file), spec, boot).map_err(fail("reading"))?;
            if let Err(reason) = &parsed {
                tracing::warn!(path = %path.display(), %reason, "journal begun anew: what it said is lost");
            }
            parsed.ok()
        };
        let Some(parsed) = parsed else {
            journal.begin()?;
            return Ok(Opened { journal, proven: Vec::new(), doubtful: Vec::new(), fresh: true });
        };
        if parsed.end < length {
            tracing::info!(path = %path.display(), bytes = length - parsed.end, "journal's torn end cut off");
            journal.file.set_len(parsed.end).map_err(fail("cutting"))?;
        }
        journal.end = parsed.end;
        journal.marked = parsed.marked;
        let of = |trusted| {
            let wanted = parsed.claims.iter().filter(move |(_, claim)| claim.trusted == trusted);
            wanted.map(|(&piece, claim)| (PieceIndex(piece), claim.evidence)).collect::<Vec<_>>()
        };
        let (proven, doubtful) = (of(true), of(false));
        Ok(Opened { journal, proven, doubtful, fresh: false })
    }

    /// What the journal at `path` is about, if its header reads. Opens it for reading only.
    pub fn peek(path: &Path) -> io::Result<Option<JournalSpec>> {
        let mut header = [0; HEADER];
        let mut file = File::open(path)?;
        Ok(if fill(&mut file, &mut header)? { read_header(&header).ok() } else { None })
    }

    /// How many pieces the journal at `path` claims, of this boot and of earlier ones; 0 when it does not read.
    pub fn claimed(path: &Path, spec: &JournalSpec) -> io::Result<u32> {
        let parsed = parse(BufReader::new(File::open(path)?), spec, disk::boot_id())?;
        Ok(parsed.map_or(0, |parsed| u32::try_from(parsed.claims.len()).unwrap_or(u32::MAX)))
    }

    /// Records that the piece's bytes, *as already written to the data file*, are as the evidence says.
    pub fn append(&mut self, piece: PieceIndex, evidence: &Evidence) -> Result<(), JournalError> {
        self.append_all(&[(piece, *evidence)])
    }

    /// As [`Journal::append`], several with one write.
    pub fn append_all(&mut self, pieces: &[(PieceIndex, Evidence)]) -> Result<(), JournalError> {
        let count = self.spec.geometry.piece_count();
        if let Some((piece, _)) = pieces.iter().find(|(piece, _)| piece.0 >= count) {
            return Err(JournalError::OutOfRange { piece: piece.0, count });
        }
        let mut bytes = Vec::with_capacity((pieces.len() + 1) * RECORD);
        if !self.marked {
            // Where the boot is not known, an id that no boot has keeps records from being trusted.
            let mut evidence = [0; 64];
            evidence[..32].copy_from_slice(&self.boot.unwrap_or_default());
            write_record(&mut bytes, BOOT_MARK, &Evidence(evidence));
        }
        for (piece, evidence) in pieces {
            write_record(&mut bytes, piece.0, evidence);
        }
        let fail = |error| JournalError::io("writing", &self.path, error);
        self.file.write_all_at(&bytes, self.end).map_err(fail)?;
        self.end += bytes.len() as u64;
        self.marked = true;
        Ok(())
    }

    /// What the journal is about.
    pub const fn spec(&self) -> &JournalSpec {
        &self.spec
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Closes the journal and removes its file.
    pub fn remove(self) -> Result<(), JournalError> {
        disk::remove(&self.path).map_err(|error| JournalError::io("removing", &self.path, error))?;
        Ok(())
    }

    /// Empties the file and writes the header.
    fn begin(&mut self) -> Result<(), JournalError> {
        let fail = |what| {
            let path = self.path.clone();
            move |error| JournalError::io(what, path, error)
        };
        self.file.set_len(0).map_err(fail("emptying"))?;
        self.file.write_all_at(&write_header(&self.spec), 0).map_err(fail("writing"))?;
        self.end = HEADER as u64;
        self.marked = false;
        Ok(())
    }
}

fn write_header(spec: &JournalSpec) -> Vec<u8> {
    let mut header = Vec::with_capacity(HEADER);
    header.extend_from_slice(MAGIC);
    header.extend_from_slice(&VERSION.to_le_bytes());
    header.extend_from_slice(&spec.key);
    header.extend_from_slice(&spec.geometry.total().to_le_bytes());
    header.extend_from_slice(&spec.geometry.piece_length().to_le_bytes());
    header.extend_from_slice(&crc32fast::hash(&header).to_le_bytes());
    header
}

fn write_record(to: &mut Vec<u8>, piece: u32, evidence: &Evidence) {
    let start = to.len();
    to.extend_from_slice(&piece.to_le_bytes());
    to.extend_from_slice(&evidence.0);
    let crc = crc32fast::hash(to.get(start..).unwrap_or_default());
    to.extend_from_slice(&crc.to_le_bytes());
}

/// Why a header does not fit.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum HeaderError {
    #[error("it is no journal, or its beginning is torn")]
    Unreadable,
    #[error("it has version {0}, and this program knows only {VERSION}")]
    Version(u32),
    #[error("it is for other bytes, or another size or piece length")]
    OtherSpec,
}

fn read_header(header: &[u8; HEADER]) -> Result<JournalSpec, HeaderError> {
    let (magic, rest) = header.split_first_chunk::<8>().ok_or(HeaderError::Unreadable)?;
    let (version, rest) = rest.split_first_chunk::<4>().ok_or(HeaderError::Unreadable)?;
    let (key, rest) = rest.split_first_chunk::<32>().ok_or(HeaderError::Unreadable)?;
    let (total, rest) = rest.split_first_chunk::<8>().ok_or(HeaderError::Unreadable)?;
    let (piece_length, crc) = rest.split_first_chunk::<4>().ok_or(HeaderError::Unreadable)?;
    if magic != MAGIC || crc != crc32fast::hash(&header[..HEADER - 4]).to_le_bytes() {
        return Err(HeaderError::Unreadable);
    }
    let version = u32::from_le_bytes(*version);
    if version != VERSION {
        return Err(HeaderError::Version(version));
    }
    let geometry = Geometry::new(u64::from_le_bytes(*total), u32::from_le_bytes(*piece_length))
        .ok_or(HeaderError::Unreadable)?;
    Ok(JournalSpec { key: *key, geometry })
}

#[derive(Debug, PartialEq)]
struct Parsed {
    /// The last record of each piece; never more than the spec has pieces.
    claims: BTreeMap<u32, Claim>,
    /// The length up to which the file reads.
    end: u64,
    /// Whether the last boot mark names this boot.
    marked: bool,
}

#[derive(Debug, PartialEq)]
struct Claim {
    evidence: Evidence,
    trusted: bool,
}

/// Reads a journal as far as it is sound. The outer error is the system's, the inner one the header's.
fn parse(
    mut from: impl Read,
    spec: &JournalSpec,
    boot: Option<[u8; 32]>,
) -> io::Result<Result<Parsed, HeaderError>> {
    let mut header = [0; HEADER];
    if !fill(&mut from, &mut header)? {
        return Ok(Err(HeaderError::Unreadable));
    }
    match read_header(&header) {
        Ok(found) if found == *spec => {}
        Ok(_) => return Ok(Err(HeaderError::OtherSpec)),
        Err(error) => return Ok(Err(error)),
    }
    let mut parsed = Parsed { claims: BTreeMap::new(), end: HEADER as u64, marked: false };
    let mut record = [0; RECORD];
    while fill(&mut from, &mut record)? {
        let Some((piece, evidence)) = read_record(&record) else { break };
        if piece == BOOT_MARK {
            parsed.marked = boot.is_some_and(|boot| evidence.0[..32] == boot);
        } else if piece < spec.geometry.piece_count() {
            parsed.claims.insert(piece, Claim { evidence, trusted: parsed.marked });
        } else {
            break;
        }
        parsed.end += RECORD as u64;
    }
    Ok(Ok(parsed))
}

fn read_record(record: &[u8; RECORD]) -> Option<(u32, Evidence)> {
    let (piece, rest) = record.split_first_chunk::<4>()?;
    let (evidence, crc) = rest.split_first_chunk::<64>()?;
    let sound = crc == crc32fast::hash(&record[..RECORD - 4]).to_le_bytes();
    sound.then(|| (u32::from_le_bytes(*piece), Evidence(*evidence)))
}

/// Fills the buffer; `false` where the file ends first.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match from.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    fn spec(pieces: u32) -> JournalSpec {
        JournalSpec::blob(&Digest::of(b"x"), u64::from(pieces) * 64, 64).expect("valid")
    }

    fn evidence(byte: u8) -> Evidence {
        Evidence([byte; 64])
    }

    const BOOT: Option<[u8; 32]> = Some([1; 32]);
    const NEXT_BOOT: Option<[u8; 32]> = Some([2; 32]);

    #[test]
    fn a_reopened_journal_says_what_was_appended() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("j");
        let mut opened = Journal::open(&path, &spec(9)).expect("opens");
        assert!(opened.fresh && opened.proven.is_empty());
        opened.journal.append(PieceIndex(7), &evidence(7)).expect("appends");
        opened
            .journal
            .append_all(&[(PieceIndex(2), evidence(2)), (PieceIndex(7), evidence(8))])
            .expect("appends");
        assert!(matches!(
            opened.journal.append(PieceIndex(9), &evidence(9)),
            Err(JournalError::OutOfRange { piece: 9, count: 9 })
        ));
        let opened = Journal::open(&path, &spec(9)).expect("opens");
        assert!(!opened.fresh && opened.doubtful.is_empty());
        assert_eq!(opened.proven, [(PieceIndex(2), evidence(2)), (PieceIndex(7), evidence(8))]);
        assert_eq!(Journal::peek(&path).expect("reads"), Some(spec(9)));
    }

    #[test]
    fn pieces_of_another_boot_are_doubtful_until_marked_again() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("j");
        let mut old = Journal::open_in_boot(&path, &spec(4), BOOT).expect("opens");
        old.journal
            .append_all(&[(PieceIndex(0), evidence(0)), (PieceIndex(1), evidence(1))])
            .expect("appends");
        let mut new = Journal::open_in_boot(&path, &spec(4), NEXT_BOOT).expect("opens");
        assert!(new.proven.is_empty());
        assert_eq!(new.doubtful, [(PieceIndex(0), evidence(0)), (PieceIndex(1), evidence(1))]);
        new.journal.append(PieceIndex(1), &evidence(1)).expect("appends");
        let again = Journal::open_in_boot(&path, &spec(4), NEXT_BOOT).expect("opens");
        assert_eq!(again.proven, [(PieceIndex(1), evidence(1))]);
        assert_eq!(again.doubtful, [(PieceIndex(0), evidence(0))]);
        let unknown = Journal::open_in_boot(&path, &spec(4), None).expect("opens");
        assert_eq!((unknown.proven.len(), unknown.doubtful.len()), (0, 2));
    }

    #[test]
    fn where_the_boot_is_not_known_nothing_is_trusted() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("j");
        let mut opened = Journal::open_in_boot(&path, &spec(4), None).expect("opens");
        opened.journal.append(PieceIndex(0), &evidence(0)).expect("appends");
        let again = Journal::open_in_boot(&path, &spec(4), None).expect("opens");
        assert_eq!((again.proven.len(), again.doubtful.len()), (0, 1));
    }

    #[test]
    fn a_journal_for_something_else_is_begun_anew() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("j");
        let mut opened = Journal::open(&path, &spec(4)).expect("opens");
        opened.journal.append(PieceIndex(0), &evidence(0)).expect("appends");
        let other = Journal::open(&path, &spec(5)).expect("opens");
        assert!(other.fresh && other.proven.is_empty());
        fs::write(&path, b"something else altogether").expect("writes");
        assert!(Journal::open(&path, &spec(5)).expect("opens").fresh);
        assert_eq!(Journal::peek(&path).expect("reads"), Some(spec(5)));
    }

    #[test]
    fn a_journal_torn_at_any_byte_keeps_the_records_before_it_and_goes_on() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("j");
        let mut opened = Journal::open(&path, &spec(9)).expect("opens");
        for piece in 0..3 {
            opened.journal.append(PieceIndex(piece), &evidence(piece as u8)).expect("appends");
        }
        let whole = fs::read(&path).expect("reads");
        assert_eq!(whole.len(), HEADER + 4 * RECORD);
        for length in 0..=whole.len() {
            fs::write(&path, &whole[..length]).expect("writes");
            let mut torn = Journal::open(&path, &spec(9)).expect("opens");
            // The first record is the boot's mark.
            let kept = length.saturating_sub(HEADER + RECORD) / RECORD;
            assert_eq!(torn.proven.len(), kept, "torn at {length}");
            assert_eq!(torn.fresh, length < HEADER, "torn at {length}");
            torn.journal.append(PieceIndex(8), &evidence(8)).expect("appends");
            let again = Journal::open(&path, &spec(9)).expect("opens");
            assert_eq!(again.proven.len(), kept + 1, "torn at {length}");
        }
    }

    #[test]
    fn a_record_cut_short_by_a_full_disk_is_overwritten_by_the_next() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("j");
        let mut opened = Journal::open(&path, &spec(9)).expect("opens");
        opened.journal.append(PieceIndex(0), &evidence(0)).expect("appends");
        // What a write that stopped half-way leaves behind.
        opened.journal.file.write_all_at(&[0xff; RECORD / 2], opened.journal.end).expect("writes");
        opened.journal.append(PieceIndex(1), &evidence(1)).expect("appends");
        assert_eq!(Journal::open(&path, &spec(9)).expect("opens").proven.len(), 2);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic_and_claim_only_pieces_that_exist(
            body in proptest::collection::vec(any::<u8>(), 0..400),
            headed: bool,
        ) {
            let mut bytes = if headed { write_header(&spec(5)) } else { Vec::new() };
            bytes.extend(body);
            if let Ok(parsed) = parse(bytes.as_slice(), &spec(5), BOOT).expect("memory reads") {
                prop_assert!(parsed.end <= bytes.len() as u64);
                prop_assert!(parsed.claims.keys().all(|&piece| piece < 5));
            }
        }

        #[test]
        fn a_flipped_bit_never_changes_a_claim(
            pieces in proptest::collection::vec((0u32..5, any::<u8>()), 1..8),
            bit in any::<prop::sample::Index>(),
        ) {
            let mut bytes = write_header(&spec(5));
            write_record(&mut bytes, BOOT_MARK, &Evidence([1; 64]));
            for &(piece, byte) in &pieces {
                write_record(&mut bytes, piece, &evidence(byte));
            }
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(parsed) = parse(bytes.as_slice(), &spec(5), BOOT).expect("memory reads") {
                for (piece, claim) in &parsed.claims {
                    let byte = claim.evidence.0[0];
                    prop_assert!(pieces.contains(&(*piece, byte)));
                    prop_assert_eq!(claim.evidence, evidence(byte));
                }
            }
        }
    }
}
