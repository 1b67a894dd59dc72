//! The binary on the (emulated) GPU: what it says of itself, and what is left when a device runs out of memory or is
//! lost.
//!
//! A binary that was built without nvcc has no kernels: there is then nothing here to run but its refusal.

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};
use wherefore::backend::gpu;

use super::{Bench, Ran, lines};
use crate::emulator;

const RECORDS: usize = 40;

fn bench() -> (Bench, String) {
    let bench = Bench::new();
    let model = bench.model("bert-cls2");
    bench.records("train.jsonl", RECORDS);
    bench.records("few.jsonl", 3);
    (bench, model)
}

/// The binary where the emulated library is the machine's driver.
fn command(bench: &Bench, arguments: &str) -> Command {
    let folder = emulator::library().parent().map(PathBuf::from).unwrap();
    let device = if arguments.contains("--device") { "" } else { "--device cuda" };
    let mut command = bench.command(&format!("{arguments} {device} --quiet"));
    command.env("LD_LIBRARY_PATH", folder).env("EMULATOR_THREADS", "1");
    command
}

fn run(bench: &Bench, arguments: &str, fault: Option<&str>) -> Ran {
    let mut command = command(bench, arguments);
    command.envs(fault.map(|fault| ("EMULATOR_FAULT", fault)));
    Ran::from(command.output().unwrap())
}

fn ok(bench: &Bench, arguments: &str, fault: Option<&str>) -> String {
    let ran = run(bench, arguments, fault);
    assert_eq!(ran.code, Some(0), "{arguments}, {fault:?}: {}", ran.err);
    ran.out
}

/// What a job calls of the driver, line by line.
fn log(bench: &Bench, arguments: &str) -> Vec<String> {
    let output = command(bench, arguments).env("EMULATOR_LOG", "1").output().unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    log.lines().filter_map(|line| line.strip_prefix("[emulator] ").map(str::to_owned)).collect()
}

/// How often a job calls a function of the driver.
fn calls(bench: &Bench, arguments: &str, function: &str) -> usize {
    log(bench, arguments).iter().filter(|line| *line == function).count()
}

#[test]
fn a_binary_without_kernels_says_how_to_get_one_that_has_them() {
    if gpu::compiler().is_some() {
        return;
    }
    let (bench, model) = bench();
    run(&bench, &format!("predict --model {model} --data train.jsonl"), None).failed("built without GPU kernels");
}

#[test]
fn results_say_which_device_and_precision_made_them() {
    if gpu::compiler().is_none() {
        return;
    }
    let (bench, model) = bench();
    let explain = format!("explain --model {model} --data few.jsonl --steps 2 --out e.jsonl");
    for (precision, expected) in [("auto", "f16"), ("bf16x3", "bf16x3"), ("f32", "f32")] {
        ok(&bench, &format!("{explain} --precision {precision}"), None);
        let run: Value = serde_json::from_slice(&std::fs::read(bench.path("e.jsonl.run.json")).unwrap()).unwrap();
        assert_eq!(run["model"]["precision"], expected);
        assert_eq!(run["model"]["device"], "cuda:0 (emulated device, 9.0)");
    }
}

/// Every way of asking: forward alone, back to the embeddings, with attention maps, by masks.
#[test]
fn without_memory_for_a_batch_it_is_halved_and_results_are_the_same() {
    if gpu::compiler().is_none() {
        return;
    }
    let (bench, model) = bench();
    for job in [
        format!("predict --model {model} --data train.jsonl"),
        format!("explain --model {model} --data train.jsonl --steps 2 --target all"),
        format!("explain --model {model} --data train.jsonl --method generic-attention"),
        format!("explain --model {model} --data train.jsonl --method occlusion"),
    ] {
        let job = format!("{job} --precision f32 --batch-tokens 4096");
        let expected = ok(&bench, &job, None);
        assert_eq!(lines(&expected).len() % RECORDS, 0);
        let allocations = calls(&bench, &job, "cuMemAllocAsync");
        for before_the_last in [0, 1, 2, 5] {
            let fault = format!("cuMemAllocAsync:{}", allocations - before_the_last);
            assert!(ok(&bench, &job, Some(&fault)) == expected, "{job}, {fault}");
        }
        // A batch of one record has no halves: what others keep is let go of.
        let one = job.replace("--batch-tokens 4096", "--batch-tokens 1");
        let fault = format!("cuMemAllocAsync:{}", calls(&bench, &one, "cuMemAllocAsync"));
        assert!(ok(&bench, &one, Some(&fault)) == expected, "{one}, {fault}");
        let locked = calls(&bench, &job, "cuMemHostAlloc");
        assert!(ok(&bench, &job, Some(&format!("cuMemHostAlloc:{locked}"))) == expected, "{job}, of the host's memory");
        run(&bench, &job, Some("cuMemAllocAsync:3")).failed("out of memory");
    }
}

