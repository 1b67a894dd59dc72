//! Questions and tagged words as their files have them.

use std::fs;

use tempfile::TempDir;
use wherefore::dataset::{Answer, Dataset, DatasetOptions, Label, Record, Shape};

fn read(folder: &TempDir, name: &str, shape: Shape, content: &str) -> Vec<Result<Record, String>> {
    let path = folder.path().join(name);
    fs::write(&path, content).unwrap();
    let files = vec![path.to_str().unwrap().to_owned()];
    let dataset = Dataset::open(DatasetOptions { files, shape, ..DatasetOptions::default() }).unwrap();
    dataset.map(|record| record.map_err(|error| error.to_string())).collect()
}

fn answer(text: &str, start: Option<usize>) -> Answer {
    Answer { text: text.to_owned(), start }
}

#[test]
fn nested_questions_are_read_in_their_order() {
    let folder = TempDir::new().unwrap();
    let nested = r#"{"version": "1", "data": [{"title": "t", "paragraphs": [
        {"context": "The cat sat.", "qas": [
            {"id": "a", "question": "Who?", "answers": [{"text": "cat", "answer_start": 4}, {"text": "The cat", "answer_start": 0}]},
            {"id": "b", "question": "When?", "is_impossible": true, "answers": [], "plausible_answers": []}]},
        {"context": "猫坐着。", "qas": [{"id": 3, "question": "谁?", "answers": [{"text": "猫", "answer_start": -1}]}]}]}]}"#;
    let records: Vec<Record> =
        read(&folder, "squad.json", Shape::Questions, nested).into_iter().map(Result::unwrap).collect();
    let ids: Vec<&str> = records.iter().map(|record| &*record.id).collect();
    assert_eq!(ids, ["a", "b", "3"]);
    assert_eq!(records[0].pair.as_deref(), Some("The cat sat."));
    assert_eq!(records[0].label, Some(Label::Answers(vec![answer("cat", Some(4)), answer("The cat", Some(0))])));
    assert_eq!(records[1].label, Some(Label::Answers(Vec::new())));
    assert_eq!(records[2].label, Some(Label::Answers(vec![answer("猫", None)])));
}

#[test]
fn flat_questions_have_answers_in_any_of_the_usual_forms() {
    let folder = TempDir::new().unwrap();
    let lines = [
        r#"{"id":"a","title":"x","question":"q","context":"c d","answers":{"text":["d"],"answer_start":[2]}}"#,
        r#"{"question":"q","context":"c d","answers":[{"text":"c","answer_start":0}]}"#,
        r#"{"question":"q","context":"c d","answers":["c","d"]}"#,
        r#"{"question":"q","context":"c d","answer":"c"}"#,
        r#"{"question":"q","context":"c d"}"#,
        r#"{"question":"q","context":" "}"#,
        r#"{"question":"q","context":"c","answers":{"text":["c"],"answer_start":[0,1]}}"#,
    ];
    let found = read(&folder, "flat.jsonl", Shape::Questions, &lines.join("\n"));
    let label = |i: usize| found[i].as_ref().unwrap().label.clone();
    assert_eq!(label(0), Some(Label::Answers(vec![answer("d", Some(2))])));
    assert_eq!(label(1), Some(Label::Answers(vec![answer("c", Some(0))])));
    assert_eq!(label(2), Some(Label::Answers(vec![answer("c", None), answer("d", None)])));
    assert_eq!(label(3), Some(Label::Answers(vec![answer("c", None)])));
    assert_eq!(label(4), None);
    assert!(found[5].as_ref().unwrap_err().contains("context: expected a text"), "{:?}", found[5]);
    assert!(found[6].as_ref().unwrap_err().contains("expected 1 numbers in answer_start, found 2"), "{:?}", found[6]);
    let table = "question,context,answers\nq,c d,\"{\"\"text\"\": [\"\"d\"\"], \"\"answer_start\"\": [2]}\"\n";
    let found = read(&folder, "flat.csv", Shape::Questions, table);
    assert_eq!(found[0].as_ref().unwrap().label, Some(Label::Answers(vec![answer("d", Some(2))])));
}

#[test]
fn words_become_a_text_with_their_places() {
    let folder = TempDir::new().unwrap();
    let lines = [
        r#"{"tokens":["Anna","saw","Bonn","."],"ner_tags":[1,0,3,0]}"#,
        r#"{"tokens":["中国","人","OK"],"ner_tags":["B-LOC","O","O"]}"#,
        r#"{"text":"no words"}"#,
        r#"{"tokens":["a",null]}"#,
    ];
    let found = read(&folder, "tags.jsonl", Shape::Words, &lines.join("\n"));
    let first = found[0].as_ref().unwrap();
    assert_eq!(
        (&*first.text, first.words.clone().unwrap()),
        ("Anna saw Bonn .", vec![(0, 4), (5, 8), (9, 13), (14, 15)])
    );
    let second = found[1].as_ref().unwrap();
    assert_eq!((&*second.text, second.words.clone().unwrap()), ("中国人 OK", vec![(0, 2), (2, 3), (4, 6)]));
    assert_eq!(found[2].as_ref().unwrap().words, None);
    assert!(found[3].as_ref().unwrap_err().contains("found null"), "{:?}", found[3]);
}
