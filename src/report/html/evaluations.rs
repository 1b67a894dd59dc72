//! How far attributions can be trusted: for each yardstick one chart and one table, the best first, chance in grey.

use serde::Serialize;
use serde_json::Value;

use super::charts::Axis;
use super::sources::BySource;
use crate::report::EvaluationRow;
use crate::report::numbers::Form;

/// What is shown of one yardstick.
struct Spec {
    yardstick: &'static str,
    title: &'static str,
    note: &'static str,
    /// The first is drawn and sorted by.
    measures: &'static [Measure],
    curves: &'static [Curve],
}

/// A column of a table.
struct Measure {
    field: &'static str,
    heading: &'static str,
    /// Whether more is better.
    more: bool,
    /// What it is; empty where the yardstick's note or the heading says it.
    meaning: &'static str,
}

const fn more(field: &'static str, heading: &'static str, meaning: &'static str) -> Measure {
    Measure { field, heading, more: true, meaning }
}

const fn less(field: &'static str, heading: &'static str, meaning: &'static str) -> Measure {
    Measure { field, heading, more: false, meaning }
}

/// Lines over a share, from the field `curve`.
struct Curve {
    field: &'static str,
    title: &'static str,
    across: &'static str,
}

static SPECS: [Spec; 9] = [
    Spec {
        yardstick: "faithfulness",
        title: "Are the words that matter to the method those that the model needs?",
        note: "Words are taken away, or shown alone, and the model is asked again.",
        measures: &[
            more(
                "aopc_comprehensiveness",
                "AOPC comp ↑",
                "comprehensiveness, the mean over several shares of the words",
            ),
            less("aopc_sufficiency", "AOPC suff ↓", "sufficiency, likewise"),
            more("comprehensiveness", "comp ↑", "what the probability loses without the rationale"),
            less("sufficiency", "suff ↓", "what it loses with nothing but the rationale"),
            more(
                "new_p",
                "New-P ↑",
                "the share of records whose rationale alone keeps the prediction, and whose rest does not",
            ),
            less("deletion", "deletion ↓", "the area under the probability as words go, the most important first"),
            more("insertion", "insertion ↑", "the area under the probability as words come, the most important first"),
            more(
                "sensitivity_n",
                "sens-n ↑",
                "the mean, over sizes, of the correlation between sums of scores and what sets of that many words are worth",
            ),
            less(
                "completeness_error",
                "compl. error ↓",
                "how far the scores are from adding up to the change since the baseline, over that change",
            ),
            less(
                "randomisation",
                "randomised → 0",
                "the rank correlation with scores of the same network under other weights: near 0 where scores depend on what was learnt",
            ),
        ],
        curves: &[
            Curve {
                field: "deletion",
                title: "Probability as words go",
                across: "share of the words gone, the most important first",
            },
            Curve {
                field: "insertion",
                title: "Probability as words come",
                across: "share of the words there, the most important first",
            },
        ],
    },
    Spec {
        yardstick: "plausibility",
        title: "Are they the words that people marked?",
        note: "Against people's rationales, where a record has several, the best of them.",
        measures: &[
            more("token_f1", "token F1 ↑", "the F1 between the words of both rationales, the method's and people's"),
            more("union_f1", "union F1 ↑", "the same against the best union of people's rationales"),
            more(
                "iou_hits",
                "IoU ≥ ½ ↑",
                "the share of texts whose words in both are at least half of the words in either",
            ),
            more("auprc", "AUPRC ↑", "the area under precision over recall of all words by their scores"),
        ],
        curves: &[],
    },
    Spec {
        yardstick: "consistency",
        title: "Are they the same after a change that should not matter?",
        note: "Mean average precision between the rationales of a text and of its perturbed version.",
        measures: &[
            more("map", "MAP ↑", ""),
            more("map_same_prediction", "MAP, same prediction ↑", "of the texts alone whose prediction stays the same"),
        ],
        curves: &[],
    },
    Spec {
        yardstick: "lds",
        title: "Do sums of scores say what a model trained on other records would have said?",
        note: "LDS: the rank correlation, over subsets of the training data, between the sum of a subset's scores and the margin of a model trained on it.",
        measures: &[
            more("lds", "LDS ↑", ""),
            less("behind_best", "behind the best", "by how much the best is better, query by query"),
        ],
        curves: &[],
    },
    Spec {
        yardstick: "leave-out",
        title: "Do they say what the loss does without a record, or a group?",
        note: "The correlation, over sets left out, between the sum of a set's scores and the rise of the loss of a model trained without it.",
        measures: &[
            more("spearman", "Spearman ↑", ""),
            more("pearson", "Pearson ↑", ""),
            less("behind_best", "behind the best", "by how much the best is better, query by query"),
        ],
        curves: &[],
    },
    Spec {
        yardstick: "removal",
        title: "Does a query suffer once the records ranked first for it are gone?",
        note: "How much the query's loss rises when a model is trained without them: the mean over all amounts that are removed.",
        measures: &[
            more("loss_rise", "loss rises ↑", ""),
            more(
                "over_chance",
                "over chance",
                "how much more than with records that are drawn at random, query by query",
            ),
            less("behind_best", "behind the best", "by how much the best is better, query by query"),
        ],
        curves: &[Curve {
            field: "loss_rise",
            title: "Rise of the loss",
            across: "share of the training records removed",
        }],
    },
    Spec {
        yardstick: "tail-patch",
        title: "Does one more step on the records ranked first lower a query's loss?",
        note: "How much the query's loss falls after a step of gradient descent on them.",
        measures: &[
            more("loss_fall", "loss falls ↑", ""),
            more(
                "over_chance",
                "over chance",
                "how much more than with records that are drawn at random, query by query",
            ),
            more("helped", "helped", "the share of queries whose loss falls"),
        ],
        curves: &[],
    },
    Spec {
        yardstick: "stability",
        title: "Do models of other seeds rank the same records first?",
        note: "The share of the first k that two models both name, and the rank correlation of their scores.",
        measures: &[
            more("overlap", "top-k overlap ↑", ""),
            more("overlap_same_prediction", "same prediction ↑", "of the queries alone that both models predict alike"),
            more("rank_correlation", "rank correlation ↑", ""),
        ],
        curves: &[],
    },
    Spec {
        yardstick: "label-noise",
        title: "Are labels that were turned before training found again?",
        note: "AUC: the probability that a turned label is more suspect than another.",
        measures: &[more("average_precision", "average precision ↑", ""), more("auc", "AUC ↑", "")],
        curves: &[],
    },
];

