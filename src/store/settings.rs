//! What must agree between all shards of one data set, and how the blocks are dealt to jobs.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::backend::Precision;
use crate::error::{Error, Result};
use crate::factors::{LabelUsed, ScanType};
use crate::model::{KeptLayer, Problem, Projection, Task};

/// Input record numbers in a block where nothing else is asked for.
pub const DEFAULT_BLOCK_RECORDS: u64 = 16_384;

/// Everything that decides a store's numbers, apart from the data. Fingerprints are lower-case hexadecimal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Where the model was, as the user gave it. Only a convenience for the next command: the fingerprints say what it
    /// was.
    pub model: String,
    /// Of the encoder: its weights and configuration.
    pub model_fingerprint: String,
    /// Of the last linear layer (empty where there is none).
    pub head_fingerprint: String,
    /// Of the tokenizer.
    pub tokenizer_fingerprint: String,
    /// Tokens a record is cut to.
    pub max_length: usize,
    /// What the head was trained to do.
    pub problem: Problem,
    /// E.
    pub width: usize,
    /// K (0 for headless models).
    pub classes: usize,
    /// The classes' names, `[K]` (regression models may have none).
    pub label_names: Vec<String>,
    /// The label whose loss δ is the gradient of.
    pub target: LabelUsed,
    /// How features are stored.
    pub dtype: Dtype,
    /// R: input record numbers in a block.
    pub block_records: u64,
    /// Earlier checkpoints whose factors are stored too, for TracIn.
    pub checkpoints: Vec<Checkpoint>,
    /// In what form a copy of the features is kept for scans, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scan: Option<ScanType>,
    /// How gradients of the whole model are projected, where a store holds those: a record's features are then φ, the
    /// projected gradient of its output function, and its δ, one number, the slope of its loss in that (see
    /// [`crate::factors::output_gradient`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradients: Option<Projection>,
    /// Which layer each of their numbers is of; some may be left over at the end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gradient_layers: Vec<KeptLayer>,
    /// What of each record is said of tokens, where the model says something of those: a record then has several
    /// factors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<TokenSettings>,
    /// Names of the further columns of the data that are kept beside the texts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
    /// The arithmetic that the numbers were computed in, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precision: Option<Precision>,
}

/// How the records of a model that says something of tokens became factors: see [`crate::factors::Bundle`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenSettings {
    /// What the model says something of.
    pub task: Task,
    /// Tokens that neighbouring windows of a context share (answers).
    pub stride: usize,
    /// Tokens that a predicted answer has at most.
    pub max_answer_tokens: usize,
}

/// How features are stored. Values are rounded once, to the nearest, and norms are those of the rounded values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dtype {
    /// 32-bit.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
    /// Eight-bit integers: see [`crate::factors::Int8Rows`].
    Int8,
}

impl Dtype {
    /// In what form fewer bits are kept of them.
    pub(super) fn rounds_to(self) -> Option<ScanType> {
        match self {
            Self::F32 => None,
            Self::F16 => Some(ScanType::F16),
            Self::Bf16 => Some(ScanType::Bf16),
            Self::Int8 => Some(ScanType::Int8),
        }
    }
}

/// A checkpoint of the training that led to the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// Where it was, as the user gave it.
    pub path: String,
    /// Of all its weights.
    pub fingerprint: String,
    /// The learning rate at that point of the training.
    pub learning_rate: f64,
    /// Of AdamW's moments there, where gradients are kept as it would follow them: a record's features are then of unit
    /// length, and its δ is 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moments: Option<String>,
}

/// What two stores' settings differ in.
pub(super) struct Difference {
    /// The setting's name, and both values.
    pub(super) told: String,
    /// The first one's, where it is the precision.
    pub(super) precision: Option<Precision>,
}

/// The field's name.
const PRECISION: &str = "precision";

impl Settings {
    /// About how large a store of `records` records is, whose lines of text ([`super::line_bytes`]) take `text_bytes`,
    /// in `blocks` blocks.
    pub fn store_bytes(&self, records: u64, text_bytes: u64, blocks: u64) -> u64 {
        /// Of a block's header, and its entry in the manifest.
        const BLOCK: u64 = 2_500;
        let (e, k) = (self.width as u64, self.classes as u64);
        let held = |kind| match kind {
            None => 4 * e,
            Some(ScanType::F16 | ScanType::Bf16) => 2 * e,
            Some(ScanType::Int8) => e + 8,
        };
        // Features, δ, and the norms of both.
        let factors = held(self.dtype.rounds_to()) + 4 * self.delta_width() as u64 + 4 + 4;
        let labels = if self.problem == Problem::SingleLabel { 8 } else { 4 * k };
        // Index and offset, label and prediction, loss.
        let scan = self.scan.map_or(0, |kind| held(Some(kind)) + 4);
        let residual = if self.dtype == Dtype::F32 { 0 } else { 4 };
        let row = 8 + 8 + 2 * labels + 4 + scan + residual + factors * (1 + self.checkpoints.len() as u64);
        records * row + text_bytes + blocks * BLOCK + 4 * k * (e + 1)
    }

    /// Numbers in a record's δ: K, or one where gradients of the whole model are stored.
    pub fn delta_width(&self) -> usize {
        if self.gradients.is_some() { 1 } else { self.classes }
    }

    /// Whether factors have bias coordinates other than 1.
    pub(super) fn has_biases(&self) -> bool {
        self.task() == Task::Spans
    }

