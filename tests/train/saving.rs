//! What is saved is a model like any other: for this library, and for `transformers`.

use std::path::Path;
use std::process::Command;

use wherefore::backend::reference::Reference;
use wherefore::dataset::Record;
use wherefore::model::{Blueprint, Device, HeadPlan, LoadOptions, Model, Problem, Trainee};
use wherefore::tokens::{Encoding, pack};

use super::support::{adam, json, lessons, path, study, trainee};

const FAMILIES: [&str; 10] = [
    "bert-cls2",
    "bert-multilabel",
    "bert-regression",
    "ernie-task-cls2",
    "roberta-cls2",
    "xlm-roberta-cls3",
    "camembert-cls2",
    "distilbert-cls2",
    "electra-cls3",
    "albert-groups-cls3",
];
const TEXTS: [&str; 3] = ["the movie was good", "not very happy with this hotel", "bad"];

/// Trained a little, and saved.
fn trained(name: &str, to: &Path) -> Trainee {
    let mut trainee = trainee(wherefore::backend::cpu::Cpu::new(), name);
    let lessons = lessons(&trainee, name, &[0, 1, 2, 3]);
    for number in 1..=2 {
        study(&mut trainee, &lessons, &[1.0; 4], 1 << 20, None);
        trainee.learner().step(&adam(1e-3, number)).unwrap();
    }
    trainee.save(to).unwrap();
    trainee
}

/// Its logits, a text at a time.
fn logits(trainee: &mut Trainee) -> Vec<Vec<f32>> {
    let encode = |text: &str| trainee.encode(&Record { text: text.into(), ..Record::default() }).unwrap();
    let encodings: Vec<Encoding> = TEXTS.iter().map(|text| encode(text)).collect();
    let positions = trainee.positions();
    let answer = |encoding: &Encoding| {
        let batch = pack(std::slice::from_ref(encoding), positions, 1 << 20).remove(0).batch;
        trainee.learner().answer(batch).unwrap().logits
    };
    encodings.iter().map(answer).collect()
}

#[test]
fn a_saved_model_is_loaded_with_the_same_bits() {
    for name in FAMILIES {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("model");
        let mut trainee = trained(name, &to);
        let options = LoadOptions { max_length: Some(trainee.max_length()), ..LoadOptions::default() };
        let model = Model::load(to.to_str().unwrap(), Device::Cpu, &options).unwrap();
        let encode = |text: &&str| model.encode(&Record { text: (*text).into(), ..Record::default() }).unwrap();
        let encodings: Vec<Encoding> = TEXTS.iter().map(encode).collect();
        let outputs = model.run(&encodings, None, &|_| true).unwrap();
        assert_eq!(outputs.logits, logits(&mut trainee).concat(), "{name}");
        assert_eq!(model.class_names().names(), trainee.class_names().names(), "{name}");
        assert_eq!(model.problem(), trainee.problem(), "{name}");
        trainee.save(&to).unwrap(); // over itself
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "{name}: something was left beside it");
    }
}

#[test]
fn a_headless_encoder_gets_a_head_and_a_model_from_scratch_is_drawn() {
    let plan = || HeadPlan { names: vec!["a".into(), "b".into(), "c".into()], problem: Problem::SingleLabel };
    let build = |name: &str, scratch: bool, seed: u64| {
        let blueprint = Blueprint::read(path(name).to_str().unwrap(), scratch).unwrap();
        blueprint.build(Reference, plan(), seed, None).unwrap().learner().parameters().unwrap()
    };
    let [first, again, other] = [7, 7, 8].map(|seed| build("minilm-mean", false, seed));
    assert!(first == again && first != other);
    let differ: Vec<&str> = first.iter().zip(&other).filter(|(a, b)| a != b).map(|(a, _)| a.name.as_str()).collect();
    assert!(differ.iter().all(|name| name.starts_with("classifier") || name.contains("pooler")), "{differ:?}");
    let drawn = build("roberta-cls2", true, 7);
    for tensor in &drawn {
        let n = tensor.values.len() as f64;
        let deviation = (tensor.values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / n).sqrt();
        let expected = match () {
            () if tensor.name.contains("LayerNorm.weight") => 1.0,
            () if tensor.name.ends_with("bias") => 0.0,
            () => 0.02,
        };
        // Five standard errors of a deviation: σ / √(2n).
        assert!((deviation - expected).abs() <= 0.02 * 5.0 / (2.0 * n).sqrt(), "{}: {deviation}", tensor.name);
    }
}

/// `transformers` on this machine, where there is one: the interpreter of `WHEREFORE_PYTHON`, or none.
pub(super) fn transformers(script: &str, arguments: &[&str]) -> Option<String> {
    let python = std::env::var("WHEREFORE_PYTHON").ok()?;
    let run = Command::new(python).arg("-c").arg(script).args(arguments).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    Some(String::from_utf8(run.stdout).unwrap())
}

const SCRIPT: &str = "
import json, sys, torch, transformers
texts, folders = json.loads(sys.argv[1]), sys.argv[2:]
for folder in folders:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model, info = transformers.AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not info['missing_keys'] and not info['unexpected_keys'] and not info['mismatched_keys'], info
    with torch.no_grad():
        print(json.dumps([model.eval()(**tokenizer(t, return_tensors='pt')).logits[0].tolist() for t in texts]))
";

#[test]
#[allow(clippy::print_stderr)]
fn transformers_loads_what_was_saved_and_agrees() {
    let folder = tempfile::tempdir().unwrap();
    let places: Vec<String> =
        FAMILIES.iter().map(|name| folder.path().join(name).to_str().unwrap().to_owned()).collect();
    let ours: Vec<Vec<f32>> = FAMILIES
        .iter()
        .zip(&places)
        .map(|(name, place)| logits(&mut trained(name, Path::new(place))).concat())
        .collect();
    for place in &places {
        let config = json(&Path::new(place).join("config.json"));
        assert!(config["architectures"][0].as_str().unwrap().ends_with("ForSequenceClassification"));
        assert_eq!(config["id2label"].as_object().unwrap().len(), config["label2id"].as_object().unwrap().len());
    }
    let texts = serde_json::to_string(&TEXTS).unwrap();
    let arguments: Vec<&str> = std::iter::once(texts.as_str()).chain(places.iter().map(String::as_str)).collect();
    let Some(out) = transformers(SCRIPT, &arguments) else {
        eprintln!("set WHEREFORE_PYTHON to an interpreter with transformers to hold this against it");
        return;
    };
    assert_eq!(out.lines().count(), FAMILIES.len(), "{out}");
    for ((line, ours), name) in out.lines().zip(ours).zip(FAMILIES) {
        let theirs: Vec<Vec<f64>> = serde_json::from_str(line).unwrap();
        for (ours, theirs) in ours.iter().zip(theirs.concat()) {
            // Two f32 implementations of the same few thousand operations.
            assert!((f64::from(*ours) - theirs).abs() <= 2e-5 * theirs.abs().max(1.0), "{name}: {ours} {theirs}");
        }
    }
}
