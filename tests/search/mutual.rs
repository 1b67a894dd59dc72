//! A source's own records as the queries, each pair scored once: the bits of a search for each of them.

use std::sync::Mutex;

use proptest::prelude::*;
use wherefore::factors::FactorRows;
use wherefore::search::{
    Bounds, FactorSet, Form, Hits, Options, Query, RowSet, Selected, Source, View, search, search_mutual,
};

use super::data::{Data, Dtype, Factors, Random, Sizes, bits, sizes};

/// The forms whose scores are the same both ways round.
const SYMMETRIC: [&str; 5] = ["feature-dot", "feature-cos", "feature-euc", "grad-dot", "grad-cos"];

/// Each record as a query.
fn own_queries<S: Source + ?Sized>(source: &S, name: &str) -> Vec<Query> {
    let of_shard = |shard: usize| {
        let factors = source.factors(shard, FactorSet::Final).expect("factors");
        let (width, classes, features) = (factors.width, factors.classes, factors.features.to_f32());
        let query = move |row: usize| {
            let h = features[row * width..(row + 1) * width].to_vec();
            let delta = || factors.deltas[row * classes..(row + 1) * classes].to_vec();
            if name.starts_with("grad") { Query::gradient(h, delta()) } else { Query::feature(h) }
        };
        (0..factors.rows).map(query).collect::<Vec<_>>()
    };
    (0..source.shards()).flat_map(of_shard).collect()
}

/// What every record finds with each pair scored once.
fn mutual<S: Source + ?Sized>(source: &S, form: &Form<'_>, k: usize, options: &Options<'_>) -> Option<Vec<Hits>> {
    let rows: usize = (0..source.shards()).map(|shard| source.rows(shard)).sum();
    let found = search_mutual(source, form, 1.0, k, options).expect("a search")?;
    Some((0..rows).map(|row| found.of(row)).collect())
}

fn assert_same(found: &[Hits], expected: &[Hits], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (row, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_eq!(bits(&found.proponents), bits(&expected.proponents), "{what}: row {row}");
        assert_eq!(bits(&found.opponents), bits(&expected.opponents), "{what}: row {row}");
    }
}

fn plain<S: Source + ?Sized>(source: &S, form: &Form<'_>, queries: &[Query], k: usize) -> Vec<Hits> {
    let options = Options { bounds: Bounds::Unused, ..Options::default() };
    search(source, form, queries, k, &options).expect("a search")
}

/// Numbers that tell records apart, in which some rows are nevertheless the same and some nothing.
fn some_data(rows: usize, width: usize, shards: usize) -> Data {
    let sizes = Sizes { seed: 11, rows, width, classes: 3, shards, dtype: Dtype::F32, coarse: false, backwards: false };
    Data::new(&sizes)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn any_data_by_any_form_whether_all_or_some_are_searched(
        sizes in sizes(400, 1..=4), more in 64..200_usize, k in 1..4_usize, tile_rows in 1..40_usize,
    ) {
        let data = Data::new(&Sizes { rows: sizes.rows + more, ..sizes });
        let (views, rows) = (data.views(), data.sizes.rows);
        let source = views.as_slice();
        let third = RowSet::new(rows, |row| row % 3 == 1 || row < 40);
        let selected = Selected { source, rows: &third };
        for (name, form) in data.forms().into_iter().filter(|(name, _)| SYMMETRIC.contains(name)) {
            let queries = own_queries(source, name);
            for bounds in [Bounds::Half, Bounds::Single] {
                let options = Options { bounds, tile_rows: Some(tile_rows), ..Options::default() };
                // A tenth of these rows score 0 with all others: for so many alike bounds may be given up. Below are
                // data of which they are not.
                if let Some(found) = mutual(source, &form, k, &options) {
                    assert_same(&found, &plain(source, &form, &queries, k), name);
                }
                if let Some(found) = mutual(&selected, &form, k, &options) {
                    assert_same(&found, &plain(&selected, &form, &queries, k), "selected");
                }
            }
        }
    }
}

#[test]
fn neither_threads_nor_tiles_nor_bands_matter() {
    let data = some_data(1_500, 100, 5);
    let (views, k) = (data.views(), 9);
    let source = views.as_slice();
    for (name, form) in data.forms().into_iter().filter(|(name, _)| SYMMETRIC.contains(name)) {
        let expected = plain(source, &form, &own_queries(source, name), k);
        for bounds in [Bounds::Half, Bounds::Single] {
            let found = mutual(source, &form, k, &Options { bounds, ..Options::default() });
            assert_same(&found.unwrap_or_else(|| panic!("{name}, {bounds:?}: not possible")), &expected, name);
        }
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
            // The ends take 252 kB, which half of 530 holds; the factors' 618 are then read in five bands, two at a
            // time.
            for (memory, tile_rows) in [(1 << 30, None), (1 << 30, Some(13)), (530_000, None), (530_000, Some(7))] {
                let options = Options { memory, tile_rows, ..Options::default() };
                let found = pool.install(|| mutual(source, &form, k, &options));
                let what = format!("{name}, {threads} threads, {memory} bytes, tiles of {tile_rows:?}");
                assert_same(&found.unwrap_or_else(|| panic!("{what}: not possible")), &expected, &what);
            }
        }
    }
}

