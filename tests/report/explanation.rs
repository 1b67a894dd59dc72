//! Tests of the explain record as JSONL, Parquet and text.

use std::fs;
use std::path::Path;

use serde_json::json;
use wherefore::model::{Problem, Task};
use wherefore::report::{Explanation, Format, RecordWriter, Render, ResultRecord, WordScore, printable, read_results};

use super::{explanation, prediction, search};

/// Writes explanations and reads them back.
fn round_trip(folder: &Path, name: &str, format: Format, records: &[Explanation]) -> Vec<ResultRecord> {
    let path = folder.join(name);
    let columns = Explanation::columns(Task::Record, Problem::SingleLabel, &["ham".into(), "spam".into()]);
    let mut writer = RecordWriter::create(Some(&path), format, columns).unwrap();
    for record in records {
        writer.write(record).unwrap();
    }
    writer.finish().unwrap();
    read(&path)
}

fn read(path: &Path) -> Vec<ResultRecord> {
    let mut found = Vec::new();
    let files = [path.to_string_lossy().into_owned()];
    read_results(&files, &mut |record| {
        found.push(record);
        Ok(())
    })
    .unwrap();
    found
}

/// One explanation with every field, one with as few as there may be, and one without words.
fn various() -> Vec<Explanation> {
    let full = Explanation {
        label: Some(json!("spam")),
        against: Some("spam".into()),
        probability: Some(0.5),
        r_squared: Some(0.25),
        rationale: vec![1, 0],
        ..explanation("a", 0, "Good 电影", &[0.125, -0.25])
    };
    let least = Explanation {
        baseline_output: None,
        convergence_delta: None,
        steps: None,
        converged: None,
        ..explanation("b", 7, "x", &[0.5])
    };
    let wordless = Explanation { words: Vec::new(), converged: Some(false), ..explanation("c", 9, "y", &[0.5]) };
    vec![full, least, wordless]
}

#[test]
fn json_has_the_fields_of_the_interface_in_their_order() {
    let [full, least, _] = <[Explanation; 3]>::try_from(various()).unwrap();
    let expected = r#"{"id":"b","index":7,"method":"integrated-gradients","predicted":"ham","target":"ham","output":0.75,"tokens":["[CLS]","x","[SEP]"],"offsets":[null,[0,1],null],"segments":[null,0,null],"scores":[0.0,0.5,0.0],"words":[{"text":"x","start":0,"end":1,"segment":0,"score":0.5}],"rationale":[]}"#;
    assert_eq!(serde_json::to_string(&least).unwrap(), expected);
    let full = serde_json::to_value(&full).unwrap();
    let names: Vec<_> = full.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = [
        "id",
        "index",
        "label",
        "method",
        "predicted",
        "target",
        "against",
        "output",
        "baseline_output",
        "probability",
        "convergence_delta",
        "steps",
        "converged",
        "r_squared",
        "tokens",
        "offsets",
        "segments",
        "scores",
        "words",
        "rationale",
    ];
    assert_eq!(names, expected);
}

#[test]
fn jsonl_and_parquet_are_read_back_as_they_were_written() {
    let folder = tempfile::tempdir().unwrap();
    let expected: Vec<_> = various().into_iter().map(ResultRecord::Explanation).collect();
    assert_eq!(round_trip(folder.path(), "e.jsonl", Format::Jsonl, &various()), expected);
    #[cfg(feature = "parquet")]
    assert_eq!(round_trip(folder.path(), "e.parquet", Format::Parquet, &various()), expected);
}

#[test]
fn the_records_of_every_command_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mixed.jsonl");
    let lines = [
        serde_json::to_string(&search("a", 0, "text")).unwrap(),
        serde_json::to_string(&prediction("a", 0)).unwrap(),
        String::new(),
        serde_json::to_string(&explanation("a", 0, "text", &[1.0])).unwrap(),
    ];
    fs::write(&path, lines.join("\n")).unwrap();
    let expected = [
        ResultRecord::Search(search("a", 0, "text")),
        ResultRecord::Prediction(prediction("a", 0)),
        ResultRecord::Explanation(explanation("a", 0, "text", &[1.0])),
    ];
    assert_eq!(read(&path), expected);
}

