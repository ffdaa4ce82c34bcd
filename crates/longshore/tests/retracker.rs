//! A table of what retracker 0.10 does, each line checked against `longshore tracker` in its place: the command line,
//! the environment, the requests, the forwarders, the metrics. [`As`] says which lines are as there, and which are
//! not, and why. What is marked as a bug was one there.

#![allow(clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

use interop::{Answer, Http, Process, get, wait_until};

/// How a line stands to retracker.
enum As {
    There,
    /// A bug there.
    Bug(&'static str),
    /// Otherwise, and why.
    Ours(&'static str),
}

use As::{Bug, Ours, There};

fn longshore() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longshore"));
    command.env_clear().env("PATH", "/usr/bin:/bin");
    command
}

/// A tracker on a free port with these arguments and variables, and where it listens.
fn tracker(arguments: &[&str], variables: &[(&str, &str)]) -> (Process, SocketAddr) {
    let mut command = longshore();
    command.args(["tracker", "--json"]).args(arguments).envs(variables.iter().copied());
    if !arguments.iter().any(|argument| argument.starts_with("-l"))
        && !variables.iter().any(|(name, value)| *name == "LISTEN_ADDR" && !value.is_empty())
    {
        command.args(["--listen", "127.0.0.1:0"]);
    }
    let mut process = Process::start(&mut command);
    let listening = process.event("listening");
    let address = listening["addresses"][0].as_str().expect("an address").parse().expect("an address");
    (process, address)
}

/// An announce's target for the peer of this port, with more of a query. Each has an id of its own.
fn announce(port: u16, more: &str) -> String {
    format!(
        "/announce?info_hash=aaaaaaaaaaaaaaaaaaaa&peer_id=-XX0000-{port:012}&port={port}&uploaded=0&downloaded=0{more}"
    )
}

fn has(answer: &Answer, part: &[u8]) -> bool {
    part.is_empty() || answer.body.windows(part.len()).any(|window| window == part)
}

/// The arguments or variables, whether they are taken, and what is then to be found in the answer to a first announce.
#[test]
fn the_command_line_and_the_environment() {
    type Line = (&'static [&'static str], &'static [(&'static str, &'static str)], As, &'static str);
    let table: &[Line] = &[
        (
            &[],
            &[],
            Ours("30 s there; and here some percent more or less, so that a crowd disperses"),
            "8:intervali",
        ),
        (&["-i", "10"], &[], There, "8:intervali10e"),
        (&["-i=10"], &[], There, "8:intervali10e"),
        (&[], &[("ANNOUNCE_INTERVAL", "10")], There, "8:intervali10e"),
        (&["-i", "15"], &[("ANNOUNCE_INTERVAL", "10")], There, "8:intervali15e"),
        (&["-i", "5000"], &[], There, "8:intervali"),
        (&["-a", "10"], &[], There, "8:intervali2"),
        (&["-a", "0.5"], &[], There, "8:intervali12e"),
        (&["-a", "180", "-i", "30"], &[], There, "8:intervali"),
        (&[], &[("PEER_AGE", "0.5")], There, "8:intervali12e"),
        (&["-d", "-x", "-p"], &[], There, "8:interval"),
        (&["-d=true", "-x=false", "-p=1"], &[], There, "8:interval"),
        (&["-t", "3"], &[], There, "8:interval"),
        (&["-f", ""], &[], There, "8:interval"),
        (&["-l", "127.0.0.1:0"], &[], There, "8:interval"),
        (&["-l=127.0.0.1:0"], &[], There, "8:interval"),
        (&[], &[("LISTEN_ADDR", "127.0.0.1:0")], There, "8:interval"),
        (
            &[],
            &[
                ("DEBUG_MODE", "false"),
                ("X_REAL_IP", "False"),
                ("ENABLE_PROMETHEUS", "1"),
                ("FORWARD_TIMEOUT", "3"),
            ],
            There,
            "8:interval",
        ),
        // As a .env file has it that leaves all to the defaults.
        (
            &[],
            &[
                ("LISTEN_ADDR", ""),
                ("PEER_AGE", ""),
                ("DEBUG_MODE", ""),
                ("X_REAL_IP", ""),
                ("FORWARD_TIMEOUT", ""),
                ("ENABLE_PROMETHEUS", ""),
                ("ANNOUNCE_INTERVAL", ""),
                ("FORWARDS_FILE", ""),
            ],
            There,
            "8:interval",
        ),
        (
            &["-v"],
            &[],
            Ours("prints the version there: that is `longshore --version`, -v logs more"),
            "8:interval",
        ),
    ];
    for (arguments, variables, how, wanted) in table {
        let (_tracker, address) = tracker(arguments, variables);
        let answer = get(address, &announce(1000, "&left=5&compact=1"), &[]);
        assert!(
            has(&answer, wanted.as_bytes()),
            "{arguments:?} {variables:?} {}: {}",
            words(how),
            answer.text()
        );
    }
}

