//! A certified search gives the bits of a search by every score, whatever the data, and computes few of them.

use proptest::prelude::*;
use wherefore::backend::cpu::dot;
use wherefore::factors::{FactorRows, Floats, ScanCopy, ScanRows, ScanType};
use wherefore::search::{Bounds, FactorSet, Form, Options, Query, RowSet, Selected, Source, View, search};

use super::data::{Data, Dtype, Factors, Random, Sizes, bits, sizes};

const KINDS: [ScanType; 3] = [ScanType::F16, ScanType::Bf16, ScanType::Int8];

/// Some shards with scan copies.
struct Copied<'a> {
    views: Vec<View<'a>>,
    copies: Vec<ScanCopy>,
}

impl<'a> Copied<'a> {
    fn new(views: Vec<View<'a>>, kind: ScanType) -> Self {
        let copy = |view: &View<'_>| ScanCopy::new(kind, &view.factors.features.to_f32(), view.factors.width);
        Self { copies: views.iter().map(copy).collect(), views }
    }
}

impl Source for Copied<'_> {
    fn shards(&self) -> usize {
        self.views.len()
    }

    fn rows(&self, shard: usize) -> usize {
        self.views[shard].factors.rows
    }

    fn factors(&self, shard: usize, set: FactorSet) -> Option<FactorRows<'_>> {
        self.views.as_slice().factors(shard, set)
    }

    fn index(&self, shard: usize, row: usize) -> u64 {
        self.views[shard].indices[row]
    }

    fn scan(&self, shard: usize) -> Option<ScanRows<'_>> {
        Some(self.copies[shard].rows())
    }
}

/// Compares both ends of each query with those of a scan of the features; gives the number of candidates of products in
/// f32.
fn check<S: Source + ?Sized>(source: &S, form: &Form<'_>, queries: &[Query], k: usize, what: &str) -> u64 {
    check_by(Bounds::Half, source, form, queries, k, what);
    check_by(Bounds::Single, source, form, queries, k, what)
}

fn check_by<S: Source + ?Sized>(
    bounds: Bounds,
    source: &S,
    form: &Form<'_>,
    queries: &[Query],
    k: usize,
    what: &str,
) -> u64 {
    let found = search(source, form, queries, k, &Options { bounds, ..Options::default() }).expect("a search");
    let expected = search(source, form, queries, k, &Options { bounds: Bounds::Unused, ..Options::default() });
    for (found, expected) in found.iter().zip(&expected.expect("a search")) {
        assert_eq!(bits(&found.proponents), bits(&expected.proponents), "{what} {bounds:?}");
        assert_eq!(bits(&found.opponents), bits(&expected.opponents), "{what} {bounds:?}");
    }
    found.iter().filter_map(|hits| hits.certificate.as_ref()).map(|certificate| certificate.candidates).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_data_by_any_rule(sizes in sizes(300, 1..=5), k in 1..20_usize, queries in 1..14_usize) {
        let data = Data::new(&Sizes { dtype: Dtype::F32, ..sizes });
        for kind in KINDS {
            let source = Copied::new(data.views(), kind);
            for (name, form) in data.forms() {
                check(&source, &form, &data.queries(name, queries), k, &format!("{name} {kind:?}"));
            }
            let rows = RowSet::new(data.views().iter().map(|view| view.factors.rows).sum(), |row| row % 3 == 1);
            let selected = Selected { source: &source, rows: &rows };
            check(&selected, &Form::grad_cos(), &data.queries("grad-cos", 2), k, "selected");
        }
    }
}

#[test]
fn few_scores_are_computed_where_bounds_tell_records_apart() {
    let (rows, width, mut random) = (8_000, 64, Random(3));
    let (features, deltas) = (random.numbers(rows * width, false), random.numbers(rows * 2, false));
    let norms =
        |values: &[f32], width| -> Vec<f32> { values.chunks_exact(width).map(|row| dot(row, row).sqrt()).collect() };
    let factors = FactorRows {
        rows,
        width,
        classes: 2,
        features: Floats::F32(&features),
        deltas: &deltas,
        feature_norms: &norms(&features, width),
        delta_norms: &norms(&deltas, 2),
    };
    let indices: Vec<u64> = (0..rows as u64).collect();
    let (h, delta) = (random.numbers(width, false), random.numbers(2, false));
    let v = random.numbers(2 * (width + 1), false);
    // At least both ends themselves; int8's residuals are about 0.4 % of a row's length, which a dense tail of scores
    // pays for.
    for (kind, most) in [(ScanType::F16, 30), (ScanType::Bf16, 60), (ScanType::Int8, 200)] {
        let source = Copied::new(vec![View { factors, checkpoints: vec![], indices: &indices }], kind);
        let (feature, gradient) = (Query::feature(h.clone()), Query::gradient(h.clone(), delta.clone()));
        for (form, query) in [
            (Form::feature_dot(), &feature),
            (Form::feature_cos(), &feature),
            (Form::feature_euc(), &feature),
            (Form::grad_dot(), &gradient),
            (Form::grad_cos(), &gradient),
            (Form::bilinear(2), &Query::bilinear(&v, width)),
        ] {
            let candidates = check(&source, &form, std::slice::from_ref(query), 10, "random rows");
            assert!((20..=most).contains(&candidates), "{form:?} {kind:?}: {candidates} candidates");
        }
    }
}

