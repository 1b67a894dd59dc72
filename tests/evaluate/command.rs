//! `wherefore evaluate` as a script meets it.

use crate::cli::{Bench, lines};

#[test]
fn faithfulness_is_a_line_a_method_with_intervals_and_a_run_record() {
    let bench = Bench::new();
    bench.model("bert-cls2");
    bench.records("data.jsonl", 12);
    let command =
        "evaluate faithfulness --model bert-cls2 --data data.jsonl --method saliency,occlusion,random --quiet";
    let rows = lines(&bench.ok(command));
    let names: Vec<&str> = rows.iter().map(|row| row["method"].as_str().unwrap()).collect();
    assert_eq!(names, ["saliency", "occlusion", "random"]);
    for row in &rows {
        assert_eq!(row["records"], 12);
        for measure in ["comprehensiveness", "sufficiency", "aopc_comprehensiveness", "new_p", "deletion", "insertion"]
        {
            let number = |end: &str| row[measure][end].as_f64().unwrap();
            assert!(number("low") <= number("mean") && number("mean") <= number("high"), "{measure}: {row}");
        }
        assert_eq!(row["shares"].as_array().unwrap().len(), 5);
    }
    let occluded = |row: usize| rows[row]["comprehensiveness"]["mean"].as_f64().unwrap();
    assert!(occluded(1) >= occluded(2), "what occlusion says first loses no less than what chance says: {rows:?}");
    bench.ok(&format!("{command} --out table.txt"));
    let table = std::fs::read_to_string(bench.path("table.txt")).unwrap();
    assert!(table.starts_with("method") && table.lines().count() == 4, "{table}");
    assert!(bench.path("table.txt.run.json").is_file());
    bench.write("data.jsonl", "{\"text\":\" \"}\n");
    bench.fails(command, "there is no record with a word to judge methods by");
}

#[test]
fn plausibility_and_consistency_need_what_they_compare_with() {
    let bench = Bench::new();
    bench.model("bert-cls2");
    bench.records("data.jsonl", 6);
    bench.write(
        "gold.jsonl",
        "{\"id\":\"r0\",\"rationales\":[[[0,3]]]}\n{\"id\":\"r2\",\"rationales\":[[[0,3]],[[4,8]]]}\n\
         {\"id\":\"r1\",\"rationales\":[[[5,6]]]}\n{\"id\":\"r3\",\"rationales\":[]}\n",
    );
    let start = "--model bert-cls2 --data data.jsonl --method saliency,random --quiet";
    let rows = lines(&bench.ok(&format!("evaluate plausibility {start} --gold gold.jsonl --as-many-as-gold")));
    assert_eq!((rows.len(), &rows[0]["records"]), (2, &2.into()), "white space and nothing are no rationales");
    assert!(rows[0]["union_f1"]["mean"].as_f64() >= rows[0]["token_f1"]["mean"].as_f64());
    bench.write("other.jsonl", "{\"id\":\"nobody\",\"rationales\":[[[0,3]]]}\n");
    bench.fails(&format!("evaluate plausibility {start} --gold other.jsonl"), "none of the 1 gold rationales");

    // Each record is its own perturbed version: the same words in the same order.
    let text = std::fs::read_to_string(bench.path("data.jsonl")).unwrap();
    let perturbed = lines(&text).into_iter().map(|mut record| {
        record["original"] = record["id"].clone();
        record["id"] = format!("{}x", record["id"].as_str().unwrap()).into();
        record.to_string() + "\n"
    });
    bench.write("perturbed.jsonl", perturbed.collect::<String>());
    let rows = lines(&bench.ok(&format!("evaluate consistency {start} --perturbed perturbed.jsonl")));
    assert_eq!((&rows[0]["pairs"], &rows[0]["map"]["mean"]), (&6.into(), &1.0.into()));
    bench.fails(&format!("evaluate consistency {start} --perturbed data.jsonl"), "original");
    // Chance does not agree with itself, even where each text stands in its own place.
    assert!(rows[1]["map"]["mean"].as_f64().unwrap() < 0.9, "{rows:?}");
}

