//! `wherefore explain`.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use wherefore::backend::Stage;
use wherefore::explain::{
    Baseline, Features, LimeVariant, Method, Options, Quadrature, Rationale, Replacement, Segmentation,
};
use wherefore::model::Model;
use wherefore::pipeline::{self, ExplainOptions, ExplainTarget};
use wherefore::report::{Explanation, GlobalImportance, RecordWriter};
use wherefore::tokens::Encoding;
use wherefore::{Error, Result};

use super::Outcome;
use super::arguments::{Common, Data, ModelName, Typed, from_one, shape_of};
use super::output::Output;
use super::run_record::RunRecord;

/// A score for each token and word of each record: what made the model say this.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelName,
    #[command(flatten)]
    data: Data,
    #[command(flatten)]
    text: Typed,
    /// integrated-gradients (ig), input-x-gradient, saliency, smoothgrad, gradient-shap, occlusion, lime, kernel-shap,
    /// attention, attention-rollout, attention-flow, generic-attention, or norm-lime (one list for the whole data)
    #[arg(long, default_value = "integrated-gradients")]
    method: MethodName,
    /// The label explained: predicted, gold, all, or classes by name (repeatable: one result each)
    #[arg(long, default_value = "predicted", value_name = "predicted|gold|all|LABEL")]
    target: Vec<String>,
    /// The token, by its number from 0 ([CLS] is one), whose tag or mask is explained [default: every entity found,
    /// every mask]
    #[arg(long, value_name = "N")]
    token: Option<usize>,
    /// Answers and tags: tokens that neighbouring windows of a long context or text share, half a window where there is
    /// no room for so many
    #[arg(long, value_name = "N", default_value_t = 128)]
    stride: usize,
    /// Question answering: tokens of an answer, at most
    #[arg(long, value_name = "N", value_parser = from_one, default_value_t = 30)]
    max_answer_tokens: usize,
    /// Explain what speaks for the target against this label: the difference of their logits
    #[arg(long, value_name = "LABEL")]
    against: Option<String>,
    /// What of the target is explained
    #[arg(long, value_enum, default_value_t = OutputKind::Probability)]
    output: OutputKind,
    #[command(flatten)]
    path: PathArguments,
    /// Draws, for smoothgrad and gradient-shap [default: 50], lime [default: 1000] and kernel-shap [default: twice the
    /// tokens, and 2048]
    #[arg(long, value_name = "N")]
    samples: Option<usize>,
    /// Noise on embeddings, as a share of the standard deviation of the model's word embeddings, for smoothgrad
    /// [default: 0.3] and gradient-shap [default: 0]
    #[arg(long, value_name = "SHARE")]
    noise: Option<f32>,
    /// What stands in for a token that is left out: mask, pad, unk or delete
    #[arg(long, default_value_t)]
    occlude: Replacement,
    #[command(flatten)]
    surrogate: SurrogateArguments,
    /// Attention: the heads' mean weights, or their summed scores before the softmax
    #[arg(long, value_enum, default_value_t = AttentionForm::Weights)]
    attention_form: AttentionForm,
    /// Rollout, flow and generic attention: the first layer that counts, from 0
    #[arg(long, value_name = "LAYER", default_value_t = 0)]
    start_layer: usize,
    /// What a word is: segmenter (Unicode words, Chinese by a dictionary), characters, or none
    #[arg(long, default_value_t)]
    words: Segmentation,
    /// Words in a rationale: a number, or a share such as 0.2
    #[arg(long, value_name = "N|RATIO", default_value_t)]
    rationale: Rationale,
}

/// The path of integrated gradients and its kin.
#[derive(Args)]
struct PathArguments {
    /// Gradient evaluations of integrated gradients [default: 50, or --max-steps where that is fewer]
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Where they are taken: gauss-legendre, trapezoid (N intervals), midpoint, left or right
    #[arg(long, value_name = "RULE", default_value_t)]
    quadrature: Quadrature,
    /// Add steps until the scores' sum is this close to the change in output, as a share of it
    #[arg(long, value_name = "SHARE")]
    tolerance: Option<f64>,
    /// The most steps to try for the tolerance [default: 1000, or --steps where that is more]
    #[arg(long, value_name = "N")]
    max_steps: Option<usize>,
    /// Where paths start: zero vectors, or every token but special ones replaced by padding or mask
    #[arg(long, value_enum, default_value_t = BaselineKind::Pad)]
    baseline: BaselineKind,
    /// Paths start from this text instead
    #[arg(long, value_name = "TEXT", conflicts_with = "baseline_data", allow_hyphen_values = true)]
    baseline_text: Option<String>,
    /// Paths start from texts drawn from this file, for gradient-shap
    #[arg(long, value_name = "FILE")]
    baseline_data: Option<PathBuf>,
    /// What paths move: the word embeddings, or the embedding stage's output
    #[arg(long, value_enum, default_value_t = Layer::WordEmbeddings)]
    layer: Layer,
}

