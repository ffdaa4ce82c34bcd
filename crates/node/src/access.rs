//! Who may have what: content that is not public is given only to those to whom its registry would give it.
//!
//! Content is *public* when its registry gives it to whoever asks. That is known of what lies here (by the store) and of
//! what the fleet has (by the directory). Anything else is asked of the registry, for each asker, repository and
//! digest: a digest alone is no permission, nor is the right to another repository. What the registry said is
//! remembered for a while.
//!
//! A word is believed of registries that the configuration lists. Of others only bytes prove anything: anybody can run
//! one that says yes to every digest.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::FutureExt;
use hash::Digest;
use mirror::Asker;
use origin::{Endpoint, Home, Origin, OriginError, Place, Repository, Rights, Target, WhenDown};
use tokio::time::Instant;

use crate::{
    content::Inner,
    flight::{Flight, Want},
    single::Singles,
};

/// How long a registry's refusal holds.
const NO: Duration = Duration::from_secs(10);
/// How long a consent counts while the registry cannot be asked.
const LATELY: Duration = Duration::from_secs(24 * 3600);
/// How long a repository is taken not to be for everybody.
const CLOSED: Duration = Duration::from_secs(60);
/// How many answers, and how many closed repositories, are remembered.
const MOST: usize = 20_000;

