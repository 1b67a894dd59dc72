//! `FILE.run.json`: how a result came to be, so that it can be made again.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};
use wherefore::Result;
use wherefore::model::Model;
use wherefore::pipeline::Summary;
use wherefore::report::Destination;
use wherefore::store::Store;

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
        fields.insert("began".into(), seconds_since_epoch().into());
        fields.insert("threads".into(), rayon::current_num_threads().into());
        Self { fields }
    }

    /// Notes a resolved setting.
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

    /// Writes the record with the job's counts, times and memory.
    pub(crate) fn write(mut self, path: &Path, summary: &Summary) -> Result<()> {
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
