//! Sums of each sequence's outer products, and of squares in f64, on every device: f32 by the bits of the CPU, other
//! precisions by the rule.

use wherefore::backend::cpu::Cpu;
use wherefore::backend::reference::{Plain, Reference};
use wherefore::backend::training::{Products, Training};
use wherefore::backend::{Backend, Precision, Rows};
use wherefore::tokens::PackedBatch;

use super::gpu::{EVERY, by_products, of};
use super::support::{Numbers, assert_accurate_to, batch, bits, cpus};
use crate::emulator;

struct Case {
    batch: PackedBatch,
    rows: Rows,
    inputs: usize,
    outputs: usize,
    dy: Vec<f32>,
    x: Vec<f32>,
    /// What is there already, `[B, STRIDE beyond the products]`.
    before: Vec<f32>,
}

/// Numbers of a row of what is added to that are beyond the products, and how many of them come first.
const BEYOND: (usize, usize) = (5, 2);

impl Case {
    fn new(lengths: &[u32], rows: Rows, [inputs, outputs]: [usize; 2], scale: f32) -> Self {
        let mut numbers = Numbers::new((inputs * 1000 + outputs) as u64);
        let batch = batch(lengths, 9, &mut numbers);
        let count = if rows == Rows::All { batch.tokens() } else { batch.sequences() };
        let before = numbers.vector(batch.sequences() * (inputs * outputs + BEYOND.0), scale);
        let (dy, x) = (numbers.vector(count * outputs, scale), numbers.vector(count * inputs, 1.0));
        Self { batch, rows, inputs, outputs, dy, x, before }
    }

    fn stride(&self) -> usize {
        self.inputs * self.outputs + BEYOND.0
    }

    /// With operands rounded as a device stores them.
    fn rounded(&self, round: fn(f32) -> f32) -> Self {
        let all = |values: &[f32]| values.iter().map(|&x| round(x)).collect();
        let (batch, before) = (self.batch.clone(), self.before.clone());
        Self { batch, before, dy: all(&self.dy), x: all(&self.x), ..*self }
    }

    /// One sequence by itself.
    fn alone(&self, sequence: usize) -> Self {
        let own = if self.rows == Rows::All { self.batch.range(sequence) } else { sequence..sequence + 1 };
        let of = |values: &[f32], width: usize| values[own.start * width..own.end * width].to_vec();
        let lengths = [self.batch.range(sequence).len() as u32];
        Self {
            batch: batch(&lengths, 9, &mut Numbers::new(1)),
            before: self.before[sequence * self.stride()..][..self.stride()].to_vec(),
            dy: of(&self.dy, self.outputs),
            x: of(&self.x, self.inputs),
            ..*self
        }
    }

    fn run<B: Training>(&self, backend: &B) -> (B::Tensor, usize) {
        let up = |values: &[f32]| backend.upload(values).unwrap();
        let (dy, x, mut out) = (up(&self.dy), up(&self.x), up(&self.before));
        let staged = backend.stage(self.batch.clone()).unwrap();
        let &Self { rows, inputs, outputs, .. } = self;
        let products = Products { batch: &staged, rows, inputs, outputs, stride: self.stride(), offset: BEYOND.1 };
        backend.outer_products(&mut out, &dy, &x, products).unwrap();
        (out, self.before.len())
    }

    fn found<B: Training>(&self, backend: &B) -> Vec<f32> {
        let (out, len) = self.run(backend);
        let mut values = vec![0.0; len];
        backend.download(&mut values, &out).unwrap();
        values
    }

    fn name(&self) -> String {
        format!("{:?} {:?}, {} × {}", self.batch.cu_seqlens, self.rows, self.outputs, self.inputs)
    }
}

/// Sequences that end within a piece of sixteen, at its end, and after one row of it.
const LENGTHS: [&[u32]; 4] = [&[1], &[15, 1, 33], &[16, 48, 2], &[17, 3, 70]];
/// Inputs and outputs: of narrow sides, of one more than a tile, of a multiple of everything and of several large
/// tiles.
const SIDES: [[usize; 2]; 7] = [[1, 1], [12, 12], [7, 65], [64, 64], [65, 8], [136, 130], [264, 260]];

fn cases(scale: f32) -> impl Iterator<Item = Case> {
    let both = move |(i, sides): (usize, [usize; 2])| {
        [(LENGTHS[i % 4], Rows::All), (&[2; 11][..], Rows::First)]
            .map(|(lengths, rows)| Case::new(lengths, rows, sides, scale))
    };
    SIDES.into_iter().enumerate().flat_map(both)
}

