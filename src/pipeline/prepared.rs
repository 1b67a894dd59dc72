//! A rule made ready for one store: what it needs beyond the factors, and a query for each record that asks.

use std::ops::Range;
use std::path::PathBuf;

use super::by_factors::ByFactors;
use super::fisher::DAMPING;
use super::progress::Going;
use crate::error::{Error, Result};
use crate::factors::{
    self, AnswerRepresenter, BLOCK_ROWS, Bundle, Curvature, CurvatureOptions, DampedMoment, FactorKernel, FisherForm,
    HessianForm, MomentForm, MomentOptions, Preconditioned, QueryFactors, RefitOptions, Representer, RepresenterCompat,
    Target, Weighting,
};
use crate::interrupt;
use crate::lexical::Bm25;
use crate::model::{Problem, Task};
use crate::search::{self, EachFactor, ErrorBars, FactorSet, Form, Losses, Query, Rule, Scorer, Source};
use crate::store::{Fisher, Shard, Store};

/// What decides a rule's numbers, besides the store.
#[derive(Clone, Debug, Default)]
pub struct RuleOptions {
    /// Which curvature, for the influence rules and trak; each has its own default.
    pub hessian: Option<HessianForm>,
    /// λ of the refit (representer) or of the damping (influence, relatif); each has its own default.
    pub lambda: Option<f64>,
    /// Whose definition of representer values.
    pub compat: RepresenterCompat,
    /// Where the whole network's curvature is, for the influence rules over its gradients; the store where `None`.
    pub curvature: Option<PathBuf>,
}

impl RuleOptions {
    /// Which curvature of the whole network preconditions queries for `rule`, and λ as a share of its layers' mean
    /// eigenvalues.
    pub(super) fn fisher(&self, rule: Rule, store: &Store) -> Result<Option<(FisherForm, f64)>> {
        let form = match self.hessian {
            Some(HessianForm::Kronecker) => FisherForm::Kfac,
            Some(HessianForm::Corrected) => FisherForm::Ekfac,
            None | Some(HessianForm::Exact | HessianForm::Layers | HessianForm::Shampoo) => return Ok(None),
        };
        let of_rule = matches!(rule, Rule::Influence | Rule::RelatIf);
        if !of_rule || store.settings().gradients.is_none() {
            return Ok(None);
        }
        let damping = self.lambda.unwrap_or(DAMPING);
        if !(damping.is_finite() && damping > 0.0) {
            return Err(Error::usage(format!("--lambda: expected a number above 0, found {damping}")));
        }
        Ok(Some((form, damping)))
    }
}

/// A rule, and what it needs beyond the factors.
pub(super) struct Prepared<'a> {
    rule: Rule,
    problem: Problem,
    store: &'a Store,
    means: Means<'a>,
}

/// Why some means have no form of their own.
const SCORED: &str = "a scorer made for the batch scores records";
const PROJECTED: &str = "a projected gradient is one factor a record";

