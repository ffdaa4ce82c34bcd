//! Network namespaces on switches of their own, made with `ip` and `tc`.
//!
//! A switch is a bridge in a namespace that has no interface but those of its hosts: nothing on it has a way out, and
//! the machine's own firewall does not see its packets. Each zone has one. Between each two zones there is a link of
//! its own, and their switches are the routers at its ends: what is between two zones is slow, late or cut by itself,
//! and nothing goes a way round. Removing the namespaces removes links and bridges with them.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::{Deserialize, Serialize};
use tokio::{io::AsyncWriteExt as _, process::Command, time::timeout};

use crate::{
    LabError,
    config::{Delay, Rate},
    netns,
    plan::Network,
};

/// What every namespace of a lab is called at the beginning.
const PREFIX: &str = "lslab-";
/// How long `ip` and `tc` may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// How many of them run at once.
const AT_ONCE: usize = 4;
/// How many namespaces one of them removes.
const REMOVED_AT_ONCE: usize = 8;
/// Packets that may be on their way on a link with a delay: 100 Mbyte in ordinary packets.
const IN_FLIGHT: u32 = 65_536;
/// Where to look for them: sbin is not on everybody's path.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Where `ip netns exec` finds what a namespace has in the place of files of `/etc`.
const ETC: &str = "/etc/netns";

/// A link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Link {
    /// Its speed each way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// Its delay each way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<Delay>,
}

/// A host on a switch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) ip: Ipv4Addr,
    /// The place of its zone.
    pub(crate) zone: usize,
    pub(crate) shape: Link,
}

/// A link between two zones, by their places, the smaller first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Between {
    pub(crate) zones: (usize, usize),
    pub(crate) shape: Link,
}

/// Commands for one run of `ip` or `tc`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Batch {
    program: &'static str,
    namespace: Option<String>,
    lines: Vec<String>,
}

/// The namespace of a host in the lab `id`.
pub(crate) fn namespace(id: &str, host: &str) -> String {
    format!("{PREFIX}{id}-{host}")
}

/// The namespace of a zone's switch.
fn switch(id: &str, zone: usize) -> String {
    namespace(id, &if zone == 0 { "switch".to_owned() } else { format!("switch{zone}") })
}

/// Fails if one of the programs is not in any folder of `path`.
pub(crate) fn expect_programs(
    programs: impl IntoIterator<Item = &'static str>,
    path: &str,
) -> Result<(), LabError> {
    let missing = programs.into_iter().find(|program| !has_program(program, path));
    missing.map_or(Ok(()), |program| Err(LabError::NoProgram { program }))
}

/// Whether a program is in any folder of `path`.
pub(crate) fn has_program(program: &str, path: &str) -> bool {
    path.split(':').any(|folder| Path::new(folder).join(program).is_file())
}

/// Makes namespaces, switches and links.
pub(crate) async fn make(
    id: &str,
    zones: usize,
    between: &[Between],
    hosts: &[Host],
) -> Result<(), LabError> {
    let mut first = Batch { program: "ip", namespace: None, lines: Vec::new() };
    first.lines.extend((0..zones).map(|zone| format!("netns add {}", switch(id, zone))));
    first.lines.extend(between.iter().map(|link| {
        let (a, b) = link.zones;
        let (to_a, to_b) = (switch(id, a), switch(id, b));
        format!("link add z{b} netns {to_a} type veth peer name z{a} netns {to_b}")
    }));
    run(&first).await?;
    run_all((0..zones).map(|zone| bridge(id, zone, zones, between)).collect()).await?;
    if zones > 1 {
        for zone in 0..zones {
            let forward = || fs::write("/proc/sys/net/ipv4/ip_forward", "1");
            let path = Path::new("/proc/sys/net/ipv4/ip_forward");
            netns::inside(Some(switch(id, zone)), forward).await?.map_err(crate::claim::file(path))?;
        }
    }
    run_all(between.iter().flat_map(|link| ends(id, *link)).collect()).await?;
    attach(id, zones, hosts).await
}

/// Makes hosts, and puts them on the switches that are there.
pub(crate) async fn attach(id: &str, zones: usize, hosts: &[Host]) -> Result<(), LabError> {
    let mut first = Batch { program: "ip", namespace: None, lines: Vec::new() };
    for Host { name, zone, .. } in hosts {
        let own = namespace(id, name);
        first.lines.push(format!("netns add {own}"));
        let switch = switch(id, *zone);
        first.lines.push(format!("link add eth0 netns {own} type veth peer name {name} netns {switch}"));
    }
    run(&first).await?;
    let ports = (0..zones).map(|zone| Batch {
        program: "ip",
        namespace: Some(switch(id, zone)),
        lines: hosts
            .iter()
            .filter(|host| host.zone == zone)
            .map(|host| format!("link set {} master br0 up", host.name))
            .collect(),
    });
    run_all(ports.chain(hosts.iter().map(|host| interface(id, host, zones))).collect()).await?;
    run_all(hosts.iter().flat_map(|host| sides(id, host)).collect()).await
}

