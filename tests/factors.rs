//! Tests of `wherefore::factors`.
