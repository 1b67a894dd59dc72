//! One sequence's queries, keys, values or their gradients, a head at a time, packed for the products of
//! [`gemm`](super::super::gemm).

use super::super::gemm::{Line, lines};
use super::super::simd::{LANES, Vector};
use crate::backend::Columns;
use std::ops::Range;

/// An operand of one sequence, every head's part in panels of its own. Grows to the longest sequence it has met.
#[derive(Default)]
pub(super) struct Packed {
    lines: Vec<Line>,
    /// Lines of one head.
    head: usize,
}

/// Some rows of some heads.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    pub(super) view: &'a Columns<'a, [f32]>,
    pub(super) heads: usize,
    /// D.
    pub(super) width: usize,
}

impl Part<'_> {
    /// One head's columns of one row.
    #[inline(always)]
    pub(super) fn of(&self, row: usize, head: usize) -> &[f32] {
        &self.view.tensor[row * self.view.stride + self.view.offset + head * self.width..][..self.width]
    }
}

impl Packed {
    pub(super) const fn new() -> Self {
        Self { lines: Vec::new(), head: 0 }
    }

    /// Head `head`'s panels.
    #[inline(always)]
    pub(super) fn head(&self, head: usize) -> &[Line] {
        &self.lines[head * self.head..][..self.head]
    }

    /// Rows as the columns of panels, each panel `[D][lines]`: for products along D. All heads of a row at once, which
    /// is read straight through.
    #[inline(always)]
    pub(super) fn columns<V: Vector>(&mut self, part: Part<'_>, rows: Range<usize>) {
        let lines = lines::<V>();
        self.reserve(part.heads, rows.len().div_ceil(lines * LANES) * part.width * lines);
        for (column, row) in rows.enumerate() {
            for head in 0..part.heads {
                put_column(&mut self.lines[head * self.head..][..self.head], part.of(row, head), column, lines);
            }
        }
    }

    /// Rows as the rows of panels of D's columns, each panel `[rows][lines]`: for products along the rows.
    #[inline(always)]
    pub(super) fn rows<V: Vector>(&mut self, part: Part<'_>, rows: Range<usize>) {
        let (lines, length) = (lines::<V>(), rows.len());
        self.reserve(part.heads, part.width.div_ceil(lines * LANES) * length * lines);
        for (place, row) in rows.enumerate() {
            for head in 0..part.heads {
                put_row(&mut self.lines[head * self.head..][..self.head], part.of(row, head), place, length, lines);
            }
        }
    }

    fn reserve(&mut self, heads: usize, head: usize) {
        self.head = head;
        grow(&mut self.lines, heads * head, Line::ZERO);
    }
}

/// Puts a row into its column of the panels.
#[inline(always)]
fn put_column(panels: &mut [Line], values: &[f32], column: usize, lines: usize) {
    let (panel, column) = (column / (lines * LANES), column % (lines * LANES));
    let panel = &mut panels[panel * values.len() * lines..][..values.len() * lines];
    for (k, &x) in values.iter().enumerate() {
        panel[k * lines + column / LANES].0[column % LANES] = x;
    }
}

/// Puts a row into its row of the panels. What is beyond its width in the last line is left as it was, and never
/// stored.
#[inline(always)]
fn put_row(panels: &mut [Line], values: &[f32], place: usize, length: usize, lines: usize) {
    let at = |line: usize| (line / lines * length + place) * lines + line % lines;
    let (whole, tail) = values.as_chunks::<LANES>();
    for (line, part) in whole.iter().enumerate() {
        panels[at(line)].0 = *part;
    }
    if !tail.is_empty() {
        panels[at(whole.len())].0[..tail.len()].copy_from_slice(tail);
    }
}

/// Makes room, once.
pub(super) fn grow<T: Clone>(buffer: &mut Vec<T>, len: usize, filler: T) {
    if buffer.len() < len {
        buffer.resize(len, filler);
    }
}
