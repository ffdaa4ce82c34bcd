//! The directory of a lab: how it is claimed, who holds it, and how all is removed that a killed lab has left.
//!
//! Each lab has a directory `/tmp/longshore-lab-UID/ID` with a lock that is held while it runs. It is always under
//! `/tmp`: the nodes' unix sockets lie there, and may have only 108 bytes of path. The last lab removes what is above it.
//!
//! Whatever a lab makes is known before it is made, so that nothing can be forgotten by a lab that is killed at any
//! moment. Files lie in the directory. Network namespaces have the lab's id in their names. Processes have the
//! directory in their environment, as [`MARK`], which they and what they start have from their first moment on; their
//! numbers and starts are in a list besides, for those that clean their environment.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read as _, Write as _},
    net::TcpListener,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use rustix::process::{Pid, PidfdFlags, Signal, geteuid, pidfd_open, pidfd_send_signal};

use crate::{
    LabError, links,
    lock::Lock,
    plan::{Network, Plan},
};

/// The variable that tells whose a process is.
pub(crate) const MARK: &str = "LONGSHORE_LAB";

const LOCK: &str = "lock";
/// No lab is named like these.
const BLOCK: &str = ".block-";
const BASE_LOCK: &str = ".lock";
const CHILDREN: &str = "children";
/// How often, and how long apart, the lock of all labs is tried.
const TRIES: (u32, Duration) = (200, Duration::from_millis(50));
/// How often, and how long apart, it is looked whether killed processes have ended.
const ENDS: (u32, Duration) = (100, Duration::from_millis(20));
/// The longest environment that is read.
const ENVIRONMENT: u64 = 1 << 20;

/// A lab's directory, held.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) id: String,
    pub(crate) own: PathBuf,
    children: File,
    // Last, so that it is given back when all else is gone.
    _lock: File,
}

impl Claim {
    /// Writes down that a process is ours.
    pub(crate) fn note(&mut self, pid: u32) -> Result<(), LabError> {
        let Some(start) = start_of(pid) else { return Ok(()) };
        writeln!(self.children, "{pid} {start}").map_err(file(&self.own.join(CHILDREN)))
    }
}

/// Where the directories of this user's labs are.
pub(crate) fn base() -> PathBuf {
    PathBuf::from(format!("/tmp/longshore-lab-{}", geteuid().as_raw()))
}

pub(crate) fn file(path: &Path) -> impl FnOnce(io::Error) -> LabError {
    let path = path.to_owned();
    move |source| LabError::File { path, source }
}

/// Removes what labs have left that run no more, and makes a new lab's directory: of that name, or of one that nobody
/// has. Blocks. Network namespaces are left to [`sweep_namespaces`].
pub(crate) fn claim(base: &Path, name: Option<&str>) -> Result<Claim, LabError> {
    let _all = lock_all(base).map_err(file(base))?;
    for own in directories(base).map_err(file(base))? {
        if is_over(&own) {
            clear(&own);
        }
    }
    loop {
        let id = name.map_or_else(|| hash::to_hex(&rand::random::<[u8; 2]>()), str::to_owned);
        let own = base.join(&id);
        match DirBuilder::new().mode(0o700).create(&own) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match name {
                Some(_) if is_over(&own) => return Err(LabError::Remains { path: own }),
                Some(name) => return Err(LabError::NameTaken { name: name.to_owned() }),
                None => {}
            },
            Err(error) => return Err(file(&own)(error)),
            Ok(()) => {
                // Its directory may have been removed by hand, with processes left.
                kill_marked(&own);
                // Removed with the directory and not before: who looks for it must find it locked.
                let lock = OpenOptions::new().create(true).truncate(false).write(true).open(own.join(LOCK));
                let lock = lock.map_err(file(&own))?;
                // Somebody may just be looking whether anybody holds it.
                let mut tries = 0;
                while let Err(error) = lock.try_lock() {
                    tries += 1;
                    match error {
                        TryLockError::WouldBlock if tries < TRIES.0 => thread::sleep(TRIES.1),
                        TryLockError::WouldBlock => return Err(file(&own)(io::ErrorKind::WouldBlock.into())),
                        TryLockError::Error(error) => return Err(file(&own)(error)),
                    }
                }
                let list = own.join(CHILDREN);
                let children = OpenOptions::new().create(true).append(true).open(&list);
                return Ok(Claim { id, children: children.map_err(file(&list))?, own, _lock: lock });
            }
        }
    }
}

/// Removes the namespaces of labs that run no more, and those that an earlier lab of the id `id` has left: the new one
/// has made none yet.
pub(crate) async fn sweep_namespaces(base: &Path, id: &str) -> Result<(), LabError> {
    for other in links::ids().await? {
        // A lab has its lock before it has namespaces.
        if other == id || is_over(&base.join(&other)) {
            tracing::info!("removing the network namespaces of an earlier lab, {other}");
            links::remove(&other).await?;
        }
    }
    Ok(())
}

