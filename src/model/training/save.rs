//! A model directory in the Hugging Face layout, written beside its place and renamed.

use std::fs;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Map, Value, json};

use super::NamedTensor;
use crate::destination::PartialFolder;
use crate::error::{Error, Result};
use crate::model::class_names::ClassNames;
use crate::model::config::Config;
use crate::model::{Problem, Task};

/// The files of a tokenizer, whichever of them there are; the last says how long sentences may be.
pub(super) const TOKENIZER: [&str; 11] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.model",
    "sentence_bert_config.json",
];

/// `config.json` as it is written.
pub(super) fn config_fields(directory: &Path) -> Result<Map<String, Value>> {
    let path = directory.join("config.json");
    let bytes = fs::read(&path).map_err(Error::io(&path))?;
    serde_json::from_slice(&bytes).map_err(|error| Error::format(&path, format!("not a JSON object: {error}")))
}

/// The same of a model with a head for this task and these classes, whose numbers are f32.
pub(super) fn head_fields(
    fields: &Map<String, Value>,
    config: &Config,
    task: Task,
    classes: &ClassNames,
) -> Map<String, Value> {
    let mut fields = fields.clone();
    fields.insert("architectures".to_owned(), json!([config.family.class_name(task)]));
    // Whatever another head left there would be read as this one's.
    for name in ["num_labels", "id2label", "label2id", "problem_type"] {
        fields.remove(name);
    }
    if matches!(task, Task::Record | Task::Tags) {
        let names = || classes.names().iter().enumerate();
        let label_of: Map<String, Value> = names().map(|(id, name)| (id.to_string(), json!(name))).collect();
        let id_of: Map<String, Value> = names().map(|(id, name)| (name.clone(), json!(id))).collect();
        fields.insert("id2label".to_owned(), label_of.into());
        fields.insert("label2id".to_owned(), id_of.into());
    }
    if task == Task::Record {
        let problem_type = match classes.problem() {
            Problem::MultiLabel => "multi_label_classification",
            Problem::Regression => "regression",
            Problem::SingleLabel | Problem::Headless => "single_label_classification",
        };
        fields.insert("problem_type".to_owned(), json!(problem_type));
    }
    for name in ["dtype", "torch_dtype"] {
        if let Some(dtype) = fields.get_mut(name) {
            *dtype = json!("float32");
        }
    }
    fields
}

/// Writes everything, and the files `beside` it, to a sibling of `to`, syncs it and gives it its name.
pub(super) fn directory(
    source: &Path,
    to: &Path,
    fields: &Map<String, Value>,
    tensors: &[NamedTensor],
    beside: &[(String, Vec<u8>)],
) -> Result<()> {
    let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(Error::io(parent))?;
    let partial = PartialFolder::create(to)?;
    let config = serde_json::to_string_pretty(fields).map_err(|error| Error::format(to, error.to_string()))?;
    write(&partial.path().join("config.json"), format!("{config}\n").as_bytes())?;
    write(
        &partial.path().join("model.safetensors"),
        &encode(to, &tensors.iter().collect::<Vec<_>>(), ("format", "pt".to_owned()))?,
    )?;
    for (name, bytes) in beside {
        write(&partial.path().join(name), bytes)?;
    }
    for name in TOKENIZER {
        let from = source.join(name);
        if from.is_file() {
            let bytes = fs::read(&from).map_err(Error::io(&from))?;
            write(&partial.path().join(name), &bytes)?;
        }
    }
    partial.finish()
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let sync = |file: fs::File| {
        let mut file = file;
        std::io::Write::write_all(&mut file, bytes)?;
        file.sync_all()
    };
    fs::File::create(path).and_then(sync).map_err(Error::io(path))
}

/// Tensors as a file's bytes, with one entry of metadata in its header: several would be in the order of a hash map,
/// another in each process.
pub(super) fn encode(to: &Path, tensors: &[&NamedTensor], (name, value): (&str, String)) -> Result<Vec<u8>> {
    let refuse = |error: safetensors::SafeTensorError| Error::format(to, error.to_string());
    let views = tensors.iter().map(|tensor| {
        let view = TensorView::new(Dtype::F32, tensor.shape.clone(), bytemuck::cast_slice(&tensor.values));
        view.map(|view| (tensor.name.as_str(), view)).map_err(refuse)
    });
    let metadata = [(name.to_owned(), value)].into();
    safetensors::serialize(views.collect::<Result<Vec<_>>>()?, Some(metadata)).map_err(refuse)
}
