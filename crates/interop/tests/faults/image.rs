//! A small image, and how to know it again.

use std::{fs, path::Path};

use hash::Digest;
use longshore_interop::noise;
use serde_json::Value;
use tempfile::TempDir;

/// The image `app:1` in an OCI layout: three layers, one of them of some MiB.
pub(crate) struct Image {
    pub(crate) layout: TempDir,
    /// The manifest's digest.
    pub(crate) manifest: String,
    /// The configuration's, which is the image's id.
    pub(crate) config: String,
    /// The largest layer's.
    pub(crate) layer: String,
    manifest_bytes: Vec<u8>,
}

impl Image {
    pub(crate) fn new() -> Self {
        let sources = tempfile::tempdir().expect("a folder");
        for (number, length) in [300_000, 200_000, 3_000_000].into_iter().enumerate() {
            fs::write(sources.path().join(format!("file{number}")), noise(length, number as u64 + 1))
                .expect("written");
        }
        let layout = tempfile::tempdir().expect("a folder");
        let built = lab::image::build(sources.path(), &[], layout.path(), "app:1").expect("built");
        let manifest = built.manifest_digest.to_string();
        let path = layout.path().join("blobs").join(manifest.replace(':', "/"));
        let manifest_bytes = fs::read(path).expect("readable");
        let parsed: Value = serde_json::from_slice(&manifest_bytes).expect("JSON");
        let config = parsed["config"]["digest"].as_str().expect("a digest").to_owned();
        let layer = built.layers.iter().max_by_key(|(_, size)| size).expect("a layer").0.to_string();
        Self { layout, manifest, config, layer, manifest_bytes }
    }

    /// Whether all of it lies in a `dir:` of skopeo's, to the byte.
    pub(crate) fn is_copied_to(&self, folder: &Path) -> bool {
        fs::read(folder.join("manifest.json")).is_ok_and(|bytes| bytes == self.manifest_bytes)
            && fs::read_dir(folder).expect("a folder").flatten().all(|file| {
                let name = file.file_name().to_string_lossy().into_owned();
                let bytes = fs::read(file.path()).expect("readable");
                !name.chars().all(|c| c.is_ascii_hexdigit())
                    || Digest::of(&bytes).to_string() == format!("sha256:{name}")
            })
            && folder.join(self.layer.trim_start_matches("sha256:")).is_file()
    }
}

/// Looks at every blob of a store: each must be what its name says.
pub(crate) fn is_sound(store: &Path) -> Result<usize, String> {
    let mut seen = 0;
    for folder in fs::read_dir(store.join("blobs/sha256")).map_err(|e| e.to_string())?.flatten() {
        for blob in fs::read_dir(folder.path()).map_err(|e| e.to_string())?.flatten() {
            let name = blob.file_name().to_string_lossy().into_owned();
            let bytes = fs::read(blob.path()).map_err(|e| e.to_string())?;
            if Digest::of(&bytes).to_string() != format!("sha256:{name}") {
                return Err(format!("{name} is corrupt in the store"));
            }
            seen += 1;
        }
    }
    Ok(seen)
}
