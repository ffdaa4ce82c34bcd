//! What is read is written the same, byte for byte; keys out of order come out in order.
#![no_main]

use bencode::{Kind, Options, Value, Writer};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|message: &[u8]| {
    if let Ok((value, rest)) = bencode::decode_prefix(message) {
        assert_eq!(value.raw().len() + rest.len(), message.len());
        assert_eq!(written(value), value.raw());
    }
    if let Ok(value) = Options::default().any_key_order().decode(message) {
        let ordered = written(value);
        assert_eq!(ordered.len(), message.len());
        assert!(bencode::decode(&ordered).is_ok());
    }
});

fn written(value: Value<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    write(value, Writer::new(&mut out));
    out
}

fn write(value: Value<'_>, writer: Writer<'_>) {
    match value.kind() {
        Kind::Integer => writer.integer(value.as_integer().expect("an integer")),
        Kind::Bytes => writer.bytes(value.as_bytes().expect("a string")),
        Kind::List => writer.list(|list| {
            value.as_list().expect("a list").for_each(|item| write(item, list.item()));
        }),
        Kind::Dict => writer.dict(|dict| {
            let entries = value.as_dict().expect("a dictionary");
            entries.iter().for_each(|(key, value)| write(value, dict.key(key)));
        }),
    }
}
