//! The second moments of projected gradients, damped: what TRAK and the projected Gauss-Newton matrix precondition a
//! query by.
//!
//! ```text
//! TRAK            ΦᵀΦ + λI                       Park et al. 2023, *TRAK: Attributing Model Behavior at Scale*
//! Gauss-Newton    (1/N) Σ p(1 − p) φφᵀ + λI      the loss's second derivative in the margin; exact for two classes
//!                 (1/N) Σ φφᵀ/2L + λI            of a regression of one value z: L = (z − y)² and φ = −2(z − y) ∇z
//! ```
//!
//! A regression's is 2 ∇z ∇zᵀ, whatever its labels are. Of several values, or of labels of which each is a decision of
//! its own, it is a sum of as many outer products, which the one gradient that is kept does not tell.
//!
//! | form | of d numbers in L layers | source |
//! |---|---|---|
//! | [`MomentForm::Whole`] | the matrix as it is: d², or N² where there are fewer records, by Woodbury's identity | |
//! | [`MomentForm::Layers`] | one matrix a layer, Σ d_l² | Choe et al. 2024, LoGra |
//! | [`MomentForm::Shampoo`] | each layer's in the eigenvectors of `E[G Gᵀ]` and `E[Gᵀ G]`, with the second moments found there for eigenvalues: about d | Gupta et al. 2018; the correction, George et al. 2018 |
//!
//! λ is a share of a matrix's mean diagonal, each layer's its own where they have one each, so that one number suits
//! gradients of any size.

mod deletion;
mod dual;
mod left_out;
mod shampoo;
mod spread;

use std::ops::Range;

use faer::Mat;
use rayon::prelude::*;

pub use self::deletion::Deletion;
use self::dual::Dual;
pub(super) use self::dual::{gram_of, products_of};
use self::shampoo::Shampoo;
pub use self::spread::{Draws, Interval, Shares, Spread};
use super::block::{Block, Blocks, KeepGoing, ROWS};
use super::dense::{Cholesky, product, slice, slice_mut};
use super::gram::{Wanted, grams};
use super::{FactorRows, FactorSource, LabelUsed, LabelledRows, Labels};
use crate::error::{Error, Result};
use crate::model::{KeptLayer, Problem};

/// What each record counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Weighting<'a> {
    /// 1.
    Even,
    /// `p(1 − p)/N`, by its slope `−(1 − p)`.
    Curvature,
    /// `1/2LN`, by these losses L `[N]` of a regression of one value; nothing where L is 0, and the gradient with it.
    Value(&'a [f32]),
}

impl Weighting<'_> {
    /// Of record `row` of `rows`, with this slope.
    fn of(self, row: usize, slope: f64, rows: usize) -> f64 {
        match self {
            Self::Even => 1.0,
            Self::Curvature => -slope * (1.0 + slope) / rows as f64,
            Self::Value(losses) if losses[row] > 0.0 => 1.0 / (2.0 * f64::from(losses[row]) * rows as f64),
            Self::Value(_) => 0.0,
        }
    }

    /// How much the output function of record `row` is to rise: a margin by 1, `−L` until its value is the label, to
    /// first order.
    fn aim(self, row: usize) -> f64 {
        match self {
            Self::Even | Self::Curvature => 1.0,
            Self::Value(losses) => 2.0 * f64::from(losses[row]),
        }
    }
}

/// What each record counts `[N]`, and what it is to rise by.
struct Counted {
    weights: Vec<f64>,
    aims: Vec<f64>,
}

