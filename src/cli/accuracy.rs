//! `wherefore bench --accuracy`: what each precision costs in digits and in rank.

use std::fmt;

use serde::Serialize;
use wherefore::backend::Precision;
use wherefore::backend::reference::Reference;
use wherefore::dataset::Record;
use wherefore::interrupt;
use wherefore::model::{Device, LoadOptions, Model};
use wherefore::pipeline::{AccuracyOptions, Apart, Measured, Progress, Summary, measure};
use wherefore::{Error, Result};

use super::Outcome;
use super::arguments::Common;
use super::output::{print, record_beside};
use super::run_record::RunRecord;

/// Records measured: a search ranks each among all the others.
const RECORDS: usize = 64;

/// Every comparison.
struct Report {
    device: String,
    rows: Vec<Row>,
}

/// One device and precision, compared with another.
#[derive(Serialize)]
struct Row {
    device: String,
    precision: &'static str,
    against: &'static str,
    #[serde(flatten)]
    apart: Apart,
}

/// Some of a model's records, spread over all of them, are run, searched for and explained.
pub(super) fn run(
    common: &Common,
    run: RunRecord,
    name: &str,
    records: impl FnOnce(&Model) -> Result<Vec<Record>>,
) -> anyhow::Result<Outcome> {
    let options = AccuracyOptions { batch_tokens: common.settings().batch_tokens, ..AccuracyOptions::default() };
    let load_options = LoadOptions { max_length: common.max_length, ..LoadOptions::default() };
    let cpu = Model::load(name, Device::Cpu, &load_options)?;
    let records = records(&cpu)?;
    let chosen: Vec<Record> = records.iter().step_by(records.len().div_ceil(RECORDS)).cloned().collect();
    let precisions = precisions(common);
    let progress = Progress::new("measuring", Some(precisions.len() as u64 + 2), common.quiet);
    let mut measured = 0;
    let mut one = |model: &Model, like: Option<&Measured>| {
        interrupt::check()?;
        let found = measure(model, &chosen, &options, like)?;
        measured += 1;
        progress.set(measured, measured);
        Ok::<_, Error>(found)
    };
    let exact = one(&Model::open_with(Reference, cpu.directory(), &load_options)?, None)?;
    let plain = one(&cpu, Some(&exact))?;
    let mut report = Report { device: cpu.device().0, rows: Vec::new() };
    let rows = |model: &Model, found: &Measured, against, right: &Measured| -> Result<Vec<Row>> {
        let (device, precision) = model.device();
        let row = |apart| Row { device: device.clone(), precision: precision.name(), against, apart };
        Ok(found.against(right, &options)?.into_iter().map(row).collect())
    };
    report.rows.extend(rows(&cpu, &plain, "f64", &exact)?);
    for precision in precisions {
        let model = Common { precision, ..common.clone() }.load(name)?;
        let found = one(&model, Some(&exact))?;
        report.device = model.device().0;
        report.rows.extend(rows(&model, &found, "f64", &exact)?);
        report.rows.extend(rows(&model, &found, "f32", &plain)?);
    }
    print(common, &report.rows, &report)?;
    record_beside(common, run, &Summary::default());
    Ok(Outcome::Done)
}

/// Those of the device, or the one asked for; the CPU's own is measured anyway.
fn precisions(common: &Common) -> Vec<Precision> {
    match (&common.device, common.precision) {
        (Device::Auto | Device::Cpu, _) => Vec::new(),
        (_, Precision::Auto) => vec![Precision::F32, Precision::Bf16x3, Precision::F16, Precision::Bf16],
        (_, precision) => vec![precision],
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: relative error (mean, greatest), Spearman and overlap of the first 10 (mean, least)",
            self.device
        )?;
        for Row { device, precision, against, apart } in &self.rows {
            let Apart { what, error, spearman, overlap, .. } = apart;
            let short = device.split(' ').next().unwrap_or(device);
            write!(f, "{short:<8} {precision:<7} against {against}  {what:<22} {:>8.1e} {:>8.1e}", error[0], error[1])?;
            for [mean, least] in [spearman, overlap].into_iter().flatten() {
                write!(f, "   {mean:.4} {least:.4}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
