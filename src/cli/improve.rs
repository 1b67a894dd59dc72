//! `wherefore improve`.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use wherefore::Error;
use wherefore::improve::{self, Machine, Plan, Standing};
use wherefore::pipeline::Summary;
use wherefore::report::Render;

use super::Outcome;
use super::arguments::Common;
use super::output::print;
use super::run_record::RunRecord;

/// The loop: train, audit, change the data as a plan says, train again, and compare; or the same round by round as data arrive.
///
/// Each training, audit and round is a folder in --out. The same command goes on with what was interrupted, and with a continual plan once
/// labels or data have come.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The plan: .toml or .json
    #[arg(value_name = "PLAN")]
    plan: PathBuf,
    /// Begin anew, over what an earlier plan left in --out
    #[arg(long)]
    overwrite: bool,
}

pub(crate) fn run(arguments: &Arguments, common: &Common) -> anyhow::Result<Outcome> {
    let (mut run, began) = (RunRecord::begin("improve"), Instant::now());
    let Some(out) = common.out.clone() else {
        return Err(Error::usage("a plan needs a place for what it makes")
            .with_hint("name a folder: --out DIR")
            .into());
    };
    let mut plan = Plan::read(&arguments.plan)?;
    plan.train.max_length = common.max_length.or(plan.train.max_length);
    let machine = Machine { device: common.device.clone(), precision: common.precision, settings: common.settings()? };
    let mut tell = |line: &str| say(common, line);
    // The results are in the folder; what is printed is for whoever looks on.
    let printed = Common { out: None, ..common.clone() };
    let records = if plan.continual.is_some() {
        let standing = improve::continual(&plan, &out, arguments.overwrite, &machine, &mut tell)?;
        let rounds = match &standing {
            Standing::Done(rounds) => rounds,
            Standing::NoData { rounds, missing } => {
                say(common, &format!("waiting for data: {missing}"));
                rounds
            }
            Standing::Asking { rounds, ask, answers, missing } => {
                say(
                    common,
                    &format!(
                        "waiting for {missing} labels: they are asked for in {}; write {{\"id\", \"label\"}} lines to {} and run this again",
                        ask.display(),
                        answers.display()
                    ),
                );
                rounds
            }
        };
        run.set("rounds", rounds.len());
        run.set("finished", matches!(standing, Standing::Done(_)));
        print(&printed, rounds, &rounds.iter().map(|round| round.render(false)).collect::<String>())?;
        rounds.last().map_or(0, |round| round.records)
    } else {
        let comparison = improve::improve(&plan, &out, arguments.overwrite, &machine, &mut tell)?;
        print(&printed, [&comparison], &comparison.render(false))?;
        comparison.arms.first().map_or(0, |arm| arm.records)
    };
    run.set("plan", serde_json::to_value(&plan)?);
    let summary = Summary { records, seconds: began.elapsed().as_secs_f64(), ..Summary::default() };
    run.write(&out.join("run.json"), &summary)?;
    Ok(Outcome::Done)
}

#[expect(clippy::print_stderr, reason = "messages go to standard error")]
fn say(common: &Common, line: &str) {
    if !common.quiet {
        eprintln!("{line}");
    }
}
