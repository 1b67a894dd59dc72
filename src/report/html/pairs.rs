//! Which token of a training record taught which token of the query: a table in colours.

use serde::Serialize;

use crate::report::TokenPairs;
use crate::report::numbers::Form;

/// Tokens of a side that are shown at the most.
const TOKENS: usize = 48;

/// Cells below this share of the largest are not coloured.
const FAINT: f32 = 0.02;

/// The table: a column for each token of the training record, a row for each of the query.
#[derive(Serialize)]
pub(super) struct Pairs {
    columns: Vec<String>,
    rows: Vec<Row>,
    /// Whether either text goes on.
    is_cut: bool,
}

#[derive(Serialize)]
struct Row {
    token: String,
    cells: Vec<Cell>,
}

#[derive(Serialize)]
struct Cell {
    /// `p` supports, `n` opposes; empty where it hardly does either.
    sign: &'static str,
    /// Over the largest, two decimals.
    strength: String,
    title: String,
}

impl Pairs {
    pub(super) fn new(pairs: &TokenPairs) -> Self {
        let largest = pairs.scores.iter().flatten().fold(0.0_f32, |largest, score| largest.max(score.abs()));
        let form = Form::of(std::iter::once(f64::from(largest)), 4);
        let cell = |asked: &str, own: &str, score: f32| {
            let strength = if largest > 0.0 { score.abs() / largest } else { 0.0 };
            let sign = match (strength < FAINT, score < 0.0) {
                (true, _) => "",
                (false, false) => "p",
                (false, true) => "n",
            };
            Cell {
                sign,
                strength: format!("{strength:.2}"),
                title: format!("{asked} ← {own}: {}", form.signed(score.into())),
            }
        };
        let row = |(asked, scores): (&String, &Vec<f32>)| Row {
            token: asked.clone(),
            cells: pairs.record.iter().zip(scores).take(TOKENS).map(|(own, &score)| cell(asked, own, score)).collect(),
        };
        Self {
            columns: pairs.record.iter().take(TOKENS).cloned().collect(),
            rows: pairs.query.iter().zip(&pairs.scores).take(TOKENS).map(row).collect(),
            is_cut: pairs.query.len() > TOKENS || pairs.record.len() > TOKENS,
        }
    }
}
