//! How the learning rate goes: up to its height over the warm-up, then down to zero, as `transformers` has it.

use std::f64::consts::PI;
use std::str::FromStr;

use crate::error::Error;

/// What follows the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// A straight line down to zero.
    #[default]
    Linear,
    /// Half a cosine down to zero.
    Cosine,
    /// Nothing.
    Constant,
}

impl FromStr for Schedule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "linear" => Ok(Self::Linear),
            "cosine" => Ok(Self::Cosine),
            "constant" => Ok(Self::Constant),
            _ => Err(Error::usage(format!("schedule: expected linear, cosine or constant, found \"{text}\""))),
        }
    }
}

/// How long the warm-up is.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Warmup {
    /// So many steps.
    Steps(u64),
    /// A share of all steps, rounded up.
    Share(f64),
}

impl Warmup {
    /// In steps.
    pub fn steps(self, total: u64) -> u64 {
        match self {
            Self::Steps(steps) => steps,
            Self::Share(share) => (share * total as f64).ceil() as u64,
        }
    }
}

impl FromStr for Warmup {
    type Err = Error;

    /// A whole number is of steps, a fraction below one a share.
    fn from_str(text: &str) -> Result<Self, Error> {
        let share = || text.parse().ok().filter(|share| (0.0..1.0).contains(share)).map(Self::Share);
        text.parse().ok().map(Self::Steps).or_else(share).ok_or_else(|| {
            Error::usage(format!("warmup: expected a number of steps, or a share of them below 1, found \"{text}\""))
        })
    }
}

/// The learning rate of every step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// What follows the warm-up.
    pub schedule: Schedule,
    /// The height.
    pub height: f64,
    /// Steps of warm-up; the first of them is at zero, as there.
    pub warmup: u64,
    /// Steps in all.
    pub steps: u64,
}

impl Rates {
    /// At step `step`, from 0.
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.height * step as f64 / self.warmup.max(1) as f64;
        }
        let past = (step - self.warmup) as f64 / self.steps.saturating_sub(self.warmup).max(1) as f64;
        self.height
            * match self.schedule {
                Schedule::Constant => 1.0,
                Schedule::Linear => (1.0 - past).max(0.0),
                Schedule::Cosine => (0.5 * (1.0 + (PI * past).cos())).max(0.0),
            }
    }
}
