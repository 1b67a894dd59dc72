//! The curvature of answers: the empirical Fisher information of their boundaries, written out, solved and stepped
//! along.

use wherefore::dataset::{Dataset, DatasetOptions, Shape};
use wherefore::factors::{Bundle, Curvature, CurvatureOptions, HessianForm, Preconditioned};
use wherefore::model::{Device, LoadOptions, Model, Outputs, Reads};
use wherefore::pipeline::RuleOptions;
use wherefore::search::Rule;
use wherefore::store::Store;
use wherefore::tokens::Encoding;

use super::stores::{bundle, golden, indexed, scores};

const DAMPING: f64 = 0.01;

fn curvature(store: &Store, form: HessianForm) -> Curvature<'_> {
    let options = CurvatureOptions { form, damping: DAMPING, ..CurvatureOptions::default() };
    Curvature::fit(store, options, &|| true).unwrap()
}

/// The gradient of each boundary of a store's records, as a whole matrix.
fn boundaries(bundles: &[Bundle]) -> Vec<Vec<f64>> {
    bundles.iter().flat_map(|bundle| (0..bundle.len()).map(|factor| bundle.only(factor).gradient())).collect()
}

/// `(1/F) Σ g gᵀ + λI`, or with each block of an output's numbers by a mean of all outputs' inputs: the Kronecker form.
fn information(bundles: &[Bundle], form: HessianForm) -> Vec<Vec<f64>> {
    let (gradients, inputs) = (boundaries(bundles), bundles[0].width() + 1);
    let share = 1.0 / gradients.len() as f64;
    let mean = |p: usize, q: usize| -> f64 { gradients.iter().map(|g| g[p] * g[q]).sum::<f64>() * share };
    let of_output = |output: usize| bundles.iter().flat_map(|b| &b.classes).filter(|&&c| c == output).count() as f64;
    let entry = |p: usize, q: usize| match form {
        HessianForm::Kronecker if p / inputs == q / inputs => {
            let pooled: f64 = (0..2).map(|k| mean(k * inputs + p % inputs, k * inputs + q % inputs)).sum();
            of_output(p / inputs) * share * pooled
        }
        HessianForm::Kronecker => 0.0,
        _ => mean(p, q),
    };
    let size = gradients[0].len();
    let damped = |p: usize, q: usize| entry(p, q) + if p == q { DAMPING } else { 0.0 };
    (0..size).map(|p| (0..size).map(|q| damped(p, q)).collect()).collect()
}

