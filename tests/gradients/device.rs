//! Gradients of the whole model, and their curvature, on the (emulated) GPU: those of the CPU to the precision, the
//! same bits in any batch, and what a script meets.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
use wherefore::backend::Precision;
use wherefore::backend::cpu::Cpu;
use wherefore::backend::gpu;
use wherefore::backend::reference::Reference;
use wherefore::backend::training::Training;
use wherefore::factors::Floats;
use wherefore::model::{GradientsOf, LoadOptions, Model, Observer, Projection, ProjectionKind, Tracer};
use wherefore::store::{Fisher, Store};
use wherefore::tokens::Encoding;

use super::projected::{encodings, model, path, traced};
use crate::cli::{Bench, Ran};
use crate::emulator;
use crate::models::gpu::swollen;

/// Split heads, and shared layers behind narrow embeddings.
const FAMILIES: [&str; 2] = ["bert-cls2", "albert-groups-cls3"];

fn norm(x: &[f32]) -> f64 {
    x.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt()
}

/// The largest distance of a record's numbers from the exact ones, over their length.
fn error(found: &[f32], exact: &[f32], width: usize) -> f64 {
    let of = |(found, exact): (&[f32], &[f32])| {
        let apart: Vec<f32> = found.iter().zip(exact).map(|(found, exact)| found - exact).collect();
        norm(&apart) / norm(exact)
    };
    worst(found.chunks_exact(width).zip(exact.chunks_exact(width)).map(of))
}

/// The largest; what is no number is worse than any.
pub(super) fn worst(errors: impl Iterator<Item = f64>) -> f64 {
    errors.map(|error| if error.is_nan() { f64::INFINITY } else { error }).fold(0.0, f64::max)
}

/// What may be off in a precision, where the CPU's f32 is off by `single`: in proportion to their units, and within
/// twice of that.
pub(super) fn allowed(precision: Precision, single: f64) -> f64 {
    let digits = match precision {
        Precision::F32 | Precision::Auto => 23,
        Precision::Bf16x3 => 16,
        Precision::F16 => 10,
        Precision::Bf16 => 7,
    };
    2.0 * single * 2.0_f64.powi(23 - digits)
}

/// Each precision errs in proportion to its units, and those that hold more digits by less.
#[test]
fn projected_gradients_are_those_of_f64_to_the_precision() {
    let golden: Value = serde_json::from_slice(&std::fs::read(path("half-gradients.json")).unwrap()).unwrap();
    assert!(FAMILIES.iter().all(|name| golden[name]["f16"].is_f64() && golden[name]["bf16"].is_f64()));
    let (linear, all, dense, sparse) =
        (GradientsOf::Linear, GradientsOf::All, ProjectionKind::Rademacher, ProjectionKind::Sjlt);
    for (name, parameters, kind) in [
        (FAMILIES[0], linear, dense),
        (FAMILIES[1], all, dense),
        (FAMILIES[0], all, sparse),
        (FAMILIES[1], linear, sparse),
    ] {
        let (model, projection) =
            (model(name), Projection { dimension: 300, parameters, kind, ..Projection::default() });
        let features = |tracer: &Tracer| traced(tracer, &model, None).0.features;
        let exact = features(&Tracer::on(Reference, &model, &projection).unwrap());
        let width = Tracer::kept_of(&model, &projection).unwrap().0;
        let of = |precision| {
            error(&features(&Tracer::on(emulator::gpu(precision), &model, &projection).unwrap()), &exact, width)
        };
        let cpu = error(&features(&Tracer::new(&model, &projection).unwrap()), &exact, width);
        let precisions = [Precision::F32, Precision::Bf16x3, Precision::F16, Precision::Bf16];
        let errors = precisions.map(of);
        for (precision, error) in precisions.into_iter().zip(errors) {
            // In half precision no further than PyTorch's own are, of the parameters that those were taken of.
            let theirs = golden[name][precision.to_string()].as_f64().filter(|_| kind == dense);
            let allowed = allowed(precision, cpu).min(theirs.unwrap_or(f64::INFINITY));
            assert!(error <= allowed, "{name} {kind:?}: {precision} {error:e}, allowed {allowed:e}");
        }
        assert!(errors.is_sorted(), "{name} {kind:?}: {errors:?}");
    }
}

