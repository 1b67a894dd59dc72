//! Scoring rules over training factors, and exact two-ended top-k search.
//!
//! Every score is computed, none estimated: a search is one pass over all records, in tiles of records × queries that
//! stay in cache, with both ends of each query's ranking kept as scores stream past, so that the N × Q matrix never
//! exists. There is no index structure to build and nothing approximate to tune. This module knows no model, text or
//! label: a pipeline brings queries as vectors, and looks up what the hits' rows are.
//!
//! **Same bits**: a pair's score is [`score`], f32 operations of a stated order. It doesn't depend on which records or
//! queries are scored with it, on the shards' cuts, on threads, or on the machine's vector width; ties go to the lower
//! index.
//!
//! **Certified scans**: many queries are multiplied with the records as one matrix product, in an order of sums that is
//! faster than a score's own, and of numbers rounded to bf16 where the machine multiplies those; the scan keeps what
//! may belong to either end by proven bounds, and computes those scores alone: the same results, to the bit. Where a
//! source has a copy of its features in fewer bits ([`Source::scan`]), the scan reads that in their place. Where the
//! features themselves were rounded to be stored ([`Source::residuals`]), [`Hits::certificate`] tells how many of the
//! hits are certain by the features as they were.
//!
//! **A source with itself**: [`search_mutual`] asks for each record by rules whose scores are the same both ways round,
//! from half of the products.
//!
//! # Rules
//!
//! | [`Rule`] | [`Form`] | [`Query`] | needs |
//! |---|---|---|---|
//! | feature-dot, -cos, -euc | [`Form::feature_dot`], … | [`Query::feature`] | h |
//! | grad-dot, grad-cos | [`Form::grad_dot`], … | [`Query::gradient`] | h and δ |
//! | representer | [`Form::representer`] | [`Query::class`] | α of the refit |
//! | tracin | [`Form::tracin`] | [`Query::checkpoints`] | h and δ under each checkpoint |
//! | influence | [`Form::bilinear`] | [`Query::bilinear`] | V = (H + λI)⁻¹ g_q |
//! | influence, Kronecker | [`Form::grad_dot`] | [`Query::transformed`] | both sides of g_q transformed |
//! | projected-dot, -cos | [`Form::grad_dot`], [`Form::feature_cos`] | [`Query::transformed`], [`Query::feature`] | φ and the slope of the loss |
//! | trak | [`Form::ensemble`] | [`Query::members`] | (ΦᵀΦ + λI)⁻¹ φ_q for each member |
//! | less | [`Form::tracin`] | [`Query::members`] | the unit vectors of −φ_q and of adapted gradients, under each checkpoint |
//! | loss, bm25 | [`Form::scored`] | [`Query::numbered`] | a [`Scorer`] |
//! | relatif | either, [`Form::over`] norms | as influence | √(g_iᵀ (H + λI)⁻¹ g_i) |
//!
//! # Example
//!
//! ```
//! use wherefore::factors::{FactorRows, Floats};
//! use wherefore::search::{search, Form, Options, Query};
//!
//! // Three records of a model with E = 2 features and K = 2 classes.
//! let source = FactorRows {
//!     rows: 3,
//!     width: 2,
//!     classes: 2,
//!     features: Floats::F32(&[1.0, 0.0, 0.0, 1.0, 2.0, 0.0]),
//!     deltas: &[0.5, -0.5, 0.5, -0.5, -0.25, 0.25],
//!     feature_norms: &[1.0, 1.0, 2.0],
//!     delta_norms: &[0.5_f32.sqrt(), 0.5_f32.sqrt(), 0.125_f32.sqrt()],
//! };
//! let query = Query::gradient(vec![3.0, 0.0], vec![0.5, -0.5]);
//! let hits = search(&source, &Form::grad_dot(), &[query], 1, &Options::default())?;
//! assert_eq!((hits[0].proponents[0].index, hits[0].proponents[0].score), (0, 2.0)); // 0.5 · (3 + 1)
//! assert_eq!((hits[0].opponents[0].index, hits[0].opponents[0].score), (2, -1.75)); // −0.25 · (6 + 1)
//! # Ok::<(), wherefore::Error>(())
//! ```

mod bounds;
mod certificate;
mod certified;
mod check;
mod device;
mod each_factor;
mod error_bars;
mod finish;
mod form;
mod groups;
mod merge;
mod mutual;
mod pair;
mod query;
mod ranking;
mod rows;
mod rule;
mod runs;
mod scan;
mod scorer;
mod scores;
mod shape;
mod source;
mod sum;
mod term;
mod tile;
mod topk;

pub use certificate::{Certainty, Certificate};
pub use check::check;
pub use device::FEWEST_BOUNDED;
pub use each_factor::EachFactor;
pub use error_bars::{ErrorBar, ErrorBars, Scored};
pub use form::Form;
pub use groups::{GroupHits, search_groups};
pub use mutual::{MutualHits, search_mutual};
pub use pair::{score, score_parts};
pub use query::Query;
pub use ranking::{Ranking, rank};
pub use rows::{Groups, RowSet};
pub use rule::Rule;
pub use scorer::{Losses, Scorer};
pub use scores::scores;
pub use source::{FactorSet, Selected, Source, View, stored_bundle};
pub use topk::{End, Hit, Hits, TwoEnded};

use std::path::Path;

