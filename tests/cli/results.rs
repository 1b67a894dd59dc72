//! What commands write when all is well.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::{Bench, Ran, golden, lines};

/// The golden records as a data file.
fn golden_data(bench: &Bench, model: &str) -> Vec<Value> {
    let text = fs::read_to_string(golden(model).join("golden.json")).expect("the golden file is there");
    let golden: Value = serde_json::from_str(&text).expect("it is JSON");
    let records = golden["records"].as_array().expect("it has records").clone();
    let data = records.iter().map(|r| {
        let mut record = json!({ "text": r["text"], "label": r["label"] });
        if !r["pair"].is_null() {
            record["text_pair"] = r["pair"].clone();
        }
        format!("{record}\n")
    });
    bench.write("golden.jsonl", data.collect::<String>());
    records
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("an array").iter().map(|x| x.as_f64().expect("a number")).collect()
}

#[test]
fn predictions_are_those_of_the_golden_model() {
    let bench = Bench::new();
    let model = bench.model("bert-cls5");
    let expected = golden_data(&bench, "bert-cls5");
    let found = lines(&bench.ok(&format!("predict --model {model} --data golden.jsonl")));
    assert_eq!(found.len(), expected.len());
    for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert_eq!((&found["index"], &found["id"]), (&json!(i), &json!(i.to_string())));
        let (f, e) = (numbers(&found["logits"]), numbers(&expected["logits"]));
        let worst = f.iter().zip(&e).map(|(f, e)| (f - e).abs()).fold(0.0, f64::max);
        assert!(worst < 1e-5, "record {i}: logits differ by {worst}");
        let p: f64 = found["probabilities"].as_object().expect("by name").values().filter_map(Value::as_f64).sum();
        assert!((p - 1.0).abs() < 1e-5, "record {i}: probabilities add up to {p}");
    }
    let ran = bench.run(&format!("predict --model {model} --data golden.jsonl --out p.jsonl"));
    let right = found.iter().filter(|record| record["label"] == record["predicted"]).count();
    let accuracy = right as f64 / found.len() as f64;
    let told = format!("accuracy {:.2} over {} labelled records", 100.0 * accuracy, found.len());
    assert!(ran.err.contains(&told), "{told}: {}", ran.err);
    let record: Value = serde_json::from_slice(&fs::read(bench.path("p.jsonl.run.json")).unwrap()).unwrap();
    assert_eq!(record["scores"], json!({ "accuracy": accuracy, "records": found.len() }));
}

/// What is done is done: who heard that it failed would do it again, and add the same records twice.
#[test]
fn a_record_of_a_run_that_cannot_be_written_fails_no_job() {
    let bench = Bench::new();
    let model = bench.model("bert-cls2");
    bench.records("a.jsonl", 4);
    bench.write("b.jsonl", "{\"text\":\"good\"}\n");
    bench.ok(&format!("index --model {model} --data a.jsonl --store s --quiet"));
    fs::remove_file(bench.path("s.run.json")).unwrap();
    fs::create_dir(bench.path("s.run.json")).unwrap();
    let ran = bench.run("index --append --data b.jsonl --store s --quiet");
    assert!(
        ran.code == Some(0) && ran.err.contains("s.run.json") && ran.err.contains("results are whole"),
        "{}",
        ran.err
    );
    fs::create_dir(bench.path("v.json.run.json")).unwrap();
    let ran = bench.run("store verify s --format jsonl --out v.json");
    assert!(ran.code == Some(0) && ran.err.contains("results are whole"), "{}", ran.err);
}

#[test]
fn every_rule_answers_with_two_ends_in_order() {
    let bench = Bench::new();
    let model = bench.model("bert-cls2");
    let earlier = bench.model("bert-cls2-checkpoint");
    golden_data(&bench, "bert-cls2");
    bench.ok(&format!(
        "index --model {model} --data golden.jsonl --store store --checkpoint {earlier}:0.1 --checkpoint {model}:0.05"
    ));
    for rule in [
        "feature-dot",
        "feature-cos",
        "feature-euc",
        "grad-dot",
        "grad-cos",
        "representer",
        "tracin",
        "influence",
        "relatif",
        "bm25",
        "loss",
    ] {
        let results = lines(&bench.ok(&format!("search --store store --data golden.jsonl --rule {rule} -k 4")));
        for result in &results {
            assert_eq!(result["rule"], rule);
            let scores = |end: &str| -> Vec<f64> {
                let hits = result[end].as_array().expect("an end");
                hits.iter().map(|hit| hit["score"].as_f64().expect("a finite score")).collect()
            };
            let (proponents, opponents) = (scores("proponents"), scores("opponents"));
            assert_eq!((proponents.len(), opponents.len()), (4, 4), "{rule}");
            assert!(proponents.is_sorted_by(|a, b| a >= b), "{rule}: {proponents:?}");
            assert!(opponents.is_sorted_by(|a, b| a <= b), "{rule}: {opponents:?}");
            assert!(proponents[0] >= opponents[0], "{rule}");
        }
    }
}