/// A source that notes what is given back.
struct Noted<'a> {
    views: Vec<View<'a>>,
    released: Mutex<Vec<usize>>,
}

impl Source for Noted<'_> {
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

    fn release(&self, shard: usize) {
        self.released.lock().expect("not poisoned").push(shard);
    }
}

#[test]
fn a_source_larger_than_memory_is_read_band_by_band_and_given_back() {
    let data = some_data(1_200, 200, 6);
    let noted = Noted { views: data.views(), released: Mutex::default() };
    let form = Form::feature_cos();
    let options = |memory| Options { memory, ..Options::default() };
    let fitting = mutual(&noted, &form, 5, &options(1 << 30)).expect("possible");
    assert!(noted.released.lock().expect("not poisoned").is_empty());
    // 1 MB of features in 400 kB.
    let banded = mutual(&noted, &form, 5, &options(400_000)).expect("possible");
    assert_same(&banded, &fitting, "bands");
    let released = noted.released.lock().expect("not poisoned");
    let mut filled = (0..6).filter(|&shard| noted.rows(shard) > 0);
    assert!(filled.all(|shard| released.contains(&shard)), "{released:?}");
}

#[test]
fn what_is_not_the_same_both_ways_or_does_not_fit_is_left_to_a_search() {
    let data = some_data(1_000, 16, 2);
    let (views, options) = (data.views(), Options::default());
    let source = views.as_slice();
    for (name, form) in data.forms() {
        let possible = search_mutual(source, &form, 1.0, 5, &options).expect("a search").is_some();
        assert_eq!(possible, SYMMETRIC.contains(&name), "{name}");
    }
    let form = Form::feature_cos();
    let possible =
        |k, options: &Options<'_>| search_mutual(source, &form, 1.0, k, options).expect("a search").is_some();
    assert!(possible(15, &options) && !possible(16, &options), "so many of 1,000 leave nothing out");
    assert!(
        !possible(5, &Options { memory: 100_000, ..options }),
        "the ends take 104 kB, and half of memory is theirs"
    );
    assert!(possible(5, &Options { memory: 220_000, ..options }));
    assert!(!possible(5, &Options { bounds: Bounds::Unused, ..options }));

    // Norms that were not made from these features.
    let mut view = source[0].clone();
    let norms: Vec<f32> = view.factors.feature_norms.iter().map(|norm| norm * 1.01).collect();
    view.factors.feature_norms = &norms;
    let source = [view];
    let found = |form: &Form<'_>| search_mutual(source.as_slice(), form, 1.0, 2, &options).expect("a search").is_some();
    assert!(!found(&Form::feature_cos()) && found(&Form::feature_dot()));
}

#[test]
fn where_bounds_leave_nothing_out_they_are_given_up() {
    let (rows, width) = (5_000, 8);
    let features = Factors::of_features(width, vec![1.0; rows * width]);
    assert!(mutual(&features.view(), &Form::feature_cos(), 1, &Options::default()).is_none());
    // The same number of rows that differ.
    let features = Factors::of_features(width, Random(5).numbers(rows * width, false));
    assert!(mutual(&features.view(), &Form::feature_cos(), 1, &Options::default()).is_some());
}

#[test]
fn it_can_be_stopped_and_tells_how_far_it_has_come() {
    let (rows, width, form) = (2_000, 16, Form::feature_dot());
    let features = Factors::of_features(width, Random(7).numbers(rows * width, false));
    let source = features.view();
    let told = Mutex::new(Vec::new());
    let note = |done: u64, all: u64| {
        told.lock().expect("not poisoned").push((done, all));
        true
    };
    let options = Options { progress: Some(&note), tile_rows: Some(20), ..Options::default() };
    mutual(&source, &form, 3, &options).expect("possible");
    let told = told.into_inner().expect("not poisoned");
    assert!(told.len() > 100 && told.iter().all(|&(done, all)| done <= all && all == 2_000));
    assert!(told.iter().any(|&(done, _)| (900..1_100).contains(&done)));
    assert_eq!(told.iter().max(), Some(&(2_000, 2_000)));
    let stop = |_, _| false;
    let options = Options { progress: Some(&stop), ..Options::default() };
    let stopped = search_mutual(&source, &form, 1.0, 3, &options);
    assert!(matches!(stopped, Err(wherefore::Error::Interrupted)));
}
