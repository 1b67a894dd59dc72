//! Where a model runs: `--device auto|cpu|cuda[:N]|cuda:N,M|cuda:all`.

use std::str::FromStr;

use crate::backend::Precision;
use crate::backend::gpu::{self, Gpu};
use crate::error::{Error, Result};

/// A device, as asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// Never a GPU by itself: the CPU, as [`Device::Cpu`]. A GPU is used where it is asked for by name.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// CUDA devices by number, which share the work: results are those of one.
    Cuda(Vec<usize>),
    /// Every CUDA device of the machine.
    EveryCuda,
}

impl Device {
    /// The first of several, for work that they do not share.
    #[must_use]
    pub fn first(&self) -> Self {
        match self {
            Self::Cuda(ordinals) => Self::Cuda(ordinals.iter().take(1).copied().collect()),
            Self::EveryCuda => Self::Cuda(vec![0]),
            Self::Auto | Self::Cpu => self.clone(),
        }
    }

    /// Opens its GPUs; none for the CPU.
    ///
    /// # Errors
    /// As [`Gpu::open_all`]; where every GPU is asked for and there is none.
    pub fn gpus(&self, precision: Precision) -> Result<Vec<Gpu>> {
        match self {
            Self::Auto | Self::Cpu => Ok(Vec::new()),
            Self::Cuda(ordinals) => Gpu::open_all(ordinals, precision),
            Self::EveryCuda => {
                let ordinals: Vec<usize> = gpu::devices()?.into_iter().map(|info| info.ordinal).collect();
                Gpu::open_all(&ordinals, precision)
            }
        }
    }
}

impl FromStr for Device {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(vec![0])),
            "cuda:all" => Ok(Self::EveryCuda),
            _ => numbers(text).map(Self::Cuda).ok_or_else(|| {
                let expected = "auto, cpu, cuda, cuda:N, cuda:N,M (each once) or cuda:all";
                Error::usage(format!("device: expected {expected}, found \"{text}\""))
            }),
        }
    }
}

/// Those of `cuda:0,1`; none where there is anything else in it, or one of them twice.
fn numbers(text: &str) -> Option<Vec<usize>> {
    let mut numbers = Vec::new();
    for number in text.strip_prefix("cuda:")?.split(',') {
        let number = number.parse().ok()?;
        if numbers.contains(&number) {
            return None;
        }
        numbers.push(number);
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use super::Device;

    #[test]
    fn a_device_is_named_or_numbered() {
        let parsed = |text: &str| text.parse::<Device>().ok();
        assert_eq!(parsed("cuda"), Some(Device::Cuda(vec![0])));
        assert_eq!(parsed("cuda:2"), Some(Device::Cuda(vec![2])));
        assert_eq!(parsed("cuda:1,0"), Some(Device::Cuda(vec![1, 0])));
        assert_eq!(parsed("cuda:all"), Some(Device::EveryCuda));
        for wrong in ["cuda:", "cuda:0,", "cuda:0,0", "cuda:-1", "cuda:0;1", "gpu", ""] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
    }
}
