//! What needs no factors: shared words, and the records' own losses.

use std::collections::HashMap;

use serde_json::{Value, json};
use wherefore::lexical::Bm25;
use wherefore::search::Scorer;
use wherefore::store::{Shard, Store};

use super::{Bench, lines};

const TEXTS: [&str; 6] = [
    "the cat sat on the mat",
    "The dog chased the cat, and the cat ran.",
    "a dog is not a cat",
    "服务 很 差 not good",
    "dogs and mats",
    "cat",
];
const QUERIES: [&str; 4] = ["cat dog", "the the mat!", "服务", "nothing of it"];

fn indexed() -> Bench {
    let bench = Bench::new();
    let model = bench.model("bert-cls2");
    let line = |(i, text): (usize, &&str)| json!({ "id": i, "text": text, "label": i % 2 }).to_string() + "\n";
    bench.write("train.jsonl", TEXTS.iter().enumerate().map(line).collect::<String>());
    bench.write("test.jsonl", QUERIES.iter().enumerate().map(line).collect::<String>());
    bench.ok(&format!("index --model {model} --data train.jsonl --store store --block-records 4 --quiet"));
    bench
}

/// The words of a text in which every word is set apart by what is no letter.
fn words(text: &str) -> Vec<String> {
    let pieces = text.split(|c: char| !c.is_alphanumeric()).filter(|piece| !piece.is_empty());
    pieces.map(str::to_lowercase).collect()
}

/// BM25 as its formula reads, with the defaults that the documentation states.
fn bm25(query: &str, number: usize) -> f64 {
    let documents: Vec<Vec<String>> = TEXTS.iter().map(|text| words(text)).collect();
    let mean = documents.iter().map(Vec::len).sum::<usize>() as f64 / documents.len() as f64;
    let document = &documents[number];
    let mut counts: HashMap<String, f64> = HashMap::new();
    for word in words(query) {
        *counts.entry(word).or_default() += 1.0;
    }
    let term = |(word, times): (&String, &f64)| {
        let holding = documents.iter().filter(|document| document.contains(word)).count() as f64;
        let idf = (1.0 + (documents.len() as f64 - holding + 0.5) / (holding + 0.5)).ln();
        let found = document.iter().filter(|other| *other == word).count() as f64;
        times * idf * found * 2.2 / (found + 1.2 * (0.25 + 0.75 * document.len() as f64 / mean))
    };
    counts.iter().map(term).sum()
}

fn scores(result: &Value) -> Vec<(usize, f64)> {
    let hit =
        |hit: &Value| (hit["index"].as_u64().expect("a number") as usize, hit["score"].as_f64().expect("a score"));
    result["proponents"].as_array().expect("hits").iter().map(hit).collect()
}

#[test]
fn bm25_is_its_formula() {
    let bench = indexed();
    let found = lines(&bench.ok("search --store store --data test.jsonl --rule bm25 -k 6 --quiet"));
    for (query, found) in QUERIES.iter().zip(&found) {
        for (number, score) in scores(found) {
            // Sums of a few terms in f64, rounded once to f32.
            let (score, expected) = (f64::from(score as f32), bm25(query, number));
            assert!(
                (score - expected).abs() <= 2_f64.powi(-24) * 1.001 * expected,
                "{query:?} for {number}: {score} for {expected}"
            );
        }
    }
    assert_eq!(scores(&found[2])[0].0, 3);
}

#[test]
fn a_query_has_the_same_scores_in_any_company() {
    let bench = indexed();
    let together = lines(&bench.ok("search --store store --data test.jsonl --rule bm25 -k 6 --quiet"));
    for (query, together) in QUERIES.iter().zip(&together) {
        let mut command = bench.command("search --store store --rule bm25 -k 6 --quiet --threads 1 --format jsonl");
        let ran = super::Ran::from(command.args(["--text", query]).output().expect("it runs"));
        assert_eq!(lines(&ran.out)[0]["proponents"], together["proponents"]);
    }
    let own = lines(&bench.ok("search --store store --self --rule bm25 -k 1 --quiet"));
    assert_eq!(own[5]["proponents"][0]["index"], 1, "the text with most cats in few words");
}

#[test]
fn texts_that_memory_has_no_room_for_are_read_again_to_the_same_bits() {
    let bench = indexed();
    let store = Store::open(bench.path("store")).expect("the store");
    let found = |memory: usize| {
        let texts = Bm25::new(&store, memory).expect("counts");
        let queries = texts.queries(&QUERIES.map(str::to_owned));
        let of = |(number, shard): (usize, &Shard)| {
            let mut scores = vec![f32::NAN; 3 * shard.rows()];
            queries.score(number, 0..shard.rows(), &[1, 3, 2], &mut scores).expect("scores");
            scores.into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        (store.shards().iter().enumerate().map(of).collect::<Vec<_>>(), queries.bytes())
    };
    let (again, all) = found(0);
    assert_eq!(all, store.shards().iter().map(Shard::text_bytes).sum::<usize>());
    // Room for the first shard's words, for all but one number, and for all.
    for memory in [216, 271, 1 << 30] {
        let (scores, bytes) = found(memory);
        assert_eq!(scores, again, "{memory} bytes");
        assert_ne!(bytes, all, "{memory} bytes");
    }
}

#[test]
fn a_score_is_the_same_bits_whatever_is_asked_beside_it() {
    let bench = indexed();
    let store = Store::open(bench.path("store")).expect("the store");
    let texts = Bm25::new(&store, 1 << 30).expect("counts");
    let queries = texts.queries(&QUERIES.map(str::to_owned));
    let scores = |shard: usize, rows: std::ops::Range<usize>, asked: &[usize]| {
        let mut scores = vec![f32::NAN; asked.len() * rows.len()];
        queries.score(shard, rows, asked, &mut scores).expect("scores");
        scores.into_iter().map(f32::to_bits).collect::<Vec<_>>()
    };
    for (number, shard) in store.shards().iter().enumerate() {
        for asked in [&[0, 1, 2, 3][..], &[2, 0], &[1, 2], &[0, 1, 2, 3]] {
            let together = scores(number, 0..shard.rows(), asked);
            for (place, &query) in asked.iter().enumerate() {
                for row in 0..shard.rows() {
                    assert_eq!([together[place * shard.rows() + row]], *scores(number, row..row + 1, &[query]));
                }
            }
        }
    }
}

#[test]
fn losses_rank_records_whatever_the_query() {
    let bench = indexed();
    let found = lines(&bench.ok("search --store store --data test.jsonl --rule loss -k 6 --quiet"));
    let store = Store::open(bench.path("store")).expect("the store");
    let mut expected: Vec<(usize, f32)> =
        store.shards().iter().flat_map(|shard| shard.losses().iter().copied()).enumerate().collect();
    expected.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    for found in &found {
        let found: Vec<(usize, f32)> = scores(found).into_iter().map(|(i, score)| (i, score as f32)).collect();
        assert_eq!(found, expected);
    }
}
