//! The CPU's operations, one thread: `cargo bench --bench kernels`.
//!
//! "Elements" are floating-point operations (a multiply-add is two), so that Gelem/s is GFLOP/s; `peak` is what
//! registers alone reach, the ceiling of `linear`, `attention` and `dot_tile`. `layer_norm` and the activations count
//! the numbers they write.

#![allow(clippy::inline_always)] // vectors reach their instruction set only so

use std::hint::black_box;

use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use wherefore::backend::Activation::{self, Gelu, GeluTanh, Identity, Silu, Tanh};
use wherefore::backend::cpu::simd::{Isa, Kernel, LANES, Vector};
use wherefore::backend::cpu::{Cpu, Lined, Stream, Tile, activate_on, dot_stream, dot_tile, squared_distance_tile};
use wherefore::backend::training::{Sketch, Training};
use wherefore::backend::{Attended, AttentionShape, Backend, Columns, Norm, Rows};
use wherefore::tokens::PackedBatch;

/// Tokens of a batch.
const TOKENS: usize = 512;

/// Numbers in (−1, 1) from a linear congruential generator; which ones does not matter here.
fn numbers(count: usize) -> Vec<f32> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

type Group<'a> = BenchmarkGroup<'a, criterion::measurement::WallTime>;

fn row(group: &mut Group<'_>, name: &str, elements: usize, mut job: impl FnMut()) {
    group.throughput(Throughput::Elements(elements as u64));
    group.bench_function(BenchmarkId::from_parameter(name), |bencher| bencher.iter(&mut job));
}

/// Chains of multiply-adds that never leave their registers.
struct Chains(usize);

impl Kernel for Chains {
    type Output = f32;

    #[inline(always)]
    fn run<V: Vector>(self) -> f32 {
        if V::REGISTERS >= 32 { chains::<V, 12>(self.0) } else { chains::<V, 6>(self.0) }
    }
}

#[inline(always)]
fn chains<V: Vector, const N: usize>(steps: usize) -> f32 {
    let (factor, term) = (V::splat(black_box(0.999)), V::splat(black_box(1e-3)));
    let mut sums = [V::zero(); N];
    for _ in 0..steps {
        sums = sums.map(|sum| sum.fma(factor, term));
    }
    sums.iter().fold(V::zero(), |all, sum| all.add(*sum)).sum() / N as f32
}

fn peak(criterion: &mut Criterion) {
    let isa = Isa::best();
    let chains = if isa.name() == "avx512" { 12 } else { 6 };
    let steps = 100_000;
    let mut group = criterion.benchmark_group("peak");
    row(&mut group, isa.name(), steps * chains * LANES * 2, || {
        black_box(isa.run(Chains(black_box(steps))));
    });
}

fn linear(criterion: &mut Criterion) {
    let shapes: [(&str, usize, usize, Activation, bool); 8] = [
        ("minilm-qkv", 384, 1152, Identity, false),
        ("minilm-output", 384, 384, Identity, true),
        ("minilm-up", 384, 1536, Identity, false),
        ("minilm-up-gelu", 384, 1536, Gelu, false),
        ("minilm-down", 1536, 384, Identity, true),
        ("bert-qkv", 768, 2304, Identity, false),
        ("bert-up-gelu", 768, 3072, Gelu, false),
        ("bert-down", 3072, 768, Identity, true),
    ];
    let cpu = Cpu::new();
    let mut group = criterion.benchmark_group("linear");
    for (name, inputs, outputs, activation, with_residual) in shapes {
        let layer = cpu.pack_linear(&numbers(outputs * inputs), &numbers(outputs), inputs, outputs).unwrap();
        let (x, residual) = (numbers(TOKENS * inputs), numbers(TOKENS * outputs));
        let mut out = vec![0.0; TOKENS * outputs];
        row(&mut group, name, 2 * TOKENS * inputs * outputs, || {
            cpu.linear(&mut out, &x, &layer, activation, with_residual.then_some(&residual), TOKENS).unwrap();
        });
    }
}

