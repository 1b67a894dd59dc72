//! Every kernel on the (emulated) device, over the shapes and by the rules the CPU is tested with.

use std::fs;
use std::path::{Path, PathBuf};

use wherefore::backend::gpu::{Gpu, Products};
use wherefore::backend::reference::Reference;
use wherefore::backend::{Activation, Backend, Pooling, Precision, Rows, check};

use wherefore::tokens::{Masked, PackedBatch};

use half::{bf16, f16};

use super::support::{Numbers, assert_accurate, assert_accurate_to, batch, bits};
use super::{attention, embed, layer_norm, linear, pool};
use crate::emulator;

fn gpu() -> Gpu {
    emulator::gpu(Precision::F32)
}

/// A kernel may be begun before the last one has ended: what it did before it waits would race. (That each thread
/// waits, the emulator sees.)
#[test]
fn waiting_for_the_kernels_before_it_is_the_first_thing_a_kernel_does() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let names = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    let mut kernels = 0;
    // What a kernel is, is defined in port*.cuh.
    for path in files.filter(|path| names(path).contains(".cu") && !names(path).starts_with("port")) {
        let text = fs::read_to_string(&path).unwrap().replace('\\', " ");
        for (at, _) in text.match_indices("KERNEL") {
            let rest =
                text[at..].trim_start_matches(|c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
            if !rest.starts_with('(') {
                continue;
            }
            let (header, body) = rest.split_once('{').expect("a kernel has a body");
            let body = body.trim_start();
            let place = || format!("{}:{}", path.display(), text[..at].lines().count());
            let has_maps = text[at..].starts_with("KERNEL_SM90A") && header.contains("TENSOR_MAP");
            let prepared = body.strip_prefix("prepare<").filter(|_| has_maps).and_then(|rest| rest.split_once(';'));
            let body = prepared.map_or(body, |(_, rest)| rest.trim_start());
            assert!(body.starts_with("await_kernels();"), "{}", place());
            kernels += 1;
        }
    }
    assert!(kernels > 75, "{kernels} kernels were found");
}

/// What a kernel prepares before it waits is its block's own, or a parameter.
#[test]
fn what_is_prepared_touches_nothing_of_the_kernels_before() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/linear_wgmma.cuh");
    let text = fs::read_to_string(file).unwrap();
    let (_, rest) = text.split_once("DEVICE void prepare").expect("it is defined there");
    let (prepare, _) = rest.split_once("\n}").unwrap();
    let (parameters, body) = prepare.split_once('{').unwrap();
    assert!(parameters.split(',').all(|parameter| parameter.contains("const TensorMap& ")), "{parameters}");
    let is_named = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let calls = body.match_indices('(').map(|(at, _)| body[..at].trim_end().rsplit(|c| !is_named(c)).next().unwrap());
    let own = ["SHARED_SM90A", "if", "for", "", "prefetch_map", "barrier_begin", "barriers_begin"];
    calls.for_each(|call| assert!(own.contains(&call), "{call}"));
}

/// A precision, what it rounds operands and results to, and its unit in the last place of 1.
#[derive(Clone, Copy)]
pub(super) struct Rounding {
    pub(super) precision: Precision,
    pub(super) operand: fn(f32) -> f32,
    pub(super) result: fn(f32) -> f32,
    pub(super) unit: f64,
}

pub(super) const F32: Rounding =
    Rounding { precision: Precision::F32, operand: |x| x, result: |x| x, unit: f32::EPSILON as f64 };
const F16: Rounding = Rounding { precision: Precision::F16, operand: to_f16, result: to_f16, unit: 1.0 / 1024.0 };
const BF16: Rounding = Rounding { precision: Precision::Bf16, operand: to_bf16, result: to_bf16, unit: 1.0 / 128.0 };

const BF16X3: Rounding =
    Rounding { precision: Precision::Bf16x3, operand: to_two_bf16, result: |x| x, unit: f32::EPSILON as f64 };

