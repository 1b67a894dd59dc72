//! Where results go: what is there already, what may not be written over, and what lies beside them.

use std::fs;

use serde_json::{Value, json};

use super::{Bench, lines};

#[test]
fn what_is_read_is_not_written_over() {
    let bench = Bench::new();
    bench.model("bert-cls2");
    bench.records("data.jsonl", 4);
    let before = fs::read(bench.path("data.jsonl")).expect("written");
    fs::create_dir(bench.path("folder")).expect("a folder is made");
    for out in ["data.jsonl", "folder/../data.jsonl"] {
        bench.fails(&format!("predict --model bert-cls2 --data data.jsonl --out {out}"), "this is what is read");
        bench.fails(&format!("report data.jsonl --out {out}"), "this is what is read");
    }
    assert_eq!(fs::read(bench.path("data.jsonl")).expect("still there"), before);
    bench.fails("predict --model bert-cls2 --data data.jsonl --out folder", "expected a file, found a folder");
    bench.fails("predict --model bert-cls2 --data data.jsonl --out p.csv", "expected .jsonl, .parquet or .txt");
    bench.fails("predict --model bert-cls2 --data data.jsonl --out p.jsonl.gz", "expected .jsonl, .parquet or .txt");
    bench.ok("predict --model bert-cls2 --data data.jsonl --out p.csv --format jsonl");
}

#[test]
fn results_take_no_place_of_another_and_none_that_is_read() {
    let bench = Bench::new();
    bench.model("bert-cls2");
    bench.records("data.jsonl", 8);
    bench.ok("index --model bert-cls2 --data data.jsonl --store store --quiet");
    bench.ok("explain --model bert-cls2 --data data.jsonl --method saliency --out why.jsonl --quiet");
    let before = fs::read(bench.path("why.jsonl")).expect("written");
    let bias = "audit bias --store store --least-count 1 --out b.jsonl --quiet";
    for (more, expected) in [
        ("--weights b.jsonl", "expected a file of its own, found that of --out"),
        ("--balanced store/../b.jsonl", "expected a file of its own, found that of --out"),
        ("--weights w.jsonl --balanced w.jsonl", "expected a file of its own, found that of --weights"),
        ("--explanations why.jsonl --weights why.jsonl", "--weights why.jsonl: this is what is read"),
        ("--weights w.csv", "--weights w.csv: expected .jsonl, .parquet or .txt"),
        ("--balanced w.jsonl.gz", "--balanced w.jsonl.gz: expected .jsonl, .parquet or .txt"),
    ] {
        bench.fails(&format!("{bias} {more}"), expected);
        assert!(!bench.path("b.jsonl").exists() && !bench.path("w.jsonl").exists(), "{more}: before any work");
    }
    assert_eq!(fs::read(bench.path("why.jsonl")).expect("still there"), before);
    bench.ok(&format!("{bias} --weights w.jsonl --balanced more.jsonl"));
    assert!(bench.path("w.jsonl").exists() && bench.path("more.jsonl").exists());
    let corrected = "audit dirty --store store --out d.jsonl --accept 2 --corrected";
    bench.fails(&format!("{corrected} d.jsonl"), "expected a file of its own, found that of --out");
    bench.fails(&format!("{corrected} c.csv"), "--corrected c.csv");
    let keeping = "--quiet --out k.jsonl --keep k.jsonl";
    for command in [
        "evaluate lds --store store --data data.jsonl --training data.jsonl",
        "evaluate faithfulness --model bert-cls2 --data data.jsonl --method saliency",
    ] {
        bench.fails(&format!("{command} {keeping}"), "--keep k.jsonl: expected a file of its own, found that of --out");
    }
}

#[test]
fn reports_are_no_parquet() {
    let bench = Bench::new();
    bench.model("bert-cls2");
    bench.records("data.jsonl", 4);
    bench.ok("index --model bert-cls2 --data data.jsonl --store store --quiet");
    for command in [
        "store info store",
        "store verify store",
        "doctor",
        "bench --job search",
        "evaluate faithfulness --model bert-cls2 --data data.jsonl",
    ] {
        bench.fails(&format!("{command} --out r.parquet"), "--out r.parquet: expected .jsonl or .txt");
        bench.fails(&format!("{command} --format parquet"), "--format parquet: expected jsonl or text");
        assert!(!bench.path("r.parquet").exists(), "{command}");
    }
    bench.ok("store info store --out r.parquet --format jsonl");
}

#[test]
fn commands_of_which_nothing_is_named_say_so_in_a_line() {
    let bench = Bench::new();
    for (command, one) in [("", "demo"), ("audit", "dirty"), ("evaluate", "lds"), ("store", "info")] {
        let run = bench.run(command);
        run.failed("requires a subcommand");
        assert!(run.out.is_empty() && run.err.contains(one), "{}", run.err);
        assert!(run.err.contains(&format!("hint: `{} --help`", format!("wherefore {command}").trim())), "{}", run.err);
    }
}

