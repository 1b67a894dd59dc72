//! A model that is linear in its words: what removing words does is a sum, so that the yardsticks' answers are known.
//!
//! Attention that looks at all tokens alike takes the mean of what they say; a small share of that is added to [CLS],
//! and nothing else happens.

use std::path::{Path, PathBuf};

use wherefore::backend::cpu::Cpu;
use wherefore::dataset::{Dataset, DatasetOptions, Record};
use wherefore::evaluate::{Faithfulness, FaithfulnessOptions, Judged, TokenOptions, draw_anew, faithfulness};
use wherefore::explain::{Method, Options, Rationale, Segmentation};
use wherefore::model::{Device, LoadOptions, Model};
use wherefore::pipeline::{Rejections, Settings};
use wherefore::tokens::Encoding;

use crate::models::Parts;

const TEXTS: [&str; 4] = [
    "The service was not good, and the food was bad",
    "the movie was bad, and so was the book",
    "I loved the movie, the book was good to us",
    "not the food, the staff was so bad to us",
];

/// How much of the mean is added: few enough that LayerNorm and tanh are straight lines.
const SHARE: f32 = 0.02;

fn linear(folder: &Path) -> PathBuf {
    let to = folder.join("linear");
    std::fs::create_dir(&to).unwrap();
    for file in std::fs::read_dir(crate::cli::golden("bert-cls2")).unwrap().flatten() {
        if file.path().is_file() {
            std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }
    let weights = to.join("model.safetensors");
    let mut parts = Parts::read(&weights);
    let names: Vec<String> = parts.header.keys().cloned().collect();
    let factor = |name: &str| match name {
        _ if name.contains(".self.query.") || name.contains(".self.key.") => 0.0,
        // What a feed-forward layer adds, and the first layer's attention.
        _ if name.contains(".output.dense.") && !name.contains(".attention.") => 0.0,
        _ if name.contains("layer.0.attention.output.dense.") => 0.0,
        _ if name.contains("layer.1.attention.output.dense.") => SHARE,
        _ => 1.0,
    };
    for name in names.iter().filter(|name| name.starts_with("bert.encoder")) {
        let range = parts.range(name);
        for bytes in parts.data[range].chunks_exact_mut(4) {
            let value = f32::from_le_bytes(bytes.try_into().unwrap()) * factor(name);
            bytes.copy_from_slice(&value.to_le_bytes());
        }
    }
    parts.write(&weights);
    to
}

fn judge(model: &Model, folder: &Path, methods: Vec<Judged>, randomised: Option<&Model>) -> Vec<Faithfulness> {
    let file = folder.join("data.jsonl");
    let lines = TEXTS.iter().map(|text| serde_json::json!({ "text": text }).to_string() + "\n");
    std::fs::write(&file, lines.collect::<String>()).unwrap();
    let files = vec![file.to_str().unwrap().to_owned()];
    let data = Dataset::open(DatasetOptions { files, ..DatasetOptions::default() }).unwrap();
    let tokens = TokenOptions {
        methods,
        explain: Options { seed: 3, ..Options::default() },
        words: Segmentation::None,
        rationale: Rationale::Share(0.2),
        keep: None,
    };
    let options = FaithfulnessOptions { subsets: 40, curve_steps: 5, ..FaithfulnessOptions::new(tokens) };
    let settings = Settings { quiet: true, ..Settings::default() };
    faithfulness(model, randomised, data, &options, &settings, &mut Rejections::new(false, None)).unwrap()
}

/// The probability of the prediction, and what each token of the text takes off it when it alone is masked, from the
/// greatest down.
fn by_hand(model: &Model, text: &str) -> (f64, Vec<f64>) {
    let encoding = model.encode(&Record { text: text.to_owned(), ..Record::default() }).unwrap();
    let logits = |encoding: &Encoding| model.run(std::slice::from_ref(encoding), None, &|_| true).unwrap().logits;
    let whole = logits(&encoding);
    let class = usize::from(whole[1] > whole[0]);
    let p = |z: &[f32]| 1.0 / (1.0 + f64::from(z[1 - class] - z[class]).exp());
    let own = (0..encoding.ids.len()).filter(|&token| encoding.segments[token].is_some());
    let loss = |token: usize| {
        let mut ids = encoding.ids.clone();
        ids[token] = model.tokenizer().mask_id().unwrap();
        p(&whole) - p(&logits(&Encoding { ids, ..encoding.clone() }))
    };
    let mut losses: Vec<f64> = own.map(loss).collect();
    losses.sort_by(|a, b| b.total_cmp(a));
    (p(&whole), losses)
}

#[test]
fn sums_of_scores_are_what_sets_are_worth() {
    let folder = tempfile::tempdir().unwrap();
    let model = Model::open_with(Cpu::new(), &linear(folder.path()), &LoadOptions::default()).unwrap();
    let rows = judge(&model, folder.path(), vec![Judged::Of(Method::Occlusion), Judged::Random], None);
    // What is left of curvature is of the order of the share that is added.
    let [occlusion, random] = [0, 1].map(|row| rows[row].sensitivity_n.unwrap().mean);
    assert!(occlusion > 1.0 - f64::from(SHARE), "{occlusion}");
    // Correlations of draws for about ten tokens have a deviation of 1/√9; of a mean over four texts, half of that.
    assert!(random.abs() < 3.0 * 0.5 / 9.0_f64.sqrt(), "{random}");

    // The deletion curve is the probability, less the sum of the greatest.
    let texts: Vec<(f64, Vec<f64>)> = TEXTS.iter().map(|text| by_hand(&model, text)).collect();
    for at in &rows[0].curve {
        let gone = |losses: &Vec<f64>| (at.share * losses.len() as f64 - 1e-9).ceil() as usize;
        let expected: f64 = texts.iter().map(|(p, losses)| p - losses[..gone(losses)].iter().sum::<f64>()).sum::<f64>()
            / TEXTS.len() as f64;
        let size: f64 =
            texts.iter().map(|(_, l)| l.iter().map(|x| x.abs()).sum::<f64>()).sum::<f64>() / TEXTS.len() as f64;
        assert!((at.deletion - expected).abs() < f64::from(SHARE) * size, "{at:?} {expected} of {size}");
    }
    // No ranking takes off more, at any share, than the sum of the greatest; and every measure is a difference of
    // probabilities.
    for row in &rows {
        for at in &row.shares {
            assert!(at.comprehensiveness.abs() <= 1.0 && at.sufficiency.abs() <= 1.0);
            assert!(
                at.comprehensiveness
                    <= rows[0].shares.iter().find(|s| s.share == at.share).unwrap().comprehensiveness + 1e-4
            );
        }
        let mean = |of: fn(&wherefore::evaluate::AtShare) -> f64| {
            row.shares.iter().map(of).sum::<f64>() / row.shares.len() as f64
        };
        assert!((row.aopc_comprehensiveness.unwrap().mean - mean(|at| at.comprehensiveness)).abs() < 1e-9);
        assert!((row.aopc_sufficiency.unwrap().mean - mean(|at| at.sufficiency)).abs() < 1e-9);
        // Deletion ends where insertion begins, and the other way round.
        let (first, last) = (row.curve[0], row.curve[row.curve.len() - 1]);
        assert_eq!((first.deletion, last.deletion), (last.insertion, first.insertion));
    }
}

#[test]
fn scores_of_another_network_have_nothing_in_common() {
    let folder = tempfile::tempdir().unwrap();
    let model = Model::open_with(Cpu::new(), &linear(folder.path()), &LoadOptions::default()).unwrap();
    let to = folder.path().join("anew");
    draw_anew(&model, &to, 4).unwrap();
    let other = Model::load(to.to_str().unwrap(), Device::Cpu, &LoadOptions::default()).unwrap();
    let row = judge(&model, folder.path(), vec![Judged::Of(Method::Occlusion)], Some(&other)).remove(0);
    // Rank correlations of about ten tokens have a deviation of 1/√9: of the mean of four texts, half of that.
    assert!(row.randomisation.unwrap().mean.abs() < 3.0 / 9.0_f64.sqrt() / 2.0, "{:?}", row.randomisation);
}
