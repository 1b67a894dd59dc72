//! Audits of a store, on the bundled mails with faults planted in them.

use serde_json::{Value, json};

use super::{Bench, lines};

/// Records taken.
const MAILS: usize = 600;

/// The first of the bundled training mails.
fn mails() -> Vec<Value> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo/train.jsonl");
    let text = std::fs::read_to_string(file).expect("the bundled mails");
    text.lines().take(MAILS).map(|line| serde_json::from_str(line).expect("a mail")).collect()
}

fn jsonl(records: &[Value]) -> String {
    records.iter().map(Value::to_string).collect::<Vec<_>>().join("\n")
}

fn records(bench: &Bench, name: &str) -> Vec<Value> {
    lines(&std::fs::read_to_string(bench.path(name)).expect("a result"))
}

/// Labels turned: every tenth.
fn turned(index: u64) -> bool {
    index % 10 == 3
}

fn with_turned_labels() -> Bench {
    let bench = Bench::new();
    let mut mails = mails();
    for (index, mail) in mails.iter_mut().enumerate().filter(|(index, _)| turned(*index as u64)) {
        let other = if mail["label"] == "spam" { "ham" } else { "spam" };
        mail["label"] = json!(other);
        mail["text"] = json!(format!("{} {index}", mail["text"].as_str().unwrap_or_default()));
    }
    bench.write("train.jsonl", jsonl(&mails));
    index(&bench, "train.jsonl");
    bench
}

fn index(bench: &Bench, data: &str) {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo/model");
    bench.ok(&format!("index --model {model} --data {data} --store store"));
}

/// The mean, over the turned labels, of the precision down to each.
fn average_precision(ranking: &[Value]) -> f64 {
    let (mut found, mut sum) = (0.0, 0.0);
    for (rank, record) in ranking.iter().enumerate() {
        if turned(record["index"].as_u64().unwrap()) {
            found += 1.0;
            sum += found / (rank + 1) as f64;
        }
    }
    sum / found
}

#[test]
fn turned_labels_come_first() {
    let bench = with_turned_labels();
    let ran = bench.run("audit dirty --store store --out dirty.jsonl");
    let ranking = records(&bench, "dirty.jsonl");
    assert_eq!(ranking.len(), MAILS);
    let [words, features] = ["its words ", "its features "].map(|judge| {
        let doubts = |reason: &str| reason.contains(judge) || reason.contains("its words and its features");
        ranking.iter().filter(|record| record["reason"].as_str().is_some_and(doubts)).count()
    });
    let told = format!("found labels in doubt: {words} by the records' words, {features} by their features");
    assert!(words > 0 && ran.err.contains(&told), "{told}: {}", ran.err);
    for (rank, record) in ranking.iter().enumerate() {
        assert_eq!(record["rank"], rank + 1);
        assert_eq!(record["neighbours"].as_array().unwrap().len(), 5);
        assert!(record["neighbours"].as_array().unwrap().iter().all(|near| near["index"] != record["index"]));
        assert_eq!(record["signals"].as_object().unwrap().len(), 6);
    }
    assert!(ranking.windows(2).all(|pair| pair[0]["score"].as_f64() >= pair[1]["score"].as_f64()));
    let combined = average_precision(&ranking);
    for signal in ["text", "representer", "representer-soft", "self-influence", "neighbours", "confident"] {
        bench.ok(&format!("audit dirty --store store --signal {signal} --out {signal}.jsonl"));
        let alone = records(&bench, &format!("{signal}.jsonl"));
        assert_eq!(alone[0]["signals"].as_object().unwrap().len(), 1);
        // Chance is 0.1. The soft representer looks at no label, and has no part in what is asked of the others.
        let ap = average_precision(&alone);
        assert!(signal == "representer-soft" || ap > 0.3, "{signal}: {ap}");
        assert!(combined > ap || signal != "text", "combined {combined}, {signal} {ap}");
    }
    let first = &ranking[0];
    assert_ne!(first["label"], first["suggested_label"]);
    assert!(first["reason"].as_str().unwrap().contains("say"), "{first}");
}