#[test]
fn what_cannot_be_used_ends_it_with_words_and_status_2() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), "- url: http://x/\n").expect("written");
    let file = file.path().to_str().expect("text");
    type Line<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], As, &'a str);
    let table: &[Line<'_>] = &[
        (&["-i", "x"], &[], There, "-i"),
        (&["-a", "x"], &[], There, "-a"),
        (&["-x=maybe"], &[], There, "true or false"),
        (&[], &[("DEBUG_MODE", "maybe")], There, "true or false"),
        (&["-f", "/nonexistent"], &[], There, "/nonexistent"),
        (&[], &[("FORWARDS_FILE", "/nonexistent")], There, "/nonexistent"),
        (&["-f", file], &[], Ours("a key that is not known is passed over there"), "`url`"),
        (&["-l", "localhost:8080"], &[], Ours("names are looked up there"), "127.0.0.1:8080"),
        (&["-i", "0"], &[], Ours("taken there"), "`interval` is 0"),
        (&["-a=-1"], &[], Ours("taken there, and nobody is found any more"), "-a is -1"),
        (&["-t", "0"], &[], Ours("waits for ever there"), "`forward_timeout` is 0"),
        (
            &["-a", "0.5", "-i", "30"],
            &[],
            Ours("taken there, and peers are forgotten in between"),
            "`peer_age`",
        ),
    ];
    for (arguments, variables, how, wanted) in table {
        let mut command = longshore();
        command.args(["tracker", "--listen", "127.0.0.1:0"]).args(*arguments).envs(variables.iter().copied());
        let output = command.output().expect("runs");
        let error = String::from_utf8_lossy(&output.stderr);
        let line = format!("{arguments:?} {variables:?} {}: {error}", words(how));
        assert!(output.status.code() == Some(2) && error.contains(wanted), "{line}");
    }
}

