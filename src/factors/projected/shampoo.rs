//! One layer's second moment in its Kronecker form, taken from the gradients themselves: the eigenvectors of `E[G Gᵀ]`
//! and of `E[Gᵀ G]` (Gupta et al. 2018, "Shampoo: Preconditioned stochastic tensor optimization"), and for eigenvalues
//! the second moments found in them (George et al. 2018).

use std::ops::Range;

use faer::{Mat, MatRef};

use super::{Block, Blocks, Counted, FactorRows, Gradients, KeepGoing, MomentOptions, nonzero, not_positive};
use crate::error::{Error, Result};
use crate::factors::dense::{add_product, product, slice};
use crate::factors::kronecker::Eigen;
use crate::model::KeptLayer;

/// λ over a layer's mean eigenvalue, where the user has not said (as for EK-FAC: there is no fit to leave records out
/// of).
const DAMPING: f64 = 0.1;

pub(super) struct Shampoo {
    pub(super) range: Range<usize>,
    pub(super) output: Eigen,
    pub(super) input: Eigen,
    /// `Λ + λ`, `[inputs, outputs]`.
    pub(super) values: Mat<f64>,
}

impl Shampoo {
    /// Of every layer.
    pub(super) fn fit(
        pieces: Vec<FactorRows<'_>>,
        counted: &Counted,
        options: MomentOptions<'_>,
        keep_going: KeepGoing<'_>,
    ) -> Result<Vec<Self>> {
        let ranges = super::ranges(options.layers, pieces.first().map_or(0, |piece| piece.width))?;
        let gradients = Gradients::new(pieces);
        let blocks = Blocks::new(&gradients, keep_going)?;
        let layers: Vec<(&KeptLayer, Range<usize>)> = options.layers.iter().zip(ranges).collect();
        let sides = sum(&blocks, &layers, |block, layer, range| Sides::of(block, &counted.of(block), layer, range))?;
        let mut all: Vec<Self> = Vec::with_capacity(layers.len());
        for (mut sides, (layer, range)) in sides.into_iter().zip(&layers) {
            if !keep_going() {
                return Err(Error::Interrupted);
            }
            let (input, output) = (Eigen::new(sides.0.swap_remove(1))?, Eigen::new(sides.0.swap_remove(0))?);
            let values = Mat::zeros(layer.inputs, layer.outputs);
            all.push(Self { range: range.clone(), output, input, values });
        }
        let numbered: Vec<(&Self, Range<usize>)> = all.iter().map(|one| (one, one.range.clone())).collect();
        let values = sum(&blocks, &numbered, |block, one, range| one.squares(block, &counted.of(block), range))?;
        for (one, mut values) in all.iter_mut().zip(values) {
            let values = &mut values.0[0];
            let total: f64 = (0..values.ncols()).flat_map(|j| slice(values, j)).sum();
            let mean = total / (values.nrows() * values.ncols()) as f64;
            let damping = if mean > 0.0 { options.damping.unwrap_or(DAMPING) * mean } else { nonzero(mean) };
            one.values = Mat::from_fn(values.nrows(), values.ncols(), |k, j| values[(k, j)] + damping);
            if !one.is_positive() {
                return Err(not_positive());
            }
        }
        Ok(all)
    }

    /// Whether the least eigenvalue is more than what rounding leaves of the greatest.
    fn is_positive(&self) -> bool {
        let all = || (0..self.values.ncols()).flat_map(|j| slice(&self.values, j)).copied();
        let (least, most) = (all().fold(f64::INFINITY, f64::min), all().fold(0.0, f64::max));
        least > (self.values.nrows() + self.values.ncols()) as f64 * f64::EPSILON * most
    }

