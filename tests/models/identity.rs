//! Fingerprints: equal for equal models, however they are stored; different for any other.

use half::{bf16, f16};
use serde_json::json;
use wherefore::backend::reference::Reference;
use wherefore::model::{LoadOptions, Model};

use super::cases::{self, configure, copy};
use super::safetensors::Parts;

fn model(dir: &std::path::Path) -> Model {
    Model::open_with(Reference, dir, &LoadOptions::default()).unwrap()
}

fn golden(name: &str) -> Model {
    model(&cases::path(name))
}

#[test]
fn names_shards_and_places_do_not_matter() {
    let original = golden("bert-cls2");
    let moved = copy("bert-cls2");
    for same in [golden("bert-legacy-names"), golden("bert-sharded"), model(moved.path())] {
        assert_eq!(same.fingerprint(), original.fingerprint());
        assert_eq!(same.head_fingerprint(), original.head_fingerprint());
    }
}

#[test]
fn an_encoders_prefix_does_not_matter() {
    let dir = copy("bert-cls2");
    let path = dir.path().join("model.safetensors");
    let mut parts = Parts::read(&path);
    parts.rename(|name| name.strip_prefix("bert.").unwrap_or(name).to_owned());
    parts.write(&path);
    assert_eq!(model(dir.path()).fingerprint(), golden("bert-cls2").fingerprint());
}

#[test]
fn stored_types_do_not_matter() {
    type Widen = fn([u8; 2]) -> f32;
    let widen: [(&str, Widen); 2] =
        [("bert-f16", |b| f16::from_le_bytes(b).to_f32()), ("bert-bf16", |b| bf16::from_le_bytes(b).to_f32())];
    for (name, widen) in widen {
        let dir = copy(name);
        let path = dir.path().join("model.safetensors");
        let mut parts = Parts::read(&path);
        parts.widen(widen);
        parts.write(&path);
        assert_eq!(model(dir.path()).fingerprint(), golden(name).fingerprint());
    }
    assert_ne!(golden("bert-f16").fingerprint(), golden("bert-bf16").fingerprint());
}

#[test]
fn tensors_nobody_reads_do_not_matter() {
    let dir = copy("bert-cls2");
    let path = dir.path().join("model.safetensors");
    let mut parts = Parts::read(&path);
    let end = parts.data.len();
    let stray = json!({"dtype": "I64", "shape": [1, 2], "data_offsets": [end, end + 16]});
    parts.header.insert("bert.embeddings.position_ids".into(), stray);
    parts.data.extend([255; 16]);
    parts.write(&path);
    assert_eq!(model(dir.path()).fingerprint(), golden("bert-cls2").fingerprint());
}

#[test]
fn one_bit_of_a_weight_matters() {
    let original = golden("bert-cls2");
    for (name, in_head) in [("bert.encoder.layer.0.output.dense.bias", false), ("classifier.weight", true)] {
        let dir = copy("bert-cls2");
        let path = dir.path().join("model.safetensors");
        let mut parts = Parts::read(&path);
        let at = parts.range(name).start;
        parts.data[at] ^= 1;
        parts.write(&path);
        let changed = model(dir.path());
        assert_ne!(changed.fingerprint(), original.fingerprint());
        assert_eq!(changed.head_fingerprint() != original.head_fingerprint(), in_head);
    }
}

#[test]
fn settings_that_change_results_matter() {
    let original = golden("bert-cls2");
    let settings = [
        ("num_attention_heads", json!(4)),
        ("hidden_act", json!("relu")),
        ("layer_norm_eps", json!(1e-5)),
        ("problem_type", json!("multi_label_classification")),
    ];
    for (field, value) in settings {
        let dir = copy("bert-cls2");
        configure(dir.path(), &[(field, value)]);
        assert_ne!(model(dir.path()).fingerprint(), original.fingerprint(), "{field}");
    }
}

#[test]
fn class_names_do_not_matter() {
    let dir = copy("bert-cls2");
    configure(dir.path(), &[("id2label", json!({"0": "bad", "1": "good"}))]);
    let renamed = model(dir.path());
    assert_eq!(renamed.class_names().names(), ["bad", "good"]);
    assert_eq!(renamed.fingerprint(), golden("bert-cls2").fingerprint());
    assert_eq!(golden("bert-cls2").class_names().names(), ["LABEL_0", "LABEL_1"]);
}