#[test]
fn a_device_lost_on_the_way_leaves_what_was_finished() {
    if gpu::compiler().is_none() {
        return;
    }
    let (bench, model) = bench();
    let index = format!("index --model {model} --data train.jsonl --precision f32 --block-records 4");
    ok(&bench, &format!("{index} --store whole"), None);
    let launches = calls(&bench, &format!("{index} --store counted"), "cuLaunchKernelEx");
    let fault = format!("cuLaunchKernelEx:{}", launches - 3);
    let ran = run(&bench, &format!("{index} --store lost"), Some(&fault));
    ran.failed("cuda:0 (emulated device, 9.0): ");
    assert!(ran.err.contains("--resume goes on"), "{}", ran.err);
    let finished = bench.contents("lost").iter().filter(|(name, _)| name.starts_with("shard-")).count();
    assert!(finished > 0, "nothing was kept");
    ok(&bench, &format!("{index} --store lost --resume"), None);
    assert!(bench.contents("lost") == bench.contents("whole"), "a resumed store is not the one never interrupted");
}

#[test]
fn a_failed_copy_or_allocation_is_one_line() {
    if gpu::compiler().is_none() {
        return;
    }
    let (bench, model) = bench();
    let explain = format!("explain --model {model} --data few.jsonl --steps 2");
    for function in ["cuMemcpyHtoDAsync_v2", "cuMemcpyDtoHAsync_v2", "cuLaunchKernelEx", "cuEventSynchronize"] {
        let fault = format!("{function}:{}", calls(&bench, &explain, function) / 2);
        run(&bench, &explain, Some(&fault)).failed("cuda:0 (emulated device, 9.0): ");
    }
}

/// Two devices give the bytes of one, in every command that computes.
#[test]
fn several_devices_give_the_bytes_of_one() {
    if gpu::compiler().is_none() {
        return;
    }
    let (bench, model) = bench();
    for job in [
        format!("predict --model {model} --data train.jsonl --batch-tokens 64"),
        format!("explain --model {model} --data few.jsonl --steps 3 --batch-tokens 32"),
        format!("explain --model {model} --data few.jsonl --method lime --samples 20 --batch-tokens 64"),
    ] {
        let one = ok(&bench, &format!("{job} --device cuda:1"), None);
        for several in ["cuda:all", "cuda:0,1", "cuda:1,0"] {
            assert!(ok(&bench, &format!("{job} --device {several}"), None) == one, "{job}, {several}");
        }
    }
    let index = format!("index --model {model} --data train.jsonl --block-records 8 --batch-tokens 64");
    ok(&bench, &format!("{index} --store one"), None);
    ok(&bench, &format!("{index} --store all --device cuda:all"), None);
    assert!(bench.contents("all") == bench.contents("one"), "a store of two devices is not that of one");
    let search = format!("search --model {model} --data few.jsonl --store one --rule grad-dot --top-k 4");
    for scope in ["", "--where label=LABEL_1", "--group-by label"] {
        let one = ok(&bench, &format!("{search} {scope}"), None);
        assert!(ok(&bench, &format!("{search} {scope} --device cuda:all"), None) == one, "{scope}");
    }
    // No model runs: the CPU finds the same to the bit.
    let itself = "search --self --store one --rule grad-cos --top-k 3";
    let expected = bench.ok(&format!("{itself} --quiet"));
    assert!(ok(&bench, &format!("{itself} --device cuda:all"), None) == expected);
}

