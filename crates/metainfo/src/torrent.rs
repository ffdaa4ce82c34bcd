//! A torrent file: the info dictionary and what stands around it.

use bencode::{DecodeError, Dict, Options, Value};
use bytes::Bytes;

use crate::{BlobError, Info, InfoHash, MAX_FILES, MAX_PIECE_LENGTH, MAX_PIECES, Magnet};

/// The most trackers and the most web seeds that are read from one torrent; more are ignored.
const MAX_URLS: usize = 200;
/// The longest URL that is read, in bytes; longer ones are ignored.
const MAX_URL_LENGTH: usize = 2048;
/// The longest comment or creator that is read, in bytes; longer ones are ignored.
const MAX_TEXT_LENGTH: usize = 64 * 1024;
/// More bencode values than this are no torrent.
const MAX_ITEMS: u32 = 5_000_000;

/// A torrent (BEP 3).
#[derive(Clone, Debug)]
pub struct Torrent {
    /// What the info dictionary says.
    pub info: Info,
    /// The SHA-1 of the info dictionary.
    pub info_hash: InfoHash,
    /// The info dictionary as it stood.
    pub info_bytes: Bytes,
    /// Tiers of tracker URLs (BEP 12); a lone `announce` (BEP 3) is a tier of its own, in front.
    pub trackers: Vec<Vec<String>>,
    /// `url-list` (BEP 19).
    pub web_seeds: Vec<String>,
    /// `comment`
    pub comment: Option<String>,
    /// `created by`: the program that made the torrent.
    pub created_by: Option<String>,
    /// `creation date`, in seconds since 1970 (UTC).
    pub creation_date: Option<i64>,
}

impl Torrent {
    /// Reads a torrent file. Keys out of order are forgiven in v1 torrents, as old programs wrote them.
    ///
    /// # Errors
    /// What is wrong with the torrent.
    pub fn parse(file: &[u8]) -> Result<Self, TorrentError> {
        // Some programs end the file with a line break.
        let root = decode(file.trim_ascii_end())?.as_dict().ok_or(TorrentError::NotADictionary)?;
        let info_value =
            root.get(b"info").filter(|v| v.as_dict().is_some()).ok_or(TorrentError::MissingInfo)?;
        let mut torrent = Self::from_info(Bytes::copy_from_slice(info_value.raw()))?;
        torrent.trackers = trackers(root);
        torrent.web_seeds = web_seeds(root);
        torrent.comment = text(root, b"comment");
        torrent.created_by = text(root, b"created by");
        torrent.creation_date = root.get(b"creation date").and_then(|v| v.as_integer());
        Ok(torrent)
    }

    /// A torrent from an info dictionary alone, as a magnet link or the directory leads to.
    ///
    /// # Errors
    /// What is wrong with the info dictionary.
    pub fn from_info(info_bytes: Bytes) -> Result<Self, TorrentError> {
        let info_hash = InfoHash::from_bytes(hash::sha1(&info_bytes));
        Ok(Self {
            info: Info::read(decode(&info_bytes)?, info_hash, &info_bytes)?,
            info_hash,
            info_bytes,
            trackers: Vec::new(),
            web_seeds: Vec::new(),
            comment: None,
            created_by: None,
            creation_date: None,
        })
    }

    /// The magnet link that leads to this torrent (BEP 9).
    pub fn magnet(&self) -> Magnet {
        Magnet {
            name: Some(self.info.name.clone()),
            length: Some(self.info.geometry.total()),
            trackers: self.trackers.iter().flatten().cloned().collect(),
            web_seeds: self.web_seeds.clone(),
            ..Magnet::new(self.info_hash)
        }
    }

    /// The torrent file. Canonical, but for an info dictionary that was not.
    pub fn encode(&self) -> Vec<u8> {
        bencode::encode_dict(|torrent| {
            if let Some(first) = self.trackers.iter().flatten().next() {
                torrent.bytes(b"announce", first.as_bytes());
            }
            if self.trackers.iter().flatten().nth(1).is_some() {
                torrent.list(b"announce-list", |tiers| {
                    for tier in self.trackers.iter().filter(|tier| !tier.is_empty()) {
                        tiers
                            .item()
                            .list(|urls| tier.iter().for_each(|url| urls.item().bytes(url.as_bytes())));
                    }
                });
            }
            if let Some(comment) = &self.comment {
                torrent.bytes(b"comment", comment.as_bytes());
            }
            if let Some(created_by) = &self.created_by {
                torrent.bytes(b"created by", created_by.as_bytes());
            }
            if let Some(date) = self.creation_date {
                torrent.integer(b"creation date", date);
            }
            torrent.key(b"info").verbatim(&self.info_bytes);
            if !self.web_seeds.is_empty() {
                torrent.list(b"url-list", |urls| {
                    self.web_seeds.iter().for_each(|url| urls.item().bytes(url.as_bytes()));
                });
            }
        })
    }
}

