//! The folder from which a lab's contents come: what is in it, and whether that has changed.

use std::{
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// Most files of one entry.
const FILES: usize = 200_000;
/// Deepest folder that is entered.
const DEPTH: usize = 64;

/// What becomes of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A file or a folder.
    Torrent,
    /// An OCI layout.
    Layout,
}

/// An entry of the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) kind: Kind,
    /// Differs when anything in it has another name, length or time.
    pub(crate) mark: u64,
    /// When something in it was written last.
    pub(crate) newest: SystemTime,
}

/// What is in a folder, by name. What is hidden, links, and names that are no text are left out. Blocks.
pub(crate) fn scan(folder: &Path) -> io::Result<Vec<Found>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder)?.flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        if is_left_out(&name) {
            continue;
        }
        // What goes away while we look is not there.
        all.extend(look(name, entry.path()).ok().flatten());
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

/// One entry, whatever it is called; none where it is nothing to share, or empty.
pub(crate) fn look(name: String, path: PathBuf) -> io::Result<Option<Found>> {
    let meta = fs::symlink_metadata(&path)?;
    if !meta.is_file() && !meta.is_dir() {
        return Ok(None);
    }
    let is_layout = path.join("oci-layout").is_file() && path.join("index.json").is_file();
    let kind = if is_layout { Kind::Layout } else { Kind::Torrent };
    let (mut hasher, mut newest, mut bytes) = (DefaultHasher::new(), SystemTime::UNIX_EPOCH, 0);
    walk(&path, &mut |inside, meta| {
        let modified = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        (inside, meta.len(), modified).hash(&mut hasher);
        newest = newest.max(modified);
        bytes += meta.len();
        Ok(())
    })?;
    Ok((bytes > 0).then(|| Found { name, path, kind, mark: hasher.finish(), newest }))
}

/// Copies an entry to `to`, as it is shared. Blocks.
pub(crate) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    transfer(from, to, |from, to| fs::copy(from, to).map(drop))
}

/// Puts a copy of an entry at `to` that costs no room where the disk is the same. Blocks.
pub(crate) fn link(from: &Path, to: &Path) -> io::Result<()> {
    transfer(from, to, |from, to| fs::hard_link(from, to).or_else(|_| fs::copy(from, to).map(drop)))
}

fn transfer(from: &Path, to: &Path, each: impl Fn(&Path, &Path) -> io::Result<()>) -> io::Result<()> {
    walk(from, &mut |inside, _| {
        let place = if inside.as_os_str().is_empty() { to.to_owned() } else { to.join(inside) };
        if let Some(parent) = place.parent() {
            fs::create_dir_all(parent)?;
        }
        let source = if inside.as_os_str().is_empty() { from.to_owned() } else { from.join(inside) };
        each(&source, &place)
    })
}

/// Hidden, or made anew by builds at any time.
fn is_left_out(name: &str) -> bool {
    name.starts_with('.') || name.starts_with("target") || name == "node_modules"
}

/// Tells of each file in a folder, by its path there, in order; of a file alone with no path.
fn walk(root: &Path, tell: &mut dyn FnMut(&Path, &fs::Metadata) -> io::Result<()>) -> io::Result<()> {
    let meta = fs::symlink_metadata(root)?;
    if meta.is_file() {
        return tell(Path::new(""), &meta);
    }
    let mut room = FILES;
    enter(root, Path::new(""), DEPTH, &mut room, tell)
}

fn enter(
    root: &Path,
    inside: &Path,
    depth: usize,
    room: &mut usize,
    tell: &mut dyn FnMut(&Path, &fs::Metadata) -> io::Result<()>,
) -> io::Result<()> {
    let mut entries: Vec<fs::DirEntry> = fs::read_dir(root.join(inside))?.flatten().collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name();
        if name.to_str().is_none_or(is_left_out) {
            continue;
        }
        let (path, meta) = (inside.join(&name), entry.metadata()?);
        if meta.is_dir() && depth > 0 {
            enter(root, &path, depth - 1, room, tell)?;
        } else if meta.is_file() {
            *room =
                room.checked_sub(1).ok_or_else(|| io::Error::other(format!("more than {FILES} files")))?;
            tell(&path, &meta)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_and_each_folder_is_an_entry_and_layouts_are_known() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |path: &str| folder.path().join(path);
        for path in ["album/disc", "layout", ".git", "target-debug", "hollow"] {
            fs::create_dir_all(at(path)).expect("made");
        }
        for path in [
            "a.iso",
            "album/disc/1",
            "album/.hidden",
            "layout/oci-layout",
            "layout/index.json",
            ".git/x",
            ".f",
        ] {
            fs::write(at(path), path).expect("written");
        }
        fs::write(at("empty"), "").expect("written");
        std::os::unix::fs::symlink("/etc", at("link")).expect("linked");
        let found: Vec<_> =
            scan(folder.path()).expect("scans").into_iter().map(|f| (f.name, f.kind)).collect();
        let want = [("a.iso", Kind::Torrent), ("album", Kind::Torrent), ("layout", Kind::Layout)];
        assert_eq!(found, want.map(|(name, kind)| (name.to_owned(), kind)));
    }

    #[test]
    fn a_change_anywhere_in_an_entry_shows_and_a_hidden_one_does_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let album = folder.path().join("album");
        fs::create_dir(&album).expect("made");
        fs::write(album.join("1"), "one").expect("written");
        let mark = || scan(folder.path()).expect("scans")[0].mark;
        let first = mark();
        fs::write(album.join(".part"), "x").expect("written");
        assert_eq!(mark(), first);
        fs::write(album.join("1"), "two!").expect("written");
        let second = mark();
        fs::rename(album.join("1"), album.join("2")).expect("renamed");
        assert!(second != first && mark() != second);
    }

    #[test]
    fn copies_and_links_have_the_same_files_without_the_hidden_ones() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |path: &str| folder.path().join(path);
        fs::create_dir_all(at("album/disc")).expect("made");
        fs::write(at("album/disc/1"), "one").expect("written");
        fs::write(at("album/.h"), "h").expect("written");
        copy(&at("album"), &at("x/copy")).expect("copies");
        link(&at("x/copy"), &at("y/link")).expect("links");
        copy(&at("album/disc/1"), &at("z/1")).expect("copies a file");
        assert_eq!(fs::read_to_string(at("y/link/disc/1")).expect("there"), "one");
        assert_eq!(fs::read_to_string(at("z/1")).expect("there"), "one");
        assert!(!at("x/copy/.h").exists());
    }
}
