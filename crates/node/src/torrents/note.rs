//! What is kept of an ordinary torrent besides itself, and how it is written.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::UNIX_EPOCH,
};

use api::torrents::Limits;
use metainfo::{FileKind, Info};
use serde::{Deserialize, Serialize};

use crate::torrents::{TorrentError, What};

/// What is kept of a torrent besides itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Note {
    pub(super) folder: PathBuf,
    pub(super) start: bool,
    #[serde(default)]
    pub(super) limits: Limits,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) magnet: Option<String>,
    /// It is whole, and its files had these lengths and times then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) whole: Option<Vec<Stamp>>,
}

/// A file's length, and the time of its last change in nanoseconds since 1970.
pub(super) type Stamp = (u64, u64);

/// Writes a file so that it is there whole, or as it was.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), TorrentError> {
    let failed = |source| TorrentError::Disk { path: path.to_owned(), source };
    let new = path.with_extension("new");
    let written = fs::File::create(&new).and_then(|mut file| {
        io::Write::write_all(&mut file, bytes)?;
        file.sync_all()
    });
    written.and_then(|()| fs::rename(&new, path)).map_err(failed)
}

pub(super) fn read(path: &Path) -> Result<(What, Note), Box<dyn std::error::Error>> {
    let note: Note = serde_json::from_slice(&fs::read(path)?)?;
    match fs::read(path.with_extension("torrent")) {
        Ok(bytes) => Ok((What::Torrent(Arc::new(metainfo::Torrent::parse(&bytes)?)), note)),
        Err(error) => match &note.magnet {
            Some(magnet) => Ok((What::Magnet(Box::new(magnet.parse()?)), note)),
            None => Err(error.into()),
        },
    }
}

/// The files' lengths and times; nothing unless every file is there.
pub(super) fn stamps(info: &Info, folder: &Path) -> Option<Vec<Stamp>> {
    let regular = info.files.iter().enumerate().filter(|(_, file)| file.kind == FileKind::Regular);
    let stamp = |(index, _): (usize, &metainfo::FileEntry)| {
        let meta = fs::metadata(folder.join(info.relative_path(index)?)).ok()?;
        let changed = meta.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
        Some((meta.len(), u64::try_from(changed.as_nanos()).ok()?))
    };
    regular.map(stamp).collect()
}
