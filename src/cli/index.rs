//! `wherefore index`.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde::Serialize;
use wherefore::dataset::Dataset;
use wherefore::factors::{LabelUsed, ScanType};
use wherefore::model::{AdamMoments, DEFAULT_DIMENSION, GradientsOf, Model, Projection, ProjectionKind, Task};
use wherefore::pipeline::{
    self, Checkpoint, GivenFactors, GivenFile, IndexOptions, Rejections, Summary, load_recorded,
};
use wherefore::store::{self, DEFAULT_BLOCK_RECORDS, Dtype, Info, Part};
use wherefore::{Error, Result};

use super::Outcome;
use super::arguments::{Common, Data, from_one, shape_of};
use super::output::{Output, print, record_beside};
use super::run_record::{RunRecord, is_given};

/// One pass over the training data into a store of factors.
#[derive(Args, Clone)]
#[allow(clippy::struct_excessive_bools)] // each a flag of its own
pub(crate) struct Arguments {
    /// Model directory, or org/name in the local Hugging Face cache
    #[arg(long, value_name = "DIR", required_unless_present_any = ["from_factors", "append"])]
    model: Option<String>,
    #[command(flatten)]
    data: Data,
    /// The store to make, or to add to
    #[arg(long, value_name = "DIR")]
    store: PathBuf,
    /// The label whose loss is explained; gold is the predicted one where a record has none
    #[arg(long, value_enum, default_value_t = Target::Gold)]
    target: Target,
    /// How features are stored and scored
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    dtype: Precision,
    /// Also keep a copy of the features in fewer bits: searches scan that, certify what may belong to the answer, and
    /// compute those from the features themselves; results are the same to the bit
    #[arg(long, value_enum, value_name = "TYPE")]
    scan: Option<Scan>,
    /// Job I of N, I from 0: takes every N-th block of the data (put together by `merge`)
    #[arg(long, value_name = "I/N")]
    shard: Option<Part>,
    /// Go on where an interrupted job stopped
    #[arg(long)]
    resume: bool,
    /// Add the data to the finished store that is there, by its model and settings; their numbers go on where those of
    /// the store end
    #[arg(long, conflicts_with = "resume")]
    append: bool,
    /// Only tell what the run would take: records, tokens, disk, memory and time, measured on a sample (exit code 2
    /// where it would not fit)
    #[arg(long)]
    dry_run: bool,
    /// Factors that another program made, of any model, instead of a model's own: .safetensors with features [N, E],
    /// logits [N, K] and labels [N], a directory of such .npy files, or .parquet or .jsonl with a record a row; --data
    /// gives arrays their texts
    #[arg(long, value_name = "FILE", conflicts_with_all = ["model", "append", "dry_run", "checkpoint", "keep_column"])]
    from_factors: Option<PathBuf>,
    /// The classes' names, in order, for --from-factors
    #[arg(long, value_name = "NAMES", value_delimiter = ',', requires = "from_factors")]
    label_names: Option<Vec<String>>,
    /// For rules tracin and less: an earlier checkpoint of the training, and the learning rate there, which the
    /// run.json of `train` has of each epoch (repeatable)
    #[arg(long, value_name = "DIR[:RATE]")]
    checkpoint: Vec<String>,
    /// For rule less: keep checkpoints' gradients as AdamW would follow them, by the moments that `train
    /// --keep-moments` left beside their weights
    #[arg(long, requires = "checkpoint")]
    adam: bool,
    /// A further column to keep beside each record, to filter and group searches by (repeatable)
    #[arg(long, value_name = "NAME")]
    keep_column: Vec<String>,
    /// What of each record is kept: the factors of the last layer's gradient, or the gradients of all linear layers,
    /// projected (rules projected-dot, projected-cos, trak, tracin, less and influence)
    #[arg(long, value_enum, default_value_t = Gradients::LastLayer)]
    gradients: Gradients,
    /// With --gradients projected: numbers kept of a record, over all layers
    #[arg(long, value_name = "K", default_value_t = DEFAULT_DIMENSION)]
    projection_dim: usize,
    /// With --gradients projected: numbers kept of each layer, where they are not to be shared out over all
    #[arg(long, value_name = "K", conflicts_with = "projection_dim")]
    layer_dim: Option<usize>,
    /// With --gradients projected: rademacher, gaussian, sjlt (sparse: as exact, and costs no more for a larger
    /// K), or identity (the gradients themselves, for small models)
    #[arg(long, value_name = "KIND", default_value_t)]
    projection: ProjectionKind,
    /// With --gradients projected: whose, linear (weights and biases of linear layers) or all (normalisations and
    /// embeddings too)
    #[arg(long, value_name = "WHICH", default_value_t)]
    parameters: GradientsOf,
    /// A masked-language model: index what stands behind masks (the pieces in the label column; the likeliest where
    /// there is none), with its own head, not as an encoder
    #[arg(long, conflicts_with = "from_factors")]
    masks: bool,
    /// Models of answers and tags: tokens that neighbouring windows of a long context or text share, half a window
    /// where there is no room for so many
    #[arg(long, value_name = "N", default_value_t = 128)]
    stride: usize,
    /// Models that answer questions: tokens of a predicted answer, at most
    #[arg(long, value_name = "N", value_parser = from_one, default_value_t = 30)]
    max_answer_tokens: usize,
    /// Records in a block: what a job can lose, and what --shard deals out
    #[arg(long, value_name = "N", default_value_t = DEFAULT_BLOCK_RECORDS)]
    block_records: u64,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Gradients {
    LastLayer,
    Projected,
}

#[derive(Clone, Copy, ValueEnum)]
enum Target {
    Gold,
    Predicted,
}

#[derive(Clone, Copy, ValueEnum)]
enum Scan {
    F16,
    Bf16,
    Int8,
}

#[derive(Clone, Copy, ValueEnum)]
enum Precision {
    F32,
    F16,
    Bf16,
    Int8,
}

impl Arguments {
    pub(crate) fn is_dry_run(&self) -> bool {
        self.dry_run
    }

