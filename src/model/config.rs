//! `config.json`: what the architecture is and how large, told by `model_type` and `architectures`.
//!
//! Reads what the forward pass needs and refuses, by name, what would change its result and is not implemented
//! (relative positions, decoders, other tasks' heads). The number of classes is not read here: the last linear layer's
//! rows decide it.

use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::families::Family;
use super::{Problem, Task};
use crate::backend::Activation;
use crate::error::{Error, Result};
use crate::tokens::Positions;

/// What the checkpoint was saved as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// An encoder with its family's sequence classification head.
    SequenceClassification,
    /// An encoder with two logits a token: where an answer starts, and where it ends.
    QuestionAnswering,
    /// An encoder with a logit for each kind of token.
    TokenClassification,
    /// An encoder with its family's masked-language-model head, which is read where masks are to be filled in.
    MaskedLanguageModel,
    /// An encoder alone (or under another pre-training head, which is left unread).
    Encoder,
    /// Not said: the weights tell, by whether the head's are among them.
    Unstated,
}

impl Architecture {
    /// What a head of this kind says something of.
    pub fn task(self) -> Option<Task> {
        match self {
            Self::SequenceClassification => Some(Task::Record),
            Self::QuestionAnswering => Some(Task::Spans),
            Self::TokenClassification => Some(Task::Tags),
            Self::MaskedLanguageModel => Some(Task::Masks),
            Self::Encoder | Self::Unstated => None,
        }
    }
}

/// The sizes and settings of a transformer encoder. Letters as in [`crate::backend`].
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Which family's names and head it has.
    pub family: Family,
    /// With or without a head.
    pub architecture: Architecture,
    /// V: rows of the word embeddings.
    pub vocabulary: usize,
    /// E: the width of the hidden states.
    pub width: usize,
    /// The width of the embeddings, E in most families (ELECTRA and ALBERT project them to E).
    pub embedding_width: usize,
    /// F: the width inside the feed-forward layers.
    pub inner_width: usize,
    /// How many layers a forward pass goes through (ALBERT: how many times a group is).
    pub layers: usize,
    /// H: attention heads; E is a multiple of it.
    pub heads: usize,
    /// Groups of layers that share their weights (ALBERT; 1 elsewhere).
    pub groups: usize,
    /// Layers in a group (ALBERT; 1 elsewhere).
    pub layers_per_group: usize,
    /// Rows of the position embeddings.
    pub positions: usize,
    /// The padding token; RoBERTa's positions start behind it.
    pub pad_id: u32,
    /// Rows of the segment embeddings, 0 where there are none.
    pub token_types: usize,
    /// Rows of ERNIE's task embeddings, where they are used.
    pub task_types: Option<usize>,
    /// Between the two feed-forward layers.
    pub activation: Activation,
    /// Every layer normalisation's ε.
    pub epsilon: f32,
    /// The standard deviation of a new weight.
    pub initializer_range: f32,
    /// As written in `problem_type`.
    pub problem_type: Option<Problem>,
    /// Whether a masked-language model's last layer is its word embeddings.
    pub tied: bool,
    /// The names of the classes in order, as `id2label` has them.
    pub labels: Option<Vec<String>>,
}

/// Layers that a model passes through at most: more are a slip, and every list of them would be as long.
const MOST_LAYERS: usize = 4096;

impl Config {
    /// Reads `config.json` of the model directory `dir`.
    ///
    /// # Errors
    /// [`Error::Io`] where there is none, [`Error::Format`] where a field is missing, out of range or unsupported.
    pub fn load(dir: &Path) -> Result<Self> {
        let path = dir.join("config.json");
        let modules = dir.join("modules.json");
        if !path.exists() && modules.exists() {
            return Err(Error::format(
                modules,
                "the transformer's files are in a folder of their own, which is not read",
            )
            .with_hint("move them beside modules.json, and let its \"path\" be empty"));
        }
        let bytes = std::fs::read(&path).map_err(Error::io(&path))?;
        let fields = match serde_json::from_slice(&bytes) {
            Ok(Value::Object(fields)) => fields,
            Ok(_) => return Err(Error::format(&path, "expected a JSON object")),
            Err(error) => return Err(Error::format(&path, format!("not valid JSON: {error}"))),
        };
        Self::parse(&Fields { path, fields })
    }

