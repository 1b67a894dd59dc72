//! The linear datamodelling score: what subsets teach is what `train` teaches, interruptions change nothing, and every
//! rule has its row.

use wherefore::backend::cpu::Cpu;
use wherefore::dataset::{Dataset, DatasetOptions};
use wherefore::evaluate::{Contender, LdsOptions, Retraining, RetrainingPlan, RuleOver, Trainings, spearman};
use wherefore::model::{LoadOptions, Model};
use wherefore::pipeline::{Rejections, RuleOptions, Settings};
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

#[test]
fn a_subsets_margins_are_those_of_a_head_trained_on_it() {
    let bench = bench();
    let model = Model::open_with(Cpu::new(), &bench.path("bert-cls2"), &LoadOptions::default()).unwrap();
    let store = Store::open(bench.path("last")).unwrap();
    let mut none = Rejections::new(false, None);
    let queries = open(&bench, "queries.jsonl");
    let trainings = Trainings::read(&model, &store, open(&bench, "training.jsonl"), queries, &mut none).unwrap();
    let settings = Settings { quiet: true, ..Settings::default() };
    let plan = RetrainingPlan { retraining: Retraining::Head(1e-2), keep: None, at_once: 1 };
    let options = LdsOptions { subsets: 5, fractions: vec![0.5], seeds: 1, seed: 3 };
    let subsets: Vec<_> = (0..5).map(|j| trainings.draw(0.5, j, 3)).collect();
    let members: Vec<Vec<bool>> = subsets.iter().map(|subset| subset.members(30)).collect();
    let margins = trainings.margins(&subsets, &plan, &settings).unwrap();
    assert!(members.iter().all(|of| of.iter().filter(|&&member| member).count() == 15));
    assert_ne!(members[0], members[1]);

    let text = std::fs::read_to_string(bench.path("training.jsonl")).unwrap();
    let of_subset = text.lines().zip(&members[2]).filter(|(_, member)| **member);
    bench.write("subset.jsonl", of_subset.map(|(line, _)| line.to_owned() + "\n").collect::<String>());
    bench.ok("train --model bert-cls2 --data subset.jsonl --head-only --penalty 0.01 --out head --quiet");
    for (number, answer) in lines(&bench.ok("predict --model head --data queries.jsonl --quiet")).iter().enumerate() {
        let z: Vec<f64> = answer["logits"].as_array().unwrap().iter().map(|z| z.as_f64().unwrap()).collect();
        // The queries' labels are their numbers, modulo two.
        let expected = z[number % 2] - z[1 - number % 2];
        let found = margins[2][number];
        assert!((found - expected).abs() < 1e-4, "query {number}: {found} {expected}");
    }

    // The score itself, from a rule's own scores.
    let rule = RuleOptions::default();
    let over =
        RuleOver { rule: Rule::Influence, store: &store, checkpoints: &[], name: None, bytes: 0, options: &rule };
    let queries = || Ok(open(&bench, "queries.jsonl"));
    let rows = trainings.lds(&[Contender::Rule(over)], &queries, &options, &plan, &settings).unwrap();
    assert_eq!(rows.len(), 2, "the rule, and chance");
    let search = "search --store last --data queries.jsonl --rule influence --target gold --top-k 30 --quiet";
    let mut sum = 0.0;
    for (query, result) in lines(&bench.ok(search)).iter().enumerate() {
        let hits = result["proponents"].as_array().unwrap();
        let of_subset = |members: &Vec<bool>| -> f64 {
            let member = |hit: &&serde_json::Value| members[hit["index"].as_u64().unwrap() as usize];
            hits.iter().filter(member).map(|hit| hit["score"].as_f64().unwrap()).sum()
        };
        let sums: Vec<f64> = members.iter().map(of_subset).collect();
        let margins: Vec<f64> = margins.iter().map(|margins| margins[query]).collect();
        sum += spearman(&sums, &margins).unwrap_or(0.0);
    }
    let found = rows[0].lds.unwrap().mean;
    assert!((found - sum / 4.0).abs() < 1e-9, "{found} {}", sum / 4.0);
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
    // Another seed's subsets stand beside these; another penalty's margins do not.
    bench.ok(&format!("{command} --keep kept.jsonl --rule loss --seed 1"));
    let both = std::fs::read(bench.path("kept.jsonl")).unwrap();
    assert!(both.starts_with(&whole) && both.len() > whole.len());
    bench.fails(&format!("{command} --keep kept.jsonl --penalty 0.5"), "another model, data or options");
    bench.write("kept.jsonl", "not a line of ours\n");
    bench.fails(&format!("{command} --keep kept.jsonl"), "nothing that an evaluation kept");
    bench.fails(&format!("{command} --fraction 1.5"), "--fraction");
    for fraction in ["0.001", "0.999"] {
        let found =
            format!("--fraction: expected one of the 30 records at least, and not all, found {fraction} of them");
        bench.fails(&format!("{command} --fraction 0.5,{fraction}"), &found);
    }
    bench.fails(&format!("{command} --rule tracin"), "checkpoint");
}

