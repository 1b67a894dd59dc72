//! Copies of features in fewer bits, for scans that find candidates, each row with a bound on how far it is from what it stands for.

use std::ops::Range;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use serde::{Deserialize, Serialize};

use crate::backend::cpu::simd::{Isa, Kernel, Vector};

/// How a scan copy is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScanType {
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
    /// Integers from −127 to 127, times a scale of each row's own, around the rows' mean.
    Int8,
}

/// The rows of a scan copy, borrowed.
#[derive(Clone, Copy, Debug)]
pub struct ScanRows<'a> {
    /// `x̂ [n, E]`
    pub values: ScanValues<'a>,
    /// At least `‖x − x̂‖`, `[n]`.
    pub residuals: &'a [f32],
}

/// The numbers of a scan copy.
#[derive(Clone, Copy, Debug)]
pub enum ScanValues<'a> {
    /// `[n, E]`
    F16(&'a [f16]),
    /// `[n, E]`
    Bf16(&'a [bf16]),
    /// See [`Int8Rows`].
    Int8(Int8Rows<'a>),
}

/// x̂ is `fma(value, scale of its row, number of the center)`, in f32: what features have in common costs none of the 8 bits.
#[derive(Clone, Copy, Debug)]
pub struct Int8Rows<'a> {
    /// `[n, E]`
    pub values: &'a [i8],
    /// `[n]`
    pub scales: &'a [f32],
    /// `[E]`
    pub center: &'a [f32],
}

impl ScanRows<'_> {
    /// x̂ of `rows`, in f32, into `out [rows, width]`.
    pub fn decode(&self, rows: Range<usize>, width: usize, out: &mut [f32]) {
        let numbers = rows.start * width..rows.end * width;
        match self.values {
            ScanValues::F16(values) => values[numbers].convert_to_f32_slice(out),
            ScanValues::Bf16(values) => values[numbers].convert_to_f32_slice(out),
            ScanValues::Int8(Int8Rows { values, scales, center }) => {
                Isa::best().run(Scaled { values: &values[numbers], scales: &scales[rows], center, width, out });
            }
        }
    }
}

/// A scan copy in memory.
#[derive(Clone, Debug)]
pub struct ScanCopy {
    values: Owned,
    residuals: Vec<f32>,
}

#[derive(Clone, Debug)]
enum Owned {
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
    Int8 { values: Vec<i8>, scales: Vec<f32>, center: Vec<f32> },
}

impl ScanCopy {
    /// Of `features [n, width]`. A row that does not fit the type (f16 ends at 65,504) is held as zeros (int8: as the center), as far from
    /// itself as it is from those.
    pub fn new(kind: ScanType, features: &[f32], width: usize) -> Self {
        let mut values = match kind {
            ScanType::F16 => Owned::F16(features.iter().map(|&x| f16::from_f32(x)).collect()),
            ScanType::Bf16 => Owned::Bf16(features.iter().map(|&x| bf16::from_f32(x)).collect()),
            ScanType::Int8 => quantize(features, width),
        };
        let mut decoded = vec![0.0; width];
        let mut residuals = Vec::with_capacity(features.len() / width.max(1));
        for (row, x) in features.chunks_exact(width.max(1)).enumerate() {
            values.rows().decode(row..row + 1, width, &mut decoded);
            if !decoded.iter().all(|value| value.is_finite()) {
                values.clear(row, width);
                values.rows().decode(row..row + 1, width, &mut decoded);
            }
            residuals.push(distance(x, &decoded));
        }
        Self { values, residuals }
    }

    /// All rows.
    pub fn rows(&self) -> ScanRows<'_> {
        ScanRows { residuals: &self.residuals, ..self.values.rows() }
    }
}

