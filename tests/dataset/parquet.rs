//! Parquet: types, groups, nulls and lists, and damaged files.

use std::sync::Arc;

use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{
    BoolType, ByteArray, ByteArrayType, DoubleType, FixedLenByteArray, FixedLenByteArrayType, FloatType, Int32Type,
    Int64Type,
};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use wherefore::dataset::{Answer, Dataset, DatasetOptions, Label, Record, Shape};

use super::{errors, folder, gzip, name, options, read, record, records, texts};

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
    let bools = texts_and("required boolean label;", |group| column!(group, BoolType, [true, false, true], None, None));
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
    assert!(found[1].as_ref().unwrap_err().ends_with("expected a 64-bit signed integer, found 18446744073709551615"));
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
    assert!(found[0].as_ref().unwrap_err().starts_with("a.parquet:1: label: expected a number, a string or a list"));
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

/// As the Hub's data sets have them: a structure of lists, or a list of structures, either of which may be null.
#[test]
fn answers_in_a_structure_of_lists_or_a_list_of_structures() {
    let answer = |text: &str, start| Answer { text: text.to_owned(), start: Some(start) };
    let expected = [
        Some(Label::Answers(vec![answer("a", 0), answer("b", 2)])),
        Some(Label::Answers(Vec::new())),
        Some(Label::Answers(vec![answer("c", 1)])),
    ];
    let lists = "optional group text (LIST) { repeated group list { optional binary element (UTF8); } }
                 optional group answer_start (LIST) { repeated group list { optional int32 element; } }";
    // The element's level is one higher where the structure itself may be null.
    for (there, schema) in [
        (3, format!("required group answers {{ {lists} }}")),
        (4, format!("optional group answers {{ {lists} }}")),
        (
            4,
            "optional group answers (LIST) { repeated group list { optional group element {
                 optional binary text (UTF8); optional int32 answer_start; } } }"
                .to_owned(),
        ),
    ] {
        let schema =
            format!("message m {{ required binary question (UTF8); required binary context (UTF8); {schema} }}");
        let contents = file(&schema, 1, |_, group| {
            column!(group, ByteArrayType, bytes(&["q", "r", "s"]), None, None);
            column!(group, ByteArrayType, bytes(&["a b", "c", "cc"]), None, None);
            // Two answers, none (of an empty list, or of nothing at all), and one.
            let levels = [there, there, 1, there];
            column!(group, ByteArrayType, bytes(&["a", "b", "c"]), Some(&levels), Some(&[0, 1, 0, 0]));
            column!(group, Int32Type, [0, 2, 1], Some(&levels), Some(&[0, 1, 0, 0]));
        });
        let dir = folder(&[("a.parquet", &contents)]);
        let options = DatasetOptions { shape: Shape::Questions, ..options(dir.path(), &["a.parquet"]) };
        let found: Vec<_> = Dataset::open(options).unwrap().map(|record| record.unwrap().label).collect();
        assert_eq!(found, expected, "{schema}");
    }
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
    let whole = texts_and("optional int64 label;", |group| column!(group, Int64Type, [0, 2], Some(&[1, 0, 1]), None));
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 8);
        assert!(read("a.parquet", &damaged).len() <= 5, "byte {at}");
    }
}

/// A file with a page that the crate's decoders give up on by panicking.
pub(crate) fn damaged_page() -> Vec<u8> {
    let label = |group: &mut SerializedRowGroupWriter<'_, Vec<u8>>| {
        column!(group, Int64Type, [0, 2], Some(&[1, 0, 1]), None);
    };
    let mut file = texts_and("optional int64 label;", label);
    file[12] ^= 1 << 3;
    file
}

#[test]
fn a_page_that_cannot_be_decoded_ends_the_file() {
    let items = read("a.parquet", &damaged_page());
    let expected = "a.parquet: not readable as Parquet: damaged page: assertion failed: size <= src.len()";
    assert_eq!(errors(&items), [expected]);
}

#[test]
fn a_compressed_file_is_read_as_what_it_holds() {
    let plain = texts_and("required int32 label;", |group| column!(group, Int32Type, [0, 1, 0], None, None));
    let expected = records("a.parquet", &plain);
    assert_eq!(expected.len(), 3);
    assert_eq!(records("a.parquet.gz", &gzip(&plain)), expected);
    assert_eq!(records("a.parquet.zst", &zstd::encode_all(plain.as_slice(), 3).unwrap()), expected);
    let cut = gzip(&plain);
    assert!(read("a.parquet.gz", &cut[..cut.len() - 30]).iter().any(Result::is_err));
}

/// Decimals of any width, as databases write labels, are the numbers they stand for; so are halves.
#[test]
fn decimals_and_halves_are_numbers() {
    let numbers = |numbers: &[f64]| numbers.iter().map(|&x| Ok(Some(Label::Number(x)))).collect::<Vec<_>>();
    let fixed =
        |values: &[&[u8]]| values.iter().map(|&bytes| bytes.to_vec().into()).collect::<Vec<FixedLenByteArray>>();
    let found = labels(&texts_and("required int32 label (DECIMAL(9, 2));", |group| {
        column!(group, Int32Type, [110, -5, 0], None, None);
    }));
    assert_eq!(found, numbers(&[1.1, -0.05, 0.0]));
    let found = labels(&texts_and("required int64 label (DECIMAL(18, 0));", |group| {
        column!(group, Int64Type, [1, 0, 2], None, None);
    }));
    assert_eq!(found, [1, 0, 2].map(|class| Ok(Some(Label::Integer(class)))));
    let found = labels(&texts_and("required fixed_len_byte_array(3) label (DECIMAL(6, 1));", |group| {
        column!(group, FixedLenByteArrayType, fixed(&[&[0, 1, 0], &[0xff, 0xff, 0xff], &[0, 0, 3]]), None, None);
    }));
    assert_eq!(found, numbers(&[25.6, -0.1, 0.3]));
    let found = labels(&texts_and("required binary label (DECIMAL(6, 1));", |group| {
        column!(group, ByteArrayType, [vec![3], vec![0x80], vec![1, 0]].map(ByteArray::from), None, None);
    }));
    assert_eq!(found, numbers(&[0.3, -12.8, 25.6]));
    let found = labels(&texts_and("required fixed_len_byte_array(2) label (FLOAT16);", |group| {
        column!(group, FixedLenByteArrayType, fixed(&[&[0, 0x3c], &[0, 0xb8], &[0x55, 0x35]]), None, None);
    }));
    assert_eq!(found, numbers(&[1.0, -0.5, f64::from(half::f16::from_bits(0x3555))]));
    let found = labels(&texts_and("required fixed_len_byte_array(3) label;", |group| {
        column!(group, FixedLenByteArrayType, fixed(&[&[1, 2, 3][..]; 3]), None, None);
    }));
    assert!(found[0].as_ref().is_err_and(|error| error.contains("bytes of fixed length")), "{found:?}");
}
