//! `audit` of stores of tags, masked pieces and answers, as a script meets them, with faults planted in what they are
//! of.

use serde_json::{Value, json};

use crate::cli::{Bench, lines};

const NAMES: [&str; 8] = ["Anna", "Otto", "Maria", "Lena", "Paul", "Nils", "Olga", "Rosa"];
const PLACES: [&str; 5] = ["Bonn", "Berlin", "Paris", "Oslo", "Lima"];
const TEXTS: usize = 120;

/// Which texts have a wrong tag, and the word it is on.
fn wrong(text: usize) -> Option<usize> {
    match text {
        7 | 40 | 71 => Some(0),
        23 | 58 | 101 => Some(6),
        88 => Some(2),
        _ => None,
    }
}

/// Sentences of a person and a place; wrong are a person tagged as a place, a place that has no tag, and a verb that is
/// one.
fn tagged() -> String {
    let record = |i: usize| {
        let tokens = [NAMES[i % 8], "Muster", "loved", "the", "hotel", "in", PLACES[i % 5], "."];
        let mut tags = ["B-PER", "I-PER", "O", "O", "O", "O", "B-LOC", "O"];
        match wrong(i) {
            Some(0) => (tags[0], tags[1]) = ("B-LOC", "I-LOC"),
            Some(6) => tags[6] = "O",
            Some(word) => tags[word] = "B-LOC",
            None => {}
        }
        json!({ "id": format!("t{i}"), "tokens": tokens, "ner_tags": tags }).to_string() + "\n"
    };
    (0..TEXTS).map(record).collect()
}

fn records(bench: &Bench, name: &str) -> Vec<Value> {
    lines(&std::fs::read_to_string(bench.path(name)).unwrap())
}

fn characters(text: &Value, start: &Value, end: &Value) -> String {
    let place = |at: &Value| at.as_u64().unwrap() as usize;
    text.as_str().unwrap().chars().take(place(end)).skip(place(start)).collect()
}

#[test]
fn wrong_tags_come_first_and_are_told_where_they_stand() {
    let bench = Bench::new();
    let model = bench.model("bert-tags");
    bench.write("train.jsonl", tagged());
    bench.ok(&format!("index --model {model} --data train.jsonl --store store --quiet"));
    bench.ok("audit dirty --store store --out dirty.jsonl --quiet");
    let found = records(&bench, "dirty.jsonl");
    let planted = (0..TEXTS).filter(|&text| wrong(text).is_some()).count();
    for finding in &found[..planted] {
        let text = finding["index"].as_u64().unwrap() as usize;
        let word = wrong(text).unwrap_or_else(|| panic!("nothing is wrong in {finding}"));
        assert_eq!(finding["word"], json!(word), "{finding}");
        let (tags, suggested) = match word {
            0 => (json!(["B-LOC", "I-LOC"]), json!(["B-PER", "I-PER"])),
            6 => (json!(["O"]), json!(["B-LOC"])),
            _ => (json!(["B-LOC"]), json!(["O"])),
        };
        assert_eq!((&finding["tags"], &finding["suggested_tags"]), (&tags, &suggested), "an entity is told whole");
        assert_eq!(finding["span"], characters(&finding["text"], &finding["start"], &finding["end"]));
        let reason = ["PER, not LOC", "missed: LOC", "no LOC"][[0, 6, 2].iter().position(|&w| w == word).unwrap()];
        assert!(finding["reason"].as_str().unwrap().starts_with(reason), "{finding}");
        for near in finding["neighbours"].as_array().unwrap() {
            assert_eq!(near["span"], characters(&near["text"], &near["start"], &near["end"]));
            assert_ne!(near["index"], finding["index"], "of other records");
        }
    }
    let words = |findings: &[Value]| findings.iter().map(|f| f["tags"].as_array().unwrap().len()).sum::<usize>();
    assert_eq!(words(&found), 8 * TEXTS, "every word is in one finding");
    assert_eq!(found[0]["signals"].as_object().unwrap().len(), 7);
    bench.ok("audit dirty --store store --by-word --threads 1 --out words.jsonl --quiet");
    let by_word = records(&bench, "words.jsonl");
    assert_eq!(by_word.len(), 8 * TEXTS);
    assert!(by_word.iter().all(|one| one["tags"].as_array().unwrap().len() == 1));
    bench.ok("audit dirty --store store --threads 3 --out again.jsonl --quiet");
    assert!(records(&bench, "again.jsonl") == found, "threads do not matter");
    for signal in ["text", "confident", "neighbours", "self-influence", "loss", "representer"] {
        bench.ok(&format!("audit dirty --store store --signal {signal} --out one.jsonl --quiet"));
        assert_eq!(records(&bench, "one.jsonl")[0]["signals"].as_object().unwrap().len(), 1);
    }
    // The suggestions taken are the data as they should have been.
    let accept = format!("audit dirty --store store --accept {planted} --corrected mended.jsonl --out d.jsonl --quiet");
    bench.ok(&accept);
    for (i, record) in records(&bench, "mended.jsonl").iter().enumerate() {
        assert_eq!(record["ner_tags"], json!(["B-PER", "I-PER", "O", "O", "O", "O", "B-LOC", "O"]), "{i}");
        assert_eq!(record["tokens"][0], NAMES[i % 8]);
    }
    bench.ok(&format!("index --model {model} --data mended.jsonl --store again --quiet"));
    bench.ok("audit dirty --store store --out dirty.parquet --quiet");
    let told = bench.ok("audit dirty --store store --most 2 --format text --quiet");
    assert_eq!((told.matches(" → ").count(), told.lines().count()), (2, 6));
    bench.ok("report dirty.jsonl --out page.html --quiet");
    let page = std::fs::read_to_string(bench.path("page.html")).unwrap();
    assert!(page.contains("Tags, the most suspect first") && page.contains("<mark class=\"t\">"));
}

