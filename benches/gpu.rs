//! The GPU's kernels at the shapes of BERT-base, each beside the ceiling it is bound by: `cargo bench --bench gpu`.
//!
//! A row is printed as it is measured: operation, shape, microseconds, rate, and the share of the device's own measured
//! ceiling (copies for what moves bytes, products from registers for what multiplies). Without a GPU it says so, and
//! that is all.

#![expect(clippy::print_stdout, reason = "what a bench is for")]

use std::time::Instant;

use wherefore::backend::gpu::{Ceilings, Gpu, Products};
use wherefore::backend::training::{
    self, AdamStep, AdaptedStep, CrossEntropy, Dropout, NormProducts, Pair, Passed, Place, Shape, Sketch, Stepped,
    Tables, Training,
};
use wherefore::backend::{
    Activation, Attended, AttentionGradients, AttentionShape, Backend, Columns, Embeddings, Norm, Precision, Rows, Step,
};
use wherefore::factors::{FactorRows, Floats};
use wherefore::search::{Bounds, Form, Options, Query, search};
use wherefore::tokens::{Masked, PackedBatch};
use wherefore::{Error, Result};

/// Tokens of a batch: 44 × 128, a whole wave of tiles on 132 multiprocessors.
const TOKENS: usize = 5632;
const WIDTH: usize = 768;
const HEADS: usize = 12;
/// How long a measurement takes at least.
const SECONDS: f64 = 0.05;

/// What an operation is bound by, and how much of it there is.
#[derive(Clone, Copy)]
enum Bound {
    /// Operations, a multiply-add being two.
    Products(f64),
    /// f32 arithmetic.
    Arithmetic(f64),
    Bytes(f64),
}

/// A device in one precision, and what it could do at most.
struct Bench {
    gpu: Gpu,
    ceilings: Ceilings,
    precision: Precision,
}

/// A row's first word: the precision, and that it is by `wgmma`, whose ceiling is not measured: shares are of what
/// `mma.sync` reaches.
fn label(gpu: &Gpu) -> String {
    let by = if gpu.products() == Products::Wgmma { "/wgmma" } else { "" };
    format!("{}{by}", gpu.precision().name())
}

impl Bench {
    fn open(precision: Precision) -> Result<Self> {
        let gpu = Gpu::open(0, precision)?;
        let ceilings = gpu.ceilings()?;
        Ok(Self { gpu, ceilings, precision })
    }

    /// Bytes of a stored activation.
    fn stored(&self) -> f64 {
        if matches!(self.precision, Precision::F16 | Precision::Bf16) { 2.0 } else { 4.0 }
    }

    /// A buffer of activations, written to, as the precision stores them.
    fn drawn(&self, len: usize) -> Result<<Gpu as Backend>::Tensor> {
        let values = self.gpu.upload(&numbers(len, 1.0))?;
        let weight = self.gpu.pack_linear(&[1.0], &[0.0], 1, 1)?;
        let mut stored = self.gpu.tensor(len)?;
        self.gpu.linear(&mut stored, &values, &weight, Activation::Identity, None, len)?;
        Ok(stored)
    }

    /// Seconds of one run of `job`, which writes `out`: over as many as take long enough, after one to warm up.
    fn time(
        &self,
        out: &mut <Gpu as Backend>::Tensor,
        mut job: impl FnMut(&mut <Gpu as Backend>::Tensor) -> Result<()>,
    ) -> Result<f64> {
        job(out)?;
        self.gpu.download(&mut [0.0], out)?;
        let mut runs = 1;
        loop {
            let began = Instant::now();
            (0..runs).try_for_each(|_| job(out))?;
            self.gpu.download(&mut [0.0], out)?;
            let seconds = began.elapsed().as_secs_f64();
            if seconds >= SECONDS {
                return Ok(seconds / f64::from(runs));
            }
            runs *= 2;
        }
    }

    fn row(&self, name: &str, shape: &str, seconds: f64, bound: Bound) {
        let (rate, unit, ceiling) = match bound {
            Bound::Products(flops) => (flops / seconds / 1e9, "GFLOP/s", self.ceilings.of(self.precision)),
            Bound::Arithmetic(flops) => (flops / seconds / 1e9, "GFLOP/s", self.ceilings.fma_gflops),
            Bound::Bytes(bytes) => (bytes / seconds / 1e9, "GB/s", self.ceilings.copy_gbs),
        };
        let (precision, share) = (label(&self.gpu), 100.0 * rate / ceiling);
        println!("{precision:10} {name:28} {shape:28} {:10.1} µs {rate:10.0} {unit:7} {share:5.1} %", seconds * 1e6);
    }
}

