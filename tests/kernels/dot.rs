//! The canonical dot product and squared distance.

use super::support::{Numbers, bits};
use proptest::prelude::*;
use wherefore::backend::cpu::{
    Isa, Tile, dot, dot_on, dot_tile, dot_tile_on, squared_distance, squared_distance_on, squared_distance_tile_on,
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_tile_gives_each_pair_the_bits_of_the_pair_alone(
        n_queries in 0usize..14, n_rows in 0usize..21, width in 0usize..80, seed: u64,
    ) {
        let mut numbers = Numbers::new(seed);
        let queries = numbers.vector(n_queries * width, 2.0);
        let rows = numbers.vector(n_rows * width, 2.0);
        let tile = Tile { n_queries, n_rows, width };
        for isa in Isa::all() {
            let mut dots = vec![f32::NAN; n_queries * n_rows];
            let mut distances = dots.clone();
            dot_tile_on(isa, &mut dots, &queries, &rows, tile);
            squared_distance_tile_on(isa, &mut distances, &queries, &rows, tile);
            for q in 0..n_queries {
                for r in 0..n_rows {
                    let (query, row) = (&queries[q * width..][..width], &rows[r * width..][..width]);
                    prop_assert_eq!(dots[q * n_rows + r].to_bits(), dot(query, row).to_bits());
                    prop_assert_eq!(distances[q * n_rows + r].to_bits(), squared_distance(query, row).to_bits());
                }
            }
        }
    }
}

#[test]
fn a_tile_of_many_rows_is_split_without_a_seam() {
    let mut numbers = Numbers::new(5);
    let (queries, rows) = (numbers.vector(5 * 700, 1.0), numbers.vector(53 * 700, 1.0));
    let mut scores = vec![0.0; 5 * 53];
    dot_tile(&mut scores, &queries, &rows, 5, 53, 700);
    let pairs = queries.chunks(700).flat_map(|q| rows.chunks(700).map(move |r| dot(q, r)));
    assert_eq!(bits(&scores), bits(&pairs.collect::<Vec<_>>()));
}
