//! The way back on the (emulated) device in every precision: at most twice the error of plain f32 loops over operands
//! rounded as the device stores them, and the rounding of the result.

use wherefore::backend::cpu::Cpu;
use wherefore::backend::gpu::{Gpu, Products};
use wherefore::backend::reference::{Plain, Reference};
use wherefore::backend::training::Training;
use wherefore::backend::{
    Activation, Attended, AttentionGradients, AttentionMap, AttentionShape, Backend, Columns, Embeddings, Fold, Norm,
    Objective, Path, Precision, Rows, Stage,
};
use wherefore::tokens::PackedBatch;

use super::gpu::{EVERY, F32, ROUNDINGS, Rounding, STORED, by_products, of, read};
use super::linear::SHAPES_OF_SEVERAL_TILES;
use super::support::{Numbers, assert_accurate_to, batch, bits};
use crate::emulator;

/// An operation and what it is given.
trait Operation {
    /// With operands rounded, as a device stores them.
    fn rounded(&self, round: fn(f32) -> f32) -> Self;
    /// What comes out, and how many numbers of it.
    fn run<B: Backend>(&self, backend: &B) -> Vec<(B::Tensor, usize)>;
}

/// Holds a device's results to the rule.
fn judge(gpu: &Gpu, rounding: &Rounding, what: &str, operation: &impl Operation) {
    let exact = operation.run(&Reference);
    let plain = operation.rounded(rounding.operand).run(&Plain);
    let found = operation.run(gpu);
    for (((tensor, len), (plain, _)), (exact, _)) in found.iter().zip(plain).zip(exact) {
        let plain: Vec<f32> = plain[..*len].iter().map(|&x| (rounding.result)(x)).collect();
        let what = format!("{}, {what}", rounding.precision);
        assert_accurate_to(rounding.unit, &what, &read(gpu, tensor, *len), &plain, &exact[..*len]);
    }
}

fn all(values: &[f32], round: fn(f32) -> f32) -> Vec<f32> {
    values.iter().map(|&x| round(x)).collect()
}

struct LayerNorm {
    dy: Vec<f32>,
    x: Vec<f32>,
    weight: Vec<f32>,
    width: usize,
}

const ROWS: usize = 7;

impl Operation for LayerNorm {
    fn rounded(&self, round: fn(f32) -> f32) -> Self {
        Self { dy: all(&self.dy, round), x: all(&self.x, round), weight: self.weight.clone(), ..*self }
    }

    fn run<B: Backend>(&self, backend: &B) -> Vec<(B::Tensor, usize)> {
        let up = |values: &[f32]| backend.upload(values).unwrap();
        let norm = Norm { weight: up(&self.weight), bias: up(&self.weight), epsilon: 1e-5, width: self.width };
        let mut dx = backend.tensor(ROWS * self.width).unwrap();
        backend.layer_norm_backward(&mut dx, &up(&self.dy), &up(&self.x), &norm, ROWS).unwrap();
        vec![(dx, ROWS * self.width)]
    }
}

#[test]
fn layer_norm_over_widths_offsets_and_scales() {
    for rounding in &STORED {
        let gpu = emulator::gpu(rounding.precision);
        for width in [1, 3, 8, 33, 128, 130, 384, 768, 1000, 1024, 9000] {
            let rows = [(0.0, 1.0), (10.0, 1.0), (-1.0, 5.0)];
            for &(offset, scale) in &rows[..if width > 1000 { 1 } else { rows.len() }] {
                let mut numbers = Numbers::new(width as u64);
                let x = numbers.vector(ROWS * width, scale).iter().map(|x| x + offset).collect();
                let (dy, weight) = (numbers.vector(ROWS * width, 1.0), numbers.vector(width, 2.0));
                let what = format!("width {width}, {offset} ± {scale}");
                judge(&gpu, rounding, &what, &LayerNorm { dy, x, weight, width });
            }
        }
    }
}

struct Linear {
    dy: Vec<f32>,
    weight: Vec<f32>,
    slope: Option<Vec<f32>>,
    residual: Option<Vec<f32>>,
    shape: [usize; 3],
}

