//! A real container image made on the spot, as an OCI image layout (OCI image spec, "Image Layout").
//!
//! The same sources give the same bytes: entries are sorted, times are zero, everything belongs to root. So two runs
//! make the same digests, and the figures of two runs can be compared.

use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

use flate2::{Compression, write::GzEncoder};
use hash::{Digest, Sha256};
use serde_json::{Value, json};

/// The most that goes into an image unless said otherwise, before compression.
pub const DEFAULT_SIZE_LIMIT: u64 = 4 << 30;

/// The annotation of `index.json` that holds an image's name and tag.
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";
pub(crate) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const EPOCH: &str = "1970-01-01T00:00:00Z";

/// Into how many layers the sources go, as far as there are files.
const SOURCE_LAYERS: u64 = 4;
/// Deepest directory that is entered.
const DEPTH_LIMIT: usize = 64;
/// Manifests of an image in one another.
const MANIFESTS: usize = 3;
/// Largest `index.json` that is read.
const INDEX_LIMIT: u64 = 4 << 20;

/// What was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSummary {
    /// The digest of the image's manifest.
    pub manifest_digest: Digest,
    /// Digest and compressed size in bytes of each layer, the lowest first.
    pub layers: Vec<(Digest, u64)>,
    /// All that a pull moves: manifest, config and layers, in bytes.
    pub total: u64,
}

/// Why no image was made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// A file or directory cannot be read or written.
    #[error("{} cannot be used for the image: {error}", path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// More than the bound.
    #[error("the sources in {} hold more than {limit} bytes: choose a smaller directory or a larger limit", path.display())]
    TooLarge {
        /// The directory.
        path: PathBuf,
        /// The bound in bytes.
        limit: u64,
    },
    /// Nothing to put into an image.
    #[error("{} holds no file for an image", path.display())]
    Empty {
        /// The directory.
        path: PathBuf,
    },
    /// The layout that is there already is not one.
    #[error("{} is not an OCI index: remove it or choose another directory", path.display())]
    Index {
        /// The file.
        path: PathBuf,
    },
}

/// Makes an image of the files under `sources`, with each of `extra_files` as a layer of its own on top (in
/// `/usr/local/bin`), and adds it to the layout in `out` under `tag`, which is `name:tag`.
///
/// The sources lie in the image under `/src`, in up to four layers of about equal size: at least three when there are
/// three files. `.git`, `node_modules` and directories whose name begins with `target` are left out, symbolic links
/// kept as links, sockets and devices passed over. Blocks: call it where blocking is allowed.
pub fn build(
    sources: &Path,
    extra_files: &[PathBuf],
    out: &Path,
    tag: &str,
) -> Result<ImageSummary, ImageError> {
    build_within(sources, extra_files, out, tag, DEFAULT_SIZE_LIMIT)
}

/// [`build`] with a bound on the bytes of all files together, before compression.
pub fn build_within(
    sources: &Path,
    extra_files: &[PathBuf],
    out: &Path,
    tag: &str,
    limit: u64,
) -> Result<ImageSummary, ImageError> {
    let mut entries = Vec::new();
    let mut budget = Budget { path: sources, limit, used: 0 };
    collect(sources, Path::new("src"), 0, &mut entries, &mut budget)?;
    let mut layers: Vec<(String, Vec<Entry>)> = split(entries)
        .into_iter()
        .map(|layer| (format!("sources from {}", first_name(&layer)), layer))
        .collect();
    for file in extra_files {
        let metadata = fs::metadata(file).map_err(at(file))?;
        let name = file.file_name().ok_or_else(|| not_a_file(file))?;
        if !metadata.is_file() {
            return Err(not_a_file(file));
        }
        budget.take(metadata.len())?;
        let entry = Entry {
            from: file.clone(),
            path: Path::new("usr/local/bin").join(name),
            kind: EntryKind::File { size: metadata.len(), executable: is_executable(&metadata) },
        };
        layers.push((format!("file {}", name.to_string_lossy()), vec![entry]));
    }
    if layers.is_empty() {
        return Err(ImageError::Empty { path: sources.to_owned() });
    }
    let layout = Layout::open(out)?;
    let made = layers
        .iter()
        .enumerate()
        .map(|(n, (_, layer))| layout.write_layer(n, layer))
        .collect::<Result<Vec<_>, _>>()?;
    let history = layers.iter().map(|(words, _)| json!({ "created": EPOCH, "created_by": words }));
    let config = layout.write_json(&json!({
        "created": EPOCH,
        "architecture": architecture(),
        "os": "linux",
        "config": {},
        "rootfs": { "type": "layers", "diff_ids": made.iter().map(|l| l.diff_id.to_string()).collect::<Vec<_>>() },
        "history": history.collect::<Vec<_>>(),
    }))?;
    let descriptor = |kind: &str, (digest, size): (Digest, u64)| json!({ "mediaType": kind, "digest": digest.to_string(), "size": size });
    let layers: Vec<(Digest, u64)> = made.iter().map(|layer| (layer.digest, layer.size)).collect();
    let manifest = layout.write_json(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": descriptor(CONFIG_TYPE, config),
        "layers": layers.iter().map(|layer| descriptor(LAYER_TYPE, *layer)).collect::<Vec<_>>(),
    }))?;
    let mut named = descriptor(MANIFEST_TYPE, manifest);
    named["annotations"] = json!({ REF_NAME: tag });
    named["platform"] = json!({ "architecture": architecture(), "os": "linux" });
    layout.add_to_index(named, tag)?;
    let total = manifest.1 + config.1 + layers.iter().map(|(_, size)| size).sum::<u64>();
    Ok(ImageSummary { manifest_digest: manifest.0, layers, total })
}

