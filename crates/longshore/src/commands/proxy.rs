//! `longshore proxy`: a node that is told what torrent-cache's client was told, by the same environment.
//!
//! What is in etcd there is the content directory here: a tracker without announces, on this host alone, keeps it there.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use node::{Config, Node};
use tracker::{Endpoint, Home, Listen, Listeners, Tracker};

use super::node::{explain, serve};
use crate::{failure::Failure, host::StopSignals, screen, torrent_file};

/// Where torrent-cache has its certificate.
const CERTIFICATE: &str = "/etc/torrent-proxy/ssl/cert.pem";
const KEY: &str = "/etc/torrent-proxy/ssl/key.pem";

/// Every variable of torrent-cache's client, to be given by a flag too. An empty one is as good as none.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where clients connect to [default: 8888]
    #[arg(long, value_name = "PORT", env = "PORT")]
    port: Option<String>,
    /// The address to listen on for them [default: 0.0.0.0]
    #[arg(long, value_name = "ADDRESS", env = "INTERFACE")]
    interface: Option<String>,
    /// With anything but nothing in it: clients are spoken to without TLS
    #[arg(long, value_name = "ANY", env = "REGISTRY_NO_SSL", num_args = 0..=1, default_missing_value = "1")]
    registry_no_ssl: Option<String>,
    /// The registry behind it, HOST or HOST:PORT, asked by https; http://HOST:PORT for one without TLS
    /// [default: registry-1.docker.io]
    #[arg(long, value_name = "REGISTRY", env = "REGISTRY_LOCATION")]
    registry_location: Option<String>,
    /// A tracker's announce URL; without one, peers are looked for in the local network
    #[arg(long, value_name = "URL", env = "TRACKER")]
    tracker: Option<String>,
    /// The host of the etcd that all proxies share; without one, the tracker's host is asked for a content directory
    #[arg(long, value_name = "HOST", env = "ETCD_HOST")]
    etcd_host: Option<String>,
    /// Its port [default: 2378, which is torrent-cache's and not etcd's]
    #[arg(long, value_name = "PORT", env = "ETCD_PORT")]
    etcd_port: Option<String>,
    /// The first port to try for peers [default: 6881]
    #[arg(long, value_name = "PORT", env = "TORRENT_FIRST_PORT")]
    torrent_first_port: Option<String>,
    /// The last one [default: 6891, or the first]
    #[arg(long, value_name = "PORT", env = "TORRENT_LAST_PORT")]
    torrent_last_port: Option<String>,
    /// The certificate for clients, in PEM [default: /etc/torrent-proxy/ssl/cert.pem if it is there; else one is made]
    #[arg(long, value_name = "FILE", env = "CERTFILE")]
    certfile: Option<String>,
    /// Its key [default: /etc/torrent-proxy/ssl/key.pem]
    #[arg(long, value_name = "FILE", env = "PRIVATEKEY")]
    privatekey: Option<String>,
    /// A host inside your network that clients may ask for through the proxy, HOST or HOST:PORT; may be repeated, or
    /// hold commas. Hosts of the public internet need not be named
    #[arg(
        long = "private-host",
        value_name = "HOST",
        env = "LONGSHORE_PROXY_PRIVATE_HOSTS",
        value_delimiter = ','
    )]
    private_hosts: Vec<String>,
    /// Where content is kept
    #[arg(long, value_name = "DIR", env = "LONGSHORE_DATA", default_value = "storage")]
    data: PathBuf,
    /// The unix socket of the API
    #[arg(long, value_name = "PATH", env = "LONGSHORE_SOCKET")]
    socket: Option<PathBuf>,
    /// Print where it listens as JSON
    #[arg(long)]
    json: bool,
}

