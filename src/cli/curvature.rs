//! `wherefore curvature`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use wherefore::Error;
use wherefore::backend::Precision;
use wherefore::factors::{FisherForm, FisherLabels};
use wherefore::model::Device;
use wherefore::pipeline::{self, FisherOptions};
use wherefore::store::Store;

use super::Outcome;
use super::arguments::{Common, lambda};
use super::output::Output;
use super::run_record::RunRecord;
use super::search::load_model;

/// The curvature of the whole network, for `search --rule influence --hessian ekfac|kfac`.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The store whose records it is fitted to (repeatable: the parts that `index --shard` made)
    #[arg(long, value_name = "DIR", required = true)]
    store: Vec<PathBuf>,
    /// Where the model is now [default: where it was at indexing]
    #[arg(long, value_name = "DIR")]
    model: Option<String>,
    /// Where to write it [default: into the store]
    #[arg(long, value_name = "DIR")]
    curvature: Option<PathBuf>,
    /// What is fitted
    #[arg(long, value_enum, default_value_t = Form::Ekfac)]
    form: Form,
    /// Whose labels the gradients are of
    #[arg(long, value_enum, default_value_t = Fisher::Model)]
    fisher: Fisher,
    /// Records it is fitted to at the most, spread evenly over the store
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    records: usize,
    /// Also every record's self-influence, which relatif needs: one more pass, over all records
    #[arg(long)]
    self_influence: bool,
    /// λ over a layer's mean eigenvalue, for the self-influence [default: 0.1]
    #[arg(long, value_name = "λ", value_parser = lambda, requires = "self_influence")]
    lambda: Option<f64>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Form {
    /// Both sides' second moments
    Kfac,
    /// Those, and the eigenvalues of the gradients themselves: a second pass
    Ekfac,
}

#[derive(Clone, Copy, ValueEnum)]
enum Fisher {
    /// The model's: the Fisher information
    Model,
    /// The data's: the empirical Fisher
    Data,
}

/// On a GPU f32 where nothing else is asked for: in f16 each record has a scale of its own, and there is none for sums
/// over them.
fn in_a_precision_of_sums(common: &Common) -> Result<Common, Error> {
    let on_gpu = matches!(common.device, Device::Cuda(_) | Device::EveryCuda);
    let precision = match common.precision {
        Precision::Auto if on_gpu => Precision::F32,
        Precision::F16 if on_gpu => {
            return Err(Error::usage("--precision f16: curvature is computed in f32, bf16x3 or bf16")
                .with_hint("leave --precision out, or use --precision f32, bf16x3 or bf16"));
        }
        asked => asked,
    };
    Ok(Common { precision, ..common.clone() })
}

pub(crate) fn run(arguments: &Arguments, common: &Common) -> anyhow::Result<Outcome> {
    let common = &in_a_precision_of_sums(common)?;
    let mut run = RunRecord::begin("curvature");
    let store = Store::open_many(&arguments.store)?;
    run.store(&store);
    let model = load_model(&store, arguments.model.as_deref(), common)?;
    if model.gpus().len() > 1 {
        let message = format!("{} devices: curvature is fitted on one", model.gpus().len());
        return Err(Error::usage(message).with_hint("name it, as in --device cuda:0").into());
    }
    run.model(&model);
    let options = FisherOptions {
        form: match arguments.form {
            Form::Kfac => FisherForm::Kfac,
            Form::Ekfac => FisherForm::Ekfac,
        },
        labels: match arguments.fisher {
            Fisher::Model => FisherLabels::Model,
            Fisher::Data => FisherLabels::Data,
        },
        records: arguments.records,
        seed: common.seed,
        self_influence: arguments.self_influence.then(|| arguments.lambda.unwrap_or(pipeline::FISHER_DAMPING)),
    };
    let directory = arguments.curvature.as_ref().unwrap_or(&arguments.store[0]);
    let output = Output::new(common, None);
    let rejections = output.rejections();
    let summary = pipeline::fit_fisher(&model, &store, directory, &options, &common.settings())?;
    output.finish("fitted", &summary, rejections, run)
}
