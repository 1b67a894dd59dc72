//! Faithfulness against the model asked by hand, and what must hold of any scores.

use std::path::PathBuf;

use wherefore::backend::cpu::Cpu;
use wherefore::dataset::{Dataset, DatasetOptions};
use wherefore::evaluate::{Faithfulness, FaithfulnessOptions, Judged, TokenOptions, draw_anew, faithfulness};
use wherefore::explain::{Method, Options, Rationale, Removal, Segmentation, logits_without};
use wherefore::model::{Device, LoadOptions, Model};
use wherefore::pipeline::{Rejections, Settings};
use wherefore::tokens::Encoding;

const TEXTS: [&str; 5] = [
    "The service was not good.",
    "good",
    "一点也不好看, the food",
    "the movie was bad, and so was the book",
    "服务很差",
];

fn model() -> Model {
    let folder = crate::cli::golden("bert-cls2");
    Model::open_with(Cpu::new(), &folder, &LoadOptions::default()).unwrap()
}

struct Data {
    _folder: tempfile::TempDir,
    file: PathBuf,
}

impl Data {
    fn new(texts: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("data.jsonl");
        let lines = texts.iter().map(|text| serde_json::json!({ "text": text }).to_string() + "\n");
        std::fs::write(&file, lines.collect::<String>()).unwrap();
        Self { _folder: folder, file }
    }

    fn open(&self) -> Dataset {
        let files = vec![self.file.to_str().unwrap().to_owned()];
        Dataset::open(DatasetOptions { files, ..DatasetOptions::default() }).unwrap()
    }
}

fn tokens(methods: Vec<Judged>, rationale: Rationale) -> TokenOptions {
    let explain = Options { steps: 8, seed: 5, ..Options::default() };
    TokenOptions { methods, explain, words: Segmentation::None, rationale, keep: None }
}

fn judge(options: &FaithfulnessOptions, batch_tokens: Option<usize>, randomised: Option<&Model>) -> Vec<Faithfulness> {
    let settings = Settings { quiet: true, batch_tokens };
    let data = Data::new(&TEXTS);
    let mut none = Rejections::new(false, None);
    let mut rows = faithfulness(&model(), randomised, data.open(), options, &settings, &mut none).unwrap();
    for row in &mut rows {
        row.seconds = 0.0;
    }
    rows
}

fn probability(logits: &[f32], class: usize) -> f64 {
    let exponentials: Vec<f64> = logits.iter().map(|&z| f64::from(z).exp()).collect();
    exponentials[class] / exponentials.iter().sum::<f64>()
}

/// Every text's encoding, predicted class and probability.
fn asked(model: &Model) -> Vec<(Encoding, usize, f64)> {
    let ask = |text: &&str| {
        let record = wherefore::dataset::Record { text: (*text).to_owned(), ..Default::default() };
        let encoding = model.encode(&record).unwrap();
        let logits = model.run(std::slice::from_ref(&encoding), None, &|_| true).unwrap().logits;
        let class = usize::from(logits[1] > logits[0]);
        let p = probability(&logits, class);
        (encoding, class, p)
    };
    TEXTS.iter().map(ask).collect()
}

#[test]
fn occlusions_first_word_loses_what_occlusion_says() {
    let model = model();
    let methods = vec![Judged::Of(Method::Occlusion)];
    let options = FaithfulnessOptions::new(tokens(methods, Rationale::Count(1)));
    let row = judge(&options, None, None).remove(0);
    // By hand: the most any one token's removal takes off the prediction's probability.
    let mask = model.tokenizer().mask_id().unwrap();
    let mut sum = 0.0;
    for (encoding, class, p) in asked(&model) {
        let own = (0..encoding.ids.len()).filter(|&token| encoding.segments[token].is_some());
        let without = own.map(|token| {
            let mut ids = encoding.ids.clone();
            ids[token] = mask;
            let changed = Encoding { ids, ..encoding.clone() };
            p - probability(&model.run(&[changed], None, &|_| true).unwrap().logits, class)
        });
        sum += without.fold(f64::NEG_INFINITY, f64::max);
    }
    let found = row.comprehensiveness.unwrap().mean;
    assert!((found - sum / TEXTS.len() as f64).abs() < 1e-6, "{found} {}", sum / TEXTS.len() as f64);
}

#[test]
fn everything_is_sufficient_and_its_loss_is_that_of_nothing() {
    let methods = vec![Judged::Of(Method::Saliency), Judged::Random];
    let mut options = FaithfulnessOptions::new(tokens(methods, Rationale::Count(1000)));
    options.shares = vec![1.0];
    let rows = judge(&options, None, None);
    for row in &rows {
        assert_eq!(row.records, TEXTS.len() as u64);
        assert_eq!(row.sufficiency.unwrap().mean, 0.0, "{row:?}");
        assert_eq!(row.aopc_sufficiency.unwrap().mean, 0.0);
        assert_eq!(row.comprehensiveness, row.aopc_comprehensiveness);
        // No set of words is smaller than all of them, so there are none to correlate.
        assert_eq!(row.sensitivity_n, None);
        assert_eq!(row.completeness_error, None);
    }
    assert_eq!(rows[0].comprehensiveness, rows[1].comprehensiveness);
}

#[test]
fn results_do_not_depend_on_batches_and_no_scores_outlast_their_model() {
    let methods = vec![Judged::Of(Method::IntegratedGradients), Judged::Random];
    let options = FaithfulnessOptions::new(tokens(methods, Rationale::Share(0.3)));
    let rows = judge(&options, None, None);
    assert_eq!(rows, judge(&options, Some(1), None));
    // Eight steps leave an error, which many steps take away.
    let error_of = |rows: &[Faithfulness]| rows[0].completeness_error.unwrap().mean;
    let mut finer = options.clone();
    finer.tokens.explain.steps = 256;
    let (coarse, fine) = (error_of(&rows), error_of(&judge(&finer, None, None)));
    assert!(fine < 0.01 && fine < coarse / 10.0, "{coarse} with 8 steps, {fine} with 256");

    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("anew");
    draw_anew(&model(), &to, 9).unwrap();
    let other = Model::load(to.to_str().unwrap(), Device::Cpu, &LoadOptions::default()).unwrap();
    let rows = judge(&options, None, Some(&other));
    assert!(rows[1].randomisation.unwrap().mean < 0.95, "chance agrees with itself no more than chance does");
    assert!(rows[0].randomisation.unwrap().mean < 0.95, "{:?}", rows[0].randomisation);
}

#[test]
fn a_text_without_any_of_its_tokens_is_never_empty() {
    let model = model();
    let (encoding, ..) = asked(&model).swap_remove(1);
    let all: Vec<usize> = (0..encoding.ids.len()).collect();
    let removals = [Removal { encoding: &encoding, tokens: all }, Removal { encoding: &encoding, tokens: Vec::new() }];
    let delete = "delete".parse().unwrap();
    let logits = logits_without(&model, &removals, delete, None, &|_| true).unwrap();
    assert!(logits[0].iter().all(|z| z.is_finite()));
    assert_eq!(logits[1], model.run(std::slice::from_ref(&encoding), None, &|_| true).unwrap().logits);
}
