//! Random training factors and queries, with what is awkward in real ones: ties, duplicates, zero vectors, odd sizes,
//! uneven shards.

use half::{bf16, f16};
use proptest::prelude::*;
use wherefore::backend::cpu::dot;
use wherefore::factors::{FactorRows, Floats, Int8};
use wherefore::search::{End, Form, Hit, Query, Source, View, score};

/// What a random case is made from; proptest shrinks it.
#[derive(Clone, Debug)]
pub(super) struct Sizes {
    pub(super) seed: u64,
    pub(super) rows: usize,
    pub(super) width: usize,
    pub(super) classes: usize,
    pub(super) shards: usize,
    pub(super) dtype: Dtype,
    /// Numbers are multiples of 1/2 up to 1: scores tie all over.
    pub(super) coarse: bool,
    /// Later rows have lower record numbers.
    pub(super) backwards: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Dtype {
    F32,
    F16,
    Bf16,
    Int8,
}

/// Sources of 0 to `rows` records of `classes`.
pub(super) fn sizes(rows: usize, classes: std::ops::RangeInclusive<usize>) -> impl Strategy<Value = Sizes> {
    let dtype = prop_oneof![Just(Dtype::F32), Just(Dtype::F16), Just(Dtype::Bf16), Just(Dtype::Int8)];
    let shape = (any::<u64>(), 0..=rows, 1..=100_usize, classes, 1..=4_usize);
    (shape, dtype, any::<bool>(), any::<bool>()).prop_map(
        |((seed, rows, width, classes, shards), dtype, coarse, backwards)| Sizes {
            seed,
            rows,
            width,
            classes,
            shards,
            dtype,
            coarse,
            backwards,
        },
    )
}

/// SplitMix64 (Steele, Lea & Flood 2014).
pub(super) struct Random(pub u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// In (−1, 1), or a multiple of 1/2.
    pub(super) fn number(&mut self, coarse: bool) -> f32 {
        if coarse { self.below(5) as f32 / 2.0 - 1.0 } else { (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0 }
    }

    pub(super) fn numbers(&mut self, n: usize, coarse: bool) -> Vec<f32> {
        (0..n).map(|_| self.number(coarse)).collect()
    }
}

/// Features as stored, in one of the types.
pub(super) enum Stored {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
    Int8(Int8),
}

impl Stored {
    fn new(values: Vec<f32>, width: usize, dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32(values),
            Dtype::F16 => Self::F16(values.into_iter().map(f16::from_f32).collect()),
            Dtype::Bf16 => Self::Bf16(values.into_iter().map(bf16::from_f32).collect()),
            Dtype::Int8 => {
                let mut rows = Int8::new(width);
                rows.extend(&values);
                Self::Int8(rows)
            }
        }
    }

    fn floats(&self) -> Floats<'_> {
        match self {
            Self::F32(values) => Floats::F32(values),
            Self::F16(values) => Floats::F16(values),
            Self::Bf16(values) => Floats::Bf16(values),
            Self::Int8(rows) => Floats::Int8(rows.rows()),
        }
    }
}

/// Factors of some records under one model.
pub(super) struct Factors {
    width: usize,
    classes: usize,
    rows: usize,
    features: Stored,
    /// The stored features, decoded.
    pub(super) values: Vec<f32>,
    pub(super) deltas: Vec<f32>,
    feature_norms: Vec<f32>,
    delta_norms: Vec<f32>,
}

impl Factors {
    pub(super) fn new(width: usize, features: Vec<f32>, deltas: Vec<f32>, dtype: Dtype) -> Self {
        let rows = features.len() / width;
        let classes = deltas.len() / rows.max(1);
        let features = Stored::new(features, width, dtype);
        let values = features.floats().to_f32();
        let norms = |values: &[f32], width: usize| match width {
            0 => vec![0.0; rows],
            _ => values.chunks_exact(width).map(|row| dot(row, row).sqrt()).collect(),
        };
        let (feature_norms, delta_norms) = (norms(&values, width), norms(&deltas, classes));
        Self { width, classes, rows, features, values, deltas, feature_norms, delta_norms }
    }

    /// Rows of nothing but features.
    pub(super) fn of_features(width: usize, features: Vec<f32>) -> Self {
        Self::new(width, features, Vec::new(), Dtype::F32)
    }

