//! CSV and TSV: quoting, headers, and what a stray quote costs.

use std::io::Write as _;

use wherefore::dataset::DatasetOptions;

use super::{errors, items, name, read, record, records, texts};

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
