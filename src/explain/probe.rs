//! The vocabulary between methods and the runner: probes out, answers back, round by round.

use std::sync::Arc;

use super::subject::{Scores, Sequence};
use crate::backend::Fold;
use crate::model::MapKind;
use crate::tokens::{Masked, Positions};

/// One question to the network.
#[derive(Clone, Debug)]
pub(super) struct Probe {
    pub(super) sequence: Arc<Sequence>,
    /// Which of its tokens another stands in for, and which: as [`Masked`] has them. All of a round have the same one.
    pub(super) replaced: Option<(Vec<u32>, u32)>,
    /// Where it stands; at the sequence's own embeddings where there is none.
    pub(super) point: Option<Point>,
    pub(super) want: Want,
}

impl Probe {
    /// What is asked of a sequence as it is.
    pub(super) fn of(sequence: &Arc<Sequence>, point: Option<Point>, want: Want) -> Self {
        Self { sequence: Arc::clone(sequence), replaced: None, point, want }
    }

    /// The logits of a sequence without some of its tokens (ascending): replaced, or gone. Where all are to go, the
    /// first stays: no sequence is empty.
    pub(super) fn without(
        sequence: &Arc<Sequence>,
        tokens: &[usize],
        replacement: Option<u32>,
        positions: Positions,
    ) -> Self {
        let Some(id) = replacement else {
            let all = tokens.len() == sequence.ids.len();
            let rest = sequence.deleted(&tokens[usize::from(all)..], positions);
            return Self::of(&Arc::new(rest), None, Want::Logits);
        };
        let bits = Masked::bits_of(sequence.ids.len(), tokens.iter().copied());
        Self { replaced: Some((bits, id)), ..Self::of(sequence, None, Want::Logits) }
    }
}

/// A point on a path: see [`crate::backend::Path`].
#[derive(Clone, Debug)]
pub(super) struct Point {
    pub(super) baseline: Arc<[u32]>,
    pub(super) alpha: f32,
    pub(super) sigma: f32,
    /// Which sample its noise is that of.
    pub(super) sample: u32,
}

/// What is asked beside the logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// Nothing.
    Logits,
    /// Attention maps of the layers from this one on.
    Maps(MapKind, usize),
    /// Rows from each objective's roots down through the maps of the layers from this one on.
    Rows(MapKind, usize, Mix),
    /// The gradient of every objective, folded.
    Gradient(Fold),
    /// The same for one of the subject's objectives, through maps weighted by its gradient.
    GradientRows(usize, usize, Mix),
}

/// What a row `r` becomes at a map A.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mix {
    /// `r A`
    Below,
    /// `(r + r A) / 2`
    Mean,
    /// `r + r A`
    Sum,
}

impl Mix {
    /// What `r` and `r A` are multiplied by.
    pub(super) fn shares(self) -> [f32; 2] {
        match self {
            Self::Below => [0.0, 1.0],
            Self::Mean => [0.5, 0.5],
            Self::Sum => [1.0, 1.0],
        }
    }
}

/// What came of a probe of L tokens.
#[derive(Clone, Debug, Default)]
pub(super) struct Answer {
    pub(super) logits: Vec<f32>,
    /// For each objective, the folded gradient, or the row that came down to the tokens.
    pub(super) folded: Vec<Vec<f32>>,
    /// For each layer `[L, L]`, or `[1, L]` where only the first token asked.
    pub(super) maps: Vec<Vec<f32>>,
}

/// One subject's way through a method.
pub(super) trait Course: Send {
    /// The probes of the next round; none when there is nothing more to ask.
    fn probes(&mut self) -> Vec<Probe>;
    /// Their answers, in their order.
    fn take(&mut self, answers: Vec<Answer>);
    /// Scores for each objective.
    fn finish(&mut self) -> Vec<Scores>;
}
