//! Tests of `wherefore::dataset`.
