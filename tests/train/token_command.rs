//! `wherefore train` of heads on tokens, and `select` with a selector, as a script meets them.

use serde_json::{Value, json as value};

use super::support::json;
use crate::cli::{Bench, lines};

/// Questions about who is where, one in `odd` without an answer.
fn questions(n: usize, odd: usize) -> String {
    let (people, places) = (["anna", "bob", "carl", "dora"], ["bonn", "oslo", "rome"]);
    let line = |i: usize| {
        let told = |shift: usize| (people[(i + shift) % 4], places[(i / 4 + shift) % 3]);
        let [(a, at), (b, by)] = [told(0), told(1)];
        let context = format!("{a} is in {at}. the soup is good! {b} is in {by}.");
        let answers = match i % odd {
            0 => value!({ "text": [], "answer_start": [] }),
            _ => value!({ "text": [at], "answer_start": [context.find(at).unwrap()] }),
        };
        let question = if i.is_multiple_of(odd) { "where is zed?".to_owned() } else { format!("where is {a}?") };
        format!("{}\n", value!({ "id": format!("q{i}"), "question": question, "context": context, "answers": answers }))
    };
    (1..=n).map(line).collect()
}

fn tagged(n: usize) -> String {
    let (people, places) = (["anna", "bob", "carl"], ["bonn", "oslo", "rome"]);
    let line = |i: usize| {
        let tokens = [people[i % 3], "is", "in", places[i / 3 % 3], "today"];
        format!("{}\n", value!({ "tokens": tokens, "ner_tags": ["B-PER", "O", "O", "B-LOC", "O"] }))
    };
    (0..n).map(line).collect()
}

fn texts(n: usize) -> String {
    let line =
        |i: usize| format!("{{\"text\":\"{} is in {} today\"}}\n", ["anna", "bob"][i % 2], ["bonn", "oslo"][i % 2]);
    (0..n).map(line).collect()
}

fn bench() -> Bench {
    let bench = Bench::new();
    bench.write("qa.jsonl", questions(48, 6));
    bench.write("qa-dev.jsonl", questions(12, 6));
    bench.write("ner.jsonl", tagged(36));
    bench.write("mlm.jsonl", texts(32));
    bench
}

const SMALL: &str = "--vocabulary 80 --shape 1x32 --batch-size 8 --learning-rate 0.005 --quiet";

#[test]
fn answers_are_learnt_and_predicted() {
    let bench = bench();
    bench.ok(&format!("train {SMALL} --data qa.jsonl --dev qa-dev.jsonl --epochs 3 --dropout 0 --out qa"));
    let run = json(&bench.path("qa.run.json"));
    assert_eq!((&run["task"], &run["records"]["training"]), (&value!("answers"), &value!(48)));
    let dev = &run["epochs"][2]["dev"];
    assert!(["exact_match", "f1", "no_answer"].iter().all(|name| dev[name].is_number()), "{dev}");
    assert_eq!(dev["records"], 12);
    let config = json(&bench.path("qa/config.json"));
    assert_eq!(config["architectures"], value!(["BertForQuestionAnswering"]));
    assert!(config.get("id2label").is_none());
    let predicted = lines(&bench.ok("predict --model qa --data qa-dev.jsonl --quiet"));
    assert!(predicted.len() == 12 && predicted.iter().all(|record| record["answer"]["text"].is_string()));
    // A head that is there is gone on with; windows are more than records.
    bench.ok("train --model qa --data qa.jsonl --epochs 1 --max-length 18 --stride 2 --quiet --out again");
    let run = json(&bench.path("again.run.json"));
    assert_eq!(run["model"]["new_head"], false);
    assert!(run["records"]["windows"].as_u64().unwrap() > 48);
}

#[test]
fn tags_and_masks_are_learnt() {
    let bench = bench();
    bench.ok(&format!("train {SMALL} --data ner.jsonl --dev ner.jsonl --epochs 12 --dropout 0 --out ner"));
    let run = json(&bench.path("ner.run.json"));
    assert_eq!((&run["task"], &run["labels"]), (&value!("tags"), &value!(["B-LOC", "B-PER", "O"])));
    assert_eq!(run["epochs"][11]["dev"]["f1"], 1.0, "{}", run["epochs"][11]);
    let predicted = lines(&bench.ok("predict --model ner --data ner.jsonl --quiet"));
    assert_eq!(predicted[0]["entities"][0]["type"], "PER");
    bench.ok(&format!("train {SMALL} --task masks --data mlm.jsonl --dev mlm.jsonl --epochs 8 --out mlm"));
    let run = json(&bench.path("mlm.run.json"));
    let perplexity = |epoch: usize| run["epochs"][epoch]["dev"]["perplexity"].as_f64().unwrap();
    assert!(perplexity(7) < 0.8 * perplexity(0), "{run}");
    let filled = lines(&bench.ok("predict --model mlm --text [MASK] --quiet"));
    assert_eq!(filled.len(), 1);
}

