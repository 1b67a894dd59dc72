//! `wherefore train` as a script meets it.

use crate::cli::Bench;

use super::support::{json, separable};

fn bench() -> Bench {
    let bench = Bench::new();
    bench.model("bert-cls2");
    bench.write("train.jsonl", separable(40, |_| false));
    bench.write("dev.jsonl", separable(12, |_| false));
    bench
}

const TRAIN: &str =
    "train --model bert-cls2 --data train.jsonl --epochs 16 --learning-rate 0.005 --batch-size 8 --quiet";

#[test]
fn a_trained_model_predicts_and_its_run_is_told() {
    let bench = bench();
    let ran =
        bench.run(&format!("{TRAIN} --dropout 0 --dev dev.jsonl --dynamics dynamics --save-epochs epochs --out model"));
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), ""), "{}", ran.err);
    let record = json(&bench.path("model.run.json"));
    assert_eq!(record["epochs"].as_array().unwrap().len(), 16);
    assert_eq!(record["epochs"][15]["dev"]["accuracy"], 1.0);
    assert_eq!(record["labels"], serde_json::json!(["bad", "good"]));
    let predicted = bench.run("predict --model model --data dev.jsonl --quiet");
    assert_eq!(predicted.code, Some(0), "{}", predicted.err);
    for line in predicted.out.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["label"], line["predicted"]);
    }
    assert!(!bench.path("model.training").exists(), "its state is no longer of use");
    assert!(bench.path("dynamics/epoch-015.safetensors").exists());
    let weights = |folder: &str| std::fs::read(bench.path(folder).join("model.safetensors")).unwrap();
    assert!(weights("epochs/epoch-016") == weights("model") && weights("epochs/epoch-001") != weights("model"));
}

#[test]
fn the_same_run_gives_the_same_bytes_whatever_the_threads() {
    let bench = bench();
    let bytes = |out: &str, more: &str| {
        let ran = bench.run(&format!("{TRAIN} --epochs 2 --out {out} {more}"));
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        assert_eq!(
            json(&bench.path(&format!("{out}.run.json")))["options"]["dropout"]["hidden"],
            0.1,
            "the model's own"
        );
        std::fs::read(bench.path(out).join("model.safetensors")).unwrap()
    };
    let first = bytes("a", "--threads 1");
    assert!(first == bytes("b", "--threads 3 --batch-tokens 19"));
    assert!(first != bytes("c", "--seed 1"));
}

#[test]
fn what_cannot_be_trained_is_told_in_one_line() {
    let bench = bench();
    bench.write("mixed.jsonl", "{\"text\":\"a\",\"label\":\"x\"}\n{\"text\":\"b\",\"label\":3}\n");
    bench.write("bare.jsonl", "{\"text\":\"a\"}\n");
    bench.write("one.jsonl", "{\"text\":\"a\",\"label\":\"x\"}\n");
    let refused = |arguments: &str, reason: &str| {
        let ran = bench.run(&format!("train --model bert-cls2 --quiet {arguments}"));
        assert_eq!(ran.code, Some(2), "{arguments}: {}", ran.err);
        assert!(ran.err.lines().next().unwrap().contains(reason), "{arguments}: {}", ran.err);
    };
    refused("--data train.jsonl", "needs a place");
    refused("--data mixed.jsonl --out m", "found both: a name in mixed.jsonl:1, an id in mixed.jsonl:2");
    refused("--data bare.jsonl --out m", "found none");
    refused("--data one.jsonl --out m", "at least two classes");
    refused("--data train.jsonl --out bert-cls2", "is there already");
    refused("--data train.jsonl --out m --batch-size 0", "--batch-size");
    refused("--data train.jsonl --out m --dropout 1", "dropout");
    refused("--data train.jsonl --out m --weight-column heft", "no field `heft`");
    // Whatever there is, there are not so many; each lack has a sentence of its own.
    refused("--data train.jsonl --out m --device cuda:99", "");
    refused("--data train.jsonl --out m --labels a", "at least two classes");
    refused("--data train.jsonl --out m --precision f16", "training computes in f32 or bf16");
    refused("--data train.jsonl --out m --learning-rate 1e30 --clip 0", "no longer finite");
    assert!(!bench.path("m").exists());
}

/// The lock is the system's, so that a killed training keeps nobody out.
#[test]
fn two_trainings_cannot_have_one_place() {
    let bench = bench();
    std::fs::create_dir(bench.path("m.training")).unwrap();
    let lock = std::fs::File::create(bench.path("m.training/.lock")).unwrap();
    lock.lock().unwrap();
    let train = "train --model bert-cls2 --data train.jsonl --epochs 1 --quiet --out m";
    for more in ["", "--resume", "--overwrite"] {
        bench.fails(&format!("{train} {more}"), "m.training: another process is writing to this training");
    }
    assert!(!bench.path("m").exists());
    drop(lock);
    bench.ok(train);
    assert!(bench.path("m").exists() && !bench.path("m.training").exists());
}

