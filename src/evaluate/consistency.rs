//! Consistency: whether a text and a perturbed version of it have the same important words, in the same order.
//!
//! ```text
//! MAP = (1/|X'|) Σ_{i ≤ |X'|} (1/i) |X'_{1:i} ∩ X_{1:i}|
//! ```
//!
//! X and X' are the words of the two rationales from the most important on (Wang et al. 2022). Words that come twice
//! count as often as they are in both: `a a b` agrees with `a b c` in one `a`, not in two. Rationales are in order of
//! importance, never of the text.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::subjects::{Asked, Judged, TokenOptions, Window, Windows, Yardstick, each_window};
use super::table::{Table, cell};
use super::{Measure, units};
use crate::dataset::{Dataset, Record};
use crate::error::{Error, Result};
use crate::explain::Segmentation;
use crate::model::Model;
use crate::pipeline::{Rejections, Settings};

/// How consistency is measured.
#[derive(Clone, Debug)]
pub struct ConsistencyOptions {
    /// Whose scores are judged.
    pub tokens: TokenOptions,
    /// The column of the perturbed records that has the id of the record each was made from.
    pub original_column: String,
}

/// How consistent one method is: means over pairs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Consistency {
    /// `consistency`
    pub yardstick: &'static str,
    /// The method.
    pub method: Judged,
    /// Pairs of a record and its perturbed version.
    pub pairs: u64,
    /// Pairs of which the model predicts the same.
    pub same_prediction: u64,
    /// Mean average precision between the rationales, over all pairs.
    pub map: Option<Measure>,
    /// The same over pairs of which the model predicts the same.
    pub map_same_prediction: Option<Measure>,
    /// What explaining took.
    pub seconds: f64,
}

impl Consistency {
    /// All methods side by side.
    pub fn table(list: &[Self]) -> Table {
        let mut table =
            Table::new(&["method", "pairs", "same prediction", "MAP ↑", "MAP, same prediction ↑", "seconds"]);
        for row in list {
            table.push(vec![
                row.method.name().to_owned(),
                row.pairs.to_string(),
                row.same_prediction.to_string(),
                cell(row.map),
                cell(row.map_same_prediction),
                format!("{:.1}", row.seconds),
            ]);
        }
        table
    }
}

/// MAP of a perturbed text's rationale against the original's, both from the most important word on; 0 where the
/// perturbed one is empty.
pub fn mean_average_precision(original: &[String], perturbed: &[String]) -> f64 {
    let (mut in_original, mut in_perturbed): (HashMap<&str, u32>, HashMap<&str, u32>) =
        (HashMap::new(), HashMap::new());
    let (mut both, mut sum) = (0.0, 0.0);
    for (place, word) in perturbed.iter().enumerate() {
        if let Some(theirs) = original.get(place) {
            let (mine, seen) = (in_original.entry(theirs.as_str()).or_default(), in_perturbed.get(theirs.as_str()));
            *mine += 1;
            both += f64::from(seen.is_some_and(|seen| *seen >= *mine));
        }
        let (mine, seen) = (in_perturbed.entry(word.as_str()).or_default(), in_original.get(word.as_str()));
        *mine += 1;
        both += f64::from(seen.is_some_and(|seen| *seen >= *mine));
        sum += both / (place as f64 + 1.0);
    }
    if perturbed.is_empty() { 0.0 } else { sum / perturbed.len() as f64 }
}

/// One record's rationale by each method, most important word first, and what is predicted of it.
#[derive(Serialize, Deserialize)]
struct Rationales {
    id: String,
    of: Option<String>,
    predicted: usize,
    by_method: Vec<Vec<String>>,
}

