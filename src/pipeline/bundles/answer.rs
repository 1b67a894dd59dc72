//! Answers: two boundaries in each window that holds one.

use rayon::prelude::*;
use serde_json::Value;

use super::{Bundled, Bundler, Kept, row};
use crate::dataset::{Label, Record};
use crate::error::Error;
use crate::factors::{AnswerWindow, Bundle, mean_features};
use crate::interrupt;
use crate::model::{Outputs, Reads};
use crate::pipeline::Settings;
use crate::pipeline::predict_tokens::found;
use crate::pipeline::windows::Encoded;
use crate::report::TargetSpan;
use crate::store::{FactorPart, Said};
use crate::task::{self, AnswerOptions, characters, gold_span};
use crate::tokens::Encoding;

impl Bundler<'_> {
    /// The windows of each record that hold its answer, with what is known of all their tokens.
    pub(in crate::pipeline) fn answer_windows(
        &self,
        records: Vec<Record>,
        settings: &Settings,
    ) -> Result<Vec<Vec<AnswerWindow>>, Error> {
        let ids: Vec<String> = records.iter().map(|record| record.id.clone()).collect();
        let refuse = |(id, reason): (&String, String)| Error::usage(format!("record {id}: {reason}"));
        let encode = |record| self.encode(record);
        let encoded: Vec<Result<Encoded, String>> = records.into_par_iter().map(encode).collect();
        let encoded: Vec<Encoded> = ids
            .iter()
            .zip(encoded)
            .map(|(id, one)| one.map_err(|reason| refuse((id, reason))))
            .collect::<Result<_, _>>()?;
        let sequences: Vec<(&Encoding, Reads)> = encoded
            .iter()
            .flat_map(|one| one.sequences.iter().map(|(encoding, reads)| (encoding, Reads::clone(reads))))
            .collect();
        let outputs = self.model().read(&sequences, settings.batch_tokens, &|_| !interrupt::asked())?;
        let mut rest = outputs.as_slice();
        let of_record = |(id, one): (&String, Encoded)| {
            let (own, after) = rest.split_at(one.sequences.len());
            rest = after;
            self.of_answer(one, &[own]).map(|bundled| bundled.windows).map_err(|reason| refuse((id, reason)))
        };
        ids.iter().zip(encoded).map(of_record).collect()
    }

    /// The factors of the answer that the record has, or that the model gives.
    pub(super) fn of_answer(&self, encoded: Encoded, outputs: &[&[Outputs]]) -> Result<Bundled, String> {
        let Encoded { record, sequences, .. } = encoded;
        let options =
            AnswerOptions { max_tokens: self.tokens.max_answer_tokens, n_best: 1, ..AnswerOptions::default() };
        let best = found(&sequences, outputs[0], &options).best.first().copied().ok_or("the context has no token")?;
        let right = match &record.label {
            Some(Label::Answers(answers)) => Some(answers),
            _ => None,
        };
        let span = match right {
            Some(_) if self.is_gold() => gold_span(&record)?,
            _ => Some((best.start, best.end)),
        };
        let mut places: Vec<(usize, (usize, usize))> = Vec::new();
        for (window, (encoding, _)) in sequences.iter().enumerate() {
            let place = match span {
                None => Some((0, 0)),
                Some(span) if span == (best.start, best.end) && window == best.window => Some(best.tokens),
                Some((start, end)) => task::place(encoding, start, end),
            };
            places.extend(place.map(|place| (window, place)));
        }
        if places.is_empty() {
            return Err("the answer is whole in no window".to_owned());
        }
        let mut parts = Vec::with_capacity(2 * places.len());
        for &(window, (first, last)) in &places {
            let place = |token: usize| sequences[window].0.offsets[token].unwrap_or_default();
            let part = |token: usize, target: &str| FactorPart {
                start: place(token).0,
                end: place(token).1,
                target: target.to_owned(),
            };
            parts.extend([part(first, "start"), part(last, "end")]);
        }
        let bundle = |outputs: &&[Outputs]| {
            let mut bundle = Bundle::default();
            for &(window, (first, last)) in &places {
                let Outputs { features, logits } = &outputs[window];
                bundle.push_boundary(features, logits, 2, 0, first);
                bundle.push_boundary(features, logits, 2, 1, last);
            }
            bundle
        };
        let width = self.model().width();
        let context = record.pair.as_deref().unwrap_or_default();
        let text = |(start, end): (usize, usize)| Value::from(characters(context, start, end));
        Ok(Bundled {
            bundles: outputs.iter().map(bundle).collect(),
            mean: mean_over_windows(outputs[0], &places, width),
            windows: places.iter().filter_map(|&(window, places)| self.window(&outputs[0][window], places)).collect(),
            said: Said {
                label: right.map(|answers| answers.iter().map(|answer| answer.text.as_str()).collect()),
                predicted: text((best.start, best.end)),
                target: span.map_or_else(|| Value::from(""), text),
                parts,
            },
            span: span.map(|(start, end)| TargetSpan { start, end, segment: 1 }),
            probability: None,
            record,
        })
    }

    fn window(&self, outputs: &Outputs, (first, last): (usize, usize)) -> Option<AnswerWindow> {
        let width = self.model().width();
        let ends = || [first, last].map(|token| row(&outputs.features, token, width)).concat();
        match self.kept {
            Kept::Nothing => None,
            Kept::Boundaries => Some(AnswerWindow { features: ends(), places: [0, 1] }),
            Kept::All => Some(AnswerWindow { features: outputs.features.clone(), places: [first, last] }),
        }
    }
}

/// The mean h of an answer's tokens, over all windows that hold it.
fn mean_over_windows(outputs: &[Outputs], places: &[(usize, (usize, usize))], width: usize) -> Vec<f32> {
    let rows = places.iter().flat_map(|&(window, (first, last))| {
        outputs[window].features[first * width..(last + 1) * width].iter().copied()
    });
    let all: Vec<f32> = rows.collect();
    let count = all.len() / width.max(1);
    mean_features(&all, width, 0..count)
}
