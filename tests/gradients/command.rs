//! `index --gradients projected` and the rules over it, as a script meets them.

use serde_json::Value;
use wherefore::factors::Floats;
use wherefore::store::Store;

use crate::cli::{Bench, lines};

const INDEX: &str =
    "index --model bert-cls2 --data data.jsonl --gradients projected --projection-dim 24 --block-records 16 --quiet";

fn bench() -> Bench {
    let bench = Bench::new();
    bench.model("bert-cls2");
    bench.model("bert-cls2-checkpoint");
    bench.records("data.jsonl", 40);
    bench.records("queries.jsonl", 3);
    bench
}

/// φ `[N, P]` and slopes `[N]` of a store, of its model or a checkpoint.
pub(super) fn gradients(store: &Store, checkpoint: Option<usize>) -> (Vec<Vec<f64>>, Vec<f64>) {
    let (mut phi, mut slopes) = (Vec::new(), Vec::new());
    for shard in store.shards() {
        let factors = checkpoint.map_or_else(|| shard.factors(), |c| shard.checkpoint(c));
        let Floats::F32(features) = factors.features else { panic!("f32 is the default") };
        phi.extend(
            features.chunks_exact(factors.width).map(|row| row.iter().map(|&x| f64::from(x)).collect::<Vec<_>>()),
        );
        slopes.extend(factors.deltas.iter().map(|&x| f64::from(x)));
    }
    (phi, slopes)
}

pub(super) fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
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

/// `(Σ w φφᵀ + damping · mean diagonal)⁻¹ q`; what is zero for every record stays so.
pub(super) fn preconditioned(phi: &[Vec<f64>], weight: impl Fn(usize) -> f64, damping: f64, q: &[f64]) -> Vec<f64> {
    let width = q.len();
    let mut gram = vec![vec![0.0; width]; width];
    for (i, row) in phi.iter().enumerate() {
        for a in 0..width {
            (0..width).for_each(|b| gram[a][b] += weight(i) * row[a] * row[b]);
        }
    }
    let mean = (0..width).map(|i| gram[i][i]).sum::<f64>() / width as f64;
    (0..width).for_each(|i| gram[i][i] += damping * mean);
    solve(gram, q.to_vec())
}

/// Scores of the store's own record 0 against each other record, by index, from full rankings.
pub(super) fn ranked(bench: &Bench, store: &str, rule: &str) -> Vec<(usize, f64)> {
    let out = bench.ok(&format!("search --store {store} --self --rule {rule} --top-k all --quiet"));
    let first: Value = serde_json::from_str(out.lines().next().unwrap()).unwrap();
    let pair = |hit: &Value| (hit["index"].as_u64().unwrap() as usize, hit["score"].as_f64().unwrap());
    first["proponents"].as_array().unwrap().iter().map(pair).collect()
}

pub(super) fn assert_scores(found: &[(usize, f64)], expected: impl Fn(usize) -> f64, what: &str) {
    let size = found.iter().map(|(i, _)| expected(*i).abs()).fold(0.0, f64::max);
    assert!(size > 0.0 && found.len() == 39, "{what}");
    for &(i, score) in found {
        assert!((score - expected(i)).abs() <= 2e-4 * size, "{what} record {i}: {score:e}, expected {:e}", expected(i));
    }
}

#[test]
fn rules_are_the_formulas_over_what_is_stored() {
    let bench = bench();
    bench.ok(&format!("{INDEX} --store store --checkpoint bert-cls2-checkpoint:0.5"));
    let store = Store::open(bench.path("store")).unwrap();
    assert_eq!((store.settings().width, store.settings().delta_width()), (24, 1));
    let (phi, slopes) = gradients(&store, None);
    let (phi_c, slopes_c) = gradients(&store, Some(0));
    let product = |i: usize| slopes[0] * slopes[i] * dot(&phi[0], &phi[i]);
    assert_scores(&ranked(&bench, "store", "projected-dot"), product, "projected-dot");
    let cosine = |i: usize| dot(&phi[0], &phi[i]) / (dot(&phi[0], &phi[0]) * dot(&phi[i], &phi[i])).sqrt();
    assert_scores(&ranked(&bench, "store", "projected-cos"), cosine, "projected-cos");
    let tracin = |i: usize| 0.5 * slopes_c[0] * slopes_c[i] * dot(&phi_c[0], &phi_c[i]);
    assert_scores(&ranked(&bench, "store", "tracin"), tracin, "tracin");
    let q = preconditioned(&phi, |_| 1.0, 0.1, &phi[0]);
    let q_c = preconditioned(&phi_c, |_| 1.0, 0.1, &phi_c[0]);
    let trak = |i: usize| -0.5 * (slopes[i] + slopes_c[i]) * 0.5 * (dot(&q, &phi[i]) + dot(&q_c, &phi_c[i]));
    assert_scores(&ranked(&bench, "store", "trak --lambda 0.1"), trak, "trak");
    let curvature = |i: usize| -slopes[i] * (1.0 + slopes[i]) / 40.0;
    let v = preconditioned(&phi, curvature, 0.1, &phi[0]);
    let influence = |i: usize| slopes[0] * slopes[i] * dot(&v, &phi[i]);
    assert_scores(&ranked(&bench, "store", "influence --hessian exact --lambda 0.1"), influence, "influence");
}

