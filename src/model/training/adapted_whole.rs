//! Gradients as AdamW would follow them (`adapted.rs` has the formula) on a device with room for them: a layer's of
//! several records is made whole, adapted where it lies, and goes through the projections as rows of a linear layer and
//! a sum of outer products, over its outputs. Normalisations and tables are the host's there, too.

use std::collections::HashMap;
use std::sync::Mutex;

use super::adam::{AdamMoments, LayerMoments};
use super::adapted::{EPSILON, check, rests, to_unit_length};
use super::adapted_others::{AdaptedOthers, Adapting as OthersOf};
use super::network::{Network, Part, Ran, Seed};
use super::pass::Pass;
use super::projection::{Projection, Slot};
use super::sink::{Linear, Normed, Operands, Sink};
use super::tracer::Take;
use crate::backend::training::{AdaptedStep, Named, Pair, Products, Training};
use crate::backend::{Activation, Rows};
use crate::error::Result;
use crate::model::Outputs;
use crate::sync::lock;
use crate::tokens::PackedBatch;

/// Numbers that the records of a pass have in their gradients of the largest layer, at the most: half a GiB.
const NUMBERS: usize = 1 << 27;
/// Numbers of records and of outputs whose batches are kept.
const BATCHES: usize = 32;

/// The moments of linear layers on the device, and their projections.
pub(super) struct AdaptedWhole<B: Training> {
    layers: Vec<Layer<B>>,
    /// What is no linear layer, where it is asked for.
    others: Option<AdaptedOthers>,
    width: usize,
    rests: [f32; 2],
    most_records: usize,
    /// By how many records and how many outputs they are of: a sequence a record, a row an output.
    batches: Mutex<HashMap<[usize; 2], B::Batch>>,
}

struct Layer<B: Training> {
    slot: Slot,
    /// Of `[outputs, inputs]` and of `[outputs]`.
    moments: Pair<Moments<B>>,
    /// P_in but for its last column, which is the bias's, and that column.
    input: Pair<B::Linear>,
    /// P_outᵀ, `[outputs, kept]`.
    output: B::Tensor,
}

/// β₁ m and β₂ v + ε.
struct Moments<B: Training> {
    drift: B::Tensor,
    floor: B::Tensor,
    len: usize,
}

impl<B: Training> AdaptedWhole<B> {
    /// Of all layers' slots, the linear ones first, and `width` numbers a record.
    pub(super) fn new(
        network: &Network<B>,
        projection: &Projection,
        slots: &[Slot],
        width: usize,
        moments: &AdamMoments,
    ) -> Result<Self> {
        check(network, slots, moments)?;
        let (backend, betas) = (&network.backend, moments.betas());
        let layer = |(slot, moments): (&Slot, &LayerMoments)| Layer::new(backend, projection, slot, moments, betas);
        let largest = network.linears().iter().map(|(inputs, outputs)| inputs * outputs).max().unwrap_or(1);
        Ok(Self {
            layers: slots.iter().zip(moments.layers()).map(layer).collect::<Result<_>>()?,
            others: AdaptedOthers::of(network, projection, slots, width, moments),
            width,
            rests: rests(betas),
            most_records: (NUMBERS / largest).max(1),
            batches: Mutex::default(),
        })
    }
}

