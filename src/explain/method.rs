//! The methods by name, and everything that decides their numbers.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::attention::{Maps, OfMaps};
use super::gradient::{AtText, GradientShap, SmoothGrad};
use super::integrated_gradients::IntegratedGradients;
use super::kernel_shap::KernelShap;
use super::lime::Lime;
use super::occlusion::Occlusion;
use super::probe::Course;
use super::subject::Subject;
use super::{Baseline, Features, LimeVariant, Masks, Quadrature, Replacement};
use crate::backend::{Fold, Stage};
use crate::error::{Error, Result};
use crate::model::{Model, Problem, Task};

/// A token-level method.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// Gradients summed along the path from a baseline.
    #[default]
    IntegratedGradients,
    /// The gradient's product with the embedding.
    InputXGradient,
    /// The gradient's length.
    Saliency,
    /// The length of the mean gradient under noise.
    SmoothGrad,
    /// Gradients at drawn points on paths from drawn baselines.
    GradientShap,
    /// What is lost without each token.
    Occlusion,
    /// A linear model of the output at the text with random parts left out, nearby samples weighing most.
    Lime,
    /// Shapley values, by a linear model whose coefficients sum to the change in output.
    KernelShap,
    /// What the first token attends to in the last layer.
    Attention,
    /// Attention followed through the layers as a product.
    AttentionRollout,
    /// Attention followed through the layers as a flow.
    AttentionFlow,
    /// Attention weighted by its gradient, followed through the layers.
    GenericAttention,
}

/// What decides a method's numbers.
#[derive(Clone, Debug)]
pub struct Options {
    /// Gradient evaluations of integrated gradients (the trapezoid has one more).
    pub steps: usize,
    /// Where they are taken.
    pub quadrature: Quadrature,
    /// How large a convergence delta may be, as a share of the change it is part of; steps are doubled until it is met.
    pub tolerance: Option<f64>,
    /// The most steps to try.
    pub max_steps: usize,
    /// Where paths start.
    pub baseline: Baseline,
    /// What paths move.
    pub stage: Stage,
    /// Draws of `SmoothGrad`, gradient SHAP, LIME and Kernel SHAP: [`Options::samples_of`] where there is no number.
    pub samples: Option<usize>,
    /// The standard deviation of noise on embeddings, as a share of that of the model's word embeddings
    /// ([`Model::embedding_deviation`]), for `SmoothGrad` and gradient SHAP: [`Options::noise_of`] where there is no
    /// number.
    pub noise: Option<f32>,
    /// What tokens that are left out are replaced by.
    pub replacement: Replacement,
    /// LIME and Kernel SHAP: what is left out as one; LIME's variant's where there is none, and Kernel SHAP's tokens.
    pub features: Option<Features>,
    /// LIME and Kernel SHAP: samples to take in place of drawn ones, for each record with as many features as they
    /// have.
    pub masks: Option<Arc<Masks>>,
    /// LIME: how samples are drawn, and what is taken where the settings below say nothing.
    pub variant: LimeVariant,
    /// LIME: how far samples count: see [`super::locality`].
    pub kernel_width: f64,
    /// LIME: the ridge's strength.
    pub ridge: Option<f64>,
    /// LIME: the most features that get a coefficient.
    pub num_features: Option<usize>,
    /// Attention: the heads' summed scores before the softmax, as `TrustAI` has it, rather than their mean weights.
    pub raw_attention: bool,
    /// Rollout, flow and generic attention: the first layer that counts.
    pub start_layer: usize,
    /// The seed of every draw.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            steps: 50,
            quadrature: Quadrature::default(),
            tolerance: None,
            max_steps: 1000,
            baseline: Baseline::default(),
            stage: Stage::default(),
            samples: None,
            noise: None,
            replacement: Replacement::default(),
            features: None,
            masks: None,
            variant: LimeVariant::default(),
            kernel_width: 0.25,
            ridge: None,
            num_features: None,
            raw_attention: false,
            start_layer: 0,
            seed: 0,
        }
    }
}

