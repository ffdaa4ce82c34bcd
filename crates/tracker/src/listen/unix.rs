//! Unix sockets: files that must be made, opened to the right ones, and removed.

use std::{
    fs::{self, File},
    io::{self, ErrorKind},
    os::unix::{
        fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags};
use socket2::{Domain, SockAddr, Socket, Type};

use super::BACKLOG;
use crate::{endpoint::SocketMode, user::Account};

/// The file of a unix socket that is listened on. Removed when this is dropped, unless it is another's by then.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    /// The file itself: as long as it is held, no other is given its number.
    file: File,
}

/// Listens on a unix socket at `path`. A socket that nobody listens on any more is replaced.
pub(crate) fn bind(
    path: &Path,
    mode: SocketMode,
    owner: Option<&Account>,
) -> io::Result<(Socket, SocketFile)> {
    clear(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let held = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let file = SocketFile { path: path.to_owned(), file: held.into() };
    if let Some(owner) = owner {
        chown(path, Some(owner.uid.as_raw()), Some(owner.gid.as_raw()))?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode.bits()))?;
    // Not before: until here nobody can connect.
    socket.listen(BACKLOG)?;
    Ok((socket, file))
}

/// Makes room at `path`.
fn clear(path: &Path) -> io::Result<()> {
    let there = match fs::symlink_metadata(path) {
        Ok(there) => there,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !there.file_type().is_socket() {
        return Err(io::Error::new(
            ErrorKind::AlreadyExists,
            "there is a file of that name, and it is no socket",
        ));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            tracing::info!(path = %path.display(), "replaces a socket that nobody listens on");
            fs::remove_file(path)
        }
        // Whoever it is, and even where it does not let us connect.
        _ => Err(io::Error::new(ErrorKind::AddrInUse, "another process listens on it")),
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let id = |file: fs::Metadata| (file.dev(), file.ino());
        let is_ours = match (self.file.metadata(), fs::symlink_metadata(&self.path)) {
            (Ok(ours), Ok(there)) => id(ours) == id(there),
            _ => false,
        };
        if is_ours && let Err(error) = fs::remove_file(&self.path) {
            // With `user` mostly, in a folder of root's: the next start replaces it.
            tracing::info!(path = %self.path.display(), %error, "the socket's file stays");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_socket_is_replaced_a_live_one_is_left_and_the_own_is_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("t.sock");
        let (socket, file) = bind(&path, SocketMode::GROUP, None).expect("bound");
        assert_eq!(fs::metadata(&path).expect("there").mode() & 0o7777, 0o660);
        let error = bind(&path, SocketMode::GROUP, None).expect_err("alive");
        assert_eq!(
            (error.kind(), error.to_string().contains("another process")),
            (ErrorKind::AddrInUse, true)
        );
        // As after a crash: the socket is closed, and its file is there.
        drop(socket);
        let (again, new_file) = bind(&path, SocketMode::GROUP, None).expect("replaced");
        drop(file);
        assert!(path.exists(), "the new one's is not removed for the old one");
        drop((again, new_file));
        assert!(!path.exists());
        fs::write(&path, "precious").expect("written");
        let error = bind(&path, SocketMode::GROUP, None).expect_err("no socket").to_string();
        assert!(error.contains("no socket"), "{error}");
        assert_eq!(fs::read(&path).expect("there"), b"precious");
    }
}
