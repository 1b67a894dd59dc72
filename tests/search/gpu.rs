//! The search on the (emulated) GPU gives what the CPU's gives, to the bit.

use wherefore::backend::Precision;
use wherefore::backend::gpu::Gpu;
use wherefore::factors::{FactorRows, Floats};
use wherefore::search::{Bounds, Form, Groups, Options, Query, RowSet, Selected, Source, search, search_groups};

use super::certified::hard_rows;
use super::data::{Data, Dtype, Factors, Random, Sizes, bits};
use crate::emulator;

fn sizes(seed: u64, [rows, width, classes, shards]: [usize; 4], dtype: Dtype, coarse: bool) -> Sizes {
    Sizes { seed, rows, width, classes, shards, dtype, coarse, backwards: seed.is_multiple_of(2) }
}

/// Compares a search on devices with that on the CPU.
fn check_on<S: Source + ?Sized>(devices: &[&Gpu], source: &S, data: &Data, queries: usize, k: usize) {
    for (name, form) in data.forms() {
        let queries = data.queries(name, queries);
        let expected = search(source, &form, &queries, k, &Options::default()).unwrap();
        let options = Options { devices, ..Options::default() };
        let found = search(source, &form, &queries, k, &options).unwrap();
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(bits(&found.proponents), bits(&expected.proponents), "{name}, {:?}, k {k}", data.sizes);
            assert_eq!(bits(&found.opponents), bits(&expected.opponents), "{name}, {:?}, k {k}", data.sizes);
        }
    }
}

fn check(gpu: &Gpu, data: &Data, queries: usize, k: usize) {
    check_on(&[gpu], data.views().as_slice(), data, queries, k);
}

/// What `doctor` asks, by either way of multiplying.
#[test]
fn searches_of_every_kind_pass_their_check() {
    for precision in [Precision::F32, Precision::F16, Precision::Bf16] {
        let gpu = emulator::gpu(precision);
        for gpu in [gpu.by_mma(), gpu] {
            for check in wherefore::search::check(&gpu).unwrap() {
                assert!(check.passed(), "{precision}: {check:?}");
            }
        }
    }
}

/// A third of the rows, none of those in a run.
fn some_rows(data: &Data) -> RowSet {
    RowSet::new(data.sizes.rows, |row| Random(row as u64).below(3) == 0 && !(40..90).contains(&row))
}

#[test]
fn every_form_over_odd_shapes_and_types() {
    let gpu = emulator::gpu(Precision::F32);
    for (seed, shape, dtype, queries, k) in [
        (1, [1, 1, 1, 1], Dtype::F32, 1, 1),
        (2, [65, 16, 2, 2], Dtype::F32, 9, 3),
        (3, [130, 33, 3, 4], Dtype::F16, 8, 200),
        (4, [77, 100, 0, 3], Dtype::Bf16, 5, 10),
        (5, [200, 7, 40, 2], Dtype::F32, 17, 1024),
        (6, [90, 18, 3, 2], Dtype::Int8, 5, 10),
    ] {
        for coarse in [false, true] {
            check(&gpu, &Data::new(&sizes(seed, shape, dtype, coarse)), queries, k);
        }
    }
}

/// More records than there is room to keep: chunks grow, and where scores tie all over a chunk is taken in parts.
#[test]
fn many_records_in_chunks_that_overflow_and_that_do_not() {
    let gpu = emulator::gpu(Precision::F32);
    for coarse in [false, true] {
        let data = Data::new(&sizes(7, [5_003, 9, 2, 3], Dtype::F32, coarse));
        check(&gpu, &data, 3, 17);
    }
}

/// Each record is better than all before it, and so is never turned away.
#[test]
fn scores_that_rise_to_the_end() {
    let (gpu, rows) = (emulator::gpu(Precision::F32), 6_000);
    let features: Vec<f32> = (0..rows).map(|row| row as f32).collect();
    let source = FactorRows {
        rows,
        width: 1,
        classes: 0,
        features: Floats::F32(&features),
        deltas: &[],
        feature_norms: &features,
        delta_norms: &vec![0.0; rows],
    };
    let query = [Query::feature(vec![0.5])];
    let form = Form::feature_dot();
    let expected = search(&source, &form, &query, 300, &Options::default()).unwrap();
    let options = Options { devices: &[&gpu], ..Options::default() };
    assert_eq!(search(&source, &form, &query, 300, &options).unwrap(), expected);
}

