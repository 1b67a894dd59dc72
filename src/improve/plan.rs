//! The plan: one file that says what is done to which data, and how it is judged. The same plan, model and data give
//! the same numbers.
//!
//! ```toml
//! model = "bert-base-uncased"        # what every training starts from
//! data = ["train.jsonl"]
//! dev = ["dev.jsonl"]
//! seeds = [0, 1, 2, 3, 4]            # or a number of them
//!
//! [sets]                             # judged on beside dev
//! test = ["test.jsonl"]
//! robust = ["robust.jsonl"]
//!
//! [train]                            # as the options of `wherefore train`
//! epochs = 3
//! learning_rate = 5e-5
//!
//! [[step]]                           # what is done to the data, in this order
//! do = "drop"
//! what = "copies"
//!
//! [[step]]
//! do = "relabel"
//! signal = "text"
//! above = 0.8
//! ```

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::audit::{Change, Signal};
use crate::error::{Error, Result};
use crate::pipeline::Choice;
use crate::train::{Metric, RATE_FROM_NOTHING, Schedule, TrainOptions, Warmup};

/// A plan as its file has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Its file.
    #[serde(skip)]
    pub(super) file: PathBuf,
    /// Where every training starts: a model directory, or `org/name` of the local cache.
    pub model: String,
    /// Only configuration and tokenizer of that are read.
    #[serde(default)]
    pub scratch: bool,
    /// The training data.
    pub data: Vec<String>,
    /// What trainings are watched on, and the gate looks at.
    #[serde(default)]
    pub dev: Vec<String>,
    /// Further sets to be judged on, by name.
    #[serde(default)]
    pub sets: BTreeMap<String, Vec<String>>,
    /// Where files keep what.
    #[serde(default)]
    pub columns: Columns,
    /// The classes in order, where neither model nor data should say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Vec<String>>,
    /// One training each; paired from arm to arm.
    #[serde(default = "five")]
    pub seeds: Seeds,
    /// How is trained.
    #[serde(default)]
    pub train: Training,
    /// How much worse than before is no regression: on dev, in the metric watched.
    #[serde(default)]
    pub tolerance: f64,
    /// What is done to the data.
    #[serde(default, rename = "step", skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Step>,
    /// Several things to do, each by itself, to be compared.
    #[serde(default, rename = "arm", skip_serializing_if = "Vec::is_empty")]
    pub arms: Vec<Arm>,
    /// Data that arrive in batches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continual: Option<Continual>,
}

/// Something to do to the data, with a name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arm {
    /// Its folder, and what results call it.
    pub name: String,
    /// In this order.
    #[serde(default, rename = "step")]
    pub steps: Vec<Step>,
}

/// Columns, where the default names do not do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Columns {
    /// The first segment.
    pub text: Option<String>,
    /// The second segment.
    pub pair: Option<String>,
    /// The label.
    pub label: Option<String>,
    /// The id.
    pub id: Option<String>,
    /// The training records' weights.
    pub weight: Option<String>,
    /// The columns of tables without a header line.
    pub names: Option<Vec<String>>,
}

/// Seeds, or how many.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Seeds {
    /// 0 and on.
    Count(u64),
    /// These.
    These(Vec<u64>),
}

/// Seeds at most: no plan means more trainings an arm.
const MOST_SEEDS: usize = 1000;

fn five() -> Seeds {
    Seeds::Count(5)
}

impl Seeds {
    fn check(&self) -> Result<(), String> {
        let count = match self {
            Self::Count(count) => usize::try_from(*count).unwrap_or(usize::MAX),
            Self::These(seeds) => seeds.len(),
        };
        match self {
            _ if count == 0 => Err("seeds: expected at least one".to_owned()),
            _ if count > MOST_SEEDS => Err(format!("seeds: expected at most {MOST_SEEDS}, found {count}")),
            Self::These(seeds) if !are_distinct(seeds) => Err("seeds: one comes twice".to_owned()),
            _ => Ok(()),
        }
    }

