//! Tests of `wherefore::model` against the goldens.