/// By what activations are stored as.
pub(super) const STORED: [Rounding; 3] = [F32, F16, BF16];
/// By what matrices are multiplied in on tensor cores.
pub(super) const ROUNDINGS: [Rounding; 3] = [F16, BF16, BF16X3];
/// All there are.
pub(super) const EVERY: [Rounding; 4] = [F32, F16, BF16, BF16X3];

fn to_f16(x: f32) -> f32 {
    f16::from_f32(x).to_f32()
}

fn to_bf16(x: f32) -> f32 {
    bf16::from_f32(x).to_f32()
}

fn to_two_bf16(x: f32) -> f32 {
    to_bf16(x) + to_bf16(x - to_bf16(x))
}

/// A device for each way of multiplying in each of these.
pub(super) fn by_products(roundings: &[Rounding]) -> Vec<(Gpu, Rounding)> {
    let of = |&rounding: &Rounding| {
        emulator::gpus_by_products(rounding.precision).into_iter().map(move |gpu| (gpu, rounding))
    };
    roundings.iter().flat_map(of).collect()
}

/// What a device is told by in a message.
pub(super) fn of(gpu: &Gpu) -> String {
    format!("{} by {}", gpu.precision(), gpu.products().name())
}

/// What a buffer holds, where it must hold this many numbers.
pub(super) fn read(gpu: &Gpu, tensor: &<Gpu as Backend>::Tensor, len: usize) -> Vec<f32> {
    let mut out = vec![0.0; len];
    gpu.download(&mut out, tensor).unwrap();
    out
}

#[test]
fn every_operation_passes_its_check() {
    for (gpu, _) in by_products(&EVERY) {
        for check in check::check(&gpu).unwrap() {
            assert!(check.passed(), "{}: {check:?}", of(&gpu));
        }
    }
}

#[test]
fn every_operation_of_training_passes_its_check() {
    for precision in [Precision::F32, Precision::Bf16] {
        for check in check::check_training(&emulator::gpu(precision)).unwrap() {
            assert!(check.passed(), "{precision}: {check:?}");
        }
    }
}

#[test]
fn every_operation_of_records_gradients_passes_its_check() {
    for (gpu, _) in by_products(&EVERY) {
        for check in check::check_gradients(&gpu).unwrap() {
            assert!(check.passed(), "{}: {check:?}", of(&gpu));
        }
    }
}

/// What a batch may have, all workers have at once, and something is left.
#[test]
fn the_room_there_is_fits_into_memory() {
    for precision in [Precision::F32, Precision::F16] {
        let gpu = emulator::gpu(precision);
        let (bytes, memory) = (if precision == Precision::F32 { 4 } else { 2 }, gpu.info().memory);
        let room = gpu.room(1000);
        assert!(room > 0 && room * 1000 * bytes * gpu.workers() < memory / 8 * 7 + 1000 * bytes, "{room}");
        assert!(gpu.room(1_000_000) <= room / 999);
    }
}

#[test]
fn ceilings_are_rates() {
    let ceilings = gpu().ceilings().unwrap();
    for rate in [ceilings.copy_gbs, ceilings.fma_gflops, ceilings.mma_gflops] {
        assert!(rate.is_finite() && rate > 0.0, "{ceilings:?}");
    }
    assert_eq!(ceilings.of(Precision::Bf16x3), ceilings.of(Precision::F16) / 3.0);
}

#[test]
fn layer_norm_over_widths_offsets_and_scales() {
    let gpu = gpu();
    for width in layer_norm::WIDTHS {
        let rows = [(0.0, 1.0), (0.0, 1e-7), (0.0, 1e10), (100.0, 1.0), (-5.0, 20.0)];
        // Wide ones take the emulator long.
        for &(offset, scale) in &rows[..if width > 1000 { 1 } else { rows.len() }] {
            let case = layer_norm::Case::new(11, width, offset, scale);
            let values = read(&gpu, &case.run(&gpu), 11 * width);
            let what = format!("width {width}, {offset} ± {scale}");
            assert_accurate(&what, &values, &case.plain(), &case.run(&Reference));
        }
    }
}

