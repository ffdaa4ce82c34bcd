//! What a store looks like after its process, or part of its files, is gone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
#![allow(clippy::disallowed_methods, reason = "the child learns its directory from the environment")]

extern crate longshore_store as store;

#[allow(dead_code, reason = "not every test file uses all of it")]
mod common;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use bytes::Bytes;
use common::{PIECE, bytes, check_partial, check_visible, digest, write_piece};
use hash::Digest;
use store::{BeginError, Store};

const DIR: &str = "STORE_CRASH_TEST_DIR";

/// Not a test by itself: what the child process of the test below does until it is killed.
#[test]
#[ignore = "run as a child process by `a_killed_process_loses_nothing_that_was_marked_or_committed`"]
fn child() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let store = Store::open(dir).expect("opens");
    for round in 0.. {
        for seed in 1..=250u8 {
            let digest = digest(seed);
            if round % 2 == 1 {
                store.remove(&digest).expect("removes");
                println!("\ngone {seed}");
                continue;
            }
            if seed % 5 == 0 {
                store
                    .put_bytes(&digest, &bytes(seed), Some("m"), Some(Bytes::from_static(b"de")))
                    .expect("puts");
                println!("\nhere {seed}");
                continue;
            }
            let partial = match store.begin(&digest, bytes(seed).len() as u64, PIECE) {
                Ok(partial) => partial,
                Err(BeginError::Present(_)) => continue,
                Err(error) => panic!("{error}"),
            };
            check_partial(&partial, seed);
            for piece in 0..partial.geometry().piece_count() {
                write_piece(&partial, seed, piece);
                println!("\npiece {seed} {piece}");
            }
            partial.commit(Some("m")).expect("commits");
            println!("\nhere {seed}");
        }
    }
}

#[test]
fn a_killed_process_loses_nothing_that_was_marked_or_committed() {
    let dir = tempfile::tempdir().expect("tempdir");
    for round in 0..8 {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "child", "--ignored", "--nocapture"])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        // Killed after so many words, wherever it is then.
        let words = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
        let mut said: Vec<String> = Vec::new();
        let mut words =
            words.filter(|line| ["piece ", "here ", "gone "].iter().any(|word| line.starts_with(word)));
        said.extend(words.by_ref().take(17 + round * 41));
        child.kill().expect("kills");
        said.extend(words);
        child.wait().expect("ends");
        assert!(said.len() >= 17, "the child did not get far: {said:?}");

        let store = Store::open(dir.path()).expect("opens after the kill");
        check_visible(&store);
        for seed in 1..=250u8 {
            let last = said.iter().rev().find(|line| line.split(' ').nth(1) == Some(&seed.to_string()));
            let Some(last) = last else { continue };
            let digest = digest(seed);
            let blob = store.get(&digest).expect("reads");
            match last.split(' ').collect::<Vec<_>>()[..] {
                ["here", _] => {
                    // A removal may have begun after the last word.
                    if let Some(blob) = blob {
                        assert_eq!(blob.media_type.as_deref(), Some("m"));
                    }
                }
                ["piece", _, piece] if blob.is_none() => {
                    let partial = store.begin(&digest, bytes(seed).len() as u64, PIECE).expect("begins");
                    check_partial(&partial, seed);
                    let marked: u32 = piece.parse().expect("a number");
                    assert!(partial.proven_count() > marked, "piece {marked} was marked and is lost");
                }
                _ => {}
            }
        }
        let committed = said.iter().filter(|line| line.starts_with("here")).count();
        let gone = said.iter().any(|line| line.starts_with("gone"));
        assert!(gone || store.count_and_bytes().0 >= committed as u64);
    }
}

#[test]
fn a_file_without_a_row_is_hashed_and_taken_in_or_removed() {
    let dir = tempfile::tempdir().expect("tempdir");
    let store = Store::open(dir.path()).expect("opens");
    let (good, bad) = (Digest::of(b"good"), Digest::of(b"bad"));
    let paths = [store.blob_path(&good), store.blob_path(&bad)];
    drop(store);
    fs::write(&paths[0], b"good").expect("writes");
    fs::write(&paths[1], b"not it").expect("writes");
    let store = Store::open(dir.path()).expect("opens");
    assert_eq!(store.get(&good).expect("reads").expect("taken in").size, 4);
    assert_eq!(store.get(&bad).expect("reads"), None);
    assert!(!paths[1].exists());
    check_visible(&store);
}

#[test]
fn a_row_without_a_file_or_with_a_cut_one_is_dropped() {
    let dir = tempfile::tempdir().expect("tempdir");
    let store = Store::open(dir.path()).expect("opens");
    for bytes in [b"gone", b"torn", b"kept"] {
        store.put_bytes(&Digest::of(bytes), bytes, None, None).expect("puts");
    }
    let (gone, torn) = (Digest::of(b"gone"), Digest::of(b"torn"));
    fs::remove_file(store.blob_path(&gone)).expect("removes");
    let path = store.blob_path(&torn);
    fs::remove_file(&path).expect("removes");
    fs::write(&path, b"to").expect("writes");
    drop(store);
    let store = Store::open(dir.path()).expect("opens");
    assert_eq!(store.count_and_bytes(), (1, 4));
    check_visible(&store);
}

#[test]
fn a_lost_or_damaged_index_is_built_anew_from_the_blobs() {
    let dir = tempfile::tempdir().expect("tempdir");
    let store = Store::open(dir.path()).expect("opens");
    store.put_bytes(&Digest::of(b"abc"), b"abc", None, None).expect("puts");
    drop(store);
    let index = dir.path().join("index.redb");
    fs::write(&index, vec![0x5a; 8192]).expect("writes");
    let store = Store::open(dir.path()).expect("opens");
    assert_eq!(store.count_and_bytes(), (1, 3));
    drop(store);
    fs::remove_file(&index).expect("removes");
    let store = Store::open(dir.path()).expect("opens");
    assert_eq!(store.count_and_bytes(), (1, 3));
    check_visible(&store);
}

#[test]
fn partial_blobs_stay_only_if_they_can_be_continued() {
    let dir = tempfile::tempdir().expect("tempdir");
    let partials = dir.path().join("partial");
    let store = Store::open(dir.path()).expect("opens");
    for seed in [18, 19, 20, 21] {
        let partial = store.begin(&digest(seed), bytes(seed).len() as u64, PIECE).expect("begins");
        write_piece(&partial, seed, 0);
        partial.set_torrent(Bytes::from_static(b"de")).expect("notes");
    }
    drop(store);
    fs::remove_file(partials.join(digest(18).hex())).expect("removes");
    fs::remove_file(partials.join(digest(19).hex()).with_extension("journal")).expect("removes");
    fs::write(partials.join(digest(20).hex()), b"cut").expect("writes");
    fs::write(partials.join(digest(21).hex()).with_extension("note.new"), b"torn").expect("writes");
    fs::write(partials.join("README"), b"not ours").expect("writes");
    let store = Store::open(dir.path()).expect("opens");
    let left: Vec<_> = store.partials().expect("lists").iter().map(|left| left.digest).collect();
    assert_eq!(left, [digest(21)]);
    let mut names: Vec<_> =
        fs::read_dir(&partials).expect("reads").map(|e| e.expect("entry").file_name()).collect();
    names.sort();
    assert_eq!(names.len(), 4, "{names:?}");
    let partial = store.begin(&digest(21), bytes(21).len() as u64, PIECE).expect("begins");
    assert_eq!((partial.proven_count(), partial.torrent()), (1, Some(Bytes::from_static(b"de"))));
}
