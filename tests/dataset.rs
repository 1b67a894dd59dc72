//! Tests of `wherefore::dataset`: every format there and back, and everything that can be wrong with a file.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use proptest::prelude::*;
use serde_json::json;
use tempfile::TempDir;
use wherefore::Error;
use wherefore::dataset::{Dataset, DatasetOptions, IdCheck, Label, Record};

/// A folder with these files.
fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, contents) in files {
        fs::write(dir.path().join(name), contents).unwrap();
    }
    dir
}

fn options(dir: &Path, names: &[&str]) -> DatasetOptions {
    let files = names.iter().map(|name| dir.join(name).to_str().unwrap().to_owned()).collect();
    DatasetOptions { files, ..DatasetOptions::default() }
}

/// All items of one file, refused records as `line: reason`.
fn items(name: &str, contents: &[u8], change: impl FnOnce(&mut DatasetOptions)) -> Vec<Result<Record, String>> {
    let dir = folder(&[(name, contents)]);
    let mut options = options(dir.path(), &[name]);
    change(&mut options);
    let dataset = match Dataset::open(options) {
        Ok(dataset) => dataset,
        Err(error) => return vec![Err(format!("open: {}", without_folder(&error, dir.path())))],
    };
    dataset.map(|item| item.map_err(|error| without_folder(&error, dir.path()))).collect()
}

fn without_folder(error: &Error, dir: &Path) -> String {
    error.to_string().replace(&format!("{}/", dir.display()), "")
}

fn read(name: &str, contents: &[u8]) -> Vec<Result<Record, String>> {
    items(name, contents, |_| ())
}

/// The records of one file, none of which is refused.
fn records(name: &str, contents: &[u8]) -> Vec<Record> {
    read(name, contents).into_iter().map(|item| item.unwrap()).collect()
}

fn texts(items: &[Result<Record, String>]) -> Vec<(u64, &str)> {
    items.iter().flatten().map(|record| (record.index, record.text.as_str())).collect()
}

fn errors(items: &[Result<Record, String>]) -> Vec<&str> {
    items.iter().filter_map(|item| item.as_ref().err().map(String::as_str)).collect()
}

fn record(index: u64, id: &str, text: &str, pair: Option<&str>, label: Option<Label>) -> Record {
    Record { index, id: id.to_owned(), text: text.to_owned(), pair: pair.map(str::to_owned), label }
}

/// A label as a record has it.
#[allow(clippy::unnecessary_wraps)]
fn name(label: &str) -> Option<Label> {
    Some(Label::Name(label.to_owned()))
}

#[test]
fn jsonl_gives_what_was_written() {
    let file = "\u{feff}{\"id\": \"一\", \"text\": \"这个房间很好,😀\", \"label\": 1}\r\n\n  \r\n\
        {\"id\": 7, \"text\": \"a \\\"b\\\"\\n\\u4e2d\\ud83d\\ude00\", \"text_pair\": \"c\", \"label\": \"正面\", \"more\": {\"x\": [1]}}\n\
        {\"text\": \"\", \"label\": null, \"text_pair\": null}";
    assert_eq!(
        records("a.jsonl", file.as_bytes()),
        [
            record(0, "一", "这个房间很好,😀", None, Some(Label::Integer(1))),
            record(1, "7", "a \"b\"\n中😀", Some("c"), name("正面")),
            record(2, "2", "", None, None),
        ]
    );
}

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
    assert_eq!(errors(&missing), ["a.jsonl:1: no field `c`"]);
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
fn damaged_json_costs_one_record_each() {
    let file = b"{\"text\": \"first\"}\n{\"text\": \"b\", \n{\"text\": 3}\n{\"label\": 1}\n[1]\nnull\n{\"text\": null}\n\
        {\"text\": \"\xff\xfe\"}\n{\"text\": \"x\"} trailing\n{\"text\": \"\\ud800\"}\n{\"text\": \"y\", \"text_pair\": 5}\n\
        {\"text\": \"z\", \"id\": 1.5}\n{\"text\": \"last\"}\n";
    let items = read("a.jsonl", file);
    let expected = [
        "a.jsonl:2: invalid JSON at column 14: EOF while parsing a value",
        "a.jsonl:3: text: expected a string, found an integer",
        "a.jsonl:4: no text field",
        "a.jsonl:5: invalid JSON at column 0: invalid type: sequence, expected an object",
        "a.jsonl:6: invalid JSON at column 4: invalid type: null, expected an object",
        "a.jsonl:7: text: expected a string, found null",
        "a.jsonl:8: not UTF-8: byte 0xff at byte 11",
        "a.jsonl:9: invalid JSON at column 15: trailing characters",
        "a.jsonl:10: invalid JSON at column 17: unexpected end of hex escape",
        "a.jsonl:11: pair: expected a string, found an integer",
        "a.jsonl:12: id: expected a string or an integer, found a number",
    ];
    assert_eq!(errors(&items), expected);
    assert_eq!(texts(&items), [(0, "first"), (12, "last")], "a refused record keeps its number");
}

