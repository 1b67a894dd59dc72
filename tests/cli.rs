//! The binary as a script meets it: records, files, exit codes, and one clear line for everything that can go wrong.

#[path = "cli/audit.rs"]
mod audit;
#[path = "cli/baselines.rs"]
mod baselines;
#[path = "cli/cuda.rs"]
mod cuda;
#[path = "cli/damage.rs"]
mod damage;
#[path = "cli/explain.rs"]
mod explain;
#[path = "cli/improve.rs"]
mod improve;
#[path = "cli/interchange.rs"]
mod interchange;
#[path = "cli/invariance.rs"]
mod invariance;
#[path = "cli/itself.rs"]
mod itself;
#[path = "cli/keeping.rs"]
mod keeping;
#[cfg(target_os = "linux")]
#[path = "cli/memory.rs"]
mod memory;
#[path = "cli/places.rs"]
mod places;
#[path = "cli/results.rs"]
mod results;
#[path = "cli/rounded.rs"]
mod rounded;
#[path = "cli/scope.rs"]
mod scope;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// A folder to work in, and the binary run inside it.
pub(crate) struct Bench {
    folder: tempfile::TempDir,
}

/// How a run ended.
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.path(name), bytes).expect("a file is written");
    }

    /// A tiny model of the goldens, copied here so that it can be damaged.
    pub(crate) fn model(&self, name: &str) -> String {
        copy_folder(&golden(name), &self.path(name));
        name.to_owned()
    }

    /// `n` labelled records of two classes as JSONL.
    pub(crate) fn records(&self, name: &str, n: usize) {
        let words = ["the food was good", "很好看的书", "not good to us", "I loved the movie", "服务很差", "bad"];
        let lines = (0..n).map(|i| {
            let text = format!("{} {} {}", words[i % words.len()], words[i * 7 % words.len()], i % 10);
            serde_json::json!({ "id": format!("r{i}"), "text": text, "label": i % 2 }).to_string() + "\n"
        });
        self.write(name, lines.collect::<String>());
    }

    pub(crate) fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wherefore"));
        command.args(arguments.split_whitespace()).current_dir(self.folder.path()).stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, arguments: &str) -> Ran {
        Ran::from(self.command(arguments).output().expect("the binary runs"))
    }

    /// Runs what must succeed.
    pub(crate) fn ok(&self, arguments: &str) -> String {
        let ran = self.run(arguments);
        assert_eq!(ran.code, Some(0), "{arguments}: {}", ran.err);
        ran.out
    }

    /// Runs what must fail: exit code 2, and one line on standard error that holds `expected` (and perhaps a hint).
    pub(crate) fn fails(&self, arguments: &str, expected: &str) {
        self.run(arguments).failed(expected);
    }

    /// Every file of a folder by name, with its bytes.
    pub(crate) fn contents(&self, name: &str) -> Vec<(String, Vec<u8>)> {
        let mut files: Vec<_> = fs::read_dir(self.path(name))
            .expect("the folder is there")
            .flatten()
            .map(|file| (file.file_name().to_string_lossy().into_owned(), fs::read(file.path()).unwrap_or_default()))
            .collect();
        files.sort();
        files
    }
}

impl Ran {
    pub(crate) fn failed(&self, expected: &str) {
        assert_eq!(self.code, Some(2), "stdout {:?}, stderr {:?}", self.out, self.err);
        let (errors, rest): (Vec<&str>, Vec<&str>) = self.err.lines().partition(|l| l.starts_with("wherefore: "));
        assert_eq!(errors.len(), 1, "expected one error line: {:?}", self.err);
        assert!(rest.iter().all(|l| l.starts_with("hint: ")), "expected nothing but a hint: {:?}", self.err);
        assert!(errors[0].contains(expected), "expected {expected:?} in {:?}", self.err);
        assert!(!self.err.contains("panicked"), "{}", self.err);
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder is made");
    for entry in fs::read_dir(from).expect("the folder is there").flatten() {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy_folder(&from, &to);
        } else {
            fs::copy(from, to).expect("a file is copied");
        }
    }
}

/// A folder of `tests/golden/`.
pub(crate) fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// JSONL as values.
pub(crate) fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
}
