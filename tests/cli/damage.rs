//! Damaged input: each case one clear line, the right exit code, and nothing half-written.

use std::fs;

use serde_json::{Value, json};

use super::{Bench, lines};
use crate::models::Parts;

/// A model and a store of it.
fn with_store() -> Bench {
    let bench = Bench::new();
    bench.model("bert-cls2");
    bench.records("train.jsonl", 30);
    bench.ok("index --model bert-cls2 --data train.jsonl --store store --quiet");
    bench
}

fn predicting(bench: &Bench, data: &str) -> String {
    bench.model("bert-cls2");
    format!("predict --model bert-cls2 --data {data} --out p.jsonl")
}

#[test]
fn an_invalid_record_is_named_by_file_and_line() {
    let cases: [(&str, &[u8], &str); 8] = [
        ("utf8.jsonl", b"{\"text\":\"good\"}\n{\"text\":\"\xff\xfe\"}\n", "utf8.jsonl:2: "),
        ("json.jsonl", b"{\"text\":\"good\"}\n{\"text\":\n", "json.jsonl:2: "),
        ("number.jsonl", b"{\"text\":3}\n", "number.jsonl:1: text: expected a string"),
        ("label.jsonl", b"{\"text\":\"good\",\"label\":\"nonsense\"}\n", "label.jsonl:1: "),
        ("class.jsonl", b"{\"text\":\"good\",\"label\":2}\n", "class.jsonl:1: "),
        ("twice.jsonl", b"{\"text\":\"a\",\"id\":7}\n{\"text\":\"b\",\"id\":7}\n", "twice.jsonl:2: duplicate id \"7\""),
        ("fields.csv", b"text,label\ngood,1\nbad,0,1\n", "fields.csv:3: "),
        ("quote.csv", b"text,label\n\"good,1\nbad,0\n", "quote.csv:2: "),
    ];
    for (name, bytes, expected) in cases {
        let bench = Bench::new();
        bench.write(name, bytes);
        bench.fails(&predicting(&bench, name), expected);
        assert!(!bench.path("p.jsonl").exists(), "{name}: something was written");
    }
}

#[test]
fn a_command_line_that_means_nothing_is_refused_in_one_line_with_what_to_do() {
    let bench = Bench::new();
    for (arguments, expected, hint) in [
        ("search --data x.jsonl", "arguments were not provided: --store <DIR>", "`wherefore search --help` tells"),
        ("explain --methd saliency", "unexpected argument '--methd' found", "a similar argument exists: '--method'"),
        ("index --store s --data d --dtype f65", "invalid value 'f65' for '--dtype <DTYPE>' [possible values: f32", ""),
        ("explain --model m --text t --method saliensy", "generic-attention, norm-lime, found \"saliensy\"", ""),
        ("search --rule grad-cosine", "unknown rule \"grad-cosine\"", "the rules are feature-dot, "),
        ("audit dirty --top", "unexpected argument '--top' found", ""),
        ("index --store s --data d --shard 5/2", "expected I/N with I from 0 to N − 1, such as 0/4", ""),
        ("frobnicate", "unrecognized subcommand 'frobnicate'", "`wherefore --help` tells"),
        ("store remove store", "arguments were not provided: <--ids <IDS|@FILE>|--indexes <NUMBERS|@FILE>>", ""),
        (
            "bench --job search --records 99999999999999999",
            "expected at most a terabyte of numbers",
            "they are all held",
        ),
        ("store info nowhere", "nowhere: no such directory", "make a store with `wherefore index`"),
    ] {
        let ran = bench.run(arguments);
        ran.failed(expected);
        assert!(ran.err.contains(&format!("\nhint: {hint}")), "{arguments}: {}", ran.err);
    }
}

#[test]
fn help_puts_a_command_s_own_options_before_those_of_every_command() {
    let bench = Bench::new();
    let help = bench.ok("audit sparse --help");
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    let (own, shared) = help.split_once("Options of every command:").expect("two headings");
    assert!(own.contains("--proposed") && !own.contains("--precision"), "{own}");
    assert!(shared.contains("--precision") && !shared.contains("--proposed"), "{shared}");
    assert!(shared.contains("export, train and improve need a place") && shared.contains("npy or faiss"), "{shared}");
    let plan = bench.ok("improve --help");
    for told in ["corrections", "target_count", "recheck", "[columns]", "lls-d-f", "false_discovery", "pick?"] {
        assert!(plan.contains(told), "{told}");
    }
}

