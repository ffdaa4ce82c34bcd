//! The tracker's ways in, by other programs: sockets that were bound before it started, curl, haproxy, nginx.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "helpers of tests, outside the functions that clippy knows for tests"
)]

use std::{fs, net::UdpSocket, path::Path, process::Command, time::Duration};

use longshore_interop::{PYTHON, Process, free_port, longshore, require, wait_until};
use serde_json::Value;

/// Binds sockets as systemd does for `.socket` units, and becomes the program that its arguments name.
const ACTIVATE: &str = r#"
import os, socket, sys
path, names, program = sys.argv[1], sys.argv[2], sys.argv[3:]
made = []
for name in names.split(":"):
    unix = name == "unix"
    kind = socket.SOCK_DGRAM if name == "udp" else socket.SOCK_STREAM
    one = socket.socket(socket.AF_UNIX if unix else socket.AF_INET, kind)
    one.bind(path if unix else ("127.0.0.1", 0))
    if name not in ("udp", "deaf"):
        one.listen()
    one.setblocking(False)
    made.append(one)
high = [os.dup2(one.fileno(), 100 + n) for n, one in enumerate(made)]
for n, fd in enumerate(high):
    os.dup2(fd, 3 + n, inheritable=True)
env = dict(os.environ, LISTEN_FDS=str(len(made)), LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES=names)
os.execve(program[0], program, env)
"#;

fn activated(unix: &Path, names: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(PYTHON);
    command.args(["-c", ACTIVATE]).arg(unix).arg(names).arg(longshore());
    command.args(["tracker", "--json"]).args(arguments);
    command
}

fn curl(arguments: &[&str]) -> String {
    let output =
        Command::new("curl").args(["--silent", "--show-error", "--max-time", "30"]).args(arguments).output();
    let output = output.expect("runs");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The files of a certificate for 127.0.0.1 and of its key.
fn certificate(folder: &Path) -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    let write = |name: &str, text: String| {
        let path = folder.join(name);
        fs::write(&path, text).expect("written");
        path.to_str().expect("text").to_owned()
    };
    (write("certificate.pem", made.cert.pem()), write("key.pem", made.signing_key.serialize_pem()))
}

fn announce(port: u16) -> String {
    let (hash, id) = ("a".repeat(20), "b".repeat(20));
    format!("/announce?info_hash={hash}&peer_id={id}&port={port}&left=1&uploaded=0&downloaded=0&compact=0")
}

fn first(listening: &Value, kind: &str) -> String {
    listening[kind][0].as_str().unwrap_or_default().to_owned()
}

#[test]
fn sockets_that_were_bound_before_are_served_and_no_address_is_bound_besides() {
    if !require("python3", "python3") || !require("curl", "curl") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let unix = folder.path().join("http.sock").to_str().expect("text").to_owned();
    let (certificate, key) = certificate(folder.path());
    // The address that is configured is not bound: nobody may.
    let tls = ["--tls-certificate", &certificate, "--tls-key", &key, "--listen", "192.0.2.1:1"];
    let mut tracker = Process::start(&mut activated(Path::new(&unix), "http:udp:unix:https", &tls));
    let listening = tracker.event("listening");
    let (http, https) = (first(&listening, "addresses"), first(&listening, "https"));
    assert_eq!(first(&listening, "unix"), unix);

    // All four ways lead to the same peers.
    curl(&[&format!("http://{http}{}", announce(1001))]);
    let secure = format!("https://{https}{}", announce(1002));
    assert!(curl(&["--cacert", &certificate, &secure]).contains("4:porti1001e"));
    let proxied = format!("http://tracker{}", announce(1003));
    let said = curl(&["--unix-socket", &unix, "--header", "X-Real-IP: 192.0.2.9", &proxied]);
    assert!(said.contains("4:porti1001e") && said.contains("4:porti1002e"), "{said}");
    assert!(curl(&["--unix-socket", &unix, &proxied]).contains("failure reason"));
    assert!(curl(&[&format!("http://{http}{}", announce(1004))]).contains("2:ip9:192.0.2.9"));
    let socket = UdpSocket::bind("127.0.0.1:0").expect("binds");
    socket.set_read_timeout(Some(Duration::from_secs(30))).expect("set");
    // `connect` of BEP 15.
    let packet = [0, 0, 4, 0x17, 0x27, 0x10, 0x19, 0x80, 0, 0, 0, 0, 1, 2, 3, 4];
    socket.send_to(&packet, first(&listening, "udp")).expect("sends");
    let mut answer = [0; 64];
    assert_eq!(socket.recv(&mut answer).expect("an answer"), 16);
    assert_eq!(answer[..8], [0, 0, 0, 0, 1, 2, 3, 4]);
    // Without the certificate there is no way in.
    let stranger =
        Command::new("curl").args(["--silent", "--max-time", "30", &secure]).status().expect("runs");
    assert_eq!(stranger.code(), Some(60), "curl's word for a certificate that it does not trust");

    tracker.terminate();
    assert!(tracker.wait().success());
    assert!(Path::new(&unix).exists(), "it is whose who bound it");
}

