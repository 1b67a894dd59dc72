//! Which files: their order, their compression, and those that cannot be read.

use std::fs;

use wherefore::dataset::{Dataset, DatasetOptions};

use super::{errors, folder, gzip, options, read, record, records, without_folder};

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

#[test]
fn files_and_globs_keep_their_order() {
    let line = |text: &str| format!("{{\"text\": \"{text}\"}}\n").into_bytes();
    let (b1, b2, a) = (line("b1"), line("b2"), line("a"));
    let dir = folder(&[("part-2.jsonl", &b2), ("part-1.jsonl", &b1), ("a.jsonl", &a), ("c.csv", b"text\nc\n")]);
    let mut dataset = Dataset::open(options(dir.path(), &["c.csv", "part-*.jsonl", "a.jsonl"])).unwrap();
    let total = dataset.bytes_total().unwrap();
    assert_eq!(total, 7 + 15 + 15 + 14);
    assert_eq!(dataset.files().count(), 4);
    let found: Vec<(u64, String)> =
        dataset.by_ref().map(|item| item.unwrap()).map(|record| (record.index, record.text)).collect();
    assert_eq!(found, [(0, "c".into()), (1, "b1".into()), (2, "b2".into()), (3, "a".into())]);
    assert_eq!(dataset.bytes_read(), total);
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
    let dir = folder(&[("a.jsonl", b"{\"text\": \"a\"}\n"), ("a.txt", b"a"), ("u.csv", b"\xff\xfet\0")]);
    fs::create_dir(dir.path().join("d.jsonl")).unwrap();
    let open = |name: &str| {
        let error = Dataset::open(options(dir.path(), &["a.jsonl", name])).unwrap_err();
        without_folder(&error, dir.path())
    };
    assert_eq!(open("none.jsonl"), "none.jsonl: No such file or directory (os error 2)");
    assert_eq!(open("none-*.jsonl"), "none-*.jsonl: no file matches");
    assert!(open("a.txt").starts_with("a.txt: unknown kind of data file: expected .jsonl, .csv, .tsv"));
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
