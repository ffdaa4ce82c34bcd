//! The tracker and the node as services: what they tell systemd, and the rights that the tracker gives up.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "helpers of tests, outside the functions that clippy knows for tests"
)]

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        net::UnixDatagram,
    },
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use interop::{Process, free_port, skip, wait_until};

fn longshore() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longshore"));
    // What the developer's own environment sets is not under test.
    command.env_clear().env("PATH", "/usr/bin:/bin");
    command
}

/// What stands in for systemd: a socket on which services tell how they are.
struct Manager {
    socket: UnixDatagram,
    folder: tempfile::TempDir,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = UnixDatagram::bind(folder.path().join("notify")).expect("binds");
        socket.set_read_timeout(Some(Duration::from_secs(60))).expect("set");
        Self { socket, folder }
    }

    fn start(&self, command: &mut Command) -> Process {
        Process::start(command.env("NOTIFY_SOCKET", self.folder.path().join("notify")))
    }

    /// The lines of the next message.
    fn told(&self) -> Vec<String> {
        let mut message = [0; 4096];
        let length = self.socket.recv(&mut message).expect("a message in time");
        String::from_utf8_lossy(&message[..length]).lines().map(str::to_owned).collect()
    }
}

#[test]
fn the_manager_is_told_when_a_tracker_serves_reloads_lives_and_stops() {
    let manager = Manager::new();
    let list = manager.folder.path().join("deny");
    fs::write(&list, "").expect("written");
    let mut command = longshore();
    let mut tracker =
        manager.start(command.args(["tracker", "--listen", "127.0.0.1:0", "--json", "--deny"]).arg(&list));
    let address = tracker.event("listening")["addresses"][0].as_str().expect("an address").to_owned();
    let ready = manager.told();
    assert_eq!(ready[0], "READY=1");
    assert!(ready[1].starts_with("STATUS=serves") && ready[1].contains(&address), "{ready:?}");

    let hang_up = |tracker: &Process| {
        let sent = Command::new("kill").args(["-HUP", &tracker.id().to_string()]).status().expect("runs");
        assert!(sent.success());
        let reloading = manager.told();
        assert_eq!(reloading[0], "RELOADING=1");
        let micros = reloading[1].strip_prefix("MONOTONIC_USEC=").expect("since when");
        assert!(micros.parse::<u64>().is_ok_and(|micros| micros > 0), "{micros}");
        let ready = manager.told();
        assert_eq!(ready[0], "READY=1");
        ready[1].clone()
    };
    let anew = format!("read anew: {}; all peers are kept", list.display());
    assert_eq!(hang_up(&tracker), format!("STATUS={anew}"));
    wait_until("the same line", || tracker.stderr().contains(&anew));
    fs::write(&list, "nonsense\n").expect("written");
    let refused = hang_up(&tracker);
    assert!(refused.starts_with("STATUS=nothing is changed") && refused.contains("deny"), "{refused}");

    tracker.terminate();
    assert_eq!(manager.told()[0], "STOPPING=1");
    assert!(tracker.wait().success());
}

#[test]
fn signs_of_life_come_as_often_as_they_are_asked_for() {
    let manager = Manager::new();
    let mut command = longshore();
    let tracker =
        manager.start(command.args(["tracker", "--listen", "127.0.0.1:0"]).env("WATCHDOG_USEC", "200000"));
    assert_eq!(manager.told()[0], "READY=1");
    for _ in 0..3 {
        assert_eq!(manager.told(), ["WATCHDOG=1"]);
    }
    drop(tracker);
    // They are another's.
    let manager = Manager::new();
    let mut command = longshore();
    command.env("WATCHDOG_USEC", "200000").env("WATCHDOG_PID", "1");
    let tracker = manager.start(command.args(["tracker", "--listen", "127.0.0.1:0"]));
    assert_eq!(manager.told()[0], "READY=1");
    tracker.terminate();
    assert_eq!(manager.told()[0], "STOPPING=1");
}

#[test]
fn the_manager_is_told_when_a_node_serves_and_stops() {
    let manager = Manager::new();
    let at = |name: &str| manager.folder.path().join(name);
    let mut command = longshore();
    command.arg("node").arg("--data").arg(at("data")).arg("--socket").arg(at("node.sock"));
    command.args(["--peer-listen", "127.0.0.1:0", "--mirror-listen", "127.0.0.1:0"]);
    let mut node = manager.start(&mut command);
    assert_eq!(manager.told()[0], "READY=1");
    assert!(at("node.sock").exists());
    node.terminate();
    assert_eq!(manager.told()[0], "STOPPING=1");
    assert!(node.wait().success());
}

