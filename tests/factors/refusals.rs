//! What is refused, and how it is put.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use wherefore::Error;
use wherefore::factors::{
    Curvature, CurvatureOptions, FactorSource, HessianForm, InMemory, LabelUsed, LabelVec, LabelledRows, QueryFactors,
    RefitOptions, refit,
};
use wherefore::model::Problem;

use super::{go_on, training};

fn refused(source: &dyn FactorSource, options: &RefitOptions) -> String {
    refit(source, options, &go_on).expect_err("a refusal").to_string()
}

#[test]
fn sources_with_nothing_to_learn_from() {
    let options = RefitOptions::default();
    let headless = InMemory { problem: Problem::Headless, ..training(Problem::SingleLabel, 4, 2, 2) };
    assert_eq!(refused(&headless, &options), "the model has no head, so there is no loss to attribute");
    assert_eq!(
        refused(&training(Problem::SingleLabel, 0, 2, 2), &options),
        "there are no training records to learn from"
    );
    let one_class = InMemory { problem: Problem::SingleLabel, ..training(Problem::Regression, 4, 2, 1) };
    assert_eq!(refused(&one_class, &options), "a single-label head of one class has no loss");
}

#[test]
fn parts_of_different_lengths() {
    let whole = || training(Problem::SingleLabel, 10, 2, 3);
    let short = [
        (InMemory { features: vec![0.5; 21], ..whole() }, "features of 10 training records: expected 20, found 21"),
        (InMemory { deltas: vec![0.5; 29], ..whole() }, "δ of 10 training records: expected 30, found 29"),
        (
            InMemory { labels: LabelVec::Classes(vec![0; 9]), ..whole() },
            "labels of 10 training records: expected 10, found 9",
        ),
        (InMemory { weights: vec![1.0; 11], ..whole() }, "weights of 10 training records: expected 10, found 11"),
    ];
    for (source, expected) in short {
        assert_eq!(refused(&source, &RefitOptions::default()), expected);
        let error = Curvature::fit(&source, CurvatureOptions::default(), &go_on).err().expect("a refusal");
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn labels_that_do_not_exist() {
    let mut source = training(Problem::SingleLabel, 2000, 2, 2);
    let LabelVec::Classes(ids) = &mut source.labels else { panic!("class labels") };
    ids[1999] = 2;
    assert_eq!(refused(&source, &RefitOptions::default()), "training record 1999: no label among the 2 classes");
    let LabelVec::Classes(ids) = &mut source.labels else { panic!("class labels") };
    (ids[1999], ids[3]) = (0, -1);
    assert_eq!(refused(&source, &RefitOptions::default()), "training record 3: no label among the 2 classes");
}

#[test]
fn penalties_that_are_not_positive() {
    let source = training(Problem::SingleLabel, 10, 2, 2);
    for penalty in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let message = refused(&source, &RefitOptions { penalty, ..RefitOptions::default() });
        assert_eq!(message, format!("the refit's λ must be a positive number, found {penalty}"));
        let options = CurvatureOptions { damping: penalty, ..CurvatureOptions::default() };
        let error = Curvature::fit(&source, options, &go_on).err().expect("a refusal");
        assert_eq!(error.to_string(), format!("the damping λ must be a positive number, found {penalty}"));
    }
}

#[test]
fn features_that_are_not_numbers() {
    let mut source = training(Problem::SingleLabel, 10, 2, 3);
    source.features[5] = f32::NAN;
    for form in [HessianForm::Exact, HessianForm::Kronecker] {
        let options = CurvatureOptions { form, ..CurvatureOptions::default() };
        assert!(Curvature::fit(&source, options, &go_on).err().expect("a refusal").hint().is_some());
    }
    for cholesky_limit in [8192, 0] {
        let outcome = refit(&source, &RefitOptions { cholesky_limit, ..RefitOptions::default() }, &go_on);
        assert!(outcome.is_err(), "{outcome:?}");
    }
}

#[test]
fn queries_of_another_shape() {
    let source = training(Problem::SingleLabel, 10, 2, 3);
    let curvature = Curvature::fit(&source, CurvatureOptions::default(), &go_on).expect("a curvature");
    let query = QueryFactors { delta: &[0.5, -0.5], features: &[1.0, 2.0] };
    let error = curvature.precondition(&[query], &go_on).expect_err("a refusal");
    assert_eq!(error.to_string(), "a query's factors: expected (K, E) = (3, 2), found (2, 2)");
}

#[test]
fn self_influence_beyond_cholesky() {
    let source = training(Problem::SingleLabel, 10, 2, 3);
    let options = CurvatureOptions { cholesky_limit: 8, ..CurvatureOptions::default() };
    let error =
        Curvature::fit(&source, options, &go_on).expect("a curvature").self_influence(&go_on).expect_err("a refusal");
    assert!(error.to_string().ends_with("at most 8 parameters, found 3 x 3"), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("kronecker")));
}

