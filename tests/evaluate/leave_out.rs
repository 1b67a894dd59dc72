//! Leaving records out: what a last layer's optimum is without them is known to the last bit that matters, and
//! influence is its first order.

use serde_json::Value;

use crate::cli::{Bench, lines};

/// A model whose last layer is at its optimum, λ = 1, which is also the damping of influence: so large that a record is
/// a small part of it.
fn bench() -> Bench {
    let bench = Bench::new();
    bench.model("bert-cls2");
    bench.records("training.jsonl", 40);
    bench.records("queries.jsonl", 6);
    bench.ok("train --model bert-cls2 --data training.jsonl --head-only --penalty 1 --out head --quiet");
    bench.ok("index --model head --data training.jsonl --store store --quiet");
    bench
}

const COMMAND: &str =
    "evaluate leave-out --store store --data queries.jsonl --training training.jsonl --penalty 1 --lambda 1 --quiet";

fn mean(row: &Value, field: &str) -> f64 {
    row[field]["mean"].as_f64().unwrap_or_else(|| panic!("{field}: {row}"))
}

fn row<'a>(rows: &'a [Value], rule: &str) -> &'a Value {
    rows.iter().find(|row| row["rule"] == rule).unwrap_or_else(|| panic!("{rule}: {rows:?}"))
}

#[test]
fn influence_says_what_leaving_one_out_does() {
    let bench = bench();
    let rows = lines(&bench.ok(&format!("{COMMAND} --sets 0 --rule influence,grad-dot,feature-cos")));
    let influence = row(&rows, "influence");
    assert_eq!(
        (&influence["sets"], &influence["records"], &influence["queries"]),
        (&40.into(), &1.0.into(), &6.into())
    );
    // At the optimum the two differ by what is beyond first order, a record's leverage: here a few percent of the
    // effect.
    assert!(mean(influence, "pearson") > 0.97 && mean(influence, "spearman") > 0.97, "{influence}");
    assert!(mean(influence, "spearman") > mean(row(&rows, "feature-cos"), "spearman") + 0.1, "{rows:?}");
    // Of forty independent pairs, a correlation has a standard deviation of 1/√39; of six queries' mean, three of them
    // are no chance.
    assert!(mean(row(&rows, "random"), "spearman").abs() < 3.0 / (39.0_f64 * 6.0).sqrt(), "{rows:?}");
    assert_eq!(influence["behind_best"]["mean"], 0.0);
}

#[test]
fn the_rise_of_the_loss_is_that_of_a_head_trained_without_the_set() {
    let bench = bench();
    bench.write("odd.txt", "r1\nr3\nr5\nr7\n");
    bench.write("found.jsonl", "{\"rank\":1,\"id\":\"r0\"}\n{\"rank\":2,\"id\":\"r2\"}\n");
    let rows = lines(&bench.ok(&format!("{COMMAND} --set odd.txt --set suspects=found.jsonl --rule influence")));
    let sets = row(&rows, "influence")["of_sets"].as_array().unwrap().clone();
    assert_eq!((&sets[0]["set"], &sets[0]["records"]), (&"odd".into(), &4.into()));
    assert_eq!((&sets[1]["set"], &sets[1]["records"]), (&"suspects".into(), &2.into()));
    assert!(row(&rows, "influence")["spearman"].is_null(), "two sets have no correlation");

    let text = std::fs::read_to_string(bench.path("training.jsonl")).unwrap();
    let without = |line: &&str| !["\"r1\"", "\"r3\"", "\"r5\"", "\"r7\""].iter().any(|id| line.contains(id));
    bench.write("rest.jsonl", text.lines().filter(without).map(|line| line.to_owned() + "\n").collect::<String>());
    bench.ok("train --model bert-cls2 --data rest.jsonl --head-only --penalty 1 --out rest --quiet");
    let losses = |model: &str| -> Vec<f64> {
        let answers = lines(&bench.ok(&format!("predict --model {model} --data queries.jsonl --quiet")));
        let loss = |(number, answer): (usize, &Value)| {
            let z = |class: usize| answer["logits"][class].as_f64().unwrap();
            (z(1 - number % 2) - z(number % 2)).exp().ln_1p()
        };
        answers.iter().enumerate().map(loss).collect()
    };
    let expected = losses("rest").iter().zip(losses("head")).map(|(after, before)| after - before).sum::<f64>() / 6.0;
    assert!((mean(&sets[0], "actual") - expected).abs() < 1e-5, "{} {expected}", sets[0]);
    // What `search` sums up of the same set.
    let search = "search --store store --data queries.jsonl --rule influence --lambda 1 --target gold --set odd.txt --top-k 1 --quiet";
    let totals: Vec<f64> = lines(&bench.ok(search))
        .iter()
        .map(|result| {
            let groups = result["groups"].as_array().unwrap();
            assert_eq!((groups.len(), &groups[0]["group"], &groups[0]["records"]), (2, &"odd".into(), &4.into()));
            groups[0]["total"].as_f64().unwrap()
        })
        .collect();
    let predicted = sets[0]["predicted"].as_f64().unwrap();
    assert!(
        (predicted - totals.iter().sum::<f64>() / 6.0).abs() < 1e-6 * predicted.abs().max(1.0),
        "{predicted} {totals:?}"
    );
}

#[test]
fn groups_are_sets_and_sets_that_make_no_sense_are_refused() {
    let bench = bench();
    let rows = lines(&bench.ok(&format!("{COMMAND} --group-by label --rule influence")));
    let sets = row(&rows, "influence")["of_sets"].as_array().unwrap().clone();
    assert_eq!(sets.iter().map(|set| set["records"].as_u64().unwrap()).sum::<u64>(), 40);
    bench.ok(&format!("{COMMAND} --leave 7 --sets 6 --rule influence"));
    bench.fails(&format!("{COMMAND} --leave 40"), "--leave");
    bench.fails(&format!("{COMMAND} --group-by source"), "source");
    bench.write("strange.txt", "r1\nnobody\n");
    bench.fails(&format!("{COMMAND} --set strange.txt"), "nobody");
    bench.write("none.txt", "\n");
    bench.fails(&format!("{COMMAND} --set none.txt"), "found none");
    let all: Vec<String> = (0..40).map(|i| format!("r{i}")).collect();
    bench.write("all.txt", all.join("\n"));
    bench.fails(&format!("{COMMAND} --set all.txt"), "not all");
    bench.write("one.txt", "r1\n");
    let search = "search --store store --data queries.jsonl --quiet";
    bench.fails(&format!("{search} --set one.txt --set other=one.txt"), "in two sets");
    bench.fails(&format!("{search} --set one.txt --top-k all --format jsonl"), "--set");
}
