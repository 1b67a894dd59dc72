//! Texts as sets of shingles, and which sets are alike: MinHash (Broder 1997, "On the resemblance and containment of
//! documents"), banded (Leskovec, Rajaraman & Ullman, "Mining of massive datasets", §3.4), every candidate verified by
//! the sets themselves.

use std::borrow::Cow;
use std::ops::Range;

use rayon::prelude::*;
use tokenizers::NormalizedString;

use crate::backend::cpu::simd::{Isa, Kernel, LANES, Vector};
use crate::explain::Segmentation;

/// Tokens in a shingle; a shorter text is one shingle.
const TOKENS: usize = 3;
/// The share of pairs just at the threshold that share no band, at the most.
const MISSED: f64 = 1e-4;
/// Least shingles of a set that are looked for, at the most: bands times rows.
const LEAST: usize = 210;
/// Earlier texts of a bucket that a text is compared with.
const COMPARED: usize = 16;

/// The distinct shingles of a text, hashed, ascending. Case, white space, width (NFKC) and punctuation do not count,
/// but of a text that is nothing else.
pub(super) fn shingles(text: &str, pair: Option<&str>) -> Vec<u64> {
    let mut all = Vec::new();
    for (segment, text) in [Some(text), pair].into_iter().enumerate() {
        let Some(text) = text else { continue };
        let text = compatible(text).to_lowercase();
        let mut tokens = Segmentation::Characters.split(&text);
        if tokens.iter().any(|token| !is_punctuation(token)) {
            tokens.retain(|token| !is_punctuation(token));
        }
        let tokens: Vec<u64> = tokens.iter().map(|token| hash(token.as_bytes())).collect();
        let start = mix(segment as u64 + 1);
        let join = |tokens: &[u64]| tokens.iter().fold(start, |all, &token| mix(all.rotate_left(23) ^ token));
        match tokens.len() {
            0..=TOKENS => all.push(join(&tokens)),
            _ => all.extend(tokens.windows(TOKENS).map(join)),
        }
    }
    all.sort_unstable();
    all.dedup();
    all
}

/// In NFKC, where full-width forms are those of everyone else.
fn compatible(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        return Cow::Borrowed(text);
    }
    Cow::Owned(NormalizedString::from(text).nfkc().get().to_owned())
}

/// What stands between words, in NFKC; signs that say something, such as emoji, are none.
fn is_punctuation(token: &str) -> bool {
    let is = |c: char| {
        c.is_ascii_punctuation()
            || matches!(c, '¡' | '§' | '«' | '¶' | '·' | '»' | '¿' | '\u{2010}'..='\u{205E}' | '\u{3000}'..='\u{303F}')
    };
    token.chars().all(is)
}

/// `|a ∩ b| / |a ∪ b|` of ascending sets.
pub(super) fn jaccard(a: &[u64], b: &[u64]) -> f64 {
    let (mut i, mut j, mut shared) = (0, 0, 0);
    while i < a.len() && j < b.len() {
        shared += usize::from(a[i] == b[j]);
        let (x, y) = (a[i], b[j]);
        i += usize::from(x <= y);
        j += usize::from(y <= x);
    }
    let union = a.len() + b.len() - shared;
    if union == 0 { 1.0 } else { shared as f64 / union as f64 }
}

/// Sets that share a band's key are compared; they do with probability (their similarity)^rows.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Bands {
    count: usize,
    rows: usize,
}

impl Bands {
    /// As many rows, up to five, as leave pairs at the threshold to be found: at 0.8, 24 bands of 5, which pairs of
    /// similarity 0.5 share with probability 0.5.
    fn of(threshold: f64) -> Self {
        let needed = |rows: usize| {
            let count = (MISSED.ln() / (-threshold.powi(rows as i32)).ln_1p()).ceil();
            Self { count: (count as usize).clamp(1, LEAST), rows }
        };
        (2..=5).rev().map(needed).find(|bands| bands.count * bands.rows <= LEAST).unwrap_or_else(|| needed(1))
    }

    fn key(self, folded: &[[u64; LANES]], band: usize) -> u64 {
        Isa::best().run(Key { rows: band * self.rows..(band + 1) * self.rows, folded })
    }
}

/// A band's key of a set ([`fold_all`]). Whole numbers alone, in loops that compilers turn into vectors: the same by
/// any instructions.
struct Key<'a> {
    rows: Range<usize>,
    folded: &'a [[u64; LANES]],
}

impl Kernel for Key<'_> {
    type Output = u64;

    #[inline(always)]
    fn run<V: Vector>(self) -> u64 {
        let mut key: u64 = 0;
        for row in self.rows {
            let permutation = fold(mix(row as u64 + 1));
            let mut lanes = [u64::MAX; LANES];
            for shingles in self.folded {
                for (least, shingle) in lanes.iter_mut().zip(shingles) {
                    *least = (*least).min(mix_folded(shingle ^ permutation));
                }
            }
            let mut least = if self.folded.is_empty() { 0 } else { u64::MAX };
            for lane in lanes {
                least = least.min(lane);
            }
            key = mix(key.rotate_left(17) ^ least);
        }
        key
    }
}

