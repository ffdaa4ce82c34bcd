//! `longshore create` makes the torrents that mktorrent makes.

#![allow(clippy::expect_used, reason = "helpers of tests, outside the functions that clippy knows for tests")]

use std::{fs, path::Path, process::Command};

use longshore_interop::{Content, info_hash, make_torrent, noise, require};

/// What mktorrent makes of it, with pieces of 2^`power` bytes.
fn mktorrent(path: &Path, output: &Path, power: u32, arguments: &[&str]) -> metainfo::Torrent {
    let mut command = Command::new("mktorrent");
    command.args(["-l", &power.to_string(), "-d", "-o"]).arg(output).args(arguments).arg(path);
    let made = command.output().expect("runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    metainfo::Torrent::parse(&fs::read(output).expect("there")).expect("a torrent")
}

#[test]
fn a_file_has_mktorrents_info_hash() {
    if !require("mktorrent", "mktorrent") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("one.bin");
    for length in [1, 262_144, 3_000_017] {
        fs::write(&file, noise(length, 9)).expect("written");
        for (flags, their_flags) in [(&[][..], &[][..]), (&["--private"][..], &["-p"][..])] {
            let theirs = folder.path().join("theirs.torrent");
            let _ = fs::remove_file(&theirs);
            let wanted = mktorrent(&file, &theirs, 18, their_flags);
            let ours = [&["--piece-length", "256KiB"], flags].concat();
            let made = make_torrent(&file, &folder.path().join("ours.torrent"), &ours);
            assert_eq!(info_hash(&made), wanted.info_hash.to_string(), "{length} {flags:?}");
        }
    }
}

/// The order of files is each program's own, so two torrents of one folder may differ; the content may not.
#[test]
fn a_folder_has_mktorrents_files_and_pieces() {
    if !require("mktorrent", "mktorrent") {
        return;
    }
    let content = Content::new();
    let (ours, theirs) = (content.place().join("ours.torrent"), content.place().join("theirs.torrent"));
    let wanted = mktorrent(&content.root(), &theirs, 16, &[]);
    make_torrent(&content.root(), &ours, &["--piece-length", "64KiB"]);
    let made = metainfo::Torrent::parse(&fs::read(&ours).expect("there")).expect("a torrent");
    let files = |torrent: &metainfo::Torrent| {
        let mut files: Vec<_> = torrent.info.files.iter().map(|f| (f.path.clone(), f.length)).collect();
        files.sort();
        files
    };
    assert_eq!(files(&made), files(&wanted));
    assert_eq!((&made.info.name, made.info.geometry), (&wanted.info.name, wanted.info.geometry));
    let in_order =
        |torrent: &metainfo::Torrent| torrent.info.files.iter().map(|f| f.path.clone()).collect::<Vec<_>>();
    if in_order(&made) == in_order(&wanted) {
        assert_eq!(made.info_hash, wanted.info_hash);
    }
}