    /// Of one record's numbers, `Q_Aᵀ Gᵀ Q_S [inputs, outputs]`.
    fn turned(&self, gradient: MatRef<'_, f64>) -> Mat<f64> {
        let (inputs, outputs) = (gradient.nrows(), gradient.ncols());
        let (mut half, mut turned) = (Mat::zeros(inputs, outputs), Mat::zeros(inputs, outputs));
        product(half.as_mut(), self.input.vectors.transpose(), gradient);
        product(turned.as_mut(), half.as_ref(), self.output.vectors.as_ref());
        turned
    }

    fn squares(&self, block: &Block, weights: &Mat<f64>, range: &Range<usize>) -> Sums {
        let (inputs, outputs) = (self.input.values.len(), self.output.values.len());
        let mut sum = Mat::<f64>::zeros(inputs, outputs);
        for r in 0..block.rows {
            let turned = self.turned(gradient(&slice(&block.inputs, r)[range.clone()], inputs, outputs));
            for j in 0..outputs {
                let sums = sum.col_as_slice_mut(j).iter_mut().zip(slice(&turned, j));
                sums.for_each(|(sum, x)| *sum += weights[(0, r)] * x * x);
            }
        }
        Sums(vec![sum])
    }

    pub(super) fn solve(&self, given: &[f64], out: &mut [f64]) {
        let (inputs, outputs) = (self.values.nrows(), self.values.ncols());
        let turned = self.turned(gradient(&given[self.range.clone()], inputs, outputs));
        let divided = Mat::from_fn(inputs, outputs, |k, j| turned[(k, j)] / self.values[(k, j)]);
        let (mut half, mut back) = (Mat::zeros(inputs, outputs), Mat::zeros(inputs, outputs));
        product(half.as_mut(), self.input.vectors.as_ref(), divided.as_ref());
        product(back.as_mut(), half.as_ref(), self.output.vectors.transpose());
        for (j, out) in out[self.range.clone()].chunks_exact_mut(inputs).enumerate() {
            out.copy_from_slice(slice(&back, j));
        }
    }
}

/// A layer's numbers, row-major `[outputs, inputs]`, as the columns of its transpose.
fn gradient(numbers: &[f64], inputs: usize, outputs: usize) -> MatRef<'_, f64> {
    MatRef::from_column_major_slice(numbers, inputs, outputs)
}

/// What is added up over records.
struct Sums(Vec<Mat<f64>>);

/// `Σ w G Gᵀ` and `Σ w Gᵀ G`.
struct Sides;

impl Sides {
    fn of(block: &Block, weights: &Mat<f64>, layer: &KeptLayer, range: &Range<usize>) -> Sums {
        let (inputs, outputs) = (layer.inputs, layer.outputs);
        let (mut output, mut input) = (Mat::zeros(outputs, outputs), Mat::zeros(inputs, inputs));
        for r in 0..block.rows {
            let numbers = &slice(&block.inputs, r)[range.clone()];
            let whole = gradient(numbers, inputs, outputs);
            let weighted = Mat::from_fn(inputs, outputs, |k, j| weights[(0, r)] * whole[(k, j)]);
            add_product(output.as_mut(), weighted.transpose(), whole);
            add_product(input.as_mut(), weighted.as_ref(), whole.transpose());
        }
        Sums(vec![output, input])
    }
}

/// What `of` makes of each layer of each block, added up in the blocks' order.
fn sum<T: Sync>(
    blocks: &Blocks<'_>,
    layers: &[(T, Range<usize>)],
    of: impl Fn(&Block, &T, &Range<usize>) -> Sums + Sync,
) -> Result<Vec<Sums>> {
    use rayon::prelude::*;
    let mut total: Vec<Sums> = Vec::new();
    let map = |block: &Block| layers.par_iter().map(|(layer, range)| of(block, layer, range)).collect::<Vec<_>>();
    blocks.fold(map, |new: Vec<Sums>| {
        if total.is_empty() {
            total = new;
            return;
        }
        for (sums, new) in total.iter_mut().zip(new) {
            sums.0.iter_mut().zip(new.0).for_each(|(sum, new)| *sum += new);
        }
    })?;
    Ok(total)
}