impl Owned {
    fn rows(&self) -> ScanRows<'_> {
        let values = match self {
            Self::F16(values) => ScanValues::F16(values),
            Self::Bf16(values) => ScanValues::Bf16(values),
            Self::Int8 { values, scales, center } => ScanValues::Int8(Int8Rows { values, scales, center }),
        };
        ScanRows { values, residuals: &[] }
    }

    /// Holds row `row` as nothing.
    fn clear(&mut self, row: usize, width: usize) {
        let numbers = row * width..(row + 1) * width;
        match self {
            Self::F16(values) => values[numbers].fill(f16::ZERO),
            Self::Bf16(values) => values[numbers].fill(bf16::ZERO),
            Self::Int8 { values, scales, .. } => {
                values[numbers].fill(0);
                scales[row] = 0.0;
            }
        }
    }
}

/// Each row, less the center, by a scale that takes its largest magnitude to 127.
fn quantize(features: &[f32], width: usize) -> Owned {
    let center = center(features, width);
    let from_center = |row: &[f32], j: usize| row[j] - center[j];
    let largest = |row: &[f32]| (0..width).fold(0.0_f32, |most, j| most.max(from_center(row, j).abs()));
    let scales: Vec<f32> = features.chunks_exact(width.max(1)).map(|row| largest(row) / 127.0).collect();
    let mut values = Vec::with_capacity(features.len());
    for (row, scale) in features.chunks_exact(width.max(1)).zip(&scales) {
        // A float to an integer saturates, and 0/0 is taken to 0: whatever comes out, the residual is measured from it.
        values.extend((0..width).map(|j| (from_center(row, j) / scale).round() as i8));
    }
    Owned::Int8 { values, scales, center }
}

/// The rows' mean, summed in f64 in their order. Rows of other magnitudes than most would draw it away from those: it is the mean of
/// directions times the median length.
fn center(features: &[f32], width: usize) -> Vec<f32> {
    let mut sums = vec![0.0_f64; width];
    let mut lengths: Vec<f64> = Vec::new();
    for row in features.chunks_exact(width.max(1)) {
        let length = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        if length > 0.0 {
            lengths.push(length);
            sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x) / length);
        }
    }
    lengths.sort_by(f64::total_cmp);
    let scale = lengths.get(lengths.len() / 2).map_or(0.0, |median| median / lengths.len() as f64);
    sums.into_iter().map(|sum| (sum * scale) as f32).collect()
}

/// At least `‖x − x̂‖` of each row of `features [n, width]` and what is `stored` of it.
pub(crate) fn residuals(features: &[f32], stored: &[f32], width: usize) -> Vec<f32> {
    let rows = features.chunks_exact(width.max(1)).zip(stored.chunks_exact(width.max(1)));
    rows.map(|(x, y)| distance(x, y)).collect()
}

/// `‖x − y‖`, rounded up: f64 is off by less than the last factor allows for.
fn distance(x: &[f32], y: &[f32]) -> f32 {
    let square = |(x, y): (&f32, &f32)| (f64::from(*x) - f64::from(*y)).powi(2);
    let exact = x.iter().zip(y).map(square).sum::<f64>().sqrt() * (1.0 + 1e-9);
    let rounded = exact as f32;
    if f64::from(rounded) < exact { rounded.next_up() } else { rounded }
}

/// Integers times their row's scale, from the center.
struct Scaled<'a> {
    values: &'a [i8],
    scales: &'a [f32],
    center: &'a [f32],
    width: usize,
    out: &'a mut [f32],
}

impl Kernel for Scaled<'_> {
    type Output = ();

    /// A plain loop, which compiles to the vectors of the instruction set it is inlined into.
    #[allow(clippy::inline_always)]
    #[inline(always)]
    fn run<V: Vector>(self) {
        let rows = self.values.chunks_exact(self.width).zip(self.out.chunks_exact_mut(self.width));
        for ((values, out), &scale) in rows.zip(self.scales) {
            for ((out, &value), &center) in out.iter_mut().zip(values).zip(self.center) {
                *out = f32::from(value).mul_add(scale, center);
            }
        }
    }
}
