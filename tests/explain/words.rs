//! Tests of the words: what a word is, which tokens it has, and what it scores.

use std::path::Path;

use proptest::prelude::*;
use wherefore::dataset::Record;
use wherefore::explain::{Rationale, Segmentation, Words};
use wherefore::tokens::{Encoding, Tokenizer, TokenizerOptions};

fn record(text: &str, pair: Option<&str>) -> Record {
    Record { text: text.into(), pair: pair.map(Into::into), ..Record::default() }
}

/// An encoding whose tokens came from these characters, with `[CLS]` before them and a `[SEP]` after each segment.
fn encoding(segments: &[&[(usize, usize)]]) -> Encoding {
    let mut made = Encoding { offsets: vec![None], segments: vec![None], ..Encoding::default() };
    for (segment, offsets) in segments.iter().enumerate() {
        made.offsets.extend(offsets.iter().map(|&offset| Some(offset)).chain([None]));
        made.segments.extend(offsets.iter().map(|_| Some(segment as u8)).chain([None]));
    }
    let tokens = made.offsets.len();
    Encoding { ids: vec![0; tokens], type_ids: vec![0; tokens], tokens: vec![String::new(); tokens], ..made }
}

/// One token for each character.
fn by_character(text: &str) -> Encoding {
    let offsets: Vec<_> = (0..text.chars().count()).map(|i| (i, i + 1)).collect();
    encoding(&[&offsets])
}

fn texts(words: &Words) -> Vec<&str> {
    words.list().iter().map(|word| word.text.as_str()).collect()
}

/// The words of a text whose every character has a token.
fn words_of(text: &str, segmentation: Segmentation) -> Vec<String> {
    let words = Words::new(&record(text, None), &by_character(text), segmentation);
    words.list().iter().map(|word| word.text.clone()).collect()
}

/// The tokenizer of a golden model, and what it makes of a text or pair.
fn encode(model: &str, record: &Record, length: usize) -> Encoding {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(model);
    let options = TokenizerOptions { segments: true, vocabulary: usize::MAX };
    Tokenizer::load(&folder, &options).unwrap().encode(&record.text, record.pair.as_deref(), length).unwrap()
}

#[test]
fn a_word_scores_the_sum_of_its_sub_words() {
    // un ##watch ##able movie !
    let text = "unwatchable movie!";
    let encoding = encoding(&[&[(0, 2), (2, 7), (7, 11), (12, 17), (17, 18)]]);
    let words = Words::new(&record(text, None), &encoding, Segmentation::default());
    assert_eq!(texts(&words), ["unwatchable", "movie", "!"]);
    assert_eq!(words.tokens_of(0), [(1, 1.0), (2, 1.0), (3, 1.0)]);
    assert_eq!(words.scores(&[9.0_f32, -0.5, -0.25, -1.0, 0.5, 0.125, 9.0]), [-1.75, 0.5, 0.125]);
    let place = |i: usize| (words.list()[i].start, words.list()[i].end, words.list()[i].segment);
    assert_eq!((place(0), place(1), place(2)), ((0, 11, 0), (12, 17, 0), (17, 18, 0)));
}

#[test]
fn a_sub_word_over_two_words_gives_half_to_each() {
    // A token for "do n" of "do not", as a byte-level vocabulary may have, and one for the rest.
    let words = Words::new(&record("do not", None), &encoding(&[&[(0, 4), (4, 6)]]), Segmentation::Segmenter);
    assert_eq!(texts(&words), ["do", "not"]);
    assert_eq!((words.tokens_of(0), words.tokens_of(1)), (&[(1, 0.5)][..], &[(1, 0.5), (2, 1.0)][..]));
    assert_eq!(words.scores(&[0.0_f64, 3.0, 1.0, 0.0]), [1.5, 2.5]);
}

#[test]
fn a_token_of_no_word_gives_nothing() {
    // The space has a token of its own, and so has the empty place before the text.
    let words =
        Words::new(&record("a b", None), &encoding(&[&[(0, 0), (0, 1), (1, 2), (2, 3)]]), Segmentation::Segmenter);
    assert_eq!(texts(&words), ["a", "b"]);
    assert_eq!(words.scores(&[0.0_f32, 100.0, 1.0, 100.0, 2.0, 0.0]), [1.0, 2.0]);
}

#[test]
fn unicode_words_keep_their_marks_and_punctuation_stands_alone() {
    let cut = |text| words_of(text, Segmentation::Segmenter);
    assert_eq!(cut("I can't, it's 3.14!"), ["I", "can't", ",", "it's", "3.14", "!"]);
    assert_eq!(cut("well-known… naïve cafe\u{301}"), ["well", "-", "known", "…", "naïve", "cafe\u{301}"]);
    assert_eq!(cut(" \t\n\u{3000}"), Vec::<String>::new());
    assert_eq!(cut("Привет, мир"), ["Привет", ",", "мир"]);
}

#[test]
fn emoji_are_one_word_with_all_their_modifiers() {
    let cut = |text| words_of(text, Segmentation::Segmenter);
    assert_eq!(cut("ok 👍🏽👨‍👩‍👧 🇫🇷🇩🇪"), ["ok", "👍🏽", "👨‍👩‍👧", "🇫🇷", "🇩🇪"]);
}

