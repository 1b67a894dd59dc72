//! The embedding stage, with and without its optional tables, and tokens beyond them.

use super::support::{Numbers, assert_accurate, batch, bits, cpus};
use wherefore::Error;
use wherefore::backend::cpu::Cpu;
use wherefore::backend::reference::Reference;
use wherefore::backend::{Backend, Embeddings, Norm};
use wherefore::tokens::PackedBatch;

pub(super) const VOCABULARY: usize = 50;
const POSITIONS: usize = 64;

pub(super) struct Tables {
    word: Vec<f32>,
    position: Option<Vec<f32>>,
    token_type: Option<Vec<f32>>,
    task: Option<Vec<f32>>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    width: usize,
}

impl Tables {
    pub(super) fn new(width: usize, optional: [bool; 3]) -> Self {
        let mut numbers = Numbers::new(width as u64);
        let mut table = |there: bool, rows: usize| there.then(|| numbers.vector(rows * width, 0.5));
        Self {
            word: table(true, VOCABULARY).unwrap(),
            position: table(optional[0], POSITIONS),
            token_type: table(optional[1], 2),
            task: table(optional[2], 1),
            weight: table(true, 1).unwrap(),
            bias: table(true, 1).unwrap(),
            width,
        }
    }

    pub(super) fn run<B: Backend>(&self, backend: &B, batch: &PackedBatch) -> wherefore::Result<B::Tensor> {
        self.run_on(backend, &backend.stage(batch.clone())?, batch.tokens())
    }

    pub(super) fn run_on<B: Backend>(
        &self,
        backend: &B,
        batch: &B::Batch,
        tokens: usize,
    ) -> wherefore::Result<B::Tensor> {
        let upload = |table: &Option<Vec<f32>>| table.as_deref().map(|t| backend.upload(t).unwrap());
        let norm = Norm {
            weight: backend.upload(&self.weight)?,
            bias: backend.upload(&self.bias)?,
            epsilon: 1e-5,
            width: self.width,
        };
        let embeddings = Embeddings {
            word: backend.upload(&self.word)?,
            position: upload(&self.position),
            token_type: upload(&self.token_type),
            task: upload(&self.task),
            norm,
        };
        let mut out = backend.tensor(tokens * self.width)?;
        backend.embed(&mut out, &embeddings, batch)?;
        Ok(out)
    }

    /// Plain f32 loops.
    pub(super) fn plain(&self, batch: &PackedBatch) -> Vec<f32> {
        let entry = |table: &Option<Vec<f32>>, row: u32, i: usize| {
            table.as_ref().map_or(0.0, |table| table[row as usize * self.width + i])
        };
        let token = |t: usize| {
            let sum = |i| {
                self.word[batch.ids[t] as usize * self.width + i]
                    + entry(&self.position, batch.positions[t], i)
                    + entry(&self.token_type, batch.type_ids[t], i)
                    + entry(&self.task, 0, i)
            };
            let x: Vec<f32> = (0..self.width).map(sum).collect();
            let mean = x.iter().sum::<f32>() / self.width as f32;
            let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / self.width as f32;
            let scale = 1.0 / (variance + 1e-5).sqrt();
            (0..self.width).map(|i| (x[i] - mean) * scale * self.weight[i] + self.bias[i]).collect::<Vec<_>>()
        };
        (0..batch.tokens()).flat_map(token).collect()
    }
}

#[test]
fn error_with_every_choice_of_tables() {
    let batch = batch(&[1, 9, 30], VOCABULARY as u32, &mut Numbers::new(1));
    for width in [1, 7, 16, 33, 384] {
        for choice in 0..8 {
            let tables = Tables::new(width, [0, 1, 2].map(|bit| choice >> bit & 1 == 1));
            let (values, exact) = (tables.run(&Cpu::new(), &batch).unwrap(), tables.run(&Reference, &batch).unwrap());
            assert_accurate(&format!("width {width}, choice {choice}"), &values, &tables.plain(&batch), &exact);
            for cpu in cpus() {
                assert_eq!(bits(&tables.run(&cpu, &batch).unwrap()), bits(&values), "{}", cpu.isa().name());
            }
        }
    }
}

/// What both backends say of a batch.
fn refusals(batch: &PackedBatch) -> [Error; 2] {
    let tables = Tables::new(8, [true; 3]);
    [tables.run(&Cpu::new(), batch).unwrap_err(), tables.run(&Reference, batch).unwrap_err()]
}

#[test]
fn a_token_beyond_a_table_is_refused() {
    let good = batch(&[3], VOCABULARY as u32, &mut Numbers::new(2));
    let (mut id, mut position, mut segment) = (good.clone(), good.clone(), good);
    id.ids[1] = VOCABULARY as u32;
    position.positions[2] = u32::MAX;
    segment.type_ids[0] = 2;
    let expected = [
        (id, "token id 50 is beyond the model's table of 50"),
        (position, "position 4294967295 is beyond the model's table of 64"),
        (segment, "segment 2 is beyond the model's table of 2"),
    ];
    for (batch, message) in expected {
        for error in refusals(&batch) {
            assert_eq!(error.to_string(), message);
            assert!(error.hint().is_some());
        }
    }
}