impl Linear {
    /// With slopes, and with a residual.
    fn new(shape: [usize; 3], [slope, residual]: [bool; 2], seed: u64) -> Self {
        let ([rows, inputs, outputs], mut numbers) = (shape, Numbers::new(seed));
        let mut drawn = |len| numbers.vector(len, 1.0);
        let (dy, weight) = (drawn(rows * outputs), drawn(inputs * outputs));
        let mut beside = |wanted: bool| wanted.then(|| drawn(rows * inputs));
        Self { dy, weight, slope: beside(slope), residual: beside(residual), shape }
    }

    /// Some of its rows by themselves.
    fn part(&self, rows: std::ops::Range<usize>) -> Self {
        let [_, inputs, outputs] = self.shape;
        let of = |values: &[f32], width: usize| values[rows.start * width..rows.end * width].to_vec();
        let beside = |values: &Option<Vec<f32>>| values.as_ref().map(|values| of(values, inputs));
        let (slope, residual) = (beside(&self.slope), beside(&self.residual));
        let shape = [rows.len(), inputs, outputs];
        Self { dy: of(&self.dy, outputs), weight: self.weight.clone(), slope, residual, shape }
    }
}

impl Operation for Linear {
    fn rounded(&self, round: fn(f32) -> f32) -> Self {
        let beside = |values: &Option<Vec<f32>>| values.as_ref().map(|values| all(values, round));
        let (slope, residual) = (beside(&self.slope), beside(&self.residual));
        Self { dy: all(&self.dy, round), weight: all(&self.weight, round), slope, residual, ..*self }
    }

    fn run<B: Backend>(&self, backend: &B) -> Vec<(B::Tensor, usize)> {
        let [rows, inputs, outputs] = self.shape;
        let up = |values: &Vec<f32>| backend.upload(values).unwrap();
        let layer = backend.pack_linear(&self.weight, &vec![0.5; outputs], inputs, outputs).unwrap();
        let (slope, residual) = (self.slope.as_ref().map(up), self.residual.as_ref().map(up));
        let mut dx = backend.tensor(rows * inputs).unwrap();
        let dy = up(&self.dy);
        backend.linear_backward(&mut dx, &dy, &layer, slope.as_ref(), residual.as_ref(), rows).unwrap();
        vec![(dx, rows * inputs)]
    }
}

/// Rows, inputs, outputs.
const SHAPES: [[usize; 3]; 12] = [
    [1, 1, 1],
    [2, 7, 3],
    [5, 17, 33],
    [64, 32, 64],
    [67, 40, 130],
    [130, 300, 31],
    [3, 384, 2],
    [300, 65, 96],
    [63, 127, 8],
    [130, 260, 264],
    [129, 256, 384],
    [131, 264, 328],
];

#[test]
fn linear_over_odd_shapes() {
    for (gpu, rounding) in &by_products(&ROUNDINGS) {
        let own = if gpu.products() == Products::Wgmma { &SHAPES_OF_SEVERAL_TILES[..] } else { &[] };
        for (i, &shape) in SHAPES.iter().chain(own).enumerate() {
            for beside in [[false, false], [true, false], [false, true], [true, true]] {
                judge(gpu, rounding, &format!("{shape:?}, {beside:?}"), &Linear::new(shape, beside, i as u64));
            }
        }
    }
}

#[test]
fn linear_in_f32_has_the_bits_of_the_cpu() {
    let (gpu, cpu) = (emulator::gpu(Precision::F32), Cpu::new());
    for (i, shape) in SHAPES.into_iter().enumerate() {
        let case = Linear::new(shape, [true; 2], i as u64);
        let (found, expected) = (&case.run(&gpu)[0], &case.run(&cpu)[0]);
        assert!(bits(&read(&gpu, &found.0, found.1)) == bits(&expected.0[..found.1]), "{shape:?}");
    }
}

