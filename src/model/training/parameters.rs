//! Which parameters a model has: their names in a checkpoint, their shapes, whether they decay, and where their first
//! values come from.

use super::tree::{Head, Layer, Tree};
use crate::backend::training::{Pair, Tables};
use crate::error::Result;
use crate::model::Task;
use crate::model::config::{Config, LayerId};
use crate::model::families::TensorNames;
use crate::model::token_head::last_layer;
use crate::model::weights::Weights;
use crate::random::{Purpose, Stream, normal};

/// One parameter: one tensor of a checkpoint, or several one below the other.
#[derive(Clone, Debug)]
pub(super) struct Spec {
    /// Name in the checkpoint and shape of each.
    pub(super) parts: Vec<(String, Vec<usize>)>,
    /// Another name of the only one, which a checkpoint may have in its place.
    pub(super) alias: Option<String>,
    pub(super) role: Role,
    /// Whether it is the head's, which a checkpoint need not have.
    pub(super) head: bool,
}

/// What a parameter is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// A matrix or a table: decays; drawn where it is new.
    Matrix,
    /// A bias or a normalisation's shift: zero where it is new.
    Bias,
    /// A normalisation's scale: one where it is new.
    Scale,
}

impl Spec {
    /// Numbers in it.
    pub(super) fn len(&self) -> usize {
        self.parts.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
    }

    /// Whether weight decay applies.
    pub(super) fn decays(&self) -> bool {
        self.role == Role::Matrix
    }

    /// Its values in a checkpoint.
    pub(super) fn read(&self, weights: &Weights) -> Result<Vec<f32>> {
        let parts = self.parts.iter().map(|(name, shape)| weights.tensor(self.name_in(weights, name), shape));
        Ok(parts.collect::<Result<Vec<_>>>()?.concat())
    }

    /// What a checkpoint calls one of them.
    pub(super) fn name_in<'a>(&'a self, weights: &Weights, name: &'a str) -> &'a str {
        match &self.alias {
            Some(alias) if !weights.contains(weights.bare(name)) => weights.bare(alias),
            _ => weights.bare(name),
        }
    }

    /// A table's values in a checkpoint that has fewer rows, the last ones drawn.
    pub(super) fn read_and_draw(&self, weights: &Weights, rows: usize, seed: u64, deviation: f32) -> Result<Vec<f32>> {
        let (name, shape) = &self.parts[0];
        let [all, width] = [shape[0], shape[1]];
        let mut values = weights.tensor(weights.bare(name), &[all - rows, width])?.into_owned();
        let drawn = Self::new(name.clone(), vec![rows, width], self.role).draw(seed, 1, deviation);
        values.extend(drawn);
        Ok(values)
    }

    /// First values: normal draws of the seed for matrices, by the parameter's number, of a standard deviation.
    pub(super) fn draw(&self, seed: u64, number: usize, deviation: f32) -> Vec<f32> {
        match self.role {
            Role::Bias => vec![0.0; self.len()],
            Role::Scale => vec![1.0; self.len()],
            Role::Matrix => {
                let stream = Stream::new(seed, Purpose::Initialisation);
                let block = |i: usize| stream.block([i as u32, (i >> 32) as u32, number as u32, 0]);
                let words = (0..self.len().div_ceil(4)).flat_map(block);
                words.take(self.len()).map(|word| deviation * normal(word)).collect()
            }
        }
    }

    /// One tensor.
    fn new(name: String, shape: Vec<usize>, role: Role) -> Self {
        Self { parts: vec![(name, shape)], alias: None, role, head: false }
    }
}

/// Every parameter of a model of this configuration, with a head for a task, of `classes` outputs.
pub(super) fn specs(config: &Config, layers: &[LayerId], task: Task, classes: usize) -> Tree<Spec> {
    let (names, width) = (config.family.tensor_names(), config.width);
    let source = Namer { names, config };
    let embedded = config.embedding_width;
    let table = |name: &str, rows: usize| Spec::new(source.full(name), vec![rows, embedded], Role::Matrix);
    let projected = config.family.projects_embeddings(embedded, width);
    Tree {
        tables: Tables {
            word: table(names.word, config.vocabulary),
            position: table(names.position, config.positions),
            token_type: (config.token_types > 0).then(|| table(names.token_type, config.token_types)),
            task: config.task_types.map(|types| table(names.task_type, types)),
        },
        embedding_norm: source.norm(names.embedding_norm, embedded),
        embedding_projection: projected.then(|| source.linear(&[names.projection], embedded, width)),
        layers: layers.iter().map(|id| source.layer(*id)).collect(),
        head: head(&source, task, classes),
    }
}

