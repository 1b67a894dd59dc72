//! What a preconditioned product `φᵀ M⁻¹ φ'` is without some of its numbers: a single one, or a whole row or column of
//! a layer's table, as draws come.
//!
//! ```text
//! φᵀ M⁻¹ φ' − (the same without R) = u_Rᵀ ((M⁻¹)_RR)⁻¹ v_R        u = M⁻¹ φ, v = M⁻¹ φ'
//! ```
//!
//! exactly (the inverse of a part of a matrix by its Schur complement), so that others may stand in for what is left
//! out as far as they can. In Shampoo's eigenvectors a row's `(M⁻¹)_RR` is diagonal in the other side's.

use std::ops::Range;

use faer::Mat;
use rayon::prelude::*;

use super::shampoo::Shampoo;
use super::spread::{Draws, Shares, Table};
use super::{DampedMoment, Part};
use crate::factors::dense::{Cholesky, product, slice, slice_mut};

/// What products lose where some of their numbers are left out.
pub struct Deletion<'a> {
    draws: Draws,
    parts: Vec<Of<'a>>,
}

/// One layer's.
enum Of<'a> {
    Inverses(Inverses),
    Shampoo(InEigenvectors<'a>),
}

/// `((M⁻¹)_RR)⁻¹`.
struct Inverses {
    numbers: Vec<f64>,
    rows: Vec<Mat<f64>>,
    columns: Vec<Mat<f64>>,
}

/// The diagonals of `(M⁻¹)_RR` in the eigenvectors of the side that R is along.
struct InEigenvectors<'a> {
    of: &'a Shampoo,
    /// `[inputs, outputs]`
    numbers: Mat<f64>,
    /// Of each row one for each input: `[inputs, outputs]`.
    rows: Mat<f64>,
    /// Of each column one for each output: `[outputs, inputs]`.
    columns: Mat<f64>,
}

/// Columns of the inverse that are made at a time.
const TOGETHER: usize = 64;

impl<'a> Deletion<'a> {
    /// Of products by `moment`, from the numbers of `draws`.
    pub fn new(moment: &'a DampedMoment<'_>, draws: &Draws) -> Self {
        let of = |table: &Table| {
            let holds = |part: &&Part<'_>| {
                let range = part.range(moment.width);
                range.start <= table.range.start && table.range.end <= range.end
            };
            let part = moment.parts.iter().find(holds).expect("every layer is in one of a moment's parts");
            match part {
                Part::Shampoo(of) => Of::Shampoo(InEigenvectors::new(of)),
                part => Of::Inverses(Inverses::new(part, part.range(moment.width).start, table)),
            }
        };
        Self { draws: draws.clone(), parts: draws.tables().iter().map(of).collect() }
    }

    /// Of the product of φ and φ', by `u = M⁻¹ φ` and `v = M⁻¹ φ'`.
    ///
    /// # Panics
    /// Where they are of another width.
    pub fn losses(&self, u: &[f32], v: &[f32]) -> Shares {
        let mut shares = self.draws.none();
        let tables = self.draws.tables().iter().zip(&self.parts).zip(shares.tables_mut());
        for ((table, part), (numbers, rows, columns)) in tables {
            let wide = |x: &[f32]| x[table.range.clone()].iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
            let (u, v) = (wide(u), wide(v));
            match part {
                Of::Inverses(of) => of.losses(table, (&u, &v), (numbers, rows, columns)),
                Of::Shampoo(of) => of.losses((&u, &v), (numbers, rows, columns)),
            }
        }
        shares
    }
}

impl Inverses {
    /// Of a layer's numbers, those of `part` beginning at `start`.
    fn new(part: &Part<'_>, start: usize, table: &Table) -> Self {
        let place = |r: usize| table.range.start - start + r;
        let (row_count, columns) = (table.rows(), table.columns);
        let numbers = (0..table.range.len()).map(|r| vec![place(r)]).collect();
        let rows = (0..row_count).map(|a| (0..columns).map(|b| place(a * columns + b)).collect()).collect();
        let columns = (0..columns).map(|b| (0..row_count).map(|a| place(a * columns + b)).collect()).collect();
        let of = |groups: Vec<Vec<usize>>| inverses(part, &groups);
        Self { numbers: of(numbers).iter().map(|one| one[(0, 0)]).collect(), rows: of(rows), columns: of(columns) }
    }

    fn losses(&self, table: &Table, (u, v): (&[f64], &[f64]), out: (&mut [f64], &mut [f64], &mut [f64])) {
        let (numbers, rows, columns) = out;
        for (r, (out, own)) in numbers.iter_mut().zip(&self.numbers).enumerate() {
            *out = own * u[r] * v[r];
        }
        for (a, (out, inverse)) in rows.iter_mut().zip(&self.rows).enumerate() {
            let range = a * table.columns..(a + 1) * table.columns;
            *out = form(inverse, &u[range.clone()], &v[range]);
        }
        let column = |x: &[f64], b: usize| x.iter().skip(b).step_by(table.columns).copied().collect::<Vec<_>>();
        for (b, (out, inverse)) in columns.iter_mut().zip(&self.columns).enumerate() {
            *out = form(inverse, &column(u, b), &column(v, b));
        }
    }
}