enum Means<'a> {
    Factors,
    Rates(Vec<f32>),
    Losses(Losses<'a>),
    Words(Bm25<'a>),
    Alphas(Representer),
    Curvature {
        inverse: Curvature<'a>,
        norms: Option<Vec<f32>>,
    },
    /// Over a vocabulary; the factors of each record, and RelatIF's norms of records.
    Kernel {
        kernel: FactorKernel,
        records: Vec<Range<usize>>,
        norms: Option<Vec<f32>>,
    },
    /// Representer points of answers, and the factors of each record.
    Points(AnswerRepresenter, Vec<Range<usize>>),
    /// Over projected gradients, one a model of the ensemble, and each record's weight.
    Trak {
        inverses: Vec<DampedMoment<'a>>,
        weights: Vec<f32>,
    },
    /// Over projected gradients; RelatIF's norms of records.
    GaussNewton(DampedMoment<'a>, Option<Vec<f32>>),
    /// Over projected gradients, of queries that come preconditioned; RelatIF's norms of records.
    Whole(Option<Vec<f32>>),
}

/// One record that asks: its factors under the model, and under each checkpoint where the rule reads them.
pub(super) struct Asking {
    pub(super) features: Vec<f32>,
    pub(super) delta: Vec<f32>,
    pub(super) target: Target,
    pub(super) checkpoints: Vec<(Vec<f32>, Vec<f32>)>,
    /// Where records have several factors, those under the model, and under each checkpoint; `features` is then what
    /// rules over features compare, and there is no δ beside it.
    pub(super) bundles: Vec<Bundle>,
    /// Both segments, for a rule that reads words.
    pub(super) text: String,
}

impl<'a> Batch<'a> {
    /// Queries that a scorer of their own knows by their numbers.
    fn scored(scorer: Box<dyn Scorer + 'a>, count: usize) -> Self {
        Self { queries: (0..count).map(Query::numbered).collect(), terms: Vec::new(), scorer: Some(scorer) }
    }
}

impl Batch<'_> {
    /// Queries that are made from the store's own features.
    pub(super) fn of_store(self) -> Self {
        Self { queries: self.queries.into_iter().map(Query::of_source).collect(), ..self }
    }
}

impl Asking {
    /// Its factors under the model explained, where records have several.
    fn bundle(self) -> Bundle {
        self.bundles.into_iter().next().unwrap_or_default()
    }
}

/// Some queries, and what scores records for them where that is made for these queries.
pub(super) struct Batch<'a> {
    pub(super) queries: Vec<Query>,
    /// How many terms queries have in each set of factors, where they have several factors.
    terms: Vec<usize>,
    /// What scores records, numbered as the queries are.
    scorer: Option<Box<dyn Scorer + 'a>>,
}

impl<'a> Prepared<'a> {
    /// Does whatever the rule needs to be done once a store: a refit, a curvature, words counted (kept in up to
    /// `memory` bytes).
    pub(super) fn new(rule: Rule, store: &'a Store, options: &RuleOptions, memory: usize, quiet: bool) -> Result<Self> {
        let settings = store.settings();
        rule.check(settings.problem, &settings.checkpoints)?;
        rule.check_gradients(settings.gradients.is_some())?;
        rule.check_task(settings.task(), settings.classes)?;
        let means = match rule {
            // Nothing is scored, by whatever form.
            _ if store.rows() == 0 => Means::Factors,
            Rule::Bm25 => Means::Words(Bm25::new(store, memory)?),
            Rule::Loss => Means::Losses(Losses(store)),
            Rule::TracIn => Means::Rates(settings.checkpoints.iter().map(|c| c.learning_rate as f32).collect()),
            Rule::Less => {
                let rates = || settings.checkpoints.iter().map(|c| c.learning_rate);
                let sum: f64 = rates().sum();
                if sum <= 0.0 || rates().any(|rate| rate < 0.0) {
                    return Err(Error::usage("rule less: its checkpoints' learning rates are no weights")
                        .with_hint("index with --checkpoint DIR:RATE, with rates above 0"));
                }
                Means::Rates(rates().map(|rate| (rate / sum) as f32).collect())
            }
            Rule::Representer if settings.task() == Task::Spans => {
                return Err(Error::usage(
                    "rule representer: of answers needs all tokens' features, and the store has none",
                )
                .with_hint("ask with `search --data`, which reads the training texts again, or use influence"));
            }
            Rule::Representer => {
                let default = RefitOptions::default();
                let refit = RefitOptions { penalty: options.lambda.unwrap_or(default.penalty), ..default };
                let going = Going::on_and_on("refitting", BLOCK_ROWS as u64, quiet);
                Means::Alphas(factors::representer(store, &refit, options.compat, &|| going.on())?)
            }
            Rule::Trak => trak(store, options, quiet)?,
            Rule::Influence | Rule::RelatIf if options.fisher(rule, store)?.is_some() => {
                return Err(Error::usage(format!(
                    "rule {rule}: the whole network's curvature preconditions gradients before they are projected"
                ))
                .with_hint("ask with the records themselves, by --data, and --exclude-same-id"));
            }
            Rule::Influence | Rule::RelatIf if settings.gradients.is_some() => {
                let inverse = moments(store, &[FactorSet::Final], rule, options, quiet)?.swap_remove(0);
                let norms = (rule == Rule::RelatIf).then(|| norms(store, &inverse, quiet)).transpose()?;
                Means::GaussNewton(inverse, norms)
            }
            Rule::Influence | Rule::RelatIf if FactorKernel::is_for(settings.task(), settings.classes) => {
                kernel(rule, store, options)?
            }
            Rule::Influence | Rule::RelatIf => curvature(rule, store, options, quiet)?,
            Rule::FeatureDot
            | Rule::FeatureCos
            | Rule::FeatureEuc
            | Rule::GradDot
            | Rule::GradCos
            | Rule::ProjectedDot
            | Rule::ProjectedCos => Means::Factors,
        };
        Ok(Self { rule, problem: settings.problem, store, means })
    }

