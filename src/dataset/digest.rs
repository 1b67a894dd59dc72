//! Fingerprints of records: what tells a later run that the data are still what they were.

use std::fmt;
use std::str::FromStr;

use super::{Label, Record};

/// Numbers that are hashed together.
const NUMBERS: usize = 1024;

/// The fingerprint of some consecutive records, taken one after the other: `d ← BLAKE3(d, record)` from zeros. Being a
/// chain, it can be gone on with from where an earlier run left it, with no record read again.
///
/// It depends on what was read alone, not on the file's format or compression. Its text is lower-case hexadecimal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Takes in the next record: its number, id, texts, label, words and kept columns, each with its kind and length
    /// before it, so that no two different records are the same bytes.
    pub fn push(&mut self, record: &Record) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0);
        hasher.update(&record.index.to_le_bytes());
        update_text(&mut hasher, &record.id);
        update_text(&mut hasher, &record.text);
        update_option(&mut hasher, record.pair.as_deref(), update_text);
        update_option(&mut hasher, record.label.as_ref(), update_label);
        for (start, end) in record.words.iter().flatten() {
            hasher.update(&(*start as u64).to_le_bytes()).update(&(*end as u64).to_le_bytes());
        }
        for (name, value) in &record.columns {
            update_text(&mut hasher, name);
            update_text(&mut hasher, value);
        }
        self.0 = *hasher.finalize().as_bytes();
    }

    /// Takes in numbers that belong to the latest record.
    pub fn push_numbers(&mut self, numbers: &[f32]) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0);
        hasher.update(&(numbers.len() as u64).to_le_bytes());
        // Many at a time: a call for each would cost more than its hashing.
        let mut bytes = [0; 4 * NUMBERS];
        for numbers in numbers.chunks(NUMBERS) {
            let bytes = &mut bytes[..4 * numbers.len()];
            bytes.chunks_exact_mut(4).zip(numbers).for_each(|(to, number)| to.copy_from_slice(&number.to_le_bytes()));
            hasher.update(bytes);
        }
        self.0 = *hasher.finalize().as_bytes();
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(blake3::Hash::from_bytes(self.0).to_hex().as_str())
    }
}

impl FromStr for Digest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let hash = blake3::Hash::from_hex(text).map_err(|error| format!("{text:?} is not a fingerprint: {error}"))?;
        Ok(Self(*hash.as_bytes()))
    }
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
        Label::Answers(answers) => {
            hasher.update(b"a").update(&(answers.len() as u64).to_le_bytes());
            for answer in answers {
                update_text(hasher, &answer.text);
                hasher.update(&answer.start.map_or(u64::MAX, |start| start as u64).to_le_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_hashed_as_if_one_by_one() {
        for count in [0, 1, 127, NUMBERS, NUMBERS + 1, 3 * NUMBERS - 1] {
            let numbers: Vec<f32> = (0..count).map(|i| i as f32 - 0.5).collect();
            let mut digest = Digest::default();
            digest.push_numbers(&numbers);
            let mut hasher = blake3::Hasher::new();
            hasher.update(&[0; 32]).update(&(count as u64).to_le_bytes());
            for number in numbers {
                hasher.update(&number.to_le_bytes());
            }
            assert_eq!(digest.0, *hasher.finalize().as_bytes(), "{count} numbers");
        }
    }
}