/// Gives a host's link another speed or delay.
pub(crate) async fn reshape(id: &str, host: &Host) -> Result<(), LabError> {
    for (namespace, device) in [(namespace(id, &host.name), "eth0"), (switch(id, host.zone), &host.name)] {
        // Where nothing is shaped there is nothing to delete, which is an error.
        let _ = call("tc", Some(&namespace), &["qdisc", "delete", "dev", device, "root"]).await;
    }
    run_all(sides(id, host)).await
}

/// Gives the link between two zones another speed or delay.
pub(crate) async fn reshape_between(id: &str, link: Between) -> Result<(), LabError> {
    let (a, b) = link.zones;
    for (here, there) in [(a, b), (b, a)] {
        let device = format!("z{there}");
        // As above.
        let _ = call("tc", Some(&switch(id, here)), &["qdisc", "delete", "dev", &device, "root"]).await;
    }
    run_all(ends(id, link)).await
}

/// Cuts a host's link, or heals it, at the switch.
pub(crate) async fn set_link(id: &str, host: &str, zone: usize, up: bool) -> Result<(), LabError> {
    let state = if up { "up" } else { "down" };
    call("ip", Some(&switch(id, zone)), &["link", "set", host, state]).await.map(drop)
}

/// Cuts the link between two zones, or heals it. What is cut is dropped without a word.
pub(crate) async fn set_between(id: &str, zones: (usize, usize), up: bool) -> Result<(), LabError> {
    for (here, there) in [zones, (zones.1, zones.0)] {
        let lines = vec![if up {
            format!("route replace {}", route(here, there))
        } else {
            format!("route replace blackhole {}", network(there))
        }];
        run(&Batch { program: "ip", namespace: Some(switch(id, here)), lines }).await?;
    }
    Ok(())
}

/// Whether the kernel can delay packets: tried in a namespace of the lab `id`.
pub(crate) async fn can_delay(id: &str) -> Result<bool, LabError> {
    let probe = namespace(id, "probe");
    call("ip", None, &["netns", "add", &probe]).await?;
    let tried =
        call("tc", Some(&probe), &["qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"]).await;
    call("ip", None, &["netns", "delete", &probe]).await?;
    Ok(tried.is_ok())
}

/// Has names resolved by `server` for what is started in a host's namespace by `ip netns exec`.
pub(crate) fn set_resolver(id: &str, host: &str, server: Ipv4Addr) -> Result<(), LabError> {
    let folder = Path::new(ETC).join(namespace(id, host));
    fs::create_dir_all(&folder).map_err(crate::claim::file(&folder))?;
    let file = folder.join("resolv.conf");
    fs::write(&file, format!("nameserver {server}\nsearch lab\n")).map_err(crate::claim::file(&file))
}

/// Removes every namespace of the lab `id`, also those of a half-made one, and what stands in `/etc` for them.
pub(crate) async fn remove(id: &str) -> Result<(), LabError> {
    let begin = namespace(id, "");
    let names = list().await?;
    let lines: Vec<String> = names
        .iter()
        .filter(|name| name.starts_with(&begin))
        .map(|name| format!("netns delete {name}"))
        .collect();
    // Each takes the kernel a while.
    let some = |lines: &[String]| Batch { program: "ip", namespace: None, lines: lines.to_vec() };
    run_all(lines.chunks(REMOVED_AT_ONCE).map(some).collect()).await?;
    for folder in resolvers().filter(|folder| name_of(folder).starts_with(&begin)) {
        fs::remove_dir_all(&folder).map_err(crate::claim::file(&folder))?;
    }
    // Nobody else's is removed by it: it must be empty.
    let _ = fs::remove_dir(ETC);
    Ok(())
}

