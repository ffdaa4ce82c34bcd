//! Who may ask what, and how that is answered: all that a reload changes.

use std::{
    collections::HashSet,
    fs,
    io::{self, Read as _},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use announce::RetryIn;
use metainfo::InfoHash;

use crate::{
    Config, Network,
    desk::Refusal,
    forward::{Forwarder, Forwarders, ListError, read_list},
    limit::Limiter,
    store::Announce,
};

/// The longest list, in bytes: of info-hashes, some millions.
const LONGEST: u64 = 256 * 1024 * 1024;
/// When whoever was refused may ask again: lists and keys change.
const AGAIN: RetryIn = RetryIn::After(Duration::from_secs(15 * 60));

/// What whoever asks too often is told, and when he may ask again.
pub(crate) const TOO_OFTEN: &str = "too many requests from this network: ask less often";
pub(crate) const LATER: RetryIn = RetryIn::After(Duration::from_secs(60));

/// What whoever has no key is told.
pub(crate) const KEY_WANTED: &str =
    "this tracker wants a key in its URL, and this is none or not a valid one";

/// The policy that holds now.
pub(crate) struct Policy {
    pub(crate) pace: Pace,
    /// From here a peer is believed the address that it says it has.
    ip_from: Vec<Network>,
    /// From here the header below is believed.
    proxies: Vec<Network>,
    /// Whether from there each connection begins with the PROXY protocol.
    proxy_protocol: bool,
    /// In small letters.
    real_ip_header: Vec<u8>,
    allowed: Option<HashSet<InfoHash>>,
    denied: HashSet<InfoHash>,
    /// Whether, beside the allowed ones, only torrents are served that the content directory knows.
    pub(crate) registered_only: bool,
    keys: Option<HashSet<Vec<u8>>>,
    stats_from: Vec<Network>,
    /// How often each source may ask.
    limiter: Option<Limiter>,
    pub(crate) forwarders: Option<Arc<Forwarders>>,
}

/// How often peers announce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pace {
    /// Seconds.
    pub(crate) interval: u32,
    /// Seconds by which it is made shorter or longer at random, so that a crowd does not come back as one.
    pub(crate) spread: u32,
    pub(crate) min_interval: u32,
}

