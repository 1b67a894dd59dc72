//! The same search on GPUs: rows stream to each device, a chunk on its way while the one before it is scored, and both
//! ends of each query's ranking in each group of rows are kept there. What there is room for stays on the device, for
//! the queries and searches to come.
//!
//! A device computes [`super::score`] operation by operation, so results are the CPU's, bit for bit, however many
//! devices share the rows. For many queries it computes bounds instead, from products of rounded numbers on tensor
//! cores, and the scores of those records alone that the bounds and the ends so far do not rule out. Where records have
//! several factors, each one's sum is computed, and added up to its record's. Ends longer than a device keeps are found
//! in passes, each after the last of the one before it. Scores that are not made of factors, factor sets of several
//! types, and ends of which passes would be many are left to the CPU.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use rayon::prelude::*;

use super::bounds::applies;
use super::certificate::Certificate;
use super::form::{Deltas, Form, Measure, RowNorm};
use super::pair::{gradient_norm, quotient, unit_columns};
use super::query::{Query, Weight};
use super::rows::Groups;
use super::scan::Progress;
use super::shape::Shape;
use super::source::Source;
use super::sum::ExactSum;
use super::topk::{End, Hit, Hits, TwoEnded};
use super::{Bounds, Options};
use crate::backend::gpu::{Asked, Chunk, Entry, FactorsOf, Found, Gpu, Key, MOST_KEPT, MOST_TERMS, Part, Weights};
use crate::error::{Error, Result};
use crate::factors::{FactorRows, Floats};

/// The fewest bytes of features that are copied to a device at a time where it has no room for more.
const FEWEST_CHUNK_BYTES: usize = 1 << 20;
/// Chunks that every device has at least of what is large: one is scanned while the next is on its way.
const CHUNKS: usize = 4;
/// What is not cut further for that.
const SMALL_BYTES: usize = 64 << 20;
/// Queries of one pass.
const MOST_QUERIES: usize = 2048;
/// Queries from which on bounds take no longer than scores. A tile of bounds is 64 queries wide, so that sixteen take
/// as long as 64 do (1.9 ms of a million rows of 768 numbers on an H200); every score of eight takes some 2.7 ms.
pub const FEWEST_BOUNDED: usize = 16;
/// Passes over the rows that are made for long ends; the CPU needs but one.
const MOST_PASSES: usize = 16;
/// Rows whose scores an exact sum takes without carrying.
const MOST_ROWS: usize = 1 << 30;

/// What a query found in one group of rows.
#[derive(Clone)]
pub(super) struct InGroup {
    pub(super) hits: Hits,
    pub(super) total: ExactSum,
}

/// What is searched for, checked already.
pub(super) struct Job<'a, S: ?Sized> {
    pub(super) source: &'a S,
    pub(super) form: &'a Form<'a>,
    pub(super) shape: Shape,
    pub(super) k: usize,
    /// All rows are one group where there are none.
    pub(super) groups: Option<&'a Groups>,
    pub(super) options: &'a Options<'a>,
}