#[test]
fn linear_gives_a_row_the_same_bits_in_any_company() {
    for (gpu, _) in &by_products(&EVERY) {
        for (inputs, outputs, beside) in [(300, 70, [true, true]), (300, 72, [true, true]), (304, 72, [true, false])] {
            let case = Linear::new([260, inputs, outputs], beside, 3);
            let values = |case: &Linear| {
                let (tensor, len) = &case.run(gpu)[0];
                bits(&read(gpu, tensor, *len))
            };
            let whole = values(&case);
            for rows in [0..1, 17..22, 0..259] {
                let alone = values(&case.part(rows.clone()));
                let among = &whole[rows.start * inputs..rows.end * inputs];
                assert!(alone == *among, "{}, {inputs} × {outputs}, rows {rows:?}", of(gpu));
            }
        }
    }
}

struct WithSlope {
    x: Vec<f32>,
    weight: Vec<f32>,
    activation: Activation,
    shape: [usize; 3],
}

impl WithSlope {
    fn new(shape: [usize; 3], activation: Activation, scale: f32, seed: u64) -> Self {
        let ([rows, inputs, outputs], mut numbers) = (shape, Numbers::new(seed));
        let (x, weight) = (numbers.vector(rows * inputs, scale), numbers.vector(inputs * outputs, scale));
        Self { x, weight, activation, shape }
    }
}

/// Rows of an odd width, and of whole vectors.
const SLOPE_SHAPES: [[usize; 3]; 2] = [[23, 40, 37], [71, 40, 136]];

impl Operation for WithSlope {
    fn rounded(&self, round: fn(f32) -> f32) -> Self {
        Self { x: all(&self.x, round), weight: all(&self.weight, round), ..*self }
    }

    fn run<B: Backend>(&self, backend: &B) -> Vec<(B::Tensor, usize)> {
        let [rows, inputs, outputs] = self.shape;
        let layer = backend.pack_linear(&self.weight, &vec![0.25; outputs], inputs, outputs).unwrap();
        let room = || backend.tensor(rows * outputs).unwrap();
        let (mut out, mut slope, x) = (room(), room(), backend.upload(&self.x).unwrap());
        backend.linear_with_slope(&mut out, &mut slope, &x, &layer, self.activation, rows).unwrap();
        vec![(out, rows * outputs), (slope, rows * outputs)]
    }
}

#[test]
fn slopes_of_every_activation() {
    use Activation::{Gelu, GeluTanh, Identity, QuickGelu, Silu, Tanh};
    for (gpu, rounding) in &by_products(&EVERY) {
        for activation in [Identity, Gelu, GeluTanh, QuickGelu, Silu, Tanh] {
            for shape in SLOPE_SHAPES {
                let case = WithSlope::new(shape, activation, 1.5, 9);
                judge(gpu, rounding, &format!("{activation:?}, {shape:?}"), &case);
            }
        }
    }
}

#[test]
fn slopes_of_several_tiles() {
    for (gpu, rounding) in &by_products(&ROUNDINGS) {
        for shape in SHAPES_OF_SEVERAL_TILES {
            judge(gpu, rounding, &format!("{shape:?}"), &WithSlope::new(shape, Activation::Gelu, 0.3, 9));
        }
    }
}

#[test]
fn values_and_slopes_in_f32_have_the_bits_of_the_cpu() {
    use Activation::{Gelu, GeluTanh, Identity, QuickGelu, Relu, Silu, Tanh};
    let gpu = emulator::gpu(Precision::F32);
    for activation in [Identity, Gelu, GeluTanh, QuickGelu, Relu, Silu, Tanh] {
        for scale in [0.1, 1.5, 30.0] {
            let case = WithSlope::new(SLOPE_SHAPES[0], activation, scale, 5);
            for (found, expected) in case.run(&gpu).iter().zip(case.run(&Cpu::new())) {
                assert!(bits(&read(&gpu, &found.0, found.1)) == bits(&expected.0[..found.1]), "{activation:?}");
            }
        }
    }
}

/// An attention's backward, and its maps.
#[derive(Clone)]
struct Attention {
    qkv: Vec<f32>,
    d_out: Vec<f32>,
    batch: PackedBatch,
    heads: usize,
    head_width: usize,
    queries: Rows,
    maps: bool,
}

