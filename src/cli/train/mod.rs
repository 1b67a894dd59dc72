//! `wherefore train`.

mod job;
mod options;
mod teller;

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;
use tempfile::TempDir;
use wherefore::dataset;
use wherefore::factors::RefitOptions;
use wherefore::model::{self, Blueprint, DropoutRates, HeadPlan, Problem, Shape, Trainee};
use wherefore::pipeline::{Rejections, Settings, Summary};
use wherefore::task::{Scoring, SelectorSettings};
use wherefore::train::{
    self, Example, Labelled, Material, RATE_FROM_NOTHING, StateFolder, TokenExample, TokenOptions, TrainOptions,
    TrainPlan,
};
use wherefore::{Error, Result};

use self::job::Job;
use self::options::{Keeping, Optimiser};
use self::teller::Teller;
use super::Outcome;
use super::arguments::{Common, Data};
use super::output::{Output, sibling};
use super::run_record::RunRecord;

/// What a fit of the last layer alone has no use for.
const WHOLE: [&str; 19] = [
    "vocabulary",
    "rationale_column",
    "rationale_weight",
    "epochs",
    "learning_rate",
    "schedule",
    "warmup",
    "batch_size",
    "accumulate",
    "weight_decay",
    "clip",
    "dropout",
    "patience",
    "metric",
    "checkpoint_every",
    "resume",
    "save_epochs",
    "keep_moments",
    "dynamics",
];

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
    /// Column of the words that people marked, which first tokens' attention in the last layer is drawn to: [[start,
    /// end], …] in characters, or 0 and 1 a word
    #[arg(long, value_name = "NAME")]
    rationale_column: Option<String>,
    /// What that counts in the loss
    #[arg(long, value_name = "WEIGHT", default_value_t = 0.01, requires = "rationale_column")]
    rationale_weight: f64,
    /// The classes, in order [default: the model's own where it knows every label, else the data's]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    labels: Option<Vec<String>>,
    /// What is learnt: classification (or regression), answers, tags, masks, or a selector of sentences for `select`
    /// [default: what the columns of --data are]
    #[arg(long, value_name = "TASK")]
    task: Option<Job>,
    #[command(flatten)]
    spans: Windows,
    /// What the head learns: single-label, multi-label or regression [default: what the labels are]
    #[arg(long, value_name = "PROBLEM", value_parser = problem)]
    problem: Option<Problem>,
    /// Start from drawn parameters: only config.json and the tokenizer of --model are read
    #[arg(long)]
    scratch: bool,
    /// Start from nothing: a vocabulary of at most so many word pieces is made of the training texts, and a BERT of
    /// --shape is drawn
    #[arg(long, value_name = "PIECES", conflicts_with_all = ["model", "scratch"])]
    vocabulary: Option<usize>,
    /// How large that is: LAYERSxHIDDEN, the hidden size a multiple of 32
    // What --model rules out is not asked for beside it: so it is ruled out here, too.
    #[arg(long, value_name = "LxH", default_value_t = Shape::default(), requires = "vocabulary", conflicts_with = "model")]
    shape: Shape,
    /// Fit the last layer alone, to its optimum, over the features the model has
    #[arg(long, conflicts_with_all = WHOLE)]
    head_only: bool,
    /// With --head-only: λ of (1/N) Σ loss + (λ/2)‖[W;b]‖²
    #[arg(long, value_name = "LAMBDA", default_value_t = 1e-3, requires = "head_only", conflicts_with_all = WHOLE)]
    penalty: f64,
    #[command(flatten)]
    optimiser: Optimiser,
    #[command(flatten)]
    keeping: Keeping,
}

/// How contexts are read.
#[derive(Args)]
struct Windows {
    /// Answers and tags: tokens that neighbouring windows of a long context or text share, half a window where there is
    /// no room for so many
    #[arg(long, value_name = "N", default_value_t = 128)]
    stride: usize,
    /// Answers: how exact match and F1 are counted: english (SQuAD), chinese (CMRC, DuReader), or auto
    #[arg(long, value_name = "WAY", default_value = "auto")]
    scoring: Scoring,
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
    fn default_rate(&self) -> f64 {
        if self.scratch || self.vocabulary.is_some() {
            RATE_FROM_NOTHING
        } else {
            TrainOptions::default().learning_rate
        }
    }

