//! `(H + λI)⁻¹` in each of its forms, and what influence means.

use wherefore::factors::{
    Curvature, CurvatureOptions, HessianForm, InMemory, Preconditioned, QueryFactors, RefitOptions, refit,
};
use wherefore::model::Problem;

use super::reference::{Records, delta, dot, logits, loss, norm, outer, solve};
use super::{HEADS, go_on, training, uniform};

const DAMPING: f64 = 0.01;

fn options(form: HessianForm) -> CurvatureOptions {
    CurvatureOptions { form, damping: DAMPING, ..CurvatureOptions::default() }
}

/// What a preconditioned query is as a matrix, class after class.
fn matrix(preconditioned: &Preconditioned) -> Vec<f64> {
    let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
    match preconditioned {
        Preconditioned::Full(v) => wide(v),
        Preconditioned::RankOne { delta, input } => outer(&wide(delta), &wide(input)),
    }
}

/// A query's δ (summing to zero for a softmax) and h.
fn query(problem: Problem, seed: u8, width: usize, classes: usize) -> (Vec<f32>, Vec<f32>) {
    let (mut delta, features) = (uniform(seed, classes), uniform(seed + 1, width));
    if problem == Problem::SingleLabel {
        delta[classes - 1] = -delta[..classes - 1].iter().sum::<f32>();
    }
    (delta, features)
}

fn gradient(delta: &[f32], features: &[f32]) -> Vec<f64> {
    let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
    outer(&wide(delta), &[wide(features), vec![1.0]].concat())
}

/// The model's outputs for record i, from its δ and label.
fn stored_outputs(source: &InMemory, records: &Records, i: usize) -> Vec<f64> {
    let scale = if source.problem == Problem::Regression { 0.5 } else { 1.0 };
    let deltas = &source.deltas[i * source.classes..];
    records.targets[i].iter().zip(deltas).map(|(t, &d)| t + scale * f64::from(d)).collect()
}

fn hessian(source: &InMemory, damping: f64) -> Vec<Vec<f64>> {
    let records = Records::new(source);
    records.hessian(|i| stored_outputs(source, &records, i), damping)
}

fn precondition(source: &InMemory, options: CurvatureOptions, delta: &[f32], features: &[f32]) -> Preconditioned {
    let curvature = Curvature::fit(source, options, &go_on).expect("a curvature");
    let query = QueryFactors { delta, features };
    curvature.precondition(&[query], &go_on).expect("a query").swap_remove(0)
}

/// Each entry is rounded once to f32; the rest is f64 arithmetic with a condition number below 10⁴.
fn assert_close(found: &[f64], expected: &[f64], allowed: f64, what: &str) {
    let tolerance = f64::from(f32::EPSILON) * norm(expected) + allowed;
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= tolerance, "{what}: {found} {expected}");
    }
}

#[test]
fn exact_preconditioning_solves_the_damped_hessian() {
    for (problem, classes) in HEADS {
        let source = training(problem, 50, 4, classes);
        let (delta, features) = query(problem, 20, 4, classes);
        let found = precondition(&source, options(HessianForm::Exact), &delta, &features);
        let expected = solve(hessian(&source, DAMPING), gradient(&delta, &features));
        assert_close(&matrix(&found), &expected, 1e-10, &format!("{problem:?} {classes}"));
    }
}

/// A residual r leaves an error of at most `‖r‖ / λ`.
#[test]
fn conjugate_gradients_solve_it_to_the_stated_residual() {
    for (problem, classes) in HEADS {
        let source = training(problem, 50, 4, classes);
        let (delta, features) = query(problem, 22, 4, classes);
        let options = CurvatureOptions { cholesky_limit: 0, ..options(HessianForm::Exact) };
        let found = precondition(&source, options, &delta, &features);
        let g = gradient(&delta, &features);
        let expected = solve(hessian(&source, DAMPING), g.clone());
        assert_close(
            &matrix(&found),
            &expected,
            options.residual * norm(&g) / DAMPING,
            &format!("{problem:?} {classes}"),
        );
    }
}

