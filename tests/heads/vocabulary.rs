//! Influence over a head of more outputs than a curvature is taken of: by a matrix over the training factors.

use wherefore::dataset::Record;
use wherefore::factors::{Bundle, FactorKernel, Head, HessianForm, LabelUsed, LabelVec};
use wherefore::model::{Problem, Task};
use wherefore::pipeline::{RuleOptions, SearchOptions, SelfSearch, TopK};
use wherefore::random::{Purpose, Stream};
use wherefore::report::SearchResult;
use wherefore::search::{EachFactor, Rule};
use wherefore::store::{
    Block, Bundles, Dtype, FactorPart, Part, Said, Settings, Store, StoreWriter, Stored, StoredRecord, TokenSettings,
    data_fingerprint,
};

use super::stores::bundle;

const PIECES: usize = 1100;
const WIDTH: usize = 5;
const DAMPING: f64 = 0.01;

/// Records of one or two masks each, of probabilities drawn over a vocabulary.
fn drawn(at: &std::path::Path, records: usize) -> Store {
    let draws = Stream::new(11, Purpose::Shuffle);
    let number = |kind: u32, i: usize| f64::from(draws.below(2001, kind, i as u32)) / 1000.0 - 1.0;
    let masks: Vec<usize> = (0..records).map(|row| 1 + row % 2).collect();
    let factors: usize = masks.iter().sum();
    let settings = Settings {
        model: "none".into(),
        model_fingerprint: "5a".into(),
        head_fingerprint: "c1".into(),
        tokenizer_fingerprint: "77".into(),
        max_length: 16,
        problem: Problem::SingleLabel,
        width: WIDTH,
        classes: PIECES,
        label_names: vec![],
        target: LabelUsed::Gold,
        dtype: Dtype::F32,
        block_records: 64,
        checkpoints: vec![],
        scan: None,
        gradients: None,
        gradient_layers: vec![],
        tokens: Some(TokenSettings { task: Task::Masks, stride: 0, max_answer_tokens: 0 }),
        columns: vec![],
        precision: None,
    };
    let piece = |factor: usize| (factor * 37) % 90;
    let deltas = (0..factors).flat_map(|factor| {
        let weights: Vec<f64> = (0..PIECES).map(|k| (4.0 * number(1, factor * PIECES + k)).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let delta = move |(k, weight): (usize, f64)| (weight / sum - f64::from(u8::from(k == piece(factor)))) as f32;
        weights.into_iter().enumerate().map(delta).collect::<Vec<f32>>()
    });
    let mut offsets = vec![0_u64];
    offsets.extend(masks.iter().scan(0, |end, masks| {
        *end += *masks as u64;
        Some(*end)
    }));
    let record = |row: usize| {
        let name = |factor: u64| format!("p{}", piece(factor as usize));
        let own = offsets[row]..offsets[row + 1];
        let parts = own.clone().map(|factor| FactorPart { start: 0, end: 6, target: name(factor) }).collect();
        let names: Vec<String> = own.map(name).collect();
        let said =
            Said { label: Some(names.clone().into()), predicted: names.clone().into(), target: names.into(), parts };
        StoredRecord { id: format!("r{row}"), text: "[MASK]".into(), said: Some(said), ..StoredRecord::default() }
    };
    let head = Head { weight: vec![0.0; PIECES * WIDTH], bias: vec![0.0; PIECES] };
    let mut writer = StoreWriter::create(at, settings, Part::WHOLE, Some(&head), false).unwrap();
    let bundles = Bundles {
        biases: vec![1.0; factors],
        classes: (0..factors).map(|factor| piece(factor) as i64).collect(),
        means: vec![0.5; records * WIDTH],
        offsets: offsets.clone(),
    };
    let block = Block {
        number: 0,
        indices: (0..records as u64).collect(),
        features: (0..factors * WIDTH).map(|i| number(2, i) as f32).collect(),
        deltas: deltas.collect(),
        bundles: Some(bundles),
        labels: LabelVec::Rows(vec![]),
        predictions: LabelVec::Rows(vec![]),
        losses: vec![1.0; records],
        checkpoints: vec![],
        records: (0..records).map(record).collect(),
        stored: Stored::default(),
        nearest: None,
        data_fingerprint: data_fingerprint([&Record::default()]),
    };
    writer.write(&block).unwrap();
    writer.finish(records as u64).unwrap();
    Store::open(at).unwrap()
}

/// What each record finds of all others, with what each mask adds.
fn found(store: &Store, rule: Rule, damping: f64) -> Vec<SearchResult> {
    let rule_options = RuleOptions { lambda: Some(damping), ..RuleOptions::default() };
    let (top_k, of_itself) = (TopK::Count(store.rows()), true);
    let options = SearchOptions { rule, rule_options, top_k, of_itself, ..SearchOptions::default() };
    let mut found: Vec<SearchResult> = Vec::new();
    SelfSearch { store, options: &options, devices: &[] }.run(true, &mut found).unwrap();
    found
}

/// `v = (F̂ + λI)⁻¹ g_q` solves `(1/F) Σ_f g_f (g_f·v) + λ v = g_q`; the product of both sides with any `g_i` is an
/// equation between scores alone. Two unknowns of it are left out of results: a query's own masks, which the query's
/// own self-influence gives.
#[test]
fn scores_solve_the_damped_system() {
    let at = tempfile::tempdir().unwrap();
    let store = drawn(&at.path().join("store"), 11);
    let n = store.rows();
    let bundles: Vec<_> = (0..n).map(|row| bundle(&store, row)).collect();
    let gradients: Vec<Vec<Vec<f64>>> =
        bundles.iter().map(|all| (0..all.len()).map(|factor| all.only(factor).gradient()).collect()).collect();
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    let whole: Vec<Vec<f64>> = bundles.iter().map(Bundle::gradient).collect();
    let factors: f64 = gradients.iter().map(|own| own.len() as f64).sum();
    let kernel = FactorKernel::fit(&store, DAMPING, &|| true).unwrap();
    for (q, result) in found(&store, Rule::Influence, DAMPING).iter().enumerate() {
        // What each mask of each record adds: the search's, and the query's own by the same kernel.
        let mut adds: Vec<Vec<f64>> = vec![Vec::new(); n];
        for near in &result.proponents {
            let row = near.index as usize;
            let mut parts: Vec<f64> = near.parts.iter().map(|part| f64::from(part.score)).collect();
            let sum: f64 = parts.iter().sum();
            assert!((sum - f64::from(near.score)).abs() <= 1e-5 * parts.iter().map(|p| p.abs()).sum::<f64>().max(1e-3));
            // The weightiest comes first; the order is the masks' own where the equation below tells them apart.
            if parts.len() == 2 && near.parts[0].target != *bundle_target(&store, row, 0) {
                parts.swap(0, 1);
            }
            adds[row] = parts;
        }
        let all = (0..n).flat_map(|row| gradients[row].iter().map(move |g| (row, g)));
        let products: Vec<f64> = all.map(|(_, g)| dot(g, &whole[q])).collect();
        let own = kernel.influence(&products);
        let start: usize = gradients[..q].iter().map(Vec::len).sum();
        adds[q] = own[start..start + gradients[q].len()].iter().map(|&x| f64::from(x)).collect();
        for i in 0..n {
            let through: f64 = (0..n)
                .flat_map(|row| gradients[row].iter().zip(&adds[row]))
                .map(|(g, add)| dot(g, &whole[i]) * add)
                .sum::<f64>()
                / factors;
            let score: f64 = adds[i].iter().sum();
            let (left, right) = (through + DAMPING * score, dot(&whole[i], &whole[q]));
            let size = dot(&whole[i], &whole[i]).sqrt() * dot(&whole[q], &whole[q]).sqrt();
            assert!((left - right).abs() <= 1e-5 * size, "{q}, {i}: {left} for {right}");
        }
    }
}

/// `A⁻¹ b` by Gauss-Jordan elimination.
fn solve(mut a: Vec<Vec<f64>>, mut b: Vec<f64>) -> Vec<f64> {
    let n = b.len();
    for i in 0..n {
        let pivot = (i..n).max_by(|&x, &y| a[x][i].abs().total_cmp(&a[y][i].abs())).unwrap();
        a.swap(i, pivot);
        b.swap(i, pivot);
        for row in (0..n).filter(|&row| row != i) {
            let factor = a[row][i] / a[i][i];
            let above = a[i].clone();
            a[row].iter_mut().zip(&above).for_each(|(x, y)| *x -= factor * y);
            b[row] -= factor * b[i];
        }
    }
    (0..n).map(|i| b[i] / a[i][i]).collect()
}

/// The system makes the rounding of a query's products larger, the more the less it is damped.
#[test]
fn scores_keep_their_digits_where_there_is_little_damping() {
    let at = tempfile::tempdir().unwrap();
    let store = drawn(&at.path().join("store"), 11);
    let bundles: Vec<_> = (0..store.rows()).map(|row| bundle(&store, row)).collect();
    let gradients: Vec<(usize, Vec<f64>)> = bundles
        .iter()
        .enumerate()
        .flat_map(|(row, all)| (0..all.len()).map(move |factor| (row, all.only(factor).gradient())))
        .collect();
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    let count = gradients.len() as f64;
    for damping in [1e-4, 1e-7] {
        let damped =
            |i: usize, j: usize| dot(&gradients[i].1, &gradients[j].1) + if i == j { count * damping } else { 0.0 };
        let matrix: Vec<Vec<f64>> =
            (0..gradients.len()).map(|i| (0..gradients.len()).map(|j| damped(i, j)).collect()).collect();
        for (q, result) in found(&store, Rule::Influence, damping).iter().enumerate() {
            let whole = bundles[q].gradient();
            let solved = solve(matrix.clone(), gradients.iter().map(|(_, g)| dot(g, &whole)).collect());
            let score = |row: usize| {
                let own = gradients.iter().zip(&solved).filter(|((of, _), _)| *of == row);
                count * own.map(|(_, x)| x).sum::<f64>()
            };
            let size = (0..store.rows()).filter(|&row| row != q).map(|row| score(row).abs()).fold(0.0, f64::max);
            for near in &result.proponents {
                let expected = score(near.index as usize);
                let error = (f64::from(near.score) - expected).abs();
                assert!(error <= 1e-5 * size, "{q}, {}, {damping}: {} for {expected}", near.index, near.score);
            }
        }
    }
    let all = FactorKernel::products(&store, &bundles, &|| true).unwrap();
    for (bundle, together) in bundles.iter().zip(all) {
        let alone = FactorKernel::products(&store, std::slice::from_ref(bundle), &|| true).unwrap();
        assert_eq!(alone, [together], "the others that ask change nothing");
    }
}

#[test]
fn a_class_that_the_model_has_not_is_refused_where_the_shard_is_opened() {
    let at = tempfile::tempdir().unwrap();
    let shard = at.path().join("store/shard-00000.safetensors");
    drop(drawn(&at.path().join("store"), 3));
    let mut bytes = std::fs::read(&shard).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let tensors: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let start = 8 + header + tensors["factor_classes"]["data_offsets"][0].as_u64().unwrap() as usize;
    bytes[start + 1] ^= 64;
    std::fs::remove_file(&shard).unwrap();
    std::fs::write(&shard, bytes).unwrap();
    let told = Store::open(at.path().join("store")).unwrap_err().to_string();
    assert!(told.contains("shard-00000.safetensors") && told.contains("factor 0"), "{told}");
}

fn bundle_target(store: &Store, row: usize, part: usize) -> String {
    store.record(row).unwrap().said.unwrap().parts[part].target.clone()
}

#[test]
fn relatif_is_over_the_record_s_own_and_what_is_too_large_is_refused() {
    let at = tempfile::tempdir().unwrap();
    let store = drawn(&at.path().join("store"), 9);
    let kernel = FactorKernel::fit(&store, DAMPING, &|| true).unwrap();
    let records = EachFactor::of(&store).by_record();
    let squares = kernel.self_influence(&records, &|| true).unwrap();
    let (influence, relatif) = (found(&store, Rule::Influence, DAMPING), found(&store, Rule::RelatIf, DAMPING));
    for (one, other) in influence.iter().zip(&relatif) {
        let score =
            |of: &SearchResult, index: u64| of.proponents.iter().find(|near| near.index == index).unwrap().score;
        for near in &one.proponents {
            let expected = near.score / squares[near.index as usize].sqrt();
            let found = score(other, near.index);
            assert!((found - expected).abs() <= 1e-5 * expected.abs().max(1e-4), "{found} for {expected}");
        }
    }
    let refused = |rule: Rule, hessian| {
        let rule_options = RuleOptions { hessian, ..RuleOptions::default() };
        let options = SearchOptions { rule, rule_options, of_itself: true, ..SearchOptions::default() };
        let mut found: Vec<SearchResult> = Vec::new();
        SelfSearch { store: &store, options: &options, devices: &[] }.run(true, &mut found).unwrap_err().to_string()
    };
    assert!(refused(Rule::Representer, None).contains("too large to be fitted again"));
    assert!(refused(Rule::Influence, Some(HessianForm::Kronecker)).contains("no other form"));
}
