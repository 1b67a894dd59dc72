//! `wherefore search`.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{Args, ValueEnum};
use wherefore::factors::{CurvatureOptions, HessianForm, RefitOptions, RepresenterCompat};
use wherefore::model::Model;
use wherefore::pipeline::{
    self, Condition, Entities, ExactOptions, GivenFactors, GivenFile, GivenSearch, QueryTarget, Rejections, ResultSink,
    RuleOptions, ScopeOptions, SearchOptions, SelfSearch, SetFile, Summary, TopK,
};
use wherefore::report::{Format, NeighbourList, RecordWriter, SearchResult};
use wherefore::search::Rule;
use wherefore::store::{Settings, Store};
use wherefore::{Error, Result};

use super::arguments::{Common, Data, Typed, lambda, shape_of};
use super::output::Output;
use super::run_record::RunRecord;
use super::{Outcome, note};

/// The training records that most support and most oppose each prediction.
#[derive(Args)]
#[allow(clippy::struct_excessive_bools)] // each a flag of its own
pub(crate) struct Arguments {
    /// The store to search (repeatable: the parts that `index --shard` made)
    #[arg(long, value_name = "DIR", required = true)]
    store: Vec<PathBuf>,
    /// Where the model is now [default: where it was at indexing]
    #[arg(long, value_name = "DIR")]
    model: Option<String>,
    #[command(flatten)]
    data: Data,
    #[command(flatten)]
    text: Typed,
    /// feature-dot, feature-cos, feature-euc, grad-dot, grad-cos, representer, tracin, influence, relatif, bm25 (shared
    /// words) or loss (the records' own, whatever the query); of a store of projected gradients projected-dot,
    /// projected-cos, trak, tracin, less, influence, relatif [default: grad-cos; feature-cos for a model without a
    /// head, and for a regression's own prediction, whose loss is 0; projected-cos for projected gradients]
    #[arg(long)]
    rule: Option<Rule>,
    /// Records at each end, or `all` for full rankings
    #[arg(long, short = 'k', value_name = "K|all", default_value = "10")]
    top_k: TopK,
    /// The label explained: predicted, gold, or a class's name
    #[arg(long, default_value = "predicted", value_name = "predicted|gold|LABEL")]
    target: String,
    /// Of models that tag tokens or fill in masks: ask about this one token, counted from the first with special
    /// tokens; --target may then name a tag or a piece
    #[arg(long, value_name = "N", conflicts_with_all = ["of_itself", "from_factors"])]
    token: Option<usize>,
    /// Of models that tag words: ask about each entity by itself, or about the one of this number from 0; --target says
    /// whose, the model's or gold
    #[arg(long, value_name = "N|all", value_parser = parse_entities, conflicts_with_all = ["token", "of_itself", "from_factors"])]
    entity: Option<Entities>,
    /// The curvature, for influence, relatif and trak: the last layer's, or of a store of projected gradients the whole
    /// network's [default: exact; for influence and relatif over projected gradients, shampoo]
    #[arg(long, value_enum)]
    hessian: Option<Hessian>,
    /// Where `wherefore curvature` left the whole network's [default: in the store]
    #[arg(long, value_name = "DIR")]
    curvature: Option<PathBuf>,
    /// λ: the penalty of the representer's refit [default: 0.06], the damping of influence and relatif [default: 0.01];
    /// over projected gradients, the damping over the matrix's mean diagonal [default: that at which records left out
    /// are predicted best; with shampoo and the whole network's curvature 0.1]
    #[arg(long, value_name = "λ", value_parser = lambda)]
    lambda: Option<f64>,
    /// Representer values as another tool defines them
    #[arg(long, value_enum)]
    representer_compat: Option<Compat>,
    /// Search only records for which this holds (repeatable; all must): label=NAME, predicted=NAME, wrong, right,
    /// id=ID, id=@FILE, or COLUMN=VALUE of a column kept by `index --keep-column`; != for = turns it around
    #[arg(long = "where", value_name = "CONDITION")]
    conditions: Vec<Condition>,
    /// Also each group's own ends and the sum of its scores: label, predicted, or a column kept at indexing
    #[arg(long, value_name = "COLUMN")]
    group_by: Option<String>,
    /// Also the joint effect of the records whose ids are in this file, one a line (repeatable): the set's own ends and
    /// the sum of its scores
    #[arg(long, value_name = "[NAME=]FILE", conflicts_with = "group_by")]
    set: Vec<SetFile>,
    /// Of records with the same texts and label, only the first (it says how many copies there are)
    #[arg(long)]
    collapse_duplicates: bool,
    /// Ask about the store's own records, as they were indexed; none is its own neighbour. Where all ends fit three
    /// eighths of --memory, 16 bytes for each of --top-k and 40 a record, each pair is scored once for both
    #[arg(long = "self", conflicts_with_all = ["data", "text", "text_pair", "model"])]
    of_itself: bool,
    /// Queries whose factors another program made, by the model that made the store's: as for `index`, with their texts
    /// by --data
    #[arg(long, value_name = "FILE", conflicts_with_all = ["text", "model", "of_itself"])]
    from_factors: Option<PathBuf>,
    /// Leave out the training record that has the query's own id
    #[arg(long)]
    exclude_same_id: bool,
    /// Of a store of projected gradients: score the N records of each end again, by the gradients themselves
    #[arg(long, value_name = "N", conflicts_with_all = ["of_itself", "from_factors", "group_by"])]
    exact: Option<usize>,
    /// What each layer adds to a neighbour's score (with --exact; JSON and the page)
    #[arg(long, requires = "exact")]
    layers: bool,
    /// What each pair of a query's token and a training record's adds to the score of those two (with --exact; JSON and
    /// the page)
    #[arg(long, requires = "exact")]
    token_pairs: bool,
    /// Of a store of projected gradients: how far each score may be off (standard error and 95 % interval) for the
    /// projection that was drawn and an ensemble's members, and which neighbours are tied for it
    #[arg(long, conflicts_with = "exact")]
    error_bars: bool,
    /// Memory for the search, in MiB; a store larger than it is read in passing
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    memory: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Hessian {
    /// Cholesky, or conjugate gradients where the head is large; of projected gradients, their Gauss-Newton matrix
    Exact,
    /// Its Kronecker form: one outer product a query; of the whole network, K-FAC
    #[value(alias = "kfac")]
    Kronecker,
    /// The whole network's, EK-FAC (fitted by `wherefore curvature`)
    Ekfac,
    /// Of projected gradients: the Gauss-Newton matrix of each layer by itself (LoGra)
    #[value(alias = "logra")]
    Layers,
    /// Of projected gradients: the same in Shampoo's eigenvectors, with the second moments found in them; for any
    /// number of numbers
    Shampoo,
}

impl Hessian {
    pub(crate) fn form(self) -> HessianForm {
        match self {
            Self::Exact => HessianForm::Exact,
            Self::Kronecker => HessianForm::Kronecker,
            Self::Ekfac => HessianForm::Corrected,
            Self::Layers => HessianForm::Layers,
            Self::Shampoo => HessianForm::Shampoo,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum Compat {
    Trustai,
}

fn parse_entities(text: &str) -> Result<Entities, String> {
    match text {
        "all" => Ok(Entities::All),
        _ => usize::from_str(text)
            .map(Entities::Number)
            .map_err(|_| format!("expected a number from 0 on, or all, found {text:?}")),
    }
}

impl Arguments {
    fn options(&self, kept: &Settings) -> SearchOptions {
        let rule_options = RuleOptions {
            hessian: self.hessian.map(Hessian::form),
            curvature: self.curvature.clone(),
            lambda: self.lambda,
            compat: match self.representer_compat {
                None => RepresenterCompat::Exact,
                Some(Compat::Trustai) => RepresenterCompat::TrustAi,
            },
        };
        let target = match self.target.as_str() {
            "predicted" => QueryTarget::Predicted,
            "gold" => QueryTarget::Gold,
            label => QueryTarget::Label(label.to_owned()),
        };
        let options = SearchOptions {
            rule: Rule::GradCos,
            rule_options,
            top_k: self.top_k,
            target,
            token: self.token,
            entity: self.entity,
            scope: ScopeOptions {
                conditions: self.conditions.clone(),
                collapse_duplicates: self.collapse_duplicates,
                group_by: self.group_by.clone(),
                sets: self.set.clone(),
            },
            exclude_same_id: self.exclude_same_id,
            of_itself: self.of_itself,
            memory: self.memory << 20,
            exact: self.exact.map(|records| ExactOptions {
                records,
                layers: self.layers,
                token_pairs: self.token_pairs,
            }),
            error_bars: self.error_bars,
        };
        SearchOptions { rule: self.rule.unwrap_or_else(|| options.default_rule(kept)), ..options }
    }
}

/// [`pipeline::load_model`], onto the chosen device.
pub(super) fn load_model(store: &Store, model: Option<&str>, common: &Common) -> Result<Model> {
    pipeline::load_model(store, model, &common.device, &common.load_options())
}

/// [`pipeline::load_checkpoints`], likewise.
pub(super) fn load_checkpoints(store: &Store, rule: Rule, common: &Common) -> Result<Vec<Model>> {
    pipeline::load_checkpoints(store, rule, &common.device, &common.load_options())
}

pub(crate) fn run(arguments: &Arguments, common: &Common) -> anyhow::Result<Outcome> {
    let mut run = RunRecord::begin("search");
    let store = Store::open_many(&arguments.store)?;
    let kept = store.settings();
    let options = arguments.options(kept);
    options.rule.check(kept.problem, &kept.checkpoints)?;
    options.rule.check_gradients(kept.gradients.is_some())?;
    options.rule.check_task(kept.task(), kept.classes)?;
    let format = check_format(common, options.top_k)?;
    if (arguments.layers || arguments.token_pairs) && format == Format::Parquet {
        return Err(Error::usage("--layers and --token-pairs are of JSON, found a result in Parquet")
            .with_hint("write to a file whose name ends in .jsonl")
            .into());
    }
    run.store(&store);
    run.set("rule", options.rule.name());
    run.resolve("rule", options.rule.name());
    if kept.gradients.is_none() {
        note_defaults(&mut run, arguments, &options);
    }
    if options.is_lossless(kept) && options.rule.is_of_loss() && !common.quiet {
        let rule = options.rule;
        note(&format!(
            "a regression's loss against its own prediction is 0, and so is every score by {rule}: ask with --target gold of a store made with it, or by feature-cos or representer"
        ));
    }
    let of_part = options.token.is_some() || options.entity.is_some();
    let columns = SearchResult::columns(kept.task(), of_part, kept.problem, &kept.label_names, &kept.columns);
    let output = Output::new(common, common.out.as_deref());
    let mut rejections = output.rejections();
    let search = Search { arguments, common, store: &store, options: &options };
    let write = || RecordWriter::create(common.out.as_deref(), format, columns).map(Writer);
    let summary = match &arguments.from_factors {
        _ if arguments.of_itself => {
            let mut writer = write()?;
            let summary = SelfSearch { store: &store, options: &options, devices: &common.gpus()? }
                .run(common.quiet, &mut writer)?;
            writer.0.finish()?;
            summary
        }
        Some(file) => search.given(file, &mut rejections, write)?,
        None => search.asked(&mut run, &mut rejections, write)?,
    };
    output.finish("searched for", &summary, rejections, run)
}

/// What curvature and λ come to over the last layer's factors, where they are left open.
fn note_defaults(run: &mut RunRecord, arguments: &Arguments, options: &SearchOptions) {
    let lambda = match options.rule {
        Rule::Influence | Rule::RelatIf => CurvatureOptions::default().damping,
        Rule::Representer => RefitOptions::default().penalty,
        _ => return,
    };
    run.resolve("lambda", options.rule_options.lambda.unwrap_or(lambda));
    if options.rule != Rule::Representer && arguments.hessian.is_none() {
        run.resolve("hessian", "exact");
    }
}

/// One search, whoever asks.
struct Search<'a> {
    arguments: &'a Arguments,
    common: &'a Common,
    store: &'a Store,
    options: &'a SearchOptions,
}

impl Search<'_> {
    /// For queries whose factors were made elsewhere.
    fn given(
        &self,
        file: &Path,
        rejections: &mut Rejections,
        write: impl FnOnce() -> Result<Writer>,
    ) -> Result<Summary> {
        let texts = self.arguments.data.open_if_any()?;
        let given = GivenFactors { file: &GivenFile(file.to_owned()), texts, label_names: None };
        let mut writer = write()?;
        let devices = self.common.gpus()?;
        let job = GivenSearch { store: self.store, options: self.options, devices: &devices };
        let summary = job.run(given, self.common.quiet, rejections, &mut writer)?;
        writer.0.finish()?;
        Ok(summary)
    }

    /// For queries that run through the model.
    fn asked(
        &self,
        run: &mut RunRecord,
        rejections: &mut Rejections,
        write: impl FnOnce() -> Result<Writer>,
    ) -> Result<Summary> {
        let Self { arguments, common, store, options } = *self;
        if store.settings().is_given() {
            return Err(Error::usage("the store's factors were made elsewhere: there is no model to ask with")
                .with_hint("give the queries' factors with --from-factors FILE, or ask with --self"));
        }
        let model = load_model(store, arguments.model.as_deref(), common)?;
        let dataset = arguments.text.or_as(shape_of(&model), &arguments.data)?;
        let checkpoints = load_checkpoints(store, options.rule, common)?;
        run.model(&model);
        let mut writer = write()?;
        let job = pipeline::SearchJob { model: &model, checkpoints: &checkpoints, store, options };
        let summary = job.run(dataset, &common.settings(), rejections, &mut writer)?;
        writer.0.finish()?;
        run.overflows(&model);
        Ok(summary)
    }
}

/// Full rankings stream, which only JSONL can.
fn check_format(common: &Common, top_k: TopK) -> Result<Format> {
    match (common.format(), top_k, &common.format) {
        (Format::Jsonl, ..) | (_, TopK::Count(_), _) => Ok(common.format()),
        (Format::Text, TopK::All, None) => Ok(Format::Jsonl),
        _ => Err(Error::usage("--top-k all: full rankings are written as JSONL").with_hint("use --format jsonl")),
    }
}

struct Writer(RecordWriter);

impl ResultSink for Writer {
    fn write(&mut self, result: &SearchResult) -> Result<()> {
        self.0.write(result)
    }

    fn write_all(&mut self, result: &SearchResult<NeighbourList<'_>>) -> Result<()> {
        self.0.write_stream(result)
    }
}
