//! Bytes to messages, frame by frame.

use bytes::{Buf, BytesMut};
use metainfo::PieceIndex;

use crate::message::{BlockRange, Message, PIECE_HEADER_LENGTH, id};

/// What stands at the head of the received bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Frame {
    /// A whole message.
    Message(Message),
    /// The header of a `piece` message. The payload, `range.length` bytes, follows in the stream and is the
    /// caller's to take: first what is left in the buffer, then from the socket.
    Piece(BlockRange),
}

/// Cuts a stream of bytes into messages, within limits that the peer cannot move.
#[derive(Clone, Copy, Debug)]
pub struct Decoder {
    max_message: u32,
    max_block: u32,
}

impl Decoder {
    /// A decoder for a torrent of `pieces` pieces, from a peer who was told that it may send blocks of up to
    /// `max_block` bytes. Other messages may be as long as the bitfield or a metadata piece, whichever is longer.
    pub fn new(pieces: u32, max_block: u32) -> Self {
        const SMALL: u32 = 64 * 1024;
        Self { max_message: SMALL.max(pieces / 8 + 2), max_block }
    }

    /// Takes one frame off the front of `buffer`, or returns `None` when it needs more bytes.
    /// The buffer never has to hold more than the longest message allowed.
    pub fn next(&self, buffer: &mut BytesMut) -> Result<Option<Frame>, DecodeError> {
        let Some(length) = buffer.first_chunk::<4>().map(|b| u32::from_be_bytes(*b)) else { return Ok(None) };
        if length == 0 {
            buffer.advance(4);
            return Ok(Some(Frame::Message(Message::KeepAlive)));
        }
        let Some(&message) = buffer.get(4) else { return Ok(None) };
        if message == id::PIECE {
            return self.piece(buffer, length);
        }
        if length > self.max_message {
            return Err(DecodeError::TooLong { id: message, length, limit: self.max_message });
        }
        if buffer.len() < 4 + length as usize {
            return Ok(None);
        }
        buffer.advance(5);
        let body = buffer.split_to(length as usize - 1);
        decode(message, body).map(|m| Some(Frame::Message(m)))
    }

    /// The longest stretch of bytes that [`Self::next`] may ask to see at once.
    pub const fn longest_frame(&self) -> usize {
        self.max_message as usize + 4
    }

    fn piece(&self, buffer: &mut BytesMut, length: u32) -> Result<Option<Frame>, DecodeError> {
        let Some(payload) = length.checked_sub(9).filter(|payload| *payload > 0) else {
            return Err(DecodeError::WrongLength { id: id::PIECE, length });
        };
        if payload > self.max_block {
            return Err(DecodeError::TooLong { id: id::PIECE, length: payload, limit: self.max_block });
        }
        if buffer.len() < PIECE_HEADER_LENGTH {
            return Ok(None);
        }
        buffer.advance(5);
        Ok(Some(Frame::Piece(BlockRange {
            piece: PieceIndex(buffer.get_u32()),
            begin: buffer.get_u32(),
            length: payload,
        })))
    }
}

fn decode(message: u8, mut body: BytesMut) -> Result<Message, DecodeError> {
    let length = body.len() as u32 + 1;
    let exactly = |expected: u32| {
        (length == expected + 1).then_some(()).ok_or(DecodeError::WrongLength { id: message, length })
    };
    let piece = |body: &mut BytesMut| exactly(4).map(|()| PieceIndex(body.get_u32()));
    let range = |body: &mut BytesMut| {
        exactly(12).map(|()| BlockRange {
            piece: PieceIndex(body.get_u32()),
            begin: body.get_u32(),
            length: body.get_u32(),
        })
    };
    Ok(match message {
        id::CHOKE => exactly(0).map(|()| Message::Choke)?,
        id::UNCHOKE => exactly(0).map(|()| Message::Unchoke)?,
        id::INTERESTED => exactly(0).map(|()| Message::Interested)?,
        id::NOT_INTERESTED => exactly(0).map(|()| Message::NotInterested)?,
        id::HAVE_ALL => exactly(0).map(|()| Message::HaveAll)?,
        id::HAVE_NONE => exactly(0).map(|()| Message::HaveNone)?,
        id::HAVE => Message::Have(piece(&mut body)?),
        id::SUGGEST => Message::Suggest(piece(&mut body)?),
        id::ALLOWED_FAST => Message::AllowedFast(piece(&mut body)?),
        id::REQUEST => Message::Request(range(&mut body)?),
        id::CANCEL => Message::Cancel(range(&mut body)?),
        id::REJECT => Message::Reject(range(&mut body)?),
        id::PORT => exactly(2).map(|()| Message::Port(body.get_u16()))?,
        id::BITFIELD => Message::Bitfield(body.freeze()),
        id::EXTENDED => {
            if body.is_empty() {
                return Err(DecodeError::WrongLength { id: message, length });
            }
            Message::Extended { id: body.get_u8(), payload: body.freeze() }
        }
        other => Message::Unknown(other),
    })
}

