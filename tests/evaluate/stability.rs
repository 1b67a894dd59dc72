//! Stability between seeds: a model agrees with itself, chance with nobody, and folders go on.

use serde_json::Value;

use crate::cli::{Bench, lines};

fn mean(rows: &[Value], rule: &str, field: &str) -> f64 {
    rows.iter().find(|row| row["rule"] == rule).and_then(|row| row[field]["mean"].as_f64()).unwrap()
}

#[test]
fn a_model_agrees_with_itself_and_chance_with_nobody() {
    let bench = Bench::new();
    bench.model("bert-cls2");
    bench.records("training.jsonl", 60);
    bench.records("queries.jsonl", 8);
    bench.ok("index --model bert-cls2 --data training.jsonl --store one --quiet");
    bench.ok("index --model bert-cls2 --data training.jsonl --store two --quiet");
    let rows = lines(&bench.ok("evaluate stability --store one --store two --data queries.jsonl --top-k 6 --quiet"));
    for rule in ["grad-cos", "influence", "bm25"] {
        assert_eq!(mean(&rows, rule, "overlap"), 1.0, "{rule}");
        assert!((mean(&rows, rule, "rank_correlation") - 1.0).abs() < 1e-9, "{rule}");
    }
    // Draws share k/N of their first k: a hypergeometric share of deviation √(k(N−k)²/(N²(N−1)))/k, a mean over eight
    // queries.
    let (k, n) = (6.0_f64, 60.0_f64);
    let deviation = (k * (n - k).powi(2) / (n * n * (n - 1.0))).sqrt() / k / 8.0_f64.sqrt();
    assert!((mean(&rows, "random", "overlap") - k / n).abs() < 3.0 * deviation, "{rows:?}");
    // A query that cannot be used ends it, or is left out and told once, whatever the number of rules and models.
    let queries = std::fs::read_to_string(bench.path("queries.jsonl")).unwrap();
    bench.write("odd.jsonl", format!("{{\"text\": 7}}\n{queries}"));
    let odd = "evaluate stability --store one --store two --data odd.jsonl --top-k 6 --rule grad-cos,bm25 --quiet";
    bench.fails(odd, "odd.jsonl:1: ");
    let skipped = bench.run(&format!("{odd} --skip-invalid --out rows.jsonl"));
    assert_eq!(skipped.code, Some(1), "{}", skipped.err);
    assert_eq!(std::fs::read_to_string(bench.path("rows.jsonl.rejected.jsonl")).unwrap().lines().count(), 1);
    let kept = lines(&std::fs::read_to_string(bench.path("rows.jsonl")).unwrap());
    assert!(kept.len() == 3 && kept.iter().all(|row| row["queries"] == 8), "{kept:?}");
    bench.records("other.jsonl", 30);
    bench.ok("index --model bert-cls2 --data other.jsonl --store three --quiet");
    bench.fails("evaluate stability --store one --store three --data queries.jsonl --quiet", "other records");
    bench.fails("evaluate stability --store one --data queries.jsonl --quiet", "at least two");
    bench.fails("evaluate stability --data queries.jsonl --quiet", "models to compare");
}

/// A representer is of one label's logit: of several there is none to name.
#[test]
fn models_of_several_labels_are_compared_by_the_rules_they_can_be_asked_by() {
    let bench = Bench::new();
    bench.model("bert-multilabel");
    let record = |i: usize| {
        let labels: Vec<usize> = (0..3).filter(|class| (i >> class) & 1 == 1).collect();
        serde_json::json!({"id": format!("r{i}"), "text": format!("the food was good {}", i % 7), "labels": labels})
            .to_string()
            + "\n"
    };
    bench.write("training.jsonl", (0..20).map(record).collect::<String>());
    bench.write("queries.jsonl", (0..8).map(record).collect::<String>());
    for store in ["one", "two"] {
        bench.ok(&format!("index --model bert-multilabel --data training.jsonl --store {store} --quiet"));
    }
    let command = "evaluate stability --store one --store two --data queries.jsonl --top-k 3 --quiet";
    let rows = lines(&bench.ok(command));
    let named = |rule: &str| rows.iter().any(|row| row["rule"] == rule);
    assert!(named("grad-dot") && named("influence") && !named("representer"), "{rows:?}");
    assert_eq!(mean(&rows, "influence", "overlap"), 1.0);
    bench.fails(&format!("{command} --rule representer"), "the target is not one class");
}

#[test]
fn models_are_trained_from_seeds_and_kept() {
    let bench = Bench::new();
    bench.model("bert-cls2");
    bench.records("training.jsonl", 30);
    bench.records("queries.jsonl", 4);
    let command = "evaluate stability --model bert-cls2 --training training.jsonl --data queries.jsonl --retrain full --epochs 1 \
                   --learning-rate 1e-3 --rule grad-cos,projected-cos --projection-dim 32 --top-k 3 --quiet";
    let out = bench.ok(&format!("{command} --keep folder"));
    let rows = lines(&out);
    assert_eq!((rows.len(), &rows[0]["models"], &rows[0]["queries"]), (3, &2.into(), &4.into()));
    assert!(rows.iter().all(|row| row["overlap"]["mean"].as_f64().unwrap() <= 1.0), "{rows:?}");
    let weights = bench.path("folder/seed-1/model/model.safetensors");
    let first = std::fs::metadata(&weights).unwrap().modified().unwrap();
    // As a run that died after its first training leaves it.
    std::fs::remove_dir_all(bench.path("folder/seed-1/last")).unwrap();
    assert_eq!(bench.ok(&format!("{command} --keep folder")), out);
    assert_eq!(std::fs::metadata(&weights).unwrap().modified().unwrap(), first, "it is not trained again");
    assert_eq!(bench.ok(command), out, "a folder changes nothing");
    bench.fails(&command.replace("--retrain full", "--retrain head"), "optimum");
}
