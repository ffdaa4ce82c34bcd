//! etcd on loopback: members that can be killed and come back.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;

use crate::{Process, free_port, require, wait_until};

/// A cluster of etcd.
#[derive(Debug)]
pub struct Etcd {
    members: Vec<Member>,
    tls: Option<Certificate>,
    folder: tempfile::TempDir,
    /// What every call of `etcdctl` gets beside the endpoints.
    login: Option<String>,
}

#[derive(Debug)]
struct Member {
    name: String,
    client: u16,
    peer: u16,
    process: Option<Process>,
}

/// Files by which clients reach members over TLS.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// The certificate, which is its own authority.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Etcd {
    /// Starts a cluster and waits until it has a leader; `None` if etcd is not installed.
    ///
    /// # Panics
    /// When it does not come to life.
    pub fn start(count: usize, tls: Option<Certificate>) -> Option<Self> {
        if !require("etcd", "etcd-server") || !require("etcdctl", "etcd-client") {
            return None;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let members = (0..count).map(|number| Member {
            name: format!("m{number}"),
            client: free_port(),
            peer: free_port(),
            process: None,
        });
        let mut this = Self { members: members.collect(), tls, folder, login: None };
        for number in 0..count {
            this.begin(number);
        }
        wait_until("etcd to have a leader", || this.leader().is_some());
        Some(this)
    }

    /// `host:port` of each, with commas between.
    pub fn members(&self) -> String {
        let all: Vec<_> = self.members.iter().map(|member| format!("127.0.0.1:{}", member.client)).collect();
        all.join(",")
    }

    /// The member that leads, if there is one.
    pub fn leader(&self) -> Option<usize> {
        (0..self.members.len()).find(|&number| {
            let member = &self.members[number];
            if member.process.is_none() {
                return false;
            }
            let output =
                self.run(&format!("127.0.0.1:{}", member.client), &["endpoint", "status", "-w", "json"]);
            let Ok(answer) = serde_json::from_slice::<Value>(&output.stdout) else { return false };
            let status = &answer[0]["Status"];
            status["leader"].is_number() && status["leader"] == status["header"]["member_id"]
        })
    }

    /// `kill -9`.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill(&mut self, number: usize) {
        self.members[number].process.take().expect("runs").kill();
    }

    /// Starts a member that was killed.
    pub fn begin(&mut self, number: usize) {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let all: Vec<_> = self
            .members
            .iter()
            .map(|member| format!("{}=http://127.0.0.1:{}", member.name, member.peer))
            .collect();
        let member = &self.members[number];
        let (client, peer) =
            (format!("{scheme}://127.0.0.1:{}", member.client), format!("http://127.0.0.1:{}", member.peer));
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(self.folder.path().join(&member.name)).args(["--name", &member.name]);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &all.join(","), "--logger", "zap", "--log-level", "error"]);
        if let Some(Certificate { certificate, key }) = &self.tls {
            command.arg("--cert-file").arg(certificate).arg("--key-file").arg(key);
        }
        self.members[number].process = Some(Process::start(&mut command));
    }

    /// `etcdctl` with all members.
    ///
    /// # Panics
    /// When it fails.
    pub fn ctl(&self, arguments: &[&str]) -> Output {
        let output = self.run(&self.members(), arguments);
        assert!(
            output.status.success(),
            "etcdctl {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        output
    }

    /// Asks for a user from now on: `root`, and one who may do anything below a prefix.
    ///
    /// # Panics
    /// When it cannot be set up.
    pub fn guard(&mut self, user: &str, password: &str, prefix: &str) {
        self.ctl(&["user", "add", "root:r"]);
        self.ctl(&["user", "grant-role", "root", "root"]);
        self.ctl(&["user", "add", &format!("{user}:{password}")]);
        self.ctl(&["role", "add", "fleet"]);
        self.ctl(&["role", "grant-permission", "--prefix=true", "fleet", "readwrite", &format!("{prefix}/")]);
        self.ctl(&["user", "grant-role", user, "fleet"]);
        self.ctl(&["auth", "enable"]);
        self.login = Some("--user=root:r".to_owned());
    }

    fn run(&self, endpoints: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", endpoints, "--command-timeout=3s"]);
        if let Some(Certificate { certificate, .. }) = &self.tls {
            command.arg("--cacert").arg(certificate);
        }
        command.args(&self.login).args(arguments).output().expect("etcdctl starts")
    }

    /// A place for files that goes with the cluster.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Certificate {
    /// Writes what a certificate for 127.0.0.1 consists of.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(folder: &Path, certificate: &str, key: &str) -> Self {
        let this = Self { certificate: folder.join("cert.pem"), key: folder.join("key.pem") };
        fs::write(&this.certificate, certificate).expect("written");
        fs::write(&this.key, key).expect("written");
        this
    }
}
