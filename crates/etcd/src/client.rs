//! Calls, and whom they are made to.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use reqwest::{Certificate, Response, StatusCode, header, header::HeaderValue};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;
use tokio::{
    sync::Semaphore,
    time::{sleep, timeout},
};

use crate::{
    Address, Error, Password, Range, Reply, SetupError, Transaction, Watch,
    answer::{Framed, LeaseAnswer, Refusal, TxnAnswer},
    auth::{Login, Token},
    error::refusal,
    outage::{Outage, Turn},
};

/// How long a connection may take to open: members are in our network.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(700);

/// How long one member is given before the next is asked. Longer than its disk takes on a bad day, and shorter than
/// what is left of a call's time when the first has failed.
pub(crate) const ATTEMPT: Duration = Duration::from_millis(1500);

/// The pause when all members have failed, which doubles up to the longest.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(400);

/// The most calls at a time; others wait for their turn, within their time.
const MAX_CALLS: usize = 64;

/// The longest answer that is read, in bytes. etcd takes no request above 1.5 MiB unless it is told to, and a read
/// of several keys is the caller's to bound.
pub(crate) const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// What a client is made from.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where etcd is, and as whom to call.
    pub address: Address,
    /// The user's password.
    pub password: Option<Password>,
    /// The certificates (PEM) by which alone the members' are judged; without them, by the system's.
    pub authority: Option<Vec<u8>>,
}

/// A client of one etcd cluster; a handle, cheap to clone.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    http: reqwest::Client,
    /// Base URLs.
    members: Vec<String>,
    /// Index of the one that answered last.
    preferred: AtomicUsize,
    login: Option<Login>,
    slots: Semaphore,
    outage: Outage,
    calls: AtomicU64,
    failures: AtomicU64,
}

/// What a client counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Whether the last call was answered.
    pub reachable: bool,
    /// Calls made; one that went to several members is one.
    pub calls: u64,
    /// Calls that were not answered, or not with what was asked for.
    pub failures: u64,
}

impl Client {
    /// A client. Nothing is called yet.
    pub fn new(settings: Settings) -> Result<Self, SetupError> {
        // reqwest without a built-in provider takes the process's. Whoever installed one first wins, and any does.
        let _ = rustls::crypto::ring::default_provider().install_default();
        // A proxy from the environment is for the internet, and a redirect would carry the token elsewhere. A
        // watch is silent for hours: only keepalives tell that its member's host is gone.
        let builder = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .tcp_keepalive(Duration::from_secs(5))
            .tcp_keepalive_interval(Duration::from_secs(2))
            .tcp_keepalive_retries(3)
            .pool_max_idle_per_host(MAX_CALLS);
        let builder = match &settings.authority {
            // Without TLS no certificates are needed, and a host that has none must not be turned away.
            None if !settings.address.tls() => builder.tls_certs_only([]),
            None => builder,
            Some(pem) => {
                let certificates = Certificate::from_pem_bundle(pem).map_err(SetupError::Authority)?;
                if certificates.is_empty() {
                    return Err(SetupError::NoAuthority);
                }
                builder.tls_certs_only(certificates)
            }
        };
        let login = match (settings.address.user(), settings.password) {
            (Some(user), Some(password)) => Some(Login::new(user.to_owned(), password)),
            (Some(user), None) => return Err(SetupError::NoPassword(user.to_owned())),
            (None, _) => None,
        };
        Ok(Self(Arc::new(Inner {
            http: builder.build().map_err(SetupError::Http)?,
            members: settings.address.members().iter().map(ToString::to_string).collect(),
            preferred: AtomicUsize::new(0),
            login,
            slots: Semaphore::new(MAX_CALLS),
            outage: Outage::default(),
            calls: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        })))
    }

    /// Does a transaction.
    pub async fn transact(&self, transaction: &Transaction, within: Duration) -> Result<Reply, Error> {
        let body = Bytes::from(transaction.json().to_string());
        Ok(self.call::<TxnAnswer>("v3/kv/txn", body, within).await?.into())
    }

    /// Makes a lease under a number that the caller has drawn, positive. Gives the time that it lasts, which etcd
    /// may choose longer than it was asked for.
    pub async fn grant(&self, id: i64, ttl: Duration, within: Duration) -> Result<Duration, Error> {
        let body = json!({ "ID": id.to_string(), "TTL": ttl.as_secs().max(1).to_string() });
        match self.call::<LeaseAnswer>("v3/lease/grant", body.to_string().into(), within).await {
            Ok(answer) => Ok(Duration::from_secs(answer.ttl.unsigned_abs())),
            // Ours: an earlier try has arrived.
            Err(Error::LeaseExists(_)) => Ok(ttl),
            Err(error) => Err(error),
        }
    }

