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
    bench.write("blank.jsonl", "{\"text\":\"a\",\"label\":\"x\"}\n{\"text\":\"b\",\"label\":\"\"}\n");
    bench.write("bare.jsonl", "{\"text\":\"a\"}\n");
    bench.write("one.jsonl", "{\"text\":\"a\",\"label\":\"x\"}\n");
    let refused = |arguments: &str, reason: &str| {
        let ran = bench.run(&format!("train --model bert-cls2 --quiet {arguments}"));
        assert_eq!(ran.code, Some(2), "{arguments}: {}", ran.err);
        assert!(ran.err.lines().next().unwrap().contains(reason), "{arguments}: {}", ran.err);
    };
    refused("--data train.jsonl", "needs a place");
    refused("--data mixed.jsonl --out m", "found both: a name in mixed.jsonl:1, an id in mixed.jsonl:2");
    refused("--data blank.jsonl --out m", "expected a name, found an empty one in blank.jsonl:2");
    refused("--data bare.jsonl --out m", "found none");
    refused("--data one.jsonl --out m", "at least two classes");
    refused("--data train.jsonl --out bert-cls2", "is there already");
    refused("--data train.jsonl --out m --batch-size 0", "--batch-size");
    refused("--data train.jsonl --out m --dropout 1", "dropout");
    refused("--data train.jsonl --out m --weight-column heft", "no field `heft`");
    refused("--data train.jsonl --out m --metric exact-match", "metric: exact-match is not measured of such a model");
    // Whatever there is, there are not so many; each lack has a sentence of its own.
    refused("--data train.jsonl --out m --device cuda:99", "");
    refused("--data train.jsonl --out m --labels a", "at least two classes");
    refused("--data train.jsonl --out m --precision f16", "training computes in f32 or bf16");
    refused("--data train.jsonl --out m --learning-rate 1e30 --clip 0", "no longer finite");
    assert!(!bench.path("m").exists());
}

/// What was saved before there was a state to go on from is no other training's.
#[test]
fn a_training_goes_on_where_its_first_epoch_was_cut_short() {
    let bench = bench();
    let train = "train --model bert-cls2 --data train.jsonl --epochs 2 --quiet --save-epochs ep --dynamics dy --out m";
    bench.ok(&format!("{train}x").replace("ep ", "epx ").replace("dy ", "dyx "));
    std::fs::create_dir_all(bench.path("m.training")).unwrap();
    let places = [bench.path("ep"), bench.path("dy")].map(|path| path.display().to_string());
    bench.write("m.training/places.json", serde_json::to_string(&places).unwrap());
    for (from, to) in [("epx", "ep"), ("dyx", "dy")] {
        std::fs::create_dir(bench.path(to)).unwrap();
        for (name, bytes) in bench.contents(from).into_iter().filter(|(_, bytes)| !bytes.is_empty()) {
            bench.write(&format!("{to}/{name}"), bytes);
        }
    }
    std::fs::create_dir_all(bench.path("ep/epoch-001")).unwrap();
    bench.fails(train, "ep: is there already");
    bench.ok(&format!("{train} --resume"));
    let model = |name: &str| std::fs::read(bench.path(name).join("model.safetensors")).unwrap();
    assert!(model("m") == model("mx") && model("ep/epoch-001") == model("epx/epoch-001"));
    assert_eq!(bench.contents("dy"), bench.contents("dyx"));
    assert!(!bench.path("m.training").exists());
    // Where else a training wrote is known of one that was not to go on with another, too.
    bench.fails(
        "train --model bert-cls2 --data train.jsonl --quiet --learning-rate 1e30 --clip 0 --dynamics df --out f",
        "no longer finite",
    );
    assert!(bench.path("f.training/places.json").exists());
    // What is left of a file that was never whole is in nobody's way.
    std::fs::create_dir(bench.path("half")).unwrap();
    bench.write("half/.wherefore-abc.partial", "");
    bench.ok("train --model bert-cls2 --data train.jsonl --epochs 1 --quiet --save-epochs half --out n");
}