#[test]
fn what_would_steer_a_terminal_is_shown_escaped() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("e.txt");
    let mut writer = RecordWriter::create(Some(&to), Format::Text, Vec::new()).unwrap();
    let hostile = Explanation { predicted: json!("\u{9b}31mham"), ..explanation("a\u{1b}]0;b\u{7}", 0, "x", &[1.0]) };
    writer.write(&hostile).unwrap();
    writer.finish().unwrap();
    let shown = fs::read_to_string(to).unwrap();
    assert!(shown.starts_with(r"a\u{1b}]0;b\u{7} · predicted \u{9b}31mham · explaining"), "{shown}");
    assert!(shown.lines().count() > 3 && !shown.contains(|c: char| c.is_control() && c != '\n'), "{shown}");
    assert_eq!(printable("a\tb\n"), "a\tb\n");
}

#[test]
fn without_colours_each_word_is_followed_by_its_score() {
    let record = Explanation {
        label: Some(json!("spam")),
        rationale: vec![0, 2],
        ..explanation("mail-1", 1, "win a prize", &[0.5, -0.125, 0.25])
    };
    let expected = "mail-1 · predicted ham · label spam · explaining ham: 0.750, 0.500 at the baseline\n  \
         integrated-gradients · 50 steps · convergence delta -1.2e-3 · converged\n  \
         win(+0.50) a(-0.12) prize(+0.25)\n  \
         rationale: win +0.50 · prize +0.25\n\n";
    assert_eq!(record.render(false), expected);
    let nothing = Explanation { predicted: json!([]), ..record };
    assert!(nothing.render(false).starts_with("mail-1 · predicted none · label spam"));
}

#[test]
fn small_scores_keep_two_digits() {
    let text = |scale: f32| explanation("a", 0, "win now", &[0.5 * scale, -0.25 * scale]).render(false);
    assert!(text(0.1).contains("win(+0.050) now(-0.025)"), "{}", text(0.1));
    assert!(text(1e-6).contains("win(+5.0e-7) now(-2.5e-7)"), "{}", text(1e-6));
    assert!(text(0.0).contains("win(0.00) now(0.00)"), "{}", text(0.0));
}

#[test]
fn chinese_words_stand_together_and_a_pair_has_its_own_line() {
    let mut record = explanation("a", 0, "这部 电影", &[0.5, 0.25]);
    record.words[1].start = 2;
    record.words[1].end = 4;
    record.words.push(WordScore { text: "bad".into(), start: 0, end: 3, segment: 1, score: -0.5 });
    assert!(record.render(false).contains("\n  这部(+0.50)电影(+0.25)\n  bad(-0.50)\n"), "{}", record.render(false));
}

#[test]
fn colours_tell_the_sign_and_the_weight_and_opposing_words_are_underlined() {
    let shown = explanation("a", 0, "win lose a", &[1.0, -1.0, 0.01]).render(true);
    let line = shown.lines().nth(2).unwrap();
    let words: Vec<_> = line.trim().split(' ').collect();
    assert!(words[0].contains("48;5;28m") && !words[0].contains("\x1b[4m"), "{line:?}");
    assert!(words[1].contains("48;5;124m") && words[1].contains("\x1b[4m"), "{line:?}");
    assert_eq!(words[2], "a", "{line:?}");
    assert!(!shown.contains("(+"), "{shown:?}");
}

#[test]
fn methods_that_know_no_sides_have_a_colour_of_their_own() {
    let record = Explanation { method: "saliency".into(), ..explanation("a", 0, "win a", &[1.0, 0.01]) };
    let shown = record.render(true);
    assert!(shown.contains("saliency · 50 runs of the model ·"), "{shown:?}");
    assert!(shown.contains("48;5;25m") && shown.contains("no sign: how much, not for which side"), "{shown:?}");
}

#[test]
fn lines_are_no_wider_than_the_screen_and_control_characters_do_not_reach_it() {
    let text = vec!["这个词\u{1b}[2J"; 60].join(" ");
    let shown = explanation("a", 0, &text, &[0.5; 60]).render(false);
    assert!(!shown.contains('\u{1b}'));
    let widths: Vec<_> = shown.lines().map(console_width).collect();
    assert!(widths.len() > 10 && widths.iter().all(|&width| width <= 100), "{widths:?}");
}

/// Cells of a line: two for a Chinese character.
fn console_width(line: &str) -> usize {
    line.chars().map(|c| if c.is_ascii() || c == '·' { 1 } else { 2 }).sum()
}
