//! Queries through the model, and for each the score of every training record, for those who add them up.

use super::queries::SearchJob;
use super::{Rejections, Settings, Summary};
use crate::dataset::Dataset;
use crate::error::Result;
use crate::interrupt;
use crate::report::SearchResult;
use crate::search::{self, Options};

/// Takes a query (its neighbours left out) and a score for each row of the store.
pub type EachScores<'a> = &'a mut (dyn FnMut(&SearchResult, &[f32]) -> Result<()> + Send);

impl SearchJob<'_> {
    /// Scores every row of the store for every record of `dataset`, in input order; whatever
    /// [`super::SearchOptions::scope`] says, all rows are scored.
    ///
    /// # Errors
    /// As [`SearchJob::run`]; whatever `each` fails with.
    pub fn scores(
        &self,
        dataset: Dataset,
        settings: &Settings,
        rejections: &mut Rejections,
        each: EachScores<'_>,
    ) -> Result<Summary> {
        self.check()?;
        let whole = self.whole()?;
        let prepared = self.prepared(whole.as_ref(), settings.quiet)?;
        let go_on = |_, _| !interrupt::asked();
        let options = Options { memory: self.options.memory, progress: Some(&go_on), ..Options::default() };
        self.ask(whole.as_ref(), dataset, settings, rejections, &mut |asked| {
            let (results, asking): (Vec<_>, Vec<_>) = asked.into_iter().map(|one| (one.result, one.asking)).unzip();
            let batch = prepared.batch(asking)?;
            search::scores(self.store, &prepared.form(&batch), &batch.queries, &options, |query, scores| {
                each(&results[query], scores)
            })
        })
    }
}