impl Options {
    /// How many samples a method takes of a record with so many features: 50 where it takes gradients, LIME's
    /// variant's, and for Kernel SHAP `2 features + 2048`, as the `shap` package has it (no more than there are
    /// subsets: then each is taken once).
    pub fn samples_of(&self, method: Method, features: usize) -> usize {
        self.samples.unwrap_or(match method {
            Method::Lime => self.variant.samples(),
            Method::KernelShap => 2 * features + 2048,
            _ => 50,
        })
    }

    /// How much noise a method adds, as a share of the deviation of the word embeddings: where `SmoothGrad` looks for
    /// stability, it is a good part of a word's own size; gradient SHAP goes without.
    pub fn noise_of(&self, method: Method) -> f32 {
        self.noise.unwrap_or(if method == Method::SmoothGrad { 0.3 } else { 0.0 })
    }

    /// The same as the standard deviation of what is added.
    pub(super) fn sigma(&self, method: Method, model: &Model) -> f32 {
        self.noise_of(method) * model.embedding_deviation()
    }

    /// The samples to take in place of drawn ones, where they are of so many features.
    pub(super) fn given_masks(&self, features: usize) -> Option<Masks> {
        self.masks.as_deref().filter(|masks| masks.features() == features).cloned()
    }
}

/// Steps, or samples, of one explanation: more are taken for a slip.
const MOST: usize = 1_000_000;

