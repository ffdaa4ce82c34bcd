//! One piece of work for all who ask for the same thing at the same time.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, PoisonError},
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};

/// Work under way, by what it is for.
pub(crate) struct Singles<K, V: Clone> {
    running: Mutex<HashMap<K, Shared<BoxFuture<'static, V>>>>,
}

impl<K, V: Clone> Default for Singles<K, V> {
    fn default() -> Self {
        Self { running: Mutex::default() }
    }
}

impl<K: Eq + Hash + Clone, V: Clone + Send + Sync + 'static> Singles<K, V> {
    /// The result of the work for `key`: of what is under way, or of `work`, started now.
    pub(crate) async fn run(&self, key: K, work: impl FnOnce() -> BoxFuture<'static, V>) -> V {
        let shared = self.lock().entry(key.clone()).or_insert_with(|| work().shared()).clone();
        let result = shared.clone().await;
        let mut running = self.lock();
        if running.get(&key).is_some_and(|current| current.ptr_eq(&shared)) {
            running.remove(&key);
        }
        result
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<K, Shared<BoxFuture<'static, V>>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use super::*;

    #[tokio::test]
    async fn many_askers_make_one_piece_of_work() {
        let (singles, count) = (Singles::<u8, u32>::default(), Arc::new(AtomicU32::new(0)));
        let go = Arc::new(tokio::sync::Semaphore::new(0));
        let ask = || {
            let (count, go) = (count.clone(), go.clone());
            singles.run(7, move || {
                async move {
                    let _all_have_asked = go.acquire().await;
                    count.fetch_add(1, Ordering::Relaxed) + 1
                }
                .boxed()
            })
        };
        let asked = tokio::join!(ask(), ask(), ask(), async { go.add_permits(1) });
        assert_eq!(asked, (1, 1, 1, ()));
        assert_eq!(ask().await, 2, "what is done is done anew");
    }
}
