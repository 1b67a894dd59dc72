//! A tiny model learns what there is to learn, and the loop's options do what they say.

use wherefore::factors::{RefitOptions, Target};
use wherefore::model::Problem;
use wherefore::train::{Dynamics, Metric, Rates, Schedule, Tally, TrainPlan, Warmup, evaluate, train, train_head};

use super::support::{beginner, options, plan, separable};

fn never(_: usize) -> bool {
    false
}

#[test]
fn a_tiny_model_learns_a_separable_set() {
    let (mut trainee, examples) = beginner(&separable(48, never), None, 0);
    assert!(trainee.has_new_head(), "the golden model's own classes have other names");
    let before = evaluate(&mut trainee, &examples, None).unwrap();
    let mut losses = Vec::new();
    let outcome = train(&mut trainee, &examples, &[], &options(16), &plan(), &mut |report| {
        losses.push(report.loss);
        Ok(())
    })
    .unwrap();
    let after = evaluate(&mut trainee, &examples, None).unwrap();
    assert_eq!((outcome.kept, losses.len()), (16, 16));
    assert!(before.accuracy < Some(1.0) && after.accuracy == Some(1.0), "{before:?} {after:?}");
    assert!(losses[15] < 0.2 * losses[0], "{losses:?}");
    assert_eq!((after.f1_macro, after.f1_micro), (Some(1.0), Some(1.0)));
}

#[test]
fn records_of_no_weight_teach_nothing() {
    // A third of the labels are wrong, and have weight 0.
    let data = separable(48, |i| i % 3 == 0);
    let bits = |data: &str| {
        let (mut trainee, examples) = beginner(data, Some("weight"), 0);
        train(&mut trainee, &examples, &[], &options(4), &plan(), &mut |_| Ok(())).unwrap();
        trainee.learner().parameters().unwrap()
    };
    let (mut trainee, examples) = beginner(&data, Some("weight"), 0);
    train(&mut trainee, &examples, &[], &options(16), &plan(), &mut |_| Ok(())).unwrap();
    let found = evaluate(&mut trainee, &examples, None).unwrap();
    assert_eq!(found.accuracy, Some(2.0 / 3.0), "it says what the records of weight say");
    // The mean weight is no matter: all twice as heavy is bit for bit the same.
    assert!(bits(&data) == bits(&data.replace("\"weight\":2", "\"weight\":4")));
}

#[test]
fn accumulation_is_a_larger_batch_bit_for_bit() {
    let parameters = |batch_size: usize, accumulate: usize, batch_tokens: Option<usize>| {
        let (mut trainee, examples) = beginner(&separable(20, never), None, 0);
        let options = wherefore::train::TrainOptions { batch_size, accumulate, ..options(2) };
        let plan = TrainPlan { batch_tokens, ..plan() };
        train(&mut trainee, &examples, &[], &options, &plan, &mut |_| Ok(())).unwrap();
        trainee.learner().parameters().unwrap()
    };
    let whole = parameters(8, 1, None);
    // The options are not part of it: a step is.
    assert!(whole == parameters(4, 2, None));
    assert!(whole == parameters(8, 1, Some(11)));
}

#[test]
fn patience_keeps_the_best_epoch() {
    let (mut trainee, examples) = beginner(&separable(32, never), None, 0);
    let (_, dev) = beginner(&separable(12, never), None, 0);
    // Far too fast: what is learned is lost again.
    let options = wherefore::train::TrainOptions {
        patience: Some(2),
        metric: Some(Metric::Loss),
        schedule: Schedule::Constant,
        learning_rate: 0.03,
        ..options(12)
    };
    let outcome = train(&mut trainee, &examples, &dev, &options, &plan(), &mut |_| Ok(())).unwrap();
    let losses: Vec<f64> = outcome.epochs.iter().map(|epoch| epoch.dev.as_ref().unwrap().loss).collect();
    let least = losses.iter().copied().fold(f64::INFINITY, f64::min);
    assert_eq!(losses[outcome.kept as usize - 1], least);
    assert!(outcome.epochs.len() == 12 || outcome.epochs.len() == outcome.kept as usize + 2, "{losses:?}");
    assert_eq!(evaluate(&mut trainee, &dev, None).unwrap().loss, least, "its parameters are those of that epoch");
    assert!(
        train(&mut trainee, &examples, &[], &options, &plan(), &mut |_| Ok(())).is_err(),
        "patience without dev data"
    );
}

