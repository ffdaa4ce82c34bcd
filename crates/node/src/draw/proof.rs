//! What a file must be, and what becomes of the fleet's word for it when it is something else.
//!
//! The directory's word is no proof: whoever told it may have been given wrong bytes, or may lie. So what comes of it is
//! held against the object's name, and against what the server gives where the fleet has nothing. Where it does not fit,
//! the file is drawn anew, and the directory told so.

use std::{
    collections::HashMap,
    fs::File,
    os::unix::fs::FileExt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use hash::{Digest, Sha256};
use origin::Home;
use ostree::ContentObject;
use tokio::{sync::Semaphore, task::spawn_blocking, time::Instant};
use url::Url;

use crate::{
    access::put,
    content::Inner,
    flight::{FetchError, Flight},
    meant::Meant,
};

/// How many blobs are held against their names at once.
const AT_ONCE: usize = 4;
/// How long the fleet's word for a file is not taken, where something else came of it: until it is drawn anew, or that
/// has failed and the word may be worth another try.
const DOUBT: Duration = Duration::from_secs(600);
/// How much of a file is read at a time.
const CHUNK: usize = 256 * 1024;

/// What is held against a file that comes: its digest, its length, and its name where it is an object of OSTree.
pub(super) struct Check<'a> {
    meant: &'a Meant,
    hasher: Sha256,
    object: Option<ContentObject>,
}

impl<'a> Check<'a> {
    pub(super) fn new(meant: &'a Meant) -> Self {
        let object = meant.object.map(|_| ContentObject::default());
        Self { meant, hasher: Sha256::new(), object }
    }

    /// Few bytes may unpack to many: that is done beside the runtime.
    pub(super) async fn update(&mut self, chunk: Bytes) -> Result<(), FetchError> {
        self.hasher.update(&chunk);
        if let Some(mut object) = self.object.take() {
            let unpacked = spawn_blocking(move || object.update(&chunk).map(|()| object)).await;
            self.object =
                Some(unpacked.map_err(FetchError::disk)?.map_err(|why| self.refuse(why.to_string()))?);
        }
        Ok(())
    }

    /// The digest of a file that is what it must be, and has so many bytes.
    pub(super) fn finish(mut self, received: u64) -> Result<Digest, FetchError> {
        if !self.meant.has_length(Some(received)) {
            return Err(self.refuse("it is not as long as it was just said to be".to_owned()));
        }
        if let (Some(object), Some(name)) = (self.object.take(), self.meant.object) {
            is_object(object, name).map_err(|why| self.refuse(why))?;
        }
        Ok(Digest::from_bytes(self.hasher.finalize()))
    }

    fn refuse(&self, why: String) -> FetchError {
        FetchError::WrongFile { home: self.meant.home().to_string(), why }
    }
}

/// Whether what was read is the object of this name; else why not.
fn is_object(object: ContentObject, name: Digest) -> Result<(), String> {
    match object.finish() {
        Ok(found) if found == name => Ok(()),
        Ok(found) => Err(format!("it is the object {}", found.hex())),
        Err(error) => Err(error.to_string()),
    }
}

/// What is thought of the fleet's words.
pub(crate) struct Proofs {
    /// Which files clients are given on its word, while that comes: by their URL, and as what.
    expected: Mutex<HashMap<(Url, Digest), (Instant, Meant)>>,
    /// As what it has a file, and wrongly: by the hash of the file's key.
    doubted: Mutex<HashMap<Digest, (Instant, Digest)>>,
    turns: Semaphore,
}

impl Default for Proofs {
    fn default() -> Self {
        Self { expected: Mutex::default(), doubted: Mutex::default(), turns: Semaphore::new(AT_ONCE) }
    }
}

impl Proofs {
    fn expect(&self, meant: &Meant, digest: Digest) {
        put(&self.expected, (meant.url.clone(), digest), meant.clone(), |_| DOUBT);
    }

    /// The file that a blob was expected for, which is over with this.
    fn expected(&self, url: &Url, digest: Digest) -> Option<Meant> {
        let mut expected = self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        expected.remove(&(url.clone(), digest)).map(|(_, meant)| meant)
    }