    fn parse(fields: &Fields) -> Result<Self> {
        let family = family(fields)?;
        let names = family.config_names();
        let width = fields.size(names.width)?;
        let config = Self {
            family,
            architecture: architecture(fields, family)?,
            vocabulary: fields.size("vocab_size")?,
            width,
            embedding_width: if family.has_narrow_embeddings() {
                fields.size_or("embedding_size", 128)?
            } else {
                width
            },
            inner_width: fields.size(names.inner_width)?,
            layers: fields.size(names.layers)?,
            heads: fields.size(names.heads)?,
            groups: if family.shares_layers() { fields.size_or("num_hidden_groups", 1)? } else { 1 },
            layers_per_group: if family.shares_layers() { fields.size_or("inner_group_num", 1)? } else { 1 },
            positions: fields.size("max_position_embeddings")?,
            pad_id: fields.id_or("pad_token_id", family.pad_id_default())?,
            token_types: if family.has_token_types() { fields.size_or("type_vocab_size", 2)? } else { 0 },
            task_types: task_types(fields, family)?,
            activation: activation(fields, names.activation, family)?,
            epsilon: if family == Family::Distilbert { 1e-12 } else { fields.small("layer_norm_eps", 1e-12)? },
            initializer_range: fields.small("initializer_range", 0.02)?,
            problem_type: problem_type(fields)?,
            tied: fields.flag_or("tie_word_embeddings", true)?,
            labels: labels(fields)?,
        };
        config.check(fields)?;
        Ok(config)
    }

    /// What cannot be seen from one field alone.
    fn check(&self, fields: &Fields) -> Result<()> {
        let layers = self.layers * self.layers_per_group;
        if layers > MOST_LAYERS {
            return Err(fields.refuse(format!("layers: expected at most {MOST_LAYERS}, found {layers}")));
        }
        if !self.width.is_multiple_of(self.heads) {
            return Err(fields.refuse(format!(
                "hidden size {} is not a multiple of the number of attention heads, {}",
                self.width, self.heads
            )));
        }
        if self.max_length() == 0 {
            return Err(fields.refuse(format!(
                "\"max_position_embeddings\": expected more than pad_token_id + 1 = {}, found {}",
                self.position_offset(),
                self.positions
            )));
        }
        if self.groups > self.layers {
            return Err(fields.refuse(format!(
                "\"num_hidden_groups\": expected at most the {} layers, found {}",
                self.layers, self.groups
            )));
        }
        match fields.text("position_embedding_type")? {
            None | Some("absolute") => Ok(()),
            Some(other) => Err(fields.refuse(format!(
                "\"position_embedding_type\": expected \"absolute\", found \"{other}\", which is not supported"
            ))),
        }
    }

    /// The row of the position table that a sequence's first token takes.
    pub fn position_offset(&self) -> usize {
        if self.family.positions_start_after_pad() { self.pad_id as usize + 1 } else { 0 }
    }

    /// How positions are numbered.
    pub fn token_positions(&self) -> Positions {
        if self.family.positions_start_after_pad() {
            Positions::AfterPadding { pad: self.pad_id }
        } else {
            Positions::FromZero
        }
    }

    /// The longest sequence the position table has room for, special tokens included.
    pub fn max_length(&self) -> usize {
        self.positions.saturating_sub(self.position_offset())
    }

    /// Floating-point operations of one sequence of `tokens` tokens through every layer, each computed for every token
    /// (a head that reads `[CLS]` alone needs fewer): what speeds are quoted in, whoever measures them.
    pub fn forward_flops(&self, tokens: usize) -> f64 {
        let (e, f, t) = (self.width as f64, self.inner_width as f64, tokens as f64);
        let layer = t * (8.0 * e * e + 4.0 * e * f) + 4.0 * t * t * e;
        self.schedule().len() as f64 * layer
    }

