//! Faithfulness: whether the words that a method says matter are those the model needs.
//!
//! With `p` the probability of the class the model predicts for the whole text, `R` the words a method scores highest
//! and `C` the others:
//!
//! ```text
//! comprehensiveness = p(text) − p(text without R)      higher is better
//! sufficiency       = p(text) − p(R alone)             lower is better
//! New-P             = R alone has the prediction of the whole, C alone has not
//! ```
//!
//! Each at the rationale, and, as their means over shares of the words, as AOPC. Deletion and insertion are the areas
//! under `p` as words go, or come, from the most important on. Sensitivity-n is the correlation between sums of scores
//! and what sets of n words are worth.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::subjects::{Asked, Judged, Said, TokenOptions, Window, answers, each_window, objective, say};
use super::table::{Table, cell};
use super::units::{count, first, order};
use super::{Measure, pearson, spearman};
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::explain::{LEAST_CHANGE, Removal, logits_without};
use crate::interrupt;
use crate::model::Model;
use crate::numeric::argmax;
use crate::pipeline::{Rejections, Settings};
use crate::random::{Purpose, Stream, uniform};

/// How faithfulness is measured.
#[derive(Clone, Debug)]
pub struct FaithfulnessOptions {
    /// Whose scores are judged. Words that are left out are replaced as its `explain.replacement` says.
    pub tokens: TokenOptions,
    /// Shares of the words that AOPC is the mean over.
    pub shares: Vec<f64>,
    /// Steps of the deletion and insertion curves.
    pub curve_steps: usize,
    /// Sets of words drawn for each size of sensitivity-n; none where 0.
    pub subsets: usize,
}

impl FaithfulnessOptions {
    /// ERASER's shares, ten steps, ten sets a size.
    pub fn new(tokens: TokenOptions) -> Self {
        Self { tokens, shares: vec![0.01, 0.05, 0.1, 0.2, 0.5], curve_steps: 10, subsets: 10 }
    }

    fn check(&self) -> Result<()> {
        /// Of steps and of sets: beyond it there is nothing more to see.
        const MOST: usize = 10_000;
        if self.shares.is_empty() || !self.shares.iter().all(|share| *share > 0.0 && *share <= 1.0) {
            return Err(Error::usage(format!("shares: expected numbers above 0, at most 1, found {:?}", self.shares)));
        }
        if !(1..=MOST).contains(&self.curve_steps) {
            return Err(Error::usage(format!("curve steps: expected 1 to {MOST}, found {}", self.curve_steps)));
        }
        if self.subsets > MOST {
            return Err(Error::usage(format!("subsets: expected at most {MOST}, found {}", self.subsets)));
        }
        Ok(())
    }
}

/// What comprehensiveness and sufficiency are at one share of the words.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct AtShare {
    /// Of the words.
    pub share: f64,
    /// Its mean.
    pub comprehensiveness: f64,
    /// Its mean.
    pub sufficiency: f64,
}

/// What the probability is once a share of the words has gone, or come, the most important first: means over records.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct AtStep {
    /// Of the words.
    pub share: f64,
    /// Without them.
    pub deletion: f64,
    /// With nothing else.
    pub insertion: f64,
}

/// How faithful one method is: means over records. Where a yardstick has no meaning for a method, or for any record,
/// there is none.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Faithfulness {
    /// `faithfulness`
    pub yardstick: &'static str,
    /// The method.
    pub method: Judged,
    /// Records it is judged by.
    pub records: u64,
    /// At the rationale; higher is better.
    pub comprehensiveness: Option<Measure>,
    /// At the rationale; lower is better.
    pub sufficiency: Option<Measure>,
    /// The mean over shares; higher is better.
    pub aopc_comprehensiveness: Option<Measure>,
    /// The mean over shares; lower is better.
    pub aopc_sufficiency: Option<Measure>,
    /// The share of records whose rationale alone keeps the prediction, and whose rest does not; higher is better.
    pub new_p: Option<Measure>,
    /// The area under the probability as words go; lower is better.
    pub deletion: Option<Measure>,
    /// The area under the probability as words come; higher is better.
    pub insertion: Option<Measure>,
    /// The mean over sizes of the correlation between scores and what sets of words are worth; higher is better.
    pub sensitivity_n: Option<Measure>,
    /// |sum of scores − change of output| over the change (at least 0.001), of methods that owe it to be 0.
    pub completeness_error: Option<Measure>,
    /// Spearman's correlation with the scores of the same network with other weights; near 0 is as it should be.
    pub randomisation: Option<Measure>,
    /// At each share.
    pub shares: Vec<AtShare>,
    /// The deletion and insertion curves.
    pub curve: Vec<AtStep>,
    /// What explaining took.
    pub seconds: f64,
}

