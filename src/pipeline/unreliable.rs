//! `audit unreliable`: the evidence about each prediction, gathered by the model that made it.
//!
//! | evidence | what it is | where from |
//! |---|---|---|
//! | probability | of the predicted class | the model |
//! | neighbours | the share of the nearest training records, by similarity, that are labelled as predicted | feature cosine |
//! | similarity | the mean cosine to the nearest three | the same |
//! | stability | how much of the rationale comes back when other words are left out of the text: the mean overlap (intersection over union) of the rationales of changed copies, 0 where the prediction changes | `explain` |
//! | agreement | of pairs: how well the most important words of each segment are those of the other (mean average precision, both ways) | `explain` |

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::{ExplainOptions, Rejections, Settings, explain, nearest_records};
use crate::audit::{self, Evidence};
use crate::dataset::{Dataset, Record};
use crate::error::{Error, Result};
use crate::explain::{Method, Options, Rationale, Segmentation};
use crate::model::{Model, Problem};
use crate::numeric::area_under_roc;
use crate::random::{Purpose, Stream};
use crate::report::{Explanation, NearRecord, Neighbour, SearchResult, UnreliableRecord, WordScore};
use crate::store::Store;

/// How evidence is gathered.
#[derive(Clone, Debug, Default)]
pub struct TrustOptions {
    /// How words are scored.
    pub method: Method,
    /// What decides its numbers.
    pub options: Options,
    /// Words in a rationale.
    pub rationale: usize,
    /// Changed copies of each record.
    pub copies: u32,
    /// Nearest training records asked.
    pub neighbours: usize,
    /// Of what is drawn.
    pub seed: u64,
    /// Bytes that the search may take.
    pub memory: usize,
}

/// The share of a copy's other words that is left out.
const LEFT_OUT: f64 = 0.15;
/// Nearest training records of the mean similarity.
const NEAREST: usize = 3;
/// Training records shown.
const SHOWN: usize = 5;
/// Agreement up to which accuracies are told, as published.
const AGREEMENTS: [f64; 6] = [0.2, 0.3, 0.4, 0.5, 0.6, 1.0];

/// A prediction and the evidence about it.
#[derive(Clone, Debug, Default)]
pub struct Judged {
    record: UnreliableRecord,
    /// Whether it is right, where that is known.
    right: Option<bool>,
}

/// Predictions by their trust.
#[derive(Clone, Debug, Default)]
pub struct Unreliable {
    /// The least trusted first.
    pub records: Vec<UnreliableRecord>,
    /// The kinds of evidence.
    pub evidence: Vec<String>,
    /// What a standard deviation of each adds to the log-odds; `None` where trust is by ranks alone.
    pub weights: Option<Vec<f64>>,
    /// Trust of the records that have a label, in the order of `right`.
    pub trust: Vec<f64>,
    /// Whether they are right.
    pub right: Vec<Option<bool>>,
    /// By evidence and of trust: the probability that a wrong prediction has less of it than a right one (the area
    /// under the ROC curve).
    pub ranks_errors: Vec<(String, f64)>,
    /// Of pairs: (agreement at most, how many, the share that is right).
    pub agreement: Vec<(f64, usize, f64)>,
}