    /// Representer points of a store's answers.
    pub(super) fn answers(store: &'a Store, points: AnswerRepresenter) -> Self {
        let means = Means::Points(points, EachFactor::of(store).by_record());
        Self { rule: Rule::Representer, problem: store.settings().problem, store, means }
    }

    /// The influence rules over gradients of the whole model, of queries that come preconditioned by `fisher` at this
    /// damping.
    pub(super) fn whole(
        rule: Rule,
        store: &'a Store,
        fisher: &Fisher,
        (form, damping): (FisherForm, f64),
    ) -> Result<Self> {
        rule.check(store.settings().problem, &store.settings().checkpoints)?;
        if form == FisherForm::Ekfac && fisher.settings.form == FisherForm::Kfac {
            return Err(Error::usage("--hessian ekfac: the curvature was fitted by K-FAC alone")
                .with_hint("use --hessian kfac, or `wherefore curvature --form ekfac`"));
        }
        let norms = match rule {
            Rule::RelatIf => Some(self_influence(store, fisher, (form, damping))?),
            _ => None,
        };
        Ok(Self { rule, problem: store.settings().problem, store, means: Means::Whole(norms) })
    }

    /// The form that training records are scored with for the queries of `batch`.
    pub(super) fn form<'b>(&'b self, batch: &'b Batch<'b>) -> Form<'b> {
        if let Some(scorer) = &batch.scorer {
            return Form::scored(scorer.as_ref());
        }
        if self.has_several() {
            return self.form_of_bundles(&batch.terms);
        }
        match &self.means {
            Means::Losses(losses) => Form::scored(losses),
            Means::Rates(rates) => Form::tracin(rates),
            Means::Alphas(representer) => Form::representer(&representer.alpha),
            Means::Curvature { inverse, norms } => {
                let classes = self.store.settings().classes;
                let form = if inverse.keeps_outer_products() { Form::grad_dot() } else { Form::bilinear(classes) };
                norms.as_deref().map_or_else(|| form.clone(), |norms| form.clone().over(norms))
            }
            Means::Whole(Some(norms)) | Means::GaussNewton(_, Some(norms)) => Form::grad_dot().over(norms),
            Means::Whole(None) | Means::GaussNewton(_, None) => Form::grad_dot(),
            Means::Trak { weights, .. } => Form::ensemble(self.store.settings().checkpoints.len(), weights),
            Means::Factors => form_of_factors(self.rule),
            Means::Words(_) | Means::Kernel { .. } | Means::Points(..) => unreachable!("{}", SCORED),
        }
    }

    /// Where a record's own factors, as they are, are its query: the coordinate that meets the bias, and the form.
    pub(super) fn mutual(&self) -> Option<(f32, Form<'_>)> {
        let bias = if self.rule == Rule::ProjectedDot { 0.0 } else { 1.0 };
        let is_own = matches!(self.means, Means::Factors) && !self.has_several();
        is_own.then(|| (bias, form_of_factors(self.rule)))
    }

    /// λ over the mean diagonal of each matrix of projected gradients, one after another over the model and its
    /// checkpoints.
    pub(super) fn damping(&self) -> Vec<f64> {
        match &self.means {
            Means::Trak { inverses, .. } => inverses.iter().flat_map(DampedMoment::damping).collect(),
            Means::GaussNewton(inverse, _) => inverse.damping(),
            _ => Vec::new(),
        }
    }

    /// How far scores may be off for the projection.
    ///
    /// # Errors
    /// [`Error::Usage`] where they are not of projected gradients, or too few numbers are kept to tell.
    pub(super) fn error_bars(&self) -> Result<ErrorBars<'_>> {
        let settings = self.store.settings();
        if settings.gradients.is_none() || matches!(self.means, Means::Losses(_) | Means::Words(_)) {
            return Err(Error::usage(format!("--error-bars: rule {} is not of projected gradients", self.rule))
                .with_hint("its scores are exact; projected gradients are stored by `index --gradients projected`"));
        }
        if settings.gradient_layers.is_empty() {
            return Err(Error::usage("--error-bars: the store does not tell which layer each of its numbers is of")
                .with_hint("index again with --gradients projected"));
        }
        let (moments, ensemble): (&[DampedMoment<'_>], bool) = match &self.means {
            Means::Trak { inverses, .. } => (inverses, true),
            Means::GaussNewton(inverse, _) => (std::slice::from_ref(inverse), false),
            _ => (&[], false),
        };
        let error_bars = ErrorBars::new(&settings.gradient_layers, moments, ensemble)?;
        Ok(if self.rule == Rule::Less { error_bars.of_directions() } else { error_bars })
    }

    /// Some records that ask, in their order, as queries.
    pub(super) fn batch(&self, asking: Vec<Asking>) -> Result<Batch<'_>> {
        let count = asking.len();
        match &self.means {
            Means::Words(texts) => {
                let asked: Vec<String> = asking.into_iter().map(|a| a.text).collect();
                Ok(Batch::scored(Box::new(texts.queries(&asked)), count))
            }
            Means::Kernel { kernel, records, norms } => {
                let bundles: Vec<Bundle> = asking.into_iter().map(Asking::bundle).collect();
                let scores = ByFactors::influence(self.store, (kernel, records), norms.as_deref(), &bundles)?;
                Ok(Batch::scored(Box::new(scores), count))
            }
            Means::Points(points, records) => {
                let bundles: Vec<Bundle> = asking.into_iter().map(Asking::bundle).collect();
                Ok(Batch::scored(Box::new(ByFactors::of_answers(self.store, (points, records), &bundles)), count))
            }
            _ if self.has_several() => {
                let (queries, terms) = self.queries_of_bundles(asking)?;
                Ok(Batch { queries, terms, scorer: None })
            }
            _ => {
                let batch = Batch { queries: self.queries(asking)?, terms: Vec::new(), scorer: None };
                Ok(if self.is_learnt() { batch.of_store() } else { batch })
            }
        }
    }

    /// Whether queries are made by what was fitted to the store's features.
    fn is_learnt(&self) -> bool {
        matches!(self.means, Means::Alphas(_) | Means::Curvature { .. } | Means::Trak { .. } | Means::GaussNewton(..))
    }

    fn queries(&self, asking: Vec<Asking>) -> Result<Vec<Query>> {
        match &self.means {
            Means::Curvature { inverse, .. } => {
                let gradients: Vec<_> =
                    asking.iter().map(|a| QueryFactors { delta: &a.delta, features: &a.features }).collect();
                let preconditioned = inverse.precondition(&gradients, &|| !interrupt::asked())?;
                let width = self.store.settings().width;
                Ok(preconditioned.into_iter().map(|p| preconditioned_query(p, width)).collect())
            }
            Means::Alphas(representer) => {
                asking.into_iter().map(|a| self.class_query(a, representer.bias_coordinate)).collect()
            }
            Means::Losses(_) => Ok(vec![Query::numbered(0); asking.len()]),
            Means::Words(_) | Means::Kernel { .. } | Means::Points(..) => unreachable!("{}", SCORED),
            Means::Trak { inverses, .. } => Ok(trak_queries(inverses, &asking)),
            Means::GaussNewton(inverse, _) => {
                let solved = inverse.solve(&asking.iter().map(|a| a.features.as_slice()).collect::<Vec<_>>());
                let query = |(features, asking): (Vec<f32>, Asking)| Query::transformed(features, 0.0, asking.delta);
                Ok(solved.into_iter().zip(asking).map(query).collect())
            }
            Means::Rates(_) if self.rule == Rule::Less => Ok(asking.into_iter().map(less_query).collect()),
            // A whole model's gradient has its biases in it.
            Means::Rates(_) if self.store.settings().gradients.is_some() => {
                Ok(asking.into_iter().map(|a| Query::members(a.checkpoints)).collect())
            }
            Means::Whole(_) => Ok(asking.into_iter().map(|a| Query::transformed(a.features, 0.0, a.delta)).collect()),
            Means::Factors if self.rule == Rule::ProjectedDot => {
                Ok(asking.into_iter().map(|a| Query::transformed(a.features, 0.0, a.delta)).collect())
            }
            Means::Factors if self.rule == Rule::ProjectedCos => {
                Ok(asking.into_iter().map(|a| Query::feature(a.features)).collect())
            }
            Means::Rates(_) => Ok(asking.into_iter().map(|a| Query::checkpoints(a.checkpoints)).collect()),
            Means::Factors if self.rule.needs_head() => {
                Ok(asking.into_iter().map(|a| Query::gradient(a.features, a.delta)).collect())
            }
            Means::Factors => Ok(asking.into_iter().map(|a| Query::feature(a.features)).collect()),
        }
    }

    /// The logit a representer decomposes: the target class's, or a single regression value's.
    fn class_query(&self, asking: Asking, bias: f32) -> Result<Query> {
        let class = match (&asking.target, self.problem) {
            (Target::Values(values), Problem::Regression) if values.len() == 1 => 0,
            (target, _) => match target.classes()[..] {
                [class] => class,
                _ => {
                    return Err(Error::usage(
                        "rule representer: decomposes one logit, and the target is not one class",
                    )
                    .with_hint("name it: --target LABEL"));
                }
            },
        };
        Ok(Query::class(asking.features, bias, class))
    }
}

