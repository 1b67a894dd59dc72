//! The representer points of a store's answers: its texts through the model once more, as a store keeps no token's
//! features.

use super::bundles::{Against, Bundler, Kept, Part};
use super::prepared::RuleOptions;
use super::progress::Progress;
use super::{SearchOptions, Settings};
use crate::dataset::Record;
use crate::error::{Error, Result};
use crate::factors::{AnswerRepresenter, AnswerWindow, RefitOptions, RepresenterCompat, answer_representer};
use crate::interrupt;
use crate::model::Model;
use crate::store::{Store, StoredRecord, TokenSettings};

/// Records read together.
const TOGETHER: usize = 64;

/// Reads every record of a store again and refits the head to their answers.
///
/// # Errors
/// Where all tokens' features take more than [`SearchOptions::memory`]; where the model reads the texts otherwise than
/// when they were indexed; as [`answer_representer`].
pub(super) fn answer_points(
    model: &Model,
    store: &Store,
    tokens: TokenSettings,
    options: &SearchOptions,
    settings: &Settings,
) -> Result<AnswerRepresenter> {
    let RuleOptions { lambda, compat, .. } = options.rule_options;
    if compat == RepresenterCompat::TrustAi {
        return Err(Error::usage("--representer-compat trustai: theirs are of classes, and answers are places"));
    }
    let against = Against::from(store.settings().target);
    let bundler = Bundler { models: &[model], tokens, against, part: Part::Whole, kept: Kept::All };
    let progress = Progress::new("reading answers again", Some(store.rows() as u64), settings.quiet);
    let (mut windows, mut bytes) = (Vec::new(), 0);
    for first in (0..store.rows()).step_by(TOGETHER) {
        interrupt::check()?;
        let rows = first..store.rows().min(first + TOGETHER);
        let records = rows.clone().map(|row| store.record(row).map(as_read)).collect::<Result<Vec<_>>>()?;
        let of_records = bundler.answer_windows(records, settings)?;
        for (row, own) in rows.clone().zip(of_records) {
            check_same(store, row, &own)?;
            bytes += own.iter().map(|window| size_of_val(&*window.features)).sum::<usize>();
            windows.extend(own);
        }
        if bytes > options.memory {
            return Err(Error::usage(format!(
                "rule representer: the tokens of {} of {} contexts take {} MiB, more than the search may",
                rows.end,
                store.rows(),
                bytes >> 20
            ))
            .with_hint("a larger --memory, or the rules influence and grad-cos, which need no token's features"));
        }
        progress.set(rows.end as u64, rows.end as u64);
    }
    let default = RefitOptions::default();
    let refit = RefitOptions { penalty: lambda.unwrap_or(default.penalty), ..default };
    answer_representer(&windows, model.width(), &refit, &|| !interrupt::asked())
}

fn as_read(record: StoredRecord) -> Record {
    let StoredRecord { id, text, pair, label, .. } = record;
    Record { id, text, pair, label, ..Record::default() }
}

/// A window for each pair of the factors that are stored.
fn check_same(store: &Store, row: usize, windows: &[AnswerWindow]) -> Result<()> {
    let stored = store.record(row)?.said.map_or(0, |said| said.parts.len());
    if stored == 2 * windows.len() {
        return Ok(());
    }
    let found = windows.len();
    Err(Error::Mismatch(
        format!(
            "rule representer: row {row} of the store has {stored} boundaries, and the model reads {found} windows with its answer"
        ),
        Some("index the data again".to_owned()),
    ))
}
