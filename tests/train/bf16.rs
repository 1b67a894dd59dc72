//! Training in bf16 with parameters in f32: each operation against f64 over operands as they are rounded, and whole
//! courses against PyTorch's own.

use half::bf16;
use serde_json::Value;
use wherefore::backend::cpu::Cpu;
use wherefore::backend::gpu::Gpu;
use wherefore::backend::reference::{Plain, Reference};
use wherefore::backend::training::{Dropout, Pair, Passed, Training};
use wherefore::backend::{Attended, AttentionGradients, AttentionShape, Columns, Precision, Rows};
use wherefore::model::NamedTensor;
use wherefore::tokens::PackedBatch;

use super::course::{Course, cases, digest, numbers as numbers_of};
use super::golden;
use super::operations::{bits, lengths, numbers, of_rows, read, short, tables};
use super::support::{json, path};
use crate::emulator;
use crate::kernels::support::assert_accurate_to;

fn rounded(values: &[f32]) -> Vec<f32> {
    values.iter().map(|&x| bf16::from_f32(x).to_f32()).collect()
}

/// What batches add, one after the other, to a linear layer's gradients that already hold something; an output before
/// and one behind are left alone.
fn weight_gradients<B: Training>(
    backend: &B,
    batches: &[PackedBatch],
    rows: Rows,
    [inputs, outputs]: [usize; 2],
) -> Vec<f32> {
    let len = [(outputs + 2) * inputs, outputs + 2];
    let [mut weight, mut bias] = [1, 2].map(|stream| backend.upload(&numbers(len[stream - 1], stream as u32)).unwrap());
    let count = |batch: &PackedBatch| if rows == Rows::All { batch.tokens() } else { batch.sequences() };
    let all: usize = batches.iter().map(count).sum();
    let (dy, x) = (short(all * outputs, 3), short(all * inputs, 4));
    let mut first = 0;
    for batch in batches {
        let own = first..first + count(batch);
        first = own.end;
        let up = |values: &[f32], width: usize| backend.upload(&values[own.start * width..own.end * width]).unwrap();
        let (dy, x, staged) = (up(&dy, outputs), up(&x, inputs), backend.stage(batch.clone()).unwrap());
        let to = Pair { weight: &mut weight, bias: &mut bias };
        backend.linear_parameters_backward(to, 1, &dy, &x, Passed { batch: &staged, rows, inputs, outputs }).unwrap();
    }
    [read(backend, &weight, len[0]), read(backend, &bias, len[1])].concat()
}

/// Widths that are no multiple of anything and some of eight, sequences that end within a piece, more of them than a
/// ring has room for, tiles of all sizes: f32's own error, since every operand is exact.
#[test]
fn weight_gradients_on_tensor_cores_err_no_more_than_plain_f32() {
    let gpus = emulator::gpus_by_products(Precision::Bf16);
    let sequences: [&[u32]; 4] = [&[1], &[15, 1, 33], &[16, 48], &[70, 3, 450]];
    for (i, widths) in
        [[1, 1], [7, 65], [64, 64], [130, 12], [300, 264], [136, 8], [8, 72], [264, 136]].into_iter().enumerate()
    {
        for (batch, rows) in [(sequences[i % 4], Rows::All), (&[2; 37][..], Rows::First)] {
            let batch = [lengths(batch)];
            let (exact, plain) =
                (weight_gradients(&Reference, &batch, rows, widths), weight_gradients(&Plain, &batch, rows, widths));
            let exact: Vec<f64> = exact.iter().map(|&x| f64::from(x)).collect();
            // Sums of so many terms of at most 1, each rounded once more or less.
            let unit = f64::from(f32::EPSILON) * batch[0].tokens() as f64;
            for gpu in &gpus {
                let found = weight_gradients(gpu, &batch, rows, widths);
                let what = format!("{widths:?}, {rows:?}, {:?}", gpu.products());
                assert_accurate_to(unit, &what, &found, &plain, &exact);
            }
        }
    }
}

/// The emulated `wgmma` sums in another order than the emulated `mma.sync`, as a device may, so that it shows who made
/// a gradient.
#[test]
fn weight_gradients_are_by_wgmma_where_rows_are_whole_vectors() {
    let [gpu, by_mma] = &emulator::gpus_by_products(Precision::Bf16)[..] else { return };
    for (widths, alike) in [([264, 136], false), ([264, 132], true), ([260, 136], true)] {
        let of = |gpu: &Gpu| bits(&weight_gradients(gpu, &[lengths(&[70, 3, 130])], Rows::All, widths));
        assert!(emulator::real() || (of(gpu) == of(by_mma)) == alike, "{widths:?}");
    }
}

