//! Weights that are not what they must be: each way has a test named after it, and each is refused with one line.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::json;
use tempfile::TempDir;
use wherefore::backend::reference::Reference;
use wherefore::model::{LoadOptions, Model};

use super::cases::{assert_refused, configure, copy, refusal};
use super::safetensors::Parts;

const FILE: &str = "model.safetensors";
const BIAS: &str = "classifier.bias";

fn weights(dir: &TempDir) -> PathBuf {
    dir.path().join(FILE)
}

/// A copy of `bert-cls2` with these bytes for weights.
fn with_bytes(change: impl Fn(Vec<u8>) -> Vec<u8>) -> TempDir {
    let dir = copy("bert-cls2");
    let bytes = std::fs::read(weights(&dir)).unwrap();
    std::fs::write(weights(&dir), change(bytes)).unwrap();
    dir
}

/// A copy of `bert-cls2` with its weights taken apart, changed and put together.
pub(super) fn with_parts(change: impl Fn(&mut Parts)) -> TempDir {
    let dir = copy("bert-cls2");
    let mut parts = Parts::read(&weights(&dir));
    change(&mut parts);
    parts.write(&weights(&dir));
    dir
}

#[test]
fn empty_file() {
    let dir = with_bytes(|_| Vec::new());
    assert_refused(dir.path(), FILE, "truncated: expected at least 8 bytes, found 0");
}

#[test]
fn length_cut_short() {
    let dir = with_bytes(|bytes| bytes[..5].to_vec());
    assert_refused(dir.path(), FILE, "truncated: expected at least 8 bytes, found 5");
}

#[test]
fn header_cut_short() {
    let dir = with_bytes(|bytes| bytes[..100].to_vec());
    assert_refused(dir.path(), FILE, "truncated: expected a header of");
}

#[test]
fn header_longer_than_the_format_allows() {
    let dir = with_bytes(|bytes| [&u64::MAX.to_le_bytes(), &bytes[8..]].concat());
    assert_refused(dir.path(), FILE, "expected a header of at most 100000000 bytes, found 18446744073709551615");
}

#[test]
fn header_not_json() {
    let dir = with_bytes(|mut bytes| {
        bytes[8] = b'[';
        bytes
    });
    assert_refused(dir.path(), FILE, "damaged header");
}

#[test]
fn header_not_utf8() {
    let dir = with_bytes(|mut bytes| {
        bytes[12] = 0xff;
        bytes
    });
    assert_refused(dir.path(), FILE, "damaged header");
}

#[test]
fn header_of_endless_brackets() {
    let header = "{\"a\":".repeat(100_000);
    let dir = with_bytes(|_| [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat());
    assert_refused(dir.path(), FILE, "damaged header");
}

#[test]
fn data_cut_short() {
    let dir = with_bytes(|bytes| bytes[..bytes.len() - 1].to_vec());
    assert_refused(dir.path(), FILE, "truncated or damaged: expected");
    assert!(refusal(dir.path()).hint().is_some());
}

#[test]
fn data_with_something_behind_it() {
    let dir = with_bytes(|bytes| [bytes, vec![0]].concat());
    assert_refused(dir.path(), FILE, "bytes of tensors behind the header, found");
}

#[test]
fn offsets_overlap() {
    let dir = with_parts(|parts| {
        let range = parts.range("classifier.weight");
        parts.header[BIAS]["data_offsets"] = json!([range.start, range.start + 8]);
    });
    assert_refused(dir.path(), FILE, "damaged header: invalid offset");
}

#[test]
fn offsets_leave_a_gap() {
    let dir = with_parts(|parts| {
        parts.header.shift_remove(BIAS);
    });
    assert_refused(dir.path(), FILE, "damaged header: invalid offset");
}

#[test]
fn offsets_run_backwards() {
    let dir = with_parts(|parts| {
        let range = parts.range(BIAS);
        parts.header[BIAS]["data_offsets"] = json!([range.end, range.start]);
    });
    assert_refused(dir.path(), FILE, "damaged header");
}

#[test]
fn offsets_beyond_the_file() {
    let dir = with_parts(|parts| {
        let end = parts.data.len();
        parts.header.insert("more".into(), json!({"dtype": "F32", "shape": [4], "data_offsets": [end, end + 16]}));
    });
    assert_refused(dir.path(), FILE, "truncated or damaged");
}

/// Sizes whose sum wraps around 64 bits to just what the file has.
#[test]
fn offsets_wrap_around() {
    let dir = with_parts(|parts| {
        let mut start = parts.data.len() as u64;
        let part = u64::MAX / 8;
        for i in 0..8 {
            let info = json!({"dtype": "U8", "shape": [part], "data_offsets": [start, start.saturating_add(part)]});
            parts.header.insert(format!("more.{i}"), info);
            start = start.saturating_add(part);
        }
    });
    assert_refused(dir.path(), FILE, "damaged");
}

#[test]
fn shape_overflows() {
    let dir = with_parts(|parts| parts.header[BIAS]["shape"] = json!([u64::MAX, 8]));
    assert_refused(dir.path(), FILE, "damaged header: overflow");
}

#[test]
fn shape_disagrees_with_its_bytes() {
    let dir = with_parts(|parts| parts.header[BIAS]["shape"] = json!([3]));
    assert_refused(dir.path(), FILE, "damaged header: invalid shape");
}

#[test]
fn tensor_missing() {
    let dir = with_parts(|parts| parts.rename(|name| name.replace("layer.1.output.dense.bias", "layer.1.output.bias")));
    assert_refused(dir.path(), FILE, "tensor \"bert.encoder.layer.1.output.dense.bias\" is missing");
}

#[test]
fn tensor_misshapen() {
    let dir = with_parts(|parts| parts.header["bert.pooler.dense.weight"]["shape"] = json!([12, 48]));
    assert_refused(dir.path(), FILE, "tensor \"bert.pooler.dense.weight\": expected shape [24, 24], found [12, 48]");
}

#[test]
fn last_layer_with_other_biases_than_rows() {
    let dir = with_parts(|parts| parts.header[BIAS]["shape"] = json!([1, 2]));
    assert_refused(dir.path(), FILE, "tensor \"classifier.bias\": expected shape [2], found [1, 2]");
}

#[test]
fn last_layer_of_another_width() {
    let dir = with_parts(|parts| parts.header["classifier.weight"]["shape"] = json!([4, 12]));
    assert_refused(dir.path(), FILE, "tensor \"classifier.weight\": expected shape [4, 24], found [4, 12]");
}

#[test]
fn last_layer_without_rows() {
    let dir = with_parts(|parts| parts.header["classifier.weight"]["shape"] = json!([48]));
    assert_refused(dir.path(), FILE, "tensor \"classifier.weight\": expected shape [classes, width], found [48]");
}

#[test]
fn vocabulary_of_another_size() {
    let dir = copy("bert-cls2");
    configure(dir.path(), &[("vocab_size", json!(200))]);
    assert_refused(dir.path(), FILE, "expected shape [200, 24], found [199, 24]");
}

#[test]
fn tensor_of_integers() {
    let dir = with_parts(|parts| parts.header[BIAS]["dtype"] = json!("I32"));
    assert_refused(dir.path(), FILE, "tensor \"classifier.bias\": expected F32, F16 or BF16, found I32");
}

#[test]
fn tensor_not_finite() {
    for (bits, shown) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
        let dir = with_parts(|parts| {
            let at = parts.range("bert.pooler.dense.weight").start + 4 * 7;
            parts.data[at..at + 4].copy_from_slice(&bits.to_le_bytes());
        });
        let reason =
            format!("tensor \"bert.pooler.dense.weight\": expected finite numbers, found {shown} at element 7");
        assert_refused(dir.path(), FILE, &reason);
    }
}

