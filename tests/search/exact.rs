//! A search gives what sorting the scores of all records gives, to the bit, whatever the data's shape.

use proptest::prelude::*;
use wherefore::search::{End, Form, Hit, Hits, Options, Query, Ranking, TwoEnded, View, rank, search};

use super::data::{Data, Sizes, all_hits, bits, sizes, sorted};

/// Compares a search with sorting everything.
fn check(data: &Data, form: &Form<'_>, queries: &[Query], k: usize, options: &Options<'_>) {
    let views = data.views();
    let found = search(views.as_slice(), form, queries, k, options).expect("a search");
    assert_eq!(found.len(), queries.len());
    for (query, hits) in queries.iter().zip(&found) {
        let all = all_hits(views.as_slice(), form, query);
        assert_eq!(bits(&hits.proponents), bits(&sorted(all.clone(), End::Proponents, k)));
        assert_eq!(bits(&hits.opponents), bits(&sorted(all, End::Opponents, k)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn both_ends_are_those_of_sorting_every_score(sizes in sizes(150, 0..=40), k in 1..200_usize, queries in 1..8_usize) {
        let data = Data::new(&sizes);
        for (name, form) in data.forms() {
            check(&data, &form, &data.queries(name, queries), k, &Options::default());
        }
    }

    #[test]
    fn a_full_ranking_is_sorting_every_score(sizes in sizes(150, 1..=3), memory in 0..40_000_usize) {
        let data = Data::new(&sizes);
        let views = data.views();
        let options = Options { memory, ..Options::default() };
        for (name, form) in data.forms() {
            let queries = data.queries(name, 3);
            let mut told = Vec::new();
            rank(views.as_slice(), &form, &queries, &options, |query, ranking| {
                told.push(query);
                assert_ranking(&data, &form, &queries[query], ranking);
                Ok(())
            }).expect("a ranking");
            prop_assert_eq!(told, vec![0, 1, 2]);
        }
    }
}

fn assert_ranking(data: &Data, form: &Form<'_>, query: &Query, ranking: &Ranking<'_>) {
    let all = all_hits(data.views().as_slice(), form, query);
    assert_eq!(ranking.len(), all.len());
    for end in [End::Proponents, End::Opponents] {
        let hits: Vec<_> = ranking.hits(end).expect("runs").map(|hit| hit.expect("a hit")).collect();
        assert_eq!(bits(&hits), bits(&sorted(all.clone(), end, usize::MAX)));
    }
}

#[test]
fn many_queries_and_records_across_chunks_and_blocks() {
    let sizes = Sizes {
        seed: 7,
        rows: 5_003,
        width: 33,
        classes: 3,
        shards: 3,
        dtype: super::data::Dtype::F32,
        coarse: true,
        backwards: false,
    };
    let data = Data::new(&sizes);
    for (name, form) in data.forms().into_iter().filter(|(name, _)| ["feature-dot", "grad-cos"].contains(name)) {
        check(&data, &form, &data.queries(name, 301), 17, &Options::default());
    }
}

#[test]
fn a_source_of_nothing_has_no_hits() {
    let (nothing, none): (_, &[View<'_>]) = (Options::default(), &[]);
    let query = Query::feature(vec![1.0]);
    let hits = search(none, &Form::feature_dot(), std::slice::from_ref(&query), 3, &nothing).expect("a search");
    assert_eq!(hits, vec![Hits::default()]);
    rank(none, &Form::feature_dot(), &[query], &nothing, |_, ranking| {
        assert!(ranking.is_empty());
        Ok(())
    })
    .expect("a ranking");
}

#[test]
fn a_collector_keeps_the_same_whatever_the_order_it_is_offered() {
    let hit = |i: u64| Hit { row: i, index: 99 - i, score: (i % 5) as f32 - 2.0 };
    let keep = |order: Box<dyn Iterator<Item = u64>>| {
        let mut collector = TwoEnded::new(7);
        order.for_each(|i| collector.offer(hit(i)));
        collector.into_hits()
    };
    let forwards = keep(Box::new(0..100));
    assert_eq!(forwards, keep(Box::new((0..100).rev())));
    assert_eq!(forwards, keep(Box::new((0..100).map(|i| i * 37 % 100))));
    assert_eq!(forwards.proponents.iter().map(|hit| hit.index).collect::<Vec<_>>(), [0, 5, 10, 15, 20, 25, 30]);
}