/// Fine-tuning on a device learns what it learns on the CPU: losses within rounding, the same predictions.
#[test]
fn a_model_trains_on_a_device_as_on_the_cpu() {
    if gpu::compiler().is_none() {
        return;
    }
    let (bench, model) = bench();
    let losses = |device: &str, precision: &str| {
        let job = format!("train --model {model} --data train.jsonl --epochs 2 --batch-size 8 --out {device}");
        ok(&bench, &format!("{job} --device {device} --precision {precision} --overwrite"), None);
        let run: Value =
            serde_json::from_slice(&std::fs::read(bench.path(&format!("{device}.run.json"))).unwrap()).unwrap();
        run["epochs"].as_array().unwrap().iter().map(|epoch| epoch["loss"].as_f64().unwrap()).collect::<Vec<_>>()
    };
    let cpu = losses("cpu", "f32");
    for (precision, apart) in [("f32", 1e-4), ("bf16", 2e-2)] {
        let gpu = losses("cuda", precision);
        let alike = cpu.iter().zip(&gpu).all(|(cpu, gpu)| (cpu - gpu).abs() < apart * cpu.max(1.0));
        assert!(alike, "{precision}: {cpu:?} {gpu:?}");
        let weights = || std::fs::read(bench.path("cuda/model.safetensors")).unwrap();
        let (once, _) = (weights(), losses("cuda", precision));
        assert!(weights() == once, "{precision}: a training again has other bytes");
    }
    let refused = format!("train --model {model} --data train.jsonl --out several --device cuda:0,1");
    run(&bench, &refused, None).failed("2 devices: training runs on one");
}

/// So do those that yardsticks are held against, on the first of several, and what they learnt is run there.
#[test]
fn yardsticks_train_on_the_device() {
    if gpu::compiler().is_none() {
        return;
    }
    let (bench, model) = bench();
    bench.ok(&format!("index --model {model} --data train.jsonl --store store --quiet"));
    let full = "--retrain full --epochs 1 --batch-size 8 --precision f32 --device";
    let of_store = "--store store --training train.jsonl --data few.jsonl --rule grad-dot";
    for job in [
        format!("lds {of_store} --subsets 3 {full}"),
        format!("tail-patch {of_store} --rate 0.01 {full}"),
        format!("label-noise --model {model} --data train.jsonl --projection-dim 16 {full}"),
        format!("stability --model {model} --training train.jsonl --data few.jsonl --rule grad-cos --seeds 2 {full}"),
    ] {
        let log = log(&bench, &format!("evaluate {job} cuda:0,1"));
        let launched = |kernel: &str| log.iter().filter(|line| line.starts_with(&format!("launched {kernel}"))).count();
        assert!(launched("embed") > 0, "{job}");
        // A step on a few records is a sum of their gradients: no moments are kept.
        assert!(launched("adam_step") > 0 || job.starts_with("tail-patch"), "{job}");
        assert!(launched("weight_gradient") > 0 || launched("gradients") > 0, "{job}: {log:#?}");
    }
    let kept = format!("evaluate lds {of_store} --subsets 3 {full} cpu --keep kept.jsonl --quiet");
    bench.ok(&kept);
    let elsewhere = kept.replace(" cpu ", " cuda ");
    run(&bench, &elsewhere, None).failed("kept.jsonl: ");
}

/// Records of several factors are scored on the device, with the bits of the CPU.
#[test]
fn tags_are_searched_for_on_the_device() {
    if gpu::compiler().is_none() {
        return;
    }
    let (bench, _) = bench();
    let model = bench.model("bert-tags");
    let words = ["she", "wrote", "a", "long", "book", "of", "good", "food"];
    let record = |i: usize| {
        let tokens: Vec<&str> = (0..3 + i % 4).map(|t| words[(i + 3 * t) % words.len()]).collect();
        let tags: Vec<usize> = (0..tokens.len()).map(|t| (i + t) % 3).collect();
        json!({ "id": format!("t{i}"), "tokens": tokens, "ner_tags": tags }).to_string() + "\n"
    };
    bench.write("tags.jsonl", (0..RECORDS).map(record).collect::<String>());
    bench.write("asked.jsonl", (0..3).map(record).collect::<String>());
    bench.ok(&format!("index --model {model} --data tags.jsonl --store tags --quiet"));
    for more in ["--rule feature-cos", "--rule grad-cos", "--rule grad-dot -k 3", "--rule grad-dot --token 1"] {
        let search = format!("search --store tags --data asked.jsonl --precision f32 {more} --device");
        let launched = log(&bench, &format!("{search} cuda"));
        assert!(launched.iter().any(|line| line.starts_with("launched search_scan")), "{more}");
        let scores = |device: &str| -> Vec<(Value, f64)> {
            let found = lines(&ok(&bench, &format!("{search} {device}"), None));
            let ends = found.iter().flat_map(|one| one["proponents"].as_array().unwrap());
            ends.map(|hit| (hit["index"].clone(), hit["score"].as_f64().unwrap())).collect()
        };
        // Queries come of the model, whose bits are the device's.
        let alike =
            |(one, other): (&(Value, f64), &(Value, f64))| (one.1 - other.1).abs() <= 1e-4 * one.1.abs().max(1.0);
        let (cpu, gpu) = (scores("cpu"), scores("cuda"));
        assert!(
            !cpu.is_empty() && cpu.len() == gpu.len() && cpu.iter().zip(&gpu).all(alike),
            "{more}: {cpu:?} {gpu:?}"
        );
    }
}