/// What the environment comes to.
struct Settings {
    config: Config,
    etcd: Option<Home>,
    /// One of these is for peers.
    ports: RangeInclusive<u16>,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let signals = StopSignals::listen()?;
    let json = args.json;
    let Settings { mut config, etcd, ports } = settings(args, &|file| file.is_file())?;
    config.peer.listen.set_port(free(config.peer.listen.ip(), ports)?);
    if config.mirror.listen.iter().any(|address| !address.ip().is_loopback()) {
        screen::note(
            "whoever reaches this port can use it as a proxy: INTERFACE=127.0.0.1 keeps it to this host",
        );
    }
    let directory = match etcd {
        Some(home) => Some(directory(home).await?),
        None => None,
    };
    if let Some((url, _)) = &directory {
        config.directory = vec![url.clone()];
    }
    let node = Node::start(config).await.map_err(explain)?;
    let served = serve(node, signals, json).await;
    if let Some((_, tracker)) = directory {
        tracker.shutdown().await;
    }
    served
}

/// The content directory in etcd, for this host alone; and its URL.
async fn directory(home: Home) -> anyhow::Result<(String, Tracker)> {
    let listen = vec![Listen::Address(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))];
    let config =
        tracker::Config { listen, udp: false, workers: 1, directory: Some(home), ..Default::default() };
    let failed = || Failure::new("the content directory cannot be served to this host");
    let listeners = Listeners::bind(&config, Vec::new()).with_context(failed)?;
    let tracker = Tracker::serve(config, listeners).await.with_context(failed)?;
    let address = tracker.endpoints().iter().find_map(|endpoint| match endpoint {
        Endpoint::Http(Listen::Address(address)) => Some(*address),
        _ => None,
    });
    let address = address.with_context(failed)?;
    Ok((format!("http://{address}"), tracker))
}

/// The first port of a range that nobody has.
fn free(ip: IpAddr, ports: RangeInclusive<u16>) -> anyhow::Result<u16> {
    let (first, last) = (*ports.start(), *ports.end());
    let free = ports.into_iter().find(|port| TcpListener::bind((ip, *port)).is_ok());
    free.ok_or_else(|| {
        let failure = Failure::new(format!("all ports for peers are taken, from {first} to {last}"));
        failure.hint("give others with TORRENT_FIRST_PORT and TORRENT_LAST_PORT").into()
    })
}

/// What the variables say. `is_there` looks for a file.
fn settings(args: Args, is_there: &dyn Fn(&Path) -> bool) -> anyhow::Result<Settings> {
    let mut config = Config { data: args.data, ..Config::default() };
    if let Some(socket) = args.socket {
        config.api.socket = socket;
    }
    let interface = match given(args.interface).as_deref() {
        None => Ipv4Addr::UNSPECIFIED.into(),
        Some("localhost") => Ipv4Addr::LOCALHOST.into(),
        Some(text) => text.parse().map_err(|_| {
            Failure::bad_input(format!("INTERFACE is `{text}`, which is no IP address"))
                .hint("write an address of this host, such as 127.0.0.1, or 0.0.0.0 for all")
        })?,
    };
    config.mirror.listen = vec![SocketAddr::new(interface, port("PORT", args.port, 8888)?)];
    registry(&mut config, given(args.registry_location).as_deref())?;
    if given(args.registry_no_ssl).is_none() {
        tls(&mut config, given(args.certfile), given(args.privatekey), is_there)?;
    }
    let trackers = given(args.tracker).unwrap_or_default();
    config.trackers =
        trackers.split(',').map(str::trim).filter(|url| !url.is_empty()).map(str::to_owned).collect();
    for url in &config.trackers {
        torrent_file::check_tracker(url).map_err(|why| Failure::bad_input(format!("TRACKER: {why}")))?;
        torrent_file::warn_of_tracker(url);
    }
    config.peer.local_discovery = config.trackers.is_empty();
    config.peer.listen.set_ip(if interface.is_ipv6() && !interface.is_loopback() {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    });
    config.proxy.enabled = true;
    config.proxy.ostree = true;
    config.proxy.hosts = vec!["*".to_owned()];
    config.proxy.private_hosts = args.private_hosts.into_iter().filter(|host| !host.is_empty()).collect();
    let etcd_port = port("ETCD_PORT", args.etcd_port, 2378)?;
    let etcd = given(args.etcd_host).map(|host| etcd(&host, etcd_port)).transpose()?;
    if etcd.is_none() && config.trackers.is_empty() {
        config.directory = vec!["none".to_owned()];
    }
    let first = port("TORRENT_FIRST_PORT", args.torrent_first_port, 6881)?;
    let last = port("TORRENT_LAST_PORT", args.torrent_last_port, first.max(6891))?;
    if first > last {
        let what = format!("TORRENT_FIRST_PORT is {first}, and TORRENT_LAST_PORT {last}, which is less");
        return Err(Failure::bad_input(what).into());
    }
    Ok(Settings { config, etcd, ports: first..=last })
}