#[test]
fn other_audits_of_tags_work_or_say_why_not() {
    let bench = Bench::new();
    let model = bench.model("bert-tags");
    bench.write("train.jsonl", tagged());
    bench.ok(&format!("index --model {model} --data train.jsonl --store store --quiet"));
    // The second forty are the first again, but for what is wrong in either.
    let copies = lines(&bench.ok("audit redundant --store store --quiet"));
    let conflict = copies.iter().filter(|copy| copy["reason"].as_str().unwrap().contains("with another label")).count();
    assert!(copies.len() >= TEXTS - 40 && conflict >= 7, "{} copies, {conflict} of them in conflict", copies.len());
    bench.write("test.jsonl", tagged().lines().take(9).collect::<Vec<_>>().join("\n"));
    let leaks = lines(&bench.ok("audit redundant --store store --data test.jsonl --quiet"));
    let leaked = leaks.iter().filter(|leak| leak["reason"] == "a copy, of a training record").count();
    assert_eq!(leaked, 9, "every one of them is there");
    bench.fails("audit bias --store store", "words tell a label where each record has one");
    bench.fails("audit map --store store --dynamics nowhere", "dynamics of a training are of records with one label");
    bench.fails("audit unreliable --store store --data test.jsonl", "trust is in one prediction a record");
    bench.fails("audit dirty --store store --signal margin --dynamics nowhere", "nowhere");
    bench.fails("audit dirty --store store --signal margin", "needs the dynamics");
    bench.fails("audit dirty --store store --accept 3", "--corrected");
    let found = lines(&bench.ok("audit sparse --store store --data test.jsonl --quiet"));
    assert_eq!(found.len(), 9);
    assert!(found.is_sorted_by(|a, b| a["similarity"].as_f64() <= b["similarity"].as_f64()));
    assert!(found.iter().all(|one| one["nearest"].as_array().unwrap().len() == 3 && one["cluster"].is_u64()));
    bench.write("bare.jsonl", "{\"text\":\"Anna loved Bonn\"}\n");
    bench.ok(&format!("index --model {model} --data bare.jsonl --store bare --quiet"));
    bench.fails("audit dirty --store bare", "no record of the store has a label");
    bench.ok(&format!("index --model {model} --data train.jsonl --store predicted --target predicted --quiet"));
    bench.fails("audit dirty --store predicted", "factors are of predicted labels");
}

