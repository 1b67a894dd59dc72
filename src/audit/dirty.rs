//! Which training labels are likely wrong.
//!
//! Where a record has several, each of its words or masks is judged by itself, from the features of its first token;
//! answers are another matter ([`super::dirty_answers()`]). Every signal is read off the store: no model is run again.
//! Signals that come from the model's own features share its memory of the labels it was trained on; the text
//! classifier has seen neither those nor the label it judges, nor what copies of the record are labelled.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use super::folds::Folds;
use super::judgement::{Judgement, judge, judge_words};
use super::labelled::Classes;
use super::ngrams::Bags;
use super::redundant::sayings;
use super::units::spans;
use super::{folds, map, neighbours, text, word_features};
use crate::error::{Error, Result};
use crate::factors::{
    CHOLESKY_LIMIT, Curvature, CurvatureOptions, FactorKernel, HessianForm, KeepGoing, RefitOptions, RepresenterCompat,
    representer,
};
use crate::model::Task;
use crate::search::{self, EachFactor, Hit, Rule};
use crate::store::{FactorPart, Store};
use crate::task::characters;
use crate::train::Dynamics;

/// A reason to doubt a label. Greater is more suspect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Of records `text`, `confident`, `self-influence` and, by a training's dynamics, `margin`, put together; of words
    /// the first three; of masks `neighbours`, `loss` and `self-influence`; of answers `text`, `self-influence` and
    /// `loss`.
    Combined,
    /// What a linear classifier of n-grams, fitted without the record and its copies, says: the margin of confident
    /// learning. Of a word, the classifier reads the word and its neighbours, and the label's probability says all; of
    /// an answer, how much better another sentence of the context fits the words of the question.
    Text,
    /// The record's weight in a head refitted to the labels: `Σ_c max(α_i[c], 0)` (Yeh et al. 2018).
    Representer,
    /// The same of a head refitted to the model's own probabilities: `TrustAI`'s detector.
    RepresenterSoft,
    /// The influence of the record on its own loss, `g_iᵀ (H + λI)⁻¹ g_i` over the last layer.
    SelfInfluence,
    /// The share of its nearest records, by their similarity, that have another label; copies with its own are not
    /// asked.
    Neighbours,
    /// What a head refitted without the record, and without its copies, says: the margin of confident learning.
    Confident,
    /// How far the label was behind during training: minus the area under the margin (Pleiss et al. 2020).
    Margin,
    /// How often the label was forgotten during training; most where it was never learnt (Toneva et al. 2019).
    Forgetting,
    /// The model's own loss, a word's, a mask's or an answer's.
    Loss,
}

impl Signal {
    /// All, the combination first, and last those that need the training's dynamics, or several labels a record.
    pub const ALL: [Self; 10] = [
        Self::Combined,
        Self::Text,
        Self::Representer,
        Self::RepresenterSoft,
        Self::SelfInfluence,
        Self::Neighbours,
        Self::Confident,
        Self::Margin,
        Self::Forgetting,
        Self::Loss,
    ];

    /// As `--signal` has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Combined => "combined",
            Self::Text => "text",
            Self::Representer => "representer",
            Self::RepresenterSoft => "representer-soft",
            Self::SelfInfluence => "self-influence",
            Self::Neighbours => "neighbours",
            Self::Confident => "confident",
            Self::Margin => "margin",
            Self::Forgetting => "forgetting",
            Self::Loss => "loss",
        }
    }
}

impl FromStr for Signal {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|signal| signal.name() == name)
            .ok_or_else(|| format!("expected one of {}, found {name:?}", Self::ALL.map(Self::name).join(", ")))
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How labels are judged.
#[derive(Clone, Copy)]
pub struct DirtyOptions<'a> {
    /// What records are ranked by.
    pub signal: Signal,
    /// How many of its nearest records vote on a label, and are shown with it. Of many records the search for them
    /// takes longest: 0 leaves it out.
    pub neighbours: usize,
    /// What the training thought of each record, for the signals that ask.
    pub dynamics: Option<&'a Dynamics>,
    /// λ of the representer's refits.
    pub penalty: f64,
    /// λ of the self-influence.
    pub damping: f64,
    /// Of what is drawn: the order in which the text classifier learns.
    pub seed: u64,
    /// How the nearest records are searched for.
    pub search: search::Options<'a>,
    /// Asked between steps.
    pub keep_going: KeepGoing<'a>,
}

