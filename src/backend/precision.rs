//! The arithmetic of matrix products: `--precision auto|f32|bf16x3|f16|bf16`.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// What operands are rounded to. Sums, softmax, normalisations and activations are f32 in each of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// The device's own: f32 on the CPU, f16 on a GPU.
    #[default]
    Auto,
    /// Nothing is rounded but sums.
    F32,
    /// Each f32 operand as the sum of two bf16, three products for one: f32-like at a third of bf16's rate.
    Bf16x3,
    /// Operands and stored activations in f16: eleven bits, up to 65504.
    F16,
    /// Operands and stored activations in bf16: eight bits, f32's range.
    Bf16,
}

impl Precision {
    /// From 1 to the next number: what an operand is rounded to twice over.
    pub fn unit(self) -> f64 {
        match self {
            Self::Auto | Self::F32 => f64::from(f32::EPSILON),
            // What is left of a number after eight bits, in eight more.
            Self::Bf16x3 => f64::from(half::bf16::EPSILON) * f64::from(half::bf16::EPSILON) / 2.0,
            Self::F16 => f64::from(half::f16::EPSILON),
            Self::Bf16 => f64::from(half::bf16::EPSILON),
        }
    }

    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::F32 => "f32",
            Self::Bf16x3 => "bf16x3",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Precision {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let all = [Self::Auto, Self::F32, Self::Bf16x3, Self::F16, Self::Bf16];
        all.into_iter().find(|precision| precision.name() == text).ok_or_else(|| {
            Error::usage(format!("precision: expected auto, f32, bf16x3, f16 or bf16, found \"{text}\""))
        })
    }
}
