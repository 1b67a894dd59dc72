//! What the yardsticks of rules have in common: which rules over which stores, and the data that models are trained on
//! again.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use wherefore::dataset::Dataset;
use wherefore::evaluate::{Contender, RetrainingPlan, RuleOver, Trainings, suits};
use wherefore::model::{Model, Problem};
use wherefore::pipeline::{GivenScores, Rejections, RuleOptions};
use wherefore::search::Rule;
use wherefore::store::{self, Store};
use wherefore::{Error, Result};

use super::retrain::RetrainArguments;
use crate::cli::arguments::{Common, Data, lambda};
use crate::cli::run_record::{RunRecord, check_is_not_out, note_out};
use crate::cli::search::{Hessian, load_checkpoints, load_model};

/// Rules, the stores they score over, and the data.
#[derive(Args)]
pub(super) struct RuleArguments {
    /// Stores of the training data, such as one of the last layer and one of projected gradients (repeatable); each
    /// rule is judged over every one it is of
    #[arg(long, value_name = "DIR", required = true)]
    store: Vec<PathBuf>,
    /// Where the model is now [default: where it was at indexing]
    #[arg(long, value_name = "DIR")]
    model: Option<String>,
    /// The queries, with labels
    #[command(flatten)]
    pub(super) data: Data,
    /// The data that were indexed, with the columns of --data
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    training: Vec<String>,
    /// The rules, by commas or repeated [default: every one the stores have what it takes for]
    #[arg(long, value_name = "RULES", value_delimiter = ',')]
    rule: Vec<Rule>,
    /// λ of the rules that have one, as for `search`: damping of influence, relatif and trak, penalty of representer
    #[arg(long, value_name = "λ", value_parser = lambda)]
    lambda: Option<f64>,
    /// The curvatures of influence, relatif and trak, as for `search`; each is judged [default: each rule's own]
    #[arg(long, value_enum, value_name = "FORMS", value_delimiter = ',')]
    hessian: Vec<Hessian>,
    /// Scores that another program gave, to be judged beside the rules (repeatable): a file with a row a labelled query
    /// and a number for each training record (.npy, .safetensors, or `scores` in .parquet or .jsonl)
    #[arg(long, value_name = "NAME=FILE", value_parser = given_scores)]
    scores: Vec<GivenScores>,
    #[command(flatten)]
    retrain: RetrainArguments,
    /// Keep what each training taught here, and go on from what is there; yardsticks that train on the same may share
    /// it
    #[arg(long, value_name = "FILE")]
    keep: Option<PathBuf>,
}

/// The stores, the model, and what is trained again.
pub(super) struct Rules<'a> {
    arguments: &'a RuleArguments,
    pub(super) stores: Vec<Store>,
    pub(super) model: Model,
    pub(super) plan: RetrainingPlan,
    found: Vec<Found>,
}

/// A rule over one of the stores.
struct Found {
    rule: Rule,
    place: usize,
    checkpoints: Vec<Model>,
    options: RuleOptions,
    /// Where there are several of the rule.
    name: Option<String>,
}

