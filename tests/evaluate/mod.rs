//! Tests of `wherefore::evaluate`.

mod command;
mod faithfulness;
mod lds;
mod words;