fn numbers(len: usize, scale: f32) -> Vec<f32> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        scale * ((state >> 8) as f32 / (1 << 23) as f32 - 1.0)
    };
    (0..len).map(|_| next()).collect()
}

fn linear(bench: &Bench) -> Result<()> {
    let gpu = &bench.gpu;
    for (inputs, outputs, activation) in [
        (WIDTH, 3 * WIDTH, Activation::Identity),
        (WIDTH, WIDTH, Activation::Identity),
        (WIDTH, 4 * WIDTH, Activation::Gelu),
        (4 * WIDTH, WIDTH, Activation::Identity),
    ] {
        let layer = gpu.pack_linear(&numbers(inputs * outputs, 0.05), &numbers(outputs, 0.1), inputs, outputs)?;
        let (x, dy) = (bench.drawn(TOKENS * inputs)?, bench.drawn(TOKENS * outputs)?);
        let (mut out, mut slope, mut dx) =
            (gpu.tensor(TOKENS * outputs)?, gpu.tensor(TOKENS * outputs)?, gpu.tensor(TOKENS * inputs)?);
        let (shape, bound) = (format!("{TOKENS} x {inputs} x {outputs}"), 2.0 * (TOKENS * inputs * outputs) as f64);
        let seconds = bench.time(&mut out, |out| gpu.linear(out, &x, &layer, activation, None, TOKENS))?;
        bench.row(&format!("linear ({activation:?})"), &shape, seconds, Bound::Products(bound));
        let keep = |out: &mut _| gpu.linear_with_slope(out, &mut slope, &x, &layer, activation, TOKENS);
        let seconds = bench.time(&mut out, keep)?;
        bench.row(&format!("linear_with_slope ({activation:?})"), &shape, seconds, Bound::Products(bound));
        let back = |dx: &mut _| gpu.linear_backward(dx, &dy, &layer, Some(&x), None, TOKENS);
        let seconds = bench.time(&mut dx, back)?;
        bench.row("linear_backward", &shape, seconds, Bound::Products(bound));
    }
    Ok(())
}

fn attention(bench: &Bench) -> Result<()> {
    let gpu = &bench.gpu;
    let (qkv, d_out) = (bench.drawn(TOKENS * 3 * WIDTH)?, bench.drawn(TOKENS * WIDTH)?);
    let (mut out, mut packed) = (gpu.tensor(TOKENS * WIDTH)?, gpu.tensor(TOKENS * 3 * WIDTH)?);
    for length in [64, 128, 256, 512] {
        let staged = gpu.stage(sequences(length))?;
        let view = |part: usize| Columns { tensor: &qkv, stride: 3 * WIDTH, offset: part * WIDTH };
        let shape = AttentionShape { heads: HEADS, head_width: WIDTH / HEADS, queries: Rows::All };
        let attended = Attended { q: view(0), k: view(1), v: view(2), batch: &staged, shape };
        let (case, one) = (format!("{TOKENS} tokens, L {length}"), 2.0 * (TOKENS * length * WIDTH) as f64);
        let seconds = bench.time(&mut out, |out| gpu.attention(out, &attended))?;
        // Attention in f32 is arithmetic whatever matrices are multiplied in.
        let bound = |products: f64| match bench.precision {
            Precision::F16 | Precision::Bf16 => Bound::Products(products * one),
            _ => Bound::Arithmetic(products * one),
        };
        bench.row("attention", &case, seconds, bound(2.0));
        let back =
            |packed: &mut _| gpu.attention_backward(AttentionGradients { packed, query: None }, &d_out, &attended);
        let seconds = bench.time(&mut packed, back)?;
        bench.row("attention_backward", &case, seconds, bound(9.0));
    }
    Ok(())
}

/// As many sequences of one length as there are tokens for.
fn sequences(length: usize) -> PackedBatch {
    let tokens = || 0..TOKENS as u32;
    PackedBatch {
        ids: tokens().collect(),
        type_ids: vec![0; TOKENS],
        positions: tokens().map(|token| token % length as u32).collect(),
        cu_seqlens: (0..=TOKENS / length).map(|sequence| (sequence * length) as u32).collect(),
    }
}