#[test]
fn a_wrong_label_is_found_whether_its_record_comes_once_or_three_times() {
    let bench = Bench::new();
    let mut mails = mails();
    let copy = |mail: &Value, copy: usize| {
        let id = format!("{}#{copy}", mail["id"].as_str().unwrap());
        json!({ "id": id, "text": mail["text"].as_str().unwrap().to_uppercase(), "label": mail["label"] })
    };
    for index in (0..MAILS).filter(|index| index % 20 == 3) {
        mails[index]["label"] = json!(if mails[index]["label"] == "spam" { "ham" } else { "spam" });
        let copies = [1, 2].map(|number| copy(&mails[index], number));
        mails.extend(copies);
    }
    bench.write("train.jsonl", jsonl(&mails));
    index(&bench, "train.jsonl");
    for signal in ["combined", "text", "confident", "neighbours"] {
        bench.ok(&format!("audit dirty --store store --signal {signal} --out {signal}.jsonl"));
        let wrong = |record: &&Value| {
            let index = record["index"].as_u64().unwrap() as usize;
            index >= MAILS || index % 20 == 3
        };
        let all = mails.len() - MAILS + MAILS / 20;
        let ranking = records(&bench, &format!("{signal}.jsonl"));
        let found = ranking.iter().take(all).filter(wrong).count();
        assert!(3 * found > 2 * all, "{signal}: {found} of {all}");
    }
}

#[test]
fn threads_do_not_matter_to_an_audit() {
    let bench = with_turned_labels();
    bench.ok("audit dirty --store store --threads 1 --out one.jsonl");
    bench.ok("audit dirty --store store --threads 3 --out three.jsonl");
    assert!(records(&bench, "one.jsonl") == records(&bench, "three.jsonl"));
}

#[test]
fn labels_that_cannot_be_judged_are_refused() {
    let bench = Bench::new();
    let model = bench.model("bert-cls2");
    bench.records("train.jsonl", 12);
    bench.ok(&format!("index --model {model} --data train.jsonl --store predicted --target predicted"));
    bench.fails("audit dirty --store predicted", "factors are of predicted labels");
    bench.write("bare.jsonl", "{\"text\":\"no label\"}\n");
    bench.ok(&format!("index --model {model} --data bare.jsonl --store bare"));
    bench.fails("audit dirty --store bare", "no record of the store has a label");
    bench.fails("audit dirty --store nowhere", "nowhere");
    bench.fails("audit redundant --store bare --threshold 0", "--threshold");
    let regression = bench.model("bert-regression");
    bench.write("values.jsonl", "{\"text\":\"a\",\"label\":0.5}\n");
    bench.ok(&format!("index --model {regression} --data values.jsonl --store values"));
    bench.fails("audit dirty --store values", "one class");
    bench.fails("audit bias --store values", "one class");
}

#[test]
fn copies_contradictions_and_leaks_are_told_apart() {
    let bench = Bench::new();
    let mails = mails();
    let mut training = mails[..40].to_vec();
    let copy = |of: usize, id: &str| json!({"id": id, "text": mails[of]["text"], "label": mails[of]["label"]});
    training.push(copy(5, "copy"));
    let other = if mails[7]["label"] == "spam" { "ham" } else { "spam" };
    training.push(json!({"id": "contradiction", "text": mails[7]["text"], "label": other}));
    bench.write("train.jsonl", jsonl(&training));
    bench.write("test.jsonl", jsonl(&[copy(9, "leak"), mails[50].clone()]));
    index(&bench, "train.jsonl");
    let ran = bench.run("audit redundant --store store --data test.jsonl --out copies.jsonl");
    let told =
        "found 3 copies and near copies: 3 the same text, 1 in --data of a training record, 1 with another label";
    assert!(ran.err.contains(told), "{}", ran.err);
    let found = records(&bench, "copies.jsonl");
    let brief: Vec<_> = found.iter().map(|f| (f["id"].as_str().unwrap(), f["reason"].as_str().unwrap())).collect();
    assert_eq!(
        brief,
        [("contradiction", "a copy, with another label"), ("copy", "a copy"), ("leak", "a copy, of a training record")]
    );
    assert_eq!(
        (&found[0]["of"]["index"], &found[2]["of_set"], &found[2]["set"]),
        (&json!(7), &json!("training"), &json!("data"))
    );

    // What cannot be used is left out where that was asked for.
    bench.write("test.jsonl", jsonl(&[copy(9, "leak"), json!({"text": 3}), copy(9, "leak")]));
    let ran = bench.run("audit redundant --store store --data test.jsonl --out some.jsonl");
    ran.failed("test.jsonl:2");
    assert!(ran.err.contains("--skip-invalid"), "{}", ran.err);
    let ran = bench.run("audit redundant --store store --data test.jsonl --out some.jsonl --skip-invalid");
    assert_eq!((ran.code, &records(&bench, "some.jsonl")[2]["id"]), (Some(1), &json!("leak")), "{}", ran.err);
    let rejected = records(&bench, "some.jsonl.rejected.jsonl");
    assert_eq!(rejected.iter().map(|entry| &entry["line"]).collect::<Vec<_>>(), [&json!(2), &json!(3)]);
}

