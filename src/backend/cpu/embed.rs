//! The embedding stage: rows of the tables added up, then normalised, a token at a time; and the same at a point of a
//! path.

use super::Cpu;
use super::layer_norm::{self, layer_norm};
use super::simd::{Kernel, LANES, Vector};
use crate::backend::{Embeddings, Fold, Path, Stage, table_row};
use crate::error::Result;
use crate::tokens::PackedBatch;

/// `out [T, E] = LN(word + position + token type + task)`; fails where a token is beyond a table.
pub(super) fn embed(cpu: Cpu, out: &mut [f32], embeddings: &Embeddings<Cpu>, batch: &PackedBatch) -> Result<()> {
    let width = embeddings.norm.width;
    let out = &mut out[..batch.tokens() * width];
    for (token, out) in out.chunks_exact_mut(width.max(1)).enumerate() {
        out.copy_from_slice(table_row(&embeddings.word, batch.ids[token], width, "token id")?);
        add_place(out, embeddings, batch, token)?;
    }
    layer_norm(cpu.isa, out, (&embeddings.norm).into());
    Ok(())
}

/// Adds what a token's place gives it: position, segment and task.
fn add_place(sum: &mut [f32], embeddings: &Embeddings<Cpu>, batch: &PackedBatch, token: usize) -> Result<()> {
    let width = sum.len();
    if let Some(table) = &embeddings.position {
        add(sum, table_row(table, batch.positions[token], width, "position")?);
    }
    if let Some(table) = &embeddings.token_type {
        add(sum, table_row(table, batch.type_ids[token], width, "segment")?);
    }
    if let Some(task) = &embeddings.task {
        add(sum, &task[..width]);
    }
    Ok(())
}

fn add(sum: &mut [f32], row: &[f32]) {
    sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
}

/// A batch on its paths.
pub(super) struct OnPath<'a> {
    pub(super) cpu: Cpu,
    pub(super) embeddings: &'a Embeddings<Cpu>,
    pub(super) batch: &'a PackedBatch,
    pub(super) path: &'a Path,
}

/// Both ends of one token's path: `x'` and `x + σn`.
struct Ends {
    start: Vec<f32>,
    end: Vec<f32>,
    noise: Vec<f32>,
}

impl OnPath<'_> {
    fn width(&self) -> usize {
        self.embeddings.norm.width
    }

    /// The embedding stage's output at each token's point, to `out [T, E]`.
    pub(super) fn embed(&self, out: &mut [f32]) -> Result<()> {
        self.points(out)?;
        if self.path.stage == Stage::Word {
            layer_norm(self.cpu.isa, &mut out[..self.batch.tokens() * self.width()], (&self.embeddings.norm).into());
        }
        Ok(())
    }

    /// The gradient at what the path moves, from that at the stage's output, in place.
    pub(super) fn backward(&self, gradient: &mut [f32]) -> Result<()> {
        if self.path.stage == Stage::Output {
            return Ok(());
        }
        let mut sums = vec![0.0; self.batch.tokens() * self.width()];
        self.points(&mut sums)?;
        let gradient = &mut gradient[..sums.len()];
        layer_norm::backward(self.cpu.isa, gradient, &sums, (&self.embeddings.norm).into());
        Ok(())
    }

    /// What `fold` makes of each token's gradient.
    pub(super) fn fold(&self, out: &mut [f32], gradient: &[f32], fold: Fold) -> Result<()> {
        let width = self.width();
        let gradient = &gradient[..self.batch.tokens() * width];
        match fold {
            Fold::Whole => out[..gradient.len()].copy_from_slice(gradient),
            Fold::Norm => {
                for (out, gradient) in out.iter_mut().zip(gradient.chunks_exact(width.max(1))) {
                    *out = super::dot_on(self.cpu.isa, gradient, gradient).sqrt();
                }
            }
            Fold::Step => self.each_token(|_, token, ends| {
                let step = ends.step();
                out[token] = super::dot_on(self.cpu.isa, &gradient[token * width..][..width], step);
                Ok(())
            })?,
        }
        Ok(())
    }

    /// Each token's point to `out [T, E]`: with [`Stage::Word`] the sum that is to be normalised, with
    /// [`Stage::Output`] the output.
    fn points(&self, out: &mut [f32]) -> Result<()> {
        let width = self.width();
        self.each_token(|sequence, token, ends| {
            let out = &mut out[token * width..][..width];
            let alpha = self.path.alpha[sequence];
            self.cpu.isa.run(Mix { out, start: &ends.start, end: &ends.end, alpha });
            match self.path.stage {
                Stage::Word => add_place(out, self.embeddings, self.batch, token),
                Stage::Output => Ok(()),
            }
        })
    }

    /// Tells `visit` of every sequence and token, with both ends of its path.
    fn each_token(&self, mut visit: impl FnMut(usize, usize, &mut Ends) -> Result<()>) -> Result<()> {
        let row = || vec![0.0; self.width()];
        let mut ends = Ends { start: row(), end: row(), noise: row() };
        for sequence in 0..self.batch.sequences() {
            let tokens = self.batch.range(sequence);
            for (place, token) in tokens.enumerate() {
                self.load(&mut ends, sequence, token, place)?;
                visit(sequence, token, &mut ends)?;
            }
        }
        Ok(())
    }

    fn load(&self, ends: &mut Ends, sequence: usize, token: usize, place: usize) -> Result<()> {
        self.end_of(&mut ends.start, self.path.baseline[token], token)?;
        self.end_of(&mut ends.end, self.batch.ids[token], token)?;
        if self.path.sigma[sequence] != 0.0 {
            self.path.draw_noise(&mut ends.noise, sequence, place);
            add(&mut ends.end, &ends.noise);
        }
        Ok(())
    }

    /// The embedding of `id` in a token's place, where the path moves it.
    fn end_of(&self, out: &mut [f32], id: u32, token: usize) -> Result<()> {
        if id == Path::ZERO {
            out.fill(0.0);
            return Ok(());
        }
        out.copy_from_slice(table_row(&self.embeddings.word, id, out.len(), "token id")?);
        if self.path.stage == Stage::Output {
            add_place(out, self.embeddings, self.batch, token)?;
            layer_norm(self.cpu.isa, out, (&self.embeddings.norm).into());
        }
        Ok(())
    }
}

impl Ends {
    /// `x + σn − x'`, in the place of the end.
    fn step(&mut self) -> &[f32] {
        self.end.iter_mut().zip(&self.start).for_each(|(end, start)| *end -= start);
        &self.end
    }
}

/// `out = (1 − α) start + α end`: exact at both ends.
struct Mix<'a> {
    out: &'a mut [f32],
    start: &'a [f32],
    end: &'a [f32],
    alpha: f32,
}

impl Kernel for Mix<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let (alpha, rest) = (V::splat(self.alpha), V::splat(1.0 - self.alpha));
        let (out, last_out) = self.out.as_chunks_mut::<LANES>();
        let (start, last_start) = self.start.as_chunks::<LANES>();
        let (end, last_end) = self.end.as_chunks::<LANES>();
        for ((out, start), end) in out.iter_mut().zip(start).zip(end) {
            V::load(end).fma(alpha, V::load(start).mul(rest)).store(out);
        }
        if !last_out.is_empty() {
            let (start, end) = (V::load_partial(last_start), V::load_partial(last_end));
            end.fma(alpha, start.mul(rest)).store_partial(last_out);
        }
    }
}