/// Those, and no others, are bf16's own.
#[test]
fn records_that_overflow_f16_are_traced_again_in_bf16() {
    let projection = Projection { dimension: 64, ..Projection::default() };
    let run = |scale: f32, precision: Precision| {
        let dir = swollen(scale);
        let model = Model::open_with(emulator::gpu(precision), dir.path(), &LoadOptions::default()).unwrap();
        let tracer = Tracer::new(&model, &projection).unwrap();
        (traced(&tracer, &model, None).0.features, tracer.width(), model.run_again())
    };
    let some = |scale: &f32| (1..5).contains(&run(*scale, Precision::F16).2);
    let scale = (8..32).map(|half| 500.0 * half as f32).find(some).expect("some overflow");
    let ((mixed, width, again), (wide, ..)) = (run(scale, Precision::F16), run(scale, Precision::Bf16));
    assert!(mixed.iter().all(|x| x.is_finite()));
    let pairs = mixed.chunks_exact(width).zip(wide.chunks_exact(width));
    assert_eq!(pairs.filter(|(mixed, wide)| mixed == wide).count() as u64, again);
}

#[test]
fn batches_change_no_bit_on_a_device() {
    let model = model("albert-groups-cls3");
    let all = Projection { dimension: 200, parameters: GradientsOf::All, ..Projection::default() };
    for precision in [Precision::F32, Precision::F16, Precision::Bf16, Precision::Bf16x3] {
        let tracer = Tracer::on(emulator::gpu(precision), &model, &all).unwrap();
        let bits = |budget| traced(&tracer, &model, budget).0.features.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        let together = bits(None);
        assert!(together == bits(Some(1)) && together == bits(Some(24)), "{precision}");
    }
}

/// What curvature is fitted from, of one window: moments, squares in a basis, and weighted ones.
fn observed<B: Training>(backend: B, model: &Model, batch_tokens: Option<usize>) -> Vec<Vec<f64>> {
    let mut observer = Observer::on(backend, model).unwrap();
    let encodings = encodings(model);
    let window: Vec<&Encoding> = encodings.iter().collect();
    let seed = |row: usize, _: &[f32], dz: &mut [f32]| {
        dz.iter_mut().enumerate().for_each(|(class, dz)| *dz = if class == row % 2 { 0.5 } else { -0.25 });
    };
    observer.add_moments(&window, batch_tokens, &seed, &|| true).unwrap();
    let moments = observer.moments().unwrap();
    let mut found: Vec<Vec<f64>> = moments.into_iter().flat_map(|moments| [moments.inputs, moments.outputs]).collect();
    // Orthonormal, and no identity: a reflection.
    let reflection = |width: usize| -> Vec<f32> {
        let entry = |i: usize| f32::from(u8::from(i / width == i % width)) - 2.0 / width as f32;
        (0..width * width).map(entry).collect()
    };
    let bases: Vec<_> = observer.layers().iter().map(|layer| [layer.inputs, layer.outputs].map(reflection)).collect();
    let borrowed: Vec<_> = bases.iter().map(|[inputs, outputs]| wherefore::model::Basis { inputs, outputs }).collect();
    observer.set_bases(&borrowed).unwrap();
    observer.add_squares(&window, batch_tokens, &seed, &|| true).unwrap();
    let squares = observer.squares().unwrap();
    observer.set_weights(&squares).unwrap();
    let (weighted, logits) = observer.weighted_squares(&window, batch_tokens, &seed, &|| true).unwrap();
    found.extend(squares);
    found.extend([weighted, logits.into_iter().map(f64::from).collect()]);
    found
}

#[test]
fn curvature_on_a_device_is_made_of_what_it_is_on_the_cpu() {
    for name in FAMILIES {
        let model = model(name);
        let exact = observed(Reference, &model, None);
        let error = |found: &[Vec<f64>]| -> f64 {
            let of = |(found, exact): (&Vec<f64>, &Vec<f64>)| {
                let size = exact.iter().map(|x| x * x).sum::<f64>().sqrt();
                found.iter().zip(exact).map(|(found, exact)| (found - exact).powi(2)).sum::<f64>().sqrt() / size
            };
            worst(found.iter().zip(&exact).map(of))
        };
        let cpu = error(&observed(Cpu::new().shared_out(), &model, None));
        let precisions = [Precision::F32, Precision::Bf16x3, Precision::Bf16];
        let found = precisions.map(|precision| observed(emulator::gpu(precision), &model, None));
        for (precision, found) in precisions.into_iter().zip(&found) {
            // The last of what is observed are products of four numbers of gradients, each of which is off.
            let allowed = (allowed(precision, cpu) / 4.0 + 1.0).powi(4) - 1.0;
            assert!(error(found) <= allowed, "{name}, {precision}: {:e}, the CPU {cpu:e}", error(found));
        }
        for (precision, together) in precisions.into_iter().zip(found) {
            assert!(observed(emulator::gpu(precision), &model, Some(1)) == together, "{name}, {precision}");
        }
    }
}

