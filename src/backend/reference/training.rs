//! What training asks, as the formulas read.

use std::ops::Range;

use super::{Float, Linear, Loops, Query, add, for_each_query, inner, statistics};
use crate::backend::training::{
    AdamStep, AdaptedStep, CrossEntropy, Dropout, Guide, Loss, Named, NormProducts, Pair, Passed, Place, Products,
    Shape, Sketch, Stepped, Tables, Training,
};
use crate::backend::{Attended, AttentionGradients, Rows, table_row};
use crate::error::Result;
use crate::tokens::PackedBatch;

impl<F: Float> Training for Loops<F> {
    type Sums = Vec<f64>;
    type Sketch = Sketch;

    fn clear(&self, tensor: &mut Vec<F>) -> Result<()> {
        tensor.fill(F::of(0.0));
        Ok(())
    }

    fn add(&self, sum: &mut Vec<F>, x: &Vec<F>, len: usize) -> Result<()> {
        add(&mut sum[..len], &x[..len]);
        Ok(())
    }

    fn repack_linear(
        &self,
        linear: &mut Linear<F>,
        parameters: Pair<&Vec<F>>,
        outputs: Range<usize>,
        inputs: usize,
    ) -> Result<()> {
        linear.weight.copy_from_slice(&parameters.weight[outputs.start * inputs..outputs.end * inputs]);
        linear.bias.copy_from_slice(&parameters.bias[outputs]);
        Ok(())
    }

    fn copy(&self, out: &mut Vec<F>, x: &Vec<F>, len: usize) -> Result<()> {
        out[..len].copy_from_slice(&x[..len]);
        Ok(())
    }

    fn embed_sum(&self, out: &mut Vec<F>, tables: Tables<&Vec<F>>, batch: &PackedBatch, width: usize) -> Result<()> {
        for token in 0..batch.tokens() {
            let out = &mut out[token * width..][..width];
            out.fill(F::of(0.0));
            for (table, row, name) in rows_of(tables, batch, token) {
                add(out, table_row(table, row, width, name)?);
            }
        }
        Ok(())
    }

    fn embed_sum_backward(
        &self,
        gradients: Tables<&mut Vec<F>>,
        d_sum: &Vec<F>,
        batch: &PackedBatch,
        width: usize,
    ) -> Result<()> {
        let Tables { word, position, mut token_type, mut task } = gradients;
        for token in 0..batch.tokens() {
            let d_sum = &d_sum[token * width..][..width];
            let scatter = |table: &mut Vec<F>, row: u32| add(&mut table[row as usize * width..][..width], d_sum);
            scatter(word, batch.ids[token]);
            scatter(position, batch.positions[token]);
            if let Some(table) = &mut token_type {
                scatter(table, batch.type_ids[token]);
            }
            if let Some(table) = &mut task {
                scatter(table, 0);
            }
        }
        Ok(())
    }

    fn linear_parameters_backward(
        &self,
        gradients: Pair<&mut Vec<F>>,
        first: usize,
        dy: &Vec<F>,
        x: &Vec<F>,
        passed: Passed<'_, Self>,
    ) -> Result<()> {
        let Passed { batch, rows, inputs, outputs } = passed;
        for row in 0..rows.of(batch) {
            for output in 0..outputs {
                let dy = dy[row * outputs + output];
                let dw = &mut gradients.weight[(first + output) * inputs..][..inputs];
                dw.iter_mut().zip(&x[row * inputs..]).for_each(|(dw, &x)| *dw += dy * x);
                gradients.bias[first + output] += dy;
            }
        }
        Ok(())
    }

    fn pack_sketch(&self, sketch: Sketch) -> Result<Sketch> {
        Ok(sketch)
    }

    fn norm_products(&self, out: &mut Vec<F>, dy: &Vec<F>, x: &Vec<F>, products: NormProducts<'_, Self>) -> Result<()> {
        let NormProducts { batch, rows, epsilon, width } = products;
        for (sequence, out) in out.chunks_exact_mut(2 * width).take(batch.sequences()).enumerate() {
            out.fill(F::of(0.0));
            let (scales, shifts) = out.split_at_mut(width);
            for row in rows.range(batch, sequence) {
                let (x, dy) = (&x[row * width..][..width], &dy[row * width..][..width]);
                let (mean, deviation) = statistics(x, epsilon);
                for i in 0..width {
                    scales[i] += dy[i] * ((x[i] - mean) / deviation);
                    shifts[i] += dy[i];
                }
            }
        }
        Ok(())
    }

    fn look_up(&self, out: &mut Vec<F>, table: &Vec<F>, named: Named, batch: &PackedBatch, width: usize) -> Result<()> {
        for (token, out) in out.chunks_exact_mut(width).take(batch.tokens()).enumerate() {
            let row = named.rows(batch).map_or(0, |rows| rows[token] as usize);
            out.copy_from_slice(&table[row * width..][..width]);
        }
        Ok(())
    }

