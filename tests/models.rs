//! Tests of `wherefore::model`: golden results of every family, damaged directories, invariances, labels, and where models are found.

mod cases;
mod config;
mod damage;
mod golden;
mod identity;
mod invariance;
mod labels;
mod lookup;
mod plain;
mod safetensors;
