//! The curvature of the whole network: against the formulas in float64 (`tests/golden/curvature.py`), and what a script
//! meets.

use serde_json::{Value, json};
use wherefore::store::Fisher;

use crate::cli::{Bench, lines};

const INDEX: &str = "index --data data.jsonl --gradients projected --block-records 8 --quiet";

/// A folder with the golden's model, records and queries, and the golden.
pub(super) fn bench(name: &str) -> (Bench, Value) {
    let bench = Bench::new();
    bench.model(name);
    let text = std::fs::read_to_string(crate::cli::golden(name).join("curvature.json")).unwrap();
    let golden: Value = serde_json::from_str(&text).unwrap();
    for (file, key) in [("data.jsonl", "records"), ("queries.jsonl", "queries")] {
        let line = |(i, record): (usize, &Value)| {
            let mut record = record.clone();
            record["id"] = json!(format!("{key}{i}"));
            if record["pair"].is_null() {
                record.as_object_mut().unwrap().remove("pair");
            } else {
                record["text_pair"] = record["pair"].take();
            }
            record.to_string() + "\n"
        };
        bench.write(file, golden[key].as_array().unwrap().iter().enumerate().map(line).collect::<String>());
    }
    (bench, golden)
}

/// Scores `[Q, N]` of every record for each query.
pub(super) fn scores(bench: &Bench, arguments: &str) -> Vec<Vec<f64>> {
    let out =
        bench.ok(&format!("search --data queries.jsonl --target gold --top-k all --format jsonl --quiet {arguments}"));
    let of_query = |row: &Value| {
        let hits = row["proponents"].as_array().unwrap();
        let mut scores = vec![f64::NAN; hits.len()];
        for hit in hits {
            scores[hit["index"].as_u64().unwrap() as usize] = hit["score"].as_f64().unwrap();
        }
        scores
    };
    lines(&out).iter().map(of_query).collect()
}

pub(super) fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn assert_near(found: &[f64], expected: &[f64], tolerance: f64, what: &str) {
    let size = expected.iter().fold(0.0_f64, |size, x| size.max(x.abs()));
    assert!(size > 0.0 && found.len() == expected.len(), "{what}");
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((found - expected).abs() <= tolerance * size, "{what} record {i}: {found:e}, expected {expected:e}");
    }
}

/// What f32 gradients may be off by, divided by eigenvalues down to a tenth of their mean.
const TOLERANCE: f64 = 2e-5;

#[test]
fn influence_is_that_of_the_formulas_in_float64() {
    for (name, kinds) in [("bert-cls2", ["data", "model"].as_slice()), ("electra-cls3", &["data"])] {
        let (bench, golden) = bench(name);
        bench.ok(&format!("{INDEX} --model {name} --store store --projection identity"));
        for kind in kinds {
            for form in ["kfac", "ekfac"] {
                let what = format!("{name} {form}-{kind}");
                bench.ok(&format!(
                    "curvature --store store --form {form} --fisher {kind} --self-influence --curvature {form}-{kind} --quiet"
                ));
                let expected: Vec<Vec<f64>> =
                    golden["scores"][format!("{form}-{kind}")].as_array().unwrap().iter().map(numbers).collect();
                let own = numbers(&golden["self_influence"][format!("{form}-{kind}")]);
                let fitted = Fisher::read(&bench.path(&format!("{form}-{kind}"))).unwrap();
                let found: Vec<f64> = fitted.self_influence.unwrap().values.iter().map(|&x| f64::from(x)).collect();
                assert_near(&found, &own, TOLERANCE, &format!("{what} self-influence"));
                let search = format!("--store store --hessian {form} --curvature {form}-{kind}");
                let influence = scores(&bench, &format!("{search} --rule influence"));
                let relatif = scores(&bench, &format!("{search} --rule relatif"));
                for (query, expected) in expected.iter().enumerate() {
                    assert_near(&influence[query], expected, TOLERANCE, &format!("{what} query {query}"));
                    let over: Vec<f64> = expected.iter().zip(&own).map(|(score, own)| score / own.sqrt()).collect();
                    assert_near(&relatif[query], &over, TOLERANCE, &format!("{what} relatif {query}"));
                }
            }
        }
    }
}

#[test]
fn projected_influence_is_unbiased() {
    const SEEDS: usize = 24;
    let (bench, golden) = bench("bert-cls2");
    bench.ok(&format!("{INDEX} --model bert-cls2 --store exact --projection identity"));
    bench.ok("curvature --store exact --fisher data --quiet");
    let mut found = Vec::new();
    for seed in 0..SEEDS {
        bench.ok(&format!("{INDEX} --model bert-cls2 --store s{seed} --projection-dim 800 --seed {seed}"));
        found.push(scores(&bench, &format!("--store s{seed} --rule influence --hessian ekfac --curvature exact")));
    }
    for (query, expected) in golden["scores"]["ekfac-data"].as_array().unwrap().iter().enumerate() {
        for (record, expected) in numbers(expected).into_iter().enumerate() {
            let values: Vec<f64> = found.iter().map(|scores| scores[query][record]).collect();
            let mean = values.iter().sum::<f64>() / SEEDS as f64;
            let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (SEEDS - 1) as f64;
            // Of 48 means, one in 400 lies beyond five standard errors of so few draws by chance.
            let allowed = 5.0 * (variance / SEEDS as f64).sqrt();
            assert!((mean - expected).abs() <= allowed, "{query} {record}: {mean:e}, expected {expected:e}");
        }
    }
}

