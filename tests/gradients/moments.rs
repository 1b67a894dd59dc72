//! What projected gradients are preconditioned by, against explicit matrices: whole, by Woodbury's identity, layer by
//! layer, and in Shampoo's eigenvectors.

use wherefore::factors::Labels;
use wherefore::store::Store;

use super::command::{assert_scores, dot, gradients, preconditioned, ranked};
use crate::cli::Bench;

fn bench(dimension: usize) -> (Bench, Store) {
    let bench = Bench::new();
    bench.model("bert-cls2");
    bench.records("data.jsonl", 40);
    bench.ok(&format!(
        "index --model bert-cls2 --data data.jsonl --gradients projected --projection-dim {dimension} --block-records 16 \
         --store store --quiet"
    ));
    let store = Store::open(bench.path("store")).unwrap();
    (bench, store)
}

/// What a record counts in the Gauss-Newton matrix.
fn curvature(slopes: &[f64], i: usize) -> f64 {
    -slopes[i] * (1.0 + slopes[i]) / slopes.len() as f64
}

/// The scores of influence, and of relatif, are those of this inverse.
fn assert_influence(bench: &Bench, store: &Store, form: &str, inverse: impl Fn(&[f64]) -> Vec<f64>) {
    let (phi, slopes) = gradients(store, None);
    let asked = inverse(&phi[0]);
    let influence = |i: usize| slopes[0] * slopes[i] * dot(&asked, &phi[i]);
    assert_scores(&ranked(bench, "store", &format!("influence {form}")), influence, form);
    let norm = |i: usize| slopes[i].abs() * dot(&inverse(&phi[i]), &phi[i]).sqrt();
    let relatif = |i: usize| influence(i) / norm(i);
    assert_scores(&ranked(bench, "store", &format!("relatif {form}")), relatif, form);
}

/// Applies `inverse` to each layer's numbers, told its place, rows and columns.
fn by_layer(store: &Store, q: &[f64], inverse: impl Fn(usize, [usize; 2], &[f64]) -> Vec<f64>) -> Vec<f64> {
    let mut out = vec![0.0; q.len()];
    let mut start = 0;
    for layer in &store.settings().gradient_layers {
        let end = start + layer.len();
        out[start..end].copy_from_slice(&inverse(start, [layer.outputs, layer.inputs], &q[start..end]));
        start = end;
    }
    out
}

#[test]
fn more_numbers_than_records_are_solved_for_in_the_records() {
    let (bench, store) = bench(150);
    assert!(store.settings().width > store.rows());
    let (phi, slopes) = gradients(&store, None);
    assert_influence(&bench, &store, "--hessian exact --lambda 0.1", |q| {
        preconditioned(&phi, |i| curvature(&slopes, i), 0.1, q)
    });
    let asked = preconditioned(&phi, |_| 1.0, 0.1, &phi[0]);
    assert_scores(&ranked(&bench, "store", "trak --lambda 0.1"), |i| -slopes[i] * dot(&asked, &phi[i]), "trak");
    bench.fails("search --store store --self --rule trak --lambda 0", "not positive definite");
}

#[test]
fn layers_have_a_matrix_each() {
    let (bench, store) = bench(120);
    let layers = &store.settings().gradient_layers;
    assert!(layers.len() > 8 && layers.iter().all(|layer| layer.len() > 4), "{layers:?}");
    let (phi, slopes) = gradients(&store, None);
    let by_weight = |weight: &dyn Fn(usize) -> f64, q: &[f64]| {
        by_layer(&store, q, |start, _, own| {
            let part: Vec<Vec<f64>> = phi.iter().map(|row| row[start..start + own.len()].to_vec()).collect();
            preconditioned(&part, weight, 0.1, own)
        })
    };
    assert_influence(&bench, &store, "--hessian layers --lambda 0.1", |q| by_weight(&|i| curvature(&slopes, i), q));
    let asked = by_weight(&|_| 1.0, &phi[0]);
    assert_scores(
        &ranked(&bench, "store", "trak --hessian layers --lambda 0.1"),
        |i| -slopes[i] * dot(&asked, &phi[i]),
        "trak",
    );
}

