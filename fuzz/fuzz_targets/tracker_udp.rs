//! UDP packets of trackers and of those who ask them: what is read is written and read the same.
#![no_main]

use announce::udp::{
    ANNOUNCE_LENGTH, MAX_UDP_SCRAPE, MAX_URL, UdpAction, UdpAnnounce, UdpAnswer, UdpHead, encode_url_data,
    scrape_hashes, url_data,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|packet: &[u8]| {
    if let Some(head) = UdpHead::parse(packet) {
        let mut written = Vec::new();
        head.encode(&mut written);
        // An action that stands for nothing is written as another.
        assert!(head.action.is_none() || written == packet[..16]);
    }
    assert_eq!(UdpAnnounce::parse(packet).is_some(), packet.len() >= ANNOUNCE_LENGTH);
    if let Some(announce) = UdpAnnounce::parse(packet) {
        let mut written = Vec::new();
        UdpHead { connection: 1, action: Some(UdpAction::Announce), transaction: 2 }.encode(&mut written);
        announce.encode(&mut written);
        let mut buffer = [0; MAX_URL];
        let url = url_data(packet, &mut buffer);
        encode_url_data(url, &mut written);
        assert_eq!(UdpAnnounce::parse(&written), Some(announce));
        assert_eq!(url_data(&written, &mut [0; MAX_URL]), url);
    }
    if let Some(hashes) = scrape_hashes(packet) {
        assert!((1..=MAX_UDP_SCRAPE).contains(&hashes.len()));
    }
    let _ = UdpAnswer::parse(packet);
});
