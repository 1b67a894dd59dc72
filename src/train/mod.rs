//! Training: what becomes of the parameters, and what each record did on the way.
//!
//! [`train`] is the loop over a [`crate::model::Trainee`]; [`train_head`] fits the last layer alone. [`dynamics`] is
//! the record of a training that audits read. What this refuses to do: know a device (the parameters and their
//! gradients are [`crate::model`]'s), or judge the data.
//!
//! **The same bits, whatever the run**: of threads, micro-batches, interruptions. The order of an epoch and what is
//! dropped are functions of the seed, the epoch and the record; a step's gradient is one chain over its tokens; a state
//! holds everything that decides what comes next.
//!
//! Losses are those `transformers` trains with: cross-entropy, and for several labels or values their mean over
//! outputs. A record's weight is taken over the mean weight of the training data, so that weights shift attention
//! between records and not the learning rate.

mod bar;
mod data;
pub mod dynamics;
mod head;
mod material;
mod metrics;
mod options;
mod order;
mod rationale;
mod run;
mod schedule;
mod selector_data;
mod state;
mod token_data;
mod token_metrics;

pub use data::{Example, Labelled, plan_head, plan_tags};
pub use dynamics::{Dynamics, DynamicsHeader, DynamicsWriter, Moment};
pub use head::train_head;
pub use material::{Material, Taught};
pub use metrics::{Metrics, Tally};
pub use options::{Metric, RATE_FROM_NOTHING, TrainOptions};
pub use run::{EpochReport, StateFolder, TrainOutcome, TrainPlan, evaluate, is_taken, remove_state, train};
pub use schedule::{Rates, Schedule, Warmup};
pub use selector_data::Evidence;
pub use token_data::{Gold, Masking, Question, TaggedText, TokenExample, TokenOptions};