#[test]
fn pickled_alone() {
    let dir = copy("bert-cls2");
    std::fs::rename(weights(&dir), dir.path().join("pytorch_model.bin")).unwrap();
    assert_refused(dir.path(), "pytorch_model.bin", "pickled weights are not read");
    assert!(refusal(dir.path()).hint().unwrap().contains("scripts/to_safetensors.py"));
}

#[test]
fn no_weights() {
    let dir = copy("bert-cls2");
    std::fs::remove_file(weights(&dir)).unwrap();
    assert_refused(dir.path(), FILE, "no such file, and no model.safetensors.index.json");
}

fn sharded(change: impl Fn(&mut serde_json::Value, &Path)) -> TempDir {
    let dir = copy("bert-sharded");
    let path = dir.path().join("model.safetensors.index.json");
    let mut index = super::cases::json(&path);
    change(&mut index, dir.path());
    std::fs::write(path, index.to_string()).unwrap();
    dir
}

#[test]
fn shard_absent() {
    let dir = sharded(|_, dir| std::fs::remove_file(dir.join("model-00002-of-00003.safetensors")).unwrap());
    assert_refused(dir.path(), "model-00002-of-00003.safetensors", "");
}

#[test]
fn shard_without_its_tensor() {
    let dir = sharded(|index, _| index["weight_map"]["one.more"] = json!("model-00001-of-00003.safetensors"));
    assert_refused(dir.path(), "model-00001-of-00003.safetensors", "tensor \"one.more\" is missing");
}

#[test]
fn shard_outside_the_directory() {
    let dir = sharded(|index, _| index["weight_map"][BIAS] = json!("../elsewhere.safetensors"));
    assert_refused(dir.path(), "model.safetensors.index.json", "expected a file's name, found \"../elsewhere");
}

#[test]
fn index_not_an_index() {
    let dir = sharded(|index, _| *index = json!({"weights": {}}));
    assert_refused(dir.path(), "model.safetensors.index.json", "missing field `weight_map`");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever happens to the header or a length, the file is read or refused; nothing panics, nothing is allocated by
    /// a lie.
    #[test]
    fn any_damage_to_the_header_is_survived(at in 0usize..4000, byte: u8, cut in prop::option::of(0usize..4000)) {
        let dir = with_bytes(|mut bytes| {
            bytes[at] = byte;
            bytes.truncate(cut.unwrap_or(bytes.len()));
            bytes
        });
        if let Err(error) = Model::open_with(Reference, dir.path(), &LoadOptions::default()) {
            prop_assert!(!error.to_string().contains('\n'));
        }
    }
}
