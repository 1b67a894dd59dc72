//! A store that lives: data added, records taken out.

use std::fs;
use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;

use super::{Bench, lines};

/// Records `from..to` with the ids of their numbers in the whole data.
fn write(bench: &Bench, name: &str, from: usize, to: usize) {
    let record =
        |i: usize| json!({ "id": format!("r{i}"), "text": format!("the food was good {}", i % 23), "label": i % 2 });
    bench.write(name, (from..to).map(|i| record(i).to_string() + "\n").collect::<String>());
}

#[test]
fn data_added_are_indexed_as_if_they_had_been_there() {
    let bench = Bench::new();
    let model = bench.model("bert-cls2");
    let index = format!("index --model {model} --block-records 8 --quiet");
    write(&bench, "all.jsonl", 0, 50);
    bench.ok(&format!("{index} --data all.jsonl --store whole"));
    write(&bench, "a.jsonl", 0, 21);
    write(&bench, "b.jsonl", 21, 24);
    write(&bench, "c.jsonl", 24, 50);
    bench.ok(&format!("{index} --data a.jsonl --store grown"));
    for more in ["b.jsonl", "c.jsonl"] {
        bench.ok(&format!("{index} --data {more} --store grown --append"));
    }
    assert_eq!(bench.contents("grown"), bench.contents("whole"));
    bench.fails(&format!("{index} --data c.jsonl --store grown --append"), "duplicate id \"r24\"");
    assert_eq!(bench.contents("grown"), bench.contents("whole"), "a refusal changes nothing");
    bench.fails(&format!("{index} --data c.jsonl --store nowhere --append"), "nowhere");
    bench.fails(&format!("{index} --data c.jsonl --store grown --append --target predicted"), "target");
}

/// What is left open is the store's; what is given and is another's is refused with both.
#[test]
fn data_are_added_by_the_settings_of_their_store() {
    let bench = Bench::new();
    let model = bench.model("bert-cls2");
    bench.model("bert-cls2-checkpoint");
    write(&bench, "all.jsonl", 0, 24);
    write(&bench, "a.jsonl", 0, 13);
    write(&bench, "b.jsonl", 13, 24);
    let projected =
        "--gradients projected --projection-dim 64 --projection sjlt --seed 3 --checkpoint bert-cls2-checkpoint:0.5";
    for (name, settings) in [
        ("rounded", "--target predicted --dtype f16 --block-records 8 --max-length 12 --keep-column label"),
        ("projected", projected),
        ("layers", "--gradients projected --layer-dim 16 --scan int8"),
        ("halved", "--precision bf16"),
    ] {
        let index = format!("index --model {model} --quiet {settings}");
        bench.ok(&format!("{index} --data all.jsonl --store {name}-whole"));
        bench.ok(&format!("{index} --data a.jsonl --store {name}"));
        bench.ok(&format!("index --append --data b.jsonl --store {name} --quiet"));
        assert!(bench.contents(name) == bench.contents(&format!("{name}-whole")), "{name}");
    }
    let run: serde_json::Value =
        serde_json::from_slice(&fs::read(bench.path("rounded.run.json")).expect("it is there")).expect("it is JSON");
    assert_eq!((&run["settings"]["dtype"], &run["settings"]["block-records"]), (&json!("f16"), &json!(8)));
    write(&bench, "c.jsonl", 24, 30);
    let append = "index --append --data c.jsonl --quiet --store";
    for (store, given, expected) in [
        ("rounded", "--dtype f32", "dtype: \"f16\" in one, \"f32\" in the other"),
        ("rounded", "--max-length 9", "max_length: 12 in one, 9 in the other"),
        ("rounded", "--precision bf16", "precision: \"f32\" in one, \"bf16\" in the other"),
        ("projected", "--seed 4", "\"seed\":4"),
        ("projected", "--gradients last-layer", "width"),
    ] {
        bench.fails(&format!("{append} {store} {given}"), expected);
    }
}

