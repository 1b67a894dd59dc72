//! A model as it is used: loaded from its directory, with its tokenizer and its classes.

use std::borrow::Borrow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::class_names::ClassNames;
use super::config::{Architecture, Config};
use super::encoder::Encoder;
use super::head::Head;
use super::network::Network;
use super::sentence::{SentenceModel, check_case};
use super::spread::Spread;
use super::token_head::{TokenHead, last_layer};
use super::weights::Weights;
use super::widening::Widening;
use super::{Ask, Device, Forward, Outputs, Probes, Problem, Reads, Task, fingerprint, hub};
use crate::backend::cpu::Cpu;
use crate::backend::gpu::Gpu;
use crate::backend::{Backend, Precision};
use crate::dataset::{Label, Record};
use crate::error::{Error, Result};
use crate::factors::{self, Target};
use crate::tokens::{self, Encoding, MicroBatch, Positions, Tokenizer, TokenizerOptions};

/// What may be chosen when a model is loaded.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadOptions {
    /// The longest sequence in tokens; by default as long as the model's files allow.
    pub max_length: Option<usize>,
    /// What matrix products are computed in.
    pub precision: Precision,
    /// Read the masked-language-model head of a checkpoint that has one; else it is an encoder without a head.
    pub masks: bool,
}

/// A model ready to run.
pub struct Model {
    name: String,
    asked: (Device, Precision),
    directory: PathBuf,
    config: Config,
    task: Task,
    problem: Problem,
    class_names: ClassNames,
    tokenizer: Tokenizer,
    max_length: usize,
    network: Box<dyn Forward>,
    head: Option<factors::Head>,
    fingerprint: String,
    head_fingerprint: Option<String>,
    embedding_deviation: f32,
    /// What its gradients' tracers ran again.
    traced_again: Arc<AtomicU64>,
}

/// A network, and what stays of it on the host.
struct Loaded {
    network: Box<dyn Forward>,
    head: Option<factors::Head>,
    task: Task,
    problem: Problem,
    fingerprint: String,
    head_fingerprint: Option<String>,
}

impl Model {
    /// Loads a model: a directory in the Hugging Face layout, or `org/name` where the local Hugging Face cache has it.
    ///
    /// # Errors
    /// [`Error::Usage`] where there is no such model, [`Error::Device`] where the device cannot be used, and
    /// [`Error::Io`], [`Error::Format`] or [`Error::Mismatch`] for what is wrong with its files.
    #[allow(clippy::needless_pass_by_value)] // a device is named where it is passed
    pub fn load(path_or_name: &str, device: Device, options: &LoadOptions) -> Result<Self> {
        let directory = hub::find(path_or_name)?;
        let model = match device {
            Device::Cuda(_) | Device::EveryCuda => {
                Self::open_on_all(device.gpus(options.precision)?, &directory, options)?
            }
            Device::Auto | Device::Cpu => {
                Self::open_with(Cpu::new().in_precision(options.precision)?, &directory, options)?
            }
        };
        Ok(Self { name: path_or_name.to_owned(), asked: (device, options.precision), ..model })
    }

