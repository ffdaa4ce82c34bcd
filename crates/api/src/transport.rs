//! One HTTP request with a deadline, and its answer as JSON or as a typed error.

use std::{error::Error as _, io, time::Duration};

use bytes::{Bytes, BytesMut};
use reqwest::{Method, RequestBuilder, Response, StatusCode, header};
use serde::{Serialize, de::DeserializeOwned};
use url::Url;

use crate::{CallError, ClientError, ErrorBody};

/// The longest answer that is read, in bytes. The largest by right is an entry of the directory.
pub const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// How long a connection may take to open. Trackers and nodes are in the same network.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Where requests go and with what token.
#[derive(Clone)]
pub(crate) struct Transport {
    http: reqwest::Client,
    token: Option<header::HeaderValue>,
}

/// How a transport connects.
pub(crate) enum Connect<'a> {
    /// To the URL's host and port.
    Tcp {
        /// Whether any URL is `https`: only then are the system's certificates read.
        tls: bool,
    },
    /// To a unix socket, whatever the URL's host.
    #[cfg_attr(not(unix), allow(dead_code, reason = "there are no unix sockets elsewhere"))]
    Unix(&'a std::path::Path),
}

impl Transport {
    pub(crate) fn new(connect: &Connect<'_>, token: Option<&str>) -> Result<Self, ClientError> {
        // reqwest without a built-in provider takes the process's. Whoever installed one first wins,
        // and any does.
        let _ = rustls::crypto::ring::default_provider().install_default();
        // A proxy from the environment is for the internet; it may even be this node. A redirect
        // would carry the token elsewhere.
        let builder = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_max_idle_per_host(8);
        // Without https no certificates are needed, and a host that has none must not be turned away.
        let builder = match connect {
            Connect::Tcp { tls: true } => builder,
            Connect::Tcp { tls: false } => builder.tls_certs_only([]),
            #[cfg(unix)]
            Connect::Unix(path) => builder.tls_certs_only([]).unix_socket(*path),
            #[cfg(not(unix))]
            Connect::Unix(_) => builder,
        };
        let token = match token {
            None => None,
            Some(token) => {
                let mut value = header::HeaderValue::from_str(&format!("Bearer {token}"))
                    .map_err(|_| ClientError::BadToken)?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        Ok(Self { http: builder.build().map_err(ClientError::Setup)?, token })
    }

    /// Sends `body` (if any) and reads the whole answer as JSON. `None` is a 404.
    pub(crate) async fn json<B: Serialize + Sync, T: DeserializeOwned>(
        &self,
        method: Method,
        url: Url,
        body: Option<&B>,
        deadline: Duration,
    ) -> Result<Option<T>, CallError> {
        let shown = shown(&url);
        let Some(answer) = self.bytes(method, url, body, deadline).await? else { return Ok(None) };
        // 204 has no body; for the callers that expect `()` it stands for null.
        let answer = if answer.is_empty() { b"null".as_slice() } else { answer.as_ref() };
        serde_json::from_slice(answer)
            .map(Some)
            .map_err(|error| CallError::BadAnswer { url: shown, reason: error.to_string() })
    }

    /// Sends `body` (if any) and reads the whole answer. `None` is a 404.
    pub(crate) async fn bytes<B: Serialize + Sync>(
        &self,
        method: Method,
        url: Url,
        body: Option<&B>,
        deadline: Duration,
    ) -> Result<Option<Bytes>, CallError> {
        self.bytes_of(method, url, body, deadline, StatusCode::is_success).await
    }

    /// The same, where the answer's status must be one of `good`.
    pub(crate) async fn bytes_of<B: Serialize + Sync>(
        &self,
        method: Method,
        url: Url,
        body: Option<&B>,
        deadline: Duration,
        good: impl Fn(&StatusCode) -> bool,
    ) -> Result<Option<Bytes>, CallError> {
        let shown = shown(&url);
        let call = async {
            let response = self.send(method, url, body, &shown).await?;
            whole(response, &shown, good).await
        };
        match tokio::time::timeout(deadline, call).await {
            Ok(outcome) => outcome,
            Err(_) => Err(CallError::TimedOut { url: shown.clone(), after: deadline }),
        }
    }

    /// Sends a torrent file and reads the whole answer as JSON. `None` is a 404.
    pub(crate) async fn upload<T: DeserializeOwned>(
        &self,
        url: Url,
        file: Bytes,
        deadline: Duration,
    ) -> Result<Option<T>, CallError> {
        let shown = shown(&url);
        let request =
            self.request(Method::POST, url).header(header::CONTENT_TYPE, "application/x-bittorrent");
        let call = async {
            let response = request.body(file).send().await.map_err(|error| unreachable(&shown, &error))?;
            whole(response, &shown, StatusCode::is_success).await
        };
        let answer = match tokio::time::timeout(deadline, call).await {
            Ok(outcome) => outcome?,
            Err(_) => return Err(CallError::TimedOut { url: shown, after: deadline }),
        };
        let parsed = answer.map(|answer| serde_json::from_slice(&answer)).transpose();
        parsed.map_err(|error| CallError::BadAnswer { url: shown, reason: error.to_string() })
    }

    /// Sends `body` and gives the response once its head is there; the body is the caller's to read.
    pub(crate) async fn open<B: Serialize + Sync>(
        &self,
        method: Method,
        url: Url,
        body: Option<&B>,
        deadline: Duration,
    ) -> Result<(Response, String), CallError> {
        let shown = shown(&url);
        let call = async {
            let mut response = self.send(method, url, body, &shown).await?;
            let status = response.status();
            if status.is_success() {
                return Ok(response);
            }
            let body = read(&mut response, &shown).await?;
            Err(failure(&shown, status, &body))
        };
        match tokio::time::timeout(deadline, call).await {
            Ok(outcome) => outcome.map(|response| (response, shown.clone())),
            Err(_) => Err(CallError::TimedOut { url: shown.clone(), after: deadline }),
        }
    }

    async fn send<B: Serialize + Sync>(
        &self,
        method: Method,
        url: Url,
        body: Option<&B>,
        shown: &str,
    ) -> Result<Response, CallError> {
        let mut request = self.request(method, url);
        if let Some(body) = body {
            request = request.json(body);
        }
        request.send().await.map_err(|error| unreachable(shown, &error))
    }

    fn request(&self, method: Method, mut url: Url) -> RequestBuilder {
        if self.token.is_some() {
            // A user in the address would become a second `Authorization`.
            let _ = url.set_username("");
            let _ = url.set_password(None);
        }
        let request = self.http.request(method, url);
        match &self.token {
            Some(token) => request.header(header::AUTHORIZATION, token),
            None => request,
        }
    }
}

/// The whole body of an answer whose status is one of `good`. `None` is a 404.
async fn whole(
    mut response: Response,
    shown: &str,
    good: impl Fn(&StatusCode) -> bool,
) -> Result<Option<Bytes>, CallError> {
    let status = response.status();
    let body = read(&mut response, shown).await?;
    if good(&status) {
        Ok(Some(body))
    } else if status == StatusCode::NOT_FOUND {
        Ok(None)
    } else {
        Err(failure(shown, status, &body))
    }
}

/// Appends path segments, escaped, to a base address that may itself have a path.
pub(crate) fn join(base: &Url, segments: &[&str]) -> Url {
    let mut url = base.clone();
    // Only an address that cannot be a base fails here, and those are refused when a client is made.
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(segments);
    }
    url
}

/// An `http` or `https` address.
pub(crate) fn parse_base(text: &str) -> Result<Url, ClientError> {
    let bad = |reason: String| ClientError::BadAddress { url: text.to_owned(), reason };
    let url = Url::parse(text).map_err(|error| bad(error.to_string()))?;
    match url.scheme() {
        "http" | "https" if url.has_host() => Ok(url),
        other => Err(bad(format!("its scheme is `{other}`"))),
    }
}

pub(crate) fn unreachable(url: &str, error: &reqwest::Error) -> CallError {
    // reqwest's own words stop at "error sending request"; the cause is further down.
    let (mut reason, mut forbidden) = (None, false);
    let mut source = error.source();
    while let Some(cause) = source {
        reason = Some(cause.to_string());
        let system = cause.downcast_ref::<io::Error>();
        forbidden |= system.is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied);
        source = cause.source();
    }
    let (url, reason) = (url.to_owned(), reason.unwrap_or_else(|| error.to_string()));
    if forbidden { CallError::NotAllowed { url, reason } } else { CallError::Unreachable { url, reason } }
}

