//! One term of many records' scores, sixteen records at a time.

#![allow(clippy::inline_always)] // what runs on vectors must be inlined where the instruction set is switched on
#![allow(clippy::needless_range_loop)] // register tiles read best with their indices

use super::query::Weight;
use crate::backend::cpu::simd::{Kernel, LANES, Vector};

/// `deltas [rows, K]` to `out [K, rows]`, sixteen rows at a time: those stay in the first-level cache for all classes.
pub(super) struct Transpose<'t> {
    pub(super) out: &'t mut [f32],
    pub(super) deltas: &'t [f32],
    pub(super) classes: usize,
    pub(super) rows: usize,
}

impl Kernel for Transpose<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { out, deltas, classes, rows } = self;
        for first in (0..rows).step_by(LANES) {
            let block = Block { deltas: &deltas[first * classes..], classes, rows: LANES.min(rows - first) };
            for class in (0..block.whole()).step_by(LANES) {
                let columns = block.columns::<V>(class);
                for c in 0..LANES {
                    columns[c].store(out[(class + c) * rows + first..].first_chunk_mut().expect("sixteen rows"));
                }
            }
            for class in block.whole()..classes {
                for r in 0..block.rows {
                    out[class * rows + first + r] = block.deltas[r * classes + class];
                }
            }
        }
    }
}

/// Up to sixteen rows `deltas [.., K]`, and what is stored after them.
struct Block<'t> {
    deltas: &'t [f32],
    classes: usize,
    rows: usize,
}

impl Block<'_> {
    /// Classes that go by sixteens.
    #[inline(always)]
    fn whole(&self) -> usize {
        if self.rows == LANES { self.classes / LANES * LANES } else { 0 }
    }

    /// Sixteen classes from `class` on, a vector each. Rows beside each other are no stream that the machine would see
    /// by itself: the next are asked for.
    #[inline(always)]
    fn columns<V: Vector>(&self, class: usize) -> [V; LANES] {
        let next = self.deltas[self.rows * self.classes..].iter();
        for line in next.skip(LANES * class).step_by(LANES).take(LANES) {
            V::prefetch_near(line);
        }
        let mut block = [V::zero(); LANES];
        for r in 0..LANES {
            block[r] = V::load(self.deltas[r * self.classes + class..].first_chunk().expect("sixteen classes"));
        }
        V::transpose(&mut block);
        block
    }
}

/// [`Weigh`] for one query, of `deltas [rows, K]` as they are stored: to turn them first would take as long as the
/// features.
pub(super) struct WeighStored<'t> {
    pub(super) out: &'t mut [f32],
    pub(super) query: &'t Weight,
    pub(super) deltas: &'t [f32],
    pub(super) classes: usize,
}

impl Kernel for WeighStored<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { out, query, deltas, classes } = self;
        let own = match query {
            Weight::One => return out.fill(1.0),
            Weight::Class(class) => {
                return out.iter_mut().zip(deltas.chunks_exact(classes)).for_each(|(out, row)| *out = row[*class]);
            }
            Weight::Delta(own) => own,
        };
        for (number, out) in out.chunks_mut(LANES).enumerate() {
            let block = Block { deltas: &deltas[number * LANES * classes..], classes, rows: out.len() };
            let mut sum = V::zero();
            for class in (0..block.whole()).step_by(LANES) {
                let columns = block.columns::<V>(class);
                for c in 0..LANES {
                    sum = V::splat(own[class + c]).fma(columns[c], sum);
                }
            }
            for class in block.whole()..classes {
                let mut column = [0.0; LANES];
                for r in 0..block.rows {
                    column[r] = block.deltas[r * classes + class];
                }
                sum = V::splat(own[class]).fma(V::load(&column), sum);
            }
            match out.first_chunk_mut() {
                Some(whole) => sum.store(whole),
                None => sum.store_partial(out),
            }
        }
    }
}