/// Rows that rounding treats worst: sums that cancel, numbers beyond f16 and of the smallest kind, products that run
/// over, ties, zeros.
pub(super) fn hard_rows(random: &mut Random, rows: usize, width: usize) -> Vec<f32> {
    let row = |i: usize, random: &mut Random| -> Vec<f32> {
        let plain = random.numbers(width, false);
        let scaled = |scale: f32| plain.iter().map(|x| x * scale).collect::<Vec<f32>>();
        match i % 9 {
            0 => (0..width).map(|j| if j % 2 == 0 { 1e4 } else { -1e4 + (i % 5) as f32 * 1e-3 }).collect(),
            1 => scaled(1e-41),
            2 => scaled(1e30),
            3 => scaled(70_000.0),
            4 => scaled(2e38),
            5 => vec![0.0; width],
            6 => vec![0.5; width],
            7 => scaled(1e-22),
            _ => plain,
        }
    };
    (0..rows).flat_map(|i| row(i, random)).collect()
}

#[test]
fn rows_that_rounding_treats_worst() {
    let (rows, width) = (270, 37);
    let mut random = Random(5);
    let features = hard_rows(&mut random, rows, width);
    let deltas: Vec<f32> = (0..rows * 2).map(|i| [0.5, -0.5, 1e-30, 0.0, -3e5][i % 5]).collect();
    let factors = Factors::new(width, features, deltas, Dtype::F32);
    let indices: Vec<u64> = (0..rows as u64).collect();
    // Fewer queries than a panel, and a panel and some more.
    for queries in [9, 36] {
        let asked = hard_rows(&mut random, queries, width);
        let view = || vec![View { factors: factors.view(), checkpoints: vec![], indices: &indices }];
        for kind in KINDS {
            for k in [1, 7, 60] {
                check_hard(&Copied::new(view(), kind), &asked, width, k, &format!("{kind:?}"));
            }
        }
        for k in [1, 4] {
            check_hard(view().as_slice(), &asked, width, k, "no copies");
        }
    }
}

#[test]
fn rows_whose_rounding_all_goes_one_way() {
    let (rows, width, queries, half_a_step) = (3000, 256, 30, 1.0 / 256.0);
    // To bf16, the first few lose nine tenths of half a step in every number, and come out below the others, which lose
    // nothing.
    let row = |i: usize| -> Vec<f32> {
        let last = 1e-3 * (i % 50) as f32;
        match i {
            0..4 => vec![1.0 + (0.9 + last) * half_a_step; width],
            // The other end is theirs: what may belong to either is looked at for both.
            4..24 => vec![0.5 + last; width],
            _ => (0..width).map(|j| if j < 7 * i % 101 { 1.0 + 2.0 * half_a_step } else { 1.0 }).collect(),
        }
    };
    let plain = Factors::of_features(width, (0..rows).flat_map(row).collect());
    let source = plain.view();
    // And queries that are what they are, in either sign: the one way or the other, rounding misleads.
    for sign in [1.0, -1.0] {
        let asked: Vec<Query> =
            (0..queries).map(|i| Query::feature(vec![sign * 2.0_f32.powi(i - 15); width])).collect();
        check(&source, &Form::feature_dot(), &asked, 4, "rounded one way");
        // Far away, along the same line: who is nearest is told by the same products.
        let far: Vec<Query> = (0..queries).map(|i| Query::feature(vec![sign * (64 + i) as f32; width])).collect();
        check(&source, &Form::feature_euc(), &far, 4, "rounded one way, distances");
    }
}

