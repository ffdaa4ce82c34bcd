//! Buffers for blocks, used again and again.

use std::{
    collections::BTreeMap,
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, PoisonError},
};

/// The most bytes of idle buffers to keep.
const MOST_IDLE: usize = 64 * 1024 * 1024;

/// Idle buffers of any torrent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Buffers(Arc<Mutex<Idle>>);

#[derive(Debug, Default)]
struct Idle {
    /// By length, which is a power of two.
    lists: BTreeMap<usize, Vec<Vec<u8>>>,
    bytes: usize,
}

impl Buffers {
    /// A buffer of `length` bytes, whose content is left over from an earlier use.
    pub(crate) fn take(&self, length: usize) -> Buffer {
        let class = length.next_power_of_two().max(1);
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let reused = idle.lists.get_mut(&class).and_then(Vec::pop);
        if let Some(bytes) = &reused {
            idle.bytes -= bytes.len();
        }
        drop(idle);
        Buffer { bytes: reused.unwrap_or_else(|| vec![0; class]), length, home: self.clone() }
    }

    fn give_back(&self, bytes: Vec<u8>) {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.bytes + bytes.len() <= MOST_IDLE {
            idle.bytes += bytes.len();
            idle.lists.entry(bytes.len()).or_default().push(bytes);
        }
    }
}

/// A buffer that goes back to the others when dropped.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    length: usize,
    home: Buffers,
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(..self.length).unwrap_or_default()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.home.give_back(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back() {
        let buffers = Buffers::default();
        let first = buffers.take(10_000);
        assert_eq!(first.len(), 10_000);
        let address = first.as_ptr();
        drop(first);
        let second = buffers.take(16_384);
        assert_eq!((second.as_ptr(), second.len()), (address, 16_384));
    }
}
