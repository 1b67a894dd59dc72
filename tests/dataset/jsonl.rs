//! JSON Lines: values there and back, and what damages a line.

use std::fs;
use std::io::Write as _;

use wherefore::dataset::{Dataset, Label};

use super::{errors, folder, name, options, read, record, records, texts, without_folder};

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
fn damaged_json_costs_one_record_each() {
    let file = b"{\"text\": \"first\"}\n{\"text\": \"b\", \n{\"text\": 3}\n{\"label\": 1}\n[1]\nnull\n{\"text\": null}\n\
        {\"text\": \"\xff\xfe\"}\n{\"text\": \"x\"} trailing\n{\"text\": \"\\ud800\"}\n{\"text\": \"y\", \"text_pair\": 5}\n\
        {\"text\": \"z\", \"id\": 1.5}\n{\"text\": \"last\"}\n";
    let items = read("a.jsonl", file);
    let expected = [
        "a.jsonl:2: invalid JSON at column 14: EOF while parsing a value",
        "a.jsonl:3: text: expected a string, found an integer",
        "a.jsonl:4: no text field; the fields are `label`",
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
