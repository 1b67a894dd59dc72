//! The way forward of a training pass: [`crate::model`]'s own, keeping what parameters' gradients are made of, and
//! dropping numbers.

use super::net::{Layer, Net};
use super::pass::{Pass, Site};
use super::tape::{Back, Step, Tape};
use super::tree::tables_ref;
use crate::backend::training::{Tables, Training};
use crate::backend::{Activation, Norm, Pooling, Rows};
use crate::error::Result;

impl<B: Training> Net<B> {
    /// Leaves features and logits on the tape.
    pub(super) fn forward(&self, pass: &Pass<'_, B>, tape: &mut Tape<B>, tables: &Tables<B::Tensor>) -> Result<()> {
        self.encode(pass, tape, tables)?;
        self.answer(pass, tape)
    }

    /// Leaves the hidden states that the head reads on the tape.
    pub(super) fn encode(&self, pass: &Pass<'_, B>, tape: &mut Tape<B>, tables: &Tables<B::Tensor>) -> Result<()> {
        self.embed(pass, tape, tables)?;
        for (number, layer) in self.schedule.iter().enumerate() {
            let rows = self.rows_of(number);
            let layer = &self.layers[*layer];
            match rows {
                Rows::All => self.attend(pass, tape, number, layer)?,
                Rows::First => self.attend_first(pass, tape, number, layer)?,
            }
            self.feed_forward(pass, tape, number, layer, rows)?;
        }
        Ok(())
    }

    fn embed(&self, pass: &Pass<'_, B>, tape: &mut Tape<B>, tables: &Tables<B::Tensor>) -> Result<()> {
        let (backend, tokens, width) = (pass.backend, pass.tokens, self.sizes.embedding_width);
        let Tape { embedding_sum, embedded, steps, back: Back { sum, .. }, .. } = tape;
        backend.embed_sum(embedding_sum, tables_ref(tables), pass.batch, width)?;
        let input = &mut steps[0].input;
        let out = if self.embedding_projection.is_some() { &mut *embedded } else { &mut *input };
        match pass.dropout(Site::Embeddings) {
            None => backend.layer_norm(out, embedding_sum, &self.embedding_norm, tokens)?,
            Some(dropout) => {
                backend.layer_norm(sum, embedding_sum, &self.embedding_norm, tokens)?;
                pass.drop(out, sum, None, &dropout, (Rows::All, width))?;
            }
        }
        match &self.embedding_projection {
            Some(projection) => backend.linear(input, embedded, projection, Activation::Identity, None, tokens),
            None => Ok(()),
        }
    }

    fn attend(&self, pass: &Pass<'_, B>, tape: &mut Tape<B>, number: usize, layer: &Layer<B>) -> Result<()> {
        let Tape { steps, back, .. } = tape;
        let Step { input, projected, context, attention_sum, middle, .. } = &mut steps[number];
        let projection = layer.projection.as_ref().expect("packed for every step before the last");
        pass.backend.linear(projected, input, projection, Activation::Identity, None, pass.tokens)?;
        self.attention(pass, context, projected, None, number)?;
        let add = Add { site: self.places.attention_out.then_some(Site::AttentionOut(number)), rows: Rows::All };
        let linear = (&layer.attention_out, &layer.attention_norm);
        self.add_and_norm(pass, add, linear, &*context, &*input, [attention_sum, middle, &mut back.sum])
    }

    /// [`Self::attend`] for first tokens alone.
    fn attend_first(&self, pass: &Pass<'_, B>, tape: &mut Tape<B>, number: usize, layer: &Layer<B>) -> Result<()> {
        let Tape { steps, first, queries, back, .. } = tape;
        let Step { input, projected, context, attention_sum, middle, .. } = &mut steps[number];
        let (query, key_value) = layer.split.as_ref().expect("packed for the last step");
        let backend = pass.backend;
        backend.linear(projected, input, key_value, Activation::Identity, None, pass.tokens)?;
        backend.pool(first, input, pass.batch, Pooling::First, self.sizes.width)?;
        backend.linear(queries, first, query, Activation::Identity, None, pass.sequences)?;
        self.attention(pass, context, projected, Some(&*queries), number)?;
        let add = Add { site: self.places.attention_out.then_some(Site::AttentionOut(number)), rows: Rows::First };
        let linear = (&layer.attention_out, &layer.attention_norm);
        self.add_and_norm(pass, add, linear, &*context, &*first, [attention_sum, middle, &mut back.sum])
    }

    fn attention(
        &self,
        pass: &Pass<'_, B>,
        context: &mut B::Tensor,
        projected: &B::Tensor,
        queries: Option<&B::Tensor>,
        number: usize,
    ) -> Result<()> {
        let attended = pass.attended(projected, queries, &self.sizes);
        match pass.dropout(Site::Attention(number)) {
            None => pass.backend.attention(context, &attended),
            Some(dropout) => pass.backend.attention_dropout(context, &attended, &dropout),
        }
    }

    fn feed_forward(
        &self,
        pass: &Pass<'_, B>,
        tape: &mut Tape<B>,
        number: usize,
        layer: &Layer<B>,
        rows: Rows,
    ) -> Result<()> {
        let Tape { steps, head_input, back, .. } = tape;
        let (here, after) = steps.split_at_mut(number + 1);
        let Step { middle, inner, slope, outer_sum, .. } = &mut here[number];
        // The last step's outcome is what the head reads.
        let out = after.first_mut().map_or(head_input, |next| &mut next.input);
        pass.backend.linear_with_slope(inner, slope, middle, &layer.inner, self.activation, pass.rows(rows))?;
        let add = Add { site: self.places.feed_forward.then_some(Site::FeedForward(number)), rows };
        let linear = (&layer.outer, &layer.outer_norm);
        self.add_and_norm(pass, add, linear, &*inner, &*middle, [outer_sum, out, &mut back.sum])
    }

    /// `sum = dropout(linear(x)) + residual`, `out = LN(sum)`; `buffers` are those two and one to spare.
    fn add_and_norm(
        &self,
        pass: &Pass<'_, B>,
        add: Add,
        (linear, norm): (&B::Linear, &Norm<B>),
        x: &B::Tensor,
        residual: &B::Tensor,
        buffers: [&mut B::Tensor; 3],
    ) -> Result<()> {
        let [sum, out, spare] = buffers;
        let (backend, rows) = (pass.backend, pass.rows(add.rows));
        match add.site.and_then(|site| pass.dropout(site)) {
            None => backend.linear(sum, x, linear, Activation::Identity, Some(residual), rows)?,
            Some(dropout) => {
                backend.linear(spare, x, linear, Activation::Identity, None, rows)?;
                pass.drop(sum, spare, Some(residual), &dropout, (add.rows, self.sizes.width))?;
            }
        }
        backend.layer_norm(out, sum, norm, rows)
    }
}

/// What is dropped before a residual is added, and over which rows.
#[derive(Clone, Copy)]
struct Add {
    site: Option<Site>,
    rows: Rows,
}
