//! Configurations: what is refused, and with which words.

use serde_json::{Value, json};
use tempfile::TempDir;
use wherefore::backend::reference::Reference;
use wherefore::model::{LoadOptions, Model, Problem};

use super::cases::{assert_refused, configure, copy, path};

const FILE: &str = "config.json";

fn configured(name: &str, fields: &[(&str, Value)]) -> TempDir {
    let dir = copy(name);
    configure(dir.path(), fields);
    dir
}

fn open(dir: &TempDir) -> Model {
    Model::open_with(Reference, dir.path(), &LoadOptions::default()).unwrap()
}

#[test]
fn unsupported_settings_are_named() {
    let cases = [
        ("model_type", json!("gpt2"), "found \"gpt2\""),
        ("model_type", Value::Null, "\"model_type\" is missing"),
        ("hidden_size", Value::Null, "\"hidden_size\" is missing"),
        ("hidden_size", json!("wide"), "\"hidden_size\": expected a whole number, found \"wide\""),
        ("hidden_size", json!(-1), "expected a whole number, found -1"),
        ("hidden_size", json!(1e30), "expected a whole number"),
        ("num_hidden_layers", json!(0), "\"num_hidden_layers\": expected at least 1, found 0"),
        ("num_attention_heads", json!(5), "hidden size 24 is not a multiple of the number of attention heads, 5"),
        ("hidden_act", json!("mish"), "found \"mish\""),
        ("layer_norm_eps", json!("tiny"), "\"layer_norm_eps\": expected a small positive number"),
        ("initializer_range", json!(-0.02), "\"initializer_range\": expected a small positive number"),
        ("type_vocab_size", json!(0), "\"type_vocab_size\": expected at least 1, found 0"),
        ("position_embedding_type", json!("relative_key"), "found \"relative_key\""),
        ("is_decoder", json!(true), "decoders are not supported"),
        ("architectures", json!(["BertForMultipleChoice"]), "found \"BertForMultipleChoice\""),
        ("architectures", json!("BertModel"), "expected a list of names"),
        ("problem_type", json!("ranking"), "found \"ranking\""),
        ("id2label", json!(["a", "b"]), "\"id2label\": expected an object"),
        ("id2label", json!({"0": "a", "2": "b"}), "\"id2label\": expected the keys \"0\" to \"1\", found \"2\""),
        ("id2label", json!({"0": "a", "00": "b"}), "found \"00\""),
        ("id2label", json!({"0": "a"}), "\"id2label\": expected 2 names, one for each row of the last layer, found 1"),
        ("id2label", json!({}), "expected 2 names, one for each row of the last layer, found 0"),
    ];
    for (field, value, reason) in cases {
        let dir = configured("bert-cls2", &[(field, value)]);
        assert_refused(dir.path(), FILE, reason);
    }
}

#[test]
fn positions_must_be_left_behind_the_padding() {
    let dir = configured("roberta-cls2", &[("max_position_embeddings", json!(2))]);
    assert_refused(dir.path(), FILE, "\"max_position_embeddings\": expected more than pad_token_id + 1 = 2, found 2");
}

#[test]
fn what_is_not_json_is_refused() {
    let dir = copy("bert-cls2");
    std::fs::write(dir.path().join(FILE), "{\"model_type\": ").unwrap();
    assert_refused(dir.path(), FILE, "not valid JSON");
    std::fs::write(dir.path().join(FILE), "[]").unwrap();
    assert_refused(dir.path(), FILE, "expected a JSON object");
    std::fs::remove_file(dir.path().join(FILE)).unwrap();
    assert_refused(dir.path(), FILE, "No such file");
}

#[test]
fn sizes_that_do_not_fit_the_weights_are_told_before_anything_is_allocated() {
    for (field, reason) in [("max_position_embeddings", "[4294967295, 24]"), ("intermediate_size", "[4294967295, 24]")]
    {
        let dir = configured("bert-cls2", &[(field, json!(u32::MAX))]);
        assert_refused(dir.path(), "model.safetensors", reason);
    }
    let dir = configured("bert-cls2", &[("num_hidden_layers", json!(3))]);
    assert_refused(
        dir.path(),
        "model.safetensors",
        "tensor \"bert.encoder.layer.2.attention.self.query.weight\" is missing",
    );
}

#[test]
fn unstated_architectures_are_told_by_the_weights() {
    for (name, problem) in [("bert-cls2", Problem::SingleLabel), ("minilm-mean", Problem::Headless)] {
        let dir = configured(name, &[("architectures", Value::Null)]);
        assert_eq!(open(&dir).problem(), problem);
    }
}