/// A store of a regression of one value, of 40 records of these labels, and their squared errors.
fn regression(bench: &Bench, store: &str, dimension: usize, label: impl Fn(usize) -> f64) -> (Store, Vec<f64>) {
    bench.model("bert-regression");
    bench.records("texts.jsonl", 40);
    let texts = std::fs::read_to_string(bench.path("texts.jsonl")).unwrap();
    let line = |(i, line): (usize, &str)| {
        let mut record: serde_json::Value = serde_json::from_str(line).unwrap();
        record["label"] = label(i).into();
        record.to_string() + "\n"
    };
    bench.write("data.jsonl", texts.lines().enumerate().map(line).collect::<String>());
    bench.ok(&format!(
        "index --model bert-regression --data data.jsonl --gradients projected --projection-dim {dimension} \
         --block-records 16 --store {store} --quiet"
    ));
    let store = Store::open(bench.path(store)).unwrap();
    let mut losses = Vec::new();
    for shard in store.shards() {
        let (Labels::Rows(labels), Labels::Rows(values)) = (shard.labels(), shard.predictions()) else {
            panic!("a regression has values")
        };
        losses.extend(labels.iter().zip(values).map(|(&y, &z)| (f64::from(z) - f64::from(y)).powi(2)));
    }
    (store, losses)
}

fn some_label(i: usize) -> f64 {
    (i * 7 % 10) as f64 * 0.37 - 1.0
}

#[test]
fn a_regressions_curvature_is_that_of_its_value() {
    // Fewer records than numbers, and more.
    for dimension in [150, 24] {
        let bench = Bench::new();
        let (store, losses) = regression(&bench, "store", dimension, some_label);
        let (phi, _) = gradients(&store, None);
        // 2 ∇z ∇zᵀ / N, of φ = −2(z − y) ∇z.
        let weight = |i: usize| 1.0 / (2.0 * losses[i] * 40.0);
        let exact = |damping: f64| {
            let phi = &phi;
            move |q: &[f64]| preconditioned(phi, weight, damping, q)
        };
        assert_influence(&bench, &store, "--hessian exact --lambda 0.1", exact(0.1));
        assert_influence(&bench, &store, "--hessian exact --lambda 10", exact(10.0));
        let layers = |q: &[f64]| {
            by_layer(&store, q, |start, _, own| {
                let part: Vec<Vec<f64>> = phi.iter().map(|row| row[start..start + own.len()].to_vec()).collect();
                preconditioned(&part, weight, 0.1, own)
            })
        };
        assert_influence(&bench, &store, "--hessian layers --lambda 0.1", layers);
        // Labels are no part of it: they change how much a record pulls, and nothing else.
        let (_, others) = regression(&bench, "other", dimension, |i| some_label(3 * i + 1) + 5.0);
        for form in ["", "--hessian exact --lambda 0.1", "--hessian layers --lambda 0.1"] {
            let [one, other] = ["store", "other"].map(|store| ranked(&bench, store, &format!("influence {form}")));
            let pulls = |losses: &[f64], i: usize| (losses[0] * losses[i]).sqrt();
            let expected = |i: usize| {
                let score = one.iter().find(|(index, _)| *index == i).expect("all are ranked").1;
                score.abs() / pulls(&losses, i) * pulls(&others, i)
            };
            let found: Vec<(usize, f64)> = other.iter().map(|(i, score)| (*i, score.abs())).collect();
            assert_scores(&found, expected, form);
        }
        let same = "search --store store --self --rule influence --hessian exact";
        assert!(bench.ok(&format!("{same} --lambda 0.1")) != bench.ok(&format!("{same} --lambda 10")));
    }
}

#[test]
fn what_one_gradient_does_not_tell_the_curvature_of_is_refused() {
    let bench = Bench::new();
    bench.model("bert-multilabel");
    let line = |i: usize| format!("{{\"text\": \"not good {i}\", \"label\": [\"funny\"]}}\n");
    bench.write("several.jsonl", (0..40).map(line).collect::<String>());
    let index = "index --gradients projected --projection-dim 60 --quiet";
    bench.ok(&format!("{index} --model bert-multilabel --data several.jsonl --store several"));
    for rule in ["influence", "relatif --hessian exact", "influence --hessian layers --lambda 1"] {
        bench.fails(&format!("search --store several --self --rule {rule}"), "a loss of several labels");
    }
    bench.ok("search --store several --self --rule projected-cos --quiet");
    regression(&bench, "unused", 60, some_label);
    bench.ok(&format!("{index} --model bert-regression --data data.jsonl --store same --target predicted"));
    bench.fails("search --store same --self --rule influence --quiet", "no record's loss has a curvature");
}

