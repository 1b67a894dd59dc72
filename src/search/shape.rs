//! Whether queries, form and source belong together, decided before anything is scored.

use super::form::{Deltas, Form, RowNorm};
use super::query::{Query, Weight};
use super::scorer::Scorer;
use super::source::{FactorSet, Source};
use crate::error::{Error, Result};
use crate::factors::FactorRows;

/// The sizes of a source.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shape {
    /// Rows of the source, searched or not.
    pub(super) rows: usize,
    /// N: those that are searched.
    pub(super) selected: usize,
    /// E.
    pub(super) width: usize,
    /// K.
    pub(super) classes: usize,
    /// Rows of factors: as many, but where records have several.
    pub(super) factors: usize,
    /// Whether records have several factors.
    pub(super) several: bool,
    /// What a scan reads, were it all f32.
    pub(super) bytes: usize,
}

impl Shape {
    /// The sizes of `source`; refuses one that lacks what `form` reads, and queries that do not belong to both.
    pub(super) fn of<S: Source + ?Sized>(source: &S, form: &Form<'_>, queries: &[Query]) -> Result<Self> {
        let mut shape = Self::default();
        for shard in 0..source.shards() {
            shape.add_shard(source, form, shard)?;
        }
        shape.bytes += form.scorer.map_or(0, Scorer::bytes);
        shape.selected = shape.rows;
        if let Some(selection) = source.selection() {
            expect("rows selected from", shape.rows, selection.rows())?;
            shape.selected = selection.count();
        }
        if let Deltas::Given(given) = form.deltas {
            expect("numbers in place of δ", shape.factors * shape.classes, given.len())?;
        }
        if let RowNorm::Given(norms) = form.norm {
            expect("norms of records", shape.rows, norms.len())?;
        }
        for (number, query) in queries.iter().enumerate() {
            shape.check_query(form, query, &format!("of query {number}"))?;
        }
        Ok(shape)
    }

    /// The length of both ends: no longer than there are records.
    pub(super) fn top_k(&self, k: usize) -> Result<usize> {
        if k == 0 {
            return Err(Error::usage("a top-k of 0").with_hint("ask for at least one record"));
        }
        Ok(k.min(self.selected.max(1)))
    }

    fn add_shard<S: Source + ?Sized>(&mut self, source: &S, form: &Form<'_>, shard: usize) -> Result<()> {
        let rows = source.rows(shard);
        let mut own = rows;
        for &set in &form.sets {
            let factors = source
                .factors(shard, set)
                .ok_or_else(|| Error::Mismatch(format!("shard {shard}: no factors of {}", name(set)), None))?;
            if self.width == 0 {
                (self.width, self.classes) = (factors.width, factors.classes);
            }
            if let Some(offsets) = source.factor_offsets(shard, set) {
                expect(&format!("factor offsets of shard {shard}"), rows + 1, offsets.len())?;
                own = offsets.last().map_or(0, |&end| end as usize);
                self.several = true;
            }
            self.several |= set == FactorSet::Mean;
            if let (Deltas::Scaled, None) = (form.deltas, source.gradient_norms(shard)) {
                return Err(Error::Mismatch(format!("shard {shard}: no norms of gradients of several factors"), None));
            }
            self.check_factors(&factors, own, form.deltas, &format!("of {} in shard {shard}", name(set)))?;
        }
        self.factors += own;
        self.bytes += form.sets.len() * own * (self.width + self.classes) * size_of::<f32>();
        self.rows += rows;
        Ok(())
    }

    fn check_factors(&self, factors: &FactorRows<'_>, rows: usize, deltas: Deltas<'_>, place: &str) -> Result<()> {
        expect(&format!("records {place}"), rows, factors.rows)?;
        expect(&format!("width {place}"), self.width, factors.width)?;
        expect(&format!("classes {place}"), self.classes, factors.classes)?;
        expect(&format!("features {place}"), rows * self.width, factors.features.len())?;
        expect(&format!("feature norms {place}"), rows, factors.feature_norms.len())?;
        match deltas {
            Deltas::Unread | Deltas::Given(_) => Ok(()),
            Deltas::Stored | Deltas::Unit | Deltas::Scaled => {
                expect(&format!("deltas {place}"), rows * self.classes, factors.deltas.len())
            }
        }
    }

    fn check_query(&self, form: &Form<'_>, query: &Query, place: &str) -> Result<()> {
        expect(&format!("terms {place}"), form.passes.len(), query.terms.len())?;
        // A source of no records may not know its widths.
        for term in query.terms.iter().filter(|_| self.rows > 0) {
            expect(&format!("features {place}"), self.width, term.features.len())?;
            self.check_weight(form, &term.weight, place)?;
        }
        Ok(())
    }

    fn check_weight(&self, form: &Form<'_>, weight: &Weight, place: &str) -> Result<()> {
        match weight {
            Weight::One if form.deltas == Deltas::Unread => Ok(()),
            Weight::Delta(_) | Weight::Class(_) if form.deltas == Deltas::Unread => Err(of_another_rule(place)),
            Weight::One => Err(of_another_rule(place)),
            Weight::Delta(delta) => expect(&format!("classes {place}"), self.classes, delta.len()),
            Weight::Class(class) if *class < self.classes => Ok(()),
            Weight::Class(class) => {
                Err(Error::usage(format!("class {place}: expected one below {}, found {class}", self.classes)))
            }
        }
    }
}

fn name(set: FactorSet) -> String {
    match set {
        FactorSet::Final => "the model".into(),
        FactorSet::Checkpoint(c) => format!("checkpoint {c}"),
        FactorSet::Mean => "records as a whole".into(),
    }
}

fn of_another_rule(place: &str) -> Error {
    Error::usage(format!("factors {place}: made for another rule"))
}

pub(super) fn expect(what: &str, expected: usize, found: usize) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Error::Mismatch(format!("{what}: expected {expected}, found {found}"), None))
}
