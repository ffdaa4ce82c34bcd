//! The binary from outside: what a user types, and what comes of it.

#![allow(clippy::expect_used, reason = "helpers of tests, outside the functions that clippy knows for tests")]

use std::{
    fs,
    io::ErrorKind,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        process::CommandExt as _,
    },
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

use interop::{Process, noise, wait_until};
use serde_json::Value;

fn longshore() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longshore"));
    // What the developer's own environment sets is not under test.
    command.env_clear().env("PATH", "/usr/bin:/bin");
    command
}

fn run(arguments: &[&str]) -> Output {
    longshore().args(arguments).output().expect("runs")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

fn code_and_words(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn create(path: &Path, output: &Path, more: &[&str]) -> Value {
    let made = run(&[&["create", text(path), "-o", text(output), "--json"], more].concat());
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    serde_json::from_slice(&made.stdout).expect("JSON")
}

fn tracker() -> (Process, String) {
    let mut tracker = Process::start(longshore().args(["tracker", "--listen", "127.0.0.1:0", "--json"]));
    let listening = tracker.event("listening");
    let address = listening["addresses"][0].as_str().expect("an address").to_owned();
    (tracker, format!("http://{address}/announce"))
}

/// Starts a seeder, and says where it listens.
fn seed(torrent: &Path, folder: &Path) -> (Process, String) {
    let arguments = ["--listen", "127.0.0.1:0", "--json"];
    let mut seeder = Process::start(longshore().arg("seed").arg(torrent).arg(folder).args(arguments));
    let listen = seeder.event("seeding")["listen"].as_str().expect("an address").to_owned();
    (seeder, listen)
}

fn get(torrent: &str, folder: &Path, more: &[&str]) -> Process {
    let arguments = ["--listen", "127.0.0.1:0", "--json", "--deadline", "60"];
    Process::start(longshore().arg("get").arg(torrent).arg(folder).args(arguments).args(more))
}

#[test]
fn each_entry_of_a_folder_becomes_a_torrent_and_stays_as_long_as_it_is_the_same() {
    let place = tempfile::tempdir().expect("a folder");
    let (from, to) = (place.path().join("from"), place.path().join("new/to"));
    fs::create_dir_all(from.join("album")).expect("made");
    for name in ["a", "album/b", ".hidden"] {
        fs::write(from.join(name), noise(20_000, 1)).expect("written");
    }
    fs::write(from.join("empty"), "").expect("written");
    std::os::unix::fs::symlink("a", from.join("link")).expect("linked");
    let each =
        |more: &[&str]| run(&[&["create", "--each", text(&from), "-o", text(&to), "--json"], more].concat());
    let names = || {
        let entries = fs::read_dir(&to).expect("a folder").map(|entry| entry.expect("one").file_name());
        let mut names: Vec<_> = entries.map(|name| name.into_string().expect("text")).collect();
        names.sort();
        names
    };
    assert!(each(&[]).status.success());
    assert_eq!(names(), ["a.torrent", "album.torrent"]);
    let before = fs::metadata(to.join("a.torrent")).expect("there").ino();
    let again = each(&["--force"]);
    assert_eq!(String::from_utf8_lossy(&again.stdout).lines().count(), 2, "both are told of");
    assert_eq!(fs::metadata(to.join("a.torrent")).expect("there").ino(), before, "it was left alone");
    fs::write(from.join("a"), noise(20_000, 2)).expect("written");
    let (code, words) = code_and_words(&each(&[]));
    assert!(code == Some(2) && words.contains("a.torrent is there already"), "{words}");
    assert!(each(&["--force"]).status.success());
    assert_ne!(fs::metadata(to.join("a.torrent")).expect("there").ino(), before);
    let (code, words) = code_and_words(&run(&["create", "--each", text(&to.join("a.torrent"))]));
    assert!(code == Some(2) && words.contains("cannot use the folder"), "{words}");
    fs::create_dir(place.path().join("nothing")).expect("made");
    let (code, words) = code_and_words(&run(&["create", "--each", text(&place.path().join("nothing"))]));
    assert!(code == Some(2) && words.contains("holds nothing"), "{words}");
}

#[test]
fn health_is_asked_of_whoever_listens() {
    let (mut tracker, url) = tracker();
    let server = url.strip_suffix("/announce").expect("its end");
    let healthy = run(&["health", server]);
    assert_eq!(String::from_utf8_lossy(&healthy.stdout), "ready\n");
    tracker.kill();
    let (code, words) = code_and_words(&run(&["health", server]));
    assert!(code == Some(1) && words.contains("not ready") && words.contains(server), "{words}");
    assert_eq!(run(&["health", "127.0.0.1:1"]).status.code(), Some(2));
}

#[test]
fn a_folder_goes_from_one_process_to_another_through_the_tracker() {
    let place = tempfile::tempdir().expect("a folder");
    let (from, to) = (place.path().join("from"), place.path().join("to"));
    fs::create_dir_all(from.join("things/deep")).expect("folders");
    fs::write(from.join("things/a"), noise(2_000_001, 1)).expect("written");
    fs::write(from.join("things/deep/b"), noise(700_000, 2)).expect("written");
    fs::write(from.join("things/empty"), b"").expect("written");
    let (tracker, url) = tracker();
    let torrent = place.path().join("t.torrent");
    let made = create(&from.join("things"), &torrent, &["--tracker", &url]);
    assert_eq!((&made["bytes"], &made["files"]), (&Value::from(2_700_001), &Value::from(3)));
    let (mut seeder, listen) = seed(&torrent, &from);

    let mut leecher = get(text(&torrent), &to, &[]);
    assert!(leecher.wait().success());
    let done = leecher.event("complete");
    assert_eq!((&done["fetched"], &done["resumed"]), (&Value::from(2_700_001), &Value::from(0)));
    assert_eq!(done["info_hash"], made["info_hash"]);
    assert_eq!(done["sources"][0]["address"], listen.as_str());
    assert_eq!(done["sources"][0]["bytes"], 2_700_001);
    for name in ["things/a", "things/deep/b", "things/empty"] {
        assert!(
            fs::read(from.join(name)).expect("there") == fs::read(to.join(name)).expect("there"),
            "{name}"
        );
    }
    assert!(!to.join(".longshore").exists(), "nothing is left behind");

    // Once more by the magnet link: all is there, nothing is fetched.
    let mut again = get(made["magnet"].as_str().expect("a link"), &to, &[]);
    assert!(again.wait().success());
    let done = again.event("complete");
    assert_eq!((&done["fetched"], &done["resumed"]), (&Value::from(0), &Value::from(2_700_001)));

    seeder.terminate();
    assert!(seeder.wait().success(), "a signal is a good end");
    assert_eq!(seeder.event("stopped")["uploaded"], 2_700_001);
    tracker.terminate();
}

#[test]
fn a_blob_comes_by_its_magnet_link_from_a_named_peer() {
    let place = tempfile::tempdir().expect("a folder");
    let content = noise(1_500_000, 3);
    let file = place.path().join("layer");
    fs::write(&file, &content).expect("written");
    let torrent = place.path().join("t.torrent");
    let made = create(&file, &torrent, &["--blob"]);
    let name = made["name"].as_str().expect("a name").to_owned();
    assert_eq!(made["digest"], format!("sha256:{name}"));
    // A blob's name is its digest.
    fs::rename(&file, place.path().join(&name)).expect("renamed");
    let (_seeder, listen) = seed(&torrent, place.path());
    let to = place.path().join("to");
    let mut leecher = get(made["magnet"].as_str().expect("a link"), &to, &["--peer", &listen]);
    assert!(leecher.wait().success());
    assert!(fs::read(to.join(&name)).expect("there") == content);
}

#[test]
fn a_killed_download_goes_on_from_its_proven_pieces() {
    let place = tempfile::tempdir().expect("a folder");
    let (from, to) = (place.path().join("from"), place.path().join("to"));
    fs::create_dir(&from).expect("a folder");
    let size = 256 << 20;
    let content = noise(size, 4);
    fs::write(from.join("big"), &content).expect("written");
    let torrent = place.path().join("t.torrent");
    create(&from.join("big"), &torrent, &["--piece-length", "64KiB"]);
    let (_seeder, listen) = seed(&torrent, &from);

    let mut first = get(text(&torrent), &to, &["--peer", &listen]);
    let notes = to.join(".longshore");
    let journal = || {
        let entries = fs::read_dir(&notes).into_iter().flatten().flatten();
        let journals = entries.filter(|entry| entry.path().extension().is_some_and(|kind| kind == "journal"));
        journals.filter_map(|entry| Some(entry.metadata().ok()?.len())).max().unwrap_or(0)
    };
    // 72 bytes for each proven piece.
    wait_until("some pieces to be proven", || {
        assert!(first.is_running(), "it was too fast to be killed");
        journal() > 100 * 72
    });
    first.kill();
    let proven = (journal() - 60) / 72 - 1;
    assert!(proven < 4096, "it was too fast to be killed");

    let mut second = get(text(&torrent), &to, &["--peer", &listen]);
    assert!(second.wait().success());
    let done = second.event("complete");
    let (resumed, fetched) =
        (done["resumed"].as_u64().expect("bytes"), done["fetched"].as_u64().expect("bytes"));
    assert_eq!(resumed, proven * 65536, "no proven piece is lost");
    assert_eq!(resumed + fetched, size as u64, "and none is fetched again");
    assert!(fs::read(to.join("big")).expect("there") == content);
}

#[test]
fn files_without_a_journal_are_hashed_and_completed() {
    let place = tempfile::tempdir().expect("a folder");
    let (from, to) = (place.path().join("from"), place.path().join("to"));
    fs::create_dir(&from).expect("a folder");
    fs::create_dir(&to).expect("a folder");
    let content = noise(1_000_000, 5);
    fs::write(from.join("f"), &content).expect("written");
    fs::write(to.join("f"), &content[..600_000]).expect("written");
    let torrent = place.path().join("t.torrent");
    create(&from.join("f"), &torrent, &["--piece-length", "16KiB"]);
    let (_seeder, listen) = seed(&torrent, &from);
    let mut leecher = get(text(&torrent), &to, &["--peer", &listen]);
    assert!(leecher.wait().success());
    let whole_pieces = 600_000 / 16384 * 16384;
    assert_eq!(leecher.event("complete")["resumed"], whole_pieces);
    assert!(fs::read(to.join("f")).expect("there") == content);
}

#[test]
fn what_cannot_be_used_is_named_with_exit_code_2() {
    let place = tempfile::tempdir().expect("a folder");
    let at = |name: &str| place.path().join(name);
    fs::write(at("empty.torrent"), b"").expect("written");
    fs::write(at("text.torrent"), b"no torrent at all").expect("written");
    fs::write(at("deep.torrent"), [b'l'; 100_000]).expect("written");
    fs::write(at("f"), noise(100_000, 6)).expect("written");
    create(&at("f"), &at("good.torrent"), &[]);
    let mut cut = fs::read(at("good.torrent")).expect("there");
    cut.truncate(cut.len() - 30);
    fs::write(at("cut.torrent"), cut).expect("written");
    for name in ["missing.torrent", "empty.torrent", "text.torrent", "deep.torrent", "cut.torrent"] {
        for command in ["get", "seed"] {
            let (code, words) = code_and_words(&run(&[command, text(&at(name)), text(&at("to"))]));
            assert_eq!(code, Some(2), "{command} {name}: {words}");
            assert!(words.starts_with("error: cannot use the torrent") && words.contains(name), "{words}");
            assert!(words.contains("because: "), "{words}");
        }
    }
    assert!(!at("to").exists(), "nothing was made for a torrent that cannot be read");
    for line in [
        &["get", "magnet:?dn=nothing", "to"][..],
        &["get", "magnet:?xt=urn:btih:0000000000000000000000000000000000000001", "to"],
        &["create", text(&at("missing"))],
        &["create", text(&at("f")), "--piece-length", "100KiB"],
        &["create", text(&at("f")), "--tracker", "nonsense"],
        &["tracker", "--config", text(&at("missing.toml"))],
        &["tracker", "--interval", "0", "--listen", "127.0.0.1:0"],
        &["no-such-command"],
    ] {
        let (code, words) =
            code_and_words(&longshore().current_dir(place.path()).args(line).output().expect("runs"));
        assert_eq!(code, Some(2), "{line:?}: {words}");
        assert!(words.contains("error: "), "{words}");
    }
}

#[test]
fn wrong_or_missing_data_is_not_seeded() {
    let place = tempfile::tempdir().expect("a folder");
    let file = place.path().join("f");
    let mut content = noise(300_000, 7);
    fs::write(&file, &content).expect("written");
    let torrent = place.path().join("t.torrent");
    create(&file, &torrent, &["--piece-length", "16KiB"]);
    content[200_000] ^= 1;
    fs::write(&file, &content).expect("written");
    let (code, words) = code_and_words(&run(&["seed", text(&torrent), text(place.path())]));
    assert_eq!(code, Some(2));
    assert!(words.contains("18 of 19 pieces are right") && words.contains("hint: "), "{words}");
    fs::write(&file, &content[..299_999]).expect("written");
    let (code, words) = code_and_words(&run(&["seed", text(&torrent), text(place.path())]));
    assert!(code == Some(2) && words.contains("is 299999 bytes long, and should be 300000"), "{words}");
    fs::remove_file(&file).expect("removed");
    for more in [&[][..], &["--no-check"]] {
        let line = [&["seed", text(&torrent), text(place.path())], more].concat();
        let (code, words) = code_and_words(&run(&line));
        assert!(code == Some(2) && words.contains("cannot read"), "{words}");
    }
}

#[test]
fn a_torrent_file_is_not_overwritten_unless_asked() {
    let place = tempfile::tempdir().expect("a folder");
    let (file, torrent) = (place.path().join("f"), place.path().join("t.torrent"));
    fs::write(&file, noise(1000, 8)).expect("written");
    fs::write(&torrent, b"precious").expect("written");
    let (code, words) = code_and_words(&run(&["create", text(&file), "-o", text(&torrent)]));
    assert!(code == Some(2) && words.contains("is there already") && words.contains("--force"), "{words}");
    assert_eq!(fs::read(&torrent).expect("there"), b"precious");
    create(&file, &torrent, &["--force", "--no-date"]);
    let first = fs::read(&torrent).expect("there");
    create(&file, &torrent, &["--force", "--no-date"]);
    assert_eq!(fs::read(&torrent).expect("there"), first, "the same content makes the same file");
}

#[test]
fn a_folder_that_cannot_be_written_to_ends_a_download_with_exit_code_1() {
    let place = tempfile::tempdir().expect("a folder");
    fs::write(place.path().join("f"), noise(1000, 9)).expect("written");
    let torrent = place.path().join("t.torrent");
    create(&place.path().join("f"), &torrent, &[]);
    // Not even root can make a folder below a file, or in the kernel's own.
    let locked = place.path().join("locked");
    fs::create_dir(&locked).expect("a folder");
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o500)).expect("ours");
    for folder in [Path::new("/proc/longshore"), &place.path().join("f/below"), &locked] {
        if folder == locked && fs::write(locked.join("probe"), b"").is_ok() {
            // Root writes anywhere.
            continue;
        }
        let line = ["get", text(&torrent), text(folder), "--listen", "127.0.0.1:0", "--peer", "127.0.0.1:1"];
        let (code, words) = code_and_words(&run(&line));
        assert_eq!(code, Some(1), "{words}");
        assert!(words.contains("cannot write to") && words.contains("because: "), "{words}");
    }
}

