//! Pooling.

use super::support::{Numbers, assert_accurate, batch, bits, widen};
use wherefore::backend::Pooling::{self, First, Max, Mean, MeanSqrtLength};
use wherefore::backend::cpu::Cpu;
use wherefore::backend::reference::Reference;
use wherefore::backend::{Backend, Pooling as P};
use wherefore::tokens::PackedBatch;

pub(super) fn run<B: Backend>(backend: &B, x: &[f32], batch: &PackedBatch, pooling: P, width: usize) -> B::Tensor {
    let mut out = backend.tensor(batch.sequences() * width).unwrap();
    let staged = backend.stage(batch.clone()).unwrap();
    backend.pool(&mut out, &backend.upload(x).unwrap(), &staged, pooling, width).unwrap();
    out
}

/// Plain f32 loops.
pub(super) fn plain(x: &[f32], batch: &PackedBatch, pooling: Pooling, width: usize) -> Vec<f32> {
    let element = |i: usize| {
        let column = batch.range(i / width).map(|token| x[token * width + i % width]);
        let n = column.len() as f32;
        match pooling {
            First => column.into_iter().next().unwrap(),
            Mean => column.sum::<f32>() / n,
            Max => column.fold(f32::NEG_INFINITY, f32::max),
            MeanSqrtLength => column.sum::<f32>() / n.sqrt(),
        }
    };
    (0..batch.sequences() * width).map(element).collect()
}

#[test]
fn error_and_company() {
    let mut numbers = Numbers::new(1);
    let batch = batch(&[1, 2, 300, 17, 5], 1, &mut numbers);
    for width in [1, 7, 33, 384] {
        for scale in [1e-30, 1.0, 1e30] {
            let x = numbers.vector(batch.tokens() * width, scale);
            for pooling in [First, Mean, Max, MeanSqrtLength] {
                let values = run(&Cpu::new(), &x, &batch, pooling, width);
                let exact = run(&Reference, &x, &batch, pooling, width);
                let what = format!("{pooling:?}, width {width}, {scale}");
                assert_accurate(&what, &values, &plain(&x, &batch, pooling, width), &exact);
                for sequence in 0..batch.sequences() {
                    let range = batch.range(sequence);
                    let alone = PackedBatch { cu_seqlens: vec![0, range.len() as u32], ..PackedBatch::default() };
                    let part = run(&Cpu::new(), &x[range.start * width..range.end * width], &alone, pooling, width);
                    assert_eq!(bits(&part), bits(&values[sequence * width..][..width]), "{what}");
                }
            }
        }
    }
}

#[test]
fn first_and_largest_are_exact() {
    let batch = batch(&[2, 3], 1, &mut Numbers::new(2));
    let x = [1.0, -4.0, 3.0, -5.0, -1.0, 0.5, -2.0, -0.25, -3.0, 0.0];
    assert_eq!(run(&Cpu::new(), &x, &batch, First, 2), [1.0, -4.0, -1.0, 0.5]);
    assert_eq!(run(&Cpu::new(), &x, &batch, Max, 2), [3.0, -4.0, -1.0, 0.5]);
    assert_eq!(run(&Reference, &x, &batch, Max, 2), widen(&[3.0, -4.0, -1.0, 0.5]));
}
