//! Arguments that several commands share, and what they mean.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;
use wherefore::backend::Precision;
use wherefore::backend::gpu::Gpu;
use wherefore::dataset::{Dataset, DatasetOptions, Shape};
use wherefore::model::{Device, LoadOptions, Model, Task};
use wherefore::pipeline::{ExportFormat, Settings};
use wherefore::report::Format;
use wherefore::{Error, Result};

use super::run_record::{self, RunRecord};

/// More threads than this are taken for a slip: they would only wait for each other.
const MOST_THREADS: usize = 1024;

/// What every command takes.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Common {
    /// Where to compute: auto, cpu, cuda, cuda:N, or GPUs together: cuda:0,1 or cuda:all
    #[arg(long, global = true, default_value = "auto", value_name = "DEVICE")]
    pub(crate) device: Device,
    /// Arithmetic: auto, f32, bf16x3, f16 or bf16 (the CPU has f32 and bf16)
    #[arg(long, global = true, default_value = "auto", value_name = "PRECISION")]
    pub(crate) precision: Precision,
    /// Tokens in one packed batch [default: what suits the device]
    #[arg(long, global = true, value_name = "N", value_parser = from_one)]
    pub(crate) batch_tokens: Option<usize>,
    /// CPU threads [default: all]
    #[arg(long, global = true, value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// Longest input in tokens [default: the model's]
    #[arg(long, global = true, value_name = "N", value_parser = from_one)]
    pub(crate) max_length: Option<usize>,
    /// Where results go [default: standard output; export, train and improve need a place]
    #[arg(long, short, global = true, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// jsonl, parquet or text; of export parquet, jsonl, npy or faiss [default: by --out's extension; else text on a
    /// terminal, jsonl in a pipe]
    #[arg(long, global = true)]
    pub(crate) format: Option<FormatName>,
    /// No progress bars and no messages but errors
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
    /// Seed of everything that is drawn
    #[arg(long, global = true, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Skip records that cannot be used (exit code 1; each is listed in OUT.rejected.jsonl)
    #[arg(long, global = true)]
    pub(crate) skip_invalid: bool,
    /// Take arguments from this TOML file; those on the command line win
    #[arg(long, global = true, value_name = "FILE.toml")]
    pub(crate) config: Option<PathBuf>,
}

impl Common {
    /// Sizes the thread pool.
    pub(crate) fn set_up_threads(&self) -> Result<()> {
        let Some(threads) = self.threads else { return Ok(()) };
        if !(1..=MOST_THREADS).contains(&threads) {
            return Err(Error::usage(format!("--threads: expected 1 to {MOST_THREADS}, found {threads}")));
        }
        rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().map_err(|e| Error::usage(e.to_string()))
    }

    /// The GPUs chosen, for work without a model; none where the CPU is.
    pub(crate) fn gpus(&self) -> Result<Vec<Gpu>> {
        self.device.gpus(self.precision)
    }

    /// Loads a model onto the chosen device.
    pub(crate) fn load(&self, model: &str) -> Result<Model> {
        self.load_as(model, false)
    }

    /// Loads a model, with a masked-language model's head where it has one.
    pub(crate) fn load_as(&self, model: &str, masks: bool) -> Result<Model> {
        Model::load(model, self.device.clone(), &LoadOptions { masks, ..self.load_options() })
    }

    /// How models are loaded.
    pub(crate) fn load_options(&self) -> LoadOptions {
        LoadOptions { max_length: self.max_length, precision: self.precision, masks: false }
    }

    /// How the pipeline runs.
    pub(crate) fn settings(&self) -> Settings {
        Settings { batch_tokens: self.batch_tokens, quiet: self.quiet }
    }

    /// The format of results.
    pub(crate) fn format(&self) -> Format {
        let asked =
            self.format.and_then(|name| if let FormatName::Results(format) = name { Some(format) } else { None });
        Format::choose(asked, self.out.as_deref())
    }