#[test]
fn wrong_answers_come_first() {
    let bench = Bench::new();
    let model = bench.model("bert-spans");
    let asked = |i: usize| {
        let (name, place) = (NAMES[i % 8], PLACES[i % 5]);
        let context = format!("{name} lives in {place}. {} plays the flute. The food is good.", NAMES[(i + 3) % 8]);
        let answer = if i % 12 == 5 { "flute" } else { place };
        json!({ "id": format!("q{i}"), "question": format!("Where does {name} live?"), "context": context, "answers": [answer] })
            .to_string()
            + "\n"
    };
    bench.write("train.jsonl", (0..60).map(asked).collect::<String>());
    bench.ok(&format!("index --model {model} --data train.jsonl --store store --stride 4 --quiet"));
    bench.ok("audit dirty --store store --signal text --out text.jsonl --quiet");
    for finding in &records(&bench, "text.jsonl")[..5] {
        assert_eq!(finding["label"], "flute", "{finding}");
        assert_eq!(characters(&finding["text_pair"], &finding["start"], &finding["end"]), "flute");
        assert!(finding["sentence"].as_str().unwrap().contains("lives in"), "{finding}");
        assert!(finding["reason"].as_str().unwrap().contains("another sentence has more"), "{finding}");
    }
    bench.ok("audit dirty --store store --out dirty.jsonl --quiet");
    let found = records(&bench, "dirty.jsonl");
    assert_eq!(found.len(), 60);
    assert_eq!(found[0]["signals"].as_object().unwrap().len(), 3);
    assert_eq!(found[0]["neighbours"].as_array().unwrap().len(), 5);
    bench.ok("audit dirty --store store --threads 1 --out again.jsonl --quiet");
    assert!(records(&bench, "again.jsonl") == found, "threads do not matter");
    bench.fails("audit dirty --store store --signal confident", "answers are places");
    bench.fails("audit dirty --store store --by-word", "tags no words");
    bench.ok("report dirty.jsonl --out page.html --quiet");
    let page = std::fs::read_to_string(bench.path("page.html")).unwrap();
    assert!(page.contains("Answers, the most suspect first"));
    bench.ok("audit dirty --store store --out dirty.parquet --quiet");
    bench.ok("audit redundant --store store --quiet");
    assert_eq!(lines(&bench.ok("audit sparse --store store --data train.jsonl --quiet")).len(), 60);
}

#[test]
fn pieces_that_masks_hide_are_judged() {
    let bench = Bench::new();
    let model = bench.model("bert-masks");
    let masked = |i: usize| {
        let (last, label) = [("good", "hotel"), ("near", "food")][i % 2];
        let label = if i == 4 { "book" } else { label };
        json!({ "id": format!("m{i}"), "text": format!("The [MASK] was {last}."), "label": label }).to_string() + "\n"
    };
    bench.write("train.jsonl", (0..30).map(masked).collect::<String>());
    bench.ok(&format!("index --model {model} --masks --data train.jsonl --store store --quiet"));
    bench.ok("audit dirty --store store --out dirty.jsonl --quiet");
    assert_eq!(records(&bench, "dirty.jsonl")[0]["signals"].as_object().unwrap().len(), 3);
    bench.ok("audit dirty --store store --signal neighbours --out near.jsonl --quiet");
    let found = records(&bench, "near.jsonl");
    assert_eq!(found.len(), 30);
    let first = &found[0];
    assert_eq!((&first["index"], &first["tags"], &first["span"]), (&json!(4), &json!(["book"]), &json!("[MASK]")));
    assert_eq!(first["suggested_tags"], json!(["hotel"]), "what the same text hides elsewhere");
    bench.fails("audit dirty --store store --signal text", "no classifier of texts tells the pieces");
}
