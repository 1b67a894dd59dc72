//! All integration tests, one binary: a new test goes into the module named after what it tests.

mod cli;
mod dataset;
mod factors;
mod kernels;
mod models;
mod search;
mod store;
mod tokens;