#[test]
fn a_planted_word_is_found_and_weighs_its_records_down() {
    let bench = Bench::new();
    let mut mails = mails()[..200].to_vec();
    for mail in mails.iter_mut().filter(|mail| mail["label"] == "spam") {
        mail["text"] = json!(format!("zanzibar {}", mail["text"].as_str().unwrap_or_default()));
    }
    bench.write("train.jsonl", jsonl(&mails));
    index(&bench, "train.jsonl");
    let ran = bench.run("audit bias --store store --out words.jsonl --weights weighted.jsonl");
    let words = records(&bench, "words.jsonl");
    let told = format!("found {} words that tell a label too well, first zanzibar (spam), ", words.len());
    assert!(ran.err.contains(&told), "{}", ran.err);
    assert_eq!(
        (&words[0]["word"], &words[0]["label"], &words[0]["share"]),
        (&json!("zanzibar"), &json!("spam"), &json!(1.0))
    );
    assert!(words.iter().all(|word| word["p_value"].as_f64().unwrap() <= 0.01));
    assert!(words.windows(2).all(|pair| pair[0]["score"].as_f64() >= pair[1]["score"].as_f64()));
    assert!((words[0]["lift"].as_f64().unwrap() * words[0]["expected"].as_f64().unwrap() - 1.0).abs() < 1e-9);
    let weights = records(&bench, "weighted.jsonl");
    assert_eq!(weights.len(), mails.len());
    let weight = |label: &str| {
        let all: Vec<f64> =
            weights.iter().filter(|r| r["label"] == label).filter_map(|r| r["weight"].as_f64()).collect();
        all.iter().sum::<f64>() / all.len() as f64
    };
    assert!(weight("spam") < weight("ham"), "{} {}", weight("spam"), weight("ham"));
}

