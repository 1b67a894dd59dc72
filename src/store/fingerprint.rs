//! Fingerprints of the data: what tells a resume that the data file is still the one it began with.

use crate::dataset::{Digest, Record};

/// The fingerprint of some consecutive records of the input: see [`Digest`].
pub fn data_fingerprint<'a>(records: impl IntoIterator<Item = &'a Record>) -> String {
    let mut digest = Digest::default();
    records.into_iter().for_each(|record| digest.push(record));
    digest.to_string()
}

/// The fingerprint of the whole data, from those of its blocks in ascending order.
pub(super) fn combine<'a>(blocks: impl IntoIterator<Item = (u64, &'a str)>) -> String {
    let mut hasher = blake3::Hasher::new();
    for (number, fingerprint) in blocks {
        hasher.update(&number.to_le_bytes());
        update_text(&mut hasher, fingerprint);
    }
    hasher.finalize().to_hex().to_string()
}

/// The length goes first, so that no two lists of texts have the same bytes.
fn update_text(hasher: &mut blake3::Hasher, text: &str) {
    hasher.update(&(text.len() as u64).to_le_bytes());
    hasher.update(text.as_bytes());
}