    /// The same, where no row tells how many classes there are.
    pub(super) fn of_classes(self, classes: usize) -> Self {
        Self { classes, ..self }
    }

    pub(super) fn view(&self) -> FactorRows<'_> {
        FactorRows {
            rows: self.rows,
            width: self.width,
            classes: self.classes,
            features: self.features.floats(),
            deltas: &self.deltas,
            feature_norms: &self.feature_norms,
            delta_norms: &self.delta_norms,
        }
    }
}

/// A source in memory: shards, each with factors of the final model and of two checkpoints.
pub(super) struct Data {
    pub(super) sizes: Sizes,
    pub(super) shards: Vec<Vec<Factors>>,
    pub(super) indices: Vec<Vec<u64>>,
    /// In place of δ, `[N, K]`.
    pub(super) alphas: Vec<f32>,
    /// Of records, `[N]`; some are 0.
    pub(super) norms: Vec<f32>,
}

pub(super) const RATES: [f32; 2] = [0.3, 0.7];

impl Data {
    pub(super) fn new(sizes: &Sizes) -> Self {
        let mut random = Random(sizes.seed);
        let sets: Vec<_> = (0..=RATES.len()).map(|_| awkward_rows(&mut random, sizes)).collect();
        // Its own stream: where records are cut changes nothing else.
        let cuts = cuts(&mut Random(!sizes.seed), sizes.rows, sizes.shards);
        let mut indices: Vec<u64> = (0..sizes.rows as u64).map(|i| 3 * i + 1).collect();
        if sizes.backwards {
            indices.reverse();
        }
        Self::cut(sizes, &sets, &indices, &cuts, &mut random)
    }

    fn cut(sizes: &Sizes, sets: &[Rows], indices: &[u64], cuts: &[usize], random: &mut Random) -> Self {
        let (width, classes) = (sizes.width, sizes.classes);
        let shard = |from: usize, to: usize| -> Vec<Factors> {
            let factors = |(h, delta): &Rows| {
                let (h, delta) = (&h[from * width..to * width], &delta[from * classes..to * classes]);
                Factors { classes, ..Factors::new(width, h.to_vec(), delta.to_vec(), sizes.dtype) }
            };
            sets.iter().map(factors).collect()
        };
        Self {
            sizes: sizes.clone(),
            shards: cuts.windows(2).map(|cut| shard(cut[0], cut[1])).collect(),
            indices: cuts.windows(2).map(|cut| indices[cut[0]..cut[1]].to_vec()).collect(),
            alphas: random.numbers(sizes.rows * classes, sizes.coarse),
            norms: (0..sizes.rows).map(|_| random.below(4) as f32 / 2.0).collect(),
        }
    }

    /// The same records cut otherwise.
    pub(super) fn recut(&self, shards: usize) -> Self {
        Self::new(&Sizes { shards, ..self.sizes.clone() })
    }

    pub(super) fn views(&self) -> Vec<View<'_>> {
        self.shards
            .iter()
            .zip(&self.indices)
            .map(|(sets, indices)| View {
                factors: sets[0].view(),
                checkpoints: sets[1..].iter().map(Factors::view).collect(),
                indices,
            })
            .collect()
    }

    /// Every form that these factors have, by name.
    pub(super) fn forms(&self) -> Vec<(&'static str, Form<'_>)> {
        let mut forms = vec![
            ("feature-dot", Form::feature_dot()),
            ("feature-cos", Form::feature_cos()),
            ("feature-euc", Form::feature_euc()),
        ];
        if self.sizes.classes > 0 {
            forms.extend([
                ("grad-dot", Form::grad_dot()),
                ("grad-cos", Form::grad_cos()),
                ("representer", Form::representer(&self.alphas)),
                ("tracin", Form::tracin(&RATES)),
                ("influence", Form::bilinear(self.sizes.classes)),
                ("relatif", Form::bilinear(self.sizes.classes).over(&self.norms)),
            ]);
        }
        forms
    }

    /// `count` random queries for a rule.
    pub(super) fn queries(&self, rule: &'static str, count: usize) -> Vec<Query> {
        self.asked(rule, count).iter().map(Asked::query).collect()
    }

    /// What `count` random queries for a rule are made of; every third has a training record's own factors.
    pub(super) fn asked(&self, rule: &'static str, count: usize) -> Vec<Asked> {
        let mut random = Random(self.sizes.seed ^ 0xD1FF);
        (0..count).map(|i| self.ask(rule, i % 3 == 0, &mut random)).collect()
    }

    fn ask(&self, rule: &'static str, own: bool, random: &mut Random) -> Asked {
        let Sizes { width, classes, coarse, .. } = self.sizes;
        let mut factors = |set: usize| match self.shards.iter().find(|shard| own && shard[set].rows > 0) {
            Some(shard) => (shard[set].values[..width].to_vec(), shard[set].deltas[..classes].to_vec()),
            None => (random.numbers(width, coarse), random.numbers(classes, coarse)),
        };
        let sets = (0..=RATES.len()).map(&mut factors).collect();
        Asked {
            rule,
            sets,
            class: random.below(classes.max(1)),
            bias: random.below(2) as f32,
            v: random.numbers(classes * (width + 1), coarse),
        }
    }
}

