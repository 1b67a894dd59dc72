//! The curvature of a whole network beside the store whose records it was fitted to.
//!
//! | file | holds |
//! |---|---|
//! | `curvature.safetensors` | of each linear layer, by its number: `{l}.input_vectors`, `{l}.input_values`, `{l}.output_vectors`, `{l}.output_values`, and `{l}.corrected` (EK-FAC); `self_influence [N]` and `indices [N]`, where they were asked for |
//! | `curvature.json` | what it was made of and how, its layers, and the other file's size and checksum; written last |

use std::borrow::Cow;
use std::fs;
use std::io::Write;
use std::path::Path;

use bytemuck::cast_slice;
use safetensors::Dtype;
use serde::{Deserialize, Serialize};

use super::atomic::{AtomicFile, FileEntry, sync_directory};
use super::tensors::{TensorFile, TensorSource, write_tensors};
use crate::error::{Error, Result};
use crate::factors::{FisherForm, FisherLabels, LayerFisher};
use crate::model::LinearLayer;

const JSON: &str = "curvature.json";
const TENSORS: &str = "curvature.safetensors";
const FORMAT: &str = "wherefore-curvature";
const VERSION: u32 = 1;

/// What decides a fitted curvature's numbers, besides the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FisherSettings {
    /// Of the model.
    pub model_fingerprint: String,
    /// Of the data it was fitted to.
    pub data_fingerprint: String,
    /// Which eigenvalues there are: EK-FAC's come with K-FAC's.
    pub form: FisherForm,
    /// Whose labels gradients were of.
    pub labels: FisherLabels,
    /// Of the labels' draws.
    pub seed: u64,
    /// Records it was fitted to.
    pub records: u64,
}

/// The curvature of a whole network.
#[derive(Clone, Debug, PartialEq)]
pub struct Fisher {
    /// How it was made.
    pub settings: FisherSettings,
    /// One block a linear layer.
    pub layers: Vec<LayerFisher>,
    /// Of every record of the store, where it was asked for.
    pub self_influence: Option<SelfInfluence>,
}

/// `g_iᵀ (F + λI)⁻¹ g_i` of records.
#[derive(Clone, Debug, PartialEq)]
pub struct SelfInfluence {
    /// λ, as a share of each layer's mean eigenvalue.
    pub damping: f64,
    /// The records' numbers, ascending.
    pub indices: Vec<u64>,
    /// Theirs.
    pub values: Vec<f32>,
}

/// The small file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Described {
    format: String,
    version: u32,
    settings: FisherSettings,
    self_influence: Option<Influences>,
    layers: Vec<Layer>,
    file: FileEntry,
}

/// Of [`SelfInfluence`], what is no tensor.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Influences {
    damping: f64,
    records: usize,
}

/// A [`LinearLayer`].
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Layer {
    name: String,
    inputs: usize,
    outputs: usize,
    blocks: usize,
}