impl Counted {
    /// # Errors
    /// Where none counts.
    fn new(pieces: &[FactorRows<'_>], weighting: Weighting<'_>) -> Result<Self> {
        let rows: usize = pieces.iter().map(|piece| piece.rows).sum();
        let slopes = pieces.iter().flat_map(|piece| piece.deltas);
        let weight = |(row, &slope): (usize, &f32)| weighting.of(row, f64::from(slope), rows).max(0.0);
        let weights: Vec<f64> = slopes.enumerate().map(weight).collect();
        if rows > 0 && weights.iter().all(|&weight| weight == 0.0) {
            return Err(Error::usage("no record's loss has a curvature to single precision")
                .with_hint("use projected-dot, projected-cos or tracin, which need none"));
        }
        Ok(Self { weights, aims: (0..rows).map(|row| weighting.aim(row)).collect() })
    }

    /// What each record of a block counts, `[1, R]`.
    fn of(&self, block: &Block) -> Mat<f64> {
        Mat::from_fn(1, block.rows, |_, r| self.weights[block.first + r])
    }

    /// `√w`, and by how much that is to rise.
    fn root(&self, row: usize) -> (f64, f64) {
        let root = self.weights[row].sqrt();
        (root, root * self.aims[row])
    }
}

/// How much of the matrix is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MomentForm {
    /// All of it.
    Whole,
    /// What is of one layer.
    Layers,
    /// What is of one layer, in Shampoo's eigenvectors.
    Shampoo,
}

/// What a second moment is of, and how it is damped.
#[derive(Clone, Copy, Debug)]
pub struct MomentOptions<'a> {
    /// How much of it is kept.
    pub form: MomentForm,
    /// Where each layer's numbers lie, one after another; not read by [`MomentForm::Whole`].
    pub layers: &'a [KeptLayer],
    /// What each record counts.
    pub weighting: Weighting<'a>,
    /// λ over the mean of the diagonal; where it is not given, that at which records left out are predicted best, and a
    /// tenth of Shampoo's.
    pub damping: Option<f64>,
}

impl MomentOptions<'_> {
    /// How many times [`DampedMoment::fit`] asks whether to go on, over so many records of so many numbers.
    pub fn steps(&self, rows: usize, width: usize) -> usize {
        let blocks = rows.div_ceil(ROWS);
        match self.form {
            MomentForm::Whole if rows < width => Dual::steps(rows, width),
            MomentForm::Whole => blocks + self.sums(blocks) + 1,
            MomentForm::Layers => blocks + self.sums(blocks) + self.layers.len(),
            MomentForm::Shampoo => 2 * blocks + self.layers.len(),
        }
    }

    /// Blocks of the pass that only a damping to be found takes.
    fn sums(&self, blocks: usize) -> usize {
        if self.damping.is_none() { blocks } else { 0 }
    }
}

/// A damped second moment, ready to be solved with.
pub struct DampedMoment<'a> {
    parts: Vec<Part<'a>>,
    width: usize,
}

/// Of some of the numbers.
enum Part<'a> {
    Gram(Gram),
    Dual(Dual<'a>),
    Shampoo(Shampoo),
}

/// A matrix of some of the numbers, factored.
struct Gram {
    range: Range<usize>,
    cholesky: Cholesky,
    /// λ over the mean diagonal.
    damping: f64,
}

/// The widest matrix that is factored: 2 GiB, and about a minute.
const WIDEST: usize = 16_384;

/// Columns solved for at a time by one thread.
const COLUMNS: usize = 64;

