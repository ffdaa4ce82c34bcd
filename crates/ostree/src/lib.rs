//! OSTree repositories as they lie on a web server: what each file is, and what its bytes must be.
//!
//! [`File::of`] says of a path below a repository whether its bytes have a known SHA-256, never change, or must be
//! asked for anew; [`parse_superblock`] reads the parts' SHA-256 from a static delta's superblock; [`ContentObject`]
//! reads a packed content object as it comes, and says which one it is.
//!
//! It never asks, opens or stores anything, and never judges a commit: whoever pulls checks what OSTree checks.
//!
//! Invariant: a digest that is given for a file is what OSTree itself will hold its bytes against.
//!
//! Pure functions, for any thread; but few bytes of a content object may unpack to many.

mod content;
mod file;
mod superblock;
mod variant;

pub use content::{ContentError, ContentObject};
pub use file::{File, PathError};
pub use superblock::{SuperblockError, parse_superblock};
