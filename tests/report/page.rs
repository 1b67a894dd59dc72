//! Tests of the page: what it holds, that it holds it safely, and that it loads nothing.

use serde_json::json;
use wherefore::report::{Explanation, GlobalImportance, Page, PageOptions, ResultRecord, WordScore};

use super::{explanation, neighbour, prediction, search};

fn render(records: impl IntoIterator<Item = ResultRecord>) -> String {
    render_with(PageOptions::default(), records)
}

fn render_with(options: PageOptions, records: impl IntoIterator<Item = ResultRecord>) -> String {
    let mut page = Page::new(options);
    records.into_iter().for_each(|record| page.add(record));
    page.render().unwrap()
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
    assert!(page.contains("probability 90.0 %") && page.contains("<span class=\"number\">2.500</span>"));
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
    assert!(page.contains(
        r#"<mark title="+0.000">[CLS]</mark> <mark class="p" style="--w:1.00" title="+0.500">three</mark> "#
    ));
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
fn an_end_with_nothing_below_zero_opposes_nothing() {
    let mut result = search("a", 0, "x");
    result.opponents = vec![neighbour(1, 0.25, "least")];
    result.proponents = (1..=15).map(|rank| neighbour(rank, 1.0 / rank as f32, "near")).collect();
    let page = render([ResultRecord::Search(result)]);
    assert!(page.contains("These support it least") && !page.contains("These oppose it most"));
    assert!(page.contains("<summary>7 more of 12</summary>"));
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
    assert_eq!(count(&page, "<span class=\"plot chance\">"), 1);
    assert_eq!(count(&page, "<i class=\"whisker\""), 3);

    let at = |removed: u64, rise: f64| json!({ "removed": removed, "share": removed as f64 / 100.0, "loss_rise": measure(rise), "lost": 0.1 });
    let row = |rule: &str, rise: f64| json!({ "yardstick": "removal", "rule": rule, "loss_rise": measure(rise), "curve": [at(1, 0.5 * rise), at(10, rise)] });
    let page = render([row("influence", 0.4), row(HOSTILE, 0.2), row("random", 0.01)].map(evaluated));
    assert_eq!(count(&page, "<polyline"), 3);
    assert!(page.contains("influence, 10.0 %: 0.4000"), "points tell what they are");
    assert!(!page.contains("<img"), "names are escaped");
    // Rows of several shares tell which; a row that says of nothing what it is is refused.
    let nameless = json!({ "yardstick": "lds", "lds": measure(0.5) });
    let serde_json::Value::Object(nameless) = nameless else { panic!("an object") };
    assert!(ResultRecord::from_object(nameless).unwrap_err().contains("\"rule\""));
}
