//! Stores of models that say something of tokens: their gradients against PyTorch's explicit ones, every rule against
//! sums over pairs of factors, and the same bits however the work is cut.
//!
//! `gradients.json` holds dot products of whole gradients of the last layer in float64. What is allowed is f32's
//! forward pass: a score may be off by 10⁻⁵ of the product of the two gradients' lengths (twenty times what these
//! models' features are off, over two factors each), a loss by 10⁻⁵ of itself and one.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use wherefore::backend::cpu::Cpu;
use wherefore::backend::gpu::Gpu;
use wherefore::backend::{Backend, Precision};
use wherefore::dataset::{Dataset, DatasetOptions, Shape};
use wherefore::factors::{Bundle, Curvature, CurvatureOptions, HessianForm, QueryFactors, mean_features};
use wherefore::model::{LoadOptions, Model};
use wherefore::pipeline::{IndexOptions, Rejections, RuleOptions, SearchOptions, SelfSearch, Settings, TopK, index};
use wherefore::report::SearchResult;
use wherefore::search::{FactorSet, Form, Query, Rule, Source, score, score_parts};
use wherefore::store::{Store, verify};

use crate::emulator;

#[derive(Deserialize)]
pub(super) struct Golden {
    pub(super) kind: String,
    pub(super) stride: usize,
    pub(super) losses: Vec<f64>,
    pub(super) factors: Vec<u64>,
    pub(super) dots: Vec<Vec<f64>>,
    pub(super) records: Vec<Value>,
}

pub(super) fn golden(case: &str) -> (PathBuf, Golden) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(case);
    let text = fs::read_to_string(folder.join("gradients.json")).unwrap();
    (folder, serde_json::from_str(&text).unwrap())
}

/// A case's records in a store.
pub(super) fn indexed(case: &str, at: &Path) -> (Store, Golden) {
    indexed_on(Cpu::new(), case, at)
}

fn indexed_on(backend: impl Backend, case: &str, at: &Path) -> (Store, Golden) {
    let (folder, golden) = golden(case);
    let lines: String = golden.records.iter().flat_map(|record| [record.to_string(), "\n".to_owned()]).collect();
    let data = at.join("data.jsonl");
    fs::write(&data, lines).unwrap();
    let options = LoadOptions { masks: golden.kind == "masks", ..LoadOptions::default() };
    let model = Model::open_with(backend, &folder, &options).unwrap();
    let shape = match &*golden.kind {
        "spans" => Shape::Questions,
        "tags" => Shape::Words,
        _ => Shape::Texts,
    };
    let files = vec![data.to_str().unwrap().to_owned()];
    let dataset = Dataset::open(DatasetOptions { files, shape, ..DatasetOptions::default() }).unwrap();
    let options = IndexOptions { stride: golden.stride, ..IndexOptions::default() };
    let settings = Settings { quiet: true, ..Settings::default() };
    index(&model, dataset, &at.join("store"), &options, &settings, &mut Rejections::new(false, None)).unwrap();
    (Store::open(at.join("store")).unwrap(), golden)
}

/// What each record finds among the others, by every score.
fn found(store: &Store, rule: Rule, rule_options: &RuleOptions, devices: &[Gpu]) -> Vec<SearchResult> {
    let (n, rule_options) = (store.rows(), rule_options.clone());
    let options =
        SearchOptions { rule, rule_options, top_k: TopK::Count(n), of_itself: true, ..SearchOptions::default() };
    let mut found: Vec<SearchResult> = Vec::new();
    SelfSearch { store, options: &options, devices }.run(true, &mut found).unwrap();
    found
}

/// Every record's scores for every other, `[n, n]`; NaN on the diagonal.
pub(super) fn scores(store: &Store, rule: Rule, rule_options: &RuleOptions) -> Vec<Vec<f64>> {
    let n = store.rows();
    let mut all = vec![vec![f64::NAN; n]; n];
    for result in found(store, rule, rule_options, &[]) {
        assert_eq!(result.proponents.len(), n - 1);
        for near in result.proponents {
            all[result.index as usize][near.index as usize] = f64::from(near.score);
        }
    }
    all
}

const CASES: [&str; 9] = [
    "bert-spans",
    "roberta-spans",
    "distilbert-spans",
    "bert-tags",
    "camembert-tags",
    "distilbert-tags",
    "bert-masks",
    "roberta-masks",
    "electra-masks",
];

#[test]
fn gradients_are_those_of_autograd() {
    for case in CASES {
        check_gradients(Cpu::new(), case);
    }
}

