//! Products with rows of eight-bit integers where they lie: no number of theirs is ever made a float.
//!
//! A query is held in sixteen bits, `t = 256 high + low`, times a scale, so that both halves are multiplied as the
//! machine multiplies bytes (`VPDPBUSD`, four to a lane). Sums of a lane are whole numbers and exact, so they are the
//! same on every machine; those of the lanes are added up in f32 by the tree of [`dot`](super::dot).

use super::{Sums, Totals};
use crate::backend::cpu::Int8Rows;
use crate::backend::cpu::lined::{Line, TOGETHER};
use crate::backend::cpu::simd::{Isa, Kernel, LANES, Vector};
use std::ops::Range;

/// Bytes that go through the lanes at a time.
const STEP: usize = 4 * LANES;
/// The greatest t: both of its halves are bytes.
const MOST: f64 = 127.0 * 256.0 + 127.0;
/// What the largest number of a query is made to be, or up to twice as much, where it meets the center: products of
/// both are then far from the least that an f32 can be, which a row's share might make large again.
const LIFTED: f64 = (1_u64 << 40) as f64;
/// Longer rows' sums might not fit 32 bits.
const WIDEST: usize = 8_192;

/// Queries of one width, in sixteen bits a number.
#[derive(Clone, Debug)]
pub struct IntegerQueries {
    width: usize,
    /// Of each query the high halves and then the low ones, each completed with zeros to whole steps.
    halves: Vec<i8>,
    /// t itself, completed in the same way.
    wholes: Vec<i16>,
    /// `128 Σ t` of each lane: what sums are off by where rows' bytes are taken for 128 more than they are.
    corrections: Vec<[i32; LANES]>,
    scales: Vec<f32>,
    /// The queries as they came, `[len, width]`, each over a power of two, and that.
    lifted: Vec<f32>,
    powers: Vec<f64>,
}

impl IntegerQueries {
    /// No queries, of `width` numbers each; `None` where rows are too long for their sums.
    pub fn new(width: usize) -> Option<Self> {
        let empty = Self {
            width,
            halves: Vec::new(),
            wholes: Vec::new(),
            corrections: Vec::new(),
            scales: Vec::new(),
            lifted: Vec::new(),
            powers: Vec::new(),
        };
        (1..=WIDEST).contains(&width).then_some(empty)
    }

    /// One more; at least how far it is from what is held of it.
    ///
    /// # Panics
    /// If it is of another width.
    pub fn push(&mut self, query: &[f32]) -> f32 {
        assert_eq!(query.len(), self.width, "a query of another width");
        let largest = query.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
        let scale = ((f64::from(largest) / MOST) as f32).next_up();
        let held = |x: f32| (f64::from(x) / f64::from(scale)).round().clamp(-MOST, MOST) as i32;
        let mut wholes = vec![0; self.width.next_multiple_of(STEP)];
        wholes.iter_mut().zip(query).for_each(|(t, &x)| *t = held(x) as i16);
        let low = |t: i16| t as i8;
        let high = |t: i16| ((i32::from(t) - i32::from(low(t))) / 256) as i8;
        let mut correction = [0; LANES];
        wholes.iter().enumerate().for_each(|(i, &t)| correction[i % STEP / 4] += 128 * i32::from(t));
        let square = |(x, t): (&f32, &i16)| (f64::from(*x) - f64::from(*t) * f64::from(scale)).powi(2);
        let residual = query.iter().zip(&wholes).map(square).sum::<f64>().sqrt() * (1.0 + 1e-9);
        self.halves.extend(wholes.iter().map(|&t| high(t)));
        self.halves.extend(wholes.iter().map(|&t| low(t)));
        self.wholes.extend(wholes);
        self.corrections.push(correction);
        self.scales.push(scale);
        let power = power_of_two(largest) / LIFTED;
        self.lifted.extend(query.iter().map(|&x| (f64::from(x) / power) as f32));
        self.powers.push(power);
        (residual as f32).next_up()
    }

    /// Bytes from one row of halves to the next.
    fn stride(&self) -> usize {
        self.width.next_multiple_of(STEP)
    }
}

/// The greatest power of two that is no more; 1 of what is none of its like.
fn power_of_two(x: f32) -> f64 {
    const EXPONENT: u64 = 0x7ff0_0000_0000_0000;
    let power = f64::from_bits(f64::from(x).to_bits() & EXPONENT);
    if power > 0.0 && power.is_finite() { power } else { 1.0 }
}

