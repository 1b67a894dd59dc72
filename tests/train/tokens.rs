//! Training of heads on tokens is PyTorch's too: gradients of every parameter, and AdamW step by step; and the same
//! bits in any company.

use serde_json::Value;
use wherefore::backend::Precision;
use wherefore::backend::cpu::Cpu;
use wherefore::backend::reference::{Plain, Reference};
use wherefore::backend::training::{CrossEntropy, Training};
use wherefore::model::{
    Blueprint, Device, DropoutPass, DropoutRates, HeadPlan, LoadOptions, Model, Reads, Studied, Task, Term,
    TokenLesson, Trainee,
};
use wherefore::tokens::{Encoding, pack};

use super::course::{Course, errors, numbers};
use super::gradients::gradients_are_finite_differences;
use super::operations::{read, short};
use super::saving::transformers;
use super::support::{adam, flat, gradient_bits, json, path};
use crate::emulator;

/// A golden's sequences and what they teach.
struct Lessons {
    task: Task,
    encodings: Vec<Encoding>,
    terms: Vec<Vec<Term>>,
    weights: Vec<f64>,
}

fn cases() -> Vec<String> {
    super::course::cases("train_tokens.json", 11)
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn lessons(golden: &Value) -> Lessons {
    let task = match golden["kind"].as_str().unwrap() {
        "spans" => Task::Spans,
        "tags" => Task::Tags,
        _ => Task::Masks,
    };
    let term = |(column, term): (u32, &Value)| match task {
        Task::Spans => Term::Token { column, token: ids(term)[0] },
        _ => Term::Class { tokens: ids(&term[0]), class: term[1].as_u64().unwrap() as u32 },
    };
    let examples = golden["examples"].as_array().unwrap();
    let encoding = |example: &Value| Encoding {
        ids: ids(&example["ids"]),
        type_ids: ids(&example["type_ids"]),
        ..Encoding::default()
    };
    let terms = |example: &Value| (0..).zip(example["terms"].as_array().unwrap()).map(term).collect();
    Lessons {
        task,
        encodings: examples.iter().map(encoding).collect(),
        terms: examples.iter().map(terms).collect(),
        weights: numbers(&golden["settings"]["weights"]),
    }
}

/// A golden model to be trained for its task, on some device.
fn trainee<B: Training>(backend: B, name: &str, task: Task) -> Trainee {
    let blueprint = Blueprint::read(path(name).to_str().unwrap(), false).unwrap().for_task(task).unwrap();
    let head = blueprint.head().unwrap().clone();
    blueprint.build(backend, head, 0, None).unwrap()
}

/// Gradients of all lessons, in micro-batches; losses in their order, and the sum of the losses by their shares.
fn study(trainee: &mut Trainee, lessons: &Lessons, budget: usize, dropout: Option<DropoutPass>) -> (Vec<f64>, f64) {
    let Lessons { task, encodings, terms, weights } = lessons;
    let mass = |row: usize| if *task == Task::Spans { 1.0 } else { terms[row].len() as f64 };
    let whole: f64 = weights.iter().enumerate().map(|(row, weight)| weight * mass(row)).sum();
    let (mut losses, mut sum) = (vec![0.0; encodings.len()], 0.0);
    for micro in pack(encodings, trainee.positions(), budget) {
        let lesson = |&row: &usize| TokenLesson {
            terms: &terms[row],
            share: weights[row] * mass(row) / terms[row].len() as f64 / whole,
            record: row as u32,
        };
        let taught: Vec<TokenLesson<'_>> = micro.rows.iter().map(lesson).collect();
        let Studied { losses: some, .. } = trainee.learner().study_tokens(micro.batch, &taught, dropout).unwrap();
        for (&row, loss) in micro.rows.iter().zip(some) {
            losses[row] = loss;
            sum += loss * weights[row] * mass(row) / whole;
        }
    }
    (losses, sum)
}

fn run<B: Training>(backend: B, name: &str, golden: &Value) -> Course {
    let lessons = lessons(golden);
    let trainee = trainee(backend, name, lessons.task);
    Course::run(trainee, golden, |trainee, _| study(trainee, &lessons, 1 << 20, None).0)
}

#[test]
fn the_reference_trains_heads_on_tokens_as_pytorch_does_in_f64() {
    for name in cases() {
        let golden = json(&path(&name).join("train_tokens.json"));
        run(Reference, &name, &golden).is_pytorchs(&name, &golden);
    }
}

#[test]
fn the_cpu_errs_no_more_than_plain_f32_on_tokens() {
    let floor = 64.0 * f64::from(f32::EPSILON);
    for name in cases() {
        let golden = json(&path(&name).join("train_tokens.json"));
        let (exact, plain) = (run(Reference, &name, &golden), run(Plain, &name, &golden));
        let cpu = run(Cpu::new().shared_out(), &name, &golden);
        let (cpu, plain) = (errors(&cpu.gradients, &exact.gradients), errors(&plain.gradients, &exact.gradients));
        for ((tensor, cpu), (_, plain)) in cpu.into_iter().zip(plain) {
            assert!(cpu <= 2.0 * plain + floor, "{name} {tensor}: {cpu:e}, plain f32 {plain:e}");
        }
    }
}

/// The same rule on a device, whose slopes are other roundings of f64's: a unit of f32 more, of numbers that are at
/// most 1, where they add up to nothing.
#[test]
fn the_gpu_errs_no_more_than_plain_f32_on_tokens() {
    let eps = f64::from(f32::EPSILON);
    for name in HEADS {
        let golden = json(&path(name).join("train_tokens.json"));
        let (exact, plain) = (run(Reference, name, &golden), run(Plain, name, &golden));
        let gpu = run(emulator::gpu(Precision::F32), name, &golden);
        let (gpu, plain) = (errors(&gpu.gradients, &exact.gradients), errors(&plain.gradients, &exact.gradients));
        for (((tensor, gpu), (_, plain)), exact) in gpu.into_iter().zip(plain).zip(&exact.gradients) {
            let cancelled = exact.values.iter().all(|x| x.abs() < 1e-6);
            let allowed = 2.0 * plain + 64.0 * eps + if cancelled { eps / 1e-3 } else { 0.0 };
            assert!(gpu <= allowed, "{name} {tensor}: {gpu:e}, plain f32 {plain:e}");
        }
    }
}

/// Rows of so many classes, of which some tokens' are read, by themselves, in means of several and by several terms; or
/// columns of sequences.
fn entropies(classes: usize, columns: bool) -> (usize, Vec<CrossEntropy>) {
    let share = |number: usize| 0.25 + number as f64 / 8.0;
    if columns {
        let sequences = [(0, 3), (3, 1), (4, 300), (304, 41)];
        let term = |(number, &(first, count)): (usize, &(usize, usize))| {
            let of = |column: usize| CrossEntropy {
                starts: vec![first * classes + column],
                stride: classes,
                count,
                gold: (7 * number + column) % count,
                share: share(number),
            };
            [of(0), of(classes - 1)]
        };
        return (345 * classes, sequences.iter().enumerate().flat_map(term).collect());
    }
    let read: [&[usize]; 6] = [&[0], &[2, 3], &[3, 4], &[4], &[7, 2, 0], &[9]];
    let term = |(number, rows): (usize, &&[usize])| CrossEntropy {
        starts: rows.iter().map(|row| row * classes).collect(),
        stride: 1,
        count: classes,
        gold: 5 * number % classes,
        share: share(number),
    };
    (11 * classes, read.iter().enumerate().map(term).collect())
}

/// Probabilities are good to some units of f32, and slopes are rounded once to what is stored; where nobody reads they
/// are zeros.
#[test]
fn cross_entropies_on_a_gpu_are_those_of_f64() {
    let eps = f64::from(f32::EPSILON);
    for (precision, unit) in [(Precision::F32, eps / 2.0), (Precision::Bf16, 2.0_f64.powi(-8))] {
        let gpu = emulator::gpu(precision);
        let shapes = [1, 2, 9, 257, 3000].map(|classes| (classes, false)).into_iter().chain([(2, true), (5, true)]);
        for (classes, columns) in shapes {
            for scale in [0.5, 16.0] {
                let (len, mut terms) = entropies(classes, columns);
                if columns && classes == 5 {
                    // A line that crosses the others: these are the host's.
                    terms.push(CrossEntropy { starts: vec![0], stride: 1, count: 4, gold: 1, share: 1.0 });
                }
                let z: Vec<f32> = short(len, 3).into_iter().map(|x| scale * x).collect();
                let found = slopes(&gpu, &z, &terms);
                let exact = slopes(&Reference, &z, &terms);
                let what = format!("{precision}, {classes} classes, columns {columns}, ± {scale}");
                let shares: f64 = terms.iter().map(|term| term.share).sum();
                for (found, exact) in found.0.iter().zip(&exact.0) {
                    assert!((found - exact).abs() <= 16.0 * eps * (1.0 + f64::from(scale)), "{what}: {found} {exact}");
                }
                for (found, exact) in found.1.iter().zip(&exact.1) {
                    let (found, exact) = (f64::from(*found), f64::from(*exact));
                    let allowed = unit * exact.abs() + 16.0 * eps * shares;
                    assert!((found - exact).abs() <= allowed, "{what}: {found} {exact}");
                }
            }
        }
    }
}

/// Losses, and the gradient over buffers that held other numbers.
fn slopes<B: Training>(backend: &B, z: &[f32], terms: &[CrossEntropy]) -> (Vec<f64>, Vec<f32>) {
    let mut dz = backend.tensor(z.len()).unwrap();
    let ones = backend.upload(&vec![1.0; z.len()]).unwrap();
    backend.copy(&mut dz, &ones, z.len()).unwrap();
    let losses = backend.cross_entropies(&mut dz, &backend.upload(z).unwrap(), z.len(), terms).unwrap();
    (losses, read(backend, &dz, z.len()))
}

#[test]
fn micro_batches_change_no_bit_on_tokens_on_a_gpu() {
    for name in ["bert-spans", "bert-tags", "albert-masks"] {
        let lessons = lessons(&json(&path(name).join("train_tokens.json")));
        for precision in [Precision::F32, Precision::Bf16] {
            let bits = |budget: usize| {
                let mut model = trainee(emulator::gpu(precision), name, lessons.task);
                study(&mut model, &lessons, budget, Some(dropout()));
                gradient_bits(model.learner())
            };
            assert!(bits(1 << 20) == bits(1), "{name}, {precision}");
        }
    }
}

fn dropout() -> DropoutPass {
    DropoutPass { seed: 11, epoch: 3, rates: DropoutRates { hidden: 0.2, attention: 0.3, head: 0.25 } }
}

/// One of each kind of head, of each place where it drops, tied to the embeddings or not.
const HEADS: [&str; 5] = ["bert-spans", "distilbert-spans", "bert-tags", "electra-masks", "albert-masks"];

#[test]
fn gradients_on_tokens_are_finite_differences_with_dropout() {
    for name in HEADS {
        let lessons = lessons(&json(&path(name).join("train_tokens.json")));
        let mut model = trainee(Reference, name, lessons.task);
        gradients_are_finite_differences(&mut model, name, |model| study(model, &lessons, 1 << 20, Some(dropout())).1);
    }
}

#[test]
fn neither_threads_nor_micro_batches_change_a_bit_on_tokens() {
    for name in HEADS {
        let lessons = lessons(&json(&path(name).join("train_tokens.json")));
        let bits = |budget: usize, threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut model = trainee(Cpu::new().shared_out(), name, lessons.task);
                let mut gradients = Vec::new();
                for number in 1..=2 {
                    study(&mut model, &lessons, budget, Some(dropout()));
                    gradients = gradient_bits(model.learner());
                    model.learner().step(&adam(1e-3, number)).unwrap();
                }
                let parameters = flat(&model.learner().parameters().unwrap());
                (gradients, parameters.iter().map(|x| x.to_bits()).collect::<Vec<u32>>())
            })
        };
        let whole = bits(1 << 20, 1);
        for (budget, threads) in [(1 << 20, 3), (40, 1), (17, 2)] {
            assert!(bits(budget, threads) == whole, "{name}: budget {budget}, {threads} threads");
        }
    }
}

