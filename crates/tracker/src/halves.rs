//! A map that holds so many and no more: when it is full, the elder half is forgotten.

use std::{collections::HashMap, hash::Hash};

/// What came last is in the younger half. When that is full, it becomes the elder one.
#[derive(Debug)]
pub(crate) struct Halves<K, V> {
    younger: HashMap<K, V>,
    elder: HashMap<K, V>,
    /// Of a half.
    most: usize,
}

impl<K: Eq + Hash, V> Halves<K, V> {
    pub(crate) fn new(most: usize) -> Self {
        Self { younger: HashMap::new(), elder: HashMap::new(), most: most / 2 }
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        if self.younger.len() >= self.most {
            self.turn();
        }
        self.elder.remove(&key);
        self.younger.insert(key, value);
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.younger.get(key).or_else(|| self.elder.get(key))
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        // An empty one would hash it all the same.
        [&mut self.younger, &mut self.elder]
            .into_iter()
            .filter(|half| !half.is_empty())
            .find_map(|half| half.remove(key))
    }

    /// Forgets the elder half.
    pub(crate) fn turn(&mut self) {
        self.elder = std::mem::take(&mut self.younger);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.younger.iter().chain(&self.elder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_are_kept() {
        let mut halves = Halves::new(10);
        for number in 0..100 {
            halves.insert(number, number);
            assert!(halves.iter().count() <= 10 && halves.get(&number) == Some(&number));
        }
        assert_eq!((halves.get(&95), halves.get(&94), halves.get(&89)), (Some(&95), Some(&94), None));
        halves.insert(94, 1);
        assert_eq!((halves.remove(&94), halves.remove(&94)), (Some(1), None), "there once");
        halves.turn();
        halves.turn();
        assert_eq!(halves.iter().count(), 0);
    }
}
