//! Better data, better model: what a plan says is done to the training data, models are trained on them as they were
//! and as they are now, and both are judged on the same sets, seed by seed.
//!
//! [`improve`] carries a [`Plan`] out in a folder, [`continual`] does so round by round as data arrive. Each training,
//! each audit and each round is a folder of its own with a file that appears when it is finished, so that a plan that
//! was interrupted goes on where it was. What this refuses to do: find faults (that is [`crate::audit`]), or train
//! ([`crate::train`]).
//!
//! ```text
//! OUT/plan.json                  the plan as it was read, and fingerprints of its files
//! OUT/before/seed-0/             result.json; of the first seed also model/ and dynamics/, which audits read
//! OUT/audit/                     store/, and the findings of the audits that were asked for
//! OUT/after/                     data.jsonl, changes.jsonl, seed-0/ and on (one such folder an arm)
//! OUT/comparison.jsonl, .txt     what it was worth (and beside the first its run.json)
//! OUT/round-001/                 of a continual plan: ask.jsonl, data.jsonl, changes.jsonl, seed-0/ and on, round.json
//! ```

mod apply;
mod compare;
mod data;
mod evidence;
mod folder;
mod plan;
mod rounds;
mod run;
mod trial;

pub use plan::{Amount, Arm, Columns, Continual, Dropped, Pick, Plan, Seeds, Step, Training, Weighing, Words};
pub use rounds::{Standing, continual};
pub use run::improve;
pub use trial::{Machine, Taken};
