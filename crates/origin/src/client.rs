//! One request to a registry: token, redirects, deadlines, retries.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use reqwest::Response;
use serde::Deserialize;
use tokio::time::{Instant, sleep, timeout};
use url::Url;

use crate::{
    Challenge, Endpoint, OriginConfig, OriginError, Patience, Place, Rights, Secret, UpstreamError,
    Upstreams,
    address::is_public,
    breaker::Breaker,
    cache::TokenCache,
    login::{Identity, Login},
    parse_challenges,
    tls::{self, NOT_PUBLIC, Reach},
};

/// How many redirects are followed for one request.
const REDIRECTS: usize = 5;
/// How often what is answered with 429 is asked for.
const THROTTLED: u32 = 2;
/// Largest answer of a token service.
const TOKEN_LIMIT: usize = 256 * 1024;
/// The life of a token whose service does not say, by the token spec.
const TOKEN_LIFE: Duration = Duration::from_secs(60);
/// The longest a token is believed to live, whatever its service says.
const TOKEN_LIFE_LIMIT: Duration = Duration::from_secs(3600);

/// A client of all registries. Cheap to clone; clones share connections and tokens.
#[derive(Debug, Clone)]
pub struct Origin {
    inner: Arc<Inner>,
    rights: Rights,
}

#[derive(Debug)]
struct Inner {
    upstreams: Upstreams,
    patience: Patience,
    tokens: TokenCache,
    breaker: Breaker,
    /// For listed registries without a CA file of their own.
    plain: reqwest::Client,
    /// For registries that are not listed.
    public: reqwest::Client,
    /// By CA file; made at the start, so a bad file is found then.
    with_ca: HashMap<PathBuf, reqwest::Client>,
    /// Registries that were seen to speak `Basic`, so that later requests need no second try.
    basic: Mutex<HashSet<String>>,
    /// Body bytes that have come, of use or not.
    received: AtomicU64,
}

/// What to ask for, in one registry.
#[derive(Debug)]
pub(crate) struct Ask<'a> {
    pub(crate) place: Place,
    /// For errors: `manifest 1.2`, `blob sha256:…`.
    pub(crate) what: String,
    pub(crate) method: Method,
    pub(crate) path: &'a str,
    pub(crate) query: Option<&'a str>,
    pub(crate) headers: HeaderMap,
    /// `repository:NAME:pull`, or what else a token must allow.
    pub(crate) scope: String,
}

/// How one attempt failed, and whether another may help.
pub(crate) enum Failure {
    Final(OriginError),
    Again { error: OriginError, after: Option<Duration> },
}

impl From<OriginError> for Failure {
    fn from(error: OriginError) -> Self {
        Self::Final(error)
    }
}

impl Origin {
    /// Checks the configuration, reads password and CA files, and asks nobody yet.
    pub fn new(config: &OriginConfig) -> Result<Self, UpstreamError> {
        let upstreams = Upstreams::new(&config.upstreams, config.unlisted)?;
        let patience = config.patience;
        let refuse = |registry: &str, reason| UpstreamError::Tls { registry: registry.to_owned(), reason };
        let mut with_ca = HashMap::new();
        for (registry, endpoint) in upstreams.iter() {
            if let Some(ca) = &endpoint.ca {
                let client = tls::client(Some(ca), Reach::Anywhere, &patience);
                with_ca.insert(ca.clone(), client.map_err(|e| refuse(registry, e))?);
            }
        }
        let [plain, public] =
            [Reach::Anywhere, Reach::Public].map(|reach| tls::client(None, reach, &patience));
        let (plain, public) = (plain.map_err(|e| refuse("any", e))?, public.map_err(|e| refuse("any", e))?);
        let (tokens, basic) = (TokenCache::default(), Mutex::default());
        let (breaker, received) = (Breaker::default(), AtomicU64::new(0));
        let inner = Inner { upstreams, patience, tokens, breaker, plain, public, with_ca, basic, received };
        Ok(Self { inner: Arc::new(inner), rights: Rights::Own })
    }

