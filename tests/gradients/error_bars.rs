//! How far scores of projected gradients are off, against what they are without a projection and over draws of it.

use serde_json::Value;
use wherefore::factors::{DampedMoment, FactorRows, Floats, KeepGoing, MomentForm, MomentOptions, Weighting};
use wherefore::model::{GradientsOf, KeptLayer, Model, Projection, ProjectionKind, Tracer};
use wherefore::search::{ErrorBar, ErrorBars, Form, Query, Scored, score};

use super::projected::{identity, model, traced};
use crate::cli::{Bench, lines};

/// Draws of a projection.
const SEEDS: u64 = 200;

/// Some records' projected gradients.
struct Drawn {
    layers: Vec<KeptLayer>,
    features: Vec<f32>,
    slopes: Vec<f32>,
    norms: Vec<f32>,
}

impl Drawn {
    fn new(model: &Model, projection: &Projection) -> Self {
        let (outputs, slopes) = traced(&Tracer::new(model, projection).unwrap(), model, None);
        let width = outputs.features.len() / slopes.len();
        let norm = |row: &[f32]| row.iter().map(|x| x * x).sum::<f32>().sqrt();
        let norms = outputs.features.chunks_exact(width).map(norm).collect();
        let layers = Tracer::kept_of(model, projection).unwrap().1;
        Self { layers, features: outputs.features, slopes, norms }
    }

    fn rows(&self) -> FactorRows<'_> {
        let rows = self.slopes.len();
        FactorRows {
            rows,
            width: self.features.len() / rows,
            classes: 1,
            features: Floats::F32(&self.features),
            deltas: &self.slopes,
            feature_norms: &self.norms,
            delta_norms: &self.slopes,
        }
    }

    fn own(&self, i: usize) -> Vec<f32> {
        let width = self.rows().width;
        self.features[i * width..][..width].to_vec()
    }

    /// Scores of every record for a query, and their bars.
    fn bars(&self, form: &Form<'_>, query: &Query, moments: &[DampedMoment<'_>]) -> Vec<(f64, ErrorBar)> {
        let source = self.rows();
        let scored = |row| Scored { place: (0, row), row, score: score(&source, form, query, 0, row) };
        let scored: Vec<Scored> = (0..source.rows).map(scored).collect();
        let bars = ErrorBars::new(&self.layers, moments, false).unwrap().of(&source, form, query, &scored);
        scored.iter().map(|one| f64::from(one.score)).zip(bars).collect()
    }

    /// The same for each record as the query, by the product of gradients or their cosine.
    fn all(&self, cosine: bool) -> Vec<(f64, ErrorBar)> {
        let of = |i: usize| {
            if cosine {
                return self.bars(&Form::feature_cos(), &Query::feature(self.own(i)), &[]);
            }
            let query = Query::transformed(self.own(i), 0.0, vec![self.slopes[i]]);
            self.bars(&Form::grad_dot(), &query, &[])
        };
        (0..self.slopes.len()).flat_map(of).collect()
    }
}

#[test]
fn intervals_cover_the_scores_of_whole_gradients() {
    let model = model("bert-cls2");
    for (kind, parameters) in [
        (ProjectionKind::Rademacher, GradientsOf::Linear),
        (ProjectionKind::Gaussian, GradientsOf::All),
        (ProjectionKind::Sjlt, GradientsOf::Linear),
    ] {
        let whole = Drawn::new(&model, &identity(parameters));
        let exact = [whole.all(false), whole.all(true)];
        let mut covered = [0, 0];
        for seed in 0..SEEDS {
            let drawn =
                Drawn::new(&model, &Projection { kind, dimension: 2048, seed, parameters, ..Projection::default() });
            for (cosine, (covered, exact)) in covered.iter_mut().zip(&exact).enumerate() {
                for (pair, ((_, bar), (exact, _))) in drawn.all(cosine == 1).iter().zip(exact).enumerate() {
                    // A gradient's cosine with itself is 1 in any projection.
                    let apart = pair / 5 != pair % 5;
                    let within = (f64::from(bar.low)..=f64::from(bar.high)).contains(exact);
                    *covered += usize::from(apart && within);
                }
            }
        }
        for (covered, what) in covered.into_iter().zip(["dot", "cos"]) {
            let share = covered as f64 / (20.0 * SEEDS as f64);
            // Pairs of one draw go together, so that there are no more cases than draws: three standard errors of their
            // binomial.
            let off = 3.0 * (0.95 * 0.05 / SEEDS as f64).sqrt();
            assert!((share - 0.95).abs() <= off, "{kind} {parameters} {what}: {share:.3} are covered");
        }
    }
}

