//! The same bits for any pieces, threads and company of queries.

use std::fmt::Debug;

use wherefore::factors::{
    Curvature, CurvatureOptions, HessianForm, InMemory, QueryFactors, RefitOptions, RepresenterCompat, representer,
};
use wherefore::model::Problem;

use super::{go_on, training, uniform};

/// More than one wave of blocks, and a last block that is not full.
const ROWS: usize = 33_011;

fn with_threads<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool").install(work)
}

/// Runs `work` on one source cut in different ways and by different numbers of threads.
fn assert_invariant<T: Debug + PartialEq + Send>(source: &InMemory, work: impl Fn(&InMemory) -> T + Sync) {
    let cut = |rows_at_a_time| InMemory { rows_at_a_time, ..source.clone() };
    let expected = with_threads(1, || work(&cut(usize::MAX)));
    for (rows_at_a_time, threads) in [(usize::MAX, 3), (777, 2), (16_384, 1)] {
        let found = with_threads(threads, || work(&cut(rows_at_a_time)));
        assert!(found == expected, "pieces of {rows_at_a_time}, {threads} threads");
    }
}

#[test]
fn refits_do_not_depend_on_pieces_or_threads() {
    let heads = [
        (Problem::SingleLabel, 3, 8192),
        (Problem::SingleLabel, 3, 0),
        (Problem::MultiLabel, 2, 8192),
        (Problem::Regression, 1, 0),
    ];
    for (problem, classes, cholesky_limit) in heads {
        // A few steps show whatever many would.
        let options = RefitOptions { cholesky_limit, iterations: 3, ..RefitOptions::default() };
        assert_invariant(&training(problem, ROWS, 3, classes), |source| {
            representer(source, &options, RepresenterCompat::Exact, &go_on).expect("representers")
        });
    }
}

#[test]
fn curvature_does_not_depend_on_pieces_or_threads() {
    let (delta, features) = (uniform(40, 3), uniform(41, 3));
    for (form, cholesky_limit) in [(HessianForm::Exact, 8192), (HessianForm::Exact, 0), (HessianForm::Kronecker, 0)] {
        let options = CurvatureOptions { form, cholesky_limit, ..CurvatureOptions::default() };
        assert_invariant(&training(Problem::SingleLabel, ROWS, 3, 3), |source| {
            let curvature = Curvature::fit(source, options, &go_on).expect("a curvature");
            let query = QueryFactors { delta: &delta, features: &features };
            (curvature.precondition(&[query], &go_on).expect("a query"), curvature.self_influence(&go_on).ok())
        });
    }
}

#[test]
fn a_query_does_not_depend_on_the_queries_beside_it() {
    let heads =
        [(Problem::SingleLabel, 2), (Problem::SingleLabel, 5), (Problem::MultiLabel, 3), (Problem::Regression, 1)];
    for (problem, classes) in heads {
        let source = training(problem, 1500, 33, classes);
        let (deltas, features) = (uniform(42, 21 * classes), uniform(43, 21 * 33));
        let queries: Vec<QueryFactors<'_>> = deltas
            .chunks_exact(classes)
            .zip(features.chunks_exact(33))
            .map(|(delta, features)| QueryFactors { delta, features })
            .collect();
        for (form, cholesky_limit) in [(HessianForm::Exact, 8192), (HessianForm::Exact, 0), (HessianForm::Kronecker, 0)]
        {
            let options = CurvatureOptions { form, cholesky_limit, ..CurvatureOptions::default() };
            let curvature = Curvature::fit(&source, options, &go_on).expect("a curvature");
            let together = curvature.precondition(&queries, &go_on).expect("queries");
            for (query, together) in queries.iter().zip(&together) {
                let alone = curvature.precondition(&[*query], &go_on).expect("a query");
                assert!(alone[0] == *together, "{problem:?} {form:?} {cholesky_limit}");
            }
        }
    }
}
