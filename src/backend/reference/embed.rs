//! The embedding stage on a path, in f64.

use super::{Float, Loops, add, backward, inner, normalise, widen};
use crate::backend::{Embeddings, Fold, Path, Stage, table_row};
use crate::error::Result;
use crate::tokens::PackedBatch;

/// A token's row of the word table.
pub(super) fn word<F: Float>(embeddings: &Embeddings<Loops<F>>, id: u32) -> Result<Vec<F>> {
    Ok(table_row(&embeddings.word, id, embeddings.norm.width, "token id")?.to_vec())
}

/// Adds what a token's place gives it: position, segment and task.
pub(super) fn add_place<F: Float>(
    sum: &mut [F],
    embeddings: &Embeddings<Loops<F>>,
    batch: &PackedBatch,
    token: usize,
) -> Result<()> {
    let width = sum.len();
    if let Some(table) = &embeddings.position {
        add(sum, table_row(table, batch.positions[token], width, "position")?);
    }
    if let Some(table) = &embeddings.token_type {
        add(sum, table_row(table, batch.type_ids[token], width, "segment")?);
    }
    if let Some(task) = &embeddings.task {
        add(sum, task);
    }
    Ok(())
}

/// A batch on its paths.
struct OnPath<'a, F: Float> {
    embeddings: &'a Embeddings<Loops<F>>,
    batch: &'a PackedBatch,
    path: &'a Path,
}

impl<F: Float> OnPath<'_, F> {
    /// The embedding of `id` in a token's place, where the path moves it.
    fn end(&self, id: u32, token: usize) -> Result<Vec<F>> {
        let width = self.embeddings.norm.width;
        if id == Path::ZERO {
            return Ok(vec![F::of(0.0); width]);
        }
        let word = word(self.embeddings, id)?;
        match self.path.stage {
            Stage::Word => Ok(word),
            Stage::Output => self.output(word, token),
        }
    }

    /// The stage's output for a word embedding.
    fn output(&self, mut word: Vec<F>, token: usize) -> Result<Vec<F>> {
        add_place(&mut word, self.embeddings, self.batch, token)?;
        let mut out = vec![F::of(0.0); word.len()];
        normalise(&mut out, &word, &self.embeddings.norm);
        Ok(out)
    }

    /// `x'` and `x + σn`.
    fn ends(&self, sequence: usize, token: usize) -> Result<(Vec<F>, Vec<F>)> {
        let start = self.end(self.path.baseline[token], token)?;
        let mut end = self.end(self.batch.ids[token], token)?;
        let mut noise = vec![0.0; end.len()];
        self.path.draw_noise(&mut noise, sequence, token - self.batch.range(sequence).start);
        add(&mut end, &widen(&noise));
        Ok((start, end))
    }

    /// `(1 − α) x' + α (x + σn)`
    fn point(&self, sequence: usize, token: usize) -> Result<Vec<F>> {
        let (start, end) = self.ends(sequence, token)?;
        let alpha = F::of(f64::from(self.path.alpha[sequence]));
        Ok(start.iter().zip(&end).map(|(&start, &end)| (F::of(1.0) - alpha) * start + alpha * end).collect())
    }

    /// Every sequence and token.
    fn each(&self, mut visit: impl FnMut(usize, usize) -> Result<()>) -> Result<()> {
        for sequence in 0..self.batch.sequences() {
            for token in self.batch.range(sequence) {
                visit(sequence, token)?;
            }
        }
        Ok(())
    }
}

/// [`crate::backend::Backend::embed_path`]
pub(super) fn path<F: Float>(
    out: &mut [F],
    embeddings: &Embeddings<Loops<F>>,
    batch: &PackedBatch,
    path: &Path,
) -> Result<()> {
    let on_path = OnPath { embeddings, batch, path };
    on_path.each(|sequence, token| {
        let point = on_path.point(sequence, token)?;
        let point = if path.stage == Stage::Word { on_path.output(point, token)? } else { point };
        out[token * point.len()..][..point.len()].copy_from_slice(&point);
        Ok(())
    })
}

/// [`crate::backend::Backend::embed_backward`]
pub(super) fn backward<F: Float>(
    gradient: &mut [F],
    embeddings: &Embeddings<Loops<F>>,
    batch: &PackedBatch,
    path: &Path,
) -> Result<()> {
    let on_path = OnPath { embeddings, batch, path };
    if path.stage == Stage::Output {
        return Ok(());
    }
    on_path.each(|sequence, token| {
        let mut sum = on_path.point(sequence, token)?;
        add_place(&mut sum, embeddings, batch, token)?;
        let gradient = &mut gradient[token * sum.len()..][..sum.len()];
        let dy = gradient.to_vec();
        backward::normalise(gradient, &dy, &sum, &embeddings.norm);
        Ok(())
    })
}

/// [`crate::backend::Backend::fold`]
pub(super) fn fold<F: Float>(
    out: &mut [F],
    gradient: &[F],
    embeddings: &Embeddings<Loops<F>>,
    batch: &PackedBatch,
    path: &Path,
    fold: Fold,
) -> Result<()> {
    let on_path = OnPath { embeddings, batch, path };
    let width = embeddings.norm.width;
    on_path.each(|sequence, token| {
        let g = &gradient[token * width..][..width];
        match fold {
            Fold::Whole => out[token * width..][..width].copy_from_slice(g),
            Fold::Norm => out[token] = inner(g, g).map(f64::sqrt),
            Fold::Step => {
                let (start, end) = on_path.ends(sequence, token)?;
                let step: Vec<F> = end.iter().zip(&start).map(|(&end, &start)| end - start).collect();
                out[token] = inner(g, &step);
            }
        }
        Ok(())
    })
}