/// Lines in a drawing at most, chance beside.
const LINES: usize = 7;

/// All rows, yardstick by yardstick.
#[derive(Debug, Default)]
pub(super) struct Evaluations(Vec<(String, BySource<Vec<EvaluationRow>>)>);

/// One yardstick as the template shows it.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    title: String,
    note: &'static str,
    facts: Vec<String>,
    verdict: Option<String>,
    drawn: &'static str,
    axis: Axis,
    zero: String,
    bars: Vec<Bar>,
    curves: Vec<Drawing>,
    headings: Vec<&'static str>,
    /// What the headings that need it mean.
    meanings: Vec<(&'static str, &'static str)>,
    rows: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Bar {
    name: String,
    is_chance: bool,
    from: String,
    length: String,
    mean: String,
    value: String,
}

#[derive(Debug, Serialize)]
struct Drawing {
    title: &'static str,
    across: &'static str,
    axis: Axis,
    /// Of the share across: place in percent, text.
    ticks: Vec<(String, String)>,
    lines: Vec<Line>,
    /// How many have a line that is not drawn.
    left_out: usize,
}

#[derive(Debug, Serialize)]
struct Line {
    name: String,
    number: usize,
    is_chance: bool,
    points: String,
    /// Places, and what is told of them.
    marks: Vec<(String, String, String)>,
}

#[derive(Debug, Serialize)]
struct Row {
    name: String,
    is_chance: bool,
    cells: Vec<String>,
}

impl Evaluations {
    /// Takes a row of the file `source`.
    pub(super) fn add(&mut self, row: EvaluationRow, source: &str) {
        let place = self.0.iter().position(|(yardstick, _)| *yardstick == row.yardstick).unwrap_or_else(|| {
            self.0.push((row.yardstick.clone(), BySource::default()));
            self.0.len() - 1
        });
        self.0[place].1.of(source).push(row);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In the order of the yardsticks' own list, each file's by itself; others are passed over.
    pub(super) fn shown(&self) -> Vec<Shown> {
        let shown = |spec: &'static Spec| {
            let all = self.0.iter().find(|(yardstick, _)| yardstick == spec.yardstick).map(|(_, all)| all);
            all.into_iter().flat_map(|all| all.under(spec.title)).map(|(title, rows)| Shown::new(spec, title, rows))
        };
        SPECS.iter().flat_map(shown).collect()
    }
}

