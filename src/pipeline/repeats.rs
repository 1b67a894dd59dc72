//! Inputs that come again within a chunk, to be computed once. A record's numbers don't depend on its company, so a
//! copy's are the same bits.

use std::collections::HashMap;

use crate::tokens::Encoding;

/// The inputs of one chunk so far. They are told apart by a hash of 256 bits, so that the tokens themselves need not be
/// kept.
#[derive(Default)]
pub(super) struct Repeats {
    /// The first row of the chunk with each input.
    first: HashMap<blake3::Hash, usize>,
}

impl Repeats {
    /// The first row with the input of each of `encodings`, which are those of the rows from `start` on; its own row
    /// where it is new.
    pub(super) fn first_rows(&mut self, start: usize, encodings: &[Encoding]) -> Vec<usize> {
        (start..).zip(encodings).map(|(row, encoding)| *self.first.entry(input(encoding)).or_insert(row)).collect()
    }
}

/// All that the model sees.
fn input(encoding: &Encoding) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(encoding.ids.len() as u64).to_le_bytes());
    hasher.update(bytemuck::cast_slice(&encoding.ids));
    hasher.update(bytemuck::cast_slice(&encoding.type_ids));
    hasher.finalize()
}

/// Appends each row's `width` numbers to `all [rows so far, width]`: the next of the `new` ones, or those of an earlier
/// row.
pub(super) fn append(all: &mut Vec<f32>, new: &[f32], width: usize, start: usize, first_rows: &[usize]) {
    let mut new = new.chunks_exact(width.max(1));
    for (row, &first) in (start..).zip(first_rows) {
        match (first == row).then(|| new.next()).flatten() {
            Some(own) => all.extend_from_slice(own),
            None => all.extend_from_within(first * width..(first + 1) * width),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::append;

    #[test]
    fn rows_are_put_in_place_with_what_they_repeat() {
        let mut all = vec![1.0, 2.0, 3.0, 4.0];
        append(&mut all, &[5.0, 6.0, 7.0, 8.0], 2, 2, &[0, 3, 3, 5]);
        assert_eq!(all, [1.0, 2.0, 3.0, 4.0, 1.0, 2.0, 5.0, 6.0, 5.0, 6.0, 7.0, 8.0]);
        let mut none = Vec::new();
        append(&mut none, &[], 0, 0, &[0, 0]);
        assert!(none.is_empty());
    }
}