/// The labelled records of a store, or their words or masks, the most suspect first. What is judged is numbered in the
/// order of the store: a record by its row, words and masks one record's after another's.
#[derive(Clone, Debug, PartialEq)]
pub struct Dirty {
    /// By falling score, ties by ascending number.
    pub ranking: Vec<usize>,
    /// What labels are ranked by. NaN without a label.
    pub scores: Vec<f32>,
    /// The signals that were computed. NaN without a label.
    pub signals: Vec<(Signal, Vec<f32>)>,
    /// The class of each one's own label.
    pub labels: Vec<Option<usize>>,
    /// The class that the model says each has.
    pub predictions: Vec<Option<usize>>,
    /// The class that each would rather have.
    pub suggestions: Vec<usize>,
    /// The same by each signal that names classes.
    pub verdicts: Vec<(Signal, Vec<usize>)>,
    /// The nearest others of each; empty where they were not looked for.
    pub neighbours: Vec<Vec<Hit>>,
    /// The numbers of each row's.
    pub records: Vec<Range<usize>>,
    /// What is told together, in the order of the store: one each; of words, an entity as it is tagged or would rather
    /// be, with whatever it touches.
    pub spans: Vec<Range<usize>>,
}

/// Ranks the labels of a store's records, words or masks by how suspect they are.
///
/// # Errors
/// [`Error::Usage`]: a store of another problem than single-label classification, of answers, of predicted labels, or
/// without a label; a signal that has no meaning for it; [`Error::Interrupted`]; what the store cannot be read for.
pub fn dirty(store: &Store, options: &DirtyOptions<'_>) -> Result<Dirty> {
    if store.settings().gradients.is_some() {
        return Err(Error::usage("the store holds gradients of the whole model, not factors of its last layer")
            .with_hint("index without --gradients projected"));
    }
    let units = EachFactor::of(store);
    let classes = Classes::of(&units)?;
    if options.signal == Signal::Neighbours && options.neighbours == 0 {
        return Err(Error::usage("the signal neighbours needs some").with_hint("--neighbours 10"));
    }
    if options.signal.needs_dynamics() && options.dynamics.is_none() {
        return Err(Error::usage(format!("the signal {} needs the dynamics of a training", options.signal))
            .with_hint("train with --dynamics DIR, and give that folder here"));
    }
    let task = store.settings().task();
    options.signal.check(task, classes.count)?;
    if let Some(dynamics) = options.dynamics.filter(|_| task == Task::Record) {
        map::expect_same_records(store, dynamics)?;
    }
    let records = units.by_record();
    let learnt = [Signal::Text, Signal::Confident].iter().any(|signal| options.signal.is_made_of(*signal));
    if options.signal == Signal::Text {
        store.expect_texts("the signal text")?;
    }
    // What has no text is no copy of anything.
    let has_texts = store.has_texts()?;
    let said = if has_texts && (options.neighbours > 0 || learnt) {
        sayings(store.rows(), |row| store.record(row).map(|record| (record.text, record.pair)))?
    } else {
        (0..store.rows()).collect()
    };
    // What copies of a text hide is what there is to compare.
    let said_by = |record: usize| if task == Task::Masks { record } else { said[record] };
    let of_units: Vec<usize> =
        records.iter().enumerate().flat_map(|(record, units)| vec![said_by(record); units.len()]).collect();
    let nearest = neighbours::nearest(&units, (&of_units, &classes.labels), options.neighbours, &options.search)?;
    let folds = Folds::new(&records, &said);
    let of_parts = units.are_parts();
    let mut evidence = Evidence { classes: &classes, of_parts, signals: Vec::new(), judgements: Vec::new() };
    let at_hand = |signal: &Signal| match signal {
        Signal::Neighbours => options.neighbours > 0,
        Signal::Loss => options.signal == Signal::Loss || task != Task::Record,
        Signal::Text => has_texts,
        signal => options.dynamics.is_some() || !signal.needs_dynamics(),
    };
    // A head over a vocabulary is refitted where that is asked for.
    let asked = |signal: &Signal| options.signal == *signal || task != Task::Masks || signal.is_of_masks(units.count());
    let made = |signal: &Signal| {
        options.signal.is_made_of(*signal) && signal.check(task, classes.count).is_ok() && asked(signal)
    };
    for signal in Signal::ALL.into_iter().filter(|signal| made(signal) && at_hand(signal)) {
        match signal {
            Signal::Combined => {}
            Signal::Text if of_parts => {
                let bags = word_bags(store, classes.count)?;
                evidence.judge(signal, &text_probabilities(&bags, &folds, &classes, options)?);
            }
            Signal::Text => {
                let read = |row| store.record(row).map(|record| (record.text, record.pair));
                let bags = Bags::read(store.rows(), bits(classes.count), read)?;
                evidence.judge(signal, &text_probabilities(&bags, &folds, &classes, options)?);
            }
            Signal::Confident => evidence.judge(signal, &folds::out_of_fold(store, &folds, options.keep_going)?),
            Signal::Neighbours if task == Task::Masks => evidence.take(signal, outvoted(&nearest, &classes)),
            Signal::Neighbours => evidence.judge(signal, &votes(&nearest, &classes)),
            Signal::Loss => evidence.add(signal, losses(store, &classes)),
            Signal::Representer => evidence.add(signal, alphas(store, RepresenterCompat::Exact, options)?),
            Signal::RepresenterSoft => evidence.add(signal, alphas(store, RepresenterCompat::TrustAi, options)?),
            Signal::SelfInfluence => evidence.add(signal, self_influence(store, options)?),
            Signal::Margin => evidence
                .add(signal, over_training(store, options, |dynamics, row| -dynamics.area_under_margin(row) as f32)),
            Signal::Forgetting => evidence.add(
                signal,
                over_training(store, options, |dynamics, row| {
                    dynamics.forgetting_events(row).unwrap_or(dynamics.epochs()) as f32
                }),
            ),
        }
    }
    let mut found = evidence.rank(options.signal, nearest);
    let names = &store.settings().label_names;
    found.spans = match task {
        Task::Tags => spans(&records, &classes, &found.suggestions, names),
        _ => (0..found.scores.len()).map(|one| one..one + 1).collect(),
    };
    found.records = records;
    Ok(found)
}