    /// Opens a model with another backend than the library would choose.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn open_with<B: Backend>(backend: B, dir: &Path, options: &LoadOptions) -> Result<Self> {
        let config = Config::load(dir)?;
        let weights = Weights::open(dir, config.family.tensor_names().prefix)?;
        let Loaded { network, head, task, problem, fingerprint, head_fingerprint } =
            load(backend, &weights, &config, dir, options.masks)?;
        let (names, classes) = match task {
            Task::Record | Task::Tags => (config.labels.clone(), network.classes()),
            Task::Spans => (Some(vec!["start".to_owned(), "end".to_owned()]), 2),
            // Pieces of the vocabulary are the tokenizer's to name.
            Task::Masks => (None, 0),
        };
        let class_names = ClassNames::new(names, problem, classes)
            .map_err(|reason| Error::format(dir.join("config.json"), reason))?;
        let segments = TokenizerOptions { segments: config.token_types > 1, vocabulary: config.vocabulary };
        let tokenizer = Tokenizer::load(dir, &segments)?;
        check_case(dir, &tokenizer)?;
        Ok(Self {
            tokenizer,
            max_length: max_length(dir, &config, options.max_length)?,
            name: dir.to_string_lossy().into_owned(),
            asked: (Device::Cpu, options.precision),
            directory: dir.to_owned(),
            embedding_deviation: embedding_deviation(&weights, &config)?,
            config,
            task,
            problem,
            class_names,
            network,
            head,
            fingerprint,
            head_fingerprint,
            traced_again: Arc::default(),
        })
    }

    /// [`Model::open_with`] on several devices that share the work. They must be of a kind: a batch's answers are the
    /// same on each.
    ///
    /// # Errors
    /// As [`Model::load`]; where there is no device.
    pub fn open_on_all<B: Backend>(backends: Vec<B>, dir: &Path, options: &LoadOptions) -> Result<Self> {
        let mut backends = backends.into_iter();
        let Some(first) = backends.next() else {
            return Err(Error::Device("there are no devices".to_owned(), None));
        };
        let mut model = Self::open_with(first, dir, options)?;
        let others: Vec<_> =
            backends.map(|backend| open_network(backend, dir, options.masks)).collect::<Result<_>>()?;
        if !others.is_empty() {
            model.network = Box::new(Spread::new(std::iter::once(model.network).chain(others).collect()));
        }
        Ok(model)
    }

    /// What it was asked for by: a directory, or `org/name`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it was loaded to, and in what precision, as asked for: what is made of it is to run there too.
    pub fn asked(&self) -> (&Device, Precision) {
        (&self.asked.0, self.asked.1)
    }

    /// The device it runs on, and what its matrix products are computed in.
    pub fn device(&self) -> (String, Precision) {
        self.network.device()
    }

    /// Sequences so far that overflowed the device's precision and were run again in one that holds more.
    pub fn run_again(&self) -> u64 {
        self.network.run_again() + self.traced_again.load(Ordering::Relaxed)
    }

    /// Where those are counted that are run again for their gradients.
    pub(super) fn traced_again(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.traced_again)
    }

    /// The GPUs it runs on, where it does.
    pub fn gpus(&self) -> Vec<&Gpu> {
        self.network.gpus()
    }

    /// Where it was loaded from.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Its sizes and settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What it says something of.
    pub fn task(&self) -> Task {
        self.task
    }

    /// Refuses a model that says something of tokens, for jobs that need one thing said of a record.
    ///
    /// # Errors
    /// [`Error::Usage`], naming the job.
    pub fn expect_record_task(&self, job: &str) -> Result<()> {
        let says = match self.task {
            Task::Record => return Ok(()),
            Task::Spans => "answer spans",
            Task::Tags => "tags of tokens",
            Task::Masks => "masked tokens",
        };
        Err(Error::usage(format!("{job}: {} gives {says}, and this is not supported for those yet", self.name))
            .with_hint("predict, explain, index and search take such models"))
    }

    /// What its head was trained to do, of a record or of each row of logits.
    pub fn problem(&self) -> Problem {
        self.problem
    }

    /// E: the width of the features.
    pub fn width(&self) -> usize {
        self.network.width()
    }

    /// K: the number of logits, 0 for a headless model.
    pub fn classes(&self) -> usize {
        self.network.classes()
    }

    /// What its classes are called, and what labels of the data mean to it.
    pub fn class_names(&self) -> &ClassNames {
        &self.class_names
    }

    /// The target a label of the data stands for: [`ClassNames::resolve`].
    ///
    /// # Errors
    /// What is wrong with the label, without its place.
    pub fn resolve_label(&self, label: &Label) -> Result<Target, String> {
        self.class_names.resolve(label)
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The longest sequence in tokens, special tokens included; what is longer is cut.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// Its last linear layer; `None` for a headless model.
    pub fn head(&self) -> Option<&factors::Head> {
        self.head.as_ref()
    }

    /// 64 hexadecimal digits, equal for models whose forward passes are: whatever their directory, and however their
    /// weights are stored.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The same of the last linear layer alone.
    pub fn head_fingerprint(&self) -> Option<&str> {
        self.head_fingerprint.as_deref()
    }

    /// The standard deviation of the numbers in its word embeddings: the scale of noise on them.
    pub fn embedding_deviation(&self) -> f32 {
        self.embedding_deviation
    }

    /// The network on its device.
    pub fn network(&self) -> &dyn Forward {
        &*self.network
    }

    /// How its family numbers positions.
    pub fn positions(&self) -> Positions {
        self.config.token_positions()
    }

    /// A record's text (and pair) as this model reads it.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode(&self, record: &Record) -> Result<Encoding> {
        self.tokenizer.encode(&record.text, record.pair.as_deref(), self.max_length)
    }

    /// Features `[n, E]` and logits `[n, K]` of a window of `n` sequences, in its order. `batch_tokens` is the budget
    /// of a micro-batch, the device's own by default; it never changes the numbers. `done` is told how many sequences
    /// each finished batch held, from any thread; where it answers `false`, no further batch is begun.
    ///
    /// # Errors
    /// [`Error::Interrupted`] where `done` said so; what the device fails at.
    pub fn run<E: Borrow<Encoding>>(
        &self,
        window: &[E],
        batch_tokens: Option<usize>,
        done: &(dyn Fn(usize) -> bool + Sync),
    ) -> Result<Outputs> {
        let budget = batch_tokens.unwrap_or_else(|| self.network.batch_tokens());
        let packed = tokens::pack(window, self.positions(), budget);
        let (rows, batches): (Vec<_>, Vec<_>) =
            packed.into_iter().map(|MicroBatch { rows, batch }| (rows, batch)).unzip();
        let outputs = self.network.forward(batches, &|place| done(rows[place].len()))?;
        Ok(self.in_window_order(window.len(), &rows, &outputs))
    }

    /// Outputs of each sequence of a window at the tokens that are read of it, in its order. The rest as
    /// [`Model::run`].
    ///
    /// # Errors
    /// As [`Model::run`]; [`Error::Usage`] where the model says nothing of tokens.
    pub fn read(
        &self,
        window: &[(&Encoding, Reads)],
        batch_tokens: Option<usize>,
        done: &(dyn Fn(usize) -> bool + Sync),
    ) -> Result<Vec<Outputs>> {
        let budget = batch_tokens.unwrap_or_else(|| self.network.batch_tokens());
        let encodings: Vec<&Encoding> = window.iter().map(|(encoding, _)| *encoding).collect();
        let packed = tokens::pack(&encodings, self.positions(), budget);
        let mut probes = Vec::with_capacity(packed.len());
        let mut places = Vec::with_capacity(packed.len());
        for MicroBatch { rows, batch } in packed {
            let reads = rows.iter().map(|&row| Reads::clone(&window[row].1)).collect();
            probes.push(Probes { batch, masked: None, path: None, ask: Ask::Outputs, reads });
            places.push(rows);
        }
        let answers = self.network.probe(probes, &|place| done(places[place].len()))?;
        let mut outputs = vec![Outputs::default(); window.len()];
        for (rows, answers) in places.iter().zip(answers) {
            let Outputs { mut features, mut logits } = answers.outputs;
            let read: usize = rows.iter().map(|&row| window[row].1.len()).sum();
            let widths = (features.len() / read.max(1), logits.len() / read.max(1));
            for &row in rows {
                let own = window[row].1.len();
                let rest = (features.split_off(own * widths.0), logits.split_off(own * widths.1));
                outputs[row] = Outputs { features, logits };
                (features, logits) = rest;
            }
        }
        Ok(outputs)
    }

    fn in_window_order(&self, records: usize, rows: &[Vec<usize>], outputs: &[Outputs]) -> Outputs {
        let (width, classes) = (self.width(), self.classes());
        let mut ordered = Outputs { features: vec![0.0; records * width], logits: vec![0.0; records * classes] };
        for (rows, output) in rows.iter().zip(outputs) {
            scatter(&mut ordered.features, &output.features, rows, width);
            scatter(&mut ordered.logits, &output.logits, rows, classes);
        }
        ordered
    }
}

