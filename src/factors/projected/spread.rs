//! How far a sum over projected numbers may be off: by how much it would be another, had the projection been drawn
//! again.
//!
//! What two gradients have in common in one layer is `Σ_ab z_ab` over its numbers, `z_ab = (p_aᵀ X q_b)(p_aᵀ Y q_b)`,
//! where the rows p_a of P_out and q_b of P_in are draws of one distribution, each by itself. So z is a table of two
//! crossed random effects, and by the analysis of its variance (Searle, Casella and McCulloch 1992, *Variance
//! Components*, ch. 4) the variance of the whole sum is estimated, without bias, by
//!
//! ```text
//! Var Σ z ≈ o i (MS_rows + MS_columns − MS_rest)        z [o, i]
//! ```
//!
//! A side that was kept as it is has no draws: z is added up over it, and the variance is that of the other side's
//! sums. Layers are drawn apart from each other, so that their variances add up.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::model::KeptLayer;

/// Which of a projected gradient's numbers are of which draws.
#[derive(Clone, Debug)]
pub struct Draws {
    tables: Vec<Table>,
}

/// One layer's numbers.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) range: Range<usize>,
    pub(super) columns: usize,
    drawn: Drawn,
}

/// What of a score is each number's, each row's and each column's: what it loses where that is left out.
#[derive(Clone, Debug)]
pub struct Shares {
    /// A layer after the other.
    of_layers: Vec<OfLayer>,
}

#[derive(Clone, Debug)]
struct OfLayer {
    numbers: Vec<f64>,
    rows: Vec<f64>,
    columns: Vec<f64>,
}

/// Which sides of a layer were projected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Drawn {
    Neither,
    Rows,
    Columns,
    Both,
}

/// The variance of an estimate.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spread {
    /// Of the estimate.
    pub variance: f64,
    /// How many degrees of freedom that is known by (Satterthwaite 1946).
    pub freedom: f64,
}

/// Where an estimate lies in 95 of 100 cases.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// The standard error.
    pub error: f64,
    /// Half of the interval's length.
    pub half: f64,
}

impl Draws {
    /// Of a store's layers.
    ///
    /// # Errors
    /// [`Error::Usage`] where a side has a single draw, which says nothing of others.
    pub fn new(layers: &[KeptLayer]) -> Result<Self> {
        let mut end = 0;
        let of_layer = |layer: &KeptLayer| {
            let start = end;
            end += layer.len();
            let drawn = match (layer.outputs_whole, layer.inputs_whole) {
                (true, true) => Drawn::Neither,
                (false, true) => Drawn::Rows,
                (true, false) => Drawn::Columns,
                (false, false) => Drawn::Both,
            };
            let few = |whole: bool, kept: usize| !whole && kept < 2;
            if few(layer.outputs_whole, layer.outputs) || few(layer.inputs_whole, layer.inputs) {
                let (name, outputs, inputs) = (&layer.name, layer.outputs, layer.inputs);
                return Err(Error::usage(format!(
                    "--error-bars: layer {name} is projected to {outputs} × {inputs} numbers: of one draw nothing is known of another"
                ))
                .with_hint("index with a larger --projection-dim, or --layer-dim"));
            }
            Ok(Table { range: start..end, columns: layer.inputs, drawn })
        };
        Ok(Self { tables: layers.iter().map(of_layer).collect::<Result<_>>()? })
    }

    /// The layers.
    pub(super) fn tables(&self) -> &[Table] {
        &self.tables
    }

    /// Of a score that nothing has a share in.
    pub fn none(&self) -> Shares {
        let of_layer = |table: &Table| OfLayer {
            numbers: vec![0.0; table.range.len()],
            rows: vec![0.0; table.rows()],
            columns: vec![0.0; table.columns],
        };
        Shares { of_layers: self.tables.iter().map(of_layer).collect() }
    }

    /// Of a sum over numbers, `share(r)` of number r: a row has what its numbers have.
    pub fn of_sum(&self, share: impl Fn(usize) -> f64) -> Shares {
        let mut shares = self.none();
        for (table, of) in self.tables.iter().zip(&mut shares.of_layers) {
            for (r, number) in of.numbers.iter_mut().enumerate() {
                *number = share(table.range.start + r);
                of.rows[r / table.columns] += *number;
                of.columns[r % table.columns] += *number;
            }
        }
        shares
    }