/// One thing in a layer.
struct Entry {
    /// On this machine.
    from: PathBuf,
    /// In the image.
    path: PathBuf,
    kind: EntryKind,
}

enum EntryKind {
    Directory,
    File { size: u64, executable: bool },
    Link { target: PathBuf },
}

impl Entry {
    fn size(&self) -> u64 {
        match self.kind {
            EntryKind::File { size, .. } => size,
            _ => 0,
        }
    }
}

struct Budget<'a> {
    path: &'a Path,
    limit: u64,
    used: u64,
}

impl Budget<'_> {
    fn take(&mut self, size: u64) -> Result<(), ImageError> {
        self.used = self.used.saturating_add(size);
        if self.used > self.limit {
            return Err(ImageError::TooLarge { path: self.path.to_owned(), limit: self.limit });
        }
        Ok(())
    }
}

/// All entries under `directory`, sorted, parents first.
fn collect(
    directory: &Path,
    inside: &Path,
    depth: usize,
    entries: &mut Vec<Entry>,
    budget: &mut Budget<'_>,
) -> Result<(), ImageError> {
    let mut names = fs::read_dir(directory)
        .and_then(|listing| {
            listing.map(|entry| entry.map(|entry| entry.file_name())).collect::<io::Result<Vec<_>>>()
        })
        .map_err(at(directory))?;
    names.sort();
    for name in names {
        let (from, path) = (directory.join(&name), inside.join(&name));
        let metadata = fs::symlink_metadata(&from).map_err(at(&from))?;
        let kind = if metadata.is_symlink() {
            EntryKind::Link { target: fs::read_link(&from).map_err(at(&from))? }
        } else if metadata.is_dir() {
            let text = name.to_string_lossy();
            if text == ".git" || text == "node_modules" || text.starts_with("target") || depth >= DEPTH_LIMIT
            {
                continue;
            }
            entries.push(Entry { from: from.clone(), path: path.clone(), kind: EntryKind::Directory });
            collect(&from, &path, depth + 1, entries, budget)?;
            continue;
        } else if metadata.is_file() {
            budget.take(metadata.len())?;
            EntryKind::File { size: metadata.len(), executable: is_executable(&metadata) }
        } else {
            continue;
        };
        entries.push(Entry { from, path, kind });
    }
    Ok(())
}

