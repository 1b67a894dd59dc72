//! `wherefore audit map`.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use wherefore::Result;
use wherefore::audit::{self, Region};
use wherefore::factors::Target;
use wherefore::report::{MappedRecord, RecordWriter};
use wherefore::store::Store;
use wherefore::train::Dynamics;

use super::{Audited, finish, tell_left_out};
use crate::cli::Outcome;
use crate::cli::arguments::Common;
use crate::cli::run_record::RunRecord;

#[derive(Args)]
pub(super) struct Map {
    #[command(flatten)]
    audited: Audited,
    /// What a training wrote with its --dynamics
    #[arg(long, value_name = "DIR")]
    dynamics: PathBuf,
}

/// One record of the map; none where the store has lost it.
fn mapped(
    store: &Store,
    dynamics: &Dynamics,
    regions: &[Region],
    rank: usize,
    at: usize,
) -> Result<Option<MappedRecord>> {
    let Some(row) = store.find(dynamics.indices()[at]) else { return Ok(None) };
    let (record, settings) = (store.record(row)?, store.settings());
    let (shard, place) = store.locate(row);
    let label = match store.shards()[shard].labels().target(place, settings.classes, settings.problem) {
        Some(Target::Class(class)) => settings.label_names.get(class).cloned(),
        _ => None,
    };
    let confidence = dynamics.confidence(at);
    Ok(Some(MappedRecord {
        rank: rank as u64 + 1,
        index: dynamics.indices()[at],
        id: record.id,
        score: 1.0 - confidence,
        label,
        region: regions[at].name().to_owned(),
        confidence,
        variability: dynamics.variability(at),
        correctness: dynamics.correctness(at),
        forgotten: dynamics.forgetting_events(at).map(|events| events as u64),
        learned_in: dynamics.learned_in(at).map(|epoch| epoch as u64),
        text: record.text,
        text_pair: record.pair,
    }))
}

pub(super) fn run(arguments: &Map, common: &Common) -> anyhow::Result<Outcome> {
    let (mut run, started) = (RunRecord::begin("audit map"), Instant::now());
    let (store, dynamics) = (
        arguments.audited.open_records("map", "the dynamics of a training are of records with one label")?,
        Dynamics::open(&arguments.dynamics)?,
    );
    run.store(&store);
    audit::expect_same_records(&store, &dynamics)?;
    tell_left_out(&store, &dynamics, common, &mut run);
    let regions = audit::regions(&dynamics);
    let mut order: Vec<usize> = (0..dynamics.records()).collect();
    order.sort_by(|&a, &b| dynamics.confidence(a).total_cmp(&dynamics.confidence(b)).then(a.cmp(&b)));
    let mut writer = RecordWriter::create(common.out.as_deref(), common.format(), MappedRecord::columns())?;
    let mut written = 0;
    for at in order {
        if let Some(record) = mapped(&store, &dynamics, &regions, written, at)? {
            writer.write(&record)?;
            written += 1;
        }
    }
    writer.finish()?;
    finish(common, "mapped", written, started, run)
}