impl Faithfulness {
    /// All methods side by side.
    pub fn table(list: &[Self]) -> Table {
        let mut table = Table::new(&[
            "method",
            "comp ↑",
            "suff ↓",
            "AOPC comp ↑",
            "AOPC suff ↓",
            "New-P ↑",
            "deletion ↓",
            "insertion ↑",
            "sens-n ↑",
            "compl. error ↓",
            "randomised → 0",
            "seconds",
        ]);
        for row in list {
            let measures = [
                row.comprehensiveness,
                row.sufficiency,
                row.aopc_comprehensiveness,
                row.aopc_sufficiency,
                row.new_p,
                row.deletion,
                row.insertion,
                row.sensitivity_n,
                row.completeness_error,
                row.randomisation,
            ];
            let mut cells = vec![row.method.name().to_owned()];
            cells.extend(measures.map(cell));
            cells.push(format!("{:.1}", row.seconds));
            table.push(cells);
        }
        table
    }
}

/// Judges every method by every record of `dataset`. `randomised` is the same network with other weights
/// ([`super::draw_anew`]), for the sanity check, where that is asked for.
///
/// # Errors
/// [`Error::Usage`] for a model that is no classifier, settings without a meaning, and data without a word; as
/// [`crate::explain::explain`].
pub fn faithfulness(
    model: &Model,
    randomised: Option<&Model>,
    dataset: Dataset,
    options: &FaithfulnessOptions,
    settings: &Settings,
    rejections: &mut Rejections,
) -> Result<Vec<Faithfulness>> {
    options.check()?;
    let judge = Judge { model, randomised, options, settings };
    let FaithfulnessOptions { tokens, shares, curve_steps, subsets } = options;
    let other = randomised.map(Model::fingerprint);
    let yardstick = tokens.yardstick("faithfulness", &(shares, curve_steps, subsets, other));
    let take = &mut |window: Window| judge.window(&window);
    let windows = each_window(model, dataset, tokens, &yardstick, settings, rejections, take)?.some()?;
    let mut found: Vec<Vec<Found>> = tokens.methods.iter().map(|_| Vec::new()).collect();
    for window in windows.found {
        found.iter_mut().zip(window).for_each(|(all, new): (_, Vec<Found>)| all.extend(new));
    }
    let rows = tokens.methods.iter().zip(found).zip(windows.seconds);
    Ok(rows.map(|((&method, found), seconds)| judge.sum_up(method, &found, seconds)).collect())
}

/// What stays the same from window to window.
struct Judge<'a> {
    model: &'a Model,
    randomised: Option<&'a Model>,
    options: &'a FaithfulnessOptions,
    settings: &'a Settings,
}

/// What is found of one record and method.
#[derive(Serialize, Deserialize)]
struct Found {
    comprehensiveness: f64,
    sufficiency: f64,
    by_share: Vec<[f64; 2]>,
    new_p: f64,
    /// The probability as words go, and as they come.
    deletion: Vec<f64>,
    insertion: Vec<f64>,
    sensitivity_n: Option<f64>,
    completeness_error: Option<f64>,
    randomisation: Option<f64>,
}

/// The ways one text is to be without some of its units, each once, whichever methods ask.
#[derive(Default)]
struct Ways {
    tokens: Vec<Vec<usize>>,
    known: HashMap<Vec<usize>, usize>,
}

impl Ways {
    fn add(&mut self, tokens: Vec<usize>) -> usize {
        let next = self.tokens.len();
        let way = *self.known.entry(tokens.clone()).or_insert(next);
        if way == next {
            self.tokens.push(tokens);
        }
        way
    }
}

/// Which ways one method's scores ask for.
struct Asks {
    /// Without the rationale, and with nothing else.
    rationale: [usize; 2],
    by_share: Vec<[usize; 2]>,
    /// From the whole text to nothing.
    deletion: Vec<usize>,
    /// From nothing to the whole text.
    insertion: Vec<usize>,
}

/// Sets of one size, for sensitivity-n: the same for every method.
struct Sets {
    gone: Vec<Vec<bool>>,
    ways: Vec<usize>,
}

