//! Tests of `wherefore::store`.
