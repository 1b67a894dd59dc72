//! `wherefore evaluate stability`.

use std::path::PathBuf;

use clap::Args;
use wherefore::evaluate::{Member, Stability as Row, StabilityOptions, stability, suits, train_members};
use wherefore::model::{Problem, Projection};
use wherefore::search::Rule;
use wherefore::store::Store;
use wherefore::{Error, Result};

use super::Job;
use super::retrain::RetrainArguments;
use crate::cli::Outcome;
use crate::cli::arguments::{Common, Data};
use crate::cli::search::load_model;

#[derive(Args)]
pub(super) struct Stability {
    /// A store of the same training data by each model (repeatable): nothing is trained
    #[arg(long, value_name = "DIR", conflicts_with_all = ["training", "model"])]
    store: Vec<PathBuf>,
    /// The model whose sizes and classes are trained
    #[arg(long, value_name = "DIR")]
    model: Option<String>,
    /// The queries, with labels
    #[command(flatten)]
    data: Data,
    /// Train models on these data, with the columns of --data
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "model")]
    training: Vec<String>,
    /// Models to train, from the seeds --seed and on
    #[arg(long, value_name = "N", default_value_t = 2)]
    seeds: u64,
    #[command(flatten)]
    retrain: RetrainArguments,
    /// Numbers kept of each record's gradient of the whole model, for the rules over those [default: those rules are
    /// left out]
    #[arg(long, value_name = "K")]
    projection_dim: Option<usize>,
    /// Records from the first on
    #[arg(long, short = 'k', value_name = "K", default_value_t = 10)]
    top_k: usize,
    /// The rules, by commas or repeated [default: every one the stores have what it takes for]
    #[arg(long, value_name = "RULES", value_delimiter = ',')]
    rule: Vec<Rule>,
    /// Keep models and stores in this folder, and go on from what is there
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

impl Stability {
    fn members(&self, common: &Common, job: &mut Job<'_>, temporary: &std::path::Path) -> Result<Vec<Member>> {
        let Some(model) = &self.model else {
            if self.store.is_empty() {
                return Err(Error::usage("evaluate stability: expected models to compare")
                    .with_hint("give --store DIR twice or more, or --model and --training to train some"));
            }
            let member = |path: &PathBuf| {
                let store = Store::open(path)?;
                Ok(Member { model: load_model(&store, None, common)?, stores: vec![store] })
            };
            return self.store.iter().map(member).collect();
        };
        if self.training.is_empty() {
            return Err(Error::usage("--model: expected data to train on").with_hint("name them with --training"));
        }
        let model = common.load(model)?;
        job.run.model(&model);
        let data = Data { files: self.training.clone(), ..self.data.clone() };
        let projection =
            self.projection_dim.map(|dimension| Projection { dimension, seed: common.seed, ..Projection::default() });
        let seeds = common.seed..common.seed + self.seeds;
        let folder = self.keep.as_deref().unwrap_or(temporary);
        let retraining = self.retrain.retraining(&model, common);
        train_members(&model, &|| data.open(), folder, &retraining, seeds, projection, &common.settings())
    }
}

pub(super) fn run(arguments: &Stability, common: &Common) -> anyhow::Result<Outcome> {
    let mut job = Job::begin("evaluate stability", common);
    let temporary = tempfile::tempdir().map_err(Error::io(std::env::temp_dir()))?;
    let members = arguments.members(common, &mut job, temporary.path())?;
    // Of several labels there is none to name here whose logit a representer is of.
    let names_one = |store: &Store| match store.settings().problem {
        Problem::MultiLabel => false,
        Problem::Regression => store.settings().classes == 1,
        Problem::SingleLabel | Problem::Headless => true,
    };
    let suited = |rule: &Rule| {
        // The checkpoints of a store are of one training; what reads no factors is the same for all.
        !rule.needs_checkpoints()
            && (*rule != Rule::Representer || members.iter().flat_map(|one| &one.stores).all(names_one))
            && members.iter().all(|one| one.stores.iter().any(|store| suits(*rule, store, None).is_ok()))
    };
    let rules =
        if arguments.rule.is_empty() { Rule::ALL.into_iter().filter(suited).collect() } else { arguments.rule.clone() };
    let options = StabilityOptions { top_k: arguments.top_k, seed: common.seed };
    let (open, settings) = (|| arguments.data.open(), common.settings());
    let rows = stability(&members, &rules, &open, &options, &settings, &mut job.rejections)?;
    let queries = rows.first().map_or(0, |row| row.queries);
    job.finish(&rows, queries, &Row::table(&rows))
}