#[test]
fn what_is_singular_is_refused_in_every_form() {
    let (bench, _) = bench(150);
    for form in ["exact", "layers", "shampoo"] {
        let ask = format!("search --store store --self --rule influence --hessian {form} --quiet --lambda");
        bench.fails(&format!("{ask} 0"), "not positive definite to double precision");
        bench.ok(&format!("{ask} 1e-3"));
    }
}

/// How far the output functions of records rise from what all others say of them, with λ of the whole matrix, record by
/// record and solved for again each time.
fn left_out(phi: &[Vec<f64>], weight: &dyn Fn(usize) -> f64, aim: &dyn Fn(usize) -> f64, share: f64) -> f64 {
    let trace: f64 = phi.iter().enumerate().map(|(i, row)| weight(i) * dot(row, row)).sum();
    let error = |out: usize| {
        let others = |i: usize| if i == out { 0.0 } else { weight(i) };
        let own: f64 = phi.iter().enumerate().map(|(i, row)| others(i) * dot(row, row)).sum();
        let mut taught = vec![0.0; phi[0].len()];
        for (i, row) in phi.iter().enumerate() {
            taught.iter_mut().zip(row).for_each(|(sum, x)| *sum += others(i) * aim(i) * x);
        }
        // The damping is a share of what is left, so that the matrix is damped by what the whole is.
        let solved = preconditioned(phi, others, share * trace / own, &taught);
        weight(out) * (aim(out) - dot(&solved, &phi[out])).powi(2)
    };
    (0..phi.len()).map(error).sum()
}

#[test]
fn where_nobody_says_the_damping_is_that_at_which_records_left_out_are_predicted_best() {
    // Fewer records than numbers, and more.
    for dimension in [60, 24] {
        let (bench, store) = bench(dimension);
        let (phi, slopes) = gradients(&store, None);
        let even = |_: usize| 1.0;
        let curved = |i: usize| curvature(&slopes, i);
        assert_damping(&bench, "trak", |share| left_out(&phi, &even, &even, share));
        assert_damping(&bench, "influence --hessian exact", |share| left_out(&phi, &curved, &even, share));
        // A value is to become the label.
        let bench = Bench::new();
        let (store, losses) = regression(&bench, "store", dimension, some_label);
        let (phi, _) = gradients(&store, None);
        let (curved, aim) = (|i: usize| 1.0 / losses[i], |i: usize| 2.0 * losses[i]);
        assert_damping(&bench, "influence --hessian exact", |share| left_out(&phi, &curved, &aim, share));
    }
}

/// A rule's damping is the share of which `error` is least.
fn assert_damping(bench: &Bench, rule: &str, error: impl Fn(f64) -> f64) {
    let shares: Vec<f64> = (-6..=6).map(|step| 10.0_f64.powf(f64::from(step) / 2.0)).collect();
    let errors: Vec<f64> = shares.iter().map(|&share| error(share)).collect();
    let best = (0..errors.len()).min_by(|&a, &b| errors[a].total_cmp(&errors[b])).unwrap();
    let said = ranked(bench, "store", &format!("{rule} --lambda {}", shares[best]));
    assert_eq!(ranked(bench, "store", rule), said, "{rule}: {} of {errors:?}", shares[best]);
}

/// Eigenvectors, one a row, of a symmetric matrix, by Jacobi's rotations.
fn eigenvectors(mut a: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
    let n = a.len();
    let mut vectors: Vec<Vec<f64>> = (0..n).map(|i| (0..n).map(|j| f64::from(u8::from(i == j))).collect()).collect();
    for _ in 0..60 {
        for p in 0..n {
            for q in p + 1..n {
                let angle = 0.5 * (2.0 * a[p][q]).atan2(a[q][q] - a[p][p]);
                let (sin, cos) = angle.sin_cos();
                let turn = |x: &mut f64, y: &mut f64| (*x, *y) = (cos * *x - sin * *y, sin * *x + cos * *y);
                for row in &mut a {
                    let (before, after) = row.split_at_mut(q);
                    turn(&mut before[p], &mut after[0]);
                }
                for rows in [&mut a, &mut vectors] {
                    let (before, after) = rows.split_at_mut(q);
                    before[p].iter_mut().zip(&mut after[0]).for_each(|(x, y)| turn(x, y));
                }
            }
        }
    }
    vectors
}

