//! The emulated device: builds `libcuda.so` from the kernels and `tests/emulator` with the host's C++ compiler, loads
//! it, and opens it as the product opens a device.
//!
//! It is built once and kept under `target/`, it and its objects named by everything they were built from. The library
//! calls itself `libcuda.so`, so that once it is in the process the dynamic loader gives it to cudarc, which asks for
//! that name; the binary is given its folder in `LD_LIBRARY_PATH`. With `WHEREFORE_TEST_DEVICE=real` nothing is built,
//! and the same tests run on the machine's own device. `WHEREFORE_SANITIZE=address|thread` builds with a sanitizer,
//! whose runtime must then be in `LD_PRELOAD`.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use wherefore::backend::Precision;
use wherefore::backend::gpu::{Gpu, Products, compiler};

/// An image for each kernel file where this build has none (no nvcc): the emulator has the kernels compiled in, and
/// takes it.
const PLACEHOLDER: &[u8] = b"EMLU";

/// The first device, emulated unless the environment asks for the real one.
pub(crate) fn gpu(precision: Precision) -> Gpu {
    load();
    if compiler().is_some() {
        return Gpu::open(0, precision).unwrap();
    }
    Gpu::open_with(0, precision, &Gpu::stems().map(|stem| (stem, PLACEHOLDER))).unwrap()
}

/// The same by every way it has of multiplying in a precision: by `wgmma`, which compute capability 9.0 has for
/// operands of 16 bits, and by `mma.sync`.
pub(crate) fn gpus_by_products(precision: Precision) -> Vec<Gpu> {
    let gpu = gpu(precision);
    let by_mma = (gpu.products() == Products::Wgmma).then(|| gpu.by_mma());
    let found: Vec<Gpu> = std::iter::once(gpu).chain(by_mma).collect();
    let on_tensor_cores = precision != Precision::F32;
    assert!(real() || found.len() == 1 + usize::from(on_tensor_cores), "the emulated device has both");
    found
}

/// So many emulated devices, before the first is opened in this process; a real machine may have one only, which is
/// then opened so often.
pub(crate) fn gpus(count: usize, precision: Precision) -> Vec<Gpu> {
    load();
    let images = Gpu::stems().map(|stem| (stem, PLACEHOLDER));
    let open = |ordinal| {
        let ordinal = if real() { 0 } else { ordinal };
        if compiler().is_some() { Gpu::open(ordinal, precision) } else { Gpu::open_with(ordinal, precision, &images) }
    };
    (0..count).map(|ordinal| open(ordinal).unwrap()).collect()
}

pub(crate) fn real() -> bool {
    env::var("WHEREFORE_TEST_DEVICE").is_ok_and(|device| device == "real")
}

/// Makes the emulated library the process's `libcuda.so`.
#[allow(unsafe_code)]
fn load() {
    static LOADED: OnceLock<Option<libloading::os::unix::Library>> = OnceLock::new();
    LOADED.get_or_init(|| {
        let flags = libloading::os::unix::RTLD_NOW | libloading::os::unix::RTLD_GLOBAL;
        // SAFETY: our own library; its constructors fill a table.
        (!real()).then(|| unsafe { libloading::os::unix::Library::open(Some(library()), flags) }.unwrap())
    });
}

