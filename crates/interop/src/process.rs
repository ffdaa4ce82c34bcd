//! A child process, its output, and its end.

use std::{
    io::{BufRead as _, BufReader, Read},
    os::unix::process::CommandExt as _,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::Value;

use crate::{DEADLINE, wait_until};

/// The most lines of a child's output that are kept.
const MOST_LINES: usize = 10_000;

/// A child process. Ends with the handle, with all of its group.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    out: Lines,
    err: Lines,
}

type Lines = Arc<Mutex<Vec<String>>>;

impl Process {
    /// Starts it, in a group of its own.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(command: &mut Command) -> Self {
        let name = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        let out = keep(child.stdout.take());
        let err = keep(child.stderr.take());
        Self { name, child, out, err }
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it printed so far.
    pub fn stdout(&self) -> Vec<String> {
        lines(&self.out).clone()
    }

    /// What it complained of so far, as one text.
    pub fn stderr(&self) -> String {
        lines(&self.err).join("\n")
    }

    /// Waits for a line of output in which `pick` finds something.
    ///
    /// # Panics
    /// At the deadline, or when the process ends without it.
    pub fn wait_for<T>(&mut self, what: &str, pick: impl Fn(&str) -> Option<T>) -> T {
        let end = Instant::now() + DEADLINE;
        loop {
            // Looked at first: what was printed before the end is still to be seen.
            let ended = self.child.try_wait().expect("waits").is_some();
            if let Some(found) = lines(&self.out).iter().find_map(|line| pick(line)) {
                return found;
            }
            assert!(!ended, "{} ended without: {what}\n{}", self.name, self.stderr());
            assert!(Instant::now() < end, "{}: waited in vain for: {what}\n{}", self.name, self.stderr());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for a line of JSON that is this event.
    ///
    /// # Panics
    /// As [`Self::wait_for`].
    pub fn event(&mut self, event: &str) -> Value {
        self.wait_for(event, |line| {
            let value: Value = serde_json::from_str(line).ok()?;
            (value["event"] == event).then_some(value)
        })
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// At the deadline.
    pub fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        let name = self.name.clone();
        wait_until(&format!("{name} to end"), || {
            status = self.child.try_wait().expect("waits");
            status.is_some()
        });
        // Let the readers see the last lines.
        wait_until("the output's end", || {
            Arc::strong_count(&self.out) == 1 && Arc::strong_count(&self.err) == 1
        });
        status.expect("ended")
    }

    /// Whether it still runs.
    ///
    /// # Panics
    /// Never in practice.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("waits").is_none()
    }

    /// SIGTERM to the process alone.
    ///
    /// # Panics
    /// When it cannot be sent.
    pub fn terminate(&self) {
        kill_process(self.pid(), Signal::TERM).expect("a signal");
    }

    /// SIGHUP to the process alone.
    ///
    /// # Panics
    /// When it cannot be sent.
    pub fn hang_up(&self) {
        kill_process(self.pid(), Signal::HUP).expect("a signal");
    }

    /// SIGSTOP to the process alone: it does nothing more until [`Self::thaw`].
    ///
    /// # Panics
    /// When it cannot be sent.
    pub fn freeze(&self) {
        kill_process(self.pid(), Signal::STOP).expect("a signal");
    }

    /// SIGCONT to the process alone.
    ///
    /// # Panics
    /// When it cannot be sent.
    pub fn thaw(&self) {
        kill_process(self.pid(), Signal::CONT).expect("a signal");
    }

    /// `kill -9` of the process, and waits for its end.
    ///
    /// # Panics
    /// When it cannot be killed.
    pub fn kill(&mut self) {
        self.child.kill().expect("a signal");
        self.child.wait().expect("its end");
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if thread::panicking() {
            let (out, err) = (self.stdout(), self.stderr());
            let last = out.iter().rev().take(5).rev().cloned().collect::<Vec<_>>().join("\n");
            eprintln!("--- {} said last:\n{last}\n{err}", self.name);
        }
        let running = self.child.try_wait().is_ok_and(|status| status.is_none());
        if running {
            let _ = kill_process_group(self.pid(), Signal::TERM);
            let _ = kill_process_group(self.pid(), Signal::CONT);
            for _ in 0..20 {
                if self.child.try_wait().is_ok_and(|status| status.is_some()) {
                    return;
                }
                thread::sleep(Duration::from_millis(50));
            }
            let _ = kill_process_group(self.pid(), Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

/// Reads lines in a thread until the pipe ends.
fn keep(from: Option<impl Read + Send + 'static>) -> Lines {
    let kept = Lines::default();
    let into = kept.clone();
    if let Some(from) = from {
        thread::spawn(move || {
            for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
                let mut lines = lines(&into);
                if lines.len() < MOST_LINES {
                    lines.push(String::from_utf8_lossy(&line).into_owned());
                }
            }
        });
    }
    kept
}

fn lines(kept: &Lines) -> std::sync::MutexGuard<'_, Vec<String>> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}
