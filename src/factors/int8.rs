//! Features in eight bits a number: integers times a scale of each row's own, from a share of a center.
//!
//! A row's numbers never depend on the rows after it: the first are held from the origin, and the mean of those is the
//! center of the others. So rows can be added later, and what comes out is what would have come out in one go.

use crate::backend::cpu::Int8Rows;

/// Rows whose mean is the center of those after them.
const CENTERED_AFTER: usize = 64;
/// The greatest integer.
const MOST: f32 = 127.0;

/// Rows in memory.
#[derive(Clone, Debug, Default)]
pub struct Int8 {
    values: Vec<i8>,
    scales: Vec<f32>,
    shares: Vec<f32>,
    center: Vec<f32>,
}

impl Int8 {
    /// No rows, of this width.
    pub fn new(width: usize) -> Self {
        Self { center: vec![0.0; width], ..Self::default() }
    }

    /// All rows.
    pub fn rows(&self) -> Int8Rows<'_> {
        let Self { values, scales, shares, center } = self;
        Int8Rows { values, scales, shares, center }
    }

    /// A copy.
    pub fn of(rows: Int8Rows<'_>) -> Self {
        let Int8Rows { values, scales, shares, center } = rows;
        Self { values: values.to_vec(), scales: scales.to_vec(), shares: shares.to_vec(), center: center.to_vec() }
    }

    /// Adds `features [n, E]`. A row that is too large to be held is held as zeros.
    pub fn extend(&mut self, features: &[f32]) {
        let width = self.center.len().max(1);
        for row in features.chunks_exact(width) {
            if self.scales.len() == CENTERED_AFTER && self.center.iter().all(|&x| x == 0.0) {
                self.center = center(&self.rows().to_f32(), width);
            }
            self.push(row);
        }
    }

    fn push(&mut self, row: &[f32]) {
        let product =
            |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum() };
        let square = product(&self.center, &self.center);
        let share = if square > 0.0 { (product(row, &self.center) / square) as f32 } else { 0.0 };
        let from_center = || row.iter().zip(&self.center).map(|(x, center)| x - share * center);
        let scale = from_center().fold(0.0_f32, |most, x| most.max(x.abs())) / MOST;
        // A float to an integer saturates, and 0/0 is taken to 0: whatever comes out, how far off it is is measured.
        self.values.extend(from_center().map(|x| (x / scale).round().max(-MOST) as i8));
        self.scales.push(scale);
        self.shares.push(share);
        let last = self.scales.len() - 1;
        let mut decoded = vec![0.0; row.len()];
        self.rows().rows(last..last + 1).decode(&mut decoded);
        if !decoded.iter().all(|x| x.is_finite()) {
            self.values[last * row.len()..].fill(0);
            (self.scales[last], self.shares[last]) = (0.0, 0.0);
        }
    }

    /// Keeps some of the rows.
    pub(crate) fn retain(&mut self, kept: &[bool]) {
        let width = self.center.len().max(1);
        let mut rows = Self { center: self.center.clone(), ..Self::default() };
        for (row, _) in kept.iter().enumerate().filter(|(_, kept)| **kept) {
            rows.values.extend(&self.values[row * width..(row + 1) * width]);
            rows.scales.push(self.scales[row]);
            rows.shares.push(self.shares[row]);
        }
        *self = rows;
    }
}

/// The rows' mean, summed in f64 in their order. Rows of other magnitudes than most would draw it away from those: it
/// is the mean of directions times the median length.
fn center(features: &[f32], width: usize) -> Vec<f32> {
    let mut sums = vec![0.0_f64; width];
    let mut lengths: Vec<f64> = Vec::new();
    for row in features.chunks_exact(width.max(1)) {
        let length = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        if length > 0.0 {
            lengths.push(length);
            sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x) / length);
        }
    }
    lengths.sort_by(f64::total_cmp);
    let scale = lengths.get(lengths.len() / 2).map_or(0.0, |median| median / lengths.len() as f64);
    sums.into_iter().map(|sum| (sum * scale) as f32).collect()
}
