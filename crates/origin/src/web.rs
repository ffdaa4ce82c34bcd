//! Files on web servers, beside registries: asked for without any rights, of listed hosts only.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::Stream;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use reqwest::Response;
use tokio::{
    net::{TcpStream, lookup_host},
    time::{sleep, timeout},
};
use url::Url;

use crate::{
    BlobBody, Cause, Home, HostError, Origin, OriginError, Patience, Place,
    address::is_public,
    blob::Opener,
    breaker::Breaker,
    change::send_watched,
    client::{Ask, Failure, literal, reason, redirect, same_origin, verdict},
    hosts::Hosts,
    manifest::{content_length, media_type},
    tls::{self, NOT_PUBLIC, Reach},
};

/// How many redirects are followed for one file.
const REDIRECTS: usize = 5;
/// How long a file's answer may take to begin, retries included: clients of OSTree leave after 30 s of silence.
const HEAD: Duration = Duration::from_secs(25);

/// Which web servers may be asked.
#[derive(Debug, Clone, Default)]
pub struct WebConfig {
    /// Bases that are listed one by one, with a PEM file of certificates to trust besides the system's. They may have
    /// any address.
    pub bases: Vec<(Url, Option<PathBuf>)>,
    /// `host`, `host:port`, `*.domain`: hosts with addresses of the public internet.
    pub hosts: Vec<String>,
    /// `host`, `host:port`: hosts that may have any address.
    pub private_hosts: Vec<String>,
    /// Where tunnels may lead to at hosts that are listed without a port.
    pub connect_ports: Vec<u16>,
    /// Deadlines and retries.
    pub patience: Patience,
}

/// Why web servers cannot be asked as the configuration says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WebConfigError {
    /// An entry of a list of hosts.
    #[error(transparent)]
    Host(#[from] HostError),
    /// A CA file, or TLS at all.
    #[error("{base}: {reason}")]
    Tls {
        /// The base's URL.
        base: String,
        /// What is wrong.
        reason: String,
    },
}

/// A client of listed web servers. Cheap to clone; what it receives is counted with what registries give.
#[derive(Debug, Clone)]
pub struct Web {
    inner: Arc<Inner>,
    origin: Origin,
}

#[derive(Debug)]
struct Inner {
    bases: Vec<(Url, reqwest::Client)>,
    hosts: Hosts,
    connect_ports: Vec<u16>,
    patience: Patience,
    anywhere: reqwest::Client,
    public: reqwest::Client,
    /// By [`server`].
    breaker: Breaker,
    /// What our requests say in `Via`, and nobody else's.
    via: HeaderValue,
}

/// What a server says of a file.
#[derive(Debug, Clone, Default)]
pub struct FileHead {
    /// Its length in bytes.
    pub size: Option<u64>,
    /// Its media type.
    pub media_type: Option<String>,
    /// All that was said.
    pub headers: HeaderMap,
}

impl FileHead {
    fn of(headers: HeaderMap) -> Self {
        Self { size: content_length(&headers), media_type: media_type(&headers), headers }
    }

    /// What tells this version of the file from others, as far as the server says.
    pub fn validator(&self) -> Option<HeaderValue> {
        validator(&self.headers)
    }

    /// Its `ETag`, where it stands for these bytes and no others (RFC 9110 section 8.8.3).
    pub fn strong_etag(&self) -> Option<HeaderValue> {
        let etag = self.headers.get(header::ETAG)?;
        let text = etag.as_bytes();
        (text.len() > 2 && text.starts_with(b"\"") && text.ends_with(b"\"")).then(|| etag.clone())
    }
}

/// An answer to a question for a small file.
#[derive(Debug)]
pub enum Document {
    /// It has not changed.
    Same,
    /// This is it.
    New(FileHead, Bytes),
}

