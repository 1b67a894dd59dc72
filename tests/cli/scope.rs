//! What of a store is searched: conditions, duplicates, groups, and the store's own records as queries.

use serde_json::{Value, json};

use super::{Bench, lines};

/// Forty records of two classes and three sources, some of them twice, indexed with their sources.
fn indexed() -> Bench {
    let bench = Bench::new();
    let model = bench.model("bert-cls2");
    let texts = ["the food was good", "很好看的书", "not good to us", "I loved the movie", "服务很差"];
    let record = |i: usize| {
        let text = format!("{} {}", texts[i % texts.len()], i % 15);
        let source = ["web", "book", "mail"][i % 3];
        json!({ "id": format!("r{i}"), "text": text, "label": i % 2, "source": source })
    };
    bench.write("train.jsonl", (0..40).map(|i| record(i).to_string() + "\n").collect::<String>());
    bench.write("test.jsonl", "{\"text\":\"the food was bad\"}\n{\"text\":\"服务很好\"}\n");
    bench.ok(&format!(
        "index --model {model} --data train.jsonl --store store --keep-column source --block-records 16 --quiet"
    ));
    bench
}

fn search(bench: &Bench, arguments: &str) -> Vec<Value> {
    lines(&bench.ok(&format!("search --store store --data test.jsonl --quiet {arguments}")))
}

fn hits<'a>(result: &'a Value, end: &str) -> &'a Vec<Value> {
    result[end].as_array().expect("an end")
}

/// The hits of an end that `keep` lets through, with ranks given again: what a search over those alone must find.
fn filtered(all: &Value, end: &str, keep: impl Fn(&Value) -> bool) -> Vec<Value> {
    let kept = hits(all, end).iter().filter(|hit| keep(hit)).cloned();
    kept.zip(1..)
        .map(|(mut hit, rank)| {
            hit["rank"] = json!(rank);
            hit
        })
        .collect()
}

/// Every query is answered, whether or not there is anything to answer with.
#[test]
fn conditions_that_no_record_meets_leave_empty_ends() {
    let bench = indexed();
    for more in ["-k 2", "-k all", "-k 2 --group-by source", "-k 2 --collapse-duplicates", "-k 2 --rule influence"] {
        let found = search(&bench, &format!("--where id=nobody {more}"));
        assert_eq!(found.len(), 2, "{more}");
        assert!(found.iter().all(|one| hits(one, "proponents").is_empty() && hits(one, "opponents").is_empty()));
    }
    let ran = bench.run("search --store store --data test.jsonl --where id=nobody --out found.jsonl");
    assert!(ran.err.contains("no record of the store meets --where"), "{}", ran.err);
    let run: Value = serde_json::from_slice(&std::fs::read(bench.path("found.jsonl.run.json")).unwrap()).unwrap();
    assert_eq!(run["summary"]["searched"], 0, "{run}");
}

/// Whether a hit is one that a condition leaves.
type Keep = fn(&Value) -> bool;

#[test]
fn a_condition_leaves_what_it_says_in_its_order() {
    let bench = indexed();
    bench.write("ids.txt", "r3\nr4\n\nr30\n");
    let cases: [(&str, Keep); 9] = [
        ("--where label=LABEL_1", |hit| hit["label"] == "LABEL_1"),
        ("--where label=1", |hit| hit["label"] == "LABEL_1"),
        ("--where label!=LABEL_1", |hit| hit["label"] != "LABEL_1"),
        ("--where predicted=LABEL_0", |hit| hit["predicted"] == "LABEL_0"),
        ("--where wrong", |hit| hit["label"] != hit["predicted"]),
        ("--where right", |hit| hit["label"] == hit["predicted"]),
        ("--where id=@ids.txt", |hit| ["r3", "r4", "r30"].iter().any(|id| hit["id"] == *id)),
        ("--where source=web --where wrong", |hit| {
            hit["columns"]["source"] == "web" && hit["label"] != hit["predicted"]
        }),
        ("--where id!=r7 --where source!=book", |hit| hit["id"] != "r7" && hit["columns"]["source"] != "book"),
    ];
    for rule in ["grad-dot", "influence", "bm25"] {
        let all = search(&bench, &format!("--rule {rule} -k 40"));
        for (condition, keep) in &cases {
            let some = search(&bench, &format!("--rule {rule} -k 40 {condition}"));
            let ranked = search(&bench, &format!("--rule {rule} -k all {condition}"));
            for (all, (some, ranked)) in all.iter().zip(some.iter().zip(&ranked)) {
                for end in ["proponents", "opponents"] {
                    assert_eq!(*hits(some, end), filtered(all, end, keep), "{rule} {condition} {end}");
                    assert_eq!(hits(ranked, end), hits(some, end), "{rule} {condition} {end}");
                }
            }
        }
    }
}

#[test]
fn a_condition_that_means_nothing_is_refused() {
    let bench = indexed();
    let search = "search --store store --data test.jsonl --where";
    bench.fails(&format!("{search} label=nobody"), "there is no such class among LABEL_0, LABEL_1");
    bench.fails(&format!("{search} author=me"), "the store keeps no column `author` (it keeps source)");
    bench.fails("search --store store --data test.jsonl --group-by author", "the store keeps no column `author`");
    bench.fails("search --store store --data test.jsonl --group-by label -k all", "not full rankings");
    for (condition, expected) in
        [("nonsense", "not a condition"), ("id=@nowhere", "No such file"), ("=x", "not a condition")]
    {
        bench.fails(&format!("{search} {condition}"), expected);
    }
    let none = super::Ran::from(bench.command(&format!("{search} id=x")).output().expect("it runs"));
    assert_eq!((none.code, lines(&none.out)[0]["proponents"].as_array().map(Vec::len)), (Some(0), Some(0)));
}

