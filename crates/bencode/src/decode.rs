//! From bytes to a checked value.

use crate::Value;

/// Decodes a message that is exactly one canonical value, with the default [`Options`].
///
/// # Errors
/// What is wrong with the message, and at which byte.
pub fn decode(message: &[u8]) -> Result<Value<'_>, DecodeError> {
    Options::default().decode(message)
}

/// Decodes the canonical value that a message begins with, and returns the bytes behind it too.
///
/// # Errors
/// What is wrong with the value, and at which byte.
pub fn decode_prefix(message: &[u8]) -> Result<(Value<'_>, &[u8]), DecodeError> {
    Options::default().decode_prefix(message)
}

/// How much a message may hold, and how it may be ordered.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    max_depth: u16,
    max_items: u32,
    any_key_order: bool,
}

impl Default for Options {
    /// Keys in order, 64 levels, a million values.
    fn default() -> Self {
        Self { max_depth: 64, max_items: 1_000_000, any_key_order: false }
    }
}

impl Options {
    /// How many lists and dictionaries may lie in one another; never more than 128.
    #[must_use]
    pub fn max_depth(self, levels: u16) -> Self {
        Self { max_depth: levels.min(128), ..self }
    }

    /// How many values there may be, each key and each list, dictionary, number and string counting as one.
    #[must_use]
    pub const fn max_items(self, items: u32) -> Self {
        Self { max_items: items, ..self }
    }

    /// Accepts dictionaries whose keys are out of order, which old programs write. Doubled keys stay an error.
    #[must_use]
    pub const fn any_key_order(self) -> Self {
        Self { any_key_order: true, ..self }
    }

    /// Decodes a message that is exactly one value.
    ///
    /// # Errors
    /// What is wrong with the message, and at which byte.
    pub fn decode(self, message: &[u8]) -> Result<Value<'_>, DecodeError> {
        let (value, rest) = self.decode_prefix(message)?;
        if rest.is_empty() { Ok(value) } else { Err(DecodeError::TrailingBytes(message.len() - rest.len())) }
    }

    /// Decodes the value that a message begins with, and returns the bytes behind it too.
    ///
    /// # Errors
    /// What is wrong with the value, and at which byte.
    pub fn decode_prefix(self, message: &[u8]) -> Result<(Value<'_>, &[u8]), DecodeError> {
        let mut checker = Checker { message, at: 0, items: 0, options: self };
        checker.value(0)?;
        let (value, rest) = message.split_at_checked(checker.at).ok_or(DecodeError::Truncated)?;
        Ok((Value::checked(value), rest))
    }
}

/// Why a message is not bencode that Longshore accepts. Numbers are byte offsets into the message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The message ends inside a value.
    #[error("the message ends in the middle of a value")]
    Truncated,
    /// A byte that no value begins with.
    #[error("no bencode value begins with the byte at {0}")]
    UnexpectedByte(usize),
    /// Leading zeros, `-0`, no digits, or not in the range of 64 bits with a sign.
    #[error("bad bencode integer at byte {0}: it must have no leading zeros and fit 64 bits")]
    BadInteger(usize),
    /// Leading zeros, no colon, or longer than any message.
    #[error("bad bencode string length at byte {0}")]
    BadLength(usize),
    /// A dictionary key that is not a byte string.
    #[error("the dictionary key at byte {0} is not a string")]
    KeyNotString(usize),
    /// A key that sorts before the one in front of it.
    #[error("bencode keys out of order at byte {0}")]
    KeyOrder(usize),
    /// A key that its dictionary already has; the offset is that of the key or of its dictionary.
    #[error("a bencode key stands twice in the dictionary at byte {0}")]
    DuplicateKey(usize),
    /// Lists and dictionaries in one another beyond the limit.
    #[error("nesting too deep at byte {0}")]
    TooDeep(usize),
    /// More values than the limit.
    #[error("more than {0} bencode values in one message")]
    TooManyItems(u32),
    /// Bytes behind the value.
    #[error("bytes left over behind the value, from byte {0}")]
    TrailingBytes(usize),
}

