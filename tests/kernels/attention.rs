//! Attention over ragged batches, head widths off every grid, and scores that saturate.

use super::support::{Numbers, assert_accurate, batch, bits, cpus};
use wherefore::backend::cpu::Cpu;
use wherefore::backend::reference::Reference;
use wherefore::backend::{Attended, AttentionShape, Backend, Columns, Rows};
use wherefore::tokens::PackedBatch;

/// Queries, keys and values side by side in one matrix, as a fused projection leaves them.
pub(super) struct Case {
    qkv: Vec<f32>,
    pub(super) batch: PackedBatch,
    heads: usize,
    head_width: usize,
}

impl Case {
    fn new(lengths: &[u32], heads: usize, head_width: usize, scale: f32) -> Self {
        let mut numbers = Numbers::new(u64::from(lengths[0]) + head_width as u64);
        let batch = batch(lengths, 1, &mut numbers);
        Self { qkv: numbers.vector(batch.tokens() * 3 * heads * head_width, scale), batch, heads, head_width }
    }

    /// With operands rounded, as a device stores them.
    pub(super) fn rounded(&self, round: impl Fn(f32) -> f32) -> Self {
        Self { qkv: self.qkv.iter().map(|&x| round(x)).collect(), batch: self.batch.clone(), ..*self }
    }

    pub(super) fn width(&self) -> usize {
        self.heads * self.head_width
    }

    /// For [`Rows::First`] the queries are the first rows of the same matrix, copied together.
    pub(super) fn run<B: Backend>(&self, backend: &B, queries: Rows) -> B::Tensor {
        let (width, stride) = (self.width(), 3 * self.width());
        let qkv = backend.upload(&self.qkv).unwrap();
        let first = self.batch.cu_seqlens[..self.batch.sequences()].iter();
        let first: Vec<f32> = first.flat_map(|&t| self.qkv[t as usize * stride..][..width].to_vec()).collect();
        let first = backend.upload(&first).unwrap();
        let view = |offset| Columns { tensor: &qkv, stride, offset };
        let (q, rows) = match queries {
            Rows::All => (view(0), self.batch.tokens()),
            Rows::First => (Columns { tensor: &first, stride: width, offset: 0 }, self.batch.sequences()),
        };
        let staged = backend.stage(self.batch.clone()).unwrap();
        let shape = AttentionShape { heads: self.heads, head_width: self.head_width, queries };
        let mut out = backend.tensor(rows * width).unwrap();
        let attended = Attended { q, k: view(width), v: view(2 * width), batch: &staged, shape };
        backend.attention(&mut out, &attended).unwrap();
        out
    }

    /// Plain f32 loops.
    pub(super) fn plain(&self) -> Vec<f32> {
        let (width, stride) = (self.width(), 3 * self.width());
        let mut out = vec![0.0; self.batch.tokens() * width];
        for sequence in 0..self.batch.sequences() {
            for row in self.batch.range(sequence) {
                for head in 0..self.heads {
                    let part = |row: usize, kind: usize| {
                        &self.qkv[row * stride + kind * width + head * self.head_width..][..self.head_width]
                    };
                    let score = |token| part(row, 0).iter().zip(part(token, 1)).map(|(a, b)| a * b).sum::<f32>();
                    let scale = (self.head_width as f32).sqrt();
                    let scores: Vec<f32> = self.batch.range(sequence).map(|t| score(t) / scale).collect();
                    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    let weights: Vec<f32> = scores.iter().map(|s| (s - largest).exp()).collect();
                    let sum: f32 = weights.iter().sum();
                    let out = &mut out[row * width + head * self.head_width..][..self.head_width];
                    for (weight, token) in weights.iter().zip(self.batch.range(sequence)) {
                        out.iter_mut().zip(part(token, 2)).for_each(|(out, v)| *out += weight / sum * v);
                    }
                }
            }
        }
        out
    }

    /// One sequence of the batch by itself.
    pub(super) fn alone(&self, sequence: usize) -> Self {
        let range = self.batch.range(sequence);
        let stride = 3 * self.width();
        let mut batch = PackedBatch { cu_seqlens: vec![0, range.len() as u32], ..PackedBatch::default() };
        batch.ids = vec![0; range.len()];
        batch.type_ids = batch.ids.clone();
        batch.positions = batch.ids.clone();
        Self { qkv: self.qkv[range.start * stride..range.end * stride].to_vec(), batch, ..*self }
    }
}

const LENGTHS: [&[u32]; 4] = [&[1], &[5, 1, 16, 17, 2], &[33, 64, 15], &[300, 1, 7]];
const HEADS: [(usize, usize); 7] = [(1, 1), (3, 8), (2, 16), (12, 32), (2, 33), (1, 64), (2, 100)];

pub(super) fn cases(scale: f32) -> impl Iterator<Item = Case> {
    LENGTHS.into_iter().flat_map(move |lengths| HEADS.map(|(heads, width)| Case::new(lengths, heads, width, scale)))
}

pub(super) fn name(case: &Case) -> String {
    format!("{:?}, {} heads of {}", case.batch.cu_seqlens, case.heads, case.head_width)
}

#[test]
fn error_over_lengths_and_heads() {
    for scale in [1e-6, 1.0, 12.0] {
        for case in cases(scale) {
            let (values, exact) = (case.run(&Cpu::new(), Rows::All), case.run(&Reference, Rows::All));
            assert_accurate(&format!("{} × {scale}", name(&case)), &values, &case.plain(), &exact);
        }
    }
}

#[test]
fn saturated_scores_pick_one_value() {
    // Scores of ±1e8 apart: the softmax is one-hot, and nothing overflows.
    for case in cases(1e4) {
        let out = case.run(&Cpu::new(), Rows::All);
        assert!(out.iter().all(|x| x.is_finite() && x.abs() <= 1.01e4), "{}", name(&case));
    }
}

#[test]
fn the_first_rows_alone_have_the_bits_they_have_among_all() {
    for case in cases(1.0) {
        let (all, first) = (case.run(&Cpu::new(), Rows::All), case.run(&Cpu::new(), Rows::First));
        for (sequence, row) in first.chunks(case.width()).enumerate() {
            let token = case.batch.range(sequence).start;
            assert_eq!(bits(row), bits(&all[token * case.width()..][..case.width()]), "{}", name(&case));
        }
    }
}

#[test]
fn the_first_rows_of_the_reference_agree_with_all() {
    let case = Case::new(&[5, 3], 2, 8, 1.0);
    let (all, first) = (case.run(&Reference, Rows::All), case.run(&Reference, Rows::First));
    assert_eq!(first[..16], all[..16]);
    assert_eq!(first[16..], all[5 * 16..6 * 16]);
}

#[test]
fn every_instruction_set_gives_the_same_bits() {
    for case in cases(1.0) {
        let results: Vec<_> = cpus().iter().map(|cpu| bits(&case.run(cpu, Rows::All))).collect();
        assert!(results.iter().all(|r| *r == results[0]), "{}", name(&case));
    }
}

#[test]
fn a_sequence_has_the_same_bits_in_any_company() {
    for case in cases(1.0) {
        let whole = case.run(&Cpu::new(), Rows::All);
        for sequence in 0..case.batch.sequences() {
            let range = case.batch.range(sequence);
            let part = case.alone(sequence).run(&Cpu::new(), Rows::All);
            assert_eq!(
                bits(&part),
                bits(&whole[range.start * case.width()..range.end * case.width()]),
                "{}",
                name(&case)
            );
        }
    }
}
