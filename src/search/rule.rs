//! The names of the rules, and what each needs of a model and of the factors.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::factors::MOST_PIECES;
use crate::model::{Problem, Task};
use crate::store::Checkpoint;

/// How a training record i is scored for a query q; greater is always more supportive.
///
/// With a = h_q·h_i and b = δ_q·δ_i, and [`super::Form`] for how each is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rule {
    /// `a`
    FeatureDot,
    /// `a / (‖h_q‖ ‖h_i‖)`
    FeatureCos,
    /// `−‖h_q − h_i‖`
    FeatureEuc,
    /// `b (a + 1)`: the dot product of the two gradients of the last layer (Charpiat et al. 2019).
    GradDot,
    /// The cosine between the two gradients of the last layer.
    GradCos,
    /// `α_i[c] (a + s)`: what i adds to the refit logit of class c (Yeh et al. 2018).
    Representer,
    /// `Σ` over checkpoints of learning rate × grad-dot (Pruthi et al. 2020).
    TracIn,
    /// `g_qᵀ (H + λI)⁻¹ g_i` (Koh & Liang 2017): N × the rise of q's loss, to first order, if i were removed.
    Influence,
    /// Influence over `√(g_iᵀ (H + λI)⁻¹ g_i)` (Barshan et al. 2020).
    RelatIf,
    /// The dot product of the two gradients of the whole model, both projected.
    ProjectedDot,
    /// The cosine between them.
    ProjectedCos,
    /// `φ_qᵀ (ΦᵀΦ + λI)⁻¹ φ_i (1 − p_i)`, φ the projected gradient of the margin, over the model and its checkpoints
    /// (Park et al. 2023).
    Trak,
    /// `Σ` over checkpoints of the learning rate's share × the cosine between the query's gradient and the record's as
    /// AdamW would follow it, both projected (Xia et al. 2024, LESS).
    Less,
    /// BM25 between the texts ([`crate::lexical`]): no factors are read.
    Bm25,
    /// The record's own loss, whatever the query: a ranking, not an attribution (a baseline).
    Loss,
}

impl Rule {
    /// Every rule, in the order they are listed to a user.
    pub const ALL: [Self; 15] = [
        Self::FeatureDot,
        Self::FeatureCos,
        Self::FeatureEuc,
        Self::GradDot,
        Self::GradCos,
        Self::Representer,
        Self::TracIn,
        Self::Influence,
        Self::RelatIf,
        Self::ProjectedDot,
        Self::ProjectedCos,
        Self::Trak,
        Self::Less,
        Self::Bm25,
        Self::Loss,
    ];

