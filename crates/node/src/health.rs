//! Whether the node lives, and whether it does its work.

use std::{fs, io, time::Duration};

use hash::Digest;
use mirror::Health;
use tokio::{task::spawn_blocking, time::timeout};

use crate::content::{Content, Inner};

/// How long disk and threads may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// What is written to see whether anything can be.
static PROBE: [u8; 64 * 1024] = [0; 64 * 1024];

impl Content {
    /// Whether the node's insides move: what only a restart could mend is wrong otherwise.
    pub(crate) async fn lives(&self) -> bool {
        matches!(timeout(PATIENCE, spawn_blocking(|| ())).await, Ok(Ok(())))
    }
}

impl Inner {
    /// Ready is a node that can keep what it fetches. Without its directory it still serves what is here and passes the
    /// rest on, so that its clients are no worse off than without it: that is a problem, but no reason to turn them away.
    pub(crate) async fn health(&self) -> Health {
        let mut health = Health::default();
        let path = self.config.data.join("probe");
        let probe = spawn_blocking(move || {
            let written = fs::write(&path, PROBE);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => written.and(Err(error)),
                _ => written,
            }
        });
        match timeout(PATIENCE, probe).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => health.unready(format!("nothing can be kept in the store: {error}")),
            Ok(Err(error)) => health.unready(format!("nothing can be kept in the store: {error}")),
            Err(_) => health.unready(format!("the disk has not answered within {} s", PATIENCE.as_secs())),
        }
        if let Some(directory) = &self.directory {
            // Any digest will do: what counts is that an answer comes.
            if let Err(error) = directory.get(&Digest::of(b"")).await {
                health.problems.push(format!("the content directory does not answer: {error}"));
            }
        }
        health
    }
}