/// Why received bytes are no peer wire message. The connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Longer than the connection allows.
    #[error("message {id} of {length} bytes is longer than the limit of {limit}")]
    TooLong {
        /// The message's number.
        id: u8,
        /// What it claims.
        length: u32,
        /// What is allowed.
        limit: u32,
    },
    /// A length that the message's kind does not have.
    #[error("message {id} cannot be {length} bytes long")]
    WrongLength {
        /// The message's number.
        id: u8,
        /// What it claims.
        length: u32,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decoder() -> Decoder {
        Decoder::new(100, 1 << 20)
    }

    fn range() -> impl Strategy<Value = BlockRange> {
        (any::<u32>(), any::<u32>(), any::<u32>()).prop_map(|(piece, begin, length)| BlockRange {
            piece: PieceIndex(piece),
            begin,
            length,
        })
    }

    fn message() -> impl Strategy<Value = Message> {
        let piece = || any::<u32>().prop_map(PieceIndex);
        let bytes = || prop::collection::vec(any::<u8>(), 0..200).prop_map(bytes::Bytes::from);
        prop_oneof![
            Just(Message::KeepAlive),
            Just(Message::Choke),
            Just(Message::Unchoke),
            Just(Message::Interested),
            Just(Message::NotInterested),
            Just(Message::HaveAll),
            Just(Message::HaveNone),
            piece().prop_map(Message::Have),
            piece().prop_map(Message::Suggest),
            piece().prop_map(Message::AllowedFast),
            range().prop_map(Message::Request),
            range().prop_map(Message::Cancel),
            range().prop_map(Message::Reject),
            any::<u16>().prop_map(Message::Port),
            bytes().prop_map(Message::Bitfield),
            (any::<u8>(), bytes()).prop_map(|(id, payload)| Message::Extended { id, payload }),
        ]
    }

    proptest! {
        #[test]
        fn messages_survive_the_wire_however_it_is_cut(
            messages in prop::collection::vec(message(), 1..8),
            cut in 1usize..64,
        ) {
            let mut sent = BytesMut::new();
            messages.iter().for_each(|m| m.encode(&mut sent));
            let mut buffer = BytesMut::new();
            let mut got = Vec::new();
            for part in sent.chunks(cut) {
                buffer.extend_from_slice(part);
                while let Some(frame) = decoder().next(&mut buffer).expect("valid") {
                    got.push(frame);
                }
            }
            prop_assert!(buffer.is_empty());
            prop_assert_eq!(got, messages.into_iter().map(Frame::Message).collect::<Vec<_>>());
        }

        #[test]
        fn any_bytes_are_read_within_bounds(input in prop::collection::vec(any::<u8>(), 0..400)) {
            crate::decode::tests::read_all(&input);
        }
    }

    /// Every message read is written back as the bytes it came from.
    fn read_all(input: &[u8]) {
        let mut buffer = BytesMut::from(input);
        loop {
            let before = buffer.clone();
            match decoder().next(&mut buffer) {
                Ok(Some(Frame::Message(Message::Unknown(_)))) => {}
                Ok(Some(Frame::Message(message))) => {
                    let mut again = BytesMut::new();
                    message.encode(&mut again);
                    assert_eq!(again, before[..before.len() - buffer.len()]);
                }
                Ok(Some(Frame::Piece(range))) => {
                    assert_eq!(range.piece_header(), before[..PIECE_HEADER_LENGTH]);
                    buffer.advance((range.length as usize).min(buffer.len()));
                }
                Ok(None) | Err(_) => break,
            }
        }
    }

    #[test]
    fn a_block_longer_than_agreed_is_refused_before_it_is_received() {
        let range = BlockRange { piece: PieceIndex(0), begin: 0, length: (1 << 20) + 1 };
        let mut buffer = BytesMut::from(&range.piece_header()[..]);
        assert!(matches!(decoder().next(&mut buffer), Err(DecodeError::TooLong { id: 7, .. })));
    }

    #[test]
    fn a_huge_length_is_refused_by_its_first_bytes() {
        let mut buffer = BytesMut::from(&[0xff, 0xff, 0xff, 0xff, id::BITFIELD][..]);
        assert!(matches!(decoder().next(&mut buffer), Err(DecodeError::TooLong { id: 5, .. })));
        let mut buffer = BytesMut::from(&[0, 0, 0, 9, id::PIECE, 0, 0, 0, 0, 0, 0, 0, 0][..]);
        assert!(matches!(decoder().next(&mut buffer), Err(DecodeError::WrongLength { id: 7, .. })));
    }
}
