//! Numbers on whole cache lines.

use super::simd::LANES;
use std::ops::Range;

/// One vector in memory, on a cache line of its own.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(super) struct Line(pub(super) [f32; LANES]);

impl Line {
    pub(super) const ZERO: Self = Self([0.0; LANES]);
}

/// Vectors that go through the registers together.
pub(super) const TOGETHER: usize = 8;

/// Most lines of a vector in one [`Part`]: [`TOGETHER`] of them, and a few more, leave some of a first-level cache of
/// 32 KiB.
const DEPTH: usize = 32;

/// Vectors of one width, laid out for products: each starts a cache line and is completed with zeros to whole lines, so
/// that no load straddles two; and long ones are cut in parts, each part a matrix of its own, so that those of some
/// vectors never compete for the same few lines of a cache.
#[derive(Clone, Debug)]
pub struct Lined {
    parts: Vec<Part>,
    width: usize,
    len: usize,
}

/// Some consecutive lines of each vector.
#[derive(Clone, Debug)]
pub(super) struct Part {
    /// Numbers of a vector.
    pub(super) numbers: Range<usize>,
    /// Lines of a vector.
    pub(super) depth: usize,
    /// Those of whole groups of [`TOGETHER`] vectors; what is beyond the last is what once was there.
    lines: Vec<Line>,
}

impl Lined {
    /// No vectors, of `width` numbers each.
    pub fn new(width: usize) -> Self {
        let depth = width.div_ceil(LANES);
        let count = depth.div_ceil(DEPTH).max(1);
        let line = |part: usize| part * depth / count;
        let part = |part| Part::new(line(part)..line(part + 1), width);
        Self { parts: (0..count).map(part).collect(), width, len: 0 }
    }

    /// The `len` rows of a matrix, `[len, width]`.
    ///
    /// # Panics
    /// If `rows` is not of that size.
    pub fn from_rows(rows: &[f32], len: usize, width: usize) -> Self {
        let mut lined = Self::new(width);
        lined.refill(rows, len);
        lined
    }

    /// The `len` rows of another matrix of this width, in the same memory.
    ///
    /// # Panics
    /// If `rows` is not of that size.
    pub fn refill(&mut self, rows: &[f32], len: usize) {
        assert_eq!(rows.len(), len * self.width, "rows that do not fill their matrix");
        self.len = 0;
        for i in 0..len {
            self.push(&rows[i * self.width..][..self.width]);
        }
    }

    /// One more.
    ///
    /// # Panics
    /// If it is of another width.
    pub fn push(&mut self, vector: &[f32]) {
        assert_eq!(vector.len(), self.width, "a vector of another width");
        for part in &mut self.parts {
            part.set(self.len, &vector[part.numbers.clone()]);
        }
        self.len += 1;
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Numbers in each.
    pub fn width(&self) -> usize {
        self.width
    }

    /// At least one, in order: two of the same width have parts of the same sizes.
    pub(super) fn parts(&self) -> &[Part] {
        &self.parts
    }
}

impl Part {
    fn new(lines: Range<usize>, width: usize) -> Self {
        let numbers = lines.start * LANES..width.min(lines.end * LANES);
        Self { numbers, depth: lines.len(), lines: Vec::new() }
    }

    fn set(&mut self, i: usize, numbers: &[f32]) {
        let needed = (i + 1).next_multiple_of(TOGETHER) * self.depth;
        if self.lines.len() < needed {
            self.lines.resize(needed, Line::ZERO);
        }
        // What the last line has beyond the vector is zero, and stays so.
        let lines = &mut self.lines[i * self.depth..][..self.depth];
        let (whole, rest) = numbers.as_chunks();
        for (line, numbers) in lines.iter_mut().zip(whole) {
            line.0 = *numbers;
        }
        if !rest.is_empty() {
            lines[whole.len()].0[..rest.len()].copy_from_slice(rest);
        }
    }

    /// Those of `count` vectors from number `first` on, which may be some more than there are, up to a multiple of
    /// [`TOGETHER`].
    #[inline(always)]
    pub(super) fn vectors(&self, first: usize, count: usize) -> &[Line] {
        &self.lines[first * self.depth..][..count * self.depth]
    }
}