/// One question after the other to one tracker, in which the peers 1000 and 1001 are.
#[test]
fn requests_and_answers() {
    let (_tracker, address) = tracker(&[], &[]);
    let stay = |port, more: &str| get(address, &announce(port, more), &[]);
    stay(1000, "&left=0&event=started");
    stay(1001, "&left=5&event=started");
    let one = b"5:peers6:\x7f\0\0\x01\x03\xe8";
    let both = b"5:peers12:\x7f\0\0\x01\x03";
    let failure = b"d14:failure reason";
    let scrape = "/scrape?info_hash=aaaaaaaaaaaaaaaaaaaa";
    let hash = "info_hash=aaaaaaaaaaaaaaaaaaaa";
    let id = "peer_id=bbbbbbbbbbbbbbbbbbbb";
    let table: Vec<(String, As, u16, &[u8])> = vec![
        (announce(1002, "&left=5&compact=1&event=stopped"), There, 200, b"5:peers0:"),
        (announce(1001, "&left=5&compact=1"), Ours("the asker is among its peers there"), 200, one),
        (announce(1002, "&left=5&compact=1"), There, 200, both),
        (announce(1002, "&left=5&compact=1&event=stopped"), There, 200, b"5:peers0:"),
        (announce(1002, "&left=5&event=unknown&compact=1"), There, 200, both),
        (announce(1002, "&left=5&compact=1"), Ours("`peers6` is there always, if empty"), 200, both),
        (announce(1002, "&left=5&compact=1&numwant=1"), Ours("numwant is ignored there"), 200, b"5:peers6:"),
        (announce(1001, "&left=5&compact=0"), There, 200, b"5:peersld2:ip9:127.0.0.14:port"),
        (announce(1001, "&left=5&compact=1"), Ours("not told there"), 200, b"8:completei1e"),
        (
            announce(1001, "&left=5"),
            Ours("a list of dictionaries there; every client reads this"),
            200,
            b"5:peers12:",
        ),
        (announce(1002, "&left=5&event=stopped"), There, 200, b"5:peers0:"),
        (announce(1001, "&compact=1"), Ours("nothing without `left` there"), 200, b"5:peers"),
        ("/announce".into(), Bug("an empty answer"), 200, failure),
        ("/announce?compact=1".into(), Bug("the connection is dropped"), 200, failure),
        (format!("/announce?info_hash=short&{id}&port=1&left=0"), Bug("an empty answer"), 200, failure),
        (format!("/announce?{hash}&peer_id=short&port=1&left=0"), Bug("an empty answer"), 200, failure),
        (
            format!("/announce?{hash}&{id}&port=99999&left=0"),
            Bug("port 34463 is given to others"),
            200,
            failure,
        ),
        (
            scrape.into(),
            Ours("`downloaded` is what is complete there, and not what was completed"),
            200,
            b"10:downloadedi0e",
        ),
        (scrape.into(), There, 200, b"5:filesd20:aaaaaaaaaaaaaaaaaaaad8:completei1e"),
        (scrape.into(), There, 200, b"10:incompletei1e"),
        (
            format!("{scrape}&info_hash=bbbbbbbbbbbbbbbbbbbb"),
            There,
            200,
            b"5:filesd20:aaaaaaaaaaaaaaaaaaaad8:complete",
        ),
        ("/scrape?info_hash=bbbbbbbbbbbbbbbbbbbb".into(), There, 200, b"d5:filesdee"),
        ("/scrape".into(), Ours("status 400 there, and nothing else"), 200, failure),
        ("/scrape?info_hash=short".into(), Ours("status 400 there, and nothing else"), 200, failure),
        ("/favicon.ico".into(), There, 200, b"<svg"),
        ("/metrics".into(), Ours("only with -p there"), 200, b"\nrequests "),
        ("/announce/x/y".into(), There, 404, b""),
        ("/other".into(), There, 404, b""),
    ];
    // All on one connection, which both keep open, and each by several methods.
    let mut kept = Http::connect(address);
    for (target, how, status, body) in &table {
        let line = format!("{target} {}", words(how));
        let methods: &[&str] = if target.starts_with("/announce") || target.starts_with("/scrape") {
            &["GET", "POST", "PUT"]
        } else {
            &["GET"]
        };
        for method in methods {
            let answer = kept.ask(method, target, &["Content-Length: 0"]);
            assert_eq!(answer.status, *status, "{method} {line}");
            assert!(has(&answer, body), "{method} {line}: {}", answer.body.escape_ascii());
        }
    }
}

#[test]
fn addresses_of_peers() {
    const ASK: &str = "&left=5&compact=1";
    const EVERYWHERE: &str = "0.0.0.0/0,::/0";
    type Line = (&'static [&'static str], &'static str, &'static [&'static str], As, &'static [u8]);
    let table: &[Line] = &[
        (&[], "", &[], There, b"5:peers6:\x7f\0\0\x01\x03\xe8"),
        (&["-x"], "", &["X-Real-IP: 10.1.2.3"], There, b"5:peers6:\x0a\x01\x02\x03\x03\xe8"),
        (&["-x"], "", &[], There, b"5:peers6:\x7f\0\0\x01\x03\xe8"),
        (&[], "", &["X-Real-IP: 10.1.2.3"], There, b"5:peers6:\x7f\0\0\x01\x03\xe8"),
        (&["-x"], "", &["X-Real-IP: nonsense"], Bug("handed on as it is"), b"5:peers6:\x7f\0\0\x01\x03\xe8"),
        (&["-x"], "", &["X-Real-IP: fd00::7"], Bug("left out of compact answers"), b"6:peers618:\xfd\0"),
        (&[], "&ip=10.1.2.3", &[], There, b"5:peers6:\x0a\x01\x02\x03\x03\xe8"),
        (
            &["-x"],
            "&ip=10.1.2.3",
            &["X-Real-IP: 10.9.9.9"],
            Ours("believed from anyone there; here from this machine, or as --ip-from says"),
            b"5:peers6:\x0a\x09\x09\x09\x03\xe8",
        ),
        (
            &["-x", "--ip-from", EVERYWHERE],
            "&ip=10.1.2.3",
            &["X-Real-IP: 10.9.9.9"],
            There,
            b"5:peers6:\x0a\x01\x02\x03\x03\xe8",
        ),
        (&[], "&ip=nonsense", &[], Bug("handed on as it is"), b"5:peers6:\x7f\0\0\x01\x03\xe8"),
    ];
    for (arguments, more, fields, how, wanted) in table {
        let (_tracker, address) = tracker(arguments, &[]);
        get(address, &announce(1000, &format!("{ASK}{more}")), fields);
        let answer = get(address, &announce(1001, ASK), &[]);
        let line = format!("{arguments:?} {more} {fields:?} {}", words(how));
        assert!(has(&answer, wanted), "{line}: {}", answer.body.escape_ascii());
    }
    let by_variable = tracker(&[], &[("X_REAL_IP", "true")]);
    get(by_variable.1, &announce(1000, ASK), &["X-Real-IP: 10.1.2.3"]);
    assert!(has(&get(by_variable.1, &announce(1001, ASK), &[]), b"\x0a\x01\x02\x03\x03\xe8"));
}