/// Of so many classes no eigenvectors are taken: the solution is judged by the equations themselves.
#[test]
fn conjugate_gradients_solve_for_many_classes() {
    let (problem, classes, width) = (Problem::SingleLabel, 600, 1);
    let source = training(problem, 40, width, classes);
    let (delta, features) = query(problem, 28, width, classes);
    let options = CurvatureOptions { cholesky_limit: 0, ..options(HessianForm::Exact) };
    let found = matrix(&precondition(&source, options, &delta, &features));
    let gradient = gradient(&delta, &features);
    let rows = hessian(&source, DAMPING);
    let left: Vec<f64> = rows.iter().zip(&gradient).map(|(row, g)| dot(row, &found) - g).collect();
    // Its entries are rounded to f32.
    let rounding = f64::from(f32::EPSILON) * norm(&found) * rows.iter().map(|row| norm(row)).fold(0.0, f64::max);
    assert!(norm(&left) <= options.residual * norm(&gradient) + rounding, "{:e}", norm(&left));
}

/// `A ⊗ B + λI` with A and B averaged apart, written out and solved.
#[test]
fn kronecker_preconditioning_solves_the_damped_product() {
    for (problem, classes) in HEADS {
        let source = training(problem, 50, 4, classes);
        let records = Records::new(&source);
        let (delta, features) = query(problem, 24, 4, classes);
        let mut alone = records.clone();
        alone.inputs.iter_mut().for_each(|input| *input = vec![1.0]);
        let a = alone.hessian(|i| stored_outputs(&source, &records, i), 0.0);
        let b = |e: usize, f: usize| records.inputs.iter().map(|x| x[e] * x[f]).sum::<f64>() / 50.0;
        let entry = |p: usize, q: usize| a[p / 5][q / 5] * b(p % 5, q % 5) + if p == q { DAMPING } else { 0.0 };
        let size = classes * 5;
        let product: Vec<Vec<f64>> = (0..size).map(|p| (0..size).map(|q| entry(p, q)).collect()).collect();
        let expected = solve(product, gradient(&delta, &features));
        let found = precondition(&source, options(HessianForm::Kronecker), &delta, &features);
        let two_sided =
            classes == 1 || (problem, classes) == (Problem::SingleLabel, 2) || problem == Problem::Regression;
        assert_eq!(matches!(found, Preconditioned::RankOne { .. }), two_sided, "{problem:?} {classes}");
        assert_close(&matrix(&found), &expected, 1e-10, &format!("{problem:?} {classes}"));
    }
}

#[test]
fn kronecker_is_exact_where_every_record_curves_alike() {
    // A squared error always does; a softmax where the model says the same of every record.
    let regression = training(Problem::Regression, 50, 4, 3);
    let mut softmax = training(Problem::SingleLabel, 50, 4, 3);
    let p = [0.2_f32, 0.3, 0.5];
    let wherefore::factors::LabelVec::Classes(ids) = &softmax.labels else { panic!("class labels") };
    for (delta, &id) in softmax.deltas.chunks_exact_mut(3).zip(ids) {
        (0..3).for_each(|c| delta[c] = if c as i64 == id { p[c] - 1.0 } else { p[c] });
    }
    for source in [regression, softmax] {
        let (delta, features) = query(source.problem, 26, 4, 3);
        let exact = matrix(&precondition(&source, options(HessianForm::Exact), &delta, &features));
        let kronecker = matrix(&precondition(&source, options(HessianForm::Kronecker), &delta, &features));
        // The softmax's p are alike to f32's rounding, which λ = 0.01 magnifies.
        assert_close(
            &kronecker,
            &exact,
            f64::from(f32::EPSILON) / DAMPING * norm(&exact),
            &format!("{:?}", source.problem),
        );
    }
}

#[test]
fn self_influence_is_the_quadratic_form_of_each_records_own_gradient() {
    for (problem, classes) in HEADS {
        for form in [HessianForm::Exact, HessianForm::Kronecker] {
            let source = training(problem, 130, 4, classes);
            let curvature = Curvature::fit(&source, options(form), &go_on).expect("a curvature");
            let own = curvature.self_influence(&go_on).expect("self-influence");
            assert_eq!(own.len(), 130);
            for i in [0, 1, 63, 64, 129] {
                let (delta, features) = (&source.deltas[i * classes..][..classes], &source.features[i * 4..][..4]);
                let preconditioned =
                    curvature.precondition(&[QueryFactors { delta, features }], &go_on).expect("a query");
                let expected = dot(&matrix(&preconditioned[0]), &gradient(delta, features));
                let tolerance = 8.0 * f64::from(f32::EPSILON) * expected;
                assert!(
                    (f64::from(own[i]) - expected).abs() <= tolerance,
                    "{problem:?} {form:?}: {} {expected}",
                    own[i]
                );
            }
        }
    }
}