#[test]
fn embed_with_every_choice_of_tables() {
    let (gpu, batch) = (gpu(), batch(&[1, 9, 30], embed::VOCABULARY as u32, &mut Numbers::new(1)));
    for width in [1, 7, 16, 33, 384] {
        for choice in 0..8 {
            let tables = embed::Tables::new(width, [0, 1, 2].map(|bit| choice >> bit & 1 == 1));
            let values = read(&gpu, &tables.run(&gpu, &batch).unwrap(), batch.tokens() * width);
            let exact = tables.run(&Reference, &batch).unwrap();
            assert_accurate(&format!("width {width}, choice {choice}"), &values, &tables.plain(&batch), &exact);
        }
    }
}

/// Sequences of these texts, whole, with every token replaced and with some.
fn masked(texts: &PackedBatch, numbers: &mut Numbers) -> Masked {
    let of: Vec<u32> = (0..texts.sequences() as u32).flat_map(|text| [text; 4]).chain([0]).collect();
    let bits = of.iter().enumerate().flat_map(|(sequence, &text)| {
        let length = texts.range(text as usize).len();
        let replaced: Vec<usize> = match sequence % 4 {
            0 => Vec::new(),
            1 => (0..length).collect(),
            _ => (0..length).filter(|_| numbers.below(2) == 1).collect(),
        };
        Masked::bits_of(length, replaced)
    });
    Masked { texts: texts.clone(), bits: bits.collect(), of, stand_in: embed::VOCABULARY as u32 - 1 }
}

#[test]
fn embed_of_masked_texts_has_the_bits_of_their_sequences() {
    let mut numbers = Numbers::new(4);
    for lengths in [&[1][..], &[31, 32, 33, 1], &[64, 2, 40]] {
        let texts = batch(lengths, embed::VOCABULARY as u32, &mut numbers);
        let masked = masked(&texts, &mut numbers);
        let expanded = masked.expanded();
        for precision in [Precision::F32, Precision::F16, Precision::Bf16] {
            let gpu = emulator::gpu(precision);
            for (width, tables) in [(7, [true; 3]), (33, [true, false, false])] {
                let tables = embed::Tables::new(width, tables);
                let staged = gpu.stage_masked(masked.clone()).unwrap();
                let found = tables.run_on(&gpu, &staged, expanded.tokens()).unwrap();
                let len = expanded.tokens() * width;
                let expected = tables.run(&gpu, &expanded).unwrap();
                assert_eq!(
                    bits(&read(&gpu, &found, len)),
                    bits(&read(&gpu, &expected, len)),
                    "{lengths:?}, {precision}"
                );
            }
        }
    }
}

#[test]
fn embed_refuses_a_stand_in_beyond_a_table() {
    let texts = batch(&[3], embed::VOCABULARY as u32, &mut Numbers::new(2));
    let masked = Masked { texts, of: vec![0], bits: vec![0], stand_in: embed::VOCABULARY as u32 };
    let gpu = gpu();
    let staged = gpu.stage_masked(masked).unwrap();
    let error = embed::Tables::new(8, [true; 3]).run_on(&gpu, &staged, 3).err().unwrap();
    assert_eq!(error.to_string(), "token id 50 is beyond the model's table of 50");
}

#[test]
fn embed_refuses_a_token_beyond_a_table() {
    let mut batch = batch(&[3], embed::VOCABULARY as u32, &mut Numbers::new(2));
    batch.ids[1] = embed::VOCABULARY as u32;
    let error = embed::Tables::new(8, [true; 3]).run(&gpu(), &batch).err().unwrap();
    assert_eq!(error.to_string(), "token id 50 is beyond the model's table of 50");
}