/// Masked texts, and rows down through their maps.
fn explaining(bench: &Bench) -> Result<()> {
    let gpu = &bench.gpu;
    let length = 128;
    let texts = sequences(length);
    let table = |rows: usize| gpu.upload(&numbers(rows * WIDTH, 1.0));
    let norm = Norm { weight: table(1)?, bias: table(1)?, epsilon: 1e-12, width: WIDTH };
    let embeddings = Embeddings {
        word: table(TOKENS)?,
        position: Some(table(length)?),
        token_type: Some(table(1)?),
        task: None,
        norm,
    };
    let count = texts.sequences();
    let of: Vec<u32> = vec![0; count];
    let bits = (0..count * Masked::words(length)).map(|word| word as u32 * 0x9E37_79B9).collect();
    let batch = gpu.stage_masked(Masked { texts: texts.clone(), of, bits, stand_in: 7 })?;
    let (mut out, row) = (gpu.tensor(TOKENS * WIDTH)?, (TOKENS * WIDTH) as f64);
    let seconds = bench.time(&mut out, |out| gpu.embed(out, &embeddings, &batch))?;
    let bytes = row * (4.0 + bench.stored());
    bench.row("embed (masked)", &format!("{TOKENS} x {WIDTH}"), seconds, Bound::Bytes(bytes));

    let (map, share) = (gpu.upload(&numbers(TOKENS * length, 1.0))?, gpu.upload(&numbers(TOKENS, 1.0))?);
    let (mut out, staged, below) = (gpu.results(TOKENS)?, gpu.stage(texts)?, vec![0.5; count]);
    let step = Step { queries: Rows::All, own: 0.5, below: &below };
    let seconds = bench.time(&mut out, |out| gpu.follow(out, &share, &map, &staged, step))?;
    bench.row("follow", &format!("{TOKENS} x {length}"), seconds, Bound::Bytes(4.0 * (TOKENS * length) as f64));
    Ok(())
}

fn layer_norm(bench: &Bench) -> Result<()> {
    let gpu = &bench.gpu;
    let (x, dy, mut out) = (bench.drawn(TOKENS * WIDTH)?, bench.drawn(TOKENS * WIDTH)?, gpu.tensor(TOKENS * WIDTH)?);
    let parameter = || gpu.upload(&numbers(WIDTH, 1.0));
    let norm = Norm { weight: parameter()?, bias: parameter()?, epsilon: 1e-12, width: WIDTH };
    let (shape, row) = (format!("{TOKENS} x {WIDTH}"), (TOKENS * WIDTH) as f64 * bench.stored());
    let seconds = bench.time(&mut out, |out| gpu.layer_norm(out, &x, &norm, TOKENS))?;
    bench.row("layer_norm", &shape, seconds, Bound::Bytes(2.0 * row));
    let seconds = bench.time(&mut out, |out| gpu.layer_norm_backward(out, &dy, &x, &norm, TOKENS))?;
    bench.row("layer_norm_backward", &shape, seconds, Bound::Bytes(3.0 * row));
    Ok(())
}

