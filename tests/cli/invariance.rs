//! The same bits whatever the batch, the threads, the shards, the interruptions.

use std::time::Duration;

use super::{Bench, Ran, lines};

fn indexed(bench: &Bench, store: &str, more: &str) -> Vec<(String, Vec<u8>)> {
    bench.ok(&format!("index --model bert-cls2 --data train.jsonl --store {store} --block-records 64 --quiet {more}"));
    bench.contents(store)
}

#[test]
fn a_store_is_the_same_bytes_for_any_batch_and_any_threads() {
    let bench = Bench::new();
    bench.model("bert-cls2");
    bench.records("train.jsonl", 200);
    let expected = indexed(&bench, "plain", "");
    for (i, more) in
        ["--batch-tokens 1", "--batch-tokens 100000", "--threads 1", "--threads 3 --batch-tokens 77"].iter().enumerate()
    {
        assert!(indexed(&bench, &format!("other-{i}"), more) == expected, "{more}");
    }
}

#[test]
fn merged_shards_are_the_same_bytes_as_one_job() {
    let bench = Bench::new();
    bench.model("bert-cls2");
    bench.records("train.jsonl", 300);
    let expected = indexed(&bench, "whole", "");
    let parts: Vec<String> = (0..3).map(|i| format!("part-{i}")).collect();
    for (i, part) in parts.iter().enumerate() {
        indexed(&bench, part, &format!("--shard {i}/3"));
    }
    bench.ok(&format!("merge --store merged {}", parts.join(" ")));
    let run = std::fs::read_to_string(bench.path("merged.run.json")).expect("a record");
    assert!(run.contains("\"command\": \"merge\"") && run.contains("\"records\": 300"), "{run}");
    assert!(bench.contents("merged") == expected);
    let stores = " --store ".to_owned() + &parts.join(" --store ");
    let query = "--data train.jsonl --rule grad-cos -k 5 --quiet";
    assert_eq!(bench.ok(&format!("search{stores} {query}")), bench.ok(&format!("search --store whole {query}")));
}

/// Each job that adds to its part sees the ids of that part alone.
#[test]
fn parts_that_have_one_id_twice_are_not_merged() {
    let bench = Bench::new();
    bench.model("bert-cls2");
    bench.records("data.jsonl", 24);
    let index = "index --block-records 8 --quiet";
    bench.write("more.jsonl", "{\"id\": \"r3\", \"text\": \"good\", \"label\": 1}\n");
    for part in 0..2 {
        bench.ok(&format!("{index} --model bert-cls2 --data data.jsonl --store part{part} --shard {part}/2"));
        let appended =
            bench.run(&format!("index --append --store part{part} --data more.jsonl --skip-invalid --quiet"));
        // The first job sees that the id is taken, and the record is the second's to list.
        assert_eq!(appended.code, Some(0), "{}", appended.err);
    }
    bench.fails("merge --store merged part0 part1", "record 24: another record has its id `r3`");
    bench.ok("store remove part1 --indexes 24 --quiet");
    bench.ok("merge --store merged part0 part1");
}

#[test]
fn a_killed_job_resumes_to_the_same_bytes() {
    let bench = Bench::new();
    bench.model("bert-cls2");
    bench.records("train.jsonl", 6000);
    let expected = indexed(&bench, "whole", "");
    for milliseconds in [0, 20, 60, 120, 250] {
        let arguments = "index --model bert-cls2 --data train.jsonl --store killed --block-records 64 --resume --quiet";
        let mut child = bench.command(arguments).spawn().expect("it starts");
        std::thread::sleep(Duration::from_millis(milliseconds));
        child.kill().expect("it can be killed");
        child.wait().expect("it ends");
    }
    assert!(indexed(&bench, "killed", "--resume") == expected);
}

/// A read that waits for a pipe is left.
#[cfg(unix)]
#[test]
fn a_job_that_waits_for_its_input_can_be_interrupted() {
    let bench = Bench::new();
    bench.model("bert-cls2");
    let mut command = bench.command("index --model bert-cls2 --data - --store store --quiet");
    let [input, out, err] = std::array::from_fn(|_| std::process::Stdio::piped());
    let mut child = command.stdin(input).stdout(out).stderr(err).spawn().expect("it starts");
    // `wait` would close it.
    let held = child.stdin.take();
    while !bench.path("store").exists() {
        std::thread::sleep(Duration::from_millis(2));
    }
    std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill runs");
    let ran = Ran::from(child.wait_with_output().expect("it ends"));
    drop(held);
    assert_eq!((ran.code, ran.err.as_str()), (Some(130), "wherefore: interrupted\n"));
}

#[cfg(unix)]
#[test]
fn an_interrupted_job_says_so_and_resumes() {
    let bench = Bench::new();
    bench.model("bert-cls2");
    bench.records("train.jsonl", 20_000);
    let arguments = "index --model bert-cls2 --data train.jsonl --store store --block-records 64";
    let child = bench
        .command(arguments)
        .stderr(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("it starts");
    // Not before the handler is there: the store's folder is made after it.
    while !bench.path("store").exists() {
        std::thread::sleep(Duration::from_millis(2));
    }
    std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill runs");
    let ran = Ran::from(child.wait_with_output().expect("it ends"));
    assert_eq!((ran.code, ran.err.lines().last()), (Some(130), Some("wherefore: interrupted")), "{}", ran.err);
    bench.ok(&format!("{arguments} --resume"));
    bench.ok("store verify store");
}

#[test]
fn results_do_not_depend_on_how_queries_are_batched() {
    let bench = Bench::new();
    bench.model("bert-cls2");
    bench.records("train.jsonl", 120);
    indexed(&bench, "store", "");
    let search = |more: &str| bench.ok(&format!("search --store store --data train.jsonl -k 7 --quiet {more}"));
    let expected = search("");
    for more in ["--threads 1", "--memory 1", "--batch-tokens 5"] {
        assert_eq!(search(more), expected, "{more}");
    }
    bench.write("one.jsonl", expected.lines().nth(17).map(|_| "{\"text\":\"bad bad 7\"}\n").unwrap_or_default());
    let alone = lines(&bench.ok("search --store store --data one.jsonl -k 7"));
    assert_eq!(alone.len(), 1);
}
