//! Where a torrent's bytes lie: one file that the store opened, or files below a folder.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, IoSlice},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use metainfo::{FileKind, Info};

/// Most files of one torrent to keep open.
const MOST_OPEN: usize = 32;

/// The places of a torrent's bytes.
#[derive(Debug)]
pub struct Layout(Kind);

#[derive(Debug)]
enum Kind {
    Single(Arc<File>),
    Folder(Folder),
}

#[derive(Debug)]
struct Folder {
    /// One per file of the torrent; `None` for what holds no bytes on disk.
    paths: Vec<Option<PathBuf>>,
    writable: bool,
    /// Open files, the last used at the end.
    open: Mutex<Vec<(usize, Arc<File>)>>,
}

/// A run of bytes in one open file.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// `None` for padding, which is zeros and lies nowhere.
    pub(crate) file: Option<Arc<File>>,
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

impl Layout {
    /// The whole torrent is one file, open for reading and, to download, writing.
    pub fn single(file: Arc<File>) -> Self {
        Self(Kind::Single(file))
    }

    /// The torrent's files below `folder`, to be read only.
    pub fn seed(info: &Info, folder: &Path) -> Self {
        Self(Kind::Folder(Folder::new(info, folder, false)))
    }

    /// The torrent's files below `folder`, made as far as they are missing: folders, empty files, symlinks, and
    /// every file at its full length. Links that lead out of the torrent are not followed.
    ///
    /// # Errors
    /// The path that could not be made.
    pub fn download(info: &Info, folder: &Path) -> Result<Self, LayoutError> {
        let at = |path: &Path| {
            let path = path.to_path_buf();
            move |source| LayoutError { path, source }
        };
        let new = Folder::new(info, folder, true);
        for (index, file) in info.files.iter().enumerate() {
            let Some(path) = info.relative_path(index).map(|p| folder.join(p)) else { continue };
            if matches!(file.kind, FileKind::Pad) {
                continue;
            }
            if let Some(parent) = path.parent() {
                refuse_links(folder, parent).map_err(at(parent))?;
                fs::create_dir_all(parent).map_err(at(parent))?;
            }
            if let FileKind::Symlink(_) = file.kind {
                let target = info.symlink_target(index).map(|t| relative(&path, &folder.join(t)));
                let link = target.map_or(Ok(()), |target| std::os::unix::fs::symlink(target, &path));
                match link {
                    Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(at(&path)(e)),
                    _ => continue,
                }
            }
            refuse_links(folder, &path).map_err(at(&path))?;
            let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
            let opened = open.map_err(at(&path))?;
            let length = opened.metadata().map_err(at(&path))?.len();
            if length > file.length {
                let why = format!("it is {length} bytes long, and the torrent's file is {}", file.length);
                return Err(at(&path)(io::Error::other(why)));
            }
            opened.set_len(file.length).map_err(at(&path))?;
            #[cfg(unix)]
            if file.executable {
                use std::os::unix::fs::PermissionsExt;
                let mut permissions = opened.metadata().map_err(at(&path))?.permissions();
                permissions.set_mode(permissions.mode() | 0o111);
                opened.set_permissions(permissions).map_err(at(&path))?;
            }
        }
        Ok(Self(Kind::Folder(new)))
    }

    /// Where `length` bytes from `offset` lie, in order.
    pub(crate) fn places(&self, info: &Info, offset: u64, length: u64) -> io::Result<Vec<Place>> {
        match &self.0 {
            Kind::Single(file) => Ok(vec![Place { file: Some(file.clone()), offset, length }]),
            Kind::Folder(folder) => info
                .spans(offset, length)
                .map(|span| {
                    Ok(Place { file: folder.open(span.file)?, offset: span.offset, length: span.length })
                })
                .collect(),
        }
    }

    /// Reads exactly `into.len()` bytes from `offset`.
    pub(crate) fn read(&self, info: &Info, offset: u64, mut into: &mut [u8]) -> io::Result<()> {
        for place in self.places(info, offset, into.len() as u64)? {
            let (part, rest) = into.split_at_mut((place.length as usize).min(into.len()));
            match place.file {
                Some(file) => file.read_exact_at(part, place.offset)?,
                None => part.fill(0),
            }
            into = rest;
        }
        Ok(())
    }

