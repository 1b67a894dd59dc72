//! A step of a plan, done to the data: each thing that is done leaves a record of itself.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::data::{Answers, Item, read, value};
use super::evidence::Evidence;
use super::plan::{Amount, Dropped, Pick, Plan, Step, Weighing, Words};
use crate::audit::{
    self, BiasOptions, BiasedWord, Change, Contexts, Copied, Correction, Draw, LabelledText, Region, Signal,
};
use crate::dataset::{Label, Record};
use crate::error::{Error, Result};
use crate::explain::Segmentation;
use crate::factors::Target;
use crate::model::ClassNames;
use crate::pipeline::PoolOptions;
use crate::random::{Purpose, Stream};
use crate::report::ChangeRecord;

/// The data on their way through a plan's steps.
pub(super) struct Work<'a> {
    pub(super) plan: &'a Plan,
    pub(super) evidence: &'a Evidence<'a>,
    pub(super) classes: &'a ClassNames,
    pub(super) items: Vec<Item>,
    pub(super) changes: Vec<ChangeRecord>,
    /// What a user should hear of, a line each.
    pub(super) told: Vec<String>,
    /// The step under way, from 1.
    step: usize,
    /// Of all items.
    ids: HashSet<String>,
}

impl<'a> Work<'a> {
    pub(super) fn new(plan: &'a Plan, evidence: &'a Evidence<'a>, classes: &'a ClassNames, items: Vec<Item>) -> Self {
        let ids = items.iter().map(|item| item.record.id.clone()).collect();
        Self { plan, evidence, classes, items, changes: Vec::new(), told: Vec::new(), step: 0, ids }
    }

    /// Does the next step.
    pub(super) fn apply(&mut self, step: &Step) -> Result<()> {
        self.step += 1;
        match step {
            Step::Drop { what: Dropped::Dirty, signal, top, above, .. } => self.drop_dirty(*signal, *top, *above),
            Step::Drop { what: Dropped::Copies, similarity, .. } => self.drop_copies(*similarity),
            Step::Drop { what: Dropped::Leaks, similarity, .. } => self.drop_leaks(*similarity),
            Step::Drop { what, .. } => self.drop_region(*what),
            Step::Correct { corrections, signal, top, pick } => {
                self.correct(&Answers::read(corrections, &self.plan.columns)?, *signal, *top, *pick)
            }
            Step::Relabel { signal, top, above } => self.relabel(*signal, *top, *above),
            Step::Reweight { weights, words } => self.reweight(*weights, *words),
            Step::Rebalance { words } => self.rebalance(*words),
            Step::Add { pool, answers, choose, count, targets, target_count, threshold } => {
                let pool = self.not_there_yet(read(pool, &self.plan.columns, &mut self.evidence.machine.rejections())?);
                let options = PoolOptions {
                    choice: *choose,
                    most: count.of(pool.len()),
                    threshold: *threshold,
                    seed: self.step as u64,
                    ..PoolOptions::default()
                };
                self.add(&pool, &Answers::read(answers, &self.plan.columns)?, targets, *target_count, &options)
            }
            Step::Augment { change, count, share, targets, target_count } => {
                self.augment(*change, *count, *share, targets, *target_count)
            }
        }
    }

    /// Gives these records the labels that a person has answered.
    pub(super) fn answer(&mut self, ids: &HashSet<String>, answers: &Answers) -> Result<()> {
        for place in 0..self.items.len() {
            let id = &self.items[place].record.id;
            let Some(label) = answers.of(id, None).filter(|_| ids.contains(id)).cloned() else { continue };
            self.classes.resolve(&label).map_err(|reason| Error::usage(format!("record {id}: {reason}")))?;
            self.set_label(place, label, "correct", None, "asked about, and answered".to_owned());
        }
        Ok(())
    }

    /// Puts labelled records behind the others.
    pub(super) fn bring(&mut self, items: impl Iterator<Item = Item>, reason: &str) {
        for item in items {
            let to = item.record.label.as_ref().map(value);
            self.push(item, "add", reason.to_owned(), |record| record.to = to);
        }
    }