#[test]
fn sums_over_records_are_refused_in_f16() {
    let Err(error) = Observer::on(emulator::gpu(Precision::F16), &model("bert-cls2")) else { panic!("f16 was taken") };
    assert!(error.to_string().contains("not computed in f16"), "{error}");
}

const INDEX: &str =
    "index --model bert-cls2 --data data.jsonl --gradients projected --projection-dim 64 --block-records 16";

fn bench() -> Bench {
    let bench = Bench::new();
    bench.model("bert-cls2");
    bench.records("data.jsonl", 40);
    bench.records("queries.jsonl", 3);
    bench
}

/// The binary where the emulated library is the machine's driver.
fn command(bench: &Bench, arguments: &str) -> Command {
    let folder = emulator::library().parent().map(PathBuf::from).unwrap();
    let mut command = bench.command(&format!("{arguments} --quiet"));
    command.env("LD_LIBRARY_PATH", folder).env("EMULATOR_THREADS", "1");
    command
}

fn ok(bench: &Bench, arguments: &str) -> String {
    let ran = Ran::from(command(bench, arguments).output().unwrap());
    assert_eq!(ran.code, Some(0), "{arguments}: {}", ran.err);
    ran.out
}

fn features(bench: &Bench, store: &str) -> Vec<f32> {
    let store = Store::open(bench.path(store)).unwrap();
    let of = |factors: Floats<'_>| match factors {
        Floats::F32(features) => features.to_vec(),
        _ => panic!("f32 is the default"),
    };
    store.shards().iter().flat_map(|shard| of(shard.factors().features)).collect()
}

/// In f16, which is the default there; on two devices; and where there is no memory for a batch: one store, and nearly
/// the CPU's.
#[test]
fn a_store_made_on_a_device_is_nearly_the_cpus_and_is_searched_there() {
    if gpu::compiler().is_none() {
        return;
    }
    let bench = bench();
    bench.ok(&format!("{INDEX} --store cpu --quiet"));
    ok(&bench, &format!("{INDEX} --store one --device cuda"));
    let (found, expected) = (features(&bench, "one"), features(&bench, "cpu"));
    let apart = error(&found, &expected, found.len() / 40);
    assert!(apart > 0.0 && apart <= 16.0 * 2.0_f64.powi(-11), "{apart:e}");
    ok(&bench, &format!("{INDEX} --store small --device cuda --batch-tokens 16"));
    ok(&bench, &format!("{INDEX} --store all --device cuda:all --batch-tokens 64"));
    let log = String::from_utf8(
        command(&bench, &format!("{INDEX} --store counted --device cuda"))
            .env("EMULATOR_LOG", "1")
            .output()
            .unwrap()
            .stderr,
    )
    .unwrap();
    let allocations = log.lines().filter(|line| line.contains("cuMemAllocAsync")).count();
    let fault = format!("cuMemAllocAsync:{}", allocations - 3);
    let halved =
        command(&bench, &format!("{INDEX} --store halved --device cuda")).env("EMULATOR_FAULT", fault).output();
    assert_eq!(Ran::from(halved.unwrap()).code, Some(0));
    for store in ["small", "all", "halved"] {
        assert!(bench.contents(store) == bench.contents("one"), "{store} is another store");
    }
    let search = "search --store one --data queries.jsonl --target gold --rule projected-cos --top-k 1";
    for row in ok(&bench, &format!("{search} --device cuda")).lines() {
        let row: Value = serde_json::from_str(row).unwrap();
        assert!((row["proponents"][0]["score"].as_f64().unwrap() - 1.0).abs() < 1e-5, "{row}");
    }
}

