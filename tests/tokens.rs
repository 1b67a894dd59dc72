//! Tests of `wherefore::tokens`: against `transformers` (the golden files), and of what no golden file says.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;
use wherefore::Error;
use wherefore::tokens::{Encoding, Positions, Tokenizer, TokenizerOptions, max_length, pack};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn read_json(path: &Path) -> Value {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What the model of a golden directory expects of its tokenizer.
fn options(dir: &Path) -> TokenizerOptions {
    let config = read_json(&dir.join("config.json"));
    let has_types = config["model_type"] != "distilbert" && config["type_vocab_size"].as_u64() != Some(1);
    TokenizerOptions { segments: has_types, vocabulary: config["vocab_size"].as_u64().unwrap() as usize }
}

fn field<T: serde::de::DeserializeOwned>(expected: &Value, name: &str) -> T {
    serde_json::from_value(expected[name].clone()).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Compares an encoding with each of the fields that the expectation has.
fn assert_encoding(found: &Encoding, expected: &Value, options: &TokenizerOptions, where_: &str) {
    assert_eq!(found.ids, field::<Vec<u32>>(expected, "ids"), "{where_}: ids of {expected:.120}");
    let types: Vec<u32> = field(expected, "type_ids");
    let types = if options.segments { types } else { vec![0; types.len()] };
    assert_eq!(found.type_ids, types, "{where_}: type ids");
    assert_eq!(found.offsets, field::<Vec<Option<(usize, usize)>>>(expected, "offsets"), "{where_}: offsets");
    if expected.get("tokens").is_some() {
        assert_eq!(found.tokens, field::<Vec<String>>(expected, "tokens"), "{where_}: tokens");
        assert_eq!(found.segments, field::<Vec<Option<u8>>>(expected, "segments"), "{where_}: segments");
        assert_eq!(found.truncated, field::<bool>(expected, "truncated"), "{where_}: truncated");
    }
}

#[test]
fn every_golden_model_encodes_its_records_as_transformers_does() {
    let mut models = 0;
    for entry in fs::read_dir(golden()).unwrap() {
        let dir = entry.unwrap().path();
        if !dir.join("golden.json").exists() {
            continue;
        }
        models += 1;
        let name = dir.file_name().unwrap().to_string_lossy().into_owned();
        let tokenizer = Tokenizer::load(&dir, &options(&dir)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let expected = read_json(&dir.join("golden.json"));
        let length = field(&expected, "max_length");
        for (at, record) in expected["records"].as_array().unwrap().iter().enumerate() {
            let pair: Option<String> = field(record, "pair");
            let found = tokenizer.encode(record["text"].as_str().unwrap(), pair.as_deref(), length).unwrap();
            assert_encoding(&found, record, &options(&dir), &format!("{name}, record {at}"));
        }
    }
    assert!(models >= 20, "expected the golden models, found {models}");
}

#[test]
fn every_kind_of_tokenizer_encodes_nasty_texts_as_transformers_does() {
    let mut texts = 0;
    for (name, records) in read_json(&golden().join("tokens.json")).as_object().unwrap() {
        let dir = golden().join(name);
        let length = field(&read_json(&dir.join("golden.json")), "max_length");
        let tokenizer = Tokenizer::load(&dir, &options(&dir)).unwrap_or_else(|error| panic!("{name}: {error}"));
        for (at, record) in records.as_array().unwrap().iter().enumerate() {
            let pair: Option<String> = field(record, "pair");
            let found = tokenizer.encode(record["text"].as_str().unwrap(), pair.as_deref(), length).unwrap();
            assert_encoding(&found, record, &options(&dir), &format!("{name}, text {at}"));
            texts += 1;
        }
    }
    assert!(texts >= 7 * 45, "expected the golden texts, found {texts}");
}

#[test]
fn the_real_model_encodes_as_transformers_does() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/models/minilm");
    if !dir.join("tokenizer.json").exists() {
        return crate::lacking("no target/models/minilm (scripts/fetch_minilm.py fetches it)");
    }
    let expected = read_json(&golden().join("minilm.json"));
    let tokenizer = Tokenizer::load(&dir, &options(&dir)).unwrap();
    assert_eq!(max_length(&dir, 512).unwrap(), field::<usize>(&expected, "max_length"));
    assert_eq!((tokenizer.pad_id(), tokenizer.mask_id(), tokenizer.vocab_size()), (Some(0), Some(103), 30_522));
    for (at, record) in expected["records"].as_array().unwrap().iter().enumerate() {
        let pair: Option<String> = field(record, "pair");
        let length = field(&expected, "max_length");
        let found = tokenizer.encode(record["text"].as_str().unwrap(), pair.as_deref(), length).unwrap();
        assert_encoding(&found, record, &options(&dir), &format!("minilm, record {at}"));
    }
}

const PIECES: &str = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\nc\n##a\n##b\n中\n文\nA\n.\n";
const ROWS: usize = 14;
const OPTIONS: TokenizerOptions = TokenizerOptions { segments: true, vocabulary: ROWS };

/// A directory with these files.
fn model(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, contents) in files {
        fs::write(dir.path().join(name), contents).unwrap();
    }
    dir
}

fn load(files: &[(&str, &str)]) -> Result<Tokenizer, Error> {
    Tokenizer::load(model(files).path(), &OPTIONS)
}

/// `tokenizer.json` over the same pieces, in upper and lower case, with padding and truncation of its own.
fn tokenizer_json(lowercase: bool, mask_lstrip: bool) -> String {
    let pieces: serde_json::Map<String, Value> =
        PIECES.lines().enumerate().map(|(id, piece)| (piece.to_owned(), json!(id))).collect();
    let added: Vec<Value> = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        .iter()
        .enumerate()
        .map(|(id, content)| {
            json!({"id": id, "content": content, "single_word": false, "lstrip": mask_lstrip && id == 4, "rstrip": false,
                   "normalized": false, "special": true})
        })
        .collect();
    let special = |text: &str, id: u32| json!({"id": text, "ids": [id], "tokens": [text]});
    let token = |text: &str, segment: u32| json!({"SpecialToken": {"id": text, "type_id": segment}});
    let sequence = |name: &str, segment: u32| json!({"Sequence": {"id": name, "type_id": segment}});
    json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0,
                    "pad_token": "[PAD]"},
        "added_tokens": added,
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null,
                       "lowercase": lowercase},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [token("[CLS]", 0), sequence("A", 0), token("[SEP]", 0)],
            "pair": [token("[CLS]", 0), sequence("A", 0), token("[SEP]", 0), sequence("B", 1), token("[SEP]", 1)],
            "special_tokens": {"[CLS]": special("[CLS]", 2), "[SEP]": special("[SEP]", 3)}
        },
        "decoder": null,
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": pieces}
    })
    .to_string()
}