/// Overflows, products of nothing and infinity, and vectors of nothing: no NaN, no −0, as [`wherefore::search::score`]
/// says.
#[test]
fn extreme_values() {
    let gpu = emulator::gpu(Precision::F32);
    let rows =
        [[0.0, -0.0], [f32::MAX, f32::MAX], [-f32::MAX, f32::MAX], [1e-40, 1e-30], [f32::INFINITY, 0.0], [3.0, 4.0]];
    let features = rows.concat();
    let deltas = [1.0, 0.0, 0.0, 0.0, -1.0, 1e-30, 1e30, 1e30, 0.5, -0.5, 1.0, -1.0];
    let norms: Vec<f32> = rows.iter().map(|row| row[0].hypot(row[1])).collect();
    let source = FactorRows {
        rows: rows.len(),
        width: 2,
        classes: 2,
        features: Floats::F32(&features),
        deltas: &deltas,
        feature_norms: &norms,
        delta_norms: &norms,
    };
    for (form, query) in [
        (Form::feature_dot(), Query::feature(vec![f32::MAX, -1.0])),
        (Form::feature_cos(), Query::feature(vec![0.0, 0.0])),
        (Form::feature_euc(), Query::feature(vec![-f32::MAX, 0.0])),
        (Form::grad_dot(), Query::gradient(vec![2.0, 1e30], vec![1e30, -1e30])),
        (Form::grad_cos(), Query::gradient(vec![1.0, 0.0], vec![1e-38, 0.0])),
    ] {
        let query = [query];
        let expected = search(&source, &form, &query, 6, &Options::default()).unwrap();
        let found = search(&source, &form, &query, 6, &Options { devices: &[&gpu], ..Options::default() }).unwrap();
        assert_eq!(bits(&found[0].proponents), bits(&expected[0].proponents), "{form:?}");
        assert_eq!(bits(&found[0].opponents), bits(&expected[0].opponents), "{form:?}");
    }
}

#[test]
fn two_devices_find_what_one_does() {
    let gpus = emulator::gpus(2, Precision::F32);
    let devices: Vec<&Gpu> = gpus.iter().collect();
    for (seed, shape) in [(11, [130, 33, 3, 5]), (12, [3, 4, 2, 2]), (13, [1, 8, 1, 4])] {
        let data = Data::new(&sizes(seed, shape, Dtype::F16, seed == 11));
        check_on(&devices, data.views().as_slice(), &data, 9, 20);
    }
}

#[test]
fn rows_that_are_not_selected_are_passed_over() {
    let gpus = emulator::gpus(2, Precision::F32);
    for (devices, coarse) in [(&gpus[..1], false), (&gpus[..], true)] {
        let data = Data::new(&sizes(21, [300, 20, 3, 3], Dtype::F32, coarse));
        let (views, rows) = (data.views(), some_rows(&data));
        let source = Selected { source: views.as_slice(), rows: &rows };
        check_on(&devices.iter().collect::<Vec<_>>(), &source, &data, 5, 40);
    }
}

/// Few groups are added up in shared memory, many in global memory; a group may be empty, and a row in none.
#[test]
fn groups_have_ends_and_totals_of_their_own() {
    let gpus = emulator::gpus(2, Precision::F32);
    for (devices, groups, coarse) in [(&gpus[..1], 3, true), (&gpus[..], 2, false), (&gpus[..1], 70, false)] {
        let data = Data::new(&sizes(31, [1_400, 12, 2, 3], Dtype::Bf16, coarse));
        let of_rows = (0..1_400).map(|row| Some(Random(row).below(groups) as u32).filter(|group| *group != 1));
        let (views, rows) = (data.views(), some_rows(&data));
        let (groups, all) = (Groups::new(groups, of_rows), views.as_slice());
        let some = Selected { source: all, rows: &rows };
        let devices: Vec<&Gpu> = devices.iter().collect();
        let options = Options { devices: &devices, ..Options::default() };
        for (name, form) in data.forms() {
            let queries = data.queries(name, 9);
            let (k, cpu) = (5, Options::default());
            let expected = search_groups(all, &form, &queries, k, &groups, &cpu).unwrap();
            let found = search_groups(all, &form, &queries, k, &groups, &options).unwrap();
            assert!(found == expected, "{name}, {} groups", groups.len());
            let expected = search_groups(&some, &form, &queries, k, &groups, &cpu).unwrap();
            let found = search_groups(&some, &form, &queries, k, &groups, &options).unwrap();
            assert!(found == expected, "{name}, {} groups, some rows", groups.len());
        }
    }
}

