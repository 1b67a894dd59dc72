//! Numbers in whichever form they are stored.

use std::ops::Range;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::cpu::Int8Rows;

/// Stored numbers, as stored.
#[derive(Clone, Copy, Debug)]
pub enum Floats<'a> {
    /// 32-bit.
    F32(&'a [f32]),
    /// IEEE half precision.
    F16(&'a [f16]),
    /// bfloat16.
    Bf16(&'a [bf16]),
    /// Whole rows of integers that stand for them.
    Int8(Int8Rows<'a>),
}

impl Floats<'_> {
    /// Some of them: where they are integers, whole rows.
    #[must_use]
    pub fn slice(self, range: Range<usize>) -> Self {
        match self {
            Self::F32(values) => Self::F32(&values[range]),
            Self::F16(values) => Self::F16(&values[range]),
            Self::Bf16(values) => Self::Bf16(&values[range]),
            Self::Int8(rows) => Self::Int8(rows.slice(range)),
        }
    }

    /// How many numbers there are.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::F16(values) => values.len(),
            Self::Bf16(values) => values.len(),
            Self::Int8(rows) => rows.values.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them, as f32 (exact).
    pub fn to_f32(&self) -> Vec<f32> {
        match self {
            Self::F32(values) => values.to_vec(),
            Self::F16(values) => values.to_f32_vec(),
            Self::Bf16(values) => values.to_f32_vec(),
            Self::Int8(rows) => rows.to_f32(),
        }
    }

    /// The `out.len()` numbers from number `start` on, as f32 (exact): where they are integers, whole rows.
    pub fn decode_f32(&self, start: usize, out: &mut [f32]) {
        match self.slice(start..start + out.len()) {
            Self::F32(values) => out.copy_from_slice(values),
            Self::F16(values) => values.convert_to_f32_slice(out),
            Self::Bf16(values) => values.convert_to_f32_slice(out),
            Self::Int8(rows) => rows.decode(out),
        }
    }

    /// The same as f64.
    pub fn decode(&self, start: usize, out: &mut [f64]) {
        let end = start + out.len();
        match self {
            Self::F32(values) => widen(out, &values[start..end], f64::from),
            Self::F16(values) => widen(out, &values[start..end], f16::to_f64),
            Self::Bf16(values) => widen(out, &values[start..end], bf16::to_f64),
            Self::Int8(rows) => widen(out, &rows.slice(start..end).to_f32(), f64::from),
        }
    }
}

fn widen<T: Copy>(out: &mut [f64], values: &[T], exact: impl Fn(T) -> f64) {
    for (out, &value) in out.iter_mut().zip(values) {
        *out = exact(value);
    }
}