impl<B: Training> Layer<B> {
    fn new(
        backend: &B,
        projection: &Projection,
        slot: &Slot,
        moments: &LayerMoments,
        [beta1, beta2]: [f64; 2],
    ) -> Result<Self> {
        let Slot { number, inputs, outputs, .. } = *slot;
        // The bias's column is kept apart, so that rows of weights are whole.
        let apart = |values: &[f32], make: &dyn Fn(f64) -> f64| -> Pair<Vec<f32>> {
            let made = |x: &f32| make(f64::from(*x)) as f32;
            let rows = || values.chunks_exact(inputs.whole).map(|row| row.split_last().expect("a bias in every row"));
            Pair {
                weight: rows().flat_map(|(_, row)| row.iter().map(made)).collect(),
                bias: rows().map(|(bias, _)| made(bias)).collect(),
            }
        };
        let drift = apart(&moments.first, &|m| beta1 * m);
        let floor = apart(&moments.second, &|v| beta2 * v + EPSILON);
        let both = |drift: &[f32], floor: &[f32]| -> Result<_> {
            Ok(Moments { drift: backend.upload(drift)?, floor: backend.upload(floor)?, len: drift.len() })
        };
        let columns = projection.on_host(number, inputs).turned(inputs.whole); // [inputs, kept]
        let packed = |columns: &[f32]| {
            let count = columns.len() / inputs.kept;
            let row = |place: usize| columns.iter().skip(place).step_by(inputs.kept).copied();
            let weight: Vec<f32> = (0..inputs.kept).flat_map(row).collect();
            backend.pack_linear(&weight, &vec![0.0; inputs.kept], count, inputs.kept)
        };
        let (of_weight, of_bias) = columns.split_at((inputs.whole - 1) * inputs.kept);
        Ok(Self {
            slot: *slot,
            moments: Pair { weight: both(&drift.weight, &floor.weight)?, bias: both(&drift.bias, &floor.bias)? },
            input: Pair { weight: packed(of_weight)?, bias: packed(of_bias)? },
            output: backend.upload(&projection.on_host(number, outputs).turned(outputs.whole))?,
        })
    }

    /// Zeros for the gradients of so many records.
    fn zeros(&self, backend: &B, records: usize) -> Result<Pair<B::Tensor>> {
        let zeros = |moments: &Moments<B>| -> Result<_> {
            let mut tensor = backend.results(records * moments.len)?;
            backend.clear(&mut tensor)?;
            Ok(tensor)
        };
        Ok(Pair { weight: zeros(&self.moments.weight)?, bias: zeros(&self.moments.bias)? })
    }
}

impl<B: Training> Take<B> for AdaptedWhole<B> {
    fn take(&self, network: &Network<B>, batch: PackedBatch, seed: Seed<'_>) -> Result<Outputs> {
        let (tokens, sequences, backend) = (batch.tokens(), batch.sequences(), &network.backend);
        let mut out = backend.results(sequences * self.width)?;
        backend.clear(&mut out)?;
        // Who else reads the tokens.
        let kept = self.others.as_ref().map(|others| (others, batch.clone()));
        let mut sink = Adapting {
            of: self,
            network,
            others: kept.as_ref().map(|(others, batch)| others.adapting(batch)),
            scales: Vec::new(),
            ones: backend.upload(&vec![1.0; tokens])?,
            visits: network.visits(),
            gradients: self.layers.iter().map(|_| None).collect(),
            out: &mut out,
        };
        let Ran { logits, .. } = network.run(batch, seed, &mut sink)?;
        let of_others = sink.others.map(OthersOf::finish);
        let mut features = vec![0.0; sequences * self.width];
        backend.download(&mut features, &out)?;
        for (feature, other) in features.iter_mut().zip(of_others.iter().flatten()) {
            *feature += other;
        }
        to_unit_length(&mut features, self.width);
        Ok(Outputs { features, logits })
    }

    fn most_records(&self) -> usize {
        self.most_records
    }
}

/// Adds up each record's gradients of a layer until the way back has come past all of its places, and adapts them then.
struct Adapting<'a, B: Training> {
    of: &'a AdaptedWhole<B>,
    network: &'a Network<B>,
    others: Option<OthersOf<'a>>,
    /// What each record's gradients are larger by.
    scales: Vec<f32>,
    /// `[T]`: what biases are multiplied by.
    ones: B::Tensor,
    visits: Vec<usize>,
    /// `[B, outputs, inputs]` and `[B, outputs]` of layers that there is more to come of.
    gradients: Vec<Option<Pair<B::Tensor>>>,
    /// `[B, width]`
    out: &'a mut B::Tensor,
}

