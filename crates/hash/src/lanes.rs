//! Cuts messages into runs of 64-byte blocks, and keeps a kernel's lanes full.

/// The unit in which both hashes work.
pub(crate) type Block = [u8; 64];

/// Takes every job's state through its blocks, at most `LANES` jobs at a time; a lane that is done takes the
/// next job. `compress` is given 1 to `LANES` states and for each a run of blocks, all equally long.
pub(crate) fn run<'a, const LANES: usize, S: Copy + Default>(
    states: &mut [S],
    jobs: impl Iterator<Item = Cursor<'a>>,
    compress: impl Fn(&mut [S], &[&[Block]]),
) {
    let mut waiting = jobs.enumerate();
    let mut lanes: Vec<(usize, Cursor<'a>)> = Vec::with_capacity(LANES);
    loop {
        lanes.retain_mut(|(_, cursor)| cursor.refill());
        while lanes.len() < LANES {
            let Some((index, mut cursor)) = waiting.next() else { break };
            if cursor.refill() {
                lanes.push((index, cursor));
            }
        }
        let Some(blocks) = lanes.iter().map(|(_, cursor)| cursor.run().len()).min() else { return };

        let mut active = [S::default(); LANES];
        let mut runs: [&[Block]; LANES] = [&[]; LANES];
        for (((state, run), (index, cursor)), _) in active.iter_mut().zip(&mut runs).zip(&lanes).zip(0..LANES)
        {
            *state = states.get(*index).copied().unwrap_or_default();
            *run = cursor.run().get(..blocks).unwrap_or_default();
        }
        let used = lanes.len().min(LANES);
        if let (Some(active), Some(runs)) = (active.get_mut(..used), runs.get(..used)) {
            compress(active, runs);
        }
        for (state, (index, cursor)) in active.iter().zip(&mut lanes) {
            if let Some(kept) = states.get_mut(*index) {
                *kept = *state;
            }
            cursor.advance(blocks);
        }
    }
}

/// A message as runs of blocks: straight from its fragments where they allow it, through a small copy where a
/// block straddles two, and with the padding at the end.
pub(crate) struct Cursor<'a> {
    fragments: std::slice::Iter<'a, &'a [u8]>,
    /// Whole blocks of the current fragment.
    direct: &'a [Block],
    /// What follows them in that fragment.
    rest: &'a [u8],
    staged: [Block; 2],
    staged_at: usize,
    staged_end: usize,
    /// The length to write into the padding, in bytes; `None` when there is none, or no more.
    pad: Option<u64>,
}

impl<'a> Cursor<'a> {
    /// With `pad`, the message ends with padding for so many bytes in all.
    pub(crate) fn new(fragments: &'a [&'a [u8]], pad: Option<u64>) -> Self {
        let fragments = fragments.iter();
        let staged = [[0; 64]; 2];
        Self { fragments, direct: &[], rest: &[], staged, staged_at: 0, staged_end: 0, pad }
    }

    /// The blocks at hand.
    fn run(&self) -> &[Block] {
        if self.direct.is_empty() {
            self.staged.get(self.staged_at..self.staged_end).unwrap_or_default()
        } else {
            self.direct
        }
    }

    fn advance(&mut self, blocks: usize) {
        if self.direct.is_empty() {
            self.staged_at += blocks;
        } else {
            self.direct = self.direct.get(blocks..).unwrap_or_default();
        }
    }

    /// Makes sure that there are blocks at hand; `false` at the end.
    fn refill(&mut self) -> bool {
        if !self.run().is_empty() {
            return true;
        }
        let [first, second] = &mut self.staged;
        let mut filled = 0;
        loop {
            if filled == 0 && self.rest.len() >= 64 {
                (self.direct, self.rest) = self.rest.as_chunks();
                return true;
            }
            if self.rest.is_empty() {
                let Some(next) = self.fragments.next() else { break };
                self.rest = next;
                continue;
            }
            filled += take(first, filled, &mut self.rest);
            if filled == 64 {
                (self.staged_at, self.staged_end) = (0, 1);
                return true;
            }
        }
        let Some(length) = self.pad.take() else { return false };
        self.staged_at = 0;
        self.staged_end = pad(first, second, filled, length);
        true
    }
}

/// The beginning of a block, for messages that come bit by bit.
#[derive(Clone, Debug)]
pub(crate) struct Buffer {
    block: Block,
    length: u64,
}

impl Buffer {
    /// Behind `length` bytes, a multiple of 64.
    pub(crate) const fn new(length: u64) -> Self {
        Self { block: [0; 64], length }
    }

    /// How many bytes of the next block are there.
    pub(crate) const fn filled(&self) -> usize {
        (self.length % 64) as usize
    }

    /// Whether all bytes so far went through as whole blocks.
    pub(crate) const fn is_empty(&self) -> bool {
        self.filled() == 0
    }

    /// Passes on all whole blocks that `data` completes.
    pub(crate) fn update(&mut self, mut data: &[u8], mut compress: impl FnMut(&[Block])) {
        let filled = self.filled();
        self.length = self.length.wrapping_add(data.len() as u64);
        if filled > 0 {
            let taken = take(&mut self.block, filled, &mut data);
            if filled + taken < 64 {
                return;
            }
            compress(std::slice::from_ref(&self.block));
        }
        let (blocks, mut rest) = data.as_chunks();
        if !blocks.is_empty() {
            compress(blocks);
        }
        take(&mut self.block, 0, &mut rest);
    }

    /// Takes note of whole blocks that went through elsewhere.
    pub(crate) const fn skip(&mut self, blocks: &[Block]) {
        self.length = self.length.wrapping_add(blocks.as_flattened().len() as u64);
    }

    /// Passes on the padding.
    pub(crate) fn finish(mut self, mut compress: impl FnMut(&[Block])) {
        let filled = self.filled();
        let mut second = [0; 64];
        let blocks = pad(&mut self.block, &mut second, filled, self.length);
        compress([self.block, second].get(..blocks).unwrap_or_default());
    }
}

/// Moves bytes from `source` behind the `filled` bytes of `block`; returns how many.
fn take(block: &mut Block, filled: usize, source: &mut &[u8]) -> usize {
    let room = block.get_mut(filled..).unwrap_or_default();
    let taken = room.len().min(source.len());
    let (now, later) = source.split_at(taken);
    if let Some(room) = room.get_mut(..taken) {
        room.copy_from_slice(now);
    }
    *source = later;
    taken
}

/// A one bit, zeros, and the message's length in bits (FIPS 180-4, 5.1.1); returns how many blocks that took.
fn pad(first: &mut Block, second: &mut Block, filled: usize, length: u64) -> usize {
    if let Some((mark, zeros)) = first.get_mut(filled..).and_then(<[u8]>::split_first_mut) {
        *mark = 0x80;
        zeros.fill(0);
    }
    let (last, blocks) = if filled < 56 {
        (first, 1)
    } else {
        second.fill(0);
        (second, 2)
    };
    if let Some(bits) = last.last_chunk_mut::<8>() {
        *bits = length.wrapping_mul(8).to_be_bytes();
    }
    blocks
}
