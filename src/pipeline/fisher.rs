//! `curvature`: what influence over a whole network is preconditioned by, fitted to the records of a store.

use std::fs;
use std::path::Path;

use rayon::prelude::*;

use super::answers::{Column, stored_target};
use super::{Progress, Settings, Summary};
use crate::dataset::Record;
use crate::error::{Error, Result};
use crate::factors::{self, FisherForm, FisherLabels, LabelUsed, LayerFisher, Target, fisher_gradient};
use crate::interrupt;
use crate::model::{Basis, Model, Observer};
use crate::store::{Fisher, FisherSettings, SelfInfluence, Store};
use crate::tokens::Encoding;

/// What is fitted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FisherOptions {
    /// Which eigenvalues.
    pub form: FisherForm,
    /// Whose labels gradients are of.
    pub labels: FisherLabels,
    /// Records it is fitted to at the most, spread evenly over the store.
    pub records: usize,
    /// Of the labels' draws.
    pub seed: u64,
    /// Also every record's self-influence, for relatif, at this damping.
    pub self_influence: Option<f64>,
}

/// λ over a layer's mean eigenvalue, where the user has not said (as kronfluence's heuristic has it).
pub const DAMPING: f64 = 0.1;

impl Default for FisherOptions {
    fn default() -> Self {
        Self { form: FisherForm::Ekfac, labels: FisherLabels::Model, records: 100_000, seed: 0, self_influence: None }
    }
}

/// Records whose products are one chain of f32 sums; chains are added up in f64, in their order.
const WINDOW: usize = 256;

/// Fits the curvature of `model` to the records of `store`, and writes it to `directory`, which is made where there is
/// none.
///
/// # Errors
/// Where model and store do not belong together, a text no longer fits the model, or a number is not finite.
pub fn fit_fisher(
    model: &Model,
    store: &Store,
    directory: &Path,
    options: &FisherOptions,
    settings: &Settings,
) -> Result<Summary> {
    let head = model.head_fingerprint().unwrap_or_default();
    store.check_model(model.fingerprint(), head, model.tokenizer().fingerprint(), model.max_length())?;
    let n = store.rows().min(options.records);
    if n == 0 {
        return Err(Error::usage("there are no training records to fit a curvature to"));
    }
    if options.self_influence.is_some_and(|damping| !(damping.is_finite() && damping > 0.0)) {
        return Err(Error::usage("--lambda: expected a number above 0"));
    }
    let all: Vec<usize> = (0..store.rows()).collect();
    let some: Vec<usize> = (0..n).map(|i| (i as u128 * store.rows() as u128 / n as u128) as usize).collect();
    let passes = match options.form {
        FisherForm::Kfac => n,
        FisherForm::Ekfac => 2 * n,
    } + options.self_influence.map_or(0, |_| all.len());
    let mut fit = Fit {
        model,
        store,
        options,
        settings,
        observer: Observer::new(model)?,
        progress: Progress::new("fitting", Some(passes as u64), settings.quiet),
        done: 0,
        tokens: 0,
    };
    // Now: hours from here is no time to hear that there is no place for the result.
    fs::create_dir_all(directory).map_err(Error::io(directory))?;
    let mut layers = fit.factors(&some)?;
    if options.form == FisherForm::Ekfac || options.self_influence.is_some() {
        let bases: Vec<_> = layers.iter().map(basis).collect();
        fit.observer.set_bases(&bases)?;
    }
    if options.form == FisherForm::Ekfac {
        fit.correct(&some, &mut layers)?;
    }
    let self_influence =
        options.self_influence.map(|damping| fit.self_influence(&all, &layers, damping)).transpose()?;
    let described = FisherSettings {
        model_fingerprint: model.fingerprint().to_owned(),
        data_fingerprint: store.records_fingerprint(),
        form: options.form,
        labels: options.labels,
        seed: options.seed,
        records: n as u64,
    };
    Fisher { settings: described, layers, self_influence }.write(directory)?;
    let (numbered, records) = (store.records_total(), n as u64);
    Ok(Summary { numbered, records, tokens: fit.tokens, seconds: fit.progress.seconds(), ..Summary::default() })
}

/// The basis that a layer's gradients are turned to.
pub(super) fn basis(layer: &LayerFisher) -> Basis<'_> {
    Basis { inputs: &layer.input_vectors, outputs: &layer.output_vectors }
}

/// The label that a stored record's gradient is of.
pub(super) fn target_of(store: &Store, row: usize) -> Result<Target> {
    let label = match store.settings().target {
        LabelUsed::Gold => stored_target(store, row, Column::Labels),
        LabelUsed::Predicted => None,
    };
    label
        .or_else(|| stored_target(store, row, Column::Predictions))
        .ok_or_else(|| Error::usage(format!("row {row} of the store has no label")))
}

