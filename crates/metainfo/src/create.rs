//! Making torrents from files and folders, on all cores.

mod files;
mod hashing;

use std::{io, path::PathBuf};

use bytes::Bytes;

use crate::{BlobError, MAX_FILES, MAX_PIECE_LENGTH, MAX_PIECES, Torrent, TorrentError, path};
use files::Source;

/// What to make of a file or folder.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// In bytes, a power of two from 16 KiB to [`MAX_PIECE_LENGTH`]; by default [`piece_length_for`] the size.
    pub piece_length: Option<u32>,
    /// Peers may come from the trackers only (BEP 27).
    pub private: bool,
    /// Another name than the file's or folder's own.
    pub name: Option<String>,
    /// Make a blob's torrent (see [`crate::BlobProof`]) from a single file. Its name, piece length and privacy follow
    /// from the blob, so none of them may be given.
    pub blob: bool,
    /// Tiers of tracker URLs (BEP 12).
    pub trackers: Vec<Vec<String>>,
    /// Web seeds (BEP 19).
    pub web_seeds: Vec<String>,
    /// For people.
    pub comment: Option<String>,
    /// The program that makes the torrent.
    pub created_by: Option<String>,
    /// In seconds since 1970 (UTC); `None` leaves it out, so that the same content makes the same torrent file.
    pub creation_date: Option<i64>,
    /// What to do about symlinks in a folder.
    pub symlinks: Symlinks,
    /// How many threads hash; 0 for one per core.
    pub threads: usize,
}

/// What to do about symlinks in a folder. They are never followed, as they may lead anywhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Symlinks {
    /// A symlink is an error.
    #[default]
    Refuse,
    /// Leave them out.
    Skip,
}

