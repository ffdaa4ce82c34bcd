//! Torrents with known verdicts, from a folder that `LONGSHORE_CORPUS` names: `verdicts.tsv` and the files it lists.
#![allow(clippy::expect_used, clippy::panic, reason = "a test says so when it fails")]

use std::{fs, path::Path};

use bencode::DecodeError;
use longshore_metainfo::{Torrent, TorrentError};

#[allow(clippy::disallowed_methods, reason = "a test has no configuration but the environment")]
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

#[test]
fn every_verdict_of_the_corpus() {
    let Some(folder) = environment("LONGSHORE_CORPUS") else {
        assert_ne!(environment("CI").as_deref(), Some("true"), "in CI, LONGSHORE_CORPUS must be set");
        println!("skipped: LONGSHORE_CORPUS not set");
        return;
    };
    let folder = Path::new(&folder);
    let table = fs::read_to_string(folder.join("verdicts.tsv")).expect("verdicts.tsv");
    let mut wrong = Vec::new();
    let mut seen = 0;
    for line in table.lines().filter(|line| !line.starts_with('#')) {
        let columns: Vec<&str> = line.split('\t').collect();
        let [file, verdict, reason, v1, _, files, total] = columns[..] else { panic!("a line of {line:?}") };
        let torrent = Torrent::parse(&fs::read(folder.join(file)).expect(file));
        let v2_only = v1 == "-" && file.starts_with("v2_");
        let complaint = match (verdict, &torrent) {
            (_, Err(TorrentError::V2Only)) if v2_only => None,
            // These two are no good bencode either, which we find first.
            ("fail", Err(TorrentError::Bencode(DecodeError::DuplicateKey(_))))
                if file == "bad_name.torrent" =>
            {
                None
            }
            ("fail", Err(TorrentError::Bencode(DecodeError::TrailingBytes(_))))
                if file == "v2_empty_filename.torrent" =>
            {
                None
            }
            ("load", Err(error)) => Some(format!("must load: {error}")),
            ("fail", Ok(_)) => Some(format!("must fail: {reason}")),
            ("fail", Err(error)) if !names(error, reason) => Some(format!("should say `{reason}`: {error}")),
            ("load" | "either", Ok(torrent)) => differences(torrent, v1, files, total),
            _ => None,
        };
        wrong.extend(complaint.map(|complaint| format!("{file}: {complaint}")));
        if let Ok(torrent) = &torrent {
            check_whole(torrent);
        }
        seen += 1;
    }
    assert!(seen > 100, "only {seen} torrents in the table");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn differences(torrent: &Torrent, v1: &str, files: &str, total: &str) -> Option<String> {
    let found = (
        torrent.info_hash.to_string(),
        torrent.info.files.len().to_string(),
        torrent.info.geometry.total().to_string(),
    );
    let expected = (v1.to_owned(), files.to_owned(), total.to_owned());
    (found != expected).then(|| format!("{found:?} instead of {expected:?}"))
}

/// Whether the error is the one that the table means.
fn names(error: &TorrentError, reason: &str) -> bool {
    let reasons: &[&str] = match error {
        TorrentError::Bencode(DecodeError::TooDeep(_)) => &["nesting too deep"],
        TorrentError::Bencode(DecodeError::KeyOrder(_)) => &["bencode keys out of order"],
        TorrentError::Bencode(DecodeError::BadInteger(_)) => &["bad bencode integer"],
        TorrentError::NotADictionary => &["not a dictionary"],
        TorrentError::MissingInfo => &["missing info"],
        TorrentError::MissingName => &["missing name"],
        TorrentError::BadPieceLength => &["missing or bad piece length"],
        TorrentError::MissingPieces => &["missing pieces"],
        TorrentError::UnalignedPieces(_) => &["pieces not a multiple of 20"],
        TorrentError::TooManyPieces(_) => &["too many pieces"],
        TorrentError::BadLength(_) => &["bad length"],
        TorrentError::NoFiles => &["no files"],
        TorrentError::MissingPath(_) => &["missing path"],
        TorrentError::BadPath(_) => &["bad path"],
        TorrentError::TooManyDuplicates(_) => &["too many duplicate names"],
        TorrentError::HybridMismatch => &["v1 and v2 files differ"],
        TorrentError::BadFileTree => &["bad file tree"],
        TorrentError::MissingPiecesRoot => &["missing pieces root"],
        _ => &[],
    };
    reasons.contains(&reason)
}

/// What holds for every torrent that loads: files cover the content without gaps, paths differ and stay inside, and
/// what is written is read the same.
fn check_whole(torrent: &Torrent) {
    let info = &torrent.info;
    let mut end = 0;
    let mut paths = std::collections::HashSet::new();
    for (index, file) in info.files.iter().enumerate() {
        assert_eq!(file.offset, end);
        end += file.length;
        let path = info.relative_path(index).expect("in range");
        assert!(path.components().all(|part| matches!(part, std::path::Component::Normal(_))), "{path:?}");
        if file.kind != longshore_metainfo::FileKind::Pad {
            assert!(paths.insert(path.clone()), "{path:?} twice");
        }
        if let Some(target) = info.symlink_target(index) {
            assert!(
                target.components().all(|part| matches!(part, std::path::Component::Normal(_))),
                "{target:?}"
            );
        }
    }
    assert_eq!(end, info.geometry.total());
    let covered: u64 = info.spans(0, u64::MAX).map(|span| span.length).sum();
    assert_eq!(covered, end);

    let again = Torrent::parse(&torrent.encode()).expect("reads what it writes");
    assert_eq!((again.info_hash, &again.info.files), (torrent.info_hash, &info.files));
    assert_eq!((&again.trackers, &again.web_seeds), (&torrent.trackers, &torrent.web_seeds));
}