use crate::backend::gpu::Gpu;
use crate::error::Result;
use certified::Basis;
use scan::{Progress, Sink, scan};
use shape::Shape;
use tile::{PackedQueries, Purpose, Span};

/// How to run a search; nothing here changes a result.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// Bytes for collectors, packed queries and runs. As many queries share a pass as fit, one at the least; a source
    /// that is larger has its shards released as they are done with.
    pub memory: usize,
    /// Records scored together; by default as many as fit the cache.
    pub tile_rows: Option<usize>,
    /// Told from any thread how many records have been passed over, and how many will be over all passes; `false` stops
    /// the search with [`crate::Error::Interrupted`].
    pub progress: Option<&'a (dyn Fn(u64, u64) -> bool + Sync)>,
    /// GPUs to search on together, where they can; by default the CPU.
    pub devices: &'a [&'a Gpu],
    /// Where full rankings spill what does not fit into memory; by default the system's folder for temporary files.
    pub temporary: Option<&'a Path>,
    /// What bounds on scores may be computed from.
    pub bounds: Bounds,
}

/// What bounds on scores are computed from, for most records to be left out by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bounds {
    /// Products of numbers rounded to bf16, where the machine is faster with those; where they leave out too little, as
    /// [`Bounds::Single`].
    #[default]
    Half,
    /// Products in f32.
    Single,
    /// There are none: every score is computed.
    Unused,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self {
            memory: 1 << 30,
            tile_rows: None,
            progress: None,
            devices: &[],
            temporary: None,
            bounds: Bounds::default(),
        }
    }
}

/// The `k` records that most support and the `k` that most oppose each query, min(k, N) of each, by scoring every
/// record of `source`.
///
/// The work is shared by the current thread pool. For a full ranking, or ends too long for memory, see [`rank`].
///
/// # Errors
/// A `k` of 0, or queries, form and source that do not belong together; [`crate::Error::Interrupted`].
pub fn search<S: Source + ?Sized>(
    source: &S,
    form: &Form<'_>,
    queries: &[Query],
    k: usize,
    options: &Options<'_>,
) -> Result<Vec<Hits>> {
    let shape = Shape::of(source, form, queries)?;
    let k = shape.top_k(k)?;
    if shape.selected == 0 {
        return Ok(vec![Hits::default(); queries.len()]);
    }
    let on_devices = device::Job { source, form, shape, k, groups: None, options };
    if let Some(found) = on_devices.run(queries)? {
        return Ok(found.into_iter().flatten().map(|all| all.hits).collect());
    }
    let workers = rayon::current_num_threads();
    let basis = Basis::of(source, form, shape, k, queries).filter(|_| options.bounds != Bounds::Unused);
    let candidates = basis.map_or(0, |_| certified::query_bytes(k));
    let batch = batch_size(options.memory, workers * TwoEnded::bytes(k) + query_bytes(form, shape) + candidates);
    let progress = Progress::new(options, shape.rows, queries.len().div_ceil(batch));
    let mut hits = Vec::with_capacity(queries.len());
    'batches: for queries in queries.chunks(batch) {
        let attempts =
            |&basis: &Basis| basis.attempts(source, options.bounds).iter().map(move |&purpose| (basis, purpose));
        for attempt in basis.iter().flat_map(attempts) {
            if let Some(found) = certified::search(source, form, shape, queries, k, attempt, &progress)? {
                hits.extend(found);
                continue 'batches;
            }
        }
        let packed = pack(form, queries, shape, Purpose::Scores);
        let collectors = scan(source, form, shape, &packed, &progress, || Collectors::new(packed.len(), k))?;
        hits.extend(merge(collectors));
    }
    Ok(hits)
}

fn pack(form: &Form<'_>, queries: &[Query], shape: Shape, purpose: Purpose) -> PackedQueries {
    let queries: Vec<_> = queries.iter().map(|query| form.prepare(query)).collect();
    PackedQueries::new(form, &queries, shape.width, purpose)
}

/// Bytes of one packed query.
fn query_bytes(form: &Form<'_>, shape: Shape) -> usize {
    form.passes.len() * (shape.width + shape.classes + 8) * size_of::<f32>()
}

/// How many queries of `bytes` each share a pass.
fn batch_size(memory: usize, bytes: usize) -> usize {
    (memory / bytes.max(1)).max(1)
}

/// One worker's top-k of each query of a batch.
struct Collectors(Vec<TwoEnded>);

impl Collectors {
    fn new(queries: usize, k: usize) -> Self {
        Self((0..queries).map(|_| TwoEnded::new(k)).collect())
    }
}

impl Sink for Collectors {
    fn take<S: Source + ?Sized>(&mut self, source: &S, query: usize, span: Span, scores: &[f32]) -> Result<()> {
        let selection = source.selection();
        self.0[query].offer_all(scores, |i| {
            let wanted = selection.is_none_or(|rows| rows.contains(span.global + i));
            wanted.then(|| span.hit(source, i, scores[i]))
        });
        Ok(())
    }
}

/// The workers' collectors, query by query, as hits.
fn merge(collectors: Vec<Collectors>) -> impl Iterator<Item = Hits> {
    let merged = collectors.into_iter().reduce(|mut all, worker| {
        all.0.iter_mut().zip(worker.0).for_each(|(all, one)| all.merge(one));
        all
    });
    merged.into_iter().flat_map(|all| all.0).map(TwoEnded::into_hits)
}