/// Where records have several factors.
impl Prepared<'_> {
    fn has_several(&self) -> bool {
        self.store.settings().tokens.is_some()
    }

    fn form_of_bundles(&self, terms: &[usize]) -> Form<'_> {
        match (&self.means, self.rule) {
            (Means::Losses(losses), _) => Form::scored(losses),
            (_, Rule::FeatureDot) => Form::feature_dot().over_means(),
            (_, Rule::FeatureCos) => Form::feature_cos().over_means(),
            (_, Rule::FeatureEuc) => Form::feature_euc().over_means(),
            (_, Rule::GradCos) => Form::bundle_cos().of_terms(terms),
            (Means::Rates(rates), _) => Form::tracin(rates).of_terms(terms),
            (Means::Alphas(representer), _) => Form::representer(&representer.alpha).of_terms(terms),
            (Means::Curvature { norms, .. }, _) => {
                let form = Form::bilinear(self.store.settings().classes);
                norms.as_deref().map_or_else(|| form.clone(), |norms| form.clone().over(norms))
            }
            (Means::Factors, _) => Form::grad_dot().of_terms(terms),
            (Means::Words(_) | Means::Kernel { .. } | Means::Points(..), _) => unreachable!("{}", SCORED),
            (Means::Trak { .. } | Means::GaussNewton(..) | Means::Whole(_), _) => unreachable!("{}", PROJECTED),
        }
    }

    /// The queries, and how many terms they have in each set of factors.
    fn queries_of_bundles(&self, asking: Vec<Asking>) -> Result<(Vec<Query>, Vec<usize>)> {
        let width = self.store.settings().width;
        let own = |asking: &Asking| asking.bundles.first().cloned().unwrap_or_default();
        match (&self.means, self.rule) {
            (Means::Losses(_), _) => Ok((vec![Query::numbered(0); asking.len()], Vec::new())),
            (_, Rule::FeatureDot | Rule::FeatureCos | Rule::FeatureEuc) => {
                Ok((asking.into_iter().map(|a| Query::feature(a.features)).collect(), Vec::new()))
            }
            (Means::Rates(_), _) => {
                let checkpoints = |a: Asking| a.bundles.into_iter().skip(1).collect();
                Ok(Query::bundles(&asking.into_iter().map(checkpoints).collect::<Vec<_>>()))
            }
            (Means::Alphas(representer), _) => {
                let most = asking.iter().map(|a| own(a).len()).max().unwrap_or_default();
                let query = |a: &Asking| {
                    let bundle = own(a);
                    let features = bundle.features.chunks_exact(width).map(<[f32]>::to_vec);
                    let rows: Vec<_> = features.zip(bundle.classes.iter().copied()).collect();
                    Query::classes(&rows, representer.bias_coordinate, most)
                };
                Ok((asking.iter().map(query).collect(), vec![most]))
            }
            (Means::Curvature { inverse, .. }, _) => {
                let bundles: Vec<Bundle> = asking.iter().map(own).collect();
                let preconditioned = inverse.precondition_bundles(&bundles, &|| !interrupt::asked())?;
                Ok((preconditioned.into_iter().map(|p| preconditioned_query(p, width)).collect(), Vec::new()))
            }
            (_, Rule::GradCos) => {
                Ok(Query::bundles(&asking.iter().map(|a| vec![own(a).to_unit()]).collect::<Vec<_>>()))
            }
            (Means::Factors, _) => Ok(Query::bundles(&asking.iter().map(|a| vec![own(a)]).collect::<Vec<_>>())),
            (Means::Words(_) | Means::Kernel { .. } | Means::Points(..), _) => unreachable!("{}", SCORED),
            (Means::Trak { .. } | Means::GaussNewton(..) | Means::Whole(_), _) => unreachable!("{}", PROJECTED),
        }
    }
}

