//! Masks: a factor for the piece behind each.

use serde_json::Value;

use super::{Against, Bundled, Bundler, Part, row};
use crate::dataset::{Label, Record};
use crate::factors::{self, Bundle, mean_features};
use crate::model::{Outputs, Problem};
use crate::numeric::argmax;
use crate::pipeline::windows::Encoded;
use crate::report::TargetSpan;
use crate::store::{FactorPart, Said};

impl Bundler<'_> {
    /// The factors of a record's masks, or of the one that is asked about.
    pub(super) fn of_masks(&self, encoded: Encoded, outputs: &[&[Outputs]]) -> Result<Bundled, String> {
        let Encoded { record, sequences, .. } = encoded;
        let (encoding, reads) = sequences.into_iter().next().unwrap_or_default();
        let (classes, width) = (self.model().classes(), self.model().width());
        let piece = |class: usize| self.model().tokenizer().piece(class as u32).unwrap_or_default();
        let predicted: Vec<usize> = outputs[0][0].logits.chunks_exact(classes).map(argmax).collect();
        let gold = self.gold_pieces(&record, reads.len())?;
        let mut masks: Vec<(usize, usize)> = match (&self.against, &gold) {
            (Against::Class(class), _) => (0..reads.len()).map(|mask| (mask, *class)).collect(),
            (_, Some(gold)) if self.is_gold() => gold.iter().copied().enumerate().collect(),
            _ => predicted.iter().copied().enumerate().collect(),
        };
        let asked = match self.part {
            Part::Token(token) => Some(token),
            Part::Whole | Part::Entities(_) => None,
        };
        if let Some(token) = asked {
            masks.retain(|&(mask, _)| reads[mask] as usize == token);
        }
        if masks.is_empty() {
            return Err(format!("token {}: expected a mask", asked.unwrap_or_default()));
        }
        let bundle = |outputs: &&[Outputs]| {
            let Outputs { features, logits } = &outputs[0];
            let mut bundle = Bundle::default();
            for &(mask, class) in &masks {
                bundle.push_class(row(features, mask, width), row(logits, mask, classes), class);
            }
            bundle
        };
        let place = |mask: usize| encoding.offsets[reads[mask] as usize].unwrap_or_default();
        let asked = asked.map(|_| masks[0]);
        let part = |&(mask, class): &(usize, usize)| {
            let (start, end) = place(mask);
            FactorPart { start, end, target: piece(class) }
        };
        let span = |(mask, _): (usize, usize)| TargetSpan { start: place(mask).0, end: place(mask).1, segment: 0 };
        let probability = |(mask, class): (usize, usize)| {
            factors::probabilities(Problem::SingleLabel, row(&outputs[0][0].logits, mask, classes))[class]
        };
        Ok(Bundled {
            bundles: outputs.iter().map(bundle).collect(),
            windows: Vec::new(),
            mean: mean_features(&outputs[0][0].features, width, masks.iter().map(|&(mask, _)| mask)),
            said: Said {
                label: gold.map(|gold| gold.into_iter().map(piece).collect()),
                predicted: predicted.into_iter().map(piece).collect(),
                target: match asked {
                    Some((_, class)) => Value::from(piece(class)),
                    None => masks.iter().map(|&(_, class)| piece(class)).collect(),
                },
                parts: masks.iter().map(part).collect(),
            },
            span: asked.map(span),
            probability: asked.map(probability),
            record,
        })
    }

    /// The pieces that a record says its masks hide.
    fn gold_pieces(&self, record: &Record, masks: usize) -> Result<Option<Vec<usize>>, String> {
        let labels = match &record.label {
            None => return Ok(None),
            Some(Label::Many(labels)) => labels.as_slice(),
            Some(one) => std::slice::from_ref(one),
        };
        if labels.len() != masks {
            return Err(format!("label: expected {masks} pieces, one a mask, found {}", labels.len()));
        }
        let piece = |label: &Label| match label {
            Label::Name(name) => {
                let id = self.model().tokenizer().id(name).map(|id| id as usize);
                id.ok_or_else(|| format!("label: {name:?} is no piece of the vocabulary"))
            }
            Label::Integer(id) => {
                let id = usize::try_from(*id).ok().filter(|id| *id < self.model().classes());
                id.ok_or_else(|| "label: expected a piece of the vocabulary, or its id".to_owned())
            }
            _ => Err("label: expected a piece of the vocabulary, or its id".to_owned()),
        };
        labels.iter().map(piece).collect::<Result<_, _>>().map(Some)
    }
}
