//! The info dictionary: names, files, pieces.

use std::path::PathBuf;

use bencode::{Dict, Value};
use bytes::Bytes;

use crate::{
    BlobProof, Geometry, InfoHash, PieceIndex, TorrentError, hybrid,
    path::{self, Distinct},
};

/// The most files of a torrent that is read.
pub const MAX_FILES: usize = 500_000;
/// The most pieces of a torrent that is read.
pub const MAX_PIECES: u64 = 1 << 21;
/// The longest pieces of a torrent that is read, in bytes.
pub const MAX_PIECE_LENGTH: u32 = 512 * 1024 * 1024;
/// The deepest path of a torrent that is read.
const MAX_PATH_DEPTH: usize = 100;

/// What an info dictionary says (BEP 3, 27, 47).
#[derive(Clone, Debug)]
pub struct Info {
    /// The file's name, or the folder's that holds the files; one safe path component.
    pub name: String,
    /// How the content is cut into pieces.
    pub geometry: Geometry,
    /// All files in order, pad files and symlinks too; together they cover the content without gaps.
    pub files: Vec<FileEntry>,
    /// Peers may come from the torrent's trackers only (BEP 27).
    pub private: bool,
    /// Whether the files lie in a folder of the torrent's name.
    pub multi_file: bool,
    /// What proves the pieces and the digest together, where this is a blob's torrent.
    pub blob: Option<BlobProof>,
    pieces: Bytes,
}

/// A file of a torrent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileEntry {
    /// Safe path components: below the torrent's name where that is a folder, else just the name.
    pub path: Vec<String>,
    /// In bytes; 0 for a symlink.
    pub length: u64,
    /// Where the file begins, in bytes from the torrent's first.
    pub offset: u64,
    /// What it is.
    pub kind: FileKind,
    /// Whether it is a program (BEP 47).
    pub executable: bool,
}

/// What a file of a torrent is (BEP 47).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FileKind {
    /// A file.
    Regular,
    /// Zeros that fill a piece up, and are not written.
    Pad,
    /// A link to another path of this torrent, as safe components from the torrent's folder.
    Symlink(Vec<String>),
}

/// A part of a file that a range of the torrent's bytes covers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// An index into [`Info::files`].
    pub file: usize,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// How long, in bytes; never 0.
    pub length: u64,
}

impl Info {
    /// The SHA-1 of a piece; `None` past the end.
    pub fn piece_hash(&self, piece: PieceIndex) -> Option<[u8; 20]> {
        let (hashes, _) = self.pieces.as_chunks();
        hashes.get(piece.as_usize()).copied()
    }