/// The form of a rule that needs nothing but factors.
fn form_of_factors(rule: Rule) -> Form<'static> {
    match rule {
        Rule::FeatureDot => Form::feature_dot(),
        Rule::FeatureCos | Rule::ProjectedCos => Form::feature_cos(),
        Rule::FeatureEuc => Form::feature_euc(),
        Rule::GradCos => Form::grad_cos(),
        // What other rules need is not there where there are no records, and then nothing is scored.
        Rule::GradDot
        | Rule::ProjectedDot
        | Rule::Representer
        | Rule::TracIn
        | Rule::Influence
        | Rule::RelatIf
        | Rule::Trak
        | Rule::Less
        | Rule::Bm25
        | Rule::Loss => Form::grad_dot(),
    }
}

/// Both segments as one text; no word goes on from one into the other.
pub(super) fn joined(text: &str, pair: Option<&str>) -> String {
    pair.map_or_else(|| text.to_owned(), |pair| format!("{text}\n{pair}"))
}

fn curvature<'a>(rule: Rule, store: &'a Store, options: &RuleOptions, quiet: bool) -> Result<Means<'a>> {
    let going = Going::on_and_on("preconditioning", BLOCK_ROWS as u64, quiet);
    let keep_going = &|| going.on();
    let default = CurvatureOptions { form: options.hessian.unwrap_or_default(), ..CurvatureOptions::default() };
    let options = CurvatureOptions { damping: options.lambda.unwrap_or(default.damping), ..default };
    let inverse = Curvature::fit(store, options, keep_going)?;
    let norms = match rule {
        Rule::RelatIf if store.settings().tokens.is_some() => {
            let bundle = |row| search::stored_bundle(store, row, FactorSet::Final).unwrap_or_default();
            let squares = inverse.self_influence_of_bundles(store.rows(), &bundle, keep_going)?;
            Some(squares.into_iter().map(f32::sqrt).collect())
        }
        Rule::RelatIf => Some(inverse.self_influence(keep_going)?.into_iter().map(f32::sqrt).collect()),
        _ => None,
    };
    Ok(Means::Curvature { inverse, norms })
}

