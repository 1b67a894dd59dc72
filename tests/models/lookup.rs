//! Where a model is looked for, and what is said where it is not.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use wherefore::Error;
use wherefore::backend::Precision;
use wherefore::backend::gpu::Gpu;
use wherefore::model::{Device, find_with};

use super::cases;

/// An environment with one variable.
fn only<'a>(variable: &'a str, value: &'a Path) -> impl Fn(&str) -> Option<OsString> + 'a {
    move |name| (name == variable).then(|| value.as_os_str().to_owned())
}

/// `models--org--name` in the cache folder `hub`, with one snapshot.
fn cache(hub: &Path) -> std::path::PathBuf {
    let repository = hub.join("models--org--name");
    let snapshot = repository.join("snapshots/c0ffee");
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir_all(repository.join("refs")).unwrap();
    std::fs::write(repository.join("refs/main"), "c0ffee\n").unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::write(snapshot.join(name), "").unwrap();
    }
    snapshot
}

#[test]
fn a_directory_is_itself() {
    let dir = cases::path("bert-cls2");
    assert_eq!(find_with(dir.to_str().unwrap(), |_| None).unwrap(), dir);
}

#[test]
fn a_name_is_looked_up_in_the_cache_each_variable_names() {
    let folder = TempDir::new().unwrap();
    let places = [
        ("HF_HUB_CACHE", ""),
        ("HF_HOME", "hub"),
        ("XDG_CACHE_HOME", "huggingface/hub"),
        ("HOME", ".cache/huggingface/hub"),
    ];
    for (variable, hub) in places {
        let home = folder.path().join(variable);
        let snapshot = cache(&home.join(hub));
        assert_eq!(find_with("org/name", only(variable, &home)).unwrap(), snapshot, "{variable}");
    }
    // As files of settings write them.
    let [root, snapshot] =
        [folder.path().to_path_buf(), folder.path().join("HF_HUB_CACHE")].map(PathBuf::into_os_string);
    for written in ["~/HF_HUB_CACHE", "$ROOT/HF_HUB_CACHE", "${ROOT}/HF_HUB_CACHE"] {
        let variable = |name: &str| match name {
            "HOME" | "ROOT" => Some(root.clone()),
            "HF_HUB_CACHE" => Some(written.into()),
            _ => None,
        };
        assert!(find_with("org/name", variable).unwrap().starts_with(&snapshot), "{written}");
    }
    let error = find_with("org/name", only("HF_HUB_CACHE", Path::new("$NOWHERE/a~b"))).unwrap_err();
    assert!(error.to_string().contains("($NOWHERE/a~b)"), "{error}");
}

#[test]
fn a_name_that_is_not_there_gets_the_download_command() {
    let folder = TempDir::new().unwrap();
    let error = find_with("org/other", only("HF_HUB_CACHE", folder.path())).unwrap_err();
    assert!(error.to_string().starts_with("model org/other: no such directory, and not in the Hugging Face cache ("));
    assert_eq!(error.hint(), Some("download it first: hf download org/other"));
}

#[test]
fn a_download_that_is_not_whole_gets_the_command_too() {
    let folder = TempDir::new().unwrap();
    let snapshot = cache(folder.path());
    std::fs::remove_file(snapshot.join("model.safetensors")).unwrap();
    let error = find_with("org/name", only("HF_HUB_CACHE", folder.path())).unwrap_err();
    assert_eq!(error.to_string(), format!("model org/name: no model.safetensors in {}", snapshot.display()));
    assert_eq!(error.hint(), Some("download the rest of it: hf download org/name"));
}

#[test]
fn a_reference_that_leads_elsewhere_is_not_followed() {
    let folder = TempDir::new().unwrap();
    cache(folder.path());
    std::fs::write(folder.path().join("models--org--name/refs/main"), "../..").unwrap();
    assert!(find_with("org/name", only("HF_HUB_CACHE", folder.path())).is_err());
}

#[test]
fn paths_that_are_not_there_are_not_names() {
    for path in ["./nowhere", "/no/where", "a/b/c", "../up", ""] {
        let error = find_with(path, |_| None).unwrap_err();
        assert_eq!(error.to_string(), format!("model {path}: no such directory"));
    }
    let file = cases::path("bert-cls2/config.json");
    let error = find_with(file.to_str().unwrap(), |_| None).unwrap_err();
    assert!(error.to_string().ends_with("expected a directory, found a file"), "{error}");
}

#[test]
fn devices_by_name() {
    for (text, device) in [
        ("auto", Device::Auto),
        ("cpu", Device::Cpu),
        ("cuda", Device::Cuda(vec![0])),
        ("cuda:3", Device::Cuda(vec![3])),
    ] {
        assert_eq!(text.parse::<Device>().unwrap(), device);
    }
    for text in ["gpu", "cuda:", "cuda:x", ""] {
        assert!(text.parse::<Device>().is_err());
    }
}

#[test]
fn a_gpu_is_refused_by_a_binary_without_kernels() {
    let Err(Error::Device(message, hint)) = Gpu::open_with(0, Precision::F32, &[]) else {
        panic!("a GPU was opened without kernels")
    };
    assert_eq!(message, "this binary was built without GPU kernels");
    assert!(hint.is_some());
}
