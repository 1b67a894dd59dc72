//! All integration tests, one binary: a new test goes into the module named after what it tests.

mod cli;
mod dataset;
mod emulator;
mod evaluate;
mod explain;
mod factors;
mod gradients;
mod heads;
mod kernels;
mod models;
mod report;
mod search;
mod store;
mod tokens;
mod train;