impl Dirty {
    /// What is told together, the most suspect first, each by the most suspect label in it: (that one's number, all).
    pub fn findings(&self) -> Vec<(usize, Range<usize>)> {
        let worst = |span: &Range<usize>| {
            let labelled = span.clone().filter(|&unit| !self.scores[unit].is_nan());
            let worst = labelled.max_by(|&a, &b| self.scores[a].total_cmp(&self.scores[b]).then(b.cmp(&a)));
            worst.map(|worst| (worst, span.clone()))
        };
        let mut all: Vec<_> = self.spans.iter().filter_map(worst).collect();
        all.sort_by(|(a, _), (b, _)| self.scores[*b].total_cmp(&self.scores[*a]).then(a.cmp(b)));
        all
    }

    /// Whose a number is: a row of the store, and which of that record's it is.
    pub fn place(&self, unit: usize) -> (usize, usize) {
        let row = self.records.partition_point(|record| record.end <= unit);
        (row, unit - self.records[row].start)
    }
}

/// By row, what the training's dynamics say of the record; nothing of one that was not trained on.
fn over_training(store: &Store, options: &DirtyOptions<'_>, value: impl Fn(&Dynamics, usize) -> f32) -> Vec<f32> {
    let of = |index: &u64| {
        let found = options.dynamics.and_then(|dynamics| dynamics.row_of(*index).map(|row| value(dynamics, row)));
        found.unwrap_or(f32::NAN)
    };
    store.shards().iter().flat_map(|shard| shard.indices().iter().map(of)).collect()
}

impl Signal {
    /// Whether it is cheap of as many masks, over a vocabulary.
    fn is_of_masks(self, masks: usize) -> bool {
        match self {
            Self::SelfInfluence => masks <= FactorKernel::MOST_FACTORS,
            Self::Representer | Self::RepresenterSoft | Self::Confident => false,
            _ => true,
        }
    }

    /// Whether it is read off a training's dynamics.
    pub fn needs_dynamics(self) -> bool {
        matches!(self, Self::Margin | Self::Forgetting)
    }

    /// Refuses a signal that has no meaning for labels of this kind and number.
    fn check(self, task: Task, classes: usize) -> Result<()> {
        let fits_head = |rule: Rule| rule.check_task(task, classes);
        match self {
            Self::Text if task == Task::Masks => {
                Err(Error::usage("the signal text: no classifier of texts tells the pieces of a vocabulary")
                    .with_hint("use loss, neighbours or self-influence"))
            }
            Self::Margin | Self::Forgetting if task != Task::Record => Err(Error::usage(format!(
                "the signal {self}: the dynamics of a training are of records with one label"
            ))
            .with_hint("use combined, text, confident or loss")),
            Self::SelfInfluence => fits_head(Rule::Influence),
            Self::Confident | Self::Representer | Self::RepresenterSoft => fits_head(Rule::Representer),
            _ => Ok(()),
        }
    }

