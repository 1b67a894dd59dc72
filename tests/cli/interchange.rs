//! Factors from elsewhere, and a store for others: the same numbers in every format.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use wherefore::pipeline::{GivenFactors, GivenFile, IndexOptions, Rejections, index_given};

use super::{Bench, lines};

/// Records of a store, and the same records' features and logits as our own commands give them.
struct Made {
    bench: Bench,
    /// `{"id","text","label","features","logits"}`
    rows: Vec<Value>,
}

const N: usize = 30;

fn made() -> Made {
    let bench = Bench::new();
    let model = bench.model("bert-cls2");
    bench.records("train.jsonl", N);
    bench.ok(&format!("index --model {model} --data train.jsonl --store store --block-records 8 --quiet"));
    bench.ok("export --store store --out exported.jsonl --quiet");
    let exported = lines(&fs::read_to_string(bench.path("exported.jsonl")).expect("it is there"));
    let predicted = lines(&bench.ok(&format!("predict --model {model} --data train.jsonl --quiet")));
    let row = |(record, predicted): (&Value, &Value)| {
        json!({ "id": record["id"], "text": record["text"], "label": record["label"], "features": record["features"],
            "logits": predicted["logits"] })
    };
    let rows: Vec<Value> = exported.iter().zip(&predicted).map(row).collect();
    write_rows(&bench, "given.jsonl", &rows);
    Made { bench, rows }
}

fn write_rows(bench: &Bench, name: &str, rows: &[Value]) {
    bench.write(name, rows.iter().map(|row| row.to_string() + "\n").collect::<String>());
}

impl Made {
    fn numbers(&self, field: &str) -> Vec<f32> {
        let of = |row: &Value| row[field].as_array().expect("a list").clone();
        self.rows.iter().flat_map(of).map(|x| x.as_f64().expect("a number") as f32).collect()
    }

    /// All but the factors, which arrays hold.
    fn texts(&self) -> String {
        let text = |row: &Value| json!({ "id": row["id"], "text": row["text"] }).to_string() + "\n";
        self.rows.iter().map(text).collect()
    }

    fn labels(&self) -> Vec<i64> {
        self.rows.iter().map(|row| i64::from(row["label"] == "LABEL_1")).collect()
    }

    fn found(&self, store: &str) -> String {
        ["grad-cos", "representer", "influence", "bm25"]
            .map(|rule| {
                self.bench.ok(&format!("search --store {store} --self --rule {rule} -k all --format jsonl --quiet"))
            })
            .concat()
    }
}

fn bytes<T: bytemuck::NoUninit>(values: &[T]) -> Vec<u8> {
    bytemuck::cast_slice(values).to_vec()
}

fn safetensors(made: &Made) -> Vec<u8> {
    let (features, logits, labels) =
        (bytes(&made.numbers("features")), bytes(&made.numbers("logits")), bytes(&made.labels()));
    let e = made.numbers("features").len() / N;
    let view = |dtype, shape: &[usize], data| TensorView::new(dtype, shape.to_vec(), data).expect("a tensor");
    let tensors = HashMap::from([
        ("features", view(Dtype::F32, &[N, e], &features)),
        ("logits", view(Dtype::F32, &[N, 2], &logits)),
        ("labels", view(Dtype::I64, &[N], &labels)),
    ]);
    safetensors::serialize(tensors, None).expect("a file")
}

/// A `.npy` file as NumPy writes it.
fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape}), }}");
    header += &" ".repeat((10 + header.len() + 1).next_multiple_of(64) - 11 - header.len());
    header.push('\n');
    [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), data].concat()
}

fn write_npy(made: &Made, directory: &str) {
    let e = made.numbers("features").len() / N;
    fs::create_dir(made.bench.path(directory)).expect("a directory");
    let write = |name: &str, file: Vec<u8>| made.bench.write(&format!("{directory}/{name}.npy"), file);
    write("features", npy("<f4", &format!("{N}, {e}"), &bytes(&made.numbers("features"))));
    write("logits", npy("<f4", &format!("{N}, 2"), &bytes(&made.numbers("logits"))));
    write("labels", npy("<i8", &format!("{N},"), &bytes(&made.labels())));
}