/// Kills the processes of a lab that runs no more, and removes its directory. Blocks. False where something stays.
pub(crate) fn remove(base: &Path, own: &Path) -> Result<bool, LabError> {
    let all = lock_all(base).map_err(file(base))?;
    let removed = is_over(own) && clear(own);
    tidy(base, all);
    Ok(removed)
}

/// Removes what the labs have in common as far as none of them needs it. Blocks.
pub(crate) fn leave(base: &Path) {
    match lock_all(base) {
        Ok(all) => tidy(base, all),
        Err(error) => tracing::debug!(%error, "{} is left as it is", base.display()),
    }
}

fn tidy(base: &Path, all: Lock) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(BLOCK)) {
            // One that nobody holds is gone when it is given back.
            let _ = Lock::take(&entry.path());
        }
    }
    drop(all);
    // Where there is anything in it, it stays.
    let _ = fs::remove_dir(base);
}

/// The directories of labs that run, and of labs that were killed.
pub(crate) fn directories(base: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(base) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut all: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|p| p.is_dir()).collect();
    all.sort_unstable();
    Ok(all)
}

/// Whether nobody holds the lock of a lab's directory, or there is none.
pub(crate) fn is_over(own: &Path) -> bool {
    match File::open(own.join(LOCK)) {
        // Shared, so that two who look at once do not take each other for its holder.
        Ok(lock) => lock.try_lock_shared().is_ok(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Finds a block of loopback addresses that is free, and keeps other labs from it.
pub(crate) fn claim_block(base: &Path) -> Result<(u8, Lock), LabError> {
    let mut taken = None;
    for block in 0..Network::BLOCKS {
        let path = base.join(format!("{BLOCK}{block}"));
        let Some(lock) = Lock::take(&path).map_err(file(&path))? else { continue };
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

/// When a process started, in ticks since the machine did (`starttime` of proc(5)).
pub(crate) fn start_of(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything. State is field 3, the start 22.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(22 - 3)?.parse().ok()
}

/// Sends a signal to the process that has this number and began then, and to no other. False where there is none.
pub(crate) fn signal(pid: u32, start: u64, signal: Signal) -> bool {
    let Some(number) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return false };
    // What this names stays the same process, whoever gets the number later.
    let Ok(process) = pidfd_open(number, PidfdFlags::empty()) else { return false };
    start_of(pid) == Some(start) && pidfd_send_signal(&process, signal).is_ok()
}

/// One lab at a time is between beginning and end of this.
fn lock_all(base: &Path) -> io::Result<Lock> {
    for _ in 0..TRIES.0 {
        match hold(base) {
            Ok(Some(lock)) => return Ok(lock),
            // The last lab has just removed the directory.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
            Ok(None) => thread::sleep(TRIES.1),
        }
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "another lab is starting, and takes long"))
}

fn hold(base: &Path) -> io::Result<Option<Lock>> {
    match DirBuilder::new().mode(0o700).create(base) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let meta = fs::symlink_metadata(base)?;
    if !meta.is_dir() || meta.uid() != geteuid().as_raw() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it belongs to somebody else"));
    }
    Lock::take(&base.join(BASE_LOCK))
}

/// Takes away what a lab has left that runs no more, its namespaces aside.
fn clear(own: &Path) -> bool {
    let list = fs::read_to_string(own.join(CHILDREN)).unwrap_or_default();
    let listed = list.lines().filter_map(|line| line.split_once(' '));
    let listed = listed.filter_map(|(pid, start)| Some((pid.parse().ok()?, start.parse().ok()?)));
    kill_all(listed.collect());
    kill_marked(own);
    let removed = fs::remove_dir_all(own);
    if let Err(error) = &removed {
        tracing::warn!(%error, "{} of an earlier lab cannot be removed", own.display());
    }
    removed.is_ok()
}

/// Kills every process of this user that has a lab's directory for its mark.
fn kill_marked(own: &Path) {
    let mark = format!("{MARK}={}", own.display());
    let is_marked = |folder: &Path| {
        let mine = fs::metadata(folder).is_ok_and(|meta| meta.uid() == geteuid().as_raw());
        let mut environment = Vec::new();
        let read = File::open(folder.join("environ"));
        let read = read.map(|file| file.take(ENVIRONMENT).read_to_end(&mut environment));
        mine && read.is_ok() && environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes())
    };
    // What a marked process starts between the looks is found by the next.
    for _ in 0..ENDS.0 {
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let marked = processes.filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let start = start_of(pid)?;
            is_marked(&entry.path()).then_some((pid, start))
        });
        let marked: Vec<(u32, u64)> = marked.collect();
        if marked.is_empty() {
            return;
        }
        kill_all(marked);
    }
}

