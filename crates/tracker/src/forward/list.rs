//! The file that lists forwarders, in retracker's form: YAML, a list of `uri`, `name`, `ip`, `host`.

use std::net::IpAddr;

use serde::Deserialize;
use tracker_client::TrackerClient;

/// The longest file, in bytes.
const LONGEST: usize = 1024 * 1024;
/// The most forwarders: all are asked for every peer.
const MOST: usize = 64;

/// A tracker to forward to.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forwarder {
    /// Its announce URL: `http://`, `https://` or `udp://`. May hold a secret.
    pub uri: String,
    /// What it is called in logs and metrics; the URL's host where absent. Those of one name are counted together.
    #[serde(default)]
    pub name: String,
    /// The address that it is told our peers have (`ip=` and `ipv4=`), where they share one.
    #[serde(default)]
    pub ip: Option<IpAddr>,
    /// By which `Host` it is asked, where that is not the URL's.
    #[serde(default)]
    pub host: Option<String>,
}

/// Why a list of forwarders is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ListError {
    /// Not YAML, or not of this form.
    #[error("it is no list of forwarders (uri, name, ip, host): {0}")]
    Form(String),
    /// Too long.
    #[error("it is longer than {LONGEST} bytes")]
    TooLong,
    /// Too many.
    #[error("it has {0} forwarders: {MOST} are allowed")]
    TooMany(usize),
    /// A URL that cannot be asked.
    #[error(
        "forwarder {number}: its uri must begin with http://, https:// or udp://, name a host, with udp:// and a port \
         from 1 to 65535, and hold no spaces"
    )]
    Uri {
        /// Which, from 1.
        number: usize,
    },
    /// A `Host` that cannot be sent.
    #[error("forwarder {number}: `{host}` is no host name")]
    Host {
        /// Which, from 1.
        number: usize,
        /// The name.
        host: String,
    },
}

/// Errors show nothing of the text: its URLs hold passkeys.
fn options() -> serde_saphyr::Options {
    serde_saphyr::options! { with_snippet: false }
}

/// Reads a list. An empty file is an empty list.
///
/// # Errors
/// [`ListError`]
pub fn read_list(text: &str) -> Result<Vec<Forwarder>, ListError> {
    if text.len() > LONGEST {
        return Err(ListError::TooLong);
    }
    let list: Option<Vec<Forwarder>> = serde_saphyr::from_str_with_options(text, options())
        .map_err(|error| ListError::Form(error.to_string()))?;
    let mut list = list.unwrap_or_default();
    if list.len() > MOST {
        return Err(ListError::TooMany(list.len()));
    }
    for (number, forwarder) in (1..).zip(&mut list) {
        let host = host_of(&forwarder.uri).ok_or(ListError::Uri { number })?;
        if forwarder.name.is_empty() {
            host.clone_into(&mut forwarder.name);
        }
        let sendable = |host: &str| !host.is_empty() && host.bytes().all(|b| b.is_ascii_graphic());
        if let Some(host) = forwarder.host.as_ref().filter(|host| !sendable(host)) {
            return Err(ListError::Host { number, host: host.clone() });
        }
    }
    Ok(list)
}

/// Host and port of a URL that can be asked, without what may be secret.
fn host_of(uri: &str) -> Option<&str> {
    let rest = TrackerClient::SCHEMES.iter().find_map(|scheme| uri.strip_prefix(scheme))?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let place = authority.rsplit('@').next()?;
    // The colons of an IPv6 address stand in brackets.
    let end = place.rfind(']').map_or(0, |at| at + 1);
    let (host, port) = match place.get(end..)?.split_once(':') {
        Some((host, port)) => (place.get(..end + host.len())?, Some(port)),
        None => (place, None),
    };
    let port_is_good = match port {
        Some(port) => port.parse().is_ok_and(|port: u16| port != 0),
        None => !uri.starts_with("udp:"),
    };
    let graphic = uri.bytes().all(|byte| byte.is_ascii_graphic());
    (graphic && port_is_good && !host.is_empty()).then_some(place)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn retrackers_own_example_is_read() {
        let list = read_list(
            "- uri: http://bt.example/ann?uk=secret\n  ip: 192.0.2.1\n  host: other.example\n\
             - name: second\n  uri: udp://[2001:db8::1]:6969\n- uri: https://u:p@third.example:8443/announce\n",
        )
        .expect("reads");
        let names: Vec<&str> = list.iter().map(|forwarder| forwarder.name.as_str()).collect();
        assert_eq!(names, ["bt.example", "second", "third.example:8443"]);
        assert_eq!(list[0].ip, Some([192, 0, 2, 1].into()));
        assert_eq!(list[0].host.as_deref(), Some("other.example"));
        let twins = read_list("- uri: http://x/a\n- uri: http://x/b\n").expect("reads");
        assert!(twins.len() == 2 && twins.iter().all(|twin| twin.name == "x"), "two passkeys at one tracker");
        assert_eq!(read_list(""), Ok(vec![]));
        assert_eq!(read_list("# nobody yet\n"), Ok(vec![]));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = |text: &str| read_list(text).expect_err(text).to_string();
        let told = error("- uri: http://u:pw@h/PASSKEY/announce\n  nmae: x\n");
        assert!(told.contains("nmae") && !told.contains("PASSKEY") && !told.contains("pw"), "{told}");
        assert!(error("- url: http://x/\n").contains("url"));
        assert!(error("- uri: [\n").contains("list of forwarders"));
        assert!(error("uri: http://x/").contains("list of forwarders"));
        for wrong in [
            "ftp://x/",
            "http://",
            "http:///announce",
            "x",
            "udp://:1",
            "udp://x/announce",
            "http://x:0/a",
            "http://x:70000/a",
            "http://x:/a",
            "udp://[::1]:x",
            "http://fd00::1/a",
            "http://x/a b",
            "http://x /a",
        ] {
            assert!(error(&format!("- uri: '{wrong}'\n")).contains("forwarder 1"), "{wrong}");
        }
        assert!(error("- uri: http://x/a\n  host: \"a\\nb\"\n").contains("host name"));
        assert_eq!(read_list(&"- uri: http://x/\n".repeat(65)), Err(ListError::TooMany(65)));
        assert_eq!(read_list(&"#".repeat(LONGEST + 1)), Err(ListError::TooLong));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,200}|(- uri: [a-z:/\\[\\]@{}&*!]{0,20}\n){0,4}") {
            if let Ok(list) = read_list(&text) {
                prop_assert!(list.iter().all(|forwarder| !forwarder.name.is_empty()));
            }
        }
    }
}