#[test]
fn stores_are_the_same_bytes_whatever_the_run() {
    let bench = bench();
    bench.ok(&format!("{INDEX} --store whole"));
    bench.ok(&format!("{INDEX} --store small --batch-tokens 8 --threads 1"));
    assert_eq!(shards(&bench, "whole"), shards(&bench, "small"));
    bench.ok(&format!("{INDEX} --store part0 --shard 0/2"));
    bench.ok(&format!("{INDEX} --store part1 --shard 1/2"));
    bench.ok("merge --store merged part0 part1");
    assert_eq!(bench.contents("whole"), bench.contents("merged"));
    bench.ok(&format!("{INDEX} --store other --seed 1"));
    assert_ne!(shards(&bench, "whole"), shards(&bench, "other"));
}

/// A store's files, but for what says where they are.
pub(super) fn shards(bench: &Bench, name: &str) -> Vec<(String, Vec<u8>)> {
    bench.contents(name).into_iter().filter(|(name, _)| name.starts_with("shard")).collect()
}

#[test]
fn numbers_of_each_layer_are_what_is_asked_for() {
    let bench = bench();
    let index = "index --model bert-cls2 --data data.jsonl --gradients projected --quiet";
    bench.ok(&format!("{index} --layer-dim 9 --store each"));
    let store = Store::open(bench.path("each")).unwrap();
    let settings = store.settings();
    // Of two classes, four columns.
    let (last, others) = settings.gradient_layers.split_last().unwrap();
    assert!(last.len() == 8 && others.iter().all(|layer| layer.len() == 9), "{:?}", settings.gradient_layers);
    assert_eq!(settings.width, 9 * others.len() + 8);
    let (phi, slopes) = gradients(&store, None);
    let found = ranked(&bench, "each", "projected-dot");
    assert_scores(&found, |i| slopes[0] * slopes[i] * dot(&phi[0], &phi[i]), "projected-dot");
    ranked(&bench, "each", "influence");
    bench.fails(&format!("{index} --layer-dim 0 --store none"), "--layer-dim: expected 1 to 1048576");
    bench.fails(&format!("{index} --layer-dim 9 --projection-dim 9 --store none"), "cannot be used with");
}

#[test]
fn queries_ask_with_their_own_gradients() {
    let bench = bench();
    bench.ok(&format!("{INDEX} --store store"));
    // The first three records are the queries: by the label they were indexed for, each is its own nearest.
    let rows = lines(&bench.ok("search --store store --data queries.jsonl --target gold --top-k 1 --quiet"));
    for (number, row) in rows.iter().enumerate() {
        assert_eq!(row["rule"], "projected-cos");
        let nearest = &row["proponents"][0];
        assert!((nearest["score"].as_f64().unwrap() - 1.0).abs() < 1e-5, "query {number}: {row}");
    }
    for rule in ["projected-dot", "trak", "influence", "bm25", "loss"] {
        let rows = lines(&bench.ok(&format!("search --store store --data queries.jsonl --rule {rule} --quiet")));
        assert_eq!((rows.len(), rows[0]["proponents"].as_array().unwrap().len()), (3, 10), "{rule}");
    }
}

#[test]
fn rules_of_the_other_kind_of_store_are_refused() {
    let bench = bench();
    bench.ok(&format!("{INDEX} --store store"));
    bench.ok("index --model bert-cls2 --data data.jsonl --store last --quiet");
    bench.fails("search --store store --data queries.jsonl --rule grad-dot", "gradients of the whole model");
    bench.fails("search --store last --data queries.jsonl --rule trak", "last layer alone");
    bench.fails("audit dirty --store store", "gradients of the whole model");
    bench.fails(&format!("{INDEX} --store none --projection-dim 3"), "at least a dimension for each of the");
    bench.model("headless-cls");
    bench.fails(
        "index --model headless-cls --data data.jsonl --gradients projected --store none --quiet",
        "a model without a head",
    );
}
