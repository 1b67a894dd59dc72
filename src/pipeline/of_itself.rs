//! `search --self`: a store's own records as the queries, from the factors it keeps. No model runs.

use super::answers::{Answers, Asked, Column, Waiting, shown, shown_target, stored_target};
use super::prepared::{Asking, Prepared, joined};
use super::queries::{QueryTarget, ResultSink, SearchOptions};
use super::token_queries;
use super::{Progress, Summary};
use crate::backend::gpu::Gpu;
use crate::error::{Error, Result};
use crate::factors::{LabelUsed, Target};
use crate::interrupt;
use crate::report::SearchResult;
use crate::search::{FactorSet, Rule, Source};
use crate::store::Store;

/// Records that ask together.
const QUERIES: usize = 4096;

/// A store searched for each of its own records, itself left out. A record asks as it was indexed: its δ is against the
/// label that the store was made with ([`crate::store::Settings::target`]).
pub struct SelfSearch<'a> {
    /// The training records, who ask and are asked.
    pub store: &'a Store,
    /// What is asked; [`SearchOptions::of_itself`] must be set, and [`SearchOptions::target`] is not read.
    pub options: &'a SearchOptions,
    /// Where to search; the CPU where there are none.
    pub devices: &'a [Gpu],
}

impl SelfSearch<'_> {
    /// Asks about every record of the store; results go to `sink` in the order of the input.
    ///
    /// # Errors
    /// Where store and rule do not belong together, the store is damaged, or the sink fails.
    pub fn run(&self, quiet: bool, sink: &mut dyn ResultSink) -> Result<Summary> {
        let Self { store, options, devices } = *self;
        if !options.of_itself || options.target != QueryTarget::default() {
            return Err(Error::usage("a store's own records ask as they were indexed")
                .with_hint("leave --target out; `index --target` decides"));
        }
        if options.rule == Rule::Less {
            return Err(Error::usage(
                "rule less: queries ask with their gradients as they are, which the store has not of its records",
            )
            .with_hint("ask with the records themselves, by --data, and --exclude-same-id"));
        }
        let prepared = Prepared::new(options.rule, store, &options.rule_options, options.memory, quiet)?;
        let answers = Answers::new(store, options, &prepared)?.on(devices.iter().collect());
        let progress = Progress::new("searching", Some(store.rows() as u64), quiet);
        let found = answers.mutual(&progress)?;
        let mut waiting = Waiting::new(&answers);
        for first in (0..store.rows()).step_by(QUERIES) {
            interrupt::check()?;
            let last = store.rows().min(first + QUERIES);
            let asked = (first..last).map(|row| self.asked(row)).collect::<Result<_>>()?;
            if let Some(found) = &found {
                answers.write_found(asked, found, sink)?;
            } else {
                waiting.ask(asked, sink)?;
                progress.set(last as u64, last as u64);
            }
        }
        waiting.answer(sink)?;
        let records = store.rows() as u64;
        Ok(Summary {
            numbered: store.records_total(),
            records,
            seconds: progress.seconds(),
            damping: prepared.damping(),
            searched: answers.searched(),
            ..Summary::default()
        })
    }

    fn asked(&self, row: usize) -> Result<Asked> {
        if self.store.settings().tokens.is_some() {
            return token_queries::stored(self.store, self.options, row);
        }
        let target = self.target(row);
        let (features, delta) = self.factors(row, FactorSet::Final);
        let checkpoints = if self.options.rule.reads_checkpoints() {
            let count = self.store.settings().checkpoints.len();
            (0..count).map(|c| self.factors(row, FactorSet::Checkpoint(c))).collect()
        } else {
            Vec::new()
        };
        let result = self.result(row, &target, &delta)?;
        let text = joined(&result.text, result.text_pair.as_deref());
        Ok(Asked {
            asking: Asking { features, delta, target, checkpoints, bundles: Vec::new(), text },
            result,
            own_row: Some(row),
        })
    }

    /// What the stored δ was taken against.
    fn target(&self, row: usize) -> Target {
        let label = match self.store.settings().target {
            LabelUsed::Gold => stored_target(self.store, row, Column::Labels),
            LabelUsed::Predicted => None,
        };
        let target = label.or_else(|| stored_target(self.store, row, Column::Predictions));
        // A headless model has neither, and its rules read none.
        target.unwrap_or(Target::Values(Vec::new()))
    }

    /// h and δ as stored.
    fn factors(&self, row: usize, set: FactorSet) -> (Vec<f32>, Vec<f32>) {
        let (shard, row) = self.store.locate(row);
        let factors = self.store.factors(shard, set).expect("the rule was checked against the store");
        let mut features = vec![0.0_f64; factors.width];
        factors.features.decode(row * factors.width, &mut features);
        let delta = factors.deltas[row * factors.classes..][..factors.classes].to_vec();
        (features.into_iter().map(|x| x as f32).collect(), delta)
    }

    /// A result with everything but its neighbours.
    fn result(&self, row: usize, target: &Target, delta: &[f32]) -> Result<SearchResult> {
        let (settings, record) = (self.store.settings(), self.store.record(row)?);
        let (shard, place) = self.store.locate(row);
        let predicted = stored_target(self.store, row, Column::Predictions);
        // δ is p less the target's one.
        let probability = match (&predicted, target) {
            (Some(Target::Class(class)), Target::Class(explained)) => {
                if settings.gradients.is_some() {
                    // δ is p less one, of the label explained alone.
                    (class == explained).then(|| 1.0 + delta[0])
                } else {
                    delta.get(*class).map(|d| d + f32::from(u8::from(class == explained)))
                }
            }
            _ => None,
        };
        let target = shown_target(settings.problem, target, &settings.label_names);
        Ok(SearchResult {
            id: record.id,
            index: self.store.shards()[shard].indices()[place],
            text: record.text,
            text_pair: record.pair,
            label: shown(self.store, row, Column::Labels),
            predicted: shown(self.store, row, Column::Predictions).unwrap_or_default(),
            probability,
            target,
            span: None,
            rule: self.options.rule.name().to_owned(),
            proponents: Vec::new(),
            opponents: Vec::new(),
            groups: Vec::new(),
            candidates: None,
            certain: None,
        })
    }
}
