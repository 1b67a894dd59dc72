//! `wherefore train`.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;
use tempfile::TempDir;
use wherefore::factors::RefitOptions;
use wherefore::model::{self, Blueprint, DropoutRates, Problem, Shape, Trainee};
use wherefore::pipeline::{Rejections, Summary};
use wherefore::train::{
    self, EpochReport, Example, Labelled, Metric, Metrics, Schedule, TrainOptions, TrainPlan, Warmup,
};
use wherefore::{Error, Result};

use super::Outcome;
use super::arguments::{Common, Data};
use super::output::{Output, sibling};
use super::run_record::RunRecord;

/// Fine-tune a model, or refit its last layer.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Model directory, or org/name in the local Hugging Face cache; none with --vocabulary
    #[arg(long, value_name = "DIR", required_unless_present = "vocabulary")]
    model: Option<String>,
    #[command(flatten)]
    data: Data,
    /// Labelled data to be judged on after each epoch, with the columns of --data
    #[arg(long, value_name = "FILE", num_args = 1..)]
    dev: Vec<String>,
    /// Column of the records' weights [default: every record counts the same]
    #[arg(long, value_name = "NAME")]
    weight_column: Option<String>,
    /// The classes, in order [default: the model's own where it knows every label, else the data's]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    labels: Option<Vec<String>>,
    /// What the head learns: single-label, multi-label or regression [default: what the labels are]
    #[arg(long, value_name = "PROBLEM", value_parser = problem)]
    problem: Option<Problem>,
    /// Start from drawn parameters: only config.json and the tokenizer of --model are read
    #[arg(long)]
    scratch: bool,
    /// Start from nothing: a vocabulary of at most so many word pieces is made of the training texts, and a BERT of --shape is drawn
    #[arg(long, value_name = "PIECES", conflicts_with_all = ["model", "scratch", "head_only"])]
    vocabulary: Option<usize>,
    /// How large that is: LAYERSxHIDDEN, the hidden size a multiple of 32
    #[arg(long, value_name = "LxH", default_value_t = Shape::default(), requires = "vocabulary")]
    shape: Shape,
    /// Fit the last layer alone, to its optimum, over the features the model has
    #[arg(long, conflicts_with_all = ["epochs", "learning_rate", "dynamics", "resume"])]
    head_only: bool,
    /// With --head-only: λ of (1/N) Σ loss + (λ/2)‖[W;b]‖²
    #[arg(long, value_name = "LAMBDA", default_value_t = 1e-3, requires = "head_only")]
    penalty: f64,
    #[command(flatten)]
    optimiser: Optimiser,
    #[command(flatten)]
    keeping: Keeping,
}

/// How parameters are moved.
#[derive(Args)]
struct Optimiser {
    /// Times through the data
    #[arg(long, visible_alias = "num-train-epochs", value_name = "N", default_value_t = 3)]
    epochs: u32,
    /// The learning rate after the warm-up
    #[arg(long, value_name = "RATE", default_value_t = 5e-5)]
    learning_rate: f64,
    /// What the rate does after the warm-up: linear, cosine or constant
    #[arg(long, visible_alias = "lr-scheduler-type", value_name = "NAME", default_value = "linear")]
    schedule: Schedule,
    /// Steps of warm-up, or their share of all steps
    #[arg(long, value_name = "N|SHARE", default_value = "0")]
    warmup: Warmup,
    /// Records in a batch
    #[arg(long, visible_alias = "per-device-train-batch-size", value_name = "N", default_value_t = 32)]
    batch_size: usize,
    /// Batches whose gradients make one step
    #[arg(long, visible_alias = "gradient-accumulation-steps", value_name = "N", default_value_t = 1)]
    accumulate: usize,
    /// λ of AdamW, not on biases and normalisations
    #[arg(long, value_name = "LAMBDA", default_value_t = 0.01)]
    weight_decay: f64,
    /// Largest norm of a step's gradient; 0 is none
    #[arg(long, visible_alias = "max-grad-norm", value_name = "NORM", default_value_t = 1.0)]
    clip: f64,
    /// Share of numbers dropped, everywhere [default: as config.json has it]
    #[arg(long, value_name = "SHARE")]
    dropout: Option<f64>,
    /// Epochs without a better outcome on --dev after which it ends, and the best is kept
    #[arg(long, value_name = "N", requires = "dev")]
    patience: Option<u32>,
    /// What better means: accuracy, f1-macro, f1-micro or loss [default: accuracy; of a regression, loss]
    #[arg(long, value_name = "NAME")]
    metric: Option<Metric>,
}

