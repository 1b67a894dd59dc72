//! What a training makes smaller, as functions of logits and of attention's scores, in f64 on the host.

use super::AttentionShape;

/// One record's loss as a function of its logits: [`crate::factors::loss_and_delta`]'s in f64, but the mean over
/// outputs where there are several, as `transformers` trains.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Loss<'a> {
    /// `logsumexp(z) − z_y`
    CrossEntropy(usize),
    /// The mean over classes of `softplus(z_c) − y_c z_c`.
    Sigmoid(&'a [f32]),
    /// The mean over values of `(z_c − y_c)²`.
    Squared(&'a [f32]),
}

impl Loss<'_> {
    /// Its value at logits `z`, which become its gradient there.
    pub fn to_gradient(self, z: &mut [f64]) -> f64 {
        match self {
            Self::CrossEntropy(class) => cross_entropy(z, class),
            Self::Sigmoid(targets) => mean_over(z, targets, |z, y| {
                let e = (-z.abs()).exp();
                let sigmoid = if z < 0.0 { e / (1.0 + e) } else { 1.0 / (1.0 + e) };
                (z.max(0.0) - y * z + e.ln_1p(), sigmoid - y)
            }),
            Self::Squared(targets) => mean_over(z, targets, |z, y| ((z - y) * (z - y), 2.0 * (z - y))),
        }
    }
}

fn cross_entropy(z: &mut [f64], class: usize) -> f64 {
    let largest = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let gold = z[class];
    let sum: f64 = z.iter().map(|z| (z - largest).exp()).sum();
    for z in z.iter_mut() {
        *z = (*z - largest).exp() / sum;
    }
    // The others' sum keeps its digits where p_y is nearly 1.
    z[class] = -z.iter().enumerate().filter(|(c, _)| *c != class).map(|(_, p)| p).sum::<f64>();
    sum.ln() + (largest - gold)
}

fn mean_over(z: &mut [f64], targets: &[f32], part: impl Fn(f64, f64) -> (f64, f64)) -> f64 {
    let share = 1.0 / targets.len() as f64;
    let mut loss = 0.0;
    for (z, y) in z.iter_mut().zip(targets) {
        let (value, slope) = part(*z, f64::from(*y));
        loss += share * value;
        *z = share * slope;
    }
    loss
}

/// The cross-entropy of one among some logits of a buffer, which stand at equal distances: a token's classes, or the
/// tokens that may begin an answer. Several such rows count as their mean.
#[derive(Clone, Debug, PartialEq)]
pub struct CrossEntropy {
    /// Where each row's first logit is.
    pub starts: Vec<usize>,
    /// From one logit to the next.
    pub stride: usize,
    /// How many there are.
    pub count: usize,
    /// Which of them should have been the largest.
    pub gold: usize,
    /// What its gradient is multiplied by.
    pub share: f64,
}

impl CrossEntropy {
    /// Its value at the logits that `at` gives by place, and its gradient there: one number a place of a row, the same
    /// for every row.
    pub fn to_gradient(&self, at: impl Fn(usize) -> f64) -> (f64, Vec<f64>) {
        let mut z = self.logits(at);
        let value = cross_entropy(&mut z, self.gold);
        for slope in &mut z {
            *slope *= self.share / self.starts.len() as f64;
        }
        (value, z)
    }

    /// The logits themselves, of several rows their mean.
    pub fn logits(&self, at: impl Fn(usize) -> f64) -> Vec<f64> {
        let rows = self.starts.len() as f64;
        let mean = |i: usize| self.starts.iter().map(|start| at(start + i * self.stride)).sum::<f64>() / rows;
        (0..self.count).map(mean).collect()
    }

    /// Every place of its rows, with the slope there.
    pub fn places<'a>(&'a self, slopes: &'a [f64]) -> impl Iterator<Item = (usize, f64)> + 'a {
        let along =
            move |start: &'a usize| slopes.iter().enumerate().map(move |(i, &slope)| (start + i * self.stride, slope));
        self.starts.iter().flat_map(along)
    }
}

/// What the attention of first tokens is drawn to: the cross-entropy, in each head, between the softmax of its scores
/// and that of 0 and 1 for tokens that people did not mark and did.
#[derive(Clone, Copy, Debug)]
pub struct Guide<'a> {
    /// One a token; empty where the record has none.
    pub marked: &'a [bool],
    /// What the mean over heads counts in the step's loss.
    pub share: f64,
}

impl Guide<'_> {
    /// Of one head, from the scores of a query and all tokens: the loss, and its gradient in their place.
    fn to_gradient(self, scores: &mut [f64]) -> f64 {
        let (e, n) = (std::f64::consts::E, self.marked.iter().filter(|marked| **marked).count() as f64);
        let whole = n * e + (scores.len() as f64 - n);
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = scores.iter().map(|score| (score - largest).exp()).sum();
        let mut loss = 0.0;
        for (score, marked) in scores.iter_mut().zip(self.marked) {
            let target = if *marked { e } else { 1.0 } / whole;
            loss += target * (sum.ln() + largest - *score);
            *score = (*score - largest).exp() / sum - target;
        }
        loss
    }

    /// The mean over heads of a sequence's losses; adds its share of their gradient to that of its query `[E]` and keys
    /// `[L, 2E]`, told by their places. `query` and `key` read the sequence's own, the latter by token.
    pub(super) fn add_gradient(
        self,
        shape: AttentionShape,
        query: impl Fn(usize) -> f64,
        key: impl Fn(usize, usize) -> f64,
        add_to_query: &mut dyn FnMut(usize, f64),
        add_to_key: &mut dyn FnMut(usize, usize, f64),
    ) -> f64 {
        let AttentionShape { heads, head_width, .. } = shape;
        let scale = 1.0 / (head_width as f64).sqrt();
        let mut loss = 0.0;
        for head in 0..heads {
            let places = head * head_width..(head + 1) * head_width;
            let score = |token: usize| scale * places.clone().map(|e| query(e) * key(token, e)).sum::<f64>();
            let mut scores: Vec<f64> = (0..self.marked.len()).map(score).collect();
            loss += self.to_gradient(&mut scores) / heads as f64;
            for (token, slope) in scores.into_iter().enumerate() {
                let slope = slope * scale * self.share / heads as f64;
                for e in places.clone() {
                    add_to_query(e, slope * key(token, e));
                    add_to_key(token, e, slope * query(e));
                }
            }
        }
        loss
    }
}