/// `((M⁻¹)_RR)⁻¹` of each of these groups R of a part's numbers.
fn inverses(part: &Part<'_>, groups: &[Vec<usize>]) -> Vec<Mat<f64>> {
    let width = groups.first().map_or(1, Vec::len);
    let of_some = |groups: &[Vec<usize>]| {
        let roots = part.inverse_roots(&groups.concat());
        let block = |g: usize| {
            let (first, width) = (groups[..g].iter().map(Vec::len).sum(), groups[g].len());
            let mut block = Mat::zeros(width, width);
            let own = roots.columns.as_ref().subcols(first, width);
            product(block.as_mut(), own.transpose(), own);
            inverse(&Mat::from_fn(width, width, |i, j| roots.entry(block[(i, j)], i == j)))
        };
        (0..groups.len()).map(block).collect::<Vec<_>>()
    };
    groups.par_chunks(TOGETHER.div_ceil(width.max(1))).flat_map_iter(of_some).collect()
}

/// A part of an inverse as products of columns: `(M⁻¹)_rs = (c_r·c_s)` or, of what records leave over, `([r = s] −
/// c_r·c_s)/λ`.
pub(super) struct Roots {
    pub(super) columns: Mat<f64>,
    /// λ, where records are taken from it.
    pub(super) left_of: Option<f64>,
}

impl Roots {
    fn entry(&self, product: f64, same: bool) -> f64 {
        match self.left_of {
            None => product,
            Some(damping) => (f64::from(u8::from(same)) - product) / damping,
        }
    }
}

/// Of a symmetric positive definite matrix.
fn inverse(matrix: &Mat<f64>) -> Mat<f64> {
    let mut inverse = Mat::identity(matrix.nrows(), matrix.ncols());
    match Cholesky::factor(matrix.clone()) {
        Ok(cholesky) => cholesky.solve(inverse.as_mut()),
        // Only where rounding has left nothing of a number's own: then others tell all of it.
        Err(_) => inverse.fill(0.0),
    }
    inverse
}

/// `uᵀ A v`
fn form(matrix: &Mat<f64>, u: &[f64], v: &[f64]) -> f64 {
    let column = |(j, v): (usize, &f64)| v * slice(matrix, j).iter().zip(u).map(|(a, u)| a * u).sum::<f64>();
    v.iter().enumerate().map(column).sum()
}

impl<'a> InEigenvectors<'a> {
    fn new(of: &'a Shampoo) -> Self {
        let square = |x: &Mat<f64>| Mat::from_fn(x.nrows(), x.ncols(), |i, j| x[(i, j)].powi(2));
        let (input, output) = (square(&of.input.vectors), square(&of.output.vectors));
        let (inputs, outputs) = (input.nrows(), output.nrows());
        let inverse = Mat::from_fn(inputs, outputs, |k, j| 1.0 / of.values[(k, j)]);
        let (mut rows, mut columns) = (Mat::zeros(inputs, outputs), Mat::zeros(outputs, inputs));
        let mut numbers = Mat::zeros(inputs, outputs);
        product(rows.as_mut(), inverse.as_ref(), output.transpose());
        product(columns.as_mut(), inverse.transpose(), input.transpose());
        product(numbers.as_mut(), input.as_ref(), rows.as_ref());
        Self { of, numbers, rows, columns }
    }

    fn losses(&self, (u, v): (&[f64], &[f64]), out: (&mut [f64], &mut [f64], &mut [f64])) {
        let (numbers, rows, columns) = out;
        let (inputs, outputs) = (self.numbers.nrows(), self.numbers.ncols());
        for (r, out) in numbers.iter_mut().enumerate() {
            *out = u[r] * v[r] / self.numbers[(r % inputs, r / inputs)];
        }
        let along = |vectors: &Mat<f64>, x: &[f64], turn: bool| {
            let table = faer::MatRef::from_column_major_slice(x, inputs, outputs);
            let table = if turn { table.transpose() } else { table };
            let mut turned = Mat::zeros(table.nrows(), table.ncols());
            product(turned.as_mut(), vectors.transpose(), table);
            turned
        };
        for (out, vectors, diagonals, turn) in
            [(rows, &self.of.input.vectors, &self.rows, false), (columns, &self.of.output.vectors, &self.columns, true)]
        {
            let (u, v) = (along(vectors, u, turn), along(vectors, v, turn));
            for (a, out) in out.iter_mut().enumerate() {
                let both = slice(&u, a).iter().zip(slice(&v, a)).zip(slice(diagonals, a));
                *out = both.map(|((u, v), own)| u * v / own).sum();
            }
        }
    }
}