impl<S: Source + ?Sized> Job<'_, S> {
    /// Whether devices can do this.
    fn is_possible(&self) -> bool {
        let Self { source, form, shape, .. } = *self;
        let mut kinds = (0..source.shards()).flat_map(|shard| {
            form.sets.iter().filter_map(move |&set| source.factors(shard, set)).map(|factors| kind(factors.features))
        });
        let first = kinds.next();
        form.scorer.is_none()
            && self.group_count() > 0
            && self.k <= MOST_PASSES * MOST_KEPT
            && shape.rows <= MOST_ROWS
            && kinds.all(|kind| Some(kind) == first)
            && !self.options.devices.is_empty()
            && self.options.devices.iter().all(|gpu| self.query_bytes() <= gpu.search_memory())
    }

    /// What each query found in each group, `[Q][G]`; `None` where there are no devices that can do this, or they have
    /// no memory for it.
    pub(super) fn run(&self, queries: &[Query]) -> Result<Option<Vec<Vec<InGroup>>>> {
        if !self.is_possible() {
            return Ok(None);
        }
        let options = self.options;
        let memory = options.devices.iter().map(|gpu| gpu.search_memory()).min().unwrap_or_default();
        let mut batch = (memory / self.query_bytes().max(1)).clamp(1, MOST_QUERIES);
        let passes = queries.len().div_ceil(batch) * self.k.div_ceil(MOST_KEPT);
        let progress = Progress::new(options, self.shape.rows, passes);
        let mut chunk_bytes = self.chunk_bytes();
        let mut found = Vec::with_capacity(queries.len());
        let search = Number(NEXT_SEARCH.fetch_add(1, Ordering::Relaxed));
        options.devices.iter().for_each(|gpu| gpu.begin_search());
        while found.len() < queries.len() {
            let some = &queries[found.len()..queries.len().min(found.len() + batch)];
            let pieces = self.pieces(search, chunk_bytes);
            let answers = self.on_devices(&pieces, some, &progress);
            if some.len() + found.len() == queries.len() || answers.is_err() {
                let passing: Vec<&Key> = pieces.iter().filter(|piece| piece.passing).map(|piece| &piece.key).collect();
                options.devices.iter().for_each(|gpu| gpu.forget(passing.iter().copied()));
            }
            match answers {
                Ok(answers) => found.extend(answers),
                // With less at a time there may be room.
                Err(Error::OutOfMemory(..)) if chunk_bytes > FEWEST_CHUNK_BYTES => {
                    (batch, chunk_bytes) = (batch.div_ceil(2), chunk_bytes / 2);
                }
                Err(Error::OutOfMemory(..)) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(Some(found))
    }

    fn chunk_bytes(&self) -> usize {
        let devices = self.options.devices;
        let most = devices.iter().map(|gpu| gpu.chunk_bytes()).min().unwrap_or(SMALL_BYTES);
        most.min((self.shape.bytes / (CHUNKS * devices.len().max(1))).max(SMALL_BYTES))
    }

    fn query_bytes(&self) -> usize {
        let Shape { width, classes, .. } = self.shape;
        self.group_count() * Gpu::search_bytes(self.k) + self.form.passes.len() * (width + classes + 8) * 4
    }

    fn group_count(&self) -> usize {
        self.groups.map_or(1, Groups::len)
    }

    /// The rows in pieces that are copied at a time, by their factors; those that nothing is selected from are left
    /// out.
    fn pieces(&self, search: Number, chunk_bytes: usize) -> Vec<Piece> {
        let Self { source, form, shape, .. } = *self;
        let row_bytes = (shape.width + shape.classes).max(1) * form.sets.len().max(1) * size_of::<f32>();
        let most = (chunk_bytes / row_bytes).max(1);
        let selection = source.selection();
        let mut pieces = Vec::new();
        let (mut first, mut before) = (0, 0);
        for shard in 0..source.shards() {
            let (rows, offsets) = (source.rows(shard), self.offsets(shard));
            let mut start = 0;
            while start < rows {
                let count = offsets.map_or(most.min(rows - start), |offsets| {
                    let most = offsets[start] + most as u64;
                    offsets[start + 1..].partition_point(|&end| end <= most).max(1)
                });
                let factors = offsets
                    .map_or(start..start + count, |offsets| offsets[start] as usize..offsets[start + count] as usize);
                let span = Span { shard, start, rows: count, first };
                let own = OwnFactors { first: before + factors.start, rows: factors };
                start += count;
                first += count;
                if selection.is_none_or(|rows| rows.count_in(span.first..first) > 0) {
                    pieces.push(Piece::new(source, form, search, span, own));
                }
            }
            before += offsets.and_then(|offsets| offsets.last()).map_or(rows, |&end| end as usize);
        }
        pieces
    }

    /// Where a shard's records have several factors, where each one's begin.
    fn offsets(&self, shard: usize) -> Option<&[u64]> {
        self.form.sets.first().and_then(|&set| self.source.factor_offsets(shard, set))
    }

    /// Deals the pieces to the devices, and puts together what each finds.
    fn on_devices(&self, pieces: &[Piece], queries: &[Query], progress: &Progress<'_>) -> Result<Vec<Vec<InGroup>>> {
        let devices = self.options.devices;
        let stopped = AtomicBool::new(false);
        let run = |(number, gpu): (usize, &Gpu)| {
            let own: Vec<&Piece> = pieces.iter().skip(number).step_by(devices.len()).collect();
            let found = self.on_device(gpu, &own, queries, progress, &stopped);
            stopped.fetch_or(found.is_err(), Ordering::Relaxed);
            found
        };
        let found: Vec<_> = if let [gpu] = devices {
            vec![run((0, gpu))]
        } else {
            thread::scope(|scope| {
                let threads: Vec<_> =
                    devices.iter().enumerate().map(|(number, gpu)| scope.spawn(move || run((number, gpu)))).collect();
                threads.into_iter().map(|thread| thread.join().expect("a search does not panic")).collect()
            })
        };
        let found = all(found)?;
        let none = (TwoEnded::new(self.k), ExactSum::default(), Some(0));
        let mut kept = vec![vec![none; self.group_count()]; queries.len()];
        for found in found {
            for (kept, found) in kept.iter_mut().flatten().zip(found) {
                for (end, entries) in [End::Proponents, End::Opponents].into_iter().zip(found.ends) {
                    for entry in entries {
                        kept.0.offer_at(end, hit(entry));
                    }
                }
                kept.1.merge(ExactSum::from_limbs(found.total));
                kept.2 = kept.2.zip(found.candidates).map(|(all, own)| all + own);
            }
        }
        let in_group = |(ends, total, candidates): (TwoEnded, ExactSum, Option<u64>)| {
            let certificate = candidates.map(|candidates| Certificate { candidates, certain: None });
            InGroup { hits: Hits { certificate, ..ends.into_hits() }, total }
        };
        Ok(kept.into_iter().map(|groups| groups.into_iter().map(in_group).collect()).collect())
    }

    /// What there is in some pieces, `[Q · G]`, in as many passes over them as k needs.
    fn on_device(
        &self,
        gpu: &Gpu,
        pieces: &[&Piece],
        queries: &[Query],
        progress: &Progress<'_>,
        stopped: &AtomicBool,
    ) -> Result<Vec<Found>> {
        let mut found: Vec<Found> = Vec::new();
        for begin in (0..self.k).step_by(MOST_KEPT) {
            let asked = self.asked(queries, &found);
            let k = MOST_KEPT.min(self.k - begin);
            let next = self.pass(gpu, asked, k, pieces, progress, stopped)?;
            if found.is_empty() {
                found = next;
                continue;
            }
            for (found, next) in found.iter_mut().zip(next) {
                found.ends.iter_mut().zip(next.ends).for_each(|(end, next)| end.extend(next));
            }
        }
        Ok(found)
    }

    /// One pass: a piece is on its way while the one before it is scored.
    fn pass(
        &self,
        gpu: &Gpu,
        asked: Asked<'_>,
        k: usize,
        pieces: &[&Piece],
        progress: &Progress<'_>,
        stopped: &AtomicBool,
    ) -> Result<Vec<Found>> {
        let mut running = gpu.search(asked, k)?;
        let send = |piece: &&&Piece| gpu.send(self.chunk(piece));
        let mut pieces = pieces.iter();
        let mut next = pieces.next();
        let mut sent = next.as_ref().map(send).transpose()?;
        while let (Some(piece), Some(rows)) = (next, sent.take()) {
            if stopped.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            running.scan(rows)?;
            next = pieces.next();
            sent = next.as_ref().map(send).transpose()?;
            progress.advance(piece.span.rows)?;
            if self.shape.bytes > self.options.memory {
                self.source.release(piece.span.shard);
            }
        }
        running.finish()
    }

    /// Whether bounds may leave records out, and there is something to gain, as on the CPU.
    fn has_bounds(&self, queries: usize) -> bool {
        let Self { form, shape, k, .. } = *self;
        let fits = form.passes.len() <= MOST_TERMS && k <= MOST_KEPT && k <= shape.selected / 64;
        let alone = self.groups.is_none() && !shape.several;
        fits && alone && applies(form) && queries >= FEWEST_BOUNDED && self.options.bounds == Bounds::Half
    }

    /// Queries side by side, pass by pass; what was found is not to be found again.
    fn asked<'b>(&self, queries: &'b [Query], found: &[Found]) -> Asked<'b> {
        let Self { form, shape, .. } = *self;
        let terms = || (0..form.passes.len()).flat_map(|pass| queries.iter().map(move |query| &query.terms[pass]));
        let mut weights = Weights::default();
        if terms().any(|term| matches!(term.weight, Weight::Class(_))) {
            weights.classes = terms().map(|term| class(&term.weight)).collect();
        }
        if terms().any(|term| matches!(term.weight, Weight::Delta(_))) {
            weights.deltas = vec![0.0; terms().count() * shape.classes];
            for (to, term) in weights.deltas.chunks_exact_mut(shape.classes.max(1)).zip(terms()) {
                if let Weight::Delta(delta) = &term.weight {
                    to.copy_from_slice(delta);
                    if form.deltas == Deltas::Unit {
                        unit_columns(to, 1);
                    }
                }
            }
        }
        Asked {
            bounds: self.has_bounds(queries.len()),
            queries: queries.len(),
            width: shape.width,
            classes: shape.classes,
            features: terms().map(|term| term.features.as_slice()).collect(),
            biases: terms().map(|term| term.bias).collect(),
            weights,
            norms: queries.par_iter().map(|query| form.norm_of(query)).collect(),
            sets: form.passes.iter().map(|pass| pass.set as i32).collect(),
            rates: form.passes.iter().map(|pass| pass.rate).collect(),
            distance: form.measure == Measure::Distance,
            groups: self.group_count(),
            totals: self.groups.is_some() && found.is_empty(),
            after: found.iter().flat_map(|found| [last(&found.ends[0], false), last(&found.ends[1], true)]).collect(),
        }
    }

    fn chunk<'b>(&'b self, piece: &'b Piece) -> Chunk<'b> {
        let Self { source, form, .. } = *self;
        let Span { shard, start, rows, first } = piece.span;
        let sets: Vec<FactorRows<'_>> =
            form.sets.iter().map(|&set| source.factors(shard, set).expect("checked before the search")).collect();
        let own = &piece.factors.rows;
        let features = sets.iter().map(|set| set.features.slice(own.start * set.width..own.end * set.width)).collect();
        let factors = self.offsets(shard).map(|offsets| FactorsOf {
            offsets: offsets[start..=start + rows].iter().map(|end| (end - own.start as u64) as i32).collect(),
            coordinates: source.factor_biases(shard).map(|biases| biases[own.clone()].to_vec()),
        });
        let [first_index, last_index] = [start, start + rows - 1].map(|row| source.index(shard, row));
        let indices = move || (start..start + rows).map(|row| source.index(shard, row)).collect();
        Chunk {
            rows,
            first,
            factors,
            features,
            deltas: self.deltas(piece, sets.clone()),
            norms: norms(form, sets.first().copied(), piece),
            indices: Part {
                key: piece.key_of(&format!("indices {first_index} to {last_index}")),
                len: rows,
                make: Box::new(indices),
            },
            groups: self.groups_of(first..first + rows),
            key: Some(piece.key),
        }
    }

    /// What stands for δ of the factors, `[sets, f, K]`, where it is read.
    fn deltas<'b>(&'b self, piece: &'b Piece, sets: Vec<FactorRows<'b>>) -> Option<Part<'b, f32>> {
        let Self { source, form, shape, .. } = *self;
        // What is given is another's at every search.
        let name = match form.deltas {
            Deltas::Unread => return None,
            Deltas::Stored => Some("stored"),
            Deltas::Unit => Some("unit"),
            Deltas::Scaled => Some("scaled"),
            Deltas::Given(_) => None,
        };
        let len = sets.len() * piece.factors.rows.len() * shape.classes;
        let make = move || {
            let mut deltas: Vec<f32> = sets.iter().flat_map(|set| deltas(form, set, &piece.factors)).collect();
            if let (Deltas::Scaled, Some(offsets)) = (form.deltas, self.offsets(piece.span.shard)) {
                let lengths = source.gradient_norms(piece.span.shard).expect("checked before the search");
                scale(&mut deltas, piece, offsets, lengths, shape.classes);
            }
            deltas
        };
        Some(Part { key: name.and_then(|name| piece.key_of(name)), len, make: Box::new(make) })
    }

    /// The group of each row, −1 for those that are not searched.
    fn groups_of(&self, rows: std::ops::Range<usize>) -> Option<Vec<i32>> {
        let selection = self.source.selection();
        if self.groups.is_none() && selection.is_none() {
            return None;
        }
        let group = |row: usize| {
            let searched = selection.is_none_or(|rows| rows.contains(row));
            let group = self.groups.map_or(Some(0), |groups| groups.of(row));
            group.filter(|_| searched).map_or(-1, |group| group as i32)
        };
        Some(rows.map(group).collect())
    }
}

