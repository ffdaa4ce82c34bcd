//! Superblocks of static deltas: any bytes are refused or give as many parts as they have room for.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(parts) = ostree::parse_superblock(bytes) {
        assert!(parts.len() <= bytes.len());
    }
});