    /// Writes `parts`, one behind the other, from `offset` on.
    pub(crate) fn write(&self, info: &Info, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        let length: usize = parts.iter().map(|p| p.len()).sum();
        let mut parts = parts.iter().copied();
        let mut part: &[u8] = &[];
        for place in self.places(info, offset, length as u64)? {
            let mut left = place.length as usize;
            let mut slices = Vec::new();
            while left > 0 {
                if part.is_empty() {
                    part = parts.next().ok_or(io::ErrorKind::UnexpectedEof)?;
                    continue;
                }
                let (now, later) = part.split_at(left.min(part.len()));
                slices.push(IoSlice::new(now));
                left -= now.len();
                part = later;
            }
            if let Some(file) = &place.file {
                write_all_vectored_at(file, &mut slices, place.offset)?;
            }
        }
        Ok(())
    }
}

impl Folder {
    fn new(info: &Info, folder: &Path, writable: bool) -> Self {
        let path = |index: usize| matches!(info.files[index].kind, FileKind::Regular).then_some(index);
        let paths = (0..info.files.len())
            .map(|index| path(index).and_then(|i| info.relative_path(i)).map(|p| folder.join(p)))
            .collect();
        Self { paths, writable, open: Mutex::default() }
    }

    fn open(&self, index: usize) -> io::Result<Option<Arc<File>>> {
        let Some(path) = self.paths.get(index).and_then(Option::as_ref) else { return Ok(None) };
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = open.iter().position(|(i, _)| *i == index) {
            let entry = open.remove(at);
            let file = entry.1.clone();
            open.push(entry);
            return Ok(Some(file));
        }
        let file = Arc::new(OpenOptions::new().read(true).write(self.writable).open(path)?);
        if open.len() >= MOST_OPEN {
            open.remove(0);
        }
        open.push((index, file.clone()));
        Ok(Some(file))
    }
}

fn write_all_vectored_at(file: &File, mut slices: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
    // The kernel takes at most 1024 at once.
    const MOST: usize = 1024;
    while !slices.is_empty() {
        let batch = slices.len().min(MOST);
        match rustix::io::pwritev(file, &slices[..batch], offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                offset += written as u64;
                IoSlice::advance_slices(&mut slices, written);
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Refuses a path of which a part below `folder` is a symbolic link: it could lead anywhere.
fn refuse_links(folder: &Path, path: &Path) -> io::Result<()> {
    let below = path.strip_prefix(folder).unwrap_or(Path::new(""));
    let mut at = folder.to_path_buf();
    for component in below.components() {
        at.push(component);
        if fs::symlink_metadata(&at).is_ok_and(|meta| meta.is_symlink()) {
            return Err(io::Error::other(
                "a symbolic link stands where the torrent wants a file or a folder",
            ));
        }
    }
    Ok(())
}

/// The path that leads from the link at `from` to `to`; both lie below one folder.
fn relative(from: &Path, to: &Path) -> PathBuf {
    let base = from.parent().unwrap_or(Path::new(""));
    let common = base.components().zip(to.components()).take_while(|(a, b)| a == b).count();
    let up = base.components().skip(common).map(|_| std::path::Component::ParentDir);
    let path: PathBuf = up.chain(to.components().skip(common)).collect();
    if path.as_os_str().is_empty() { ".".into() } else { path }
}

/// A file or folder of a torrent could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot prepare {}: {source}", path.display())]
pub struct LayoutError {
    /// Which.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_there_relatively() {
        assert_eq!(relative(Path::new("/d/t/a/link"), Path::new("/d/t/b/file")), Path::new("../b/file"));
        assert_eq!(relative(Path::new("/d/t/link"), Path::new("/d/t/file")), Path::new("file"));
        assert_eq!(relative(Path::new("/d/t/link"), Path::new("/d/t")), Path::new("."));
    }
}