/// Judges every method by the records of `perturbed` against those of `originals` that they were made from.
///
/// # Errors
/// [`Error::Usage`] where a perturbed record names no original (it is left out where such records are), or settings
/// have no meaning; as [`crate::explain::explain`].
pub fn consistency(
    model: &Model,
    originals: Dataset,
    perturbed: Dataset,
    options: &ConsistencyOptions,
    settings: &Settings,
    rejections: &mut Rejections,
) -> Result<Vec<Consistency>> {
    if options.tokens.words == Segmentation::None {
        return Err(
            Error::usage("consistency is of words, and there are to be none").with_hint("say what a word is: --words")
        );
    }
    let mut seconds = vec![0.0; options.tokens.methods.len()];
    let column = &options.original_column;
    let mut read = |what: &str, dataset, tokens: &TokenOptions, admit: Admit<'_>| {
        let yardstick = tokens.yardstick(&format!("consistency, {what}"), column);
        // Each of the two sets has a file of its own.
        let keep = yardstick.keep.map(|path| sibling(&path, what));
        let yardstick = Yardstick { keep, admit, ..yardstick };
        let windows = rationales(model, dataset, tokens, column, &yardstick, settings, rejections)?.some()?;
        seconds.iter_mut().zip(&windows.seconds).for_each(|(all, new)| *all += new);
        Ok::<_, Error>((windows.found.into_iter().flatten().collect::<Vec<_>>(), windows.wordless))
    };
    let (originals, wordless) = read("originals", originals, &options.tokens, &|_| Ok(true))?;
    let by_id: HashMap<&str, &Rationales> = originals.iter().map(|one| (one.id.as_str(), one)).collect();
    let of_which = |record: &Record| match record.columns.get(column) {
        None => Err(format!("{column}: expected the id of the record it was made from, found none")),
        Some(id) if by_id.contains_key(id.as_str()) => Ok(true),
        // The original was passed over; so is what was made of it.
        Some(id) if wordless.contains(id) => Ok(false),
        Some(id) => Err(format!("{column}: no record {id:?} in the data")),
    };
    let (perturbed, _) = read("perturbed", perturbed, &options.tokens.with_other_draws(), &of_which)?;
    let original = |one: &Rationales| by_id.get(one.of.as_deref()?).copied();
    let pairs: Vec<_> = perturbed.iter().filter_map(|one| Some((original(one)?, one))).collect();
    let same = |(original, perturbed): &(&Rationales, &Rationales)| original.predicted == perturbed.predicted;
    let seed = options.tokens.explain.seed;
    let row = |(number, (&method, &seconds)): (usize, (&Judged, &f64))| {
        let map = |(original, perturbed): &(&Rationales, &Rationales)| {
            mean_average_precision(&original.by_method[number], &perturbed.by_method[number])
        };
        let of_same: Vec<f64> = pairs.iter().filter(|pair| same(pair)).map(map).collect();
        Consistency {
            yardstick: "consistency",
            method,
            pairs: pairs.len() as u64,
            same_prediction: of_same.len() as u64,
            map: Measure::of(&pairs.iter().map(map).collect::<Vec<f64>>(), seed),
            map_same_prediction: Measure::of(&of_same, seed),
            seconds,
        }
    };
    Ok(options.tokens.methods.iter().zip(&seconds).enumerate().map(row).collect())
}

/// Which records a yardstick is about.
type Admit<'a> = &'a dyn Fn(&Record) -> Result<bool, String>;

fn sibling(path: &Path, what: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{what}"));
    name.into()
}

fn rationales(
    model: &Model,
    dataset: Dataset,
    tokens: &TokenOptions,
    original_column: &str,
    yardstick: &Yardstick<'_>,
    settings: &Settings,
    rejections: &mut Rejections,
) -> Result<Windows<Vec<Rationales>>> {
    let take = &mut |window: Window| -> Result<Vec<Rationales>> {
        let one = |(i, record): (usize, &Asked)| {
            let words = |scores: &[f64]| {
                let rounded: Vec<f32> = scores.iter().map(|&score| score as f32).collect();
                let count = tokens.rationale.choose(&rounded).len();
                let chosen = units::order(scores).into_iter().take(count);
                chosen.map(|word| record.words.list()[word].text.clone()).collect()
            };
            Rationales {
                id: record.record.id.clone(),
                of: record.record.columns.get(original_column).cloned(),
                predicted: record.target,
                by_method: window.said.iter().map(|said| words(&said[i].units)).collect(),
            }
        };
        Ok(window.records.iter().enumerate().map(one).collect())
    };
    each_window(model, dataset, tokens, yardstick, settings, rejections, take)
}
