//! Every score is within the roundings of f32 of what the rule says in f64.

use proptest::prelude::*;
use wherefore::search::Hit;

use super::data::{Asked, Data, Factors, RATES, all_hits, sizes};
use super::reference::{self, Exact, Side, widen};

/// Row `row` of factors of width `width`.
fn side(factors: &Factors, row: usize, width: usize, classes: usize) -> Side {
    Side::new(&factors.values[row * width..][..width], &factors.deltas[row * classes..][..classes])
}

/// The score that `asked` should give the record of global row `global`, with these factors under the model and each
/// checkpoint.
fn exact(data: &Data, asked: &Asked, record: &[Side], global: usize) -> Exact {
    let own: Vec<Side> = asked.sets.iter().map(|(h, delta)| Side::new(h, delta)).collect();
    let classes = data.sizes.classes;
    match asked.rule {
        "feature-dot" => reference::feature_dot(&own[0], &record[0]),
        "feature-cos" => reference::feature_cos(&own[0], &record[0]),
        "feature-euc" => reference::feature_euc(&own[0], &record[0]),
        "grad-dot" => reference::gradient(&own[0], 1.0, &record[0]),
        "grad-cos" => reference::grad_cos(&own[0], &record[0]),
        "representer" => {
            let alpha = data.alphas[global * classes + asked.class];
            reference::representer(&own[0].h, asked.bias, alpha, &record[0])
        }
        "tracin" => reference::tracin(&RATES, &own[1..], &record[1..]),
        "influence" => reference::bilinear(&widen(&asked.v), &record[0]),
        "relatif" => reference::relatif(&widen(&asked.v), &record[0], data.norms[global]),
        rule => unreachable!("no rule {rule}"),
    }
}

fn check(data: &Data, asked: &Asked, hits: &[Hit]) {
    let (width, classes) = (data.sizes.width, data.sizes.classes);
    let mut global = 0;
    for (sets, indices) in data.shards.iter().zip(&data.indices) {
        for row in 0..indices.len() {
            let record: Vec<Side> = sets.iter().map(|factors| side(factors, row, width, classes)).collect();
            exact(data, asked, &record, global).assert_close(hits[global].score, 0, asked.rule);
            global += 1;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    #[test]
    fn scores_are_within_their_roundings_of_f64(sizes in sizes(40, 0..=10)) {
        let data = Data::new(&sizes);
        let views = data.views();
        for (rule, form) in data.forms() {
            for asked in data.asked(rule, 3) {
                check(&data, &asked, &all_hits(views.as_slice(), &form, &asked.query()));
            }
        }
    }
}
