//! Blobs that lie in files of others: a symbolic link under `blobs/` leads to each.
//!
//! The link is made before the file is hashed, and so its time says from when on the file must not have changed.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    os::unix::fs::{OpenOptionsExt as _, symlink},
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use hash::Digest;

use crate::{disk, error::BorrowError};

/// By how much a file's last change must lie before its link, as file systems keep times of whole seconds.
const SETTLED: Duration = Duration::from_secs(2);

/// How many threads hash a file.
const THREADS: usize = 2;

/// Whether a file is as it was when the link to it was made.
pub(crate) fn is_settled(link: &Metadata, file: &Metadata) -> bool {
    let (Ok(linked), Ok(changed)) = (link.modified(), file.modified()) else { return false };
    file.is_file() && linked.duration_since(changed).is_ok_and(|since| since >= SETTLED)
}

/// Makes `link` lead to a file, and proves that the file is the blob. Returns its size and info dictionary. The link
/// stays in any case.
pub(crate) fn prove(digest: &Digest, path: &Path, link: &Path) -> Result<(u64, Bytes), BorrowError> {
    let fail = |what, path: &Path, error| BorrowError::Io { what, path: path.to_owned(), error };
    let path: PathBuf = std::path::absolute(path).map_err(|error| fail("finding", path, error))?;
    // What a process that was killed has left.
    disk::remove(link).map_err(|error| fail("removing", link, error))?;
    symlink(&path, link).map_err(|error| fail("linking", link, error))?;
    let look = |file: &File| {
        let entry = fs::symlink_metadata(link).map_err(|error| fail("reading", link, error))?;
        let meta = file.metadata().map_err(|error| fail("reading", &path, error))?;
        let settled = is_settled(&entry, &meta).then_some(meta.len());
        settled.ok_or_else(|| BorrowError::Unsettled(path.clone()))
    };
    // A pipe in its place would keep us waiting for somebody to write.
    let opened = OpenOptions::new().read(true).custom_flags(NONBLOCK).open(link);
    let file = opened.map_err(|error| fail("opening", &path, error))?;
    let size = look(&file)?;
    let torrent =
        metainfo::blob_torrent(&file, size, THREADS).map_err(|error| fail("reading", &path, error))?;
    if torrent.digest != *digest {
        return Err(BorrowError::Digest { path, expected: *digest, found: torrent.digest });
    }
    look(&file)?;
    Ok((size, torrent.info_bytes))
}

#[allow(clippy::cast_possible_wrap, reason = "a flag of the system, which has its low bits only")]
const NONBLOCK: i32 = rustix::fs::OFlags::NONBLOCK.bits() as i32;