    /// D, the width of one attention head.
    pub fn head_width(&self) -> usize {
        self.width / self.heads
    }

    /// What a head of `classes` outputs was trained to do. As `transformers` decides it where `problem_type` is silent,
    /// except that a single output is always regressed: a softmax over one class says nothing.
    pub fn problem(&self, classes: usize) -> Problem {
        match self.problem_type {
            Some(Problem::SingleLabel) | None if classes == 1 => Problem::Regression,
            Some(problem) => problem,
            None => Problem::SingleLabel,
        }
    }

    /// The layers in the order a forward pass takes them, repeats included.
    pub fn schedule(&self) -> Vec<LayerId> {
        if !self.family.shares_layers() {
            return (0..self.layers).map(|layer| LayerId { group: 0, layer }).collect();
        }
        // The division is done in floating point as the original does it: groups need not divide the layers.
        let layers_per_step = self.layers as f64 / self.groups as f64;
        let group = |step: usize| (step as f64 / layers_per_step) as usize;
        let layers = 0..self.layers_per_group;
        (0..self.layers)
            .flat_map(|step| layers.clone().map(move |layer| LayerId { group: group(step), layer }))
            .collect()
    }
}

/// Which weights a step of the forward pass uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LayerId {
    /// The group (ALBERT; 0 elsewhere).
    pub group: usize,
    /// The layer, in its group.
    pub layer: usize,
}

/// The fields of a `config.json`, and where they are from.
struct Fields {
    path: PathBuf,
    fields: Map<String, Value>,
}

impl Fields {
    fn refuse(&self, reason: impl Into<String>) -> Error {
        Error::format(&self.path, reason)
    }

    fn wrong(&self, name: &str, expected: impl fmt::Display, found: &Value) -> Error {
        let mut found = found.to_string();
        if found.chars().count() > 60 {
            found = found.chars().take(60).collect::<String>() + "…";
        }
        self.refuse(format!("\"{name}\": expected {expected}, found {found}"))
    }

    /// The field, `None` where it is absent or null.
    fn get(&self, name: &str) -> Option<&Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    fn text(&self, name: &str) -> Result<Option<&str>> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(name, "a string", other)),
        }
    }

    fn flag(&self, name: &str) -> Result<bool> {
        self.flag_or(name, false)
    }

    fn flag_or(&self, name: &str, default: bool) -> Result<bool> {
        match self.get(name) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(self.wrong(name, "true or false", other)),
        }
    }

    fn size(&self, name: &str) -> Result<usize> {
        match self.get(name) {
            None => Err(self.refuse(format!("\"{name}\" is missing"))),
            Some(_) => self.size_or(name, 0),
        }
    }

    fn size_or(&self, name: &str, default: usize) -> Result<usize> {
        match self.count_or(name, default)? {
            0 if self.get(name).is_some() => Err(self.refuse(format!("\"{name}\": expected at least 1, found 0"))),
            size => Ok(size),
        }
    }

    fn count_or(&self, name: &str, default: usize) -> Result<usize> {
        self.id_or(name, default as u32).map(|id| id as usize)
    }

    /// No size of a model comes near 2³², so that products of two fit 64 bits.
    fn id_or(&self, name: &str, default: u32) -> Result<u32> {
        let Some(value) = self.get(name) else { return Ok(default) };
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| self.wrong(name, "a whole number", value))
    }

    fn small(&self, name: &str, default: f32) -> Result<f32> {
        let Some(value) = self.get(name) else { return Ok(default) };
        match value.as_f64() {
            Some(number) if (0.0..1.0).contains(&number) => Ok(number as f32),
            _ => Err(self.wrong(name, "a small positive number", value)),
        }
    }
}

fn family(fields: &Fields) -> Result<Family> {
    let supported = || Family::ALL.map(Family::model_type).join(", ");
    let Some(model_type) = fields.text("model_type")? else {
        return Err(fields.refuse(format!("\"model_type\" is missing; expected one of {}", supported())));
    };
    Family::from_model_type(model_type).ok_or_else(|| {
        fields.refuse(format!("\"model_type\": expected one of {}, found \"{model_type}\"", supported()))
    })
}

