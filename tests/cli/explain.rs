//! `explain` as a script meets it.

use serde_json::{Value, json};

use super::{Bench, lines};

const DATA: &str = "{\"text\": \"The service was not good.\", \"label\": 1}\n\
                    {\"text\": \"一点也不好看 <b>\", \"id\": \"zh\", \"label\": 0}\n\
                    {\"text\": \"good food\", \"text_pair\": \"the movie\"}\n";

fn bench() -> (Bench, String) {
    let bench = Bench::new();
    let model = bench.model("bert-cls2");
    bench.write("data.jsonl", DATA);
    (bench, model)
}

fn sum(record: &Value, field: &str) -> f64 {
    record[field].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).sum()
}

#[test]
fn every_method_writes_a_record_for_each_record() {
    let (bench, model) = bench();
    for method in [
        "integrated-gradients",
        "input-x-gradient",
        "saliency",
        "smoothgrad",
        "gradient-shap",
        "occlusion",
        "lime",
        "kernel-shap",
        "attention",
        "attention-rollout",
        "attention-flow",
        "generic-attention",
    ] {
        let found = lines(&bench.ok(&format!("explain --model {model} --data data.jsonl --method {method}")));
        assert_eq!(found.len(), 3, "{method}");
        for (i, record) in found.iter().enumerate() {
            assert_eq!((&record["index"], &record["method"]), (&json!(i), &json!(method)));
            let length = record["tokens"].as_array().unwrap().len();
            for list in ["offsets", "segments", "scores"] {
                assert_eq!(record[list].as_array().unwrap().len(), length, "{method}: {list}");
            }
            assert_eq!(record["tokens"][0], "[CLS]");
            assert_eq!((&record["offsets"][0], &record["segments"][0]), (&Value::Null, &Value::Null));
            let words = record["words"].as_array().unwrap();
            assert!(
                words.iter().all(|word| word["score"].is_number() && word["end"].as_u64() > word["start"].as_u64())
            );
            let rationale = record["rationale"].as_array().unwrap();
            assert_eq!(rationale.len(), words.len().min(5), "{method}");
        }
        assert_eq!(found[1]["id"], "zh");
        assert_eq!(found[2]["words"].as_array().unwrap().last().unwrap()["segment"], 1);
    }
}

#[test]
fn integrated_gradients_adds_up_to_the_change_in_output() {
    let (bench, model) = bench();
    for options in ["", "--baseline zero --layer embeddings --output logit", "--against LABEL_0 --target LABEL_1"] {
        let found = lines(&bench.ok(&format!("explain --model {model} --data data.jsonl --tolerance 0.001 {options}")));
        for record in found {
            let change = record["output"].as_f64().unwrap() - record["baseline_output"].as_f64().unwrap();
            assert_eq!(record["converged"], true, "{options}: {record}");
            assert!((sum(&record, "scores") - change).abs() <= 0.001 * change.abs().max(1e-3) + 1e-5, "{record}");
        }
    }
}

#[test]
fn targets_are_chosen_by_name_and_each_gets_a_record() {
    let (bench, model) = bench();
    let targets = |options: &str| -> Vec<String> {
        let found = lines(&bench.ok(&format!("explain --model {model} --data data.jsonl --steps 2 {options}")));
        found.iter().map(|record| record["target"].as_str().unwrap().to_owned()).collect()
    };
    let names: Vec<String> = targets("--target all")[..2].to_vec();
    assert_eq!(targets("--target all"), [&names[..]; 3].concat());
    assert_eq!(targets(&format!("--target {}", names[1])), [&names[1..]; 3].concat());
    let both = targets(&format!("--target {} --target {}", names[1], names[0]));
    assert_eq!(both[..2], [names[1].clone(), names[0].clone()]);

    bench.fails(&format!("explain --model {model} --data data.jsonl --target nobody"), "--target");
    bench.fails(&format!("explain --model {model} --data data.jsonl --target gold"), "data.jsonl:3: no label");
    let skipped =
        bench.run(&format!("explain --model {model} --data data.jsonl --target gold --skip-invalid --steps 2"));
    assert_eq!((skipped.code, lines(&skipped.out).len()), (Some(1), 2), "{}", skipped.err);
}

#[test]
fn results_do_not_depend_on_batches_or_threads() {
    let (bench, model) = bench();
    for method in ["ig", "gradient-shap", "occlusion", "lime", "generic-attention"] {
        let run =
            |options: &str| bench.ok(&format!("explain --model {model} --data data.jsonl --method {method} {options}"));
        let expected = run("");
        for options in ["--batch-tokens 1", "--batch-tokens 100000", "--threads 1", "--threads 3 --batch-tokens 33"] {
            assert_eq!(run(options), expected, "{method} {options}");
        }
    }
}

#[test]
fn norm_lime_ranks_what_speaks_for_each_class() {
    let (bench, model) = bench();
    let found = lines(
        &bench.ok(&format!("explain --model {model} --data data.jsonl --method norm-lime --target all --samples 200")),
    );
    assert!(!found.is_empty());
    for pair in found.windows(2).filter(|pair| pair[0]["class"] == pair[1]["class"]) {
        assert!(pair[0]["weight"].as_f64() >= pair[1]["weight"].as_f64(), "{pair:?}");
        assert_eq!(pair[0]["rank"].as_u64().map(|rank| rank + 1), pair[1]["rank"].as_u64());
    }
    assert!(found.iter().all(|line| line["weight"].as_f64() > Some(0.0) && line["count"].as_u64() > Some(0)));
}

