//! Tests of `wherefore::report`: the explain record in every format, and the page.

mod command;
mod explanation;
mod page;

use serde_json::json;
use wherefore::report::{Explanation, Neighbour, Prediction, Probabilities, SearchResult, WordScore};

/// An explanation of the words of `text` (parted by spaces) with these scores, one token a word between `[CLS]` and
/// `[SEP]`.
fn explanation(id: &str, index: u64, text: &str, scores: &[f32]) -> Explanation {
    let mut made = Explanation {
        id: id.into(),
        index,
        method: "integrated-gradients".into(),
        predicted: json!("ham"),
        target: "ham".into(),
        output: 0.75,
        baseline_output: Some(0.5),
        convergence_delta: Some(-0.0012),
        steps: Some(50),
        converged: Some(true),
        tokens: vec!["[CLS]".into()],
        offsets: vec![None],
        segments: vec![None],
        scores: vec![0.0],
        ..Explanation::default()
    };
    let mut start = 0;
    for (word, &score) in text.split(' ').zip(scores) {
        let end = start + word.chars().count();
        made.tokens.push(word.to_lowercase());
        made.offsets.push(Some((start, end)));
        made.segments.push(Some(0));
        made.scores.push(score);
        made.words.push(WordScore { text: word.into(), start, end, segment: 0, score });
        start = end + 1;
    }
    made.tokens.push("[SEP]".into());
    made.offsets.push(None);
    made.segments.push(None);
    made.scores.push(0.0);
    made
}

fn neighbour(rank: u64, score: f32, text: &str) -> Neighbour {
    let label = Some(json!("ham"));
    Neighbour {
        rank,
        index: rank,
        id: format!("t{rank}"),
        score,
        label: label.clone(),
        predicted: label,
        text: text.into(),
        text_pair: None,
        columns: std::collections::BTreeMap::new(),
        parts: Vec::new(),
        entities: Vec::new(),
        copies: None,
        detail: None,
        error: None,
    }
}

fn search(id: &str, index: u64, text: &str) -> SearchResult {
    SearchResult {
        id: id.into(),
        index,
        text: text.into(),
        text_pair: None,
        label: Some(json!("spam")),
        predicted: json!("ham"),
        probability: Some(0.75),
        target: json!("ham"),
        span: None,
        rule: "grad-cos".into(),
        proponents: vec![neighbour(1, 0.9, "much like it")],
        opponents: vec![neighbour(1, -0.8, "nothing like it")],
        groups: Vec::new(),
        candidates: None,
        certain: None,
    }
}

fn prediction(id: &str, index: u64) -> Prediction {
    Prediction {
        id: id.into(),
        index,
        label: Some(json!("ham")),
        predicted: json!("ham"),
        probabilities: Probabilities(vec![("ham".into(), 0.75), ("spam".into(), 0.25)]),
        logits: vec![1.0, -0.5],
    }
}
