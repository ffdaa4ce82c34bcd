//! No sequence of operations, reopenings and damage makes a blob visible that is not whole and proven.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

extern crate longshore_store as store;

#[allow(dead_code, reason = "not every test file uses all of it")]
mod common;

use std::{collections::HashMap, fs, sync::Arc};

use common::{PIECE, bytes, check_partial, check_visible, digest, evidence, write_piece};
use metainfo::PieceIndex;
use proptest::prelude::*;
use store::{Partial, Store};

#[derive(Debug, Clone, Copy)]
enum Step {
    Begin(u8),
    Write(u8, u32),
    /// Marks a piece with the evidence of another: a caller that is wrong.
    MarkWrong(u8, u32, u32),
    Commit(u8),
    Suspend(u8),
    Discard(u8),
    Put(u8),
    PutWrong(u8),
    Remove(u8),
    Touch(u8),
    Reopen,
    /// Cuts a journal and reopens.
    Tear(u8, prop::sample::Index),
    /// Puts a file under a blob's name, of other bytes, and reopens.
    Forge(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let seed = || prop_oneof![Just(0u8), Just(2), Just(9), Just(18)];
    prop_oneof![
        4 => seed().prop_map(Step::Begin),
        8 => (seed(), 0u32..6).prop_map(|(seed, piece)| Step::Write(seed, piece)),
        1 => (seed(), 0u32..6, 0u32..6).prop_map(|(seed, a, b)| Step::MarkWrong(seed, a, b)),
        4 => seed().prop_map(Step::Commit),
        1 => seed().prop_map(Step::Suspend),
        1 => seed().prop_map(Step::Discard),
        1 => seed().prop_map(Step::Put),
        1 => seed().prop_map(Step::PutWrong),
        1 => seed().prop_map(Step::Remove),
        1 => seed().prop_map(Step::Touch),
        1 => Just(Step::Reopen),
        1 => (seed(), any::<prop::sample::Index>()).prop_map(|(seed, at)| Step::Tear(seed, at)),
        1 => seed().prop_map(Step::Forge),
    ]
}

struct World {
    dir: tempfile::TempDir,
    store: Arc<Store>,
    open: HashMap<u8, Partial>,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = Store::open(dir.path()).expect("opens");
        Self { dir, store, open: HashMap::new() }
    }

    fn reopen(self, between: impl FnOnce(&std::path::Path)) -> Self {
        let Self { dir, store, open } = self;
        drop(open);
        drop(store);
        between(dir.path());
        let store = Store::open(dir.path()).expect("opens");
        Self { dir, store, open: HashMap::new() }
    }

    fn step(mut self, step: Step) -> Self {
        match step {
            Step::Begin(seed) => {
                if let Ok(partial) = self.store.begin(&digest(seed), bytes(seed).len() as u64, PIECE) {
                    check_partial(&partial, seed);
                    self.open.insert(seed, partial);
                }
            }
            Step::Write(seed, piece) => {
                if let Some(partial) = self.open.get(&seed)
                    && piece < partial.geometry().piece_count()
                {
                    write_piece(partial, seed, piece);
                }
            }
            Step::MarkWrong(seed, piece, other) => {
                if let Some(partial) = self.open.get(&seed)
                    && let Some(&wrong) = evidence(seed).get(other as usize)
                    && other != piece
                {
                    let _ = partial.mark_proven(PieceIndex(piece), wrong);
                }
            }
            Step::Commit(seed) => {
                if let Some(partial) = self.open.remove(&seed) {
                    let _ = partial.commit(None);
                }
            }
            Step::Suspend(seed) => drop(self.open.remove(&seed)),
            Step::Discard(seed) => {
                if let Some(partial) = self.open.remove(&seed) {
                    partial.discard();
                }
            }
            Step::Put(seed) => {
                let put = self.store.put_bytes(&digest(seed), &bytes(seed), None, None);
                assert!(put.is_ok() || self.open.contains_key(&seed), "{put:?}");
            }
            Step::PutWrong(seed) => {
                assert!(self.store.put_bytes(&digest(seed), b"other bytes", None, None).is_err());
            }
            Step::Remove(seed) => {
                let removed = self.store.remove(&digest(seed));
                assert!(removed.is_ok() || self.open.contains_key(&seed), "{removed:?}");
            }
            Step::Touch(seed) => self.store.touch(&digest(seed)),
            Step::Reopen => return self.reopen(|_| {}),
            Step::Tear(seed, at) => {
                return self.reopen(|dir| {
                    let path = dir.join("partial").join(digest(seed).hex()).with_extension("journal");
                    if let Ok(whole) = fs::read(&path) {
                        fs::write(&path, &whole[..at.index(whole.len() + 1)]).expect("writes");
                    }
                });
            }
            Step::Forge(seed) => {
                let path = self.store.blob_path(&digest(seed));
                return self.reopen(|_| {
                    let _ = fs::remove_file(&path);
                    fs::write(&path, b"forged").expect("writes");
                });
            }
        }
        self
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_visible_blob_is_always_whole_and_proven(steps in proptest::collection::vec(step(), 1..40)) {
        let mut world = World::new();
        for step in steps {
            world = world.step(step);
            check_visible(&world.store);
        }
        let world = world.reopen(|_| {});
        check_visible(&world.store);
    }
}
