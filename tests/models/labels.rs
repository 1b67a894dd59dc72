//! What labels of the data mean to models of each problem.

use serde_json::json;
use tempfile::TempDir;
use wherefore::backend::reference::Reference;
use wherefore::dataset::Label::{self, Integer, Many, Name, Number};
use wherefore::factors::Target;
use wherefore::model::{LoadOptions, Model};

use super::cases::{self, configure, copy};

fn name(text: &str) -> Label {
    Name(text.to_owned())
}

fn named(case: &str, names: &[&str]) -> (TempDir, Model) {
    let dir = copy(case);
    let names: serde_json::Map<_, _> = names.iter().enumerate().map(|(i, name)| (i.to_string(), json!(name))).collect();
    configure(dir.path(), &[("id2label", names.into())]);
    let model = Model::open_with(Reference, dir.path(), &LoadOptions::default()).unwrap();
    (dir, model)
}

fn assert_resolved(model: &Model, labels: &[(Label, Target)]) {
    for (label, target) in labels {
        assert_eq!(model.resolve_label(label).as_ref(), Ok(target), "{label:?}");
    }
}

fn assert_refused(model: &Model, labels: &[(Label, &str)]) {
    for (label, reason) in labels {
        assert_eq!(model.resolve_label(label).unwrap_err(), *reason, "{label:?}");
    }
}

#[test]
fn a_class_is_an_id_or_a_name() {
    // The name "0" belongs to class 1: names come before numbers.
    let (_dir, model) = named("bert-cls5", &["负面", "0", "neutral", "good", "great"]);
    let class = Target::Class;
    assert_resolved(
        &model,
        &[
            (Integer(4), class(4)),
            (name("负面"), class(0)),
            (name("0"), class(1)),
            (name("2"), class(2)),
            (name("3.0"), class(3)), // as pandas writes ids, where one is missing
            (Number(3.0), class(3)),
        ],
    );
    assert_refused(
        &model,
        &[
            (Integer(5), "label 5: expected a class id from 0 to 4"),
            (Integer(-1), "label -1: expected a class id from 0 to 4"),
            (name("7"), "label 7: expected a class id from 0 to 4"),
            (name("2.5"), "label \"2.5\": expected one of \"负面\", \"0\", \"neutral\", \"good\", \"great\""),
            (name("inf"), "label \"inf\": expected one of \"负面\", \"0\", \"neutral\", \"good\", \"great\""),
            (name("Neutral"), "label \"Neutral\": expected one of \"负面\", \"0\", \"neutral\", \"good\", \"great\""),
            (Number(0.5), "label 0.5: expected a class id or name"),
            (Number(f64::NAN), "label NaN: expected a class id or name"),
            (Many(vec![Integer(1)]), "label: expected one class, found a list"),
        ],
    );
}

#[test]
fn classes_have_names_of_their_own() {
    let dir = copy("bert-cls5");
    configure(dir.path(), &[("id2label", json!({"0": "bad", "1": "good", "2": "so so", "3": "good", "4": "great"}))]);
    let refused = Model::open_with(Reference, dir.path(), &LoadOptions::default()).err().unwrap().to_string();
    let expected = "\"id2label\": expected a name of its own for each class, found \"good\" for both 1 and 3";
    assert!(refused.ends_with(expected), "{refused}");
}

#[test]
fn several_classes_are_a_list_or_a_row() {
    let (_dir, model) = named("bert-multilabel", &["toxic", "spam", "rude", "other"]);
    let row = |row: [f32; 4]| Target::Classes(row.to_vec());
    let integers = |ids: &[i64]| Many(ids.iter().map(|id| Integer(*id)).collect());
    let numbers = |numbers: &[f64]| Many(numbers.iter().map(|number| Number(*number)).collect());
    assert_resolved(
        &model,
        &[
            (integers(&[]), row([0.0; 4])),
            (integers(&[0, 1]), row([1.0, 1.0, 0.0, 0.0])),
            (integers(&[3, 2, 1, 0]), row([1.0; 4])),
            (integers(&[0, 1, 0, 1]), row([0.0, 1.0, 0.0, 1.0])),
            (numbers(&[1.0, 0.0, 0.0, 1.0]), row([1.0, 0.0, 0.0, 1.0])),
            (numbers(&[0.5, 0.0, 1.0, 1.0]), row([0.5, 0.0, 1.0, 1.0])),
            (Many(vec![name("rude"), Integer(0)]), row([1.0, 0.0, 1.0, 0.0])),
            (name("spam"), row([0.0, 1.0, 0.0, 0.0])),
            (Integer(3), row([0.0, 0.0, 0.0, 1.0])),
        ],
    );
    assert_refused(
        &model,
        &[
            (integers(&[4]), "label 4: expected a class id from 0 to 3"),
            (numbers(&[0.5, 0.5]), "label: 0.5 in a list of 2 numbers; expected 4, one a class"),
            (numbers(&[1.5, 0.0, 0.0, 0.0]), "label: expected a number from 0 to 1 for each class, found 1.5"),
            (Many(vec![Many(vec![])]), "label: expected one class, found a list"),
        ],
    );
}

#[test]
fn a_regression_takes_numbers() {
    let model = cases::open(Reference, "bert-regression");
    let value = |value| Target::Values(vec![value]);
    assert_resolved(
        &model,
        &[
            (Integer(-3), value(-3.0)),
            (Number(0.25), value(0.25)),
            (name(" 4.5"), value(4.5)),
            (Many(vec![Number(1.5)]), value(1.5)),
        ],
    );
    assert_refused(
        &model,
        &[
            (name("high"), "label \"high\": expected a number"),
            (name("inf"), "label \"inf\": expected a number"),
            (Number(1e300), "label 1e300: expected a number within f32's range"),
            (Many(vec![]), "label: expected 1 numbers, found 0"),
        ],
    );
}

#[test]
fn a_headless_model_has_no_use_for_labels() {
    let model = cases::open(Reference, "minilm-mean");
    assert_refused(&model, &[(Integer(0), "the model has no head that could give a label a meaning")]);
    assert!(model.class_names().names().is_empty());
}