#[test]
fn given_factors_are_searched_as_those_of_our_own_run() {
    let made = made();
    made.bench.ok("index --from-factors given.jsonl --store given --block-records 8 --quiet");
    assert_eq!(made.found("given"), made.found("store"));
    // As queries, too.
    write_rows(&made.bench, "queries.jsonl", &made.rows[3..9]);
    made.bench.write(
        "texts.jsonl",
        made.rows[3..9]
            .iter()
            .map(|row| json!({ "id": row["id"], "text": row["text"] }).to_string() + "\n")
            .collect::<String>(),
    );
    for rule in ["grad-dot", "relatif"] {
        let search = |who: &str| made.bench.ok(&format!("search --store {who} --rule {rule} -k 4 --quiet"));
        let (given, asked) =
            (lines(&search("given --from-factors queries.jsonl")), lines(&search("store --data texts.jsonl")));
        for (given, asked) in given.iter().zip(&asked) {
            for field in ["id", "predicted", "probability", "target", "proponents", "opponents"] {
                assert_eq!(given[field], asked[field], "{rule} {field}");
            }
        }
    }
    made.bench.fails("search --store given --text good", "there is no model to ask with");
}

#[test]
fn every_format_makes_the_same_store() {
    let made = made();
    made.bench.write("given.safetensors", safetensors(&made));
    made.bench.write("texts.jsonl", made.texts());
    write_npy(&made, "arrays");
    for (name, file) in [("a", "given.safetensors"), ("b", "arrays")] {
        made.bench
            .ok(&format!("index --from-factors {file} --data texts.jsonl --store {name} --block-records 8 --quiet"));
        assert_eq!(made.found(name), made.found("store"));
    }
    assert_eq!(made.bench.contents("a"), made.bench.contents("b"));
}

/// Records without texts are no copies of one another, and are not compared by what they do not have.
#[test]
fn factors_without_texts_are_audited_by_their_factors() {
    let made = made();
    made.bench.write("given.safetensors", safetensors(&made));
    made.bench.ok("index --from-factors given.safetensors --store textless --label-names a,b --quiet");
    let nearest = lines(&made.bench.ok("audit dirty --store textless --signal neighbours --neighbours 3 --quiet"));
    let agrees = |found: &Value| {
        found["neighbours"].as_array().expect("a list").iter().filter(|one| one["label"] == found["label"]).count()
    };
    assert!(nearest.len() == N && nearest.iter().map(agrees).sum::<usize>() > N, "{nearest:?}");
    let all = lines(&made.bench.ok("audit dirty --store textless --quiet"));
    assert!(all.len() == N && all[0]["signals"].get("text").is_none(), "{:?}", all[0]);
    for (what, told) in [
        ("audit dirty --store textless --signal text", "the signal text: the store's records have no texts"),
        ("audit redundant --store textless", "audit redundant: the store's records have no texts"),
        (
            "search --store textless --self --collapse-duplicates",
            "--collapse-duplicates: the store's records have no texts",
        ),
    ] {
        made.bench.fails(&format!("{what} --quiet"), told);
    }
    made.bench.write("texts.jsonl", made.texts());
    made.bench.fails("audit sparse --store textless --data texts.jsonl --quiet", "it knows no model");
}

