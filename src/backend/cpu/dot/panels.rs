//! Many queries with many rows as one matrix product: as fast as this machine multiplies, in another order of sums than
//! [`dot`](super::dot)'s.
//!
//! A product is one chain of fused multiply-adds over the width, so that it lies within `γ_n Σ|a b|`, n the width
//! (Higham, §3.1), of the true one: enough to tell which pairs deserve their own [`dot`](super::dot). The queries are
//! packed once, a panel of columns each; rows are read where they lie.

use crate::backend::cpu::gemm::{Left, Line, Target, lines, panel_lines, product};
use crate::backend::cpu::simd::{Isa, Kernel, LANES, Vector};
use std::ops::Range;

/// Queries of one width, packed for [`panel_products`].
#[derive(Clone, Debug)]
pub struct Panels {
    /// Panels of queries, each `[width][lines]`; queries beyond `len` are zero.
    lines: Vec<Line>,
    width: usize,
    len: usize,
    isa: Isa,
}

impl Panels {
    /// The queries of a panel at most: a range of queries to be asked begins at a multiple of this.
    pub const QUERIES: usize = 2 * LANES;

    /// No queries, of `width` numbers each.
    pub fn new(width: usize) -> Self {
        Self::new_on(Isa::best(), width)
    }

    /// [`Panels::new`] for a given instruction set (the products' bits are the same).
    pub fn new_on(isa: Isa, width: usize) -> Self {
        Self { lines: Vec::new(), width, len: 0, isa }
    }

    /// One more.
    ///
    /// # Panics
    /// If it is of another width.
    pub fn push(&mut self, query: &[f32]) {
        assert_eq!(query.len(), self.width, "a query of another width");
        let lines = panel_lines(self.isa);
        let (panel, column) = (self.len / (lines * LANES), self.len % (lines * LANES));
        if column == 0 {
            self.lines.resize((panel + 1) * self.width * lines, Line::ZERO);
        }
        for (k, &x) in query.iter().enumerate() {
            self.lines[(panel * self.width + k) * lines + column / LANES].0[column % LANES] = x;
        }
        self.len += 1;
    }
}

/// Products of every asked query with every row of `rows [rows, E]`: `out [asked, rows]`.
///
/// # Panics
/// If the queries asked are not there, or don't begin with a panel, or `rows` or `out` is not of that size.
pub fn panel_products(out: &mut [f32], queries: &Panels, asked: Range<usize>, rows: &[f32]) {
    let n_rows = out.len().checked_div(asked.len()).unwrap_or(0);
    assert_eq!(out.len(), n_rows * asked.len(), "products of no whole number of rows");
    let begins = asked.start.is_multiple_of(Panels::QUERIES);
    assert!(asked.end <= queries.len && begins, "queries {asked:?} of {}", queries.len);
    assert_eq!(rows.len(), n_rows * queries.width, "rows that do not fill their products");
    queries.isa.run(Products { out, queries, asked, rows, n_rows });
}

/// Rows whose products with a panel stay in the first-level cache until they are in their places: whole register tiles,
/// on either register file.
const ROW_BLOCK: usize = 84;

struct Products<'a> {
    out: &'a mut [f32],
    queries: &'a Panels,
    asked: Range<usize>,
    rows: &'a [f32],
    n_rows: usize,
}

impl Kernel for Products<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { out, queries, asked, rows, n_rows } = self;
        let (width, lines) = (queries.width, lines::<V>());
        let columns = lines * LANES;
        let mut sums = [0.0; ROW_BLOCK * Panels::QUERIES];
        for row in (0..n_rows).step_by(ROW_BLOCK) {
            let count = ROW_BLOCK.min(n_rows - row);
            for first in asked.clone().step_by(columns) {
                let left = Left { values: &rows[row * width..], stride: width, rows: count };
                let panel = &queries.lines[first / columns * width * lines..];
                product::<V>(&mut Target { values: &mut sums, stride: columns }, left, panel, width);
                for column in 0..columns.min(asked.end - first) {
                    let out = &mut out[(first - asked.start + column) * n_rows + row..][..count];
                    for (r, out) in out.iter_mut().enumerate() {
                        *out = sums[r * columns + column];
                    }
                }
            }
        }
    }
}
