//! One client and one fault: a pull without a mirror, one through a node, and one when all is well again.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use longshore_interop::{Fault, Faulty, Process, Trouble, free_port, longshore, wait_until};
use tempfile::TempDir;

use super::{
    client::{Client, End, Outcome, REGISTRY, Way},
    image::{Image, is_sound},
};

/// What a pull through a node may take longer than one without. The node asks a hung directory for 8 s; a registry that
/// fails four times over, with pauses, and again for each time that a client comes back for the rest. The rest of it is
/// room for a busy machine.
pub(crate) const ALLOWANCE: Duration = Duration::from_secs(20);
/// How long a pull is watched that goes wrong without a mirror too, by being silent.
const SILENCE: Duration = Duration::from_secs(6);
/// How long any pull is watched. A node gives a registry 40 s for an answer, with all attempts.
pub(crate) const PATIENCE: Duration = Duration::from_secs(150);
/// How long a pull is watched through a node that waits for a silent registry, which gets 15 s for each answer.
const SILENCE_AT_NODE: Duration = Duration::from_secs(30);

/// What all cells share.
pub(crate) struct Bench {
    pub(crate) registry: SocketAddr,
    pub(crate) image: Image,
    pub(crate) authority: Authority,
    tokens: Option<SocketAddr>,
}

/// How a cell ended.
#[derive(Clone)]
pub(crate) struct Verdict {
    /// For the table.
    pub(crate) cell: String,
    /// What is worse than without a mirror.
    pub(crate) worse: Vec<String>,
}

/// A node, and how to start it again.
pub(crate) struct Node {
    pub(crate) process: Process,
    pub(crate) mirror: String,
    pub(crate) folder: Folder,
}

/// A folder that goes with the node, or somebody else's.
pub(crate) enum Folder {
    Own(TempDir),
    Given(PathBuf),
}

impl Folder {
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Own(folder) => folder.path(),
            Self::Given(path) => path,
        }
    }
}

impl Node {
    pub(crate) fn start(front: &Faulty, arguments: &[&str]) -> Self {
        Self::within(front, Folder::Own(tempfile::tempdir().expect("a folder")), "127.0.0.1:0", arguments)
    }

    /// One in a folder, in which another may have been before, with its mirror at an address.
    pub(crate) fn at(front: &Faulty, folder: &Path, mirror: &str, arguments: &[&str]) -> Self {
        Self::within(front, Folder::Given(folder.to_owned()), mirror, arguments)
    }

    fn within(front: &Faulty, folder: Folder, mirror: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(longshore());
        command.args(["node", "--json", "--peer-listen", "127.0.0.1:0", "--mirror-listen", mirror]);
        for name in [REGISTRY, "docker.io"] {
            command.args(["--upstream", &format!("{name}=http://{}", front.address())]);
        }
        command.arg("--data").arg(folder.path().join("data")).arg("--socket").arg(folder.path().join("sock"));
        let mut process = Process::start(command.args(arguments));
        let mirror = process.event("listening")["mirrors"][0].as_str().expect("an address").to_owned();
        Self { process, mirror, folder }
    }

    /// Where its blobs lie.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Ends it as a service manager does, and looks at its store.
    pub(crate) fn end(mut self) -> Result<usize, String> {
        self.process.terminate();
        self.process.wait();
        is_sound(&self.data())
    }
}

/// A certificate for Docker Hub's name, and its authority.
pub(crate) struct Authority {
    folder: TempDir,
}

impl Authority {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let certified = rcgen::generate_simple_self_signed(vec!["registry-1.docker.io".to_owned()])
            .expect("a certificate");
        let (certificate, key) = (certified.cert.pem(), certified.signing_key.serialize_pem());
        fs::write(folder.path().join("ca.pem"), &certificate).expect("written");
        fs::write(folder.path().join("both.pem"), certificate + &key).expect("written");
        Self { folder }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// TLS before a front, which is told to lead there.
    pub(crate) fn before(&self, front: &Faulty) -> Process {
        let port = free_port();
        let config = format!(
            "defaults\n  mode tcp\n  timeout connect 10s\n  timeout client 10m\n  timeout server 10m\n\
             listen hub\n  bind 127.0.0.1:{port} ssl crt {}\n  server front {}\n",
            self.folder.path().join("both.pem").display(),
            front.address()
        );
        let path = self.folder.path().join(format!("{port}.cfg"));
        fs::write(&path, config).expect("written");
        let process = Process::start(Command::new("haproxy").arg("-f").arg(path));
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        wait_until("haproxy answers", || std::net::TcpStream::connect(address).is_ok());
        front.tunnel_to(address);
        process
    }
}

impl Bench {
    pub(crate) fn new(registry: SocketAddr, image: Image, tokens: Option<SocketAddr>) -> Self {
        Self { registry, tokens, image, authority: Authority::new() }
    }

    /// A fault of the registry.
    pub(crate) fn upstream(&self, client: Client, fault: Fault) -> Verdict {
        let front = Faulty::start(self.registry, &self.image.layer, self.tokens);
        let _tls = (client == Client::Docker).then(|| self.authority.before(&front));
        let authority = self.authority.path();
        let direct = Way { front: &front, mirror: None, authority: &authority };
        let silent = matches!(fault.trouble, Trouble::Hang | Trouble::Stall);
        front.set(Some(fault));
        let without = client.pull(direct, &self.image, if silent { SILENCE } else { PATIENCE });
        let node = Node::start(&front, &["--directory", "none"]);
        let through = Way { mirror: Some(&node.mirror), ..direct };
        front.set(Some(fault));
        let with = client.pull(through, &self.image, if silent { SILENCE_AT_NODE } else { PATIENCE });
        front.set(None);
        let next = client.pull(through, &self.image, PATIENCE);
        let mut worse = Vec::new();
        compare(&without, &with, ALLOWANCE, &mut worse);
        if next.end != End::Done {
            worse.push(format!("the next pull {next}: {}", next.said));
        }
        worse.extend(node.end().err());
        Verdict { cell: format!("{without} → {with}"), worse }
    }
}

/// Says what is worse with a mirror.
pub(crate) fn compare(without: &Outcome, with: &Outcome, allowance: Duration, worse: &mut Vec<String>) {
    let late = with.took > without.took + allowance;
    let bad = match (without.end, with.end) {
        // Nothing is worse than to wait for ever, and nothing better than the image.
        (End::Waiting, End::Done | End::Failed | End::Waiting) | (End::Failed | End::Deceived, End::Done) => {
            false
        }
        (End::Done, End::Done)
        | (End::Failed | End::Deceived, End::Failed)
        | (End::Deceived, End::Deceived) => late,
        (End::Done | End::Failed | End::Deceived, _) | (End::Waiting, End::Deceived) => true,
    };
    if bad {
        worse.push(format!("without {without}, with {with}: {}", with.said));
    }
}
