//! The head of a network in training: from hidden states to logits, and back.
//!
//! Heads on records read the first token of each sequence of a batch, heads on tokens every one. Heads on masks read
//! the first tokens of the same batch cut anew, at the tokens that are read.

use super::net::{Before, Net};
use super::pass::{Pass, Site};
use super::sink::{Linear, Normalisation, Normed, Operands, Sink};
use super::tape::{Back, Tape};
use crate::backend::training::{Dropout, Training};
use crate::backend::{Activation, Norm, Pooling, Rows};
use crate::error::Result;

impl<B: Training> Net<B> {
    /// Features and logits, from the hidden states in `tape.head_input`.
    pub(super) fn answer(&self, pass: &Pass<'_, B>, tape: &mut Tape<B>) -> Result<()> {
        let rows = match &self.before {
            Before::Dense(dense) => self.record(pass, tape, dense)?,
            Before::Nothing => self.tokens(pass, tape)?,
            Before::Transform { dense, norm, .. } => self.chosen(pass, tape, dense, norm)?,
        };
        let Tape { features, logits, .. } = tape;
        pass.backend.linear(logits, features, &self.last, Activation::Identity, None, pass.rows(rows))
    }

    /// Hands `to` the gradients of the head, from that of the logits in `tape.back.logits`; leaves that of the hidden
    /// states in `tape.back.hidden`: one row a sequence where the encoder's last step has but first tokens, else one a
    /// token.
    pub(super) fn answer_back(&self, pass: &Pass<'_, B>, tape: &mut Tape<B>, to: &mut impl Sink<B>) -> Result<()> {
        let rows = if matches!(self.before, Before::Nothing) { Rows::All } else { Rows::First };
        let (inputs, outputs) = (self.sizes.feature_width, self.sizes.classes);
        let last = Operands { dy: &tape.back.logits, x: &tape.features, inputs, outputs };
        to.linear(pass, Linear::Last, rows, last)?;
        match &self.before {
            Before::Dense(dense) => self.record_back(pass, tape, dense, to),
            Before::Nothing => self.tokens_back(pass, tape),
            Before::Transform { dense, norm, identity } => self.chosen_back(pass, tape, (dense, norm, identity), to),
        }
    }

    fn record(&self, pass: &Pass<'_, B>, tape: &mut Tape<B>, dense: &B::Linear) -> Result<Rows> {
        let Tape { head_input, features, head_slope, back: Back { sum, .. }, .. } = tape;
        if let Some(dropout) = self.head_input_dropout(pass) {
            pass.drop(sum, head_input, None, &dropout, (Rows::First, self.sizes.width))?;
            std::mem::swap(sum, head_input);
        }
        let sequences = pass.sequences;
        pass.backend.linear_with_slope(features, head_slope, head_input, dense, self.head_activation, sequences)?;
        if let Some(dropout) = pass.dropout(Site::Features) {
            pass.drop(sum, features, None, &dropout, (Rows::First, self.sizes.width))?;
            std::mem::swap(sum, features);
        }
        Ok(Rows::First)
    }

    fn record_back(
        &self,
        pass: &Pass<'_, B>,
        tape: &mut Tape<B>,
        dense: &B::Linear,
        to: &mut impl Sink<B>,
    ) -> Result<()> {
        let Tape { head_input, head_slope, back: Back { hidden, sum, dropped, logits, .. }, .. } = tape;
        let (backend, width, sequences) = (pass.backend, self.sizes.width, pass.sequences);
        // The slope and the dropout between are one product, in either order.
        backend.linear_backward(sum, logits, &self.last, Some(head_slope), None, sequences)?;
        if let Some(dropout) = pass.dropout(Site::Features) {
            pass.drop(dropped, sum, None, &dropout, (Rows::First, width))?;
            std::mem::swap(dropped, sum);
        }
        let of_dense = Operands { dy: &*sum, x: &*head_input, inputs: width, outputs: width };
        to.linear(pass, Linear::Dense, Rows::First, of_dense)?;
        backend.linear_backward(hidden, sum, dense, None, None, sequences)?;
        if let Some(dropout) = self.head_input_dropout(pass) {
            pass.drop(dropped, hidden, None, &dropout, (Rows::First, width))?;
            std::mem::swap(dropped, hidden);
        }
        Ok(())
    }

    fn head_input_dropout<'a>(&self, pass: &Pass<'a, B>) -> Option<Dropout<'a>> {
        if self.places.head_input { pass.dropout(Site::HeadInput) } else { None }
    }

    fn tokens(&self, pass: &Pass<'_, B>, tape: &mut Tape<B>) -> Result<Rows> {
        let Tape { head_input, features, .. } = tape;
        match self.features_dropout(pass) {
            Some(dropout) => pass.drop(features, head_input, None, &dropout, (Rows::All, self.sizes.width))?,
            None => std::mem::swap(features, head_input),
        }
        Ok(Rows::All)
    }

    fn tokens_back(&self, pass: &Pass<'_, B>, tape: &mut Tape<B>) -> Result<()> {
        let Back { hidden, dropped, logits, .. } = &mut tape.back;
        pass.backend.linear_backward(hidden, logits, &self.last, None, None, pass.tokens)?;
        if let Some(dropout) = self.features_dropout(pass) {
            pass.drop(dropped, hidden, None, &dropout, (Rows::All, self.sizes.width))?;
            std::mem::swap(dropped, hidden);
        }
        Ok(())
    }

    fn features_dropout<'a>(&self, pass: &Pass<'a, B>) -> Option<Dropout<'a>> {
        if self.places.token_features { pass.dropout(Site::Features) } else { None }
    }

    fn chosen(&self, pass: &Pass<'_, B>, tape: &mut Tape<B>, dense: &B::Linear, norm: &Norm<B>) -> Result<Rows> {
        let Tape { head_input, first, queries: transformed, features, head_slope, .. } = tape;
        let (backend, rows) = (pass.backend, pass.sequences);
        backend.pool(first, head_input, pass.batch, Pooling::First, self.sizes.width)?;
        backend.linear_with_slope(transformed, head_slope, first, dense, self.head_activation, rows)?;
        backend.layer_norm(features, transformed, norm, rows)?;
        Ok(Rows::First)
    }

    fn chosen_back(
        &self,
        pass: &Pass<'_, B>,
        tape: &mut Tape<B>,
        (dense, norm, identity): (&B::Linear, &Norm<B>, &B::Linear),
        to: &mut impl Sink<B>,
    ) -> Result<()> {
        let Tape { first, queries: transformed, head_slope, back, .. } = tape;
        let Back { hidden, sum, dropped: past, context: d_first, logits, .. } = back;
        let (backend, rows) = (pass.backend, pass.sequences);
        backend.linear_backward(sum, logits, &self.last, None, None, rows)?;
        to.norm(pass, Normed { of: Normalisation::Head, norm, rows: Rows::First, dy: sum, x: transformed })?;
        backend.layer_norm_backward(past, sum, transformed, norm, rows)?;
        backend.linear_backward(sum, past, identity, Some(head_slope), None, rows)?;
        let (inputs, outputs) = (self.sizes.width, self.sizes.feature_width);
        to.linear(pass, Linear::Dense, Rows::First, Operands { dy: &*sum, x: &*first, inputs, outputs })?;
        backend.linear_backward(d_first, sum, dense, None, None, rows)?;
        backend.clear(hidden)?;
        backend.add_to_first(hidden, d_first, pass.batch, inputs)
    }
}
