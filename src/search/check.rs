//! Searches on a device against the CPU's, on drawn factors: what `doctor` runs on the user's own machine.

use half::{bf16, f16};

use super::{FactorSet, Form, GroupHits, Groups, Hits, Options, Query, Source, search, search_groups};
use crate::backend::check::{Check, numbers};
use crate::backend::cpu::dot;
use crate::backend::gpu::Gpu;
use crate::backend::{Backend, Precision};
use crate::error::Result;
use crate::factors::{FactorRows, Floats};

/// N: more than a device keeps before it knows what to keep.
const ROWS: usize = 1_700;
/// E: no multiple of a vector's width, and one whose rows are multiplied as they are stored.
const WIDTHS: [usize; 2] = [90, 96];
/// K
const CLASSES: usize = 3;
/// Factors of a record, where records have several.
const FACTORS: usize = 2;
const K: usize = 10;
/// Queries of a search: one; some; so many that scores are bound first; so many that this is by `wgmma` where there is
/// such.
const QUERIES: [usize; 4] = [1, 5, 40, 70];

/// Factors of no model.
struct Drawn {
    width: usize,
    features: Features,
    deltas: Vec<f32>,
    feature_norms: Vec<f32>,
    delta_norms: Vec<f32>,
    offsets: Option<Vec<u64>>,
}

enum Features {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
}

impl Features {
    fn floats(&self) -> Floats<'_> {
        match self {
            Self::F32(values) => Floats::F32(values),
            Self::F16(values) => Floats::F16(values),
            Self::Bf16(values) => Floats::Bf16(values),
        }
    }
}

impl Drawn {
    /// Stored in 16 bits where the precision has those.
    fn new(precision: Precision, width: usize, factors_of_a_record: Option<usize>) -> Self {
        let drawn = numbers(ROWS * width, 1);
        let features = match precision {
            Precision::F16 => Features::F16(drawn.into_iter().map(f16::from_f32).collect()),
            Precision::Bf16 => Features::Bf16(drawn.into_iter().map(bf16::from_f32).collect()),
            _ => Features::F32(drawn),
        };
        let deltas = numbers(ROWS * CLASSES, 2);
        let norms = |values: &[f32], width: usize| values.chunks_exact(width).map(|row| dot(row, row).sqrt()).collect();
        Self {
            width,
            feature_norms: norms(&features.floats().to_f32(), width),
            delta_norms: norms(&deltas, CLASSES),
            offsets: factors_of_a_record.map(|count| (0..=ROWS as u64).step_by(count).collect()),
            features,
            deltas,
        }
    }
}

impl Source for Drawn {
    fn shards(&self) -> usize {
        1
    }

    fn rows(&self, _shard: usize) -> usize {
        self.offsets.as_ref().map_or(ROWS, |offsets| offsets.len() - 1)
    }

    fn factors(&self, _shard: usize, set: FactorSet) -> Option<FactorRows<'_>> {
        (set == FactorSet::Final).then(|| FactorRows {
            rows: ROWS,
            width: self.width,
            classes: CLASSES,
            features: self.features.floats(),
            deltas: &self.deltas,
            feature_norms: &self.feature_norms,
            delta_norms: &self.delta_norms,
        })
    }

    fn factor_offsets(&self, _shard: usize, _set: FactorSet) -> Option<&[u64]> {
        self.offsets.as_deref()
    }

    fn index(&self, _shard: usize, row: usize) -> u64 {
        row as u64
    }
}

/// Runs searches of every kind on `gpu` and on the CPU: an error is the share of results that are not the same, to the
/// bit.
///
/// # Errors
/// Where the device fails.
pub fn check(gpu: &Gpu) -> Result<Vec<Check>> {
    let [one, some, bounded, most] = QUERIES;
    let [odd, even] = WIDTHS;
    let drawn = |width, factors| Drawn::new(gpu.precision(), width, factors);
    let (single, stored, several) = (drawn(odd, None), drawn(even, None), drawn(odd, Some(FACTORS)));
    let gradients = |count: usize| -> Vec<Query> {
        let numbers = |len: usize, number: usize| numbers(len, 10 + number as u64);
        (0..count).map(|number| Query::gradient(numbers(odd, number), numbers(CLASSES, 500 + number))).collect()
    };
    let features = |count: usize, width: usize| -> Vec<Query> {
        (0..count).map(|number| Query::feature(numbers(width, 10 + number as u64))).collect()
    };
    let bilinear = |count: usize| -> Vec<Query> {
        let own = |number| numbers(CLASSES * (odd + 1), 10 + number as u64);
        (0..count).map(|number| Query::bilinear(&own(number), odd)).collect()
    };
    let groups = Groups::new(3, (0..ROWS).map(|row| Some((row * 7 % 3) as u32)));
    let cpu = Options::default();
    let devices = [gpu];
    let device = Options { devices: &devices, ..cpu };
    let hits = |source: &Drawn, form: &Form<'_>, queries: &[Query]| -> Result<f64> {
        let [found, expected] = [&device, &cpu].map(|options| search(source, form, queries, K, options));
        Ok(share(&found?, &expected?, |a: &Hits, b: &Hits| {
            (&a.proponents, &a.opponents) == (&b.proponents, &b.opponents)
        }))
    };
    let in_groups = || -> Result<f64> {
        let (form, queries) = (Form::grad_dot(), gradients(some));
        let [found, expected] =
            [&device, &cpu].map(|options| search_groups(&single, &form, &queries, K, &groups, options));
        Ok(share(&found?.concat(), &expected?.concat(), GroupHits::eq))
    };
    let errors = [
        ("search (one query)", hits(&single, &Form::grad_dot(), &gradients(one))?),
        ("search (some queries)", hits(&single, &Form::feature_euc(), &features(some, odd))?),
        ("search (bounds)", hits(&single, &Form::grad_cos(), &gradients(bounded))?),
        ("search (bounds of many queries)", hits(&stored, &Form::feature_cos(), &features(most, even))?),
        ("search (bounds of several terms)", hits(&single, &Form::bilinear(CLASSES), &bilinear(bounded))?),
        ("search (groups)", in_groups()?),
        ("search (several factors a record)", hits(&several, &Form::grad_dot(), &gradients(some))?),
    ];
    Ok(errors.map(|(operation, error)| Check { operation: operation.to_owned(), error, bound: 0.0 }).to_vec())
}

/// How many of these are not `equal`, of all.
fn share<T>(found: &[T], expected: &[T], equal: impl Fn(&T, &T) -> bool) -> f64 {
    let wrong = found.iter().zip(expected).filter(|(found, expected)| !equal(found, expected)).count();
    (wrong + found.len().abs_diff(expected.len())) as f64 / expected.len().max(1) as f64
}
