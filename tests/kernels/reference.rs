//! The judge judged: its error function against values from elsewhere, its softmax by hand.

use wherefore::backend::reference::{Reference, activate, erf, erfc};
use wherefore::backend::{Activation, Attended, AttentionShape, Backend, Columns, Rows};
use wherefore::tokens::PackedBatch;

/// From mpmath 1.3.0 with 40 digits: x, erf(x), erfc(x).
#[allow(clippy::unreadable_literal)] // as printed
const TABLE: [(f64, f64, f64); 9] = [
    (1e-08, 1.1283791670955126e-08, 0.9999999887162083),
    (0.1, 0.1124629160182849, 0.887537083981715),
    (0.5, 0.5204998778130465, 0.4795001221869535),
    (1.0, 0.8427007929497149, 0.15729920705028513),
    (1.5, 0.9661051464753108, 0.033894853524689274),
    (1.999, 0.9953015566513705, 0.004698443348629487),
    (2.0, 0.9953222650189527, 0.004677734981047266),
    (3.5, 0.9999992569016276, 7.430983723414128e-07),
    (6.0, 1.0, 2.1519736712498913e-17),
];

#[test]
fn error_function_equals_a_forty_digit_one() {
    for (x, erf_x, erfc_x) in TABLE {
        assert!((erf(x) - erf_x).abs() <= 1e-15 * erf_x.abs(), "erf({x})");
        assert!((erf(-x) + erf_x).abs() <= 1e-15 * erf_x.abs(), "erf(-{x})");
        // exp(−x²) alone loses x² roundings.
        let tolerance = if x < 2.0 { 1e-15 } else { (2.0 + 2.0 * x * x) * f64::EPSILON * erfc_x };
        assert!((erfc(x) - erfc_x).abs() <= tolerance, "erfc({x}): {} {erfc_x}", erfc(x));
        assert!((erfc(-x) - (1.0 + erf_x)).abs() <= 1e-15, "erfc(-{x})");
    }
}

#[test]
fn activations_at_points_done_by_hand() {
    let at = |activation, x| activate(activation, x);
    assert_eq!(at(Activation::Relu, -3.0), 0.0);
    assert_eq!(at(Activation::Identity, -3.0), -3.0);
    assert!((at(Activation::Gelu, 1.0) - 0.841_344_746_068_542_9).abs() < 1e-15); // Φ(1)
    assert!((at(Activation::GeluTanh, 1.0) - 0.841_191_990_608_276_7).abs() < 1e-14);
    assert!((at(Activation::Silu, 1.0) - 0.731_058_578_630_004_9).abs() < 1e-15);
    assert!((at(Activation::QuickGelu, 1.0) - 0.845_795_765_932_821_2).abs() < 1e-14);
    assert!((at(Activation::Tanh, 0.5) - 0.462_117_157_260_009_8).abs() < 1e-15);
}

#[test]
fn attention_of_two_tokens_by_hand() {
    let batch = PackedBatch { ids: vec![0; 2], type_ids: vec![0; 2], positions: vec![0, 1], cu_seqlens: vec![0, 2] };
    let (query, keys, values) = (vec![2.0, 0.0], vec![f64::ln(3.0) / 2.0, 0.0], vec![4.0, 8.0]);
    let view = |tensor| Columns { tensor, stride: 1, offset: 0 };
    let shape = AttentionShape { heads: 1, head_width: 1, queries: Rows::All };
    let mut out = vec![0.0; 2];
    let attended = Attended { q: view(&query), k: view(&keys), v: view(&values), batch: &batch, shape };
    Reference.attention(&mut out, &attended).unwrap();
    // The first asks with weights 3 : 1, the second with 1 : 1.
    assert!((out[0] - 5.0).abs() < 1e-14 && (out[1] - 6.0).abs() < 1e-14, "{out:?}");
}
