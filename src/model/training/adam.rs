//! The moments that AdamW has of each parameter's gradient, beside a checkpoint's weights: `moments.safetensors`, in
//! which `first_moment.NAME` and `second_moment.NAME` have the shapes of the parameters `NAME`, and the header's
//! metadata say `betas`, as `[0.9, 0.999]`.

use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use serde_json::json;

use super::checkpoint::MOMENTS;
use super::network::{check_head, linears, norms, tables};
use super::parameters::{Spec, specs};
use super::{GradientsOf, NamedTensor, save};
use crate::backend::training::Pair;
use crate::error::{Error, Result};
use crate::model::encoder::distinct;
use crate::model::{Model, Task};

/// The file's name.
const FILE: &str = "moments.safetensors";
const BETAS: &str = "betas";

/// AdamW's moments of a model's gradients, not corrected for their first steps.
#[derive(Clone, Debug, PartialEq)]
pub struct AdamMoments {
    betas: [f64; 2],
    layers: Vec<LayerMoments>,
    others: Vec<LayerMoments>,
    fingerprint: String,
}

/// Of one linear layer, `[outputs, inputs]` with the bias's in the last column; of a normalisation, likewise `[E, 2]`;
/// of a table `[rows, E]`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct LayerMoments {
    pub(super) first: Vec<f32>,
    pub(super) second: Vec<f32>,
}

impl AdamMoments {
    /// Those that lie beside a model's weights, of these of its parameters.
    ///
    /// # Errors
    /// [`Error::Usage`] where there are none; [`Error::Format`] where the file is damaged; [`Error::Mismatch`] where it
    /// is another model's.
    pub fn read(model: &Model, of: GradientsOf) -> Result<Self> {
        check_head(model)?;
        let path = model.directory().join(FILE);
        if !path.is_file() {
            return Err(Error::usage(format!("{}: no {FILE} beside the weights", model.directory().display()))
                .with_hint("train with --save-epochs DIR --keep-moments, and take the epochs in DIR"));
        }
        let bytes = std::fs::read(&path).map_err(Error::io(&path))?;
        let (ids, _) = distinct(&model.config().schedule());
        let specs = specs(model.config(), &ids, Task::Record, model.classes());
        let file = MomentsFile::parse(&path, &bytes)?;
        let checked = |[first, second]: [Result<Vec<f32>>; 2]| -> Result<LayerMoments> {
            let (first, second) = (first?, second?);
            match second.iter().find(|x| **x < 0.0) {
                None => Ok(LayerMoments { first, second }),
                Some(x) => Err(Error::format(&path, format!("expected second moments of at least 0, found {x}"))),
            }
        };
        let layer = |pair: &Pair<Spec>| checked(MOMENTS.map(|which| file.layer(which, &pair.weight, &pair.bias)));
        let table = |spec: &Spec| checked(MOMENTS.map(|which| file.spec(which, spec)));
        let layers = linears(&specs).map(layer).collect::<Result<Vec<_>>>()?;
        let others = match of {
            GradientsOf::Linear => Vec::new(),
            GradientsOf::All => {
                let tables = tables(&specs.tables).map(|(_, spec)| table(spec));
                norms(&specs).map(layer).chain(tables).collect::<Result<_>>()?
            }
        };
        let mut hasher = blake3::Hasher::new();
        hasher.update(format!("{:?}", file.betas).as_bytes());
        for values in layers.iter().chain(&others).flat_map(|layer| [&layer.first, &layer.second]) {
            hasher.update_rayon(bytemuck::cast_slice(values));
        }
        Ok(Self { betas: file.betas, layers, others, fingerprint: hasher.finalize().to_hex().to_string() })
    }

    /// β₁, β₂ of the training.
    pub fn betas(&self) -> [f64; 2] {
        self.betas
    }

    /// Of all these numbers: lower-case hexadecimal.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// By the linear layers' numbers.
    pub(super) fn layers(&self) -> &[LayerMoments] {
        &self.layers
    }

    /// By the others' numbers, from the first that is no linear layer on.
    pub(super) fn others(&self) -> &[LayerMoments] {
        &self.others
    }
}

/// The file's name, and its bytes: moments as a learner's state names them.
pub(super) fn encode(to: &Path, state: &[NamedTensor], betas: [f64; 2]) -> Result<(String, Vec<u8>)> {
    let moments = state.iter().filter(|tensor| MOMENTS.iter().any(|which| tensor.name.starts_with(which)));
    let moments: Vec<&NamedTensor> = moments.collect();
    let bytes = save::encode(to, &moments, (BETAS, json!(betas).to_string()))?;
    Ok((FILE.to_owned(), bytes))
}

/// An open file.
struct MomentsFile<'a> {
    path: &'a Path,
    tensors: SafeTensors<'a>,
    betas: [f64; 2],
}

impl<'a> MomentsFile<'a> {
    fn parse(path: &'a Path, bytes: &'a [u8]) -> Result<Self> {
        let damaged =
            |error: safetensors::SafeTensorError| Error::format(path, format!("not a whole safetensors file: {error}"));
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(damaged)?;
        let betas = header.metadata().as_ref().and_then(|metadata| metadata.get(BETAS));
        let betas: Option<[f64; 2]> = betas.and_then(|text| serde_json::from_str(text).ok());
        let betas = betas.filter(|betas| betas.iter().all(|beta| (0.0..=1.0).contains(beta)));
        let betas = betas.ok_or_else(|| {
            Error::format(path, format!("expected `{BETAS}` in the header's metadata, two numbers from 0 to 1"))
        })?;
        Ok(Self { path, tensors: SafeTensors::deserialize(bytes).map_err(damaged)?, betas })
    }

    /// A layer's, the bias's in the last column.
    fn layer(&self, which: &str, weight: &Spec, bias: &Spec) -> Result<Vec<f32>> {
        let (weight, bias) = (self.spec(which, weight)?, self.spec(which, bias)?);
        let rows = weight.chunks_exact(weight.len() / bias.len()).zip(&bias);
        Ok(rows.flat_map(|(row, bias)| row.iter().chain([bias])).copied().collect())
    }

    fn spec(&self, which: &str, spec: &Spec) -> Result<Vec<f32>> {
        let parts = spec.parts.iter().map(|(name, shape)| self.tensor(&format!("{which}{name}"), shape));
        Ok(parts.collect::<Result<Vec<_>>>()?.concat())
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let refuse = |reason: String| {
            let message = format!("{}: tensor \"{name}\": {reason}", self.path.display());
            Error::Mismatch(message, Some("they must be of the weights beside them".to_owned()))
        };
        let found = self.tensors.tensor(name).map_err(|_| refuse("missing".to_owned()))?;
        if (found.dtype(), found.shape()) != (Dtype::F32, shape) {
            let (dtype, found) = (found.dtype(), found.shape());
            return Err(refuse(format!("expected F32 {shape:?}, found {dtype} {found:?}")));
        }
        let values: Vec<f32> = found.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        match values.iter().find(|x| !x.is_finite()) {
            None => Ok(values),
            Some(x) => Err(refuse(format!("expected finite numbers, found {x}"))),
        }
    }
}
