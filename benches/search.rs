//! Exact search of 1M × 384 f32 (`WHEREFORE_BENCH_ROWS` for other sizes), top 10 of both ends.
//!
//! One query is bound by memory: its bytes/s stand beside `read`, a plain pass over the same bytes by the same threads.
//! Many queries are bound by arithmetic: "elements" are floating-point operations of the dot products (2 N E Q), so
//! that Gelem/s is GFLOP/s. Gradient rules multiply K more numbers a pair, and may take 10 % + K/E longer than feature
//! rules.

use std::hint::black_box;

use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use rayon::prelude::*;
use wherefore::backend::cpu::dot;
use wherefore::factors::{FactorRows, Floats};
use wherefore::search::{Form, Options, Query, search};

const WIDTH: usize = 384;
const CLASSES: usize = 2;
const TOP: usize = 10;

fn rows() -> usize {
    std::env::var("WHEREFORE_BENCH_ROWS").ok().and_then(|rows| rows.parse().ok()).unwrap_or(1_000_000)
}

/// Numbers in (−1, 1) from a linear congruential generator; which ones does not matter here.
fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

struct Data {
    features: Vec<f32>,
    deltas: Vec<f32>,
    feature_norms: Vec<f32>,
    delta_norms: Vec<f32>,
}

impl Data {
    fn new(rows: usize) -> Self {
        let (features, deltas) = (numbers(rows * WIDTH, 1), numbers(rows * CLASSES, 2));
        let norms = |values: &[f32], width| values.par_chunks_exact(width).map(|row| dot(row, row).sqrt()).collect();
        let (feature_norms, delta_norms) = (norms(&features, WIDTH), norms(&deltas, CLASSES));
        Self { features, deltas, feature_norms, delta_norms }
    }

    fn source(&self) -> FactorRows<'_> {
        FactorRows {
            rows: self.feature_norms.len(),
            width: WIDTH,
            classes: CLASSES,
            features: Floats::F32(&self.features),
            deltas: &self.deltas,
            feature_norms: &self.feature_norms,
            delta_norms: &self.delta_norms,
        }
    }
}

/// A pass over the memory that does next to nothing with it.
fn read(values: &[f32]) -> u64 {
    let pass = |part: &[f32]| bytemuck::cast_slice::<f32, u64>(part).iter().fold(0, |all, word| all ^ word);
    values.par_chunks(1024 * WIDTH).map(pass).reduce(|| 0, |a, b| a ^ b)
}

fn queries(rule: &str, count: usize) -> Vec<Query> {
    let one = |i: usize| {
        let h = numbers(WIDTH, 1000 + i as u32);
        if rule.starts_with("grad") { Query::gradient(h, numbers(CLASSES, 5000 + i as u32)) } else { Query::feature(h) }
    };
    (0..count).map(one).collect()
}

fn time<M: criterion::measurement::Measurement>(
    group: &mut BenchmarkGroup<'_, M>,
    source: &FactorRows<'_>,
    (rule, form): &(&str, Form<'_>),
    count: usize,
) {
    let queries = queries(rule, count);
    group.bench_function(*rule, |bencher| {
        bencher.iter(|| search(source, form, black_box(&queries), TOP, &Options::default()).expect("a search"));
    });
}

fn forms() -> [(&'static str, Form<'static>); 5] {
    [
        ("feature-dot", Form::feature_dot()),
        ("feature-cos", Form::feature_cos()),
        ("feature-euc", Form::feature_euc()),
        ("grad-dot", Form::grad_dot()),
        ("grad-cos", Form::grad_cos()),
    ]
}

fn benches(criterion: &mut Criterion) {
    let data = Data::new(rows());
    let source = data.source();
    for count in [1, 64, 1024] {
        let mut group = criterion.benchmark_group(format!("search/{count}"));
        group.sample_size(10).sampling_mode(SamplingMode::Flat);
        if count == 1 {
            group.throughput(Throughput::Bytes(size_of_val(data.features.as_slice()) as u64));
            group.bench_function("read", |bencher| bencher.iter(|| read(black_box(&data.features))));
        } else {
            group.throughput(Throughput::Elements((2 * rows() * WIDTH * count) as u64));
        }
        for form in forms() {
            time(&mut group, &source, &form, count);
        }
        group.finish();
    }
}

criterion_group!(search_benches, benches);
criterion_main!(search_benches);