#[test]
fn a_download_that_finds_nobody_ends_at_its_deadline() {
    let place = tempfile::tempdir().expect("a folder");
    fs::write(place.path().join("f"), noise(1000, 10)).expect("written");
    let torrent = place.path().join("t.torrent");
    create(&place.path().join("f"), &torrent, &[]);
    let to = place.path().join("to");
    let line = ["get", text(&torrent), text(&to), "--listen", "127.0.0.1:0", "--deadline", "1"];
    let (code, words) = code_and_words(&run(&line));
    assert!(code == Some(1) && words.contains("not complete after 1 s"), "{words}");
}

#[test]
fn two_downloads_of_one_torrent_do_not_share_a_folder() {
    let place = tempfile::tempdir().expect("a folder");
    fs::write(place.path().join("f"), noise(1000, 11)).expect("written");
    let (torrent, to) = (place.path().join("t.torrent"), place.path().join("to"));
    create(&place.path().join("f"), &torrent, &[]);
    let mut first = get(text(&torrent), &to, &[]);
    first.event("status");
    let (code, words) = code_and_words(&run(&["get", text(&torrent), text(&to), "--listen", "127.0.0.1:0"]));
    assert!(code == Some(1) && words.contains("another process is downloading this torrent"), "{words}");
}

/// A node with everything in `place`.
fn node(place: &Path, arguments: &[&str]) -> Process {
    let mut command = longshore();
    command.arg("node").args(["--peer-listen", "127.0.0.1:0", "--mirror-listen", "127.0.0.1:0", "--json"]);
    command.arg("--data").arg(place.join("data")).arg("--socket").arg(place.join("socket"));
    let mut node = Process::start(command.args(arguments));
    node.event("listening");
    node
}

