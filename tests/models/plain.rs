//! The forward pass as plain f32 loops: what a result's rounding error is measured against.

use wherefore::Result;
use wherefore::backend::reference::Reference;
use wherefore::backend::{Activation, AttentionShape, Backend, Columns, Embeddings, Norm, Pooling, Rows};
use wherefore::tokens::PackedBatch;

/// Every sum one f32 accumulator in ascending order, without fused multiply-adds.
pub(super) struct Plain;

pub(super) struct Linear {
    weight: Vec<f32>,
    bias: Vec<f32>,
    inputs: usize,
}

impl Backend for Plain {
    type Tensor = Vec<f32>;
    type Linear = Linear;
    type Batch = PackedBatch;

    fn workers(&self) -> usize {
        1
    }

    fn batch_tokens(&self) -> usize {
        64
    }

    fn tensor(&self, len: usize) -> Result<Vec<f32>> {
        Ok(vec![f32::NAN; len])
    }

    fn upload(&self, values: &[f32]) -> Result<Vec<f32>> {
        Ok(values.to_vec())
    }

    fn download(&self, out: &mut [f32], tensor: &Vec<f32>) -> Result<()> {
        out.copy_from_slice(&tensor[..out.len()]);
        Ok(())
    }

    fn stage(&self, batch: PackedBatch) -> Result<PackedBatch> {
        Ok(batch)
    }

    fn pack_linear(&self, weight: &[f32], bias: &[f32], inputs: usize, _outputs: usize) -> Result<Linear> {
        Ok(Linear { weight: weight.to_vec(), bias: bias.to_vec(), inputs })
    }

    fn embed(&self, out: &mut Vec<f32>, embeddings: &Embeddings<Self>, batch: &PackedBatch) -> Result<()> {
        let width = embeddings.norm.width;
        let mut sums = Vec::with_capacity(batch.tokens() * width);
        for token in 0..batch.tokens() {
            for e in 0..width {
                let mut sum = embeddings.word[batch.ids[token] as usize * width + e];
                sum += embeddings.token_type.as_ref().map_or(0.0, |t| t[batch.type_ids[token] as usize * width + e]);
                sum += embeddings.position.as_ref().map_or(0.0, |t| t[batch.positions[token] as usize * width + e]);
                sum += embeddings.task.as_ref().map_or(0.0, |task| task[e]);
                sums.push(sum);
            }
        }
        self.layer_norm(out, &sums, &embeddings.norm, batch.tokens())
    }

    fn layer_norm(&self, out: &mut Vec<f32>, x: &Vec<f32>, norm: &Norm<Self>, rows: usize) -> Result<()> {
        let n = norm.width as f32;
        for row in 0..rows {
            let x = &x[row * norm.width..][..norm.width];
            let mean = x.iter().sum::<f32>() / n;
            let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / n;
            for (e, x) in x.iter().enumerate() {
                let scaled = (x - mean) / (variance + norm.epsilon).sqrt();
                out[row * norm.width + e] = scaled * norm.weight[e] + norm.bias[e];
            }
        }
        Ok(())
    }

    fn linear(
        &self,
        out: &mut Vec<f32>,
        x: &Vec<f32>,
        weights: &Linear,
        activation: Activation,
        residual: Option<&Vec<f32>>,
        rows: usize,
    ) -> Result<()> {
        let outputs = weights.bias.len();
        for row in 0..rows {
            let x = &x[row * weights.inputs..][..weights.inputs];
            for output in 0..outputs {
                let weight = &weights.weight[output * weights.inputs..][..weights.inputs];
                let sum = x.iter().zip(weight).map(|(x, w)| x * w).sum::<f32>() + weights.bias[output];
                let at = row * outputs + output;
                out[at] = activate(activation, sum)? + residual.map_or(0.0, |residual| residual[at]);
            }
        }
        Ok(())
    }

    fn attention(
        &self,
        out: &mut Vec<f32>,
        q: Columns<'_, Vec<f32>>,
        k: Columns<'_, Vec<f32>>,
        v: Columns<'_, Vec<f32>>,
        batch: &PackedBatch,
        shape: AttentionShape,
    ) -> Result<()> {
        for b in 0..batch.sequences() {
            let keys = batch.range(b);
            let queries = match shape.queries {
                Rows::All => keys.clone(),
                Rows::First => b..b + 1,
            };
            for (query, head) in queries.flat_map(|query| (0..shape.heads).map(move |head| (query, head))) {
                attend(out, query, head, &q, &k, &v, keys.clone(), shape);
            }
        }
        Ok(())
    }

    fn pool(
        &self,
        out: &mut Vec<f32>,
        x: &Vec<f32>,
        batch: &PackedBatch,
        pooling: Pooling,
        width: usize,
    ) -> Result<()> {
        for b in 0..batch.sequences() {
            let range = batch.range(b);
            for e in 0..width {
                let column = range.clone().map(|token| x[token * width + e]);
                out[b * width + e] = match pooling {
                    Pooling::First => x[range.start * width + e],
                    Pooling::Mean => column.sum::<f32>() / range.len() as f32,
                    Pooling::Max => column.fold(f32::NEG_INFINITY, f32::max),
                    Pooling::MeanSqrtLength => column.sum::<f32>() / (range.len() as f32).sqrt(),
                };
            }
        }
        Ok(())
    }
}

/// One query of one head.
#[allow(clippy::too_many_arguments)]
fn attend(
    out: &mut [f32],
    query: usize,
    head: usize,
    q: &Columns<'_, Vec<f32>>,
    k: &Columns<'_, Vec<f32>>,
    v: &Columns<'_, Vec<f32>>,
    keys: std::ops::Range<usize>,
    shape: AttentionShape,
) {
    let width = shape.head_width;
    let row = |columns: &Columns<'_, Vec<f32>>, row: usize| {
        let start = row * columns.stride + columns.offset + head * width;
        columns.tensor[start..start + width].to_vec()
    };
    let q = row(q, query);
    let product = |key: usize| q.iter().zip(row(k, key)).map(|(q, k)| q * k).sum::<f32>() / (width as f32).sqrt();
    let scores: Vec<f32> = keys.clone().map(product).collect();
    let top = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f32> = scores.iter().map(|score| (score - top).exp()).collect();
    let total: f32 = weights.iter().sum();
    for d in 0..width {
        let sum: f32 = keys.clone().zip(&weights).map(|(key, weight)| weight / total * row(v, key)[d]).sum();
        out[query * shape.heads * width + head * width + d] = sum;
    }
}

/// Rounded once from f64, which is as plain as it gets and never less exact than a plain loop.
fn activate(activation: Activation, x: f32) -> Result<f32> {
    let identity = Reference.pack_linear(&[1.0], &[0.0], 1, 1)?;
    let mut y = vec![0.0];
    Reference.linear(&mut y, &vec![f64::from(x)], &identity, activation, None, 1)?;
    Ok(y[0] as f32)
}
