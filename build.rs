//! Compiles `kernels/*.cu` with nvcc into one fatbin each, which the library embeds. Without nvcc the library is built
//! for the CPU alone, and says so in one warning (`WHEREFORE_REQUIRE_NVCC=1` makes that an error). A fatbin is compiled
//! again when its sources, the flags or the compiler change.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// What a fatbin holds: machine code by compute capability, and a PTX for what comes after.
const ARCHITECTURES: &str = "80,86,89,90a,100,120,ptx80,ptx120";
/// Sources of this ending are compiled for this architecture alone, and left out where it is.
const FOR_ONE: (&str, &str) = ("_wgmma", "90a");
/// Where toolkits live that no variable names.
const USUAL_FOLDERS: [&str; 3] = ["/usr/local/cuda", "/opt/cuda", "/usr/lib/cuda"];
/// Variables that name a toolkit's folder.
const FOLDER_VARIABLES: [&str; 2] = ["CUDA_HOME", "CUDA_PATH"];
/// Variables that change what is built.
const VARIABLES: [&str; 5] = ["NVCC", "PATH", "WHEREFORE_CUDA_ARCHITECTURES", "WHEREFORE_REQUIRE_NVCC", KERNELS];
/// Names a folder for fatbins that several builds (of other profiles or features) share; without it each keeps its own.
const KERNELS: &str = "WHEREFORE_KERNELS";

fn main() {
    // Where a compiler is named, it is not looked for: another PATH is no reason to build again.
    let asked = |variable: &&&str| **variable != "PATH" || env::var_os("NVCC").is_none();
    for variable in FOLDER_VARIABLES.iter().chain(&VARIABLES).filter(asked) {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    println!("cargo::rerun-if-changed=kernels");
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let built = match Nvcc::find() {
        Some(nvcc) => {
            match nvcc.compile_all(&sources("cu"), &env::var_os(KERNELS).map_or(out.clone(), PathBuf::from)) {
                Ok(images) => Built { nvcc: nvcc.describe(), images },
                Err(report) => return fail(&report),
            }
        }
        None => Built { nvcc: "None".to_owned(), images: Vec::new() },
    };
    if built.images.is_empty() {
        let missing = "no nvcc was found (NVCC, CUDA_HOME, CUDA_PATH, PATH, the usual folders): this build computes on the CPU alone";
        if env::var_os("WHEREFORE_REQUIRE_NVCC").is_some() {
            return fail(missing);
        }
        println!("cargo::warning={missing}");
    }
    fs::write(out.join("images.rs"), built.source()).expect("OUT_DIR can be written to");
}

fn fail(report: &str) {
    for line in report.lines() {
        println!("cargo::error={line}");
    }
}

/// The files of `kernels/` with an extension, by name.
fn sources(extension: &str) -> Vec<PathBuf> {
    let folder = fs::read_dir("kernels").expect("kernels/ is there");
    let mut files: Vec<PathBuf> = folder.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|found| found == extension));
    files.sort();
    files
}

fn stem(path: &Path) -> &str {
    path.file_stem().and_then(|stem| stem.to_str()).expect("a kernel's file name is plain")
}

/// What the library is told of.
struct Built {
    /// `Some("nvcc …")` or `None`, as source.
    nvcc: String,
    images: Vec<PathBuf>,
}

impl Built {
    /// `images.rs`.
    fn source(&self) -> String {
        let mut text = format!("const NVCC: Option<&str> = {};\nconst IMAGES: &[(&str, &[u8])] = &[\n", self.nvcc);
        for image in &self.images {
            writeln!(text, "    (\"{}\", include_bytes!(r#\"{}\"#)),", stem(image), image.display())
                .expect("a string grows");
        }
        text + "];\n"
    }
}

/// A compiler, and what it can compile for.
struct Nvcc {
    path: PathBuf,
    /// What it says of itself: part of every stamp.
    version: String,
    release: (u32, u32),
    /// As in [`ARCHITECTURES`].
    architectures: Vec<String>,
}

impl Nvcc {
    fn find() -> Option<Self> {
        let named = env::var_os("NVCC").map(PathBuf::from);
        let path = match named {
            Some(path) => Some(path),
            None => candidates().into_iter().find(|path| path.is_file()),
        }?;
        let version = output(Command::new(&path).arg("--version")).ok()?;
        let release = version.split("release ").nth(1)?.split(',').next()?.split_once('.')?;
        let release = (release.0.parse().ok()?, release.1.parse().ok()?);
        let architectures = architectures(&path, release);
        Some(Self { path, version, release, architectures })
    }

    /// As source, for [`Built`].
    fn describe(&self) -> String {
        let (major, minor) = self.release;
        format!("Some(\"nvcc {major}.{minor}: {}\")", self.architectures.join(" "))
    }