#[test]
fn a_vocabulary_alone_is_a_bert_tokenizer() {
    let tokenizer = load(&[("vocab.txt", PIECES)]).unwrap();
    let found = tokenizer.encode("Ab 中é[MASK]", Some("😀 c"), 64).unwrap();
    assert_eq!(found.ids, [2, 5, 9, 10, 1, 4, 3, 1, 7, 3]);
    assert_eq!(found.type_ids, [0, 0, 0, 0, 0, 0, 0, 1, 1, 1]);
    let (n, at) = (None, |start, end| Some((start, end)));
    assert_eq!(found.offsets, [n, at(0, 1), at(1, 2), at(3, 4), at(4, 5), at(5, 11), n, at(0, 1), at(2, 3), n]);
    let s = |segment| Some(segment);
    assert_eq!(
        found.segments,
        [n.map(|(_, _): (usize, usize)| 0), s(0), s(0), s(0), s(0), s(0), None, s(1), s(1), None]
    );
    assert_eq!(found.tokens[..4], ["[CLS]", "a", "##b", "中"]);
    assert!(!found.truncated);
    let ids = (tokenizer.pad_id(), tokenizer.unk_id(), tokenizer.mask_id());
    assert_eq!(ids, (Some(0), Some(1), Some(4)));
    assert_eq!(tokenizer.vocab_size(), ROWS);
}

#[test]
fn both_kinds_of_file_give_one_tokenizer() {
    let plain = load(&[("vocab.txt", PIECES)]).unwrap();
    let config = (
        "tokenizer_config.json",
        r#"{"pad_token":"[PAD]","mask_token":{"content":"[MASK]","lstrip":false},
        "unk_token":"[UNK]","cls_token":"[CLS]","sep_token":"[SEP]"}"#,
    );
    let named = load(&[("vocab.txt", PIECES), config]).unwrap();
    let json = load(&[("tokenizer.json", &tokenizer_json(true, false)), config]).unwrap();
    assert_eq!(named.fingerprint(), json.fingerprint());
    assert_eq!(named.fingerprint().len(), 64);
    for (text, pair) in [("A b.", None), ("中文 a", Some("b b b b b b b b b b"))] {
        let found = json.encode(text, pair, 64).unwrap();
        assert_eq!(found, plain.encode(text, pair, 64).unwrap());
        assert!(!found.truncated && found.ids.len() != 9, "the file's own padding and truncation are ignored");
    }
}