    /// Refuses a format that results do not have; those without columns have no Parquet.
    pub(crate) fn check_format(&self, has_columns: bool) -> Result<()> {
        let hint = "to write one of these under another name, say which with --format";
        match (self.format, &self.out) {
            (None, Some(out)) => check_extension("--out", out, has_columns, hint),
            (Some(FormatName::Stores(format)), _) => {
                Err(Error::usage(format!("--format {format}: only `export` writes it"))
                    .with_hint("results are jsonl, parquet or text"))
            }
            (Some(FormatName::Results(Format::Parquet)), _) if !has_columns => {
                Err(Error::usage("--format parquet: expected jsonl or text, which this command writes"))
            }
            _ => Ok(()),
        }
    }
}

/// An amount of which 0 would be none.
pub(crate) fn from_one(text: &str) -> std::result::Result<usize, String> {
    text.parse().ok().filter(|&n| n > 0).ok_or_else(|| format!("expected a number from 1 on, found {text:?}"))
}

/// A penalty or a damping; whether it may be 0 is the rule's to say.
pub(crate) fn lambda(text: &str) -> std::result::Result<f64, String> {
    let legal = |number: &f64| number.is_finite() && *number >= 0.0;
    text.parse().ok().filter(legal).ok_or_else(|| format!("expected a number from 0 on, found {text:?}"))
}

/// Notes a place that more results go to than those of --out, before any work: its name is to say a format they are
/// written in.
///
/// # Errors
/// For another format, or a place that other results go to.
pub(crate) fn note_side_out(option: &'static str, out: Option<&Path>) -> Result<()> {
    out.map_or(Ok(()), |out| {
        check_extension(option, out, true, "give it one of these names")?;
        run_record::note_out(option, out)
    })
}

/// Refuses a name that says a format which is not written.
fn check_extension(option: &str, out: &Path, has_columns: bool, hint: &str) -> Result<()> {
    /// What else may be expected from a name, and is not written.
    const OTHERS: [&str; 10] = ["csv", "gz", "html", "npy", "pdf", "tsv", "xls", "xlsx", "zip", "zst"];
    let Some(extension) = out.extension().and_then(|extension| extension.to_str()) else { return Ok(()) };
    let written = if has_columns { ".jsonl, .parquet or .txt" } else { ".jsonl or .txt" };
    if OTHERS.contains(&extension) || (extension == "parquet" && !has_columns) {
        return Err(Error::usage(format!("{option} {}: expected {written}", out.display())).with_hint(hint));
    }
    Ok(())
}

/// What `--format` names: how results are written, or what else `export` can make of a store.
#[derive(Clone, Copy, Debug)]
pub(crate) enum FormatName {
    Results(Format),
    Stores(ExportFormat),
}

impl FromStr for FormatName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self::Results).or_else(|reason| text.parse().map(Self::Stores).map_err(|_: String| reason))
    }
}

/// The model a command cannot do without.
#[derive(Args, Clone, Debug)]
pub(crate) struct ModelName {
    /// Model directory, or org/name in the local Hugging Face cache
    #[arg(long, value_name = "DIR")]
    pub(crate) model: String,
}

impl ModelName {
    /// Loads it, and notes which it is.
    pub(crate) fn load(&self, common: &Common, run: &mut RunRecord) -> Result<Model> {
        let model = common.load(&self.model)?;
        run.model(&model);
        Ok(model)
    }
}

impl ModelName {
    /// Loads it with whatever head it has, and notes which it is.
    pub(crate) fn load_any(&self, common: &Common, run: &mut RunRecord) -> Result<Model> {
        let model = common.load_as(&self.model, true)?;
        run.model(&model);
        Ok(model)
    }
}

/// What records a model is asked about.
pub(crate) fn shape_of(model: &Model) -> Shape {
    match model.task() {
        Task::Record | Task::Masks => Shape::Texts,
        Task::Spans => Shape::Questions,
        Task::Tags => Shape::Words,
    }
}