    /// One fatbin a source, as many at a time as cargo allows.
    fn compile_all(&self, sources: &[PathBuf], out: &Path) -> Result<Vec<PathBuf>, String> {
        fs::create_dir_all(out).map_err(|error| format!("{}: {error}", out.display()))?;
        let jobs = env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(1);
        let compiled = |source: &&PathBuf| !self.architectures_of(source).is_empty();
        let sources: Vec<&PathBuf> = sources.iter().filter(compiled).collect();
        let queue = Mutex::new(sources.iter());
        let failures = Mutex::new(String::new());
        std::thread::scope(|scope| {
            for _ in 0..sources.len().min(jobs) {
                scope.spawn(|| {
                    while let Some(source) = { queue.lock().expect("no panic holds the lock").next() } {
                        if let Err(report) = self.compile(source, out) {
                            failures.lock().expect("no panic holds the lock").push_str(&report);
                        }
                    }
                });
            }
        });
        let failures = failures.into_inner().expect("no panic holds the lock");
        let out = out.canonicalize().map_err(|error| format!("{}: {error}", out.display()))?;
        let images = sources.iter().map(|source| out.join(stem(source)).with_extension("fatbin")).collect();
        if failures.is_empty() { Ok(images) } else { Err(failures) }
    }

    fn architectures_of(&self, source: &Path) -> Vec<&str> {
        let (ending, only) = FOR_ONE;
        let all = self.architectures.iter().map(String::as_str);
        all.filter(|name| *name == only || !stem(source).ends_with(ending)).collect()
    }

    /// One fatbin, with what ptxas says of each kernel beside it.
    fn compile(&self, source: &Path, out: &Path) -> Result<(), String> {
        let image = out.join(stem(source)).with_extension("fatbin");
        let mut command = Command::new(&self.path);
        // Nothing is fused that is not written as fused: a sum's bits are those of its formula.
        command.args(["-fatbin", "-O3", "-std=c++17", "-fmad=false", "-Xptxas", "-v"]);
        if self.release >= (12, 9) {
            command.arg("--compress-mode=size");
        }
        command.args(self.architectures_of(source).into_iter().map(generate));
        command.arg("-o").arg(&image).arg(source);
        let stamp = format!("{}\n{command:?}\n{}", self.version, whole(source, &mut Vec::new()));
        let stamp_file = image.with_extension("stamp");
        if image.is_file() && fs::read_to_string(&stamp_file).is_ok_and(|found| found == stamp) {
            return Ok(());
        }
        let report = output(&mut command)?;
        let kept = fs::write(image.with_extension("ptxas"), report).and_then(|()| fs::write(&stamp_file, stamp));
        kept.map_err(|error| format!("{}: {error}", out.display()))
    }
}

/// Where an nvcc may be, the likeliest first.
fn candidates() -> Vec<PathBuf> {
    let folders = FOLDER_VARIABLES.iter().filter_map(env::var_os).map(PathBuf::from);
    let mut found: Vec<PathBuf> = folders.map(|folder| folder.join("bin/nvcc")).collect();
    if let Some(path) = env::var_os("PATH") {
        found.extend(env::split_paths(&path).map(|folder| folder.join("nvcc")));
    }
    found.extend(USUAL_FOLDERS.map(|folder| Path::new(folder).join("bin/nvcc")));
    found
}

/// Those wanted that this compiler knows; of the others it is said that they are left out.
fn architectures(nvcc: &Path, release: (u32, u32)) -> Vec<String> {
    let listed = output(Command::new(nvcc).arg("--list-gpu-code")).unwrap_or_default();
    let number = |name: &str| name.trim_start_matches("ptx").trim_end_matches('a').to_owned();
    let known = |name: &String| listed.split_whitespace().any(|code| code == format!("sm_{}", number(name)));
    let wanted = env::var("WHEREFORE_CUDA_ARCHITECTURES").unwrap_or_else(|_| ARCHITECTURES.to_owned());
    let wanted = wanted.split(',').map(str::trim).map(str::to_owned).filter(|name| !name.is_empty());
    let (kept, left_out): (Vec<_>, Vec<_>) = wanted.partition(known);
    if !left_out.is_empty() {
        println!("cargo::warning=nvcc {}.{} does not know {}: left out", release.0, release.1, left_out.join(", "));
    }
    kept
}

/// nvcc's flag for one architecture.
fn generate(architecture: &str) -> String {
    match architecture.strip_prefix("ptx") {
        Some(number) => format!("-gencode=arch=compute_{number},code=compute_{number}"),
        // Nothing is written for one of this family alone: they have one PTX, from which each has machine code of its
        // own.
        None if architecture.starts_with('8') => format!("-gencode=arch=compute_80,code=sm_{architecture}"),
        None => format!("-gencode=arch=compute_{architecture},code=sm_{architecture}"),
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// A source's text, and that of our headers which it includes, each once: what its fatbin is made of.
fn whole(source: &Path, seen: &mut Vec<PathBuf>) -> String {
    if seen.iter().any(|other| other == source) {
        return String::new();
    }
    seen.push(source.to_owned());
    let mut text = read(source);
    let names = text.lines().filter_map(|line| line.strip_prefix("#include \"")?.strip_suffix('"'));
    let headers: Vec<PathBuf> = names.map(|name| source.with_file_name(name)).collect();
    for header in headers {
        text.push_str(&whole(&header, seen));
    }
    text
}

/// What a command prints, if it succeeds; else the command and what it prints.
fn output(command: &mut Command) -> Result<String, String> {
    let finished = command.output().map_err(|error| format!("{command:?}: {error}\n"))?;
    let printed = [finished.stdout, finished.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    if finished.status.success() { Ok(printed) } else { Err(format!("{command:?}\n{printed}\n")) }
}