#[test]
fn what_is_exported_is_read_again_with_its_labels_and_its_head() {
    let made = made();
    let dirty = |store: &str| made.bench.ok(&format!("audit dirty --store {store} --format jsonl --quiet"));
    for to in ["parquet", "jsonl", "npy"] {
        made.bench.ok(&format!("export --store store --format {to} --out again.{to} --quiet"));
        let data = if to == "npy" { "--data again.npy/records.jsonl" } else { "" };
        made.bench.ok(&format!("index --from-factors again.{to} {data} --store from-{to} --block-records 8 --quiet"));
        assert_eq!(made.found(&format!("from-{to}")), made.found("store"), "{to}");
        assert_eq!(dirty(&format!("from-{to}")), dirty("store"), "{to}");
    }
    // Names go along with arrays; a record without a label has none again.
    let mut rows = made.rows.clone();
    rows[0].as_object_mut().expect("an object").remove("label");
    made.bench
        .fails("index --from-factors again.jsonl --label-names ham,spam --store no --quiet", "expected one of \"ham\"");
    write_npy(&made, "named");
    made.bench.write("named/label_names.json", r#"["ham","spam"]"#);
    let labels: Vec<i64> = [-1].into_iter().chain(made.labels().into_iter().skip(1)).collect();
    made.bench.write("named/labels.npy", npy("<i8", &format!("{N},"), &bytes(&labels)));
    made.bench.ok("index --from-factors named --store names --quiet");
    let found = lines(&made.bench.ok("search --store names --self --rule grad-dot -k 1 --quiet"));
    assert!(found[0].get("label").is_none_or(Value::is_null) && found[1]["label"] == "spam", "{found:?}");
    // Without logits it is what an encoder without a head would give.
    fs::remove_file(made.bench.path("named/logits.npy")).expect("it was there");
    let told = made.bench.run("index --from-factors named --store headless").err;
    assert!(told.contains(&format!("{} labels not kept: there are no logits", N - 1)), "{told}");
    let run: Value =
        serde_json::from_slice(&fs::read(made.bench.path("headless.run.json")).expect("a run")).expect("JSON");
    assert_eq!(run["summary"]["unread_labels"], N - 1);
    let info = lines(&made.bench.ok("store info headless --format jsonl"));
    let kept = &info[0]["settings"];
    assert_eq!((&kept["problem"], &kept["classes"]), (&Value::from("headless"), &Value::from(0)));
}

#[test]
fn a_killed_import_is_gone_on_with_and_changed_factors_are_noticed() {
    let made = made();
    made.bench.ok("index --from-factors given.jsonl --store given --block-records 8 --quiet");
    made.bench.ok("index --from-factors given.jsonl --store given --block-records 8 --quiet --resume");
    let mut rows = made.rows.clone();
    rows[20]["features"][0] = json!(0.125);
    write_rows(&made.bench, "changed.jsonl", &rows);
    let again = "index --from-factors changed.jsonl --store given --block-records 8 --quiet --resume";
    made.bench.fails(again, "the data changed");
}

/// What is done to a good record.
type Change = fn(&mut Value);

#[test]
fn what_cannot_be_stored_is_refused_by_name() {
    let made = made();
    let index = |file: &str| format!("index --from-factors {file} --store refused --quiet");
    let broken = |change: fn(&mut Value)| {
        let mut rows = made.rows.clone();
        change(&mut rows[4]);
        write_rows(&made.bench, "broken.jsonl", &rows);
    };
    let cases: [(Change, &str); 5] = [
        (|row| row["features"] = json!([1.0]), "broken.jsonl:5: expected 24 features and 2 logits, found 1 and 2"),
        (|row| row["features"][3] = json!(1e60), "broken.jsonl:5: features: number 3 is inf"),
        (|row| row["logits"] = json!("high"), "broken.jsonl:5: logits: expected a list of numbers"),
        (|row| row["label"] = json!("nobody"), "broken.jsonl:5: label \"nobody\""),
        (|row| row["id"] = json!("r1"), "broken.jsonl:5: duplicate id \"r1\""),
    ];
    for (change, expected) in cases {
        broken(change);
        made.bench.fails(&index("broken.jsonl"), expected);
    }
    let ran = made.bench.run(&format!("{} --skip-invalid", index("broken.jsonl")));
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    write_npy(&made, "arrays");
    made.bench.write("arrays/labels.npy", npy("<i8", "3,", &bytes(&[0_i64, 1, 0])));
    made.bench.fails(&index("arrays"), "`labels`: expected 30 rows, one for each of features, found 3");
    made.bench.write("arrays/labels.npy", npy("<c8", "30,", &[0; 240]));
    made.bench.fails(&index("arrays"), "numbers of type <c8 are not read");
    made.bench.write("few.jsonl", "{\"text\":\"one\"}\n");
    fs::remove_file(made.bench.path("arrays/labels.npy")).expect("it was there");
    made.bench
        .fails(&format!("{} --data few.jsonl", index("arrays")), "30 rows of features, and fewer records in --data");
    made.bench.fails(&index("train.csv"), "not a file of factors");
}

#[test]
fn a_file_cut_short_anywhere_or_scribbled_over_is_refused_and_nothing_panics() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).expect("it is written");
        path
    };
    let index = |path: PathBuf| {
        let given = GivenFactors { file: &GivenFile(path), texts: None, label_names: None };
        let store = tempfile::tempdir().expect("a folder");
        let options = IndexOptions::default();
        index_given(given, &store.path().join("store"), &options, true, &mut Rejections::new(false, None))
    };
    let features = bytes(&[1.0_f32, 2.0, 3.0, 4.0]);
    let view = TensorView::new(Dtype::F32, vec![2, 2], &features).expect("a tensor");
    let whole = safetensors::serialize([("features", view)], None).expect("a file");
    assert!(index(file("whole.safetensors", &whole)).is_ok());
    let directory = folder.path().join("arrays");
    fs::create_dir(&directory).expect("a directory");
    let array = npy("<f4", "2, 2", &features);
    fs::write(directory.join("features.npy"), &array).expect("it is written");
    assert!(index(directory.clone()).is_ok());
    for end in 0..whole.len() {
        assert!(index(file("cut.safetensors", &whole[..end])).is_err(), "{end}");
        let mut scribbled = whole.clone();
        scribbled[end] ^= 0x55;
        drop(index(file("cut.safetensors", &scribbled)));
    }
    for end in 0..array.len() {
        fs::write(directory.join("features.npy"), &array[..end]).expect("it is written");
        assert!(index(directory.clone()).is_err(), "{end}");
        let mut scribbled = array.clone();
        scribbled[end] ^= 0x55;
        fs::write(directory.join("features.npy"), &scribbled).expect("it is written");
        drop(index(directory.clone()));
    }
}

