//! Removal curves, greedy sets and tail-patch, over a last layer at its optimum.

use serde_json::Value;
use wherefore::backend::cpu::Cpu;
use wherefore::dataset::{Dataset, DatasetOptions};
use wherefore::evaluate::{Retraining, RetrainingPlan, Subset, Trainings};
use wherefore::model::{LoadOptions, Model};
use wherefore::pipeline::{Rejections, Settings};
use wherefore::store::Store;

use crate::cli::{Bench, lines};

fn bench() -> Bench {
    let bench = Bench::new();
    bench.model("bert-cls2");
    bench.records("training.jsonl", 40);
    bench.records("queries.jsonl", 5);
    bench.ok("train --model bert-cls2 --data training.jsonl --head-only --penalty 0.01 --out head --quiet");
    bench.ok("index --model head --data training.jsonl --store store --quiet");
    bench
}

const START: &str = "--store store --data queries.jsonl --training training.jsonl --penalty 0.01 --quiet";

fn mean(row: &Value, field: &str) -> f64 {
    row[field]["mean"].as_f64().unwrap_or_else(|| panic!("{field}: {row}"))
}

fn row<'a>(rows: &'a [Value], rule: &str) -> &'a Value {
    rows.iter().find(|row| row["rule"] == rule).unwrap_or_else(|| panic!("{rule}: {rows:?}"))
}

#[test]
fn queries_without_a_label_are_left_out_where_they_may() {
    let bench = bench();
    let queries = std::fs::read_to_string(bench.path("queries.jsonl")).unwrap();
    bench.write(
        "queries.jsonl",
        format!("{{\"text\": \"good\"}}\n{queries}{{\"text\": \"bad\", \"label\": \"other\"}}\n"),
    );
    for command in
        ["lds --subsets 3", "leave-out --sets 3", "removal --remove 1", "tail-patch", "removal --remove 1 --jointly"]
    {
        let command = format!("evaluate {command} {START} --rule influence,feature-cos,loss --out rows.jsonl");
        let ran = bench.run(&command);
        ran.failed("queries.jsonl:1: label: expected one");
        assert!(ran.err.contains("hint: use --skip-invalid"), "{}", ran.err);
        let ran = bench.run(&format!("{command} --skip-invalid"));
        assert_eq!(ran.code, Some(1), "{command}: {}", ran.err);
        let read = |name: &str| lines(&std::fs::read_to_string(bench.path(name)).unwrap());
        assert!(read("rows.jsonl").iter().all(|row| row["queries"] == 5), "{command}");
        let rejected = read("rows.jsonl.rejected.jsonl");
        assert_eq!(
            rejected.iter().map(|entry| entry["line"].as_u64().unwrap()).collect::<Vec<_>>(),
            [1, 7],
            "{command}"
        );
    }
}

#[test]
fn a_query_suffers_once_what_supports_it_is_gone() {
    let bench = bench();
    let command = format!("evaluate removal {START} --remove 1,10% --rule influence,loss");
    let rows = lines(&bench.ok(&format!("{command} --greedy")));
    let names: Vec<&str> = rows.iter().map(|row| row["rule"].as_str().unwrap()).collect();
    assert_eq!(names, ["influence", "loss", "greedy", "random"]);
    for row in &rows {
        let removed: Vec<u64> =
            row["curve"].as_array().unwrap().iter().map(|at| at["removed"].as_u64().unwrap()).collect();
        assert_eq!(removed, [1, 4]);
    }
    let (influence, greedy) = (row(&rows, "influence"), row(&rows, "greedy"));
    assert!(mean(influence, "loss_rise") > 0.0 && mean(influence, "over_chance") > 0.0, "{influence}");
    // The first choice is influence's own, but for where the two curvatures are taken.
    let first = |row: &Value| row["curve"][0]["loss_rise"]["mean"].as_f64().unwrap();
    assert!((first(influence) - first(greedy)).abs() < 0.05 * first(greedy), "{influence} {greedy}");
    assert!(mean(greedy, "loss_rise") >= mean(influence, "loss_rise") * 0.95, "{influence} {greedy}");

    // Whose records those are is told, and each set's own fit says what the curve does.
    let sets = greedy["sets"].as_array().unwrap();
    assert_eq!((sets.len(), influence.get("sets")), (5, None));
    for (at, of) in [(0, 1), (1, 4)] {
        let joint = |set: &Value| set["records"][of - 1]["joint"].as_f64().unwrap();
        let joint = sets.iter().map(joint).sum::<f64>() / 5.0;
        let curve = greedy["curve"][at]["loss_rise"]["mean"].as_f64().unwrap();
        assert!((joint - curve).abs() < 1e-3 * curve, "{of} records: {joint} {curve}");
    }
    let first = &sets[0]["records"][0];
    assert_eq!(first["id"], format!("r{}", first["index"]), "{first}");

    let jointly = lines(&bench.ok(&format!("{command} --jointly")));
    assert_eq!(row(&jointly, "influence")["jointly"], true);
    assert_eq!(row(&jointly, "influence")["queries"], 5);
    bench.fails(&format!("{command} --jointly --greedy"), "--jointly");
    bench.fails(&format!("evaluate removal {START} --remove 1,200"), "less than the 40 training records, found 200");
    bench.fails(&format!("evaluate removal {START} --remove 99.9%"), "less than the 40 training records, found 99.9%");
    bench.fails(&format!("evaluate removal {START} --retrain full --greedy"), "--greedy");
}

