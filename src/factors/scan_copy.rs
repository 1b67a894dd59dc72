//! Copies of features in fewer bits, for scans that find candidates, each row with a bound on how far it is from what
//! it stands for.

use std::ops::Range;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use serde::{Deserialize, Serialize};

use super::{Floats, Int8};

/// How a scan copy is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScanType {
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
    /// Integers from −127 to 127, times a scale of each row's own, from a share of a center: see [`super::Int8Rows`].
    Int8,
}

/// The rows of a scan copy, borrowed.
#[derive(Clone, Copy, Debug)]
pub struct ScanRows<'a> {
    /// `x̂ [n, E]`
    pub values: Floats<'a>,
    /// At least `‖x − x̂‖`, `[n]`.
    pub residuals: &'a [f32],
}

/// A scan copy in memory.
#[derive(Clone, Debug)]
pub struct ScanCopy {
    values: Held,
    residuals: Vec<f32>,
}

impl ScanCopy {
    /// Of `features [n, width]`. A row that does not fit the type (f16 ends at 65,504) is held as zeros, as far from
    /// itself as it is from those.
    pub fn new(kind: ScanType, features: &[f32], width: usize) -> Self {
        let mut values = Held::new(kind, features, width, None);
        let mut decoded = vec![0.0; width];
        let mut residuals = Vec::with_capacity(features.len() / width.max(1));
        for (row, x) in features.chunks_exact(width.max(1)).enumerate() {
            values.floats().decode_f32(row * width, &mut decoded);
            if !decoded.iter().all(|value| value.is_finite()) {
                decoded.fill(0.0);
                values.clear(row * width..(row + 1) * width);
            }
            residuals.push(distance(x, &decoded));
        }
        Self { values, residuals }
    }

    /// All rows.
    pub fn rows(&self) -> ScanRows<'_> {
        ScanRows { values: self.values.floats(), residuals: &self.residuals }
    }
}

/// Features in fewer bits.
#[derive(Clone, Debug)]
pub(crate) enum Held {
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
    Int8(Int8),
}

impl Held {
    /// `features [n, width]`, of which those in `before` are held already, where they are integers.
    pub(crate) fn new(kind: ScanType, features: &[f32], width: usize, before: Option<&Int8>) -> Self {
        match kind {
            ScanType::F16 => {
                let mut rounded = vec![f16::ZERO; features.len()];
                rounded.convert_from_f32_slice(features);
                Self::F16(rounded)
            }
            ScanType::Bf16 => {
                let mut rounded = vec![bf16::ZERO; features.len()];
                rounded.convert_from_f32_slice(features);
                Self::Bf16(rounded)
            }
            ScanType::Int8 => {
                let mut rows = before.cloned().unwrap_or_else(|| Int8::new(width));
                rows.extend(&features[rows.rows().values.len()..]);
                Self::Int8(rows)
            }
        }
    }

    pub(crate) fn floats(&self) -> Floats<'_> {
        match self {
            Self::F16(values) => Floats::F16(values),
            Self::Bf16(values) => Floats::Bf16(values),
            Self::Int8(rows) => Floats::Int8(rows.rows()),
        }
    }

    /// Holds these as zeros; integers have seen to that themselves.
    fn clear(&mut self, numbers: Range<usize>) {
        match self {
            Self::F16(values) => values[numbers].fill(f16::ZERO),
            Self::Bf16(values) => values[numbers].fill(bf16::ZERO),
            Self::Int8(_) => {}
        }
    }
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