/// Why a file that the configuration names is of no use.
#[derive(Debug, thiserror::Error)]
#[error("`{setting}`: cannot use {}: {error}", path.display())]
pub struct FileError {
    /// The setting that names it.
    pub setting: &'static str,
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    #[source]
    pub error: ContentError,
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContentError {
    /// It cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It is too long.
    #[error("it is longer than {LONGEST} bytes")]
    TooLong,
    /// A line is no info-hash.
    #[error("line {0} does not begin with an info-hash of 40 hexadecimal digits")]
    NoInfoHash(usize),
    /// A line is no key.
    #[error("line {0} is no key: write letters, digits, - and _ alone")]
    NoKey(usize),
    /// It is no list of forwarders.
    #[error("{0}")]
    Forwarders(#[from] ListError),
}

impl Policy {
    /// Reads what the configuration names, but for the forwarders, which run.
    pub(crate) fn read(config: &Config, forwarders: Option<Arc<Forwarders>>) -> Result<Self, FileError> {
        let allowed = config.allow.as_deref().map(|path| info_hashes("allow", path)).transpose()?;
        let denied = config.deny.as_deref().map(|path| info_hashes("deny", path)).transpose()?;
        let keys = config.keys.as_deref().map(keys).transpose()?;
        Ok(Self {
            pace: Pace::of(config),
            ip_from: config.ip_from.clone(),
            proxies: config.trusted_proxies.clone(),
            proxy_protocol: config.proxy_protocol,
            real_ip_header: config.real_ip_header.to_ascii_lowercase().into_bytes(),
            allowed,
            denied: denied.unwrap_or_default(),
            registered_only: config.registered_only,
            keys,
            stats_from: config.stats_from.clone(),
            limiter: Limiter::of(config),
            forwarders,
        })
    }

    /// Whether an announce is taken.
    pub(crate) fn admit(&self, request: &Announce<'_>) -> Result<(), Refusal> {
        let refuse = |reason| Err(Refusal { reason, retry_in: Some(AGAIN) });
        if self.keys.as_ref().is_some_and(|keys| !keys.contains(request.passkey)) {
            return refuse(KEY_WANTED);
        }
        if !self.lists(&request.info_hash) {
            return refuse("this torrent is not served here");
        }
        self.forwarders.as_ref().map_or(Ok(()), |forwarders| forwarders.admit(request))
    }

    /// Whether a source asks no more often than it may. Where it does not, the request counts.
    pub(crate) fn is_within_rate(&self, now: Duration, from: Option<IpAddr>) -> bool {
        let (Some(limiter), Some(from)) = (&self.limiter, from) else { return true };
        limiter.allows(now, from)
    }

    /// Whether a source opens no more connections than it may.
    pub(crate) fn may_connect(&self, now: Duration, from: Option<IpAddr>) -> bool {
        let (Some(limiter), Some(from)) = (&self.limiter, from) else { return true };
        limiter.allows_connection(now, from)
    }

    /// Whether the torrents' numbers may be asked for with this key.
    pub(crate) fn may_scrape(&self, passkey: &[u8]) -> bool {
        self.keys.as_ref().is_none_or(|keys| keys.contains(passkey))
    }

    /// Whether the lists let a torrent be served. Where registered ones are as well, the list of those that are allowed
    /// is no bound.
    pub(crate) fn lists(&self, info_hash: &InfoHash) -> bool {
        (self.registered_only || self.allowed.is_none() || self.allows(info_hash))
            && !self.denied.contains(info_hash)
    }

    /// Whether a torrent is on the list of those that are allowed.
    pub(crate) fn allows(&self, info_hash: &InfoHash) -> bool {
        self.allowed.as_ref().is_some_and(|allowed| allowed.contains(info_hash))
    }

    /// Whether an address may see torrents that it has not named: an info-hash is the key to what is in the torrent.
    pub(crate) fn may_list(&self, from: Option<IpAddr>) -> bool {
        // Whoever comes by a proxy that names nobody may be anybody.
        from.is_some_and(|from| {
            if self.stats_from.is_empty() { from.is_loopback() } else { within(&self.stats_from, from) }
        })
    }

    /// Whether an address may see statistics and metrics.
    pub(crate) fn may_see(&self, from: Option<IpAddr>) -> bool {
        self.stats_from.is_empty() || from.is_some_and(|from| within(&self.stats_from, from))
    }

    /// Where a peer is taken to be that asks from `from` and says that it is at `claimed`.
    pub(crate) fn address(&self, from: IpAddr, claimed: Option<IpAddr>) -> IpAddr {
        let claimed = claimed.map(|ip| ip.to_canonical());
        let claimed = claimed.filter(|ip| !ip.is_unspecified() && !ip.is_multicast());
        claimed.filter(|_| within(&self.ip_from, from)).unwrap_or(from)
    }

    /// Whether what comes from here comes for others, as does all that comes by a unix socket.
    pub(crate) fn is_proxy(&self, from: Option<IpAddr>) -> bool {
        from.is_none_or(|from| within(&self.proxies, from))
    }

    /// Whether a connection from here counts for no host: it comes for others. Where everybody is believed as a proxy,
    /// that says nothing.
    pub(crate) fn is_free(&self, from: Option<IpAddr>) -> bool {
        from.is_none_or(|from| self.proxies.iter().any(|n| !n.is_everywhere() && n.contains(from)))
    }

    /// Whether a connection from here begins with the PROXY protocol.
    pub(crate) fn has_preface(&self, from: Option<IpAddr>) -> bool {
        self.proxy_protocol && self.is_proxy(from)
    }

    /// The client behind `from`, where that is a proxy that may be believed; `field` gives the values of a header. Of
    /// several addresses, as in `X-Forwarded-For`, it is the last that is not such a proxy itself. `None` where a proxy
    /// does not say for whom it asks, or not so that it can be read: its own address is nobody's. But where everybody is
    /// believed as a proxy, whoever says nothing asks for himself.
    pub(crate) fn client<'a>(
        &self,
        from: Option<IpAddr>,
        field: impl FnOnce(&[u8]) -> Vec<&'a [u8]>,
    ) -> Option<IpAddr> {
        let from = from.map(|from| from.to_canonical());
        if from.is_some_and(|from| self.proxies.is_empty() || !within(&self.proxies, from)) {
            return from;
        }
        let itself = from.filter(|_| !self.is_free(from));
        // The PROXY protocol has said it already.
        let mut client = if self.proxy_protocol { from } else { itself };
        let values = field(&self.real_ip_header);
        let addresses = values.iter().rev().flat_map(|value| value.rsplit(|byte| *byte == b','));
        for address in addresses.filter(|address| !address.trim_ascii().is_empty()).map(parse_ip) {
            // Before what nobody can read stands what anybody may have written.
            let Some(address) = address.filter(|address| is_credible(*address, from)) else { return itself };
            client = Some(address);
            if !within(&self.proxies, address) {
                break;
            }
        }
        client
    }
}

impl Pace {
    fn of(config: &Config) -> Self {
        let seconds = |seconds: u64| u32::try_from(seconds).unwrap_or(u32::MAX);
        // Never so long that a peer is forgotten before it comes back.
        let longest = config.peer_age.saturating_sub(config.interval + 1);
        Self {
            interval: seconds(config.interval),
            spread: seconds((config.interval * config.interval_spread / 100).min(longest)),
            min_interval: seconds(config.min_interval),
        }
    }
}

/// Whether a proxy at `from`, which is known but for a unix socket, can be believed that its client is at an address:
/// nobody comes from this machine by way of another, or from where nobody is.
pub(crate) fn is_credible(client: IpAddr, from: Option<IpAddr>) -> bool {
    let client = client.to_canonical();
    let is_nobody =
        client.is_unspecified() || client.is_multicast() || client == IpAddr::from(Ipv4Addr::BROADCAST);
    !is_nobody && (!client.is_loopback() || from.is_none_or(|from| from.to_canonical().is_loopback()))
}

/// Reads the list of forwarders.
pub(crate) fn forwarders(path: &Path) -> Result<Vec<Forwarder>, FileError> {
    let fail = |error| FileError { setting: "forwarders", path: path.to_owned(), error };
    read(path).and_then(|text| Ok(read_list(&text)?)).map_err(fail)
}

fn info_hashes(setting: &'static str, path: &Path) -> Result<HashSet<InfoHash>, FileError> {
    let fail = |error| FileError { setting, path: path.to_owned(), error };
    parse_info_hashes(&read(path).map_err(fail)?).map_err(fail)
}

fn keys(path: &Path) -> Result<HashSet<Vec<u8>>, FileError> {
    let fail = |error| FileError { setting: "keys", path: path.to_owned(), error };
    parse_keys(&read(path).map_err(fail)?).map_err(fail)
}

/// An info-hash at the beginning of each line, as opentracker has it; what follows, and a line behind `#`, is for
/// people.
fn parse_info_hashes(text: &str) -> Result<HashSet<InfoHash>, ContentError> {
    lines(text)
        .map(|(number, line)| {
            let info_hash = line.get(..40).and_then(|hash| hash.parse().ok());
            let ends = line.as_bytes().get(40).is_none_or(|byte| !byte.is_ascii_alphanumeric());
            info_hash.filter(|_| ends).ok_or(ContentError::NoInfoHash(number))
        })
        .collect()
}

/// A key on each line, and what is for people behind a blank.
fn parse_keys(text: &str) -> Result<HashSet<Vec<u8>>, ContentError> {
    lines(text)
        .map(|(number, line)| {
            let key = line.split_ascii_whitespace().next().unwrap_or_default();
            let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            // These are the paths themselves.
            let is_path = key == "announce" || key == "scrape";
            let is_key = !is_path && key.bytes().all(good);
            if is_key { Ok(key.as_bytes().to_vec()) } else { Err(ContentError::NoKey(number)) }
        })
        .collect()
}

/// The lines that say something, numbered from 1.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = (1..).zip(text.lines().map(str::trim));
    lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

fn read(path: &Path) -> Result<String, ContentError> {
    let mut text = String::new();
    // It may grow meanwhile.
    if open_ordinary(path)?.take(LONGEST + 1).read_to_string(&mut text)? as u64 > LONGEST {
        return Err(ContentError::TooLong);
    }
    Ok(text)
}

/// Opens an ordinary file to read it: a pipe would be waited for.
///
/// # Errors
/// Those of the system, and that it is another kind of file.
pub fn open_ordinary(path: &Path) -> io::Result<fs::File> {
    let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let file = fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no ordinary file"));
    }
    Ok(file)
}

