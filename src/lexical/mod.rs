//! Which records share the query's words: BM25 over a store's texts, a baseline that reads no factor and often wins.
//!
//! **What this module refuses to do**: know a model, or keep an index. A search counts the words of all texts once,
//! then reads them once more for each batch of queries, so memory holds the vocabulary, never the texts.

mod bm25;

pub(crate) use bm25::words;
pub use bm25::{B, Bm25, Bm25Queries, K1};
