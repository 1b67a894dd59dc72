//! The linear datamodelling score: what subsets teach is what `train` teaches, interruptions change nothing, and every rule has its row.

use wherefore::backend::cpu::Cpu;
use wherefore::dataset::{Dataset, DatasetOptions};
use wherefore::evaluate::{Contender, LdsOptions, Retraining, Trainings, spearman};
use wherefore::model::{LoadOptions, Model};
use wherefore::pipeline::{Rejections, Settings};
use wherefore::search::Rule;
use wherefore::store::Store;

use crate::cli::{Bench, lines};

fn bench() -> Bench {
    let bench = Bench::new();
    bench.model("bert-cls2");
    bench.records("training.jsonl", 30);
    bench.records("queries.jsonl", 4);
    bench.ok("index --model bert-cls2 --data training.jsonl --store last --quiet");
    bench
}

fn open(bench: &Bench, name: &str) -> Dataset {
    let files = vec![bench.path(name).to_str().unwrap().to_owned()];
    Dataset::open(DatasetOptions { files, ..DatasetOptions::default() }).unwrap()
}

fn options() -> LdsOptions {
    LdsOptions { subsets: 5, fraction: 0.5, retraining: Retraining::Head(1e-2), keep: None, seed: 3 }
}

#[test]
fn a_subsets_margins_are_those_of_a_head_trained_on_it() {
    let bench = bench();
    let model = Model::open_with(Cpu::new(), &bench.path("bert-cls2"), &LoadOptions::default()).unwrap();
    let store = Store::open(bench.path("last")).unwrap();
    let mut none = Rejections::new(false, None);
    let queries = open(&bench, "queries.jsonl");
    let trainings = Trainings::read(&model, &store, open(&bench, "training.jsonl"), queries, &mut none).unwrap();
    let settings = Settings { quiet: true, ..Settings::default() };
    let outcomes = trainings.run(&options(), &settings).unwrap();
    assert_eq!((outcomes.members.len(), outcomes.margins.len()), (5, 5));
    assert!(outcomes.members.iter().all(|of| of.iter().filter(|&&member| member).count() == 15));
    assert_ne!(outcomes.members[0], outcomes.members[1]);

    let text = std::fs::read_to_string(bench.path("training.jsonl")).unwrap();
    let of_subset = text.lines().zip(&outcomes.members[2]).filter(|(_, member)| **member);
    bench.write("subset.jsonl", of_subset.map(|(line, _)| line.to_owned() + "\n").collect::<String>());
    bench.ok("train --model bert-cls2 --data subset.jsonl --head-only --penalty 0.01 --out head --quiet");
    for (number, answer) in lines(&bench.ok("predict --model head --data queries.jsonl --quiet")).iter().enumerate() {
        let z: Vec<f64> = answer["logits"].as_array().unwrap().iter().map(|z| z.as_f64().unwrap()).collect();
        // The queries' labels are their numbers, modulo two.
        let expected = z[number % 2] - z[1 - number % 2];
        let found = outcomes.margins[2][number];
        assert!((found - expected).abs() < 1e-4, "query {number}: {found} {expected}");
    }

    // The score itself, from a rule's own scores.
    let row = trainings
        .judge(
            &Contender { rule: Rule::Influence, store: &store, checkpoints: &[] },
            open(&bench, "queries.jsonl"),
            &outcomes,
            &options(),
            &settings,
        )
        .unwrap();
    let search = "search --store last --data queries.jsonl --rule influence --target gold --top-k 30 --quiet";
    let mut sum = 0.0;
    for (query, result) in lines(&bench.ok(search)).iter().enumerate() {
        let hits = result["proponents"].as_array().unwrap();
        let of_subset = |members: &Vec<bool>| -> f64 {
            let member = |hit: &&serde_json::Value| members[hit["index"].as_u64().unwrap() as usize];
            hits.iter().filter(member).map(|hit| hit["score"].as_f64().unwrap()).sum()
        };
        let sums: Vec<f64> = outcomes.members.iter().map(of_subset).collect();
        let margins: Vec<f64> = outcomes.margins.iter().map(|margins| margins[query]).collect();
        sum += spearman(&sums, &margins).unwrap_or(0.0);
    }
    assert!((row.lds.unwrap().mean - sum / 4.0).abs() < 1e-9, "{row:?} {}", sum / 4.0);
}

#[test]
fn every_rule_has_a_row_and_an_interrupted_run_goes_on_to_the_same_numbers() {
    let bench = bench();
    bench.ok(
        "index --model bert-cls2 --data training.jsonl --store whole --gradients projected --projection-dim 64 --quiet",
    );
    let command =
        "evaluate lds --store last --store whole --data queries.jsonl --training training.jsonl --subsets 6 --quiet";
    let rows = lines(&bench.ok(&format!("{command} --keep kept.jsonl")));
    let names: Vec<&str> = rows.iter().map(|row| row["rule"].as_str().unwrap()).collect();
    for rule in ["feature-cos", "grad-cos", "influence", "projected-cos", "trak", "bm25", "loss", "random"] {
        assert!(names.contains(&rule), "{rule} is not among {names:?}");
    }
    assert!(!names.contains(&"tracin"), "there are no checkpoints");
    for row in &rows {
        assert_eq!((&row["queries"], &row["subsets"]), (&4.into(), &6.into()));
        assert!(row["lds"]["mean"].as_f64().unwrap().abs() <= 1.0, "{row}");
    }
    let whole = std::fs::read(bench.path("kept.jsonl")).unwrap();
    for cut in [whole.len() - 5, whole.len() / 2, 10, 0] {
        bench.write("kept.jsonl", &whole[..cut]);
        bench.ok(&format!("{command} --keep kept.jsonl --rule loss"));
        assert_eq!(std::fs::read(bench.path("kept.jsonl")).unwrap(), whole, "cut at byte {cut}");
    }
    bench.fails(&format!("{command} --keep kept.jsonl --seed 1"), "another model, data or options");
    bench.fails(&format!("{command} --fraction 1.5"), "--fraction");
    bench.fails(&format!("{command} --rule tracin"), "checkpoint");
}

#[test]
fn whole_models_are_retrained_too() {
    let bench = bench();
    let command = "evaluate lds --store last --data queries.jsonl --training training.jsonl --subsets 3 --retrain full \
                   --start bert-cls2 --epochs 1 --learning-rate 1e-3 --rule grad-dot,loss --quiet";
    let first = bench.ok(command);
    let mean = |out: &str| -> Vec<String> { lines(out).iter().map(|row| row["lds"].to_string()).collect() };
    assert_eq!(lines(&first).len(), 3);
    assert_eq!(mean(&first), mean(&bench.ok(&format!("{command} --threads 1"))));
}
