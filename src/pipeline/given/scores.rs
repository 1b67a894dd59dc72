//! Scores that another program gave training records.

use std::path::{Path, PathBuf};

use super::array::Array;
use super::source::{finite, numbers};
use crate::dataset::{Place, each_object};
use crate::error::{Error, Result};

/// Scores of every training record for every query, made by another program: a row a query, in the order of the
/// labelled queries, a column a training record, in the order of the store.
///
/// | file | what it holds |
/// |---|---|
/// | `.npy`, `.safetensors` | an array (a tensor `scores`) `[Q, N]` |
/// | `.parquet`, `.jsonl` | a query a row: `scores`, a list of N numbers |
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenScores {
    /// What they are called in results.
    pub name: String,
    /// Where they are.
    pub path: PathBuf,
}

impl GivenScores {
    /// Hands `take` every query's number and scores, if there are as many as `[queries, records]`.
    ///
    /// # Errors
    /// [`Error::Format`] for a file of anything else, or a score that is no number; [`Error::Mismatch`] for other
    /// numbers of queries or records; whatever `take` fails with.
    pub fn each(
        &self,
        [queries, records]: [usize; 2],
        take: &mut dyn FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let path = self.path.as_path();
        let mismatch = |what: &str, expected: usize, found: usize| {
            Error::Mismatch(format!("{}: expected {expected} {what}, found {found}", path.display()), None)
                .with_hint("give a row of scores for each labelled query, with a number for each record of the store")
        };
        let mut found = 0;
        let mut one = |place: &Place, scores: Vec<f32>| {
            if scores.len() != records {
                return Err(mismatch("scores a query", records, scores.len()));
            }
            let scores = finite(place, "scores", scores)?;
            found += 1;
            if found <= queries { take(found - 1, &scores) } else { Ok(()) }
        };
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("npy") => rows(path, Array::of_npy(path, "scores")?, &mut one)?,
            Some("safetensors") => {
                let array = Array::of_safetensors(path, "scores")?;
                rows(path, array.ok_or_else(|| Error::format(path, "there are no `scores`"))?, &mut one)?;
            }
            Some("parquet" | "jsonl") => each_object(&[path.to_string_lossy().into_owned()], &mut |place, mut row| {
                let scores = numbers(&mut row, "scores").map_err(|reason| place.error(reason))?;
                one(place, scores.ok_or_else(|| place.error("no `scores`".to_owned()))?)
            })?,
            _ => {
                return Err(Error::usage(format!("{}: not a file of scores", path.display()))
                    .with_hint("give .npy, .safetensors, .parquet or .jsonl"));
            }
        }
        if found == queries { Ok(()) } else { Err(mismatch("queries", queries, found)) }
    }
}

fn rows(path: &Path, mut array: Array, take: &mut dyn FnMut(&Place, Vec<f32>) -> Result<()>) -> Result<()> {
    (0..array.rows).try_for_each(|row| take(&Place::at(path, row as u64 + 1), array.next_floats()?))
}