/// The shingles of a set, folded ([`fold`]), as many as there are lanes side by side. One stands in every lane that is
/// left: no key knows how often a shingle is there.
fn fold_all(set: &[u64], folded: &mut Vec<[u64; LANES]>) {
    folded.clear();
    folded.extend(set.chunks(LANES).map(|shingles| {
        let mut lanes = [fold(shingles[0]); LANES];
        lanes.iter_mut().zip(shingles).for_each(|(lane, &shingle)| *lane = fold(shingle));
        lanes
    }));
}

/// The earlier set that a set is most like, and how much; by set.
pub(super) type MostSimilar = Vec<Option<(usize, f64)>>;

/// Of each set, the most similar earlier one among the first `originals` (the earliest of the most similar), where its
/// similarity is at least `threshold`: for each number of originals, by the same keys.
pub(super) fn most_similar_earlier<const N: usize>(
    sets: &[Vec<u64>],
    originals: [usize; N],
    threshold: f64,
) -> [MostSimilar; N] {
    let mut best = originals.map(|_| vec![None; sets.len()]);
    let bands = Bands::of(threshold);
    for band in 0..bands.count {
        let key = |folded: &mut Vec<[u64; LANES]>, (place, set): (usize, &Vec<u64>)| {
            fold_all(set, folded);
            (bands.key(folded, band), place)
        };
        let mut keyed: Vec<(u64, usize)> = sets.par_iter().enumerate().map_init(Vec::new, key).collect();
        keyed.par_sort_unstable();
        for (best, originals) in best.iter_mut().zip(originals) {
            take_better(best, &keyed, sets, originals, threshold);
        }
    }
    best
}

/// What a band finds that is more similar, or as similar and earlier.
fn take_better(best: &mut MostSimilar, keyed: &[(u64, usize)], sets: &[Vec<u64>], originals: usize, threshold: f64) {
    let buckets = keyed.par_chunk_by(|a, b| a.0 == b.0);
    let found: Vec<(usize, usize, f64)> =
        buckets.flat_map_iter(|bucket| compare(bucket, sets, originals, threshold)).collect();
    for (set, earlier, similarity) in found {
        let better = |(other, most): (usize, f64)| similarity > most || (similarity == most && earlier < other);
        if best[set].is_none_or(better) {
            best[set] = Some((earlier, similarity));
        }
    }
}

/// The pairs of a bucket that are alike: each with the bucket's first original and the latest few.
fn compare<'a>(
    bucket: &'a [(u64, usize)],
    sets: &'a [Vec<u64>],
    originals: usize,
    threshold: f64,
) -> impl Iterator<Item = (usize, usize, f64)> + 'a {
    // A bucket's sets stand in their order.
    let originals = bucket.partition_point(|(_, set)| *set < originals);
    (1..bucket.len()).flat_map(move |at| {
        let end = at.min(originals);
        let latest = end.saturating_sub(COMPARED).max(1)..end;
        (0..end.min(1)).chain(latest).filter_map(move |other| {
            let (set, earlier) = (bucket[at].1, bucket[other].1);
            let similarity = jaccard(&sets[set], &sets[earlier]);
            (similarity >= threshold).then_some((set, earlier, similarity))
        })
    })
}

/// FNV-1a, mixed.
fn hash(bytes: &[u8]) -> u64 {
    mix(bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3)))
}

/// A bijection of 64 bits whose every output bit depends on every input bit (SplitMix64's, Steele, Lea & Flood 2014).
#[inline(always)]
fn mix(x: u64) -> u64 {
    mix_folded(fold(x))
}

/// The first step of [`mix`]. It is linear: of x ^ y it is that of x and that of y.
#[inline(always)]
fn fold(x: u64) -> u64 {
    x ^ (x >> 30)
}