/// Sums of a group are exact: what cancels is gone, and an infinite score counts as the largest finite one.
#[test]
fn totals_of_extreme_scores_are_exact() {
    let gpu = emulator::gpu(Precision::F32);
    let features = [f32::MAX, 1e-45, -f32::MAX, -3e-39, f32::INFINITY, 1.0, -1e-20, f32::MAX];
    let norms = [1.0; 8];
    let source = FactorRows {
        rows: 8,
        width: 1,
        classes: 0,
        features: Floats::F32(&features),
        deltas: &[],
        feature_norms: &norms,
        delta_norms: &norms,
    };
    let groups = Groups::new(2, (0..8).map(|row| Some(u32::from(row >= 4))));
    let (form, query) = (Form::feature_dot(), [Query::feature(vec![1.0]), Query::feature(vec![-1.0])]);
    let expected = search_groups(&source, &form, &query, 4, &groups, &Options::default()).unwrap();
    let options = Options { devices: &[&gpu], ..Options::default() };
    assert_eq!(search_groups(&source, &form, &query, 4, &groups, &options).unwrap(), expected);
}

/// Ends longer than a device keeps are found in passes, each after the last of the one before it.
#[test]
fn ends_of_any_length_in_passes() {
    let gpus = emulator::gpus(2, Precision::F32);
    for (devices, coarse, k) in [(&gpus[..1], true, 2_500), (&gpus[..], false, 1_025), (&gpus[..1], false, 2_048)] {
        let data = Data::new(&sizes(41, [2_300, 3, 1, 2], Dtype::F32, coarse));
        check_on(&devices.iter().collect::<Vec<_>>(), data.views().as_slice(), &data, 2, k);
    }
}

/// Compares a search by bounds with one by every score, and gives the number of candidates, where there are such.
fn check_bounds<S: Source + ?Sized>(
    devices: &[&Gpu],
    source: &S,
    form: &Form<'_>,
    queries: &[Query],
    k: usize,
    what: &str,
) -> Option<u64> {
    let options = Options { devices, ..Options::default() };
    let found = search(source, form, queries, k, &options).unwrap();
    let cpu = Options { bounds: Bounds::Unused, ..Options::default() };
    let expected = search(source, form, queries, k, &cpu).unwrap();
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(bits(&found.proponents), bits(&expected.proponents), "{what}");
        assert_eq!(bits(&found.opponents), bits(&expected.opponents), "{what}");
    }
    found.iter().map(|hits| hits.certificate.as_ref().map(|certificate| certificate.candidates)).sum()
}

#[test]
fn bounds_over_odd_shapes_types_and_forms() {
    // In 16 bits products are by `wgmma`, where there are queries enough.
    let gpus = emulator::gpus(2, Precision::F16);
    let by_mma = gpus[0].by_mma();
    for (seed, shape, dtype, coarse, queries, k) in [
        (51, [1_700, 40, 2, 2], Dtype::F32, true, 33, 5),
        (52, [1_500, 33, 3, 3], Dtype::F16, false, 16, 1),
        (53, [1_400, 7, 1, 1], Dtype::Bf16, true, 70, 20),
        (54, [1_300, 24, 5, 2], Dtype::F16, false, 40, 3),
        (56, [1_290, 100, 3, 2], Dtype::F32, false, 290, 2),
        // Rounds of bounds that span chunks.
        (57, [2_400, 12, 2, 6], Dtype::F32, false, 33, 3),
    ] {
        let data = Data::new(&sizes(seed, shape, dtype, coarse));
        let devices: Vec<&Gpu> = match seed {
            52 => gpus.iter().collect(),
            53 => vec![&by_mma],
            _ => vec![&gpus[0]],
        };
        // So many queries take the emulator long: one form of each kind that they have.
        let some = |name: &str| seed != 56 || ["feature-cos", "feature-euc", "grad-dot"].contains(&name);
        for (name, form) in data.forms().into_iter().filter(|(name, _)| some(name)) {
            let asked = data.queries(name, queries);
            check_bounds(&devices, data.views().as_slice(), &form, &asked, k, name);
        }
    }
    let data = Data::new(&sizes(55, [4_000, 20, 2, 3], Dtype::F32, false));
    let (views, rows) = (data.views(), some_rows(&data));
    let source = Selected { source: views.as_slice(), rows: &rows };
    for (queries, bounded) in [(15, false), (16, true), (32, true)] {
        let asked = data.queries("grad-cos", queries);
        let candidates = check_bounds(&[&gpus[0]], &source, &Form::grad_cos(), &asked, 4, "selected");
        assert_eq!(candidates.is_some(), bounded, "{queries} queries");
    }
}