/// Runs a Python program where an interpreter with these modules is at hand (`WHEREFORE_PYTHON`, else `python3`);
/// `None` elsewhere.
fn python(bench: &Bench, modules: &[&str], program: &[&str]) -> Option<String> {
    let told = python_if_there(bench, modules, program);
    if told.is_none() {
        crate::lacking(&format!("no Python with {}", modules.join(" and ")));
    }
    told
}

/// The same with modules that nobody must have.
fn python_if_there(bench: &Bench, modules: &[&str], program: &[&str]) -> Option<String> {
    let interpreter = std::env::var("WHEREFORE_PYTHON").unwrap_or_else(|_| "python3".into());
    let import = format!("import {}", modules.join(", "));
    let there = Command::new(&interpreter).args(["-c", &import]).output().is_ok_and(|told| told.status.success());
    if !there {
        return None;
    }
    let told = Command::new(interpreter).args(program).current_dir(bench.path(".")).output().expect("it runs");
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    Some(String::from_utf8_lossy(&told.stdout).trim().to_owned())
}

#[test]
fn python_reads_a_store_by_the_example() {
    let made = made();
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/read_store.py");
    let Some(told) = python(&made.bench, &["numpy", "safetensors"], &[example, "store"]) else { return };
    assert!(told.starts_with("30 ") && told.contains("features[8, 24]") && told.contains("losses[8]"), "{told}");
    // Integers, as what they stand for: the numbers of an export.
    made.bench.ok("index --from-factors given.jsonl --store bytes --dtype int8 --quiet");
    made.bench.ok("export --store bytes --format npy --out bytes-arrays --quiet");
    let program = format!(
        "import sys, runpy, numpy as np\nsys.argv = ['', 'bytes']\nread = runpy.run_path('{example}')['factors'][0]['features']\n\
         told = np.load('bytes-arrays/features.npy')\nprint(read.dtype, abs(read - told).max() <= 1e-6 * abs(told).max())"
    );
    let told = python(&made.bench, &["numpy", "safetensors"], &["-c", &program]);
    assert!(told.as_deref().is_some_and(|told| told.ends_with("\nfloat32 True")), "{told:?}");
}

#[test]
fn numpy_and_faiss_read_what_is_exported() {
    let made = made();
    made.bench.ok("export --store store --format npy --out arrays --quiet");
    made.bench.ok("export --store store --format faiss --out flat.index --quiet");
    let program = "import numpy as np, faiss\n\
        a = {n: np.load(f'arrays/{n}.npy') for n in ['features', 'deltas', 'labels', 'predictions', 'losses', 'indices']}\n\
        i = faiss.read_index('flat.index')\n\
        assert i.metric_type == faiss.METRIC_INNER_PRODUCT and i.is_trained and i.ntotal == len(a['features'])\n\
        assert (i.reconstruct_n(0, i.ntotal) == a['features']).all()\n\
        faiss.write_index(i, 'theirs.index')\n\
        assert open('theirs.index', 'rb').read() == open('flat.index', 'rb').read()\n\
        print({n: x.shape for n, x in a.items()}, i.search(a['features'][:1], 3)[1][0].tolist())";
    let Some(told) = python(&made.bench, &["numpy", "faiss"], &["-c", program]) else { return };
    assert!(told.contains("'features': (30, 24), 'deltas': (30, 2), 'labels': (30,)"), "{told}");
    made.bench.fails("export --store store --format text --out arrays.txt", "expected parquet, jsonl, npy or faiss");
    made.bench.fails("search --store store --self --format npy", "--format npy: only `export` writes it");
    made.bench.fails("export --store store --format npy --out arrays", "it is there already");
    made.bench.fails("export --store store --out thing", "its extension names no format");
}

