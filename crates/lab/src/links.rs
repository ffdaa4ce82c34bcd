//! Network namespaces on a switch of their own, made with `ip` and `tc`.
//!
//! The switch is a bridge in a namespace that has no other interface: nothing on it has a way out, and the machine's
//! own firewall does not see its packets. Removing the namespaces removes links and bridge with them.

use std::{net::Ipv4Addr, path::Path, process::Stdio, time::Duration};

use tokio::{process::Command, time::timeout};

use crate::{LabError, config::Rate};

/// What every namespace of a lab is called at the beginning.
const PREFIX: &str = "lslab-";
/// How long `ip` and `tc` may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Where to look for them: sbin is not on everybody's path.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A host on the switch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) ip: Ipv4Addr,
    /// The speed of its link, both ways.
    pub(crate) rate: Option<Rate>,
}

/// The namespace of a host in the lab `id`.
pub(crate) fn namespace(id: &str, host: &str) -> String {
    format!("{PREFIX}{id}-{host}")
}

/// Fails if one of the programs is not in any folder of `path`.
pub(crate) fn expect_programs(
    programs: impl IntoIterator<Item = &'static str>,
    path: &str,
) -> Result<(), LabError> {
    let is_there = |program: &&str| path.split(':').any(|folder| Path::new(folder).join(program).is_file());
    let missing = programs.into_iter().find(|program| !is_there(program));
    missing.map_or(Ok(()), |program| Err(LabError::NoProgram { program }))
}

/// Makes namespaces, switch and links.
pub(crate) async fn make(id: &str, hosts: &[Host]) -> Result<(), LabError> {
    for command in commands(id, hosts) {
        call(&command).await?;
    }
    Ok(())
}

/// Removes every namespace of the lab `id`, also those of a half-made one.
pub(crate) async fn remove(id: &str) -> Result<(), LabError> {
    let begin = namespace(id, "");
    for name in list().await?.iter().filter(|name| name.starts_with(&begin)) {
        call(&words(&["ip", "netns", "delete", name])).await?;
    }
    Ok(())
}

/// The ids of labs that have namespaces.
pub(crate) async fn ids() -> Result<Vec<String>, LabError> {
    let mut ids: Vec<String> = list().await?.iter().filter_map(|name| id_of(name)).collect();
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

fn id_of(namespace: &str) -> Option<String> {
    let (id, _) = namespace.strip_prefix(PREFIX)?.split_once('-')?;
    Some(id.to_owned())
}

async fn list() -> Result<Vec<String>, LabError> {
    let text = call(&words(&["ip", "netns", "list"])).await?;
    // A line is a name, and sometimes ` (id: 3)`.
    Ok(text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
}

/// The commands that make everything, in order.
fn commands(id: &str, hosts: &[Host]) -> Vec<Vec<String>> {
    let switch = namespace(id, "switch");
    let mut all = vec![
        words(&["ip", "netns", "add", &switch]),
        words(&["ip", "-n", &switch, "link", "add", "br0", "type", "bridge"]),
        words(&["ip", "-n", &switch, "link", "set", "br0", "up"]),
    ];
    for Host { name, ip, rate } in hosts {
        let (own, address) = (namespace(id, name), format!("{ip}/16"));
        all.extend([
            words(&["ip", "netns", "add", &own]),
            words(&["ip", "-n", &own, "link", "set", "lo", "up"]),
            words(&[
                "ip", "link", "add", "eth0", "netns", &own, "type", "veth", "peer", "name", name, "netns",
                &switch,
            ]),
            words(&["ip", "-n", &own, "address", "add", &address, "dev", "eth0"]),
            words(&["ip", "-n", &own, "link", "set", "eth0", "up"]),
            words(&["ip", "-n", &switch, "link", "set", name, "master", "br0"]),
            words(&["ip", "-n", &switch, "link", "set", name, "up"]),
        ]);
        if let Some(rate) = rate {
            // What the node sends is held at its end, what it receives at the switch's.
            all.extend([shape(&own, "eth0", *rate), shape(&switch, name, *rate)]);
        }
    }
    all
}

fn shape(namespace: &str, device: &str, rate: Rate) -> Vec<String> {
    let (speed, burst, queue) = (rate.to_string(), rate.burst().to_string(), rate.queue().to_string());
    words(&[
        "tc", "-n", namespace, "qdisc", "add", "dev", device, "root", "tbf", "rate", &speed, "burst", &burst,
        "limit", &queue,
    ])
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// Runs a command, and gives what it printed.
async fn call(command: &[String]) -> Result<String, LabError> {
    let failed = |reason: String| LabError::Command { command: command.join(" "), reason };
    let (program, arguments) = command.split_first().ok_or_else(|| failed("it is empty".into()))?;
    let output = Command::new(program).args(arguments).env("PATH", PATH).stdin(Stdio::null()).output();
    let output = match timeout(PATIENCE, output).await {
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

    fn lines(hosts: &[Host]) -> Vec<String> {
        commands("ab12", hosts).iter().map(|command| command.join(" ")).collect()
    }

    #[test]
    fn a_host_has_a_namespace_a_link_to_the_switch_and_its_speed_both_ways() {
        let host = Host {
            name: "n1".into(),
            ip: Ipv4Addr::new(10, 99, 1, 1),
            rate: Some("100mbit".parse().expect("a rate")),
        };
        let shape = "root tbf rate 100mbit burst 131072 limit 756072";
        assert_eq!(
            lines(&[host]),
            [
                "ip netns add lslab-ab12-switch",
                "ip -n lslab-ab12-switch link add br0 type bridge",
                "ip -n lslab-ab12-switch link set br0 up",
                "ip netns add lslab-ab12-n1",
                "ip -n lslab-ab12-n1 link set lo up",
                "ip link add eth0 netns lslab-ab12-n1 type veth peer name n1 netns lslab-ab12-switch",
                "ip -n lslab-ab12-n1 address add 10.99.1.1/16 dev eth0",
                "ip -n lslab-ab12-n1 link set eth0 up",
                "ip -n lslab-ab12-switch link set n1 master br0",
                "ip -n lslab-ab12-switch link set n1 up",
                &format!("tc -n lslab-ab12-n1 qdisc add dev eth0 {shape}"),
                &format!("tc -n lslab-ab12-switch qdisc add dev n1 {shape}"),
            ]
        );
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
    fn nothing_gets_a_route_and_without_a_rate_nothing_is_shaped() {
        let host = Host { name: "registry".into(), ip: Ipv4Addr::new(10, 99, 2, 1), rate: None };
        let lines = lines(&[host]);
        assert!(lines.iter().all(|line| !line.starts_with("tc") && !line.contains("route")));
    }

    #[test]
    fn a_lab_is_known_by_the_names_of_its_namespaces() {
        assert_eq!(id_of(&namespace("ab12", "n1")).as_deref(), Some("ab12"));
        assert_eq!(id_of("other-ab12-n1"), None);
        assert_eq!(id_of("lslab-"), None);
    }
}
