//! A lock that is a file, which is there only while it is held.
//!
//! Whoever gives it back removes the file while it still holds it. So who had opened that file before, and gets the lock
//! on it after, has one that nobody else will find: each looks whether the path still leads to what it has locked.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// How often a file is opened that is removed again meanwhile.
const TRIES: u32 = 100;

/// A lock, held. What a killed process has left of one is in nobody's way, and removed by the next who holds it.
#[derive(Debug)]
pub(crate) struct Lock {
    path: PathBuf,
    // Closed after the file is removed.
    _file: File,
}

impl Lock {
    /// Takes it; none while somebody else has it.
    pub(crate) fn take(path: &Path) -> io::Result<Option<Self>> {
        for _ in 0..TRIES {
            let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error),
            }
            if leads_to(path, &file)? {
                return Ok(Some(Self { path: path.to_owned(), _file: file }));
            }
        }
        Ok(None)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // What cannot be removed can be locked by the next as it lies.
        let _ = fs::remove_file(&self.path);
    }
}

fn leads_to(path: &Path, file: &File) -> io::Result<bool> {
    let own = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (own.dev(), own.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU32, Ordering},
        thread,
    };

    use super::*;

    #[test]
    fn its_file_goes_with_it_and_one_that_was_left_is_in_nobodys_way() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("lock");
        fs::write(&path, "").expect("left by somebody");
        let held = Lock::take(&path).expect("a lock").expect("nobody has it");
        assert!(path.exists() && Lock::take(&path).expect("asked").is_none());
        drop(held);
        assert!(!path.exists());
    }

    #[test]
    fn two_never_hold_it_at_once_however_often_its_file_is_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, holders) = (folder.path().join("lock"), AtomicU32::new(0));
        let work = || {
            let mut turns = 0;
            while turns < 300 {
                let Some(held) = Lock::take(&path).expect("asked") else { continue };
                assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0, "two hold it");
                turns += 1;
                assert_eq!(holders.fetch_sub(1, Ordering::SeqCst), 1, "two hold it");
                drop(held);
            }
        };
        thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(work))));
        assert!(!path.exists());
    }
}
