//! Representer points (Yeh et al. 2018, "Representer point selection for explaining deep neural networks"): at the
//! optimum of the refitted head, `[W; b] = Σ_i α_i h̃_iᵀ` with `α_i = −δ_i / (λ N)`, so that every logit is a sum of
//! one value a training record, `α_i[c] (h_q · h_i + 1)`.

use super::block::{Blocks, KeepGoing};
use super::dense::slice;
use super::objective::{Objective, RefitTargets};
use super::refit::{Refit, RefitOptions, minimise};
use super::source::FactorSource;
use crate::error::Result;

/// What the representer rule needs beyond features.
#[derive(Clone, Debug, PartialEq)]
pub struct Representer {
    /// `α [N, K]`, rows in the source's order.
    pub alpha: Vec<f32>,
    /// s of `α_i[c] (h_q · h_i + s)`: 1, or 0 where TrustAI's scores are asked for.
    pub bias_coordinate: f32,
    /// The refit that α comes from.
    pub refit: Refit,
}

/// Whose definition of the score is followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RepresenterCompat {
    /// The values of all records add up to the refit's logits.
    #[default]
    Exact,
    /// TrustAI's: fitted to the model's own probabilities, and scored without the bias coordinate that it was fitted
    /// with.
    TrustAi,
}

/// Refits the head and reads α off it. `compat` of [`RepresenterCompat::TrustAi`] overrides the targets.
///
/// # Errors
/// As [`super::refit`].
pub fn representer(
    source: &dyn FactorSource,
    options: &RefitOptions,
    compat: RepresenterCompat,
    keep_going: KeepGoing<'_>,
) -> Result<Representer> {
    let (targets, bias_coordinate) = match compat {
        RepresenterCompat::Exact => (options.targets, 1.0),
        RepresenterCompat::TrustAi => (RefitTargets::Soft, 0.0),
    };
    let blocks = Blocks::new(source, keep_going)?;
    let minimum = minimise(&blocks, &RefitOptions { targets, ..*options })?;
    let objective = Objective { blocks: &blocks, targets, penalty: options.penalty };
    let scale = -1.0 / (options.penalty * blocks.rows() as f64);
    let mut alpha = Vec::with_capacity(blocks.rows() * blocks.classes());
    blocks.fold(
        |block| {
            let (_, deltas) = objective.deltas(block, &minimum.parameters);
            let rows = (0..block.rows).flat_map(|r| slice(&deltas, r));
            rows.map(|delta| (scale * delta) as f32).collect::<Vec<_>>()
        },
        |part| alpha.extend(part),
    )?;
    Ok(Representer { alpha, bias_coordinate, refit: minimum.into_refit() })
}
