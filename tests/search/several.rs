//! Records of several factors: a search's bits are those of the definition, one pair after another, however many
//! queries, shards and threads.

use proptest::prelude::*;
use wherefore::backend::Precision;
use wherefore::backend::gpu::Gpu;
use wherefore::factors::{Bundle, FactorRows};
use wherefore::search::{
    End, FactorSet, Form, Groups, Options, Query, RowSet, Selected, Source, rank, score_parts, search, search_groups,
};

use super::data::{Dtype, Factors, Random, all_hits, bits, sorted};
use crate::emulator;

const RATES: [f32; 2] = [0.3, 0.7];

/// Some records of a shard.
struct Part {
    offsets: Vec<u64>,
    /// The model's and two checkpoints'.
    sets: Vec<Factors>,
    biases: Option<Vec<f32>>,
    lengths: Vec<f32>,
    means: Factors,
    first: u64,
}

struct Several(Vec<Part>);

impl Source for Several {
    fn shards(&self) -> usize {
        self.0.len()
    }

    fn rows(&self, shard: usize) -> usize {
        self.0[shard].offsets.len() - 1
    }

    fn factors(&self, shard: usize, set: FactorSet) -> Option<FactorRows<'_>> {
        let part = &self.0[shard];
        match set {
            FactorSet::Final => Some(part.sets[0].view()),
            FactorSet::Checkpoint(c) => part.sets.get(c + 1).map(Factors::view),
            FactorSet::Mean => Some(part.means.view()),
        }
    }

    fn factor_offsets(&self, shard: usize, set: FactorSet) -> Option<&[u64]> {
        (set != FactorSet::Mean).then_some(&self.0[shard].offsets)
    }

    fn factor_biases(&self, shard: usize) -> Option<&[f32]> {
        self.0[shard].biases.as_deref()
    }

    fn gradient_norms(&self, shard: usize) -> Option<&[f32]> {
        Some(&self.0[shard].lengths)
    }

    fn index(&self, shard: usize, row: usize) -> u64 {
        self.0[shard].first + row as u64
    }
}

#[derive(Clone, Debug)]
struct Sizes {
    seed: u64,
    /// Of records in each shard.
    shards: Vec<usize>,
    width: usize,
    classes: usize,
    /// Factors of a record, at most; some have none.
    most: usize,
    coarse: bool,
    biased: bool,
}

fn sizes() -> impl Strategy<Value = Sizes> {
    let shards = proptest::collection::vec(0..40_usize, 1..4);
    (any::<u64>(), shards, 1..70_usize, 1..6_usize, 1..9_usize, any::<bool>(), any::<bool>()).prop_map(
        |(seed, shards, width, classes, most, coarse, biased)| Sizes {
            seed,
            shards,
            width,
            classes,
            most,
            coarse,
            biased,
        },
    )
}

impl Sizes {
    fn source(&self) -> Several {
        let (mut random, mut first) = (Random(self.seed), 0);
        let part = |&records: &usize| {
            let counts: Vec<usize> = (0..records).map(|_| random.below(self.most + 1)).collect();
            let mut offsets = vec![0];
            offsets.extend(counts.iter().scan(0, |end, count| {
                *end += *count as u64;
                Some(*end)
            }));
            let factors = offsets[records] as usize;
            let sets = (0..=RATES.len())
                .map(|_| {
                    let h = random.numbers(factors * self.width, self.coarse);
                    Factors::new(self.width, h, random.numbers(factors * self.classes, self.coarse), Dtype::F32)
                        .of_classes(self.classes)
                })
                .collect();
            let biases = self.biased.then(|| random.numbers(factors, self.coarse));
            let lengths = (0..records).map(|_| random.below(4) as f32 / 2.0).collect();
            let means =
                Factors::new(self.width, random.numbers(records * self.width, self.coarse), Vec::new(), Dtype::F32);
            first += records as u64;
            Part { offsets, sets, biases, lengths, means, first: first - records as u64 }
        };
        Several(self.shards.iter().map(part).collect())
    }

    fn records(&self) -> usize {
        self.shards.iter().sum()
    }

    /// `count` queries of one to eight factors, under as many models.
    fn asked(&self, count: usize, models: usize) -> Vec<Vec<Bundle>> {
        let mut random = Random(!self.seed);
        let mut bundle = || {
            let factors = 1 + random.below(8);
            Bundle {
                features: random.numbers(factors * self.width, self.coarse),
                deltas: random.numbers(factors * self.classes, self.coarse),
                biases: random.numbers(factors, self.coarse),
                classes: vec![0; factors],
                loss: 0.0,
            }
        };
        (0..count).map(|_| (0..models).map(|_| bundle()).collect()).collect()
    }
}

