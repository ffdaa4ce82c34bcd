//! The store, as the engine's shelf: what lies here is served to any peer that asks.

use std::sync::Arc;

use engine::{Shelf, ShelfItem};
use metainfo::{InfoHash, Torrent};
use store::Store;

/// Serves whole blobs from the store.
pub(crate) struct StoreShelf(pub(crate) Arc<Store>);

impl Shelf for StoreShelf {
    fn find(&self, info_hash: &InfoHash) -> Option<ShelfItem> {
        let digest = self.0.find_info_hash(info_hash).ok()??;
        let blob = self.0.get(&digest).ok()??;
        let torrent = Torrent::from_info(blob.info?).ok()?;
        let file = self.0.open_blob(&digest).ok()?;
        self.0.touch(&digest);
        Some(ShelfItem { torrent, file, open: blob.public })
    }
}