impl<'a> DampedMoment<'a> {
    /// Over all rows of `pieces`, in f64 and in one order whatever the pieces and threads.
    ///
    /// # Errors
    /// [`Error::Usage`] where a matrix is not positive definite, or too wide to be factored, or the damping is no
    /// share, or layers are not known, or no record counts; [`Error::Interrupted`].
    pub fn fit(pieces: Vec<FactorRows<'a>>, options: MomentOptions<'_>, keep_going: KeepGoing<'_>) -> Result<Self> {
        let MomentOptions { form, layers, damping, .. } = options;
        if let Some(damping) = damping.filter(|damping| !(damping.is_finite() && *damping >= 0.0)) {
            return Err(Error::usage(format!("--lambda: expected a number from 0 on, found {damping}")));
        }
        let width = pieces.first().map_or(0, |piece| piece.width);
        let rows: usize = pieces.iter().map(|piece| piece.rows).sum();
        let counted = Counted::new(&pieces, options.weighting)?;
        let parts = match form {
            MomentForm::Whole if rows < width => {
                check_width(rows, &format!("{rows} records with {width} numbers each"))?;
                vec![Part::Dual(Dual::fit(pieces, &counted, damping, keep_going)?)]
            }
            MomentForm::Whole => {
                check_width(width, &format!("{width} numbers a record"))?;
                gram_parts(pieces, std::slice::from_ref(&(0..width)), (&counted, damping), keep_going)?
            }
            MomentForm::Layers => {
                let ranges = ranges(layers, width)?;
                for (layer, range) in layers.iter().zip(&ranges) {
                    check_width(range.len(), &format!("layer {}: {} numbers a record", layer.name, range.len()))?;
                }
                gram_parts(pieces, &ranges, (&counted, damping), keep_going)?
            }
            MomentForm::Shampoo => {
                ranges(layers, width)?;
                Shampoo::fit(pieces, &counted, options, keep_going)?.into_iter().map(Part::Shampoo).collect()
            }
        };
        Ok(Self { parts, width })
    }

    /// λ over the mean diagonal of each of its matrices that was factored as it is.
    pub fn damping(&self) -> Vec<f64> {
        let of = |part: &Part<'_>| match part {
            Part::Gram(gram) => Some(gram.damping),
            Part::Dual(dual) => Some(dual.share),
            Part::Shampoo(_) => None,
        };
        self.parts.iter().filter_map(of).collect()
    }

    /// The inverse times each of these vectors.
    ///
    /// # Panics
    /// Where one is of another width.
    pub fn solve(&self, queries: &[&[f32]]) -> Vec<Vec<f32>> {
        let solved = queries.par_chunks(COLUMNS).flat_map_iter(|some| {
            let columns = self.solved(&columns(some, self.width));
            (0..some.len()).map(move |j| slice(&columns, j).iter().map(|&x| x as f32).collect())
        });
        solved.collect()
    }

    /// How many times [`DampedMoment::quadratic_forms`] asks whether to go on, over so many rows.
    pub fn steps_of_forms(rows: usize) -> usize {
        rows.div_ceil(COLUMNS)
    }

    /// `φᵀ (· + λI)⁻¹ φ` of each of these rows.
    ///
    /// # Errors
    /// [`Error::Interrupted`].
    ///
    /// # Panics
    /// Where they are of another width.
    pub fn quadratic_forms(&self, rows: &FactorRows<'_>, keep_going: KeepGoing<'_>) -> Result<Vec<f64>> {
        assert_eq!(rows.width, self.width, "rows of the gradients' width");
        let firsts: Vec<usize> = (0..rows.rows).step_by(COLUMNS).collect();
        let forms = firsts.into_par_iter().map(|first| {
            if !keep_going() {
                return Err(Error::Interrupted);
            }
            let mut given = Mat::zeros(self.width, COLUMNS.min(rows.rows - first));
            for j in 0..given.ncols() {
                rows.features.decode((first + j) * self.width, slice_mut(&mut given, j));
            }
            let solved = self.solved(&given);
            let form = |j| slice(&given, j).iter().zip(slice(&solved, j)).map(|(x, y)| x * y).sum::<f64>();
            Ok((0..given.ncols()).map(form).collect::<Vec<_>>())
        });
        Ok(forms.collect::<Result<Vec<_>>>()?.concat())
    }

    /// Column by column, none of whose bits depend on the others.
    fn solved(&self, given: &Mat<f64>) -> Mat<f64> {
        let mut out = Mat::zeros(self.width, given.ncols());
        for part in &self.parts {
            match part {
                Part::Gram(Gram { range, cholesky, .. }) => {
                    let mut own = out.as_mut().subrows_mut(range.start, range.len());
                    own.copy_from(given.as_ref().subrows(range.start, range.len()));
                    cholesky.solve(own);
                }
                Part::Dual(dual) => {
                    (0..given.ncols()).for_each(|j| dual.solve(slice(given, j), slice_mut(&mut out, j)));
                }
                Part::Shampoo(one) => {
                    (0..given.ncols()).for_each(|j| one.solve(slice(given, j), slice_mut(&mut out, j)));
                }
            }
        }
        out
    }
}