/// What each rule says of every training record, for a head of two classes, of five, of several labels and of one
/// value.
#[test]
fn scores_of_every_golden_rule_are_pytorchs() {
    let bench = Bench::new();
    for name in ["bert-cls2", "bert-cls5", "bert-multilabel", "bert-regression"] {
        let (model, records) = (bench.model(name), golden_data(&bench, name));
        let text = fs::read_to_string(golden(name).join("golden.json")).expect("the golden file is there");
        let golden: Value = serde_json::from_str(&text).expect("it is JSON");
        let count = golden["train"].as_u64().expect("a number") as usize;
        let data = fs::read_to_string(bench.path("golden.jsonl")).expect("written");
        let (train, queries): (Vec<_>, Vec<_>) = data.split_inclusive('\n').enumerate().partition(|(i, _)| *i < count);
        for (file, part) in [("train.jsonl", train), ("queries.jsonl", queries)] {
            bench.write(file, part.into_iter().map(|(_, line)| line).collect::<String>());
        }
        bench.ok(&format!("index --model {model} --data train.jsonl --store {name}-store"));
        let squares = records[..count].iter().map(|r| numbers(&r["features"]).iter().map(|h| h * h).sum::<f64>() + 1.0);
        let damping = golden["damping"].as_f64().expect("a damping");
        let condition = 2.0 * squares.fold(0.0, f64::max) / damping;
        for target in ["gold", "predicted"] {
            for (rule, scores) in golden["scores"][target].as_object().expect("by rule") {
                let options = match rule.strip_suffix("-kronecker") {
                    Some(rule) => format!("{rule} --hessian kronecker --lambda {damping}"),
                    None if rule.starts_with("grad") || rule.starts_with("feature") => rule.clone(),
                    None => format!("{rule} --lambda {damping}"),
                };
                let found = lines(&bench.ok(&format!(
                    "search --store {name}-store --data queries.jsonl --target {target} --rule {options} -k {count}"
                )));
                let scores = scores.as_array().expect("a row a query");
                assert_eq!(found.len(), scores.len(), "{name} {rule} {target}");
                for (found, expected) in found.iter().zip(scores) {
                    let expected = numbers(expected);
                    let largest = expected.iter().fold(0.0_f64, |largest, x| largest.max(x.abs()));
                    // Gradients of predictions that are all but certain are what rounding left of them; what is solved
                    // for is off by its condition.
                    let solved = rule.starts_with("influence") || rule.starts_with("relatif");
                    let factor = if solved { condition } else { 100.0 };
                    let tolerance = f64::from(f32::EPSILON) * factor * largest.max(1e-6);
                    let neighbours = found["proponents"].as_array().expect("an array");
                    assert_eq!(neighbours.len(), count, "{name} {rule} {target}");
                    for neighbour in neighbours {
                        let index = neighbour["index"].as_u64().expect("a number") as usize;
                        let (found, expected) = (neighbour["score"].as_f64().expect("a score"), expected[index]);
                        assert!((found - expected).abs() <= tolerance, "{name} {rule} {target}: {found} {expected}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_full_ranking_is_every_record_from_both_ends() {
    let bench = Bench::new();
    let model = bench.model("bert-cls2");
    bench.records("train.jsonl", 50);
    bench.ok(&format!("index --model {model} --data train.jsonl --store store"));
    bench.records("test.jsonl", 3);
    let all = lines(&bench.ok("search --store store --data test.jsonl --rule grad-dot --top-k all"));
    let some = lines(&bench.ok("search --store store --data test.jsonl --rule grad-dot --top-k 50"));
    assert_eq!(all, some);
    assert_eq!(all[0]["proponents"].as_array().map(Vec::len), Some(50));
}

#[test]
fn the_query_itself_is_left_out_only_when_asked() {
    let bench = Bench::new();
    let model = bench.model("bert-cls2");
    bench.records("train.jsonl", 20);
    bench.ok(&format!("index --model {model} --data train.jsonl --store store"));
    let ids = |arguments: &str| -> Vec<String> {
        let results =
            lines(&bench.ok(&format!("search --store store --data train.jsonl --rule feature-euc -k 20{arguments}")));
        let hits = results[3]["proponents"].as_array().expect("proponents").clone();
        hits.iter().map(|hit| hit["id"].as_str().expect("an id").to_owned()).collect()
    };
    assert!(ids("").contains(&"r3".to_owned()));
    let without = ids(" --exclude-same-id");
    assert!(!without.contains(&"r3".to_owned()) && without.len() == 19);
}

#[test]
fn a_typed_text_is_a_query() {
    let bench = Bench::new();
    let model = bench.model("bert-cls2");
    bench.records("train.jsonl", 20);
    bench.ok(&format!("index --model {model} --data train.jsonl --store store"));
    let mut command = bench.command("search --store store --format jsonl");
    let ran = Ran::from(command.args(["--text", "the food was 很好"]).output().expect("it runs"));
    assert_eq!(lines(&ran.out)[0]["text"], "the food was 很好");
}

#[test]
fn standard_input_is_a_data_file() {
    let bench = Bench::new();
    let model = bench.model("bert-cls2");
    let mut child = bench
        .command(&format!("predict --model {model} --data -"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    child.stdin.take().expect("a pipe").write_all(b"{\"text\":\"good\"}\n{\"text\":\"bad\"}\n").expect("it listens");
    let ran = Ran::from(child.wait_with_output().expect("it ends"));
    assert_eq!((ran.code, lines(&ran.out).len()), (Some(0), 2));
}

#[test]
fn results_in_a_file_have_their_run_beside_them() {
    let bench = Bench::new();
    let model = bench.model("bert-cls2");
    bench.records("data.jsonl", 5);
    let run = |command: &str| -> Value {
        assert_eq!(bench.ok(command), "");
        serde_json::from_slice(&fs::read(bench.path("p.jsonl.run.json")).expect("it is there")).expect("it is JSON")
    };
    let predicted = run(&format!("predict --model {model} --data data.jsonl --out p.jsonl"));
    assert_eq!(lines(&fs::read_to_string(bench.path("p.jsonl")).expect("it is there")).len(), 5);
    assert_eq!(predicted["summary"]["records"], 5);
    assert!(predicted["model"]["fingerprint"].as_str().is_some_and(|f| f.len() == 64));

    // Settings are named as `--config` names them: those given, those left to the command, and what `auto` came to.
    let settings = &predicted["settings"];
    assert_eq!(
        (&settings["data"], &settings["top-k"], &settings["seed"]),
        (&json!(["data.jsonl"]), &json!(5), &json!(0))
    );
    assert_eq!((&settings["device"], &settings["precision"]), (&json!("cpu"), &json!("f32")));
    assert_eq!((&settings["quiet"], &settings["max-length"]), (&json!(false), &predicted["model"]["max_length"]));
    fs::write(bench.path("own.toml"), "seed = 7\n[explain]\nsteps = 3\ntext = \"5\"\n").expect("it can be written");
    let explained = run(&format!("explain --model {model} --config own.toml --out p.jsonl"));
    let settings = &explained["settings"];
    assert_eq!((&settings["steps"], &settings["seed"], &settings["text"]), (&json!(3), &json!(7), &json!("5")));
    assert_eq!(settings["method"], "integrated-gradients");

    // The data's fingerprint is of what was read, whatever the format.
    let fingerprint = |run: &Value| run["data"][0]["fingerprint"].as_str().map(str::to_owned).expect("data were read");
    assert_eq!(predicted["data"][0]["files"], json!(["data.jsonl"]));
    let text = fs::read_to_string(bench.path("data.jsonl")).expect("it is there");
    fs::write(bench.path("spaced.jsonl"), text.replace("\":", "\" : ")).expect("it can be written");
    fs::write(bench.path("other.jsonl"), text.replacen("text\":\"", "text\":\"x", 1)).expect("it can be written");
    let of = |file: &str| fingerprint(&run(&format!("predict --model {model} --data {file} --out p.jsonl")));
    assert_eq!(of("spaced.jsonl"), fingerprint(&predicted));
    assert_ne!(of("other.jsonl"), fingerprint(&predicted));
}

#[cfg(unix)]
#[test]
fn results_have_the_permissions_that_the_umask_leaves() {
    use std::os::unix::fs::PermissionsExt;
    let bench = Bench::new();
    let model = bench.model("bert-cls2");
    bench.records("data.jsonl", 8);
    bench.ok(&format!("index --model {model} --data data.jsonl --store store"));
    let binary = env!("CARGO_BIN_EXE_wherefore");
    for (umask, file, folder) in [("077", 0o600, 0o700), ("002", 0o664, 0o775)] {
        let script = format!(
            "umask {umask} && '{binary}' predict --model {model} --data data.jsonl --quiet --out {umask}.jsonl &&
             '{binary}' train --model {model} --data data.jsonl --epochs 1 --quiet --out {umask}-model &&
             '{binary}' export --store store --format npy --quiet --out {umask}-arrays"
        );
        let ran = Command::new("sh").args(["-c", &script]).current_dir(bench.path("")).output().expect("a shell runs");
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        let mode = |name: &str| {
            fs::metadata(bench.path(&format!("{umask}{name}"))).expect("it is there").permissions().mode() & 0o777
        };
        let files =
            [".jsonl", ".jsonl.run.json", "-model/model.safetensors", "-model/config.json", "-arrays/losses.npy"];
        assert_eq!(files.map(mode), files.map(|_| file), "umask {umask}: {files:?}");
        assert_eq!(["-model", "-arrays"].map(mode), [folder; 2], "umask {umask}");
    }
    let left = bench.contents("").into_iter().filter(|(name, _)| name.starts_with(".wherefore"));
    assert_eq!(left.count(), 0, "nothing is left beside them");
}

/// The records of a Parquet file, as JSON has them.
#[cfg(feature = "parquet")]
fn parquet(bench: &Bench, name: &str) -> Vec<Value> {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::Field;

    fn value(field: &Field) -> Value {
        match field {
            Field::Group(row) => row.get_column_iter().map(|(name, field)| (name.clone(), value(field))).collect(),
            Field::ListInternal(list) => list.elements().iter().map(value).collect(),
            Field::Str(text) => json!(text),
            Field::Long(number) => json!(number),
            Field::Double(number) => json!(number),
            Field::Null => Value::Null,
            other => panic!("no column is of this type: {other}"),
        }
    }

    let file = fs::File::open(bench.path(name)).expect("it is there");
    let reader = SerializedFileReader::new(file).expect("it is Parquet");
    let rows = reader.get_row_iter(None).expect("it has rows");
    rows.map(|row| value(&Field::Group(row.expect("a row")))).collect()
}

#[cfg(feature = "parquet")]
#[test]
fn parquet_holds_what_jsonl_holds() {
    let bench = Bench::new();
    let model = bench.model("bert-cls2");
    bench.records("data.jsonl", 7);
    bench.ok(&format!("index --model {model} --data data.jsonl --store store"));
    let expected = lines(&bench.ok("search --store store --data data.jsonl -k 3"));
    bench.ok("search --store store --data data.jsonl -k 3 --out r.parquet");
    let found = parquet(&bench, "r.parquet");
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        for field in ["id", "index", "text", "predicted", "rule"] {
            assert_eq!(found[field], expected[field]);
        }
        for (f, e) in found["proponents"]
            .as_array()
            .expect("a list")
            .iter()
            .zip(expected["proponents"].as_array().expect("a list"))
        {
            assert_eq!((&f["id"], &f["rank"], &f["text"]), (&e["id"], &e["rank"], &e["text"]));
            assert_eq!(f["score"].as_f64().map(|s| s as f32), e["score"].as_f64().map(|s| s as f32));
        }
    }
}

#[cfg(feature = "parquet")]
#[test]
fn parquet_of_little_covered_records_holds_labels_of_every_kind() {
    let bench = Bench::new();
    let words = json!({ "tokens": ["Anna", "loved", "the", "hotel"], "ner_tags": [1, 2, 0, "B-LOC"] });
    let question = json!({
        "question": "the staff?", "context": "the food was good",
        "answers": { "text": ["food"], "answer_start": [4] },
    });
    for (model, record) in [
        ("bert-cls2", json!({ "text": "good", "label": 1 })),
        ("bert-regression", json!({ "text": "good", "label": 0.5 })),
        ("bert-multilabel", json!({ "text": "good", "label": [0, 2] })),
        ("bert-tags", words),
        ("bert-spans", question),
        ("bert-masks", json!({ "text": "The [MASK] was good.", "label": "book" })),
    ] {
        bench.model(model);
        bench.write("one.jsonl", format!("{record}\n"));
        let masks = if model == "bert-masks" { " --masks" } else { "" };
        bench.ok(&format!("index --model {model} --data one.jsonl --store {model}-store --quiet{masks}"));
        let sparse = format!(
            "audit sparse --store {model}-store --data one.jsonl --nearest 1 --augment duplicate --proposed {model}-more"
        );
        bench.ok(&format!("{sparse}.jsonl --out {model}.jsonl --quiet"));
        bench.ok(&format!("{sparse}.parquet --out {model}.parquet --quiet"));
        for name in [model.to_owned(), format!("{model}-more")] {
            let expected = lines(&fs::read_to_string(bench.path(&format!("{name}.jsonl"))).expect("written"));
            let found = parquet(&bench, &format!("{name}.parquet"));
            assert_eq!((found.len(), expected.len()), (1, 1), "{name}");
            assert!(name != model || !expected[0]["predicted"].is_null(), "{name}: {}", expected[0]);
            for field in ["label", "predicted"] {
                assert_eq!(found[0][field], expected[0][field], "{name}: {field}");
            }
        }
    }
}

#[test]
fn a_config_file_gives_arguments_and_the_command_line_wins() {
    let bench = Bench::new();
    let model = bench.model("bert-cls2");
    bench.records("data.jsonl", 9);
    bench.ok(&format!("index --model {model} --data data.jsonl --store store"));
    bench.write(
        "run.toml",
        "quiet = true\n[search]\nstore = \"store\"\ndata = \"data.jsonl\"\nrule = \"feature-dot\"\ntop-k = 2\n",
    );
    let from_file = lines(&bench.ok("search --config run.toml"));
    assert_eq!(
        (&from_file[0]["rule"], from_file[0]["proponents"].as_array().map(Vec::len)),
        (&json!("feature-dot"), Some(2))
    );
    let overridden = lines(&bench.ok("search --config run.toml --rule grad-dot"));
    assert_eq!(overridden[0]["rule"], "grad-dot");
    // What may be given several times is given by one of the two as well.
    bench.records("other.jsonl", 2);
    assert_eq!(lines(&bench.ok("search --config run.toml --data other.jsonl")).len(), 2);
    // And what does not go together with it is left out.
    bench.write("data.toml", "quiet = true\nmodel = \"bert-cls2\"\ndata = \"data.jsonl\"\n");
    assert_eq!(lines(&bench.ok("predict --config data.toml --text good")).len(), 1);
    for (text, wrong) in [
        ("no-such-thing = 1\n", "no-such-thing"),
        ("[saerch]\ntop-k = 2\n", "saerch"),
        ("[search]\nsteps = 2\n", "steps"),
    ] {
        bench.write("bad.toml", text);
        bench.fails("search --config bad.toml --store store --data data.jsonl", &format!("unknown key \"{wrong}\""));
    }
}

/// The inner table wins, and what is for another command is left alone.
#[test]
fn a_config_file_reaches_the_commands_of_a_command() {
    let bench = Bench::new();
    let model = bench.model("bert-cls2");
    bench.records("data.jsonl", 40);
    bench.ok(&format!("index --model {model} --data data.jsonl --store store"));
    bench.write(
        "run.toml",
        "store = \"store\"\nneighbours = 3\nsteps = 5\n[audit]\nsignal = \"self-influence\"\n[audit.dirty]\nneighbours = 2\n\
         [audit.sparse]\ntop-k = 1\n[search]\nneighbors = 1\n",
    );
    let found = lines(&bench.ok("audit dirty --config run.toml --quiet --format jsonl"));
    assert_eq!((found.len(), found[0]["neighbours"].as_array().map(Vec::len)), (40, Some(2)));
    let signals = found[0]["signals"].as_object().expect("signals");
    assert_eq!(signals.keys().collect::<Vec<_>>(), ["self-influence"]);
}

/// Whoever asks from another folder, or has moved all of it, need not say where the model is.
#[test]
fn a_store_finds_its_model_from_wherever_it_is_asked() {
    let bench = Bench::new();
    let model = bench.model("bert-cls2");
    fs::create_dir(bench.path("then")).expect("a folder");
    fs::rename(bench.path(&model), bench.path("then/model")).expect("it can be moved");
    bench.records("then/data.jsonl", 6);
    let run = |folder: &str, arguments: &str| {
        let output = bench.command(arguments).current_dir(bench.path(folder)).output().expect("the binary runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    run("then", "index --model model --data data.jsonl --store stores/all --checkpoint model:1");
    let asked = "--data data.jsonl --rule tracin --top-k 2 --format jsonl";
    let there = run("then", &format!("search --store stores/all {asked}"));
    assert_eq!(run("then/stores", &format!("search --store all {}", asked.replace("data.", "../data."))), there);
    fs::rename(bench.path("then"), bench.path("now")).expect("it can be moved");
    assert_eq!(run(".", &format!("search --store now/stores/all {}", asked.replace("data.", "now/data."))), there);
}

/// A query without a label cannot be asked about its label: it is left out and listed, as wherever a record cannot be
/// used.
#[test]
fn queries_without_a_label_are_left_out_where_gold_is_asked_about() {
    let bench = Bench::new();
    bench.model("bert-cls2");
    bench.records("data.jsonl", 12);
    bench.ok("index --model bert-cls2 --data data.jsonl --store store --quiet");
    bench.write(
        "asked.jsonl",
        "{\"text\": \"good\", \"label\": 1}\n{\"text\": \"bad\"}\n{\"text\": \"food\", \"label\": 0}\n",
    );
    let search = "search --store store --data asked.jsonl --target gold -k 1 --quiet";
    bench.fails(search, "asked.jsonl:2: label: expected one, found none");
    let ran = bench.run(&format!("{search} --skip-invalid --out found.jsonl"));
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    let found = lines(&fs::read_to_string(bench.path("found.jsonl")).unwrap());
    assert_eq!(found.iter().map(|one| one["index"].as_u64()).collect::<Vec<_>>(), [Some(0), Some(2)]);
    let listed = fs::read_to_string(bench.path("found.jsonl.rejected.jsonl")).unwrap();
    assert!(listed.contains("label: expected one") && listed.lines().count() == 1, "{listed}");
    bench.ok(&format!("{search} --rule feature-cos"));
}

#[test]
fn a_headless_model_is_searched_by_its_features() {
    let bench = Bench::new();
    for model in ["minilm-mean", "headless-cls"] {
        if !golden(model).exists() {
            continue;
        }
        let model = bench.model(model);
        bench.records("data.jsonl", 12);
        let store = format!("{model}-store");
        let told = bench.run(&format!("index --model {model} --data data.jsonl --store {store}")).err;
        assert!(told.contains("12 labels not kept: there are no logits"), "{told}");
        let found = lines(&bench.ok(&format!("search --store {store} --data data.jsonl -k 2")));
        assert_eq!((&found[0]["rule"], &found[0]["predicted"]), (&json!("feature-cos"), &Value::Null));
        bench.fails(&format!("search --store {store} --data data.jsonl --rule grad-dot"), "the model has no head");
    }
}

#[test]
fn regression_and_multi_label_models_are_indexed_and_searched() {
    let bench = Bench::new();
    for (model, label) in [("bert-regression", json!(0.5)), ("bert-multilabel", json!([0, 2]))] {
        let model = bench.model(model);
        let texts = ["good", "bad food", "the movie", "服务很差"];
        let data = texts.map(|text| json!({ "text": text, "label": label }).to_string() + "\n").concat();
        bench.write("data.jsonl", data);
        let store = format!("{model}-store");
        bench.ok(&format!("index --model {model} --data data.jsonl --store {store}"));
        for rule in ["grad-dot", "grad-cos", "influence", "relatif"] {
            let found =
                lines(&bench.ok(&format!("search --store {store} --data data.jsonl --rule {rule} --target gold -k 2")));
            assert_eq!(found.len(), 4, "{model} {rule}");
            assert!(found[0]["proponents"][0]["score"].is_number(), "{model} {rule}");
        }
    }
}

/// Its loss is 0, and so is every product with the gradient of that: another rule is the default, and who asks for such
/// a product is told.
#[test]
fn a_regressions_own_prediction_is_asked_about_by_a_rule_that_says_something() {
    let bench = Bench::new();
    let model = bench.model("bert-regression");
    let record = |i: usize| json!({ "text": format!("good {i}"), "label": i }).to_string() + "\n";
    bench.write("data.jsonl", (0..6).map(record).collect::<String>());
    bench.ok(&format!("index --model {model} --data data.jsonl --store store"));
    let search = "search --store store --data data.jsonl -k 2";
    let by = |options: &str| lines(&bench.ok(&format!("{search} {options}")))[0]["rule"].clone();
    assert_eq!((by(""), by("--target gold")), (json!("feature-cos"), json!("grad-cos")));
    let told = |options: &str| bench.run(&format!("{search} {options}")).err.contains("--target gold");
    assert!(told("--rule grad-dot") && told("--rule influence"));
    assert!(!told("") && !told("--rule representer") && !told("--rule grad-dot --target gold"));
}

#[test]
fn doctor_finds_nothing_wrong_here() {
    let bench = Bench::new();
    let model = bench.model("roberta-cls2");
    bench.records("data.jsonl", 20);
    let report: Value =
        serde_json::from_str(&bench.ok(&format!("doctor --model {model} --data data.jsonl"))).expect("it is JSON");
    assert!(report["operations"].as_array().is_some_and(|checks| checks.len() > 10));
    assert_eq!(report["model"].as_array().map(Vec::len), Some(7));

    let question = json!({"question": "who wrote it", "context": "a long book that she wrote in a year"});
    let words = json!({"tokens": ["she", "wrote", "a", "long", "book"], "ner_tags": [0, 1, 0, 0, 2]});
    let text = json!({"text": "\u{6211} \u{662f} \u{4eba} wrote"});
    for (model, record, checks) in [
        ("bert-spans", &question, 7),
        ("ernie-tags", &words, 7),
        ("distilbert-tags", &words, 7),
        ("roberta-masks", &text, 7),
        ("bert-multilabel", &text, 7),
        ("bert-cls5", &text, 7),
        ("minilm-mean", &text, 4),
    ] {
        bench.write("one.jsonl", record.to_string());
        let job = format!("doctor --model {} --data one.jsonl", bench.model(model));
        let report: Value = serde_json::from_str(&bench.ok(&job)).expect("it is JSON");
        assert_eq!(report["model"].as_array().map(Vec::len), Some(checks), "{model}");
    }

    bench.write("bad.jsonl", "{\"text\":\"good\"}\n{\"text\":3}\n{\"text\":\"bad\"}\n");
    let ran = bench.run(&format!("doctor --model {model} --data bad.jsonl --skip-invalid --out d.jsonl"));
    assert!(ran.code == Some(1) && ran.err.contains("1 of the records read"), "{:?} {}", ran.code, ran.err);
    let list = fs::read_to_string(bench.path("d.jsonl.rejected.jsonl")).expect("a list");
    assert_eq!(lines(&list)[0]["line"], 2);
}

#[test]
fn bench_tells_its_rates_beside_the_machines_ceilings() {
    let bench = Bench::new();
    let rows = lines(&bench.ok("bench --job search --records 500 --width 20 --queries 3 --samples 1 --format json"));
    let jobs: Vec<&Value> = rows.iter().map(|row| &row["job"]).collect();
    assert_eq!(jobs, ["multiply-add", "read", "search", "search"]);
    assert!(rows[2]["queries_per_second"].as_f64().is_some_and(|rate| rate > 0.0));
    bench.write("words.jsonl", r#"{"tokens": ["she", "wrote", "a", "book"]}"#);
    for job in ["forward", "explain"] {
        let model = bench.model("bert-tags");
        let rows = lines(&bench.ok(&format!("bench --job {job} --model {model} --data words.jsonl --samples 1")));
        assert!(rows.last().is_some_and(|row| row["job"] == job && row["tokens_per_second"].as_f64() > Some(0.0)));
    }
    for amount in ["records", "width", "classes", "queries", "samples"] {
        bench.fails(&format!("bench --job search --{amount} 0"), &format!("invalid value '0' for '--{amount}"));
    }
}