#[test]
fn bounds_leave_most_records_out() {
    let (gpu, mut random, (rows, width, queries, k)) = (emulator::gpu(Precision::F32), Random(3), (6_000, 48, 32, 4));
    let plain = Factors::of_features(width, random.numbers(rows * width, false));
    let asked: Vec<Query> = (0..queries).map(|_| Query::feature(random.numbers(width, false))).collect();
    for form in [Form::feature_dot(), Form::feature_cos(), Form::feature_euc()] {
        let candidates = check_bounds(&[&gpu], &plain.view(), &form, &asked, k, "random rows").expect("bounds");
        // The first 1024 rows are scored, then what of 1024, 2048, … may be among the best so far: 2 k of each, and few
        // whom rounding hides.
        let least = 32 * (1024 + 8);
        assert!((least..least + 32 * 30).contains(&candidates), "{form:?}: {candidates}");
    }
    // Copies of one row: no bound tells them apart, and every score is computed after all.
    let same = Factors::of_features(width, plain.values[..width].repeat(rows));
    assert_eq!(check_bounds(&[&gpu], &same.view(), &Form::feature_dot(), &asked, k, "copies"), None);
    // More copies of one query's best row than there is room for: bounded in parts.
    let mut some = plain.values.clone();
    some.chunks_exact_mut(width).for_each(|row| row[0] = 0.0);
    for row in 2_500..4_500 {
        some[row * width..][..width].fill(0.0);
        some[row * width] = 2.0;
    }
    let some = Factors::of_features(width, some);
    let query = |i: usize, random: &mut Random| {
        let (mut h, mine) = (random.numbers(width, false), i == 7);
        h[1..].iter_mut().for_each(|x| *x *= if mine { 0.01 } else { 1.0 });
        h[0] = f32::from(u8::from(mine));
        Query::feature(h)
    };
    let asked: Vec<Query> = (0..queries).map(|i| query(i, &mut random)).collect();
    assert!(check_bounds(&[&gpu], &some.view(), &Form::feature_dot(), &asked, k, "some copies").is_some());
}

/// Longer than bounds reach, they may belong to either end.
#[test]
fn records_that_no_bound_holds_are_looked_at_for_both_ends() {
    let (gpu, mut random, (rows, width)) = (emulator::gpu(Precision::F32), Random(7), (2_600, 24));
    let mut features = random.numbers(rows * width, false);
    features[2_100 * width] = -(2.0_f32.powi(63));
    features[2_200 * width] = 2.0_f32.powi(63);
    let plain = Factors::of_features(width, features);
    let asked: Vec<Query> =
        (0..32).map(|_| Query::feature([&[1.0], &random.numbers(width - 1, false)[..]].concat())).collect();
    assert!(check_bounds(&[&gpu], &plain.view(), &Form::feature_dot(), &asked, 4, "long ones").is_some());
}