/// A score as it was before it was written: the shortest decimal that stands for an f32 is not that f32.
fn score(hit: &Value) -> f64 {
    f64::from(hit["score"].as_f64().expect("a score") as f32)
}

#[test]
fn each_group_has_the_ends_and_the_total_of_a_search_within_it() {
    let bench = indexed();
    for (by, names) in [("label", vec!["LABEL_0", "LABEL_1"]), ("source", vec!["book", "mail", "web"])] {
        let grouped = search(&bench, &format!("--rule grad-dot -k 5 --group-by {by}"));
        let plain = search(&bench, "--rule grad-dot -k 5");
        for (query, (grouped, plain)) in grouped.iter().zip(&plain).enumerate() {
            assert_eq!((&grouped["proponents"], &grouped["opponents"]), (&plain["proponents"], &plain["opponents"]));
            let groups = grouped["groups"].as_array().expect("groups");
            assert_eq!(groups.iter().map(|group| group["group"].as_str().expect("a name")).collect::<Vec<_>>(), names);
            for group in groups {
                let name = group["group"].as_str().expect("a name");
                let within = &search(&bench, &format!("--rule grad-dot -k 40 --where {by}={name}"))[query];
                let scores: Vec<f64> = hits(within, "proponents").iter().map(score).collect();
                assert_eq!(group["records"], json!(scores.len()));
                assert_eq!(hits(group, "proponents")[..], hits(within, "proponents")[..5]);
                assert_eq!(hits(group, "opponents")[..], hits(within, "opponents")[..5]);
                let (total, sum) = (group["total"].as_f64().expect("a sum"), scores.iter().sum::<f64>());
                let magnitude: f64 = scores.iter().map(|score| score.abs()).sum();
                assert!((total - sum).abs() <= 40.0 * f64::EPSILON * magnitude, "{total} for {sum}");
            }
        }
    }
}

#[test]
fn duplicates_are_collapsed_into_the_first_of_them() {
    let bench = indexed();
    let all = &search(&bench, "--rule grad-dot -k 40")[0];
    let collapsed = &search(&bench, "--rule grad-dot -k 40 --collapse-duplicates")[0];
    let key = |hit: &Value| (hit["text"].to_string(), hit["label"].to_string());
    let of_kind =
        |hit: &Value| hits(all, "proponents").iter().filter(|other| key(other) == key(hit)).collect::<Vec<_>>();
    assert!(hits(collapsed, "proponents").len() < 40);
    for hit in hits(collapsed, "proponents") {
        let kind = of_kind(hit);
        assert!(kind.iter().all(|other| other["score"] == hit["score"]), "copies have the same score");
        assert_eq!(hit["copies"], json!(kind.len()));
        assert_eq!(kind.iter().filter_map(|other| other["index"].as_u64()).min(), hit["index"].as_u64());
    }
    let kinds: u64 = hits(collapsed, "proponents").iter().filter_map(|hit| hit["copies"].as_u64()).sum();
    assert_eq!(kinds, 40);
    // Where the first has the query's id, and is left out for it, the next stands for the others.
    bench.write("own.jsonl", "{\"id\":\"r0\",\"text\":\"the food was good 0\"}\n");
    let own = "search --store store --data own.jsonl -k 40 --collapse-duplicates --exclude-same-id --rule";
    let own = &lines(&bench.ok(&format!("{own} feature-euc --quiet")))[0];
    let first = &hits(own, "proponents")[0];
    assert_eq!((&first["id"], &first["index"], &first["copies"]), (&json!("r30"), &json!(30), &json!(1)));
    let copies: u64 = hits(own, "proponents").iter().filter_map(|hit| hit["copies"].as_u64()).sum();
    assert_eq!(copies, 39);
    // Only what is searched counts.
    let half = &search(&bench, "--rule grad-dot -k 40 --collapse-duplicates --where source=web")[0];
    let copies: u64 = hits(half, "proponents").iter().filter_map(|hit| hit["copies"].as_u64()).sum();
    assert_eq!(copies, 14);
}

#[test]
fn a_store_searched_for_itself_is_the_data_searched_for_without_the_diagonal() {
    let bench = indexed();
    for rule in ["feature-cos", "grad-cos", "representer", "influence", "bm25", "loss"] {
        let own = lines(&bench.ok(&format!("search --store store --self --rule {rule} -k 6 --quiet")));
        let given = lines(&bench.ok(&format!(
            "search --store store --data train.jsonl --target gold --rule {rule} -k 6 --exclude-same-id --quiet"
        )));
        assert_eq!(own.len(), 40);
        for (own, given) in own.iter().zip(&given) {
            assert!(hits(own, "proponents").iter().all(|hit| hit["index"] != own["index"]), "{rule}");
            for field in ["id", "index", "text", "label", "predicted", "target", "proponents", "opponents"] {
                assert_eq!(own[field], given[field], "{rule} {field}");
            }
            let (p, q) = (own["probability"].as_f64().expect("p"), given["probability"].as_f64().expect("p"));
            assert!((p - q).abs() < 2e-7, "{p} for {q}");
        }
    }
    bench.fails("search --store store --self --target gold", "ask as they were indexed");
    let collapsed =
        lines(&bench.ok("search --store store --self --rule feature-euc -k 1 --collapse-duplicates --quiet"));
    let is_copy = |own: &Value, hit: &Value| own["text"] == hit["text"] && own["label"] == hit["label"];
    assert!(collapsed.iter().all(|own| !is_copy(own, &hits(own, "proponents")[0])));
    assert!(collapsed.iter().any(|own| hits(own, "proponents")[0]["copies"] == 2));
}
