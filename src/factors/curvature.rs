//! What the influence rules put between two gradients: `(H + λI)⁻¹`, H the Hessian of the last layer's mean loss at the
//! model's own head.
//!
//! `score = g_qᵀ (H + λI)⁻¹ g_i`, positive where removing i raises q's loss, by score / N to first order (Koh and Liang
//! 2017, "Understanding black-box predictions via influence functions"). A query is preconditioned once, then meets
//! every training record by a dot product.
//!
//! Of boundaries of answers ([`super::Bundle`]) H would be `(1/F) Σ_f Cov_p(h)`, over all tokens of each window, and a
//! store keeps `h_f = Σ_t δ_t h_t` alone. In its place stands the empirical Fisher information of the same factors,
//!
//! ```text
//! F̂ = (1/F) Σ_f g_f g_fᵀ,   g_f = e_k h_fᵀ, the gradient of one boundary's loss
//! ```
//!
//! whose expectation is H where answers are as likely as the model says they are; of a model that has learnt its
//! answers by heart it is too small (Kunstner, Balles and Hennig 2019, "Limitations of the empirical Fisher
//! approximation"), and λ counts for more. `score / F` is exactly how q's loss changes with a damped natural-gradient
//! step that takes i's gradient back; it is the effect of leaving i out as far as F̂ is H.

use std::sync::Arc;

use faer::Mat;
use rayon::prelude::*;

use super::block::{Block, Blocks, KeepGoing, WAVE};
use super::bundle::Bundle;
use super::cg::{self, Stop, System};
use super::dense::{inner, slice};
use super::hessian::FactoredHessian;
use super::kronecker::{Eigen, Kronecker, Output, input_factor};
use super::objective::Point;
use super::refit::{CHOLESKY_LIMIT, check_positive};
use super::source::FactorSource;
use crate::error::{Error, Result};

/// Which curvature stands between two gradients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HessianForm {
    /// The Hessian itself: by Cholesky where the head is small, else by conjugate gradients.
    #[default]
    Exact,
    /// Its Kronecker form: no limit on the number of classes, and for two of them (and regressions) as cheap to search
    /// by as grad-dot.
    Kronecker,
    /// The Kronecker form's eigenvectors with their own eigenvalues (EK-FAC): of a whole network's gradients alone.
    Corrected,
    /// What projected gradients say of it, a layer at a time: of a whole network's alone.
    Layers,
    /// The same in Shampoo's eigenvectors: of a whole network's gradients alone.
    Shampoo,
}

/// How curvature is taken and inverted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CurvatureOptions {
    /// Which curvature.
    pub form: HessianForm,
    /// λ
    pub damping: f64,
    /// The most parameters, K (E + 1), for a Cholesky factorisation.
    pub cholesky_limit: usize,
    /// Beyond that: conjugate gradients stop at `‖g − (H + λI) v‖ ≤ residual · ‖g‖`.
    pub residual: f64,
    /// Conjugate gradients' steps after which the query is refused.
    pub iterations: usize,
}

impl Default for CurvatureOptions {
    fn default() -> Self {
        Self {
            form: HessianForm::Exact,
            damping: 0.01,
            cholesky_limit: CHOLESKY_LIMIT,
            residual: 1e-8,
            iterations: 2000,
        }
    }
}

/// A query's gradient, as its factors: `δ [K]` and `h [E]`.
#[derive(Clone, Copy, Debug)]
pub struct QueryFactors<'a> {
    /// δ
    pub delta: &'a [f32],
    /// h
    pub features: &'a [f32],
}

/// `(H + λI)⁻¹ g_q`, in one of two shapes.
#[derive(Clone, Debug, PartialEq)]
pub enum Preconditioned {
    /// Any matrix `V [K, E + 1]`, row-major: the score is `Σ_k δ_i[k] (V_k · [h_i; 1])`.
    Full(Vec<f32>),
    /// The outer product of `δ [K]` and `h̃' = [h'; s] [E + 1]`: the score is `(δ · δ_i) (h' · h_i + s)`.
    RankOne {
        /// The query's own δ.
        delta: Vec<f32>,
        /// h̃'
        input: Vec<f32>,
    },
}

/// The damped inverse curvature at a model's head.
pub struct Curvature<'a> {
    source: &'a dyn FactorSource,
    options: CurvatureOptions,
    inverse: Inverse,
}

enum Inverse {
    Cholesky(FactoredHessian),
    /// With what preconditions the conjugate gradients.
    MatrixFree(Kronecker),
    Kronecker(Kronecker),
}

impl<'a> Curvature<'a> {
    /// Whether a query `δ h̃ᵀ` comes out as another outer product: [`Preconditioned::RankOne`], always.
    #[must_use]
    pub const fn keeps_outer_products(&self) -> bool {
        matches!(&self.inverse, Inverse::Kronecker(kronecker) if kronecker.is_isotropic())
    }