/// Kills processes, and waits for their end.
fn kill_all(mut processes: Vec<(u32, u64)>) {
    processes.retain(|(pid, start)| signal(*pid, *start, Signal::KILL));
    for (pid, _) in &processes {
        tracing::info!("ended a process of an earlier lab, {pid}");
    }
    for _ in 0..ENDS.0 {
        processes.retain(|(pid, start)| start_of(*pid) == Some(*start) && !is_dead(*pid));
        if processes.is_empty() {
            return;
        }
        thread::sleep(ENDS.1);
    }
}

/// Whether a process has ended, and only waits to be asked how.
fn is_dead(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']))
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A process that a failing test leaves no more than a passing one.
    struct Sleeper(Child);

    impl Sleeper {
        fn start(mark: Option<&Path>) -> Self {
            let mut command = Command::new("sleep");
            command.arg("1000").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command.envs(mark.map(|own| (MARK, own)));
            Self(command.spawn().expect("starts"))
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// Another test that starts a process just now has a copy of the lock until that process's exec.
    fn await_over(own: &Path) {
        while !is_over(own) {
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_killed_lab_is_removed_with_its_processes_and_a_running_one_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let base = folder.path().join("labs");
        let running = claim(&base, None).expect("claims");
        let killed = claim(&base, None).expect("claims");
        let (mut child, mut other) = (Sleeper::start(None), Sleeper::start(None));
        let mut started_unnoticed = Sleeper::start(Some(&killed.own));
        let start = start_of(child.0.id()).expect("runs");
        // Another process has the number that a child once had.
        let list = format!("{} {start}\n{} {}\nnonsense\n", child.0.id(), other.0.id(), start + 1_000_000);
        fs::write(killed.own.join(CHILDREN), list).expect("written");
        let left = killed.own.clone();
        drop(killed);
        await_over(&left);
        let new = claim(&base, None).expect("claims");
        let there = [&running.own, &new.own, &left].map(|own| own.exists());
        assert_eq!(there, [true, true, false]);
        assert!(!child.0.wait().expect("ends").success());
        assert!(!started_unnoticed.0.wait().expect("ends").success());
        assert!(other.0.try_wait().expect("asked").is_none(), "a stranger was killed");
    }

    #[test]
    fn a_name_is_one_labs_while_it_runs() {
        let base = tempfile::tempdir().expect("a folder");
        let base = base.path().join("labs");
        let first = claim(&base, Some("bay")).expect("claims");
        assert!(matches!(claim(&base, Some("bay")), Err(LabError::NameTaken { .. })));
        let own = first.own.clone();
        drop(first);
        await_over(&own);
        assert_eq!(claim(&base, Some("bay")).expect("claims").id, "bay");
    }

    #[test]
    fn the_last_lab_leaves_nothing_and_others_nothing_of_theirs_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let base = folder.path().join("labs");
        let names = || {
            let mut names: Vec<_> =
                directories(&base).expect("there").iter().map(|own| own.join(LOCK)).collect();
            names.extend(
                fs::read_dir(&base).expect("there").flatten().map(|e| e.path()).filter(|p| p.is_file()),
            );
            names
        };
        let (first, second) =
            (claim(&base, Some("a")).expect("claims"), claim(&base, Some("b")).expect("claims"));
        let (number, block) = claim_block(&base).expect("a block");
        // Of a lab that was killed.
        fs::write(base.join(format!("{BLOCK}99")), "").expect("written");
        fs::remove_dir_all(&first.own).expect("removed");
        drop(first);
        leave(&base);
        assert_eq!(names(), [base.join("b").join(LOCK), base.join(format!("{BLOCK}{number}"))]);
        fs::remove_dir_all(&second.own).expect("removed");
        drop((second, block));
        leave(&base);
        assert!(!base.exists());
    }

    #[test]
    fn a_directory_of_somebody_else_is_not_used() {
        let folder = tempfile::tempdir().expect("a folder");
        let base = folder.path().join("labs");
        std::os::unix::fs::symlink(folder.path(), &base).expect("linked");
        let refused = claim(&base, None).expect_err("refused");
        let LabError::File { source, .. } = refused else { panic!("{refused}") };
        assert_eq!(source.kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn two_labs_have_different_addresses() {
        let base = tempfile::tempdir().expect("a folder");
        let (first, _held) = claim_block(base.path()).expect("a block");
        let (second, _also_held) = claim_block(base.path()).expect("a block");
        assert_ne!(first, second);
    }
}
