//! What is known of a blob that has no row yet: its media type and its torrent.
//!
//! `media type, info dictionary, crc32`, the first two each as a length and that many bytes; a length of
//! `u32::MAX` stands for none. Not flushed: after a power failure it may be gone, and then the blob lacks
//! what can be had again.

use std::{
    fs,
    io::{self, Read as _},
    path::Path,
};

use bytes::Bytes;

use crate::store::{MAX_INFO, MAX_MEDIA_TYPE};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) media_type: Option<String>,
    pub(crate) info: Option<Bytes>,
}

impl Note {
    /// Reads the note; one that is not there, or does not read, is empty.
    pub(crate) fn load(path: &Path) -> Self {
        let most = (MAX_INFO + MAX_MEDIA_TYPE + 12) as u64;
        let mut bytes = Vec::new();
        match fs::File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes)) {
            Ok(_) => Self::decode(&bytes).unwrap_or_else(|| {
                tracing::warn!(path = %path.display(), "note does not read: torrent and media type are lost");
                Self::default()
            }),
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(path = %path.display(), %error, "note cannot be read");
                }
                Self::default()
            }
        }
    }

    /// Replaces the note at once: a reader finds the old one or the new one.
    pub(crate) fn save(&self, path: &Path) -> io::Result<()> {
        let new = path.with_extension("note.new");
        fs::write(&new, self.encode())?;
        fs::rename(&new, path)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.media_type.is_none() && self.info.is_none()
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for field in [self.media_type.as_ref().map(String::as_bytes), self.info.as_deref()] {
            let length = field.and_then(|field| u32::try_from(field.len()).ok()).unwrap_or(u32::MAX);
            bytes.extend_from_slice(&length.to_le_bytes());
            bytes.extend_from_slice(field.unwrap_or_default());
        }
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, crc) = bytes.split_last_chunk::<4>()?;
        if crc32fast::hash(body).to_le_bytes() != *crc {
            return None;
        }
        let (media_type, rest) = field(body)?;
        let (info, rest) = field(rest)?;
        let media_type = media_type.map(|text| String::from_utf8(text.to_vec())).transpose().ok()?;
        rest.is_empty().then(|| Self { media_type, info: info.map(Bytes::copy_from_slice) })
    }
}

fn field(bytes: &[u8]) -> Option<(Option<&[u8]>, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    match u32::from_le_bytes(*length) {
        u32::MAX => Some((None, rest)),
        length => rest.split_at_checked(length as usize).map(|(field, rest)| (Some(field), rest)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_note_reads_back(media_type: Option<String>, info: Option<Vec<u8>>) {
            let note = Note { media_type, info: info.map(Bytes::from) };
            prop_assert_eq!(Note::decode(&note.encode()), Some(note));
        }

        #[test]
        fn any_bytes_are_read_without_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            prop_assert!(Note::decode(&bytes).is_none_or(|note| note.encode() == bytes));
            bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
            prop_assert!(Note::decode(&bytes).is_none_or(|note| note.encode() == bytes));
        }
    }

    #[test]
    fn a_missing_or_torn_note_is_empty() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("x.note");
        assert!(Note::load(&path).is_empty());
        let note = Note { media_type: Some("m".into()), info: Some(Bytes::from_static(b"de")) };
        note.save(&path).expect("saves");
        assert_eq!(Note::load(&path), note);
        let bytes = fs::read(&path).expect("reads");
        fs::write(&path, &bytes[..bytes.len() - 1]).expect("writes");
        assert!(Note::load(&path).is_empty());
    }
}
