//! Who meets whom, and when: every two of some blocks once, in rounds in which no block is in two places.

use std::ops::Range;

/// Two blocks that meet, or one with itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Meeting {
    Alone(usize),
    Of(usize, usize),
}

/// All rounds of these bands of blocks: a band with itself, then with each band after it, so that no more than two are
/// read at a time.
pub(super) fn rounds(bands: &[Range<usize>]) -> impl Iterator<Item = Rounds> + '_ {
    bands.iter().enumerate().flat_map(move |(number, one)| {
        let within = Rounds { bands: [one.clone(), one.clone()], round: 0 };
        let others = bands[number + 1..].iter();
        std::iter::once(within).chain(others.map(|other| Rounds { bands: [one.clone(), other.clone()], round: 0 }))
    })
}

/// The rounds of two bands, or of one.
#[derive(Clone, Debug)]
pub(super) struct Rounds {
    pub(super) bands: [Range<usize>; 2],
    round: usize,
}

impl Rounds {
    /// Whether the two are one.
    fn is_one(&self) -> bool {
        self.bands[0] == self.bands[1]
    }
}

impl Iterator for Rounds {
    type Item = Vec<Meeting>;

    fn next(&mut self) -> Option<Vec<Meeting>> {
        let (round, is_one) = (self.round, self.is_one());
        self.round += 1;
        let [one, other] = &self.bands;
        match (is_one, round) {
            (true, 0) => Some(one.clone().map(Meeting::Alone).collect()),
            (true, _) => tournament(one, round - 1),
            (false, _) => across(one, other, round),
        }
    }
}

/// Round `round` of a round-robin tournament (the circle method: one stays, the others go around it), where there is
/// one.
fn tournament(of: &Range<usize>, round: usize) -> Option<Vec<Meeting>> {
    // Where there is an odd one out, it meets nobody.
    let around = of.len().next_multiple_of(2).max(2) - 1;
    let seat = |number: usize| of.start + number;
    let stays = (around < of.len()).then(|| Meeting::Of(seat(round), seat(around)));
    let facing = (1..=around / 2).map(|i| Meeting::Of(seat((round + i) % around), seat((round + around - i) % around)));
    (round < around && of.len() > 1).then(|| stays.into_iter().chain(facing).collect())
}

/// Round `round` of everyone of one band with everyone of another, where there is one.
fn across(one: &Range<usize>, other: &Range<usize>, round: usize) -> Option<Vec<Meeting>> {
    let (fewer, more) = if one.len() < other.len() { (one, other) } else { (other, one) };
    let meeting = |i: usize| Meeting::Of(fewer.start + i, more.start + (i + round) % more.len());
    (round < more.len()).then(|| (0..fewer.len()).map(meeting).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn everyone_meets_everyone_once_and_is_never_in_two_places() {
        for (blocks, band) in [(0, 1), (1, 1), (2, 2), (5, 5), (8, 8), (9, 4), (7, 3), (6, 1), (13, 6)] {
            let bands: Vec<_> = (0..blocks).step_by(band).map(|first| first..blocks.min(first + band)).collect();
            let mut met = Vec::new();
            for round in rounds(&bands).flatten() {
                let mut here = HashSet::new();
                for meeting in round {
                    let (one, other) = match meeting {
                        Meeting::Alone(one) => (one, one),
                        Meeting::Of(one, other) => (one.min(other), one.max(other)),
                    };
                    let is_free = here.insert(one) & (one == other || here.insert(other));
                    assert!(is_free, "{blocks} blocks: {one} or {other} is in two places");
                    met.push((one, other));
                }
            }
            met.sort_unstable();
            let all: Vec<_> = (0..blocks).flat_map(|one| (one..blocks).map(move |other| (one, other))).collect();
            assert_eq!(met, all, "{blocks} blocks in bands of {band}");
        }
    }
}