#[test]
fn a_peer_over_ipv6_reaches_others_where_it_was_left_out_of_compact_answers() {
    if TcpListener::bind("[::1]:0").is_err() {
        return interop::skip("there is no IPv6 here");
    }
    let (_tracker, address) = tracker(&["-l", ":0"], &[]);
    let at = |ip: &str| SocketAddr::new(ip.parse().expect("an address"), address.port());
    get(at("::1"), &announce(1000, "&left=5&compact=1"), &[]);
    let answer = get(at("127.0.0.1"), &announce(1001, "&left=5&compact=1"), &[]);
    assert!(
        has(&answer, b"6:peers618:\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x03\xe8"),
        "{}",
        answer.body.escape_ascii()
    );
}

#[test]
fn a_peer_is_forgotten_when_its_age_is_up() {
    let (_tracker, address) = tracker(&["-a", "0.05"], &[]);
    get(address, &announce(1000, "&left=5"), &[]);
    let scrape = || get(address, "/scrape?info_hash=aaaaaaaaaaaaaaaaaaaa", &[]);
    assert!(has(&scrape(), b"10:incompletei1e"));
    // Looked for over a minute, as there.
    wait_until("the peer to be forgotten", || !has(&scrape(), b"10:incompletei1e"));
}

#[test]
fn debug_mode_shows_each_announce() {
    for (arguments, variables, shown) in
        [(&["-d"][..], &[][..], true), (&[], &[("DEBUG_MODE", "true")], true), (&[], &[], false)]
    {
        let (process, address) = tracker(arguments, variables);
        get(address, &announce(1000, "&left=5"), &[]);
        let seen = || process.stderr().contains("peer=127.0.0.1:1000");
        if shown {
            wait_until("the announce in the log", seen);
        } else {
            assert!(!seen());
        }
    }
}

/// A server that gives everyone the same answer, and how often and with which head it was asked last.
fn server(
    status: &'static str,
    body: &'static [u8],
) -> (SocketAddr, Arc<AtomicUsize>, std::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = listener.local_addr().expect("bound");
    let (heads, asked) = std::sync::mpsc::sync_channel(64);
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = [0; 4096];
            let length = stream.read(&mut head).unwrap_or(0);
            counted.fetch_add(1, Relaxed);
            let _ =
                heads.try_send(String::from_utf8_lossy(head.get(..length).unwrap_or_default()).into_owned());
            let _ = write!(
                stream,
                "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            let _ = stream.write_all(body);
        }
    });
    (address, count, asked)
}