#[test]
fn a_folder_that_is_not_there_is_named_before_anything_is_computed() {
    let bench = Bench::new();
    bench.records("train.jsonl", 3);
    let command = predicting(&bench, "train.jsonl").replace("p.jsonl", "nowhere/p.jsonl");
    bench.fails(&command, "nowhere/p.jsonl: there is no folder nowhere");
}

#[test]
fn a_store_that_came_to_nothing_is_begun_anew() {
    let bench = with_store();
    bench.write("empty.jsonl", "");
    bench.fails("index --model bert-cls2 --data empty.jsonl --store again", "empty.jsonl: no records");
    bench.ok("index --model bert-cls2 --data train.jsonl --store again --dtype f16");
    bench.fails("index --model bert-cls2 --data train.jsonl --store again", "again: the directory is not empty");
    bench.ok("store verify again");
}

#[test]
fn quotes_in_a_tsv_file_are_part_of_its_texts_and_that_is_told_once() {
    let bench = Bench::new();
    let model = bench.model("bert-cls2");
    bench.write("q.tsv", "text\tlabel\n\"he said \"\"good\"\" twice\"\t1\n\"and \"\"bad\"\"\"\t0\n\"quoted\"\t0\n");
    let ran = bench.run(&format!("predict --model {model} --data q.tsv"));
    assert_eq!((ran.code, lines(&ran.out).len()), (Some(0), 3), "{}", ran.err);
    assert_eq!(ran.err.matches("note: q.tsv:2: a field is in quotes").count(), 1, "{}", ran.err);
    assert_eq!(ran.err.matches("in quotes").count(), 1, "{}", ran.err);
}

#[test]
fn skipped_records_are_counted_and_listed() {
    let bench = Bench::new();
    bench.model("bert-cls2");
    bench.write(
        "d.jsonl",
        "{\"text\":\"good\",\"label\":0}\nnonsense\n{\"text\":\"bad\",\"label\":\"what\"}\n{\"text\":\"bad\"}\n",
    );
    let ran = bench.run("index --model bert-cls2 --data d.jsonl --store store --skip-invalid");
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert!(ran.err.contains("2 skipped"), "{}", ran.err);
    let rejected = lines(&fs::read_to_string(bench.path("store.rejected.jsonl")).expect("the list is there"));
    assert_eq!(rejected.iter().map(|r| r["line"].clone()).collect::<Vec<_>>(), [2, 3]);
    let result = &lines(&bench.ok("store info store"))[0];
    assert_eq!((&result["rows"], &result["records"]), (&2.into(), &4.into()));
    // Where there is no place for a list, one is told.
    let ran = bench.run("predict --model bert-cls2 --data d.jsonl --skip-invalid");
    assert!(ran.code == Some(1) && ran.err.contains("2 skipped, such as d.jsonl:2: invalid JSON"), "{}", ran.err);
}

#[test]
fn an_endless_line_is_refused_without_being_held() {
    let bench = Bench::new();
    let mut bytes = b"{\"text\":\"good\"}\n{\"text\":\"".to_vec();
    bytes.resize(100 << 20, b'x');
    bytes.extend(b"\"}\n");
    bench.write("long.jsonl", bytes);
    bench.fails(&predicting(&bench, "long.jsonl"), "long.jsonl:2: ");
}

#[test]
fn files_that_are_not_there_or_not_data() {
    let bench = Bench::new();
    bench.write("empty.jsonl", "");
    bench.write("data.doc", "good");
    bench.write("other.csv", "body,label\ngood,1\n");
    bench.fails(&predicting(&bench, "missing.jsonl"), "missing.jsonl");
    bench.fails(&predicting(&bench, "empty.jsonl"), "empty.jsonl: no records");
    bench.fails(&predicting(&bench, "data.doc"), "data.doc");
    bench.fails(&predicting(&bench, "other.csv"), "body");
    bench.fails("predict --model bert-cls2", "no data was given");
}

