//! `wherefore predict`.

use clap::Args;
use wherefore::pipeline;
use wherefore::report::{Prediction, RecordWriter};

use super::Outcome;
use super::arguments::{Common, Data, ModelName, Typed};
use super::output::Output;
use super::run_record::RunRecord;

/// Logits, probabilities and predicted label of each record.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelName,
    #[command(flatten)]
    data: Data,
    #[command(flatten)]
    text: Typed,
}

pub(crate) fn run(arguments: &Arguments, common: &Common) -> anyhow::Result<Outcome> {
    let mut run = RunRecord::begin("predict");
    let dataset = arguments.text.or(&arguments.data)?;
    let model = arguments.model.load(common, &mut run)?;
    let columns = Prediction::columns(model.problem(), model.class_names().names());
    let mut writer = RecordWriter::create(common.out.as_deref(), common.format(), columns)?;
    let output = Output::new(common, common.out.as_deref());
    let mut rejections = output.rejections();
    let settings = common.settings()?;
    let summary = pipeline::predict(&model, dataset, &settings, &mut rejections, &mut |p| writer.write(p))?;
    writer.finish()?;
    run.overflows(&model);
    output.finish("predicted", &summary, rejections, run)
}
