//! Heads of HTTP requests: read in place, the same however they come, and never beyond what is there.
#![no_main]

use announce::http::head::Parsed;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|tail: &[u8]| {
    // What every announce has is given, as a fuzzer would long look for it.
    for bytes in [tail, &[b"GET /announce?a HTTP/1.1\r\n", tail].concat()] {
        let whole = Parsed::read(bytes);
        if let Parsed::Get(head, length) = whole {
            assert!(length <= bytes.len() && head.path.starts_with(b"/"));
            assert!(!head.path.contains(&b'?'));
            let _ = head.field(b"x-forwarded-for").count();
            // With less of it one waits, and more changes nothing.
            assert_eq!(Parsed::read(&bytes[..length - 1]), Parsed::Partial);
            assert_eq!(Parsed::read(&bytes[..length]), whole);
        }
    }
});
