//! `FILE.run.json`: how a result came to be, so that it can be made again.

use std::any::TypeId;
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::{Map, Value, json};
use wherefore::dataset::{Dataset, Digest};
use wherefore::model::Model;
use wherefore::pipeline::Summary;
use wherefore::report::{Destination, is_special};
use wherefore::store::Store;
use wherefore::{Error, Result};

use super::note;

/// Of this process, which runs one command.
static SETTINGS: OnceLock<Map<String, Value>> = OnceLock::new();
/// The names of those that are not left open.
static GIVEN: OnceLock<HashSet<String>> = OnceLock::new();
static DATA: Mutex<Vec<Data>> = Mutex::new(Vec::new());
/// Where results go, and which option says so.
static OUTS: Mutex<Vec<(&str, PathBuf)>> = Mutex::new(Vec::new());

/// Data that were opened.
struct Data {
    files: Vec<String>,
    digest: Arc<Mutex<Digest>>,
}

/// Notes every setting of the command that was named, by its long name as `--config` has it: those of the command line
/// and of `--config`, and the defaults of the others. Those that have none are left out.
pub(crate) fn note_settings(command: &Command, matches: &ArgMatches) {
    let (mut command, mut matches) = (command, matches);
    while let Some((name, further)) = matches.subcommand() {
        let Some(named) = command.find_subcommand(name) else { break };
        (command, matches) = (named, further);
    }
    let name = |arg: &Arg| arg.get_long().unwrap_or(arg.get_id().as_str()).to_owned();
    let of = |arg: &Arg| setting(arg, matches).map(|value| (name(arg), value));
    let _ = SETTINGS.set(command.get_arguments().filter_map(of).collect());
    let typed = |arg: &&Arg| matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine);
    let _ = GIVEN.set(command.get_arguments().filter(|arg| !is_of_clap(arg)).filter(typed).map(name).collect());
}

/// Whether a setting was named on the command line, or in `--config`.
pub(crate) fn is_given(name: &str) -> bool {
    GIVEN.get().is_some_and(|given| given.contains(name))
}

fn is_of_clap(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Help | ArgAction::Version)
}

fn setting(arg: &Arg, matches: &ArgMatches) -> Option<Value> {
    if is_of_clap(arg) {
        return None;
    }
    let raw = matches.try_get_raw(arg.get_id().as_str()).ok()??;
    let parsed = arg.get_value_parser().type_id();
    let is_text = parsed == TypeId::of::<String>() || parsed == TypeId::of::<std::path::PathBuf>();
    let value = |text: &std::ffi::OsStr| {
        let text = text.to_string_lossy();
        // `5`, `0.1` and `true` are what they are, but for texts and paths.
        let plain = |value: &Value| !is_text && (value.is_number() || value.is_boolean());
        serde_json::from_str(&text).ok().filter(plain).unwrap_or_else(|| text.into())
    };
    let mut values: Vec<Value> = raw.map(value).collect();
    let several =
        matches!(arg.get_action(), ArgAction::Append) || arg.get_num_args().is_some_and(|n| n.max_values() > 1);
    if several { Some(values.into()) } else { values.pop() }
}

/// Notes where results go, so that nothing that is read, and no other result, is written over. A device or a pipe takes
/// all that it is given.
///
/// # Errors
/// Where another option's go.
pub(crate) fn note_out(option: &'static str, out: &Path) -> Result<()> {
    if is_special(out) {
        return Ok(());
    }
    let (place, mut outs) = (place(out), lock(&OUTS));
    if let Some((other, _)) = outs.iter().find(|(_, taken)| *taken == place) {
        return Err(Error::usage(format!(
            "{option} {}: expected a file of its own, found that of {other}",
            out.display()
        ))
        .with_hint("results take a file's place: name another"));
    }
    outs.push((option, place));
    Ok(())
}

/// Where a file is, or will be.
fn place(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        match (fs::canonicalize(folder), path.file_name()) {
            (Ok(folder), Some(name)) => folder.join(name),
            _ => path.to_owned(),
        }
    })
}