/// What every device found; else why one failed, rather than that the others then stopped.
fn all(found: Vec<Result<Vec<Found>>>) -> Result<Vec<Vec<Found>>> {
    let (found, mut errors): (Vec<_>, Vec<_>) = found.into_iter().partition(Result::is_ok);
    errors.sort_by_key(|error| matches!(error, Err(Error::Interrupted)));
    errors.into_iter().next().into_iter().chain(found).collect()
}

/// A search of this process: what it leaves on a device of a source without a name is its own.
#[derive(Clone, Copy)]
struct Number(u64);

static NEXT_SEARCH: AtomicU64 = AtomicU64::new(0);

/// Consecutive rows of a shard that are copied together.
struct Piece {
    span: Span,
    factors: OwnFactors,
    /// What their features are.
    key: Key,
    /// Whether only this search knows them by it.
    passing: bool,
}

impl Piece {
    fn new<S: Source + ?Sized>(source: &S, form: &Form<'_>, search: Number, span: Span, factors: OwnFactors) -> Self {
        let contents = source.contents(span.shard);
        let what = match contents {
            Some(contents) => format!("{contents} {:?}", form.sets),
            None => format!("search {}, shard {}, {:?}", search.0, span.shard, form.sets),
        };
        let key = blake3::hash(format!("{what} {} {}", span.start, span.rows).as_bytes());
        Self { span, factors, key: key.into(), passing: contents.is_none() }
    }