/// What a forwarder answers, how it is counted, and which peer comes of it.
#[test]
fn forwarders_by_what_they_answer() {
    type Line = (&'static str, &'static str, &'static [u8], As, &'static str, Option<&'static [u8]>);
    let v4: &[u8] = b"\x0a\x01\x02\x03\x04\xd2";
    let v6: &[u8] = b"\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x07\x04\xd2";
    let table: &[Line] = &[
        ("compact", "200 OK", b"d8:intervali60e5:peers6:\x0a\x01\x02\x03\x04\xd2e", There, "200", Some(v4)),
        ("list", "200 OK", b"d8:intervali60e5:peersld2:ip8:10.1.2.34:porti1234eeee", There, "200", Some(v4)),
        (
            "six",
            "200 OK",
            b"d8:intervali60e5:peers0:6:peers618:\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x07\x04\xd2e",
            Bug("peers6 is lost"),
            "200",
            Some(v6),
        ),
        ("no", "200 OK", b"d14:failure reason2:noe", Ours("counted as 200 there"), "refused", None),
        ("none", "404 Not Found", b"", There, "404", None),
        ("broken", "500 Oops", b"oops", There, "500", None),
        ("nonsense", "200 OK", b"nonsense", Bug("the whole program ends"), "malformed", None),
    ];
    for (name, status, body, how, counted, peer) in table {
        let (forwarder, ..) = server(status, body);
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), format!("- uri: http://{forwarder}/announce\n  name: {name}\n"))
            .expect("written");
        let (mut process, address) = tracker(&["-f", file.path().to_str().expect("text"), "-t", "5"], &[]);
        get(address, &announce(1000, "&left=5&compact=1"), &[]);
        let line = format!("forwarder_status{{name=\"{name}\",status=\"{counted}\"}} 1\n");
        wait_until(&format!("{line} {}", words(how)), || {
            get(address, "/metrics", &[]).text().contains(&line)
        });
        let next = get(address, &announce(1000, "&left=5&compact=1"), &[]);
        let given = peer.map(|peer| has(&next, peer));
        assert!(
            given.unwrap_or_else(|| has(&next, b"5:peers0:")),
            "{name} {}: {}",
            words(how),
            next.body.escape_ascii()
        );
        assert!(process.is_running());
    }
}

/// The file as retracker's users have it, by flag and by variable: what is asked, and by which names it is counted.
#[test]
fn the_forwarders_file_and_the_metrics() {
    let (full, full_asked, heads) = server("200 OK", b"d8:intervali1800e5:peers0:e");
    let (plain, plain_asked, _) = server("200 OK", b"d8:intervali1800e5:peers0:e");
    let file = tempfile::NamedTempFile::new().expect("a file");
    let list = format!(
        "- name: full\n  uri: http://{full}/ann?uk=secret\n  ip: 192.0.2.1\n  host: tracker.example\n\
         - uri: http://{plain}/a\n- uri: http://{plain}/b\n"
    );
    fs::write(file.path(), list).expect("written");
    let (_tracker, address) = tracker(&["-p"], &[("FORWARDS_FILE", file.path().to_str().expect("text"))]);
    get(address, &announce(1000, "&left=5&event=started"), &[]);
    let metrics = || get(address, "/metrics", &[]).text();
    let lines = [
        "forwarder_status{name=\"full\",status=\"200\"} 1\n".to_owned(),
        // Its name is the host's, and both are counted together.
        format!("forwarder_status{{name=\"{plain}\",status=\"200\"}} 2\n"),
        "\nrequests 1\n".to_owned(),
    ];
    wait_until("the forwarders to be counted", || lines.iter().all(|line| metrics().contains(line)));
    let head = heads.recv().expect("asked").to_lowercase();
    for part in [
        // A URI that has a query breaks there.
        "get /ann?uk=secret&info_hash=aaaaaaaaaaaaaaaaaaaa&",
        "&port=1000",
        "&left=5",
        "&ip=192.0.2.1&ipv4=192.0.2.1",
        "host: tracker.example\r\n",
    ] {
        assert!(head.contains(part), "{part} in {head}");
    }
    // Each announce goes to all there; here as often as they wish. Last words are not passed on there.
    get(address, &announce(1000, "&left=5"), &[]);
    get(address, &announce(1000, "&left=5&event=stopped"), &[]);
    wait_until("the last words to be passed on", || full_asked.load(Relaxed) == 2);
    assert!(heads.recv().expect("asked").contains("event=stopped"));
    wait_until("all of them to be told", || plain_asked.load(Relaxed) == 4);
    assert!(!metrics().contains("secret"));
    assert!(metrics().contains("\nrequests 3\n"), "{}", metrics());
}

fn words(how: &As) -> String {
    match how {
        There => "(as there)".to_owned(),
        Bug(what) => format!("(a bug there: {what})"),
        Ours(why) => format!("(otherwise there: {why})"),
    }
}
