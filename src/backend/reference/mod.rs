//! The judge: every operation as plain loops, to be read beside the formula, never to be fast.
//!
//! In f64 it is what every other backend is compared with. The same loops in f32 say how much of a difference is f32's
//! own: a backend is allowed twice their error.

mod backward;
mod embed;
mod special;
mod training;

pub use self::special::{activate, derivative, erf, erfc};
use super::{
    Activation, Attended, AttentionGradients, AttentionMap, Backend, Columns, Embeddings, Fold, Norm, Objective, Path,
    Pooling, Precision, Rows, Step,
};
use crate::error::Result;
use crate::tokens::PackedBatch;
use std::iter::Sum;
use std::marker::PhantomData;
use std::ops::{Add, AddAssign, Div, Mul, Range, Sub};

/// What loops are computed in. Weights and inputs come as f32, and are exact in either.
pub trait Float:
    Copy
    + PartialOrd
    + Send
    + Sync
    + 'static
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + AddAssign
    + Sum
{
    /// The nearest to `x`.
    fn of(x: f64) -> Self;
    /// Itself, exactly.
    fn wide(self) -> f64;
    /// A function of it, rounded once.
    #[must_use]
    fn map(self, f: impl FnOnce(f64) -> f64) -> Self {
        Self::of(f(self.wide()))
    }
}

impl Float for f64 {
    fn of(x: f64) -> Self {
        x
    }
    fn wide(self) -> f64 {
        self
    }
}

impl Float for f32 {
    fn of(x: f64) -> Self {
        x as Self
    }
    fn wide(self) -> f64 {
        f64::from(self)
    }
}

/// The backend of plain loops in F: every sum one accumulator in ascending order, every function correctly rounded.
#[derive(Clone, Copy, Debug, Default)]
pub struct Loops<F>(PhantomData<F>);

/// In f64: results are within a few ulps of the truth.
pub type Reference = Loops<f64>;
/// [`type@Reference`], the value.
#[allow(non_upper_case_globals)] // stands where a unit struct would
pub const Reference: Reference = Loops(PhantomData);
/// In f32.
pub type Plain = Loops<f32>;
/// [`type@Plain`], the value.
#[allow(non_upper_case_globals)]
pub const Plain: Plain = Loops(PhantomData);

/// A linear layer.
pub struct Linear<F> {
    /// `[outputs, inputs]`
    weight: Vec<F>,
    /// `[outputs]`
    bias: Vec<F>,
    inputs: usize,
    outputs: usize,
}

impl<F: Float> Backend for Loops<F> {
    type Tensor = Vec<F>;
    type Linear = Linear<F>;
    type Batch = PackedBatch;
    type Path = Path;

    fn name(&self) -> String {
        "reference".to_owned()
    }

    fn precision(&self) -> Precision {
        Precision::F32
    }

    fn workers(&self) -> usize {
        rayon::current_num_threads()
    }

    fn batch_tokens(&self) -> usize {
        256
    }

    fn tensor(&self, len: usize) -> Result<Vec<F>> {
        Ok(vec![F::of(f64::NAN); len])
    }

    fn upload(&self, values: &[f32]) -> Result<Vec<F>> {
        Ok(widen(values))
    }

    fn download(&self, out: &mut [f32], tensor: &Vec<F>) -> Result<()> {
        for (out, &x) in out.iter_mut().zip(&tensor[..]) {
            *out = x.wide() as f32;
        }
        Ok(())
    }

    fn stage(&self, batch: PackedBatch) -> Result<PackedBatch> {
        Ok(batch)
    }

    fn stage_path(&self, path: Path) -> Result<Path> {
        Ok(path)
    }

    fn pack_linear(&self, weight: &[f32], bias: &[f32], inputs: usize, outputs: usize) -> Result<Linear<F>> {
        Ok(Linear { weight: widen(weight), bias: widen(bias), inputs, outputs })
    }

    fn embed(&self, out: &mut Vec<F>, embeddings: &Embeddings<Self>, batch: &PackedBatch) -> Result<()> {
        let width = embeddings.norm.width;
        for token in 0..batch.tokens() {
            let mut sum = embed::word(embeddings, batch.ids[token])?;
            embed::add_place(&mut sum, embeddings, batch, token)?;
            normalise(&mut out[token * width..][..width], &sum, &embeddings.norm);
        }
        Ok(())
    }

    fn layer_norm(&self, out: &mut Vec<F>, x: &Vec<F>, norm: &Norm<Self>, rows: usize) -> Result<()> {
        for row in 0..rows {
            let at = row * norm.width..(row + 1) * norm.width;
            normalise(&mut out[at.clone()], &x[at], norm);
        }
        Ok(())
    }

