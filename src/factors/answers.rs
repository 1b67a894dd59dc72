//! Representer points of answers: the head refitted to the boundaries of answers, each of which is one of the tokens of
//! its window.
//!
//! A boundary's loss is a softmax over tokens, of logits `z_t = w_k·h_t` that are linear in the output's own weights,
//! so the objective of every refit, `(1/F) Σ_f loss_f + (λ/2) ‖W‖²`, is strictly convex and its optimum decomposes as
//! Yeh et al. (2018, "Representer point selection for explaining deep neural networks") have it, a token a point:
//!
//! ```text
//! w_k = Σ_f Σ_t α_ft h_ft = −(1/(λF)) Σ_f g_f,    g_f = Σ_t (p_ft − [t is the boundary]) h_ft,    f of output k
//! ```
//!
//! so that a training boundary adds `−g_f·h / (λF)` to the logit of any token. The bias, which all tokens share, has no
//! gradient and is 0. `g_f` is of the refitted head, not the model's: a store's will not do, and all tokens' features
//! are needed again.

use faer::Mat;
use rayon::prelude::*;

use super::block::KeepGoing;
use super::dense::{Cholesky, add_product, add_scaled, slice_mut};
use super::refit::{ARMIJO, HALVINGS, RefitOptions, check_positive};
use crate::error::{Error, Result};
use crate::numeric::softmax_in_place;

/// One window of a context that holds an answer whole.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AnswerWindow {
    /// `h [T, E]` of all its tokens.
    pub features: Vec<f32>,
    /// The tokens that the answer starts and ends at.
    pub places: [usize; 2],
}

/// A head refitted to answers, and what each boundary is in it.
#[derive(Clone, Debug, PartialEq)]
pub struct AnswerRepresenter {
    /// `W [2, E]`.
    pub weight: Vec<f64>,
    /// What a boundary adds to the logit of a token of unit features: `−g_f / (λF)`, `[F, E]`, start and end of each
    /// window.
    pub points: Vec<f32>,
    /// `‖∇‖` there, of both outputs.
    pub gradient_norm: f64,
    /// Newton steps taken, of the output that took more.
    pub iterations: usize,
    /// Whether `gradient_norm` met the tolerance.
    pub converged: bool,
}

/// Windows summed one after another; blocks are added up in their order, so that threads leave the bits alone.
const BLOCK: usize = 32;

/// Refits the head to windows of `width` features a token, and reads the points off it.
///
/// # Errors
/// [`Error::Usage`]: no windows, or a λ that is not positive; [`Error::Interrupted`].
pub fn answer_representer(
    windows: &[AnswerWindow],
    width: usize,
    options: &RefitOptions,
    keep_going: KeepGoing<'_>,
) -> Result<AnswerRepresenter> {
    check_positive("the refit's λ", options.penalty)?;
    if windows.is_empty() {
        return Err(Error::usage("there are no training records to learn from"));
    }
    let fits = [0, 1].map(|output| Boundary { windows, width, output, options }.minimise(keep_going));
    let [start, end] = fits;
    let fits = [start?, end?];
    let scale = -1.0 / (options.penalty * 2.0 * windows.len() as f64);
    let points = |window: &AnswerWindow| {
        let of = |output: usize| {
            let (_, gradient) = boundary(window, width, output, &fits[output].weight, None);
            gradient.into_iter().map(|g| (scale * g) as f32).collect::<Vec<f32>>()
        };
        [of(0), of(1)].concat()
    };
    Ok(AnswerRepresenter {
        points: windows.par_iter().flat_map_iter(points).collect(),
        gradient_norm: fits.iter().map(|fit| fit.norm * fit.norm).sum::<f64>().sqrt(),
        iterations: fits.iter().map(|fit| fit.iterations).max().unwrap_or_default(),
        converged: fits.iter().all(|fit| fit.converged),
        weight: fits.into_iter().flat_map(|fit| fit.weight).collect(),
    })
}