#[test]
fn models_that_are_not_there_or_damaged() {
    let bench = Bench::new();
    bench.records("d.jsonl", 3);
    bench.fails("predict --model no/such --data d.jsonl", "no/such");
    bench.fails("predict --model missing --data d.jsonl", "missing");
    let damage: [(&str, &str, &[u8]); 4] = [
        ("model.safetensors", "model.safetensors", b"\xff\xff\xff\xff\xff\xff\xff\x7f{}"),
        ("model.safetensors", "model.safetensors", b"short"),
        ("config.json", "config.json", b"{\"model_type\": \"gpt2\"}"),
        ("tokenizer.json", "tokenizer.json", b"{}"),
    ];
    for (file, expected, bytes) in damage {
        let bench = Bench::new();
        bench.records("d.jsonl", 3);
        bench.model("bert-cls2");
        bench.write(&format!("bert-cls2/{file}"), bytes);
        bench.fails("predict --model bert-cls2 --data d.jsonl", expected);
    }
}

#[test]
fn a_pickled_model_is_refused_with_the_converter_named() {
    let bench = Bench::new();
    bench.records("d.jsonl", 3);
    bench.model("bert-cls2");
    fs::rename(bench.path("bert-cls2/model.safetensors"), bench.path("bert-cls2/pytorch_model.bin")).expect("renamed");
    let ran = bench.run("predict --model bert-cls2 --data d.jsonl");
    ran.failed("pytorch_model.bin");
    assert!(ran.err.contains("scripts/to_safetensors.py"), "{}", ran.err);
}