#[test]
fn a_json_array_is_refused_with_the_way_out() {
    let dir = folder(&[("a.json", b"[\n{\"text\": \"a\"}]\n")]);
    let mut dataset = Dataset::open(options(dir.path(), &["a.json"])).unwrap();
    let error = dataset.next().unwrap().unwrap_err();
    assert!(error.to_string().ends_with("a.json: expected one JSON object a line, found a JSON array"));
    assert!(error.hint().unwrap().contains("jq -c '.[]'"));
    assert!(dataset.next().is_none());
}

/// 100 MB in one line. Not held in memory: what is kept of it is never above the limit.
#[test]
fn a_line_over_the_limit_is_passed_over() {
    let dir = folder(&[]);
    for (name, header) in [("a.jsonl", ""), ("a.tsv", "text\n"), ("a.csv", "text\n")] {
        let mut file = std::io::BufWriter::new(fs::File::create(dir.path().join(name)).unwrap());
        let wrap =
            |text: &str| if name == "a.jsonl" { format!("{{\"text\": \"{text}\"}}\n") } else { format!("{text}\n") };
        write!(file, "{header}{}", wrap("before")).unwrap();
        let mebibyte = vec![b'x'; 1 << 20];
        (0..100).for_each(|_| file.write_all(&mebibyte).unwrap());
        write!(file, "\n{}", wrap("after")).unwrap();
        drop(file);
        let dataset = Dataset::open(options(dir.path(), &[name])).unwrap();
        let items: Vec<_> = dataset.map(|item| item.map_err(|error| without_folder(&error, dir.path()))).collect();
        let line = if header.is_empty() { 2 } else { 3 };
        assert_eq!(errors(&items), [format!("{name}:{line}: the line is longer than 16 MiB")]);
        assert_eq!(texts(&items), [(0, "before"), (2, "after")]);
    }
}

#[test]
fn a_line_of_just_the_limit_is_read() {
    let frame = "{\"text\": \"\"}\n".len();
    let text = "y".repeat((16 << 20) - frame);
    let found = records("a.jsonl", format!("{{\"text\": \"{text}\"}}\n").as_bytes());
    assert_eq!(found[0].text.len(), text.len());
}

#[test]
fn csv_is_rfc_4180() {
    let file = "\u{feff}id,text,label\r\n1,\"a, \"\"b\"\"\r\nc\",x\r\n\r\n2,中文😀,\r\n2b,\"\",y";
    assert_eq!(
        records("a.csv", file.as_bytes()),
        [
            record(0, "1", "a, \"b\"\r\nc", None, name("x")),
            record(1, "2", "中文😀", None, None),
            record(2, "2b", "", None, name("y")),
        ]
    );
}

#[test]
fn damaged_csv_costs_one_record_each() {
    let file = b"id,text\n1,ok\n2\n3,a,b\n4,\"a\" b\n5,fine\n6,5\" wide\n7,\xff\n8,end\n";
    let items = read("a.csv", file);
    let expected = [
        "a.csv:3: expected 2 fields, found 1",
        "a.csv:4: expected 2 fields, found 3",
        "a.csv:5: text after a closing quote, at byte 6 of its line",
        "a.csv:8: not UTF-8: byte 0xff at byte 2",
    ];
    assert_eq!(errors(&items), expected);
    assert_eq!(texts(&items), [(0, "ok"), (4, "fine"), (5, "5\" wide"), (7, "end")]);
}