    fn doubt(&self, key: &str, digest: Digest) {
        put(&self.doubted, Digest::of(key.as_bytes()), digest, |_| DOUBT);
    }

    pub(super) fn is_doubted(&self, key: &str, digest: Digest) -> bool {
        let doubted = self.doubted.lock().unwrap_or_else(PoisonError::into_inner);
        let doubted = doubted.get(&Digest::of(key.as_bytes()));
        doubted.is_some_and(|(at, doubted)| *doubted == digest && at.elapsed() < DOUBT)
    }
}

impl Inner {
    /// A client is given a blob for a file on the fleet's word: what is here of it is looked at now, and else what comes.
    pub(super) async fn expect(self: &Arc<Self>, meant: &Meant, digest: Digest) {
        match self.stored(digest).await {
            Ok(Some(_)) => self.prove(meant, digest),
            _ => self.sites.proofs.expect(meant, digest),
        }
    }

    /// A blob of the web has come, or has not: was it on the fleet's word?
    pub(crate) fn landed(self: &Arc<Self>, flight: &Flight, outcome: &Result<(), FetchError>) {
        let Home::Web(url) = &flight.home else { return };
        let Some(meant) = self.sites.proofs.expected(url, flight.digest) else { return };
        match outcome {
            Ok(()) => self.prove(&meant, flight.digest),
            Err(error) if error.is_unlike() => self.doubt(&meant, flight.digest, &error.to_string()),
            // That says nothing of the word.
            Err(_) => {}
        }
    }

    /// Holds a blob that is here against the object that it is said to be.
    fn prove(self: &Arc<Self>, meant: &Meant, digest: Digest) {
        let Some(name) = meant.object else { return };
        let (inner, meant) = (self.clone(), meant.clone());
        self.tasks.spawn(async move {
            // Never closed.
            let Ok(_turn) = inner.sites.proofs.turns.acquire().await else { return };
            let Ok(Some((blob, file))) = inner.stored(digest).await else { return };
            let proven = spawn_blocking(move || proven(&file, blob.size, name)).await;
            if let Ok(Ok(Err(why))) = proven {
                inner.doubt(&meant, digest, &why);
            }
        });
    }

    fn doubt(self: &Arc<Self>, meant: &Meant, digest: Digest, why: &str) {
        let home = meant.home();
        tracing::warn!(%home, %digest, why, "the fleet takes another file for it: it is drawn anew");
        self.sites.proofs.doubt(&meant.key, digest);
        self.sites.unsee(&meant.key, digest);
        // Whoever asks for it meanwhile finds this. Where it cannot begin now, it does when it is asked for.
        self.draw(meant);
    }
}

/// Whether a file holds an object; else why not.
fn proven(file: &File, size: u64, name: Digest) -> std::io::Result<Result<(), String>> {
    let (mut object, mut buffer, mut at) = (ContentObject::default(), vec![0; CHUNK], 0);
    while at < size {
        let read = file.read_at(&mut buffer, at)?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        at += read as u64;
        if let Err(error) = object.update(buffer.get(..read).unwrap_or_default()) {
            return Ok(Err(error.to_string()));
        }
    }
    Ok(is_object(object, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_doubt_is_of_one_file_as_one_blob_and_passes() {
        let (proofs, one, two) = (Proofs::default(), Digest::of(b"1"), Digest::of(b"2"));
        proofs.doubt("a", one);
        assert!(proofs.is_doubted("a", one) && !proofs.is_doubted("a", two) && !proofs.is_doubted("b", one));
        tokio::time::advance(DOUBT).await;
        assert!(!proofs.is_doubted("a", one));
    }

    #[test]
    fn a_blob_that_comes_is_asked_about_once() {
        let (proofs, digest) = (Proofs::default(), Digest::of(b"1"));
        let url = Url::parse("http://a.test/x").expect("a URL");
        proofs.expect(&Meant::fixed(url.clone()), digest);
        assert!(proofs.expected(&url, Digest::of(b"2")).is_none());
        assert_eq!(proofs.expected(&url, digest).map(|meant| meant.url), Some(url.clone()));
        assert!(proofs.expected(&url, digest).is_none());
    }
}