    /// The same, asking with these rights.
    #[must_use]
    pub fn with_rights(&self, rights: Rights) -> Self {
        Self { inner: self.inner.clone(), rights }
    }

    /// With whose rights it asks.
    pub fn rights(&self) -> &Rights {
        &self.rights
    }

    /// Where and how a registry is asked for a repository, if the configuration lets it be.
    pub fn endpoint(&self, place: &Place) -> Result<Endpoint, OriginError> {
        let refuse =
            |reason: &str| OriginError::NotAllowed { place: place.clone(), reason: reason.to_owned() };
        let endpoint = self.inner.upstreams.endpoint(&place.registry)?.ok_or_else(|| {
            refuse("only the registries listed under [[origin.upstreams]] are, since `unlisted` is false")
        })?;
        if place.repository.as_ref().is_some_and(|repository| !endpoint.allows(repository)) {
            return Err(refuse("`repositories` of this upstream does not name it"));
        }
        Ok(endpoint)
    }

    /// The table of registries, for whoever decides which of them may be asked.
    pub fn upstreams(&self) -> &Upstreams {
        &self.inner.upstreams
    }

    /// What a registry asks of those who show nothing: its `WWW-Authenticate`; none where it asks for nothing.
    pub async fn challenge(&self, registry: &str) -> Result<Option<String>, OriginError> {
        let place = Place { registry: registry.to_owned(), repository: None };
        let endpoint = self.endpoint(&place)?;
        let (what, headers, scope) = ("ping".to_owned(), HeaderMap::new(), String::new());
        let ask = Ask { place, what, method: Method::GET, path: "/v2/", query: None, headers, scope };
        match self.send_following(&ask, &endpoint, None).await {
            Ok(response) if response.status() == StatusCode::UNAUTHORIZED => Ok(challenge_header(&response)),
            Ok(_) => Ok(None),
            Err(Failure::Final(error) | Failure::Again { error, .. }) => Err(error),
        }
    }

    /// Bytes of manifests, blobs and whatever else that registries have sent since the start, whether or not they were
    /// of use.
    pub fn received(&self) -> u64 {
        self.inner.received.load(Ordering::Relaxed)
    }

