//! `wherefore improve`.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use clap::Args;
use indicatif::HumanCount;
use serde_json::json;
use wherefore::Error;
use wherefore::improve::{self, Machine, Plan, Standing};
use wherefore::pipeline::Summary;
use wherefore::report::Render;

use super::Outcome;
use super::arguments::Common;
use super::output::{Output, print, sibling};
use super::run_record::{self, RunRecord};

/// What a plan file may hold, for `improve --help`.
const PLAN: &str = "\
The plan, TOML or JSON. Paths are from its folder; ? marks what may be left out, with its default.
An amount is a share below 1, else a number of records; of top and above one is needed where a
signal alone decides.

  model, data, dev   where trainings start; files to train on; files to be judged on (or [sets])
  scratch? = false   only configuration and tokenizer of the model are read
  labels?            the classes' names in order
  seeds? = 5         how many, or a list of them
  tolerance? = 0     how much worse on dev is no regression
  [sets]?            name = [files]: judged on as well
  [columns]?         text, pair, label, id, weight: names of columns; names: all of them, of files
                     without a header
  [train]?           epochs, learning_rate, schedule, warmup, batch_size, accumulate, weight_decay,
                     clip, dropout, patience, metric, max_length: as the options of train
  [[step]]           do = a name below, and its fields; in this order
  [[arm]]            several things to do, each by itself: name, and its own [[arm.step]]s

  do = \"drop\"        what: dirty (labels), copies, leaks (of dev and sets), or of the data map
                     easy, ambiguous, hard, suspect; of dirty signal? = \"combined\", top?, above?
                     (a score); of copies and leaks similarity? = 0.8 (words in common, as audit
                     redundant --threshold)
  do = \"correct\"     corrections: files of id (or index) and label, as a person found them; the
                     first top? by signal? = \"combined\" alone, or as many by chance:
                     pick? = \"audit\" or \"random\"
  do = \"relabel\"     to what is suggested: signal? = \"combined\"; top? or above?
  do = \"reweight\"    weights? = \"lls-d\", \"lls-d-f\" or \"reweighing\"; words? (as rebalance)
  do = \"rebalance\"   words? = { least_count, least_share, false_discovery }: as audit bias
  do = \"add\"         pool: files; count: an amount; answers?: files of id and label for those
                     without one; choose? = \"coverage\", \"round-robin\", \"unsure\" or \"random\";
                     for the least covered of targets? = \"dev\" (or a set), target_count? = 50 of
                     them, as near as threshold? = 0.7
  do = \"augment\"     change: duplicate, substitute, insert, delete or swap; count: an amount;
                     share? = 0.1 of the words; targets?, target_count? as add

  [continual]?       round by round, with [[step]]s and no arms: batches: a list of files a round;
                     budget: labels a round; recheck? = 0, the share of it for doubts about old
                     labels; choose? = \"unsure\"; answers?: files of id and label; gate? = true:
                     back where dev is worse";

/// The loop: train, audit, change the data as a plan says, train again, and compare; or the same round by round as data
/// arrive.
///
/// Each training, audit and round is a folder in --out. The same command goes on with what was interrupted, and with a
/// continual plan once labels or data have come.
#[derive(Args)]
#[command(after_long_help = PLAN)]
pub(crate) struct Arguments {
    /// The plan: .toml or .json (`improve --help` tells all that it may hold)
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
    // The results are in the folder; what is printed is for whoever looks on.
    let printed = Common { out: None, ..common.clone() };
    printed.check_format(false)?;
    let mut plan = Plan::read(&arguments.plan)?;
    plan.train.max_length = common.max_length.or(plan.train.max_length);
    let output = Output::new(common, Some(&out));
    let machine = Machine {
        device: common.device.clone(),
        precision: common.precision,
        settings: common.settings(),
        note: run_record::note_data,
        taken: Arc::default(),
        skip_invalid: common.skip_invalid,
        rejections: Arc::new(Mutex::new(output.rejections().once())),
    };
    let mut tell = |line: &str| say(common, line);
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
    let at = sibling(&out.join(if plan.continual.is_some() { "rounds.jsonl" } else { "comparison.jsonl" }), "run.json");
    let skipped = machine.finish()?;
    if skipped > 0 {
        say(common, &format!("{} records skipped", HumanCount(skipped)));
    }
    let taken = &machine.taken;
    // Where all was finished, how it came to be has been told.
    if taken.trainings() > 0 || !at.exists() {
        run.set("plan", serde_json::to_value(&plan)?);
        let (path, fingerprint) = (&plan.model, taken.start_fingerprint());
        run.set("model", json!({ "path": path, "scratch": plan.scratch, "fingerprint": fingerprint }));
        run.set("trainings", taken.trainings());
        let seconds = began.elapsed().as_secs_f64();
        run.write(&at, &Summary { records, skipped, tokens: taken.tokens(), seconds, ..Summary::default() });
    }
    Ok(if skipped == 0 { Outcome::Done } else { Outcome::Skipped })
}

fn say(common: &Common, line: &str) {
    if !common.quiet {
        say_line!("{line}");
    }
}
