//! A node's proxy that leads to the whole public internet, on a host that has an address of it.
#![allow(clippy::expect_used, reason = "tests fail by panicking, their helpers too")]

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
};

use longshore_interop::{DEADLINE, Network, PYTHON, Place, Process, wait_until};

const MIRROR: u16 = 5555;
/// One of the internet's, which this host has.
const OWN: &str = "9.9.9.9";

fn node(place: &Place, folder: &Path, private: &str) -> Process {
    let lines = format!(
        "trackers = []\n[peer]\nlisten = \"127.0.0.1:0\"\n[mirror]\nlisten = [\"127.0.0.1:{MIRROR}\"]\n\
         [proxy]\nenabled = true\nhosts = [\"*\"]\nprivate_hosts = [{private}]\nconnect_ports = [80]\n"
    );
    place.node(&folder.join("data"), &lines)
}

/// The status with which the proxy answers.
fn status(place: &Place, request: &str) -> String {
    place.inside(|| {
        let mut stream = TcpStream::connect(("127.0.0.1", MIRROR)).expect("the proxy listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("set");
        let request = format!("{request} HTTP/1.1\r\nHost: {OWN}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut start = [0; 12];
        stream.read_exact(&mut start).expect("an answer");
        String::from_utf8_lossy(&start).split(' ').nth(1).expect("a status").to_owned()
    })
}

#[test]
fn an_address_of_this_host_is_not_the_internets() {
    let Some(network) = Network::new(1, false) else { return };
    let (place, folder) = (network.host(0), tempfile::tempdir().expect("a folder"));
    let added = place.command("ip").args(["addr", "add", &format!("{OWN}/32"), "dev", "lo"]).status();
    assert!(added.expect("runs").success());
    let mut command = place.command(PYTHON);
    command.args(["-m", "http.server", "--bind", OWN, "80"]).current_dir(folder.path());
    let _web = Process::start(&mut command);
    let there: SocketAddr = format!("{OWN}:80").parse().expect("an address");
    wait_until("the web server", || place.inside(|| TcpStream::connect(there).is_ok()));
    let requests = [format!("GET http://{OWN}/"), format!("CONNECT {OWN}:80")];
    let guarded = node(&place, folder.path(), "");
    for request in &requests {
        assert_eq!(status(&place, request), "403", "{request}");
    }
    drop(guarded);
    let _open = node(&place, folder.path(), &format!("\"{OWN}\""));
    for request in &requests {
        assert_eq!(status(&place, request), "200", "{request}");
    }
}
