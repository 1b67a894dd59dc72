//! Which column is what: names, labels, ids.

use wherefore::dataset::{Dataset, DatasetOptions, IdCheck, Label, Record};

use super::{errors, folder, items, name, options, read, record, records, texts};

#[test]
fn labels_keep_their_kind() {
    let label = |label: &str| {
        let line = format!("{{\"text\": \"a\", \"label\": {label}}}");
        read("a.jsonl", line.as_bytes()).remove(0).map(|record| record.label)
    };
    let many = |labels: Vec<Label>| Ok(Some(Label::Many(labels)));
    assert_eq!(label("-3"), Ok(Some(Label::Integer(-3))));
    assert_eq!(label("2.0"), Ok(Some(Label::Number(2.0))));
    assert_eq!(label("0.1"), Ok(Some(Label::Number(0.1))));
    assert_eq!(label("true"), Ok(Some(Label::Integer(1))));
    assert_eq!(label("\"1\""), Ok(name("1")));
    assert_eq!(label("null"), Ok(None));
    assert_eq!(label("[]"), many(vec![]));
    assert_eq!(label("[1, \"b\", 0.5]"), many(vec![Label::Integer(1), Label::Name("b".into()), Label::Number(0.5)]));
    let refused = |text: &str| label(text).unwrap_err();
    assert_eq!(refused("{}"), "a.jsonl:1: label: expected a number, a string or a list of them, found an object");
    assert_eq!(refused("[[1]]"), "a.jsonl:1: label: expected a number, a string or a list of them, found a list");
    assert_eq!(refused("[null]"), "a.jsonl:1: label: expected a number, a string or a list of them, found null");
    assert_eq!(
        refused("9223372036854775808"),
        "a.jsonl:1: label: expected a 64-bit signed integer, found 9223372036854775808"
    );
}

#[test]
fn the_usual_column_names_are_tried_in_order() {
    let pair = |line: &str| {
        let record = records("a.jsonl", line.as_bytes()).remove(0);
        (record.text, record.pair, record.id)
    };
    let expected = ("a".to_owned(), Some("b".to_owned()), "9".to_owned());
    assert_eq!(pair(r#"{"question2": "b", "question1": "a", "idx": 9}"#), expected);
    assert_eq!(pair(r#"{"content": "z", "sentence": "a", "title": "b", "guid": "9", "idx": 3}"#), expected);
    assert_eq!(pair(r#"{"text": null, "premise": "a", "hypothesis": "b", "id": 9}"#), expected);
    let found = records("a.csv", b"label,query,title\nx,a,b\n");
    assert_eq!(found, [record(0, "0", "a", Some("b"), name("x"))]);
}

#[test]
fn columns_can_be_named() {
    let line = br#"{"text": "no", "body": "a", "second": "b", "class": 2, "key": "k"}"#;
    let choose = |options: &mut DatasetOptions| {
        options.text_column = Some("body".into());
        options.pair_column = Some("second".into());
        options.label_column = Some("class".into());
        options.id_column = Some("key".into());
    };
    let expected = record(0, "k", "a", Some("b"), Some(Label::Integer(2)));
    assert_eq!(items("a.jsonl", line, choose), [Ok(expected.clone())]);
    let expected = Record { label: name("2"), ..expected };
    assert_eq!(items("a.csv", b"text,body,second,class,key\nno,a,b,2,k\n", choose), [Ok(expected)]);
    let missing = items("a.csv", b"text,label\na,1\n", |options| options.pair_column = Some("second".into()));
    assert_eq!(errors(&missing), ["open: a.csv: no column `second`; the columns are `text`, `label`"]);
    let missing = items("a.jsonl", b"{\"text\": \"a\"}\n{\"text\": \"b\", \"c\": 1}\n", |options| {
        options.label_column = Some("c".into());
    });
    assert_eq!(errors(&missing), ["a.jsonl:1: no field `c`; the fields are `text`"]);
    assert_eq!(texts(&missing), [(1, "b")]);
}

#[test]
fn a_file_without_a_text_column_is_refused_with_the_columns_it_has() {
    let expected = "expected one of `text`, `sentence`, `text_a`, `sentence1`, `premise`, `query`, `question1`, `content`, \
                    found `body`, `label`";
    let jsonl = read("a.jsonl", b"{\"body\": \"a\", \"label\": 1}\n{\"text\": \"b\"}\n");
    assert_eq!(errors(&jsonl), [format!("a.jsonl: no text column: {expected}")]);
    assert_eq!(jsonl.len(), 1, "reading does not go on");
    let csv = read("a.csv", b"body,label\na,1\n");
    assert_eq!(errors(&csv), [format!("open: a.csv: no text column: {expected}")]);
    let dir = folder(&[("a.csv", b"body\n")]);
    let error = Dataset::open(options(dir.path(), &["a.csv"])).unwrap_err();
    assert_eq!(error.hint(), Some("say which column holds the text: --text-column NAME"));
}

#[test]
fn ids_are_unique_unless_that_is_waived() {
    let file = b"{\"text\": \"a\", \"id\": \"x\"}\n{\"text\": \"b\", \"id\": \"x\"}\n{\"text\": \"c\"}\n{\"text\": \"d\", \"id\": 2}\n\
        {\"text\": \"e\", \"id\": 5}\n{\"text\": \"f\"}\n";
    let found = read("a.jsonl", file);
    let expected = [
        "a.jsonl:2: duplicate id \"x\"",
        "a.jsonl:4: duplicate id \"2\": a record without an id has its number for one",
        "a.jsonl:6: duplicate id \"5\": a record without an id has its number for one",
    ];
    assert_eq!(errors(&found), expected);
    assert_eq!(texts(&found), [(0, "a"), (2, "c"), (4, "e")]);
    assert_eq!(errors(&items("a.jsonl", file, |options| options.allow_duplicate_ids = true)), [""; 0]);
    let mut ids = IdCheck::new();
    assert!(ids.insert("05") && ids.insert_number(5) && ids.insert("7"));
    assert!(!ids.insert("5") && !ids.insert("7") && !ids.insert_number(7) && ids.insert("6"));
}
