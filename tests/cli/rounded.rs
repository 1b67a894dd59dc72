//! Stores of rounded features: what rounding cost is told when they are made, and what of an answer is certain when
//! they are asked.

use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use super::{Bench, lines};

/// Numbers in (−1, 1) that depend on the seed alone.
fn noise(seed: u64, count: usize) -> Vec<f32> {
    let step = |state: &mut u64| {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Some((*state >> 40) as f32 / (1 << 23) as f32 - 1.0)
    };
    std::iter::repeat_n((), count).scan(seed.wrapping_mul(77).wrapping_add(1), |state, ()| step(state)).collect()
}

/// `n` records with factors of `width`, as another program would write them.
fn factors(bench: &Bench, name: &str, n: u64, width: usize, seed: u64) {
    let row = |i: u64| {
        let (features, logits) = (noise(seed + i, width), noise(seed + i + 500_000, 2));
        json!({ "id": format!("{seed}-{i}"), "features": features, "logits": logits, "label": i % 2 }).to_string()
            + "\n"
    };
    bench.write(name, (0..n).map(row).collect::<String>());
}

/// The same as arrays, for many records.
fn arrays(bench: &Bench, name: &str, n: usize, width: usize, seed: u64) {
    let numbers = noise(seed, n * width);
    let view = TensorView::new(Dtype::F32, vec![n, width], bytemuck::cast_slice(&numbers)).expect("a tensor");
    safetensors::serialize_to_file([("features", view)], None, &bench.path(name)).expect("a file");
}

fn recall(bench: &Bench, store: &str) -> Value {
    lines(&bench.ok(&format!("store info {store} --format json")))[0]["recall"].clone()
}

#[test]
fn what_rounding_cost_is_kept_and_what_is_certain_is_told() {
    let bench = Bench::new();
    factors(&bench, "train.jsonl", 300, 24, 0);
    factors(&bench, "test.jsonl", 5, 24, 9_000);
    for dtype in ["f32", "f16", "bf16", "int8"] {
        bench.ok(&format!(
            "index --from-factors train.jsonl --store {dtype} --dtype {dtype} --block-records 128 --quiet"
        ));
    }
    assert_eq!(recall(&bench, "f32"), Value::Null);
    let ask =
        |store: &str, rule: &str| {
            lines(&bench.ok(&format!(
                "search --store {store} --from-factors test.jsonl --rule {rule} -k 10 --format json --quiet"
            )))
        };
    for dtype in ["f16", "bf16", "int8"] {
        let measured = recall(&bench, dtype);
        assert_eq!((&measured["queries"], &measured["wanted"]), (&json!(128), &json!(1280)));
        let found = measured["found"].as_u64().expect("a number");
        let least = if dtype == "bf16" { 1190 } else { 1200 };
        assert!((least..=1280).contains(&found), "{dtype}: {found} of 1280");
        for rule in ["feature-dot", "feature-cos", "feature-euc", "grad-dot", "grad-cos"] {
            for (rounded, exact) in ask(dtype, rule).iter().zip(ask("f32", rule)) {
                assert_eq!(exact["certain"], Value::Null);
                for end in ["proponents", "opponents"] {
                    let ids = |result: &Value| -> Vec<Value> {
                        result[end].as_array().expect("an end").iter().map(|hit| hit["id"].clone()).collect()
                    };
                    let (found, wanted) = (ids(rounded), ids(&exact));
                    let kept = found.iter().filter(|id| wanted.contains(id)).count() as u64;
                    let certain = rounded["certain"][end].as_u64().expect("a number");
                    assert!(certain <= kept, "{dtype} {rule} {end}: {certain} certain, {kept} of 10 found");
                    assert!(dtype != "f16" || certain >= 5, "{rule} {end}: {certain} certain");
                }
            }
        }
        let own = bench.ok(&format!("search --store {dtype} --self --rule feature-cos -k 3 --format json --quiet"));
        assert!(lines(&own).iter().all(|result| result["certain"].is_null()), "those that ask were rounded too");
    }
    for rule in ["influence", "influence --hessian kronecker", "relatif --hessian kronecker"] {
        let found = ask("f16", rule);
        assert!(found.iter().all(|result| result["certain"].is_null()), "{rule}: its curvature was rounded too");
    }
}

#[test]
fn of_projected_gradients_what_is_preconditioned_by_them_is_not_certain() {
    let bench = Bench::new();
    let model = bench.model("bert-cls2");
    bench.records("data.jsonl", 40);
    bench.ok(&format!(
        "index --model {model} --data data.jsonl --gradients projected --projection-dim 60 --dtype f16 --store store \
         --quiet"
    ));
    let told = |arguments: &str| {
        let found = lines(&bench.ok(&format!("search --store store -k 3 --format json --quiet {arguments}")));
        found.iter().filter(|result| !result["certain"].is_null()).count()
    };
    for rule in ["projected-dot", "projected-cos"] {
        assert_eq!(told(&format!("--data data.jsonl --rule {rule}")), 40, "{rule}");
        assert_eq!(told(&format!("--self --rule {rule}")), 0, "{rule}");
    }
    for rule in ["trak", "influence", "relatif"] {
        assert_eq!(told(&format!("--data data.jsonl --rule {rule}")), 0, "{rule}");
    }
}