#[test]
fn what_cannot_be_explained_is_refused_with_a_reason() {
    let (bench, model) = bench();
    let headless = bench.model("minilm-mean");
    let run = |model: &str, options: &str| format!("explain --model {model} --data data.jsonl {options}");
    bench.fails(&run(&headless, ""), "no classification head");
    bench.fails(&run(&model, "--method attention-rollout --start-layer 9"), "start layer");
    bench.fails(&run(&model, "--steps 0"), "steps: expected at least 1, found 0");
    bench.fails(&run(&model, "--noise nan"), "--noise");
    bench.fails(&run(&model, "--method lime --samples 4294967296"), "samples: expected at most 1000000");
    bench.fails(&run(&model, "--method lime --features words --words none"), "lime: words are its features");
    bench.fails(&run(&model, "--baseline-data data.jsonl"), "expected one baseline, found 3");
    let shap = bench.ok(&run(&model, "--method gradient-shap --baseline-data data.jsonl --samples 4"));
    assert_eq!(lines(&shap).len(), 3);
}

#[test]
fn words_and_rationales_are_as_asked() {
    let (bench, model) = bench();
    let words = |options: &str| -> Vec<Vec<String>> {
        let found = lines(&bench.ok(&format!("explain --model {model} --data data.jsonl --method saliency {options}")));
        let text = |word: &Value| word["text"].as_str().unwrap().to_owned();
        found.iter().map(|record| record["words"].as_array().unwrap().iter().map(text).collect()).collect()
    };
    assert_eq!(words("")[0], ["The", "service", "was", "not", "good", "."]);
    assert_eq!(words("--words characters")[1][..3], ["一", "点", "也"]);
    assert!(words("--words none").iter().all(Vec::is_empty));
    let found = lines(&bench.ok(&format!("explain --model {model} --data data.jsonl --rationale 0.5")));
    assert_eq!(found[0]["rationale"].as_array().unwrap().len(), 3);
}

#[test]
fn steps_that_are_not_named_give_way_to_those_that_are() {
    let (bench, model) = bench();
    let job = format!("explain --model {model} --text good --quadrature left --tolerance 0 --quiet --out e.jsonl");
    for (options, steps, most) in [("--max-steps 3", 3, 3), ("--steps 1001", 1001, 1001), ("--max-steps 60", 50, 60)] {
        bench.ok(&format!("{job} {options}"));
        let run: Value = serde_json::from_slice(&std::fs::read(bench.path("e.jsonl.run.json")).unwrap()).unwrap();
        assert_eq!((&run["settings"]["steps"], &run["settings"]["max-steps"]), (&json!(steps), &json!(most)));
        let found: Value = serde_json::from_slice(&std::fs::read(bench.path("e.jsonl")).unwrap()).unwrap();
        assert_eq!((&found["steps"], &found["converged"]), (&json!(most), &json!(false)));
    }
    bench.fails(&format!("{job} --max-steps 0"), "max steps: expected at least 1, found 0");
    bench.fails(&format!("{job} --steps 9 --max-steps 8"), "max steps: expected at least 9, the steps, found 8");
}

#[test]
fn results_and_their_run_are_written_together() {
    let (bench, model) = bench();
    bench.ok(&format!("explain --model {model} --data data.jsonl --tolerance 1e-9 --max-steps 60 --out e.parquet"));
    let run: Value = serde_json::from_slice(&std::fs::read(bench.path("e.parquet.run.json")).unwrap()).unwrap();
    assert!(run.to_string().contains("integrated-gradients"), "{run}");
    assert!(bench.path("e.parquet").exists());
    let typed = bench.ok(&format!("explain --model {model} --text good --method occlusion"));
    assert_eq!(lines(&typed).len(), 1);
}

#[test]
fn a_batch_of_more_tokens_than_there_are_numbers_is_all_there_is() {
    let (bench, model) = bench();
    let spans = bench.model("bert-spans");
    bench.write(
        "q.jsonl",
        r#"{"question": "what?", "context": "it is good", "answers": {"text": ["good"], "answer_start": [6]}}"#,
    );
    let [data, question] = ["data", "q"].map(|name| format!("--data {name}.jsonl --quiet"));
    for (job, records) in [
        (format!("explain --model {model} {data} --method saliency"), 3),
        (format!("predict --model {spans} {question}"), 1),
        (format!("index --model {spans} {question} --store questions"), 0),
    ] {
        let out = bench.ok(&format!("{job} --batch-tokens 1152921504606846976"));
        assert_eq!(lines(&out).len(), records, "{job}");
    }
    assert!(bench.ok("store info questions --format text").contains("records      1 in"));
    // An answer may be as long as can be.
    let long = bench.ok(&format!("predict --model {spans} {question} --max-answer-tokens 18446744073709551615"));
    assert!(!lines(&long)[0]["n_best"].as_array().unwrap().is_empty());
}
