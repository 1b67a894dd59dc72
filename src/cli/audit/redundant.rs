//! `wherefore audit redundant`.

use std::time::Instant;

use clap::Args;
use indicatif::HumanCount;
use wherefore::audit::{self, Copied};
use wherefore::dataset::{Label, Record};
use wherefore::report::{NearRecord, RecordWriter, RedundantRecord};
use wherefore::store::Store;
use wherefore::{Error, Result};

use super::{Audited, finish_with, tell_found};
use crate::cli::Outcome;
use crate::cli::arguments::{Common, Data};
use crate::cli::output::Output;
use crate::cli::run_record::RunRecord;

#[derive(Args)]
pub(super) struct Redundant {
    #[command(flatten)]
    audited: Audited,
    #[command(flatten)]
    data: Data,
    /// The share of word triples two texts must have in common; punctuation, case, white space and width do not count
    #[arg(long, value_name = "SHARE", default_value_t = 0.8)]
    threshold: f64,
}

/// The training records, and those of a test set behind them.
struct Texts {
    store: Store,
    data: Vec<Record>,
}

impl Texts {
    fn len(&self) -> usize {
        self.store.rows() + self.data.len()
    }

    fn set(&self, number: usize) -> &'static str {
        if number < self.store.rows() { "training" } else { "data" }
    }

    /// A text's index and id, and what is compared of it.
    fn get(&self, number: usize) -> Result<(u64, String, Copied)> {
        let copied = |text, pair, label: Option<Label>| Copied { text, pair, label: label.map(|l| self.name(&l)) };
        if let Some(record) = number.checked_sub(self.store.rows()).map(|number| self.data[number].clone()) {
            return Ok((record.index, record.id, copied(record.text, record.pair, record.label)));
        }
        let (shard, row) = self.store.locate(number);
        let record = self.store.record(number)?;
        let index = self.store.shards()[shard].indices()[row];
        Ok((index, record.id, copied(record.text, record.pair, record.label)))
    }

    /// Class ids by name, so that both sets are told alike.
    fn name(&self, label: &Label) -> String {
        let class =
            |id: i64| usize::try_from(id).ok().and_then(|id| self.store.settings().label_names.get(id).cloned());
        match label {
            Label::Name(name) => name.clone(),
            Label::Integer(id) => class(*id).unwrap_or_else(|| id.to_string()),
            Label::Number(number) => number.to_string(),
            Label::Many(many) => many.iter().map(|label| self.name(label)).collect::<Vec<_>>().join("+"),
            Label::Answers(answers) => answers.iter().map(|answer| answer.text.as_str()).collect::<Vec<_>>().join("+"),
        }
    }

    /// How many there are of what, one text counted in each that it is.
    fn summary(&self, found: &[audit::Redundant]) -> String {
        let count =
            |is: &dyn Fn(&audit::Redundant) -> bool| HumanCount(found.iter().filter(|found| is(found)).count() as u64);
        let exact = count(&|found| found.exact);
        let leaks = count(&|found| self.set(found.text) != self.set(found.of));
        let conflicts = count(&|found| found.conflict);
        let all = HumanCount(found.len() as u64);
        format!(
            "{all} copies and near copies: {exact} the same text, {leaks} in --data of a training record, {conflicts} with another label"
        )
    }

    fn finding(&self, rank: usize, found: &audit::Redundant) -> Result<RedundantRecord> {
        let (index, id, this) = self.get(found.text)?;
        let (of_index, of_id, that) = self.get(found.of)?;
        let kind = if found.exact { "a copy" } else { "nearly a copy" };
        let leak = if self.set(found.text) == self.set(found.of) { "" } else { ", of a training record" };
        let conflict = if found.conflict { ", with another label" } else { "" };
        Ok(RedundantRecord {
            rank: rank as u64 + 1,
            set: self.set(found.text).to_owned(),
            index,
            id,
            score: found.similarity,
            label: this.label,
            reason: format!("{kind}{leak}{conflict}"),
            of_set: self.set(found.of).to_owned(),
            of: NearRecord {
                index: of_index,
                id: of_id,
                label: that.label,
                score: found.similarity as f32,
                text: that.text,
                text_pair: that.pair,
            },
            text: this.text,
            text_pair: this.pair,
        })
    }
}

pub(super) fn run(arguments: &Redundant, common: &Common) -> anyhow::Result<Outcome> {
    let (mut run, started) = (RunRecord::begin("audit redundant"), Instant::now());
    if !(arguments.threshold > 0.0 && arguments.threshold <= 1.0) {
        return Err(
            Error::usage(format!("--threshold: expected above 0, at most 1, found {}", arguments.threshold)).into()
        );
    }
    let store = arguments.audited.open()?;
    run.store(&store);
    store.expect_texts("audit redundant")?;
    let mut rejections = Output::new(common, common.out.as_deref()).rejections();
    let mut data = Vec::new();
    if !arguments.data.files.is_empty() {
        for record in arguments.data.open_as(Audited::shape(&store), &[])? {
            match record {
                Ok(record) => data.push(record),
                Err(error) => rejections.take(error)?,
            }
        }
    }
    let texts = Texts { store, data };
    let copied = |i| texts.get(i).map(|(_, _, copied)| copied);
    let found = audit::leaks_first(texts.store.rows(), texts.len(), arguments.threshold, &copied)?;
    let mut writer = RecordWriter::create(common.out.as_deref(), common.format(), RedundantRecord::columns())?;
    found.iter().enumerate().try_for_each(|(rank, found)| writer.write(&texts.finding(rank, found)?))?;
    writer.finish()?;
    run.set("findings", found.len());
    tell_found(common, &texts.summary(&found));
    finish_with(common, "compared", texts.len(), started, run, rejections)
}