    fn adapt(&self, out: &mut Vec<F>, x: &Vec<F>, step: AdaptedStep<'_, Vec<F>>) -> Result<()> {
        let AdaptedStep { drift, floor, rests, scales, len } = step;
        let [rest1, rest2] = rests.map(|rest| F::of(f64::from(rest)));
        for (row, scale) in scales.iter().enumerate() {
            for i in 0..len {
                let g = x[row * len + i] / F::of(f64::from(*scale));
                out[row * len + i] = (drift[i] + rest1 * g) / (floor[i] + rest2 * g * g).map(f64::sqrt);
            }
        }
        Ok(())
    }

    fn sketch(&self, out: &mut Vec<F>, x: &Vec<F>, sketch: &Sketch, rows: usize) -> Result<()> {
        let (inputs, outputs) = (sketch.inputs(), sketch.outputs());
        for row in 0..rows {
            let (out, x) = (&mut out[row * outputs..][..outputs], &x[row * inputs..][..inputs]);
            out.iter_mut().zip(sketch.shift()).for_each(|(out, shift)| *out = F::of(f64::from(*shift)));
            for (i, &x) in x.iter().enumerate() {
                let (place, sign) = sketch.entry(i);
                out[place] += F::of(f64::from(sign)) * x;
            }
        }
        Ok(())
    }

    fn outer_products(&self, out: &mut Vec<F>, dy: &Vec<F>, x: &Vec<F>, products: Products<'_, Self>) -> Result<()> {
        let Products { batch, rows, inputs, outputs, stride, offset } = products;
        for sequence in 0..batch.sequences() {
            for row in rows.range(batch, sequence) {
                for output in 0..outputs {
                    let dy = dy[row * outputs + output];
                    let out = &mut out[sequence * stride + offset + output * inputs..][..inputs];
                    out.iter_mut().zip(&x[row * inputs..]).for_each(|(out, &x)| *out += dy * x);
                }
            }
        }
        Ok(())
    }

    fn sums(&self, values: &[f64]) -> Result<Vec<f64>> {
        Ok(values.to_vec())
    }

    fn read_sums(&self, sums: &Vec<f64>) -> Result<Vec<f64>> {
        Ok(sums.clone())
    }

    fn add_to_sums(&self, sums: &mut Vec<f64>, x: &Vec<F>) -> Result<()> {
        sums.iter_mut().zip(x).for_each(|(sum, x)| *sum += x.wide());
        Ok(())
    }

