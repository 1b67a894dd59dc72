//! Records from JSONL, CSV, TSV and Parquet files, plain or compressed, in the order of the files.

/// One record of the user's data.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    /// 0-based number in the whole input, over all files, records that were skipped included.
    pub index: u64,
    /// The user's id, or the index in decimal where there is none.
    pub id: String,
    /// The first segment.
    pub text: String,
    /// The second segment.
    pub pair: Option<String>,
    /// As written; the model's configuration gives it a meaning.
    pub label: Option<Label>,
}

/// A label as the data file has it.
#[derive(Clone, Debug, PartialEq)]
pub enum Label {
    /// A class id, or a regression value that happens to be whole.
    Integer(i64),
    /// A regression value.
    Number(f64),
    /// A class name, or a number in a column of strings.
    Name(String),
    /// Several classes (ids, names or a 0/1 row), for multi-label models.
    Many(Vec<Label>),
}