struct Checker<'a> {
    message: &'a [u8],
    at: usize,
    items: u32,
    options: Options,
}

impl<'a> Checker<'a> {
    fn peek(&self) -> Result<u8, DecodeError> {
        self.message.get(self.at).copied().ok_or(DecodeError::Truncated)
    }

    fn count(&mut self) -> Result<(), DecodeError> {
        self.items += 1;
        if self.items > self.options.max_items {
            return Err(DecodeError::TooManyItems(self.options.max_items));
        }
        Ok(())
    }

    fn value(&mut self, depth: u16) -> Result<(), DecodeError> {
        match self.peek()? {
            b'0'..=b'9' => self.bytes().map(|_| ()),
            b'i' => self.integer(),
            opening @ (b'l' | b'd') => {
                if depth >= self.options.max_depth {
                    return Err(DecodeError::TooDeep(self.at));
                }
                self.count()?;
                if opening == b'l' { self.list(depth + 1) } else { self.dict(depth + 1) }
            }
            _ => Err(DecodeError::UnexpectedByte(self.at)),
        }
    }

    fn list(&mut self, depth: u16) -> Result<(), DecodeError> {
        self.at += 1;
        while self.peek()? != b'e' {
            self.value(depth)?;
        }
        self.at += 1;
        Ok(())
    }

    fn dict(&mut self, depth: u16) -> Result<(), DecodeError> {
        let start = self.at;
        self.at += 1;
        let mut ordered = true;
        let mut last: Option<&[u8]> = None;
        loop {
            let key_at = self.at;
            match self.peek()? {
                b'e' => break,
                b'0'..=b'9' => {}
                _ => return Err(DecodeError::KeyNotString(key_at)),
            }
            let key = self.bytes()?;
            match last {
                Some(last) if last == key => return Err(DecodeError::DuplicateKey(key_at)),
                Some(last) if last > key && !self.options.any_key_order => {
                    return Err(DecodeError::KeyOrder(key_at));
                }
                Some(last) if last > key => ordered = false,
                _ => {}
            }
            last = Some(key);
            self.value(depth)?;
        }
        self.at += 1;
        if ordered { Ok(()) } else { self.check_unique(start) }
    }

    /// Keys in order are unique once neighbours differ; keys out of order have to be sorted to tell.
    fn check_unique(&self, start: usize) -> Result<(), DecodeError> {
        let dict = self.message.get(start..self.at).and_then(|raw| Value::checked(raw).as_dict());
        let mut keys: Vec<&[u8]> = dict.into_iter().flatten().map(|(key, _)| key).collect();
        keys.sort_unstable();
        let unique = keys.iter().zip(keys.iter().skip(1)).all(|(a, b)| a != b);
        if unique { Ok(()) } else { Err(DecodeError::DuplicateKey(start)) }
    }

