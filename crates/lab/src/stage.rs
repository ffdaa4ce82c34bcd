//! What a lab has made and started, so that all of it can be taken away again: at its end, or by the next lab when it
//! was killed.
//!
//! Each lab has a directory `/tmp/longshore-lab-UID/ID` with a lock that is held while it runs, and a list of the
//! processes that it started. It is always under `/tmp`: the nodes' unix sockets lie there, and may have only 108
//! bytes of path.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Write as _},
    net::TcpListener,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, geteuid, kill_process};

use crate::{
    LabConfig, LabError, links,
    plan::{Network, Plan},
    process,
    process::Process,
    registry::Registry,
};

const LOCK: &str = "lock";
const CHILDREN: &str = "children";
/// How often, and how long apart, the lock of all labs is tried.
const TRIES: (u32, Duration) = (200, Duration::from_millis(50));

/// All that a lab has made and started.
pub(crate) struct Stage {
    id: String,
    /// Record and sockets.
    own: PathBuf,
    /// Image, configurations, logs, data.
    work: PathBuf,
    /// Where everything lies is the user's, and stays.
    keeps_work: bool,
    network: Network,
    children: File,
    processes: Vec<Process>,
    registry: Option<Registry>,
    // Last, so that it is given back when all else is gone.
    _lock: File,
    _network_lock: Option<File>,
}

impl Stage {
    /// A new one, after what killed labs have left is removed.
    pub(crate) async fn set(config: &LabConfig) -> Result<Self, LabError> {
        let base = PathBuf::from(format!("/tmp/longshore-lab-{}", geteuid().as_raw()));
        if let Some(path) = &config.directory {
            let is_empty = fs::read_dir(path).map_or(true, |mut entries| entries.next().is_none());
            if !is_empty {
                return Err(LabError::NotEmpty { path: path.clone() });
            }
        }
        let claimed = {
            let base = base.clone();
            tokio::task::spawn_blocking(move || claim(&base)).await.map_err(|_| LabError::Thread)?
        };
        let (id, lock) = claimed.map_err(file(&base))?;
        let own = base.join(&id);
        let work = config.directory.clone().unwrap_or_else(|| own.join("work"));
        fs::create_dir_all(&work).map_err(file(&work))?;
        // Nodes run there with paths of this configuration.
        let work = fs::canonicalize(&work).map_err(file(&work))?;
        let list = own.join(CHILDREN);
        let children = OpenOptions::new().create(true).append(true).open(&list).map_err(file(&list))?;
        let (network, network_lock) = if config.namespaces {
            (Network::Namespaces, None)
        } else {
            let (block, lock) = claim_block(&base)?;
            (Network::Loopback(block), Some(lock))
        };
        let stage = Self {
            id,
            own,
            work,
            keeps_work: config.directory.is_some(),
            network,
            children,
            processes: Vec::new(),
            registry: None,
            _lock: lock,
            _network_lock: network_lock,
        };
        if geteuid().is_root() {
            let swept = stage.sweep_namespaces(&base).await;
            if config.namespaces {
                swept?;
            }
        }
        Ok(stage)
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn network(&self) -> Network {
        self.network
    }

    pub(crate) fn work(&self) -> &Path {
        &self.work
    }

    /// A node's unix socket.
    pub(crate) fn socket(&self, node: &str) -> PathBuf {
        self.own.join(format!("{node}.sock"))
    }

    /// The network namespace of a host, if hosts have one.
    pub(crate) fn namespace(&self, host: &str) -> Option<String> {
        (self.network == Network::Namespaces).then(|| links::namespace(&self.id, host))
    }

    /// Starts a process, and writes down that it is ours.
    pub(crate) fn start(&mut self, name: &str, program: &Path, arguments: &[&str]) -> Result<(), LabError> {
        let (namespace, log) = (self.namespace(name), self.work.join(format!("{name}.log")));
        let process = Process::start(name, program, arguments, namespace.as_deref(), &log)?;
        if let Some((pid, start)) = process.pid().and_then(|pid| Some((pid, start_of(pid)?))) {
            writeln!(self.children, "{pid} {start}").map_err(file(&self.own.join(CHILDREN)))?;
        }
        self.processes.push(process);
        Ok(())
    }

    pub(crate) fn keep(&mut self, registry: Registry) {
        self.registry = Some(registry);
    }

    /// Fails if a process has ended.
    pub(crate) fn check(&mut self) -> Result<(), LabError> {
        self.processes.iter_mut().try_for_each(Process::check)
    }

    /// The end of a process's log.
    pub(crate) fn tail(&self, name: &str) -> String {
        self.processes.iter().find(|process| process.name == name).map(Process::tail).unwrap_or_default()
    }

    /// Takes everything away. What cannot be is left for the next lab, with a warning.
    pub(crate) async fn strike(mut self) {
        process::stop(&mut self.processes).await;
        if let Some(registry) = self.registry.take() {
            registry.stop().await;
        }
        if self.network == Network::Namespaces
            && let Err(error) = links::remove(&self.id).await
        {
            tracing::warn!(%error, "network namespaces are left behind; the next lab removes them");
        }
        if self.keeps_work {
            tracing::info!("logs and data lie in {}", self.work.display());
        }
        if let Err(error) = fs::remove_dir_all(&self.own) {
            tracing::warn!(%error, "{} is left behind; the next lab removes it", self.own.display());
        }
    }

    /// Removes the namespaces of labs that run no more.
    async fn sweep_namespaces(&self, base: &Path) -> Result<(), LabError> {
        for id in links::ids().await? {
            // A lab has its lock before it has namespaces.
            if id != self.id && is_over(&base.join(&id)) {
                tracing::info!("removing the network namespaces of an earlier lab, {id}");
                links::remove(&id).await?;
            }
        }
        Ok(())
    }
}

pub(crate) fn file(path: &Path) -> impl FnOnce(io::Error) -> LabError {
    let path = path.to_owned();
    move |source| LabError::File { path, source }
}

/// Removes what labs have left that run no more, and makes a new lab's directory: its id and its lock.
fn claim(base: &Path) -> io::Result<(String, File)> {
    match DirBuilder::new().mode(0o700).create(base) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let meta = fs::symlink_metadata(base)?;
    if !meta.is_dir() || meta.uid() != geteuid().as_raw() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it belongs to somebody else"));
    }
    // One lab at a time does this.
    let all = lock_file(&base.join(LOCK))?;
    let mut tries = 0;
    while all.try_lock().is_err() {
        tries += 1;
        if tries == TRIES.0 {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "another lab is starting, and takes long"));
        }
        thread::sleep(TRIES.1);
    }
    for entry in fs::read_dir(base)?.flatten() {
        let path = entry.path();
        if path.is_dir() && is_over(&path) {
            kill_children(&path);
            if let Err(error) = fs::remove_dir_all(&path) {
                tracing::warn!(%error, "{} of an earlier lab cannot be removed", path.display());
            }
        }
    }
    loop {
        let id = hash::to_hex(&rand::random::<[u8; 2]>());
        match DirBuilder::new().mode(0o700).create(base.join(&id)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
            Ok(()) => {
                let lock = lock_file(&base.join(&id).join(LOCK))?;
                lock.try_lock().map_err(|error| match error {
                    TryLockError::Error(error) => error,
                    TryLockError::WouldBlock => io::ErrorKind::WouldBlock.into(),
                })?;
                return Ok((id, lock));
            }
        }
    }
}

