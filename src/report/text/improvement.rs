//! What was done to the data, and what that was worth, for people.

use std::fmt::Write;

use super::{Render, one_line, plain, style, width};
use crate::report::improvement::{Turn, is_share};
use crate::report::{AskedRecord, ChangeRecord, ComparedArm, Comparison, RoundRecord, Spread};

impl Render for ChangeRecord {
    fn render(&self, colour: bool) -> String {
        let labels = match (&self.from, &self.to) {
            (Some(from), Some(to)) => format!("  {} → {}", plain(from), plain(to)),
            (None, Some(to)) => format!("  {}", plain(to)),
            _ => String::new(),
        };
        let change = style(colour).bold().apply_to(format!("{:<8}", self.change));
        let text = one_line(&self.text, width().saturating_sub(12).max(20));
        format!("{change}  {}{labels}  {}\n          {text}\n", self.id, style(colour).dim().apply_to(&self.reason))
    }
}

impl Render for AskedRecord {
    fn render(&self, colour: bool) -> String {
        let kind = style(colour).bold().apply_to(format!("{:<7}", self.kind));
        format!("{:>6}  {kind}  {:.3}  {}  {}\n", self.rank, self.score, self.id, one_line(&self.text, width() - 40))
    }
}

/// A share as a percentage, any other number as it is.
fn number(metric: &str, value: f64) -> String {
    if is_share(metric) { format!("{:.2}", 100.0 * value) } else { format!("{value:.4}") }
}

fn spread(metric: &str, spread: &Spread) -> String {
    format!("{} ± {}", number(metric, spread.mean), number(metric, spread.deviation))
}

fn gain(metric: &str, spread: &Spread) -> String {
    let (Some(gain), Some(deviation)) = (spread.gain, spread.gain_deviation) else { return String::new() };
    let sign = if gain < 0.0 { "−" } else { "+" };
    format!("{sign}{} ± {}", number(metric, gain.abs()), number(metric, deviation))
}

/// Whether that is for the better, in a word; nothing where seeds differ by as much.
fn turn(metric: &str, spread: &Spread) -> &'static str {
    match spread.turn(metric) {
        Some(Turn::Better) => "  better",
        Some(Turn::Worse) => "  worse",
        Some(Turn::Untold) | None => "",
    }
}

impl Render for Comparison {
    fn render(&self, colour: bool) -> String {
        let seeds = self.seeds.len();
        let mut out = String::new();
        let _ = writeln!(
            out,
            "Mean ± standard deviation over {seeds} {}; shares in percent; changes since the same seed before, better or \
             worse where they are more than their deviation\n",
            if seeds == 1 { "seed" } else { "seeds" }
        );
        let name = self.arms.iter().map(|arm| console::measure_text_width(&arm.name)).max().unwrap_or(0).max(6);
        let _ = writeln!(out, "{:<name$}  {:<10}  {:<9}  {:>16}  {:>16}", "data", "set", "metric", "value", "change");
        for arm in &self.arms {
            for set in &arm.sets {
                for (metric, values) in &set.metrics {
                    let _ = writeln!(
                        out,
                        "{:<name$}  {:<10}  {metric:<9}  {:>16}  {:>16}{}",
                        arm.name,
                        set.set,
                        spread(metric, values),
                        gain(metric, values),
                        turn(metric, values)
                    );
                }
            }
        }
        out.push('\n');
        for arm in &self.arms {
            let heading = style(colour).bold().apply_to(format!("{:<name$}", arm.name));
            let _ = writeln!(out, "{heading}  {} records{}{}", arm.records, changes(arm), verdict(self, arm));
        }
        out
    }
}

fn changes(arm: &ComparedArm) -> String {
    arm.changes.iter().fold(String::new(), |told, (change, count)| format!("{told}, {count} × {change}"))
}

/// What became of an arm by the metric that the gate looks at, and what the gate said.
fn verdict(comparison: &Comparison, arm: &ComparedArm) -> String {
    let turn = comparison.turn(arm).map(|turn| format!("{}: {}", comparison.metric, turn.told()));
    let told: Vec<String> = turn.into_iter().chain(arm.gate().map(str::to_owned)).collect();
    if told.is_empty() { String::new() } else { format!("; {}", told.join("; ")) }
}

impl Render for RoundRecord {
    fn render(&self, colour: bool) -> String {
        let verdict = match (self.round, self.accepted) {
            (0, _) => "",
            (_, true) => "  kept",
            (_, false) => "  rolled back",
        };
        let sets = self.sets.iter().filter_map(|set| {
            let (metric, values) = set.metrics.get_key_value("accuracy").or_else(|| set.metrics.first_key_value())?;
            Some(format!("  {} {}", set.set, spread(metric, values)))
        });
        let heading = style(colour).bold().apply_to(format!("round {:>3}", self.round));
        let (labels, records) = (self.labels, self.records);
        format!("{heading}  {labels:>6} labels  {records:>6} records{}{verdict}\n", sets.collect::<String>())
    }
}