/// Every form, of these queries' features, and some of the worst weights.
fn check_hard<S: Source + ?Sized>(source: &S, asked: &[f32], width: usize, k: usize, what: &str) {
    let asked: Vec<&[f32]> = asked.chunks_exact(width).collect();
    let feature: Vec<Query> = asked.iter().map(|h| Query::feature(h.to_vec())).collect();
    for form in [Form::feature_dot(), Form::feature_cos(), Form::feature_euc()] {
        check(source, &form, &feature, k, &format!("{what} {k} {form:?}"));
    }
    for delta in [vec![1.0, -1.0], vec![-1e-20, 3.0], vec![0.0, 0.0], vec![2e38, 2e38]] {
        let gradient: Vec<Query> = asked.iter().map(|h| Query::gradient(h.to_vec(), delta.clone())).collect();
        for form in [Form::grad_dot(), Form::grad_cos()] {
            check(source, &form, &gradient, k, &format!("{what} {k} {form:?} {delta:?}"));
        }
    }
    let v = Random(6).numbers(2 * (width + 1), false);
    check(source, &Form::bilinear(2), &vec![Query::bilinear(&v, width); asked.len()], k, "bilinear");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]

    #[test]
    fn many_queries_by_any_rule(sizes in sizes(600, 1..=5), k in 1..9_usize, queries in 24..70_usize) {
        let data = Data::new(&sizes);
        let views = data.views();
        let source = views.as_slice();
        for (name, form) in data.forms() {
            check(source, &form, &data.queries(name, queries), k, name);
        }
        let rows = RowSet::new(views.iter().map(|view| view.factors.rows).sum(), |row| row % 3 == 1);
        let selected = Selected { source, rows: &rows };
        check(&selected, &Form::grad_cos(), &data.queries("grad-cos", queries), k, "selected");
    }
}

#[test]
fn many_queries_compute_few_scores_one_by_one() {
    let (rows, width, queries, mut random) = (20_000, 48, 40, Random(3));
    let plain = Factors::of_features(width, random.numbers(rows * width, false));
    let source = plain.view();
    let asked: Vec<Query> = (0..queries).map(|_| Query::feature(random.numbers(width, false))).collect();
    for form in [Form::feature_dot(), Form::feature_cos(), Form::feature_euc()] {
        let candidates = check(&source, &form, &asked, 10, "random rows");
        assert!((20 * queries as u64..=21 * queries as u64).contains(&candidates), "{form:?}: {candidates}");
        let halved = check_by(Bounds::Half, &source, &form, &asked, 10, "random rows");
        assert!((20 * queries as u64..=40 * queries as u64).contains(&halved), "{form:?}: {halved}");
    }
    // Copies of one row: no bound tells them apart, and every score is computed after all.
    let same = Factors::of_features(width, plain.values[..width].repeat(rows));
    assert_eq!(check(&same.view(), &Form::feature_dot(), &asked, 10, "copies"), 0);
}

#[test]
fn too_many_candidates_for_memory_are_no_candidates() {
    let sizes = Sizes {
        seed: 9,
        rows: 600,
        width: 20,
        classes: 2,
        shards: 2,
        dtype: Dtype::F32,
        coarse: true,
        backwards: false,
    };
    let data = Data::new(&sizes);
    let source = Copied::new(data.views(), ScanType::Int8);
    let options = Options { memory: 1_000, ..Options::default() };
    let queries = data.queries("grad-dot", 3);
    let found = search(&source, &Form::grad_dot(), &queries, 5, &options).expect("a search");
    let expected =
        search(&source, &Form::grad_dot(), &queries, 5, &Options { bounds: Bounds::Unused, ..options }).expect("one");
    assert_eq!(found, expected);
    assert!(found.iter().all(|hits| hits.certificate.is_none()), "a plain scan");
}

#[test]
fn a_residual_is_never_below_the_distance() {
    let mut random = Random(1);
    for width in [1, 2, 15, 64] {
        let features = hard_rows(&mut random, 90, width);
        for kind in KINDS {
            let copy = ScanCopy::new(kind, &features, width);
            let decoded = copy.rows().values.to_f32();
            for ((x, y), &residual) in features.chunks(width).zip(decoded.chunks(width)).zip(copy.rows().residuals) {
                let square = |(x, y): (&f32, &f32)| (f64::from(*x) - f64::from(*y)).powi(2);
                let distance = x.iter().zip(y).map(square).sum::<f64>().sqrt();
                assert!(
                    f64::from(residual) >= distance && y.iter().all(|y| y.is_finite()),
                    "{kind:?} {residual} {distance}"
                );
            }
        }
    }
}
