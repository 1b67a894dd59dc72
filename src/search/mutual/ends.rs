//! Both ends of many rankings at once, in few bytes.

use crate::search::topk::{End, Hit};

/// A row, and how well it does at an end: its score, or at the end of opponents that turned around.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    worth: f32,
    row: u32,
}

/// Both ends of consecutive rows' rankings. What is kept depends on what was offered, never on its order.
#[derive(Debug)]
pub(super) struct Ends {
    /// The first of them, over all shards.
    pub(super) first: usize,
    proponents: Best,
    opponents: Best,
}

/// One end of them: of each the k best so far, as a heap with the worst of them at its head.
#[derive(Debug)]
struct Best {
    k: usize,
    /// `[rows, k]`
    heaps: Vec<Entry>,
    /// How many there are of each.
    counts: Vec<u32>,
    /// What a row must be worth to be worth a closer look, `[rows]`.
    limits: Vec<f32>,
}

impl Ends {
    /// The most rows that entries can name.
    pub(super) const MOST_ROWS: usize = u32::MAX as usize;

    /// What the ends of a row take.
    pub(super) const fn bytes(k: usize) -> usize {
        2 * (k * size_of::<Entry>() + size_of::<u32>() + size_of::<f32>())
    }

    /// No hits yet of `rows` rows from `first` on.
    pub(super) fn new(first: usize, rows: usize, k: usize) -> Self {
        Self { first, proponents: Best::new(rows, k), opponents: Best::new(rows, k) }
    }

    /// What a score must reach for the `at`th row's proponents, and what it turned around for its opponents.
    pub(super) fn limits(&self, at: usize) -> [f32; 2] {
        [self.proponents.limits[at], self.opponents.limits[at]]
    }

    /// The same of `rows` rows from the `at`th on.
    pub(super) fn limits_of(&self, at: usize, rows: usize) -> [&[f32]; 2] {
        [&self.proponents.limits[at..at + rows], &self.opponents.limits[at..at + rows]]
    }

    /// A score of the `at`th row with `row`; ties go by the rows' `indices`.
    pub(super) fn offer(&mut self, at: usize, row: usize, score: f32, indices: &[u64]) {
        let entry = |worth| Entry { worth, row: row as u32 };
        self.proponents.offer(at, entry(score), indices);
        self.opponents.offer(at, entry(-score), indices);
    }

    /// The `at`th row's proponents and opponents, in their order.
    pub(super) fn sorted(&self, at: usize, indices: &[u64]) -> [Vec<Hit>; 2] {
        let hits = |end: End, best: &Best| {
            let hit = |&Entry { worth, row }: &Entry| {
                // Of −0, which no score is, 0.
                let score = if end == End::Proponents { worth } else { 0.0 - worth };
                Hit { row: u64::from(row), index: indices[row as usize], score }
            };
            let mut hits: Vec<Hit> = best.of(at).iter().map(hit).collect();
            hits.sort_unstable_by(|a, b| end.order(a, b));
            hits
        };
        [hits(End::Proponents, &self.proponents), hits(End::Opponents, &self.opponents)]
    }
}

impl Best {
    fn new(rows: usize, k: usize) -> Self {
        let heaps = vec![Entry::default(); rows * k];
        Self { k, heaps, counts: vec![0; rows], limits: vec![f32::NEG_INFINITY; rows] }
    }

    fn of(&self, at: usize) -> &[Entry] {
        &self.heaps[at * self.k..][..self.counts[at] as usize]
    }

    fn offer(&mut self, at: usize, entry: Entry, indices: &[u64]) {
        if entry.worth < self.limits[at] {
            return;
        }
        let is_worse = |a: &Entry, b: &Entry| {
            let key = |entry: &Entry| (indices[entry.row as usize], entry.row);
            a.worth < b.worth || a.worth == b.worth && key(a) > key(b)
        };
        let heap = &mut self.heaps[at * self.k..][..self.k];
        let count = &mut self.counts[at];
        if (*count as usize) < self.k {
            rise(heap, *count as usize, entry, is_worse);
            *count += 1;
        } else if is_worse(&heap[0], &entry) {
            sink(heap, entry, is_worse);
        }
        if *count as usize == self.k {
            self.limits[at] = heap[0].worth;
        }
    }
}

/// Puts `entry` into place `at` of a heap that ends there.
fn rise(heap: &mut [Entry], mut at: usize, entry: Entry, is_worse: impl Fn(&Entry, &Entry) -> bool) {
    while at > 0 {
        let above = (at - 1) / 2;
        if !is_worse(&entry, &heap[above]) {
            break;
        }
        heap[at] = heap[above];
        at = above;
    }
    heap[at] = entry;
}

/// Puts `entry` in place of a heap's head.
fn sink(heap: &mut [Entry], entry: Entry, is_worse: impl Fn(&Entry, &Entry) -> bool) {
    let mut at = 0;
    loop {
        let mut below = 2 * at + 1;
        if below >= heap.len() {
            break;
        }
        if below + 1 < heap.len() && is_worse(&heap[below + 1], &heap[below]) {
            below += 1;
        }
        if !is_worse(&heap[below], &entry) {
            break;
        }
        heap[at] = heap[below];
        at = below;
    }
    heap[at] = entry;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::TwoEnded;

    #[test]
    fn the_ends_are_those_of_one_ranking_at_a_time_whatever_the_order() {
        // Scores that tie, and numbers that fall as rows rise.
        let score = |row: usize| ((row * 7919) % 13) as f32 - 6.0;
        let indices: Vec<u64> = (0..60).map(|row| 1000 - row).collect();
        for k in [1, 2, 5, 40, 70] {
            let mut expected = TwoEnded::new(k);
            (0..60).for_each(|row| expected.offer(Hit { row: row as u64, index: indices[row], score: score(row) }));
            let expected = expected.into_hits();
            for step in [1, 7, 59] {
                let mut ends = Ends::new(5, 3, k);
                (0..60).for_each(|i| ends.offer(1, i * step % 60, score(i * step % 60), &indices));
                let found = ends.sorted(1, &indices);
                assert_eq!(found, [expected.proponents.clone(), expected.opponents.clone()], "{k} in steps of {step}");
                assert!(ends.sorted(0, &indices).iter().all(Vec::is_empty));
            }
        }
    }
}