    /// What the model says something of.
    pub fn task(&self) -> Task {
        self.tokens.map_or(Task::Record, |tokens| tokens.task)
    }

    /// Whether the factors were made elsewhere, by a model that is not ours to run.
    pub fn is_given(&self) -> bool {
        self.model_fingerprint.is_empty()
    }

    /// Whether the settings make sense by themselves; `Err` holds what does not.
    pub(super) fn check(&self) -> Result<(), String> {
        let headless = self.problem == Problem::Headless;
        let nameless = headless || self.problem == Problem::Regression || self.task() == Task::Masks;
        self.check_tokens()?;
        if self.width == 0 {
            return Err("width: expected at least 1, found 0".into());
        }
        if headless != (self.classes == 0) {
            return Err(format!("classes: found {} with problem {:?}", self.classes, self.problem));
        }
        if self.label_names.len() != self.classes && !(nameless && self.label_names.is_empty()) {
            return Err(format!("label names: expected {}, found {}", self.classes, self.label_names.len()));
        }
        if self.block_records == 0 || self.block_records > u64::from(u32::MAX) {
            return Err(format!("block_records: expected 1 to {}, found {}", u32::MAX, self.block_records));
        }
        if self.gradients.is_none() && self.checkpoints.iter().any(|checkpoint| checkpoint.moments.is_some()) {
            return Err("checkpoints: gradients as AdamW follows them are the whole model's".into());
        }
        if self.scan.is_some() && self.dtype != Dtype::F32 {
            return Err("scan: a copy for scans is of features kept in f32".into());
        }
        match self.checkpoints.iter().find(|checkpoint| !checkpoint.learning_rate.is_finite()) {
            Some(checkpoint) => Err(format!("checkpoint {}: the learning rate is not finite", checkpoint.path)),
            None => Ok(()),
        }
    }

    fn check_tokens(&self) -> Result<(), String> {
        let Some(tokens) = self.tokens else { return Ok(()) };
        let plain = self.dtype == Dtype::F32 && self.scan.is_none() && self.gradients.is_none();
        match tokens.task {
            Task::Record => Err("tokens: expected spans, tags or masks, found record".into()),
            Task::Spans if self.classes != 2 => Err(format!("classes: expected 2 for spans, found {}", self.classes)),
            _ if self.problem != Problem::SingleLabel => Err(format!("tokens: found problem {:?}", self.problem)),
            _ if !plain => Err("factors of tokens are kept as they are, in f32".into()),
            _ => Ok(()),
        }
    }

    /// The first setting two stores disagree in, with both values. Paths may differ: fingerprints say what was there.
    /// Precisions are compared where both are known.
    pub(super) fn difference(&self, other: &Self) -> Option<Difference> {
        let (ours, theirs) = (self.without_paths(), other.without_paths());
        let unknown = self.precision.is_none() || other.precision.is_none();
        let differ = |name: &&String| ours.get(*name) != theirs.get(*name) && !(unknown && *name == PRECISION);
        let name = ours.keys().chain(theirs.keys()).find(differ)?;
        let value = |of: &serde_json::Map<_, _>| of.get(name).map_or_else(|| "none".to_owned(), ToString::to_string);
        Some(Difference {
            told: format!("{name}: {} in one, {} in the other", value(&ours), value(&theirs)),
            precision: self.precision.filter(|_| name == PRECISION),
        })
    }

    fn without_paths(&self) -> serde_json::Map<String, serde_json::Value> {
        let mut settings = self.clone();
        settings.model.clear();
        settings.checkpoints.iter_mut().for_each(|checkpoint| checkpoint.path.clear());
        match serde_json::to_value(settings) {
            Ok(serde_json::Value::Object(fields)) => fields,
            _ => unreachable!("settings are a JSON object"),
        }
    }
}

/// The blocks one job of several takes: those with `number mod count == index`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// I, from 0.
    pub index: u64,
    /// N.
    pub count: u64,
}

impl Part {
    /// The one job that takes every block.
    pub const WHOLE: Self = Self { index: 0, count: 1 };

    /// Whether this job takes block `number`.
    pub fn owns(&self, number: u64) -> bool {
        self.count > 0 && number % self.count == self.index
    }

    /// The blocks this job takes of `records` input records in blocks of `block_records`, ascending.
    pub fn blocks(&self, records: u64, block_records: u64) -> impl Iterator<Item = u64> + use<> {
        let (blocks, stride) = (records.div_ceil(block_records), self.count.max(1));
        std::iter::successors(Some(self.index), move |number| number.checked_add(stride))
            .take_while(move |number| *number < blocks)
    }

    /// Whether there is such a job; `Err` holds what is wrong.
    pub(super) fn check(self) -> Result<(), String> {
        if self.index < self.count {
            return Ok(());
        }
        Err(format!("part {self}: expected an index below the count"))
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

impl FromStr for Part {
    type Err = Error;

    /// `I/N`, I from 0 to N − 1.
    fn from_str(text: &str) -> Result<Self> {
        let parsed = text
            .split_once('/')
            .and_then(|(index, count)| Some(Self { index: index.parse().ok()?, count: count.parse().ok()? }))
            .filter(|part| part.index < part.count);
        parsed.ok_or_else(|| {
            Error::usage(format!(
                "expected I/N with I from 0 to N − 1, such as 0/4 for the first of four jobs, found {text:?}"
            ))
        })
    }
}
