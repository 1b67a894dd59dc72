//! Which training examples, and which words, made this model say this, and what is wrong with my data?
//!
//! # One idea: keep the factors, not the gradient
//!
//! For a model whose last layer is linear, `z = W h + b` (width E, K classes), the gradient of one record's loss with
//! respect to that layer is an outer product, `δ [h; 1]ᵀ` with `δ = ∂loss/∂z`. One forward pass per record therefore gives two
//! short vectors, `h` and `δ`, and every example-level method is a scoring rule over them (see [`search::Rule`]).
//!
//! # The way data flows
//!
//! ```text
//! dataset ─► tokens ─► packed batches ─► model (forward | backward) ─┬─► factors ─► store ─► search ─┬─► report
//!                                                                    └─► explain ──────────────────┘
//! ```
//!
//! [`explain`] goes back through the model to the embeddings, or forth through it without some tokens, and scores each token and word.
//! A module uses those to its left and [`backend`] (the device) below it, never those to its right.

pub mod audit;
pub mod backend;
pub mod dataset;
pub mod error;
pub mod evaluate;
pub mod explain;
pub mod factors;
pub mod improve;
pub mod interrupt;
pub mod lexical;
pub mod model;
pub mod pipeline;
pub mod random;
pub mod report;
pub mod search;
pub mod store;
pub mod task;
pub mod tokens;
pub mod train;

pub use error::{Error, Result};
