//! Tests of `wherefore::train`, and of the models it trains.

mod bf16;
mod command;
mod course;
mod dynamics;
mod golden;
mod gradients;
mod learning;
mod operations;
mod rationale;
mod resume;
mod saving;
mod support;
mod token_command;
mod tokens;
