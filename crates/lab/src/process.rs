//! A tracker or node that runs as a process of its own.

use std::{
    ffi::OsStr,
    fs::{File, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, Command},
    time::{Instant, timeout_at},
};

use crate::{LabError, claim, links};

/// How long processes have to end when told to, all together.
const GRACE: Duration = Duration::from_secs(5);
/// How much of a log is shown.
const TAIL: u64 = 2000;

/// A running process. Dropped, it is killed.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) name: String,
    child: Child,
    log: PathBuf,
}

/// What is started, and how.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    /// What it is called here.
    pub(crate) name: &'a str,
    pub(crate) program: &'a Path,
    pub(crate) arguments: &'a [&'a str],
    /// All of its environment but for the path.
    pub(crate) environment: &'a [(&'a str, &'a OsStr)],
    /// The network namespace that it runs in.
    pub(crate) namespace: Option<&'a str>,
    /// Where its output is appended.
    pub(crate) log: &'a Path,
    /// The directory of the lab that it belongs to.
    pub(crate) mark: &'a Path,
}

impl Process {
    /// Starts it. It gets a process group of its own, so that Ctrl-C in the terminal reaches the lab alone, and
    /// nothing of this process's environment, which may configure another node.
    pub(crate) fn start(launch: &Launch<'_>) -> Result<Self, LabError> {
        let failed = |source| LabError::Spawn { name: launch.name.to_owned(), source };
        let mut command = match launch.namespace {
            // It becomes the program by exec, so the process is the program's.
            Some(namespace) => {
                let mut ip = Command::new("ip");
                ip.args(["netns", "exec", namespace]).arg(launch.program);
                ip
            }
            None => Command::new(launch.program),
        };
        let out = OpenOptions::new().create(true).append(true).open(launch.log).map_err(failed)?;
        let err = out.try_clone().map_err(failed)?;
        let child = command
            .args(launch.arguments)
            .env_clear()
            .env("PATH", links::PATH)
            .env("RUST_BACKTRACE", "1")
            .env(claim::MARK, launch.mark)
            .envs(launch.environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        Ok(Self { name: launch.name.to_owned(), child, log: launch.log.to_owned() })
    }

    /// Its number, while it has not been waited for.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Fails if it has ended.
    pub(crate) fn check(&mut self) -> Result<(), LabError> {
        let status = self.child.try_wait().ok().flatten();
        status.map_or(Ok(()), |status| Err(self.ended(status)))
    }

    fn ended(&self, status: ExitStatus) -> LabError {
        LabError::Ended { name: self.name.clone(), status: status.to_string(), log: self.tail() }
    }

    /// The last lines of its log.
    pub(crate) fn tail(&self) -> String {
        tail(&self.log)
    }

    /// Waits for its end, and says how it came, with the last lines of its log.
    pub(crate) async fn ended_by_itself(&mut self) -> LabError {
        match self.child.wait().await {
            Ok(status) => self.ended(status),
            Err(source) => LabError::Spawn { name: self.name.clone(), source },
        }
    }

    /// Ends it: asks it to, and kills it if it does not.
    pub(crate) async fn stop(self) {
        stop(&mut vec![self]).await;
    }

    /// Kills it.
    pub(crate) async fn kill(mut self) {
        // Waits as well; a killed process ends.
        let _ = self.child.kill().await;
    }

    fn terminate(&self) {
        // The number is the child's until it is waited for, which only this struct does.
        let pid = self.pid().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process(pid, Signal::TERM);
        }
    }
}

/// Ends all: asks them, and kills those that do not end in time.
pub(crate) async fn stop(processes: &mut Vec<Process>) {
    processes.iter().for_each(Process::terminate);
    let until = Instant::now() + GRACE;
    for process in processes.iter_mut() {
        if timeout_at(until, process.child.wait()).await.is_err() {
            tracing::warn!("{} does not end, and is killed", process.name);
            // Waits as well; a killed process ends.
            let _ = process.child.kill().await;
        }
    }
    processes.clear();
}

/// The last lines of a log.
pub(crate) fn tail(log: &Path) -> String {
    let read = || {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>((length > TAIL, String::from_utf8_lossy(&bytes).into_owned()))
    };
    match read() {
        // The first line is most likely cut.
        Ok((true, text)) => text.split_once('\n').map_or(text.clone(), |(_, rest)| rest.to_owned()),
        Ok((false, text)) if text.trim().is_empty() => "(it is empty)".to_owned(),
        Ok((false, text)) => text,
        Err(error) => format!("({} cannot be read: {error})", log.display()),
    }
    .trim_end()
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch<'a>(program: &'a Path, arguments: &'a [&'a str], log: &'a Path) -> Launch<'a> {
        Launch { name: "n1", program, arguments, environment: &[], namespace: None, log, mark: log }
    }

    #[tokio::test]
    async fn a_process_that_fails_shows_the_end_of_its_log() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = folder.path().join("log");
        let script = "for i in $(seq 1000); do echo line $i; done; echo the end >&2; exit 3";
        let mut process =
            Process::start(&launch(Path::new("/bin/sh"), &["-c", script], &log)).expect("starts");
        let _ = process.child.wait().await.expect("ends");
        let error = process.check().expect_err("has ended").to_string();
        assert!(error.contains("n1") && error.ends_with("the end") && error.contains("3"), "{error}");
        assert!(error.len() < 3000 && error.contains("\nline 1000"), "{error}");
    }

    #[tokio::test]
    async fn all_end_when_told_to() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = folder.path().join("log");
        let start = || Process::start(&launch(Path::new("/bin/sleep"), &["1000"], &log)).expect("starts");
        let mut all = vec![start(), start()];
        let pid = all.iter().filter_map(Process::pid).next().expect("runs");
        stop(&mut all).await;
        assert!(all.is_empty() && !Path::new(&format!("/proc/{pid}")).exists());
    }
}
