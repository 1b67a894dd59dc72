//! A sparse projection `S [outputs, inputs]`: every coordinate goes to one place, with a sign, so that a row costs as
//! many additions as it has numbers, whatever is kept of it.
//!
//! Sixteen coordinates beside each other go to sixteen places beside each other, from a place that is drawn, round the
//! end; signs are drawn one by one. Two coordinates so meet with a chance of 1/outputs where they are of different
//! runs, and never where they are of one; signs make `E⟨S x, S y⟩ = ⟨x, y⟩`, and the variance `Σ_{i<j} P(i meets j)
//! (x_i y_j + x_j y_i)²`: that of independent ±1/√outputs everywhere, or less. (The Count-Sketch of Charikar, Chen &
//! Farach-Colton 2002, a sparse Johnson-Lindenstrauss transform with s = 1 entry a column; with s > 1 of them, Kane &
//! Nelson 2014, the variance is the same and the cost s times as large.)

#![allow(clippy::inline_always)] // what runs on vectors must be inlined where the instruction set is switched on

use std::ops::Range;

use super::cpu::simd::{Isa, Kernel, LANES, Vector};

/// Rows that go through a run together: what one row adds to is not waited for by the next.
const ROWS: usize = 16;

/// Such a projection.
#[derive(Clone, Debug, PartialEq)]
pub struct Sketch {
    outputs: usize,
    runs: Vec<Run>,
    /// ±1, `[inputs]`
    signs: Vec<f32>,
    /// `[outputs]`, added to every row: where a constant 1 goes.
    shift: Vec<f32>,
}

/// Coordinates beside each other, and where the first of them goes.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Run {
    first: usize,
    len: usize,
    to: usize,
}

impl Sketch {
    /// `draw` is told a run's number, and gives the place below `outputs` where it goes, and a bit a coordinate: 1 for
    /// −1.
    pub fn new(inputs: usize, outputs: usize, draw: impl Fn(usize) -> (usize, u32)) -> Self {
        let len = LANES.min(outputs);
        let (mut runs, mut signs) = (Vec::new(), Vec::with_capacity(inputs));
        for (number, first) in (0..inputs).step_by(len.max(1)).enumerate() {
            let (to, bits) = draw(number);
            let len = len.min(inputs - first);
            runs.push(Run { first, len, to });
            signs.extend((0..len).map(|lane| if bits >> lane & 1 == 0 { 1.0 } else { -1.0 }));
        }
        Self { outputs, runs, signs, shift: vec![0.0; outputs] }
    }

    /// What leaves `width` coordinates as they are.
    pub fn identity(width: usize) -> Self {
        Self::new(width, width, |run| (run * LANES.min(width), 0))
    }

    /// Coordinates it takes.
    pub fn inputs(&self) -> usize {
        self.signs.len()
    }

    /// Numbers it leaves.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// The same of some coordinates alone.
    #[must_use]
    pub fn of(&self, range: Range<usize>) -> Self {
        let within = |run: &Run| {
            let (from, to) = (run.first.max(range.start), (run.first + run.len).min(range.end));
            let moved = (run.to + from.saturating_sub(run.first)) % self.outputs;
            (from < to).then(|| Run { first: from - range.start, len: to - from, to: moved })
        };
        let runs = self.runs.iter().filter_map(within).collect();
        Self { outputs: self.outputs, runs, signs: self.signs[range].to_vec(), shift: self.shift.clone() }
    }

    /// The same where the last coordinate is 1 in every row, which then have one number less.
    #[must_use]
    pub fn with_one(&self) -> Self {
        let last = self.inputs() - 1;
        let mut sketch = self.of(0..last);
        let (place, sign) = self.entry(last);
        sketch.shift[place] += sign;
        sketch
    }

    /// Where coordinate `i` goes, and its sign.
    pub fn entry(&self, i: usize) -> (usize, f32) {
        let run = self.runs.partition_point(|run| run.first <= i) - 1;
        let Run { first, to, .. } = self.runs[run];
        ((to + i - first) % self.outputs, self.signs[i])
    }

