//! The closed set of score forms that every rule reduces to.
//!
//! ```text
//! score = finish( Σ_t rate_t · weight_t · (h_q,t · h_i,t + s_t),  norm_q · norm_i )
//! ```
//!
//! A form says which factors each term t reads, what stands for a record's δ, and what the sum is divided by; a
//! [`Query`] brings its own side of each term. [`super::score`] is the definition, operation by operation.

use super::pair::{gradient_norm, unit_columns};
use super::query::{Query, Term, Weight};
use super::scorer::Scorer;
use super::source::FactorSet;
use crate::backend::cpu::dot;

/// A rule made ready to score with: see the [table](super#rules) for which form a rule takes.
#[derive(Clone, Debug)]
pub struct Form<'a> {
    pub(super) measure: Measure,
    /// The factor sets that are read, each once.
    pub(super) sets: Vec<FactorSet>,
    pub(super) passes: Vec<Pass>,
    pub(super) deltas: Deltas<'a>,
    pub(super) norm: RowNorm<'a>,
    /// What gives the scores, where they are not made of factors.
    pub(super) scorer: Option<&'a dyn Scorer>,
}

/// What compares two feature vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Measure {
    Product,
    /// Minus the Euclidean distance, which is the whole score.
    Distance,
}

/// One term's side of the form.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pass {
    /// Position in [`Form::sets`].
    pub(super) set: usize,
    pub(super) rate: f32,
}

/// What stands for a record's δ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Deltas<'a> {
    /// Nothing: δ is not read.
    Unread,
    /// Its own.
    Stored,
    /// Its own, scaled to unit length.
    Unit,
    /// Its own, over the length of the record's whole gradient.
    Scaled,
    /// These, `[N, K]`.
    Given(&'a [f32]),
}

/// The record's part of what a sum is divided by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum RowNorm<'a> {
    /// Nothing is divided.
    One,
    /// `‖h‖`
    Feature,
    /// `√(‖h‖² + 1)`, the length of `[h; 1]`.
    Gradient,
    /// These, `[N]`; the query's is 1.
    Given(&'a [f32]),
}

impl<'a> Form<'a> {
    fn single(measure: Measure, deltas: Deltas<'a>, norm: RowNorm<'a>) -> Self {
        let passes = vec![Pass { set: 0, rate: 1.0 }];
        Self { measure, sets: vec![FactorSet::Final], passes, deltas, norm, scorer: None }
    }

    /// `h_q·h_i`, of [`Query::feature`].
    pub fn feature_dot() -> Self {
        Self::single(Measure::Product, Deltas::Unread, RowNorm::One)
    }

    /// `h_q·h_i / (‖h_q‖ ‖h_i‖)`, of [`Query::feature`].
    pub fn feature_cos() -> Self {
        Self::single(Measure::Product, Deltas::Unread, RowNorm::Feature)
    }

    /// `−‖h_q − h_i‖`, of [`Query::feature`].
    pub fn feature_euc() -> Self {
        Self::single(Measure::Distance, Deltas::Unread, RowNorm::One)
    }

    /// `(δ_q·δ_i)(h_q·h_i + s)`, of [`Query::gradient`] or [`Query::transformed`].
    pub fn grad_dot() -> Self {
        Self::single(Measure::Product, Deltas::Stored, RowNorm::One)
    }

    /// `(δ_q·δ_i)(h_q·h_i + 1) / (‖δ_q‖ ‖δ_i‖ √(‖h_q‖² + 1) √(‖h_i‖² + 1))`, of [`Query::gradient`].
    pub fn grad_cos() -> Self {
        Self::single(Measure::Product, Deltas::Unit, RowNorm::Gradient)
    }

    /// The cosine of two gradients of several factors: `Σ (δ_q·δ_i)(h_q·h_i + s_q s_i)` over all pairs of them, over
    /// the gradients' lengths. The query brings δ over its own length: [`Query::bundles`] of
    /// [`crate::factors::Bundle::to_unit`].
    pub fn bundle_cos() -> Self {
        Self::single(Measure::Product, Deltas::Scaled, RowNorm::One)
    }

    /// This form over each record's one vector, where records have several factors.
    #[must_use]
    pub fn over_means(self) -> Self {
        Self { sets: vec![FactorSet::Mean], ..self }
    }