impl<B: Training> Sink<B> for Adapting<'_, B> {
    fn scaled(&mut self, scales: &[f32]) {
        self.scales = scales.to_vec();
        if let Some(others) = &mut self.others {
            others.scaled(scales);
        }
    }

    fn linear(&mut self, pass: &Pass<'_, B>, of: Linear, rows: Rows, operands: Operands<'_, B>) -> Result<()> {
        let ((number, part), backend) = (self.network.place(of), pass.backend);
        let Operands { dy, x, inputs, outputs } = operands;
        let layer = &self.of.layers[number];
        let whole = layer.slot.outputs.whole;
        let first = if part == Part::KeysAndValues { whole - outputs } else { 0 };
        let mut gradient = match self.gradients[number].take() {
            Some(gradient) => gradient,
            None => layer.zeros(backend, pass.sequences)?,
        };
        let products = |inputs| {
            let (stride, offset) = (whole * inputs, first * inputs);
            Products { batch: pass.batch, rows, inputs, outputs, stride, offset }
        };
        backend.outer_products(&mut gradient.weight, dy, x, products(inputs))?;
        backend.outer_products(&mut gradient.bias, dy, &self.ones, products(1))?;
        self.visits[number] -= 1;
        if self.visits[number] > 0 {
            self.gradients[number] = Some(gradient);
            return Ok(());
        }
        self.project(backend, layer, &gradient, pass.sequences)
    }

    fn norm(&mut self, pass: &Pass<'_, B>, normed: Normed<'_, B>) -> Result<()> {
        let Some(others) = &mut self.others else { return Ok(()) };
        others.norm((self.network, pass), normed)
    }

    fn tables(&mut self, pass: &Pass<'_, B>, d_sum: &B::Tensor, width: usize) -> Result<()> {
        let Some(others) = &mut self.others else { return Ok(()) };
        others.tables(self.network, pass, d_sum, width)
    }
}

impl<B: Training> Adapting<'_, B> {
    /// `out += P_out U P_inᵀ`, U the adapted gradients of some records: rows of U by P_in first.
    fn project(&mut self, backend: &B, layer: &Layer<B>, gradient: &Pair<B::Tensor>, records: usize) -> Result<()> {
        let Layer { slot, moments, input, output } = layer;
        let (rows, inputs, outputs) = (records * slot.outputs.whole, slot.inputs.kept, slot.outputs.kept);
        let adapted = |Moments { drift, floor, len }: &Moments<B>, gradient| -> Result<B::Tensor> {
            let mut adapted = backend.tensor(records * len)?;
            let step = AdaptedStep { drift, floor, rests: self.of.rests, scales: &self.scales, len: *len };
            backend.adapt(&mut adapted, gradient, step)?;
            Ok(adapted)
        };
        let mut of_bias = backend.tensor(rows * inputs)?;
        let bias = adapted(&moments.bias, &gradient.bias)?;
        backend.linear(&mut of_bias, &bias, &input.bias, Activation::Identity, None, rows)?;
        let mut of_rows = backend.tensor(rows * inputs)?;
        let weight = adapted(&moments.weight, &gradient.weight)?;
        backend.linear(&mut of_rows, &weight, &input.weight, Activation::Identity, Some(&of_bias), rows)?;

        let mut batches = lock(&self.of.batches);
        if batches.len() == BATCHES {
            batches.clear();
        }
        let sizes = [records, slot.outputs.whole];
        let batch = match batches.remove(&sizes) {
            Some(batch) => batch,
            None => backend.stage(numbered(sizes))?,
        };
        let batch = &*batches.entry(sizes).or_insert(batch);
        let mut of_outputs = backend.tensor(rows * outputs)?;
        backend.look_up(&mut of_outputs, output, Named::Word, batch, outputs)?;
        let (stride, offset) = (self.of.width, slot.offset);
        let products = Products { batch, rows: Rows::All, inputs, outputs, stride, offset };
        backend.outer_products(self.out, &of_outputs, &of_rows, products)
    }
}

/// So many sequences of so many tokens each, whose ids are their numbers there.
fn numbered([sequences, tokens]: [usize; 2]) -> PackedBatch {
    let nothing = vec![0; sequences * tokens];
    PackedBatch {
        ids: (0..sequences).flat_map(|_| 0..tokens as u32).collect(),
        type_ids: nothing.clone(),
        positions: nothing,
        cu_seqlens: (0..=sequences).map(|sequence| (sequence * tokens) as u32).collect(),
    }
}