/// The head of a task.
fn head(source: &Namer<'_>, task: Task, classes: usize) -> Head<Spec> {
    let Config { family, width, embedding_width, tied, .. } = *source.config;
    let of_head = |mut pair: Pair<Spec>| {
        (pair.weight.head, pair.bias.head) = (true, true);
        pair
    };
    let linear = |name: String, inputs, outputs| of_head(linear_named(&[name], inputs, outputs));
    match task {
        Task::Record => {
            let names = family.head_names();
            let dense = linear(source.head(names.dense), width, width);
            let last = linear(names.last.to_owned(), width, classes);
            Head { dense: Some(dense), norm: None, last: Some(last), bias: None }
        }
        Task::Spans | Task::Tags => {
            let last = linear(last_layer(task).to_owned(), width, classes);
            Head { dense: None, norm: None, last: Some(last), bias: None }
        }
        Task::Masks => {
            let names = family.mask_head_names();
            let weight = Spec::new(format!("{}.weight", names.decoder), vec![classes, embedding_width], Role::Matrix);
            let [bias, alias] = names.biases(tied);
            let alias = (alias != bias).then_some(alias);
            let bias = Spec { alias, ..Spec::new(bias, vec![classes], Role::Bias) };
            let last = of_head(Pair { weight, bias });
            let (last, bias) = if tied { (None, Some(last.bias)) } else { (Some(last), None) };
            Head {
                dense: Some(linear(names.dense.to_owned(), width, embedding_width)),
                norm: Some(of_head(norm_named(names.norm, embedding_width))),
                last,
                bias,
            }
        }
    }
}

/// Names as `transformers` saves a classifier's.
struct Namer<'a> {
    names: &'static TensorNames,
    config: &'a Config,
}

impl Namer<'_> {
    fn full(&self, name: &str) -> String {
        format!("{}.{name}", self.names.prefix)
    }

    /// A pooler is the encoder's, any other layer of a head is the classifier's.
    fn head(&self, name: &str) -> String {
        if name.starts_with("pooler") { self.full(name) } else { name.to_owned() }
    }

    fn part(&self, id: LayerId, part: &str) -> String {
        self.full(&format!("{}.{part}", self.names.layer_name(id)))
    }

    fn norm(&self, name: &str, width: usize) -> Pair<Spec> {
        norm_named(&self.full(name), width)
    }

    fn linear(&self, names: &[&str], inputs: usize, outputs: usize) -> Pair<Spec> {
        let names: Vec<String> = names.iter().map(|name| self.full(name)).collect();
        linear_named(&names, inputs, outputs)
    }

    fn layer(&self, id: LayerId) -> Layer<Spec> {
        let Config { width, inner_width, .. } = *self.config;
        let names = self.names;
        let linear = |parts: &[&str], inputs, outputs| {
            let names: Vec<String> = parts.iter().map(|part| self.part(id, part)).collect();
            linear_named(&names, inputs, outputs)
        };
        Layer {
            projection: linear(&[names.query, names.key, names.value], width, width),
            attention_out: linear(&[names.attention_out], width, width),
            attention_norm: norm_named(&self.part(id, names.attention_norm), width),
            inner: linear(&[names.inner], width, inner_width),
            outer: linear(&[names.outer], inner_width, width),
            outer_norm: norm_named(&self.part(id, names.outer_norm), width),
        }
    }
}

/// A normalisation's parameters.
fn norm_named(name: &str, width: usize) -> Pair<Spec> {
    Pair {
        weight: Spec::new(format!("{name}.weight"), vec![width], Role::Scale),
        bias: Spec::new(format!("{name}.bias"), vec![width], Role::Bias),
    }
}

/// Linear layers of `outputs` outputs each, one below the other.
fn linear_named(names: &[String], inputs: usize, outputs: usize) -> Pair<Spec> {
    let parts = |end: &str, shape: &[usize]| {
        names.iter().map(|name| (format!("{name}.{end}"), shape.to_vec())).collect::<Vec<_>>()
    };
    Pair {
        weight: Spec { parts: parts("weight", &[outputs, inputs]), alias: None, role: Role::Matrix, head: false },
        bias: Spec { parts: parts("bias", &[outputs]), alias: None, role: Role::Bias, head: false },
    }
}