fn status(place: &Path) -> Value {
    let output = longshore().args(["status", "--json", "--socket"]).arg(place.join("socket")).output();
    serde_json::from_slice(&output.expect("runs").stdout).expect("JSON")
}

/// What a command that must not start says; it is ended if it starts all the same.
fn refusal(command: &mut Command) -> (Option<i32>, String) {
    let mut child =
        command.stdout(Stdio::null()).stderr(Stdio::piped()).stdin(Stdio::null()).spawn().expect("runs");
    let mut ended = false;
    for _ in 0..600 {
        ended = child.try_wait().expect("asked").is_some();
        if ended {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    if !ended {
        child.kill().expect("ours");
    }
    let output = child.wait_with_output().expect("read");
    assert!(ended, "it started: {command:?}");
    code_and_words(&output)
}

#[test]
fn a_node_or_tracker_that_cannot_start_says_what_to_change() {
    let place = tempfile::tempdir().expect("a folder");
    let at = |name: &str| place.path().join(name).to_str().expect("text").to_owned();
    fs::write(place.path().join("file"), "").expect("written");
    fs::write(place.path().join("bad.toml"), "peer = 1\n").expect("written");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().expect("bound").to_string();
    let free_port = {
        let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        port.local_addr().expect("bound").to_string()
    };
    let (data, socket) = (at("data"), at("socket"));
    let free = [
        "--data",
        &data,
        "--socket",
        &socket,
        "--peer-listen",
        "127.0.0.1:0",
        "--mirror-listen",
        "127.0.0.1:0",
    ];
    for (line, code, words) in [
        (&["node", "--tracker", "wss://t:6969/announce"][..], 2, "must begin with http:// or https://"),
        (&["node", "--tracker", "t:6969"], 2, "such as http://"),
        (&["node", "--peer-listen", "6881"], 2, "such as 0.0.0.0:6881"),
        (&["node", "--mirror-listen", "localhost:5555"], 2, "such as 127.0.0.1:5555"),
        (&["node", "--config", &at("bad.toml")], 2, "the table [peer]"),
        (&["node", "--directory", "/var/lib/x"], 2, "longshore tracker --directory"),
        (&["node", "--peer-listen", &taken], 1, "--peer-listen"),
        (&["node", "--mirror-listen", &taken], 1, "--mirror-listen"),
        (&["node", "--socket", &at("file")], 1, "--socket"),
        (&["node", "--socket", &at("file/below")], 1, "--socket"),
        (&["tracker", "--listen", "127.0.0.1:0", "--directory", &at("none/d.redb")], 2, &at("none")),
        (&["tracker", "--listen", "127.0.0.1:0", "--directory", "http://t:6969"], 2, "takes a tracker's URL"),
        (&["tracker", "--listen", "127.0.0.1:0", "--directory", "etcd://u:p@h"], 2, "password-file"),
        (&["tracker", "--listen", "127.0.0.1:0", "--directory", "etcd://u@h"], 2, "directory_password_file"),
        (&["tracker", "--listen", "127.0.0.1:0", "--directory", "etcd://h:p"], 2, "expected host"),
        (&["tracker", "--listen", "127.0.0.1:0", "--directory", &at("file/d.redb")], 2, &at("file")),
        (&["tracker", "--listen", "127.0.0.1:0", "--directory", &at("bad.toml")], 2, &at("bad.toml")),
        (&["tracker", "--listen", "127.0.0.1:0", "--directory", &at("")], 2, &at("")),
        (&["tracker", "--listen", "127.0.0.1:0", "--forwarders", &at("bad.toml")], 2, &at("bad.toml")),
        (&["tracker", "--listen", "127.0.0.1:0", "--deny", &at("none")], 2, &at("none")),
        (&["tracker", "--listen", &taken], 1, "--listen"),
        (&["tracker", "--listen", &format!("unix:{}", at("none/t.sock"))], 2, "make its folder"),
        (&["tracker", "--listen", &format!("unix:{}", at("file"))], 2, "remove that file"),
        (&["tracker", "--listen", &format!("unix:/{}", "x".repeat(200))], 2, "another socket"),
        (&["tracker", "--listen", &free_port, "--listen", &free_port], 2, "twice"),
        (&["tracker", "--listen", &free_port, "--tls-listen", &free_port], 2, "twice"),
        (&["tracker", "--listen", "127.0.0.1:0", "--max-peers", "0"], 2, "`max_peers` is 0"),
        (&["tracker", "--listen", "127.0.0.1:0", "--max-torrents", "0"], 2, "`max_torrents` is 0"),
        (&["tracker", "--listen", "127.0.0.1:0", "--max-entries", "0"], 2, "`max_entries` is 0"),
        (&["pull", "busybox", "--platform", "foo"], 2, "linux/amd64"),
        (&["pull", "busybox", "--socket", &at("none")], 1, "no node answers"),
        (&["lab", "--sources", &at("none")], 2, &at("none")),
    ] {
        let mut command = longshore();
        command.args(line);
        if line[0] == "node" {
            let unset = |pair: &&[&str]| !line.contains(&pair[0]);
            command.args(free.chunks(2).filter(unset).flatten());
        }
        let (ended, said) = refusal(&mut command);
        assert_eq!(ended, Some(code), "{line:?}: {said}");
        assert!(said.contains("error: ") && said.contains(words), "{line:?}: {said}");
        assert!(!said.contains("making the image"), "{said}");
    }
    assert!(place.path().join("file").exists(), "what is no socket is not removed");
}

#[test]
fn a_tracker_outage_is_told_once_and_so_is_its_end() {
    let place = tempfile::tempdir().expect("a folder");
    // A port that is free for now.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    drop(listener);
    let url = format!("http://{address}/announce");
    let mut node = node(place.path(), &["--tracker", &url, "--directory", "none"]);
    let tracker = || status(place.path())["status"]["trackers"][0].clone();
    assert_eq!(tracker()["url"], url.as_str(), "shown from the start");
    wait_until("the outage to show", || tracker()["error"].is_string());
    assert!(tracker()["failing_since"].is_u64());
    let _tracker = Process::start(longshore().args(["tracker", "--listen", &address, "--json"]));
    wait_until("the outage to end", || tracker()["error"].is_null());
    assert!(tracker()["last_answer"].is_null(), "nothing was announced yet");
    node.terminate();
    assert!(node.wait().success());
    let log = node.stderr();
    for words in ["the tracker does not answer", "the tracker answers again"] {
        assert_eq!(log.matches(words).count(), 1, "{log}");
    }
}

#[test]
fn a_node_without_trackers_says_so_and_logs_no_colours_into_a_file() {
    let place = tempfile::tempdir().expect("a folder");
    let mut node = node(place.path(), &["--directory", "none"]);
    wait_until("the warning", || node.stderr().contains("no tracker is configured"));
    let output = longshore().arg("status").arg("--socket").arg(place.path().join("socket")).output();
    let said = String::from_utf8(output.expect("runs").stdout).expect("text");
    assert!(said.contains("none is configured"), "{said}");
    node.terminate();
    assert!(node.wait().success());
    assert!(!node.stderr().contains('\u{1b}'), "{}", node.stderr());
}

#[test]
fn a_socket_of_another_user_is_no_missing_node() {
    let place = tempfile::tempdir().expect("a folder");
    let mut node = node(place.path(), &["--directory", "none"]);
    // Root may use any socket, so the command must be somebody else, who must reach the program.
    let (program, open) = (place.path().join("longshore"), fs::Permissions::from_mode(0o755));
    fs::copy(env!("CARGO_BIN_EXE_longshore"), &program).expect("copied");
    fs::set_permissions(place.path(), open).expect("ours");
    let socket = place.path().join("socket");
    let mut command = Command::new(&program);
    let user = fs::metadata("/proc/self").expect("there").uid();
    if user == 0 {
        command.uid(65534);
    } else {
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o000)).expect("ours");
    }
    command.args(["status", "--socket", text(&socket)]);
    let output = loop {
        match command.output() {
            // A child that another test starts just now still has the file open for writing.
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => continue,
            output => break output.expect("runs"),
        }
    };
    let (code, words) = code_and_words(&output);
    assert_eq!(code, Some(1), "{words}");
    assert!(words.contains("permission denied") && words.contains("belongs to"), "{words}");
    assert!(!words.contains("no node answers"), "{words}");
    node.terminate();
    assert!(node.wait().success());
}

