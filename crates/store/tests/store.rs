//! What goes in comes out, once and whole.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

extern crate longshore_store as store;

#[allow(dead_code, reason = "not every test file uses all of it")]
mod common;

use std::{
    fs::{self, File},
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use common::{PIECE, bytes, check_visible, digest, evidence, write_piece};
use hash::Digest;
use metainfo::{InfoHash, PieceIndex};
use store::{BeginError, BorrowError, ChainError, CommitError, OpenError, PutError, RemoveError, Store};

const SEED: u8 = 18; // 666 bytes: six pieces of 128

fn info() -> Bytes {
    Bytes::from_static(b"d6:lengthi3ee")
}

#[test]
fn pieces_in_any_order_make_a_blob() {
    let dir = tempfile::tempdir().expect("tempdir");
    let store = Store::open(dir.path()).expect("opens");
    let (digest, data) = (digest(SEED), bytes(SEED));
    let partial = store.begin(&digest, data.len() as u64, PIECE).expect("begins");
    assert!(matches!(store.begin(&digest, 1, PIECE), Err(BeginError::Busy(d)) if d == digest));
    partial.set_torrent(info()).expect("notes");
    for piece in [3, 0, 5, 1, 4, 2] {
        assert_eq!(store.get(&digest).expect("reads"), None);
        write_piece(&partial, SEED, piece);
    }
    let blob = partial.commit(Some("text/plain")).expect("commits");
    assert_eq!(store.get(&digest).expect("reads").as_ref(), Some(&blob));
    assert_eq!((blob.size, blob.media_type.as_deref()), (666, Some("text/plain")));
    let info_hash = InfoHash::from_bytes(hash::sha1(&info()));
    assert_eq!((blob.info, blob.info_hash), (Some(info()), Some(info_hash)));
    assert_eq!(store.find_info_hash(&info_hash).expect("reads"), Some(digest));
    assert_eq!(fs::read_dir(dir.path().join("partial")).expect("reads").count(), 0);
    assert!(matches!(store.begin(&digest, 666, PIECE), Err(BeginError::Present(_))));
    check_visible(&store);

    assert!(store.remove(&digest).expect("removes"));
    assert!(!store.remove(&digest).expect("removes"));
    assert_eq!(store.find_info_hash(&info_hash).expect("reads"), None);
    assert_eq!(store.count_and_bytes(), (0, 0));
    assert!(store.open_blob(&digest).is_err());
}

#[test]
fn a_suspended_blob_goes_on_where_it_was_even_in_another_process() {
    let dir = tempfile::tempdir().expect("tempdir");
    let digest = digest(SEED);
    let store = Store::open(dir.path()).expect("opens");
    let partial = store.begin(&digest, 666, PIECE).expect("begins");
    write_piece(&partial, SEED, 2);
    partial.set_torrent(info()).expect("notes");
    assert_eq!(store.partials().expect("lists"), []);
    partial.suspend();
    drop(store);

    let store = Store::open(dir.path()).expect("opens");
    let left = store.partials().expect("lists");
    assert_eq!(left.len(), 1);
    assert_eq!((left[0].digest, left[0].size, left[0].piece_length), (digest, 666, PIECE));
    let partial = store.begin(&digest, 666, PIECE).expect("begins");
    assert_eq!(partial.proven(), [(PieceIndex(2), evidence(SEED)[2])]);
    assert_eq!(partial.torrent(), Some(info()));
    for piece in [0, 1, 3, 4, 5] {
        write_piece(&partial, SEED, piece);
    }
    partial.commit(None).expect("commits");
    check_visible(&store);
}

#[test]
fn what_is_not_proven_is_not_committed_and_not_lost() {
    let dir = tempfile::tempdir().expect("tempdir");
    let store = Store::open(dir.path()).expect("opens");
    let digest = digest(SEED);
    let partial = store.begin(&digest, 666, PIECE).expect("begins");
    write_piece(&partial, SEED, 0);
    assert!(matches!(
        partial.commit(None),
        Err(CommitError::Unproven { reason: ChainError::Missing(1), .. })
    ));
    let partial = store.begin(&digest, 666, PIECE).expect("begins again");
    assert_eq!(partial.proven_count(), 1);
    // Evidence of another blob of the same length does not join.
    for piece in 1..6 {
        partial.mark_proven(PieceIndex(piece), evidence(SEED)[0]).expect("marks");
    }
    assert!(matches!(partial.commit(None), Err(CommitError::Unproven { reason: ChainError::Broken(1), .. })));
    assert_eq!(store.count_and_bytes(), (0, 0));
}

#[test]
fn a_blob_begun_with_another_cut_starts_anew() {
    let dir = tempfile::tempdir().expect("tempdir");
    let store = Store::open(dir.path()).expect("opens");
    let digest = digest(SEED);
    let partial = store.begin(&digest, 666, PIECE).expect("begins");
    write_piece(&partial, SEED, 0);
    partial.suspend();
    let partial = store.begin(&digest, 666, 2 * PIECE).expect("begins");
    assert_eq!(partial.proven_count(), 0);
    partial.suspend();
    let partial = store.begin(&digest, 600, PIECE).expect("begins");
    assert_eq!((partial.proven_count(), partial.file().metadata().expect("stat").len()), (0, 600));
    partial.discard();
    assert_eq!(store.partials().expect("lists"), []);
    assert!(matches!(store.begin(&digest, 666, 100), Err(BeginError::Geometry { .. })));
    assert!(matches!(store.begin(&digest, 666, 0), Err(BeginError::Geometry { .. })));
    assert!(matches!(store.begin(&digest, u64::MAX, 64), Err(BeginError::Geometry { .. })));
}

#[test]
fn small_blobs_go_in_at_once_and_their_digest_is_checked() {
    let dir = tempfile::tempdir().expect("tempdir");
    let store = Store::open(dir.path()).expect("opens");
    let digest = Digest::of(b"abc");
    assert!(matches!(
        store.put_bytes(&digest, b"abd", None, None),
        Err(PutError::Digest { expected, found }) if expected == digest && found == Digest::of(b"abd")
    ));
    let first = store.put_bytes(&digest, b"abc", None, None).expect("puts");
    assert_eq!((first.media_type, first.info), (None, None));
    let again = store.put_bytes(&digest, b"abc", Some("m"), Some(info())).expect("puts");
    assert_eq!((again.media_type.as_deref(), again.info), (Some("m"), Some(info())));
    let third = store.put_bytes(&digest, b"abc", Some("other"), None).expect("puts");
    assert_eq!(third.media_type.as_deref(), Some("m"));
    assert_eq!(fs::read(store.blob_path(&digest)).expect("reads"), b"abc");
    let empty = store.put_bytes(&Digest::of(b""), b"", None, None).expect("puts");
    assert_eq!(empty.size, 0);
    let info = Bytes::from_static(b"de");
    let told = store.set_torrent(&empty.digest, info.clone()).expect("sets").expect("is here");
    assert_eq!(store.find_info_hash(&told.info_hash.expect("set")).expect("reads"), Some(empty.digest));
    assert_eq!(store.set_torrent(&Digest::of(b"none"), info).expect("sets"), None);
    check_visible(&store);
}

#[test]
fn an_empty_blob_needs_no_pieces() {
    let dir = tempfile::tempdir().expect("tempdir");
    let store = Store::open(dir.path()).expect("opens");
    let partial = store.begin(&Digest::of(b""), 0, PIECE).expect("begins");
    partial.commit(None).expect("commits");
    let other = store.begin(&Digest::of(b"x"), 0, PIECE).expect("begins");
    assert!(matches!(other.commit(None), Err(CommitError::Unproven { .. })));
    check_visible(&store);
}

#[test]
fn a_blob_that_is_being_written_can_be_neither_put_nor_removed() {
    let dir = tempfile::tempdir().expect("tempdir");
    let store = Store::open(dir.path()).expect("opens");
    let digest = Digest::of(b"abc");
    let partial = store.begin(&digest, 3, PIECE).expect("begins");
    assert!(matches!(store.put_bytes(&digest, b"abc", None, None), Err(PutError::Busy(_))));
    assert!(matches!(store.remove(&digest), Err(RemoveError::Busy(_))));
    assert!(!store.discard_partial(&digest));
    drop(partial);
    assert!(store.discard_partial(&digest));
    store.put_bytes(&digest, b"abc", None, None).expect("puts");
}

#[test]
fn a_second_process_is_turned_away_with_the_first_ones_id() {
    let dir = tempfile::tempdir().expect("tempdir");
    let store = Store::open(dir.path()).expect("opens");
    let error = Store::open(dir.path()).expect_err("locked");
    assert!(matches!(&error, OpenError::Locked { .. }));
    assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
    drop(store);
    Store::open(dir.path()).expect("opens");
}

#[test]
fn touches_are_seen_at_once_and_survive_a_restart() {
    let dir = tempfile::tempdir().expect("tempdir");
    let store = Store::open(dir.path()).expect("opens");
    let digest = Digest::of(b"abc");
    let blob = store.put_bytes(&digest, b"abc", None, None).expect("puts");
    store.touch(&digest);
    store.touch(&Digest::of(b"not here"));
    let touched = store.get(&digest).expect("reads").expect("is here").last_used;
    assert!(touched >= blob.last_used);
    drop(store);
    let store = Store::open(dir.path()).expect("opens");
    assert_eq!(store.get(&digest).expect("reads").expect("is here").last_used, touched);
    assert_eq!(store.count_and_bytes(), (1, 3));
}

#[test]
fn what_anybody_may_have_is_known_before_it_comes_and_after_a_restart_and_goes_with_it() {
    let dir = tempfile::tempdir().expect("tempdir");
    let store = Store::open(dir.path()).expect("opens");
    let (open, closed) = (Digest::of(b"abc"), Digest::of(b"def"));
    store.mark_public(&open);
    assert!(store.put_bytes(&open, b"abc", None, None).expect("puts").public);
    assert!(!store.put_bytes(&closed, b"def", None, None).expect("puts").public);
    drop(store);
    let store = Store::open(dir.path()).expect("opens");
    let public = |digest| store.get(digest).expect("reads").expect("is here").public;
    assert!(public(&open) && !public(&closed));
    assert_eq!(store.list(None, 10).expect("lists").iter().filter(|blob| blob.public).count(), 1);
    store.mark_public(&closed);
    assert!(public(&closed), "seen at once");
    store.remove(&open).expect("removes");
    assert!(!store.put_bytes(&open, b"abc", None, None).expect("puts").public);
}

#[test]
fn many_threads_put_at_once_and_share_the_flush() {
    let dir = tempfile::tempdir().expect("tempdir");
    let store = Store::open(dir.path()).expect("opens");
    let threads: Vec<_> = (0..8u8)
        .map(|thread| {
            let store = Arc::clone(&store);
            std::thread::spawn(move || {
                for number in 0..8u8 {
                    let bytes = [thread, number];
                    store.put_bytes(&Digest::of(&bytes), &bytes, None, None).expect("puts");
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("no panic");
    }
    assert_eq!(store.count_and_bytes(), (64, 128));
    check_visible(&store);
}

#[test]
fn a_blob_that_does_not_fit_the_disk_is_refused_at_once_and_leaves_nothing() {
    let dir = tempfile::tempdir().expect("tempdir");
    let store = Store::open(dir.path()).expect("opens");
    let refused = store.begin(&digest(SEED), 1 << 44, 16 << 20);
    assert!(matches!(refused, Err(BeginError::NoSpace { size, .. }) if size == 1 << 44), "{refused:?}");
    assert_eq!(fs::read_dir(dir.path().join("partial")).expect("reads").count(), 0);
    let endless = store.begin(&digest(SEED), 1 << 44, 64);
    assert!(matches!(endless, Err(BeginError::Geometry { .. })), "{endless:?}");
    assert!(store.begin(&digest(SEED), 666, PIECE).is_ok());
}

#[test]
fn a_size_that_nobody_has_proven_takes_no_room() {
    let dir = tempfile::tempdir().expect("tempdir");
    let store = Store::open(dir.path()).expect("opens");
    let claimed = 64 * 1024 * 1024;
    let partial = store.begin(&digest(SEED), claimed, 1 << 20).expect("begins");
    let file = fs::metadata(partial.path()).expect("is there");
    assert_eq!(file.len(), claimed);
    assert!(std::os::unix::fs::MetadataExt::blocks(&file) * 512 < claimed / 16);
}

/// Files of somebody else's, which have been left alone for as long as it takes.
fn lend(files: &[(&Path, &[u8])]) {
    for (path, data) in files {
        fs::write(path, data).expect("writes");
    }
    std::thread::sleep(Duration::from_millis(3100));
}

#[test]
fn what_is_borrowed_takes_no_room_and_goes_with_its_owners_file() {
    let (dir, lender) = (tempfile::tempdir().expect("tempdir"), tempfile::tempdir().expect("tempdir"));
    let store = Store::open(dir.path()).expect("opens");
    let (digest, data, path) = (digest(SEED), bytes(SEED), lender.path().join("layer"));
    lend(&[(&path, &data)]);
    store.begin(&digest, 666, PIECE).expect("begins").suspend();
    let blob = store.borrow(&digest, &path).expect("is what its name says");
    assert!(blob.borrowed && blob.size == 666 && blob.info.is_some());
    assert_eq!(store.borrow(&digest, &lender.path().join("none")).expect("is here already"), blob);
    assert_eq!((store.count_and_bytes(), store.borrowed_bytes()), ((1, 0), 666));
    assert_eq!(store.lender(&digest), Some(path.clone()));
    assert_eq!(fs::read_dir(dir.path().join("partial")).expect("reads").count(), 0);
    assert!(store.list(None, 9).expect("lists")[0].borrowed);
    let amended = store.put_bytes(&digest, &data, Some("text/plain"), None).expect("amends");
    assert!(amended.borrowed && amended.media_type.is_some());
    drop(store);

    let store = Store::open(dir.path()).expect("opens");
    assert_eq!((store.get(&digest).expect("reads"), store.count_and_bytes()), (Some(amended), (1, 0)));
    assert_eq!(store.borrowed_bytes(), 666, "counted anew from what is kept");
    store.open_blob(&digest).expect("is there");
    check_visible(&store);
    fs::remove_file(&path).expect("removes");
    store.open_blob(&digest).expect_err("is gone");
    assert!(store.remove(&digest).expect("removes"));
    assert_eq!((store.count_and_bytes(), store.borrowed_bytes(), store.lender(&digest)), ((0, 0), 0, None));
    store.put_bytes(&digest, &data, None, None).expect("puts");
    assert_eq!(store.count_and_bytes(), (1, 666));
}

#[test]
fn a_borrowed_file_that_is_another_by_now_is_not_read_whatever_its_time_says() {
    let (dir, lender) = (tempfile::tempdir().expect("tempdir"), tempfile::tempdir().expect("tempdir"));
    let store = Store::open(dir.path()).expect("opens");
    let path = |name: &str| lender.path().join(name);
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let age = |path: &Path| File::options().write(true).open(path).expect("opens").set_modified(long_ago);
    let digests: Vec<_> = (SEED..SEED + 4).map(digest).collect();
    let files: Vec<_> = digests.iter().map(|digest| path(&digest.hex())).collect();
    let data: Vec<_> = (SEED..SEED + 4).map(bytes).collect();
    let other = path("other");
    lend(&[
        (&files[0], &data[0]),
        (&files[1], &data[1]),
        (&files[2], &data[2]),
        (&files[3], &data[3]),
        (&other, &data[0]),
    ]);
    for (digest, file) in digests.iter().zip(&files) {
        store.borrow(digest, file).expect("is what its name says");
    }
    // Written over, replaced, led elsewhere, and a pipe that nobody writes into.
    fs::write(&files[0], &data[0]).expect("writes");
    age(&files[0]).expect("sets");
    fs::rename(&other, &files[1]).expect("renames");
    fs::rename(&files[2], path("kept")).expect("renames");
    std::os::unix::fs::symlink(&files[3], &files[2]).expect("links");
    fs::remove_file(&files[3]).expect("removes");
    rustix::fs::mkfifoat(rustix::fs::CWD, &files[3], rustix::fs::Mode::RUSR).expect("makes");
    for digest in &digests {
        assert_eq!(store.open_blob(digest).expect_err("changed").kind(), std::io::ErrorKind::NotFound);
    }
}

#[test]
fn nothing_is_borrowed_that_is_no_file_or_another_blob_or_being_written() {
    let (dir, lender) = (tempfile::tempdir().expect("tempdir"), tempfile::tempdir().expect("tempdir"));
    let store = Store::open(dir.path()).expect("opens");
    let (digest, data) = (digest(SEED), bytes(SEED));
    let path = |name: &str| lender.path().join(name);
    lend(&[(&path("other"), b"something else")]);
    fs::write(path("new"), &data).expect("writes");
    let pipe = path("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).expect("makes");
    let borrow = |name: &str| store.borrow(&digest, &path(name));
    assert!(matches!(borrow("other"), Err(BorrowError::Digest { .. })));
    assert!(matches!(borrow("new"), Err(BorrowError::Unsettled(_))));
    assert!(matches!(borrow("pipe"), Err(BorrowError::Unsettled(_))));
    assert!(matches!(borrow(""), Err(BorrowError::Unsettled(_))));
    assert!(matches!(borrow("none"), Err(BorrowError::Io { .. })));
    assert_eq!((store.get(&digest).expect("reads"), store.count_and_bytes()), (None, (0, 0)));
    assert_eq!(fs::read_dir(dir.path().join("partial")).expect("reads").count(), 0);
}