/// `doctor` finds nothing wrong with any device or precision, nor with a model on one.
#[test]
fn doctor_checks_every_kernel_and_a_model_on_a_device() {
    if gpu::compiler().is_none() {
        return;
    }
    let (bench, model) = bench();
    let job = format!("doctor --model {model} --data few.jsonl --precision f16 --format jsonl");
    let output = command(&bench, &job).env("EMULATOR_DEVICES", "1").output().unwrap();
    let ran = Ran::from(output);
    assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.err);
    let report = &lines(&ran.out)[0];
    let of =
        |of: &Value| [&of["precision"], &of["products"]].map(|name| name.as_str().unwrap().to_owned()).join(" by ");
    let ways: Vec<String> = report["cuda"]["operations"].as_array().unwrap().iter().map(of).collect();
    let expected = [
        "f32 by mma",
        "bf16x3 by wgmma",
        "bf16x3 by mma",
        "f16 by wgmma",
        "f16 by mma",
        "bf16 by wgmma",
        "bf16 by mma",
    ];
    assert_eq!(ways, expected);
    let checks = report["model"].as_array().unwrap();
    assert!(checks.iter().any(|check| check["operation"] == "gradients against finite differences"), "{report}");
}

/// Of a device that multiplies wrongly by `wgmma` it is said, and nothing is made by it; one may also be told not to
/// use it.
#[test]
fn products_that_are_wrong_when_they_are_tried_are_made_otherwise() {
    if gpu::compiler().is_none() {
        return;
    }
    let (bench, model) = bench();
    let job = format!("predict --model {model} --data train.jsonl --precision f16");
    let run = |name: &str, value: &str| {
        let output = command(&bench, &job).env(name, value).output().unwrap();
        let ran = Ran::from(output);
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        ran
    };
    let (trusted, told) = (run("WHEREFORE_TENSOR_CORES", "wgmma"), run("WHEREFORE_TENSOR_CORES", "mma"));
    assert!(trusted.out != told.out && trusted.err.is_empty() && told.err.is_empty(), "{}{}", trusted.err, told.err);
    let broken = run("EMULATOR_PRODUCTS", "wrong");
    assert!(broken.out == told.out);
    assert_eq!(broken.err.matches("wgmma gave other products than it should").count(), 1, "{}", broken.err);
}

/// Only what can wait by itself is begun before what it waits for has ended.
#[test]
fn kernels_are_begun_early_where_they_can_wait() {
    if gpu::compiler().is_none() {
        return;
    }
    let (bench, model) = bench();
    let launches = |name: &str, value: &str| {
        let mut command = command(&bench, &format!("predict --model {model} --data few.jsonl --precision f32"));
        let output = command.env("EMULATOR_LOG", "1").env(name, value).output().unwrap();
        assert!(output.status.success());
        let log = String::from_utf8(output.stderr).unwrap();
        let launches: Vec<String> = log.lines().filter(|line| line.contains("launched ")).map(str::to_owned).collect();
        let early = launches.iter().filter(|line| line.ends_with(" early")).count();
        (launches.len(), early, String::from_utf8(output.stdout).unwrap())
    };
    let (all, early, answers) = launches("EMULATOR_CAPABILITY", "90");
    assert!(early == all && all > 10, "{early} of {all}");
    for (name, value) in [("EMULATOR_CAPABILITY", "89"), ("EMULATOR_PTX", "80"), ("WHEREFORE_LAUNCHES", "serial")] {
        let (_, early, others) = launches(name, value);
        assert!(early == 0 && others == answers, "{name}: {early}");
    }
}