#[test]
fn what_is_unlike_the_training_data_comes_first_and_a_pool_is_chosen_from() {
    let bench = Bench::new();
    let mails = mails();
    bench.write("train.jsonl", jsonl(&mails[..120]));
    index(&bench, "train.jsonl");
    let mut data = mails[100..110].to_vec();
    data.push(json!({"id": "strange", "text": "§§ ¤¤ 0x7f 0x7f 0x7f ¤¤ §§ @@ ##", "label": "ham"}));
    bench.write("dev.jsonl", jsonl(&data));
    bench.write("pool.jsonl", jsonl(&mails[200..260]));
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo/model");
    bench.ok(&format!("index --model {model} --data pool.jsonl --store pool"));
    bench.ok(
        "audit sparse --store store --data dev.jsonl --out sparse.jsonl --targets 4 --pool pool --select 9 --spread 1 --threshold -1 \
         --selected chosen.jsonl",
    );
    let sparse = records(&bench, "sparse.jsonl");
    assert_eq!(sparse.len(), data.len());
    assert!(sparse.windows(2).all(|pair| pair[0]["similarity"].as_f64() <= pair[1]["similarity"].as_f64()));
    let place = sparse.iter().position(|record| record["id"] == "strange").unwrap();
    assert!(place < 5, "{place}"); // the others are training records, their own nearest
    let chosen = records(&bench, "chosen.jsonl");
    let ids: std::collections::BTreeSet<_> = chosen.iter().map(|record| record["id"].to_string()).collect();
    assert_eq!((chosen.len(), ids.len()), (9, 9));
    let targets: Vec<_> = sparse[..4].iter().map(|record| &record["id"]).collect();
    assert!(chosen.iter().all(|record| targets.contains(&&record["target"])));
    // The targets are told in groups, the others are in none.
    assert!(sparse[..4].iter().all(|record| record["cluster"].is_u64()));
    assert!(sparse[4..].iter().all(|record| record.get("cluster").is_none()));
    // Fewer than were asked for are told, and why.
    let few =
        "audit sparse --store store --data dev.jsonl --out again.jsonl --targets 4 --pool pool --selected few.jsonl";
    let told = bench.run(&format!("{few} --select 9 --threshold 1"));
    assert!(
        told.code == Some(0) && told.err.contains("selected 0 of 9") && told.err.contains("--threshold"),
        "{}",
        told.err
    );
    for (given, says) in [
        ("--threshold 3", "--threshold: expected a cosine, -1 to 1, found 3"),
        ("--spread 2", "--spread: expected a cosine, -1 to 1, found 2"),
        ("--share=-1", "--share: expected 0 to 1, found -1"),
        ("--share 1.5", "--share: expected 0 to 1, found 1.5"),
    ] {
        bench.fails(&format!("{few} --select 9 {given}"), says);
    }
    let told = bench.run(&format!("{few} --select 99 --choose random"));
    assert!(told.code == Some(0) && told.err.contains("selected 60 of 99: the pool has no others"), "{}", told.err);
    for choice in ["round-robin", "unsure", "random"] {
        bench.ok(&format!(
            "audit sparse --store store --data dev.jsonl --out again.jsonl --targets 4 --pool pool --select 5 --spread 1 --threshold -1 \
             --selected {choice}.jsonl --choose {choice}"
        ));
        let chosen = records(&bench, &format!("{choice}.jsonl"));
        assert_eq!(chosen.len(), 5, "{choice}");
        assert_eq!(chosen[0].get("target").is_some(), choice == "round-robin");
    }
    let unsure = records(&bench, "unsure.jsonl");
    assert!(unsure.windows(2).all(|pair| pair[0]["score"].as_f64() >= pair[1]["score"].as_f64()));
}

/// Each label is a decision of its own, and the least sure one counts.
#[test]
fn of_several_labels_those_near_a_half_are_unsure() {
    let bench = Bench::new();
    let model = bench.model("bert-multilabel");
    let texts: Vec<Value> = mails()[..40].iter().map(|m| json!({ "id": m["id"], "text": m["text"] })).collect();
    bench.write("pool.jsonl", jsonl(&texts));
    bench.ok(&format!("index --model {model} --data pool.jsonl --store pool --target predicted"));
    bench.ok("audit sparse --store pool --data pool.jsonl --out sparse.jsonl --pool pool --select 40 --spread 1 \
         --selected chosen.jsonl --choose unsure");
    bench.ok(&format!("predict --model {model} --data pool.jsonl --out predicted.jsonl"));
    let predicted = records(&bench, "predicted.jsonl");
    let chosen = records(&bench, "chosen.jsonl");
    assert_eq!(chosen.len(), 40);
    for record in &chosen {
        let said = &predicted[record["index"].as_u64().unwrap() as usize]["probabilities"];
        let sure = said.as_object().unwrap().values().map(|p| (2.0 * p.as_f64().unwrap() - 1.0).abs());
        let unsure = 1.0 - sure.fold(1.0, f64::min);
        assert!((record["score"].as_f64().unwrap() - unsure).abs() < 1e-5, "{record} {said}");
    }
}