    fn add_squares(&self, sums: &mut Vec<f64>, x: &Vec<F>, rows: usize) -> Result<()> {
        for row in x.chunks_exact(sums.len()).take(rows) {
            sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x.wide() * x.wide());
        }
        Ok(())
    }

    fn weighted_squares(&self, weights: &Vec<f64>, x: &Vec<F>, rows: usize) -> Result<Vec<f64>> {
        let of_row = |row: &[F]| row.iter().zip(weights).map(|(x, w)| w * x.wide() * x.wide()).sum();
        Ok(x.chunks_exact(weights.len()).take(rows).map(of_row).collect())
    }

    fn layer_norm_parameters_backward(
        &self,
        gradients: Pair<&mut Vec<F>>,
        dy: &Vec<F>,
        x: &Vec<F>,
        epsilon: f32,
        shape: Shape,
    ) -> Result<()> {
        let width = shape.inputs;
        for row in 0..shape.rows {
            let (x, dy) = (&x[row * width..][..width], &dy[row * width..][..width]);
            let (mean, deviation) = statistics(x, epsilon);
            for i in 0..width {
                gradients.weight[i] += dy[i] * ((x[i] - mean) / deviation);
                gradients.bias[i] += dy[i];
            }
        }
        Ok(())
    }

    fn dropout(
        &self,
        out: &mut Vec<F>,
        x: &Vec<F>,
        residual: Option<&Vec<F>>,
        dropout: &Dropout<'_>,
        place: Place<'_, Self>,
    ) -> Result<()> {
        let mut factors = vec![0.0; place.width];
        for sequence in 0..place.batch.sequences() {
            for (number, row) in place.rows.range(place.batch, sequence).enumerate() {
                dropout.factors(&mut factors, sequence, number as u32);
                for (i, factor) in factors.iter().enumerate() {
                    let at = row * place.width + i;
                    out[at] = x[at] * F::of(f64::from(*factor)) + residual.map_or(F::of(0.0), |r| r[at]);
                }
            }
        }
        Ok(())
    }

    fn attention_dropout(&self, out: &mut Vec<F>, attended: &Attended<'_, Self>, dropout: &Dropout<'_>) -> Result<()> {
        let (width, head_width) = (attended.shape.heads * attended.shape.head_width, attended.shape.head_width);
        for_each_query(attended, |query| {
            let (weights, factors) = (query.weights(), weight_factors(query, dropout));
            let out = &mut out[query.row * width + query.head * head_width..][..head_width];
            out.fill(F::of(0.0));
            for ((&weight, factor), token) in weights.iter().zip(factors).zip(query.tokens.clone()) {
                out.iter_mut().zip(query.value(token)).for_each(|(out, &v)| *out += weight * factor * v);
            }
        });
        Ok(())
    }

    fn attention_dropout_backward(
        &self,
        gradients: AttentionGradients<'_, Vec<F>>,
        d_out: &Vec<F>,
        attended: &Attended<'_, Self>,
        dropout: &Dropout<'_>,
    ) -> Result<()> {
        super::backward::attention_with(gradients, d_out, attended, |query| weight_factors(query, dropout));
        Ok(())
    }

    fn guide_attention(
        &self,
        gradients: AttentionGradients<'_, Vec<F>>,
        attended: &Attended<'_, Self>,
        starts: &[u32],
        guides: &[Guide<'_>],
    ) -> Result<Vec<f64>> {
        let width = attended.shape.heads * attended.shape.head_width;
        let AttentionGradients { packed, query } = gradients;
        let (queries, keys) = (attended.q.tensor, attended.k.tensor);
        let mut losses = vec![0.0; guides.len()];
        let Some(d_queries) = query else { return Ok(losses) };
        for (sequence, guide) in guides.iter().enumerate().filter(|(_, guide)| !guide.marked.is_empty()) {
            let (own, first) = (sequence * width, starts[sequence] as usize);
            losses[sequence] = guide.add_gradient(
                attended.shape,
                |e| queries[own + e].wide(),
                |token, e| keys[(first + token) * 2 * width + e].wide(),
                &mut |e, slope| d_queries[own + e] += F::of(slope),
                &mut |token, e, slope| packed[(first + token) * 2 * width + e] += F::of(slope),
            );
        }
        Ok(losses)
    }

    fn loss_gradient(
        &self,
        dz: &mut Vec<F>,
        z: &Vec<F>,
        losses: &[(Loss<'_>, f64)],
        classes: usize,
    ) -> Result<Vec<f64>> {
        let of = |(sequence, (loss, share)): (usize, &(Loss<'_>, f64))| {
            let at = sequence * classes..(sequence + 1) * classes;
            let mut row: Vec<f64> = z[at.clone()].iter().map(|z| z.wide()).collect();
            let value = loss.to_gradient(&mut row);
            dz[at].iter_mut().zip(row).for_each(|(dz, slope)| *dz = F::of(slope * share));
            value
        };
        Ok(losses.iter().enumerate().map(of).collect())
    }

    fn cross_entropies(&self, dz: &mut Vec<F>, z: &Vec<F>, len: usize, terms: &[CrossEntropy]) -> Result<Vec<f64>> {
        dz[..len].fill(F::of(0.0));
        let of = |term: &CrossEntropy| {
            let (loss, slopes) = term.to_gradient(|place| z[place].wide());
            term.places(&slopes).for_each(|(place, slope)| dz[place] += F::of(slope));
            loss
        };
        Ok(terms.iter().map(of).collect())
    }

    fn squared_norms(&self, tensors: &[(&Vec<F>, usize)]) -> Result<Vec<f64>> {
        let of = |&(tensor, len): &(&Vec<F>, usize)| {
            tensor[..len].chunks(4096).map(|block| inner(block, block).wide()).sum()
        };
        Ok(tensors.iter().map(of).collect())
    }

    fn adam_steps(&self, parameters: Vec<Stepped<'_, Vec<F>>>, step: &AdamStep) -> Result<()> {
        let [mean_correction, deviation_correction] = step.corrections().map(F::of);
        let of = |x: f64| F::of(x);
        for Stepped { value, moments: [first, second], gradient, decays } in parameters {
            let decay = if decays { step.decay } else { 0.0 };
            for i in 0..value.len() {
                let g = gradient[i] * of(step.scale);
                first[i] = of(step.betas[0]) * first[i] + of(1.0 - step.betas[0]) * g;
                second[i] = of(step.betas[1]) * second[i] + of(1.0 - step.betas[1]) * g * g;
                let deviation = second[i].map(f64::sqrt) / deviation_correction + of(step.epsilon);
                let kept = value[i] * of(1.0 - step.rate * decay);
                value[i] = kept - of(step.rate) / mean_correction * (first[i] / deviation);
            }
            gradient.fill(of(0.0));
        }
        Ok(())
    }
}

/// The table rows a token's embedding is the sum of, each with what its number is called.
fn rows_of<'a, F>(
    tables: Tables<&'a Vec<F>>,
    batch: &PackedBatch,
    token: usize,
) -> impl Iterator<Item = (&'a Vec<F>, u32, &'static str)> {
    let word = (tables.word, batch.ids[token], "token id");
    let position = (tables.position, batch.positions[token], "position");
    let token_type = tables.token_type.map(|table| (table, batch.type_ids[token], "segment"));
    let task = tables.task.map(|table| (table, 0, "task"));
    [Some(word), Some(position), token_type, task].into_iter().flatten()
}

/// What each weight of a query is multiplied by.
fn weight_factors<F: Float>(query: &Query<'_, F>, dropout: &Dropout<'_>) -> Vec<F> {
    let mut factors = vec![0.0; query.tokens.len()];
    let number = match query.attended.shape.queries {
        Rows::All => query.row - query.tokens.start,
        Rows::First => 0,
    };
    dropout.factors(&mut factors, query.sequence, Dropout::attention_row(query.head, number));
    factors.iter().map(|&factor| F::of(f64::from(factor))).collect()
}