    /// What else goes with the features is, by their key and its own name; none where the next search would not know
    /// it.
    fn key_of(&self, name: &str) -> Option<Key> {
        (!self.passing).then(|| blake3::Hasher::new().update(&self.key).update(name.as_bytes()).finalize().into())
    }
}

/// Consecutive rows of a shard.
#[derive(Clone, Copy)]
struct Span {
    shard: usize,
    start: usize,
    rows: usize,
    /// The first over all shards.
    first: usize,
}

/// Those rows' factors: as many, but where records have several.
struct OwnFactors {
    /// In the shard.
    rows: std::ops::Range<usize>,
    /// The first over all shards.
    first: usize,
}

fn kind(features: Floats<'_>) -> u8 {
    match features {
        Floats::F32(_) => 0,
        Floats::F16(_) => 1,
        Floats::Bf16(_) => 2,
        Floats::Int8(_) => 3,
    }
}

fn hit(entry: Entry) -> Hit {
    Hit { row: u64::from(entry.row), index: entry.index, score: entry.score }
}

/// The last of an end, or what comes after everything where there is nothing more.
fn last(end: &[Entry], lowest: bool) -> Entry {
    let beyond =
        Entry { score: if lowest { f32::INFINITY } else { f32::NEG_INFINITY }, row: u32::MAX, index: u64::MAX };
    if end.len().is_multiple_of(MOST_KEPT) { end.last().copied().unwrap_or(beyond) } else { beyond }
}