/// Errors told and found, over draws, of the scores of all records for the first, preconditioned in each of these ways.
fn told_and_found(ways: &[(MomentForm, f64)]) -> Vec<(f64, f64)> {
    let model = model("bert-cls2");
    let going: KeepGoing<'_> = &|| true;
    let (mut told, mut scores) = (vec![0.0; ways.len()], vec![Vec::new(); ways.len()]);
    for seed in 0..SEEDS / 2 {
        let drawn = Drawn::new(&model, &Projection { dimension: 2048, seed, ..Projection::default() });
        for ((&(form, damping), told), scores) in ways.iter().zip(&mut told).zip(&mut scores) {
            let (layers, weighting) = (drawn.layers.as_slice(), Weighting::Curvature);
            let options = MomentOptions { form, layers, weighting, damping: Some(damping) };
            let moment = [DampedMoment::fit(vec![drawn.rows()], options, going).unwrap()];
            let solved = moment[0].solve(&[&drawn.own(0)]).swap_remove(0);
            let query = Query::transformed(solved, 0.0, vec![drawn.slopes[0]]);
            let bars = drawn.bars(&Form::grad_dot(), &query, &moment);
            *told += bars.iter().map(|(_, bar)| f64::from(bar.error).powi(2)).sum::<f64>();
            scores.push(bars.iter().map(|(score, _)| *score).collect::<Vec<_>>());
        }
    }
    let variance = |scores: &[Vec<f64>]| {
        let n = scores.len() as f64;
        let of = |i: usize| {
            let mean = scores.iter().map(|of| of[i]).sum::<f64>() / n;
            scores.iter().map(|of| (of[i] - mean).powi(2)).sum::<f64>() / (n - 1.0)
        };
        (0..scores[0].len()).map(of).sum::<f64>()
    };
    let both = |(told, scores): (f64, Vec<Vec<f64>>)| ((told / scores.len() as f64).sqrt(), variance(&scores).sqrt());
    told.into_iter().zip(scores).map(both).collect()
}

#[test]
fn errors_of_preconditioned_scores_are_their_spread_over_draws() {
    let forms = [MomentForm::Whole, MomentForm::Layers, MomentForm::Shampoo];
    let ways: Vec<(MomentForm, f64)> = forms.into_iter().flat_map(|form| [(form, 0.1), (form, 3.0)]).collect();
    for ((form, damping), (told, found)) in ways.iter().zip(told_and_found(&ways)) {
        // A jackknife errs on the side of caution; 100 draws tell an error to about a tenth.
        assert!((0.85..=1.5).contains(&(told / found)), "{form:?} {damping}: told {told:e}, found {found:e}");
    }
}

/// A sum of cosines of vectors of unit length, as rule less has it, is as sure as the cosine of what they were.
#[test]
fn errors_of_directions_are_those_of_cosines() {
    let drawn = Drawn::new(&model("bert-cls2"), &Projection { dimension: 2048, ..Projection::default() });
    let width = drawn.rows().width;
    let directions = |row: &[f32]| {
        let length = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        row.iter().map(move |&x| (f64::from(x) / length) as f32).collect::<Vec<_>>()
    };
    let features = drawn.features.chunks_exact(width).flat_map(directions).collect();
    let ones = vec![1.0; drawn.slopes.len()];
    let units = Drawn { layers: drawn.layers.clone(), features, slopes: ones.clone(), norms: ones };
    for i in 0..drawn.slopes.len() {
        let cosines = drawn.bars(&Form::feature_cos(), &Query::feature(drawn.own(i)), &[]);
        let source = units.rows();
        let (form, query) = (Form::grad_dot(), Query::transformed(units.own(i), 0.0, vec![1.0]));
        let scored = |row| Scored { place: (0, row), row, score: score(&source, &form, &query, 0, row) };
        let scored: Vec<Scored> = (0..source.rows).map(scored).collect();
        let bars =
            ErrorBars::new(&units.layers, &[], false).unwrap().of_directions().of(&source, &form, &query, &scored);
        for ((one, bar), (cosine, expected)) in scored.iter().zip(&bars).zip(&cosines) {
            assert!((f64::from(one.score) - cosine).abs() < 1e-5);
            // Both are of numbers rounded to f32.
            assert!((bar.error - expected.error).abs() < 1e-5, "{bar:?}, expected {expected:?}");
        }
    }
}