fn within(networks: &[Network], ip: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(ip))
}

/// An address as proxies write it: in quotes, in brackets, and with a port or without.
fn parse_ip(text: &[u8]) -> Option<IpAddr> {
    let within = |text, from, to| str::strip_prefix(text, from).and_then(|rest: &str| rest.strip_suffix(to));
    let text = std::str::from_utf8(text).ok()?.trim();
    let text = within(text, '"', '"').unwrap_or(text).trim();
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    let ip = within(text, '[', ']').unwrap_or(text).parse().ok().or_else(with_port)?;
    Some(ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_pipe_that_is_named_as_a_list_is_refused_and_not_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let pipe = folder.path().join("pipe");
        let mode = rustix::fs::Mode::RWXU;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).expect("made");
        for setting in ["allow", "deny", "keys"] {
            let mut config = Config::default();
            match setting {
                "allow" => config.allow = Some(pipe.clone()),
                "deny" => config.deny = Some(pipe.clone()),
                _ => config.keys = Some(pipe.clone()),
            }
            let error = Policy::read(&config, None).err().expect(setting).to_string();
            assert!(error.contains(setting) && error.contains("no ordinary file"), "{error}");
        }
        assert!(forwarders(&pipe).is_err_and(|error| error.to_string().contains("no ordinary file")));
    }

    fn policy(change: impl FnOnce(&mut Config)) -> Policy {
        let mut config = Config::default();
        change(&mut config);
        Policy::read(&config, None).expect("good")
    }

    fn networks(networks: &[&str]) -> Vec<Network> {
        networks.iter().map(|network| network.parse().expect("a network")).collect()
    }

    #[test]
    fn an_address_is_believed_only_from_where_it_may_be_said() {
        let usual = policy(|_| {});
        assert_eq!(usual.address(ip("127.0.0.1"), Some(ip("10.1.1.1"))), ip("10.1.1.1"));
        assert_eq!(usual.address(ip("::1"), Some(ip("224.0.0.1"))), ip("::1"));
        assert_eq!(usual.address(ip("10.0.0.1"), Some(ip("10.1.1.1"))), ip("10.0.0.1"));
        let lan = policy(|config| config.ip_from = networks(&["10.0.0.0/8", "fd00::/8"]));
        assert_eq!(lan.address(ip("10.0.0.1"), Some(ip("192.0.2.1"))), ip("192.0.2.1"));
        assert_eq!(lan.address(ip("127.0.0.1"), Some(ip("192.0.2.1"))), ip("127.0.0.1"));
    }

    #[test]
    fn torrents_are_listed_to_this_machine_or_to_those_that_are_set_and_never_to_nobody_in_particular() {
        let usual = policy(|_| {});
        assert!(usual.may_list(Some(ip("127.0.0.1"))) && usual.may_see(None));
        assert!(!usual.may_list(Some(ip("10.0.0.1"))) && !usual.may_list(None));
        let set = policy(|config| config.stats_from = networks(&["10.0.0.0/8"]));
        assert!(set.may_list(Some(ip("10.0.0.1"))));
        assert!(!set.may_list(Some(ip("127.0.0.1"))) && !set.may_list(None));
        // Where everybody is believed, nobody from elsewhere becomes this machine, nor counts for no host.
        let all = policy(|config| config.trusted_proxies = Network::EVERYWHERE.to_vec());
        let client = |from: &str| all.client(Some(ip(from)), |_| vec![b"127.0.0.1"]);
        assert_eq!(client("10.0.0.1"), Some(ip("10.0.0.1")));
        assert_eq!(client("127.0.0.1"), Some(ip("127.0.0.1")));
        assert!(!all.is_free(Some(ip("10.0.0.1"))));
    }

    #[test]
    fn a_client_behind_proxies_is_the_last_address_that_no_proxy_could_have_made_up() {
        let proxies = |config: &mut Config| {
            config.trusted_proxies = networks(&["10.0.0.0/8", "192.0.2.7"]);
            config.real_ip_header = "X-Forwarded-For".into();
        };
        let policy = policy(proxies);
        let client = |from: &str, values: &[&'static str]| {
            let values: Vec<&[u8]> = values.iter().map(|value| value.as_bytes()).collect();
            let client = policy.client((from != "unix").then(|| ip(from)), |name| {
                assert_eq!(name, b"x-forwarded-for");
                values
            });
            client.map_or("nobody".to_owned(), |ip| ip.to_string())
        };
        assert_eq!(client("203.0.113.1", &["1.1.1.1"]), "203.0.113.1", "no proxy");
        assert_eq!(client("10.0.0.1", &["6.6.6.6, 1.1.1.1"]), "1.1.1.1", "the first is made up");
        assert_eq!(client("10.0.0.1", &["6.6.6.6", "1.1.1.1, 192.0.2.7"]), "1.1.1.1");
        assert_eq!(client("::ffff:10.0.0.1", &["10.0.0.9"]), "10.0.0.9", "proxies all the way");
        assert_eq!(client("unix", &["6.6.6.6, 1.1.1.1, 10.0.0.1"]), "1.1.1.1");
        for (written, read) in [
            (" 1.1.1.1 ", "1.1.1.1"),
            ("1.1.1.1:4711", "1.1.1.1"),
            (" [2001:db8::1] ", "2001:db8::1"),
            ("[2001:db8::1]:4711", "2001:db8::1"),
            ("\"[2001:db8::1]:4711\"", "2001:db8::1"),
            ("6.6.6.6,\" 1.1.1.1\" ,, ", "1.1.1.1"),
            ("::ffff:1.1.1.1", "1.1.1.1"),
        ] {
            assert_eq!(client("10.0.0.1", &[written]), read, "{written}");
        }
    }

    #[test]
    fn a_proxy_that_does_not_say_for_whom_it_asks_is_not_taken_for_the_client() {
        let policy = |proxy_protocol, networks| {
            policy(|config| {
                config.trusted_proxies = networks;
                config.proxy_protocol = proxy_protocol;
            })
        };
        let proxies = || networks(&["10.0.0.0/8", "127.0.0.0/8"]);
        let (named, prefaced) = (policy(false, proxies()), policy(true, proxies()));
        let everybody = policy(false, Network::EVERYWHERE.to_vec());
        let from = [Some(ip("10.0.0.1")), Some(ip("127.0.0.1")), Some(ip("::ffff:10.0.0.1")), None];
        let wrong = ["nonsense", "unix:", "[1.1.1.1", "1.1.1.1:x", "\"1.1.1.1", "1.1.1.1, _hidden, 10.0.0.9"];
        let unread: Vec<&[u8]> = wrong.iter().map(|value| value.as_bytes()).collect();
        for from in from {
            let itself = from.map(|from| from.to_canonical());
            for unsaid in [&[][..], &[&b" "[..]]] {
                assert_eq!(named.client(from, |_| unsaid.to_vec()), None, "{from:?}");
                assert_eq!(prefaced.client(from, |_| unsaid.to_vec()), itself, "the preface has said it");
                assert_eq!(everybody.client(from, |_| unsaid.to_vec()), itself, "it asks for itself");
            }
            for unread in &unread {
                assert_eq!(named.client(from, |_| vec![unread]), None, "{}", unread.escape_ascii());
                assert_eq!(prefaced.client(from, |_| vec![unread]), None, "{}", unread.escape_ascii());
                assert_eq!(everybody.client(from, |_| vec![unread]), itself, "{}", unread.escape_ascii());
            }
        }
    }

    #[test]
    fn lists_are_read_and_their_errors_have_a_line() {
        let hash = "0123456789abcdef0123456789abcdef01234567";
        let list = parse_info_hashes(&format!("# served\n\n{hash} a name\n{}\n", hash.to_uppercase()));
        assert_eq!(list.expect("good").len(), 1);
        for wrong in [&hash[1..], &format!("{hash}0"), "x", &format!("ä{hash}")] {
            let error = parse_info_hashes(&format!("#\n{wrong}\n")).expect_err(wrong);
            assert!(matches!(error, ContentError::NoInfoHash(2)), "{error}");
        }
        let keys = parse_keys("k1 the fleet's\nK-2_3\n").expect("good");
        assert!(keys.contains(&b"k1"[..]) && keys.contains(&b"K-2_3"[..]) && keys.len() == 2);
        for wrong in ["a/b", "announce", "scrape", "ä", "a?b"] {
            assert!(matches!(parse_keys(wrong), Err(ContentError::NoKey(1))), "{wrong}");
        }
        let missing = Config { keys: Some("/nonexistent/keys".into()), ..Config::default() };
        let error = Policy::read(&missing, None).err().expect("no file").to_string();
        assert!(error.contains("`keys`") && error.contains("/nonexistent/keys"), "{error}");
    }

    #[test]
    fn a_proxy_is_not_believed_that_its_client_is_this_machine_or_nobody() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        for (client, from, credible) in [
            ("10.0.0.9", Some("192.0.2.2"), true),
            ("127.0.0.1", Some("192.0.2.2"), false),
            ("::ffff:127.0.0.1", Some("::ffff:192.0.2.2"), false),
            ("::1", Some("2001:db8::1"), false),
            ("127.0.0.1", Some("::ffff:127.0.0.1"), true),
            ("::1", None, true),
            ("0.0.0.0", Some("127.0.0.1"), false),
            ("::", None, false),
            ("224.0.0.1", Some("192.0.2.2"), false),
            ("ff02::1", None, false),
            ("255.255.255.255", None, false),
        ] {
            assert_eq!(is_credible(ip(client), from.map(ip)), credible, "{client} by {from:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_list_or_an_error(text in "\\PC{0,100}|([0-9a-f ]{38,42}\n){0,4}") {
            let _ = (parse_info_hashes(&text), parse_keys(&text));
            let _ = parse_ip(text.as_bytes());
        }
    }
}
