//! [`panel_products`](super::panel_products) of numbers rounded to bf16, where the machine multiplies those itself:
//! twice as fast, and as far off as rounding took either vector, which is measured.
//!
//! Here rows are the columns of the panels, so that a query's products with a tile of them lie side by side.

use crate::backend::cpu::bf16::{Instructions, LINES, LeftPairs, PairLine};
use crate::backend::cpu::gemm::Target;
use crate::backend::cpu::simd::{Isa, LANES};
use std::ops::Range;

/// Queries of one width, rounded.
#[derive(Clone, Debug)]
pub struct HalvedQueries {
    instructions: Instructions,
    /// `[len, ⌈width/2⌉]`
    pairs: Vec<u32>,
    width: usize,
    len: usize,
}

impl HalvedQueries {
    /// No queries, of `width` numbers each; `None` where there are none, or the machine has no such product.
    pub fn new(width: usize) -> Option<Self> {
        let instructions = Instructions::of(Isa::best()).filter(|_| width > 0)?;
        Some(Self { instructions, pairs: Vec::new(), width, len: 0 })
    }

    /// One more; at least how far rounding took it.
    ///
    /// # Panics
    /// If it is of another width.
    pub fn push(&mut self, query: &[f32]) -> f32 {
        assert_eq!(query.len(), self.width, "a query of another width");
        let begun = self.pairs.len();
        self.pairs.resize(begun + self.width.div_ceil(2), 0);
        self.len += 1;
        residual(self.instructions.pair_up_measured(&mut self.pairs[begun..], query), self.width)
    }
}

/// Rows of one width, rounded: a tile of them, used again for the next.
#[derive(Clone, Debug)]
pub struct HalvedRows {
    instructions: Instructions,
    /// Panels of rows, each `[⌈width/2⌉][lines]`; rows beyond the last are whatever they were.
    panels: Vec<PairLine>,
    residuals: Vec<f32>,
    width: usize,
}

impl HalvedRows {
    /// Rows come in so many.
    pub const STEP: usize = LINES * LANES;

    /// No rows, for these queries.
    pub fn new(queries: &HalvedQueries) -> Self {
        let HalvedQueries { instructions, width, .. } = *queries;
        Self { instructions, panels: Vec::new(), residuals: Vec::new(), width }
    }

    /// `rows [.., width]` in place of what there was.
    pub fn refill(&mut self, rows: &[f32]) {
        let count = rows.len() / self.width;
        self.panels.resize(count.div_ceil(Self::STEP) * self.width.div_ceil(2) * LINES, PairLine::ZERO);
        self.residuals.resize(count, 0.0);
        self.instructions.pack(&mut self.panels, &mut self.residuals, rows, self.width);
        self.residuals.iter_mut().for_each(|square| *square = residual(*square, self.width));
    }

    /// At least how far rounding took each.
    pub fn residuals(&self) -> &[f32] {
        &self.residuals
    }

    /// From one query's products to the next's: the rows, in whole [`HalvedRows::STEP`]s.
    pub fn stride(&self) -> usize {
        self.residuals.len().next_multiple_of(Self::STEP)
    }
}

/// At least how long what rounding took from `width` numbers is, from the rounded sum of its squares.
fn residual(square: f32, width: usize) -> f32 {
    // More than the sum's own rounding, and what underflow takes.
    let spare = 1.0 + (width + 64) as f64 / f64::from(1 << 24);
    ((f64::from(square).sqrt() * spare + 1e-18) as f32).next_up()
}

/// Products of every asked query with every row: `out [asked, stride]`, of which the first as many as there are rows
/// mean something.
///
/// A product is one chain of fused multiply-adds of the rounded numbers, within `γ_n Σ|â b̂|` of theirs, n the width,
/// but that sums below the smallest normal f32 are taken for zero.
///
/// # Panics
/// If the queries asked are not there, or `out` is not of that size.
pub fn halved_products(out: &mut [f32], queries: &HalvedQueries, asked: Range<usize>, rows: &HalvedRows) {
    let (stride, inner) = (rows.stride(), queries.width.div_ceil(2));
    assert!(asked.end <= queries.len, "queries {asked:?} of {}", queries.len);
    assert_eq!(out.len(), asked.len() * stride, "products that do not fill their tile");
    assert_eq!(queries.width, rows.width, "queries and rows of different widths");
    let values = &queries.pairs[asked.start * inner..asked.end * inner];
    for (panel, first) in rows.panels.chunks_exact(inner * LINES).zip((0..stride).step_by(HalvedRows::STEP)) {
        let left = LeftPairs { values, inner, rows: asked.len() };
        queries.instructions.product(&mut Target { values: &mut out[first..], stride }, left, panel);
    }
}
