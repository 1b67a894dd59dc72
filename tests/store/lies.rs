//! Manifests that are sealed and lie: everything a store says about itself is checked against what can be, and what is.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use wherefore::store::{Part, Store};

use super::{build, plain, told};

/// Changes a manifest and seals it again, as a program with bad intent would.
fn forge(directory: &Path, change: impl FnOnce(&mut Value)) {
    let path = directory.join("manifest.json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    manifest.as_object_mut().unwrap().shift_remove("checksum");
    change(&mut manifest);
    let pretty = |manifest: &Value| format!("{}\n", serde_json::to_string_pretty(manifest).unwrap());
    manifest["checksum"] = json!(blake3::hash(pretty(&manifest).as_bytes()).to_hex().to_string());
    fs::write(path, pretty(&manifest)).unwrap();
}

fn store() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    build(directory.path(), &plain(), Part::WHOLE, 10);
    directory
}

/// The message of opening a store whose manifest was changed at `pointer`.
fn lie(pointer: &str, value: &Value) -> String {
    let directory = store();
    forge(directory.path(), |manifest| *manifest.pointer_mut(pointer).expect(pointer) = value.clone());
    assert!(Store::open(directory.path()).is_err(), "{pointer} = {value} was opened");
    told(Store::open(directory.path()))
}

#[test]
fn an_honest_forgery_opens() {
    // Otherwise every other test here would pass for the wrong reason.
    let directory = store();
    forge(directory.path(), |manifest| manifest["settings"]["model"] = json!("moved"));
    assert_eq!(Store::open(directory.path()).unwrap().settings().model, "moved");
}

#[test]
fn lying_numbers_are_refused() {
    let cases = [
        ("/blocks/0/rows", json!(2), "indices"),
        ("/blocks/0/rows", json!(4), "indices"),
        ("/blocks/0/rows", json!(5), "at most 4 rows"),
        ("/blocks/0/rows", json!(u64::MAX), "at most 4 rows"),
        ("/blocks/0/rows", json!(-1), "not a manifest"),
        ("/blocks/1/factors/bytes", json!(17), "expected 17 bytes"),
        ("/blocks/1/records/bytes", json!(0), "expected 0 bytes"),
        ("/head/bytes", json!(1), "expected 1 bytes"),
        ("/records", json!(13), "blocks listed are not those of 13"),
        ("/records", json!(8), "blocks listed are not those of 8"),
        ("/records", json!(u64::MAX), "blocks listed are not those of"),
        ("/records", Value::Null, "number of input records is missing"),
        ("/settings/width", json!(6), "expected F32 [3, 6]"),
        ("/settings/width", json!(0), "width: expected at least 1"),
        ("/settings/width", json!(u64::MAX), "F32"),
        ("/settings/classes", json!(2), "label names: expected 2, found 3"),
        ("/settings/classes", json!(0), "classes: found 0"),
        ("/settings/block_records", json!(0), "block_records: expected 1"),
        ("/settings/block_records", json!(u64::MAX), "block_records: expected 1"),
        ("/settings/dtype", json!("f16"), "expected F16"),
        ("/settings/dtype", json!("f8"), "not a manifest"),
        ("/settings/problem", json!("regression"), "tensor `labels`: expected F32"),
        ("/settings/problem", json!("headless"), "classes: found 3"),
        (
            "/settings/checkpoints",
            json!([{"path": "c", "fingerprint": "f", "learning_rate": 1.0}]),
            "`checkpoint.0.features` is missing",
        ),
        ("/part", json!({"index": 1, "count": 1}), "part 1/1"),
        ("/part", json!({"index": 0, "count": 0}), "part 0/0"),
        ("/part", json!({"index": 0, "count": 2}), "block 1 does not belong to part 0/2"),
        ("/version", json!(2), "this program reads 1, found 2"),
        ("/format", json!("other"), "expected \"wherefore-store\""),
        ("/data_fingerprint", json!("00"), "data fingerprint"),
        ("/complete", json!(false), "--resume"),
    ];
    for (pointer, value, expected) in cases {
        let message = lie(pointer, &value);
        assert!(message.contains(expected), "{pointer} = {value}: {message}");
    }
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    for name in ["../shard-00000.safetensors", "/etc/passwd", "shard-00001.safetensors", "", "a\nb"] {
        let message = lie("/blocks/0/factors/name", &json!(name));
        assert!(message.contains("expected `shard-00000.safetensors`"), "{message}");
        let message = lie("/head/name", &json!(name));
        assert!(message.contains("expected `head.safetensors`"), "{message}");
    }
}

