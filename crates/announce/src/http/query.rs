//! Query strings: `key=value` pairs with percent-escapes, read in place.

use std::fmt::Write as _;

/// The pairs of a query string, as they stand. A key without `=` has an empty value.
pub(super) fn pairs(query: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = query;
    std::iter::from_fn(move || {
        while !rest.is_empty() {
            let (pair, tail) = rest.split_at(memchr::memchr(b'&', rest).unwrap_or(rest.len()));
            rest = tail.get(1..).unwrap_or_default();
            if !pair.is_empty() {
                let equals = pair.iter().position(|&byte| byte == b'=').unwrap_or(pair.len());
                let (key, value) = pair.split_at(equals);
                return Some((key, value.get(1..).unwrap_or_default()));
            }
        }
        None
    })
}

/// Undoes escapes into `out`; returns how many bytes came out. `None` for a broken escape, or where `out` is too
/// short. A plus is a space: so forms are written, and some clients' libraries with them; those that mean a plus
/// escape it.
pub(super) fn decode_into(value: &[u8], out: &mut [u8]) -> Option<usize> {
    let mut rest = value;
    let mut length = 0;
    while let Some((&first, tail)) = rest.split_first() {
        let (byte, tail) = match first {
            b'%' => {
                let (&[high, low], tail) = tail.split_first_chunk()?;
                let (high, low) = (DIGITS[usize::from(high)], DIGITS[usize::from(low)]);
                // What is no digit has bits above.
                if (high | low) > 15 {
                    return None;
                }
                (high << 4 | low, tail)
            }
            b'+' => (b' ', tail),
            plain => (plain, tail),
        };
        *out.get_mut(length)? = byte;
        length += 1;
        rest = tail;
    }
    Some(length)
}

/// Exactly `N` bytes.
pub(super) fn decode_exactly<const N: usize>(value: &[u8]) -> Option<[u8; N]> {
    let mut out = [0; N];
    (decode_into(value, &mut out)? == N).then_some(out)
}

/// A short text, such as an address.
pub(super) fn decode_text<'o>(value: &[u8], out: &'o mut [u8; 64]) -> Option<&'o str> {
    let length = decode_into(value, out)?;
    std::str::from_utf8(out.get(..length)?).ok()
}

/// A number in plain digits.
pub(super) fn number<N: TryFrom<u64>>(value: &[u8]) -> Option<N> {
    if value.is_empty() {
        return None;
    }
    let number = value.iter().try_fold(0u64, |number, &byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 { None } else { number.checked_mul(10)?.checked_add(digit.into()) }
    });
    number?.try_into().ok()
}

/// Writes bytes with escapes for all but the unreserved characters (RFC 3986, 2.3).
pub(super) fn encode(out: &mut String, bytes: &[u8]) {
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

/// What each byte is worth as a hexadecimal digit; 255 for what is none.
const DIGITS: [u8; 256] = {
    let (mut digits, mut n) = ([255; 256], 0);
    #[allow(clippy::indexing_slicing, reason = "evaluated when it is compiled")]
    while n < 16 {
        digits[b"0123456789abcdef"[n] as usize] = n as u8;
        digits[b"0123456789ABCDEF"[n] as usize] = n as u8;
        n += 1;
    }
    digits
};

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn escapes_are_exact() {
        assert_eq!(decode_exactly(b"%00a%fF+"), Some(*b"\x00a\xff "));
        assert_eq!(decode_exactly::<1>(b"%2B"), Some(*b"+"));
        for broken in [&b"%"[..], b"%0", b"%0g", b"%+1", b"ab"] {
            assert_eq!(decode_exactly::<1>(broken), None, "{}", broken.escape_ascii());
        }
        let all: Vec<_> = pairs(b"a=1&&b&=x&c=d=e").collect();
        assert_eq!(all, [(&b"a"[..], &b"1"[..]), (b"b", b""), (b"", b"x"), (b"c", b"d=e")]);
        assert_eq!(number::<u16>(b"65535"), Some(65535));
        assert_eq!(number::<u16>(b"65536"), None);
        assert_eq!(number::<u16>(b"+1"), None);
        assert_eq!(number::<u16>(b""), None);
    }

    proptest! {
        #[test]
        fn what_is_escaped_is_read_the_same(bytes: [u8; 20]) {
            let mut text = String::new();
            encode(&mut text, &bytes);
            prop_assert_eq!(decode_exactly(text.as_bytes()), Some(bytes));
        }
    }
}
