//! TRAK against traker's own scores (`tests/golden/traker.py`), over the same weights, records and projections.

use serde_json::Value;

use super::curvature::{bench, numbers, scores};
use crate::cli::golden;
use wherefore::evaluate::spearman;

#[test]
fn trak_ranks_as_traker_does() {
    let (bench, _) = bench("bert-cls2");
    let text = std::fs::read_to_string(golden("bert-cls2").join("trak.json")).unwrap();
    let said: Value = serde_json::from_str(&text).unwrap();
    for parameters in ["linear", "all"] {
        bench.ok(&format!(
            "index --model bert-cls2 --data data.jsonl --gradients projected --store {parameters} --projection-dim {} --seed {} --parameters {parameters} --quiet",
            said["dimension"], said["seed"]
        ));
        let found = scores(&bench, &format!("--store {parameters} --rule trak --lambda {}", said["damping"]));
        let expected: Vec<Vec<f64>> = said[parameters].as_array().unwrap().iter().map(numbers).collect();
        assert_eq!(found.len(), expected.len());
        // traker divides the inverse by its mean entry, which is one number for all queries.
        for (query, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let rho = spearman(found, expected).unwrap();
            assert!(rho >= 0.99, "{parameters} query {query}: Spearman {rho}: {found:?} {expected:?}");
        }
    }
}
