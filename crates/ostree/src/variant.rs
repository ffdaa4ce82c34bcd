//! GVariant in short (the GVariant specification, section 2): members stand one after the other at their alignment.
//! Where a member has no fixed size, and is not the last, its end is written at the container's own end, in numbers of
//! 1, 2, 4 or 8 bytes by the container's length; of a tuple the first end stands last, of an array they are in order.

/// An end lies before its beginning, or outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Misshapen;

/// The ends that are written at a container's end.
pub(crate) struct Ends<'a> {
    container: &'a [u8],
    width: usize,
}

impl<'a> Ends<'a> {
    pub(crate) fn of(container: &'a [u8]) -> Result<Self, Misshapen> {
        if container.is_empty() {
            return Err(Misshapen);
        }
        Ok(Self { container, width: width_behind(container.len(), 0) })
    }

    /// Of each end's number, in bytes.
    pub(crate) const fn width(&self) -> usize {
        self.width
    }

    /// Of a tuple's member, counted from 0 among those whose ends are written.
    pub(crate) fn end_of(&self, member: usize) -> Result<usize, Misshapen> {
        let at = self.container.len().checked_sub((member + 1) * self.width);
        let end = number_at(self.container, at.ok_or(Misshapen)?, self.width)?;
        if end > self.container.len() { Err(Misshapen) } else { Ok(end) }
    }

    /// Of an array's last element, behind which the ends begin.
    pub(crate) fn last(&self) -> Result<usize, Misshapen> {
        self.end_of(0)
    }
}

/// How wide the numbers are that stand behind so many bytes, so many of them.
pub(crate) fn width_behind(bytes: usize, ends: usize) -> usize {
    let fits = |width: &usize| ((bytes + width * ends) as u64) >> (8 * width) == 0;
    [1, 2, 4].into_iter().find(fits).unwrap_or(8)
}

/// A little-endian number of `width` bytes, at most 8.
pub(crate) fn number_at(bytes: &[u8], at: usize, width: usize) -> Result<usize, Misshapen> {
    let end = at.checked_add(width).ok_or(Misshapen)?;
    let digits = bytes.get(at..end).ok_or(Misshapen)?;
    let number = digits.iter().rev().fold(0_u64, |number, digit| (number << 8) | u64::from(*digit));
    usize::try_from(number).map_err(|_| Misshapen)
}

pub(crate) const fn aligned(at: usize) -> usize {
    at.saturating_add(7) & !7
}
