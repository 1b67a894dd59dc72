//! Every record's score for a query, in order, whatever their number: sorted runs in a temporary file, merged as they
//! are read.
//!
//! Each worker collects the hits of all queries of a batch up to its share of the memory budget, then sorts each
//! query's for both ends and appends them as runs to a file of its own, which vanishes with the process. A [`Ranking`]
//! merges the runs of one query, from either end, through a small buffer a run (external merge sort: Knuth, *The Art of
//! Computer Programming* vol. 3, §5.4).

use std::path::Path;

use super::form::Form;
use super::merge::Merge;
use super::query::Query;
use super::runs::Runs;
use super::scan::{Progress, Sink, scan};
use super::shape::Shape;
use super::source::Source;
use super::tile::{Purpose, Span};
use super::topk::{End, Hit};
use super::{Options, batch_size, pack, query_bytes};
use crate::error::Result;

/// Bytes of one query's hits that a worker has room for, at the least: fewer, longer runs merge faster.
const RUN_BYTES: usize = 1 << 20;

/// Ranks all N records of `source` for each query: `each` is handed the queries' numbers, in order, and their rankings.
///
/// Memory stays within [`Options::memory`], where that is at least a few MiB a worker; disk, where memory does not
/// suffice, takes 40 bytes for each record and query of a batch, in [`Options::temporary`].
///
/// # Errors
/// As [`super::search`], those of the temporary files, and whatever `each` gives.
pub fn rank<S: Source + ?Sized>(
    source: &S,
    form: &Form<'_>,
    queries: &[Query],
    options: &Options<'_>,
    mut each: impl FnMut(usize, &Ranking<'_>) -> Result<()>,
) -> Result<()> {
    let shape = Shape::of(source, form, queries)?;
    // One third for what workers collect, one for a query's hits sorted again, one for buffers of its runs.
    let third = options.memory / 3;
    let share = third / rayon::current_num_threads();
    if shape.selected == 0 {
        // There is nothing to scan, nor a width to pack queries by.
        return (0..queries.len()).try_for_each(|query| each(query, &Ranking { parts: &[], query, memory: third }));
    }
    let batch = batch_size(share, RUN_BYTES.min(shape.rows * size_of::<Hit>()) + query_bytes(form, shape));
    let progress = Progress::new(options, shape.rows, queries.len().div_ceil(batch));
    let folder = options.temporary.map_or_else(std::env::temp_dir, Path::to_owned);
    for (number, queries) in queries.chunks(batch).enumerate() {
        let packed = pack(form, queries, shape, Purpose::Scores);
        let parts =
            scan(source, form, shape, &packed, &progress, || Part::new(packed.len(), shape.rows, share, &folder))?;
        for query in 0..queries.len() {
            each(number * batch + query, &Ranking { parts: &parts, query, memory: third })?;
        }
    }
    Ok(())
}

/// One worker's hits: the latest in memory, those before in runs.
struct Part {
    /// By query.
    latest: Vec<Vec<Hit>>,
    held: usize,
    /// How many may be held.
    share: usize,
    runs: Runs,
}

impl Part {
    fn new(queries: usize, rows: usize, bytes: usize, folder: &Path) -> Self {
        let share = bytes / size_of::<Hit>();
        // Every query gets a score for the same records, so none outgrows its even part.
        let latest = (0..queries).map(|_| Vec::with_capacity(rows.min(share / queries))).collect();
        Self { latest, held: 0, share, runs: Runs::new(folder) }
    }

    fn spill(&mut self) -> Result<()> {
        for (query, hits) in self.latest.iter_mut().enumerate() {
            self.runs.append(query, hits)?;
            hits.clear();
        }
        self.held = 0;
        Ok(())
    }
}

impl Sink for Part {
    fn take<S: Source + ?Sized>(&mut self, source: &S, query: usize, span: Span, scores: &[f32]) -> Result<()> {
        let selection = source.selection();
        if self.held + scores.len() > self.share {
            self.spill()?;
        }
        self.held += scores.len();
        let wanted = |i: &usize| selection.is_none_or(|rows| rows.contains(span.global + i));
        self.latest[query].extend((0..scores.len()).filter(wanted).map(|i| span.hit(source, i, scores[i])));
        Ok(())
    }
}

/// All records' scores for one query, to be read from either end, as often as wanted.
pub struct Ranking<'a> {
    parts: &'a [Part],
    query: usize,
    memory: usize,
}

impl Ranking<'_> {
    /// N.
    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| part.latest[self.query].len() + part.runs.hits(self.query)).sum()
    }

    /// Whether there are no records.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All N records, in the order of this end.
    ///
    /// # Errors
    /// Where a temporary file cannot be read, here or in an item (then the last).
    pub fn hits(&self, end: End) -> Result<impl Iterator<Item = Result<Hit>> + '_> {
        let mut latest: Vec<Hit> = self.parts.iter().flat_map(|part| &part.latest[self.query]).copied().collect();
        latest.sort_unstable_by(|a, b| end.order(a, b));
        let stored = self.parts.iter().flat_map(|part| part.runs.of(self.query, end)).collect();
        Merge::new(end, latest, stored, self.memory)
    }
}
