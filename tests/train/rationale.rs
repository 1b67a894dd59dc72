//! Attention drawn to marked tokens: the loss and its gradients are PyTorch's, finite differences agree, and training
//! does what it says.

use wherefore::backend::cpu::Cpu;
use wherefore::backend::reference::{Plain, Reference};
use wherefore::backend::training::{Guide, Training};
use wherefore::factors::Target;
use wherefore::model::{Lesson, NamedTensor, Studied, Trainee};
use wherefore::tokens::{Encoding, pack};

use super::course::{digest, numbers};
use super::gradients::gradients_are_finite_differences;
use super::support::{flat, json, lessons, path, trainee};
use crate::cli::Bench;

const CASES: [&str; 4] = ["albert-groups-cls3", "bert-cls2", "distilbert-cls2", "roberta-cls2"];

struct Drawn {
    lessons: Vec<(Encoding, Target)>,
    weights: Vec<f64>,
    marked: Vec<Vec<bool>>,
    rationale: f64,
}

fn drawn(trainee: &Trainee, name: &str) -> Drawn {
    let golden = json(&path(name).join("train_rationale.json"));
    let records: Vec<usize> = numbers(&golden["records"]).iter().map(|x| *x as usize).collect();
    let marked = |marks: &serde_json::Value| numbers(marks).iter().map(|mark| *mark > 0.5).collect();
    Drawn {
        lessons: lessons(trainee, name, &records),
        weights: numbers(&golden["weights"]),
        marked: golden["marked"].as_array().unwrap().iter().map(marked).collect(),
        rationale: golden["rationale"].as_f64().unwrap(),
    }
}

/// Losses, how far attention is, and the sum of both by their shares.
fn study(trainee: &mut Trainee, drawn: &Drawn, budget: usize) -> (Vec<f64>, Vec<f64>, f64) {
    let Drawn { lessons, weights, marked, rationale } = drawn;
    let whole: f64 = weights.iter().sum();
    let of_marked: f64 = weights.iter().zip(marked).filter(|(_, marks)| !marks.is_empty()).map(|(w, _)| w).sum();
    let (mut losses, mut guided, mut sum) = (vec![0.0; lessons.len()], vec![0.0; lessons.len()], 0.0);
    let window: Vec<&Encoding> = lessons.iter().map(|(encoding, _)| encoding).collect();
    for micro in pack(&window, trainee.positions(), budget) {
        let lesson = |&row: &usize| Lesson { target: &lessons[row].1, share: weights[row] / whole, record: row as u32 };
        let guide = |&row: &usize| Guide { marked: &marked[row], share: rationale * weights[row] / of_marked };
        let taught: Vec<Lesson<'_>> = micro.rows.iter().map(lesson).collect();
        let guides: Vec<Guide<'_>> = micro.rows.iter().map(guide).collect();
        let Studied { losses: some, guided: apart, .. } =
            trainee.learner().study_guided(micro.batch, &taught, &guides, None).unwrap();
        for ((&row, loss), apart) in micro.rows.iter().zip(some).zip(apart) {
            (losses[row], guided[row]) = (loss, apart);
            sum += loss * weights[row] / whole + apart * rationale * weights[row] / of_marked;
        }
    }
    (losses, guided, sum)
}

fn gradients<B: Training>(backend: B, name: &str, budget: usize) -> Vec<NamedTensor> {
    let mut model = trainee(backend, name);
    let drawn = drawn(&model, name);
    study(&mut model, &drawn, budget);
    model.learner().gradients().unwrap()
}