    /// This form for queries of several terms a pass: as many of each as [`Query::bundles`] has.
    #[must_use]
    pub fn of_terms(self, counts: &[usize]) -> Self {
        let passes = self.passes.iter().zip(counts).flat_map(|(&pass, &count)| std::iter::repeat_n(pass, count));
        Self { passes: passes.collect(), ..self }
    }

    /// `α_i[c] (h_q·h_i + s)`, of [`Query::class`], for `alphas [N, K]` in the source's order.
    pub fn representer(alphas: &'a [f32]) -> Self {
        Self::single(Measure::Product, Deltas::Given(alphas), RowNorm::One)
    }

    /// `Σ_c rates[c] (δ_q,c·δ_i,c)(h_q,c·h_i,c + 1)` over the source's checkpoints, of [`Query::checkpoints`].
    pub fn tracin(rates: &[f32]) -> Self {
        Self {
            sets: (0..rates.len()).map(FactorSet::Checkpoint).collect(),
            passes: rates.iter().enumerate().map(|(set, &rate)| Pass { set, rate }).collect(),
            ..Self::grad_dot()
        }
    }

    /// `Σ_m weights[i]/M (h_q,m·h_i,m)` over the model and `checkpoints` of its training, of [`Query::members`], for
    /// `weights [N]` in the source's order: an ensemble's mean score. The source's δ are one number each.
    pub fn ensemble(checkpoints: usize, weights: &'a [f32]) -> Self {
        let sets: Vec<FactorSet> =
            std::iter::once(FactorSet::Final).chain((0..checkpoints).map(FactorSet::Checkpoint)).collect();
        let rate = 1.0 / sets.len() as f32;
        let passes = (0..sets.len()).map(|set| Pass { set, rate }).collect();
        Self { sets, passes, ..Self::representer(weights) }
    }

    /// `Σ_k δ_i[k] (V_k·h_i + v_k)` over `classes` = K rows of [`Query::bilinear`]: the dot product of `[V v]` with the
    /// gradient of i.
    pub fn bilinear(classes: usize) -> Self {
        Self { passes: vec![Pass { set: 0, rate: 1.0 }; classes], ..Self::grad_dot() }
    }

    /// What `scorer` says, of [`Query::numbered`]: no factors are read.
    pub fn scored(scorer: &'a dyn Scorer) -> Self {
        let (sets, passes) = (Vec::new(), Vec::new());
        Self { scorer: Some(scorer), sets, passes, ..Self::feature_dot() }
    }

    /// This form over each record's own `norms [N]`, in the source's order; a record whose norm is 0 scores 0.
    #[must_use]
    pub fn over(self, norms: &'a [f32]) -> Self {
        Self { norm: RowNorm::Given(norms), ..self }
    }

    /// Whether the score of i for j is that of j for i, to the bit, where both are records under one model: each
    /// operation takes its operands in either order.
    pub(super) fn is_symmetric(&self) -> bool {
        let own = matches!(self.deltas, Deltas::Unread | Deltas::Stored | Deltas::Unit);
        own && !matches!(self.norm, RowNorm::Given(_)) && self.passes.len() == 1 && self.scorer.is_none()
    }

    /// The query's side, made ready: δ scaled to unit length where records' are, and the query's part of the divisor.
    pub(super) fn prepare(&self, query: &Query) -> Prepared {
        let mut terms = query.terms.clone();
        if self.deltas == Deltas::Unit {
            for term in &mut terms {
                if let Weight::Delta(delta) = &mut term.weight {
                    unit_columns(delta, 1);
                }
            }
        }
        Prepared { terms, norm: self.norm_of(query), number: query.number }
    }

    /// The query's part of what sums are divided by.
    pub(super) fn norm_of(&self, query: &Query) -> f32 {
        match self.norm {
            RowNorm::One | RowNorm::Given(_) => 1.0,
            RowNorm::Feature => norm(&query.terms[0].features),
            RowNorm::Gradient => gradient_norm(norm(&query.terms[0].features)),
        }
    }
}

/// A query made ready for one form.
pub(super) struct Prepared {
    pub(super) terms: Vec<Term>,
    pub(super) norm: f32,
    pub(super) number: usize,
}

/// `‖h‖`, as stores hold it.
fn norm(h: &[f32]) -> f32 {
    dot(h, h).sqrt()
}
