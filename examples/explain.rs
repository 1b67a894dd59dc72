//! Which words made the spam filter say this? In a clone: `cargo run --release --example explain`.
#![allow(clippy::print_stdout)]

use wherefore::Result;
use wherefore::dataset::Dataset;
use wherefore::explain::{Method, Options};
use wherefore::model::{Device, LoadOptions, Model};
use wherefore::pipeline::{ExplainOptions, Output, Rejections, Settings, explain};

pub(crate) fn main() -> Result<()> {
    let model = Model::load("assets/demo/model", Device::Cpu, &LoadOptions::default())?;
    let (settings, mut rejections) = (Settings { quiet: true, ..Settings::default() }, Rejections::new(false, None));
    let job = ExplainOptions {
        method: Method::IntegratedGradients,
        options: Options { tolerance: Some(0.05), ..Options::default() },
        output: Output::Logit,
        ..ExplainOptions::default()
    };
    let mail = Dataset::typed("Congratulations, you have won a free prize".into(), None);
    explain(&model, mail, &job, &settings, &mut rejections, &mut |explanation| {
        println!("{}: {:.3}", explanation.target, explanation.output);
        explanation.words.iter().for_each(|word| println!("  {:+.3}  {}", word.score, word.text));
        Ok(())
    })?;
    Ok(())
}