impl Shown {
    fn new(spec: &Spec, title: String, rows: &[EvaluationRow]) -> Self {
        let Measure { field, heading, more, .. } = spec.measures[0];
        let mut sorted: Vec<&EvaluationRow> = rows.iter().collect();
        let mean = |row: &EvaluationRow| {
            row.measure(field).map_or(f64::NEG_INFINITY, |[mean, ..]| if more { mean } else { -mean })
        };
        sorted.sort_by(|a, b| mean(b).total_cmp(&mean(a)));
        let several = sorted.iter().any(|row| row.fields.get("fraction") != sorted[0].fields.get("fraction"));
        let name = |row: &EvaluationRow| match row.fields.get("fraction") {
            Some(fraction) if several => format!("{}, {fraction}", row.name()),
            _ => row.name(),
        };
        let measured: Vec<(&EvaluationRow, [f64; 3])> =
            sorted.iter().filter_map(|row| Some((*row, row.measure(field)?))).collect();
        let drawn = form(&sorted, field);
        let axis = Axis::round(measured.iter().flat_map(|(_, ends)| *ends));
        let place = |value: f64| format!("{:.2}", axis.place(value));
        let bar = |(row, [mean, low, high]): &(&EvaluationRow, [f64; 3])| Bar {
            name: name(row),
            is_chance: is_chance(row),
            from: place(*low),
            length: format!("{:.2}", axis.place(*high) - axis.place(*low)),
            mean: place(*mean),
            value: told([*mean, *low, *high], drawn),
        };
        let has = |field: &str| rows.iter().any(|row| row.measure(field).is_some());
        let columns: Vec<_> = spec.measures.iter().filter(|measure| has(measure.field)).collect();
        let forms: Vec<Form> = columns.iter().map(|measure| form(&sorted, measure.field)).collect();
        let row = |row: &&EvaluationRow| Row {
            name: name(row),
            is_chance: is_chance(row),
            cells: columns
                .iter()
                .zip(&forms)
                .map(|(measure, form)| row.measure(measure.field).map_or_else(String::new, |ends| told(ends, *form)))
                .collect(),
        };
        Self {
            title,
            note: spec.note,
            facts: facts(sorted[0]),
            verdict: if several { None } else { verdict(&sorted) },
            drawn: heading,
            zero: place(0.0),
            bars: measured.iter().map(bar).collect(),
            curves: spec.curves.iter().filter_map(|curve| Drawing::new(curve, &sorted)).collect(),
            headings: columns.iter().map(|measure| measure.heading).collect(),
            meanings: columns.iter().map(|m| (m.heading, m.meaning)).filter(|(_, m)| !m.is_empty()).collect(),
            rows: sorted.iter().map(row).collect(),
            axis,
        }
    }
}

fn is_chance(row: &EvaluationRow) -> bool {
    row.name() == "random"
}

/// Decimals of a column, and how many it has at most for the sake of its narrowest interval.
const DECIMALS: usize = 3;
const DECIMALS_AT_MOST: usize = 5;

/// How the numbers of a measure's column are written: all alike, so that its means and its intervals can be read.
fn form(rows: &[&EvaluationRow], field: &str) -> Form {
    let measured = || rows.iter().filter_map(|row| row.measure(field));
    let form = Form::of(measured().map(|[mean, ..]| mean), DECIMALS);
    let narrowest = measured().map(half).filter(|half| *half > 0.0).fold(f64::INFINITY, f64::min);
    let seen = if narrowest.is_finite() { (-narrowest.log10().floor()).max(0.0) as usize } else { 0 };
    match form {
        Form::Decimals(decimals) => Form::Decimals(decimals.max(DECIMALS).max(seen.min(DECIMALS_AT_MOST))),
        powers @ Form::Powers(_) => powers,
    }
}

fn half([_, low, high]: [f64; 3]) -> f64 {
    (high - low) / 2.0
}

/// A mean with half its interval's width.
fn told(ends: [f64; 3], form: Form) -> String {
    let number = |x: f64| if x == 0.0 { "0".to_owned() } else { form.plain(x) };
    let [mean, ..] = ends;
    if half(ends) == 0.0 { number(mean) } else { format!("{} ± {}", number(mean), number(half(ends))) }
}

/// What all rows have in common.
fn facts(row: &EvaluationRow) -> Vec<String> {
    let left_out = row.yardstick == "leave-out";
    let names = [
        ("records", if left_out { "records left out of each" } else { "records" }),
        ("pairs", "pairs"),
        ("queries", "queries"),
        ("subsets", "subsets"),
        ("sets", "sets"),
        ("seeds", "trainings of each"),
        ("models", "models"),
        ("top_k", "records of each ranking"),
        ("turned", "turned labels"),
    ];
    // What is left out of a set is told behind the sets.
    let order = if left_out { [1, 2, 3, 4, 0, 5, 6, 7, 8] } else { [0, 1, 2, 3, 4, 5, 6, 7, 8] };
    let fact = |at: usize| {
        let (field, what) = names[at];
        row.fields.get(field).and_then(Value::as_f64).map(|count| counted(count, what))
    };
    let jointly = row.fields.get("jointly").and_then(Value::as_bool).map(|jointly| {
        let told = if jointly { "one ranking for all queries (--jointly)" } else { "a ranking for each query" };
        told.to_owned()
    });
    order.into_iter().filter_map(fact).chain(jointly).collect()
}