/// What a precision costs, in digits: f16 keeps three bits more than bf16, and rankings hardly move.
#[test]
fn accuracy_is_told_of_every_precision() {
    if gpu::compiler().is_none() {
        return;
    }
    let (bench, model) = bench();
    let rows = lines(&ok(&bench, &format!("bench --accuracy --model {model} --data train.jsonl --format jsonl"), None));
    let error = |precision: &str, what: &str, against: &str| {
        let is = |row: &&Value| row["precision"] == precision && row["what"] == what && row["against"] == against;
        let row = rows.iter().filter(|row| row["device"] != "cpu").find(is).unwrap_or_else(|| panic!("{rows:#?}"));
        row["error"][0].as_f64().unwrap()
    };
    for what in ["features", "deltas", "integrated-gradients", "search feature-cos", "search grad-dot"] {
        let [exact, split, half, brain] =
            ["f32", "bf16x3", "f16", "bf16"].map(|precision| error(precision, what, "f64"));
        assert!(exact < split && split < half && half < brain && brain < 0.2, "{what}: {exact} {split} {half} {brain}");
        assert!((error("f16", what, "f32") / half - 1.0).abs() < 0.1, "{what}");
    }
}

#[test]
fn devices_that_are_not_there_or_differ_are_one_line() {
    if gpu::compiler().is_none() {
        return;
    }
    let (bench, model) = bench();
    let predict = format!("predict --model {model} --data few.jsonl --device");
    run(&bench, &format!("{predict} cuda:0,7"), None).failed("cuda:7: expected one of the machine's 2 devices");
    let ran = bench.run(&format!("{predict} cuda:0,0"));
    assert!(ran.err.contains("expected auto, cpu, cuda, cuda:N, cuda:N,M (each once) or cuda:all"), "{}", ran.err);
    let unlike = command(&bench, &format!("{predict} cuda:all")).env("EMULATOR_CAPABILITY", "90,80").output().unwrap();
    Ran::from(unlike).failed("expected devices of one compute capability");
    let mut none = command(&bench, &format!("{predict} cuda:all"));
    Ran::from(none.env("EMULATOR_DEVICES", "0").output().unwrap()).failed("the NVIDIA driver: ");
    let mut lost = command(&bench, &format!("{predict} cuda:all --batch-tokens 32"));
    Ran::from(lost.env("EMULATOR_FAULT", "cuLaunchKernelEx:5").output().unwrap()).failed("(emulated device, 9.0): ");
}

/// The next rows are on their way before those that are being scored are waited for, and what is kept on the device is
/// sent once.
#[test]
fn a_search_copies_beside_its_scans_and_keeps_what_it_copied() {
    if gpu::compiler().is_none() {
        return;
    }
    let (bench, model) = bench();
    bench.records("many.jsonl", 1_200);
    bench.ok(&format!("index --model {model} --data many.jsonl --block-records 300 --store many --quiet"));
    bench.records("one.jsonl", 1);
    let search = format!("search --model {model} --data one.jsonl --store many --rule feature-dot --precision f32");
    let log = log(&bench, &format!("{search} --top-k 1100"));
    let scan = |line: &&String| line.starts_with("launched search_scan");
    let scans: Vec<usize> = log.iter().enumerate().filter(|(_, line)| scan(line)).map(|(place, _)| place).collect();
    let stream = |place: usize| log[place].rsplit(' ').next().unwrap().to_owned();
    let sent_before_waiting = |place: usize| {
        let after = log[place..].iter().take_while(|line| *line != "cuMemcpyDtoHAsync_v2");
        after.filter(|line| line.starts_with("sent") && !line.ends_with(&stream(place))).count() > 0
    };
    // Four pieces: during the scan of all but the last the next one is sent. A second pass has nothing to send.
    assert_eq!(scans.iter().filter(|place| sent_before_waiting(**place)).count(), 3, "{log:#?}");
    assert!(scans.len() >= 8, "{log:#?}");
    let features = 300 * 24 * 4;
    let sent = log.iter().filter(|line| line.starts_with(&format!("sent {features} bytes"))).count();
    assert_eq!(sent, 4, "features were sent again: {log:#?}");
}