impl Web {
    /// Checks the lists and reads the CA files. `origin` counts what is received.
    pub fn new(config: &WebConfig, origin: &Origin) -> Result<Self, WebConfigError> {
        let patience = config.patience;
        let client = |ca: Option<&PathBuf>, reach, base: &str| {
            tls::client(ca.map(PathBuf::as_path), reach, &patience)
                .map_err(|reason| WebConfigError::Tls { base: base.to_owned(), reason })
        };
        let bases = config
            .bases
            .iter()
            .map(|(base, ca)| Ok((base.clone(), client(ca.as_ref(), Reach::Anywhere, base.as_str())?)));
        let inner = Inner {
            bases: bases.collect::<Result<_, WebConfigError>>()?,
            hosts: Hosts::new(&config.hosts, &config.private_hosts)?,
            connect_ports: config.connect_ports.clone(),
            patience,
            anywhere: client(None, Reach::Anywhere, "any")?,
            public: client(None, Reach::Public, "any")?,
            breaker: Breaker::default(),
            via: pseudonym(),
        };
        Ok(Self { inner: Arc::new(inner), origin: origin.clone() })
    }

    /// Whether the configuration lets a URL be asked for.
    pub fn allows(&self, url: &Url) -> Result<(), OriginError> {
        self.client(url, false).map(drop)
    }

