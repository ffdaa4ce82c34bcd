//! The `Authorization` headers that worked lately, by registry and scope.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::Secret;

/// How many are kept; a node pulls from far fewer repositories within a token's life.
const ENTRIES: usize = 1024;

/// Tokens under (registry, scope), each until shortly before it expires.
#[derive(Debug, Default)]
pub(crate) struct TokenCache {
    entries: Mutex<HashMap<(String, String), Entry>>,
}

#[derive(Debug, Clone)]
struct Entry {
    authorization: Secret,
    until: Instant,
}

impl TokenCache {
    /// The whole header value, such as `Bearer …`.
    pub(crate) fn get(&self, registry: &str, scope: &str) -> Option<Secret> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.get(&(registry.to_owned(), scope.to_owned()))?;
        (Instant::now() < entry.until).then(|| entry.authorization.clone())
    }

    /// Keeps `authorization` for nearly `life`: a request that begins with it should also arrive with it.
    pub(crate) fn put(&self, registry: &str, scope: &str, authorization: Secret, life: Duration) {
        let until = Instant::now() + life.saturating_sub((life / 4).min(Duration::from_secs(10)));
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= ENTRIES {
            let now = Instant::now();
            entries.retain(|_, entry| now < entry.until);
        }
        if entries.len() >= ENTRIES {
            let oldest = entries.iter().min_by_key(|(_, entry)| entry.until).map(|(key, _)| key.clone());
            oldest.and_then(|key| entries.remove(&key));
        }
        entries.insert((registry.to_owned(), scope.to_owned()), Entry { authorization, until });
    }

    /// Forgets `used`, unless another request has replaced it already.
    pub(crate) fn forget(&self, registry: &str, scope: &str, used: &Secret) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (registry.to_owned(), scope.to_owned());
        if entries.get(&key).is_some_and(|entry| entry.authorization == *used) {
            entries.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_token_is_used_until_shortly_before_it_expires() {
        let cache = TokenCache::default();
        cache.put("r", "s", Secret::new("Bearer a"), Duration::from_secs(60));
        tokio::time::advance(Duration::from_secs(49)).await;
        assert!(cache.get("r", "s").is_some());
        assert!(cache.get("r", "other").is_none());
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(cache.get("r", "s").is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_newer_token_outlives_the_refusal_of_an_older_one() {
        let cache = TokenCache::default();
        cache.put("r", "s", Secret::new("Bearer new"), Duration::from_secs(60));
        cache.forget("r", "s", &Secret::new("Bearer old"));
        assert_eq!(cache.get("r", "s"), Some(Secret::new("Bearer new")));
        cache.forget("r", "s", &Secret::new("Bearer new"));
        assert_eq!(cache.get("r", "s"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_cache_does_not_grow_without_end() {
        let cache = TokenCache::default();
        for n in 0..2 * ENTRIES as u64 {
            cache.put("r", &n.to_string(), Secret::new("Bearer x"), Duration::from_secs(60 + n));
        }
        assert_eq!(cache.entries.lock().unwrap().len(), ENTRIES);
        assert!(cache.get("r", &(2 * ENTRIES - 1).to_string()).is_some());
    }
}
