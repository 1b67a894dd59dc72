//! Sums of f32 scores with no rounding: the same whatever the order, so that workers may add as they come.
//!
//! A finite f32 is an integer times 2⁻¹⁴⁹, below 2²⁷⁷ such units: an integer of 320 bits takes billions of them
//! (Kulisch, *Computer Arithmetic and Validity*, 2013, §8). It is held in ten limbs of 32 bits, each with 31 bits of
//! room for carries that are passed on later.

const LIMBS: usize = 10;

/// Additions after which a limb could run over.
const PATIENCE: u32 = 1 << 30;

/// An exact sum of f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ExactSum {
    /// Little-endian, in units of 2⁻¹⁴⁹ · 2³²ⁱ.
    limbs: [i64; LIMBS],
    since_carry: u32,
}

impl ExactSum {
    /// Adds a finite score.
    #[inline]
    pub(super) fn add(&mut self, score: f32) {
        let bits = score.to_bits();
        let exponent = (bits >> 23) & 0xFF;
        let fraction = u64::from(bits & 0x7F_FFFF);
        // Subnormal numbers have the exponent of the smallest normal ones, and no leading one.
        let (significand, shift) =
            if exponent == 0 { (fraction, 0) } else { (fraction | 1 << 23, exponent as usize - 1) };
        let units = significand << (shift % 32);
        let sign = if score.is_sign_negative() { -1 } else { 1 };
        self.limbs[shift / 32] += sign * (units & 0xFFFF_FFFF) as i64;
        self.limbs[shift / 32 + 1] += sign * (units >> 32) as i64;
        self.since_carry += 1;
        if self.since_carry == PATIENCE {
            self.carry();
        }
    }

    /// One that was added up elsewhere, of fewer than 2³¹ scores: signed limbs, no carries passed on yet.
    pub(super) fn from_limbs(limbs: [i64; LIMBS]) -> Self {
        Self { limbs, since_carry: PATIENCE - 1 }
    }

    /// Adds all of another sum.
    pub(super) fn merge(&mut self, mut other: Self) {
        self.carry();
        other.carry();
        for (limb, other) in self.limbs.iter_mut().zip(other.limbs) {
            *limb += other;
        }
        self.since_carry = 1;
    }

    /// Passes carries on: every limb but the last is then below 2³², and not negative.
    fn carry(&mut self) {
        for i in 0..LIMBS - 1 {
            self.limbs[i + 1] += self.limbs[i] >> 32;
            self.limbs[i] &= 0xFFFF_FFFF;
        }
        self.since_carry = 0;
    }

    /// The sum, rounded once to f64 (to nearest, ties to even).
    pub(super) fn value(mut self) -> f64 {
        self.carry();
        let negative = self.limbs[LIMBS - 1] < 0;
        if negative {
            self.limbs.iter_mut().for_each(|limb| *limb = -*limb);
            self.carry();
        }
        let magnitude = self.magnitude();
        if negative { -magnitude } else { magnitude }
    }

    /// The value of non-negative limbs: its first 64 bits and more, the rest told by one sticky bit.
    fn magnitude(&self) -> f64 {
        let Some(top) = self.limbs.iter().rposition(|&limb| limb != 0) else { return 0.0 };
        let limb = |back: usize| top.checked_sub(back).map_or(0, |i| self.limbs[i] as u128);
        let first = limb(0) << 64 | limb(1) << 32 | limb(2);
        let sticky = self.limbs[..top.saturating_sub(2)].iter().any(|&limb| limb != 0);
        // 128 bits have at least 65 significant ones above the sticky bit, so the conversion rounds as the whole sum
        // would.
        let rounded = (first << 1 | u128::from(sticky)) as f64;
        // The exponent of the bit that stands for the sticky one; a power of two in steps that neither overflow nor
        // underflow.
        let exponent = 32 * top as i32 - 64 - 1 - 149;
        rounded * 2_f64.powi(exponent / 2) * 2_f64.powi(exponent - exponent / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::ExactSum;

    fn sum(scores: &[f32]) -> f64 {
        let mut sum = ExactSum::default();
        for &score in scores {
            sum.add(score);
        }
        sum.value()
    }

    #[test]
    fn one_number_is_itself() {
        for x in [0.0, 1.0, -1.5, f32::MAX, f32::MIN, f32::MIN_POSITIVE, 1e-45, -3e-39, 16_777_215.0] {
            assert_eq!(sum(&[x]), f64::from(x));
        }
    }

    #[test]
    fn what_cancels_is_gone_and_what_is_small_stays() {
        assert_eq!(sum(&[f32::MAX, 1e-45, -f32::MAX]), f64::from(1e-45_f32));
        assert_eq!(sum(&[f32::MAX; 1000]), 1000.0 * f64::from(f32::MAX));
        assert_eq!(sum(&[-f32::MAX, -f32::MAX, 1.0, f32::MAX, f32::MAX]), 1.0);
    }

    #[test]
    fn the_order_and_the_parts_change_no_bit() {
        let scores: Vec<f32> =
            (0..5000_u32).map(|i| f32::from_bits(i.wrapping_mul(2_654_435_761) % 0x7F00_0000)).collect();
        let scores: Vec<f32> = scores.iter().enumerate().map(|(i, &x)| if i % 2 == 0 { x } else { -x }).collect();
        let backwards: Vec<f32> = scores.iter().rev().copied().collect();
        let mut parts = ExactSum::default();
        for part in scores.chunks(77) {
            let mut sum = ExactSum::default();
            for &score in part {
                sum.add(score);
            }
            parts.merge(sum);
        }
        assert_eq!(sum(&scores).to_bits(), sum(&backwards).to_bits());
        assert_eq!(sum(&scores).to_bits(), parts.value().to_bits());
    }

    #[test]
    fn the_result_is_rounded_once() {
        // 2⁵³ + 1 + 2⁻¹⁴⁹ is just above a tie; the plain sum of doubles falls to the even side.
        let large = 2_f32.powi(53);
        assert_eq!(sum(&[large, 1.0]), 2_f64.powi(53));
        assert_eq!(sum(&[large, 1.0, 1e-45]), 2_f64.powi(53) + 2.0);
        assert_eq!(sum(&[-large, -1.0, -1e-45]), -(2_f64.powi(53) + 2.0));
    }
}
