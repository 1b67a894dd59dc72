//! Rounds: what is scanned before the best are kept. There is room for all records that are expected to reach an end,
//! in any order that does not favour them. The host looks whether there was: where not, nothing has been kept yet, and
//! half as many rows are scanned again. To look takes as long as many rows: where nothing but their numbers would be
//! learnt, the first rounds follow one another without, and where one did not fit, those are scanned again.

use std::ops::Range;
use std::rc::Rc;

use super::rows::{Sent, SentFactors};
use super::{OnDevice, Search};
use crate::error::Result;

/// See [`Search::most_rows`].
const BOUNDED_GROWTH: usize = 3;
/// What sums of factors on their way to their records' may take.
const SUMS_BYTES: usize = 256 << 20;

/// Some of a chunk's rows.
pub(super) struct Scanned {
    pub(super) rows: Rc<Sent>,
    pub(super) range: Range<usize>,
}

impl Scanned {
    /// The first so many rows, and the others.
    fn split_at(self, middle: usize) -> [Self; 2] {
        let Range { start, end } = self.range;
        let part = |range| Self { rows: Rc::clone(&self.rows), range };
        [part(start..start + middle), part(start + middle..end)]
    }
}

impl Search<'_> {
    /// Scores a chunk's rows. When this returns they may still be being scanned, with those before them where holding
    /// on to these takes less room than the chunk's features.
    pub(crate) fn scan(&mut self, rows: Sent) -> Result<()> {
        let held = self.unseen.iter().flatten().flatten().chain(&self.round).map(|scanned| scanned.rows.bytes()[1]);
        if held.sum::<usize>() >= rows.bytes()[0] {
            self.look()?;
        }
        self.device.await_sent(&rows.arrived)?;
        let (rows, mut start) = (Rc::new(rows), 0);
        while start < rows.rows {
            let room = self.most_rows().saturating_sub(self.rows_in_round());
            if room == 0 {
                self.end_round()?;
                continue;
            }
            let end = self.fitting(&rows, start..rows.rows.min(start + room));
            self.launch(Scanned { rows: Rc::clone(&rows), range: start..end })?;
            start = end;
        }
        Ok(())
    }

    /// Rows of a round: at first as many as there is room to keep, then some times as many as there were. Of m times as
    /// many, those that reach the limit of before are m times a Γ(k) variable, in any order that does not favour them:
    /// there is room for all but one such round of a million. What bounds let through is scored one by one, so that
    /// limits are kept closer.
    fn most_rows(&self) -> usize {
        let k = self.k as f64;
        let growth = ((self.capacity - self.k) as f64 / (k + 5.3 * k.sqrt() + 9.0)) as usize;
        let growth = if self.bounds() { growth.min(BOUNDED_GROWTH) } else { growth };
        (self.seen * growth).max(self.capacity)
    }

    /// Whether the round goes by bounds. Limits come first: without them every record is a candidate.
    fn bounds(&self) -> bool {
        self.bounding.is_some() && self.seen >= self.capacity
    }

    fn rows_in_round(&self) -> usize {
        rows_in(&self.round)
    }

    /// Adds rows to the round.
    fn launch(&mut self, scanned: Scanned) -> Result<()> {
        match &self.bounding {
            Some(bounding) if self.bounds() => self.launch_bounds(bounding, &scanned)?,
            _ => self.launch_scan(&scanned.rows, &scanned.range)?,
        }
        self.round.push(scanned);
        Ok(())
    }

    /// Keeps the best of the round.
    pub(super) fn end_round(&mut self) -> Result<()> {
        let Some(unseen) = &mut self.unseen else { return self.settle() };
        if !self.round.is_empty() {
            self.seen += rows_in(&self.round);
            unseen.push(std::mem::take(&mut self.round));
            self.launch_select()?;
        }
        Ok(())
    }

    /// Waits for all that was scanned, and sees that it has fitted.
    fn look(&mut self) -> Result<()> {
        self.end_round()?;
        if self.unseen.is_none() {
            return Ok(());
        }
        let (counts, overflowed) = self.counts()?;
        if let Some(round) = overflowed {
            return self.start_over(round);
        }
        (self.kept, self.unseen) = (counts, None);
        Ok(())
    }

    /// Scans all rounds again, the first that did not fit, counted from 1, in halves, and looks at those after it.
    pub(super) fn start_over(&mut self, overflowed: usize) -> Result<()> {
        let rounds = self.unseen.take().unwrap_or_default();
        self.on_device = OnDevice::new(self.device, &self.asked, self.capacity)?;
        self.seen = 0;
        for (number, round) in (1..).zip(rounds) {
            if number == overflowed {
                (self.kept, _) = self.counts()?;
                self.round = round;
                self.scan_halves()?;
                continue;
            }
            round.into_iter().try_for_each(|scanned| self.launch(scanned))?;
            if number < overflowed {
                self.launch_select()?;
                self.seen += rows_in(&std::mem::take(&mut self.round));
            } else {
                self.settle()?;
            }
        }
        Ok(())
    }

    /// Waits for the round, and keeps the best of it.
    fn settle(&mut self) -> Result<()> {
        if self.round.is_empty() {
            return Ok(());
        }
        let (counts, _) = self.counts()?;
        let fit = counts.iter().all(|&count| count as usize <= self.capacity);
        if !self.is_worth(&counts, fit) {
            self.restore()?;
            self.bounding = None;
            let round = std::mem::take(&mut self.round);
            round.into_iter().try_for_each(|scanned| self.launch(scanned))?;
            return self.settle();
        }
        if !fit {
            self.restore()?;
            return self.scan_halves();
        }
        if let Some(bounding) = self.bounding.as_ref().filter(|_| self.bounds()) {
            self.round.iter().try_for_each(|scanned| self.launch_rescore(bounding, scanned, &counts))?;
        } else {
            self.scored += self.round.iter().map(|scanned| scanned.rows.searched(&scanned.range)).sum::<usize>();
        }
        self.kept = counts.into_iter().map(|count| count.min(self.k as i32)).collect();
        self.launch_select()?;
        self.seen += self.rows_in_round();
        self.round.clear();
        Ok(())
    }

    /// Whether bounds, where these came of them, leave out enough.
    fn is_worth(&mut self, counts: &[i32], fit: bool) -> bool {
        let (bounds, rows) = (self.bounds(), self.rows_in_round());
        let Some(bounding) = self.bounding.as_mut().filter(|_| bounds) else { return true };
        let candidates = counts.iter().zip(&self.kept).map(|(count, kept)| (count - kept) as usize).sum();
        bounding.is_worth(candidates, self.asked.queries * rows, fit)
    }

    /// Two rounds in place of this one, each again two where it has to be: `capacity − k` rows always fit.
    fn scan_halves(&mut self) -> Result<()> {
        let mut middle = self.rows_in_round().div_ceil(2);
        let mut halves = [Vec::new(), Vec::new()];
        for scanned in std::mem::take(&mut self.round) {
            let here = middle.min(scanned.range.len());
            middle -= here;
            for (half, part) in halves.iter_mut().zip(scanned.split_at(here)) {
                if !part.range.is_empty() {
                    half.push(part);
                }
            }
        }
        for half in halves {
            half.into_iter().try_for_each(|scanned| self.launch(scanned))?;
            self.settle()?;
        }
        Ok(())
    }

    /// Where to end, so that there is room for the sums of these records' factors.
    fn fitting(&self, rows: &Sent, records: Range<usize>) -> usize {
        let Some(SentFactors { offsets, .. }) = &rows.factors else { return records.end };
        let most = i64::from(offsets[records.start]) + (SUMS_BYTES / 4 / self.asked.queries) as i64;
        let fitting = offsets[records.start + 1..=records.end].partition_point(|&end| i64::from(end) <= most);
        records.end.min(records.start + fitting.max(1))
    }
}

fn rows_in(round: &[Scanned]) -> usize {
    round.iter().map(|scanned| scanned.range.len()).sum()
}
