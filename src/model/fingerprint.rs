//! What makes two models the same: every number the forward pass reads, and every setting that changes what it does
//! with them.
//!
//! A fingerprint does not depend on where the model lies, how its weights are split over files, what type they are
//! stored in (f16 and bf16 are exact in f32), what order they are in, or on tensors the forward pass never reads.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::Problem;
use super::config::Config;
use super::sentence::SentenceModel;
use crate::sync::lock;

/// Digests of tensors by name, gathered as they are read. A tensor read twice counts once.
#[derive(Debug, Default)]
pub(super) struct Fingerprint {
    tensors: Mutex<BTreeMap<String, blake3::Hash>>,
}

impl Fingerprint {
    pub(super) fn add(&self, name: &str, shape: &[usize], values: &[f32]) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(format!("{shape:?}").as_bytes());
        hasher.update_rayon(bytemuck::cast_slice(values));
        lock(&self.tensors).insert(name.to_owned(), hasher.finalize());
    }

    /// Hex, of everything read and of `settings`.
    pub(super) fn hex(&self, settings: &str) -> String {
        self.select(settings, |_| true)
    }

    /// Hex, of the tensors whose names begin with `prefix` alone.
    pub(super) fn hex_of(&self, prefix: &str) -> String {
        self.select("", |name| name.starts_with(prefix))
    }

    fn select(&self, settings: &str, keep: impl Fn(&str) -> bool) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(settings.as_bytes());
        for (name, digest) in lock(&self.tensors).iter().filter(|(name, _)| keep(name)) {
            hasher.update(&(name.len() as u64).to_le_bytes());
            hasher.update(name.as_bytes());
            hasher.update(digest.as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }
}

/// The settings that change a forward pass over the same tensors, whose shapes say the rest. A change of this text
/// changes every fingerprint.
pub(super) fn settings(config: &Config, problem: Problem, sentence: Option<SentenceModel>) -> String {
    let Config { family, heads, activation, epsilon, .. } = config;
    let (schedule, offset) = (config.schedule(), config.position_offset());
    format!(
        "{} heads {heads} schedule {schedule:?} offset {offset} activation {activation:?} epsilon {epsilon:e} {problem:?} {sentence:?}",
        family.model_type()
    )
}