#[cfg(unix)]
#[test]
fn pipes_are_written_to_and_links_followed() {
    let bench = Bench::new();
    bench.model("bert-cls2");
    bench.records("data.jsonl", 4);
    let predict = |out: &str| bench.ok(&format!("predict --model bert-cls2 --data data.jsonl --quiet --out {out}"));
    predict("plain.jsonl");
    let plain = fs::read(bench.path("plain.jsonl")).expect("written");

    bench.write("target.jsonl", "of before\n");
    std::os::unix::fs::symlink("target.jsonl", bench.path("link.jsonl")).expect("a link is made");
    predict("link.jsonl");
    assert!(fs::symlink_metadata(bench.path("link.jsonl")).expect("still there").is_symlink());
    assert_eq!(fs::read(bench.path("target.jsonl")).expect("written"), plain);

    let pipe = bench.path("pipe.jsonl");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs");
    assert!(made.success(), "a pipe is made");
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || fs::read(pipe).expect("the pipe is read")
    });
    predict("pipe.jsonl");
    assert_eq!(reader.join().expect("it was read"), plain);
    assert!(!fs::metadata(&pipe).expect("still there").is_file() && !bench.path("pipe.jsonl.run.json").exists());
}

#[cfg(target_os = "linux")]
#[test]
fn messages_that_cannot_be_written_do_not_fail_a_job() {
    let bench = Bench::new();
    bench.model("bert-cls2");
    bench.records("data.jsonl", 4);
    let full = fs::File::options().write(true).open("/dev/full").expect("a full device");
    let mut command = bench.command("predict --model bert-cls2 --data data.jsonl --out p.jsonl");
    assert_eq!(command.stderr(full).status().expect("the binary runs").code(), Some(0));
}

#[test]
fn skipped_records_are_listed_in_order_and_a_clean_run_leaves_no_list() {
    let bench = Bench::new();
    bench.model("bert-cls2");
    // Three that the reader refuses, and labels that only the model's classes do.
    let record = |i: usize| match i {
        1 | 3 => json!({ "text": "good", "label": "nonsense" }),
        2 | 5 => json!({ "text": 3 }),
        _ => json!({ "text": "good", "label": 1 }),
    };
    bench.write("bad.jsonl", (0..8).map(|i| record(i).to_string() + "\n").collect::<String>());
    bench.records("data.jsonl", 4);
    for command in ["predict", "explain --method saliency"] {
        let run = |data: &str| {
            bench.run(&format!("{command} --model bert-cls2 --data {data} --skip-invalid --out o.jsonl --quiet")).code
        };
        assert_eq!(run("bad.jsonl"), Some(1), "{command}");
        let list = fs::read_to_string(bench.path("o.jsonl.rejected.jsonl")).expect("a list");
        let numbers: Vec<Value> = lines(&list).iter().map(|entry| entry["line"].clone()).collect();
        assert_eq!(numbers, [2, 3, 4, 6].map(Value::from), "{command}");
        assert_eq!(run("data.jsonl"), Some(0), "{command}");
        assert!(!bench.path("o.jsonl.rejected.jsonl").exists(), "{command}: the list of another run");
    }
}

#[test]
fn every_result_in_a_file_has_its_run_beside_it_with_what_was_left_open() {
    let bench = Bench::new();
    bench.model("bert-cls2");
    bench.records("data.jsonl", 8);
    bench.ok("index --model bert-cls2 --data data.jsonl --store store --quiet");
    let settings = |command: &str, out: &str| -> Value {
        bench.ok(&format!("{command} --out {out} --quiet"));
        let run = fs::read(bench.path(&format!("{out}.run.json"))).unwrap_or_else(|_| panic!("{command}: a run"));
        serde_json::from_slice::<Value>(&run).expect("it is JSON")["settings"].clone()
    };
    for (command, out) in [
        ("store info store", "info.json"),
        ("store verify store", "verify.json"),
        ("export --store store", "all.jsonl"),
        ("export --store store --format npy", "arrays"),
    ] {
        settings(command, out);
    }
    let search = |rule: &str| settings(&format!("search --store store --data data.jsonl --rule {rule}"), "s.jsonl");
    let influence = search("influence");
    assert_eq!((&influence["lambda"], &influence["hessian"]), (&json!(0.01), &json!("exact")));
    assert_eq!(search("influence --hessian kronecker --lambda 0.5")["lambda"], 0.5);
    assert!(search("representer")["lambda"].is_number() && search("grad-dot")["lambda"].is_null());
    let smooth = settings("explain --model bert-cls2 --data data.jsonl --method smoothgrad", "e.jsonl");
    assert!(smooth["samples"] == 50 && smooth["noise"].is_number(), "{smooth}");
}

#[test]
fn a_dash_is_standard_output_and_a_page_is_no_table() {
    let bench = Bench::new();
    bench.model("bert-cls2");
    bench.records("data.jsonl", 2);
    let predict = "predict --model bert-cls2 --data data.jsonl --quiet";
    assert_eq!(bench.ok(&format!("{predict} --out -")), bench.ok(predict));
    assert!(!bench.path("-").exists());
    bench.ok(&format!("{predict} --out p.jsonl"));
    for name in ["page.jsonl", "page.parquet", "page.csv"] {
        bench.fails(&format!("report p.jsonl --out {name}"), "expected .html, which a page is written as");
    }
}

#[test]
fn a_demo_is_told_where_it_is_wanted() {
    let bench = Bench::new();
    assert_eq!(bench.ok("demo --keep kept --out told.txt --quiet"), "");
    let told = fs::read_to_string(bench.path("told.txt")).expect("it is there");
    assert!(told.contains("A spam filter was trained") && told.contains("wherefore-demo.html"), "{told}");
    let told = bench.ok("demo --keep kept --out page.html --quiet");
    assert!(told.contains("A spam filter was trained") && told.contains("page.html"), "{told}");
    assert!(fs::read_to_string(bench.path("page.html")).expect("it is there").contains("<html"));
    bench.fails("demo --out page.csv", "--out page.csv: expected .jsonl or .txt");
}
