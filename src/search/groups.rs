//! Each group's own two ends and total: the k nearest of each class, or of each source of the data.

use super::form::Form;
use super::query::Query;
use super::rows::Groups;
use super::scan::{Progress, Sink, scan};
use super::shape::{Shape, expect};
use super::source::Source;
use super::sum::ExactSum;
use super::tile::{Purpose, Span};
use super::topk::{Hits, TwoEnded};
use super::{Options, batch_size, device, pack, query_bytes};
use crate::error::{Error, Result};

/// What a query found in one group.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroupHits {
    /// Both ends of the group's ranking, each of min(k, its records).
    pub hits: Hits,
    /// The sum of the scores of all its records, rounded once: no order of adding shows in it.
    pub total: f64,
}

/// [`super::search`] within each of `groups`: for each query, what each group holds. Rows in no group take no part, nor
/// do rows that the source does not select.
///
/// # Errors
/// As [`super::search`]; groups of another number of rows than the source's; more groups than memory for one query's
/// ends.
pub fn search_groups<S: Source + ?Sized>(
    source: &S,
    form: &Form<'_>,
    queries: &[Query],
    k: usize,
    groups: &Groups,
    options: &Options<'_>,
) -> Result<Vec<Vec<GroupHits>>> {
    let shape = Shape::of(source, form, queries)?;
    expect("rows in groups", shape.rows, groups.rows())?;
    let k = shape.top_k(k)?;
    if shape.selected == 0 || groups.is_empty() {
        return Ok(vec![vec![GroupHits::default(); groups.len()]; queries.len()]);
    }
    let on_devices = device::Job { source, form, shape, k, groups: Some(groups), options };
    if let Some(found) = on_devices.run(queries)? {
        let in_group = |found: device::InGroup| GroupHits { hits: found.hits, total: found.total.value() };
        return Ok(found.into_iter().map(|groups| groups.into_iter().map(in_group).collect()).collect());
    }
    let bytes = rayon::current_num_threads() * groups.len() * group_bytes(k) + query_bytes(form, shape);
    if bytes > options.memory.max(1 << 20) {
        let message = format!("{} groups with {k} records at each end do not fit into the memory given", groups.len());
        return Err(Error::usage(message).with_hint("group by something with fewer values, or give more memory"));
    }
    let batch = batch_size(options.memory, bytes);
    let progress = Progress::new(options, shape.rows, queries.len().div_ceil(batch));
    let mut found = Vec::with_capacity(queries.len());
    for queries in queries.chunks(batch) {
        let packed = pack(form, queries, shape, Purpose::Scores);
        let new_sink = || Collectors { groups, of: vec![Group::new(k); packed.len() * groups.len()] };
        let workers = scan(source, form, shape, &packed, &progress, new_sink)?;
        found.extend(merge(workers, groups.len()));
    }
    Ok(found)
}

/// The most that one group's collector and total hold.
fn group_bytes(k: usize) -> usize {
    TwoEnded::bytes(k) + size_of::<Group>()
}

/// One worker's collectors, `[queries, groups]`.
struct Collectors<'a> {
    groups: &'a Groups,
    of: Vec<Group>,
}

#[derive(Clone)]
struct Group {
    ends: TwoEnded,
    total: ExactSum,
}

impl Group {
    fn new(k: usize) -> Self {
        Self { ends: TwoEnded::new(k), total: ExactSum::default() }
    }
}

impl Sink for Collectors<'_> {
    fn take<S: Source + ?Sized>(&mut self, source: &S, query: usize, span: Span, scores: &[f32]) -> Result<()> {
        let own = &mut self.of[query * self.groups.len()..][..self.groups.len()];
        let selection = source.selection();
        for (i, &score) in scores.iter().enumerate() {
            let row = span.global + i;
            let Some(group) = self.groups.of(row) else { continue };
            if selection.is_some_and(|rows| !rows.contains(row)) {
                continue;
            }
            // Scores are finite but for overflow, which no total can hold.
            own[group].total.add(score.clamp(f32::MIN, f32::MAX));
            if own[group].ends.reaches(score) {
                own[group].ends.offer(span.hit(source, i, score));
            }
        }
        Ok(())
    }
}

/// The workers' collectors, query by query.
fn merge(workers: Vec<Collectors<'_>>, groups: usize) -> Vec<Vec<GroupHits>> {
    let merged = workers.into_iter().reduce(|mut all, worker| {
        for (all, one) in all.of.iter_mut().zip(worker.of) {
            all.ends.merge(one.ends);
            all.total.merge(one.total);
        }
        all
    });
    let mut of = merged.map(|all| all.of).unwrap_or_default().into_iter();
    let mut queries = Vec::new();
    while of.len() > 0 {
        let one = |group: Group| GroupHits { hits: group.ends.into_hits(), total: group.total.value() };
        queries.push(of.by_ref().take(groups).map(one).collect());
    }
    queries
}