/// `x y zᵀ` of row-major matrices, y `[rows, columns]`.
fn between(x: &[Vec<f64>], y: &[f64], z: &[Vec<f64>]) -> Vec<f64> {
    let columns = z[0].len();
    let entry = |a: &Vec<f64>, b: &Vec<f64>| {
        let row = |(j, a): (usize, &f64)| a * dot(&y[j * columns..][..columns], b);
        a.iter().enumerate().map(row).sum()
    };
    x.iter().flat_map(|a| z.iter().map(move |b| entry(a, b))).collect()
}

fn transposed(x: &[Vec<f64>]) -> Vec<Vec<f64>> {
    (0..x[0].len()).map(|j| x.iter().map(|row| row[j]).collect()).collect()
}

#[test]
fn shampoo_is_each_layers_two_sides_with_eigenvalues_of_their_own() {
    let (bench, store) = bench(120);
    let (phi, slopes) = gradients(&store, None);
    let inverse = |q: &[f64]| {
        by_layer(&store, q, |start, [outputs, inputs], own| {
            let (mut left, mut right) = (vec![vec![0.0; outputs]; outputs], vec![vec![0.0; inputs]; inputs]);
            let rows: Vec<&[f64]> = phi.iter().map(|row| &row[start..start + own.len()]).collect();
            for (i, g) in rows.iter().enumerate() {
                let weight = curvature(&slopes, i);
                for (j, k) in (0..outputs).flat_map(|j| (0..inputs).map(move |k| (j, k))) {
                    (0..outputs).for_each(|l| left[j][l] += weight * g[j * inputs + k] * g[l * inputs + k]);
                    (0..inputs).for_each(|l| right[k][l] += weight * g[j * inputs + k] * g[j * inputs + l]);
                }
            }
            let (left, right) = (eigenvectors(left), eigenvectors(right));
            let mut values = vec![0.0; own.len()];
            for (i, g) in rows.iter().enumerate() {
                let turned = between(&left, g, &right);
                values.iter_mut().zip(turned).for_each(|(sum, x)| *sum += curvature(&slopes, i) * x * x);
            }
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            let turned = between(&left, own, &right);
            let divided: Vec<f64> = turned.iter().zip(&values).map(|(x, value)| x / (value + 0.1 * mean)).collect();
            between(&transposed(&left), &divided, &transposed(&right))
        })
    };
    // What influence and relatif are by where nobody says.
    assert_influence(&bench, &store, "", inverse);
}

#[test]
fn what_is_too_wide_or_unknown_is_refused() {
    let (bench, _) = bench(24);
    let refused =
        |arguments: &str, says: &str| bench.fails(&format!("search --store store --self --quiet {arguments}"), says);
    refused("--rule trak --hessian ekfac", "are for the rules influence and relatif");
    bench.ok("index --model bert-cls2 --data data.jsonl --store last --quiet");
    bench.fails("search --store last --self --rule influence --hessian shampoo", "are of gradients of the whole model");
    // As stores were before they told, sealed as a manifest is.
    let manifest = std::fs::read_to_string(bench.path("store/manifest.json")).unwrap();
    let mut manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    assert!(manifest["settings"].as_object_mut().unwrap().shift_remove("gradient_layers").is_some(), "{manifest}");
    let pretty = |manifest: &serde_json::Value| serde_json::to_string_pretty(manifest).unwrap() + "\n";
    manifest.as_object_mut().unwrap().shift_remove("checksum");
    manifest["checksum"] = blake3::hash(pretty(&manifest).as_bytes()).to_hex().to_string().into();
    bench.write("store/manifest.json", pretty(&manifest));
    refused("--rule influence", "which layer each of its numbers is of");
    refused("--rule projected-cos --error-bars", "which layer each of its numbers is of");
    assert_eq!(bench.ok("search --store store --self --rule influence --hessian exact --quiet").lines().count(), 40);
}