fn given(text: Option<String>) -> Option<String> {
    text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

fn port(name: &str, text: Option<String>, default: u16) -> anyhow::Result<u16> {
    let Some(text) = given(text) else { return Ok(default) };
    text.parse().ok().filter(|port| *port != 0).ok_or_else(|| {
        Failure::bad_input(format!("{name} is `{text}`, which is no port: write a number from 1 to 65535"))
            .into()
    })
}

fn registry(config: &mut Config, location: Option<&str>) -> anyhow::Result<()> {
    let Some(location) = location else { return Ok(()) };
    let (scheme, name) = location.split_once("://").unwrap_or(("https", location));
    let name = name.trim_end_matches('/');
    let endpoint = format!("{scheme}://{name}");
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']');
    let usable = matches!(scheme, "http" | "https") && !name.is_empty() && name.chars().all(plain);
    if !usable {
        let what =
            format!("REGISTRY_LOCATION is `{location}`, which is no registry: write HOST or HOST:PORT");
        return Err(Failure::bad_input(what).into());
    }
    if scheme == "https" && matches!(name, "registry-1.docker.io" | "docker.io") {
        return Ok(());
    }
    config.mirror.default_registry = name.to_owned();
    config.set_upstream(name, &endpoint);
    Ok(())
}

fn tls(
    config: &mut Config,
    certificate: Option<String>,
    key: Option<String>,
    is_there: &dyn Fn(&Path) -> bool,
) -> anyhow::Result<()> {
    let named = certificate.is_some() || key.is_some();
    let certificate = PathBuf::from(certificate.unwrap_or_else(|| CERTIFICATE.to_owned()));
    let key = PathBuf::from(key.unwrap_or_else(|| KEY.to_owned()));
    if !named && !is_there(&certificate) {
        config.mirror.tls_own = true;
        return Ok(());
    }
    for (name, file) in [("CERTFILE", &certificate), ("PRIVATEKEY", &key)] {
        if !is_there(file) {
            let what = format!("there is no file {}, where {name} is to be", file.display());
            return Err(Failure::bad_input(what)
                .hint("name both, or neither for a certificate that is made; REGISTRY_NO_SSL=1 needs none")
                .into());
        }
    }
    (config.mirror.tls_certificate, config.mirror.tls_key) = (Some(certificate), Some(key));
    Ok(())
}

