//! The head refitted to the training factors: the one minimum of a strictly convex objective, by Newton's method to a
//! stated optimality.
//!
//! The Newton step is solved by Cholesky where the head has few enough parameters, else by conjugate gradients to the
//! accuracy that keeps the convergence faster than linear (Nocedal and Wright 2006, "Numerical optimization", §7.1),
//! and is shortened until the objective falls as Armijo asks. It starts from zero: the minimum does not depend on where
//! it is looked for, and neither should its last bits.

use std::sync::Arc;

use faer::Mat;

use super::block::{Blocks, KeepGoing};
use super::cg::{self, Stop, System};
use super::dense::{inner, norm, slice, step};
use super::hessian::FactoredHessian;
use super::kronecker::{Eigen, Kronecker, Output, input_factor};
use super::objective::{Objective, Point, RefitTargets};
use super::source::FactorSource;
use crate::error::{Error, Result};

/// The most parameters, K (E + 1), whose Hessian is written out and factored by default: 0.5 GiB.
pub const CHOLESKY_LIMIT: usize = 8192;

/// How a head is refitted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RefitOptions {
    /// λ of `(1/N) Σ loss + (λ/2) ‖[W; b]‖²`. TrustAI writes `λ ‖W‖²`: its 0.03 is our default of 0.06.
    pub penalty: f64,
    /// What the head is fitted to.
    pub targets: RefitTargets,
    /// Done when `‖∇‖ ≤ tolerance · max(1, ‖∇ at zero‖)`. The parameters are then within `‖∇‖ / λ` of the optimum's.
    pub tolerance: f64,
    /// Newton steps after which it is given up, and said to have been.
    pub iterations: usize,
    /// The most parameters for a Cholesky factorisation.
    pub cholesky_limit: usize,
}

impl Default for RefitOptions {
    fn default() -> Self {
        Self {
            penalty: 0.06,
            targets: RefitTargets::Gold,
            tolerance: 1e-10,
            iterations: 100,
            cholesky_limit: CHOLESKY_LIMIT,
        }
    }
}

/// A refitted head, and how far it is from the optimum.
#[derive(Clone, Debug, PartialEq)]
pub struct Refit {
    /// `W [K, E]`, row-major.
    pub weight: Vec<f64>,
    /// `b [K]`
    pub bias: Vec<f64>,
    /// The objective there.
    pub objective: f64,
    /// `‖∇‖` there.
    pub gradient_norm: f64,
    /// Newton steps taken.
    pub iterations: usize,
    /// Whether `gradient_norm` met the tolerance.
    pub converged: bool,
}

impl Refit {
    /// `z [K]` of one record's features.
    pub fn logits(&self, features: &[f32]) -> Vec<f64> {
        let dot = |w: &[f64]| -> f64 { w.iter().zip(features).map(|(w, &h)| w * f64::from(h)).sum() };
        self.weight.chunks_exact(features.len().max(1)).zip(&self.bias).map(|(w, b)| dot(w) + b).collect()
    }
}

/// Refits the head.
///
/// # Errors
/// Where the source has no head, no records or a record without a usable label; where λ is not positive; or where
/// `keep_going` says no.
pub fn refit(source: &dyn FactorSource, options: &RefitOptions, keep_going: KeepGoing<'_>) -> Result<Refit> {
    let blocks = Blocks::new(source, keep_going)?;
    minimise(&blocks, options).map(Minimum::into_refit)
}

/// The same, looked for from `start` on, such as the refit to nearly the same records: fewer steps to the same minimum,
/// but for its last bits.
///
/// # Errors
/// As [`refit`]; where `start` is of another shape.
pub fn refit_from(
    start: &Refit,
    source: &dyn FactorSource,
    options: &RefitOptions,
    keep_going: KeepGoing<'_>,
) -> Result<Refit> {
    let blocks = Blocks::new(source, keep_going)?;
    let (width, classes) = (blocks.inputs() - 1, blocks.classes());
    if (start.weight.len(), start.bias.len()) != (width * classes, classes) {
        let message =
            format!("a refit to start from: expected {classes} x {width} weights, found {}", start.weight.len());
        return Err(Error::usage(message));
    }
    let at = |e: usize, k: usize| if e == width { start.bias[k] } else { start.weight[k * width + e] };
    minimise_from(Mat::from_fn(width + 1, classes, at), &blocks, options).map(Minimum::into_refit)
}

/// Where the search for the minimum ended.
pub(super) struct Minimum {
    /// `[E + 1, K]`
    pub(super) parameters: Mat<f64>,
    pub(super) objective: f64,
    pub(super) gradient: Mat<f64>,
    pub(super) iterations: usize,
    pub(super) converged: bool,
}

