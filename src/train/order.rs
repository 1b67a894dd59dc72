//! The order of an epoch: a permutation drawn from the seed and the epoch's number alone.

use crate::random::{Purpose, Stream};

/// `0..n` shuffled (Fisher and Yates, as Durstenfeld 1964 has it), each draw of 32 bits.
pub(super) fn shuffled(n: usize, seed: u64, epoch: u32) -> Vec<usize> {
    let stream = Stream::new(seed, Purpose::EpochOrder);
    let mut order: Vec<usize> = (0..n).collect();
    for last in (1..n).rev() {
        let other = stream.below(last as u32 + 1, last as u32, epoch) as usize;
        order.swap(last, other);
    }
    order
}
