//! Puts what is in `web/dist` into the crate: each file as it is and, where that is smaller, compressed. Where there is
//! no `web/dist` (no Node.js at hand), nothing; the crate then has a page of its own that says so.

#![allow(clippy::print_stdout, reason = "this is how a build script speaks to cargo")]

use std::{
    error::Error,
    fmt::Write as _,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use flate2::{Compression, write::GzEncoder};
use sha2::{Digest as _, Sha256};

fn main() -> Result<(), Box<dyn Error>> {
    let dist = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("../../web/dist");
    let out = PathBuf::from(variable("OUT_DIR")?);
    println!("cargo::rerun-if-changed=build.rs");
    // A folder that is not there would have this run at every build; its parent changes when it comes.
    let watched = if dist.exists() { &dist } else { dist.parent().ok_or("web/dist has a parent")? };
    println!("cargo::rerun-if-changed={}", watched.display());

    let mut files = Vec::new();
    if dist.join("index.html").is_file() {
        collect(&dist, &dist, &mut files)?;
    }
    files.sort();
    let mut code = String::from("static ASSETS: &[(&str, Asset)] = &[\n");
    for (number, (name, path)) in files.iter().enumerate() {
        println!("cargo::rerun-if-changed={}", path.display());
        let bytes = fs::read(path)?;
        let mut tag = String::new();
        for byte in Sha256::digest(&bytes).iter().take(12) {
            write!(tag, "{byte:02x}")?;
        }
        let packed = gzip(&bytes)?;
        let gzip = if packed.len() < bytes.len() / 10 * 9 {
            let place = out.join(format!("{number}.gz"));
            fs::write(&place, &packed)?;
            format!("Some(include_bytes!({:?}))", place.display().to_string())
        } else {
            "None".to_owned()
        };
        let (source, kind) = (fs::canonicalize(path)?.display().to_string(), content_type(name));
        writeln!(
            code,
            "    ({name:?}, Asset {{ content_type: {kind:?}, etag: \"\\\"{tag}\\\"\", bytes: include_bytes!({source:?}), gzip: {gzip} }}),"
        )?;
    }
    code.push_str("];\n");
    fs::write(out.join("assets.rs"), code)?;
    Ok(())
}

#[allow(clippy::disallowed_methods, reason = "cargo tells build scripts by variables")]
fn variable(name: &str) -> Result<String, std::env::VarError> {
    std::env::var(name)
}

fn collect(top: &Path, folder: &Path, files: &mut Vec<(String, PathBuf)>) -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={}", folder.display());
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(top, &path, files)?;
        } else {
            let name = path.strip_prefix(top)?.to_str().ok_or("a file name that is not UTF-8")?;
            files.push((format!("/{name}"), path.clone()));
        }
    }
    Ok(())
}

fn gzip(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes)?;
    encoder.finish()
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, end)| end) {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("woff2") => "font/woff2",
        Some("txt") => "text/plain; charset=utf-8",
        Some("png") => "image/png",
        Some("json") => "application/json",
        _ => "application/octet-stream",
    }
}
