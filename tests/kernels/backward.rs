//! Backwards: the reference against finite differences of its own forward, the CPU against the reference, and the bits.

use super::support::{Numbers, batch, bits, cpus, widen};
use wherefore::backend::check::check;
use wherefore::backend::cpu::Cpu;
use wherefore::backend::reference::{self, Reference};
use wherefore::backend::{
    Activation, Attended, AttentionGradients, AttentionShape, Backend, Columns, Embeddings, Fold, Norm, Objective,
    Path, Rows, Stage,
};
use wherefore::tokens::PackedBatch;

const ACTIVATIONS: [Activation; 7] = [
    Activation::Identity,
    Activation::Gelu,
    Activation::GeluTanh,
    Activation::QuickGelu,
    Activation::Relu,
    Activation::Silu,
    Activation::Tanh,
];

/// `d/dε f(x + ε direction)` at 0, by a central difference: its error is of the order of ε² and of rounding over ε.
fn slope(x: &[f64], direction: &[f64], f: impl Fn(&[f64]) -> f64) -> f64 {
    const EPSILON: f64 = 1e-5;
    let moved = |by: f64| x.iter().zip(direction).map(|(x, d)| x + by * d).collect::<Vec<_>>();
    (f(&moved(EPSILON)) - f(&moved(-EPSILON))) / (2.0 * EPSILON)
}

