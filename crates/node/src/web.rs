//! What is asked of the web: which blob it is, where it is one, and else what the server answers.
//!
//! Only what anybody would be given is kept: a request that shows rights, or a body, is passed on.

mod document;

use std::sync::Arc;

use api::directory::Tag;
use base64::Engine as _;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use hash::Digest;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use mirror::{BlobStream, ContentError, Located, Passed, WebRequest, WebTarget};
use origin::{Home, strip_connection};
use ostree::File;
use percent_encoding::percent_decode_str;
use tokio::net::TcpStream;
use url::Url;

use crate::{
    access::is_refusal,
    content::{Inner, count},
    draw::Draw,
    flight::FetchError,
    meant::{Meant, is_for_all},
    site::{Repository, Rule, Seen},
};

impl Inner {
    /// What a request of the web is answered with.
    pub(crate) async fn locate(self: &Arc<Self>, request: WebRequest) -> Result<Located, ContentError> {
        if self.web.has_passed(&request.headers) {
            let why = "the request comes from this node itself: it goes in a circle";
            return Err(ContentError::Denied(why.to_owned()));
        }
        match &request.target {
            WebTarget::Ostree(name, path) => {
                let repository = self.sites.named(name).ok_or(ContentError::NotFound)?.clone();
                reads_only(&request)?;
                let (path, file) = file_of(path).ok_or(ContentError::NotFound)?;
                self.ostree(request, &repository, &path, file).await
            }
            WebTarget::Absolute(uri) => {
                if !self.sites.proxy {
                    let why = "this port is no proxy: set `enabled` under [proxy]";
                    return Err(ContentError::Denied(why.to_owned()));
                }
                let url = absolute(&uri.to_string())?;
                if let Some(repository) = self.sites.around(&url).cloned() {
                    reads_only(&request)?;
                    let path = url.path().get(repository.base.path().len()..).unwrap_or_default();
                    return match file_of(path).filter(|_| url.query().is_none()) {
                        Some((path, file)) => self.ostree(request, &repository, &path, file).await,
                        None => self.pass_on(request, &url).await,
                    };
                }
                self.web.allows(&url)?;
                if let Some((rule, digest)) = self.sites.rule(&url).filter(|_| is_plain(&request)) {
                    let rule = rule.clone();
                    return self.ruled(request, &url, &rule, digest).await;
                }
                match self.sites.found(&url) {
                    Some((repository, path, file)) => self.ostree(request, &repository, &path, file).await,
                    None => self.pass_on(request, &url).await,
                }
            }
        }
    }

    /// A connection for a tunnel.
    pub(crate) async fn tunnel(&self, host: &str, port: u16) -> Result<TcpStream, ContentError> {
        if !self.sites.proxy {
            let why = "this port is no proxy: set `enabled` under [proxy]";
            return Err(ContentError::Denied(why.to_owned()));
        }
        Ok(self.web.tunnel(host, port).await?)
    }

    async fn ostree(
        self: &Arc<Self>,
        request: WebRequest,
        repository: &Repository,
        path: &str,
        file: File,
    ) -> Result<Located, ContentError> {
        let url = repository.url(path);
        if !is_plain(&request) {
            return self.pass_on(request, &url).await;
        }
        match file {
            File::Object(digest) => Ok(blob(url, digest)),
            File::Part { superblock, number } => {
                match self.part(repository, &superblock, number).await {
                    Some(digest) => Ok(blob(url, digest)),
                    // What the superblock does not say is known by its URL; OSTree will judge it.
                    None => self.by_url(request, Meant::fixed(url)).await,
                }
            }
            File::Content(name) => self.by_url(request, Meant::object(url, name)).await,
            File::Config => self.document(request, &url, repository.stale, false).await,
            File::Optional => self.document(request, &url, repository.stale, true).await,
            File::Other => self.pass_on(request, &url).await,
        }
    }