impl Method {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::IntegratedGradients,
        Self::InputXGradient,
        Self::Saliency,
        Self::SmoothGrad,
        Self::GradientShap,
        Self::Occlusion,
        Self::Lime,
        Self::KernelShap,
        Self::Attention,
        Self::AttentionRollout,
        Self::AttentionFlow,
        Self::GenericAttention,
    ];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::IntegratedGradients => "integrated-gradients",
            Self::InputXGradient => "input-x-gradient",
            Self::Saliency => "saliency",
            Self::SmoothGrad => "smoothgrad",
            Self::GradientShap => "gradient-shap",
            Self::Occlusion => "occlusion",
            Self::Lime => "lime",
            Self::KernelShap => "kernel-shap",
            Self::Attention => "attention",
            Self::AttentionRollout => "attention-rollout",
            Self::AttentionFlow => "attention-flow",
            Self::GenericAttention => "generic-attention",
        }
    }

    /// About how many probes a record of `length` tokens takes.
    pub fn probes(self, length: usize, options: &Options) -> usize {
        match self {
            Self::IntegratedGradients => options.steps + 1,
            Self::SmoothGrad | Self::GradientShap => options.samples_of(self, length),
            Self::Lime | Self::KernelShap => options.samples_of(self, length).min(Masks::most(length)),
            Self::Occlusion => length,
            Self::InputXGradient
            | Self::Saliency
            | Self::Attention
            | Self::AttentionRollout
            | Self::AttentionFlow
            | Self::GenericAttention => 1,
        }
    }

    /// What is left out as one, by the methods that leave things out to fit a linear model.
    pub fn features(self, options: &Options) -> Option<Features> {
        match self {
            Self::Lime => Some(options.features.unwrap_or(options.variant.features())),
            Self::KernelShap => Some(options.features.unwrap_or_default()),
            _ => None,
        }
    }

    /// Refuses settings that this method, or this model, has no meaning for.
    ///
    /// # Errors
    /// [`Error::Usage`]
    pub fn check(self, model: &Model, options: &Options) -> Result<()> {
        let depth = model.network().depth();
        if model.problem() == Problem::Headless {
            return Err(Error::usage(format!("{self}: {} has no classification head to explain", model.name()))
                .with_hint("use a fine-tuned classifier or regressor"));
        }
        if model.task() != Task::Record {
            if self == Self::AttentionFlow {
                return Err(Error::usage(format!(
                    "{self}: flows from the first token, and {} reads others",
                    model.name()
                ))
                .with_hint("use attention-rollout or generic-attention"));
            }
            if options.replacement == Replacement::Delete {
                return Err(Error::usage(format!("{self}: a deleted token would move the tokens that are explained"))
                    .with_hint("use --occlude mask, pad or unk"));
            }
        }
        let numbers =
            [("max steps", Some(options.max_steps)), ("steps", Some(options.steps)), ("samples", options.samples)];
        for (what, number) in numbers {
            if number == Some(0) {
                return Err(Error::usage(format!("{self}: {what}: expected at least 1, found 0")));
            }
            if let Some(found) = number.filter(|&number| number > MOST) {
                return Err(Error::usage(format!("{self}: {what}: expected at most {MOST}, found {found}")));
            }
        }
        if let Some(noise) = options.noise.filter(|noise| !(*noise >= 0.0 && noise.is_finite())) {
            return Err(Error::usage(format!("{self}: noise: expected a number from 0 on, found {noise}")));
        }
        if let Some(tolerance) = options.tolerance.filter(|tolerance| !(*tolerance >= 0.0 && tolerance.is_finite())) {
            return Err(Error::usage(format!("{self}: tolerance: expected a number from 0 on, found {tolerance}")));
        }
        if options.tolerance.is_some() && options.max_steps < options.steps {
            let (steps, found) = (options.steps, options.max_steps);
            return Err(Error::usage(format!(
                "{self}: max steps: expected at least {steps}, the steps, found {found}"
            ))
            .with_hint("begin with fewer steps, or allow more"));
        }
        if self == Self::Lime {
            super::lime::check(options)?;
        }
        if options.start_layer >= depth {
            let found = options.start_layer;
            return Err(Error::usage(format!(
                "{self}: start layer: expected below {depth}, the model's, found {found}"
            )));
        }
        if self == Self::IntegratedGradients && !super::integrated_gradients::one_baseline(&options.baseline) {
            return Err(Error::usage(format!("{self}: expected one baseline, found {}", options.baseline.len()))
                .with_hint("gradient-shap draws from several"));
        }
        if options.baseline.len() == 0 {
            return Err(Error::usage(format!("{self}: no baseline to draw from")));
        }
        Ok(())
    }

    /// A subject's way through it.
    pub(super) fn course(self, model: &Model, subject: &Subject<'_>, options: &Options) -> Result<Box<dyn Course>> {
        let maps = |maps| -> Box<dyn Course> { Box::new(OfMaps::new(model, subject, maps, options)) };
        Ok(match self {
            Self::IntegratedGradients => Box::new(IntegratedGradients::new(model, subject, options)?),
            Self::InputXGradient => Box::new(AtText::new(model, subject, Fold::Step)),
            Self::Saliency => Box::new(AtText::new(model, subject, Fold::Norm)),
            Self::SmoothGrad => Box::new(SmoothGrad::new(model, subject, options)),
            Self::GradientShap => Box::new(GradientShap::new(model, subject, options)?),
            Self::Occlusion => Box::new(Occlusion::new(model, subject, options)?),
            Self::Lime => Box::new(Lime::new(model, subject, options)?),
            Self::KernelShap => Box::new(KernelShap::new(model, subject, options)?),
            Self::Attention => maps(Maps::Last),
            Self::AttentionRollout => maps(Maps::Rollout),
            Self::AttentionFlow => maps(Maps::Flow),
            Self::GenericAttention => maps(Maps::Generic),
        })
    }
}

impl FromStr for Method {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = if text == "ig" { "integrated-gradients" } else { text };
        Self::ALL.into_iter().find(|method| method.name() == text).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|method| method.name()).collect();
            format!("expected one of {}, found {text:?}", names.join(", "))
        })
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