#[test]
fn a_stray_quote_costs_its_own_record_only() {
    let mut file = b"text,label\nfirst,a\n\"never closed,b\n".to_vec();
    (0..1000).for_each(|at| writeln!(file, "text {at},c").unwrap());
    let items = read("a.csv", &file);
    assert_eq!(errors(&items), ["a.csv:3: a quote is never closed"]);
    assert_eq!(items.len(), 1002);
    assert_eq!(texts(&items)[1], (2, "text 0"));
    assert_eq!(texts(&items)[1000], (1001, "text 999"));
    // Met by another quote much later.
    file.extend_from_slice(b"\"the last, in quotes\",d\n");
    let items = read("a.csv", &file);
    assert_eq!(errors(&items), ["a.csv:3: text after a closing quote, at byte 2 of its line"]);
    assert_eq!(texts(&items).last(), Some(&(1002, "the last, in quotes")));
}

#[test]
fn a_quote_left_open_over_a_large_file_is_given_up_at_the_limit() {
    let mut file = b"text,label\n\"never closed,b\n".to_vec();
    let rows = (17 << 20) / 1024;
    let row = format!("{},c\n", "x".repeat(1021));
    (0..rows).for_each(|_| file.extend_from_slice(row.as_bytes()));
    let items = read("a.csv", &file);
    assert_eq!(errors(&items), ["a.csv:2: a quoted field is longer than 16 MiB"]);
    assert_eq!(items.len(), rows + 1);
    assert_eq!(texts(&items).last().unwrap().0, rows as u64);
}

#[test]
fn tsv_has_no_quoting() {
    let file = "sentence1\tsentence2\tlabel\r\n\"he said\t5\" or 6\"\t1\r\n你好\t\t0\r\n";
    assert_eq!(
        records("a.tsv", file.as_bytes()),
        [record(0, "0", "\"he said", Some("5\" or 6\""), name("1")), record(1, "1", "你好", None, name("0")),]
    );
    let short = read("a.tsv", b"text\tlabel\na\tb\tc\nd\te\n");
    assert_eq!(errors(&short), ["a.tsv:2: expected 2 fields, found 3"]);
    assert_eq!(texts(&short), [(1, "d")]);
}

#[test]
fn columns_are_named_where_there_is_no_header() {
    let columns = |names: Option<&'static str>, no_header| {
        move |options: &mut DatasetOptions| {
            options.no_header = no_header;
            options.columns = names.map(|names| names.split(',').map(str::to_owned).collect());
        }
    };
    let found = items("a.tsv", b"a\tb\t1\nc\td\t0\n", columns(Some("text,pair,label"), true));
    assert_eq!(found, [Ok(record(0, "0", "a", Some("b"), name("1"))), Ok(record(1, "1", "c", Some("d"), name("0")))]);
    let unnamed = items("a.tsv", b"a\tb\n", columns(None, true));
    assert_eq!(errors(&unnamed), ["open: --no-header needs the columns' names: --columns text,pair,label"]);
    let both = items("a.tsv", b"a\tb\n", columns(Some("text,label"), false));
    assert_eq!(errors(&both), ["open: --columns names the fields of a file with no header: add --no-header"]);
}

