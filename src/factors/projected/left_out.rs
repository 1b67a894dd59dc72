//! How much to damp by, where nobody has said: so that what is said of a record left out is right.
//!
//! To first order the margin of record i is `1 = φ_iᵀ w` for what the others have taught, a ridge regression of the
//! number 1 on the margins' gradients, whose w is `(ΦᵀWΦ + λI)⁻¹ ΦᵀW 1`: the very inverse that queries are
//! preconditioned by. How far it is off for each record when that one is left out comes of one fit (Allen 1974, PRESS):
//! its residual over what it has to itself. λ is where the sum of squares of those is least; no model is trained for
//! it, and no query is read.

use crate::error::Result;

/// λ over the mean diagonal is looked for from here, by half decades, between the least and the greatest.
const FIRST: i32 = 0;
const LEAST: i32 = -6;
const MOST: i32 = 6;

/// The share of the mean diagonal at which `error` is least: downhill from 1 by half decades.
///
/// # Errors
/// Whatever `error` fails with at the first; where it fails later, that is as far as it goes.
pub(super) fn least(error: impl Fn(f64) -> Result<f64>) -> Result<f64> {
    let share = |step: i32| 10.0_f64.powf(f64::from(step) / 2.0);
    let at = |step: i32| if (LEAST..=MOST).contains(&step) { error(share(step)).ok() } else { None };
    let (mut best, mut step) = (error(share(FIRST))?, FIRST);
    for direction in [1, -1] {
        while let Some(next) = at(step + direction).filter(|next| *next < best) {
            (best, step) = (next, step + direction);
        }
        if step != FIRST {
            break;
        }
    }
    Ok(share(step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_is_found_on_either_side_and_at_the_ends() {
        for (valley, expected) in [(3.0_f64, 10.0_f64.sqrt()), (0.012, 0.01), (1.2, 1.0), (1e9, 1e3), (1e-9, 1e-3)] {
            let found = least(|share| Ok((share / valley).ln().powi(2))).unwrap();
            assert!((found / expected - 1.0).abs() < 1e-9, "{valley}: {found}, expected {expected}");
        }
        let fails = |share: f64| if share < 0.05 { Err(crate::Error::usage("too small")) } else { Ok(share) };
        assert!((least(fails).unwrap() - 0.1).abs() < 1e-9);
    }
}