    fn options(&self, common: &Common) -> Result<IndexOptions> {
        let target = match self.target {
            Target::Gold => LabelUsed::Gold,
            Target::Predicted => LabelUsed::Predicted,
        };
        let dtype = match self.dtype {
            Precision::F32 => Dtype::F32,
            Precision::F16 => Dtype::F16,
            Precision::Bf16 => Dtype::Bf16,
            Precision::Int8 => Dtype::Int8,
        };
        if self.block_records == 0 {
            return Err(Error::usage("--block-records: expected at least 1, found 0"));
        }
        let checkpoints = self.checkpoint.iter().map(|text| self.checkpoint(text, common)).collect::<Result<_>>()?;
        let scan = self.scan.map(|scan| match scan {
            Scan::F16 => ScanType::F16,
            Scan::Bf16 => ScanType::Bf16,
            Scan::Int8 => ScanType::Int8,
        });
        let part = self.shard.unwrap_or(Part::WHOLE);
        Ok(IndexOptions {
            target,
            dtype,
            part,
            scan,
            resume: self.resume,
            append: self.append,
            block_records: self.block_records,
            checkpoints,
            gradients: self.projection(common.seed)?,
            stride: self.stride,
            max_answer_tokens: self.max_answer_tokens,
        })
    }
}

/// Numbers that are kept of a record's gradient, at most: 4 MB.
const MOST_DIMENSIONS: usize = 1 << 20;

impl Arguments {
    /// The model: where data are added, the store's, unless another place is named.
    fn load(&self, kept: Option<&Info>, common: &Common) -> Result<Model> {
        match (kept, self.model.as_deref()) {
            (Some(kept), named) if !kept.settings.is_given() => {
                let recorded = store::find_path(&kept.directory, &kept.settings.model);
                load_recorded(&kept.settings, &recorded, named, &common.device, &common.load_options())
            }
            (_, Some(named)) => common.load_as(named, self.masks),
            (_, None) => Err(Error::usage(format!(
                "{}: its factors were made elsewhere, and data are added by a model",
                self.store.display()
            ))),
        }
    }

