//! `index` and `search` with models that say something of tokens, as a script meets them.

use serde_json::{Value, json};

use crate::cli::{Bench, lines};

const NAMES: [&str; 4] = ["Anna", "Otto", "Maria", "Lena"];
const PLACES: [&str; 3] = ["Bonn", "Berlin", "Paris"];

/// `n` sentences of words with tags, of two sources.
fn tagged(n: usize) -> String {
    let record = |i: usize| {
        let tokens = [NAMES[i % 4], "loved", "the", "hotel", "in", PLACES[i % 3], "."];
        let tokens = &tokens[..7 - i % 2];
        let tags: Vec<&str> = ["B-PER", "O", "O", "O", "O", "B-LOC", "O"][..tokens.len()].to_vec();
        let source = ["web", "mail"][i % 2];
        json!({ "id": format!("t{i}"), "tokens": tokens, "ner_tags": tags, "source": source }).to_string() + "\n"
    };
    (0..n).map(record).collect()
}

/// `n` questions about contexts of one window and of several, some without an answer.
fn asked(n: usize) -> String {
    let record = |i: usize| {
        let context =
            format!("In {} we read a book. {}The food is good.", PLACES[i % 3], "The hotel is near. ".repeat(i % 4));
        let answers = if i % 5 == 4 { json!({ "text": [], "answer_start": [] }) } else { json!([PLACES[i % 3]]) };
        json!({ "id": format!("q{i}"), "question": "Where do we read?", "context": context, "answers": answers })
            .to_string()
            + "\n"
    };
    (0..n).map(record).collect()
}

fn masked(n: usize) -> String {
    let record = |i: usize| {
        let (last, label) = [("good", "hotel"), ("near", "food")][i % 2];
        json!({ "id": format!("m{i}"), "text": format!("The [MASK] was {last}."), "label": label }).to_string() + "\n"
    };
    (0..n).map(record).collect()
}

fn hits<'a>(result: &'a Value, end: &str) -> &'a Vec<Value> {
    result[end].as_array().expect("an end")
}

