//! Canonical messages, written straight into one buffer.

use crate::Value;

/// A message that is one dictionary.
pub fn encode_dict(entries: impl FnOnce(&mut DictWriter<'_>)) -> Vec<u8> {
    let mut out = Vec::new();
    Writer::new(&mut out).dict(entries);
    out
}

/// Writes one value behind what `out` holds.
#[derive(Debug)]
pub struct Writer<'o> {
    out: &'o mut Vec<u8>,
}

impl<'o> Writer<'o> {
    /// Writes behind what `out` holds.
    pub const fn new(out: &'o mut Vec<u8>) -> Self {
        Self { out }
    }

    /// An integer. Bencode has no bounds, but readers have 64 bits with a sign, and so has this.
    pub fn integer(self, value: i64) {
        self.out.push(b'i');
        push_decimal(self.out, value.unsigned_abs(), value < 0);
        self.out.push(b'e');
    }

    /// An integer that cannot be negative; beyond what readers hold it is written as the most they do.
    pub fn unsigned(self, value: u64) {
        self.integer(i64::try_from(value).unwrap_or(i64::MAX));
    }

    /// A byte string.
    pub fn bytes(self, value: &[u8]) {
        push_decimal(self.out, value.len() as u64, false);
        self.out.push(b':');
        self.out.extend_from_slice(value);
    }

    /// A byte string of chunks of one length, such as compact peers; walks them twice instead of collecting them.
    pub fn chunks<const N: usize>(self, chunks: impl Iterator<Item = [u8; N]> + Clone) {
        push_decimal(self.out, (chunks.clone().count() * N) as u64, false);
        self.out.push(b':');
        chunks.for_each(|chunk| self.out.extend_from_slice(&chunk));
    }

    /// A value that was decoded before, byte for byte.
    pub fn value(self, value: Value<'_>) {
        self.out.extend_from_slice(value.raw());
    }

    /// Bytes that the caller knows to be one bencoded value.
    pub fn verbatim(self, encoded: &[u8]) {
        self.out.extend_from_slice(encoded);
    }

    /// A list.
    pub fn list(self, items: impl FnOnce(&mut ListWriter<'_>)) {
        self.out.push(b'l');
        items(&mut ListWriter { out: self.out });
        self.out.push(b'e');
    }

    /// A dictionary. Keys may come in any order: they are sorted, and of a doubled key the last counts.
    /// Keys that come in order cost nothing.
    pub fn dict(self, entries: impl FnOnce(&mut DictWriter<'_>)) {
        let start = self.out.len();
        self.out.push(b'd');
        let mut dict = DictWriter { out: self.out, last: start..start, ordered: true, first: true };
        entries(&mut dict);
        let ordered = dict.ordered;
        self.out.push(b'e');
        if !ordered {
            sort_keys(self.out, start);
        }
    }
}

/// Writes the items of a list.
#[derive(Debug)]
pub struct ListWriter<'o> {
    out: &'o mut Vec<u8>,
}

impl ListWriter<'_> {
    /// The next item.
    pub const fn item(&mut self) -> Writer<'_> {
        Writer { out: self.out }
    }
}

/// Writes the entries of a dictionary.
#[derive(Debug)]
pub struct DictWriter<'o> {
    out: &'o mut Vec<u8>,
    last: std::ops::Range<usize>,
    ordered: bool,
    first: bool,
}

impl DictWriter<'_> {
    /// The next entry's key; the value must be written before the next key.
    #[must_use = "a key needs its value"]
    pub fn key(&mut self, key: &[u8]) -> Writer<'_> {
        if !self.first && self.out.get(self.last.clone()).is_none_or(|last| last >= key) {
            self.ordered = false;
        }
        self.first = false;
        Writer { out: self.out }.bytes(key);
        self.last = self.out.len() - key.len()..self.out.len();
        Writer { out: self.out }
    }

    /// An entry with an integer.
    pub fn integer(&mut self, key: &[u8], value: i64) {
        self.key(key).integer(value);
    }

    /// An entry with an integer that cannot be negative; see [`Writer::unsigned`].
    pub fn unsigned(&mut self, key: &[u8], value: u64) {
        self.key(key).unsigned(value);
    }

    /// An entry with a byte string.
    pub fn bytes(&mut self, key: &[u8], value: &[u8]) {
        self.key(key).bytes(value);
    }

    /// An entry with a list.
    pub fn list(&mut self, key: &[u8], items: impl FnOnce(&mut ListWriter<'_>)) {
        self.key(key).list(items);
    }

    /// An entry with a dictionary.
    pub fn dict(&mut self, key: &[u8], entries: impl FnOnce(&mut DictWriter<'_>)) {
        self.key(key).dict(entries);
    }
}

fn sort_keys(out: &mut Vec<u8>, start: usize) {
    let written = out.split_off(start);
    let entries = Value::checked(&written).as_dict();
    let sorted: std::collections::BTreeMap<&[u8], Value<'_>> = entries.into_iter().flatten().collect();
    out.push(b'd');
    for (key, value) in sorted {
        Writer { out }.bytes(key);
        out.extend_from_slice(value.raw());
    }
    out.push(b'e');
}

fn push_decimal(out: &mut Vec<u8>, mut value: u64, negative: bool) {
    let mut digits = [0u8; 20];
    let mut used = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
        used += 1;
        if value == 0 {
            break;
        }
    }
    if negative {
        out.push(b'-');
    }
    out.extend_from_slice(digits.get(20 - used..).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode;

    #[test]
    fn writes_canonical_messages() {
        let message = encode_dict(|d| {
            d.integer(b"a", i64::MIN);
            d.list(b"b", |l| {
                l.item().bytes(b"spam");
                l.item().unsigned(u64::MAX);
                l.item().dict(|_| {});
            });
            d.integer(b"c", 0);
            d.key(b"d").chunks([*b"ab", *b"cd"].into_iter());
        });
        assert_eq!(message, b"d1:ai-9223372036854775808e1:bl4:spami9223372036854775807edee1:ci0e1:d4:abcde");
    }

    #[test]
    fn keys_out_of_order_are_sorted_and_the_last_of_a_doubled_one_stays() {
        let message = encode_dict(|d| {
            d.dict(b"b", |d| {
                d.bytes(b"y", b"");
                d.bytes(b"x", b"");
            });
            d.integer(b"a", 1);
            d.integer(b"a", 2);
            d.integer(b"", 3);
        });
        assert_eq!(message, b"d0:i3e1:ai2e1:bd1:x0:1:y0:ee");
        assert!(decode(&message).is_ok());
    }
}
