//! How good predictions are: accuracy, F1, the confusion of classes.

use serde::{Deserialize, Serialize};

use super::Metric;
use crate::factors::{self, Target};
use crate::model::Problem;

/// What a model's predictions of some labelled records are worth.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// How many records; of contexts in windows, questions.
    pub records: usize,
    /// Their mean loss, unweighted; of tokens, the mean over them.
    pub loss: f64,
    /// The share predicted as labelled; of a multi-label model, in every class. `None` for a regression.
    pub accuracy: Option<f64>,
    /// The mean of F1 over the classes that are labelled or predicted.
    pub f1_macro: Option<f64>,
    /// F1 over all decisions together; of one class a record it is the accuracy.
    pub f1_micro: Option<f64>,
    /// `[K][K]` records by gold and predicted class. Single-label only.
    pub confusion: Option<Vec<Vec<u64>>>,
    /// Of a regression: the correlation of values and predictions (0 where either does not vary).
    pub pearson: Option<f64>,
    /// Of questions: the share answered with a right answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exact_match: Option<f64>,
    /// The mean F1 of answers; or that of entities, all kinds together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub f1: Option<f64>,
    /// The share of questions without an answer that none was given to, where there are such.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_answer: Option<f64>,
    /// The share of entities predicted that are right; of sentences kept that are evidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precision: Option<f64>,
    /// The share of entities that were found; of contexts some of whose evidence was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recall: Option<f64>,
    /// Of a selector of sentences: 0.2 precision + 0.8 recall.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selection: Option<f64>,
    /// Of masked pieces: e to the mean loss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub perplexity: Option<f64>,
}

impl Metrics {
    /// A number by its name, where it was measured.
    pub fn get(&self, metric: Metric) -> Option<f64> {
        match metric {
            Metric::Accuracy => self.accuracy,
            Metric::F1Macro => self.f1_macro,
            Metric::F1Micro => self.f1_micro,
            Metric::ExactMatch => self.exact_match,
            Metric::F1 => self.f1,
            Metric::Selection => self.selection,
            Metric::Loss => Some(self.loss),
        }
    }

    /// The number to be good at, turned so that greater is better.
    pub fn goodness(&self, metric: Metric) -> f64 {
        let found = self.get(metric).filter(|_| metric != Metric::Loss);
        found.unwrap_or(-self.loss)
    }
}

/// Metrics under way, a record at a time.
#[derive(Clone, Debug)]
pub struct Tally {
    problem: Problem,
    records: usize,
    loss: f64,
    right: usize,
    /// True positives, predicted, and labelled, of each class.
    classes: Vec<[u64; 3]>,
    confusion: Vec<Vec<u64>>,
    /// Sums of x, y, x², y², xy over values.
    sums: [f64; 5],
    values: f64,
}

impl Tally {
    /// Of nothing yet.
    pub fn new(problem: Problem, classes: usize) -> Self {
        let confusion = if problem == Problem::SingleLabel { vec![vec![0; classes]; classes] } else { Vec::new() };
        Self {
            problem,
            records: 0,
            loss: 0.0,
            right: 0,
            classes: vec![[0; 3]; classes],
            confusion,
            sums: [0.0; 5],
            values: 0.0,
        }
    }

    /// Adds a record's logits, label and loss.
    pub fn add(&mut self, logits: &[f32], gold: &Target, loss: f64) {
        self.records += 1;
        self.loss += loss;
        let predicted = factors::predict(self.problem, logits);
        self.right += usize::from(predicted.agrees(gold));
        match (gold, predicted) {
            (Target::Class(gold), Target::Class(predicted)) => {
                self.confusion[*gold][predicted] += 1;
                self.classes[*gold][2] += 1;
                self.classes[predicted][1] += 1;
                self.classes[*gold][0] += u64::from(*gold == predicted);
            }
            (Target::Classes(gold), Target::Classes(predicted)) => {
                for ((counts, gold), predicted) in self.classes.iter_mut().zip(gold).zip(predicted) {
                    let (gold, predicted) = (*gold > 0.5, predicted > 0.5);
                    for (count, is) in counts.iter_mut().zip([gold && predicted, predicted, gold]) {
                        *count += u64::from(is);
                    }
                }
            }
            (Target::Values(gold), Target::Values(predicted)) => {
                for (y, x) in gold.iter().zip(predicted) {
                    let (x, y) = (f64::from(x), f64::from(*y));
                    self.values += 1.0;
                    self.sums.iter_mut().zip([x, y, x * x, y * y, x * y]).for_each(|(sum, term)| *sum += term);
                }
            }
            _ => {}
        }
    }

    /// What they come to.
    pub fn finish(self) -> Metrics {
        let n = self.records.max(1) as f64;
        let of_classes = self.problem != Problem::Regression;
        let f1 = |[hits, predicted, gold]: [u64; 3]| 2.0 * hits as f64 / ((predicted + gold).max(1)) as f64;
        let total = self.classes.iter().fold([0; 3], |sum, c| [sum[0] + c[0], sum[1] + c[1], sum[2] + c[2]]);
        let met: Vec<f64> =
            self.classes.iter().filter(|counts| counts[1] + counts[2] > 0).map(|&counts| f1(counts)).collect();
        let mean = met.iter().sum::<f64>() / met.len().max(1) as f64;
        Metrics {
            records: self.records,
            loss: self.loss / n,
            accuracy: of_classes.then_some(self.right as f64 / n),
            f1_macro: of_classes.then_some(mean),
            f1_micro: of_classes.then_some(f1(total)),
            pearson: (!of_classes).then(|| self.correlation()),
            confusion: (self.problem == Problem::SingleLabel).then_some(self.confusion),
            ..Metrics::default()
        }
    }

    fn correlation(&self) -> f64 {
        let [x, y, xx, yy, xy] = self.sums;
        let n = self.values.max(1.0);
        let (deviations, product) = ((xx - x * x / n) * (yy - y * y / n), xy - x * y / n);
        if deviations > 0.0 { product / deviations.sqrt() } else { 0.0 }
    }
}
