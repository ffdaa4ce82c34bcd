//! Debian's ostree pulls a repository through two nodes: by their proxy, by their own address, from mirror lists, as
//! `longshore runtime` sets it up; and through two of `longshore proxy`, with etcd between them.
#![allow(clippy::expect_used, reason = "tests fail by panicking, their helpers too")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use longshore_interop::{Etcd, PYTHON, Process, free_port, longshore, noise, require, wait_until};
use tempfile::TempDir;

/// A web server that notes what it sends: method, path, status, bytes.
const SERVER: &str = r#"
import http.server, os, sys
class Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def copyfile(self, source, outputfile):
        data = source.read()
        outputfile.write(data)
        # One write for a whole line: the server's threads share the pipe.
        os.write(1, f"sent {len(data)} {self.path}\n".encode())
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"#;

fn done(command: &mut Command) -> Output {
    let output = command.output().expect("starts");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn ostree(repository: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("ostree");
    command.arg(format!("--repo={}", repository.display())).args(arguments);
    for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
        command.env_remove(name);
    }
    String::from_utf8_lossy(&done(&mut command).stdout).trim().to_owned()
}

/// A repository with two commits, a delta to the second from nothing and one from the first, and its web server.
struct Upstream {
    server: Process,
    url: String,
    first: String,
    second: String,
}

impl Upstream {
    fn start(place: &Path) -> Self {
        let (repository, tree) = (place.join("repo"), place.join("tree"));
        fs::create_dir_all(tree.join("usr")).expect("made");
        ostree(&repository, &["init", "--mode=archive"]);
        // Nothing packed, and a link: objects that are all header.
        fs::write(tree.join("usr/empty"), []).expect("written");
        std::os::unix::fs::symlink("../usr/file0", tree.join("usr/link")).expect("made");
        for number in 0..12 {
            fs::write(tree.join(format!("usr/file{number}")), noise(150_000, number)).expect("written");
        }
        let commit = |subject: &str| {
            let tree = format!("--tree=dir={}", tree.display());
            ostree(&repository, &["commit", "--branch=main", "--subject", subject, &tree])
        };
        let first = commit("one");
        fs::write(tree.join("usr/file3"), noise(200_000, 99)).expect("written");
        let second = commit("two");
        let delta = ["static-delta", "generate", "--max-chunk-size=1", "--to", &second];
        ostree(&repository, &[&delta[..], &["--empty"]].concat());
        ostree(&repository, &[&delta[..], &["--from", &first]].concat());
        ostree(&repository, &["summary", "--update"]);
        ostree(&repository, &["static-delta", "reindex"]);
        let port = free_port();
        let mut command = Command::new(PYTHON);
        command.args(["-c", SERVER, &port.to_string()]).current_dir(place);
        let server = Process::start(&mut command);
        wait_until("the server answers", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        Self { server, url: format!("http://127.0.0.1:{port}/repo"), first, second }
    }

    /// How often each file was sent whole.
    fn sent(&self) -> BTreeMap<String, usize> {
        let mut sent = BTreeMap::new();
        for line in self.server.stdout() {
            if let Some((_, path)) = line.strip_prefix("sent ").and_then(|rest| rest.split_once(' ')) {
                *sent.entry(path.to_owned()).or_default() += 1;
            }
        }
        sent
    }
}

/// A tracker and two nodes that know the repository as `os`; their mirrors' addresses.
fn fleet(place: &Path, upstream: &Upstream) -> (Vec<Process>, Vec<String>) {
    let mut tracker =
        Process::start(Command::new(longshore()).args(["tracker", "--listen", "127.0.0.1:0", "--json"]));
    let address = tracker.event("listening")["addresses"][0].as_str().expect("an address").to_owned();
    let (mut processes, mut mirrors) = (vec![tracker], Vec::new());
    for number in 0..2 {
        let config = place.join(format!("{number}.toml"));
        let text = format!(
            "trackers = [\"http://{address}/announce\"]\ndata = \"{data}\"\n\
             [peer]\nlisten = \"127.0.0.1:0\"\n[mirror]\nlisten = [\"127.0.0.1:0\"]\n\
             [api]\nsocket = \"{data}.sock\"\n[proxy]\nenabled = true\n\
             [[ostree]]\nname = \"os\"\nurl = \"{url}\"\n",
            data = place.join(format!("data{number}")).display(),
            url = upstream.url,
        );
        fs::write(&config, text).expect("written");
        let mut node =
            Process::start(Command::new(longshore()).args(["node", "--json", "--config"]).arg(config));
        mirrors.push(node.event("listening")["mirrors"][0].as_str().expect("an address").to_owned());
        processes.push(node);
    }
    (processes, mirrors)
}

/// A new repository that pulls `main` from a remote, and what it has then.
fn pull(
    place: &Path,
    name: &str,
    url: &str,
    content: Option<&str>,
    proxy: Option<&str>,
) -> (PathBuf, String) {
    let repository = place.join(name);
    ostree(&repository, &["init", "--mode=bare-user-only"]);
    let mut add = vec!["remote", "add", "--no-gpg-verify"];
    let content = content.map(|content| format!("--contenturl={content}"));
    add.extend(content.as_deref());
    add.extend(["up", url, "main"]);
    ostree(&repository, &add);
    again(&repository, &["pull", "up", "main"], proxy);
    let has = ostree(&repository, &["rev-parse", "up:main"]);
    ostree(&repository, &["fsck"]);
    (repository, has)
}

fn again(repository: &Path, arguments: &[&str], proxy: Option<&str>) {
    let mut command = Command::new("ostree");
    command.arg(format!("--repo={}", repository.display())).args(arguments);
    for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
        command.env_remove(name);
    }
    command.envs(proxy.map(|proxy| ("http_proxy", format!("http://{proxy}"))));
    done(&mut command);
}

