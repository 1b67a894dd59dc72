//! `wherefore doctor`.

use std::fmt;

use anyhow::bail;
use clap::Args;
use indicatif::HumanCount;
use serde::Serialize;
use wherefore::backend::check::{self, Check};
use wherefore::backend::cpu::Cpu;
use wherefore::backend::gpu::{self, Gpu, Products};
use wherefore::backend::{Backend, Precision};
use wherefore::pipeline::{self, Summary};
use wherefore::search;

use super::Outcome;
use super::arguments::{Common, Data, shape_of};
use super::output::{Output, print, record_beside};
use super::run_record::RunRecord;

/// What this machine offers, a self-check of every operation, and a proof of your own model.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Prove this model too, on records of --data
    #[arg(long, value_name = "DIR", requires = "data")]
    model: Option<String>,
    #[command(flatten)]
    data: Data,
}

#[derive(Serialize)]
struct Report {
    version: &'static str,
    cpu: Processor,
    cuda: Cuda,
    operations: Vec<Check>,
    model: Vec<Check>,
}

#[derive(Serialize)]
struct Processor {
    vectors: &'static str,
    threads: usize,
}

/// What there is of CUDA on this machine and in this binary.
#[derive(Serialize)]
struct Cuda {
    /// What compiled the kernels of this binary, and for which architectures.
    kernels: Option<&'static str>,
    devices: Vec<gpu::Info>,
    /// Why there are none, or none that can be used.
    reason: Option<String>,
    /// Of every device, in every precision.
    operations: Vec<OfDevice>,
}

/// What a device makes of every operation in one precision, by one way of multiplying.
#[derive(Serialize)]
struct OfDevice {
    device: String,
    precision: Precision,
    products: Products,
    checks: Vec<Check>,
}

impl OfDevice {
    fn ask(gpu: &Gpu) -> wherefore::Result<Self> {
        let (device, precision, products) = (gpu.name(), gpu.precision(), gpu.products());
        Ok(Self { device, precision, products, checks: of_gpu(gpu)? })
    }
}

const PRECISIONS: [Precision; 4] = [Precision::F32, Precision::Bf16x3, Precision::F16, Precision::Bf16];

impl Cuda {
    fn ask() -> anyhow::Result<Self> {
        let (kernels, devices) = (gpu::compiler(), gpu::devices());
        let (devices, mut reason) = match devices {
            Ok(devices) => (devices, None),
            Err(error) => (Vec::new(), Some(error.to_string())),
        };
        let mut operations = Vec::new();
        for (device, precision) in devices.iter().flat_map(|device| PRECISIONS.map(|precision| (device, precision))) {
            match Gpu::open(device.ordinal, precision) {
                Ok(gpu) => {
                    operations.push(OfDevice::ask(&gpu)?);
                    if gpu.products() == Products::Wgmma {
                        operations.push(OfDevice::ask(&gpu.by_mma())?);
                    }
                }
                Err(error) => reason = Some(error.to_string()),
            }
        }
        Ok(Self { kernels, devices, reason, operations })
    }
}

/// Training is in f32 or bf16; gradients of records, and searches of factors stored so, are in every precision.
fn of_gpu(gpu: &Gpu) -> wherefore::Result<Vec<Check>> {
    let mut checks = check::check(gpu)?;
    checks.extend(search::check(gpu)?);
    checks.extend(check::check_gradients(gpu)?);
    if matches!(gpu.precision(), Precision::F32 | Precision::Bf16) {
        checks.extend(check::check_training(gpu)?);
    }
    Ok(checks)
}

impl fmt::Display for Cuda {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "cuda  {}", self.kernels.unwrap_or("this binary was built without GPU kernels"))?;
        for device in &self.devices {
            writeln!(f, "      {device}")?;
        }
        self.reason.iter().try_for_each(|reason| writeln!(f, "      {reason}"))
    }
}

pub(crate) fn run(arguments: &Arguments, common: &Common) -> anyhow::Result<Outcome> {
    let run = RunRecord::begin("doctor");
    let cpu = Cpu::new();
    let output = Output::new(common, common.out.as_deref());
    let mut rejections = output.rejections();
    let model = match &arguments.model {
        Some(name) => {
            let model = common.load_as(name, true)?;
            let dataset = arguments.data.open_as(shape_of(&model), &[])?;
            pipeline::prove(&model, dataset, &common.settings(), &mut rejections)?
        }
        None => Vec::new(),
    };
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        cpu: Processor { vectors: cpu.isa().name(), threads: rayon::current_num_threads() },
        cuda: Cuda::ask()?,
        operations: [
            check::check(&cpu)?,
            check::check_training(&cpu.shared_out())?,
            check::check_gradients(&cpu.shared_out())?,
        ]
        .concat(),
        model,
    };
    print(common, [&report], &report)?;
    let skipped = rejections.finish()?;
    record_beside(common, run, &Summary { skipped, ..Summary::default() });
    if skipped > 0 && !common.quiet {
        say_line!("{} of the records read for the model's proof skipped", HumanCount(skipped));
    }
    let failed = report
        .operations
        .iter()
        .chain(report.cuda.operations.iter().flat_map(|of| &of.checks))
        .chain(&report.model)
        .filter(|check| !check.passed())
        .count();
    if failed > 0 {
        bail!("{failed} checks failed");
    }
    Ok(if skipped == 0 { Outcome::Done } else { Outcome::Skipped })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "wherefore {}", self.version)?;
        writeln!(f, "cpu   {} vectors, {} threads", self.cpu.vectors, self.cpu.threads)?;
        write!(f, "{}", self.cuda)?;
        writeln!(f, "\noperations against the f64 reference (error ≤ what rounding explains)")?;
        list(f, &self.operations)?;
        for OfDevice { device, precision, products, checks } in &self.cuda.operations {
            let by = if *products == Products::Wgmma { " by wgmma" } else { "" };
            writeln!(f, "\nthose of {device} in {precision}{by}")?;
            list(f, checks)?;
        }
        if !self.model.is_empty() {
            writeln!(f, "\nyour model on your records")?;
            list(f, &self.model)?;
        }
        Ok(())
    }
}

fn list(f: &mut fmt::Formatter<'_>, checks: &[Check]) -> fmt::Result {
    for check in checks {
        let verdict = if check.passed() { "ok" } else { "FAILED" };
        writeln!(f, "  {verdict:<7} {:<42} {:>9.2e} ≤ {:.2e}", check.operation, check.error, check.bound)?;
    }
    Ok(())
}
