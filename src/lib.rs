//! Which training examples, and which words, made this model say this, and what is wrong with my data?
//!
//! # One idea: keep the factors, not the gradient
//!
//! For a model whose last layer is linear, `z = W h + b` (width E, K classes), the gradient of one record's loss with
//! respect to that layer is an outer product, `δ [h; 1]ᵀ` with `δ = ∂loss/∂z`. One forward pass per record therefore
//! gives two short vectors, `h` and `δ`, and every example-level method is a scoring rule over them (see
//! [`search::Rule`]).
//!
//! # The way data flows
//!
//! ```text
//! dataset ─► tokens ─► packed batches ─► model (forward | backward) ─┬─► factors ─► store ─► search ─┬─► report
//!                                                                    └─► explain ──────────────────┘
//! ```
//!
//! [`explain`] goes back through the model to the embeddings, or forth through it without some tokens, and scores each
//! token and word. Each module uses those to its right alone (`factors` and `model` each other):
//!
//! ```text
//! cli → {evaluate, improve} → pipeline → report → audit → {lexical, train} → {explain, search} → store → {factors, model} →
//! backend → task → tokens → dataset → destination → {interrupt, lock, numeric, panics, random, sync} → error
//! ```
//!
//! Two programs to begin with: `examples/index_search.rs`, on [`pipeline::index`] and [`pipeline::SearchJob`], and
//! `examples/explain.rs`, on [`pipeline::explain()`].

pub mod audit;
pub mod backend;
pub mod dataset;
mod destination;
pub mod error;
pub mod evaluate;
pub mod explain;
pub mod factors;
pub mod improve;
pub mod interrupt;
pub mod lexical;
mod lock;
pub mod model;
mod numeric;
mod panics;
pub mod pipeline;
pub mod random;
pub mod report;
pub mod search;
pub mod store;
mod sync;
pub mod task;
pub mod tokens;
pub mod train;

pub use error::{Error, Result};