impl Fisher {
    /// Writes both files into `directory`, in the place of any that are there.
    ///
    /// # Errors
    /// Where they cannot be written.
    pub fn write(&self, directory: &Path) -> Result<()> {
        let mut tensors = Vec::new();
        for (number, layer) in self.layers.iter().enumerate() {
            let (inputs, outputs) = (layer.layer.inputs, layer.layer.outputs);
            let mut add = |name: &str, shape: &[usize], values: &'_ [f32]| {
                tensors.push(TensorSource {
                    name: format!("{number}.{name}"),
                    dtype: Dtype::F32,
                    shape: shape.to_vec(),
                    data: Cow::Owned(cast_slice(values).to_vec()),
                });
            };
            add("input_vectors", &[inputs, inputs], &layer.input_vectors);
            add("input_values", &[inputs], &layer.input_values);
            add("output_vectors", &[outputs, outputs], &layer.output_vectors);
            add("output_values", &[outputs], &layer.output_values);
            if let Some(corrected) = &layer.corrected {
                add("corrected", &[outputs, inputs], corrected);
            }
        }
        if let Some(SelfInfluence { indices, values, .. }) = &self.self_influence {
            let shape = vec![values.len()];
            let (name, data) = ("self_influence".to_owned(), Cow::Borrowed(cast_slice(values)));
            tensors.push(TensorSource { name, dtype: Dtype::F32, shape: shape.clone(), data });
            let (name, data) = ("indices".to_owned(), Cow::Borrowed(cast_slice(indices)));
            tensors.push(TensorSource { name, dtype: Dtype::U64, shape, data });
        }
        let file = AtomicFile::write(&directory.join(TENSORS), |file| write_tensors(file, tensors))?;
        let described = Described {
            format: FORMAT.into(),
            version: VERSION,
            settings: self.settings.clone(),
            self_influence: self
                .self_influence
                .as_ref()
                .map(|some| Influences { damping: some.damping, records: some.values.len() }),
            layers: self.layers.iter().map(|layer| Layer::from(&layer.layer)).collect(),
            file,
        };
        let text = serde_json::to_string_pretty(&described).expect("finite numbers and strings are JSON");
        AtomicFile::write(&directory.join(JSON), |file| writeln!(file, "{text}"))?;
        sync_directory(directory)
    }

    /// Deletes what [`Fisher::write`] wrote, and tells whether there was anything.
    pub(super) fn delete(directory: &Path) -> Result<bool> {
        let mut any = false;
        for name in [JSON, TENSORS] {
            match fs::remove_file(directory.join(name)) {
                Ok(()) => any = true,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::io(directory.join(name))(error)),
            }
        }
        if any { sync_directory(directory).map(|()| any) } else { Ok(any) }
    }

    /// Reads what [`Fisher::write`] wrote.
    ///
    /// # Errors
    /// Where it is not there, was damaged, or is of another version.
    pub fn read(directory: &Path) -> Result<Self> {
        let path = directory.join(JSON);
        let text = fs::read_to_string(&path).map_err(|error| missing(directory, error))?;
        let refuse = |reason: String| Error::format(&path, reason).with_hint("fit it again: `wherefore curvature`");
        let found: Described =
            serde_json::from_str(&text).map_err(|error| refuse(format!("not a curvature: {error}")))?;
        if found.format != FORMAT || found.version != VERSION {
            let (format, version) = (found.format, found.version);
            return Err(refuse(format!("expected {FORMAT} of version {VERSION}, found {format} of version {version}")));
        }
        if found.file.name != TENSORS {
            return Err(refuse(format!("expected a file {TENSORS}, found {}", found.file.name.escape_default())));
        }
        found.file.check_contents(directory)?;
        let file = TensorFile::open(&directory.join(TENSORS))?;
        let tensor = |name: &str, shape: &[usize]| -> Result<Vec<f32>> {
            Ok(file.values(&file.column::<f32>(name, Dtype::F32, shape)?).to_vec())
        };
        let layer = |(number, layer): (usize, Layer)| -> Result<LayerFisher> {
            let Layer { name, inputs, outputs, blocks } = layer;
            if blocks == 0 || inputs == 0 || outputs == 0 || outputs % blocks != 0 {
                return Err(refuse(format!("layer {number}: {outputs} outputs are not {blocks} blocks")));
            }
            let own = |name: &str, shape: &[usize]| tensor(&format!("{number}.{name}"), shape);
            let ekfac = found.settings.form == FisherForm::Ekfac;
            Ok(LayerFisher {
                input_vectors: own("input_vectors", &[inputs, inputs])?,
                input_values: own("input_values", &[inputs])?,
                output_vectors: own("output_vectors", &[outputs, outputs])?,
                output_values: own("output_values", &[outputs])?,
                corrected: ekfac.then(|| own("corrected", &[outputs, inputs])).transpose()?,
                layer: LinearLayer { name, inputs, outputs, blocks },
            })
        };
        let influences = |Influences { damping, records }: Influences| -> Result<SelfInfluence> {
            let indices = file.column::<u64>("indices", Dtype::U64, &[records])?;
            let (values, indices) = (tensor("self_influence", &[records])?, file.values(&indices).to_vec());
            Ok(SelfInfluence { damping, indices, values })
        };
        Ok(Self {
            layers: found.layers.into_iter().enumerate().map(layer).collect::<Result<_>>()?,
            self_influence: found.self_influence.map(influences).transpose()?,
            settings: found.settings,
        })
    }
}

impl From<&LinearLayer> for Layer {
    fn from(layer: &LinearLayer) -> Self {
        let LinearLayer { name, inputs, outputs, blocks } = layer.clone();
        Self { name, inputs, outputs, blocks }
    }
}

fn missing(directory: &Path, error: std::io::Error) -> Error {
    if error.kind() == std::io::ErrorKind::NotFound {
        return Error::format(directory, "the curvature of the whole network has not been fitted")
            .with_hint("fit it: `wherefore curvature --store DIR`");
    }
    Error::io(directory.join(JSON))(error)
}