    /// Each of them.
    pub fn list(&self) -> Vec<u64> {
        match self {
            Self::Count(count) => (0..*count).collect(),
            Self::These(seeds) => seeds.clone(),
        }
    }
}

fn are_distinct<T: std::hash::Hash + Eq>(all: &[T]) -> bool {
    let mut seen = HashSet::new();
    all.iter().all(|one| seen.insert(one))
}

/// How is trained: see [`TrainOptions`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Training {
    /// Times through the data.
    pub epochs: u32,
    /// The height of the schedule, where the usual one is not wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// What the rate does after the warm-up.
    pub schedule: Schedule,
    /// Its length: a number of steps, or a share of them below 1.
    pub warmup: f64,
    /// Records in a batch.
    pub batch_size: usize,
    /// Batches a step.
    pub accumulate: usize,
    /// λ of AdamW.
    pub weight_decay: f64,
    /// Largest norm of a step's gradient; 0 is none.
    pub clip: f64,
    /// The share of numbers dropped, where the model's own is not wanted.
    pub dropout: Option<f64>,
    /// Epochs without a better outcome on dev after which it ends.
    pub patience: Option<u32>,
    /// What better means.
    pub metric: Option<Metric>,
    /// Longest input in tokens.
    pub max_length: Option<usize>,
}

impl Default for Training {
    fn default() -> Self {
        let options = TrainOptions::default();
        Self {
            epochs: options.epochs,
            learning_rate: None,
            schedule: options.schedule,
            warmup: 0.0,
            batch_size: options.batch_size,
            accumulate: options.accumulate,
            weight_decay: options.weight_decay,
            clip: options.clip.unwrap_or_default(),
            dropout: None,
            patience: None,
            metric: None,
            max_length: None,
        }
    }
}

impl Training {
    /// For one seed, from `scratch` or not; dropout is the model's own where the plan does not say.
    pub(super) fn options(&self, seed: u64, scratch: bool, own: crate::model::DropoutRates) -> Result<TrainOptions> {
        let usual = if scratch { RATE_FROM_NOTHING } else { TrainOptions::default().learning_rate };
        let warmup = if self.warmup < 1.0 { Warmup::Share(self.warmup) } else { Warmup::Steps(self.warmup as u64) };
        Ok(TrainOptions {
            epochs: self.epochs,
            learning_rate: self.learning_rate.unwrap_or(usual),
            schedule: self.schedule,
            warmup,
            batch_size: self.batch_size,
            accumulate: self.accumulate,
            weight_decay: self.weight_decay,
            clip: (self.clip != 0.0).then_some(self.clip),
            seed,
            dropout: self.dropout.map_or(Ok(own), crate::model::DropoutRates::uniform)?,
            patience: self.patience,
            metric: self.metric,
            ..TrainOptions::default()
        })
    }
}

/// How many records: a share of all below 1, else a number.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Amount(pub f64);

impl Amount {
    /// Of `all`.
    pub fn of(self, all: usize) -> usize {
        let count = if self.0 < 1.0 { self.0 * all as f64 } else { self.0 };
        (count.round() as usize).min(all)
    }
}

