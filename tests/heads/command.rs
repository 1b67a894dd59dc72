//! `predict` and `explain` with models that say something of tokens, as a script meets them.

use serde_json::{Value, json};

use crate::cli::Bench;

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

const QUESTIONS: &str = r#"{"data": [{"paragraphs": [{"context": "The hotel is near the station, and the food is good.", "qas": [
    {"id": "q1", "question": "Where is the hotel?", "answers": [{"text": "near the station", "answer_start": 13}]},
    {"id": "q2", "question": "How is the food?", "answers": [{"text": "good", "answer_start": 47}]}]}]}]}"#;

#[test]
fn questions_are_answered_and_judged() {
    let bench = Bench::new();
    let model = bench.model("bert-spans");
    bench.write("q.json", QUESTIONS);
    let records = lines(&bench.ok(&format!("predict --model {model} --data q.json --quiet --stride 4 --n-best 3")));
    assert_eq!(records.len(), 2);
    for record in &records {
        let context: Vec<char> = record["context"].as_str().unwrap().chars().collect();
        let (answer, best) = (&record["answer"], record["n_best"].as_array().unwrap());
        assert_eq!((answer, best.len()), (&best[0], 3));
        for span in best {
            let place = |end: &str| span[end].as_u64().unwrap() as usize;
            let text: String = context[place("start")..place("end")].iter().collect();
            assert_eq!(span["text"], text);
        }
        assert!(record["f1"].is_number() && record["exact_match"].is_boolean());
    }
    bench.ok(&format!("predict --model {model} --data q.json --quiet --stride 4 --out r.jsonl"));
    let run: Value = serde_json::from_slice(&std::fs::read(bench.path("r.jsonl.run.json")).unwrap()).unwrap();
    assert_eq!(run["scores"]["questions"], 2);
    // Where nothing may be an answer, none is given.
    let none = format!("predict --model {model} --data q.json --quiet --stride 4 --no-answer-threshold -1000");
    assert!(
        lines(&bench.ok(&none)).iter().all(|record| record["answer"]["text"] == "" && record["exact_match"] == false)
    );
    // Windows with no room for more than what they are to share have half of it in common.
    let short =
        |stride: u32| format!("predict --model {model} --data q.json --max-length 20 --stride {stride} --quiet");
    assert_eq!(bench.ok(&short(128)), bench.ok(&short(14)));
    assert!(lines(&bench.ok(&short(14))).iter().all(|record| record["answer"].is_object()));
    bench.fails(&short(2).replace("20", "9"), "for its context");
}

#[test]
fn an_answer_beyond_its_context_is_a_record_that_cannot_be_used() {
    let bench = Bench::new();
    let model = bench.model("bert-spans");
    let record = |text: &str, start: u64| {
        let answers = serde_json::json!({ "text": [text], "answer_start": [start] });
        serde_json::json!({ "question": "what?", "context": "it is good", "answers": answers }).to_string() + "\n"
    };
    for start in [8, 11, u64::MAX] {
        for text in ["good", ""] {
            bench.write("q.jsonl", record(text, start) + &record("good", 6));
            if text.is_empty() && start == 8 {
                continue; // nothing, somewhere
            }
            let index = format!("index --model {model} --data q.jsonl --store s --quiet");
            let told = format!(
                "q.jsonl:1: answers: expected \"{text}\" at character {start} of the context, which ends at 10"
            );
            bench.fails(&index, &told);
            let explain = format!(
                "explain --model {model} --data q.jsonl --target gold --method saliency --quiet --skip-invalid"
            );
            let ran = bench.run(&explain);
            assert_eq!((ran.code, lines(&ran.out).len()), (Some(1), 1), "{}", ran.err);
        }
    }
}

#[test]
fn answers_are_explained_where_they_stand() {
    let bench = Bench::new();
    let model = bench.model("bert-spans");
    bench.write("q.json", QUESTIONS);
    let job = format!("explain --model {model} --data q.json --quiet --stride 4 --tolerance 0.001");
    let predicted = lines(&bench.ok(&format!("predict --model {model} --data q.json --quiet --stride 4")));
    for (explained, predicted) in lines(&bench.ok(&job)).iter().zip(&predicted) {
        assert_eq!(explained["target"], predicted["answer"]["text"]);
        assert_eq!(explained["span"]["start"], predicted["answer"]["start"]);
        assert_eq!(explained["converged"], true);
        let scores: f64 = explained["scores"].as_array().unwrap().iter().map(|score| score.as_f64().unwrap()).sum();
        let change = explained["output"].as_f64().unwrap() - explained["baseline_output"].as_f64().unwrap();
        assert!((scores - change).abs() <= 2e-3 * change.abs().max(1e-3), "{scores} of {change}");
    }
    let gold = lines(&bench.ok(&format!("{job} --target gold")));
    assert_eq!((&gold[0]["target"], &gold[1]["target"]), (&"near the station".into(), &"good".into()));
    bench.fails(&format!("{job} --target all"), "--target all");
    bench.fails(&format!("{job} --method attention-flow"), "flows from the first token");
    bench.fails(&format!("{job} --method occlusion --occlude delete"), "a deleted token would move");
    let results = format!("explain --model {model} --data q.json --quiet --stride 4 --out e.parquet");
    bench.ok(&results);
}

