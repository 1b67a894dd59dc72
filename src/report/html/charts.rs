//! Charts of what plans were worth, as numbers that the template draws: bars with their seeds, the course of rounds,
//! and reliability.

use serde::Serialize;

use crate::audit::reliability;
use crate::report::improvement::{Turn, is_share};
use crate::report::{Comparison, RoundRecord, Spread};

/// Where a chart's axis begins and ends, and its ticks (place in percent, text).
#[derive(Debug, Serialize)]
pub(super) struct Axis {
    #[serde(skip)]
    low: f64,
    #[serde(skip)]
    high: f64,
    ticks: Vec<(String, String)>,
}

/// Steps between ticks that people count in.
const STEPS: [f64; 9] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5];

impl Axis {
    /// Over values, with some room, within `bounds`; in percent where `percent`.
    fn over(values: impl Iterator<Item = f64>, bounds: (f64, f64), percent: bool) -> Self {
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), x| (l.min(x), h.max(x)));
        let room = ((high - low) * 0.25).max(0.005);
        let step = STEPS.into_iter().find(|step| (high - low + 2.0 * room) / step <= 6.0).unwrap_or(1.0);
        let low = ((low - room) / step).floor() * step;
        let high = ((high + room) / step).ceil() * step;
        let (low, high) = (low.max(bounds.0), high.min(bounds.1));
        let count = ((high - low) / step).round() as usize;
        let tick = |i: usize| {
            let value = low + i as f64 * step;
            let shown = if percent { trimmed(100.0 * value) } else { trimmed(value) };
            (format!("{:.2}", 100.0 * (value - low) / (high - low)), shown)
        };
        Self { ticks: (0..=count).map(tick).collect(), low, high }
    }

    /// Over values of any size, zero among them, in about five steps of 1, 2 or 5 times a power of ten.
    pub(super) fn round(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = values.fold((0.0_f64, 0.0_f64), |(l, h), x| (l.min(x), h.max(x)));
        let span = if high > low { high - low } else { 1.0 };
        let power = 10.0_f64.powf((span / 5.0).log10().floor());
        let step =
            [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|step| span / step <= 5.0).unwrap_or(power);
        // Values on a tick need no other one beyond them.
        let steps = |value: f64| value / step * (1.0 - 1e-9);
        let (first, last) = (steps(low).floor(), steps(high).ceil().max(steps(low).floor() + 1.0));
        let digits = (-step.log10().floor()).clamp(0.0, 9.0) as usize;
        let tick = |i: usize| {
            let value = (first + i as f64) * step;
            let shown = if step < 1e-4 && value != 0.0 { format!("{value:.0e}") } else { format!("{value:.digits$}") };
            (format!("{:.2}", 100.0 * i as f64 / (last - first)), shown)
        };
        Self { ticks: (0..=(last - first) as usize).map(tick).collect(), low: first * step, high: last * step }
    }

    pub(super) fn place(&self, value: f64) -> f64 {
        (100.0 * (value - self.low) / (self.high - self.low)).clamp(0.0, 100.0)
    }

    fn percent(&self, value: f64) -> String {
        format!("{:.2}", self.place(value))
    }
}

