//! Peer wire messages: encode and decode without copying payloads.

mod peer_id;

pub use peer_id::PeerId;
