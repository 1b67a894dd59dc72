//! What the yardsticks that train again have in common: what is trained, and how.

use clap::{Args, ValueEnum};
use wherefore::evaluate::{FullRetraining, Retraining};
use wherefore::model::Model;
use wherefore::train::{RATE_FROM_NOTHING, TrainOptions};

use crate::cli::arguments::Common;

/// What is trained again.
#[derive(Args)]
pub(super) struct RetrainArguments {
    /// What is trained: the last layer, to its optimum, or the whole model
    #[arg(long, value_enum, default_value_t = Retrain::Head)]
    retrain: Retrain,
    /// With --retrain head: λ of (1/N) Σ loss + (λ/2)‖[W;b]‖²
    #[arg(long, value_name = "LAMBDA", default_value_t = 1e-3)]
    penalty: f64,
    /// With --retrain full: the model directory that training starts from [default: the model's own sizes, from drawn
    /// parameters]
    #[arg(long, value_name = "DIR")]
    start: Option<String>,
    /// With --retrain full: times through the data
    #[arg(long, value_name = "N", default_value_t = 3)]
    epochs: u32,
    /// With --retrain full: the learning rate [default: 5e-4; with --start 5e-5]
    #[arg(long, value_name = "RATE")]
    learning_rate: Option<f64>,
    /// With --retrain full: records in a batch
    #[arg(long, value_name = "N", default_value_t = 32)]
    batch_size: usize,
    /// With --retrain full: models trained at once, the threads shared out among them; memory for each
    #[arg(long, value_name = "N", default_value_t = 1)]
    at_once: usize,
}

#[derive(Clone, Copy, ValueEnum)]
enum Retrain {
    Head,
    Full,
}

impl RetrainArguments {
    pub(super) fn at_once(&self) -> usize {
        self.at_once
    }

    pub(super) fn retraining(&self, model: &Model, common: &Common) -> Retraining {
        let default_rate = if self.start.is_some() { TrainOptions::default().learning_rate } else { RATE_FROM_NOTHING };
        let full = || FullRetraining {
            start: self.start.clone().unwrap_or_else(|| model.name().to_owned()),
            scratch: self.start.is_none(),
            precision: common.precision,
            options: TrainOptions {
                epochs: self.epochs,
                learning_rate: self.learning_rate.unwrap_or(default_rate),
                batch_size: self.batch_size,
                seed: common.seed,
                ..TrainOptions::default()
            },
        };
        match self.retrain {
            Retrain::Head => Retraining::Head(self.penalty),
            Retrain::Full => Retraining::Full(Box::new(full())),
        }
    }
}