#[test]
fn blocks_out_of_order_twice_or_unknown_fields_are_refused() {
    let directory = store();
    forge(directory.path(), |manifest| manifest["blocks"].as_array_mut().unwrap().reverse());
    assert!(told(Store::open(directory.path())).contains("ascending"));
    forge(directory.path(), |manifest| {
        let first = manifest["blocks"][0].clone();
        manifest["blocks"] = json!([first, first]);
    });
    assert!(told(Store::open(directory.path())).contains("ascending"));
    let directory = store();
    forge(directory.path(), |manifest| manifest["surprise"] = json!(1));
    assert!(told(Store::open(directory.path())).contains("surprise"));
}

#[test]
fn what_is_no_manifest_at_all_is_refused() {
    let directory = store();
    for text in ["", "{", "null", "[]", "{}", "3", "\"manifest\"", "{\"format\":{}}", "\u{0}"] {
        fs::write(directory.path().join("manifest.json"), text).unwrap();
        told(Store::open(directory.path()));
    }
    let deep = "[".repeat(100_000);
    fs::write(directory.path().join("manifest.json"), deep).unwrap();
    told(Store::open(directory.path()));
}

/// Puts other bytes in place of a shard's tensors, with a manifest that vouches for them.
fn replace_shard(directory: &Path, bytes: &[u8]) {
    fs::write(directory.join("shard-00000.safetensors"), bytes).unwrap();
    forge(directory, |manifest| {
        manifest["blocks"][0]["factors"]["bytes"] = json!(bytes.len());
        manifest["blocks"][0]["factors"]["checksum"] = json!(blake3::hash(bytes).to_hex().to_string());
    });
}

/// A safetensors file's header, and its data.
fn take_apart(bytes: &[u8]) -> (Value, Vec<u8>) {
    let (length, rest) = bytes.split_at(8);
    let (header, data) = rest.split_at(u64::from_le_bytes(length.try_into().unwrap()) as usize);
    (serde_json::from_slice(header).unwrap(), data.to_vec())
}

/// A safetensors file with a header that ends `misaligned` bytes after a multiple of eight.
fn put_together(header: &Value, data: &[u8], misaligned: usize) -> Vec<u8> {
    let mut header = header.to_string();
    header.push_str(&" ".repeat((8 - header.len() % 8) % 8 + misaligned));
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

#[test]
fn tensors_that_are_not_aligned_are_copied() {
    let directory = store();
    let shard = directory.path().join("shard-00000.safetensors");
    let expected = Store::open(directory.path()).unwrap();
    let (header, data) = take_apart(&fs::read(&shard).unwrap());
    fs::remove_file(&shard).unwrap();
    for misaligned in [1, 2, 4] {
        replace_shard(directory.path(), &put_together(&header, &data, misaligned));
        let found = Store::open(directory.path()).unwrap();
        let (found, expected) = (&found.shards()[0], &expected.shards()[0]);
        assert_eq!(found.indices(), expected.indices());
        assert_eq!(found.factors().deltas, expected.factors().deltas);
        assert_eq!(format!("{:?}", found.factors()), format!("{:?}", expected.factors()));
        assert_eq!(found.record(1).unwrap(), expected.record(1).unwrap());
    }
}

#[test]
fn lying_safetensors_headers_are_refused() {
    let directory = store();
    let shard = directory.path().join("shard-00000.safetensors");
    let (header, data) = take_apart(&fs::read(&shard).unwrap());
    let lies: [(&str, Value); 6] = [
        ("/deltas/dtype", json!("I64")),
        ("/deltas/shape", json!([3, 4])),
        ("/deltas/shape", json!([u64::MAX, u64::MAX])),
        ("/deltas/data_offsets", json!([0, 8])),
        ("/deltas/data_offsets", json!([u64::MAX - 1, u64::MAX])),
        ("/features", json!({"dtype": "F32", "shape": [0], "data_offsets": [0, 0]})),
    ];
    for (pointer, value) in lies {
        let mut lying = header.clone();
        *lying.pointer_mut(pointer).unwrap() = value;
        replace_shard(directory.path(), &put_together(&lying, &data, 0));
        let message = told(Store::open(directory.path()));
        assert!(message.contains("shard-00000.safetensors"), "{message}");
    }
    for bytes in [&b""[..], b"{}", &u64::MAX.to_le_bytes(), &[0; 8], &[8, 0, 0, 0, 0, 0, 0, 0, b'{']] {
        replace_shard(directory.path(), bytes);
        told(Store::open(directory.path()));
    }
}

#[test]
fn texts_of_another_shard_are_refused() {
    let directory = store();
    let texts = fs::read(directory.path().join("shard-00001.jsonl")).unwrap();
    fs::write(directory.path().join("shard-00000.jsonl"), &texts).unwrap();
    forge(directory.path(), |manifest| manifest["blocks"][0]["records"]["bytes"] = json!(texts.len()));
    assert!(told(Store::open(directory.path())).contains("record_offsets"));
}
