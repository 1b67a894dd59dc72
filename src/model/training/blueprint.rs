//! From a model directory to a model in training: what is there, what head it shall have, and where its first values
//! come from.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tempfile::TempDir;

use super::{DropoutRates, First, Learn, Learner, NamedTensor, adam, markers, save};
use crate::backend::Precision;
use crate::backend::cpu::Cpu;
use crate::backend::training::Training;
use crate::dataset::{Label, Record};
use crate::error::{Error, Result};
use crate::factors::Target;
use crate::model::class_names::ClassNames;
use crate::model::config::{Architecture, Config};
use crate::model::token_head::last_layer;
use crate::model::weights::Weights;
use crate::model::{Device, Problem, Task, fingerprint, hub, pretrained};
use crate::tokens::{Encoding, Positions, Tokenizer, TokenizerOptions};

/// A model directory that a training starts from: its configuration and tokenizer, and, but from scratch, its weights.
pub struct Blueprint {
    directory: PathBuf,
    config: Config,
    fields: Map<String, Value>,
    weights: Option<Weights>,
    task: Task,
    head: Option<HeadPlan>,
    /// Where its tokenizer is, where that is not the directory.
    tokenizer: Option<TempDir>,
    /// Rows of the word embeddings that the weights lack: tokens added.
    grown: usize,
}

/// What a head is to be: a name for each output, and what it is trained to do.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadPlan {
    /// In class order.
    pub names: Vec<String>,
    /// What it learns.
    pub problem: Problem,
}

impl Blueprint {
    /// Reads a directory, or `org/name` of the local Hugging Face cache. From `scratch` only `config.json` and the
    /// tokenizer are read.
    ///
    /// # Errors
    /// As [`crate::model::Model::load`].
    pub fn read(path_or_name: &str, scratch: bool) -> Result<Self> {
        let directory = hub::find(path_or_name)?;
        let config = Config::load(&directory)?;
        let weights = (!scratch).then(|| Weights::open(&directory, config.family.tensor_names().prefix)).transpose()?;
        let fields = save::config_fields(&directory)?;
        Self { directory, config, fields, weights, task: Task::Record, head: None, tokenizer: None, grown: 0 }
            .for_task(Task::Record)
    }

    /// The same for a model that says something of `task`: of records where nothing else is asked for.
    ///
    /// # Errors
    /// [`Error::Format`] where the head it has for that is damaged.
    pub fn for_task(mut self, task: Task) -> Result<Self> {
        let head = |weights| existing_head(&self.directory, &self.config, weights, task);
        self.head = self.weights.as_ref().map(head).transpose()?.flatten();
        self.task = task;
        Ok(self)
    }

    /// The same with more special tokens, where its tokenizer has them not: their embeddings are drawn.
    ///
    /// # Errors
    /// Where the tokenizer's files are damaged, or take no more tokens.
    pub fn with_tokens(mut self, tokens: &[String]) -> Result<Self> {
        let folder = markers::added(&self.directory, tokens)?;
        let options = TokenizerOptions {
            segments: self.config.token_types > 1,
            vocabulary: self.config.vocabulary + tokens.len(),
        };
        let tokenizer = Tokenizer::load(folder.path(), &options)?;
        let id = |token: &String| {
            tokenizer.id(token).ok_or_else(|| {
                Error::format(&self.directory, format!("its tokenizer does not take the special token {token}"))
            })
        };
        let last = tokens.iter().map(id).collect::<Result<Vec<u32>>>()?.into_iter().max().unwrap_or_default();
        let rows = self.config.vocabulary.max(last as usize + 1);
        self.grown = rows - self.config.vocabulary;
        self.config.vocabulary = rows;
        self.fields.insert("vocab_size".to_owned(), rows.into());
        self.tokenizer = Some(folder);
        Ok(self)
    }

    /// The head it has for its task.
    pub fn head(&self) -> Option<&HeadPlan> {
        self.head.as_ref()
    }

    /// [`Blueprint::build`] on a device as it is asked for, in f32 or, with parameters and moments in f32, in bf16.
    ///
    /// # Errors
    /// [`Error::Usage`] for several devices, or another precision; as [`Gpu::open`](crate::backend::gpu::Gpu::open) and
    /// [`Blueprint::build`].
    #[allow(clippy::needless_pass_by_value)] // a device is named where it is passed
    pub fn build_on(
        self,
        device: Device,
        precision: Precision,
        plan: HeadPlan,
        seed: u64,
        max_length: Option<usize>,
    ) -> Result<Trainee> {
        let precision = match precision {
            Precision::Auto => Precision::F32,
            Precision::F32 | Precision::Bf16 => precision,
            Precision::F16 | Precision::Bf16x3 => {
                return Err(Error::usage(format!("--precision {precision}: training computes in f32 or bf16"))
                    .with_hint("leave --precision out, or use --precision f32 or bf16"));
            }
        };
        let mut gpus = device.gpus(precision)?;
        match (gpus.pop(), gpus.len()) {
            (None, _) => self.build(Cpu::new().in_precision(precision)?.shared_out(), plan, seed, max_length),
            (Some(gpu), 0) => self.build(gpu, plan, seed, max_length),
            (Some(_), others) => Err(Error::usage(format!("{} devices: training runs on one", others + 1))
                .with_hint("name it, as in --device cuda:0")),
        }
    }