/// What training adds to a pass: gradients of parameters, what is dropped, and the optimiser's step.
fn training(bench: &Bench) -> Result<()> {
    let (gpu, length) = (&bench.gpu, 128);
    let staged = gpu.stage(sequences(length))?;
    let (rows, stored) = ((TOKENS * WIDTH) as f64, bench.stored());
    for [inputs, outputs] in [[WIDTH, 3 * WIDTH], [WIDTH, WIDTH], [WIDTH, 4 * WIDTH], [4 * WIDTH, WIDTH]] {
        let (x, dy) = (bench.drawn(TOKENS * inputs)?, bench.drawn(TOKENS * outputs)?);
        let (mut weight, mut bias) =
            (gpu.upload(&numbers(inputs * outputs, 1.0))?, gpu.upload(&numbers(outputs, 1.0))?);
        let add = |weight: &mut _| {
            let passed = Passed { batch: &staged, rows: Rows::All, inputs, outputs };
            gpu.linear_parameters_backward(Pair { weight, bias: &mut bias }, 0, &dy, &x, passed)
        };
        let seconds = bench.time(&mut weight, add)?;
        let shape = format!("{TOKENS} x {inputs} x {outputs}");
        bench.row("weight gradient", &shape, seconds, Bound::Products(2.0 * (TOKENS * inputs * outputs) as f64));
    }
    let (x, dy) = (bench.drawn(TOKENS * WIDTH)?, bench.drawn(TOKENS * WIDTH)?);
    let (mut out, shape) = (gpu.tensor(TOKENS * WIDTH)?, format!("{TOKENS} x {WIDTH}"));
    let (mut weight, mut bias) = (gpu.upload(&numbers(WIDTH, 1.0))?, gpu.upload(&numbers(WIDTH, 1.0))?);
    let of_norm = Shape { rows: TOKENS, inputs: WIDTH, outputs: WIDTH };
    let add =
        |weight: &mut _| gpu.layer_norm_parameters_backward(Pair { weight, bias: &mut bias }, &dy, &x, 1e-12, of_norm);
    let seconds = bench.time(&mut weight, add)?;
    bench.row("norm gradient", &shape, seconds, Bound::Bytes(2.0 * rows * stored));

    let records: Vec<u32> = (0..(TOKENS / length) as u32).collect();
    let dropout = Dropout::new(1, 0.1, 1, &records).expect("a rate above zero");
    let drop = |out: &mut _| {
        gpu.dropout(out, &x, Some(&dy), &dropout, Place { batch: &staged, rows: Rows::All, width: WIDTH })
    };
    let seconds = bench.time(&mut out, drop)?;
    bench.row("dropout", &shape, seconds, Bound::Bytes(3.0 * rows * stored));
    let qkv = bench.drawn(TOKENS * 3 * WIDTH)?;
    let view = |part: usize| Columns { tensor: &qkv, stride: 3 * WIDTH, offset: part * WIDTH };
    let attention = AttentionShape { heads: HEADS, head_width: WIDTH / HEADS, queries: Rows::All };
    let attended = Attended { q: view(0), k: view(1), v: view(2), batch: &staged, shape: attention };
    let seconds = bench.time(&mut out, |out| gpu.attention_dropout(out, &attended, &dropout))?;
    let one = 2.0 * (TOKENS * length * WIDTH) as f64;
    bench.row("attention_dropout", &format!("{TOKENS} tokens, L {length}"), seconds, Bound::Products(2.0 * one));
    let mut packed = gpu.tensor(TOKENS * 3 * WIDTH)?;
    let back = |packed: &mut _| {
        gpu.attention_dropout_backward(AttentionGradients { packed, query: None }, &dy, &attended, &dropout)
    };
    let seconds = bench.time(&mut packed, back)?;
    bench.row(
        "attention_dropout_backward",
        &format!("{TOKENS} tokens, L {length}"),
        seconds,
        Bound::Products(9.0 * one),
    );

    let table = |rows: usize| gpu.upload(&numbers(rows * WIDTH, 1.0));
    let (mut word, mut position) = (table(TOKENS)?, table(length)?);
    let tables = Tables { word: &word, position: &position, token_type: None, task: None };
    let seconds = bench.time(&mut out, |out| gpu.embed_sum(out, tables, &staged, WIDTH))?;
    bench.row("embed_sum", &shape, seconds, Bound::Bytes(rows * (4.0 + stored)));
    let add = |word: &mut _| {
        let tables = Tables { word, position: &mut position, token_type: None, task: None };
        gpu.embed_sum_backward(tables, &dy, &staged, WIDTH)
    };
    let seconds = bench.time(&mut word, add)?;
    bench.row("embed_sum_backward", &shape, seconds, Bound::Bytes(rows * (8.0 + 2.0 * stored)));

    let parameters = 4 * WIDTH * WIDTH;
    let upload = || gpu.upload(&numbers(parameters, 1.0));
    let (mut parameter, mut gradient, mut first, mut second) =
        (upload()?, upload()?, upload()?, gpu.results(parameters)?);
    gpu.clear(&mut second)?;
    let step = AdamStep { rate: 1e-5, decay: 0.01, betas: [0.9, 0.999], epsilon: 1e-8, number: 10, scale: 1.0 };
    let adam = |value: &mut _| {
        let moments = [&mut first, &mut second];
        gpu.adam_steps(vec![Stepped { value, moments, gradient: &mut gradient, decays: true }], &step)
    };
    let seconds = bench.time(&mut parameter, adam)?;
    bench.row("adam_step", &format!("{parameters}"), seconds, Bound::Bytes(32.0 * parameters as f64));
    let bias = gpu.upload(&numbers(WIDTH, 1.0))?;
    let mut layer = gpu.pack_linear(&numbers(parameters, 1.0), &numbers(WIDTH, 1.0), 4 * WIDTH, WIDTH)?;
    let pack = |parameter: &mut _| {
        gpu.repack_linear(&mut layer, Pair { weight: &*parameter, bias: &bias }, 0..WIDTH, 4 * WIDTH)
    };
    let seconds = bench.time(&mut parameter, pack)?;
    bench.row(
        "repack_linear",
        &format!("{} x {WIDTH}", 4 * WIDTH),
        seconds,
        Bound::Bytes((4.0 + stored) * parameters as f64),
    );
    Ok(())
}