/// What stands behind a word in the status of each thread of a process.
fn threads(process: &Process, word: &str) -> Vec<Vec<String>> {
    let tasks = fs::read_dir(format!("/proc/{}/task", process.id())).expect("runs");
    let status = |task: fs::DirEntry| fs::read_to_string(task.path().join("status")).ok();
    let line = |status: String| {
        let line = status.lines().find_map(|line| line.strip_prefix(word)).expect("the word").to_owned();
        line.split_whitespace().map(str::to_owned).collect()
    };
    tasks.filter_map(|task| status(task.ok()?)).map(line).collect()
}

fn id(of: &str) -> String {
    let output: Output = Command::new("id").args([of, "nobody"]).output().expect("runs");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn a_tracker_started_by_root_gives_up_all_rights_in_all_threads() {
    if !rustix::process::geteuid().is_root() {
        return skip("only root has rights to give up");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("its own folder");
    let data = at("data");
    fs::create_dir(&data).expect("made");
    let (uid, gid) = (id("-u"), id("-g"));
    let ids = (uid.parse().ok(), gid.parse().ok());
    std::os::unix::fs::chown(&data, ids.0, ids.1).expect("root may");
    let start = |more: &[&str]| {
        let mut command = longshore();
        command.args(["tracker", "--json", "--listen", "127.0.0.1:0", "--user", "nobody"]);
        command.arg("--listen").arg(format!("unix:{}", at("http.sock").display()));
        command.arg("--directory").arg(data.join("directory.redb")).args(more);
        command
    };
    let mut tracker = Process::start(&mut start(&[]));
    tracker.event("listening");
    let four = |id: &String| vec![id.clone(); 4];
    let (uids, gids, groups) =
        (threads(&tracker, "Uid:"), threads(&tracker, "Gid:"), threads(&tracker, "Groups:"));
    assert!(uids.len() > 4, "threads: {uids:?}");
    assert!(uids.iter().all(|found| *found == four(&uid)), "{uids:?}");
    assert!(gids.iter().all(|found| *found == four(&gid)), "{gids:?}");
    assert!(groups.iter().all(|found| *found == [gid.clone()]), "{groups:?}");
    for rights in ["CapEff:", "CapPrm:", "CapAmb:"] {
        assert!(threads(&tracker, rights).iter().all(|found| *found == ["0000000000000000"]), "{rights}");
    }
    // What it makes and what it owns is that user's.
    for file in [data.join("directory.redb"), at("http.sock")] {
        let there = fs::metadata(&file).expect("there");
        assert_eq!(
            (there.uid(), there.gid()),
            (ids.0.expect("a number"), ids.1.expect("a number")),
            "{}",
            file.display()
        );
    }
    // A list that only root may read is refused, and all goes on.
    let list = at("keys");
    fs::write(&list, "k\n").expect("written");
    fs::set_permissions(&list, fs::Permissions::from_mode(0o600)).expect("set");
    let mut refused = Process::start(
        start(&["--tls-listen", "127.0.0.1:0", "--tls-certificate"]).arg(&list).arg("--tls-key").arg(&list),
    );
    // Two trackers do not share a socket either, and the first is left alone.
    assert_eq!(refused.wait().code(), Some(1));
    assert!(refused.stderr().contains("another process listens"), "{}", refused.stderr());
    tracker.terminate();
    assert!(tracker.wait().success());
    // The folder is root's: the socket stays, and the next start replaces it.
    let mut refused = Process::start(
        start(&["--tls-listen", "127.0.0.1:0", "--tls-certificate"]).arg(&list).arg("--tls-key").arg(&list),
    );
    assert_eq!(refused.wait().code(), Some(2));
    for words in ["/keys", "Permission denied", "that user must be able to read it"] {
        assert!(refused.stderr().contains(words), "{words} in {}", refused.stderr());
    }
    // A list says so too.
    let mut refused = Process::start(start(&["--keys"]).arg(&list));
    assert_eq!(refused.wait().code(), Some(2));
    assert!(refused.stderr().contains("that user must be able to read it"), "{}", refused.stderr());
    // And a directory's file.
    let directory = data.join("directory.redb");
    std::os::unix::fs::chown(&directory, Some(0), Some(0)).expect("root may");
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o600)).expect("set");
    let mut refused = Process::start(&mut start(&[]));
    assert_eq!(refused.wait().code(), Some(2));
    fs::remove_file(&directory).expect("removed");
    assert!(refused.stderr().contains("that user must be able to read and write"), "{}", refused.stderr());
    // The port for the cluster is bound with root's rights as well: only root may have one below 1024.
    fs::write(&list, "k".repeat(40)).expect("written");
    fs::set_permissions(&list, fs::Permissions::from_mode(0o644)).expect("set");
    let of_cluster =
        ["--cluster-listen", "127.0.0.77:819", "--cluster", "127.0.0.77:820", "--cluster-key-file"];
    let mut tracker = Process::start(start(&of_cluster).arg(&list));
    tracker.event("listening");
    std::net::TcpStream::connect("127.0.0.77:819").expect("bound");
}