#[test]
fn little_covered_records_have_their_neighbours_augmented() {
    let bench = Bench::new();
    let mails = mails();
    bench.write("train.jsonl", jsonl(&mails[..80]));
    bench.write("dev.jsonl", jsonl(&mails[80..120]));
    index(&bench, "train.jsonl");
    bench.ok(
        "audit sparse --store store --data dev.jsonl --out sparse.jsonl --targets 5 --nearest 2 --augment delete --share 0.2 \
         --proposed proposed.jsonl",
    );
    let proposed = records(&bench, "proposed.jsonl");
    assert!((2..=10).contains(&proposed.len()), "{}", proposed.len());
    for record in &proposed {
        let of = mails.iter().find(|mail| mail["id"] == record["of"]).unwrap();
        let (before, after) = (of["text"].as_str().unwrap(), record["text"].as_str().unwrap());
        assert!(after.len() < before.len() && record["label"] == of["label"], "{record}");
    }
    let refused = bench.run("audit sparse --store store --data dev.jsonl --augment fly --proposed p.jsonl");
    assert!(refused.code == Some(2) && refused.err.contains("expected one of duplicate"), "{}", refused.err);
}

#[test]
fn reasons_that_come_back_and_both_remedies() {
    let bench = Bench::new();
    let mut mails = mails()[..60].to_vec();
    for (place, mail) in mails.iter_mut().enumerate() {
        // A word of 20 mails, of which one is no spam.
        if place < 20 {
            mail["text"] = json!(format!("quxword {}", mail["text"].as_str().unwrap()));
            mail["label"] = json!(if place == 0 { "ham" } else { "spam" });
        } else {
            mail["label"] = json!(if place % 2 == 0 { "ham" } else { "spam" });
        }
    }
    bench.write("train.jsonl", jsonl(&mails));
    index(&bench, "train.jsonl");
    bench.ok(
        "audit bias --store store --out bias.jsonl --least-count 15 --weights weights.jsonl --balanced balanced.jsonl \
         --false-discovery 0.5",
    );
    let bias = records(&bench, "bias.jsonl");
    assert!(bias.iter().any(|found| found["word"] == "quxword" && found["label"] == "spam"), "{bias:?}");
    // 19 with the label against one: two more of that one.
    let balanced = records(&bench, "balanced.jsonl");
    let first = mails[0]["id"].as_str().unwrap();
    let of_first = balanced.iter().filter(|record| record["id"].as_str().unwrap().starts_with(first)).count();
    assert_eq!((balanced.len() >= 62, of_first), (true, 3));
    assert_eq!(records(&bench, "weights.jsonl").len(), 60);

    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo/model");
    bench.ok(&format!(
        "explain --model {model} --data train.jsonl --method saliency --target gold --out explained.jsonl"
    ));
    bench.ok("audit bias --store store --explanations explained.jsonl --least-share 0.6 --out reasons.jsonl");
    let reasons = records(&bench, "reasons.jsonl");
    assert!(!reasons.is_empty());
    assert!(reasons.windows(2).all(|pair| pair[0]["rationales"].as_u64() >= pair[1]["rationales"].as_u64()));
    assert!(
        reasons
            .iter()
            .all(|found| found["rationales"].as_u64() >= Some(3) && found["rationale_share"].as_f64() >= Some(0.6))
    );
    bench.fails("audit bias --store store --explanations weights.jsonl", "weights.jsonl");
}

