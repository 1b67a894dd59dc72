//! The continual loop: new data in, the labels worth asking for, a training, a gate; and back to what was before where
//! it is worse.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::apply::Work;
use super::compare::{self, gained, watched};
use super::data::{self, Answers, Item, value};
use super::evidence::{Evidence, Made, file};
use super::folder;
use super::plan::{Columns, Continual, Plan};
use super::trial::{DYNAMICS, MODEL, Machine, Trial, TrialResult, Trials};
use crate::audit::Signal;
use crate::dataset::{Label, Record, matches};
use crate::error::{Error, Result};
use crate::model::ClassNames;
use crate::pipeline::PoolOptions;
use crate::report::{AskedRecord, ComparedSet, Destination, Format, RecordWriter, Render, RoundRecord};
use crate::train::Metric;

const ROUND: &str = "round.json";
const ASK: &str = "ask.jsonl";
const ANSWERS: &str = "answers.jsonl";
const DATA: &str = "data.jsonl";
const CHANGES: &str = "changes.jsonl";
/// What of the pool has no label yet.
const WAITING: &str = "waiting.jsonl";
/// What a round that was rolled back had bought: it is tried once more, together with what comes next.
const HELD: &str = "held.jsonl";
/// Records of dev that are chosen for, where the choice has targets.
const TARGETS: usize = 50;

/// Where a continual plan stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Standing {
    /// Every batch has had its round.
    Done(Vec<RoundRecord>),
    /// A batch's file is not there yet.
    NoData {
        /// The rounds so far.
        rounds: Vec<RoundRecord>,
        /// The file.
        missing: String,
    },
    /// Labels are asked for.
    Asking {
        /// The rounds so far.
        rounds: Vec<RoundRecord>,
        /// The records that are asked about.
        ask: PathBuf,
        /// Where their labels are looked for.
        answers: PathBuf,
        /// How many have none.
        missing: usize,
    },
}

/// Goes through the rounds of a continual plan in a folder, as far as data and labels are there; `tell` hears of each.
///
/// # Errors
/// As [`super::improve`]; [`Error::Usage`] where the plan has no rounds.
pub fn continual(
    plan: &Plan,
    out: &Path,
    overwrite: bool,
    machine: &Machine,
    tell: &mut dyn FnMut(&str),
) -> Result<Standing> {
    let Some(rounds) = &plan.continual else {
        return Err(
            Error::usage("the plan has no batches of data").with_hint("add [continual] with batches and budget")
        );
    };
    let _claim = folder::claim(out, plan, overwrite, machine)?;
    let mut trials = Trials::new(plan, machine)?;
    let head = trials.head().clone();
    let classes = trials.classes().clone();
    let mut running = Loop {
        plan,
        rounds,
        out,
        machine,
        metric: watched(plan, head.problem),
        classes,
        done: Vec::new(),
        asked: HashSet::new(),
        state: State::default(),
    };
    running.begin(&mut trials, tell)?;
    let standing = running.go(&mut trials, tell)?;
    running.write()?;
    Ok(standing)
}

/// What the model in use is, and what it came from.
#[derive(Default)]
struct State {
    /// The folder of its trainings.
    folder: PathBuf,
    files: Vec<String>,
    columns: Columns,
    sets: Vec<ComparedSet>,
    waiting: Vec<Record>,
    held: Vec<Item>,
}

struct Loop<'a> {
    plan: &'a Plan,
    rounds: &'a Continual,
    out: &'a Path,
    machine: &'a Machine,
    metric: Metric,
    classes: ClassNames,
    done: Vec<RoundRecord>,
    /// The ids of suspect records that a person has been asked about.
    asked: HashSet<String>,
    state: State,
}

impl<'a> Loop<'a> {
    /// The training before the first batch.
    fn begin(&mut self, trials: &mut Trials<'_>, tell: &mut dyn FnMut(&str)) -> Result<()> {
        let folder = self.out.join("before");
        let (files, columns) = (self.plan.data.clone(), self.plan.columns.clone());
        let results = self.train(trials, &folder, &files, &columns)?;
        let sets = compare::sets(self.plan, &results, None);
        let records = results.first().map_or(0, |result| result.records);
        let reason = "the data that there were".to_owned();
        self.done.push(RoundRecord { records, sets: sets.clone(), accepted: true, reason, ..RoundRecord::default() });
        self.state = State { folder, files, columns, sets, ..State::default() };
        tell(self.done[0].render(false).trim_end());
        Ok(())
    }

