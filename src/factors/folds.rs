//! Heads refitted without one part of the records each, all in step: cross-validation for little more than one refit.
//!
//! A fold's minimum is near every other's. It is looked for from the minimum over a sample of the records, by the
//! sample's Hessian there (Newton's method with a curvature that stays, "chord" in Kelley 2003, "Solving nonlinear
//! equations with Newton's method", §2.3): the matrix is factored once, and a step of all folds is one pass over the
//! records for their gradients.

use std::ops::Range;

use faer::Mat;

use super::block::{Block, Blocks, KeepGoing, ROWS};
use super::dense::{add_scaled, inner, norm, product, slice_mut, step};
use super::hessian::FactoredHessian;
use super::objective::{Objective, Point};
use super::refit::{ARMIJO, HALVINGS, Minimum, Refit, RefitOptions, check_positive, minimise};
use super::source::{FactorSource, LabelledRows};
use crate::error::{Error, Result};
use crate::model::Problem;

/// Records in the sample: its curvature is then off by some √(E / 65,536), which is what each step leaves of the way.
const SAMPLE: usize = 64 * ROWS;

/// Which part of the records each belongs to.
#[derive(Clone, Copy)]
pub struct FoldsOf<'a> {
    /// How many parts.
    pub count: usize,
    /// The part of a record, from 0, by its place in the source.
    pub of: &'a (dyn Fn(usize) -> usize + Sync),
}

/// Refits the head once for each part of the records, without it.
///
/// # Errors
/// As [`super::refit`]; where a part is all there is.
pub fn refit_without(
    folds: FoldsOf<'_>,
    source: &dyn FactorSource,
    options: &RefitOptions,
    keep_going: KeepGoing<'_>,
) -> Result<Vec<Refit>> {
    check_positive("the refit's λ", options.penalty)?;
    let blocks = Blocks::new(source, keep_going)?;
    let mut rows = vec![blocks.rows(); folds.count];
    (0..blocks.rows()).for_each(|row| rows[(folds.of)(row)] -= 1);
    if rows.contains(&0) {
        return Err(Error::usage("there are no training records to learn from, without those to be judged"));
    }
    if blocks.inputs() * blocks.classes() > options.cholesky_limit {
        let without = |fold| Selection::new(source, |row| (folds.of)(row) != fold);
        return (0..folds.count).map(|fold| super::refit(&without(fold), options, keep_going)).collect();
    }
    let every = blocks.rows().div_ceil(SAMPLE);
    let sample = Selection::new(source, |row| (row / ROWS).is_multiple_of(every));
    let sample = Blocks::new(&sample, keep_going)?;
    let start = minimise(&sample, options)?.parameters;
    let curvature = FactoredHessian::factor(&sample, Point::At(&start), options.penalty)?;
    let steps = Steps { blocks: &blocks, folds, rows, options, curvature };
    steps.run(&start)
}

/// What every step is made from.
struct Steps<'a> {
    blocks: &'a Blocks<'a>,
    folds: FoldsOf<'a>,
    /// Records that each fold is fitted to.
    rows: Vec<usize>,
    options: &'a RefitOptions,
    curvature: FactoredHessian,
}

/// A fold on its way.
struct Course {
    fold: usize,
    at: Minimum,
    direction: Mat<f64>,
    /// Times the step was halved.
    halvings: i32,
}