    /// Of what `shares` are of.
    pub fn spread(&self, shares: &Shares) -> Spread {
        let (mut all, mut rest) = (Sum::default(), Sum::default());
        for (table, of) in self.tables.iter().zip(&shares.of_layers) {
            table.add(of, &mut all, &mut rest);
        }
        // What is left of chance when rows and columns are taken out of it is part of the whole.
        if all.variance < rest.variance { rest.spread() } else { all.spread() }
    }
}

impl Shares {
    /// `self + scale · other`
    pub fn add(&mut self, scale: f64, other: &Self) {
        let add = |x: &mut [f64], y: &[f64]| x.iter_mut().zip(y).for_each(|(x, y)| *x += scale * y);
        for (own, other) in self.of_layers.iter_mut().zip(&other.of_layers) {
            add(&mut own.numbers, &other.numbers);
            add(&mut own.rows, &other.rows);
            add(&mut own.columns, &other.columns);
        }
    }

    /// Of each layer its numbers', its rows' and its columns'.
    pub(super) fn tables_mut(&mut self) -> impl Iterator<Item = (&mut [f64], &mut [f64], &mut [f64])> {
        self.of_layers.iter_mut().map(|of| (&mut *of.numbers, &mut *of.rows, &mut *of.columns))
    }
}

impl Table {
    pub(super) fn rows(&self) -> usize {
        self.range.len() / self.columns
    }

    fn add(&self, of: &OfLayer, all: &mut Sum, rest: &mut Sum) {
        let (rows, columns) = (self.rows() as f64, self.columns as f64);
        let (by_rows, by_columns) = (squares(&of.rows), squares(&of.columns));
        let (row_freedom, column_freedom) = (rows - 1.0, columns - 1.0);
        match self.drawn {
            Drawn::Neither => {}
            Drawn::Rows => {
                all.add(rows * by_rows / row_freedom, row_freedom);
                rest.add(rows * by_rows / row_freedom, row_freedom);
            }
            Drawn::Columns => {
                all.add(columns * by_columns / column_freedom, column_freedom);
                rest.add(columns * by_columns / column_freedom, column_freedom);
            }
            Drawn::Both => {
                // Mean squares times o i: sums of rows are over i numbers each, sums of columns over o.
                let cells = rows * columns;
                let freedom = row_freedom * column_freedom;
                all.add(rows * by_rows / row_freedom, row_freedom);
                all.add(columns * by_columns / column_freedom, column_freedom);
                all.add(-cells * self.within(&of.numbers) / freedom, freedom);
                rest.add(cells * self.within(&of.numbers) / freedom, freedom);
            }
        }
    }

    /// What is left of the numbers' squares without the means of rows and columns.
    fn within(&self, numbers: &[f64]) -> f64 {
        let rows: Vec<f64> = numbers.chunks_exact(self.columns).map(|row| row.iter().sum()).collect();
        let mut columns = vec![0.0; self.columns];
        for row in numbers.chunks_exact(self.columns) {
            columns.iter_mut().zip(row).for_each(|(sum, z)| *sum += z);
        }
        (squares(numbers) - squares(&rows) / self.columns as f64 - squares(&columns) / rows.len() as f64).max(0.0)
    }
}

/// The sum of squared distances from the mean.
fn squares(values: &[f64]) -> f64 {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    values.iter().map(|x| (x - mean).powi(2)).sum()
}

/// A sum of mean squares, each times a constant.
#[derive(Default)]
struct Sum {
    variance: f64,
    /// Of each its square over its degrees of freedom.
    uncertainty: f64,
}

impl Sum {
    fn add(&mut self, variance: f64, freedom: f64) {
        self.variance += variance;
        self.uncertainty += variance * variance / freedom;
    }

    fn spread(&self) -> Spread {
        if self.variance <= 0.0 {
            return Spread { variance: 0.0, freedom: f64::INFINITY };
        }
        Spread { variance: self.variance, freedom: self.variance * self.variance / self.uncertainty }
    }
}

impl Spread {
    /// Of the mean of `members`, drawn each by itself.
    pub fn of_mean(members: &[f64]) -> Self {
        let count = members.len() as f64;
        if members.len() < 2 {
            return Self { variance: 0.0, freedom: f64::INFINITY };
        }
        Self { variance: squares(members) / (count * (count - 1.0)), freedom: count - 1.0 }
    }

    /// Of the sum of two estimates that know nothing of each other.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        let mut sum = Sum::default();
        [self, other].into_iter().filter(|one| one.variance > 0.0).for_each(|one| sum.add(one.variance, one.freedom));
        sum.spread()
    }

    /// By Student's distribution.
    pub fn interval(&self) -> Interval {
        let error = self.variance.sqrt();
        Interval { error, half: if error > 0.0 { student(self.freedom) * error } else { 0.0 } }
    }
}