fn class(weight: &Weight) -> i32 {
    if let Weight::Class(class) = weight { *class as i32 } else { -1 }
}

/// What stands for δ of the factors, `[f, K]`; where it is over a record's length, before that.
fn deltas(form: &Form<'_>, set: &FactorRows<'_>, factors: &OwnFactors) -> Vec<f32> {
    let classes = set.classes;
    let range = |start: usize| start * classes..(start + factors.rows.len()) * classes;
    match form.deltas {
        Deltas::Unread => Vec::new(),
        Deltas::Stored | Deltas::Scaled => set.deltas[range(factors.rows.start)].to_vec(),
        Deltas::Given(given) => given[range(factors.first)].to_vec(),
        Deltas::Unit => {
            let mut deltas = set.deltas[range(factors.rows.start)].to_vec();
            deltas.chunks_exact_mut(classes.max(1)).for_each(|delta| unit_columns(delta, 1));
            deltas
        }
    }
}

/// δ of every set, over the length of its record's gradient: `offsets` and `lengths` are the shard's.
fn scale(deltas: &mut [f32], piece: &Piece, offsets: &[u64], lengths: &[f32], classes: usize) {
    let (span, factors) = (piece.span, &piece.factors.rows);
    let offsets = &offsets[span.start..=span.start + span.rows];
    for deltas in deltas.chunks_exact_mut((factors.len() * classes).max(1)) {
        for (own, &length) in offsets.windows(2).zip(&lengths[span.start..]) {
            let [from, to] = [own[0], own[1]].map(|factor| (factor as usize - factors.start) * classes);
            deltas[from..to].iter_mut().for_each(|delta| *delta = quotient(*delta, length));
        }
    }
}

/// The rows' part of what sums are divided by.
fn norms<'a>(form: &Form<'a>, set: Option<FactorRows<'a>>, piece: &Piece) -> Option<Part<'a, f32>> {
    let span = piece.span;
    let stored = &set?.feature_norms[span.start..span.start + span.rows];
    let (key, make): (_, Box<dyn FnOnce() -> Vec<f32> + 'a>) = match form.norm {
        RowNorm::One => return None,
        RowNorm::Feature => (piece.key_of("lengths"), Box::new(|| stored.to_vec())),
        RowNorm::Gradient => {
            (piece.key_of("gradients"), Box::new(|| stored.iter().map(|&norm| gradient_norm(norm)).collect()))
        }
        RowNorm::Given(norms) => (None, Box::new(move || norms[span.first..span.first + span.rows].to_vec())),
    };
    Some(Part { key, len: span.rows, make })
}
