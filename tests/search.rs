//! Tests of `wherefore::search`.

mod accuracy;
mod certified;
mod data;
mod exact;
mod golden;
mod gpu;
mod invariance;
mod laws;
mod mutual;
mod reference;
mod refusals;
mod rounded;
mod several;
mod stores;
