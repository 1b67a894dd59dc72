//! All results of one record.

use serde_json::Value;

use super::card::is_measured;
use super::heat;
use super::marked::Marked;
use crate::report::{
    ContextSelection, Explanation, MaskPrediction, Neighbour, Prediction, SearchResult, SpanPrediction, TagPrediction,
    WordScore,
};

/// Training records shown at each end of a ranking, at most.
const NEIGHBOURS: usize = 10;

/// Best answers shown, that there is none beside.
const ANSWERS: usize = 5;

/// What a result says of the texts that it is of.
#[derive(Debug)]
pub(super) enum Said<'a> {
    /// All of them.
    Texts(&'a str, Option<&'a str>),
    /// Their words, and where they are.
    Words(&'a [WordScore]),
    Nothing,
}

impl<'a> Said<'a> {
    pub(super) fn of_explanation(explanation: &'a Explanation) -> Self {
        if explanation.words.is_empty() { Self::Nothing } else { Self::Words(&explanation.words) }
    }
}

/// What is known of one record.
#[derive(Debug, Default)]
pub(super) struct Entry {
    pub(super) id: String,
    pub(super) index: u64,
    /// Both segments, where a result told them.
    pub(super) text: Option<String>,
    pub(super) pair: Option<String>,
    pub(super) label: Option<Value>,
    /// Null until a result says.
    pub(super) predicted: Value,
    /// The predicted class's probability.
    pub(super) probability: Option<f32>,
    pub(super) explanations: Vec<Explanation>,
    pub(super) searches: Vec<Search>,
    pub(super) prediction: Option<Prediction>,
    /// Texts with what was found in them, as models that say something of tokens have it.
    pub(super) marked: Vec<Marked>,
    /// The best answers to a question with their scores, the best first; an empty one is that there is none.
    pub(super) answers: Vec<(String, f32)>,
    /// Whether what was found is right, where that is known of itself.
    right: Option<bool>,
    /// The fingerprints of the data that its results are of, where they are known.
    data: Vec<String>,
}

/// A search with as many neighbours as are shown, and how many there were at each end, of each group's ends too.
#[derive(Debug)]
pub(super) struct Search {
    pub(super) result: SearchResult,
    pub(super) found: [usize; 2],
    pub(super) groups: Vec<[usize; 2]>,
}

impl Entry {
    pub(super) fn new(id: &str, index: u64) -> Self {
        Self { id: id.to_owned(), index, ..Self::default() }
    }

    pub(super) fn add_data(&mut self, fingerprint: Option<&str>) {
        if let Some(new) = fingerprint.filter(|new| !self.data.iter().any(|known| known == new)) {
            self.data.push(new.to_owned());
        }
    }

    /// Whether a result of this number and id is of this record: its texts are the same. Where those do not tell, the
    /// data are, unless nothing speaks against it and it need not be so `surely`.
    pub(super) fn is_same(&self, said: &Said<'_>, data: Option<&str>, surely: bool) -> bool {
        if let Some(is_same) = self.has_texts(said) {
            return is_same;
        }
        let are_same = data.is_some_and(|data| self.data.iter().any(|known| known == data));
        let has_own_id = self.id != self.index.to_string();
        are_same || (!surely && (has_own_id || data.is_none() || self.data.is_empty()))
    }

    /// Whether its texts are those of a result, where both are known.
    fn has_texts(&self, said: &Said<'_>) -> Option<bool> {
        let known = self.explanations.iter().map(|explanation| &explanation.words).find(|words| !words.is_empty());
        match (said, &self.text) {
            (Said::Nothing, _) => None,
            (Said::Texts(text, pair), Some(own)) => Some(own == text && self.pair.as_deref() == *pair),
            (Said::Texts(text, pair), None) => Some(heat::fit(known?, [Some(text), *pair])),
            (Said::Words(words), Some(own)) => Some(heat::fit(words, [Some(own), self.pair.as_deref()])),
            (Said::Words(words), None) => Some(heat::agree(words, known?)),
        }
    }

    pub(super) fn add_explanation(&mut self, explanation: Explanation) {
        let of_predicted = explanation.predicted.as_str() == Some(&explanation.target);
        let probability = explanation.target_probability().filter(|_| of_predicted);
        if !explanation.is_of_part() {
            self.learn(explanation.label.as_ref(), &explanation.predicted, probability);
        }
        self.explanations.push(explanation);
    }

    pub(super) fn add_prediction(&mut self, prediction: Prediction) {
        let highest = prediction.probabilities.0.iter().map(|(_, p)| *p).reduce(f32::max);
        let probability = highest.filter(|_| prediction.predicted.is_string());
        self.learn(prediction.label.as_ref(), &prediction.predicted, probability);
        self.prediction.get_or_insert(prediction);
    }