/// Gathers the evidence about the model's predictions for a data set. `fits`: trust will be fitted to them, so that too
/// few of known label are refused before anything is explained.
///
/// # Errors
/// [`Error::Usage`] for a model of another problem than single-label classification, and as [`audit::check_known`];
/// whatever searching and explaining fail with.
pub fn judge(
    model: &Model,
    store: &Store,
    dataset: Dataset,
    options: &TrustOptions,
    settings: &Settings,
    rejections: &mut Rejections,
    fits: bool,
) -> Result<Vec<Judged>> {
    if model.problem() != Problem::SingleLabel {
        return Err(Error::usage("predictions can be judged where each record has one class"));
    }
    let k = options.neighbours.max(NEAREST);
    let near = nearest_records(model, store, dataset, k, options.memory, settings, rejections)?;
    if fits {
        audit::check_known(&near.iter().map(is_right).collect::<Vec<_>>())?;
    }
    let texts = near.iter().map(|result| record(result, result.text.clone(), result.text_pair.clone())).collect();
    let own = explanations(model, Dataset::texts_of(texts), options, settings)?;
    let mut copies: Vec<Vec<Explanation>> = Vec::new();
    for copy in 0..options.copies {
        let changed = near.iter().zip(&own).map(|(result, own)| changed(result, own, options, copy)).collect();
        copies.push(explanations(model, Dataset::texts_of(changed), options, settings)?);
    }
    let judged = near.iter().zip(&own).enumerate().map(|(i, (result, own))| {
        let copies: Vec<&Explanation> = copies.iter().filter_map(|copies| copies.get(i)).collect();
        judged(result, own, &copies, options)
    });
    Ok(judged.collect())
}

fn explanations(
    model: &Model,
    dataset: Dataset,
    options: &TrustOptions,
    settings: &Settings,
) -> Result<Vec<Explanation>> {
    let how = ExplainOptions {
        method: options.method,
        options: options.options.clone(),
        words: Segmentation::Segmenter,
        rationale: Rationale::Count(options.rationale),
        ..ExplainOptions::default()
    };
    let mut all = Vec::new();
    // They have been read, and run, before.
    let mut rejections = Rejections::new(false, None);
    explain(model, dataset, &how, settings, &mut rejections, &mut |explanation| {
        all.push(explanation.clone());
        Ok(())
    })?;
    Ok(all)
}

fn is_right(result: &SearchResult) -> Option<bool> {
    result.label.as_ref().map(|label| *label == result.predicted)
}

/// The record without some of the words that are in no rationale.
fn changed(result: &SearchResult, own: &Explanation, options: &TrustOptions, copy: u32) -> Record {
    let kept: HashSet<usize> = own.rationale.iter().copied().collect();
    let others: Vec<usize> = (0..own.words.len()).filter(|word| !kept.contains(word)).collect();
    let draws = Stream::new(options.seed, Purpose::Masks);
    let mut order = others.clone();
    draws.shuffle(&mut order, |last| ((copy << 16) | last as u32, result.index as u32));
    order.truncate((LEFT_OUT * others.len() as f64).ceil() as usize);
    let gone = |segment: u8| -> Vec<&WordScore> {
        order.iter().map(|&word| &own.words[word]).filter(|word| word.segment == segment).collect()
    };
    let pair = result.text_pair.as_ref().map(|pair| without(pair, &gone(1)));
    record(result, without(&result.text, &gone(0)), pair)
}

fn record(of: &SearchResult, text: String, pair: Option<String>) -> Record {
    Record { index: of.index, id: of.id.clone(), text, pair, ..Record::default() }
}

fn without(text: &str, words: &[&WordScore]) -> String {
    let gone = |at: usize| words.iter().any(|word| (word.start..word.end).contains(&at));
    text.chars().enumerate().filter(|(at, _)| !gone(*at)).map(|(_, c)| c).collect()
}

