//! What runs over a window of records: models forward, or their gradients.

use super::Settings;
use crate::error::Result;
use crate::factors::{self, Target};
use crate::interrupt;
use crate::model::{Model, Outputs, Tracer};
use crate::tokens::Encoding;

/// Runs over records in a stream.
pub(super) trait Runner: Sync {
    /// Whose tokenizer and classes records are read by.
    fn model(&self) -> &Model;
    /// Width and classes of each pass.
    fn sizes(&self) -> Vec<(usize, usize)>;
    /// Whether two records of one input may have other outputs.
    fn reads_labels(&self) -> bool;
    /// Each pass's outputs, in the window's order.
    fn run(&self, window: &[&Encoding], gold: &[Option<&Target>], settings: &Settings) -> Result<Vec<Outputs>>;
}

/// Models forward: features and logits.
pub(super) struct Plain<'a>(pub(super) &'a [&'a Model]);

impl Runner for Plain<'_> {
    fn model(&self) -> &Model {
        self.0[0]
    }

    fn sizes(&self) -> Vec<(usize, usize)> {
        self.0.iter().map(|model| (model.width(), model.classes())).collect()
    }

    fn reads_labels(&self) -> bool {
        false
    }

    fn run(&self, window: &[&Encoding], _: &[Option<&Target>], settings: &Settings) -> Result<Vec<Outputs>> {
        let run = |model: &&Model| model.run(window, settings.batch_tokens, &|_| !interrupt::asked());
        self.0.iter().map(run).collect()
    }
}

/// A model and its checkpoints forth and back: projected gradients, in the place of features, and logits.
pub(super) struct Tracing<'a> {
    pub(super) model: &'a Model,
    /// The model's first.
    pub(super) tracers: &'a [Tracer],
    /// The label explained, told a record's own and the model's logits.
    pub(super) target: &'a (dyn Fn(Option<&Target>, &[f32]) -> Target + Sync),
}

impl Runner for Tracing<'_> {
    fn model(&self) -> &Model {
        self.model
    }

    fn sizes(&self) -> Vec<(usize, usize)> {
        self.tracers.iter().map(|tracer| (tracer.width(), self.model.classes())).collect()
    }

    fn reads_labels(&self) -> bool {
        true
    }

    fn run(&self, window: &[&Encoding], gold: &[Option<&Target>], settings: &Settings) -> Result<Vec<Outputs>> {
        let (problem, classes) = (self.model.problem(), self.model.classes());
        let mut all: Vec<Outputs> = Vec::new();
        for tracer in self.tracers {
            // What a checkpoint is asked about is what the model says.
            let of_model = all.first().map(|outputs| outputs.logits.as_slice());
            let seed = |row: usize, z: &[f32], gradient: &mut [f32]| {
                let said = of_model.map_or(z, |all| &all[row * classes..][..classes]);
                let target = (self.target)(gold[row], said);
                if tracer.is_adapted() {
                    factors::loss_and_delta(problem, z, &target, gradient);
                } else {
                    factors::output_gradient(problem, z, &target, gradient);
                }
            };
            all.push(tracer.run(window, settings.batch_tokens, &seed, &|| !interrupt::asked())?);
        }
        Ok(all)
    }
}