    /// A file whose digest nobody says, until it has come once.
    async fn by_url(self: &Arc<Self>, request: WebRequest, meant: Meant) -> Result<Located, ContentError> {
        let url = &meant.url;
        if let Some(seen) = self.sites.seen(&meant.key)
            && let Some((blob, _)) = self.stored(seen.digest).await?
            && blob.public
            && meant.has_length(Some(blob.size))
        {
            if seen.age >= meant.life && request.method == Method::GET {
                // This asker need not wait for it.
                self.draw(&meant);
            }
            return Ok(typed(url.clone(), seen.digest, seen.media_type));
        }
        if request.method == Method::HEAD {
            // It must not begin a transfer.
            return self.pass_on(request, url).await;
        }
        let Some(draw) = self.draw(&meant) else { return self.pass_on(request, url).await };
        let Some(drawn) = draw.begun(self.config.content.stall()).await else {
            return self.trickle(request, url, &draw).await;
        };
        match drawn.outcome {
            Some(Ok(digest)) => return Ok(typed(url.clone(), digest, drawn.media_type)),
            // The client may show what it is given for in a way that is not known here.
            Some(Err(FetchError::Origin(error))) if drawn.file.is_none() && !is_refusal(&error) => {
                return Err(error.into());
            }
            // Too new, or not to be kept: as if there were no rule for it.
            Some(Err(error)) if drawn.file.is_none() => {
                tracing::debug!(path = url.path(), %error, "passing a file on");
                return self.pass_on(request, url).await;
            }
            _ => {}
        }
        Ok(file_answer(drawn.media_type, drawn.size, draw.follow(self)))
    }

    /// A file that another node draws for long: kept alive from the server until it is known.
    async fn trickle(
        self: &Arc<Self>,
        request: WebRequest,
        url: &Url,
        draw: &Draw,
    ) -> Result<Located, ContentError> {
        match draw.trickle(self).await? {
            Some((head, size, body)) => Ok(file_answer(head.media_type, size, body)),
            None => self.pass_on(request, url).await,
        }
    }

    /// A file that a rule names.
    async fn ruled(
        self: &Arc<Self>,
        request: WebRequest,
        url: &Url,
        rule: &Rule,
        digest: Option<Digest>,
    ) -> Result<Located, ContentError> {
        if let Some(digest) = digest {
            return Ok(blob(url.clone(), digest));
        }
        let latest = format!("latest {url}");
        let head = match self.web.head(url).await {
            Ok(head) => head,
            Err(error) if error.is_transient() && rule.stale => {
                let Tag { target, age, .. } = self.known_key(&latest).await.ok_or(error)?;
                let host = url.host_str().unwrap_or_default();
                let warning = format!("{host} cannot be reached; this is what it gave {age} s ago");
                let (home, media_type) = (Home::Web(url.clone()), Some(target.media_type));
                let digest = target.digest;
                return Ok(Located::Blob { home, digest, media_type, warning: Some(warning) });
            }
            // Perhaps it takes no HEAD.
            Err(error) => {
                tracing::debug!(%error, "passing a file on that cannot be looked at");
                return self.pass_on(request, url).await;
            }
        };
        if !is_for_all(&head.headers) {
            return self.pass_on(request, url).await;
        }
        if let Some(digest) = said_digest(&head.headers, rule.header.as_ref()) {
            if rule.stale && self.sites.seen(&latest).is_none_or(|seen| seen.digest != digest) {
                let media_type = head.media_type.clone();
                self.see_latest(latest, digest, media_type, head.size);
            }
            return Ok(typed(url.clone(), digest, head.media_type));
        }
        let Some(etag) = head.strong_etag() else { return self.pass_on(request, url).await };
        if !self.has_room(head.size.unwrap_or(0)) {
            return self.pass_on(request, url).await;
        }
        let meant = Meant::version(url.clone(), etag, &head);
        if rule.stale {
            // Which version is the latest is known once its bytes are.
            let known = self.sites.seen(&meant.key);
            if let Some(seen) = known
                && self.sites.seen(&latest).is_none_or(|before| before.digest != seen.digest)
            {
                self.see_latest(latest, seen.digest, seen.media_type, head.size);
            }
        }
        self.by_url(request, meant).await
    }