/// Over a vocabulary.
fn kernel<'a>(rule: Rule, store: &'a Store, options: &RuleOptions) -> Result<Means<'a>> {
    if options.hessian.is_some_and(|form| form != HessianForm::Exact) {
        return Err(Error::usage(
            "--hessian: a vocabulary's curvature is of the training factors, and has no other form",
        )
        .with_hint("leave --hessian out"));
    }
    let keep_going = &|| !interrupt::asked();
    let damping = options.lambda.unwrap_or(CurvatureOptions::default().damping);
    let (kernel, records) = (FactorKernel::fit(store, damping, keep_going)?, EachFactor::of(store).by_record());
    let norms = match rule {
        Rule::RelatIf => Some(kernel.self_influence(&records, keep_going)?.into_iter().map(f32::sqrt).collect()),
        _ => None,
    };
    Ok(Means::Kernel { kernel, records, norms })
}

/// RelatIF's denominators.
pub(super) fn self_influence(store: &Store, fisher: &Fisher, (form, damping): (FisherForm, f64)) -> Result<Vec<f32>> {
    let again = "fit it with `wherefore curvature --self-influence`, and the same --form and --lambda";
    let Some(found) = &fisher.self_influence else {
        return Err(
            Error::usage("rule relatif: the curvature was fitted without records' self-influence").with_hint(again)
        );
    };
    if (found.damping, fisher.settings.form) != (damping, form) {
        let (was, kind) = (found.damping, fisher.settings.form);
        return Err(Error::usage(format!(
            "rule relatif: records' self-influence was taken by {kind} at λ = {was}, and is asked for by {form} at {damping}"
        ))
        .with_hint(again));
    }
    let indices = store.shards().iter().flat_map(Shard::indices);
    if !indices.eq(&found.indices) {
        return Err(Error::Mismatch(
            "rule relatif: records' self-influence is of other records than the store's".to_owned(),
            Some(again.to_owned()),
        ));
    }
    Ok(found.values.iter().map(|x| x.sqrt()).collect())
}