#[test]
fn the_version_is_told() {
    let output = run(&["--version"]);
    assert!(output.status.success());
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        concat!("longshore ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

#[test]
fn runtimes_are_set_up_in_a_system_below_a_folder_and_brought_back() {
    let system = tempfile::tempdir().expect("a folder");
    let root = text(system.path());
    let runtime = |arguments: &[&str]| run(&[&["runtime"], arguments, &["--root", root]].concat());
    let (code, words) = code_and_words(&runtime(&["install", "docker"]));
    assert!(code == Some(1) && words.contains("--mirror 127.0.0.1:5555"), "{words}");
    let (code, words) = code_and_words(&runtime(&["install", "lxc"]));
    assert!(code == Some(2) && words.contains("docker, containerd, podman"), "{words}");
    let (code, words) = code_and_words(&runtime(&["install"]));
    assert!(code == Some(1) && words.contains("no container runtime"), "{words}");
    // The node's configuration says where the mirror is, and which registries there are.
    fs::create_dir_all(system.path().join("etc/longshore")).expect("made");
    let config = "[mirror]\nlisten = [\"0.0.0.0:7000\"]\n\
                  [[origin.upstreams]]\nregistry = \"reg.test\"\n[[origin.upstreams]]\nregistry = \"reg.test:5000\"\n";
    fs::write(system.path().join("etc/longshore/node.toml"), config).expect("written");
    let file = system.path().join("etc/containers/registries.conf.d/longshore.conf");
    let preview = runtime(&["install", "podman", "--dry-run"]);
    assert!(String::from_utf8_lossy(&preview.stdout).contains("+location = \"127.0.0.1:7000/reg.test\"\n"));
    assert!(!file.exists());
    let (code, words) = code_and_words(&runtime(&["install", "podman"]));
    assert!(code == Some(0) && words.contains("reg.test:5000 is left out"), "{words}");
    let written = fs::read_to_string(&file).expect("written");
    assert!(written.contains("127.0.0.1:7000/docker.io") && !written.contains("5000"), "{written}");
    assert_eq!(runtime(&["uninstall"]).status.code(), Some(0));
    assert!(!system.path().join("etc/containers").exists());
    assert_eq!(runtime(&["uninstall"]).status.code(), Some(0), "twice is once");
}

#[test]
fn a_runtime_that_cannot_be_set_up_keeps_no_other_from_it() {
    let system = tempfile::tempdir().expect("a folder");
    let root = text(system.path());
    fs::create_dir_all(system.path().join("etc/docker")).expect("made");
    fs::write(system.path().join("etc/docker/daemon.json"), "{ no JSON").expect("written");
    let both = ["runtime", "install", "docker", "podman", "--mirror", "127.0.0.1:5555", "--root", root];
    let (code, words) = code_and_words(&run(&both));
    assert!(code == Some(1) && words.contains("not set up: docker"), "{words}");
    assert!(words.contains("daemon.json"), "{words}");
    assert!(system.path().join("etc/containers/registries.conf.d/longshore.conf").exists(), "{words}");
    // What is for root alone is the folder of the records, and none above it.
    let mode = |path: &str| fs::metadata(system.path().join(path)).expect(path).permissions().mode() & 0o777;
    assert_eq!(
        (mode("var/lib/longshore-runtime"), mode("var/lib") & 0o005, mode("var") & 0o005),
        (0o700, 5, 5)
    );
}

#[test]
fn a_node_outlives_a_hang_up_and_tells_more_when_it_is_asked_to() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = longshore();
    command.args(["node", "-v", "--json", "--peer-listen", "127.0.0.1:0", "--mirror-listen", "127.0.0.1:0"]);
    command.arg("--data").arg(folder.path().join("data"));
    let mut node = Process::start(command.arg("--socket").arg(folder.path().join("node.sock")));
    node.event("listening");
    wait_until("the log", || node.stderr().contains("the node serves"));
    node.hang_up();
    wait_until("an answer", || node.stderr().contains("SIGHUP changes nothing"));
    node.terminate();
    assert!(node.wait().success());
}

#[test]
fn settings_of_the_tracker_that_cannot_work_are_refused_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let keys = folder.path().join("key");
    fs::write(&keys, format!("{}\n{}\n", "a".repeat(40), "b".repeat(40))).expect("written");
    let (key, place) = (text(&keys), text(folder.path()));
    let cluster = ["--cluster-listen", "127.0.0.1:7001", "--cluster-key-file", key];
    for (arguments, words) in [
        (&["--real-ip-header", "X:"][..], "real_ip_header"),
        (&[&["--cluster", "a:7000,a:7000"], &cluster[..]].concat(), "`a:7000` twice"),
        (&[&["--cluster", "a:7000"], &cluster[..]].concat(), "line break"),
        (&["--cluster", "a:7000", "--cluster-listen", "127.0.0.1:0", "--cluster-key-file", key], "port 0"),
        (&["--directory-token", "one\ntwo"], "directory_token"),
        (&["--directory", "   "], "empty"),
        (&["--directory", "/dev/null"], "no ordinary file"),
        (&["--directory", place], "no ordinary file"),
        (&["--socket-mode", "0"], "socket"),
        (&["--numwant", "0"], "numwant"),
    ] {
        let all = [&["tracker", "--listen", "127.0.0.1:0"], arguments].concat();
        let (code, said) = code_and_words(&run(&all));
        assert!(code == Some(2) && said.contains(words), "{arguments:?}: {said}");
    }
}