/// An emulated one, which then searches them: every rule finds what it finds on the CPU, to the bit.
#[test]
fn a_device_makes_and_searches_the_same_gradients() {
    for case in ["bert-spans", "bert-tags", "bert-masks"] {
        let (at, store) = check_gradients(emulator::gpu(Precision::F32), case);
        let gpus = emulator::gpus(2, Precision::F32);
        let rules = [Rule::GradDot, Rule::GradCos, Rule::FeatureEuc, Rule::Representer, Rule::Influence, Rule::RelatIf];
        // The last three need a refit or a curvature.
        let rules = if case == "bert-tags" { &rules[..] } else { &rules[..3] };
        for &rule in rules {
            let results = |devices: &[Gpu]| {
                let found = found(&store, rule, &RuleOptions::default(), devices);
                found.iter().map(|result| serde_json::to_string(result).unwrap()).collect::<Vec<_>>()
            };
            assert_eq!(results(&gpus), results(&[]), "{case}, {rule}");
        }
        drop(at);
    }
}

fn check_gradients(backend: impl Backend, case: &str) -> (tempfile::TempDir, Store) {
    let at = tempfile::tempdir().unwrap();
    let (store, golden) = indexed_on(backend, case, at.path());
    let shard = &store.shards()[0];
    let counts: Vec<u64> = shard.factor_offsets().unwrap().windows(2).map(|ends| ends[1] - ends[0]).collect();
    assert_eq!(counts, golden.factors, "{case}");
    let (dot, cos) = (
        scores(&store, Rule::GradDot, &RuleOptions::default()),
        scores(&store, Rule::GradCos, &RuleOptions::default()),
    );
    for (i, row) in golden.dots.iter().enumerate() {
        let norm = |i: usize| golden.dots[i][i].sqrt();
        let (loss, expected) = (f64::from(shard.losses()[i]), golden.losses[i]);
        assert!((loss - expected).abs() <= 1e-5 * (expected + 1.0), "{case}: loss {i}: {loss} for {expected}");
        let stored = f64::from(shard.gradient_norms().unwrap()[i]);
        assert!((stored - norm(i)).abs() <= 1e-5 * norm(i), "{case}: norm {i}: {stored} for {}", norm(i));
        for (j, &expected) in row.iter().enumerate().filter(|(j, _)| *j != i) {
            let size = norm(i) * norm(j);
            assert!((dot[i][j] - expected).abs() <= 1e-5 * size, "{case}: {i}, {j}: {} for {expected}", dot[i][j]);
            let expected = expected / size;
            assert!((cos[i][j] - expected).abs() <= 1e-5, "{case}: cosine {i}, {j}: {} for {expected}", cos[i][j]);
        }
    }
    assert!(verify(at.path().join("store")).unwrap().is_sound(), "{case}");
    (at, store)
}

/// A record's factors as the store has them.
pub(super) fn bundle(store: &Store, row: usize) -> Bundle {
    let (shard, factors) = (&store.shards()[0], store.shards()[0].factors());
    let offsets = shard.factor_offsets().unwrap();
    let (from, to) = (offsets[row] as usize, offsets[row + 1] as usize);
    Bundle {
        features: factors.features.slice(from * factors.width..to * factors.width).to_f32(),
        deltas: factors.deltas[from * factors.classes..to * factors.classes].to_vec(),
        biases: shard.factor_biases().map_or_else(|| vec![1.0; to - from], |biases| biases[from..to].to_vec()),
        classes: shard.factor_classes().unwrap()[from..to].iter().map(|&class| class as usize).collect(),
        loss: 0.0,
    }
}

/// `Σ` over pairs of factors of `b (a + s s')`, in f64, and the same over magnitudes.
fn by_pairs(q: &Bundle, i: &Bundle) -> (f64, f64) {
    let dot = |x: &[f32], y: &[f32]| -> (f64, f64) {
        let products = || x.iter().zip(y).map(|(&x, &y)| f64::from(x) * f64::from(y));
        (products().sum(), products().map(f64::abs).sum())
    };
    let (e, k) = (q.width(), q.outputs());
    let (mut sum, mut size) = (0.0, 0.0);
    for f in 0..q.len() {
        for g in 0..i.len() {
            let a = dot(&q.features[f * e..(f + 1) * e], &i.features[g * e..(g + 1) * e]);
            let b = dot(&q.deltas[f * k..(f + 1) * k], &i.deltas[g * k..(g + 1) * k]);
            let s = f64::from(q.biases[f]) * f64::from(i.biases[g]);
            sum += b.0 * (a.0 + s);
            size += b.1 * (a.1 + s.abs());
        }
    }
    (sum, size)
}

