//! `search --exact N`: the records at both ends of a search by projected gradients, scored again by the gradients
//! themselves.
//!
//! A projection's scores are right in the mean; these are right. For so few records nothing has to be stored of them:
//! they are run through the model again, from the texts that the store keeps.

use std::cmp::Ordering;

use rayon::prelude::*;

use super::Settings;
use super::fisher::target_of;
use super::preconditioned::{Preconditioning, check_parameters};
use super::prepared::self_influence;
use super::queries::ResultSink;
use super::runner::Runner;
use crate::dataset::{Label, Record};
use crate::error::{Error, Result};
use crate::factors::{self, FisherForm, Product, Target};
use crate::interrupt;
use crate::model::{LayerFactors, Model, Observer, Problem, Projection, ProjectionKind};
use crate::report::{Neighbour, NeighbourList, PairDetail, SearchResult, TokenPairs};
use crate::search::Rule;
use crate::store::{Fisher, Store};
use crate::tokens::Encoding;

/// What is scored again, and what is told of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExactOptions {
    /// Records of each end.
    pub records: usize,
    /// Each neighbour's score by layer.
    pub layers: bool,
    /// And by pairs of tokens, the query's with its own.
    pub token_pairs: bool,
}

/// Records scored at a time: their factors are all in memory.
const TOGETHER: usize = 16;

/// Scores results again before it hands them on.
pub(super) struct Exact<'a> {
    /// Where results go then.
    pub(super) inner: &'a mut dyn ResultSink,
    pub(super) scoring: Scoring<'a>,
}

/// How results are scored again.
pub(super) struct Scoring<'a> {
    pub(super) model: &'a Model,
    pub(super) store: &'a Store,
    pub(super) rule: Rule,
    pub(super) options: ExactOptions,
    /// How many neighbours are wanted at each end.
    pub(super) top_k: usize,
    pub(super) settings: &'a Settings,
    pub(super) way: Way<'a>,
}

/// What a record's gradient is multiplied with.
pub(super) enum Way<'a> {
    /// The query's own.
    Own(Observer),
    /// The query's, preconditioned; and the norms that scores are over.
    Preconditioned { observer: Observer, by: Preconditioning<'a>, norms: Option<Vec<f32>> },
}

/// A query's side.
enum Side {
    Factors(Vec<LayerFactors>, f64),
    Matrices(Vec<f32>),
}

/// A text run through the model again.
struct Ran {
    encoding: Encoding,
    factors: Vec<LayerFactors>,
    /// Of the loss in the output function.
    slope: f64,
}

impl<'a> Way<'a> {
    pub(super) fn new(
        model: &'a Model,
        store: &Store,
        rule: Rule,
        whole: Option<(&Fisher, (FisherForm, f64))>,
        target: &'a (dyn Fn(Option<&Target>, &[f32]) -> Target + Sync),
    ) -> Result<Self> {
        if let Some(projection) = &store.settings().gradients {
            check_parameters(projection, "--exact")?;
        }
        let observer = Observer::new(model)?;
        match (rule, whole) {
            (Rule::ProjectedDot | Rule::ProjectedCos, _) => Ok(Self::Own(observer)),
            (Rule::Influence | Rule::RelatIf, Some((fisher, whole))) => {
                let unprojected = Projection { kind: ProjectionKind::Identity, ..Projection::default() };
                let by = Preconditioning::new(model, fisher, whole, &unprojected, target)?;
                let norms = (rule == Rule::RelatIf).then(|| self_influence(store, fisher, whole)).transpose()?;
                Ok(Self::Preconditioned { observer, by, norms })
            }
            _ => Err(Error::usage(format!("--exact: rule {rule} is not of two records' gradients alone"))
                .with_hint("use projected-dot, projected-cos, or influence and relatif with --hessian ekfac or kfac")),
        }
    }

    fn observer(&self) -> &Observer {
        match self {
            Self::Own(observer) | Self::Preconditioned { observer, .. } => observer,
        }
    }
}