async fn read(response: &mut Response, url: &str) -> Result<Bytes, CallError> {
    let mut whole = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| unreachable(url, &error))? {
        if whole.len() + chunk.len() > MAX_ANSWER {
            let reason = format!("it is longer than {MAX_ANSWER} bytes");
            return Err(CallError::BadAnswer { url: url.to_owned(), reason });
        }
        whole.extend_from_slice(&chunk);
    }
    Ok(whole.freeze())
}

fn failure(url: &str, status: StatusCode, body: &[u8]) -> CallError {
    let reason = match serde_json::from_slice::<ErrorBody>(body) {
        Ok(body) => body.error,
        Err(_) => String::from_utf8_lossy(body.get(..200).unwrap_or(body)).trim().to_owned(),
    };
    let (url, code) = (url.to_owned(), status.as_u16());
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => CallError::Refused { url, status: code, reason },
        StatusCode::TOO_MANY_REQUESTS => CallError::Unavailable { url, status: code, reason },
        _ if status.is_client_error() => CallError::Rejected { url, status: code, reason },
        _ if status.is_server_error() => CallError::Unavailable { url, status: code, reason },
        _ => CallError::BadAnswer { url, reason: format!("unexpected status {status}") },
    }
}

/// The address for messages: what may hold a secret (user, password, query) is left out.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.to_string()
}