/// One Gram matrix for the model and each checkpoint; records weigh 1 − p, its mean over them.
fn trak<'a>(store: &'a Store, options: &RuleOptions, quiet: bool) -> Result<Means<'a>> {
    if store.settings().problem != Problem::SingleLabel {
        return Err(Error::usage("rule trak: is of a classifier's margin, and the model is none of one label")
            .with_hint("use projected-cos, tracin or influence"));
    }
    let sets = sets(store);
    let inverses = moments(store, &sets, Rule::Trak, options, quiet)?;
    let mut weights = vec![0.0_f64; store.rows()];
    for &set in &sets {
        let slopes = pieces(store, set).into_iter().flat_map(|piece| piece.deltas.iter());
        weights.iter_mut().zip(slopes).for_each(|(weight, &slope)| *weight -= f64::from(slope));
    }
    let weights = weights.into_iter().map(|sum| (sum / sets.len() as f64) as f32).collect();
    Ok(Means::Trak { inverses, weights })
}

/// Of the gradients under the model, and under checkpoints.
fn moments<'a>(
    store: &'a Store,
    sets: &[FactorSet],
    rule: Rule,
    options: &RuleOptions,
    quiet: bool,
) -> Result<Vec<DampedMoment<'a>>> {
    let losses: Vec<f32> = store.shards().iter().flat_map(Shard::losses).copied().collect();
    // TRAK is the inverse of the whole Gram matrix by its definition.
    let (weighting, default) = match rule {
        Rule::Trak => (Weighting::Even, HessianForm::Exact),
        _ => (curvature_weights(rule, store, &losses)?, HessianForm::Shampoo),
    };
    let form = match options.hessian.unwrap_or(default) {
        HessianForm::Exact => MomentForm::Whole,
        HessianForm::Layers => MomentForm::Layers,
        HessianForm::Shampoo => MomentForm::Shampoo,
        HessianForm::Kronecker | HessianForm::Corrected => {
            return Err(Error::usage("--hessian kfac, ekfac: are for the rules influence and relatif")
                .with_hint("use exact, layers or shampoo"));
        }
    };
    let (layers, damping) = (store.settings().gradient_layers.as_slice(), options.lambda);
    let options = MomentOptions { form, layers, weighting, damping };
    let steps = options.steps(store.rows(), store.settings().width) * sets.len();
    let going = Going::over("preconditioning", store.rows() as u64, steps as u64, quiet);
    sets.iter().map(|&set| DampedMoment::fit(pieces(store, set), options, &|| going.on())).collect()
}