/// The objective in one output's weights.
struct Boundary<'a> {
    windows: &'a [AnswerWindow],
    width: usize,
    output: usize,
    options: &'a RefitOptions,
}

/// Where it is least.
struct Fit {
    weight: Vec<f64>,
    norm: f64,
    iterations: usize,
    converged: bool,
}

impl Boundary<'_> {
    fn minimise(&self, keep_going: KeepGoing<'_>) -> Result<Fit> {
        let mut weight = vec![0.0; self.width];
        let (mut value, mut gradient, mut hessian) = self.evaluate(&weight, keep_going)?;
        let goal = self.options.tolerance * norm(&gradient).max(1.0);
        for iterations in 0..=self.options.iterations {
            let found = norm(&gradient);
            let fit = |weight, converged| Ok(Fit { weight, norm: found, iterations, converged });
            if found <= goal || iterations == self.options.iterations {
                return fit(weight, found <= goal);
            }
            let mut direction = Mat::from_fn(self.width, 1, |e, _| -gradient[e]);
            Cholesky::factor(hessian)?.solve(direction.as_mut());
            let slope: f64 = gradient.iter().enumerate().map(|(e, g)| g * direction[(e, 0)]).sum();
            let rounding = 8.0 * f64::EPSILON * value.abs();
            let mut next = None;
            for halving in 0..HALVINGS {
                let length = 0.5_f64.powi(halving);
                let trial: Vec<f64> = weight.iter().enumerate().map(|(e, w)| w + length * direction[(e, 0)]).collect();
                let reached = self.evaluate(&trial, keep_going)?;
                if reached.0 <= value + ARMIJO * length * slope + rounding {
                    next = Some((trial, reached));
                    break;
                }
            }
            // Rounding hides every decrease.
            let Some((trial, reached)) = next else { return fit(weight, false) };
            weight = trial;
            (value, gradient, hessian) = reached;
        }
        unreachable!("the last of the iterations ends the loop")
    }

    /// The objective, its gradient `[E]` and its Hessian `[E, E]`.
    fn evaluate(&self, weight: &[f64], keep_going: KeepGoing<'_>) -> Result<(f64, Vec<f64>, Mat<f64>)> {
        let share = 1.0 / (2.0 * self.windows.len() as f64);
        let penalty = self.options.penalty;
        let of_block = |windows: &[AnswerWindow]| {
            if !keep_going() {
                return Err(Error::Interrupted);
            }
            let mut sums = (0.0, vec![0.0; self.width], Mat::zeros(self.width, self.width));
            for window in windows {
                let (loss, gradient) = boundary(window, self.width, self.output, weight, Some(&mut sums.2));
                sums.0 += loss;
                sums.1.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += g);
            }
            Ok(sums)
        };
        let square: f64 = weight.iter().map(|w| w * w).sum();
        let mut all = (0.5 * penalty * square, weight.iter().map(|w| penalty * w).collect::<Vec<f64>>(), {
            let mut identity = Mat::zeros(self.width, self.width);
            (0..self.width).for_each(|e| identity[(e, e)] = penalty);
            identity
        });
        // A wave's matrices are in memory at a time.
        for wave in self.windows.chunks(BLOCK * 32) {
            let parts: Vec<_> = wave.par_chunks(BLOCK).map(of_block).collect::<Result<_>>()?;
            for (loss, gradient, hessian) in parts {
                all.0 += share * loss;
                all.1.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += share * g);
                add_scaled(&mut all.2, share, &hessian);
            }
        }
        Ok(all)
    }
}

