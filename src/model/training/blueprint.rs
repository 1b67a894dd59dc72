//! From a model directory to a model in training: what is there, what head it shall have, and where its first values come from.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{DropoutRates, First, Learn, Learner, NamedTensor, save};
use crate::backend::cpu::Cpu;
use crate::backend::training::Training;
use crate::backend::Precision;
use crate::dataset::{Label, Record};
use crate::error::{Error, Result};
use crate::factors::Target;
use crate::model::class_names::ClassNames;
use crate::model::config::{Architecture, Config};
use crate::model::weights::Weights;
use crate::model::{Device, Problem, hub, pretrained};
use crate::tokens::{Encoding, Positions, Tokenizer, TokenizerOptions};

/// A model directory that a training starts from: its configuration and tokenizer, and, but from scratch, its weights.
pub struct Blueprint {
    directory: PathBuf,
    config: Config,
    fields: Map<String, Value>,
    weights: Option<Weights>,
    head: Option<HeadPlan>,
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
    /// Reads a directory, or `org/name` of the local Hugging Face cache. From `scratch` only `config.json` and the tokenizer are read.
    ///
    /// # Errors
    /// As [`crate::model::Model::load`].
    pub fn read(path_or_name: &str, scratch: bool) -> Result<Self> {
        let directory = hub::find(path_or_name)?;
        let config = Config::load(&directory)?;
        let weights = (!scratch).then(|| Weights::open(&directory, config.family.tensor_names().prefix)).transpose()?;
        let head = weights.as_ref().map(|weights| existing_head(&directory, &config, weights)).transpose()?.flatten();
        let fields = save::config_fields(&directory)?;
        Ok(Self { directory, config, fields, weights, head })
    }

    /// The head it has.
    pub fn head(&self) -> Option<&HeadPlan> {
        self.head.as_ref()
    }

    /// [`Blueprint::build`] on a device as it is asked for, in f32.
    ///
    /// # Errors
    /// [`Error::Usage`] for several devices, or another precision; as [`Gpu::open`](crate::backend::gpu::Gpu::open) and [`Blueprint::build`].
    #[allow(clippy::needless_pass_by_value)] // a device is named where it is passed
    pub fn build_on(
        self,
        device: Device,
        precision: Precision,
        plan: HeadPlan,
        seed: u64,
        max_length: Option<usize>,
    ) -> Result<Trainee> {
        if !matches!(precision, Precision::Auto | Precision::F32) {
            return Err(Error::usage(format!("--precision {precision}: training computes in f32"))
                .with_hint("leave --precision out, or use --precision f32"));
        }
        let mut gpus = device.gpus(Precision::F32)?;
        match (gpus.pop(), gpus.len()) {
            (None, _) => self.build(Cpu::new().shared_out(), plan, seed, max_length),
            (Some(gpu), 0) => self.build(gpu, plan, seed, max_length),
            (Some(_), others) => Err(Error::usage(format!("{} devices: training runs on one", others + 1))
                .with_hint("name it, as in --device cuda:0")),
        }
    }

    /// Makes the model on a device. A head other than [`Blueprint::head`] is new: drawn from the seed, like everything from scratch.
    ///
    /// # Errors
    /// [`Error::Usage`] for a head that learns nothing; [`Error::Format`] where a tensor is not as the configuration says; what the
    /// device fails at.
    pub fn build<B: Training>(
        self,
        backend: B,
        plan: HeadPlan,
        seed: u64,
        max_length: Option<usize>,
    ) -> Result<Trainee> {
        check(&plan)?;
        let keep_head = self.head.as_ref() == Some(&plan);
        let HeadPlan { names, problem } = plan;
        let classes = names.len();
        let first = match &self.weights {
            Some(weights) => First::Checkpoint { weights, keep_head },
            None => First::Drawn,
        };
        let learner = Learner::new(backend, &self.config, problem, classes, &first, seed)?;
        let segments = TokenizerOptions { segments: self.config.token_types > 1, vocabulary: self.config.vocabulary };
        let class_names = ClassNames::new(Some(names), problem, classes).map_err(Error::usage)?;
        let config_path = self.directory.join("config.json");
        Ok(Trainee {
            tokenizer: Tokenizer::load(&self.directory, &segments)?,
            max_length: pretrained::max_length(&self.directory, &self.config, max_length)?,
            dropout: DropoutRates::read(&config_path, &self.fields, self.config.family)?,
            learner: Box::new(learner),
            new_head: !keep_head,
            class_names,
            directory: self.directory,
            config: self.config,
            fields: self.fields,
        })
    }
}

fn existing_head(directory: &Path, config: &Config, weights: &Weights) -> Result<Option<HeadPlan>> {
    let last = config.family.head_names().last;
    let stated = match config.architecture {
        Architecture::Unstated => weights.contains(&format!("{last}.weight")),
        Architecture::SequenceClassification => true,
        // Other heads are put away for one that says something of a text as a whole.
        _ => false,
    };
    if !stated {
        return Ok(None);
    }
    let classes = weights.rows(last)?;
    let problem = config.problem(classes);
    let names = ClassNames::new(config.labels.clone(), problem, classes)
        .map_err(|reason| Error::format(directory.join("config.json"), reason))?;
    Ok(Some(HeadPlan { names: names.names().to_vec(), problem }))
}

fn check(plan: &HeadPlan) -> Result<()> {
    let HeadPlan { names, problem } = plan;
    match (problem, names.len()) {
        (Problem::Headless, _) => Err(Error::usage("a model without a head has nothing to learn from labels")
            .with_hint("name the classes with --labels a,b,c")),
        (_, 0) => Err(Error::usage("labels: expected at least one class, found none")),
        (Problem::SingleLabel, 1) => Err(Error::usage("labels: expected at least two classes, found one")
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
    directory: PathBuf,
    config: Config,
    fields: Map<String, Value>,
}

impl Trainee {
    /// Its parameters, on their device.
    pub fn learner(&mut self) -> &mut dyn Learn {
        &mut *self.learner
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

    /// The longest sequence in tokens.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
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

    /// Writes a directory that `transformers` and [`crate::model::Model::load`] load: configuration, weights, tokenizer. It appears whole or
    /// not at all, in the place of another that was there.
    ///
    /// # Errors
    /// What the device or the file system says.
    pub fn save(&self, to: &Path) -> Result<()> {
        let parameters: Vec<NamedTensor> = self.learner.parameters()?;
        let fields = save::classifier_fields(&self.fields, &self.config, &self.class_names, self.problem());
        save::directory(&self.directory, to, &fields, &parameters)
    }
}
