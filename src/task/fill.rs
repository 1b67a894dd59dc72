//! What a mask hides: the pieces of the vocabulary with the highest logits.

use super::softmax;

/// A piece that may stand behind a mask.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fill {
    /// Its id.
    pub id: u32,
    /// Its probability among all pieces.
    pub probability: f64,
}

/// The `top_k` likeliest pieces for one row of logits, of equal ones the lower id first.
pub fn fills(logits: &[f32], top_k: usize) -> Vec<Fill> {
    let p = softmax(logits);
    let mut order: Vec<usize> = (0..p.len()).collect();
    let by_probability = |a: &usize, b: &usize| p[*b].total_cmp(&p[*a]).then(a.cmp(b));
    if top_k < order.len() {
        order.select_nth_unstable_by(top_k, by_probability);
        order.truncate(top_k);
    }
    order.sort_unstable_by(by_probability);
    order.into_iter().map(|id| Fill { id: id as u32, probability: p[id] }).collect()
}