#[test]
fn conjugate_gradients_that_do_not_arrive() {
    let source = training(Problem::SingleLabel, 100, 6, 3);
    let options = CurvatureOptions { cholesky_limit: 0, iterations: 1, residual: 1e-12, ..CurvatureOptions::default() };
    let curvature = Curvature::fit(&source, options, &go_on).expect("a curvature");
    let query = QueryFactors { delta: &source.deltas[..3], features: &source.features[..6] };
    let error = curvature.precondition(&[query], &go_on).expect_err("a refusal");
    assert_eq!(error.to_string(), "conjugate gradients: relative residual above 1e-12 after 1 steps");
}

#[test]
fn a_pass_stops_when_told_to() {
    let source = training(Problem::SingleLabel, 5000, 3, 2);
    let asked = AtomicUsize::new(0);
    let stop = || asked.fetch_add(1, Ordering::Relaxed) < 20;
    assert!(matches!(refit(&source, &RefitOptions::default(), &stop), Err(Error::Interrupted)));
    assert!(matches!(Curvature::fit(&source, CurvatureOptions::default(), &|| false), Err(Error::Interrupted)));
    let query = QueryFactors { delta: &source.deltas[..source.classes], features: &source.features[..source.width] };
    for form in [HessianForm::Exact, HessianForm::Kronecker] {
        let options = CurvatureOptions { form, ..CurvatureOptions::default() };
        let curvature = Curvature::fit(&source, options, &|| true).expect("a curvature");
        assert!(matches!(curvature.precondition(&[query], &|| false), Err(Error::Interrupted)));
        assert!(matches!(curvature.self_influence(&|| false), Err(Error::Interrupted)));
    }
}

/// A source whose labels are given apart, and that writes down what it is told of.
struct Watched {
    inner: InMemory,
    labels: LabelVec,
    used: LabelUsed,
    released: Mutex<Vec<usize>>,
}

impl FactorSource for Watched {
    fn problem(&self) -> Problem {
        self.inner.problem()
    }

    fn width(&self) -> usize {
        self.inner.width()
    }

    fn classes(&self) -> usize {
        self.inner.classes()
    }

    fn piece_rows(&self) -> Vec<usize> {
        self.inner.piece_rows()
    }

    fn piece(&self, i: usize) -> LabelledRows<'_> {
        let piece = self.inner.piece(i);
        let start = self.inner.piece_rows()[..i].iter().sum();
        let labels = self.labels.slice(start, self.inner.piece_rows()[i], self.inner.classes);
        LabelledRows { labels, used: self.used, ..piece }
    }

    fn release(&self, i: usize) {
        self.released.lock().expect("no panic").push(i);
    }
}

fn watched(labels: LabelVec, used: LabelUsed) -> Watched {
    let inner = InMemory { rows_at_a_time: 7, ..training(Problem::SingleLabel, 50, 3, 2) };
    Watched { inner, labels, used, released: Mutex::default() }
}

#[test]
fn a_record_with_no_label_of_its_own_was_explained_for_its_prediction() {
    let plain = watched(LabelVec::Classes(vec![]), LabelUsed::Predicted).inner;
    let expected = refit(&plain, &RefitOptions::default(), &go_on).expect("a refit");
    let missing = watched(LabelVec::Classes(vec![-1; 50]), LabelUsed::Gold);
    assert_eq!(refit(&missing, &RefitOptions::default(), &go_on).expect("a refit"), expected);
    let unused = watched(LabelVec::Classes(vec![0; 50]), LabelUsed::Predicted);
    assert_eq!(refit(&unused, &RefitOptions::default(), &go_on).expect("a refit"), expected);
    let gold = watched(LabelVec::Classes(vec![0; 50]), LabelUsed::Gold);
    assert_ne!(refit(&gold, &RefitOptions::default(), &go_on).expect("a refit"), expected);
}

#[test]
fn each_pass_releases_each_piece_once_and_in_order() {
    let source = watched(LabelVec::Classes(vec![1; 50]), LabelUsed::Gold);
    refit(&source, &RefitOptions { iterations: 0, ..RefitOptions::default() }, &go_on).expect("a refit");
    assert_eq!(*source.released.lock().expect("no panic"), (0..8).collect::<Vec<_>>());
}