    /// Whether a request was passed on by ourselves before: then it goes in a circle.
    pub fn has_passed(&self, headers: &HeaderMap) -> bool {
        let ours = self.inner.via.to_str().unwrap_or_default();
        let values = headers.get_all(header::VIA).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|hop| hop.trim() == ours)
    }

    /// A file from byte `from` on, redirects followed; resumed where it breaks. What is [`Version::Unknown`] or
    /// [`Version::Like`] is resumed only if the server says that it is still the same, as nobody holds the bytes against a
    /// digest.
    pub async fn file(
        &self,
        url: &Url,
        from: u64,
        version: Version,
    ) -> Result<(FileHead, BlobBody), OriginError> {
        let verified = version == Version::Verified;
        let validator = if let Version::Like(head) = version { Some(head) } else { None };
        let mut opener = FileOpener { web: self.clone(), url: url.clone(), verified, validator };
        let opened = opener.open(from, None).await?;
        let head = FileHead::of(opened.headers.clone());
        Ok((head, BlobBody::new(Opener::File(Box::new(opener)), from, opened)))
    }

    /// What the server says of a file, by HEAD.
    pub async fn head(&self, url: &Url) -> Result<FileHead, OriginError> {
        let ask = ask(url, Method::HEAD);
        let mut response = self.send(&ask, url, &[]).await?;
        Ok(FileHead::of(std::mem::take(response.headers_mut())))
    }

    /// The length of a file in bytes.
    pub async fn size(&self, url: &Url) -> Result<u64, OriginError> {
        let size = self.head(url).await?.size;
        size.ok_or_else(|| ask(url, Method::HEAD).invalid("it does not say the file's length".into()))
    }

    /// A file of at most `limit` bytes, unless it is still what `conditions` (`If-None-Match`, `If-Modified-Since`)
    /// say.
    pub async fn document(
        &self,
        url: &Url,
        conditions: HeaderMap,
        limit: usize,
    ) -> Result<Document, OriginError> {
        let mut ask = ask(url, Method::GET);
        let conditional = !conditions.is_empty();
        ask.headers.extend(conditions);
        let mut response = self.send(&ask, url, &[StatusCode::NOT_MODIFIED]).await?;
        match response.status() {
            StatusCode::NOT_MODIFIED if conditional => return Ok(Document::Same),
            StatusCode::OK => {}
            status => return Err(ask.invalid(format!("status {} for a file", status.as_u16()))),
        }
        let head = FileHead::of(std::mem::take(response.headers_mut()));
        let too_large = || OriginError::TooLarge { place: ask.place.clone(), what: ask.what.clone(), limit };
        if head.size.is_some_and(|size| size > limit as u64) {
            return Err(too_large());
        }
        let bytes = self.origin.read_document(&ask, response, limit).await?;
        if head.size.is_some_and(|size| size != bytes.len() as u64) {
            return Err(ask.invalid("it is not as long as it was said to be".into()));
        }
        Ok(Document::New(head, bytes))
    }

    /// Passes a request on as it is, once, and no redirect is followed: that is the client's affair. The headers are
    /// those that are not about one connection.
    pub async fn pass<S>(
        &self,
        method: Method,
        url: &Url,
        mut headers: HeaderMap,
        body: Option<S>,
    ) -> Result<PassedOn, OriginError>
    where
        S: Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    {
        let client = self.client(url, false)?;
        let ask = ask(url, method.clone());
        let server = server(url);
        if let Some((left, cause)) = self.inner.breaker.left(&server, false) {
            return Err(ask.left_alone(url, left, cause));
        }
        headers.append(header::VIA, self.inner.via.clone());
        let request = client.request(method, url.clone()).headers(headers);
        let sent = send_watched(request, body, self.inner.patience.first_byte).await;
        let mut response = sent.map_err(|error| ask.failed(url, error))?;
        // That a request of a client's own making fails says nothing of the server: not one shuts it for the others.
        self.inner.breaker.answered(&server);
        let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
        let body = PassedBody { response, origin: self.origin.clone(), idle: self.inner.patience.idle, ask };
        Ok(PassedOn { status, headers, body })
    }

    /// Connects to a host for a client's tunnel.
    pub async fn tunnel(&self, host: &str, port: u16) -> Result<TcpStream, OriginError> {
        let name = host.trim_start_matches('[').trim_end_matches(']');
        let place = Place { registry: format!("{host}:{port}"), repository: None };
        let refuse = |reason: &str| OriginError::NotAllowed { place: place.clone(), reason: reason.into() };
        let unreachable = |reason: String| {
            let host = place.registry.clone();
            OriginError::Unreachable { place: place.clone(), host, cause: Cause::Silent, reason }
        };
        let reach = self.inner.hosts.tunnel(host, port, &self.inner.connect_ports);
        let reach = reach.ok_or_else(|| refuse(NOT_LISTED))?;
        let connect = self.inner.patience.connect;
        let found = timeout(connect, lookup_host((name, port))).await;
        let found = found.map_err(|_| unreachable("its name is not resolved in time".into()))?;
        let all: Vec<SocketAddr> = found.map_err(|error| unreachable(error.to_string()))?.collect();
        let allowed = |address: &&SocketAddr| reach == Reach::Anywhere || is_public(address.ip());
        let mut last = None;
        for address in all.iter().filter(allowed).take(4) {
            match timeout(connect, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = Some(error.to_string()),
                Err(_) => last = Some(format!("no connection within {} s", connect.as_secs_f32())),
            }
        }
        Err(last.map_or_else(|| refuse(NOT_PUBLIC_HOST), unreachable))
    }

    /// Sends, follows redirects, and sends again where that may help.
    async fn send(&self, ask: &Ask<'_>, url: &Url, welcome: &[StatusCode]) -> Result<Response, OriginError> {
        match timeout(HEAD, self.send_with_retries(ask, url, welcome)).await {
            Ok(outcome) => outcome,
            Err(_) => {
                self.inner.breaker.failed(&server(url), Cause::Silent);
                Err(ask.unreachable(url, format!("no answer within {} s", HEAD.as_secs())))
            }
        }
    }

    async fn send_with_retries(
        &self,
        ask: &Ask<'_>,
        url: &Url,
        welcome: &[StatusCode],
    ) -> Result<Response, OriginError> {
        let patience = self.inner.patience;
        let mut attempt = 1;
        loop {
            let mut at = url.clone();
            let (error, after) = match self.attempt(ask, &mut at, welcome, attempt == 1).await {
                Ok(response) => return Ok(response),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Again { error, after }) => (error, after),
            };
            if attempt >= patience.attempts || after.is_some_and(|wait| wait > patience.backoff_limit) {
                // The server that was asked, or one that it led to.
                if let OriginError::Unreachable { cause: Cause::Silent, .. } = &error {
                    self.inner.breaker.failed(&server(&at), Cause::Silent);
                }
                return Err(error);
            }
            let wait = after.unwrap_or_default().max(patience.backoff_before(attempt));
            tracing::debug!(%error, attempt, ?wait, "trying the web server again");
            sleep(wait).await;
            attempt += 1;
        }
    }

    /// One attempt, which goes on to where `url` is redirected; the `first` leaves servers alone that did not answer
    /// lately.
    async fn attempt(
        &self,
        ask: &Ask<'_>,
        url: &mut Url,
        welcome: &[StatusCode],
        first: bool,
    ) -> Result<Response, Failure> {
        let first_byte = self.inner.patience.connect + self.inner.patience.first_byte;
        for hop in 0..=REDIRECTS {
            let client = self.client(url, hop > 0)?;
            if first && let Some((left, cause)) = self.inner.breaker.left(&server(url), true) {
                return Err(ask.left_alone(url, left, cause).into());
            }
            let request = client.request(ask.method.clone(), url.clone()).headers(ask.headers.clone());
            let request = request.header(header::VIA, self.inner.via.clone());
            let response = match timeout(first_byte, request.send()).await {
                Ok(Ok(response)) => response,
                Ok(Err(error)) => {
                    let error = ask.failed(url, reason(&error));
                    let again = error.is_transient();
                    return Err(if again { Failure::Again { error, after: None } } else { error.into() });
                }
                Err(_) => {
                    let error = ask.unreachable(url, "no answer in time".into());
                    return Err(Failure::Again { error, after: None });
                }
            };
            self.inner.breaker.answered(&server(url));
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return verdict(ask, response, welcome);
            }
            *url = redirect(url, response.headers()).map_err(|reason| ask.invalid(reason))?;
        }
        Err(ask.invalid(format!("more than {REDIRECTS} redirects")).into())
    }

    /// Whom to ask with. Where a listed server redirects to one that is not, that one has to be in the public internet.
    fn client(&self, url: &Url, redirected: bool) -> Result<&reqwest::Client, OriginError> {
        let inner = &self.inner;
        let base =
            inner.bases.iter().find(|(base, _)| same_origin(base, url) && (redirected || below(base, url)));
        if let Some((_, client)) = base {
            return Ok(client);
        }
        let refuse = |reason: &str| OriginError::NotAllowed { place: place(url), reason: reason.into() };
        let reach = match inner.hosts.reach(url) {
            Some(reach) => reach,
            None if redirected => Reach::Public,
            None => return Err(refuse(NOT_LISTED)),
        };
        if reach == Reach::Anywhere {
            return Ok(&inner.anywhere);
        }
        // Names are looked at when they are resolved.
        if literal(url).is_some_and(|address| !is_public(address)) {
            return Err(refuse(NOT_PUBLIC_HOST));
        }
        Ok(&inner.public)
    }
}

