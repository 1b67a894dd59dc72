//! A linear layer's gradient seen through a matrix on either side: `P_out (Σ_t δ_t [a_t; 1]ᵀ) P_inᵀ`, both applied
//! before the product.

use std::ops::Range;

use super::network::Part;
use super::pass::Pass;
use super::projection::Matrix;
use super::sink::Operands;
use crate::backend::training::Training;
use crate::backend::{Activation, Rows};
use crate::error::Result;

/// Both matrices of a layer, made ready.
pub(super) struct TwoSided<B: Training> {
    /// Rows of P_in and of P_out.
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    /// P_in, its column of the bias's 1 as its bias.
    of_inputs: Ready<B>,
    of_outputs: Ready<B>,
    /// P_out's columns for the first third of the outputs, and for the rest.
    split: Option<[Ready<B>; 2]>,
}

/// One matrix, or some of its columns.
pub(super) enum Ready<B: Training> {
    Packed(B::Linear),
    Sparse(B::Sketch),
}

impl<B: Training> Ready<B> {
    /// Columns `range` of a matrix of `whole`.
    pub(super) fn columns(backend: &B, matrix: &Matrix<'_>, whole: usize, range: Range<usize>) -> Result<Self> {
        match matrix {
            Matrix::Dense(matrix) => {
                let kept = matrix.len() / whole;
                let (weight, count) = (taken(matrix, whole, range.clone()), range.len());
                Ok(Self::Packed(backend.pack_linear(&weight, &vec![0.0; kept], count, kept)?))
            }
            Matrix::Sparse(sketch) => Ok(Self::Sparse(backend.pack_sketch(sketch.of(range))?)),
        }
    }

    /// A matrix of `whole` columns, the last of which is that of a constant 1.
    fn with_one(backend: &B, matrix: &Matrix<'_>, whole: usize) -> Result<Self> {
        match matrix {
            Matrix::Dense(matrix) => {
                let bias = taken(matrix, whole, whole - 1..whole);
                let weight = taken(matrix, whole, 0..whole - 1);
                Ok(Self::Packed(backend.pack_linear(&weight, &bias, whole - 1, bias.len())?))
            }
            Matrix::Sparse(sketch) => Ok(Self::Sparse(backend.pack_sketch(sketch.with_one())?)),
        }
    }

    pub(super) fn apply(&self, backend: &B, out: &mut B::Tensor, x: &B::Tensor, rows: usize) -> Result<()> {
        match self {
            Self::Packed(linear) => backend.linear(out, x, linear, Activation::Identity, None, rows),
            Self::Sparse(sketch) => backend.sketch(out, x, sketch, rows),
        }
    }
}

impl<B: Training> TwoSided<B> {
    /// Of both sides' matrices, of so many inputs and outputs; the bias's 1 is the last of the inputs. `split` where a
    /// way back comes to parts of the outputs.
    pub(super) fn new(
        backend: &B,
        input: &Matrix<'_>,
        output: &Matrix<'_>,
        (inputs, outputs): (usize, usize),
        split: bool,
    ) -> Result<Self> {
        let columns = |range| Ready::columns(backend, output, outputs, range);
        let third = outputs / 3;
        let both = || -> Result<_> { Ok([columns(0..third)?, columns(third..outputs)?]) };
        Ok(Self {
            inputs: input.kept(inputs),
            outputs: output.kept(outputs),
            of_inputs: Ready::with_one(backend, input, inputs)?,
            of_outputs: columns(0..outputs)?,
            split: split.then(both).transpose()?,
        })
    }

    /// `sides = [P_out δ, P_in [a; 1]]`, a row a token or a sequence.
    pub(super) fn apply(
        &self,
        pass: &Pass<'_, B>,
        sides: &mut [B::Tensor; 2],
        part: Part,
        rows: Rows,
        operands: &Operands<'_, B>,
    ) -> Result<()> {
        let (backend, count, [dy, x]) = (pass.backend, pass.rows(rows), sides);
        self.outputs_of(part).apply(backend, dy, operands.dy, count)?;
        self.of_inputs.apply(backend, x, operands.x, count)
    }

    fn outputs_of(&self, part: Part) -> &Ready<B> {
        let split = || self.split.as_ref().expect("made for layers of queries, keys and values");
        match part {
            Part::Whole => &self.of_outputs,
            Part::Queries => &split()[0],
            Part::KeysAndValues => &split()[1],
        }
    }
}

/// Some columns of `matrix [.., whole]`.
fn taken(matrix: &[f32], whole: usize, range: Range<usize>) -> Vec<f32> {
    matrix.chunks_exact(whole).flat_map(|row| &row[range.clone()]).copied().collect()
}