/// What is kept on the way.
#[derive(Args)]
struct Keeping {
    /// Steps between two checkpoints, beside those after each epoch and on Ctrl-C
    #[arg(long, value_name = "STEPS")]
    checkpoint_every: Option<u64>,
    /// Go on from the checkpoint in OUT.training, if there is one
    #[arg(long)]
    resume: bool,
    /// Write over what is in OUT
    #[arg(long, visible_alias = "overwrite-output-dir")]
    overwrite: bool,
    /// Save the model after each epoch too, as DIR/epoch-001 and on: for `index --checkpoint`
    #[arg(long, value_name = "DIR")]
    save_epochs: Option<PathBuf>,
    /// Note every record's probability, margin and correctness in each epoch, for `audit`
    #[arg(long, value_name = "DIR")]
    dynamics: Option<PathBuf>,
}

fn problem(text: &str) -> Result<Problem> {
    match text {
        "single-label" => Ok(Problem::SingleLabel),
        "multi-label" => Ok(Problem::MultiLabel),
        "regression" => Ok(Problem::Regression),
        _ => Err(Error::usage(format!("problem: expected single-label, multi-label or regression, found \"{text}\""))),
    }
}

impl Arguments {
    fn options(&self, trainee: &Trainee, seed: u64) -> Result<TrainOptions> {
        let optimiser = &self.optimiser;
        Ok(TrainOptions {
            epochs: optimiser.epochs,
            learning_rate: optimiser.learning_rate,
            schedule: optimiser.schedule,
            warmup: optimiser.warmup,
            batch_size: optimiser.batch_size,
            accumulate: optimiser.accumulate,
            weight_decay: optimiser.weight_decay,
            clip: (optimiser.clip != 0.0).then_some(optimiser.clip),
            seed,
            dropout: optimiser.dropout.map_or(Ok(trainee.dropout()), DropoutRates::uniform)?,
            patience: optimiser.patience,
            metric: optimiser.metric,
            ..TrainOptions::default()
        })
    }

    fn read(&self, files: &[String], rejections: &mut Rejections) -> Result<Labelled> {
        let data = Data { files: files.to_vec(), ..self.data.clone() };
        let keep: Vec<String> = self.weight_column.iter().cloned().collect();
        Labelled::read(data.open_keeping(&keep)?, self.weight_column.as_deref(), rejections)
    }

    /// A configuration and a tokenizer made of the data, where that is asked for.
    fn found(&self, labelled: &Labelled) -> Result<Option<TempDir>> {
        let Some(vocabulary) = self.vocabulary else { return Ok(None) };
        let folder = tempfile::tempdir().map_err(Error::io(std::env::temp_dir()))?;
        let texts = labelled.records().flat_map(|record| [Some(record.text.as_str()), record.pair.as_deref()]);
        model::found(folder.path(), self.shape, vocabulary, texts.flatten())?;
        Ok(Some(folder))
    }

    /// Dev data have no weights.
    fn dev(&self, trainee: &Trainee, rejections: &mut Rejections) -> Result<Vec<Example>> {
        if self.dev.is_empty() {
            return Ok(Vec::new());
        }
        let data = Data { files: self.dev.clone(), ..self.data.clone() };
        Labelled::read(data.open()?, None, rejections)?.examples(trainee, rejections)
    }

    /// Refuses to write over what the user did not say.
    fn check_places(&self, out: &Path, checkpoints: &Path) -> Result<()> {
        let taken = |path: &Path| path.read_dir().is_ok_and(|mut entries| entries.next().is_some());
        if self.keeping.overwrite {
            return Ok(());
        }
        if out.exists() && (!out.is_dir() || taken(out)) {
            return Err(Error::usage(format!("{}: is there already", out.display()))
                .with_hint("name another place with --out, or write over it with --overwrite"));
        }
        if taken(checkpoints) && !self.keeping.resume {
            return Err(Error::usage(format!("{}: an interrupted training is there", checkpoints.display()))
                .with_hint("go on with it: --resume; or begin anew: --overwrite"));
        }
        Ok(())
    }
}