#[test]
fn words_are_tagged_scored_and_explained() {
    let bench = Bench::new();
    let model = bench.model("bert-tags");
    bench.write("t.jsonl", "{\"tokens\":[\"Anna\",\"loved\",\"the\",\"hotel\"],\"ner_tags\":[1,2,0,\"B-LOC\"]}\n");
    let record = lines(&bench.ok(&format!("predict --model {model} --data t.jsonl --quiet"))).remove(0);
    let (tokens, tags) = (record["tokens"].as_array().unwrap(), record["tags"].as_array().unwrap());
    assert_eq!((tokens.len(), tags[0].is_null(), tags[1].is_string()), (tags.len(), true, true));
    assert_eq!(record["label"], serde_json::json!(["B-PER", "I-PER", "O", "B-LOC"]));
    let gold =
        lines(&bench.ok(&format!("explain --model {model} --data t.jsonl --quiet --target gold --method saliency")));
    let targets: Vec<&Value> = gold.iter().map(|explained| &explained["target"]).collect();
    assert_eq!(targets, ["PER", "LOC"]);
    assert_eq!(gold[0]["span"], serde_json::json!({ "start": 0, "end": 10, "segment": 0 }));
    // Each line tells of what it explains alone, whatever else is in the text.
    assert_eq!((&gold[0]["label"], &gold[1]["label"]), (&json!(["PER: Anna loved"]), &json!(["LOC: hotel"])));
    for explained in &gold {
        let place = |of: &Value, end: &str| of[end].as_u64().unwrap();
        let overlaps = |entity: &&Value| {
            let span = &explained["span"];
            place(entity, "start") < place(span, "end") && place(span, "start") < place(entity, "end")
        };
        let named = |entity: &Value| {
            json!(format!("{}: {}", entity["type"].as_str().unwrap(), entity["text"].as_str().unwrap()))
        };
        let entities = record["entities"].as_array().unwrap();
        let expected: Vec<Value> = entities.iter().filter(overlaps).map(named).collect();
        assert_eq!(explained["predicted"], json!(expected));
    }
    let one = format!("explain --model {model} --data t.jsonl --quiet --token 1 --target I-LOC --output logit");
    let one = lines(&bench.ok(&one)).remove(0);
    assert_eq!((&one["target"], &one["predicted"]), (&json!("I-LOC"), &json!([tags[1]])));
    assert_eq!(one["label"], json!(["B-PER"]));
    assert!((0.0..=1.0).contains(&one["probability"].as_f64().unwrap()));
    bench.fails(&format!("explain --model {model} --data t.jsonl --target I-LOC"), "say at which with --token");
    bench
        .fails(&format!("explain --model {model} --data t.jsonl --token 0"), "token 0: expected one of the text's own");
    bench.write("bad.jsonl", "{\"tokens\":[\"a\"],\"ner_tags\":[0,0]}\n");
    bench.fails(&format!("predict --model {model} --data bad.jsonl"), "tags: expected 1, one a word, found 2");
}

