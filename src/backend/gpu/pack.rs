//! Weight matrices in the layouts that kernels multiply by, and back from them.

use half::{bf16, f16};
use rayon::prelude::*;

use crate::backend::Precision;

/// Columns permuted among themselves, and what biases are padded to.
pub(super) const GROUP: usize = 32;
/// Inputs of a step on the tensor cores.
pub(super) const STEP: usize = 32;

/// A weight matrix as it is loaded, `[outputs, inputs]`.
pub(super) struct Matrix {
    pub(super) weight: Vec<f32>,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
}

impl Matrix {
    /// As the precision's kernels read it:
    ///
    /// * f32: `[inputs, outputs rounded up to 4]`
    /// * f16, bf16: `[outputs rounded up to 32, inputs rounded up to 32]`, rows at [`packed_row`]
    /// * bf16x3: two of those, what each weight rounds to and what is left of it
    ///
    /// and zeros elsewhere.
    pub(super) fn pack(&self, precision: Precision) -> Vec<u8> {
        match precision {
            Precision::Auto | Precision::F32 => bytemuck::cast_slice(&self.columns()).to_vec(),
            Precision::F16 => self.permuted(|x| f16::from_f32(x).to_bits()),
            Precision::Bf16 => self.permuted(|x| bf16::from_f32(x).to_bits()),
            Precision::Bf16x3 => {
                let near = |x| bf16::from_f32(x);
                let left = |x: f32| bf16::from_f32(x - near(x).to_f32());
                [self.permuted(|x| near(x).to_bits()), self.permuted(|x| left(x).to_bits())].concat()
            }
        }
    }

    /// From what [`Matrix::pack`] made: the numbers a product with it sees.
    pub(super) fn unpack(packed: &[u8], precision: Precision, inputs: usize, outputs: usize) -> Self {
        let mut matrix = Self { weight: vec![0.0; inputs * outputs], inputs, outputs };
        match precision {
            Precision::Auto | Precision::F32 => matrix.read_columns(bytemuck::cast_slice(packed)),
            Precision::F16 => matrix.add_permuted(packed, |bits| f16::from_bits(bits).to_f32()),
            Precision::Bf16 | Precision::Bf16x3 => {
                for part in packed.chunks_exact(matrix.permuted_bytes().max(1)) {
                    matrix.add_permuted(part, |bits| bf16::from_bits(bits).to_f32());
                }
            }
        }
        matrix
    }

    pub(super) fn transposed(&self) -> Self {
        let mut weight = vec![0.0; self.weight.len()];
        for (output, row) in self.weight.chunks_exact(self.inputs.max(1)).enumerate() {
            for (input, &x) in row.iter().enumerate() {
                weight[input * self.outputs + output] = x;
            }
        }
        Self { weight, inputs: self.outputs, outputs: self.inputs }
    }

    /// `[inputs, outputs rounded up to 4]`
    fn columns(&self) -> Vec<f32> {
        let stride = self.outputs.next_multiple_of(4);
        let mut columns = vec![0.0; self.inputs * stride];
        for (output, row) in self.weight.chunks_exact(self.inputs.max(1)).enumerate() {
            for (k, &x) in row.iter().enumerate() {
                columns[k * stride + output] = x;
            }
        }
        columns
    }

    fn read_columns(&mut self, columns: &[f32]) {
        let stride = self.outputs.next_multiple_of(4);
        for (output, row) in self.weight.chunks_exact_mut(self.inputs.max(1)).enumerate() {
            for (k, x) in row.iter_mut().enumerate() {
                *x = columns[k * stride + output];
            }
        }
    }

    /// `[outputs rounded up to 32, inputs rounded up to 32]`, each number in 16 bits.
    fn permuted(&self, round: impl Fn(f32) -> u16 + Sync) -> Vec<u8> {
        let stride = self.inputs.next_multiple_of(STEP);
        let mut packed = vec![0u16; self.permuted_bytes() / 2];
        packed.par_chunks_exact_mut(stride.max(1)).enumerate().for_each(|(place, to)| {
            let output = packed_output(place);
            if output < self.outputs {
                let row = &self.weight[output * self.inputs..][..self.inputs];
                to.iter_mut().zip(row).for_each(|(to, &x)| *to = round(x));
            }
        });
        bytemuck::cast_slice(&packed).to_vec()
    }

    fn permuted_bytes(&self) -> usize {
        2 * self.outputs.next_multiple_of(GROUP) * self.inputs.next_multiple_of(STEP)
    }

    fn add_permuted(&mut self, packed: &[u8], widen: impl Fn(u16) -> f32) {
        let stride = self.inputs.next_multiple_of(STEP);
        let (words, _) = packed.as_chunks();
        for (output, row) in self.weight.chunks_exact_mut(self.inputs.max(1)).enumerate() {
            let from = &words[packed_row(output) * stride..];
            row.iter_mut().zip(from).for_each(|(x, &word)| *x += widen(u16::from_le_bytes(word)));
        }
    }
}

/// Where column `8 t + 2 j + e` of a group of 32 is packed: `8 j + 2 t + e`. A product leaves lane t of a quad with columns 2t and 2t + 1 of each
/// eight; so they become its eight neighbours.
fn packed_row(output: usize) -> usize {
    let (group, column) = (output / GROUP, output % GROUP);
    let (t, j, e) = (column / 8, column % 8 / 2, column % 2);
    group * GROUP + 8 * j + 2 * t + e
}

/// Which column is packed there.
fn packed_output(row: usize) -> usize {
    let (group, place) = (row / GROUP, row % GROUP);
    let (j, t, e) = (place / 8, place % 8 / 2, place % 2);
    group * GROUP + 8 * t + 2 * j + e
}

#[cfg(test)]
mod tests {
    use super::{packed_output, packed_row};

    #[test]
    fn what_is_packed_somewhere_is_found_there() {
        assert!((0..96).all(|output| packed_output(packed_row(output)) == output));
    }
}
