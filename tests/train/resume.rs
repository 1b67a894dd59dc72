//! A training that was cut short goes on to the very bits it would have come to.

use std::path::Path;

use wherefore::Error;
use wherefore::model::{DropoutRates, NamedTensor};
use wherefore::train::{Dynamics, EpochReport, TrainPlan, train};

use super::support::{beginner, options, plan, separable};

/// What a training in `folder` comes to; cut short at the epoch's report that `stop` says.
fn run(folder: &Path, plan: TrainPlan, stop: Option<u32>) -> Result<(Vec<EpochReport>, Vec<NamedTensor>), Error> {
    let (mut trainee, examples) = beginner(&separable(36, |i| i == 5), None, 1);
    let (_, dev) = beginner(&separable(12, |_| false), None, 1);
    let plan = TrainPlan { dynamics: Some(folder.join("dynamics")), checkpoints: Some(folder.join("state")), ..plan };
    let options = wherefore::train::TrainOptions {
        patience: Some(3),
        dropout: DropoutRates::uniform(0.1).unwrap(),
        ..options(4)
    };
    let told = &mut |report: &EpochReport| if stop == Some(report.epoch) { Err(Error::Interrupted) } else { Ok(()) };
    let outcome = train(&mut trainee, &examples, &dev, &options, &plan, told)?;
    Ok((outcome.epochs, trainee.learner().state()?))
}

#[test]
fn a_resumed_training_has_the_bits_of_one_that_was_never_cut_short() {
    let [straight, cut] = [0, 1].map(|_| tempfile::tempdir().unwrap());
    let whole = run(straight.path(), plan(), None).unwrap();
    // The report of an epoch comes before its own checkpoint: what is there is of a step in the middle of the epoch.
    let checkpoints = TrainPlan { checkpoint_every: Some(2), ..plan() };
    assert!(matches!(run(cut.path(), checkpoints.clone(), Some(2)), Err(Error::Interrupted)));
    let resuming = TrainPlan { resume: true, batch_tokens: Some(23), ..checkpoints };
    assert!(matches!(run(cut.path(), resuming.clone(), Some(3)), Err(Error::Interrupted)));
    let resumed = run(cut.path(), resuming, None).unwrap();
    assert!(whole == resumed, "{:?} {:?}", whole.0, resumed.0);
    let [a, b] = [&straight, &cut].map(|folder| Dynamics::open(&folder.path().join("dynamics")).unwrap());
    assert!((0..4).all(|epoch| a.epoch(epoch) == b.epoch(epoch)));
}

#[test]
fn a_state_of_another_training_or_a_damaged_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(run(folder.path(), plan(), Some(2)), Err(Error::Interrupted)));
    let (mut trainee, examples) = beginner(&separable(30, |_| false), None, 1);
    let state = folder.path().join("state");
    let resuming = TrainPlan { checkpoints: Some(state.clone()), resume: true, ..plan() };
    let refused = |trainee: &mut _| {
        train(trainee, &examples, &[], &options(2), &resuming, &mut |_| Ok(())).unwrap_err().to_string()
    };
    assert!(refused(&mut trainee).contains("other data, options or model"));
    let file = state.join("state.safetensors");
    let whole = std::fs::read(&file).unwrap();
    for cut in [0, 7, 200, whole.len() - 1] {
        std::fs::write(&file, &whole[..cut]).unwrap();
        let message = refused(&mut trainee);
        assert!(message.contains("not a whole checkpoint") && !message.contains('\n'), "{cut}: {message}");
    }
}
