//! Tests of `wherefore::tokens`.
