//! The canonical dot product and squared distance.

use super::support::{Numbers, bits};
use proptest::prelude::*;
use std::ops::Range;
use wherefore::backend::cpu::{
    HalvedQueries, HalvedRows, Int8Rows, IntegerQueries, Isa, Lined, Panels, Stream, Tile, dot, dot_on, dot_stream_on,
    dot_tile, dot_tile_on, halved_products, integer_products_on, panel_products, squared_distance, squared_distance_on,
    squared_distance_stream_on, squared_distance_tile_on,
};

const WIDTHS: [usize; 12] = [0, 1, 7, 15, 16, 17, 31, 33, 48, 100, 384, 1027];

/// γ_n of Higham for n roundings in f32.
fn gamma(n: usize) -> f64 {
    let u = f64::from(f32::EPSILON) / 2.0;
    n as f64 * u / (1.0 - n as f64 * u)
}

fn wide(values: &[f32]) -> impl Iterator<Item = f64> + '_ {
    values.iter().map(|&x| f64::from(x))
}

#[test]
fn dot_is_within_its_stated_bound() {
    let mut numbers = Numbers::new(1);
    for width in WIDTHS {
        for scale in [1e-20, 1.0, 1e15] {
            let (a, b) = (numbers.vector(width, scale), numbers.vector(width, scale));
            let exact: f64 = wide(&a).zip(wide(&b)).map(|(a, b)| a * b).sum();
            let magnitude: f64 = wide(&a).zip(wide(&b)).map(|(a, b)| (a * b).abs()).sum();
            let floor = width as f64 * f64::from(f32::from_bits(1)); // each rounding may be to a subnormal
            let bound = gamma(width.div_ceil(16) + 4) * magnitude + floor;
            assert!((f64::from(dot(&a, &b)) - exact).abs() <= bound, "width {width}, scale {scale}");
        }
    }
}

#[test]
fn squared_distance_does_not_cancel_between_near_duplicates() {
    let mut numbers = Numbers::new(2);
    for width in WIDTHS {
        let a = numbers.vector(width, 100.0);
        let b: Vec<f32> = a.iter().map(|x| x + numbers.uniform() * 1e-3).collect();
        let exact: f64 = wide(&a).zip(wide(&b)).map(|(a, b)| (a - b) * (a - b)).sum();
        let error = (f64::from(squared_distance(&a, &b)) - exact).abs();
        assert!(error <= gamma(width.div_ceil(16) + 4 + 2) * exact, "width {width}");
    }
}

#[test]
fn every_instruction_set_gives_the_same_bits() {
    let mut numbers = Numbers::new(3);
    for width in WIDTHS {
        let (a, b) = (numbers.vector(width, 3.0), numbers.vector(width, 3.0));
        for isa in Isa::all() {
            assert_eq!(dot_on(isa, &a, &b).to_bits(), dot(&a, &b).to_bits(), "{} {width}", isa.name());
            let distance = squared_distance_on(isa, &a, &b);
            assert_eq!(distance.to_bits(), squared_distance(&a, &b).to_bits(), "{} {width}", isa.name());
        }
    }
}

#[test]
fn infinities_and_nan_come_through() {
    assert_eq!(dot(&[f32::INFINITY, 1.0], &[1.0, 1.0]), f32::INFINITY);
    assert!(dot(&[f32::NAN], &[1.0]).is_nan());
    assert!(dot(&[f32::INFINITY; 20], &[0.0; 20]).is_nan());
    assert_eq!(squared_distance(&[f32::MAX], &[-f32::MAX]), f32::INFINITY);
}

/// Queries and rows as numbers, and every pair's value by its definition.
struct Pairs {
    queries: Vec<f32>,
    rows: Vec<f32>,
    sizes: Sizes,
}

#[derive(Clone, Copy, Debug)]
struct Sizes {
    queries: usize,
    rows: usize,
    width: usize,
}

impl Pairs {
    fn new(numbers: &mut Numbers, sizes: Sizes) -> Self {
        let Sizes { queries, rows, width } = sizes;
        Self { queries: numbers.vector(queries * width, 2.0), rows: numbers.vector(rows * width, 2.0), sizes }
    }

