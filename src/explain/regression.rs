//! The linear models that perturbation methods fit to a network's outputs at masked texts.
//!
//! Rows are masks, features are 1 where they are kept and 0 where not, and every row has a weight. Everything is f64,
//! summed in the order of the masks. Where the masks leave coefficients undetermined (features that were always kept or
//! left out together, fewer masks than features) the shortest solution is taken, which treats such features alike.

use super::Masks;
use super::least_squares::{Columns, LeastSquares, dot};

/// A weighted regression on masks.
#[derive(Clone, Debug)]
pub struct Regression<'a> {
    masks: &'a Masks,
    /// One a mask.
    weights: Vec<f64>,
    roots: Vec<f64>,
}

/// A fitted linear model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fit {
    /// One a feature; 0 for those that were not chosen.
    pub coefficients: Vec<f64>,
    /// Its value where nothing is kept.
    pub intercept: f64,
    /// Weighted R², the share of the outputs' variance that it explains; `None` where the outputs are all the same.
    pub r_squared: Option<f64>,
}

impl<'a> Regression<'a> {
    /// With a weight for each mask, at least 0.
    ///
    /// # Panics
    /// Where there are not as many weights as masks.
    pub fn new(masks: &'a Masks, weights: Vec<f64>) -> Self {
        assert_eq!(weights.len(), masks.len(), "a regression has one weight a mask");
        let roots = weights.iter().map(|weight| weight.sqrt()).collect();
        Self { masks, weights, roots }
    }

    /// `min Σ w (y − b − zβ)² + ridge ‖β‖²` over the coefficients of `features` and an intercept b that the ridge
    /// leaves free.
    pub fn ridge(&self, features: &[usize], ridge: f64) -> Ridge<'_> {
        let means: Vec<f64> = features.iter().map(|&feature| self.mean_kept(feature)).collect();
        let mut columns: Columns = features.iter().zip(&means).map(|(&j, &mean)| self.column(j, mean)).collect();
        if ridge > 0.0 {
            append_diagonal(&mut columns, ridge.sqrt());
        }
        Ridge { regression: self, features: features.to_vec(), means, solver: LeastSquares::new(columns) }
    }

    /// `min Σ w (y − b − zφ)²` with `Σφ` = a given sum and b given.
    pub fn shares(&self) -> Shares<'_> {
        let parts = self.parts();
        let column = |feature: usize| {
            let entry = |(mask, (&part, root)): (&[bool], (&f64, &f64))| root * (f64::from(mask[feature]) - part);
            self.masks.iter().zip(parts.iter().zip(&self.roots)).map(entry).collect()
        };
        let solver = LeastSquares::new((0..self.masks.features()).map(column).collect());
        Shares { regression: self, parts, solver }
    }

    /// The `count` features that say most, by LIME's `auto`: up to 6 one by one, each the one that raises R² most
    /// (without a ridge); more at once, those with the largest coefficients in a ridge of 0.01. All of them, in order,
    /// where there are no more.
    pub fn choose(&self, outputs: &[f64], count: usize) -> Vec<usize> {
        const STEPWISE: usize = 6;
        if count >= self.masks.features() {
            return (0..self.masks.features()).collect();
        }
        if count <= STEPWISE { self.forward_selection(outputs, count) } else { self.highest_weights(outputs, count) }
    }

    fn highest_weights(&self, outputs: &[f64], count: usize) -> Vec<usize> {
        let mut features: Vec<usize> = (0..self.masks.features()).collect();
        let weights = self.ridge(&features, 0.01).fit(outputs).coefficients;
        features.sort_by(|&a, &b| weights[b].abs().total_cmp(&weights[a].abs()));
        features.truncate(count);
        features
    }

    /// What a feature adds to R² is how much of the residual lies along the part of its column that is at right angles
    /// to those chosen.
    fn forward_selection(&self, outputs: &[f64], count: usize) -> Vec<usize> {
        // What rounding leaves of a column that the chosen ones already span, as a share of its square.
        const SPANNED: f64 = 1e-20;
        let (_, mut residual) = self.centred(outputs);
        let mut columns: Columns = (0..self.masks.features()).map(|j| self.column(j, self.mean_kept(j))).collect();
        let squares: Vec<f64> = columns.iter().map(|column| dot(column, column)).collect();
        let mut chosen = Vec::with_capacity(count);
        for _ in 0..count {
            let gain = |feature: usize| {
                let (column, square) = (&columns[feature], dot(&columns[feature], &columns[feature]));
                let spanned = square <= SPANNED * squares[feature];
                if spanned { 0.0 } else { dot(column, &residual).powi(2) / square }
            };
            let left = (0..columns.len()).filter(|feature| !chosen.contains(feature));
            let gains = left.map(|feature| (feature, gain(feature)));
            let Some((best, _)) = gains.reduce(|best, next| if next.1 > best.1 { next } else { best }) else { break };
            chosen.push(best);
            let direction = unit(&columns[best]);
            columns.iter_mut().chain([&mut residual]).for_each(|column| remove(column, &direction));
        }
        chosen
    }

    /// The weighted mean of a feature's column.
    fn mean_kept(&self, feature: usize) -> f64 {
        let kept = self.masks.iter().zip(&self.weights).map(|(mask, weight)| f64::from(mask[feature]) * weight);
        self.mean(kept.sum())
    }

    /// `√w (z − mean)` of a feature.
    fn column(&self, feature: usize, mean: f64) -> Vec<f64> {
        self.masks.iter().zip(&self.roots).map(|(mask, root)| root * (f64::from(mask[feature]) - mean)).collect()
    }

    /// The weighted mean of outputs, and `√w (y − mean)`, which is exactly 0 where all are the same.
    fn centred(&self, outputs: &[f64]) -> (f64, Vec<f64>) {
        let counted = outputs.iter().zip(&self.weights).filter(|(_, weight)| **weight > 0.0);
        let first = counted.clone().next().map_or(0.0, |(y, _)| *y);
        let above_first = self.mean(counted.map(|(y, weight)| weight * (y - first)).sum());
        let centred = outputs.iter().zip(&self.roots).map(|(y, root)| root * (y - first - above_first));
        (first + above_first, centred.collect())
    }

    /// The share of the features that each mask keeps.
    fn parts(&self) -> Vec<f64> {
        let features = self.masks.features().max(1) as f64;
        self.masks.sizes().map(|size| size as f64 / features).collect()
    }

    /// The mean whose weighted sum this is; 0 where nothing has a weight.
    fn mean(&self, weighted_sum: f64) -> f64 {
        let weight: f64 = self.weights.iter().sum();
        if weight > 0.0 { weighted_sum / weight } else { 0.0 }
    }

    /// Weighted R² of a model for the outputs that it was fitted to.
    fn r_squared(&self, outputs: &[f64], fit: &Fit) -> Option<f64> {
        let (_, centred) = self.centred(outputs);
        let variance = dot(&centred, &centred);
        let residual = |((mask, &y), root): ((&[bool], &f64), &f64)| (root * (y - fit.at(mask))).powi(2);
        let unexplained: f64 = self.masks.iter().zip(outputs).zip(&self.roots).map(residual).sum();
        (variance > 0.0).then(|| 1.0 - unexplained / variance)
    }
}