#[test]
fn masks_are_filled_in_and_explained() {
    let bench = Bench::new();
    let model = bench.model("bert-masks");
    bench.write("m.jsonl", "{\"text\":\"The [MASK] was not [MASK].\"}\n");
    let record = lines(&bench.ok(&format!("predict --model {model} --data m.jsonl --quiet --top-k 3"))).remove(0);
    let masks = record["masks"].as_array().unwrap();
    assert_eq!((masks.len(), &masks[0]["start"], &masks[1]["end"]), (2, &4.into(), &25.into()));
    for mask in masks {
        let p: Vec<f64> =
            mask["fills"].as_array().unwrap().iter().map(|f| f["probability"].as_f64().unwrap()).collect();
        assert!(p.len() == 3 && p.is_sorted_by(|a, b| a >= b), "{p:?}");
    }
    let explained = lines(&bench.ok(&format!("explain --model {model} --data m.jsonl --quiet --method occlusion")));
    assert_eq!(explained.len(), 2);
    for (explained, mask) in explained.iter().zip(masks) {
        assert_eq!(explained["target"], mask["fills"][0]["token"]);
        assert_eq!(explained["predicted"], json!([explained["target"]]));
        // A mask is what is asked about, and scores nothing itself.
        let at = |name: &str| explained[name][mask["position"].as_u64().unwrap() as usize].clone();
        assert_eq!((at("scores"), at("offsets")), (0.0.into(), Value::Null));
    }
    let good = lines(
        &bench.ok(&format!("explain --model {model} --data m.jsonl --quiet --token 5 --target good --against bad")),
    );
    assert_eq!((good.len(), &good[0]["target"], &good[0]["against"]), (1, &"good".into(), &"bad".into()));
    bench.write("none.jsonl", "{\"text\":\"none here\"}\n");
    bench.fails(&format!("predict --model {model} --data none.jsonl"), "expected a [MASK] to fill in, found none");
    bench.fails(&format!("explain --model {model} --data m.jsonl --target gold"), "does not say what it hides");
}

#[test]
fn sentences_are_kept_by_what_speaks_for_the_answer() {
    let bench = Bench::new();
    let model = bench.model("bert-spans");
    let context = "The hotel is good. We love the food! Is it near? 服务很好。Two minutes.";
    let record = serde_json::json!({ "question": "Where?", "context": context, "answers": ["near"] });
    bench.write("q.jsonl", record.to_string());
    let job = format!("select --model {model} --data q.jsonl --quiet --stride 4");
    let all = lines(&bench.ok(&format!("{job} --threshold 0"))).remove(0);
    let sentences = all["sentences"].as_array().unwrap().clone();
    assert_eq!(sentences.len(), 5);
    assert!(sentences.iter().all(|sentence| sentence["kept"] == true));
    assert_eq!(all["answer"], all["plain_answer"], "all of a context is the context");
    let shares: f64 = sentences.iter().map(|sentence| sentence["score"].as_f64().unwrap()).sum();
    assert!((shares - 1.0).abs() < 1e-5, "{shares}");
    for method in ["occlusion", "integrated-gradients"] {
        let one = lines(&bench.ok(&format!("{job} --keep 1 --method {method}"))).remove(0);
        let kept: Vec<Value> =
            one["sentences"].as_array().unwrap().iter().filter(|sentence| sentence["kept"] == true).cloned().collect();
        assert_eq!(kept.len(), 1);
        // The answer stands in the kept sentence, and is what the whole context has there.
        let place = |of: &Value, end: &str| of[end].as_u64().unwrap() as usize;
        let (start, end) = (place(&one["answer"], "start"), place(&one["answer"], "end"));
        assert!(place(&kept[0], "start") <= start && end <= place(&kept[0], "end"));
        let text: String = context.chars().take(end).skip(start).collect();
        assert_eq!(one["answer"]["text"], text);
    }
    // The best span of what is kept would reach from the third sentence to the fifth.
    let context = "The hotel is good. We love the food! Is it near? 服务很好。 Two minutes.";
    bench.write("gap.jsonl", json!({ "question": "How is the food?", "context": context }).to_string());
    let gap = "--data gap.jsonl --quiet --stride 4 --threshold 0 --keep 3 --method saliency";
    let gap = lines(&bench.ok(&format!("select --model {model} {gap}"))).remove(0);
    assert_eq!(gap["sentences"][3]["kept"], false);
    let place = |end: &str| gap["answer"][end].as_u64().unwrap() as usize;
    let text: String = context.chars().take(place("end")).skip(place("start")).collect();
    assert_eq!(gap["answer"]["text"], text);
    let results = ["predict", "select --keep 1", "explain"].map(|command| {
        let file = format!("{}.jsonl", &command[..6]);
        bench.ok(&format!("{command} --model {model} --data q.jsonl --quiet --stride 4 --out {file}"));
        file
    });
    bench.ok(&format!("report {} --out page.html --quiet", results.join(" ")));
    let page = std::fs::read_to_string(bench.path("page.html")).unwrap();
    assert!(page.contains("<mark class=\"unseen\">"), "the page shows what was left out");
    assert!(page.contains("<mark class=\"t\">"), "the page shows what was found");
    bench.fails(&format!("{job} --threshold 2"), "--threshold: expected a share");
    let tags = bench.model("bert-tags");
    bench.write("t.jsonl", "{\"text\":\"a\"}\n");
    bench.fails(&format!("select --model {tags} --data t.jsonl"), "answers no questions");
}