/// Products of every asked query with every row: `out [asked, rows]`.
///
/// They are within `γ_n (‖q‖ + ‖q − q̂‖)(‖x̂‖ + ‖s c‖)` of `q̂·x̂`, for the q̂ that is held of q, x̂ as [`Int8Rows`]
/// define it and s c what of the center is in it, n a ninth of the width and 24, but for the least that an f32 can be.
///
/// # Panics
/// If the queries asked are not there, or `out` is not of that size.
pub fn integer_products(out: &mut [f32], queries: &IntegerQueries, asked: Range<usize>, rows: Int8Rows<'_>) {
    integer_products_on(Isa::best(), out, queries, asked, rows);
}

/// [`integer_products`] on a given instruction set (the bits are the same).
pub fn integer_products_on(
    isa: Isa,
    out: &mut [f32],
    queries: &IntegerQueries,
    asked: Range<usize>,
    rows: Int8Rows<'_>,
) {
    assert!(asked.end <= queries.scales.len(), "queries {asked:?} of {}", queries.scales.len());
    assert_eq!(out.len(), asked.len() * rows.scales.len(), "products that do not fill their tile");
    assert_eq!(queries.width, rows.center.len(), "queries and rows of different widths");
    let bytes = Bytes::of(isa);
    isa.run(Passes { out, queries, asked, rows, bytes });
}

/// Every query with every row.
struct Passes<'a> {
    out: &'a mut [f32],
    queries: &'a IntegerQueries,
    asked: Range<usize>,
    rows: Int8Rows<'a>,
    bytes: Option<Bytes>,
}

impl Kernel for Passes<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(mut self) {
        let mut query = 0;
        while query < self.asked.len() {
            query += match self.asked.len() - query {
                1 => self.pass::<V, 1>(query),
                2 => self.pass::<V, 2>(query),
                _ => self.pass::<V, 3>(query),
            };
        }
        self.finish();
    }
}

impl Passes<'_> {
    /// `Q` queries, from the `query`th asked on, over all rows: sums of integers; gives back Q.
    #[inline(always)]
    fn pass<V: Vector, const Q: usize>(&mut self, query: usize) -> usize {
        let (width, n) = (self.queries.width, self.rows.scales.len());
        let mut sums = [[Line::ZERO; TOGETHER]; Q];
        for first in (0..n).step_by(TOGETHER) {
            let rows = &self.rows.values[first * width..(first + TOGETHER).min(n) * width];
            let query = self.asked.start + query;
            match self.bytes {
                Some(bytes) => bytes.add(&mut sums, self.queries, query, rows),
                None => add(&mut sums, self.queries, query, rows),
            }
            let out = &mut self.out[(query - self.asked.start) * n + first..];
            V::call(Totals { out, stride: n, sums: &sums, rows: rows.len() / width });
        }
        Q
    }

    /// From sums of integers to products. A plain loop over rows, as vectors of whatever the machine has.
    #[inline(always)]
    fn finish(self) {
        let Int8Rows { scales, shares, center, .. } = self.rows;
        for (sums, query) in self.out.chunks_exact_mut(scales.len().max(1)).zip(self.asked) {
            let width = self.queries.width;
            let lifted = super::dot(&self.queries.lifted[query * width..(query + 1) * width], center);
            let of_center = f64::from(lifted) * self.queries.powers[query];
            let of_query = self.queries.scales[query];
            for ((sum, &scale), &share) in sums.iter_mut().zip(scales).zip(shares) {
                // Sums are whole: what they are times the scale of the query is never rounded to less than there is.
                *sum = (*sum * of_query).mul_add(scale, (f64::from(share) * of_center) as f32);
            }
        }
    }
}

/// The lane sums of at most [`TOGETHER`] rows with queries from `first` on, as any machine computes them.
#[inline(always)]
fn add<const Q: usize>(sums: &mut [Sums; Q], queries: &IntegerQueries, first: usize, rows: &[i8]) {
    let stride = queries.stride();
    for (q, sums) in sums.iter_mut().enumerate() {
        let wholes = &queries.wholes[(first + q) * stride..][..stride];
        for (row, line) in rows.chunks_exact(queries.width).zip(sums) {
            let mut lanes = [0_i32; LANES];
            for (row, wholes) in row.chunks(STEP).zip(wholes.as_chunks::<STEP>().0) {
                let mut values = [0_i8; STEP];
                values[..row.len()].copy_from_slice(row);
                for lane in 0..LANES {
                    for i in 4 * lane..4 * lane + 4 {
                        lanes[lane] += i32::from(i16::from(values[i])) * i32::from(wholes[i]);
                    }
                }
            }
            line.0 = lanes.map(|sum| sum as f32);
        }
    }
}

