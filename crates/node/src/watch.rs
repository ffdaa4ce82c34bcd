//! Folders that are watched for torrent files: in `load` they are added, in `start` added and started.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};

use crate::{
    content::Inner,
    torrents::{LARGEST, TorrentError, What},
};

/// How often it is looked.
const LOOK: Duration = Duration::from_secs(1);
/// Most files in one folder; further ones wait until others have left.
const MOST: usize = 10_000;

/// The folders under each watched one, and whether what lies there is started.
const FOLDERS: [(&str, bool); 2] = [("load", false), ("start", true)];

/// Makes the folders that are to be watched.
///
/// # Errors
/// Which cannot be made.
pub(crate) fn prepare(watched: &[PathBuf]) -> Result<(), (PathBuf, io::Error)> {
    for folder in watched.iter().flat_map(|folder| FOLDERS.map(|(name, _)| folder.join(name))) {
        fs::create_dir_all(&folder).map_err(|error| (folder, error))?;
    }
    Ok(())
}

/// Watches until the node's end.
pub(crate) async fn run(inner: Arc<Inner>) {
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut known = Known::new();
    loop {
        tokio::select! {
            () = inner.stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let watched = inner.config.torrents.watch.clone();
        let Ok((new, still)) = spawn_blocking(move || look(&watched, &known)).await else { return };
        known = still;
        for (path, start, read) in new {
            let shown = path.display();
            let torrent = match read {
                Ok(torrent) => torrent,
                Err(error) => {
                    tracing::warn!("{shown} is no torrent that can be used: {error}");
                    continue;
                }
            };
            match inner.add_torrent(What::Torrent(torrent), start, None).await {
                Ok((info_hash, name)) => tracing::info!(%info_hash, name, "added from {shown}"),
                // As after every restart.
                Err(TorrentError::Present(_)) => {}
                Err(error) => tracing::warn!("{shown} is not added: {error}"),
            }
        }
    }
}

/// Files that were seen: as they were, and whether they were read.
type Known = HashMap<PathBuf, (Option<SystemTime>, u64, bool)>;
type New = (PathBuf, bool, Result<Arc<metainfo::Torrent>, Box<dyn std::error::Error + Send + Sync>>);

/// Reads what is new, and was not being written a moment ago: it looks the same twice.
fn look(watched: &[PathBuf], known: &Known) -> (Vec<New>, Known) {
    let (mut new, mut still) = (Vec::new(), Known::new());
    for (folder, start) in
        watched.iter().flat_map(|folder| FOLDERS.map(|(name, start)| (folder.join(name), start)))
    {
        let Ok(files) = fs::read_dir(&folder) else { continue };
        for path in files.take(MOST).filter_map(|file| Some(file.ok()?.path())) {
            let Ok(meta) = fs::metadata(&path) else { continue };
            let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
            if hidden || !meta.is_file() || path.extension().is_none_or(|extension| extension != "torrent") {
                continue;
            }
            let (changed, length) = (meta.modified().ok(), meta.len());
            let same = known.get(&path).filter(|known| (known.0, known.1) == (changed, length));
            let read_before = same.is_some_and(|known| known.2);
            if same.is_some() && !read_before {
                new.push((path.clone(), start, read(&path)));
            }
            still.insert(path, (changed, length, same.is_some()));
        }
    }
    (new, still)
}

fn read(path: &Path) -> Result<Arc<metainfo::Torrent>, Box<dyn std::error::Error + Send + Sync>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST {
        return Err(format!("it is larger than {} MiB", LARGEST >> 20).into());
    }
    Ok(Arc::new(metainfo::Torrent::parse(&bytes)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_once_when_it_is_no_more_being_written() {
        let dir = tempfile::tempdir().expect("a folder");
        let watched = [dir.path().to_owned()];
        prepare(&watched).expect("made");
        let path = dir.path().join("start/a.torrent");
        for (name, text) in [("start/a.torrent", "half"), ("load/.b.torrent", "x"), ("load/c.txt", "x")] {
            fs::write(dir.path().join(name), text).expect("written");
        }
        let (new, known) = look(&watched, &Known::new());
        assert!(new.is_empty(), "it may be being written");
        fs::write(&path, "now it is whole").expect("written");
        let (new, known) = look(&watched, &known);
        assert!(new.is_empty(), "it was");
        let (new, known) = look(&watched, &known);
        assert_eq!(new.len(), 1);
        assert!(new[0].1 && new[0].0 == path && new[0].2.is_err(), "and it is no torrent");
        let (new, known) = look(&watched, &known);
        assert!(new.is_empty(), "which is said once");
        fs::remove_file(&path).expect("removed");
        let (new, known) = look(&watched, &known);
        assert!(new.is_empty() && known.is_empty());
    }
}
