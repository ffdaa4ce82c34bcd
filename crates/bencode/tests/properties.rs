//! What holds for every message.
#![allow(clippy::expect_used, clippy::panic, reason = "a test says so when it fails")]

use std::collections::BTreeMap;

use longshore_bencode::{Kind, Options, Value, Writer, decode, decode_prefix};
use proptest::{collection, prelude::*};

/// A message as a tree, to make messages from.
#[derive(Clone, Debug, PartialEq)]
enum Tree {
    Integer(i64),
    Bytes(Vec<u8>),
    List(Vec<Self>),
    Dict(BTreeMap<Vec<u8>, Self>),
}

fn trees() -> impl Strategy<Value = Tree> {
    let bytes = || collection::vec(any::<u8>(), 0..12);
    let leaf = prop_oneof![any::<i64>().prop_map(Tree::Integer), bytes().prop_map(Tree::Bytes)];
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            collection::vec(inner.clone(), 0..6).prop_map(Tree::List),
            collection::btree_map(bytes(), inner, 0..6).prop_map(Tree::Dict),
        ]
    })
}

/// `turned` writes dictionaries backwards, which must not matter.
fn write(tree: &Tree, turned: bool, writer: Writer<'_>) {
    match tree {
        Tree::Integer(value) => writer.integer(*value),
        Tree::Bytes(bytes) => writer.bytes(bytes),
        Tree::List(items) => writer.list(|list| {
            items.iter().for_each(|item| write(item, turned, list.item()));
        }),

        Tree::Dict(entries) => writer.dict(|dict| {
            let mut entries: Vec<_> = entries.iter().collect();
            if turned {
                entries.reverse();
            }
            entries.into_iter().for_each(|(key, value)| write(value, turned, dict.key(key)));
        }),
    }
}

fn read(value: Value<'_>) -> Tree {
    match value.kind() {
        Kind::Integer => Tree::Integer(value.as_integer().expect("an integer")),
        Kind::Bytes => Tree::Bytes(value.as_bytes().expect("a string").to_vec()),
        Kind::List => Tree::List(value.as_list().expect("a list").map(read).collect()),
        Kind::Dict => {
            let dict = value.as_dict().expect("a dictionary");
            Tree::Dict(dict.iter().map(|(key, value)| (key.to_vec(), read(value))).collect())
        }
    }
}

fn encoded(tree: &Tree, turned: bool) -> Vec<u8> {
    let mut out = Vec::new();
    write(tree, turned, Writer::new(&mut out));
    out
}

proptest! {
    #[test]
    fn what_is_written_is_read_the_same(tree in trees(), behind: Vec<u8>) {
        let message = encoded(&tree, false);
        prop_assert_eq!(&encoded(&tree, true), &message);
        let value = decode(&message).expect("canonical");
        prop_assert_eq!(value.raw(), &message[..]);
        prop_assert_eq!(read(value), tree);

        let long = [&message[..], &behind].concat();
        let (value, rest) = decode_prefix(&long).expect("canonical");
        prop_assert_eq!((value.raw(), rest), (&message[..], &behind[..]));
    }

    #[test]
    fn what_is_read_is_written_the_same(message in "[deli0-9:a-c-]{0,40}") {
        if let Ok(value) = decode(message.as_bytes()) {
            prop_assert_eq!(encoded(&read(value), false), message.as_bytes());
        }
        if let Ok(value) = Options::default().any_key_order().decode(message.as_bytes()) {
            prop_assert_eq!(encoded(&read(value), false).len(), message.len());
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(message: Vec<u8>) {
        if let Ok(value) = decode(&message) {
            prop_assert_eq!(encoded(&read(value), false), message);
        }
    }

    #[test]
    fn a_message_cut_short_is_refused(tree in trees(), cut: prop::sample::Index) {
        let message = encoded(&tree, false);
        prop_assert!(decode(&message[..cut.index(message.len())]).is_err());
    }
}
