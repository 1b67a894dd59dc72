//! Windows, logits, answers and explanations against transformers' and PyTorch's in float64, on models of several
//! families.
//!
//! What is allowed is said in `tests/explain/golden.rs`: a few units in the last place of f32, of the largest number at
//! hand, for the reference; for the CPU twice what plain f32 loops are off, beside that.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use wherefore::backend::cpu::Cpu;
use wherefore::backend::reference::{Plain, Reference};
use wherefore::backend::{Backend, Objective, Part, Precision, Term};
use wherefore::dataset::{Dataset, Record};
use wherefore::explain::{Method, Options, Subject, Words, explain};
use wherefore::model::{LoadOptions, Model, Outputs, Reads, Task};
use wherefore::pipeline::{Rejections, Settings, predict};
use wherefore::task::{AnswerOptions, answers};
use wherefore::tokens::Encoding;

use crate::emulator;

#[derive(Deserialize)]
struct Golden {
    kind: String,
    stride: usize,
    max_answer_tokens: usize,
    max_length: usize,
    records: Vec<GoldenRecord>,
    explain: Vec<Case>,
    /// Texts longer than the model, and what is said of all their tokens.
    #[serde(default)]
    long: Vec<GoldenRecord>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct GoldenRecord {
    question: String,
    context: String,
    text: String,
    windows: Vec<Window>,
    n_best: Vec<Answer>,
    no_answer: f64,
    masks: Vec<u32>,
    #[serde(flatten)]
    whole: Option<Window>,
}

#[derive(Deserialize)]
struct Window {
    ids: Vec<u32>,
    type_ids: Vec<u32>,
    offsets: Vec<Option<(usize, usize)>>,
    segments: Vec<Option<u8>>,
    #[serde(default)]
    logits: Vec<Vec<f64>>,
}

impl Window {
    fn assert_is(&self, found: &Encoding, name: &str) {
        assert_eq!(found.ids, self.ids, "{name}");
        assert_eq!(found.offsets, self.offsets, "{name}");
        assert_eq!(found.segments, self.segments, "{name}");
        assert!(!found.truncated, "{name}");
    }
}

#[derive(Deserialize)]
struct Answer {
    start: usize,
    end: usize,
    score: f64,
    text: String,
}

#[derive(Deserialize)]
struct Case {
    record: usize,
    #[serde(default)]
    window: usize,
    /// A span's two ends, or pairs of token and class.
    tokens: serde_json::Value,
    method: String,
    value: f64,
    scores: Vec<f64>,
}

fn folders() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let folders = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<_> = folders.filter(|folder| folder.join("heads.json").exists()).collect();
    folders.sort();
    assert!(folders.len() >= 14, "{folders:?}");
    folders
}

fn read(folder: &Path) -> Golden {
    serde_json::from_str(&fs::read_to_string(folder.join("heads.json")).unwrap()).unwrap()
}

fn open<B: Backend>(backend: B, folder: &Path, masks: bool) -> Model {
    Model::open_with(backend, folder, &LoadOptions { masks, ..LoadOptions::default() }).unwrap()
}

impl Golden {
    fn masks(&self) -> bool {
        self.kind == "masks"
    }

    /// The sequences of a record as this crate makes them, and the tokens that are read.
    fn sequences(&self, model: &Model, record: &GoldenRecord) -> Vec<(Encoding, Reads)> {
        let all = |encoding: Encoding| {
            let reads = (0..encoding.ids.len() as u32).collect();
            (encoding, reads)
        };
        let whole = || {
            let record = Record { text: record.text.clone(), ..Record::default() };
            model.encode(&record).unwrap()
        };
        match &*self.kind {
            "spans" => {
                let tokenizer = model.tokenizer();
                let windows = tokenizer.windows(&record.question, &record.context, self.max_length, self.stride);
                windows.unwrap().into_iter().map(all).collect()
            }
            "tags" => vec![all(whole())],
            _ => vec![(whole(), record.masks.clone().into())],
        }
    }

    /// A sequence as explanations see it: masks are special.
    fn explained(&self, model: &Model, case: &Case) -> (Encoding, Reads) {
        let mut sequences = self.sequences(model, &self.records[case.record]);
        let (mut encoding, reads) = sequences.swap_remove(case.window);
        if self.masks() {
            reads.iter().for_each(|&token| encoding.segments[token as usize] = None);
        }
        (encoding, reads)
    }

