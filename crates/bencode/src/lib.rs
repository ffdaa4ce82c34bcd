//! Bencode (BEP 3): strict, without copies, with a bound on depth and size.
//!
//! [`decode()`] checks a whole message once and hands out a [`Value`], which is nothing but the message's
//! bytes: walking it allocates nothing, and [`Value::raw`] gives the exact bytes that a hash is taken
//! over. [`Writer`] makes canonical messages.
//!
//! What it never does: copy, recurse without a bound, allocate by a length it was told, or guess.
//!
//! The invariant: a [`Value`] only ever holds one whole, well-formed value. Everything is plain code on
//! the caller's thread.

mod decode;
mod encode;
mod value;

pub use decode::{DecodeError, Options, decode, decode_prefix};
pub use encode::{DictWriter, ListWriter, Writer, encode_dict};
pub use value::{Dict, DictIter, Kind, List, Value};