/// Neither a job that goes on nor a merge mixes what was computed, or is kept, in different ways.
#[test]
fn precisions_and_scan_copies_are_not_mixed() {
    let bench = Bench::new();
    let model = bench.model("bert-cls2");
    write(&bench, "data.jsonl", 0, 20);
    let index = format!("index --model {model} --data data.jsonl --block-records 8 --quiet --store");
    bench.ok(&format!("{index} plain"));
    bench.ok(&format!("{index} halved --precision bf16"));
    let refused = |command: &str, difference: &str, hint: &str| {
        let ran = bench.run(command);
        ran.failed(difference);
        assert!(ran.err.contains(hint), "{}", ran.err);
    };
    refused(
        &format!("{index} plain --resume --precision bf16"),
        "begun with other settings than this run's: precision: \"f32\" in one, \"bf16\" in the other",
        "hint: go on with `--precision f32`",
    );
    refused(&format!("{index} halved --resume"), "\"bf16\" in one, \"f32\" in the other", "`--precision bf16`");
    bench.ok(&format!("{index} halved --resume --precision bf16"));
    assert!(bench.ok("store info halved --format text").contains("precision    bf16"));
    refused(
        &format!("{index} plain --resume --scan int8"),
        "scan: none in one, \"int8\" in the other",
        "same settings",
    );

    bench.ok(&format!("{index} first --shard 0/2"));
    for (part, settings, difference, hint) in [
        ("bf16", "--precision bf16", ["precision: \"f32\" in one, \"bf16\"", "\"f32\" in the other"], "`--precision "),
        ("scanned", "--scan int8", ["scan: none in one, \"int8\"", "scan: \"int8\" in one, none"], ""),
    ] {
        bench.ok(&format!("{index} {part} --shard 1/2 {settings}"));
        refused(&format!("merge --store merged first {part}"), difference[0], hint);
        refused(&format!("merge --store merged {part} first"), difference[1], hint);
    }
    assert!(!bench.path("merged").exists());
}

/// A folder that a command made goes with it where nothing in it was finished; what was there before, and finished
/// shards, stay.
#[test]
fn a_failed_index_leaves_no_folder_of_its_own() {
    let bench = Bench::new();
    let model = bench.model("bert-cls2");
    let index = format!("index --model {model} --block-records 8 --quiet");
    write(&bench, "good.jsonl", 0, 20);
    let good = fs::read_to_string(bench.path("good.jsonl")).expect("written");
    bench.write("bad.jsonl", "{\"id\": 1}\n");
    bench.write("late.jsonl", format!("{good}{{\"id\": 1}}\n"));
    bench.fails(&format!("{index} --data bad.jsonl --store made"), "no text column");
    assert!(!bench.path("made").exists());
    fs::create_dir(bench.path("found")).expect("a folder is made");
    bench.fails(&format!("{index} --data bad.jsonl --store found"), "no text column");
    assert!(bench.path("found").exists());
    bench.fails(&format!("{index} --data late.jsonl --store begun"), "late.jsonl:21");
    assert!(bench.path("begun").join("shard-00000.safetensors").exists());
}

#[test]
fn records_without_ids_go_on_being_numbered() {
    let bench = Bench::new();
    let model = bench.model("bert-cls2");
    let lines_of =
        |n: usize| (0..n).map(|i| json!({ "text": format!("good {i}") }).to_string() + "\n").collect::<String>();
    bench.write("a.jsonl", lines_of(5));
    bench.write("b.jsonl", lines_of(3));
    bench.ok(&format!("index --model {model} --data a.jsonl --store store --quiet"));
    bench.ok(&format!("index --model {model} --data b.jsonl --store store --append --quiet"));
    let found = lines(&bench.ok("search --store store --self --rule feature-cos -k 1 --quiet"));
    let ids: Vec<String> = found.iter().map(|one| one["id"].as_str().unwrap_or_default().to_owned()).collect();
    assert_eq!(ids, ["0", "1", "2", "3", "4", "5", "6", "7"]);
    bench.write("c.jsonl", "{\"id\": 6, \"text\": \"again\"}\n");
    bench.fails(&format!("index --model {model} --data c.jsonl --store store --append --quiet"), "duplicate id \"6\"");
}

