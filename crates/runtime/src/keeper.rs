//! Changes files, remembers what was there, and brings it back.
//!
//! The order of steps is what makes a crash harmless. To put our part in: the record with the file's bytes, then the
//! folders, then the file. To take it out: the file, then the folders, then the record. A record therefore stands for
//! as long as the file may hold anything of ours, and says of each text that it may find there whether it is ours.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use hash::Digest;
use rustix::fs::FlockOperation;

use crate::{
    part::{EditError, Part},
    place::{self, Present, Root},
    record::{Record, Written},
    setup::{Change, Runtime},
};

/// Changes the files below a root, and remembers in a state folder what was there.
#[derive(Debug)]
pub struct Keeper {
    root: Root,
    state: PathBuf,
    #[cfg(test)]
    steps: std::cell::Cell<Option<u32>>,
}

/// What would be done to a file.
#[derive(Debug)]
pub struct Planned {
    /// The file, below the root.
    pub path: PathBuf,
    /// What is in it.
    pub old: Option<String>,
    /// What would be in it; `None` where nothing is to be done.
    pub new: Option<String>,
    record: Option<Record>,
    real: PathBuf,
    present: Option<Present>,
}

/// What was done to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// It was written.
    Written,
    /// It is as we once wrote it.
    Unchanged,
    /// Others have put there what is needed.
    There,
}

/// How a file was undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undone {
    /// The bytes from before are back.
    Restored,
    /// It was made by us, and is gone.
    Removed,
    /// Others have changed it since: only our part was taken out.
    Edited,
    /// There was nothing of ours in it.
    Untouched,
    /// Others have removed it.
    Gone,
}

/// A file that was to be undone.
#[derive(Debug)]
pub struct Outcome {
    /// The file, below the root.
    pub path: PathBuf,
    /// How it went.
    pub undone: Result<Undone, KeepError>,
}

/// What undoing would do to a file.
#[derive(Debug)]
pub struct PlannedUndo {
    /// The file, below the root.
    pub path: PathBuf,
    /// What is in it.
    pub old: Option<String>,
    /// What would be in it.
    pub new: Option<String>,
}

impl Keeper {
    /// Works on the files of `root`, remembering in `state`.
    pub fn new(root: Root, state: PathBuf) -> Self {
        Self {
            root,
            state,
            #[cfg(test)]
            steps: std::cell::Cell::new(None),
        }
    }

