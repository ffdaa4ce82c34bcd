//! Something to transfer, and its torrent.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::longshore;

/// A folder `things` of several files, one of them empty, one in a folder of its own, in a place of its own.
#[derive(Debug)]
pub struct Content {
    place: tempfile::TempDir,
}

/// The files: name below the place, and length.
const FILES: [(&str, usize); 4] = [
    ("things/a.bin", 3_000_001),
    ("things/deep/er/b.bin", 1_234_567),
    ("things/empty", 0),
    ("things/z.txt", 11),
];

impl Content {
    /// Makes it.
    ///
    /// # Panics
    /// When it cannot be written.
    #[allow(clippy::new_without_default, reason = "it writes files")]
    pub fn new() -> Self {
        let place = tempfile::tempdir().expect("a folder");
        for (number, (name, length)) in FILES.iter().enumerate() {
            let path = place.path().join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(path, noise(*length, number as u64 + 1)).expect("written");
        }
        Self { place }
    }

    /// The folder in which `things` lies.
    pub fn place(&self) -> &Path {
        self.place.path()
    }

    /// The folder `things`.
    pub fn root(&self) -> PathBuf {
        self.place.path().join("things")
    }

    /// Whether every file lies below `folder` as it should.
    ///
    /// # Panics
    /// When our own files cannot be read.
    pub fn is_in(&self, folder: &Path) -> bool {
        FILES.iter().filter(|(_, length)| *length > 0).all(|(name, length)| {
            let got = fs::read(folder.join(name)).unwrap_or_default();
            let wanted = || fs::read(self.place.path().join(name)).expect("readable");
            got.len() == *length && hash::sha1(&got) == hash::sha1(&wanted())
        })
    }
}

/// Bytes that no two blocks have in common.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(length).collect()
}

/// `longshore create`.
///
/// # Panics
/// When it fails.
pub fn make_torrent(path: &Path, output: &Path, arguments: &[&str]) -> Value {
    let mut create = Command::new(longshore());
    create.arg("create").arg(path).arg("--output").arg(output).args(["--json", "--force"]).args(arguments);
    let made = create.output().expect("runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    serde_json::from_slice(&made.stdout).expect("JSON")
}

/// The info-hash of what [`make_torrent`] made.
///
/// # Panics
/// When there is none.
pub fn info_hash(made: &Value) -> String {
    made["info_hash"].as_str().expect("an info-hash").to_owned()
}
