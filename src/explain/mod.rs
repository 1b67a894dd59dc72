//! Token-level attribution: which tokens, and which words, made the model say this.
//!
//! Every method is one idea in three parts. It names its **probes**: sequences with tokens left out or replaced, or
//! points on a path through embedding space. It says what **pass** they take: forward, forward with attention maps, or
//! back to the embeddings. And it **folds** the answers into one score a token. [`explain`] runs the probes of many
//! records together in packed batches; no answer depends on what it was batched with, and every random draw is a
//! function of the seed, the record's tokens and the sample's number.
//!
//! | method | probes | pass | source |
//! |---|---|---|---|
//! | integrated gradients | nodes of a quadrature between baseline and text | back | Sundararajan, Taly & Yan 2017 |
//! | input × gradient, saliency | the text | back | Shrikumar et al. 2016; Simonyan et al. 2013 |
//! | `SmoothGrad` | the text with noise | back | Smilkov et al. 2017 |
//! | gradient SHAP | drawn points between drawn baselines and the text with noise | back | Erion et al. 2021 |
//! | occlusion | the text without each token | forward | Zeiler & Fergus 2014 |
//! | LIME | the text with tokens or words left out at random | forward | Ribeiro, Singh & Guestrin 2016 |
//! | Kernel SHAP | the text with each, or drawn, sets of tokens or words left out | forward | Lundberg & Lee 2017 |
//! | attention, rollout, flow | the text | forward, maps | Abnar & Zuidema 2020 |
//! | generic attention | the text | back, maps | Chefer, Gur & Wolf 2021 |
//!
//! [`NormLime`] (Ahern et al. 2019) turns LIME's scores of many records into the words that speak for a class anywhere.

mod attention;
mod baseline;
mod features;
mod flow;
mod gradient;
mod integrated_gradients;
mod kernel_shap;
mod least_squares;
mod lime;
mod masks;
mod method;
mod norm_lime;
mod occlusion;
mod probe;
mod quadrature;
mod regression;
mod removal;
mod runner;
mod sampled;
mod subject;
mod words;

pub use baseline::{Baseline, Replacement};
pub use features::Features;
pub(crate) use integrated_gradients::LEAST_CHANGE;
pub use lime::{LimeVariant, locality};
pub use masks::Masks;
pub use method::{Method, Options};
pub use norm_lime::{GlobalWeight, NormLime};
pub use quadrature::Quadrature;
pub use regression::{Fit, Regression, Ridge, Shares};
pub use removal::{Removal, logits_without};
pub use runner::explain;
pub use subject::{Scores, Subject, place_among_draws};
pub use words::{Rationale, Segmentation, Word, Words};