#[test]
fn a_cluster_whose_trackers_start_one_after_the_other_warns_of_nothing() {
    let members = [free_port(), free_port()].map(|port| format!("127.0.0.1:{port}"));
    let start = |own: &String| {
        let mut command = longshore();
        command.env("LONGSHORE_TRACKER_CLUSTER_KEY", "k".repeat(40)).args(["-vv", "tracker", "--json"]);
        command.args(["--listen", "127.0.0.1:0", "--cluster-listen", own, "--cluster", &members.join(",")]);
        Process::start(&mut command)
    };
    let says = |tracker: &Process, words: &str| tracker.stderr().contains(words);
    let one = start(&members[0]);
    wait_until("the first to miss the second", || says(&one, "no connection to this member yet"));
    let two = start(&members[1]);
    for tracker in [&one, &two] {
        wait_until("both to be connected", || {
            says(tracker, "this member of the cluster is told of our peers")
        });
        assert!(!says(tracker, "WARN") && !says(tracker, "ERROR"), "{}", tracker.stderr());
    }
}

#[test]
fn a_tracker_may_open_as_many_files_as_the_system_lets_it() {
    let mut command = Command::new("/bin/sh");
    let line = "ulimit -S -n 256; exec \"$0\" tracker --json --listen 127.0.0.1:0";
    command.env_clear().args(["-c", line, env!("CARGO_BIN_EXE_longshore")]);
    let mut tracker = Process::start(&mut command);
    tracker.event("listening");
    let limits = fs::read_to_string(format!("/proc/{}/limits", tracker.id())).expect("there");
    let files = limits.lines().find(|line| line.starts_with("Max open files")).expect("a line");
    let words: Vec<&str> = files.split_ascii_whitespace().collect();
    assert!(words[3] == words[4] && words[3] != "256", "{files}");
}

#[test]
fn a_tracker_that_may_open_too_few_files_for_its_connections_says_what_to_do() {
    for (most, warns) in [("16384", true), ("400", false)] {
        let mut command = Command::new("/bin/sh");
        let line = "ulimit -n 1000; exec \"$0\" tracker --json --listen 127.0.0.1:0 --workers 1 --max-connections \"$1\"";
        command.env_clear().args(["-c", line, env!("CARGO_BIN_EXE_longshore"), most]);
        let mut tracker = Process::start(&mut command);
        tracker.event("listening");
        let said = tracker.stderr();
        let has_words =
            ["1000 files", "LimitNOFILE", "--max-connections to 488"].map(|words| said.contains(words));
        assert_eq!(has_words, [warns; 3], "{said}");
    }
}

fn refusal(arguments: &[&str]) -> (Option<i32>, String) {
    let output =
        longshore().args(["tracker", "--listen", "127.0.0.1:0"]).args(arguments).output().expect("runs");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn what_cannot_be_a_front_door_is_named_with_exit_code_2() {
    for (arguments, words) in [
        (&["--user", "no-such-user"][..], "no user `no-such-user`"),
        (&["--user", "root"], "name a user without rights"),
        (&["--user", "nobody", "--group", "no-such-group"], "no group `no-such-group`"),
        (&["--group", "nogroup"], "`user`"),
        (&["--tls-listen", "127.0.0.1:0"], "`tls_certificate`"),
        (
            &["--tls-listen", "127.0.0.1:0", "--tls-certificate", "/nonexistent/c", "--tls-key", "k"],
            "/nonexistent/c",
        ),
        (&["--proxy-protocol", "true"], "`trusted_proxies`"),
        (&["--socket-mode", "999"], "three octal digits"),
        (&["--listen", "/run/t.sock"], "unix:/run/"),
    ] {
        let (code, said) = refusal(arguments);
        assert!(code == Some(2) && said.contains(words), "{arguments:?}: {code:?} {said}");
    }
}

#[test]
fn whoever_is_not_root_cannot_become_another() {
    let can = Path::new("/usr/bin/setpriv").exists();
    if !rustix::process::geteuid().is_root() || !can {
        return skip("root and setpriv (util-linux) are needed");
    }
    // The program may lie where nobody else can read it.
    let folder = tempfile::tempdir().expect("a folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("set");
    let program = folder.path().join("longshore");
    fs::copy(env!("CARGO_BIN_EXE_longshore"), &program).expect("copied");
    let as_nobody = |user: &str| {
        let mut command = Command::new("/usr/bin/setpriv");
        command
            .env_clear()
            .args(["--reuid", &id("-u"), "--regid", &id("-g"), "--clear-groups"])
            .arg(&program);
        command.args(["tracker", "--json", "--listen", "127.0.0.1:0", "--user", user]);
        command
    };
    let output = as_nobody("daemon").output().expect("runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && said.contains("only root can become"), "{said}");
    // Whoever is that user already needs nothing.
    let mut tracker = Process::start(&mut as_nobody("nobody"));
    wait_until("the tracker to listen", || tracker.stdout().iter().any(|line| line.contains("listening")));
    assert!(tracker.is_running());
}
