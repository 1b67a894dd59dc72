//! A plan carried out: trainings before, audits, what is done to the data, trainings after, the comparison.

use std::path::Path;

use super::apply::Work;
use super::compare::{self, watched};
use super::data::{self, Item};
use super::evidence::{Evidence, Made};
use super::folder;
use super::plan::{Arm, Columns, Plan};
use super::trial::{DYNAMICS, MODEL, Machine, Trial, TrialResult, Trials};
use crate::error::{Error, Result};
use crate::model::ClassNames;
use crate::report::{ChangeRecord, Comparison, Destination, Render};

const BEFORE: &str = "before";

/// Who hears what is done.
type Tell<'a> = &'a mut dyn FnMut(&str);

/// Carries a plan out in a folder, or goes on with it; `tell` hears of each training.
///
/// # Errors
/// [`Error::Interrupted`]: what was finished stays; [`Error::Mismatch`] where the folder is another plan's; whatever
/// reading, training and auditing fail with.
pub fn improve(
    plan: &Plan,
    out: &Path,
    overwrite: bool,
    machine: &Machine,
    tell: &mut dyn FnMut(&str),
) -> Result<Comparison> {
    let _claim = folder::claim(out, plan, overwrite, machine)?;
    let mut trials = Trials::new(plan, machine)?;
    let head = trials.head().clone();
    let classes = trials.classes().clone();
    let metric = watched(plan, head.problem);
    let mut train = |arm: &str, files: &[String], columns: &Columns, tell: Tell<'_>| -> Result<Vec<TrialResult>> {
        let run = |(number, seed): (usize, u64)| {
            let at = folder::seed(&out.join(arm), seed);
            let keep = number == 0;
            let result = trials.run(&Trial { files, columns, seed, folder: &at, keep })?;
            tell(&told(arm, &result));
            Ok(result)
        };
        plan.seeds.list().into_iter().enumerate().map(run).collect()
    };
    let results = train(BEFORE, &plan.data, &plan.columns, tell)?;
    let before = compare::arm(plan, BEFORE, &results, &[], None, metric);
    let first = folder::seed(&out.join(BEFORE), plan.seeds.list()[0]);
    let evidence = Evidence {
        plan,
        machine,
        folder: out.join("audit"),
        model_at: first.join(MODEL),
        dynamics_at: first.join(DYNAMICS),
        files: plan.data.clone(),
        columns: plan.columns.clone(),
        made: Made::default(),
    };
    let mut arms = vec![before];
    for arm in plan.arms() {
        let at = out.join(&arm.name);
        let changes = change(plan, &arm, &at, &evidence, &classes, tell)?;
        let (files, columns) = data::written(&at.join("data.jsonl"));
        let results = train(&arm.name, &files, &columns, tell)?;
        arms.push(compare::arm(plan, &arm.name, &results, &changes, Some(&arms[0]), metric));
    }
    let comparison = Comparison { seeds: plan.seeds.list(), metric: metric.name().to_owned(), arms };
    write(out, &comparison)?;
    Ok(comparison)
}

/// Makes an arm's data, unless they are there.
fn change(
    plan: &Plan,
    arm: &Arm,
    at: &Path,
    evidence: &Evidence<'_>,
    classes: &ClassNames,
    tell: Tell<'_>,
) -> Result<Vec<ChangeRecord>> {
    let (data_at, changes_at) = (at.join("data.jsonl"), at.join("changes.jsonl"));
    // The data are written last.
    if data_at.exists() {
        return data::read_lines(&changes_at);
    }
    std::fs::create_dir_all(at).map_err(Error::io(at))?;
    let (items, changes) = worked(plan, arm, evidence, classes, tell)?;
    folder::write_changes(&changes_at, &changes)?;
    data::write(&data_at, &items)?;
    Ok(changes)
}

fn worked(
    plan: &Plan,
    arm: &Arm,
    evidence: &Evidence<'_>,
    classes: &ClassNames,
    tell: Tell<'_>,
) -> Result<(Vec<Item>, Vec<ChangeRecord>)> {
    let items = data::items(&plan.data, &plan.columns, &mut evidence.machine.rejections())?;
    let mut work = Work::new(plan, evidence, classes, items);
    for step in &arm.steps {
        crate::interrupt::check()?;
        work.apply(step)?;
    }
    work.told.iter().for_each(|line| tell(&format!("{}: {line}", arm.name)));
    if work.items.iter().all(|item| item.dropped) {
        return Err(Error::usage(format!("arm {}: its steps leave no training data", arm.name)));
    }
    Ok((work.items, work.changes))
}

fn write(out: &Path, comparison: &Comparison) -> Result<()> {
    let line = serde_json::to_string(comparison).map_err(|error| Error::format(out, error.to_string()))?;
    let mut json = Destination::create(Some(&out.join("comparison.jsonl")))?;
    json.write(format!("{line}\n").as_bytes())?;
    json.finish()?;
    let mut text = Destination::create(Some(&out.join("comparison.txt")))?;
    text.write(comparison.render(false).as_bytes())?;
    text.finish()
}

fn told(arm: &str, result: &TrialResult) -> String {
    let sets = result.sets.iter().map(|(name, metrics)| {
        let shown = metrics.accuracy.map_or(format!("loss {:.4}", metrics.loss), |x| format!("{:.2} %", 100.0 * x));
        format!("  {name} {shown}")
    });
    format!("{arm}  seed {}  {} records{}", result.seed, result.records, sets.collect::<String>())
}