/// Cuts the sorted entries into layers of about equal size. Neighbours stay together, so a layer is mostly one or a
/// few directories; a layer ends early where otherwise not every layer would get a file.
fn split(entries: Vec<Entry>) -> Vec<Vec<Entry>> {
    let is_leaf = |entry: &Entry| !matches!(entry.kind, EntryKind::Directory);
    let total: u64 = entries.iter().map(Entry::size).sum();
    let mut leaves_left = entries.iter().filter(|entry| is_leaf(entry)).count() as u64;
    let wanted = SOURCE_LAYERS.min(leaves_left);
    let mut layers: Vec<Vec<Entry>> = Vec::new();
    let (mut layer, mut has_leaf, mut passed) = (Vec::new(), false, 0);
    for entry in entries {
        let (leaf, size) = (is_leaf(&entry), entry.size());
        layer.push(entry);
        if !leaf {
            continue;
        }
        has_leaf = true;
        passed += size;
        leaves_left -= 1;
        let closed = layers.len() as u64;
        let full = u128::from(passed) * u128::from(wanted) >= u128::from(total) * u128::from(closed + 1);
        let layers_after = wanted.saturating_sub(closed + 1);
        if layers_after > 0 && leaves_left >= layers_after && (full || leaves_left == layers_after) {
            layers.push(std::mem::take(&mut layer));
            has_leaf = false;
        }
    }
    match layers.last_mut() {
        // Directories behind the last file go with it.
        Some(last) if !has_leaf => last.extend(layer),
        _ if !layer.is_empty() => layers.push(layer),
        _ => {}
    }
    layers
}

struct Layer {
    digest: Digest,
    size: u64,
    diff_id: Digest,
}

/// A layout on disk.
struct Layout {
    root: PathBuf,
    blobs: PathBuf,
}