/// What records of these `losses` count in the projected Gauss-Newton matrix, where one gradient tells a loss's.
fn curvature_weights<'a>(rule: Rule, store: &Store, losses: &'a [f32]) -> Result<Weighting<'a>> {
    let several = match (store.settings().problem, store.settings().classes) {
        (Problem::SingleLabel, _) => return Ok(Weighting::Curvature),
        (Problem::Regression, 1) => return Ok(Weighting::Value(losses)),
        (Problem::Regression, _) => "values",
        _ => "labels",
    };
    Err(Error::usage(format!(
        "rule {rule}: of a loss of several {several} the curvature is made of each one's gradient, and the store holds their sum"
    ))
    .with_hint("ask with --hessian ekfac, which `wherefore curvature` fits, or use projected-cos or tracin"))
}

/// RelatIF's denominators, `|slope| √(φᵀ (· + λI)⁻¹ φ)`.
fn norms(store: &Store, inverse: &DampedMoment<'_>, quiet: bool) -> Result<Vec<f32>> {
    let pieces = pieces(store, FactorSet::Final);
    let steps: usize = pieces.iter().map(|piece| DampedMoment::steps_of_forms(piece.rows)).sum();
    let going = Going::over("taking norms", store.rows() as u64, steps as u64, quiet);
    let mut norms = Vec::with_capacity(store.rows());
    for piece in pieces {
        let forms = inverse.quadratic_forms(&piece, &|| going.on())?;
        let norm = |(form, slope): (f64, &f32)| (form.sqrt() * f64::from(slope.abs())) as f32;
        norms.extend(forms.into_iter().zip(piece.deltas).map(norm));
    }
    Ok(norms)
}

/// The model, and each checkpoint.
fn sets(store: &Store) -> Vec<FactorSet> {
    let checkpoints = (0..store.settings().checkpoints.len()).map(FactorSet::Checkpoint);
    std::iter::once(FactorSet::Final).chain(checkpoints).collect()
}

fn pieces(store: &Store, set: FactorSet) -> Vec<factors::FactorRows<'_>> {
    (0..store.shards().len()).filter_map(|shard| store.factors(shard, set)).collect()
}

fn trak_queries(inverses: &[DampedMoment<'_>], asking: &[Asking]) -> Vec<Query> {
    let members = |a: &Asking, member: usize| -> Vec<f32> {
        if member == 0 { a.features.clone() } else { a.checkpoints[member - 1].0.clone() }
    };
    let mut terms: Vec<Vec<(Vec<f32>, Vec<f32>)>> = asking.iter().map(|_| Vec::new()).collect();
    for (member, inverse) in inverses.iter().enumerate() {
        let gradients: Vec<Vec<f32>> = asking.iter().map(|a| members(a, member)).collect();
        let solved = inverse.solve(&gradients.iter().map(Vec::as_slice).collect::<Vec<_>>());
        terms.iter_mut().zip(solved).for_each(|(terms, features)| terms.push((features, vec![1.0])));
    }
    terms.into_iter().map(Query::members).collect()
}

/// The direction of the query's gradient under each checkpoint. Loss falls where the output function rises: φ's, turned
/// round.
fn less_query(asking: Asking) -> Query {
    let turned = |(phi, _): (Vec<f32>, Vec<f32>)| {
        let length = phi.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
        let scale = if length > 0.0 { -1.0 / length } else { 0.0 };
        (phi.into_iter().map(|x| (f64::from(x) * scale) as f32).collect(), vec![1.0])
    };
    Query::members(asking.checkpoints.into_iter().map(turned).collect())
}

fn preconditioned_query(preconditioned: Preconditioned, width: usize) -> Query {
    match preconditioned {
        Preconditioned::Full(v) => Query::bilinear(&v, width),
        Preconditioned::RankOne { delta, mut input } => {
            let bias = input.pop().unwrap_or(0.0);
            Query::transformed(input, bias, delta)
        }
    }
}
