//! Tests of `wherefore::search`.
