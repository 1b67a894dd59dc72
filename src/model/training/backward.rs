//! The way back of a training pass: the chain rule, last layer to first, and what every parameter's gradient is made of
//! on the way.

use super::net::{Layer, Net};
use super::pass::{Guidance, Pass, Site};
use super::sink::{Linear, Normalisation, Normed, Operands, Sink};
use super::tape::{Back, Step, Tape};
use crate::backend::training::Training;
use crate::backend::{AttentionGradients, Rows};
use crate::error::Result;

impl<B: Training> Net<B> {
    /// Hands `to` the gradients of every parameter, from that of the logits in `tape.back.logits`.
    pub(super) fn backward(&self, pass: &Pass<'_, B>, tape: &mut Tape<B>, to: &mut impl Sink<B>) -> Result<()> {
        self.answer_back(pass, tape, to)?;
        self.encode_back(pass, tape, to)
    }

    /// The same of the encoder alone, from the gradient of the hidden states in `tape.back.hidden`.
    pub(super) fn encode_back(&self, pass: &Pass<'_, B>, tape: &mut Tape<B>, to: &mut impl Sink<B>) -> Result<()> {
        for (number, layer) in self.schedule.iter().enumerate().rev() {
            let layer = &self.layers[*layer];
            let rows = self.rows_of(number);
            self.feed_forward_back(pass, tape, number, layer, rows, to)?;
            match rows {
                Rows::All => self.attend_back(pass, tape, number, layer, to)?,
                Rows::First => self.attend_first_back(pass, tape, number, layer, to)?,
            }
        }
        self.embed_back(pass, tape, to)
    }

    fn feed_forward_back(
        &self,
        pass: &Pass<'_, B>,
        tape: &mut Tape<B>,
        number: usize,
        layer: &Layer<B>,
        rows: Rows,
        to: &mut impl Sink<B>,
    ) -> Result<()> {
        let (backend, count, width) = (pass.backend, pass.rows(rows), self.sizes.width);
        let Tape { steps, back, .. } = tape;
        let Step { middle, inner, slope, outer_sum, .. } = &steps[number];
        let norm = &layer.outer_norm;
        to.norm(pass, Normed { of: Normalisation::Outer(number), norm, rows, dy: &back.hidden, x: outer_sum })?;
        backend.layer_norm_backward(&mut back.sum, &back.hidden, outer_sum, norm, count)?;
        let site = self.places.feed_forward.then_some(Site::FeedForward(number));
        let past = past_dropout(pass, site, back, (rows, width))?;
        let Back { hidden, sum, dropped, inner: d_inner, .. } = back;
        let dy = if past { &*dropped } else { &*sum };
        let inner_width = self.sizes.inner_width;
        let outer = Operands { dy, x: inner, inputs: inner_width, outputs: width };
        to.linear(pass, Linear::Outer(number), rows, outer)?;
        backend.linear_backward(d_inner, dy, &layer.outer, Some(slope), None, count)?;
        let of_inner = Operands { dy: &*d_inner, x: middle, inputs: width, outputs: inner_width };
        to.linear(pass, Linear::Inner(number), rows, of_inner)?;
        backend.linear_backward(hidden, d_inner, &layer.inner, None, Some(sum), count)
    }

    /// Past attention's output layer and its normalisation, to the gradient of what attention put out.
    fn attention_out_back(
        &self,
        pass: &Pass<'_, B>,
        tape: &mut Tape<B>,
        number: usize,
        layer: &Layer<B>,
        rows: Rows,
        to: &mut impl Sink<B>,
    ) -> Result<()> {
        let (backend, count, width) = (pass.backend, pass.rows(rows), self.sizes.width);
        let Tape { steps, back, .. } = tape;
        let Step { context, attention_sum, .. } = &steps[number];
        let norm = &layer.attention_norm;
        to.norm(pass, Normed { of: Normalisation::Attention(number), norm, rows, dy: &back.hidden, x: attention_sum })?;
        backend.layer_norm_backward(&mut back.sum, &back.hidden, attention_sum, norm, count)?;
        let site = self.places.attention_out.then_some(Site::AttentionOut(number));
        let past = past_dropout(pass, site, back, (rows, width))?;
        let Back { sum, dropped, context: d_context, .. } = back;
        let dy = if past { &*dropped } else { &*sum };
        let out = Operands { dy, x: context, inputs: width, outputs: width };
        to.linear(pass, Linear::AttentionOut(number), rows, out)?;
        backend.linear_backward(d_context, dy, &layer.attention_out, None, None, count)
    }