#[test]
fn training_questions_are_found_for_an_answer() {
    let bench = Bench::new();
    let model = bench.model("bert-spans");
    bench.write("train.jsonl", asked(12));
    bench.ok(&format!("index --model {model} --data train.jsonl --store store --stride 4 --quiet"));
    bench.ok("store verify store");
    assert!(bench.ok("store info store").contains(r#""tokens":{"task":"spans""#));
    let results =
        lines(&bench.ok("search --store store --data train.jsonl --target gold --rule grad-dot -k 3 --quiet"));
    assert_eq!(results.len(), 12);
    for (i, result) in results.iter().enumerate() {
        let answer = if i % 5 == 4 { "" } else { PLACES[i % 3] };
        assert_eq!((&result["target"], &result["text"]), (&json!(answer), &json!("Where do we read?")));
        let near = hits(result, "proponents");
        let parts = near[0]["parts"].as_array().unwrap();
        assert!(parts.iter().all(|part| part["target"] == "start" || part["target"] == "end"));
        assert!(near.iter().all(|near| near["label"].is_array() && near["predicted"].is_string()));
        // A gradient is nearest to itself by the cosine.
        assert!(near[0]["score"].as_f64() > hits(result, "opponents")[0]["score"].as_f64());
    }
    let predicted = lines(&bench.ok(&format!("predict --model {model} --data train.jsonl --stride 4 --quiet")));
    for (result, predicted) in
        lines(&bench.ok("search --store store --data train.jsonl --quiet")).iter().zip(&predicted)
    {
        assert_eq!(
            (&result["predicted"], &result["target"]),
            (&predicted["answer"]["text"], &predicted["answer"]["text"])
        );
        assert_eq!(result["span"]["start"], predicted["answer"]["start"]);
    }
    let own = lines(&bench.ok("search --store store --data train.jsonl --target gold --rule grad-cos -k 1 --quiet"));
    for (i, result) in own.iter().enumerate() {
        let score = hits(result, "proponents")[0]["score"].as_f64().unwrap();
        assert!((score - 1.0).abs() < 1e-6, "{i}: {score}");
    }
    bench.fails("search --store store --self --rule representer", "needs all tokens' features, and the store has none");
    bench.fails("search --store store --data train.jsonl --rule representer --memory 0", "more than the search may");
    bench.fails(
        "search --store store --data train.jsonl --rule representer --representer-compat trustai",
        "answers are places",
    );
    let points = lines(&bench.ok("search --store store --data train.jsonl --target gold --rule representer --quiet"));
    for result in &points {
        for near in hits(result, "proponents") {
            let parts = near["parts"].as_array().unwrap();
            let sum: f64 = parts.iter().map(|part| part["score"].as_f64().unwrap()).sum();
            // Five are shown.
            assert!(
                parts.len() == 5 || (sum - near["score"].as_f64().unwrap()).abs() < 1e-4,
                "parts add up to a score: {near}"
            );
        }
    }
    bench.fails("search --store store --data train.jsonl --target Bonn", "expected predicted or gold, for answers");
    bench.fails("search --store store --data train.jsonl --token 3", "says nothing of single tokens");
    bench.write("long.jsonl", asked(1).replace("[\"Bonn\"]", "[\"In Bonn we read a book. The food is good.\"]"));
    bench.fails(
        &format!("index --model {model} --data long.jsonl --store other --stride 1 --max-length 16"),
        "the answer is whole in no window",
    );
    for rule in ["feature-cos", "feature-euc", "bm25", "loss", "grad-cos", "influence", "relatif"] {
        bench.ok(&format!("search --store store --self --rule {rule} --quiet"));
        bench.ok(&format!("search --store store --data train.jsonl --rule {rule} --quiet"));
    }
    bench.ok("search --store store --data train.jsonl --rule relatif --hessian kronecker --quiet");
}

/// Every entity of the right tags, in order, is a question of its words alone, and neighbours tell which of theirs it
/// met.
fn each_entity_asks_for_itself(bench: &Bench, search: impl Fn(&str) -> Vec<Value>) {
    let all = search("--entity all --target gold --rule grad-dot -k 3");
    let asked: Vec<(&Value, &Value, &Value)> =
        all.iter().map(|result| (&result["index"], &result["target"], &result["span"]["start"])).collect();
    let expected = [(0, "PER: Anna", 0), (0, "LOC: Bonn", 24), (1, "PER: Otto", 0), (1, "LOC: Berlin", 24)]
        .map(|(index, target, start)| (json!(index), json!(target), json!(start)));
    assert_eq!(asked, expected.iter().map(|(a, b, c)| (a, b, c)).collect::<Vec<_>>());
    // What is said of the text's other entities is told with those.
    assert!(all.iter().all(|result| result["label"] == json!([result["target"]])));
    // A name of one word is its first token, which can be asked about by itself.
    let one = search("--entity 0 --target gold --rule grad-dot -k 3");
    let token = search("--token 1 --target gold --rule grad-dot -k 3");
    for (one, token) in one.iter().zip(&token) {
        assert_eq!((&one["probability"], &one["span"]["start"]), (&token["probability"], &token["span"]["start"]));
        assert_eq!(one["proponents"], token["proponents"]);
        assert_eq!(token["label"], json!([token["target"]]));
    }
    assert_eq!(one[0], all[0]);
    for near in all.iter().flat_map(|result| hits(result, "proponents")) {
        let text: Vec<char> = near["text"].as_str().unwrap().chars().collect();
        let entities = near["entities"].as_array().unwrap();
        assert_eq!(entities.len(), 2);
        for entity in entities {
            let place = |end: &str| entity[end].as_u64().unwrap() as usize;
            assert_eq!(entity["text"], text[place("start")..place("end")].iter().collect::<String>());
            assert!(["PER", "LOC"].contains(&entity["target"].as_str().unwrap()));
            let own = near["parts"].as_array().unwrap().iter().find(|part| part["start"] == entity["start"]);
            assert!(own.is_none_or(|part| part["score"] == entity["score"]), "an entity of one word is that word");
        }
    }
    for rule in ["grad-cos", "feature-cos", "influence", "relatif", "bm25", "loss"] {
        assert_eq!(search(&format!("--entity all --target gold --rule {rule}")).len(), 4, "{rule}");
    }
    let predicted = search("--entity all");
    assert!(predicted.iter().all(|result| result["predicted"] == json!([result["target"]])));
    bench.ok("search --store store --data test.jsonl --entity all --target gold --quiet --out e.parquet");
    bench.fails(
        "search --store store --data test.jsonl --target gold --entity 2",
        "entity 2: expected one of the text's own",
    );
    bench.fails("search --store store --data test.jsonl --entity all --target B-PER", "say at which with --token");
}

/// A text longer than the model is read in windows, by every command alike.
#[test]
fn long_texts_are_tagged_to_their_end() {
    let bench = Bench::new();
    let model = bench.model("bert-tags");
    let (words, tags): (Vec<&str>, Vec<&str>) =
        (0..90).map(|i| [("Anna", "B-PER"), ("loved", "O"), ("Bonn", "B-LOC")][i % 3]).unzip();
    bench.write("long.jsonl", json!({ "id": "long", "tokens": words, "ner_tags": tags }).to_string() + "\n");
    let record = lines(&bench.ok(&format!("predict --model {model} --data long.jsonl --quiet --stride 8"))).remove(0);
    let (tokens, offsets) = (record["tokens"].as_array().unwrap(), record["offsets"].as_array().unwrap());
    assert!(tokens.len() > 92 && tokens.len() == record["tags"].as_array().unwrap().len());
    let length = record["text"].as_str().unwrap().chars().count();
    assert_eq!(offsets[offsets.len() - 2][1], length);
    // Explained in the window that shows most around it: the last is in the last window.
    let explain =
        format!("explain --model {model} --data long.jsonl --quiet --stride 8 --method saliency --target gold");
    let explained = lines(&bench.ok(&explain));
    assert_eq!(explained.len(), 60);
    for (i, one) in explained.iter().enumerate() {
        assert_eq!(one["target"], ["PER", "LOC"][i % 2]);
        let (span, offsets) = (&one["span"], one["offsets"].as_array().unwrap());
        assert!(offsets.len() <= 48);
        let place = offsets.iter().position(|offset| offset[0] == span["start"]).expect("its window has it");
        let around = (place - 1).min(offsets.len() - 2 - place);
        assert!(around >= 3 || place < 24 && i < 30 || place >= 24 && i >= 30, "{i} at {place} of {}", offsets.len());
    }
    let last = offsets.iter().position(|offset| offset[0] == length - 4).expect("the last word's first token");
    let one = lines(&bench.ok(&format!("{explain} --token {last}"))).remove(0);
    assert_eq!((&one["target"], &one["span"]["start"]), (&json!("B-LOC"), &json!(length - 4)));
    // A factor a word, and its parts reach the end.
    bench.write("train.jsonl", tagged(6));
    bench.ok(&format!("index --model {model} --data long.jsonl train.jsonl --store store --stride 8 --quiet"));
    bench.ok("store verify store");
    let found = lines(
        &bench.ok("search --store store --data long.jsonl --entity 59 --target gold --rule grad-dot -k 7 --quiet"),
    );
    assert_eq!((&found[0]["target"], &found[0]["span"]["end"]), (&json!("LOC: Bonn"), &json!(length)));
    assert_eq!(hits(&found[0], "proponents").len(), 7);
    let one = |stride: usize| {
        bench.ok(&format!("index --model {model} --data train.jsonl --store short-{stride} --stride {stride} --quiet"));
        std::fs::read(bench.path(&format!("short-{stride}/shard-00000.safetensors"))).unwrap()
    };
    assert_eq!(one(4), one(100), "what fits is one window, whatever they share");
    // Each of its words is learnt from once, and all of them are judged.
    let train = format!("train --model {model} --stride 8 --epochs 1 --quiet");
    bench.ok(&format!("{train} --data long.jsonl --dev train.jsonl --out of-long"));
    bench.ok(&format!("{train} --data train.jsonl --dev long.jsonl --out on-long"));
    let run = |name: &str| -> Value {
        serde_json::from_slice(&std::fs::read(bench.path(&format!("{name}.run.json"))).unwrap()).unwrap()
    };
    let windows = run("of-long")["records"]["windows"].as_u64().unwrap();
    assert!(windows > 2, "{windows}");
    let dev = &run("on-long")["epochs"][0]["dev"];
    assert_eq!(dev["records"], 1, "{dev}");
}

#[test]
fn training_entities_are_found_for_a_tag() {
    let bench = Bench::new();
    let model = bench.model("bert-tags");
    bench.write("train.jsonl", tagged(20));
    bench.write("test.jsonl", tagged(2));
    bench.ok(&format!("index --model {model} --data train.jsonl --store store --keep-column source --quiet"));
    let search =
        |arguments: &str| lines(&bench.ok(&format!("search --store store --data test.jsonl --quiet {arguments}")));
    let gold = search("--target gold");
    assert_eq!(gold[0]["target"], json!(["PER: Anna", "LOC: Bonn"]));
    assert_eq!(hits(&gold[0], "proponents")[0]["label"], json!(["PER: Anna", "LOC: Bonn"]));
    let one = search("--token 1 --target B-PER --rule grad-dot");
    assert_eq!((&one[0]["target"], &one[0]["span"]["start"]), (&json!("B-PER"), &json!(0)));
    assert!((0.0..=1.0).contains(&one[0]["probability"].as_f64().unwrap()));
    let parts = hits(&one[0], "proponents")[0]["parts"].as_array().unwrap();
    let text = hits(&one[0], "proponents")[0]["text"].as_str().unwrap();
    assert_eq!(parts.len(), 5);
    for part in parts {
        let place = |end: &str| part[end].as_u64().unwrap() as usize;
        assert_eq!(part["text"], text[place("start")..place("end")]);
    }
    assert!(parts.is_sorted_by(|a, b| a["score"].as_f64().unwrap().abs() >= b["score"].as_f64().unwrap().abs()));
    for rule in ["influence", "relatif", "representer", "feature-dot", "grad-cos", "bm25", "loss"] {
        assert_eq!(hits(&search(&format!("--rule {rule}"))[0], "proponents").len(), 10, "{rule}");
    }
    let all: Vec<Value> = search("--top-k all");
    assert_eq!(hits(&all[0], "proponents").len(), 20);
    let count = |condition: &str| hits(&search(&format!("--where {condition} -k 20"))[0], "proponents").len();
    assert_eq!([count("label=LOC"), count("label=ORG"), count("label!=ORG")], [20, 0, 20]);
    assert_eq!(count("wrong") + count("right"), 20);
    let groups = search("--group-by source -k 3");
    let of: Vec<&Value> = groups[0]["groups"].as_array().unwrap().iter().map(|group| &group["group"]).collect();
    assert_eq!(of, ["mail", "web"]);
    assert!(groups[0]["groups"][0]["total"].is_number());
    each_entity_asks_for_itself(&bench, search);
    bench.fails("search --store store --data test.jsonl --group-by label", "have no one class");
    bench.fails("search --store store --data test.jsonl --target B-PER", "say at which with --token");
    bench.fails("search --store store --data test.jsonl --token 0", "token 0: expected one of the text's own");
    bench.fails("export --store store --out out.parquet", "a record has several factors");
    bench.ok("audit redundant --store store --quiet");
    for (option, reason) in
        [("--dtype f16", "--dtype"), ("--scan int8", "--scan"), ("--gradients projected", "--gradients projected")]
    {
        bench.fails(&format!("index --model {model} --data train.jsonl --store other {option}"), reason);
    }
    bench.ok("search --store store --data test.jsonl --out r.parquet --quiet");
    bench.ok("search --store store --data test.jsonl --out r.jsonl --quiet");
    bench.ok("report r.jsonl --out page.html --quiet");
    let page = std::fs::read_to_string(bench.path("page.html")).unwrap();
    assert!(page.contains("<p class=\"parts\">"), "the page shows which words weigh most");
    assert!(bench.ok("search --store store --data test.jsonl --format text --quiet").contains(" · "));
}

#[test]
fn masked_records_are_found_for_a_piece() {
    let bench = Bench::new();
    let model = bench.model("bert-masks");
    bench.write("train.jsonl", masked(8));
    bench.ok(&format!("index --model {model} --masks --data train.jsonl --store store --quiet"));
    let one = lines(&bench.ok("search --store store --data train.jsonl --target gold -k 2 --quiet")).remove(0);
    assert_eq!((&one["target"], &one["label"]), (&json!(["hotel"]), &json!(["hotel"])));
    let near = &hits(&one, "proponents")[0];
    assert_eq!((&near["label"], &near["parts"][0]["target"]), (&json!(["hotel"]), &json!("hotel")));
    let named = lines(&bench.ok("search --store store --data train.jsonl --target food --token 2 --quiet")).remove(0);
    assert_eq!((&named["target"], &named["span"]["start"]), (&json!("food"), &json!(4)));
    bench.write("bad.jsonl", "{\"text\":\"[MASK] and [MASK]\",\"label\":\"hotel\"}\n");
    bench.fails(
        &format!("index --model {model} --masks --data bad.jsonl --store s2"),
        "expected 2 pieces, one a mask, found 1",
    );
    bench.write("odd.jsonl", "{\"text\":\"[MASK]\",\"label\":\"nosuchpiece\"}\n");
    bench.fails(&format!("index --model {model} --masks --data odd.jsonl --store s3"), "is no piece of the vocabulary");
    let tags = bench.model("bert-tags");
    bench.fails(&format!("index --model {tags} --masks --data train.jsonl --store s4"), "is no masked-language model");
}

/// The same bytes and results however the work is cut.
#[test]
fn a_store_of_several_factors_does_not_depend_on_how_it_was_made() {
    for (case, data, more, index) in [
        ("bert-spans", asked(23), asked(29), "--stride 4"),
        ("bert-tags", tagged(23), tagged(29), ""),
        ("bert-masks", masked(23), masked(29), "--masks"),
    ] {
        let bench = Bench::new();
        let model = bench.model(case);
        let rest: String = more.split_inclusive('\n').skip(23).collect();
        bench.write("train.jsonl", &data);
        bench.write("all.jsonl", &more);
        bench.write("rest.jsonl", &rest);
        let make = |store: &str, data: &str, options: &str| {
            bench.ok(&format!(
                "index --model {model} --data {data} --store {store} --block-records 8 --quiet {index} {options}"
            ));
        };
        make("whole", "train.jsonl", "");
        make("small", "train.jsonl", "--batch-tokens 40 --threads 1");
        assert_eq!(bench.contents("whole"), bench.contents("small"), "{case}: batches and threads");
        make("part0", "train.jsonl", "--shard 0/2");
        make("part1", "train.jsonl", "--shard 1/2");
        bench.ok("merge --store merged part0 part1 --quiet");
        assert_eq!(bench.contents("whole"), bench.contents("merged"), "{case}: shards");
        make("grown", "train.jsonl", "");
        make("grown", "rest.jsonl", "--append");
        make("at-once", "all.jsonl", "");
        assert_eq!(bench.contents("grown"), bench.contents("at-once"), "{case}: appending");

        let search = |store: &str, options: &str| {
            bench.ok(&format!("search {store} --data train.jsonl --target gold --rule grad-cos --quiet {options}"))
        };
        let all = search("--store whole", "-k 5");
        assert_eq!(all, search("--store part0 --store part1", "-k 5 --threads 1"), "{case}: shards side by side");
        let line = data.lines().nth(7).unwrap();
        bench.write("one.jsonl", format!("{line}\n"));
        let one = bench.ok("search --store whole --data one.jsonl --target gold --rule grad-cos -k 5 --quiet");
        let with_index = |mut value: Value| {
            value["index"] = json!(0);
            value
        };
        let together = lines(&all).remove(7);
        assert_eq!(with_index(lines(&one).remove(0)), with_index(together), "{case}: a query alone");
        // A record asks as it was indexed.
        let own = lines(&bench.ok("search --store whole --self --rule grad-cos -k 5 --quiet"));
        let asked = lines(&bench.ok(
            "search --store whole --data train.jsonl --target gold --rule grad-cos -k 5 --exclude-same-id --quiet",
        ));
        let ends = |result: &Value| (result["proponents"].clone(), result["opponents"].clone());
        assert!(own.iter().zip(&asked).all(|(own, asked)| ends(own) == ends(asked)), "{case}: --self");

        bench.ok("store remove whole --indexes 3,9");
        bench.ok("store verify whole");
        let left = search("--store whole", "--top-k all");
        let kept = search("--store merged", "--top-k all");
        for (left, kept) in lines(&left).iter().zip(lines(&kept)) {
            let scores = |result: &Value| -> Vec<(Value, Value)> {
                let hits = hits(result, "proponents").iter().map(|hit| (hit["index"].clone(), hit["score"].clone()));
                hits.filter(|(index, _)| *index != 3 && *index != 9).collect()
            };
            assert_eq!(scores(left), scores(&kept), "{case}: removal");
        }
        let chosen = search("--store merged", "--where id!=x -k 5");
        assert_eq!(all, chosen, "{case}: a condition that all meet");
    }
}

#[test]
fn checkpoints_are_factors_of_the_same_words() {
    let bench = Bench::new();
    let model = bench.model("bert-tags");
    bench.write("train.jsonl", tagged(6));
    bench.ok(&format!("index --model {model} --data train.jsonl --store store --checkpoint {model}:0.5 --checkpoint {model}:0.25 --quiet"));
    let of = |rule: &str| {
        lines(&bench.ok(&format!("search --store store --data train.jsonl --target gold --rule {rule} --quiet")))
    };
    for (tracin, dot) in of("tracin").iter().zip(of("grad-dot")) {
        for (a, b) in hits(tracin, "proponents").iter().zip(hits(&dot, "proponents")) {
            let (a, b) = (a["score"].as_f64().unwrap(), 0.75 * b["score"].as_f64().unwrap());
            assert!((a - b).abs() <= 1e-5 * b.abs().max(1e-3), "{a} for {b}");
        }
    }
}