fn architecture(fields: &Fields, family: Family) -> Result<Architecture> {
    if fields.flag("is_decoder")? {
        return Err(fields.refuse("\"is_decoder\": decoders are not supported"));
    }
    let Some(value) = fields.get("architectures") else { return Ok(Architecture::Unstated) };
    let name = value.as_array().and_then(|names| names.first()).and_then(Value::as_str);
    let Some(name) = name else { return Err(fields.wrong("architectures", "a list of names", value)) };
    // ELECTRA is pre-trained to tell which tokens were replaced, the others with masks as well.
    let pretraining = if family == Family::Electra { Architecture::Encoder } else { Architecture::MaskedLanguageModel };
    let known = [
        ("ForSequenceClassification", Architecture::SequenceClassification),
        ("ForQuestionAnswering", Architecture::QuestionAnswering),
        ("ForTokenClassification", Architecture::TokenClassification),
        ("ForMaskedLM", Architecture::MaskedLanguageModel),
        ("ForPreTraining", pretraining),
        ("Model", Architecture::Encoder),
    ];
    known.into_iter().find(|(end, _)| name.ends_with(end)).map(|(_, architecture)| architecture).ok_or_else(|| {
        fields.refuse(format!(
            "\"architectures\": expected a {} or an encoder without a head, found \"{name}\", which is not supported",
            known[..4].iter().map(|(end, _)| format!("…{end}")).collect::<Vec<_>>().join(", ")
        ))
    })
}

fn task_types(fields: &Fields, family: Family) -> Result<Option<usize>> {
    let used = family == Family::Ernie && fields.flag("use_task_id")?;
    used.then(|| fields.size_or("task_type_vocab_size", 3)).transpose()
}

fn activation(fields: &Fields, name: &str, family: Family) -> Result<Activation> {
    let Some(text) = fields.text(name)? else { return Ok(family.activation_default()) };
    match text {
        "gelu" | "gelu_python" => Ok(Activation::Gelu),
        // One function, four ways to write it; they differ in rounding alone.
        "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" | "gelu_python_tanh" => Ok(Activation::GeluTanh),
        "quick_gelu" => Ok(Activation::QuickGelu),
        "relu" => Ok(Activation::Relu),
        "silu" | "swish" => Ok(Activation::Silu),
        "tanh" => Ok(Activation::Tanh),
        other => Err(fields
            .refuse(format!("\"{name}\": expected gelu (or a variant of it), relu, silu or tanh, found \"{other}\""))),
    }
}

fn problem_type(fields: &Fields) -> Result<Option<Problem>> {
    match fields.text("problem_type")? {
        None => Ok(None),
        Some("single_label_classification") => Ok(Some(Problem::SingleLabel)),
        Some("multi_label_classification") => Ok(Some(Problem::MultiLabel)),
        Some("regression") => Ok(Some(Problem::Regression)),
        Some(other) => Err(fields.refuse(format!(
            "\"problem_type\": expected single_label_classification, multi_label_classification or regression, found \"{other}\""
        ))),
    }
}

/// `{"0": "negative", "1": "positive"}`, keys in any order.
fn labels(fields: &Fields) -> Result<Option<Vec<String>>> {
    let Some(value) = fields.get("id2label") else { return Ok(None) };
    let Value::Object(entries) = value else { return Err(fields.wrong("id2label", "an object", value)) };
    let mut names = vec![None; entries.len()];
    for (key, name) in entries {
        let place = key.parse::<usize>().ok().and_then(|id| names.get_mut(id)).filter(|place| place.is_none());
        let Some(place) = place else {
            return Err(fields.refuse(format!(
                "\"id2label\": expected the keys \"0\" to \"{}\", found \"{key}\"",
                entries.len() - 1
            )));
        };
        *place = Some(name.as_str().map_or_else(|| name.to_string(), str::to_owned));
    }
    Ok(names.into_iter().collect())
}