impl Judge<'_> {
    /// For each method, what is found of each record.
    fn window(&self, window: &Window) -> Result<Vec<Vec<Found>>> {
        let mut ways: Vec<Ways> = window.records.iter().map(|_| Ways::default()).collect();
        let sets: Vec<Vec<Sets>> = window.records.iter().zip(&mut ways).map(|(r, w)| self.sets(r, w)).collect();
        let mut asks = Vec::new();
        for said in &window.said {
            let each = window.records.iter().zip(said).zip(&mut ways);
            asks.push(each.map(|((record, said), ways)| self.asks(record, &said.units, ways)).collect::<Vec<_>>());
        }
        let logits = self.logits(&window.records, &ways)?;
        let mut all = Vec::new();
        for ((&judged, said), asks) in self.options.tokens.methods.iter().zip(&window.said).zip(&asks) {
            let anew = self.anew(window, judged)?;
            let each = window.records.iter().enumerate().map(|(i, record)| {
                let answers = Answers { target: record.target, model: self.model, logits: &logits[i] };
                let anew = anew.as_ref().map(|anew| &anew[i]);
                found(record, &said[i], anew, &asks[i], &sets[i], &answers)
            });
            all.push(each.collect());
        }
        Ok(all)
    }

    /// What the network with other weights makes of the same records.
    fn anew(&self, window: &Window, judged: Judged) -> Result<Option<Vec<Said>>> {
        let Some(randomised) = self.randomised else { return Ok(None) };
        let logits = answers(randomised, &window.records, self.settings)?;
        let options = self.options.tokens.with_other_draws();
        say(randomised, &window.records, logits, judged, &options, self.settings).map(Some)
    }

    /// `z` of every way of every record.
    fn logits(&self, records: &[Asked], ways: &[Ways]) -> Result<Vec<Vec<Vec<f32>>>> {
        let removals: Vec<Removal<'_>> = records
            .iter()
            .zip(ways)
            .flat_map(|(record, ways)| {
                let removal = |tokens: &Vec<usize>| Removal { encoding: &record.encoding, tokens: tokens.clone() };
                ways.tokens.iter().map(removal)
            })
            .collect();
        let replacement = self.options.tokens.explain.replacement;
        let batch_tokens = self.settings.batch_tokens;
        let logits = logits_without(self.model, &removals, replacement, batch_tokens, &|_| !interrupt::asked())?;
        let mut logits = logits.into_iter();
        Ok(ways.iter().map(|ways| logits.by_ref().take(ways.tokens.len()).collect()).collect())
    }

    fn asks(&self, record: &Asked, scores: &[f64], ways: &mut Ways) -> Asks {
        let (units, n) = (&record.units, record.units.len());
        let order = order(scores);
        let mut both = |k: usize| {
            let top = first(&order, k);
            [ways.add(units.tokens_of(&top)), ways.add(units.tokens_but(&top))]
        };
        let scores: Vec<f32> = scores.iter().map(|&score| score as f32).collect();
        let rationale = both(self.options.tokens.rationale.choose(&scores).len());
        let by_share = self.options.shares.iter().map(|&share| both(count(share, n))).collect();
        let steps = self.options.curve_steps;
        let curve: Vec<[usize; 2]> = (0..=steps).map(|step| both(count(step as f64 / steps as f64, n))).collect();
        Asks {
            rationale,
            by_share,
            deletion: curve.iter().map(|[without, _]| *without).collect(),
            insertion: curve.iter().map(|[_, alone]| *alone).collect(),
        }
    }

    /// For each different size that the shares make, sets of so many units drawn by the record's number.
    fn sets(&self, record: &Asked, ways: &mut Ways) -> Vec<Sets> {
        let n = record.units.len();
        let mut sizes: Vec<usize> = self.options.shares.iter().map(|&share| count(share, n)).collect();
        sizes.retain(|&size| size > 0 && size < n && self.options.subsets > 1);
        sizes.dedup();
        let stream = Stream::new(self.options.tokens.explain.seed, Purpose::Subsets);
        let draw = |size: usize, sample: usize| {
            let key =
                |unit| uniform(stream.block([unit as u32, size as u32, sample as u32, record.record.index as u32])[0]);
            let keys: Vec<f64> = (0..n).map(|unit| f64::from(key(unit))).collect();
            first(&order(&keys), size)
        };
        let of_size = |size| {
            let gone: Vec<Vec<bool>> = (0..self.options.subsets).map(|sample| draw(size, sample)).collect();
            let ways = gone.iter().map(|gone| ways.add(record.units.tokens_of(gone))).collect();
            Sets { gone, ways }
        };
        sizes.into_iter().map(of_size).collect()
    }

    fn sum_up(&self, method: Judged, found: &[Found], seconds: f64) -> Faithfulness {
        let seed = self.options.tokens.explain.seed;
        let of = |value: &dyn Fn(&Found) -> Option<f64>| {
            Measure::of(&found.iter().filter_map(value).collect::<Vec<f64>>(), seed)
        };
        let aopc = |which: usize| {
            move |found: &Found| mean(&found.by_share.iter().map(|both| both[which]).collect::<Vec<_>>())
        };
        let at = |(place, &share): (usize, &f64)| {
            let mean =
                |which: usize| found.iter().map(|found| found.by_share[place][which]).sum::<f64>() / found.len() as f64;
            AtShare { share, comprehensiveness: mean(0), sufficiency: mean(1) }
        };
        let steps = self.options.curve_steps;
        let at_step = |step: usize| {
            let mean = |of: &dyn Fn(&Found) -> f64| found.iter().map(of).sum::<f64>() / found.len() as f64;
            AtStep {
                share: step as f64 / steps as f64,
                deletion: mean(&|found| found.deletion[step]),
                insertion: mean(&|found| found.insertion[step]),
            }
        };
        Faithfulness {
            yardstick: "faithfulness",
            method,
            records: found.len() as u64,
            comprehensiveness: of(&|found| Some(found.comprehensiveness)),
            sufficiency: of(&|found| Some(found.sufficiency)),
            aopc_comprehensiveness: of(&aopc(0)),
            aopc_sufficiency: of(&aopc(1)),
            new_p: of(&|found| Some(found.new_p)),
            deletion: of(&|found| Some(area(&found.deletion))),
            insertion: of(&|found| Some(area(&found.insertion))),
            sensitivity_n: of(&|found| found.sensitivity_n),
            completeness_error: of(&|found| found.completeness_error),
            randomisation: of(&|found| found.randomisation),
            shares: self.options.shares.iter().enumerate().map(at).collect(),
            curve: (0..=self.options.curve_steps).map(at_step).collect(),
            seconds,
        }
    }
}

