//! Random numbers by counter: every draw is a function of what it is for, so it is the same on every device, in every
//! batch and order.
//!
//! Philox4x32-10 (Salmon, Moraes, Dror & Shaw, *Parallel Random Numbers: As Easy as 1, 2, 3*, SC 2011). The key is the
//! user's seed and the draw's purpose; the counter says which element, token, sample and record. Uniform and normal
//! numbers are made of additions, multiplications, divisions and square roots alone, each correctly rounded, so that
//! their bits are the same everywhere too.

/// What draws are for: two purposes under one seed share no numbers. Uses of one purpose are told apart by their
/// counters, or not at all: what is shuffled, masked, left out or left to chance in one place may be by the numbers of
/// another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Purpose {
    /// Noise on embeddings.
    EmbeddingNoise = 1,
    /// How far along its path a probe stands.
    PathPosition = 2,
    /// Which baseline a probe starts from.
    Baseline = 3,
    /// Which tokens or words a probe leaves out.
    Masks = 4,
    /// In which order records are learnt from.
    Shuffle = 5,
    /// The order of an epoch of training.
    EpochOrder = 6,
    /// The first values of parameters.
    Initialisation = 7,
    /// Which numbers a training pass drops.
    Dropout = 8,
    /// Which records a bootstrap takes again.
    Bootstrap = 9,
    /// Which words of a text, or which records of a set, an evaluation leaves out.
    Subsets = 10,
    /// Scores that say nothing: what methods are compared with.
    Chance = 11,
    /// The entries of projections of gradients.
    Projection = 12,
    /// Which pieces of a text a masked-language model is to tell.
    MaskedPieces = 16,
    /// Labels drawn as the model would give them.
    FisherLabels = 24,
}

/// The stream of one purpose under one seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    key: [u32; 2],
}

impl Stream {
    /// The stream of `purpose` under the user's `seed`.
    pub fn new(seed: u64, purpose: Purpose) -> Self {
        Self { key: [seed as u32, (seed >> 32) as u32 ^ purpose as u32] }
    }

    /// What every draw is keyed by, for a device that draws by itself.
    pub(crate) fn key(self) -> [u32; 2] {
        self.key
    }

    /// Four draws of 32 bits.
    pub fn block(self, counter: [u32; 4]) -> [u32; 4] {
        philox(counter, self.key)
    }

    /// Sixteen blocks, the first of `counter` and each next of one more in its word 0: word w of block i is `[w][i]`.
    /// Of loops over lanes alone, for callers compiled for an instruction set.
    #[inline(always)]
    pub(crate) fn sixteen_blocks(self, counter: [u32; 4]) -> [[u32; 16]; 4] {
        let [first, second, third, fourth] = counter;
        let mut x = [[first; 16], [second; 16], [third; 16], [fourth; 16]];
        for (lane, first) in x[0].iter_mut().enumerate() {
            *first = first.wrapping_add(lane as u32);
        }
        let mut k = self.key;
        for _ in 0..10 {
            let from = x;
            for lane in 0..16 {
                let one = round([from[0][lane], from[1][lane], from[2][lane], from[3][lane]], k);
                for word in 0..4 {
                    x[word][lane] = one[word];
                }
            }
            k = next_key(k);
        }
        x
    }

    /// Uniform below `n`, of word 0 of block `[0, 0, sample, record]`, without a bias worth the name (n 2⁻³²).
    pub fn below(self, n: u32, sample: u32, record: u32) -> u32 {
        below(self.block([0, 0, sample, record])[0], n)
    }

    /// Puts `items` in an order drawn (Fisher and Yates, as Durstenfeld 1964 has it): what goes to place `last` is
    /// drawn as the (sample, record) that `counter` says.
    pub fn shuffle<T>(self, items: &mut [T], counter: impl Fn(usize) -> (u32, u32)) {
        for last in (1..items.len()).rev() {
            let (sample, record) = counter(last);
            items.swap(last, self.below(last as u32 + 1, sample, record) as usize);
        }
    }

    /// Uniform in (0, 1): word 0 of block `[0, 0, sample, record]`.
    pub fn position(self, sample: u32, record: u32) -> f32 {
        uniform(self.block([0, 0, sample, record])[0])
    }
}

/// Uniform below `n`, of a draw.
pub fn below(word: u32, n: u32) -> u32 {
    ((u64::from(word) * u64::from(n)) >> 32) as u32
}

/// Ten rounds of Philox4x32.
fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let mut x = counter;
    let mut k = key;
    for _ in 0..10 {
        x = round(x, k);
        k = next_key(k);
    }
    x
}

#[inline(always)]
fn round(x: [u32; 4], k: [u32; 2]) -> [u32; 4] {
    const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
    let first = u64::from(x[0]) * u64::from(MULTIPLIERS[0]);
    let second = u64::from(x[2]) * u64::from(MULTIPLIERS[1]);
    [(second >> 32) as u32 ^ x[1] ^ k[0], second as u32, (first >> 32) as u32 ^ x[3] ^ k[1], first as u32]
}

#[inline(always)]
fn next_key(k: [u32; 2]) -> [u32; 2] {
    const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
    [k[0].wrapping_add(WEYL[0]), k[1].wrapping_add(WEYL[1])]
}