#[test]
fn class_names_of_another_number_are_refused() {
    let bench = Bench::new();
    bench.records("d.jsonl", 3);
    bench.model("bert-cls2");
    let path = bench.path("bert-cls2/config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path).expect("there")).expect("JSON");
    config["id2label"] = serde_json::json!({ "0": "a", "1": "b", "2": "c" });
    fs::write(&path, config.to_string()).expect("written");
    bench.fails("predict --model bert-cls2 --data d.jsonl", "id2label");
}

#[test]
fn a_store_is_not_written_over() {
    let bench = with_store();
    let before = bench.contents("store");
    bench.fails("index --model bert-cls2 --data train.jsonl --store store", "not empty");
    assert!(bench.contents("store") == before);
}

#[test]
fn a_store_of_another_model_is_refused_with_both_fingerprints() {
    let bench = with_store();
    bench.model("bert-cls5");
    let ran = bench.run("search --store store --data train.jsonl --model bert-cls5");
    ran.failed("fingerprint");
}

#[test]
fn a_resumed_job_notices_that_the_data_changed() {
    let bench = with_store();
    bench.records("train.jsonl", 31);
    bench.fails("index --model bert-cls2 --data train.jsonl --store store --resume", "the data changed");
}

#[test]
fn an_unfinished_store_is_not_searched() {
    let bench = Bench::new();
    bench.model("bert-cls2");
    bench.records("train.jsonl", 100);
    bench.write("bad.jsonl", fs::read_to_string(bench.path("train.jsonl")).expect("there") + "nonsense\n");
    bench.fails("index --model bert-cls2 --data bad.jsonl --store store --block-records 16", "bad.jsonl:101: ");
    let ran = bench.run("search --store store --data train.jsonl");
    ran.failed("not finished");
    assert!(ran.err.contains("--resume"), "{}", ran.err);
}

#[test]
fn outputs_that_cannot_be_written() {
    let bench = with_store();
    bench.fails("search --store store --data train.jsonl --out no-such-folder/r.jsonl", "no-such-folder/r.jsonl");
    bench.write("a-file", "");
    bench.fails("index --model bert-cls2 --data train.jsonl --store a-file/store", "a-file/store");
}

#[test]
fn requests_that_cannot_be_met() {
    let bench = with_store();
    let search = "search --store store --data train.jsonl";
    bench.fails(&format!("{search} --rule tracin"), "the store holds no checkpoints");
    bench.fails(&format!("{search} --target nonsense"), "--target");
    bench.fails(&format!("{search} --lambda 0 --rule influence"), "λ");
    bench.fails(&format!("{search} --top-k all --format parquet --out r.parquet"), "full rankings");
    let gpu = bench.run("predict --model bert-cls2 --data train.jsonl --device cuda:99");
    let reasons = ["built without GPU kernels", "NVIDIA driver", "cuda:99: expected one of"];
    gpu.failed(reasons.into_iter().find(|reason| gpu.err.contains(reason)).unwrap_or("a reason"));
    bench.fails("predict --model bert-cls2 --data train.jsonl --precision f16", "--precision f16");
    bench.fails("predict --model bert-cls2 --data train.jsonl --max-length 100000", "100000");
    for wrong in ["search --rule nonsense", "search --top-k 0", "index --shard 2/2", "nonsense"] {
        let ran = bench.run(wrong);
        assert_eq!(ran.code, Some(2), "{wrong}");
    }
}

#[cfg(feature = "parquet")]
#[test]
fn a_page_that_the_decoder_panics_at_is_one_error_line() {
    let bench = Bench::new();
    bench.write("d.parquet", crate::dataset::parquet::damaged_page());
    bench.fails(&predicting(&bench, "d.parquet"), "d.parquet: not readable as Parquet: damaged page: ");
}

#[test]
fn a_tokenizer_that_lacks_what_it_refers_to_is_refused() {
    let damages: [fn(&mut Value); 3] = [
        |tokenizer| drop(tokenizer["post_processor"]["special_tokens"].as_object_mut().map(|all| all.remove("[SEP]"))),
        |tokenizer| tokenizer["post_processor"]["single"] = json!([{ "Sequence": { "id": "B", "type_id": 0 } }]),
        |tokenizer| tokenizer["normalizer"] = json!({ "type": "Precompiled", "precompiled_charsmap": "" }),
    ];
    let bench = Bench::new();
    bench.model("bert-cls2");
    let path = bench.path("bert-cls2/tokenizer.json");
    let whole: Value = serde_json::from_slice(&fs::read(&path).expect("a tokenizer")).expect("it is JSON");
    for damage in damages {
        let mut tokenizer = whole.clone();
        damage(&mut tokenizer);
        assert_ne!(tokenizer, whole, "nothing was damaged");
        bench.write("bert-cls2/tokenizer.json", tokenizer.to_string());
        bench.fails("predict --model bert-cls2 --text good", "not a tokenizer");
    }
}

#[test]
fn texts_without_a_token_are_records_that_cannot_be_used() {
    let bench = Bench::new();
    bench.model("bert-cls2");
    let path = bench.path("bert-cls2/tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&fs::read(&path).expect("a tokenizer")).expect("it is JSON");
    tokenizer["post_processor"] = Value::Null;
    bench.write("bert-cls2/tokenizer.json", tokenizer.to_string());
    bench.write("d.jsonl", "{\"text\":\"good\"}\n{\"text\":\"\"}\n");
    let told = "record 1 (id `1`): the text has no token, and the tokenizer adds none";
    bench.fails("predict --model bert-cls2 --data d.jsonl --quiet", told);
    let ran = bench.run("explain --model bert-cls2 --data d.jsonl --method saliency --quiet --skip-invalid");
    assert_eq!((ran.code, lines(&ran.out).len()), (Some(1), 1), "{}", ran.err);
    // A text that loses all it has keeps its first token.
    for method in ["occlusion", "lime --samples 8", "kernel-shap"] {
        bench.ok(&format!("explain --model bert-cls2 --text good --method {method} --occlude delete --quiet"));
    }
}

#[test]
fn contexts_without_tokens_are_records_that_cannot_be_used() {
    let bench = Bench::new();
    bench.model("bert-spans");
    let question =
        |question: &str, context: &str| json!({ "question": question, "context": context }).to_string() + "\n";
    let records =
        [question("who", "it is good"), question("who", "\u{200b}"), question(&"word ".repeat(90), "\u{200b}")];
    bench.write("questions.jsonl", records.concat());
    for command in ["select", "predict --stride 8", "explain --method saliency"] {
        let ran = bench.run(&format!("{command} --model bert-spans --data questions.jsonl --skip-invalid --quiet"));
        assert_eq!(ran.code, Some(1), "{command}: {}", ran.err);
        assert!(!lines(&ran.out).is_empty(), "{command}");
    }
    bench.write("two.jsonl", records[..2].concat());
    bench.fails("select --model bert-spans --data two.jsonl --quiet", "two.jsonl:2: ");
    bench.fails("select --model bert-spans --data two.jsonl --keep 0", "expected a number from 1 on");
}

/// Weights that are too large for numbers are told by the first record, not written as results.
#[test]
fn outputs_that_are_no_numbers_are_refused() {
    let bench = Bench::new();
    bench.records("data.jsonl", 3);
    bench.write("masks.jsonl", "{\"text\":\"it is [MASK] to us\"}\n");
    bench.write("words.jsonl", "{\"tokens\":[\"it\",\"is\",\"good\"]}\n");
    bench.write("questions.jsonl", "{\"question\":\"who\",\"context\":\"it is good to us\"}\n");
    let blown_up = |model: &str, tensor: &str| {
        bench.model(model);
        let file = bench.path(&format!("{model}/model.safetensors"));
        let mut parts = Parts::read(&file);
        let range = parts.range(tensor);
        parts.data[range].chunks_exact_mut(4).for_each(|x| x.copy_from_slice(&3e38_f32.to_le_bytes()));
        parts.write(&file);
    };
    blown_up("bert-cls2", "classifier.weight");
    blown_up("bert-spans", "qa_outputs.weight");
    blown_up("bert-tags", "classifier.weight");
    blown_up("bert-masks", "cls.predictions.transform.LayerNorm.weight");
    for job in [
        "predict --model bert-cls2 --data data.jsonl",
        "index --model bert-cls2 --data data.jsonl --store store",
        "predict --model bert-spans --data questions.jsonl --stride 8",
        "predict --model bert-tags --data words.jsonl --stride 8",
        "predict --model bert-masks --data masks.jsonl",
        "select --model bert-spans --data questions.jsonl --stride 8",
    ] {
        bench.fails(&format!("{job} --quiet"), "the model's outputs are not numbers");
        assert!(bench.run(&format!("{job} --quiet")).err.contains("record 0 (id `"), "{job}");
    }
    for method in
        ["saliency", "lime --samples 8", "attention", "occlusion", "generic-attention", "integrated-gradients"]
    {
        let ran = bench.run(&format!("explain --model bert-cls2 --data data.jsonl --quiet --method {method}"));
        ran.failed("record 0, in part or whole: the model's outputs are not numbers");
        assert!(ran.out.is_empty(), "{method}");
    }
    let evaluate = "evaluate faithfulness --model bert-cls2 --data data.jsonl --quiet --method saliency,random";
    bench.fails(evaluate, "the model's outputs are not numbers");
}

/// A training whose last step goes too far leaves no model, and no figures.
#[test]
fn trainings_that_diverge_are_told() {
    let bench = Bench::new();
    bench.model("bert-cls2");
    bench.records("data.jsonl", 8);
    let told = "the model's outputs are no longer numbers";
    let train = "train --model bert-cls2 --data data.jsonl --epochs 1 --quiet --out trained --learning-rate";
    for more in ["1e12", "1e308", "1e12 --dev data.jsonl"] {
        bench.fails(&format!("{train} {more}"), told);
        assert!(!bench.path("trained").exists(), "{more}");
    }
    bench.ok("index --model bert-cls2 --data data.jsonl --store store --quiet");
    let evaluate = "--training data.jsonl --store store --data data.jsonl --rule grad-dot --quiet";
    let full = "--retrain full --epochs 1 --learning-rate 1e12";
    bench.fails(&format!("evaluate lds {evaluate} {full} --subsets 3"), told);
    bench.fails(&format!("evaluate leave-out {evaluate} {full} --sets 3"), told);
    bench.fails(&format!("evaluate tail-patch {evaluate} --rate 1e308"), "no longer a number");
}

/// Numbers that no machine has room for are refused before anything is made.
#[test]
fn amounts_beyond_all_reason_are_refused() {
    let bench = Bench::new();
    bench.model("bert-cls2");
    bench.records("data.jsonl", 6);
    bench.ok("index --model bert-cls2 --data data.jsonl --store store --quiet");
    let huge = "1000000000000000000";
    let faithfulness = "evaluate faithfulness --model bert-cls2 --data data.jsonl --quiet --method random";
    let rules = "--training data.jsonl --store store --data data.jsonl --rule grad-dot --quiet";
    for job in [
        format!("{faithfulness} --curve-steps {huge}"),
        format!("{faithfulness} --subsets {huge}"),
        format!("evaluate lds {rules} --subsets {huge}"),
        format!("evaluate lds {rules} --retrain full --subsets 3 --seeds {huge}"),
        format!("evaluate leave-out {rules} --sets {huge}"),
        format!("train --task masks --data data.jsonl --vocabulary {huge} --shape 1x32 --out own"),
        format!("bench --job search --records 500 --width 8 --queries {huge}"),
        format!("bench --job search --samples {huge}"),
    ] {
        bench.fails(&job, "expected");
    }
    for share in ["nan", "-1", "2"] {
        bench.fails(&format!("audit bias --store store --least-share={share}"), "--least-share: expected 0 to 1");
        bench.fails(&format!("audit bias --store store --false-discovery={share}"), "--false-discovery: expected 0");
    }
    let most = u64::MAX;
    assert_eq!(lines(&bench.ok(&format!("search --store store --self --top-k {most} --quiet"))).len(), 6);
    bench.model("bert-spans");
    bench.write("questions.jsonl", "{\"question\":\"who\",\"context\":\"it is good to us\"}\n");
    let spans = "predict --model bert-spans --data questions.jsonl --stride 8 --no-answer-threshold";
    bench.fails(&format!("{spans} nan"), "--no-answer-threshold: expected a number, found NaN");
    bench.fails(&format!("{spans}=-inf"), "--no-answer-threshold: expected a number, found -inf");
}

/// A text may begin with anything, and a number that is too small is told as such.
#[test]
fn what_begins_with_a_dash_is_a_value_where_one_is_due() {
    let bench = Bench::new();
    bench.model("bert-cls2");
    for text in ["-50% off", "- buy now", "--help me"] {
        let ran = bench.command("predict --model bert-cls2 --quiet --text").arg(text).output().unwrap();
        assert!(ran.status.success(), "{text}: {}", String::from_utf8_lossy(&ran.stderr));
    }
    let explain = "explain --model bert-cls2 --text good --method integrated-gradients";
    bench.fails(&format!("{explain} --tolerance -1"), "tolerance: expected a number from 0 on");
    bench.fails(&format!("{explain} --steps -1"), "invalid value '-1' for '--steps <N>'");
    let ran = bench.run("explain --model bert-cls2 --text good --method saliency --target gold");
    assert!(ran.err.contains("no label") && !ran.err.contains("--skip-invalid"), "{}", ran.err);
}

#[test]
fn slips_of_numbers_and_names_are_told() {
    let bench = Bench::new();
    bench.model("bert-cls5");
    bench.model("headless-cls");
    let explain = "explain --model bert-cls5 --text good --method";
    bench.fails(&format!("{explain} integrated-gradients --steps 4294967296"), "steps: expected at most 1000000");
    bench.fails(&format!("{explain} integrated-gradients --tolerance nan"), "tolerance: expected a number from 0 on");
    bench.fails(&format!("{explain} lime --samples 4294967296"), "samples: expected at most 1000000");
    bench.fails(&format!("{explain} saliency --target 3 --against 3"), "--against 3: this is the target itself");
    bench.fails("predict --model bert-cls5 --text good --threads 1000000", "--threads: expected 1 to 1024");
    bench.fails("predict --model headless-cls --text good", "has no classification head");
    let found = lines(&bench.ok(&format!("{explain} saliency --target all --against 1 --quiet")));
    assert_eq!(found.len(), 4, "every class but the one that all are held against");
    let predicted = &lines(&bench.ok("predict --model bert-cls5 --text good --quiet"))[0]["predicted"];
    let mut itself = bench.command(&format!("{explain} saliency --against"));
    let told = String::from_utf8(itself.arg(predicted.as_str().unwrap()).output().unwrap().stderr).unwrap();
    assert!(told.contains("1 results are of the class of --against itself"), "{told}");
    assert!(found.iter().all(|record| record["against"] == "bad" && record["target"] != "bad"), "{found:?}");
}

#[test]
fn numbers_that_say_nothing_are_refused_where_they_are_typed() {
    let bench = with_store();
    let search = "search --store store --text a --rule feature-dot";
    for lambda in ["nan", "-1", "1e400"] {
        bench.fails(&format!("{search} --lambda={lambda}"), "expected a number from 0 on");
    }
    bench.fails(&format!("{search} --max-length 0"), "expected a number from 1 on");
    bench.fails("predict --model bert-cls2 --data train.jsonl --batch-tokens 0", "expected a number from 1 on");
    bench.fails("predict --model bert-cls2 --data train.jsonl --top-k 0", "expected a number from 1 on");
    // What else is wrong with loading the store's model is not told as its place.
    bench.fails(&format!("{search} --precision f16"), "wherefore: --precision f16: the CPU computes in");
    fs::rename(bench.path("bert-cls2"), bench.path("moved")).unwrap();
    bench.fails(search, "the store's model is not where it was");
}
