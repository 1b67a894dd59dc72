//! Whether ids are unique.

use std::collections::HashSet;
use std::ops::Range;

/// Remembers ids by 64 bits of their BLAKE3 hash: about 9 to 18 bytes of memory an id that a file gives; records that
/// are numbered because they have none cost nothing. Among a hundred million ids two different ones are taken for the
/// same with probability 0.0003.
#[derive(Debug, Default)]
pub struct IdCheck {
    given: HashSet<u64>,
    /// The records that have no id of their own, and so have their number for one.
    numbered: Vec<Range<u64>>,
}

impl IdCheck {
    /// No id seen yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes an id that the file gives; `false` where another record has it.
    pub fn insert(&mut self, id: &str) -> bool {
        let as_number = id.parse().ok().filter(|number: &u64| number.to_string() == id);
        !as_number.is_some_and(|number| self.is_numbered(number)) && self.given.insert(hash(id))
    }

    /// Notes a record that has its number for an id; `false` where another record was given that. Numbers must rise.
    pub fn insert_number(&mut self, index: u64) -> bool {
        match self.numbered.last_mut() {
            Some(last) if last.end == index => last.end += 1,
            _ => self.numbered.push(index..index + 1),
        }
        self.given.is_empty() || !self.given.contains(&hash(&index.to_string()))
    }

    /// Whether an id is the number of a record that has none of its own.
    pub(super) fn is_number(&self, id: &str) -> bool {
        id.parse().is_ok_and(|number| self.is_numbered(number))
    }

    fn is_numbered(&self, index: u64) -> bool {
        let after = self.numbered.partition_point(|range| range.end <= index);
        self.numbered.get(after).is_some_and(|range| range.contains(&index))
    }
}

fn hash(id: &str) -> u64 {
    let digest = blake3::hash(id.as_bytes());
    u64::from_le_bytes(std::array::from_fn(|i| digest.as_bytes()[i]))
}
