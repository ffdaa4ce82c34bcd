//! `longshore create`: makes a torrent from a file or folder.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use metainfo::{
    Torrent,
    create::{CreateError, Options, Symlinks, create},
};
use serde_json::json;

use crate::{failure::Failure, host, quantity, screen, torrent_file};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The file or folder
    path: PathBuf,
    /// Make a torrent of each file and each folder in the folder, of what is neither hidden, a symlink nor empty. One that
    /// is there already and would be made again stays
    #[arg(long, conflicts_with_all = ["name", "blob"])]
    each: bool,
    /// Where to write the torrent; with --each, the folder to write all of them to [default: the content's name and
    /// .torrent, in this folder]
    #[arg(short, long, value_name = "OUT.torrent")]
    output: Option<PathBuf>,
    /// A tracker's announce URL (`ws://` only for other clients: ours do not ask it). Each use is a tier of its own;
    /// commas stand between the trackers of one tier
    #[arg(short, long = "tracker", value_name = "URL", value_parser = torrent_file::parse_any_tier)]
    trackers: Vec<Vec<String>>,
    /// A power of two, such as 256KiB [default: by the content's size]
    #[arg(short = 'l', long, value_name = "SIZE", value_parser = quantity::parse_size)]
    piece_length: Option<u32>,
    /// Peers may come from the trackers only
    #[arg(short, long)]
    private: bool,
    /// For people
    #[arg(short, long, value_name = "TEXT")]
    comment: Option<String>,
    /// Another name than the file's or folder's own
    #[arg(short, long)]
    name: Option<String>,
    /// Leave the date out, so that the same content makes the same torrent file
    #[arg(long)]
    no_date: bool,
    /// Make the torrent that Longshore's nodes make of a blob, whose pieces prove its SHA-256 digest too
    #[arg(long)]
    blob: bool,
    /// A URL from which clients can fetch the content over HTTP; may be repeated
    #[arg(short, long = "web-seed", value_name = "URL", value_parser = torrent_file::parse_web_seed)]
    web_seeds: Vec<String>,
    /// Leave symlinks out instead of refusing them
    #[arg(long)]
    skip_symlinks: bool,
    /// Replace the torrent file if it is there
    #[arg(short, long)]
    force: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    if args.each {
        return each(args);
    }
    // Known before anything is hashed, where it can be.
    if let Some(output) = &args.output {
        refuse_present(output, args.force)?;
    }
    let torrent = make(&args.path, args).map_err(explain)?;
    let output = match &args.output {
        Some(output) => output.clone(),
        None => beside(Path::new(""), &torrent),
    };
    write(&output, &torrent.encode(), args.force)?;
    show(&torrent, &output, args.json);
    Ok(())
}

/// A torrent of each entry of a folder.
fn each(args: &Args) -> anyhow::Result<()> {
    let unusable = || Failure::bad_input(format!("cannot use the folder {}", args.path.display()));
    let mut paths = Vec::new();
    for entry in fs::read_dir(&args.path).with_context(unusable)? {
        let entry = entry.with_context(unusable)?;
        let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if !is_hidden && !entry.file_type().with_context(unusable)?.is_symlink() {
            paths.push(entry.path());
        }
    }
    paths.sort();
    let folder = args.output.as_deref().unwrap_or(Path::new(""));
    if !folder.as_os_str().is_empty() {
        let failed = || Failure::new(format!("cannot make the folder {}", folder.display()));
        fs::create_dir_all(folder).with_context(failed)?;
    }
    let mut count = 0;
    for path in paths {
        let torrent = match make(&path, args) {
            Err(CreateError::Empty(_)) => continue,
            made => made.map_err(explain)?,
        };
        count += 1;
        let output = beside(folder, &torrent);
        let there = output.is_file().then(|| torrent_file::read(&output).ok()).flatten();
        let stays = |there: Torrent| {
            (there.info_hash, there.trackers) == (torrent.info_hash, torrent.trackers.clone())
        };
        if !there.is_some_and(stays) {
            write(&output, &torrent.encode(), args.force)?;
        }
        show(&torrent, &output, args.json);
    }
    if count == 0 {
        let what = format!("{} holds nothing to make a torrent of", args.path.display());
        return Err(Failure::bad_input(what).into());
    }
    Ok(())
}

/// Where a torrent goes for which no file is named.
fn beside(folder: &Path, torrent: &Torrent) -> PathBuf {
    folder.join(format!("{}.torrent", torrent.info.name))
}