    pub(crate) fn count(&self, bytes: usize) {
        self.inner.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn patience(&self) -> &Patience {
        &self.inner.patience
    }

    /// Sends, and sends again where that may help, until an answer with a success status comes: 2xx, or one of
    /// `welcome`. The body is not read.
    pub(crate) async fn send(&self, ask: &Ask<'_>, welcome: &[StatusCode]) -> Result<Response, OriginError> {
        let (head, endpoint) = (self.patience().head, self.endpoint(&ask.place)?);
        let (breaker, registry) = (&self.inner.breaker, &ask.place.registry);
        if let Some(left) = breaker.left(registry) {
            return Err(ask.left_alone(&endpoint.base, left));
        }
        let outcome = match timeout(head, self.send_with_retries(ask, welcome)).await {
            Ok(outcome) => outcome,
            Err(_) => {
                Err(ask.unreachable(&endpoint.base, format!("no answer within {} s", head.as_secs_f32())))
            }
        };
        if outcome.is_ok() || !ask.is_list() {
            breaker.note(registry, &outcome);
        }
        outcome
    }

    /// Sends and reads the whole answer, of at most `limit` bytes; starts over when it breaks on the way.
    pub(crate) async fn document(
        &self,
        ask: &Ask<'_>,
        limit: usize,
    ) -> Result<(HeaderMap, Bytes), OriginError> {
        let begun = Instant::now();
        let mut attempt = 1;
        loop {
            let mut response = self.send(ask, &[]).await?;
            let headers = std::mem::take(response.headers_mut());
            match self.read_document(ask, response, limit).await {
                Ok(bytes) => return Ok((headers, bytes)),
                Err(error)
                    if !error.is_transient()
                        || attempt >= self.patience().attempts
                        || begun.elapsed() >= self.patience().head =>
                {
                    return Err(error);
                }
                Err(error) => {
                    tracing::debug!(%error, attempt, "asking for a broken answer again");
                    sleep(self.patience().backoff_before(attempt)).await;
                    attempt += 1;
                }
            }
        }
    }

    /// The whole body, bounded in size and time.
    pub(crate) async fn read_document(
        &self,
        ask: &Ask<'_>,
        response: Response,
        limit: usize,
    ) -> Result<Bytes, OriginError> {
        let url = response.url().clone();
        match timeout(self.patience().document, self.read_bounded(ask, response, limit)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(ask.unreachable(&url, "the answer takes too long".into())),
        }
    }

    async fn read_bounded(
        &self,
        ask: &Ask<'_>,
        mut response: Response,
        limit: usize,
    ) -> Result<Bytes, OriginError> {
        let url = response.url().clone();
        let mut body = BytesMut::new();
        loop {
            let chunk = match timeout(self.patience().idle, response.chunk()).await {
                Ok(Ok(Some(chunk))) => {
                    self.count(chunk.len());
                    chunk
                }
                Ok(Ok(None)) => return Ok(body.freeze()),
                Ok(Err(error)) => return Err(ask.unreachable(&url, reason(&error))),
                Err(_) => return Err(ask.unreachable(&url, "the answer stopped".into())),
            };
            if body.len() + chunk.len() > limit {
                return Err(OriginError::TooLarge {
                    place: ask.place.clone(),
                    what: ask.what.clone(),
                    limit,
                });
            }
            body.extend_from_slice(&chunk);
        }
    }

    async fn send_with_retries(
        &self,
        ask: &Ask<'_>,
        welcome: &[StatusCode],
    ) -> Result<Response, OriginError> {
        let endpoint = self.endpoint(&ask.place)?;
        let (mut attempt, mut throttled) = (1, 0);
        loop {
            let (error, after) = match self.attempt(ask, &endpoint, welcome).await {
                Ok(response) => return Ok(response),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Again { error, after }) => (error, after),
            };
            let patience = self.patience();
            // Whoever asks us has patience of their own, and the same answer to expect elsewhere.
            throttled += u32::from(matches!(error, OriginError::Throttled { .. }));
            if attempt >= patience.attempts
                || throttled >= THROTTLED
                || after.is_some_and(|wait| wait > patience.backoff_limit)
            {
                return Err(error);
            }
            let wait = after.unwrap_or_default().max(patience.backoff_before(attempt));
            tracing::debug!(%error, attempt, ?wait, "trying the origin again");
            sleep(wait).await;
            attempt += 1;
        }
    }

