//! Which hosts of the web may be asked, at which ports, and at which addresses.

use url::Url;

use crate::tls::Reach;

/// Hosts that may be asked, as the configuration lists them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hosts {
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    /// As [`Url`] writes it: in lower case, IPv6 addresses in brackets.
    name: String,
    /// Whether all hosts below `name` are meant, and not that one; below an empty one are all.
    below: bool,
    /// None: the scheme's own, or what tunnels may lead to.
    port: Option<u16>,
    reach: Reach,
}

/// An entry that names no host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` names no host: write a name or an address, `*.` and a name for all hosts below it, `*` for all, and where \
     needed `:` and a port"
)]
pub struct HostError(String);

impl Hosts {
    /// Reads `host`, `host:port`, `*.domain`, `*.domain:port`, `*`. Those of `private` may have any address, and name one
    /// host each; the others have addresses of the public internet.
    pub(crate) fn new(public: &[String], private: &[String]) -> Result<Self, HostError> {
        let public = public.iter().map(|text| (text, Reach::Public));
        let private = private.iter().map(|text| (text, Reach::Anywhere));
        let rules = private.chain(public).map(|(text, reach)| Rule::parse(text, reach));
        Ok(Self { rules: rules.collect::<Result<_, _>>()? })
    }

    /// What addresses the URL's host may have, if it may be asked at all at that port.
    pub(crate) fn reach(&self, url: &Url) -> Option<Reach> {
        let (host, port) = (url.host_str()?, url.port_or_known_default()?);
        let usual = if url.scheme() == "https" { 443 } else { 80 };
        self.find(host, |given| given.unwrap_or(usual) == port)
    }

    /// The same for a tunnel; entries without a port are good for `ports`.
    pub(crate) fn tunnel(&self, host: &str, port: u16, ports: &[u16]) -> Option<Reach> {
        self.find(&host.to_ascii_lowercase(), |given| {
            given.map_or_else(|| ports.contains(&port), |given| given == port)
        })
    }

    fn find(&self, host: &str, fits: impl Fn(Option<u16>) -> bool) -> Option<Reach> {
        let host = host.strip_suffix('.').unwrap_or(host);
        self.rules.iter().find(|rule| rule.names(host) && fits(rule.port)).map(|rule| rule.reach)
    }
}

impl Rule {
    fn parse(text: &str, reach: Reach) -> Result<Self, HostError> {
        let refuse = || HostError(text.chars().take(80).collect());
        if text == "*" && reach == Reach::Public {
            return Ok(Self { name: String::new(), below: true, port: None, reach });
        }
        let (below, rest) = match text.strip_prefix("*.") {
            Some(rest) if reach == Reach::Public => (true, rest),
            Some(_) => return Err(refuse()),
            None => (false, text),
        };
        // Read as the URLs are that it is held against. With https, port 80 is one that was given, and the other way.
        let url = |scheme: &str| Url::parse(&format!("{scheme}://{rest}/")).map_err(|_| refuse());
        let (http, https) = (url("http")?, url("https")?);
        let bare = http.path() == "/" && http.query().is_none() && http.fragment().is_none();
        if !bare || rest.contains(['/', '\\', '@', '*', '?', '#']) || http.cannot_be_a_base() {
            return Err(refuse());
        }
        let name = http.host_str().map(str::to_owned).filter(|name| !name.is_empty()).ok_or_else(refuse)?;
        Ok(Self { name, below, port: http.port().or(https.port()), reach })
    }

    fn names(&self, host: &str) -> bool {
        if self.below && self.name.is_empty() {
            return true;
        }
        if self.below {
            return host.strip_suffix(self.name.as_str()).is_some_and(|above| above.ends_with('.'));
        }
        host == self.name
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hosts(public: &[&str], private: &[&str]) -> Result<Hosts, HostError> {
        let own = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        Hosts::new(&own(public), &own(private))
    }

    fn reach(hosts: &Hosts, url: &str) -> Option<Reach> {
        hosts.reach(&Url::parse(url).expect(url))
    }

    #[test]
    fn only_listed_hosts_are_asked_and_at_listed_ports() {
        let hosts = hosts(&["Deb.example", "*.cdn.example:8080"], &["10.0.0.5:81", "[fd00::1]", "inside"]);
        let hosts = hosts.expect("valid");
        assert_eq!(reach(&hosts, "http://deb.example/x"), Some(Reach::Public));
        assert_eq!(reach(&hosts, "https://deb.example./x"), Some(Reach::Public));
        assert_eq!(reach(&hosts, "http://a.b.cdn.example:8080/"), Some(Reach::Public));
        assert_eq!(reach(&hosts, "http://10.0.0.5:81/"), Some(Reach::Anywhere));
        assert_eq!(reach(&hosts, "http://[fd00:0::1]/"), Some(Reach::Anywhere));
        for url in [
            "http://deb.example:81/",
            "http://xdeb.example/",
            "http://a.deb.example/",
            "http://cdn.example:8080/",
            "http://a.cdn.example/",
            "http://10.0.0.5/",
            "https://10.0.0.5/",
            "http://127.0.0.1/",
        ] {
            assert_eq!(reach(&hosts, url), None, "{url}");
        }
        assert_eq!(hosts.tunnel("DEB.example", 443, &[443]), Some(Reach::Public));
        assert_eq!(hosts.tunnel("inside", 443, &[443]), Some(Reach::Anywhere));
        assert_eq!(hosts.tunnel("10.0.0.5", 81, &[443]), Some(Reach::Anywhere));
        assert_eq!(hosts.tunnel("10.0.0.5", 443, &[443]), None);
        assert_eq!(hosts.tunnel("deb.example", 22, &[443]), None);
    }

    #[test]
    fn what_names_no_host_is_refused() {
        for text in ["", "*:80", "*.", "a/b", "u@a", "http://a", "a:b", "a b", "a?b", "*.*.a", "a#b"] {
            assert!(hosts(&[text], &[]).is_err(), "{text}");
        }
        for text in ["*.inside", "*"] {
            assert!(hosts(&[], &[text]).is_err(), "what is inside is named one by one");
        }
    }

    #[test]
    fn all_hosts_are_those_of_the_public_internet_at_the_usual_ports() {
        let hosts = hosts(&["*"], &["inside"]).expect("valid");
        assert_eq!(reach(&hosts, "http://any.example/x"), Some(Reach::Public));
        assert_eq!(reach(&hosts, "http://127.0.0.1/x"), Some(Reach::Public), "which it is then refused for");
        assert_eq!(reach(&hosts, "http://inside/x"), Some(Reach::Anywhere));
        assert_eq!(reach(&hosts, "http://any.example:81/x"), None);
        assert_eq!(hosts.tunnel("any.example", 22, &[443]), None);
    }

    proptest! {
        #[test]
        fn any_entry_is_refused_or_names_itself(text in "\\PC{0,30}|[a-z0-9.:*\\[\\]-]{0,20}") {
            if let Ok(rule) = Rule::parse(&text, Reach::Public) {
                prop_assert_eq!(rule.names(&rule.name), !rule.below || rule.name.is_empty());
            }
        }
    }
}
