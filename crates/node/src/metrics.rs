//! The node's figures for Prometheus.

use api::node::Totals;
use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

/// OpenMetrics text of the totals.
pub(crate) fn text(totals: &Totals) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::with_prefix("longshore");
    let gauge = |value: u64| ConstGauge::<i64>::new(i64::try_from(value).unwrap_or(i64::MAX));
    registry.register("blobs", "Whole blobs in the store", gauge(totals.blobs));
    registry.register("blob_bytes", "Bytes of whole blobs in the store", gauge(totals.blob_bytes));
    registry.register(
        "torrents_active",
        "Torrents that move or wait for data",
        gauge(totals.active_torrents),
    );
    registry.register("peers", "Connected peers", gauge(totals.peers));
    let counter = ConstCounter::<u64>::new;
    registry.register("peer_download_bytes", "Content bytes from peers", counter(totals.from_peers));
    registry.register("origin_download_bytes", "Content bytes from origins", counter(totals.from_origins));
    registry.register("peer_upload_bytes", "Content bytes to peers", counter(totals.to_peers));
    registry.register("client_bytes", "Content bytes to runtimes", counter(totals.to_clients));
    registry.register("wasted_bytes", "Bytes that failed a check or came twice", counter(totals.wasted));
    registry.register(
        "evicted_bytes",
        "Bytes of blobs that left the store to make room",
        counter(totals.evicted),
    );
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_total_is_told() {
        let text = text(&Totals { blobs: 3, to_clients: 7, ..Totals::default() }).expect("encodes");
        assert!(text.contains("longshore_blobs 3\n"), "{text}");
        assert!(text.contains("longshore_client_bytes_total 7\n"), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }
}