#[test]
fn attention_is_drawn_as_pytorch_draws_it_in_f64() {
    for name in CASES {
        let golden = json(&path(name).join("train_rationale.json"));
        let mut model = trainee(Reference, name);
        let drawn = drawn(&model, name);
        let (losses, guided, _) = study(&mut model, &drawn, 1 << 20);
        let guided: Vec<f64> = guided.into_iter().filter(|apart| *apart > 0.0).collect();
        for (what, found) in [("losses", losses), ("guided", guided)] {
            let expected = numbers(&golden[what]);
            assert_eq!(found.len(), expected.len(), "{name} {what}");
            for (found, expected) in found.iter().zip(expected) {
                assert!((found - expected).abs() <= 1e-9 * expected.max(1.0), "{name} {what}: {found} {expected}");
            }
        }
        for tensor in model.learner().gradients().unwrap() {
            let (found, rounding) = digest(&tensor.values);
            for (found, expected) in found.iter().zip(numbers(&golden["gradients"][&tensor.name])) {
                let allowed = rounding + 1e-9 * expected.abs().max(1e-3);
                assert!((found - expected).abs() <= allowed, "{name} {}: {found} {expected}", tensor.name);
            }
        }
        // Over all of them: a key's bias has no gradient but what rounding leaves of a sum that cancels.
        let [exact, plain, cpu] = [
            gradients(Reference, name, 1 << 20),
            gradients(Plain, name, 1 << 20),
            gradients(Cpu::new().shared_out(), name, 1 << 20),
        ]
        .map(|gradients| flat(&gradients));
        let scale = exact.iter().fold(0.0_f64, |most, x| most.max(f64::from(x.abs())));
        let worst = |found: &[f32]| {
            let pairs = found.iter().zip(&exact);
            pairs.fold(0.0_f64, |most, (f, e)| most.max((f64::from(*f) - f64::from(*e)).abs()))
        };
        let allowed = 2.0 * worst(&plain) + 64.0 * f64::from(f32::EPSILON) * scale;
        assert!(worst(&cpu) <= allowed, "{name}: {:e}, plain f32 {:e}", worst(&cpu), worst(&plain));
    }
}

#[test]
fn micro_batches_leave_the_bits_of_drawn_attention() {
    let whole = gradients(Cpu::new().shared_out(), "bert-cls2", 1 << 20);
    assert!(whole == gradients(Cpu::new().shared_out(), "bert-cls2", 17));
}

#[test]
fn drawn_gradients_are_finite_differences() {
    let name = "bert-cls2";
    let mut model = trainee(Reference, name);
    let drawn = drawn(&model, name);
    gradients_are_finite_differences(&mut model, name, |model| study(model, &drawn, 1 << 20).2);
}

#[test]
fn the_command_draws_attention_to_a_column() {
    let bench = Bench::new();
    bench.model("bert-cls2");
    let line = |i: usize| {
        let good = i.is_multiple_of(2);
        let (word, flags) =
            (if good { "good" } else { "bad" }, if i.is_multiple_of(5) { "null" } else { "[0, 0, 0, 1]" });
        let label = i32::from(good);
        format!("{{\"text\":\"the book was {word}\",\"label\":{label},\"rationale\":{flags}}}\n")
    };
    bench.write("train.jsonl", (0..24).map(line).collect::<String>());
    let train = "train --model bert-cls2 --data train.jsonl --epochs 6 --learning-rate 0.003 --batch-size 8 --dropout 0 --quiet";
    bench.ok(&format!("{train} --rationale-column rationale --rationale-weight 1 --out drawn"));
    let epochs = json(&bench.path("drawn.run.json"))["epochs"].clone();
    let apart = |epoch: usize| epochs[epoch]["rationale_loss"].as_f64().unwrap();
    assert!(apart(5) < apart(0), "{epochs}");
    bench.ok(&format!("{train} --out plain"));
    assert!(json(&bench.path("plain.run.json"))["epochs"][0]["rationale_loss"].is_null());
    bench.write("wrong.jsonl", "{\"text\":\"the book\",\"label\":1,\"rationale\":[0, 1, 1]}\n");
    bench.fails(
        "train --model bert-cls2 --data wrong.jsonl --rationale-column rationale --out w",
        "rationale: expected 2 numbers, one a word",
    );
}
