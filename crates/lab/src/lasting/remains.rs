//! Which labs there are, and how one is ended: by its supervisor, or without it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use api::{Endpoint, LabClient, lab::LabAction};
use rustix::process::{Signal, geteuid};
use tokio::time::{Instant, sleep};

use crate::{
    LabError,
    claim::{self, file},
    links,
};

const SUPERVISOR: &str = "supervisor";
/// How long a supervisor may take to end its lab when asked, and when told by a signal.
const GRACE: (Duration, Duration) = (Duration::from_secs(90), Duration::from_secs(30));
/// How long a directory may stay that nobody holds any more.
const LAST: Duration = Duration::from_secs(3);
/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(50);

/// A lasting lab on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Found {
    /// Its name.
    pub name: String,
    /// Its directory.
    pub directory: PathBuf,
    /// Where its API listens.
    pub socket: PathBuf,
    /// Its supervisor was killed: nothing in it can be changed any more, only removed.
    pub dead: bool,
}

/// How a lab was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Down {
    /// By its supervisor.
    Ended,
    /// Without it: it was dead, or did not end, and what was left is removed.
    Cleared,
}

impl Found {
    /// The unix socket of a node of it.
    ///
    /// # Errors
    /// There is no such node, or it does not run.
    pub fn node(&self, name: &str) -> Result<PathBuf, LabError> {
        let sockets = fs::read_dir(&self.directory).map_err(file(&self.directory))?;
        let names = sockets.filter_map(|entry| {
            let path = entry.ok()?.path();
            let name = path.file_stem()?.to_str()?.to_owned();
            let is_node = path.extension().is_some_and(|kind| kind == "sock") && path != self.socket;
            is_node.then_some(name)
        });
        let mut nodes: Vec<String> = names.collect();
        // n2 before n10.
        let number = |name: &str| name.trim_start_matches(|c: char| !c.is_ascii_digit()).parse::<u64>().ok();
        nodes.sort_unstable_by_key(|name| (name.chars().next(), number(name), name.clone()));
        if nodes.iter().any(|node| node == name) {
            return Ok(node_socket(&self.directory, name));
        }
        Err(LabError::NoNode { lab: self.name.clone(), node: name.to_owned(), nodes })
    }
}

/// The unix socket of a lab's API.
pub(crate) fn socket(own: &Path) -> PathBuf {
    own.join("lab.sock")
}

/// The unix socket of a node of a lab.
pub(crate) fn node_socket(own: &Path, node: &str) -> PathBuf {
    own.join(format!("{node}.sock"))
}

/// Writes down who keeps a lab.
pub(crate) fn sign(own: &Path, pid: u32) -> Result<(), LabError> {
    let path = own.join(SUPERVISOR);
    let start = claim::start_of(pid).unwrap_or_default();
    fs::write(&path, format!("{pid} {start}")).map_err(file(&path))
}

/// Takes a lab's directory out of sight, to be removed: where it is then, if that was possible.
pub(crate) fn hide(own: &Path) -> Option<PathBuf> {
    let name = format!(".{}-{}", own.file_name()?.to_str()?, std::process::id());
    let hidden = own.with_file_name(name);
    fs::rename(own, &hidden).ok()?;
    // One that is not signed is no lab.
    let _ = fs::remove_file(hidden.join(SUPERVISOR));
    Some(hidden)
}

/// The lasting labs of this user.
///
/// # Errors
/// Their directories cannot be read.
pub fn running() -> Result<Vec<Found>, LabError> {
    let base = claim::base();
    let directories = claim::directories(&base).map_err(file(&base))?;
    let labs = directories.into_iter().filter(|own| own.join(SUPERVISOR).is_file()).filter_map(|own| {
        // Hidden is what is being removed.
        let name = own.file_name()?.to_str().filter(|name| !name.starts_with('.'))?.to_owned();
        Some(Found { name, socket: socket(&own), dead: claim::is_over(&own), directory: own })
    });
    Ok(labs.collect())
}

/// The lab of that name, or the only one.
///
/// # Errors
/// There is none, or there are several.
pub fn find(name: Option<&str>) -> Result<Found, LabError> {
    let mut labs = running()?;
    match name {
        Some(name) => labs.into_iter().find(|lab| lab.name == name),
        None => {
            if labs.iter().filter(|lab| !lab.dead).count() == 1 {
                labs.retain(|lab| !lab.dead);
            }
            if labs.len() > 1 {
                return Err(LabError::WhichLab { names: labs.into_iter().map(|lab| lab.name).collect() });
            }
            labs.pop()
        }
    }
    .ok_or_else(|| LabError::NoLab { name: name.map(str::to_owned) })
}

/// Ends a lab and removes all of it, also when its supervisor is dead or does not answer.
///
/// # Errors
/// What could not be removed.
pub async fn down(lab: &Found) -> Result<Down, LabError> {
    let own = &lab.directory;
    if !lab.dead {
        let client = LabClient::new(&Endpoint::Unix(lab.socket.clone()));
        let client = client.map_err(|error| LabError::Client(error.to_string()))?;
        // One that does not answer is told by a signal.
        if client.act(&LabAction::Down).await.is_ok() && is_gone(own, GRACE.0).await {
            return Ok(Down::Ended);
        }
        let keeper = fs::read_to_string(own.join(SUPERVISOR)).unwrap_or_default();
        let keeper = keeper.trim().split_once(' ');
        if let Some((Ok(pid), Ok(start))) = keeper.map(|(pid, start)| (pid.parse(), start.parse())) {
            claim::signal(pid, start, Signal::TERM);
            if is_gone(own, GRACE.1).await {
                return Ok(Down::Ended);
            }
            claim::signal(pid, start, Signal::KILL);
            let until = Instant::now() + GRACE.1;
            while !claim::is_over(own) && Instant::now() < until {
                sleep(LOOK).await;
            }
        }
    }
    if !clear(own).await? {
        let reason = format!("{} is still held, or cannot be removed", own.display());
        return Err(LabError::Stays { name: lab.name.clone(), reason });
    }
    Ok(Down::Cleared)
}

/// Removes what a lab has left that nobody keeps any more: processes, files, namespaces. False where something stays.
pub(crate) async fn clear(own: &Path) -> Result<bool, LabError> {
    let (base, directory) = (claim::base(), own.to_owned());
    let removed = tokio::task::spawn_blocking(move || claim::remove(&base, &directory));
    let removed = removed.await.map_err(|_| LabError::Thread)??;
    if let (true, true, Some(id)) =
        (removed, geteuid().is_root(), own.file_name().and_then(|name| name.to_str()))
        && links::has_program("ip", links::PATH)
    {
        links::remove(id).await?;
    }
    Ok(removed)
}

/// Whether a lab's directory goes within that time.
async fn is_gone(own: &Path, patience: Duration) -> bool {
    let mut until = Instant::now() + patience;
    let mut held = true;
    while own.exists() {
        if held && claim::is_over(own) {
            // Its lock goes a moment before it, unless the supervisor has died in the middle.
            held = false;
            until = until.min(Instant::now() + LAST);
        }
        if Instant::now() > until {
            return false;
        }
        sleep(LOOK).await;
    }
    true
}