    /// What is added to every row, `[outputs]`.
    pub fn shift(&self) -> &[f32] {
        &self.shift
    }

    /// Its matrix, `[outputs, inputs]` row-major.
    pub fn to_matrix(&self) -> Vec<f32> {
        let mut matrix = vec![0.0; self.outputs * self.inputs()];
        for i in 0..self.inputs() {
            let (place, sign) = self.entry(i);
            matrix[place * self.inputs() + i] = sign;
        }
        matrix
    }

    /// `out [rows, outputs] = S x` of the first numbers of rows of `x [rows, stride]`; a row's bits are its own.
    ///
    /// # Panics
    /// Where there are fewer rows of x, or they are shorter.
    pub fn apply(&self, out: &mut [f32], x: &[f32], stride: usize) {
        let rows = out.len() / self.outputs.max(1);
        assert_eq!(out.len(), rows * self.outputs, "rows of another width");
        if rows > 0 {
            assert!(self.inputs() <= stride && x.len() >= (rows - 1) * stride + self.inputs(), "rows of other widths");
            Isa::best().run(Apply { sketch: self, out, x, stride });
        }
    }
}

struct Apply<'a> {
    sketch: &'a Sketch,
    out: &'a mut [f32],
    x: &'a [f32],
    stride: usize,
}

impl Kernel for Apply<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { sketch: Sketch { outputs, runs, signs, shift }, out, x, stride } = self;
        let outputs = *outputs;
        // What goes round the end lies behind it until a row is done.
        let room = outputs + LANES;
        let mut sums = vec![0.0; ROWS.min(out.len() / outputs) * room];
        for (tile, out) in out.chunks_mut(ROWS * outputs).enumerate() {
            let (x, rows) = (&x[tile * ROWS * stride..], out.len() / outputs);
            if tile > 0 {
                sums.fill(0.0);
            }
            for &Run { first, len, to } in runs {
                let signs = &signs[first..first + len];
                for row in 0..rows {
                    add::<V>(&mut sums[row * room + to..], &x[row * stride + first..], signs);
                }
            }
            for (out, sums) in out.chunks_exact_mut(outputs).zip(sums.chunks_exact_mut(room)) {
                let (kept, behind) = sums.split_at_mut(outputs);
                kept.iter_mut().zip(behind).for_each(|(sum, behind)| *sum += *behind);
                out.iter_mut().zip(kept).zip(shift).for_each(|((out, sum), shift)| *out = *sum + shift);
            }
        }
    }
}