/// What is done to the data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Step {
    /// Takes records out.
    Drop {
        /// Which.
        what: Dropped,
        /// Of suspect labels: which audit signal ranks them.
        #[serde(default = "combined", with = "signal_name")]
        signal: Signal,
        /// Of suspect labels: so many of the first.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        top: Option<Amount>,
        /// Of suspect labels: those of a greater score.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        above: Option<f32>,
        /// Of copies: the share of word triples two texts have in common.
        #[serde(default = "four_fifths")]
        similarity: f64,
    },
    /// Gives records the labels that a person has found right.
    Correct {
        /// Files of `id` (or `index`) and `label`: .jsonl, .csv, .tsv or .parquet.
        corrections: Vec<String>,
        /// Only records that an audit signal ranks high.
        #[serde(default = "combined", with = "signal_name")]
        signal: Signal,
        /// So many of them; every correction where there is no number.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        top: Option<Amount>,
        /// Whether the ranking, or chance, says which.
        #[serde(default)]
        pick: Pick,
    },
    /// Gives records the labels that an audit suggests.
    Relabel {
        /// Which signal ranks and suggests.
        #[serde(default = "combined", with = "signal_name")]
        signal: Signal,
        /// So many of the first.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        top: Option<Amount>,
        /// Those of a greater score.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        above: Option<f32>,
    },
    /// Lets records of biased words count less.
    Reweight {
        /// How weights are made.
        #[serde(default)]
        weights: Weighing,
        /// What a biased word is.
        #[serde(default)]
        words: Words,
    },
    /// Adds copies of the records that have a biased word and another label.
    Rebalance {
        /// What a biased word is.
        #[serde(default)]
        words: Words,
    },
    /// Adds records of a pool that the data do not have already.
    Add {
        /// Files of it.
        pool: Vec<String>,
        /// Files of `id` and `label`, for those that have none in the pool.
        #[serde(default)]
        answers: Vec<String>,
        /// How they are chosen.
        #[serde(default)]
        choose: Choice,
        /// How many.
        count: Amount,
        /// The set whose least covered records are chosen for; `dev` or a name.
        #[serde(default = "dev")]
        targets: String,
        /// How many of them.
        #[serde(default = "fifty")]
        target_count: Amount,
        /// How near to a target a chosen record must be.
        #[serde(default = "near")]
        threshold: f32,
    },
    /// Adds changed copies of the training records that are nearest to what is least covered.
    Augment {
        /// How copies differ.
        #[serde(with = "change_name")]
        change: Change,
        /// How many.
        count: Amount,
        /// The share of words changed.
        #[serde(default = "tenth")]
        share: f64,
        /// The set whose least covered records are augmented for.
        #[serde(default = "dev")]
        targets: String,
        /// How many of them.
        #[serde(default = "fifty")]
        target_count: Amount,
    },
}

/// What is taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dropped {
    /// Records whose labels are suspect.
    Dirty,
    /// Copies and near copies of earlier training records with the same label; where labels contradict, both are left
    /// to the steps that judge them.
    Copies,
    /// Copies and near copies of records of dev and the other sets.
    Leaks,
    /// The region of the data map of records that are learnt at once.
    Easy,
    /// Of those that are now right, now wrong.
    Ambiguous,
    /// Of those that are steadily unsure.
    Hard,
    /// Of those never once predicted as labelled.
    Suspect,
}

/// Who says which records are looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pick {
    /// The audit.
    #[default]
    Audit,
    /// Chance: what a plan is compared with.
    Random,
}

/// How biased words make weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Weighing {
    /// By how far a word's share of its label is from an even one.
    #[default]
    LlsD,
    /// By that and how often the word comes.
    #[serde(alias = "lls-df")]
    LlsDF,
    /// So that, by weight, the words tell nothing of the label.
    Reweighing,
}

/// What a biased word is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Words {
    /// The fewest records with it.
    pub least_count: u64,
    /// The least share of them that one label has.
    pub least_share: f64,
    /// The share of the words found that may be there by chance.
    pub false_discovery: f64,
}

impl Default for Words {
    fn default() -> Self {
        let options = crate::audit::BiasOptions::default();
        Self {
            least_count: options.least_count,
            least_share: options.least_share,
            false_discovery: options.false_discovery,
        }
    }
}

impl Words {
    fn check(&self) -> Result<(), String> {
        let shares = [("least_share", self.least_share), ("false_discovery", self.false_discovery)];
        match shares.iter().find(|(_, share)| !(0.0..=1.0).contains(share)) {
            Some((name, share)) => Err(format!("words: {name}: expected 0 to 1, found {share}")),
            None => Ok(()),
        }
    }
}

