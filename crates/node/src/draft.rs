//! A blob on its way into the store, shared between who fetches it and the engine that notes its pieces.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use engine::ProofLog;
use metainfo::PieceIndex;
use store::{Evidence, JournalError, Partial};

/// A partial blob until it is committed.
#[derive(Clone)]
pub(crate) struct Draft(Arc<Mutex<Option<Partial>>>);

impl Draft {
    pub(crate) fn new(partial: Partial) -> Self {
        Self(Arc::new(Mutex::new(Some(partial))))
    }

    /// Takes the partial out; pieces can no longer be noted.
    pub(crate) fn take(&self) -> Option<Partial> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl ProofLog for Draft {
    fn proven(&self, piece: PieceIndex, evidence: Evidence) -> io::Result<()> {
        let draft = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let partial =
            draft.as_ref().ok_or_else(|| io::Error::other("the blob is no longer being fetched"))?;
        partial.mark_proven(piece, evidence).map_err(|error| match error {
            JournalError::NoSpace { .. } => io::Error::new(io::ErrorKind::StorageFull, error),
            other => io::Error::other(other),
        })
    }
}