    /// `DIR` or `DIR:RATE`; a directory may have a colon in its name where what follows is no number.
    fn checkpoint(&self, text: &str, common: &Common) -> Result<Checkpoint> {
        let split = text.rsplit_once(':').and_then(|(dir, rate)| Some((dir, rate.parse().ok()?)));
        let (dir, learning_rate) = split.unwrap_or((text, 1.0));
        let model = common.load_as(dir, self.masks)?;
        let moments = self.adam.then(|| AdamMoments::read(&model, self.parameters)).transpose()?;
        Ok(Checkpoint { model, learning_rate, moments })
    }

    fn projection(&self, seed: u64) -> Result<Option<Projection>> {
        if self.gradients == Gradients::LastLayer {
            return Ok(None);
        }
        let dimension = self.layer_dim.unwrap_or(self.projection_dim);
        if !(1..=MOST_DIMENSIONS).contains(&dimension) {
            let option = if self.layer_dim.is_some() { "--layer-dim" } else { "--projection-dim" };
            return Err(Error::usage(format!("{option}: expected 1 to {MOST_DIMENSIONS}, found {dimension}")));
        }
        if self.from_factors.is_some() {
            return Err(Error::usage("--gradients projected needs a model to go back through, not --from-factors"));
        }
        Ok(Some(Projection {
            kind: self.projection,
            dimension,
            per_layer: self.layer_dim.is_some(),
            seed,
            parameters: self.parameters,
        }))
    }

