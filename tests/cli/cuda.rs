//! The binary on the (emulated) GPU: what it says of itself, and what is left when a device runs out of memory or is lost.
//!
//! A binary that was built without nvcc has no kernels: there is then nothing here to run but its refusal.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
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
    let mut command = bench.command(&format!("{arguments} --device cuda --quiet"));
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

/// How often a job calls a function of the driver.
fn calls(bench: &Bench, arguments: &str, function: &str) -> usize {
    let output = command(bench, arguments).env("EMULATOR_LOG", "1").output().unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    log.lines().filter(|line| line.strip_prefix("[emulator] ") == Some(function)).count()
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
    let launches = calls(&bench, &format!("{index} --store counted"), "cuLaunchKernel");
    let fault = format!("cuLaunchKernel:{}", launches - 3);
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
    for function in ["cuMemcpyHtoDAsync_v2", "cuMemcpyDtoHAsync_v2", "cuLaunchKernel", "cuEventSynchronize"] {
        let fault = format!("{function}:{}", calls(&bench, &explain, function) / 2);
        run(&bench, &explain, Some(&fault)).failed("cuda:0 (emulated device, 9.0): ");
    }
}