    fn options(&self, trainee: &Trainee, seed: u64) -> Result<TrainOptions> {
        let optimiser = &self.optimiser;
        Ok(TrainOptions {
            epochs: optimiser.epochs,
            learning_rate: optimiser.learning_rate.unwrap_or(self.default_rate()),
            schedule: optimiser.schedule,
            warmup: optimiser.warmup,
            batch_size: optimiser.batch_size,
            accumulate: optimiser.accumulate,
            weight_decay: optimiser.weight_decay,
            clip: (optimiser.clip != 0.0).then_some(optimiser.clip),
            seed,
            dropout: optimiser.dropout.map_or(Ok(trainee.dropout()), DropoutRates::uniform)?,
            patience: optimiser.patience,
            rationale_weight: self.rationale_weight,
            metric: optimiser.metric,
            ..TrainOptions::default()
        })
    }

    /// What is to be learnt: as said, or what the data plainly are.
    fn job(&self) -> Job {
        self.task.unwrap_or_else(|| match dataset::Shape::of(&self.data.options(dataset::Shape::Texts, &[])) {
            dataset::Shape::Texts => Job::Classification,
            dataset::Shape::Questions => Job::Answers,
            dataset::Shape::Words => Job::Tags,
        })
    }

    /// The training data, or the dev data, which have neither weights nor rationales.
    fn read(&self, job: Job, files: &[String], weighted: bool, rejections: &mut Rejections) -> Result<Labelled> {
        let data = Data { files: files.to_vec(), ..self.data.clone() };
        let weights = self.weight_column.as_deref().filter(|_| weighted);
        let rationales = self.rationale_column.as_deref().filter(|_| weighted);
        let keep: Vec<String> = weights.iter().chain(&rationales).map(|&name| name.to_owned()).collect();
        let dataset = data.open_as(job.shape(), &keep)?;
        Ok(Labelled::read_for(job.task(), dataset, weights, rejections)?.with_rationales(rationales))
    }

    /// What head the model is to have.
    fn head(&self, job: Job, labelled: &Labelled, own: Option<&HeadPlan>) -> Result<HeadPlan> {
        let names = self.labels.as_deref();
        let refuse = |flag: &str| Err(Error::usage(format!("{flag}: not for --task {job}")));
        match job {
            Job::Classification => train::plan_head(labelled, names, self.problem, own),
            _ if self.rationale_column.is_some() => refuse("--rationale-column"),
            _ if self.problem.is_some() => refuse("--problem"),
            _ if self.head_only => refuse("--head-only"),
            Job::Tags => train::plan_tags(labelled, names, own),
            _ if names.is_some() => refuse("--labels"),
            Job::Answers | Job::Masks => Ok(HeadPlan::for_task(job.task())),
            Job::Selector => {
                let names = SelectorSettings::CLASSES.map(str::to_owned).to_vec();
                Ok(HeadPlan { names, problem: Problem::SingleLabel })
            }
        }
    }

    /// What is learnt from, and judged on.
    fn token_material(
        &self,
        job: Job,
        labelled: Labelled,
        trainee: &Trainee,
        rejections: &mut Rejections,
    ) -> Result<[Vec<TokenExample>; 2]> {
        let markers = (job == Job::Selector).then(|| SelectorSettings::default().markers);
        let options = TokenOptions { stride: self.spans.stride, scoring: self.spans.scoring, markers };
        let examples = labelled.token_examples(trainee, &options, rejections)?;
        let dev = match &self.dev[..] {
            [] => Vec::new(),
            files => self.read(job, files, false, rejections)?.token_examples(trainee, &options, rejections)?,
        };
        Ok([examples, dev])
    }

    /// A configuration and a tokenizer made of the data, where that is asked for.
    fn found(&self, labelled: &Labelled) -> Result<Option<TempDir>> {
        let Some(vocabulary) = self.vocabulary else { return Ok(None) };
        let folder = tempfile::tempdir().map_err(Error::io(std::env::temp_dir()))?;
        let texts = labelled.records().flat_map(|record| [Some(record.text.as_str()), record.pair.as_deref()]);
        model::write_untrained(folder.path(), self.shape, vocabulary, texts.flatten())?;
        Ok(Some(folder))
    }