    fn objective(&self, model: &Model, case: &Case, reads: &[u32]) -> Objective {
        if self.kind == "spans" {
            let [start, end]: [usize; 2] = serde_json::from_value(case.tokens.clone()).unwrap();
            let term = |column, token| Term {
                weight: 1.0,
                part: Part::Column(column, 2),
                objective: Objective::Softmax(token),
            };
            return Objective::Sum([term(0, start), term(1, end)].into());
        }
        let tokens: Vec<(u32, usize)> = serde_json::from_value(case.tokens.clone()).unwrap();
        let row = |token: u32| reads.iter().position(|&read| read == token).unwrap();
        let term = |&(token, class): &(u32, usize)| Term {
            weight: 1.0 / tokens.len() as f64,
            part: Part::Row(row(token), model.classes()),
            objective: Objective::Softmax(class),
        };
        Objective::Sum(tokens.iter().map(term).collect())
    }
}

impl GoldenRecord {
    fn windows(&self) -> Vec<&Window> {
        self.whole.iter().chain(&self.windows).collect()
    }
}

fn outputs(model: &Model, golden: &Golden, budget: usize) -> Vec<Vec<Outputs>> {
    let sequences: Vec<_> = golden.records.iter().map(|record| golden.sequences(model, record)).collect();
    let flat: Vec<(&Encoding, Reads)> =
        sequences.iter().flatten().map(|(encoding, reads)| (encoding, reads.clone())).collect();
    let mut outputs = model.read(&flat, Some(budget), &|_| true).unwrap().into_iter();
    sequences.iter().map(|own| outputs.by_ref().take(own.len()).collect()).collect()
}

#[test]
fn windows_are_transformers_own() {
    let mut several = 0;
    for folder in folders() {
        let golden = read(&folder);
        let model = open(Reference, &folder, golden.masks());
        for record in &golden.records {
            let (found, expected) = (golden.sequences(&model, record), record.windows());
            assert_eq!(found.len(), expected.len(), "{}", folder.display());
            several += usize::from(found.len() > 1);
            for ((found, _), expected) in found.iter().zip(expected) {
                assert_eq!(found.ids, expected.ids, "{}: {}{}", folder.display(), record.text, record.question);
                assert_eq!(found.offsets, expected.offsets);
                assert_eq!(found.segments, expected.segments);
                if model.config().token_types > 1 {
                    assert_eq!(found.type_ids, expected.type_ids);
                }
            }
        }
    }
    assert!(several >= 5, "only {several} contexts in several windows");
}

/// Each token of a long text is the window's that shows most of what is around it.
#[test]
fn long_texts_are_read_in_transformers_windows_and_joined() {
    let mut texts = 0;
    for folder in folders() {
        let golden = read(&folder);
        let models = [open(Reference, &folder, false), open(Plain, &folder, false), open(Cpu::new(), &folder, false)];
        let (mut errors, name) = ([0.0_f64; 3], folder.display().to_string());
        for record in &golden.long {
            let tokenizer = models[0].tokenizer();
            let found = tokenizer.text_windows(&record.text, None, golden.max_length, golden.stride).unwrap();
            let (joined, windows) = found;
            let whole = record.whole.as_ref().unwrap();
            whole.assert_is(&joined.encoding, &name);
            assert_eq!(windows.len(), record.windows.len(), "{name}");
            windows.iter().zip(&record.windows).for_each(|(found, window)| window.assert_is(found, &name));
            for token in 0..whole.ids.len() {
                let (window, place) = joined.place(token);
                assert_eq!(windows[window].ids[place], whole.ids[token], "{name}: token {token}");
                assert_eq!(windows[window].offsets[place], whole.offsets[token], "{name}: token {token}");
            }
            let expected: Vec<f64> = whole.logits.iter().flatten().copied().collect();
            let scale = expected.iter().fold(0.0_f64, |most, z| most.max(z.abs()));
            let reads = |window: &Encoding| (0..window.ids.len() as u32).collect::<Reads>();
            let sequences: Vec<(&Encoding, Reads)> = windows.iter().map(|window| (window, reads(window))).collect();
            for (model, worst) in models.iter().zip(&mut errors) {
                let said = model.read(&sequences, None, &|_| true).unwrap();
                let logits: Vec<&[f32]> = said.iter().map(|said| &said.logits[..]).collect();
                let found = joined.rows(&logits, model.classes());
                assert_eq!(found.len(), expected.len(), "{name}");
                let off = found.iter().zip(&expected).map(|(&z, e)| (f64::from(z) - e).abs()).fold(0.0, f64::max);
                *worst = worst.max(off / scale);
            }
            texts += 1;
        }
        let [reference, plain, cpu] = errors;
        assert!(reference <= FLOOR, "{name}: the reference is off by {reference:e}");
        assert!(cpu <= 2.0 * plain + FLOOR, "{name}: off by {cpu:e}, plain loops by {plain:e}");
    }
    assert_eq!(texts, 8);
}

