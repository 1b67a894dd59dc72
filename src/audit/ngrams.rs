//! Texts as bags of n-grams: what a linear model reads, without a transformer and so without its memory of the labels.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};

use rayon::prelude::*;

use crate::explain::Segmentation;

/// Consecutive tokens in a feature: 1 up to this.
const LONGEST: usize = 3;
/// Tokens of a text that are read.
const MOST_TOKENS: usize = 512;
/// Records hashed in parallel at a time.
const CHUNK: usize = 4096;

/// The n-grams of many texts, each hashed to a bucket, weighted by how rare the bucket is (`1 + ln((1 + N)/(1 + df))`),
/// rows of unit length.
pub(super) struct Bags {
    /// The buckets of all records, one record after another.
    buckets: Vec<u32>,
    /// Where each record's begin, and the last end, `[N + 1]`.
    starts: Vec<usize>,
    /// By bucket.
    weights: Vec<f32>,
    /// By record: 1 over the length of its weights.
    scales: Vec<f32>,
}

impl Bags {
    /// Reads the texts of `rows` records, `text` giving each, into `2^bits` buckets.
    pub(super) fn read<E: Send>(
        rows: usize,
        bits: u32,
        text: impl Fn(usize) -> Result<(String, Option<String>), E> + Sync,
    ) -> Result<Self, E> {
        Self::several(rows, bits, |row| text(row).map(|(text, pair)| vec![bag(&text, pair.as_deref(), bits)]))
    }

    /// Of several bags a record, one record's after another's: `of` gives the buckets of each.
    pub(super) fn several<E: Send>(
        records: usize,
        bits: u32,
        of: impl Fn(usize) -> Result<Vec<Vec<u32>>, E> + Sync,
    ) -> Result<Self, E> {
        let (mut buckets, mut starts) = (Vec::new(), vec![0]);
        for start in (0..records).step_by(CHUNK) {
            let chunk = start..(start + CHUNK).min(records);
            let bags: Result<Vec<Vec<Vec<u32>>>, E> = chunk.into_par_iter().map(&of).collect();
            for bag in bags?.into_iter().flatten() {
                buckets.extend_from_slice(&bag);
                starts.push(buckets.len());
            }
        }
        let rows = starts.len() - 1;
        let mut frequencies = vec![0_u32; 1 << bits];
        for &bucket in &buckets {
            frequencies[bucket as usize] += 1;
        }
        let rarity = |&df: &u32| 1.0 + ((1.0 + rows as f32) / (1.0 + df as f32)).ln();
        let weights: Vec<f32> = frequencies.iter().map(rarity).collect();
        let scale = |range: &[usize]| {
            let squares: f32 = buckets[range[0]..range[1]].iter().map(|&b| weights[b as usize].powi(2)).sum();
            if squares > 0.0 { squares.sqrt().recip() } else { 0.0 }
        };
        let scales = starts.windows(2).map(scale).collect();
        Ok(Self { buckets, starts, weights, scales })
    }

    /// N.
    pub(super) fn rows(&self) -> usize {
        self.scales.len()
    }

    /// How many buckets there are.
    pub(super) fn width(&self) -> usize {
        self.weights.len()
    }

    /// The features of a record that are not zero: bucket and value.
    pub(super) fn row(&self, row: usize) -> impl Iterator<Item = (usize, f32)> + Clone {
        let scale = self.scales[row];
        let buckets = &self.buckets[self.starts[row]..self.starts[row + 1]];
        buckets.iter().map(move |&bucket| (bucket as usize, self.weights[bucket as usize] * scale))
    }
}

/// The distinct buckets of a text and its pair, ascending. Segments don't share features: what a question says is not
/// what its answer says.
fn bag(text: &str, pair: Option<&str>, bits: u32) -> Vec<u32> {
    let mut buckets = HashSet::<u32, BuildHasherDefault<Bucket>>::default();
    for (segment, text) in [(0, Some(text)), (1, pair)] {
        let text = text.unwrap_or_default().to_lowercase();
        let tokens: Vec<u64> = Segmentation::Characters
            .split(&text)
            .iter()
            .take(MOST_TOKENS)
            .map(|token| hash(segment, token.as_bytes()))
            .collect();
        for n in 1..=LONGEST {
            buckets.extend(tokens.windows(n).map(|gram| bucket(gram, bits)));
        }
    }
    let mut buckets: Vec<u32> = buckets.into_iter().collect();
    buckets.sort_unstable();
    buckets
}

/// FNV-1a (Fowler, Noll & Vo), from a seed.
pub(super) fn hash(seed: u64, bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xCBF2_9CE4_8422_2325 ^ seed, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3))
}

/// The top bits of the tokens' hashes, mixed by multiplication.
pub(super) fn bucket(gram: &[u64], bits: u32) -> u32 {
    let mixed = gram
        .iter()
        .fold(gram.len() as u64, |mixed, &token| (mixed.rotate_left(29) ^ token).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    (mixed >> (64 - bits)) as u32
}

/// Buckets are hashes already.
#[derive(Default)]
struct Bucket(u64);

impl Hasher for Bucket {
    fn finish(&self) -> u64 {
        self.0.wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = hash(self.0, bytes);
    }

    fn write_u32(&mut self, bucket: u32) {
        self.0 = u64::from(bucket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grams_are_of_words_and_of_ideographs() {
        assert_eq!(bag("a b", None, 20).len(), 3); // a, b, a b
        assert_eq!(bag("很好看", None, 20).len(), 6);
        assert_eq!(bag("A b", None, 20), bag("a B", None, 20));
        assert_ne!(bag("a", Some("b"), 20), bag("b", Some("a"), 20));
        assert!(bag("", None, 20).is_empty());
    }

    #[test]
    fn rows_have_unit_length() {
        let texts = ["the cat sat", "the dog", ""];
        let bags = Bags::read(3, 12, |row| Ok::<_, ()>((texts[row].to_owned(), None))).unwrap();
        let length = |row: usize| bags.row(row).map(|(_, x)| x * x).sum::<f32>();
        assert!((length(0) - 1.0).abs() < 1e-6 && (length(1) - 1.0).abs() < 1e-6 && length(2) == 0.0);
        // What all texts share says least.
        let the = bag("the", None, 12)[0] as usize;
        assert!(bags.row(0).all(|(bucket, x)| bucket == the || x > bags.row(0).find(|r| r.0 == the).unwrap().1));
    }
}