#[test]
fn a_scan_copy_says_how_many_candidates_it_left() {
    let bench = Bench::new();
    factors(&bench, "train.jsonl", 400, 24, 0);
    factors(&bench, "test.jsonl", 3, 24, 9_000);
    for (store, scan) in [("plain", ""), ("int8", "--scan int8")] {
        bench.ok(&format!("index --from-factors train.jsonl --store {store} {scan} --quiet"));
    }
    let ask = |store: &str| {
        lines(&bench.ok(&format!("search --store {store} --from-factors test.jsonl --rule grad-cos -k 5 --quiet")))
    };
    for (mut quick, plain) in ask("int8").into_iter().zip(ask("plain")) {
        let candidates = quick.as_object_mut().expect("a result").remove("candidates");
        let candidates = candidates.and_then(|n| n.as_u64()).expect("a number");
        assert!((10..100).contains(&candidates), "{candidates} candidates of 400");
        assert_eq!(quick, plain);
    }
}

#[test]
fn questions_that_wait_for_each_other_are_answered_as_those_that_do_not() {
    let bench = Bench::new();
    arrays(&bench, "train.safetensors", 60_000, 48, 0);
    arrays(&bench, "test.safetensors", 5_000, 48, 1);
    bench.ok("index --from-factors train.safetensors --store store --quiet");
    let ask = |memory: u32| {
        bench.ok(&format!(
            "search --store store --from-factors test.safetensors --rule feature-cos -k 1 --memory {memory} --quiet"
        ))
    };
    // The store is larger than 10 MiB, and one chunk of questions smaller than their share of it.
    assert!(ask(10) == ask(1024), "other passes, other answers");
}

/// Every file of a store.
fn bytes(bench: &Bench, store: &str) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(bench.path(store)).expect("a store").map(|entry| entry.expect("an entry"));
    let read = |entry: std::fs::DirEntry| {
        (entry.file_name().to_string_lossy().into_owned(), std::fs::read(entry.path()).expect("a file"))
    };
    let mut all: Vec<_> = entries.map(read).filter(|(name, _)| name != ".lock").collect();
    all.sort();
    all
}

#[test]
fn recall_is_one_figure_and_the_same_bytes_however_a_store_was_made() {
    let bench = Bench::new();
    let model = bench.model("bert-cls2");
    bench.records("all.jsonl", 230);
    let all = std::fs::read_to_string(bench.path("all.jsonl")).expect("records");
    let records: Vec<&str> = all.lines().collect();
    for dtype in ["f16", "int8"] {
        let index = |data: &str, store: &str, more: &str| {
            bench.ok(&format!(
                "index --model {model} --data {data} --store {store} --dtype {dtype} --block-records 96 --quiet {more}"
            ))
        };
        let whole = format!("whole-{dtype}");
        index("all.jsonl", &whole, "");
        let measured = recall(&bench, &whole);
        assert_eq!((&measured["queries"], &measured["wanted"]), (&json!(96), &json!(960)));
        assert!(measured["found"].as_u64().is_some_and(|found| (480..=960).contains(&found)), "{measured}");
        assert!(bench.ok(&format!("store verify {whole} --format text")).contains("sound"));
        // Cut inside the records that ask, inside the center's, at the end of a block, and inside a later one.
        for cut in [40, 80, 96, 150] {
            bench.write("first.jsonl", records[..cut].join("\n") + "\n");
            bench.write("then.jsonl", records[cut..].join("\n") + "\n");
            let store = format!("{dtype}-{cut}");
            index("first.jsonl", &store, "");
            index("then.jsonl", &store, "--append");
            assert!(bytes(&bench, &store) == bytes(&bench, &whole), "{dtype}: added to after {cut}");
        }
        let parts = [0, 1].map(|part| format!("{dtype}-part-{part}"));
        for (part, store) in parts.iter().enumerate() {
            index("all.jsonl", store, &format!("--shard {part}/2"));
            assert_eq!(recall(&bench, store), Value::Null, "of a part nothing is known");
        }
        let merged = format!("{dtype}-merged");
        bench.ok(&format!("merge --store {merged} {}", parts.join(" ")));
        assert!(bytes(&bench, &merged) == bytes(&bench, &whole), "{dtype}: merged");
        bench.ok(&format!("store remove {merged} --indexes 3,100 --quiet"));
        assert_eq!(recall(&bench, &merged)["queries"], json!(95));
        assert!(bench.ok(&format!("store verify {merged} --format text")).contains("sound"));
    }
}
