//! Buffers that files are read into, used again: fresh memory costs more than the reading.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;

/// The length of each in bytes, and so the most that is read at once.
pub(crate) const BUFFER: usize = 256 * 1024;
/// How many are kept for later.
const KEPT: usize = 8;

static FREE: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// Bytes of a file, at most [`BUFFER`] of them. The buffer is free again when they are dropped.
pub(crate) fn read(file: &File, at: u64, length: usize) -> io::Result<Bytes> {
    let mut lent = Lent { buffer: take(), length: length.min(BUFFER) };
    file.read_exact_at(lent.buffer.get_mut(..lent.length).unwrap_or_default(), at)?;
    Ok(Bytes::from_owner(lent))
}

fn take() -> Vec<u8> {
    let free = FREE.lock().unwrap_or_else(PoisonError::into_inner).pop();
    free.unwrap_or_else(|| vec![0; BUFFER])
}

struct Lent {
    buffer: Vec<u8>,
    length: usize,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        self.buffer.get(..self.length).unwrap_or_default()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < KEPT {
            free.push(std::mem::take(&mut self.buffer));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_stay_what_they_are_while_other_buffers_come_and_go() {
        let file = tempfile::tempfile().expect("temp");
        let content: Vec<u8> = (0..BUFFER + 100).map(|n| (n % 251) as u8).collect();
        file.write_all_at(&content, 0).expect("written");
        let read = |at: usize, length| read(&file, at as u64, length).expect("read");
        let first = read(3, 7);
        let others: Vec<_> = (0..2 * KEPT).map(|n| read(n, BUFFER)).collect();
        assert_eq!(first, content[3..10]);
        assert!(others.iter().enumerate().all(|(n, bytes)| *bytes == content[n..n + BUFFER]));
        drop((first, others));
        assert!(FREE.lock().expect("whole").len() <= KEPT);
        assert_eq!(read(10, BUFFER + 1).len(), BUFFER, "at most a buffer");
        assert!(super::read(&file, BUFFER as u64, 101).is_err(), "past the end");
    }
}