#[test]
fn near_records_of_pairs_have_both_texts() {
    let bench = Bench::new();
    bench.model("bert-cls2");
    let record = |i: usize| {
        let text = format!("the food was {} {i}", ["bad", "good"][i % 2]);
        json!({ "id": format!("r{i}"), "text": text, "text_pair": format!("second segment {i}"), "label": i % 2 })
    };
    let mut all: Vec<Value> = (0..40).map(record).collect();
    all.push(json!({ "id": "copy", "text": all[0]["text"], "text_pair": all[0]["text_pair"], "label": 0 }));
    bench.write("data.jsonl", jsonl(&all));
    bench.ok("index --model bert-cls2 --data data.jsonl --store store");
    for (audit, near) in [
        ("dirty", "/neighbours/0"),
        ("sparse --data data.jsonl", "/nearest/0"),
        ("unreliable --data data.jsonl --method saliency --copies 1", "/nearest/0"),
        ("redundant", "/of"),
        ("bias --false-discovery 0.5", "/examples/0"),
    ] {
        bench.ok(&format!("audit {audit} --store store --out found.jsonl"));
        let found = records(&bench, "found.jsonl");
        let pair = found[0].pointer(near).and_then(|near| near["text_pair"].as_str());
        let pair = pair.unwrap_or_else(|| panic!("{audit}: {}", found[0]));
        assert!(pair.starts_with("second segment"), "{audit}: {pair}");
        let told = format!("<span class=\"soft\">⏐</span> {pair}</p></li>");
        assert!(bench.ok("report found.jsonl").contains(&told), "{audit}");
    }
    let copies = bench.ok("audit redundant --store store --format text");
    assert_eq!(copies.matches("the food was bad 0 ⏐ second segment 0").count(), 2, "{copies}");
}

#[test]
fn predictions_are_trusted_as_far_as_such_predictions_are_right() {
    let bench = Bench::new();
    let mails = mails();
    // Every sixth label is turned, so that there are predictions that are wrong.
    let turn = |(place, mail): (usize, &Value)| {
        let mut mail = mail.clone();
        if place % 6 == 0 {
            mail["label"] = json!(if mail["label"] == "spam" { "ham" } else { "spam" });
        }
        mail
    };
    bench.write("train.jsonl", jsonl(&mails[..100]));
    bench.write("data.jsonl", jsonl(&mails[100..190].iter().enumerate().map(turn).collect::<Vec<_>>()));
    index(&bench, "train.jsonl");
    let how = "--method saliency --copies 1";
    bench.ok(&format!("audit unreliable --store store --data data.jsonl {how} --out trust.jsonl"));
    let found = records(&bench, "trust.jsonl");
    assert_eq!(found.len(), 90);
    assert!(found.windows(2).all(|pair| pair[0]["trust"].as_f64() <= pair[1]["trust"].as_f64()));
    for name in ["probability", "neighbours", "similarity", "stability"] {
        assert!(found.iter().all(|record| (0.0..=1.0).contains(&record["evidence"][name].as_f64().unwrap())), "{name}");
    }
    let text = std::fs::read_to_string(bench.path("trust.jsonl.calibration.json")).unwrap();
    let calibration: Value = serde_json::from_str(&text).unwrap();
    assert!(calibration["expected_calibration_error"].as_f64().unwrap() < 0.2, "{calibration}");
    assert_eq!(
        calibration["bins"].as_array().unwrap().iter().map(|bin| bin["count"].as_u64().unwrap()).sum::<u64>(),
        90
    );
    // Trust may be fitted elsewhere, and data need no labels then.
    let bare: Vec<Value> = mails[190..200].iter().map(|mail| json!({"id": mail["id"], "text": mail["text"]})).collect();
    bench.write("bare.jsonl", jsonl(&bare));
    bench.ok(&format!(
        "audit unreliable --store store --data bare.jsonl --calibrate data.jsonl {how} --out bare-trust.jsonl"
    ));
    assert_eq!(records(&bench, "bare-trust.jsonl").len(), 10);
    bench.fails(
        &format!("audit unreliable --store store --data data.jsonl --calibrate bare.jsonl {how}"),
        "known label",
    );
    // Where nothing is known, what has the least evidence comes first.
    let ran = bench.run(&format!("audit unreliable --store store --data bare.jsonl {how} --out ranked.jsonl"));
    assert!(ran.code == Some(0) && ran.err.contains("trust is not calibrated"), "{}", ran.err);
    let ranked = records(&bench, "ranked.jsonl");
    assert!(ranked.windows(2).all(|pair| pair[0]["trust"].as_f64() <= pair[1]["trust"].as_f64()));
    assert!(ranked[0]["trust"].as_f64() < ranked[9]["trust"].as_f64());
}