#[test]
fn compressed_files_are_read_as_they_are() {
    let jsonl = "{\"text\": \"压缩\"}\n".repeat(1000);
    let (one, two) = jsonl.split_at(jsonl.len() / 2);
    // Two members, as `cat a.gz b.gz` makes.
    let gz = [gzip(one.as_bytes()), gzip(two.as_bytes())].concat();
    let zst = [zstd::encode_all(one.as_bytes(), 3).unwrap(), zstd::encode_all(two.as_bytes(), 3).unwrap()].concat();
    assert_eq!(records("a.jsonl.gz", &gz).len(), 1000);
    assert_eq!(records("A.JSONL.ZST", &zst), records("a.jsonl", jsonl.as_bytes()));
    assert_eq!(records("a.csv.gz", &gzip(b"text\na\n")), [record(0, "0", "a", None, None)]);
    let cut = read("a.jsonl.gz", &gz[..gz.len() - 20]);
    assert!(cut.last().unwrap().is_err(), "a file cut short is not a short file");
    let garbage = read("a.jsonl.zst", b"not zstd at all");
    assert!(errors(&garbage)[0].starts_with("a.jsonl.zst: "), "{garbage:?}");
    assert_eq!(garbage.len(), 1);
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn files_and_globs_keep_their_order() {
    let line = |text: &str| format!("{{\"text\": \"{text}\"}}\n").into_bytes();
    let (b1, b2, a) = (line("b1"), line("b2"), line("a"));
    let dir = folder(&[("part-2.jsonl", &b2), ("part-1.jsonl", &b1), ("a.jsonl", &a), ("c.csv", b"text\nc\n")]);
    let dataset = Dataset::open(options(dir.path(), &["c.csv", "part-*.jsonl", "a.jsonl"])).unwrap();
    let total = dataset.bytes_total().unwrap();
    assert_eq!(total, 7 + 15 + 15 + 14);
    assert_eq!(dataset.files().count(), 4);
    let counter = dataset.byte_counter();
    let found: Vec<(u64, String)> =
        dataset.map(|item| item.unwrap()).map(|record| (record.index, record.text)).collect();
    assert_eq!(found, [(0, "c".into()), (1, "b1".into()), (2, "b2".into()), (3, "a".into())]);
    assert_eq!(counter.load(std::sync::atomic::Ordering::Relaxed), total);
}

#[test]
fn a_damaged_record_is_told_with_its_own_file() {
    let dir = folder(&[("1.jsonl", b"{\"text\": \"a\", \"id\": \"x\"}\n"), ("2.csv", b"text,id\nb,y\nc,x\n")]);
    let dataset = Dataset::open(options(dir.path(), &["1.jsonl", "2.csv"])).unwrap();
    let errors: Vec<String> = dataset.filter_map(Result::err).map(|error| without_folder(&error, dir.path())).collect();
    assert_eq!(errors, ["2.csv:3: duplicate id \"x\""]);
}

#[test]
fn files_that_cannot_be_read_are_told_before_anything_is() {
    let dir = folder(&[
        ("a.jsonl", b"{\"text\": \"a\"}\n"),
        ("a.txt", b"a"),
        ("b.parquet.gz", b"a"),
        ("u.csv", b"\xff\xfet\0"),
    ]);
    fs::create_dir(dir.path().join("d.jsonl")).unwrap();
    let open = |name: &str| {
        let error = Dataset::open(options(dir.path(), &["a.jsonl", name])).unwrap_err();
        without_folder(&error, dir.path())
    };
    assert_eq!(open("none.jsonl"), "none.jsonl: No such file or directory (os error 2)");
    assert_eq!(open("none-*.jsonl"), "none-*.jsonl: no file matches");
    assert!(open("a.txt").starts_with("a.txt: unknown kind of data file: expected .jsonl, .csv, .tsv"));
    assert_eq!(open("b.parquet.gz"), "b.parquet.gz: a Parquet file inside another compression cannot be read");
    assert_eq!(open("d.jsonl"), "d.jsonl: expected a data file, found a folder");
    assert_eq!(open("u.csv"), "u.csv: expected UTF-8, found UTF-16");
    assert!(Dataset::open(DatasetOptions::default()).is_err());
    let twice = DatasetOptions { files: vec!["-".into(), "-".into()], ..DatasetOptions::default() };
    assert_eq!(Dataset::open(twice).unwrap_err().to_string(), "standard input (-) can be read once only");
}

#[test]
fn no_records_at_all_is_an_error_and_an_empty_file_among_others_is_not() {
    for (name, contents) in
        [("a.jsonl", ""), ("a.jsonl", "\n\n"), ("a.csv", ""), ("a.csv", "text,label\n"), ("a.tsv", "\n")]
    {
        assert_eq!(read(name, contents.as_bytes()), [Err(format!("{name}: no records"))]);
    }
    let dir = folder(&[("a.jsonl", b""), ("b.csv", b""), ("c.jsonl", b"{\"text\": \"c\"}")]);
    let dataset = Dataset::open(options(dir.path(), &["a.jsonl", "b.csv", "c.jsonl"])).unwrap();
    assert_eq!(dataset.map(|item| item.unwrap().text).collect::<Vec<_>>(), ["c"]);
    let empty = Dataset::open(options(dir.path(), &["a.jsonl", "b.csv"])).unwrap().next().unwrap().unwrap_err();
    assert_eq!(without_folder(&empty, dir.path()), "a.jsonl: no records, nor in the 1 other files");
}

#[test]
fn ids_are_unique_unless_that_is_waived() {
    let file = b"{\"text\": \"a\", \"id\": \"x\"}\n{\"text\": \"b\", \"id\": \"x\"}\n{\"text\": \"c\"}\n{\"text\": \"d\", \"id\": 2}\n\
        {\"text\": \"e\", \"id\": 5}\n{\"text\": \"f\"}\n";
    let found = read("a.jsonl", file);
    let expected = ["a.jsonl:2: duplicate id \"x\"", "a.jsonl:4: duplicate id \"2\"", "a.jsonl:6: duplicate id \"5\""];
    assert_eq!(errors(&found), expected);
    assert_eq!(texts(&found), [(0, "a"), (2, "c"), (4, "e")]);
    assert_eq!(errors(&items("a.jsonl", file, |options| options.allow_duplicate_ids = true)), [""; 0]);
    let mut ids = IdCheck::new();
    assert!(ids.insert("05") && ids.insert_number(5) && ids.insert("7"));
    assert!(!ids.insert("5") && !ids.insert("7") && !ids.insert_number(7) && ids.insert("6"));
}

#[test]
fn the_canonical_form_tells_every_field_apart() {
    let digest = |records: &[Record]| {
        let mut hasher = blake3::Hasher::new();
        for record in records {
            record.digest_into(&mut hasher);
        }
        hasher.finalize()
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
    ];
    let digests: std::collections::HashSet<_> =
        variants.iter().map(|variant| *digest(std::slice::from_ref(variant)).as_bytes()).collect();
    assert_eq!(digests.len(), variants.len());
    assert_eq!(digest(&variants), digest(&variants.clone()));
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
            records.push(Record { index: index as u64, id, text, pair, label: label.map(Label::Name) });
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

#[cfg(feature = "parquet")]
mod columnar {
    use std::sync::Arc;

    use parquet::basic::{Compression, ZstdLevel};
    use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DoubleType, FloatType, Int32Type, Int64Type};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
    use parquet::schema::parser::parse_message_type;

    use super::*;

    /// The next column of a row group, from its values and levels.
    macro_rules! column {
        ($group:expr, $type:ty, $values:expr, $definitions:expr, $repetitions:expr) => {{
            let mut column = $group.next_column().unwrap().unwrap();
            column.typed::<$type>().write_batch(&$values, $definitions, $repetitions).unwrap();
            column.close().unwrap();
        }};
    }

    /// A file of row groups that `fill` writes.
    fn file(schema: &str, groups: usize, fill: impl Fn(usize, &mut SerializedRowGroupWriter<'_, Vec<u8>>)) -> Vec<u8> {
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let compression = Compression::ZSTD(ZstdLevel::default());
        let properties = WriterProperties::builder().set_compression(compression).build();
        let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties)).unwrap();
        for at in 0..groups {
            let mut group = writer.next_row_group().unwrap();
            fill(at, &mut group);
            group.close().unwrap();
        }
        writer.into_inner().unwrap()
    }

    fn bytes(texts: &[&str]) -> Vec<ByteArray> {
        texts.iter().map(|&text| ByteArray::from(text)).collect()
    }

    /// One group of rows with a text and some other column.
    fn texts_and(column: &str, fill: impl Fn(&mut SerializedRowGroupWriter<'_, Vec<u8>>)) -> Vec<u8> {
        let schema = format!("message m {{ required binary text (UTF8); {column} }}");
        file(&schema, 1, |_, group| {
            column!(group, ByteArrayType, bytes(&["a", "b", "c"]), None, None);
            fill(group);
        })
    }

    fn labels(contents: &[u8]) -> Vec<Result<Option<Label>, String>> {
        read("a.parquet", contents).into_iter().map(|item| item.map(|record| record.label)).collect()
    }

    #[test]
    fn rows_come_back_over_several_groups() {
        let schema = "message m { optional int64 id; required binary text (UTF8); optional binary text_pair (UTF8);
                                  optional double label; required int32 unread; }";
        let contents = file(schema, 3, |at, group| {
            let first = at as i64 * 2;
            column!(group, Int64Type, [first + 100], Some(&[1, 0]), None);
            column!(group, ByteArrayType, bytes(&["中文😀", ""]), None, None);
            column!(group, ByteArrayType, bytes(&["pair"]), Some(&[0, 1]), None);
            column!(group, DoubleType, [first as f64 + 0.5], Some(&[1, 0]), None);
            column!(group, Int32Type, [1, 2], None, None);
        });
        let expected: Vec<Record> = (0..3)
            .flat_map(|group| {
                let (one, two) = (group * 2, group * 2 + 1);
                let label = Some(Label::Number(one as f64 + 0.5));
                [
                    record(one, &(one + 100).to_string(), "中文😀", None, label),
                    record(two, &two.to_string(), "", Some("pair"), None),
                ]
            })
            .collect();
        assert_eq!(records("a.parquet", &contents), expected);
    }

    #[test]
    fn more_rows_than_a_batch_and_all_bytes_counted() {
        let rows = 10_000;
        let schema = "message m { required binary text (UTF8); required int64 label; }";
        let contents = file(schema, 2, |at, group| {
            let texts: Vec<String> = (0..rows).map(|row| format!("{at} {row}")).collect();
            column!(
                group,
                ByteArrayType,
                texts.iter().map(|text| ByteArray::from(text.as_str())).collect::<Vec<_>>(),
                None,
                None
            );
            column!(group, Int64Type, (0..i64::from(rows)).collect::<Vec<_>>(), None, None);
        });
        let dir = folder(&[("a.parquet", &contents)]);
        let mut dataset = Dataset::open(options(dir.path(), &["a.parquet"])).unwrap();
        for index in 0..2 * rows as u64 {
            let record = dataset.next().unwrap().unwrap();
            let (group, row) = (index / rows as u64, index % rows as u64);
            assert_eq!((record.index, record.text), (index, format!("{group} {row}")));
            assert_eq!(record.label, Some(Label::Integer(row as i64)));
        }
        assert!(dataset.next().is_none());
        assert_eq!(dataset.bytes_read(), contents.len() as u64);
    }

    #[test]
    fn every_kind_of_label() {
        let integers = texts_and("required int64 label;", |group| column!(group, Int64Type, [0, -1, 2], None, None));
        assert_eq!(labels(&integers), [0, -1, 2].map(|label| Ok(Some(Label::Integer(label)))));
        let bools =
            texts_and("required boolean label;", |group| column!(group, BoolType, [true, false, true], None, None));
        assert_eq!(labels(&bools), [1, 0, 1].map(|label| Ok(Some(Label::Integer(label)))));
        let floats =
            texts_and("required float label;", |group| column!(group, FloatType, [0.5, f32::NAN, 1.5], None, None));
        let number = |label| Ok(Some(Label::Number(label)));
        let nan = Err("a.parquet:2: label: expected a finite number, found NaN".to_owned());
        assert_eq!(labels(&floats), [number(0.5), nan, number(1.5)]);
        let names = texts_and("optional binary label (UTF8);", |group| {
            column!(group, ByteArrayType, bytes(&["正", "b"]), Some(&[1, 0, 1]), None);
        });
        assert_eq!(labels(&names), [Ok(name("正")), Ok(None), Ok(name("b"))]);
        let unsigned =
            texts_and("required int64 label (UINT_64);", |group| column!(group, Int64Type, [1, -1, 2], None, None));
        let found = labels(&unsigned);
        assert!(
            found[1].as_ref().unwrap_err().ends_with("expected a 64-bit signed integer, found 18446744073709551615")
        );
    }

    #[test]
    fn lists_of_labels_in_every_nullable_form() {
        let one = |values: &[i64]| Ok(Some(Label::Many(values.iter().map(|&value| Label::Integer(value)).collect())));
        let nullable = "optional group label (LIST) { repeated group list { optional int64 element; } }";
        let lists = texts_and(nullable, |group| {
            column!(group, Int64Type, [1, 2], Some(&[3, 3, 1, 0]), Some(&[0, 1, 0, 0]));
        });
        assert_eq!(labels(&lists), [one(&[1, 2]), one(&[]), Ok(None)]);
        let with_null = texts_and(nullable, |group| {
            column!(group, Int64Type, [1, 5, 6], Some(&[3, 2, 3, 3]), Some(&[0, 1, 0, 0]));
        });
        let found = labels(&with_null);
        assert!(
            found[0].as_ref().unwrap_err().starts_with("a.parquet:1: label: expected a number, a string or a list")
        );
        assert_eq!(found[1..], [one(&[5]), one(&[6])]);
        let required = "required group label (LIST) { repeated group list { required int64 element; } }";
        let lists = texts_and(required, |group| {
            column!(group, Int64Type, [1, 2, 3], Some(&[1, 0, 1, 1]), Some(&[0, 0, 0, 1]));
        });
        assert_eq!(labels(&lists), [one(&[1]), one(&[]), one(&[2, 3])]);
        let old = texts_and("repeated int64 label;", |group| {
            column!(group, Int64Type, [1, 2], Some(&[1, 1, 0, 0]), Some(&[0, 1, 0, 0]));
        });
        assert_eq!(labels(&old), [one(&[1, 2]), one(&[]), one(&[])]);
    }

    #[test]
    fn a_bad_string_costs_one_record() {
        let contents = file("message m { required binary text (UTF8); }", 1, |_, group| {
            let texts = [ByteArray::from("a"), ByteArray::from(vec![0xff, 0xfe]), ByteArray::from("c")];
            column!(group, ByteArrayType, texts, None, None);
        });
        let items = read("a.parquet", &contents);
        assert_eq!(errors(&items), ["a.parquet:2: text: expected a string, found bytes that are not UTF-8"]);
        assert_eq!(texts(&items), [(0, "a"), (2, "c")]);
    }

    #[test]
    fn structures_and_damaged_files_are_refused() {
        let structure = texts_and("required group label { required int64 a; }", |group| {
            column!(group, Int64Type, [1, 2, 3], None, None);
        });
        let expected = "open: a.parquet: column `label`: expected values or lists of values, found a structure";
        assert_eq!(errors(&read("a.parquet", &structure)), [expected]);
        let whole = texts_and("required int64 label;", |group| column!(group, Int64Type, [0, 1, 2], None, None));
        for cut in 0..whole.len() {
            let items = read("a.parquet", &whole[..cut]);
            assert!(errors(&items)[0].starts_with("open: a.parquet: not readable as Parquet: "), "{cut}: {items:?}");
        }
        let none = file("message m { required binary body (UTF8); }", 0, |_, _| ());
        assert!(errors(&read("a.parquet", &none))[0].contains("no text column"));
        let empty = file("message m { required binary text (UTF8); }", 0, |_, _| ());
        assert_eq!(errors(&read("a.parquet", &empty)), ["a.parquet: no records"]);
    }

    /// Flips one bit of every byte in turn: an answer or an error, never a panic, and never rows without end.
    #[test]
    fn flipped_bits_end_in_an_answer_or_an_error() {
        let whole =
            texts_and("optional int64 label;", |group| column!(group, Int64Type, [0, 2], Some(&[1, 0, 1]), None));
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << (at % 8);
            assert!(read("a.parquet", &damaged).len() <= 5, "byte {at}");
        }
        let mut dictionary_offset = whole.clone();
        dictionary_offset[12] ^= 1 << 3;
        let items = read("a.parquet", &dictionary_offset);
        assert_eq!(
            errors(&items),
            ["a.parquet: not readable as Parquet: damaged page: assertion failed: size <= src.len()"]
        );
    }
}