    fn go(&mut self, trials: &mut Trials<'_>, tell: &mut dyn FnMut(&str)) -> Result<Standing> {
        for number in 1..=self.rounds.batches.len() {
            let at = self.out.join(format!("round-{number:03}"));
            if at.join(ROUND).exists() {
                self.take_up(&at)?;
            } else {
                let batch = &self.rounds.batches[number - 1];
                if let Some(missing) = batch.iter().find(|file| !is_there(file)) {
                    return Ok(Standing::NoData { rounds: self.done.clone(), missing: missing.clone() });
                }
                if let Some(missing) = self.round(number, &at, trials, tell)? {
                    let (ask, answers) = (at.join(ASK), at.join(ANSWERS));
                    return Ok(Standing::Asking { rounds: self.done.clone(), ask, answers, missing });
                }
            }
            tell(self.done[number].render(false).trim_end());
        }
        Ok(Standing::Done(self.done.clone()))
    }

    /// A round that is finished.
    fn take_up(&mut self, at: &Path) -> Result<()> {
        let record: RoundRecord = folder::read(&at.join(ROUND))?;
        let all: Vec<AskedRecord> = data::read_lines(&at.join(ASK))?;
        for asked in all.into_iter().filter(|asked| asked.kind == SUSPECT) {
            self.asked.insert(asked.id);
        }
        if record.accepted {
            (self.state.files, self.state.columns) = data::written(&at.join(DATA));
            at.clone_into(&mut self.state.folder);
            self.state.sets.clone_from(&record.sets);
        }
        let (waiting, _) = data::written(&at.join(WAITING));
        self.state.waiting = data::read(&waiting, &Columns::default(), &mut self.machine.told_rejections())?;
        let (held, columns) = data::written(&at.join(HELD));
        self.state.held = data::items(&held, &columns, &mut self.machine.told_rejections())?;
        self.done.push(record);
        Ok(())
    }