/// Data that arrive in batches, and what labels may cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Continual {
    /// Each round's files. A label in them is only looked at when it is asked for.
    pub batches: Vec<Vec<String>>,
    /// Labels a round.
    pub budget: usize,
    /// The share of the budget that asks again about suspect labels at hand.
    #[serde(default)]
    pub recheck: f64,
    /// How the records to ask about are chosen.
    #[serde(default = "unsure")]
    pub choose: Choice,
    /// Files of `id` and `label`. Each round also looks for `answers.jsonl` in its folder.
    #[serde(default)]
    pub answers: Vec<String>,
    /// Whether a round that is worse on dev is rolled back.
    #[serde(default = "yes")]
    pub gate: bool,
}

fn combined() -> Signal {
    Signal::Combined
}

fn four_fifths() -> f64 {
    0.8
}

fn tenth() -> f64 {
    0.1
}

fn near() -> f32 {
    0.7
}

fn dev() -> String {
    "dev".to_owned()
}

fn fifty() -> Amount {
    Amount(50.0)
}

fn unsure() -> Choice {
    Choice::Unsure
}

fn yes() -> bool {
    true
}

macro_rules! by_name {
    ($module:ident, $kind:ty) => {
        mod $module {
            use serde::{Deserialize, Deserializer, Serializer, de::Error};

            pub(super) fn serialize<S: Serializer>(value: &$kind, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(value.name())
            }

            pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<$kind, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }
    };
}

by_name!(signal_name, crate::audit::Signal);
by_name!(change_name, crate::audit::Change);

