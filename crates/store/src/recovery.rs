//! What is put right when a store is opened.
//!
//! Blobs are compared with their rows by name and size alone, one of 256 directories at a time, so that
//! neither time nor memory grows with their bytes. Only a file without a row is hashed: a crash fell between
//! its rename and its row.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read as _},
    path::Path,
};

use hash::{Digest, Sha256};

use crate::{
    disk,
    error::{IndexError, OpenError},
    index::{Change, Index},
    note::Note,
    partial::Paths,
    store::{Store, new_row},
};

/// The 256 directories of blobs, `00` to `ff`.
pub(crate) fn make_shards(dir: &Path) -> Result<(), OpenError> {
    // The last one is made last: where it is, all are.
    if dir.join("ff").is_dir() {
        return Ok(());
    }
    for first in 0..=u8::MAX {
        let shard = dir.join(hash::to_hex(&[first]));
        match fs::create_dir(&shard) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(OpenError::io("creating", shard, error));
            }
            _ => {}
        }
    }
    disk::sync_dir(dir).map_err(|error| OpenError::io("flushing", dir, error))
}

/// Opens the index. One that is damaged is put aside for a new one, which [`heal`] then fills; says so.
pub(crate) fn open_index(path: &Path) -> Result<(Index, bool), OpenError> {
    match Index::open(path) {
        Err(IndexError::Database(error)) if is_damage(&error) => {
            let aside = path.with_extension("redb.damaged");
            tracing::error!(%error, path = %path.display(), "index is damaged: put aside");
            fs::rename(path, &aside).map_err(|error| OpenError::io("renaming", path, error))?;
            Ok((Index::open(path)?, true))
        }
        outcome => Ok((outcome?, false)),
    }
}

fn is_damage(error: &redb::Error) -> bool {
    match error {
        redb::Error::Corrupted(_) | redb::Error::RepairAborted => true,
        // What redb says of a file that does not begin as its own does.
        redb::Error::Io(error) => error.kind() == io::ErrorKind::InvalidData,
        _ => false,
    }
}

/// Makes files, rows and partial blobs agree.
pub(crate) fn heal(store: &Store, index: &Index) -> Result<(), OpenError> {
    for first in 0..=u8::MAX {
        heal_shard(store, index, first)?;
    }
    sweep_partials(store, index)
}

fn heal_shard(store: &Store, index: &Index, first: u8) -> Result<(), OpenError> {
    let dir = store.blob_dir().join(hash::to_hex(&[first]));
    let mut rows: HashMap<Digest, u64> = index.shard(first)?.into_iter().collect();
    let mut changes = Vec::new();
    let entries = fs::read_dir(&dir).map_err(|error| OpenError::io("reading", &dir, error))?;
    for entry in entries {
        let entry = entry.map_err(|error| OpenError::io("reading", &dir, error))?;
        let path = entry.path();
        let digest = entry.file_name().to_str().and_then(|name| Digest::from_hex(name).ok());
        let Some(digest) = digest.filter(|digest| digest.as_bytes()[0] == first) else {
            tracing::warn!(path = %path.display(), "is no blob, and is left alone");
            continue;
        };
        if entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
            // Borrowed. Its owner's disk is not touched here, as it may hang: what is gone is found out when it is used.
            if rows.remove(&digest).is_none() {
                disk::remove(&path).map_err(|error| OpenError::io("removing", &path, error))?;
            }
            continue;
        }
        let size = fs::metadata(&path).ok().filter(fs::Metadata::is_file).map(|meta| meta.len());
        match (rows.remove(&digest), size) {
            (Some(listed), Some(size)) if listed == size => {}
            (None, Some(size)) => changes.extend(take_in(store, &digest, &path, size)?),
            (listed, size) => {
                tracing::error!(path = %path.display(), ?listed, ?size, "is not what was stored: removed");
                disk::remove(&path).map_err(|error| OpenError::io("removing", &path, error))?;
                changes.push(Change::Remove(digest));
            }
        }
    }
    for digest in rows.into_keys() {
        tracing::warn!(%digest, "the blob's file is gone: row dropped");
        changes.push(Change::Remove(digest));
    }
    Ok(index.change_all(&changes)?)
}

/// A file without a row: whole or nothing.
fn take_in(store: &Store, digest: &Digest, path: &Path, size: u64) -> Result<Option<Change>, OpenError> {
    let found = hash_file(path).map_err(|error| OpenError::io("reading", path, error))?;
    if found == *digest {
        tracing::info!(%digest, size, "blob without a row: hashed and taken in");
        let (record, info) = new_row(digest, size, Note::load(&Paths::of(store, digest).note));
        return Ok(Some(Change::Put(record, info)));
    }
    tracing::warn!(path = %path.display(), %found, "is not what its name says: removed");
    disk::remove(path).map_err(|error| OpenError::io("removing", path, error))?;
    Ok(None)
}

fn hash_file(path: &Path) -> io::Result<Digest> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1024 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(Digest::from_bytes(hasher.finalize())),
            count => hasher.update(buffer.get(..count).unwrap_or_default()),
        }
    }
}

/// Keeps what can be continued and removes the rest.
fn sweep_partials(store: &Store, index: &Index) -> Result<(), OpenError> {
    let dir = store.partial_dir();
    let entries = fs::read_dir(&dir).map_err(|error| OpenError::io("reading", &dir, error))?;
    for entry in entries {
        let path = entry.map_err(|error| OpenError::io("reading", &dir, error))?.path();
        let stem = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.split('.').next());
        let Some(digest) = stem.and_then(|stem| Digest::from_hex(stem).ok()) else {
            tracing::warn!(path = %path.display(), "is no partial blob, and is left alone");
            continue;
        };
        let paths = Paths::of(store, &digest);
        let ours = [&paths.data, &paths.journal, &paths.note].contains(&&path);
        if !ours || paths.summary(&digest).is_none() || index.contains(&digest)? {
            if path == paths.data {
                tracing::info!(%digest, "partial blob cannot be continued: removed");
            }
            disk::remove(&path).map_err(|error| OpenError::io("removing", &path, error))?;
        }
    }
    Ok(())
}