#[test]
fn rules_are_compared_query_by_query_for_every_share_and_store() {
    let bench = bench();
    bench.ok("index --model bert-cls2 --data training.jsonl --store other --quiet");
    let command = "evaluate lds --store last --store other --data queries.jsonl --training training.jsonl --subsets 8 \
                   --fraction 0.3,0.7 --rule grad-dot,influence,loss --quiet";
    let rows = lines(&bench.ok(command));
    // Two rules of two stores, one that reads no factors, and chance; each for both shares.
    assert_eq!(rows.len(), 2 * 6, "{rows:?}");
    let number = |row: &serde_json::Value, field: &str, end: &str| row[field][end].as_f64().unwrap();
    for of_share in rows.chunks(6) {
        assert_eq!(of_share[0]["store"], "last");
        assert_eq!(of_share[0]["lds"], of_share[1]["lds"], "the same factors twice");
        let best = of_share[..5].iter().map(|row| number(row, "lds", "mean")).fold(f64::NEG_INFINITY, f64::max);
        for row in &of_share[..5] {
            let behind = number(row, "behind_best", "mean");
            assert!((behind - (best - number(row, "lds", "mean"))).abs() < 1e-12, "{row}");
            assert!(row["bytes_per_record"].as_f64().unwrap() > 100.0, "{row}");
        }
        assert_eq!(of_share[5]["rule"], "random");
        assert!(of_share[5]["behind_best"].is_null());
    }
    bench.fails(&format!("{command} --seeds 2"), "--seeds");
}

#[test]
fn scores_from_elsewhere_are_judged_as_a_rules_own() {
    let bench = bench();
    let search = "search --store last --data queries.jsonl --rule grad-dot --target gold --top-k 30 --quiet";
    let mut rows = Vec::new();
    for result in lines(&bench.ok(search)) {
        let mut scores = vec![0.0; 30];
        for hit in result["proponents"].as_array().unwrap() {
            scores[hit["index"].as_u64().unwrap() as usize] = hit["score"].as_f64().unwrap();
        }
        rows.push(scores);
    }
    let text = |rows: &[Vec<f64>]| -> String {
        rows.iter().map(|scores| serde_json::json!({ "scores": scores }).to_string() + "\n").collect()
    };
    bench.write("theirs.jsonl", text(&rows));
    let numbers: Vec<u8> = rows.iter().flatten().flat_map(|&score| (score as f32).to_le_bytes()).collect();
    let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (4, 30), }\n";
    let npy = [b"\x93NUMPY\x01\x00".as_slice(), &(header.len() as u16).to_le_bytes(), header.as_bytes(), &numbers];
    bench.write("theirs.npy", npy.concat());
    let command = "evaluate lds --store last --data queries.jsonl --training training.jsonl --subsets 8 --quiet";
    let given = format!("{command} --rule grad-dot --scores lines=theirs.jsonl --scores array=theirs.npy");
    let judged = lines(&bench.ok(&given));
    let names: Vec<&str> = judged.iter().map(|row| row["rule"].as_str().unwrap()).collect();
    assert_eq!(names, ["grad-dot", "lines", "array", "random"]);
    for row in &judged[1..3] {
        assert_eq!(row["lds"], judged[0]["lds"]);
        assert!(row.get("seconds").is_none() && row["behind_best"]["mean"] == 0.0, "{row}");
    }
    // The other yardsticks of rules take them too.
    let removal = "evaluate removal --store last --data queries.jsonl --training training.jsonl --remove 10% --quiet";
    let removed = lines(&bench.ok(&format!("{removal} --rule grad-dot --scores array=theirs.npy")));
    assert_eq!(removed[0]["curve"], removed[1]["curve"]);

    let refused = |scores: &str, says: &str| bench.fails(&format!("{command} --rule loss --scores {scores}"), says);
    bench.write("few.jsonl", text(&rows[..3]));
    refused("theirs=few.jsonl", "expected 4 queries, found 3");
    bench.write("short.jsonl", text(&rows.iter().map(|row| row[..29].to_vec()).collect::<Vec<_>>()));
    refused("theirs=short.jsonl", "expected 30 scores a query, found 29");
    bench.write("none.jsonl", "{\"score\": 1}\n");
    refused("theirs=none.jsonl", "no `scores`");
    bench.write("cut.npy", &npy.concat()[..200]);
    refused("theirs=cut.npy", "ends before shape");
    refused("theirs=theirs.csv", "not a file of scores");
    for (scores, says) in [("theirs.npy", "expected NAME=FILE"), ("random=theirs.npy", "chance")] {
        let ran = bench.run(&format!("{command} --scores {scores}"));
        assert!(ran.code == Some(2) && ran.err.contains(says), "{scores}: {}", ran.err);
    }
}