/// What gradients of single records add to a pass: of projected sides, and of a whole layer's, whose squares are added
/// up.
fn records(bench: &Bench) -> Result<()> {
    let (gpu, length) = (&bench.gpu, 128);
    let (staged, records) = (gpu.stage(sequences(length))?, TOKENS / length);
    for [inputs, outputs] in [[12, 12], [WIDTH, WIDTH], [WIDTH, 4 * WIDTH]] {
        let (x, dy) = (bench.drawn(TOKENS * inputs)?, bench.drawn(TOKENS * outputs)?);
        let stride = inputs * outputs;
        let mut out = gpu.results(records * stride)?;
        gpu.clear(&mut out)?;
        let add = |out: &mut _| {
            let products = training::Products { batch: &staged, rows: Rows::All, inputs, outputs, stride, offset: 0 };
            gpu.outer_products(out, &dy, &x, products)
        };
        let seconds = bench.time(&mut out, add)?;
        let shape = format!("{records} x {length} x {inputs} x {outputs}");
        let moved = bench.stored() * (TOKENS * (inputs + outputs)) as f64 + (8 * records * stride) as f64;
        bench.row("outer_products", &shape, seconds, Bound::Bytes(moved));
        if bench.precision != Precision::F32 {
            continue;
        }
        let (mut sums, shape) = (gpu.sums(&vec![0.0; stride])?, format!("{records} x {stride}"));
        let seconds = bench.time(&mut out, |out| gpu.add_squares(&mut sums, out, records))?;
        bench.row("add_squares", &shape, seconds, Bound::Bytes((4 * records * stride + 16 * stride) as f64));
        let seconds = bench.time(&mut out, |out| gpu.weighted_squares(&sums, out, records).map(drop))?;
        bench.row("weighted_squares", &shape, seconds, Bound::Bytes((4 * records * stride + 8 * stride) as f64));
    }
    Ok(())
}

/// What else records' gradients go through: sparse projections, a normalisation's own sums, steps of AdamW.
fn projected(bench: &Bench) -> Result<()> {
    let (gpu, length, kept, inner) = (&bench.gpu, 128, 64, 4 * WIDTH);
    let (staged, records, stored) = (gpu.stage(sequences(length))?, TOKENS / length, bench.stored());
    let x = bench.drawn(TOKENS * inner)?;
    let sketch = gpu.pack_sketch(Sketch::new(inner, kept, |run| (run * 37 % kept, 0x5A96)))?;
    let mut out = gpu.tensor(TOKENS * kept)?;
    let seconds = bench.time(&mut out, |out| gpu.sketch(out, &x, &sketch, TOKENS))?;
    let moved = stored * (TOKENS * (inner + kept)) as f64;
    bench.row("sketch", &format!("{TOKENS} x {inner} x {kept}"), seconds, Bound::Bytes(moved));

    let (dy, mut sums) = (bench.drawn(TOKENS * WIDTH)?, gpu.results(2 * records * WIDTH)?);
    let add = |sums: &mut _| {
        let products = NormProducts { batch: &staged, rows: Rows::All, epsilon: 1e-12, width: WIDTH };
        gpu.norm_products(sums, &dy, &x, products)
    };
    let seconds = bench.time(&mut sums, add)?;
    bench.row(
        "norm_products",
        &format!("{TOKENS} x {WIDTH}"),
        seconds,
        Bound::Bytes(2.0 * stored * (TOKENS * WIDTH) as f64),
    );

    let (len, scales) = (WIDTH * inner, vec![1.0; records]);
    let mut gradients = gpu.results(records * len)?;
    gpu.clear(&mut gradients)?;
    let (drift, floor) = (gpu.upload(&numbers(len, 1.0))?, gpu.upload(&vec![1.0; len])?);
    let mut adapted = gpu.tensor(records * len)?;
    let adapt = |adapted: &mut _| {
        let step = AdaptedStep { drift: &drift, floor: &floor, rests: [0.1, 0.001], scales: &scales, len };
        gpu.adapt(adapted, &gradients, step)
    };
    let seconds = bench.time(&mut adapted, adapt)?;
    let moved = (4.0 + stored) * (records * len) as f64 + (8 * len) as f64;
    bench.row("adapt", &format!("{records} x {len}"), seconds, Bound::Bytes(moved));
    Ok(())
}