fn judged(result: &SearchResult, own: &Explanation, copies: &[&Explanation], options: &TrustOptions) -> Judged {
    let asked = &result.proponents[..result.proponents.len().min(options.neighbours)];
    let weight = |near: &Neighbour| f64::from(near.score.max(0.0));
    let agreeing = asked.iter().filter(|near| near.label.as_ref() == Some(&result.predicted));
    let all: f64 = asked.iter().map(weight).sum();
    let mut evidence = Map::new();
    let mut put = |name: &str, value: Option<f64>| drop(evidence.insert(name.to_owned(), json!(value)));
    put("probability", result.probability.map(f64::from));
    put("neighbours", (all > 0.0).then(|| agreeing.map(weight).sum::<f64>() / all));
    put("similarity", Some(f64::from(audit::mean(result.proponents.iter().take(NEAREST).map(|near| near.score)))));
    put("stability", stability(own, copies));
    if result.text_pair.is_some() {
        put("agreement", agreement(own));
    }
    let near = |near: &Neighbour| NearRecord {
        index: near.index,
        id: near.id.clone(),
        label: near.label.as_ref().map(plain),
        score: near.score,
        text: near.text.clone(),
        text_pair: near.text_pair.clone(),
    };
    let record = UnreliableRecord {
        index: result.index,
        id: result.id.clone(),
        label: result.label.clone(),
        predicted: result.predicted.clone(),
        reason: reason(&evidence, asked, &result.predicted),
        rationale: own.rationale.iter().filter_map(|&at| Some(own.words.get(at)?.text.clone())).collect(),
        nearest: result.proponents.iter().take(SHOWN).map(near).collect(),
        text: result.text.clone(),
        text_pair: result.text_pair.clone(),
        evidence,
        ..UnreliableRecord::default()
    };
    Judged { right: is_right(result), record }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn words(explanation: &Explanation) -> HashSet<String> {
    explanation.rationale.iter().filter_map(|&at| Some(explanation.words.get(at)?.text.to_lowercase())).collect()
}

fn stability(own: &Explanation, copies: &[&Explanation]) -> Option<f64> {
    let ours = words(own);
    let overlap = |copy: &&Explanation| {
        if copy.predicted != own.predicted {
            return 0.0;
        }
        let theirs = words(copy);
        let union = ours.union(&theirs).count();
        if union == 0 { 1.0 } else { ours.intersection(&theirs).count() as f64 / union as f64 }
    };
    (!copies.is_empty()).then(|| copies.iter().map(overlap).sum::<f64>() / copies.len() as f64)
}

/// Both segments' words by falling importance, compared both ways.
fn agreement(own: &Explanation) -> Option<f64> {
    let ranked = |segment: u8| -> Vec<String> {
        let mut words: Vec<&WordScore> = own.words.iter().filter(|word| word.segment == segment).collect();
        words.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.start.cmp(&b.start)));
        words.into_iter().map(|word| word.text.to_lowercase()).collect()
    };
    let (first, second) = (ranked(0), ranked(1));
    let both = audit::shared_tops(&first, &second) + audit::shared_tops(&second, &first);
    (!first.is_empty() && !second.is_empty()).then_some(both / 2.0)
}