#[test]
fn an_inherited_socket_that_cannot_be_used_is_an_error_that_says_so() {
    if !require("python3", "python3") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let unix = folder.path().join("http.sock");
    for (names, code, words) in [("https", 2, "`tls_certificate`"), ("deaf", 1, "Accept=no")] {
        let output = activated(&unix, names, &[]).output().expect("runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(code) && said.contains(words), "{names}: {said}");
    }
}

#[test]
fn curl_comes_through_the_proxy_protocol() {
    if !require("curl", "curl") {
        return;
    }
    let mut command = Command::new(longshore());
    command.args(["tracker", "--json", "--listen", "127.0.0.1:0", "--proxy-protocol", "true"]);
    let mut tracker = Process::start(command.args(["--trusted-proxies", "127.0.0.1"]));
    let http = first(&tracker.event("listening"), "addresses");
    // As the client that it is, which is this machine.
    curl(&["--haproxy-protocol", &format!("http://{http}{}", announce(1001))]);
    assert!(
        curl(&["--haproxy-protocol", &format!("http://{http}{}", announce(1002))])
            .contains("2:ip9:127.0.0.1")
    );
    let plain =
        Command::new("curl").args(["--silent", "--max-time", "30", &format!("http://{http}/")]).status();
    assert_eq!(plain.expect("runs").code(), Some(52), "curl's word for no answer at all");
}

/// Waits until somebody answers at a port.
fn wait_for(port: u16) {
    wait_until("the proxy to listen", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
}

#[test]
fn haproxy_says_for_whom_it_comes_by_both_versions_and_before_tls() {
    if !require("haproxy", "haproxy") || !require("curl", "curl") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let (certificate, key) = certificate(folder.path());
    let mut command = Command::new(longshore());
    command.args(["tracker", "--json", "--listen", "127.0.0.1:0", "--tls-listen", "127.0.0.1:0"]);
    command.args(["--tls-certificate", &certificate, "--tls-key", &key, "--ip-from", "192.0.2.0/24"]);
    // haproxy comes from 127.0.0.2, its clients from 127.0.0.1.
    let mut tracker =
        Process::start(command.args(["--proxy-protocol", "true", "--trusted-proxies", "127.0.0.2"]));
    let listening = tracker.event("listening");
    let (http, https) = (first(&listening, "addresses"), first(&listening, "https"));
    let mut config =
        "defaults\n mode tcp\n timeout connect 9s\n timeout client 30s\n timeout server 30s\n".to_owned();
    let ways = [("send-proxy", &http), ("send-proxy-v2", &http), ("send-proxy-v2", &https)];
    let ports = ways.map(|(send, to)| {
        let port = free_port();
        config += &format!(
            "listen l{port}\n bind 127.0.0.1:{port}\n server t {to} {send} source 127.0.0.2 check check-send-proxy\n"
        );
        port
    });
    let file = folder.path().join("haproxy.cfg");
    fs::write(&file, config).expect("written");
    let _haproxy = Process::start(Command::new("haproxy").args(["-db", "-f"]).arg(&file));
    ports.into_iter().for_each(wait_for);
    let [one, two, secure] = ports;
    curl(&[&format!("http://127.0.0.1:{one}{}", announce(1001))]);
    curl(&[&format!("http://127.0.0.1:{two}{}", announce(1002))]);
    let found = curl(&["--cacert", &certificate, &format!("https://127.0.0.1:{secure}{}", announce(1003))]);
    for port in [1001, 1002] {
        assert!(found.contains(&format!("2:ip9:127.0.0.14:porti{port}e")), "{found}");
    }
    // Whoever is no proxy asks as himself, and may say nothing else.
    assert!(curl(&[&format!("http://{http}{}", announce(1004))]).contains("porti1003e"));
    let said = curl(&["--haproxy-protocol", "--include", &format!("http://{http}{}", announce(1005))]);
    assert!(said.starts_with("HTTP/1.1 400"), "{said}");
}

#[test]
fn nginx_comes_through_a_unix_socket_and_names_its_clients() {
    if !require("nginx", "nginx-light") || !require("curl", "curl") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let (at, port) = (folder.path().display(), free_port());
    let mut command = Command::new(longshore());
    command.args([
        "tracker",
        "--json",
        "--listen",
        &format!("unix:{at}/http.sock"),
        "--ip-from",
        "192.0.2.0/24",
    ]);
    let mut tracker = Process::start(command.args(["--real-ip-header", "X-Forwarded-For"]));
    tracker.event("listening");
    let config = format!(
        "daemon off; master_process off; error_log stderr; pid {at}/pid;\n\
         events {{}}\n\
         http {{\n access_log off; client_body_temp_path {at}/b; proxy_temp_path {at}/p; fastcgi_temp_path {at}/f;\n\
         uwsgi_temp_path {at}/u; scgi_temp_path {at}/s;\n\
         upstream t {{ server unix:{at}/http.sock; keepalive 4; }}\n\
         server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://t; proxy_http_version 1.1;\n\
         proxy_set_header Connection ''; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; }} }} }}\n"
    );
    let file = folder.path().join("nginx.conf");
    fs::write(&file, config).expect("written");
    let _nginx = Process::start(Command::new("nginx").args(["-e", "stderr", "-c"]).arg(&file));
    wait_for(port);
    let ask = |port: u16, of: u16, more: &[&str]| {
        curl(&[more, &[&format!("http://127.0.0.1:{port}{}", announce(of))]].concat())
    };
    ask(port, 1001, &[]);
    // What a client makes up stands before what nginx adds.
    let found = ask(port, 1002, &["--interface", "127.0.0.3", "--header", "X-Forwarded-For: 6.6.6.6"]);
    assert!(found.contains("2:ip9:127.0.0.14:porti1001e"), "{found}");
    let found = ask(port, 1003, &[]);
    assert!(found.contains("2:ip9:127.0.0.34:porti1002e") && !found.contains("6.6.6.6"), "{found}");
    assert_eq!(curl(&[&format!("http://127.0.0.1:{port}/health")]), "ok\n");
}