    /// Whether `other` must be computed for this one.
    fn is_made_of(self, other: Self) -> bool {
        self == other || self == Self::Combined
    }
}

/// What the training's verdict counts in the combination, where the text's counts 1.
const MARGIN: f32 = 0.2;

/// Signals on their way to a ranking.
struct Evidence<'a> {
    classes: &'a Classes,
    /// Whether records have several.
    of_parts: bool,
    signals: Vec<(Signal, Vec<f32>)>,
    judgements: Vec<(Signal, Judgement)>,
}

impl Evidence<'_> {
    /// A signal that is a number a record. Records without a label have none.
    fn add(&mut self, signal: Signal, mut values: Vec<f32>) {
        values
            .iter_mut()
            .zip(&self.classes.labels)
            .filter(|(_, label)| label.is_none())
            .for_each(|(x, _)| *x = f32::NAN);
        self.signals.push((signal, values));
    }

    /// A signal that is probabilities `[N, K]`.
    fn judge(&mut self, signal: Signal, probabilities: &[f32]) {
        let judge = if self.of_parts { judge_words } else { judge };
        let judgement = judge(probabilities, &self.classes.labels, self.classes.count);
        self.take(signal, judgement);
    }

    fn take(&mut self, signal: Signal, judgement: Judgement) {
        self.add(signal, judgement.margins.clone());
        self.judgements.push((signal, judgement));
    }

    fn rank(self, by: Signal, neighbours: Vec<Vec<Hit>>) -> Dirty {
        let scores = match self.signals.iter().find(|(signal, _)| *signal == by) {
            Some((_, scores)) => scores.clone(),
            None => self.combined(),
        };
        let mut ranking: Vec<usize> = (0..scores.len()).filter(|&row| !scores[row].is_nan()).collect();
        ranking.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
        let (labels, suggestions) = (self.classes.labels.clone(), self.suggestions(by));
        let verdicts = self.judgements.into_iter().map(|(signal, judgement)| (signal, judgement.suggestions)).collect();
        let (signals, predictions) = (self.signals, self.classes.predictions.clone());
        let (records, spans) = (Vec::new(), Vec::new());
        Dirty { ranking, scores, signals, labels, predictions, suggestions, verdicts, neighbours, records, spans }
    }

    /// The text's verdict, the model's as far as it is [`heard`], and the training's, by their ranks. The model's is
    /// half what a head says of a record left out, which knows that one class's labels may be wrong more often than
    /// another's, and half what the record does to itself. Where no classifier of texts can judge, all that the model
    /// says counts alike.
    fn combined(&self) -> Vec<f32> {
        let values =
            |wanted| self.signals.iter().find(|(found, _)| *found == wanted).map(|(_, values)| values.as_slice());
        let (text, left_out) =
            (values(Signal::Text).unwrap_or_default(), values(Signal::Confident).unwrap_or_default());
        let model = heard(text, left_out) / 2.0;
        let weights = if text.is_empty() {
            [Signal::Neighbours, Signal::Loss, Signal::SelfInfluence, Signal::Confident].map(|signal| (signal, 1.0))
        } else {
            [(Signal::Text, 1.0), (Signal::Confident, model), (Signal::SelfInfluence, model), (Signal::Margin, MARGIN)]
        };
        let mut sums = vec![0.0; self.classes.labels.len()];
        for (signal, weight) in weights {
            for (sum, score) in sums.iter_mut().zip(values(signal).map(rank_scores).unwrap_or_default()) {
                *sum += if score.is_nan() && signal == Signal::Margin { 0.0 } else { weight * score };
            }
        }
        sums
    }

    /// By the signal that records are ranked by, else by the text, which remembers no label; else by the nearest; else
    /// what the model says.
    fn suggestions(&self, by: Signal) -> Vec<usize> {
        let of =
            |wanted| self.judgements.iter().find(|(signal, _)| *signal == wanted).map(|(_, j)| j.suggestions.clone());
        let predicted = || self.classes.predictions.iter().map(|class| class.unwrap_or(0)).collect();
        of(by).or_else(|| of(Signal::Text)).or_else(|| of(Signal::Neighbours)).unwrap_or_else(predicted)
    }
}