/// The emulated library, built if it is not there yet.
pub(crate) fn library() -> PathBuf {
    let units = units();
    let fingerprints: Vec<String> = units.iter().map(|unit| fingerprint(unit)).collect();
    let whole = blake3::hash(fingerprints.concat().as_bytes()).to_hex();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("emulator").join(&whole[..16]);
    let library = folder.join("libcuda.so");
    fs::create_dir_all(&folder).unwrap();
    let lock = File::create(folder.join("lock")).unwrap(); // each test may be a process of its own
    lock.lock().unwrap();
    if !library.is_file() {
        let objects = folder.parent().unwrap().join("objects");
        fs::create_dir_all(&objects).unwrap();
        let object = |print: &String| objects.join(print).with_extension("o");
        build(&units, &fingerprints.iter().map(object).collect::<Vec<_>>(), &library);
    }
    library
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where the kernels are: `WHEREFORE_TEST_KERNELS` names others than the product's, which must then be told from them
/// by the tests.
fn kernels() -> PathBuf {
    env::var_os("WHEREFORE_TEST_KERNELS").map_or_else(|| root().join("kernels"), PathBuf::from)
}

/// What the library is compiled from, headers aside.
fn units() -> Vec<PathBuf> {
    let files = [kernels(), root().join("tests/emulator")].map(|folder| fs::read_dir(folder).unwrap());
    let mut files: Vec<PathBuf> = files.into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "cu" || e == "cpp"));
    files.sort();
    files
}

/// Of all that an object is made from: what its source includes, and the compiler's flags.
fn fingerprint(unit: &Path) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(format!("{:?}", compile(Path::new("x"), Path::new("y"))).as_bytes());
    let mut seen = Vec::new();
    digest(unit, &mut seen, &mut hasher);
    hasher.finalize().to_hex()[..16].to_owned()
}

/// A file, and the files of ours that it includes, each once.
fn digest(path: &Path, seen: &mut Vec<PathBuf>, hasher: &mut blake3::Hasher) {
    if seen.iter().any(|other| other == path) {
        return;
    }
    seen.push(path.to_owned());
    let text = fs::read_to_string(path).unwrap();
    hasher.update(text.as_bytes());
    let names = text.lines().filter_map(|line| line.strip_prefix("#include \"")?.strip_suffix('"'));
    for name in names {
        let beside = path.with_file_name(name);
        digest(&if beside.is_file() { beside } else { root().join("tests/emulator").join(name) }, seen, hasher);
    }
}

/// The compiler, its flags, one source and its object.
fn compile(source: &Path, object: &Path) -> Command {
    let mut command = Command::new(env::var_os("CXX").unwrap_or_else(|| "c++".into()));
    // No contraction: only what is written as fused is fused, as nvcc is told.
    command.args(["-std=gnu++20", "-O2", "-g1", "-march=native", "-ffp-contract=off", "-fPIC", "-pthread"]);
    command.args(["-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Werror"]);
    if cfg!(target_arch = "x86_64") {
        command.arg("-mtls-dialect=gnu2"); // the library is loaded late, and may not ask for static thread storage
    }
    if let Ok(sanitizer) = env::var("WHEREFORE_SANITIZE") {
        command.arg(format!("-fsanitize={sanitizer}"));
    }
    command.arg("-I").arg(root().join("tests/emulator")).args(["-x", "c++", "-c"]).arg(source).arg("-o").arg(object);
    command
}

/// Compiles what is not compiled yet, as many sources at a time as there are cores, and links all.
fn build(units: &[PathBuf], objects: &[PathBuf], library: &Path) {
    let queue = std::sync::Mutex::new(units.iter().zip(objects).filter(|(_, object)| !object.is_file()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, std::num::NonZero::get) {
            scope.spawn(|| {
                while let Some((unit, object)) = { queue.lock().unwrap().next() } {
                    let unfinished = object.with_extension(format!("{}.o", std::process::id()));
                    succeed(&mut compile(unit, &unfinished));
                    fs::rename(unfinished, object).unwrap();
                }
            });
        }
    });
    let unfinished = library.with_extension("unfinished");
    let mut link = compile(Path::new(""), Path::new(""));
    link = Command::new(link.get_program());
    link.args(["-shared", "-pthread", "-Wl,-soname,libcuda.so", "-o"]).arg(&unfinished);
    if let Ok(sanitizer) = env::var("WHEREFORE_SANITIZE") {
        link.arg(format!("-fsanitize={sanitizer}"));
    }
    succeed(link.args(objects));
    fs::rename(unfinished, library).unwrap();
}

fn succeed(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
}