#[test]
fn what_has_no_original_is_left_out_and_what_was_kept_of_others_is_refused() {
    let bench = Bench::new();
    bench.model("bert-cls2");
    bench.write(
        "a.jsonl",
        "{\"id\":1,\"text\":\"good food\"}\n{\"id\":2,\"text\":\"  \"}\n{\"id\":3,\"text\":\"bad\"}\n",
    );
    let line = |id: u32, of: &str| format!("{{\"id\":{id},\"text\":\"good bad\",\"original\":{of}}}\n");
    let start = "evaluate consistency --model bert-cls2 --data a.jsonl --method saliency --perturbed b.jsonl";
    // The second original has no word: there is nothing to compare, and nothing wrong.
    bench.write("b.jsonl", line(10, "1") + &line(11, "2"));
    assert_eq!(lines(&bench.ok(&format!("{start} --quiet")))[0]["pairs"], 1);
    bench.write("b.jsonl", line(10, "1") + &line(11, "9") + &line(12, "null"));
    bench.fails(start, "b.jsonl:2: original: no record \"9\" in the data");
    let ran = bench.run(&format!("{start} --skip-invalid --out rows.jsonl"));
    assert!(ran.code == Some(1) && ran.err.contains("2 skipped"), "{}", ran.err);
    // Which original a text is of decides its numbers, as the precision does.
    bench.write("b.jsonl", line(10, "1"));
    bench.ok(&format!("{start} --quiet --keep kept"));
    bench.fails(&format!("{start} --precision bf16 --keep kept"), "another model, data or options");
    bench.write("b.jsonl", line(10, "3"));
    bench.fails(&format!("{start} --keep kept"), "of other records");
}

#[test]
fn each_text_of_a_pair_is_judged_by_its_own_gold() {
    let bench = Bench::new();
    bench.model("bert-cls2");
    bench.write("data.jsonl", "{\"id\":\"a\",\"text\":\"good food here\",\"text_pair\":\"bad bad bad bad bad\"}\n");
    let judge = |gold: &str| {
        bench.write("gold.jsonl", format!("{{\"id\":\"a\",{gold}}}\n"));
        let start = "evaluate plausibility --model bert-cls2 --data data.jsonl --method occlusion --quiet";
        lines(&bench.ok(&format!("{start} --gold gold.jsonl --as-many-as-gold"))).remove(0)
    };
    // As many words as the text has: whatever is said of the pair, they are the first of its own.
    let whole = judge("\"rationales\":[[[0,14]]]");
    assert_eq!((&whole["records"], &whole["token_f1"]["mean"]), (&1.into(), &1.0.into()));
    let both = judge("\"rationales\":[[[0,14]]],\"pair_rationales\":[[[0,19]]]");
    assert_eq!((&both["records"], &both["token_f1"]["mean"]), (&2.into(), &1.0.into()));
}

/// A record's number says where it was, not what it is.
#[test]
fn training_data_that_were_not_indexed_are_refused() {
    let bench = Bench::new();
    bench.model("bert-cls2");
    bench.records("training.jsonl", 20);
    bench.records("queries.jsonl", 3);
    bench.ok("index --model bert-cls2 --data training.jsonl --store store --quiet");
    let text = std::fs::read_to_string(bench.path("training.jsonl")).unwrap();
    let changed = |change: &dyn Fn(usize, &mut serde_json::Value)| {
        let mut rows = lines(&text);
        rows.iter_mut().enumerate().for_each(|(i, row)| change(i, row));
        bench.write("other.jsonl", rows.iter().map(|row| row.to_string() + "\n").collect::<String>());
    };
    let yardsticks = ["leave-out", "lds --subsets 3", "tail-patch", "removal"];
    let refused = |yardstick: &str, says: &str| {
        let start = "--store store --data queries.jsonl --rule loss --keep kept.jsonl --quiet";
        let ran = bench.run(&format!("evaluate {yardstick} {start} --training other.jsonl"));
        ran.failed(says);
        assert!(ran.err.contains("give the data that were indexed"), "{}", ran.err);
        assert!(!bench.path("kept.jsonl").exists(), "nothing is trained, and nothing kept");
    };
    let swapped = text.lines().rev().map(|line| line.to_owned() + "\n");
    bench.write("other.jsonl", swapped.collect::<String>());
    for yardstick in yardsticks {
        refused(yardstick, "training record 0: id: expected \"r0\", found \"r19\"");
    }
    changed(&|i, row| {
        if i >= 7 {
            row["text"] = "something else".into();
        }
    });
    refused("leave-out", "training record 7: text: expected \"很好看的书 很好看的书 7\", found \"something else\"");
    changed(&|i, row| {
        if i == 5 {
            row["label"] = 0.into();
        }
    });
    refused("lds --subsets 3", "training record 5: label: expected \"LABEL_1\", found \"LABEL_0\"");
    changed(&|i, row| {
        if i == 2 {
            row["text_pair"] = "more".into();
        }
    });
    refused("removal", "training record 2: pair: expected none, found one");
    // Long texts are told where they part.
    let long = "the food was good ".repeat(20);
    let row = |end: &str| serde_json::json!({"id": "long", "text": format!("{long}{end}"), "label": 1}).to_string();
    bench.write("long.jsonl", format!("{text}{}\n", row("and so on")));
    bench.write("other.jsonl", format!("{text}{}\n", row("but not so on")));
    std::fs::remove_dir_all(bench.path("store")).unwrap();
    bench.ok("index --model bert-cls2 --data long.jsonl --store store --quiet");
    refused("leave-out", "training record 20: text: expected \"… was good and so on\"");
}