    fn attend_back(
        &self,
        pass: &Pass<'_, B>,
        tape: &mut Tape<B>,
        number: usize,
        layer: &Layer<B>,
        to: &mut impl Sink<B>,
    ) -> Result<()> {
        self.attention_out_back(pass, tape, number, layer, Rows::All, to)?;
        let (backend, width, tokens) = (pass.backend, self.sizes.width, pass.tokens);
        let Tape { steps, back: Back { hidden, sum, context, projected: d_projected, .. }, .. } = tape;
        let Step { input, projected, .. } = &steps[number];
        let gradients = AttentionGradients { packed: d_projected, query: None };
        self.attention_back(pass, gradients, context, projected, None, number)?;
        let operands = Operands { dy: &*d_projected, x: input, inputs: width, outputs: 3 * width };
        to.linear(pass, Linear::Projection(number), Rows::All, operands)?;
        let projection = layer.projection.as_ref().expect("packed for every step before the last");
        backend.linear_backward(hidden, d_projected, projection, None, Some(sum), tokens)
    }

    /// Past the last step's attention: `hidden` goes from one row a sequence to one a token.
    fn attend_first_back(
        &self,
        pass: &Pass<'_, B>,
        tape: &mut Tape<B>,
        number: usize,
        layer: &Layer<B>,
        to: &mut impl Sink<B>,
    ) -> Result<()> {
        self.attention_out_back(pass, tape, number, layer, Rows::First, to)?;
        let (backend, width) = (pass.backend, self.sizes.width);
        let Tape { steps, first, queries, back, .. } = tape;
        let Back { hidden, sum, dropped: d_queries, context, projected: d_projected, guided, .. } = back;
        let Step { input, projected, .. } = &steps[number];
        let (query, key_value) = layer.split.as_ref().expect("packed for the last step");
        let gradients = AttentionGradients { packed: d_projected, query: Some(d_queries) };
        self.attention_back(pass, gradients, context, projected, Some(queries), number)?;
        if let Some(Guidance { starts, guides }) = pass.guidance {
            let gradients = AttentionGradients { packed: d_projected, query: Some(d_queries) };
            let attended = pass.attended(projected, Some(queries), &self.sizes);
            *guided = backend.guide_attention(gradients, &attended, starts, guides)?;
        }
        let of_queries = Operands { dy: &*d_queries, x: &*first, inputs: width, outputs: width };
        to.linear(pass, Linear::Query(number), Rows::First, of_queries)?;
        let of_tokens = Operands { dy: &*d_projected, x: input, inputs: width, outputs: 2 * width };
        to.linear(pass, Linear::KeyValue(number), Rows::All, of_tokens)?;
        // Attention's own gradient has been used: its buffer takes that of first tokens' hidden states.
        backend.linear_backward(context, d_queries, query, None, Some(sum), pass.sequences)?;
        backend.linear_backward(hidden, d_projected, key_value, None, None, pass.tokens)?;
        backend.add_to_first(hidden, context, pass.batch, width)
    }

    fn attention_back(
        &self,
        pass: &Pass<'_, B>,
        gradients: AttentionGradients<'_, B::Tensor>,
        d_out: &B::Tensor,
        projected: &B::Tensor,
        queries: Option<&B::Tensor>,
        number: usize,
    ) -> Result<()> {
        let attended = pass.attended(projected, queries, &self.sizes);
        match pass.dropout(Site::Attention(number)) {
            None => pass.backend.attention_backward(gradients, d_out, &attended),
            Some(dropout) => pass.backend.attention_dropout_backward(gradients, d_out, &attended, &dropout),
        }
    }

    fn embed_back(&self, pass: &Pass<'_, B>, tape: &mut Tape<B>, to: &mut impl Sink<B>) -> Result<()> {
        let (backend, tokens, width) = (pass.backend, pass.tokens, self.sizes.embedding_width);
        let Tape { embedding_sum, embedded, back: Back { hidden, sum, dropped, .. }, .. } = tape;
        if let Some(projection) = &self.embedding_projection {
            let operands = Operands { dy: &*hidden, x: &*embedded, inputs: width, outputs: self.sizes.width };
            to.linear(pass, Linear::EmbeddingProjection, Rows::All, operands)?;
            backend.linear_backward(sum, hidden, projection, None, None, tokens)?;
            std::mem::swap(sum, hidden);
        }
        if let Some(dropout) = pass.dropout(Site::Embeddings) {
            pass.drop(dropped, hidden, None, &dropout, (Rows::All, width))?;
            std::mem::swap(dropped, hidden);
        }
        let norm = &self.embedding_norm;
        to.norm(pass, Normed { of: Normalisation::Embedding, norm, rows: Rows::All, dy: hidden, x: embedding_sum })?;
        backend.layer_norm_backward(sum, hidden, embedding_sum, norm, tokens)?;
        to.tables(pass, sum, width)
    }
}
/// What of `sum` goes past a dropout, to `dropped`; whether there is one.
fn past_dropout<B: Training>(
    pass: &Pass<'_, B>,
    site: Option<Site>,
    back: &mut Back<B>,
    place: (Rows, usize),
) -> Result<bool> {
    let Some(dropout) = site.and_then(|site| pass.dropout(site)) else { return Ok(false) };
    pass.drop(&mut back.dropped, &back.sum, None, &dropout, place)?;
    Ok(true)
}
