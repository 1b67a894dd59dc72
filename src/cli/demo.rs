//! `wherefore demo`: the whole job on the bundled model and data, which are part of this binary.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;
use wherefore::dataset::{Dataset, DatasetOptions};
use wherefore::explain;
use wherefore::model::Model;
use wherefore::pipeline::{
    self, ExplainOptions, IndexOptions, Output, Rejections, ResultSink, SearchJob, SearchOptions, Settings, TopK,
};
use wherefore::report::{
    Destination, Explanation, NeighbourList, Page, PageOptions, Render, ResultRecord, SearchResult,
};
use wherefore::search::Rule;
use wherefore::store::Store;
use wherefore::{Error, Result};

use super::Outcome;
use super::arguments::{Common, Data};

/// The whole job on the bundled model and data: index, search, explain, answers to read, and a page to look at.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Keep the model, data and store here, to go on playing with
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

/// The bundled files: a spam classifier and the mails it was trained and tested on.
const FILES: [(&str, &[u8]); 5] = [
    ("model/config.json", include_bytes!("../../assets/demo/model/config.json")),
    ("model/model.safetensors", include_bytes!("../../assets/demo/model/model.safetensors")),
    ("model/tokenizer.json", include_bytes!("../../assets/demo/model/tokenizer.json")),
    ("train.jsonl", include_bytes!("../../assets/demo/train.jsonl")),
    ("test.jsonl", include_bytes!("../../assets/demo/test.jsonl")),
];

/// Mistakes that are shown: predictions that somebody would ask about.
const SHOWN: usize = 3;

pub(crate) fn run(arguments: &Arguments, common: &Common) -> anyhow::Result<Outcome> {
    // A page by its name; any other place is for what is told.
    let is_page = |out: &&Path| out.extension().is_some_and(|extension| extension == "html" || extension == "htm");
    let page_out = common.out.as_deref().filter(is_page);
    if page_out.is_none() {
        common.check_format(false)?;
    }
    let mut told = Told::new(common.out.as_deref().filter(|_| page_out.is_none()))?;
    let temporary = tempfile::tempdir().map_err(Error::io(std::env::temp_dir()))?;
    let folder = arguments.keep.as_deref().unwrap_or(temporary.path());
    unpack(folder)?;
    let model = common.load(&folder.join("model").to_string_lossy())?;
    let settings = common.settings();
    let store = folder.join("store");
    let options = IndexOptions { resume: arguments.keep.is_some(), ..IndexOptions::default() };
    let none = || Rejections::new(false, None);
    let indexed = pipeline::index(&model, open(folder, "train.jsonl")?, &store, &options, &settings, &mut none())?;
    let store = Store::open(store)?;
    let indexed = match indexed.records {
        0 => "They had been indexed".to_owned(),
        _ => format!("Indexed them in {:.1} s", indexed.seconds),
    };
    told.say(&format!(
        "A spam filter was trained on {} mails. {indexed}; asking the store about the {SHOWN} surest of its mistakes on new mails.\n\n",
        store.rows()
    ))?;
    let options = SearchOptions { rule: Rule::GradCos, top_k: TopK::Count(3), ..SearchOptions::default() };
    let mut mistakes = Mistakes::default();
    let job = SearchJob { model: &model, checkpoints: &[], store: &store, options: &options };
    let searched = job.run(open(folder, "test.jsonl")?, &settings, &mut none(), &mut mistakes)?;
    mistakes.sort();
    let explanations = explain(&model, folder, &mistakes, &settings)?;
    mistakes.show(&explanations, &searched, &mut told)?;
    let page = put_page((page_out, arguments.keep.as_deref()), &page(&mistakes, explanations)?)?;
    told.say(&format!("The same as a page to look at: {}\n", page.display()))?;
    told.say(&next_steps(arguments.keep.as_deref()))?;
    told.to.finish()?;
    Ok(Outcome::Done)
}

/// The page's file.
const PAGE: &str = "wherefore-demo.html";

/// Which words made the filter make the mistakes that are shown.
fn explain(model: &Model, folder: &Path, mistakes: &Mistakes, settings: &Settings) -> Result<Vec<Explanation>> {
    let name = "mistakes.jsonl";
    let line = |m: &SearchResult| json!({ "id": m.id, "text": m.text, "text_pair": m.text_pair, "label": m.label });
    let lines: Vec<String> = mistakes.shown().map(|mistake| line(mistake).to_string()).collect();
    let path = folder.join(name);
    fs::write(&path, lines.join("\n")).map_err(Error::io(&path))?;
    let options = explain::Options { tolerance: Some(0.05), ..explain::Options::default() };
    // Its probabilities are all but 0 or 1, and hardly move; its logits do.
    let job = ExplainOptions { options, output: Output::Logit, ..ExplainOptions::default() };
    let mut explanations = Vec::new();
    let mut keep = |explanation: &Explanation| {
        explanations.push(explanation.clone());
        Ok(())
    };
    pipeline::explain(model, open(folder, name)?, &job, settings, &mut Rejections::new(false, None), &mut keep)?;
    // Numbered as among all the mails they are from, so that they stand beside their training records.
    for (explanation, mistake) in explanations.iter_mut().zip(mistakes.shown()) {
        explanation.index = mistake.index;
    }
    Ok(explanations)
}