#[test]
fn chinese_words_come_from_the_segmenter() {
    let cut = |text| words_of(text, Segmentation::Segmenter);
    assert_eq!(cut("这部电影太好看了，我喜欢。"), ["这部", "电影", "太", "好看", "了", "，", "我", "喜欢", "。"]);
    assert_eq!(cut("我们中出了一个叛徒"), ["我们", "中出", "了", "一个", "叛徒"]);
}

#[test]
fn characters_hold_ideographs_apart_and_other_words_together() {
    let cut = |text| words_of(text, Segmentation::Characters);
    assert_eq!(cut("这部电影 isn't bad，3.5分"), ["这", "部", "电", "影", "isn't", "bad", "，", "3.5", "分"]);
    assert_eq!(cut("コーヒーを飲む"), ["コーヒー", "を", "飲", "む"]);
    assert_eq!(words_of("这部电影", Segmentation::None), Vec::<String>::new());
}

#[test]
fn english_words_in_a_chinese_text_stay_whole() {
    let cut = |text| words_of(text, Segmentation::Segmenter);
    assert_eq!(cut("我don't喜欢naïve的iPhone手机"), ["我", "don't", "喜欢", "naïve", "的", "iPhone", "手机"]);
    assert_eq!(cut("我穿T恤去面试"), ["我", "穿", "T恤", "去", "面试"]);
}

#[test]
fn a_chinese_word_has_its_characters_or_its_sub_words() {
    let text = "电影好看";
    let words = Words::new(&record(text, None), &by_character(text), Segmentation::Segmenter);
    assert_eq!(words.scores(&[0.0_f32, 1.0, 2.0, 4.0, 8.0, 0.0]), [3.0, 12.0]);
    // 电影好 | 看, as a vocabulary of longer pieces may have it.
    let words = Words::new(&record(text, None), &encoding(&[&[(0, 3), (3, 4)]]), Segmentation::Segmenter);
    assert_eq!(words.scores(&[0.0_f32, 3.0, 8.0, 0.0]), [1.5, 9.5]);
    let words = Words::new(&record(text, None), &encoding(&[&[(0, 3), (3, 4)]]), Segmentation::Characters);
    assert_eq!((texts(&words), words.tokens_of(0)), (vec!["电", "影", "好", "看"], &[(1, 1.0 / 3.0)][..]));
}

#[test]
fn a_pair_keeps_its_segments() {
    let words = Words::new(
        &record("good film", Some("bad film")),
        &encoding(&[&[(0, 4), (5, 9)], &[(0, 3), (4, 8)]]),
        Segmentation::Segmenter,
    );
    let places: Vec<_> = words.list().iter().map(|w| (w.text.as_str(), w.segment, w.start)).collect();
    assert_eq!(places, [("good", 0, 0), ("film", 0, 5), ("bad", 1, 0), ("film", 1, 4)]);
    assert_eq!(words.scores(&[0.0_f32, 1.0, 2.0, 0.0, 3.0, 4.0, 0.0]), [1.0, 2.0, 3.0, 4.0]);
}

#[test]
fn words_that_truncation_cut_off_are_left_out_and_halves_stay() {
    let words =
        Words::new(&record("a remarkable film", None), &encoding(&[&[(0, 1), (2, 8)]]), Segmentation::Segmenter);
    assert_eq!(texts(&words), ["a", "remarkable"]);
    assert_eq!(words.tokens_of(1), [(2, 1.0)]);
    // Cut from the left.
    let words = Words::new(&record("a remarkable film", None), &encoding(&[&[(13, 17)]]), Segmentation::Segmenter);
    assert_eq!((texts(&words), words.list()[0].start), (vec!["film"], 13));
    // Nothing but special tokens is left.
    let words = Words::new(&record("a film", None), &encoding(&[&[]]), Segmentation::Segmenter);
    assert!(words.is_empty() && words.scores(&[1.0_f32, 1.0]).is_empty());
}

#[test]
fn what_lies_beyond_the_cut_does_not_change_the_words_before_it() {
    let text = "好看的电影 is a 3.5 star film";
    for end in 1..=text.chars().count() {
        let offsets: Vec<_> = (0..end).map(|i| (i, i + 1)).collect();
        let words = Words::new(&record(text, None), &encoding(&[&offsets]), Segmentation::Segmenter);
        let all = ["好看", "的", "电影", "is", "a", "3.5", "star", "film"];
        assert_eq!(texts(&words), all[..words.len()], "{end} tokens");
    }
}

#[test]
fn byte_level_pieces_with_their_spaces_belong_to_the_word_alone() {
    let record = record("It is  good, 👍 good", Some("don't"));
    let encoding = encode("roberta-cls2", &record, 512);
    let words = Words::new(&record, &encoding, Segmentation::Segmenter);
    assert_eq!(texts(&words), ["It", "is", "good", ",", "👍", "good", "don't"]);
    // A character of four bytes is several tokens, each wholly its word's.
    assert!(words.tokens_of(4).len() > 1 && words.tokens_of(4).iter().all(|&(_, share)| share == 1.0));
    assert_every_text_token_counts_once(&words, &encoding);
}