/// Makes a torrent from a file or folder. The order of files is that of their paths, component by component.
///
/// `progress` is told, from any thread, how many bytes are hashed so far and how many there are. Blocks until done.
///
/// # Errors
/// What failed, and on which path; also if a file changed meanwhile.
pub fn create(
    path: &std::path::Path,
    options: &Options,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<Torrent, CreateError> {
    let threads = match options.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    let source = Source::find(path, options.symlinks)?;
    let info_bytes = if options.blob {
        blob_info(&source, options, threads, progress)?
    } else {
        plain_info(&source, options, threads, progress)?
    };
    source.check_unchanged()?;
    let mut torrent = Torrent::from_info(info_bytes)?;
    torrent.trackers.clone_from(&options.trackers);
    torrent.web_seeds.clone_from(&options.web_seeds);
    torrent.comment.clone_from(&options.comment);
    torrent.created_by.clone_from(&options.created_by);
    torrent.creation_date = options.creation_date;
    Ok(torrent)
}

/// The piece length that [`create`] chooses for so many bytes: a power of two from 16 KiB to 16 MiB, such that there
/// are about 1500 pieces.
pub fn piece_length_for(total: u64) -> u32 {
    const LEAST: u64 = 16 * 1024;
    const MOST: u64 = 16 * 1024 * 1024;
    (total / 2048).checked_next_power_of_two().unwrap_or(MOST).clamp(LEAST, MOST) as u32
}

fn plain_info(
    source: &Source,
    options: &Options,
    threads: usize,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<Bytes, CreateError> {
    let name = options.name.as_deref().unwrap_or(&source.name);
    if path::component(name.as_bytes()).as_deref() != Some(name) {
        return Err(CreateError::BadName(PathBuf::from(name)));
    }
    let piece_length = options.piece_length.unwrap_or_else(|| piece_length_for(source.total()));
    if !piece_length.is_power_of_two() || !(16 * 1024..=MAX_PIECE_LENGTH).contains(&piece_length) {
        return Err(CreateError::PieceLength(piece_length));
    }
    if source.total() == 0 {
        return Err(CreateError::Empty(source.root.clone()));
    }
    let geometry = crate::Geometry::new(source.total(), piece_length)
        .filter(|geometry| u64::from(geometry.piece_count()) <= MAX_PIECES)
        .ok_or(CreateError::TooManyPieces)?;
    let hashes = hashing::hash_pieces(source, geometry, threads, progress)?;
    Ok(Bytes::from(bencode::encode_dict(|info| {
        if source.is_folder {
            info.list(b"files", |list| {
                for file in &source.files {
                    list.item().dict(|entry| {
                        entry.unsigned(b"length", file.length);
                        entry.list(b"path", |parts| {
                            file.components.iter().for_each(|part| parts.item().bytes(part.as_bytes()));
                        });
                    });
                }
            });
        } else {
            info.unsigned(b"length", source.total());
        }
        info.bytes(b"name", name.as_bytes());
        info.unsigned(b"piece length", piece_length.into());
        info.bytes(b"pieces", hashes.as_flattened());
        if options.private {
            info.integer(b"private", 1);
        }
    })))
}

fn blob_info(
    source: &Source,
    options: &Options,
    threads: usize,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<Bytes, CreateError> {
    let fixed = [
        ("a name", options.name.is_some()),
        ("a piece length", options.piece_length.is_some()),
        ("the private flag", options.private),
    ];
    if let Some((what, _)) = fixed.into_iter().find(|(_, given)| *given) {
        return Err(CreateError::BlobOption(what));
    }
    let [file] = source.files.as_slice() else { return Err(CreateError::BlobFolder(source.root.clone())) };
    if source.is_folder {
        return Err(CreateError::BlobFolder(source.root.clone()));
    }
    let opened = file.open()?;
    let torrent =
        crate::blob_torrent(&opened, file.length, threads).map_err(|error| file.read_error(error))?;
    progress(file.length, file.length);
    Ok(torrent.info_bytes)
}

/// Why a torrent could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    /// The operating system refused.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Someone writes to it.
    #[error("{} changed while it was hashed; make the torrent again when it is at rest", .0.display())]
    Changed(PathBuf),
    /// And symlinks are not to be skipped.
    #[error("{} is a symlink; give the folder without it, or have symlinks skipped", .0.display())]
    Symlink(PathBuf),
    /// A socket, a device, a pipe.
    #[error("{} is neither a file nor a folder", .0.display())]
    NotAFile(PathBuf),
    /// A name that readers of the torrent would change.
    #[error("the name of {} cannot stand in a torrent: it must be UTF-8 of at most 240 bytes, without control characters and backslashes", .0.display())]
    BadName(PathBuf),
    /// Folders in one another without end.
    #[error("{} lies too deep in folders", .0.display())]
    TooDeep(PathBuf),
    /// More files than a torrent that we would read ourselves.
    #[error("{} has more than {MAX_FILES} files", .0.display())]
    TooManyFiles(PathBuf),
    /// Nothing to share.
    #[error("{} holds no bytes, so there is nothing to make a torrent of", .0.display())]
    Empty(PathBuf),
    /// Not a power of two, or out of range.
    #[error("a piece length of {0} bytes is not a power of two from 16 KiB to 512 MiB")]
    PieceLength(u32),
    /// The piece length is too small for the content.
    #[error("there would be more than {MAX_PIECES} pieces; choose longer ones")]
    TooManyPieces,
    /// A blob is one file.
    #[error("{} is a folder, but a blob is one file", .0.display())]
    BlobFolder(PathBuf),
    /// A blob's torrent has no choices.
    #[error("a blob's torrent follows from the blob alone, so {0} cannot be given")]
    BlobOption(&'static str),
    /// Larger than a blob's torrent can be.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// What we made is not what we read: a mistake in Longshore.
    #[error("the torrent that was made cannot be read: {0}")]
    Unreadable(#[from] TorrentError),
    /// A hashing thread died.
    #[error("a hashing thread ended before its time")]
    ThreadDied,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs,
        os::unix::fs::symlink,
        path::Path,
        sync::atomic::{AtomicU64, Ordering},
    };

    fn quiet(path: &Path, options: &Options) -> Result<Torrent, CreateError> {
        create(path, options, &|_, _| {})
    }

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().join("content");
        fs::create_dir_all(root.join("b/inner")).expect("folders");
        fs::write(root.join("b/inner/z"), vec![1; 40_000]).expect("written");
        fs::write(root.join("b.txt"), vec![2; 10_000]).expect("written");
        fs::write(root.join("a"), b"").expect("written");
        fs::write(root.join("b/last"), vec![3; 70_000]).expect("written");
        folder
    }

    #[test]
    fn a_folder_is_hashed_in_the_order_of_its_paths() {
        let folder = folder();
        let root = folder.path().join("content");
        for threads in [1, 3] {
            let hashed = AtomicU64::new(0);
            let options =
                Options { threads, piece_length: Some(16_384), private: true, ..Options::default() };
            let torrent = create(&root, &options, &|done, total| {
                assert_eq!(total, 120_000);
                hashed.fetch_max(done, Ordering::Relaxed);
            })
            .expect("made");
            assert_eq!(hashed.load(Ordering::Relaxed), 120_000);
            let info = &torrent.info;
            assert_eq!((info.name.as_str(), info.private, info.multi_file), ("content", true, true));
            let paths: Vec<String> = info.files.iter().map(|file| file.path.join("/")).collect();
            assert_eq!(paths, ["a", "b/inner/z", "b/last", "b.txt"]);
            let whole = [vec![1; 40_000], vec![3; 70_000], vec![2; 10_000]].concat();
            for (piece, data) in info.geometry.pieces().zip(whole.chunks(16_384)) {
                assert_eq!(info.piece_hash(piece), Some(hash::sha1(data)));
            }
        }
    }

    #[test]
    fn what_is_made_is_read_with_all_its_trimmings() {
        let folder = folder();
        let options = Options {
            name: Some("another".to_owned()),
            trackers: vec![vec!["http://a/announce".to_owned(), "http://b/announce".to_owned()]],
            web_seeds: vec!["http://w/".to_owned()],
            comment: Some("for people".to_owned()),
            created_by: Some("longshore".to_owned()),
            creation_date: Some(1_700_000_000),
            ..Options::default()
        };
        let made = quiet(&folder.path().join("content"), &options).expect("made");
        let read = Torrent::parse(&made.encode()).expect("read");
        assert_eq!(read.info_hash, made.info_hash);
        assert_eq!((read.trackers, read.web_seeds), (made.trackers, made.web_seeds));
        assert_eq!((read.comment, read.created_by), (made.comment, made.created_by));
        assert_eq!((read.creation_date, read.info.name.as_str()), (made.creation_date, "another"));
        assert_eq!(
            quiet(&folder.path().join("content"), &Options::default()).expect("made").creation_date,
            None
        );
    }

    #[test]
    fn a_blob_is_one_file_and_has_no_choices() {
        let folder = folder();
        let file = folder.path().join("content/b/last");
        let blob = Options { blob: true, ..Options::default() };
        let torrent = quiet(&file, &blob).expect("made");
        assert_eq!(torrent.info.blob.map(|blob| blob.digest()), Some(hash::Digest::of(&[3; 70_000])));
        let empty = quiet(&folder.path().join("content/a"), &blob).expect("made");
        assert_eq!(empty.info.geometry.piece_count(), 0);
        let private = Options { private: true, ..blob.clone() };
        assert!(matches!(quiet(&file, &private), Err(CreateError::BlobOption("the private flag"))));
        assert!(matches!(quiet(&folder.path().join("content"), &blob), Err(CreateError::BlobFolder(_))));
    }

    #[test]
    fn symlinks_are_refused_or_skipped_and_never_followed() {
        let folder = folder();
        let root = folder.path().join("content");
        symlink("/etc", root.join("link")).expect("linked");
        let refused = quiet(&root, &Options::default());
        assert!(matches!(refused, Err(CreateError::Symlink(path)) if path == root.join("link")));
        let skipped = Options { symlinks: Symlinks::Skip, ..Options::default() };
        assert_eq!(quiet(&root, &skipped).expect("made").info.files.len(), 4);
    }

    #[test]
    fn errors_name_the_path() {
        let folder = folder();
        let root = folder.path().join("content");
        let missing = quiet(&root.join("missing"), &Options::default()).expect_err("missing");
        assert!(missing.to_string().contains("content/missing"), "{missing}");
        let empty = quiet(&root.join("a"), &Options::default()).expect_err("empty");
        assert!(matches!(empty, CreateError::Empty(_)));
        fs::write(root.join("back\\slash"), b"x").expect("written");
        let bad = quiet(&root, &Options::default()).expect_err("a bad name");
        assert!(matches!(bad, CreateError::BadName(path) if path == root.join("back\\slash")));
        let odd = Options { piece_length: Some(100_000), ..Options::default() };
        assert!(matches!(quiet(&root.join("b.txt"), &odd), Err(CreateError::PieceLength(100_000))));
    }

    #[test]
    fn a_file_that_changes_while_it_is_hashed_makes_no_torrent() {
        let folder = folder();
        let root = folder.path().join("content");
        let touched = AtomicU64::new(0);
        let made = create(&root, &Options { threads: 1, ..Options::default() }, &|_, _| {
            if touched.fetch_add(1, Ordering::Relaxed) == 0 {
                fs::write(root.join("b/inner/z"), b"shorter").expect("written");
            }
        });
        assert!(matches!(made, Err(CreateError::Changed(path)) if path == root.join("b/inner/z")));
    }

    #[test]
    fn pieces_are_about_fifteen_hundred() {
        assert_eq!(piece_length_for(0), 16 << 10);
        assert_eq!(piece_length_for(1 << 30), 512 << 10);
        assert_eq!(piece_length_for(u64::MAX), 16 << 20);
    }
}