#[cfg(feature = "parquet")]
#[test]
fn pandas_polars_and_duckdb_open_what_is_written() {
    let made = made();
    made.bench.ok("search --store store --self --rule grad-dot -k 3 --group-by label --out results.parquet --quiet");
    made.bench.ok("export --store store --out store.parquet --quiet");
    let expected = made.rows[7]["features"][5].as_f64().expect("a number") as f32;
    let check = |module: &str, read: &str, column: &str| {
        let program = format!(
            "import {module}\nresults = {}\nstore = {}\nprint(len(results), len(store), results{column}[7], store{column}[7])",
            read.replace("FILE", "results.parquet"),
            read.replace("FILE", "store.parquet"),
        );
        let run = if module == "polars" { python } else { python_if_there };
        run(&made.bench, &[module], &["-c", &program])
    };
    for told in [
        check("pandas", "pandas.read_parquet('FILE')", "['id']"),
        check("polars", "polars.read_parquet('FILE')", "['id']"),
        check("duckdb", "duckdb.sql(\"select id from 'FILE'\").fetchall()", ""),
    ]
    .into_iter()
    .flatten()
    {
        assert!(told.starts_with("30 30 ") && told.matches("r7").count() == 2, "{told}");
    }
    let nested = "import polars\nr = polars.read_parquet('results.parquet')\ns = polars.read_parquet('store.parquet')\n\
        print(s['features'][7][5], r['proponents'][7][0]['rank'], len(r['groups'][7]))";
    if let Some(told) = python(&made.bench, &["polars"], &["-c", nested]) {
        let told: Vec<f64> = told.split_whitespace().map(|number| number.parse().expect("a number")).collect();
        assert_eq!((told[0] as f32, told[1], told[2]), (expected, 1.0, 2.0));
    }
}

#[test]
fn jobs_of_a_cluster_as_the_examples_have_them_make_one_store() {
    let bench = Bench::new();
    let model = bench.model("bert-cls2");
    bench.records("train.jsonl", 40);
    let program = "import json, sys, yaml\n\
        jobs = [yaml.safe_load(open(path)) for path in sys.argv[1:]]\n\
        assert all(job['apiVersion'] == 'batch/v1' and job['kind'] == 'Job' for job in jobs)\n\
        pods = [job['spec']['template']['spec'] for job in jobs]\n\
        for pod in pods:\n    \
            volumes, mounts = pod['volumes'], pod['containers'][0]['volumeMounts']\n    \
            assert {volume['name'] for volume in volumes} == {mount['name'] for mount in mounts}\n    \
            assert pod['restartPolicy'] in ('Never', 'OnFailure')\n\
        assert jobs[0]['spec']['completionMode'] == 'Indexed'\n\
        print(json.dumps([[job['spec'].get('completions', 1), pod['containers'][0]['command'] + pod['containers'][0]['args']] \
        for job, pod in zip(jobs, pods)]))";
    let path = |job: &str| format!("{}/examples/kubernetes/{job}-job.yaml", env!("CARGO_MANIFEST_DIR"));
    let Some(told) = python(&bench, &["yaml"], &["-c", program, &path("index"), &path("merge")]) else { return };
    let jobs: Vec<(usize, Vec<String>)> = serde_json::from_str(&told).expect("two jobs");
    for (pods, command) in jobs {
        assert_eq!(command[0], "wherefore");
        for pod in 0..pods {
            let argument = |argument: &String| {
                let named = argument.replace("$(JOB_COMPLETION_INDEX)", &pod.to_string());
                named.replace("/data/model", &model).replace("/data/", "")
            };
            let mut line = command[1..].iter().map(argument).collect::<Vec<_>>().join(" ");
            if command[1] == "index" {
                line += " --block-records 4";
            }
            bench.ok(&line);
        }
    }
    bench.ok(&format!("index --model={model} --data=train.jsonl --store=whole --block-records 4 --quiet"));
    let manifest = |store: &str| fs::read(bench.path(&format!("{store}/manifest.json"))).expect("a manifest");
    assert!(manifest("store") == manifest("whole"), "the manifest names every file's checksum");
}