fn page(mistakes: &Mistakes, explanations: Vec<Explanation>) -> Result<String> {
    let mut page = Page::new(PageOptions {
        title: Some("Why the spam filter is wrong".into()),
        sources: vec!["the bundled demo".into()],
        ..PageOptions::default()
    });
    let explained = explanations.into_iter().map(ResultRecord::Explanation);
    for result in explained.chain(mistakes.shown().cloned().map(ResultRecord::Search)) {
        page.add(result);
    }
    page.render()
}

/// Where the page is then: where it was asked for, with what is kept, or among temporary files, under a name of its own
/// where somebody else's has the common one.
fn put_page((asked, kept): (Option<&Path>, Option<&Path>), page: &str) -> Result<PathBuf> {
    let write = |path: PathBuf| -> Result<PathBuf> {
        let mut file = Destination::create(Some(&path))?;
        file.write(page.as_bytes())?;
        file.finish()?;
        Ok(path)
    };
    let folder = std::env::temp_dir();
    let own = || {
        let made = tempfile::Builder::new().prefix("wherefore-demo-").suffix(".html").tempfile_in(&folder);
        let (_, path) = made.map_err(Error::io(&folder))?.keep().map_err(|error| Error::io(&folder)(error.error))?;
        write(path)
    };
    match (asked, kept) {
        (Some(asked), _) => write(asked.to_owned()),
        (None, Some(kept)) => write(kept.join(PAGE)),
        (None, None) => write(folder.join(PAGE)).or_else(|_| own()),
    }
}

/// The bundled model's directory and its training data, written under `folder`.
pub(crate) fn bundled(folder: &Path) -> Result<(String, Data)> {
    unpack(folder)?;
    let path = |name| folder.join(name).to_string_lossy().into_owned();
    Ok((path("model"), Data { files: vec![path("train.jsonl")], ..Data::default() }))
}

/// Writes the bundled files under `folder`, where they are not there yet.
fn unpack(folder: &Path) -> Result<()> {
    for (name, bytes) in FILES {
        let path = folder.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(Error::io(parent))?;
        }
        fs::write(&path, bytes).map_err(Error::io(&path))?;
    }
    Ok(())
}

fn open(folder: &Path, name: &str) -> Result<Dataset> {
    let files = vec![folder.join(name).to_string_lossy().into_owned()];
    Dataset::open(DatasetOptions { files, ..DatasetOptions::default() })
}

fn next_steps(kept: Option<&Path>) -> String {
    match kept {
        None => "Keep the files with `wherefore demo --keep DIR`, or start with your own: `wherefore index --help`.\n"
            .into(),
        Some(folder) => {
            let folder = folder.display();
            format!("Ask it about a mail of your own:\n  wherefore search --store {folder}/store --text \"…\"\n")
        }
    }
}

/// Keeps the results whose prediction is not the label.
#[derive(Default)]
struct Mistakes(Vec<SearchResult>);

impl Mistakes {
    /// The surest first.
    fn sort(&mut self) {
        self.0.sort_by(|a, b| b.probability.partial_cmp(&a.probability).unwrap_or(std::cmp::Ordering::Equal));
    }

    fn shown(&self) -> impl Iterator<Item = &SearchResult> {
        self.0.iter().take(SHOWN)
    }

    fn show(&self, explanations: &[Explanation], searched: &pipeline::Summary, told: &mut Told) -> Result<()> {
        let colours = told.colours;
        for (result, explanation) in self.shown().zip(explanations) {
            told.say(&result.render(colours))?;
            told.say(&explanation.render(colours))?;
        }
        let (asked, wrong, seconds) = (searched.records, self.0.len(), searched.seconds);
        let right = 100.0 * (asked as f64 - wrong as f64) / (asked as f64).max(1.0);
        told.say(&format!(
            "{asked} new mails answered in {seconds:.1} s; the filter is right about {right:.1} % of them.\n"
        ))
    }
}

impl ResultSink for Mistakes {
    fn write(&mut self, result: &SearchResult) -> Result<()> {
        if result.label.as_ref().is_some_and(|label| *label != result.predicted) {
            self.0.push(result.clone());
        }
        Ok(())
    }

    fn write_all(&mut self, _: &SearchResult<NeighbourList<'_>>) -> Result<()> {
        Ok(())
    }
}

/// What is told, as it comes.
struct Told {
    to: Destination,
    colours: bool,
}

impl Told {
    fn new(out: Option<&Path>) -> Result<Self> {
        Ok(Self { to: Destination::create(out)?, colours: out.is_none() && console::colors_enabled() })
    }

    fn say(&mut self, text: &str) -> Result<()> {
        self.to.write(text.as_bytes())?;
        self.to.flush().map_err(|error| self.to.error(error))
    }
}
