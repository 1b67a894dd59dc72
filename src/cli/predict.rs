//! `wherefore predict`.

use clap::Args;
use serde_json::json;
use wherefore::Result;
use wherefore::model::{Model, Problem, Task};
use wherefore::pipeline::{self, SpanOptions, SpanScores, Summary};
use wherefore::report::{MaskPrediction, Prediction, RecordWriter, SpanPrediction, TagPrediction};
use wherefore::task::{AnswerOptions, EntityCounts, Scoring};

use super::Outcome;
use super::arguments::{Common, Data, ModelName, Typed, from_one, shape_of};
use super::output::Output;
use super::run_record::RunRecord;

/// What the model says of each record: logits, probabilities and label; answers; tags and entities; pieces behind
/// masks.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelName,
    #[command(flatten)]
    data: Data,
    #[command(flatten)]
    text: Typed,
    #[command(flatten)]
    spans: SpanArguments,
    /// Masked-language models: pieces told of each mask
    #[arg(long, value_name = "N", value_parser = from_one, default_value_t = 5)]
    top_k: usize,
}

/// How questions are answered.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct SpanArguments {
    /// Answers and tags: tokens that neighbouring windows of a long context or text share, half a window where there is
    /// no room for so many
    #[arg(long, value_name = "N", default_value_t = 128)]
    stride: usize,
    /// Question answering: tokens of an answer, at most
    #[arg(long, value_name = "N", value_parser = from_one, default_value_t = 30)]
    max_answer_tokens: usize,
    /// Question answering: how many answers are told
    #[arg(long, value_name = "N", value_parser = from_one, default_value_t = 20)]
    n_best: usize,
    /// Question answering: no answer is given where that scores more than so much above the best one
    #[arg(long, value_name = "SCORE", allow_negative_numbers = true)]
    no_answer_threshold: Option<f32>,
    /// Question answering: how exact match and F1 are counted: english (SQuAD), chinese (CMRC, DuReader), or auto
    #[arg(long, value_name = "WAY", default_value = "auto")]
    scoring: Scoring,
}

impl SpanArguments {
    pub(crate) fn options(&self) -> Result<SpanOptions> {
        let &Self { stride, max_answer_tokens: max_tokens, n_best, no_answer_threshold, scoring } = self;
        if let Some(threshold) = no_answer_threshold.filter(|threshold| !threshold.is_finite()) {
            let told = format!("--no-answer-threshold: expected a number, found {threshold}");
            return Err(wherefore::Error::usage(told));
        }
        Ok(SpanOptions { answers: AnswerOptions { max_tokens, n_best, no_answer_threshold }, stride, scoring })
    }
}

pub(crate) fn run(arguments: &Arguments, common: &Common) -> anyhow::Result<Outcome> {
    let mut run = RunRecord::begin("predict");
    let model = arguments.model.load_any(common, &mut run)?;
    let dataset = arguments.text.or_as(shape_of(&model), &arguments.data)?;
    let output = Output::new(common, common.out.as_deref());
    let mut rejections = output.rejections();
    let settings = common.settings();
    let create = |columns| RecordWriter::create(common.out.as_deref(), common.format(), columns);
    let (writer, summary) = match model.task() {
        Task::Record => {
            let mut writer = create(Prediction::columns(model.problem(), model.class_names().names()))?;
            let mut right = Right::default();
            let mut write = |prediction: &Prediction| {
                right.add(prediction);
                writer.write(prediction)
            };
            let summary = pipeline::predict(&model, dataset, &settings, &mut rejections, &mut write)?;
            if matches!(model.problem(), Problem::SingleLabel | Problem::MultiLabel) {
                right.tell(common, &mut run);
            }
            (writer, summary)
        }
        Task::Spans => {
            let (mut writer, options) = (create(SpanPrediction::columns())?, arguments.spans.options()?);
            let mut write = |prediction: &SpanPrediction| writer.write(prediction);
            let (summary, scores) =
                pipeline::predict_spans(&model, dataset, &options, &settings, &mut rejections, &mut write)?;
            tell_spans(&scores, common, &mut run);
            (writer, summary)
        }
        Task::Tags => {
            let mut writer = create(TagPrediction::columns())?;
            let mut write = |prediction: &TagPrediction| writer.write(prediction);
            let stride = arguments.spans.stride;
            let (summary, counts) =
                pipeline::predict_tags(&model, dataset, stride, &settings, &mut rejections, &mut write)?;
            tell_entities(counts.as_ref(), common, &mut run);
            (writer, summary)
        }
        Task::Masks => {
            let mut writer = create(MaskPrediction::columns())?;
            let mut write = |prediction: &MaskPrediction| writer.write(prediction);
            let top_k = arguments.top_k;
            let summary = pipeline::predict_masks(&model, dataset, top_k, &settings, &mut rejections, &mut write)?;
            (writer, summary)
        }
    };
    finish(writer, &model, &summary, &output, rejections, run)
}

fn finish(
    writer: RecordWriter,
    model: &Model,
    summary: &Summary,
    output: &Output,
    rejections: pipeline::Rejections,
    mut run: RunRecord,
) -> anyhow::Result<Outcome> {
    writer.finish()?;
    run.overflows(model);
    output.finish("predicted", summary, rejections, run)
}

/// How many labels are predicted: of several a record, all of them.
#[derive(Default)]
struct Right {
    labelled: u64,
    right: u64,
}

impl Right {
    fn add(&mut self, prediction: &Prediction) {
        if let Some(label) = &prediction.label {
            self.labelled += 1;
            self.right += u64::from(*label == prediction.predicted);
        }
    }

    fn tell(&self, common: &Common, run: &mut RunRecord) {
        let &Self { labelled, right } = self;
        if labelled == 0 {
            return;
        }
        let accuracy = right as f64 / labelled as f64;
        run.set("scores", json!({ "accuracy": accuracy, "records": labelled }));
        if !common.quiet {
            say_line!("accuracy {:.2} over {labelled} labelled records", 100.0 * accuracy);
        }
    }
}

fn tell_spans(scores: &SpanScores, common: &Common, run: &mut RunRecord) {
    if scores.questions == 0 {
        return;
    }
    run.set("scores", json!(scores));
    if !common.quiet {
        let SpanScores { questions, exact_match, f1 } = scores;
        say_line!("exact match {:.2}, F1 {:.2} over {questions} questions", 100.0 * exact_match, 100.0 * f1);
    }
}

fn tell_entities(counts: Option<&EntityCounts>, common: &Common, run: &mut RunRecord) {
    let Some(counts) = counts else { return };
    let table = counts.table();
    let row = |[precision, recall, f1, gold]: [f64; 4]| json!({ "precision": precision, "recall": recall, "f1": f1, "gold": gold as u64 });
    let fields = table.iter().map(|(kind, scores)| (kind.clone(), row(*scores))).collect::<serde_json::Map<_, _>>();
    run.set("scores", fields);
    if common.quiet {
        return;
    }
    for (kind, [precision, recall, f1, gold]) in table {
        let percent = |share: f64| format!("{:6.2}", 100.0 * share);
        let (precision, recall, f1) = (percent(precision), percent(recall), percent(f1));
        say_line!("{kind:<8} precision {precision}  recall {recall}  F1 {f1}  ({gold} entities)");
    }
}
