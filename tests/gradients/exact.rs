//! `search --exact`: scores of whole gradients, token by token, against the gradients that a store without a projection
//! holds.

use serde_json::Value;

use crate::cli::{Bench, lines};

/// Split heads, shared layers with projected embeddings, and a wide head without a pooler.
const FAMILIES: [&str; 3] = ["bert-cls2", "albert-groups-cls3", "electra-cls3"];

fn bench(name: &str) -> Bench {
    let bench = Bench::new();
    bench.model(name);
    bench.records("data.jsonl", 20);
    bench.records("queries.jsonl", 3);
    bench.ok(&format!(
        "index --model {name} --data data.jsonl --gradients projected --projection identity --store whole --quiet"
    ));
    bench.ok(&format!(
        "index --model {name} --data data.jsonl --gradients projected --projection-dim 40 --store short --quiet"
    ));
    bench
}

fn search(bench: &Bench, arguments: &str) -> Vec<Value> {
    lines(&bench.ok(&format!("search --data queries.jsonl --target gold --format jsonl --quiet {arguments}")))
}

/// `(index, score)` of one end.
fn end(row: &Value, end: &str) -> Vec<(u64, f64)> {
    let hits = row[end].as_array().unwrap();
    hits.iter().map(|hit| (hit["index"].as_u64().unwrap(), hit["score"].as_f64().unwrap())).collect()
}

fn assert_same_ranking(found: &Value, expected: &Value, what: &str) {
    for side in ["proponents", "opponents"] {
        let (found, expected) = (end(found, side), end(expected, side));
        let size = expected.iter().fold(0.0_f64, |size, (_, score)| size.max(score.abs()));
        assert_eq!(found.len(), expected.len(), "{what} {side}");
        for ((_, found), (_, expected)) in found.iter().zip(&expected) {
            assert!((found - expected).abs() <= 2e-4 * size, "{what} {side}: {found:e}, expected {expected:e}");
        }
    }
}

#[test]
fn scores_are_those_of_whole_gradients() {
    for name in FAMILIES {
        let bench = bench(name);
        for rule in ["projected-dot", "projected-cos"] {
            let expected = search(&bench, &format!("--store whole --rule {rule} --top-k 5"));
            // All records are scored again, so what a projection made of them is forgotten.
            let found =
                search(&bench, &format!("--store short --rule {rule} --top-k 5 --exact 20 --layers --token-pairs"));
            for (found, expected) in found.iter().zip(&expected) {
                assert_same_ranking(found, expected, &format!("{name} {rule}"));
                found["proponents"].as_array().unwrap().iter().for_each(assert_detail);
            }
        }
        bench.ok("curvature --store whole --self-influence --quiet");
        for rule in ["influence", "relatif"] {
            let rule = format!("--rule {rule} --hessian ekfac --curvature whole --top-k 5");
            let expected = search(&bench, &format!("--store whole {rule}"));
            let found = search(&bench, &format!("--store short {rule} --exact 20 --layers"));
            found.iter().zip(&expected).for_each(|(f, e)| assert_same_ranking(f, e, &format!("{name} {rule}")));
        }
    }
}

/// What a score is made of adds up to it.
fn assert_detail(hit: &Value) {
    let (score, detail) = (hit["score"].as_f64().unwrap(), &hit["detail"]);
    let layers: Vec<f64> =
        detail["layers"].as_array().unwrap().iter().map(|layer| layer[1].as_f64().unwrap()).collect();
    let pairs = &detail["token_pairs"];
    let rows: Vec<Vec<f64>> = serde_json::from_value(pairs["scores"].clone()).unwrap();
    let (asked, own) = (pairs["query"].as_array().unwrap().len(), pairs["record"].as_array().unwrap().len());
    assert!(rows.len() == asked && rows.iter().all(|row| row.len() == own), "a row for each token of the query");
    for parts in [layers, rows.concat()] {
        let size: f64 = parts.iter().map(|x| x.abs()).sum();
        assert!((parts.iter().sum::<f64>() - score).abs() <= 1e-5 * size, "{parts:?} are not {score}");
    }
}

#[test]
fn only_what_was_asked_for_is_told_and_what_cannot_be_is_refused() {
    let bench = bench("bert-cls2");
    let plain = &search(&bench, "--store short --exact 3 --top-k 2")[0];
    assert!(plain["proponents"][0].get("detail").is_none());
    let layers = &search(&bench, "--store short --exact 3 --top-k 1 --layers")[0]["proponents"][0]["detail"]["layers"];
    let is_of_three = |layer: &Value| layer[0].as_str().unwrap().ends_with("attention.self.query+key+value");
    assert!(layers.as_array().unwrap().iter().any(is_of_three), "{layers}");
    assert_eq!((end(plain, "proponents").len(), plain["proponents"][1]["rank"].as_u64()), (2, Some(2)));
    assert_eq!(end(&search(&bench, "--store short --exact 1000 --top-k 50")[0], "opponents").len(), 20);
    let command = "search --store short --data queries.jsonl --quiet";
    bench.fails(&format!("{command} --rule trak --exact 5"), "not of two records' gradients alone");
    bench.fails(&format!("{command} --exact 5 --top-k all"), "full rankings");
    bench.ok("index --model bert-cls2 --data data.jsonl --store last --quiet");
    bench.fails("search --store last --data queries.jsonl --exact 5 --quiet", "not of two records' gradients alone");
}
