//! Records through a model that says something of tokens: some at a time, their sequences batched together, handed on
//! in the order of the input.

use super::{Progress, Rejections, Settings, Summary};
use crate::dataset::{Dataset, Place, Record};
use crate::error::{Error, Result};
use crate::interrupt;
use crate::model::{Model, Outputs, Reads};
use crate::tokens::{Encoding, Joined};

/// A record, the sequences it became, and the tokens that are read of each.
pub(super) struct Encoded {
    pub(super) record: Record,
    pub(super) sequences: Vec<(Encoding, Reads)>,
    /// All of them as one, where they are windows of one text.
    pub(super) joined: Option<Joined>,
}

impl Encoded {
    /// Of sequences that are each for themselves.
    pub(super) fn of(record: Record, sequences: Vec<(Encoding, Reads)>) -> Self {
        Self { record, sequences, joined: None }
    }

    /// All tokens of a text, whatever windows it is read in.
    pub(super) fn text(&self) -> &Encoding {
        self.joined.as_ref().map_or_else(|| &self.sequences[0].0, |joined| &joined.encoding)
    }

    /// The window that shows most of what is around some tokens of [`Encoded::text`].
    pub(super) fn window_of(&self, tokens: &[usize]) -> usize {
        self.joined.as_ref().map_or(0, |joined| joined.window_of(tokens))
    }

    /// Where one of those is in a window.
    pub(super) fn place_in(&self, window: usize, token: usize) -> Option<usize> {
        self.joined.as_ref().map_or(Some(token), |joined| joined.place_in(window, token))
    }

    /// What a model said of the windows of a text, token by token of the whole.
    pub(super) fn whole(&self, windows: &[Outputs]) -> Outputs {
        let tokens: usize = self.sequences.iter().map(|(_, reads)| reads.len()).sum();
        let rows = |of: fn(&Outputs) -> &Vec<f32>| {
            let all: Vec<&[f32]> = windows.iter().map(|outputs| of(outputs).as_slice()).collect();
            let width = all.iter().map(|rows| rows.len()).sum::<usize>() / tokens.max(1);
            self.joined.as_ref().map_or_else(|| all.concat(), |joined| joined.rows(&all, width))
        };
        Outputs { features: rows(|outputs| &outputs.features), logits: rows(|outputs| &outputs.logits) }
    }
}

/// How records are taken through a model.
pub(super) struct Windows<'a> {
    pub(super) model: &'a Model,
    pub(super) settings: &'a Settings,
    /// What the progress bar says is done.
    pub(super) verb: &'static str,
}

/// What is done with a record, what the model said of its sequences, and its place.
type Take<'a> = dyn FnMut(Encoded, Vec<Outputs>, &Place) -> Result<()> + 'a;

/// Batches' worth of tokens taken together, for each worker.
const BATCHES_A_WORKER: usize = 16;

/// A sequence of which every token is read.
pub(super) fn read_whole(encoding: Encoding) -> (Encoding, Reads) {
    let reads = (0..encoding.ids.len() as u32).collect();
    (encoding, reads)
}

impl Windows<'_> {
    /// `encode`s each record (or says why it cannot be used), and hands it to `take` with what the model said of its
    /// sequences, and its place: of that `take` makes the error of a record that cannot be used after all.
    pub(super) fn run(
        &self,
        mut dataset: Dataset,
        rejections: &mut Rejections,
        encode: &dyn Fn(Record) -> Result<Encoded, String>,
        take: &mut Take<'_>,
    ) -> Result<Summary> {
        let progress = Progress::new(self.verb, dataset.bytes_total(), self.settings.quiet);
        let mut summary = Summary::default();
        loop {
            let tokens = |record: &Encoded| record.sequences.iter().map(|(encoding, _)| encoding.ids.len()).sum();
            let budget = self.settings.window_tokens(self.model, BATCHES_A_WORKER);
            let window = next_window(&mut dataset, budget, rejections, encode, &tokens)?;
            if window.is_empty() {
                break;
            }
            let sequences: Vec<(&Encoding, Reads)> = window
                .iter()
                .flat_map(|(record, _)| {
                    record.sequences.iter().map(|(encoding, reads)| (encoding, Reads::clone(reads)))
                })
                .collect();
            summary.tokens += sequences.iter().map(|(encoding, _)| encoding.ids.len() as u64).sum::<u64>();
            summary.truncated += sequences.iter().filter(|(encoding, _)| encoding.truncated).count() as u64;
            let outputs = self.model.read(&sequences, self.settings.batch_tokens, &|_| !interrupt::asked())?;
            let mut outputs = outputs.into_iter();
            for (record, place) in window {
                let own: Vec<Outputs> = outputs.by_ref().take(record.sequences.len()).collect();
                if !own.iter().flat_map(|outputs| &outputs.logits).all(|z| z.is_finite()) {
                    let Record { index, id, .. } = &record.record;
                    return Err(Error::not_numbers(format_args!("record {index} (id `{id}`)")));
                }
                match take(record, own, &place) {
                    Ok(()) => summary.records += 1,
                    Err(error) => rejections.take(error)?,
                }
            }
            progress.set(dataset.bytes_read(), summary.records);
        }
        summary.numbered = dataset.next_index();
        summary.skipped = rejections.count();
        summary.seconds = progress.seconds();
        Ok(summary)
    }
}

/// The next records with their places, as many as `budget` tokens take, and one more; `tokens` says what each comes to.
pub(super) fn next_window(
    dataset: &mut Dataset,
    budget: usize,
    rejections: &mut Rejections,
    encode: &dyn Fn(Record) -> Result<Encoded, String>,
    tokens: &dyn Fn(&Encoded) -> usize,
) -> Result<Vec<(Encoded, Place)>> {
    let (mut window, mut taken) = (Vec::new(), 0_usize);
    while taken < budget {
        interrupt::check()?;
        let Some(record) = dataset.next() else { break };
        let place = dataset.place();
        match record.and_then(|record| encode(record).map_err(|reason| place.error(reason))) {
            Err(error) => rejections.take(error)?,
            Ok(encoded) => {
                taken = taken.saturating_add(tokens(&encoded));
                window.push((encoded, place));
            }
        }
    }
    Ok(window)
}
