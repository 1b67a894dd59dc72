//! `wherefore audit bias`.

use std::path::PathBuf;
use std::time::Instant;

use clap::{Args, ValueEnum};
use wherefore::audit::{self, BiasOptions, BiasedWord, Correction, LabelledText};
use wherefore::explain::Segmentation;
use wherefore::factors::Target;
use wherefore::model::Problem;
use wherefore::report::{BiasFinding, Format, NearRecord, RecordWriter, WeightedRecord};
use wherefore::store::Store;
use wherefore::{Error, Result};

use super::{Audited, finish};
use crate::cli::Outcome;
use crate::cli::arguments::Common;
use crate::cli::run_record::RunRecord;

/// Records shown for a word, of its label and of others each.
const EXAMPLES: usize = 3;

#[derive(Args)]
pub(super) struct Bias {
    #[command(flatten)]
    audited: Audited,
    /// The fewest records a word must be in
    #[arg(long, value_name = "N", default_value_t = 3)]
    least_count: u64,
    /// The least share of a word's records that one label must have
    #[arg(long, value_name = "SHARE", default_value_t = 0.85)]
    least_share: f64,
    /// The share of the words found that may be there by chance
    #[arg(long, value_name = "SHARE", default_value_t = 0.01)]
    false_discovery: f64,
    /// What a word is: segmenter (Unicode words, Chinese by a dictionary) or characters
    #[arg(long, default_value_t)]
    words: Segmentation,
    /// Also write the training records to this file with a weight each, less for biased words: to train with
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// How weights are made
    #[arg(long, value_enum, default_value_t = How::LlsD)]
    correction: How,
}

#[derive(Clone, Copy, ValueEnum)]
enum How {
    /// By how far a word's share of its label is from an even one
    LlsD,
    /// By that and how often the word comes
    LlsDF,
}

/// A store's labelled texts.
struct Texts(Store);

impl Texts {
    fn read(&self, row: usize) -> Result<Option<LabelledText>> {
        let Some(class) = self.class(row) else { return Ok(None) };
        let record = self.0.record(row)?;
        Ok(Some((class, record.text, record.pair)))
    }

    fn class(&self, row: usize) -> Option<usize> {
        let (shard, at) = self.0.locate(row);
        let settings = self.0.settings();
        match self.0.shards()[shard].labels().target(at, settings.classes, settings.problem) {
            Some(Target::Class(class)) => Some(class),
            _ => None,
        }
    }

    fn index(&self, row: usize) -> u64 {
        let (shard, at) = self.0.locate(row);
        self.0.shards()[shard].indices()[at]
    }

    fn name(&self, class: usize) -> String {
        self.0.settings().label_names.get(class).cloned().unwrap_or_else(|| format!("LABEL_{class}"))
    }

    fn finding(&self, rank: usize, word: &BiasedWord, examples: &[Vec<usize>; 2]) -> Result<BiasFinding> {
        let example = |&row: &usize| {
            let record = self.0.record(row)?;
            let label = self.class(row).map(|class| self.name(class));
            Ok(NearRecord { index: self.index(row), id: record.id, label, score: 1.0, text: record.text })
        };
        let label = self.name(word.class);
        Ok(BiasFinding {
            rank: rank as u64 + 1,
            reason: format!(
                "{} of its {} records ({:.0} %) are {label}, {:.0} % of all",
                word.with_class,
                word.count,
                100.0 * word.share(),
                100.0 * word.expected
            ),
            word: word.word.clone(),
            label,
            score: word.lift(),
            count: word.count,
            share: word.share(),
            expected: word.expected,
            p_value: word.p_value,
            examples: examples.iter().flatten().map(example).collect::<Result<_>>()?,
        })
    }

    fn weighted(&self, row: usize, weight: f64) -> Result<WeightedRecord> {
        let record = self.0.record(row)?;
        let label = self.class(row).map(|class| self.name(class));
        let (id, text, text_pair) = (record.id, record.text, record.pair);
        Ok(WeightedRecord { index: self.index(row), id, text, text_pair, label, weight })
    }
}

pub(super) fn run(arguments: &Bias, common: &Common) -> anyhow::Result<Outcome> {
    let (mut run, started) = (RunRecord::begin("audit bias"), Instant::now());
    let store = arguments.audited.open()?;
    run.store(&store);
    if store.settings().problem != Problem::SingleLabel {
        return Err(Error::usage("words are counted where each record has one class").into());
    }
    let (rows, classes, segmentation) = (store.rows(), store.settings().classes, arguments.words);
    let texts = Texts(store);
    let options = BiasOptions {
        least_count: arguments.least_count,
        least_share: arguments.least_share,
        false_discovery: arguments.false_discovery,
        words: segmentation,
    };
    let words = audit::biased_words(rows, classes, &options, &|row| texts.read(row))?;
    let examples = audit::examples(rows, &words, EXAMPLES, segmentation, &|row| texts.read(row))?;
    let mut writer = RecordWriter::create(common.out.as_deref(), common.format(), BiasFinding::columns())?;
    for (rank, (word, examples)) in words.iter().zip(&examples).enumerate() {
        writer.write(&texts.finding(rank, word, examples)?)?;
    }
    writer.finish()?;
    if let Some(path) = &arguments.weights {
        let correction = match arguments.correction {
            How::LlsD => Correction::Share,
            How::LlsDF => Correction::ShareAndFrequency,
        };
        let weights = audit::record_weights(rows, classes, &words, correction, segmentation, &|row| texts.read(row))?;
        let mut writer = RecordWriter::create(Some(path), Format::choose(None, Some(path)), WeightedRecord::columns())?;
        (0..rows).try_for_each(|row| writer.write(&texts.weighted(row, weights[row])?))?;
        writer.finish()?;
    }
    run.set("findings", words.len());
    finish(common, "counted", rows, started, run)
}