/// The ids of labs that have namespaces, or something in `/etc` for them.
pub(crate) async fn ids() -> Result<Vec<String>, LabError> {
    let mut ids: Vec<String> = list().await?.iter().filter_map(|name| id_of(name)).collect();
    ids.extend(resolvers().filter_map(|folder| id_of(name_of(&folder))));
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

fn resolvers() -> impl Iterator<Item = PathBuf> {
    fs::read_dir(ETC).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn name_of(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

fn id_of(namespace: &str) -> Option<String> {
    let (id, _) = namespace.strip_prefix(PREFIX)?.split_once('-')?;
    Some(id.to_owned())
}

async fn list() -> Result<Vec<String>, LabError> {
    let text = call("ip", None, &["netns", "list"]).await?;
    // A line is a name, and sometimes ` (id: 3)`.
    Ok(text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
}

/// A zone's switch, which routes where there are several.
fn bridge(id: &str, zone: usize, zones: usize, between: &[Between]) -> Batch {
    let mut lines = vec!["link add br0 type bridge".to_owned(), "link set br0 up".to_owned()];
    if zones > 1 {
        lines.push(format!("address add {}/16 dev br0", gateway(zone)));
    }
    for link in between {
        let (a, b) = link.zones;
        let there = match zone {
            zone if zone == a => b,
            zone if zone == b => a,
            _ => continue,
        };
        lines.push(format!("address add {}/24 dev z{there}", end_of(zone, there)));
        lines.push(format!("link set z{there} up"));
        lines.push(format!("route add {}", route(zone, there)));
    }
    Batch { program: "ip", namespace: Some(switch(id, zone)), lines }
}

fn interface(id: &str, host: &Host, zones: usize) -> Batch {
    let mut lines = vec![
        "link set lo up".to_owned(),
        format!("address add {}/16 dev eth0", host.ip),
        "link set eth0 up".to_owned(),
    ];
    if zones > 1 {
        lines.push(format!("route add 10.96.0.0/11 via {}", gateway(host.zone)));
    }
    Batch { program: "ip", namespace: Some(namespace(id, &host.name)), lines }
}

/// What a host sends is held at its end, what it receives at the switch's.
fn sides(id: &str, host: &Host) -> Vec<Batch> {
    vec![
        shaped(namespace(id, &host.name), "eth0", host.shape),
        shaped(switch(id, host.zone), &host.name, host.shape),
    ]
}

fn ends(id: &str, link: Between) -> Vec<Batch> {
    let (a, b) = link.zones;
    let end = |here, there| shaped(switch(id, here), &format!("z{there}"), link.shape);
    vec![end(a, b), end(b, a)]
}

fn shaped(namespace: String, device: &str, shape: Link) -> Batch {
    let mut lines = Vec::new();
    if let Some(delay) = shape.delay {
        lines.push(format!("qdisc add dev {device} root handle 1: netem delay {delay} limit {IN_FLIGHT}"));
    }
    if let Some(rate) = shape.rate {
        let place = if lines.is_empty() { "root" } else { "parent 1:1 handle 10:" };
        let (burst, queue) = (rate.burst(), rate.queue());
        lines.push(format!("qdisc add dev {device} {place} tbf rate {rate} burst {burst} limit {queue}"));
    }
    Batch { program: "tc", namespace: Some(namespace), lines }
}

fn gateway(zone: usize) -> Ipv4Addr {
    Network::Namespaces.ip(zone, 0, 1)
}

fn network(zone: usize) -> String {
    format!("{}/16", Network::Namespaces.ip(zone, 0, 0))
}

/// The address of the end in the zone `here` of the link to `there`.
fn end_of(here: usize, there: usize) -> Ipv4Addr {
    let (low, high) = (here.min(there) as u8, here.max(there) as u8);
    Ipv4Addr::new(10, 98, low << 4 | high, if here < there { 1 } else { 2 })
}

fn route(here: usize, there: usize) -> String {
    format!("{} via {}", network(there), end_of(there, here))
}

/// Runs them, some at once.
async fn run_all(batches: Vec<Batch>) -> Result<(), LabError> {
    stream::iter(batches)
        .map(|batch| async move { run(&batch).await })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
}

async fn run(batch: &Batch) -> Result<(), LabError> {
    if batch.lines.is_empty() {
        return Ok(());
    }
    let text = batch.lines.join("\n") + "\n";
    let outcome = output(batch.program, batch.namespace.as_deref(), &["-batch", "-"], &text).await;
    outcome.map(drop)
}

/// Runs a command, and gives what it printed.
async fn call(program: &'static str, namespace: Option<&str>, words: &[&str]) -> Result<String, LabError> {
    output(program, namespace, words, "").await
}

async fn output(
    program: &'static str,
    namespace: Option<&str>,
    words: &[&str],
    input: &str,
) -> Result<String, LabError> {
    let place = namespace.map(|namespace| ["-n", namespace]);
    let words: Vec<&str> = place.iter().flatten().chain(words).copied().collect();
    let failed = |reason: String| {
        let command = [&[program], words.as_slice()].concat().join(" ");
        LabError::Command { command, reason: [reason.as_str(), input].join("\n").trim().to_owned() }
    };
    let work = async {
        let mut child = Command::new(program)
            .args(&words)
            .env("PATH", PATH)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that does not read on has said why.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    let output = match timeout(PATIENCE, work).await {
        Err(_) => return Err(failed(format!("no end after {PATIENCE:?}"))),
        Ok(Err(error)) => return Err(failed(error.to_string())),
        Ok(Ok(output)) => output,
    };
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(failed(if words.is_empty() { output.status.to_string() } else { words }));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str, zone: usize, rate: Option<&str>, delay: Option<&str>) -> Host {
        let shape = Link {
            rate: rate.map(|rate| rate.parse().expect("a rate")),
            delay: delay.map(|delay| delay.parse().expect("a delay")),
        };
        Host { name: name.into(), ip: Network::Namespaces.ip(zone, 1, 1), zone, shape }
    }

    #[test]
    fn a_host_has_an_address_and_its_speed_both_ways() {
        let host = host("n1", 0, Some("100mbit"), None);
        let interface = interface("ab12", &host, 1);
        assert_eq!(interface.namespace.as_deref(), Some("lslab-ab12-n1"));
        assert_eq!(
            interface.lines,
            ["link set lo up", "address add 10.99.1.1/16 dev eth0", "link set eth0 up"]
        );
        let shape = "root tbf rate 100mbit burst 131072 limit 756072";
        let [own, port] = &sides("ab12", &host)[..] else { panic!("two sides") };
        assert_eq!(own.lines, [format!("qdisc add dev eth0 {shape}")]);
        assert_eq!(port.namespace.as_deref(), Some("lslab-ab12-switch"));
        assert_eq!(port.lines, [format!("qdisc add dev n1 {shape}")]);
    }

    #[test]
    fn what_is_delayed_is_held_back_behind_the_delay() {
        let batch = &sides("ab12", &host("n1", 0, Some("1mbit"), Some("5ms")))[0];
        assert_eq!(batch.lines.len(), 2);
        assert!(batch.lines[0].contains("root handle 1: netem delay 5ms"), "{:?}", batch.lines);
        assert!(batch.lines[1].contains("parent 1:1 handle 10: tbf rate 1mbit"), "{:?}", batch.lines);
    }

    #[test]
    fn zones_know_a_way_to_each_other_and_to_nobody_else() {
        let between = [Between { zones: (0, 2), shape: Link::default() }];
        let first = bridge("ab12", 0, 3, &between).lines.join("\n");
        assert!(first.contains("address add 10.99.0.1/16 dev br0"), "{first}");
        assert!(first.contains("route add 10.101.0.0/16 via 10.98.2.2"), "{first}");
        assert!(first.contains("address add 10.98.2.1/24 dev z2"), "{first}");
        assert!(!bridge("ab12", 1, 3, &between).lines.join("\n").contains("route"));
        let interface = interface("ab12", &host("n1", 2, None, None), 3).lines.join("\n");
        assert!(interface.contains("route add 10.96.0.0/11 via 10.101.0.1"), "{interface}");
    }

    #[test]
    fn alone_a_zone_gets_no_route_and_without_a_rate_nothing_is_shaped() {
        let host = host("registry", 0, None, None);
        let all =
            [vec![bridge("ab12", 0, 1, &[]), interface("ab12", &host, 1)], sides("ab12", &host)].concat();
        let lines: Vec<String> = all.into_iter().flat_map(|batch| batch.lines).collect();
        assert!(lines.iter().all(|line| !line.starts_with("qdisc") && !line.contains("route")), "{lines:?}");
    }

    #[test]
    fn a_program_that_is_missing_is_named_before_anything_is_made() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("ip"), "").expect("written");
        let path = format!("/nonexistent:{}", folder.path().display());
        assert!(expect_programs(["ip"], &path).is_ok());
        let error = expect_programs(["ip", "tc"], &path).expect_err("no tc").to_string();
        assert!(error.contains("`tc`") && error.contains("iproute2"), "{error}");
    }

    #[test]
    fn a_lab_is_known_by_the_names_of_its_namespaces() {
        assert_eq!(id_of(&namespace("ab12", "n1")).as_deref(), Some("ab12"));
        assert_eq!(id_of("other-ab12-n1"), None);
        assert_eq!(id_of("lslab-"), None);
    }
}