impl Attention {
    fn new(lengths: &[u32], heads: usize, head_width: usize, queries: Rows) -> Self {
        let mut numbers = Numbers::new(u64::from(lengths[0]) + head_width as u64);
        let (batch, width) = (batch(lengths, 1, &mut numbers), heads * head_width);
        let (qkv, d_out) =
            (numbers.vector(batch.tokens() * 3 * width, 1.5), numbers.vector(batch.tokens() * width, 1.0));
        Self { qkv, d_out, batch, heads, head_width, queries, maps: false }
    }

    fn width(&self) -> usize {
        self.heads * self.head_width
    }

    /// One sequence by itself.
    fn alone(&self, sequence: usize) -> Self {
        let (range, width) = (self.batch.range(sequence), self.width());
        let asking = if self.queries == Rows::All { range.clone() } else { sequence..sequence + 1 };
        let qkv = self.qkv[range.start * 3 * width..range.end * 3 * width].to_vec();
        let d_out = self.d_out[asking.start * width..asking.end * width].to_vec();
        Self { qkv, d_out, batch: batch(&[range.len() as u32], 1, &mut Numbers::new(1)), ..*self }
    }

    fn name(&self) -> String {
        format!("{:?}, {} heads of {}, {:?}", self.batch.cu_seqlens, self.heads, self.head_width, self.queries)
    }

    /// Backward: gradients of q, k and v, or of k and v and of q.
    fn gradients<B: Backend>(&self, backend: &B, attended: &Attended<'_, B>) -> Vec<(B::Tensor, usize)> {
        let (width, tokens, sequences) = (self.width(), self.batch.tokens(), self.batch.sequences());
        let first = self.queries == Rows::First;
        let parts = if first { 2 } else { 3 };
        let room = |len| backend.tensor(len).unwrap();
        let (mut packed, mut query) = (room(tokens * parts * width), room(sequences * width));
        let gradients = AttentionGradients { packed: &mut packed, query: first.then_some(&mut query) };
        backend.attention_backward(gradients, &backend.upload(&self.d_out).unwrap(), attended).unwrap();
        let mut results = vec![(packed, tokens * parts * width)];
        results.extend(first.then_some((query, sequences * width)));
        results
    }

    fn all_maps<B: Backend>(&self, backend: &B, attended: &Attended<'_, B>) -> Vec<(B::Tensor, usize)> {
        let lengths = (0..self.batch.sequences()).map(|sequence| self.batch.range(sequence).len());
        let pairs = lengths.map(|length| if self.queries == Rows::All { length * length } else { length }).sum();
        let d_out = backend.upload(&self.d_out).unwrap();
        let run = |map| {
            let mut out = backend.results(pairs).unwrap();
            backend.attention_map(&mut out, attended, map).unwrap();
            (out, pairs)
        };
        vec![run(AttentionMap::Weights), run(AttentionMap::Scores), run(AttentionMap::GradientWeights(&d_out))]
    }
}

impl Operation for Attention {
    fn rounded(&self, round: fn(f32) -> f32) -> Self {
        Self { qkv: all(&self.qkv, round), d_out: all(&self.d_out, round), ..self.clone() }
    }

    fn run<B: Backend>(&self, backend: &B) -> Vec<(B::Tensor, usize)> {
        let (width, stride) = (self.width(), 3 * self.width());
        let qkv = backend.upload(&self.qkv).unwrap();
        let first = self.batch.cu_seqlens[..self.batch.sequences()].iter();
        let first: Vec<f32> = first.flat_map(|&t| self.qkv[t as usize * stride..][..width].to_vec()).collect();
        let first = backend.upload(&first).unwrap();
        let view = |offset| Columns { tensor: &qkv, stride, offset };
        let q = match self.queries {
            Rows::All => view(0),
            Rows::First => Columns { tensor: &first, stride: width, offset: 0 },
        };
        let staged = backend.stage(self.batch.clone()).unwrap();
        let shape = AttentionShape { heads: self.heads, head_width: self.head_width, queries: self.queries };
        let attended = Attended { q, k: view(width), v: view(2 * width), batch: &staged, shape };
        if self.maps { self.all_maps(backend, &attended) } else { self.gradients(backend, &attended) }
    }
}

