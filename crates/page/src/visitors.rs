//! From whom a server takes requests that browsers send: from its own page, from listed ones, and from no page at all.
//!
//! Two things are refused that any page a user has open elsewhere could do: asking under a name of its own that it has
//! had resolved to this machine (DNS rebinding), and asking across origins (CSRF).

use std::net::IpAddr;

use axum::{
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse as _, Response},
};

/// Who may ask a server.
#[derive(Debug, Clone)]
pub struct Visitors {
    /// Requests under any name are taken, since each brings a token.
    any_name: bool,
    /// Other origins (RFC 6454) whose pages may ask too.
    origins: Vec<String>,
}

/// Somebody who may ask.
#[derive(Debug)]
#[must_use = "the answer's headers depend on who asks"]
pub struct Visitor {
    /// The origin of a listed page.
    foreign: Option<HeaderValue>,
    /// Only whether it may ask is asked (a preflight).
    only_asks: bool,
}

/// Why a request is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// It was sent to a name that a stranger may have made.
    #[error("without a log-in only requests to 127.0.0.1, [::1] or localhost are answered")]
    Name,
    /// A page of another origin sent it.
    #[error("pages of {0} may not ask here")]
    Page(String),
    /// A page of another site had the browser send it, without saying which.
    #[error("another page has asked; only this server's own may")]
    Unnamed,
}

impl Visitors {
    /// For a server without a log-in: browsers on this machine.
    pub fn of_this_machine(origins: &[String]) -> Self {
        Self { any_name: false, origins: plain(origins) }
    }

    /// For a server that asks for a token.
    pub fn with_a_token(origins: &[String]) -> Self {
        Self { any_name: true, origins: plain(origins) }
    }

    /// Whether a request may be answered.
    ///
    /// # Errors
    /// Why not.
    pub fn admit(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<Visitor, Refusal> {
        let host = host_of(headers, uri);
        if !self.any_name && !host.as_deref().is_some_and(is_local) {
            return Err(Refusal::Name);
        }
        let given = headers.get(header::ORIGIN);
        let origin = given.map(|value| String::from_utf8_lossy(value.as_bytes()).to_lowercase());
        let foreign = match origin {
            None if is_of_another_site(headers) => return Err(Refusal::Unnamed),
            None => None,
            Some(origin) if is_same(&origin, host.as_deref()) => None,
            Some(origin) if self.origins.contains(&origin) => given.cloned(),
            Some(origin) => return Err(Refusal::Page(origin)),
        };
        Ok(Visitor { only_asks: method == Method::OPTIONS && foreign.is_some(), foreign })
    }
}

impl Visitor {
    /// The whole answer to a preflight.
    pub fn preflight(&self) -> Option<Response> {
        self.only_asks.then(|| self.answer(StatusCode::NO_CONTENT.into_response()))
    }