#[test]
fn pool_over_lengths_and_widths() {
    let (gpu, mut numbers) = (gpu(), Numbers::new(1));
    let batch = batch(&[1, 2, 300, 17, 5], 1, &mut numbers);
    for width in [1, 7, 33, 384] {
        let x = numbers.vector(batch.tokens() * width, 1.0);
        for pooling in [Pooling::First, Pooling::Mean, Pooling::Max, Pooling::MeanSqrtLength] {
            let values = read(&gpu, &pool::run(&gpu, &x, &batch, pooling, width), batch.sequences() * width);
            let (plain, exact) =
                (pool::plain(&x, &batch, pooling, width), pool::run(&Reference, &x, &batch, pooling, width));
            assert_accurate(&format!("{pooling:?}, width {width}"), &values, &plain, &exact);
        }
    }
    // What overflowed on the way must not give way to a number.
    let mut x = numbers.vector(batch.tokens() * 7, 1.0);
    x[batch.range(2).start * 7 + 100 * 7 + 3] = f32::NAN;
    let values = read(&gpu, &pool::run(&gpu, &x, &batch, Pooling::Max, 7), batch.sequences() * 7);
    let lost: Vec<usize> = (0..values.len()).filter(|&i| values[i].is_nan()).collect();
    assert_eq!(lost, [2 * 7 + 3]);
}

/// In f32 an element is the CPU's chain of fused multiply-adds, and activations are its polynomials.
#[test]
fn linear_in_f32_has_the_bits_of_the_cpu() {
    let (gpu, cpu) = (gpu(), wherefore::backend::cpu::Cpu::new());
    for (i, shape) in linear::SHAPES.into_iter().enumerate() {
        let case = linear::Case::new(shape, 1.0, i as u64);
        let len = shape[0] * shape[2];
        for (activation, residual) in [(Activation::Identity, false), (Activation::Gelu, true)] {
            let values = read(&gpu, &case.run(&gpu, activation, residual), len);
            assert!(bits(&values) == bits(&case.run(&cpu, activation, residual)[..len]), "{shape:?}, {activation:?}");
        }
    }
}

#[test]
fn linear_with_every_epilogue_has_the_bits_of_the_cpu() {
    use Activation::{Gelu, GeluTanh, Identity, QuickGelu, Relu, Silu, Tanh};
    let (gpu, cpu) = (gpu(), wherefore::backend::cpu::Cpu::new());
    for activation in [Identity, Gelu, GeluTanh, QuickGelu, Relu, Silu, Tanh] {
        for (residual, scale) in [(false, 1.5), (true, 1.5), (false, 30.0)] {
            let case = linear::Case::new([23, 40, 37], scale, 9);
            let values = read(&gpu, &case.run(&gpu, activation, residual), 23 * 37);
            assert!(bits(&values) == bits(&case.run(&cpu, activation, residual)[..23 * 37]), "{activation:?}");
        }
    }
}

#[test]
fn attention_over_lengths_and_heads() {
    let gpu = gpu();
    for scale in [1e-6, 1.0, 12.0] {
        for case in attention::cases(scale) {
            let exact = case.run(&Reference, Rows::All);
            let values = read(&gpu, &case.run(&gpu, Rows::All), exact.len());
            assert_accurate(&format!("{} × {scale}", attention::name(&case)), &values, &case.plain(), &exact);
        }
    }
}

#[test]
fn attention_of_first_rows_alone_has_the_bits_they_have_among_all() {
    let gpu = gpu();
    for case in attention::cases(1.0) {
        let (width, sequences) = (case.width(), case.batch.sequences());
        let all = read(&gpu, &case.run(&gpu, Rows::All), case.batch.tokens() * width);
        let first = read(&gpu, &case.run(&gpu, Rows::First), sequences * width);
        for (sequence, row) in first.chunks(width).enumerate() {
            let token = case.batch.range(sequence).start;
            assert_eq!(bits(row), bits(&all[token * width..][..width]), "{}", attention::name(&case));
        }
    }
}

