//! `wherefore predict`.

use clap::Args;
use wherefore::pipeline;
use wherefore::report::{Prediction, RecordWriter};

use super::Outcome;
use super::arguments::{Common, Data};
use super::output::Output;
use super::run_record::RunRecord;

/// Logits, probabilities and predicted label of each record.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Model directory, or org/name in the local Hugging Face cache
    #[arg(long, value_name = "DIR")]
    model: String,
    #[command(flatten)]
    data: Data,
    #[command(flatten)]
    text: super::arguments::Typed,
}

pub(crate) fn run(arguments: &Arguments, common: &Common) -> anyhow::Result<Outcome> {
    let mut run = RunRecord::begin("predict");
    let dataset = arguments.text.or(&arguments.data)?;
    let model = common.load(&arguments.model)?;
    run.model(&model);
    let columns = Prediction::columns(model.problem(), model.class_names().names());
    let mut writer = RecordWriter::create(common.out.as_deref(), common.format(), columns)?;
    let output = Output::new(common, common.out.as_deref());
    let mut rejections = output.rejections();
    let settings = common.settings()?;
    let summary = pipeline::predict(&model, dataset, &settings, &mut rejections, &mut |p| writer.write(p))?;
    writer.finish()?;
    output.finish("predicted", &summary, rejections, run)
}