    fn linear(
        &self,
        out: &mut Vec<F>,
        x: &Vec<F>,
        weights: &Linear<F>,
        activation: Activation,
        residual: Option<&Vec<F>>,
        rows: usize,
    ) -> Result<()> {
        for row in 0..rows {
            let x = &x[row * weights.inputs..][..weights.inputs];
            for output in 0..weights.outputs {
                let weight = &weights.weight[output * weights.inputs..][..weights.inputs];
                let at = row * weights.outputs + output;
                let sum = inner(x, weight) + weights.bias[output];
                out[at] = sum.map(|sum| activate(activation, sum));
                if let Some(residual) = residual {
                    out[at] += residual[at];
                }
            }
        }
        Ok(())
    }

    fn attention(&self, out: &mut Vec<F>, attended: &Attended<'_, Self>) -> Result<()> {
        let (width, head_width) = (attended.shape.heads * attended.shape.head_width, attended.shape.head_width);
        for_each_query(attended, |query| {
            let weights = query.weights();
            let out = &mut out[query.row * width + query.head * head_width..][..head_width];
            out.fill(F::of(0.0));
            for (weight, token) in weights.iter().zip(query.tokens.clone()) {
                out.iter_mut().zip(query.value(token)).for_each(|(out, &v)| *out += *weight * v);
            }
        });
        Ok(())
    }

    fn pool(&self, out: &mut Vec<F>, x: &Vec<F>, batch: &PackedBatch, pooling: Pooling, width: usize) -> Result<()> {
        for sequence in 0..batch.sequences() {
            for column in 0..width {
                let values = batch.range(sequence).map(|token| x[token * width + column]);
                let n = values.len() as f64;
                out[sequence * width + column] = match pooling {
                    Pooling::First => values.take(1).sum(),
                    Pooling::Mean => values.sum::<F>() / F::of(n),
                    Pooling::Max => values.fold(F::of(f64::NEG_INFINITY), largest),
                    Pooling::MeanSqrtLength => values.sum::<F>() / F::of(n.sqrt()),
                };
            }
        }
        Ok(())
    }

    fn embed_path(
        &self,
        out: &mut Vec<F>,
        embeddings: &Embeddings<Self>,
        batch: &PackedBatch,
        path: &Path,
    ) -> Result<()> {
        embed::path(out, embeddings, batch, path)
    }

    fn linear_with_slope(
        &self,
        out: &mut Vec<F>,
        slope: &mut Vec<F>,
        x: &Vec<F>,
        weights: &Linear<F>,
        activation: Activation,
        rows: usize,
    ) -> Result<()> {
        self.linear(slope, x, weights, Activation::Identity, None, rows)?;
        for x in slope.iter_mut() {
            *x = x.map(|x| derivative(activation, x));
        }
        self.linear(out, x, weights, activation, None, rows)
    }

    fn linear_backward(
        &self,
        dx: &mut Vec<F>,
        dy: &Vec<F>,
        weights: &Linear<F>,
        slope: Option<&Vec<F>>,
        residual: Option<&Vec<F>>,
        rows: usize,
    ) -> Result<()> {
        backward::linear(dx, dy, weights, slope, residual, rows);
        Ok(())
    }

    fn layer_norm_backward(
        &self,
        dx: &mut Vec<F>,
        dy: &Vec<F>,
        x: &Vec<F>,
        norm: &Norm<Self>,
        rows: usize,
    ) -> Result<()> {
        for row in 0..rows {
            let at = row * norm.width..(row + 1) * norm.width;
            backward::normalise(&mut dx[at.clone()], &dy[at.clone()], &x[at], norm);
        }
        Ok(())
    }

    fn attention_backward(
        &self,
        gradients: AttentionGradients<'_, Vec<F>>,
        d_out: &Vec<F>,
        attended: &Attended<'_, Self>,
    ) -> Result<()> {
        backward::attention(gradients, d_out, attended);
        Ok(())
    }

    fn attention_map(
        &self,
        out: &mut Vec<F>,
        attended: &Attended<'_, Self>,
        map: AttentionMap<'_, Self>,
    ) -> Result<()> {
        backward::attention_map(out, attended, &map);
        Ok(())
    }

    fn follow(&self, out: &mut Vec<F>, row: &Vec<F>, map: &Vec<F>, batch: &PackedBatch, step: Step<'_>) -> Result<()> {
        let mut map = map.iter();
        for (sequence, &below) in step.below.iter().enumerate() {
            let range = batch.range(sequence);
            let rows = if step.queries == Rows::First { 1 } else { range.len() };
            let mut sums = vec![F::of(0.0); range.len()];
            for &share in &row[range.clone()][..rows] {
                sums.iter_mut().zip(&mut map).for_each(|(sum, &a)| *sum += share * a);
            }
            for (token, sum) in range.zip(sums) {
                out[token] = F::of(f64::from(step.own)) * row[token] + F::of(f64::from(below)) * sum;
            }
        }
        Ok(())
    }

    fn add_to_first(&self, x: &mut Vec<F>, rows: &Vec<F>, batch: &PackedBatch, width: usize) -> Result<()> {
        for sequence in 0..batch.sequences() {
            let first = batch.range(sequence).start * width;
            add(&mut x[first..first + width], &rows[sequence * width..][..width]);
        }
        Ok(())
    }