#[test]
fn attention_of_a_sequence_has_the_same_bits_in_any_company() {
    let gpu = gpu();
    for case in attention::cases(1.0) {
        let width = case.width();
        let whole = read(&gpu, &case.run(&gpu, Rows::All), case.batch.tokens() * width);
        for sequence in 0..case.batch.sequences() {
            let range = case.batch.range(sequence);
            let alone = read(&gpu, &case.alone(sequence).run(&gpu, Rows::All), range.len() * width);
            let among = &whole[range.start * width..range.end * width];
            assert_eq!(bits(&alone), bits(among), "{}", attention::name(&case));
        }
    }
}

#[test]
fn attention_saturates_without_overflow() {
    let gpu = gpu();
    for case in attention::cases(1e4) {
        let out = read(&gpu, &case.run(&gpu, Rows::All), case.batch.tokens() * case.width());
        assert!(out.iter().all(|x| x.is_finite() && x.abs() <= 1.01e4), "{}", attention::name(&case));
    }
}

/// Those that a device multiplies in its own way: `wgmma` leaves inputs that are no multiples of eight to `mma.sync`.
fn shapes(gpu: &Gpu) -> Vec<[usize; 3]> {
    if gpu.products() == Products::Mma {
        return linear::SHAPES.to_vec();
    }
    let all = linear::SHAPES.into_iter().chain(linear::ALIGNED_SHAPES);
    // Of a single number it is chance how far plain loops are off, who lose nothing of a product; bf16x3 leaves out
    // what is left times what is left.
    let single = |rows: usize, outputs: usize| gpu.precision() == Precision::Bf16x3 && rows * outputs == 1;
    all.filter(|[rows, inputs, outputs]| inputs.is_multiple_of(8) && !single(*rows, *outputs)).collect()
}

/// Against f64 on the operands as they were before any rounding: at most twice the error of plain loops on rounded
/// operands.
fn over(roundings: &[Rounding], shapes: fn(&Gpu) -> Vec<[usize; 3]>) {
    use Activation::{Gelu, Identity};
    for (gpu, Rounding { operand, result, unit, .. }) in by_products(roundings) {
        for (i, shape) in shapes(&gpu).into_iter().enumerate() {
            for (activation, residual) in [(Identity, false), (Identity, true), (Gelu, false), (Gelu, true)] {
                let case = linear::Case::new(shape, 1.0, i as u64);
                let exact = case.run(&Reference, activation, residual);
                let values = read(&gpu, &case.run(&gpu, activation, residual), shape[0] * shape[2]);
                let plain: Vec<f32> =
                    case.rounded(operand).plain(activation, residual).into_iter().map(result).collect();
                let what = format!("{}, {shape:?}, {activation:?}", of(&gpu));
                assert_accurate_to(unit, &what, &values, &plain, &exact[..values.len()]);
            }
        }
    }
}

#[test]
fn linear_on_tensor_cores_over_odd_shapes() {
    over(&ROUNDINGS[..2], shapes);
}

#[test]
fn linear_of_several_tiles() {
    over(&ROUNDINGS[..2], |_| linear::SHAPES_OF_SEVERAL_TILES.to_vec());
}

#[test]
fn linear_of_split_operands_over_odd_shapes() {
    over(&ROUNDINGS[2..], shapes);
}

#[test]
fn linear_on_tensor_cores_with_every_activation() {
    use Activation::{GeluTanh, QuickGelu, Relu, Silu, Tanh};
    for (gpu, Rounding { operand, result, unit, .. }) in by_products(&ROUNDINGS) {
        for activation in [GeluTanh, QuickGelu, Relu, Silu, Tanh] {
            let case = linear::Case::new([23, 40, 37], 1.5, 9);
            let values = read(&gpu, &case.run(&gpu, activation, false), 23 * 37);
            let plain: Vec<f32> = case.rounded(operand).plain(activation, false).into_iter().map(result).collect();
            let exact = case.run(&Reference, activation, false);
            assert_accurate_to(unit, &format!("{}, {activation:?}", of(&gpu)), &values, &plain, &exact[..values.len()]);
        }
    }
}

