//! Scoring rules over a store, and exact two-ended top-k search.
