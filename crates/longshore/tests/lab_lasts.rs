//! A lab that lasts, from the outside: raised, changed, its supervisor killed, and all of it removed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use interop::wait_until;
use serde_json::{Value, json};

fn longshore(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_longshore")).arg("lab").args(arguments).output().expect("starts")
}

/// A lab that a failing test leaves no more than a passing one.
struct Lab {
    name: &'static str,
    raised: Value,
}

impl Lab {
    fn up(name: &'static str, arguments: &[&str]) -> Self {
        let mut lab = Self { name, raised: Value::Null };
        let words = ["up", "--name", name, "--json", "--page", "127.0.0.1:0"];
        let up = longshore(&[&words, arguments].concat());
        assert!(up.status.success(), "{}", String::from_utf8_lossy(&up.stderr));
        lab.raised = serde_json::from_slice(&up.stdout).expect("JSON");
        lab
    }

    fn run(&self, command: &str, arguments: &[&str]) -> Output {
        longshore(&[&[command, "--name", self.name], arguments].concat())
    }

    fn expect(&self, command: &str, arguments: &[&str]) {
        let output = self.run(command, arguments);
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// What it says to have done.
    fn says(&self, command: &str, arguments: &[&str], words: &str) {
        let output = self.run(command, arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && output.stdout.is_empty(), "{command}: {said}");
        assert_eq!(said, format!("{words}\n"), "{command}");
    }

    fn status(&self) -> Value {
        let output = self.run("status", &["--json"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    fn has(&self, host: &str) -> u64 {
        self.status()["has_bytes"][host].as_u64().unwrap_or(0)
    }

    /// Whether a node has all of two contents.
    fn has_all(&self, host: &str) -> bool {
        let status = self.status();
        let contents = status["contents"].as_array().expect("a list");
        let size: u64 = contents.iter().filter_map(|content| content["size"].as_u64()).sum();
        contents.len() == 2 && status["has_bytes"][host].as_u64() == Some(size)
    }

    /// The id of a content, where there is one of that name.
    fn find(&self, name: &str) -> Option<String> {
        let status = self.status();
        let mut contents = status["contents"].as_array().expect("a list").iter();
        contents.find(|c| c["name"] == name).and_then(|c| c["id"].as_str().map(str::to_owned))
    }

    fn content(&self, name: &str) -> String {
        self.find(name).expect("a content of that name")
    }

    /// Asks the page's address.
    fn ask(&self, method: &str, path: &str) -> String {
        let page = self.raised["page"].as_str().expect("an address");
        ask(page, &format!("{method} {path} HTTP/1.1\r\nhost: OWN\r\n"))
    }

    /// A torrent, as a node tells of it.
    fn torrent(&self, node: &str, info_hash: &str) -> Option<Value> {
        let answer = self.ask("GET", &format!("/lab/nodes/{node}/v1/torrents"));
        let list = answer.find('[').and_then(|at| answer.get(at..=answer.rfind(']')?));
        let torrents: Vec<Value> = serde_json::from_str(list.expect("a list")).expect("JSON");
        torrents.into_iter().find(|torrent| torrent["info_hash"] == info_hash)
    }

    fn state(&self, host: &str) -> Option<String> {
        let status = self.status();
        let mut hosts = status["hosts"].as_array().expect("a list").iter();
        hosts.find(|h| h["name"] == host).map(|h| h["state"].as_str().expect("a word").to_owned())
    }

    fn directory(&self) -> PathBuf {
        PathBuf::from(self.raised["directory"].as_str().expect("a path"))
    }

    /// The numbers of all processes that it has started.
    fn children(&self) -> Vec<String> {
        let list = fs::read_to_string(self.directory().join("children")).expect("there");
        list.lines().filter_map(|line| line.split_once(' ')).map(|(pid, _)| pid.to_owned()).collect()
    }

    fn kill_supervisor(&self) {
        let keeper = fs::read_to_string(self.directory().join("supervisor")).expect("there");
        let (pid, _) = keeper.split_once(' ').expect("number and start");
        let killed = Command::new("kill").args(["-9", pid]).status().expect("kills");
        assert!(killed.success());
        wait_until("the supervisor's end", || !Path::new("/proc").join(pid).exists());
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = longshore(&["down", "--name", self.name]);
    }
}

/// Processes of a lab that still run.
fn left(directory: &Path, pids: &[String]) -> Vec<String> {
    let text = directory.to_str().expect("text");
    let ours = |pid: &&String| {
        let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        command.contains(text)
    };
    pids.iter().filter(ours).cloned().collect()
}

/// A folder with an OCI layout of an image of 600 KiB, and a folder with files of 400 KiB.
fn sources() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let files = tempfile::tempdir().expect("a folder");
    for (n, file) in ["a", "b"].iter().enumerate() {
        fs::write(files.path().join(file), interop::noise(300 << 10, n as u64)).expect("written");
    }
    lab::image::build(files.path(), &[], &folder.path().join("pictures"), "latest").expect("an image");
    fs::create_dir_all(folder.path().join("album/disc")).expect("made");
    for (n, file) in ["album/1", "album/disc/2"].iter().enumerate() {
        fs::write(folder.path().join(file), interop::noise(200 << 10, 7 + n as u64)).expect("written");
    }
    folder
}

fn ask(page: &str, head: &str) -> String {
    let address = page.trim_start_matches("http://").trim_end_matches('/');
    let mut stream = TcpStream::connect(address).expect("connects");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
    let head = head.replace("OWN", address);
    stream.write_all(format!("{head}connection: close\r\n\r\n").as_bytes()).expect("asks");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answers");
    answer
}

/// One lab at a time: each that is raised removes what is left of others that have died.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn a_lab_on_loopback_is_raised_changed_killed_and_removed() {
    let _alone = alone();
    let sources = sources();
    let text = sources.path().to_str().expect("text");
    let lab = Lab::up("tloop", &["--seeders", "1", "--leechers", "2", "--sources", text]);
    for host in ["s1", "n1", "n2", "tracker", "registry", "web"] {
        assert_eq!(lab.state(host).as_deref(), Some("running"), "{host}");
    }

    // The folder's torrent and the layout's image go to the seeder, and to the leechers when they are told to get them.
    wait_until("the seeder has all", || lab.has_all("s1"));
    let status = lab.status();
    let names: Vec<&str> =
        status["contents"].as_array().expect("a list").iter().filter_map(|c| c["name"].as_str()).collect();
    assert_eq!((names, lab.has("n1")), (vec!["album", "lab.test/pictures:latest"], 0));
    lab.says("pull", &[], "n1 and n2 get album and lab.test/pictures:latest anew");
    wait_until("the leechers have all", || lab.has_all("n1") && lab.has_all("n2"));
    let got = lab.directory().join("work/files/n1/album/disc/2");
    assert_eq!(fs::read(got).expect("there"), interop::noise(200 << 10, 8));

    lab.says("kill", &["n1"], "n1 killed (SIGKILL)");
    assert_eq!(lab.state("n1").as_deref(), Some("killed"));
    lab.says("start", &["n1"], "n1 started");
    wait_until("n1 runs again", || lab.state("n1").as_deref() == Some("running"));
    let address = |host: &str| {
        let status = lab.status();
        let mut hosts = status["hosts"].as_array().expect("a list").iter();
        hosts.find(|h| h["name"] == host).expect("there")["address"].as_str().expect("text").to_owned()
    };
    // In a block of loopback addresses that is this lab's.
    let next = |last: u8| address("n2").replace(".1.3", &format!(".1.{last}"));
    lab.says("add", &["1"], &format!("n3 added, {}", next(4)));
    wait_until("n3 runs", || lab.state("n3").as_deref() == Some("running"));
    let added = lab.run("add", &["2", "--seeder", "--json"]);
    let added: Value = serde_json::from_slice(&added.stdout).expect("JSON");
    let words = format!("s2 to s3 added, {} to {}", next(5), next(6));
    assert_eq!(added, json!({ "done": words, "hosts": ["s2", "s3"] }));
    lab.says("stop", &["n2", "s3"], "n2 stopped\ns3 stopped");
    assert_eq!(lab.state("n2").as_deref(), Some("stopped"));

    // Nodes limit themselves; a dead one is said to be dead where it is said to hold something.
    let words = "n1 limited to 20mbit each way, by itself and towards peers alone (no --netns)";
    lab.says("limit", &["n1", "20mbit"], words);
    lab.says("limit", &["n1", "none"], "n1 limited no more");
    lab.says("churn", &["--pulls", "1"], "traffic: 1 pulls and 0 kills per minute");
    lab.says("churn", &["--off"], "traffic: none");
    lab.says("kill", &["s1"], "s1 killed (SIGKILL)");
    let status = lab.run("status", &[]);
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(status.contains("  s1 (killed)"), "{status}");
    let healed = lab.run("heal", &[]);
    let words = String::from_utf8_lossy(&healed.stderr).into_owned();
    assert!(
        healed.status.success() && words.starts_with("nothing is cut, ") && words.contains("--netns"),
        "{words}"
    );

    // What cannot be is said, and what there is instead.
    let unknown = lab.run("kill", &["n9"]);
    let words = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert_eq!(unknown.status.code(), Some(2), "{words}");
    assert!(words.contains("`n9`") && words.contains("n1, n2"), "{words}");
    let cut = lab.run("cut", &["n1"]);
    assert!(cut.status.code() == Some(2) && String::from_utf8_lossy(&cut.stderr).contains("--netns"));
    let twice = longshore(&["up", "--name", lab.name]);
    assert!(
        twice.status.code() == Some(2) && String::from_utf8_lossy(&twice.stderr).contains("runs already")
    );

    // The page's address answers its own page, and no other.
    let page = lab.raised["page"].as_str().expect("an address");
    assert!(ask(page, "GET /lab HTTP/1.1\r\nhost: OWN\r\n").contains("\"tloop\""));
    assert!(ask(page, "GET /lab/nodes/n1/v1/status HTTP/1.1\r\nhost: OWN\r\n").contains("\"node\":\"n1\""));
    assert!(ask(page, "GET /lab HTTP/1.1\r\nhost: evil.example\r\n").starts_with("HTTP/1.1 403"));
    let foreign =
        "POST /lab/actions HTTP/1.1\r\nhost: OWN\r\norigin: http://evil.example\r\ncontent-length: 0\r\n";
    assert!(ask(page, foreign).starts_with("HTTP/1.1 403"));

    // What has happened is recorded, of the lab and of each node.
    let recorded = ask(page, "GET /lab/recording HTTP/1.1\r\nhost: OWN\r\n");
    assert!(recorded.contains("\"kind\":\"hello\"") && recorded.contains("\"node\":\"n2\""), "{recorded}");

    let (directory, children) = (lab.directory(), lab.children());
    assert!(left(&directory, &children).len() >= 3);
    lab.kill_supervisor();
    let dead = lab.run("status", &[]);
    assert!(!dead.status.success() && String::from_utf8_lossy(&dead.stderr).contains("lab down"));
    lab.expect("down", &[]);
    assert!(!directory.exists());
    assert_eq!(left(&directory, &children), Vec::<String>::new());
}

#[test]
fn what_lies_in_a_nodes_folders_is_taken_up_what_changes_is_shared_anew_and_an_end_leaves_nothing() {
    let _alone = alone();
    let sources = sources();
    let text = sources.path().to_str().expect("text");
    let lab = Lab::up("tdown", &["--seeders", "1", "--leechers", "1", "--sources", text]);
    wait_until("the seeder has all", || lab.has_all("s1"));

    // Of the album one file lies there already: only the other comes.
    let files = lab.directory().join("work/files/n1/album");
    fs::create_dir_all(&files).expect("made");
    fs::write(files.join("1"), interop::noise(200 << 10, 7)).expect("written");
    let (album, image) = (lab.content("album"), lab.content("lab.test/pictures:latest"));
    let made = fs::read_dir(lab.directory().join("work/contents")).expect("there").flatten();
    let torrent =
        made.map(|folder| folder.path().join(format!("{album}.torrent"))).find(|path| path.exists());
    let put = |folder: &str| {
        let place = lab.directory().join("work/watch/n1").join(folder).join("album.torrent");
        fs::copy(torrent.as_ref().expect("a torrent"), place).expect("copied");
    };
    put("start");
    let state = || lab.torrent("n1", &album).map(|torrent| torrent["state"].as_str().map(str::to_owned));
    wait_until("n1 seeds it", || state() == Some(Some("seeding".into())));
    let got = lab.torrent("n1", &album).and_then(|torrent| torrent["down_bytes"].as_u64()).expect("a number");
    assert!((1..400 << 10).contains(&got), "{got} bytes came");
    assert_eq!(fs::read(files.join("disc/2")).expect("there"), interop::noise(200 << 10, 8));

    // In the other folder it is added, and nothing else.
    let gone = lab.ask("DELETE", &format!("/lab/nodes/n1/v1/torrents/{album}?data=true"));
    assert!(gone.starts_with("HTTP/1.1 204"), "{gone}");
    put("load");
    wait_until("n1 has it, and lets it be", || state() == Some(Some("stopped".into())));

    // Both change: others come in their place, and to the seeder.
    fs::write(sources.path().join("album/1"), interop::noise(100 << 10, 9)).expect("written");
    let (new, next) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    fs::write(new.path().join("c"), interop::noise(100 << 10, 3)).expect("written");
    lab::image::build(new.path(), &[], &next.path().join("pictures"), "latest").expect("an image");
    fs::remove_dir_all(sources.path().join("pictures")).expect("removed");
    fs::rename(next.path().join("pictures"), sources.path().join("pictures")).expect("moved");
    let is_other = |name: &str, old: &str| lab.find(name).is_some_and(|id| id != old);
    wait_until("both are others", || {
        is_other("album", &album) && is_other("lab.test/pictures:latest", &image)
    });
    let album = lab.content("album");
    let seeds = || lab.torrent("s1", &album).is_some_and(|torrent| torrent["state"] == "seeding");
    wait_until("the seeder has the new one", seeds);
    let there = fs::read(lab.directory().join("work/files/s1/album/1")).expect("there");
    assert_eq!(there, interop::noise(100 << 10, 9));
    assert!(lab.torrent("n1", &lab.content("album")).is_none(), "who pulls nothing gets nothing");

    let (directory, children) = (lab.directory(), lab.children());
    lab.expect("down", &[]);
    assert!(!directory.exists());
    assert_eq!(left(&directory, &children), Vec::<String>::new());
    assert_eq!(lab.run("down", &[]).status.code(), Some(1));
}

#[test]
fn an_image_of_a_registry_outside_is_held_and_pulled_from_peers() {
    let _alone = alone();
    let Some(registry) = interop::Registry::start("", &[]) else { return };
    let (files, layout) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    fs::write(files.path().join("a"), interop::noise(600 << 10, 5)).expect("written");
    lab::image::build(files.path(), &[], layout.path(), "app:1").expect("an image");
    registry.take(layout.path(), "fleet/app:1", None);
    let url = format!("http://{}", registry.address());
    let mut words =
        vec!["--seeders", "1", "--leechers", "2", "--image", "reg.test/fleet/app:1", "--registry", &url];
    // Namespaces have no way out: there the registry is reached through a relay.
    if rustix::process::geteuid().is_root() && interop::require("ip", "iproute2") {
        words.push("--netns");
    }
    let lab = Lab::up("timage", &words);
    let has = |host: &str| {
        let status = lab.status();
        let size = status["contents"][0]["size"].as_u64().filter(|size| *size > 600 << 10);
        size.is_some() && status["has_bytes"][host].as_u64() == size
    };
    wait_until("the seeder has it", || has("s1"));
    lab.expect("pull", &[]);
    wait_until("the leechers have it", || has("n1") && has("n2"));
    for host in ["n1", "n2"] {
        let answer = lab.ask("GET", &format!("/lab/nodes/{host}/v1/status"));
        let status = answer.find("\r\n\r\n").and_then(|at| answer.get(at..)).expect("a body");
        let status: Value = serde_json::from_str(status).expect("JSON");
        let from = |place: &str| status["totals"][place].as_u64().expect("a number");
        assert!(from("from_peers") > 600 << 10, "{status}");
        assert_eq!(from("from_origins"), 0, "{status}");
    }
}

#[test]
fn a_lab_that_stands_holds_its_contents_however_slow_its_links_are() {
    let _alone = alone();
    let sources = sources();
    let text = sources.path().to_str().expect("text");
    // At that speed a seeder would get the image in more than a minute.
    let slow = ["--seeders", "2", "--leechers", "1", "--rate", "64kbit", "--sources", text];
    let lab = Lab::up("tslow", &slow);
    let held = lab.raised["contents"].as_array().expect("a list");
    let holders: Vec<&Value> = held.iter().map(|content| &content["seeders"]).collect();
    assert_eq!(holders, [&json!(["s1", "s2"]), &json!(["s1", "s2"])]);
    assert!(lab.has_all("s1") && lab.has_all("s2"));
    assert_eq!(lab.raised["problems"], Value::Null);
    assert_eq!(lab.raised["hosts"][3]["rate"], 64_000);
}

#[test]
fn a_lab_without_seeders_has_one_node_hold_each_torrent_and_all_get_it() {
    let _alone = alone();
    let sources = sources();
    let text = sources.path().to_str().expect("text");
    let lab = Lab::up("tnoseed", &["--seeders", "0", "--leechers", "2", "--sources", text]);
    let holders = |kind: &str| {
        let status = lab.status();
        let mut contents = status["contents"].as_array().expect("a list").iter();
        contents.find(|content| content["kind"] == kind).expect("one of that kind")["seeders"].clone()
    };
    assert_eq!((holders("torrent"), holders("image")), (json!(["n1"]), json!([])));
    let status = lab.run("status", &[]);
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(status.contains("  n1\n") && status.contains("  the registry\n"), "{status}");

    // Who alone has a torrent does not forget it, also when told by name.
    lab.expect("pull", &[]);
    wait_until("both have all", || lab.has_all("n1") && lab.has_all("n2"));
    lab.expect("pull", &["n1"]);
    wait_until("n1 has all again", || lab.has_all("n1"));
    assert_eq!(holders("torrent"), json!(["n1"]));
}

#[test]
fn what_cannot_be_raised_is_said() {
    let _alone = alone();
    let refused = |arguments: &[&str], word: &str| {
        let output = longshore(&[&["up", "--name", "tnone"], arguments].concat());
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {words}");
        assert!(words.contains(word), "{arguments:?}: {words}");
    };
    refused(&["--delay", "5ms"], "--netns");
    refused(&["--origin-rate", "5mbit"], "--netns");
    refused(&["--sources", "/nonexistent"], "/nonexistent");
    refused(&["--topology", "/nonexistent.toml"], "/nonexistent.toml");
    refused(&["--topology", "zones:99"], "from 1 to 8");
    refused(&["--seeders", "0", "--leechers", "0"], "no node");
    refused(&["--page", "0.0.0.0:7070"], "loopback");
    refused(&["--foreign", "netscape"], "transmission");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    refused(&["--page", &taken.local_addr().expect("bound").to_string()], "another --page");
}

/// Whether a host's namespace can open a connection.
fn reaches(lab: &str, host: &str, target: &str) -> bool {
    let script = format!("exec 3<>/dev/tcp/{}", target.replace(':', "/"));
    let namespace = format!("lslab-{lab}-{host}");
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &namespace, "timeout", "1", "bash", "-c", &script]);
    command.output().expect("starts").status.success()
}