pub(crate) fn run(arguments: &Arguments, common: &Common) -> anyhow::Result<Outcome> {
    let began = std::time::Instant::now();
    let mut run = RunRecord::begin("train");
    let Some(out) = common.out.clone() else {
        return Err(Error::usage("a trained model needs a place").with_hint("name a directory: --out DIR").into());
    };
    let checkpoints = sibling(&out, "training");
    arguments.check_places(&out, &checkpoints)?;
    let output = Output::new(common, Some(&out));
    let mut rejections = output.rejections();
    let settings = common.settings()?;

    let labelled = arguments.read(&arguments.data.files, &mut rejections)?;
    // Lives as long as the training: what is saved takes the tokenizer from there.
    let founded = arguments.found(&labelled)?;
    let (start, scratch) = match (&founded, &arguments.model) {
        (Some(folder), _) => (folder.path().to_string_lossy().into_owned(), true),
        (None, model) => (model.clone().unwrap_or_default(), arguments.scratch),
    };
    let blueprint = Blueprint::read(&start, scratch)?;
    let head = train::plan_head(&labelled, arguments.labels.as_deref(), arguments.problem, blueprint.head())?;
    let mut trainee =
        blueprint.build_on(common.device.clone(), common.precision, head, common.seed, common.max_length)?;
    let examples = labelled.examples(&trainee, &mut rejections)?;
    let dev = arguments.dev(&trainee, &mut rejections)?;

    run.set(
        "model",
        json!({
            "path": arguments.model,
            "vocabulary": arguments.vocabulary,
            "shape": founded.as_ref().map(|_| arguments.shape.to_string()),
            "scratch": scratch,
            "new_head": trainee.has_new_head(),
        }),
    );
    run.set("labels", trainee.class_names().names().to_vec());
    run.set("records", json!({ "training": examples.len(), "dev": dev.len() }));
    let tell = Teller { quiet: common.quiet };
    let tokens = if arguments.head_only {
        let options = RefitOptions { penalty: arguments.penalty, ..RefitOptions::default() };
        let refit = train::train_head(&mut trainee, &examples, &options, settings.batch_tokens)?;
        let judged =
            (!dev.is_empty()).then(|| train::evaluate(&mut trainee, &dev, settings.batch_tokens)).transpose()?;
        tell.head(&refit, judged.as_ref());
        run.set("head", json!({ "penalty": arguments.penalty, "iterations": refit.iterations, "converged": refit.converged, "objective": refit.objective, "dev": judged }));
        examples.iter().map(|example| example.encoding.ids.len() as u64).sum()
    } else {
        let options = arguments.options(&trainee, common.seed)?;
        if !arguments.keeping.resume && checkpoints.exists() {
            train::forget(&checkpoints)?;
        }
        let plan = TrainPlan {
            checkpoints: Some(checkpoints.clone()),
            checkpoint_every: arguments.keeping.checkpoint_every,
            resume: arguments.keeping.resume,
            dynamics: arguments.keeping.dynamics.clone(),
            epochs: arguments.keeping.save_epochs.clone(),
            batch_tokens: settings.batch_tokens,
            quiet: common.quiet,
        };
        let outcome = train::train(&mut trainee, &examples, &dev, &options, &plan, &mut |report| {
            tell.epoch(report);
            Ok(())
        })?;
        run.set("options", serde_json::to_value(&options)?);
        run.set("epochs", serde_json::to_value(&outcome.epochs)?);
        run.set("kept_epoch", outcome.kept);
        outcome.tokens
    };
    trainee.save(&out)?;
    train::forget(&checkpoints)?;
    let summary = Summary {
        numbered: examples.len() as u64 + dev.len() as u64 + rejections.count(),
        records: examples.len() as u64,
        skipped: rejections.count(),
        tokens,
        truncated: examples.iter().filter(|example| example.encoding.truncated).count() as u64,
        seconds: began.elapsed().as_secs_f64(),
        ..Summary::default()
    };
    output.finish("trained on", &summary, rejections, run)
}

/// Tells on standard error what became of each epoch.
struct Teller {
    quiet: bool,
}

impl Teller {
    fn epoch(&self, report: &EpochReport) {
        let dev = report.dev.as_ref().map_or_else(String::new, |dev| format!("  dev {}", worth(dev)));
        self.line(&format!("epoch {}  loss {:.4}{dev}", report.epoch, report.loss));
    }

    fn head(&self, refit: &wherefore::factors::Refit, dev: Option<&Metrics>) {
        let end = if refit.converged { "" } else { ", not converged" };
        let dev = dev.map_or_else(String::new, |dev| format!("  dev {}", worth(dev)));
        self.line(&format!("head  objective {:.4} after {} steps{end}{dev}", refit.objective, refit.iterations));
    }

    #[expect(clippy::print_stderr, reason = "messages go to standard error")]
    fn line(&self, line: &str) {
        if !self.quiet {
            eprintln!("{line}");
        }
    }
}

fn worth(metrics: &Metrics) -> String {
    let named = [("accuracy", metrics.accuracy), ("f1-macro", metrics.f1_macro), ("pearson", metrics.pearson)];
    let shown = named.iter().filter_map(|(name, value)| value.map(|value| format!("  {name} {value:.4}")));
    format!("loss {:.4}{}", metrics.loss, shown.collect::<String>())
}