    fn note(&mut self, place: usize, change: &str, reason: String, tell: impl FnOnce(&mut ChangeRecord)) {
        let mut record = ChangeRecord::of(self.step, change, &self.items[place].record, reason);
        tell(&mut record);
        self.changes.push(record);
    }

    fn take_out(&mut self, place: usize, score: Option<f64>, reason: String) {
        if !self.items[place].dropped {
            self.items[place].dropped = true;
            self.note(place, "drop", reason, |record| record.score = score);
        }
    }

    /// Items by their number in the data that the evidence is of.
    fn by_origin(&self) -> HashMap<u64, usize> {
        let origin = |(place, item): (usize, &Item)| item.origin.map(|origin| (origin, place));
        self.items.iter().enumerate().filter_map(origin).collect()
    }

    /// Where the first of a signal's ranking stand, of what has not been taken out: (item, rank from 1, score, row of
    /// the store).
    fn suspects(
        &self,
        signal: Signal,
        top: Option<Amount>,
        above: Option<f32>,
    ) -> Result<Vec<(usize, usize, f32, usize)>> {
        let (store, dirty, places) = (self.evidence.store()?, self.evidence.dirty(signal)?, self.by_origin());
        let found = dirty.ranking.iter().enumerate().filter_map(|(rank, &row)| {
            let (shard, at) = store.locate(row);
            let place = *places.get(&store.shards()[shard].indices()[at])?;
            (!self.items[place].dropped).then_some((place, rank + 1, dirty.scores[row], row))
        });
        let mut live: Vec<_> = found.collect();
        live.truncate(top.map_or(usize::MAX, |top| top.of(live.len())));
        live.retain(|(_, _, score, _)| above.is_none_or(|above| *score > above));
        Ok(live)
    }

    fn drop_dirty(&mut self, signal: Signal, top: Option<Amount>, above: Option<f32>) -> Result<()> {
        for (place, rank, score, _) in self.suspects(signal, top, above)? {
            self.take_out(place, Some(f64::from(score)), format!("suspect label: rank {rank} by {signal}"));
        }
        Ok(())
    }

    fn live(&self) -> Vec<usize> {
        (0..self.items.len()).filter(|&place| !self.items[place].dropped).collect()
    }

    fn copied(record: &Record) -> Copied {
        Copied {
            text: record.text.clone(),
            pair: record.pair.clone(),
            label: record.label.as_ref().map(|l| value(l).to_string()),
        }
    }

    /// Label by label: which of two that contradict each other is right, no copy says.
    fn drop_copies(&mut self, similarity: f64) -> Result<()> {
        let mut by_label: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for place in self.live() {
            let label = self.items[place].record.label.as_ref();
            let class = label.and_then(|label| self.class(label)).map(|class| class.to_string());
            let name = class.or_else(|| label.map(|label| value(label).to_string())).unwrap_or_default();
            by_label.entry(name).or_default().push(place);
        }
        for live in by_label.into_values() {
            let found = audit::redundant(live.len(), similarity, &|i| Ok(Self::copied(&self.items[live[i]].record)))?;
            for copy in found {
                let kind = if copy.exact { "a copy" } else { "nearly a copy" };
                let of = self.items[live[copy.of]].record.id.clone();
                self.take_out(live[copy.text], Some(copy.similarity), format!("{kind} of {of}"));
            }
        }
        Ok(())
    }

    fn drop_leaks(&mut self, similarity: f64) -> Result<()> {
        let mut judged: Vec<(String, Record)> = Vec::new();
        for (set, files) in self.plan.judged_on() {
            let records = read(files, &self.plan.columns, &mut self.evidence.machine.rejections())?;
            judged.extend(records.into_iter().map(|record| (set.to_owned(), record)));
        }
        let live = self.live();
        let text = |i: usize| match judged.get(i) {
            Some((_, record)) => Self::copied(record),
            None => Self::copied(&self.items[live[i - judged.len()]].record),
        };
        let found = audit::redundant_with(judged.len(), judged.len() + live.len(), similarity, &|i| Ok(text(i)))?;
        for copy in found.into_iter().filter(|copy| copy.text >= judged.len()) {
            let (set, record) = &judged[copy.of];
            let kind = if copy.exact { "a copy" } else { "nearly a copy" };
            let reason = format!("{kind} of {} of {set}, which models are judged on", record.id);
            self.take_out(live[copy.text - judged.len()], Some(copy.similarity), reason);
        }
        Ok(())
    }