fn etcd(host: &str, port: u16) -> anyhow::Result<Home> {
    let host = if host.parse::<Ipv6Addr>().is_ok() { format!("[{host}]") } else { host.to_owned() };
    let wrong =
        || Failure::bad_input(format!("ETCD_HOST is `{host}`, which is no host: write a name or an address"));
    if host.contains(['/', ',', '@']) {
        return Err(wrong().into());
    }
    format!("etcd://{host}:{port}").parse().with_context(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Args as _, FromArgMatches as _};

    fn of(line: &[&str]) -> anyhow::Result<Settings> {
        let command = Args::augment_args(clap::Command::new("proxy"));
        let matches = command.get_matches_from([&["proxy"], line].concat());
        settings(Args::from_arg_matches(&matches).expect("good"), &|file| file.starts_with("/there"))
    }

    fn config(line: &[&str]) -> Config {
        of(line).expect("good").config
    }

    #[test]
    fn what_is_not_said_is_as_it_was_with_torrent_cache() {
        let Settings { config, etcd, ports } = of(&[]).expect("good");
        assert_eq!(config.mirror.listen, ["0.0.0.0:8888".parse().expect("an address")]);
        assert_eq!((config.mirror.default_registry.as_str(), ports), ("docker.io", 6881..=6891));
        assert!(config.mirror.tls_own && config.origin.upstreams.is_empty() && etcd.is_none());
        assert!(config.proxy.enabled && config.proxy.ostree && config.peer.local_discovery);
        assert_eq!(config.directory, ["none"], "with nobody to ask");
    }

    #[test]
    fn every_variable_has_its_place() {
        let Settings { config, etcd, ports } = of(&[
            "--port=80",
            "--interface=127.0.0.1",
            "--registry-no-ssl",
            "--registry-location=reg.test:5000",
            "--tracker=http://t.test:6969/announce",
            "--etcd-host=fd00::1",
            "--etcd-port=2379",
            "--torrent-first-port=7000",
            "--torrent-last-port=7001",
            "--private-host=a.test,b.test:8080",
        ])
        .expect("good");
        assert_eq!(config.mirror.listen, ["127.0.0.1:80".parse().expect("an address")]);
        assert!(!config.mirror.tls_own && config.mirror.tls_certificate.is_none());
        assert_eq!(config.mirror.default_registry, "reg.test:5000");
        let upstream = config.origin.upstreams.first().expect("one");
        assert_eq!(upstream.endpoint.as_deref(), Some("https://reg.test:5000"));
        assert_eq!(config.trackers, ["http://t.test:6969/announce"]);
        assert!(!config.peer.local_discovery && config.directory.is_empty());
        assert_eq!(etcd.expect("one").to_string(), "etcd://[fd00::1]:2379/longshore");
        assert_eq!((ports, config.proxy.private_hosts.len()), (7000..=7001, 2));
    }

    #[test]
    fn an_empty_variable_is_none() {
        let Settings { config, etcd, .. } = of(&[
            "--port=",
            "--interface=",
            "--registry-no-ssl=",
            "--registry-location=",
            "--tracker=",
            "--etcd-host=",
            "--etcd-port=",
            "--certfile=",
            "--privatekey=",
        ])
        .expect("good");
        assert_eq!(config.mirror.listen, ["0.0.0.0:8888".parse().expect("an address")]);
        assert!(config.mirror.tls_own && config.trackers.is_empty() && etcd.is_none());
    }

    #[test]
    fn certificates_are_those_that_are_named_or_there() {
        let named = config(&["--certfile=/there/c", "--privatekey=/there/k"]);
        assert_eq!(named.mirror.tls_certificate.as_deref(), Some(Path::new("/there/c")));
        assert!(!named.mirror.tls_own);
        let plain = config(&["--certfile=/missing", "--registry-no-ssl=0"]);
        assert!(plain.mirror.tls_certificate.is_none() && !plain.mirror.tls_own, "as torrent-cache took it");
    }

    #[test]
    fn a_registry_without_tls_is_one_that_says_so() {
        let config = config(&["--registry-location=http://127.0.0.1:5000/"]);
        assert_eq!(config.mirror.default_registry, "127.0.0.1:5000");
        let upstream = config.origin.upstreams.first().expect("one");
        assert_eq!(upstream.endpoint.as_deref(), Some("http://127.0.0.1:5000"));
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_its_name() {
        for (line, name) in [
            ("--port=0", "PORT"),
            ("--port=x", "PORT"),
            ("--interface=eth0", "INTERFACE"),
            ("--registry-location=ftp://a", "REGISTRY_LOCATION"),
            ("--registry-location=a/b", "REGISTRY_LOCATION"),
            ("--tracker=t.test", "TRACKER"),
            ("--etcd-host=a/b", "ETCD_HOST"),
            ("--etcd-port=65536", "ETCD_PORT"),
            ("--torrent-first-port=-1", "TORRENT_FIRST_PORT"),
            ("--torrent-last-port=1", "TORRENT_LAST_PORT"),
            ("--certfile=/missing", "CERTFILE"),
            ("--privatekey=/missing", "CERTFILE"),
        ] {
            let error = of(&[line]).err().expect(line);
            assert!(error.to_string().contains(name), "{line}: {error}");
            let report = crate::failure::report(&error);
            assert_eq!(format!("{report:?}"), format!("{:?}", std::process::ExitCode::from(2)), "{line}");
        }
    }

    #[test]
    fn a_port_that_is_taken_is_passed_over() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = taken.local_addr().expect("bound").port();
        assert!(free(Ipv4Addr::LOCALHOST.into(), port..=port).is_err());
    }
}