impl Layout {
    fn open(root: &Path) -> Result<Self, ImageError> {
        let blobs = root.join("blobs").join("sha256");
        fs::create_dir_all(&blobs).map_err(at(&blobs))?;
        let marker = root.join("oci-layout");
        fs::write(&marker, br#"{"imageLayoutVersion":"1.0.0"}"#).map_err(at(&marker))?;
        Ok(Self { root: root.to_owned(), blobs })
    }

    fn write_layer(&self, number: usize, entries: &[Entry]) -> Result<Layer, ImageError> {
        let draft = self.blobs.join(format!(".layer-{number}"));
        let file = File::create(&draft).map_err(at(&draft))?;
        let packed = Measured::new(BufWriter::with_capacity(1 << 20, file));
        let plain = Measured::new(GzEncoder::new(packed, Compression::fast()));
        let mut archive = tar::Builder::new(plain);
        let mut made: Vec<PathBuf> = Vec::new();
        for entry in entries {
            // Every layer stands alone: it brings the directories above its files.
            let above: Vec<&Path> = entry.path.ancestors().skip(1).filter(|p| *p != Path::new("")).collect();
            for directory in above.into_iter().rev() {
                if !made.iter().rev().any(|known| known == directory) {
                    append(&mut archive, directory, &EntryKind::Directory, &entry.from)?;
                    made.push(directory.to_owned());
                }
            }
            if matches!(entry.kind, EntryKind::Directory) {
                if made.iter().rev().any(|known| *known == entry.path) {
                    continue;
                }
                made.push(entry.path.clone());
            }
            append(&mut archive, &entry.path, &entry.kind, &entry.from)?;
        }
        let plain = archive.into_inner().map_err(at(&draft))?;
        let (gzip, diff_id, _) = plain.finish();
        let (mut file, digest, size) = gzip.finish().map_err(at(&draft))?.finish();
        file.flush().map_err(at(&draft))?;
        let place = self.blobs.join(digest.hex());
        fs::rename(&draft, &place).map_err(at(&place))?;
        Ok(Layer { digest, size, diff_id })
    }

    fn write_json(&self, value: &Value) -> Result<(Digest, u64), ImageError> {
        let bytes = value.to_string();
        let digest = Digest::of(bytes.as_bytes());
        let place = self.blobs.join(digest.hex());
        fs::write(&place, &bytes).map_err(at(&place))?;
        Ok((digest, bytes.len() as u64))
    }

    /// Adds a manifest to `index.json`, in the place of one with the same tag.
    fn add_to_index(&self, descriptor: Value, tag: &str) -> Result<(), ImageError> {
        let path = self.root.join("index.json");
        let mut manifests = read_index(&self.root)?;
        manifests.retain(|manifest| manifest["annotations"][REF_NAME] != tag);
        manifests.push(descriptor);
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": manifests });
        let draft = self.root.join(".index.json");
        fs::write(&draft, index.to_string()).map_err(at(&draft))?;
        fs::rename(&draft, &path).map_err(at(&path))
    }
}

/// Puts the images of another layout into the one in `out`, under `name` and the tags that they have there: blobs as
/// links, where the disk is the same. Gives tags and digests. Blocks.
pub(crate) fn adopt(from: &Path, out: &Path, name: &str) -> Result<Vec<(String, Digest)>, ImageError> {
    let layout = Layout::open(out)?;
    let mut adopted = Vec::new();
    for mut descriptor in read_index(from)? {
        let wrong = || ImageError::Index { path: from.join("index.json") };
        let digest: Digest =
            descriptor["digest"].as_str().and_then(|text| text.parse().ok()).ok_or_else(wrong)?;
        let mut parts = Vec::new();
        blobs(from, digest, MANIFESTS, &mut parts)?;
        for (part, _) in parts {
            let (there, here) = (from.join("blobs/sha256").join(part.hex()), layout.blobs.join(part.hex()));
            if !here.exists() {
                let linked = fs::hard_link(&there, &here).or_else(|_| fs::copy(&there, &here).map(drop));
                linked.map_err(at(&there))?;
            }
        }
        let full = descriptor["annotations"][REF_NAME].as_str().unwrap_or_default().to_owned();
        // A name with or without a tag, or a tag alone.
        let last = full.rsplit(['/', ':']).next().unwrap_or_default();
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let tag = if last.is_empty() || !last.chars().all(plain) { "latest" } else { last }.to_owned();
        let named = format!("{name}:{tag}");
        descriptor["annotations"] = json!({ REF_NAME: named });
        layout.add_to_index(descriptor, &named)?;
        adopted.push((tag, digest));
    }
    Ok(adopted)
}

/// Adds a manifest or index of a layout, and all that it names, with sizes. What an index names and is not there is
/// left out: layouts may have the images of some platforms only. Blocks.
pub(crate) fn blobs(
    layout: &Path,
    digest: Digest,
    depth: usize,
    all: &mut Vec<(Digest, u64)>,
) -> Result<(), ImageError> {
    let path = layout.join("blobs/sha256").join(digest.hex());
    let mut bytes = Vec::new();
    File::open(&path).and_then(|file| file.take(INDEX_LIMIT).read_to_end(&mut bytes)).map_err(at(&path))?;
    let wrong = || ImageError::Index { path: path.clone() };
    let manifest: Value = serde_json::from_slice(&bytes).map_err(|_| wrong())?;
    all.push((digest, bytes.len() as u64));
    for list in ["manifests", "layers"] {
        for part in manifest[list].as_array().into_iter().flatten() {
            let part: Digest =
                part["digest"].as_str().and_then(|text| text.parse().ok()).ok_or_else(wrong)?;
            let there = layout.join("blobs/sha256").join(part.hex());
            match fs::metadata(&there) {
                Ok(_) if list == "manifests" && depth > 0 => blobs(layout, part, depth - 1, all)?,
                Ok(meta) if all.iter().all(|(known, _)| *known != part) => all.push((part, meta.len())),
                Err(error) if list == "layers" => return Err(at(&there)(error)),
                _ => {}
            }
        }
    }
    if let Some(config) = manifest["config"]["digest"].as_str() {
        let config: Digest = config.parse().map_err(|_| wrong())?;
        let there = layout.join("blobs/sha256").join(config.hex());
        let length = fs::metadata(&there).map_err(at(&there))?.len();
        if all.iter().all(|(known, _)| *known != config) {
            all.push((config, length));
        }
    }
    Ok(())
}

/// The descriptors of a layout's `index.json`; none when there is no such file.
pub(crate) fn read_index(root: &Path) -> Result<Vec<Value>, ImageError> {
    let path = root.join("index.json");
    let mut text = String::new();
    match File::open(&path) {
        Ok(file) => file.take(INDEX_LIMIT).read_to_string(&mut text).map_err(at(&path))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(ImageError::Io { path, error }),
    };
    match serde_json::from_str::<Value>(&text).ok().as_mut().map(|index| index["manifests"].take()) {
        Some(Value::Array(manifests)) => Ok(manifests),
        _ => Err(ImageError::Index { path }),
    }
}

fn append(
    archive: &mut tar::Builder<impl Write>,
    path: &Path,
    kind: &EntryKind,
    from: &Path,
) -> Result<(), ImageError> {
    let mut header = tar::Header::new_gnu();
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    let outcome = match kind {
        EntryKind::Directory => {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(0o755);
            let mut name = path.as_os_str().to_owned();
            name.push("/");
            archive.append_data(&mut header, PathBuf::from(name), io::empty())
        }
        EntryKind::Link { target } => {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_mode(0o777);
            archive.append_link(&mut header, path, target)
        }
        EntryKind::File { size, executable } => {
            header.set_entry_type(tar::EntryType::Regular);
            header.set_mode(if *executable { 0o755 } else { 0o644 });
            header.set_size(*size);
            let file = File::open(from).map_err(at(from))?;
            // The header has promised a length; a file that changes meanwhile must not break the archive.
            let exact = Exact { inner: BufReader::with_capacity(1 << 18, file), left: *size };
            archive.append_data(&mut header, path, exact)
        }
    };
    outcome.map_err(at(from))
}

/// Reads exactly `left` bytes: stops there, and fails when there are fewer.
struct Exact<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Exact<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.inner.read(buffer.get_mut(..room).unwrap_or_default())?;
        if read == 0 && room > 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the file became shorter while it was read",
            ));
        }
        self.left -= read as u64;
        Ok(read)
    }
}