impl Plan {
    /// Reads a TOML or JSON file. Relative paths are from its folder.
    ///
    /// # Errors
    /// [`Error::Format`]: what is not a plan; [`Error::Usage`]: a plan of nothing.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        let is_json = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
        let plan = if is_json {
            serde_json::from_str(&text).map_err(|error| error.to_string())
        } else {
            toml::from_str(&text).map_err(|error| told(&text, &error))
        };
        let mut plan: Self = plan.map_err(|reason| Error::format(path, reason))?;
        path.clone_into(&mut plan.file);
        plan.resolve();
        plan.check().map_err(|reason| Error::format(path, reason))?;
        Ok(plan)
    }

    /// The folder of its file, which paths are from.
    pub(super) fn folder(&self) -> &Path {
        self.file.parent().unwrap_or(Path::new(""))
    }

    /// Every arm: those of the plan, or its steps as the one.
    pub fn arms(&self) -> Vec<Arm> {
        if self.arms.is_empty() {
            return vec![Arm { name: "after".to_owned(), steps: self.steps.clone() }];
        }
        self.arms.clone()
    }

    /// Every set that models are judged on, dev first.
    pub fn judged_on(&self) -> Vec<(&str, &[String])> {
        let dev = (!self.dev.is_empty()).then_some(("dev", self.dev.as_slice()));
        dev.into_iter().chain(self.sets.iter().map(|(name, files)| (name.as_str(), files.as_slice()))).collect()
    }

    /// The files of a set by its name.
    pub(super) fn set(&self, name: &str) -> Result<&[String]> {
        let found = self.judged_on().into_iter().find(|(set, _)| *set == name).map(|(_, files)| files);
        found.ok_or_else(|| Error::usage(format!("the plan has no set named {name:?}")))
    }

    /// Every file that the plan begins with, in order.
    pub(super) fn files(&self) -> Vec<&str> {
        let steps = self.steps.iter().chain(self.arms.iter().flat_map(|arm| &arm.steps)).flat_map(|step| match step {
            Step::Correct { corrections, .. } => corrections.iter().collect::<Vec<_>>(),
            Step::Add { pool, answers, .. } => pool.iter().chain(answers).collect(),
            _ => Vec::new(),
        });
        let sets = self.sets.values().flatten();
        self.data.iter().chain(&self.dev).chain(sets).chain(steps).map(String::as_str).collect()
    }

    fn check(&self) -> Result<(), String> {
        let names: Vec<String> = self.arms().into_iter().map(|arm| arm.name).collect();
        let plain = |name: &String| {
            !name.is_empty()
                && name.chars().all(|c| c.is_alphanumeric() || "-_+.".contains(c))
                && !name.starts_with('.')
        };
        if let Some(name) = names.iter().find(|name| !plain(name) || ["before", "audit"].contains(&name.as_str())) {
            return Err(format!(
                "arm: expected a name of letters, digits, -, _, + and . (not first), other than before and audit, found {name:?}"
            ));
        }
        self.seeds.check()?;
        match () {
            () if !are_distinct(&names) => Err("arm: two have the same name".to_owned()),
            () if self.data.is_empty() => Err("data: expected files, found none".to_owned()),
            () if self.judged_on().is_empty() => Err("dev: expected files to be judged on, found none".to_owned()),
            () if self.sets.contains_key("dev") => Err("sets: dev is the name of the plan's own dev data".to_owned()),
            () if !self.steps.is_empty() && !self.arms.is_empty() => {
                Err("expected steps or arms, found both".to_owned())
            }
            () if self.continual.is_some() && !self.arms.is_empty() => {
                Err("a continual plan has steps, and no arms".to_owned())
            }
            () if self.continual.is_some() && self.dev.is_empty() => {
                Err("dev: a continual plan is gated on it, found none".to_owned())
            }
            () if self.continual.is_none() && self.arms().iter().all(|arm| arm.steps.is_empty()) => {
                Err("step: expected something to do to the data, found nothing".to_owned())
            }
            // Below 0 is how much better it must be.
            () if self.tolerance.is_nan() || self.tolerance < -1.0 => {
                Err(format!("tolerance: expected a number from -1, found {}", self.tolerance))
            }
            () => {
                let recheck = self.continual.as_ref().map_or(0.0, |continual| continual.recheck);
                if !(0.0..=1.0).contains(&recheck) {
                    return Err(format!("recheck: expected 0 to 1, found {recheck}"));
                }
                self.arms().iter().flat_map(|arm| &arm.steps).try_for_each(Step::check)
            }
        }
    }

    fn resolve(&mut self) {
        let folder = self.folder().to_owned();
        let resolve = |path: &mut String| {
            if path != "-" && Path::new(path.as_str()).is_relative() {
                *path = folder.join(&*path).to_string_lossy().into_owned();
            }
        };
        // A model's name may be one of the local cache.
        let model: PathBuf = folder.join(&self.model);
        if model.is_dir() {
            self.model = model.to_string_lossy().into_owned();
        }
        self.data.iter_mut().chain(&mut self.dev).chain(self.sets.values_mut().flatten()).for_each(resolve);
        for step in self.steps.iter_mut().chain(self.arms.iter_mut().flat_map(|arm| &mut arm.steps)) {
            match step {
                Step::Correct { corrections, .. } => corrections.iter_mut().for_each(resolve),
                Step::Add { pool, answers, .. } => pool.iter_mut().chain(answers).for_each(resolve),
                _ => {}
            }
        }
        if let Some(continual) = &mut self.continual {
            continual.batches.iter_mut().flatten().chain(&mut continual.answers).for_each(resolve);
        }
    }
}

