//! What a model makes of its training data: the store of their factors, and the audits that read it. Everything is made
//! when first asked for, and kept.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::data;
use super::plan::{Columns, Plan};
use super::trial::Machine;
use crate::audit::{self, Dirty, DirtyOptions, Signal};
use crate::dataset::Record;
use crate::error::{Error, Result};
use crate::factors::LabelUsed;
use crate::model::{LoadOptions, Model};
use crate::pipeline::{
    IndexOptions, PoolOptions, Progress, candidates_per_target, index, nearest_records, select_from_pool,
};
use crate::report::{DirtyLabel, Format, RecordWriter, SearchResult, SelectedRecord};
use crate::store::Store;
use crate::train::Dynamics;
use crate::{interrupt, search};

/// Nearest training records that a record's coverage is the mean of.
const NEAREST: usize = 3;
/// Nearest training records that vote on a label.
const VOTERS: usize = 10;
/// Memory for searches.
const MEMORY: usize = 1 << 30;

/// Of one model and the data it was trained on.
pub(super) struct Evidence<'a> {
    pub(super) plan: &'a Plan,
    pub(super) machine: &'a Machine,
    /// Where what is made is kept.
    pub(super) folder: PathBuf,
    /// The model's directory.
    pub(super) model_at: PathBuf,
    /// The dynamics of its training.
    pub(super) dynamics_at: PathBuf,
    pub(super) files: Vec<String>,
    pub(super) columns: Columns,
    pub(super) made: Made,
}

/// What has been made so far.
#[derive(Default)]
pub(super) struct Made {
    model: OnceCell<Model>,
    store: OnceCell<Store>,
    dirty: RefCell<HashMap<&'static str, Rc<Dirty>>>,
}

impl Evidence<'_> {
    pub(super) fn model(&self) -> Result<&Model> {
        if self.made.model.get().is_none() {
            let (max_length, precision) = (self.plan.train.max_length, self.machine.precision);
            let options = LoadOptions { max_length, precision, ..LoadOptions::default() };
            let model = Model::load(&self.model_at.to_string_lossy(), self.machine.device.clone(), &options)?;
            drop(self.made.model.set(model));
        }
        Ok(self.made.model.get().expect("just set"))
    }

    /// Of the training data.
    pub(super) fn store(&self) -> Result<&Store> {
        if self.made.store.get().is_none() {
            let store = self.index(&self.files, &self.columns, LabelUsed::Gold, "store")?;
            drop(self.made.store.set(store));
        }
        Ok(self.made.store.get().expect("just set"))
    }

    /// Of a pool, whose labels nobody looks at.
    pub(super) fn pool(&self, pool: &[Record], name: &str) -> Result<Store> {
        std::fs::create_dir_all(&self.folder).map_err(Error::io(&self.folder))?;
        let file = self.folder.join(format!("{name}.jsonl"));
        data::write_bare(&file, pool)?;
        let (files, columns) = (vec![file.to_string_lossy().into_owned()], Columns::default());
        self.index(&files, &columns, LabelUsed::Predicted, name)
    }

    fn index(&self, files: &[String], columns: &Columns, target: LabelUsed, name: &str) -> Result<Store> {
        std::fs::create_dir_all(&self.folder).map_err(Error::io(&self.folder))?;
        let at = self.folder.join(name);
        let options = IndexOptions { target, resume: true, ..IndexOptions::default() };
        let columns = Columns { weight: None, ..columns.clone() };
        let settings = &self.machine.settings;
        index(
            self.model()?,
            data::open(files, &columns)?,
            &at,
            &options,
            settings,
            &mut self.machine.told_rejections(),
        )?;
        Store::open(&at)
    }

    pub(super) fn dynamics(&self) -> Result<Dynamics> {
        Dynamics::open(&self.dynamics_at)
    }

    /// Suspect labels by a signal; the findings lie beside the store.
    pub(super) fn dirty(&self, signal: Signal) -> Result<Rc<Dirty>> {
        if let Some(found) = self.made.dirty.borrow().get(signal.name()) {
            return Ok(Rc::clone(found));
        }
        let (store, dynamics) = (self.store()?, self.dynamics()?);
        let bar = Progress::new("nearest records", Some(store.rows() as u64), self.machine.settings.quiet);
        let progress = |done: u64, all: u64| {
            bar.set(done * store.rows() as u64 / all.max(1), done);
            !interrupt::asked()
        };
        let options = DirtyOptions {
            signal,
            neighbours: VOTERS,
            dynamics: Some(&dynamics),
            penalty: 0.06,
            damping: 0.01,
            seed: 0,
            search: search::Options { memory: MEMORY, progress: Some(&progress), ..search::Options::default() },
            keep_going: &|| !interrupt::asked(),
        };
        let dirty = Rc::new(audit::dirty(store, &options)?);
        let path = self.folder.join(format!("dirty-{signal}.jsonl"));
        let signals: Vec<Signal> = dirty.signals.iter().map(|(signal, _)| *signal).collect();
        let mut writer = RecordWriter::create(Some(&path), Format::Jsonl, DirtyLabel::columns(&signals))?;
        (0..dirty.ranking.len()).try_for_each(|rank| writer.write(&DirtyLabel::of(store, &dirty, rank)?))?;
        writer.finish()?;
        self.made.dirty.borrow_mut().insert(signal.name(), Rc::clone(&dirty));
        Ok(dirty)
    }

    /// The `count` least covered records of some files, each with its nearest training records, least covered first.
    pub(super) fn least_covered(
        &self,
        files: &[String],
        columns: &Columns,
        k: usize,
        count: impl Fn(usize) -> usize,
    ) -> Result<Vec<(usize, SearchResult)>> {
        let near = self.near(self.store()?, files, columns, k.max(NEAREST))?;
        let similarity = |result: &SearchResult| audit::mean(result.proponents.iter().take(NEAREST).map(|n| n.score));
        let mut near: Vec<(usize, SearchResult)> = near.into_iter().enumerate().collect();
        near.sort_by(|a, b| similarity(&a.1).total_cmp(&similarity(&b.1)).then(a.0.cmp(&b.0)));
        near.truncate(count(near.len()));
        Ok(near)
    }

    fn near(&self, store: &Store, files: &[String], columns: &Columns, k: usize) -> Result<Vec<SearchResult>> {
        let columns = Columns { weight: None, ..columns.clone() };
        let (dataset, rejections) = (data::open(files, &columns)?, &mut self.machine.told_rejections());
        nearest_records(self.model()?, store, dataset, k, MEMORY, &self.machine.settings, rejections)
    }

    /// Records of a pool that are worth a label. `targets` are the files whose least covered records are chosen for,
    /// and how many of them.
    pub(super) fn select(
        &self,
        pool: &Store,
        targets: (&[String], &dyn Fn(usize) -> usize),
        options: &PoolOptions,
    ) -> Result<Vec<SelectedRecord>> {
        if !options.choice.has_targets() {
            return select_from_pool(pool, &[], options);
        }
        let (files, count) = targets;
        let columns = &self.plan.columns;
        let least = self.least_covered(files, columns, NEAREST, count)?;
        let k = candidates_per_target(options.most, least.len(), pool.rows());
        let near = self.near(pool, files, columns, k)?;
        let targets: Vec<_> = least.iter().map(|(place, train)| (train, &near[*place])).collect();
        select_from_pool(pool, &targets, &PoolOptions { nearest: NEAREST, memory: MEMORY, ..*options })
    }
}

/// A path as data files are given.
pub(super) fn file(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
