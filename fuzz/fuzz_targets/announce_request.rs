//! An announce that is read is written and read the same.
#![no_main]

use announce::AnnounceRequest;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|tail: &[u8]| {
    // What every announce has is given, as a fuzzer would long look for it.
    let head = b"info_hash=01234567890123456789&peer_id=01234567890123456789&port=1&";
    for query in [tail, &[&head[..], tail].concat()] {
        if let Ok(request) = AnnounceRequest::parse_query(query) {
            assert_eq!(AnnounceRequest::parse_query(request.to_query().as_bytes()), Ok(request));
        }
    }
});