    /// Which parts of which files the `length` bytes from `offset` cover, in order. Pad files have parts too.
    pub fn spans(&self, offset: u64, length: u64) -> impl Iterator<Item = Span> + '_ {
        let end = offset.saturating_add(length).min(self.geometry.total());
        let first = self.files.partition_point(|file| file.offset + file.length <= offset);
        let files = self.files.iter().enumerate().skip(first);
        files.take_while(move |(_, file)| file.offset < end).filter_map(move |(index, file)| {
            let from = offset.max(file.offset);
            let to = end.min(file.offset + file.length);
            let length = to.checked_sub(from).filter(|&length| length > 0)?;
            Some(Span { file: index, offset: from - file.offset, length })
        })
    }

    /// Where a file lies below the destination folder; joined to any folder it stays inside. `None` past the end.
    pub fn relative_path(&self, file: usize) -> Option<PathBuf> {
        let components = &self.files.get(file)?.path;
        let folder = self.multi_file.then_some(&self.name);
        Some(folder.into_iter().chain(components).collect())
    }

    /// Where a symlink leads, below the destination folder; `None` for anything else.
    pub fn symlink_target(&self, file: usize) -> Option<PathBuf> {
        match &self.files.get(file)?.kind {
            FileKind::Symlink(target) => Some(std::iter::once(&self.name).chain(target).collect()),
            _ => None,
        }
    }

    /// `value` must have been decoded from `bytes`, of which parts are kept.
    pub(crate) fn read(value: Value<'_>, info_hash: InfoHash, bytes: &Bytes) -> Result<Self, TorrentError> {
        let fields = Fields::of(value.as_dict().ok_or(TorrentError::MissingInfo)?);
        if fields.file_tree.is_some() {
            // BEP 52 has no old programs to forgive.
            bencode::Options::default().max_items(u32::MAX).decode(value.raw())?;
        }
        let name = fields.name.and_then(|v| v.as_bytes()).ok_or(TorrentError::MissingName)?;
        let name = path::component(name).unwrap_or_else(|| info_hash.to_string());
        if fields.is_v2_only() {
            return Err(TorrentError::V2Only);
        }
        let piece_length = fields
            .piece_length
            .and_then(|v| u32::try_from(v.as_integer()?).ok())
            .filter(|length| (1..=MAX_PIECE_LENGTH).contains(length))
            .ok_or(TorrentError::BadPieceLength)?;

        let files = match (fields.files, fields.length) {
            (Some(list), _) => read_files(list)?,
            (None, length) => vec![read_single(&name, length, fields.attr, fields.symlink_path)?],
        };
        if let Some(tree) = fields.file_tree {
            hybrid::check(tree, fields.name, fields.files, fields.length, piece_length)?;
        }
        let total = files.last().map_or(0, |file| file.offset + file.length);
        if total == 0 && !fields.claims_blob() {
            return Err(TorrentError::BadLength("the whole".to_owned()));
        }
        let expected = total.div_ceil(u64::from(piece_length));
        if expected > MAX_PIECES {
            return Err(TorrentError::TooManyPieces(expected));
        }
        let geometry = Geometry::new(total, piece_length).ok_or(TorrentError::TooManyPieces(expected))?;

        let pieces = fields.pieces.and_then(|v| v.as_bytes()).ok_or(TorrentError::MissingPieces)?;
        if !pieces.len().is_multiple_of(20) {
            return Err(TorrentError::UnalignedPieces(pieces.len()));
        }
        let found = (pieces.len() / 20) as u64;
        if found != expected {
            return Err(TorrentError::PieceCount { expected, found });
        }
        let blob = if fields.claims_blob() {
            Some(BlobProof::read(value, fields.sha256, fields.sha256_states, geometry, bytes)?)
        } else {
            None
        };
        Ok(Self {
            name,
            geometry,
            files,
            private: fields.private.and_then(|v| v.as_integer()) == Some(1),
            multi_file: fields.files.is_some(),
            blob,
            pieces: bytes.slice_ref(pieces),
        })
    }
}

/// The keys that matter, found in one walk.
#[derive(Default)]
struct Fields<'a> {
    attr: Option<Value<'a>>,
    file_tree: Option<Value<'a>>,
    files: Option<Value<'a>>,
    length: Option<Value<'a>>,
    meta_version: Option<Value<'a>>,
    name: Option<Value<'a>>,
    piece_length: Option<Value<'a>>,
    pieces: Option<Value<'a>>,
    private: Option<Value<'a>>,
    sha256: Option<Value<'a>>,
    sha256_states: Option<Value<'a>>,
    symlink_path: Option<Value<'a>>,
}

impl<'a> Fields<'a> {
    fn of(dict: Dict<'a>) -> Self {
        let mut fields = Self::default();
        let mut utf8_name = None;
        for (key, value) in dict {
            let field = match key {
                b"attr" => &mut fields.attr,
                b"file tree" => &mut fields.file_tree,
                b"files" => &mut fields.files,
                b"length" => &mut fields.length,
                b"meta version" => &mut fields.meta_version,
                b"name" => &mut fields.name,
                b"name.utf-8" => &mut utf8_name,
                b"piece length" => &mut fields.piece_length,
                b"pieces" => &mut fields.pieces,
                b"private" => &mut fields.private,
                b"sha256" => &mut fields.sha256,
                b"sha256 states" => &mut fields.sha256_states,
                b"symlink path" => &mut fields.symlink_path,
                _ => continue,
            };
            *field = Some(value);
        }
        // Written beside a name in some local encoding.
        fields.name = utf8_name.filter(|name| name.as_str().is_some()).or(fields.name);
        fields
    }

    fn claims_blob(&self) -> bool {
        self.sha256.is_some() || self.sha256_states.is_some()
    }

    fn is_v2_only(&self) -> bool {
        let v2 = self.file_tree.is_some() || self.meta_version.is_some();
        v2 && self.pieces.is_none() && self.files.is_none() && self.length.is_none()
    }
}

fn read_length(length: Option<Value<'_>>, what: impl FnOnce() -> String) -> Result<u64, TorrentError> {
    // Files beyond 2^48 bytes do not exist; ruling them out keeps every sum below in range.
    const MOST: u64 = 1 << 48;
    let length = length.and_then(|v| v.as_unsigned()).filter(|&length| length <= MOST);
    length.ok_or_else(|| TorrentError::BadLength(what()))
}