/// A link that is healed carries again after a moment.
fn comes_to_reach(lab: &str, hosts: &[&str], target: &str) {
    for host in hosts {
        wait_until(&format!("{host} reaches {target}"), || reaches(lab, host, target));
    }
}

#[test]
fn in_namespaces_zones_and_hosts_are_cut_off_and_healed() {
    let _alone = alone();
    if !rustix::process::geteuid().is_root() {
        return interop::skip("only root makes network namespaces");
    }
    if !interop::require("ip", "iproute2") {
        return;
    }
    let sources = sources();
    let text = sources.path().to_str().expect("text");
    let lab = Lab::up(
        "tzone",
        &[
            "--netns",
            "--topology",
            "zones:2",
            "--seeders",
            "1",
            "--leechers",
            "2",
            "--rate",
            "100mbit",
            "--sources",
            text,
        ],
    );
    // s1 and n1 are in the first zone with the tracker, n2 is in the second.
    let tracker = "tracker.lab:6969";
    comes_to_reach(lab.name, &["n1", "n2"], tracker);
    let unknown =
        Command::new("ip").args(["netns", "exec", "lslab-tzone-n1", "getent", "hosts", "n9.lab"]).output();
    assert!(!unknown.expect("starts").status.success());

    lab.says("cut", &["zone1", "zone2"], "zone1 and zone2 cut: nothing passes the link between them");
    comes_to_reach(lab.name, &["n1"], tracker);
    assert!(!reaches(lab.name, "n2", "10.99.3.1:6969"));
    assert_eq!(lab.status()["cuts"][0][1], "zone2");
    lab.says("heal", &["zone2", "zone1"], "zone2 and zone1 healed");
    comes_to_reach(lab.name, &["n2"], tracker);

    lab.says("cut", &["n1"], "n1 cut off: its link is down");
    assert!(!reaches(lab.name, "n1", "10.99.3.1:6969"));
    comes_to_reach(lab.name, &["n2"], tracker);
    lab.says("cut", &["zone2"], "zone2 cut off: nothing passes its links to zone1");
    lab.says("heal", &[], "n1; zone1 and zone2 healed");
    lab.says("heal", &[], "nothing is cut");
    comes_to_reach(lab.name, &["n1", "n2"], tracker);

    lab.says("limit", &["n2", "20mbit"], "n2 limited to 20mbit each way, by its link");
    lab.says("add", &["1", "--zone", "zone2"], "n3 added to zone2, 10.100.1.4");
    wait_until("n3 runs", || lab.state("n3").as_deref() == Some("running"));
    comes_to_reach(lab.name, &["n3"], tracker);

    // Over the link between the zones, and through the cut-off nodes' own links.
    lab.expect("pull", &[]);
    wait_until("zone2 has all", || lab.has_all("n2") && lab.has_all("n3"));

    let (directory, children) = (lab.directory(), lab.children());
    lab.kill_supervisor();
    lab.expect("down", &[]);
    assert!(!directory.exists());
    assert_eq!(left(&directory, &children), Vec::<String>::new());
    let namespaces = Command::new("ip").args(["netns", "list"]).output().expect("starts");
    assert!(!String::from_utf8_lossy(&namespaces.stdout).contains("lslab-tzone-"));
    let resolvers = fs::read_dir("/etc/netns").into_iter().flatten().flatten();
    assert_eq!(resolvers.filter(|entry| entry.file_name().to_string_lossy().contains("tzone")).count(), 0);
}
