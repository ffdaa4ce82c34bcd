//! What is remembered of a file that we changed.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hash::Digest;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::{
    part::Part,
    place::{self, Present},
};

/// What was there, and what we wrote.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The file's path below its root, before links are followed.
    pub(crate) path: PathBuf,
    /// What was there before, if anything.
    pub(crate) original: Option<Original>,
    /// Folders that we made for it, outermost first, below the root.
    pub(crate) made: Vec<PathBuf>,
    /// What we wrote: the last is in the file, or about to be; those before it may still be.
    pub(crate) written: Vec<Written>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Original {
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    pub(crate) bytes: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) owner: u32,
    pub(crate) group: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Written {
    /// The whole file's digest.
    pub(crate) digest: String,
    pub(crate) part: Part,
    /// The stretch of text that is new, and what stood there before.
    pub(crate) added: String,
    pub(crate) replaced: String,
}

impl Record {
    /// Whether these bytes are what we wrote.
    pub(crate) fn wrote(&self, bytes: &[u8]) -> bool {
        let digest = Digest::of(bytes).to_string();
        self.written.iter().any(|written| written.digest == digest)
    }

    /// Whether these bytes, or no file, are what was there before.
    pub(crate) fn is_original(&self, present: Option<&Present>) -> bool {
        self.original.as_ref().map(|original| &original.bytes) == present.map(|present| &present.bytes)
    }

    /// Where the record of a path is kept.
    pub(crate) fn place(folder: &Path, path: &Path) -> PathBuf {
        let id: String = Digest::of(path.as_os_str().as_encoded_bytes()).hex().chars().take(12).collect();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        folder.join(format!("{name}-{id}.json"))
    }

    pub(crate) fn load(place: &Path) -> io::Result<Option<Self>> {
        let Some(file) = place::read(place)? else { return Ok(None) };
        serde_json::from_slice(&file.bytes).map(Some).map_err(io::Error::from)
    }

    /// All records of a folder.
    pub(crate) fn all(folder: &Path) -> io::Result<Vec<PathBuf>> {
        let entries = match fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
        let mut places: Vec<_> =
            paths.into_iter().filter(|p| p.extension().is_some_and(|e| e == "json")).collect();
        places.sort();
        Ok(places)
    }

    pub(crate) fn save(&self, place: &Path) -> io::Result<()> {
        let bytes = serde_json::to_vec(self)?;
        let (owner, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        place::replace(place, &Present { bytes, mode: 0o600, owner, group })
    }
}

impl From<Present> for Original {
    fn from(present: Present) -> Self {
        let Present { bytes, mode, owner, group } = present;
        Self { bytes, mode, owner, group }
    }
}

impl From<Original> for Present {
    fn from(original: Original) -> Self {
        let Original { bytes, mode, owner, group } = original;
        Self { bytes, mode, owner, group }
    }
}

fn to_base64<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&STANDARD.encode(bytes))
}

fn from_base64<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
    STANDARD.decode(String::deserialize(from)?).map_err(D::Error::custom)
}
