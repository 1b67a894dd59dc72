//! `search --self`: each pair of records scored once gives what a question for each record gives.

use serde_json::{Value, json};

use super::{Bench, lines};

const N: usize = 450;

/// Records of many directions, some of them twice, in two stores that `index --shard` makes.
fn indexed() -> Bench {
    let bench = Bench::new();
    let mut state = 7_u64;
    let mut draw = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / f64::from(1 << 23) - 1.0
    };
    let mut rows: Vec<Value> = Vec::new();
    for i in 0..N {
        let again = (i % 10 == 9).then(|| rows[i - 4].clone());
        let mut row = again.unwrap_or_else(|| {
            let features: Vec<f64> = (0..20).map(|_| draw()).collect();
            json!({ "text": format!("text {i}"), "label": i % 2, "features": features, "logits": [draw(), draw()] })
        });
        row["id"] = json!(format!("r{i}"));
        rows.push(row);
    }
    bench.write("train.jsonl", rows.iter().map(|row| row.to_string() + "\n").collect::<String>());
    for shard in ["0/2", "1/2"] {
        let name = &shard[..1];
        bench.ok(&format!(
            "index --from-factors train.jsonl --store part-{name} --shard {shard} --block-records 60 --quiet"
        ));
    }
    bench
}

/// The first `k` of each end.
fn first(result: &Value, k: usize) -> Value {
    let end = |name: &str| result[name].as_array().expect("an end").iter().take(k).cloned().collect::<Vec<_>>();
    json!({ "id": result["id"], "proponents": end("proponents"), "opponents": end("opponents") })
}

#[test]
fn scored_once_or_twice_a_pair_finds_the_same() {
    let bench = indexed();
    let search =
        |arguments: &str| lines(&bench.ok(&format!("search --store part-0 --store part-1 --self --quiet {arguments}")));
    let scopes = ["", "--where label=LABEL_0", "--where wrong", "--collapse-duplicates"];
    for rule in ["feature-dot", "feature-cos", "feature-euc", "grad-dot", "grad-cos"] {
        for scope in scopes {
            // So many that no bounds would leave anything out are found one question after another.
            let (once, twice) =
                (search(&format!("--rule {rule} -k 1 {scope}")), search(&format!("--rule {rule} -k 30 {scope}")));
            assert_eq!((once.len(), twice.len()), (N, N), "{rule} {scope}");
            for (once, twice) in once.iter().zip(&twice) {
                assert_eq!(first(once, 1), first(twice, 1), "{rule} {scope}");
                assert!(once["proponents"][0]["id"] != once["id"], "{rule} {scope}: itself");
            }
        }
    }
    let (one, grouped) = (search("--rule feature-cos -k 1"), search("--rule feature-cos -k 1 --group-by label"));
    for (one, grouped) in one.iter().zip(&grouped) {
        assert_eq!(first(one, 1), first(grouped, 1));
    }
    let alone = bench.ok("search --store part-0 --store part-1 --self --quiet --rule grad-cos -k 3 --threads 1");
    assert_eq!(bench.ok("search --store part-0 --store part-1 --self --quiet --rule grad-cos -k 3 --threads 3"), alone);
}