/// ε² of the curvature and 1e-16 / ε of rounding, over the sizes at hand.
fn assert_close(what: &str, found: f64, expected: f64) {
    assert!((found - expected).abs() <= 1e-8 * (1.0 + expected.abs()), "{what}: {found} against {expected}");
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[test]
fn the_cpu_agrees_with_the_reference_in_every_operation() {
    for cpu in cpus() {
        for outcome in check(&cpu).unwrap() {
            assert!(outcome.passed(), "{:?}: {outcome:?}", cpu.isa());
        }
    }
}

#[test]
fn derivatives_of_activations_are_slopes() {
    for activation in ACTIVATIONS {
        for x in [-6.0, -2.5, -0.75, -0.1, 0.2, 1.0, 3.5, 7.0] {
            let expected = slope(&[x], &[1.0], |x| reference::activate(activation, x[0]));
            assert_close(&format!("{activation:?} at {x}"), reference::derivative(activation, x), expected);
        }
    }
}

#[test]
fn linear_backward_is_the_slope_of_linear_after_its_activation() {
    let mut numbers = Numbers::new(3);
    let (rows, inputs, outputs) = (3, 7, 5);
    let weights = Reference.pack_linear(&numbers.vector(inputs * outputs, 1.0), &[0.1; 5], inputs, outputs).unwrap();
    let x = widen(&numbers.vector(rows * inputs, 2.0));
    let (direction, dy) = (widen(&numbers.vector(rows * inputs, 1.0)), widen(&numbers.vector(rows * outputs, 1.0)));
    for activation in ACTIVATIONS {
        let forward = |x: &[f64]| {
            let y: Vec<f64> = x.iter().map(|&x| reference::activate(activation, x)).collect();
            let mut out = vec![0.0; rows * outputs];
            Reference.linear(&mut out, &y, &weights, Activation::Identity, None, rows).unwrap();
            dot(&out, &dy)
        };
        let slopes = x.iter().map(|&x| reference::derivative(activation, x)).collect();
        let mut dx = vec![0.0; rows * inputs];
        Reference.linear_backward(&mut dx, &dy, &weights, Some(&slopes), None, rows).unwrap();
        assert_close(&format!("{activation:?}"), dot(&dx, &direction), slope(&x, &direction, forward));
    }
}

#[test]
fn layer_norm_backward_is_the_slope_of_layer_norm() {
    let mut numbers = Numbers::new(4);
    let (rows, width) = (4, 9);
    let (weight, bias) = (widen(&numbers.vector(width, 1.0)), widen(&numbers.vector(width, 1.0)));
    let norm = Norm::<Reference> { weight, bias, epsilon: 1e-5, width };
    let mut drawn = || widen(&numbers.vector(rows * width, 1.0));
    let (x, direction, dy) = (drawn(), drawn(), drawn());
    let forward = |x: &[f64]| {
        let mut out = vec![0.0; rows * width];
        Reference.layer_norm(&mut out, &x.to_vec(), &norm, rows).unwrap();
        dot(&out, &dy)
    };
    let mut dx = vec![0.0; rows * width];
    Reference.layer_norm_backward(&mut dx, &dy, &x, &norm, rows).unwrap();
    assert_close("layer norm", dot(&dx, &direction), slope(&x, &direction, forward));
}

const HEADS: usize = 2;
const HEAD_WIDTH: usize = 3;
const WIDTH: usize = HEADS * HEAD_WIDTH;

/// Attention over queries `[rows, E]` and keys and values `[T, 2E]`, side by side in one vector.
fn attend<B: Backend>(
    backend: &B,
    q: &B::Tensor,
    kv: &B::Tensor,
    batch: &B::Batch,
    queries: Rows,
    d_out: &B::Tensor,
) -> (B::Tensor, B::Tensor, B::Tensor, usize) {
    let view = |tensor, stride, offset| Columns { tensor, stride, offset };
    let attended = Attended {
        q: view(q, WIDTH, 0),
        k: view(kv, 2 * WIDTH, 0),
        v: view(kv, 2 * WIDTH, WIDTH),
        batch,
        shape: AttentionShape { heads: HEADS, head_width: HEAD_WIDTH, queries },
    };
    let room = || backend.tensor(TOKENS * 3 * WIDTH).unwrap();
    let (mut out, mut packed, mut query) = (room(), room(), room());
    backend.attention(&mut out, &attended).unwrap();
    let first = queries == Rows::First;
    let gradients = AttentionGradients { packed: &mut packed, query: first.then_some(&mut query) };
    backend.attention_backward(gradients, d_out, &attended).unwrap();
    (out, packed, query, if first { 2 } else { 3 })
}

const LENGTHS: [u32; 3] = [1, 4, 30];
const TOKENS: usize = 35;

#[test]
fn attention_backward_is_the_slope_of_attention() {
    let mut numbers = Numbers::new(5);
    let batch = batch(&LENGTHS, 1, &mut numbers);
    for (queries, rows) in [(Rows::All, TOKENS), (Rows::First, LENGTHS.len())] {
        let mut drawn = |len| widen(&numbers.vector(len, 1.0));
        let (q, kv, d_out) = (drawn(rows * WIDTH), drawn(TOKENS * 2 * WIDTH), drawn(rows * WIDTH));
        let (dq, dkv) = (drawn(rows * WIDTH), drawn(TOKENS * 2 * WIDTH));
        let split = |all: &[f64]| (all[..q.len()].to_vec(), all[q.len()..].to_vec());
        let forward = |all: &[f64]| {
            let (q, kv) = split(all);
            let (out, ..) = attend(&Reference, &q, &kv, &batch, queries, &d_out);
            dot(&out[..d_out.len()], &d_out)
        };
        let (_, packed, query, parts) = attend(&Reference, &q, &kv, &batch, queries, &d_out);
        let rows_of =
            |part: usize| packed.chunks_exact(parts * WIDTH).take(TOKENS).map(move |row| &row[part * WIDTH..][..WIDTH]);
        let own_query: Vec<f64> = match queries {
            Rows::All => rows_of(0).flatten().copied().collect(),
            Rows::First => query[..rows * WIDTH].to_vec(),
        };
        let pairs = rows_of(parts - 2).zip(rows_of(parts - 1));
        let own_pairs: Vec<f64> = pairs.flat_map(|(k, v)| [k, v].concat()).collect();
        let found = dot(&own_query, &dq) + dot(&own_pairs, &dkv);
        let expected = slope(&[q.clone(), kv].concat(), &[dq, dkv].concat(), forward);
        assert_close(&format!("{queries:?}"), found, expected);
    }
}

fn embeddings<B: Backend>(backend: &B, width: usize) -> Embeddings<B> {
    let mut numbers = Numbers::new(6);
    let mut table = |rows: usize| backend.upload(&numbers.vector(rows * width, 1.0)).unwrap();
    Embeddings {
        word: table(20),
        position: Some(table(40)),
        token_type: Some(table(2)),
        task: Some(table(1)),
        norm: Norm { weight: table(1), bias: table(1), epsilon: 1e-12, width },
    }
}

fn path(stage: Stage, alpha: f32, sigma: f32) -> Path {
    Path {
        stage,
        baseline: (0..TOKENS as u32).map(|t| if t % 3 == 0 { Path::ZERO } else { t % 20 }).collect(),
        alpha: vec![alpha; 3],
        sigma: vec![sigma; 3],
        draws: vec![[1, 2], [3, 4], [5, 6]],
        seed: 9,
    }
}

#[test]
fn the_folded_step_is_the_slope_along_the_path() {
    let mut numbers = Numbers::new(7);
    let batch = batch(&LENGTHS, 20, &mut numbers);
    let embeddings = embeddings(&Reference, WIDTH);
    let dy = widen(&numbers.vector(TOKENS * WIDTH, 1.0));
    for stage in [Stage::Word, Stage::Output] {
        // Exact in f32, so that the two points are where they are said to be.
        const STEP: f32 = 1.0 / 4096.0;
        let at = |alpha: f32| {
            let mut out = vec![0.0; TOKENS * WIDTH];
            Reference.embed_path(&mut out, &embeddings, &batch, &path(stage, alpha, 0.25)).unwrap();
            dot(&out, &dy)
        };
        let expected = (at(0.5 + STEP) - at(0.5 - STEP)) / f64::from(2.0 * STEP);
        let (mut gradient, mut steps) = (dy.clone(), vec![0.0; TOKENS]);
        let path = path(stage, 0.5, 0.25);
        Reference.embed_backward(&mut gradient, &embeddings, &batch, &path).unwrap();
        Reference.fold(&mut steps, &gradient, &embeddings, &batch, &path, Fold::Step).unwrap();
        let found = steps.iter().sum::<f64>();
        // STEP² / 6 of the third derivative, which normalisation keeps within a few hundred of the values.
        assert!((found - expected).abs() < 1e-5 * (1.0 + expected.abs()), "{stage:?}: {found} against {expected}");
    }
}

#[test]
fn the_end_of_a_path_is_the_embedding_itself_bit_for_bit() {
    let mut numbers = Numbers::new(8);
    let batch = batch(&LENGTHS, 20, &mut numbers);
    for cpu in cpus() {
        let embeddings = embeddings(&cpu, 37);
        let (mut plain, mut end) = (vec![0.0; TOKENS * 37], vec![0.0; TOKENS * 37]);
        cpu.embed(&mut plain, &embeddings, &batch).unwrap();
        for stage in [Stage::Word, Stage::Output] {
            cpu.embed_path(&mut end, &embeddings, &batch, &path(stage, 1.0, 0.0)).unwrap();
            assert_eq!(bits(&plain), bits(&end), "{:?} {stage:?}", cpu.isa());
        }
    }
}

#[test]
fn objectives_have_the_gradients_of_their_values() {
    let z = [0.3, -1.2, 4.0];
    for objective in [
        Objective::Softmax(2),
        Objective::Softmax(0),
        Objective::Sigmoid(1),
        Objective::Logit(0),
        Objective::Difference(2, 1),
    ] {
        for k in 0..3 {
            let mut direction = [0.0; 3];
            direction[k] = 1.0;
            let expected = slope(&z, &direction, |z| objective.value(z));
            assert_close(&format!("{objective:?} by z_{k}"), objective.gradient(&z)[k], expected);
        }
    }
    // Where the target is all but certain, 1 − p would be 0 or an ulp's multiple.
    let certain = Objective::Softmax(0).gradient(&[40.0, 0.0]);
    assert!((certain[0] / (-40.0_f64).exp() - 1.0).abs() < 1e-12, "{certain:?}");
}

#[test]
fn attention_backward_has_the_same_bits_on_every_instruction_set_and_in_every_company() {
    let mut numbers = Numbers::new(10);
    let whole = batch(&LENGTHS, 1, &mut numbers);
    let (q, kv, d_out) = (
        numbers.vector(TOKENS * WIDTH, 2.0),
        numbers.vector(TOKENS * 2 * WIDTH, 2.0),
        numbers.vector(TOKENS * WIDTH, 1.0),
    );
    let gradients = |cpu: &Cpu, batch: &PackedBatch, from: usize, queries: Rows| {
        let (q, kv, d_out) =
            (q[from * WIDTH..].to_vec(), kv[from * 2 * WIDTH..].to_vec(), d_out[from * WIDTH..].to_vec());
        attend(cpu, &q, &kv, batch, queries, &d_out).1
    };
    let expected = gradients(&Cpu::new(), &whole, 0, Rows::All);
    for cpu in cpus() {
        assert_eq!(bits(&gradients(&cpu, &whole, 0, Rows::All)), bits(&expected), "{:?}", cpu.isa());
        let (start, length) = (5, LENGTHS[2] as usize);
        let alone = batch(&[LENGTHS[2]], 1, &mut Numbers::new(1));
        let found = gradients(&cpu, &alone, start, Rows::All);
        let (found, among) = (&found[..length * 3 * WIDTH], &expected[start * 3 * WIDTH..][..length * 3 * WIDTH]);
        assert_eq!(bits(found), bits(among), "{:?}, alone", cpu.isa());
    }
}