#[test]
fn outer_products_err_no_more_than_plain_loops() {
    for (gpu, rounding) in &by_products(&EVERY) {
        // What is largest in f16 when a seed has been scaled, and what a gradient of a certain model is.
        for case in [1.0, 1024.0, 1e-6].into_iter().flat_map(cases) {
            let kept: fn(f32) -> f32 = if rounding.precision == Precision::Bf16x3 { |x| x } else { rounding.operand };
            let (exact, plain) = (case.run(&Reference).0, case.rounded(kept).found(&Plain));
            // Each sum is rounded once more for each of its terms, whatever the operands.
            let longest = (0..case.batch.sequences()).map(|sequence| case.batch.range(sequence).len()).max().unwrap();
            let unit = f64::from(f32::EPSILON) * longest as f64;
            let what = format!("{}, {}", of(gpu), case.name());
            assert_accurate_to(unit, &what, &case.found(gpu), &plain, &exact);
        }
    }
}

#[test]
fn outer_products_in_f32_have_the_bits_of_the_cpu_on_every_instruction_set() {
    let gpu = emulator::gpu(Precision::F32);
    for case in [1.0, 1e18, 1e-20].into_iter().flat_map(cases) {
        let expected = bits(&case.found(&Cpu::new()));
        for cpu in cpus() {
            assert!(bits(&case.found(&cpu.shared_out())) == expected, "{:?}, {}", cpu.isa().name(), case.name());
        }
        assert!(bits(&case.found(&gpu)) == expected, "{}", case.name());
    }
}

#[test]
fn a_sequences_outer_products_have_the_same_bits_in_any_company() {
    for (gpu, _) in &by_products(&EVERY) {
        // By small tiles alone, by large ones together.
        let case = Case::new(&[5, 40, 16, 1, 33], Rows::All, [130, 70], 1.0);
        let together = bits(&case.found(gpu));
        for (sequence, together) in together.chunks_exact(case.stride()).enumerate() {
            assert!(bits(&case.alone(sequence).found(gpu)) == together, "{}, {sequence}", of(gpu));
        }
    }
}

/// What is infinite, or no number, is of its own sequence and place alone.
#[test]
fn numbers_that_are_not_finite_stay_where_they_are() {
    for (gpu, _) in &by_products(&EVERY) {
        let mut case = Case::new(&[17, 3, 20], Rows::All, [12, 12], 1.0);
        case.dy[18 * 12 + 5] = f32::INFINITY;
        let found = case.found(gpu);
        for (place, value) in found.iter().enumerate() {
            let (sequence, column) = (place / case.stride(), place % case.stride());
            let own = sequence == 1 && (BEYOND.1 + 60..BEYOND.1 + 72).contains(&column);
            assert_eq!(value.is_finite(), !own, "{}, sequence {sequence}, {column}", of(gpu));
        }
    }
}

/// Sums in f64: of squares by the bits of the CPU, weighted ones but for the order of additions.
#[test]
fn squares_are_added_up_in_f64() {
    let (gpu, cpu) = (emulator::gpu(Precision::Bf16), Cpu::new().shared_out());
    for (rows, len) in [(1, 1), (3, 255), (2, 4096), (5, 4097), (1, 9000)] {
        let mut numbers = Numbers::new(len as u64);
        let weights: Vec<f64> = numbers.vector(len, 1e3).into_iter().map(|x| f64::from(x).abs()).collect();
        let x: Vec<f32> = (0..rows * len).map(|i| numbers.uniform() * [1.0, 1e-18, 1e15][i % 3]).collect();
        let (on_gpu, on_cpu) = (gpu.upload(&x).unwrap(), cpu.upload(&x).unwrap());
        let (mut sums, mut expected) = (gpu.sums(&weights).unwrap(), cpu.sums(&weights).unwrap());
        gpu.add_squares(&mut sums, &on_gpu, rows).unwrap();
        cpu.add_squares(&mut expected, &on_cpu, rows).unwrap();
        assert!(gpu.read_sums(&sums).unwrap() == expected, "{rows} × {len}");
        let found = gpu.weighted_squares(&sums, &on_gpu, rows).unwrap();
        for (found, expected) in found.iter().zip(cpu.weighted_squares(&expected, &on_cpu, rows).unwrap()) {
            assert!((found - expected).abs() <= 1e-15 * len as f64 * expected, "{rows} × {len}: {found} {expected}");
        }
    }
}
