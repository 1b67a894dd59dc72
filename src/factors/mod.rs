//! From features and logits to factors, and what the rules need beyond them: refits of the head and its curvature.
//!
//! A record's factors are `h` (`features`, width E, the input of the last linear layer) and `δ` (`deltas`, width K, the gradient of its
//! loss with respect to the logits); the gradient of its loss with respect to the last layer's `[W; b]` is `δ [h; 1]ᵀ`.

mod answers;
mod block;
mod bundle;
mod cg;
mod curvature;
mod dense;
mod fisher;
mod folds;
mod gram;
mod head;
mod hessian;
mod int8;
mod kernel;
mod kronecker;
mod loss;
mod margin;
mod objective;
mod pairs;
mod projected;
mod refit;
mod representer;
mod scan_copy;
mod source;
mod target;

pub use crate::backend::cpu::Int8Rows;
pub use answers::{AnswerRepresenter, AnswerWindow, answer_representer};
pub use block::KeepGoing;
pub(crate) use block::ROWS as BLOCK_ROWS;
pub(crate) use bundle::bundle_norm;
pub use bundle::{Bundle, mean_features};
pub use curvature::{Curvature, CurvatureOptions, HessianForm, Preconditioned, QueryFactors};
pub use fisher::{FisherForm, FisherLabels, LayerFisher, fisher_gradient};
pub use folds::{FoldsOf, refit_without};
pub use head::Head;
pub use int8::Int8;
pub use kernel::FactorKernel;
pub(crate) use kernel::MOST_PIECES;
pub use loss::{loss_and_delta, predict, probabilities};
pub use margin::output_gradient;
pub use objective::RefitTargets;
pub use pairs::{Product, product, product_with};
pub use projected::{DampedMoment, Deletion, Draws, Interval, MomentForm, MomentOptions, Shares, Spread, Weighting};
pub use refit::{CHOLESKY_LIMIT, Refit, RefitOptions, refit, refit_from};
pub use representer::{Representer, RepresenterCompat, representer};
pub(crate) use scan_copy::{Held, residuals};
pub use scan_copy::{ScanCopy, ScanRows, ScanType};
pub use source::{FactorSource, InMemory, LabelUsed, LabelVec, LabelledRows, Labels};
pub use target::Target;

use std::ops::Range;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

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

/// The factors of some consecutive records, row-major, borrowed from wherever they are kept (a mapped shard, a buffer).
#[derive(Clone, Copy, Debug)]
pub struct FactorRows<'a> {
    /// Number of records n.
    pub rows: usize,
    /// E.
    pub width: usize,
    /// K (0 for headless models, whose only rules are the feature rules).
    pub classes: usize,
    /// `[n, E]`
    pub features: Floats<'a>,
    /// `[n, K]`
    pub deltas: &'a [f32],
    /// `‖h‖`, `[n]`
    pub feature_norms: &'a [f32],
    /// `‖δ‖`, `[n]`
    pub delta_norms: &'a [f32],
}
