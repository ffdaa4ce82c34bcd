//! A reply that is read is written and read the same.
#![no_main]

use announce::{AnnounceResponse, PeerFormat, Reply};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|reply: &[u8]| {
    let Ok(Reply::Ok(response)) = AnnounceResponse::parse(reply) else { return };
    let again = AnnounceResponse::parse(&response.encode(PeerFormat::Dictionary));
    assert_eq!(again, Ok(Reply::Ok(response)));
});