fn reason(evidence: &Map<String, Value>, asked: &[Neighbour], predicted: &Value) -> String {
    let number = |name: &str| evidence.get(name).and_then(Value::as_f64);
    let others = asked.iter().filter(|near| near.label.as_ref() != Some(predicted)).count();
    let said = [
        number("probability").map(|p| format!("{:.0} % sure", 100.0 * p)),
        Some(format!("{others} of the {} nearest are labelled otherwise", asked.len())),
        number("stability").map(|s| format!("{:.0} % of its reasons stay when the text is perturbed", 100.0 * s)),
        number("agreement").map(|a| format!("the pair's words agree by {a:.2}")),
    ];
    said.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

/// Fits trust to the predictions of known label (`known`, or where there are none those among `asked`; where these are
/// too few, trust is by ranks), and ranks the asked ones by it.
///
/// # Errors
/// As [`audit::calibrate`], where there are known ones.
pub fn rank(known: &[Judged], mut asked: Vec<Judged>) -> Result<Unreliable> {
    let fitted_apart = !known.is_empty();
    let names: Vec<String> =
        asked.first().map(|judged| judged.record.evidence.keys().cloned().collect()).unwrap_or_default();
    let row = |judged: &Judged| -> Vec<f64> {
        names.iter().map(|name| judged.record.evidence.get(name).and_then(Value::as_f64).unwrap_or(f64::NAN)).collect()
    };
    let rows: Vec<Vec<f64>> = known.iter().chain(&asked).map(row).collect();
    // With data of their own to be fitted to, the labels of those asked about are for the calibration alone.
    let hidden = |judged: &Judged| judged.right.filter(|_| !fitted_apart);
    let right: Vec<Option<bool>> = known.iter().map(|judged| judged.right).chain(asked.iter().map(hidden)).collect();
    let evidence = Evidence { names: names.clone(), rows };
    let calibration = if fitted_apart || audit::check_known(&right).is_ok() {
        audit::calibrate(&evidence, &right)?
    } else {
        audit::by_ranks(&evidence)
    };
    let of_asked = &evidence.rows[known.len()..];
    for (judged, trust) in asked.iter_mut().zip(&calibration.trust[known.len()..]) {
        (judged.record.trust, judged.record.score) = (*trust, 1.0 - trust);
    }
    let right: Vec<Option<bool>> = asked.iter().map(|judged| judged.right).collect();
    let trust: Vec<f64> = asked.iter().map(|judged| judged.record.trust).collect();
    let column = |at: usize| -> Vec<f64> { of_asked.iter().map(|row| row[at]).collect() };
    let mut ranks_errors: Vec<(String, f64)> =
        names.iter().enumerate().filter_map(|(at, name)| Some((name.clone(), area(&column(at), &right)?))).collect();
    ranks_errors.extend(area(&trust, &right).map(|area| ("trust".to_owned(), area)));
    let agreement = names.iter().position(|name| name == "agreement").map(|at| up_to(&column(at), &right));
    let mut records: Vec<UnreliableRecord> = asked.into_iter().map(|judged| judged.record).collect();
    records.sort_by(|a, b| a.trust.total_cmp(&b.trust).then(a.index.cmp(&b.index)));
    (1..).zip(&mut records).for_each(|(rank, record)| record.rank = rank);
    let (evidence, weights) = (names, calibration.weights);
    Ok(Unreliable { records, evidence, weights, trust, right, ranks_errors, agreement: agreement.unwrap_or_default() })
}

/// The probability that a wrong prediction has the smaller value; ties count half.
fn area(values: &[f64], right: &[Option<bool>]) -> Option<f64> {
    let known =
        values.iter().zip(right).filter_map(|(value, is)| is.filter(|_| value.is_finite()).map(|is| (*value, is)));
    let (values, right): (Vec<f64>, Vec<bool>) = known.unzip();
    area_under_roc(&values, &right)
}

fn up_to(values: &[f64], right: &[Option<bool>]) -> Vec<(f64, usize, f64)> {
    let slice = |&most: &f64| {
        let found: Vec<bool> =
            values.iter().zip(right).filter(|(v, _)| **v <= most).filter_map(|(_, is)| *is).collect();
        (most, found.len(), found.iter().filter(|is| **is).count() as f64 / found.len().max(1) as f64)
    };
    AGREEMENTS.iter().map(slice).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_area_is_the_share_of_pairs_in_order() {
        let right = [Some(true), Some(false), Some(true), None, Some(false)];
        assert_eq!(area(&[0.9, 0.1, 0.5, 0.0, 0.5], &right), Some((1.0 + 1.0 + 1.0 + 0.5) / 4.0));
        assert_eq!(area(&[0.9], &[Some(true)]), None);
    }

    #[test]
    fn a_pair_agrees_where_its_important_words_are_shared() {
        let word = |text: &str, segment, score| WordScore { text: text.into(), start: 0, end: 1, segment, score };
        let of = |words| Explanation { words, ..Explanation::default() };
        let same = of(vec![word("a", 0, 0.9), word("b", 0, 0.1), word("b", 1, 0.2), word("A", 1, 0.7)]);
        assert_eq!(agreement(&same), Some(1.0));
        let apart = of(vec![word("a", 0, 0.9), word("c", 1, 0.2)]);
        assert_eq!(agreement(&apart), Some(0.0));
        assert_eq!(agreement(&of(vec![word("a", 0, 0.9)])), None);
    }

    #[test]
    fn words_go_from_their_own_segment() {
        let word = |start, end| WordScore { text: String::new(), start, end, segment: 0, score: 0.0 };
        assert_eq!(without("很好看的电影", &[&word(0, 1), &word(3, 4)]), "好看电影");
    }
}