#[test]
fn batches_change_no_bit_of_weight_gradients_on_tensor_cores() {
    let gpu = emulator::gpu(Precision::Bf16);
    let sequences = [5, 16, 1, 40, 33, 17];
    for (rows, widths) in [Rows::All, Rows::First].into_iter().flat_map(|rows| [(rows, [70, 66]), (rows, [72, 136])]) {
        let of = |cuts: &[&[u32]]| {
            let batches: Vec<PackedBatch> = cuts.iter().map(|cut| lengths(cut)).collect();
            bits(&weight_gradients(&gpu, &batches, rows, widths))
        };
        let whole = of(&[&sequences]);
        assert!(of(&[&sequences[..1], &sequences[1..]]) == whole, "{rows:?}, {widths:?}");
        assert!(of(&[&sequences[..3], &sequences[3..5], &sequences[5..]]) == whole, "{rows:?}, {widths:?}");
    }
}

/// Of operands that bf16 holds a sum is f32's, then rounded where it is stored; gradients of tables are f32's.
#[test]
fn what_is_done_by_row_has_the_bits_of_the_cpu_rounded() {
    let (gpu, cpu) = (emulator::gpu(Precision::Bf16), Cpu::new());
    for width in [1, 8, 33, 64] {
        let (found, expected) = (tables(&gpu, width), tables(&cpu, width));
        assert!(found[0] == rounded(&expected[0]) && found[1..] == expected[1..], "tables of width {width}");
        for (found, expected) in of_rows(&gpu, width).iter().zip(of_rows(&cpu, width)) {
            assert!(*found == rounded(&expected), "rows of width {width}");
        }
    }
}

/// Attention there and back with its weights dropped; queries of tokens or of sequences.
fn dropped<B: Training>(
    backend: &B,
    batch: &PackedBatch,
    (heads, head_width): (usize, usize),
    queries: Rows,
    round: fn(&[f32]) -> Vec<f32>,
) -> Vec<(Vec<f32>, &'static str)> {
    let (tokens, sequences, width) = (batch.tokens(), batch.sequences(), heads * head_width);
    let records: Vec<u32> = (0..sequences as u32).map(|sequence| 3 * sequence + 1).collect();
    let dropout = Dropout::new(7, 0.3, 5, &records).unwrap();
    let up = |len: usize, stream| backend.upload(&round(&numbers(len, stream))).unwrap();
    let (qkv, first, d_out) = (up(tokens * 3 * width, 1), up(sequences * width, 2), up(tokens * width, 3));
    let view = |part: usize| Columns { tensor: &qkv, stride: 3 * width, offset: part * width };
    let of_first = queries == Rows::First;
    let q = if of_first { Columns { tensor: &first, stride: width, offset: 0 } } else { view(0) };
    let staged = backend.stage(batch.clone()).unwrap();
    let shape = AttentionShape { heads, head_width, queries };
    let attended = Attended { q, k: view(1), v: view(2), batch: &staged, shape };
    let (asking, parts) = if of_first { (sequences, 2) } else { (tokens, 3) };
    let room = |len| backend.tensor(len).unwrap();
    let (mut out, mut packed, mut query) =
        (room(asking * width), room(tokens * parts * width), room(sequences * width));
    backend.attention_dropout(&mut out, &attended, &dropout).unwrap();
    let gradients = AttentionGradients { packed: &mut packed, query: of_first.then_some(&mut query) };
    backend.attention_dropout_backward(gradients, &d_out, &attended, &dropout).unwrap();
    let mut found = vec![
        (read(backend, &out, asking * width), "out"),
        (read(backend, &packed, tokens * parts * width), "gradients"),
    ];
    found.extend(of_first.then(|| (read(backend, &query, sequences * width), "of queries")));
    found
}