/// First values are drawn as wide as the configuration says.
#[test]
fn new_weights_have_the_deviation_that_the_configuration_names() {
    let bench = bench();
    let path = bench.path("bert-cls2/config.json");
    let mut config = json(&path);
    config["initializer_range"] = serde_json::json!(0.2);
    bench.write("bert-cls2/config.json", config.to_string());
    bench.ok("train --model bert-cls2 --scratch --data train.jsonl --epochs 1 --learning-rate 1e-12 --out m --quiet");
    let bytes = std::fs::read(bench.path("m/model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let words = tensors.tensor("bert.embeddings.word_embeddings.weight").unwrap();
    let words: Vec<f64> =
        words.data().chunks_exact(4).map(|x| f64::from(f32::from_le_bytes(x.try_into().unwrap()))).collect();
    let deviation = (words.iter().map(|x| x * x).sum::<f64>() / words.len() as f64).sqrt();
    // Within four standard errors of a sample's deviation.
    assert!((deviation / 0.2 - 1.0).abs() < 4.0 / (2.0 * words.len() as f64).sqrt(), "{deviation}");
}

/// Shares of classes, rows of 0 and 1, and a head with one class.
#[test]
fn labels_of_several_classes_are_read_as_what_they_are() {
    let bench = bench();
    bench.model("bert-multilabel");
    let config = |name: &str| json(&bench.path(name).join("config.json"));
    let classes = config("bert-multilabel")["id2label"].as_object().unwrap().len();
    let data = |name: &str, row: &dyn Fn(usize) -> String| {
        let line = |i: usize| format!("{{\"text\":\"good {i}\",\"label\":{}}}\n", row(i));
        bench.write(name, (0..8).map(line).collect::<String>());
    };
    let list = |of: &dyn Fn(usize) -> String| format!("[{}]", (0..classes).map(of).collect::<Vec<_>>().join(","));
    data("shares.jsonl", &|i| list(&|class| format!("0.{}", (i + class) % 10)));
    data("bits.jsonl", &|i| list(&|class| ((i + class) % 2).to_string()));
    bench.ok("train --model bert-multilabel --data shares.jsonl --epochs 1 --out a --quiet");
    assert_eq!(config("a")["id2label"], config("bert-multilabel")["id2label"]);
    bench.ok("index --model bert-multilabel --data shares.jsonl --store s --quiet");
    bench.ok("store verify s");
    bench.ok("train --vocabulary 60 --shape 1x32 --data bits.jsonl --epochs 1 --out b --quiet");
    assert_eq!(config("b")["id2label"].as_object().unwrap().len(), classes);
    assert_eq!(config("b")["problem_type"], "multi_label_classification");

    // Ids are not taken for rows where there are more classes, nor a row of one number for an id where there is one.
    data("ids.jsonl", &|i| format!("[{},{}]", i % 2, (i + 1) % 2));
    bench.ok("train --model bert-multilabel --data ids.jsonl --epochs 1 --out c --quiet");
    assert_eq!(config("c")["id2label"], config("bert-multilabel")["id2label"]);
    bench.ok("train --model bert-cls2 --data ids.jsonl --epochs 1 --out two --quiet");
    assert_eq!(config("two")["problem_type"], "multi_label_classification");
    data("one.jsonl", &|i| format!("[{}.0]", i % 2));
    bench.ok("train --vocabulary 60 --shape 1x32 --labels toxic --problem multi-label --data one.jsonl --epochs 1 --out d --quiet");
    bench.ok("train --model d --data one.jsonl --epochs 1 --out e --quiet");
    assert_eq!(config("e")["id2label"], config("d")["id2label"]);
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

/// What bf16 rounds is a pass: a training has the bytes of its seed, learns what f32 learns, and is not gone on with in
/// f32.
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

/// A record of weight 2 is one that is there twice, and one of weight 0 is not there.
#[test]
fn the_last_layer_alone_learns_by_weights() {
    let bench = bench();
    let text = separable(40, |i| i % 5 == 0);
    let weight = |i: usize| [1, 2, 0, 3][i % 4];
    let weighted = text.lines().enumerate().map(|(i, line)| {
        let mut record: serde_json::Value = serde_json::from_str(line).unwrap();
        record["heft"] = weight(i).into();
        record.to_string() + "\n"
    });
    bench.write("weighted.jsonl", weighted.collect::<String>());
    let repeated = text.lines().enumerate().flat_map(|(i, line)| {
        (0..weight(i)).map(move |copy| {
            let mut record: serde_json::Value = serde_json::from_str(line).unwrap();
            record["id"] = format!("{i}-{copy}").into();
            record.to_string() + "\n"
        })
    });
    bench.write("repeated.jsonl", repeated.collect::<String>());
    bench.write("plain.jsonl", text.clone());
    let train = "train --model bert-cls2 --head-only --penalty 0.01 --quiet";
    bench.ok(&format!("{train} --data weighted.jsonl --weight-column heft --out weighted"));
    bench.ok(&format!("{train} --data repeated.jsonl --out repeated"));
    bench.ok(&format!("{train} --data plain.jsonl --out plain"));
    let objective = |out: &str| json(&bench.path(&format!("{out}.run.json")))["head"]["objective"].as_f64().unwrap();
    let logits = |model: &str| -> Vec<f64> {
        let out = bench.ok(&format!("predict --model {model} --data dev.jsonl --quiet"));
        let row = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["logits"].clone();
        out.lines().flat_map(|line| row(line).as_array().unwrap().clone()).map(|z| z.as_f64().unwrap()).collect()
    };
    let apart = |a: &str, b: &str| logits(a).iter().zip(logits(b)).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!((objective("weighted") - objective("repeated")).abs() < 1e-12);
    // Heads are saved in f32.
    assert!(apart("weighted", "repeated") < 1e-5, "{}", apart("weighted", "repeated"));
    assert!(apart("weighted", "plain") > 1e-2, "{}", apart("weighted", "plain"));
    let none = text.lines().map(|line| line.replacen('{', "{\"heft\":0,", 1) + "\n");
    bench.write("none.jsonl", none.collect::<String>());
    bench.fails(&format!("{train} --data none.jsonl --weight-column heft --out none"), "a weight above 0");
}

/// What would change nothing is refused, not left aside.
#[test]
fn arguments_of_another_way_to_train_are_refused() {
    let bench = bench();
    let refused = |arguments: &str, names: [&str; 2]| {
        let ran = bench.run(&format!("train --data train.jsonl --out m --quiet {arguments}"));
        assert_eq!(ran.code, Some(2), "{arguments}: {}", ran.err);
        assert!(names.iter().all(|name| ran.err.contains(name)), "{arguments}: {}", ran.err);
        assert!(!bench.path("m").exists());
    };
    for of_the_whole in [
        "--epochs 2",
        "--learning-rate 0.1",
        "--schedule cosine",
        "--warmup 3",
        "--batch-size 8",
        "--accumulate 2",
        "--weight-decay 0",
        "--clip 2",
        "--dropout 0",
        "--dev dev.jsonl --patience 2",
        "--dev dev.jsonl --metric loss",
        "--checkpoint-every 4",
        "--resume",
        "--save-epochs epochs",
        "--save-epochs epochs --keep-moments",
        "--dynamics dynamics",
    ] {
        refused(&format!("--model bert-cls2 --head-only {of_the_whole}"), ["--head-only", "cannot be used with"]);
        refused(&format!("--model bert-cls2 --penalty 1 {of_the_whole}"), ["--penalty", "cannot be used with"]);
    }
    refused("--model bert-cls2 --penalty 1", ["--head-only", "required"]);
    refused("--vocabulary 100 --penalty 1", ["--penalty", "cannot be used with"]);
    refused("--vocabulary 100 --head-only", ["--head-only", "cannot be used with"]);
    refused("--model bert-cls2 --shape 1x32", ["--shape", "cannot be used with"]);
    refused("--model bert-cls2 --scratch --shape 1x32", ["--shape", "cannot be used with"]);
    // A model that is made names no folder of its own.
    let ran = bench.run("train --vocabulary 100 --shape 1x32 --max-length 20000 --data train.jsonl --out m --quiet");
    assert!(ran.err.contains("expected 1 to 512, the positions the model has, found 20000"), "{}", ran.err);
}

/// What lies where epochs and dynamics are to go is no more written over than what lies in OUT.
#[test]
fn epochs_and_dynamics_have_places_of_their_own() {
    let bench = bench();
    let train = "train --model bert-cls2 --data train.jsonl --learning-rate 0.005 --batch-size 8 --quiet";
    let kept = "--save-epochs epochs --dynamics dynamics";
    bench.ok(&format!("{train} --epochs 3 {kept} --out one"));
    let files = |folder: &str| -> Vec<String> {
        let entries = bench.path(folder).read_dir().unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let read = |file: &str| std::fs::read(bench.path(file)).unwrap();
    let third = read("epochs/epoch-003/model.safetensors");
    bench.ok("index --model one --data train.jsonl --store store --quiet");
    let store = files("store");
    for (place, flag) in
        [("epochs", "--save-epochs"), ("store", "--save-epochs"), ("dynamics", "--dynamics"), ("store", "--dynamics")]
    {
        for more in ["", "--resume"] {
            let ran = bench.run(&format!("{train} --epochs 1 {flag} {place} --out two {more}"));
            ran.failed(&format!("{place}: is there already"));
            assert!(ran.err.contains(&format!("another place with {flag}")), "{}", ran.err);
        }
    }
    assert!(!bench.path("two").exists() && files("store") == store);
    assert!(read("epochs/epoch-003/model.safetensors") == third);
    bench.fails(
        &format!("{train} --model epochs/epoch-002 --epochs 1 --save-epochs epochs --out two --overwrite")
            .replace("--model bert-cls2 ", ""),
        "the training starts from it",
    );
    assert_eq!(files("epochs"), ["epoch-001", "epoch-002", "epoch-003"]);
    // Written over, nothing is left of the other training but what it did not make.
    bench.write("epochs/notes.txt", "mine");
    bench.ok(&format!("{train} --epochs 1 --seed 1 {kept} --out two --overwrite"));
    assert_eq!(files("epochs"), ["epoch-001", "notes.txt"]);
    assert_eq!(files("dynamics"), ["dynamics.json", "epoch-000.safetensors", "records.jsonl"]);
    assert!(read("epochs/epoch-001/model.safetensors") == read("two/model.safetensors"));
    // A folder that is there and empty will do.
    std::fs::create_dir(bench.path("empty")).unwrap();
    bench.ok(&format!("{train} --epochs 1 --save-epochs empty --out three"));
    // A training that fails before its first epoch is over stands in nobody's way.
    let failed = format!("{train} --epochs 1 --dynamics begun --out four").replace("0.005", "1e30");
    bench.fails(&format!("{failed} --clip 0"), "no longer finite");
    assert!(bench.path("begun/dynamics.json").exists());
    bench.ok(&format!("{train} --epochs 1 --dynamics begun --out four"));
}

/// What is in the folders of epochs and dynamics is the training's own when it goes on.
#[cfg(unix)]
#[test]
fn a_training_that_is_interrupted_goes_on_with_its_epochs() {
    let bench = bench();
    let train = "train --model bert-cls2 --data train.jsonl --learning-rate 0.005 --batch-size 8 --epochs 40 --quiet";
    let job = |at: &str| format!("{train} --save-epochs {at}-epochs --dynamics {at}-dynamics --out {at}");
    let mut child = bench.command(&job("cut")).spawn().expect("the binary starts");
    while !bench.path("cut-epochs/epoch-002").exists() && child.try_wait().expect("it is a child").is_none() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let interrupt = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    interrupt.expect("kill runs");
    assert_eq!(child.wait().expect("it ends").code(), Some(130));
    bench.fails(&job("cut"), "an interrupted training is there");
    bench.ok(&format!("{} --resume", job("cut")));
    bench.ok(&job("whole"));
    for file in [
        "/model.safetensors",
        "-epochs/epoch-001/model.safetensors",
        "-epochs/epoch-040/model.safetensors",
        "-dynamics/epoch-039.safetensors",
    ] {
        let read = |at: &str| std::fs::read(bench.path(&format!("{at}{file}"))).unwrap();
        assert!(read("cut") == read("whole"), "{file}");
    }
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