/// Row b of `from` to row `rows[b]` of `to`.
fn scatter(to: &mut [f32], from: &[f32], rows: &[usize], width: usize) {
    for (b, row) in rows.iter().enumerate() {
        to[row * width..][..width].copy_from_slice(&from[b * width..][..width]);
    }
}

/// Over at most so many rows of the table, evenly spread: more would tell no more.
const DEVIATION_ROWS: usize = 4096;

fn embedding_deviation(weights: &Weights, config: &Config) -> Result<f32> {
    let Config { vocabulary, embedding_width, family, .. } = *config;
    let table = weights.tensor(family.tensor_names().word, &[vocabulary, embedding_width])?;
    let step = vocabulary.div_ceil(DEVIATION_ROWS).max(1);
    let values = || table.chunks_exact(embedding_width.max(1)).step_by(step).flatten().map(|&x| f64::from(x));
    let n = values().count().max(1) as f64;
    let mean = values().sum::<f64>() / n;
    Ok((values().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n).sqrt() as f32)
}

/// The longest sequence: as asked for, where the positions suffice, else as the model's files have it.
pub(super) fn max_length(dir: &Path, config: &Config, asked: Option<usize>) -> Result<usize> {
    let positions = config.max_length();
    match asked {
        None => tokens::max_length(dir, positions),
        Some(length) if (1..=positions).contains(&length) => Ok(length),
        Some(length) => Err(Error::usage(format!(
            "max length: expected 1 to {positions}, the positions the model has, found {length}"
        ))),
    }
}

