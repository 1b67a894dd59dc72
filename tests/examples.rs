//! The examples run: each is compiled here again, as a module.

#[path = "../examples/explain.rs"]
mod explain;
#[path = "../examples/index_search.rs"]
mod index_search;

#[test]
fn the_training_records_behind_a_mail() {
    index_search::main().unwrap();
}

#[test]
fn the_words_behind_a_mail() {
    explain::main().unwrap();
}
