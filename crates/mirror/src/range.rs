//! `Range` and what it means for a blob of a known size (RFC 9110 section 14).

use crate::ContentError;

/// One range as a client asks for it, before the size is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteRange {
    /// `first-last`, both included.
    Between(u64, u64),
    /// `first-`: to the end.
    From(u64),
    /// `-n`: the last `n` bytes.
    Last(u64),
}

impl ByteRange {
    /// Whether it goes on from bytes that the client has.
    pub const fn is_resumption(self) -> bool {
        matches!(self, Self::From(first) if first > 0)
    }
}

/// A part of a blob: `length` bytes from `offset` on. Only an empty blob has an empty one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub length: u64,
}

impl Span {
    /// All of a blob.
    pub const fn whole(size: u64) -> Self {
        Self { offset: 0, length: size }
    }

    /// What `range` means for a blob of `size` bytes: cut at its end, or [`ContentError::Unsatisfiable`] when nothing
    /// of it lies inside.
    pub fn of(range: Option<ByteRange>, size: u64) -> Result<Self, ContentError> {
        let (offset, length) = match range {
            None => return Ok(Self::whole(size)),
            Some(ByteRange::Between(first, last)) if first < size && first <= last => {
                (first, last.min(size - 1) - first + 1)
            }
            Some(ByteRange::From(first)) if first < size => (first, size - first),
            Some(ByteRange::Last(n)) if n > 0 && size > 0 => (size - n.min(size), n.min(size)),
            Some(_) => return Err(ContentError::Unsatisfiable { size }),
        };
        Ok(Self { offset, length })
    }

    /// The byte after the last, if it is a number at all.
    pub fn end(&self) -> Option<u64> {
        self.offset.checked_add(self.length)
    }
}

/// The most ranges of one request; podman asks for up to 1024 chunks of a layer.
const RANGES: usize = 1024;

/// Reads a `Range` header: one range or several. None for what may be ignored, so that the whole blob is the answer:
/// another unit, too many ranges, or nonsense.
pub fn parse_ranges(header: &str) -> Option<Vec<ByteRange>> {
    let (unit, set) = header.trim().split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let ranges: Vec<_> = set.split(',').take(RANGES + 1).map(parse_range).collect::<Option<_>>()?;
    (ranges.len() <= RANGES).then_some(ranges)
}

fn parse_range(range: &str) -> Option<ByteRange> {
    let (first, last) = range.trim().split_once('-')?;
    let (first, last) = (first.trim_end(), last.trim_start());
    match (first, last) {
        ("", n) => number(n).map(ByteRange::Last),
        (first, "") => number(first).map(ByteRange::From),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(ByteRange::Between(first, last))
        }
    }
}

/// What several ranges mean for a blob of `size` bytes: those that lie inside it, in their order. None where together
/// they are more than the blob, which is then better given as a whole.
pub(crate) fn spans(ranges: &[ByteRange], size: u64) -> Result<Option<Vec<Span>>, ContentError> {
    let spans: Vec<Span> = ranges.iter().filter_map(|range| Span::of(Some(*range), size).ok()).collect();
    if spans.is_empty() {
        return Err(ContentError::Unsatisfiable { size });
    }
    let total = spans.iter().try_fold(0u64, |sum, span| sum.checked_add(span.length));
    Ok(Some(spans).filter(|_| total.is_some_and(|total| total <= size)))
}

/// Digits only. More than fit are as good as the largest number: past any end.
fn number(digits: &str) -> Option<u64> {
    if digits.is_empty() || digits.len() > 64 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(digits.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_three_forms_are_read_and_the_rest_ignored() {
        let one = |range| Some(vec![range]);
        assert_eq!(parse_ranges("bytes=0-0"), one(ByteRange::Between(0, 0)));
        assert_eq!(parse_ranges("Bytes= 5 - 9 "), one(ByteRange::Between(5, 9)));
        assert_eq!(parse_ranges("bytes=5-"), one(ByteRange::From(5)));
        assert_eq!(parse_ranges("bytes=-5"), one(ByteRange::Last(5)));
        assert_eq!(parse_ranges("bytes=0-99999999999999999999"), one(ByteRange::Between(0, u64::MAX)));
        let three = vec![ByteRange::Between(0, 1), ByteRange::From(7), ByteRange::Last(2)];
        assert_eq!(parse_ranges("bytes=0-1, 7-,-2"), Some(three));
        assert_eq!(parse_ranges(&format!("bytes=0-0{}", ",1-1".repeat(RANGES - 1))).unwrap().len(), RANGES);
        assert_eq!(parse_ranges(&format!("bytes=0-0{}", ",1-1".repeat(RANGES))), None);
        for ignored in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=9-5",
            "bytes=0-1,",
            "bytes=0-1,9-8",
            "items=0-1",
            "bytes=a-b",
            "bytes=+1-2",
        ] {
            assert_eq!(parse_ranges(ignored), None, "{ignored}");
        }
    }

    #[test]
    fn of_several_ranges_those_inside_are_given_unless_they_are_more_than_the_blob() {
        let of = |header: &str, size| {
            let given = spans(&parse_ranges(header).unwrap(), size)?;
            Ok(given.map(|spans| spans.iter().map(|s| (s.offset, s.length)).collect::<Vec<_>>()))
        };
        assert_eq!(of("bytes=8-9,0-1,50-60", 10), Ok(Some(vec![(8, 2), (0, 2)])));
        assert_eq!(of("bytes=0-7,2-9", 10), Ok(None));
        assert_eq!(of("bytes=10-,20-30", 10), Err(ContentError::Unsatisfiable { size: 10 }));
    }

    #[test]
    fn spans_are_cut_at_the_end_and_refused_past_it() {
        let of = |range, size| Span::of(Some(range), size).ok().map(|s| (s.offset, s.length));
        assert_eq!(of(ByteRange::Between(2, 99), 10), Some((2, 8)));
        assert_eq!(of(ByteRange::Between(0, u64::MAX), 10), Some((0, 10)));
        assert_eq!(of(ByteRange::From(9), 10), Some((9, 1)));
        assert_eq!(of(ByteRange::From(10), 10), None);
        assert_eq!(of(ByteRange::Last(3), 10), Some((7, 3)));
        assert_eq!(of(ByteRange::Last(30), 10), Some((0, 10)));
        assert_eq!(of(ByteRange::Last(0), 10), None);
        assert_eq!(of(ByteRange::Last(1), 0), None);
        assert_eq!(Span::of(None, 0), Ok(Span { offset: 0, length: 0 }));
    }

    proptest! {
        #[test]
        fn any_range_ends_inside_the_blob(header in "\\PC{0,30}|bytes=[0-9,-]{0,40}", size in any::<u64>()) {
            for range in parse_ranges(&header).unwrap_or_default() {
                match Span::of(Some(range), size) {
                    Ok(span) => {
                        prop_assert!(span.length > 0);
                        prop_assert!(span.end().is_some_and(|end| end <= size));
                    }
                    Err(error) => prop_assert_eq!(error, ContentError::Unsatisfiable { size }),
                }
            }
        }
    }
}