    fn material(
        &self,
        labelled: Labelled,
        trainee: &Trainee,
        rejections: &mut Rejections,
    ) -> Result<[Vec<Example>; 2]> {
        let examples = labelled.examples(trainee, rejections)?;
        let dev = match &self.dev[..] {
            [] => Vec::new(),
            files => self.read(Job::Classification, files, false, rejections)?.examples(trainee, rejections)?,
        };
        Ok([examples, dev])
    }

    /// Refuses to write over what the user did not say.
    fn check_places(&self, out: &Path, checkpoints: &Path, state: &StateFolder) -> Result<()> {
        let Keeping { overwrite, resume, save_epochs, dynamics, .. } = &self.keeping;
        if *overwrite {
            return Ok(());
        }
        let goes_on = state.has_state();
        let refuse = |place: &Path, flag: &str| {
            Err(Error::usage(format!("{}: is there already", place.display()))
                .with_hint(format!("name another place with {flag}, or write over it with --overwrite")))
        };
        if train::is_taken(out) {
            return refuse(out, "--out");
        }
        if state.has_state() && !resume {
            return Err(Error::usage(format!("{}: an interrupted training is there", checkpoints.display()))
                .with_hint("go on with it: --resume; or begin anew: --overwrite"));
        }
        // What it left before it had a state is its own.
        let is_own = |place: &Path| *resume && state.has_place(place);
        if let Some(place) = save_epochs
            && train::is_taken(place)
            && !is_own(place)
            && !(goes_on && place.join("epoch-001").exists())
        {
            return refuse(place, "--save-epochs");
        }
        // A training that ended before its first epoch did leaves the names of its records.
        if let Some(place) = dynamics
            && train::is_taken(place)
            && !is_own(place)
            && !train::DynamicsWriter::finished(place).is_some_and(|epochs| goes_on || epochs == 0)
        {
            return refuse(place, "--dynamics");
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
    let state = StateFolder::claim(&checkpoints)?;
    arguments.check_places(&out, &checkpoints, &state)?;
    let output = Output::new(common, Some(&out));
    let mut rejections = output.rejections();

    let job = arguments.job();
    let labelled = arguments.read(job, &arguments.data.files, true, &mut rejections)?;
    // Lives as long as the training: what is saved takes the tokenizer from there.
    let founded = arguments.found(&labelled)?;
    let (start, scratch) = match (&founded, &arguments.model) {
        (Some(folder), _) => (folder.path().to_string_lossy().into_owned(), true),
        (None, model) => (model.clone().unwrap_or_default(), arguments.scratch),
    };
    let mut blueprint = Blueprint::read(&start, scratch)?.for_task(job.task())?;
    let selector = SelectorSettings::default();
    if job == Job::Selector {
        blueprint = blueprint.with_tokens(&selector.markers)?;
    }
    let head = arguments.head(job, &labelled, blueprint.head())?;
    let mut trainee =
        blueprint.build_on(common.device.clone(), common.precision, head, common.seed, common.max_length)?;
    if job == Job::Selector {
        trainee.save_beside(SelectorSettings::FILE, format!("{:#}\n", json!(selector)));
    }
    run.set(
        "model",
        json!({
            "path": arguments.model,
            "vocabulary": arguments.vocabulary,
            "shape": founded.as_ref().map(|_| arguments.shape.to_string()),
            "scratch": scratch,
            "new_head": trainee.has_new_head(),
            "fingerprint": trainee.start_fingerprint(),
        }),
    );
    run.set("task", job.to_string());
    run.set("labels", trainee.class_names().names().to_vec());
    let settings = common.settings();
    let mut fit = Fit { arguments, common, settings, checkpoints: &checkpoints, state: &state, run: &mut run };
    let summary = match job {
        Job::Classification => {
            let [examples, dev] = arguments.material(labelled, &trainee, &mut rejections)?;
            Teller { quiet: common.quiet }.unseen(&trainee, &examples);
            if arguments.head_only {
                fit.head(&mut trainee, &examples, &dev)?
            } else {
                fit.whole(&mut trainee, &examples, &dev)?
            }
        }
        Job::Answers | Job::Tags | Job::Masks | Job::Selector => {
            let [examples, dev] = arguments.token_material(job, labelled, &trainee, &mut rejections)?;
            fit.whole(&mut trainee, &examples, &dev)?
        }
    };
    trainee.save(&out)?;
    train::remove_state(&checkpoints)?;
    let summary = Summary {
        numbered: summary.numbered + rejections.count(),
        skipped: rejections.count(),
        seconds: began.elapsed().as_secs_f64(),
        ..summary
    };
    output.finish("trained on", &summary, rejections, run)
}

/// How a trainee is fitted to what there is to learn.
struct Fit<'a> {
    arguments: &'a Arguments,
    common: &'a Common,
    settings: Settings,
    checkpoints: &'a Path,
    state: &'a StateFolder,
    run: &'a mut RunRecord,
}

impl Fit<'_> {
    /// The last layer alone.
    fn head(&mut self, trainee: &mut Trainee, examples: &[Example], dev: &[Example]) -> Result<Summary> {
        let penalty = self.arguments.penalty;
        let options = RefitOptions { penalty, ..RefitOptions::default() };
        let refit = train::train_head(trainee, examples, &options, self.settings.batch_tokens)?;
        let judged =
            (!dev.is_empty()).then(|| train::evaluate(trainee, dev, self.settings.batch_tokens)).transpose()?;
        Teller { quiet: self.common.quiet }.head(&refit, judged.as_ref());
        self.run.set("head", json!({ "penalty": penalty, "iterations": refit.iterations, "converged": refit.converged, "objective": refit.objective, "dev": judged }));
        let tokens = examples.iter().map(|example| example.encoding.ids.len() as u64).sum();
        Ok(self.summary(examples, dev, tokens))
    }