fn columns(vectors: &[&[f32]], width: usize) -> Mat<f64> {
    assert!(vectors.iter().all(|vector| vector.len() == width), "vectors of the gradients' width");
    Mat::from_fn(width, vectors.len(), |i, j| f64::from(vectors[j][i]))
}

fn check_width(width: usize, of: &str) -> Result<()> {
    if width <= WIDEST {
        return Ok(());
    }
    Err(Error::usage(format!("{of}: a matrix of {width} × {width} is not factored (most: {WIDEST})")).with_hint(
        "use --hessian layers or shampoo, which take a layer at a time, or index with a smaller --projection-dim",
    ))
}

/// The places of each layer's numbers.
fn ranges(layers: &[KeptLayer], width: usize) -> Result<Vec<Range<usize>>> {
    let mut end = 0;
    let range = |layer: &KeptLayer| {
        let start = end;
        end += layer.len();
        start..end
    };
    let ranges: Vec<_> = layers.iter().map(range).collect();
    if layers.is_empty() || end > width {
        return Err(Error::usage("the store does not tell which layer each of its numbers is of")
            .with_hint("index again with --gradients projected"));
    }
    Ok(ranges)
}

fn gram_parts<'a>(
    pieces: Vec<FactorRows<'_>>,
    ranges: &[Range<usize>],
    (counted, damping): (&Counted, Option<f64>),
    keep_going: KeepGoing<'_>,
) -> Result<Vec<Part<'a>>> {
    let gradients = Gradients::new(pieces);
    let blocks = Blocks::new(&gradients, keep_going)?;
    let wanted = ranges.iter().map(|range| Wanted { rows: range.clone(), weighting: 0 });
    let found = grams(&blocks, &wanted.collect::<Vec<_>>(), |block| counted.of(block))?;
    let sample = damping.is_none().then(|| Sample::of(&blocks, counted)).transpose()?;
    let part = |(gram, range): (Mat<f64>, &Range<usize>)| {
        if !keep_going() {
            return Err(Error::Interrupted);
        }
        let factor = |share: f64| Cholesky::factor(damped(gram.clone(), share)).map_err(|_| not_positive());
        let damping = match (&sample, damping) {
            (Some(sample), None) => left_out::least(|share| {
                if keep_going() { Ok(sample.error(&factor(share)?, range)) } else { Err(Error::Interrupted) }
            })?,
            (_, damping) => damping.unwrap_or_default(),
        };
        Ok(Part::Gram(Gram { range: range.clone(), cholesky: factor(damping)?, damping }))
    };
    found.into_par_iter().zip(ranges).map(part).collect()
}

/// Records that are left out, each by itself, to find a damping.
struct Sample {
    /// `√w φ`, a record a column.
    records: Mat<f64>,
    /// What each is to rise by, times `√w`.
    aims: Vec<f64>,
    /// `Σ w φ` over all records, times what each is to rise by.
    sum: Mat<f64>,
}

/// The most of them.
const LEFT_OUT: usize = 1024;

