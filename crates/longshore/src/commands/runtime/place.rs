//! Where things are: the mirror, the registries, the runtimes of this host.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use runtime::{Root, Runtime};

use crate::{commands::status::Connection, failure::Failure};

/// Where the node's configuration is looked for when none is named.
const CONFIG: &str = "/etc/longshore/node.toml";

/// Which system is meant.
#[derive(clap::Args)]
pub(super) struct System {
    /// Work on the files of the system below this folder, such as an image that is built
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Where it is kept what was in the files before [default: var/lib/longshore-runtime below the root]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

impl System {
    pub(super) fn root(&self) -> anyhow::Result<Root> {
        let folder = self.root.canonicalize().with_context(|| {
            Failure::bad_input(format!("there is no folder {}, which --root names", self.root.display()))
        })?;
        Ok(Root::new(folder))
    }

    pub(super) fn state(&self) -> PathBuf {
        self.state.clone().unwrap_or_else(|| runtime::default_state(&self.root))
    }

    /// The runtimes that were named; without any, those whose programs are there.
    pub(super) fn runtimes(&self, named: &[Runtime], root: &Root) -> anyhow::Result<Vec<Runtime>> {
        let mut runtimes = named.to_vec();
        if runtimes.is_empty() {
            // OSTree is there for other reasons often, and is named if it is meant.
            let meant = |runtime: &Runtime| *runtime != Runtime::Ostree && found(*runtime, root).is_some();
            runtimes.extend(Runtime::ALL.into_iter().filter(meant));
        }
        runtimes.sort();
        runtimes.dedup();
        if runtimes.is_empty() {
            let failure = Failure::new(
                "there is no container runtime here: no dockerd, containerd, podman, skopeo, \
                                        buildah or crio",
            );
            return Err(failure.hint("name one if it is to come: longshore runtime install docker").into());
        }
        Ok(runtimes)
    }
}

/// The first of a runtime's programs that is there.
pub(super) fn found(runtime: Runtime, root: &Root) -> Option<&'static str> {
    runtime.programs().iter().copied().find(|program| is_there(program, root))
}

pub(super) fn is_there(program: &str, root: &Root) -> bool {
    let folders = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin", "/opt/bin"];
    folders
        .iter()
        .any(|folder| root.resolve(&Path::new(folder).join(program)).is_ok_and(|path| path.is_file()))
}

/// How to find the mirror.
#[derive(clap::Args)]
pub(super) struct Mirror {
    /// The mirror's address; else the node's configuration or the node itself says it
    #[arg(long, value_name = "ADDR:PORT", value_parser = node::parse_listen)]
    mirror: Option<SocketAddr>,
    /// The node's configuration [default: /etc/longshore/node.toml, if it is there]
    #[arg(short, long, value_name = "FILE", env = "LONGSHORE_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    pub(super) connection: Connection,
}

impl Mirror {
    /// What the node is configured to, where that can be known.
    pub(super) fn config(&self, root: &Root) -> anyhow::Result<Option<node::Config>> {
        let usual = root.resolve(Path::new(CONFIG)).ok().filter(|path| path.is_file());
        let Some(path) = self.config.clone().or(usual) else { return Ok(None) };
        node::Config::read(&path)
            .map(Some)
            .context(Failure::bad_input("the mirror's address cannot be found"))
    }

    /// The address that runtimes are to ask, and who said so.
    pub(super) async fn address(
        &self,
        root: &Root,
        config: Option<&node::Config>,
    ) -> anyhow::Result<Option<SocketAddr>> {
        if let Some(given) = self.mirror {
            return Ok(Some(reachable(given)));
        }
        if let (Some(_), Some(config)) = (&self.config, config) {
            return Ok(best(&config.mirror.listen));
        }
        if root.is_system()
            && let Ok(status) = self.connection.client()?.status().await
        {
            let mirrors = status.addresses.iter().filter(|address| address.purpose == "mirror");
            let mirrors: Vec<_> = mirrors.filter_map(|address| address.address.parse().ok()).collect();
            if let Some(best) = best(&mirrors) {
                return Ok(Some(best));
            }
        }
        Ok(config.and_then(|config| best(&config.mirror.listen)))
    }
}

/// Of a mirror's addresses the one for this host: loopback before others, IPv4 before IPv6, as some runtimes take no
/// other.
fn best(addresses: &[SocketAddr]) -> Option<SocketAddr> {
    let mut addresses: Vec<_> = addresses.iter().copied().map(reachable).collect();
    addresses.sort_by_key(|address| (!address.ip().is_loopback(), address.is_ipv6()));
    addresses.first().copied()
}

/// Where to ask for something that listens at an address.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtimes_are_given_an_address_that_can_be_asked() {
        let best = |all: &[&str]| {
            let all: Vec<_> = all.iter().map(|text| text.parse().expect("an address")).collect();
            best(&all).map(|address| address.to_string())
        };
        assert_eq!(best(&["0.0.0.0:5555"]).as_deref(), Some("127.0.0.1:5555"));
        assert_eq!(best(&["10.0.0.1:1", "[::1]:2", "127.0.0.1:3"]).as_deref(), Some("127.0.0.1:3"));
        assert_eq!(best(&["[::]:1", "10.0.0.1:2"]).as_deref(), Some("[::1]:1"));
        assert_eq!(best(&[]), None);
    }
}