    /// An answer with what the visitor's browser must be told.
    pub fn answer(&self, mut answer: Response) -> Response {
        let headers = answer.headers_mut();
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
        if let Some(origin) = &self.foreign {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            let methods = HeaderValue::from_static("GET, POST, PATCH, DELETE");
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
            let allowed = HeaderValue::from_static("authorization, content-type");
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
            headers.insert("access-control-allow-private-network", HeaderValue::from_static("true"));
            headers.append(header::VARY, HeaderValue::from_static("origin"));
        }
        answer
    }
}

fn plain(origins: &[String]) -> Vec<String> {
    origins.iter().map(|origin| origin.trim_end_matches('/').to_ascii_lowercase()).collect()
}

/// `host:port` as the client sees it.
fn host_of(headers: &HeaderMap, uri: &Uri) -> Option<String> {
    let named = headers.get(header::HOST).and_then(|value| value.to_str().ok());
    named.or_else(|| uri.authority().map(|authority| authority.as_str())).map(str::to_ascii_lowercase)
}

/// Whether a host is this machine in words that no name server has a say in.
fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Whether an origin is the address that the request went to.
fn is_same(origin: &str, host: Option<&str>) -> bool {
    let place = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    place.is_some() && place == host
}

/// Browsers say where a request comes from when they leave its origin out. Following a link is no harm.
fn is_of_another_site(headers: &HeaderMap) -> bool {
    let told = |name| headers.get(HeaderName::from_static(name)).map(HeaderValue::as_bytes);
    let foreign = matches!(told("sec-fetch-site"), Some(b"cross-site" | b"same-site"));
    foreign && told("sec-fetch-mode") != Some(b"navigate")
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    fn ask(visitors: &Visitors, method: &str, headers: &[(&str, &str)]) -> Result<Visitor, Refusal> {
        let mut request = Request::builder().method(method).uri("/v1/status");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(()).expect("a request");
        visitors.admit(request.method(), request.uri(), request.headers())
    }

    #[test]
    fn without_a_log_in_only_this_machine_by_its_address_is_answered() {
        let visitors = Visitors::of_this_machine(&[]);
        for host in ["127.0.0.1:7070", "LocalHost:7070", "[::1]:7070", "127.0.0.1"] {
            assert!(ask(&visitors, "GET", &[("host", host)]).is_ok(), "{host}");
        }
        for host in ["evil.example:7070", "10.0.0.1:7070", "localhost.evil.example", "[::2]:7070", ""] {
            assert_eq!(ask(&visitors, "GET", &[("host", host)]).err(), Some(Refusal::Name), "{host}");
        }
        assert_eq!(ask(&visitors, "GET", &[]).err(), Some(Refusal::Name));
        assert!(ask(&Visitors::with_a_token(&[]), "GET", &[("host", "n1.example:7070")]).is_ok());
    }

    #[test]
    fn pages_of_other_origins_are_refused_unless_listed() {
        for visitors in [Visitors::of_this_machine, Visitors::with_a_token] {
            let visitors = visitors(&["http://127.0.0.1:8080/".into()]);
            let from =
                |origin: &str| ask(&visitors, "GET", &[("host", "127.0.0.1:7070"), ("origin", origin)]);
            assert!(from("http://127.0.0.1:7070").is_ok_and(|visitor| visitor.foreign.is_none()));
            assert!(from("http://127.0.0.1:8080").is_ok_and(|visitor| visitor.foreign.is_some()));
            for other in ["http://evil.example", "null", "http://127.0.0.1:7071", "http://127.0.0.1:70700"] {
                assert_eq!(from(other).err(), Some(Refusal::Page(other.into())));
            }
        }
    }

    #[test]
    fn a_page_that_does_not_say_which_it_is_may_be_a_link_and_nothing_else() {
        let visitors = Visitors::of_this_machine(&[]);
        let from = |site, mode| {
            let told = [("host", "127.0.0.1:7070"), ("sec-fetch-site", site), ("sec-fetch-mode", mode)];
            ask(&visitors, "GET", &told).is_ok()
        };
        assert!(from("same-origin", "cors") && from("none", "navigate") && from("cross-site", "navigate"));
        assert!(!from("cross-site", "no-cors") && !from("same-site", "no-cors"));
    }

    #[test]
    fn a_listed_page_is_told_that_it_may_ask() {
        let visitors = Visitors::of_this_machine(&["http://127.0.0.1:8080".into()]);
        let own = [("host", "127.0.0.1:7070")];
        let listed = [own[0], ("origin", "http://127.0.0.1:8080")];
        let visitor = ask(&visitors, "OPTIONS", &listed).expect("is taken");
        let preflight = visitor.preflight().expect("an answer");
        assert_eq!(preflight.status(), 204);
        assert_eq!(preflight.headers()["access-control-allow-origin"], "http://127.0.0.1:8080");
        assert!(ask(&visitors, "GET", &listed).expect("is taken").preflight().is_none());
        let visitor = ask(&visitors, "OPTIONS", &own).expect("is taken");
        assert!(visitor.preflight().is_none());
        let answer = visitor.answer(StatusCode::OK.into_response());
        assert!(!answer.headers().contains_key("access-control-allow-origin"));
        assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
    }
}