    fn objective_gradient(
        &self,
        dz: &mut Vec<F>,
        z: &Vec<F>,
        objectives: &[Objective],
        _: &PackedBatch,
        classes: usize,
    ) -> Result<()> {
        for (sequence, objective) in objectives.iter().enumerate() {
            let at = sequence * classes..(sequence + 1) * classes;
            let z: Vec<f64> = z[at.clone()].iter().map(|z| z.wide()).collect();
            dz[at].iter_mut().zip(objective.gradient(&z)).for_each(|(dz, slope)| *dz = F::of(slope));
        }
        Ok(())
    }

    fn embed_backward(
        &self,
        gradient: &mut Vec<F>,
        embeddings: &Embeddings<Self>,
        batch: &PackedBatch,
        path: &Path,
    ) -> Result<()> {
        embed::backward(gradient, embeddings, batch, path)
    }

    fn fold(
        &self,
        out: &mut Vec<F>,
        gradient: &Vec<F>,
        embeddings: &Embeddings<Self>,
        batch: &PackedBatch,
        path: &Path,
        fold: Fold,
    ) -> Result<()> {
        embed::fold(out, gradient, embeddings, batch, path, fold)
    }
}

/// One token asking in one head.
struct Query<'a, F: Float> {
    attended: &'a Attended<'a, Loops<F>>,
    sequence: usize,
    /// Its sequence's tokens.
    tokens: Range<usize>,
    row: usize,
    head: usize,
}

/// Every query of an attention: sequences, then rows, then heads.
fn for_each_query<F: Float>(attended: &Attended<'_, Loops<F>>, mut visit: impl FnMut(&Query<'_, F>)) {
    for sequence in 0..attended.batch.sequences() {
        let tokens = attended.batch.range(sequence);
        let asking = match attended.shape.queries {
            Rows::All => tokens.clone(),
            Rows::First => sequence..sequence + 1,
        };
        for row in asking {
            for head in 0..attended.shape.heads {
                visit(&Query { attended, sequence, tokens: tokens.clone(), row, head });
            }
        }
    }
}

impl<F: Float> Query<'_, F> {
    fn part<'a>(&self, view: &Columns<'a, Vec<F>>, row: usize) -> &'a [F] {
        head_of(view, row, self.head, self.attended.shape.head_width)
    }

    fn query(&self) -> &[F] {
        self.part(&self.attended.q, self.row)
    }

    fn key(&self, token: usize) -> &[F] {
        self.part(&self.attended.k, token)
    }

    fn value(&self, token: usize) -> &[F] {
        self.part(&self.attended.v, token)
    }

    /// `1 / √D`
    fn scale(&self) -> F {
        F::of((self.attended.shape.head_width as f64).sqrt().recip())
    }

    /// `q·k / √D` of every token.
    fn scores(&self) -> Vec<F> {
        self.tokens.clone().map(|token| inner(self.query(), self.key(token)) * self.scale()).collect()
    }

    fn weights(&self) -> Vec<F> {
        softmax(&self.scores())
    }
}

/// The mean, and `√(var + ε)`.
fn statistics<F: Float>(x: &[F], epsilon: f32) -> (F, F) {
    let n = F::of(x.len() as f64);
    let mean = x.iter().copied().sum::<F>() / n;
    let variance = x.iter().map(|&x| (x - mean) * (x - mean)).sum::<F>() / n;
    (mean, (variance + F::of(f64::from(epsilon))).map(f64::sqrt))
}

/// `out = (x − mean) / √(var + ε) · weight + bias`
fn normalise<F: Float>(out: &mut [F], x: &[F], norm: &Norm<Loops<F>>) {
    let (mean, deviation) = statistics(x, norm.epsilon);
    for (i, out) in out.iter_mut().enumerate() {
        *out = (x[i] - mean) / deviation * norm.weight[i] + norm.bias[i];
    }
}

/// `exp(x) / Σ exp(x)`
fn softmax<F: Float>(x: &[F]) -> Vec<F> {
    let largest = x.iter().copied().fold(F::of(f64::NEG_INFINITY), largest);
    let exponentials: Vec<F> = x.iter().map(|&x| (x - largest).map(f64::exp)).collect();
    let sum = exponentials.iter().copied().sum::<F>();
    exponentials.iter().map(|&e| e / sum).collect()
}

fn largest<F: Float>(a: F, b: F) -> F {
    if a > b { a } else { b }
}

/// One head's columns of one row.
fn head_of<'a, F: Float>(matrix: &Columns<'a, Vec<F>>, row: usize, head: usize, width: usize) -> &'a [F] {
    &matrix.tensor[row * matrix.stride + matrix.offset + head * width..][..width]
}

fn inner<F: Float>(a: &[F], b: &[F]) -> F {
    a.iter().zip(b).map(|(&a, &b)| a * b).sum()
}

fn add<F: Float>(sum: &mut [F], row: &[F]) {
    sum.iter_mut().zip(row).for_each(|(sum, &x)| *sum += x);
}

fn widen<F: Float>(values: &[f32]) -> Vec<F> {
    values.iter().map(|&x| F::of(f64::from(x))).collect()
}
