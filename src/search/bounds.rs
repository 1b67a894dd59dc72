//! What a score can be, from a scan copy of the record's features.
//!
//! With x̂ for x, a dot product as computed on x lies within `ε = ‖q‖ (r + γ(‖x‖ + ‖x̂‖))` of the one computed on x̂, for r ≥ ‖x − x̂‖ and γ the
//! bound of the dot product's own rounding on either side (Cauchy-Schwarz; Higham, *Accuracy and Stability*, §3.1). All that follows in a
//! score (adding s, a weight, sums of terms, the divisor) is f32 operations that are monotone, rounding included: the same operations
//! on both ends of the interval give an interval that holds the score itself, to the bit.

use super::form::{Form, Measure};
use super::source::FactorSet;
use crate::factors::FactorRows;

/// Half the distance between 1 and the next f32.
const U: f64 = 1.0 / (1 << 24) as f64;

/// What a dot product's underflow can add, and a distance's (its square), for any width.
const TINY: f32 = 1e-37;
const TINY_DISTANCE: f64 = 1e-18;

/// Whether this form's scores can be bounded from scan copies: those of the model's own features.
pub(super) fn applies(form: &Form<'_>) -> bool {
    form.scorer.is_none() && form.sets == [FactorSet::Final] && form.passes.iter().all(|pass| pass.rate == 1.0)
}

/// The roundings on the way from a pair's numbers to its dot product or squared distance, and some to spare, relative to 1.
fn gamma(width: usize) -> f64 {
    let roundings = (width.div_ceil(16) + 8) as f64;
    1.01 * roundings * U
}

/// How far scores are off, for one tile.
#[derive(Debug, Default)]
pub(super) struct Radii {
    /// By row: ε over ‖q‖ (for distances: r itself).
    rows: Vec<f32>,
    gamma: f64,
}

impl Radii {
    /// For some rows of `factors` with the residuals of their copies.
    pub(super) fn load(&mut self, form: &Form<'_>, factors: &FactorRows<'_>, start: usize, residuals: &[f32]) {
        self.gamma = gamma(factors.width);
        let gamma = self.gamma;
        let norms = &factors.feature_norms[start..][..residuals.len()];
        let radius = |(&r, &norm): (&f32, &f32)| match form.measure {
            Measure::Distance => r,
            Measure::Product => {
                // The stored norm is itself rounded.
                let (r, norm) = (f64::from(r), f64::from(norm) * (1.0 + gamma));
                up(r + gamma * (2.0 * norm + r))
            }
        };
        self.rows.clear();
        self.rows.extend(residuals.iter().zip(norms).map(radius));
    }

    /// The least and greatest dot products with a query of norm `query` whose products with the copies are `products`.
    pub(super) fn products(&self, query: f32, products: &[f32], low: &mut [f32], high: &mut [f32]) {
        let query = query * (1.0 + 2.0 * self.gamma as f32);
        for (((&radius, &product), low), high) in self.rows.iter().zip(products).zip(low).zip(high) {
            // The product and the sum are each rounded: by less than the factor allows for.
            let epsilon = query * radius * (1.0 + 8.0 * f32::EPSILON) + TINY;
            *low = (product - epsilon).next_down();
            *high = (product + epsilon).next_up();
        }
    }

    /// The least and greatest scores `−‖q − x‖`, from the distances to the copies.
    pub(super) fn distances(&self, distances: &[f32], low: &mut [f32], high: &mut [f32]) {
        let gamma = self.gamma;
        for (((&r, &distance), low), high) in self.rows.iter().zip(distances).zip(low).zip(high) {
            let (r, distance) = (f64::from(r) + TINY_DISTANCE, f64::from(distance));
            *low = -up((distance * (1.0 + gamma) + r) * (1.0 + gamma));
            *high = -down((distance * (1.0 - gamma) - r) * (1.0 - gamma)).max(0.0);
        }
    }
}

/// Where a bound is not one (infinities met), everything is possible.
pub(super) fn widen(low: &mut [f32], high: &mut [f32]) {
    for (low, high) in low.iter_mut().zip(high) {
        if !(low.is_finite() && high.is_finite()) {
            (*low, *high) = (f32::NEG_INFINITY, f32::INFINITY);
        }
    }
}

fn up(x: f64) -> f32 {
    (x as f32).next_up()
}

fn down(x: f64) -> f32 {
    (x as f32).next_down()
}
