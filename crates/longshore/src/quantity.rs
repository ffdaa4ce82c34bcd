//! Sizes and rates, for people, both ways.

use indicatif::BinaryBytes;

/// `1.50 MiB`
pub(crate) fn size(bytes: u64) -> String {
    BinaryBytes(bytes).to_string()
}

/// `1.50 MiB/s`
pub(crate) fn rate(bytes_per_second: f64) -> String {
    format!("{}/s", BinaryBytes(bytes_per_second.max(0.0) as u64))
}

/// `3 peers`
pub(crate) fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// Reads `65536`, `256KiB`, `1 MiB`; also `256K` and `1M`, which mean the same. Decimal units are refused: every size
/// that is asked for here is a power of two.
pub(crate) fn parse_size(text: &str) -> Result<u32, String> {
    let text = text.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| format!("`{text}` does not begin with a number"))?;
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        unit => return Err(format!("`{unit}` is no unit: use KiB or MiB")),
    };
    let bytes = number.checked_mul(factor).and_then(|bytes| u32::try_from(bytes).ok());
    bytes.ok_or_else(|| format!("`{text}` is too much"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [("65536", 65536), ("256KiB", 262_144), ("1 mib", 1 << 20), ("16k", 16384)] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "KiB", "1KB", "4GiB", "-1", "99999999999999999999"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn one_has_no_plural() {
        assert_eq!((count(1, "peer"), count(2, "peer")), ("1 peer".to_owned(), "2 peers".to_owned()));
    }
}