/// Logits of every token of each sequence, as the trainee has them.
fn logits(trainee: &mut Trainee, lessons: &Lessons) -> Vec<Vec<f32>> {
    let positions = trainee.positions();
    let read = |encoding: &Encoding| {
        let batch = pack(std::slice::from_ref(encoding), positions, 1 << 20).remove(0).batch;
        let all: Reads = (0..encoding.ids.len() as u32).collect();
        trainee.learner().read(batch, &[all]).unwrap().logits
    };
    lessons.encodings.iter().map(read).collect()
}

const SCRIPT: &str = "
import json, sys, torch, transformers
sequences, folders = json.loads(sys.argv[1]), sys.argv[2:]
for folder in folders:
    config = transformers.AutoConfig.from_pretrained(folder)
    kind = getattr(transformers, config.architectures[0])
    model, info = kind.from_pretrained(folder, output_loading_info=True)
    assert not info['missing_keys'] and not info['unexpected_keys'] and not info['mismatched_keys'], info
    found = []
    for ids, types in sequences[folder]:
        inputs = {'input_ids': torch.tensor([ids]), 'attention_mask': torch.ones(1, len(ids), dtype=torch.long)}
        if getattr(config, 'type_vocab_size', 0) > 1:
            inputs['token_type_ids'] = torch.tensor([types])
        with torch.no_grad():
            out = model.eval()(**inputs)
        z = torch.stack([out.start_logits, out.end_logits], -1) if hasattr(out, 'start_logits') else out.logits
        found.append(z[0].flatten().tolist())
    print(json.dumps(found))
