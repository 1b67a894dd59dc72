//! `wherefore doctor`.

use std::fmt;

use anyhow::bail;
use clap::Args;
use serde::Serialize;
use wherefore::backend::check::{self, Check};
use wherefore::backend::cpu::Cpu;
use wherefore::pipeline;

use super::Outcome;
use super::arguments::{Common, Data};
use super::output::print;

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
    cuda: &'static str,
    operations: Vec<Check>,
    model: Vec<Check>,
}

#[derive(Serialize)]
struct Processor {
    vectors: &'static str,
    threads: usize,
}

pub(crate) fn run(arguments: &Arguments, common: &Common) -> anyhow::Result<Outcome> {
    let cpu = Cpu::new();
    let model = match &arguments.model {
        Some(name) => {
            let model = common.load(name)?;
            pipeline::prove(&model, arguments.data.open()?, &common.settings()?)?
        }
        None => Vec::new(),
    };
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        cpu: Processor { vectors: cpu.isa().name(), threads: rayon::current_num_threads() },
        cuda: "this binary was built without GPU kernels",
        operations: check::check(&cpu)?,
        model,
    };
    print(common, [&report], &report)?;
    let failed = report.operations.iter().chain(&report.model).filter(|check| !check.passed()).count();
    if failed > 0 {
        bail!("{failed} checks failed");
    }
    Ok(Outcome::Done)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "wherefore {}", self.version)?;
        writeln!(f, "cpu   {} vectors, {} threads", self.cpu.vectors, self.cpu.threads)?;
        writeln!(f, "cuda  {}", self.cuda)?;
        writeln!(f, "\noperations against the f64 reference (error ≤ what rounding explains)")?;
        list(f, &self.operations)?;
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