/// `A⁻¹ b` by Gaussian elimination with pivots.
fn solve(mut a: Vec<Vec<f64>>, mut b: Vec<f64>) -> Vec<f64> {
    let n = b.len();
    for i in 0..n {
        let pivot = (i..n).max_by(|&x, &y| a[x][i].abs().total_cmp(&a[y][i].abs())).unwrap();
        a.swap(i, pivot);
        b.swap(i, pivot);
        for row in i + 1..n {
            let factor = a[row][i] / a[i][i];
            let upper = a[i].clone();
            a[row].iter_mut().zip(&upper).skip(i).for_each(|(x, y)| *x -= factor * y);
            b[row] -= factor * b[i];
        }
    }
    for i in (0..n).rev() {
        b[i] = (b[i] - (i + 1..n).map(|j| a[i][j] * b[j]).sum::<f64>()) / a[i][i];
    }
    b
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

fn wide(preconditioned: &Preconditioned) -> Vec<f64> {
    match preconditioned {
        Preconditioned::Full(v) => v.iter().map(|&v| f64::from(v)).collect(),
        Preconditioned::RankOne { .. } => panic!("boundaries of two outputs have no one curvature"),
    }
}

/// A solution is rounded to f32 once, the rest is f64; scores are f32 sums of a few dozen products.
#[test]
fn answers_are_preconditioned_by_the_information_written_out() {
    for (case, form) in [
        ("bert-spans", HessianForm::Exact),
        ("roberta-spans", HessianForm::Exact),
        ("distilbert-spans", HessianForm::Exact),
        ("bert-spans", HessianForm::Kronecker),
    ] {
        let at = tempfile::tempdir().unwrap();
        let (store, _) = indexed(case, at.path());
        let bundles: Vec<Bundle> = (0..store.rows()).map(|row| bundle(&store, row)).collect();
        let (curvature, information) = (curvature(&store, form), information(&bundles, form));
        let found = curvature.precondition_bundles(&bundles, &|| true).unwrap();
        let squares =
            curvature.self_influence_of_bundles(bundles.len(), &|row| bundles[row].clone(), &|| true).unwrap();
        let gradients: Vec<Vec<f64>> = bundles.iter().map(Bundle::gradient).collect();
        let rule_options = RuleOptions { hessian: Some(form), lambda: Some(DAMPING), ..RuleOptions::default() };
        let [influence, relatif] = [Rule::Influence, Rule::RelatIf].map(|rule| scores(&store, rule, &rule_options));
        for (q, solution) in found.iter().map(wide).enumerate() {
            let expected = solve(information.clone(), gradients[q].clone());
            let size = dot(&expected, &expected).sqrt();
            let apart: Vec<f64> = solution.iter().zip(&expected).map(|(a, b)| a - b).collect();
            let apart = dot(&apart, &apart).sqrt();
            assert!(apart <= 1e-6 * size, "{case} {form:?}: {apart} of {size}");
            let own = dot(&expected, &gradients[q]);
            assert!((own - f64::from(squares[q])).abs() <= 1e-6 * own, "{case} {form:?}: {} for {own}", squares[q]);
            for i in (0..bundles.len()).filter(|&i| i != q) {
                let score = dot(&expected, &gradients[i]);
                let allowed = 1e-5 * size * dot(&gradients[i], &gradients[i]).sqrt();
                assert!((influence[q][i] - score).abs() <= allowed, "{case}: {} for {score}", influence[q][i]);
                let over = f64::from(squares[i]).sqrt();
                assert!((relatif[q][i] - score / over).abs() <= allowed / over, "{case}: relatif {}", relatif[q][i]);
            }
        }
    }
}

type Window = (Vec<f64>, Vec<f64>, [usize; 2]);

/// The windows of a case's records with what the model says of them, two logits a token.
struct Windows {
    /// `[T, E]`, `[T, 2]` and the right boundaries of each window that holds the answer, record after record.
    records: Vec<Vec<Window>>,
    width: usize,
}

fn windows(case: &str, store: &Store) -> Windows {
    let (folder, golden) = golden(case);
    let model = Model::load(folder.to_str().unwrap(), Device::Cpu, &LoadOptions::default()).unwrap();
    let at = tempfile::tempdir().unwrap();
    let data = at.path().join("data.jsonl");
    let lines: String = golden.records.iter().flat_map(|record| [record.to_string(), "\n".to_owned()]).collect();
    std::fs::write(&data, lines).unwrap();
    let files = vec![data.to_str().unwrap().to_owned()];
    let dataset = Dataset::open(DatasetOptions { files, shape: Shape::Questions, ..DatasetOptions::default() });
    let wide = |values: &[f32]| values.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
    let of_record = |(row, record): (usize, wherefore::Result<wherefore::dataset::Record>)| {
        let record = record.unwrap();
        let context = record.pair.as_deref().unwrap();
        let all = model.tokenizer().windows(&record.text, context, model.max_length(), golden.stride).unwrap();
        let said = store.record(row).unwrap().said.unwrap();
        let mut own = Vec::new();
        for encoding in &all {
            let reads: Reads = (0..encoding.ids.len() as u32).collect();
            let sequences: [(&Encoding, Reads); 1] = [(encoding, reads)];
            let Outputs { features, logits } = model.read(&sequences, None, &|_| true).unwrap().remove(0);
            let span = match said.parts.first() {
                Some(first) if first.end > first.start => (first.start, said.parts[1].end),
                _ => (usize::MAX, usize::MAX),
            };
            let place =
                if span.0 == usize::MAX { Some((0, 0)) } else { wherefore::task::place(encoding, span.0, span.1) };
            if let Some((start, end)) = place {
                own.push((wide(&features), wide(&logits), [start, end]));
            }
        }
        own
    };
    let records = dataset.unwrap().enumerate().map(of_record).collect();
    Windows { records, width: model.width() }
}

impl Windows {
    /// A record's loss where `step [2, E + 1]` is added to the head.
    fn loss(&self, record: usize, step: &[f64]) -> f64 {
        let boundary = |features: &[f64], logits: &[f64], output: usize, place: usize| -> f64 {
            let step = &step[output * (self.width + 1)..][..self.width];
            let z: Vec<f64> = features
                .chunks_exact(self.width)
                .enumerate()
                .map(|(t, h)| logits[2 * t + output] + dot(h, step))
                .collect();
            let largest = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            largest + z.iter().map(|z| (z - largest).exp()).sum::<f64>().ln() - z[place]
        };
        let of_window = |(features, logits, places): &Window| -> f64 {
            (0..2).map(|output| boundary(features, logits, output, places[output])).sum()
        };
        self.records[record].iter().map(of_window).sum()
    }
}

/// Taking a record's gradient back by a small step, preconditioned, changes every other record's loss as its influence
/// says: central differences of the loss itself, whose error is that of f32's features in the gradients (10⁻⁵ of both
/// lengths) and of the step, squared.
#[test]
fn influence_is_how_a_loss_changes_with_the_step() {
    for case in ["bert-spans", "roberta-spans"] {
        let at = tempfile::tempdir().unwrap();
        let (store, _) = indexed(case, at.path());
        let bundles: Vec<Bundle> = (0..store.rows()).map(|row| bundle(&store, row)).collect();
        let windows = windows(case, &store);
        let solved = curvature(&store, HessianForm::Exact).precondition_bundles(&bundles, &|| true).unwrap();
        let rule_options = RuleOptions { lambda: Some(DAMPING), ..RuleOptions::default() };
        let influence = scores(&store, Rule::Influence, &rule_options);
        for (i, direction) in solved.iter().map(wide).enumerate() {
            assert_eq!(windows.records[i].len(), bundles[i].len() / 2);
            assert!(
                (windows.loss(i, &vec![0.0; direction.len()]) - f64::from(store.shards()[0].losses()[i])).abs() < 1e-4
            );
            let length = dot(&direction, &direction).sqrt();
            let h = 1e-4 / length;
            let step = |sign: f64| direction.iter().map(|v| sign * h * v).collect::<Vec<f64>>();
            for q in (0..bundles.len()).filter(|&q| q != i) {
                let slope = (windows.loss(q, &step(1.0)) - windows.loss(q, &step(-1.0))) / (2.0 * h);
                let allowed = 1e-5 * length * bundles[q].norm().max(1.0);
                assert!(
                    (slope - influence[q][i]).abs() <= allowed,
                    "{case}: {q}, {i}: {slope} for {}",
                    influence[q][i]
                );
            }
        }
    }
}
