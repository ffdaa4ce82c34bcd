//! Files below a root that may be another system's: an image that is built, a test.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Component, Path, PathBuf},
};

use rustix::fs::{Gid, Mode, Uid};

/// Links in a path, after which it is taken for a circle; as in the kernel.
const MAX_LINKS: usize = 40;
/// A configuration file of more is none.
const MAX_BYTES: u64 = 16 << 20;

/// The root of the system whose files are meant.
#[derive(Debug, Clone)]
pub struct Root(PathBuf);

/// A file as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Present {
    pub(crate) bytes: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) owner: u32,
    pub(crate) group: u32,
}

impl Root {
    /// `/`, or a folder with another system's files.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self(folder.into())
    }

    /// Whether it is the running system's.
    pub fn is_system(&self) -> bool {
        self.0 == Path::new("/")
    }

    /// Where a path of that system stands in ours. Links are followed as that system would.
    ///
    /// # Errors
    /// Links that cannot be read, or go in a circle.
    pub fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        let mut open: Vec<OsString> = parts(path);
        open.reverse();
        let (mut at, mut links) = (PathBuf::new(), 0);
        while let Some(part) = open.pop() {
            if part == OsStr::new("..") {
                at.pop();
                continue;
            }
            let full = self.0.join(&at).join(&part);
            match fs::read_link(&full) {
                Ok(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(io::Error::other("symbolic links go in a circle"));
                    }
                    if target.is_absolute() {
                        at = PathBuf::new();
                    }
                    open.extend(parts(&target).into_iter().rev());
                }
                // No link, or nothing at all.
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::NotFound) =>
                {
                    at.push(part);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(self.0.join(at))
    }

    /// Reads a text of that system; `None` where there is no such file.
    ///
    /// # Errors
    /// The system's.
    pub fn read(&self, path: &Path) -> io::Result<Option<String>> {
        let Some(file) = read(&self.resolve(path)?)? else { return Ok(None) };
        String::from_utf8(file.bytes).map(Some).map_err(|_| io::Error::other("it is not UTF-8 text"))
    }

    /// Paths of that system in one of its folders, in order; none where there is no such folder.
    ///
    /// # Errors
    /// The system's.
    pub fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        let entries = match fs::read_dir(self.resolve(folder)?) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut paths: Vec<_> =
            entries.map(|entry| Ok(folder.join(entry?.file_name()))).collect::<io::Result<_>>()?;
        paths.sort();
        Ok(paths)
    }
}

fn parts(path: &Path) -> Vec<OsString> {
    let parts = path.components().filter_map(|component| match component {
        Component::Normal(part) => Some(part.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        _ => None,
    });
    parts.collect()
}

/// Reads a file; `None` where there is none.
pub(crate) fn read(path: &Path) -> io::Result<Option<Present>> {
    let meta = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        meta => meta?,
    };
    if !meta.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(io::Error::other("it is larger than 16 MiB"));
    }
    Ok(Some(Present { bytes, mode: meta.mode() & 0o7777, owner: meta.uid(), group: meta.gid() }))
}

/// Puts a file in the place of what is there, whole or not at all, and on the disk when it returns.
pub(crate) fn replace(path: &Path, file: &Present) -> io::Result<()> {
    let new = beside(path);
    remove(&new)?;
    let mut handle = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    let written = (|| {
        handle.write_all(&file.bytes)?;
        let meta = handle.metadata()?;
        if (meta.uid(), meta.gid()) != (file.owner, file.group) {
            let (owner, group) = (Uid::from_raw(file.owner), Gid::from_raw(file.group));
            rustix::fs::fchown(&handle, Some(owner), Some(group))?;
        }
        rustix::fs::fchmod(&handle, Mode::from_raw_mode(file.mode))?;
        handle.sync_all()?;
        fs::rename(&new, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written?;
    sync_folder(path)
}

/// The new file, before it takes its place. No runtime reads a file of such a name.
pub(crate) fn beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".longshore");
    path.with_file_name(name)
}

/// Removes a file, if it is there.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => sync_folder(path),
    }
}

/// Makes what a folder says of a path last.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}