/// The linear models of LIME and Kernel SHAP.
#[derive(Args)]
struct SurrogateArguments {
    /// LIME: how samples are drawn, and the defaults of what follows: trustai (1000 samples of tokens, no ridge) or
    /// original (5000 of words, a ridge of 1, 10 features)
    #[arg(long, value_enum, default_value_t = Variant::Trustai)]
    lime: Variant,
    /// LIME and Kernel SHAP: what is left out as one [default: tokens; words for --lime original]
    #[arg(long, value_enum)]
    features: Option<FeatureKind>,
    /// LIME: how far samples count
    #[arg(long, value_name = "WIDTH", default_value_t = 0.25)]
    kernel_width: f64,
    /// LIME: the ridge's strength
    #[arg(long, value_name = "STRENGTH")]
    ridge: Option<f64>,
    /// LIME: the most features that get a coefficient
    #[arg(long, value_name = "N")]
    num_features: Option<usize>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Variant {
    Trustai,
    Original,
}

#[derive(Clone, Copy, ValueEnum)]
enum FeatureKind {
    Tokens,
    Words,
}

/// A method for each record, or one for all together.
#[derive(Clone, Copy, PartialEq)]
enum MethodName {
    Of(Method),
    NormLime,
}

impl MethodName {
    /// What each record is explained by.
    fn of_each(self) -> Method {
        match self {
            Self::Of(method) => method,
            Self::NormLime => Method::Lime,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Of(method) => method.name(),
            Self::NormLime => "norm-lime",
        }
    }
}

impl FromStr for MethodName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == Self::NormLime.name() {
            return Ok(Self::NormLime);
        }
        text.parse().map(Self::Of).map_err(|_: String| {
            let names: Vec<_> = Method::ALL.iter().map(|m| m.name()).chain([Self::NormLime.name()]).collect();
            format!("expected one of {}, found {text:?}", names.join(", "))
        })
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum OutputKind {
    Probability,
    Logit,
}

#[derive(Clone, Copy, ValueEnum)]
enum BaselineKind {
    Zero,
    Pad,
    Mask,
}

#[derive(Clone, Copy, ValueEnum)]
enum Layer {
    WordEmbeddings,
    Embeddings,
}

#[derive(Clone, Copy, ValueEnum)]
enum AttentionForm {
    Weights,
    Scores,
}

impl Arguments {
    fn job(&self, model: &Model, common: &Common) -> Result<ExplainOptions> {
        let method = self.method.of_each();
        if let Some(noise) = self.noise.filter(|noise| !noise.is_finite() || *noise < 0.0) {
            return Err(Error::usage(format!("--noise: expected a number from 0 on, found {noise}")));
        }
        let [steps, max_steps] = self.path.steps();
        let options = Options {
            steps,
            quadrature: self.path.quadrature,
            tolerance: self.path.tolerance,
            max_steps,
            baseline: self.path.baseline(model)?,
            stage: match self.path.layer {
                Layer::WordEmbeddings => Stage::Word,
                Layer::Embeddings => Stage::Output,
            },
            samples: self.samples,
            noise: self.noise,
            replacement: self.occlude,
            features: self.surrogate.features.map(|features| match features {
                FeatureKind::Tokens => Features::Tokens,
                FeatureKind::Words => Features::Words,
            }),
            variant: match self.surrogate.lime {
                Variant::Trustai => LimeVariant::TrustAi,
                Variant::Original => LimeVariant::Original,
            },
            kernel_width: self.surrogate.kernel_width,
            ridge: self.surrogate.ridge,
            num_features: self.surrogate.num_features,
            masks: None,
            raw_attention: matches!(self.attention_form, AttentionForm::Scores),
            start_layer: self.start_layer,
            seed: common.seed,
        };
        Ok(ExplainOptions {
            method,
            options,
            target: self.target(),
            output: match self.output {
                OutputKind::Probability => pipeline::Output::Probability,
                OutputKind::Logit => pipeline::Output::Logit,
            },
            against: self.against.clone(),
            words: self.words,
            rationale: self.rationale,
            token: self.token,
            stride: self.stride,
            max_answer_tokens: self.max_answer_tokens,
        })
    }

