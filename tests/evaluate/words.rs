//! What needs no model: agreement with gold rationales, average precision of rationales, and the statistics of it all.
//! Answers by hand.

use wherefore::evaluate::{
    Gold, Measure, agreement, area_under_roc, average_precision, mean_average_precision, pearson, spearman,
};

fn words(text: &str) -> Vec<String> {
    text.chars().map(String::from).collect()
}

fn marks(text: &str) -> Vec<bool> {
    text.chars().map(|c| c == '1').collect()
}

#[test]
fn repeated_words_count_as_often_as_they_are_in_both() {
    let map = |original: &str, perturbed: &str| mean_average_precision(&words(original), &words(perturbed));
    assert_eq!(map("abc", "abc"), 1.0);
    assert_eq!(map("abc", "def"), 0.0);
    assert_eq!(map("abc", ""), 0.0);
    // {a} ∩ {a}, {a,a} ∩ {a,b}, {a,a,b} ∩ {a,b,c}: by membership of strings it would be 1.
    assert!((map("abc", "aab") - (1.0 + 0.5 + 2.0 / 3.0) / 3.0).abs() < 1e-12);
    // In the other order the same words agree less: importance counts, not position.
    assert!((map("abc", "cba") - (0.0 + 0.5 + 1.0) / 3.0).abs() < 1e-12);
    assert!((map("a", "ab") - 0.75).abs() < 1e-12);
}

#[test]
fn the_gold_is_the_best_union_of_alternatives() {
    let gold = [marks("110000"), marks("001100"), marks("000011")];
    let found = agreement(&marks("111000"), &gold);
    // Alone, the first: 2·2/(3 + 2). With the second, 2·3/(3 + 4); the third does not overlap.
    assert!((found.f1 - 0.8).abs() < 1e-12, "{found:?}");
    assert!((found.union_f1 - 6.0 / 7.0).abs() < 1e-12, "{found:?}");
    assert!((found.iou - 0.75).abs() < 1e-12, "{found:?}");
    assert_eq!(agreement(&marks("000"), &[marks("010")]).f1, 0.0);
    assert_eq!(agreement(&marks("010"), &[]).union_f1, 0.0);
}

#[test]
fn rationales_are_read_in_both_forms_and_never_shifted() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gold.jsonl");
    let lines = "{\"id\":\"a\",\"rationales\":[[[0,3],[8,11]]]}\n\
                 {\"sent_id\":7,\"sent_token\":[\"不\",\"是\",\"不\",\"好\"],\"rationale_ids\":[[\"2\",\"3\"],[0]]}\n";
    std::fs::write(&file, lines).unwrap();
    let gold = Gold::read(&[file.to_str().unwrap().to_owned()]).unwrap();
    assert_eq!(gold.len(), 2);
    assert_eq!(gold.spans("a", 0, Some("not the bad")).unwrap().unwrap(), [[0..3, 8..11]]);
    // The second 不 is the third character: words are found in their order, and no special token is counted.
    let sentence = Some("不 是不好");
    assert_eq!(gold.spans("7", 0, sentence).unwrap().unwrap(), [vec![3..4, 4..5], std::iter::once(0..1).collect()]);
    assert!(gold.spans("b", 0, Some("text")).is_none() && gold.spans("7", 1, Some("text")).is_none());
    assert!(gold.spans("a", 0, Some("short")).unwrap().unwrap_err().contains("a text of 5 characters"));
    assert!(gold.spans("7", 0, Some("something else")).unwrap().unwrap_err().contains("not in the text"));
    // Of pairs, and TrustAI's own list of sentences.
    let lines = "{\"id\":\"a\",\"rationales\":[[[0,3]]],\"pair_rationales\":[[[1,2]],[]]}\n\
                 {\"id\":\"b\",\"sent_token\":[[\"a\",\"b\"],[\"c\"]],\"rationale_ids\":[[[1]],[[0],[\"0\"]]]}\n\
                 {\"id\":\"c\",\"sent_token\":[\"a\",\"b\"],\"rationale_ids\":[[[1,0]]]}\n";
    std::fs::write(&file, lines).unwrap();
    let gold = Gold::read(&[file.to_str().unwrap().to_owned()]).unwrap();
    let spans = |id: &str, segment| gold.spans(id, segment, Some("abc")).unwrap().unwrap();
    assert_eq!((spans("a", 0).len(), spans("a", 1)), (1, vec![std::iter::once(1..2).collect(), vec![]]));
    assert_eq!((spans("b", 0)[0][0].clone(), spans("b", 1).len(), spans("b", 1)[1][0].clone()), (1..2, 2, 2..3));
    assert_eq!((spans("c", 0), gold.has("c"), gold.has("d")), (vec![vec![1..2, 0..1]], true, false));
    assert!(gold.spans("a", 1, None).unwrap().unwrap_err().contains("a second text"));
    std::fs::write(&file, "{\"id\":\"b\",\"sent_token\":[\"a\"],\"rationale_ids\":[[[0]],[[0]]]}\n").unwrap();
    let refused = Gold::read(&[file.to_str().unwrap().to_owned()]).unwrap_err().to_string();
    assert!(refused.contains("of 2 texts: expected as many lists of words, found 1"), "{refused}");
    std::fs::write(&file, "{\"id\":\"a\"}\n").unwrap();
    let refused = Gold::read(&[file.to_str().unwrap().to_owned()]).unwrap_err().to_string();
    assert!(refused.contains("gold.jsonl:1: no rationale"), "{refused}");
}

#[test]
fn correlations_are_those_worked_out_by_hand() {
    let same_order = spearman(&[1.0, 2.0, 3.0], &[10.0, 100.0, 1000.0]).unwrap();
    let turned_around = spearman(&[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0]).unwrap();
    assert!((same_order - 1.0).abs() < 1e-12 && (turned_around + 1.0).abs() < 1e-12, "{same_order} {turned_around}");
    // Ranks 1, 2.5, 2.5, 4 against 1, 3, 2, 4: 4.5/√(4.5 · 5).
    let tied = spearman(&[1.0, 2.0, 2.0, 3.0], &[1.0, 3.0, 2.0, 4.0]).unwrap();
    assert!((tied - 4.5 / (4.5_f64 * 5.0).sqrt()).abs() < 1e-12, "{tied}");
    assert_eq!(pearson(&[0.1, 0.1, 0.1], &[1.0, 2.0, 3.0]), None);
    assert_eq!(area_under_roc(&[0.9, 0.5, 0.5, 0.1], &[true, true, false, false]), Some(0.875));
    assert_eq!(area_under_roc(&[0.9, 0.5], &[true, true]), None);
    let precision = average_precision(&[0.9, 0.8, 0.7], &[true, false, true]).unwrap();
    assert!((precision - 5.0 / 6.0).abs() < 1e-12);
}

#[test]
fn intervals_are_of_the_seed_and_cover_the_mean() {
    let values: Vec<f64> = (0..100).map(|i| f64::from(i % 10)).collect();
    let measure = Measure::of(&values, 3).unwrap();
    assert_eq!(measure.mean, 4.5);
    assert_eq!(Measure::of(&values, 3), Some(measure));
    // 1.96 standard errors of a mean over 100 draws of variance 8.25, within what a thousand resamples tell of it.
    let half = (measure.high - measure.low) / 2.0;
    assert!((0.45..0.68).contains(&half) && measure.low < 4.5 && measure.high > 4.5, "{measure:?}");
    assert_eq!(Measure::of(&[], 0), None);
    let one = Measure::of(&[2.0], 0).unwrap();
    assert_eq!((one.low, one.mean, one.high), (2.0, 2.0, 2.0));
}
