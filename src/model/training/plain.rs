//! Gradients as they are, record by record and projected: both sides of each linear layer become short, and their
//! products are added up.

use std::sync::Mutex;

use super::network::{Network, Ran, Seed};
use super::others::{Others, Sum};
use super::pass::Pass;
use super::projection::{Projection, Slot};
use super::sink::{Linear, Normed, Operands, Sink};
use super::tracer::Take;
use super::two_sided::TwoSided;
use crate::backend::training::{Products, Training};
use crate::backend::{Backend, Rows};
use crate::error::Result;
use crate::model::Outputs;
use crate::sync::lock;
use crate::tokens::PackedBatch;

/// The projections of all layers.
pub(super) struct Plain<B: Training> {
    /// Every linear layer's, and the first of its places in a record's numbers.
    linears: Vec<(TwoSided<B>, usize)>,
    /// What is no linear layer, where it is asked for.
    others: Option<Others<B>>,
    width: usize,
    /// Numbers of the widest projected side.
    widest: usize,
    /// `[rows, widest]`: both sides of a layer, projected; and how many rows there is room for.
    sides: Mutex<Option<Sides<B>>>,
}

type Sides<B> = ([<B as Backend>::Tensor; 2], usize);

impl<B: Training> Plain<B> {
    /// Of all layers' slots, the linear ones first, and `width` numbers a record.
    pub(super) fn new(network: &Network<B>, projection: &Projection, slots: &[Slot], width: usize) -> Result<Self> {
        let (backend, linears) = (&network.backend, network.linears().len());
        let others = (slots.len() > linears).then(|| Others::new(backend, projection, slots, linears));
        let linear = |slot: &Slot| -> Result<_> {
            let Slot { number, inputs, outputs, offset } = *slot;
            let matrices = (projection.matrix(number, inputs), projection.matrix(number, outputs));
            let (whole, split) = ((inputs.whole, outputs.whole), network.is_split(number as usize));
            Ok((TwoSided::new(backend, &matrices.0, &matrices.1, whole, split)?, offset))
        };
        Ok(Self {
            linears: slots[..linears].iter().map(linear).collect::<Result<_>>()?,
            others: others.transpose()?,
            width,
            widest: slots.iter().map(|slot| slot.inputs.kept.max(slot.outputs.kept)).max().unwrap_or_default(),
            sides: Mutex::default(),
        })
    }
}

impl<B: Training> Take<B> for Plain<B> {
    fn take(&self, network: &Network<B>, batch: PackedBatch, seed: Seed<'_>) -> Result<Outputs> {
        let (sequences, width, backend) = (batch.sequences(), self.width, &network.backend);
        // Of a normalisation there are two rows a sequence.
        let (mut sides, rows) = (lock(&self.sides), batch.tokens().max(2 * sequences));
        if sides.as_ref().is_none_or(|(_, room)| rows > *room) {
            *sides = None;
            let side = || backend.tensor(rows * self.widest);
            *sides = Some(([side()?, side()?], rows));
        }
        let (sides, _) = sides.as_mut().expect("just made");
        let mut out = backend.results(sequences * width)?;
        backend.clear(&mut out)?;
        let mut sink = Contraction { network, of: self, sum: Sum { out: &mut out, width, sides } };
        let Ran { logits, scales } = network.run(batch, seed, &mut sink)?;
        let mut features = vec![0.0; sequences * width];
        backend.download(&mut features, &out)?;
        for (features, scale) in features.chunks_exact_mut(width).zip(scales) {
            for feature in features {
                *feature /= scale;
            }
        }
        Ok(Outputs { features, logits })
    }

    fn let_go(&self) {
        *lock(&self.sides) = None;
    }
}

/// Projects what a way back comes to, and adds the products of both sides up, record by record.
struct Contraction<'a, B: Training> {
    network: &'a Network<B>,
    of: &'a Plain<B>,
    sum: Sum<'a, B>,
}

impl<B: Training> Sink<B> for Contraction<'_, B> {
    fn linear(&mut self, pass: &Pass<'_, B>, of: Linear, rows: Rows, operands: Operands<'_, B>) -> Result<()> {
        let (number, part) = self.network.place(of);
        let (both, offset) = &self.of.linears[number];
        let Sum { out, width, sides } = &mut self.sum;
        both.apply(pass, sides, part, rows, &operands)?;
        let products = Products {
            batch: pass.batch,
            rows,
            inputs: both.inputs,
            outputs: both.outputs,
            stride: *width,
            offset: *offset,
        };
        let [dy, x] = &**sides;
        pass.backend.outer_products(out, dy, x, products)
    }

    fn norm(&mut self, pass: &Pass<'_, B>, normed: Normed<'_, B>) -> Result<()> {
        let Some(others) = &self.of.others else { return Ok(()) };
        others.norm((self.network, pass), &mut self.sum, normed)
    }

    fn tables(&mut self, pass: &Pass<'_, B>, d_sum: &B::Tensor, _width: usize) -> Result<()> {
        let Some(others) = &self.of.others else { return Ok(()) };
        others.tables((self.network, pass), &mut self.sum, d_sum)
    }
}
