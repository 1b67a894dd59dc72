//! The last linear layer on the host.

use super::Floats;

/// The last linear layer of a model, `z = W h + b`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Head {
    /// `W [K, E]`, row-major.
    pub weight: Vec<f32>,
    /// `b [K]`
    pub bias: Vec<f32>,
}

impl Head {
    /// K.
    pub fn classes(&self) -> usize {
        self.bias.len()
    }

    /// E.
    pub fn width(&self) -> usize {
        self.weight.len() / self.bias.len().max(1)
    }

    /// `z [n, K]` of `features [n, E]`, in f64; each row is summed in the order of its features.
    pub fn logits(&self, features: Floats<'_>) -> Vec<f64> {
        let width = self.width().max(1);
        let rows = features.len() / width;
        let mut h = vec![0.0; width];
        let mut logits = Vec::with_capacity(rows * self.classes());
        for row in 0..rows {
            features.decode(row * width, &mut h);
            for (weight, &bias) in self.weight.chunks_exact(width).zip(&self.bias) {
                let products = weight.iter().zip(&h).map(|(&w, &h)| f64::from(w) * h);
                logits.push(products.sum::<f64>() + f64::from(bias));
            }
        }
        logits
    }
}