/// What the model's verdict counts beside the text's. That has seen no label that it judges, while the model's features
/// may have been bent until its own labels fit: where even a head that has not seen a record doubts less than half as
/// many labels as the text does, they have, and it counts for nothing. Else it counts by the square of how far that
/// head shares the text's doubts.
fn heard(text: &[f32], left_out: &[f32]) -> f32 {
    let doubts = |margins: &[f32]| margins.iter().filter(|margin| **margin > 0.0).count();
    if 2 * doubts(left_out) < doubts(text) { 0.0 } else { kappa(text, left_out).max(0.0).powi(2) }
}

/// How far two judges share their doubts (margins above zero), beyond what chance makes them share: 1 for the same, 0
/// for none (Cohen 1960, "A coefficient of agreement for nominal scales").
fn kappa(these: &[f32], those: &[f32]) -> f32 {
    let mut counts = [[0.0_f64; 2]; 2];
    for (a, b) in these.iter().zip(those).filter(|(a, b)| !a.is_nan() && !b.is_nan()) {
        counts[usize::from(*a > 0.0)][usize::from(*b > 0.0)] += 1.0;
    }
    let [[neither, second], [first, both]] = counts;
    let all = neither + second + first + both;
    let chance = ((first + both) * (second + both) + (neither + second) * (neither + first)) / (all * all);
    let kappa = ((neither + both) / all - chance) / (1.0 - chance);
    if kappa.is_finite() { kappa as f32 } else { 0.0 }
}

/// Each value's rank r among the n that are numbers, as `ln(r / (n − r))`, ties in the middle of theirs: scores of any
/// two signals compare.
pub(super) fn rank_scores(values: &[f32]) -> Vec<f32> {
    let mut sorted: Vec<f32> = values.iter().copied().filter(|value| !value.is_nan()).collect();
    sorted.sort_by(f32::total_cmp);
    let rank = |value: f32| {
        let below = sorted.partition_point(|other| *other < value);
        let within = sorted.partition_point(|other| *other <= value);
        (below + within) as f32 / 2.0
    };
    let score = |&value: &f32| {
        let rank = rank(value);
        (rank / (sorted.len() as f32 - rank)).ln()
    };
    values.iter().map(|value| if value.is_nan() { f32::NAN } else { score(value) }).collect()
}

/// `p [N, K]`: the classes of each record's nearest labelled records, weighted by similarity.
fn votes(nearest: &[Vec<Hit>], classes: &Classes) -> Vec<f32> {
    let mut p = vec![0.0; nearest.len() * classes.count];
    for (p, hits) in p.chunks_exact_mut(classes.count).zip(nearest) {
        for hit in hits {
            if let Some(label) = classes.labels[hit.row as usize] {
                p[label] += hit.score.max(f32::EPSILON);
            }
        }
        let sum: f32 = p.iter().sum();
        let even = 1.0 / classes.count as f32;
        for p in p {
            *p = if sum > 0.0 { *p / sum } else { even };
        }
    }
    p
}

/// The same where there are too many classes for a row of them each: 1 less twice the label's share, and the class that
/// most of the nearest have.
fn outvoted(nearest: &[Vec<Hit>], classes: &Classes) -> Judgement {
    let mut judgement = Judgement::default();
    for (hits, label) in nearest.iter().zip(&classes.labels) {
        let mut votes: BTreeMap<usize, f32> = BTreeMap::new();
        for hit in hits {
            if let Some(class) = classes.labels[hit.row as usize] {
                *votes.entry(class).or_default() += hit.score.max(f32::EPSILON);
            }
        }
        let all: f32 = votes.values().sum::<f32>().max(f32::MIN_POSITIVE);
        let own = |label: usize| votes.get(&label).map_or(0.0, |votes| votes / all);
        judgement.margins.push(label.map_or(f32::NAN, |label| 1.0 - 2.0 * own(label)));
        let most = votes.iter().max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(a.0)));
        judgement.suggestions.push(most.map(|(class, _)| *class).or(*label).unwrap_or(0));
    }
    judgement
}

/// Weights of all text classifiers together, at most: 2²⁴ numbers each.
const WEIGHT_BITS: u32 = 24;

/// Of buckets of texts.
fn bits(classes: usize) -> u32 {
    (WEIGHT_BITS - classes.next_power_of_two().ilog2()).min(18)
}

