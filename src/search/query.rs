//! What is asked: the query's side of a score.

use crate::factors::Bundle;

/// How much each training record's factor weighs, as a function of its δ.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Weight {
    /// 1 (feature rules).
    One,
    /// `δ_q·δ_i`, for this δ_q `[K]`.
    Delta(Vec<f32>),
    /// `δ_i[c]`.
    Class(usize),
}

/// One term of a score, `weight (h_q·h_i + bias)`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Term {
    /// h_q `[E]`
    pub(super) features: Vec<f32>,
    /// s, the query's coordinate against the constant 1 that the bias multiplies.
    pub(super) bias: f32,
    pub(super) weight: Weight,
}

/// A query: what [`super::Form`] scores training records against. Each constructor says which forms it belongs to;
/// another form refuses it.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    pub(super) terms: Vec<Term>,
    /// Which of a scorer's queries it is.
    pub(super) number: usize,
    /// Whether it was made from the source's own features.
    pub(super) of_source: bool,
}

impl Query {
    /// Features `h [E]`, for [`super::Form::feature_dot`], [`super::Form::feature_cos`] and
    /// [`super::Form::feature_euc`].
    pub fn feature(h: Vec<f32>) -> Self {
        Self::one(h, 0.0, Weight::One)
    }

    /// The gradient `δ [h; 1]ᵀ` of the query's loss, `h [E]`, `δ [K]`, for [`super::Form::grad_dot`] and
    /// [`super::Form::grad_cos`].
    pub fn gradient(h: Vec<f32>, delta: Vec<f32>) -> Self {
        Self::transformed(h, 1.0, delta)
    }

    /// A rank-one `δ' [h'; s']ᵀ` in place of a gradient, such as one preconditioned by a Kronecker-factored curvature.
    pub fn transformed(h: Vec<f32>, bias: f32, delta: Vec<f32>) -> Self {
        Self::one(h, bias, Weight::Delta(delta))
    }

    /// The logit of class `class`, for [`super::Form::representer`]: `bias` is 1 where the refit's bias counts, 0 to
    /// leave it out.
    pub fn class(h: Vec<f32>, bias: f32, class: usize) -> Self {
        Self::one(h, bias, Weight::Class(class))
    }

    /// The query's `(h [E], δ [K])` under each checkpoint, in their order, for [`super::Form::tracin`].
    pub fn checkpoints(factors: Vec<(Vec<f32>, Vec<f32>)>) -> Self {
        let term = |(features, delta)| Term { features, bias: 1.0, weight: Weight::Delta(delta) };
        Self { terms: factors.into_iter().map(term).collect(), number: 0, of_source: false }
    }

    /// The query's `(φ [E], δ [1])` for each member of [`super::Form::ensemble`], or each checkpoint of
    /// [`super::Form::tracin`] over gradients that have their bias in them.
    pub fn members(factors: Vec<(Vec<f32>, Vec<f32>)>) -> Self {
        let term = |(features, delta)| Term { features, bias: 0.0, weight: Weight::Delta(delta) };
        Self { terms: factors.into_iter().map(term).collect(), number: 0, of_source: false }
    }

    /// A whole matrix `V [K, E + 1]`, row-major, the bias's column last, such as `(H + λI)⁻¹ g_q`: for
    /// [`super::Form::bilinear`]. `width` is E.
    pub fn bilinear(v: &[f32], width: usize) -> Self {
        let term = |(class, row): (usize, &[f32])| Term {
            features: row[..width].to_vec(),
            bias: row[width],
            weight: Weight::Class(class),
        };
        Self { terms: v.chunks_exact(width + 1).enumerate().map(term).collect(), number: 0, of_source: false }
    }

    /// Gradients of several factors each: of every query its bundle in each set of the form ([`super::Form::grad_dot`]
    /// and [`super::Form::bundle_cos`] have one, [`super::Form::tracin`] one a checkpoint). With how many terms there
    /// are a set, for
    /// [`super::Form::of_terms`]: a bundle of more factors than classes asks by its whole gradient, a term a class.
    ///
    /// # Panics
    /// Where queries have different numbers of bundles, or a bundle has no classes.
    pub fn bundles(queries: &[Vec<Bundle>]) -> (Vec<Self>, Vec<usize>) {
        let mut terms: Vec<Vec<Vec<Term>>> =
            queries.iter().map(|bundles| bundles.iter().map(terms_of).collect()).collect();
        let sets = terms.first().map_or(0, Vec::len);
        let most = |set: usize| terms.iter().map(|terms| terms[set].len()).max().unwrap_or_default();
        let counts: Vec<usize> = (0..sets).map(most).collect();
        for (bundles, terms) in queries.iter().zip(&mut terms) {
            for ((bundle, terms), &count) in bundles.iter().zip(terms).zip(&counts) {
                // Adds nothing, to the bit.
                let width = bundle.width();
                terms.resize_with(count, || Term { features: vec![0.0; width], bias: 0.0, weight: Weight::Class(0) });
            }
        }
        let query =
            |terms: Vec<Vec<Term>>| Self { terms: terms.into_iter().flatten().collect(), number: 0, of_source: false };
        (terms.into_iter().map(query).collect(), counts)
    }

    /// The logits of class `class` at several tokens, `rows [n, E]`, added up: for [`super::Form::representer`].
    /// `count` is how many terms queries that are asked together have ([`super::Form::of_terms`]).
    pub fn classes(rows: &[(Vec<f32>, usize)], bias: f32, count: usize) -> Self {
        let width = rows.first().map_or(0, |(h, _)| h.len());
        let term = |(features, class): &(Vec<f32>, usize)| Term {
            features: features.clone(),
            bias,
            weight: Weight::Class(*class),
        };
        let mut terms: Vec<Term> = rows.iter().map(term).collect();
        terms.resize_with(count, || Term { features: vec![0.0; width], bias: 0.0, weight: Weight::Class(0) });
        Self { terms, number: 0, of_source: false }
    }

    /// The same query, known to be made from the features of the source that it asks, such as a record of its own, or a
    /// gradient preconditioned by its curvature: where those were rounded it would have been another, and
    /// [`super::Hits::certificate`] tells nothing of rounding.
    #[must_use]
    pub fn of_source(self) -> Self {
        Self { of_source: true, ..self }
    }

    /// Query number `number` of the scorer of a [`super::Form::scored`].
    pub fn numbered(number: usize) -> Self {
        Self { terms: Vec::new(), number, of_source: false }
    }

    fn one(features: Vec<f32>, bias: f32, weight: Weight) -> Self {
        Self { terms: vec![Term { features, bias, weight }], number: 0, of_source: false }
    }
}

/// A term a factor, or a class, whichever are fewer.
fn terms_of(bundle: &Bundle) -> Vec<Term> {
    let (width, classes) = (bundle.width(), bundle.outputs());
    if bundle.len() <= classes {
        let factors = bundle.features.chunks_exact(width).zip(bundle.deltas.chunks_exact(classes)).zip(&bundle.biases);
        let term = |((h, delta), &bias): ((&[f32], &[f32]), &f32)| Term {
            features: h.to_vec(),
            bias,
            weight: Weight::Delta(delta.to_vec()),
        };
        return factors.map(term).collect();
    }
    let gradient: Vec<f32> = bundle.gradient().into_iter().map(|g| g as f32).collect();
    Query::bilinear(&gradient, width).terms
}