const LENGTHS: [&[u32]; 4] = [&[1, 5, 16], &[33, 64, 15], &[129, 1, 150], &[97, 128]];
const HEADS: [(usize, usize); 6] = [(1, 1), (3, 8), (2, 32), (2, 33), (1, 64), (1, 100)];

fn attentions() -> impl Iterator<Item = Attention> {
    let both = |lengths, heads, width| [Rows::All, Rows::First].map(|rows| Attention::new(lengths, heads, width, rows));
    LENGTHS.into_iter().flat_map(move |lengths| HEADS.into_iter().flat_map(move |(h, w)| both(lengths, h, w)))
}

#[test]
fn attention_in_f32_over_lengths_and_heads() {
    let gpu = emulator::gpu(Precision::F32);
    attentions().for_each(|case| judge(&gpu, &F32, &case.name(), &case));
}

#[test]
fn attention_on_tensor_cores_over_lengths_and_heads() {
    for rounding in &ROUNDINGS[..2] {
        let gpu = emulator::gpu(rounding.precision);
        attentions().for_each(|case| judge(&gpu, rounding, &case.name(), &case));
    }
}

#[test]
fn attention_maps_over_lengths_and_heads() {
    for rounding in &STORED {
        let gpu = emulator::gpu(rounding.precision);
        // Results are f32 whatever is stored.
        let rounding = Rounding { result: |x| x, ..*rounding };
        for case in attentions().filter(|case| case.head_width != 33) {
            judge(&gpu, &rounding, &case.name(), &Attention { maps: true, ..case });
        }
    }
}

#[test]
fn attention_of_a_long_sequence() {
    let gpu = emulator::gpu(Precision::F16);
    let case = Attention::new(&[900], 1, 16, Rows::All);
    judge(&gpu, &ROUNDINGS[0], &case.name(), &case);
}

/// The longest there are: what a first token sees of 8192, and what comes back to them.
#[test]
fn attention_of_the_longest_sequence() {
    for rounding in [&F32, &ROUNDINGS[0]] {
        let gpu = emulator::gpu(rounding.precision);
        let case = Attention::new(&[8192], 1, 8, Rows::First);
        judge(&gpu, rounding, &case.name(), &case);
    }
}

#[test]
fn attention_depends_on_its_sequence_alone() {
    for precision in [Precision::F32, Precision::F16] {
        let gpu = emulator::gpu(precision);
        for queries in [Rows::All, Rows::First] {
            for maps in [false, true] {
                let case = Attention { maps, ..Attention::new(&[70, 1, 130, 9, 128], 2, 16, queries) };
                let whole = case.run(&gpu);
                let mut starts = vec![0; whole.len()];
                for sequence in 0..case.batch.sequences() {
                    for (place, (tensor, len)) in case.alone(sequence).run(&gpu).iter().enumerate() {
                        let among = read(&gpu, &whole[place].0, whole[place].1);
                        let among = &among[starts[place]..][..*len];
                        assert_eq!(bits(&read(&gpu, tensor, *len)), bits(among), "{precision}, {}", case.name());
                        starts[place] += len;
                    }
                }
            }
        }
    }
}

const VOCABULARY: usize = 20;

fn embeddings<B: Backend>(backend: &B, width: usize, words: f32) -> Embeddings<B> {
    let mut numbers = Numbers::new(6);
    let mut table = |rows: usize, scale| backend.upload(&numbers.vector(rows * width, scale)).unwrap();
    Embeddings {
        word: table(VOCABULARY, words),
        position: Some(table(40, 1.0)),
        token_type: Some(table(2, 1.0)),
        task: None,
        norm: Norm { weight: table(1, 1.0), bias: table(1, 1.0), epsilon: 1e-12, width },
    }
}

fn path(batch: &PackedBatch, stage: Stage, alpha: f32, sigma: f32) -> Path {
    let sequences = batch.sequences();
    let baseline = |t: usize| if t.is_multiple_of(3) { Path::ZERO } else { (t % VOCABULARY) as u32 };
    Path {
        stage,
        baseline: (0..batch.tokens()).map(baseline).collect(),
        alpha: vec![alpha; sequences],
        sigma: (0..sequences).map(|sequence| sigma * sequence as f32).collect(),
        draws: (0..sequences as u32).map(|sequence| [sequence, 1000 + sequence]).collect(),
        seed: 0x0123_4567_89ab_cdef,
    }
}