    /// Lets a lease begin anew. Gives the time that it lasts; none, when it is not there any more.
    pub async fn keep_alive(&self, id: i64, within: Duration) -> Result<Option<Duration>, Error> {
        let body = json!({ "ID": id.to_string() }).to_string().into();
        let answer = self.call::<Framed<LeaseAnswer>>("v3/lease/keepalive", body, within).await?;
        let ttl = answer.open("a member")?.ttl;
        Ok((ttl > 0).then(|| Duration::from_secs(ttl.unsigned_abs())))
    }

    /// Ends a lease and removes its keys. No error when it was not there any more.
    pub async fn revoke(&self, id: i64, within: Duration) -> Result<(), Error> {
        let body = json!({ "ID": id.to_string() }).to_string().into();
        match self.call::<serde::de::IgnoredAny>("v3/lease/revoke", body, within).await {
            Ok(_) | Err(Error::NoLease(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Follows a range from now on. The first that it gives is [`Change::Begins`](crate::Change::Begins).
    pub fn watch(&self, range: Range) -> Watch {
        Watch::new(self.clone(), range)
    }

    /// What was counted.
    pub fn stats(&self) -> Stats {
        Stats {
            reachable: !self.0.outage.lasts(),
            calls: self.0.calls.load(Relaxed),
            failures: self.0.failures.load(Relaxed),
        }
    }

    async fn call<T: DeserializeOwned>(&self, path: &str, body: Bytes, within: Duration) -> Result<T, Error> {
        self.0.calls.fetch_add(1, Relaxed);
        let mut last = None;
        let outcome = match timeout(within, self.0.try_members(path, &body, &mut last)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(last.unwrap_or(Error::TimedOut(within))),
        };
        if outcome.is_err() {
            self.0.failures.fetch_add(1, Relaxed);
        }
        // The end is a warning too: whoever has read of the beginning must read of it.
        match (self.0.outage.note(&outcome), &outcome) {
            (Some(Turn::Begins), Err(error)) => tracing::warn!("{error}"),
            (Some(Turn::Ends(after)), _) => tracing::warn!("etcd answers again after {} s", after.as_secs()),
            _ => {}
        }
        outcome
    }

    /// The members, beginning with the one that answered last.
    pub(crate) fn in_order(&self) -> impl Iterator<Item = usize> + use<> {
        let (first, count) = (self.0.preferred.load(Relaxed), self.0.members.len());
        (0..count).map(move |step| (first + step) % count)
    }

    /// Begins an answer that has no end. Gives the member's name for messages as well.
    pub(crate) async fn stream(
        &self,
        member: usize,
        path: &str,
        body: Bytes,
    ) -> Result<(Response, String), Error> {
        let inner = &self.0;
        let name = inner.name(member).to_owned();
        match timeout(ATTEMPT, inner.send(member, path, &body)).await {
            Ok(Ok((response, _))) if response.status().is_success() => Ok((response, name)),
            Ok(Ok((mut response, token))) => {
                let status = response.status();
                let read = timeout(ATTEMPT, read(&mut response, &name)).await;
                let error = failure(&name, status, &read.map_err(|_| Error::TimedOut(ATTEMPT))??);
                inner.judge(&error, &token);
                Err(error)
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(Error::TimedOut(ATTEMPT)),
        }
    }

    /// What is said in a stream is judged as if it were an answer: a token that is refused is not used again.
    pub(crate) fn forget_login(&self) {
        if let Some(login) = &self.0.login {
            login.set(Token::Missing);
        }
    }
}

impl Inner {
    /// Asks one member after the other, and again, until one answers or the caller loses patience. `last` is the
    /// latest failure, for that case.
    async fn try_members<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &Bytes,
        last: &mut Option<Error>,
    ) -> Result<T, Error> {
        // Never closed.
        let _slot = self.slots.acquire().await;
        let mut pause = PAUSE;
        loop {
            let (first, count) = (self.preferred.load(Relaxed), self.members.len());
            for step in 0..count {
                let member = (first + step) % count;
                let mut outcome = self.attempt(member, path, body).await;
                if matches!(outcome, Err(Error::Login { .. })) && self.login.is_some() {
                    // With a new token.
                    outcome = self.attempt(member, path, body).await;
                }
                match outcome {
                    Err(error) if error.is_transient() => *last = Some(error),
                    outcome => {
                        self.preferred.store(member, Relaxed);
                        return outcome;
                    }
                }
            }
            sleep(pause).await;
            pause = (2 * pause).min(LONGEST_PAUSE);
        }
    }

    async fn attempt<T: DeserializeOwned>(
        &self,
        member: usize,
        path: &str,
        body: &Bytes,
    ) -> Result<T, Error> {
        let name = self.name(member);
        let exchange = async {
            let (mut response, token) = self.send(member, path, body).await?;
            let status = response.status();
            let answer = read(&mut response, name).await?;
            if status.is_success() {
                return serde_json::from_slice(&answer).map_err(|error| Error::BadAnswer {
                    member: name.to_owned(),
                    reason: error.to_string(),
                });
            }
            let error = failure(name, status, &answer);
            self.judge(&error, &token);
            Err(error)
        };
        match timeout(ATTEMPT, exchange).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Error::Unreachable {
                member: name.to_owned(),
                reason: format!("no answer within {ATTEMPT:?}"),
            }),
        }
    }

    /// Sends with the token, which it gets first if there is none yet. Gives it as well.
    async fn send(&self, member: usize, path: &str, body: &Bytes) -> Result<(Response, Token), Error> {
        let token = match &self.login {
            None => Token::NotNeeded,
            Some(login) => match login.token() {
                Token::Missing => self.log_in(login, member).await?,
                token => token,
            },
        };
        let header = match &token {
            Token::Is(header) => Some(header.clone()),
            Token::Missing | Token::NotNeeded => None,
        };
        Ok((self.post(member, path, body.clone(), header).await?, token))
    }

    async fn log_in(&self, login: &Login, member: usize) -> Result<Token, Error> {
        #[derive(Deserialize)]
        struct Given {
            token: String,
        }
        // Never closed.
        let _turn = login.turn.acquire().await;
        // Another has been here first?
        match login.token() {
            Token::Missing => {}
            token => return Ok(token),
        }
        let body = json!({ "name": login.user, "password": login.password.expose() }).to_string();
        let mut response = self.post(member, "v3/auth/authenticate", body.into(), None).await?;
        let (name, status) = (self.name(member), response.status());
        let answer = read(&mut response, name).await?;
        let bad = |reason: String| Error::BadAnswer { member: name.to_owned(), reason };
        let token = if status.is_success() {
            // What is wrong with it is not told in serde's words, which might hold it.
            let given: Given =
                serde_json::from_slice(&answer).map_err(|_| bad("no token in it".to_owned()))?;
            let mut header =
                HeaderValue::from_str(&given.token).map_err(|_| bad("a malformed token".to_owned()))?;
            header.set_sensitive(true);
            Token::Is(header)
        } else {
            match failure(name, status, &answer) {
                Error::Rejected { reason, .. } if reason.contains("authentication is not enabled") => {
                    Token::NotNeeded
                }
                error => return Err(error),
            }
        };
        login.set(token.clone());
        Ok(token)
    }

    async fn post(
        &self,
        member: usize,
        path: &str,
        body: Bytes,
        token: Option<HeaderValue>,
    ) -> Result<Response, Error> {
        let name = self.name(member);
        let mut request = self
            .http
            .post(format!("{name}{path}"))
            .header(header::CONTENT_TYPE, "application/json")
            // A member without a leader says so at once, and a watch on it ends, instead of waiting for one.
            .header("Grpc-Metadata-hasleader", "true")
            .body(body);
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, token);
        }
        request.send().await.map_err(|error| unreachable(name, &error))
    }

