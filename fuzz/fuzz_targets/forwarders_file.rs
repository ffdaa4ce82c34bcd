//! A list of forwarders is read or refused with words; what is read can be asked.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tracker::read_list;
use tracker_client::TrackerClient;

fuzz_target!(|text: &str| {
    // Once as it stands, and once behind the beginning of an entry.
    for text in [text.to_owned(), format!("- uri: http://a/announce\n  name: {text}")] {
        match read_list(&text) {
            Ok(list) => {
                assert!(list.iter().all(|one| !one.name.is_empty() && TrackerClient::can_ask(&one.uri)));
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
});
