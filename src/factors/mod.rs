//! From features and logits to factors, and what the rules need beyond them: refits of the head and its curvature.
//!
//! A record's factors are `h` (`features`, width E, the input of the last linear layer) and `δ` (`deltas`, width K, the
//! gradient of its loss with respect to the logits); the gradient of its loss with respect to the last layer's `[W; b]`
//! is `δ [h; 1]ᵀ`.

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

pub use crate::backend::Floats;
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
