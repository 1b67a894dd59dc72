//! A set of training records chosen one by one, each by what its removal does once those before it are gone.
//!
//! First-order scores of a set add up, so that the best set by them is the first of the ranking; what records do
//! together does not: two copies each look dispensable, as the other is there. Here the last layer is fitted again
//! after every choice, and gradients, curvature and scores are those of the new optimum: the marginal effect of record
//! i is `g_qᵀ (H + λI)⁻¹ (g_i + λθ) / (N − 1)`, what leaving it out of the N that are left does to the query's loss to
//! first order, the penalty's part included.

use super::retraining::loss;
use super::{Features, Trainings};
use crate::error::{Error, Result};
use crate::factors::{
    Curvature, CurvatureOptions, InMemory, Preconditioned, QueryFactors, Refit, RefitOptions, Target, refit, refit_from,
};
use crate::interrupt;

/// A record of a set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Chosen {
    /// Its row.
    pub row: usize,
    /// How much the query's loss rises without it, once those before it are gone: to first order.
    pub marginal: f64,
    /// How much it rises without the set up to it, the last layer fitted again.
    pub joint: f64,
}

/// A set, in the order of its choice.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GreedySet {
    /// Its records.
    pub chosen: Vec<Chosen>,
}

impl GreedySet {
    /// Its records' rows.
    pub(super) fn rows(&self) -> Vec<usize> {
        self.chosen.iter().map(|one| one.row).collect()
    }
}

impl Trainings<'_> {
    /// The `count` records whose removal raises the loss of query number `query` the most, chosen one by one; the last
    /// layer has this `penalty`.
    ///
    /// # Errors
    /// As [`refit`] and [`Curvature::fit`]; [`Error::Usage`] where there are no more records than are to be chosen.
    pub fn greedy(&self, query: usize, count: usize, penalty: f64, features: &Features) -> Result<GreedySet> {
        if count >= self.training.len() {
            let rows = self.training.len();
            return Err(Error::usage(format!("a set: expected less than the {rows} training records, found {count}")));
        }
        let width = self.model.width();
        let asks = (&features.queries[query * width..][..width], &self.queries[query].target);
        let mut left: Vec<usize> = (0..self.training.len()).collect();
        let mut optimum = Optimum::of(self, &left, penalty, &features.training, None)?;
        let before = optimum.loss(asks);
        let mut set = GreedySet::default();
        while set.chosen.len() < count {
            let effects = optimum.effects(asks, penalty)?;
            let best = (0..left.len()).fold(0, |best, i| if effects[i] > effects[best] { i } else { best });
            let row = left.remove(best);
            optimum = Optimum::of(self, &left, penalty, &features.training, Some(&optimum))?;
            set.chosen.push(Chosen { row, marginal: effects[best], joint: optimum.loss(asks) - before });
        }
        Ok(set)
    }
}

/// The last layer fitted to some records, whose δ are taken there.
struct Optimum {
    source: InMemory,
    head: Refit,
}

impl Optimum {
    fn of(
        trainings: &Trainings<'_>,
        rows: &[usize],
        penalty: f64,
        features: &[f32],
        from: Option<&Self>,
    ) -> Result<Self> {
        let mut source = trainings.rows(rows, features);
        let options = RefitOptions { penalty, ..RefitOptions::default() };
        let going = || !interrupt::asked();
        let head = match from {
            Some(from) => refit_from(&from.head, &source, &options, &going)?,
            None => refit(&source, &options, &going)?,
        };
        let of_row = |(h, &row): (&[f32], &usize)| delta(&head.logits(h), &trainings.training[row].target);
        source.deltas = source.features.chunks_exact(trainings.model.width()).zip(rows).flat_map(of_row).collect();
        Ok(Self { source, head })
    }

    fn loss(&self, (h, target): (&[f32], &Target)) -> f64 {
        loss(super::retraining::margin(&self.head.logits(h), target))
    }

    /// What leaving out each record does.
    fn effects(&self, (h, target): (&[f32], &Target), penalty: f64) -> Result<Vec<f64>> {
        let options = CurvatureOptions { damping: penalty, ..CurvatureOptions::default() };
        let going = || !interrupt::asked();
        let curvature = Curvature::fit(&self.source, options, &going)?;
        let query = QueryFactors { delta: &delta(&self.head.logits(h), target), features: h };
        let solved = curvature.precondition(&[query], &going)?;
        let Some(Preconditioned::Full(v)) = solved.first() else { return Ok(Vec::new()) };
        let InMemory { width, classes, features, deltas, .. } = &self.source;
        let along = |row: &[f32], h: &[f32]| -> f64 {
            let (row, bias) = row.split_at(*width);
            row.iter().zip(h).map(|(&v, &h)| f64::from(v) * f64::from(h)).sum::<f64>() + f64::from(bias[0])
        };
        let records = features.chunks_exact(*width).zip(deltas.chunks_exact(*classes));
        let score = |(h, delta): (&[f32], &[f32])| -> f64 {
            v.chunks_exact(width + 1).zip(delta).map(|(v, &delta)| f64::from(delta) * along(v, h)).sum()
        };
        let rows = deltas.len() / classes;
        // `g_qᵀ (H + λI)⁻¹ θ`
        let of_parameters = v.chunks_exact(width + 1).zip(self.head.weight.chunks_exact(*width)).zip(&self.head.bias);
        let penalised: f64 = of_parameters
            .map(|((v, w), b)| {
                let (row, bias) = v.split_at(*width);
                row.iter().zip(w).map(|(&v, w)| f64::from(v) * w).sum::<f64>() + f64::from(bias[0]) * b
            })
            .sum();
        let others = rows.saturating_sub(1).max(1) as f64;
        Ok(records.map(|record| (score(record) + penalty * penalised) / others).collect())
    }
}

/// `softmax(z) − onehot(y)`
fn delta(z: &[f64], target: &Target) -> Vec<f32> {
    let largest = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = z.iter().map(|z| (z - largest).exp()).sum();
    let of_class = |(class, z): (usize, &f64)| {
        let gold = f64::from(*target == Target::Class(class));
        ((z - largest).exp() / sum - gold) as f32
    };
    z.iter().enumerate().map(of_class).collect()
}