    /// Makes the model on a device. A head other than [`Blueprint::head`] is new: drawn from the seed, like everything
    /// from scratch.
    ///
    /// # Errors
    /// [`Error::Usage`] for a head that learns nothing; [`Error::Format`] where a tensor is not as the configuration
    /// says; what the device fails at.
    pub fn build<B: Training>(
        self,
        backend: B,
        plan: HeadPlan,
        seed: u64,
        max_length: Option<usize>,
    ) -> Result<Trainee> {
        check(self.task, &plan)?;
        let task = self.task;
        let keep_head = self.head.as_ref() == Some(&plan);
        let HeadPlan { names, problem } = plan;
        let classes = if task == Task::Masks { self.config.vocabulary } else { names.len() };
        let first = match &self.weights {
            Some(weights) => First::Checkpoint { weights, keep_head, grown: self.grown },
            None => First::Drawn,
        };
        let learner = Learner::new(backend, &self.config, (task, problem), classes, &first, seed)?;
        let segments = TokenizerOptions { segments: self.config.token_types > 1, vocabulary: self.config.vocabulary };
        let settings = fingerprint::settings(&self.config, problem, None);
        let start = self.weights.as_ref().map(|weights| weights.fingerprint().hex(&settings));
        // Pieces of the vocabulary are the tokenizer's to name.
        let named = if task == Task::Masks { 0 } else { classes };
        let class_names = ClassNames::new(Some(names), problem, named).map_err(Error::usage)?;
        let config_path = self.directory.join("config.json");
        let of_tokenizer = self.tokenizer.as_ref().map_or(self.directory.as_path(), TempDir::path);
        Ok(Trainee {
            tokenizer: Tokenizer::load(of_tokenizer, &segments)?,
            max_length: pretrained::max_length(&self.directory, &self.config, max_length)?,
            dropout: DropoutRates::read(&config_path, &self.fields, self.config.family, task)?,
            learner: Box::new(learner),
            new_head: !keep_head,
            start,
            class_names,
            directory: self.directory,
            tokenizer_files: self.tokenizer,
            beside: Vec::new(),
            config: self.config,
            fields: self.fields,
        })
    }
}

fn existing_head(directory: &Path, config: &Config, weights: &Weights, task: Task) -> Result<Option<HeadPlan>> {
    let last = match task {
        Task::Record => config.family.head_names().last,
        Task::Spans | Task::Tags => last_layer(task),
        Task::Masks => config.family.mask_head_names().dense,
    };
    let stated = match (config.architecture, task) {
        (Architecture::Unstated, Task::Tags) => false,
        // Pre-trained encoders are at times stored without their head.
        (Architecture::Unstated, _) | (Architecture::MaskedLanguageModel, Task::Masks) => {
            weights.contains(&format!("{last}.weight"))
        }
        // Any other head is put away.
        (architecture, task) => architecture.task() == Some(task),
    };
    if !stated {
        return Ok(None);
    }
    let classes = weights.rows(last)?;
    let (names, problem, classes) = match task {
        Task::Record => (config.labels.clone(), config.problem(classes), classes),
        Task::Tags => (config.labels.clone(), Problem::SingleLabel, classes),
        Task::Spans | Task::Masks => return Ok(Some(HeadPlan::for_task(task))),
    };
    let names = ClassNames::new(names, problem, classes)
        .map_err(|reason| Error::format(directory.join("config.json"), reason))?;
    Ok(Some(HeadPlan { names: names.names().to_vec(), problem }))
}

impl HeadPlan {
    /// The one head there is for answers or masks, whose outputs the data do not name.
    pub fn for_task(task: Task) -> Self {
        let names = if task == Task::Spans { vec!["start".to_owned(), "end".to_owned()] } else { Vec::new() };
        Self { names, problem: Problem::SingleLabel }
    }
}