#[test]
fn what_a_variable_sets_wrong_is_told_by_the_variables_name() {
    let none = "/nonexistent/list";
    for (variable, value, flags, words) in [
        ("LONGSHORE_TRACKER_INTERVAL", "soon", &[][..], "'LONGSHORE_TRACKER_INTERVAL'"),
        ("LONGSHORE_TRACKER_LISTEN", "127.0.0.1:0,nowhere", &[], "'LONGSHORE_TRACKER_LISTEN'"),
        ("LONGSHORE_TRACKER_INTERVAL", "0", &[], "set by LONGSHORE_TRACKER_INTERVAL"),
        ("LONGSHORE_TRACKER_ALLOW", none, &[], "set by LONGSHORE_TRACKER_ALLOW"),
        ("LONGSHORE_TRACKER_DIRECTORY", "http://t", &[], "cannot use LONGSHORE_TRACKER_DIRECTORY"),
        ("LISTEN_ADDR", "8080", &[], "LISTEN_ADDR: "),
        ("PEER_AGE", "long", &[], "'PEER_AGE'"),
        ("PEER_AGE", "0", &[], "PEER_AGE is 0"),
        ("ANNOUNCE_INTERVAL", "90000", &[], "set by ANNOUNCE_INTERVAL"),
        ("DEBUG_MODE", "perhaps", &[], "'DEBUG_MODE'"),
        ("FORWARD_TIMEOUT", "0", &[], "set by FORWARD_TIMEOUT"),
        ("FORWARDS_FILE", none, &[], "set by FORWARDS_FILE"),
        // A flag stands above the variable, and then it is the flag.
        ("PEER_AGE", "10", &["-a", "0"], "-a is 0"),
        ("PEER_AGE", "10", &["-along"], "'-a <MINUTES>'"),
        ("LONGSHORE_TRACKER_INTERVAL", "soon", &["--interval=late"], "'--interval <SECONDS>'"),
    ] {
        let mut command = longshore();
        command.arg("tracker").args(flags).env("LONGSHORE_TRACKER_LISTEN", "127.0.0.1:0");
        let (code, said) = refusal(command.env(variable, value));
        assert!(code == Some(2) && said.contains(words), "{variable}={value} {flags:?}: {said}");
    }
}