/// One record by one method.
fn found(record: &Asked, said: &Said, anew: Option<&Said>, asks: &Asks, sets: &[Sets], answers: &Answers<'_>) -> Found {
    let whole = answers.value(&record.logits);
    let lost = |way: usize| whole - answers.at(way);
    let [without, alone] = asks.rationale;
    let correlation = |sets: &Sets| {
        let sums: Vec<f64> = sets.gone.iter().map(|gone| sum_of(&said.units, gone)).collect();
        let losses: Vec<f64> = sets.ways.iter().map(|&way| lost(way)).collect();
        // Scores that do not vary say nothing of what sets are worth; sets that are worth the same ask nothing.
        pearson(&losses, &losses).map(|_| pearson(&sums, &losses).unwrap_or(0.0))
    };
    let correlations: Vec<f64> = sets.iter().filter_map(correlation).collect();
    Found {
        comprehensiveness: lost(without),
        sufficiency: lost(alone),
        by_share: asks.by_share.iter().map(|&[without, alone]| [lost(without), lost(alone)]).collect(),
        new_p: f64::from(answers.keeps(alone) && !answers.keeps(without)),
        deletion: asks.deletion.iter().map(|&way| answers.at(way)).collect(),
        insertion: asks.insertion.iter().map(|&way| answers.at(way)).collect(),
        sensitivity_n: mean(&correlations),
        completeness_error: completeness_error(said),
        randomisation: anew.and_then(|anew| spearman(&said.units, &anew.units)),
    }
}

/// What the model says of one record's ways.
struct Answers<'a> {
    target: usize,
    model: &'a Model,
    logits: &'a [Vec<f32>],
}

impl Answers<'_> {
    /// The probability of the record's prediction.
    fn value(&self, logits: &[f32]) -> f64 {
        let z: Vec<f64> = logits.iter().map(|&z| f64::from(z)).collect();
        objective(self.model, self.target).value(&z)
    }

    fn at(&self, way: usize) -> f64 {
        self.value(&self.logits[way])
    }

    /// Whether the prediction is that of the whole.
    fn keeps(&self, way: usize) -> bool {
        argmax(&self.logits[way]) == self.target
    }
}

fn sum_of(scores: &[f64], marks: &[bool]) -> f64 {
    scores.iter().zip(marks).filter(|(_, mark)| **mark).map(|(score, _)| score).sum()
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Under a curve over [0, 1] at even steps, by the trapezoid rule.
fn area(curve: &[f64]) -> f64 {
    let steps = curve.len().saturating_sub(1).max(1) as f64;
    curve.windows(2).map(|ends| f64::midpoint(ends[0], ends[1])).sum::<f64>() / steps
}

fn completeness_error(said: &Said) -> Option<f64> {
    let change = said.scores.output - said.scores.baseline_output?;
    said.scores.convergence_delta.map(|delta| delta.abs() / change.abs().max(LEAST_CHANGE))
}
