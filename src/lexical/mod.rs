//! Which records share the query's words: BM25 over a store's texts, a baseline that reads no factor and often wins.
//!
//! **What this module refuses to do**: know a model, or keep an index. A search counts the words of all texts once, and
//! remembers which are where as far as the memory that it may take goes; the other texts are read once more for each
//! block of queries. Memory holds the vocabulary besides, never the texts.

mod bm25;

pub(crate) use bm25::words;
pub use bm25::{B, Bm25, Bm25Queries, K1};
