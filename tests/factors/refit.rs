//! The refitted head, and the representers that come from it.

use wherefore::factors::{InMemory, Refit, RefitOptions, RefitTargets, RepresenterCompat, refit, representer};
use wherefore::model::Problem;

use super::reference::{Records, delta, dot, logits, norm, outputs};
use super::{HEADS, go_on, training};

/// The parameters of a refit as the judge lays them out.
fn parameters(refit: &Refit) -> Vec<f64> {
    let width = refit.weight.len() / refit.bias.len();
    refit.weight.chunks_exact(width).zip(&refit.bias).flat_map(|(w, b)| w.iter().chain([b])).copied().collect()
}

fn distance(x: &[f64], y: &[f64]) -> f64 {
    norm(&x.iter().zip(y).map(|(x, y)| x - y).collect::<Vec<_>>())
}

/// The objective is λ-strongly convex, so that a point is within `‖∇‖ / λ` of the minimum: that bound is the tolerance.
#[test]
fn a_refit_is_the_minimum() {
    for (problem, classes) in HEADS {
        let source = training(problem, 60, 5, classes);
        let options = RefitOptions::default();
        let found = refit(&source, &options, &go_on).expect("a refit");
        assert!(found.converged && found.gradient_norm <= 1e-9, "{problem:?}: {found:?}");
        let records = Records::new(&source);
        let expected = records.refit(options.penalty);
        let left = norm(&records.gradient(&expected, options.penalty)) + found.gradient_norm + 1e-12;
        let apart = distance(&parameters(&found), &expected);
        assert!(apart <= left / options.penalty, "{problem:?}: {apart:e} {left:e}");
    }
}

/// Of so many classes no eigenvectors are taken, which is for the way to the minimum alone.
#[test]
fn a_refit_of_many_classes_is_the_minimum() {
    let source = training(Problem::SingleLabel, 700, 2, 600);
    let options = RefitOptions { cholesky_limit: 0, ..RefitOptions::default() };
    let found = refit(&source, &options, &go_on).expect("a refit");
    let gradient = norm(&Records::new(&source).gradient(&parameters(&found), options.penalty));
    assert!(found.converged && gradient <= 1e-9, "{gradient:e} after {} steps", found.iterations);
    assert!(found.iterations < 20, "{}", found.iterations);
}

#[test]
fn the_stated_gradient_and_objective_are_those_of_the_definition() {
    for (problem, classes) in HEADS {
        let source = training(problem, 40, 4, classes);
        let found =
            refit(&source, &RefitOptions { iterations: 1, ..RefitOptions::default() }, &go_on).expect("a refit");
        let (records, head) = (Records::new(&source), parameters(&found));
        let gradient = norm(&records.gradient(&head, 0.06));
        assert!((gradient - found.gradient_norm).abs() <= 1e-12, "{problem:?}: {gradient} {found:?}");
        let losses = records.inputs.iter().zip(&records.targets);
        let mean = losses.map(|(x, t)| super::reference::loss(problem, &logits(&head, x), t)).sum::<f64>() / 40.0;
        assert!((mean + 0.03 * dot(&head, &head) - found.objective).abs() <= 1e-12, "{problem:?}: {found:?}");
    }
}

/// Where the gradient of the weighted losses is 0, by a definition that knows nothing of how it was looked for.
#[test]
fn a_weighted_refit_is_the_minimum_of_weighted_losses() {
    for (problem, classes) in HEADS {
        for cholesky_limit in [usize::MAX, 0] {
            let inner = training(problem, 60, 5, classes);
            let weights: Vec<f64> = (0..60).map(|row| [0.0, 0.5, 1.0, 3.25][row % 4]).collect();
            let records = Records { weights: weights.clone(), ..Records::new(&inner) };
            let options = RefitOptions { cholesky_limit, ..RefitOptions::default() };
            let plain = refit(&inner, &options, &go_on).expect("a refit");
            let weighted = InMemory { weights, ..inner };
            let found = refit(&weighted, &options, &go_on).expect("a refit");
            let gradient = |refit: &Refit| norm(&records.gradient(&parameters(refit), options.penalty));
            assert!(found.converged && gradient(&found) <= 1e-9, "{problem:?}: {:e}", gradient(&found));
            assert!(gradient(&plain) > 1e-3, "{problem:?}: {:e}", gradient(&plain));
            // However the rows are cut.
            let cut = InMemory { rows_at_a_time: 7, ..weighted };
            assert_eq!(refit(&cut, &options, &go_on).expect("a refit"), found, "{problem:?}");
        }
    }
}

#[test]
fn a_squared_error_takes_one_newton_step() {
    let found = refit(&training(Problem::Regression, 50, 6, 2), &RefitOptions::default(), &go_on).expect("a refit");
    assert_eq!((found.iterations, found.converged), (1, true), "{found:?}");
}

#[test]
fn too_few_iterations_are_owned_up_to() {
    let options = RefitOptions { iterations: 1, ..RefitOptions::default() };
    let found = refit(&training(Problem::SingleLabel, 50, 6, 3), &options, &go_on).expect("a refit");
    assert_eq!((found.iterations, found.converged), (1, false));
}