impl Minimum {
    pub(super) fn into_refit(self) -> Refit {
        let width = self.parameters.nrows() - 1;
        let columns = || (0..self.parameters.ncols()).map(|c| slice(&self.parameters, c));
        Refit {
            weight: columns().flat_map(|column| &column[..width]).copied().collect(),
            bias: columns().map(|column| column[width]).collect(),
            objective: self.objective,
            gradient_norm: norm(&self.gradient),
            iterations: self.iterations,
            converged: self.converged,
        }
    }
}

pub(super) fn minimise(blocks: &Blocks<'_>, options: &RefitOptions) -> Result<Minimum> {
    minimise_from(Mat::zeros(blocks.inputs(), blocks.classes()), blocks, options)
}

fn minimise_from(parameters: Mat<f64>, blocks: &Blocks<'_>, options: &RefitOptions) -> Result<Minimum> {
    check_positive("the refit's λ", options.penalty)?;
    if blocks.is_of_boundaries() {
        return Err(Error::usage(
            "an answer's softmax is over tokens: a refit needs each one's features, and a store keeps their sum",
        ));
    }
    let objective = Objective { blocks, targets: options.targets, penalty: options.penalty };
    let solver = Solver::new(blocks, options)?;
    let (value, gradient) = objective.evaluate(&parameters)?;
    let goal = options.tolerance * norm(&gradient).max(1.0);
    let mut at = Minimum { parameters, objective: value, gradient, iterations: 0, converged: false };
    loop {
        at.converged = norm(&at.gradient) <= goal;
        if at.converged || at.iterations == options.iterations {
            return Ok(at);
        }
        let direction = solver.direction(&at)?;
        let Some(next) = line_search(&objective, &at, &direction)? else { return Ok(at) };
        at = next;
    }
}

pub(super) fn check_positive(what: &str, value: f64) -> Result<()> {
    if value.is_finite() && value > 0.0 {
        return Ok(());
    }
    Err(Error::usage(format!("{what} must be a positive number, found {value}")))
}

/// What turns a gradient into a Newton step.
enum Solver<'a> {
    Cholesky { blocks: &'a Blocks<'a>, penalty: f64 },
    ConjugateGradients { blocks: &'a Blocks<'a>, penalty: f64, input_factor: Arc<Eigen> },
}

impl<'a> Solver<'a> {
    fn new(blocks: &'a Blocks<'a>, options: &RefitOptions) -> Result<Self> {
        let penalty = options.penalty;
        if blocks.inputs() * blocks.classes() <= options.cholesky_limit {
            return Ok(Self::Cholesky { blocks, penalty });
        }
        Ok(Self::ConjugateGradients { blocks, penalty, input_factor: Arc::new(Eigen::new(input_factor(blocks)?)?) })
    }

    /// `−(H + λI)⁻¹ ∇`, exactly or nearly.
    fn direction(&self, at: &Minimum) -> Result<Mat<f64>> {
        let mut direction = -&at.gradient;
        let point = Point::At(&at.parameters);
        match self {
            Self::Cholesky { blocks, penalty } => {
                FactoredHessian::factor(blocks, point, *penalty)?.solve(std::slice::from_mut(&mut direction));
                Ok(direction)
            }
            Self::ConjugateGradients { blocks, penalty, input_factor } => {
                let output_factor = Output::near(blocks, point)?;
                let preconditioner = &Kronecker::new(blocks, output_factor, input_factor.clone(), *penalty);
                let residual = norm(&at.gradient).sqrt().min(0.1);
                let system = System { blocks, point, damping: *penalty, preconditioner };
                let mut solutions = cg::solve(&system, vec![direction], Stop { residual, iterations: 1000 })?;
                Ok(solutions.swap_remove(0).0)
            }
        }
    }
}

/// The share of the decrease that the slope promises which a step must bring.
pub(super) const ARMIJO: f64 = 1e-4;

/// Half steps tried before the objective is taken to be as low as rounding lets it.
pub(super) const HALVINGS: i32 = 40;

/// The first of `direction`, its half, its quarter, … that lowers the objective enough; none where rounding hides every
/// decrease.
fn line_search(objective: &Objective<'_>, from: &Minimum, direction: &Mat<f64>) -> Result<Option<Minimum>> {
    let slope = inner(&from.gradient, direction);
    // Near the minimum a step changes the objective by less than its rounding: allow for that, and no more.
    let rounding = 8.0 * f64::EPSILON * from.objective.abs();
    for halving in 0..HALVINGS {
        let length = 0.5_f64.powi(halving);
        let parameters = step(&from.parameters, length, direction);
        let (value, gradient) = objective.evaluate(&parameters)?;
        if value <= from.objective + ARMIJO * length * slope + rounding {
            let iterations = from.iterations + 1;
            return Ok(Some(Minimum { parameters, objective: value, gradient, iterations, converged: false }));
        }
    }
    Ok(None)
}
