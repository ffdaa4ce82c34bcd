//! The configuration files of container runtimes and of OSTree: a mirror put into them, and taken out again.
//!
//! [`Setup`] says which files a runtime reads, and what has to stand in each: a list of [`Change`]s. A [`Part`] is what
//! is ours in a file: it is put into the text that is there with as few new bytes as possible, and found again when
//! others have edited the file since. [`Keeper`] does that to files. Before the first change it records what was
//! there, so that [`Keeper::undo`] brings it back to the byte; what others have changed since stays, and then only
//! our part goes.
//!
//! **Never:** a file half written or without a record of what it was, a symbolic link replaced, a setting of others
//! changed, a file written whose new text does not read as the old one with our part. It asks no runtime and no node.
//!
//! **The invariant:** at any moment, a crash included, `undo` gives the files back as they would be without us.
//!
//! **Threads:** none; everything blocks its caller. One process at a time works on a state folder.

mod containerd;
mod daemon;
mod hosts;
mod keeper;
mod part;
mod place;
mod preview;
mod record;
mod registries;
mod remotes;
mod setup;
mod tables;

pub use containerd::is_off as kubernetes_is_off;
pub use hosts::is_named as hosts_name;
pub use keeper::{Done, KeepError, Keeper, Outcome, Planned, PlannedUndo, Undone};
pub use part::{EditError, Part};
pub use place::Root;
pub use preview::preview;
pub use remotes::OstreeRemote;
pub use setup::{
    CERTS as CONTAINERD_FOLDER, Change, Runtime, Setup, SetupError, default_state, ostree_remotes,
};