impl Step {
    /// What results call it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Drop { .. } => "drop",
            Self::Correct { .. } => "correct",
            Self::Relabel { .. } => "relabel",
            Self::Reweight { .. } => "reweight",
            Self::Rebalance { .. } => "rebalance",
            Self::Add { .. } => "add",
            Self::Augment { .. } => "augment",
        }
    }

    fn check(&self) -> Result<(), String> {
        match self {
            Self::Drop { what: Dropped::Dirty, top: None, above: None, .. } => {
                Err("drop: of suspect labels, expected top or above, found neither".to_owned())
            }
            Self::Relabel { top: None, above: None, .. } => {
                Err("relabel: expected top or above, found neither".to_owned())
            }
            Self::Correct { top: None, pick: Pick::Random, .. } => {
                Err("correct: to pick at random, expected how many (top)".to_owned())
            }
            Self::Drop { similarity, .. } if !(*similarity > 0.0 && *similarity <= 1.0) => {
                Err(format!("drop: expected a similarity above 0, at most 1, found {similarity}"))
            }
            Self::Drop { top: Some(top), .. }
            | Self::Correct { top: Some(top), .. }
            | Self::Relabel { top: Some(top), .. } => self.amounts([("top", *top)]),
            Self::Add { threshold, .. } if !(-1.0..=1.0).contains(threshold) => {
                Err(format!("add: threshold: expected a cosine, -1 to 1, found {threshold}"))
            }
            Self::Augment { share, .. } if !(0.0..=1.0).contains(share) => {
                Err(format!("augment: share: expected 0 to 1, found {share}"))
            }
            Self::Reweight { words, .. } | Self::Rebalance { words, .. } => words.check(),
            Self::Add { count, target_count, .. } | Self::Augment { count, target_count, .. } => {
                self.amounts([("count", *count), ("target_count", *target_count)])
            }
            _ => Ok(()),
        }
    }

    /// Refuses amounts of no records.
    fn amounts<const N: usize>(&self, amounts: [(&str, Amount); N]) -> Result<(), String> {
        let is_none = |amount: &Amount| !(amount.0 > 0.0 && amount.0.is_finite());
        match amounts.into_iter().find(|(_, amount)| is_none(amount)) {
            None => Ok(()),
            Some((field, Amount(found))) => {
                Err(format!("{}: {field}: expected a number above 0, or a share below 1, found {found}", self.name()))
            }
        }
    }
}