    /// Takes the curvature over all of `source`, at the outputs that its δ were taken at.
    ///
    /// # Errors
    /// Where the source has no head, no records or a record without a usable label; where λ is not positive; or where
    /// `keep_going` says no.
    pub fn fit(source: &'a dyn FactorSource, options: CurvatureOptions, keep_going: KeepGoing<'_>) -> Result<Self> {
        check_positive("the damping λ", options.damping)?;
        let blocks = Blocks::new(source, keep_going)?;
        let small = blocks.inputs() * blocks.classes() <= options.cholesky_limit;
        let inverse = match options.form {
            HessianForm::Exact if small => {
                Inverse::Cholesky(FactoredHessian::factor(&blocks, Point::Stored, options.damping)?)
            }
            HessianForm::Exact if blocks.is_of_boundaries() => return Err(too_large(source, &options)),
            HessianForm::Exact => Inverse::MatrixFree(kronecker(&blocks, Output::near, options.damping)?),
            HessianForm::Kronecker => Inverse::Kronecker(kronecker(&blocks, Output::new, options.damping)?),
            HessianForm::Corrected | HessianForm::Layers | HessianForm::Shampoo => {
                return Err(Error::usage(
                    "--hessian ekfac, layers, shampoo: are of gradients of the whole model, and the store's are not",
                )
                .with_hint("use --hessian kronecker, or index with --gradients projected"));
            }
        };
        Ok(Self { source, options, inverse })
    }

    /// `(H + λI)⁻¹ g_q` for each query; no query's bits depend on the others.
    ///
    /// # Errors
    /// Where a query's factors have another shape than the training records', where conjugate gradients do not get
    /// there, or where `keep_going` says no.
    pub fn precondition(&self, queries: &[QueryFactors<'_>], keep_going: KeepGoing<'_>) -> Result<Vec<Preconditioned>> {
        queries.iter().try_for_each(|query| self.check(query))?;
        match &self.inverse {
            Inverse::Cholesky(hessian) => {
                let solved: Result<Vec<_>> =
                    queries.par_chunks(8).map(|some| going(keep_going, || solve(hessian, some))).collect();
                Ok(solved?.into_iter().flatten().collect())
            }
            Inverse::MatrixFree(preconditioner) => {
                self.iterate(preconditioner, &queries.iter().map(gradient).collect::<Vec<_>>(), keep_going)
            }
            Inverse::Kronecker(kronecker) => {
                queries.par_iter().map(|query| going(keep_going, || transform(kronecker, query))).collect()
            }
        }
    }

    /// The same for gradients that are sums over several factors, whose bias coordinates must be 1: always
    /// [`Preconditioned::Full`].
    ///
    /// # Errors
    /// As [`Curvature::precondition`].
    pub fn precondition_bundles(&self, queries: &[Bundle], keep_going: KeepGoing<'_>) -> Result<Vec<Preconditioned>> {
        if let Inverse::MatrixFree(preconditioner) = &self.inverse {
            let gradients: Vec<_> = queries.iter().map(bundle_gradient).collect();
            return self.iterate(preconditioner, &gradients, keep_going);
        }
        let solve = |query| full(&self.solve_directly(bundle_gradient(query)));
        queries.par_iter().map(|query| going(keep_going, || solve(query))).collect()
    }

    /// [`Curvature::self_influence`] of `records` records of several factors each.
    ///
    /// # Errors
    /// As [`Curvature::self_influence`].
    pub fn self_influence_of_bundles(
        &self,
        records: usize,
        bundle: &(dyn Fn(usize) -> Bundle + Sync),
        keep_going: KeepGoing<'_>,
    ) -> Result<Vec<f32>> {
        if matches!(self.inverse, Inverse::MatrixFree(_)) {
            return Err(too_large(self.source, &self.options));
        }
        let one = |record| {
            let gradient = bundle_gradient(&bundle(record));
            inner(&self.solve_directly(gradient.clone()), &gradient).max(0.0) as f32
        };
        (0..records).into_par_iter().map(|record| going(keep_going, || one(record))).collect()
    }

    fn solve_directly(&self, mut gradient: Mat<f64>) -> Mat<f64> {
        match &self.inverse {
            Inverse::Cholesky(hessian) => hessian.solve(std::slice::from_mut(&mut gradient)),
            Inverse::Kronecker(kronecker) | Inverse::MatrixFree(kronecker) => gradient = kronecker.solve(&gradient),
        }
        gradient
    }

    /// `g_iᵀ (H + λI)⁻¹ g_i` of every training record, in order: RelatIF's denominators, squared (Barshan et al. 2020,
    /// "RelatIF: identifying explanatory training samples via relative influence").
    ///
    /// # Errors
    /// Where the head is too large for a Cholesky factorisation (a system of equations a record would have to be
    /// solved), or where `keep_going` says no.
    pub fn self_influence(&self, keep_going: KeepGoing<'_>) -> Result<Vec<f32>> {
        match &self.inverse {
            Inverse::Cholesky(hessian) => self.over_records(keep_going, |block| hessian.quadratic_forms(block)),
            Inverse::Kronecker(kronecker) => self.over_records(keep_going, |block| kronecker.quadratic_forms(block)),
            Inverse::MatrixFree(_) => Err(too_large(self.source, &self.options)),
        }
    }

    fn over_records(&self, keep_going: KeepGoing<'_>, forms: impl Fn(&Block) -> Vec<f64> + Sync) -> Result<Vec<f32>> {
        let blocks = Blocks::new(self.source, keep_going)?;
        let mut all = Vec::with_capacity(blocks.rows());
        blocks.fold(forms, |part| all.extend(part.into_iter().map(|form| form as f32)))?;
        Ok(all)
    }

    fn check(&self, query: &QueryFactors<'_>) -> Result<()> {
        let (expected, found) =
            ((self.source.classes(), self.source.width()), (query.delta.len(), query.features.len()));
        if expected == found {
            return Ok(());
        }
        let message = format!("a query's factors: expected (K, E) = {expected:?}, found {found:?}");
        Err(Error::Mismatch(message, None))
    }

    fn iterate(
        &self,
        preconditioner: &Kronecker,
        gradients: &[Mat<f64>],
        keep_going: KeepGoing<'_>,
    ) -> Result<Vec<Preconditioned>> {
        let blocks = Blocks::new(self.source, keep_going)?;
        let system = System { blocks: &blocks, point: Point::Stored, damping: self.options.damping, preconditioner };
        let stop = Stop { residual: self.options.residual, iterations: self.options.iterations };
        let mut all = Vec::with_capacity(gradients.len());
        for some in gradients.chunks(queries_in_memory(blocks.inputs() * blocks.classes())) {
            for (solution, reached) in cg::solve(&system, some.to_vec(), stop)? {
                if !reached {
                    return Err(self.not_reached());
                }
                all.push(full(&solution));
            }
        }
        Ok(all)
    }

    fn not_reached(&self) -> Error {
        let CurvatureOptions { residual, iterations, .. } = self.options;
        Error::usage(format!("conjugate gradients: relative residual above {residual:e} after {iterations} steps"))
            .with_hint("a larger damping λ, or --hessian kronecker")
    }
}

/// What `work` makes, where it is to be made.
fn going<T>(keep_going: KeepGoing<'_>, work: impl FnOnce() -> T) -> Result<T> {
    if keep_going() { Ok(work()) } else { Err(Error::Interrupted) }
}

fn too_large(source: &dyn FactorSource, options: &CurvatureOptions) -> Error {
    let (classes, inputs) = (source.classes(), source.width() + 1);
    Error::usage(format!(
        "this needs a head of at most {} parameters, found {classes} x {inputs}",
        options.cholesky_limit
    ))
    .with_hint("--hessian kronecker has no such limit")
}

/// As many queries as keep a pass's partial sums within 256 MiB.
fn queries_in_memory(parameters: usize) -> usize {
    ((256 << 20) / (WAVE * parameters * size_of::<f64>())).max(1)
}

fn kronecker<'a>(
    blocks: &Blocks<'a>,
    output: impl FnOnce(&Blocks<'a>, Point<'_>) -> Result<Output>,
    damping: f64,
) -> Result<Kronecker> {
    let input = Eigen::new(input_factor(blocks)?)?;
    Ok(Kronecker::new(blocks, output(blocks, Point::Stored)?, Arc::new(input), damping))
}

