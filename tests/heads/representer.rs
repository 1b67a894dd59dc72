//! Representer points of answers against PyTorch's refit in float64, and that they add up to the refitted logits.

use std::fs;

use serde::Deserialize;
use wherefore::dataset::{Dataset, DatasetOptions, Shape};
use wherefore::model::{Device, LoadOptions, Model};
use wherefore::pipeline::{QueryTarget, Rejections, RuleOptions, SearchJob, SearchOptions, Settings, TopK};
use wherefore::report::SearchResult;
use wherefore::search::Rule;

use super::stores::indexed;

#[derive(Deserialize)]
struct Golden {
    penalty: f64,
    logits: Vec<f64>,
    values: Vec<Vec<f64>>,
}

/// What is allowed is f32's forward pass, as of the gradients of [`super::stores`]: the features of query and training
/// record are off by some 10⁻⁶ of themselves, and the refit amplifies that by no more than `1/λ`.
#[test]
fn answers_decompose_as_pytorch_s_refit() {
    for case in ["bert-spans", "roberta-spans"] {
        let at = tempfile::tempdir().unwrap();
        let (store, _) = indexed(case, at.path());
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(case);
        let golden: Golden =
            serde_json::from_str(&fs::read_to_string(folder.join("representer.json")).unwrap()).unwrap();
        let model = Model::load(folder.to_str().unwrap(), Device::Cpu, &LoadOptions::default()).unwrap();
        let rule_options = RuleOptions { lambda: Some(golden.penalty), ..RuleOptions::default() };
        let options = SearchOptions {
            rule: Rule::Representer,
            rule_options,
            top_k: TopK::Count(store.rows()),
            target: QueryTarget::Gold,
            ..SearchOptions::default()
        };
        let files = vec![at.path().join("data.jsonl").to_str().unwrap().to_owned()];
        let dataset = Dataset::open(DatasetOptions { files, shape: Shape::Questions, ..DatasetOptions::default() });
        let mut found: Vec<SearchResult> = Vec::new();
        let (settings, mut rejections) =
            (Settings { quiet: true, ..Settings::default() }, Rejections::new(false, None));
        let job = SearchJob { model: &model, checkpoints: &[], store: &store, options: &options };
        job.run(dataset.unwrap(), &settings, &mut rejections, &mut found).unwrap();
        assert_eq!(found.len(), golden.values.len());
        let size = golden.values.iter().flatten().fold(0.0_f64, |size, value| size.max(value.abs()));
        let allowed = 2e-6 / golden.penalty * size;
        for (q, result) in found.iter().enumerate() {
            for near in &result.proponents {
                let expected = golden.values[q][near.index as usize];
                let apart = (f64::from(near.score) - expected).abs();
                assert!(apart <= allowed, "{case}: {q}, {}: {} for {expected}", near.index, near.score);
                let parts: f64 = near.parts.iter().map(|part| f64::from(part.score)).sum();
                assert!((parts - f64::from(near.score)).abs() <= 1e-6 * size, "{case}: parts");
            }
            let sum: f64 = result.proponents.iter().map(|near| f64::from(near.score)).sum();
            assert!((sum - golden.logits[q]).abs() <= 4.0 * allowed, "{case}: {sum} for {}", golden.logits[q]);
        }
    }
}