#[test]
fn a_record_taken_out_is_found_no_more_by_any_rule() {
    let bench = Bench::new();
    let model = bench.model("bert-cls2");
    let index = format!("index --model {model} --block-records 8 --quiet");
    write(&bench, "all.jsonl", 0, 40);
    bench.ok(&format!("{index} --data all.jsonl --store store"));
    bench.write("ids.txt", "r7\nr8\n");
    let told = bench.ok("store remove store --ids @ids.txt --indexes 30,31 --format jsonl");
    assert_eq!(lines(&told)[0]["removed"], json!([7, 8, 30, 31]));
    let text = fs::read(bench.path("store/shard-00000.jsonl")).expect("the shard is there");
    assert!(!String::from_utf8_lossy(&text).contains("\"r7\""), "its text is gone");
    for rule in ["grad-dot", "representer", "influence"] {
        let all =
            lines(&bench.ok(&format!("search --store store --text good --rule {rule} -k all --format jsonl --quiet")));
        let ids: Vec<&str> =
            all[0]["proponents"].as_array().expect("hits").iter().filter_map(|hit| hit["id"].as_str()).collect();
        assert_eq!(ids.len(), 36);
        assert!(["r7", "r8", "r30", "r31"].iter().all(|gone| !ids.contains(gone)), "{rule}");
        assert!(
            all[0]["proponents"].as_array().expect("hits").iter().any(|hit| hit["id"] == "r39" && hit["index"] == 39)
        );
    }
    let told = bench.ok("store info store --format text");
    assert!(told.contains("removed      4 records") && told.contains("(finished)"), "{told}");
    assert!(told.contains("problem      single-label, 2") && told.contains("each, f32; target gold"), "{told}");
    assert!(bench.ok("store verify store --format text").contains("36 records (4 removed)"));
    let again = bench.run("store remove store --ids r7,r1 --format text");
    assert_eq!(again.code, Some(1));
    assert!(
        again.out.contains("removed 1 records in 1 blocks, 35 left") && again.out.contains("not in the store: id `r7`")
    );
    bench.fails("store remove store --indexes x", "expected record numbers");
}

#[test]
fn a_plan_tells_what_the_run_then_takes() {
    let bench = Bench::new();
    let model = bench.model("bert-cls2");
    write(&bench, "all.jsonl", 0, 300);
    let index = format!("index --model {model} --data all.jsonl --block-records 64 --quiet");
    let plan = &lines(&bench.ok(&format!("{index} --store store --dry-run --format jsonl")))[0];
    assert!(!bench.path("store").exists(), "nothing is written");
    bench.ok(&format!("{index} --store store --dry-run --out plan.jsonl"));
    assert!(bench.path("plan.jsonl").exists() && bench.path("plan.jsonl.run.json").exists());
    bench.fails(&format!("{index} --store store --out plan.jsonl"), "what is made is the store, at --store");
    bench.ok(&format!("{index} --store store"));
    let run: serde_json::Value =
        serde_json::from_slice(&fs::read(bench.path("store.run.json")).expect("it is there")).expect("it is JSON");
    let taken: u64 = bench.contents("store").iter().map(|(_, bytes)| bytes.len() as u64).sum();
    assert_eq!((&plan["records"], &plan["tokens"]), (&run["summary"]["records"], &run["summary"]["tokens"]));
    assert_eq!((&plan["blocks"], &plan["sampled"]), (&json!(5), &json!(300)));
    let told = plan["store_bytes"].as_u64().expect("a size");
    assert!(told.abs_diff(taken) < 5 * 2_500, "{told} for {taken}");
    assert!(plan["tokens_per_second"].as_f64() > Some(0.0) && plan["seconds"].as_f64() > Some(0.0));
    assert!(plan["memory_bytes"].as_u64() > Some(0));
    // A part, and data to be added, are planned for what they are.
    let part = &lines(&bench.ok(&format!("{index} --store part --shard 1/2 --dry-run --format jsonl")))[0];
    assert_eq!((&part["records"], &part["blocks"]), (&json!(128), &json!(2)));
    bench.write("more.jsonl", "{\"id\":\"x\",\"text\":\"good\",\"label\":7}\n{\"id\":\"y\",\"text\":\"good\"}\n");
    let more =
        format!("index --model {model} --data more.jsonl --block-records 64 --quiet --store store --append --dry-run");
    bench.fails(&more, "label 7");
    let ran = bench.run(&format!("{more} --skip-invalid --format text"));
    assert_eq!(ran.code, Some(1));
    assert!(ran.out.contains("1 in 1 blocks, 1 skipped") && ran.out.contains("it fits"), "{}", ran.out);
}