#[test]
fn a_training_s_dynamics_are_signals_and_a_map() {
    use wherefore::train::{DynamicsHeader, DynamicsWriter, Moment};
    let bench = Bench::new();
    let mails = &mails()[..40];
    bench.write("train.jsonl", jsonl(mails));
    index(&bench, "train.jsonl");
    bench.fails("audit dirty --store store --signal margin", "needs the dynamics of a training");
    let header = DynamicsHeader {
        problem: wherefore::model::Problem::SingleLabel,
        classes: vec!["ham".to_owned(), "spam".to_owned()],
    };
    let ids = mails.iter().map(|mail| mail["id"].as_str().unwrap().to_owned());
    let numbered: Vec<(u64, String)> = (0..).zip(ids).collect();
    let mut writer = DynamicsWriter::create(&bench.path("dynamics"), header.clone(), &numbered).unwrap();
    // Record 3 is never learnt, record 5 is learnt and forgotten in turn, the others are learnt at once.
    for epoch in 0..4 {
        let moment = |i: u64| match i {
            3 => Moment { probability: 0.1, margin: -2.0, correct: false },
            5 if epoch % 2 == 1 => Moment { probability: 0.3, margin: -0.8, correct: false },
            _ => Moment { probability: 0.9, margin: 2.0, correct: true },
        };
        writer.write_epoch(&(0..40).map(moment).collect::<Vec<_>>()).unwrap();
    }
    for (signal, first) in [("margin", [3, 5]), ("forgetting", [3, 5])] {
        bench.ok(&format!("audit dirty --store store --dynamics dynamics --signal {signal} --out {signal}.jsonl"));
        let ranking = records(&bench, &format!("{signal}.jsonl"));
        assert_eq!([&ranking[0]["index"], &ranking[1]["index"]], [&json!(first[0]), &json!(first[1])], "{signal}");
    }
    bench.ok("audit map --store store --dynamics dynamics --out map.jsonl");
    let map = records(&bench, "map.jsonl");
    let regions: Vec<_> = map.iter().map(|record| record["region"].as_str().unwrap()).collect();
    assert_eq!((regions.len(), regions[0], regions[1], regions[2]), (40, "suspect", "ambiguous", "easy"));
    assert_eq!((&map[0]["forgotten"], &map[1]["forgotten"]), (&Value::Null, &json!(2)));

    // Of a training on a part, the others are left out, and that is told.
    let mut writer = DynamicsWriter::create(&bench.path("part"), header.clone(), &numbered[..30]).unwrap();
    writer.write_epoch(&[Moment::default(); 30]).unwrap();
    for (audit, told) in [("map", true), ("dirty --signal margin", true), ("dirty --signal text", false)] {
        let ran = bench.run(&format!("audit {audit} --store store --dynamics part --out part.jsonl"));
        assert_eq!((ran.code, ran.err.contains("left out 10 of 40 records")), (Some(0), told), "{audit}: {}", ran.err);
        assert_eq!(records(&bench, "part.jsonl").len(), if told { 30 } else { 40 }, "{audit}");
    }
    let run: Value = serde_json::from_slice(&std::fs::read(bench.path("map.jsonl.run.json")).unwrap()).unwrap();
    assert_eq!(run["without_dynamics"], 0);

    // Numbers alone join nothing.
    let others = |name: &str, header: &DynamicsHeader, records: &[(u64, String)]| {
        let mut writer = DynamicsWriter::create(&bench.path(name), header.clone(), records).unwrap();
        writer.write_epoch(&vec![Moment::default(); records.len()]).unwrap();
    };
    let mut renamed = numbered.clone();
    renamed[7].1 = "another".to_owned();
    others("renamed", &header, &renamed);
    others("elsewhere", &header, &[(4000, "far".to_owned())]);
    let classes = vec!["bad".to_owned(), "good".to_owned()];
    others("classes", &DynamicsHeader { classes, ..header }, &numbered);
    for (name, told) in [("renamed", "record 7"), ("elsewhere", "records: expected some"), ("classes", "ham, spam")] {
        bench.fails(&format!("audit map --store store --dynamics {name}"), told);
        bench.fails(&format!("audit dirty --store store --dynamics {name}"), told);
    }
}