    fn target(&self) -> ExplainTarget {
        match self.target.as_slice() {
            [one] if one == "predicted" => ExplainTarget::Predicted,
            [one] if one == "gold" => ExplainTarget::Gold,
            [one] if one == "all" => ExplainTarget::All,
            labels => ExplainTarget::Labels(labels.to_vec()),
        }
    }
}

impl PathArguments {
    /// Steps to begin with, and the most: of the two, what is not said gives way to what is.
    fn steps(&self) -> [usize; 2] {
        let usual = Options::default();
        let steps = self.steps.unwrap_or(usual.steps.min(self.max_steps.unwrap_or(usual.max_steps)));
        [steps, self.max_steps.unwrap_or(usual.max_steps.max(steps))]
    }

    fn baseline(&self, model: &Model) -> Result<Baseline> {
        if let Some(text) = &self.baseline_text {
            let record = wherefore::dataset::Record { text: text.clone(), ..Default::default() };
            return Ok(Baseline::text(&model.encode(&record)?));
        }
        if let Some(file) = &self.baseline_data {
            let data = Data { files: vec![file.to_string_lossy().into_owned()], ..Data::default() };
            let texts: Result<Vec<Encoding>> = data.open()?.map(|record| model.encode(&record?)).collect();
            return Ok(Baseline::texts(&texts?));
        }
        Ok(match self.baseline {
            BaselineKind::Zero => Baseline::Zero,
            BaselineKind::Pad => Baseline::Pad,
            BaselineKind::Mask => Baseline::Mask,
        })
    }
}

pub(crate) fn run(arguments: &Arguments, common: &Common) -> anyhow::Result<Outcome> {
    let mut run = RunRecord::begin("explain");
    let model = arguments.model.load_any(common, &mut run)?;
    let dataset = arguments.text.or_as(shape_of(&model), &arguments.data)?;
    let job = arguments.job(&model, common)?;
    run.set("method", arguments.method.name());
    run.resolve("steps", job.options.steps);
    run.resolve("max-steps", job.options.max_steps);
    if matches!(job.method, Method::SmoothGrad | Method::GradientShap | Method::Lime) {
        run.resolve("samples", job.options.samples_of(job.method, 0));
    }
    if job.method == Method::SmoothGrad {
        run.resolve("noise", job.options.noise_of(job.method));
    }
    let output = Output::new(common, common.out.as_deref());
    let mut rejections = output.rejections();
    let settings = common.settings();
    let create = |columns| RecordWriter::create(common.out.as_deref(), common.format(), columns);
    let summary = if arguments.method == MethodName::NormLime {
        let mut writer = create(GlobalImportance::columns())?;
        let (summary, list) = pipeline::norm_lime(&model, dataset, &job, &settings, &mut rejections)?;
        list.iter().try_for_each(|importance| writer.write(importance))?;
        writer.finish()?;
        summary
    } else {
        let mut writer = create(Explanation::columns(model.task(), model.problem(), model.class_names().names()))?;
        let mut against_itself = 0_u64;
        let mut write = |explanation: &Explanation| {
            against_itself += u64::from(explanation.against.as_ref() == Some(&explanation.target));
            writer.write(explanation)
        };
        let (summary, convergence) = pipeline::explain(&model, dataset, &job, &settings, &mut rejections, &mut write)?;
        writer.finish()?;
        run.set("unconverged", convergence.unconverged);
        if convergence.unconverged > 0 && !common.quiet {
            tell_unconverged(convergence.unconverged, job.options.max_steps);
        }
        if against_itself > 0 && !common.quiet {
            tell_against_itself(against_itself);
        }
        summary
    };
    run.overflows(&model);
    output.finish("explained", &summary, rejections, run)
}

fn tell_against_itself(count: u64) {
    say_line!("{count} results are of the class of --against itself: a difference of nothing, whose scores are 0");
}

fn tell_unconverged(count: u64, max_steps: usize) {
    say_line!("{count} results did not meet the tolerance within {max_steps} steps");
}
