//! What the store asks of the operating system.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

/// Whether the error says that there is no room: a full disk or an exhausted quota.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Makes renames, creations and removals in `dir` durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Gives an empty file its length, if the disk has room for it: one that is too small is noticed before anything is
/// fetched. No room is taken, as nobody has proven the size: what was never written costs nothing.
pub(crate) fn allocate(file: &File, size: u64) -> io::Result<()> {
    let free = rustix::fs::fstatvfs(file)?;
    if free.f_bavail.saturating_mul(free.f_frsize) < size {
        return Err(io::ErrorKind::StorageFull.into());
    }
    file.set_len(size)
}

/// Opens for reading and writing, and creates what is not there.
pub(crate) fn open_or_create(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

/// Takes away the right to write, as a guard against accidents.
pub(crate) fn make_read_only(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    file.set_permissions(Permissions::from_mode(0o444))
}

/// Removes a file; one that is not there is no error. Says whether it was.
pub(crate) fn remove(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// 32 bytes that are the same until the machine boots again; `None` where the system does not say.
pub(crate) fn boot_id() -> Option<[u8; 32]> {
    let id = fs::read("/proc/sys/kernel/random/boot_id").ok()?;
    Some(hash::sha256(id.trim_ascii()))
}

/// Seconds since 1970.
#[allow(clippy::disallowed_methods, reason = "the store is a driver: it stamps what it stores")]
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