impl RuleArguments {
    pub(super) fn open(&self, common: &Common, run: &mut RunRecord) -> Result<Rules<'_>> {
        self.keep.as_deref().map_or(Ok(()), |keep| note_out("--keep", keep))?;
        self.scores.iter().try_for_each(|given| check_is_not_out(&given.path))?;
        let stores: Vec<Store> = self.store.iter().map(Store::open).collect::<Result<_>>()?;
        stores.iter().try_for_each(|store| store.expect_one_factor("evaluate"))?;
        if stores[0].settings().problem != Problem::SingleLabel {
            return Err(Error::usage(
                "evaluate: expected a classifier of one label: what is predicted is the margin of a label",
            ));
        }
        let chosen = self.rules(&stores)?;
        let model = load_model(&stores[0], self.model.as_deref(), common)?;
        run.model(&model);
        run.store(&stores[0]);
        let plan = RetrainingPlan {
            retraining: self.retrain.retraining(&model, common),
            keep: self.keep.clone(),
            at_once: self.retrain.at_once(),
        };
        run.set("retraining", serde_json::to_value(&plan.retraining).unwrap_or_default());
        let several = |rule: Rule| chosen.iter().filter(|(other, ..)| *other == rule).count() > 1;
        let find = |&(rule, place, hessian): &(Rule, usize, Option<Hessian>)| -> Result<Found> {
            Ok(Found {
                rule,
                place,
                checkpoints: load_checkpoints(&stores[place], rule, common)?,
                options: RuleOptions {
                    lambda: self.lambda,
                    hessian: hessian.map(Hessian::form),
                    ..RuleOptions::default()
                },
                name: several(rule).then(|| self.name(rule, place, hessian)),
            })
        };
        let found = chosen.iter().map(find).collect::<Result<_>>()?;
        Ok(Rules { arguments: self, stores, model, plan, found })
    }

    /// The rules asked for, or all, each with every store that has what it takes, and every curvature; what reads no
    /// factors is judged once.
    fn rules(&self, stores: &[Store]) -> Result<Vec<(Rule, usize, Option<Hessian>)>> {
        let of_projected = |form: &Hessian| matches!(form, Hessian::Exact | Hessian::Layers | Hessian::Shampoo);
        let forms = |rule: Rule| -> Vec<Option<Hessian>> {
            let asked = self.hessian.iter().copied();
            let forms: Vec<_> = match rule {
                Rule::Influence | Rule::RelatIf => asked.map(Some).collect(),
                Rule::Trak => asked.filter(of_projected).map(Some).collect(),
                _ => Vec::new(),
            };
            if forms.is_empty() { vec![None] } else { forms }
        };
        let places = |rule: Rule| {
            let every = (0..stores.len()).flat_map(move |place| forms(rule).into_iter().map(move |form| (place, form)));
            let suited =
                every.filter(move |(place, form)| suits(rule, &stores[*place], form.map(Hessian::form)).is_ok());
            let most = if rule.reads_gradients() { usize::MAX } else { 1 };
            suited.take(most).map(move |(place, form)| (rule, place, form))
        };
        if self.rule.is_empty() {
            return Ok(Rule::ALL.into_iter().flat_map(places).collect());
        }
        let mut chosen = Vec::new();
        for &rule in &self.rule {
            let before = chosen.len();
            chosen.extend(places(rule));
            if chosen.len() == before {
                suits(rule, &stores[0], forms(rule)[0].map(Hessian::form))?;
            }
        }
        Ok(chosen)
    }

    /// What tells a rule over this store from the same over others.
    fn name(&self, rule: Rule, place: usize, hessian: Option<Hessian>) -> String {
        let name = name(&self.store[place]);
        match (rule, hessian.and_then(|form| form.to_possible_value())) {
            (Rule::Influence | Rule::RelatIf | Rule::Trak, Some(form)) if self.hessian.len() > 1 => {
                format!("{name}, {}", form.get_name())
            }
            _ => name.to_owned(),
        }
    }
}

impl Rules<'_> {
    pub(super) fn trainings(&self, rejections: &mut Rejections) -> Result<Trainings<'_>> {
        let RuleArguments { training, data, .. } = self.arguments;
        let training = Data { files: training.clone(), ..data.clone() };
        Trainings::read(&self.model, &self.stores[0], training.open()?, data.open()?, rejections)
    }

    pub(super) fn queries(&self) -> Result<Dataset> {
        self.arguments.data.open()
    }

    pub(super) fn contenders(&self) -> Result<Vec<Contender<'_>>> {
        let rules = self.found.iter().map(|found| self.over(found).map(Contender::Rule));
        rules.chain(self.arguments.scores.iter().map(|given| Ok(Contender::Given(given)))).collect()
    }

    fn over<'a>(&'a self, found: &'a Found) -> Result<RuleOver<'a>> {
        Ok(RuleOver {
            rule: found.rule,
            store: &self.stores[found.place],
            checkpoints: &found.checkpoints,
            name: found.name.as_deref(),
            bytes: store::info(&self.arguments.store[found.place])?.bytes,
            options: &found.options,
        })
    }
}

fn given_scores(text: &str) -> Result<GivenScores, String> {
    let (name, path) = text.split_once('=').ok_or("expected NAME=FILE")?;
    match name {
        "" => Err("the scores have no name".to_owned()),
        "random" => Err("`random` is what chance is called".to_owned()),
        _ => Ok(GivenScores { name: name.to_owned(), path: path.into() }),
    }
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or("store")
}
