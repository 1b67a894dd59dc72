//! How a training moves parameters, and what is kept of it, as the user says.

use std::path::PathBuf;

use clap::Args;
use wherefore::train::{Metric, Schedule, Warmup};

/// How parameters are moved.
#[derive(Args)]
pub(super) struct Optimiser {
    /// Times through the data
    #[arg(long, visible_alias = "num-train-epochs", value_name = "N", default_value_t = 3)]
    pub(super) epochs: u32,
    /// The learning rate after the warm-up [default: 5e-5; with --vocabulary or --scratch 5e-4]
    #[arg(long, value_name = "RATE")]
    pub(super) learning_rate: Option<f64>,
    /// What the rate does after the warm-up: linear, cosine or constant
    #[arg(long, visible_alias = "lr-scheduler-type", value_name = "NAME", default_value = "linear")]
    pub(super) schedule: Schedule,
    /// Steps of warm-up, or their share of all steps
    #[arg(long, value_name = "N|SHARE", default_value = "0")]
    pub(super) warmup: Warmup,
    /// Records in a batch
    #[arg(long, visible_alias = "per-device-train-batch-size", value_name = "N", default_value_t = 32)]
    pub(super) batch_size: usize,
    /// Batches whose gradients make one step
    #[arg(long, visible_alias = "gradient-accumulation-steps", value_name = "N", default_value_t = 1)]
    pub(super) accumulate: usize,
    /// λ of AdamW, not on biases and normalisations
    #[arg(long, value_name = "LAMBDA", default_value_t = 0.01)]
    pub(super) weight_decay: f64,
    /// Largest norm of a step's gradient; 0 is none
    #[arg(long, visible_alias = "max-grad-norm", value_name = "NORM", default_value_t = 1.0)]
    pub(super) clip: f64,
    /// Share of numbers dropped, everywhere [default: as config.json has it]
    #[arg(long, value_name = "SHARE")]
    pub(super) dropout: Option<f64>,
    /// Epochs without a better outcome on --dev after which it ends, and the best is kept
    #[arg(long, value_name = "N", requires = "dev")]
    pub(super) patience: Option<u32>,
    /// What better means: accuracy, f1-macro, f1-micro, exact-match, f1, selection or loss [default: accuracy; answers:
    /// exact-match; tags: f1; selectors: selection; else loss]
    #[arg(long, value_name = "NAME")]
    pub(super) metric: Option<Metric>,
}

/// What is kept on the way.
#[derive(Args)]
pub(super) struct Keeping {
    /// Steps between two checkpoints, beside those after each epoch and on Ctrl-C
    #[arg(long, value_name = "STEPS")]
    pub(super) checkpoint_every: Option<u64>,
    /// Go on from the checkpoint in OUT.training, if there is one
    #[arg(long)]
    pub(super) resume: bool,
    /// Write over what is in OUT, and what an earlier training left where --save-epochs and --dynamics go
    #[arg(long, visible_alias = "overwrite-output-dir")]
    pub(super) overwrite: bool,
    /// Save the model after each epoch too, as DIR/epoch-001 and on: for `index --checkpoint`
    #[arg(long, value_name = "DIR")]
    pub(super) save_epochs: Option<PathBuf>,
    /// With --save-epochs: AdamW's moments too, two numbers a parameter, for `index --adam`
    #[arg(long, requires = "save_epochs")]
    pub(super) keep_moments: bool,
    /// Note every record's probability, margin and correctness in each epoch, for `audit`
    #[arg(long, value_name = "DIR")]
    pub(super) dynamics: Option<PathBuf>,
}