    /// A round; how many labels are missing, where it cannot go on without them.
    fn round(
        &mut self,
        number: usize,
        at: &Path,
        trials: &mut Trials<'_>,
        tell: &mut dyn FnMut(&str),
    ) -> Result<Option<usize>> {
        std::fs::create_dir_all(at).map_err(Error::io(at))?;
        let evidence = self.evidence(at);
        let items = data::items(&self.state.files, &self.state.columns, &mut self.machine.rejections())?;
        let pool = self.pool(number, &items)?;
        let asked = self.ask(at, &evidence, &items, &pool)?;
        let mut files = self.rounds.answers.clone();
        files.extend(at.join(ANSWERS).exists().then(|| file(&at.join(ANSWERS))));
        let answers = Answers::read(&files, &self.plan.columns)?;
        let by_id: HashMap<&str, &Record> = pool.iter().map(|record| (record.id.as_str(), record)).collect();
        let label = |asked: &AskedRecord| -> Option<Label> {
            let own = by_id.get(asked.id.as_str()).and_then(|record| record.label.as_ref());
            answers.of(&asked.id, None).or(own.filter(|_| asked.kind == NEW)).cloned()
        };
        let missing = asked.iter().filter(|asked| label(asked).is_none()).count();
        if missing > 0 {
            return Ok(Some(missing));
        }
        let mut work = Work::new(self.plan, &evidence, &self.classes, items);
        for asked in asked.iter().filter(|asked| asked.kind == SUSPECT) {
            self.asked.insert(asked.id.clone());
        }
        // Those of earlier rounds too: what was rolled back there is no less right.
        work.answer(&self.asked, &answers)?;
        let mut bought: Vec<Item> = Vec::new();
        for asked in asked.iter().filter(|asked| asked.kind == NEW) {
            let (Some(record), Some(label)) = (by_id.get(asked.id.as_str()), label(asked)) else { continue };
            self.classes.resolve(&label).map_err(|reason| Error::usage(format!("record {}: {reason}", asked.id)))?;
            let record = Record { label: Some(label), ..(*record).clone() };
            bought.push(Item { record, weight: 1.0, dropped: false, origin: None });
        }
        work.bring(self.state.held.drain(..), "held since a round that was rolled back");
        work.bring(bought.iter().cloned(), "labelled in this round");
        for step in &self.plan.steps {
            crate::interrupt::check()?;
            work.apply(step)?;
        }
        work.told.iter().for_each(|line| tell(&format!("round {number}: {line}")));
        let (items, changes) = (work.items, work.changes);
        folder::write_changes(&at.join(CHANGES), &changes)?;
        data::write(&at.join(DATA), &items)?;
        let (files, columns) = data::written(&at.join(DATA));
        let results = self.train(trials, at, &files, &columns)?;
        let sets = compare::sets(self.plan, &results, Some(&self.state.sets));
        let gain = gained(&sets, self.metric)
            .ok_or_else(|| Error::usage(format!("metric: {} is not measured of such a model", self.metric)))?;
        let accepted = !self.rounds.gate || gain >= -self.plan.tolerance;
        let taken: HashSet<&str> = asked.iter().map(|asked| asked.id.as_str()).collect();
        let waiting: Vec<Record> = pool.iter().filter(|record| !taken.contains(record.id.as_str())).cloned().collect();
        let held = if accepted { Vec::new() } else { bought };
        data::write(&at.join(WAITING), &without_weights(&waiting))?;
        data::write(&at.join(HELD), &held)?;
        let record = RoundRecord {
            round: number as u64,
            asked: asked.len() as u64,
            labels: self.done.last().map_or(0, |last| last.labels) + asked.len() as u64,
            waiting: waiting.len() as u64,
            records: if accepted { results[0].records } else { self.done.last().map_or(0, |last| last.records) },
            changes: compare::counted(&changes),
            reason: self.why(gain, accepted),
            sets,
            accepted,
        };
        folder::write(&at.join(ROUND), &record)?;
        self.take_up(at)?;
        Ok(None)
    }

    fn why(&self, gain: f64, accepted: bool) -> String {
        let than = if accepted { "no worse than" } else { "worse than" };
        let gate = if self.rounds.gate { "" } else { " (there is no gate)" };
        format!("{} of dev {:+.4}: {than} before, with a tolerance of {}{gate}", self.metric, gain, self.plan.tolerance)
    }