/// What the model is used for: what its architecture says, or where that is silent, its weights.
fn task(config: &Config, weights: &Weights, masks: bool) -> Task {
    match config.architecture {
        Architecture::QuestionAnswering => Task::Spans,
        Architecture::TokenClassification => Task::Tags,
        Architecture::MaskedLanguageModel if masks => Task::Masks,
        Architecture::Unstated if weights.contains(&format!("{}.weight", last_layer(Task::Spans))) => Task::Spans,
        _ => Task::Record,
    }
}

/// Whether the model is used with its family's classification head.
fn has_head(config: &Config, weights: &Weights) -> bool {
    match config.architecture {
        Architecture::SequenceClassification => true,
        Architecture::Unstated => weights.contains(&format!("{}.weight", config.family.head_names().last)),
        _ => false,
    }
}

fn load<B: Backend>(backend: B, weights: &Weights, config: &Config, dir: &Path, masks: bool) -> Result<Loaded> {
    let wider = backend.wider();
    let mut loaded = match task(config, weights, masks) {
        Task::Record if has_head(config, weights) => load_classifier(backend, weights, config)?,
        Task::Record => load_sentence(backend, weights, config, dir)?,
        task => load_token_head(backend, weights, config, task)?,
    };
    if let Some(backend) = wider {
        let dir = dir.to_owned();
        let open = move || open_network(backend, &dir, masks);
        loaded.network = Box::new(Widening::new(loaded.network, Box::new(open)));
    }
    Ok(loaded)
}

/// The network of a model directory alone.
fn open_network<B: Backend>(backend: B, dir: &Path, masks: bool) -> Result<Box<dyn Forward>> {
    let config = Config::load(dir)?;
    let weights = Weights::open(dir, config.family.tensor_names().prefix)?;
    Ok(load(backend, &weights, &config, dir, masks)?.network)
}

fn load_token_head<B: Backend>(backend: B, weights: &Weights, config: &Config, task: Task) -> Result<Loaded> {
    let (head, host) = TokenHead::load(&backend, weights, config, task)?;
    let head = Head::Tokens(head);
    let encoder = Encoder::load(&backend, weights, config, head.rows())?;
    // Each row of logits is a distribution: over tags, over pieces, and for answers over the tokens of a column.
    let problem = Problem::SingleLabel;
    let settings = format!("{} {task:?}", fingerprint::settings(config, problem, None));
    let own = host.is_some().then(|| weights.fingerprint().hex_of(&format!("{}.", last_layer(task))));
    Ok(Loaded {
        network: Box::new(Network::new(backend, encoder, head, config)),
        head: host,
        task,
        problem,
        fingerprint: weights.fingerprint().hex(&settings),
        head_fingerprint: own,
    })
}

fn load_classifier<B: Backend>(backend: B, weights: &Weights, config: &Config) -> Result<Loaded> {
    let (head, host) = Head::load(&backend, weights, config)?;
    let encoder = Encoder::load(&backend, weights, config, head.rows())?;
    let problem = config.problem(head.classes());
    Ok(Loaded {
        network: Box::new(Network::new(backend, encoder, head, config)),
        head: Some(host),
        task: Task::Record,
        problem,
        fingerprint: weights.fingerprint().hex(&fingerprint::settings(config, problem, None)),
        head_fingerprint: Some(weights.fingerprint().hex_of(&format!("{}.", config.family.head_names().last))),
    })
}

fn load_sentence<B: Backend>(backend: B, weights: &Weights, config: &Config, dir: &Path) -> Result<Loaded> {
    let sentence = SentenceModel::load(dir)?;
    let head = Head::Sentence(sentence);
    let encoder = Encoder::load(&backend, weights, config, head.rows())?;
    let settings = fingerprint::settings(config, Problem::Headless, Some(sentence));
    Ok(Loaded {
        network: Box::new(Network::new(backend, encoder, head, config)),
        head: None,
        task: Task::Record,
        problem: Problem::Headless,
        fingerprint: weights.fingerprint().hex(&settings),
        head_fingerprint: None,
    })
}