#[test]
fn a_repository_is_pulled_once_and_then_from_the_fleet_without_its_server() {
    if !require("ostree", "ostree") {
        return;
    }
    let folder: TempDir = tempfile::tempdir().expect("a folder");
    let place = folder.path();
    let mut upstream = Upstream::start(place);
    let (_fleet, mirrors) = fleet(place, &upstream);
    let own = |number: usize| format!("http://{}/ostree/os", mirrors[number]);

    // One way after the other, on the first node.
    let (_, has) = pull(place, "by-proxy", &upstream.url, None, Some(&mirrors[0]));
    assert_eq!(has, upstream.second);
    let (_, has) = pull(place, "by-content", &upstream.url, Some(&own(0)), None);
    assert_eq!(has, upstream.second);
    // From the first commit to the second, by the delta between them.
    let older = place.join("older");
    ostree(&older, &["init", "--mode=bare-user-only"]);
    ostree(&older, &["remote", "add", "--no-gpg-verify", "up", &own(0), "main"]);
    again(&older, &["pull", "up", &format!("main@{}", upstream.first)], None);
    again(&older, &["pull", "up", "main"], None);
    ostree(&older, &["fsck"]);

    // Everything that cannot change has left its server once.
    let sent = upstream.sent();
    let fixed: Vec<_> = sent
        .iter()
        .filter(|(path, _)| {
            path.contains("/objects/") || path.contains("/deltas/") && !path.ends_with("/superblock")
        })
        .collect();
    assert!(fixed.iter().any(|(path, _)| path.contains("/deltas/")), "{sent:?}");
    assert!(fixed.iter().any(|(path, _)| path.ends_with(".filez")), "{sent:?}");
    assert!(fixed.iter().all(|(_, times)| **times == 1), "{fixed:?}");

    assert!(sent.keys().any(|path| path.contains("/delta-indexes/")), "{sent:?}");

    // Mirror lists, of which the first entry is dead.
    let list = format!("http://127.0.0.1:{}/\n{}/\n", free_port(), own(0));
    fs::write(place.join("list"), list).expect("written");
    let list = format!("mirrorlist={}", upstream.url.replace("/repo", "/list"));
    let (_, has) = pull(place, "by-list", &list, None, None);
    assert_eq!(has, upstream.second);
    let (_, has) = pull(place, "by-content-list", &upstream.url, Some(&list), None);
    assert_eq!(has, upstream.second);
    let again = upstream.sent();
    let fixed = |path: &&String| path.contains("/objects/") && !path.ends_with(".commitmeta");
    assert!(again.iter().filter(|(path, _)| fixed(path)).all(|(_, times)| *times == 1), "{again:?}");

    upstream.server.kill();
    let (_, has) = pull(place, "by-proxy-later", &upstream.url, None, Some(&mirrors[1]));
    assert_eq!(has, upstream.second);
    let (_, has) = pull(place, "by-url-later", &own(1), None, None);
    assert_eq!(has, upstream.second);
    let (_, has) = pull(place, "by-content-later", &own(1), Some(&own(0)), None);
    assert_eq!(has, upstream.second);
}

/// Runs `longshore runtime` for the system below a folder.
fn runtime(root: &Path, arguments: &[&str]) -> Output {
    Command::new(longshore()).arg("runtime").args(arguments).arg("--root").arg(root).output().expect("ends")
}