/// What registries have said about who may have what.
pub(crate) struct Access {
    verdicts: Mutex<HashMap<Question, (Instant, Verdict)>>,
    /// Places that give nothing to those who show nothing, and the challenge that comes instead.
    closed: Mutex<HashMap<Place, (Instant, Option<String>)>>,
    asking: Singles<Question, Verdict>,
    /// Whose bytes blobs were begun with that are not whole, where anybody is given them.
    begun: Mutex<HashMap<Digest, (Instant, Begun)>>,
    /// Makes what is remembered of an authorization useless elsewhere.
    salt: [u8; 32],
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Question {
    repository: Repository,
    digest: Digest,
    who: Who,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Who {
    /// This host, or anybody.
    Own,
    /// Who shows the authorization of this salted hash.
    Client(Digest),
}

/// Whose bytes a blob was begun with.
#[derive(Clone, PartialEq, Eq)]
enum Begun {
    /// A listed registry's, or a swarm's.
    Listed,
    /// Those of a host that is not listed.
    Other(String),
}

pub(crate) type Verdict = Result<Granted, OriginError>;

/// A registry's consent.
#[derive(Clone, Debug)]
pub(crate) struct Granted {
    /// With what it was asked.
    pub(crate) rights: Rights,
    /// Whether anybody would have been given it.
    pub(crate) public: bool,
    /// The content's length in bytes, where the registry said it.
    pub(crate) size: Option<u64>,
}

impl Default for Access {
    fn default() -> Self {
        Self {
            verdicts: Mutex::default(),
            closed: Mutex::default(),
            asking: Singles::default(),
            begun: Mutex::default(),
            salt: rand::random(),
        }
    }
}

impl Inner {
    /// Asks the registry with the rights that an asker has, one after the other: those of anybody, then the client's
    /// own. An upstream with credentials is asked with these, for whomever. Says which did.
    pub(crate) async fn with_rights<T, F>(
        &self,
        place: &Place,
        asker: &Asker,
        ask: impl Fn(Origin) -> F,
    ) -> Result<(T, Rights), OriginError>
    where
        F: Future<Output = Result<T, OriginError>>,
    {
        let endpoint = self.origin.endpoint(place)?;
        let closed = self.access.closed_to_anybody(place);
        // Where everybody is served while it is down, it has to be seen whether it is.
        let closed = closed.filter(|_| endpoint.login.is_none() && endpoint.when_down != WhenDown::All);
        let refusal = match closed {
            Some(challenge) => {
                let reason = "it gives nothing to those who show nothing".to_owned();
                OriginError::Unauthorized { place: place.clone(), reason, challenge }
            }
            None => match ask(self.origin.clone()).await {
                Ok(answer) => return Ok((answer, Rights::Own)),
                Err(error) if endpoint.login.is_none() && is_refusal(&error) => error,
                Err(error) => return Err(error),
            },
        };
        if let OriginError::Unauthorized { challenge, .. } = &refusal {
            self.access.close(place, challenge.clone());
        }
        let Some(authorization) = &asker.authorization else { return Err(refusal) };
        let rights = Rights::Client(authorization.clone());
        Ok((ask(self.origin.with_rights(rights.clone())).await?, rights))
    }

    /// The same for a flight, whose rights stay those that did.
    pub(crate) async fn ask_origin<T, F>(
        &self,
        flight: &Flight,
        ask: impl Fn(Origin) -> F,
    ) -> Result<T, OriginError>
    where
        F: Future<Output = Result<T, OriginError>>,
    {
        if let Some(rights) = flight.rights() {
            return ask(self.origin.with_rights(rights)).await;
        }
        let repository = flight.repository()?;
        let place = Place::from(repository);
        let (answer, rights) = self.with_rights(&place, &flight.asker, ask).await?;
        let Granted { rights, public, .. } =
            self.note_granted(repository, flight.digest, &flight.asker, rights);
        flight.settle(rights, public);
        Ok(answer)
    }

    /// Whether what was given for these rights would be given to anybody.
    fn is_public(&self, place: &Place, rights: &Rights) -> bool {
        *rights == Rights::Own && self.origin.endpoint(place).is_ok_and(|endpoint| endpoint.login.is_none())
    }

    /// Whether an asker may have content that is not known to be public: asks its registry, or remembers what that
    /// said. While it is down, the upstream's `when_down` decides; that it is slow, or answers with errors, is for those
    /// without rights to bring about, and lets nobody in.
    pub(crate) async fn may_have(
        self: &Arc<Self>,
        asker: &Asker,
        repository: &Repository,
        digest: Digest,
        want: &Want,
    ) -> Result<Granted, OriginError> {
        let place = Place::from(repository);
        let endpoint = self.origin.endpoint(&place)?;
        if !endpoint.listed {
            let reason = "what is not public is given on the word of listed registries only: list it under \
                          [[origin.upstreams]]";
            return Err(OriginError::NotAllowed { place, reason: reason.to_owned() });
        }
        let who = self.access.who(asker, &endpoint);
        let question = Question { repository: repository.clone(), digest, who };
        let (age, before) = self.access.remembered(&question).unzip();
        match (&before, age) {
            (Some(Ok(granted)), Some(age)) if age < self.config.content.consent() => {
                return Ok(granted.clone());
            }
            (Some(Err(error)), Some(age)) if age < NO => return Err(error.clone()),
            _ => {}
        }
        let (inner, asker, want) = (self.clone(), asker.clone(), want.clone());
        let for_task = question.clone();
        let work = move || async move { inner.ask_verdict(&for_task, &asker, &want).await }.boxed();
        let error = match self.access.asking.run(question.clone(), work).await {
            Err(error) if error.is_transient() => error,
            verdict => return verdict,
        };
        // Whom it allowed lately, a gateway's word is enough for too.
        let away = error.is_down() || error.is_from_gateway();
        let granted = match (endpoint.when_down, before, age) {
            (WhenDown::Lately | WhenDown::All, Some(Ok(granted)), Some(age)) if age < LATELY && away => {
                granted
            }
            (WhenDown::All, ..) if error.is_down() => {
                Granted { rights: Rights::Own, public: false, size: None }
            }
            _ => return Err(error),
        };
        tracing::info!(%repository, %digest, %error, "given, as its registry cannot be asked who may have it");
        Ok(granted)
    }

    /// What a registry says now of whether an asker may have content, whatever it has said before.
    pub(crate) async fn ask_now(
        self: &Arc<Self>,
        asker: &Asker,
        repository: &Repository,
        digest: Digest,
        want: &Want,
    ) -> Verdict {
        let who = self.access.who(asker, &self.origin.endpoint(&repository.into())?);
        self.ask_verdict(&Question { repository: repository.clone(), digest, who }, asker, want).await
    }

    /// Forgets what was said of content that has just been pushed: that it is not there, mostly.
    pub(crate) fn forget_verdict(&self, repository: &Repository, digest: Digest, asker: &Asker) {
        if let Ok(endpoint) = self.origin.endpoint(&repository.into()) {
            let who = self.access.who(asker, &endpoint);
            lock(&self.access.verdicts).remove(&Question { repository: repository.clone(), digest, who });
        }
    }

    /// The length of a blob in bytes, as its registry says it to an asker. It is no leave to have what is here.
    pub(crate) async fn size_for(
        self: &Arc<Self>,
        asker: &Asker,
        repository: &Repository,
        digest: Digest,
    ) -> Result<u64, OriginError> {
        let place = Place::from(repository);
        if !self.origin.endpoint(&place)?.listed {
            let digest = &digest;
            let ask = |origin: Origin| async move { origin.blob_size(repository, digest).await };
            return Ok(self.with_rights(&place, asker, ask).await?.0);
        }
        let granted = self.may_have(asker, repository, digest, &Want::Blob).await?;
        match granted.size {
            Some(size) => Ok(size),
            None => self.origin.with_rights(granted.rights).blob_size(repository, &digest).await,
        }
    }

    async fn ask_verdict(self: &Arc<Self>, question: &Question, asker: &Asker, want: &Want) -> Verdict {
        let Question { repository, digest, .. } = question;
        let place = Place::from(repository);
        let asked = self.with_rights(&place, asker, |origin| async move {
            match want {
                Want::Blob | Want::Pushed(_) | Want::Fetched(_) => {
                    Ok(Some(origin.blob_size(repository, digest).await?))
                }
                Want::Manifest(accept) => {
                    Ok(origin.head_manifest(repository, &Target::Digest(*digest), accept).await?.size)
                }
            }
        });
        let verdict = match asked.await {
            Ok((size, rights)) => Ok(self.granted(repository, *digest, rights, size)),
            Err(error) => Err(error),
        };
        if !verdict.as_ref().is_err_and(OriginError::is_transient) {
            self.access.remember(question.clone(), verdict.clone());
        }
        verdict
    }

    /// Whether what is here of a blob that was broken off may be gone on from, for whoever the flight is for, who is shown
    /// it at once. What came from a listed registry is for whom a listed one gives it; the word of another is no leave to
    /// read it, and its bytes are for its own clients.
    pub(crate) async fn may_resume(self: &Arc<Self>, flight: &Flight) -> Result<bool, OriginError> {
        let begun = lock(&self.access.begun).get(&flight.digest).map(|(_, begun)| begun.clone());
        let listed = self.is_of_listed(flight);
        match begun {
            Some(Begun::Other(host)) => return Ok(host == flight.home.host()),
            None if listed && flight.rights().is_none() => {
                let Flight { asker, digest, want, .. } = flight;
                let granted = self.may_have(asker, flight.repository()?, *digest, want).await?;
                flight.settle(granted.rights, granted.public);
            }
            _ => {}
        }
        Ok(listed)
    }

    /// Notes whose bytes a flight's blob is begun with, while nobody else works on it; `proven` are those of a swarm.
    pub(crate) fn note_begun(&self, flight: &Flight, proven: bool) {
        let listed = proven || self.is_of_listed(flight);
        let begun = if listed { Begun::Listed } else { Begun::Other(flight.home.host().to_owned()) };
        if flight.told().1 {
            put(&self.access.begun, flight.digest, begun, |_| LATELY);
        } else {
            lock(&self.access.begun).remove(&flight.digest);
        }
    }

    /// Whether a client of `home` may be shown what a flight brings before it is proven. A wrong byte shows only at the
    /// end: places that are not listed, and anybody can run one, decide for their own clients alone.
    pub(crate) fn is_believed(&self, flight: &Flight, home: &Home) -> bool {
        flight.home.host() == home.host() || self.is_of_listed(flight)
    }

    /// What a lease is taken on by whoever fetches a flight's blob from its home. Of a listed registry that is the
    /// blob; what is fetched from another place keeps nobody from fetching it elsewhere.
    pub(crate) fn right_to(&self, flight: &Flight) -> Digest {
        if self.is_of_listed(flight) {
            return flight.digest;
        }
        Digest::of(format!("{} from {}", flight.digest, flight.home.host()).as_bytes())
    }

    fn is_of_listed(&self, flight: &Flight) -> bool {
        self.is_listed(&flight.home)
    }

    /// Whether a place is a registry that the configuration lists.
    pub(crate) fn is_listed(&self, home: &Home) -> bool {
        let Home::Registry(repository) = home else { return false };
        self.origin.endpoint(&repository.into()).is_ok_and(|known| known.listed)
    }

    /// Notes that a registry has given something to an asker, or would have.
    pub(crate) fn note_granted(
        &self,
        repository: &Repository,
        digest: Digest,
        asker: &Asker,
        rights: Rights,
    ) -> Granted {
        let granted = self.granted(repository, digest, rights, None);
        if let Ok(endpoint) = self.origin.endpoint(&repository.into()) {
            let who = self.access.who(asker, &endpoint);
            let question = Question { repository: repository.clone(), digest, who };
            self.access.remember(question, Ok(granted.clone()));
        }
        granted
    }

    fn granted(&self, repository: &Repository, digest: Digest, rights: Rights, size: Option<u64>) -> Granted {
        let place = Place::from(repository);
        let public = self.is_public(&place, &rights);
        if public && self.origin.endpoint(&place).is_ok_and(|endpoint| endpoint.listed) {
            self.store.mark_public(&digest);
        }
        Granted { rights, public, size }
    }

    /// Whether content that is not public may be told of to other nodes: only where the directory asks them for a
    /// token.
    pub(crate) fn shares_private(&self) -> bool {
        self.config.directory_token_file.is_some()
    }
}

impl Access {
    fn who(&self, asker: &Asker, endpoint: &Endpoint) -> Who {
        match &asker.authorization {
            Some(authorization) if endpoint.login.is_none() => {
                Who::Client(Digest::of(&[&self.salt, authorization.reveal().as_bytes()].concat()))
            }
            _ => Who::Own,
        }
    }

    /// What was said, and how long ago.
    fn remembered(&self, question: &Question) -> Option<(Duration, Verdict)> {
        lock(&self.verdicts).get(question).map(|(at, verdict)| (at.elapsed(), verdict.clone()))
    }

    fn remember(&self, question: Question, verdict: Verdict) {
        put(&self.verdicts, question, verdict, |verdict| if verdict.is_ok() { LATELY } else { NO });
    }

    /// The challenge of a place that was closed lately.
    #[allow(clippy::option_option, reason = "a closed place may give no challenge")]
    fn closed_to_anybody(&self, place: &Place) -> Option<Option<String>> {
        let closed = lock(&self.closed);
        let (at, challenge) = closed.get(place)?;
        (at.elapsed() < CLOSED).then(|| challenge.clone())
    }

    fn close(&self, place: &Place, challenge: Option<String>) {
        if self.closed_to_anybody(place).is_none() {
            put(&self.closed, place.clone(), challenge, |_| CLOSED);
        }
    }
}

/// Whether somebody else might be given it.
pub(crate) fn is_refusal(error: &OriginError) -> bool {
    use OriginError::{Denied, NotFound, Unauthorized};
    matches!(error, Unauthorized { .. } | Denied { .. } | NotFound { .. })
}

/// Adds to what is remembered; where there is no room, what has had its time goes first, and then the oldest half.
pub(crate) fn put<K: Eq + Hash, V>(
    memory: &Mutex<HashMap<K, (Instant, V)>>,
    key: K,
    value: V,
    life: impl Fn(&V) -> Duration,
) {
    let mut memory = lock(memory);
    if memory.len() >= MOST {
        memory.retain(|_, (at, value)| at.elapsed() < life(value));
    }
    if memory.len() >= MOST {
        let mut times: Vec<Instant> = memory.values().map(|(at, _)| *at).collect();
        let (_, median, _) = times.select_nth_unstable(MOST / 2);
        let median = *median;
        memory.retain(|_, (at, _)| *at > median);
    }
    #[allow(clippy::disallowed_methods, reason = "the node is a driver")]
    memory.insert(key, (Instant::now(), value));
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_has_a_bound_and_the_newest_stays() {
        let memory = Mutex::new(HashMap::new());
        for n in 0..2 * MOST {
            tokio::time::advance(Duration::from_millis(1)).await;
            put(&memory, n, (), |()| LATELY);
        }
        let memory = lock(&memory);
        assert!(memory.len() <= MOST && memory.len() > MOST / 4, "{}", memory.len());
        assert!(memory.contains_key(&(2 * MOST - 1)));
        assert!(!memory.contains_key(&0));
    }

    #[test]
    fn an_authorization_is_remembered_by_a_hash_that_differs_from_process_to_process() {
        let asker = Asker { authorization: Some(origin::Secret::new("Bearer x")), accept: Vec::new() };
        let upstreams = origin::Upstreams::new(&[], true).expect("none");
        let endpoint = upstreams.endpoint("quay.example").expect("a name").expect("allowed");
        let (one, two) = (Access::default(), Access::default());
        assert!(one.who(&asker, &endpoint) == one.who(&asker, &endpoint));
        assert!(one.who(&asker, &endpoint) != two.who(&asker, &endpoint));
        assert!(one.who(&Asker::default(), &endpoint) == Who::Own);
    }
}
