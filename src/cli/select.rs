//! `wherefore select`.

use clap::Args;
use serde_json::json;
use wherefore::Error;
use wherefore::explain::{Method, Options, Replacement};
use wherefore::model::LoadOptions;
use wherefore::pipeline::{self, SelectOptions, SelectScores, Selector, SelectorOptions};
use wherefore::report::{ContextSelection, RecordWriter};

use super::Outcome;
use super::arguments::{Common, Data, ModelName, Typed, from_one, shape_of};
use super::output::Output;
use super::predict::SpanArguments;
use super::run_record::RunRecord;

/// Evidence sentences of a context, by a trained selector or by what speaks for the answer in them; then the answer
/// from those alone.
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
    /// What tells how much each token speaks for the answer: occlusion, integrated-gradients, or another method of
    /// explain
    #[arg(long, default_value = "occlusion")]
    method: Method,
    /// A selector that `train --task selector` made: it says how likely each sentence is evidence, instead of --method
    #[arg(long, value_name = "DIR", conflicts_with_all = ["method", "steps", "occlude"])]
    selector: Option<String>,
    /// Keep sentences with so large a share of what speaks for the answer, or so likely to be evidence, from 0 to 1
    /// [default: 0.1, or as the selector has it]
    #[arg(long, value_name = "SHARE")]
    threshold: Option<f64>,
    /// Keep no more than so many sentences
    #[arg(long, value_name = "N", value_parser = from_one)]
    keep: Option<usize>,
    /// Gradient evaluations of integrated gradients
    #[arg(long, value_name = "N", default_value_t = 20)]
    steps: usize,
    /// What stands in for a token that is left out: mask, pad or unk
    #[arg(long, default_value_t)]
    occlude: Replacement,
}

impl Arguments {
    fn options(&self, common: &Common) -> wherefore::Result<SelectOptions> {
        Ok(SelectOptions {
            method: self.method,
            options: Options { steps: self.steps, replacement: self.occlude, seed: common.seed, ..Options::default() },
            spans: self.spans.options()?,
            threshold: self.threshold.unwrap_or(SelectOptions::default().threshold),
            most: self.keep,
        })
    }

    fn load_selector(name: &str, common: &Common) -> wherefore::Result<Selector> {
        let options = LoadOptions { max_length: common.max_length, precision: common.precision, masks: false };
        Selector::load(name, common.device.clone(), &options)
    }
}

pub(crate) fn run(arguments: &Arguments, common: &Common) -> anyhow::Result<Outcome> {
    let mut run = RunRecord::begin("select");
    if let Some(found) = arguments.threshold.filter(|share| !(0.0..=1.0).contains(share)) {
        return Err(Error::usage(format!("--threshold: expected a share from 0 to 1, found {found}")).into());
    }
    let model = arguments.model.load_any(common, &mut run)?;
    let dataset = arguments.text.or_as(shape_of(&model), &arguments.data)?;
    let output = Output::new(common, common.out.as_deref());
    let mut rejections = output.rejections();
    let settings = common.settings();
    let mut writer = RecordWriter::create(common.out.as_deref(), common.format(), ContextSelection::columns())?;
    let mut write = |selection: &ContextSelection| writer.write(selection);
    let (summary, scores) = if let Some(selector) = &arguments.selector {
        let selector = Arguments::load_selector(selector, common)?;
        run.set("selector", json!({ "path": selector.model().name(), "fingerprint": selector.model().fingerprint() }));
        let options = SelectorOptions {
            spans: arguments.spans.options()?,
            threshold: arguments.threshold.unwrap_or(selector.settings().threshold),
            most: arguments.keep,
        };
        pipeline::select_with(&selector, &model, dataset, &options, &settings, &mut rejections, &mut write)?
    } else {
        let options = arguments.options(common)?;
        run.set("method", options.method.name());
        pipeline::select(&model, dataset, &options, &settings, &mut rejections, &mut write)?
    };
    writer.finish()?;
    run.set("scores", json!(scores));
    if !common.quiet {
        tell(&scores);
    }
    run.overflows(&model);
    output.finish("selected sentences of", &summary, rejections, run)
}

fn tell(scores: &SelectScores) {
    say_line!("kept {} of {} sentences", scores.kept, scores.sentences);
    for (from, scores) in [("the whole context", scores.plain), ("kept sentences", scores.selected)] {
        if scores.questions > 0 {
            let (exact, f1) = (100.0 * scores.exact_match, 100.0 * scores.f1);
            say_line!("from {from}: exact match {exact:.2}, F1 {f1:.2} over {} questions", scores.questions);
        }
    }
}