    /// Of the queries asked, row by row.
    fn alone(&self, asked: Range<usize>, of: impl Fn(&[f32], &[f32]) -> f32) -> Vec<u32> {
        let Sizes { rows, width, .. } = self.sizes;
        let vector = |values: &[f32], i: usize| values[i * width..][..width].to_vec();
        let pair = |(q, r)| of(&vector(&self.queries, q), &vector(&self.rows, r)).to_bits();
        asked.flat_map(|q| (0..rows).map(move |r| (q, r))).map(pair).collect()
    }

    /// Every way to compute many pairs together.
    fn assert_same_bits(&self, isa: Isa, asked: Range<usize>) {
        let Sizes { queries, rows, width } = self.sizes;
        let (dots, distances) = (self.alone(asked.clone(), dot), self.alone(asked.clone(), squared_distance));
        let (queries, lined) =
            (Lined::from_rows(&self.queries, queries, width), Lined::from_rows(&self.rows, rows, width));
        let tile = Tile { queries: &queries, asked: asked.clone(), rows: &lined, next: &self.rows };
        let stream = Stream { queries: &queries, asked, rows: self.rows.as_slice() };
        let mut out = vec![f32::NAN; dots.len()];
        dot_tile_on(isa, &mut out, tile.clone());
        assert_eq!(bits(&out), dots, "{} tile {:?}", isa.name(), self.sizes);
        squared_distance_tile_on(isa, &mut out, tile);
        assert_eq!(bits(&out), distances, "{} distances of a tile {:?}", isa.name(), self.sizes);
        dot_stream_on(isa, &mut out, stream.clone());
        assert_eq!(bits(&out), dots, "{} stream {:?}", isa.name(), self.sizes);
        squared_distance_stream_on(isa, &mut out, stream);
        assert_eq!(bits(&out), distances, "{} distances of a stream {:?}", isa.name(), self.sizes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn many_pairs_together_have_the_bits_of_each_alone(
        queries in 0usize..14, rows in 0usize..21, width in 0usize..80, skipped in 0usize..5, seed: u64,
    ) {
        let pairs = Pairs::new(&mut Numbers::new(seed), Sizes { queries, rows, width });
        for isa in Isa::all() {
            pairs.assert_same_bits(isa, skipped.min(queries)..queries);
        }
    }
}

#[test]
fn vectors_too_long_for_the_cache_are_summed_in_parts_without_a_seam() {
    for width in [512, 513, 700, 1024, 1600] {
        let pairs = Pairs::new(&mut Numbers::new(5), Sizes { queries: 7, rows: 19, width });
        for isa in Isa::all() {
            pairs.assert_same_bits(isa, 0..7);
        }
    }
}

#[test]
fn rows_lined_up_anew_leave_nothing_of_those_before() {
    let mut numbers = Numbers::new(6);
    let queries = numbers.vector(3 * 21, 1.0);
    let mut lined = Lined::from_rows(&numbers.vector(13 * 21, f32::INFINITY), 13, 21);
    let rows = numbers.vector(5 * 21, 1.0);
    lined.refill(&rows, 5);
    let mut out = vec![0.0; 15];
    let tile = Tile { queries: &Lined::from_rows(&queries, 3, 21), asked: 0..3, rows: &lined, next: &[] };
    dot_tile(&mut out, tile);
    let alone = queries.chunks(21).flat_map(|q| rows.chunks(21).map(move |r| dot(q, r)));
    assert_eq!(bits(&out), bits(&alone.collect::<Vec<_>>()));
}

#[test]
fn panel_products_are_within_their_stated_bound_and_the_same_on_every_instruction_set() {
    let mut numbers = Numbers::new(9);
    for width in WIDTHS {
        for (queries, rows) in [(1, 1), (31, 3), (32, 84), (33, 85), (70, 200)] {
            let (q, x) = (numbers.vector(queries * width, 3.0), numbers.vector(rows * width, 3.0));
            let asked = if queries > 64 { 64..queries } else { 0..queries };
            let found: Vec<Vec<f32>> = Isa::all()
                .into_iter()
                .map(|isa| {
                    let mut panels = Panels::new_on(isa, width);
                    (0..queries).for_each(|i| panels.push(&q[i * width..(i + 1) * width]));
                    let mut out = vec![f32::NAN; asked.len() * rows];
                    panel_products(&mut out, &panels, asked.clone(), &x);
                    out
                })
                .collect();
            for other in &found[1..] {
                assert_eq!(bits(other), bits(&found[0]), "{queries} × {rows} × {width}");
            }
            for (place, product) in found[0].iter().enumerate() {
                let (i, row) = (asked.start + place / rows, place % rows);
                let pair = || wide(&q[i * width..(i + 1) * width]).zip(wide(&x[row * width..(row + 1) * width]));
                let (exact, size): (f64, f64) =
                    (pair().map(|(a, b)| a * b).sum(), pair().map(|(a, b)| (a * b).abs()).sum());
                assert!((f64::from(*product) - exact).abs() <= gamma(width) * size, "{queries} × {rows} × {width}");
            }
        }
    }
}

#[test]
#[allow(clippy::print_stderr)]
fn halved_products_are_those_of_the_rounded_numbers_and_their_distances_are_told() {
    let mut numbers = Numbers::new(10);
    for width in WIDTHS.into_iter().filter(|&width| width > 0) {
        for (queries, rows) in [(1, 1), (15, 3), (28, 32), (29, 33), (70, 200)] {
            let (q, mut x) = (numbers.vector(queries * width, 3.0), numbers.vector(rows * width, 3.0));
            // What rounding takes to zero, and what has nothing to be rounded.
            x.iter_mut().step_by(7).for_each(|x| *x = 1e-40);
            x.iter_mut().step_by(11).for_each(|x| *x = 0.75);
            let Some(mut halved) = HalvedQueries::new(width) else {
                eprintln!("not tested: this machine has no product of bf16");
                return;
            };
            let told: Vec<f32> = q.chunks(width).map(|query| halved.push(query)).collect();
            let mut tile = HalvedRows::new(&halved);
            // Of other rows before.
            tile.refill(&numbers.vector(7 * width, 1.0));
            tile.refill(&x);
            let round = |x: &[f32]| -> Vec<f64> {
                let round = |x: &f32| if x.is_subnormal() { 0.0 } else { f64::from(half::bf16::from_f32(*x)) };
                x.iter().map(round).collect()
            };
            let check = |told: &[f32], of: &[f32]| {
                for (told, of) in told.iter().zip(of.chunks(width)) {
                    let moved: f64 = wide(of).zip(round(of)).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
                    assert!((moved..=moved * 1.001 + 2e-18).contains(&f64::from(*told)), "{moved} told as {told}");
                }
            };
            check(&told, &q);
            check(tile.residuals(), &x);
            let asked = queries / 3..queries;
            let mut out = vec![f32::NAN; asked.len() * tile.stride()];
            halved_products(&mut out, &halved, asked.clone(), &tile);
            for (i, out) in asked.zip(out.chunks(tile.stride())) {
                for (row, product) in out[..rows].iter().enumerate() {
                    let pairs = || round(&q[i * width..][..width]).into_iter().zip(round(&x[row * width..][..width]));
                    let (exact, size): (f64, f64) =
                        (pairs().map(|(a, b)| a * b).sum(), pairs().map(|(a, b)| (a * b).abs()).sum());
                    let bound = gamma(width) * size + width as f64 * 1e-37;
                    assert!((f64::from(*product) - exact).abs() <= bound, "{queries} × {rows} × {width}");
                }
            }
        }
    }
}

#[test]
fn halves_are_streamed_as_what_they_stand_for() {
    let mut numbers = Numbers::new(11);
    for width in WIDTHS {
        for (queries, rows) in [(1, 1), (2, 9), (5, 16)] {
            let q = Lined::from_rows(&numbers.vector(queries * width, 3.0), queries, width);
            let mut x = numbers.vector(rows * width, 3.0);
            // Of the smallest kind in either type.
            x.iter_mut().step_by(7).for_each(|x| *x = 3e-7);
            x.iter_mut().step_by(11).for_each(|x| *x = -1e-39);
            let f16s: Vec<_> = x.iter().map(|&x| half::f16::from_f32(x)).collect();
            let bf16s: Vec<_> = x.iter().map(|&x| half::bf16::from_f32(x)).collect();
            let of_f16: Vec<_> = f16s.iter().map(|x| x.to_f32()).collect();
            let of_bf16: Vec<_> = bf16s.iter().map(|x| x.to_f32()).collect();
            for isa in Isa::all() {
                let mut out = [(); 4].map(|()| vec![f32::NAN; queries * rows]);
                let asked = || 0..queries;
                dot_stream_on(isa, &mut out[0], Stream { queries: &q, asked: asked(), rows: f16s.as_slice() });
                dot_stream_on(isa, &mut out[1], Stream { queries: &q, asked: asked(), rows: of_f16.as_slice() });
                dot_stream_on(isa, &mut out[2], Stream { queries: &q, asked: asked(), rows: bf16s.as_slice() });
                dot_stream_on(isa, &mut out[3], Stream { queries: &q, asked: asked(), rows: of_bf16.as_slice() });
                assert_eq!(bits(&out[0]), bits(&out[1]), "f16 {queries} × {rows} × {width}");
                assert_eq!(bits(&out[2]), bits(&out[3]), "bf16 {queries} × {rows} × {width}");
                squared_distance_stream_on(
                    isa,
                    &mut out[0],
                    Stream { queries: &q, asked: asked(), rows: f16s.as_slice() },
                );
                squared_distance_stream_on(
                    isa,
                    &mut out[1],
                    Stream { queries: &q, asked: asked(), rows: of_f16.as_slice() },
                );
                assert_eq!(bits(&out[0]), bits(&out[1]), "f16 {queries} × {rows} × {width}");
            }
        }
    }
}

/// Rows of integers: any there can be, one row of the extremes alone.
struct Integers {
    values: Vec<i8>,
    scales: Vec<f32>,
    shares: Vec<f32>,
    center: Vec<f32>,
}

impl Integers {
    fn new(numbers: &mut Numbers, rows: usize, width: usize) -> Self {
        let mut values: Vec<i8> = (0..rows * width).map(|_| (numbers.below(255) as i32 - 127) as i8).collect();
        values[..width].iter_mut().enumerate().for_each(|(i, value)| *value = if i % 3 == 0 { -128 } else { 127 });
        let center = numbers.vector(width, 2.0);
        Self { values, scales: numbers.vector(rows, 0.1), shares: numbers.vector(rows, 1.0), center }
    }

    fn rows(&self) -> Int8Rows<'_> {
        let Self { values, scales, shares, center } = self;
        Int8Rows { values, scales, shares, center }
    }
}

#[test]
fn integers_are_streamed_as_what_they_stand_for() {
    let mut numbers = Numbers::new(12);
    for width in WIDTHS.into_iter().filter(|&width| width > 0) {
        for (queries, rows) in [(1, 1), (2, 9), (5, 16)] {
            let q = Lined::from_rows(&numbers.vector(queries * width, 3.0), queries, width);
            let x = Integers::new(&mut numbers, rows, width);
            let decoded = x.rows().to_f32();
            for (i, value) in decoded.iter().enumerate() {
                let (row, j) = (i / width, i % width);
                assert_eq!(*value, f32::from(x.values[i]).mul_add(x.scales[row], x.shares[row] * x.center[j]));
            }
            for isa in Isa::all() {
                let mut out = [(); 4].map(|()| vec![f32::NAN; queries * rows]);
                let asked = || 0..queries;
                dot_stream_on(isa, &mut out[0], Stream { queries: &q, asked: asked(), rows: x.rows() });
                dot_stream_on(isa, &mut out[1], Stream { queries: &q, asked: asked(), rows: decoded.as_slice() });
                squared_distance_stream_on(isa, &mut out[2], Stream { queries: &q, asked: asked(), rows: x.rows() });
                let rows = decoded.as_slice();
                squared_distance_stream_on(isa, &mut out[3], Stream { queries: &q, asked: asked(), rows });
                assert_eq!(bits(&out[0]), bits(&out[1]), "{queries} × {width}");
                assert_eq!(bits(&out[2]), bits(&out[3]), "{queries} × {width}");
            }
        }
    }
}

#[test]
fn products_of_integers_are_within_their_bound_and_the_same_everywhere() {
    let mut numbers = Numbers::new(13);
    for width in WIDTHS.into_iter().chain([8_192]).filter(|&width| width > 0) {
        for (queries, rows) in [(1, 1), (2, 9), (7, 21)] {
            let mut q = numbers.vector(queries * width, 3.0);
            q[0] = 3.0;
            let x = Integers::new(&mut numbers, rows, width);
            let mut held = IntegerQueries::new(width).expect("not too wide");
            let told: Vec<f32> = q.chunks(width).map(|query| held.push(query)).collect();
            let asked = queries / 3..queries;
            let found: Vec<Vec<f32>> = Isa::all()
                .into_iter()
                .map(|isa| {
                    let mut out = vec![f32::NAN; asked.len() * rows];
                    integer_products_on(isa, &mut out, &held, asked.clone(), x.rows());
                    out
                })
                .collect();
            for other in &found[1..] {
                assert_eq!(bits(other), bits(&found[0]), "{queries} × {rows} × {width}");
            }
            for (i, off) in told.iter().enumerate() {
                // Half a step of sixteen bits, in each place.
                let of_query = length(&q[i * width..][..width]);
                let most = of_query.max(3.0) * (width as f64).sqrt() / 65_000.0 + 1e-30;
                assert!(f64::from(*off) <= most, "{off} of {of_query}");
            }
            assert_within_bound(&found[0], (&q[asked.start * width..], &told[asked.start..]), &x, width);
        }
    }
    assert!(IntegerQueries::new(8_193).is_none() && IntegerQueries::new(0).is_none(), "their sums need not fit");
    // Nothing, and what is so small that its steps are not numbers.
    let mut held = IntegerQueries::new(2).expect("not too wide");
    assert!(held.push(&[0.0, 0.0]) >= 0.0 && held.push(&[1e-44, -1e-45]).is_finite());
}

fn length(x: &[f32]) -> f64 {
    wide(x).map(|x| x * x).sum::<f64>().sqrt()
}

/// Products are those of queries, known to be held so far off, with what the rows stand for.
fn assert_within_bound(products: &[f32], (queries, told): (&[f32], &[f32]), x: &Integers, width: usize) {
    let (rows, decoded) = (x.scales.len(), x.rows().to_f32());
    for (place, product) in products.iter().enumerate() {
        let (i, row) = (place / rows, place % rows);
        let (query, values) = (&queries[i * width..][..width], &decoded[row * width..][..width]);
        let exact: f64 = wide(query).zip(wide(values)).map(|(a, b)| a * b).sum();
        let share = f64::from(x.shares[row]).abs() * length(&x.center);
        let (of_query, of_row, off) = (length(query), length(values) + share, f64::from(told[i]));
        let bound = off * of_row + gamma(width.div_ceil(9) + 24) * (of_query + off) * of_row;
        // Each rounding of a number that is stored or given back may be to a subnormal.
        let floor = (1.0 + width as f64 * of_query) * f64::from(f32::from_bits(1));
        assert!((f64::from(*product) - exact).abs() <= bound + floor, "{product:e} for {exact:e}, {rows} × {width}");
    }
}

/// A row's share may make large again what is too small for an f32 between a query and the center.
#[test]
fn what_underflows_between_a_query_and_the_center_is_not_lost() {
    let mut numbers = Numbers::new(14);
    for (center, share, query) in
        [(1e-29, 1e13, 1e-17), (1e-30, 1e18, 1e-15), (1e-34, 1e26, 1e-11), (1e-38, 1e35, 1e-7), (1e20, 1e-3, 1e10)]
    {
        for width in [1, 4, 100] {
            let mut x = Integers::new(&mut numbers, 9, width);
            x.center = numbers.vector(width, center);
            x.shares = numbers.vector(9, share);
            x.scales = numbers.vector(9, center * share / 100.0);
            let q = numbers.vector(5 * width, query);
            let mut held = IntegerQueries::new(width).expect("not too wide");
            let told: Vec<f32> = q.chunks(width).map(|query| held.push(query)).collect();
            for isa in Isa::all() {
                let mut out = vec![f32::NAN; 5 * 9];
                integer_products_on(isa, &mut out, &held, 0..5, x.rows());
                assert_within_bound(&out, (&q, &told), &x, width);
            }
        }
    }
}