    /// One attempt with what authorization there is, and one more with a fresh one if that is refused.
    async fn attempt(
        &self,
        ask: &Ask<'_>,
        endpoint: &Endpoint,
        welcome: &[StatusCode],
    ) -> Result<Response, Failure> {
        if let Rights::Client(authorization) = &self.rights {
            let response = self.send_following(ask, endpoint, Some(authorization)).await?;
            if response.status() == StatusCode::UNAUTHORIZED {
                let header =
                    challenge_header(&response).filter(|_| same_origin(response.url(), &endpoint.base));
                return Err(ask.unauthorized("the client's were refused", header).into());
            }
            return verdict(ask, response, welcome);
        }
        let used = self.known_authorization(ask, endpoint).await?;
        let response = self.send_following(ask, endpoint, used.as_ref()).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return verdict(ask, response, welcome);
        }
        let header = challenge_header(&response);
        if !same_origin(response.url(), &endpoint.base) {
            // A storage host's 401 is not the registry's: our credentials are none of its business.
            return Err(ask
                .unauthorized(&format!("its storage {} refused", host(response.url())), None)
                .into());
        }
        let fresh = self.authorize(ask, endpoint, header.as_deref(), used.as_ref()).await?;
        let response = self.send_following(ask, endpoint, Some(&fresh)).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            self.inner.tokens.forget(&ask.place.registry, &ask.scope, &fresh);
            let header = challenge_header(&response).or(header);
            let login = endpoint.login.as_ref();
            login.inspect(|login| login.refused());
            let why = if login.is_some() { "they were refused" } else { "there are none" };
            return Err(ask.unauthorized(why, header).into());
        }
        verdict(ask, response, welcome)
    }

    /// Sends to the endpoint and follows redirects; `authorization` goes to the endpoint's own origin only.
    async fn send_following(
        &self,
        ask: &Ask<'_>,
        endpoint: &Endpoint,
        authorization: Option<&Secret>,
    ) -> Result<Response, Failure> {
        let client = self.client(endpoint);
        let mut url = endpoint.url(ask.path, ask.query);
        for _ in 0..=REDIRECTS {
            let mut request = client.request(ask.method.clone(), url.clone()).headers(ask.headers.clone());
            if let Some(value) = authorization.filter(|_| same_origin(&url, &endpoint.base)) {
                request =
                    request.header(header::AUTHORIZATION, sensitive(value).map_err(|e| ask.invalid(e))?);
            }
            let response = self.exchange(ask, endpoint, request, &url).await?;
            let status = response.status();
            if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            url = redirect(&url, response.headers()).map_err(|reason| ask.invalid(reason))?;
        }
        Err(ask.invalid(format!("more than {REDIRECTS} redirects")).into())
    }

    async fn exchange(
        &self,
        ask: &Ask<'_>,
        endpoint: &Endpoint,
        request: reqwest::RequestBuilder,
        url: &Url,
    ) -> Result<Response, Failure> {
        let patience = self.patience();
        self.check_reach(ask, endpoint, url)?;
        // Connecting has its own, shorter deadline inside.
        let error = match timeout(patience.connect + patience.first_byte, request.send()).await {
            Ok(Ok(response)) => return Ok(response),
            Ok(Err(error)) if error.is_builder() => return Err(ask.invalid(reason(&error)).into()),
            Ok(Err(error)) if tls::is_plain_http(&error) && same_origin(url, &endpoint.base) => {
                let (registry, host) = (&ask.place.registry, host(url));
                let reason = format!(
                    "it does not speak https. If it is to be asked without, start the node with \
                     --upstream {registry}=http://{host}"
                );
                return Err(ask.unreachable(url, reason).into());
            }
            Ok(Err(error)) if reason(&error).contains(NOT_PUBLIC) => {
                return Err(ask.not_allowed(NOT_PUBLIC).into());
            }
            Ok(Err(error)) => ask.unreachable(url, reason(&error)),
            Err(_) => {
                ask.unreachable(url, format!("no answer within {} s", patience.first_byte.as_secs_f32()))
            }
        };
        Err(Failure::Again { error, after: None })
    }

    /// Refuses an address that may not be asked. Names are looked at when they are resolved.
    pub(crate) fn check_reach(
        &self,
        ask: &Ask<'_>,
        endpoint: &Endpoint,
        url: &Url,
    ) -> Result<(), OriginError> {
        if !endpoint.listed && literal(url).is_some_and(|address| !is_public(address)) {
            return Err(ask.not_allowed(NOT_PUBLIC));
        }
        Ok(())
    }

    pub(crate) fn client(&self, endpoint: &Endpoint) -> &reqwest::Client {
        let other = if endpoint.listed { &self.inner.plain } else { &self.inner.public };
        endpoint.ca.as_ref().and_then(|ca| self.inner.with_ca.get(ca)).unwrap_or(other)
    }

    async fn known_authorization(
        &self,
        ask: &Ask<'_>,
        endpoint: &Endpoint,
    ) -> Result<Option<Secret>, OriginError> {
        let registry = &ask.place.registry;
        if let Some(token) = self.inner.tokens.get(registry, &ask.scope) {
            return Ok(Some(token));
        }
        let speaks_basic = self.inner.basic.lock().unwrap_or_else(PoisonError::into_inner).contains(registry);
        match &endpoint.login {
            Some(login) if speaks_basic => Ok(identity(ask, login, None).await?.basic()),
            _ => Ok(None),
        }
    }

    /// Answers a challenge: with what another request has got meanwhile, with a new token, or with the password.
    async fn authorize(
        &self,
        ask: &Ask<'_>,
        endpoint: &Endpoint,
        header: Option<&str>,
        used: Option<&Secret>,
    ) -> Result<Secret, Failure> {
        let registry = &ask.place.registry;
        if let Some(used) = used {
            self.inner.tokens.forget(registry, &ask.scope, used);
        }
        if let Some(token) = self.inner.tokens.get(registry, &ask.scope) {
            return Ok(token);
        }
        let challenges = header.map(parse_challenges).unwrap_or_default();
        let relay = || header.map(str::to_owned);
        if let Some(bearer) = challenges.iter().find(|c| c.scheme == "bearer" && c.get("realm").is_some()) {
            let (token, life) = self.fetch_token(ask, endpoint, bearer, header).await?;
            self.inner.tokens.put(registry, &ask.scope, token.clone(), life);
            return Ok(token);
        }
        if challenges.iter().any(|c| c.scheme == "basic") {
            let Some(login) = &endpoint.login else {
                return Err(ask.unauthorized("there are none", relay()).into());
            };
            let identity = identity(ask, login, header).await?;
            let Some(fresh) = identity.basic() else {
                let why = "there is an identity token only, and it has no token service to take it";
                return Err(ask.unauthorized(why, relay()).into());
            };
            if used == Some(&fresh) {
                login.refused();
                return Err(ask.unauthorized("they were refused", relay()).into());
            }
            self.inner.basic.lock().unwrap_or_else(PoisonError::into_inner).insert(registry.clone());
            return Ok(fresh);
        }
        Err(ask.unauthorized("it asks in a way that is not known", relay()).into())
    }

    /// Gets a token from the realm of `challenge` (the registries' token spec), with the password if there is one.
    async fn fetch_token(
        &self,
        ask: &Ask<'_>,
        endpoint: &Endpoint,
        challenge: &Challenge,
        header: Option<&str>,
    ) -> Result<(Secret, Duration), Failure> {
        let identity = match &endpoint.login {
            Some(login) => Some(identity(ask, login, header).await?),
            None => None,
        };
        let realm = challenge.get("realm").unwrap_or_default();
        let mut url = Url::parse(realm)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or_else(|| ask.invalid("its token service is not an http(s) address".into()))?;
        if endpoint.base.scheme() == "https" && url.scheme() != "https" {
            return Err(ask.invalid("an https registry names a token service without TLS".into()).into());
        }
        // `set_username` cannot fail for http(s) with a host.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        url.set_fragment(None);
        let service = url.clone();
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = challenge.get("service") {
                query.append_pair("service", service);
            }
            for scope in challenge.get("scope").unwrap_or(&ask.scope).split(' ').filter(|s| !s.is_empty()) {
                query.append_pair("scope", scope);
            }
            if let Some(Identity::Password(user, _)) = &identity {
                query.append_pair("account", user);
            }
        }
        let client = self.client(endpoint);
        let mut request = client.get(url.clone());
        match &identity {
            Some(Identity::Token(token)) => {
                // By OAuth2 (RFC 6749 section 6), as Docker does with what its logins give it.
                let mut form = url::form_urlencoded::Serializer::new(String::new());
                form.extend_pairs([("grant_type", "refresh_token"), ("client_id", "longshore")]);
                form.append_pair("refresh_token", token.reveal());
                if let Some(service) = challenge.get("service") {
                    form.append_pair("service", service);
                }
                form.append_pair("scope", challenge.get("scope").unwrap_or(&ask.scope));
                url = service;
                let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
                request = client.post(url.clone()).header(header::CONTENT_TYPE, kind).body(form.finish());
            }
            Some(password) => {
                let value = password.basic().map(|basic| sensitive(&basic)).transpose();
                let value = value.map_err(|e| ask.invalid(e))?;
                request = request.headers(value.map(|v| (header::AUTHORIZATION, v)).into_iter().collect());
            }
            None => {}
        }
        let response = self.exchange(ask, endpoint, request, &url).await?;
        let relay = || header.map(str::to_owned);
        match response.status().as_u16() {
            200 => {}
            400 | 401 | 403 => {
                endpoint.login.as_ref().inspect(|login| login.refused());
                let why = format!("its token service {} refused them", host(&url));
                return Err(ask.unauthorized(&why, relay()).into());
            }
            status @ (408 | 429 | 500..=599) => {
                let error = ask.unreachable(&url, format!("the token service answered status {status}"));
                return Err(Failure::Again { error, after: retry_after(response.headers()) });
            }
            status => return Err(ask.invalid(format!("its token service answered status {status}")).into()),
        }
        let body = self.read_document(ask, response, TOKEN_LIMIT).await.map_err(|error| match error {
            error @ OriginError::Unreachable { .. } => Failure::Again { error, after: None },
            error => Failure::Final(error),
        })?;
        let answer: TokenAnswer = serde_json::from_slice(&body)
            .map_err(|_| ask.invalid("its token service's answer cannot be read".into()))?;
        let token = answer
            .token
            .or(answer.access_token)
            .filter(|token| !token.reveal().is_empty())
            .ok_or_else(|| ask.invalid("its token service gave no token".into()))?;
        let life = answer.expires_in.map_or(TOKEN_LIFE, |s| Duration::from_secs(s).min(TOKEN_LIFE_LIMIT));
        Ok((Secret::new(format!("Bearer {}", token.reveal())), life))
    }
}