";

#[test]
#[allow(clippy::print_stderr)]
fn saved_heads_on_tokens_are_loaded_here_and_by_transformers() {
    let folder = tempfile::tempdir().unwrap();
    let (mut ours, mut sequences, mut places) = (Vec::new(), serde_json::Map::new(), Vec::new());
    for name in HEADS {
        let lessons = lessons(&json(&path(name).join("train_tokens.json")));
        let mut model = trainee(Cpu::new(), name, lessons.task);
        for number in 1..=2 {
            study(&mut model, &lessons, 1 << 20, None);
            model.learner().step(&adam(1e-3, number)).unwrap();
        }
        let place = folder.path().join(name);
        model.save(&place).unwrap();
        let found = logits(&mut model, &lessons);
        let options = LoadOptions { masks: true, ..LoadOptions::default() };
        let loaded = Model::load(place.to_str().unwrap(), Device::Cpu, &options).unwrap();
        assert_eq!(loaded.task(), lessons.task, "{name}");
        let reads: Vec<(&Encoding, Reads)> =
            lessons.encodings.iter().map(|encoding| (encoding, (0..encoding.ids.len() as u32).collect())).collect();
        let outputs = loaded.read(&reads, None, &|_| true).unwrap();
        assert!(outputs.iter().zip(&found).all(|(outputs, found)| outputs.logits == *found), "{name}");
        let pairs: Vec<_> = lessons.encodings.iter().map(|encoding| (&encoding.ids, &encoding.type_ids)).collect();
        sequences.insert(place.to_str().unwrap().to_owned(), serde_json::to_value(pairs).unwrap());
        places.push(place.to_str().unwrap().to_owned());
        ours.push(found);
    }
    let sequences = Value::Object(sequences).to_string();
    let arguments: Vec<&str> = std::iter::once(sequences.as_str()).chain(places.iter().map(String::as_str)).collect();
    let Some(out) = transformers(SCRIPT, &arguments) else {
        eprintln!("set WHEREFORE_PYTHON to an interpreter with transformers to hold this against it");
        return;
    };
    assert_eq!(out.lines().count(), HEADS.len(), "{out}");
    for ((line, ours), name) in out.lines().zip(ours).zip(HEADS) {
        let theirs: Vec<Vec<f64>> = serde_json::from_str(line).unwrap();
        assert_eq!(ours.concat().len(), theirs.concat().len(), "{name}");
        for (ours, theirs) in ours.concat().into_iter().zip(theirs.concat()) {
            // Two f32 implementations of the same few thousand operations.
            assert!((f64::from(ours) - theirs).abs() <= 2e-5 * theirs.abs().max(1.0), "{name}: {ours} {theirs}");
        }
    }
}

#[test]
fn what_is_not_of_the_head_is_refused() {
    let name = "bert-spans";
    let lessons = lessons(&json(&path(name).join("train_tokens.json")));
    let mut model = trainee(Cpu::new(), name, Task::Spans);
    let batch = || pack(&lessons.encodings[..1], model.positions(), 1 << 20).remove(0).batch;
    let (first, second) = (batch(), batch());
    let beyond = [Term::Token { column: 0, token: 999 }];
    let lesson = TokenLesson { terms: &beyond, share: 1.0, record: 0 };
    assert!(model.learner().study_tokens(first, &[lesson], None).is_err());
    assert!(model.learner().study_tokens(second.clone(), &[], None).is_err());
    assert!(model.learner().answer(second).is_err());
    let blueprint = Blueprint::read(path(name).to_str().unwrap(), false).unwrap().for_task(Task::Masks).unwrap();
    assert!(blueprint.head().is_none(), "a model of answers has no head on masks");
    assert!(blueprint.build(Cpu::new(), HeadPlan::for_task(Task::Spans), 0, None).is_err());
}
