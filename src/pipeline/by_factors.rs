//! Scores that are known of every training factor once a query has been solved for.

use std::ops::Range;

use rayon::prelude::*;

use crate::error::Result;
use crate::factors::{AnswerRepresenter, Bundle, FactorKernel};
use crate::interrupt;
use crate::search::Scorer;
use crate::store::Store;

/// Queries that are multiplied with the factors at a time: their products are held.
const TOGETHER: usize = 256;

/// Of each query, what each factor of the store adds; a record's score is the sum over its own.
#[derive(Debug)]
pub(super) struct ByFactors<'a> {
    store: &'a Store,
    /// The factors of each row.
    records: &'a [Range<usize>],
    /// Of each query, `[F]`.
    scores: Vec<Vec<f32>>,
    /// What rows are divided by.
    norms: Option<&'a [f32]>,
}

impl<'a> ByFactors<'a> {
    /// Influence on the losses of queries, by the kernel of the store's factors.
    pub(super) fn influence(
        store: &'a Store,
        (kernel, records): (&FactorKernel, &'a [Range<usize>]),
        norms: Option<&'a [f32]>,
        asking: &[Bundle],
    ) -> Result<Self> {
        let mut scores = Vec::with_capacity(asking.len());
        for some in asking.chunks(TOGETHER) {
            let products = FactorKernel::products(store, some, &|| !interrupt::asked())?;
            scores.par_extend(products.par_iter().map(|products| kernel.influence(products)));
        }
        Ok(Self { store, records, scores, norms })
    }

    /// What each boundary adds to the logits of the boundaries of queries: their features, each for its output.
    pub(super) fn of_answers(
        store: &'a Store,
        (points, records): (&AnswerRepresenter, &'a [Range<usize>]),
        asking: &[Bundle],
    ) -> Self {
        let width = store.settings().width;
        let of_query = |bundle: &Bundle| {
            // Logits of one output are linear in the features: those are added up first.
            let mut asked = [vec![0.0; width], vec![0.0; width]];
            for (h, &output) in bundle.features.chunks_exact(width).zip(&bundle.classes) {
                asked[output].iter_mut().zip(h).for_each(|(sum, &h)| *sum += f64::from(h));
            }
            let score = |(factor, point): (usize, &[f32])| {
                asked[factor % 2].iter().zip(point).map(|(h, &x)| h * f64::from(x)).sum::<f64>() as f32
            };
            points.points.chunks_exact(width).enumerate().map(score).collect()
        };
        Self { store, records, scores: asking.par_iter().map(of_query).collect(), norms: None }
    }

    fn norm(&self, row: usize) -> f32 {
        self.norms.map_or(1.0, |norms| norms[row])
    }
}

impl Scorer for ByFactors<'_> {
    fn score(&self, shard: usize, rows: Range<usize>, asked: &[usize], scores: &mut [f32]) -> Result<()> {
        let first = self.store.first_row(shard);
        for (scores, &query) in scores.chunks_exact_mut(rows.len()).zip(asked) {
            for (score, row) in scores.iter_mut().zip(rows.clone()) {
                let sum: f32 = self.scores[query][self.records[first + row].clone()].iter().sum();
                let norm = self.norm(first + row);
                *score = if norm == 0.0 { 0.0 } else { sum / norm };
            }
        }
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.scores.iter().map(|scores| scores.len() * size_of::<f32>()).sum()
    }

    fn parts(&self, shard: usize, row: usize, asked: usize) -> Vec<f32> {
        let row = self.store.first_row(shard) + row;
        let norm = self.norm(row);
        let over = |part: &f32| if norm == 0.0 { 0.0 } else { part / norm };
        self.scores[asked][self.records[row].clone()].iter().map(over).collect()
    }
}
