//! From features and logits to factors, and what the rules need beyond them: refits of the head and its curvature.
//!
//! A record's factors are `h` (`features`, width E, the input of the last linear layer) and `δ` (`deltas`, width K, the gradient of its
//! loss with respect to the logits); the gradient of its loss with respect to the last layer's `[W; b]` is `δ [h; 1]ᵀ`.

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