/// Refuses to read from where results go.
pub(crate) fn check_is_not_out(input: &Path) -> Result<()> {
    let Ok(place) = fs::canonicalize(input) else { return Ok(()) };
    match lock(&OUTS).iter().find(|(_, out)| *out == place) {
        Some((option, _)) => Err(Error::usage(format!("{option} {}: this is what is read", input.display()))
            .with_hint("results take a file's place: name another")),
        None => Ok(()),
    }
}

/// Notes that these data are read.
pub(crate) fn note_data(dataset: &Dataset) {
    let files = dataset.files().map(|file| file.to_string_lossy().into_owned()).collect();
    lock(&DATA).push(Data { files, digest: dataset.digest() });
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What will be written beside a result.
pub(crate) struct RunRecord {
    fields: Map<String, Value>,
}

impl RunRecord {
    /// Notes the version, the command line and the time.
    pub(crate) fn begin(command: &str) -> Self {
        let mut fields = Map::new();
        let arguments: Vec<_> = std::env::args_os().skip(1).map(|a| a.to_string_lossy().into_owned()).collect();
        fields.insert("version".into(), env!("CARGO_PKG_VERSION").into());
        fields.insert("command".into(), command.into());
        fields.insert("arguments".into(), arguments.into());
        fields.insert("settings".into(), SETTINGS.get().cloned().unwrap_or_default().into());
        fields.insert("began".into(), seconds_since_epoch().into());
        fields.insert("threads".into(), rayon::current_num_threads().into());
        Self { fields }
    }

    /// Notes what a setting came to that was left open on the command line.
    pub(crate) fn resolve(&mut self, name: &str, value: impl Into<Value>) {
        if let Some(Value::Object(settings)) = self.fields.get_mut("settings") {
            settings.insert(name.into(), value.into());
        }
    }

    /// Notes what more there is to say.
    pub(crate) fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.fields.insert(name.into(), value.into());
    }

    /// Notes which model it was.
    pub(crate) fn model(&mut self, model: &Model) {
        let (device, precision) = model.device();
        let fields = json!({
            "path": model.name(),
            "fingerprint": model.fingerprint(),
            "head_fingerprint": model.head_fingerprint(),
            "tokenizer_fingerprint": model.tokenizer().fingerprint(),
            "max_length": model.max_length(),
            "device": device,
            "precision": precision,
        });
        for name in ["device", "precision", "max_length"] {
            self.resolve(&name.replace('_', "-"), fields[name].clone());
        }
        self.set("model", fields);
    }

    /// Notes how many sequences overflowed the precision and were run again in one that holds more, where any did.
    pub(crate) fn overflows(&mut self, model: &Model) {
        if model.run_again() > 0 {
            self.set("run_again_in_bf16", model.run_again());
        }
    }

    /// Notes which store it was.
    pub(crate) fn store(&mut self, store: &Store) {
        let fields = json!({
            "records": store.rows(),
            "data_fingerprint": store.data_fingerprint(),
            "model_fingerprint": store.settings().model_fingerprint,
        });
        self.set("store", fields);
    }

    /// Writes the record with the job's counts, times and memory. Where it cannot be, that is told: the work is done,
    /// and who heard that it failed would do it again.
    pub(crate) fn write(self, path: &Path, summary: &Summary) {
        if let Err(error) = self.try_write(path, summary) {
            note(&format!("{error}: the results are whole, the record of how they came to be is missing"));
        }
    }

    fn try_write(mut self, path: &Path, summary: &Summary) -> Result<()> {
        let data = |data: &Data| json!({ "files": data.files, "fingerprint": lock(&data.digest).to_string() });
        let mut read: Vec<Value> = Vec::new();
        for one in lock(&DATA).iter().map(data) {
            // What is read again and again is told once.
            if !read.contains(&one) {
                read.push(one);
            }
        }
        self.set("data", read);
        self.set("summary", serde_json::to_value(summary).unwrap_or_default());
        if let Some(bytes) = peak_memory() {
            self.set("peak_memory_bytes", bytes);
        }
        let mut file = Destination::create(Some(path))?;
        file.write(format!("{:#}\n", Value::Object(self.fields)).as_bytes())?;
        file.finish()
    }
}

fn seconds_since_epoch() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// The most memory this process has had resident, mapped files included, where the system tells (Linux does).
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}
