//! Unix sockets: files that must be made, opened to the right ones, and removed.

use std::{
    fs::{self, File},
    io::{self, ErrorKind},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, chownat},
    process::{Gid, Uid, umask},
};
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
    // It is made with its mode: whoever may write to the folder could put another file in its place for a later change.
    let address = SockAddr::unix(path)?;
    let before = umask(Mode::from_raw_mode(!mode.bits() & 0o777));
    let bound = socket.bind(&address);
    umask(before);
    bound?;
    let held = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let file = SocketFile { path: path.to_owned(), file: held.into() };
    if !file.file.metadata()?.file_type().is_socket() {
        return Err(io::Error::other("another file has taken its place"));
    }
    if let Some(owner) = owner {
        let (uid, gid) = (Uid::from_raw(owner.uid.as_raw()), Gid::from_raw(owner.gid.as_raw()));
        chownat(&file.file, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?;
    }
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
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Where its queue is full, we would wait.
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(path)?) {
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

    #[test]
    fn a_live_socket_that_takes_no_more_connections_does_not_hold_up_the_start() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("t.sock");
        let (address, socket) =
            (SockAddr::unix(&path).expect("short"), || Socket::new(Domain::UNIX, Type::STREAM, None));
        let busy = socket().expect("a socket");
        busy.bind(&address).expect("bound");
        busy.listen(0).expect("listens");
        let mut waiting = Vec::new();
        loop {
            let client = socket().expect("a socket");
            client.set_nonblocking(true).expect("set");
            if client.connect(&address).is_err() {
                break;
            }
            waiting.push(client);
        }
        assert_eq!(
            bind(&path, SocketMode::GROUP, None).map(drop).map_err(|error| error.kind()),
            Err(ErrorKind::AddrInUse)
        );
    }
}