    fn drop_region(&mut self, what: Dropped) -> Result<()> {
        let wanted = match what {
            Dropped::Easy => Region::Easy,
            Dropped::Ambiguous => Region::Ambiguous,
            Dropped::Hard => Region::Hard,
            Dropped::Suspect | Dropped::Dirty | Dropped::Copies | Dropped::Leaks => Region::Suspect,
        };
        let (dynamics, places) = (self.evidence.dynamics()?, self.by_origin());
        for (row, region) in audit::regions(&dynamics).into_iter().enumerate() {
            if let Some(&place) = places.get(&dynamics.indices()[row]).filter(|_| region == wanted) {
                let (confidence, variability) = (dynamics.confidence(row), dynamics.variability(row));
                let reason = format!("{} on the data map: {confidence:.2} ± {variability:.2}", wanted.name());
                self.take_out(place, Some(1.0 - confidence), reason);
            }
        }
        Ok(())
    }

    fn set_label(&mut self, place: usize, label: Label, change: &str, score: Option<f64>, reason: String) {
        let item = &self.items[place];
        // As the data have theirs.
        let label = match (&item.record.label, self.class(&label)) {
            (Some(Label::Integer(_)), Some(class)) => Label::Integer(class as i64),
            _ => label,
        };
        let [old, new] = [item.record.label.as_ref(), Some(&label)].map(|label| label.and_then(|l| self.class(l)));
        if old == new && old.is_some() {
            return;
        }
        let from = item.record.label.as_ref().map(value);
        let to = Some(value(&label));
        self.items[place].record.label = Some(label);
        self.note(place, change, reason, |record| (record.from, record.to, record.score) = (from, to, score));
    }

    fn class(&self, label: &Label) -> Option<usize> {
        match self.classes.resolve(label) {
            Ok(Target::Class(class)) => Some(class),
            _ => None,
        }
    }

    fn correct(&mut self, answers: &Answers, signal: Signal, top: Option<Amount>, pick: Pick) -> Result<()> {
        let (unmatched, all) = (answers.unmatched(&self.items), answers.count());
        if let Some(first) = unmatched.first() {
            let told =
                format!("corrections: {} of {all} match no training record, the first: {first}", unmatched.len());
            if unmatched.len() == all {
                return Err(Error::usage(told)
                    .with_hint("corrections name records by the id, or the index, of the training data"));
            }
            self.told.push(format!("step {}: {told}", self.step));
        }
        let looked_at: Vec<(usize, Option<f64>, String)> = match (top, pick) {
            (None, _) => self.live().into_iter().map(|place| (place, None, "corrected by hand".to_owned())).collect(),
            (Some(_), Pick::Audit) => {
                let told = |(place, rank, score, _): (usize, usize, f32, usize)| {
                    (place, Some(f64::from(score)), format!("corrected by hand: rank {rank} by {signal}"))
                };
                self.suspects(signal, top, None)?.into_iter().map(told).collect()
            }
            (Some(top), Pick::Random) => {
                let live = shuffled(self.live(), self.step as u64);
                let count = top.of(live.len());
                let told = |place| (place, None, "corrected by hand: drawn".to_owned());
                live.into_iter().take(count).map(told).collect()
            }
        };
        for (place, score, reason) in looked_at {
            let item = &self.items[place];
            if let Some(label) = answers.of(&item.record.id, item.origin) {
                let label = label.clone();
                self.classes.resolve(&label).map_err(|reason| Error::usage(format!("corrections: {reason}")))?;
                self.set_label(place, label, "correct", score, reason);
            }
        }
        Ok(())
    }

