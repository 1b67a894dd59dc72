//! Scores and entities worked out by hand.

use wherefore::dataset::{Answer, Label, Record};
use wherefore::task::{
    AnswerOptions, Counts, EntityCounts, Scoring, answers, answers_between, entities, gold_span, judge, place,
};
use wherefore::tokens::Encoding;

fn spans(tags: &str) -> Vec<(String, std::ops::Range<usize>)> {
    entities(tags.split_whitespace().map(Some))
}

fn named(list: &[(&str, std::ops::Range<usize>)]) -> Vec<(String, std::ops::Range<usize>)> {
    list.iter().map(|(kind, words)| ((*kind).to_owned(), words.clone())).collect()
}

#[test]
fn tags_of_every_scheme_make_entities() {
    // The examples of seqeval's own documentation and tests.
    assert_eq!(spans("B-PER I-PER O B-LOC"), named(&[("PER", 0..2), ("LOC", 3..4)]));
    assert_eq!(spans("O O O B-MISC I-MISC I-MISC O"), named(&[("MISC", 3..6)]));
    // An inside without a beginning begins one, and so does another kind.
    assert_eq!(spans("O I-PER I-PER I-LOC B-LOC"), named(&[("PER", 1..3), ("LOC", 3..4), ("LOC", 4..5)]));
    // BIOES and BILOU: an end closes, a single stands alone.
    assert_eq!(
        spans("B-PER E-PER I-PER S-PER S-PER"),
        named(&[("PER", 0..2), ("PER", 2..3), ("PER", 3..4), ("PER", 4..5)])
    );
    assert_eq!(spans("B-A L-A U-B"), named(&[("A", 0..2), ("B", 2..3)]));
    // No letters: a run of one kind.
    assert_eq!(spans("PER PER O LOC"), named(&[("PER", 0..2), ("LOC", 3..4)]));
    assert_eq!(spans("O O"), named(&[]));
    // A kind with a hyphen of its own.
    assert_eq!(spans("B-geo-loc I-geo-loc"), named(&[("geo-loc", 0..2)]));
    // A word that was cut off ends what stood before it.
    assert_eq!(entities([Some("B-PER"), None, Some("I-PER")]), named(&[("PER", 0..1), ("PER", 2..3)]));
}

#[test]
fn entities_count_where_words_and_kind_agree() {
    let mut counts = EntityCounts::default();
    counts.add(&spans("B-PER I-PER O B-LOC"), &spans("B-PER I-PER O B-PER"));
    counts.add(&spans("B-LOC O"), &spans("B-LOC I-LOC"));
    assert_eq!(counts.0["PER"], Counts { gold: 1, predicted: 2, correct: 1 });
    assert_eq!(counts.total(), Counts { gold: 3, predicted: 3, correct: 1 });
    let [precision, recall, f1] = counts.0["PER"].scores();
    assert_eq!((precision, recall), (0.5, 1.0));
    assert!((f1 - 2.0 / 3.0).abs() < 1e-15);
    assert_eq!(Counts::default().scores(), [0.0; 3]);
}

#[test]
fn english_answers_are_judged_as_squad_judges_them() {
    let score = |answer: &str, right: &[&str]| {
        let judged = judge(answer, right, Scoring::English);
        (judged.exact_match, judged.f1)
    };
    assert_eq!(score("The Cat!", &["a cat"]), (true, 1.0));
    assert_eq!(score("cat dog", &["cat"]), (false, 2.0 / 3.0));
    assert_eq!(score("cat cat", &["cat"]), (false, 2.0 / 3.0));
    // The nearest of several.
    assert_eq!(score("red cat", &["blue dog", "red cat"]), (true, 1.0));
    // Articles inside words stay, punctuation joins what it stood between.
    assert_eq!(score("theatre", &["atre"]), (false, 0.0));
    assert_eq!(score("U.S.", &["us"]), (true, 1.0));
    // No answer.
    assert_eq!(score("", &[]), (true, 1.0));
    assert_eq!(score("cat", &[]), (false, 0.0));
    assert_eq!(score("", &["cat"]), (false, 0.0));
}

