//! Tests of `wherefore report`.

use std::fs;

use serde_json::Value;

use super::{explanation, search};
use crate::cli::Bench;

/// A search and two explanations.
fn results(bench: &Bench) {
    bench.write("search.jsonl", serde_json::to_string(&search("a", 0, "x y")).unwrap() + "\n");
    let explained = [explanation("a", 0, "x y", &[1.0, -0.5]), explanation("b", 1, "z", &[1.0])];
    bench.write("explain.jsonl", explained.map(|record| serde_json::to_string(&record).unwrap() + "\n").concat());
}

#[test]
fn a_page_is_made_of_many_files_with_its_run_beside_it() {
    let bench = Bench::new();
    results(&bench);
    let out = bench.ok("report search.jsonl explain.jsonl --out page.html --title Mails");
    assert_eq!(out, "");
    let page = fs::read_to_string(bench.path("page.html")).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.trim_end().ends_with("</html>"));
    assert!(page.contains("<title>Mails</title>") && page.contains("search.jsonl, explain.jsonl"));
    let run: Value = serde_json::from_slice(&fs::read(bench.path("page.html.run.json")).unwrap()).unwrap();
    assert_eq!((&run["command"], &run["summary"]["records"]), (&Value::from("report"), &Value::from(3)));
}

#[test]
fn a_page_goes_down_a_pipe() {
    let bench = Bench::new();
    results(&bench);
    let page = bench.ok("report *.jsonl --limit 1");
    assert!(page.contains("1 more record is not on this page, which holds the first 1"));
}

#[test]
fn what_no_page_may_have_is_shown_by_a_sign() {
    let bench = Bench::new();
    bench.write("search.jsonl", serde_json::to_string(&search("a", 0, "go\0od \u{7}")).unwrap() + "\n");
    let page = bench.ok("report search.jsonl");
    assert!(page.contains("go\u{2400}od \u{2407}") && !page.contains(['\0', '\u{7}']));
}

/// Parquet has a null where a list is empty.
#[cfg(feature = "parquet")]
#[test]
fn little_covered_records_are_read_from_parquet() {
    let bench = Bench::new();
    bench.model("bert-cls2");
    bench.records("data.jsonl", 30);
    bench.ok("index --model bert-cls2 --data data.jsonl --store store --quiet");
    bench.ok("audit sparse --store store --data data.jsonl --targets 3 --out sparse.parquet --quiet");
    let page = bench.ok("report sparse.parquet");
    assert!(page.contains("<article") || page.contains("covered"), "{page}");
}

#[test]
fn results_of_the_other_commands_are_understood() {
    let bench = Bench::new();
    let model = bench.model("bert-cls2");
    bench.records("data.jsonl", 12);
    bench.ok(&format!("index --model {model} --data data.jsonl --store store"));
    bench.ok("search --store store --data data.jsonl --out search.jsonl");
    bench.ok(&format!("predict --model {model} --data data.jsonl --out predict.jsonl"));
    let explain = format!("explain --model {model} --data data.jsonl --steps 4");
    bench.ok(&format!("{explain} --out ig.jsonl"));
    bench.ok(&format!("{explain} --method saliency --words none --target all --out saliency.jsonl"));
    bench.ok(&format!("explain --model {model} --data data.jsonl --method norm-lime --samples 20 --out norm.jsonl"));
    let global = bench.ok("report norm.jsonl");
    assert!(global.contains("<h2>What speaks for each class") && global.contains("class=\"features\""));
    let page = bench.ok("report search.jsonl predict.jsonl ig.jsonl saliency.jsonl");
    assert_eq!(page.matches("<article").count(), 12);
    assert_eq!((page.matches("<h3>integrated-gradients").count(), page.matches("<h3>saliency").count()), (12, 24));
    assert!(!page.contains("of a model that predicts"), "one model made them all");
    #[cfg(feature = "parquet")]
    {
        bench.ok("search --store store --data data.jsonl --out search.parquet");
        bench.ok(&format!("predict --model {model} --data data.jsonl --out predict.parquet"));
        bench.ok(&format!("{explain} --out ig.parquet"));
        bench.ok(&format!("{explain} --method saliency --words none --target all --out saliency.parquet"));
        let other = bench.ok("report search.parquet predict.parquet ig.parquet saliency.parquet");
        assert_eq!(other, page.replace(".jsonl", ".parquet"));
    }
}

#[test]
fn a_line_that_is_no_result_fails_with_its_place_and_leaves_nothing() {
    let bench = Bench::new();
    results(&bench);
    for (line, reason) in [
        ("{\"text\": \"x\"}", "expected a record of explain, search or predict"),
        ("{\"text\": ", "invalid JSON at column 9"),
        ("[1]", "expected a JSON object"),
        ("{\"method\": \"lime\", \"id\": \"a\"}", "not an explain record: missing field `index`"),
        ("{\"rule\": \"bm25\", \"id\": 3}", "not a search record: invalid type: integer `3`"),
    ] {
        bench.write("bad.jsonl", format!("\n{line}\n"));
        bench.fails("report explain.jsonl bad.jsonl --out page.html", &format!("bad.jsonl:2: {reason}"));
        assert!(!bench.path("page.html").exists());
    }
    bench.write("empty.jsonl", "");
    bench.fails("report empty.jsonl --out page.html", "empty.jsonl: no results to show");
    // Of what an audit left, that is a finding.
    bench.write("empty.jsonl.run.json", "{\"command\": \"audit redundant\", \"store\": {\"records\": 7}}");
    bench.ok("report empty.jsonl --out nothing.html");
    let page = std::fs::read_to_string(bench.path("nothing.html")).expect("a page");
    assert!(page.contains("Nothing was found") && page.contains("by audit redundant in 7 training records"));
    assert!(page.contains("no copies, no contradicting labels, no leaks"));
    bench.fails("report missing.jsonl --out page.html", "missing.jsonl: ");
    bench.write("table.csv", "text\nx\n");
    bench.fails("report table.csv --out page.html", "table.csv: expected results as .jsonl or .parquet");
    bench.fails("report explain.jsonl --out nowhere/page.html", "nowhere/page.html: ");
}