#[test]
fn a_model_that_no_machine_has_room_for_is_refused() {
    let bench = bench();
    let config: serde_json::Value = json(&bench.path("bert-cls2/config.json"));
    let refused = |sizes: &[(&str, u64)], reason: &str| {
        let mut config = config.clone();
        for &(name, size) in sizes {
            config[name] = size.into();
        }
        bench.write("bert-cls2/config.json", config.to_string());
        bench.fails("train --model bert-cls2 --scratch --data train.jsonl --out m --quiet", reason);
    };
    refused(&[("num_hidden_layers", 1_000_000_000)], "layers: expected at most 4096, found 1000000000");
    refused(&[("hidden_size", 60_000_000)], "GiB to train, more than this machine has");
    refused(&[("vocab_size", 4_000_000_000), ("hidden_size", 30_000)], "GiB to train, more than this machine has");
}

/// Ids are ids however a table writes them, and those that are left out are told: a head has outputs for them.
#[test]
fn class_ids_are_read_as_such_and_gaps_are_told() {
    let bench = bench();
    bench.write("floats.csv", "text,label\ngood,1.0\nbad,0.0\nnothing,\ngood one,1.0\n");
    let train = "train --model bert-cls2 --epochs 1";
    let ran = bench.run(&format!("{train} --scratch --data floats.csv --skip-invalid --out floats"));
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert_eq!(json(&bench.path("floats.run.json"))["labels"], serde_json::json!(["LABEL_0", "LABEL_1"]));
    assert!(!ran.err.contains("no record to learn from"), "{}", ran.err);
    bench.write("gaps.jsonl", "{\"text\":\"good\",\"label\":5}\n{\"text\":\"bad\",\"label\":1}\n");
    let ran = bench.run(&format!("{train} --data gaps.jsonl --out gaps"));
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let told = "note: 4 of 6 classes have no record to learn from: LABEL_0, LABEL_2, LABEL_3, LABEL_4";
    assert!(ran.err.contains(told), "{}", ran.err);
    assert_eq!(json(&bench.path("gaps.run.json"))["model"]["fingerprint"].as_str().map(str::len), Some(64));
}

/// What bf16 rounds is a pass: a training has the bytes of its seed, learns what f32 learns, and is not gone on with in f32.
#[test]
fn a_training_in_bf16_is_its_own() {
    let bench = bench();
    let job = |out: &str, precision: &str| {
        let job = TRAIN.replace("--epochs 16", "--epochs 8");
        bench.ok(&format!("{job} --dev dev.jsonl --out {out} --precision {precision}"));
        let run = std::fs::read(bench.path(&format!("{out}.run.json"))).unwrap();
        let run: serde_json::Value = serde_json::from_slice(&run).unwrap();
        let last = run["epochs"].as_array().unwrap().last().unwrap().clone();
        (std::fs::read(bench.path(&format!("{out}/model.safetensors"))).unwrap(), last["loss"].as_f64().unwrap())
    };
    let ((exact, loss), (rounded, near), (again, _)) = (job("exact", "f32"), job("once", "bf16"), job("twice", "bf16"));
    assert!(rounded == again && rounded != exact && (loss - near).abs() < 0.02, "{loss} {near}");
}

#[test]
fn the_last_layer_alone() {
    let bench = bench();
    let ran = bench.run("train --model bert-cls2 --data train.jsonl --dev dev.jsonl --head-only --quiet --out head");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let record = json(&bench.path("head.run.json"));
    assert_eq!(record["head"]["converged"], true);
    assert!(record["head"]["dev"]["accuracy"].as_f64().unwrap() > 0.5);
}

/// Two numbers a parameter, for `index --adam`, that change nothing of the model.
#[test]
fn moments_are_kept_beside_each_epoch() {
    let bench = bench();
    let train = TRAIN.replace("--epochs 16", "--epochs 2");
    bench.ok(&format!("{train} --save-epochs plain --out model"));
    bench.ok(&format!("{train} --save-epochs kept --keep-moments --out again"));
    let read = |file: &str| std::fs::read(bench.path(file)).unwrap();
    for epoch in ["epoch-001", "epoch-002"] {
        assert!(read(&format!("plain/{epoch}/model.safetensors")) == read(&format!("kept/{epoch}/model.safetensors")));
        assert!(!bench.path(&format!("plain/{epoch}/moments.safetensors")).exists());
    }
    let moments = read("kept/epoch-001/moments.safetensors");
    assert!(moments != read("kept/epoch-002/moments.safetensors"));
    // One entry: of several the order would be another in each process.
    assert!(moments[8..].starts_with(br#"{"__metadata__":{"betas":"[0.9,0.999]"},"#));
    let index = "index --model again --data train.jsonl --store store --gradients projected --projection-dim 200 --adam --quiet";
    bench.ok(&format!("{index} --checkpoint kept/epoch-001:0.004 --checkpoint kept/epoch-002:0.001"));
    let rows =
        bench.ok("search --store store --data dev.jsonl --target gold --rule less --top-k 1 --format jsonl --quiet");
    for line in rows.lines() {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        let best = &row["proponents"][0];
        assert!(best["label"] == row["label"] && best["score"].as_f64().unwrap() <= 1.0, "{row}");
    }
    assert_ne!(bench.run(&format!("{TRAIN} --out x --keep-moments")).code, Some(0), "without a place for epochs");
}
