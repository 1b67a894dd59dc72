//! Backwards in f64, as the chain rule reads.

use super::{Float, Linear, Loops, Query, for_each_query, inner, statistics};
use crate::backend::{Attended, AttentionGradients, AttentionMap, AttentionShape, Norm};

/// [`crate::backend::Backend::linear_backward`]
pub(super) fn linear<F: Float>(
    dx: &mut [F],
    dy: &[F],
    weights: &Linear<F>,
    slope: Option<&Vec<F>>,
    residual: Option<&Vec<F>>,
    rows: usize,
) {
    for row in 0..rows {
        let dy = &dy[row * weights.outputs..][..weights.outputs];
        for input in 0..weights.inputs {
            let at = row * weights.inputs + input;
            let column = weights.weight.iter().skip(input).step_by(weights.inputs);
            dx[at] = dy.iter().zip(column).map(|(&dy, &weight)| dy * weight).sum();
            if let Some(slope) = slope {
                dx[at] = dx[at] * slope[at];
            }
            if let Some(residual) = residual {
                dx[at] += residual[at];
            }
        }
    }
}

/// The gradient at a row that was normalised, from that at the outcome.
pub(super) fn normalise<F: Float>(dx: &mut [F], dy: &[F], x: &[F], norm: &Norm<Loops<F>>) {
    let (n, (mean, deviation)) = (F::of(x.len() as f64), statistics(x, norm.epsilon));
    let g: Vec<F> = dy.iter().zip(&norm.weight).map(|(&dy, &weight)| dy * weight).collect();
    let normalised: Vec<F> = x.iter().map(|&x| (x - mean) / deviation).collect();
    let (sum, moment) = (g.iter().copied().sum::<F>() / n, inner(&g, &normalised) / n);
    for (i, dx) in dx.iter_mut().enumerate() {
        *dx = (g[i] - sum - normalised[i] * moment) / deviation;
    }
}

/// `dP_t = dO·v_t` of every token.
fn weight_gradients<F: Float>(query: &Query<'_, F>, d_out: &[F]) -> Vec<F> {
    let AttentionShape { heads, head_width, .. } = query.attended.shape;
    let d_out = &d_out[(query.row * heads + query.head) * head_width..][..head_width];
    query.tokens.clone().map(|token| inner(d_out, query.value(token))).collect()
}

/// [`crate::backend::Backend::attention_backward`]
pub(super) fn attention<F: Float>(
    gradients: AttentionGradients<'_, Vec<F>>,
    d_out: &[F],
    attended: &Attended<'_, Loops<F>>,
) {
    attention_with(gradients, d_out, attended, |query| vec![F::of(1.0); query.tokens.len()]);
}

/// The same where each weight was multiplied by a factor.
pub(super) fn attention_with<F: Float>(
    gradients: AttentionGradients<'_, Vec<F>>,
    d_out: &[F],
    attended: &Attended<'_, Loops<F>>,
    factors: impl Fn(&Query<'_, F>) -> Vec<F>,
) {
    let AttentionGradients { packed, mut query } = gradients;
    let shape = attended.shape;
    let (width, first) = (shape.heads * shape.head_width, query.is_some());
    let stride = if first { 2 * width } else { 3 * width };
    packed[..attended.batch.tokens() * stride].fill(F::of(0.0));
    if let Some(query) = &mut query {
        query[..attended.batch.sequences() * width].fill(F::of(0.0));
    }
    for_each_query(attended, |asking| {
        let (p, m) = (asking.weights(), factors(asking));
        let dp: Vec<F> = weight_gradients(asking, d_out).into_iter().zip(&m).map(|(dp, &m)| dp * m).collect();
        let mean = inner(&p, &dp);
        let column = asking.head * shape.head_width;
        let own = &d_out[asking.row * width + column..][..shape.head_width];
        for (i, token) in asking.tokens.clone().enumerate() {
            let ds = p[i] * (dp[i] - mean) * asking.scale();
            for e in 0..shape.head_width {
                let key = token * stride + column + e + if first { 0 } else { width };
                packed[key] += ds * asking.query()[e];
                packed[key + width] += p[i] * m[i] * own[e];
                let dq = ds * asking.key(token)[e];
                match &mut query {
                    Some(query) => query[asking.row * width + column + e] += dq,
                    None => packed[asking.row * stride + column + e] += dq,
                }
            }
        }
    });
}

/// [`crate::backend::Backend::attention_map`]
pub(super) fn attention_map<F: Float>(
    out: &mut [F],
    attended: &Attended<'_, Loops<F>>,
    map: &AttentionMap<'_, Loops<F>>,
) {
    let heads = attended.shape.heads;
    let mut start = 0;
    for_each_query(attended, |query| {
        let values = match map {
            AttentionMap::Scores => query.scores(),
            AttentionMap::Weights => query.weights().iter().map(|&p| p / F::of(heads as f64)).collect(),
            AttentionMap::GradientWeights(d_out) => {
                let slopes = weight_gradients(query, d_out);
                {
                    let products = query.weights().into_iter().zip(slopes).map(|(p, dp)| p * dp);
                    products.map(|x| super::largest(x, F::of(0.0)) / F::of(heads as f64)).collect()
                }
            }
        };
        let row = &mut out[start..start + values.len()];
        if query.head == 0 {
            row.fill(F::of(0.0));
        }
        super::add(row, &values);
        if query.head + 1 == heads {
            start += values.len();
        }
    });
}
