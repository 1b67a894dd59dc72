//! `wherefore evaluate lds`.

use std::path::PathBuf;

use clap::Args;
use wherefore::evaluate::{Contender, Lds as Row, LdsOptions, Trainings};
use wherefore::model::{Model, Problem};
use wherefore::search::Rule;
use wherefore::store::Store;
use wherefore::{Error, Result};

use super::Job;
use super::retrain::RetrainArguments;
use crate::cli::Outcome;
use crate::cli::arguments::{Common, Data};
use crate::cli::search::{load_checkpoints, load_model};

#[derive(Args)]
pub(super) struct Lds {
    /// Stores of the training data, such as one of the last layer and one of projected gradients (repeatable); each rule is judged over the
    /// first it is of
    #[arg(long, value_name = "DIR", required = true)]
    store: Vec<PathBuf>,
    /// Where the model is now [default: where it was at indexing]
    #[arg(long, value_name = "DIR")]
    model: Option<String>,
    /// The queries, with labels
    #[command(flatten)]
    data: Data,
    /// The data that were indexed, with the columns of --data
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    training: Vec<String>,
    /// The rules, by commas or repeated [default: every one the stores have what it takes for]
    #[arg(long, value_name = "RULES", value_delimiter = ',')]
    rule: Vec<Rule>,
    /// Subsets to train on
    #[arg(long, value_name = "J", default_value_t = 50)]
    subsets: usize,
    /// Share of the training records in each
    #[arg(long, value_name = "SHARE", default_value_t = 0.5)]
    fraction: f64,
    #[command(flatten)]
    retrain: RetrainArguments,
    /// Keep what each subset taught here, and go on from what is there
    #[arg(long, value_name = "FILE")]
    keep: Option<PathBuf>,
}

impl Lds {
    fn options(&self, model: &Model, seed: u64) -> LdsOptions {
        LdsOptions {
            subsets: self.subsets,
            fraction: self.fraction,
            retraining: self.retrain.retraining(model, seed),
            keep: self.keep.clone(),
            seed,
        }
    }

    /// The rules asked for, or all, each with the first store that has what it takes.
    fn rules<'a>(&self, stores: &'a [Store]) -> Result<Vec<(Rule, &'a Store)>> {
        let refused = |rule: Rule, store: &Store| {
            let settings = store.settings();
            rule.check(settings.problem, settings.checkpoints.len())
                .and_then(|()| rule.check_gradients(settings.gradients.is_some()))
        };
        let find = |rule: Rule| stores.iter().find(|store| refused(rule, store).is_ok()).map(|store| (rule, store));
        if self.rule.is_empty() {
            return Ok(Rule::ALL.into_iter().filter_map(find).collect());
        }
        let wanted =
            |&rule: &Rule| find(rule).map_or_else(|| refused(rule, &stores[0]).map(|()| (rule, &stores[0])), Ok);
        self.rule.iter().map(wanted).collect()
    }
}

pub(super) fn run(arguments: &Lds, common: &Common) -> anyhow::Result<Outcome> {
    let mut job = Job::begin("evaluate lds", common);
    let stores: Vec<Store> = arguments.store.iter().map(Store::open).collect::<Result<_>>()?;
    stores.iter().try_for_each(|store| store.expect_one_factor("evaluate lds"))?;
    if stores[0].settings().problem != Problem::SingleLabel {
        return Err(Error::usage(
            "evaluate lds: expected a classifier of one label: what is predicted is the margin of a label",
        )
        .into());
    }
    let rules = arguments.rules(&stores)?;
    let model = load_model(&stores[0], arguments.model.as_deref(), common)?;
    job.run.model(&model);
    job.run.store(&stores[0]);
    let options = arguments.options(&model, common.seed);
    let training = Data { files: arguments.training.clone(), ..arguments.data.clone() };
    let trainings = Trainings::read(&model, &stores[0], training.open()?, arguments.data.open()?, &mut job.rejections)?;
    let settings = common.settings()?;
    let outcomes = trainings.run(&options, &settings)?;
    job.run.set("retraining_seconds", outcomes.seconds);
    job.run.set("retraining", serde_json::to_value(&options.retraining)?);
    let mut rows = Vec::new();
    for (rule, store) in rules {
        let checkpoints = load_checkpoints(store, rule, common)?;
        let queries = arguments.data.open()?;
        rows.push(trainings.judge(
            &Contender { rule, store, checkpoints: &checkpoints },
            queries,
            &outcomes,
            &options,
            &settings,
        )?);
    }
    rows.push(trainings.judge_chance(&outcomes, &options));
    let queries = rows.first().map_or(0, |row| row.queries);
    job.finish(&rows, queries, &Row::table(&rows))
}