/// Why a host is not asked.
const NOT_LISTED: &str = "it is not among `hosts` or `private_hosts` of [proxy], nor at this port";
const NOT_PUBLIC_HOST: &str =
    "its address is this host's own or not of the public internet: list it among `private_hosts` of [proxy]";

/// Whether a URL lies below another, whose path ends with a slash.
pub fn below(base: &Url, url: &Url) -> bool {
    same_origin(base, url) && url.path().starts_with(base.path())
}

/// A server's answer to a request that was passed on.
#[derive(Debug)]
pub struct PassedOn {
    /// As it came.
    pub status: StatusCode,
    /// As they came, those about the connection too.
    pub headers: HeaderMap,
    /// The body as it comes.
    pub body: PassedBody,
}

/// The body of an answer that is passed on.
#[derive(Debug)]
pub struct PassedBody {
    response: Response,
    origin: Origin,
    idle: Duration,
    ask: Ask<'static>,
}

impl PassedBody {
    /// The next bytes, or none at the end.
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>, OriginError> {
        let url = self.response.url().clone();
        match timeout(self.idle, self.response.chunk()).await {
            Ok(Ok(chunk)) => {
                self.origin.count(chunk.as_ref().map_or(0, Bytes::len));
                Ok(chunk)
            }
            Ok(Err(error)) => Err(self.ask.unreachable(&url, reason(&error))),
            Err(_) => Err(self.ask.unreachable(&url, "the answer stopped".into())),
        }
    }
}

/// Which version of a file is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Version {
    /// Whoever takes the bytes holds them against a digest.
    Verified,
    /// Whichever the server gives first.
    Unknown,
    /// The one with this [`FileHead::validator`].
    Like(Option<HeaderValue>),
}

/// A name that is hardly anybody else's.
fn pseudonym() -> HeaderValue {
    let name = format!("1.1 longshore-{:016x}", rand::random::<u64>());
    HeaderValue::from_str(&name).unwrap_or(HeaderValue::from_static("1.1 longshore"))
}

