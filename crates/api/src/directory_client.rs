//! Calls the content directory.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hash::Digest;
use reqwest::Method;
use serde::{Serialize, de::DeserializeOwned};
use url::Url;

use crate::{
    CallError, ClientError,
    directory::{
        Claim, ClaimRequest, Entry, LeaseRequest, MAX_WAIT_MS, PublishRequest, Renewal, Run, Tag, TagClaim,
        TagClaimRequest, TagRequest,
    },
    outage::{Change, Outage, now},
    transport::{Connect, Transport, join, parse_base},
};

/// How long a tracker may take to say which run it is.
const RUN: Duration = Duration::from_secs(3);

/// A client of one directory, or of several trackers that stand in for each other.
///
/// With several addresses a call goes to the one that answered last, and on to the next only when it
/// cannot be reached, or says that it cannot do its work now. Trackers whose directory is one etcd share
/// its leases. Others do not: while some nodes reach only the second one, a blob may be fetched from the
/// origin twice, and nothing breaks.
///
/// A directory that makes its callers wait in vain is left alone for a while, of 2 to 30 s, in which calls fail at
/// once; then one call, with a short deadline, finds out whether it is back.
///
/// It warns when calls begin to fail, and once more when they succeed again: the failures in between are
/// the same news, and callers need not tell it.
#[derive(Clone)]
pub struct DirectoryClient {
    transport: Transport,
    bases: Arc<[Url]>,
    /// Index into `bases` of the one that answered last.
    preferred: Arc<AtomicUsize>,
    outage: Arc<Outage>,
    deadline: Duration,
}

impl DirectoryClient {
    /// How long a call other than a waiting claim may take, unless set otherwise.
    pub const DEADLINE: Duration = Duration::from_secs(8);
    /// The same while the directory has not answered lately.
    const DOUBTFUL: Duration = Duration::from_secs(2);

    /// A client of the trackers at `bases`, such as `http://host:6969`.
    pub fn new<S: AsRef<str>>(
        bases: impl IntoIterator<Item = S>,
        token: Option<&str>,
    ) -> Result<Self, ClientError> {
        let bases: Arc<[Url]> =
            bases.into_iter().map(|base| parse_base(base.as_ref())).collect::<Result<_, _>>()?;
        if bases.is_empty() {
            return Err(ClientError::NoAddress);
        }
        let tls = bases.iter().any(|base| base.scheme() == "https");
        Ok(Self {
            transport: Transport::new(&Connect::Tcp { tls }, token)?,
            bases,
            preferred: Arc::new(AtomicUsize::new(0)),
            outage: Arc::default(),
            deadline: Self::DEADLINE,
        })
    }

    /// The same with another deadline per call and address.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Asks for the blob's torrent, or for the lease to fetch it from the origin. With `wait`, and
    /// while another holds the lease, the answer comes when the torrent is published, when the lease
    /// becomes free (this caller then holds it), or at the end of the wait (at most 30 s).
    pub async fn claim(&self, digest: &Digest, node: &str, wait: Duration) -> Result<Claim, CallError> {
        self.ask(digest, node, wait, false).await
    }

    /// The same where the torrent is known, but nobody in its swarm has what is missing.
    pub async fn claim_stale(&self, digest: &Digest, node: &str, wait: Duration) -> Result<Claim, CallError> {
        self.ask(digest, node, wait, true).await
    }

    /// What is known of the blob; `None` when nothing is.
    pub async fn get(&self, digest: &Digest) -> Result<Option<Entry>, CallError> {
        self.call::<(), _>(Method::GET, &blob(digest, None), None, Duration::ZERO).await
    }

    /// Publishes the blob's torrent; the lease, if given, ends.
    pub async fn publish(&self, digest: &Digest, torrent: &PublishRequest) -> Result<Entry, CallError> {
        self.expect(Method::PUT, &blob(digest, None), Some(torrent), Duration::ZERO).await
    }

    /// Goes on with a lease. To be called at a third of its time.
    pub async fn renew(&self, digest: &Digest, lease: &str, node: &str) -> Result<Renewal, CallError> {
        let body = LeaseRequest { lease: lease.to_owned(), node: node.to_owned() };
        self.expect(Method::POST, &blob(digest, Some("renew")), Some(&body), Duration::ZERO).await
    }

    /// Gives a lease back: the next who waits gets it. No error when it was not held any more.
    pub async fn release(&self, digest: &Digest, lease: &str, node: &str) -> Result<(), CallError> {
        let body = LeaseRequest { lease: lease.to_owned(), node: node.to_owned() };
        self.expect(Method::POST, &blob(digest, Some("release")), Some(&body), Duration::ZERO).await
    }

    /// Asks for the turn to resolve `registry/repository:tag` at its origin. While another has it, the answer comes when
    /// that one is done, or at the end of the wait (at most 30 s).
    pub async fn claim_tag(&self, name: &str, node: &str, wait: Duration) -> Result<TagClaim, CallError> {
        let wait_ms = millis(wait);
        let body = TagClaimRequest { name: name.to_owned(), node: node.to_owned(), wait_ms };
        let target = (vec!["tags".to_owned(), "claim".to_owned()], None);
        self.expect(Method::POST, &target, Some(&body), Duration::from_millis(wait_ms)).await
    }

    /// Says what a tag points at.
    pub async fn set_tag(&self, tag: &TagRequest) -> Result<Tag, CallError> {
        self.expect(Method::PUT, &(vec!["tags".to_owned()], None), Some(tag), Duration::ZERO).await
    }

