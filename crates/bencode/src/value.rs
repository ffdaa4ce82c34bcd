//! A checked value, read in place.

use std::fmt;

/// One whole, well-formed value: its bytes as they stood in the message.
///
/// Cheap to copy. Equality is equality of bytes, which for canonical messages is equality of content.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Value<'a> {
    raw: &'a [u8],
}

/// What a value is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `i…e`
    Integer,
    /// `length:…`
    Bytes,
    /// `l…e`
    List,
    /// `d…e`
    Dict,
}

impl<'a> Value<'a> {
    /// For the decoder, which has just checked that `raw` is one whole value.
    pub(crate) const fn checked(raw: &'a [u8]) -> Self {
        Self { raw }
    }

    /// The bytes of this value in the message, delimiters and all.
    pub const fn raw(&self) -> &'a [u8] {
        self.raw
    }

    /// What this value is.
    pub fn kind(&self) -> Kind {
        match self.raw.first() {
            Some(b'i') => Kind::Integer,
            Some(b'l') => Kind::List,
            Some(b'd') => Kind::Dict,
            _ => Kind::Bytes,
        }
    }

    /// The number, if this is an integer.
    pub fn as_integer(&self) -> Option<i64> {
        let digits = self.raw.strip_prefix(b"i")?.strip_suffix(b"e")?;
        std::str::from_utf8(digits).ok()?.parse().ok()
    }

    /// The number, if this is an integer that is not negative.
    pub fn as_unsigned(&self) -> Option<u64> {
        self.as_integer()?.try_into().ok()
    }

    /// The bytes, if this is a byte string.
    pub fn as_bytes(&self) -> Option<&'a [u8]> {
        self.raw.first().filter(|first| first.is_ascii_digit())?;
        let colon = self.raw.iter().position(|&b| b == b':')?;
        self.raw.get(colon + 1..)
    }

    /// The text, if this is a byte string that is UTF-8.
    pub fn as_str(&self) -> Option<&'a str> {
        std::str::from_utf8(self.as_bytes()?).ok()
    }

    /// The items, if this is a list.
    pub fn as_list(&self) -> Option<List<'a>> {
        Some(List { rest: self.raw.strip_prefix(b"l")?.strip_suffix(b"e")? })
    }

    /// The entries, if this is a dictionary.
    pub fn as_dict(&self) -> Option<Dict<'a>> {
        Some(Dict { body: self.raw.strip_prefix(b"d")?.strip_suffix(b"e")? })
    }
}

impl fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 200;
        write!(f, "{}", self.raw.get(..SHOWN).unwrap_or(self.raw).escape_ascii())?;
        if self.raw.len() > SHOWN { write!(f, "… ({} bytes)", self.raw.len()) } else { Ok(()) }
    }
}

/// The items of a list, in order.
#[derive(Clone, Copy, Debug)]
pub struct List<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for List<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        let (item, rest) = split_first_value(self.rest)?;
        self.rest = rest;
        Some(item)
    }
}

/// The entries of a dictionary. Keys are unique; they are in order unless [`crate::Options`] allowed otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dict<'a> {
    body: &'a [u8],
}

impl<'a> Dict<'a> {
    /// The value of `key`. Walks the dictionary: to read many keys of a large one, iterate instead.
    pub fn get(&self, key: &[u8]) -> Option<Value<'a>> {
        self.iter().find_map(|(k, value)| (k == key).then_some(value))
    }

    /// All entries, in the message's order.
    pub const fn iter(&self) -> DictIter<'a> {
        DictIter { rest: self.body }
    }

    /// Whether there are no entries.
    pub const fn is_empty(&self) -> bool {
        self.body.is_empty()
    }
}

impl<'a> IntoIterator for Dict<'a> {
    type Item = (&'a [u8], Value<'a>);
    type IntoIter = DictIter<'a>;

    fn into_iter(self) -> DictIter<'a> {
        self.iter()
    }
}

impl<'a> IntoIterator for &Dict<'a> {
    type Item = (&'a [u8], Value<'a>);
    type IntoIter = DictIter<'a>;

    fn into_iter(self) -> DictIter<'a> {
        self.iter()
    }
}

/// Walks a dictionary's entries.
#[derive(Clone, Debug)]
pub struct DictIter<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for DictIter<'a> {
    type Item = (&'a [u8], Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let (key, rest) = split_first_value(self.rest)?;
        let (value, rest) = split_first_value(rest)?;
        self.rest = rest;
        Some((key.as_bytes()?, value))
    }
}

/// Cuts the first value off bytes that were checked before.
fn split_first_value(bytes: &[u8]) -> Option<(Value<'_>, &[u8])> {
    let mut at = 0;
    let mut depth = 0usize;
    loop {
        match bytes.get(at)? {
            b'l' | b'd' => {
                depth += 1;
                at += 1;
            }
            b'e' => {
                depth = depth.checked_sub(1)?;
                at += 1;
            }
            b'i' => at += bytes.get(at..)?.iter().position(|&b| b == b'e')? + 1,
            _ => {
                let mut length = 0usize;
                loop {
                    let digit = *bytes.get(at)?;
                    at += 1;
                    if digit == b':' {
                        break;
                    }
                    let digit = usize::from(digit.checked_sub(b'0')?);
                    length = length.checked_mul(10)?.checked_add(digit)?;
                }
                at = at.checked_add(length)?;
            }
        }
        if depth == 0 {
            let (value, rest) = bytes.split_at_checked(at)?;
            return Some((Value::checked(value), rest));
        }
    }
}