/// `1 training of each`, `2 trainings of each`.
fn counted(count: f64, what: &str) -> String {
    let (noun, rest) = what.split_once(' ').unwrap_or((what, ""));
    let noun = match noun {
        "queries" if count == 1.0 => "query",
        noun if count == 1.0 => noun.trim_end_matches('s'),
        noun => noun,
    };
    format!("{count} {noun} {rest}").trim_end().to_owned()
}

/// Whether the first is surely better than the second.
fn verdict(sorted: &[&EvaluationRow]) -> Option<String> {
    let rivals: Vec<&&EvaluationRow> = sorted.iter().filter(|row| !is_chance(row)).collect();
    let [first, second, ..] = rivals.as_slice() else { return None };
    let [mean, low, high] = second.measure("behind_best")?;
    let told = format!("{mean:.3} (95 %: {low:.3} to {high:.3})");
    Some(if low > 0.0 {
        format!("{} is ahead of {} by {told}: more than the queries' chance.", first.name(), second.name())
    } else {
        format!("{} is not surely ahead of {}: by {told}.", first.name(), second.name())
    })
}

/// Ticks at most that are where the data are.
const TICKS: usize = 6;

/// Room between two of those, in percent of the drawing.
const ROOM: f64 = 9.0;

/// Ticks from 0 to `most`, in percent: at the shares themselves where those are few, else at quarters.
fn ticks(shares: impl Iterator<Item = f64>, most: f64) -> Vec<(String, String)> {
    let mut own: Vec<f64> = shares.chain([0.0]).collect();
    own.sort_by(|a, b| b.total_cmp(a));
    own.dedup();
    let places =
        if own.len() <= TICKS { own } else { (0..=4).rev().map(|part| most * f64::from(part) / 4.0).collect() };
    let mut kept: Vec<f64> = Vec::new();
    for share in places {
        if kept.last().is_none_or(|last| 100.0 * (last - share) / most >= ROOM) {
            kept.push(share);
        }
    }
    let tick = |share: &f64| (format!("{:.2}", 100.0 * share / most), format!("{}", (1000.0 * share).round() / 10.0));
    kept.iter().rev().map(tick).collect()
}

impl Drawing {
    fn new(curve: &Curve, rows: &[&EvaluationRow]) -> Option<Self> {
        type Points = Vec<(f64, f64)>;
        let points = |row: &EvaluationRow| -> Option<Points> {
            let point = |point: &Value| {
                let value = point.get(curve.field)?;
                Some((point.get("share")?.as_f64()?, value.as_f64().or_else(|| value.get("mean")?.as_f64())?))
            };
            row.fields.get("curve")?.as_array()?.iter().map(point).collect()
        };
        let (chance, rivals): (Vec<&EvaluationRow>, Vec<&EvaluationRow>) = rows.iter().partition(|row| is_chance(row));
        let left_out = rivals.iter().skip(LINES).filter(|row| points(row).is_some()).count();
        let drawn: Vec<(&EvaluationRow, Points)> =
            rivals.into_iter().take(LINES).chain(chance).filter_map(|row| Some((row, points(row)?))).collect();
        let all = || drawn.iter().flat_map(|(_, points)| points);
        let most = all().map(|(share, _)| *share).fold(0.0, f64::max);
        if most == 0.0 {
            return None;
        }
        let axis = Axis::round(all().map(|(_, value)| *value));
        let place = |(share, value): &(f64, f64)| (100.0 * share / most, 100.0 - axis.place(*value));
        let line = |(number, (row, points)): (usize, &(&EvaluationRow, Points))| Line {
            name: row.name(),
            number,
            is_chance: is_chance(row),
            points: points.iter().map(place).map(|(x, y)| format!("{x:.2},{y:.2}")).collect::<Vec<_>>().join(" "),
            marks: points
                .iter()
                .map(|point| {
                    let (x, y) = place(point);
                    let value = Form::Decimals(4).plain(point.1);
                    let told = format!("{}, {:.1} %: {value}", row.name(), 100.0 * point.0);
                    (format!("{x:.2}"), format!("{y:.2}"), told)
                })
                .collect(),
        };
        Some(Self {
            title: curve.title,
            across: curve.across,
            ticks: ticks(all().map(|(share, _)| *share), most),
            lines: drawn.iter().enumerate().map(line).collect(),
            left_out,
            axis,
        })
    }
}
