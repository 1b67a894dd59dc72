//! What must hold of scores by what the rules mean, and cases solved by hand.

use proptest::prelude::*;
use wherefore::search::{Form, Options, Query, score, search};

use super::data::{Data, Dtype, Factors, RATES, all_hits, bits, sizes};

/// The f32 factors of records of E = `width`.
fn factors(width: usize, features: &[f32], deltas: &[f32]) -> Factors {
    Factors::new(width, features.to_vec(), deltas.to_vec(), Dtype::F32)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]

    #[test]
    fn tracin_over_one_checkpoint_of_rate_one_is_grad_dot_there(sizes in sizes(40, 1..=4)) {
        let data = Data::new(&sizes);
        let views = data.views();
        let at_checkpoint: Vec<_> =
            views.iter().map(|view| wherefore::search::View { factors: view.checkpoints[0], ..view.clone() }).collect();
        for asked in data.asked("tracin", 3) {
            let (h, delta) = asked.sets[1].clone();
            let tracin = Query::checkpoints(vec![(h.clone(), delta.clone())]);
            let found = all_hits(views.as_slice(), &Form::tracin(&[1.0]), &tracin);
            let expected = all_hits(at_checkpoint.as_slice(), &Form::grad_dot(), &Query::gradient(h, delta));
            prop_assert_eq!(bits(&found), bits(&expected));
        }
        prop_assert_eq!(RATES.len(), views.first().map_or(2, |view| view.checkpoints.len()));
    }

    #[test]
    fn a_class_is_a_one_hot_delta(sizes in sizes(40, 1..=6)) {
        let data = Data::new(&sizes);
        let views = data.views();
        for asked in data.asked("representer", 3) {
            let h = asked.sets[0].0.clone();
            let one_hot = (0..sizes.classes).map(|c| f32::from(c == asked.class)).collect();
            let form = Form::representer(&data.alphas);
            let found = all_hits(views.as_slice(), &form, &asked.query());
            let expected = all_hits(views.as_slice(), &form, &Query::transformed(h, asked.bias, one_hot));
            prop_assert_eq!(bits(&found), bits(&expected));
        }
    }

    #[test]
    fn the_cosine_of_gradients_does_not_depend_on_how_confident_they_are(sizes in sizes(40, 1..=4)) {
        let data = Data::new(&sizes);
        // Exact, and so small that squares of δ are 0 in f32.
        let tiny = |delta: &[f32]| delta.iter().map(|d| d * 2_f32.powi(-100)).collect::<Vec<_>>();
        for asked in data.asked("grad-cos", 3) {
            let (h, delta) = asked.sets[0].clone();
            for record in data.shards.iter().map(|sets| &sets[0]) {
                let confident = Factors::new(sizes.width, record.values.clone(), tiny(&record.deltas), Dtype::F32);
                let plain = Factors::new(sizes.width, record.values.clone(), record.deltas.clone(), Dtype::F32);
                let found = all_hits(&confident.view(), &Form::grad_cos(), &Query::gradient(h.clone(), tiny(&delta)));
                let expected = all_hits(&plain.view(), &Form::grad_cos(), &Query::gradient(h.clone(), delta.clone()));
                prop_assert_eq!(bits(&found), bits(&expected));
            }
        }
    }
}

#[test]
fn near_duplicates_keep_their_distances() {
    let (far, near) = (1000.0_f32, 1000.0 + 2_f32.powi(-10));
    let source = factors(2, &[far, far, near, far], &[]);
    let query = Query::feature(vec![far, far]);
    assert_eq!(score(&source.view(), &Form::feature_euc(), &query, 0, 0), 0.0);
    assert_eq!(score(&source.view(), &Form::feature_euc(), &query, 0, 1), -2_f32.powi(-10));
}

#[test]
fn what_has_no_length_is_similar_to_nothing() {
    let source = factors(2, &[0.0, 0.0, 3.0, 4.0], &[0.0, 0.0, 0.6, -0.8]);
    let (h, delta) = (vec![3.0, 4.0], vec![0.6, -0.8]);
    let scores = |form: &Form<'_>, query: &Query| [0, 1].map(|row| score(&source.view(), form, query, 0, row));
    assert_eq!(scores(&Form::feature_cos(), &Query::feature(h.clone())), [0.0, 1.0]);
    assert_eq!(scores(&Form::feature_cos(), &Query::feature(vec![0.0; 2])), [0.0, 0.0]);
    assert_eq!(scores(&Form::grad_cos(), &Query::gradient(h.clone(), delta)), [0.0, 1.0]);
    assert_eq!(scores(&Form::grad_cos(), &Query::gradient(h.clone(), vec![0.0; 2])), [0.0, 0.0]);
    let query = Query::bilinear(&[1.0, 0.0, 0.0, 0.0, 0.0, 0.0], 2);
    assert_eq!(scores(&Form::bilinear(2).over(&[0.0, 2.0]), &query), [0.0, 0.6 * 3.0 / 2.0]);
}

#[test]
fn overflow_ranks_as_infinite_and_never_as_nan() {
    let large = 1e30_f32;
    let source = factors(1, &[large, -large, large, 1.0], &[1.0, 1.0, 0.0, 1.0]);
    let query = Query::gradient(vec![large], vec![1.0]);
    let hits = search(&source.view(), &Form::grad_dot(), &[query], 4, &Options::default()).expect("a search");
    let ranked: Vec<_> = hits[0].proponents.iter().map(|hit| (hit.index, hit.score)).collect();
    assert_eq!(ranked, [(0, f32::INFINITY), (3, 1e30), (2, 0.0), (1, f32::NEG_INFINITY)]);
}

#[test]
fn ties_go_to_the_lower_record_number_at_both_ends_and_minus_zero_is_zero() {
    let source = factors(1, &[1.0, -0.0, 0.0, 1.0, -1.0, -1.0], &[]);
    let query = Query::feature(vec![2.0]);
    let hits = search(&source.view(), &Form::feature_dot(), &[query], 6, &Options::default()).expect("a search");
    let indices = |hits: &[wherefore::search::Hit]| hits.iter().map(|hit| hit.index).collect::<Vec<_>>();
    assert_eq!(indices(&hits[0].proponents), [0, 3, 1, 2, 4, 5]);
    assert_eq!(indices(&hits[0].opponents), [4, 5, 1, 2, 0, 3]);
    assert!(hits[0].proponents.iter().all(|hit| hit.score != 0.0 || hit.score.is_sign_positive()));
}
