//! The extension handshake (BEP 10) and metadata exchange (BEP 9).

use bencode::{Dict, Options, encode_dict};
use bytes::Bytes;

/// How much of an info dictionary one metadata message carries: 16 KiB (BEP 9).
pub const METADATA_PIECE_LENGTH: u32 = 16 * 1024;

const METADATA: &[u8] = b"ut_metadata";
/// Our own key: the longest request, in bytes, that the sender serves.
const MAX_REQUEST: &[u8] = b"ls_max_request";

/// How many metadata pieces an info dictionary of `size` bytes has.
pub const fn metadata_piece_count(size: u32) -> u32 {
    size.div_ceil(METADATA_PIECE_LENGTH)
}

/// What peers tell each other once the extension protocol is agreed on (BEP 10). Keys that this version does not
/// know are passed over.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ExtendedHandshake {
    /// The number under which the sender takes `ut_metadata` messages (BEP 9).
    pub metadata_id: Option<u8>,
    /// The size in bytes of the info dictionary, if the sender has it (BEP 9).
    pub metadata_size: Option<u32>,
    /// How many requests the sender queues (`reqq`).
    pub request_queue: Option<u32>,
    /// The port on which the sender listens (`p`).
    pub port: Option<u16>,
    /// The sender's name and version, in words (`v`).
    pub client: Option<String>,
    /// The longest request in bytes that the sender serves, if more than 16 KiB. Longshore's own
    /// (`ls_max_request`): 1 MiB at most, other clients leave it out and are asked for 16 KiB.
    pub max_request: Option<u32>,
}

impl ExtendedHandshake {
    /// The payload of extended message 0.
    pub fn encode(&self) -> Vec<u8> {
        encode_dict(|dict| {
            if let Some(most) = self.max_request {
                dict.unsigned(MAX_REQUEST, most.into());
            }
            dict.dict(b"m", |names| {
                if let Some(id) = self.metadata_id {
                    names.unsigned(METADATA, id.into());
                }
            });
            if let Some(size) = self.metadata_size {
                dict.unsigned(b"metadata_size", size.into());
            }
            if let Some(port) = self.port {
                dict.unsigned(b"p", port.into());
            }
            if let Some(queue) = self.request_queue {
                dict.unsigned(b"reqq", queue.into());
            }
            if let Some(client) = &self.client {
                dict.bytes(b"v", client.as_bytes());
            }
        })
    }

    /// Reads the payload of extended message 0. Values of the wrong type or out of range count as left out.
    pub fn decode(payload: &[u8]) -> Result<Self, ExtendedError> {
        let dict = dictionary(payload)?.0;
        let number = |key: &[u8]| dict.get(key).and_then(|v| v.as_unsigned());
        let name = |key: &[u8]| dict.get(b"m").and_then(|m| m.as_dict()).and_then(|m| m.get(key));
        let short = |text: &str| text.chars().filter(|c| !c.is_control()).take(64).collect();
        Ok(Self {
            metadata_id: name(METADATA)
                .and_then(|v| v.as_unsigned())
                .and_then(|id| u8::try_from(id).ok())
                .filter(|id| *id != 0),
            metadata_size: number(b"metadata_size").and_then(|n| u32::try_from(n).ok()),
            request_queue: number(b"reqq").and_then(|n| u32::try_from(n).ok()),
            port: number(b"p").and_then(|n| u16::try_from(n).ok()).filter(|port| *port != 0),
            client: dict.get(b"v").and_then(|v| v.as_bytes()).map(|v| short(&String::from_utf8_lossy(v))),
            max_request: number(MAX_REQUEST).and_then(|n| u32::try_from(n).ok()),
        })
    }
}

/// A message of the metadata exchange (BEP 9).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MetadataMessage {
    /// Asks for a piece of the info dictionary.
    Request(u32),
    /// A piece of the info dictionary.
    Data {
        /// Which piece.
        piece: u32,
        /// The size of the whole dictionary in bytes.
        total: u32,
        /// The piece's bytes.
        data: Bytes,
    },
    /// The piece will not be served.
    Reject(u32),
}