/// What each of some rows weighs for each of some queries, `[queries, rows]`: 1, `δ_i[c]`, or the chain of
/// [`super::score`] over ascending k. Queries and rows go by in tiles, so that a class of a row is read once for
/// several queries, and chains wait for each other in no register.
pub(super) struct Weigh<'t> {
    pub(super) out: &'t mut [f32],
    pub(super) queries: &'t [Weight],
    /// `[K, rows]`
    pub(super) deltas: &'t [f32],
    pub(super) rows: usize,
}

impl Kernel for Weigh<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(mut self) {
        let mut query = 0;
        while query < self.queries.len() {
            query += match &self.queries[query..] {
                [Weight::Delta(a), Weight::Delta(b), Weight::Delta(c), Weight::Delta(d), ..] => {
                    self.chains::<V, 4>(query, [a, b, c, d])
                }
                [Weight::Delta(a), ..] => self.chains::<V, 1>(query, [a]),
                [Weight::Class(class), ..] => {
                    let class = &self.deltas[class * self.rows..][..self.rows];
                    self.out[query * self.rows..][..self.rows].copy_from_slice(class);
                    1
                }
                _ => {
                    self.out[query * self.rows..][..self.rows].fill(1.0);
                    1
                }
            };
        }
    }
}

impl Weigh<'_> {
    /// `δ_q·δ_i` of `Q` queries, the first of which is number `query`; gives back Q.
    #[inline(always)]
    fn chains<V: Vector, const Q: usize>(&mut self, query: usize, of: [&[f32]; Q]) -> usize {
        let mut row = 0;
        while row < self.rows {
            row += if V::REGISTERS >= 32 && self.rows - row >= 4 * LANES {
                self.tile::<V, Q, 4>(query, of, row)
            } else {
                self.tile::<V, Q, 1>(query, of, row)
            };
        }
        Q
    }

    /// The same of `R` times sixteen rows from `row` on, or of one sixteen that may be fewer; gives back how many.
    #[inline(always)]
    fn tile<V: Vector, const Q: usize, const R: usize>(&mut self, query: usize, of: [&[f32]; Q], row: usize) -> usize {
        let mut weights = [[V::zero(); R]; Q];
        for (k, class) in self.deltas.chunks_exact(self.rows).enumerate() {
            let mut deltas = [V::zero(); R];
            for r in 0..R {
                let class = &class[row + r * LANES..];
                deltas[r] = class.first_chunk().map_or_else(|| V::load_partial(class), V::load);
            }
            for q in 0..Q {
                let own = V::splat(of[q][k]);
                for r in 0..R {
                    weights[q][r] = own.fma(deltas[r], weights[q][r]);
                }
            }
        }
        for q in 0..Q {
            for r in 0..R {
                let start = row + r * LANES;
                let out = &mut self.out[(query + q) * self.rows..][start..self.rows.min(start + LANES)];
                match out.first_chunk_mut() {
                    Some(whole) => weights[q][r].store(whole),
                    None => weights[q][r].store_partial(out),
                }
            }
        }
        (R * LANES).min(self.rows - row)
    }
}

/// `sums ← fma(rate, weight · (products + bias), sums)` over rows.
pub(super) struct AddTerm<'t> {
    pub(super) sums: &'t mut [f32],
    pub(super) products: &'t [f32],
    pub(super) weights: &'t [f32],
    pub(super) bias: f32,
    pub(super) rate: f32,
}

impl Kernel for AddTerm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let (sums, last) = self.sums.as_chunks_mut();
        let (products, last_products) = self.products.as_chunks();
        let (weights, last_weights) = self.weights.as_chunks();
        let (bias, rate) = (V::splat(self.bias), V::splat(self.rate));
        for ((sum, product), weight) in sums.iter_mut().zip(products).zip(weights) {
            let term = V::load(weight).mul(V::load(product).add(bias));
            rate.fma(term, V::load(sum)).store(sum);
        }
        if !last.is_empty() {
            let term = V::load_partial(last_weights).mul(V::load_partial(last_products).add(bias));
            rate.fma(term, V::load_partial(last)).store_partial(last);
        }
    }
}
