//! Plausibility: whether the words that a method says matter are those that people marked.
//!
//! A word is marked where it shares a character with a marked span. Where a record has several rationales, each good by
//! itself, the gold is the single one with the best F1, or what it grows to by adding, greedily, those that overlap the
//! prediction and raise F1 ("union F1", Wang et al. 2022). A rationale without a word (white space, or what the maximum
//! length cuts off) is none: no method could agree with it.
//!
//! Of a pair each text is judged by itself, its words against its own gold and with a rationale of its own, as TrustAI
//! does; what says nothing of one text judges the other alone.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::subjects::{Asked, Judged, TokenOptions, Window, Yardstick, each_window};
use super::table::{Table, cell};
use super::units::{first, order};
use super::{Gold, Measure, average_precision};
use crate::dataset::{Dataset, Record};
use crate::error::{Error, Result};
use crate::explain::Segmentation;
use crate::model::Model;
use crate::pipeline::{Rejections, Settings};

/// How plausibility is measured.
#[derive(Clone, Debug)]
pub struct PlausibilityOptions {
    /// Whose scores are judged.
    pub tokens: TokenOptions,
    /// Take as many words as the gold rationale has, in place of the rationale's own number.
    pub as_many_as_gold: bool,
}

/// How plausible one method is: means over texts with a gold rationale.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plausibility {
    /// `plausibility`
    pub yardstick: &'static str,
    /// The method.
    pub method: Judged,
    /// Texts it is judged by: of a pair one or two.
    pub records: u64,
    /// The mean of each text's F1 between its rationale's words and the gold's.
    pub token_f1: Option<Measure>,
    /// The same against the best union of the text's gold rationales.
    pub union_f1: Option<Measure>,
    /// The share of texts whose words in both are at least half of the words in either.
    pub iou_hits: Option<Measure>,
    /// The area under precision over recall of all words by their scores (average precision), against the single gold
    /// rationale with the best F1, the first of several.
    pub auprc: Option<Measure>,
    /// What explaining took.
    pub seconds: f64,
}

impl Plausibility {
    /// All methods side by side.
    pub fn table(list: &[Self]) -> Table {
        let mut table = Table::new(&["method", "token F1 ↑", "union F1 ↑", "IoU ≥ ½ ↑", "AUPRC ↑", "seconds"]);
        for row in list {
            let mut cells = vec![row.method.name().to_owned()];
            cells.extend([row.token_f1, row.union_f1, row.iou_hits, row.auprc].map(cell));
            cells.push(format!("{:.1}", row.seconds));
            table.push(cells);
        }
        table
    }
}

/// How one rationale agrees with the gold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Agreement {
    /// 2PR/(P + R) against the best single alternative.
    pub f1: f64,
    /// The same against the best union of alternatives.
    pub union_f1: f64,
    /// |both| / |either|, against the best union.
    pub iou: f64,
}

/// How the words that are `marked` agree with `alternatives` of gold: for each word whether it is in it.
pub fn agreement(marked: &[bool], alternatives: &[Vec<bool>]) -> Agreement {
    let best = |best: f64, f1: f64| best.max(f1);
    let f1 = alternatives.iter().map(|gold| f1(marked, gold)).fold(0.0, best);
    let unions: Vec<Vec<bool>> = alternatives.iter().map(|start| grown(marked, start, alternatives)).collect();
    let union = unions.iter().max_by(|a, b| self::f1(marked, a).total_cmp(&self::f1(marked, b)));
    let Some(union) = union else { return Agreement::default() };
    let count = |both: &dyn Fn(bool, bool) -> bool| marked.iter().zip(union).filter(|&(&m, &g)| both(m, g)).count();
    let either = count(&|m, g| m || g);
    let iou = if either == 0 { 0.0 } else { count(&|m, g| m && g) as f64 / either as f64 };
    Agreement { f1, union_f1: self::f1(marked, union), iou }
}

fn f1(marked: &[bool], gold: &[bool]) -> f64 {
    let both = marked.iter().zip(gold).filter(|&(&m, &g)| m && g).count() as f64;
    let count = |marks: &[bool]| marks.iter().filter(|&&mark| mark).count() as f64;
    let sum = count(marked) + count(gold);
    if sum == 0.0 { 0.0 } else { 2.0 * both / sum }
}

/// `start`, with each further alternative that overlaps what is marked and raises F1.
fn grown(marked: &[bool], start: &[bool], alternatives: &[Vec<bool>]) -> Vec<bool> {
    let mut union = start.to_vec();
    for next in alternatives {
        let overlaps = marked.iter().zip(next).any(|(&m, &n)| m && n);
        let wider: Vec<bool> = union.iter().zip(next).map(|(&u, &n)| u || n).collect();
        if overlaps && f1(marked, &wider) > f1(marked, &union) {
            union = wider;
        }
    }
    union
}

