//! Tests of the page: what it holds, that it holds it safely, and that it loads nothing.

use serde_json::json;
use wherefore::report::{
    AnswerSpan, Explanation, Finding, GlobalImportance, NeighbourGroup, NeighbourPart, Page, PageOptions, PairDetail,
    Render, ResultRecord, SpanPrediction, TagPrediction, TargetSpan, WordScore,
};

use super::{explanation, neighbour, prediction, search};

fn render(records: impl IntoIterator<Item = ResultRecord>) -> String {
    render_with(PageOptions::default(), records)
}

fn render_with(options: PageOptions, records: impl IntoIterator<Item = ResultRecord>) -> String {
    let mut page = Page::new(options);
    records.into_iter().for_each(|record| page.add(record));
    page.render().unwrap()
}

fn add(page: &mut Page, records: Vec<ResultRecord>) {
    for record in records {
        page.add(record);
    }
}

fn explained(record: Explanation) -> ResultRecord {
    ResultRecord::Explanation(record)
}

fn count(page: &str, what: &str) -> usize {
    page.matches(what).count()
}

#[test]
fn words_carry_their_sign_their_strength_and_their_score() {
    let record = Explanation { rationale: vec![0], ..explanation("a", 0, "win a prize", &[0.5, 0.001, -0.25]) };
    let page = render([explained(record)]);
    assert!(page.contains(r#"<mark class="p r" style="--w:1.00" title="+0.500">win</mark> "#));
    assert!(page.contains(r#"<mark title="+0.001">a</mark> "#));
    assert!(page.contains(r#"<mark class="n" style="--w:0.50" title="-0.250">prize</mark>"#));
    assert!(page.contains(r#"<span class="chip p">win <span class="number">+0.50</span></span>"#));
}

#[test]
fn methods_that_know_no_sides_have_a_colour_of_their_own() {
    let page = |method: &str| {
        let record = Explanation { rationale: vec![0], method: method.into(), ..explanation("a", 0, "win", &[0.5]) };
        render([explained(record)])
    };
    for method in ["saliency", "attention-rollout"] {
        let page = page(method);
        assert!(page.contains("<mark class=\"m r\"") && page.contains("<span class=\"chip m\">"), "{method}");
        assert!(page.contains("not for which side"), "{method}");
    }
    assert!(!page("lime").contains("not for which side"));
}

#[test]
fn a_logit_has_its_probability_as_the_bar() {
    let logit = Explanation { output: 2.5, probability: Some(0.9), ..explanation("a", 0, "x", &[1.0]) };
    let page = render([explained(logit)]);
    assert!(page.contains("probability 90.0 %") && page.contains("<span class=\"number\">0.900</span>"));
    assert!(page.contains("<span class=\"soft number\">logit 2.500</span>"), "the logit says what it is");
    let record = Explanation { output: 2.5, probability: Some(0.9), ..explanation("a", 0, "x", &[1.0]) };
    assert!(record.render(false).contains("probability 0.900: logit 2.500, 0.500 at the baseline"));
    assert!(page.contains("predicted <b>ham</b> <span class=\"number\">0.900</span>"));
    let outside = Explanation { output: 2.5, ..explanation("a", 0, "x", &[1.0]) };
    assert!(!render([explained(outside)]).contains("aria-label=\"probability"));
}

#[test]
fn diagnostics_stand_below_and_what_did_not_converge_is_a_warning() {
    let record = Explanation { converged: Some(false), r_squared: Some(0.5), ..explanation("a", 0, "x", &[1.0]) };
    let page = render([explained(record)]);
    let expected = "<span>50 steps</span><span>convergence delta -1.2e-3</span>\
                    <span class=\"warn\">not converged</span><span>R² 0.500</span>";
    assert!(page.contains(expected));
    assert!(page.contains("(1 not converged)"));
}

#[test]
fn results_of_one_record_come_together() {
    let lime = Explanation { method: "lime".into(), ..explanation("a", 0, "x y", &[1.0, 0.5]) };
    let other = Explanation { target: "spam".into(), ..explanation("a", 0, "x y", &[-1.0, 0.5]) };
    let page = render([
        explained(explanation("a", 0, "x y", &[1.0, 0.5])),
        explained(explanation("b", 1, "z", &[1.0])),
        ResultRecord::Search(search("a", 0, "x y")),
        explained(lime),
        ResultRecord::Prediction(prediction("a", 0)),
        explained(other),
    ]);
    assert_eq!(count(&page, "<article"), 2);
    let first = &page[page.find("<article").unwrap()..page.find("</article>").unwrap()];
    assert_eq!(count(first, "<section class=\"panel\">"), 3);
    for expected in [
        "<h3>integrated-gradients</h3>",
        "<h3>lime</h3>",
        "why <b>spam</b>",
        "grad-cos",
        "much like it",
        "nothing like it",
    ] {
        assert!(first.contains(expected), "{expected}");
    }
    assert!(first.contains("predicted <b>ham</b> <span class=\"number\">0.750</span>"));
    assert!(first.contains("✗ label <b>spam</b>"), "the search told its label first");
}

#[test]
fn records_of_other_data_with_the_same_number_are_others() {
    let bare = |text: &str| Explanation { words: Vec::new(), ..explanation("0", 0, text, &[1.0, 0.5]) };
    let cards = |records: &[(&str, ResultRecord)]| {
        let mut page = Page::new(PageOptions::default());
        for (data, record) in records {
            page.begin(std::path::Path::new("r.jsonl"));
            if !data.is_empty() {
                page.of_data(data);
            }
            page.add(record.clone());
        }
        count(&page.render().unwrap(), "<article")
    };
    let of = |text: &str| explained(explanation("0", 0, text, &[1.0, 0.5]));
    let asked = |text: &str| ResultRecord::Search(search("0", 0, text));
    let predicted = |id: &str| ResultRecord::Prediction(prediction(id, 0));
    assert_eq!(cards(&[("", of("x y")), ("", asked("x y")), ("", asked("z y")), ("", of("z y"))]), 2);
    assert_eq!(cards(&[("", of("x y")), ("", of("z y")), ("", of("x y"))]), 2);
    // Other bytes of the same texts; and what tells no texts goes by the data, unless ids tell records apart.
    assert_eq!(cards(&[("1", of("x y")), ("2", asked("x y")), ("2", predicted("0")), ("", predicted("0"))]), 1);
    assert_eq!(cards(&[("1", of("x y")), ("2", predicted("0")), ("2", explained(bare("z y")))]), 2);
    assert_eq!(cards(&[("1", predicted("0")), ("2", asked("x y")), ("1", asked("x z"))]), 2);
    assert_eq!(cards(&[("1", predicted("a")), ("2", predicted("a"))]), 1);
    // Cut into other words they are the same.
    let mut characters = explanation("0", 0, "x y", &[1.0, 0.5]);
    characters.words.insert(1, WordScore { text: " ".into(), start: 1, end: 2, segment: 0, score: 0.1 });
    assert_eq!(cards(&[("", of("x y")), ("", explained(characters))]), 1);
}

#[test]
fn a_text_is_shown_as_it_is_where_a_result_tells_it() {
    let mut record = explanation("a", 0, "one two", &[0.5, 0.25]);
    (record.words[1].start, record.words[1].end) = (5, 8);
    let page = render([explained(record), ResultRecord::Search(search("a", 0, "one\n\ttwo three"))]);
    assert!(page.contains("one</mark>\n\t<mark"));
    assert!(page.contains("<span class=\"unseen\" title=\"no token: beyond what the model read\"> three</span>"));
}

#[test]
fn words_that_are_not_where_the_text_has_them_are_shown_by_themselves() {
    let page = render([
        explained(explanation("a", 0, "one two", &[0.5, 0.25])),
        ResultRecord::Search(search("a", 0, "another")),
    ]);
    assert!(page.contains("one</mark> <mark"));
    assert!(!page.contains("<span class=\"unseen\""));
}

#[test]
fn pairs_have_two_texts_and_wordless_records_show_tokens() {
    let mut pair = explanation("a", 0, "one", &[0.5]);
    pair.words.push(WordScore { text: "two".into(), start: 0, end: 3, segment: 1, score: -0.5 });
    let wordless = Explanation { words: Vec::new(), ..explanation("b", 1, "three", &[0.5]) };
    let page = render([explained(pair), explained(wordless)]);
    assert_eq!(count(&page, "<p class=\"text\""), 3);
    assert!(
        page.contains(
            r#"<mark title="0.000">[CLS]</mark> <mark class="p" style="--w:1.00" title="+0.500">three</mark> "#
        )
    );
}

/// What must not come out as it went in.
const HOSTILE: &str =
    r#"</script><script>alert("x")</script><img src=x onerror='alert(1)'> <!-- {{ 7 * 7 }} & "q" 'q'"#;

#[test]
fn every_text_is_escaped() {
    let hostile = || json!(HOSTILE);
    let mut record = explanation(HOSTILE, 0, HOSTILE, &[0.5, -0.25, 0.125, 0.5, 0.25, 1.0, 0.5, 0.5]);
    record.method = HOSTILE.into();
    record.target = HOSTILE.into();
    record.against = Some(HOSTILE.into());
    record.predicted = hostile();
    record.label = Some(json!([HOSTILE, "x"]));
    record.rationale = (0..record.words.len()).collect();
    let mut found = search(HOSTILE, 0, HOSTILE);
    (found.rule, found.predicted, found.target) = (HOSTILE.into(), hostile(), hostile());
    found.text_pair = Some(HOSTILE.into());
    found.proponents = vec![neighbour(1, 0.5, HOSTILE)];
    let near = &mut found.proponents[0];
    (near.id, near.label, near.predicted, near.text_pair) =
        (HOSTILE.into(), Some(hostile()), Some(json!("y")), Some(HOSTILE.into()));
    let mut told = prediction(HOSTILE, 0);
    told.probabilities.0[0].0 = HOSTILE.into();
    let mut records = vec![explained(record), ResultRecord::Search(found), ResultRecord::Prediction(told)];
    // Past the cards that stand in the page, and labels enough for the filter.
    for i in 1..30 {
        let mut plain = explanation(HOSTILE, i, HOSTILE, &[0.5; 8]);
        (plain.predicted, plain.label) = (hostile(), Some(json!(format!("{HOSTILE}{i}"))));
        records.push(explained(plain));
    }
    let options = PageOptions { title: Some(HOSTILE.into()), sources: vec![HOSTILE.into()], ..PageOptions::default() };
    let page = render_with(options, records);
    let benign = render((0..30).map(|i| explained(explanation("a", i, "x", &[1.0]))));
    assert_eq!(count(&page, "<script"), count(&benign, "<script"));
    assert_eq!(count(&page, "</script"), count(&benign, "</script"));
    for raw in ["alert(\"", "<img", "onerror='", "<!--", "49", "& \"q"] {
        assert!(!page.contains(raw), "{raw} is in the page");
    }
    assert!(page.contains("&lt;img"));
    let tags: std::collections::BTreeSet<_> = tags(&page).collect();
    let known = [
        "a", "article", "b", "body", "button", "code", "details", "div", "footer", "form", "h1", "h2", "h3", "h4",
        "head", "header", "html", "i", "input", "label", "li", "main", "mark", "meta", "noscript", "ol", "option",
        "output", "p", "script", "section", "select", "span", "style", "summary", "title", "ul",
    ];
    assert!(tags.iter().all(|tag| known.contains(&tag.as_str())), "{tags:?}");
}

/// The names of all opening tags, in scripts too (ours compare with a space after `<`).
fn tags(page: &str) -> impl Iterator<Item = String> {
    page.split('<')
        .skip(1)
        .map(|rest| rest.chars().take_while(char::is_ascii_alphanumeric).collect())
        .filter(|tag: &String| !tag.is_empty())
}

#[test]
fn the_page_loads_nothing() {
    let page = render([explained(explanation("a", 0, "x", &[1.0])), ResultRecord::Search(search("a", 0, "x"))]);
    for reference in
        ["http:", "https:", "//cdn", " src=", " href=", "url(", "@import", "fetch(", "XMLHttpRequest", "import("]
    {
        assert!(!page.contains(reference), "{reference} is in the page");
    }
    assert!(page.contains("default-src 'none'"));
}

#[test]
fn cards_beyond_the_first_wait_as_text() {
    let page = render((0..50).map(|i| explained(explanation(&format!("r{i}"), i, "x", &[1.0]))));
    assert_eq!((count(&page, "<article"), count(&page, "<script type=\"text/html\" data-card")), (50, 30));
    assert!(!page.contains("not on this page"), "nothing is left out");
    assert!(page.contains("addEventListener(\"beforeprint\""), "and all of them are printed");
}

#[test]
fn texts_that_are_cut_open_wherever_they_are() {
    let page = render(audited([doubted(1, "spam")]));
    assert!(page.contains("<p class=\"told\"") && page.contains("document.addEventListener(\"keydown\""));
    assert!(page.contains("closest(\".told.long\")") && !page.contains("cards.addEventListener"), "not of cards alone");
    assert!(!page.contains("overflow-wrap: anywhere; cursor: pointer"), "what is whole does not seem to open");
}

#[test]
fn all_that_is_looked_at_is_in_main_and_within_reach_of_a_keyboard() {
    let mapped = json!({ "rank": 1, "index": 0, "id": "m", "score": 0.5, "region": "easy", "confidence": 0.9, "variability": 0.1,
                         "correctness": 1.0, "forgotten": 0, "learned_in": 0, "text": "x" });
    let lds = json!({ "yardstick": "lds", "rule": "grad-cos", "lds": { "mean": 0.5, "low": 0.4, "high": 0.6 } });
    let mut records = audited([mapped, lds, doubted(1, "spam")]);
    records.push(explained(explanation("a", 0, "x", &[1.0])));
    let page = render(records);
    let main = &page[page.find("<main>").unwrap()..page.find("</main>").unwrap()];
    assert_eq!(
        (count(main, "<article"), count(&page, "<section class=\"card"), count(main, "<section class=\"card")),
        (1, 3, 3)
    );
    assert!(page.contains("<canvas role=\"img\" tabindex=\"0\"") && page.contains("touch-action: pan-y"));
    assert_eq!((count(&page, "<div class=\"scroll\""), count(&page, "<div class=\"scroll\" tabindex=\"0\">")), (1, 1));
}

#[test]
fn what_is_left_out_is_told() {
    let options = PageOptions { limit: 3, ..PageOptions::default() };
    let mut records: Vec<_> = (0..5).map(|i| explained(explanation("r", i, "x", &[1.0]))).collect();
    // More of a record that is there, and more of one that is not.
    records.push(ResultRecord::Search(search("r", 2, "x")));
    records.push(ResultRecord::Search(search("r", 4, "x")));
    let page = render_with(options, records);
    assert_eq!(count(&page, "<article"), 3);
    assert!(page.contains("2 more records are not on this page, which holds the first 3"));
    assert_eq!(count(&page, "Training records"), 1);
}

#[test]
fn a_page_does_not_outgrow_its_readers_memory() {
    let long = "x".repeat(24 << 20);
    let page = render((0..4).map(|i| explained(explanation("r", i, &long, &[1.0]))));
    assert!(page.len() < 65 << 20, "{} bytes", page.len());
    assert!(page.contains("2 more records are not on this page, which holds the first 2"));
}

#[test]
fn filters_are_offered_where_there_is_something_to_choose() {
    let with = |label: &str, i| Explanation { label: Some(json!(label)), ..explanation("r", i, "x", &[1.0]) };
    let page = render([explained(with("ham", 0)), explained(with("spam", 1))]);
    assert!(page.contains(r#"<option value="ham">label ham</option><option value="spam">label spam</option>"#));
    assert!(page.contains("id=\"wrong\"") && !page.contains("id=\"predicted\""), "one prediction is no choice");
    assert!(page.contains("<b>50.0 %</b> right"));
    assert!(page.contains("data-verdict=\"wrong\" data-predicted=\"ham\" data-label=\"spam\""));
    let page = render([explained(explanation("r", 0, "x", &[1.0]))]);
    assert!(!page.contains("id=\"wrong\"") && !page.contains("<select"), "nothing is known of labels");
}

#[test]
fn what_speaks_for_each_class_stands_above_the_cards() {
    let weight = |class: &str, rank: u64, feature: &str, weight| {
        ResultRecord::Global(GlobalImportance { class: class.into(), rank, feature: feature.into(), weight, count: 3 })
    };
    let mut records =
        vec![weight("ham", 1, "<thanks>", 0.5), weight("ham", 2, "list", 0.125), weight("spam", 1, "free", 0.25)];
    records.extend((3..40).map(|rank| weight("ham", rank, &format!("f{rank}x"), 0.01)));
    let page = render(records);
    assert_eq!((count(&page, "<ol class=\"features\">"), count(&page, "<article")), (2, 0));
    assert!(page.contains("&lt;thanks&gt;</span><span class=\"track\"><span style=\"width:100.0%\">"));
    assert!(page.contains("list</span><span class=\"track\"><span style=\"width:25.0%\">"));
    assert!(page.contains("<span class=\"number\">0.1250</span><span class=\"soft number\">3×</span>"));
    assert!(page.contains("f15x") && !page.contains("f16x"), "the first fifteen");
    assert!(!page.contains("id=\"query\""), "there is nothing to filter");
}

#[test]
fn numbers_are_neither_right_nor_wrong() {
    let mut value = prediction("a", 0);
    (value.predicted, value.label, value.probabilities.0) = (json!(0.5), Some(json!(0.75)), Vec::new());
    let page = render([ResultRecord::Prediction(value)]);
    assert!(
        page.contains("data-verdict=\"\"")
            && page.contains("predicted <b>0.5</b>")
            && page.contains("label <b>0.75</b>")
    );
}

#[test]
fn neighbours_of_a_regression_are_neither_right_nor_wrong() {
    let mut result = search("a", 0, "x");
    let near = &mut result.proponents[0];
    (near.label, near.predicted) = (Some(json!(0.756_156_6)), Some(json!(0.701_234_5)));
    let page = render([ResultRecord::Search(result)]);
    assert!(page.contains("<span class=\"chip\">0.7562</span>") && !page.contains("model says"), "{page}");
    let sparse = json!({ "rank": 1, "index": 0, "id": "s", "score": 0.5, "similarity": 0.5, "percentile": 0.1, "label": 0.5,
                         "predicted": 0.498_765_4, "reason": "", "nearest": [], "text": "x" });
    let page = render(audited([sparse]));
    assert!(page.contains("<span class=\"chip \">predicted 0.4988</span><span class=\"chip \">label 0.5</span>"));
}

#[test]
fn an_end_with_nothing_below_zero_opposes_nothing() {
    let mut result = search("a", 0, "x");
    result.opponents = vec![neighbour(1, 0.25, "least")];
    result.proponents = (1..=15).map(|rank| neighbour(rank, 1.0 / rank as f32, "near")).collect();
    let page = render([ResultRecord::Search(result)]);
    assert!(page.contains("These support it least") && !page.contains("These oppose it most"));
    assert!(page.contains("<summary>7 more of 12</summary>"));
}

#[test]
fn distances_and_losses_neither_support_nor_oppose() {
    for (rule, [first, last]) in [("feature-euc", ["nearest", "farthest"]), ("loss", ["highest loss", "lowest loss"])] {
        let mut result = search("a", 0, "x");
        result.rule = rule.into();
        let page = render([ResultRecord::Search(result.clone())]).to_lowercase();
        for title in [first, last] {
            assert!(page.contains(&format!("<h4>{title}</h4>")), "{rule}");
        }
        assert!(count(&page, "<p class=\"near \">") == 2 && !page.contains("these "), "{rule}");
        let text = result.render(false);
        assert!(text.contains(&format!("  {first}\n")) && text.contains(&format!("  {last}\n")), "{text}");
        assert!(!text.contains("supports") && !text.contains("opposes"), "{text}");
    }
}

#[test]
fn where_the_sign_changes_within_an_end_it_is_told() {
    let mut result = search("a", 0, "x");
    result.opponents = vec![neighbour(1, -0.25, "far"), neighbour(2, 0.5, "near")];
    let told = "from here on they support it";
    let page = render([ResultRecord::Search(result.clone())]);
    assert!(page.contains("These oppose it most") && count(&page, told) == 1);
    assert!(page.find(told).unwrap() > page.find("-0.2500").unwrap());
    let text = result.render(false);
    assert!(text.contains("  opposes\n") && text.contains(told), "{text}");
    result.opponents.remove(0);
    let text = result.render(false);
    assert!(text.contains("  supports least\n") && !text.contains(told), "{text}");
    result.proponents = vec![neighbour(1, -0.5, "x")];
    assert!(result.render(false).contains("  opposes least\n"));
    assert!(render([ResultRecord::Search(result)]).contains("These oppose it least"));
}

#[test]
fn groups_copies_and_layers_that_were_asked_for_are_shown() {
    let mut result = search("a", 0, "x");
    let group = |name: Option<&str>, total| NeighbourGroup {
        group: name.map(str::to_owned),
        records: 206,
        total,
        proponents: (1..=14).map(|rank| neighbour(rank, 1.0 / rank as f32, "of the group")).collect(),
        opponents: vec![neighbour(1, -0.5, "against it")],
    };
    result.groups = vec![group(Some("<b>ham"), -12.5), group(None, 0.25)];
    result.proponents[0].copies = Some(3);
    result.opponents[0].copies = Some(1);
    let layers = vec![("first.query".to_owned(), 0.25), ("second.value".to_owned(), -0.125)];
    result.proponents[0].detail = Some(PairDetail { layers, token_pairs: None });
    let page = render([ResultRecord::Search(result)]);
    assert!(page.contains(
        "<b>&lt;b&gt;ham</b> <span class=\"soft\">206 records, scores add up to <span class=\"number\">-12.50<"
    ));
    assert!(
        page.contains("<b>none</b>") && page.contains("against it") && page.contains("<summary>7 more of 11</summary>")
    );
    assert_eq!((count(&page, ">3 copies<"), count(&page, " copies</span>")), (1, 1), "one record is no copies");
    let layer = "<li class=\"near n\"><span class=\"number\">-0.1250</span><span class=\"track\"><span style=\"width:50.0%\"></span></span>";
    assert!(
        page.contains("what each layer adds") && page.contains(&format!("{layer}<span class=\"id\">second.value<")),
        "{page}"
    );
}

#[test]
fn scores_and_parts_are_decimals_where_those_are_short() {
    let mut result = search("a", 0, "x");
    let part = |text: &str, score| NeighbourPart { text: text.into(), start: 0, end: 1, target: "PER".into(), score };
    result.proponents[0].parts = vec![part("Ann", 0.37), part("，", -0.0097)];
    let page = render([ResultRecord::Search(result.clone())]);
    assert!(page.contains("<span class=\"soft\">PER</span> +0.37<") && page.contains("“，” <span"), "{page}");
    let text = result.render(false);
    assert!(text.contains("Ann PER +0.37 · “，” PER -0.01") && text.contains("+0.90000"), "{text}");
    result.proponents[0].score = 9e-9;
    assert!(result.render(false).contains("+9.0000e-9"));
}

/// Of a model that tags words: what it found, and the record's own tags.
fn tagged(id: &str, index: u64, text: &str, tags: &[&str], found: &[(&str, usize, usize)]) -> ResultRecord {
    let part = |&(kind, start, end): &(&str, usize, usize)| {
        let text: String = text.chars().skip(start).take(end - start).collect();
        json!({ "type": kind, "text": text, "start": start, "end": end, "score": 0.9 })
    };
    let entities: Vec<_> = found.iter().map(part).collect();
    let value = json!({ "id": id, "index": index, "text": text, "label": tags, "tokens": [], "offsets": [], "tags": [],
                        "entities": entities });
    ResultRecord::Tags(serde_json::from_value::<TagPrediction>(value).unwrap())
}

#[test]
fn entities_are_right_where_all_are_found_and_nothing_else() {
    let tags = ["B-PER", "I-PER", "O", "B-LOC"];
    let text = "Ann Lee in Rome";
    let (ann, rome) = (("PER", 0, 7), ("LOC", 11, 15));
    let page = render([
        tagged("all", 0, text, &tags, &[ann, rome]),
        tagged("missed", 1, text, &tags, &[ann]),
        tagged("nothing", 2, text, &tags, &[]),
        tagged("short", 3, text, &tags, &[("PER", 0, 3), rome]),
        tagged("characters", 4, "江苏省好", &["B-LOC", "I-LOC", "I-LOC", "O"], &[("LOC", 0, 3)]),
        tagged("unplaced", 5, "江苏省很好", &["B-LOC", "O"], &[("LOC", 0, 3)]),
    ]);
    assert!(
        page.contains("<b>40.0 %</b> right <span class=\"soft\">(2 of 5 with a label)"),
        "where words are is known"
    );
    assert_eq!((count(&page, "data-verdict=\"right\""), count(&page, "data-verdict=\"wrong\"")), (2, 3));
    assert!(page.contains("label <b>PER: Ann Lee + LOC: Rome</b>") && page.contains("id=\"wrong\""));
}

#[test]
fn what_is_found_of_a_part_says_nothing_of_the_whole() {
    let mut part = search("a", 0, "Ann in Rome");
    (part.label, part.predicted) = (Some(json!(["PER: Ann"])), json!(["PER: Ann"]));
    part.span = Some(TargetSpan { start: 0, end: 3, segment: 0 });
    let page = render([ResultRecord::Search(part.clone())]);
    assert!(!page.contains("id=\"wrong\"") && page.contains("data-verdict=\"\""));
    let whole = tagged("a", 0, "Ann in Rome", &["B-PER", "O", "B-LOC"], &[("PER", 0, 3)]);
    for records in [[ResultRecord::Search(part.clone()), whole.clone()], [whole, ResultRecord::Search(part)]] {
        assert!(render(records).contains("<b>0.0 %</b> right <span class=\"soft\">(0 of 1 with a label)"));
    }
}

#[test]
fn an_answer_stands_with_the_next_best_and_their_scores() {
    let answer = |text: &str, score| AnswerSpan { text: text.into(), start: 0, end: text.len(), score: Some(score) };
    let page = render([ResultRecord::Spans(SpanPrediction {
        id: "q".into(),
        question: "who".into(),
        context: "Ann Lee".into(),
        answer: answer("Ann", 7.5),
        n_best: vec![answer("Ann", 7.5), answer("Ann Lee", 2.25)],
        no_answer_score: 3.0,
        ..SpanPrediction::default()
    })]);
    let places = ["7.500<", "3.000<", "2.250<"].map(|score| page.find(score).expect(score));
    assert!(places.is_sorted() && page.contains("<span class=\"name\">no answer</span>"));
}

#[test]
fn selections_say_whose_they_are_and_what_is_struck_through() {
    let selection = json!({ "id": "q", "index": 0, "question": "who", "context": "Ann. Bob.", "answer": { "text": "Ann", "start": 0, "end": 3,
                            "score": 1.0 }, "plain_answer": { "text": "Ann", "start": 0, "end": 3, "score": 1.0 }, "sentences": [
                            { "start": 0, "end": 4, "score": 0.9, "kept": true }, { "start": 4, "end": 9, "score": 0.1, "kept": false }] });
    let mut page = Page::new(PageOptions::default());
    for file in ["out/own.jsonl", "out/trained.jsonl"] {
        page.begin(std::path::Path::new(file));
        add(&mut page, audited([selection.clone()]));
    }
    let page = page.render().unwrap();
    for file in ["own.jsonl", "trained.jsonl"] {
        assert!(page.contains(&format!("<p class=\"soft caption\">from the kept sentences alone, by {file}</p>")));
    }
    let legend = "Grey and struck through</span>: what the model did not read";
    assert!(page.contains("<mark class=\"unseen\"> Bob.</mark>") && page.contains(legend), "{page}");
    let whole = render([explained(explanation("a", 0, "one", &[0.5])), ResultRecord::Search(search("a", 0, "one"))]);
    let cut = render([explained(explanation("a", 0, "one", &[0.5])), ResultRecord::Search(search("a", 0, "one two"))]);
    assert_eq!((whole.contains(legend), cut.contains(legend)), (false, true));
}

#[test]
fn what_does_not_speak_for_the_target_is_no_reason() {
    let record = Explanation { rationale: vec![1, 0, 2], ..explanation("a", 0, "bad ， good", &[-0.5, 0.5, 0.0]) };
    let page = render([explained(record.clone())]);
    assert_eq!(count(&page, "<span class=\"chip "), 1);
    assert!(page.contains("<span class=\"chip p\">“，” <"));
    assert!(record.render(false).contains("rationale: “，” +0.50\n"), "at the terminal as well");
}

fn evaluated(row: serde_json::Value) -> ResultRecord {
    let serde_json::Value::Object(object) = row else { panic!("a row is an object") };
    ResultRecord::from_object(object).unwrap()
}

#[test]
fn a_yardstick_is_a_chart_and_a_table_with_chance_in_grey() {
    let measure = |mean: f64| json!({ "mean": mean, "low": mean - 0.1, "high": mean + 0.1 });
    let row = |rule: &str, mean: f64, behind: f64| {
        json!({ "yardstick": "lds", "rule": rule, "lds": measure(mean), "behind_best": measure(behind), "queries": 30, "subsets": 40,
                "fraction": 0.5, "seeds": 1, "seconds": 0.1, "bytes_per_record": 944.0 })
    };
    let mut chance = row("random", 0.0, 0.0);
    chance["behind_best"] = serde_json::Value::Null;
    let page = render([row("grad-cos", 0.7, 0.15), row("influence", 0.85, 0.0), chance].map(evaluated));
    assert!(page.contains("30 queries, 40 subsets"), "what it was measured on");
    let places = ["influence", "grad-cos", "random"].map(|name| page.find(&format!("<td>{name}</td>")).unwrap());
    assert!(places.is_sorted(), "the best first: {places:?}");
    assert!(page.contains("influence is ahead of grad-cos by 0.150 (95 %: 0.050 to 0.250)"));
    assert!(page.contains("0.850 ± 0.100"));
    assert!(page.contains("<h1>How far attributions can be trusted</h1>"), "no model said anything here");
    assert_eq!(count(&page, "<span class=\"plot chance\">"), 1);
    assert_eq!(count(&page, "<i class=\"whisker\""), 3);

    let at = |removed: u64, rise: f64| json!({ "removed": removed, "share": removed as f64 / 100.0, "loss_rise": measure(rise), "lost": 0.1 });
    let row = |rule: &str, rise: f64| json!({ "yardstick": "removal", "rule": rule, "loss_rise": measure(rise), "curve": [at(1, 0.5 * rise), at(10, rise)] });
    let page = render([row("influence", 0.4), row(HOSTILE, 0.2), row("random", 0.01)].map(evaluated));
    assert_eq!(count(&page, "<polyline"), 3);
    assert!(page.contains("influence, 10.0 %: 0.4000"), "points tell what they are");
    let ticks = r#"<span style="left:0.00%">0 %</span><span style="left:10.00%">1 %</span><span style="left:100.00%">10 %</span>"#;
    assert!(page.contains(ticks), "where the data are");
    assert!(page.contains("<td class=\"number\">0.010 ± 0.100</td>"), "a column has one form");
    assert!(!page.contains("<img"), "names are escaped");
    // Rows of several shares tell which; a row that says of nothing what it is is refused.
    let nameless = json!({ "yardstick": "lds", "lds": measure(0.5) });
    let serde_json::Value::Object(nameless) = nameless else { panic!("an object") };
    assert!(ResultRecord::from_object(nameless).unwrap_err().contains("\"rule\""));
}

#[test]
fn a_yardstick_says_what_its_measures_are_and_what_it_leaves_out() {
    let measure = json!({ "mean": 0.5, "low": 0.4, "high": 0.6 });
    let row = |method: &str| {
        json!({ "yardstick": "faithfulness", "method": method, "records": 9, "aopc_comprehensiveness": measure, "new_p": measure,
                "curve": [{ "share": 0.0, "deletion": 0.9 }, { "share": 1.0, "deletion": 0.1 }] })
    };
    let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];
    let page = render(names.map(row).map(evaluated));
    assert!(page.contains("<b>New-P ↑</b>: the share of records whose rationale alone keeps the prediction"));
    assert!(!page.contains("<b>deletion"), "it is in no column");
    assert!(page.contains("The best are drawn, 2 more are in the table.") && count(&page, "<polyline") == 7);
    assert!(!render(["a"].map(row).map(evaluated)).contains("The best are drawn"));

    let left_out = json!({ "yardstick": "leave-out", "rule": "bm25", "spearman": measure, "queries": 1, "sets": 12, "records": 20.0, "seeds": 1 });
    assert!(
        render([evaluated(left_out)])
            .contains(">1 query, 12 sets, 20 records left out of each, 1 training of each</span>")
    );
    let removed = |jointly: bool| {
        let row =
            json!({ "yardstick": "removal", "rule": "bm25", "loss_rise": measure, "queries": 57, "jointly": jointly });
        render([evaluated(row)])
    };
    assert!(
        removed(true).contains("57 queries, one ranking for all queries (--jointly)<")
            && removed(true).contains("the mean over all amounts")
    );
    assert!(removed(false).contains("57 queries, a ranking for each query<"));
}

fn audited(findings: impl IntoIterator<Item = serde_json::Value>) -> Vec<ResultRecord> {
    findings.into_iter().map(evaluated).collect()
}

fn doubted(rank: usize, suggested: &str) -> serde_json::Value {
    json!({ "rank": rank, "index": rank, "id": format!("d{rank}"), "score": 0.5, "label": "ham", "text": "x",
            "suggested_label": suggested, "reason": "its words say so", "signals": {}, "neighbours": [] })
}

#[test]
fn an_audit_says_how_many_it_ranked_and_how_many_suggest_another_label() {
    let found = || audited((1..=120).map(|rank| doubted(rank, if rank <= 7 { "spam" } else { "ham" })));
    let page = render(found());
    assert!(page.contains("120 ranked, the first 100 here; 7 suggest another label"));
    assert!(page.contains("<b>120</b> ranked labels, 7 suggest another label"));
    for (limit, told) in [(5, "120 ranked, the first 5 here"), (500, "120 ranked; 7 suggest")] {
        let page = render_with(PageOptions { findings: limit, ..PageOptions::default() }, found());
        assert!(page.contains(told) && count(&page, "<li value=") == limit.min(120), "{limit}");
    }
}

#[test]
fn what_differs_is_not_added_up() {
    let sparse = |rank: u64| {
        json!({ "rank": rank, "index": rank, "id": "s", "score": 0.5, "similarity": 0.5, "percentile": 0.1, "predicted": "ham",
                "reason": "", "nearest": [], "text": "x" })
    };
    let change = json!({ "step": 1, "change": "drop", "index": 0, "id": "c", "reason": "why not", "text": "x" });
    let mut page = Page::new(PageOptions::default());
    for (file, found) in [
        ("dirty.jsonl", vec![doubted(1, "spam")]),
        ("sparse.jsonl", vec![sparse(1), sparse(2)]),
        ("out/near/changes.jsonl", vec![change.clone(), change.clone()]),
        ("out/far/changes.jsonl", vec![change.clone()]),
        ("1/ask.jsonl", Vec::new()),
    ] {
        page.begin(std::path::Path::new(file));
        add(&mut page, audited(found));
    }
    for round in 1..=4 {
        page.begin(std::path::Path::new(&format!("{round}/ask.jsonl")));
        add(&mut page, audited([json!({ "rank": 1, "id": "a", "kind": "new", "score": 0.5, "text": "x" })]));
    }
    let page = page.render().unwrap();
    for told in [
        "<b>1</b> ranked label, 1 suggests another label<",
        "<b>2</b> records by their coverage<",
        "<b>2</b> changes to the data (near)<",
        "<b>1</b> change to the data (far)<",
        "<b>4</b> lists of labels asked for<",
    ] {
        assert_eq!(count(&page, told), 1, "{told}");
    }
}

#[test]
fn changes_are_numbered_and_rounds_have_an_axis() {
    let change = |id: &str, step: u64| json!({ "step": step, "change": "drop", "index": 0, "id": id, "reason": "why not", "text": "x" });
    let spread = json!({ "values": [0.5], "mean": 0.5, "deviation": 0.0 });
    let round = |round: u64| {
        json!({ "round": round, "asked": 0, "labels": 0, "waiting": 0, "records": 4, "changes": {}, "accepted": true, "reason": "so",
                "sets": [{ "set": "dev", "records": 5, "metrics": { "accuracy": spread } }] })
    };
    let mut found = vec![change("a", 1), change("b", 1), change("c", 2)];
    found.extend((0..3).map(round));
    let page = render(audited(found));
    assert_eq!(["1", "2", "3"].map(|rank| count(&page, &format!("<li value=\"{rank}\">"))), [1, 1, 1]);
    assert!(page.contains("b, step 1<") && page.contains("c, step 2<"));
    assert!(
        page.contains("<span style=\"left:50.00%\">1</span>") && page.contains("<p class=\"axis across\">round</p>")
    );
    assert!(page.contains("<th>dev, %</th>") && page.contains("50.00 ± 0.00"));
}

#[test]
fn numbers_of_a_list_say_what_they_are() {
    let mut found = doubted(1, "spam");
    found["signals"] = json!({ "text": 0.5 });
    let page = render(audited([found]));
    assert!(
        page.contains("<b>the score</b>: what the list is ranked by")
            && page.contains("<b>text</b>: how much likelier")
    );
    assert!(!page.contains("<b>margin</b>") && !page.contains("<b>near records</b>"), "it has none");
    let fitted = Explanation { r_squared: Some(0.5), convergence_delta: None, ..explanation("a", 0, "x", &[1.0]) };
    let page = render([explained(fitted)]);
    assert!(page.contains("R²: the share") && !page.contains("Convergence delta:"));
}

#[test]
fn the_label_stands_among_the_classes_and_the_others_are_counted() {
    let mut many = prediction("a", 0);
    many.probabilities.0 = (0..50).map(|class| (format!("c{class}"), 1.0 / (class + 2) as f32)).collect();
    many.label = Some(json!("c40"));
    let page = render([ResultRecord::Prediction(many)]);
    assert!(page.contains("<b>c40</b> <span class=\"soft\">(label)</span>") && page.contains(">43 more classes<"));
    assert_eq!(count(&page, "<span class=\"name\">c"), 6);
    assert!(page.contains("placeholder=\"Search ids\""), "a prediction tells no text");
    assert!(render([explained(explanation("a", 0, "x", &[1.0]))]).contains("placeholder=\"Search ids and texts\""));
}

#[test]
fn a_label_that_nobody_doubts_has_no_arrow() {
    let found = audited([doubted(1, "spam"), doubted(2, "ham")]);
    let lines: Vec<String> = found.iter().map(|found| finding(found).lines().next().unwrap().to_owned()).collect();
    assert_eq!(lines, ["     1  ham → spam  0.500  d1", "     2  ham  0.500  d2"]);
    let page = render(found);
    assert!(page.contains("Labels, the most suspect first") && !page.contains("likely wrong"));
    assert_eq!(
        (count(&page, "<span class=\"soft\">→</span>"), count(&page, "<span class=\"chip warn\">spam</span>")),
        (1, 1)
    );
    assert_eq!(
        (count(&page, "<span class=\"chip \">ham</span>"), count(&page, "<span class=\"chip warn\">ham")),
        (2, 0)
    );
    let tagged = |tag: &str, suggested: &str| {
        json!({ "rank": 1, "index": 0, "id": "t", "score": 0.5, "word": 0, "start": 0, "end": 3, "span": "Ann", "tags": [tag],
                "suggested_tags": [suggested], "reason": "", "signals": {}, "neighbours": [], "text": "Ann" })
    };
    let answered = json!({ "rank": 1, "index": 0, "id": "q", "score": 0.5, "label": "Rome", "start": 0, "end": 4, "reason": "",
                           "suggested_answer": "Rome", "signals": {}, "sentence": null, "neighbours": [], "text": "where", "text_pair": "Rome" });
    let undoubted = audited([tagged("B-PER", "B-PER"), answered]);
    assert!(undoubted.iter().all(|found| !finding(found).contains('→')));
    assert!(!render(undoubted).contains(">→<"));
    let [doubted] = <[ResultRecord; 1]>::try_from(audited([tagged("B-PER", "O")])).unwrap();
    assert!(finding(&doubted).contains("Ann  B-PER → O"));
}

/// A finding about labels at a terminal.
fn finding(record: &ResultRecord) -> String {
    match record {
        ResultRecord::Finding(Finding::Dirty(found)) => found.render(false),
        ResultRecord::Finding(Finding::DirtyPart(found)) => found.render(false),
        ResultRecord::Finding(Finding::DirtyAnswer(found)) => found.render(false),
        other => panic!("about labels: {other:?}"),
    }
}

#[test]
fn a_similarity_that_rounds_above_1_has_its_bar() {
    let found = json!({ "rank": 1, "index": 0, "id": "u", "score": 0.1, "trust": 0.9, "predicted": "ham", "reason": "",
                        "evidence": { "similarity": 1.000_000_1, "other": 1.5 }, "rationale": [], "nearest": [], "text": "x" });
    let page = render(audited([found]));
    assert!(page.contains("style=\"width:100.0%\"></span></span> <span class=\"number\">1.00<"));
    assert_eq!(count(&page, "<span class=\"track\">"), 1, "what is no share has none");
}

#[test]
fn a_copy_tells_whose_it_is() {
    let copy = json!({ "rank": 1, "set": "training", "index": 9, "id": "t9", "score": 1.0, "label": "ham", "text": "x",
                       "reason": "a copy, with another label", "of_set": "training",
                       "of": { "index": 2, "id": "t2", "label": "spam", "score": 1.0, "text": "x" } });
    let [copy] = <[ResultRecord; 1]>::try_from(audited([copy])).unwrap();
    let ResultRecord::Finding(wherefore::report::Finding::Redundant(record)) = copy.clone() else { panic!("a copy") };
    let page = render([copy]);
    assert!(
        page.contains("<span class=\"chip \">copy of t2 (spam)</span>") && page.contains("<b>1</b> copy or near copy")
    );
    assert!(record.render(false).contains("training t9 (ham)  copy of training t2 (spam)  a copy"));
}

fn comparison() -> serde_json::Value {
    let spread = |values: [f64; 2], gain: f64, deviation: f64| {
        json!({ "values": values, "mean": f64::midpoint(values[0], values[1]),
        "deviation": 0.01, "gain": gain, "gain_deviation": deviation })
    };
    let before = |values: [f64; 2]| json!({ "values": values, "mean": values[0], "deviation": 0.01 });
    let arm = |name: &str, accuracy, loss, passed: Option<bool>| {
        let sets = json!([{ "set": "dev", "records": 50, "metrics": { "accuracy": accuracy, "loss": loss } }]);
        let mut arm = json!({ "name": name, "records": 40, "changes": {}, "sets": sets });
        if let Some(passed) = passed {
            arm["passed"] = passed.into();
        }
        arm
    };
    json!({ "seeds": [0, 1], "metric": "accuracy", "arms": [
        arm("before", before([0.9, 0.9]), before([0.3, 0.3]), None),
        arm("noisy", spread([0.89, 0.9], -0.005, 0.01), spread([0.5, 0.5], 0.2, 0.01), Some(false)),
        arm("good", spread([0.95, 0.95], 0.05, 0.01), spread([0.1, 0.1], -0.2, 0.01), Some(true)),
    ] })
}

#[test]
fn a_change_is_better_or_worse_where_seeds_do_not_differ_by_as_much() {
    let comparison = evaluated(comparison());
    let ResultRecord::Finding(wherefore::report::Finding::Comparison(record)) = comparison.clone() else {
        panic!("a comparison")
    };
    let page = render([comparison]);
    assert!(page.contains("<h1>What changes to the data were worth</h1>"));
    assert!(page.contains("<span class=\"number \">−0.50 ± 1.00</span>"), "no colour");
    assert!(page.contains("<span class=\"number up\">+5.00 ± 1.00</span>"));
    assert!(page.contains(
        "cannot be told apart from the seeds</span>; <span class=\"soft\">did not pass the plan&#x27;s gate"
    ));
    assert!(
        page.contains("<span class=\"up\">better than before</span>; <span class=\"soft\">passed the plan&#x27;s gate")
    );
    let text = record.render(false);
    let line = |start: &str, metric: &str| {
        let is_it = |line: &&str| line.starts_with(start) && line.contains(metric);
        text.lines().find(is_it).unwrap_or_else(|| panic!("{text}")).to_owned()
    };
    assert!(line("noisy", "loss").ends_with("+0.2000 ± 0.0100  worse"), "{text}");
    assert!(line("good", "loss").ends_with("−0.2000 ± 0.0100  better"), "{text}");
    assert!(line("noisy", "accuracy").ends_with("−0.50 ± 1.00"), "{text}");
    assert!(
        text.contains(
            "noisy   40 records; accuracy: cannot be told apart from the seeds; did not pass the plan's gate"
        )
    );
}

#[test]
fn changes_of_several_arms_have_a_list_each() {
    let change = |id: usize| json!({ "step": 1, "change": "drop", "index": id, "id": format!("c{id}"), "reason": "why not", "text": "x" });
    let mut page = Page::new(PageOptions { findings: 2, ..PageOptions::default() });
    for arm in ["corrected", "drop30"] {
        page.begin(std::path::Path::new(&format!("out/{arm}/changes.jsonl")));
        for record in audited((0..3).map(change)) {
            page.add(record);
        }
    }
    let page = page.render().unwrap();
    for arm in ["corrected", "drop30"] {
        assert!(
            page.contains(&format!(
                "What was done to the data: {arm} <span class=\"soft\">3 changes, the first 2 here"
            ))
        );
    }
    assert_eq!(count(&page, "<li value="), 4);
}

#[test]
fn results_of_one_kind_from_several_files_stand_under_their_names() {
    let lds = || json!({ "yardstick": "lds", "rule": "grad-cos", "queries": 3, "lds": { "mean": 0.5, "low": 0.4, "high": 0.6 } });
    let asked = || json!({ "rank": 1, "id": "a", "kind": "new", "score": 0.5, "text": "x" });
    let mapped = || {
        json!({ "rank": 1, "index": 0, "id": "m", "score": 0.5, "region": "easy", "confidence": 0.9, "variability": 0.1,
                            "correctness": 1.0, "forgotten": 0, "learned_in": 0, "text": "x" })
    };
    let weight = || json!({ "class": "ham", "rank": 1, "feature": "f", "weight": 0.5, "count": 3 });
    let mut page = Page::new(PageOptions::default());
    for (file, result) in [
        ("out/a.dirty.jsonl", doubted(1, "spam")),
        ("out/b.dirty.jsonl", doubted(1, "spam")),
        ("a.lds.jsonl", lds()),
        ("b.lds.jsonl", lds()),
        ("plan/round-001/ask.jsonl", asked()),
        ("plan/round-002/ask.jsonl", asked()),
        ("a.map.jsonl", mapped()),
        ("b.map.jsonl", mapped()),
        ("a.norm.jsonl", weight()),
        ("b.norm.jsonl", weight()),
        (
            "bias.jsonl",
            json!({ "rank": 1, "word": "w", "label": "ham", "score": 2.0, "count": 5, "share": 1.0, "expected": 0.5,
                               "p_value": 0.01, "reason": "", "examples": [] }),
        ),
    ] {
        page.begin(std::path::Path::new(file));
        add(&mut page, audited([result]));
    }
    let page = page.render().unwrap();
    for heading in [
        "<h2>Labels, the most suspect first: a.dirty.jsonl <",
        "<h2>Labels, the most suspect first: b.dirty.jsonl <",
        "would have said? (a.lds.jsonl) <",
        "would have said? (b.lds.jsonl) <",
        "<h2>Labels that are asked for: round-001 <",
        "<h2>Labels that are asked for: round-002 <",
        "<h2>The data map: b.map.jsonl <",
        "<h2>What speaks for each class, over all records: b.norm.jsonl<",
        "<h2>Words that tell a label too well <",
        "\">The data map: a.map.jsonl</a>",
    ] {
        assert_eq!(count(&page, heading), 1, "{heading}");
    }
}