impl Steps<'_> {
    fn run(&self, start: &Mat<f64>) -> Result<Vec<Refit>> {
        let zero = Mat::zeros(start.nrows(), start.ncols());
        let all: Vec<(usize, &Mat<f64>)> = (0..self.folds.count).map(|fold| (fold, start)).collect();
        let zeros: Vec<(usize, &Mat<f64>)> = (0..self.folds.count).map(|fold| (fold, &zero)).collect();
        let goals: Vec<f64> =
            self.evaluate(&zeros)?.iter().map(|(_, g)| self.options.tolerance * norm(g).max(1.0)).collect();
        let begin = |(fold, (objective, gradient))| {
            let converged = norm(&gradient) <= goals[fold];
            let at = Minimum { parameters: start.clone(), objective, gradient, iterations: 0, converged };
            Course { fold, direction: self.direction(&at), at, halvings: 0 }
        };
        let mut courses: Vec<Course> = self.evaluate(&all)?.into_iter().enumerate().map(begin).collect();
        loop {
            let mut active: Vec<&mut Course> = courses.iter_mut().filter(|course| !self.done(course)).collect();
            if active.is_empty() {
                return Ok(courses.into_iter().map(|course| course.at.into_refit()).collect());
            }
            let trials: Vec<Mat<f64>> = active.iter().map(|course| course.trial()).collect();
            let folds = active.iter().map(|course| course.fold);
            let found = self.evaluate(&folds.zip(&trials).collect::<Vec<_>>())?;
            for ((course, trial), found) in active.iter_mut().zip(trials).zip(found) {
                self.advance(course, trial, found, goals[course.fold]);
            }
        }
    }

    fn done(&self, course: &Course) -> bool {
        course.at.converged || course.at.iterations == self.options.iterations || course.halvings == HALVINGS
    }

    fn direction(&self, at: &Minimum) -> Mat<f64> {
        let mut direction = -&at.gradient;
        self.curvature.solve(std::slice::from_mut(&mut direction));
        direction
    }

    /// Takes a step that lowers the objective enough, or halves it.
    fn advance(&self, course: &mut Course, parameters: Mat<f64>, (objective, gradient): (f64, Mat<f64>), goal: f64) {
        let from = &course.at;
        let slope = inner(&from.gradient, &course.direction);
        let rounding = 8.0 * f64::EPSILON * from.objective.abs();
        if objective > from.objective + ARMIJO * 0.5_f64.powi(course.halvings) * slope + rounding {
            course.halvings += 1;
            return;
        }
        let (iterations, converged) = (from.iterations + 1, norm(&gradient) <= goal);
        course.at = Minimum { parameters, objective, gradient, iterations, converged };
        course.direction = self.direction(&course.at);
        course.halvings = 0;
    }

    /// `F` and `∇F` of some folds at parameters of their own, by one pass.
    fn evaluate(&self, heads: &[(usize, &Mat<f64>)]) -> Result<Vec<(f64, Mat<f64>)>> {
        let (inputs, classes) = (self.blocks.inputs(), self.blocks.classes());
        let objective = Objective { blocks: self.blocks, targets: self.options.targets, penalty: self.options.penalty };
        // [E + 1, heads · K]
        let side_by_side =
            Mat::from_fn(inputs, heads.len() * classes, |i, column| heads[column / classes].1[(i, column % classes)]);
        let mut losses = vec![0.0; heads.len()];
        let mut gradients = Mat::zeros(inputs, heads.len() * classes);
        self.blocks.fold(
            |block| self.evaluate_block(&objective, block, heads, &side_by_side),
            |(part, gradient)| {
                losses.iter_mut().zip(&part).for_each(|(sum, loss)| *sum += loss);
                add_scaled(&mut gradients, 1.0, &gradient);
            },
        )?;
        let of_head = |(i, &(fold, parameters)): (usize, &(usize, &Mat<f64>))| {
            let scale = 1.0 / self.rows[fold] as f64;
            let mut gradient = Mat::from_fn(inputs, classes, |row, c| scale * gradients[(row, i * classes + c)]);
            add_scaled(&mut gradient, self.options.penalty, parameters);
            (scale * losses[i] + 0.5 * self.options.penalty * inner(parameters, parameters), gradient)
        };
        Ok(heads.iter().enumerate().map(of_head).collect())
    }

    /// The sums of losses and of their gradients over those records of a block that each head is fitted to.
    fn evaluate_block(
        &self,
        objective: &Objective<'_>,
        block: &Block,
        heads: &[(usize, &Mat<f64>)],
        side_by_side: &Mat<f64>,
    ) -> (Vec<f64>, Mat<f64>) {
        let classes = self.blocks.classes();
        let (losses, mut deltas) = objective.deltas(block, side_by_side);
        let mut sums = vec![0.0; heads.len()];
        for (r, losses) in losses.chunks_exact(heads.len()).enumerate() {
            let fold = (self.folds.of)(block.first + r);
            for (i, (&(of, _), delta)) in
                heads.iter().zip(slice_mut(&mut deltas, r).chunks_exact_mut(classes)).enumerate()
            {
                if of == fold {
                    delta.fill(0.0);
                } else {
                    sums[i] += losses[i];
                }
            }
        }
        let mut gradient = Mat::zeros(block.inputs.nrows(), deltas.nrows());
        product(gradient.as_mut(), block.inputs.as_ref(), deltas.transpose());
        (sums, gradient)
    }
}

impl Course {
    fn trial(&self) -> Mat<f64> {
        step(&self.at.parameters, 0.5_f64.powi(self.halvings), &self.direction)
    }
}

/// Some of a source's records, in its order: views of what is there, not copies.
struct Selection<'a> {
    source: &'a dyn FactorSource,
    /// A piece of the source, and rows of it.
    pieces: Vec<(usize, Range<usize>)>,
}

