//! Plans carried out: data changed, models trained on both, compared; and the same round by round.

use serde_json::{Value, json};

use super::{Bench, lines};

fn records(bench: &Bench, name: &str) -> Vec<Value> {
    lines(&std::fs::read_to_string(bench.path(name)).unwrap_or_else(|error| panic!("{name}: {error}")))
}

/// Records of two classes that a word tells, every eighth with the other label.
fn data(from: usize, to: usize) -> Vec<Value> {
    let fillers = ["the food", "a book", "this film", "our room", "the phone"];
    let record = |i: usize| {
        let class = i % 2;
        let word = if class == 1 { "good" } else { "bad" };
        let text = format!("{} was {word} to us {}", fillers[i / 2 % fillers.len()], i % 7);
        json!({ "id": format!("r{i}"), "text": text, "label": if i % 8 == 3 { 1 - class } else { class }, "true": class })
    };
    (from..to).map(record).collect()
}

fn jsonl(records: &[Value]) -> String {
    records.iter().fold(String::new(), |lines, record| format!("{lines}{record}\n"))
}

fn truth(records: &[Value]) -> Vec<Value> {
    records
        .iter()
        .map(|record| json!({ "id": record["id"], "text": record["text"], "label": record["true"] }))
        .collect()
}

/// A folder with a tiny model, 64 training records of which 8 are wrong, and 24 to be judged on.
fn bench() -> Bench {
    let bench = Bench::new();
    bench.model("bert-cls2");
    bench.write("train.jsonl", jsonl(&data(0, 64)));
    bench.write("truth.jsonl", jsonl(&truth(&data(0, 64))));
    bench.write("dev.jsonl", jsonl(&truth(&data(100, 124))));
    bench
}

const PLAN: &str = r#"
model = "bert-cls2"
data = ["train.jsonl"]
dev = ["dev.jsonl"]
seeds = 2
[train]
epochs = 2
learning_rate = 1e-3
batch_size = 16
[[arm]]
name = "corrected"
[[arm.step]]
do = "correct"
corrections = ["truth.jsonl"]
[[arm]]
name = "cleaned"
[[arm.step]]
do = "drop"
what = "leaks"
[[arm.step]]
do = "drop"
what = "copies"
[[arm.step]]
do = "relabel"
signal = "text"
top = 8
[[arm.step]]
do = "reweight"
words = { false_discovery = 0.5 }
[[arm]]
name = "more"
[[arm.step]]
do = "rebalance"
words = { least_share = 0.7 }
[[arm.step]]
do = "augment"
change = "swap"
count = 5
[[arm.step]]
do = "add"
pool = ["pool.jsonl"]
answers = ["answers.jsonl"]
count = 6
threshold = -1.0
"#;

#[test]
fn two_plans_cannot_have_one_folder() {
    let bench = bench();
    bench.write("plan.toml", PLAN);
    std::fs::create_dir(bench.path("out")).unwrap();
    let lock = std::fs::File::create(bench.path("out/.lock")).unwrap();
    lock.lock().unwrap();
    for more in ["", "--overwrite"] {
        bench.fails(&format!("improve plan.toml --out out {more}"), "out: another process is writing to this folder");
    }
    assert!(!bench.path("out/plan.json").exists());
}