    fn relabel(&mut self, signal: Signal, top: Option<Amount>, above: Option<f32>) -> Result<()> {
        let dirty = self.evidence.dirty(signal)?;
        for (place, rank, score, row) in self.suspects(signal, top, above)? {
            let class = dirty.suggestions[row];
            let name = self.classes.names().get(class).cloned().unwrap_or_default();
            let label = match self.items[place].record.label {
                Some(Label::Integer(_)) => Label::Integer(class as i64),
                _ => Label::Name(name),
            };
            let reason = format!("relabelled as suggested: rank {rank} by {signal}");
            self.set_label(place, label, "relabel", Some(f64::from(score)), reason);
        }
        Ok(())
    }

    /// The class and texts of each of these records, where it has a label.
    fn labelled(&self, places: &[usize]) -> Vec<Option<LabelledText>> {
        let of = |&place: &usize| {
            let record = &self.items[place].record;
            let class = self.class(record.label.as_ref()?)?;
            Some((class, record.text.clone(), record.pair.clone()))
        };
        places.iter().map(of).collect()
    }

    fn biased_words(&self, texts: &[Option<LabelledText>], words: Words) -> Result<Vec<BiasedWord>> {
        let options = BiasOptions {
            least_count: words.least_count,
            least_share: words.least_share,
            false_discovery: words.false_discovery,
            words: Segmentation::Segmenter,
        };
        audit::biased_words(texts.len(), self.classes.names().len(), &options, &|i| Ok(texts[i].clone()))
    }

    fn reweight(&mut self, weighing: Weighing, words: Words) -> Result<()> {
        let live = self.live();
        let texts = self.labelled(&live);
        let words = self.biased_words(&texts, words)?;
        let correction = match weighing {
            Weighing::LlsD => Correction::Share,
            Weighing::LlsDF => Correction::ShareAndFrequency,
            Weighing::Reweighing => Correction::Reweighing,
        };
        let classes = self.classes.names().len();
        let read = |i: usize| Ok(texts[i].clone());
        let weights = audit::record_weights(live.len(), classes, &words, correction, Segmentation::Segmenter, &read)?;
        for (&place, weight) in live.iter().zip(weights).filter(|(_, weight)| *weight != 1.0) {
            self.items[place].weight *= weight;
            let weight = self.items[place].weight;
            let reason = format!("words that tell a label too well, of {} found", words.len());
            self.note(place, "reweight", reason, |record| record.weight = Some(weight));
        }
        Ok(())
    }

    fn rebalance(&mut self, words: Words) -> Result<()> {
        let live = self.live();
        let texts = self.labelled(&live);
        let words = self.biased_words(&texts, words)?;
        let seed = self.step as u64;
        let read = |i: usize| Ok(texts[i].clone());
        let copies = audit::extra_copies(live.len(), &words, Segmentation::Segmenter, seed, &read)?;
        for (&place, copies) in live.iter().zip(copies) {
            for copy in 0..copies {
                let mut item = self.items[place].clone();
                item.record.id = format!("{}#{}", item.record.id, copy + 2);
                self.push(item, "copy", "has a word that tells another label".to_owned(), |_| {});
            }
        }
        Ok(())
    }

    /// Puts a new record behind the others, under an id of its own.
    fn push(&mut self, mut item: Item, change: &str, reason: String, tell: impl FnOnce(&mut ChangeRecord)) {
        while !self.ids.insert(item.record.id.clone()) {
            item.record.id.push('+');
        }
        item.origin = None;
        self.items.push(item);
        self.note(self.items.len() - 1, change, reason, tell);
    }

    /// What of a pool says something that the data have not said yet, taken out or not.
    fn not_there_yet(&mut self, pool: Vec<Record>) -> Vec<Record> {
        let said = |record: &Record| audit::normalised(&record.text, record.pair.as_deref());
        let known: HashSet<_> = self.items.iter().map(|item| said(&item.record)).collect();
        let all = pool.len();
        let new: Vec<Record> = pool.into_iter().filter(|record| !known.contains(&said(record))).collect();
        if new.len() < all {
            let left_out = all - new.len();
            self.told.push(format!(
                "step {}: add: {left_out} of the pool's {all} are in the data already, and left out",
                self.step
            ));
        }
        new
    }

