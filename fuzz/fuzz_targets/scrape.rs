//! Scrapes that are read are written and read the same.
#![no_main]

use announce::{Reply, ScrapeRequest, ScrapeResponse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(request) = ScrapeRequest::parse_query(bytes) {
        assert_eq!(ScrapeRequest::parse_query(request.to_query().as_bytes()), Ok(request));
    }
    if let Ok(Reply::Ok(mut response)) = ScrapeResponse::parse(bytes) {
        // Written in order, however they came.
        response.files.sort_by_key(|(info_hash, _)| *info_hash);
        assert_eq!(ScrapeResponse::parse(&response.encode()), Ok(Reply::Ok(response)));
    }
});
