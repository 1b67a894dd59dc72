//! Where a training stands, in one file that appears whole or not at all: what comes after it is, bit for bit, what
//! would have come.

use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use super::{EpochReport, Moment};
use crate::destination::Destination;
use crate::error::{Error, Result};
use crate::model::NamedTensor;

/// The file's name.
pub(super) const STATE: &str = "state.safetensors";
const PROGRESS: &str = "progress";
const MOMENTS: &str = "dynamics";
const BEST: &str = "best.";

/// How far a training is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Progress {
    /// What it is a training of: options, data, model.
    pub(super) fingerprint: String,
    /// Epochs finished.
    pub(super) epoch: u32,
    /// Steps of the next one taken.
    pub(super) step: u64,
    /// Steps taken in all.
    pub(super) steps: u64,
    /// The sums of weighted losses and of weights over this epoch, as bits: JSON would round them.
    pub(super) sums: [u64; 2],
    /// The same of what attention is drawn to.
    #[serde(default)]
    pub(super) guided: [u64; 2],
    /// What became of each epoch.
    pub(super) history: Vec<EpochReport>,
}

/// A training's state.
pub(super) struct State {
    pub(super) progress: Progress,
    /// The learner's.
    pub(super) learner: Vec<NamedTensor>,
    /// The parameters of the best epoch, where one is looked for.
    pub(super) best: Option<Vec<NamedTensor>>,
    /// What the epoch under way has noted of each record.
    pub(super) moments: Vec<Moment>,
}

impl State {
    pub(super) fn write(&self, directory: &Path) -> Result<()> {
        let path = directory.join(STATE);
        let refuse = |error: &dyn std::fmt::Display| Error::format(&path, error.to_string());
        let bytes = |values: &[f32]| values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
        let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
        for tensor in &self.learner {
            tensors.push((tensor.name.clone(), tensor.shape.clone(), bytes(&tensor.values)));
        }
        for tensor in self.best.iter().flatten() {
            tensors.push((format!("{BEST}{}", tensor.name), tensor.shape.clone(), bytes(&tensor.values)));
        }
        let rows: Vec<f32> =
            self.moments.iter().flat_map(|m| [m.probability, m.margin, f32::from(u8::from(m.correct))]).collect();
        tensors.push((MOMENTS.to_owned(), vec![self.moments.len(), 3], bytes(&rows)));
        let views = tensors.iter().map(|(name, shape, bytes)| {
            TensorView::new(Dtype::F32, shape.clone(), bytes).map(|view| (name.as_str(), view)).map_err(|e| refuse(&e))
        });
        let progress = serde_json::to_string(&self.progress).map_err(|e| refuse(&e))?;
        let metadata = [(PROGRESS.to_owned(), progress)].into_iter().collect();
        let whole =
            safetensors::serialize(views.collect::<Result<Vec<_>>>()?, Some(metadata)).map_err(|e| refuse(&e))?;
        let mut file = Destination::create(Some(&path))?;
        file.write(&whole)?;
        file.finish()
    }

    /// `None` where there is none yet.
    pub(super) fn read(directory: &Path) -> Result<Option<Self>> {
        let path = directory.join(STATE);
        if !path.exists() {
            return Ok(None);
        }
        let bytes = std::fs::read(&path).map_err(Error::io(&path))?;
        Self::parse(&bytes).map(Some).map_err(|reason| {
            Error::format(&path, reason).with_hint("begin anew: remove the folder, or leave --resume out")
        })
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let damaged = |error: &dyn std::fmt::Display| format!("not a whole checkpoint: {error}");
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| damaged(&e))?;
        let progress = header.metadata().as_ref().and_then(|metadata| metadata.get(PROGRESS));
        let progress = progress.ok_or_else(|| damaged(&"no progress in its header"))?;
        let progress = serde_json::from_str(progress).map_err(|e| damaged(&e))?;
        let file = SafeTensors::deserialize(bytes).map_err(|e| damaged(&e))?;
        let mut state = Self { progress, learner: Vec::new(), best: None, moments: Vec::new() };
        for (name, view) in file.iter() {
            if view.dtype() != Dtype::F32 {
                return Err(format!("tensor \"{name}\": expected F32, found {}", view.dtype()));
            }
            let values: Vec<f32> = view.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            let tensor =
                |name: &str, values| NamedTensor { name: name.to_owned(), shape: view.shape().to_vec(), values };
            match name.strip_prefix(BEST) {
                Some(name) => state.best.get_or_insert_default().push(tensor(name, values)),
                None if name == MOMENTS => state.moments = values.as_chunks().0.iter().map(moment).collect(),
                None => state.learner.push(tensor(name, values)),
            }
        }
        Ok(state)
    }
}

fn moment([probability, margin, correct]: &[f32; 3]) -> Moment {
    Moment { probability: *probability, margin: *margin, correct: *correct > 0.5 }
}
