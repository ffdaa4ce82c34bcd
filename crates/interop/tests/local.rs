//! Two nodes in network namespaces on one switch, with a directory and without announces: what one has comes to the other
//! by local discovery (BEP 14).
#![allow(clippy::expect_used, reason = "tests fail by panicking, their helpers too")]

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::Command,
};

use hash::Digest;
use longshore_interop::{DEADLINE, Network, PYTHON, Place, Process, longshore, noise, wait_until};

const TRACKER: u16 = 6969;
const WEB: u16 = 8000;
const MIRROR: u16 = 5555;

/// A node at a place, told where the directory is and of no tracker.
fn node(place: &Place, folder: &Path, host: &Place, local: bool) -> Process {
    let ip = |place: &Place| SocketAddr::new(place.ip, 0).to_string().trim_end_matches(":0").to_owned();
    let data = folder.join(format!("data-{}-{local}", ip(place).replace(['[', ']', ':', '.'], "-")));
    let lines = format!(
        "trackers = []\ndirectory = [\"http://{host}:{TRACKER}\"]\n\
         [peer]\nlisten = \"{any}:6881\"\nlocal_discovery = {local}\n\
         [mirror]\nlisten = [\"{here}:{MIRROR}\"]\n[content]\nstall_seconds = 2\n\
         [[ostree]]\nname = \"os\"\nurl = \"http://{host}:{WEB}/repo\"\n",
        host = ip(host),
        here = ip(place),
        any = if place.ip.is_ipv6() { "[::]" } else { "0.0.0.0" },
    );
    place.node(&data, &lines)
}

/// What the mirror there answers: its status, and as much of the body as comes.
fn ask(place: &Place, path: &str) -> (String, Vec<u8>) {
    let address = SocketAddr::new(place.ip, MIRROR);
    place.inside(|| {
        let mut stream = TcpStream::connect(address).expect("somebody listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("set");
        let request = format!("GET /ostree/os/{path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an answer");
        let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("a head");
        let status = String::from_utf8_lossy(&answer).split(' ').nth(1).expect("a status").to_owned();
        (status, answer.split_off(end + 4))
    })
}

fn shown(v6: bool) {
    let Some(network) = Network::new(3, v6) else { return };
    let (host, first, second) = (network.host(0), network.host(1), network.host(2));
    let folder = tempfile::tempdir().expect("a folder");
    let content = noise(400_000, 1);
    let hex = Digest::of(&content).hex();
    let path = format!("objects/{}/{}.commit", &hex[..2], &hex[2..]);
    let file = folder.path().join("repo").join(&path);
    fs::create_dir_all(file.parent().expect("a folder")).expect("made");
    fs::write(file, &content).expect("written");
    let mut command = host.command(longshore());
    let listen = SocketAddr::new(host.ip, TRACKER).to_string();
    command.args(["tracker", "--json", "--listen", &listen]);
    let mut tracker = Process::start(&mut command);
    tracker.event("listening");
    let mut command: Command = host.command(PYTHON);
    command.args(["-m", "http.server", "--bind", &host.ip.to_string(), &WEB.to_string()]);
    command.current_dir(folder.path());
    let mut web = Process::start(&mut command);
    let there = SocketAddr::new(host.ip, WEB);
    wait_until("the web server", || host.inside(|| TcpStream::connect(there).is_ok()));

    let _holder = node(&first, folder.path(), &host, true);
    assert_eq!(ask(&first, &path), ("200".to_owned(), content.clone()));
    web.kill();
    // The directory knows the torrent, and no tracker anybody who has it.
    let deaf = node(&second, folder.path(), &host, false);
    let (status, body) = ask(&second, &path);
    assert!(status != "200" || body.len() < content.len(), "found without looking");
    drop(deaf);
    let _seeker = node(&second, folder.path(), &host, true);
    assert_eq!(ask(&second, &path), ("200".to_owned(), content));
}

#[test]
fn what_one_node_has_comes_to_another_without_announces() {
    shown(false);
}

#[test]
fn over_ipv6_too() {
    shown(true);
}