/// The answer of a token service; fields that are not used may be anything.
#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<Secret>,
    access_token: Option<Secret>,
    expires_in: Option<u64>,
}

impl Ask<'_> {
    pub(crate) fn invalid(&self, reason: String) -> OriginError {
        OriginError::Invalid { place: self.place.clone(), what: self.what.clone(), reason }
    }

    pub(crate) fn unreachable(&self, url: &Url, reason: String) -> OriginError {
        OriginError::Unreachable { place: self.place.clone(), host: host(url), status: None, reason }
    }

    /// It did not answer lately, and is not asked now.
    /// Whether a list is asked for: it may take a registry long that answers all else at once.
    fn is_list(&self) -> bool {
        let path = self.path;
        path.ends_with("/tags/list") || path.ends_with("/_catalog") || path.contains("/referrers/")
    }

    pub(crate) fn left_alone(&self, url: &Url, left: Duration) -> OriginError {
        let seconds = left.as_secs() + 1;
        self.unreachable(url, format!("it could not be a moment ago, and is left alone for {seconds} s"))
    }

    /// It answers, but not what it should: 5xx, mostly.
    fn failing(&self, url: &Url, status: u16) -> OriginError {
        let (place, reason) = (self.place.clone(), format!("status {status}"));
        OriginError::Unreachable { place, host: host(url), status: Some(status), reason }
    }

    fn not_allowed(&self, reason: &str) -> OriginError {
        OriginError::NotAllowed { place: self.place.clone(), reason: reason.to_owned() }
    }

    fn unauthorized(&self, reason: &str, challenge: Option<String>) -> OriginError {
        OriginError::Unauthorized { place: self.place.clone(), reason: reason.to_owned(), challenge }
    }
}

