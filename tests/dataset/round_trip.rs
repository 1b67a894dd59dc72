//! Any records come back from any format, and any bytes end in an answer or an error.

use proptest::prelude::*;
use serde_json::json;
use wherefore::dataset::{Digest, Label, Record};

use super::{gzip, name, read, record, records};

#[test]
fn the_canonical_form_tells_every_field_apart() {
    let digest = |records: &[Record]| {
        let mut digest = Digest::default();
        for record in records {
            digest.push(record);
        }
        digest.to_string()
    };
    let base = record(0, "1", "ab", Some("c"), name("1"));
    let variants = [
        base.clone(),
        record(1, "1", "ab", Some("c"), name("1")),
        record(0, "1a", "b", Some("c"), name("1")),
        record(0, "1", "a", Some("bc"), name("1")),
        record(0, "1", "ab", None, name("1")),
        record(0, "1", "ab", Some("c"), None),
        record(0, "1", "ab", Some("c"), Some(Label::Integer(1))),
        record(0, "1", "ab", Some("c"), Some(Label::Number(1.0))),
        record(0, "1", "ab", Some("c"), Some(Label::Many(vec![Label::Integer(1)]))),
        record(0, "1", "ab", Some("c"), Some(Label::Many(vec![]))),
        Record { columns: [("a".to_owned(), "b".to_owned())].into(), ..base.clone() },
    ];
    let digests: std::collections::HashSet<_> =
        variants.iter().map(|variant| digest(std::slice::from_ref(variant))).collect();
    assert_eq!(digests.len(), variants.len());
    assert_eq!(digest(&variants), digest(&variants.clone()));
    // Gone on with from its text, it is what it would have been in one go.
    let mut later: Digest = digest(&variants[..4]).parse().expect("a fingerprint");
    variants[4..].iter().for_each(|record| later.push(record));
    assert_eq!(later.to_string(), digest(&variants));
}

fn text() -> impl Strategy<Value = String> {
    let awkward = prop::sample::select(vec![
        "\"", ",", "\n", "\r\n", "\r", "\t", "'", "\\", "中", "😀", "\u{feff}", " ", "x", "\u{0}",
    ]);
    prop_oneof![any::<String>(), prop::collection::vec(awkward, 0..12).prop_map(|parts| parts.concat())]
}

/// What both formats can say: in CSV an empty field is nothing, so pairs, labels and ids are not empty.
fn dataset() -> impl Strategy<Value = Vec<Record>> {
    let some = || prop::option::of(text().prop_map(|text| format!("{text}.")));
    let fields = (text(), some(), some(), prop::option::of("[a-zé中 ]{0,4}"));
    prop::collection::vec(fields, 1..12).prop_map(|rows| {
        let mut records = Vec::new();
        for (index, (text, pair, label, id)) in rows.into_iter().enumerate() {
            let id = id.map_or(index.to_string(), |id| format!("{id}-{index}"));
            records.push(Record {
                index: index as u64,
                id,
                text,
                pair,
                label: label.map(Label::Name),
                ..Record::default()
            });
        }
        records
    })
}

fn label_name(record: &Record) -> Option<&str> {
    match &record.label {
        Some(Label::Name(name)) => Some(name),
        _ => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_records_come_back_from_jsonl_and_csv(expected in dataset()) {
        let mut jsonl = String::new();
        for record in &expected {
            let (label, pair) = (label_name(record), &record.pair);
            let line = json!({"id": record.id, "label": label, "text": record.text, "text_pair": pair});
            jsonl.push_str(&line.to_string());
            jsonl.push('\n');
        }
        let mut csv = csv::Writer::from_writer(Vec::new());
        csv.write_record(["id", "label", "text", "text_pair"]).unwrap();
        for record in &expected {
            let (label, pair) = (label_name(record).unwrap_or(""), record.pair.as_deref().unwrap_or(""));
            csv.write_record([&record.id, label, &record.text, pair]).unwrap();
        }
        let csv = csv.into_inner().unwrap();
        prop_assert_eq!(&records("a.jsonl", jsonl.as_bytes()), &expected);
        prop_assert_eq!(&records("a.csv", &csv), &expected);
        prop_assert_eq!(&records("a.csv.gz", &gzip(&csv)), &expected);
    }

    /// Whatever bytes a file holds, reading it ends, and never in a panic.
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), marks in prop::collection::vec(0_usize..4, 0..60)) {
        let marks: Vec<u8> = marks.into_iter().map(|at| b"\",\nx"[at]).collect();
        for contents in [bytes, marks] {
            let with_header = [b"text,label\n".as_slice(), &contents].concat();
            for name in ["a.jsonl", "a.csv", "a.tsv", "a.jsonl.gz", "a.csv.zst", "a.parquet"] {
                prop_assert!(read(name, &contents).len() <= contents.len() + 1);
                prop_assert!(read(name, &with_header).len() <= with_header.len() + 1);
            }
        }
    }
}
