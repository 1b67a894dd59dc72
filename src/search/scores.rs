//! Every record's score, for those who add them up: no ends are kept, and no record is looked up.

use super::form::Form;
use super::query::Query;
use super::scan::{Progress, Sink, scan};
use super::shape::Shape;
use super::source::Source;
use super::tile::{Purpose, Span};
use super::{Options, batch_size, pack, query_bytes};
use crate::error::Result;

/// Hands `each` the number of every query, in order, and a score for each row of `source`; as many queries as fit
/// [`Options::memory`] share a pass. On the CPU, whatever [`Options::devices`] says: what comes back is as large as
/// what a device would have to send.
///
/// # Errors
/// As [`super::search`]; whatever `each` fails with.
pub fn scores<S: Source + ?Sized>(
    source: &S,
    form: &Form<'_>,
    queries: &[Query],
    options: &Options<'_>,
    mut each: impl FnMut(usize, &[f32]) -> Result<()>,
) -> Result<()> {
    let shape = Shape::of(source, form, queries)?;
    // Once as workers have them, once in the order of rows.
    let bytes = 2 * shape.rows * size_of::<f32>() + query_bytes(form, shape);
    let batch = batch_size(options.memory, bytes);
    let progress = Progress::new(options, shape.rows, queries.len().div_ceil(batch));
    let mut scores = vec![0.0; shape.rows];
    for (number, some) in queries.chunks(batch).enumerate() {
        let packed = pack(form, some, shape, Purpose::Scores);
        let mut of_query = vec![Vec::new(); some.len()];
        for worker in scan(source, form, shape, &packed, &progress, || Pieces(vec![Vec::new(); some.len()]))? {
            of_query.iter_mut().zip(worker.0).for_each(|(all, own): (&mut Vec<Piece>, _)| all.extend(own));
        }
        for (query, pieces) in of_query.into_iter().enumerate() {
            for (first, piece) in pieces {
                scores[first..][..piece.len()].copy_from_slice(&piece);
            }
            each(number * batch + query, &scores)?;
        }
    }
    Ok(())
}

/// The first row, and the scores from there on.
type Piece = (usize, Vec<f32>);

/// What a worker scored of each query.
struct Pieces(Vec<Vec<Piece>>);

impl Sink for Pieces {
    fn take<S: Source + ?Sized>(&mut self, _: &S, query: usize, span: Span, scores: &[f32]) -> Result<()> {
        self.0[query].push((span.global, scores.to_vec()));
        Ok(())
    }
}