/// Who is removed is not known by a curvature any more, and one of other records is told.
#[test]
fn a_curvature_goes_with_a_record_it_was_fitted_to() {
    let bench = Bench::new();
    bench.model("bert-cls2");
    bench.records("data.jsonl", 12);
    bench.ok(&format!("{INDEX} --model bert-cls2 --store store --projection-dim 64"));
    let search = "search --store store --rule influence --hessian ekfac --data data.jsonl -k 1";
    bench.ok("curvature --store store --quiet");
    assert!(!bench.run(search).err.contains("fitted to other records"));
    let more = (0..3).map(|i| format!("{{\"id\": \"new{i}\", \"text\": \"good\", \"label\": 1}}\n"));
    bench.write("more.jsonl", more.collect::<String>());
    bench.ok("index --append --store store --data more.jsonl --quiet");
    let told = bench.run(search);
    assert!(told.code == Some(0) && told.err.contains("the curvature was fitted to other records"), "{}", told.err);
    bench.ok("curvature --store store --curvature apart --quiet");
    let apart = format!("{search} --curvature apart");
    assert!(!bench.run(&apart).err.contains("fitted to other records"));
    let removed = bench.ok("store remove store --indexes 3 --format text");
    assert!(removed.contains("the curvature that was fitted to them, too, is gone"), "{removed}");
    bench.fails(search, "the curvature of the whole network has not been fitted");
    assert!(bench.run(&apart).err.contains("the curvature was fitted to other records"), "one that lies elsewhere");
    bench.ok("curvature --store store --quiet");
    bench.run("store remove store --indexes 999");
    assert!(!bench.run(search).err.contains("fitted to other records"), "nothing was removed");
}

#[test]
fn the_fit_is_the_same_bytes_whatever_the_run() {
    let bench = Bench::new();
    bench.model("albert-groups-cls3");
    bench.records("data.jsonl", 300);
    bench.ok(&format!("{INDEX} --model albert-groups-cls3 --store store --projection-dim 64"));
    bench.ok("curvature --store store --curvature one --self-influence --quiet");
    bench.ok("curvature --store store --curvature two --self-influence --batch-tokens 8 --threads 1 --quiet");
    assert_eq!(bench.contents("one"), bench.contents("two"));
    bench.ok("curvature --store store --curvature three --self-influence --seed 1 --quiet");
    assert_ne!(bench.contents("one"), bench.contents("three"), "labels are drawn by the seed");
    bench.ok("curvature --store store --curvature some --records 7 --quiet");
    assert_eq!(Fisher::read(&bench.path("some")).unwrap().settings.records, 7);
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let (bench, _) = bench("bert-cls2");
    bench.ok(&format!("{INDEX} --model bert-cls2 --store store --projection-dim 64"));
    let search = "search --store store --data queries.jsonl --quiet --rule";
    bench.fails(&format!("{search} influence --hessian ekfac"), "has not been fitted");
    bench.ok("curvature --store store --form kfac --quiet");
    bench.ok(&format!("{search} influence --hessian kfac"));
    bench.fails(&format!("{search} influence --hessian ekfac"), "fitted by K-FAC alone");
    bench.fails(&format!("{search} relatif --hessian kfac"), "without records' self-influence");
    bench.fails(&format!("{search} influence --hessian kfac --lambda 0"), "expected a number above 0");
    bench.ok("curvature --store store --self-influence --lambda 0.5 --quiet");
    bench.ok(&format!("{search} relatif --hessian ekfac --lambda 0.5"));
    bench.fails(&format!("{search} relatif --hessian ekfac"), "λ = 0.5");
    bench.fails("search --store store --self --rule influence --hessian ekfac", "before they are projected");
    bench.ok("index --model bert-cls2 --data data.jsonl --store last --quiet");
    bench.fails(
        "search --store last --data queries.jsonl --rule influence --hessian ekfac",
        "are of gradients of the whole model",
    );
    bench.model("bert-cls2-checkpoint");
    bench.fails("curvature --store store --model bert-cls2-checkpoint --curvature place", "another model");
    assert!(!bench.path("place").exists());
    bench.ok(&format!("{INDEX} --model bert-cls2-checkpoint --store other --projection-dim 64"));
    bench.fails(
        "search --store other --data queries.jsonl --rule influence --hessian ekfac --curvature store",
        "fitted to another model",
    );
    let mut bytes = std::fs::read(bench.path("store/curvature.safetensors")).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    bench.write("store/curvature.safetensors", bytes);
    bench.fails(&format!("{search} influence --hessian ekfac"), "checksum");
}
