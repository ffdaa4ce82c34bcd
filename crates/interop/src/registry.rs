//! Debian's docker-registry.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::Path,
    process::Command,
};

use tempfile::TempDir;

use crate::{Process, free_port, require, wait_until};

/// A registry, with nothing in it at first.
#[derive(Debug)]
pub struct Registry {
    /// Itself.
    pub process: Process,
    address: SocketAddr,
    folder: TempDir,
}

impl Registry {
    /// One whose configuration has these further lines, in which `HERE` is its folder; `files` are put there first.
    /// Nothing where there is no docker-registry or no skopeo, which fills it.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(more: &str, files: &[(&str, &[u8])]) -> Option<Self> {
        if !require("docker-registry", "docker-registry") || !require("skopeo", "skopeo") {
            return None;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let (place, port) = (folder.path(), free_port());
        for (name, bytes) in files {
            fs::write(place.join(name), bytes).expect("written");
        }
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: HERE/storage}}}}\n\
             http: {{addr: '127.0.0.1:{port}'}}\n{more}"
        );
        fs::write(place.join("registry.yml"), config.replace("HERE", &place.display().to_string()))
            .expect("written");
        let process =
            Process::start(Command::new("docker-registry").arg("serve").arg(place.join("registry.yml")));
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        wait_until("docker-registry answers", || TcpStream::connect(address).is_ok());
        Some(Self { process, address, folder })
    }

    /// Where it answers, over http.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Puts the image `app:1` of an OCI layout into it, under a name; `user` is `NAME:PASSWORD`.
    ///
    /// # Panics
    /// When it does not take it.
    pub fn take(&self, layout: &Path, name: &str, user: Option<&str>) {
        let mut copy = Command::new("skopeo");
        copy.args(["copy", "--quiet", "--dest-tls-verify=false"]);
        if let Some(user) = user {
            copy.args(["--dest-creds", user]);
        }
        copy.arg(format!("oci:{}:app:1", layout.display()));
        let copied = copy.arg(format!("docker://{}/{name}", self.address)).output().expect("starts");
        assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    }
}
