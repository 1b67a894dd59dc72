//! What the yardsticks of token methods have in common: whose scores are judged, and what decides them.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use wherefore::Result;
use wherefore::evaluate::{Judged, TokenOptions};
use wherefore::explain::{Baseline, Method, Options, Rationale, Replacement, Segmentation};

use crate::cli::run_record::note_out;

/// Whose scores are put to the test.
#[derive(Args)]
pub(super) struct TokenArguments {
    /// The methods, by commas or repeated: those of `explain`, and random
    #[arg(
        long = "method",
        value_name = "METHODS",
        value_delimiter = ',',
        default_value = "integrated-gradients,input-x-gradient,saliency,occlusion,attention,attention-rollout,generic-attention,random"
    )]
    methods: Vec<Judged>,
    /// What a word is: segmenter (Unicode words, Chinese by a dictionary), characters, or none (tokens are judged)
    #[arg(long, default_value_t)]
    words: Segmentation,
    /// Words in a rationale: a number, or a share such as 0.2
    #[arg(long, value_name = "N|RATIO", default_value_t)]
    rationale: Rationale,
    /// What stands in for a token that is left out: mask, pad, unk or delete
    #[arg(long, default_value_t)]
    occlude: Replacement,
    /// Gradient evaluations of integrated gradients
    #[arg(long, value_name = "N", default_value_t = 50)]
    steps: usize,
    /// Where paths start
    #[arg(long, value_enum, default_value_t = BaselineKind::Pad)]
    baseline: BaselineKind,
    /// Draws of smoothgrad, gradient-shap, lime and kernel-shap [default: as for `explain`]
    #[arg(long, value_name = "N")]
    samples: Option<usize>,
    /// Keep what is found here, 64 records at a time, and go on from what is there
    #[arg(long, value_name = "FILE")]
    keep: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum BaselineKind {
    Zero,
    Pad,
    Mask,
}

impl TokenArguments {
    /// Notes where what is found is kept, before anything is read.
    pub(super) fn note_keep(&self) -> Result<()> {
        self.keep.as_deref().map_or(Ok(()), |keep| note_out("--keep", keep))
    }

    pub(super) fn options(&self, seed: u64) -> TokenOptions {
        // Beside smoothgrad, gradient-shap has its noise.
        let smooth = self.methods.contains(&Judged::Of(Method::SmoothGrad));
        let explain = Options {
            steps: self.steps,
            samples: self.samples,
            baseline: match self.baseline {
                BaselineKind::Zero => Baseline::Zero,
                BaselineKind::Pad => Baseline::Pad,
                BaselineKind::Mask => Baseline::Mask,
            },
            noise: smooth.then(|| Options::default().noise_of(Method::SmoothGrad)),
            replacement: self.occlude,
            seed,
            ..Options::default()
        };
        TokenOptions {
            methods: self.methods.clone(),
            explain,
            words: self.words,
            rationale: self.rationale,
            keep: self.keep.clone(),
        }
    }

    /// As they are written beside results.
    pub(super) fn names(&self) -> Vec<&'static str> {
        self.methods.iter().map(|judged| judged.name()).collect()
    }
}
