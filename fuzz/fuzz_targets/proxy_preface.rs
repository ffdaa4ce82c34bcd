//! The PROXY protocol: read the same however it comes, never beyond what is there, and never for longer than agreed.
#![no_main]

use announce::http::preface::{MAX_PREFACE, Preface};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|tail: &[u8]| {
    // How both versions begin is given, as a fuzzer would long look for it.
    for begin in [&b""[..], b"PROXY TCP4 1.", b"PROXY TCP6 ", b"\r\n\r\n\0\r\nQUIT\n\x21"] {
        let bytes = [begin, tail].concat();
        match Preface::read(&bytes) {
            Preface::Partial => assert!(bytes.len() < MAX_PREFACE),
            // More does not mend it.
            Preface::Broken => assert_eq!(Preface::read(&[&bytes[..], b"\r\n"].concat()), Preface::Broken),
            whole @ Preface::Whole(_, length) => {
                assert!(length <= bytes.len() && length <= MAX_PREFACE);
                assert_eq!(Preface::read(&bytes[..length]), whole);
                for less in 0..length.min(300) {
                    assert_eq!(Preface::read(&bytes[..less]), Preface::Partial);
                }
            }
        }
    }
});