/// Opens a file, again and again where it breaks.
#[derive(Debug)]
pub(crate) struct FileOpener {
    pub(crate) web: Web,
    pub(crate) url: Url,
    /// Whether somebody holds the bytes against a digest.
    verified: bool,
    /// What tells this version of the file from others, once it was opened.
    validator: Option<Option<HeaderValue>>,
}

impl FileOpener {
    pub(crate) async fn open(
        &mut self,
        from: u64,
        known: Option<u64>,
    ) -> Result<crate::blob::Opened, OriginError> {
        let mut ask = ask(&self.url, Method::GET);
        if from > 0 {
            ask.range_from(from)?;
        }
        let response = self.web.send(&ask, &self.url, &[StatusCode::RANGE_NOT_SATISFIABLE]).await?;
        let said = validator(response.headers());
        match &self.validator {
            Some(before) if !self.verified && (said.is_none() || *before != said) => {
                return Err(ask.invalid("it broke, and is not known to be the same now".into()));
            }
            _ => self.validator = Some(said),
        }
        crate::blob::opened(&ask, response, from, known)
    }

    pub(crate) fn origin(&self) -> &Origin {
        &self.web.origin
    }

    pub(crate) fn patience(&self) -> &Patience {
        &self.web.inner.patience
    }

    pub(crate) fn ask(&self) -> Ask<'static> {
        ask(&self.url, Method::GET)
    }
}

/// Scheme, host and port: what does not speak TLS at a port may well speak plain HTTP there.
fn server(url: &Url) -> String {
    url.origin().ascii_serialization()
}

fn validator(headers: &HeaderMap) -> Option<HeaderValue> {
    [header::ETAG, header::LAST_MODIFIED].iter().find_map(|name| headers.get(name)).cloned()
}

fn place(url: &Url) -> Place {
    Place::from(&Home::Web(url.clone()))
}

fn ask(url: &Url, method: Method) -> Ask<'static> {
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
    let (place, what) = (place(url), format!("file {}", url.path()));
    Ask { place, what, method, path: "", query: None, headers, scope: String::new() }
}

impl Ask<'_> {
    /// How a request failed that came to no answer.
    fn failed(&self, url: &Url, reason: String) -> OriginError {
        if reason.contains(NOT_PUBLIC) {
            let place = self.place.clone();
            return OriginError::NotAllowed { place, reason: NOT_PUBLIC_HOST.to_owned() };
        }
        self.unreachable(url, reason)
    }
}

/// Headers about one connection, and not for who comes behind it (RFC 9110 section 7.6.1): those, and what
/// `Connection` names.
pub fn strip_connection(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let always = [
        header::CONNECTION,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
        HeaderName::from_static("http2-settings"),
    ];
    for name in named.into_iter().chain(always) {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_about_one_connection_goes_no_further() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "Upgrade, HTTP2-Settings, X-Mine"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAM"),
            ("x-mine", "1"),
            ("proxy-connection", "Keep-Alive"),
            ("proxy-authorization", "Basic eA=="),
            ("transfer-encoding", "chunked"),
            ("accept", "*/*"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        strip_connection(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["accept"]);
    }

    #[test]
    fn a_base_is_a_folder_of_one_server() {
        let base = Url::parse("http://a.test/repo/").expect("a URL");
        let is_below = |url: &str| below(&base, &Url::parse(url).expect("a URL"));
        assert!(is_below("http://a.test/repo/config") && is_below("http://a.test:80/repo/"));
        for url in [
            "http://a.test/repo2/x",
            "http://a.test/repo/../x",
            "https://a.test/repo/x",
            "http://b.test/repo/",
        ] {
            assert!(!is_below(url), "{url}");
        }
    }

    #[test]
    fn only_a_strong_etag_stands_for_bytes() {
        let etag = |text: &'static str| {
            let headers = HeaderMap::from_iter([(header::ETAG, HeaderValue::from_static(text))]);
            FileHead::of(headers).strong_etag().is_some()
        };
        assert!(etag("\"a\"") && !etag("W/\"a\"") && !etag("a") && !etag("\"\""));
    }
}