/// `sums += x · signs`, a run of it.
#[inline(always)]
fn add<V: Vector>(sums: &mut [f32], x: &[f32], signs: &[f32]) {
    if let (Some(signs), Some(x)) = (signs.first_chunk(), x.first_chunk()) {
        let sums = sums.first_chunk_mut().expect("room for a run behind the last place");
        V::load(x).fma(V::load(signs), V::load(sums)).store(sums);
    } else {
        sums.iter_mut().zip(x).zip(signs).for_each(|((sum, x), sign)| *sum = x.mul_add(*sign, *sum));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, Stream, below, uniform};

    fn sketch(inputs: usize, outputs: usize, seed: u64) -> Sketch {
        let stream = Stream::new(seed, Purpose::Projection);
        Sketch::new(inputs, outputs, |run| {
            let words = stream.block([run as u32, 0, 0, 0]);
            (below(words[0], outputs as u32) as usize, words[1])
        })
    }

    fn rows(count: usize, seed: u32) -> Vec<f32> {
        let stream = Stream::new(9, Purpose::Chance);
        (0..count).map(|i| uniform(stream.block([i as u32, seed, 0, 0])[0]) - 0.5).collect()
    }

    #[test]
    fn a_row_is_the_matrix_times_it_whatever_its_neighbours() {
        for (inputs, outputs) in [(1, 1), (5, 3), (16, 16), (17, 16), (40, 7), (100, 33), (129, 40)] {
            let (sketch, x) = (sketch(inputs, outputs, 3), rows(35 * inputs, 1));
            let mut out = vec![0.0; 35 * outputs];
            sketch.apply(&mut out, &x, inputs);
            let matrix = sketch.to_matrix();
            for (row, out) in x.chunks_exact(inputs).zip(out.chunks_exact(outputs)) {
                for (place, &out) in out.iter().enumerate() {
                    let entries = matrix[place * inputs..][..inputs].iter().zip(row);
                    let exact: f64 = entries.map(|(p, x)| f64::from(*p) * f64::from(*x)).sum();
                    assert!((f64::from(out) - exact).abs() <= 1e-6 * inputs as f64, "{inputs} {outputs}");
                }
                let mut alone = vec![0.0; outputs];
                sketch.apply(&mut alone, row, inputs);
                assert_eq!(alone, out);
            }
            assert!((0..inputs).all(|i| matrix.iter().skip(i).step_by(inputs).filter(|p| **p != 0.0).count() == 1));
        }
    }

    #[test]
    fn parts_and_a_constant_one_are_of_the_same_matrix() {
        let (inputs, outputs) = (75, 18);
        let whole = sketch(inputs, outputs, 5);
        let matrix = whole.to_matrix();
        for (from, to) in [(0, 25), (25, 75), (16, 48), (3, 4)] {
            let part = whole.of(from..to).to_matrix();
            let expected: Vec<f32> = matrix.chunks_exact(inputs).flat_map(|row| &row[from..to]).copied().collect();
            assert_eq!(part, expected);
        }
        let x = rows(inputs - 1, 2);
        let (mut found, mut expected) = (vec![0.0; outputs], vec![0.0; outputs]);
        whole.with_one().apply(&mut found, &x, inputs - 1);
        whole.apply(&mut expected, &[x, vec![1.0]].concat(), inputs);
        found.iter().zip(&expected).for_each(|(a, b)| assert!((a - b).abs() < 1e-6, "{found:?} {expected:?}"));
    }

    #[test]
    fn the_identity_leaves_every_bit() {
        for width in [1, 7, 16, 50] {
            let x = rows(3 * width, 4);
            let mut out = vec![1.0; x.len()];
            Sketch::identity(width).apply(&mut out, &x, width);
            assert_eq!(out, x);
        }
    }

    /// The error of a product is that of a dense projection of as many numbers, or less: `√Σ_{i<j} (x_i y_j + x_j y_i)²
    /// / outputs`.
    #[test]
    fn products_vary_as_those_of_dense_projections_do() {
        let (inputs, outputs, draws) = (120, 20, 4000);
        let (x, y) = (rows(inputs, 5), rows(inputs, 6));
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let products = (0..draws).map(|seed| {
            let (mut a, mut b) = (vec![0.0; outputs], vec![0.0; outputs]);
            let sketch = sketch(inputs, outputs, seed);
            sketch.apply(&mut a, &x, inputs);
            sketch.apply(&mut b, &y, inputs);
            dot(&a, &b)
        });
        let products: Vec<f64> = products.collect();
        let n = draws as f64;
        let mean = products.iter().sum::<f64>() / n;
        let variance = products.iter().map(|p| (p - mean).powi(2)).sum::<f64>() / (n - 1.0);
        let pair = |i: usize, j: usize| (f64::from(x[i]) * f64::from(y[j]) + f64::from(x[j]) * f64::from(y[i])).powi(2);
        let sum = |keep: &dyn Fn(usize, usize) -> bool| -> f64 {
            let pairs = (0..inputs).flat_map(|i| (i + 1..inputs).map(move |j| (i, j)));
            pairs.filter(|&(i, j)| keep(i, j)).map(|(i, j)| pair(i, j)).sum()
        };
        let expected = sum(&|i, j| i / LANES != j / LANES) / outputs as f64;
        assert!(expected < sum(&|_, _| true) / outputs as f64);
        assert!((mean - dot(&x, &y)).abs() <= 5.0 * (variance / n).sqrt(), "{mean} {}", dot(&x, &y));
        // The variance of a variance over 4,000 draws is about √(2/4000) = 2 % for normal numbers, and a few times that
        // for these.
        assert!((variance / expected - 1.0).abs() < 0.2, "{variance} {expected}");
    }
}