fn trimmed(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A comparison: for each set, a bar an arm.
#[derive(Debug, Serialize)]
pub(super) struct Bars {
    metric: String,
    is_share: bool,
    seeds: usize,
    sets: Vec<BarSet>,
    arms: Vec<ArmNote>,
}

#[derive(Debug, Serialize)]
struct BarSet {
    name: String,
    records: u64,
    axis: Axis,
    bars: Vec<Bar>,
}

#[derive(Debug, Serialize)]
struct Bar {
    name: String,
    is_before: bool,
    /// Ends of the bar and of the line of a deviation each way, in percent of the axis.
    end: String,
    from: String,
    length: String,
    /// Each seed's.
    dots: Vec<String>,
    value: String,
    gain: Option<String>,
    /// `up` for the better, `down` for the worse, or empty.
    sign: &'static str,
}

#[derive(Debug, Serialize)]
struct ArmNote {
    name: String,
    records: u64,
    changes: Vec<(String, u64)>,
    /// What became of the metric that the gate looks at, and the class it is coloured by.
    turn: Option<(&'static str, &'static str)>,
    gate: Option<&'static str>,
}

impl Bars {
    pub(super) fn new(comparison: &Comparison) -> Self {
        let metric = comparison.metric.clone();
        let is_share = is_share(&metric);
        let names: Vec<&str> =
            comparison.arms.first().map_or(Vec::new(), |arm| arm.sets.iter().map(|s| s.set.as_str()).collect());
        let set = |name: &str| {
            let found: Vec<(&str, u64, &Spread)> = comparison
                .arms
                .iter()
                .filter_map(|arm| {
                    let set = arm.sets.iter().find(|set| set.set == name)?;
                    Some((arm.name.as_str(), set.records, set.metrics.get(&metric)?))
                })
                .collect();
            let ends = found
                .iter()
                .flat_map(|(_, _, s)| s.values.iter().copied().chain([s.mean - s.deviation, s.mean + s.deviation]));
            let bounds = if is_share { (0.0, 1.0) } else { (f64::NEG_INFINITY, f64::INFINITY) };
            let axis = Axis::over(ends, bounds, is_share);
            let bars = found.iter().map(|(arm, _, spread)| Bar::new(arm, spread, &axis, &metric)).collect();
            BarSet { name: name.to_owned(), records: found.first().map_or(0, |(_, records, _)| *records), axis, bars }
        };
        let note = |arm: &crate::report::ComparedArm| ArmNote {
            name: arm.name.clone(),
            records: arm.records,
            changes: arm.changes.iter().map(|(change, count)| (change.clone(), *count)).collect(),
            turn: comparison.turn(arm).map(|turn| (turn.told(), class(turn))),
            gate: arm.gate(),
        };
        Self {
            seeds: comparison.seeds.len(),
            sets: names.into_iter().map(set).collect(),
            arms: comparison.arms.iter().map(note).collect(),
            is_share,
            metric,
        }
    }
}

/// What a change is coloured by: not at all where it cannot be told.
fn class(turn: Turn) -> &'static str {
    match turn {
        Turn::Better => "up",
        Turn::Worse => "down",
        Turn::Untold => "",
    }
}

impl Bar {
    fn new(name: &str, spread: &Spread, axis: &Axis, metric: &str) -> Self {
        let is_share = is_share(metric);
        let number = |x: f64| if is_share { format!("{:.2}", 100.0 * x) } else { format!("{x:.4}") };
        let (from, to) = (axis.place(spread.mean - spread.deviation), axis.place(spread.mean + spread.deviation));
        let gain = spread.gain.map(|gain| {
            let sign = if gain < 0.0 { "−" } else { "+" };
            format!("{sign}{} ± {}", number(gain.abs()), number(spread.gain_deviation.unwrap_or_default()))
        });
        Self {
            name: name.to_owned(),
            is_before: spread.gain.is_none(),
            end: axis.percent(spread.mean),
            from: format!("{from:.2}"),
            length: format!("{:.2}", to - from),
            dots: spread.values.iter().map(|&value| axis.percent(value)).collect(),
            value: format!("{} ± {}", number(spread.mean), number(spread.deviation)),
            gain,
            sign: spread.turn(metric).map_or("", class),
        }
    }
}

/// Rounds of a continual plan: a line a set.
#[derive(Debug, Serialize)]
pub(super) struct Course {
    metric: String,
    axis: Axis,
    lines: Vec<Line>,
    /// Of the rounds: place in percent, number.
    ticks: Vec<(String, u64)>,
    rounds: Vec<Round>,
}

/// Rounds that the axis names, about.
const ROUNDS: usize = 12;

#[derive(Debug, Serialize)]
struct Line {
    name: String,
    number: usize,
    /// `x,y x,y …`, of a drawing 100 by 100; only through rounds that were kept.
    points: String,
    marks: Vec<Mark>,
}

#[derive(Debug, Serialize)]
struct Mark {
    x: String,
    y: String,
    kept: bool,
    told: String,
}

#[derive(Debug, Serialize)]
struct Round {
    number: u64,
    x: String,
    labels: u64,
    records: u64,
    kept: bool,
    reason: String,
    shown: Vec<String>,
    changes: Vec<(String, u64)>,
}

