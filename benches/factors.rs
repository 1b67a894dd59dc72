//! Refits and curvature over many training records: `cargo bench --bench factors`.
//!
//! 100,000 records of width 384 (`WHEREFORE_BENCH_ROWS` gives another number), two classes; on all threads of the
//! machine, or as many as `RAYON_NUM_THREADS` says. Every figure includes the passes over the data.

use criterion::{Criterion, criterion_group, criterion_main};
use wherefore::factors::{
    Curvature, CurvatureOptions, HessianForm, InMemory, LabelVec, QueryFactors, RefitOptions, Target, loss_and_delta,
    refit,
};
use wherefore::model::Problem;

const WIDTH: usize = 384;
const CLASSES: usize = 2;

/// Numbers between −1 and 1: SplitMix64.
fn uniform(count: usize) -> Vec<f32> {
    let mix = |i: usize| {
        let state = (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 40) as f32 / (1_u32 << 23) as f32 - 1.0
    };
    (0..count).map(mix).collect()
}

/// Features of a tanh's size, and labels that a head can learn in nine records out of ten.
fn training(rows: usize) -> InMemory {
    let features = uniform(rows * WIDTH);
    let mut deltas = vec![0.0; rows * CLASSES];
    let mut ids = Vec::with_capacity(rows);
    for (h, delta) in features.chunks_exact(WIDTH).zip(deltas.chunks_exact_mut(CLASSES)) {
        let z: f32 = h[..32].iter().sum::<f32>() + h[WIDTH - 1];
        let class = usize::from(z > h[0]);
        ids.push(class as i64);
        loss_and_delta(Problem::SingleLabel, &[-z, z], &Target::Class(class), delta);
    }
    InMemory {
        problem: Problem::SingleLabel,
        width: WIDTH,
        classes: CLASSES,
        features,
        deltas,
        labels: LabelVec::Classes(ids),
        weights: Vec::new(),
        rows_at_a_time: 16_384,
    }
}

fn factors(criterion: &mut Criterion) {
    let rows = std::env::var("WHEREFORE_BENCH_ROWS").ok().and_then(|rows| rows.parse().ok()).unwrap_or(100_000);
    let source = training(rows);
    let go_on = || true;
    let mut group = criterion.benchmark_group(format!("factors/{rows}x{WIDTH}x{CLASSES}"));
    group.sample_size(10);
    for (name, cholesky_limit) in [("refit", 8192), ("refit by conjugate gradients", 0)] {
        let options = RefitOptions { cholesky_limit, ..RefitOptions::default() };
        group.bench_function(name, |bencher| bencher.iter(|| refit(&source, &options, &go_on).expect("a refit")));
    }
    for (name, form) in [("exact curvature", HessianForm::Exact), ("kronecker curvature", HessianForm::Kronecker)] {
        let options = CurvatureOptions { form, ..CurvatureOptions::default() };
        let fit = || Curvature::fit(&source, options, &go_on).expect("a curvature");
        group.bench_function(name, |bencher| bencher.iter(fit));
        let curvature = fit();
        let queries: Vec<QueryFactors<'_>> = (0..64)
            .map(|q| QueryFactors {
                delta: &source.deltas[q * CLASSES..][..CLASSES],
                features: &source.features[q * WIDTH..][..WIDTH],
            })
            .collect();
        group.bench_function(format!("{name}, 64 queries"), |bencher| {
            bencher.iter(|| curvature.precondition(&queries, &go_on).expect("queries"));
        });
        group.bench_function(format!("{name}, self-influence"), |bencher| {
            bencher.iter(|| curvature.self_influence(&go_on).expect("self-influence"));
        });
    }
    group.finish();
}

criterion_group!(benches, factors);
criterion_main!(benches);
