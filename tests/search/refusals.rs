//! What does not belong together is refused in one line; nothing panics.

use std::slice::from_ref;

use wherefore::Error;
use wherefore::factors::{FactorRows, Floats};
use wherefore::model::Problem;
use wherefore::pipeline::TopK;
use wherefore::search::{Form, Options, Query, Rule, View, rank, search};
use wherefore::store::Checkpoint;

/// Two records, E = 3, K = 2.
const TWO: FactorRows<'static> = FactorRows {
    rows: 2,
    width: 3,
    classes: 2,
    features: Floats::F32(&[1.0, 0.0, 0.0, 0.0, 1.0, 0.0]),
    deltas: &[0.5, -0.5, 0.25, -0.25],
    feature_norms: &[1.0, 1.0],
    delta_norms: &[0.707, 0.354],
};

fn refusal(source: &FactorRows<'_>, form: &Form<'_>, query: Query) -> String {
    let error = search(source, form, &[query], 1, &Options::default()).expect_err("a refusal");
    error.to_string()
}

#[test]
fn queries_of_other_sizes_or_rules() {
    let h = || vec![1.0; 3];
    let cases = [
        (Form::feature_dot(), Query::feature(vec![1.0; 4]), "features of query 0: expected 3, found 4"),
        (Form::grad_dot(), Query::gradient(h(), vec![1.0]), "classes of query 0: expected 2, found 1"),
        (Form::grad_dot(), Query::feature(h()), "factors of query 0: made for another rule"),
        (Form::feature_cos(), Query::gradient(h(), vec![1.0; 2]), "factors of query 0: made for another rule"),
        (Form::representer(&[0.0; 4]), Query::class(h(), 1.0, 2), "class of query 0: expected one below 2, found 2"),
        (Form::bilinear(2), Query::bilinear(&[0.0; 4], 3), "terms of query 0: expected 2, found 1"),
    ];
    for (form, query, message) in cases {
        assert_eq!(refusal(&TWO, &form, query), message);
    }
}

#[test]
fn sources_that_lack_what_a_form_reads() {
    let query = || Query::gradient(vec![1.0; 3], vec![1.0; 2]);
    assert_eq!(refusal(&TWO, &Form::representer(&[0.0; 3]), query()), "numbers in place of δ: expected 4, found 3");
    assert_eq!(refusal(&TWO, &Form::grad_dot().over(&[1.0]), query()), "norms of records: expected 2, found 1");
    assert_eq!(refusal(&TWO, &Form::tracin(&[1.0]), query()), "shard 0: no factors of checkpoint 0");
    let short = FactorRows { deltas: &[0.5], ..TWO };
    assert_eq!(refusal(&short, &Form::grad_dot(), query()), "deltas of the model in shard 0: expected 4, found 1");
    let short = FactorRows { features: Floats::F32(&[1.0]), ..TWO };
    assert_eq!(refusal(&short, &Form::grad_dot(), query()), "features of the model in shard 0: expected 6, found 1");
}

#[test]
fn shards_of_different_models() {
    let narrow = FactorRows { width: 2, features: Floats::F32(&[0.0; 4]), ..TWO };
    let view = |factors| View { factors, checkpoints: Vec::new(), indices: &[0, 1] };
    let views = [view(TWO), view(narrow)];
    let error = search(&views[..], &Form::feature_dot(), &[], 1, &Options::default()).expect_err("a refusal");
    assert_eq!(error.to_string(), "width of the model in shard 1: expected 3, found 2");
}

#[test]
fn a_top_k_of_nothing() {
    let error = search(&TWO, &Form::feature_dot(), &[], 0, &Options::default()).expect_err("a refusal");
    assert!(matches!(&error, Error::Usage(..)) && error.hint().is_some());
    assert_eq!("all".parse::<TopK>().expect("a top-k"), TopK::All);
    assert_eq!("25".parse::<TopK>().expect("a top-k"), TopK::Count(25));
    for text in ["0", "-1", "", "ten", "ALL"] {
        assert!(text.parse::<TopK>().expect_err("a refusal").starts_with("expected a number from 1 on"), "{text}");
    }
}

#[test]
fn a_folder_for_temporary_files_that_is_not_there() {
    let missing = std::path::Path::new("/nonexistent/folder");
    let options = Options { memory: 0, tile_rows: Some(1), temporary: Some(missing), ..Options::default() };
    let queries = [Query::feature(vec![1.0; 3])];
    let error = rank(&TWO, &Form::feature_dot(), &queries, &options, |_, _| Ok(())).expect_err("a refusal");
    assert!(matches!(&error, Error::Io { path, .. } if path == missing));
}

#[test]
fn what_a_ranking_is_used_for_can_fail() {
    let queries = [Query::feature(vec![1.0; 3])];
    let error =
        rank(&TWO, &Form::feature_dot(), &queries, &Options::default(), |_, _| Err(Error::usage("a full disk")))
            .expect_err("a failure");
    assert_eq!(error.to_string(), "a full disk");
}

fn checkpoint(moments: Option<&str>) -> Checkpoint {
    Checkpoint { path: "a".into(), fingerprint: "f".into(), learning_rate: 0.1, moments: moments.map(str::to_owned) }
}

#[test]
fn rules_that_a_store_cannot_be_searched_by() {
    for rule in Rule::ALL {
        assert_eq!(rule.name().parse::<Rule>().expect("a rule"), rule);
        assert_eq!(rule.check(Problem::Headless, &[]).is_ok(), !rule.needs_head(), "{rule}");
        let (plain, adapted) = (checkpoint(None), checkpoint(Some("m")));
        for problem in [Problem::SingleLabel, Problem::MultiLabel, Problem::Regression] {
            assert_eq!(rule.check(problem, &[]).is_ok(), !matches!(rule, Rule::TracIn | Rule::Less), "{rule}");
            assert_eq!(rule.check(problem, from_ref(&plain)).is_ok(), rule != Rule::Less, "{rule}");
            assert_eq!(
                rule.check(problem, from_ref(&adapted)).is_ok(),
                !matches!(rule, Rule::TracIn | Rule::Trak),
                "{rule}"
            );
            assert!(
                rule.check(problem, &[plain.clone(), adapted.clone()]).is_err() == rule.reads_checkpoints(),
                "{rule}"
            );
        }
    }
    let error = "grad-cosine".parse::<Rule>().expect_err("an unknown rule");
    assert_eq!(error.to_string(), "unknown rule \"grad-cosine\"");
    assert!(error.hint().is_some_and(|hint| hint.contains("grad-cos,")));
}
