//! How much each family drops, and where: `config.json` says how much, the family's code in `transformers` says where.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::model::Task;
use crate::model::families::Family;

/// Shares of numbers dropped in a training pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct DropoutRates {
    /// Of embeddings and of what a layer adds to its residual.
    pub hidden: f64,
    /// Of attention's weights.
    pub attention: f64,
    /// Of what the head's layers read.
    pub head: f64,
}

impl DropoutRates {
    /// The same everywhere.
    ///
    /// # Errors
    /// [`Error::Usage`] where it is not a share of less than one.
    pub fn uniform(rate: f64) -> Result<Self> {
        if (0.0..1.0).contains(&rate) {
            return Ok(Self { hidden: rate, attention: rate, head: rate });
        }
        Err(Error::usage(format!("dropout: expected a share from 0 to less than 1, found {rate}")))
    }

    /// As the model's configuration has them; what it leaves out is as `transformers` has it.
    ///
    /// # Errors
    /// [`Error::Format`] where one is no share.
    pub(super) fn read(path: &Path, fields: &Map<String, Value>, family: Family, task: Task) -> Result<Self> {
        let rate = |name: &str, default: f64| match fields.get(name).filter(|value| !value.is_null()) {
            None => Ok(default),
            Some(value) => match value.as_f64() {
                Some(rate) if (0.0..1.0).contains(&rate) => Ok(rate),
                _ => Err(Error::format(
                    path,
                    format!("\"{name}\": expected a share from 0 to less than 1, found {value}"),
                )),
            },
        };
        let (hidden, attention) = match family {
            Family::Distilbert => (rate("dropout", 0.1)?, rate("attention_dropout", 0.1)?),
            Family::Albert => (rate("hidden_dropout_prob", 0.0)?, rate("attention_probs_dropout_prob", 0.0)?),
            _ => (rate("hidden_dropout_prob", 0.1)?, rate("attention_probs_dropout_prob", 0.1)?),
        };
        let head = match (family, task) {
            (Family::Distilbert, Task::Spans) => rate("qa_dropout", 0.1)?,
            (Family::Distilbert, Task::Tags) => hidden,
            (Family::Distilbert, _) => rate("seq_classif_dropout", 0.2)?,
            (Family::Albert, _) => rate("classifier_dropout_prob", 0.1)?,
            _ => rate("classifier_dropout", hidden)?,
        };
        Ok(Self { hidden, attention, head })
    }
}

/// Where a family drops hidden states, beside its embeddings and the last layer's input.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::struct_excessive_bools)] // each a place of its own
pub(super) struct Places {
    /// What attention adds to its residual.
    pub(super) attention_out: bool,
    /// What the feed-forward layers add.
    pub(super) feed_forward: bool,
    /// What the head's first layer reads.
    pub(super) head_input: bool,
    /// What a head on tokens reads: those of answers drop nothing, but for one family's.
    pub(super) token_features: bool,
}

impl Places {
    pub(super) fn of(family: Family, task: Task) -> Self {
        let deep_head = matches!(family, Family::Roberta | Family::XlmRoberta | Family::Camembert | Family::Electra);
        Self {
            attention_out: family != Family::Distilbert,
            feed_forward: family != Family::Albert,
            head_input: deep_head,
            token_features: task == Task::Tags || family == Family::Distilbert,
        }
    }
}
