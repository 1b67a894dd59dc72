//! The one matrix product: some rows times a packed panel of columns, in a register tile.
//!
//! Every element of a product is one chain of fused multiply-adds over the inner dimension, upwards from zero. Blocking
//! the inner dimension only parks the chain in memory, which is exact; tiling rows and columns never touches it. So an
//! element's bits depend on its own row and column alone: not on how many rows there are, nor on the instruction set.
//!
//! Panels are [`panel_lines`] vectors wide and lie k-major, so the micro-kernel reads them straight through; the left
//! matrix is read where it is, a broadcast number at a time.

pub(super) use super::lined::Line;
use super::simd::{ByRegisters, Isa, Kernel, LANES, Vector};
use std::ops::Range;

/// Vectors side by side in a panel: as many as the register tile of [`strip`] is wide.
pub(super) fn panel_lines(isa: Isa) -> usize {
    struct Width;
    impl Kernel for Width {
        type Output = usize;
        #[inline(always)]
        fn run<V: Vector>(self) -> usize {
            lines::<V>()
        }
    }
    isa.run(Width)
}

/// [`panel_lines`], inside a kernel.
#[inline(always)]
pub(super) fn lines<V: Vector>() -> usize {
    if V::REGISTERS >= 32 { 2 } else { 1 }
}

/// Rows in the register tile: accumulators, one panel row and a broadcast fill the register file.
#[inline(always)]
pub(super) fn tile_rows<V: Vector>() -> usize {
    if V::REGISTERS >= 32 { 14 } else { 6 }
}

/// Rows of a row-major matrix, `inner` numbers of each from its start.
#[derive(Clone, Copy)]
pub(super) struct Left<'a> {
    /// From the first row's first number on.
    pub(super) values: &'a [f32],
    /// From one row's start to the next's.
    pub(super) stride: usize,
    /// Rows.
    pub(super) rows: usize,
}

/// Where the product goes, in whole vectors: row r at `r * stride`.
pub(super) struct Target<'a> {
    pub(super) values: &'a mut [f32],
    pub(super) stride: usize,
}

impl Target<'_> {
    /// Vector `c` of a row.
    #[inline(always)]
    pub(super) fn vector(&mut self, row: usize, c: usize) -> &mut [f32; LANES] {
        self.values[row * self.stride + c * LANES..].first_chunk_mut().expect("a target as wide as its panel")
    }
}

/// One panel's part of a product.
#[derive(Clone, Copy)]
pub(super) struct Panel<'a> {
    /// `[inner][lines]`
    pub(super) lines: &'a [Line],
    /// Whether the chains go on from what is in the target, rather than from zero.
    pub(super) resume: bool,
    /// What will be multiplied by next, to be brought nearer meanwhile.
    pub(super) next: &'a [Line],
}

impl<'a> Panel<'a> {
    /// A product of its own.
    pub(super) fn whole(lines: &'a [Line]) -> Self {
        Self { lines, resume: false, next: &[] }
    }
}

/// Inputs of a panel taken at a time: with a tile's rows (16 and 6 KiB with AVX2) they stay in the first-level cache.
const INNER_BLOCK: usize = 256;

/// Splits `0..len` into nearly equal parts of at most `largest`: 384 by 256 is 192 + 192. Nothing is one empty part.
#[inline(always)]
pub(super) fn shares(len: usize, largest: usize) -> impl Iterator<Item = Range<usize>> {
    let count = len.div_ceil(largest).max(1);
    (0..count).map(move |i| i * len / count..(i + 1) * len / count)
}

/// `target = left · panel` for rows of `inner` numbers and the panel that `packed` begins with, whatever the size of
/// either; what comes after the panel is brought nearer meanwhile.
#[inline(always)]
pub(super) fn product<V: Vector>(target: &mut Target<'_>, left: Left<'_>, packed: &[Line], inner: usize) {
    let lines = lines::<V>();
    for part in shares(inner, INNER_BLOCK) {
        let (here, after) = packed[part.start * lines..].split_at(part.len() * lines);
        let next = &after[..here.len().min(after.len())];
        let left = Left { values: &left.values[part.start..], ..left };
        strip::<V>(target, left, Panel { lines: here, resume: part.start > 0, next });
    }
}