/// Both stop within `‖∇‖ / λ` of one minimum.
#[test]
fn conjugate_gradients_and_cholesky_find_the_same_minimum() {
    for (problem, classes) in HEADS {
        for targets in [RefitTargets::Gold, RefitTargets::Soft] {
            let source = training(problem, 80, 6, classes);
            let options = RefitOptions { targets, ..RefitOptions::default() };
            let direct = refit(&source, &options, &go_on).expect("a refit");
            let iterated = refit(&source, &RefitOptions { cholesky_limit: 0, ..options }, &go_on).expect("a refit");
            assert!(direct.converged && iterated.converged, "{problem:?}: {iterated:?}");
            let bound = (direct.gradient_norm + iterated.gradient_norm) / options.penalty;
            let apart = distance(&parameters(&direct), &parameters(&iterated));
            assert!(apart <= bound + 1e-13, "{problem:?}: {apart:e} {bound:e}");
        }
    }
}

#[test]
fn a_hard_problem_converges_from_zero() {
    // Features of very different sizes and hardly any penalty: full Newton steps alone would run away.
    let mut source = training(Problem::SingleLabel, 300, 6, 3);
    source.features.iter_mut().enumerate().for_each(|(i, h)| *h *= 10_f32.powi(i as i32 % 6));
    for cholesky_limit in [8192, 0] {
        let options = RefitOptions { penalty: 1e-5, cholesky_limit, ..RefitOptions::default() };
        let found = refit(&source, &options, &go_on).expect("a refit");
        assert!(found.converged, "{found:?}");
    }
}

/// `[W; b] = Σ α_i h̃_iᵀ`, to the optimality that was reached and the rounding of N values of α to f32.
#[test]
fn representers_rebuild_the_refitted_head() {
    for (problem, classes) in HEADS {
        let source = training(problem, 70, 5, classes);
        let options = RefitOptions::default();
        let found = representer(&source, &options, RepresenterCompat::Exact, &go_on).expect("representers");
        let (records, head) = (Records::new(&source), parameters(&found.refit));
        let rounding: f64 = found.alpha.iter().map(|a| f64::from(a.abs() * f32::EPSILON)).sum();
        let tolerance = found.refit.gradient_norm / options.penalty + rounding * 3.0;
        for (p, expected) in head.iter().enumerate() {
            let (class, input) = (p / 6, p % 6);
            let sum: f64 =
                (0..70).map(|i| f64::from(found.alpha[i * classes + class]) * records.inputs[i][input]).sum();
            assert!((sum - expected).abs() <= tolerance, "{problem:?}: {sum} {expected}");
        }
    }
}

/// The values `α_i[c] (h_q · h_i + 1)` of all records add up to the refitted head's logit of class c.
#[test]
fn representer_values_add_up_to_the_refitted_logits() {
    for (problem, classes) in HEADS {
        let source = training(problem, 70, 5, classes);
        let found =
            representer(&source, &RefitOptions::default(), RepresenterCompat::Exact, &go_on).expect("representers");
        assert_eq!(found.bias_coordinate, 1.0);
        let records = Records::new(&source);
        let query = super::uniform(9, 5);
        let input: Vec<f64> = query.iter().map(|&h| f64::from(h)).chain([1.0]).collect();
        let logits = found.refit.logits(&query);
        let rounding: f64 = found.alpha.iter().map(|a| f64::from(a.abs() * f32::EPSILON)).sum();
        let tolerance = (found.refit.gradient_norm / 0.06 + rounding * 3.0) * 6.0;
        for (class, logit) in logits.iter().enumerate() {
            let value = |i: usize| f64::from(found.alpha[i * classes + class]) * dot(&records.inputs[i], &input);
            let sum: f64 = (0..70).map(value).sum();
            assert!((sum - logit).abs() <= tolerance, "{problem:?}: {sum} {logit}");
        }
    }
}

/// TrustAI: the head is fitted to the model's own outputs, recovered here from δ and the labels.
#[test]
fn trustai_compatibility_fits_the_models_own_outputs() {
    for (problem, classes) in HEADS {
        let source = training(problem, 60, 5, classes);
        let found =
            representer(&source, &RefitOptions::default(), RepresenterCompat::TrustAi, &go_on).expect("representers");
        assert_eq!(found.bias_coordinate, 0.0);
        let mut records = Records::new(&source);
        let scale = if problem == Problem::Regression { 0.5 } else { 1.0 };
        let deltas = source.deltas.chunks_exact(classes);
        records.targets.iter_mut().zip(deltas).for_each(|(target, delta)| {
            target.iter_mut().zip(delta).for_each(|(t, &d)| *t += scale * f64::from(d));
        });
        let expected = records.refit(0.06);
        assert!(distance(&parameters(&found.refit), &expected) <= 1e-8, "{problem:?}");
        for i in 0..60 {
            let delta = delta(problem, &logits(&expected, &records.inputs[i]), &records.targets[i]);
            for (c, d) in delta.iter().enumerate() {
                let (alpha, expected) = (f64::from(found.alpha[i * classes + c]), -d / (0.06 * 60.0));
                assert!((alpha - expected).abs() <= expected.abs() * f64::from(f32::EPSILON) + 1e-8, "{problem:?}");
            }
        }
    }
}

#[test]
fn the_judges_outputs_are_derivatives_too() {
    // The judge is judged where everything else leans on it: δ = outputs − target.
    let (z, t) = ([0.3, -1.2, 0.7], [0.0, 1.0, 0.0]);
    let expected: Vec<f64> = outputs(Problem::SingleLabel, &z).iter().zip(&t).map(|(p, t)| p - t).collect();
    for c in 0..3 {
        let at = |offset: f64| {
            let mut z = z;
            z[c] += offset;
            super::reference::loss(Problem::SingleLabel, &z, &t)
        };
        assert!(((at(1e-5) - at(-1e-5)) / 2e-5 - expected[c]).abs() < 1e-9);
    }
}