#[test]
fn rows_that_rounding_treats_worst() {
    let (gpu, mut random, (rows, width)) = (emulator::gpu(Precision::F32), Random(5), (1_800, 37));
    let features = hard_rows(&mut random, rows, width);
    let deltas: Vec<f32> = (0..rows * 2).map(|i| [0.5, -0.5, 1e-30, 0.0, -3e5][i % 5]).collect();
    let factors = Factors::new(width, features, deltas, Dtype::F32);
    let source = factors.view();
    let asked = hard_rows(&mut random, 36, width);
    let asked: Vec<&[f32]> = asked.chunks_exact(width).collect();
    let feature: Vec<Query> = asked.iter().map(|h| Query::feature(h.to_vec())).collect();
    for form in [Form::feature_dot(), Form::feature_cos(), Form::feature_euc()] {
        check_bounds(&[&gpu], &source, &form, &feature, 3, &format!("{form:?}"));
    }
    for delta in [vec![1.0, -1.0], vec![-1e-20, 3.0], vec![2e38, 2e38]] {
        let gradient: Vec<Query> = asked.iter().map(|h| Query::gradient(h.to_vec(), delta.clone())).collect();
        for form in [Form::grad_dot(), Form::grad_cos()] {
            check_bounds(&[&gpu], &source, &form, &gradient, 3, &format!("{form:?} {delta:?}"));
        }
    }
    let v = random.numbers(2 * (width + 1), false);
    check_bounds(&[&gpu], &source, &Form::bilinear(2), &vec![Query::bilinear(&v, width); 36], 3, "bilinear");
}

/// What rounding to f16, and sums of products in one chain, get wrong all the same way in the best records: bounds must
/// know.
#[test]
fn errors_that_all_go_one_way() {
    let (rows, width, half_a_step) = (2_600, 256, 1.0 / 2048.0);
    // By `mma.sync`, and so many queries that those of 16 bits are by `wgmma`.
    let gpus = [(emulator::gpu(Precision::F32), 32), (emulator::gpu(Precision::F16), 72)];
    // Those that set the limits lose nothing: they are among the first, of which every score is computed. The best,
    // which come later, are taken for less than those.
    let (good, best) = (900..940, 2_100..2_106);
    // To f16, the best lose nine tenths of half a step in every number.
    let rounded = |i: usize| -> Vec<f32> {
        let last = 1e-3 * (i % 6) as f32;
        match i {
            _ if best.contains(&i) => vec![1.0 + (0.9 + last) * half_a_step; width],
            _ if good.contains(&i) => {
                (0..width).map(|j| if j < 2 * (i % 40) { 1.0 + 2.0 * half_a_step } else { 1.0 }).collect()
            }
            _ => vec![0.2 + 0.2 * (i * 997 % rows) as f32 / rows as f32; width],
        }
    };
    // The best have a long tail of which every product is lost beside the first one.
    let added = |i: usize| -> Vec<f32> {
        let (first, tail) = match i {
            _ if best.contains(&i) => (1.0, 0.9 * 2.0_f32.powi(-24)),
            // By more than a score has room for beside its products.
            _ if good.contains(&i) => (1.0 + (32 + i % 5) as f32 * 2.0_f32.powi(-22), 0.0),
            _ => (0.2 + 0.2 * (i * 997 % rows) as f32 / rows as f32, 0.0),
        };
        (0..width).map(|j| if j == 0 { first } else { tail }).collect()
    };
    // The best are better by less than a query loses.
    let of_queries = |i: usize| -> Vec<f32> {
        match i {
            _ if best.contains(&i) => (0..width).map(|j| if j < 8 { 1.0 + 2.0 * half_a_step } else { 1.0 }).collect(),
            _ if good.contains(&i) => vec![1.0; width],
            _ => vec![0.2 + 0.2 * (i * 997 % rows) as f32 / rows as f32; width],
        }
    };
    let all = |row: &dyn Fn(usize) -> Vec<f32>| Factors::of_features(width, (0..rows).flat_map(row).collect());
    for (what, plain, asked) in [
        ("rounded", all(&rounded), 1.0),
        ("added", all(&added), 1.0),
        ("of queries", all(&of_queries), 1.0 + 0.9 * half_a_step),
    ] {
        for (sign, (gpu, queries)) in
            [asked, -asked].into_iter().flat_map(|sign| gpus.iter().map(move |gpu| (sign, gpu)))
        {
            let query = |i: i32| Query::feature(vec![sign * 2.0_f32.powi(i % 32 - 15); width]);
            let asked: Vec<Query> = (0..*queries).map(query).collect();
            let found = check_bounds(&[gpu], &plain.view(), &Form::feature_dot(), &asked, 4, what);
            assert!(found.is_some(), "{what}: bounds are of no use");
        }
    }
}