/// From zero to words that are zero, the step is the noise: each number seen through a gradient of one 1.
#[test]
fn noise_has_the_bits_it_has_everywhere() {
    let (gpu, width) = (emulator::gpu(Precision::F32), 37);
    let batch = batch(&[40, 1, 40], VOCABULARY as u32, &mut Numbers::new(2));
    let path = Path { baseline: vec![Path::ZERO; 81], ..path(&batch, Stage::Word, 0.5, 0.75) };
    let embeddings = embeddings(&gpu, width, 0.0);
    let staged = (gpu.stage(batch.clone()).unwrap(), gpu.stage_path(path.clone()).unwrap());
    let gradient: Vec<f32> = (0..81 * width).map(|i| f32::from(u8::from(i % width == i / width % width))).collect();
    let (gradient, mut steps) = (gpu.upload(&gradient).unwrap(), gpu.results(81).unwrap());
    gpu.fold(&mut steps, &gradient, &embeddings, &staged.0, &staged.1, Fold::Step).unwrap();
    let steps = read(&gpu, &steps, 81);
    for sequence in 0..3 {
        for (place, token) in batch.range(sequence).enumerate() {
            let mut noise = vec![0.0; width];
            path.draw_noise(&mut noise, sequence, place);
            assert_eq!(steps[token].to_bits(), noise[token % width].to_bits(), "token {token}");
        }
    }
}

#[test]
fn the_end_of_a_path_is_the_embedding_itself_bit_for_bit() {
    let batch = batch(&[1, 4, 30], VOCABULARY as u32, &mut Numbers::new(8));
    for precision in [Precision::F32, Precision::F16] {
        let gpu = emulator::gpu(precision);
        let embeddings = embeddings(&gpu, 37, 1.0);
        let staged = gpu.stage(batch.clone()).unwrap();
        let (mut plain, mut end) = (gpu.tensor(35 * 37).unwrap(), gpu.tensor(35 * 37).unwrap());
        gpu.embed(&mut plain, &embeddings, &staged).unwrap();
        for stage in [Stage::Word, Stage::Output] {
            let path = gpu.stage_path(path(&batch, stage, 1.0, 0.0)).unwrap();
            gpu.embed_path(&mut end, &embeddings, &staged, &path).unwrap();
            assert_eq!(bits(&read(&gpu, &plain, 35 * 37)), bits(&read(&gpu, &end, 35 * 37)), "{stage:?}");
        }
    }
}

/// Paths without noise are in registers where rows are of these widths, those with noise in shared memory: noise too
/// small to change a number tells them apart.
#[test]
fn paths_in_registers_have_the_bits_of_those_in_shared_memory() {
    let batch = batch(&[7, 2], VOCABULARY as u32, &mut Numbers::new(9));
    for (precision, width) in [(Precision::F32, 384), (Precision::F16, 768), (Precision::Bf16, 1024)] {
        let (gpu, numbers) = (emulator::gpu(precision), 9 * width);
        let embeddings = embeddings(&gpu, width, 1.0);
        let staged = gpu.stage(batch.clone()).unwrap();
        let slopes = gpu.upload(&Numbers::new(3).vector(numbers, 1.0)).unwrap();
        let [registers, shared] = [0.0, 1e-30].map(|sigma| {
            let path = gpu.stage_path(Path { sigma: vec![sigma; 2], ..path(&batch, Stage::Word, 0.3, 0.0) }).unwrap();
            let (mut out, mut gradient) = (gpu.tensor(numbers).unwrap(), gpu.tensor(numbers).unwrap());
            gpu.embed_path(&mut out, &embeddings, &staged, &path).unwrap();
            let mut results = bits(&read(&gpu, &out, numbers));
            gpu.copy(&mut gradient, &slopes, numbers).unwrap();
            gpu.embed_backward(&mut gradient, &embeddings, &staged, &path).unwrap();
            results.extend(bits(&read(&gpu, &gradient, numbers)));
            for (fold, len) in [(Fold::Step, 9), (Fold::Norm, 9), (Fold::Whole, numbers)] {
                let mut folded = gpu.results(len).unwrap();
                gpu.fold(&mut folded, &gradient, &embeddings, &staged, &path, fold).unwrap();
                results.extend(bits(&read(&gpu, &folded, len)));
            }
            results
        });
        assert!(registers == shared, "width {width}");
    }
}

