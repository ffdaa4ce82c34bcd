//! Helpers to test the real binary, alone and with other clients and trackers. The tests are in `tests/`.
//!
//! A [`Process`] is a child whose output is kept and which ends with its handle, whatever happens. [`Client`] is any
//! BitTorrent client that can seed a torrent and fetch one; [`Tracker`] is ours or opentracker. Everything is on
//! loopback or in a [`Network`] of its own, on free ports, in folders of its own, and every wait has a deadline.
//!
//! Invariant: no process outlives the handle that started it. Threads: each child has two, which read its output.
//!
//! Being for tests, it panics where something is not as a test needs it.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "helpers for tests: they fail by panicking, watch the clock, and ask the environment whether this is CI"
)]

mod ask;
mod client;
mod containerd;
mod content;
mod etcd;
mod faulty;
mod network;
mod process;
mod registry;
mod tokens;
mod tracker;

use std::{
    env, net,
    path::PathBuf,
    process::Command,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

pub use ask::{Announced, Answer, Http, Udp, get};
pub use client::{Aria2, Client, Libtorrent, Longshore, Qbittorrent, Rtorrent, Running, Transmission};
pub use containerd::Containerd;
pub use content::{Content, info_hash, make_torrent, noise};
pub use etcd::{Certificate, Etcd};
pub use faulty::{Fault, Faulty, Part, SLOW, Trouble};
pub use network::{Network, Place};
pub use process::Process;
pub use registry::Registry;
pub use tokens::Tokens;
pub use tracker::Tracker;

/// How long anything may take.
pub const DEADLINE: Duration = Duration::from_secs(90);

/// Whether a program is there; if not, says how to get it. In CI (`CI=true`) it must be.
///
/// # Panics
/// In CI, when it is not there.
pub fn require(program: &str, package: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut places = env::split_paths(&path).chain(["/usr/sbin".into()]);
    let found = places.any(|folder| folder.join(program).is_file());
    if !found {
        skip(&format!("{program} is not installed (apt-get install {package})"));
    }
    found
}

/// The system's Python, which is the one that sees Debian's modules.
pub const PYTHON: &str = "/usr/bin/python3";

/// Whether Python has a module; if not, says how to get it. In CI (`CI=true`) it must be.
///
/// # Panics
/// In CI, when it is not there.
pub fn require_python(module: &str, package: &str) -> bool {
    let import = Command::new(PYTHON).args(["-c", &format!("import {module}")]).output();
    let found = import.is_ok_and(|output| output.status.success());
    if !found {
        skip(&format!("python3 has no {module} (apt-get install {package})"));
    }
    found
}

/// Says that a test is skipped.
///
/// # Panics
/// In CI.
pub fn skip(why: &str) {
    assert!(env::var_os("CI").is_none_or(|ci| ci != "true"), "in CI nothing is skipped: {why}");
    eprintln!("skipped: {why}");
}

/// Our binary: the one that `LONGSHORE_BIN` names, as `make test` does, which has just built it; else built if need
/// be in the profile of this test, which costs a second build of what it depends on, with features of its own.
///
/// # Panics
/// When it cannot be built.
pub fn longshore() -> &'static PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(given) = env::var_os("LONGSHORE_BIN") {
            return given.into();
        }
        let test = env::current_exe().expect("our own name");
        let profile = test.ancestors().nth(2).expect("target/PROFILE/deps/TEST");
        let mut build = Command::new(env::var_os("CARGO").unwrap_or("cargo".into()));
        build.args(["build", "--quiet", "--package", "longshore", "--bin", "longshore"]);
        if profile.ends_with("release") {
            build.arg("--release");
        }
        build.arg("--target-dir").arg(profile.parent().expect("a target folder"));
        assert!(build.status().expect("cargo runs").success(), "the binary does not build");
        profile.join("longshore")
    })
}

/// A port that nobody has at the moment, and that the system gives to nobody who asks for any.
///
/// # Panics
/// When there is none.
pub fn free_port() -> u16 {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id().wrapping_mul(97);
    let is_free = |port: u16| {
        net::TcpListener::bind(("0.0.0.0", port)).is_ok() && net::UdpSocket::bind(("0.0.0.0", port)).is_ok()
    };
    let ports = (0..PORTS.len()).map(|_| {
        let at = first.wrapping_add(TAKEN.fetch_add(1, Ordering::Relaxed)) as usize % PORTS.len();
        PORTS.start + at as u16
    });
    ports.into_iter().find(|port| is_free(*port)).expect("a free port")
}

/// Below those of Linux's `ip_local_port_range`.
const PORTS: std::ops::Range<u16> = 17_000..32_000;

/// Looks every now and then until `done`.
///
/// # Panics
/// At the deadline; `what` was waited for.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !done() {
        assert!(Instant::now() < end, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(50));
    }
}
