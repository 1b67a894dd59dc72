//! All integration tests, one binary: a new test goes into the module named after what it tests.

mod cli;
mod dataset;
mod emulator;
mod evaluate;
mod examples;
mod explain;
mod factors;
mod gradients;
mod heads;
mod kernels;
mod layers;
mod models;
mod report;
mod search;
mod store;
mod tokens;
mod train;

/// Tells of what a test needs and this machine lacks; where `WHEREFORE_REQUIRE_FIXTURES` is set, the test fails.
#[allow(clippy::print_stderr)]
pub(crate) fn lacking(what: &str) {
    assert!(std::env::var_os("WHEREFORE_REQUIRE_FIXTURES").is_none(), "WHEREFORE_REQUIRE_FIXTURES is set: {what}");
    eprintln!("not tested: {what}");
}