#[test]
fn runtime_sets_a_remote_up_checks_it_and_brings_its_file_back() {
    if !require("ostree", "ostree") {
        return;
    }
    let folder: TempDir = tempfile::tempdir().expect("a folder");
    let place = folder.path();
    let upstream = Upstream::start(place);
    let (_fleet, mirrors) = fleet(place, &upstream);
    let (root, config) = (place.join("root"), place.join("0.toml"));
    let repository = root.join("ostree/repo");
    fs::create_dir_all(root.join("ostree")).expect("made");
    ostree(&repository, &["init", "--mode=bare-user-only"]);
    let config = config.to_str().expect("text");
    let named = ["--config", config, "--mirror", &mirrors[0]];
    let refused = runtime(&root, &[&["install", "ostree"], &named[..]].concat());
    let words = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && words.contains("no remote"), "{words}");

    ostree(&repository, &["remote", "add", "--no-gpg-verify", "up", &format!("{}/", upstream.url), "main"]);
    let file = repository.join("config");
    let before = fs::read(&file).expect("there");
    let installed = runtime(&root, &[&["install", "ostree"], &named[..]].concat());
    assert!(installed.status.success(), "{}", String::from_utf8_lossy(&installed.stderr));
    let content = ostree(&repository, &["config", "get", "remote \"up\".contenturl"]);
    assert_eq!(content, format!("http://{}/ostree/os", mirrors[0]));
    let socket = place.join("data0.sock");
    let socket = ["--socket", socket.to_str().expect("text"), "--mirror", &mirrors[0]];
    let checked = runtime(&root, &[&["check", "ostree"], &socket[..]].concat());
    let words = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success() && words.contains("came through the node"), "{words}");
    again(&repository, &["pull", "up", "main"], None);
    let sent = upstream.sent();
    let objects = sent.iter().filter(|(path, _)| path.contains("/objects/") && path.ends_with(".commit"));
    assert!(objects.clone().count() > 0 && objects.clone().all(|(_, times)| *times == 1), "{sent:?}");
    let undone = runtime(&root, &["uninstall", "ostree"]);
    assert!(undone.status.success(), "{}", String::from_utf8_lossy(&undone.stderr));
    assert_eq!(fs::read(&file).expect("there"), before, "to the byte");
    // With nothing of ours in its file there is something wrong.
    let checked = runtime(&root, &[&["check", "ostree"], &socket[..]].concat());
    assert_eq!(checked.status.code(), Some(1), "{}", String::from_utf8_lossy(&checked.stdout));
}

#[test]
fn with_torrent_caches_environment_ostree_pulls_once_and_then_from_the_other_proxy() {
    if !require("ostree", "ostree") {
        return;
    }
    let Some(etcd) = Etcd::start(1, None) else { return };
    let folder: TempDir = tempfile::tempdir().expect("a folder");
    let place = folder.path();
    let mut upstream = Upstream::start(place);
    let mut tracker =
        Process::start(Command::new(longshore()).args(["tracker", "--listen", "127.0.0.1:0", "--json"]));
    let announce = tracker.event("listening")["addresses"][0].as_str().expect("an address").to_owned();
    let members = etcd.members();
    let (etcd_host, etcd_port) = members.rsplit_once(':').expect("one");
    let host = upstream.url.trim_start_matches("http://").trim_end_matches("/repo");
    let mut proxies = Vec::new();
    for number in 0..2 {
        let (port, data) = (free_port(), place.join(format!("storage{number}")));
        let mut command = Command::new(longshore());
        command.args(["proxy", "--json", "--private-host", host, "--data"]).arg(&data);
        command.arg("--socket").arg(place.join(format!("proxy{number}.sock")));
        command.envs([
            ("PORT", port.to_string().as_str()),
            ("INTERFACE", "127.0.0.1"),
            ("REGISTRY_NO_SSL", "1"),
            ("REGISTRY_LOCATION", ""),
            ("TRACKER", &format!("http://{announce}/announce")),
            ("ETCD_HOST", etcd_host),
            ("ETCD_PORT", etcd_port),
            ("TORRENT_FIRST_PORT", "16881"),
            ("TORRENT_LAST_PORT", "16981"),
        ]);
        let mut process = Process::start(&mut command);
        let address = process.event("listening")["mirrors"][0].as_str().expect("an address").to_owned();
        assert_eq!(address, format!("127.0.0.1:{port}"));
        proxies.push((process, address));
    }
    let (_, has) = pull(place, "first", &upstream.url, None, Some(&proxies[0].1));
    assert_eq!(has, upstream.second);
    // What cannot change has not left its server again.
    let fixed = |path: &str| {
        path.contains("/objects/") && !path.ends_with(".commitmeta")
            || path.contains("/deltas/") && !path.ends_with("/superblock")
    };
    // It says so a moment after it has sent it.
    wait_until("the server has sent a delta's part", || {
        upstream.sent().keys().any(|path| path.contains("/deltas/") && fixed(path))
    });
    let (_, has) = pull(place, "second", &upstream.url, None, Some(&proxies[1].1));
    assert_eq!(has, upstream.second);
    for (path, times) in upstream.sent() {
        assert!(!fixed(&path) || times == 1, "{path}: {times}");
    }
    // A client has a file's last byte before the directory is told of it.
    let parts: Vec<_> = upstream.sent().into_keys().filter(|path| fixed(path)).collect();
    for part in parts {
        let sum = done(Command::new("sha256sum").arg(place.join(part.trim_start_matches('/'))));
        let digest = String::from_utf8_lossy(&sum.stdout)[..64].to_owned();
        wait_until("etcd has the part's place", || {
            let key = format!("longshore/blobs/sha256:{digest}");
            !etcd.ctl(&["get", "--keys-only", &key]).stdout.is_empty()
        });
    }
    upstream.server.kill();
}