/// Stride and length decide how a text is cut, never what is said of a text that fits; windows share half at most.
#[test]
fn windows_cover_a_text_whatever_their_stride() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/bert-tags");
    let golden = read(&folder);
    let model = open(Cpu::new(), &folder, false);
    let text = &golden.long[0].text;
    let whole = golden.long[0].whole.as_ref().unwrap();
    for length in [3, 4, 5, 10, 48, whole.ids.len() - 1, whole.ids.len(), 1000] {
        for stride in [0, 1, 2, 7, 1000] {
            let (joined, windows) = model.tokenizer().text_windows(text, None, length, stride).unwrap();
            assert_eq!(joined.encoding.ids, whole.ids, "{length} {stride}");
            assert!(windows.iter().all(|window| window.ids.len() <= length), "{length} {stride}");
            for token in 0..whole.ids.len() {
                let (window, place) = joined.place(token);
                assert_eq!(windows[window].ids[place], whole.ids[token], "{length} {stride}: {token}");
                assert_eq!(joined.place_in(window, token), Some(place));
            }
            let all: Vec<usize> = (0..whole.ids.len()).collect();
            assert!(joined.window_of(&all) < windows.len());
            if length >= whole.ids.len() {
                assert_eq!(windows, [joined.encoding], "{length} {stride}");
            }
        }
    }
    let error = model.tokenizer().text_windows(text, None, 2, 0).unwrap_err();
    assert!(error.to_string().contains("no room for any of a text's own"), "{error}");
}

/// A few units in the last place.
const FLOOR: f64 = 8.0 * f32::EPSILON as f64;

#[test]
fn logits_are_pytorchs() {
    for folder in folders() {
        let golden = read(&folder);
        let masks = golden.masks();
        let reference = logits_error(&open(Reference, &folder, masks), &golden);
        assert!(reference <= FLOOR, "{}: the reference is off by {reference:e}", folder.display());
        let allowed = 2.0 * logits_error(&open(Plain, &folder, masks), &golden) + FLOOR;
        let cpu = logits_error(&open(Cpu::new(), &folder, masks), &golden);
        assert!(cpu <= allowed, "{}: off by {cpu:e}, allowed {allowed:e}", folder.display());
    }
}

/// How far logits are off, over the largest.
fn logits_error(model: &Model, golden: &Golden) -> f64 {
    let expected = golden.records.iter().flat_map(|record| record.windows()).flat_map(|window| &window.logits);
    let expected: Vec<f64> = expected.flatten().copied().collect();
    let scale = expected.iter().fold(0.0_f64, |most, z| most.max(z.abs()));
    let found = outputs(model, golden, 64).into_iter().flatten().flat_map(|outputs| outputs.logits);
    let found: Vec<f32> = found.collect();
    assert_eq!(found.len(), expected.len());
    found.iter().zip(&expected).map(|(&z, e)| (f64::from(z) - e).abs()).fold(0.0, f64::max) / scale
}

#[test]
fn the_best_answers_are_those_of_every_window_searched_by_hand() {
    let mut seen = 0;
    for folder in folders() {
        let golden = read(&folder);
        let model = open(Reference, &folder, golden.masks());
        if model.task() != Task::Spans {
            continue;
        }
        for (record, outputs) in golden.records.iter().zip(outputs(&model, &golden, 64)) {
            let windows = golden.sequences(&model, record);
            let read = windows.iter().zip(&outputs).map(|((encoding, _), outputs)| (encoding, &outputs.logits[..]));
            let options = AnswerOptions { max_tokens: golden.max_answer_tokens, n_best: 5, ..AnswerOptions::default() };
            let found = answers(read, &options);
            assert_eq!(found.best.len(), record.n_best.len());
            for (found, expected) in found.best.iter().zip(&record.n_best) {
                assert_eq!((found.start, found.end), (expected.start, expected.end), "{}", folder.display());
                assert!((f64::from(found.score) - expected.score).abs() <= 1e-5 * expected.score.abs().max(1.0));
                let text: String = record.context.chars().take(found.end).skip(found.start).collect();
                assert_eq!(text, expected.text);
                seen += 1;
            }
            assert!((f64::from(found.no_answer) - record.no_answer).abs() <= 1e-5 * record.no_answer.abs().max(1.0));
        }
    }
    assert!(seen >= 50, "{seen}");
}