fn bench() -> Bench {
    let bench = Bench::new();
    bench.model("bert-cls2");
    bench.model("bert-cls2-checkpoint");
    bench.records("data.jsonl", 40);
    bench.records("queries.jsonl", 3);
    bench.ok("index --model bert-cls2 --data data.jsonl --gradients projected --projection-dim 600 --checkpoint \
         bert-cls2-checkpoint:0.5 --store store --quiet");
    bench
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

#[test]
fn every_rule_of_projected_gradients_tells_its_errors() {
    let bench = bench();
    bench.ok("curvature --store store --self-influence --quiet");
    let search = "search --store store --data queries.jsonl --format jsonl --quiet";
    for rule in [
        "projected-dot",
        "projected-cos",
        "tracin",
        "trak",
        "trak --hessian shampoo",
        "influence",
        "influence --hessian exact",
        "influence --hessian layers",
        "influence --hessian ekfac",
        "relatif",
        "relatif --hessian ekfac",
    ] {
        let told = lines(&bench.ok(&format!("{search} --rule {rule} --error-bars")));
        let plain = lines(&bench.ok(&format!("{search} --rule {rule}")));
        assert_eq!(told, lines(&bench.ok(&format!("{search} --rule {rule} --error-bars --threads 1"))), "{rule}");
        for (mut told, plain) in told.into_iter().zip(plain) {
            for end in ["proponents", "opponents"] {
                for (place, hit) in told[end].as_array_mut().unwrap().iter_mut().enumerate() {
                    let error = hit.as_object_mut().unwrap().shift_remove("error").unwrap();
                    let (score, standard) = (number(&hit["score"]), number(&error["standard"]));
                    let (low, high, tied) = (number(&error["low"]), number(&error["high"]), number(&error["tied"]));
                    assert!((place as f64 + 1.0..=10.0).contains(&tied), "{rule}: {hit} {error}");
                    if rule == "projected-cos" && score.abs() > 0.999_999 {
                        // A gradient with itself or its opposite, whatever the projection.
                        assert!(standard < 1e-6, "{hit} {error}");
                        continue;
                    }
                    assert!(standard > 0.0 && low < score && score < high, "{rule}: {hit} {error}");
                    // 95 % is more than 1.95 standard errors, and the middle is the score.
                    assert!(high - score > 1.95 * standard && (high + low - 2.0 * score).abs() < 1e-5 * (high - low));
                }
            }
            assert_eq!(told, plain, "{rule}: and nothing else");
        }
    }
    bench.ok(&format!("{search} --rule trak --error-bars --out told.jsonl"));
    bench.ok("report told.jsonl --out page.html");
    let page = std::fs::read_to_string(bench.path("page.html")).unwrap();
    assert!(page.contains("title=\"95 %: "), "the page tells intervals");
    let text = bench.ok("search --store store --data queries.jsonl --error-bars --format text --quiet");
    assert!(text.contains(" ± ") && text.contains("cannot be told apart"), "{text}");
    bench.ok(&format!("{search} --group-by label --error-bars --out groups.parquet --format parquet"));
}

#[test]
fn what_was_not_projected_has_no_error_and_what_cannot_be_told_is_refused() {
    let bench = bench();
    let index = "index --model bert-cls2 --data data.jsonl --quiet";
    bench.ok(&format!("{index} --gradients projected --projection identity --store whole"));
    let rows = lines(&bench.ok("search --store whole --data queries.jsonl --error-bars --rule projected-dot --quiet"));
    let hits = rows[0]["proponents"].as_array().unwrap();
    for hit in hits {
        assert_eq!((&hit["error"]["standard"], &hit["error"]["low"]), (&0.0.into(), &hit["score"]));
        // Some records are the same again.
        let last = hits.iter().rfind(|other| other["score"] == hit["score"]).unwrap();
        assert_eq!(hit["error"]["tied"], last["rank"], "{hit}");
    }
    bench.ok(&format!("{index} --store last"));
    bench.fails("search --store last --data queries.jsonl --error-bars --quiet", "is not of projected gradients");
    bench.fails("search --store store --data queries.jsonl --rule bm25 --error-bars", "is not of projected gradients");
    bench.fails("search --store store --data queries.jsonl --error-bars --top-k all", "full rankings");
    bench.fails("search --store store --data queries.jsonl --error-bars --exact 5", "--exact");
    bench.ok(&format!("{index} --gradients projected --projection-dim 30 --store few"));
    bench.fails("search --store few --data queries.jsonl --error-bars", "of one draw nothing is known of another");
}
