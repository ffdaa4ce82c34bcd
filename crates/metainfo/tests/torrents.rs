//! Torrents made by hand, and what holds for every torrent.
#![allow(clippy::expect_used, clippy::panic, reason = "a test says so when it fails")]

use bytes::Bytes;
use longshore_metainfo::{FileKind, PieceIndex, Span, Torrent, TorrentError};
use proptest::{collection::vec, prelude::*};

/// An info dictionary of files by path and length, with pieces of 16 KiB.
fn multi_file(files: &[(&str, u64, &str)]) -> Bytes {
    let total: u64 = files.iter().map(|(_, length, _)| length).sum();
    Bytes::from(bencode::encode_dict(|info| {
        info.list(b"files", |list| {
            for (path, length, attr) in files {
                list.item().dict(|file| {
                    file.bytes(b"attr", attr.as_bytes());
                    file.unsigned(b"length", *length);
                    file.list(b"path", |p| path.split('/').for_each(|part| p.item().bytes(part.as_bytes())));
                });
            }
        });
        info.bytes(b"name", b"folder");
        info.unsigned(b"piece length", 16_384);
        info.bytes(b"pieces", &vec![7; total.div_ceil(16_384) as usize * 20]);
    }))
}

fn single_file(length: i64, piece_length: i64, pieces: usize) -> Bytes {
    Bytes::from(bencode::encode_dict(|info| {
        info.integer(b"length", length);
        info.bytes(b"name", b"name");
        info.integer(b"piece length", piece_length);
        info.bytes(b"pieces", &vec![7; pieces]);
    }))
}

#[test]
fn spans_cover_exactly_what_is_asked() {
    let files = [("a", 100, ""), ("empty", 0, "x"), ("pad", 16_284, "p"), ("b/c", 50_000, "")];
    let torrent = Torrent::from_info(multi_file(&files)).expect("valid");
    let spans = |offset, length| torrent.info.spans(offset, length).collect::<Vec<_>>();
    let span = |file, offset, length| Span { file, offset, length };
    assert_eq!(spans(0, 100), [span(0, 0, 100)]);
    assert_eq!(spans(99, 2), [span(0, 99, 1), span(2, 0, 1)]);
    assert_eq!(spans(0, 16_385), [span(0, 0, 100), span(2, 0, 16_284), span(3, 0, 1)]);
    assert_eq!(spans(66_383, 100), [span(3, 49_999, 1)]);
    assert_eq!(spans(66_384, 1), []);
    assert_eq!(spans(u64::MAX, u64::MAX), []);
    assert_eq!(spans(5, 0), []);
    assert_eq!(torrent.info.files[2].kind, FileKind::Pad);
    assert!(torrent.info.files[1].executable);
    assert_eq!(torrent.info.relative_path(3).as_deref(), Some(std::path::Path::new("folder/b/c")));
    assert_eq!(torrent.info.relative_path(4), None);
    assert_eq!(torrent.info.piece_hash(PieceIndex(4)), Some([7; 20]));
    assert_eq!(torrent.info.piece_hash(PieceIndex(5)), None);
}

#[test]
fn what_does_not_fit_is_refused() {
    let refused = |info| Torrent::from_info(info).map(|torrent| torrent.info_hash).expect_err("refused");
    assert_eq!(refused(single_file(16_385, 16_384, 20)), TorrentError::PieceCount { expected: 2, found: 1 });
    assert_eq!(refused(single_file(1, 16_384, 21)), TorrentError::UnalignedPieces(21));
    assert_eq!(refused(single_file(0, 16_384, 0)), TorrentError::BadLength("the whole".to_owned()));
    assert_eq!(refused(single_file(i64::MAX, 1, 20)), TorrentError::BadLength("`name`".to_owned()));
    assert_eq!(refused(single_file(1 << 40, 1, 20)), TorrentError::TooManyPieces(1 << 40));
    assert_eq!(refused(single_file(1, 0, 20)), TorrentError::BadPieceLength);
    assert_eq!(refused(single_file(1, (1 << 29) + 1, 20)), TorrentError::BadPieceLength);
    assert_eq!(refused(multi_file(&[(&"d/".repeat(101), 1, "")])), TorrentError::BadPath(0));
    assert_eq!(refused(multi_file(&[("link", 1, "l")])), TorrentError::BadPath(0));
}