/// Student's t that 95 of 100 draws are within, for any number of degrees of freedom from 1 on.
///
/// With `t = √ν tan θ` the density is cos θ to the power ν − 1, whose integral is a sum here; from ten on, an expansion
/// in 1/ν is right to the sixth digit (Fisher and Cornish 1960).
fn student(freedom: f64) -> f64 {
    /// The normal distribution's.
    const Z: f64 = 1.959_963_984_540_054;
    let freedom = freedom.max(1.0);
    if freedom >= 10.0 {
        let (n, z2) = (freedom, Z * Z);
        let terms = [
            (z2 + 1.0) / 4.0,
            ((5.0 * z2 + 16.0) * z2 + 3.0) / 96.0,
            (((3.0 * z2 + 19.0) * z2 + 17.0) * z2 - 15.0) / 384.0,
            ((((79.0 * z2 + 776.0) * z2 + 1482.0) * z2 - 1920.0) * z2 - 945.0) / 92_160.0,
        ];
        return Z * terms.iter().rev().fold(0.0, |sum, term| (sum + term) / n) + Z;
    }
    let density = |theta: f64| theta.cos().max(0.0).powf(freedom - 1.0);
    // Simpson's rule, from the side that is asked about: up to θ, of the whole up to a right angle.
    let integral = |from: f64, to: f64| {
        const STEPS: i32 = 64;
        let step = (to - from) / f64::from(2 * STEPS);
        let weight = |i: i32| if i == 0 || i == 2 * STEPS { 1.0 } else { f64::from(2 + 2 * (i % 2)) };
        (0..=2 * STEPS).map(|i| weight(i) * density(from + f64::from(i) * step)).sum::<f64>() * step / 3.0
    };
    let right = std::f64::consts::FRAC_PI_2;
    let whole = integral(0.0, right);
    let (mut low, mut high) = (0.0, right);
    for _ in 0..40 {
        let middle = f64::midpoint(low, high);
        if integral(0.0, middle) < 0.95 * whole { low = middle } else { high = middle }
    }
    freedom.sqrt() * f64::midpoint(low, high).tan()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn students_quantiles_are_those_of_tables() {
        for (freedom, expected) in [
            (1.0, 12.706_205),
            (2.0, 4.302_653),
            (3.0, 3.182_446),
            (5.0, 2.570_582),
            (9.0, 2.262_157),
            (10.0, 2.228_139),
            (30.0, 2.042_272),
            (f64::INFINITY, 1.959_964),
        ] {
            let found = student(freedom);
            assert!((found - expected).abs() <= 2e-5 * expected, "{freedom}: {found}, expected {expected}");
        }
    }

    fn layer(outputs: usize, inputs: usize, outputs_whole: bool, inputs_whole: bool) -> KeptLayer {
        KeptLayer { name: "a".into(), outputs, inputs, outputs_whole, inputs_whole }
    }

    #[test]
    fn variances_are_those_of_a_table_worked_out_by_hand() {
        // Rows sum to 6 and 12, columns to 3, 6 and 9, and beyond those there is nothing.
        let z = [0.5, 2.0, 3.5, 2.5, 4.0, 5.5];
        let of = |layer: KeptLayer, z: &[f64]| {
            let draws = Draws::new(&[layer]).unwrap();
            draws.spread(&draws.of_sum(|r| z[r]))
        };
        let spread = |whole: (bool, bool)| of(layer(2, 3, whole.0, whole.1), &z);
        assert_eq!(spread((true, true)).variance, 0.0);
        assert_eq!(spread((false, true)), Spread { variance: 2.0 * 18.0, freedom: 1.0 });
        assert_eq!(spread((true, false)), Spread { variance: 3.0 * 18.0 / 2.0, freedom: 2.0 });
        let both = spread((false, false));
        assert!((both.variance - (36.0 + 27.0)).abs() < 1e-12, "{both:?}");
        // Where rows and columns are alike, what is left is all there is.
        let crossed = of(layer(2, 2, false, false), &[1.0, -1.0, -1.0, 1.0]);
        assert_eq!(crossed, Spread { variance: 16.0, freedom: 1.0 });
        assert!(Draws::new(&[layer(1, 3, false, false)]).is_err());
        assert!(Draws::new(&[layer(1, 3, true, false)]).is_ok());
    }
}
