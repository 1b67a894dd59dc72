//! The order of an epoch: a permutation drawn from the seed and the epoch's number alone.

use crate::random::{Purpose, Stream};

/// `0..n` shuffled, each draw of 32 bits.
pub(super) fn shuffled(n: usize, seed: u64, epoch: u32) -> Vec<usize> {
    let stream = Stream::new(seed, Purpose::EpochOrder);
    let mut order: Vec<usize> = (0..n).collect();
    stream.shuffle(&mut order, |last| (last as u32, epoch));
    order
}
