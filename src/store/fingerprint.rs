//! Fingerprints of the data: what tells a resume that the data file is still the one it began with.

use crate::dataset::{Label, Record};

/// The fingerprint of some consecutive records of the input: a hash of their numbers, ids, texts and labels as read.
///
/// It does not depend on the file's format or compression, only on what was read from it.
pub fn data_fingerprint<'a>(records: impl IntoIterator<Item = &'a Record>) -> String {
    let mut hasher = blake3::Hasher::new();
    for record in records {
        hasher.update(&record.index.to_le_bytes());
        update_text(&mut hasher, &record.id);
        update_text(&mut hasher, &record.text);
        update_option(&mut hasher, record.pair.as_deref(), update_text);
        update_option(&mut hasher, record.label.as_ref(), update_label);
    }
    hasher.finalize().to_hex().to_string()
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

fn update_option<T>(hasher: &mut blake3::Hasher, value: Option<T>, update: impl Fn(&mut blake3::Hasher, T)) {
    hasher.update(&[u8::from(value.is_some())]);
    if let Some(value) = value {
        update(hasher, value);
    }
}

fn update_label(hasher: &mut blake3::Hasher, label: &Label) {
    match label {
        Label::Integer(integer) => {
            hasher.update(b"i").update(&integer.to_le_bytes());
        }
        Label::Number(number) => {
            hasher.update(b"n").update(&number.to_bits().to_le_bytes());
        }
        Label::Name(name) => {
            hasher.update(b"s");
            update_text(hasher, name);
        }
        Label::Many(labels) => {
            hasher.update(b"m").update(&(labels.len() as u64).to_le_bytes());
            for label in labels {
                update_label(hasher, label);
            }
        }
    }
}