/// `target = left · panel`, or `target + left · panel` where it resumes.
#[inline(always)]
pub(super) fn strip<V: Vector>(target: &mut Target<'_>, left: Left<'_>, panel: Panel<'_>) {
    let mut row = 0;
    let tiles = left.rows.div_ceil(tile_rows::<V>()).max(1);
    let mut next = panel.next.chunks(panel.next.len().div_ceil(tiles).max(1));
    while row < left.rows {
        let rest = left.rows - row;
        // Tiles of nearly equal height: 8 rows are 4 + 4, not 6 + 2.
        let rows = rest.div_ceil(rest.div_ceil(tile_rows::<V>()));
        for line in next.next().unwrap_or_default() {
            V::prefetch(&line.0);
        }
        V::by_registers(OfHeight { target, left, row, rows, panel });
        row += rows;
    }
}

/// The micro-kernel of a height.
struct OfHeight<'a, 't> {
    target: &'a mut Target<'t>,
    left: Left<'a>,
    row: usize,
    rows: usize,
    panel: Panel<'a>,
}

/// Calls the [`Tile`] of a height of those listed, so many vectors wide.
macro_rules! call_tile {
    ($V:ident, $kernel:ident, $lines:literal: $($height:literal)*) => {{
        let OfHeight { target, left, row, rows, panel } = $kernel;
        match rows {
            $($height => $V::call(Tile::<'_, '_, $height, $lines> { target, left, row, panel }),)*
            _ => unreachable!("no tile of {rows} rows"),
        }
    }};
}

impl ByRegisters for OfHeight<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_sixteen<V: Vector>(self) {
        call_tile!(V, self, 1: 1 2 3 4 5 6);
    }

    #[inline(always)]
    fn with_thirty_two<V: Vector>(self) {
        call_tile!(V, self, 2: 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
    }
}

/// The micro-kernel: `R` rows by `C` vectors of accumulators, all in registers while k runs.
struct Tile<'a, 't, const R: usize, const C: usize> {
    target: &'a mut Target<'t>,
    left: Left<'a>,
    row: usize,
    panel: Panel<'a>,
}

impl<const R: usize, const C: usize> Kernel for Tile<'_, '_, R, C> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { target, left, row, panel } = self;
        let mut sums = [[V::zero(); C]; R];
        if panel.resume {
            for r in 0..R {
                for c in 0..C {
                    sums[r][c] = V::load(target.vector(row + r, c));
                }
            }
        }
        let (steps, _) = panel.lines.as_chunks::<C>();
        let rows = std::array::from_fn(|r| &left.values[(row + r) * left.stride..][..steps.len()]);
        accumulate(&mut sums, rows, steps);
        for r in 0..R {
            for c in 0..C {
                sums[r][c].store(target.vector(row + r, c));
            }
        }
    }
}

/// `sums[r][c] += Σ_k rows[r][k] · steps[k][c]`, k upwards.
#[inline(always)]
#[allow(unsafe_code)]
fn accumulate<V: Vector, const R: usize, const C: usize>(
    sums: &mut [[V; C]; R],
    rows: [&[f32]; R],
    steps: &[[Line; C]],
) {
    assert!(rows.iter().all(|row| row.len() == steps.len()), "rows and panel of different depths");
    for (k, lines) in steps.iter().enumerate() {
        let mut b = [V::zero(); C];
        for c in 0..C {
            b[c] = V::load(&lines[c].0);
        }
        for r in 0..R {
            // SAFETY: k is below `steps.len()`, and so is every row's length: asserted above. Six checks a step would
            // cost a third of the speed.
            let x = V::splat(unsafe { *rows[r].get_unchecked(k) });
            for c in 0..C {
                sums[r][c] = x.fma(b[c], sums[r][c]);
            }
        }
    }
}