    /// What is left open of data that are added is as the store has it.
    fn take_over(
        &self,
        (options, columns): (&mut IndexOptions, &mut Vec<String>),
        kept: &Info,
        common: &Common,
        run: &mut RunRecord,
    ) -> Result<()> {
        let settings = &kept.settings;
        leave(run, "shard", &mut options.part, &kept.part);
        leave(run, "target", &mut options.target, &settings.target);
        leave(run, "dtype", &mut options.dtype, &settings.dtype);
        leave(run, "scan", &mut options.scan, &settings.scan);
        leave(run, "block-records", &mut options.block_records, &settings.block_records);
        leave(run, "keep-column", columns, &settings.columns);
        if let Some(tokens) = &settings.tokens {
            leave(run, "stride", &mut options.stride, &tokens.stride);
            leave(run, "max-answer-tokens", &mut options.max_answer_tokens, &tokens.max_answer_tokens);
        }
        if let (Some(kept), true) = (&settings.gradients, !is_given("gradients") || options.gradients.is_some()) {
            let own = Self { gradients: Gradients::Projected, ..self.clone() }.projection(common.seed)?;
            let mut projection = own.unwrap_or(*kept);
            leave(run, "projection", &mut projection.kind, &kept.kind);
            leave(run, "parameters", &mut projection.parameters, &kept.parameters);
            leave(run, "seed", &mut projection.seed, &kept.seed);
            if !is_given("projection-dim") && !is_given("layer-dim") {
                let name = if kept.per_layer { "layer-dim" } else { "projection-dim" };
                leave(run, name, &mut projection.dimension, &kept.dimension);
                projection.per_layer = kept.per_layer;
            }
            options.gradients = Some(projection);
            run.resolve("gradients", "projected");
        }
        if !is_given("checkpoint") {
            let of = options.gradients.map(|projection| projection.parameters).unwrap_or_default();
            let checkpoint = |noted: &store::Checkpoint| {
                let path = store::find_path(&kept.directory, &noted.path);
                let model = load_recorded(settings, &path, None, &common.device, &common.load_options())?;
                let moments = noted.moments.as_ref().map(|_| AdamMoments::read(&model, of)).transpose()?;
                Ok(Checkpoint { model, learning_rate: noted.learning_rate, moments })
            };
            options.checkpoints = settings.checkpoints.iter().map(checkpoint).collect::<Result<_>>()?;
        }
        Ok(())
    }
}

/// Takes a setting from the store where it is left open.
fn leave<T: Clone + Serialize>(run: &mut RunRecord, name: &str, value: &mut T, kept: &T) {
    if !is_given(name) {
        value.clone_from(kept);
        run.resolve(name, serde_json::to_value(kept).unwrap_or_default());
    }
}

/// Data are added in the precision that their store was computed in, unless another is named.
fn by_precision_of(kept: Option<&Info>, common: &Common) -> Common {
    let precision = kept.and_then(|kept| kept.settings.precision).filter(|_| !is_given("precision"));
    Common { precision: precision.unwrap_or(common.precision), ..common.clone() }
}

pub(crate) fn run(arguments: &Arguments, common: &Common) -> anyhow::Result<Outcome> {
    let mut run = RunRecord::begin("index");
    if let Some(file) = &arguments.from_factors {
        return index_given(arguments, file, common, run);
    }
    let kept = arguments.append.then(|| store::info(&arguments.store)).transpose()?;
    let common = &by_precision_of(kept.as_ref(), common);
    let model = arguments.load(kept.as_ref(), common)?;
    run.model(&model);
    if arguments.masks && model.task() != Task::Masks {
        return Err(Error::usage(format!("--masks: {} is no masked-language model", model.name())).into());
    }
    let (mut options, mut columns) = (arguments.options(common)?, arguments.keep_column.clone());
    if let Some(kept) = &kept {
        arguments.take_over((&mut options, &mut columns), kept, common, &mut run)?;
    }
    let dataset = arguments.data.open_as(shape_of(&model), &columns)?;
    run.set("part", options.part.to_string());
    if arguments.dry_run {
        model.expect_record_task("--dry-run")?;
        return dry_run(arguments, (&model, dataset), &options, common, run);
    }
    check_out(common)?;
    let output = Output::new(common, Some(&arguments.store));
    let mut rejections = output.rejections();
    let settings = common.settings();
    let summary = pipeline::index(&model, dataset, &arguments.store, &options, &settings, &mut rejections)?;
    run.overflows(&model);
    let outcome = output.finish("indexed", &summary, rejections, run)?;
    if !common.quiet && summary.records > 0 {
        tell_stages(&summary);
    }
    Ok(outcome)
}

/// Refuses a place for results that would stay empty.
fn check_out(common: &Common) -> Result<()> {
    match &common.out {
        Some(out) => Err(Error::usage(format!("--out {}: what is made is the store, at --store", out.display()))
            .with_hint("leave --out out; with --dry-run it takes the report")),
        None => Ok(()),
    }
}

/// Stores factors that were made elsewhere.
fn index_given(arguments: &Arguments, file: &Path, common: &Common, mut run: RunRecord) -> anyhow::Result<Outcome> {
    check_out(common)?;
    let options = arguments.options(common)?;
    run.set("part", options.part.to_string());
    let output = Output::new(common, Some(&arguments.store));
    let mut rejections = output.rejections();
    let given = GivenFactors {
        file: &GivenFile(file.to_owned()),
        texts: arguments.data.open_if_any()?,
        label_names: arguments.label_names.clone(),
    };
    let summary = pipeline::index_given(given, &arguments.store, &options, common.quiet, &mut rejections)?;
    output.finish("stored", &summary, rejections, run)
}

fn tell_stages(summary: &Summary) {
    say_line!("{}", summary.stages.occupancy(summary.seconds));
}

fn dry_run(
    arguments: &Arguments,
    (model, dataset): (&Model, Dataset),
    options: &IndexOptions,
    common: &Common,
    run: RunRecord,
) -> anyhow::Result<Outcome> {
    let mut rejections = Rejections::new(common.skip_invalid, None);
    let plan = pipeline::plan(model, dataset, &arguments.store, options, &common.settings(), &mut rejections)?;
    print(common, [&plan], &plan)?;
    record_beside(common, run, &Summary { skipped: rejections.count(), ..Summary::default() });
    plan.check()?;
    Ok(if rejections.finish()? == 0 { Outcome::Done } else { Outcome::Skipped })
}