    pub(super) fn add_spans(&mut self, prediction: SpanPrediction) {
        let SpanPrediction { question, context, answers, answer, exact_match, n_best, no_answer_score, .. } =
            prediction;
        let label = answers.map(|answers| Value::from(answers.join(" | ")));
        let said = if answer.text.is_empty() { "no answer" } else { &answer.text };
        self.learn(label.as_ref(), &said.into(), None);
        self.right = exact_match;
        if self.answers.is_empty() {
            let others = n_best.iter().filter_map(|other| Some((other.text.clone(), other.score?)));
            self.answers = others.take(ANSWERS).chain([("no answer".to_owned(), no_answer_score)]).collect();
            self.answers.sort_by(|a, b| b.1.total_cmp(&a.1));
        }
        self.ask(&question);
        self.marked.push(Marked::new(&context, vec![(answer.start, answer.end, String::new())]));
        (self.text, self.pair) = (Some(question), Some(context));
    }

    /// A question stands above all that was answered.
    fn ask(&mut self, question: &str) {
        if self.marked.is_empty() {
            self.marked.push(Marked::new(question, Vec::new()));
        }
    }

    /// `file` is the name of the file that it is of; empty where that is not known.
    pub(super) fn add_selection(&mut self, selection: ContextSelection, file: &str) {
        let ContextSelection { question, context, answers, answer, exact_match, sentences, .. } = selection;
        let label = answers.map(|answers| Value::from(answers.join(" | ")));
        let said = if answer.text.is_empty() { "no answer" } else { &answer.text };
        self.learn(label.as_ref(), &said.into(), None);
        self.right = self.right.or(exact_match);
        let gaps: Vec<_> = sentences.iter().filter(|sentence| !sentence.kept).map(|s| (s.start, s.end)).collect();
        self.ask(&question);
        let selected = Marked::with_gaps(&context, vec![(answer.start, answer.end, String::new())], &gaps);
        let title = "from the kept sentences alone";
        let title = if file.is_empty() { title.to_owned() } else { format!("{title}, by {file}") };
        self.marked.push(selected.titled(title));
        (self.text, self.pair) = (Some(question), Some(context));
    }

    pub(super) fn add_tags(&mut self, prediction: TagPrediction) {
        let named = |entity: &crate::report::EntitySpan| format!("{}: {}", entity.kind, entity.text);
        let gold = prediction.gold();
        let label = gold.as_ref().map(|entities| entities.iter().map(named).collect());
        self.learn(label.as_ref(), &prediction.entities.iter().map(named).collect(), None);
        self.right = self.right.or(gold.map(|gold| {
            let places = |entities: &[crate::report::EntitySpan]| -> Vec<(usize, usize, String)> {
                entities.iter().map(|entity| (entity.start, entity.end, entity.kind.clone())).collect()
            };
            places(&gold) == places(&prediction.entities)
        }));
        let spans = prediction.entities.into_iter().map(|entity| (entity.start, entity.end, entity.kind));
        self.marked.push(Marked::new(&prediction.text, spans.collect()));
        self.text = Some(prediction.text);
    }

    pub(super) fn add_masks(&mut self, prediction: &MaskPrediction) {
        let best = |mask: &crate::report::FilledMask| {
            mask.fills.first().map(|fill| format!("{} {:.3}", fill.token, fill.probability)).unwrap_or_default()
        };
        let fills = prediction.masks.iter().filter_map(|mask| Some(mask.fills.first()?.token.clone()));
        self.learn(None, &fills.collect(), None);
        let spans = prediction.masks.iter().map(|mask| (mask.start, mask.end, best(mask)));
        self.marked.push(Marked::new(&prediction.text, spans.collect()));
        self.text = Some(prediction.text.clone());
    }

    pub(super) fn add_search(&mut self, mut result: SearchResult) {
        // What is predicted of a part, and its label, are not the whole's.
        if !result.is_of_part() {
            let probability = result.probability.filter(|_| result.span.is_none());
            self.learn(result.label.as_ref(), &result.predicted, probability);
        }
        if self.text.is_none() {
            self.text = Some(result.text.clone());
            self.pair.clone_from(&result.text_pair);
        }
        let shown = |ends: [&mut Vec<Neighbour>; 2]| {
            ends.map(|end| {
                let found = end.len();
                end.truncate(NEIGHBOURS);
                found
            })
        };
        let found = shown([&mut result.proponents, &mut result.opponents]);
        let groups =
            result.groups.iter_mut().map(|group| shown([&mut group.proponents, &mut group.opponents])).collect();
        self.searches.push(Search { result, found, groups });
    }

    /// What several results tell, the first tells.
    fn learn(&mut self, label: Option<&Value>, predicted: &Value, probability: Option<f32>) {
        if self.label.is_none() {
            self.label = label.cloned();
        }
        if self.predicted.is_null() {
            self.predicted = predicted.clone();
        }
        if self.probability.is_none() && self.predicted == *predicted {
            self.probability = probability;
        }
    }

    /// Whether the prediction is the label; nothing where either is missing, or they are numbers.
    pub(super) fn is_right(&self) -> Option<bool> {
        if self.right.is_some() {
            return self.right;
        }
        let label = self.label.as_ref()?;
        if let (Some(right), true) = (label.as_array(), self.predicted.is_string()) {
            return Some(right.contains(&self.predicted));
        }
        let comparable = (self.predicted.is_string() && label.is_string())
            || (self.predicted.is_array() && label.is_array() && !is_measured(label));
        comparable.then(|| *label == self.predicted)
    }
}
