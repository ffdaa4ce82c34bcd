//! Packed content objects: any bytes are refused or read, and it does not matter how they come. The first byte says how.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ostree::{ContentError, ContentObject};

fn read(bytes: &[u8], step: usize) -> Result<hash::Digest, ContentError> {
    let mut object = ContentObject::default();
    bytes.chunks(step).try_for_each(|chunk| object.update(chunk))?;
    object.finish()
}

fuzz_target!(|bytes: &[u8]| {
    let Some((step, bytes)) = bytes.split_first() else { return };
    let (whole, parts) = (read(bytes, bytes.len().max(1)), read(bytes, usize::from(*step).max(1)));
    // What is wrong in two ways may be refused for either.
    assert_eq!(whole.ok(), parts.ok());
});
