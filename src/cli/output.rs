//! What every command that reads records leaves beside its result, and says at its end.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use indicatif::HumanCount;
use serde::Serialize;
use wherefore::Result;
use wherefore::pipeline::{Rejections, Summary, per_second};
use wherefore::report::{Destination, Format, is_special, printable};

use super::Outcome;
use super::arguments::Common;
use super::run_record::RunRecord;

/// A command's result file and what belongs beside it.
pub(crate) struct Output {
    path: Option<PathBuf>,
    skip_invalid: bool,
    quiet: bool,
}

impl Output {
    /// For results written to `path` (standard output where `None`).
    pub(crate) fn new(common: &Common, path: Option<&Path>) -> Self {
        // Beside a device there is no place for anything.
        let path = path.filter(|path| !is_special(path));
        Self { path: path.map(Path::to_owned), skip_invalid: common.skip_invalid, quiet: common.quiet }
    }

    /// Where skipped records go: `OUT.rejected.jsonl`, or nowhere but the count where there is no OUT.
    pub(crate) fn rejections(&self) -> Rejections {
        let list = self.path.as_deref().map(|path| sibling(path, "rejected.jsonl"));
        Rejections::new(self.skip_invalid, list.as_deref())
    }

    /// Writes the run's record, tells the counts, and says how the command ended.
    pub(crate) fn finish(
        &self,
        verb: &str,
        summary: &Summary,
        rejections: Rejections,
        run: RunRecord,
    ) -> anyhow::Result<Outcome> {
        // Where there is a list it says why.
        let example = rejections.first().filter(|_| self.path.is_none()).map(str::to_owned);
        let skipped = rejections.finish()?;
        if let Some(path) = &self.path {
            run.write(&sibling(path, "run.json"), summary);
        }
        self.tell(verb, summary, example.as_deref());
        Ok(if skipped == 0 { Outcome::Done } else { Outcome::Skipped })
    }

    fn tell(&self, verb: &str, summary: &Summary, example: Option<&str>) {
        if self.quiet {
            return;
        }
        let seconds = summary.seconds.max(1e-3);
        let rate = |n: u64| per_second(n, seconds);
        let Summary { records, passes, skipped, tokens, truncated, repeated, unread_labels, searched, .. } = *summary;
        let mut line = format!("{verb} {} records in {seconds:.1} s", HumanCount(records));
        let _ = match tokens {
            0 => write!(line, " ({}/s)", rate(records)),
            _ => write!(
                line,
                " ({}/s, {} tokens/s)",
                rate((records as f64 * passes.unwrap_or(1.0)) as u64),
                rate(tokens)
            ),
        };
        if truncated > 0 {
            let _ = write!(line, ", {} cut to the maximum length", HumanCount(truncated));
        }
        if repeated > 0 {
            let _ = write!(line, ", {} had been computed", HumanCount(repeated));
        }
        if unread_labels > 0 {
            let _ = write!(line, ", {} labels not kept: there are no logits", HumanCount(unread_labels));
        }
        if searched == Some(0) {
            line += ", which found nothing: no record of the store meets --where";
        }
        if skipped > 0 {
            let _ = write!(line, ", {} skipped", HumanCount(skipped));
            if let Some(example) = example {
                let _ = write!(line, ", such as {}", printable(example));
            }
        }
        say_line!("{line}");
        if summary.curvature_of_others {
            say_line!(
                "the curvature was fitted to other records than the store has: `wherefore curvature` fits it again"
            );
        }
    }
}

/// The run's record beside a report that was printed to a file.
pub(crate) fn record_beside(common: &Common, run: RunRecord, summary: &Summary) {
    if let Some(out) = common.out.as_deref().filter(|out| !is_special(out)) {
        run.write(&sibling(out, "run.json"), summary);
    }
}

/// `FILE.extension` beside `FILE`, whatever FILE's own extension.
pub(crate) fn sibling(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(extension);
    path.with_file_name(name)
}

/// A report: JSON where that is the format, one line an object, else for people.
pub(crate) fn print<'a, T: Serialize + 'a>(
    common: &Common,
    objects: impl IntoIterator<Item = &'a T>,
    text: &impl std::fmt::Display,
) -> Result<()> {
    let mut to = Destination::create(common.out.as_deref())?;
    match common.format() {
        Format::Jsonl => {
            for object in objects {
                let line = serde_json::to_string(object).map_err(|e| to.error(e.into()))?;
                to.write(format!("{line}\n").as_bytes())?;
            }
        }
        // `Common::check_format` refuses Parquet before there is anything to print.
        Format::Text | Format::Parquet => {
            to.write(format!("{}\n", printable(text.to_string().trim_end())).as_bytes())?;
        }
    }
    to.finish()
}
