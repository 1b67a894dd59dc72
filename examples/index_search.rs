//! Which training mails made the spam filter say this? Its training data are indexed once, and asked as often as one
//! likes. In a clone: `cargo run --release --example index_search`.
#![allow(clippy::print_stdout)]

use wherefore::dataset::{Dataset, DatasetOptions, Record};
use wherefore::model::{Device, LoadOptions, Model};
use wherefore::pipeline::{
    IndexOptions, Rejections, SearchJob, SearchOptions, Settings, TopK, index, load_checkpoints, load_model,
};
use wherefore::store::Store;
use wherefore::{Error, Result};

pub(crate) fn main() -> Result<()> {
    let (device, loading) = (Device::Cpu, LoadOptions::default());
    let (settings, mut rejections) = (Settings { quiet: true, ..Settings::default() }, Rejections::new(false, None));
    let folder = tempfile::tempdir().map_err(Error::io(std::env::temp_dir()))?;
    let place = folder.path().join("mails");

    let files = vec!["assets/demo/train.jsonl".to_owned()];
    let training = Dataset::open(DatasetOptions { files, ..DatasetOptions::default() })?;
    let model = Model::load("assets/demo/model", device.clone(), &loading)?;
    index(&model, training, &place, &IndexOptions::default(), &settings, &mut rejections)?;

    // Another day: the store knows its model, and which rule suits it.
    let store = Store::open(&place)?;
    let model = load_model(&store, None, &device, &loading)?;
    let mut options = SearchOptions { top_k: TopK::Count(3), ..SearchOptions::default() };
    options.rule = options.default_rule(store.settings());
    let checkpoints = load_checkpoints(&store, options.rule, &device, &loading)?;
    let job = SearchJob { model: &model, checkpoints: &checkpoints, store: &store, options: &options };

    let mail = |text: &str| Record { text: text.into(), ..Record::default() };
    let mails = Dataset::from_records([mail("Congratulations, you have won a prize"), mail("See you at nine")]);
    let mut results = Vec::new();
    job.run(mails, &settings, &mut rejections, &mut results)?;
    for result in &results {
        println!("{:?} is {}, by {}:", result.text, result.predicted, result.rule);
        result.proponents.iter().for_each(|mail| println!("  {:+.3}  {}", mail.score, mail.id));
    }
    Ok(())
}
