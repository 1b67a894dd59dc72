//! A linear layer's gradient seen through a matrix on either side: `P_out (Σ_t δ_t [a_t; 1]ᵀ) P_inᵀ`, both applied before the product.

use super::network::Part;
use super::pass::Pass;
use super::sink::Operands;
use crate::backend::training::Training;
use crate::backend::{Activation, Rows};
use crate::error::Result;

/// Both matrices of a layer, packed.
pub(super) struct TwoSided<B: Training> {
    /// Rows of P_in and of P_out.
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    /// P_in, its column of the bias's 1 as its bias.
    of_inputs: B::Linear,
    of_outputs: B::Linear,
    /// P_out's columns for the first third of the outputs, and for the rest.
    split: Option<[B::Linear; 2]>,
}

impl<B: Training> TwoSided<B> {
    /// Of `input [.., inputs]` and `output [.., outputs]`, row-major; the bias's 1 is the last of the inputs. `split` where a way back comes to
    /// parts of the outputs.
    pub(super) fn new(
        backend: &B,
        input: &[f32],
        output: &[f32],
        (inputs, outputs): (usize, usize),
        split: bool,
    ) -> Result<Self> {
        let kept = (input.len() / inputs, output.len() / outputs);
        let bias: Vec<f32> = input.chunks_exact(inputs).map(|row| row[inputs - 1]).collect();
        let zeros = vec![0.0; kept.1];
        let columns = |first: usize, count: usize| {
            backend.pack_linear(&taken(output, outputs, first, count), &zeros, count, kept.1)
        };
        let third = outputs / 3;
        let both = || -> Result<_> { Ok([columns(0, third)?, columns(third, outputs - third)?]) };
        Ok(Self {
            inputs: kept.0,
            outputs: kept.1,
            of_inputs: backend.pack_linear(&taken(input, inputs, 0, inputs - 1), &bias, inputs - 1, kept.0)?,
            of_outputs: columns(0, outputs)?,
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
        backend.linear(dy, operands.dy, self.outputs_of(part), Activation::Identity, None, count)?;
        backend.linear(x, operands.x, &self.of_inputs, Activation::Identity, None, count)
    }

    fn outputs_of(&self, part: Part) -> &B::Linear {
        let split = || self.split.as_ref().expect("packed for layers of queries, keys and values");
        match part {
            Part::Whole => &self.of_outputs,
            Part::Queries => &split()[0],
            Part::KeysAndValues => &split()[1],
        }
    }
}

/// Some columns of `matrix [.., whole]`.
fn taken(matrix: &[f32], whole: usize, first: usize, count: usize) -> Vec<f32> {
    matrix.chunks_exact(whole).flat_map(|row| &row[first..first + count]).copied().collect()
}