#[test]
fn scores_are_sums_over_pairs_of_factors() {
    for case in ["bert-spans", "bert-tags", "bert-masks"] {
        let at = tempfile::tempdir().unwrap();
        let (store, _) = indexed(case, at.path());
        let (n, form) = (store.rows(), Form::grad_dot());
        let asked: Vec<Vec<Bundle>> = (0..n).map(|row| vec![bundle(&store, row)]).collect();
        let (queries, counts) = Query::bundles(&asked);
        let form = form.of_terms(&counts);
        for (q, query) in queries.iter().enumerate() {
            for i in 0..n {
                let (sum, size) = by_pairs(&asked[q][0], &asked[i][0]);
                // Roundings on the way: a product of E, one of K, the pairs; more than 64 there are not in tiny models.
                let allowed = 64.0 * 2_f64.powi(-24) * size;
                let found = score(&store, &form, query, 0, i);
                assert!((f64::from(found) - sum).abs() <= allowed, "{case}: {q}, {i}: {found} for {sum}");
                let parts: f64 = score_parts(&store, &form, query, 0, i).into_iter().map(f64::from).sum();
                assert!((parts - f64::from(found)).abs() <= allowed, "{case}: parts of {q}, {i}");
                let (back, other) = (score(&store, &form, &queries[i], 0, q), asked[i][0].norm());
                assert!((found - back).abs() <= 2.0 * allowed as f32, "{case}: grad-dot is symmetric");
                if q == i {
                    assert!(
                        (sum - other * other).abs() <= 1e-12 * size,
                        "{case}: a gradient's own score is its length, squared"
                    );
                }
            }
        }
    }
}

#[test]
fn a_query_s_bits_do_not_depend_on_what_is_asked_with_it() {
    let at = tempfile::tempdir().unwrap();
    let (store, _) = indexed("bert-tags", at.path());
    let bundles: Vec<Vec<Bundle>> = (0..store.rows()).map(|row| vec![bundle(&store, row)]).collect();
    let (together, counts) = Query::bundles(&bundles);
    let together_form = Form::grad_dot().of_terms(&counts);
    for (row, bundle) in bundles.into_iter().enumerate() {
        let (alone, counts) = Query::bundles(&[bundle]);
        let form = Form::grad_dot().of_terms(&counts);
        for i in 0..store.rows() {
            let bits = |form: &Form<'_>, query| score(&store, form, query, 0, i).to_bits();
            assert_eq!(bits(&form, &alone[0]), bits(&together_form, &together[row]));
        }
    }
}

#[test]
fn a_record_of_one_factor_is_a_classifier_s() {
    let at = tempfile::tempdir().unwrap();
    let (store, _) = indexed("bert-tags", at.path());
    // The last record is one word.
    let last = store.rows() - 1;
    let one = bundle(&store, last);
    assert_eq!(one.len(), 1);
    let (queries, counts) = Query::bundles(&[vec![one.clone()]]);
    let ours = score(&store, &Form::grad_dot().of_terms(&counts), &queries[0], 0, last);
    let norm = |x: &[f32]| vec![wherefore::backend::cpu::dot(x, x).sqrt()];
    let rows = wherefore::factors::FactorRows {
        rows: 1,
        width: one.width(),
        classes: one.outputs(),
        features: wherefore::factors::Floats::F32(&one.features),
        deltas: &one.deltas,
        feature_norms: &norm(&one.features),
        delta_norms: &norm(&one.deltas),
    };
    let query = Query::gradient(one.features.clone(), one.deltas.clone());
    assert_eq!(ours.to_bits(), score(&rows, &Form::grad_dot(), &query, 0, 0).to_bits());
    let (units, _) = Query::bundles(&[vec![one.to_unit()]]);
    let cosine = score(&store, &Form::bundle_cos().of_terms(&counts), &units[0], 0, last);
    let theirs = score(&rows, &Form::grad_cos(), &query, 0, 0);
    assert!((cosine - theirs).abs() < 1e-6 && (cosine - 1.0).abs() < 1e-6, "{cosine}, {theirs}");
}

