//! Records from memory: the same as those of a file.

use std::collections::BTreeMap;

use wherefore::dataset::{Dataset, Label, Record};
use wherefore::model::{Device, LoadOptions, Model};
use wherefore::pipeline::{IndexOptions, Rejections, Settings, index};
use wherefore::store::Store;

fn mail(id: &str, text: &str) -> Record {
    Record { id: id.into(), text: text.into(), label: Some(Label::Name("spam".into())), ..Record::default() }
}

#[test]
fn records_from_memory_keep_all_they_have() {
    let columns = BTreeMap::from([("source".to_owned(), "web".to_owned())]);
    let whole = Record { pair: Some("b".into()), words: Some(vec![(0, 1), (2, 4)]), columns, ..mail("x", "a bc") };
    let dataset = Dataset::from_records([whole.clone(), Record { index: 7, ..mail("", "c") }]);
    assert_eq!(dataset.kept_columns(), ["source"]);
    let found: Vec<Record> = dataset.map(Result::unwrap).collect();
    assert_eq!(found, [whole, Record { index: 1, ..mail("1", "c") }]);
}

#[test]
fn records_from_memory_are_refused_as_those_of_a_file() {
    let unmeant = Record { label: Some(Label::Number(f64::NAN)), ..mail("y", "c") };
    let beyond = Record { words: Some(vec![(0, 1), (1, 3)]), ..mail("z", "ab") };
    let records = [mail("x", "a"), mail("x", "b"), unmeant, beyond, mail("", "d"), mail("4", "e")];
    let found: Vec<String> = Dataset::from_records(records).filter_map(Result::err).map(|e| e.to_string()).collect();
    let expected = [
        "the given records:2: duplicate id \"x\"",
        "the given records:3: label: expected a finite number, found NaN",
        "the given records:4: words: expected places one after the other in 2 characters, found 1 to 3",
        "the given records:6: duplicate id \"4\": a record without an id has its number for one",
    ];
    assert_eq!(found, expected);
    assert_eq!(Dataset::from_records([]).next().unwrap().unwrap_err().to_string(), "the given records: no records");
}

#[test]
fn a_store_of_records_from_memory_has_their_labels_and_columns() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("store");
    let model = Model::load("assets/demo/model", Device::Cpu, &LoadOptions::default()).unwrap();
    let columns = BTreeMap::from([("source".to_owned(), "web".to_owned())]);
    let records = [Record { columns, ..mail("x", "You have won") }, mail("", "You have lost")];
    let (settings, mut rejections) = (Settings { quiet: true, ..Settings::default() }, Rejections::new(false, None));
    let (options, records) = (IndexOptions::default(), Dataset::from_records(records));
    index(&model, records, &place, &options, &settings, &mut rejections).unwrap();
    let store = Store::open(&place).unwrap();
    assert_eq!(store.settings().columns, ["source"]);
    let found: Vec<_> = (0..2).map(|row| store.record(row).unwrap()).collect();
    assert_eq!(found[0].columns.get("source").map(String::as_str), Some("web"));
    assert!(found.iter().all(|record| record.label == Some(Label::Name("spam".into()))), "{found:?}");
}