impl Sample {
    /// Spread evenly over all.
    fn of(blocks: &Blocks<'_>, counted: &Counted) -> Result<Self> {
        let (rows, width) = (blocks.rows(), blocks.inputs() - 1);
        let step = rows.div_ceil(LEFT_OUT);
        let count = rows.div_ceil(step);
        let mut sample = Self { records: Mat::zeros(width, count), aims: vec![0.0; count], sum: Mat::zeros(width, 1) };
        blocks.several(
            |_| (),
            |wave| {
                for (block, ()) in wave {
                    for r in 0..block.rows {
                        let (number, phi) = (block.first + r, &slice(&block.inputs, r)[..width]);
                        let (root, aim) = counted.root(number);
                        let (sum, taught) =
                            (slice_mut(&mut sample.sum, 0), counted.weights[number] * counted.aims[number]);
                        sum.iter_mut().zip(phi).for_each(|(sum, x)| *sum += taught * x);
                        if number.is_multiple_of(step) {
                            sample.aims[number / step] = aim;
                            let column = slice_mut(&mut sample.records, number / step);
                            column.iter_mut().zip(phi).for_each(|(out, x)| *out = root * x);
                        }
                    }
                }
            },
        )?;
        Ok(sample)
    }

    /// The mean of squared errors of records left out, by the numbers of `range`.
    fn error(&self, cholesky: &Cholesky, range: &Range<usize>) -> f64 {
        let some = |x: &Mat<f64>| x.as_ref().subrows(range.start, range.len()).to_owned();
        let (mut turned, mut taught) = (some(&self.records), some(&self.sum));
        cholesky.solve(taught.as_mut());
        let mut predicted = Mat::zeros(self.aims.len(), 1);
        product(predicted.as_mut(), turned.transpose(), taught.as_ref());
        cholesky.half_solve(turned.as_mut());
        let of = |(i, aim): (usize, &f64)| {
            let told: f64 = slice(&turned, i).iter().map(|x| x * x).sum();
            ((aim - predicted[(i, 0)]) / (1.0 - told)).powi(2)
        };
        self.aims.iter().enumerate().map(of).sum::<f64>() / self.aims.len() as f64
    }
}

/// With λ on the diagonal.
fn damped(mut gram: Mat<f64>, damping: f64) -> Mat<f64> {
    let width = gram.nrows();
    let mean = (0..width).map(|i| gram[(i, i)]).sum::<f64>() / width.max(1) as f64;
    for i in 0..width {
        // The padding of a projection that its layers could not use up is zero for every record.
        let unused = if gram[(i, i)] > 0.0 { 0.0 } else { nonzero(mean) };
        gram[(i, i)] += damping * mean + unused;
    }
    gram
}

/// What stands on a diagonal where there is nothing.
fn nonzero(mean: f64) -> f64 {
    if mean > 0.0 { mean } else { 1.0 }
}

fn not_positive() -> Error {
    Error::usage("the second moments of the gradients are not positive definite to double precision")
        .with_hint("a larger --lambda makes them so")
}

/// Projected gradients as a source of factors with one output.
struct Gradients<'a> {
    pieces: Vec<FactorRows<'a>>,
    /// What no target is asked of.
    zeros: Vec<f32>,
}

impl<'a> Gradients<'a> {
    fn new(pieces: Vec<FactorRows<'a>>) -> Self {
        let most = pieces.iter().map(|piece| piece.rows).max().unwrap_or_default();
        Self { pieces, zeros: vec![0.0; most] }
    }
}

impl FactorSource for Gradients<'_> {
    fn problem(&self) -> Problem {
        Problem::Regression
    }

    fn width(&self) -> usize {
        self.pieces.first().map_or(0, |piece| piece.width)
    }

    fn classes(&self) -> usize {
        1
    }

    fn piece_rows(&self) -> Vec<usize> {
        self.pieces.iter().map(|piece| piece.rows).collect()
    }

    fn piece(&self, i: usize) -> LabelledRows<'_> {
        let FactorRows { rows, features, deltas, .. } = self.pieces[i];
        let targets = Labels::Rows(&self.zeros[..rows]);
        LabelledRows { features, deltas, labels: targets, predictions: targets, used: LabelUsed::Predicted }
    }
}