/// One side of a layer's gradient, projected: a dense matrix beside a sparse one. Elements are the numbers read.
fn projection(criterion: &mut Criterion) {
    let cpu = Cpu::new();
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let mut group = criterion.benchmark_group("projection");
    for (width, kept) in [(384, 12), (768, 12), (768, 32), (768, 128), (3072, 32), (3072, 128)] {
        let (x, mut out) = (numbers(TOKENS * width), vec![0.0; TOKENS * kept]);
        let dense = cpu.pack_linear(&numbers(width * kept), &numbers(kept), width, kept).unwrap();
        row(&mut group, &format!("dense-{width}-{kept}"), x.len(), || {
            cpu.linear(&mut out, &x, &dense, Identity, None, TOKENS).unwrap();
        });
        let sparse = Sketch::new(width, kept, |run| (run * 7 % kept, (run * 40_503) as u32));
        row(&mut group, &format!("sparse-{width}-{kept}"), x.len(), || {
            one.install(|| cpu.sketch(&mut out, &x, &sparse, TOKENS).unwrap());
        });
    }
}

fn attention(criterion: &mut Criterion) {
    let cpu = Cpu::new();
    let mut group = criterion.benchmark_group("attention");
    for (heads, head_width) in [(12, 32), (12, 64)] {
        let width = heads * head_width;
        let qkv = numbers(TOKENS * 3 * width);
        let view = |part: usize| Columns { tensor: &qkv, stride: 3 * width, offset: part * width };
        let mut out = vec![0.0; TOKENS * width];
        for length in [16, 64, 128, 512] {
            let starts = (0..=TOKENS).step_by(length).map(|start| start as u32).collect();
            let batch = PackedBatch { cu_seqlens: starts, ..PackedBatch::default() };
            let shape = AttentionShape { heads, head_width, queries: Rows::All };
            row(&mut group, &format!("{heads}x{head_width}-length-{length}"), 4 * TOKENS * length * width, || {
                let attended = Attended { q: view(0), k: view(1), v: view(2), batch: &batch, shape };
                cpu.attention(&mut out, &attended).unwrap();
            });
        }
    }
}

fn layer_norm(criterion: &mut Criterion) {
    let cpu = Cpu::new();
    let mut group = criterion.benchmark_group("layer_norm");
    for width in [384, 768] {
        let norm = Norm { weight: numbers(width), bias: numbers(width), epsilon: 1e-12, width };
        let x = numbers(TOKENS * width);
        let mut out = x.clone();
        row(&mut group, &width.to_string(), x.len(), || cpu.layer_norm(&mut out, &x, &norm, TOKENS).unwrap());
    }
}

fn activation(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("activation");
    let points = numbers(4096);
    for activation in [Gelu, GeluTanh, Silu, Tanh] {
        let mut values = points.clone();
        row(&mut group, &format!("{activation:?}"), points.len(), || {
            values.copy_from_slice(&points);
            activate_on(Isa::best(), activation, &mut values);
        });
    }
}

fn tiles(criterion: &mut Criterion) {
    const ROWS: usize = 64;
    for (name, score) in
        [("dot_tile", dot_tile as fn(&mut [f32], Tile<'_>)), ("squared_distance_tile", squared_distance_tile)]
    {
        let mut group = criterion.benchmark_group(name);
        for (queries, width) in [(8, 384), (96, 384), (96, 768)] {
            let lined = |len: usize| Lined::from_rows(&numbers(len * width), len, width);
            let (queries, rows) = (&lined(queries), &lined(ROWS));
            let mut out = vec![0.0; queries.len() * ROWS];
            row(&mut group, &format!("{}x{width}", queries.len()), 2 * queries.len() * ROWS * width, || {
                score(&mut out, Tile { queries, asked: 0..queries.len(), rows, next: &[] });
            });
        }
    }
}

fn streams(criterion: &mut Criterion) {
    const ROWS: usize = 16;
    let mut group = criterion.benchmark_group("dot_stream");
    for (queries, width) in [(1, 384), (3, 384), (3, 768)] {
        let (q, rows) = (Lined::from_rows(&numbers(queries * width), queries, width), numbers(ROWS * width));
        let mut out = vec![0.0; queries * ROWS];
        row(&mut group, &format!("{queries}x{width}"), 2 * queries * ROWS * width, || {
            dot_stream(&mut out, Stream { queries: &q, asked: 0..queries, rows: rows.as_slice() });
        });
    }
}

criterion_group!(benches, peak, linear, projection, attention, layer_norm, activation, tiles, streams);
criterion_main!(benches);
