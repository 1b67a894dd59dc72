//! Tests of `wherefore::model`: golden results of every family on every device, damaged directories, invariances,
//! labels, and where models are found.

mod cases;
mod config;
mod damage;
mod golden;
pub(crate) mod gpu;
mod identity;
mod invariance;
mod labels;
mod lookup;
mod safetensors;

pub(crate) use safetensors::Parts;