impl Patience {
    /// The wait after the `attempt`th failure, counted from one.
    pub(crate) fn backoff_before(&self, attempt: u32) -> Duration {
        let doubled = self.backoff.saturating_mul(1 << attempt.saturating_sub(1).min(16));
        doubled.min(self.backoff_limit).mul_f64(rand::random_range(0.5..=1.0))
    }
}

/// What an answer that is no redirect or challenge comes to: success is 2xx, or one of `welcome`.
pub(crate) fn verdict(
    ask: &Ask<'_>,
    response: Response,
    welcome: &[StatusCode],
) -> Result<Response, Failure> {
    let status = response.status();
    if status.is_success() || welcome.contains(&status) {
        return Ok(response);
    }
    let (place, what) = (ask.place.clone(), ask.what.clone());
    Err(match status.as_u16() {
        404 | 410 => OriginError::NotFound { place, what }.into(),
        403 => OriginError::Denied { place, what }.into(),
        429 => {
            let after = retry_after(response.headers());
            Failure::Again { error: OriginError::Throttled { place, retry_after: after }, after }
        }
        408 | 500..=599 => Failure::Again {
            error: ask.failing(response.url(), status.as_u16()),
            after: retry_after(response.headers()),
        },
        status => OriginError::Unexpected { place, what, status }.into(),
    })
}

