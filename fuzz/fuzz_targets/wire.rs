//! What a peer sends is cut into frames within bounds, and what is read is written as the same bytes.
#![no_main]

use bytes::{Buf, Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use wire::{
    Decoder, EXTENDED_HANDSHAKE_ID, ExtendedHandshake, Frame, HANDSHAKE_LENGTH, Handshake, Message,
    MetadataMessage, PIECE_HEADER_LENGTH,
};

const PIECES: u32 = 1000;
const MAX_BLOCK: u32 = 64 * 1024;

fuzz_target!(|sent: &[u8]| {
    let mut stream = sent;
    if let Some((head, rest)) = sent.split_first_chunk::<HANDSHAKE_LENGTH>()
        && let Ok(handshake) = Handshake::decode(head)
    {
        assert_eq!(&handshake.encode(), head);
        stream = rest;
    }
    let decoder = Decoder::new(PIECES, MAX_BLOCK);
    let mut buffer = BytesMut::from(stream);
    loop {
        let before = buffer.clone();
        match decoder.next(&mut buffer) {
            Ok(Some(Frame::Message(message))) => same(&message, &before[..before.len() - buffer.len()]),
            Ok(Some(Frame::Piece(range))) => {
                assert!(range.length <= MAX_BLOCK);
                assert_eq!(range.piece_header(), before[..PIECE_HEADER_LENGTH]);
                buffer.advance(buffer.len().min(range.length as usize));
            }
            Ok(None) => {
                assert!(before.len() < decoder.longest_frame(), "it waits for more than it may");
                break;
            }
            Err(_) => break,
        }
    }
});

fn same(message: &Message, read: &[u8]) {
    match message {
        // What it holds is not kept, so it cannot be written again.
        Message::Unknown(_) => return,
        Message::Extended { id: EXTENDED_HANDSHAKE_ID, payload } => handshake(payload),
        Message::Extended { payload, .. } => metadata(payload),
        _ => {}
    }
    let mut written = BytesMut::new();
    message.encode(&mut written);
    assert_eq!(written, read);
}

fn handshake(payload: &[u8]) {
    if let Ok(handshake) = ExtendedHandshake::decode(payload) {
        assert_eq!(ExtendedHandshake::decode(&handshake.encode()), Ok(handshake));
    }
}

fn metadata(payload: &Bytes) {
    if let Ok(Some(message)) = MetadataMessage::decode(payload) {
        assert_eq!(MetadataMessage::decode(&message.encode().into()), Ok(Some(message)));
    }
}