impl Fit {
    /// Its value at a mask.
    pub fn at(&self, mask: &[bool]) -> f64 {
        let kept = mask.iter().zip(&self.coefficients).filter(|(kept, _)| **kept);
        self.intercept + kept.map(|(_, coefficient)| coefficient).sum::<f64>()
    }
}

/// A ridge regression, factored: see [`Regression::ridge`].
#[derive(Clone, Debug)]
pub struct Ridge<'a> {
    regression: &'a Regression<'a>,
    features: Vec<usize>,
    /// Of the features' columns.
    means: Vec<f64>,
    solver: LeastSquares,
}

impl Ridge<'_> {
    /// The model of these outputs, one a mask.
    pub fn fit(&self, outputs: &[f64]) -> Fit {
        let (mean, mut target) = self.regression.centred(outputs);
        target.resize(self.solver.rows().max(target.len()), 0.0);
        let solved = self.solver.solve(&target);
        let mut coefficients = vec![0.0; self.regression.masks.features()];
        self.features.iter().zip(&solved).for_each(|(&feature, &coefficient)| coefficients[feature] = coefficient);
        let fit = Fit { coefficients, intercept: mean - dot(&self.means, &solved), r_squared: None };
        Fit { r_squared: self.regression.r_squared(outputs, &fit), ..fit }
    }
}

/// A regression whose coefficients have a given sum, factored: see [`Regression::shares`].
///
/// `φ = total/M + ψ` with Σψ = 0 turns the model into `z φ = total |z|/M + (z − |z|/M) ψ`. The centred rows do not see
/// what all of ψ has in common, so that the shortest ψ has sum 0: the constraint holds, and no feature is singled out
/// to keep it.
#[derive(Clone, Debug)]
pub struct Shares<'a> {
    regression: &'a Regression<'a>,
    /// |z|/M
    parts: Vec<f64>,
    solver: LeastSquares,
}

impl Shares<'_> {
    /// The model of these outputs, one a mask, that is `intercept` where nothing is kept and `intercept + total` where
    /// everything is.
    pub fn fit(&self, outputs: &[f64], intercept: f64, total: f64) -> Fit {
        let rest = |(&y, &part): (&f64, &f64)| y - intercept - total * part;
        let rests = outputs.iter().zip(&self.parts).map(rest);
        let target: Vec<f64> = rests.zip(&self.regression.roots).map(|(rest, root)| root * rest).collect();
        let share = total / self.regression.masks.features().max(1) as f64;
        let coefficients = self.solver.solve(&target).into_iter().map(|beyond| share + beyond).collect();
        let fit = Fit { coefficients, intercept, r_squared: None };
        Fit { r_squared: self.regression.r_squared(outputs, &fit), ..fit }
    }
}

/// Adds a square diagonal matrix below the columns.
fn append_diagonal(columns: &mut Columns, entry: f64) {
    let (rows, features) = (columns.first().map_or(0, Vec::len), columns.len());
    for (feature, column) in columns.iter_mut().enumerate() {
        column.resize(rows + features, 0.0);
        column[rows + feature] = entry;
    }
}

/// A vector of length 1 in the same direction, or zeros.
fn unit(vector: &[f64]) -> Vec<f64> {
    let length = dot(vector, vector).sqrt();
    vector.iter().map(|x| if length > 0.0 { x / length } else { 0.0 }).collect()
}

/// Takes away what of `vector` lies along `direction`.
fn remove(vector: &mut [f64], direction: &[f64]) {
    let along = dot(vector, direction);
    vector.iter_mut().zip(direction).for_each(|(x, d)| *x -= along * d);
}
