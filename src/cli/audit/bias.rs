//! `wherefore audit bias`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{Args, ValueEnum};
use indicatif::HumanCount;
use wherefore::audit::{self, BiasOptions, BiasedWord, Correction, DominatingWord, Explained, LabelledText};
use wherefore::explain::Segmentation;
use wherefore::factors::Target;
use wherefore::model::Problem;
use wherefore::report::{BiasFinding, Format, NearRecord, RecordWriter, ResultRecord, WeightedRecord, read_results};
use wherefore::store::Store;
use wherefore::{Error, Result};

use super::{Audited, finish, tell_found};
use crate::cli::Outcome;
use crate::cli::arguments::{Common, note_side_out};
use crate::cli::run_record::{RunRecord, check_is_not_out};

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
    /// What `explain` wrote of the training data (repeatable): words are then those that its rationales come back to,
    /// the most frequent first
    #[arg(long, value_name = "FILE", num_args = 1..)]
    explanations: Vec<String>,
    /// Words at the head of each rationale that count
    #[arg(long, value_name = "N", default_value_t = 3, requires = "explanations")]
    rationale: usize,
    /// Also write the training records to this file with those more often that have a biased word and another label
    #[arg(long, value_name = "FILE")]
    balanced: Option<PathBuf>,
    /// Also write the training records to this file with a weight each, against biased words: to train with
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
    #[value(name = "lls-d-f", alias = "lls-df")]
    LlsDF,
    /// So that, by weight, the words tell nothing of the label (Kamiran & Calders 2012)
    Reweighing,
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

    /// How many words, and the first of them.
    fn summary(&self, words: &[BiasedWord]) -> String {
        const NAMED: usize = 3;
        let count = HumanCount(words.len() as u64);
        let first = words.iter().take(NAMED).map(|word| format!("{} ({})", word.word, self.name(word.class)));
        match first.collect::<Vec<_>>().join(", ") {
            none if none.is_empty() => "no words that tell a label too well".to_owned(),
            first => format!("{count} words that tell a label too well, first {first}"),
        }
    }

    fn finding(&self, rank: usize, found: &Found, examples: &[Vec<usize>; 2]) -> Result<BiasFinding> {
        let Found { word, rationales } = found;
        let example = |&row: &usize| {
            let record = self.0.record(row)?;
            let label = self.class(row).map(|class| self.name(class));
            let (index, id, text, text_pair) = (self.index(row), record.id, record.text, record.pair);
            Ok(NearRecord { index, id, label, score: 1.0, text, text_pair })
        };
        let label = self.name(word.class);
        let reasons = rationales.map_or_else(String::new, |(all, for_class)| {
            format!("a reason {all} times, {for_class} of them for {label}; ")
        });
        Ok(BiasFinding {
            rank: rank as u64 + 1,
            reason: format!(
                "{reasons}{} of its {} records ({:.0} %) are {label}, {:.0} % of all",
                word.with_class,
                word.count,
                100.0 * word.share(),
                100.0 * word.expected
            ),
            rationales: rationales.map(|(all, _)| all),
            rationale_share: rationales.map(|(all, for_class)| for_class as f64 / all as f64),
            word: word.word.clone(),
            label,
            // The least that a number can be is not 0.
            score: rationales.map_or(-word.p_value.max(f64::MIN_POSITIVE).log10(), |(all, _)| all as f64),
            lift: word.lift(),
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

/// A word, and where reasons were looked at, the rationales with it and those for its label.
struct Found {
    word: BiasedWord,
    rationales: Option<(u64, u64)>,
}

impl Bias {
    fn find(&self, rows: usize, classes: usize, options: &BiasOptions, texts: &Texts) -> Result<Vec<Found>> {
        if self.explanations.is_empty() {
            let words = audit::biased_words(rows, classes, options, &|row| texts.read(row))?;
            return Ok(words.into_iter().map(|word| Found { word, rationales: None }).collect());
        }
        let words = audit::dominating_words(&self.explained(texts)?, rows, classes, options, &|row| texts.read(row))?;
        let found =
            |word: DominatingWord| Found { word: word.word, rationales: Some((word.rationales, word.for_class)) };
        Ok(words.into_iter().map(found).collect())
    }

    fn explained(&self, texts: &Texts) -> Result<Vec<Explained>> {
        let names = &texts.0.settings().label_names;
        let mut explained = Vec::new();
        read_results(&self.explanations, &mut |record| {
            let ResultRecord::Explanation(explanation) = record else {
                return Err(Error::usage("--explanations: expected what explain wrote, found something else"));
            };
            let class = names.iter().position(|name| *name == explanation.target).ok_or_else(|| {
                Error::usage(format!("--explanations: the store has no label {:?}", explanation.target))
            })?;
            let words = explanation.rationale.iter().take(self.rationale).filter_map(|&at| explanation.words.get(at));
            explained.push(Explained { class, rationale: words.map(|word| word.text.clone()).collect() });
            Ok(())
        })?;
        Ok(explained)
    }
}

pub(super) fn run(arguments: &Bias, common: &Common) -> anyhow::Result<Outcome> {
    let (mut run, started) = (RunRecord::begin("audit bias"), Instant::now());
    note_side_out("--weights", arguments.weights.as_deref())?;
    note_side_out("--balanced", arguments.balanced.as_deref())?;
    arguments.explanations.iter().try_for_each(|file| check_is_not_out(Path::new(file)))?;
    let store = arguments.audited.open_records("bias", "words tell a label where each record has one")?;
    run.store(&store);
    if store.settings().problem != Problem::SingleLabel {
        return Err(Error::usage("words are counted where each record has one class").into());
    }
    let (rows, classes, segmentation) = (store.rows(), store.settings().classes, arguments.words);
    let texts = Texts(store);
    for (flag, share) in [("--least-share", arguments.least_share), ("--false-discovery", arguments.false_discovery)] {
        if !(0.0..=1.0).contains(&share) {
            return Err(Error::usage(format!("{flag}: expected 0 to 1, found {share}")).into());
        }
    }
    let options = BiasOptions {
        least_count: arguments.least_count,
        least_share: arguments.least_share,
        false_discovery: arguments.false_discovery,
        words: segmentation,
    };
    let found = arguments.find(rows, classes, &options, &texts)?;
    let words: Vec<BiasedWord> = found.iter().map(|found| found.word.clone()).collect();
    let examples = audit::examples(rows, &words, EXAMPLES, segmentation, &|row| texts.read(row))?;
    let mut writer = RecordWriter::create(common.out.as_deref(), common.format(), BiasFinding::columns())?;
    for (rank, (found, examples)) in found.iter().zip(&examples).enumerate() {
        writer.write(&texts.finding(rank, found, examples)?)?;
    }
    writer.finish()?;
    if let Some(path) = &arguments.weights {
        let correction = match arguments.correction {
            How::LlsD => Correction::Share,
            How::LlsDF => Correction::ShareAndFrequency,
            How::Reweighing => Correction::Reweighing,
        };
        let weights = audit::record_weights(rows, classes, &words, correction, segmentation, &|row| texts.read(row))?;
        let mut writer = RecordWriter::create(Some(path), Format::choose(None, Some(path)), WeightedRecord::columns())?;
        (0..rows).try_for_each(|row| writer.write(&texts.weighted(row, weights[row])?))?;
        writer.finish()?;
    }
    if let Some(path) = &arguments.balanced {
        let copies = audit::extra_copies(rows, &words, segmentation, common.seed, &|row| texts.read(row))?;
        let mut writer = RecordWriter::create(Some(path), Format::choose(None, Some(path)), WeightedRecord::columns())?;
        (0..rows).try_for_each(|row| writer.write(&texts.weighted(row, 1.0)?))?;
        for (row, copy) in copies.iter().enumerate().flat_map(|(row, &copies)| (0..copies).map(move |copy| (row, copy)))
        {
            let record = texts.weighted(row, 1.0)?;
            writer.write(&WeightedRecord { id: format!("{}#{}", record.id, copy + 2), ..record })?;
        }
        writer.finish()?;
        run.set("copies", copies.iter().sum::<u32>());
    }
    run.set("findings", words.len());
    tell_found(common, &texts.summary(&words));
    finish(common, "counted", rows, started, run)
}