#[test]
fn chinese_answers_are_judged_by_their_longest_common_run() {
    let score = |answer: &str, right: &[&str]| {
        let judged = judge(answer, right, Scoring::Auto);
        (judged.exact_match, judged.f1)
    };
    assert_eq!(score("北京大学。", &["北京大学"]), (true, 1.0));
    // Three characters in a row, of four and of five: 2·(3/4)(3/5)/(3/4+3/5).
    let (exact, f1) = score("北京大楼", &["在北京大学"]);
    assert!(!exact && (f1 - 2.0 / 3.0).abs() < 1e-15, "{f1}");
    // A run, not a bag: reversed, one character is common.
    assert_eq!(score("京北", &["北京"]), (false, 0.5));
    // A word of another script is one segment.
    assert_eq!(score("iPhone手机", &["IPHONE 手机"]), (false, 1.0));
    assert_eq!(score("电影", &["书", "电影"]), (true, 1.0));
}

#[test]
fn sentences_are_all_of_a_text() {
    let split = |text: &str| -> Vec<String> {
        let places = wherefore::task::sentences(text);
        let characters: Vec<char> = text.chars().collect();
        assert!(places.windows(2).all(|pair| pair[0].1 == pair[1].0), "{places:?}");
        assert_eq!(places.last().map_or(0, |last| last.1), characters.len());
        places.iter().map(|&(start, end)| characters[start..end].iter().collect()).collect()
    };
    assert_eq!(split("One. Two! 3.5 is a number? Yes"), ["One. ", "Two! ", "3.5 is a number? ", "Yes"]);
    assert_eq!(split("很好。也不错\u{FF01}再来;见"), ["很好。", "也不错\u{FF01}", "再来;", "见"]);
    assert_eq!(split("中文.然后 more... \"End.\" !!"), ["中文.", "然后 more... ", "\"End.\" !!"]);
    assert_eq!(split(""), [""; 0]);
    assert_eq!(split("no end"), ["no end"]);
}

#[test]
fn no_answer_reaches_across_a_seam() {
    // Four tokens of two characters; the best span is the whole context.
    let encoding = Encoding {
        ids: vec![7; 4],
        offsets: (0..4).map(|token| Some((2 * token, 2 * token + 2))).collect(),
        segments: vec![Some(1); 4],
        ..Encoding::default()
    };
    let z = [9.0, 0.0, 0.0, 1.0, 2.0, 0.0, 0.0, 9.0];
    let found = |seams: &[usize]| {
        let found = answers_between(seams, [(&encoding, &z[..])], &AnswerOptions::default());
        found.best.iter().map(|answer| (answer.start, answer.end)).collect::<Vec<_>>()
    };
    let whole = answers([(&encoding, &z[..])], &AnswerOptions::default());
    assert_eq!((found(&[])[0], (whole.best[0].start, whole.best[0].end)), ((0, 8), (0, 8)));
    assert_eq!(found(&[4])[..2], [(4, 8), (0, 4)]);
    assert_eq!(found(&[4]).len(), 6, "three on each side");
    assert_eq!(found(&[2, 6]), [(0, 2), (6, 8), (4, 6), (2, 4), (2, 6)]);
}

#[test]
fn an_answer_is_placed_by_what_of_it_has_tokens() {
    // [CLS] q [SEP] The city Paris is here [SEP], of which "is here" is in no other window.
    let offsets =
        [None, Some((0, 1)), None, Some((0, 3)), Some((4, 8)), Some((9, 14)), Some((15, 17)), Some((18, 22)), None];
    let segments = [None, Some(0), None, Some(1), Some(1), Some(1), Some(1), Some(1), None];
    let window = Encoding { offsets: offsets.into(), segments: segments.into(), ..Encoding::default() };
    for (answer, tokens) in
        [((9, 14), (5, 5)), ((8, 15), (5, 5)), ((9, 17), (5, 6)), ((0, 22), (3, 7)), ((10, 13), (5, 5))]
    {
        assert_eq!(place(&window, answer.0, answer.1), Some(tokens), "{answer:?}");
    }
    // What goes on before the window or behind it is not whole in it; what has no token is nowhere.
    let cut = Encoding { offsets: offsets[4..8].into(), segments: segments[4..8].into(), ..Encoding::default() };
    for answer in [(0, 8), (3, 8), (18, 23), (22, 25)] {
        assert_eq!(place(&cut, answer.0, answer.1), None, "{answer:?}");
    }
    assert_eq!(place(&window, 14, 15), None);

    let record = |text: &str, start| Record {
        pair: Some("The city Paris is here".into()),
        label: Some(Label::Answers(vec![Answer { text: text.into(), start: Some(start) }])),
        ..Record::default()
    };
    assert_eq!(gold_span(&record(" Paris ", 8)), Ok(Some((9, 14))));
    assert_eq!(gold_span(&record(" ", 8)), Ok(Some((8, 9))));
}