#[test]
fn a_text_that_comes_again_is_computed_once_and_changes_nothing() {
    let bench = Bench::new();
    let model = bench.model("bert-cls2");
    write(&bench, "all.jsonl", 0, 300);
    let run = |blocks: u64| -> serde_json::Value {
        let ran =
            bench.run(&format!("index --model {model} --data all.jsonl --store of-{blocks} --block-records {blocks}"));
        assert_eq!(ran.code, Some(0));
        assert!(ran.err.contains("busy: reading ") && ran.err.contains("held the others up"), "{}", ran.err);
        let run = fs::read(bench.path(&format!("of-{blocks}.run.json"))).expect("it is there");
        serde_json::from_slice(&run).expect("it is JSON")
    };
    let (alone, together) = (run(1), run(64));
    assert_eq!((&alone["summary"]["repeated"], &alone["summary"]["records"]), (&json!(0), &json!(300)));
    // 23 texts in each block of 64, and in the last of 44.
    assert_eq!(together["summary"]["repeated"], json!(4 * (64 - 23) + 44 - 23));
    assert!(together["summary"]["stages"]["running"].as_f64() > Some(0.0));
    for rule in ["grad-dot", "feature-euc"] {
        let found = |store: &str| {
            bench.ok(&format!("search --store {store} --self --rule {rule} -k all --format jsonl --quiet"))
        };
        assert_eq!(found("of-1"), found("of-64"));
    }
}

#[test]
fn a_scan_copy_changes_no_bit_of_any_answer() {
    let bench = Bench::new();
    let model = bench.model("bert-cls2");
    write(&bench, "all.jsonl", 0, 150);
    bench.records("test.jsonl", 4);
    let index = format!("index --model {model} --data all.jsonl --block-records 64 --quiet");
    bench.ok(&format!("{index} --store plain"));
    for scan in ["f16", "bf16", "int8"] {
        bench.ok(&format!("{index} --store {scan} --scan {scan}"));
        bench.ok(&format!("store remove {scan} --indexes 5,70 --quiet"));
        assert!(bench.ok(&format!("store verify {scan} --format text")).contains("sound"));
        assert!(bench.ok(&format!("store info {scan} --format text")).contains("scan copy"));
    }
    bench.ok("store remove plain --indexes 5,70 --quiet");
    for rule in
        ["feature-dot", "feature-cos", "feature-euc", "grad-dot", "grad-cos", "representer", "influence", "relatif"]
    {
        let found = |store: &str| {
            let found = bench.ok(&format!("search --store {store} --data test.jsonl --rule {rule} -k 5 --quiet"));
            // How many candidates it took is all that a copy adds.
            let answers =
                found.lines().map(|line| line.split_once(",\"candidates\":").map_or(line, |(answer, _)| answer));
            answers.map(|line| line.trim_end_matches('}').to_owned()).collect::<Vec<_>>()
        };
        let expected = found("plain");
        for scan in ["f16", "bf16", "int8"] {
            assert_eq!(found(scan), expected, "{rule} {scan}");
        }
    }
    bench.fails(
        &format!("{index} --store halves --dtype f16 --scan int8"),
        "a copy for scans is of features kept in f32",
    );
}

/// Forty records of two classes, some of which cannot be used, each for a reason of its own; four in the third block.
fn flawed() -> Vec<String> {
    let line = |i: usize| match i {
        3 | 17 => "nonsense\n".to_owned(),
        5 | 21 => json!({ "id": format!("r{i}"), "text": "bad", "label": "what" }).to_string() + "\n",
        18 => json!({ "id": "r1", "text": "again" }).to_string() + "\n",
        19 | 39 => json!({ "id": format!("r{i}") }).to_string() + "\n",
        _ => json!({ "id": format!("r{i}"), "text": format!("good {}", i % 7), "label": i % 2 }).to_string() + "\n",
    };
    (0..40).map(line).collect()
}

fn rejected(bench: &Bench, store: &str) -> Vec<String> {
    let list = fs::read_to_string(bench.path(&format!("{store}.rejected.jsonl"))).unwrap_or_default();
    list.lines().map(str::to_owned).collect()
}

fn skipped(bench: &Bench, store: &str) -> usize {
    let run = fs::read(bench.path(&format!("{store}.run.json"))).expect("it is there");
    let run: serde_json::Value = serde_json::from_slice(&run).expect("it is JSON");
    run["summary"]["skipped"].as_u64().expect("a number") as usize
}

