//! The judge: every operation as plain loops in f64, to be read beside the formula, never to be fast.