    /// Every parameter.
    fn whole<M: Material>(&mut self, trainee: &mut Trainee, examples: &[M], dev: &[M]) -> Result<Summary> {
        let keeping = &self.arguments.keeping;
        let options = self.arguments.options(trainee, self.common.seed)?;
        // What was refused until here has touched nothing.
        if !keeping.resume {
            train::remove_state(self.checkpoints)?;
        }
        let places = [&keeping.save_epochs, &keeping.dynamics].into_iter().flatten();
        self.state.note_places(&places.map(PathBuf::as_path).collect::<Vec<_>>())?;
        let plan = TrainPlan {
            checkpoints: Some(self.checkpoints.to_owned()),
            checkpoint_every: keeping.checkpoint_every,
            resume: keeping.resume,
            dynamics: keeping.dynamics.clone(),
            epochs: keeping.save_epochs.clone(),
            keep_moments: keeping.keep_moments,
            batch_tokens: self.settings.batch_tokens,
            quiet: self.common.quiet,
        };
        let tell = Teller { quiet: self.common.quiet };
        let outcome = train::train(trainee, examples, dev, &options, &plan, &mut |report| {
            tell.epoch(report);
            Ok(())
        })?;
        self.run.set("options", serde_json::to_value(&options).unwrap_or_default());
        self.run.set("epochs", serde_json::to_value(&outcome.epochs).unwrap_or_default());
        self.run.set("kept_epoch", outcome.kept);
        Ok(self.summary(examples, dev, outcome.tokens))
    }

    fn summary<M: Material>(&mut self, examples: &[M], dev: &[M], tokens: u64) -> Summary {
        let [training, judged] = [examples, dev].map(records);
        let mut counts = json!({ "training": training, "dev": judged });
        if training != examples.len() as u64 {
            counts["windows"] = json!(examples.len());
        }
        self.run.set("records", counts);
        let once: usize = examples.iter().map(|example| example.encoding().ids.len()).sum();
        Summary {
            numbered: training + judged,
            records: training,
            passes: Some(tokens as f64 / once.max(1) as f64),
            tokens,
            truncated: examples.iter().filter(|example| example.encoding().truncated).count() as u64,
            ..Summary::default()
        }
    }
}

/// How many records these are of: windows of one are one after the other.
fn records<M: Material>(examples: &[M]) -> u64 {
    examples.chunk_by(|a, b| a.name().0 == b.name().0).count() as u64
}
