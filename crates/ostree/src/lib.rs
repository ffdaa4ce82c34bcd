//! OSTree repositories as they lie on a web server: what each file is, and what a static delta's parts are.
//!
//! [`File::of`] says of a path below a repository whether its bytes have a known SHA-256, never change, or must be
//! asked for anew; [`parse_superblock`] reads the parts' SHA-256 from a static delta's superblock.
//!
//! It never asks, opens or stores anything, and never judges a commit: whoever pulls checks what OSTree checks.
//!
//! Invariant: a digest that is given for a file is what OSTree itself will hold its bytes against.
//!
//! Pure functions, for any thread.

mod file;
mod superblock;

pub use file::{File, PathError};
pub use superblock::{SuperblockError, parse_superblock};
