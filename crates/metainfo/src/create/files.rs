//! Which files there are, and whether they stay as they are.

use std::{
    fs::{self, File, Metadata},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::{CreateError, Symlinks};
use crate::{MAX_FILES, path};

/// The deepest folder that is looked into.
const MAX_DEPTH: usize = 90;

/// A file or folder with all that lies in it.
pub(super) struct Source {
    /// As the caller gave it.
    pub(super) root: PathBuf,
    pub(super) name: String,
    pub(super) is_folder: bool,
    /// In the torrent's order.
    pub(super) files: Vec<SourceFile>,
}

/// A file as it was found.
pub(super) struct SourceFile {
    path: PathBuf,
    /// Below the root.
    pub(super) components: Vec<String>,
    pub(super) length: u64,
    /// Where it begins, in bytes from the torrent's first.
    pub(super) offset: u64,
    stamp: Stamp,
}

/// What tells that a file is another, or was written to.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

impl Source {
    pub(super) fn find(root: &Path, symlinks: Symlinks) -> Result<Self, CreateError> {
        let found = |source| CreateError::Io { path: root.to_owned(), source };
        // `.` and `..` have no name of their own.
        let resolved = fs::canonicalize(root).map_err(found)?;
        let metadata = fs::metadata(root).map_err(found)?;
        let named = if root.file_name().is_some() { root } else { &resolved };
        let name = named.file_name().and_then(|name| name.to_str()).unwrap_or("root").to_owned();
        let mut source =
            Self { root: root.to_owned(), name, is_folder: metadata.is_dir(), files: Vec::new() };
        if metadata.is_dir() {
            source.walk(root, &mut Vec::new(), symlinks)?;
        } else if metadata.is_file() {
            source.push(root.to_owned(), Vec::new(), &metadata)?;
        } else {
            return Err(CreateError::NotAFile(root.to_owned()));
        }
        Ok(source)
    }

    pub(super) fn total(&self) -> u64 {
        self.files.last().map_or(0, |file| file.offset + file.length)
    }

    /// Says which file is not as it was found.
    pub(super) fn check_unchanged(&self) -> Result<(), CreateError> {
        for file in &self.files {
            let now = fs::metadata(&file.path).map_err(|error| file.read_error(error))?;
            if Stamp::of(&now) != file.stamp {
                return Err(CreateError::Changed(file.path.clone()));
            }
        }
        Ok(())
    }

    fn walk(
        &mut self,
        folder: &Path,
        components: &mut Vec<String>,
        symlinks: Symlinks,
    ) -> Result<(), CreateError> {
        if components.len() >= MAX_DEPTH {
            return Err(CreateError::TooDeep(folder.to_owned()));
        }
        let failed = |source| CreateError::Io { path: folder.to_owned(), source };
        let mut entries = Vec::new();
        for entry in fs::read_dir(folder).map_err(failed)? {
            entries.push(entry.map_err(failed)?.file_name());
            if entries.len() > MAX_FILES {
                return Err(CreateError::TooManyFiles(folder.to_owned()));
            }
        }
        entries.sort_unstable();
        for entry in entries {
            let path = folder.join(&entry);
            let metadata = fs::symlink_metadata(&path)
                .map_err(|source| CreateError::Io { path: path.clone(), source })?;
            if metadata.is_symlink() {
                match symlinks {
                    Symlinks::Skip => continue,
                    Symlinks::Refuse => return Err(CreateError::Symlink(path)),
                }
            }
            let Some(name) = entry.to_str().filter(|name| is_plain(name)) else {
                return Err(CreateError::BadName(path));
            };
            components.push(name.to_owned());
            if metadata.is_dir() {
                self.walk(&path, components, symlinks)?;
            } else if metadata.is_file() {
                self.push(path, components.clone(), &metadata)?;
            } else {
                return Err(CreateError::NotAFile(path));
            }
            components.pop();
        }
        Ok(())
    }

    fn push(
        &mut self,
        path: PathBuf,
        components: Vec<String>,
        metadata: &Metadata,
    ) -> Result<(), CreateError> {
        if self.files.len() >= MAX_FILES {
            return Err(CreateError::TooManyFiles(self.root.clone()));
        }
        let (offset, length) = (self.total(), metadata.len());
        if offset.checked_add(length).is_none() {
            return Err(CreateError::TooManyPieces);
        }
        self.files.push(SourceFile { path, components, length, offset, stamp: Stamp::of(metadata) });
        Ok(())
    }
}

impl SourceFile {
    /// Opens it, unless it is no longer the file that was found.
    pub(super) fn open(&self) -> Result<File, CreateError> {
        let file = File::open(&self.path).map_err(|error| self.read_error(error))?;
        let metadata = file.metadata().map_err(|error| self.read_error(error))?;
        if Stamp::of(&metadata) != self.stamp {
            return Err(CreateError::Changed(self.path.clone()));
        }
        Ok(file)
    }

    /// What a failed read means.
    pub(super) fn read_error(&self, source: io::Error) -> CreateError {
        match source.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::NotFound => CreateError::Changed(self.path.clone()),
            _ => CreateError::Io { path: self.path.clone(), source },
        }
    }
}

/// Whether readers of the torrent will leave the name as it is.
fn is_plain(name: &str) -> bool {
    path::component(name.as_bytes()).as_deref() == Some(name)
}