    /// Remembers, here and in the fleet, what a file is for the time when its server cannot be reached.
    fn see_latest(
        self: &Arc<Self>,
        key: String,
        digest: Digest,
        media_type: Option<String>,
        size: Option<u64>,
    ) {
        self.sites.see(&key, Seen::file(digest, media_type.clone()));
        let inner = self.clone();
        self.tasks.spawn(async move {
            inner.tell_key(&key, digest, media_type, size.unwrap_or(0)).await;
        });
    }

    /// The server's own answer, which is not kept.
    async fn pass_on(self: &Arc<Self>, request: WebRequest, url: &Url) -> Result<Located, ContentError> {
        let WebRequest { method, headers, body, .. } = request;
        let is_head = method == Method::HEAD;
        let answer = self.web.pass(method, url, headers, body).await?;
        let mut headers = answer.headers;
        strip_connection(&mut headers);
        let length = headers.get(header::CONTENT_LENGTH);
        let length: Option<u64> = length.and_then(|value| value.to_str().ok()?.parse().ok());
        if !is_head {
            // One way of saying the length, and that which the body is held to.
            headers.remove(header::CONTENT_LENGTH);
            headers.extend(length.map(|length| (header::CONTENT_LENGTH, HeaderValue::from(length))));
        }
        let inner = self.clone();
        let body = stream::try_unfold((answer.body, inner), async |(mut body, inner)| {
            let chunk = body.next_chunk().await?;
            count(&inner, chunk.as_ref().map_or(0, Bytes::len));
            Ok(chunk.map(|chunk| (chunk, (body, inner))))
        });
        let body = if is_head { stream::empty().boxed() } else { body.boxed() };
        Ok(Located::Passed(Passed { status: answer.status, headers, warning: None, length, body }))
    }
}

/// An answer with a file that is on its way.
fn file_answer(media_type: Option<String>, length: Option<u64>, body: BlobStream) -> Located {
    let media_type = media_type.and_then(|name| HeaderValue::from_str(&name).ok());
    let media_type = media_type.unwrap_or(HeaderValue::from_static("application/octet-stream"));
    let mut headers = HeaderMap::from_iter([(header::CONTENT_TYPE, media_type)]);
    headers.extend(length.map(|length| (header::CONTENT_LENGTH, HeaderValue::from(length))));
    Located::Passed(Passed { status: StatusCode::OK, headers, warning: None, length, body })
}

fn blob(url: Url, digest: Digest) -> Located {
    typed(url, digest, None)
}

fn typed(url: Url, digest: Digest, media_type: Option<String>) -> Located {
    Located::Blob { home: Home::Web(url), digest, media_type, warning: None }
}

/// Whether a request is what anybody might ask, and its answer what anybody might be given.
fn is_plain(request: &WebRequest) -> bool {
    let shows = [header::AUTHORIZATION, header::COOKIE].iter().any(|name| request.headers.contains_key(name));
    matches!(request.method, Method::GET | Method::HEAD) && request.body.is_none() && !shows
}

/// Nobody writes into a repository by HTTP, and its server may have any address.
fn reads_only(request: &WebRequest) -> Result<(), ContentError> {
    let reads = matches!(request.method, Method::GET | Method::HEAD) && request.body.is_none();
    let why = "a repository of [[ostree]] is for reading: GET and HEAD without a body";
    if reads { Ok(()) } else { Err(ContentError::Denied(why.to_owned())) }
}

/// The path below a repository in its one form, and what it is.
fn file_of(path: &str) -> Option<(String, File)> {
    let path = percent_decode_str(path).decode_utf8().ok()?.into_owned();
    let file = File::of(&path).ok()?;
    Some((path, file))
}

fn absolute(uri: &str) -> Result<Url, ContentError> {
    let refuse = |why: &str| ContentError::Denied(why.to_owned());
    let url = Url::parse(uri).map_err(|_| refuse("that is no URL"))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(refuse("only http and https are known"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refuse("user and password are not passed on in a URL"));
    }
    Ok(url)
}