#[test]
fn a_selector_chooses_sentences_and_the_answer_is_placed_in_the_whole_context() {
    let bench = bench();
    bench.ok(&format!("train {SMALL} --data qa.jsonl --epochs 1 --out qa"));
    bench.ok(&format!(
        "train {SMALL} --task selector --data qa.jsonl --dev qa-dev.jsonl --epochs 8 --dropout 0 --out selector"
    ));
    let run = json(&bench.path("selector.run.json"));
    let dev = &run["epochs"][7]["dev"];
    let [precision, recall] = ["precision", "recall"].map(|name| dev[name].as_f64().unwrap());
    assert!((dev["selection"].as_f64().unwrap() - (0.2 * precision + 0.8 * recall)).abs() < 1e-9);
    assert_eq!(json(&bench.path("selector/selector.json"))["markers"], value!(["[BSENT]", "[ESENT]"]));
    let select = "select --selector selector --model qa --quiet";
    let records = lines(&bench.ok(&format!("{select} --data qa-dev.jsonl --threshold 0.5")));
    assert_eq!(records.len(), 12);
    for record in &records {
        let sentences = record["sentences"].as_array().unwrap();
        assert_eq!(sentences.len(), 3);
        let kept = |sentence: &Value| sentence["kept"] == true;
        assert!(sentences.iter().any(kept));
        for sentence in sentences.iter().filter(|sentence| sentence["score"].as_f64().unwrap() >= 0.5) {
            assert!(kept(sentence));
        }
        let (answer, context) = (&record["answer"], record["context"].as_str().unwrap());
        let [start, end] = ["start", "end"].map(|place| answer[place].as_u64().unwrap() as usize);
        let text = answer["text"].as_str().unwrap();
        assert!(context[start..end].starts_with(text.chars().next().unwrap()), "{record}");
    }
    // Windows of whole sentences say the same of as many sentences.
    let short = lines(&bench.ok(&format!("{select} --data qa-dev.jsonl --max-length 20 --stride 2")));
    assert!(short.iter().all(|record| record["sentences"].as_array().unwrap().len() == 3));
    bench.ok(&format!("{select} --data qa-dev.jsonl --out kept.jsonl"));
    bench.ok("report kept.jsonl --out page.html");
    bench.fails("select --selector qa --model qa --data qa-dev.jsonl", "it is no selector");
    bench.fails("select --selector selector --model selector --data qa-dev.jsonl", "answers no questions");
}

#[test]
fn threads_and_batches_leave_the_bytes_of_heads_on_tokens() {
    let bench = bench();
    for (task, data) in [("answers", "qa"), ("tags", "ner"), ("masks", "mlm"), ("selector", "qa")] {
        let train = format!("train {SMALL} --task {task} --data {data}.jsonl --seed 3 --checkpoint-every 2");
        bench.ok(&format!("{train} --epochs 2 --out {task}-a --threads 1"));
        bench.ok(&format!("{train} --epochs 2 --out {task}-b --threads 2 --batch-tokens 60"));
        let bytes = |out: &str| std::fs::read(bench.path(&format!("{task}-{out}")).join("model.safetensors")).unwrap();
        assert!(bytes("a") == bytes("b"), "{task}");
    }
}

#[test]
fn what_heads_on_tokens_cannot_learn_is_told_in_one_line() {
    let bench = bench();
    bench.write("bare.jsonl", "{\"question\":\"a\",\"context\":\"b\"}\n");
    bench.write(
        "wrong.jsonl",
        "{\"question\":\"a\",\"context\":\"b c\",\"answers\":{\"text\":[\"c\"],\"answer_start\":[0]}}\n",
    );
    bench.write("uneven.jsonl", "{\"tokens\":[\"a\",\"b\"],\"ner_tags\":[\"O\"]}\n");
    let fails = |arguments: &str, reason: &str| bench.fails(&format!("train {SMALL} --out m {arguments}"), reason);
    fails("--task answers --data bare.jsonl", "expected one to learn, found none");
    fails("--task answers --data wrong.jsonl", "expected \"c\" at character 0");
    fails("--task tags --data uneven.jsonl --labels O,B", "one a word, found 1");
    fails("--task answers --data qa.jsonl --labels a,b", "--labels: not for --task answers");
    fails("--task masks --data mlm.jsonl --problem regression", "--problem: not for --task masks");
    fails("--data ner.jsonl --dynamics d", "training dynamics are of records");
    let ran = bench.run("train --task stories --data qa.jsonl --vocabulary 80 --out m");
    assert_eq!(ran.code, Some(2));
    assert!(ran.err.contains("expected classification, answers, tags, masks or selector"), "{}", ran.err);
    assert!(!bench.path("m").exists());
}
