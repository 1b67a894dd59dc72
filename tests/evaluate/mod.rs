//! Tests of `wherefore::evaluate`.

mod command;
mod faithfulness;
mod lds;
mod leave_out;
mod linear;
mod removal;
mod resume;
mod stability;
mod words;
