//! The rules in f64, each as it is written on paper, with a bound of what f32 may be off by.
//!
//! An expression of f32 operations on exact inputs is off by at most `γ_m` times the same expression over magnitudes,
//! where m counts the roundings on the way from an input to the result and `γ_m = m u / (1 − m u)`, u = 2⁻²⁴ (Higham,
//! *Accuracy and Stability of Numerical Algorithms*, lemma 3.1).

/// A score, the same over magnitudes, and how many roundings f32 takes to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exact {
    pub(super) value: f64,
    pub(super) magnitude: f64,
    pub(super) roundings: usize,
}

/// A record or query: `h [E]`, `δ [K]`.
pub(super) struct Side {
    pub(super) h: Vec<f64>,
    pub(super) delta: Vec<f64>,
}

impl Side {
    pub(super) fn new(h: &[f32], delta: &[f32]) -> Self {
        Self { h: widen(h), delta: widen(delta) }
    }
}

pub(super) fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}

impl Exact {
    /// Refuses a score further off than `more` roundings beyond those of the scoring allow.
    pub(super) fn assert_close(&self, score: f32, more: usize, what: &str) {
        let m = (self.roundings + more) as f64 * 2_f64.powi(-24);
        let (error, bound) = ((f64::from(score) - self.value).abs(), m / (1.0 - m) * self.magnitude);
        assert!(error <= bound, "{what}: {score} for {}, off by {error:e}, more than {bound:e}", self.value);
    }

    /// Divided by what is itself rounded `roundings` times; 0 where that is 0.
    fn over(self, divisor: f64, roundings: usize) -> Self {
        if divisor == 0.0 {
            return Self { value: 0.0, magnitude: 0.0, roundings: 0 };
        }
        Self {
            value: self.value / divisor,
            magnitude: self.magnitude / divisor,
            roundings: self.roundings + roundings + 1,
        }
    }

    fn times(self, other: Self) -> Self {
        Self {
            value: self.value * other.value,
            magnitude: self.magnitude * other.magnitude,
            roundings: self.roundings + other.roundings + 1,
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            value: self.value + other.value,
            magnitude: self.magnitude + other.magnitude,
            roundings: self.roundings.max(other.roundings) + 1,
        }
    }

    pub(super) fn constant(value: f32) -> Self {
        Self { value: value.into(), magnitude: f64::from(value).abs(), roundings: 0 }
    }

    fn zero() -> Self {
        Self::constant(0.0)
    }
}

/// Sixteen chains and a tree of four levels.
fn wide_dot(a: &[f64], b: &[f64]) -> Exact {
    Exact { roundings: a.len().div_ceil(16) + 4, ..chain(a, b) }
}

/// One chain of fused multiply-adds.
fn chain(a: &[f64], b: &[f64]) -> Exact {
    let products = || a.iter().zip(b).map(|(a, b)| a * b);
    Exact { value: products().sum(), magnitude: products().map(f64::abs).sum(), roundings: a.len() }
}

fn length(v: &[f64]) -> f64 {
    v.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// A length is the root of a sum of squares: half the sum's roundings, and its own.
fn length_roundings(width: usize) -> usize {
    (width.div_ceil(16) + 4).div_ceil(2) + 1
}

pub(super) fn feature_dot(q: &Side, i: &Side) -> Exact {
    wide_dot(&q.h, &i.h).plus(Exact::zero())
}

pub(super) fn feature_cos(q: &Side, i: &Side) -> Exact {
    feature_dot(q, i).over(length(&q.h) * length(&i.h), 2 * length_roundings(q.h.len()) + 1)
}

pub(super) fn feature_euc(q: &Side, i: &Side) -> Exact {
    let difference: Vec<f64> = q.h.iter().zip(&i.h).map(|(q, i)| q - i).collect();
    let distance = length(&difference);
    Exact { value: -distance, magnitude: distance, roundings: length_roundings(q.h.len()) + 1 }
}

/// `b (a + s)`
pub(super) fn gradient(q: &Side, s: f32, i: &Side) -> Exact {
    chain(&q.delta, &i.delta).times(wide_dot(&q.h, &i.h).plus(Exact::constant(s))).plus(Exact::zero())
}

pub(super) fn grad_cos(q: &Side, i: &Side) -> Exact {
    // A unit δ: two divisions by rounded numbers, one a root of K + 1 roundings.
    let unit = 2 * (2 + (q.delta.len() + 1).div_ceil(2) + 1);
    let bias = length_roundings(q.h.len()) + 3;
    gradient(q, 1.0, i)
        .over(length(&q.delta) * length(&i.delta), unit)
        .over(with_one(&q.h) * with_one(&i.h), 2 * bias + 1)
}

/// The length of `[h; 1]`.
fn with_one(h: &[f64]) -> f64 {
    (h.iter().map(|x| x * x).sum::<f64>() + 1.0).sqrt()
}

/// `α[c] (a + s)`
pub(super) fn representer(h: &[f64], s: f32, alpha: f32, i: &Side) -> Exact {
    Exact::constant(alpha).times(wide_dot(h, &i.h).plus(Exact::constant(s))).plus(Exact::zero())
}

/// `Σ_c rates[c] b_c (a_c + 1)`
pub(super) fn tracin(rates: &[f32], q: &[Side], i: &[Side]) -> Exact {
    let terms = rates.iter().zip(q).zip(i).map(|((&rate, q), i)| Exact::constant(rate).times(gradient(q, 1.0, i)));
    terms.fold(Exact::zero(), Exact::plus)
}

/// `Σ_kj δ[k] V[k, j] [h; 1]_j`, for `V [K, E + 1]`.
pub(super) fn bilinear(v: &[f64], i: &Side) -> Exact {
    let rows = v.chunks_exact(i.h.len() + 1).zip(&i.delta).map(|(row, &delta)| {
        let (v, bias) = (&row[..i.h.len()], row[i.h.len()]);
        Exact::constant(delta as f32).times(wide_dot(v, &i.h).plus(Exact::constant(bias as f32)))
    });
    rows.fold(Exact::zero(), Exact::plus)
}

pub(super) fn relatif(v: &[f64], i: &Side, norm: f32) -> Exact {
    bilinear(v, i).over(norm.into(), 0)
}