/// The user's data files and their columns.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Data {
    /// Data files or globs: .jsonl, .csv, .tsv (which has no quoting), .parquet, each optionally .gz or .zst; `-` is
    /// JSONL on standard input
    #[arg(id = "data", long, value_name = "FILE", num_args = 1..)]
    pub(crate) files: Vec<String>,
    /// Column of the first segment [default: text, sentence, text_a, …; question; tokens for models that tag words]
    #[arg(long, value_name = "NAME", visible_aliases = ["question-column", "tokens-column"])]
    pub(crate) text_column: Option<String>,
    /// Column of the second segment [default: text_pair, text_b, …; context]
    #[arg(long, value_name = "NAME", visible_alias = "context-column")]
    pub(crate) pair_column: Option<String>,
    /// Column of the label [default: label, labels; answers; ner_tags, tags]
    #[arg(long, value_name = "NAME", visible_aliases = ["answers-column", "tags-column"])]
    pub(crate) label_column: Option<String>,
    /// Column of the id [default: id, guid, idx]
    #[arg(long, value_name = "NAME")]
    pub(crate) id_column: Option<String>,
    /// CSV and TSV files have no header line: --columns names their columns
    #[arg(long)]
    pub(crate) no_header: bool,
    /// Column names of files without a header, in order, such as text,pair,label
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub(crate) columns: Option<Vec<String>>,
}

impl Data {
    /// Opens the files.
    pub(crate) fn open(&self) -> Result<Dataset> {
        self.open_keeping(&[])
    }

    /// Opens the files, where there are any.
    pub(crate) fn open_if_any(&self) -> Result<Option<Dataset>> {
        (!self.files.is_empty()).then(|| self.open()).transpose()
    }

    /// Opens the files, with further columns to keep.
    pub(crate) fn open_keeping(&self, keep_columns: &[String]) -> Result<Dataset> {
        self.open_as(Shape::Texts, keep_columns)
    }

    /// Opens the files, of records of a shape.
    pub(crate) fn open_as(&self, shape: Shape, keep_columns: &[String]) -> Result<Dataset> {
        let dataset = Dataset::open(self.options(shape, keep_columns))?;
        dataset.files().try_for_each(run_record::check_is_not_out)?;
        run_record::note_data(&dataset);
        Ok(dataset)
    }

    /// What is read, and which columns of it.
    pub(crate) fn options(&self, shape: Shape, keep_columns: &[String]) -> DatasetOptions {
        DatasetOptions {
            files: self.files.clone(),
            text_column: self.text_column.clone(),
            pair_column: self.pair_column.clone(),
            label_column: self.label_column.clone(),
            id_column: self.id_column.clone(),
            keep_columns: keep_columns.to_vec(),
            no_header: self.no_header,
            columns: self.columns.clone(),
            allow_duplicate_ids: false,
            shape,
        }
    }
}

/// One record typed by hand.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Typed {
    /// One text typed here instead of --data
    #[arg(long, value_name = "TEXT", conflicts_with = "data", allow_hyphen_values = true)]
    pub(crate) text: Option<String>,
    /// Its second segment
    #[arg(long, value_name = "TEXT", requires = "text", allow_hyphen_values = true)]
    pub(crate) text_pair: Option<String>,
}

impl Typed {
    /// The typed record, or the files, of records of a shape: a typed question has its context as second segment.
    pub(crate) fn or_as(&self, shape: Shape, data: &Data) -> Result<Dataset> {
        match &self.text {
            Some(text) => {
                let dataset = Dataset::typed_as(shape, text.clone(), self.text_pair.clone());
                run_record::note_data(&dataset);
                Ok(dataset)
            }
            None if data.files.is_empty() => {
                Err(Error::usage("no data was given").with_hint("name files with --data, or type a text with --text"))
            }
            None => data.open_as(shape, &[]),
        }
    }
}