    fn add(
        &mut self,
        pool: &[Record],
        answers: &Answers,
        targets: &str,
        target_count: Amount,
        options: &PoolOptions,
    ) -> Result<()> {
        if pool.is_empty() {
            return Ok(());
        }
        let store = self.evidence.pool(pool, &pool_name(pool))?;
        let files = if options.choice.has_targets() { self.plan.set(targets)? } else { &[] };
        let chosen = self.evidence.select(&store, (files, &|n| target_count.of(n)), options)?;
        let by_id: HashMap<&str, &Record> = pool.iter().map(|record| (record.id.as_str(), record)).collect();
        for selected in chosen {
            let Some(&record) = by_id.get(selected.id.as_str()) else { continue };
            let label = answers.of(&record.id, None).or(record.label.as_ref()).cloned();
            let label = label.ok_or_else(|| {
                Error::usage(format!("add: record {} of the pool was chosen, and has no label", record.id))
                    .with_hint("give labels with answers = [\"FILE\"], or let a continual plan ask for them")
            })?;
            let to = Some(value(&label));
            let reason = selected.target.as_ref().map_or_else(
                || format!("chosen by {}", options.choice),
                |target| format!("chosen by {} for {target}", options.choice),
            );
            let record = Record { label: Some(label), ..record.clone() };
            let item = Item { record, weight: 1.0, dropped: false, origin: None };
            let score = Some(f64::from(selected.score));
            self.push(item, "add", reason, |record| (record.to, record.score) = (to, score));
        }
        Ok(())
    }

    fn augment(
        &mut self,
        change: Change,
        count: Amount,
        share: f64,
        targets: &str,
        target_count: Amount,
    ) -> Result<()> {
        let (live, places) = (self.live(), self.by_origin());
        let count = count.of(live.len());
        let files = self.plan.set(targets)?.to_vec();
        let least = self.evidence.least_covered(&files, &self.plan.columns, 10, |n| target_count.of(n))?;
        let texts = live.iter().map(|&place| self.items[place].record.text.as_str());
        let contexts = Contexts::of(texts, Segmentation::Segmenter);
        let deepest = least.iter().map(|(_, result)| result.proponents.len()).max().unwrap_or(0);
        let (mut seen, mut made) = (HashSet::new(), 0);
        for depth in 0..deepest {
            for (_, target) in &least {
                let Some(near) = target.proponents.get(depth) else { continue };
                let Some(&place) = places.get(&near.index).filter(|place| !self.items[**place].dropped) else {
                    continue;
                };
                if made == count || !seen.insert(place) {
                    continue;
                }
                let mut item = self.items[place].clone();
                let draw = Draw { seed: self.step as u64, record: item.record.index, copy: 0 };
                let text = &item.record.text;
                let Some(text) = audit::augment(text, change, share, &contexts, Segmentation::Segmenter, draw) else {
                    continue;
                };
                item.record.id = format!("{}~{change}", item.record.id);
                item.record.text = text;
                let score = Some(f64::from(near.score));
                self.push(item, "augment", format!("near {}, which is little covered", target.id), |r| r.score = score);
                made += 1;
            }
        }
        Ok(())
    }
}

/// Arms have pools of their own, and of one pool they leave out what they have.
fn pool_name(pool: &[Record]) -> String {
    let mut hasher = blake3::Hasher::new();
    for record in pool {
        for part in [&record.id, &record.text, record.pair.as_ref().unwrap_or(&String::new())] {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
        }
    }
    format!("pool-{}", &hasher.finalize().to_hex()[..16])
}

fn shuffled(mut places: Vec<usize>, seed: u64) -> Vec<usize> {
    Stream::new(seed, Purpose::Shuffle).shuffle(&mut places, |last| (2, last as u32));
    places
}