/// Many rows take the large tile, few the small one.
#[test]
fn linear_gives_a_row_the_same_bits_in_any_company() {
    for (gpu, _) in &by_products(&EVERY) {
        for (inputs, outputs, residual) in [(70, 300, true), (72, 300, true), (72, 304, false)] {
            let case = linear::Case::new([260, inputs, outputs], 1.0, 3);
            let whole = read(gpu, &case.run(gpu, Activation::Gelu, residual), 260 * outputs);
            for rows in [0..1, 17..22, 100..133, 0..259] {
                let alone = case.part(rows.clone()).run(gpu, Activation::Gelu, residual);
                let alone = read(gpu, &alone, rows.len() * outputs);
                let among = &whole[rows.start * outputs..rows.end * outputs];
                assert!(bits(&alone) == bits(among), "{}, {inputs} × {outputs}, rows {rows:?}", of(gpu));
            }
        }
    }
}

/// A kernel must have been granted its shared memory by whoever launches it first, before any other thread launches it.
#[test]
fn threads_that_share_a_new_device_launch_the_same_kernels_at_once() {
    for (gpu, _) in by_products(&EVERY) {
        let case = linear::Case::new([140, 72, 300], 1.0, 3);
        let together = std::sync::Barrier::new(4);
        let run = || read(&gpu, &case.run(&gpu, Activation::Gelu, true), 140 * 300);
        let results: Vec<Vec<f32>> = std::thread::scope(|scope| {
            let at_once = || {
                together.wait();
                [run(), run()].concat()
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(at_once)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let alone = run();
        for result in results.iter().flat_map(|both| both.chunks(alone.len())) {
            assert!(bits(result) == bits(&alone), "{}", of(&gpu));
        }
    }
}

/// The emulated `wgmma` sums in another order than the emulated `mma.sync`, as a device may: so the test above would
/// see a layer computed by both.
#[test]
fn the_two_ways_of_multiplying_differ_by_roundings() {
    if emulator::real() {
        return;
    }
    let gpu = emulator::gpu(Precision::F16);
    assert_eq!(gpu.products(), Products::Wgmma);
    let case = linear::Case::new([200, 392, 300], 1.0, 3);
    let [one, other] =
        [gpu.by_mma(), gpu].map(|gpu| read(&gpu, &case.run(&gpu, Activation::Identity, false), 200 * 300));
    assert!(bits(&one) != bits(&other));
    for (a, b) in one.iter().zip(&other) {
        assert!((a - b).abs() <= f32::from(f16::EPSILON) * a.abs().max(1.0), "{a} and {b}");
    }
}

#[test]
fn attention_on_tensor_cores_over_lengths_and_heads() {
    for Rounding { precision, operand, result, unit } in &ROUNDINGS[..2] {
        let gpu = emulator::gpu(*precision);
        for case in attention::cases(1.0) {
            let exact = case.run(&Reference, Rows::All);
            let values = read(&gpu, &case.run(&gpu, Rows::All), exact.len());
            let plain: Vec<f32> = case.rounded(operand).plain().into_iter().map(result).collect();
            assert_accurate_to(*unit, &format!("{precision}, {}", attention::name(&case)), &values, &plain, &exact);
        }
    }
}

#[test]
fn attention_on_tensor_cores_depends_on_its_sequence_alone() {
    let gpu = emulator::gpu(Precision::F16);
    for case in attention::cases(3.0) {
        let (width, name) = (case.width(), attention::name(&case));
        let whole = read(&gpu, &case.run(&gpu, Rows::All), case.batch.tokens() * width);
        let first = read(&gpu, &case.run(&gpu, Rows::First), case.batch.sequences() * width);
        for sequence in 0..case.batch.sequences() {
            let range = case.batch.range(sequence);
            let among = bits(&whole[range.start * width..range.end * width]);
            let alone = read(&gpu, &case.alone(sequence).run(&gpu, Rows::All), range.len() * width);
            assert!(bits(&alone) == among, "{name}");
            assert!(bits(&first[sequence * width..][..width]) == among[..width], "{name}");
        }
    }
}
