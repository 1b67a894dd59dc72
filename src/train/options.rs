//! What decides a training's numbers, with the defaults of `transformers`' own scripts where there are such.

use super::{Schedule, Warmup};
use crate::error::{Error, Result};
use crate::model::{DropoutRates, Problem};

/// Everything that changes a bit of the outcome, beside model and data.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct TrainOptions {
    /// Times through the data.
    pub epochs: u32,
    /// η at the height of the schedule.
    pub learning_rate: f64,
    /// What it does after the warm-up.
    pub schedule: Schedule,
    /// How long the warm-up is.
    pub warmup: Warmup,
    /// Records in a batch.
    pub batch_size: usize,
    /// Batches a step: one step of `n` batches is, bit for bit, one of a batch `n` times as large.
    pub accumulate: usize,
    /// λ of AdamW; biases and normalisations do not decay.
    pub weight_decay: f64,
    /// β₁, β₂ of AdamW.
    pub betas: [f64; 2],
    /// ε of AdamW.
    pub epsilon: f64,
    /// The largest norm of a step's gradient; none where `None`.
    pub clip: Option<f64>,
    /// Of everything that is drawn: the order, what is dropped, a new head.
    pub seed: u64,
    /// What is dropped.
    pub dropout: DropoutRates,
    /// Epochs without a better outcome on the dev data after which it ends; the best one's parameters are then kept.
    pub patience: Option<u32>,
    /// What the attention that is drawn to the words people marked counts in the loss, where there are such words
    /// (TrustAI's rationale-guided training).
    pub rationale_weight: f64,
    /// What better means; by default accuracy, of a regression the loss.
    pub metric: Option<Metric>,
}

/// η of what begins with drawn parameters: what has been learnt is kept by small steps, and what knows nothing would
/// get nowhere by them.
pub const RATE_FROM_NOTHING: f64 = 5e-4;

impl Default for TrainOptions {
    fn default() -> Self {
        Self {
            epochs: 3,
            learning_rate: 5e-5,
            schedule: Schedule::Linear,
            warmup: Warmup::Steps(0),
            batch_size: 32,
            accumulate: 1,
            weight_decay: 0.01,
            betas: [0.9, 0.999],
            epsilon: 1e-8,
            clip: Some(1.0),
            seed: 0,
            dropout: DropoutRates::default(),
            patience: None,
            rationale_weight: 0.01,
            metric: None,
        }
    }
}

/// A number to be good at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// The share of records predicted as labelled.
    Accuracy,
    /// The mean over classes of F1.
    F1Macro,
    /// F1 over all classes' decisions together.
    F1Micro,
    /// The share of questions answered with a right answer.
    ExactMatch,
    /// The mean F1 of answers; that of entities.
    F1,
    /// Of a selector of sentences: 0.2 precision + 0.8 recall.
    Selection,
    /// The mean loss; less is better.
    Loss,
}

impl Metric {
    /// All, those of records first.
    pub const ALL: [Self; 7] =
        [Self::Accuracy, Self::F1Macro, Self::F1Micro, Self::ExactMatch, Self::F1, Self::Selection, Self::Loss];

    /// The name that options and results have for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accuracy => "accuracy",
            Self::F1Macro => "f1-macro",
            Self::F1Micro => "f1-micro",
            Self::ExactMatch => "exact-match",
            Self::F1 => "f1",
            Self::Selection => "selection",
            Self::Loss => "loss",
        }
    }
}

impl std::fmt::Display for Metric {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

impl std::str::FromStr for Metric {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|metric| metric.name() == text).ok_or_else(|| {
            let all = Self::ALL.map(Self::name).join(", ");
            Error::usage(format!("metric: expected one of {all}, found \"{text}\""))
        })
    }
}

impl TrainOptions {
    /// Records a step.
    pub fn records_per_step(&self) -> usize {
        self.batch_size * self.accumulate
    }

    /// What better means for this problem.
    pub fn metric(&self, problem: Problem) -> Metric {
        let default = if problem == Problem::Regression { Metric::Loss } else { Metric::Accuracy };
        self.metric.unwrap_or(default)
    }

    /// Refuses what trains nothing.
    ///
    /// # Errors
    /// [`Error::Usage`], naming the option.
    pub fn check(&self) -> Result<()> {
        let refuse = |name: &str, expected: &str, found: String| {
            Err(Error::usage(format!("--{name}: expected {expected}, found {found}")))
        };
        let not_negative = |x: f64| x.is_finite() && x >= 0.0;
        match self {
            _ if self.epochs == 0 => refuse("epochs", "at least 1", "0".to_owned()),
            _ if self.batch_size == 0 => refuse("batch-size", "at least 1", "0".to_owned()),
            _ if self.accumulate == 0 => refuse("accumulate", "at least 1", "0".to_owned()),
            _ if self.patience == Some(0) => refuse("patience", "at least 1", "0".to_owned()),
            _ if !not_negative(self.learning_rate) => {
                refuse("learning-rate", "a number from 0", self.learning_rate.to_string())
            }
            _ if !not_negative(self.weight_decay) => {
                refuse("weight-decay", "a number from 0", self.weight_decay.to_string())
            }
            _ if !not_negative(self.rationale_weight) => {
                refuse("rationale-weight", "a number from 0", self.rationale_weight.to_string())
            }
            _ if !self.clip.is_none_or(|clip| clip > 0.0) => {
                refuse("clip", "a number above 0", self.clip.unwrap_or_default().to_string())
            }
            _ => Ok(()),
        }
    }
}
