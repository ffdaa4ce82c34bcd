//! A magnet link that is read is written and read the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use metainfo::Magnet;

fuzz_target!(|text: &str| {
    // The info-hash is given, as a fuzzer would long look for one.
    let link = format!("magnet:?xt=urn:btih:c0fda1edafdbdbb96443424e0b3899af7159d10e&{text}");
    for text in [text, &link] {
        if let Ok(magnet) = text.parse::<Magnet>() {
            let written = magnet.to_string();
            assert_eq!(written.parse(), Ok(magnet));
        }
    }
});