/// What a query is made of.
pub(super) struct Asked {
    pub(super) rule: &'static str,
    /// `(h [E], δ [K])` under the model and under each checkpoint.
    pub(super) sets: Vec<(Vec<f32>, Vec<f32>)>,
    pub(super) class: usize,
    pub(super) bias: f32,
    /// `[K, E + 1]`
    pub(super) v: Vec<f32>,
}

impl Asked {
    pub(super) fn query(&self) -> Query {
        let (h, delta) = self.sets[0].clone();
        match self.rule {
            "grad-dot" | "grad-cos" => Query::gradient(h, delta),
            "representer" => Query::class(h, self.bias, self.class),
            "tracin" => Query::checkpoints(self.sets[1..].to_vec()),
            "influence" | "relatif" => Query::bilinear(&self.v, h.len()),
            _ => Query::feature(h),
        }
    }
}

/// `(h [N, E], δ [N, K])`
type Rows = (Vec<f32>, Vec<f32>);

fn awkward_rows(random: &mut Random, sizes: &Sizes) -> Rows {
    let (mut features, mut deltas) = (Vec::new(), Vec::new());
    for row in 0..sizes.rows {
        let (h, delta) = match random.below(10) {
            0 => (vec![0.0; sizes.width], random.numbers(sizes.classes, sizes.coarse)),
            1 => (random.numbers(sizes.width, sizes.coarse), vec![0.0; sizes.classes]),
            2 if row > 0 => {
                (features[(row - 1) * sizes.width..].to_vec(), deltas[(row - 1) * sizes.classes..].to_vec())
            }
            _ => (random.numbers(sizes.width, sizes.coarse), random.numbers(sizes.classes, sizes.coarse)),
        };
        features.extend(h);
        deltas.extend(delta);
    }
    (features, deltas)
}

/// Where shards begin and end; some may be empty.
fn cuts(random: &mut Random, rows: usize, shards: usize) -> Vec<usize> {
    let mut cuts: Vec<usize> = (1..shards).map(|_| random.below(rows + 1)).chain([0, rows]).collect();
    cuts.sort_unstable();
    cuts
}

/// Every record's hit, by the definition, in the source's order.
pub(super) fn all_hits<S: Source + ?Sized>(source: &S, form: &Form<'_>, query: &Query) -> Vec<Hit> {
    let mut hits: Vec<Hit> = Vec::new();
    for shard in 0..source.shards() {
        for row in 0..source.rows(shard) {
            let score = score(source, form, query, shard, row);
            hits.push(Hit { row: hits.len() as u64, index: source.index(shard, row), score });
        }
    }
    hits
}

/// The first `k` of one end, by sorting everything.
pub(super) fn sorted(mut hits: Vec<Hit>, end: End, k: usize) -> Vec<Hit> {
    hits.sort_by_key(|hit| hit.index);
    match end {
        End::Proponents => hits.sort_by(|a, b| b.score.partial_cmp(&a.score).expect("no NaN")),
        End::Opponents => hits.sort_by(|a, b| a.score.partial_cmp(&b.score).expect("no NaN")),
    }
    hits.truncate(k);
    hits
}

/// Hits with their scores' bits, to be compared for equality.
pub(super) fn bits(hits: &[Hit]) -> Vec<(u64, u64, u32)> {
    hits.iter().map(|hit| (hit.row, hit.index, hit.score.to_bits())).collect()
}