/// However often a job was interrupted, and wherever.
#[test]
fn a_resumed_job_lists_what_an_uninterrupted_one_does() {
    let bench = Bench::new();
    let model = bench.model("bert-cls2");
    let data = flawed();
    for (name, settings) in [("f32", ""), ("int8", "--dtype int8")] {
        let index = |store: &str, lines: &[String], until: Option<&str>| {
            let arguments = format!(
                "index --model {model} --data - --block-records 8 --skip-invalid --resume --quiet {settings} --store {store}"
            );
            let mut child = bench.command(&arguments).stdin(Stdio::piped()).spawn().expect("it starts");
            let mut input = child.stdin.take().expect("it is piped");
            input.write_all(lines.concat().as_bytes()).expect("it reads");
            if let Some(file) = until {
                while !bench.path(store).join(file).exists() {
                    std::thread::sleep(Duration::from_millis(2));
                }
                child.kill().expect("it can be killed");
            }
            drop(input);
            child.wait().expect("it ends").code()
        };
        let (whole, broken) = (format!("{name}-whole"), format!("{name}-broken"));
        assert_eq!(index(&whole, &data, None), Some(1));
        assert_eq!((rejected(&bench, &whole).len(), skipped(&bench, &whole)), (7, 7));
        index(&broken, &data[..17], Some("shard-00000.jsonl"));
        index(&broken, &data[..33], Some("shard-00002.jsonl"));
        for again in ["the rest", "nothing more"] {
            assert_eq!(index(&broken, &data, None), Some(1), "{again}");
            assert!(bench.contents(&broken) == bench.contents(&whole), "{again}");
            assert_eq!(rejected(&bench, &broken), rejected(&bench, &whole), "{again}");
            assert_eq!(skipped(&bench, &broken), 7, "{again}");
        }
        // What was removed was not rejected.
        bench.ok(&format!("store remove {broken} --indexes 0,6 --quiet"));
        assert_eq!(index(&broken, &data, None), Some(1));
        assert_eq!(rejected(&bench, &broken), rejected(&bench, &whole));
    }
    let data = "{\"id\":\"a\",\"tokens\":[\"good\"],\"ner_tags\":[0]}\n{\"id\":\"b\",\"tokens\":[\"bad\"],\"ner_tags\":[77]}\n";
    bench.write("tags.jsonl", data);
    let tags = bench.model("bert-tags");
    let index = format!("index --model {tags} --data tags.jsonl --store tags --skip-invalid --quiet");
    assert_eq!(bench.run(&index).code, Some(1));
    let (list, store) = (rejected(&bench, "tags"), bench.contents("tags"));
    assert_eq!(bench.run(&format!("{index} --resume")).code, Some(1));
    assert_eq!((list.len(), rejected(&bench, "tags")), (1, list));
    assert!(bench.contents("tags") == store);
}

/// What a record lacks is told by the job whose block it is in, and by no other.
#[test]
fn the_lists_of_parts_add_up_to_that_of_the_whole() {
    let bench = Bench::new();
    let model = bench.model("bert-cls2");
    bench.write("data.jsonl", flawed().concat());
    let given = |i: usize| {
        let label = if i % 6 == 4 { json!("what") } else { json!(i % 2) };
        let id = if i == 19 { "g2".to_owned() } else { format!("g{i}") };
        json!({ "id": id, "features": [i, 1], "logits": [0.5, -0.5], "label": label }).to_string() + "\n"
    };
    bench.write("given.jsonl", (0..24).map(given).collect::<String>());
    for (name, data, most) in [
        ("own", format!("--model {model} --data data.jsonl"), 7),
        ("given", "--from-factors given.jsonl".to_owned(), 5),
    ] {
        let index = format!("index {data} --block-records 8 --skip-invalid --quiet");
        assert_eq!(bench.run(&format!("{index} --store {name}")).code, Some(1));
        let mut whole = rejected(&bench, name);
        assert_eq!(whole.len(), most);
        let mut together = Vec::new();
        for part in 0..4 {
            let store = format!("{name}-{part}");
            let ran = bench.run(&format!("{index} --store {store} --shard {part}/4"));
            let list = rejected(&bench, &store);
            assert_eq!(ran.code, Some(i32::from(!list.is_empty())), "{store}: {}", ran.err);
            assert_eq!(skipped(&bench, &store), list.len(), "{store}");
            if name == "own" {
                let plan = bench.run(&format!("{index} --store none --shard {part}/4 --dry-run --format jsonl"));
                assert_eq!(lines(&plan.out)[0]["skipped"], json!(list.len()), "{store}");
            }
            together.extend(list);
        }
        whole.sort();
        together.sort();
        assert_eq!(together, whole);
        bench.ok(&format!("merge --store {name}-merged {name}-0 {name}-1 {name}-2 {name}-3"));
        assert!(bench.contents(&format!("{name}-merged")) == bench.contents(name));
    }
}
