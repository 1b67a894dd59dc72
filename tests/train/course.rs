//! A golden's training on some device, and whether that is PyTorch's.

use serde_json::Value;
use wherefore::backend::training::AdamStep;
use wherefore::model::{NamedTensor, Trainee};
use wherefore::train::{Rates, Schedule};

use super::support::path;

/// What a training gave: losses a step, gradient norms a step, the first step's gradients, the last parameters.
pub(super) struct Course {
    pub(super) losses: Vec<Vec<f64>>,
    norms: Vec<f64>,
    pub(super) gradients: Vec<NamedTensor>,
    pub(super) parameters: Vec<NamedTensor>,
}

/// The golden models that have this file, of which there are `count`.
pub(super) fn cases(file: &str, count: usize) -> Vec<String> {
    let folders = std::fs::read_dir(path("")).unwrap().map(|entry| entry.unwrap());
    let trained = folders.filter(|entry| entry.path().join(file).is_file());
    let mut names: Vec<String> = trained.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names.len(), count, "golden trainings are missing: {names:?}");
    names
}

pub(super) fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

impl Course {
    /// Steps as the golden's settings have them; `study` takes the gradients of a step, and gives its losses.
    pub(super) fn run(
        mut trainee: Trainee,
        golden: &Value,
        mut study: impl FnMut(&mut Trainee, usize) -> Vec<f64>,
    ) -> Self {
        let settings = &golden["settings"];
        let number = |name: &str| settings[name].as_f64().unwrap();
        let rates = Rates {
            schedule: golden["schedule"].as_str().unwrap().parse::<Schedule>().unwrap(),
            height: number("rate"),
            warmup: number("warmup") as u64,
            steps: number("steps") as u64,
        };
        let mut course = Self { losses: vec![], norms: vec![], gradients: vec![], parameters: vec![] };
        for step in 0..rates.steps {
            course.losses.push(study(&mut trainee, step as usize));
            if step == 0 {
                course.gradients = trainee.learner().gradients().unwrap();
            }
            let norm = trainee.learner().gradient_norm().unwrap();
            course.norms.push(norm);
            let adam = AdamStep {
                rate: rates.at(step),
                decay: number("decay"),
                betas: [0.9, 0.999],
                epsilon: number("epsilon"),
                number: step + 1,
                scale: (number("clip") / (norm + 1e-6)).min(1.0),
            };
            trainee.learner().step(&adam).unwrap();
        }
        course.parameters = trainee.learner().parameters().unwrap();
        course
    }

    /// That of f64 is the golden's, but for f64's own error, which AdamW magnifies where gradients nearly vanish, and
    /// its numbers' rounding to f32.
    pub(super) fn is_pytorchs(&self, name: &str, golden: &Value) {
        let steps = golden["steps"].as_array().unwrap();
        for (step, (losses, norm)) in self.losses.iter().zip(&self.norms).enumerate() {
            for (found, expected) in losses.iter().zip(numbers(&steps[step]["losses"])) {
                assert!(
                    (found - expected).abs() <= 1e-9 * expected.abs().max(1.0),
                    "{name}, step {step}: {found} {expected}"
                );
            }
            let expected = steps[step]["norm"].as_f64().unwrap();
            assert!((norm - expected).abs() <= 1e-8 * expected, "{name}, step {step}: norm {norm} {expected}");
        }
        for (what, tensors) in [("gradients", &self.gradients), ("parameters", &self.parameters)] {
            let expected = golden[what].as_object().unwrap();
            assert_eq!(tensors.len(), expected.len(), "{name}: {what}");
            for tensor in tensors {
                let (found, rounding) = digest(&tensor.values);
                for (found, expected) in found.iter().zip(numbers(&expected[&tensor.name])) {
                    let allowed = rounding + 1e-9 * expected.abs().max(1e-3);
                    assert!((found - expected).abs() <= allowed, "{name} {what} {}: {found} {expected}", tensor.name);
                }
            }
        }
    }
}

/// A tensor's norm and products with two waves; and what rounding each of its numbers to f32 may change of any of
/// these.
pub(super) fn digest(values: &[f32]) -> ([f64; 3], f64) {
    let x = || values.iter().enumerate().map(|(i, x)| ((i + 1) as f64, f64::from(*x)));
    let norm = x().map(|(_, x)| x * x).sum::<f64>().sqrt();
    let products = [1.0, 2.0].map(|k: f64| x().map(|(i, x)| x * (k * i).cos()).sum::<f64>());
    let rounding = 2.0_f64.powi(-24) * x().map(|(_, x)| x.abs()).sum::<f64>();
    ([norm, products[0], products[1]], rounding)
}

/// The largest error of any number, over the largest number, tensor by tensor.
pub(super) fn errors(found: &[NamedTensor], exact: &[NamedTensor]) -> Vec<(String, f64)> {
    let error = |(found, exact): (&NamedTensor, &NamedTensor)| {
        assert_eq!((&found.name, &found.shape), (&exact.name, &exact.shape));
        let scale = exact.values.iter().fold(1e-3_f64, |most, x| most.max(f64::from(x.abs())));
        let pairs = found.values.iter().zip(&exact.values);
        let error = pairs.fold(0.0_f64, |most, (f, e)| most.max((f64::from(*f) - f64::from(*e)).abs()));
        (found.name.clone(), error / scale)
    };
    found.iter().zip(exact).map(error).collect()
}