#[test]
fn a_plan_changes_data_trains_on_both_and_compares() {
    let bench = bench();
    let pool = truth(&data(200, 220));
    let bare: Vec<Value> = pool.iter().map(|r| json!({ "id": r["id"], "text": r["text"] })).collect();
    bench.write("pool.jsonl", jsonl(&bare));
    bench.write("answers.jsonl", jsonl(&pool));
    bench.write("plan.toml", PLAN);
    bench.ok("improve plan.toml --out out");
    let comparison = &records(&bench, "out/comparison.jsonl")[0];
    let arms = comparison["arms"].as_array().unwrap();
    let names: Vec<&str> = arms.iter().map(|arm| arm["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["before", "corrected", "cleaned", "more"]);
    for arm in arms {
        let accuracy = &arm["sets"][0]["metrics"]["accuracy"];
        assert_eq!(accuracy["values"].as_array().unwrap().len(), 2);
        assert_eq!(accuracy["gain"].is_null(), arm["name"] == "before");
    }
    assert_eq!((&arms[1]["changes"]["correct"], &arms[1]["records"]), (&json!(8), &json!(64)));
    // Every record that was changed is told, with what it was, and the data are what the changes say.
    let corrected = records(&bench, "out/corrected/data.jsonl");
    let before = data(0, 64);
    for (record, was) in corrected.iter().zip(&before) {
        assert_eq!((&record["id"], &record["label"]), (&was["id"], &was["true"]));
    }
    let changes = records(&bench, "out/cleaned/changes.jsonl");
    let dropped = changes.iter().filter(|change| change["change"] == "drop").count();
    assert!(dropped > 0 && changes.iter().any(|change| change["change"] == "relabel"), "{changes:?}");
    assert_eq!(records(&bench, "out/cleaned/data.jsonl").len(), 64 - dropped);
    assert!(changes.iter().all(|change| !change["reason"].as_str().unwrap().is_empty()));
    let more = records(&bench, "out/more/data.jsonl");
    let added = |kind: &str| arms[3]["changes"][kind].as_u64().unwrap_or(0);
    assert_eq!((added("augment"), added("add")), (5, 6));
    assert_eq!(more.len() as u64, 64 + added("copy") + 11);
    let ids: std::collections::BTreeSet<String> = more.iter().map(|record| record["id"].to_string()).collect();
    assert_eq!(ids.len(), more.len());

    // How it came to be is beside it, and stays as it is where nothing is computed.
    let record = std::fs::read(bench.path("out/comparison.jsonl.run.json")).unwrap();
    let told: Value = serde_json::from_slice(&record).unwrap();
    assert_eq!(told["trainings"], 8);
    assert!(
        told["summary"]["tokens"].as_u64().unwrap() > 1000 && told["data"].as_array().unwrap().len() >= 5,
        "{told}"
    );
    assert!(told["model"]["fingerprint"].as_str().is_some_and(|text| text.len() == 64), "{told}");
    bench.ok("improve plan.toml --out out");
    assert!(std::fs::read(bench.path("out/comparison.jsonl.run.json")).unwrap() == record);
    // It is the same plan wherever it is called from.
    for plan in ["./plan.toml".to_owned(), bench.path("plan.toml").display().to_string()] {
        bench.ok(&format!("improve {plan} --out out"));
        assert!(std::fs::read(bench.path("out/comparison.jsonl.run.json")).unwrap() == record, "{plan}");
    }

    // What is lost is made again, to the same bytes; what is there is not.
    let first = std::fs::read(bench.path("out/comparison.jsonl")).unwrap();
    std::fs::remove_file(bench.path("out/comparison.jsonl")).unwrap();
    std::fs::remove_dir_all(bench.path("out/corrected")).unwrap();
    std::fs::remove_file(bench.path("out/more/seed-1/result.json")).unwrap();
    bench.ok("improve plan.toml --out out");
    assert_eq!(std::fs::read(bench.path("out/comparison.jsonl")).unwrap(), first);

    // The page shows it.
    bench.ok("report out/comparison.jsonl out/cleaned/changes.jsonl --out page.html");
    let page = std::fs::read_to_string(bench.path("page.html")).unwrap();
    assert!(page.contains("What it was worth") && page.contains("What was done to the data"));

    // Another plan, or other data, are not taken for these.
    bench.write("plan.toml", PLAN.replace("epochs = 2", "epochs = 1"));
    bench.fails("improve plan.toml --out out", "another plan");
    bench.write("plan.toml", PLAN);
    bench.write("dev.jsonl", jsonl(&truth(&data(100, 120))));
    bench.fails("improve plan.toml --out out", "other data");
    // Nor is a model of other weights at the same place, or another precision.
    bench.write("dev.jsonl", jsonl(&truth(&data(100, 124))));
    bench.fails("improve plan.toml --out out --precision bf16", "another precision");
    let config = std::fs::read(bench.path("bert-cls2/config.json")).unwrap();
    bench.write("bert-cls2/config.json", [&config[..], b"\n"].concat());
    bench.fails("improve plan.toml --out out", "another model");
    bench.write("bert-cls2/config.json", config);
    // What a killed process left before it had a plan is nothing.
    std::fs::create_dir(bench.path("begun")).unwrap();
    bench.write("begun/.wherefore-x1.partial", "{");
    std::fs::create_dir(bench.path("stray")).unwrap();
    bench.write("stray/file", "");
    bench.fails("improve plan.toml --out stray", "holds no plan");
    // Nor is what only has the name of what a plan's folder begins with.
    std::fs::create_dir(bench.path("own")).unwrap();
    bench.write("own/plan.json", "{\"model\":\"bert-cls2\"}");
    bench.fails("improve plan.toml --out own", "holds no plan's results");
    bench.fails("improve plan.toml --out own --overwrite", "holds no plan's results");
    assert_eq!(bench.contents("own").iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["plan.json"]);
    // What a plan reads is not removed to begin anew.
    std::fs::copy(bench.path("dev.jsonl"), bench.path("out/mine.jsonl")).unwrap();
    bench.write("within.toml", PLAN.replace("dev.jsonl", "out/mine.jsonl"));
    bench.fails("improve within.toml --out out --overwrite", "out/mine.jsonl: is in out, which would be emptied");
    // What is no part of a model makes it no other.
    bench.write("bert-cls2/predictions.jsonl", "{}");
    bench.ok("improve plan.toml --out begun");
    bench.ok("improve plan.toml --out out --overwrite");
}

#[test]
fn what_cannot_be_used_of_a_plans_files_is_left_out_and_told_where_it_may() {
    let bench = bench();
    let good = jsonl(&data(0, 64));
    bench.write("train.jsonl", format!("{{\"text\": 3}}\n{good}{}\n", good.lines().next().unwrap()));
    let dev = jsonl(&truth(&data(100, 124)));
    bench.write("dev.jsonl", format!("{{\"text\": \"good\"}}\n{dev}"));
    let (start, steps) = PLAN.split_once("[[arm]]").unwrap();
    bench.write("plan.toml", format!("{start}[[arm]]{}", steps.split("[[arm]]").next().unwrap()));
    let ran = bench.run("improve plan.toml --out out --quiet");
    ran.failed("train.jsonl:1");
    assert!(ran.err.contains("--skip-invalid"), "{}", ran.err);
    assert!(!bench.path("out").exists(), "a plan that came to nothing leaves nothing");
    // The second time all is done, and what was left out is still so.
    for _ in 0..2 {
        let ran = bench.run("improve plan.toml --out out --skip-invalid");
        assert!(ran.code == Some(1) && ran.err.contains("3 records skipped"), "{:?} {}", ran.code, ran.err);
        let rejected = records(&bench, "out.rejected.jsonl");
        let place = |entry: &Value| (entry["file"].as_str().unwrap().to_owned(), entry["line"].as_u64().unwrap());
        let (files, lines): (Vec<String>, Vec<u64>) = rejected.iter().map(place).unzip();
        assert!(files[0].ends_with("train.jsonl") && files[2].ends_with("dev.jsonl"), "{files:?}");
        assert_eq!(lines, [1, 66, 1]);
    }
    let comparison = &records(&bench, "out/comparison.jsonl")[0];
    assert_eq!((&comparison["arms"][0]["records"], &comparison["arms"][1]["records"]), (&json!(64), &json!(64)));
}

#[test]
fn plans_that_cannot_be_carried_out_are_told() {
    let bench = bench();
    bench.write("plan.toml", PLAN);
    bench.fails("improve plan.toml", "a plan needs a place");
    bench.fails("improve nowhere.toml --out out", "nowhere.toml");
    bench.write("pool.jsonl", jsonl(&[json!({ "id": "p", "text": "a good book" })]));
    bench.write("answers.jsonl", "");
    // What is chosen is known once a model has been trained: its lines come before the error.
    // What a step leaves is known once the arm before it has been trained: its lines come before the error.
    let is_refused = |plan: &str, expected: &str| {
        let ran = bench.run(&format!("improve {plan} --out {plan}.out"));
        let errors: Vec<&str> = ran.err.lines().filter(|line| line.starts_with("wherefore: ")).collect();
        assert!(ran.code == Some(2) && errors.len() == 1 && errors[0].contains(expected), "{}", ran.err);
    };
    is_refused("plan.toml", "has no label");
    bench.write("all.toml", "model = 'bert-cls2'\ndata = ['train.jsonl']\ndev = ['train.jsonl']\nseeds = 1\n[[step]]\ndo = 'drop'\nwhat = 'leaks'\n");
    is_refused("all.toml", "leave no training data");
}

#[test]
fn steps_count_what_is_left_and_add_what_is_not_there() {
    let bench = bench();
    let mut train = data(0, 64);
    // A copy, and one that contradicts.
    train.push(json!({ "id": "copy", "text": train[0]["text"], "label": train[0]["label"] }));
    train.push(
        json!({ "id": "contradicts", "text": train[1]["text"], "label": 1 - train[1]["label"].as_i64().unwrap() }),
    );
    bench.write("train.jsonl", jsonl(&train));
    // Corrections as a table, one of them of nothing.
    bench.write("right.csv", "id,label\nr3,1\nr11,1\nnobody,0\n");
    let mut pool = truth(&data(0, 6));
    for record in &mut pool {
        record["id"] = json!(format!("pool-{}", record["id"]));
    }
    pool.extend(
        (0..5).map(|i| json!({ "id": format!("new-{i}"), "text": format!("a good story number {i}"), "label": 1 })),
    );
    bench.write("pool.jsonl", jsonl(&pool));
    let head = "model = 'bert-cls2'\ndata = ['train.jsonl']\ndev = ['dev.jsonl']\nseeds = 1\n[train]\nepochs = 1\n";
    let arm = |name: &str, steps: &[&str]| {
        let steps = steps.iter().map(|step| format!("[[arm.step]]\n{step}\n"));
        format!("[[arm]]\nname = '{name}'\n{}", steps.collect::<String>())
    };
    let arms = [
        arm("dropped", &["do = 'drop'\nwhat = 'dirty'\ntop = 5"; 2]),
        arm("copies", &["do = 'drop'\nwhat = 'copies'\nsimilarity = 1.0"]),
        arm("corrected", &["do = 'correct'\ncorrections = ['right.csv']"]),
        arm("more", &["do = 'add'\npool = ['pool.jsonl']\ncount = 11\nchoose = 'random'"]),
    ];
    bench.write("plan.toml", format!("{head}{}", arms.concat()));
    let ran = bench.run("improve plan.toml --out out");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(ran.err.contains("1 of 3 match no training record, the first: id \"nobody\""), "{}", ran.err);
    assert!(ran.err.contains("6 of the pool's 11 are in the data already"), "{}", ran.err);
    let of = |arm: &str| -> Vec<Value> {
        let changes = records(&bench, &format!("out/{arm}/changes.jsonl"));
        changes.iter().map(|change| change["id"].clone()).collect()
    };
    assert_eq!(of("dropped").len(), 10);
    let copies = of("copies");
    assert!(copies.contains(&json!("copy")) && !copies.contains(&json!("contradicts")), "{copies:?}");
    assert_eq!(of("corrected"), [json!("r3"), json!("r11")]);
    assert!(records(&bench, "out/corrected/data.jsonl").iter().all(|record| record["label"].is_i64()));
    let more = of("more");
    assert!(more.len() == 5 && more.iter().all(|id| id.as_str().unwrap().starts_with("new-")), "{more:?}");

    bench.write("right.csv", "id,label\nnobody,0\n");
    let ran = bench.run("improve plan.toml --out again");
    assert!(ran.code == Some(2) && ran.err.contains("wherefore: corrections: 1 of 1 match no"), "{}", ran.err);
}

const ROUNDS: &str = r#"
model = "bert-cls2"
data = ["train.jsonl"]
dev = ["dev.jsonl"]
seeds = 1
[train]
epochs = 1
learning_rate = 1e-3
batch_size = 16
[continual]
batches = [["batch-1.jsonl"], ["batch-2.jsonl"]]
budget = 6
recheck = 0.5
answers = ["truth.jsonl"]
gate = false
"#;

#[test]
fn rounds_ask_for_labels_and_go_on_when_they_come() {
    let bench = bench();
    bench.write("plan.toml", ROUNDS);
    let bare = |records: &[Value]| -> Vec<Value> {
        records.iter().map(|r| json!({ "id": r["id"], "text": r["text"] })).collect()
    };
    let said = bench.run("improve plan.toml --out out");
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(said.err.contains("waiting for data") && said.err.contains("batch-1.jsonl"), "{}", said.err);

    // Numbers of records, which the training data have too, tell no record from another.
    let batch = truth(&data(200, 220));
    let number = |(i, record): (usize, &Value)| json!({ "id": format!("r{i}"), "text": record["text"] });
    bench.write("batch-1.jsonl", jsonl(&batch.iter().enumerate().map(number).collect::<Vec<_>>()));
    let said = bench.run("improve plan.toml --out out");
    assert!(said.code == Some(2) && said.err.contains("is of two records with other texts"), "{}", said.err);
    bench.write("batch-1.jsonl", jsonl(&bare(&batch)));
    let said = bench.run("improve plan.toml --out out");
    assert!(said.code == Some(0) && said.err.contains("waiting for 3 labels"), "{}", said.err);
    let asked = records(&bench, "out/round-001/ask.jsonl");
    let kinds: Vec<&str> = asked.iter().map(|record| record["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["suspect", "suspect", "suspect", "new", "new", "new"]);
    let new: Vec<&Value> = asked[3..].iter().map(|record| &record["id"]).collect();
    let answers: Vec<Value> = batch.iter().filter(|record| new.contains(&&record["id"])).cloned().collect();
    bench.write("out/round-001/answers.jsonl", jsonl(&answers));

    // The second batch brings its labels with it.
    bench.write("batch-2.jsonl", jsonl(&truth(&data(300, 320))));
    std::fs::rename(bench.path("batch-2.jsonl"), bench.path("later.jsonl")).unwrap();
    let said = bench.run("improve plan.toml --out out");
    assert!(said.err.contains("batch-2.jsonl"), "{}", said.err);
    let round: Value =
        serde_json::from_str(&std::fs::read_to_string(bench.path("out/round-001/round.json")).unwrap()).unwrap();
    assert_eq!((&round["asked"], &round["records"], &round["waiting"]), (&json!(6), &json!(67), &json!(17)));
    let asked_again = asked[..3].iter().map(|record| record["id"].as_str().unwrap());
    let now = records(&bench, "out/round-001/data.jsonl");
    let right = truth(&data(0, 64));
    for id in asked_again {
        let label = |records: &[Value]| records.iter().find(|record| record["id"] == id).unwrap()["label"].clone();
        assert_eq!(label(&now), label(&right));
    }

    // Of the second round's questions those about the first batch have no answer; with them all it ends.
    std::fs::rename(bench.path("later.jsonl"), bench.path("batch-2.jsonl")).unwrap();
    bench.write("more.jsonl", jsonl(&batch));
    bench.write("plan.toml", ROUNDS.replace("[\"truth.jsonl\"]", "[\"truth.jsonl\", \"more.jsonl\"]"));
    bench.ok("improve plan.toml --out out");
    let rounds = records(&bench, "out/rounds.jsonl");
    assert_eq!(rounds.iter().map(|round| &round["labels"]).collect::<Vec<_>>(), [&json!(0), &json!(6), &json!(12)]);
    // Nobody is asked twice.
    let second = records(&bench, "out/round-002/ask.jsonl");
    assert!(second.iter().all(|record| asked.iter().all(|earlier| earlier["id"] != record["id"])));
    bench.ok("report out/rounds.jsonl --out page.html");
    assert!(std::fs::read_to_string(bench.path("page.html")).unwrap().contains("Round by round"));
}

#[test]
fn a_round_that_is_worse_is_rolled_back_and_its_labels_are_tried_once_more() {
    let bench = bench();
    bench.write("batch-1.jsonl", jsonl(&truth(&data(200, 210))));
    bench.write("batch-2.jsonl", jsonl(&truth(&data(300, 310))));
    // No round can pass a gate that asks for a hundred points more.
    let plan = ROUNDS.replace("seeds = 1", "seeds = 1\ntolerance = -1.0").replace("gate = false", "gate = true");
    // Of one class a record, F1 over all decisions is accuracy; and a batch may be a pattern.
    let plan = plan.replace("[train]", "[train]\nmetric = \"f1-micro\"").replace("batch-1.", "batch-1*.");
    bench.write("plan.toml", plan);
    bench.ok("improve plan.toml --out out");
    let rounds = records(&bench, "out/rounds.jsonl");
    assert_eq!(
        rounds.iter().map(|round| &round["accepted"]).collect::<Vec<_>>(),
        [&json!(true), &json!(false), &json!(false)]
    );
    assert!(rounds.iter().all(|round| round["records"] == 64));
    assert!(rounds[1]["reason"].as_str().unwrap().contains("worse than before"));
    assert!(rounds[1]["reason"].as_str().unwrap().starts_with("accuracy of dev"), "{}", rounds[1]);
    let first = records(&bench, "out/round-001/held.jsonl");
    let second = records(&bench, "out/round-002/data.jsonl");
    assert_eq!(first.len(), 3);
    assert!(first.iter().all(|held| second.iter().any(|record| record["id"] == held["id"])));
    // Nor is what arrives removed to begin anew.
    std::fs::copy(bench.path("batch-2.jsonl"), bench.path("out/later.jsonl")).unwrap();
    bench.write("within.toml", ROUNDS.replace("batch-2.jsonl", "out/later.jsonl"));
    bench.fails("improve within.toml --out out --overwrite", "out/later.jsonl: is in out, which would be emptied");
    // Held once, they are not held again.
    let held = records(&bench, "out/round-002/held.jsonl");
    assert!(held.iter().all(|held| first.iter().all(|earlier| earlier["id"] != held["id"])));
}

#[test]
fn a_model_from_nothing_but_the_data() {
    let bench = bench();
    bench.ok("train --vocabulary 200 --shape 1x32 --data train.jsonl --epochs 1 --out new --labels bad,good");
    assert!(std::fs::read_to_string(bench.path("new/vocab.txt")).unwrap().lines().any(|piece| piece == "good"));
    let predicted = bench.ok("predict --model new --data dev.jsonl");
    assert_eq!(lines(&predicted).len(), 24);
    bench.ok("train --model new --scratch --data train.jsonl --epochs 1 --out again");
    bench.fails("train --vocabulary 3 --data train.jsonl --out x", "--vocabulary");
    assert_eq!(bench.run("train --vocabulary 30 --shape 1x33 --data train.jsonl --out x").code, Some(2));
    assert_eq!(bench.run("train --data train.jsonl --out x").code, Some(2));
}

#[test]
fn a_plan_of_anything_but_texts_with_a_label_each_is_told_what_to_do() {
    let bench = Bench::new();
    bench.model("bert-tags");
    bench.write("tags.jsonl", "{\"tokens\":[\"Anna\",\"left\"],\"ner_tags\":[1,0]}\n");
    bench.write(
        "plan.toml",
        "model = \"bert-tags\"\ndata = [\"tags.jsonl\"]\ndev = [\"tags.jsonl\"]\n[[step]]\ndo = \"relabel\"\ntop = 1\n",
    );
    bench.fails(
        "improve plan.toml --out made --quiet",
        "data: a plan is of texts with a label each, found words with tags",
    );
}