    fn evidence(&self, at: &Path) -> Evidence<'a> {
        let first = folder::seed(&self.state.folder, self.plan.seeds.list()[0]);
        Evidence {
            plan: self.plan,
            machine: self.machine,
            folder: at.join("audit"),
            model_at: first.join(MODEL),
            dynamics_at: first.join(DYNAMICS),
            files: self.state.files.clone(),
            columns: self.state.columns.clone(),
            made: Made::default(),
        }
    }

    /// What has no label yet: of earlier batches and of this round's. What the training data have already is not asked
    /// for.
    fn pool(&self, number: usize, items: &[Item]) -> Result<Vec<Record>> {
        let batch = data::read(&self.rounds.batches[number - 1], &self.plan.columns, &mut self.machine.rejections())?;
        let said = |record: &Record| (record.text.clone(), record.pair.clone());
        let held = items.iter().chain(&self.state.held).map(|item| &item.record);
        let mut known: HashMap<String, _> = held.map(|record| (record.id.clone(), said(record))).collect();
        let mut pool = Vec::new();
        for record in self.state.waiting.iter().cloned().chain(batch) {
            match known.entry(record.id.clone()) {
                // The place in the pool becomes the number, as it will be in the pool's store.
                Entry::Vacant(entry) => {
                    entry.insert(said(&record));
                    pool.push(Record { index: pool.len() as u64, ..record });
                }
                Entry::Occupied(known) if *known.get() == said(&record) => {}
                Entry::Occupied(_) => {
                    let id = &record.id;
                    return Err(Error::usage(format!("round {number}: id {id:?} is of two records with other texts"))
                        .with_hint("give the records of every batch ids of their own: a column id, or [columns] id"));
                }
            }
        }
        Ok(pool)
    }

    /// The records whose labels are worth asking for, the suspect ones first; written where people find them.
    fn ask(&self, at: &Path, evidence: &Evidence<'_>, items: &[Item], pool: &[Record]) -> Result<Vec<AskedRecord>> {
        let path = at.join(ASK);
        if path.exists() {
            return data::read_lines(&path);
        }
        let again = (self.rounds.recheck.clamp(0.0, 1.0) * self.rounds.budget as f64).round() as usize;
        let mut asked = if again > 0 { self.suspects(evidence, items, again)? } else { Vec::new() };
        let options = PoolOptions {
            choice: self.rounds.choose,
            most: self.rounds.budget.saturating_sub(asked.len()),
            threshold: -1.0,
            seed: self.done.len() as u64,
            ..PoolOptions::default()
        };
        if options.most > 0 && !pool.is_empty() {
            let store = evidence.pool(pool, "pool")?;
            let chosen = evidence.select(&store, (&self.plan.dev, &|n| TARGETS.min(n)), &options)?;
            asked.extend(chosen.into_iter().map(|chosen| AskedRecord {
                rank: 0,
                id: chosen.id,
                kind: NEW.to_owned(),
                score: f64::from(chosen.score),
                label: None,
                text: chosen.text,
                text_pair: chosen.text_pair,
            }));
        }
        (1..).zip(&mut asked).for_each(|(rank, asked)| asked.rank = rank);
        let mut writer = RecordWriter::create(Some(&path), Format::Jsonl, AskedRecord::columns())?;
        asked.iter().try_for_each(|asked| writer.write(asked))?;
        writer.finish()?;
        Ok(asked)
    }

    fn suspects(&self, evidence: &Evidence<'_>, items: &[Item], most: usize) -> Result<Vec<AskedRecord>> {
        let (store, dirty) = (evidence.store()?, evidence.dirty(Signal::Combined)?);
        let by_index: HashMap<u64, &Item> = items.iter().map(|item| (item.record.index, item)).collect();
        let found = dirty.ranking.iter().filter_map(|&row| {
            let (shard, place) = store.locate(row);
            let item = by_index.get(&store.shards()[shard].indices()[place])?;
            (!self.asked.contains(&item.record.id)).then(|| AskedRecord {
                rank: 0,
                id: item.record.id.clone(),
                kind: SUSPECT.to_owned(),
                score: f64::from(dirty.scores[row]),
                label: item.record.label.as_ref().map(value),
                text: item.record.text.clone(),
                text_pair: item.record.pair.clone(),
            })
        });
        Ok(found.take(most).collect())
    }

    fn train(
        &self,
        trials: &mut Trials<'_>,
        folder: &Path,
        files: &[String],
        columns: &Columns,
    ) -> Result<Vec<TrialResult>> {
        let run = |(number, seed): (usize, u64)| {
            let at = folder::seed(folder, seed);
            trials.run(&Trial { files, columns, seed, folder: &at, keep: number == 0 })
        };
        self.plan.seeds.list().into_iter().enumerate().map(run).collect()
    }

    /// All rounds, as one file to look at and to make a page of.
    fn write(&self) -> Result<()> {
        let mut json = Destination::create(Some(&self.out.join("rounds.jsonl")))?;
        let mut text = Destination::create(Some(&self.out.join("rounds.txt")))?;
        for round in &self.done {
            let line = serde_json::to_string(round).map_err(|error| Error::format(self.out, error.to_string()))?;
            json.write(format!("{line}\n").as_bytes())?;
            text.write(round.render(false).as_bytes())?;
        }
        json.finish()?;
        text.finish()
    }
}

/// Whether a file, or any that a pattern stands for, is there.
fn is_there(file: &str) -> bool {
    matches(file).is_ok_and(|paths| paths.iter().all(|path| path.exists()))
}

const NEW: &str = "new";
const SUSPECT: &str = "suspect";

fn without_weights(records: &[Record]) -> Vec<Item> {
    let item = |record: &Record| Item { record: record.clone(), weight: 1.0, dropped: false, origin: None };
    records.iter().map(item).collect()
}
