//! Least squares for small dense systems, in f64, whatever their rank.
//!
//! Householder QR with column pivoting (Businger & Golub 1965; Golub & Van Loan, *Matrix Computations*, §5.4–5.5).
//! Where columns depend on each other there are many solutions, and this is the shortest: a second QR, of the
//! transposed rows that are left, finds it. So equal columns get equal coefficients and a column of zeros gets none.
//! Sums are in a fixed order.

/// A matrix by columns, all of one length.
pub(super) type Columns = Vec<Vec<f64>>;

/// A factored matrix `A [n, m]`, for any number of right-hand sides.
#[derive(Clone, Debug)]
pub(super) struct LeastSquares {
    factors: Householder,
    /// Of the rows of R, where there are fewer than columns.
    across: Option<Householder>,
}

impl LeastSquares {
    pub(super) fn new(a: Columns) -> Self {
        let size = a.len().max(a.first().map_or(0, Vec::len));
        let factors = Householder::factor(a, size as f64 * f64::EPSILON);
        let across = (factors.rank() < factors.columns.len()).then(|| Householder::factor(factors.rows(), 0.0));
        Self { factors, across }
    }

    /// n
    pub(super) fn rows(&self) -> usize {
        self.factors.columns.first().map_or(0, Vec::len)
    }

    /// The shortest x `[m]` for which `‖Ax − b‖` is least.
    pub(super) fn solve(&self, b: &[f64]) -> Vec<f64> {
        let mut projected = b.to_vec();
        self.factors.apply_transposed(&mut projected);
        projected.truncate(self.factors.rank());
        let x = match &self.across {
            None => self.factors.back_substitute(projected),
            Some(across) => across.shortest(&projected, self.factors.columns.len()),
        };
        let mut ordered = vec![0.0; x.len()];
        self.factors.order.iter().zip(x).for_each(|(&column, x)| ordered[column] = x);
        ordered
    }
}

/// `A P = Q R`, as far as the columns of A are independent.
#[derive(Clone, Debug)]
struct Householder {
    /// Column j: above row j that of R, and from there on, for j < rank, the unit vector that reflection j is about.
    columns: Columns,
    /// That of R; as many as the rank.
    diagonal: Vec<f64>,
    /// Which column of A each one is.
    order: Vec<usize>,
}

impl Householder {
    /// Stops where what is left of every column is no longer than `tolerance` times the longest column.
    fn factor(mut columns: Columns, tolerance: f64) -> Self {
        let rows = columns.first().map_or(0, Vec::len);
        let mut order: Vec<usize> = (0..columns.len()).collect();
        let mut diagonal = Vec::new();
        let mut longest = 0.0;
        for step in 0..rows.min(columns.len()) {
            let (pivot, length) = longest_rest(&columns, step);
            longest = f64::max(longest, length);
            if length <= tolerance * longest {
                break;
            }
            columns.swap(step, pivot);
            order.swap(step, pivot);
            diagonal.push(reflect_column(&mut columns, step, length));
        }
        Self { columns, diagonal, order }
    }

    fn rank(&self) -> usize {
        self.diagonal.len()
    }

    /// The first rows of R, as columns.
    fn rows(&self) -> Columns {
        let entry = |row: usize, column: usize| match column {
            _ if column < row => 0.0,
            _ if column == row => self.diagonal[row],
            _ => self.columns[column][row],
        };
        (0..self.rank()).map(|row| (0..self.columns.len()).map(|column| entry(row, column)).collect()).collect()
    }

    /// `x ← Qᵀx`
    fn apply_transposed(&self, x: &mut [f64]) {
        (0..self.rank()).for_each(|step| reflect(&mut x[step..], &self.columns[step][step..]));
    }

    /// `x ← Qx`
    fn apply(&self, x: &mut [f64]) {
        (0..self.rank()).rev().for_each(|step| reflect(&mut x[step..], &self.columns[step][step..]));
    }

    /// x of `Rx = c`, for full rank.
    fn back_substitute(&self, mut c: Vec<f64>) -> Vec<f64> {
        for column in (0..c.len()).rev() {
            c[column] /= self.diagonal[column];
            let (above, rest) = c.split_at_mut(column);
            add_scaled(above, -rest[0], &self.columns[column][..column]);
        }
        c
    }

    /// The shortest x `[length]` of `Aᵀx = c`, for A with independent columns: `Rᵀy = Pᵀc`, `x = Q[y; 0]`.
    fn shortest(&self, c: &[f64], length: usize) -> Vec<f64> {
        let mut x = vec![0.0; length];
        for (row, &column) in self.order.iter().enumerate() {
            x[row] = (c[column] - dot(&self.columns[row][..row], &x[..row])) / self.diagonal[row];
        }
        self.apply(&mut x);
        x
    }
}

/// The column from `step` on whose part below row `step` is longest, and its length; the first of equals.
fn longest_rest(columns: &Columns, step: usize) -> (usize, f64) {
    let square = |column: usize| dot(&columns[column][step..], &columns[column][step..]);
    let first = (step, square(step));
    let longer = |best: (usize, f64), next: (usize, f64)| if next.1 > best.1 { next } else { best };
    let (column, square) = (step + 1..columns.len()).map(|column| (column, square(column))).fold(first, longer);
    (column, square.sqrt())
}

/// Reflects column `step`, of this length from its row `step` on, onto its own axis, and the columns after it with it.
/// Gives R's diagonal.
fn reflect_column(columns: &mut Columns, step: usize, length: f64) -> f64 {
    let (before, after) = columns.split_at_mut(step + 1);
    let vector = &mut before[step][step..];
    // Away from the axis's nearer end, so that nothing cancels.
    let diagonal = if vector[0] > 0.0 { -length } else { length };
    vector[0] -= diagonal;
    let norm = dot(vector, vector).sqrt();
    for x in &mut *vector {
        *x /= norm;
    }
    for column in after {
        reflect(&mut column[step..], vector);
    }
    diagonal
}

/// `x ← x − 2 (v·x) v`, for v of length 1.
fn reflect(x: &mut [f64], v: &[f64]) {
    let twice = 2.0 * dot(x, v);
    add_scaled(x, -twice, v);
}

/// `x ← x + scale · y`
fn add_scaled(x: &mut [f64], scale: f64, y: &[f64]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += scale * y);
}

/// `Σ xᵢ yᵢ`, in eight sums that a vector unit can keep side by side.
pub(super) fn dot(x: &[f64], y: &[f64]) -> f64 {
    const LANES: usize = 8;
    let (x, y) = (x.chunks_exact(LANES), y.chunks_exact(LANES));
    let rest: f64 = x.remainder().iter().zip(y.remainder()).map(|(x, y)| x * y).sum();
    let mut sums = [0.0; LANES];
    for (x, y) in x.zip(y) {
        (0..LANES).for_each(|lane| sums[lane] += x[lane] * y[lane]);
    }
    sums.iter().sum::<f64>() + rest
}