/// Finds a block of loopback addresses that is free, and keeps other labs from it.
fn claim_block(base: &Path) -> Result<(u8, File), LabError> {
    let mut taken = None;
    for block in 0..Network::BLOCKS {
        let path = base.join(format!("block-{block}"));
        let lock = lock_file(&path).map_err(file(&path))?;
        if lock.try_lock().is_err() {
            continue;
        }
        let plan = Plan::new(0, 1, Network::Loopback(block));
        let nodes = plan.nodes.iter().flat_map(|node| [node.mirror, node.peer]);
        let bound: Result<Vec<_>, LabError> = [plan.registry, plan.tracker]
            .into_iter()
            .chain(nodes)
            .map(|address| {
                let bound = TcpListener::bind(address);
                bound.map_err(|source| LabError::Listen { what: "the lab".into(), address, source })
            })
            .collect();
        match bound {
            Ok(_) => return Ok((block, lock)),
            Err(error) => taken = Some(error),
        }
    }
    Err(taken.unwrap_or(LabError::TooManyLabs))
}

fn lock_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).open(path)
}

/// Whether nobody holds the lock of a lab's directory, or there is none.
fn is_over(own: &Path) -> bool {
    match File::open(own.join(LOCK)) {
        Ok(lock) => lock.try_lock().is_ok(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Kills the processes that a lab started and that still run.
fn kill_children(own: &Path) {
    let list = fs::read_to_string(own.join(CHILDREN)).unwrap_or_default();
    for (pid, start) in list.lines().filter_map(|line| line.split_once(' ')) {
        let Ok(number) = pid.parse::<u32>() else { continue };
        // The number may be another process's by now; number and start together are not.
        if start_of(number).is_none_or(|now| now.to_string() != start) {
            continue;
        }
        if let Some(pid) = i32::try_from(number).ok().and_then(Pid::from_raw) {
            tracing::info!("ending a process of an earlier lab, {number}");
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// When a process started, in ticks since the machine did (`starttime` of proc(5)).
fn start_of(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything. State is field 3, the start 22.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(22 - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A process that a failing test leaves no more than a passing one.
    struct Sleeper(Child);

    impl Sleeper {
        fn start() -> Self {
            let mut command = Command::new("sleep");
            command.arg("1000").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            Self(command.spawn().expect("starts"))
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn a_killed_lab_is_removed_with_its_processes_and_a_running_one_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let base = folder.path().join("labs");
        let (running, _held) = claim(&base).expect("claims");
        let (killed, lock) = claim(&base).expect("claims");
        let (mut child, mut other) = (Sleeper::start(), Sleeper::start());
        let start = start_of(child.0.id()).expect("runs");
        // Another process has the number that a child once had.
        let list = format!("{} {start}\n{} {}\nnonsense\n", child.0.id(), other.0.id(), start + 1_000_000);
        fs::write(base.join(&killed).join(CHILDREN), list).expect("written");
        drop(lock);
        // Another test that starts a process just now has a copy of the lock until that process's exec.
        while !is_over(&base.join(&killed)) {
            thread::sleep(Duration::from_millis(5));
        }
        let (new, _lock) = claim(&base).expect("claims");
        let there = [&running, &new, &killed].map(|id| base.join(id).exists());
        assert_eq!(there, [true, true, false]);
        assert!(!child.0.wait().expect("ends").success());
        assert!(other.0.try_wait().expect("asked").is_none(), "a stranger was killed");
    }

    #[test]
    fn a_directory_of_somebody_else_is_not_used() {
        let folder = tempfile::tempdir().expect("a folder");
        let base = folder.path().join("labs");
        std::os::unix::fs::symlink(folder.path(), &base).expect("linked");
        assert_eq!(claim(&base).expect_err("refused").kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn two_labs_have_different_addresses() {
        let base = tempfile::tempdir().expect("a folder");
        let (first, _held) = claim_block(base.path()).expect("a block");
        let (second, _also_held) = claim_block(base.path()).expect("a block");
        assert_ne!(first, second);
    }
}
