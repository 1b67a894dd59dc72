//! The search on the (emulated) GPU gives what the CPU's gives, to the bit.

use wherefore::backend::Precision;
use wherefore::backend::gpu::Gpu;
use wherefore::factors::{FactorRows, Floats};
use wherefore::search::{Form, Options, Query, search};

use super::data::{Data, Dtype, Sizes, bits};
use crate::emulator;

fn sizes(seed: u64, [rows, width, classes, shards]: [usize; 4], dtype: Dtype, coarse: bool) -> Sizes {
    Sizes { seed, rows, width, classes, shards, dtype, coarse, backwards: seed.is_multiple_of(2) }
}

/// Compares a search on the device with that on the CPU.
fn check(gpu: &Gpu, data: &Data, queries: usize, k: usize) {
    let views = data.views();
    for (name, form) in data.forms() {
        let queries = data.queries(name, queries);
        let expected = search(views.as_slice(), &form, &queries, k, &Options::default()).unwrap();
        let options = Options { device: Some(gpu), ..Options::default() };
        let found = search(views.as_slice(), &form, &queries, k, &options).unwrap();
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(bits(&found.proponents), bits(&expected.proponents), "{name}, {:?}, k {k}", data.sizes);
            assert_eq!(bits(&found.opponents), bits(&expected.opponents), "{name}, {:?}, k {k}", data.sizes);
        }
    }
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
    let found = search(&source, &form, &query, 300, &Options { device: Some(&gpu), ..Options::default() }).unwrap();
    assert_eq!(found, expected);
}

/// Overflows, products of nothing and infinity, and vectors of nothing: no NaN, no −0, as [`wherefore::search::score`] says.
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
        let found = search(&source, &form, &query, 6, &Options { device: Some(&gpu), ..Options::default() }).unwrap();
        assert_eq!(bits(&found[0].proponents), bits(&expected[0].proponents), "{form:?}");
        assert_eq!(bits(&found[0].opponents), bits(&expected[0].opponents), "{form:?}");
    }
}