#[test]
fn a_damaged_directory_file_is_named_and_said_what_to_do_with() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("directory.redb");
    let start = ["tracker", "--listen", "127.0.0.1:0", "--json", "--directory", text(&file)];
    let mut tracker = Process::start(longshore().args(start));
    tracker.event("listening");
    tracker.terminate();
    assert!(tracker.wait().success());
    let mut bytes = fs::read(&file).expect("read");
    // All but the head by which it is known.
    bytes.iter_mut().skip(4096).for_each(|byte| *byte ^= 0x55);
    fs::write(&file, bytes).expect("written");
    let (code, words) = code_and_words(&run(&start));
    assert!(code == Some(2) && words.contains("is damaged"), "{code:?} {words}");
    for once in ["move it away", "nodes publish again"] {
        assert_eq!(words.matches(once).count(), 1, "{words}");
    }
    assert!(!words.contains("panicked"), "{words}");
}

#[test]
fn the_configuration_that_is_printed_for_a_tracker_is_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let printed = run(&["config", "tracker"]);
    let file = folder.path().join("tracker.toml");
    fs::write(&file, &printed.stdout).expect("written");
    let start = ["tracker", "--config", text(&file), "--listen", "127.0.0.1:0", "--json"];
    let mut tracker = Process::start(longshore().args(start));
    tracker.event("listening");
    tracker.terminate();
    assert!(tracker.wait().success());
    assert_ne!(run(&["config"]).stdout, printed.stdout);
}

