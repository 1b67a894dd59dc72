//! What a training notes of its records comes back as it was, and what is damaged is refused.

use std::path::Path;

use wherefore::factors::Target;
use wherefore::model::Problem;
use wherefore::train::{Dynamics, DynamicsHeader, DynamicsWriter, Moment};

fn header() -> DynamicsHeader {
    DynamicsHeader { problem: Problem::SingleLabel, classes: vec!["no".into(), "yes".into(), "perhaps".into()] }
}

fn moment(probability: f32, margin: f32) -> Moment {
    Moment { probability, margin, correct: margin > 0.0 }
}

/// Three records over four epochs: learned at once, forgotten twice, never learned.
fn write(dir: &Path) -> Vec<[Moment; 3]> {
    let names = [(4, "a".to_owned()), (7, "b".to_owned()), (9, "c\"\n".to_owned())];
    let mut writer = DynamicsWriter::create(dir, header(), &names).unwrap();
    let wavering = [0.6, 0.2, 0.7, 0.1];
    let epochs: Vec<[Moment; 3]> =
        wavering.iter().map(|&p| [moment(0.9, 2.0), moment(p, 4.0 * p - 2.0), moment(0.05, -3.0)]).collect();
    for epoch in &epochs {
        writer.write_epoch(epoch).unwrap();
    }
    epochs
}

#[test]
fn what_was_written_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let epochs = write(folder.path());
    let dynamics = Dynamics::open(folder.path()).unwrap();
    assert_eq!((dynamics.records(), dynamics.epochs()), (3, 4));
    assert_eq!((dynamics.indices(), dynamics.ids()[2].as_str()), ([4, 7, 9].as_slice(), "c\"\n"));
    assert_eq!((dynamics.row_of(7), dynamics.row_of(5)), (Some(1), None));
    for (number, epoch) in epochs.iter().enumerate() {
        assert_eq!(dynamics.epoch(number), epoch);
    }
    assert_eq!(dynamics.header(), &header());
}

#[test]
fn statistics_are_those_of_the_papers() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path());
    let dynamics = Dynamics::open(folder.path()).unwrap();
    let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-7, "{a} is not {b}");
    near(dynamics.confidence(1), 0.4);
    near(dynamics.variability(1), (0.26_f64 / 4.0).sqrt()); // deviations 0.2, −0.2, 0.3, −0.3
    near(dynamics.area_under_margin(1), 4.0 * 0.4 - 2.0);
    assert_eq!([0, 1, 2].map(|row| dynamics.correctness(row)), [1.0, 0.5, 0.0]);
    assert_eq!([0, 1, 2].map(|row| dynamics.forgetting_events(row)), [Some(0), Some(2), None]);
    assert_eq!([0, 1, 2].map(|row| dynamics.learned_in(row)), [Some(0), Some(0), None]);
}

#[test]
fn moments_are_of_the_gold_label() {
    let z = [1.0, 3.0, 2.0];
    let second = Moment::of(Problem::SingleLabel, &z, &Target::Class(1)).unwrap();
    assert_eq!((second.margin, second.correct), (1.0, true));
    let third = Moment::of(Problem::SingleLabel, &z, &Target::Class(2)).unwrap();
    assert_eq!((third.margin, third.correct), (-1.0, false));
    assert!((f64::from(third.probability) - 1.0 / (1.0 + 1_f64.exp() + (-1_f64).exp())).abs() < 1e-7);
    let several = Moment::of(Problem::MultiLabel, &[2.0, -1.0], &Target::Classes(vec![1.0, 0.0])).unwrap();
    assert_eq!((several.margin, several.correct), (1.0, true));
    assert_eq!(Moment::of(Problem::Regression, &[2.0], &Target::Values(vec![1.0])), None);
}

#[test]
fn a_resumed_training_writes_over_what_it_had_not_finished() {
    let folder = tempfile::tempdir().unwrap();
    let epochs = write(folder.path());
    let mut writer = DynamicsWriter::resume(folder.path(), 2).unwrap();
    writer.write_epoch(&epochs[0]).unwrap();
    let dynamics = Dynamics::open(folder.path()).unwrap();
    assert_eq!((dynamics.epochs(), dynamics.epoch(2)), (3, epochs[0].as_slice()));
    assert!(DynamicsWriter::resume(folder.path(), 4).is_err(), "an epoch that was never written");
}

#[test]
fn what_is_damaged_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path());
    let refused = |file: &str, contents: &[u8], reason: &str| {
        let path = folder.path().join(file);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, contents).unwrap();
        let message = Dynamics::open(folder.path()).unwrap_err().to_string();
        assert!(message.contains(file) && message.contains(reason) && !message.contains('\n'), "{message}");
        std::fs::write(&path, whole).unwrap();
    };
    refused("records.jsonl", b"{\"index\":4,\"id\":\"a\"}\n", "expected 3 records, found 1");
    refused("records.jsonl", b"{\"index\":\"4\"}\n", "invalid type");
    refused("epoch-001.safetensors", b"\x08", "not a whole safetensors file");
    refused("dynamics.json", b"{}", "missing field");
    let regression = DynamicsHeader { problem: Problem::Regression, classes: vec![] };
    assert!(DynamicsWriter::create(folder.path(), regression, &[]).is_err());
}