/// Each form with some of its queries.
fn cases(sizes: &Sizes, count: usize) -> Vec<(&'static str, Form<'static>, Vec<Query>)> {
    let of = |models: usize| Query::bundles(&sizes.asked(count, models));
    let (one, terms) = of(1);
    let (two, both) = of(RATES.len());
    let means = || sizes.asked(count, 1).into_iter().map(|b| Query::feature(b[0].features[..sizes.width].to_vec()));
    vec![
        ("grad-dot", Form::grad_dot().of_terms(&terms), one.clone()),
        ("grad-cos", Form::bundle_cos().of_terms(&terms), one),
        ("tracin", Form::tracin(&RATES).of_terms(&both), two),
        ("feature-cos", Form::feature_cos().over_means(), means().collect()),
        ("feature-euc", Form::feature_euc().over_means(), means().collect()),
    ]
}

fn check(source: &Several, form: &Form<'_>, queries: &[Query], what: &str) {
    check_on(&[], source, form, queries, what);
}

fn check_on(devices: &[&Gpu], source: &Several, form: &Form<'_>, queries: &[Query], what: &str) {
    let records: usize = (0..source.shards()).map(|shard| source.rows(shard)).sum();
    let k = (records / 2).max(1);
    let found = search(source, form, queries, k, &Options { devices, ..Options::default() }).unwrap();
    for (query, hits) in queries.iter().zip(&found) {
        let all = all_hits(source, form, query);
        assert_eq!(bits(&hits.proponents), bits(&sorted(all.clone(), End::Proponents, k)), "{what}");
        assert_eq!(bits(&hits.opponents), bits(&sorted(all, End::Opponents, k)), "{what}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn searches_find_what_the_definition_says(sizes in sizes(), count in 1..30_usize) {
        let source = sizes.source();
        for (name, form, queries) in cases(&sizes, count) {
            check(&source, &form, &queries, name);
        }
    }

    #[test]
    fn numbers_given_for_factors_and_for_records_are_theirs(sizes in sizes(), count in 1..10_usize) {
        let source = sizes.source();
        let factors: usize = source.0.iter().map(|part| part.offsets[part.offsets.len() - 1] as usize).sum();
        let mut random = Random(sizes.seed ^ 7);
        let alphas = random.numbers(factors * sizes.classes, sizes.coarse);
        let norms: Vec<f32> = (0..sizes.records()).map(|_| random.below(4) as f32 / 2.0).collect();
        let rows = |random: &mut Random| -> Vec<(Vec<f32>, usize)> {
            (0..=random.below(4)).map(|_| (random.numbers(sizes.width, sizes.coarse), random.below(sizes.classes))).collect()
        };
        let queries: Vec<Query> = (0..count).map(|_| Query::classes(&rows(&mut random), 1.0, 4)).collect();
        check(&source, &Form::representer(&alphas).of_terms(&[4]), &queries, "representer");
        let v = |random: &mut Random| random.numbers(sizes.classes * (sizes.width + 1), sizes.coarse);
        let queries: Vec<Query> = (0..count).map(|_| Query::bilinear(&v(&mut random), sizes.width)).collect();
        check(&source, &Form::bilinear(sizes.classes), &queries, "influence");
        check(&source, &Form::bilinear(sizes.classes).over(&norms), &queries, "relatif");
    }

    #[test]
    fn groups_selections_and_rankings_hold_the_same_scores(sizes in sizes()) {
        let source = sizes.source();
        let (queries, terms) = Query::bundles(&sizes.asked(3, 1));
        let form = Form::grad_dot().of_terms(&terms);
        let (n, k) = (sizes.records(), sizes.records().max(1));
        let all = search(&source, &form, &queries, k, &Options::default()).unwrap();
        let rows = RowSet::new(n, |row| row % 3 != 1);
        let some = search(&Selected { source: &source, rows: &rows }, &form, &queries, k, &Options::default()).unwrap();
        let groups = Groups::new(2, (0..n).map(|row| Some(u32::from(row % 3 == 1))));
        let grouped = search_groups(&source, &form, &queries, k, &groups, &Options::default()).unwrap();
        for (q, hits) in all.iter().enumerate() {
            let kept: Vec<_> = hits.proponents.iter().filter(|hit| rows.contains(hit.row as usize)).copied().collect();
            prop_assert_eq!(bits(&some[q].proponents), bits(&kept));
            prop_assert_eq!(bits(&grouped[q][0].hits.proponents), bits(&kept));
        }
        rank(&source, &form, &queries, &Options { memory: 1 << 12, ..Options::default() }, |q, ranking| {
            let hits: Vec<_> = ranking.hits(End::Proponents)?.collect::<Result<_, _>>()?;
            assert_eq!(bits(&hits), bits(&all[q].proponents));
            Ok(())
        }).unwrap();
    }
}

#[test]
fn parts_of_a_score_are_the_factors_own() {
    let sizes = Sizes { seed: 5, shards: vec![3, 4], width: 3, classes: 2, most: 3, coarse: true, biased: true };
    let source = sizes.source();
    let (queries, terms) = Query::bundles(&sizes.asked(2, 1));
    let form = Form::grad_dot().of_terms(&terms);
    for shard in 0..2 {
        for row in 0..source.rows(shard) {
            let parts = score_parts(&source, &form, &queries[0], shard, row);
            let offsets = &source.0[shard].offsets;
            assert_eq!(parts.len() as u64, offsets[row + 1] - offsets[row]);
            // Multiples of 1/2 add up exactly.
            let whole = wherefore::search::score(&source, &form, &queries[0], shard, row);
            assert_eq!(parts.iter().fold(0.0, |sum, part| sum + part).to_bits(), (whole + 0.0).to_bits());
        }
    }
    let means = Form::feature_dot().over_means();
    assert!(score_parts(&source, &means, &Query::feature(vec![1.0; 3]), 0, 0).is_empty());
}

/// Devices add up what the CPU adds up, in the same order; groups, selections and numbers given for factors and records
/// are the records'.
#[test]
fn devices_find_what_the_definition_says() {
    let gpus = emulator::gpus(2, Precision::F32);
    let all: Vec<&Gpu> = gpus.iter().collect();
    for (seed, shards, width, classes, most, devices) in [
        (61, vec![90, 0, 70], 33, 3, 5, &all[..1]),
        (62, vec![1, 300], 16, 1, 9, &all[..]),
        (63, vec![1_200], 4, 2, 2, &all[..1]),
    ] {
        for (coarse, biased) in [(false, true), (true, false)] {
            let sizes = Sizes { seed, shards: shards.clone(), width, classes, most, coarse, biased };
            let source = sizes.source();
            for (name, form, queries) in cases(&sizes, 9) {
                check_on(devices, &source, &form, &queries, name);
            }
            let factors: usize = source.0.iter().map(|part| part.offsets[part.offsets.len() - 1] as usize).sum();
            let mut random = Random(seed);
            let alphas = random.numbers(factors * classes, coarse);
            let norms: Vec<f32> = (0..sizes.records()).map(|_| random.below(4) as f32 / 2.0).collect();
            let row = |random: &mut Random| vec![(random.numbers(width, coarse), random.below(classes))];
            let queries: Vec<Query> = (0..3).map(|_| Query::classes(&row(&mut random), 1.0, 1)).collect();
            check_on(devices, &source, &Form::representer(&alphas), &queries, "representer");
            let queries = [Query::bilinear(&random.numbers(classes * (width + 1), coarse), width)];
            check_on(devices, &source, &Form::bilinear(classes).over(&norms), &queries, "relatif");
        }
    }
}

#[test]
fn devices_group_and_select_records_of_several_factors() {
    let gpus = emulator::gpus(2, Precision::F32);
    let sizes = Sizes { seed: 64, shards: vec![150, 90], width: 20, classes: 2, most: 4, coarse: true, biased: true };
    let source = sizes.source();
    for (devices, groups) in [(&gpus[..1], 3), (&gpus[..], 40)] {
        let devices: Vec<&Gpu> = devices.iter().collect();
        let of_rows = (0..240).map(|row| Some(Random(row).below(groups) as u32).filter(|group| *group != 1));
        let groups = Groups::new(groups, of_rows);
        let rows = RowSet::new(240, |row| row % 3 != 1);
        let some = Selected { source: &source, rows: &rows };
        let (cpu, gpu) = (Options::default(), Options { devices: &devices, ..Options::default() });
        for (name, form, queries) in cases(&sizes, 3) {
            let expected = search_groups(&some, &form, &queries, 5, &groups, &cpu).unwrap();
            assert!(search_groups(&some, &form, &queries, 5, &groups, &gpu).unwrap() == expected, "{name}");
            let expected = search(&some, &form, &queries, 30, &cpu).unwrap();
            assert!(search(&some, &form, &queries, 30, &gpu).unwrap() == expected, "{name}");
        }
    }
}
