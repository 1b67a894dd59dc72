//! LIME (Ribeiro, Singh & Guestrin 2016): the coefficients of a linear model of the output around the text.
//!
//! `TrustAI`'s setting is the default: tokens as features, each left out by the toss of a coin, no ridge. The original
//! draws how many words to leave out first, has a ridge of 1, and keeps 10 features.

use std::fmt;
use std::str::FromStr;

use super::method::{Method, Options};
use super::probe::{Answer, Course, Probe};
use super::sampled::Sampled;
use super::subject::{Scores, Subject};
use super::{Features, Masks, Regression};
use crate::error::{Error, Result};
use crate::model::Model;

/// Whose LIME: how samples are drawn, and what settings are where nothing is said of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LimeVariant {
    /// `TrustAI`'s: 1000 samples that keep each token with probability ½; no ridge, all features.
    #[default]
    TrustAi,
    /// The authors': 5000 samples that leave out a number of words drawn first; a ridge of 1, 10 features.
    Original,
}

impl LimeVariant {
    /// How many samples it takes.
    pub const fn samples(self) -> usize {
        match self {
            Self::TrustAi => 1000,
            Self::Original => 5000,
        }
    }

    /// What it leaves out.
    pub const fn features(self) -> Features {
        match self {
            Self::TrustAi => Features::Tokens,
            Self::Original => Features::Words,
        }
    }

    const fn ridge(self) -> f64 {
        match self {
            Self::TrustAi => 0.0,
            Self::Original => 1.0,
        }
    }

    const fn num_features(self) -> usize {
        match self {
            Self::TrustAi => usize::MAX,
            Self::Original => 10,
        }
    }

    fn draw(self, features: usize, samples: usize, seed: u64, record: u32) -> Masks {
        match self {
            Self::TrustAi => Masks::coins(features, samples, seed, record),
            Self::Original => Masks::removals(features, samples, seed, record),
        }
    }
}

impl FromStr for LimeVariant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "trustai" => Ok(Self::TrustAi),
            "original" => Ok(Self::Original),
            _ => Err(format!("expected trustai or original, found {text:?}")),
        }
    }
}

impl fmt::Display for LimeVariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::TrustAi => "trustai",
            Self::Original => "original",
        })
    }
}

/// The weight of a sample that keeps `kept` of `features` features: `√exp(−d²/width²)` of its cosine distance to the
/// whole text, `d = 1 − √(kept/features)`. The width of 0.25 is both `TrustAI`'s and the authors', who take 100 d and
/// say 25.
pub fn locality(kept: usize, features: usize, width: f64) -> f64 {
    let distance = if features == 0 { 0.0 } else { 1.0 - (kept as f64 / features as f64).sqrt() };
    (-0.5 * (distance / width).powi(2)).exp()
}

/// Refuses settings that make no regression.
pub(super) fn check(options: &Options) -> Result<()> {
    let refuse = |what, expected, found: &dyn fmt::Display| {
        Err(Error::usage(format!("lime: {what}: expected {expected}, found {found}")))
    };
    let width = options.kernel_width;
    if !width.is_finite() || width <= 0.0 {
        return refuse("kernel width", "a number above 0", &width);
    }
    if let Some(ridge) = options.ridge.filter(|ridge| !ridge.is_finite() || *ridge < 0.0) {
        return refuse("ridge", "a number from 0 on", &ridge);
    }
    if options.num_features == Some(0) {
        return refuse("number of features", "at least 1", &0);
    }
    Ok(())
}

pub(super) struct Lime {
    sampled: Sampled,
    outputs: Vec<f64>,
    kernel_width: f64,
    ridge: f64,
    num_features: usize,
}

impl Lime {
    pub(super) fn new(model: &Model, subject: &Subject<'_>, options: &Options) -> Result<Self> {
        let variant = options.variant;
        let draw = |features: usize| {
            let samples = options.samples_of(Method::Lime, features);
            let given = options.given_masks(features);
            given.unwrap_or_else(|| variant.draw(features, samples, options.seed, subject.draw))
        };
        Ok(Self {
            sampled: Sampled::new(model, subject, Method::Lime, options, draw)?,
            outputs: subject.outputs(),
            kernel_width: options.kernel_width,
            ridge: options.ridge.unwrap_or(variant.ridge()),
            num_features: options.num_features.unwrap_or(variant.num_features()),
        })
    }

    /// Each mask's weight, times the number of its samples.
    fn weights(&self) -> Vec<f64> {
        let masks = self.sampled.masks();
        let weight = |(kept, &count)| f64::from(count) * locality(kept, masks.features(), self.kernel_width);
        masks.sizes().zip(masks.counts()).map(weight).collect()
    }
}

impl Course for Lime {
    fn probes(&mut self) -> Vec<Probe> {
        self.sampled.probes()
    }

    fn take(&mut self, answers: Vec<Answer>) {
        self.sampled.take(&answers);
    }

    fn finish(&mut self) -> Vec<Scores> {
        let masks = self.sampled.masks();
        let regression = Regression::new(masks, self.weights());
        let all: Vec<usize> = (0..masks.features()).collect();
        // What all objectives share is factored once.
        let of_all = (self.num_features >= all.len()).then(|| regression.ridge(&all, self.ridge));
        let fit = |outputs: &Vec<f64>| match &of_all {
            Some(ridge) => ridge.fit(outputs),
            None => regression.ridge(&regression.choose(outputs, self.num_features), self.ridge).fit(outputs),
        };
        let scores = |(outputs, &output): (&Vec<f64>, &f64)| {
            let fit = fit(outputs);
            Scores {
                tokens: self.sampled.scores(&fit.coefficients),
                output,
                steps: Some(masks.samples()),
                r_squared: fit.r_squared,
                ..Scores::default()
            }
        };
        self.sampled.outputs().iter().zip(&self.outputs).map(scores).collect()
    }
}