/// The loss of a window's boundary and its gradient `[E]`; `Σ_t p_t (h_t − μ)(h_t − μ)ᵀ` is added to `hessian`.
fn boundary(
    window: &AnswerWindow,
    width: usize,
    output: usize,
    weight: &[f64],
    hessian: Option<&mut Mat<f64>>,
) -> (f64, Vec<f64>) {
    let tokens = window.features.len() / width.max(1);
    let row = |t: usize| window.features[t * width..][..width].iter().map(|&h| f64::from(h));
    let logit = |t: usize| row(t).zip(weight).map(|(h, w)| h * w).sum::<f64>();
    let mut p: Vec<f64> = (0..tokens).map(logit).collect();
    let own = p[window.places[output]];
    let loss = softmax_in_place(&mut p) - own;
    let mut mean = vec![0.0; width];
    for (t, &p) in p.iter().enumerate() {
        mean.iter_mut().zip(row(t)).for_each(|(mean, h)| *mean += p * h);
    }
    if let Some(hessian) = hessian {
        let mut centred = Mat::zeros(width, tokens);
        for (t, &p) in p.iter().enumerate() {
            let column = slice_mut(&mut centred, t).iter_mut();
            column.zip(row(t).zip(&mean)).for_each(|(x, (h, mean))| *x = p.sqrt() * (h - mean));
        }
        add_product(hessian.as_mut(), centred.as_ref(), centred.transpose());
    }
    let gradient = mean.into_iter().zip(row(window.places[output])).map(|(mean, h)| mean - h).collect();
    (loss, gradient)
}

fn norm(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, Stream};

    fn drawn(count: usize, width: usize) -> Vec<AnswerWindow> {
        let draws = Stream::new(3, Purpose::Shuffle);
        let number = |w: usize, i: usize| draws.below(2001, w as u32, i as u32) as f32 / 1000.0 - 1.0;
        let window = |w: usize| {
            let tokens = 5 + w % 7;
            let features = (0..tokens * width).map(|i| number(w, i)).collect();
            AnswerWindow { features, places: [w % tokens, (w + 1 + w / 3) % tokens] }
        };
        (0..count).map(window).collect()
    }

    #[test]
    fn points_add_up_to_the_refitted_weights() {
        let (windows, width) = (drawn(70, 6), 6);
        let options = RefitOptions { tolerance: 1e-12, ..RefitOptions::default() };
        let found = answer_representer(&windows, width, &options, &|| true).unwrap();
        assert!(found.converged && found.iterations < 20, "{} steps, ‖∇‖ {}", found.iterations, found.gradient_norm);
        for output in 0..2 {
            for e in 0..width {
                let sum: f64 = (0..windows.len()).map(|w| f64::from(found.points[(2 * w + output) * width + e])).sum();
                let expected = found.weight[output * width + e];
                // Each point is rounded to f32 once.
                assert!((sum - expected).abs() < 70.0 * 6e-8 * 10.0, "{sum} for {expected}");
            }
        }
        let cut = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(cut.install(|| answer_representer(&windows, width, &options, &|| true).unwrap()), found);
    }

    #[test]
    fn gradient_and_hessian_are_differences_of_the_objective() {
        let (windows, width) = (drawn(9, 4), 4);
        let options = RefitOptions::default();
        let boundary = Boundary { windows: &windows, width, output: 1, options: &options };
        let at: Vec<f64> = vec![0.3, -0.7, 0.2, 1.1];
        let value = |weight: &[f64]| boundary.evaluate(weight, &|| true).unwrap();
        let (_, gradient, hessian) = value(&at);
        for e in 0..width {
            let moved = |by: f64| {
                let mut at = at.clone();
                at[e] += by;
                value(&at)
            };
            let (up, down) = (moved(1e-5), moved(-1e-5));
            assert!(((up.0 - down.0) / 2e-5 - gradient[e]).abs() < 1e-9);
            for other in 0..width {
                assert!(((up.1[other] - down.1[other]) / 2e-5 - hessian[(e, other)]).abs() < 1e-8);
            }
        }
    }

    #[test]
    fn what_cannot_be_fitted_is_refused() {
        let refused = |windows: &[AnswerWindow], penalty| {
            answer_representer(windows, 3, &RefitOptions { penalty, ..RefitOptions::default() }, &|| true).unwrap_err()
        };
        assert!(refused(&[], 0.1).to_string().contains("no training records"));
        assert!(refused(&drawn(2, 3), 0.0).to_string().contains("positive"));
    }
}