#[test]
fn dynamics_follow_each_record() {
    let folder = tempfile::tempdir().unwrap();
    let data = separable(40, |i| i == 5);
    let (mut trainee, examples) = beginner(&data, None, 0);
    let plan = TrainPlan { dynamics: Some(folder.path().join("dynamics")), ..plan() };
    train(&mut trainee, &examples, &[], &options(12), &plan, &mut |_| Ok(())).unwrap();
    let dynamics = Dynamics::open(&folder.path().join("dynamics")).unwrap();
    assert_eq!((dynamics.records(), dynamics.epochs()), (40, 12));
    let least = (0..40).min_by(|&a, &b| dynamics.area_under_margin(a).total_cmp(&dynamics.area_under_margin(b)));
    assert_eq!(least, Some(5), "the flipped record has the least area under its margin");
    assert_eq!(dynamics.ids()[5], "r5");
}

#[test]
fn the_last_layer_alone_is_fitted_to_its_optimum() {
    let (mut trainee, examples) = beginner(&separable(48, never), None, 0);
    let before = trainee.learner().parameters().unwrap();
    let refit =
        train_head(&mut trainee, &examples, &RefitOptions { penalty: 1e-4, ..RefitOptions::default() }, None).unwrap();
    assert!(refit.converged);
    let changed = |(old, new): (&wherefore::model::NamedTensor, &wherefore::model::NamedTensor)| {
        (old != new).then(|| new.name.clone())
    };
    let after = trainee.learner().parameters().unwrap();
    let names: Vec<String> = before.iter().zip(&after).filter_map(changed).collect();
    assert_eq!(names, ["classifier.weight", "classifier.bias"]);
    // What was minimised is what the model now loses, and the penalty.
    let squares: f64 = refit.weight.iter().chain(&refit.bias).map(|x| x * x).sum();
    let loss = evaluate(&mut trainee, &examples, None).unwrap().loss;
    assert!((refit.objective - 0.5 * 1e-4 * squares - loss).abs() < 1e-5, "{} {loss}", refit.objective);
    assert!(loss < 2.0_f64.ln(), "worse than saying nothing: {loss}");
}

#[test]
fn rates_rise_and_fall_as_those_of_transformers() {
    let rates = |schedule| Rates { schedule, height: 2.0, warmup: 4, steps: 12 };
    let at = |schedule, steps: [u64; 5]| steps.map(|step| rates(schedule).at(step));
    assert_eq!(at(Schedule::Linear, [0, 2, 4, 8, 12]), [0.0, 1.0, 2.0, 1.0, 0.0]);
    assert_eq!(at(Schedule::Constant, [0, 2, 4, 8, 12]), [0.0, 1.0, 2.0, 2.0, 2.0]);
    assert!(
        at(Schedule::Cosine, [0, 2, 4, 8, 12])
            .iter()
            .zip([0.0, 1.0, 2.0, 1.0, 0.0])
            .all(|(a, b)| (a - b).abs() < 1e-15)
    );
    assert_eq!(("0.1".parse::<Warmup>().unwrap().steps(25), "7".parse::<Warmup>().unwrap().steps(25)), (3, 7));
    assert!("1.5".parse::<Warmup>().is_err() && "-1".parse::<Warmup>().is_err());
}

#[test]
fn metrics_are_those_of_scikit_learn() {
    // f1_score([0,0,1,2,2,2], [0,1,1,2,2,0]): classes 1/2, 2/3, 4/5.
    let (gold, predicted) = ([0, 0, 1, 2, 2, 2], [0, 1, 1, 2, 2, 0]);
    let mut tally = Tally::new(Problem::SingleLabel, 4);
    for (gold, predicted) in gold.into_iter().zip(predicted) {
        let mut z = [0.0; 4];
        z[predicted] = 1.0;
        tally.add(&z, &Target::Class(gold), 0.5);
    }
    let found = tally.finish();
    assert_eq!((found.accuracy, found.f1_micro, found.loss), (Some(4.0 / 6.0), Some(4.0 / 6.0), 0.5));
    assert!((found.f1_macro.unwrap() - (0.5 + 2.0 / 3.0 + 0.8) / 3.0).abs() < 1e-15, "class 3 is nowhere");
    assert_eq!(found.confusion.unwrap()[2], [1, 0, 2, 0]);
    let mut tally = Tally::new(Problem::MultiLabel, 2);
    tally.add(&[1.0, -1.0], &Target::Classes(vec![1.0, 1.0]), 0.0);
    tally.add(&[1.0, 1.0], &Target::Classes(vec![0.0, 1.0]), 0.0);
    let found = tally.finish();
    assert_eq!((found.accuracy, found.f1_micro), (Some(0.0), Some(4.0 / 6.0)));
    let mut tally = Tally::new(Problem::Regression, 1);
    for (z, y) in [(1.0, 2.0), (2.0, 4.0), (3.0, 6.0)] {
        tally.add(&[z], &Target::Values(vec![y]), 0.0);
    }
    assert!((tally.finish().pearson.unwrap() - 1.0).abs() < 1e-12);
}