fn read_single(
    name: &str,
    length: Option<Value<'_>>,
    attr: Option<Value<'_>>,
    target: Option<Value<'_>>,
) -> Result<FileEntry, TorrentError> {
    let attributes = attr.and_then(|v| v.as_bytes()).unwrap_or_default();
    let kind = read_kind(attributes, target, 0)?;
    let length = match kind {
        FileKind::Symlink(_) => 0,
        _ => read_length(length, || format!("`{name}`"))?,
    };
    let executable = attributes.contains(&b'x');
    Ok(FileEntry { path: vec![name.to_owned()], length, offset: 0, kind, executable })
}

fn read_files(list: Value<'_>) -> Result<Vec<FileEntry>, TorrentError> {
    let list = list.as_list().ok_or(TorrentError::NoFiles)?;
    let mut files: Vec<FileEntry> = Vec::new();
    let mut offset = 0u64;
    for (index, file) in list.enumerate() {
        if index >= MAX_FILES {
            return Err(TorrentError::TooManyFiles);
        }
        let file = read_file(index, file, offset)?;
        offset =
            offset.checked_add(file.length).ok_or_else(|| TorrentError::BadLength("the whole".to_owned()))?;
        files.push(file);
    }
    if files.is_empty() {
        return Err(TorrentError::NoFiles);
    }
    // Pad files are never written, so their names need not differ.
    let mut distinct = Distinct::default();
    for file in files.iter().filter(|file| file.kind != FileKind::Pad) {
        distinct.add(&file.path);
    }
    for file in files.iter_mut().filter(|file| file.kind != FileKind::Pad) {
        distinct.settle(&mut file.path).map_err(TorrentError::TooManyDuplicates)?;
    }
    Ok(files)
}

fn read_file(index: usize, file: Value<'_>, offset: u64) -> Result<FileEntry, TorrentError> {
    let dict = file.as_dict().ok_or(TorrentError::MissingPath(index))?;
    let (mut length, mut raw_path, mut utf8_path, mut attr, mut target) = (None, None, None, None, None);
    for (key, value) in dict {
        match key {
            b"length" => length = Some(value),
            b"path" => raw_path = Some(value),
            b"path.utf-8" => utf8_path = Some(value),
            b"attr" => attr = Some(value),
            b"symlink path" => target = Some(value),
            _ => {}
        }
    }
    let attributes = attr.and_then(|v| v.as_bytes()).unwrap_or_default();
    let mut kind = read_kind(attributes, target, index)?;
    let length = match kind {
        FileKind::Symlink(_) => 0,
        _ => read_length(length, || format!("file number {index}"))?,
    };
    let utf8_path =
        utf8_path.filter(|v| v.as_list().is_some_and(|mut l| l.all(|part| part.as_str().is_some())));
    let path = match utf8_path.or(raw_path) {
        Some(path) => read_path(path, index)?,
        None if kind == FileKind::Pad => vec![".pad".to_owned(), length.to_string()],
        None => return Err(TorrentError::MissingPath(index)),
    };
    // How BitComet marked its pad files before BEP 47.
    if path.last().is_some_and(|last| last.starts_with("_____padding_file_")) {
        kind = FileKind::Pad;
    }
    Ok(FileEntry { path, length, offset, kind, executable: attributes.contains(&b'x') })
}

fn read_kind(attributes: &[u8], target: Option<Value<'_>>, index: usize) -> Result<FileKind, TorrentError> {
    if attributes.contains(&b'l') {
        return Ok(FileKind::Symlink(read_path(target.ok_or(TorrentError::BadPath(index))?, index)?));
    }
    Ok(if attributes.contains(&b'p') { FileKind::Pad } else { FileKind::Regular })
}

fn read_path(path: Value<'_>, index: usize) -> Result<Vec<String>, TorrentError> {
    let bad = || TorrentError::BadPath(index);
    let mut components = Vec::new();
    for (depth, component) in path.as_list().ok_or_else(bad)?.enumerate() {
        if depth >= MAX_PATH_DEPTH {
            return Err(bad());
        }
        components.extend(path::component(component.as_bytes().ok_or_else(bad)?));
    }
    if components.is_empty() {
        components.push("_".to_owned());
    }
    Ok(components)
}