/// That the machine multiplies bytes.
#[derive(Clone, Copy, Debug)]
struct Bytes(());

#[cfg(not(target_arch = "x86_64"))]
impl Bytes {
    fn of(_: Isa) -> Option<Self> {
        None
    }

    fn add<const Q: usize>(self, _: &mut [Sums; Q], _: &IntegerQueries, _: usize, _: &[i8]) {
        unreachable!("there are no such instructions")
    }
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)] // intrinsics
mod x86 {
    use super::{Bytes, IntegerQueries, Isa, LANES, Line, STEP, Sums, TOGETHER};
    use std::arch::x86_64::{
        _mm512_add_epi32, _mm512_cvtepi32_ps, _mm512_dpbusd_epi32, _mm512_loadu_si512, _mm512_maskz_loadu_epi8,
        _mm512_set1_epi8, _mm512_setzero_si512, _mm512_slli_epi32, _mm512_store_ps, _mm512_sub_epi32, _mm512_xor_si512,
    };

    #[allow(clippy::unused_self)] // the proof that they are there
    impl Bytes {
        /// Instructions that go with the widest vectors.
        pub(super) fn of(isa: Isa) -> Option<Self> {
            let there = is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512bw");
            (isa.name() == "avx512" && there).then_some(Self(()))
        }

        /// [`super::add`], by half of the rows.
        pub(super) fn add<const Q: usize>(
            self,
            sums: &mut [Sums; Q],
            queries: &IntegerQueries,
            first: usize,
            rows: &[i8],
        ) {
            let (width, stride) = (queries.width, queries.stride());
            let halves = &queries.halves[2 * first * stride..2 * (first + Q) * stride];
            let last = rows.len() / width - 1;
            for start in (0..=last).step_by(TOGETHER / 2) {
                let mut half = [&rows[..width]; TOGETHER / 2];
                for (r, row) in half.iter_mut().enumerate() {
                    // Beyond the last is the last again: those sums are not asked for.
                    let at = (start + r).min(last) * width;
                    *row = &rows[at..at + width];
                }
                // SAFETY: the instructions were detected: there is no other way to `self`. All rows are of one length,
                // which the queries' stride is in whole steps.
                unsafe { add_half(sums, start, halves, &queries.corrections[first..first + Q], half) }
            }
        }
    }

    /// From row `start` on, whose lines of sums these are.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn add_half<const Q: usize>(
        sums: &mut [Sums; Q],
        start: usize,
        halves: &[i8],
        corrections: &[[i32; LANES]],
        rows: [&[i8]; TOGETHER / 2],
    ) {
        let (width, stride) = (rows[0].len(), halves.len() / (2 * Q));
        let sign = _mm512_set1_epi8(-128);
        let mut lanes = [[[_mm512_setzero_si512(); 2]; TOGETHER / 2]; Q];
        for at in (0..width).step_by(STEP) {
            let mask = if width - at >= STEP { u64::MAX } else { (1 << (width - at)) - 1 };
            let mut values = [sign; TOGETHER / 2];
            for (value, row) in values.iter_mut().zip(rows) {
                // SAFETY: what is outside the mask, and so outside the row, is not read.
                *value = _mm512_xor_si512(unsafe { _mm512_maskz_loadu_epi8(mask, row.as_ptr().add(at)) }, sign);
            }
            for q in 0..Q {
                for half in 0..2 {
                    // SAFETY: a stride is whole steps, and there are twice Q of it.
                    let query = unsafe { _mm512_loadu_si512(halves.as_ptr().add((2 * q + half) * stride + at).cast()) };
                    for r in 0..TOGETHER / 2 {
                        lanes[q][r][half] = _mm512_dpbusd_epi32(lanes[q][r][half], values[r], query);
                    }
                }
            }
        }
        for q in 0..Q {
            // SAFETY: as many numbers as a vector has.
            let correction = unsafe { _mm512_loadu_si512(corrections[q].as_ptr().cast()) };
            for r in 0..TOGETHER / 2 {
                let [high, low] = lanes[q][r];
                let whole = _mm512_sub_epi32(_mm512_add_epi32(_mm512_slli_epi32::<8>(high), low), correction);
                let Line(line) = &mut sums[q][start + r];
                // SAFETY: a line is aligned, and as long as a vector.
                unsafe { _mm512_store_ps(line.as_mut_ptr(), _mm512_cvtepi32_ps(whole)) }
            }
        }
    }
}