    /// A token that was refused is not used again.
    fn judge(&self, error: &Error, token: &Token) {
        if let (Error::Login { .. }, Some(login)) = (error, &self.login) {
            login.forget(token);
        }
    }

    fn name(&self, member: usize) -> &str {
        self.members.get(member).map_or("", String::as_str)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("members", &self.0.members).finish_non_exhaustive()
    }
}

async fn read(response: &mut Response, member: &str) -> Result<Bytes, Error> {
    let mut whole = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| unreachable(member, &error))? {
        if whole.len() + chunk.len() > MAX_ANSWER {
            let reason = format!("it is longer than {MAX_ANSWER} bytes");
            return Err(Error::BadAnswer { member: member.to_owned(), reason });
        }
        whole.extend_from_slice(&chunk);
    }
    Ok(whole.freeze())
}

pub(crate) fn unreachable(member: &str, error: &reqwest::Error) -> Error {
    // reqwest's own words stop at "error sending request"; the cause is further down.
    let mut source: Option<&dyn std::error::Error> = Some(error);
    let mut reason = String::new();
    while let Some(cause) = source {
        reason = cause.to_string();
        source = cause.source();
    }
    Error::Unreachable { member: member.to_owned(), reason }
}

fn failure(member: &str, status: StatusCode, body: &[u8]) -> Error {
    match serde_json::from_slice::<Refusal>(body) {
        Ok(Refusal { code: Some(code), message }) => refusal(member, code, &message),
        // Something before etcd, mostly.
        _ if status.is_server_error() => {
            Error::Unavailable { member: member.to_owned(), reason: status.to_string() }
        }
        _ => Error::BadAnswer { member: member.to_owned(), reason: format!("status {status}") },
    }
}