fn decode(bytes: &[u8]) -> Result<Value<'_>, TorrentError> {
    Ok(Options::default().max_items(MAX_ITEMS).any_key_order().decode(bytes)?)
}

fn url(value: Value<'_>) -> Option<String> {
    let url = value.as_str()?.trim();
    (!url.is_empty() && url.len() <= MAX_URL_LENGTH).then(|| url.to_owned())
}

fn trackers(root: Dict<'_>) -> Vec<Vec<String>> {
    let mut room = MAX_URLS;
    let mut tiers: Vec<Vec<String>> = Vec::new();
    for tier in root.get(b"announce-list").and_then(|v| v.as_list()).into_iter().flatten() {
        // Some programs write a flat list of URLs.
        let urls: Vec<String> = match tier.as_list() {
            Some(urls) => urls.filter_map(url).take(room).collect(),
            None => url(tier).into_iter().take(room).collect(),
        };
        room -= urls.len();
        if !urls.is_empty() {
            tiers.push(urls);
        }
    }
    if let Some(announce) = root.get(b"announce").and_then(url)
        && room > 0
        && !tiers.iter().flatten().any(|known| *known == announce)
    {
        tiers.insert(0, vec![announce]);
    }
    tiers
}

fn web_seeds(root: Dict<'_>) -> Vec<String> {
    let Some(list) = root.get(b"url-list") else { return Vec::new() };
    let mut urls: Vec<String> = Vec::new();
    for seed in list.as_list().into_iter().flatten().chain(std::iter::once(list)).filter_map(url) {
        if urls.len() < MAX_URLS && !urls.contains(&seed) {
            urls.push(seed);
        }
    }
    urls
}

fn text(root: Dict<'_>, key: &[u8]) -> Option<String> {
    let bytes = root.get(key)?.as_bytes()?;
    (bytes.len() <= MAX_TEXT_LENGTH).then(|| String::from_utf8_lossy(bytes).into_owned())
}

/// Why a torrent cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TorrentError {
    /// Not bencode.
    #[error("not a torrent: {0}")]
    Bencode(#[from] DecodeError),
    /// Some other bencode value.
    #[error("not a torrent: the file is not a dictionary")]
    NotADictionary,
    /// No `info`, or not a dictionary.
    #[error("the torrent has no info dictionary")]
    MissingInfo,
    /// No `name`, or not a string.
    #[error("the torrent has no name")]
    MissingName,
    /// No `piece length`, or one that is no number from 1 to [`MAX_PIECE_LENGTH`].
    #[error("the torrent has no piece length, or one that is not from 1 to {MAX_PIECE_LENGTH}")]
    BadPieceLength,
    /// No `pieces`, or not a string.
    #[error("the torrent has no piece hashes")]
    MissingPieces,
    /// `pieces` is cut off.
    #[error("the torrent's piece hashes are {0} bytes long, which is no multiple of 20")]
    UnalignedPieces(usize),
    /// More pieces than Longshore handles.
    #[error("the torrent has too many pieces: {0}, where at most {MAX_PIECES} are supported")]
    TooManyPieces(u64),
    /// `pieces` does not fit the files.
    #[error("the torrent has {found} piece hashes, but its files have {expected} pieces")]
    PieceCount {
        /// By the files' lengths.
        expected: u64,
        /// In `pieces`.
        found: u64,
    },
    /// A length is missing, negative, or too large, or the whole torrent is empty.
    #[error("the torrent has a bad length for {0}")]
    BadLength(String),
    /// `files` is empty or no list.
    #[error("the torrent has no files")]
    NoFiles,
    /// More files than Longshore handles.
    #[error("the torrent has more than {MAX_FILES} files")]
    TooManyFiles,
    /// A file has no `path`.
    #[error("the torrent's file number {0} has no path")]
    MissingPath(usize),
    /// A path that is not a list of strings, or unreasonably deep.
    #[error("the torrent's file number {0} has a bad path")]
    BadPath(usize),
    /// Many files with the same path.
    #[error("the torrent has too many duplicate names: {0}")]
    TooManyDuplicates(String),
    /// Only SHA-256 trees (BEP 52).
    #[error("the torrent is v2 only: Longshore reads v1 torrents and hybrids")]
    V2Only,
    /// A hybrid whose halves describe different content.
    #[error("the hybrid torrent's v1 and v2 files differ")]
    HybridMismatch,
    /// A hybrid's `file tree` breaks BEP 52.
    #[error("the hybrid torrent has a bad file tree")]
    BadFileTree,
    /// A hybrid's file has no root of its hash tree.
    #[error("the hybrid torrent has a file without pieces root")]
    MissingPiecesRoot,
    /// A hybrid's piece length breaks BEP 52.
    #[error("the hybrid torrent's piece length {0} is not a power of two of at least 16 KiB")]
    HybridPieceLength(u32),
    /// The torrent says that it is a blob's, and is not.
    #[error("not a blob's torrent: {0}")]
    Blob(#[from] BlobError),
}