impl MetadataMessage {
    /// The payload of the extended message.
    pub fn encode(&self) -> Vec<u8> {
        let head = |kind: u64, piece: u32, total: Option<u32>| {
            encode_dict(|dict| {
                dict.unsigned(b"msg_type", kind);
                dict.unsigned(b"piece", piece.into());
                if let Some(total) = total {
                    dict.unsigned(b"total_size", total.into());
                }
            })
        };
        match self {
            Self::Request(piece) => head(0, *piece, None),
            Self::Reject(piece) => head(2, *piece, None),
            Self::Data { piece, total, data } => {
                let mut out = head(1, *piece, Some(*total));
                out.extend_from_slice(data);
                out
            }
        }
    }

    /// Reads the payload of an extended message. `None` for kinds that this version does not know.
    pub fn decode(payload: &Bytes) -> Result<Option<Self>, ExtendedError> {
        let (dict, rest) = dictionary(payload)?;
        let number =
            |key: &[u8]| dict.get(key).and_then(|v| v.as_unsigned()).and_then(|n| u32::try_from(n).ok());
        let piece = number(b"piece").ok_or(ExtendedError::Missing("piece"))?;
        Ok(match number(b"msg_type").ok_or(ExtendedError::Missing("msg_type"))? {
            0 => Some(Self::Request(piece)),
            1 => {
                let total = number(b"total_size").ok_or(ExtendedError::Missing("total_size"))?;
                Some(Self::Data { piece, total, data: payload.slice(payload.len() - rest.len()..) })
            }
            2 => Some(Self::Reject(piece)),
            _ => None,
        })
    }
}

/// Other clients do not always sort their keys, and nothing is hashed here.
fn dictionary(payload: &[u8]) -> Result<(Dict<'_>, &[u8]), ExtendedError> {
    let (value, rest) =
        Options::default().any_key_order().decode_prefix(payload).map_err(ExtendedError::Bencode)?;
    Ok((value.as_dict().ok_or(ExtendedError::NotADictionary)?, rest))
}

/// Why the payload of an extended message cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExtendedError {
    /// Not bencode.
    #[error("an extended message that is not bencode: {0}")]
    Bencode(#[source] bencode::DecodeError),
    /// Bencode, but no dictionary.
    #[error("an extended message that is no dictionary")]
    NotADictionary,
    /// A key that the message cannot do without.
    #[error("a metadata message without `{0}`")]
    Missing(&'static str),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn handshakes_survive_the_wire() {
        let handshake = ExtendedHandshake {
            metadata_id: Some(3),
            metadata_size: Some(31_235),
            request_queue: Some(2048),
            port: Some(6881),
            client: Some("Longshore 0.1".into()),
            max_request: Some(1 << 20),
        };
        assert_eq!(ExtendedHandshake::decode(&handshake.encode()), Ok(handshake));
        assert_eq!(ExtendedHandshake::decode(b"de"), Ok(ExtendedHandshake::default()));
        let odd = b"d1:v1:x1:md11:ut_metadatai300eee";
        assert_eq!(
            ExtendedHandshake::decode(odd).map(|h| (h.metadata_id, h.client)),
            Ok((None, Some("x".into())))
        );
    }

    proptest! {
        #[test]
        fn metadata_messages_survive_the_wire(piece: u32, total: u32, data: Vec<u8>) {
            for message in [
                MetadataMessage::Request(piece),
                MetadataMessage::Reject(piece),
                MetadataMessage::Data { piece, total, data: data.into() },
            ] {
                prop_assert_eq!(MetadataMessage::decode(&message.encode().into()), Ok(Some(message)));
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(payload: Vec<u8>) {
            if let Ok(handshake) = ExtendedHandshake::decode(&payload) {
                prop_assert_eq!(ExtendedHandshake::decode(&handshake.encode()), Ok(handshake));
            }
            let _ = MetadataMessage::decode(&payload.into());
        }
    }
}