impl Part<'_> {
    /// Where its numbers lie, of so many.
    fn range(&self, width: usize) -> Range<usize> {
        match self {
            Self::Gram(gram) => gram.range.clone(),
            Self::Dual(_) => 0..width,
            Self::Shampoo(one) => one.range.clone(),
        }
    }

    /// Columns whose products are the inverse's entries at these places.
    fn inverse_roots(&self, places: &[usize]) -> Roots {
        match self {
            Self::Gram(gram) => {
                let mut columns = Mat::zeros(gram.range.len(), places.len());
                places.iter().enumerate().for_each(|(j, &place)| slice_mut(&mut columns, j)[place] = 1.0);
                gram.cholesky.half_solve(columns.as_mut());
                Roots { columns, left_of: None }
            }
            Self::Dual(dual) => dual.inverse_roots(places),
            Self::Shampoo(_) => unreachable!("Shampoo's inverses are taken in its eigenvectors"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::factors::{FactorRows, Floats, MomentForm, MomentOptions, Weighting};
    use crate::model::KeptLayer;
    use crate::random::{Purpose, Stream, normal};

    fn layer(outputs: usize, inputs: usize) -> KeptLayer {
        KeptLayer { name: "a".into(), outputs, inputs, outputs_whole: false, inputs_whole: false }
    }

    /// `φᵀ M⁻¹ φ'` by the numbers of `kept` alone.
    fn without(inverse: &Mat<f64>, kept: &[usize], x: &[f32], y: &[f32]) -> f64 {
        let matrix = super::inverse(inverse);
        let part = super::inverse(&Mat::from_fn(kept.len(), kept.len(), |i, j| matrix[(kept[i], kept[j])]));
        let of = |x: &[f32]| kept.iter().map(|&r| f64::from(x[r])).collect::<Vec<_>>();
        form(&part, &of(x), &of(y))
    }

    #[test]
    fn what_is_lost_is_the_difference_to_a_product_without_it() {
        let layers = [layer(3, 4), layer(5, 2)];
        let (draws, width) = (Draws::new(&layers).unwrap(), 22);
        // More records than numbers, and fewer.
        for (rows, form) in [
            (40, MomentForm::Whole),
            (9, MomentForm::Whole),
            (40, MomentForm::Layers),
            (9, MomentForm::Layers),
            (40, MomentForm::Shampoo),
        ] {
            let stream = Stream::new(3, Purpose::Projection);
            let number = |i: usize| normal(stream.block([i as u32, rows as u32, 0, 0])[0]);
            let features: Vec<f32> = (0..rows * width).map(number).collect();
            let ones = vec![1.0; rows];
            let source = FactorRows {
                rows,
                width,
                classes: 1,
                features: Floats::F32(&features),
                deltas: &ones,
                feature_norms: &ones,
                delta_norms: &ones,
            };
            let options = MomentOptions { form, layers: &layers, weighting: Weighting::Even, damping: Some(0.3) };
            let moment = DampedMoment::fit(vec![source], options, &|| true).unwrap();
            let (x, y) = (&features[..width], &features[width..2 * width]);
            let unit = |r: usize| (0..width).map(|i| f32::from(u8::from(i == r))).collect::<Vec<_>>();
            let columns: Vec<Vec<f32>> = (0..width).map(|r| moment.solve(&[&unit(r)]).swap_remove(0)).collect();
            let inverse = Mat::from_fn(width, width, |i, j| f64::from(columns[j][i]));
            let whole = without(&inverse, &(0..width).collect::<Vec<_>>(), x, y);
            let [u, v] = [x, y].map(|x| moment.solve(&[x]).swap_remove(0));
            let mut shares = Deletion::new(&moment, &draws).losses(&u, &v);
            for (table, (numbers, by_rows, by_columns)) in draws.tables().iter().zip(shares.tables_mut()) {
                let check = |found: f64, is_left_out: &dyn Fn(usize) -> bool| {
                    let is_kept = |r: &usize| !table.range.contains(r) || !is_left_out(r - table.range.start);
                    let kept: Vec<usize> = (0..width).filter(is_kept).collect();
                    let expected = whole - without(&inverse, &kept, x, y);
                    // Of an inverse whose entries were rounded to f32.
                    assert!(
                        (found - expected).abs() < 1e-4 * whole.abs().max(1.0),
                        "{form:?} {rows}: {found} {expected}"
                    );
                };
                numbers.iter().enumerate().for_each(|(r, &found)| check(found, &|other| other == r));
                by_rows.iter().enumerate().for_each(|(a, &found)| check(found, &|r| r / table.columns == a));
                by_columns.iter().enumerate().for_each(|(b, &found)| check(found, &|r| r % table.columns == b));
            }
        }
    }
}