#[test]
fn one_output_is_regressed_unless_it_says_multi_label() {
    let wanted = [
        (Value::Null, Problem::Regression),
        (json!("single_label_classification"), Problem::Regression),
        (json!("multi_label_classification"), Problem::MultiLabel),
    ];
    for (problem_type, problem) in wanted {
        let dir = configured("bert-regression", &[("problem_type", problem_type)]);
        assert_eq!(open(&dir).problem(), problem);
    }
}

#[test]
fn an_encoder_without_pooling_gives_its_first_token() {
    let dir = copy("minilm-mean");
    std::fs::remove_file(dir.path().join("modules.json")).unwrap();
    std::fs::remove_dir_all(dir.path().join("1_Pooling")).unwrap();
    let expected = super::cases::expected("minilm-mean");
    let record = &super::cases::records(&expected)[1];
    let model = open(&dir);
    let found = model.run(&[model.encode(record).unwrap()], None, &|_| true).unwrap().features;
    let wanted = expected[1]["last_hidden_cls"].as_array().unwrap();
    for (found, wanted) in found.iter().zip(wanted) {
        assert!((f64::from(*found) - wanted.as_f64().unwrap()).abs() < 1e-6);
    }
}

#[test]
fn modules_and_poolings_without_an_implementation_are_refused() {
    let dir = copy("minilm-mean");
    let modules = dir.path().join("modules.json");
    let dense = json!([{"idx": 0, "path": "2_Dense", "type": "sentence_transformers.models.Dense"}]);
    std::fs::write(&modules, dense.to_string()).unwrap();
    assert_refused(dir.path(), "modules.json", "module \"Dense\" is not supported");
    let outside = json!([{"idx": 0, "path": "..", "type": "sentence_transformers.models.Pooling"}]);
    std::fs::write(&modules, outside.to_string()).unwrap();
    assert_refused(dir.path(), "modules.json", "expected a folder's name");
    std::fs::copy(path("minilm-mean/modules.json"), &modules).unwrap();
    // What would change every text.
    let prompts = dir.path().join("config_sentence_transformers.json");
    std::fs::write(&prompts, json!({"prompts": {"query": "query: "}, "default_prompt_name": "query"}).to_string())
        .unwrap();
    assert_refused(
        dir.path(),
        "config_sentence_transformers.json",
        "default_prompt_name: \"query\" is put before no text",
    );
    std::fs::write(&prompts, json!({"prompts": {"query": "query: "}, "default_prompt_name": null}).to_string())
        .unwrap();
    open(&dir);
    let lower = json!({"max_seq_length": 24, "do_lower_case": true}).to_string();
    std::fs::write(dir.path().join("sentence_bert_config.json"), lower).unwrap();
    open(&dir); // its tokenizer does so itself
    let tokenizer = std::fs::read_to_string(dir.path().join("tokenizer.json")).unwrap();
    let mut tokenizer: Value = serde_json::from_str(&tokenizer).unwrap();
    tokenizer["normalizer"]["lowercase"] = json!(false);
    std::fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let settings = dir.path().join("tokenizer_config.json");
    let cased =
        std::fs::read_to_string(&settings).unwrap().replace("\"do_lower_case\": true", "\"do_lower_case\": false");
    std::fs::write(&settings, cased).unwrap();
    assert_refused(dir.path(), "sentence_bert_config.json", "do_lower_case: texts are not lower-cased here");
    std::fs::rename(dir.path().join("config.json"), dir.path().join("elsewhere.json")).unwrap();
    assert_refused(dir.path(), "modules.json", "in a folder of their own");
    let dir = copy("minilm-mean");
    let poolings = [
        (json!({"pooling_mode": "lasttoken"}), "pooling \"lasttoken\" is not supported"),
        (json!({"pooling_mode": ["cls", "mean"]}), "expected one pooling mode, found 2: cls, mean"),
        (json!({"pooling_mode_weightedmean_tokens": true}), "pooling \"weightedmean_tokens\" is not supported"),
        (json!({}), "expected one pooling mode, found 0"),
    ];
    for (pooling, reason) in poolings {
        std::fs::write(dir.path().join("1_Pooling/config.json"), pooling.to_string()).unwrap();
        assert_refused(dir.path(), "1_Pooling/config.json", reason);
    }
}

#[test]
fn max_length_fits_the_positions() {
    let open = |name: &str, max_length| {
        Model::open_with(Reference, &path(name), &LoadOptions { max_length, ..LoadOptions::default() })
    };
    assert_eq!(open("bert-cls2", Some(20)).unwrap().max_length(), 20);
    for (name, max_length) in [("bert-cls2", 49), ("bert-cls2", 0), ("roberta-cls2", 1000)] {
        let Err(error) = open(name, Some(max_length)) else { panic!("{max_length} was accepted") };
        assert!(error.to_string().starts_with("max length: expected 1 to "), "{error}");
    }
}
