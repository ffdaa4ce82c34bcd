//! Blobs that lie in files of others: a symbolic link under `blobs/` leads to each.
//!
//! The file is hashed once. From then on it must be the same file, not changed since: its inode's last change says so,
//! which nobody can set as they like.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, symlink},
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use hash::Digest;

use crate::{disk, error::BorrowError};

/// By how much a file's last change must lie before it is hashed, as file systems keep times of whole seconds.
const SETTLED: Duration = Duration::from_secs(2);
/// How many threads hash a file.
const THREADS: usize = 2;
/// How many files of others are being opened at once: their disk may hang, and then each of these does.
const AT_ONCE: usize = 8;

/// Which file a blob lies in, and as of when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lent {
    device: u64,
    inode: u64,
    /// In seconds and nanoseconds since 1970.
    changed: (i64, i64),
}

impl Lent {
    fn of(file: &Metadata) -> Self {
        Self { device: file.dev(), inode: file.ino(), changed: (file.ctime(), file.ctime_nsec()) }
    }

    pub(crate) fn into_row(self) -> (u64, u64, i64, i64) {
        (self.device, self.inode, self.changed.0, self.changed.1)
    }

    /// Whether a file is this one, as it was.
    pub(crate) fn is(self, file: &File) -> io::Result<bool> {
        Ok(self == Self::of(&file.metadata()?))
    }
}

impl From<(u64, u64, i64, i64)> for Lent {
    fn from((device, inode, seconds, nanoseconds): (u64, u64, i64, i64)) -> Self {
        Self { device, inode, changed: (seconds, nanoseconds) }
    }
}

/// Opens a file that may be anything by now, or hang. Only so many do at once; for more there is
/// [`io::ErrorKind::WouldBlock`].
pub(crate) fn open(path: &Path, opening: &AtomicUsize) -> io::Result<File> {
    struct Place<'a>(&'a AtomicUsize);
    impl Drop for Place<'_> {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::AcqRel);
        }
    }
    let before = opening.fetch_add(1, Ordering::AcqRel);
    let _place = Place(opening);
    if before >= AT_ONCE {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    // A pipe in its place would keep us waiting for somebody to write.
    OpenOptions::new().read(true).custom_flags(NONBLOCK).open(path)
}

#[allow(clippy::cast_possible_wrap, reason = "a flag of the system, which has its low bits only")]
const NONBLOCK: i32 = rustix::fs::OFlags::NONBLOCK.bits() as i32;

/// Makes `link` lead to a file, and proves that the file is the blob. Returns its size, which file it is, and the info
/// dictionary. The link stays in any case.
pub(crate) fn prove(
    digest: &Digest,
    path: &Path,
    link: &Path,
    opening: &AtomicUsize,
) -> Result<(u64, Lent, Bytes), BorrowError> {
    let fail = |what, path: &Path, error| BorrowError::Io { what, path: path.to_owned(), error };
    let path: PathBuf = std::path::absolute(path).map_err(|error| fail("finding", path, error))?;
    // What a process that was killed has left.
    disk::remove(link).map_err(|error| fail("removing", link, error))?;
    symlink(&path, link).map_err(|error| fail("linking", link, error))?;
    let made = fs::symlink_metadata(link).map_err(|error| fail("reading", link, error))?;
    let look = |file: &File| {
        let meta = file.metadata().map_err(|error| fail("reading", &path, error))?;
        let changed = UNIX_EPOCH + Duration::from_secs(meta.ctime().unsigned_abs());
        let age = made.modified().ok().and_then(|made| made.duration_since(changed).ok());
        let settled = meta.is_file() && age.is_some_and(|age| age >= SETTLED);
        if settled { Ok(meta) } else { Err(BorrowError::Unsettled(path.clone())) }
    };
    let file = open(link, opening).map_err(|error| fail("opening", &path, error))?;
    let before = look(&file)?;
    let torrent = metainfo::blob_torrent(&file, before.len(), THREADS)
        .map_err(|error| fail("reading", &path, error))?;
    if torrent.digest != *digest {
        return Err(BorrowError::Digest { path, expected: *digest, found: torrent.digest });
    }
    let after = look(&file)?;
    if Lent::of(&before) != Lent::of(&after) || before.len() != after.len() {
        return Err(BorrowError::Unsettled(path));
    }
    Ok((after.len(), Lent::of(&after), torrent.info_bytes))
}