impl<'a> Selection<'a> {
    fn new(source: &'a dyn FactorSource, keep: impl Fn(usize) -> bool) -> Self {
        let (mut first, mut pieces) = (0, Vec::<(usize, Range<usize>)>::new());
        for (piece, rows) in source.piece_rows().into_iter().enumerate() {
            for row in (0..rows).filter(|row| keep(first + row)) {
                match pieces.last_mut() {
                    Some((same, last)) if *same == piece && last.end == row => last.end += 1,
                    _ => pieces.push((piece, row..row + 1)),
                }
            }
            first += rows;
        }
        Self { source, pieces }
    }
}

impl FactorSource for Selection<'_> {
    fn problem(&self) -> Problem {
        self.source.problem()
    }

    fn width(&self) -> usize {
        self.source.width()
    }

    fn classes(&self) -> usize {
        self.source.classes()
    }

    fn piece_rows(&self) -> Vec<usize> {
        self.pieces.iter().map(|(_, rows)| rows.len()).collect()
    }

    fn piece(&self, i: usize) -> LabelledRows<'_> {
        let (piece, rows) = &self.pieces[i];
        self.source.piece(*piece).rows(rows.clone(), self.width(), self.classes())
    }

    fn weights(&self, i: usize) -> Option<&[f64]> {
        let (piece, rows) = &self.pieces[i];
        self.source.weights(*piece).map(|weights| &weights[rows.clone()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::factors::{InMemory, LabelVec};
    use crate::random::{Purpose, Stream};

    fn drawn(rows: usize, classes: usize, rows_at_a_time: usize) -> InMemory {
        let draws = Stream::new(5, Purpose::Shuffle);
        let number = |i: usize| draws.below(2001, i as u32, 0) as f32 / 1000.0 - 1.0;
        let width = 6;
        let features: Vec<f32> = (0..rows * width).map(number).collect();
        let label =
            |i: usize| ((features[i * width] * 2.0 + number(rows * width + i)).abs() * 1.5) as i64 % classes as i64;
        InMemory {
            problem: Problem::SingleLabel,
            width,
            classes,
            deltas: vec![0.0; rows * classes],
            labels: LabelVec::Classes((0..rows).map(label).collect()),
            features,
            weights: Vec::new(),
            rows_at_a_time,
        }
    }

    fn refits(source: &InMemory, tolerance: f64, limit: usize) -> Vec<Refit> {
        let options = RefitOptions { penalty: 0.01, tolerance, cholesky_limit: limit, ..RefitOptions::default() };
        refit_without(FoldsOf { count: 5, of: &|row| row / 7 % 5 }, source, &options, &|| true).unwrap()
    }

    #[test]
    fn each_fold_s_head_is_the_minimum_over_the_others() {
        // More than the sample holds, so that the curvature is an estimate.
        let (source, tolerance) = (drawn(SAMPLE + 3000, 3, 5000), 1e-9);
        let options = RefitOptions { penalty: 0.01, tolerance, ..RefitOptions::default() };
        for (fold, found) in refits(&source, tolerance, 8192).iter().enumerate() {
            let alone =
                super::super::refit(&Selection::new(&source, |row| row / 7 % 5 != fold), &options, &|| true).unwrap();
            assert!(found.converged && found.iterations < 15, "{} steps", found.iterations);
            // Each is within ‖∇‖ / λ of the minimum.
            let room = (found.gradient_norm + alone.gradient_norm) / 0.01;
            let apart: f64 = found.weight.iter().zip(&alone.weight).map(|(x, y)| (x - y).powi(2)).sum();
            assert!(apart.sqrt() <= room, "fold {fold}: {} > {room}", apart.sqrt());
        }
    }

    #[test]
    fn pieces_leave_the_bits_alone_and_large_heads_go_one_by_one() {
        let (whole, cut) = (drawn(4000, 2, 4000), drawn(4000, 2, 333));
        assert_eq!(refits(&whole, 1e-6, 8192), refits(&cut, 1e-6, 8192));
        for (chord, alone) in refits(&whole, 1e-9, 8192).iter().zip(refits(&whole, 1e-9, 0)) {
            assert!((chord.objective - alone.objective).abs() < 1e-12);
        }
    }

    #[test]
    fn a_fold_that_is_all_there_is_is_refused() {
        let options = RefitOptions::default();
        let found = refit_without(FoldsOf { count: 2, of: &|_| 1 }, &drawn(10, 2, 10), &options, &|| true);
        assert!(found.unwrap_err().to_string().contains("no training records to learn from"));
    }
}