/// Training factors at their own refit's optimum, and the judge's view of it.
fn at_optimum(problem: Problem, rows: usize, width: usize, classes: usize, penalty: f64) -> (InMemory, Vec<f64>) {
    let mut source = training(problem, rows, width, classes);
    let head = Records::new(&source).refit(penalty);
    let records = Records::new(&source);
    for i in 0..rows {
        let exact = delta(problem, &logits(&head, &records.inputs[i]), &records.targets[i]);
        source.deltas[i * classes..][..classes].iter_mut().zip(exact).for_each(|(d, exact)| *d = exact as f32);
    }
    (source, head)
}

/// How fast the query's loss falls as record i's weight grows from 1, times N: by refits with that weight a little up
/// and down. Two step sizes give the limit (Richardson) and how far off it may be.
fn reweighting(records: &Records, penalty: f64, i: usize, query_loss: impl Fn(&[f64]) -> f64) -> (f64, f64) {
    let slope = |step: f64| {
        let at = |offset: f64| {
            let mut records = records.clone();
            records.weights[i] += offset;
            query_loss(&records.refit(penalty))
        };
        -(at(step) - at(-step)) / (2.0 * step) * records.rows() as f64
    };
    let (coarse, fine) = (slope(2e-2), slope(1e-2));
    ((4.0 * fine - coarse) / 3.0, (coarse - fine).abs())
}

/// The law that influence stands for, at the optimum with the refit's own λ.
#[test]
fn influence_is_what_reweighting_a_record_does_to_a_querys_loss() {
    let penalty = 0.06;
    for (problem, classes) in HEADS {
        let (source, head) = at_optimum(problem, 25, 3, classes, penalty);
        let records = Records::new(&source);
        let found = refit(&source, &RefitOptions::default(), &go_on).expect("a refit");
        let input: Vec<f64> = uniform(30, 3).iter().map(|&h| f64::from(h)).chain([1.0]).collect();
        let target = &records.targets[0];
        let query_delta: Vec<f32> = delta(problem, &logits(&head, &input), target).iter().map(|&d| d as f32).collect();
        let features = uniform(30, 3);
        let options = CurvatureOptions { damping: penalty, ..CurvatureOptions::default() };
        let v = matrix(&precondition(&source, options, &query_delta, &features));
        assert!(found.converged);
        for i in [0, 7, 24] {
            let delta = &source.deltas[i * classes..][..classes];
            let score = dot(&v, &gradient(delta, &source.features[i * 3..][..3]));
            let (expected, error) =
                reweighting(&records, penalty, i, |head| loss(problem, &logits(head, &input), target));
            let rounding = 8.0 * f64::from(f32::EPSILON) * norm(&v);
            assert!(
                (score - expected).abs() <= error + rounding + 1e-9,
                "{problem:?} {classes}: {score} {expected} {error:e}"
            );
        }
    }
}

/// The sign, by the plainest experiment: where the score is greatest, leaving the record out raises the query's loss.
#[test]
fn leaving_out_a_proponent_raises_the_loss() {
    let (source, head) = at_optimum(Problem::SingleLabel, 30, 3, 2, 0.06);
    let records = Records::new(&source);
    let target = records.targets[0].clone();
    let query: Vec<f32> = source.features[..3].to_vec();
    let z = |head: &[f64]| loss(Problem::SingleLabel, &logits(head, &records.inputs[0]), &target);
    let options = CurvatureOptions { damping: 0.06, ..CurvatureOptions::default() };
    let v = matrix(&precondition(&source, options, &source.deltas[..2], &query));
    let scores: Vec<f64> =
        (0..30).map(|i| dot(&v, &gradient(&source.deltas[i * 2..][..2], &source.features[i * 3..][..3]))).collect();
    let end = |sign: f64| (0..30).max_by(|&i, &j| (sign * scores[i]).total_cmp(&(sign * scores[j]))).expect("a record");
    let without = |i: usize| {
        let mut records = records.clone();
        records.weights[i] = 0.0;
        z(&records.refit(0.06)) - z(&head)
    };
    assert!(scores[end(1.0)] > 0.0 && without(end(1.0)) > 0.0);
    assert!(scores[end(-1.0)] < 0.0 && without(end(-1.0)) < 0.0);
}