    /// The name on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::FeatureDot => "feature-dot",
            Self::FeatureCos => "feature-cos",
            Self::FeatureEuc => "feature-euc",
            Self::GradDot => "grad-dot",
            Self::GradCos => "grad-cos",
            Self::Representer => "representer",
            Self::TracIn => "tracin",
            Self::Influence => "influence",
            Self::RelatIf => "relatif",
            Self::ProjectedDot => "projected-dot",
            Self::ProjectedCos => "projected-cos",
            Self::Trak => "trak",
            Self::Less => "less",
            Self::Bm25 => "bm25",
            Self::Loss => "loss",
        }
    }

    /// Whether it reads δ or a loss, which a headless model has none of.
    pub fn needs_head(self) -> bool {
        !matches!(self, Self::FeatureDot | Self::FeatureCos | Self::FeatureEuc | Self::Bm25)
    }

    /// Whether its scores depend on which label the query is explained for.
    pub fn needs_target(self) -> bool {
        self.needs_head() && self != Self::Loss
    }

    /// Whether its scores are products with the gradient of the query's loss.
    pub fn is_of_loss(self) -> bool {
        matches!(self, Self::GradDot | Self::GradCos | Self::TracIn | Self::Influence | Self::RelatIf)
    }

    /// Whether there must be factors of training's checkpoints for it.
    pub fn needs_checkpoints(self) -> bool {
        matches!(self, Self::TracIn | Self::Less)
    }

    /// Whether it reads the factors of training's checkpoints where there are any.
    pub fn reads_checkpoints(self) -> bool {
        matches!(self, Self::TracIn | Self::Trak | Self::Less)
    }

    /// Whether it reads what a store of projected gradients holds of them.
    pub fn reads_gradients(self) -> bool {
        !matches!(self, Self::Bm25 | Self::Loss)
    }

    /// Whether it is of projected gradients of the whole model.
    pub fn is_projected(self) -> bool {
        matches!(self, Self::ProjectedDot | Self::ProjectedCos | Self::Trak | Self::Less)
    }

    /// Refuses a rule that a store of `projected` gradients of the whole model has no meaning for, or one of the last
    /// layer's factors.
    ///
    /// # Errors
    /// [`Error::Usage`], with what to do instead.
    pub fn check_gradients(self, projected: bool) -> Result<()> {
        let of_either = matches!(self, Self::TracIn | Self::Influence | Self::RelatIf | Self::Bm25 | Self::Loss);
        if projected && !self.is_projected() && !of_either {
            return Err(Error::usage(format!(
                "rule {self}: the store holds gradients of the whole model, not factors of its last layer"
            ))
            .with_hint(
                "use projected-dot, projected-cos, trak, tracin, less, influence or relatif, or index without --gradients projected",
            ));
        }
        if self.is_projected() && !projected {
            return Err(Error::usage(format!("rule {self}: the store holds factors of the last layer alone"))
                .with_hint("index with --gradients projected"));
        }
        Ok(())
    }

    /// Refuses a rule that a store of a model of this task and this many outputs has no meaning for.
    ///
    /// # Errors
    /// [`Error::Usage`], with what to do instead.
    pub fn check_task(self, task: Task, classes: usize) -> Result<()> {
        if task != Task::Masks || classes <= MOST_PIECES || self != Self::Representer {
            return Ok(());
        }
        Err(Error::usage(format!(
            "rule {self}: a head of {classes} pieces is too large to be fitted again (most: {MOST_PIECES})"
        ))
        .with_hint("use influence, grad-cos, grad-dot or tracin"))
    }

    /// Refuses a rule that a store of this kind of model with these checkpoints cannot be searched by.
    ///
    /// Headless encoders have the rules that need no δ alone; the rules of training's checkpoints need some, `less` of
    /// gradients as AdamW follows them, tracin and trak of gradients as they are.
    ///
    /// # Errors
    /// [`Error::Usage`], with what to do instead.
    pub fn check(self, problem: Problem, checkpoints: &[Checkpoint]) -> Result<()> {
        if self.needs_head() && problem == Problem::Headless {
            return Err(Error::usage(format!("rule {self}: the model has no head, so its records have no δ"))
                .with_hint("use feature-dot, feature-cos, feature-euc or bm25"));
        }
        let more = if self == Self::Less { ", and --adam" } else { "" };
        if self.needs_checkpoints() && checkpoints.is_empty() {
            return Err(Error::usage(format!("rule {self}: the store holds no checkpoints"))
                .with_hint(format!("index with --checkpoint DIR:LEARNING_RATE, once for each{more}")));
        }
        let is_adapted = |checkpoint: &Checkpoint| checkpoint.moments.is_some();
        match self {
            Self::Less if !checkpoints.iter().all(is_adapted) => Err(Error::usage(
                "rule less: the store holds its checkpoints' gradients as they are, not as AdamW follows them",
            )
            .with_hint("index with --adam, of epochs that `train --save-epochs DIR --keep-moments` left")),
            Self::TracIn | Self::Trak if checkpoints.iter().any(is_adapted) => Err(Error::usage(format!(
                "rule {self}: the store holds its checkpoints' gradients as AdamW follows them"
            ))
            .with_hint("use rule less, or index without --adam")),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Rule {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|rule| rule.name() == name).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            Error::usage(format!("unknown rule {name:?}")).with_hint(format!("the rules are {known}"))
        })
    }
}
