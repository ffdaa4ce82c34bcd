//! Every path gives the bytes that the `sha1` and `sha2` crates give.

use longshore_hash::{
    Segment, Sha1, Sha256, Sha256State, sha1, sha1_many, sha256, sha256_segments, to_hex, update_both,
};
use proptest::{collection::vec, prelude::*};
use sha2::Digest as _;

/// Bytes that differ everywhere, cut at the given places.
fn fragments(length: usize, cuts: &[usize]) -> Vec<Vec<u8>> {
    let bytes: Vec<u8> = (0..length).map(|i| (i * 31 + (i >> 8) * 7 + length) as u8).collect();
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (length + 1)).collect();
    cuts.extend([0, length]);
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| bytes[pair[0]..pair[1]].to_vec()).collect()
}

fn messages() -> impl Strategy<Value = Vec<Vec<Vec<u8>>>> {
    let length = prop_oneof![0usize..300, 0usize..5000, Just(55), Just(56), Just(63), Just(64), Just(16384)];
    let message = (length, vec(any::<usize>(), 0..6)).prop_map(|(length, cuts)| fragments(length, &cuts));
    vec(message, 0..12)
}

fn borrowed(messages: &[Vec<Vec<u8>>]) -> Vec<Vec<&[u8]>> {
    messages.iter().map(|message| message.iter().map(Vec::as_slice).collect()).collect()
}

proptest! {
    #[test]
    fn sha1_many_is_sha1(messages in messages()) {
        let borrowed = borrowed(&messages);
        let many = sha1_many(&borrowed.iter().map(Vec::as_slice).collect::<Vec<_>>());
        for (message, got) in messages.iter().zip(&many) {
            let whole = message.concat();
            let expected: [u8; 20] = sha1::Sha1::digest(&whole).into();
            prop_assert_eq!(*got, expected);
            prop_assert_eq!(sha1(&whole), expected);
            let mut hasher = Sha1::new();
            message.iter().for_each(|fragment| hasher.update(fragment));
            prop_assert_eq!(hasher.finalize(), expected);
        }
        prop_assert_eq!(many.len(), messages.len());
    }

    #[test]
    fn sha256_segments_is_sha256(messages in messages()) {
        let borrowed = borrowed(&messages);
        let segments: Vec<Segment<'_>> = borrowed
            .iter()
            .map(|data| Segment { start: Sha256State::INITIAL, offset: 0, data, last: true })
            .collect();
        let many = sha256_segments(&segments);
        for (message, got) in messages.iter().zip(&many) {
            let whole = message.concat();
            let expected: [u8; 32] = sha2::Sha256::digest(&whole).into();
            prop_assert_eq!(got.to_bytes(), expected);
            prop_assert_eq!(sha256(&whole), expected);
            let mut hasher = Sha256::new();
            message.iter().for_each(|fragment| hasher.update(fragment));
            prop_assert_eq!(hasher.finalize(), expected);
        }
        prop_assert_eq!(many.len(), messages.len());
    }

    #[test]
    fn both_at_once_is_each_alone(message in (0usize..5000, vec(any::<usize>(), 0..6)), ahead in 0usize..70) {
        let message = fragments(message.0, &message.1);
        let front = vec![9; ahead];
        let (mut both_sha1, mut both_sha256) = (Sha1::new(), Sha256::new());
        // One of the two is ahead, so that they may stand at different places.
        both_sha1.update(&front);
        message.iter().for_each(|fragment| update_both(&mut both_sha1, &mut both_sha256, fragment));
        let whole = message.concat();
        prop_assert_eq!(both_sha1.finalize(), sha1(&[&front[..], &whole].concat()));
        prop_assert_eq!(both_sha256.finalize(), sha256(&whole));

        let (mut both_sha1, mut both_sha256) = (Sha1::new(), Sha256::new());
        message.iter().for_each(|fragment| update_both(&mut both_sha1, &mut both_sha256, fragment));
        prop_assert_eq!(both_sha1.finalize(), sha1(&whole));
        prop_assert_eq!(both_sha256.finalize(), sha256(&whole));
    }

    #[test]
    fn states_chain_to_the_digest(length in 0usize..20_000, blocks in 1usize..40) {
        let whole = fragments(length, &[]).concat();
        let expected: [u8; 32] = sha2::Sha256::digest(&whole).into();
        let piece = blocks * 64;

        // One pass that notes the state after each piece but the last.
        let pieces: Vec<&[u8]> = if whole.is_empty() { vec![&[]] } else { whole.chunks(piece).collect() };
        let mut hasher = Sha256::new();
        let mut states = vec![Sha256State::INITIAL];
        for data in &pieces[..pieces.len() - 1] {
            hasher.update(data);
            states.push(hasher.state().expect("at a block boundary"));
        }

        // Each piece by itself, all at once.
        let data: Vec<[&[u8]; 1]> = pieces.iter().map(|piece| [*piece]).collect();
        let segments: Vec<Segment<'_>> = (0..pieces.len())
            .map(|i| Segment {
                start: states[i],
                offset: (i * piece) as u64,
                data: &data[i],
                last: i + 1 == pieces.len(),
            })
            .collect();
        let ends = sha256_segments(&segments);
        prop_assert_eq!(&ends[..ends.len() - 1], &states[1..]);
        prop_assert_eq!(ends[ends.len() - 1].to_bytes(), expected);

        // And from the last noted state onwards.
        let done = (pieces.len() - 1) * piece;
        let mut resumed = Sha256::resume(states[pieces.len() - 1], done as u64);
        resumed.update(&whole[done..]);
        prop_assert_eq!(resumed.finalize(), expected);
    }
}

#[test]
fn known_answers() {
    assert_eq!(to_hex(&sha1(b"abc")), "a9993e364706816aba3e25717850c26c9cd0d89d");
    assert_eq!(to_hex(&sha256(b"abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_eq!(
        to_hex(&sha1_many(&[&[], &[&b"a"[..], b"bc"]])[0]),
        "da39a3ee5e6b4b0d3255bfef95601890afd80709"
    );
    assert_eq!(Sha256State::from_bytes(Sha256State::INITIAL.to_bytes()), Sha256State::INITIAL);
    assert_eq!(Sha256::new().state(), Some(Sha256State::INITIAL));
    let mut hasher = Sha256::new();
    hasher.update(b"a");
    assert_eq!(hasher.state(), None);
}

#[test]
#[should_panic(expected = "ends between two SHA-256 blocks")]
fn a_segment_that_ends_inside_a_block_is_a_mistake_of_the_caller() {
    sha256_segments(&[Segment { start: Sha256State::INITIAL, offset: 0, data: &[b"abc"], last: false }]);
}