#[test]
fn attention_drops_what_the_reference_does() {
    let gpu = emulator::gpu(Precision::Bf16);
    let batches: [&[u32]; 4] = [&[1, 5, 16], &[33, 64, 15], &[129, 1, 150], &[97, 128]];
    let heads = [[(3, 8), (1, 64)], [(2, 32), (1, 100)], [(2, 33), (1, 16)], [(1, 40), (2, 8)]];
    for (batch, heads) in batches.into_iter().zip(heads) {
        let batch = lengths(batch);
        for (heads, queries) in heads.into_iter().flat_map(|heads| [(heads, Rows::All), (heads, Rows::First)]) {
            let exact = dropped(&Reference, &batch, heads, queries, <[f32]>::to_vec);
            let plain = dropped(&Plain, &batch, heads, queries, rounded);
            let found = dropped(&gpu, &batch, heads, queries, <[f32]>::to_vec);
            for ((found, (plain, _)), (exact, what)) in found.into_iter().zip(plain).zip(exact) {
                let exact: Vec<f64> = exact.iter().map(|&x| f64::from(x)).collect();
                let what = format!("{what}, {heads:?}, {queries:?}");
                assert_accurate_to(1.0 / 128.0, &what, &found.0, &rounded(&plain), &exact);
            }
        }
    }
}

/// The three numbers that hold a tensor, by its name.
type Digests<'a> = &'a dyn Fn(&str) -> [f64; 3];

/// How far a course is from PyTorch's in f64: losses, the first gradients and the last parameters, each the root of the
/// mean square; of tensors the three numbers that hold them, over their norm.
fn distances(exact: &Value, losses: &[Vec<f64>], tensors: [Digests<'_>; 2]) -> [f64; 3] {
    let root = |squares: Vec<f64>| (squares.iter().sum::<f64>() / squares.len() as f64).sqrt();
    let steps = exact["steps"].as_array().unwrap().iter();
    let expected: Vec<f64> = steps.flat_map(|step| numbers_of(&step["losses"])).collect();
    let of_losses = losses.concat().iter().zip(&expected).map(|(found, exact)| (found - exact).powi(2)).collect();
    let of_tensors = |what: &str, found: &dyn Fn(&str) -> [f64; 3]| {
        let exact = exact[what].as_object().unwrap().iter().map(|(name, exact)| (name, numbers_of(exact)));
        let largest = exact.clone().fold(0.0_f64, |most, (_, exact)| most.max(exact[0]));
        let squares = exact.map(|(name, exact)| {
            let apart = found(name).iter().zip(&exact).map(|(found, exact)| (found - exact).powi(2)).sum::<f64>();
            // The bias of keys has a gradient of nothing but rounding.
            apart / exact[0].max(1e-3 * largest).powi(2)
        });
        root(squares.collect())
    };
    [root(of_losses), of_tensors("gradients", tensors[0]), of_tensors("parameters", tensors[1])]
}

fn distances_of(exact: &Value, course: &Course) -> [f64; 3] {
    let found = |tensors: &[NamedTensor], name: &str| {
        digest(&tensors.iter().find(|tensor| tensor.name == name).unwrap().values).0
    };
    let tensors: [Digests<'_>; 2] = [&|name| found(&course.gradients, name), &|name| found(&course.parameters, name)];
    distances(exact, &course.losses, tensors)
}

/// The rule: at most twice as far from f64 as PyTorch in bf16 with parameters in f32, and f32's own floor.
#[test]
fn courses_err_no_more_than_pytorchs_in_bf16() {
    for name in cases("train_bf16.json", 5) {
        let [exact, theirs] = ["train.json", "train_bf16.json"].map(|file| json(&path(&name).join(file)));
        let losses: Vec<Vec<f64>> = theirs["losses"].as_array().unwrap().iter().map(numbers_of).collect();
        let of = |what: &str, name: &str| -> [f64; 3] { numbers_of(&theirs[what][name]).try_into().unwrap() };
        let allowed = distances(&exact, &losses, [&|name| of("gradients", name), &|name| of("parameters", name)]);
        let cpu = Cpu::new().in_precision(Precision::Bf16).unwrap().shared_out();
        let courses = [
            ("GPU", golden::run(emulator::gpu(Precision::Bf16), &name, &exact)),
            ("CPU", golden::run(cpu, &name, &exact)),
        ];
        for (device, course) in courses {
            let found = distances_of(&exact, &course);
            for ((what, found), allowed) in ["losses", "gradients", "parameters"].iter().zip(found).zip(allowed) {
                assert!(found <= 2.0 * allowed + 1e-5, "{name}, {device}, {what}: {found:e}, PyTorch {allowed:e}");
            }
        }
    }
}
