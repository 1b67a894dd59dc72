//! Where a model runs: `--device auto|cpu|cuda[:N]`.

use std::str::FromStr;

use crate::error::{Error, Result};

/// A device, as asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// The CPU: a GPU is used where it is asked for.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// A CUDA device, by number.
    Cuda(usize),
}

impl FromStr for Device {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => {
                text.strip_prefix("cuda:").and_then(|number| number.parse().ok()).map(Self::Cuda).ok_or_else(|| {
                    Error::usage(format!("device: expected auto, cpu, cuda or cuda:N, found \"{text}\""))
                })
            }
        }
    }
}
