//! The right to fetch from the origin, while it is needed.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use api::directory::{Lease, Renewal};
use hash::Digest;
use tokio::{runtime::Handle, task::JoinHandle, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::content::Inner;

/// A lease that is renewed until it is dropped, and then given back, so that others need not wait until it runs out.
pub(crate) struct Held {
    inner: Arc<Inner>,
    digest: Digest,
    /// The latest: a tracker that was restarted gives it a new id.
    lease: Arc<Mutex<Lease>>,
    renewing: Option<JoinHandle<()>>,
    stop: CancellationToken,
    over: bool,
}

impl Held {
    pub(crate) fn new(inner: &Arc<Inner>, digest: Digest, lease: Lease) -> Self {
        let lease = Arc::new(Mutex::new(lease));
        let stop = CancellationToken::new();
        let renewing = inner.tasks.spawn(renew(inner.clone(), digest, lease.clone(), stop.clone()));
        Self { inner: inner.clone(), digest, lease, renewing: Some(renewing), stop, over: false }
    }

    /// Its id.
    pub(crate) fn id(&self) -> String {
        current(&self.lease).lease
    }

    /// The blob is published, which ends the lease: nothing is to be given back.
    pub(crate) fn published(mut self) {
        self.over = true;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.stop.cancel();
        // Without a runtime there is no network either: the lease runs out by itself.
        let (false, Ok(runtime)) = (self.over, Handle::try_current()) else { return };
        let (inner, digest, lease) = (self.inner.clone(), self.digest, self.lease.clone());
        let renewing = self.renewing.take();
        let give_back = async move {
            let Some(directory) = &inner.directory else { return };
            // A renewal that is on its way must not come behind this: it would bring the lease back.
            if let Some(renewing) = renewing {
                // It ends with its call's deadline, and cannot fail.
                let _ = renewing.await;
            }
            let id = current(&lease).lease;
            if let Err(error) = directory.release(&digest, &id, &inner.name).await {
                tracing::debug!(%digest, %error, "lease not given back");
            }
        };
        // The node's end waits for it.
        self.inner.tasks.spawn_on(give_back, &runtime);
    }
}

async fn renew(inner: Arc<Inner>, digest: Digest, lease: Arc<Mutex<Lease>>, stop: CancellationToken) {
    let Some(directory) = &inner.directory else { return };
    let mut failed = false;
    loop {
        let Lease { lease: id, ttl_ms } = current(&lease);
        // After a failure there is less time left.
        let pause = Duration::from_millis(ttl_ms / if failed { 20 } else { 3 });
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(pause) => {}
        }
        let renewed = directory.renew(&digest, &id, &inner.name).await;
        failed = renewed.is_err();
        match renewed {
            Ok(Renewal::Leased(renewed)) => *lease.lock().unwrap_or_else(PoisonError::into_inner) = renewed,
            Ok(Renewal::Known | Renewal::Lost { .. }) => return,
            Err(error) => tracing::debug!(%digest, %error, "lease not renewed"),
        }
    }
}

fn current(lease: &Mutex<Lease>) -> Lease {
    lease.lock().unwrap_or_else(PoisonError::into_inner).clone()
}
