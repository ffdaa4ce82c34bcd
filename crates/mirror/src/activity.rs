//! Whether anything is asked, so that a mirror that is to stop knows when the pulls that it has begun are over.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep};

/// How often a mirror that is to stop looks.
const LOOK: Duration = Duration::from_millis(20);

/// What goes on.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    busy: AtomicUsize,
    /// When an answer last ended.
    last: Mutex<Option<Instant>>,
    draining: AtomicBool,
}

/// An answer under way.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Activity>);

impl Activity {
    /// An answer begins, and lasts as long as what this gives.
    pub(crate) fn begin(this: &Arc<Self>) -> Busy {
        this.busy.fetch_add(1, SeqCst);
        Busy(this.clone())
    }

    /// No new pulls.
    pub(crate) fn drain(&self) {
        self.draining.store(true, SeqCst);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(SeqCst)
    }

    /// Waits until nothing has gone on for a time.
    pub(crate) async fn quiet(&self, time: Duration) {
        loop {
            let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
            if self.busy.load(SeqCst) == 0 && last.is_none_or(|last| last.elapsed() >= time) {
                return;
            }
            sleep(LOOK).await;
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        *self.0.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(now());
        self.0.busy.fetch_sub(1, SeqCst);
    }
}

#[allow(clippy::disallowed_methods, reason = "a server is a driver")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_quiet_when_nothing_has_gone_on_for_the_time() {
        let (activity, time) = (Arc::new(Activity::default()), Duration::from_secs(1));
        let begun = Instant::now();
        activity.quiet(time).await;
        assert_eq!(begun.elapsed(), Duration::ZERO, "nothing was ever asked");
        let busy = Activity::begin(&activity);
        tokio::spawn(async move {
            sleep(Duration::from_secs(5)).await;
            drop(busy);
        });
        activity.quiet(time).await;
        assert!((6.0..6.1).contains(&begun.elapsed().as_secs_f32()));
    }
}