    /// Keeps other processes away from the state folder until the handle is dropped; makes the folder.
    ///
    /// # Errors
    /// Another process works with it, or it cannot be made.
    pub fn lock(&self) -> Result<File, KeepError> {
        let fail = |source| KeepError::state(&self.state, source);
        private(&self.state).map_err(fail)?;
        let folder = File::open(&self.state).map_err(fail)?;
        match rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(folder),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(KeepError::Busy { path: self.state.clone() }),
            Err(error) => Err(fail(error.into())),
        }
    }

    /// What is to be done for a change. Writes nothing.
    ///
    /// # Errors
    /// The file cannot be read, or not take our part.
    pub fn plan(&self, runtime: Runtime, change: &Change) -> Result<Planned, KeepError> {
        let (path, part) = (&change.path, &change.part);
        let (real, present) = self.present(path)?;
        let record = self.record(runtime, path)?;
        let old = present.as_ref().map(|file| text(path, &file.bytes)).transpose()?;
        // The file as it would be without us.
        let base = match &record {
            Some(record) if present.as_ref().is_some_and(|file| record.wrote(&file.bytes)) => {
                record.original.clone().map(Present::from)
            }
            Some(record) if !record.is_original(present.as_ref()) => {
                self.without(path, record, present.clone())?
            }
            _ => present.clone(),
        };
        let base_text = base.as_ref().map(|file| text(path, &file.bytes)).transpose()?;
        let edited =
            part.insert(base_text.as_deref().unwrap_or_default()).map_err(|e| KeepError::edit(path, e))?;
        let mut planned =
            Planned { path: path.clone(), old, new: None, record: None, real, present: present.clone() };
        let Some(edited) = edited else { return Ok(planned) };
        let digest = Digest::of(edited.text.as_bytes()).to_string();
        let written = Written { digest, part: part.clone(), added: edited.added, replaced: edited.replaced };
        let mut record =
            record.unwrap_or(Record { path: path.clone(), original: None, made: vec![], written: vec![] });
        record.original = base.map(Into::into);
        // The one that is there now comes last but one.
        record.written.retain(|known| known.digest != written.digest);
        record.written.push(written);
        planned.record = Some(record);
        planned.new = Some(edited.text).filter(|new| Some(new) != planned.old.as_ref());
        Ok(planned)
    }

    /// Does what was planned.
    ///
    /// # Errors
    /// Something cannot be written. What was there before is there, or can be brought back by [`Self::undo`].
    pub fn apply(&self, runtime: Runtime, planned: Planned) -> Result<Done, KeepError> {
        let Planned { path, new, record, real, present, .. } = planned;
        let Some(mut record) = record else { return Ok(Done::There) };
        let Some(new) = new else { return Ok(Done::Unchanged) };
        let fail = |source| KeepError::write(&path, source);
        let folder = self.folder(runtime);
        let keep = |source| KeepError::state(&self.state, source);
        private(&folder).map_err(keep)?;
        let missing = missing(&real);
        for made in &missing {
            let made = made.strip_prefix(self.root.resolve(Path::new("/")).map_err(fail)?).unwrap_or(made);
            let made = Path::new("/").join(made);
            if !record.made.contains(&made) {
                record.made.push(made);
            }
        }
        record.made.sort();
        let place = Record::place(&folder, &path);
        self.step().and_then(|()| record.save(&place)).map_err(keep)?;
        for folder in missing {
            self.step().and_then(|()| DirBuilder::new().mode(0o755).create(&folder)).map_err(fail)?;
            place::sync_folder(&folder).map_err(fail)?;
        }
        let bytes = new.into_bytes();
        let file = match present {
            Some(present) => Present { bytes, ..present },
            None => Present {
                bytes,
                mode: 0o644,
                owner: rustix::process::geteuid().as_raw(),
                group: rustix::process::getegid().as_raw(),
            },
        };
        self.step().and_then(|()| place::replace(&real, &file)).map_err(fail)?;
        // What we wrote earlier is gone.
        record.written.drain(..record.written.len().saturating_sub(1));
        self.step().and_then(|()| record.save(&place)).map_err(keep)?;
        Ok(Done::Written)
    }

    /// Files of a runtime that we have changed, and how each was undone. Those that fail keep their record.
    ///
    /// # Errors
    /// The state folder cannot be read.
    pub fn undo(&self, runtime: Runtime) -> Result<Vec<Outcome>, KeepError> {
        let folder = self.folder(runtime);
        let keep = |source| KeepError::state(&self.state, source);
        let mut outcomes = Vec::new();
        for place in Record::all(&folder).map_err(keep)? {
            let Some(record) = Record::load(&place).map_err(|source| KeepError::state(&place, source))?
            else {
                continue;
            };
            let outcome = self.undo_one(&place, &record);
            outcomes.push(Outcome { path: record.path, undone: outcome });
        }
        // This fails where something is left in it, which is as it should be.
        let _ = fs::remove_dir(&folder);
        self.tidy();
        Ok(outcomes)
    }

    /// What [`Self::undo`] would do: each file with its text now, and its text then.
    ///
    /// # Errors
    /// As there; and a file's own.
    pub fn plan_undo(&self, runtime: Runtime) -> Result<Vec<PlannedUndo>, KeepError> {
        let places =
            Record::all(&self.folder(runtime)).map_err(|source| KeepError::state(&self.state, source))?;
        let mut plans = Vec::new();
        for place in places {
            let Some(record) = Record::load(&place).map_err(|source| KeepError::state(&place, source))?
            else {
                continue;
            };
            let (_, present) = self.present(&record.path)?;
            let then = self.then(&record, present.as_ref())?;
            let text = |file: Option<&Present>| file.map(|file| text(&record.path, &file.bytes)).transpose();
            let (old, new) = (text(present.as_ref())?, text(then.as_ref())?);
            plans.push(PlannedUndo { path: record.path.clone(), old, new });
        }
        Ok(plans)
    }

    /// What is ours in a runtime's files, by the records.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn parts(&self, runtime: Runtime) -> Result<Vec<Part>, KeepError> {
        let fail = |source| KeepError::state(&self.state, source);
        let mut parts = Vec::new();
        for place in Record::all(&self.folder(runtime)).map_err(fail)? {
            let record = Record::load(&place).map_err(fail)?;
            parts.extend(
                record.and_then(|record| record.written.into_iter().next_back()).map(|last| last.part),
            );
        }
        Ok(parts)
    }

    /// Removes the state folder if it holds nothing.
    pub fn tidy(&self) {
        let _ = fs::remove_dir(&self.state);
    }

    /// Whether anything is remembered at all.
    pub fn is_used(&self) -> bool {
        self.state.exists()
    }

    fn undo_one(&self, place: &Path, record: &Record) -> Result<Undone, KeepError> {
        let path = &record.path;
        let fail = |source| KeepError::write(path, source);
        let (real, present) = self.present(path)?;
        let then = self.then(record, present.as_ref())?;
        let undone = match (&present, &then) {
            (None, _) if record.original.is_some() => Undone::Gone,
            (present, then) if present == then => Undone::Untouched,
            (_, None) => Undone::Removed,
            _ if record.is_original(then.as_ref()) => Undone::Restored,
            _ => Undone::Edited,
        };
        match &then {
            _ if matches!(undone, Undone::Gone | Undone::Untouched) => {}
            Some(file) => self.step().and_then(|()| place::replace(&real, file)).map_err(fail)?,
            None => self.step().and_then(|()| place::remove(&real)).map_err(fail)?,
        }
        place::remove(&place::beside(&real)).or_else(absent).map_err(fail)?;
        for made in record.made.iter().rev() {
            let made = self.root.resolve(made).map_err(fail)?;
            // Others may have put something in.
            self.step().map_err(fail)?;
            let _ = fs::remove_dir(made);
        }
        self.step()
            .and_then(|()| place::remove(place))
            .map_err(|source| KeepError::state(&self.state, source))?;
        Ok(undone)
    }

    /// The file as it would be without us.
    fn then(&self, record: &Record, present: Option<&Present>) -> Result<Option<Present>, KeepError> {
        let Some(file) = present else { return Ok(None) };
        if record.wrote(&file.bytes) {
            // Mode and owner are as they were, or as others have set them since.
            let restored = |original: &crate::record::Original| Present {
                bytes: original.bytes.clone(),
                ..file.clone()
            };
            return Ok(record.original.as_ref().map(restored));
        }
        if record.is_original(present) {
            return Ok(present.cloned());
        }
        self.without(&record.path, record, present.cloned())
    }

    /// A file that others have changed, without our part.
    fn without(
        &self,
        path: &Path,
        record: &Record,
        present: Option<Present>,
    ) -> Result<Option<Present>, KeepError> {
        let Some(mut file) = present else { return Ok(None) };
        for Written { part, added, replaced, .. } in record.written.iter().rev() {
            let now = text(path, &file.bytes)?;
            if let Some(without) = part.remove(&now, added, replaced).map_err(|e| KeepError::edit(path, e))? {
                if record.original.is_none() && part.is_nothing(&without) {
                    return Ok(None);
                }
                file.bytes = without.into_bytes();
            }
        }
        Ok(Some(file))
    }

    fn present(&self, path: &Path) -> Result<(PathBuf, Option<Present>), KeepError> {
        let fail = |source| KeepError::Read { path: path.to_owned(), source };
        let real = self.root.resolve(path).map_err(fail)?;
        let present = place::read(&real).map_err(fail)?;
        Ok((real, present))
    }

    fn record(&self, runtime: Runtime, path: &Path) -> Result<Option<Record>, KeepError> {
        let place = Record::place(&self.folder(runtime), path);
        Record::load(&place).map_err(|source| KeepError::state(&place, source))
    }

    fn folder(&self, runtime: Runtime) -> PathBuf {
        self.state.join(runtime.name())
    }

    /// Before each step that changes the disk: tests stop here.
    #[allow(clippy::unnecessary_wraps, clippy::unused_self, reason = "tests stop here")]
    fn step(&self) -> io::Result<()> {
        #[cfg(test)]
        if let Some(left) = self.steps.get() {
            let Some(left) = left.checked_sub(1) else { return Err(io::Error::other("stopped by a test")) };
            self.steps.set(Some(left));
        }
        Ok(())
    }
}