#[test]
fn a_bert_class_takes_its_normaliser_from_the_configuration() {
    let json = tokenizer_json(true, false);
    let ids = |config: &str| {
        let tokenizer = load(&[("tokenizer.json", &json), ("tokenizer_config.json", config)]).unwrap();
        tokenizer.encode("A", None, 8).unwrap().ids[1]
    };
    let (upper, lower) = (12, 5);
    assert_eq!(ids(r#"{"tokenizer_class":"BertTokenizer","do_lower_case":false}"#), upper);
    assert_eq!(ids(r#"{"tokenizer_class":"BertTokenizerFast"}"#), lower);
    assert_eq!(ids(r#"{"tokenizer_class":"PreTrainedTokenizerFast","do_lower_case":false}"#), lower);
    let cased = tokenizer_json(false, false);
    let by_model_type = load(&[("tokenizer.json", &cased), ("config.json", r#"{"model_type":"ernie"}"#)]).unwrap();
    assert_eq!(by_model_type.encode("A", None, 8).unwrap().ids[1], lower);
    let unknown = load(&[("tokenizer.json", &cased)]).unwrap();
    assert_eq!(unknown.encode("A", None, 8).unwrap().ids[1], upper);
}

#[test]
fn a_pair_is_cut_longest_first() {
    let tokenizer = load(&[("vocab.txt", PIECES)]).unwrap();
    let lengths = |text: &str, pair: &str, max: usize| {
        let found = tokenizer.encode(text, Some(pair), max).unwrap();
        let count = |segment| found.segments.iter().filter(|&&s| s == Some(segment)).count();
        (count(0), count(1), found.truncated, found.ids.len())
    };
    let (short, long) = ("a b", "a b c a b c a b c a");
    assert_eq!(lengths(short, long, 15), (2, 10, false, 15));
    assert_eq!(lengths(short, long, 14), (2, 9, true, 14));
    assert_eq!(lengths(long, short, 10), (5, 2, true, 10));
    // Both too long, and an odd number of places: the longer has one more.
    assert_eq!(lengths(long, long, 12), (4, 5, true, 12));
    assert_eq!(lengths(long, "a b c a b c", 8), (3, 2, true, 8));
    assert_eq!(lengths("a b c a b c", long, 8), (2, 3, true, 8));
    assert_eq!(lengths(short, long, 3), (0, 0, true, 3));
}

#[test]
fn the_side_that_is_cut_is_the_configuration_s() {
    let config = ("tokenizer_config.json", r#"{"truncation_side":"left"}"#);
    let left = load(&[("vocab.txt", PIECES), config]).unwrap();
    let found = left.encode("a b c", None, 4).unwrap();
    assert_eq!((found.ids, found.truncated), (vec![2, 6, 7, 3], true));
    assert_eq!(found.offsets, [None, Some((2, 3)), Some((4, 5)), None]);
    let right = load(&[("vocab.txt", PIECES)]).unwrap();
    assert_ne!(left.fingerprint(), right.fingerprint());
}

#[test]
fn no_room_for_the_special_tokens_is_refused() {
    let tokenizer = load(&[("vocab.txt", PIECES)]).unwrap();
    assert_eq!(tokenizer.encode("a", None, 2).unwrap().ids, [2, 3]);
    let error = tokenizer.encode("a", None, 1).unwrap_err().to_string();
    assert_eq!(error, "a maximum length of 1 tokens has no room for the 2 special tokens of a text");
    assert!(tokenizer.encode("a", Some("b"), 2).unwrap_err().to_string().contains("3 special tokens of a pair"));
}

#[test]
fn models_without_segments_get_none() {
    let dir = model(&[("vocab.txt", PIECES)]);
    let options = TokenizerOptions { segments: false, ..OPTIONS };
    let tokenizer = Tokenizer::load(dir.path(), &options).unwrap();
    let found = tokenizer.encode("a", Some("b"), 8).unwrap();
    assert_eq!(found.type_ids, [0; 5]);
    assert_eq!(found.segments, [None, Some(0), None, Some(1), None]);
    let silent = ("tokenizer_config.json", r#"{"model_input_names":["input_ids","attention_mask"]}"#);
    assert_eq!(load(&[("vocab.txt", PIECES), silent]).unwrap().encode("a", Some("b"), 8).unwrap().type_ids, [0; 5]);
}

#[test]
fn damaged_and_missing_files_are_told() {
    let message = |files: &[(&str, &str)]| load(files).unwrap_err().to_string();
    assert!(message(&[]).contains("no tokenizer: expected tokenizer.json, or vocab.txt"));
    assert!(load(&[]).unwrap_err().hint().unwrap().contains("save_pretrained"));
    assert!(message(&[("tokenizer.json", "{\"version\": \"1.0\", ")]).contains("tokenizer.json: not a tokenizer"));
    assert!(message(&[("tokenizer.json", "[]")]).contains("not a tokenizer"));
    assert!(message(&[("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n")]).contains("no line is the special token \"[SEP]\""));
    assert!(message(&[("vocab.txt", "")]).contains("vocab.txt: no line is"));
    let config = ("tokenizer_config.json", "{\"do_lower_case\": \"no\"}");
    assert!(message(&[("vocab.txt", PIECES), config]).contains("tokenizer_config.json: not the JSON expected"));
    let dir = model(&[]);
    fs::write(dir.path().join("vocab.txt"), b"[PAD]\n\xff\xfe\n").unwrap();
    let error = Tokenizer::load(dir.path(), &OPTIONS).unwrap_err().to_string();
    assert!(error.contains("vocab.txt: not a list of pieces"), "{error}");
}

#[test]
fn ids_beyond_the_embedding_table_are_refused() {
    let dir = model(&[("vocab.txt", PIECES)]);
    let options = TokenizerOptions { vocabulary: ROWS - 1, ..OPTIONS };
    let error = Tokenizer::load(dir.path(), &options).unwrap_err();
    assert!(matches!(error, Error::Mismatch(..)));
    assert!(
        error.to_string().ends_with("token \".\" has id 13, but the model's word embeddings have 13 rows"),
        "{error}"
    );
    // A token added beyond the table is harmless until a text holds it.
    let extra = ("added_tokens.json", r#"{"[NEW]": 14}"#);
    let tokenizer = load(&[("vocab.txt", PIECES), extra]).unwrap();
    assert_eq!(tokenizer.encode("a", None, 8).unwrap().ids, [2, 5, 3]);
    assert!(matches!(tokenizer.encode("a [NEW]", None, 8), Err(Error::Mismatch(..))));
}

#[test]
fn the_longest_sequence_is_the_smallest_of_what_the_files_say() {
    let length = |files: &[(&str, &str)], positions| max_length(model(files).path(), positions);
    let tokenizer = ("tokenizer_config.json", r#"{"model_max_length": 128}"#);
    let endless = ("tokenizer_config.json", r#"{"model_max_length": 1000000000000000019884624838656}"#);
    let sentence = ("sentence_bert_config.json", r#"{"max_seq_length": 64, "do_lower_case": false}"#);
    assert_eq!(length(&[], 512).unwrap(), 512);
    assert_eq!(length(&[tokenizer], 512).unwrap(), 128);
    assert_eq!(length(&[tokenizer], 40).unwrap(), 40);
    assert_eq!(length(&[endless], 512).unwrap(), 512);
    assert_eq!(length(&[endless, sentence], 512).unwrap(), 64);
    assert_eq!(length(&[("sentence_bert_config.json", r#"{"max_seq_length": null}"#)], 512).unwrap(), 512);
    let zero = length(&[("tokenizer_config.json", r#"{"model_max_length": 0}"#)], 512).unwrap_err();
    assert!(zero.to_string().contains("tokenizer_config.json: model_max_length: expected at least 1, found 0"));
}

#[test]
fn a_very_long_text_is_not_read_whole() {
    let tokenizer = load(&[("vocab.txt", PIECES)]).unwrap();
    let text = "ab 中. ".repeat(4_000_000);
    let start = std::time::Instant::now();
    let found = tokenizer.encode(&text, Some(&text), 513).unwrap();
    assert_eq!((found.ids.len(), found.truncated), (513, true));
    // 24 MB take this pipeline seconds; the start of them, well under a millisecond.
    assert!(start.elapsed().as_secs_f64() < 0.5, "took {:?}", start.elapsed());
}

/// Pieces of text that meet every rule about where a long text may be cut.
fn fragments() -> impl Strategy<Value = String> {
    let fragment = prop::sample::select(vec![
        "a", "b", "abab", " ", "  ", "\t", "\r\n", "中", "文", ".", "\u{0}", "\u{85}", "\u{3000}", "\u{301}", "é",
        "😀", "[MASK]", "[SEP]", "\u{fffd}", "\u{f900}", "x",
    ]);
    prop::collection::vec(fragment, 0..40).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// A mask token that eats the white space before it forbids cutting, and differs in nothing else but that: where no
    /// mask follows white space, both tokenizers must agree on a text long enough to be cut.
    #[test]
    fn reading_only_the_start_changes_nothing(fragment in fragments(), pair in fragments(), max in 3_usize..24) {
        static WHOLE: LazyLock<Tokenizer> = LazyLock::new(|| load(&[("tokenizer.json", &tokenizer_json(true, true))]).unwrap());
        static START: LazyLock<Tokenizer> = LazyLock::new(|| load(&[("tokenizer.json", &tokenizer_json(true, false))]).unwrap());
        let (whole, start) = (&*WHOLE, &*START);
        let long = |text: &str| text.replace("[MASK]", "a[MASK]").repeat(1 + 6_000 / (text.len() + 1));
        let (text, pair) = (long(&fragment), long(&pair));
        let (one, two) = (whole.encode(&text, None, max).unwrap(), start.encode(&text, None, max).unwrap());
        prop_assert_eq!(one, two);
        let (one, two) = (whole.encode(&text, Some(&pair), max).unwrap(), start.encode(&text, Some(&pair), max).unwrap());
        prop_assert_eq!(one, two);
    }

    #[test]
    fn packing_keeps_every_sequence_once(lengths in prop::collection::vec(1_usize..40, 0..30), budget in 1_usize..100) {
        let window: Vec<Encoding> = lengths.iter().enumerate().map(|(row, &n)| sequence(row as u32, n)).collect();
        let batches = pack(&window, Positions::FromZero, budget);
        let mut seen = vec![false; window.len()];
        let mut last_length = usize::MAX;
        for batch in &batches {
            let packed = &batch.batch;
            prop_assert_eq!(packed.sequences(), batch.rows.len());
            prop_assert!(packed.tokens() <= budget || packed.sequences() == 1);
            for (b, &row) in batch.rows.iter().enumerate() {
                prop_assert!(!std::mem::replace(&mut seen[row], true));
                let range = packed.range(b);
                prop_assert_eq!(&packed.ids[range.clone()], &window[row].ids[..]);
                prop_assert_eq!(&packed.type_ids[range.clone()], &window[row].type_ids[..]);
                let positions: Vec<u32> = (0..range.len() as u32).collect();
                prop_assert_eq!(&packed.positions[range.clone()], &positions[..]);
                prop_assert!(range.len() <= last_length, "longest first");
                last_length = range.len();
            }
        }
        prop_assert!(seen.iter().all(|&seen| seen));
        let borrowed: Vec<&Encoding> = window.iter().collect();
        prop_assert_eq!(pack(&borrowed, Positions::FromZero, budget), batches);
    }
}

fn sequence(id: u32, length: usize) -> Encoding {
    Encoding { ids: vec![id; length], type_ids: vec![id % 2; length], ..Encoding::default() }
}

/// `create_position_ids_from_input_ids` in `transformers`: `cumsum(id ≠ pad) · (id ≠ pad) + pad`.
#[test]
fn padding_tokens_in_a_text_are_not_counted_as_positions() {
    let encoding = Encoding { ids: vec![0, 7, 1, 1, 8, 2], type_ids: vec![0; 6], ..Encoding::default() };
    let packed = pack(&[encoding], Positions::AfterPadding { pad: 1 }, 64);
    assert_eq!(packed[0].batch.positions, [2, 3, 1, 1, 4, 5]);
}

#[test]
fn equal_lengths_keep_their_order() {
    let window: Vec<Encoding> = (0..5).map(|row| sequence(row, 3)).collect();
    let rows: Vec<Vec<usize>> = pack(&window, Positions::FromZero, 6).into_iter().map(|batch| batch.rows).collect();
    assert_eq!(rows, [vec![0, 1], vec![2, 3], vec![4]]);
    assert!(pack::<Encoding>(&[], Positions::FromZero, 6).is_empty());
}