impl ResultSink for Exact<'_> {
    fn write(&mut self, result: &SearchResult) -> Result<()> {
        let mut result = result.clone();
        let mut pool = std::mem::take(&mut result.proponents);
        let known: Vec<u64> = pool.iter().map(|neighbour| neighbour.index).collect();
        pool.extend(result.opponents.drain(..).filter(|neighbour| !known.contains(&neighbour.index)));
        self.scoring.score(&result, &mut pool)?;
        result.proponents = self.scoring.end(&pool, |a, b| b.score.total_cmp(&a.score));
        result.opponents = self.scoring.end(&pool, |a, b| a.score.total_cmp(&b.score));
        // What was certain was so of other scores.
        result.certain = None;
        self.inner.write(&result)
    }

    fn write_all(&mut self, _: &SearchResult<NeighbourList<'_>>) -> Result<()> {
        Err(Error::usage("--exact: full rankings are not scored again").with_hint("use --top-k with a number"))
    }
}

impl Scoring<'_> {
    /// The first of `pool` by `order`.
    fn end(&self, pool: &[Neighbour], order: fn(&Neighbour, &Neighbour) -> Ordering) -> Vec<Neighbour> {
        let mut end = pool.to_vec();
        end.sort_by(|a, b| order(a, b).then(a.index.cmp(&b.index)));
        end.truncate(self.top_k);
        end.iter_mut().zip(1..).for_each(|(neighbour, rank)| neighbour.rank = rank);
        end
    }

    fn score(&self, result: &SearchResult, pool: &mut [Neighbour]) -> Result<()> {
        let (query, side) = self.query(result)?;
        for some in pool.chunks_mut(TOGETHER) {
            interrupt::check()?;
            let rows = some.iter().map(|neighbour| self.row(neighbour.index)).collect::<Result<Vec<_>>>()?;
            let texts = some.iter().map(|neighbour| (neighbour.text.clone(), neighbour.text_pair.clone())).collect();
            let targets = rows.iter().map(|&row| target_of(self.store, row)).collect::<Result<Vec<_>>>()?;
            let ran = self.run(texts, &|place, _| targets[place].clone())?;
            some.par_iter_mut().zip(&ran).zip(&rows).for_each(|((neighbour, record), &row)| {
                let (product, scale) = self.product(&query, &side, record, row);
                neighbour.score = (scale * product.sum()) as f32;
                neighbour.detail = self.detail(&product, scale, &query, record);
            });
        }
        Ok(())
    }

    /// The query's side, from its text and the label that is explained.
    fn query(&self, result: &SearchResult) -> Result<(Ran, Side)> {
        let target = self.target(result)?;
        let text = (result.text.clone(), result.text_pair.clone());
        let mut query = self.run(vec![text], &|_, _| target.clone())?.swap_remove(0);
        let side = match &self.way {
            Way::Own(_) => {
                let tokens = query.encoding.ids.len();
                let norm = factors::product(&query.factors, &query.factors, (tokens, tokens)).sum().sqrt();
                Side::Factors(std::mem::take(&mut query.factors), norm)
            }
            Way::Preconditioned { by, .. } => {
                let outputs = by.run(&[&query.encoding], &[Some(&target)], self.settings)?.swap_remove(0);
                Side::Matrices(outputs.features)
            }
        };
        Ok((query, side))
    }

    /// What is multiplied, and by what that is multiplied.
    fn product(&self, query: &Ran, side: &Side, record: &Ran, row: usize) -> (Product, f64) {
        let slopes = query.slope * record.slope;
        match side {
            Side::Factors(factors, norm) => {
                let (asked, own) = (query.encoding.ids.len(), record.encoding.ids.len());
                let product = factors::product(factors, &record.factors, (asked, own));
                let scale = match self.rule {
                    Rule::ProjectedCos => {
                        let own = factors::product(&record.factors, &record.factors, (own, own)).sum().sqrt();
                        if norm * own > 0.0 { 1.0 / (norm * own) } else { 0.0 }
                    }
                    _ => slopes,
                };
                (product, scale)
            }
            Side::Matrices(matrices) => {
                let mut rest = matrices.as_slice();
                let mut taken = Vec::new();
                for layer in self.way.observer().layers() {
                    let (one, others) = rest.split_at(layer.inputs * layer.outputs);
                    taken.push(one);
                    rest = others;
                }
                let over = match &self.way {
                    Way::Preconditioned { norms: Some(norms), .. } => f64::from(norms[row]),
                    _ => 1.0,
                };
                let scale = if over > 0.0 { slopes / over } else { 0.0 };
                (factors::product_with(&taken, &record.factors), scale)
            }
        }
    }

    fn detail(&self, product: &Product, scale: f64, query: &Ran, record: &Ran) -> Option<PairDetail> {
        let ExactOptions { layers, token_pairs, .. } = self.options;
        let scaled = |x: &f64| (scale * x) as f32;
        let named = || {
            // What is multiplied as one is named as one, after its first part.
            let more = |blocks| if blocks == 3 { "+key+value" } else { "" };
            let layers = self.way.observer().layers();
            let names = layers.iter().map(|layer| format!("{}{}", layer.name, more(layer.blocks)));
            names.zip(product.layers.iter().map(scaled)).collect()
        };
        let pairs = || TokenPairs {
            query: query.encoding.tokens.clone(),
            record: record.encoding.tokens.clone(),
            scores: product
                .tokens
                .chunks(record.encoding.ids.len())
                .map(|row| row.iter().map(scaled).collect())
                .collect(),
        };
        let detail = PairDetail {
            layers: if layers { named() } else { Vec::new() },
            token_pairs: (token_pairs && !product.tokens.is_empty()).then(pairs),
        };
        (layers || token_pairs).then_some(detail)
    }

    /// Texts through the model, each for a label that is told its place and its logits.
    fn run(
        &self,
        texts: Vec<(String, Option<String>)>,
        target: &(dyn Fn(usize, &[f32]) -> Target + Sync),
    ) -> Result<Vec<Ran>> {
        let encode = |(text, pair)| self.model.encode(&Record { text, pair, ..Record::default() });
        let encodings: Vec<Encoding> = texts.into_iter().map(encode).collect::<Result<_>>()?;
        let problem = self.model.problem();
        let seed = |place: usize, z: &[f32], dz: &mut [f32]| {
            factors::output_gradient(problem, z, &target(place, z), dz);
        };
        let window: Vec<&Encoding> = encodings.iter().collect();
        let tokens = self.settings.batch_tokens;
        let (all, logits) = self.way.observer().factors(&window, tokens, &seed, &|| !interrupt::asked())?;
        let classes = self.model.classes();
        let ran = encodings.into_iter().zip(all).zip(logits.chunks_exact(classes)).enumerate();
        let ran = ran.map(|(place, ((encoding, kept), z))| {
            let slope = factors::output_gradient(problem, z, &target(place, z), &mut vec![0.0; classes]);
            Ran { encoding, factors: kept, slope: f64::from(slope) }
        });
        Ok(ran.collect())
    }

    fn row(&self, index: u64) -> Result<usize> {
        self.store.find(index).ok_or_else(|| Error::Mismatch(format!("record {index}: not in the store"), None))
    }

    /// The label that a result says it explains.
    fn target(&self, result: &SearchResult) -> Result<Target> {
        use serde_json::Value;
        let one = |value: &Value| match value {
            Value::Number(number) => Label::Number(number.as_f64().unwrap_or_default()),
            other => Label::Name(other.as_str().unwrap_or_default().to_owned()),
        };
        let label = match (&result.target, self.model.problem()) {
            (Value::Array(values), _) => Label::Many(values.iter().map(one).collect()),
            (value, Problem::MultiLabel) => Label::Many(vec![one(value)]),
            (value, _) => one(value),
        };
        let reason = |reason| Error::usage(format!("query {}: {reason}", result.id));
        self.model.resolve_label(&label).map_err(reason)
    }
}
