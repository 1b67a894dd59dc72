//! Numbers side by side, for a person.

use std::fmt;

use super::Measure;
use crate::report::numbers::zero_without_sign;

/// Rows under a heading; the first column is names, the others are numbers, right-aligned.
#[derive(Clone, Debug, Default)]
pub struct Table {
    heading: Vec<String>,
    rows: Vec<Vec<String>>,
    notes: Vec<String>,
}

impl Table {
    /// With these columns.
    pub fn new(heading: &[&str]) -> Self {
        Self { heading: heading.iter().map(|&name| name.to_owned()).collect(), ..Self::default() }
    }

    /// One more row.
    pub fn push(&mut self, row: Vec<String>) {
        self.rows.push(row);
    }

    /// A line below the table.
    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = || std::iter::once(&self.heading).chain(&self.rows);
        let width = |column: usize| {
            all().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or_default()
        };
        let widths: Vec<usize> = (0..self.heading.len()).map(width).collect();
        for row in all() {
            let padded = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
                let padding = " ".repeat(width - cell.chars().count());
                if column == 0 { format!("{cell}{padding}") } else { format!("{padding}{cell}") }
            });
            writeln!(f, "{}", padded.collect::<Vec<_>>().join("  ").trim_end())?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "{note}"))
    }
}

/// A mean with half its interval's width, or a dash.
pub(super) fn cell(measure: Option<Measure>) -> String {
    let told = |m: Measure| format!("{} ±{:.3}", zero_without_sign(format!("{:.3}", m.mean)), (m.high - m.low) / 2.0);
    measure.map_or_else(|| "-".to_owned(), told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_rounded_away_has_no_sign() {
        let cell = |mean| cell(Some(Measure { mean, low: mean, high: mean }));
        assert_eq!([cell(-0.0001), cell(-0.0006)], ["0.000 ±0.000", "-0.001 ±0.000"]);
    }
}