fn text_probabilities(bags: &Bags, folds: &Folds, classes: &Classes, options: &DirtyOptions<'_>) -> Result<Vec<f32>> {
    text::out_of_fold(bags, folds, &classes.labels, classes.count, options.seed, options.keep_going)
}

/// One a word.
fn word_bags(store: &Store, classes: usize) -> Result<Bags> {
    let bits = bits(classes);
    Bags::several(store.rows(), bits, |row| {
        let record = store.record(row)?;
        let parts = record.said.map(|said| said.parts).unwrap_or_default();
        let word = |part: &FactorPart| characters(&record.text, part.start, part.end).to_owned();
        Ok(word_features::bags(&parts.iter().map(word).collect::<Vec<_>>(), bits))
    })
}

/// `−ln p` of each one's own class: δ is `p` less 1 there.
fn losses(store: &Store, classes: &Classes) -> Vec<f32> {
    let deltas = store.shards().iter().flat_map(|shard| shard.factors().deltas.chunks_exact(classes.count));
    let loss = |(delta, label): (&[f32], &Option<usize>)| {
        label.map_or(f32::NAN, |label| -(f64::from(delta[label]).max(-1.0 + 1e-9)).ln_1p() as f32)
    };
    deltas.zip(&classes.labels).map(loss).collect()
}

/// By row, `Σ_c max(α[c], 0)`.
fn alphas(store: &Store, compat: RepresenterCompat, options: &DirtyOptions<'_>) -> Result<Vec<f32>> {
    let refit = RefitOptions { penalty: options.penalty, ..RefitOptions::default() };
    let alpha = representer(store, &refit, compat, options.keep_going)?.alpha;
    let classes = store.settings().classes;
    Ok(alpha.chunks_exact(classes).map(|alpha| alpha.iter().map(|a| a.max(0.0)).sum()).collect())
}

/// By the exact Hessian where it can be factored, else its Kronecker form; of masks by the empirical Fisher
/// information.
fn self_influence(store: &Store, options: &DirtyOptions<'_>) -> Result<Vec<f32>> {
    if store.settings().task() == Task::Masks {
        let each: Vec<Range<usize>> = (0..EachFactor::of(store).count()).map(|one| one..one + 1).collect();
        return FactorKernel::fit(store, options.damping, options.keep_going)?
            .self_influence(&each, options.keep_going);
    }
    let parameters = store.settings().classes * (store.settings().width + 1);
    let form = if parameters <= CHOLESKY_LIMIT { HessianForm::Exact } else { HessianForm::Kronecker };
    let curvature = CurvatureOptions { form, damping: options.damping, ..CurvatureOptions::default() };
    Curvature::fit(store, curvature, options.keep_going)?.self_influence(options.keep_going)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_rise_with_values_and_are_even_about_the_middle() {
        let scores = rank_scores(&[3.0, f32::NAN, -1.0, 2.0, 2.0]);
        assert!(scores[1].is_nan() && scores[3] == scores[4]);
        assert!(scores[2] < scores[3] && scores[3] < scores[0]);
        assert!((scores[2] + scores[0]).abs() < 1e-6 && scores[3].abs() < 1e-6);
    }

    #[test]
    fn judges_agree_as_far_as_chance_does_not_make_them() {
        let doubts = |of: &[u8]| of.iter().map(|&x| if x == 1 { 0.5 } else { -0.5 }).collect::<Vec<f32>>();
        let (a, b) = (doubts(&[1, 1, 0, 0, 0, 0, 0, 0, 0, 0]), doubts(&[1, 0, 1, 0, 0, 0, 0, 0, 0, 0]));
        assert!((kappa(&a, &b) - (0.8 - 0.68) / (1.0 - 0.68)).abs() < 1e-6);
        assert!((kappa(&a, &a) - 1.0).abs() < 1e-6);
        assert_eq!((kappa(&a, &[f32::NAN; 10]), kappa(&[], &[]), kappa(&[-1.0; 4], &[-1.0; 4])), (0.0, 0.0, 0.0));
    }

    #[test]
    fn a_model_that_doubts_little_of_what_the_text_does_is_not_heard() {
        let doubting = |count: usize| (0..10).map(|i| if i < count { 0.5 } else { -0.5 }).collect::<Vec<f32>>();
        let text = doubting(5);
        assert_eq!((heard(&text, &text), heard(&text, &doubting(2))), (1.0, 0.0));
        let half = heard(&text, &doubting(3));
        assert!((half - 0.36).abs() < 1e-6, "{half}");
    }
}
