//! A packet of the local network is refused, or written and read the same.
#![no_main]

use announce::{LocalAnnounce, local};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(mut announce) = LocalAnnounce::parse(bytes) {
        announce.info_hashes.truncate(local::MOST);
        assert_eq!(LocalAnnounce::parse(&announce.encode(local::GROUP_V4.into())), Ok(announce));
    }
});
