//! What must not change a bit: how queries are batched, how records are cut, how many threads, tiles and bytes there
//! are.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use wherefore::factors::FactorRows;
use wherefore::search::{End, FactorSet, Form, Hits, Options, Query, Source, View, rank, search};

use super::data::{Data, Dtype, Sizes, bits, sizes};

fn found(data: &Data, form: &Form<'_>, queries: &[Query], options: &Options<'_>) -> Vec<Hits> {
    search(data.views().as_slice(), form, queries, 9, options).expect("a search")
}

fn assert_same(found: &[Hits], expected: &[Hits], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(bits(&found.proponents), bits(&expected.proponents), "{what}");
        assert_eq!(bits(&found.opponents), bits(&expected.opponents), "{what}");
    }
}

fn threads(count: usize) -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(count).build().expect("a thread pool")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn one_query_at_a_time_gives_what_many_give(sizes in sizes(120, 1..=40)) {
        let data = Data::new(&sizes);
        for (name, form) in data.forms() {
            let queries = data.queries(name, 7);
            let alone: Vec<Hits> =
                queries.iter().flat_map(|q| found(&data, &form, std::slice::from_ref(q), &Options::default())).collect();
            assert_same(&alone, &found(&data, &form, &queries, &Options::default()), name);
        }
    }

    #[test]
    fn neither_cuts_nor_tiles_nor_threads_nor_memory_matter(sizes in sizes(120, 1..=4)) {
        let data = Data::new(&sizes);
        for (name, form) in data.forms() {
            let queries = data.queries(name, 5);
            let expected = found(&data, &form, &queries, &Options::default());
            for tile_rows in [1, 5, 16, 31, 400] {
                let options = Options { tile_rows: Some(tile_rows), ..Options::default() };
                assert_same(&found(&data, &form, &queries, &options), &expected, "tiles");
            }
            for memory in [0, 5_000, 20_000] {
                let options = Options { memory, ..Options::default() };
                assert_same(&found(&data, &form, &queries, &options), &expected, "memory");
            }
        }
        let data_threads: Vec<_> = [1, 2, 5].into_iter().map(threads).collect();
        for (name, form) in data.forms() {
            let queries = data.queries(name, 4);
            let expected = found(&data, &form, &queries, &Options::default());
            for pool in &data_threads {
                assert_same(&pool.install(|| found(&data, &form, &queries, &Options::default())), &expected, "threads");
            }
        }
        // Integers are held from a center of their block's own: other blocks hold other numbers.
        let cuts: &[usize] = if matches!(sizes.dtype, Dtype::Int8) { &[] } else { &[1, 3, 6] };
        for &shards in cuts {
            let recut = data.recut(shards);
            for ((name, form), (_, same)) in data.forms().into_iter().zip(recut.forms()) {
                let queries = data.queries(name, 3);
                let expected = found(&data, &form, &queries, &Options::default());
                assert_same(&found(&recut, &same, &queries, &Options::default()), &expected, "cuts");
            }
        }
    }
}

fn some_data() -> Data {
    Data::new(&Sizes {
        seed: 3,
        rows: 9_000,
        width: 12,
        classes: 2,
        shards: 4,
        dtype: Dtype::F32,
        coarse: true,
        backwards: false,
    })
}

#[test]
fn a_ranking_that_spills_equals_one_that_fits() {
    let data = some_data();
    let (views, form) = (data.views(), Form::grad_dot());
    let queries = data.queries("grad-dot", 3);
    let ranked = |memory: usize| {
        let mut rankings = Vec::new();
        let options = Options { memory, ..Options::default() };
        rank(views.as_slice(), &form, &queries, &options, |_, ranking| {
            for end in [End::Proponents, End::Opponents] {
                rankings.push(bits(&ranking.hits(end)?.collect::<Result<Vec<_>, _>>()?));
            }
            Ok(())
        })
        .expect("rankings");
        rankings
    };
    let fitting = ranked(1 << 30);
    assert_eq!(fitting.len(), 6);
    assert!(ranked(200_000) == fitting, "a few long runs");
    assert!(ranked(5_000) == fitting, "many short runs");
}

/// A source that counts what it is asked to release.
struct Counting<'a> {
    views: Vec<View<'a>>,
    released: Vec<AtomicUsize>,
}

impl Source for Counting<'_> {
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
        self.released[shard].fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn shards_of_a_source_larger_than_memory_are_released_once_a_pass() {
    let data = some_data();
    let views = data.views();
    let with_rows = views.iter().map(|view| usize::from(view.factors.rows > 0)).collect::<Vec<_>>();
    let source = Counting { released: views.iter().map(|_| AtomicUsize::new(0)).collect(), views };
    let released = || source.released.iter().map(|count| count.swap(0, Ordering::Relaxed)).collect::<Vec<_>>();
    let queries = data.queries("feature-dot", 2);
    let run = |memory: usize| {
        let options = Options { memory, ..Options::default() };
        search(&source, &Form::feature_dot(), &queries, 1, &options).expect("a search");
    };
    run(1 << 30);
    assert_eq!(released(), vec![0; 4]);
    run(100_000);
    assert_eq!(released(), with_rows);
}

#[test]
fn progress_counts_every_row_of_every_pass_and_can_stop_the_search() {
    let data = some_data();
    let (views, queries) = (data.views(), data.queries("feature-dot", 2));
    let seen = Mutex::new(Vec::new());
    let watch = |done: u64, total: u64| {
        seen.lock().expect("no panic").push((done, total));
        true
    };
    let options = Options { memory: 0, progress: Some(&watch), ..Options::default() };
    search(views.as_slice(), &Form::feature_dot(), &queries, 1, &options).expect("a search");
    assert_eq!(seen.lock().expect("no panic").iter().max(), Some(&(18_000, 18_000)));

    let options = Options { progress: Some(&|_, _| false), ..Options::default() };
    let stopped = search(views.as_slice(), &Form::feature_dot(), &queries, 1, &options);
    assert!(matches!(stopped, Err(wherefore::Error::Interrupted)));
}