    fn bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let start = self.at;
        self.count()?;
        let mut length = 0usize;
        loop {
            let byte = self.peek()?;
            self.at += 1;
            match byte {
                b':' if self.at - start > 1 => break,
                b'0'..=b'9' => {
                    let leading_zero = length == 0 && self.at - start > 1;
                    let longer = length.checked_mul(10).and_then(|l| l.checked_add(usize::from(byte - b'0')));
                    length = longer.filter(|_| !leading_zero).ok_or(DecodeError::BadLength(start))?;
                }
                _ => return Err(DecodeError::BadLength(start)),
            }
        }
        let end = self.at.checked_add(length).ok_or(DecodeError::Truncated)?;
        let bytes = self.message.get(self.at..end).ok_or(DecodeError::Truncated)?;
        self.at = end;
        Ok(bytes)
    }

    fn integer(&mut self) -> Result<(), DecodeError> {
        let start = self.at;
        self.count()?;
        self.at += 1;
        let negative = self.peek()? == b'-';
        if negative {
            self.at += 1;
        }
        let first = self.at;
        let mut value = 0i64;
        loop {
            let byte = self.peek()?;
            self.at += 1;
            let digit = match byte {
                b'0'..=b'9' => i64::from(byte - b'0'),
                b'e' => break,
                _ => return Err(DecodeError::BadInteger(start)),
            };
            // Counted downwards when negative, as the least number has no positive twin.
            let digit = if negative { -digit } else { digit };
            let next = value.checked_mul(10).and_then(|v| v.checked_add(digit));
            value = next.ok_or(DecodeError::BadInteger(start))?;
        }
        let digits = self.at - 1 - first;
        let leading_zero = self.message.get(first) == Some(&b'0') && (digits > 1 || negative);
        if digits == 0 || leading_zero { Err(DecodeError::BadInteger(start)) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_is_canonical() {
        for message in [
            "0:",
            "4:spam",
            "i0e",
            "i-1e",
            "i9223372036854775807e",
            "i-9223372036854775808e",
            "le",
            "de",
            "l4:spami3ee",
            "d1:ai1e1:bl1:xee",
            "d0:i1e1:ade2:aai0ee",
        ] {
            let value = decode(message.as_bytes()).expect(message);
            assert_eq!(value.raw(), message.as_bytes());
        }
    }

    #[test]
    fn says_what_is_wrong_and_where() {
        use DecodeError::*;
        for (message, error) in [
            ("", Truncated),
            ("i", Truncated),
            ("i1", Truncated),
            ("l", Truncated),
            ("d", Truncated),
            ("d1:a", Truncated),
            ("5:spam", Truncated),
            ("99999999999999999999999:a", BadLength(0)),
            ("18446744073709551615:a", Truncated),
            ("e", UnexpectedByte(0)),
            ("-1:a", UnexpectedByte(0)),
            ("d1:ae", UnexpectedByte(4)),
            ("ie", BadInteger(0)),
            ("i-e", BadInteger(0)),
            ("i-0e", BadInteger(0)),
            ("i00e", BadInteger(0)),
            ("i07e", BadInteger(0)),
            ("i+1e", BadInteger(0)),
            ("i1.5e", BadInteger(0)),
            ("i9223372036854775808e", BadInteger(0)),
            ("li-9223372036854775809ee", BadInteger(1)),
            ("01:a", BadLength(0)),
            ("00:", BadLength(0)),
            ("1a", BadLength(0)),
            ("di1ei2ee", KeyNotString(1)),
            ("d1:bi1e1:ai2ee", KeyOrder(7)),
            ("d1:ai1e1:ai2ee", DuplicateKey(7)),
            ("i1ei2e", TrailingBytes(3)),
        ] {
            assert_eq!(decode(message.as_bytes()), Err(error), "{message}");
        }
    }

    #[test]
    fn unordered_keys_only_when_asked_and_never_doubled() {
        let lenient = Options::default().any_key_order();
        let dict = lenient.decode(b"d1:bi1e1:ai2ee").expect("allowed").as_dict().expect("a dictionary");
        assert_eq!(dict.get(b"a").and_then(|v| v.as_integer()), Some(2));
        assert_eq!(lenient.decode(b"ld1:bi1e1:ai2e1:bi3eee"), Err(DecodeError::DuplicateKey(1)));
    }

    #[test]
    fn depth_and_items_are_bounded() {
        let nest = |n: usize| [vec![b'l'; n], vec![b'e'; n]].concat();
        assert!(decode(&nest(64)).is_ok());
        assert_eq!(decode(&nest(65)), Err(DecodeError::TooDeep(64)));
        assert_eq!(decode(&vec![b'd'; 1 << 20]), Err(DecodeError::KeyNotString(1)));
        assert_eq!(decode(&vec![b'l'; 1 << 20]), Err(DecodeError::TooDeep(64)));
        let small = Options::default().max_items(3);
        assert!(small.decode(b"li1ei2ee").is_ok());
        assert_eq!(small.decode(b"li1ei2ei3ee"), Err(DecodeError::TooManyItems(3)));
    }

    #[test]
    fn a_prefix_leaves_the_payload() {
        let (value, payload) = decode_prefix(b"d8:msg_typei1eePAYLOAD").expect("valid");
        assert_eq!(value.as_dict().and_then(|d| d.get(b"msg_type")?.as_integer()), Some(1));
        assert_eq!(payload, b"PAYLOAD");
    }
}
