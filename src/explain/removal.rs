//! What the model says of a text without some of its tokens: what attributions are held against.

use std::ptr;
use std::sync::Arc;

use super::Replacement;
use super::probe::Probe;
use super::runner;
use super::subject::Sequence;
use crate::error::Result;
use crate::model::Model;
use crate::tokens::Encoding;

/// A text, and the tokens it is to do without.
#[derive(Clone, Debug)]
pub struct Removal<'a> {
    /// The whole text.
    pub encoding: &'a Encoding,
    /// Places of the tokens that go, ascending. Where all are to go and nothing stands in, the first stays: no sequence
    /// is empty.
    pub tokens: Vec<usize>,
}

/// `z [K]` of each text without its tokens, in their order. `batch_tokens` is the budget of a micro-batch; it never
/// changes the numbers. `done` is told of each text that is finished; where it answers `false`, no further batch is
/// begun.
///
/// # Errors
/// [`crate::Error::Usage`] where the tokenizer has no token to stand in; [`crate::Error::Interrupted`] where `done`
/// said so; what the device fails at.
pub fn logits_without(
    model: &Model,
    removals: &[Removal<'_>],
    replacement: Replacement,
    batch_tokens: Option<usize>,
    done: &(dyn Fn(usize) -> bool + Sync),
) -> Result<Vec<Vec<f32>>> {
    let stand_in = replacement.id(model)?;
    let whole = |encoding: &Encoding| {
        let Encoding { ids, type_ids, .. } = encoding;
        Arc::new(Sequence { ids: ids.clone(), type_ids: type_ids.clone(), positions: model.positions().of(ids) })
    };
    let mut probes = Vec::with_capacity(removals.len());
    for of_text in removals.chunk_by(|one, next| ptr::eq(one.encoding, next.encoding)) {
        let text = whole(of_text[0].encoding);
        for Removal { tokens, .. } in of_text {
            probes.push(Probe::without(&text, tokens, stand_in, model.positions()));
        }
    }
    runner::logits(model, probes, batch_tokens, done)
}