/// The losses of masked pieces, and their slopes.
fn losses(bench: &Bench) -> Result<()> {
    const CLASSES: usize = 30_522;
    let (gpu, masks) = (&bench.gpu, TOKENS * 15 / 100);
    let term = |mask: usize| CrossEntropy {
        starts: vec![mask * CLASSES],
        stride: 1,
        count: CLASSES,
        gold: mask * 31 % CLASSES,
        share: 1.0 / masks as f64,
    };
    let (terms, len): (Vec<_>, _) = ((0..masks).map(term).collect(), masks * CLASSES);
    let (z, mut dz) = (bench.drawn(len)?, gpu.tensor(len)?);
    let seconds = bench.time(&mut dz, |dz| gpu.cross_entropies(dz, &z, len, &terms).map(drop))?;
    bench.row(
        "cross_entropies",
        &format!("{masks} x {CLASSES}"),
        seconds,
        Bound::Bytes(2.0 * bench.stored() * len as f64),
    );
    Ok(())
}

/// The whole search, copies of the records to the device included: by every score, and by bounds from tensor cores,
/// which take many queries.
fn searching(bench: &Bench) -> Result<()> {
    const ROWS: usize = 200_000;
    let (features, zeros) = (numbers(ROWS * WIDTH, 1.0), vec![0.0; ROWS]);
    let source = FactorRows {
        rows: ROWS,
        width: WIDTH,
        classes: 0,
        features: Floats::F32(&features),
        deltas: &[],
        feature_norms: &zeros,
        delta_norms: &zeros,
    };
    let devices = [&bench.gpu];
    for (queries, bounds) in
        [(1, Bounds::Unused), (64, Bounds::Unused), (64, Bounds::Half), (1024, Bounds::Unused), (1024, Bounds::Half)]
    {
        let options = Options { devices: &devices, bounds, ..Options::default() };
        let asked: Vec<_> = (0..queries).map(|q| Query::feature(features[q * WIDTH..][..WIDTH].to_vec())).collect();
        let began = Instant::now();
        search(&source, &Form::feature_dot(), &asked, 10, &options)?;
        let seconds = began.elapsed().as_secs_f64();
        let operations = 2.0 * (ROWS * WIDTH * queries) as f64;
        let (name, bound) = match bounds {
            Bounds::Half => ("search by bounds", Bound::Products(operations)),
            _ => ("search", Bound::Arithmetic(operations)),
        };
        bench.row(name, &format!("{ROWS} x {WIDTH}, {queries} queries"), seconds, bound);
    }
    Ok(())
}

fn run() -> Result<()> {
    for precision in [Precision::F16, Precision::Bf16, Precision::Bf16x3, Precision::F32] {
        let bench = Bench::open(precision)?;
        if precision == Precision::F16 {
            let Ceilings { copy_gbs, fma_gflops, mma_gflops } = bench.ceilings;
            println!("{}", bench.gpu.info());
            println!(
                "ceilings: copy {copy_gbs:.0} GB/s, multiply-add {fma_gflops:.0} GFLOP/s, mma.sync {mma_gflops:.0} GFLOP/s"
            );
        }
        linear(&bench)?;
        if bench.gpu.products() == Products::Wgmma {
            linear(&Bench { gpu: bench.gpu.by_mma(), ..bench })?;
        }
        attention(&bench)?;
        layer_norm(&bench)?;
        explaining(&bench)?;
        records(&bench)?;
        projected(&bench)?;
        if matches!(precision, Precision::F32 | Precision::Bf16) {
            training(&bench)?;
            losses(&bench)?;
        }
        if precision == Precision::F32 {
            searching(&bench)?;
        }
    }
    Ok(())
}

fn main() {
    match run() {
        Ok(()) => {}
        Err(Error::Device(why, _)) => println!("no GPU to measure: {why}"),
        Err(error) => println!("{error}"),
    }
}