/// What of an error may be said: its causes, without the URL, whose query may be a signature.
pub fn reason(error: &reqwest::Error) -> String {
    let mut causes: Vec<String> = Vec::new();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source.filter(|_| causes.len() < 8) {
        let text = cause.to_string();
        if causes.last().is_none_or(|last| !last.contains(&text)) {
            causes.push(text);
        }
        source = cause.source();
    }
    if causes.is_empty() { "the request failed".into() } else { causes.join(": ") }
}

fn challenge_header(response: &Response) -> Option<String> {
    let headers = response.headers().get_all(header::WWW_AUTHENTICATE);
    let texts: Vec<&str> = headers.iter().take(8).filter_map(|value| value.to_str().ok()).collect();
    (!texts.is_empty()).then(|| texts.join(", "))
}

pub(crate) fn redirect(from: &Url, headers: &HeaderMap) -> Result<Url, String> {
    let location = headers
        .get(header::LOCATION)
        .and_then(|value| value.to_str().ok())
        .ok_or("a redirect that does not say where to")?;
    let mut to = from.join(location).map_err(|_| "a redirect to something that is not a URL")?;
    if !matches!(to.scheme(), "http" | "https") || !to.has_host() {
        return Err("a redirect away from http".into());
    }
    if from.scheme() == "https" && to.scheme() == "http" {
        return Err("a redirect from https to http".into());
    }
    // A user in the URL would be sent as credentials.
    let _ = to.set_username("");
    let _ = to.set_password(None);
    Ok(to)
}

pub(crate) fn same_origin(a: &Url, b: &Url) -> bool {
    a.origin() == b.origin()
}

/// The URL's host, where it is an address and no name.
pub(crate) fn literal(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        url::Host::Ipv4(address) => Some(address.into()),
        url::Host::Ipv6(address) => Some(address.into()),
        url::Host::Domain(_) => None,
    }
}

pub(crate) fn host(url: &Url) -> String {
    let name = url.host_str().unwrap_or_default();
    match url.port_or_known_default() {
        Some(port) => format!("{name}:{port}"),
        None => name.to_owned(),
    }
}

/// Who to be for a registry; where that cannot be had, its challenge goes on to the client.
async fn identity(ask: &Ask<'_>, login: &Login, header: Option<&str>) -> Result<Identity, OriginError> {
    login.get().await.map_err(|why| ask.unauthorized(&why, header.map(str::to_owned)))
}

pub(crate) fn sensitive(value: &Secret) -> Result<HeaderValue, String> {
    let mut value =
        HeaderValue::from_str(value.reveal()).map_err(|_| "a token that cannot stand in a header")?;
    value.set_sensitive(true);
    Ok(value)
}

/// `Retry-After` in seconds or as a date (RFC 9110 section 10.2.3).
#[allow(clippy::disallowed_methods, reason = "a date in a header is compared with the wall clock")]
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(std::time::SystemTime::now()).unwrap_or_default())
}
