//! How a certified search came to its hits, and how many of them do not hang on rounded features.

/// What a certified search tells of one query besides its hits.
#[derive(Clone, Debug, PartialEq)]
pub struct Certificate {
    /// Records that bounds did not rule out: their scores, and no others, were computed from the features.
    pub candidates: u64,
    /// Where the store's features are rounded: what is certain of the proponents, and of the opponents.
    pub certain: Option<[Certainty; 2]>,
}

/// What can be said of one end by the features before they were rounded: the records that could score best by those,
/// the best first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Certainty(pub(super) Vec<Bounded>);

/// A record, and what its score can be; greater is nearer to the end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Bounded {
    pub(super) row: u64,
    pub(super) least: f32,
    pub(super) most: f32,
}

impl Certainty {
    /// Of the candidates of one end, those that decide about its first `k` records, and about one fewer where a record
    /// is left out.
    pub(super) fn new(mut candidates: Vec<Bounded>, k: usize) -> Self {
        candidates.sort_unstable_by(|a, b| b.most.total_cmp(&a.most).then(a.row.cmp(&b.row)));
        candidates.truncate(k + 1);
        Self(candidates)
    }

    /// How many records are sure to be among the `k` first by the features before they were rounded: at most k records,
    /// they themselves included, can reach the least they can score. `except` counts neither way; k and that together
    /// are no more than were searched for.
    pub fn count(&self, k: usize, except: Option<u64>) -> usize {
        let likely: Vec<&Bounded> = self.0.iter().filter(|bounded| Some(bounded.row) != except).collect();
        match likely.get(k) {
            Some(next) => likely[..k].iter().filter(|bounded| bounded.least > next.most).count(),
            None => likely.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Bounded, Certainty};

    fn certainty(k: usize) -> Certainty {
        let intervals = [(0.1, 0.2), (0.8, 0.9), (0.5, 0.7), (0.55, 0.6), (0.0, 0.15)];
        let bounded = |(row, (least, most)): (u64, (f32, f32))| Bounded { row, least, most };
        Certainty::new((0..).zip(intervals).map(bounded).collect(), k)
    }

    #[test]
    fn a_record_is_certain_where_too_few_can_come_before_it() {
        assert_eq!([1, 2, 3, 4, 5].map(|k| certainty(k).count(k, None)), [1, 1, 3, 3, 5]);
    }

    #[test]
    fn a_record_left_out_makes_room_for_one() {
        let certainty = certainty(3);
        assert_eq!(certainty.count(2, Some(1)), 2, "rows 2 and 3");
        assert_eq!(certainty.count(1, Some(1)), 0, "row 2 or row 3");
        assert_eq!(certainty.count(2, Some(9)), 1, "one that is not there");
    }
}