#[test]
fn influence_is_linear_in_the_factors_and_relatif_is_over_the_record_s_own() {
    let at = tempfile::tempdir().unwrap();
    let (store, _) = indexed("bert-tags", at.path());
    for form in [HessianForm::Exact, HessianForm::Kronecker] {
        let options = CurvatureOptions { form, ..CurvatureOptions::default() };
        let curvature = Curvature::fit(&store, options, &|| true).unwrap();
        let all: Vec<Bundle> = (0..store.rows()).map(|row| bundle(&store, row)).collect();
        let solved = curvature.precondition_bundles(&all, &|| true).unwrap();
        let full = |p: &wherefore::factors::Preconditioned, e: usize| match p {
            wherefore::factors::Preconditioned::Full(v) => v.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>(),
            wherefore::factors::Preconditioned::RankOne { delta, input } => {
                assert_eq!(input.len(), e + 1);
                delta.iter().flat_map(|&d| input.iter().map(move |&x| f64::from(d) * f64::from(x))).collect()
            }
        };
        let squares = curvature.self_influence_of_bundles(all.len(), &|row| all[row].clone(), &|| true).unwrap();
        for (bundle, (solved, &square)) in all.iter().zip(solved.iter().zip(&squares)) {
            let (e, k) = (bundle.width(), bundle.outputs());
            let factors: Vec<QueryFactors<'_>> = (0..bundle.len())
                .map(|f| QueryFactors { delta: &bundle.deltas[f * k..][..k], features: &bundle.features[f * e..][..e] })
                .collect();
            let parts = curvature.precondition(&factors, &|| true).unwrap();
            let whole = full(solved, e);
            let size = whole.iter().map(|v| v * v).sum::<f64>().sqrt();
            let sum = parts.iter().map(|part| full(part, e)).fold(vec![0.0; whole.len()], |mut sum, part| {
                sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
                sum
            });
            let apart = sum.iter().zip(&whole).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt();
            assert!(apart <= 1e-5 * size, "{form:?}: {apart} of {size}");
            let own: f64 = bundle.gradient().iter().zip(&whole).map(|(g, v)| g * v).sum();
            assert!((own - f64::from(square)).abs() <= 1e-5 * own, "{form:?}: {square} for {own}");
        }
        let rule_options = RuleOptions { hessian: Some(form), ..RuleOptions::default() };
        let (influence, relatif) =
            (scores(&store, Rule::Influence, &rule_options), scores(&store, Rule::RelatIf, &rule_options));
        for (q, row) in influence.iter().enumerate() {
            for (i, &score) in row.iter().enumerate().filter(|(i, _)| *i != q) {
                let expected = score / f64::from(squares[i]).sqrt();
                assert!((relatif[q][i] - expected).abs() <= 1e-5 * expected.abs().max(1e-6), "{form:?}");
                let size = (squares[q] * squares[i]).sqrt();
                assert!((score - influence[i][q]).abs() <= 1e-5 * f64::from(size), "{form:?}: influence is symmetric");
            }
        }
    }
}

#[test]
fn representers_of_all_words_add_up_to_the_refit_s_logits() {
    let at = tempfile::tempdir().unwrap();
    let (store, _) = indexed("bert-tags", at.path());
    let options = wherefore::factors::RefitOptions::default();
    let representer =
        wherefore::factors::representer(&store, &options, wherefore::factors::RepresenterCompat::Exact, &|| true)
            .unwrap();
    let asked = bundle(&store, 0);
    let (e, form) = (asked.width(), Form::representer(&representer.alpha).of_terms(&[asked.len()]));
    let rows: Vec<(Vec<f32>, usize)> =
        asked.features.chunks_exact(e).map(<[f32]>::to_vec).zip(asked.classes.iter().copied()).collect();
    let query = Query::classes(&rows, 1.0, asked.len());
    let sum: f64 = (0..store.rows()).map(|i| f64::from(score(&store, &form, &query, 0, i))).sum();
    let logits: f64 = rows.iter().map(|(h, class)| representer.refit.logits(h)[*class]).sum();
    assert!((sum - logits).abs() <= 1e-4 * logits.abs().max(1.0), "{sum} for {logits}");
}

#[test]
fn rules_over_features_compare_the_mean_of_what_is_said() {
    let at = tempfile::tempdir().unwrap();
    let (store, _) = indexed("bert-tags", at.path());
    let shard = &store.shards()[0];
    let means = store.factors(0, FactorSet::Mean).unwrap();
    let width = means.width;
    // Of the first record's words, the first, the fourth and the sixth are in entities.
    let of_entities = mean_features(&bundle(&store, 0).features, width, [0, 3, 5]);
    assert_eq!(of_entities, means.features.slice(0..width).to_f32());
    let dots = scores(&store, Rule::FeatureDot, &RuleOptions::default());
    let means = shard.means().unwrap().features.to_f32();
    for (q, row) in dots.iter().enumerate() {
        for (i, &dot) in row.iter().enumerate().filter(|(i, _)| *i != q) {
            let (a, b) = (&means[q * width..(q + 1) * width], &means[i * width..(i + 1) * width]);
            let expected: f64 = a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
            assert!((dot - expected).abs() <= 1e-5 * expected.abs().max(1.0));
        }
    }
}