#[test]
fn a_path_refuses_a_baseline_beyond_the_table() {
    let gpu = emulator::gpu(Precision::F32);
    let batch = batch(&[3], VOCABULARY as u32, &mut Numbers::new(8));
    let mut path = path(&batch, Stage::Word, 0.5, 0.0);
    path.baseline[1] = VOCABULARY as u32;
    let (path, staged) = (gpu.stage_path(path).unwrap(), gpu.stage(batch).unwrap());
    let mut out = gpu.tensor(3 * 8).unwrap();
    let error = gpu.embed_path(&mut out, &embeddings(&gpu, 8, 1.0), &staged, &path).unwrap_err();
    assert_eq!(error.to_string(), "token id 20 is beyond the model's table of 20");
}

/// Gradients of one token a sequence, folded whole: what the objective gave, over its scale.
struct Objectives {
    z: Vec<f32>,
    asked: Vec<Objective>,
    classes: usize,
}

impl Operation for Objectives {
    fn rounded(&self, round: fn(f32) -> f32) -> Self {
        Self { z: all(&self.z, round), asked: self.asked.clone(), ..*self }
    }

    fn run<B: Backend>(&self, backend: &B) -> Vec<(B::Tensor, usize)> {
        let (sequences, classes) = (self.asked.len(), self.classes);
        let batch = batch(&vec![1; sequences], 1, &mut Numbers::new(1));
        let path = backend.stage_path(path(&batch, Stage::Word, 1.0, 0.0)).unwrap();
        let staged = backend.stage(batch).unwrap();
        let (z, mut dz) = (backend.upload(&self.z).unwrap(), backend.tensor(self.z.len()).unwrap());
        backend.objective_gradient(&mut dz, &z, &self.asked, &staged, classes).unwrap();
        let mut out = backend.results(self.z.len()).unwrap();
        backend.fold(&mut out, &dz, &embeddings(backend, classes, 1.0), &staged, &path, Fold::Whole).unwrap();
        vec![(out, sequences * classes)]
    }
}

#[test]
fn objectives_over_classes() {
    for rounding in &STORED {
        let gpu = emulator::gpu(rounding.precision);
        for classes in [1, 2, 31, 33, 1000, 10_000] {
            let last = classes - 1;
            let objectives = vec![
                Objective::Softmax(last),
                Objective::Softmax(0),
                Objective::Sigmoid(last),
                Objective::Logit(0),
                Objective::Difference(0, last),
            ];
            let z = Numbers::new(3).vector(objectives.len() * classes, 4.0);
            judge(&gpu, rounding, &format!("{classes} classes"), &Objectives { z, asked: objectives, classes });
        }
    }
}

/// Where the model is all but certain, gradients are far below the smallest number f16 holds, and keep its eleven bits
/// all the same.
#[test]
fn gradients_of_a_certain_model_do_not_vanish_in_f16() {
    let gpu = emulator::gpu(Precision::F16);
    for gap in [10.0, 25.0, 60.0] {
        let z = vec![gap, 0.0, -0.5, gap, 0.0, -0.5];
        let case = Objectives { z, asked: vec![Objective::Softmax(0), Objective::Sigmoid(0)], classes: 3 };
        let (found, exact) = (case.run(&gpu), case.run(&Reference));
        for (x, exact) in read(&gpu, &found[0].0, 6).iter().zip(&exact[0].0) {
            // One rounding to f16, and what f32's exponentials leave.
            assert!((f64::from(*x) - exact).abs() <= 1.01 * exact.abs() / 2048.0, "gap {gap}: {x:e}, not {exact:e}");
        }
    }
}
