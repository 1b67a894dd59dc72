//! Products of two records' whole gradients, never held: each is a sum of outer products over tokens, and so is their
//! product.
//!
//! ```text
//! ⟨Σ_t δ_t ã_tᵀ, Σ_t' δ'_t' ã'_t'ᵀ⟩ = Σ_t Σ_t' (ã_t·ã'_t') (δ_t·δ'_t')
//! ```
//!
//! Which is exact, costs T T' (E + K) in place of T E K, and tells which token of one record taught which token of the
//! other.

use crate::backend::cpu::dot;
use crate::model::LayerFactors;

/// A product of gradients, taken apart.
#[derive(Clone, Debug, PartialEq)]
pub struct Product {
    /// Of each layer; their sum is the product.
    pub layers: Vec<f64>,
    /// Of each pair of tokens over all layers, `[T, T']`: their sum too. Empty where one side was no sum over tokens.
    pub tokens: Vec<f64>,
}

impl Product {
    /// The whole.
    pub fn sum(&self) -> f64 {
        self.layers.iter().sum()
    }
}

/// The product of two gradients, by layer and by tokens, of which the records have so many.
///
/// # Panics
/// Where they are of different layers.
pub fn product(one: &[LayerFactors], other: &[LayerFactors], tokens: (usize, usize)) -> Product {
    let mut by_token = vec![0.0; tokens.0 * tokens.1];
    let of_layer = |(one, other): (&LayerFactors, &LayerFactors)| {
        let mut sum = 0.0;
        for (s, &token) in one.tokens.iter().enumerate() {
            for (t, &other_token) in other.tokens.iter().enumerate() {
                let inputs = row_product(&one.inputs, &other.inputs, (s, one), (t, other));
                let outputs = row_product(&one.outputs, &other.outputs, (s, one), (t, other));
                let part = f64::from(inputs) * f64::from(outputs);
                sum += part;
                by_token[token as usize * tokens.1 + other_token as usize] += part;
            }
        }
        sum
    };
    assert_eq!(one.len(), other.len(), "gradients of the same layers");
    let layers = one.iter().zip(other).map(of_layer).collect();
    Product { layers, tokens: by_token }
}

/// The product of row s of one side and row t of the other's.
fn row_product(one: &[f32], other: &[f32], s: (usize, &LayerFactors), t: (usize, &LayerFactors)) -> f32 {
    let width = one.len() / s.1.tokens.len();
    assert_eq!(width, other.len() / t.1.tokens.len(), "gradients of the same layers");
    dot(&one[s.0 * width..][..width], &other[t.0 * width..][..width])
}

/// The product of any matrices `[outputs, inputs]`, a layer's each, with a gradient: `Σ_t δ_t · (U ã_t)`.
///
/// # Panics
/// Where they are of different layers.
pub fn product_with(matrices: &[&[f32]], gradient: &[LayerFactors]) -> Product {
    assert_eq!(matrices.len(), gradient.len(), "a matrix for every layer");
    let of_layer = |(matrix, factors): (&&[f32], &LayerFactors)| {
        let rows = factors.tokens.len();
        let (inputs, outputs) = (factors.inputs.len() / rows, factors.outputs.len() / rows);
        let of_row = |row: usize| -> f64 {
            let read = &factors.inputs[row * inputs..][..inputs];
            let slopes = &factors.outputs[row * outputs..][..outputs];
            let parts = matrix.chunks_exact(inputs).zip(slopes).filter(|(_, slope)| **slope != 0.0);
            parts.map(|(line, slope)| f64::from(dot(line, read)) * f64::from(*slope)).sum()
        };
        (0..rows).map(of_row).sum()
    };
    Product { layers: matrices.iter().zip(gradient).map(of_layer).collect(), tokens: Vec::new() }
}