/// The SHA-256 that a server says of a file: in the header that the rule names, in `Repr-Digest` (RFC 9530), `Digest`
/// (RFC 3230), or `X-Checksum-Sha256`.
fn said_digest(headers: &HeaderMap, named: Option<&HeaderName>) -> Option<Digest> {
    let text = |name: &HeaderName| headers.get(name)?.to_str().ok().map(str::trim);
    let hex = |name: &HeaderName| Digest::from_hex(text(name)?).ok();
    let binary = |name: &HeaderName| {
        let values = text(name)?.split(',');
        values.into_iter().find_map(|value| {
            let (algorithm, value) = value.trim().split_once('=')?;
            let value = value.trim().trim_matches(':');
            algorithm.eq_ignore_ascii_case("sha-256").then_some(())?;
            let bytes = base64::engine::general_purpose::STANDARD.decode(value).ok()?;
            Some(Digest::from_bytes(bytes.try_into().ok()?))
        })
    };
    named
        .and_then(hex)
        .or_else(|| binary(&HeaderName::from_static("repr-digest")))
        .or_else(|| binary(&HeaderName::from_static("digest")))
        .or_else(|| hex(&HeaderName::from_static("x-checksum-sha256")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn said(name: &'static str, value: &str, named: Option<&'static str>) -> Option<Digest> {
        let value = HeaderValue::from_str(value).expect("a value");
        let headers = HeaderMap::from_iter([(HeaderName::from_static(name), value)]);
        said_digest(&headers, named.map(HeaderName::from_static).as_ref())
    }

    #[test]
    fn a_digest_is_read_from_what_servers_say() {
        let digest = Digest::of(b"x");
        let base64 = base64::engine::general_purpose::STANDARD.encode(digest.as_bytes());
        assert_eq!(said("repr-digest", &format!("sha-512=:AA==:, sha-256=:{base64}:"), None), Some(digest));
        assert_eq!(said("digest", &format!("SHA-256={base64}"), None), Some(digest));
        assert_eq!(said("x-checksum-sha256", &digest.hex(), None), Some(digest));
        assert_eq!(said("x-mine", &digest.hex(), Some("x-mine")), Some(digest));
        assert_eq!(said("x-mine", &digest.hex(), None), None);
        assert_eq!(said("digest", "SHA-256=AAAA", None), None);
        assert_eq!(said("digest", &format!("MD5={base64}"), None), None);
    }

    #[test]
    fn what_shows_rights_or_brings_a_body_is_not_kept() {
        let request = |method, header: Option<HeaderName>| {
            let value = HeaderValue::from_static("x");
            let headers = header.map(|name| (name, value)).into_iter().collect();
            let target = WebTarget::Ostree("a".into(), "b".into());
            is_plain(&WebRequest { method, target, headers, body: None })
        };
        assert!(request(Method::GET, None) && request(Method::HEAD, Some(header::ACCEPT)));
        assert!(!request(Method::GET, Some(header::AUTHORIZATION)));
        assert!(!request(Method::GET, Some(header::COOKIE)));
        assert!(!request(Method::POST, None));
    }

    #[test]
    fn an_escaped_path_is_looked_at_as_what_it_means() {
        assert!(
            matches!(file_of("refs/heads/a%2Bb"), Some((path, File::Optional)) if path == "refs/heads/a+b")
        );
        assert!(file_of("refs/%2e%2e/x").is_none());
        assert!(file_of("refs/heads/%ff").is_none());
    }

    proptest! {
        #[test]
        fn any_header_holds_a_digest_or_none(value in "[ -~]{0,80}|sha-256=:[A-Za-z0-9+/=]{40,48}:") {
            for name in ["repr-digest", "digest", "x-checksum-sha256"] {
                let _ = said(name, &value, None);
            }
        }

        #[test]
        fn any_url_is_refused_or_leads_to_a_host(text in "\\PC{0,40}|https?://[a-z@:/?#.%]{0,30}") {
            if let Ok(url) = absolute(&text) {
                prop_assert!(url.has_host() && url.username().is_empty());
            }
        }
    }
}