/// Sparse projections, normalisations and tables, gradients as AdamW follows them: what a script asks of a device is
/// done there.
#[test]
fn whatever_is_indexed_on_a_device_is_nearly_the_cpus() {
    if gpu::compiler().is_none() {
        return;
    }
    let bench = bench();
    bench.model("bert-cls2-checkpoint");
    let adam = "--adam --checkpoint bert-cls2-checkpoint:0.1 --checkpoint bert-cls2:0.05";
    for (number, asked) in ["--projection sjlt", "--parameters all --projection sjlt", adam].into_iter().enumerate() {
        // No fewer numbers than there are layers to be projected.
        let index = INDEX.replace("--projection-dim 64", "--projection-dim 200");
        let (cpu, cuda) = (format!("cpu{number}"), format!("cuda{number}"));
        bench.ok(&format!("{index} {asked} --store {cpu} --quiet"));
        ok(&bench, &format!("{index} {asked} --store {cuda} --device cuda"));
        let (found, expected) = (features(&bench, &cuda), features(&bench, &cpu));
        let apart = error(&found, &expected, found.len() / 40);
        assert!(apart > 0.0 && apart <= 16.0 * 2.0_f64.powi(-11), "{asked}: {apart:e}");
        ok(&bench, &format!("{index} {asked} --store all{number} --device cuda:all --batch-tokens 64"));
        assert!(bench.contents(&format!("all{number}")) == bench.contents(&cuda), "{asked}");
    }
    // Of checkpoints the rule is over their own numbers.
    let search = "search --data queries.jsonl --rule less --top-k 5";
    let scores = |out: String| -> Vec<f64> {
        let rows = out.lines().map(|row| serde_json::from_str::<Value>(row).unwrap());
        rows.flat_map(|row| row["proponents"].as_array().unwrap().clone())
            .map(|p| p["score"].as_f64().unwrap())
            .collect()
    };
    let expected = scores(bench.ok(&format!("{search} --store cpu2 --quiet")));
    let found = scores(ok(&bench, &format!("{search} --store cuda2 --device cuda")));
    assert!(
        found.iter().zip(&expected).all(|(found, expected)| (found - expected).abs() < 5e-3),
        "{found:?} {expected:?}"
    );
}

#[test]
fn curvature_fitted_on_a_device_is_the_cpus() {
    if gpu::compiler().is_none() {
        return;
    }
    let bench = bench();
    bench.ok(&format!("{INDEX} --store store --quiet"));
    bench.ok("curvature --store store --curvature cpu --self-influence --quiet");
    ok(&bench, "curvature --store store --curvature cuda --self-influence --device cuda");
    ok(&bench, "curvature --store store --curvature again --self-influence --device cuda --batch-tokens 16");
    assert!(bench.contents("again") == bench.contents("cuda"));
    // Where there is no room for one of the sums: it is kept by the host, and the bytes are the same.
    let fit = |store: &str| {
        command(&bench, &format!("curvature --store store --curvature {store} --device cuda --self-influence"))
    };
    let log = String::from_utf8(fit("told").env("EMULATOR_LOG", "1").output().unwrap().stderr).unwrap();
    let calls: Vec<&str> = log
        .lines()
        .filter(|line| ["cuMemAllocAsync", "cuMemsetD8Async"].iter().any(|name| line.contains(name)))
        .collect();
    let allocates = |place: usize| calls[place].contains("Alloc");
    // A layer's two chains are made and cleared, then its sums are sent.
    let begins = |place: &usize| (*place..place + 5).map(allocates).eq([true, false, true, false, true]);
    let sums = (0..calls.len() - 4).find(begins).expect("sums are made");
    let number = (0..sums + 5).filter(|place| allocates(*place)).count();
    assert_eq!(
        Ran::from(fit("kept").env("EMULATOR_FAULT", format!("cuMemAllocAsync:{number}")).output().unwrap()).code,
        Some(0)
    );
    assert!(bench.contents("kept") == bench.contents("cuda"));
    let [cpu, cuda] = ["cpu", "cuda"].map(|name| Fisher::read(&bench.path(name)).unwrap());
    let [cpu, cuda] = [cpu, cuda].map(|fisher| fisher.self_influence.unwrap().values);
    for (found, expected) in cuda.iter().zip(&cpu) {
        assert!((found - expected).abs() <= 1e-3 * expected, "{found} {expected}");
    }
    let search = "search --store store --data queries.jsonl --rule influence --hessian ekfac --top-k 3";
    let ids = |out: String| -> Vec<String> {
        let rows = out.lines().map(|row| serde_json::from_str::<Value>(row).unwrap());
        rows.map(|row| row["proponents"][0]["id"].to_string()).collect()
    };
    let expected = ids(bench.ok(&format!("{search} --curvature cpu --quiet")));
    assert_eq!(ids(ok(&bench, &format!("{search} --curvature cuda --device cuda"))), expected);
    let refused = |arguments: &str, why: &str| {
        Ran::from(command(&bench, arguments).output().unwrap()).failed(why);
    };
    refused("curvature --store store --device cuda --precision f16", "curvature is computed in f32, bf16x3 or bf16");
    refused("curvature --store store --device cuda:0,1", "2 devices: curvature is fitted on one");
}