/// `h̃ δᵀ [E + 1, K]`
fn gradient(query: &QueryFactors<'_>) -> Mat<f64> {
    let input = |e: usize| query.features.get(e).map_or(1.0, |&h| f64::from(h));
    Mat::from_fn(query.features.len() + 1, query.delta.len(), |e, k| input(e) * f64::from(query.delta[k]))
}

/// The same of several factors.
fn bundle_gradient(bundle: &Bundle) -> Mat<f64> {
    let (gradient, inputs) = (bundle.gradient(), bundle.width() + 1);
    Mat::from_fn(inputs, bundle.outputs(), |e, k| gradient[k * inputs + e])
}

fn full(solution: &Mat<f64>) -> Preconditioned {
    Preconditioned::Full((0..solution.ncols()).flat_map(|k| slice(solution, k)).map(|&v| v as f32).collect())
}

fn solve(hessian: &FactoredHessian, queries: &[QueryFactors<'_>]) -> Vec<Preconditioned> {
    let mut gradients: Vec<Mat<f64>> = queries.iter().map(gradient).collect();
    hessian.solve(&mut gradients);
    gradients.iter().map(full).collect()
}

fn transform(kronecker: &Kronecker, query: &QueryFactors<'_>) -> Preconditioned {
    let input = Mat::from_fn(query.features.len() + 1, 1, |e, _| query.features.get(e).map_or(1.0, |&h| f64::from(h)));
    match kronecker.transform(&input) {
        Some(input) => Preconditioned::RankOne {
            delta: query.delta.to_vec(),
            input: slice(&input, 0).iter().map(|&x| x as f32).collect(),
        },
        None => full(&kronecker.solve(&gradient(query))),
    }
}
