//! Tests of `wherefore::search`.

mod accuracy;
mod data;
mod exact;
mod golden;
mod invariance;
mod laws;
mod reference;
mod refusals;
mod stores;
