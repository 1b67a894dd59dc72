//! Row vectors down through attention maps, on every device.

use wherefore::backend::cpu::Cpu;
use wherefore::backend::reference::{Plain, Reference};
use wherefore::backend::{Backend, Precision, Rows, Step};
use wherefore::tokens::PackedBatch;

use super::support::{Numbers, assert_accurate, batch, bits};
use crate::emulator;

/// Maps like softmax's, and a row, of sequences of these lengths.
struct Case {
    batch: PackedBatch,
    queries: Rows,
    map: Vec<f32>,
    row: Vec<f32>,
    below: Vec<f32>,
}

impl Case {
    fn new(lengths: &[u32], queries: Rows) -> Self {
        let mut numbers = Numbers::new(u64::from(lengths[0]));
        let pairs = |&length: &u32| length as usize * if queries == Rows::All { length as usize } else { 1 };
        let mut positive = |len| numbers.vector(len, 0.5).into_iter().map(|x| x + 0.5).collect::<Vec<_>>();
        let (map, row) = (positive(lengths.iter().map(pairs).sum()), positive(lengths.iter().sum::<u32>() as usize));
        let below = (0..lengths.len()).map(|sequence| 0.5_f32.powi(sequence as i32)).collect();
        Self { batch: batch(lengths, 1, &mut numbers), queries, map, row, below }
    }

    fn run<B: Backend>(&self, backend: &B, own: f32) -> B::Tensor {
        let (row, map) = (backend.upload(&self.row).unwrap(), backend.upload(&self.map).unwrap());
        let mut out = backend.results(self.row.len()).unwrap();
        let batch = backend.stage(self.batch.clone()).unwrap();
        let step = Step { queries: self.queries, own, below: &self.below };
        backend.follow(&mut out, &row, &map, &batch, step).unwrap();
        out
    }
}

#[test]
fn rows_followed_over_lengths_have_one_sum_on_every_device() {
    let gpu = emulator::gpu(Precision::F16);
    for lengths in [&[1][..], &[7, 8, 9, 1], &[31, 32, 33], &[130, 2, 64, 1]] {
        for queries in [Rows::All, Rows::First] {
            for own in [0.0, 0.5, 1.0] {
                let (case, what) = (Case::new(lengths, queries), format!("{lengths:?}, {queries:?}, {own}"));
                let (cpu, plain, exact) =
                    (case.run(&Cpu::new(), own), case.run(&Plain, own), case.run(&Reference, own));
                assert_accurate(&what, &cpu, &plain, &exact);
                let mut found = vec![0.0; case.row.len()];
                gpu.download(&mut found, &case.run(&gpu, own)).unwrap();
                assert_eq!(bits(&found), bits(&cpu), "{what}");
            }
        }
    }
}