    /// What `registry/repository:tag` pointed at when it was last set; `None` when it never was.
    pub async fn tag(&self, name: &str) -> Result<Option<Tag>, CallError> {
        let target = (vec!["tags".to_owned()], Some(name.to_owned()));
        self.call::<(), _>(Method::GET, &target, None, Duration::ZERO).await
    }

    /// The run of each tracker, in the order in which their addresses were given; `None` where it does not say. Tells
    /// nobody of those that do not answer.
    pub async fn runs(&self) -> Vec<Option<Run>> {
        let mut runs = Vec::new();
        for base in &*self.bases {
            let url = join(base, &["directory", "v1", "run"]);
            let asked = self.transport.json::<(), Run>(Method::GET, url, None, self.deadline.min(RUN));
            runs.push(asked.await.ok().flatten());
        }
        runs
    }

    async fn ask(
        &self,
        digest: &Digest,
        node: &str,
        wait: Duration,
        stale: bool,
    ) -> Result<Claim, CallError> {
        let wait_ms = millis(wait);
        let body = ClaimRequest { node: node.to_owned(), wait_ms, stale };
        let wait = Duration::from_millis(wait_ms);
        self.expect(Method::POST, &blob(digest, Some("claim")), Some(&body), wait).await
    }

    async fn expect<B: Serialize + Sync, T: DeserializeOwned>(
        &self,
        method: Method,
        target: &Target,
        body: Option<&B>,
        wait: Duration,
    ) -> Result<T, CallError> {
        let begun = now();
        let answer = self.try_bases(method, target, body, wait).await;
        let answer = answer.and_then(|answer| {
            answer.ok_or_else(|| CallError::BadAnswer {
                url: self.all(),
                reason: "it has no content directory (404): is it a Longshore tracker?".to_owned(),
            })
        });
        self.tell(answer, begun.elapsed())
    }

    fn all(&self) -> String {
        self.bases.iter().map(Url::as_str).collect::<Vec<_>>().join(", ")
    }

    async fn call<B: Serialize + Sync, T: DeserializeOwned>(
        &self,
        method: Method,
        target: &Target,
        body: Option<&B>,
        wait: Duration,
    ) -> Result<Option<T>, CallError> {
        let begun = now();
        match self.try_bases(method, target, body, wait).await {
            // Any server would say that; but one has.
            Ok(None) => {
                self.outage.relieve();
                Ok(None)
            }
            outcome => self.tell(outcome, begun.elapsed()),
        }
    }

    /// Tells of the outcome if it is news.
    fn tell<T>(&self, outcome: Result<T, CallError>, took: Duration) -> Result<T, CallError> {
        // The end is a warning too: whoever has read of the beginning must read of it.
        match (self.outage.note(&outcome, took), &outcome) {
            (Some(Change::Begins), Err(error)) => {
                tracing::warn!("no content directory, each node asks registries for itself: {error}");
            }
            (Some(Change::Ends(after)), _) => {
                tracing::warn!("the content directory answers again after {} s", after.as_secs());
            }
            _ => {}
        }
        outcome
    }

    async fn try_bases<B: Serialize + Sync, T: DeserializeOwned>(
        &self,
        method: Method,
        (segments, name): &Target,
        body: Option<&B>,
        wait: Duration,
    ) -> Result<Option<T>, CallError> {
        if let Some(left) = self.outage.left() {
            return Err(CallError::LeftAlone { url: self.all(), left });
        }
        let usual = if self.outage.lasts() { self.deadline.min(Self::DOUBTFUL) } else { self.deadline };
        let deadline = usual + wait;
        let first = self.preferred.load(Ordering::Relaxed);
        let mut failed = None;
        for step in 0..self.bases.len() {
            let index = (first + step) % self.bases.len();
            let Some(base) = self.bases.get(index) else { continue };
            let mut path = vec!["directory", "v1"];
            path.extend(segments.iter().map(String::as_str));
            let mut url = join(base, &path);
            if let Some(name) = name {
                url.query_pairs_mut().append_pair("name", name);
            }
            match self.transport.json(method.clone(), url, body, deadline).await {
                // One that is cut off from what it needs is no better than one that is gone.
                Err(
                    error @ (CallError::Unreachable { .. }
                    | CallError::NotAllowed { .. }
                    | CallError::Unavailable { .. }),
                ) => failed = Some(error),
                // The time is up for this call. The next goes elsewhere.
                Err(error @ CallError::TimedOut { .. }) => {
                    self.preferred.store(index + 1, Ordering::Relaxed);
                    return Err(error);
                }
                outcome => {
                    self.preferred.store(index, Ordering::Relaxed);
                    return outcome;
                }
            }
        }
        Err(failed.unwrap_or_else(|| CallError::Unreachable {
            url: String::new(),
            reason: "no address was given".to_owned(),
        }))
    }
}

fn millis(wait: Duration) -> u64 {
    u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).min(MAX_WAIT_MS)
}

/// Path segments below `/directory/v1`, and the value of `name=` if there is a query.
type Target = (Vec<String>, Option<String>);

fn blob(digest: &Digest, action: Option<&str>) -> Target {
    let segments = ["blobs".to_owned(), digest.to_string()].into_iter().chain(action.map(str::to_owned));
    (segments.collect(), None)
}