/// Folders that a file wants and that are not there, outermost first.
fn missing(file: &Path) -> Vec<PathBuf> {
    let ancestors = file.ancestors().skip(1).take_while(|folder| !folder.exists());
    let mut missing: Vec<_> = ancestors.map(Path::to_owned).collect();
    missing.reverse();
    missing
}

/// Makes a folder that is for its owner alone, and those above it as folders mostly are.
fn private(folder: &Path) -> io::Result<()> {
    if let Some(above) = folder.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(above)?;
    }
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

fn absent(error: io::Error) -> io::Result<()> {
    if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) {
        Ok(())
    } else {
        Err(error)
    }
}

fn text(path: &Path, bytes: &[u8]) -> Result<String, KeepError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| KeepError::edit(path, EditError::NotText))
}

/// Why a file was not changed, or not brought back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeepError {
    /// It cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file, below the root.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// It cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file, below the root.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// Its text is not one that can be edited.
    #[error("{}: {source}", path.display())]
    Edit {
        /// The file, below the root.
        path: PathBuf,
        /// What is the matter.
        source: EditError,
    },
    /// The record of what was there cannot be read or written.
    #[error("cannot remember in {} what was there: {source}", path.display())]
    State {
        /// The state folder, or a file in it.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// Another process is at it.
    #[error("another `longshore runtime` is at work on {}: try again when it is done", path.display())]
    Busy {
        /// The state folder.
        path: PathBuf,
    },
}

impl KeepError {
    fn write(path: &Path, source: io::Error) -> Self {
        Self::Write { path: path.to_owned(), source }
    }

    fn edit(path: &Path, source: EditError) -> Self {
        Self::Edit { path: path.to_owned(), source }
    }

    fn state(path: &Path, source: io::Error) -> Self {
        Self::State { path: path.to_owned(), source }
    }

    /// The system's error below it, where there is one.
    pub fn io(&self) -> Option<&io::Error> {
        match self {
            Self::Read { source, .. } | Self::Write { source, .. } | Self::State { source, .. } => {
                Some(source)
            }
            Self::Edit { .. } | Self::Busy { .. } => None,
        }
    }
}

#[cfg(test)]
#[path = "keeper_tests.rs"]
mod tests;