#[test]
fn explanations_are_pytorchs() {
    let mut methods = std::collections::BTreeSet::new();
    for folder in folders() {
        let golden = read(&folder);
        let masks = golden.masks();
        let models = [open(Reference, &folder, masks), open(Plain, &folder, masks), open(Cpu::new(), &folder, masks)];
        let [mut plain, mut cpu] = [0.0_f64; 2];
        for case in &golden.explain {
            methods.insert(case.method.clone());
            let errors = models.each_ref().map(|model| error(model, &golden, case));
            let (off, name) = (errors[0], folder.display());
            assert!(off <= FLOOR, "{name}: {} of record {} is off by {off:e}", case.method, case.record);
            (plain, cpu) = (plain.max(errors[1]), cpu.max(errors[2]));
        }
        let allowed = 2.0 * plain + FLOOR;
        assert!(cpu <= allowed, "{}: off by {cpu:e}, allowed {allowed:e}", folder.display());
    }
    assert_eq!(methods.len(), 7, "{methods:?}");
}

/// Errors grow with the unit that operands are rounded to: as in `tests/explain/gpu.rs`.
#[test]
fn devices_give_pytorchs_logits_and_explanations() {
    for folder in folders() {
        if !["bert-spans", "bert-tags", "bert-masks"].iter().any(|name| folder.ends_with(name)) {
            continue;
        }
        let (golden, name) = (read(&folder), folder.display());
        let mut methods = std::collections::BTreeSet::new();
        let cases: Vec<&Case> = golden.explain.iter().filter(|case| methods.insert(&case.method)).collect();
        let worst = |model: &Model| {
            let logits = logits_error(model, &golden);
            (logits, cases.iter().map(|case| error(model, &golden, case)).fold(0.0, f64::max))
        };
        let plain = worst(&open(Plain, &folder, golden.masks()));
        for (precision, coarser) in [(Precision::F32, 1.0), (Precision::F16, 8192.0)] {
            let found = worst(&open(emulator::gpu(precision), &folder, golden.masks()));
            let allowed = [plain.0, plain.1].map(|plain| (2.0 * plain + FLOOR) * coarser);
            assert!(found.0 <= allowed[0], "{name}, {precision}: logits are off by {:e}, allowed {allowed:?}", found.0);
            assert!(found.1 <= allowed[1], "{name}, {precision}: scores are off by {:e}, allowed {allowed:?}", found.1);
        }
    }
}

fn error(model: &Model, golden: &Golden, case: &Case) -> f64 {
    let (encoding, reads) = golden.explained(model, case);
    let logits = model.read(&[(&encoding, reads.clone())], None, &|_| true).unwrap().remove(0).logits;
    let words = Words::default();
    // A second objective beside it: each must have its own.
    let objectives = vec![Objective::Logit(0), golden.objective(model, case, &reads)];
    let subject =
        Subject { index: 0, draw: 0, encoding: &encoding, words: &words, objectives, logits, reads: Some(reads) };
    let method: Method = case.method.parse().unwrap();
    let options = Options { steps: 6, ..Options::default() };
    let scores = explain(model, &[subject], method, &options, None, &|_| true).unwrap().remove(0).remove(1);
    let scale = case.scores.iter().fold(case.value.abs(), |most, x| most.max(x.abs()));
    let pairs = scores.tokens.iter().zip(&case.scores);
    let tokens = pairs.map(|(&found, expected)| (f64::from(found) - expected).abs()).fold(0.0, f64::max);
    assert_eq!(scores.tokens.len(), case.scores.len());
    tokens.max((scores.output - case.value).abs()) / scale
}

#[test]
fn outputs_do_not_depend_on_the_batch() {
    for folder in folders() {
        let golden = read(&folder);
        let model = open(Cpu::new(), &folder, golden.masks());
        assert_eq!(outputs(&model, &golden, 1), outputs(&model, &golden, 4096), "{}", folder.display());
    }
}

#[test]
fn a_masked_language_model_is_an_encoder_where_no_masks_are_asked_for() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/bert-masks");
    let (encoder, masks) = (open(Cpu::new(), &folder, false), open(Cpu::new(), &folder, true));
    assert_eq!((encoder.task(), masks.task()), (Task::Record, Task::Masks));
    assert_eq!(encoder.classes(), 0);
    assert_ne!(encoder.fingerprint(), masks.fingerprint());
}

#[test]
fn jobs_that_need_one_label_a_record_say_so() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/bert-tags");
    let model = open(Cpu::new(), &folder, false);
    let data = Dataset::typed("The hotel.".into(), None);
    let mut rejections = Rejections::new(false, None);
    let settings = Settings { quiet: true, ..Settings::default() };
    let error = predict(&model, data, &settings, &mut rejections, &mut |_| Ok(())).unwrap_err();
    assert!(error.to_string().contains("gives tags of tokens"), "{error}");
}