#[test]
fn what_the_environment_of_a_proxy_says_wrong_is_told_by_its_name() {
    for (name, value) in [
        ("PORT", "http"),
        ("INTERFACE", "eth0"),
        ("REGISTRY_LOCATION", "ftp://reg.test"),
        ("TRACKER", "tracker.test"),
        ("ETCD_HOST", "a/b"),
        ("ETCD_PORT", "0"),
        ("TORRENT_FIRST_PORT", "7000-7010"),
        ("TORRENT_LAST_PORT", "1"),
        ("CERTFILE", "/nowhere/cert.pem"),
        ("PRIVATEKEY", "/nowhere/key.pem"),
    ] {
        let mut command = longshore();
        command.args(["proxy", "--data", "/nowhere/at/all"]).env(name, value);
        // Where a value names another setting as well, that is set right.
        let refused =
            command.env("ETCD_HOST", if name == "ETCD_HOST" { value } else { "127.0.0.1" }).output();
        let (code, words) = code_and_words(&refused.expect("runs"));
        assert_eq!(code, Some(2), "{name}: {words}");
        let said = if name == "PRIVATEKEY" { "CERTFILE" } else { name };
        assert!(words.contains(said), "{name}: {words}");
    }
    let help = run(&["proxy", "--help"]);
    let help = String::from_utf8_lossy(&help.stdout);
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for name in
        ["PORT", "INTERFACE", "REGISTRY_NO_SSL", "REGISTRY_LOCATION", "TRACKER", "ETCD_HOST", "ETCD_PORT"]
    {
        assert!(help.contains(&format!("[env: {name}")), "{name}: {help}");
    }
}