impl Course {
    pub(super) fn new(rounds: &[RoundRecord]) -> Self {
        let metric = "accuracy";
        let of = |round: &RoundRecord, set: &str| -> Option<Spread> {
            round.sets.iter().find(|found| found.set == set)?.metrics.get(metric).cloned()
        };
        let names: Vec<String> = rounds[0].sets.iter().map(|set| set.set.clone()).collect();
        let means = rounds.iter().flat_map(|round| names.iter().filter_map(|set| Some(of(round, set)?.mean)));
        let axis = Axis::over(means, (0.0, 1.0), true);
        let last = (rounds.len() - 1).max(1) as f64;
        let x = |place: usize| format!("{:.2}", 100.0 * place as f64 / last);
        let line = |(number, set): (usize, &String)| {
            let mark = |(place, round): (usize, &RoundRecord)| {
                let spread = of(round, set)?;
                let told = format!("round {}, {set}: {:.2} %", round.round, 100.0 * spread.mean);
                let y = format!("{:.2}", 100.0 - axis.place(spread.mean));
                Some(Mark { x: x(place), y, kept: round.accepted, told })
            };
            let marks: Vec<Mark> = rounds.iter().enumerate().filter_map(mark).collect();
            let points: Vec<String> =
                marks.iter().filter(|mark| mark.kept).map(|mark| format!("{},{}", mark.x, mark.y)).collect();
            Line { name: set.clone(), number, points: points.join(" "), marks }
        };
        let round = |(place, round): (usize, &RoundRecord)| Round {
            number: round.round,
            x: x(place),
            labels: round.labels,
            records: round.records,
            kept: round.accepted,
            reason: round.reason.clone(),
            shown: names
                .iter()
                .map(|set| {
                    of(round, set)
                        .map_or_else(String::new, |s| format!("{:.2} ± {:.2}", 100.0 * s.mean, 100.0 * s.deviation))
                })
                .collect(),
            changes: round.changes.iter().map(|(change, count)| (change.clone(), *count)).collect(),
        };
        Self {
            metric: metric.to_owned(),
            lines: names.iter().enumerate().map(line).collect(),
            ticks: (0..rounds.len())
                .step_by(rounds.len().div_ceil(ROUNDS))
                .map(|place| (x(place), rounds[place].round))
                .collect(),
            rounds: rounds.iter().enumerate().map(round).collect(),
            axis,
        }
    }
}

/// Trust, and how often it is right.
#[derive(Debug, Serialize)]
pub(super) struct Reliability {
    /// Of a drawing 100 by 100: trust, accuracy from above, and the told numbers.
    bins: Vec<(String, String, String)>,
    off: String,
    records: usize,
}

/// Groups of predictions that are shown.
const BINS: usize = 10;

impl Reliability {
    pub(super) fn new(trusted: &[(f64, bool)]) -> Option<Self> {
        if trusted.len() < 2 * BINS {
            return None;
        }
        let (trust, right): (Vec<f64>, Vec<Option<bool>>) = trusted.iter().map(|(t, is)| (*t, Some(*is))).unzip();
        let (bins, off) = reliability(&trust, &right, BINS);
        let bin = |bin: &crate::audit::Bin| {
            let told = format!(
                "{} predictions trusted by {:.1} %: {:.1} % right",
                bin.count,
                100.0 * bin.trust,
                100.0 * bin.accuracy
            );
            (format!("{:.2}", 100.0 * bin.trust), format!("{:.2}", 100.0 - 100.0 * bin.accuracy), told)
        };
        Some(Self { bins: bins.iter().map(bin).collect(), off: format!("{:.1}", 100.0 * off), records: trusted.len() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_axis_holds_zero_and_its_values_whatever_their_size() {
        for values in [[0.0, 0.79], [-0.5, 0.2], [1e-6, 3e-6], [12.0, 470.0], [0.0, 0.0]] {
            let axis = Axis::round(values.into_iter());
            assert!(axis.low <= values[0].min(0.0) && axis.high >= values[1], "{values:?} {axis:?}");
            assert!((2..=8).contains(&axis.ticks.len()), "{axis:?}");
            assert_eq!(axis.ticks.last().unwrap().0, "100.00", "{axis:?}");
        }
        let texts: Vec<String> = Axis::round([0.0, 0.79].into_iter()).ticks.into_iter().map(|(_, text)| text).collect();
        assert_eq!(texts, ["0.0", "0.2", "0.4", "0.6", "0.8"]);
    }

    #[test]
    fn an_axis_holds_its_values_and_counts_in_round_steps() {
        let axis = Axis::over([0.871, 0.882, 0.893].into_iter(), (0.0, 1.0), true);
        assert!(axis.low < 0.871 && axis.high > 0.893 && axis.ticks.len() <= 8);
        assert!(axis.ticks.iter().all(|(_, text)| text.len() <= 4), "{:?}", axis.ticks);
        assert_eq!((axis.ticks[0].0.as_str(), axis.ticks.last().unwrap().0.as_str()), ("0.00", "100.00"));
        let full = Axis::over([1.0, 0.99].into_iter(), (0.0, 1.0), true);
        assert!(full.high <= 1.0 && full.place(1.0) <= 100.0);
    }
}