#[test]
fn real_tokenizers_give_every_word_its_tokens() {
    for (model, text) in [
        ("bert-cls2", "The unbelievably GOOD film, naïve."),
        ("bert-zh", "这部电影太好看了，I love it"),
        ("xlm-roberta-cls3", "这部电影太好看了 I love it"),
        ("albert-cls2", "the film is good"),
        ("roberta-cls2", "这部电影太好看了 I love it"),
    ] {
        let record = record(text, Some("a good film"));
        for length in [512, 9] {
            let encoding = encode(model, &record, length);
            let words = Words::new(&record, &encoding, Segmentation::Segmenter);
            assert!(words.len() > 2, "{model}: {:?}", texts(&words));
            for word in words.list() {
                let text = if word.segment == 0 { text } else { "a good film" };
                let cut: String = text.chars().skip(word.start).take(word.end - word.start).collect();
                assert_eq!(word.text, cut, "{model}");
            }
            assert_every_text_token_counts_once(&words, &encoding);
        }
    }
}

/// The shares of each token add up to 1, or to 0 for special tokens and white space.
fn assert_every_text_token_counts_once(words: &Words, encoding: &Encoding) {
    let mut shares = vec![0.0; encoding.ids.len()];
    for word in 0..words.len() {
        for &(token, share) in words.tokens_of(word) {
            shares[token] += share;
        }
    }
    for (token, share) in shares.iter().enumerate() {
        let special = encoding.offsets[token].is_none();
        let expected = if special { 0.0 } else { share.round() };
        assert!((share - expected).abs() < 1e-6, "token {:?} counts {share} times", encoding.tokens[token]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn words_score_together_what_their_tokens_score(
        text in "[a-c这部电影 ,.👍é\u{301}]{0,24}",
        cuts in proptest::collection::vec((0_usize..24, 0_usize..4, -1.0_f64..1.0), 0..12),
    ) {
        let length = text.chars().count();
        let offsets: Vec<_> = cuts.iter().map(|&(at, n, _)| (at.min(length), (at + n).min(length))).collect();
        let scores: Vec<f64> = [7.0].into_iter().chain(cuts.iter().map(|cut| cut.2)).chain([7.0]).collect();
        let encoding = encoding(&[&offsets]);
        for segmentation in [Segmentation::Segmenter, Segmentation::Characters] {
            let words = Words::new(&record(&text, None), &encoding, segmentation);
            let together: f64 = words.scores(&scores).into_iter().map(f64::from).sum();
            let characters: Vec<char> = text.chars().collect();
            // What a token must overlap to count: anything but white space (words are whole, so that decides it).
            let is_covered = |&(start, end): &(usize, usize)| characters[start..end].iter().any(|c| !c.is_whitespace());
            let in_word = |offset: &(usize, usize)| is_covered(offset) || overlaps(&words, *offset);
            let covered: f64 = offsets.iter().zip(&scores[1..]).filter(|(o, _)| in_word(o)).map(|(_, s)| s).sum();
            prop_assert!((together - covered).abs() <= 1e-5, "{together} and {covered}");
            prop_assert!(words.list().iter().all(|word| !word.text.trim().is_empty()));
        }
    }
}

/// A combining mark after a space is one Unicode piece with it.
fn overlaps(words: &Words, (start, end): (usize, usize)) -> bool {
    words.list().iter().any(|word| start < end && word.start < end && start < word.end)
}

#[test]
fn the_rationale_is_the_words_with_the_highest_signed_scores() {
    let scores = [0.5, -2.0, 1.0, 0.5, -0.0, 0.0];
    assert_eq!(Rationale::Count(3).choose(&scores), [2, 0, 3]);
    assert_eq!(Rationale::Count(9).choose(&scores), [2, 0, 3, 4, 5, 1]);
    assert_eq!(Rationale::Share(0.2).choose(&scores), [2, 0]);
    assert_eq!(Rationale::Share(0.01).choose(&scores), [2]);
    assert_eq!(Rationale::Share(0.5).choose(&[]), [0; 0]);
    assert_eq!(Rationale::Share(0.07).choose(&[1.0; 100]).len(), 7);
}

#[test]
fn rationales_and_segmentations_are_read_as_they_are_written() {
    for text in ["5", "1", "0.311", "0.5"] {
        assert_eq!(text.parse::<Rationale>().unwrap().to_string(), text);
    }
    for text in ["0", "-1", "1.0", "0.0", "1.5", "half", "", "NaN"] {
        let error = text.parse::<Rationale>().unwrap_err();
        assert!(error.contains(&format!("found {text:?}")), "{error}");
    }
    for name in ["segmenter", "characters", "none"] {
        assert_eq!(name.parse::<Segmentation>().unwrap().to_string(), name);
    }
    assert!("jieba".parse::<Segmentation>().unwrap_err().starts_with("expected segmenter, characters or none"));
}