/// What is kept is of rows, which are others when records are removed.
#[test]
fn what_was_kept_of_a_store_is_not_of_what_removal_left() {
    let bench = Bench::new();
    bench.model("bert-cls2");
    bench.records("training.jsonl", 20);
    bench.records("queries.jsonl", 3);
    bench.ok("index --model bert-cls2 --data training.jsonl --store store --quiet");
    let command = "evaluate lds --subsets 3 --rule loss --store store --data queries.jsonl --training training.jsonl --keep kept.jsonl --quiet";
    bench.ok(command);
    bench.ok(command);
    bench.ok("store remove store --indexes 3");
    bench.fails(command, "another model, data or options");
}

#[test]
fn what_cannot_be_judged_is_refused() {
    let bench = Bench::new();
    bench.model("bert-regression");
    bench.records("data.jsonl", 2);
    bench.fails("evaluate faithfulness --model bert-regression --data data.jsonl --quiet", "expected a classifier");
    bench.model("bert-cls2");
    bench.fails("evaluate faithfulness --model bert-cls2 --data data.jsonl --shares 2 --quiet", "shares");
}

#[test]
fn turned_labels_are_found_better_than_by_chance() {
    let bench = Bench::new();
    bench.model("bert-cls2");
    let good = ["the food was good", "I loved the movie", "good good good", "so good to us"];
    let bad = ["the food was bad", "the staff was bad", "bad bad bad", "so bad to us"];
    let line = |i: usize| {
        let words = if i.is_multiple_of(2) { good } else { bad };
        let text = format!("{} {}", words[i / 2 % 4], words[i / 8 % 4]);
        serde_json::json!({ "id": i.to_string(), "text": text, "label": i % 2 }).to_string() + "\n"
    };
    bench.write("data.jsonl", (0..60).map(line).collect::<String>());
    let command = "evaluate label-noise --model bert-cls2 --data data.jsonl --share 0.1 --projection-dim 64 --quiet";
    let rows = lines(&bench.ok(command));
    let auc = |signal: &str| rows.iter().find(|row| row["signal"] == signal).unwrap()["auc"].as_f64().unwrap();
    assert!(rows.iter().all(|row| row["turned"] == 6 && row["records"] == 60), "{rows:?}");
    // Of a ranking by chance, the area has this standard deviation (Mann and Whitney 1947): three of them are no
    // chance.
    let deviation = (61.0_f64 / (12.0 * 6.0 * 54.0)).sqrt();
    for signal in ["combined", "text", "loss", "gradient-length"] {
        assert!(auc(signal) > 0.5 + 3.0 * deviation, "{signal}: {rows:?}");
    }
    assert!((0.1..0.9).contains(&auc("random")), "{rows:?}");
    bench.fails("evaluate label-noise --model bert-cls2 --data data.jsonl --share 0 --quiet", "--share");
    let text = std::fs::read_to_string(bench.path("data.jsonl")).unwrap();
    bench.write("odd.jsonl", format!("{{\"id\": \"odd\", \"text\": \"good\", \"label\": \"other\"}}\n{text}"));
    let odd = command.replace("data.jsonl", "odd.jsonl");
    let ran = bench.run(&odd);
    ran.failed("odd.jsonl:1: ");
    assert!(ran.err.contains("--skip-invalid"), "{}", ran.err);
    let ran = bench.run(&format!("{odd} --skip-invalid"));
    assert_eq!((ran.code, &lines(&ran.out)[0]["records"]), (Some(1), &60.into()), "{}", ran.err);
    bench.write("unlabelled.jsonl", "{\"text\": \"good\"}\n");
    let unlabelled = "evaluate label-noise --model bert-cls2 --data unlabelled.jsonl --skip-invalid --quiet";
    bench.fails(unlabelled, "expected at least 2 records with a label, found 0");
}
