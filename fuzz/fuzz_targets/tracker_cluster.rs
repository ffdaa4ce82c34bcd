//! What trackers of a cluster tell one another: what is read is written and read the same.
#![no_main]

use announce::cluster::{Message, Writer, encode_hello, encode_receipt};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some(message) = Message::parse(bytes) else { return };
    let mut written = Vec::new();
    match message {
        Message::Hello(instance) => encode_hello(&instance, &mut written),
        Message::Receipt(stamp) => encode_receipt(stamp, &mut written),
        Message::News { stamp, groups } => {
            let mut writer = Writer::new(stamp);
            for (info_hash, news) in groups {
                assert!(writer.push(&info_hash, &news) || writer.is_full());
            }
            // Two groups of one torrent, one behind the other, become one.
            let bytes = writer.finish();
            let Some(Message::News { stamp: again, groups: read }) = Message::parse(&bytes) else {
                panic!("what was written is not read")
            };
            assert_eq!(again, stamp);
            assert!(groups.zip(read).all(|(before, after)| before == after));
            return;
        }
    }
    assert_eq!(written, bytes);
});