fn make(path: &Path, args: &Args) -> Result<Torrent, CreateError> {
    let options = Options {
        piece_length: args.piece_length,
        private: args.private,
        name: args.name.clone(),
        blob: args.blob,
        trackers: args.trackers.clone(),
        web_seeds: args.web_seeds.clone(),
        comment: args.comment.clone(),
        created_by: Some(concat!("Longshore ", env!("CARGO_PKG_VERSION")).to_owned()),
        creation_date: if args.no_date { None } else { i64::try_from(host::unix_time()).ok() },
        symlinks: if args.skip_symlinks { Symlinks::Skip } else { Symlinks::Refuse },
        threads: 0,
    };
    let bar = screen::byte_bar("hashing", 0, args.json);
    let made = create(path, &options, &|done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    made
}

/// What of it is the user's to put right, and how.
fn explain(error: CreateError) -> anyhow::Error {
    let hint = match &error {
        CreateError::Symlink(_) => Some("--skip-symlinks leaves symlinks out"),
        CreateError::BlobFolder(_) => Some("leave --blob out, or name a file"),
        CreateError::TooManyPieces => Some("give a larger --piece-length"),
        CreateError::BadName(_) => Some("rename it, or, if it is the content itself, give a --name"),
        CreateError::Changed(_) | CreateError::ThreadDied | CreateError::Unreadable(_) => {
            return error.into();
        }
        _ => None,
    };
    let failure = Failure::bad_input("cannot make the torrent");
    let failure = match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    };
    anyhow::Error::new(error).context(failure)
}

fn refuse_present(output: &Path, force: bool) -> anyhow::Result<()> {
    if force || fs::symlink_metadata(output).is_err() {
        return Ok(());
    }
    let what = format!("{} is there already", output.display());
    Err(Failure::bad_input(what).hint("--force replaces it; -o names another").into())
}

/// Writes the file whole or not at all.
fn write(output: &Path, bytes: &[u8], force: bool) -> anyhow::Result<()> {
    let failed = || format!("cannot write {}", output.display());
    let mut draft = output.as_os_str().to_owned();
    draft.push(format!(".{}.part", std::process::id()));
    let draft = PathBuf::from(draft);
    let written = OpenOptions::new().write(true).create_new(true).open(&draft).and_then(|mut file| {
        file.write_all(bytes)?;
        // A link fails where the name is taken; a rename replaces.
        if force { fs::rename(&draft, output) } else { fs::hard_link(&draft, output) }
    });
    if !force || written.is_err() {
        let _ = fs::remove_file(&draft);
    }
    match written {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => refuse_present(output, false),
        written => written.with_context(failed),
    }
}

fn show(torrent: &Torrent, output: &Path, json: bool) {
    let (info, magnet) = (&torrent.info, torrent.magnet().to_string());
    let digest = info.blob.as_ref().map(|blob| blob.digest().to_string());
    let geometry = info.geometry;
    if json {
        screen::say_json(&json!({
            "torrent": output,
            "info_hash": torrent.info_hash.to_string(),
            "magnet": magnet,
            "name": info.name,
            "digest": digest,
            "bytes": geometry.total(),
            "files": info.files.len(),
            "pieces": geometry.piece_count(),
            "piece_length": geometry.piece_length(),
        }));
        return;
    }
    let pieces = quantity::count(geometry.piece_count() as usize, "piece");
    let pieces = format!("{pieces} of {}", quantity::size(geometry.piece_length().into()));
    let files = quantity::count(info.files.len(), "file");
    let mut rows = vec![
        ("torrent", output.display().to_string()),
        ("content", format!("{}, {} in {files}, {pieces}", info.name, quantity::size(geometry.total()))),
        ("info-hash", torrent.info_hash.to_string()),
        ("magnet", magnet),
    ];
    if let Some(digest) = digest {
        rows.push(("digest", digest));
    }
    screen::say(&screen::table(&rows));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_only_by_force() {
        let folder = tempfile::tempdir().expect("a folder");
        let output = folder.path().join("x.torrent");
        write(&output, b"one", false).expect("written");
        assert!(write(&output, b"two", false).is_err());
        assert_eq!(fs::read(&output).expect("there"), b"one");
        write(&output, b"two", true).expect("replaced");
        assert_eq!(fs::read(&output).expect("there"), b"two");
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1, "no draft is left");
    }
}