#[test]
fn greedy_effects_are_first_orders_of_what_fitting_again_gives() {
    let bench = bench();
    let model = Model::open_with(Cpu::new(), &bench.path("head"), &LoadOptions::default()).unwrap();
    let store = Store::open(bench.path("store")).unwrap();
    let open = |name: &str| {
        let files = vec![bench.path(name).to_str().unwrap().to_owned()];
        Dataset::open(DatasetOptions { files, ..DatasetOptions::default() }).unwrap()
    };
    let mut none = Rejections::new(false, None);
    let trainings = Trainings::read(&model, &store, open("training.jsonl"), open("queries.jsonl"), &mut none).unwrap();
    let features = trainings.features(&Settings { quiet: true, ..Settings::default() }).unwrap();
    let set = trainings.greedy(1, 5, 10.0, &features).unwrap().chosen;
    let mut before = 0.0;
    for chosen in &set {
        let actual = chosen.joint - before;
        // With so large a penalty a record's leverage, ‖h‖²/4 over 40 λ, which is what first order leaves out, is below
        // a tenth.
        assert!((actual - chosen.marginal).abs() < 0.1 * actual.abs(), "{chosen:?} after {before}");
        before = chosen.joint;
    }
    let mut rows: Vec<usize> = set.iter().map(|chosen| chosen.row).collect();
    rows.sort_unstable();
    rows.dedup();
    assert_eq!(rows.len(), 5, "no record is chosen twice");
    // The first is the one whose absence raises the loss the most, by training without each.
    let all = (0..40).map(|row| Subset::without([row]));
    let asked: Vec<Subset> = std::iter::once(Subset::without([])).chain(all).collect();
    let plan = RetrainingPlan { retraining: Retraining::Head(10.0), keep: None, at_once: 1 };
    let margins = trainings.margins(&asked, &plan, &Settings { quiet: true, ..Settings::default() }).unwrap();
    let loss = |margins: &Vec<f64>| (-margins[1]).exp().ln_1p();
    let most = margins[1..].iter().map(|without| loss(without) - loss(&margins[0])).fold(f64::NEG_INFINITY, f64::max);
    assert!((set[0].joint - most).abs() < 0.05 * most, "{} {most}", set[0].joint);
    assert!(trainings.greedy(0, 40, 0.01, &features).is_err());
}

#[test]
fn a_small_step_on_the_last_layer_changes_the_loss_by_the_gradients_product() {
    let bench = bench();
    let rate = 1e-5;
    let command = format!("evaluate tail-patch {START} --rule grad-dot,feature-cos --top-k 3 --rate {rate}");
    let rows = lines(&bench.ok(&command));
    // grad-dot is what a step on a record takes off the query's loss, over the rate.
    let mut expected = 0.0;
    for result in
        lines(&bench.ok("search --store store --data queries.jsonl --rule grad-dot --target gold --top-k 3 --quiet"))
    {
        let scores = result["proponents"].as_array().unwrap();
        expected += scores.iter().map(|hit| hit["score"].as_f64().unwrap()).sum::<f64>() / 3.0 * rate / 5.0;
    }
    let grad_dot = row(&rows, "grad-dot");
    let found = mean(grad_dot, "loss_fall");
    assert!((found - expected).abs() < 1e-3 * expected, "{found} {expected}");
    assert_eq!(grad_dot["helped"], 1.0);
    assert!(mean(grad_dot, "over_chance") > 0.0);
    // To first order, steps one by one are the step on all.
    let each = lines(&bench.ok(&format!("{command} --each")));
    assert!((mean(row(&each, "grad-dot"), "loss_fall") - found).abs() < 1e-3 * found);
    bench.fails(&format!("evaluate tail-patch {START} --rate 0"), "--rate");
    bench.fails(&format!("evaluate tail-patch {START} --top-k 0"), "--top-k");
    // No more than there are.
    let [all, more] = [40, 41]
        .map(|k| lines(&bench.ok(&format!("evaluate tail-patch {START} --rule grad-dot --top-k {k}"))).swap_remove(0));
    assert_eq!((&more["top_k"], &more["loss_fall"]), (&40.into(), &all["loss_fall"]));
}

#[test]
fn a_step_of_the_whole_model_is_taken_and_taken_back() {
    let bench = bench();
    let command = format!("evaluate tail-patch {START} --rule grad-dot --top-k 2 --retrain full --keep steps.jsonl");
    let falls = |rate: f64| mean(row(&lines(&bench.ok(&format!("{command} --rate {rate}"))), "grad-dot"), "loss_fall");
    let one = falls(1e-4);
    let whole = std::fs::read(bench.path("steps.jsonl")).unwrap();
    for cut in [whole.len() - 3, whole.len() / 2] {
        bench.write("steps.jsonl", &whole[..cut]);
        assert_eq!(falls(1e-4), one, "cut at byte {cut}");
        assert_eq!(std::fs::read(bench.path("steps.jsonl")).unwrap(), whole);
    }
    std::fs::remove_file(bench.path("steps.jsonl")).unwrap();
    // Gradient descent: twice the rate is twice the fall, but for what is beyond first order.
    let two = falls(2e-4);
    assert!(one > 0.0 && (two / one - 2.0).abs() < 0.1, "{one} {two}");
    bench.fails(&format!("{command} --rate 0.5"), "another model, data or options");
}