/// Hashes and counts what passes through.
struct Measured<W> {
    inner: W,
    hash: Sha256,
    written: u64,
}

impl<W> Measured<W> {
    fn new(inner: W) -> Self {
        Self { inner, hash: Sha256::default(), written: 0 }
    }

    fn finish(self) -> (W, Digest, u64) {
        (self.inner, Digest::from_bytes(self.hash.finalize()), self.written)
    }
}

impl<W: Write> Write for Measured<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(bytes.get(..written).unwrap_or_default());
        self.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// This machine's architecture by the image spec's (Go's) name.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

fn first_name(layer: &[Entry]) -> String {
    layer.first().map(|entry| entry.path.display().to_string()).unwrap_or_default()
}

fn is_executable(metadata: &fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    metadata.permissions().mode() & 0o111 != 0
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> ImageError {
    let path = path.to_owned();
    move |error| ImageError::Io { path, error }
}

fn not_a_file(path: &Path) -> ImageError {
    at(path)(io::Error::new(io::ErrorKind::InvalidInput, "not a file"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use flate2::read::GzDecoder;

    use super::*;

    fn sources() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        };
        write("a/one", &[1; 5000]);
        write("a/two", &[2; 5000]);
        write(&format!("b/{}end", "long-name/".repeat(15)), b"");
        write("b/three", &[3; 5000]);
        write("c/four", &[4; 100]);
        write("c/five", &[5; 5000]);
        write(".git/config", b"no");
        write("target-c/debug", b"no");
        write("web/node_modules/x", b"no");
        std::os::unix::fs::symlink("../a/one", directory.path().join("b/link")).unwrap();
        fs::create_dir_all(directory.path().join("z")).unwrap();
        directory
    }

    /// Everything in all layers: path to content, or to link target.
    fn unpack(out: &Path, summary: &ImageSummary) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        for (digest, size) in &summary.layers {
            let bytes = fs::read(out.join("blobs/sha256").join(digest.hex())).unwrap();
            assert_eq!((Digest::of(&bytes), bytes.len() as u64), (*digest, *size));
            for entry in tar::Archive::new(GzDecoder::new(&bytes[..])).entries().unwrap() {
                let mut entry = entry.unwrap();
                assert_eq!((entry.header().mtime().unwrap(), entry.header().uid().unwrap()), (0, 0));
                let path = entry.path().unwrap().display().to_string();
                let link = entry.link_name().unwrap().map(|target| format!("-> {}", target.display()));
                let mut content = Vec::new();
                entry.read_to_end(&mut content).unwrap();
                found.insert(path, link.unwrap_or_else(|| hash::to_hex(&hash::sha256(&content))));
            }
        }
        found
    }

    #[test]
    fn an_image_holds_the_sources_and_is_the_same_every_time() {
        let (sources, out, again) = (sources(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let extra = sources.path().join("c/five");
        let summary = build(sources.path(), std::slice::from_ref(&extra), out.path(), "demo/app:1").unwrap();
        assert_eq!(summary.layers.len(), 5);
        let found = unpack(out.path(), &summary);
        assert_eq!(found["src/b/link"], "-> ../a/one");
        assert_eq!(found["src/b/three"], hash::to_hex(&hash::sha256(&[3; 5000])));
        assert_eq!(found["usr/local/bin/five"], hash::to_hex(&hash::sha256(&[5; 5000])));
        assert!(found.contains_key("src/z/"));
        assert!(
            found
                .keys()
                .all(|path| !path.contains(".git") && !path.contains("target") && !path.contains("modules/"))
        );
        assert_eq!(build(sources.path(), &[extra], again.path(), "demo/app:1").unwrap(), summary);
    }

    #[test]
    fn diff_ids_are_those_of_the_unpacked_layers() {
        let (sources, out) = (sources(), tempfile::tempdir().unwrap());
        let summary = build(sources.path(), &[], out.path(), "demo:1").unwrap();
        let read = |digest: &str| -> Value {
            let hex = digest.strip_prefix("sha256:").unwrap();
            serde_json::from_slice(&fs::read(out.path().join("blobs/sha256").join(hex)).unwrap()).unwrap()
        };
        let manifest = read(&summary.manifest_digest.to_string());
        let config = read(manifest["config"]["digest"].as_str().unwrap());
        for ((digest, _), diff_id) in
            summary.layers.iter().zip(config["rootfs"]["diff_ids"].as_array().unwrap())
        {
            let packed = fs::read(out.path().join("blobs/sha256").join(digest.hex())).unwrap();
            let mut plain = Vec::new();
            GzDecoder::new(&packed[..]).read_to_end(&mut plain).unwrap();
            assert_eq!(Digest::of(&plain).to_string(), diff_id.as_str().unwrap());
        }
        assert_eq!(config["history"].as_array().unwrap().len(), summary.layers.len());
    }

    #[test]
    fn a_second_image_joins_the_index_and_a_rebuilt_one_takes_its_place() {
        let (sources, out) = (sources(), tempfile::tempdir().unwrap());
        build(sources.path(), &[], out.path(), "demo:1").unwrap();
        build(sources.path(), &[], out.path(), "demo:2").unwrap();
        fs::write(sources.path().join("a/one"), b"new").unwrap();
        let summary = build(sources.path(), &[], out.path(), "demo:1").unwrap();
        let manifests = read_index(out.path()).unwrap();
        assert_eq!(manifests.len(), 2);
        let named = manifests.iter().find(|m| m["annotations"][REF_NAME] == "demo:1").unwrap();
        assert_eq!(named["digest"], summary.manifest_digest.to_string());
    }

    #[test]
    fn too_much_and_nothing_are_refused() {
        let (sources, out) = (sources(), tempfile::tempdir().unwrap());
        let outcome = build_within(sources.path(), &[], out.path(), "demo:1", 1000);
        assert!(matches!(outcome, Err(ImageError::TooLarge { limit: 1000, .. })));
        let empty = tempfile::tempdir().unwrap();
        assert!(matches!(build(empty.path(), &[], out.path(), "demo:1"), Err(ImageError::Empty { .. })));
        let missing = build(&sources.path().join("no"), &[], out.path(), "demo:1");
        assert!(matches!(missing, Err(ImageError::Io { .. })));
    }

    #[test]
    fn layers_are_of_about_equal_size_and_never_without_a_file() {
        let file = |n: usize, size| Entry {
            from: PathBuf::new(),
            path: PathBuf::from(format!("src/{n}")),
            kind: EntryKind::File { size, executable: false },
        };
        let sizes = |sizes: &[u64]| -> Vec<u64> {
            let entries = sizes.iter().enumerate().map(|(n, size)| file(n, *size)).collect();
            split(entries).iter().map(|layer| layer.iter().map(Entry::size).sum()).collect()
        };
        assert_eq!(sizes(&[1; 8]), [2, 2, 2, 2]);
        assert_eq!(sizes(&[100, 1, 1, 1]), [100, 1, 1, 1]);
        assert_eq!(sizes(&[1, 1, 1, 100]), [1, 1, 1, 100]);
        assert_eq!(sizes(&[0, 0, 0]).len(), 3);
        assert_eq!(sizes(&[5]), [5]);
        assert_eq!(sizes(&[]), [0; 0]);
    }
}