/// The steps after it.
#[inline(always)]
fn mix_folded(x: u64) -> u64 {
    let x = x.wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_and_spaces_do_not_count_and_segments_do() {
        assert_eq!(shingles("The cat  sat down", None), shingles("the CAT sat\ndown", None));
        assert_ne!(shingles("a b c", Some("d e f")), shingles("d e f", Some("a b c")));
        assert_eq!(jaccard(&shingles("很好看的电影", None), &shingles("很好看的电影", None)), 1.0);
    }

    #[test]
    fn punctuation_and_width_do_not_count_but_of_texts_that_are_nothing_else() {
        let alike = |a: &str, b: &str| shingles(a, None) == shingles(b, None);
        assert!(alike("The cat sat, and then: it sat down!", "the cat sat and then it sat down"));
        assert!(alike("房间很干净，服务也不错。“下次”还来……", "房间很干净,服务也不错,下次还来"));
        assert!(alike("Ｆｕｌｌ ｗｉｄｔｈ，１２３ words", "full width 123 words"));
        assert!(alike("！！！", "!!!"));
        assert!(!alike("!!!", "???") && !alike("great 😀", "great 😡") && !alike("...", ""));
    }

    #[test]
    fn similarity_is_the_share_of_shingles() {
        assert_eq!(jaccard(&[1, 2, 3, 4], &[2, 3, 4, 5]), 0.6);
        assert_eq!(jaccard(&[], &[]), 1.0);
        assert_eq!(jaccard(&[1], &[]), 0.0);
    }

    #[test]
    fn bands_are_of_the_threshold() {
        let bands = |threshold| (Bands::of(threshold).count, Bands::of(threshold).rows);
        assert_eq!([bands(1.0), bands(0.8), bands(0.7), bands(0.5)], [(1, 5), (24, 5), (34, 4), (69, 3)]);
        assert_eq!([bands(0.3), bands(0.1), bands(1e-9)], [(98, 2), (88, 1), (LEAST, 1)]);
        // Pairs of sets just at it, all of whose shingles but those are their own.
        for (shared, own) in [(100, 100), (150, 50), (300, 50)] {
            let threshold = f64::from(shared) / f64::from(shared + 2 * own);
            let set = |seed: u64| {
                let pair = (0..shared as u64).map(|i| (seed / 2 * 2, i));
                let mut set: Vec<u64> = pair
                    .chain((0..own as u64).map(|i| (seed + 1_000_000, i)))
                    .map(|(seed, i)| mix(mix(seed) ^ i))
                    .collect();
                set.sort_unstable();
                set
            };
            let sets: Vec<Vec<u64>> = (0..600).map(set).collect();
            let [found] = most_similar_earlier(&sets, [sets.len()], threshold);
            assert!(found.iter().enumerate().all(|(i, found)| found.is_some() == (i % 2 == 1)), "{threshold}");
        }
    }

    #[test]
    fn keys_are_their_definition_on_every_instruction_set() {
        let plain = |set: &[u64], rows: Range<usize>| {
            rows.fold(0, |key: u64, row| {
                let permutation = mix(row as u64 + 1);
                let least = set.iter().map(|&shingle| mix(shingle ^ permutation)).min().unwrap_or_default();
                mix(key.rotate_left(17) ^ least)
            })
        };
        let bands = Bands::of(0.7);
        let mut folded = Vec::new();
        for shingles in [0, 1, 2, 15, 16, 17, 31, 32, 33, 500] {
            let set: Vec<u64> = (0..shingles).map(|i| mix(1000 * shingles + i)).collect();
            fold_all(&set, &mut folded);
            for band in [0, 1, bands.count - 1] {
                let rows = band * bands.rows..(band + 1) * bands.rows;
                let expected = plain(&set, rows.clone());
                assert_eq!(bands.key(&folded, band), expected);
                for isa in Isa::all() {
                    let key = isa.run(Key { rows: rows.clone(), folded: &folded });
                    assert_eq!(key, expected, "{shingles} shingles, band {band}, {}", isa.name());
                }
            }
        }
    }

    #[test]
    fn several_numbers_of_originals_are_as_each_by_itself() {
        let set = |i: u64| (0..40).map(|j| mix(if j < 4 { 100 * i + j } else { 10_000 * (i % 7) + j })).collect();
        let mut sets: Vec<Vec<u64>> = (0..60).map(set).collect();
        for set in &mut sets {
            set.sort_unstable();
        }
        let together = most_similar_earlier(&sets, [0, 5, 20, 60], 0.7);
        for (together, originals) in together.iter().zip([0, 5, 20, 60]) {
            let [alone] = most_similar_earlier(&sets, [originals], 0.7);
            assert_eq!(*together, alone, "{originals} originals");
            assert!(alone.iter().flatten().all(|&(earlier, _)| earlier < originals));
        }
        assert!(together[2].iter().skip(7).all(Option::is_some));
    }

    #[test]
    fn near_duplicates_are_found_among_others() {
        let text =
            |i: usize| (0..60).map(|j| ((i * 7919 + j * j * 31) % 5003).to_string()).collect::<Vec<_>>().join(" w");
        let mut texts: Vec<String> = (0..500).map(text).collect();
        texts.push(texts[17].replacen('w', "x", 1)); // one word of sixty
        texts.push(texts[400].to_uppercase());
        let sets: Vec<Vec<u64>> = texts.iter().map(|text| shingles(text, None)).collect();
        let [found] = most_similar_earlier(&sets, [sets.len()], 0.8);
        assert!(found[..500].iter().all(Option::is_none));
        assert_eq!(found[500].map(|(earlier, _)| earlier), Some(17));
        assert_eq!(found[501], Some((400, 1.0)));
    }
}