/// Judges every method by the records of `dataset` that `gold` has a rationale for.
///
/// # Errors
/// [`Error::Usage`] where there is none, a rationale does not fit its text, or settings have no meaning; as
/// [`crate::explain::explain`].
pub fn plausibility(
    model: &Model,
    dataset: Dataset,
    gold: &Gold,
    options: &PlausibilityOptions,
    settings: &Settings,
    rejections: &mut Rejections,
) -> Result<Vec<Plausibility>> {
    if options.tokens.words == Segmentation::None {
        return Err(
            Error::usage("plausibility is of words, and there are to be none").with_hint("say what a word is: --words")
        );
    }
    let TokenOptions { methods, .. } = &options.tokens;
    let yardstick = options.tokens.yardstick("plausibility", &(gold.digest(), options.as_many_as_gold));
    let yardstick = Yardstick { admit: &|record| Ok(gold.has(&record.id)), ..yardstick };
    let take = &mut |window: Window| -> Result<Vec<Vec<Found>>> {
        let mut found: Vec<Vec<Found>> = methods.iter().map(|_| Vec::new()).collect();
        for (i, record) in window.records.iter().enumerate() {
            let Record { id, text, pair, .. } = &record.record;
            for (segment, text) in [(0, Some(text)), (1, pair.as_ref())] {
                let Some(spans) = gold.spans(id, segment, text.map(String::as_str)) else { continue };
                let spans = spans.map_err(|reason| Error::usage(format!("record {id}: {reason}")))?;
                let words = (0..record.words.len()).filter(|&word| record.words.list()[word].segment == segment);
                let words: Vec<usize> = words.collect();
                let mut alternatives: Vec<Vec<bool>> = spans.iter().map(|spans| marks(record, &words, spans)).collect();
                alternatives.retain(|marks| marks.contains(&true));
                if alternatives.is_empty() {
                    continue;
                }
                for (found, said) in found.iter_mut().zip(&window.said) {
                    let scores: Vec<f64> = words.iter().map(|&word| said[i].units[word]).collect();
                    found.push(judge(&scores, &alternatives, options));
                }
            }
        }
        Ok(found)
    };
    let windows = each_window(model, dataset, &options.tokens, &yardstick, settings, rejections, take)?;
    let mut found: Vec<Vec<Found>> = methods.iter().map(|_| Vec::new()).collect();
    for window in windows.found {
        found.iter_mut().zip(window).for_each(|(all, new)| all.extend(new));
    }
    if found.iter().all(Vec::is_empty) {
        let count = gold.len();
        return Err(Error::usage(format!("none of the {count} gold rationales has a word of a record of the data"))
            .with_hint("records and rationales are matched by their id"));
    }
    let seed = options.tokens.explain.seed;
    let row = |((&method, found), seconds): ((&Judged, Vec<Found>), f64)| {
        let of = |value: &dyn Fn(&Agreement) -> f64| {
            Measure::of(&found.iter().map(|(agreement, _)| value(agreement)).collect::<Vec<f64>>(), seed)
        };
        Plausibility {
            yardstick: "plausibility",
            method,
            records: found.len() as u64,
            token_f1: of(&|agreement| agreement.f1),
            union_f1: of(&|agreement| agreement.union_f1),
            iou_hits: of(&|agreement| f64::from(agreement.iou >= 0.5)),
            auprc: Measure::of(&found.iter().filter_map(|(_, auprc)| *auprc).collect::<Vec<f64>>(), seed),
            seconds,
        }
    };
    Ok(methods.iter().zip(found).zip(windows.seconds).map(row).collect())
}

/// How one text agrees with its gold, and its average precision.
type Found = (Agreement, Option<f64>);

/// Which of some words share a character with a span.
fn marks(record: &Asked, words: &[usize], spans: &[Range<usize>]) -> Vec<bool> {
    let in_span = |start: usize, end: usize| spans.iter().any(|span| span.start < end && start < span.end);
    let word = |&word: &usize| in_span(record.words.list()[word].start, record.words.list()[word].end);
    words.iter().map(word).collect()
}

fn judge(scores: &[f64], alternatives: &[Vec<bool>], options: &PlausibilityOptions) -> Found {
    let sizes = alternatives.iter().map(|gold| gold.iter().filter(|&&mark| mark).count());
    let rounded: Vec<f32> = scores.iter().map(|&score| score as f32).collect();
    let size = if options.as_many_as_gold {
        sizes.max().unwrap_or_default()
    } else {
        options.tokens.rationale.choose(&rounded).len()
    };
    let marked = first(&order(scores), size);
    // The last of several in the other direction is the first.
    let best = alternatives.iter().rev().max_by(|a, b| f1(&marked, a).total_cmp(&f1(&marked, b)));
    (agreement(&marked, alternatives), best.and_then(|gold| average_precision(scores, gold)))
}
