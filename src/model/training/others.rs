//! Gradients of what is no linear layer, record by record and projected: normalisations' and embedding tables'.
//!
//! A normalisation's is `Σ_t [δ_t ⊙ x̂_t, δ_t] [E, 2]`, x̂ what it made of its input before its own scale and shift; a
//! table's is `Σ_t δ_t e_tᵀ [E, rows]`, e_t the unit vector of the row that token t read. Either is a sum of outer
//! products, projected on both sides as a linear layer's is: the first of two, a record's sums and a unit vector each;
//! of e_t, what is left is a column of the projection.

use super::network::Network;
use super::pass::Pass;
use super::projection::{Projection, Slot};
use super::sink::Normed;
use super::two_sided::Ready;
use crate::backend::Rows;
use crate::backend::training::{Named, NormProducts, Products, Training};
use crate::error::Result;
use crate::tokens::PackedBatch;

/// The projections of all of them, by their numbers, which go on from the linear layers'.
pub(super) struct Others<B: Training> {
    first: usize,
    layers: Vec<Other<B>>,
}

struct Other<B: Training> {
    slot: Slot,
    /// P_out.
    output: Ready<B>,
    /// P_inᵀ, `[whole, kept]`.
    input: B::Tensor,
}

impl<B: Training> Others<B> {
    /// Of the slots that come after the linear layers'.
    pub(super) fn new(backend: &B, projection: &Projection, slots: &[Slot], linears: usize) -> Result<Self> {
        let other = |slot: &Slot| -> Result<_> {
            let Slot { number, inputs, outputs, .. } = *slot;
            let output = projection.on_host(number, outputs);
            Ok(Other {
                slot: *slot,
                output: Ready::columns(backend, &output, outputs.whole, 0..outputs.whole)?,
                input: backend.upload(&projection.on_host(number, inputs).turned(inputs.whole))?,
            })
        };
        Ok(Self { first: linears, layers: slots[linears..].iter().map(other).collect::<Result<_>>()? })
    }

    fn at(&self, number: usize) -> &Other<B> {
        &self.layers[number - self.first]
    }

    /// Adds a normalisation's.
    pub(super) fn norm(
        &self,
        (network, pass): (&Network<B>, &Pass<'_, B>),
        sum: &mut Sum<'_, B>,
        Normed { of, norm, rows, dy, x }: Normed<'_, B>,
    ) -> Result<()> {
        let Some(number) = network.norm_place(of) else { return Ok(()) };
        let (backend, sequences, width) = (pass.backend, pass.sequences, norm.width);
        let mut sums = backend.results(2 * sequences * width)?;
        backend.norm_products(
            &mut sums,
            dy,
            x,
            NormProducts { batch: pass.batch, rows, epsilon: norm.epsilon, width },
        )?;
        let pairs = backend.stage(pairs(sequences))?;
        self.at(number).add(backend, sum, &sums, (&pairs, 2 * sequences), Named::TokenType)
    }

    /// Adds the tables': `d_sum [T, E]` of the sum of the rows read.
    pub(super) fn tables(
        &self,
        (network, pass): (&Network<B>, &Pass<'_, B>),
        sum: &mut Sum<'_, B>,
        d_sum: &B::Tensor,
    ) -> Result<()> {
        let mut tables = network.table_places().into_iter();
        tables.try_for_each(|(number, named)| {
            self.at(number).add(pass.backend, sum, d_sum, (pass.batch, pass.tokens), named)
        })
    }
}

/// Where a batch's numbers come together.
pub(super) struct Sum<'a, B: Training> {
    /// `[B, width]`
    pub(super) out: &'a mut B::Tensor,
    pub(super) width: usize,
    /// Room for both sides' projections of all rows.
    pub(super) sides: &'a mut [B::Tensor; 2],
}

impl<B: Training> Other<B> {
    /// `out += Σ (P_out d)(P_in e)ᵀ` over each sequence's rows of `d [rows, outputs]`, e the unit vector of the row
    /// that each names.
    fn add(
        &self,
        backend: &B,
        Sum { out, width, sides: [dy, x] }: &mut Sum<'_, B>,
        d: &B::Tensor,
        (batch, rows): (&B::Batch, usize),
        named: Named,
    ) -> Result<()> {
        let Self { slot, output, input } = self;
        let (inputs, outputs) = (slot.inputs.kept, slot.outputs.kept);
        output.apply(backend, dy, d, rows)?;
        backend.look_up(x, input, named, batch, inputs)?;
        let products = Products { batch, rows: Rows::All, inputs, outputs, stride: *width, offset: slot.offset };
        backend.outer_products(out, dy, x, products)
    }
}

/// Sequences of two rows each, which name the first and the second of a table by their segment.
fn pairs(sequences: usize) -> PackedBatch {
    let rows = 2 * sequences as u32;
    let nothing = vec![0; 2 * sequences];
    PackedBatch {
        ids: nothing.clone(),
        positions: nothing,
        type_ids: (0..rows).map(|row| row % 2).collect(),
        cu_seqlens: (0..=rows).step_by(2).collect(),
    }
}
