//! What a forwarder answers, over either protocol, is read or refused, and is never more than there can be.
#![no_main]

use announce::MAX_PEERS;
use libfuzzer_sys::fuzz_target;
use tracker_client::{TrackerError, read_http_answer, read_udp_answer};

fuzz_target!(|answer: (u16, u32, bool, &[u8])| {
    let (status, transaction, v4, bytes) = answer;
    match read_http_answer(status, bytes) {
        // Peers of either family.
        Ok(response) => assert!(response.peers.len() <= 2 * MAX_PEERS),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    // As it stands, and as the answer to an announce of ours, which a fuzzer would long look for.
    assert!(read_udp_answer(bytes, transaction, v4).is_none() || bytes.len() >= 8);
    let packet = [&1u32.to_be_bytes()[..], &transaction.to_be_bytes(), bytes].concat();
    let size = if v4 { 6 } else { 18 };
    match read_udp_answer(&packet, transaction, v4) {
        Some(Ok(response)) => {
            assert!(response.peers.len() <= MAX_PEERS.min((packet.len() - 20) / size));
            assert!(response.peers.iter().all(|peer| peer.addr.port() != 0 && peer.addr.is_ipv4() == v4));
        }
        Some(Err(error)) => assert!(matches!(error, TrackerError::Malformed(_)), "{error}"),
        None => assert!(packet.len() < 20),
    }
});
