//! A chunk of records as queries: what each asks, and what is known of it before the search.

use super::answers::{Asked, shown_target};
use super::prepared::{Asking, joined};
use super::queries::{QueryTarget, SearchOptions};
use super::{Chunk, Pass};
use crate::dataset::{Label, Record};
use crate::error::{Error, Result};
use crate::factors::{self, Target};
use crate::model::{ClassNames, Problem};
use crate::report::{SearchResult, class_value};

/// The target that every query shares, where it is one label.
fn target_for_all(classes: &ClassNames, target: &QueryTarget) -> Result<Option<Target>> {
    let QueryTarget::Label(name) = target else { return Ok(None) };
    let label = match classes.problem() {
        Problem::MultiLabel => Label::Many(vec![Label::Name(name.clone())]),
        Problem::SingleLabel | Problem::Regression | Problem::Headless => Label::Name(name.clone()),
    };
    classes.resolve(&label).map(Some).map_err(|reason| Error::usage(format!("--target: {reason}")))
}

/// What stays the same from query to query on the asking side.
pub(super) struct Asker<'a> {
    classes: &'a ClassNames,
    options: &'a SearchOptions,
    target: Option<Target>,
    /// Whether what stands for features are gradients of the whole model.
    projected: bool,
}

impl<'a> Asker<'a> {
    pub(super) fn new(classes: &'a ClassNames, options: &'a SearchOptions, projected: bool) -> Result<Self> {
        Ok(Self { classes, options, target: target_for_all(classes, &options.target)?, projected })
    }

    /// The label that a query is explained for.
    pub(super) fn explained(&self, gold: Option<&Target>, logits: &[f32]) -> Target {
        match (&self.options.target, &self.target, gold) {
            (_, Some(target), _) | (QueryTarget::Gold, None, Some(target)) => target.clone(),
            _ => factors::predict(self.classes.problem(), logits),
        }
    }

    /// The records of a chunk as they ask.
    pub(super) fn asked(&self, chunk: &Chunk) -> Result<Vec<Asked>> {
        let one = |i| {
            let asking = self.asking(chunk, i)?;
            let result = self.result(chunk, i, &asking.target);
            Ok(Asked { asking, result, own_row: None })
        };
        (0..chunk.records.len()).map(one).collect()
    }

    /// Record i of the chunk with its factors: δ is the gradient of its loss against its target.
    fn asking(&self, chunk: &Chunk, i: usize) -> Result<Asking> {
        let problem = self.classes.problem();
        let target = self.target_of(chunk, i)?;
        let factors = |pass: &Pass| {
            let mut delta = vec![0.0; pass.classes];
            if self.projected {
                delta = vec![factors::output_gradient(problem, pass.logits(i), &target, &mut delta)];
            } else {
                factors::loss_and_delta(problem, pass.logits(i), &target, &mut delta);
            }
            (pass.features(i).to_vec(), delta)
        };
        let (features, delta) = factors(&chunk.passes[0]);
        let checkpoints = chunk.passes[1..].iter().map(factors).collect();
        let text = joined(&chunk.records[i].text, chunk.records[i].pair.as_deref());
        Ok(Asking { features, delta, target, checkpoints, bundles: Vec::new(), text })
    }

    fn target_of(&self, chunk: &Chunk, i: usize) -> Result<Target> {
        match (&self.options.target, &self.target, &chunk.gold[i]) {
            (QueryTarget::Gold, None, None) if self.options.rule.needs_target() => {
                let id = &chunk.records[i].id;
                Err(Error::usage(format!("query {id}: no label, and --target gold explains labels"))
                    .with_hint("use --target predicted"))
            }
            (_, _, gold) => Ok(self.explained(gold.as_ref(), chunk.passes[0].logits(i))),
        }
    }

    /// A result with everything but its neighbours.
    fn result(&self, chunk: &Chunk, i: usize, target: &Target) -> SearchResult {
        let (problem, names) = (self.classes.problem(), self.classes.names());
        let Record { id, index, text, pair, .. } = chunk.records[i].clone();
        let logits = chunk.passes[0].logits(i);
        let predicted = factors::predict(problem, logits);
        let probability = match &predicted {
            Target::Class(class) => factors::probabilities(problem, logits).get(*class).copied(),
            Target::Classes(_) | Target::Values(_) => None,
        };
        SearchResult {
            id,
            index,
            text,
            text_pair: pair,
            label: chunk.gold[i].as_ref().map(|gold| class_value(gold, names)),
            predicted: shown_target(problem, &predicted, names),
            probability,
            target: shown_target(problem, target, names),
            span: None,
            rule: self.options.rule.name().to_owned(),
            proponents: Vec::new(),
            opponents: Vec::new(),
            groups: Vec::new(),
            candidates: None,
            certain: None,
        }
    }
}
