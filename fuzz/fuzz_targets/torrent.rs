//! A torrent that loads holds together, stays in its folder, and is written and read the same.
#![no_main]

use std::{collections::HashSet, path::Component};

use libfuzzer_sys::fuzz_target;
use metainfo::{FileKind, Torrent};

fuzz_target!(|file: &[u8]| {
    let Ok(torrent) = Torrent::parse(file) else { return };
    let info = &torrent.info;
    let mut end = 0;
    let mut paths = HashSet::new();
    for (index, file) in info.files.iter().enumerate() {
        assert_eq!(file.offset, end);
        end += file.length;
        let path = info.relative_path(index).expect("in range");
        assert!(path.components().all(|part| matches!(part, Component::Normal(_))));
        assert!(file.kind == FileKind::Pad || paths.insert(path));
    }
    assert_eq!(end, info.geometry.total());
    assert_eq!(info.spans(0, u64::MAX).map(|span| span.length).sum::<u64>(), end);
    for piece in info.geometry.pieces() {
        assert!(info.piece_hash(piece).is_some());
        if let Some(blob) = &info.blob {
            assert!(blob.before(piece).is_some() && blob.after(piece).is_some());
        }
    }
    let again = Torrent::parse(&torrent.encode()).expect("reads what it writes");
    assert_eq!(again.info_hash, torrent.info_hash);
    assert_eq!((again.trackers, again.web_seeds), (torrent.trackers, torrent.web_seeds));
});