#[test]
fn whole_models_are_retrained_too() {
    let bench = bench();
    let command = "evaluate lds --store last --data queries.jsonl --training training.jsonl --subsets 3 --retrain full \
                   --start bert-cls2 --epochs 1 --learning-rate 1e-3 --rule grad-dot,loss --quiet";
    let first = bench.ok(command);
    let mean = |out: &str| -> Vec<String> { lines(out).iter().map(|row| row["lds"].to_string()).collect() };
    assert_eq!(lines(&first).len(), 3);
    // However many at once, and on however many threads.
    assert_eq!(mean(&first), mean(&bench.ok(&format!("{command} --threads 1 --keep one.jsonl"))));
    assert_eq!(mean(&first), mean(&bench.ok(&format!("{command} --at-once 3 --keep three.jsonl"))));
    let read = |name: &str| std::fs::read(bench.path(name)).unwrap();
    assert_eq!(read("one.jsonl"), read("three.jsonl"));
    let seeds = lines(&bench.ok(&format!("{command} --seeds 2 --keep one.jsonl")));
    assert_eq!((&seeds[0]["seeds"], &seeds[0]["subsets"]), (&2.into(), &3.into()));
    assert!(read("one.jsonl").starts_with(&read("three.jsonl")), "the first seed's trainings are taken as they are");
    // Passes in bf16 teach about the same, and what they taught is kept under another name.
    let half = format!("{command} --precision bf16 --keep");
    bench.ok(&format!("{half} half.jsonl"));
    let margins = |name: &str| -> Vec<f64> {
        let kept = lines(&String::from_utf8(read(name)).unwrap()).into_iter();
        kept.skip(1).flat_map(|row| row["margins"].as_array().unwrap().clone()).map(|x| x.as_f64().unwrap()).collect()
    };
    let (half, whole) = (margins("half.jsonl"), margins("three.jsonl"));
    let size = whole.iter().fold(0.0_f64, |size, x| size.max(x.abs()));
    assert!(half != whole && half.len() == whole.len());
    // Eight bits are a 256th of each operand.
    let off = half.iter().zip(&whole).map(|(h, w)| (h - w).abs()).fold(0.0, f64::max);
    assert!(off <= 0.1 * size, "{off} of {size}");
    bench.fails(&format!("{command} --precision bf16 --keep three.jsonl"), "three.jsonl");
}

#[cfg(unix)]
#[test]
fn a_training_that_is_interrupted_goes_on_to_the_same_bits() {
    let bench = bench();
    let command = "evaluate lds --store last --data queries.jsonl --training training.jsonl --subsets 3 --retrain full \
                   --start bert-cls2 --epochs 40 --learning-rate 1e-3 --at-once 1 --rule loss --quiet --keep";
    bench.ok(&format!("{command} whole.jsonl"));
    for _ in 0..2 {
        let mut child = bench.command(&format!("{command} cut.jsonl")).spawn().expect("the binary starts");
        let under_way = bench.path("cut.jsonl.under-way");
        while !under_way.exists() && child.try_wait().expect("it is a child").is_none() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let interrupt = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
        interrupt.expect("kill runs");
        let ended = child.wait().expect("it ends").code();
        // It may be killed before it listens, which is an interruption too.
        assert!(matches!(ended, Some(130 | 0) | None), "{ended:?}");
    }
    bench.ok(&format!("{command} cut.jsonl"));
    assert_eq!(std::fs::read(bench.path("cut.jsonl")).unwrap(), std::fs::read(bench.path("whole.jsonl")).unwrap());
    assert!(!bench.path("cut.jsonl.under-way").exists(), "no state is left");
}
