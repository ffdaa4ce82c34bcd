//! A network of its own: hosts with addresses on one switch, each a network namespace. Clients behave there as they do
//! between machines; on loopback some take peers for themselves, or for nobody.

use std::{
    ffi::OsStr,
    fs::{self, File},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsFd as _,
    path::Path,
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    thread,
};

use rustix::{
    process::geteuid,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::{Process, longshore, require, skip};

/// Where `ip netns` keeps namespaces.
const NAMESPACES: &str = "/run/netns";
/// How ours are called: this, the process, and a number.
const PREFIX: &str = "longshore-test-";

/// Where a client runs: at an address, and in a namespace if one is named.
#[derive(Clone, Debug)]
pub struct Place {
    /// The address that it uses.
    pub ip: IpAddr,
    pub(crate) namespace: Option<String>,
}

impl Place {
    /// An address of this machine.
    pub const fn here(ip: IpAddr) -> Self {
        Self { ip, namespace: None }
    }

    /// A command that runs there.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let Some(namespace) = &self.namespace else { return Command::new(program) };
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={NAMESPACES}/{namespace}")).arg("--").arg(program);
        command
    }

    /// Our node there, once it listens. What it has lies in `data`, and its configuration and its socket beside that; of
    /// the configuration it has these lines besides.
    ///
    /// # Panics
    /// When it does not start.
    pub fn node(&self, data: &Path, lines: &str) -> Process {
        let (config, socket) = (data.with_extension("toml"), data.with_extension("sock"));
        let text = format!("data = {data:?}\n{lines}[api]\nsocket = {socket:?}\n");
        fs::write(&config, text).expect("written");
        let mut command = self.command(longshore());
        command.args(["node", "--json", "--config"]).arg(config);
        let mut node = Process::start(&mut command);
        node.event("listening");
        node
    }

    /// Works on a thread that is there.
    ///
    /// # Panics
    /// When the namespace cannot be entered, and with `work`.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let enter_and_work = || {
            if let Some(namespace) = &self.namespace {
                let namespace = File::open(Path::new(NAMESPACES).join(namespace)).expect("a namespace");
                let network = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(namespace.as_fd(), network).expect("entered");
            }
            work()
        };
        thread::scope(|scope| {
            scope.spawn(enter_and_work).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

/// Hosts on one switch. Goes with its handle; what a killed test left behind goes when the next makes a network.
#[derive(Debug)]
pub struct Network {
    /// The switch, and then the hosts.
    namespaces: Vec<String>,
    v6: bool,
}

impl Network {
    /// As many hosts, with addresses of one family alone. `None` where this needs other rights or other tools: then
    /// the test is skipped.
    ///
    /// # Panics
    /// When it cannot be made though it should be, and in CI where it cannot be.
    pub fn new(hosts: u8, v6: bool) -> Option<Self> {
        if !require("ip", "iproute2") || !require("nsenter", "util-linux") {
            return None;
        }
        if !geteuid().is_root() {
            skip("network namespaces want root");
            return None;
        }
        remove_orphans();
        let mut network = Self { namespaces: Vec::new(), v6 };
        let switch = match network.namespace() {
            Ok(switch) => switch,
            Err(why) => {
                skip(&format!("network namespaces cannot be made here: {why}"));
                return None;
            }
        };
        run(&["-n", &switch, "link", "add", "switch", "type", "bridge"]);
        run(&["-n", &switch, "link", "set", "switch", "up"]);
        for number in 0..hosts {
            let host = network.namespace().expect("a namespace");
            let port = &format!("port{number}");
            run(&[
                "-n", &switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", &host,
            ]);
            run(&["-n", &switch, "link", "set", port, "master", "switch", "up"]);
            let ip = network.ip(usize::from(number));
            let address = if v6 { format!("{ip}/64") } else { format!("{ip}/24") };
            let no_check: &[&str] = if v6 { &["nodad"] } else { &[] };
            run(&[&["-n", &host, "addr", "add", &address, "dev", "eth0"], no_check].concat());
            run(&["-n", &host, "link", "set", "lo", "up"]);
            run(&["-n", &host, "link", "set", "eth0", "up"]);
        }
        Some(network)
    }

    /// A host, from 0.
    ///
    /// # Panics
    /// When there are fewer.
    pub fn host(&self, number: usize) -> Place {
        let namespace = self.namespaces.get(number + 1).expect("so many hosts").clone();
        Place { ip: self.ip(number), namespace: Some(namespace) }
    }

    fn ip(&self, number: usize) -> IpAddr {
        let number = u8::try_from(number + 1).expect("few hosts");
        if self.v6 {
            Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number.into()).into()
        } else {
            Ipv4Addr::new(10, 77, 0, number).into()
        }
    }

    fn namespace(&mut self) -> Result<String, String> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("{PREFIX}{}-{}", process::id(), NUMBER.fetch_add(1, Relaxed));
        ip(&["netns", "add", &name])?;
        self.namespaces.push(name.clone());
        Ok(name)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for namespace in &self.namespaces {
            let _ = ip(&["netns", "delete", namespace]);
        }
    }
}

/// Removes what tests have left whose process is gone.
fn remove_orphans() {
    for entry in fs::read_dir(NAMESPACES).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some((maker, _)) = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-')) else {
            continue;
        };
        if !Path::new("/proc").join(maker).exists() {
            let _ = ip(&["netns", "delete", &name]);
        }
    }
}

fn run(arguments: &[&str]) {
    ip(arguments).unwrap_or_else(|why| panic!("ip {}: {why}", arguments.join(" ")));
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(arguments).output().map_err(|error| error.to_string())?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}
