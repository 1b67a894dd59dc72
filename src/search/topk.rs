//! The k best at both ends of a ranking, kept while scores stream past.

use std::cmp::Ordering;
use std::ops::Range;

use super::certificate::Certificate;
use crate::backend::cpu::simd::{Isa, Kernel, Vector};

/// A training record and its score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    /// Its row in the source, over all shards.
    pub row: u64,
    /// Its number in the whole input.
    pub index: u64,
    /// Greater is more supportive.
    pub score: f32,
}

/// Both ends of a query's ranking, each of min(k, N) records whatever the sign of their scores: for k > N/2 they
/// overlap.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hits {
    /// Scores falling from the highest, ties by ascending index.
    pub proponents: Vec<Hit>,
    /// Scores rising from the lowest, ties by ascending index.
    pub opponents: Vec<Hit>,
    /// How they were found, where that was by bounds on scores.
    pub certificate: Option<Certificate>,
}

/// One end of a ranking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The highest score first.
    Proponents,
    /// The lowest score first.
    Opponents,
}

impl End {
    /// The order of this end: total, as scores are never NaN (see [`super::score`]); the row decides between equal
    /// indices.
    pub fn order(self, a: &Hit, b: &Hit) -> Ordering {
        let by_score = a.score.partial_cmp(&b.score).unwrap_or(Ordering::Equal);
        let by_score = if self == Self::Proponents { by_score.reverse() } else { by_score };
        by_score.then(a.index.cmp(&b.index)).then(a.row.cmp(&b.row))
    }
}

/// The best k of one end: up to 2k are buffered, then cut back to k by selection, which costs O(1) a record however
/// large k is.
#[derive(Clone, Debug)]
struct Best {
    end: End,
    k: usize,
    buffer: Vec<Hit>,
    /// The last record of the best k at the latest cut: who does not come before it can't be among the best.
    worst: Option<Hit>,
}

impl Best {
    fn new(end: End, k: usize) -> Self {
        Self { end, k, buffer: Vec::new(), worst: None }
    }

    /// The score that a record must reach to be worth a closer look.
    fn threshold(&self) -> f32 {
        match (self.worst, self.end) {
            (Some(worst), _) => worst.score,
            (None, End::Proponents) => f32::NEG_INFINITY,
            (None, End::Opponents) => f32::INFINITY,
        }
    }

    fn offer(&mut self, hit: Hit) {
        if self.worst.is_some_and(|worst| self.end.order(&hit, &worst).is_ge()) {
            return;
        }
        self.buffer.push(hit);
        if self.buffer.len() >= 2 * self.k {
            self.cut();
        }
    }

    fn cut(&mut self) {
        if self.buffer.len() < self.k {
            return;
        }
        let end = self.end;
        let (_, worst, _) = self.buffer.select_nth_unstable_by(self.k - 1, |a, b| end.order(a, b));
        self.worst = Some(*worst);
        self.buffer.truncate(self.k);
    }

    fn merge(&mut self, other: Self) {
        for hit in other.buffer {
            self.offer(hit);
        }
    }

    fn into_sorted(mut self) -> Vec<Hit> {
        self.cut();
        let end = self.end;
        self.buffer.sort_unstable_by(|a, b| end.order(a, b));
        self.buffer
    }
}

/// The best k of both ends. What it keeps depends on the records it was offered, never on their order.
#[derive(Clone, Debug)]
pub struct TwoEnded {
    proponents: Best,
    opponents: Best,
}

impl TwoEnded {
    /// The most bytes that one collector of `k` records an end holds.
    pub fn bytes(k: usize) -> usize {
        2 * 2 * k * size_of::<Hit>()
    }

    /// A collector of `k` ≥ 1 records an end.
    pub fn new(k: usize) -> Self {
        assert!(k > 0, "a top-k of at least one record");
        Self { proponents: Best::new(End::Proponents, k), opponents: Best::new(End::Opponents, k) }
    }

    /// One record.
    pub fn offer(&mut self, hit: Hit) {
        self.proponents.offer(hit);
        self.opponents.offer(hit);
    }

    /// One record, at one end.
    pub(super) fn offer_at(&mut self, end: End, hit: Hit) {
        match end {
            End::Proponents => self.proponents.offer(hit),
            End::Opponents => self.opponents.offer(hit),
        }
    }

    /// The scores of consecutive records; `hit(i)` is asked about those alone that reach either end, and may say that
    /// one is none.
    pub fn offer_all(&mut self, scores: &[f32], hit: impl Fn(usize) -> Option<Hit>) {
        let mut seen = 0;
        while let Some(group) = self.next_reaching(&scores[seen..]) {
            let group = seen + group.start..seen + group.end;
            seen = group.end;
            for i in group {
                if let Some(hit) = self.reaches(scores[i]).then(|| hit(i)).flatten() {
                    self.offer(hit);
                }
            }
        }
    }

    /// Whether a record of this score might be kept.
    #[inline]
    pub(super) fn reaches(&self, score: f32) -> bool {
        score >= self.proponents.threshold() || score <= self.opponents.threshold()
    }

    /// The first few scores of which one might be kept.
    fn next_reaching(&self, scores: &[f32]) -> Option<Range<usize>> {
        Isa::best().run(Reaching { scores, high: self.proponents.threshold(), low: self.opponents.threshold() })
    }

    /// Takes in what another collector of the same k kept.
    pub fn merge(&mut self, other: Self) {
        self.proponents.merge(other.proponents);
        self.opponents.merge(other.opponents);
    }

    /// Both ends, in order.
    pub fn into_hits(self) -> Hits {
        let (proponents, opponents) = (self.proponents.into_sorted(), self.opponents.into_sorted());
        Hits { proponents, opponents, certificate: None }
    }
}

/// Looks for scores of `high` and above, or `low` and below.
struct Reaching<'a> {
    scores: &'a [f32],
    high: f32,
    low: f32,
}

impl Kernel for Reaching<'_> {
    type Output = Option<Range<usize>>;

    /// `|`, not `||`: no branch, so that the loop compiles to vector compares.
    #[allow(clippy::inline_always, clippy::needless_bitwise_bool)]
    #[inline(always)]
    fn run<V: Vector>(self) -> Self::Output {
        /// Scores looked at together: long enough to be compared as vectors, short enough that most are passed over
        /// whole.
        const GROUP: usize = 32;
        let Self { scores, high, low } = self;
        let reaches = |group: &[f32]| group.iter().fold(false, |any, &score| any | (score >= high) | (score <= low));
        let group = scores.chunks(GROUP).position(reaches)?;
        Some(group * GROUP..scores.len().min((group + 1) * GROUP))
    }
}