#[test]
fn names_that_lead_elsewhere_stay_in_the_folder() {
    let files =
        [("../../etc/passwd", 1, ""), ("/abs", 1, ""), ("a/./b", 1, ""), ("..", 1, ""), ("a\\b", 1, "")];
    let torrent = Torrent::from_info(multi_file(&files)).expect("made safe");
    let paths: Vec<String> = torrent.info.files.iter().map(|file| file.path.join("/")).collect();
    assert_eq!(paths, ["etc/passwd", "abs", "a/b", "_", "ab"]);
}

#[test]
fn trackers_are_tiers_with_a_lone_announce_in_front() {
    let torrent = |outer: &str| {
        let info = single_file(1, 16_384, 20);
        let file = [b"d", outer.as_bytes(), b"4:info", &info, b"e"].concat();
        Torrent::parse(&file).expect("valid").trackers
    };
    assert_eq!(torrent("8:announce3:udp"), [["udp"]]);
    assert_eq!(torrent("8:announce1:c13:announce-listll1:a1:bel1:cee"), [vec!["a", "b"], vec!["c"]]);
    assert_eq!(torrent("8:announce1:x13:announce-listll1:aelei5ee"), [["x"], ["a"]]);
    assert_eq!(torrent("13:announce-listl1:a1:be"), [["a"], ["b"]]);
    assert_eq!(torrent("8:announcei1e").len(), 0);
}

#[test]
fn a_magnet_leads_to_its_torrent() {
    let mut torrent = Torrent::from_info(single_file(1, 16_384, 20)).expect("valid");
    torrent.trackers = vec![vec!["http://a/announce?k=v&x".to_owned()], vec!["udp://b:80".to_owned()]];
    let link = torrent.magnet().to_string();
    let read: longshore_metainfo::Magnet = link.parse().expect("valid");
    assert_eq!(
        (read.info_hash, read.name.as_deref(), read.length),
        (torrent.info_hash, Some("name"), Some(1))
    );
    assert_eq!(read.trackers, torrent.trackers.concat());
}

proptest! {
    #[test]
    fn every_torrent_that_loads_holds_together(
        names in vec("[a-c./\\\\]{0,6}", 1..8),
        lengths in vec(0u64..40_000, 8),
        attr in vec("[xp]?", 8),
    ) {
        let files: Vec<_> =
            names.iter().zip(&lengths).zip(&attr).map(|((n, l), a)| (n.as_str(), *l, a.as_str())).collect();
        if let Ok(torrent) = Torrent::from_info(multi_file(&files)) {
            let info = &torrent.info;
            let mut paths = std::collections::HashSet::new();
            for (index, file) in info.files.iter().enumerate() {
                let path = info.relative_path(index).expect("in range");
                let plain = |part| matches!(part, std::path::Component::Normal(_));
                prop_assert!(path.components().all(plain) && path.starts_with("folder"), "{:?}", path);
                prop_assert!(file.kind == FileKind::Pad || paths.insert(path));
            }
            let covered: u64 = info.spans(0, u64::MAX).map(|span| span.length).sum();
            prop_assert_eq!(covered, info.geometry.total());
            for piece in info.geometry.pieces() {
                prop_assert!(info.piece_hash(piece).is_some());
            }
            let again = Torrent::parse(&torrent.encode()).expect("reads what it writes");
            prop_assert_eq!(again.info_hash, torrent.info_hash);
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
        let _ = Torrent::parse(&bytes);
        let _ = Torrent::from_info(bytes.into());
    }

    #[test]
    fn a_torrent_with_one_byte_changed_is_read_or_refused(at: prop::sample::Index, byte: u8) {
        let files = [("a", 100, ""), ("a", 3, "x"), ("pad", 16_284, "p"), ("b/c", 50_000, "")];
        let mut info = multi_file(&files).to_vec();
        let at = at.index(info.len());
        info[at] = byte;
        if let Ok(torrent) = Torrent::from_info(info.into()) {
            prop_assert!(Torrent::parse(&torrent.encode()).is_ok());
        }
    }
}
