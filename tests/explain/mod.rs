//! Tests of `wherefore::explain`.

mod golden;
mod gpu;
mod kernel_shap;
mod laws;
mod lime;
mod masks;
mod norm_lime;
mod perturbed;
mod regression;
mod words;
