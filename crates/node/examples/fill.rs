//! Fills a store with small blobs and their torrents, for `benches/idle.py`: `fill DIR COUNT`.

#![allow(clippy::print_stderr, clippy::expect_used)]

use hash::Digest;
use metainfo::BlobBuilder;
use store::Store;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dir, count] = arguments.as_slice() else {
        eprintln!("usage: fill DIR COUNT");
        std::process::exit(2);
    };
    let store = Store::open(dir).expect("a store");
    for number in 0..count.parse::<u64>().expect("a number") {
        let bytes = number.to_le_bytes().repeat(1024);
        let mut builder = BlobBuilder::new(bytes.len() as u64).expect("small");
        builder.update(&bytes);
        let torrent = builder.finish().expect("whole");
        let (digest, info) = (Digest::of(&bytes), Some(torrent.info_bytes));
        store.put_bytes(&digest, &bytes, Some("application/octet-stream"), info).expect("room");
    }
}