/// A fit under way.
struct Fit<'a> {
    model: &'a Model,
    store: &'a Store,
    options: &'a FisherOptions,
    settings: &'a Settings,
    observer: Observer,
    progress: Progress,
    done: usize,
    tokens: u64,
}

impl Fit<'_> {
    /// Both sides' second moments over `rows`, in their eigenvectors.
    fn factors(&mut self, rows: &[usize]) -> Result<Vec<LayerFisher>> {
        for window in rows.chunks(WINDOW) {
            let encodings = self.encode(window)?;
            self.tokens += encodings.iter().map(|encoding| encoding.ids.len() as u64).sum::<u64>();
            let targets = self.targets(window)?;
            let seed = |place: usize, z: &[f32], dz: &mut [f32]| self.seed(window[place], &targets[place], z, dz);
            let (borrowed, tokens) = (encodings.iter().collect::<Vec<_>>(), self.settings.batch_tokens);
            self.observer.add_moments(&borrowed, tokens, &seed, &|| !interrupt::asked())?;
            self.advance(window.len());
        }
        let (layers, sums) = (self.observer.layers(), self.observer.moments()?);
        layers.par_iter().zip(&sums).map(|(layer, sums)| LayerFisher::new(layer, sums, rows.len() as u64)).collect()
    }

    /// EK-FAC's eigenvalues: the means over `rows` of squared gradients in the eigenvectors.
    fn correct(&mut self, rows: &[usize], layers: &mut [LayerFisher]) -> Result<()> {
        for window in rows.chunks(WINDOW) {
            let (encodings, targets) = (self.encode(window)?, self.targets(window)?);
            let seed = |place: usize, z: &[f32], dz: &mut [f32]| self.seed(window[place], &targets[place], z, dz);
            let (borrowed, tokens) = (encodings.iter().collect::<Vec<_>>(), self.settings.batch_tokens);
            self.observer.add_squares(&borrowed, tokens, &seed, &|| !interrupt::asked())?;
            self.advance(window.len());
        }
        let sums = self.observer.squares()?;
        for (layer, sums) in layers.iter_mut().zip(sums) {
            layer.corrected = Some(sums.into_iter().map(|sum| (sum / rows.len() as f64) as f32).collect());
        }
        Ok(())
    }

    /// `g_iᵀ (F + λI)⁻¹ g_i` of `rows`, g the gradients of their losses as they were stored.
    fn self_influence(&mut self, rows: &[usize], layers: &[LayerFisher], damping: f64) -> Result<SelfInfluence> {
        let inverses: Vec<_> = layers.iter().map(|layer| layer.inverse(self.options.form, damping)).collect();
        self.observer.set_weights(&inverses)?;
        let problem = self.model.problem();
        let mut values = Vec::with_capacity(rows.len());
        for window in rows.chunks(WINDOW) {
            let (encodings, targets) = (self.encode(window)?, self.targets(window)?);
            let seed = |place: usize, z: &[f32], dz: &mut [f32]| {
                factors::output_gradient(problem, z, &targets[place], dz);
            };
            let (borrowed, tokens) = (encodings.iter().collect::<Vec<_>>(), self.settings.batch_tokens);
            let (forms, logits) = self.observer.weighted_squares(&borrowed, tokens, &seed, &|| !interrupt::asked())?;
            let classes = self.model.classes();
            let mut unread = vec![0.0; classes];
            for ((form, z), target) in forms.iter().zip(logits.chunks_exact(classes)).zip(&targets) {
                let slope = f64::from(factors::output_gradient(problem, z, target, &mut unread));
                values.push((slope * slope * form) as f32);
            }
            self.advance(window.len());
        }
        let indices = self.store.shards().iter().flat_map(|shard| shard.indices().iter().copied()).collect();
        Ok(SelfInfluence { damping, indices, values })
    }

    /// The gradient at the logits of a record in row `row`.
    fn seed(&self, row: usize, target: &Target, logits: &[f32], gradient: &mut [f32]) {
        let problem = self.model.problem();
        match self.options.labels {
            FisherLabels::Model => {
                let (shard, place) = self.store.locate(row);
                let index = self.store.shards()[shard].indices()[place];
                fisher_gradient(problem, logits, self.options.seed, index, gradient);
            }
            FisherLabels::Data => {
                factors::loss_and_delta(problem, logits, target, gradient);
            }
        }
    }

    fn targets(&self, rows: &[usize]) -> Result<Vec<Target>> {
        rows.iter().map(|&row| target_of(self.store, row)).collect()
    }

    fn encode(&self, rows: &[usize]) -> Result<Vec<Encoding>> {
        interrupt::check()?;
        let encode = |&row: &usize| {
            let record = self.store.record(row)?;
            self.model.encode(&Record { text: record.text, pair: record.pair, ..Record::default() })
        };
        rows.par_iter().map(encode).collect()
    }

    fn advance(&mut self, records: usize) {
        self.done += records;
        self.progress.set(self.done as u64, self.done as u64);
    }
}