/// One line, with the place.
fn told(text: &str, error: &toml::de::Error) -> String {
    let line = error.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
    let reason = error.message().lines().next().unwrap_or_default().to_owned();
    line.map_or(reason.clone(), |line| format!("line {line}: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Plan> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plan.toml");
        std::fs::write(&path, text).unwrap();
        Plan::read(&path)
    }

    const HEAD: &str = "model = 'org/name'\ndata = ['train.jsonl']\ndev = ['/there/dev.jsonl']\n";

    const DROP: &str = "[[step]]\ndo = 'drop'\nwhat = 'copies'\n";
    const ARM: &str = "[[arm]]\nname = 'a+b.c'\n[[arm.step]]\ndo = 'drop'\nwhat = 'copies'\n";

    #[test]
    fn the_plan_of_the_readme_is_one() {
        let readme = include_str!("../../README.md");
        let block = readme.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
        let plan = read(block).unwrap();
        assert_eq!((plan.seeds.list().len(), plan.arms().len()), (5, 1));
    }

    #[test]
    fn a_plan_is_read_with_its_defaults_and_written_as_it_was_read() {
        let steps = "[[step]]\ndo = 'drop'\nwhat = 'copies'\n[[step]]\ndo = 'relabel'\nsignal = 'text'\nabove = 0.8\n\
            [[step]]\ndo = 'reweight'\nweights = 'lls-d-f'\nwords = { least_count = 5 }\n[[step]]\ndo = 'add'\npool = ['p.jsonl']\ncount = 0.2\n";
        let plan = read(&format!("{HEAD}{steps}")).unwrap();
        assert_eq!(plan.seeds.list(), [0, 1, 2, 3, 4]);
        assert!(plan.data[0].ends_with("train.jsonl") && Path::new(&plan.data[0]).is_absolute());
        assert_eq!((plan.model.as_str(), plan.dev[0].as_str()), ("org/name", "/there/dev.jsonl"));
        let Step::Reweight { words, .. } = &plan.steps[2] else { panic!("{:?}", plan.steps) };
        assert_eq!((words.least_count, words.least_share), (5, 0.85));
        let json = serde_json::to_string(&plan).unwrap();
        let again = Plan { file: plan.file.clone(), ..serde_json::from_str(&json).unwrap() };
        assert_eq!(again, plan);
        assert_eq!(plan.files().len(), 3);
    }

    #[test]
    fn what_is_no_plan_is_told_in_a_line() {
        for (text, told) in [
            ("model = 3", "line 1"),
            (&format!("{HEAD}colour = 1"), "unknown field"),
            (HEAD, "something to do"),
            (&format!("{HEAD}[[step]]\ndo = 'relabel'"), "top or above"),
            (&format!("{HEAD}[[step]]\ndo = 'fly'"), "fly"),
            (
                &format!("{HEAD}[[step]]\ndo = 'relabel'\ntop = -3"),
                "relabel: top: expected a number above 0, or a share below 1, found -3",
            ),
            (&format!("{HEAD}[[step]]\ndo = 'drop'\nwhat = 'dirty'\ntop = 0"), "drop: top: expected a number above 0"),
            (
                &format!("{HEAD}[[step]]\ndo = 'correct'\ncorrections = ['c.csv']\ntop = nan"),
                "correct: top: expected a number",
            ),
            (
                &format!("{HEAD}[[step]]\ndo = 'add'\npool = ['p.jsonl']\ncount = -5"),
                "add: count: expected a number above 0",
            ),
            (
                &format!("{HEAD}[[step]]\ndo = 'add'\npool = ['p.jsonl']\ncount = 5\nthreshold = 3"),
                "add: threshold: expected a cosine, -1 to 1, found 3",
            ),
            (
                &format!("{HEAD}[[step]]\ndo = 'augment'\nchange = 'swap'\ncount = 5\nshare = 1.5"),
                "augment: share: expected 0 to 1, found 1.5",
            ),
            (
                &format!("{HEAD}[[step]]\ndo = 'augment'\nchange = 'swap'\ncount = 5\ntarget_count = 0"),
                "augment: target_count: expected",
            ),
            (&format!("tolerance = -5\n{HEAD}{DROP}"), "tolerance: expected a number from -1, found -5"),
            (
                &format!("{HEAD}[continual]\nbatches = [['b.jsonl']]\nbudget = 3\nrecheck = 2"),
                "recheck: expected 0 to 1, found 2",
            ),
            (
                &format!("{HEAD}[continual]\nbatches = [['b.jsonl']]\nbudget = 3\nrecheck = -1"),
                "recheck: expected 0 to 1, found -1",
            ),
            (&format!("{HEAD}[[step]]\ndo = 'relabel'\nsignal = 'x'\ntop = 3"), "expected one of combined"),
            (&format!("{HEAD}seeds = []\n[[step]]\ndo = 'drop'\nwhat = 'copies'"), "seeds"),
            (&format!("seeds = 9223372036854775807\n{HEAD}{DROP}"), "at most 1000"),
            (&format!("seeds = 100000000000\n{HEAD}{DROP}"), "at most 1000"),
            (&format!("seeds = [3, 4, 3]\n{HEAD}{DROP}"), "one comes twice"),
            (&format!("{HEAD}{}", ARM.repeat(2)), "the same name"),
            (&format!("{HEAD}{}", ARM.replace("a+b.c", "a/b")), "-, _, + and ."),
            (&format!("{HEAD}[[arm]]\nname = 'before'\n[[arm.step]]\ndo = 'drop'\nwhat = 'copies'"), "before"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(told) && !error.contains('\n'), "{text}: {error}");
        }
    }

    #[test]
    fn amounts_are_shares_or_numbers() {
        assert_eq!((Amount(0.1).of(55), Amount(7.0).of(55), Amount(70.0).of(55)), (6, 7, 55));
    }
}
