//! Features rounded to be stored: what is found is what the stored ones say, and what is called certain is so by the
//! ones before.

use std::collections::HashSet;

use proptest::prelude::*;
use wherefore::factors::FactorRows;
use wherefore::search::{Bounds, FactorSet, Form, Hit, Hits, Options, Query, Source, View, search};

use super::data::{Data, Dtype, Factors, Random, Sizes, bits, sizes};

/// Some shards whose features were rounded.
struct Rounded<'a> {
    views: Vec<View<'a>>,
    factors: Vec<Factors>,
    residuals: Vec<Vec<f32>>,
}

impl<'a> Rounded<'a> {
    fn new(views: Vec<View<'a>>, dtype: Dtype) -> Self {
        let round = |view: &View<'_>| {
            let FactorRows { width, deltas, features, .. } = view.factors;
            Factors::new(width, features.to_f32(), deltas.to_vec(), dtype)
        };
        let factors: Vec<Factors> = views.iter().map(round).collect();
        let residuals = views.iter().zip(&factors).map(|(view, rounded)| {
            let (width, features) = (view.factors.width, view.factors.features.to_f32());
            features.chunks(width).zip(rounded.values.chunks(width)).map(|(x, y)| distance(x, y)).collect()
        });
        Self { residuals: residuals.collect(), factors, views }
    }
}

/// `‖x − y‖`, rounded up.
fn distance(x: &[f32], y: &[f32]) -> f32 {
    let square = |(x, y): (&f32, &f32)| (f64::from(*x) - f64::from(*y)).powi(2);
    let distance = x.iter().zip(y).map(square).sum::<f64>().sqrt();
    if distance == 0.0 { 0.0 } else { (distance as f32).next_up() }
}

impl Source for Rounded<'_> {
    fn shards(&self) -> usize {
        self.views.len()
    }

    fn rows(&self, shard: usize) -> usize {
        self.views[shard].factors.rows
    }

    fn factors(&self, shard: usize, set: FactorSet) -> Option<FactorRows<'_>> {
        (set == FactorSet::Final).then(|| self.factors[shard].view())
    }

    fn index(&self, shard: usize, row: usize) -> u64 {
        self.views[shard].indices[row]
    }

    fn residuals(&self, shard: usize) -> Option<&[f32]> {
        Some(&self.residuals[shard])
    }
}

/// Compares the hits with those of a plain scan, and what is certain of them with those by the features before; gives
/// how many are.
fn check(source: &Rounded<'_>, form: &Form<'_>, queries: &[Query], k: usize, what: &str) -> usize {
    let plain = Options { bounds: Bounds::Unused, ..Options::default() };
    let found = search(source, form, queries, k, &Options::default()).expect("a search");
    let expected = search(source, form, queries, k, &plain).expect("a search");
    let before = search(source.views.as_slice(), form, queries, k, &plain).expect("a search");
    let mut certain = 0;
    for ((found, expected), before) in found.iter().zip(&expected).zip(&before) {
        assert_eq!(bits(&found.proponents), bits(&expected.proponents), "{what}");
        assert_eq!(bits(&found.opponents), bits(&expected.opponents), "{what}");
        let certificate = found.certificate.as_ref().expect("memory enough");
        let counts = certificate.certain.as_ref().expect("of rounded features");
        for (count, end) in
            counts.iter().zip([(|hits: &Hits| &hits.proponents) as fn(&Hits) -> &Vec<Hit>, |hits| &hits.opponents])
        {
            let (found, before) = (end(found), end(before));
            let count = count.count(k.min(found.len()), None);
            let there: HashSet<u64> = before.iter().map(|hit| hit.row).collect();
            let kept = found.iter().filter(|hit| there.contains(&hit.row)).count();
            assert!(count <= kept, "{what}: {count} certain, {kept} of {} found", found.len());
            certain += count;
        }
    }
    certain
}

fn whole(data: &Data) -> Vec<View<'_>> {
    data.views().into_iter().filter(|view| view.factors.rows > 0).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn what_is_certain_is_so_before_rounding(sizes in sizes(200, 1..=5), k in 1..40_usize, queries in 1..9_usize) {
        let data = Data::new(&Sizes { dtype: Dtype::F32, ..sizes });
        for dtype in [Dtype::F16, Dtype::Bf16, Dtype::Int8] {
            let source = Rounded::new(whole(&data), dtype);
            prop_assume!(!source.views.is_empty());
            for (name, form) in data.forms().into_iter().take(5) {
                check(&source, &form, &data.queries(name, queries), k, &format!("{name} {dtype:?}"));
            }
        }
    }
}

#[test]
fn most_is_certain_where_scores_lie_apart() {
    let (rows, width, k) = (3_000, 48, 10);
    let mut random = Random(21);
    let (features, deltas) = (random.numbers(rows * width, false), random.numbers(rows * 2, false));
    let indices: Vec<u64> = (0..rows as u64).collect();
    let before = Factors::new(width, features, deltas, Dtype::F32);
    let (h, delta) = (random.numbers(width, false), random.numbers(2, false));
    let (feature, gradient) = (Query::feature(h.clone()), Query::gradient(h, delta));
    for (dtype, least) in [(Dtype::F16, 15), (Dtype::Bf16, 4), (Dtype::Int8, 2)] {
        let source = Rounded::new(vec![View { factors: before.view(), checkpoints: vec![], indices: &indices }], dtype);
        for (form, query) in [
            (Form::feature_dot(), &feature),
            (Form::feature_cos(), &feature),
            (Form::feature_euc(), &feature),
            (Form::grad_dot(), &gradient),
            (Form::grad_cos(), &gradient),
        ] {
            let certain = check(&source, &form, std::slice::from_ref(query), k, "random rows");
            assert!((least..=2 * k).contains(&certain), "{form:?} {dtype:?}: {certain} of {}", 2 * k);
        }
    }
}

#[test]
fn rounding_is_not_told_where_it_changes_more_than_the_records() {
    let sizes = Sizes {
        seed: 4,
        rows: 60,
        width: 9,
        classes: 2,
        shards: 1,
        dtype: Dtype::F32,
        coarse: false,
        backwards: false,
    };
    let data = Data::new(&sizes);
    let source = Rounded::new(whole(&data), Dtype::F16);
    for (name, form) in data.forms().into_iter().skip(5).filter(|(name, _)| *name != "tracin") {
        let found = search(&source, &form, &data.queries(name, 2), 3, &Options::default()).expect("a search");
        assert!(found.iter().all(|hits| hits.certificate.is_none()), "{name}");
    }
    for (name, form) in data.forms().into_iter().take(5) {
        let own: Vec<Query> = data.queries(name, 2).into_iter().map(Query::of_source).collect();
        let found = search(&source, &form, &own, 3, &Options::default()).expect("a search");
        assert!(found.iter().all(|hits| hits.certificate.is_none()), "{name} of the source's own");
    }
}