fn check(task: Task, plan: &HeadPlan) -> Result<()> {
    let HeadPlan { names, problem } = plan;
    match (task, problem, names.len()) {
        (Task::Masks, _, 0) | (Task::Spans, _, 2) => Ok(()),
        (Task::Masks | Task::Spans, ..) => Err(Error::usage(format!("a head of {task:?} has no names of its own"))),
        (Task::Tags, problem, _) if *problem != Problem::SingleLabel => {
            Err(Error::usage("tags: each token has one of them: --problem is of records"))
        }
        (_, Problem::Headless, _) => Err(Error::usage("a model without a head has nothing to learn from labels")
            .with_hint("name the classes with --labels a,b,c")),
        (_, _, 0) => Err(Error::usage("labels: expected at least one class, found none")),
        (_, Problem::SingleLabel, 1) => Err(Error::usage("labels: expected at least two classes, found one")
            .with_hint("a single output is a regression: --problem regression")),
        _ => Ok(()),
    }
}

/// A model in training, with all that is needed to feed and to save it.
pub struct Trainee {
    learner: Box<dyn Learn>,
    tokenizer: Tokenizer,
    max_length: usize,
    class_names: ClassNames,
    dropout: DropoutRates,
    new_head: bool,
    /// Of what was read of a checkpoint.
    start: Option<String>,
    directory: PathBuf,
    /// Where its tokenizer is, where that is not the directory.
    tokenizer_files: Option<TempDir>,
    /// Further files of the directory that is saved, each with its name.
    beside: Vec<(String, Vec<u8>)>,
    config: Config,
    fields: Map<String, Value>,
}

impl Trainee {
    /// Its parameters, on their device.
    pub fn learner(&mut self) -> &mut dyn Learn {
        &mut *self.learner
    }

    /// What it says something of.
    pub fn task(&self) -> Task {
        self.learner.task()
    }

    /// What it learns.
    pub fn problem(&self) -> Problem {
        self.learner.problem()
    }

    /// What its classes are called.
    pub fn class_names(&self) -> &ClassNames {
        &self.class_names
    }

    /// What its configuration drops in training.
    pub fn dropout(&self) -> DropoutRates {
        self.dropout
    }

    /// Whether its last layers were drawn, not read.
    pub fn has_new_head(&self) -> bool {
        self.new_head
    }

    /// The fingerprint of the weights it started from, as far as they were read; `None` where all were drawn.
    pub fn start_fingerprint(&self) -> Option<&str> {
        self.start.as_deref()
    }

    /// The longest sequence in tokens.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The directory it started from, whose tokenizer goes with what is saved.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// How its family numbers positions.
    pub fn positions(&self) -> Positions {
        self.config.token_positions()
    }

    /// The target a label stands for: [`ClassNames::resolve`].
    ///
    /// # Errors
    /// What is wrong with the label, without its place.
    pub fn resolve_label(&self, label: &Label) -> Result<Target, String> {
        self.class_names.resolve(label)
    }

    /// A record as the model reads it.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode(&self, record: &Record) -> Result<Encoding> {
        self.tokenizer.encode(&record.text, record.pair.as_deref(), self.max_length)
    }

    /// Has a further file written wherever it is saved.
    pub fn save_beside(&mut self, name: &str, text: String) {
        self.beside.push((name.to_owned(), text.into_bytes()));
    }

    /// Writes a directory that `transformers` and [`crate::model::Model::load`] load: configuration, weights,
    /// tokenizer. It appears whole or not at all, in the place of another that was there.
    ///
    /// # Errors
    /// What the device or the file system says.
    pub fn save(&self, to: &Path) -> Result<()> {
        self.save_with(to, &self.beside)
    }

    /// The same with the moments that AdamW has of its gradients beside it, for [`super::AdamMoments`].
    ///
    /// # Errors
    /// As [`Trainee::save`].
    pub fn save_with_moments(&self, to: &Path, betas: [f64; 2]) -> Result<()> {
        let mut beside = self.beside.clone();
        beside.push(adam::encode(to, &self.learner.state()?, betas)?);
        self.save_with(to, &beside)
    }

    fn save_with(&self, to: &Path, beside: &[(String, Vec<u8>)]) -> Result<()> {
        let mut parameters: Vec<NamedTensor> = self.learner.parameters()?;
        if self.task() == Task::Masks {
            // Under the tied one's name as well: some versions of `transformers` read that.
            let [own, other] = self.config.family.mask_head_names().biases(self.config.tied);
            let same = parameters.iter().find(|tensor| tensor.name == own && own != other).cloned();
            parameters.extend(same.map(|tensor| NamedTensor { name: other, ..tensor }));
        }
        let fields = save::head_fields(&self.fields, &self.config, self.task(), &self.class_names);
        let source = self.tokenizer_files.as_ref().map_or(self.directory.as_path(), TempDir::path);
        save::directory(source, to, &fields, &parameters, beside)
    }
}