/// Uniform in (0, 1), never either: the middle of one of 2²³ equal intervals, which f32 holds exactly.
pub fn uniform(word: u32) -> f32 {
    ((word >> 9) as f32 + 0.5) * (-23.0_f32).exp2()
}

/// Standard normal: `√2 erf⁻¹(2u − 1)`, u the middle of one of 2²⁴ equal intervals of (0, 1), to a few units in the
/// last place.
///
/// The inverse error function is Giles's single-precision approximation (*Approximating the erfinv function*, GPU
/// Computing Gems, 2011).
pub fn normal(word: u32) -> f32 {
    const CENTRE: [f32; 9] = [
        1.501_409_4,
        0.246_640_72,
        -0.004_177_681_6,
        -0.001_253_725,
        2.185_808_7e-4,
        -4.391_506_5e-6,
        -3.523_387_7e-6,
        3.432_739_4e-7,
        2.810_226_4e-8,
    ];
    const TAIL: [f32; 9] = [
        2.832_976_8,
        1.001_674,
        0.009_438_87,
        -0.007_622_461_3,
        0.005_739_507_7,
        -0.003_673_428_5,
        0.001_349_343_2,
        1.009_505_6e-4,
        -2.002_142_6e-4,
    ];
    // An odd number over 2²⁴: exact, and never ±1.
    let x = (2 * (word >> 8) as i32 + 1 - (1 << 24)) as f32 * (-24.0_f32).exp2();
    let w = -ln(x.mul_add(-x, 1.0));
    let (t, coefficients) = if w < 5.0 { (w - 2.5, CENTRE) } else { (w.sqrt() - 3.0, TAIL) };
    let scale = coefficients.iter().rev().fold(0.0, |sum: f32, &c| sum.mul_add(t, c));
    scale * x * std::f32::consts::SQRT_2
}

/// The natural logarithm of a positive normal number, to two units in the last place: `x = 2^e m`, m within √½ … √2,
/// and `ln m = 2 artanh((m − 1)/(m + 1))` by its series.
fn ln(x: f32) -> f32 {
    const SERIES: [f32; 5] = [2.0, 2.0 / 3.0, 2.0 / 5.0, 2.0 / 7.0, 2.0 / 9.0];
    let bits = x.to_bits();
    let above = u32::from(bits & 0x007F_FFFF > 0x0035_04F3); // mantissas beyond √2 belong to the next exponent
    let exponent = (bits >> 23) as i32 - 127 + above as i32;
    let m = f32::from_bits((bits & 0x007F_FFFF) | (127 - above) << 23);
    let s = (m - 1.0) / (m + 1.0);
    let square = s * s;
    let series = SERIES.iter().rev().fold(0.0, |sum: f32, &c| sum.mul_add(square, c));
    (exponent as f32).mul_add(std::f32::consts::LN_2, series * s)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers of the authors' own library (Random123, `kat_vectors`).
    #[test]
    fn philox_gives_the_published_answers() {
        let all = u32::MAX;
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([all; 4], [all; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let pi = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        assert_eq!(philox(pi, [0xa409_3822, 0x299f_31d0]), [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }

    #[test]
    fn logarithms_are_within_two_units_in_the_last_place() {
        for i in 1..20_000_u32 {
            let x = f32::from_bits(0x3300_0000 + i * 6701);
            let exact = f64::from(x).ln();
            let allowed = 2.0 * f64::from(f32::EPSILON) * exact.abs() + 1e-9;
            assert!((f64::from(ln(x)) - exact).abs() <= allowed, "ln({x}) = {}", ln(x));
        }
    }

    #[test]
    fn normals_have_the_moments_and_tails_of_the_normal_distribution() {
        let stream = Stream::new(7, Purpose::EmbeddingNoise);
        let draws: Vec<f64> =
            (0..50_000).flat_map(|i| stream.block([i, 0, 0, 0])).map(|word| f64::from(normal(word))).collect();
        let n = draws.len() as f64;
        let moment = |power: i32| draws.iter().map(|x| x.powi(power)).sum::<f64>() / n;
        // Four standard errors of each moment: √(var/n) = 1, √2, √15, √96 over √n.
        for (power, expected, deviation) in [(1, 0.0, 1.0), (2, 1.0, 2.0_f64.sqrt()), (3, 0.0, 3.87), (4, 3.0, 9.8)] {
            assert!((moment(power) - expected).abs() < 4.0 * deviation / n.sqrt(), "moment {power}: {}", moment(power));
        }
        let beyond = draws.iter().filter(|x| x.abs() > 1.959_964).count() as f64 / n;
        assert!((beyond - 0.05).abs() < 4.0 * (0.05_f64 * 0.95 / n).sqrt(), "{beyond} beyond the 95 % limits");
    }

    #[test]
    fn extreme_words_give_finite_normals_of_both_signs() {
        assert!((-5.5..-5.0).contains(&normal(0)), "{}", normal(0));
        assert_eq!(normal(0), -normal(u32::MAX));
        assert!(uniform(0) > 0.0 && uniform(u32::MAX) < 1.0);
    }
}
